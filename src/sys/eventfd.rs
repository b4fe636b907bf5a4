//! Counters that wake a sleeping thread, in this process or another.

use super::fd::Fd;
use super::{Result, check};

/// Hold an eventfd(2), non-blocking.
#[derive(Debug)]
pub struct EventFd(Fd);

impl EventFd {
    /// Make a counter that stands at zero.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE` without descriptors.
    pub fn new() -> Result<Self> {
        // SAFETY: plain call; the descriptor is new and ours.
        let raw = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
        // SAFETY: as above.
        Ok(Self(unsafe { Fd::from_raw(raw) }))
    }

    /// Take over a descriptor that another process made, blocking or not.
    pub const fn from_fd(fd: Fd) -> Self {
        Self(fd)
    }

    /// Add one. A full counter already wakes its reader, so nothing is lost then.
    pub fn notify(&self) {
        let _ = super::io::write(self.0.raw(), &1u64.to_ne_bytes());
    }

    /// Set the counter back to zero.
    pub fn clear(&self) {
        let _ = super::io::read(self.0.raw(), &mut [0; 8]);
    }

    /// Give the descriptor to wait on.
    pub const fn raw(&self) -> i32 {
        self.0.raw()
    }
}
