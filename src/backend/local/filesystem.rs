//! Operations as they arrive on a core. Those with one way go to a worker from here, the others to `ways`.

use core::ffi::CStr;

use super::Cache;
use super::instance::Local;
use super::job::Operation;
use super::waiting::Waiting;
use crate::fuse::number::Position;
use crate::fuse::{
    Attributes, Copied, Created, Creation, Data, DirEntries, DirEntriesPlus, Entry, Fh, FileSystem,
    Lock, LockRequest, Name, NodeId, Opened, Reply, Request, SetAttr, Statfs, StatxReply, Target,
    Wishes, Written, XattrValue,
};
use crate::mem::SlotId;
use crate::sys::creds::cap;
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::fuse::{InitFlags, ReleaseFlags, WriteFlags};
use crate::wire::open_flags::{AccessMode, OpenFlags};

/// Answer a change of a read-only volume.
macro_rules! writable {
    ($self:ident, $reply:ident) => {
        if $self.volume.config.read_only {
            return $reply.err(Errno::EROFS);
        }
    };
}
pub(super) use writable;

impl FileSystem for Local {
    fn wishes(&self, _offered: InitFlags) -> Wishes {
        let config = &self.volume.config;
        let mut flags = InitFlags::POSIX_LOCKS
            | InitFlags::FLOCK_LOCKS
            | InitFlags::ATOMIC_O_TRUNC
            | InitFlags::DO_READDIRPLUS
            | InitFlags::READDIRPLUS_AUTO
            | InitFlags::HANDLE_KILLPRIV_V2
            | InitFlags::DIRECT_IO_ALLOW_MMAP
            | InitFlags::ALLOW_IDMAP;
        if config.cache == Cache::Auto {
            flags |= InitFlags::AUTO_INVAL_DATA;
        }
        if config.cache != Cache::None {
            // The target of a link never changes.
            flags |= InitFlags::CACHE_SYMLINKS;
        }
        if config.writeback {
            flags |= InitFlags::WRITEBACK_CACHE;
        }
        if config.acl {
            // The umask is then applied below, where it can be seen whether the directory has a default ACL.
            flags |= InitFlags::POSIX_ACL | InitFlags::DONT_MASK;
        }
        if self.volume.worker_capabilities().has(cap::SYS_ADMIN) {
            // Without it a context cannot be set, and every creation would fail.
            flags |= InitFlags::SECURITY_CTX;
        }
        if self.volume.detached {
            flags |= InitFlags::EXPORT_SUPPORT;
        }
        Wishes {
            flags,
            ..Wishes::default()
        }
    }

    fn poll(&mut self, now: Instant) -> bool {
        self.round(now)
    }

    fn wait_fds(&self, add: &mut dyn FnMut(i32)) {
        add(self.ring.raw());
        add(self.mailbox.raw());
    }

    fn arm(&mut self) -> bool {
        self.prepare_to_sleep()
    }

    fn deadline(&self) -> Option<Instant> {
        self.next_deadline()
    }

    fn shutdown(&mut self) {
        self.end_all_waits();
    }

    fn interrupt(&mut self, target: SlotId) {
        self.end_wait(target);
    }

    fn forget(&mut self, node: NodeId, count: u64) {
        if let Some(value) = self.volume.nodes.forget(node.0, count) {
            self.volume.node_is_gone(node, value);
        }
    }

    fn lookup(&mut self, rq: &Request, parent: NodeId, name: Name<'_>, reply: Reply<Entry>) {
        self.look_up_somehow(rq, parent, name, reply);
    }

    fn getattr(&mut self, rq: &Request, node: NodeId, fh: Option<Fh>, reply: Reply<Attributes>) {
        self.get_attributes(rq, node, fh, reply);
    }

    fn setattr(&mut self, rq: &Request, node: NodeId, set: &SetAttr, reply: Reply<Attributes>) {
        writable!(self, reply);
        self.ask(rq.id.index, Waiting::Attr(reply), |job| {
            job.operation = Operation::Setattr { node, set: *set };
            Ok(())
        });
    }

    fn readlink(&mut self, rq: &Request, node: NodeId, reply: Reply<Target>) {
        self.ask(rq.id.index, Waiting::Target(reply), |job| {
            job.operation = Operation::Readlink { node };
            Ok(())
        });
    }

    fn symlink(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        target: &CStr,
        how: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        writable!(self, reply);
        self.ask(rq.id.index, Waiting::Entry(reply), |job| {
            (job.caller, job.epoch) = (rq.caller, rq.epoch);
            job.name.set(name.as_c_str());
            let used = job.fill(&[target.to_bytes_with_nul()])?;
            let how = job.creation(used, how)?;
            job.operation = Operation::Symlink { parent, how };
            Ok(())
        });
    }

    fn mknod(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        rdev: u32,
        how: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        writable!(self, reply);
        self.ask(rq.id.index, Waiting::Entry(reply), |job| {
            (job.caller, job.epoch) = (rq.caller, rq.epoch);
            job.name.set(name.as_c_str());
            let how = job.creation(0, how)?;
            job.operation = Operation::Mknod { parent, rdev, how };
            Ok(())
        });
    }

