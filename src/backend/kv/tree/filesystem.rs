//! The operations: each enters its request with what outlives the call, and goes.

use core::ffi::CStr;
use core::sync::atomic::Ordering;

use super::super::engine::Engine;
use super::super::record::{Inode, Time, mode};
use super::copy::REQUEST_MAX;
use super::desk::{Kind, ListReply, MakeReply};
use super::names::sized;
use super::{Tree, xattr_allowed};
use crate::fuse::{
    Attributes, Copied, Created, Creation, Data, DirEntries, DirEntriesPlus, Entry, Fh, FileSystem,
    Name, NodeId, Opened, Reply, Request, SetAttr, Statfs, StatxReply, Target, Wishes, Written,
    XattrValue, number::Position,
};
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::fuse::{InitFlags, ReleaseFlags, WriteFlags};
use crate::wire::open_flags::OpenFlags;

impl<E: Engine> Tree<E> {
    fn ino(&self, node: NodeId) -> Result<u64, Errno> {
        self.desk.volume.ino(node)
    }

    /// As [`Self::ino`], for what is going to change.
    fn writable(&self, node: NodeId) -> Result<u64, Errno> {
        if self.desk.volume.read_only {
            return Err(Errno::EROFS);
        }
        self.ino(node)
    }

    fn make(
        &mut self,
        parent: NodeId,
        name: &[u8],
        (rq, how): (&Request, &Creation<'_>),
        rdev: u32,
        target: &[u8],
        reply: MakeReply,
    ) {
        let now = Time::now();
        let directory = how.mode & mode::S_IFMT == mode::S_IFDIR;
        let inode = Inode {
            mode: how.mode & (mode::S_IFMT | 0o7777),
            uid: rq.caller.uid,
            gid: rq.caller.gid,
            nlink: if directory { 2 } else { 1 },
            size: target.len() as u64,
            rdev,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            ..Inode::default()
        };
        let mut inode = inode;
        if matches!(reply, MakeReply::Nameless(_)) {
            inode.nlink = 0;
            inode.mode |= super::super::record::state::NAMELESS;
        }
        let parent = self.writable(parent);
        self.start(Kind::Make { reply, inode }, parent, |args| {
            args.set_name(0, name);
            args.set_bytes(target)
        });
    }

    fn list(&mut self, rq: &Request, node: NodeId, position: u64, reply: ListReply) {
        let kind = Kind::List {
            reply,
            position,
            at: 0,
            full: false,
            epoch: rq.epoch,
        };
        self.start(kind, self.ino(node), |_| Ok(()));
    }
}

/// Give a created file's mode its type, which TMPFILE and CREATE may leave out.
fn regular<'a>(how: &Creation<'a>) -> Creation<'a> {
    Creation {
        mode: mode::S_IFREG | (how.mode & 0o7777),
        ..*how
    }
}

impl<E: Engine> FileSystem for Tree<E> {
    fn wishes(&self, _offered: InitFlags) -> Wishes {
        Wishes {
            flags: InitFlags::ATOMIC_O_TRUNC
                | InitFlags::HANDLE_KILLPRIV_V2
                | InitFlags::DO_READDIRPLUS
                | InitFlags::READDIRPLUS_AUTO
                | InitFlags::CACHE_SYMLINKS
                | InitFlags::AUTO_INVAL_DATA,
            ..Wishes::default()
        }
    }

    fn poll(&mut self, now: Instant) -> bool {
        self.desk.now = now;
        let mut any = self.engine.poll(now, &mut self.desk);
        self.turn();
        if self.desk.waits() {
            let mut waiters = self.desk.take_waiting();
            while let Some(handle) = self.desk.next_waiter(&mut waiters) {
                self.issue(handle);
            }
            self.turn();
        }
        self.begin_sweep();
        // What was submitted just now is on its way before the next round.
        any |= self.engine.poll(now, &mut self.desk);
        self.turn();
        any
    }

    fn wait_fds(&self, add: &mut dyn FnMut(i32)) {
        self.engine.wait_fds(add);
    }

    fn arm(&mut self) -> bool {
        self.engine.arm() && !self.desk.waits()
    }

