//! The one thin shim over `libc`: safe wrappers with small errors, and no knowledge of any protocol.
//!
//! Everything here is `no_std`. A wrapper does one system call (or reads one register) and says what it returns;
//! retrying, waiting and deciding are its callers' business, except that `EINTR` is retried where nothing is lost.

pub mod access;
pub mod affinity;
pub mod child;
pub mod content;
pub mod creds;
pub mod device;
pub mod epoll;
pub mod eventfd;
pub mod fd;
pub mod file;
pub mod identity;
pub mod io;
pub mod lock;
#[cfg(feature = "defmt")]
pub mod log_ring;
pub mod map;
pub mod memfd;
pub mod mount;
pub mod names;
pub mod sandbox;
pub mod signal;
pub mod socket;
pub mod stat;
pub mod tcp;
pub mod time;
#[cfg(feature = "uring")]
pub mod uring;
pub mod watch;
pub mod xattr;

use crate::wire::errno::Errno;

/// Carry what a system call returned.
pub type Result<T> = core::result::Result<T, Errno>;

/// Read the calling thread's `errno`.
pub fn last_error() -> Errno {
    // SAFETY: `__errno_location` gives the address of this thread's variable, always valid.
    Errno::from_os(unsafe { *libc::__errno_location() })
}

/// Turn the -1 convention into a result.
pub(crate) fn check(returned: i32) -> Result<i32> {
    if returned < 0 {
        Err(last_error())
    } else {
        Ok(returned)
    }
}

/// Turn the -1 convention of calls that count bytes into a result.
pub(crate) fn check_size(returned: isize) -> Result<usize> {
    usize::try_from(returned).map_err(|_| last_error())
}
