//! What workers do for operations on names: finding, making, removing, renaming.
//!
//! A name is one component without "/", checked by the FUSE layer. It is resolved below the directory's descriptor
//! with `RESOLVE_BENEATH` and without following links of any kind.

use core::ffi::CStr;

use super::attrs::{S_IFMT, S_IFREG};
use super::identity::Permissions;
use super::job::{Answer, How, Job, Operation};
use super::nodes::Wait;
use super::volume::LocalVolume;
use super::work::done;
use crate::fuse::{Created, Entry, NodeId};
use crate::sys::fd::Fd;
use crate::sys::file::{self, FdName};
use crate::sys::{Result, names, stat, xattr};
use crate::wire::errno::Errno;
use crate::wire::fuse::decode_dev;
use crate::wire::open_flags::OpenFlags;

/// How names are resolved: no way up, no link, no door through `/proc`.
pub const BENEATH: u64 =
    libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;

/// How nodes are opened.
pub const NODE: i32 = libc::O_PATH | libc::O_NOFOLLOW;

impl LocalVolume {
    pub(super) fn run_on_names(&'static self, job: &mut Job) -> Result<Answer> {
        match job.operation {
            Operation::Lookup { parent } => self.look_up(job, parent),
            Operation::Symlink { parent, how } => self.symlink(job, parent, how),
            Operation::Mknod { parent, rdev, how } => self.mknod(job, parent, rdev, how),
            Operation::Mkdir { parent, how } => self.mkdir(job, parent, how),
            Operation::Unlink { parent, directory } => {
                let flags = if directory { libc::AT_REMOVEDIR } else { 0 };
                let dir = self.reach(parent)?;
                names::unlink(dir.raw(), job.name.get(), flags).map(done)
            }
            Operation::Rename {
                parent,
                new_parent,
                flags,
            } => {
                let (dir, new_dir) = (self.reach(parent)?, self.reach(new_parent)?);
                let (name, new_name) = (job.name.get(), job.other.get());
                names::rename(dir.raw(), name, new_dir.raw(), new_name, flags).map(done)
            }
            Operation::Link { node, new_parent } => self.link(job, node, new_parent),
            Operation::Create {
                parent,
                flags,
                kill,
                how,
            } => self.create(job, parent, flags, kill, how),
            Operation::Tmpfile { parent, flags, how } => self.tmpfile(job, parent, flags, how),
            _ => Err(Errno::ENOSYS),
        }
    }

    fn look_up(&'static self, job: &Job, parent: NodeId) -> Result<Answer> {
        let dir = self.reach(parent)?;
        let (links, name) = (self.links.raw(), job.name.get());
        let fd = match name.to_bytes() {
            // Asked by a host that exports its mount: a node by its number, and its way to the root.
            b"." => {
                let own = FdName::new(dir.raw());
                self.with_descriptors(|| file::openat(links, own.as_c_str(), libc::O_PATH))
            }
            b".." if parent == NodeId::ROOT => {
                let own = FdName::new(dir.raw());
                self.with_descriptors(|| file::openat(links, own.as_c_str(), libc::O_PATH))
            }
            // Ends at the root only if that is a mount's.
            b".." if !self.detached => return Err(Errno::ESTALE),
            b".." => self.with_descriptors(|| file::openat(dir.raw(), name, NODE)),
            _ => self.with_descriptors(|| file::openat2(dir.raw(), name, NODE, 0, BENEATH)),
        };
        match (fd, self.ttl.negative) {
            (Ok(fd), _) => self.entered(fd, job.epoch).map(Answer::Entry),
            (Err(Errno::ENOENT), Some(ttl)) => Ok(Answer::Entry(Entry::negative(ttl))),
            (Err(error), _) => Err(error),
        }
    }

    fn entered(&'static self, fd: Fd, epoch: u32) -> Result<Entry> {
        self.enter(fd, epoch, Wait::May).unwrap_or(Err(Errno::EIO))
    }

