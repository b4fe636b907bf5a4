//! What workers do for operations on nodes and open files. Each function may wait for a disk.

use super::attrs::{self, S_IFDIR, S_IFMT, S_IFREG};
use super::files::{OpenFile, Target};
use super::job::{Answer, Job, Operation};
use super::volume::LocalVolume;
use crate::fuse::{Fh, NodeId, SetAttr};
use crate::sys::file::FdName;
use crate::sys::{Result, content, names, stat, xattr};
use crate::wire::errno::Errno;
use crate::wire::open_flags::OpenFlags;

/// Most bytes that one COPY_FILE_RANGE copies: a worker has others to serve, and the host asks again.
const COPY: u64 = 64 << 20;

impl LocalVolume {
    /// Do a job.
    pub(super) fn run(&'static self, job: &mut Job) {
        job.answer = match job.operation {
            Operation::None => Err(Errno::EIO),
            Operation::Getattr { node, fh } => self.getattr(node, fh),
            Operation::Setattr { node, set } => self.setattr(node, &set),
            Operation::Statx {
                node,
                fh,
                mask,
                sync,
            } => self.target(node, fh).and_then(|target| {
                let stat = stat::statx(target.raw(), mask & attrs::ALL, sync)?;
                Ok(Answer::Statx(attrs::wire_statx(&stat, self.root_device)))
            }),
            Operation::Readlink { node } => self
                .reach(node)
                .and_then(|fd| names::readlink(fd.raw(), job.buffer))
                .map_err(not_a_link)
                .map(Answer::Bytes),
            Operation::Open { node, flags, kill } => self.open_file(job, node, flags, kill),
            Operation::Opendir { node } => self.open_directory(job, node),
            Operation::Release { fh, owner } => self.release(fh, owner),
            Operation::Flush { node, fh, owner } => self.flush(node, fh, owner),
            Operation::Statfs { node } => self.reach(node).and_then(|fd| {
                let stat = stat::statfs(fd.raw())?;
                Ok(Answer::Statfs(attrs::statfs(&stat)))
            }),
            Operation::Syncfs { node } => self.syncfs(node),
            Operation::Setxattr { .. }
            | Operation::Getxattr { .. }
            | Operation::Listxattr { .. }
            | Operation::Removexattr { .. } => self.attribute(job),
            Operation::Fallocate {
                fh,
                offset,
                length,
                mode,
            } => self
                .opened_file(fh)
                .and_then(|file| content::fallocate(file.fd.raw(), mode as i32, offset, length))
                .map(done),
            Operation::Lseek { fh, offset, whence } => self.find(fh, offset, whence),
            Operation::CopyRange { from, to, length } => self.copy(from, to, length),
            Operation::Plain { fh } => self.opened_file(fh).and_then(|file| {
                let plain = self.reopen_file(file.fd.raw(), libc::O_RDWR);
                let plain = plain.or_else(|_| self.reopen_file(file.fd.raw(), libc::O_RDONLY));
                plain.map(Answer::Fd)
            }),
            Operation::KillPrivileges { fh } => self.kill_privileges(fh),
            Operation::Getlk { fh, lock } => self.test_lock(fh, &lock),
            Operation::Setlk { fh, lock } => self.set_lock(fh, &lock),
            Operation::Readdir { .. } | Operation::Readdirplus { .. } => self.read_directory(job),
            _ => self.run_on_names(job),
        };
    }

    fn target(&'static self, node: NodeId, fh: Option<Fh>) -> Result<Target> {
        match fh {
            Some(fh) => Ok(Target::File(self.opened(fh)?)),
            None => Ok(Target::Node(self.reach(node)?)),
        }
    }

    fn getattr(&'static self, node: NodeId, fh: Option<Fh>) -> Result<Answer> {
        let target = self.target(node, fh)?;
        let stat = stat::statx(target.raw(), attrs::BASIC, 0)?;
        Ok(Answer::Attr(attrs::attr(&stat, self.root_device)))
    }

