//! The part of a device that one core serves: its ring, its jobs, its waiting locks.

use core::sync::atomic::Ordering;
use std::boxed::Box;
use std::vec::Vec;

use super::flight::{Flight, Lone};
use super::job::{Answer, Job};
use super::pool::Mailbox;
use super::volume::{LocalVolume, OpenError};
use super::waiting::Waiting;
use crate::fuse::Reply;
use crate::mem::SlotId;
use crate::sys::Result;
use crate::sys::creds::{self, Capabilities, cap};
use crate::sys::time::Instant;
use crate::sys::uring::Ring;
use crate::wire::errno::Errno;

/// First and longest pause between two attempts to take a lock that others hold, in nanoseconds.
const FIRST_PAUSE: u64 = 1_000_000;
const LONGEST_PAUSE: u64 = 256_000_000;
/// Descriptors that are worth waking a worker for, while there is other work.
const BATCH: usize = 32;

/// Serve a directory to one core of a device.
pub struct Local {
    pub(super) volume: &'static LocalVolume,
    pub(super) mailbox: &'static Mailbox,
    pub(super) ring: Ring<Flight>,
    /// The round's only READ or WRITE so far, on its way to the ring.
    pub(super) lone: Option<Lone>,
    /// Requests whose job is under way, or whose lock is waited for, by slot.
    pub(super) waiting: Box<[Option<Waiting>]>,
    /// Requests that wait for a lock.
    parked: Vec<Parked>,
    /// Time of the present round.
    now: Instant,
    /// Number of the ring's credentials without CAP_FSETID; zero when there are none.
    pub(super) unprivileged: u16,
    /// Session that the waiting requests were last held against.
    epoch: u32,
    armed: bool,
    closing: bool,
}

struct Parked {
    slot: u32,
    /// When to ask again at the latest.
    again: Instant,
    pause: u64,
    /// A worker is at it.
    asked: bool,
}

impl Local {
    pub(super) fn new(
        volume: &'static LocalVolume,
        slots: u32,
    ) -> core::result::Result<Self, OpenError> {
        if !volume.reserve_requests(slots) {
            return Err(OpenError::TooMany);
        }
        let mailbox = Mailbox::new(slots)?;
        if !volume
            .mailboxes
            .iter()
            .any(|place| place.set(mailbox).is_ok())
        {
            return Err(OpenError::TooMany);
        }
        let ring = Ring::new(slots, volume.config.sqpoll).map_err(OpenError::Ring)?;
        Ok(Self {
            unprivileged: without_fsetid(|| ring.register_credentials()).unwrap_or(0),
            volume,
            mailbox,
            ring,
            lone: None,
            waiting: (0..slots).map(|_| None).collect(),
            parked: Vec::with_capacity(slots as usize),
            now: Instant::default(),
            epoch: 0,
            armed: false,
            closing: false,
        })
    }

    /// Give the bytes of memory that a core's instance takes for so many requests in flight.
    pub const fn footprint(slots: u32) -> usize {
        Mailbox::footprint(slots)
    }

    /// Give a job to the workers; `fill` says what it is.
    pub(super) fn ask(
        &mut self,
        slot: u32,
        waiting: Waiting,
        fill: impl FnOnce(&mut Job) -> Result<()>,
    ) {
        let (Some(place), Some(mut job)) =
            (self.waiting.get_mut(slot as usize), self.mailbox.job(slot))
        else {
            return waiting.fail(Errno::EIO);
        };
        if let Err(error) = fill(&mut job) {
            return waiting.fail(error);
        }
        drop(job);
        *place = Some(waiting);
        self.volume.pool.run(self.mailbox, slot);
    }

    /// Answer the requests whose jobs are done.
    fn answer_jobs(&mut self) -> bool {
        let mut any = false;
        while let Some(slot) = self.mailbox.done() {
            any = true;
            if let Some(waiting) = self.waiting.get_mut(slot as usize).and_then(Option::take) {
                self.answer(slot, waiting);
            }
        }
        any
    }

    /// Submit what is queued and answer what is done, until nothing more is done at once.
    #[inline]
    fn turn_ring(&mut self) -> bool {
        let mut any = self.begin_lone();
        loop {
            self.ring.enter();
            let mut landed = false;
            while let Some(reaped) = self.ring.reap() {
                landed = true;
                self.land(reaped);
            }
            if !landed {
                return any;
            }
            any = true;
        }
    }

