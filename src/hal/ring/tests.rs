//! A control side, a driver and a core on one thread.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::vec::Vec;

use zerocopy::FromZeros;

use super::*;
use crate::hal::loopback::FEATURES;
use crate::sys::epoll::Epoll;
use crate::sys::eventfd::EventFd;
use crate::sys::fd::Fd;
use crate::virtq::driver::{Buffer, Driver};
use crate::virtq::{Region, Rings};

const SIZE: u16 = 4;
const DATA: u64 = 0x3000;

/// Guest memory that says when the last handle of it is dropped.
struct Memory {
    map: MemoryMap,
    base: *mut u8,
    freed: Arc<AtomicBool>,
}

// SAFETY: only moved between threads as a whole, in `Drop` of a queue.
unsafe impl Send for Memory {}
// SAFETY: the pointer is only used by the test that made it.
unsafe impl Sync for Memory {}

#[derive(Clone)]
struct Handle(Arc<Memory>);

impl Deref for Handle {
    type Target = MemoryMap;

    fn deref(&self) -> &MemoryMap {
        &self.0.map
    }
}

const BYTES: usize = 16 * 1024;

fn layout() -> std::alloc::Layout {
    std::alloc::Layout::from_size_align(BYTES, 4096).unwrap()
}

impl Memory {
    fn zeroed() -> (Handle, Arc<AtomicBool>) {
        // SAFETY: the size is not zero.
        let base = unsafe { std::alloc::alloc_zeroed(layout()) };
        // SAFETY: freed with the map.
        let map = MemoryMap::new(&[unsafe { Region::new(0, base, BYTES as u64) }]).unwrap();
        let freed = Arc::new(AtomicBool::new(false));
        let memory = Self {
            map,
            base,
            freed: Arc::clone(&freed),
        };
        (Handle(Arc::new(memory)), freed)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.freed.store(true, Ordering::Relaxed);
        // SAFETY: allocated so, and this was the last handle.
        unsafe { std::alloc::dealloc(self.base, layout()) };
    }
}

impl Handle {
    fn rings(&self) -> Rings {
        let place = |address| self.contiguous(address, 4096, 4096).unwrap();
        // SAFETY: the tests keep the memory while the rings are used.
        unsafe { Rings::new(place(0), place(0x1000), place(0x2000), SIZE) }.unwrap()
    }
}

type TestQueue = RingQueue<Handle, Arc<Mailbox<Handle>>>;

struct Bed {
    queue: TestQueue,
    mailbox: Arc<Mailbox<Handle>>,
    kick: EventFd,
    call: EventFd,
}

fn copy(event: &EventFd) -> EventFd {
    // SAFETY: duplicating a descriptor makes a new one that is ours alone.
    let raw = unsafe { libc::dup(event.raw()) };
    assert!(raw >= 0);
    // SAFETY: as above.
    EventFd::from_fd(unsafe { Fd::from_raw(raw) })
}

fn readable(fd: i32) -> bool {
    let set = Epoll::new().unwrap();
    set.add(fd, 0).unwrap();
    set.wait(0, |_| {}).unwrap() > 0
}

impl Bed {
    fn new() -> Self {
        let mailbox = Arc::new(Mailbox::new().unwrap());
        Self {
            queue: RingQueue::controlled(Arc::clone(&mailbox), 0),
            mailbox,
            kick: EventFd::new().unwrap(),
            call: EventFd::new().unwrap(),
        }
    }

    /// Post a command and let the core run a round.
    fn command(&mut self, command: Command<Handle>) -> Result<Answer, Unanswered> {
        let number = self.mailbox.post(command);
        self.queue.flush();
        self.mailbox.answer(number)
    }

    fn start(&mut self, memory: &Handle, next_avail: u16) {
        let command = Command::Start {
            start: Start {
                rings: memory.rings(),
                next_avail,
                features: FEATURES,
                inflight: None,
            },
            memory: memory.clone(),
            kick: Kick::Fd(copy(&self.kick)),
            call: Call::Event(copy(&self.call)),
        };
        self.command(command).unwrap();
    }

    fn poll(&mut self) -> Option<Token> {
        self.queue.poll(&mut SegmentList::new_zeroed())
    }
}

fn driver(memory: &Handle) -> Driver {
    Driver::new(memory.rings(), FEATURES, None).unwrap()
}

fn send(driver: &mut Driver) -> bool {
    let buffer = Buffer {
        address: DATA,
        len: 8,
        writable: true,
    };
    driver.add(&[buffer]).unwrap();
    driver.publish()
}