    /// Find what was just made and set its security attribute; when that fails, take it away again.
    fn made(
        &'static self,
        job: &Job,
        dir: i32,
        how: &How,
        target: usize,
        undo: i32,
    ) -> Result<Answer> {
        let name = job.name.get();
        let fd = self.with_descriptors(|| file::openat2(dir, name, NODE, 0, BENEATH))?;
        if let Err(error) = set_security(job, fd.raw(), how, target) {
            let _ = names::unlink(dir, name, undo);
            return Err(error);
        }
        self.entered(fd, job.epoch).map(Answer::Entry)
    }

    fn symlink(&'static self, job: &Job, parent: NodeId, how: How) -> Result<Answer> {
        let dir = self.reach(parent)?;
        let target = CStr::from_bytes_until_nul(job.buffer).map_err(|_| Errno::EINVAL)?;
        {
            let _acting = self.act_as(job.caller, how.group, 0, Permissions::Checked)?;
            names::symlink(target, dir.raw(), job.name.get())?;
        }
        self.made(job, dir.raw(), &how, target.count_bytes() + 1, 0)
    }

    fn mknod(&'static self, job: &Job, parent: NodeId, rdev: u32, how: How) -> Result<Answer> {
        let dir = self.reach(parent)?;
        let (major, minor) = decode_dev(rdev);
        {
            let _acting = self.act_as(job.caller, how.group, how.umask, Permissions::Checked)?;
            names::mknod(dir.raw(), job.name.get(), how.mode, major, minor)?;
        }
        self.made(job, dir.raw(), &how, 0, 0)
    }

    fn mkdir(&'static self, job: &Job, parent: NodeId, how: How) -> Result<Answer> {
        let dir = self.reach(parent)?;
        {
            let _acting = self.act_as(job.caller, how.group, how.umask, Permissions::Checked)?;
            names::mkdir(dir.raw(), job.name.get(), how.mode & 0o7777)?;
        }
        self.made(job, dir.raw(), &how, 0, libc::AT_REMOVEDIR)
    }

    fn link(&'static self, job: &Job, node: NodeId, new_parent: NodeId) -> Result<Answer> {
        let (fd, dir) = (self.reach(node)?, self.reach(new_parent)?);
        names::link(fd.raw(), self.links.raw(), dir.raw(), job.name.get())?;
        let own = FdName::new(fd.raw());
        let again =
            self.with_descriptors(|| file::openat(self.links.raw(), own.as_c_str(), libc::O_PATH))?;
        self.entered(again, job.epoch).map(Answer::Entry)
    }

    fn create(
        &'static self,
        job: &Job,
        parent: NodeId,
        flags: OpenFlags,
        kill: bool,
        how: How,
    ) -> Result<Answer> {
        let dir = self.reach(parent)?;
        let name = job.name.get();
        // A plain open could open what is there meanwhile: a device, a FIFO, the target of a link.
        let own = (self.open_flags(flags) & !libc::O_TRUNC)
            | libc::O_CREAT
            | libc::O_EXCL
            | libc::O_NOFOLLOW
            | libc::O_NOCTTY;
        let made = {
            let _acting = self.act_as(job.caller, how.group, how.umask, Permissions::Checked)?;
            self.with_descriptors(|| create_exclusively(dir.raw(), name, own, how.mode & 0o7777))
        };
        match made {
            Ok((file, direct)) => {
                if let Err(error) = set_security(job, file.raw(), &how, 0) {
                    let _ = names::unlink(dir.raw(), name, 0);
                    return Err(error);
                }
                self.created(job, file, direct)
            }
            Err(Errno::EEXIST) if !flags.contains(OpenFlags::EXCL) => {
                self.open_existing(job, dir.raw(), flags, kill, how)
            }
            Err(error) => Err(error),
        }
    }

