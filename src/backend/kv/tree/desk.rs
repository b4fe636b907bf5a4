//! The requests that one core has under way with its engine: a fixed table, and the engine's counterpart.

use zerocopy::FromZeros;

use super::super::engine::{Client, Done, Failure, Record, Token};
use super::super::record::{Dentry, Inode};
use super::long::Longs;
use super::volume::TreeVolume;
use crate::fuse::{
    Attributes, Copied, Created, Data, DirEntries, DirEntriesPlus, Entry, Opened, Reply, SetAttr,
    Statfs, StatxReply, Target, Written, XattrValue, number::Position,
};
use crate::mem::{Arena, Handle, OutOfMemory, Segment, SlotMap};
use crate::sys::time::Instant;
use crate::wire::errno::Errno;

/// Index, in the Get of an operation on one, of a record whose bytes mean nothing to the tree: attribute or target.
pub const RAW: u32 = 1;

/// How a node that is to be made is answered.
pub enum MakeReply {
    /// MKNOD, MKDIR, SYMLINK.
    Entry(Reply<Entry>),
    /// CREATE; with `exclusive` a file that is there is `EEXIST`.
    Created {
        reply: Reply<Created>,
        exclusive: bool,
        truncate: bool,
    },
    /// TMPFILE.
    Nameless(Reply<Created>),
}

/// What a directory is listed into.
pub enum ListReply {
    /// READDIR.
    Plain(Reply<DirEntries>),
    /// READDIRPLUS.
    Plus(Reply<DirEntriesPlus>),
}

/// What a request wants, with its reply.
pub enum Kind {
    /// Answered already.
    Answered,
    Lookup(Reply<Entry>),
    Getattr(Reply<Attributes>),
    Statx(Reply<StatxReply>),
    Setattr {
        reply: Reply<Attributes>,
        set: SetAttr,
    },
    /// OPEN that truncates.
    Open {
        reply: Reply<Opened>,
        set: SetAttr,
    },
    Readlink(Reply<Target>),
    Make {
        reply: MakeReply,
        inode: Inode,
    },
    Unlink {
        reply: Reply<()>,
        dir: bool,
    },
    Rename {
        reply: Reply<()>,
        flags: u32,
        to: u64,
    },
    Link {
        reply: Reply<Entry>,
        to: u64,
    },
    Read {
        reply: Reply<Data>,
        offset: u64,
    },
    Write {
        reply: Reply<Written>,
        offset: u64,
        append: bool,
        kill: bool,
    },
    Allocate {
        reply: Reply<()>,
        offset: u64,
        end: u64,
        mode: u32,
    },
    /// COPY_FILE_RANGE, to the inode that the request is about.
    Copy {
        reply: Reply<Copied>,
        source: u64,
        from: u64,
        to: u64,
        left: u64,
        done: u64,
    },
    Seek {
        reply: Reply<Position>,
        offset: u64,
        hole: bool,
    },
    Sync(Reply<()>),
    Statfs(Reply<Statfs>),
    List {
        reply: ListReply,
        position: u64,
        at: usize,
        full: bool,
        epoch: u32,
    },
    Getxattr(Reply<XattrValue>),
    Listxattr {
        reply: Reply<XattrValue>,
        len: usize,
        /// There was no room for some.
        lost: bool,
        /// The last that was listed.
        after: u64,
    },
    Setxattr {
        reply: Reply<()>,
        flags: u32,
        kill_sgid: bool,
    },
    Removexattr(Reply<()>),
    /// Reserve numbers for new inodes.
    Lease,
    /// Remove an inode that has no name and is not in use.
    Reap,
    /// Look for such inodes that a session or a crash left.
    Sweep {
        after: u64,
    },
}

