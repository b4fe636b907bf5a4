//! The mounts that are served: the root's, and those below it that the host came across.
//!
//! A handle names a file within a mount, and opening it needs a descriptor of that mount. So a mount is registered when
//! a lookup first enters it; the table only grows, and is read without a lock.

use core::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::sys::fd::Fd;
use crate::sys::{Result, file, stat};

/// Most mounts; files on one beyond are served by descriptors, as on a file system without handles.
const MOUNTS: usize = 256;

/// Number a mount in the order of registration; the root's is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MountId(pub u16);

/// Describe a mount.
pub struct Mount {
    /// The kernel's number of it.
    kernel_id: i32,
    /// A descriptor on it that is not an `O_PATH` one. `None`: its files cannot be opened by handle.
    pub fd: Option<Fd>,
}

/// Hold the mounts of a volume.
pub struct Mounts {
    mounts: [OnceLock<Mount>; MOUNTS],
    count: AtomicU16,
    growing: Mutex<()>,
}

impl Mounts {
    /// Make an empty table.
    pub fn new() -> Self {
        Self {
            mounts: [const { OnceLock::new() }; MOUNTS],
            count: AtomicU16::new(0),
            growing: Mutex::new(()),
        }
    }

    /// Give a mount.
    pub fn get(&self, id: MountId) -> Option<&Mount> {
        self.mounts.get(usize::from(id.0))?.get()
    }

    /// Find a mount by the kernel's number.
    pub fn find(&self, kernel_id: i32) -> Option<MountId> {
        let count = self.count.load(Ordering::Acquire);
        (0..count).map(MountId).find(|&id| {
            self.get(id)
                .is_some_and(|mount| mount.kernel_id == kernel_id)
        })
    }

    /// Register the mount that `fd`, which may be an `O_PATH` descriptor, is on. `links` is `/proc/self/fd`.
    ///
    /// Opens files: not for a core. `None` when the table is full.
    pub fn register(&self, kernel_id: i32, fd: i32, links: i32) -> Option<MountId> {
        let _one_at_a_time = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = self.find(kernel_id) {
            return Some(id);
        }
        let id = MountId(self.count.load(Ordering::Relaxed));
        let place = self.mounts.get(usize::from(id.0))?;
        let fd = open_mount(fd, links).ok();
        if place.set(Mount { kernel_id, fd }).is_err() {
            return None;
        }
        self.count.store(id.0 + 1, Ordering::Release);
        Some(id)
    }
}

/// Open a directory or regular file for naming its mount, and try whether handles work there.
fn open_mount(fd: i32, links: i32) -> Result<Fd> {
    let kind = u32::from(stat::statx(fd, libc::STATX_TYPE, 0)?.stx_mode) & super::attrs::S_IFMT;
    let flags = match kind {
        super::attrs::S_IFDIR => libc::O_RDONLY | libc::O_DIRECTORY,
        super::attrs::S_IFREG => libc::O_RDONLY | libc::O_NOCTTY | libc::O_NONBLOCK,
        _ => return Err(crate::wire::errno::Errno::EOPNOTSUPP),
    };
    let mount = file::openat(links, file::FdName::new(fd).as_c_str(), flags)?;
    let (handle, _) = file::name_to_handle(fd)?;
    file::open_by_handle(mount.raw(), &handle, libc::O_PATH)?;
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_registered_once() {
        let root = file::openat(libc::AT_FDCWD, c"/", libc::O_PATH).unwrap();
        let links = file::openat(libc::AT_FDCWD, c"/proc/self/fd", libc::O_PATH).unwrap();
        let mounts = Mounts::new();
        assert_eq!(mounts.find(7), None);
        for _ in 0..2 {
            let id = mounts.register(7, root.raw(), links.raw());
            assert_eq!(id, Some(MountId(0)));
        }
        assert_eq!(mounts.find(7), Some(MountId(0)));
        assert_eq!(mounts.find(8), None);
    }
}