    fn setattr(&'static self, node: NodeId, set: &SetAttr) -> Result<Answer> {
        let target = self.target(node, set.fh)?;
        let name = FdName::new(target.raw());
        let (links, name) = (self.links.raw(), name.as_c_str());
        // The owner first: a change of owner clears bits that a mode given with it may set.
        if set.uid.is_some() || set.gid.is_some() {
            stat::chown(target.raw(), set.uid, set.gid)?;
        }
        if let Some(mode) = set.mode {
            stat::chmod(links, name, mode & 0o7777)?;
        }
        if let Some(size) = set.size {
            let _acting = self.act_unprivileged(set.kill_suidgid)?;
            let opened = match &target {
                Target::File(file) => stat::ftruncate(file.fd.raw(), size),
                Target::Node(_) => Err(Errno::EINVAL),
            };
            // By node, or through a file that was opened for reading alone.
            if let Err(Errno::EINVAL | Errno::EBADF) = opened {
                let file = self.reopen_file(target.raw(), libc::O_WRONLY)?;
                stat::ftruncate(file.raw(), size)?;
            } else {
                opened?;
            }
        }
        if set.atime.is_some() || set.mtime.is_some() {
            stat::utimens(
                links,
                name,
                attrs::stamp(set.atime),
                attrs::stamp(set.mtime),
            )?;
        }
        let stat = stat::statx(target.raw(), attrs::BASIC, 0)?;
        Ok(Answer::Attr(attrs::attr(&stat, self.root_device)))
    }

    fn open_file(
        &'static self,
        job: &Job,
        node: NodeId,
        flags: OpenFlags,
        kill: bool,
    ) -> Result<Answer> {
        match self.kind(node)? {
            S_IFREG => {}
            S_IFDIR => return Err(Errno::EISDIR),
            // The host serves special files itself; here they would be this machine's.
            _ => return Err(Errno::ENXIO),
        }
        let fd = self.reach(node)?;
        let (file, direct) = self.open_again(fd.raw(), flags, kill)?;
        let opened = self.add_file(file, node, direct, false, job.epoch)?;
        Ok(Answer::Opened(opened))
    }

    /// Open a regular file for the host; tells whether it bypasses the page cache.
    pub(super) fn open_again(
        &self,
        fd: i32,
        flags: OpenFlags,
        kill: bool,
    ) -> Result<(crate::sys::fd::Fd, bool)> {
        let _acting = self.act_unprivileged(kill && flags.contains(OpenFlags::TRUNC))?;
        let own = self.open_flags(flags);
        let direct = own & libc::O_DIRECT != 0;
        match self.reopen_file(fd, own) {
            // Not every file system can.
            Err(Errno::EINVAL) if direct => {
                let plain = own & !libc::O_DIRECT;
                Ok((self.reopen_file(fd, plain)?, false))
            }
            // Another's file under a file system that insists on its owner.
            Err(Errno::EPERM) if own & libc::O_NOATIME != 0 => {
                Ok((self.reopen_file(fd, own & !libc::O_NOATIME)?, direct))
            }
            file => Ok((file?, direct)),
        }
    }

    fn open_directory(&'static self, job: &Job, node: NodeId) -> Result<Answer> {
        let fd = self.reach(node)?;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let directory =
            self.with_descriptors(|| crate::sys::file::openat(fd.raw(), c".", flags))?;
        let opened = self.add_file(directory, node, false, true, job.epoch)?;
        Ok(Answer::Opened(opened))
    }

    fn release(&'static self, fh: Fh, owner: Option<u64>) -> Result<Answer> {
        use crate::mem::Closed;
        let node = self.opened(fh)?.node;
        if let Some(owner) = owner {
            self.owners.release(node, owner);
        }
        match self.files.close(fh.0) {
            Closed::Now(file) => {
                // Closed here and not later, so that the answer comes after the last lock is gone.
                let OpenFile { fd, node, .. } = file;
                drop(fd);
                self.close_node(node);
            }
            Closed::Later => {}
            Closed::Unknown => return Err(Errno::EBADF),
        }
        self.announce_unlock();
        Ok(Answer::Done)
    }

