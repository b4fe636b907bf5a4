//! One core's client: its tasks, its session, its connections.

use core::ffi::CStr;

use crate::fuse::number::Position;
use crate::fuse::{
    Attributes, Caller, Created, Creation, Data, DirEntries, DirEntriesPlus, Entry, Fh, FileSystem,
    Name, NodeId, Opened, Reply, Request, SetAttr, SetTime, Statfs, Target, Wishes, Written,
};
use crate::mem::{Arena, Closed, Handle as TaskId, OutOfMemory, Pinned, RingBuffer, SlotMap};
use crate::sys::epoll::Epoll;
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::fuse::{InitFlags, ReleaseFlags, WriteFlags, decode_dev};
use crate::wire::nfs4::{
    self, AttrRequest, Call, Compound, Create, FileKind, Handle, OpenClaim, OpenHow, SessionId,
    Settable, StateId, Status,
};
use crate::wire::open_flags::{AccessMode, OpenFlags};
use crate::wire::rpc::Credentials;
use spin::Mutex;

use super::answer::{DOTS, open_call, with_attributes};
use super::client::call_buffer;
use super::link::Link;
use super::meta::{RenamePart, look_call, remove_call, rename_call};
use super::op::{Args, CALL_ROOM, Op, Opening, Place, Stage, Step, Task, With};
use super::recovery::{Mounted, Phase};
use super::slots::Slots;
use super::volume::{Cache, Leftover, NfsVolume, OpenFile, OpenState};

/// Tasks of our own, besides one for each request of the host.
const OWN: u32 = 64;
/// Most connections of a core.
pub const MAX_LINKS: usize = 16;
/// Bytes around the data of a READ or WRITE: credentials, handle, stateid.
const AROUND: u32 = 1024;
/// Least and most bytes of a directory that are asked for at a time.
const LISTING: (usize, usize) = (4096, 64 << 10);
/// WRITE is done when the server has the content (`UNSTABLE4`), or when content and attributes are durable
/// (`FILE_SYNC4`).
const UNSTABLE: u32 = 0;
pub(super) const FILE_SYNC: u32 = 2;

mod mode {
    pub const S_IFMT: u32 = 0o170_000;
    pub const S_IFREG: u32 = 0o100_000;
    pub const S_IFCHR: u32 = 0o020_000;
    pub const S_IFBLK: u32 = 0o060_000;
    pub const S_IFIFO: u32 = 0o010_000;
    pub const S_IFSOCK: u32 = 0o140_000;
}

/// Be one core's client of an export.
pub struct Nfs {
    pub(super) volume: &'static NfsVolume,
    pub(super) tasks: SlotMap<Task>,
    pub(super) calls: &'static mut [u8],
    pub(super) args: &'static mut [Args],
    pub(super) ready: RingBuffer<'static, TaskId>,
    pub(super) links: heapless::Vec<Link, MAX_LINKS>,
    pub(super) epoll: Epoll,
    pub(super) next_link: usize,
    pub(super) slots: Slots,
    pub(super) most_slots: u32,
    pub(super) session: SessionId,
    pub(super) phase: Phase,
    pub(super) request_room: u32,
    pub(super) response_room: u32,
    /// Place of the open file that was claimed last.
    pub(super) claimed: u32,
    pub(super) xids: u16,
    pub(super) now: Instant,
    pub(super) tick: Instant,
    /// When the lease was renewed last.
    pub(super) renewed: Instant,
    /// Tasks that wait for a time.
    pub(super) delayed: u32,
    pub(super) warned: bool,
    /// A COMMIT of our own is under way.
    pub(super) committing: bool,
    /// When the last one began.
    pub(super) settled: Instant,
    /// Record that is written again, and how much of it is.
    pub(super) rewriting: (u64, usize),
    /// The server does have another verifier.
    pub(super) checked: bool,
    /// The server's silence is known.
    pub(super) silent: bool,
    /// Path of the export, for a mount; what was found, or why not.
    pub(super) mount: &'static [u8],
    pub(super) mounted: Option<Mounted>,
    pub(super) mount_failed: Option<Status>,
}

