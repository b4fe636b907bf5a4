//! Extended attributes, by path: the only calls that reach files of every kind are those that take one.
//!
//! Callers stand in `/proc/self/fd` and name a descriptor by its number, which leads to its file without following a
//! symbolic link any further.

use core::ffi::CStr;

use super::{Result, check, check_size};

/// Get an attribute's value; an empty buffer asks for its length.
///
/// # Errors
/// As getxattr(2).
pub fn get(path: &CStr, name: &CStr, value: &mut [u8]) -> Result<usize> {
    // SAFETY: the strings are terminated; the kernel writes at most `len` bytes of the buffer.
    check_size(unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    })
}

/// Set an attribute; `flags` are `XATTR_CREATE` 1, `XATTR_REPLACE` 2.
///
/// # Errors
/// As setxattr(2).
pub fn set(path: &CStr, name: &CStr, value: &[u8], flags: i32) -> Result<()> {
    // SAFETY: the strings are terminated; the kernel reads `len` bytes of the value.
    check(unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags,
        )
    })?;
    Ok(())
}

/// List the names, each with its NUL; an empty buffer asks for their length.
///
/// # Errors
/// As listxattr(2).
pub fn list(path: &CStr, names: &mut [u8]) -> Result<usize> {
    // SAFETY: the path is terminated; the kernel writes at most `len` bytes of the buffer.
    check_size(unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) })
}

/// Remove an attribute.
///
/// # Errors
/// As removexattr(2).
pub fn remove(path: &CStr, name: &CStr) -> Result<()> {
    // SAFETY: the strings are terminated and only read.
    check(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) })?;
    Ok(())
}