    fn mkdir(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        how: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        writable!(self, reply);
        self.ask(rq.id.index, Waiting::Entry(reply), |job| {
            (job.caller, job.epoch) = (rq.caller, rq.epoch);
            job.name.set(name.as_c_str());
            let how = job.creation(0, how)?;
            job.operation = Operation::Mkdir { parent, how };
            Ok(())
        });
    }

    fn unlink(&mut self, _rq: &Request, parent: NodeId, name: Name<'_>, reply: Reply<()>) {
        self.remove(parent, name, false, reply);
    }

    fn rmdir(&mut self, _rq: &Request, parent: NodeId, name: Name<'_>, reply: Reply<()>) {
        self.remove(parent, name, true, reply);
    }

    fn rename(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        new_parent: NodeId,
        new_name: Name<'_>,
        flags: u32,
        reply: Reply<()>,
    ) {
        self.rename_somehow(rq, (parent, name), (new_parent, new_name), flags, reply);
    }

    fn link(
        &mut self,
        rq: &Request,
        node: NodeId,
        new_parent: NodeId,
        new_name: Name<'_>,
        reply: Reply<Entry>,
    ) {
        writable!(self, reply);
        self.ask(rq.id.index, Waiting::Entry(reply), |job| {
            job.epoch = rq.epoch;
            job.name.set(new_name.as_c_str());
            job.operation = Operation::Link { node, new_parent };
            Ok(())
        });
    }

    fn open(
        &mut self,
        rq: &Request,
        node: NodeId,
        flags: OpenFlags,
        kill_suidgid: bool,
        reply: Reply<Opened>,
    ) {
        if flags.access() != AccessMode::Read || flags.contains(OpenFlags::TRUNC) {
            writable!(self, reply);
        }
        self.ask(rq.id.index, Waiting::Opened(reply), |job| {
            job.epoch = rq.epoch;
            job.operation = Operation::Open {
                node,
                flags,
                kill: kill_suidgid,
            };
            Ok(())
        });
    }

    #[inline]
    fn read(
        &mut self,
        _rq: &Request,
        _node: NodeId,
        fh: Fh,
        offset: u64,
        _flags: OpenFlags,
        reply: Reply<Data>,
    ) {
        self.read_data(fh, offset, reply);
    }

    #[inline]
    fn write(
        &mut self,
        _rq: &Request,
        _node: NodeId,
        fh: Fh,
        offset: u64,
        how: WriteFlags,
        flags: OpenFlags,
        reply: Reply<Written>,
    ) {
        self.write_payload(fh, offset, how, flags, reply);
    }

    fn flush(&mut self, rq: &Request, node: NodeId, fh: Fh, lock_owner: u64, reply: Reply<()>) {
        self.flush_somehow(rq, node, fh, lock_owner, reply);
    }

    fn release(
        &mut self,
        rq: &Request,
        _node: NodeId,
        fh: Fh,
        how: ReleaseFlags,
        lock_owner: u64,
        reply: Reply<()>,
    ) {
        self.ask(rq.id.index, Waiting::Unit(reply), |job| {
            let owner = how.contains(ReleaseFlags::FLUSH).then_some(lock_owner);
            job.operation = Operation::Release { fh, owner };
            Ok(())
        });
    }

    fn fsync(&mut self, _rq: &Request, _node: NodeId, fh: Fh, datasync: bool, reply: Reply<()>) {
        let file = self.volume.opened_file(fh);
        self.sync(file, datasync, reply);
    }

    fn opendir(&mut self, rq: &Request, node: NodeId, _flags: OpenFlags, reply: Reply<Opened>) {
        self.ask(rq.id.index, Waiting::Opened(reply), |job| {
            job.epoch = rq.epoch;
            job.operation = Operation::Opendir { node };
            Ok(())
        });
    }

    fn readdir(
        &mut self,
        rq: &Request,
        _node: NodeId,
        fh: Fh,
        position: u64,
        reply: Reply<DirEntries>,
    ) {
        let room = reply.wanted();
        self.ask(rq.id.index, Waiting::Dir(reply), |job| {
            job.operation = Operation::Readdir { fh, position, room };
            Ok(())
        });
    }

    fn readdirplus(
        &mut self,
        rq: &Request,
        _node: NodeId,
        fh: Fh,
        position: u64,
        reply: Reply<DirEntriesPlus>,
    ) {
        let room = reply.wanted();
        self.ask(rq.id.index, Waiting::DirPlus(reply), |job| {
            job.epoch = rq.epoch;
            job.operation = Operation::Readdirplus { fh, position, room };
            Ok(())
        });
    }

    fn releasedir(&mut self, rq: &Request, _node: NodeId, fh: Fh, reply: Reply<()>) {
        self.ask(rq.id.index, Waiting::Unit(reply), |job| {
            job.operation = Operation::Release { fh, owner: None };
            Ok(())
        });
    }

    fn fsyncdir(&mut self, _rq: &Request, _node: NodeId, fh: Fh, datasync: bool, reply: Reply<()>) {
        let directory = self.volume.opened_directory(fh);
        self.sync(directory, datasync, reply);
    }

