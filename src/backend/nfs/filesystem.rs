//! The host's requests: what each asks of the server.

use core::ffi::CStr;

use crate::fuse::number::Position;
use crate::fuse::{
    Attributes, Copied, Created, Creation, Data, DirEntries, DirEntriesPlus, Entry, Fh, FileSystem,
    Lock, LockRequest, Name, NodeId, Opened, Reply, Request, SetAttr, SetTime, Statfs, Target,
    Wishes, Written, XattrValue,
};
use crate::mem::{Closed, Handle as TaskId, SlotId};
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::fuse::{InitFlags, ReleaseFlags, WriteFlags, decode_dev};
use crate::wire::nfs4::{
    self, AttrRequest, Create, FileKind, Handle, OpenClaim, OpenHow, Settable,
};
use crate::wire::open_flags::{AccessMode, OpenFlags};

use super::answer::{DOTS, open_call, with_attributes};
use super::idmap::Owner;
use super::instance::{Nfs, free_file};
use super::meta::{RenamePart, look_call, remove_call, rename_call};
use super::op::{Op, Opening, Step, With};
use super::recovery::Phase;
use super::volume::Cache;

mod mode {
    pub const S_IFMT: u32 = 0o170_000;
    pub const S_IFREG: u32 = 0o100_000;
    pub const S_IFCHR: u32 = 0o020_000;
    pub const S_IFBLK: u32 = 0o060_000;
    pub const S_IFIFO: u32 = 0o010_000;
    pub const S_IFSOCK: u32 = 0o140_000;
}

impl Nfs {
    fn set_node(&mut self, task: Option<TaskId>, node: NodeId) {
        if let Some(task) = task.and_then(|handle| self.tasks.get_mut(handle)) {
            task.node = node.0;
        }
    }

    /// Keep the name that a task is about, and its directory.
    fn set_name(&mut self, task: Option<TaskId>, dir: &Handle, name: Name<'_>) {
        if let Some(task) = task {
            let args = &mut self.args[task.index as usize];
            args.handles[0] = *dir;
            args.set_name(0, name.bytes());
        }
    }

    pub(super) fn writable(&self) -> Result<(), Errno> {
        if self.volume.settings.options.read_only {
            Err(Errno::EROFS)
        } else {
            Ok(())
        }
    }

    fn changed(&self, node: NodeId) -> Result<Handle, Errno> {
        self.writable()?;
        self.volume.handle(node)
    }

