//! Locks of open files that never wait: byte ranges that belong to an open file description, and whole files.

use super::{Result, check};
use crate::wire::errno::Errno;

/// Describe a byte-range lock: `F_RDLCK`, `F_WRLCK` or `F_UNLCK`, the first byte, the number of bytes (zero for all
/// that follow).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RangeLock {
    /// Kind.
    pub kind: i32,
    /// First byte.
    pub start: u64,
    /// Number of bytes; zero reaches to the end of the file, wherever it is.
    pub len: u64,
}

impl RangeLock {
    fn to_flock(self) -> Result<libc::flock> {
        // SAFETY: all zero is a valid `flock`; the process must be zero for these commands.
        let mut lock: libc::flock = unsafe { core::mem::zeroed() };
        lock.l_type = self.kind as i16;
        lock.l_whence = libc::SEEK_SET as i16;
        lock.l_start = i64::try_from(self.start).map_err(|_| Errno::EINVAL)?;
        lock.l_len = i64::try_from(self.len).map_err(|_| Errno::EINVAL)?;
        Ok(lock)
    }
}

/// Set or release a lock of the open file description.
///
/// # Errors
/// `EAGAIN` when another holds one that conflicts, and as fcntl(2).
pub fn set_range(fd: i32, lock: RangeLock) -> Result<()> {
    let mut lock = lock.to_flock()?;
    // SAFETY: the structure is valid; the kernel reads it.
    match check(unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &raw mut lock) }) {
        Ok(_) => Ok(()),
        Err(Errno::EACCES) => Err(Errno::EAGAIN),
        Err(error) => Err(error),
    }
}

/// Give a lock of another open file description that is in the way of this one, or `None`.
///
/// # Errors
/// As fcntl(2).
pub fn test_range(fd: i32, lock: RangeLock) -> Result<Option<RangeLock>> {
    let mut lock = lock.to_flock()?;
    // SAFETY: the structure is valid; the kernel reads and fills it.
    check(unsafe { libc::fcntl(fd, libc::F_OFD_GETLK, &raw mut lock) })?;
    let kind = i32::from(lock.l_type);
    Ok((kind != libc::F_UNLCK).then_some(RangeLock {
        kind,
        start: lock.l_start as u64,
        len: lock.l_len as u64,
    }))
}

/// Lock or unlock a whole file in the manner of flock(2): `LOCK_SH`, `LOCK_EX` or `LOCK_UN`.
///
/// # Errors
/// `EAGAIN` when another holds one that conflicts, and as flock(2).
pub fn flock(fd: i32, operation: i32) -> Result<()> {
    // SAFETY: plain call.
    check(unsafe { libc::flock(fd, operation | libc::LOCK_NB) })?;
    Ok(())
}
