//! The requests that one core has under way with its engine: a fixed table, and the engine's counterpart.

use super::super::engine::Token;
use super::super::objects::{Client, Cursor, Done, Failure, Found, Op, Place};
use super::names::Name;
use super::page::{LOOKS, Look, Page, look};
use super::volume::{BLOCK, FlatVolume};
use crate::fuse::{Attributes, Created, Data, Entry, Fh, NodeId, Opened, Reply, Statfs, Written};
use crate::mem::{Arena, Handle, OutOfMemory, RingBuffer, Segment, SlotMap};
use crate::wire::errno::Errno;
use crate::wire::fuse::{FopenFlags, Kstatfs};

/// What a request wants, with its reply.
pub enum Kind {
    Lookup(Reply<Entry>),
    /// GETATTR, and SETATTR that leaves the size.
    Attr(Reply<Attributes>),
    Resize {
        reply: Reply<Attributes>,
        size: u64,
    },
    /// OPEN that truncates.
    Open(Reply<Opened>),
    Create {
        reply: Reply<Created>,
        exclusive: bool,
        truncate: bool,
    },
    /// MKNOD of a regular file.
    Make(Reply<Entry>),
    Read {
        reply: Reply<Data>,
        offset: u64,
        len: u32,
    },
    Write {
        reply: Reply<Written>,
        place: Place,
        len: u32,
    },
    Unlink(Reply<()>),
    Rename {
        reply: Reply<()>,
        replace: bool,
    },
    List {
        page: Page,
        fh: u64,
        /// The next position, and bytes of the reply that are filled.
        position: u64,
        at: usize,
        /// A part is being fetched.
        fetches: bool,
        /// Names of the page that are looked at, and it is to be answered when all were.
        awaited: u32,
        ended: bool,
    },
    Sync {
        reply: Reply<()>,
        all: bool,
    },
    Statfs(Reply<Statfs>),
}

impl Kind {
    /// Answer with an error.
    pub fn err(self, error: Errno) {
        match self {
            Self::Lookup(reply) | Self::Make(reply) => reply.err(error),
            Self::Attr(reply) | Self::Resize { reply, .. } => reply.err(error),
            Self::Open(reply) => reply.err(error),
            Self::Create { reply, .. } => reply.err(error),
            Self::Read { reply, .. } => reply.err(error),
            Self::Write { reply, .. } => reply.err(error),
            Self::Unlink(reply) | Self::Rename { reply, .. } | Self::Sync { reply, .. } => {
                reply.err(error);
            }
            Self::List { page, .. } => page.err(error),
            Self::Statfs(reply) => reply.err(error),
        }
    }

    /// Tell whether the request names a node rather than a name: that is stale without its object.
    const fn is_of_node(&self) -> bool {
        matches!(
            self,
            Self::Attr(_)
                | Self::Resize { .. }
                | Self::Open(_)
                | Self::Read { .. }
                | Self::Write { .. }
        )
    }
}

/// One request under way.
pub struct Work {
    pub kind: Kind,
    pub node: NodeId,
    pub name: Name,
    /// The new name, of a RENAME.
    pub to: Name,
}

impl Kind {
    /// Say what the engine is asked.
    pub fn op<'a>(&self, name: &'a [u8], to: &'a [u8], cursor: &'a Cursor) -> Op<'a> {
        match *self {
            Self::Lookup(_) | Self::Attr(_) => Op::Look { name },
            Self::Resize { size, .. } => Op::Resize { name, size },
            Self::Open(_) => Op::Resize { name, size: 0 },
            Self::Create {
                exclusive,
                truncate,
                ..
            } => Op::Make {
                name,
                exclusive,
                truncate,
            },
            Self::Make(_) => Op::Make {
                name,
                exclusive: true,
                truncate: false,
            },
            Self::Read { offset, len, .. } => Op::Read { name, offset, len },
            Self::Write { place, len, .. } => Op::Write { name, place, len },
            Self::Unlink(_) => Op::Remove { name },
            Self::Rename { replace, .. } => Op::Rename {
                from: name,
                to,
                replace,
            },
            Self::List { .. } => Op::List { cursor },
            Self::Sync { all, .. } => Op::Sync {
                name: (!all).then_some(name),
            },
            Self::Statfs(_) => Op::Usage,
        }
    }
}

/// The engine's counterpart: the requests of one core.
pub struct Desk {
    pub volume: &'static FlatVolume,
    pub works: SlotMap<Work>,
    /// Names of pages that are looked at.
    pub looks: SlotMap<Look>,
    /// Those that the engine had no room for, or that read a directory on.
    pub again: RingBuffer<'static, u64>,
}

impl Desk {
    pub fn new(
        arena: &Arena,
        volume: &'static FlatVolume,
        requests: u32,
    ) -> Result<Self, OutOfMemory> {
        Ok(Self {
            volume,
            works: SlotMap::new(arena, requests)?,
            looks: SlotMap::new(arena, LOOKS)?,
            again: RingBuffer::new(arena.zeroed((requests + LOOKS) as usize)?),
        })
    }

