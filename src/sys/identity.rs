//! Who this process acts as.

/// Give the effective user.
pub fn uid() -> u32 {
    // SAFETY: plain call that cannot fail.
    unsafe { libc::geteuid() }
}

/// Give the effective group.
pub fn gid() -> u32 {
    // SAFETY: as above.
    unsafe { libc::getegid() }
}