impl Kind {
    /// Answer with an error.
    pub fn err(self, error: Errno) {
        match self {
            Self::Answered | Self::Lease | Self::Reap | Self::Sweep { .. } => {}
            Self::Lookup(reply)
            | Self::Make {
                reply: MakeReply::Entry(reply),
                ..
            }
            | Self::Link { reply, .. } => reply.err(error),
            Self::Getattr(reply) | Self::Setattr { reply, .. } => reply.err(error),
            Self::Statx(reply) => reply.err(error),
            Self::Open { reply, .. } => reply.err(error),
            Self::Readlink(reply) => reply.err(error),
            Self::Make {
                reply: MakeReply::Created { reply, .. } | MakeReply::Nameless(reply),
                ..
            } => reply.err(error),
            Self::Unlink { reply, .. }
            | Self::Rename { reply, .. }
            | Self::Allocate { reply, .. }
            | Self::Sync(reply)
            | Self::Setxattr { reply, .. }
            | Self::Removexattr(reply) => reply.err(error),
            Self::Read { reply, .. } => reply.err(error),
            Self::Write { reply, .. } => reply.err(error),
            // What was copied before is said; the host meets the error when it asks for the rest.
            Self::Copy { reply, done, .. } if done > 0 => reply.ok(done),
            Self::Copy { reply, .. } => reply.err(error),
            Self::Seek { reply, .. } => reply.err(error),
            Self::Statfs(reply) => reply.err(error),
            Self::List {
                reply: ListReply::Plain(reply),
                ..
            } => reply.err(error),
            Self::List {
                reply: ListReply::Plus(reply),
                ..
            } => reply.err(error),
            Self::Getxattr(reply) | Self::Listxattr { reply, .. } => reply.err(error),
        }
    }
}

/// One request under way.
pub struct Work {
    pub kind: Kind,
    /// Inode that the request is about; of an operation on names, the directory.
    pub ino: u64,
    /// Where it stands; the meaning is its operation's.
    pub step: u8,
    /// How often it began again.
    pub tries: u16,
    /// Where a Clear or Seek goes on.
    pub next_byte: u64,
    /// A number for what it makes, kept over attempts; or how long a file is behind whose end is cleared.
    pub number: u64,
    pub result: Result<Done, Failure>,
    next: Option<Handle>,
}

/// What a Get found under one key.
#[derive(Clone, Copy, FromZeros)]
pub struct Found {
    /// Version of the entry or raw record; zero without one, for no version is.
    pub entry_version: u64,
    /// Version of the inode; zero without one.
    pub inode_version: u64,
    pub entry: Dentry,
    pub inode: Inode,
}

/// What requests found so far, one for each place in the table.
#[derive(FromZeros)]
struct Pad {
    found: [Found; 4],
    list: [u8; LIST_MAX],
}

/// Most bytes of names of attributes that every request has room for.
const LIST_MAX: usize = 4096;

/// Requests in order, linked through the table.
#[derive(Default)]
struct Queue {
    head: Option<Handle>,
    tail: Option<Handle>,
}

/// The engine's counterpart: the requests of one core.
pub struct Desk {
    pub volume: &'static TreeVolume,
    pub works: SlotMap<Work>,
    pads: &'static mut [Pad],
    /// Lists of names that are too long for those.
    lists: Longs,
    /// Those whose operation ended.
    ready: Queue,
    /// Those that the engine had no room for, or that wait for numbers.
    waiting: Queue,
    pub now: Instant,
}

impl Desk {
    pub fn new(
        arena: &Arena,
        volume: &'static TreeVolume,
        requests: u32,
    ) -> Result<Self, OutOfMemory> {
        Ok(Self {
            volume,
            works: SlotMap::new(arena, requests)?,
            pads: arena.zeroed(requests as usize + 1)?,
            lists: Longs::new(arena)?,
            ready: Queue::default(),
            waiting: Queue::default(),
            now: Instant::default(),
        })
    }

    pub const fn footprint(requests: u32) -> usize {
        SlotMap::<Work>::footprint(requests)
            + (requests as usize + 2) * size_of::<Pad>()
            + Longs::footprint()
    }