#[test]
fn a_queue_stops_when_the_last_request_is_published() {
    let mut bed = Bed::new();
    let (memory, freed) = Memory::zeroed();
    let mut driver = driver(&memory);
    bed.start(&memory, 0);
    send(&mut driver);
    send(&mut driver);
    let tokens: Vec<_> = (0..2).map(|_| bed.poll().unwrap()).collect();
    send(&mut driver);
    let stop = bed.mailbox.post(Command::Stop);
    bed.queue.flush();
    assert_eq!(bed.poll(), None, "nothing is taken any more");
    for token in tokens {
        assert_eq!(bed.mailbox.answer(stop), Err(Unanswered::Pending));
        bed.queue.complete(token, 8);
        bed.queue.flush();
    }
    let answer = Answer {
        position: 2,
        abandoned: 0,
    };
    assert_eq!(bed.mailbox.answer(stop), Ok(answer));
    assert_eq!(core::iter::from_fn(|| driver.reap()).count(), 2);
    bed.start(&memory, 2);
    let token = bed.poll().unwrap();
    bed.queue.complete(token, 8);
    bed.queue.flush();
    assert_eq!(core::iter::from_fn(|| driver.reap()).count(), 1);
    bed.command(Command::Stop).unwrap();
    drop(memory);
    assert!(freed.load(Ordering::Relaxed));
}

#[test]
fn an_abandoned_request_keeps_its_memory_and_its_completion_does_nothing() {
    let mut bed = Bed::new();
    let (old, old_freed) = Memory::zeroed();
    let mut old_driver = driver(&old);
    bed.start(&old, 0);
    send(&mut old_driver);
    let orphan = bed.poll().unwrap();
    let stop = bed.mailbox.post(Command::Stop);
    bed.queue.flush();
    assert_eq!(bed.mailbox.answer(stop), Err(Unanswered::Pending));
    let answer = bed.command(Command::Abandon).unwrap();
    assert_eq!((answer.position, answer.abandoned), (1, 1));

    let (new, _) = Memory::zeroed();
    let mut new_driver = driver(&new);
    bed.start(&new, 0);
    send(&mut new_driver);
    let token = bed.poll().unwrap();
    drop(old);
    assert!(
        !old_freed.load(Ordering::Relaxed),
        "the orphan points there"
    );
    bed.queue.complete(orphan, 8);
    bed.queue.flush();
    assert!(old_freed.load(Ordering::Relaxed));
    assert_eq!(new_driver.reap(), None, "not published in the new queue");
    bed.queue.complete(token, 8);
    bed.queue.flush();
    assert!(new_driver.reap().is_some());
}

#[test]
fn new_memory_is_taken_up_between_two_polls_and_old_requests_are_published() {
    let mut bed = Bed::new();
    let (memory, _) = Memory::zeroed();
    let mut driver = driver(&memory);
    bed.start(&memory, 0);
    send(&mut driver);
    let early = bed.poll().unwrap();
    let rings = memory.rings();
    let copy = memory.clone();
    bed.command(Command::Memory {
        memory: copy,
        rings,
    })
    .unwrap();
    send(&mut driver);
    let late = bed.poll().unwrap();
    assert_ne!(early, late);
    let stop = bed.mailbox.post(Command::Stop);
    for token in [late, early] {
        bed.queue.flush();
        assert_eq!(bed.mailbox.answer(stop), Err(Unanswered::Pending));
        bed.queue.complete(token, 8);
    }
    bed.queue.flush();
    assert!(bed.mailbox.answer(stop).is_ok());
    assert_eq!(core::iter::from_fn(|| driver.reap()).count(), 2);
}

#[test]
fn a_command_waits_when_too_many_memories_are_kept_and_goes_on_then() {
    let mut bed = Bed::new();
    let mut orphans = Vec::new();
    for round in 0..=MAX_RETIRED {
        let (memory, _) = Memory::zeroed();
        let mut driver = driver(&memory);
        bed.start(&memory, 0);
        send(&mut driver);
        orphans.push(bed.poll().unwrap());
        let number = bed.mailbox.post(Command::Abandon);
        bed.queue.flush();
        let full = round == MAX_RETIRED;
        assert_eq!(bed.mailbox.answer(number).is_err(), full, "{round}");
        if full {
            assert_eq!(bed.poll(), None);
            bed.queue.complete(orphans[3], 0);
            bed.queue.flush();
            assert!(bed.mailbox.answer(number).is_ok());
        }
    }
    for orphan in orphans {
        bed.queue.complete(orphan, 0);
    }
    assert!(bed.queue.retired.iter().all(Option::is_none));
}

#[test]
fn a_token_completed_twice_or_made_up_does_no_harm() {
    let mut bed = Bed::new();
    let (memory, _) = Memory::zeroed();
    let mut driver = driver(&memory);
    bed.start(&memory, 0);
    send(&mut driver);
    let token = bed.poll().unwrap();
    for token in [
        token,
        token,
        Token(u64::MAX),
        Token(0),
        pack(bed.queue.era, 99),
    ] {
        bed.queue.complete(token, 8);
    }
    bed.queue.flush();
    assert!(driver.reap().is_some());
    bed.command(Command::Stop).unwrap();
}

