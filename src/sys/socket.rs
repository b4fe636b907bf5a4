//! Sockets: sending without waiting, and unix stream sockets that carry descriptors.

use core::mem::MaybeUninit;

use super::{Result, check, check_size};

/// Send bytes without waiting for room, and without a signal when the peer is gone.
///
/// # Errors
/// As send(2); `EAGAIN` when there is no room.
pub fn send_now(fd: i32, bytes: &[u8]) -> Result<usize> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the kernel reads at most `len` bytes of the buffer.
    check_size(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Tell whether a descriptor is a socket.
///
/// # Errors
/// As fstat(2).
pub fn is_socket(fd: i32) -> Result<bool> {
    Ok(mode(fd)? & libc::S_IFMT == libc::S_IFSOCK)
}

fn mode(fd: i32) -> Result<u32> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills the structure.
    check(unsafe { libc::fstat(fd, stat.as_mut_ptr()) })?;
    // SAFETY: filled by the successful call.
    Ok(unsafe { stat.assume_init() }.st_mode)
}

/// Let operations on a descriptor fail with `EAGAIN` instead of waiting. Its other owners see that, too.
///
/// # Errors
/// As fcntl(2).
pub fn set_nonblocking(fd: i32) -> Result<()> {
    // SAFETY: plain calls on a descriptor number.
    unsafe {
        let flags = check(libc::fcntl(fd, libc::F_GETFL))?;
        check(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK))?;
    }
    Ok(())
}