    /// Enter a request.
    pub fn enter(&mut self, kind: Kind, ino: u64) -> Option<Handle> {
        let work = Work {
            kind,
            ino,
            step: 0,
            tries: 0,
            next_byte: 0,
            number: 0,
            result: Ok(Done::Done),
            next: None,
        };
        match self.works.insert(work) {
            Ok(handle) => Some(handle),
            Err(work) => {
                work.kind.err(Errno::ENOMEM);
                None
            }
        }
    }

    /// Forget what an earlier attempt found.
    pub fn wipe(&mut self, handle: Handle) {
        for found in &mut self.pads[handle.index as usize].found {
            found.entry_version = 0;
            found.inode_version = 0;
        }
    }

    pub fn found(&self, handle: Handle, index: usize) -> &Found {
        &self.pads[handle.index as usize].found[index]
    }

    /// Give the names that a request collected; `None` when there was no room for so many bytes.
    pub fn list(&self, handle: Handle, len: usize) -> Option<&[u8]> {
        let short = self.pads[handle.index as usize].list.get(..len);
        short.or_else(|| self.lists.get(handle).get(..len))
    }

    fn push(&mut self, ready: bool, handle: Handle) {
        let queue = if ready {
            &mut self.ready
        } else {
            &mut self.waiting
        };
        let last = queue.tail.replace(handle);
        if last.is_none() {
            queue.head = Some(handle);
        }
        if let Some(work) = last.and_then(|last| self.works.get_mut(last)) {
            work.next = Some(handle);
        }
    }

    fn pop(&mut self, ready: bool) -> Option<Handle> {
        let queue = if ready {
            &mut self.ready
        } else {
            &mut self.waiting
        };
        let handle = queue.head?;
        queue.head = self.works.get_mut(handle).and_then(|work| work.next.take());
        if queue.head.is_none() {
            queue.tail = None;
        }
        Some(handle)
    }

    /// Take the next request whose operation ended.
    pub fn next_ready(&mut self) -> Option<Handle> {
        self.pop(true)
    }

    /// Let a request wait for the next round.
    pub fn wait(&mut self, handle: Handle) {
        self.push(false, handle);
    }

    /// Tell whether requests wait.
    pub fn waits(&self) -> bool {
        self.waiting.head.is_some()
    }

    /// Take all that wait, to try them again in their order.
    pub fn take_waiting(&mut self) -> Waiters {
        Waiters(core::mem::take(&mut self.waiting))
    }

    /// Take the next of those that waited.
    pub fn next_waiter(&mut self, waiters: &mut Waiters) -> Option<Handle> {
        core::mem::swap(&mut self.waiting, &mut waiters.0);
        let next = self.pop(false);
        core::mem::swap(&mut self.waiting, &mut waiters.0);
        next
    }

    /// Take an entry of a listed directory. `inode` comes with READDIRPLUS.
    fn take_entry(&mut self, handle: Handle, record: &Record<'_>) {
        let Some(work) = self.works.get_mut(handle) else {
            return;
        };
        let Kind::List {
            reply,
            at,
            full,
            epoch,
            ..
        } = &mut work.kind
        else {
            return;
        };
        if *full {
            return;
        }
        let pad = &mut self.pads[handle.index as usize];
        match reply {
            ListReply::Plain(reply) => {
                let Some((entry, name)) = Dentry::parse(record.value) else {
                    return;
                };
                match reply.push(*at, entry.ino, entry.position, entry.dt(), name) {
                    Some(next) => *at = next,
                    None => *full = true,
                }
            }
            ListReply::Plus(_) if !record.followed => {
                let Some((entry, name)) = Dentry::parse(record.value) else {
                    return;
                };
                // Kept until its inode comes.
                pad.found[0].entry = entry;
                pad.list[..name.len()].copy_from_slice(name);
                work.number = name.len() as u64;
            }
            ListReply::Plus(reply) => {
                let (Some(inode), entry) = (Inode::parse(record.value), &pad.found[0].entry) else {
                    return;
                };
                let name = &pad.list[..work.number as usize];
                if !reply.fits(*at, name.len()) {
                    *full = true;
                    return;
                }
                let node = self.volume.entry(&inode, *epoch).ok();
                let plus = node.as_ref();
                match reply.push(*at, plus, entry.ino, entry.position, entry.dt(), name) {
                    Some(next) => *at = next,
                    None => *full = true,
                }
            }
        }
    }

