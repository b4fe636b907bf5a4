//! What the flat layout asks of an engine: whole objects by name, ranges of them, and their names.
//!
//! ```text
//!  flat                                objects
//!  submit(token, op) ────────────────> valkey: one pipelined command; ramcloud: one RPC, or read and write by version
//!  poll(now) ────────────────────────> goes on with what is under way
//!      client.name(token, ..) <──────── each name that a List found; client.place(token, ..): where it goes on
//!      client.buffers/payload(token) ─> the host's pages
//!      client.done(token, result) <──── exactly once for each operation that was accepted
//! ```
//!
//! The rules of [`super::engine`] hold here, too: one instance belongs to one core, never blocks, and borrows an
//! operation's arguments for [`Objects::submit`] alone. An object is a key and a value that other programs read and
//! write as well, so nothing is known of it beyond what the engine says now.

use zerocopy::FromZeros;

use super::engine::{Busy, Token};
use crate::mem::Segment;
use crate::sys::time::Instant;

/// Longest place in a listing, in bytes.
pub const CURSOR_MAX: usize = 256;

/// Say where a listing goes on, in the engine's own terms. The start is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromZeros)]
pub struct Cursor {
    bytes: [u8; CURSOR_MAX],
    len: u16,
}

impl Default for Cursor {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl Cursor {
    /// Keep a place; `None` when it is longer than [`CURSOR_MAX`].
    pub fn new(parts: &[&[u8]]) -> Option<Self> {
        let mut cursor = Self::default();
        let mut at = 0;
        for part in parts {
            cursor
                .bytes
                .get_mut(at..at + part.len())?
                .copy_from_slice(part);
            at += part.len();
        }
        cursor.len = at as u16;
        Some(cursor)
    }

    /// Give the place.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len).min(CURSOR_MAX)]
    }
}

/// Say where bytes are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// From this byte on; what is missing before it becomes zeros.
    Byte(u64),
    /// Behind the last byte, wherever that is then.
    End,
}

/// Ask for one thing.
#[derive(Clone, Copy, Debug)]
pub enum Op<'a> {
    /// Find an object: [`Done::Found`].
    Look {
        /// Name.
        name: &'a [u8],
    },
    /// Make an empty object where there is none: [`Done::Found`], with what is there afterwards.
    Make {
        /// Name.
        name: &'a [u8],
        /// Fail with [`Failure::Exists`] where there is one.
        exclusive: bool,
        /// Make one that is there empty.
        truncate: bool,
    },
    /// Read up to `len` bytes into [`Client::buffers`]: [`Done::Read`]. An object that is not there reads as empty, or
    /// is [`Failure::Missing`].
    Read {
        /// Name.
        name: &'a [u8],
        /// First byte.
        offset: u64,
        /// Bytes, at most 1 MiB.
        len: u32,
    },
    /// Write `len` bytes from [`Client::payload`] to an object that is there: [`Done::Found`].
    Write {
        /// Name.
        name: &'a [u8],
        /// Where.
        place: Place,
        /// Bytes, at most 1 MiB.
        len: u32,
    },
    /// Cut an object, or make it longer with zeros: [`Done::Found`].
    Resize {
        /// Name.
        name: &'a [u8],
        /// Bytes.
        size: u64,
    },
    /// Remove an object.
    Remove {
        /// Name.
        name: &'a [u8],
    },
    /// Give an object another name. At no moment is neither there, whatever dies in between.
    Rename {
        /// Name.
        from: &'a [u8],
        /// New name.
        to: &'a [u8],
        /// Put it in the place of one that is there; otherwise that is [`Failure::Exists`].
        replace: bool,
    },
    /// Give some names, each to [`Client::name`], from a place on, and where it goes on to [`Client::place`]:
    /// [`Done::Listed`]. An object that is there all the time is given at least once.
    List {
        /// The place.
        cursor: &'a Cursor,
    },
    /// Make durable, as far as the engine is configured to, what was done to an object, or to all, before.
    Sync {
        /// Name; `None` for all.
        name: Option<&'a [u8]>,
    },
    /// Tell how full the store is: [`Done::Usage`].
    Usage,
}

/// Say what an operation wants, without its names: what an engine keeps of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "as in `Op`")]
pub enum Want {
    Look,
    Make {
        exclusive: bool,
        truncate: bool,
    },
    Read {
        offset: u64,
        len: u32,
    },
    Write {
        place: Place,
        len: u32,
    },
    Resize {
        size: u64,
    },
    Remove,
    Rename {
        replace: bool,
    },
    List,
    /// Of all objects, or of one.
    Sync {
        all: bool,
    },
    Usage,
}