    fn deadline(&self) -> Option<Instant> {
        self.engine.deadline()
    }

    fn forget(&mut self, node: NodeId, count: u64) {
        if let Some(ino) = self.desk.volume.forget(node, count) {
            if self.desk.volume.read_only {
                return;
            }
            self.reap(ino);
            self.turn();
        }
    }

    fn lookup(&mut self, _: &Request, parent: NodeId, name: Name<'_>, reply: Reply<Entry>) {
        let parent = self.ino(parent);
        self.start(Kind::Lookup(reply), parent, |args| {
            args.set_name(0, name.bytes());
            Ok(())
        });
    }

    fn getattr(&mut self, _: &Request, node: NodeId, _: Option<Fh>, reply: Reply<Attributes>) {
        self.start(Kind::Getattr(reply), self.ino(node), |_| Ok(()));
    }

    fn statx(
        &mut self,
        _: &Request,
        node: NodeId,
        _: Option<Fh>,
        _: u32,
        _: u32,
        reply: Reply<StatxReply>,
    ) {
        self.start(Kind::Statx(reply), self.ino(node), |_| Ok(()));
    }

    fn setattr(&mut self, _: &Request, node: NodeId, set: &SetAttr, reply: Reply<Attributes>) {
        let set = SetAttr { fh: None, ..*set };
        let ino = self.writable(node);
        self.start(Kind::Setattr { reply, set }, ino, |_| Ok(()));
    }

    fn readlink(&mut self, _: &Request, node: NodeId, reply: Reply<Target>) {
        self.start(Kind::Readlink(reply), self.ino(node), |_| Ok(()));
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
        let how = Creation {
            mode: mode::S_IFLNK | 0o777,
            ..*how
        };
        let reply = MakeReply::Entry(reply);
        let target = target.to_bytes();
        self.make(parent, name.bytes(), (rq, &how), 0, target, reply);
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
        let device = match how.mode & mode::S_IFMT {
            mode::S_IFCHR | mode::S_IFBLK => rdev,
            mode::S_IFREG | mode::S_IFIFO | mode::S_IFSOCK => 0,
            _ => return reply.err(Errno::EINVAL),
        };
        let reply = MakeReply::Entry(reply);
        self.make(parent, name.bytes(), (rq, how), device, &[], reply);
    }

    fn mkdir(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        how: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        let how = Creation {
            mode: mode::S_IFDIR | (how.mode & 0o7777),
            ..*how
        };
        let reply = MakeReply::Entry(reply);
        self.make(parent, name.bytes(), (rq, &how), 0, &[], reply);
    }

    fn create(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        flags: OpenFlags,
        _kill_suidgid: bool,
        how: &Creation<'_>,
        reply: Reply<Created>,
    ) {
        let reply = MakeReply::Created {
            reply,
            exclusive: flags.contains(OpenFlags::EXCL),
            truncate: flags.contains(OpenFlags::TRUNC),
        };
        let how = regular(how);
        self.make(parent, name.bytes(), (rq, &how), 0, &[], reply);
    }

    fn tmpfile(
        &mut self,
        rq: &Request,
        parent: NodeId,
        _flags: OpenFlags,
        how: &Creation<'_>,
        reply: Reply<Created>,
    ) {
        let how = regular(how);
        let reply = MakeReply::Nameless(reply);
        self.make(parent, b"", (rq, &how), 0, &[], reply);
    }

    fn unlink(&mut self, _: &Request, parent: NodeId, name: Name<'_>, reply: Reply<()>) {
        let parent = self.writable(parent);
        self.start(Kind::Unlink { reply, dir: false }, parent, |args| {
            args.set_name(0, name.bytes());
            Ok(())
        });
    }

    fn rmdir(&mut self, _: &Request, parent: NodeId, name: Name<'_>, reply: Reply<()>) {
        let parent = self.writable(parent);
        self.start(Kind::Unlink { reply, dir: true }, parent, |args| {
            args.set_name(0, name.bytes());
            Ok(())
        });
    }

