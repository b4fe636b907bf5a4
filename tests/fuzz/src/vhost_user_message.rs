//! Any messages of a front-end, over a real socket, to a device whose queues a core serves meanwhile.
//!
//! Whatever comes, the device answers or hangs up, keeps no descriptor, and serves the next front-end.

use std::cell::RefCell;
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use dpfs::fuse::{Limits, Session};
use dpfs::hal::Queue;
use dpfs::hal::vhost_user::{Control, VhostUserConfig, VhostUserQueue, bind};
use dpfs::log::Level;
use dpfs::runtime::SessionEvents;
use dpfs::sys::epoll::Epoll;
use dpfs::sys::eventfd::EventFd;
use dpfs::sys::fd::Fd;
use dpfs::sys::map::SharedMap;
use dpfs::sys::{memfd, socket};
use dpfs::wire::fuse::Opcode;
use dpfs::wire::open_flags::ClientArch;
use dpfs::wire::vhost_user::{Header, ProtocolFeatures, Request};
use dpfs_harness::{Core, CountingVolume, Recorder, samples};
use zerocopy::IntoBytes;

use crate::tape::{Reader, Writer};

/// Name a step of the input.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum Step {
    /// Send a message as it stands.
    Raw,
    /// Send a message whose length lies.
    Lie,
    /// Agree on features.
    Negotiate,
    /// Send a table of memory.
    Table,
    /// Describe a queue and start it.
    Start,
    /// Send a message with a queue and a number.
    State,
    /// Kick a queue.
    Kick,
    /// Write into the memory.
    Write,
    /// Make a good request available and kick.
    Request,
    /// Add or remove one region.
    Region,
    /// Wait for the device to come this far.
    Sync,
}

const STEPS: u8 = Step::Sync as u8 + 1;
/// Most steps of an input, so that a run stays fast.
const LONGEST: usize = 64;
/// Request queues and the hiprio queue.
const QUEUES: usize = 3;

/// Guest-physical address of the memory, and its address in the front-end.
const GUEST: u64 = 0x10_0000;
const USER: u64 = 0x7f00_0000_0000;
/// Bytes of the memory.
const BYTES: u64 = 0x4_0000;
/// Bytes for the rings of one queue: a page for each area, and one of data.
const QUEUE: u64 = 0x4000;

const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;
const ADD_MEM_REG: u32 = 37;
const REM_MEM_REG: u32 = 38;

struct Bench {
    path: PathBuf,
    _control: Control,
    file: Fd,
    memory: SharedMap,
    small: Fd,
    kicks: Vec<EventFd>,
    calls: Vec<EventFd>,
    runs: usize,
}

/// Calls that reached the backend, counted by the core.
static CALLS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench::new());
}

/// Run one input; give the number of calls that reached the backend meanwhile.
pub fn run(data: &[u8]) -> usize {
    let before = CALLS.load(Ordering::Relaxed);
    if let Some((request, payload)) = data.split_first() {
        let _ = Request::parse(u32::from(*request), payload);
    }
    BENCH.with_borrow_mut(|bench| {
        bench.serve(data);
        bench.runs += 1;
        if bench.runs.is_multiple_of(256) {
            let open = std::fs::read_dir("/proc/self/fd")
                .expect("this machine's own")
                .count();
            assert!(open < 200, "{open} descriptors are open");
        }
    });
    CALLS.load(Ordering::Relaxed) - before
}