    fn statfs(&mut self, rq: &Request, node: NodeId, reply: Reply<Statfs>) {
        self.ask(rq.id.index, Waiting::Statfs(reply), |job| {
            job.operation = Operation::Statfs { node };
            Ok(())
        });
    }

    fn setxattr(
        &mut self,
        rq: &Request,
        node: NodeId,
        name: &CStr,
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
        reply: Reply<()>,
    ) {
        writable!(self, reply);
        self.ask(rq.id.index, Waiting::Unit(reply), |job| {
            job.name.set(name);
            let size = job.fill(&[value])?;
            job.operation = Operation::Setxattr {
                node,
                size,
                flags,
                kill_sgid,
            };
            Ok(())
        });
    }

    fn getxattr(&mut self, rq: &Request, node: NodeId, name: &CStr, reply: Reply<XattrValue>) {
        let room = reply.wanted();
        self.ask(rq.id.index, Waiting::Xattr(reply), |job| {
            job.name.set(name);
            job.operation = Operation::Getxattr { node, room };
            Ok(())
        });
    }

    fn listxattr(&mut self, rq: &Request, node: NodeId, reply: Reply<XattrValue>) {
        let room = reply.wanted();
        self.ask(rq.id.index, Waiting::Xattr(reply), |job| {
            job.operation = Operation::Listxattr { node, room };
            Ok(())
        });
    }

    fn removexattr(&mut self, rq: &Request, node: NodeId, name: &CStr, reply: Reply<()>) {
        writable!(self, reply);
        self.ask(rq.id.index, Waiting::Unit(reply), |job| {
            job.name.set(name);
            job.operation = Operation::Removexattr { node };
            Ok(())
        });
    }

    fn create(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        flags: OpenFlags,
        kill_suidgid: bool,
        how: &Creation<'_>,
        reply: Reply<Created>,
    ) {
        writable!(self, reply);
        self.ask(rq.id.index, Waiting::Created(reply), |job| {
            (job.caller, job.epoch) = (rq.caller, rq.epoch);
            job.name.set(name.as_c_str());
            let how = job.creation(0, how)?;
            job.operation = Operation::Create {
                parent,
                flags,
                kill: kill_suidgid,
                how,
            };
            Ok(())
        });
    }

    fn tmpfile(
        &mut self,
        rq: &Request,
        parent: NodeId,
        flags: OpenFlags,
        how: &Creation<'_>,
        reply: Reply<Created>,
    ) {
        writable!(self, reply);
        self.ask(rq.id.index, Waiting::Created(reply), |job| {
            (job.caller, job.epoch) = (rq.caller, rq.epoch);
            let how = job.creation(0, how)?;
            job.operation = Operation::Tmpfile { parent, flags, how };
            Ok(())
        });
    }

    fn getlk(
        &mut self,
        rq: &Request,
        _node: NodeId,
        fh: Fh,
        lock: &LockRequest,
        reply: Reply<Lock>,
    ) {
        self.ask(rq.id.index, Waiting::Lock(reply), |job| {
            job.operation = Operation::Getlk { fh, lock: *lock };
            Ok(())
        });
    }

    fn setlk(&mut self, rq: &Request, _node: NodeId, fh: Fh, lock: &LockRequest, reply: Reply<()>) {
        let waiting = Waiting::SetLock {
            reply,
            wait: lock.wait,
        };
        self.ask(rq.id.index, waiting, |job| {
            job.operation = Operation::Setlk { fh, lock: *lock };
            Ok(())
        });
    }

    fn fallocate(
        &mut self,
        rq: &Request,
        _node: NodeId,
        fh: Fh,
        offset: u64,
        length: u64,
        mode: u32,
        reply: Reply<()>,
    ) {
        self.allocate(rq, fh, (offset, length), mode, reply);
    }

    fn lseek(
        &mut self,
        rq: &Request,
        _node: NodeId,
        fh: Fh,
        offset: u64,
        whence: u32,
        reply: Reply<Position>,
    ) {
        self.ask(rq.id.index, Waiting::Position(reply), |job| {
            job.operation = Operation::Lseek { fh, offset, whence };
            Ok(())
        });
    }

    fn copy_file_range(
        &mut self,
        rq: &Request,
        source: (NodeId, Fh, u64),
        destination: (NodeId, Fh, u64),
        length: u64,
        reply: Reply<Copied>,
    ) {
        writable!(self, reply);
        self.ask(rq.id.index, Waiting::Copied(reply), |job| {
            job.operation = Operation::CopyRange {
                from: (source.1, source.2),
                to: (destination.1, destination.2),
                length,
            };
            Ok(())
        });
    }

    fn syncfs(&mut self, rq: &Request, node: NodeId, reply: Reply<()>) {
        self.ask(rq.id.index, Waiting::Unit(reply), |job| {
            job.operation = Operation::Syncfs { node };
            Ok(())
        });
    }

    fn statx(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Option<Fh>,
        flags: u32,
        mask: u32,
        reply: Reply<StatxReply>,
    ) {
        self.get_more_attributes(rq, node, fh, flags, mask, reply);
    }
}
