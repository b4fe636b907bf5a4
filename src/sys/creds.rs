//! Who a thread is to the file system: user, group, capabilities, and its own working directory and umask.
//!
//! The calls of the C library change all threads of a process; these change the calling one alone, as the kernel does.

use super::{Result, check};

/// Capabilities that matter to a file server, as bit numbers of `capabilities(7)`.
pub mod cap {
    /// Change owners.
    pub const CHOWN: u32 = 0;
    /// Pass over permissions.
    pub const DAC_OVERRIDE: u32 = 1;
    /// Pass over permissions to read and search; open by handle.
    pub const DAC_READ_SEARCH: u32 = 2;
    /// Act as the owner.
    pub const FOWNER: u32 = 3;
    /// Keep set-user-ID and set-group-ID bits.
    pub const FSETID: u32 = 4;
    /// Change groups.
    pub const SETGID: u32 = 6;
    /// Change users.
    pub const SETUID: u32 = 7;
    /// Bind ports below 1024.
    pub const NET_BIND_SERVICE: u32 = 10;
    /// Mount; trusted extended attributes.
    pub const SYS_ADMIN: u32 = 21;
    /// Raise limits.
    pub const SYS_RESOURCE: u32 = 24;
    /// Make device nodes.
    pub const MKNOD: u32 = 27;
    /// Set files' capabilities.
    pub const SETFCAP: u32 = 31;
}

/// Hold sets of capabilities as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// In force.
    pub effective: u64,
    /// May be put in force.
    pub permitted: u64,
    /// Kept on exec.
    pub inheritable: u64,
}

impl Capabilities {
    /// Tell whether a capability is in force.
    pub const fn has(&self, number: u32) -> bool {
        self.effective & 1 << number != 0
    }
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: two words of each set.
const VERSION: u32 = 0x2008_0522;

/// Read the calling thread's capabilities.
///
/// # Errors
/// None that a correct call can meet.
pub fn capabilities() -> Result<Capabilities> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 fills two elements.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    check(done as i32)?;
    let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    Ok(Capabilities {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

/// Set the calling thread's capabilities.
///
/// # Errors
/// `EPERM` for more than is permitted.
pub fn set_capabilities(caps: &Capabilities) -> Result<()> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let word = |shift: u32| Data {
        effective: (caps.effective >> shift) as u32,
        permitted: (caps.permitted >> shift) as u32,
        inheritable: (caps.inheritable >> shift) as u32,
    };
    let data = [word(0), word(32)];
    // SAFETY: version 3 reads two elements.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    check(done as i32)?;
    Ok(())
}

/// Set the calling thread's user for access to files. Zero and others exchange the capabilities over files too.
pub fn set_fs_user(uid: u32) {
    // SAFETY: plain call; it reports no error.
    unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
}

/// Set the calling thread's group for access to files.
pub fn set_fs_group(gid: u32) {
    // SAFETY: plain call; it reports no error.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
}

/// Set the calling thread's supplementary groups.
///
/// # Errors
/// `EPERM` without CAP_SETGID.
pub fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: the kernel reads as many groups as stated.
    let done = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    check(done as i32)?;
    Ok(())
}

/// Give the calling thread a working directory and a umask of its own.
///
/// # Errors
/// As unshare(2).
pub fn unshare_directory() -> Result<()> {
    // SAFETY: plain call; memory and descriptors stay shared.
    check(unsafe { libc::unshare(libc::CLONE_FS) })?;
    Ok(())
}

/// Set the working directory.
///
/// # Errors
/// As fchdir(2).
pub fn enter_directory(dir: i32) -> Result<()> {
    // SAFETY: plain call.
    check(unsafe { libc::fchdir(dir) })?;
    Ok(())
}

/// Set the umask.
pub fn set_umask(mask: u32) {
    // SAFETY: plain call that cannot fail.
    unsafe { libc::umask(mask) };
}
