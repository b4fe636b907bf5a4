//! Mounting and unmounting.

use core::ffi::CStr;

use super::{Result, check};

/// Flag of [`mount`]: nothing can be changed through it.
pub const READ_ONLY: u64 = libc::MS_RDONLY;
/// Flag of [`mount`]: set-user-ID bits mean nothing.
pub const NOSUID: u64 = libc::MS_NOSUID;
/// Flag of [`mount`]: device nodes cannot be opened.
pub const NODEV: u64 = libc::MS_NODEV;

/// Mount a file system; `flags` are `MS_*`, some of which stand above.
///
/// # Errors
/// As mount(2); `EPERM` without `CAP_SYS_ADMIN`.
pub fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64, data: &CStr) -> Result<()> {
    // SAFETY: the kernel reads four terminated strings.
    check(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags as libc::c_ulong,
            data.as_ptr().cast(),
        )
    })?;
    Ok(())
}

/// Take a mount out of the tree; it goes when its last user does. A symbolic link is not followed.
///
/// # Errors
/// As umount2(2): `EINVAL` when nothing is mounted there, `EPERM` without `CAP_SYS_ADMIN`.
pub fn detach(target: &CStr) -> Result<()> {
    // SAFETY: the kernel reads a terminated string.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) })?;
    Ok(())
}
