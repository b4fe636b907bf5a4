//! Operations as they arrive on a core: done at once where nothing waits, else given to the ring or to a worker.

use core::ffi::CStr;

use super::Cache;
use super::attrs;
use super::create::{BENEATH, NODE};
use super::files::{FilePin, Target as Held};
use super::flight::{Flight, Transfer, refuse};
use super::instance::Local;
use super::job::Operation;
use super::nodes::{NodeFd, Wait};
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
use crate::sys::{file, stat, uring};
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

/// `AT_STATX_SYNC_TYPE`.
const SYNC_TYPE: u32 = 0x6000;
/// Flags that renameat2(2) has.
const RENAME_FLAGS: u32 = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE | libc::RENAME_WHITEOUT;

impl Local {
    /// Look up a name that the kernel has in its cache, or say that another way is needed.
    #[inline]
    fn look_up_cached(
        &self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
    ) -> Option<Result<Entry, Errno>> {
        let volume = self.volume;
        if !volume.immediate() || name.is_dots() {
            return None;
        }
        let dir = volume.open_node(parent)?;
        let resolve = BENEATH | libc::RESOLVE_NO_XDEV | libc::RESOLVE_CACHED;
        match file::openat2(dir.raw(), name.as_c_str(), NODE, 0, resolve) {
            Ok(fd) => volume.enter(fd, rq.epoch, Wait::Never),
            Err(Errno::ENOENT) => Some(match volume.ttl.negative {
                Some(ttl) => Ok(Entry::negative(ttl)),
                None => Err(Errno::ENOENT),
            }),
            // Not cached, on another mount, or no descriptor left.
            Err(_) => None,
        }
    }

    /// Give an open descriptor of a node or file, if there is one.
    #[inline]
    fn held(&self, node: NodeId, fh: Option<Fh>) -> Result<Option<Held>, Errno> {
        match fh {
            Some(fh) => self.volume.opened(fh).map(|file| Some(Held::File(file))),
            None => Ok(self.volume.open_node(node).map(Held::Node)),
        }
    }

    fn transfer<T>(
        &self,
        fh: Fh,
        offset: u64,
        reply: Reply<T>,
    ) -> Result<Transfer<T>, (Errno, Reply<T>)> {
        match self.volume.opened_file(fh) {
            // The ring takes offset -1 for "the present position".
            Ok(_) if offset > i64::MAX as u64 => Err((Errno::EINVAL, reply)),
            Ok(file) => Ok(Transfer {
                reply,
                file,
                fh,
                plain: None,
                offset,
                done: 0,
                flags: 0,
                credentials: 0,
            }),
            Err(error) => Err((error, reply)),
        }
    }

    fn sync(&mut self, file: Result<FilePin, Errno>, datasync: bool, reply: Reply<()>) {
        match file {
            Ok(file) => {
                let (slot, fd) = (reply.id().index, file.fd.raw());
                let held = (Held::File(file), None);
                refuse(
                    self.ring
                        .sync(slot, fd, datasync, Flight::Unit { reply, held }),
                );
            }
            Err(error) => reply.err(error),
        }
    }