    /// Make anything but a regular file.
    fn make(
        &mut self,
        (rq, how): (&Request, &Creation<'_>),
        parent: Result<Handle, Errno>,
        name: Name<'_>,
        what: &Create<'_>,
        reply: Reply<Entry>,
    ) {
        let dir = match parent {
            Ok(dir) => dir,
            Err(error) => return reply.err(error),
        };
        let user = self.caller(&rq.caller, how.group);
        let set = Settable {
            // A link has no permissions of its own, and some servers refuse to set them.
            mode: (!matches!(what, Create::Link(_))).then_some(how.mode & 0o7777),
            ..Settable::default()
        };
        let regular = false;
        let begun = self.start(
            Op::Make { reply, regular },
            user,
            None,
            With::Nothing,
            |call| {
                with_attributes(
                    call.sequence(true)
                        .putfh(&dir)
                        .create(what, name.bytes(), &set),
                )
            },
        );
        self.set_name(begun, &dir, name);
    }

    fn list(&mut self, rq: &Request, node: NodeId, fh: Fh, position: u64, op: Op) {
        let file = match self.volume.opened(fh) {
            Ok(file) if file.access == 0 => file,
            Ok(file) => {
                self.unpin(file);
                return op.fail(Errno::ENOTDIR);
            }
            Err(error) => return op.fail(error),
        };
        // Some servers begin anew behind the last cookie.
        if position > DOTS && position == *file.end.lock() {
            self.unpin(file);
            match op {
                Op::Readdir(reply) => reply.ok(0),
                Op::ReaddirPlus(reply) => reply.ok(0),
                _ => {}
            }
            return;
        }
        let ino = self.volume.nodes.update(node.0, |_, node| node.fileid);
        let mut at = 0;
        for (place, name) in [(0, &b"."[..]), (1, b"..")] {
            if position > place {
                continue;
            }
            let (ino, next, kind) = (ino.unwrap_or(1), place + 1, 4);
            let pushed = match &op {
                Op::Readdir(reply) => reply.push(at, ino, next, kind, name),
                Op::ReaddirPlus(reply) => reply.push(at, None, ino, next, kind, name),
                _ => None,
            };
            at = pushed.unwrap_or(at);
        }
        let user = self.caller(&rq.caller, None);
        let cookie = if position <= DOTS { 0 } else { position };
        let begun = self.start(op, user, Some(file), With::Nothing, |call| call);
        if let Some(handle) = begun {
            if let Some(task) = self.tasks.get_mut(handle) {
                task.filled = at;
            }
            self.build_readdir(handle, cookie);
        }
    }
}

const fn access(flags: OpenFlags) -> u32 {
    match flags.access() {
        AccessMode::Read => 1,
        AccessMode::Write => 2,
        AccessMode::ReadWrite => 3,
    }
}

fn time(time: SetTime) -> nfs4::SetTime {
    match time {
        SetTime::Now => nfs4::SetTime::Server,
        SetTime::At(seconds, nanoseconds) => nfs4::SetTime::Client(nfs4::Time {
            seconds,
            nanoseconds,
        }),
    }
}

/// Times that an exclusive creation leaves to be set: the server kept the verifier in them.
pub(super) const FRESH: Settable<'static> = Settable {
    size: None,
    mode: None,
    owner: None,
    group: None,
    accessed: Some(nfs4::SetTime::Server),
    modified: Some(nfs4::SetTime::Server),
};

impl FileSystem for Nfs {
    fn wishes(&self, offered: InitFlags) -> Wishes {
        self.volume
            .set_submounts(offered.contains(InitFlags::SUBMOUNTS));
        // Not ATOMIC_O_TRUNC: the host's kernel would have the content of a running program cut before it refuses
        // that (`ETXTBSY`).
        let mut flags = InitFlags::HANDLE_KILLPRIV_V2
            | InitFlags::DO_READDIRPLUS
            | InitFlags::READDIRPLUS_AUTO
            | InitFlags::SUBMOUNTS
            | InitFlags::AUTO_INVAL_DATA;
        if self.volume.settings.options.server_locks {
            flags |= InitFlags::POSIX_LOCKS | InitFlags::FLOCK_LOCKS;
        }
        if self.volume.settings.options.cache == Cache::None {
            flags |= InitFlags::DIRECT_IO_ALLOW_MMAP;
        }
        Wishes {
            flags,
            ..Wishes::default()
        }
    }

    fn poll(&mut self, now: Instant) -> bool {
        self.now = now;
        if !self.volume.leftovers.is_empty() {
            self.own_work();
        }
        self.look_for_locks();
        self.turn()
    }

    fn shutdown(&mut self) {
        self.ending = true;
        self.stop_waiting(None);
    }

    fn leave(&mut self) -> bool {
        self.take_leave()
    }

    fn interrupt(&mut self, target: SlotId) {
        self.stop_waiting(Some(target));
    }

