//! The workers: a few threads that do what would make a core wait.
//!
//! ```text
//! core:    fill the request's job ──> ring of jobs ──> a worker runs it ──> the core's mailbox ──> answer
//!                                     sleeping worker? wake it      sleeping core? its eventfd
//! ```
//!
//! A request has one job at a time, in a place of its own, so a ring that holds all requests never overflows.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::boxed::Box;
use std::string::ToString;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::job::{BUFFER, Job};
use super::volume::{LocalVolume, OpenError};
use crate::mem::{Arena, OutOfMemory, SharedRing};
use crate::sys::eventfd::EventFd;
use crate::sys::{affinity, creds, map};

/// Most requests in flight of a device, over all its cores.
pub const REQUESTS: u32 = 1 << 16;

/// Name a job: whose, and in which place.
#[derive(Clone, Copy)]
struct Task {
    mailbox: &'static Mailbox,
    slot: u32,
}

/// Hold the jobs of one core, and those that are done.
pub struct Mailbox {
    jobs: Box<[Mutex<Job>]>,
    done: &'static SharedRing<u32>,
    wake: EventFd,
    /// The core sleeps, or is about to.
    armed: AtomicBool,
    /// Locks were released since the core last looked.
    pub unlocked: AtomicBool,
    /// Requests of this core that wait for a lock.
    pub waiting: AtomicU32,
}

impl Mailbox {
    /// Make the mailbox of a core that has `slots` requests in flight.
    ///
    /// # Errors
    /// [`OpenError::Memory`], [`OpenError::Worker`] without descriptors.
    pub fn new(slots: u32) -> Result<&'static Self, OpenError> {
        let bytes = Self::footprint(slots);
        let memory = |_| OpenError::Memory;
        let arena = map::reserve(bytes).map_err(|_| OpenError::Memory)?;
        let buffers = arena
            .zeroed::<[u8; BUFFER]>(slots as usize)
            .map_err(memory)?;
        let mailbox = Self {
            jobs: buffers
                .iter_mut()
                .map(|buffer| Mutex::new(Job::new(buffer)))
                .collect(),
            done: SharedRing::new(&arena, slots).map_err(memory)?,
            wake: EventFd::new().map_err(|error| OpenError::Worker(error.to_string()))?,
            armed: AtomicBool::new(false),
            unlocked: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
        };
        Ok(Box::leak(Box::new(mailbox)))
    }

    /// Give the bytes of memory that the jobs of so many requests take.
    pub const fn footprint(slots: u32) -> usize {
        slots as usize * BUFFER + SharedRing::<u32>::footprint(slots)
    }

    /// Reach a job. It is free unless the request's own job is under way.
    pub fn job(&self, slot: u32) -> Option<MutexGuard<'_, Job>> {
        let job = self.jobs.get(slot as usize)?;
        Some(job.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Take the number of a job that is done.
    #[inline]
    pub fn done(&self) -> Option<u32> {
        self.done.pop()
    }

    /// Ask to be woken; false when there is something to do already.
    pub fn arm(&self) -> bool {
        self.armed.store(true, Ordering::Relaxed);
        // Either this core sees what was pushed, or who pushes it sees that the core is armed.
        fence(Ordering::SeqCst);
        self.done.is_empty() && !self.unlocked.load(Ordering::Relaxed)
    }

    /// Take the wish to be woken back.
    pub fn disarm(&self) {
        if !self.armed.swap(false, Ordering::Acquire) {
            self.wake.clear();
        }
    }

    /// Wake the core if it sleeps.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.armed.load(Ordering::Relaxed) && self.armed.swap(false, Ordering::AcqRel) {
            self.wake.notify();
        }
    }

    /// Give the descriptor that wakes the core.
    pub fn raw(&self) -> i32 {
        self.wake.raw()
    }
}

/// Run jobs on a few threads.
pub struct Pool {
    tasks: &'static SharedRing<Task>,
    sleeping: AtomicU32,
    /// Number of times that sleepers were called, so that none misses its call.
    calls: Mutex<u64>,
    call: Condvar,
    started: Mutex<bool>,
}