    fn flush(&'static self, node: NodeId, fh: Fh, owner: u64) -> Result<Answer> {
        let file = self.opened(fh)?;
        if self.owners.release(node, owner) {
            self.announce_unlock();
        }
        if self.immediate() {
            return Ok(Answer::Done);
        }
        // A close(2) is when network file systems report what became of earlier writes.
        let copy = self.with_descriptors(|| file.fd.duplicate())?;
        copy.close().map(done)
    }

    fn syncfs(&'static self, node: NodeId) -> Result<Answer> {
        if node == NodeId::ROOT {
            content::syncfs(self.root_dir.raw())?;
            return Ok(Answer::Done);
        }
        let fd = self.reach(node)?;
        let name = FdName::new(fd.raw());
        let kind = self.kind(node)?;
        if kind & S_IFMT != S_IFDIR && kind & S_IFMT != S_IFREG {
            return Err(Errno::EINVAL);
        }
        let file = self.with_descriptors(|| {
            crate::sys::file::openat(self.links.raw(), name.as_c_str(), libc::O_RDONLY)
        })?;
        content::syncfs(file.raw()).map(done)
    }

    fn attribute(&'static self, job: &mut Job) -> Result<Answer> {
        let (Operation::Setxattr { node, .. }
        | Operation::Getxattr { node, .. }
        | Operation::Listxattr { node, .. }
        | Operation::Removexattr { node }) = job.operation
        else {
            return Err(Errno::EIO);
        };
        let fd = self.reach(node)?;
        // Workers stand in `/proc/self/fd`.
        let path = FdName::new(fd.raw());
        let (path, name) = (path.as_c_str(), job.name.get());
        match job.operation {
            Operation::Setxattr {
                size,
                flags,
                kill_sgid,
                ..
            } => {
                let value = job.buffer.get(..size).ok_or(Errno::E2BIG)?;
                xattr::set(path, name, value, flags as i32)?;
                if kill_sgid {
                    self.kill_sgid(fd.raw())?;
                }
                Ok(Answer::Done)
            }
            Operation::Getxattr { room, .. } => {
                let room = room.min(job.buffer.len());
                xattr::get(path, name, &mut job.buffer[..room]).map(Answer::Bytes)
            }
            Operation::Listxattr { room, .. } => {
                let room = room.min(job.buffer.len());
                xattr::list(path, &mut job.buffer[..room]).map(Answer::Bytes)
            }
            _ => xattr::remove(path, name).map(done),
        }
    }

    /// Clear the set-group-ID bit: the host saw that the caller may not keep it over a change of the ACL.
    fn kill_sgid(&self, fd: i32) -> Result<()> {
        let mode = u32::from(stat::statx(fd, libc::STATX_MODE, 0)?.stx_mode);
        if mode & libc::S_ISGID != 0 && mode & S_IFMT != S_IFDIR {
            let name = FdName::new(fd);
            let mode = mode & 0o7777 & !libc::S_ISGID;
            stat::chmod(self.links.raw(), name.as_c_str(), mode)?;
        }
        Ok(())
    }

    /// Clear what a write by someone without privileges clears.
    fn kill_privileges(&'static self, fh: Fh) -> Result<Answer> {
        let file = self.opened_file(fh)?;
        let mode = u32::from(stat::statx(file.fd.raw(), libc::STATX_MODE, 0)?.stx_mode);
        let mut kept = mode & 0o7777 & !libc::S_ISUID;
        if kept & libc::S_IXGRP != 0 {
            kept &= !libc::S_ISGID;
        }
        if kept != mode & 0o7777 {
            let name = FdName::new(file.fd.raw());
            stat::chmod(self.links.raw(), name.as_c_str(), kept)?;
        }
        Ok(Answer::Done)
    }

