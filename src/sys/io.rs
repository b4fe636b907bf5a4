//! Reading and writing, into plain buffers and into a request's segments.

use core::mem::size_of;

use super::{Result, check_size};
use crate::mem::Segment;

const _: () = assert!(size_of::<Segment>() == size_of::<libc::iovec>());

/// Most segments that one system call takes (`UIO_MAXIOV`).
pub const MAX_IOV: usize = 1024;

/// Read into a buffer.
///
/// # Errors
/// As read(2).
pub fn read(fd: i32, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `len` bytes of the buffer.
    check_size(unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// Write a buffer.
///
/// # Errors
/// As write(2).
pub fn write(fd: i32, buffer: &[u8]) -> Result<usize> {
    // SAFETY: the kernel reads at most `len` bytes of the buffer.
    check_size(unsafe { libc::write(fd, buffer.as_ptr().cast(), buffer.len()) })
}

/// Read into segments from a place in a file; `flags` are `RWF_*`.
///
/// # Errors
/// As preadv2(2): `EAGAIN` with `RWF_NOWAIT` when the bytes are not in memory.
pub fn preadv(fd: i32, segments: &[Segment], offset: u64, flags: i32) -> Result<usize> {
    let count = segments.len().min(MAX_IOV) as i32;
    let offset = offset as libc::off_t;
    if let ([one], 0) = (segments, flags) {
        // A page by itself is the most frequent request, and a plain call spares the kernel the vector.
        // SAFETY: memory that may be written while its request lives (`Segment::new`).
        return check_size(unsafe { libc::pread(fd, one.base().cast(), one.len(), offset) });
    }
    // SAFETY: a segment is an `iovec` of memory that may be written while its request lives (`Segment::new`).
    check_size(unsafe { libc::preadv2(fd, segments.as_ptr().cast(), count, offset, flags) })
}

/// Write segments to a place in a file; `flags` are `RWF_*`.
///
/// # Errors
/// As pwritev2(2).
pub fn pwritev(fd: i32, segments: &[Segment], offset: u64, flags: i32) -> Result<usize> {
    let count = segments.len().min(MAX_IOV) as i32;
    let offset = offset as libc::off_t;
    if let ([one], 0) = (segments, flags) {
        // As for `preadv`.
        // SAFETY: memory that may be read while its request lives (`Segment::new`).
        return check_size(unsafe { libc::pwrite(fd, one.base().cast(), one.len(), offset) });
    }
    // SAFETY: a segment is an `iovec` of memory that may be read while its request lives (`Segment::new`).
    check_size(unsafe { libc::pwritev2(fd, segments.as_ptr().cast(), count, offset, flags) })
}

/// Read into segments at the stream's position.
///
/// # Errors
/// As readv(2).
pub fn readv(fd: i32, segments: &[Segment]) -> Result<usize> {
    let count = segments.len().min(MAX_IOV) as i32;
    // SAFETY: a segment is an `iovec` of memory that may be written while its request lives (`Segment::new`).
    check_size(unsafe { libc::readv(fd, segments.as_ptr().cast(), count) })
}

/// Write segments at the stream's position.
///
/// # Errors
/// As writev(2).
pub fn writev(fd: i32, segments: &[Segment]) -> Result<usize> {
    let count = segments.len().min(MAX_IOV) as i32;
    // SAFETY: a segment is an `iovec` of memory that may be read while its request lives (`Segment::new`).
    check_size(unsafe { libc::writev(fd, segments.as_ptr().cast(), count) })
}
