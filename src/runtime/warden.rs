//! Cleaning up outside of the sandbox.
//!
//! A daemon that shut itself in can no longer unmount what it mounted, nor remove its sockets, and one that was killed
//! never could. So before the sandbox closes, a child is left outside that waits for the daemon to end, in order or
//! not, cleans up and ends. It has no descriptor but a pipe that nobody writes to, so a daemon that was taken over has
//! no words to ask it for anything else.

use std::boxed::Box;
use std::vec::Vec;

use crate::sys::fd::Fd;
use crate::sys::{self, child};

/// Hold the child.
#[derive(Debug)]
pub struct Warden {
    pid: i32,
    /// Closing it is what the child waits for.
    pipe: Fd,
}

impl Warden {
    /// Leave a child outside that does `tasks` when this process ends, or at [`Self::finish`].
    ///
    /// To be called while the process has one thread.
    ///
    /// # Errors
    /// `EBUSY` when it has more; as fork(2).
    pub fn post(tasks: Vec<Box<dyn FnOnce()>>) -> sys::Result<Self> {
        let (pid, pipe) = child::at_end(|| tasks.into_iter().for_each(|task| task()))?;
        Ok(Self { pid, pipe })
    }

    /// Have the tasks done and wait until they are.
    pub fn finish(self) {
        drop(self.pipe);
        child::wait(self.pid);
    }
}