impl<'a> Op<'a> {
    /// Give what it wants.
    pub const fn want(&self) -> Want {
        match *self {
            Self::Look { .. } => Want::Look,
            Self::Make {
                exclusive,
                truncate,
                ..
            } => Want::Make {
                exclusive,
                truncate,
            },
            Self::Read { offset, len, .. } => Want::Read { offset, len },
            Self::Write { place, len, .. } => Want::Write { place, len },
            Self::Resize { size, .. } => Want::Resize { size },
            Self::Remove { .. } => Want::Remove,
            Self::Rename { replace, .. } => Want::Rename { replace },
            Self::List { .. } => Want::List,
            Self::Sync { name } => Want::Sync {
                all: name.is_none(),
            },
            Self::Usage => Want::Usage,
        }
    }

    /// Give the names that it is about; those that it does not have are empty.
    pub const fn names(&self) -> [&'a [u8]; 2] {
        match *self {
            Self::Look { name }
            | Self::Make { name, .. }
            | Self::Read { name, .. }
            | Self::Write { name, .. }
            | Self::Resize { name, .. }
            | Self::Remove { name }
            | Self::Sync { name: Some(name) } => [name, b""],
            Self::Rename { from, to, .. } => [from, to],
            Self::List { .. } | Self::Sync { name: None } | Self::Usage => [b"", b""],
        }
    }
}

/// Say what an object is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Bytes.
    pub size: u64,
    /// A number that changes whenever the object does; zero where the engine has none.
    pub version: u64,
}

/// Say how an operation ended well.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Done {
    /// It is done.
    Done,
    /// The object is like this.
    Found(Found),
    /// So many bytes were read; fewer than asked for at the object's end.
    Read(u32),
    /// Names were given.
    Listed {
        /// The listing goes on at the place that was given.
        more: bool,
    },
    /// Bytes of the store, and of these free.
    Usage {
        /// All.
        total: u64,
        /// Free.
        free: u64,
    },
}

/// Say why an operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// There is no such object; nothing was changed.
    Missing,
    /// There is one already; nothing was changed.
    Exists,
    /// The object would be larger than the engine allows; nothing was changed.
    TooLarge,
    /// The engine cannot move an object there without losing it; nothing was changed.
    Elsewhere,
    /// The key holds something that is no string of bytes; nothing was changed.
    Foreign,
    /// The store is full; nothing was changed.
    Full,
    /// The engine cannot reach its server, and nothing was changed.
    Unreachable,
    /// The engine does not know whether it happened, or whether what it was told before still holds.
    Unknown,
    /// The server refuses, or what it says makes no sense.
    Broken,
}

/// Take answers, and lend the host's pages: the file system's side.
pub trait Client {
    /// Take a name of a listing. It may be no name of a file.
    fn name(&mut self, token: Token, name: &[u8]);

    /// Take where a listing goes on.
    fn place(&mut self, token: Token, place: &Cursor);

    /// Lend the pages that an [`Op::Read`] fills: at least as many bytes as it asked for.
    fn buffers(&self, token: Token) -> &[Segment];

    /// Lend the bytes of an [`Op::Write`]: at least as many as it said.
    fn payload(&self, token: Token) -> &[Segment];

    /// Take the end of an operation. Must not come back to the engine.
    fn done(&mut self, token: Token, result: Result<Done, Failure>);
}

/// Keep objects for one core.
pub trait Objects {
    /// Take an operation. It may end, through `client`, before this returns.
    ///
    /// # Errors
    /// [`Busy`] when there is no room; nothing was begun then.
    fn submit(&mut self, token: Token, op: &Op<'_>, client: &mut dyn Client) -> Result<(), Busy>;

    /// Go on: send what is queued, take what came. Returns whether anything went on. Once a round, and after a batch of
    /// submissions.
    fn poll(&mut self, now: Instant, client: &mut dyn Client) -> bool;

    /// Name the descriptors that become readable when [`Self::poll`] has work. They stay the same for ever.
    fn wait_fds(&self, add: &mut dyn FnMut(i32));

    /// Prepare for the core to sleep; false when there is work after all.
    fn arm(&mut self) -> bool;

    /// Say when [`Self::poll`] is to be called at the latest.
    fn deadline(&self) -> Option<Instant>;

    /// Give the most bytes of an object.
    fn size_max(&self) -> u64;
}