impl Bench {
    fn new() -> Self {
        dpfs::log::set_level(Level::Error);
        let path = std::env::temp_dir().join(format!("dpfs-fuzz-{}.sock", std::process::id()));
        let config = VhostUserConfig {
            socket: path.clone(),
            mode: 0o600,
            tag: "fuzz".into(),
            request_queues: QUEUES as u16 - 1,
            interrupt_hold: 0,
            inband_notifications: true,
        };
        let volume: &'static CountingVolume = Box::leak(Box::default());
        let session = Session::new(volume, Limits::default(), ClientArch::default());
        let session: &'static Session = Box::leak(Box::new(session));
        let events = Box::leak(Box::new(SessionEvents(session)));
        let (queues, mut control) = bind(&config, events).expect("a socket");
        std::thread::spawn(move || core(queues, session));
        control.start().expect("a thread");
        let file = memfd::create(c"fuzz", BYTES).expect("memory");
        let memory = SharedMap::new(file.raw(), 0, BYTES as usize, true).expect("memory");
        let events = || {
            (0..QUEUES)
                .map(|_| EventFd::new().expect("a descriptor"))
                .collect()
        };
        Self {
            path,
            _control: control,
            file,
            memory,
            small: memfd::create(c"small", 4096).expect("memory"),
            kicks: events(),
            calls: events(),
            runs: 0,
        }
    }

    fn serve(&mut self, data: &[u8]) {
        self.write(0, &[0; QUEUE as usize * QUEUES]);
        let socket = UnixStream::connect(&self.path).expect("the device listens");
        let mut front_end = FrontEnd {
            bench: self,
            socket,
            tape: Reader::new(data),
            needs_reply: false,
        };
        for _ in 0..LONGEST {
            if front_end.tape.at_end() {
                break;
            }
            front_end.step();
        }
        front_end.hang_up();
    }

    /// Read the index of a ring.
    fn index(&self, ring: u64) -> u16 {
        // SAFETY: an aligned field inside the mapping, which others reach by atomics, too.
        unsafe {
            let place = self.memory.base().add(ring as usize + 2);
            AtomicU16::from_ptr(place.cast()).load(Ordering::Acquire)
        }
    }

    /// Write into the memory; what is outside is dropped.
    fn write(&self, offset: u64, bytes: &[u8]) {
        if offset >= BYTES {
            return;
        }
        let count = bytes.len().min((BYTES - offset) as usize);
        // SAFETY: inside the mapping. The device reads these bytes at any time, as it does a guest's.
        unsafe {
            let place = self.memory.base().add(offset as usize);
            place.copy_from_nonoverlapping(bytes.as_ptr(), count);
        }
    }
}

/// Serve the queues, as a core does.
fn core(mut queues: Vec<VhostUserQueue>, session: &'static Session) {
    let epoll = Epoll::new().expect("a descriptor");
    for queue in &queues {
        epoll
            .add(queue.wait_fd().expect("it can sleep"), 0)
            .expect("a descriptor");
    }
    let mut cores: Vec<_> = queues
        .iter()
        .map(|_| Core::new(Recorder::new(), session, 64))
        .collect();
    loop {
        let mut work = 0;
        for (core, queue) in cores.iter_mut().zip(&mut queues) {
            work += core.take(queue) + core.give_back(queue);
            CALLS.fetch_add(core.fs.calls.len(), Ordering::Relaxed);
            core.fs.clear();
            core.fs.interrupted.clear();
        }
        if work == 0 && queues.iter_mut().all(Queue::arm) {
            epoll.wait(1000, |_| {}).expect("a set of our own");
        }
        queues.iter_mut().for_each(Queue::disarm);
    }
}

struct FrontEnd<'a> {
    bench: &'a Bench,
    socket: UnixStream,
    tape: Reader<'a>,
    needs_reply: bool,
}

