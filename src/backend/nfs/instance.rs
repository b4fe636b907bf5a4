//! One core's client: its tasks, its session, its connections.

#[cfg(feature = "tls")]
use crate::backend::tls::Fault;
use crate::fuse::Caller;
use crate::mem::{Arena, Handle as TaskId, OutOfMemory, Pinned, RingBuffer, SlotMap};
use crate::sys::epoll::Epoll;
use crate::sys::time::Instant;
use crate::sys::watch::Watch;
use crate::wire::errno::Errno;
use crate::wire::nfs4::{AttrRequest, Call, Compound, Handle, SessionId, StateId, Status};
use crate::wire::rpc::Credentials;
use spin::Mutex;

use super::client::call_buffer;
use super::fit::Sizes;
use super::fragments;
use super::leave::Leaving;
use super::link::Link;
use super::locks::leave_call;
use super::meta::remove_call;
use super::op::{Args, CALL_ROOM, Op, Opening, Place, Stage, Task, With};
use super::recovery::{Mounted, Phase};
use super::referral::Border;
use super::search::Search;
use super::slots::Slots;
use super::volume::{Leftover, NfsVolume, OpenFile, OpenState};

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

/// Be one core's client of an export.
pub struct Nfs {
    pub(super) volume: &'static NfsVolume,
    pub(super) tasks: SlotMap<Task>,
    pub(super) calls: &'static mut [u8],
    pub(super) args: &'static mut [Args],
    pub(super) ready: RingBuffer<'static, TaskId>,
    pub(super) links: heapless::Vec<Link, MAX_LINKS>,
    pub(super) epoll: Epoll,
    /// Tells without a system call whether something came; without it the connections are asked each time.
    pub(super) ring: Option<Watch>,
    /// Something that came is not read yet.
    pub(super) unread: bool,
    /// The server sends answers to READs in fragments.
    pub(super) fragmented: bool,
    pub(super) next_link: usize,
    pub(super) slots: Slots,
    pub(super) most_slots: u32,
    pub(super) session: SessionId,
    /// What tells the server that knows us from others.
    pub(super) server: u64,
    /// Number of the server's last call in it.
    pub(super) called: u32,
    pub(super) phase: Phase,
    pub(super) request_room: u32,
    pub(super) response_room: u32,
    /// Sizes for which the calls are written.
    pub(super) sizes: Sizes,
    /// Place of the open file that was claimed last.
    pub(super) claimed: u32,
    /// Place of the range that was locked anew last.
    pub(super) relocked: u32,
    pub(super) xids: u16,
    pub(super) now: Instant,
    pub(super) tick: Instant,
    /// When the lease was renewed last.
    pub(super) renewed: Instant,
    /// Tasks that wait for a time.
    pub(super) delayed: u32,
    /// The server says that it restarted, and what is to be done about it is still to be done.
    pub(super) restarted: bool,
    pub(super) reclaims: bool,
    /// It says that it revoked state; all is being asked after; when that began last.
    pub(super) revoked: bool,
    pub(super) probing: bool,
    pub(super) probed: Option<Instant>,
    /// Life of our state at the server in which the session began.
    pub(super) life: u32,
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
    /// Unlocks that this core knows of.
    pub(super) unlocked: u64,
    /// The device stops: nothing waits for locks any more.
    pub(super) ending: bool,
    /// How far the end is.
    pub(super) leaving: Leaving,
    /// Path of the export, for a mount, or of the root, to know the server by; what was found, or why not.
    pub(super) mount: &'static [u8],
    pub(super) mounted: Option<Mounted>,
    pub(super) mount_failed: Option<Status>,
    /// What the server and this client do not agree on, until they do.
    #[cfg(feature = "tls")]
    pub(super) fault: Option<Fault>,
    /// Minor version of the session's last own call.
    pub(super) asked_minor: u32,
    /// It counts among the cores that have not taken leave.
    pub(super) joined: bool,
    /// The way to the clients of other servers.
    pub(super) border: Border,
    /// What is done when the file system moves.
    pub(super) search: Search,
    /// When to go on with state that the server puts off.
    pub(super) resumes: Option<Instant>,
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
            unsaid: None,
            reopening: false,
        }),
        verifier: Mutex::new([0; 8]),
        end: Mutex::new(0),
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
        for _ in 0..settings.options.connections.clamp(1, MAX_LINKS as u32) {
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
            ring: volume.watches.lock().pop(),
            unread: false,
            fragmented: false,
            next_link: 0,
            slots: Slots::new(),
            most_slots: 1,
            session: [0; 16],
            server: 0,
            called: 0,
            phase: Phase::Down,
            request_room: 0,
            response_room: 0,
            sizes: Sizes::default(),
            claimed: 0,
            relocked: 0,
            xids: 0,
            now: Instant::default(),
            tick: Instant::default(),
            renewed: Instant::default(),
            delayed: 0,
            restarted: false,
            reclaims: false,
            revoked: false,
            probing: false,
            probed: None,
            life: 0,
            committing: false,
            settled: Instant::default(),
            rewriting: (0, 0),
            checked: false,
            silent: false,
            unlocked: 0,
            ending: false,
            leaving: Leaving::No,
            mount,
            mounted: None,
            mount_failed: None,
            #[cfg(feature = "tls")]
            fault: None,
            asked_minor: 0,
            joined: false,
            border: Border::new(),
            search: Search::default(),
            resumes: None,
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
        if self.volume.settings.options.anonymous {
            Credentials::None
        } else {
            user
        }
    }

    /// Say in whose name calls of our own go.
    pub(super) fn machine(&self) -> Credentials {
        self.user(Credentials::Sys {
            uid: 0,
            gid: 0,
            group: None,
        })
    }

    pub(super) fn caller(&self, caller: &Caller, group: Option<u32>) -> Credentials {
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
            asked: Instant::default(),
            tries: 0,
            strays: false,
            node: 0,
            upto: 0,
            filled: 0,
            cookie: 0,
            sought: 0,
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

    pub(super) fn build(
        &mut self,
        handle: TaskId,
        with: With,
        payload: usize,
        write: impl FnOnce(Compound<'_>) -> Compound<'_>,
    ) -> bool {
        let minor = self.volume.known.minor();
        let Some(task) = self.tasks.get_mut(handle) else {
            return false;
        };
        let buffer = call_buffer(self.calls, handle);
        let compound = Compound::new(buffer, minor, b"dpfs", &task.user);
        match write(compound).finish(payload) {
            Some(call) => {
                task.call = call;
                task.with = with;
                task.asked = Instant::default();
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
        let Some(mut task) = self.tasks.remove(handle) else {
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
        match &task.op {
            Op::Lock(call) => self.settle_lock(call),
            Op::Probe(_) => self.probing = false,
            Op::Whither(_) => self.whither_ended(),
            _ => {}
        }
        if let Op::Copy(call) = &mut task.op
            && let Some(source) = call.source.take()
        {
            self.unpin(source);
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
                (Op::Open(_, opening) | Op::Create(_, opening), _) => {
                    if let Some(state) = opening.state {
                        let left = Leftover::Open(opening.handle, state, task.user);
                        self.volume.leave(left);
                    }
                }
                (Op::Reopen, Some(file)) => {
                    let mut state = file.state.lock();
                    state.lost = Some(error);
                    state.reopening = false;
                }
                _ => {}
            }
        }
        let ended = self.finish(handle);
        if let Op::Whither(_) = ended {
            self.whither_failed(error);
        }
        self.lookup_failed(ended, error);
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
                Leftover::Delegation(handle, stateid, user) => {
                    self.start_own(Op::Close, user, None, With::This(stateid), |call| {
                        call.sequence(true).putfh(&handle).delegreturn()
                    });
                }
                Leftover::Locks(handle, lock, open, user) => {
                    self.start_own(Op::Close, user, None, With::This(open), |call| {
                        leave_call(call, &handle, &lock)
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
        self.probe_state();
        self.ask_whither();
        if self.now.since(self.renewed) > self.volume.known.lease() / 3 {
            self.renewed = self.now;
            self.start_own(Op::Renew, self.machine(), None, With::Nothing, |call| {
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
        let mut most = self.volume.known.max_read();
        if self.fragmented {
            most = most.min(fragments::MOST);
        }
        let count = at_once(left, most, self.response_room);
        let Some(fh) = self.file_of(handle) else {
            return false;
        };
        self.build(handle, With::File, 0, |call| {
            call.sequence(false).putfh(&fh).read(offset, count as u32)
        })
    }

    /// Write the call of a WRITE of what is left.
    pub(super) fn build_write(&mut self, handle: TaskId, offset: u64, left: usize) -> bool {
        let now = at_once(left, self.volume.known.max_write(), self.request_room);
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

    /// The server does not know any more what comes behind a cookie: list the directory from its start, and go on where it
    /// gives that cookie now, as Linux does. False when that was tried, or this was its start. Which names the host has is
    /// not kept, so a cookie that is nowhere is an error.
    pub(super) fn list_from_start(&mut self, handle: TaskId) -> bool {
        let Some(task) = self.tasks.get_mut(handle) else {
            return false;
        };
        let lists = matches!(task.op, Op::Readdir(_) | Op::ReaddirPlus(_));
        if !lists || task.cookie == 0 || task.sought != 0 {
            return false;
        }
        task.sought = task.cookie;
        self.build_readdir(handle, 0);
        self.make_ready(handle);
        true
    }

    /// Write the call of a READDIR from a cookie on.
    pub(super) fn build_readdir(&mut self, handle: TaskId, cookie: u64) {
        let Some(task) = self.tasks.get_mut(handle) else {
            return;
        };
        task.cookie = cookie;
        let Some(file) = &task.file else { return };
        let fh = file.handle;
        let verifier = match cookie {
            0 => [0; 8],
            _ => *file.verifier.lock(),
        };
        let (wanted, attributes) = match &task.op {
            Op::ReaddirPlus(reply) => (reply.wanted(), AttrRequest::ENTRY),
            // Numbers of files depend on their file system.
            Op::Readdir(reply) if self.volume.settings.tag != 0 => {
                (reply.wanted(), AttrRequest::NAME_AND_FS)
            }
            Op::Readdir(reply) => (reply.wanted(), AttrRequest::NAME),
            _ => return,
        };
        let bytes = at_once(wanted.max(LISTING.0), LISTING.1 as u32, self.response_room) as u32;
        self.build(handle, With::Nothing, 0, |call| {
            call.sequence(false)
                .putfh(&fh)
                .readdir(cookie, &verifier, bytes, &attributes)
        });
    }
}

/// Give how much of `left` one call carries: what the server takes at most, and what the session's messages hold.
fn at_once(left: usize, most: u32, room: u32) -> usize {
    left.min(most as usize)
        .min(room.saturating_sub(AROUND).max(4096) as usize)
}