/// Make an open file that the server knows nothing of yet.
pub(super) fn free_file(
    opening: &Opening,
    node: u64,
    handle: Handle,
    user: Credentials,
) -> OpenFile {
    OpenFile {
        node,
        handle,
        access: opening.access,
        user,
        owner: opening.owner,
        state: Mutex::new(OpenState {
            stateid: StateId::ANONYMOUS,
            lost: None,
            reopening: false,
        }),
        verifier: Mutex::new([0; 8]),
    }
}

impl Nfs {
    /// Reserve the client of one core, for so many requests in flight. It connects when it is polled.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena has less than [`Self::footprint`], or, with nothing wanted, without a descriptor.
    pub fn new(
        arena: &Arena,
        volume: &'static NfsVolume,
        requests: u32,
        mount: &'static [u8],
    ) -> Result<Self, OutOfMemory> {
        let count = requests.min(0xf000) + OWN;
        let settings = &volume.settings;
        let mut links = heapless::Vec::new();
        for _ in 0..settings.connections.clamp(1, MAX_LINKS as u32) {
            let _ = links.push(Link::new(arena, count)?);
        }
        let none = |_| OutOfMemory { wanted: 0, left: 0 };
        Ok(Self {
            volume,
            tasks: SlotMap::new(arena, count)?,
            calls: arena.zeroed((count as usize + 1) * CALL_ROOM)?,
            args: arena.zeroed(count as usize + 1)?,
            // A task that failed while it waited leaves its place behind.
            ready: RingBuffer::new(arena.zeroed(2 * count as usize + 2)?),
            links,
            epoll: Epoll::new().map_err(none)?,
            next_link: 0,
            slots: Slots::new(),
            most_slots: 1,
            session: [0; 16],
            phase: Phase::Down,
            request_room: 0,
            response_room: 0,
            claimed: 0,
            xids: 0,
            now: Instant::default(),
            tick: Instant::default(),
            renewed: Instant::default(),
            delayed: 0,
            warned: false,
            committing: false,
            settled: Instant::default(),
            rewriting: (0, 0),
            checked: false,
            silent: false,
            mount,
            mounted: None,
            mount_failed: None,
        })
    }

    /// Give the bytes of arena that the client of a core needs.
    pub const fn footprint(requests: u32, connections: u32) -> usize {
        let count = requests + OWN;
        let links = if connections == 0 {
            1
        } else {
            connections as usize
        };
        SlotMap::<Task>::footprint(count)
            + (count as usize + 1) * (CALL_ROOM + size_of::<Args>())
            + (2 * count as usize + 2) * size_of::<TaskId>()
            + links * Link::footprint(count)
            + 256
    }

    /// Give what a mount found.
    pub fn mounted(&self) -> Option<Mounted> {
        self.mounted
    }

    /// Give why a mount did not succeed so far.
    pub fn mount_failed(&self) -> Option<Status> {
        self.mount_failed
    }

    /// Say in whose name a call goes.
    pub(super) fn user(&self, user: Credentials) -> Credentials {
        if self.volume.settings.anonymous {
            Credentials::None
        } else {
            user
        }
    }

    fn caller(&self, caller: &Caller, group: Option<u32>) -> Credentials {
        self.user(Credentials::Sys {
            uid: caller.uid,
            gid: caller.gid,
            group,
        })
    }