    fn wait_fds(&self, add: &mut dyn FnMut(i32)) {
        add(self.epoll.raw());
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.next_turn())
    }

    fn arm(&mut self) -> bool {
        self.ready.is_empty() || self.phase != Phase::Up || self.slots.highest() > 0
    }

    fn forget(&mut self, node: NodeId, count: u64) {
        self.volume.nodes.forget(node.0, count);
    }

    fn lookup(&mut self, rq: &Request, parent: NodeId, name: Name<'_>, reply: Reply<Entry>) {
        let dir = match self.volume.handle(parent) {
            Ok(dir) => dir,
            Err(error) => return reply.err(error),
        };
        if self.volume.is_silly(name.bytes()).0 {
            return reply.err(Errno::ENOENT);
        }
        let user = self.caller(&rq.caller, None);
        let begun = self.start(Op::Lookup(reply), user, None, With::Nothing, |call| {
            with_attributes(call.sequence(false).putfh(&dir).lookup(name.bytes()))
        });
        self.set_node(begun, parent);
        if self.volume.follows() {
            self.set_name(begun, &dir, name);
        }
    }

    fn getattr(&mut self, rq: &Request, node: NodeId, _: Option<Fh>, reply: Reply<Attributes>) {
        let fh = match self.volume.handle(node) {
            Ok(fh) => fh,
            Err(error) => return reply.err(error),
        };
        let user = self.caller(&rq.caller, None);
        let begun = self.start(Op::Getattr(reply), user, None, With::Nothing, |call| {
            call.sequence(false).putfh(&fh).getattr(&AttrRequest::STAT)
        });
        self.set_node(begun, node);
    }

    fn setattr(&mut self, rq: &Request, node: NodeId, set: &SetAttr, reply: Reply<Attributes>) {
        let fh = match self.changed(node) {
            Ok(fh) => fh,
            Err(error) => return reply.err(error),
        };
        let settings = &self.volume.settings;
        let owner = set.uid.map(|number| settings.owners.owner(number));
        let group = set.gid.map(|number| settings.groups.owner(number));
        let settable = Settable {
            size: set.size,
            mode: set.mode,
            owner: owner.as_ref().map(Owner::bytes),
            group: group.as_ref().map(Owner::bytes),
            accessed: set.atime.map(time),
            modified: set.mtime.map(time),
        };
        // A size is set through the open file where there is one: who opened it may write, whatever the mode says now.
        let opened = set.fh.filter(|_| set.size.is_some());
        let file = opened.and_then(|fh| self.volume.opened(fh).ok());
        let (file, with, user) = match file {
            Some(file) if file.access & 2 != 0 => {
                let user = file.user;
                (Some(file), With::File, user)
            }
            other => {
                if let Some(file) = other {
                    self.unpin(file);
                }
                (None, With::Nothing, self.caller(&rq.caller, None))
            }
        };
        let op = Op::Setattr {
            reply,
            size: set.size,
        };
        let begun = self.start(op, user, file, with, |call| {
            call.sequence(true)
                .putfh(&fh)
                .setattr(&settable)
                .getattr(&AttrRequest::STAT)
        });
        self.set_node(begun, node);
    }

    fn readlink(&mut self, rq: &Request, node: NodeId, reply: Reply<Target>) {
        let fh = match self.volume.handle(node) {
            Ok(fh) => fh,
            Err(error) => return reply.err(error),
        };
        let user = self.caller(&rq.caller, None);
        self.start(Op::Readlink(reply), user, None, With::Nothing, |call| {
            call.sequence(false).putfh(&fh).readlink()
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
        let what = Create::Link(target.to_bytes());
        self.make((rq, how), self.changed(parent), name, &what, reply);
    }

    fn mkdir(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        how: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        let dir = self.changed(parent);
        self.make((rq, how), dir, name, &Create::Directory, reply);
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
        let dir = self.changed(parent);
        let kind = match how.mode & mode::S_IFMT {
            mode::S_IFCHR => FileKind::Character,
            mode::S_IFBLK => FileKind::Block,
            mode::S_IFIFO => FileKind::Fifo,
            mode::S_IFSOCK => FileKind::Socket,
            0 | mode::S_IFREG => FileKind::Regular,
            _ => return reply.err(Errno::EINVAL),
        };
        if kind != FileKind::Regular {
            let what = Create::Special(kind, decode_dev(rdev));
            return self.make((rq, how), dir, name, &what, reply);
        }
        let dir = match dir {
            Ok(dir) => dir,
            Err(error) => return reply.err(error),
        };
        let user = self.caller(&rq.caller, how.group);
        let open = OpenHow {
            access: 1,
            owner: self.volume.number(),
        };
        let set = Settable {
            mode: Some(how.mode & 0o7777),
            ..Settable::default()
        };
        let op = Op::Make {
            reply,
            regular: true,
        };
        let begun = self.start(op, user, None, With::Current, |call| {
            with_attributes(call.sequence(true).putfh(&dir).open(
                0,
                &open,
                &nfs4::Created::Guarded(&set),
                &OpenClaim::Name(name.bytes()),
            ))
            .close()
        });
        self.set_name(begun, &dir, name);
    }

    fn link(
        &mut self,
        rq: &Request,
        node: NodeId,
        new_parent: NodeId,
        new_name: Name<'_>,
        reply: Reply<Entry>,
    ) {
        let both = self
            .changed(node)
            .and_then(|fh| Ok((fh, self.volume.handle(new_parent)?)));
        let (fh, dir) = match both {
            Ok(both) => both,
            Err(error) => return reply.err(error),
        };
        let user = self.caller(&rq.caller, None);
        let begun = self.start(Op::Link(reply), user, None, With::Nothing, |call| {
            let call = call.sequence(true).putfh(&fh).savefh().putfh(&dir);
            with_attributes(call.link(new_name.bytes()).restorefh())
        });
        self.set_name(begun, &dir, new_name);
    }

    fn unlink(&mut self, rq: &Request, parent: NodeId, name: Name<'_>, reply: Reply<()>) {
        let dir = match self.changed(parent) {
            Ok(dir) => dir,
            Err(error) => return reply.err(error),
        };
        let user = self.caller(&rq.caller, None);
        let look = !self.volume.files.is_empty();
        let step = if look { Step::Look } else { Step::Last };
        let begun = self.start(
            Op::Remove { reply, step },
            user,
            None,
            With::Nothing,
            |call| {
                if look {
                    look_call(call, &dir, name.bytes())
                } else {
                    remove_call(call, &dir, name.bytes())
                }
            },
        );
        self.set_name(begun, &dir, name);
    }

    fn rmdir(&mut self, rq: &Request, parent: NodeId, name: Name<'_>, reply: Reply<()>) {
        let dir = match self.changed(parent) {
            Ok(dir) => dir,
            Err(error) => return reply.err(error),
        };
        let user = self.caller(&rq.caller, None);
        let step = Step::Last;
        self.start(
            Op::Remove { reply, step },
            user,
            None,
            With::Nothing,
            |call| remove_call(call, &dir, name.bytes()),
        );
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
        if flags != 0 {
            // The protocol has no such thing.
            return reply.err(Errno::EINVAL);
        }
        let both = self
            .changed(parent)
            .and_then(|from| Ok((from, self.volume.handle(new_parent)?)));
        let (from, to) = match both {
            Ok(both) => both,
            Err(error) => return reply.err(error),
        };
        let user = self.caller(&rq.caller, None);
        let look = !self.volume.files.is_empty();
        let step = if look { Step::Look } else { Step::Last };
        let begun = self.start(
            Op::Rename { reply, step },
            user,
            None,
            With::Nothing,
            |call| {
                if look {
                    look_call(call, &to, new_name.bytes())
                } else {
                    let from = RenamePart(&from, name.bytes());
                    rename_call(call, &from, &RenamePart(&to, new_name.bytes()))
                }
            },
        );
        if let Some(handle) = begun {
            let args = &mut self.args[handle.index as usize];
            args.handles = [from, to];
            args.set_name(0, name.bytes());
            args.set_name(1, new_name.bytes());
        }
    }

    fn open(
        &mut self,
        rq: &Request,
        node: NodeId,
        flags: OpenFlags,
        _kill_suidgid: bool,
        reply: Reply<Opened>,
    ) {
        let fh = if flags.access().writes() {
            self.changed(node)
        } else {
            self.volume.handle(node)
        };
        let fh = match fh {
            Ok(fh) => fh,
            Err(error) => return reply.err(error),
        };
        let opening = Opening {
            node: node.0,
            handle: fh,
            access: access(flags),
            owner: self.volume.number(),
            sets: false,
            state: None,
        };
        let user = self.caller(&rq.caller, None);
        self.start(
            Op::Open(reply, opening),
            user,
            None,
            With::Nothing,
            |call| open_call(call, &opening).getattr(&AttrRequest::STAT),
        );
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
        let dir = match self.changed(parent) {
            Ok(dir) => dir,
            Err(error) => return reply.err(error),
        };
        let exclusive = flags.contains(OpenFlags::EXCL);
        let opening = Opening {
            node: 0,
            handle: dir,
            access: access(flags),
            owner: self.volume.number(),
            sets: exclusive,
            state: None,
        };
        let user = self.caller(&rq.caller, how.group);
        let set = Settable {
            mode: Some(how.mode & 0o7777),
            size: (!exclusive && flags.contains(OpenFlags::TRUNC)).then_some(0),
            ..Settable::default()
        };
        let mut verifier = opening.owner.to_be_bytes();
        for (byte, boot) in verifier.iter_mut().zip(self.volume.verifier) {
            *byte ^= boot;
        }
        let open = OpenHow {
            access: opening.access,
            owner: opening.owner,
        };
        let created = if exclusive {
            nfs4::Created::Exclusive(verifier, &set)
        } else {
            nfs4::Created::Unchecked(&set)
        };
        self.start(
            Op::Create(reply, opening),
            user,
            None,
            With::Nothing,
            |call| {
                let claim = OpenClaim::Name(name.bytes());
                let call = call
                    .sequence(true)
                    .putfh(&dir)
                    .open(0, &open, &created, &claim)
                    .getfh();
                if exclusive {
                    call
                } else {
                    call.getattr(&AttrRequest::STAT)
                }
            },
        );
    }

    fn read(
        &mut self,
        _: &Request,
        _: NodeId,
        fh: Fh,
        offset: u64,
        _: OpenFlags,
        reply: Reply<Data>,
    ) {
        let file = match self.volume.opened(fh) {
            Ok(file) => file,
            Err(error) => return reply.err(error),
        };
        let (user, wanted) = (file.user, reply.wanted());
        let op = Op::Read {
            reply,
            offset,
            done: 0,
        };
        if let Some(handle) = self.start(op, user, Some(file), With::File, |call| call) {
            self.build_read(handle, offset, wanted);
        }
    }

    fn write(
        &mut self,
        _: &Request,
        _: NodeId,
        fh: Fh,
        offset: u64,
        _: WriteFlags,
        flags: OpenFlags,
        reply: Reply<Written>,
    ) {
        let file = match self.volume.opened(fh) {
            Ok(file) => file,
            Err(error) => return reply.err(error),
        };
        let (user, wanted) = (file.user, reply.wanted());
        let stage = self.stage(file.node, flags.contains(OpenFlags::DSYNC));
        let op = Op::Write {
            reply,
            offset,
            done: 0,
            count: 0,
            stage,
        };
        if let Some(handle) = self.start(op, user, Some(file), With::File, |call| call) {
            self.build_write(handle, offset, wanted);
        }
    }

    fn release(
        &mut self,
        _: &Request,
        _: NodeId,
        fh: Fh,
        _: ReleaseFlags,
        _: u64,
        reply: Reply<()>,
    ) {
        match self.volume.files.close(fh.0) {
            Closed::Unknown => reply.err(Errno::EBADF),
            // Who works on it last closes it.
            Closed::Later => reply.ok(()),
            Closed::Now(file) => {
                self.volume.unlock_through(file.owner);
                let (handle, user, node) = (file.handle, file.user, file.node);
                let stateid = file.state.lock().stateid;
                let commits = self.volume.is_uncommitted(node);
                let upto = self.volume.uncommitted.lock().number();
                let op = Op::Release { reply, commits };
                let begun = self.start(op, user, None, With::This(stateid), |call| {
                    let mut call = call.sequence(true).putfh(&handle);
                    if commits {
                        call = call.commit(0, 0);
                    }
                    call.close()
                });
                if let Some(task) = begun
                    && let Some(task) = self.tasks.get_mut(task)
                {
                    (task.node, task.upto) = (node, upto);
                }
                if let Some(task) = begun {
                    self.args[task.index as usize].handles[0] = handle;
                }
            }
        }
    }

    fn flush(&mut self, _: &Request, _: NodeId, fh: Fh, lock_owner: u64, reply: Reply<()>) {
        if !self.volume.settings.options.server_locks {
            return reply.err(Errno::ENOSYS);
        }
        match self.volume.opened(fh) {
            Ok(file) => self.begin_flush(file, lock_owner, reply),
            Err(error) => reply.err(error),
        }
    }

    fn getlk(&mut self, _: &Request, _: NodeId, fh: Fh, lock: &LockRequest, reply: Reply<Lock>) {
        match self.volume.opened(fh) {
            Ok(file) => self.begin_getlk(file, lock, reply),
            Err(error) => reply.err(error),
        }
    }

    fn setlk(&mut self, _: &Request, _: NodeId, fh: Fh, lock: &LockRequest, reply: Reply<()>) {
        match self.volume.opened(fh) {
            Ok(file) => self.begin_lock(file, lock, reply),
            Err(error) => reply.err(error),
        }
    }

    fn fsync(&mut self, rq: &Request, node: NodeId, fh: Fh, _: bool, reply: Reply<()>) {
        let file = match self.volume.opened(fh) {
            Ok(file) => file,
            Err(error) => return reply.err(error),
        };
        let error = {
            let mut state = file.state.lock();
            state.lost.or_else(|| state.unsaid.take())
        };
        if error.is_none() && self.volume.is_uncommitted(node.0) {
            let (user, handle) = (self.caller(&rq.caller, None), file.handle);
            let op = Op::Sync { reply, all: false };
            return self.sync(node.0, (&handle, Some(file)), user, op);
        }
        self.unpin(file);
        match error {
            Some(error) => reply.err(error),
            None => reply.ok(()),
        }
    }

    fn opendir(&mut self, rq: &Request, node: NodeId, _: OpenFlags, reply: Reply<Opened>) {
        let handle = match self.volume.handle(node) {
            Ok(handle) => handle,
            Err(error) => return reply.err(error),
        };
        let opening = Opening {
            node: node.0,
            handle,
            access: 0,
            owner: 0,
            sets: false,
            state: None,
        };
        let user = self.caller(&rq.caller, None);
        let file = free_file(&opening, node.0, handle, user);
        match self.volume.enter(file, 0, rq.epoch) {
            Ok((fh, flags)) => reply.ok(Opened { fh, flags }),
            Err((error, _)) => reply.err(error),
        }
    }

    fn readdir(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        position: u64,
        reply: Reply<DirEntries>,
    ) {
        self.list(rq, node, fh, position, Op::Readdir(reply));
    }

    fn readdirplus(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        position: u64,
        reply: Reply<DirEntriesPlus>,
    ) {
        self.list(rq, node, fh, position, Op::ReaddirPlus(reply));
    }

    fn releasedir(&mut self, _: &Request, _: NodeId, fh: Fh, reply: Reply<()>) {
        match self.volume.files.close(fh.0) {
            Closed::Unknown => return reply.err(Errno::EBADF),
            Closed::Later => {}
            Closed::Now(file) => self.volume.dispose(&file),
        }
        reply.ok(());
    }

    fn fsyncdir(&mut self, _: &Request, _: NodeId, _: Fh, _: bool, reply: Reply<()>) {
        reply.ok(());
    }

    fn syncfs(&mut self, _: &Request, _: NodeId, reply: Reply<()>) {
        self.sync_all(reply);
    }

    fn statfs(&mut self, rq: &Request, node: NodeId, reply: Reply<Statfs>) {
        let fh = match self.volume.handle(node) {
            Ok(fh) => fh,
            Err(error) => return reply.err(error),
        };
        let user = self.caller(&rq.caller, None);
        self.start(Op::Statfs(reply), user, None, With::Nothing, |call| {
            call.sequence(false)
                .putfh(&fh)
                .getattr(&AttrRequest::STATFS)
        });
    }

    fn access(&mut self, rq: &Request, node: NodeId, mask: u32, reply: Reply<()>) {
        let fh = match self.volume.handle(node) {
            Ok(fh) => fh,
            Err(error) => return reply.err(error),
        };
        // ACCESS4_READ, MODIFY, LOOKUP and EXECUTE: which of the last two there is depends on the type.
        let mut wanted = 0;
        for (bit, of) in [(4, 0x01), (2, 0x04), (1, 0x20)] {
            if mask & bit != 0 {
                wanted |= of;
            }
        }
        let user = self.caller(&rq.caller, None);
        self.start(
            Op::Access(reply, wanted),
            user,
            None,
            With::Nothing,
            |call| call.sequence(false).putfh(&fh).access(wanted | 0x02),
        );
    }

    fn fallocate(
        &mut self,
        _: &Request,
        _: NodeId,
        fh: Fh,
        offset: u64,
        length: u64,
        mode: u32,
        reply: Reply<()>,
    ) {
        /// `FALLOC_FL_PUNCH_HOLE`, which goes with `FALLOC_FL_KEEP_SIZE`.
        const PUNCH: u32 = 3;
        if self.volume.known.minor() < 2 || (mode != 0 && mode != PUNCH) {
            return reply.err(Errno::EOPNOTSUPP);
        }
        let file = match self.volume.opened(fh) {
            Ok(file) => file,
            Err(error) => return reply.err(error),
        };
        let (user, handle, node) = (file.user, file.handle, file.node);
        let commits = mode == PUNCH && self.volume.is_uncommitted(node);
        let upto = self.volume.uncommitted.lock().number();
        let op = Op::Space { reply, commits };
        let begun = self.start(op, user, Some(file), With::File, |call| {
            let mut call = call.sequence(true).putfh(&handle);
            if commits {
                call = call.commit(0, 0);
            }
            if mode == PUNCH {
                call.deallocate(offset, length)
            } else {
                call.allocate(offset, length)
            }
        });
        if let Some(task) = begun.and_then(|handle| self.tasks.get_mut(handle)) {
            (task.node, task.upto) = (node, upto);
        }
    }

    fn setxattr(
        &mut self,
        rq: &Request,
        node: NodeId,
        name: &CStr,
        value: &[u8],
        flags: u32,
        _kill_sgid: bool,
        reply: Reply<()>,
    ) {
        self.begin_setxattr((rq, node, name), value.len(), flags, reply);
    }

    fn getxattr(&mut self, rq: &Request, node: NodeId, name: &CStr, reply: Reply<XattrValue>) {
        self.begin_getxattr(rq, node, name, reply);
    }

    fn listxattr(&mut self, rq: &Request, node: NodeId, reply: Reply<XattrValue>) {
        self.begin_listxattr(rq, node, reply);
    }

    fn removexattr(&mut self, rq: &Request, node: NodeId, name: &CStr, reply: Reply<()>) {
        self.begin_removexattr(rq, node, name, reply);
    }

    fn copy_file_range(
        &mut self,
        _: &Request,
        (_, source, from): (NodeId, Fh, u64),
        (_, destination, to): (NodeId, Fh, u64),
        length: u64,
        reply: Reply<Copied>,
    ) {
        self.begin_copy((source, from), (destination, to), length, reply);
    }

    fn lseek(
        &mut self,
        _: &Request,
        _: NodeId,
        fh: Fh,
        offset: u64,
        whence: u32,
        reply: Reply<Position>,
    ) {
        const SEEK_DATA: u32 = 3;
        const SEEK_HOLE: u32 = 4;
        if self.volume.known.minor() < 2 {
            return reply.err(Errno::ENOSYS);
        }
        if !matches!(whence, SEEK_DATA | SEEK_HOLE) {
            return reply.err(Errno::EINVAL);
        }
        let file = match self.volume.opened(fh) {
            Ok(file) => file,
            Err(error) => return reply.err(error),
        };
        let (user, handle) = (file.user, file.handle);
        self.start(Op::Seek(reply), user, Some(file), With::File, |call| {
            call.sequence(false)
                .putfh(&handle)
                .seek(offset, whence == SEEK_HOLE)
        });
    }
}
