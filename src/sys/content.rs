//! Content of open files, apart from plain reading and writing.

use super::{Result, check, check_size};
use crate::wire::errno::Errno;

/// Allocate or free space; `mode` is `FALLOC_FL_*`.
///
/// # Errors
/// As fallocate(2).
pub fn fallocate(fd: i32, mode: i32, offset: u64, length: u64) -> Result<()> {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return Err(Errno::EFBIG);
    };
    // SAFETY: plain call.
    check(unsafe { libc::fallocate(fd, mode, offset, length) })?;
    Ok(())
}

/// Copy between open files inside the kernel; gives the number of bytes, zero at the source's end.
///
/// # Errors
/// As copy_file_range(2).
pub fn copy_range(from: (i32, u64), to: (i32, u64), length: usize) -> Result<usize> {
    let (Ok(mut from_at), Ok(mut to_at)) = (i64::try_from(from.1), i64::try_from(to.1)) else {
        return Err(Errno::EINVAL);
    };
    // SAFETY: the offsets are ours; the kernel reads and updates them. Called by number: musl and old C libraries
    // lack the function.
    let copied = unsafe {
        libc::syscall(
            libc::SYS_copy_file_range,
            from.0,
            &raw mut from_at,
            to.0,
            &raw mut to_at,
            length,
            0,
        )
    };
    check_size(copied as isize)
}

/// Make a file durable; its content only with `datasync`.
///
/// # Errors
/// As fsync(2).
pub fn sync(fd: i32, datasync: bool) -> Result<()> {
    // SAFETY: plain calls.
    check(unsafe {
        if datasync {
            libc::fdatasync(fd)
        } else {
            libc::fsync(fd)
        }
    })?;
    Ok(())
}

/// Make the whole file system of an open file durable.
///
/// # Errors
/// As syncfs(2).
pub fn syncfs(fd: i32) -> Result<()> {
    // SAFETY: plain call.
    check(unsafe { libc::syncfs(fd) })?;
    Ok(())
}