    pub const fn footprint(requests: u32) -> usize {
        SlotMap::<Work>::footprint(requests)
            + SlotMap::<Look>::footprint(LOOKS)
            + ((requests + LOOKS) as usize + 1) * size_of::<u64>()
    }

    /// Say what the host does with an open file.
    pub fn opened(&self) -> Opened {
        Opened {
            fh: Fh(0),
            flags: match self.volume.look.keep {
                true => FopenFlags::KEEP_CACHE,
                false => FopenFlags::empty(),
            },
        }
    }

    /// Lay out a node's attributes, and how long the host may remember them.
    pub fn attributes(&self, node: NodeId, found: Found) -> Attributes {
        Attributes {
            attr: self.volume.attr(node, found),
            ttl: self.volume.look.ttl,
        }
    }

    /// Answer a request.
    fn finish(&self, work: Work, done: Done) {
        let (volume, name) = (self.volume, work.name.bytes());
        let found = match done {
            Done::Found(found) => found,
            _ => Found::default(),
        };
        match work.kind {
            Kind::Lookup(reply) | Kind::Make(reply) => {
                match volume.entry(name, found, reply.epoch()) {
                    Ok(entry) => reply.ok(entry),
                    Err(error) => reply.err(error),
                }
            }
            Kind::Create { reply, .. } => match volume.entry(name, found, reply.epoch()) {
                Ok(entry) => reply.ok(Created {
                    entry,
                    opened: self.opened(),
                }),
                Err(error) => reply.err(error),
            },
            Kind::Attr(reply) | Kind::Resize { reply, .. } => {
                reply.ok(self.attributes(work.node, found));
            }
            Kind::Open(reply) => reply.ok(self.opened()),
            Kind::Read { reply, .. } => match done {
                Done::Read(bytes) => reply.filled(bytes as usize),
                _ => reply.err(Errno::EIO),
            },
            Kind::Write { reply, len, .. } => reply.ok(Written(len)),
            Kind::Unlink(reply) => {
                volume.names.removed(name);
                reply.ok(());
            }
            Kind::Rename { reply, .. } => {
                volume.names.renamed(name, work.to.bytes());
                reply.ok(());
            }
            Kind::Sync { reply, .. } => reply.ok(()),
            Kind::Statfs(reply) => match done {
                Done::Usage { total, free } => reply.ok(usage(total, free)),
                _ => reply.err(Errno::EIO),
            },
            Kind::List { page, .. } => page.err(Errno::EIO),
        }
    }
}

/// Lay out how full the store is.
fn usage(total: u64, free: u64) -> Statfs {
    let blocks = |bytes: u64| bytes / u64::from(BLOCK);
    Statfs(Kstatfs {
        blocks: blocks(total),
        bfree: blocks(free),
        bavail: blocks(free),
        // How many objects there are is not asked; a name costs memory, too.
        files: blocks(total),
        ffree: blocks(free),
        bsize: BLOCK,
        namelen: super::super::engine::NAME_MAX as u32,
        frsize: BLOCK,
        ..Kstatfs::default()
    })
}

impl Client for Desk {
    fn name(&mut self, token: Token, name: &[u8]) {
        let work = self.works.get(Handle::from_bits(token.0));
        if let Some(Kind::List { fh, .. }) = work.map(|work| &work.kind) {
            self.volume.listings.name(*fh, name);
        }
    }

    fn place(&mut self, token: Token, place: &Cursor) {
        let work = self.works.get(Handle::from_bits(token.0));
        if let Some(Kind::List { fh, .. }) = work.map(|work| &work.kind) {
            self.volume.listings.set_place(*fh, place);
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
        if let Some(handle) = look(token.0) {
            return self.looked(handle, result);
        }
        let handle = Handle::from_bits(token.0);
        if let Some(Work {
            kind: Kind::List {
                fh, fetches, at, ..
            },
            ..
        }) = self.works.get_mut(handle)
        {
            *fetches = false;
            match result {
                Ok(Done::Listed { more }) => {
                    self.volume.listings.fetched(*fh, Some(more));
                    let _ = self.again.push(token.0);
                    return;
                }
                _ => self.volume.listings.fetched(*fh, None),
            }
            // The host takes the nodes that it was given; the next page says what is wrong.
            if *at > 0 {
                return self.end_page(handle);
            }
        }
        let Some(work) = self.works.remove(handle) else {
            return;
        };
        let failure = match result {
            Ok(done) => return self.finish(work, done),
            Err(failure) => failure,
        };
        let error = match failure {
            Failure::Missing if work.kind.is_of_node() => Errno::ESTALE,
            Failure::Missing => match (work.kind, self.volume.look.ttl) {
                (Kind::Lookup(reply), ttl) if !ttl.is_zero() => {
                    return reply.ok(Entry::negative(ttl));
                }
                (kind, _) => return kind.err(Errno::ENOENT),
            },
            Failure::Exists => Errno::EEXIST,
            Failure::TooLarge => Errno::EFBIG,
            Failure::Elsewhere => Errno::EXDEV,
            Failure::Full => Errno::ENOSPC,
            Failure::Unreachable => Errno::ETIMEDOUT,
            Failure::Foreign | Failure::Unknown | Failure::Broken => Errno::EIO,
        };
        work.kind.err(error);
    }
}