    /// Open what another made under the name since the host looked.
    ///
    /// The host has not checked whether the caller may, so this does. It knows only one of the caller's groups,
    /// though; so it answers a refusal, and anything but a regular file, with `ESTALE`: the host then looks again.
    fn open_existing(
        &'static self,
        job: &Job,
        dir: i32,
        flags: OpenFlags,
        kill: bool,
        how: How,
    ) -> Result<Answer> {
        let name = job.name.get();
        let fd = self.with_descriptors(|| file::openat2(dir, name, NODE, 0, BENEATH))?;
        let kind = u32::from(stat::statx(fd.raw(), libc::STATX_TYPE, 0)?.stx_mode) & S_IFMT;
        if kind != S_IFREG {
            return Err(Errno::ESTALE);
        }
        let opened = {
            let _acting = self.act_as(job.caller, how.group, 0, Permissions::Check)?;
            // Truncation is apart: it is the caller's right only if opening is.
            self.open_again(fd.raw(), flags - OpenFlags::TRUNC, false)
        };
        let (file, direct) = opened.map_err(|error| match error {
            Errno::EACCES | Errno::EPERM => Errno::ESTALE,
            error => error,
        })?;
        if flags.contains(OpenFlags::TRUNC) {
            let _acting = self.act_unprivileged(kill)?;
            stat::ftruncate(file.raw(), 0)?;
        }
        self.created(job, file, direct)
    }

    fn tmpfile(
        &'static self,
        job: &Job,
        parent: NodeId,
        flags: OpenFlags,
        how: How,
    ) -> Result<Answer> {
        let dir = self.reach(parent)?;
        let excl = if flags.contains(OpenFlags::EXCL) {
            libc::O_EXCL
        } else {
            0
        };
        let own = (self.open_flags(flags) & !libc::O_TRUNC) | libc::O_TMPFILE | excl;
        let (file, direct) = {
            let _acting = self.act_as(job.caller, how.group, how.umask, Permissions::Checked)?;
            self.with_descriptors(|| create_exclusively(dir.raw(), c".", own, how.mode & 0o7777))?
        };
        set_security(job, file.raw(), &how, 0)?;
        self.created(job, file, direct)
    }

    /// Give a new open file its node and its number.
    fn created(&'static self, job: &Job, file: Fd, direct: bool) -> Result<Answer> {
        let own = FdName::new(file.raw());
        let path =
            self.with_descriptors(|| file::openat(self.links.raw(), own.as_c_str(), libc::O_PATH))?;
        let entry = self.entered(path, job.epoch)?;
        let opened = self.add_file(file, entry.node, direct, false, job.epoch);
        match opened {
            Ok(opened) => Ok(Answer::Created(Created { entry, opened })),
            Err(error) => {
                // The host does not hear of the node.
                if let Some(value) = self.nodes.forget(entry.node.0, 1) {
                    self.node_is_gone(entry.node, value);
                }
                Err(error)
            }
        }
    }
}

/// Create a file; where the file system cannot bypass the page cache, without that. Tells which it is.
fn create_exclusively(dir: i32, name: &CStr, flags: i32, mode: u32) -> Result<(Fd, bool)> {
    let direct = flags & libc::O_DIRECT != 0;
    match file::openat2(dir, name, flags, mode, BENEATH) {
        // Refused after the file was made, so it is there by now; O_TMPFILE leaves nothing.
        Err(Errno::EINVAL) if direct => {
            let plain = flags & !libc::O_DIRECT;
            match file::openat2(dir, name, plain, mode, BENEATH) {
                Err(Errno::EEXIST) => {
                    let plain = plain & !(libc::O_CREAT | libc::O_EXCL);
                    Ok((file::openat2(dir, name, plain, 0, BENEATH)?, false))
                }
                file => Ok((file?, false)),
            }
        }
        file => Ok((file?, direct)),
    }
}

/// Set the security attribute that came with a creation.
fn set_security(job: &Job, fd: i32, how: &How, at: usize) -> Result<()> {
    let Some((name_len, value_len)) = how.security else {
        return Ok(());
    };
    let bytes = job
        .buffer
        .get(at..at + name_len + value_len)
        .ok_or(Errno::EINVAL)?;
    let (name, value) = bytes.split_at(name_len);
    let name = CStr::from_bytes_with_nul(name).map_err(|_| Errno::EINVAL)?;
    // Workers stand in `/proc/self/fd`.
    match xattr::set(FdName::new(fd).as_c_str(), name, value, 0) {
        // A file system without labels has none on new files either.
        Err(Errno::EOPNOTSUPP) => Ok(()),
        result => result,
    }
}