    /// Take bytes that go to the host as they are.
    fn take_raw(&mut self, handle: Handle, record: &Record<'_>) {
        let Some(work) = self.works.get_mut(handle) else {
            return;
        };
        match core::mem::replace(&mut work.kind, Kind::Answered) {
            Kind::Getxattr(reply) => reply.ok(record.value),
            Kind::Readlink(reply) => reply.ok(record.value),
            kind => {
                work.kind = kind;
                self.pads[handle.index as usize].found[RAW as usize].entry_version = record.version;
            }
        }
    }

    /// Collect the name of an attribute; beyond the room for them, the count goes on.
    fn take_name(&mut self, handle: Handle, record: &Record<'_>) {
        let Some(Kind::Listxattr { len, after, .. }) =
            self.works.get_mut(handle).map(|work| &mut work.kind)
        else {
            return;
        };
        let (name, begin) = (record.name, *len);
        let end = begin + name.len() + 1;
        (*len, *after) = (end, record.at);
        let short = &mut self.pads[handle.index as usize].list;
        let works = &self.works;
        let mut room = &mut short[..];
        if end > LIST_MAX {
            let long = self.lists.take(handle, |owner| works.get(owner).is_some());
            let long = match long {
                Some(long) => long,
                None => {
                    if let Some(Kind::Listxattr { lost, .. }) =
                        self.works.get_mut(handle).map(|work| &mut work.kind)
                    {
                        *lost = true;
                    }
                    return;
                }
            };
            if begin <= LIST_MAX {
                long[..begin].copy_from_slice(&short[..begin]);
            }
            room = long;
        }
        if let Some(place) = room.get_mut(begin..end) {
            place[..name.len()].copy_from_slice(name);
            place[name.len()] = 0;
        }
    }
}

/// Requests that waited, while they are tried again.
pub struct Waiters(Queue);

impl Client for Desk {
    fn record(&mut self, token: Token, record: Record<'_>) {
        let handle = Handle::from_bits(token.0);
        let Some(work) = self.works.get_mut(handle) else {
            return;
        };
        match work.kind {
            Kind::List { .. } if work.step == super::lists::SCAN => {
                return self.take_entry(handle, &record);
            }
            Kind::Listxattr { .. } => return self.take_name(handle, &record),
            Kind::Sweep { .. } => return self.volume.note_orphan(&mut work.kind, record.at),
            Kind::Getxattr(_)
            | Kind::Readlink(_)
            | Kind::Setxattr { .. }
            | Kind::Removexattr(_)
                if record.index == RAW =>
            {
                return self.take_raw(handle, &record);
            }
            _ => {}
        }
        let Some(found) = self.pads[handle.index as usize]
            .found
            .get_mut(record.index as usize)
        else {
            return;
        };
        if let Some(inode) = Inode::parse(record.value) {
            found.inode = inode;
            found.inode_version = record.version;
        } else if let Some((entry, _)) = Dentry::parse(record.value) {
            found.entry = entry;
            found.entry_version = record.version;
        }
    }

    fn buffers(&self, token: Token) -> &[Segment] {
        match self
            .works
            .get(Handle::from_bits(token.0))
            .map(|work| &work.kind)
        {
            Some(Kind::Read { reply, .. }) => reply.buffers(),
            _ => &[],
        }
    }

    fn payload(&self, token: Token) -> &[Segment] {
        match self
            .works
            .get(Handle::from_bits(token.0))
            .map(|work| &work.kind)
        {
            Some(Kind::Write { reply, .. }) => reply.payload(),
            _ => &[],
        }
    }

    fn done(&mut self, token: Token, result: Result<Done, Failure>) {
        let handle = Handle::from_bits(token.0);
        if let Some(work) = self.works.get_mut(handle) {
            work.result = result;
            self.push(true, handle);
        }
    }
}