    /// Begin a task: enter it, write its call, queue it.
    pub(super) fn start(
        &mut self,
        op: Op,
        user: Credentials,
        file: Option<Pinned<OpenFile>>,
        with: With,
        write: impl FnOnce(Compound<'_>) -> Compound<'_>,
    ) -> Option<TaskId> {
        let task = Task {
            op,
            call: Call::default(),
            user,
            file,
            with,
            named: StateId::ANONYMOUS,
            place: Place::Ready,
            slot: 0,
            xid: 0,
            link: 0,
            since: self.now,
            tries: 0,
            node: 0,
            upto: 0,
            filled: 0,
        };
        match self.tasks.insert(task) {
            Ok(handle) => self.build_again(handle, with, write).then_some(handle),
            Err(task) => {
                // As many as requests fit, so only one of our own is ever too many.
                if let Some(file) = task.file {
                    self.unpin(file);
                }
                task.op.fail(Errno::ENOMEM);
                None
            }
        }
    }

    /// Begin a task that no host waits for.
    pub(super) fn start_own(
        &mut self,
        op: Op,
        user: Credentials,
        file: Option<Pinned<OpenFile>>,
        with: With,
        write: impl FnOnce(Compound<'_>) -> Compound<'_>,
    ) {
        self.start(op, user, file, with, write);
    }

    /// Write a task's next call and queue it. False when it does not fit, and the task failed.
    pub(super) fn build_again(
        &mut self,
        handle: TaskId,
        with: With,
        write: impl FnOnce(Compound<'_>) -> Compound<'_>,
    ) -> bool {
        let built = self.build(handle, with, 0, write);
        if built {
            self.make_ready(handle);
        }
        built
    }

    fn build(
        &mut self,
        handle: TaskId,
        with: With,
        payload: usize,
        write: impl FnOnce(Compound<'_>) -> Compound<'_>,
    ) -> bool {
        let minor = self.volume.settings.minor;
        let Some(task) = self.tasks.get_mut(handle) else {
            return false;
        };
        let buffer = call_buffer(self.calls, handle);
        let compound = Compound::new(buffer, minor, b"dpfs", &task.user);
        match write(compound).finish(payload) {
            Some(call) => {
                task.call = call;
                task.with = with;
                true
            }
            None => {
                self.fail(handle, Errno::ENAMETOOLONG);
                false
            }
        }
    }

    /// End a task: give what is to be answered.
    pub(super) fn finish(&mut self, handle: TaskId) -> Op {
        let Some(task) = self.tasks.remove(handle) else {
            return Op::Renew;
        };
        if matches!(task.place, Place::Delayed(_)) {
            self.delayed -= 1;
        }
        if let Op::Write {
            stage: Stage::HasRoom(_),
            count,
            ..
        } = task.op
        {
            self.volume.uncommitted.lock().release(count);
        }
        if let Some(file) = task.file {
            self.unpin(file);
        }
        task.op
    }

    /// End a task with an error.
    pub(super) fn fail(&mut self, handle: TaskId, error: Errno) {
        if let Some(task) = self.tasks.get(handle) {
            match (&task.op, &task.file) {
                // What the host closes is closed, whatever the server says.
                (Op::Release { .. }, _) => return self.released(handle),
                (Op::Commit, _) => self.committing = false,
                (Op::Reopen, Some(file)) => {
                    let mut state = file.state.lock();
                    state.lost = Some(error);
                    state.reopening = false;
                }
                _ => {}
            }
        }
        self.finish(handle).fail(error);
    }

    /// Keep the open file of a task once more.
    pub(super) fn pin_again(&self, handle: TaskId) -> Option<Pinned<OpenFile>> {
        self.tasks.get(handle)?.file.as_ref().map(Pinned::again)
    }

    /// Begin what the server is still to be told, and renew the lease when nothing else does.
    pub(super) fn own_work(&mut self) {
        if self.phase != Phase::Up {
            return;
        }
        while self.tasks.len() < self.tasks.capacity()
            && let Some(left) = self.volume.leftovers.pop()
        {
            match left {
                Leftover::Open(handle, stateid, user) => {
                    self.start_own(Op::Close, user, None, With::This(stateid), |call| {
                        call.sequence(true).putfh(&handle).close()
                    });
                }
                Leftover::Name(silly, user) => {
                    let name = self.volume.silly_name(silly.number);
                    self.start_own(Op::Sweep, user, None, With::Nothing, |call| {
                        remove_call(call, &silly.parent, &name)
                    });
                }
            }
        }
        self.commit_old();
        if self.now.since(self.renewed) > self.volume.settings.lease / 3 {
            self.renewed = self.now;
            let user = self.user(Credentials::Sys {
                uid: 0,
                gid: 0,
                group: None,
            });
            self.start_own(Op::Renew, user, None, With::Nothing, |call| {
                call.sequence(false)
            });
        }
    }

    /// Tell whether files without names are still to be removed.
    pub(super) fn sweeps(&self) -> bool {
        let sweeps = |op: &Op| matches!(op, Op::Sweep | Op::Release { .. });
        !self.volume.leftovers.is_empty() || self.tasks.iter().any(|(_, task)| sweeps(&task.op))
    }

    /// Write the call of a READ of what is still wanted.
    pub(super) fn build_read(&mut self, handle: TaskId, offset: u64, left: usize) -> bool {
        let room = self.response_room.saturating_sub(AROUND).max(4096);
        let count = left
            .min(self.volume.settings.max_read as usize)
            .min(room as usize);
        let Some(fh) = self.file_of(handle) else {
            return false;
        };
        self.build(handle, With::File, 0, |call| {
            call.sequence(false).putfh(&fh).read(offset, count as u32)
        })
    }

    /// Write the call of a WRITE of what is left.
    pub(super) fn build_write(&mut self, handle: TaskId, offset: u64, left: usize) -> bool {
        let room = self.request_room.saturating_sub(AROUND).max(4096);
        let now = left
            .min(self.volume.settings.max_write as usize)
            .min(room as usize);
        let Some(fh) = self.file_of(handle) else {
            return false;
        };
        let mut stable = UNSTABLE;
        if let Some(Op::Write { count, stage, .. }) =
            self.tasks.get_mut(handle).map(|task| &mut task.op)
        {
            *count = now;
            if *stage == Stage::Stable {
                stable = FILE_SYNC;
            }
        }
        self.build(handle, With::File, now, |call| {
            call.sequence(false)
                .putfh(&fh)
                .write(offset, stable, now as u32)
        })
    }

    fn file_of(&self, handle: TaskId) -> Option<Handle> {
        Some(self.tasks.get(handle)?.file.as_ref()?.handle)
    }

    /// Write the call of a READDIR from a cookie on.
    pub(super) fn build_readdir(&mut self, handle: TaskId, cookie: u64) {
        let Some(task) = self.tasks.get(handle) else {
            return;
        };
        let Some(file) = &task.file else { return };
        let fh = file.handle;
        let verifier = match cookie {
            0 => [0; 8],
            _ => *file.verifier.lock(),
        };
        let (wanted, attributes) = match &task.op {
            Op::ReaddirPlus(reply) => (reply.wanted(), AttrRequest::ENTRY),
            Op::Readdir(reply) => (reply.wanted(), AttrRequest::NAME),
            _ => return,
        };
        let bytes = wanted.clamp(LISTING.0, LISTING.1) as u32;
        self.build(handle, With::Nothing, 0, |call| {
            call.sequence(false)
                .putfh(&fh)
                .readdir(cookie, &verifier, bytes, &attributes)
        });
    }

    fn set_node(&mut self, task: Option<TaskId>, node: NodeId) {
        if let Some(task) = task.and_then(|handle| self.tasks.get_mut(handle)) {
            task.node = node.0;
        }
    }

    fn writable(&self) -> Result<(), Errno> {
        if self.volume.settings.read_only {
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
        self.start(
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

/// Write a number as an owner's name.
struct OwnerName([u8; 10], usize);

impl OwnerName {
    fn new(number: u32) -> Self {
        let mut digits = [0; 10];
        let (mut at, mut rest) = (10, number);
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return Self(digits, at);
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.0[self.1..]
    }
}

/// Times that an exclusive creation leaves to be set: the server kept the verifier in them.
const FRESH: Settable<'static> = Settable {
    size: None,
    mode: None,
    owner: None,
    group: None,
    accessed: Some(nfs4::SetTime::Server),
    modified: Some(nfs4::SetTime::Server),
};

impl FileSystem for Nfs {
    fn wishes(&self, _offered: InitFlags) -> Wishes {
        // Not ATOMIC_O_TRUNC: the host's kernel would have the content of a running program cut before it refuses
        // that (`ETXTBSY`).
        let mut flags = InitFlags::HANDLE_KILLPRIV_V2
            | InitFlags::DO_READDIRPLUS
            | InitFlags::READDIRPLUS_AUTO
            | InitFlags::AUTO_INVAL_DATA;
        if self.volume.settings.cache == Cache::None {
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
        self.turn()
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
        self.start(Op::Lookup(reply), user, None, With::Nothing, |call| {
            with_attributes(call.sequence(false).putfh(&dir).lookup(name.bytes()))
        });
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
        let (owner, group) = (set.uid.map(OwnerName::new), set.gid.map(OwnerName::new));
        let settable = Settable {
            size: set.size,
            mode: set.mode,
            owner: owner.as_ref().map(OwnerName::bytes),
            group: group.as_ref().map(OwnerName::bytes),
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
        self.start(op, user, None, With::Current, |call| {
            with_attributes(call.sequence(true).putfh(&dir).open(
                0,
                &open,
                &nfs4::Created::Guarded(&set),
                &OpenClaim::Name(name.bytes()),
            ))
            .close()
        });
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
        self.start(Op::Link(reply), user, None, With::Nothing, |call| {
            let call = call.sequence(true).putfh(&fh).savefh().putfh(&dir);
            with_attributes(call.link(new_name.bytes()).restorefh())
        });
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
        if let Some(handle) = begun {
            let args = &mut self.args[handle.index as usize];
            args.handles[0] = dir;
            args.set_name(0, name.bytes());
        }
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
        };
        let with = if exclusive {
            With::Current
        } else {
            With::Nothing
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
        self.start(Op::Create(reply, opening), user, None, with, |call| {
            let claim = OpenClaim::Name(name.bytes());
            let mut call = call
                .sequence(true)
                .putfh(&dir)
                .open(0, &open, &created, &claim)
                .getfh();
            if exclusive {
                call = call.setattr(&FRESH);
            }
            call.getattr(&AttrRequest::STAT)
        });
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

    fn fsync(&mut self, rq: &Request, node: NodeId, fh: Fh, _: bool, reply: Reply<()>) {
        let file = match self.volume.opened(fh) {
            Ok(file) => file,
            Err(error) => return reply.err(error),
        };
        let lost = file.state.lock().lost;
        let handle = file.handle;
        self.unpin(file);
        match lost {
            Some(lost) => reply.err(lost),
            None if self.volume.is_uncommitted(node.0) => {
                let user = self.caller(&rq.caller, None);
                self.sync(node.0, &handle, user, Op::Sync { reply, all: false });
            }
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
        let oldest = self.volume.uncommitted.lock().from(0);
        match oldest {
            Some((_, record)) => {
                let user = self.user(record.user());
                let op = Op::Sync { reply, all: true };
                self.sync(record.node, &record.handle, user, op);
            }
            None => reply.ok(()),
        }
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
        if self.volume.settings.minor < 2 || (mode != 0 && mode != PUNCH) {
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
        if self.volume.settings.minor < 2 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_written_as_numbers() {
        assert_eq!(OwnerName::new(0).bytes(), b"0");
        assert_eq!(OwnerName::new(u32::MAX).bytes(), b"4294967295");
    }
}
