//! What a process gives up: name spaces, its root, capabilities, limits.
//!
//! Everything here is for a process that has one thread: capabilities and name spaces belong to a thread, and those
//! that come later inherit them.

use core::ffi::CStr;

use super::creds::{self, Capabilities};
use super::{Result, check, last_error};

/// Name spaces for [`unshare`].
pub mod space {
    /// Mounts.
    pub const MOUNTS: i32 = libc::CLONE_NEWNS;
    /// Network devices, addresses, abstract sockets.
    pub const NETWORK: i32 = libc::CLONE_NEWNET;
    /// System V IPC, POSIX message queues.
    pub const IPC: i32 = libc::CLONE_NEWIPC;
    /// Users; gives every capability within, and needs none.
    pub const USERS: i32 = libc::CLONE_NEWUSER;
}

/// Limits for [`limit`] and [`set_limit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Open descriptors.
    Descriptors,
    /// Bytes of a core dump.
    Core,
    /// Bytes of locked memory.
    Locked,
}

/// No limit.
pub const UNLIMITED: u64 = libc::RLIM_INFINITY;

/// Leave name spaces of [`space`] for new ones.
///
/// # Errors
/// As unshare(2): `EPERM` without `CAP_SYS_ADMIN` or where the system forbids it.
pub fn unshare(spaces: i32) -> Result<()> {
    // SAFETY: plain call; memory and descriptors stay shared.
    check(unsafe { libc::unshare(spaces) })?;
    Ok(())
}

/// Tell whether the process has one thread.
pub fn single_threaded() -> bool {
    // SAFETY: plain call. It changes nothing in a process of one thread and is refused in any other.
    unsafe { libc::unshare(libc::CLONE_THREAD) == 0 }
}

/// Let no mount of this name space show in others, nor theirs here.
///
/// # Errors
/// As mount(2).
pub fn make_mounts_private() -> Result<()> {
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    mount(c"none", c"/", c"none", flags, c"")
}

/// Mount an empty directory, which nobody can write to, over `target`.
///
/// # Errors
/// As mount(2).
pub fn mount_empty(target: &CStr) -> Result<()> {
    let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount(
        c"dpfs",
        target,
        c"tmpfs",
        flags,
        c"mode=0555,nr_inodes=2,size=4096",
    )
}

fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64, data: &CStr) -> Result<()> {
    super::mount::mount(source, target, kind, flags, data)
}

/// Change the working directory.
///
/// # Errors
/// As chdir(2).
pub fn enter(path: &CStr) -> Result<()> {
    // SAFETY: the kernel reads a terminated string.
    check(unsafe { libc::chdir(path.as_ptr()) })?;
    Ok(())
}

/// Make the working directory, a mount of its own, the root of the name space of mounts, and let go of the old one.
///
/// # Errors
/// As pivot_root(2): `EINVAL` when the root is the kernel's first, as in an initramfs.
pub fn swap_root() -> Result<()> {
    // SAFETY: both are terminated strings. With both the same the old root ends up on top of the new one, from where
    // it is taken away.
    unsafe {
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) as i32)?;
        check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
    }
    enter(c"/")
}

/// Make the working directory the root of this process.
///
/// # Errors
/// As chroot(2).
pub fn change_root() -> Result<()> {
    // SAFETY: a terminated string.
    check(unsafe { libc::chroot(c".".as_ptr()) })?;
    enter(c"/")
}

/// Let no program that this process may run give it more than it has.
///
/// # Errors
/// None that a correct call can meet.
pub fn no_new_privileges() -> Result<()> {
    // SAFETY: plain call.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    Ok(())
}

/// Capabilities that the kernel's sets have room for.
const CAP_BITS: u32 = 64;

/// Drop every capability whose bit is not in `keep`, for good.
///
/// # Errors
/// As capset(2).
pub fn keep_capabilities(keep: u64) -> Result<()> {
    for number in 0..CAP_BITS {
        if keep & 1 << number == 0 {
            // SAFETY: plain call. It fails for numbers that the kernel does not have, and without CAP_SETPCAP, where
            // `no_new_privileges` sees to it that nothing comes back.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
        }
    }
    let now = creds::capabilities()?;
    // Ambient capabilities go with the inheritable ones.
    creds::set_capabilities(&Capabilities {
        effective: now.effective & keep,
        permitted: now.permitted & keep,
        inheritable: 0,
    })
}

/// Give a limit: what is in force and how far it may be raised.
///
/// # Errors
/// None that a correct call can meet.
pub fn limit(limit: Limit) -> Result<(u64, u64)> {
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel fills the structure.
    if unsafe { libc::getrlimit(resource(limit), &mut now) } != 0 {
        return Err(last_error());
    }
    Ok((now.rlim_cur, now.rlim_max))
}

/// Set a limit.
///
/// # Errors
/// `EPERM` to raise the second without `CAP_SYS_RESOURCE`, or for more descriptors than the system allows.
pub fn set_limit(limit: Limit, in_force: u64, at_most: u64) -> Result<()> {
    let new = libc::rlimit {
        rlim_cur: in_force,
        rlim_max: at_most,
    };
    // SAFETY: the kernel reads the structure.
    if unsafe { libc::setrlimit(resource(limit), &new) } != 0 {
        return Err(last_error());
    }
    Ok(())
}

#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

const fn resource(limit: Limit) -> Resource {
    match limit {
        Limit::Descriptors => libc::RLIMIT_NOFILE,
        Limit::Core => libc::RLIMIT_CORE,
        Limit::Locked => libc::RLIMIT_MEMLOCK,
    }
}
