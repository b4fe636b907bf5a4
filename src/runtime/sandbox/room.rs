//! The empty room: name spaces, and a root directory with nothing in it.

use core::fmt;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::SandboxError;
use crate::sys::identity;
use crate::sys::sandbox::{self as sys, space};
use crate::wire::errno::Errno;

/// Say what the process was shut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Name spaces of its own; the old root is out of reach.
    Apart {
        /// Also a name space of users: the process was started without privileges.
        users: bool,
        /// Also a name space of the network.
        network: bool,
    },
    /// The name spaces of the system, with an empty directory as root: mounts are not permitted.
    Changed,
}

impl fmt::Display for Room {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apart { users, network } => {
                write!(out, "empty root by pivot_root")?;
                if *users {
                    write!(out, ", own users")?;
                }
                write!(
                    out,
                    ", {}",
                    if *network {
                        "no network"
                    } else {
                        "the system's network"
                    }
                )
            }
            Self::Changed => write!(out, "empty root by chroot, as mounts are not permitted"),
        }
    }
}

/// Shut the process in; `dir` is a folder that exists. With `connects`, a backend makes connections while it serves, and
/// the system's network stays.
pub(super) fn enter(dir: &Path, connects: bool) -> Result<Room, SandboxError> {
    match sys::unshare(space::MOUNTS | space::IPC) {
        Ok(()) => apart(dir, false, connects),
        Err(_) if identity::uid() != 0 => {
            own_users()?;
            apart(dir, true, connects)
        }
        // In a container without CAP_SYS_ADMIN. A name space of users would take a root's rights over files away.
        Err(_) => {
            changed(dir)?;
            Ok(Room::Changed)
        }
    }
}

fn apart(dir: &Path, users: bool, connects: bool) -> Result<Room, SandboxError> {
    // Sockets that were bound before stay where they are. Where the system cannot give the network up, no system call
    // for it is left either.
    let network = !connects && sys::unshare(space::NETWORK).is_ok();
    let step = |step| move |error: Errno| SandboxError::new(step, error);
    let path = c_path(dir)?;
    sys::make_mounts_private().map_err(step("private mounts"))?;
    sys::mount_empty(&path).map_err(step("empty root"))?;
    sys::enter(&path).map_err(step("empty root"))?;
    match sys::swap_root() {
        Ok(()) => Ok(Room::Apart { users, network }),
        // The first root of an initramfs cannot be swapped.
        Err(Errno::EINVAL) => {
            sys::change_root().map_err(step("chroot"))?;
            Ok(Room::Changed)
        }
        Err(error) => Err(SandboxError::new("pivot_root", error)),
    }
}

/// Enter a name space of users, in which this user stays who it is.
fn own_users() -> Result<(), SandboxError> {
    let (uid, gid) = (identity::uid(), identity::gid());
    let refused = |error: Errno| {
        let why = format!("{error}; run as root, or allow user name spaces to users");
        SandboxError::new("name spaces without privileges", why)
    };
    sys::unshare(space::USERS | space::MOUNTS | space::IPC).map_err(refused)?;
    for (file, line) in [
        ("uid_map", format!("{uid} {uid} 1")),
        ("setgroups", "deny".into()),
        ("gid_map", format!("{gid} {gid} 1")),
    ] {
        fs::write(format!("/proc/self/{file}"), line)
            .map_err(|error| SandboxError::new("map of users", format!("{file}: {error}")))?;
    }
    Ok(())
}

fn changed(dir: &Path) -> Result<(), SandboxError> {
    let empty = dir.join("empty");
    let failed = |error: std::io::Error| {
        SandboxError::new("empty root", format!("{}: {error}", empty.display()))
    };
    fs::create_dir_all(&empty).map_err(failed)?;
    fs::set_permissions(&empty, fs::Permissions::from_mode(0o555)).map_err(failed)?;
    if fs::read_dir(&empty).map_err(failed)?.next().is_some() {
        let why = format!("{}: not empty", empty.display());
        return Err(SandboxError::new("empty root", why));
    }
    let step = |error: Errno| SandboxError::new("chroot", error);
    sys::enter(&c_path(&empty)?).map_err(step)?;
    sys::change_root().map_err(step)
}

fn c_path(path: &Path) -> Result<CString, SandboxError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| SandboxError::new("path", error))
}
