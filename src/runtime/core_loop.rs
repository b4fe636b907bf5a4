//! The loop of one core: poll every worker, spin while there is work, sleep when there is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::vec::Vec;

use super::worker::Worker;
use crate::sys;
use crate::sys::epoll::Epoll;
use crate::sys::eventfd::EventFd;
use crate::sys::time::Instant;

/// Choose how an idle core waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Polling {
    /// Never sleep: the core belongs to the tenants. The host is never asked to notify, so it pays no exit.
    Busy,
    /// Spin for this many nanoseconds without work, then sleep.
    Adaptive(u64),
    /// Sleep as soon as there is no work.
    Sleep,
}

/// Longest sleep in milliseconds, so that a core looks at [`Stop`] even when a wake-up was lost.
const LONGEST_SLEEP: u64 = 1000;

/// Time that pending requests get to end at shutdown, in nanoseconds.
const GRACE: u64 = 5_000_000_000;

/// Time that the file systems get to take leave of their servers after that, in nanoseconds.
const LEAVE: u64 = 2_000_000_000;

/// Tell a core to stop, from another thread.
#[derive(Clone)]
pub struct Stop(Arc<Signal>);

struct Signal {
    state: AtomicBool,
    cancel: AtomicBool,
    asked: AtomicBool,
    wake: EventFd,
}

impl Stop {
    /// Make the signal of a core.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE` without descriptors.
    pub fn new() -> sys::Result<Self> {
        let wake = EventFd::new()?;
        let (state, cancel) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self(Arc::new(Signal {
            state,
            cancel,
            asked: AtomicBool::new(false),
            wake,
        })))
    }

    /// End what waits only for others (locks), but go on serving.
    pub fn cancel_waits(&self) {
        self.0.cancel.store(true, Ordering::Release);
        self.0.wake.notify();
    }

    /// Answer what is pending, within 5 seconds, take leave of servers, within 2, and return from [`CoreLoop::run`].
    pub fn stop(&self) {
        self.0.state.store(true, Ordering::Release);
        self.0.wake.notify();
    }

    /// Ask whether the core still comes round: within a second it answers, however deep it sleeps.
    pub fn ask(&self) {
        self.0.asked.store(true, Ordering::Relaxed);
    }

    /// Tell whether the core came round since it was asked.
    pub fn answered(&self) -> bool {
        !self.0.asked.load(Ordering::Relaxed)
    }

    fn answer(&self) {
        // Seldom written, so that the polling loop shares the line.
        if self.0.asked.load(Ordering::Relaxed) {
            self.0.asked.store(false, Ordering::Relaxed);
        }
    }

    fn cancelled(&self) -> bool {
        // The plain load keeps a locked instruction off the polling loop.
        self.0.cancel.load(Ordering::Relaxed) && self.0.cancel.swap(false, Ordering::AcqRel)
    }

    fn stopping(&self) -> bool {
        self.0.state.load(Ordering::Relaxed)
    }
}

/// Run the workers of one core. Made and used on the core's own thread.
pub struct CoreLoop {
    workers: Vec<Worker>,
    polling: Polling,
    epoll: Epoll,
    stop: Stop,
}

impl CoreLoop {
    /// Prepare the loop.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM` or `ENOSPC` when a descriptor cannot be watched.
    pub fn new(workers: Vec<Worker>, polling: Polling, stop: Stop) -> sys::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(stop.0.wake.raw(), 0)?;
        let mut result = Ok(());
        for worker in &workers {
            worker.wait_fds(&mut |fd| {
                if result.is_ok() {
                    result = epoll.add(fd, 1);
                }
            });
        }
        result.map(|()| Self {
            workers,
            polling,
            epoll,
            stop,
        })
    }

    /// Serve until told to stop; give the number of requests that were still pending then.
    pub fn run(mut self) -> usize {
        let mut last_work = Instant::now();
        let (mut stop_by, mut leave_by) = (None, None);
        loop {
            let now = Instant::now();
            let mut worked = false;
            for worker in &mut self.workers {
                worked |= worker.round(now);
            }
            self.stop.answer();
            if self.stop.cancelled() {
                self.workers.iter_mut().for_each(Worker::shutdown);
            }
            if self.stop.stopping() {
                let in_flight: usize = self.workers.iter().map(Worker::in_flight).sum();
                if in_flight == 0 || now >= *stop_by.get_or_insert(now.after(GRACE)) {
                    let mut left = true;
                    for worker in &mut self.workers {
                        left &= worker.leave();
                    }
                    if left || now >= *leave_by.get_or_insert(now.after(LEAVE)) {
                        return in_flight;
                    }
                }
            }
            if worked {
                last_work = now;
                continue;
            }
            match self.polling {
                Polling::Busy => core::hint::spin_loop(),
                Polling::Adaptive(spin) if now.since(last_work) < spin => core::hint::spin_loop(),
                Polling::Adaptive(_) | Polling::Sleep => self.sleep(now),
            }
        }
    }

    /// Sleep until a queue or a backend has work, a deadline passes or a signal comes.
    fn sleep(&mut self, now: Instant) {
        let idle = self.workers.iter_mut().all(Worker::arm);
        if idle {
            let deadline = self.workers.iter().filter_map(Worker::deadline).min();
            let left = deadline.map_or(u64::MAX, |at| at.since(now).div_ceil(1_000_000));
            let woken = self.epoll.wait(left.min(LONGEST_SLEEP) as i32, |key| {
                if key == 0 {
                    self.stop.0.wake.clear();
                }
            });
            if let Err(error) = woken {
                // Cannot happen with a valid set; polling goes on in any case.
                crate::log::error!("epoll_wait: {}", error);
            }
        }
        self.workers.iter_mut().for_each(Worker::disarm);
    }
}