    /// Answer a request for a lock, or keep it while another holds the lock.
    pub(super) fn answer_lock(
        &mut self,
        slot: u32,
        reply: Reply<()>,
        wait: bool,
        answer: Result<Answer>,
    ) {
        let busy = matches!(answer, Ok(Answer::Busy));
        if busy && wait && !self.must_end(&reply) {
            return self.park(slot, reply);
        }
        self.unpark(slot);
        match answer {
            Ok(Answer::Busy) if wait => reply.err(Errno::EINTR),
            Ok(Answer::Busy) => reply.err(Errno::EAGAIN),
            Ok(_) => reply.ok(()),
            Err(error) => reply.err(error),
        }
    }

    /// Tell whether a request is to wait no longer.
    fn must_end(&self, reply: &Reply<()>) -> bool {
        self.closing || reply.interrupted() || reply.epoch() != self.volume.epoch()
    }

    fn park(&mut self, slot: u32, reply: Reply<()>) {
        self.waiting[slot as usize] = Some(Waiting::SetLock { reply, wait: true });
        let now = self.now;
        if let Some(parked) = self.parked.iter_mut().find(|parked| parked.slot == slot) {
            parked.asked = false;
            parked.pause = (parked.pause * 2).min(LONGEST_PAUSE);
            parked.again = now.after(parked.pause);
        } else {
            self.parked.push(Parked {
                slot,
                again: now.after(FIRST_PAUSE),
                pause: FIRST_PAUSE,
                asked: false,
            });
            self.count_parked();
        }
    }

    fn unpark(&mut self, slot: u32) {
        if let Some(at) = self.parked.iter().position(|parked| parked.slot == slot) {
            self.parked.remove(at);
            self.count_parked();
        }
    }

    fn count_parked(&self) {
        let count = self.parked.len() as u32;
        self.mailbox.waiting.store(count, Ordering::SeqCst);
    }

    /// Ask again for locks that may be free by now, in the order in which they were asked for.
    fn retry_locks(&mut self) -> bool {
        if self.parked.is_empty() {
            // Nobody waits, so the news is old; left standing, it would keep the core awake.
            if self.mailbox.unlocked.load(Ordering::Relaxed) {
                self.mailbox.unlocked.store(false, Ordering::Relaxed);
            }
            return false;
        }
        let unlocked = self.mailbox.unlocked.swap(false, Ordering::SeqCst);
        let (now, epoch) = (self.now, self.volume.epoch());
        if self.epoch != epoch {
            self.epoch = epoch;
            self.end_waits(|reply| reply.epoch() != epoch);
        }
        let mut any = false;
        for parked in &mut self.parked {
            if !parked.asked && (unlocked || now >= parked.again) {
                parked.asked = true;
                any = true;
                self.volume.pool.run(self.mailbox, parked.slot);
            }
        }
        any
    }

    /// Answer those of the waiting requests with `EINTR` that `which` names. One that is being asked for right now
    /// ends when that is answered.
    fn end_waits(&mut self, which: impl Fn(&Reply<()>) -> bool) {
        for at in (0..self.parked.len()).rev() {
            let Parked { slot, asked, .. } = self.parked[at];
            if asked {
                continue;
            }
            match self.waiting[slot as usize].take() {
                Some(Waiting::SetLock { reply, .. }) if which(&reply) => {
                    self.parked.remove(at);
                    reply.err(Errno::EINTR);
                }
                kept => self.waiting[slot as usize] = kept,
            }
        }
        self.count_parked();
    }

    pub(super) fn round(&mut self, now: Instant) -> bool {
        self.now = now;
        if core::mem::take(&mut self.armed) {
            self.mailbox.disarm();
        }
        let jobs = self.answer_jobs();
        let ring = self.turn_ring();
        let locks = self.retry_locks();
        let worked = jobs || ring || locks;
        let dead = self.volume.graveyard.len();
        if dead > BATCH || (dead > 0 && !worked) {
            self.volume.pool.nudge();
        }
        worked
    }

    pub(super) fn prepare_to_sleep(&mut self) -> bool {
        self.armed = true;
        self.mailbox.arm() && !self.ring.has_work()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let free = self.parked.iter().filter(|parked| !parked.asked);
        free.map(|parked| parked.again).min()
    }

    pub(super) fn end_all_waits(&mut self) {
        self.closing = true;
        self.end_waits(|_| true);
    }

    pub(super) fn end_wait(&mut self, target: SlotId) {
        self.end_waits(|reply| reply.id() == target);
    }
}

/// Call `register` on this thread without CAP_FSETID.
fn without_fsetid<T>(register: impl FnOnce() -> Result<T>) -> Result<T> {
    let own = creds::capabilities()?;
    if !own.has(cap::FSETID) {
        return register();
    }
    creds::set_capabilities(&Capabilities {
        effective: own.effective & !(1 << cap::FSETID),
        ..own
    })?;
    let registered = register();
    creds::set_capabilities(&own)?;
    registered
}