    fn rename(
        &mut self,
        _: &Request,
        parent: NodeId,
        name: Name<'_>,
        new_parent: NodeId,
        new_name: Name<'_>,
        flags: u32,
        reply: Reply<()>,
    ) {
        const KNOWN: [u32; 5] = [0, 1, 2, 4, 5];
        if !KNOWN.contains(&flags) {
            return reply.err(Errno::EINVAL);
        }
        let (parent, to) = match (self.writable(parent), self.ino(new_parent)) {
            (Ok(parent), Ok(to)) => (Ok(parent), to),
            (Err(error), _) | (_, Err(error)) => return reply.err(error),
        };
        self.start(Kind::Rename { reply, flags, to }, parent, |args| {
            args.set_name(0, name.bytes());
            args.set_name(1, new_name.bytes());
            Ok(())
        });
    }

    fn link(
        &mut self,
        _: &Request,
        node: NodeId,
        new_parent: NodeId,
        new_name: Name<'_>,
        reply: Reply<Entry>,
    ) {
        let to = match self.writable(new_parent) {
            Ok(to) => to,
            Err(error) => return reply.err(error),
        };
        let ino = self.ino(node);
        self.start(Kind::Link { reply, to }, ino, |args| {
            args.set_name(0, new_name.bytes());
            Ok(())
        });
    }

    fn open(
        &mut self,
        _: &Request,
        node: NodeId,
        flags: OpenFlags,
        kill_suidgid: bool,
        reply: Reply<Opened>,
    ) {
        if flags.contains(OpenFlags::TRUNC) {
            let set = sized(0, kill_suidgid);
            let ino = self.writable(node);
            return self.start(Kind::Open { reply, set }, ino, |_| Ok(()));
        }
        match self.ino(node) {
            Ok(_) if self.desk.volume.read_only && flags.access().writes() => {
                reply.err(Errno::EROFS)
            }
            Ok(_) => reply.ok(self.opened()),
            Err(error) => reply.err(error),
        }
    }

    fn read(
        &mut self,
        _: &Request,
        node: NodeId,
        _: Fh,
        offset: u64,
        _: OpenFlags,
        reply: Reply<Data>,
    ) {
        let ino = self.ino(node);
        self.start(Kind::Read { reply, offset }, ino, |_| Ok(()));
    }

    fn write(
        &mut self,
        _: &Request,
        node: NodeId,
        _: Fh,
        offset: u64,
        how: WriteFlags,
        flags: OpenFlags,
        reply: Reply<Written>,
    ) {
        // A host that caches writes knows their places.
        let append = flags.contains(OpenFlags::APPEND) && !how.contains(WriteFlags::CACHE);
        let kind = Kind::Write {
            reply,
            offset,
            append,
            kill: how.contains(WriteFlags::KILL_SUIDGID),
        };
        let ino = self.writable(node);
        self.start(kind, ino, |_| Ok(()));
    }

    fn flush(&mut self, _: &Request, _: NodeId, _: Fh, _: u64, reply: Reply<()>) {
        reply.ok(());
    }

    fn release(
        &mut self,
        _: &Request,
        _: NodeId,
        _: Fh,
        _: ReleaseFlags,
        _: u64,
        reply: Reply<()>,
    ) {
        reply.ok(());
    }

    fn fsync(&mut self, _: &Request, node: NodeId, _: Fh, _: bool, reply: Reply<()>) {
        self.start(Kind::Sync(reply), self.ino(node), |_| Ok(()));
    }

    fn opendir(&mut self, _: &Request, node: NodeId, _: OpenFlags, reply: Reply<Opened>) {
        match self.ino(node) {
            Ok(_) => reply.ok(self.opened()),
            Err(error) => reply.err(error),
        }
    }

    fn readdir(
        &mut self,
        rq: &Request,
        node: NodeId,
        _: Fh,
        position: u64,
        reply: Reply<DirEntries>,
    ) {
        self.list(rq, node, position, ListReply::Plain(reply));
    }

    fn readdirplus(
        &mut self,
        rq: &Request,
        node: NodeId,
        _: Fh,
        position: u64,
        reply: Reply<DirEntriesPlus>,
    ) {
        self.list(rq, node, position, ListReply::Plus(reply));
    }

