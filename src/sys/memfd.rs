//! Files that live in memory only, for sharing with another process.

use super::fd::Fd;
use super::{Result, check};

/// Make a file of `len` zero bytes.
///
/// # Errors
/// As memfd_create(2) and ftruncate(2).
pub fn create(name: &core::ffi::CStr, len: u64) -> Result<Fd> {
    let len = libc::off_t::try_from(len).map_err(|_| crate::wire::errno::Errno::EINVAL)?;
    // SAFETY: the kernel reads the name; the descriptor is new and ours.
    let file =
        unsafe { Fd::from_raw(check(libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC))?) };
    // SAFETY: plain call.
    check(unsafe { libc::ftruncate(file.raw(), len) })?;
    Ok(file)
}

/// Describe a file that is to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, where it is a file of a known length.
    pub len: Option<u64>,
    /// Bytes of its blocks: huge pages have large ones, and are mapped only at multiples of them.
    pub block: u64,
}

/// Look at a file that is to be mapped.
///
/// # Errors
/// As fstat(2).
pub fn extent(fd: i32) -> Result<Extent> {
    let mut stat = core::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills the structure.
    check(unsafe { libc::fstat(fd, stat.as_mut_ptr()) })?;
    // SAFETY: filled by the successful call.
    let stat = unsafe { stat.assume_init() };
    let regular = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
    Ok(Extent {
        len: regular.then_some(stat.st_size as u64),
        block: stat.st_blksize as u64,
    })
}