impl Pool {
    /// Bytes of arena that a pool needs.
    pub const FOOTPRINT: usize = SharedRing::<Task>::footprint(REQUESTS);

    /// Make a pool without threads.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena is too small.
    pub fn new(arena: &Arena) -> Result<Self, OutOfMemory> {
        Ok(Self {
            tasks: SharedRing::new(arena, REQUESTS)?,
            sleeping: AtomicU32::new(0),
            calls: Mutex::new(0),
            call: Condvar::new(),
            started: Mutex::new(false),
        })
    }

    /// Start the threads, unless they run already.
    ///
    /// # Errors
    /// [`OpenError::Worker`] when one cannot be started, or cannot have a directory of its own.
    pub fn start(&self, volume: &'static LocalVolume) -> Result<(), OpenError> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        if *started {
            return Ok(());
        }
        let ready: &'static (Mutex<_>, Condvar) =
            Box::leak(Box::new((Mutex::new(Ok(0)), Condvar::new())));
        let (count, changed) = ready;
        let workers = volume.config.workers.max(1);
        for number in 0..workers {
            thread::Builder::new()
                .name(std::format!("local-{number}"))
                .spawn(move || {
                    let prepared = prepare(volume);
                    {
                        let mut ready = count.lock().unwrap_or_else(PoisonError::into_inner);
                        *ready = match (*ready, prepared) {
                            (Ok(count), Ok(())) => Ok(count + 1),
                            (Err(error), _) | (_, Err(error)) => Err(error),
                        };
                    }
                    changed.notify_one();
                    if prepared.is_ok() {
                        volume.pool.work(volume);
                    }
                })
                .map_err(|error| OpenError::Worker(error.to_string()))?;
        }
        let mut ready = count.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *ready {
                Ok(count) if count == workers => {
                    *started = true;
                    return Ok(());
                }
                Ok(_) => ready = changed.wait(ready).unwrap_or_else(PoisonError::into_inner),
                Err(error) => return Err(OpenError::Worker(error.to_string())),
            }
        }
    }

    /// Hand a job to a worker.
    pub fn run(&self, mailbox: &'static Mailbox, slot: u32) {
        let task = Task { mailbox, slot };
        // Room for every request of every core: `attach` saw to that.
        let pushed = self.tasks.push(task);
        debug_assert!(pushed.is_ok(), "a request has one job at a time");
        self.nudge();
    }

    /// Wake a worker, if one sleeps.
    pub fn nudge(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) > 0 {
            *self.lock() += 1;
            self.call.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, volume: &'static LocalVolume) {
        loop {
            while let Some(task) = self.tasks.pop() {
                if let Some(mut job) = task.mailbox.job(task.slot) {
                    volume.run(&mut job);
                }
                // One for each request, as many as the ring has room for.
                let pushed = task.mailbox.done.push(task.slot);
                debug_assert!(pushed.is_ok(), "a request has one job at a time");
                task.mailbox.wake();
                volume.graveyard.close_all();
            }
            volume.graveyard.close_all();
            let mut calls = self.lock();
            let before = *calls;
            self.sleeping.fetch_add(1, Ordering::Relaxed);
            // Either this thread sees the task, or who pushed it sees that a worker sleeps.
            fence(Ordering::SeqCst);
            while *calls == before && self.tasks.is_empty() && volume.graveyard.len() == 0 {
                calls = self
                    .call
                    .wait(calls)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            self.sleeping.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Prepare the calling worker: let it run beside the core that started it, in a directory of its own, where descriptors
/// have names, with a umask of its own.
fn prepare(volume: &LocalVolume) -> crate::sys::Result<()> {
    if let Some(cores) = &volume.cores {
        affinity::allow(cores)?;
    }
    creds::unshare_directory()?;
    creds::enter_directory(volume.links.raw())?;
    creds::set_umask(0);
    // No group but those of the callers. Without the capability nothing is made in another's name anyway.
    let _ = creds::set_groups(&[]);
    let own = creds::capabilities()?;
    let _ = volume.worker_capabilities.set(own);
    Ok(())
}
