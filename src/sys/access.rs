//! Asking what this process may do with a file, without doing it.

use core::ffi::CStr;

use super::{Result, check};

/// Ask whether this process, with its effective user and capabilities, may make and remove files in a directory.
///
/// # Errors
/// As faccessat(2): `EACCES`, `EROFS`, `ENOENT`, ...
pub fn may_change(dir: &CStr) -> Result<()> {
    access(dir, libc::W_OK | libc::X_OK)
}

/// Ask whether this process may read a file, or list and search a directory.
///
/// # Errors
/// As faccessat(2).
pub fn may_read(path: &CStr) -> Result<()> {
    access(path, libc::R_OK)
}

fn access(path: &CStr, mode: i32) -> Result<()> {
    // SAFETY: the kernel reads a terminated string.
    check(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), mode, libc::AT_EACCESS) })?;
    Ok(())
}
