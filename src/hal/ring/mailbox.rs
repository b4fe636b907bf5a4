//! What passes between a queue's core and its control side.
//!
//! The control side posts one command at a time and waits for its answer; the core looks for one once a round, which
//! costs one relaxed load. A [`Command::Stop`] is answered when the last request in flight was completed; a
//! [`Command::Abandon`] may be posted meanwhile and ends the wait.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use spin::Mutex;

use super::bell::{Call, Kick};
use crate::sys;
use crate::sys::epoll::Epoll;
use crate::sys::eventfd::EventFd;
use crate::virtq::{Rings, Start};

/// Tell a queue what to do between two polls.
#[derive(Debug)]
pub enum Command<M> {
    /// Serve this queue. Any other was stopped before.
    Start {
        /// Where it lies, and how far it is.
        start: Start,
        /// The host's memory.
        memory: M,
        /// How the driver wakes us.
        kick: Kick,
        /// How we wake the driver.
        call: Call,
    },
    /// Go on with the same queue in another mapping of the host's memory.
    Memory {
        /// The host's memory.
        memory: M,
        /// Where the queue lies in it; its size is the same.
        rings: Rings,
    },
    /// Wake the driver in another way.
    Call(Call),
    /// Be woken by the driver in another way.
    Kick(Kick),
    /// Take no more chains, and let go of the queue when those in flight are completed and published.
    Stop,
    /// Let go of the queue now. Requests in flight are not published when they complete.
    Abandon,
}

/// Describe how a queue stands after a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Index of the next available entry, where a successor goes on. Meaningful after a stop.
    pub position: u16,
    /// Requests that were in flight and are not published.
    pub abandoned: u16,
}

impl Answer {
    const fn pack(self, number: u32) -> u64 {
        (number as u64) << 32 | (self.abandoned as u64) << 16 | self.position as u64
    }
}

/// Say why a command was not posted or answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unanswered {
    /// The core has not answered yet.
    Pending,
    /// The queue was dropped: its core is gone.
    Gone,
}

/// Join a queue and its control side.
#[derive(Debug)]
pub struct Mailbox<M> {
    /// Number of the last command, counting from one.
    posted: AtomicU32,
    command: Mutex<Option<Command<M>>>,
    /// Number of the last command answered, and its answer.
    answered: AtomicU64,
    gone: AtomicBool,
    /// What the core waits on: `wake`, and the driver's kick.
    wait: Epoll,
    wake: EventFd,
    /// What the control side waits on.
    done: EventFd,
    /// Chains that broke the rules, for the control side to report.
    bad_chains: AtomicU32,
    /// The queue stopped for good because of its indices.
    broken: AtomicBool,
}

/// Key of `wake` in the set that the core waits on.
pub(super) const WAKE: u64 = 0;
/// Key of the kick.
pub(super) const KICK: u64 = 1;

impl<M> Mailbox<M> {
    /// Make an empty mailbox.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE` without descriptors.
    pub fn new() -> sys::Result<Self> {
        let (wait, wake, done) = (Epoll::new()?, EventFd::new()?, EventFd::new()?);
        wait.add(wake.raw(), WAKE)?;
        Ok(Self {
            posted: AtomicU32::new(0),
            command: Mutex::new(None),
            answered: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            wait,
            wake,
            done,
            bad_chains: AtomicU32::new(0),
            broken: AtomicBool::new(false),
        })
    }

    /// Post a command and wake the core. Returns its number. The one before must have been answered, except that
    /// [`Command::Abandon`] may follow a [`Command::Stop`] that was not.
    pub fn post(&self, command: Command<M>) -> u32 {
        let mut slot = self.command.lock();
        let before = slot.replace(command);
        let number = self.posted.load(Ordering::Relaxed).wrapping_add(1);
        self.posted.store(number, Ordering::Release);
        drop(slot);
        drop(before);
        self.wake.notify();
        number
    }

    /// Wake the core: the driver kicked through the control side.
    pub fn wake(&self) {
        self.wake.notify();
    }

    /// Give the answer to command `number`.
    ///
    /// # Errors
    /// [`Unanswered`] when there is none yet, or will never be one.
    pub fn answer(&self, number: u32) -> Result<Answer, Unanswered> {
        // Read before the answer, so that an answer given before the queue was dropped is found.
        let gone = self.gone.load(Ordering::Acquire);
        let answered = self.answered.load(Ordering::Acquire);
        if (answered >> 32) as u32 == number {
            return Ok(Answer {
                position: answered as u16,
                abandoned: (answered >> 16) as u16,
            });
        }
        Err(if gone {
            Unanswered::Gone
        } else {
            Unanswered::Pending
        })
    }

    /// Give the descriptor that becomes readable when an answer, or something to report, is there.
    pub const fn done_fd(&self) -> i32 {
        self.done.raw()
    }

    /// Reset that descriptor, before one looks for what it announced.
    pub fn clear_done(&self) {
        self.done.clear();
    }

    /// Give the number of chains that broke the rules since the last call, and whether the queue broke for good since.
    pub fn report(&self) -> (u32, bool) {
        (
            self.bad_chains.swap(0, Ordering::Relaxed),
            self.broken.swap(false, Ordering::Relaxed),
        )
    }

    /// Give the number of the last command: the core's look, once a round.
    #[inline(always)]
    pub(super) fn posted(&self) -> u32 {
        self.posted.load(Ordering::Relaxed)
    }

    /// Take the command, with its number.
    pub(super) fn take(&self) -> (u32, Option<Command<M>>) {
        self.wake.clear();
        let mut slot = self.command.lock();
        // Under the lock, so that number and command belong together.
        (self.posted.load(Ordering::Acquire), slot.take())
    }

    pub(super) fn give_answer(&self, number: u32, answer: Answer) {
        self.answered.store(answer.pack(number), Ordering::Release);
        self.done.notify();
    }

    pub(super) fn count_bad(&self) {
        // Once told, the control side need not be woken again until it has looked.
        if self.bad_chains.fetch_add(1, Ordering::Relaxed) == 0 {
            self.done.notify();
        }
    }

    pub(super) fn set_broken(&self) {
        self.broken.store(true, Ordering::Relaxed);
        self.done.notify();
    }

    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
        self.done.notify();
    }

    pub(super) const fn wait(&self) -> &Epoll {
        &self.wait
    }

    pub(super) fn clear_wake(&self) {
        self.wake.clear();
    }
}