    fn find(&'static self, fh: Fh, offset: u64, whence: u32) -> Result<Answer> {
        let file = self.opened_file(fh)?;
        match whence as i32 {
            // The position that this moves means nothing: every READ and WRITE says where.
            whence @ (libc::SEEK_DATA | libc::SEEK_HOLE) => {
                names::seek(file.fd.raw(), offset, whence).map(Answer::Number)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn copy(&'static self, from: (Fh, u64), to: (Fh, u64), length: u64) -> Result<Answer> {
        let (source, target) = (self.opened_file(from.0)?, self.opened_file(to.0)?);
        let length = length.min(COPY) as usize;
        let copied =
            content::copy_range((source.fd.raw(), from.1), (target.fd.raw(), to.1), length)?;
        Ok(Answer::Number(copied as u64))
    }
}

/// Say that nothing more is to be said.
pub fn done(_: ()) -> Answer {
    Answer::Done
}

/// READLINK of anything but a link: the empty path is then "no such file" to the kernel.
fn not_a_link(error: Errno) -> Errno {
    if error == Errno::ENOENT {
        Errno::EINVAL
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::super::Config;
    use super::super::job::{BUFFER, How};
    use super::*;
    use crate::sys::file;

    fn job() -> Job {
        Job::new(Box::leak(std::vec![0; BUFFER].into()))
    }

    fn run(volume: &'static LocalVolume, job: &mut Job, operation: Operation) -> Result<Answer> {
        job.operation = operation;
        volume.run(job);
        core::mem::replace(&mut job.answer, Ok(Answer::Done))
    }

    /// What the ring does on newer kernels.
    #[test]
    fn workers_do_what_a_kernel_has_no_ring_operation_for() {
        let root = file::openat2(libc::AT_FDCWD, c"/", libc::O_PATH, 0, 0);
        if matches!(root, Err(Errno::ENOSYS)) {
            std::println!("not run: no openat2(2), as under qemu-user");
            return;
        }
        let dir = tempfile::TempDir::new().unwrap();
        let mut config = Config::new(dir.path());
        (config.nodes, config.open_files) = (10, 10);
        let volume = LocalVolume::open(config).unwrap();
        let mut job = job();
        job.name.set(c"file");
        job.other.set(c"moved");
        let create = Operation::Create {
            parent: NodeId::ROOT,
            flags: OpenFlags::READ_WRITE,
            kill: false,
            how: How {
                mode: 0o644,
                umask: 0,
                group: None,
                security: None,
            },
        };
        let Ok(Answer::Created(created)) = run(volume, &mut job, create) else {
            panic!("not created");
        };
        let (node, fh) = (created.entry.node, created.opened.fh);
        let path = dir.path().join("file");

        let allocate = Operation::Fallocate {
            fh,
            offset: 0,
            length: 5000,
            mode: 0,
        };
        assert!(run(volume, &mut job, allocate).is_ok());
        assert_eq!(fs::metadata(&path).unwrap().len(), 5000);
        let getattr = Operation::Getattr { node, fh: None };
        let Ok(Answer::Attr(attr)) = run(volume, &mut job, getattr) else {
            panic!("no attributes");
        };
        assert_eq!(attr.size, 5000);

        for (before, after) in [
            (0o6755, 0o755),
            (0o2644, 0o2644),
            (0o4644, 0o644),
            (0o755, 0o755),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(before)).unwrap();
            assert!(run(volume, &mut job, Operation::KillPrivileges { fh }).is_ok());
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, after);
        }

        let (parent, new_parent) = (NodeId::ROOT, NodeId::ROOT);
        let rename = Operation::Rename {
            parent,
            new_parent,
            flags: 0,
        };
        assert!(run(volume, &mut job, rename).is_ok());
        job.name.set(c"moved");
        let unlink = |directory| Operation::Unlink { parent, directory };
        let as_directory = run(volume, &mut job, unlink(true));
        assert_eq!(as_directory.err(), Some(Errno::ENOTDIR));
        assert!(run(volume, &mut job, unlink(false)).is_ok());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