    fn remove(&mut self, parent: NodeId, name: Name<'_>, directory: bool, reply: Reply<()>) {
        writable!(self, reply);
        let slot = reply.id().index;
        let dir = self.volume.open_node(parent);
        match dir.filter(|_| self.ring.supports(uring::Operation::Unlink)) {
            Some(dir) => {
                let (fd, held) = (dir.raw(), (Held::Node(dir), None));
                let flags = if directory { libc::AT_REMOVEDIR } else { 0 };
                let flight = Flight::Unit { reply, held };
                refuse(self.ring.unlink(slot, fd, name.as_c_str(), flags, flight));
            }
            None => self.ask(slot, Waiting::Unit(reply), |job| {
                job.name.set(name.as_c_str());
                job.operation = Operation::Unlink { parent, directory };
                Ok(())
            }),
        }
    }
}

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
        match self.look_up_cached(rq, parent, name) {
            Some(Ok(entry)) => reply.ok(entry),
            Some(Err(error)) => reply.err(error),
            None => self.ask(rq.id.index, Waiting::Entry(reply), |job| {
                job.epoch = rq.epoch;
                job.name.set(name.as_c_str());
                job.operation = Operation::Lookup { parent };
                Ok(())
            }),
        }
    }

    fn getattr(&mut self, rq: &Request, node: NodeId, fh: Option<Fh>, reply: Reply<Attributes>) {
        let volume = self.volume;
        let held = match self.held(node, fh) {
            Ok(held) => held,
            Err(error) => return reply.err(error),
        };
        match held {
            Some(held) if volume.immediate() => match stat::statx(held.raw(), attrs::BASIC, 0) {
                Ok(stat) => reply.ok(Attributes {
                    attr: attrs::attr(&stat, volume.root_device),
                    ttl: volume.ttl.attr,
                }),
                Err(error) => reply.err(error),
            },
            Some(held) if self.ring.supports(uring::Operation::Statx) => {
                let (slot, fd) = (rq.id.index, held.raw());
                let flight = Flight::Stat { reply, held };
                refuse(self.ring.statx(slot, fd, attrs::BASIC, 0, flight));
            }
            _ => self.ask(rq.id.index, Waiting::Attr(reply), |job| {
                job.operation = Operation::Getattr { node, fh };
                Ok(())
            }),
        }
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
        writable!(self, reply);
        if flags & !RENAME_FLAGS != 0 {
            return reply.err(Errno::EINVAL);
        }
        let slot = rq.id.index;
        let (name, new_name) = (name.as_c_str(), new_name.as_c_str());
        let dirs: Option<(NodeFd, NodeFd)> = self
            .volume
            .open_node(parent)
            .zip(self.volume.open_node(new_parent));
        match dirs.filter(|_| self.ring.supports(uring::Operation::Rename)) {
            Some((dir, new_dir)) => {
                let (old, new) = ((dir.raw(), name), (new_dir.raw(), new_name));
                let held = (Held::Node(dir), Some(new_dir));
                let flight = Flight::Unit { reply, held };
                refuse(self.ring.rename(slot, old, new, flags, flight));
            }
            None => self.ask(slot, Waiting::Unit(reply), |job| {
                job.name.set(name);
                job.other.set(new_name);
                job.operation = Operation::Rename {
                    parent,
                    new_parent,
                    flags,
                };
                Ok(())
            }),
        }
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
        match self.transfer(fh, offset, reply) {
            Ok(read) if read.reply.wanted() == 0 => read.reply.filled(0),
            Ok(read) => self.fly_read(read),
            Err((error, reply)) => reply.err(error),
        }
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
        writable!(self, reply);
        let mut write = match self.transfer(fh, offset, reply) {
            Ok(write) => write,
            Err((error, reply)) => return reply.err(error),
        };
        if write.reply.wanted() == 0 {
            return write.reply.ok(Written(0));
        }
        // A host that caches writes knows where they go; others leave the end of the file to this side.
        let cached = self.volume.config.writeback || how.contains(WriteFlags::CACHE);
        for (flag, bit, wanted) in [
            (OpenFlags::APPEND, libc::RWF_APPEND, !cached),
            (OpenFlags::DSYNC, libc::RWF_DSYNC, true),
            (OpenFlags::SYNC, libc::RWF_SYNC, true),
        ] {
            if wanted && flags.contains(flag) {
                write.flags |= bit;
            }
        }
        if !how.contains(WriteFlags::KILL_SUIDGID) {
            return self.fly_write(write);
        }
        write.credentials = self.unprivileged;
        if write.credentials != 0 {
            return self.fly_write(write);
        }
        self.ask(
            write.reply.id().index,
            Waiting::Flight(Flight::Write(write)),
            |job| {
                job.operation = Operation::KillPrivileges { fh };
                Ok(())
            },
        );
    }

    fn flush(&mut self, rq: &Request, node: NodeId, fh: Fh, lock_owner: u64, reply: Reply<()>) {
        if self.volume.immediate() && self.volume.owners.is_empty() {
            return match self.volume.opened(fh) {
                Ok(_) => reply.ok(()),
                Err(error) => reply.err(error),
            };
        }
        self.ask(rq.id.index, Waiting::Unit(reply), |job| {
            job.operation = Operation::Flush {
                node,
                fh,
                owner: lock_owner,
            };
            Ok(())
        });
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
        writable!(self, reply);
        let slot = rq.id.index;
        match self.volume.opened_file(fh) {
            Ok(file) if self.ring.supports(uring::Operation::Fallocate) => {
                let fd = file.fd.raw();
                let held = (Held::File(file), None);
                let range = (offset, length);
                let flight = Flight::Unit { reply, held };
                refuse(self.ring.fallocate(slot, fd, mode as i32, range, flight));
            }
            Ok(_) => self.ask(slot, Waiting::Unit(reply), |job| {
                job.operation = Operation::Fallocate {
                    fh,
                    offset,
                    length,
                    mode,
                };
                Ok(())
            }),
            Err(error) => reply.err(error),
        }
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
        let sync = (flags & SYNC_TYPE) as i32;
        let volume = self.volume;
        let held = match self.held(node, fh) {
            Ok(held) => held,
            Err(error) => return reply.err(error),
        };
        if let Some(held) = held.filter(|_| volume.immediate()) {
            return match stat::statx(held.raw(), mask & attrs::ALL, sync) {
                Ok(stat) => reply.ok(StatxReply {
                    stat: attrs::wire_statx(&stat, volume.root_device),
                    ttl: volume.ttl.attr,
                }),
                Err(error) => reply.err(error),
            };
        }
        self.ask(rq.id.index, Waiting::Statx(reply), |job| {
            job.operation = Operation::Statx {
                node,
                fh,
                mask,
                sync,
            };
            Ok(())
        });
    }
}
