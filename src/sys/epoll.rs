//! Waiting for descriptors. An epoll instance is itself a descriptor, so one can stand for a changing set in another.

use super::fd::Fd;
use super::{Result, check};
use crate::wire::errno::Errno;

/// Hold an epoll(7) instance of level-triggered descriptors.
#[derive(Debug)]
pub struct Epoll(Fd);

impl Epoll {
    /// Make an empty set.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE` without descriptors.
    pub fn new() -> Result<Self> {
        // SAFETY: plain call; the descriptor is new and ours.
        let raw = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: as above.
        Ok(Self(unsafe { Fd::from_raw(raw) }))
    }

    /// Wait for `fd` to become readable, too; `key` names it in [`Self::wait`].
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn add(&self, fd: i32, key: u64) -> Result<()> {
        self.insert(fd, key, libc::EPOLLIN)
    }

    /// Wait for news of `fd`: a wake-up is told once, whether or not its reason was dealt with.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn add_edge(&self, fd: i32, key: u64) -> Result<()> {
        self.insert(fd, key, libc::EPOLLIN | libc::EPOLLET)
    }

    fn insert(&self, fd: i32, key: u64, events: i32) -> Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: key,
        };
        // SAFETY: the kernel reads one event.
        check(unsafe { libc::epoll_ctl(self.0.raw(), libc::EPOLL_CTL_ADD, fd, &mut event) })?;
        Ok(())
    }

    /// Stop waiting for `fd`.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn remove(&self, fd: i32) -> Result<()> {
        // SAFETY: the event is not read for a removal.
        check(unsafe {
            libc::epoll_ctl(self.0.raw(), libc::EPOLL_CTL_DEL, fd, core::ptr::null_mut())
        })?;
        Ok(())
    }

    /// Sleep until a descriptor is ready, at most `timeout` milliseconds, for ever when negative; call `ready` with
    /// the key of each. A signal ends the wait early with none.
    ///
    /// # Errors
    /// As epoll_wait(2).
    pub fn wait(&self, timeout: i32, mut ready: impl FnMut(u64)) -> Result<usize> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
        // SAFETY: the kernel writes at most as many events as the array has.
        let count = check(unsafe {
            libc::epoll_wait(
                self.0.raw(),
                events.as_mut_ptr(),
                events.len() as i32,
                timeout,
            )
        });
        let count = match count {
            Ok(count) => count as usize,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error),
        };
        for event in &events[..count] {
            ready(event.u64);
        }
        Ok(count)
    }

    /// Give the descriptor, readable while a member is ready.
    pub const fn raw(&self) -> i32 {
        self.0.raw()
    }
}