    fn releasedir(&mut self, _: &Request, _: NodeId, _: Fh, reply: Reply<()>) {
        reply.ok(());
    }

    fn fsyncdir(&mut self, _: &Request, node: NodeId, _: Fh, _: bool, reply: Reply<()>) {
        self.start(Kind::Sync(reply), self.ino(node), |_| Ok(()));
    }

    fn syncfs(&mut self, _: &Request, node: NodeId, reply: Reply<()>) {
        self.start(Kind::Sync(reply), self.ino(node), |_| Ok(()));
    }

    fn statfs(&mut self, _: &Request, node: NodeId, reply: Reply<Statfs>) {
        self.start(Kind::Statfs(reply), self.ino(node), |_| Ok(()));
    }

    fn setxattr(
        &mut self,
        _: &Request,
        node: NodeId,
        name: &CStr,
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
        reply: Reply<()>,
    ) {
        let ino = self.writable(node);
        let kind = Kind::Setxattr {
            reply,
            flags,
            kill_sgid,
        };
        self.start_with(kind, ino, value, |args| {
            args.set_name(0, xattr_allowed(name)?);
            Ok(())
        });
    }

    fn getxattr(&mut self, _: &Request, node: NodeId, name: &CStr, reply: Reply<XattrValue>) {
        self.start(Kind::Getxattr(reply), self.ino(node), |args| {
            args.set_name(0, xattr_allowed(name)?);
            Ok(())
        });
    }

    fn listxattr(&mut self, _: &Request, node: NodeId, reply: Reply<XattrValue>) {
        let kind = Kind::Listxattr {
            reply,
            len: 0,
            lost: false,
            after: 0,
        };
        self.start(kind, self.ino(node), |_| Ok(()));
    }

    fn removexattr(&mut self, _: &Request, node: NodeId, name: &CStr, reply: Reply<()>) {
        let ino = self.writable(node);
        self.start(Kind::Removexattr(reply), ino, |args| {
            args.set_name(0, xattr_allowed(name)?);
            Ok(())
        });
    }

    fn fallocate(
        &mut self,
        _: &Request,
        node: NodeId,
        _: Fh,
        offset: u64,
        length: u64,
        mode: u32,
        reply: Reply<()>,
    ) {
        let allowed = Self::allocation(mode).and(self.writable(node));
        let Some(end) = offset.checked_add(length) else {
            return reply.err(Errno::EFBIG);
        };
        let kind = Kind::Allocate {
            reply,
            offset,
            end,
            mode,
        };
        self.start(kind, allowed, |_| Ok(()));
    }

    fn copy_file_range(
        &mut self,
        _: &Request,
        (source, _, from): (NodeId, Fh, u64),
        (node, _, to): (NodeId, Fh, u64),
        length: u64,
        reply: Reply<Copied>,
    ) {
        let source = match self.ino(source) {
            Ok(source) if self.engine.copies() => source,
            Ok(_) => return reply.err(Errno::EOPNOTSUPP),
            Err(error) => return reply.err(error),
        };
        let kind = Kind::Copy {
            reply,
            source,
            from,
            to,
            left: length.min(REQUEST_MAX),
            done: 0,
        };
        let ino = self.writable(node);
        self.start(kind, ino, |_| Ok(()));
    }

    fn lseek(
        &mut self,
        _: &Request,
        node: NodeId,
        _: Fh,
        offset: u64,
        whence: u32,
        reply: Reply<Position>,
    ) {
        const SEEK_DATA: u32 = 3;
        const SEEK_HOLE: u32 = 4;
        let hole = match whence {
            SEEK_DATA => false,
            SEEK_HOLE => true,
            _ => return reply.err(Errno::EINVAL),
        };
        let kind = Kind::Seek {
            reply,
            offset,
            hole,
        };
        self.start(kind, self.ino(node), |_| Ok(()));
    }

    fn shutdown(&mut self) {
        // Nothing here waits for anything but the engine, which answers.
        self.desk.volume.sweep.store(false, Ordering::Release);
    }
}
