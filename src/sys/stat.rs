//! Attributes of files and file systems: reading and changing them.

use core::ffi::CStr;
use core::mem::MaybeUninit;

use super::{Result, check};

/// Hold what statx(2) tells.
pub type Statx = libc::statx;

/// Call statx(2) on a descriptor, of whatever kind; `mask` is `STATX_*`, `sync` one of `AT_STATX_*`.
///
/// # Errors
/// As statx(2).
#[inline]
pub fn statx(fd: i32, mask: u32, sync: i32) -> Result<Statx> {
    let mut stat = MaybeUninit::<Statx>::zeroed();
    // SAFETY: the kernel fills the structure, which is valid when all zero.
    check(unsafe {
        libc::statx(
            fd,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | sync,
            mask,
            stat.as_mut_ptr(),
        )
    })?;
    // SAFETY: as above.
    Ok(unsafe { stat.assume_init() })
}

/// Call fstatfs(2).
///
/// # Errors
/// As fstatfs(2).
pub fn statfs(fd: i32) -> Result<libc::statfs> {
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the kernel fills the structure, which is valid when all zero.
    check(unsafe { libc::fstatfs(fd, stat.as_mut_ptr()) })?;
    // SAFETY: as above.
    Ok(unsafe { stat.assume_init() })
}

/// Change the permissions of the file that `name` leads to; a link in `/proc/self/fd` leads to its file.
///
/// # Errors
/// As fchmodat(2).
pub fn chmod(dir: i32, name: &CStr, mode: u32) -> Result<()> {
    // SAFETY: the name is terminated and only read.
    check(unsafe { libc::fchmodat(dir, name.as_ptr(), mode, 0) })?;
    Ok(())
}

/// Change owner and group of a descriptor's file; `None` leaves one as it is.
///
/// # Errors
/// As fchownat(2).
pub fn chown(fd: i32, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let (uid, gid) = (uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX));
    // SAFETY: the name is terminated and only read.
    check(unsafe { libc::fchownat(fd, c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) })?;
    Ok(())
}

/// Say what a time stamp becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stamp {
    /// Nothing changes.
    Omit,
    /// This machine's present time.
    Now,
    /// Seconds and nanoseconds since 1970; more than 999,999,999 nanoseconds are `EINVAL`.
    At(i64, u32),
}

impl Stamp {
    fn timespec(self) -> libc::timespec {
        let (tv_sec, tv_nsec) = match self {
            Self::Omit => (0, libc::UTIME_OMIT),
            Self::Now => (0, libc::UTIME_NOW),
            // The two special values are above a second, so a host cannot smuggle them in.
            Self::At(seconds, nanoseconds) if nanoseconds < 1_000_000_000 => {
                (seconds, i64::from(nanoseconds))
            }
            Self::At(seconds, _) => (seconds, -1),
        };
        libc::timespec { tv_sec, tv_nsec }
    }
}

/// Set the times of last access and last change of the file that `name` leads to.
///
/// # Errors
/// As utimensat(2).
pub fn utimens(dir: i32, name: &CStr, atime: Stamp, mtime: Stamp) -> Result<()> {
    let times = [atime.timespec(), mtime.timespec()];
    // SAFETY: the name is terminated, there are two times; both are only read.
    check(unsafe { libc::utimensat(dir, name.as_ptr(), times.as_ptr(), 0) })?;
    Ok(())
}

/// Set the size of an open file in bytes.
///
/// # Errors
/// As ftruncate(2); `EFBIG` above `i64::MAX`.
pub fn ftruncate(fd: i32, size: u64) -> Result<()> {
    let size = i64::try_from(size).map_err(|_| crate::wire::errno::Errno::EFBIG)?;
    // SAFETY: plain call.
    check(unsafe { libc::ftruncate(fd, size) })?;
    Ok(())
}
