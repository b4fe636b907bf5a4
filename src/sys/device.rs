//! Character devices.

use core::ffi::CStr;

use super::fd::Fd;
use super::{Result, check};

/// Open a device for reading and writing.
///
/// # Errors
/// As open(2).
pub fn open(path: &CStr) -> Result<Fd> {
    // SAFETY: the kernel reads a terminated string.
    let raw = check(unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) })?;
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { Fd::from_raw(raw) })
}

/// Do a device-specific operation that takes the address of one number.
///
/// # Safety
/// `request` must be one that reads and writes nothing but that number.
///
/// # Errors
/// As ioctl(2).
pub unsafe fn ioctl_u32(fd: i32, request: u32, number: &mut u32) -> Result<i32> {
    // SAFETY: the caller vouches for the request; the number is borrowed for the call.
    check(unsafe { libc::ioctl(fd, request as _, core::ptr::from_mut(number)) })
}

/// Tell whether a descriptor is in its error state, as a device is whose other side is gone.
pub fn gone(fd: i32) -> bool {
    let mut entry = libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    };
    // SAFETY: the kernel reads and writes one entry.
    let ready = unsafe { libc::poll(&mut entry, 1, 0) };
    ready == 1 && entry.revents & (libc::POLLERR | libc::POLLNVAL) != 0
}