#[test]
fn a_sleeping_core_is_woken_by_the_driver_and_by_the_control_side() {
    let mut bed = Bed::new();
    let wait = bed.queue.wait_fd().unwrap();
    assert!(bed.queue.arm(), "nothing to do before the start");
    let (memory, _) = Memory::zeroed();
    let mut driver = driver(&memory);
    assert!(!readable(wait));
    let start = |bed: &Bed| Command::Start {
        start: Start {
            rings: memory.rings(),
            next_avail: 0,
            features: FEATURES,
            inflight: None,
        },
        memory: memory.clone(),
        kick: Kick::Fd(copy(&bed.kick)),
        call: Call::Event(copy(&bed.call)),
    };
    bed.mailbox.post(start(&bed));
    assert!(readable(wait), "woken by the command");
    bed.queue.disarm();
    bed.queue.flush();
    for round in 0..3 {
        let mut rounds = 0;
        while !bed.queue.arm() || readable(wait) {
            // A stale wake-up costs a few rounds, not more.
            bed.queue.disarm();
            rounds += 1;
            assert!(rounds <= MAX_FRUITLESS, "sleepless at {round}");
        }
        assert!(send(&mut driver), "asked for a kick");
        bed.kick.notify();
        assert!(readable(wait));
        bed.queue.disarm();
        let token = bed.poll().unwrap();
        assert!(driver.arm());
        bed.queue.complete(token, 8);
        bed.queue.flush();
        assert!(readable(bed.call.raw()), "interrupted");
        bed.call.clear();
        driver.disarm();
        driver.reap().unwrap();
    }
    bed.command(Command::Stop).unwrap();
    assert!(bed.queue.arm());
    bed.queue.disarm();
    assert!(bed.queue.arm());
    bed.kick.notify();
    assert!(!readable(wait), "a stopped queue waits for no kick");
}

#[test]
fn a_kick_without_a_chain_wakes_the_core_a_few_times_at_most() {
    let mut bed = Bed::new();
    let (memory, _) = Memory::zeroed();
    bed.start(&memory, 0);
    let wait = bed.queue.wait_fd().unwrap();
    assert!(bed.queue.arm());
    bed.queue.disarm();
    assert!(bed.queue.arm());
    assert!(!readable(wait));
    bed.kick.notify();
    let mut wakes = 0;
    while readable(wait) {
        wakes += 1;
        bed.queue.disarm();
        assert_eq!(bed.poll(), None);
        assert!(bed.queue.arm());
    }
    assert!((1..=MAX_FRUITLESS).contains(&wakes), "{wakes}");
}

#[test]
fn a_queue_without_a_kick_is_polled_and_never_sleeps() {
    let mut bed = Bed::new();
    let (memory, _) = Memory::zeroed();
    bed.start(&memory, 0);
    bed.command(Command::Kick(Kick::Never)).unwrap();
    assert!(!bed.queue.arm());
    bed.command(Command::Kick(Kick::Control)).unwrap();
    assert!(bed.queue.arm());
    bed.mailbox.wake();
    assert!(readable(bed.queue.wait_fd().unwrap()));
}

#[test]
fn a_bad_chain_and_a_broken_queue_are_reported() {
    let mut bed = Bed::new();
    let (memory, _) = Memory::zeroed();
    let mut driver = driver(&memory);
    bed.start(&memory, 0);
    let outside = Buffer {
        address: BYTES as u64,
        len: 1,
        writable: false,
    };
    driver.add(&[outside]).unwrap();
    driver.publish();
    assert_eq!(bed.poll(), None);
    bed.queue.flush();
    assert_eq!(driver.reap().map(|used| used.written), Some(0));
    assert_eq!(bed.queue.bad_chains(), 1);
    assert!(readable(bed.mailbox.done_fd()));
    assert_eq!(bed.mailbox.report(), (1, false));
    let index = memory.contiguous(0x1002, 2, 2).unwrap().cast::<u16>();
    // SAFETY: the driver's index; only this thread is there.
    unsafe { index.write(100) };
    assert_eq!(bed.poll(), None);
    assert_eq!(bed.mailbox.report(), (0, true));
    assert!(bed.queue.arm(), "a broken queue lets its core sleep");
    bed.command(Command::Stop).unwrap();
}

#[test]
fn a_dropped_queue_is_known_to_its_control_side() {
    let bed = Bed::new();
    let number = bed.mailbox.post(Command::Stop);
    drop(bed.queue);
    assert_eq!(bed.mailbox.answer(number), Err(Unanswered::Gone));
}
