//! Descriptors that are to be closed by a thread that may wait.
//!
//! Closing the last descriptor of a file that has no name frees its blocks, which takes a disk's time. A core hands
//! such descriptors over here and the workers close them between two jobs.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::vec::Vec;

use crate::sys::fd::Fd;

/// Most descriptors that wait; a core closes those beyond by itself.
const CAPACITY: usize = 1024;

/// Hold descriptors until they are closed.
pub struct Graveyard {
    fds: Mutex<Vec<Fd>>,
    count: AtomicUsize,
}

impl Graveyard {
    /// Make an empty one.
    pub fn new() -> Self {
        Self {
            fds: Mutex::new(Vec::with_capacity(CAPACITY)),
            count: AtomicUsize::new(0),
        }
    }

    /// Hand a descriptor over.
    pub fn bury(&self, fd: Fd) {
        let mut fds = self.fds.lock().unwrap_or_else(PoisonError::into_inner);
        if fds.len() < CAPACITY {
            fds.push(fd);
            self.count.store(fds.len(), Ordering::Relaxed);
        }
    }

    /// Give the number of descriptors that wait.
    #[inline]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Close all that wait, on this thread.
    pub fn close_all(&self) {
        while self.len() > 0 {
            let fd = {
                let mut fds = self.fds.lock().unwrap_or_else(PoisonError::into_inner);
                let fd = fds.pop();
                self.count.store(fds.len(), Ordering::Relaxed);
                fd
            };
            drop(fd);
        }
    }
}