impl FrontEnd<'_> {
    fn send(&self, header: Header, payload: &[u8], fds: &[i32]) {
        let bytes = [header.as_bytes(), payload].concat();
        // The device may have hung up, or wait for replies to be read.
        let _ = socket::send_with_fds(self.socket.as_raw_fd(), &bytes, fds);
    }

    fn tell(&self, request: u32, payload: &[u8], fds: &[i32]) {
        let header = Header::request(request, payload.len() as u32, self.needs_reply);
        self.send(header, payload, fds);
    }

    fn words(&self, request: u32, words: &[u64], fds: &[i32]) {
        self.tell(request, words.as_bytes(), fds);
    }

    fn state(&self, request: u32, queue: u32, num: u32) {
        self.tell(request, [queue, num].as_bytes(), &[]);
    }

    fn queue(&mut self) -> u8 {
        match self.tape.u8() {
            queue @ 0xf0.. => queue,
            queue => queue % QUEUES as u8,
        }
    }

    fn fds(&mut self) -> Vec<i32> {
        let count = self.tape.u8() % 5;
        (0..count)
            .map(|_| match self.tape.u8() % 5 {
                0 => self.bench.small.raw(),
                1 => self.bench.kicks[0].raw(),
                2 => self.socket.as_raw_fd(),
                _ => self.bench.file.raw(),
            })
            .collect()
    }

    /// Read a region that is mostly good.
    fn region(&mut self) -> [u64; 4] {
        let kind = self.tape.u8();
        let offset = u64::from(self.tape.u8()) % 4 * 0x1_0000;
        let mut region = [GUEST + offset, BYTES - offset, USER + offset, offset];
        if kind & 3 == 1 {
            region[usize::from(kind >> 2) % 4] = self.tape.u64();
        }
        if kind & 3 == 2 {
            region[1] = u64::from(self.tape.u16());
        }
        region
    }

    fn step(&mut self) {
        let step = self.tape.u8() % STEPS;
        if step == Step::Raw as u8 {
            let request = u32::from(self.tape.u8()) % 48;
            self.needs_reply = self.tape.u8() & 1 != 0;
            let fds = self.fds();
            let payload = self.tape.run();
            self.tell(request, payload, &fds);
        } else if step == Step::Lie as u8 {
            let (request, flags, size) = (self.tape.u32(), self.tape.u32(), self.tape.u32());
            let header = Header {
                request,
                flags,
                size,
            };
            let payload = self.tape.run();
            self.send(header, payload, &[]);
        } else if step == Step::Negotiate as u8 {
            let (features, protocol) = (self.tape.u64(), u64::from(self.tape.u32()));
            let known = ProtocolFeatures::all().bits();
            let protocol = if protocol >> 31 == 0 {
                protocol & known
            } else {
                protocol
            };
            self.words(SET_FEATURES, &[features], &[]);
            self.words(SET_PROTOCOL_FEATURES, &[protocol], &[]);
        } else if step == Step::Table as u8 {
            let count = usize::from(self.tape.u8() % 4);
            let mut words = vec![u64::from(self.tape.u8() % 5)];
            for _ in 0..count {
                words.extend(self.region());
            }
            let fds = vec![self.bench.file.raw(); count];
            self.words(SET_MEM_TABLE, &words, &fds);
        } else if step == Step::Start as u8 {
            self.start();
        } else if step == Step::State as u8 {
            let kinds = [
                SET_VRING_NUM,
                SET_VRING_BASE,
                GET_VRING_BASE,
                SET_VRING_ENABLE,
            ];
            let request = kinds[usize::from(self.tape.u8()) % kinds.len()];
            let (queue, number) = (self.queue(), self.tape.u32());
            self.state(request, queue.into(), number);
        } else {
            self.guest_step(step);
        }
    }

    fn guest_step(&mut self, step: u8) {
        if step == Step::Kick as u8 {
            let queue = usize::from(self.tape.u8()) % QUEUES;
            self.bench.kicks[queue].notify();
        } else if step == Step::Write as u8 {
            let offset = self.tape.u32() % BYTES as u32;
            let bytes = self.tape.run();
            self.bench.write(offset.into(), bytes);
        } else if step == Step::Request as u8 {
            let queue = usize::from(self.tape.u8()) % QUEUES;
            let opcode = Opcode::ALL[usize::from(self.tape.u8()) % Opcode::ALL.len()];
            self.request(queue, &samples::sample(opcode).bytes());
        } else if step == Step::Region as u8 {
            let request = if self.tape.u8() & 1 == 0 {
                ADD_MEM_REG
            } else {
                REM_MEM_REG
            };
            let region = self.region();
            let fd = [self.bench.file.raw()];
            let fds = if request == ADD_MEM_REG { &fd[..] } else { &[] };
            self.words(request, &[&[0], &region[..]].concat(), fds);
        } else {
            self.sync();
        }
    }

    /// Describe a queue and start it, as all front-ends do.
    fn start(&mut self) {
        let queue = self.queue();
        let size = 1 << (self.tape.u8() % 9);
        let base = self.tape.u16();
        let word = u64::from(queue);
        let rings = USER + word * QUEUE;
        self.state(SET_VRING_NUM, queue.into(), size);
        self.state(SET_VRING_BASE, queue.into(), base.into());
        // Queue and flags, then descriptors, used ring, available ring, log.
        let address = [word, rings, rings + 0x2000, rings + 0x1000, 0];
        self.words(SET_VRING_ADDR, &address, &[]);
        let index = usize::from(queue) % QUEUES;
        self.words(SET_VRING_CALL, &[word], &[self.bench.calls[index].raw()]);
        self.words(SET_VRING_KICK, &[word], &[self.bench.kicks[index].raw()]);
        self.state(SET_VRING_ENABLE, queue.into(), 1);
    }

    /// Put a request into the first two descriptors of a queue.
    fn request(&mut self, queue: usize, request: &[u8]) {
        let rings = queue as u64 * QUEUE;
        let request = &request[..request.len().min(2048)];
        self.bench.write(rings + 0x3000, request);
        let descriptor = |to: u64, len: usize, flags: u64| [GUEST + to, len as u64 | flags << 32];
        let readable = descriptor(rings + 0x3000, request.len(), 1 | 1 << 16);
        let writable = descriptor(rings + 0x3800, 0x800, 2);
        self.bench.write(rings, [readable, writable].as_bytes());
        let index = u16::from(self.tape.u8());
        self.bench.write(rings + 0x1000 + 2, (index + 1).as_bytes());
        self.bench.kicks[queue].notify();
    }

    /// Wait for one reply, or the end; then for a moment until the core has served what is available.
    fn sync(&mut self) {
        self.tell(GET_FEATURES, &[], &[]);
        let patience = Some(Duration::from_millis(20));
        self.socket.set_read_timeout(patience).expect("not zero");
        let _ = self.socket.read(&mut [0; 4096]);
        let served = |queue: u64| {
            let index = |area: u64| self.bench.index(queue * QUEUE + area);
            index(0x1000) == index(0x2000)
        };
        for _ in 0..20 {
            if (0..QUEUES as u64).all(served) {
                return;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Hang up; the device is to do the same.
    fn hang_up(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
        self.socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("not zero");
        let mut rest = [0; 4096];
        loop {
            match self.socket.read(&mut rest) {
                Ok(1..) => {}
                Ok(0) => return,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                // The fuzzer's own alarm.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("the device does not hang up: {error}"),
            }
        }
    }
}

/// Write the step in which a front-end agrees on these protocol features.
pub fn negotiate(protocol: ProtocolFeatures) -> Writer {
    let features = 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28;
    let tape = Writer::default().u8(Step::Negotiate as u8).u64(features);
    tape.u32(protocol.bits() as u32)
}

/// Write the steps that share all of the memory in a table of one region.
pub fn share(tape: Writer) -> Writer {
    tape.u8(Step::Table as u8).u8(1).u8(1).u8(0).u8(0)
}

/// Write the steps that start every queue and send three requests.
pub fn work(mut tape: Writer) -> Writer {
    for queue in 0..QUEUES as u8 {
        tape = tape.u8(Step::Start as u8).u8(queue).u8(6).u16(0);
    }
    for (round, opcode) in [Opcode::INIT, Opcode::LOOKUP, Opcode::READ]
        .into_iter()
        .enumerate()
    {
        let number = Opcode::ALL.iter().position(|&other| other == opcode);
        let number = number.expect("all are listed") as u8;
        tape = tape
            .u8(Step::Request as u8)
            .u8(1)
            .u8(number)
            .u8(round as u8);
        tape = tape.u8(Step::Sync as u8);
    }
    tape
}
