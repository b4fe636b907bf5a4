//! What the file system asks of a key-value engine: mini-transactions, ranged access to chunks, ordered lists.
//!
//! ```text
//!  file system                         engine
//!  submit(token, op) ────────────────> embedded: runs it now; valkey: one pipelined command
//!  poll(now) ────────────────────────> goes on with what is under way
//!      client.record(token, ..) <──── each record that a Get or Scan found, lent for the call
//!      client.buffers/payload(token) > the host's pages, filled or sent without a copy in between
//!      client.done(token, result) <── exactly once for each operation that was accepted
//! ```
//!
//! One [`Engine`] belongs to one core. It never blocks: what would wait is answered from a later [`Engine::poll`]. An
//! operation's arguments are borrowed for [`Engine::submit`] alone; an engine that answers later keeps what it needs
//! (in its send buffer). The host's pages are asked for by token when they are needed, and stay valid until
//! [`Client::done`].
//!
//! # Two domains
//! All records ([`Key`]) of a volume are in one *atomic domain*: [`Op::Transact`] changes any of them together, all or
//! nothing, after comparing versions (a mini-transaction, after Sinfonia, Aguilera et al., SOSP 2007). That is one
//! transaction of an embedded store, one server-side function on one hash slot of Valkey. Content is in *chunks* of
//! [`Engine::chunk_size`] bytes, named by inode and index; chunk 0 belongs to the atomic domain, later ones may be
//! spread over a cluster.
//!
//! # Versions
//! Each record has a version that changes whenever the record does, and that no other record of the same key ever has
//! or had, also when it was deleted in between.
//!
//! # Once
//! An accepted [`Op::Transact`], [`Op::Write`], [`Op::Copy`], [`Op::Purge`] or [`Op::Reserve`] is executed once. An engine that
//! resends after a lost reply makes its server remember (client and sequence). Where it cannot know, it answers [`Failure::Unknown`].

use crate::mem::Segment;
use crate::sys::time::Instant;

/// Longest name of a directory entry or extended attribute in bytes.
pub const NAME_MAX: usize = 255;
/// Longest value of a record in bytes: that of an extended attribute.
pub const VALUE_MAX: usize = 65_536;
/// Longest target of a symbolic link in bytes.
pub const TARGET_MAX: usize = 4096;
/// Most keys of a [`Op::Get`].
pub const GET_MAX: usize = 8;
/// Most checks of a [`Op::Transact`].
pub const CHECKS_MAX: usize = 8;
/// Most writes of a [`Op::Transact`].
pub const WRITES_MAX: usize = 12;
/// Most patches of one record in one operation.
pub const PATCHES_MAX: usize = 8;
/// Most bytes of a [`Op::Copy`].
pub const COPY_MAX: u32 = 1 << 20;

/// Name an operation that is under way. Chosen by the file system, carried back by the engine; it means nothing here. Its
/// bit 31 is zero: a [`Handle`](crate::mem::Handle) of a table with fewer than 2^31 places is one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token(pub u64);

/// Name a record of a volume.
///
/// The records of one inode belong together; an ordered store keeps them together with [`Key::encode`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key<'a> {
    /// The volume itself: format, chunk size, root.
    Volume,
    /// An inode by number.
    Inode(u64),
    /// A directory entry by name.
    Name(u64, &'a [u8]),
    /// The same entry by position: the order in which a directory is listed.
    Position(u64, u64),
    /// An extended attribute of an inode.
    Xattr(u64, &'a [u8]),
    /// The target of a symbolic link.
    Target(u64),
    /// An inode without a name that is in use, or whose content is still to be removed.
    Orphan(u64),
}

/// Longest encoded key in bytes.
pub const KEY_MAX: usize = 9 + NAME_MAX;

/// Kinds of encoded keys, the ninth byte. Chunks of content have [`kind::CHUNK`] and their index, big-endian.
pub mod kind {
    #![expect(missing_docs, reason = "named as the keys are")]
    pub const INODE: u8 = 0;
    pub const TARGET: u8 = 1;
    pub const XATTR: u8 = 2;
    pub const NAME: u8 = 3;
    pub const POSITION: u8 = 4;
    pub const CHUNK: u8 = 5;
    pub const ORPHAN: u8 = 6;
    pub const VOLUME: u8 = 7;
    pub const COUNTER: u8 = 8;
}

impl Key<'_> {
    /// Encode for a store of ordered bytes: inode number, big-endian; [`kind`]; name, or position, big-endian.
    ///
    /// Records of an inode are neighbours, and positions come in order. Volume and orphans are under inode 0, which
    /// no file has. Names beyond [`NAME_MAX`] bytes are cut; the file system has refused them before.
    pub fn encode<'b>(&self, bytes: &'b mut [u8; KEY_MAX]) -> &'b [u8] {
        let (ino, kind) = match *self {
            Key::Volume => (0, kind::VOLUME),
            Key::Orphan(_) => (0, kind::ORPHAN),
            Key::Inode(ino) => (ino, kind::INODE),
            Key::Name(ino, _) => (ino, kind::NAME),
            Key::Position(ino, _) => (ino, kind::POSITION),
            Key::Xattr(ino, _) => (ino, kind::XATTR),
            Key::Target(ino) => (ino, kind::TARGET),
        };
        bytes[..8].copy_from_slice(&ino.to_be_bytes());
        bytes[8] = kind;
        let number;
        let tail: &[u8] = match *self {
            Key::Name(_, name) | Key::Xattr(_, name) => name,
            Key::Position(_, last) | Key::Orphan(last) => {
                number = last.to_be_bytes();
                &number
            }
            Key::Volume | Key::Inode(_) | Key::Target(_) => &[],
        };
        let len = tail.len().min(NAME_MAX);
        bytes[9..9 + len].copy_from_slice(&tail[..len]);
        &bytes[..9 + len]
    }
}

/// Say what a record must be like for a transaction to happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// There is no such record.
    Absent,
    /// There is one.
    Present,
    /// There is one, with this version.
    Version(u64),
    /// There is one, and the little-endian `u32` at byte `at` has exactly the bits `want` of those in `mask`.
    Bits {
        /// Byte of the value.
        at: u16,
        /// Which bits count.
        mask: u32,
        /// How they must be.
        want: u32,
    },
    /// There is one, and the little-endian `u64` at byte `at` is at least `value`.
    Least {
        /// Byte of the value.
        at: u16,
        /// Least value.
        value: u64,
    },
    /// There is one, and the little-endian `u64` at byte `at` is `value`.
    Exactly {
        /// Byte of the value.
        at: u16,
        /// The value.
        value: u64,
    },
}

impl Expect {
    /// Tell whether a record is so: its version and value, or nothing when there is none.
    pub fn holds(&self, found: Option<(u64, &[u8])>) -> bool {
        fn field<const N: usize>(value: &[u8], at: u16) -> Option<[u8; N]> {
            value.get(usize::from(at)..)?.first_chunk().copied()
        }
        let Some((version, value)) = found else {
            return *self == Self::Absent;
        };
        match *self {
            Self::Absent => false,
            Self::Present => true,
            Self::Version(wanted) => version == wanted,
            Self::Bits { at, mask, want } => {
                field(value, at).is_some_and(|word| u32::from_le_bytes(word) & mask == want)
            }
            Self::Least { at, value: least } => {
                field(value, at).is_some_and(|word| u64::from_le_bytes(word) >= least)
            }
            Self::Exactly { at, value: exact } => {
                field(value, at).is_some_and(|word| u64::from_le_bytes(word) == exact)
            }
        }
    }
}

/// Guard a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Check<'a> {
    /// Record.
    pub key: Key<'a>,
    /// How it must be.
    pub expect: Expect,
}

/// Change a field of a record's value, little-endian, without having read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patch<'a> {
    /// Put bytes at byte `at`.
    Set {
        /// Byte of the value.
        at: u16,
        /// What to put there.
        bytes: &'a [u8],
    },
    /// Raise the `u64` at `at` to at least this.
    Max {
        /// Byte of the value.
        at: u16,
        /// Least value.
        value: u64,
    },
    /// Add to the `u64` at `at`, wrapping.
    Add64 {
        /// Byte of the value.
        at: u16,
        /// What to add.
        value: i64,
    },
    /// Add to the `u32` at `at`, wrapping.
    Add32 {
        /// Byte of the value.
        at: u16,
        /// What to add.
        value: i32,
    },
    /// Clear bits of the `u32` at `at`.
    Clear {
        /// Byte of the value.
        at: u16,
        /// Which bits.
        bits: u32,
    },
}

impl Patch<'_> {
    /// Apply the patch to a value. One that reaches beyond the value does nothing.
    pub fn apply(&self, value: &mut [u8]) {
        fn change<const N: usize>(value: &mut [u8], at: u16, f: impl FnOnce([u8; N]) -> [u8; N]) {
            let field = value.get_mut(usize::from(at)..);
            if let Some(field) = field.and_then(|field| field.first_chunk_mut::<N>()) {
                *field = f(*field);
            }
        }
        match *self {
            Patch::Set { at, bytes } => {
                let at = usize::from(at);
                if let Some(field) = value.get_mut(at..at + bytes.len()) {
                    field.copy_from_slice(bytes);
                }
            }
            Patch::Max { at, value: least } => change(value, at, |old| {
                u64::from_le_bytes(old).max(least).to_le_bytes()
            }),
            Patch::Add64 { at, value: more } => change(value, at, |old| {
                u64::from_le_bytes(old)
                    .wrapping_add_signed(more)
                    .to_le_bytes()
            }),
            Patch::Add32 { at, value: more } => change(value, at, |old| {
                u32::from_le_bytes(old)
                    .wrapping_add_signed(more)
                    .to_le_bytes()
            }),
            Patch::Clear { at, bits } => change(value, at, |old| {
                (u32::from_le_bytes(old) & !bits).to_le_bytes()
            }),
        }
    }
}

/// Change one record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Write<'a> {
    /// Put a value of at most [`VALUE_MAX`] bytes, whether there is one or not.
    Put(Key<'a>, &'a [u8]),
    /// Remove the record if there is one.
    Delete(Key<'a>),
    /// Change fields of a record that is there; without it nothing happens.
    Patch(Key<'a>, &'a [Patch<'a>]),
}

/// Name a list of records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum List {
    /// Entries of a directory: values of [`Key::Position`], in the order of positions.
    Entries(u64),
    /// Extended attributes of an inode. The record's `name` is set; its value is left out, and its version means nothing.
    Xattrs(u64),
    /// Orphans: `at` is the inode number, the value that of [`Key::Orphan`].
    Orphans,
    /// Inodes, for fsck: `at` is the number, the value the record. Or `at` is the engine's own cursor, and `name` the
    /// number in 8 bytes, big-endian; then one may come twice.
    Inodes,
    /// Names of a directory, for fsck: values of [`Key::Name`], with `name` set. `at` may be the engine's own cursor;
    /// then they come in its order, one may come twice, and `limit` does not count.
    Names(u64),
    /// Content that lies apart from the volume, for fsck: `name` is an inode's number in 8 bytes and that of a part of its
    /// content in 4, big-endian. One may come many times, `limit` does not count, and most engines have none.
    Groups,
}

/// Ask for one thing.
#[derive(Clone, Copy, Debug)]
pub enum Op<'a> {
    /// Read up to [`GET_MAX`] records, from one state of the domain. Each that is there is given to
    /// [`Client::record`] with `index` its place in `keys`.
    ///
    /// With `follow`, each found [`Key::Name`] is followed by the inode that the first 8 bytes of its value name
    /// (little-endian), with `followed` set: LOOKUP in one round trip.
    Get {
        /// What to read.
        keys: &'a [Key<'a>],
        /// Read the inodes of names, too.
        follow: bool,
    },
    /// List records behind position `after`, at most `limit`; `follow` as for [`Op::Get`], by the first 8 bytes of
    /// each value. Ends with [`Done::Listed`]. [`List::Xattrs`] and [`List::Names`] start over with `after` 0 and then
    /// go by [`Record::at`], a running count in the order of names, but for what is said of [`List::Names`].
    Scan {
        /// Which records.
        list: List,
        /// Position behind which to begin; zero for the start.
        after: u64,
        /// Most records.
        limit: u32,
        /// Read the inodes of entries, too.
        follow: bool,
    },
    /// Change records together if all checks hold; [`Failure::Conflict`] and no change otherwise. Checks come first.
    Transact {
        /// What must hold.
        checks: &'a [Check<'a>],
        /// What to do then, in order.
        writes: &'a [Write<'a>],
    },
    /// Read content into [`Client::buffers`], `len` bytes from `offset`, and the inode's record (index 0).
    ///
    /// Chunks that are missing or short read as zeros. What lies beyond the size in the record is undefined, and the
    /// file system's to cut. Without the inode nothing is read and no record given.
    Read {
        /// Inode.
        ino: u64,
        /// First byte.
        offset: u64,
        /// Bytes; at most 1 MiB.
        len: u32,
    },
    /// Write content from [`Client::payload`], `len` bytes to `offset`, if the inode is there and `expect` holds of
    /// it; then patch the inode. Missing bytes before `offset` in a chunk become zeros.
    ///
    /// In one step when the bytes are in chunk 0. Otherwise the inode's size grows after the content did, or with it,
    /// unless it is expected by version; a crash in between leaves content, or zeros, that no acknowledged write promised.
    Write {
        /// Inode.
        ino: u64,
        /// First byte.
        offset: u64,
        /// Bytes; at most 1 MiB.
        len: u32,
        /// How the inode must be.
        expect: Expect,
        /// How the inode changes.
        patches: &'a [Patch<'a>],
    },
    /// Copy content within the volume, in one step, if both inodes are there and as expected; then patch the one that is
    /// copied to. Where the source has a hole, what was there is removed: a hole stays one. The ranges do not overlap,
    /// and the source has all of its own. Only for an engine that [copies](Engine::copies), and where it cannot,
    /// [`Failure::Unsupported`].
    Copy {
        /// Inode to copy from.
        source: u64,
        /// First byte there.
        from: u64,
        /// How that inode must be.
        given: Expect,
        /// Inode to copy to; may be the same.
        ino: u64,
        /// First byte there.
        to: u64,
        /// Bytes; at most [`COPY_MAX`].
        len: u32,
        /// How that inode must be.
        expect: Expect,
        /// How that inode changes.
        patches: &'a [Patch<'a>],
    },
    /// Make content read as zeros from byte `from` up to `to` (`u64::MAX`: everything behind), and give its space
    /// back, if `expect` holds of the inode. The inode does not change. An engine may stop early with [`Done::More`],
    /// where to go on.
    ///
    /// With `to` at the end, what a WRITE left behind `from` that began before must not come back later.
    ///
    /// `size` is the file's size at most, for an engine that cannot list which chunks there are.
    Clear {
        /// Inode.
        ino: u64,
        /// First byte.
        from: u64,
        /// Byte behind the last.
        to: u64,
        /// No chunk lies behind this byte.
        size: u64,
        /// How the inode must be: whoever clears behind the end of a file must know that nobody made it longer.
        expect: Expect,
    },
    /// Find content (`hole` false) or its absence at or behind `offset` and before `size`: [`Done::At`], with `size`
    /// when there is none. In whole chunks; an engine may stop early with [`Done::More`].
    Seek {
        /// Inode.
        ino: u64,
        /// Where to begin.
        offset: u64,
        /// Where to end.
        size: u64,
        /// Look for a hole.
        hole: bool,
    },
    /// Remove an inode's record, target and extended attributes, and its [`Key::Orphan`], together, if `expect` holds
    /// of the inode. Its content was cleared before.
    Purge {
        /// Inode.
        ino: u64,
        /// How the inode must be.
        expect: Expect,
    },
    /// Remove content that [`List::Groups`] told of, and whose inode is not there, for fsck.
    Discard {
        /// Inode.
        ino: u64,
        /// Which part.
        group: u32,
    },
    /// Reserve `count` numbers of the volume that nobody else gets: [`Done::First`]. They begin above 1023, and stay
    /// below 2^53.
    Reserve {
        /// How many.
        count: u32,
    },
    /// Make durable, as far as the engine is configured to, everything that was done before.
    Sync,
    /// Tell how full the store is: [`Done::Usage`].
    Usage,
}

impl Op<'_> {
    /// Tell whether an operation adds content or names without taking any away.
    pub fn grows(&self) -> bool {
        match self {
            Op::Write { .. } | Op::Copy { .. } => true,
            Op::Transact { writes, .. } => {
                let adds = |write: &Write<'_>| {
                    matches!(
                        write,
                        Write::Put(Key::Name(..) | Key::Xattr(..) | Key::Target(_), _)
                    )
                };
                let removes = |write: &Write<'_>| matches!(write, Write::Delete(_));
                writes.iter().any(adds) && !writes.iter().any(removes)
            }
            _ => false,
        }
    }
}

/// Lend what a Get or Scan found.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Place of the key in [`Op::Get`]; count of the record in [`Op::Scan`].
    pub index: u32,
    /// This is the inode that the record before names.
    pub followed: bool,
    /// Position in a list, to go on behind.
    pub at: u64,
    /// Version.
    pub version: u64,
    /// Name, where the list has names in keys.
    pub name: &'a [u8],
    /// Value.
    pub value: &'a [u8],
}

/// Say how an operation ended well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// It is done.
    Done,
    /// A list ended here; `more` is false when it was the last record.
    Listed {
        /// There may be more.
        more: bool,
    },
    /// Ask again from this byte on.
    More(u64),
    /// Found at this byte.
    At(u64),
    /// First of the reserved numbers.
    First(u64),
    /// Fullness in bytes and inodes.
    Usage {
        /// Bytes that the store may hold.
        total: u64,
        /// Bytes that are left.
        free: u64,
        /// Inodes that there are, as far as it is known.
        inodes: u64,
    },
}

/// Say why an operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// A check did not hold; nothing was changed.
    Conflict,
    /// The store is full; nothing was changed.
    Full,
    /// The engine cannot reach its server, and nothing was changed.
    Unreachable,
    /// The engine does not know whether it happened.
    Unknown,
    /// The store is damaged, or its disk failed.
    Broken,
    /// The engine does not do this with what it was asked for; nothing was changed.
    Unsupported,
}

/// The engine takes no more for now. Ask again when [`Engine::poll`] did something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy;

/// Take answers, and lend the host's pages: the file system's side.
pub trait Client {
    /// Take a record. It is lent for the call.
    fn record(&mut self, token: Token, record: Record<'_>);

    /// Lend the pages that a [`Op::Read`] fills: at least as many bytes as it asked for.
    fn buffers(&self, token: Token) -> &[Segment];

    /// Lend the bytes of a [`Op::Write`]: at least as many as it said.
    fn payload(&self, token: Token) -> &[Segment];

    /// Take the end of an operation. Must not come back to the engine.
    fn done(&mut self, token: Token, result: Result<Done, Failure>);
}

/// Store records and chunks for one core.
pub trait Engine {
    /// Take an operation. It may end, through `client`, before this returns.
    ///
    /// # Errors
    /// [`Busy`] when there is no room, or when waiting would be needed; nothing was begun then.
    fn submit(&mut self, token: Token, op: &Op<'_>, client: &mut dyn Client) -> Result<(), Busy>;

    /// Go on: send what is queued, take what came, commit. Returns whether anything went on. Once a round, and after
    /// a batch of submissions.
    fn poll(&mut self, now: Instant, client: &mut dyn Client) -> bool;

    /// Name the descriptors that become readable when [`Self::poll`] has work. They stay the same for ever.
    fn wait_fds(&self, _add: &mut dyn FnMut(i32)) {}

    /// Prepare for the core to sleep; false when there is work after all.
    fn arm(&mut self) -> bool {
        true
    }

    /// Say when [`Self::poll`] is to be called at the latest.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Give the size of chunks in bytes: a power of two from 4 KiB to 1 MiB.
    fn chunk_size(&self) -> u32;

    /// Tell whether it does [`Op::Copy`].
    fn copies(&self) -> bool {
        false
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn keys_of_an_inode_are_neighbours_and_positions_in_order() {
        let keys = [
            Key::Orphan(7),
            Key::Volume,
            Key::Inode(5),
            Key::Target(5),
            Key::Xattr(5, b"user.a"),
            Key::Name(5, b"a"),
            Key::Name(5, b"a\xff"),
            Key::Position(5, 255),
            Key::Position(5, 256),
            Key::Inode(6),
        ];
        let encoded: Vec<Vec<u8>> = keys
            .iter()
            .map(|key| key.encode(&mut [0; KEY_MAX]).to_vec())
            .collect();
        assert!(encoded.is_sorted());
    }

    #[test]
    fn patches_change_fields_and_never_reach_beyond() {
        let mut value = [0u8; 16];
        Patch::Max { at: 0, value: 9 }.apply(&mut value);
        Patch::Max { at: 0, value: 3 }.apply(&mut value);
        Patch::Add32 { at: 8, value: -1 }.apply(&mut value);
        Patch::Clear { at: 8, bits: 0xff }.apply(&mut value);
        Patch::Add64 { at: 9, value: 1 }.apply(&mut value);
        Patch::Set {
            at: 14,
            bytes: &[1, 2, 3],
        }
        .apply(&mut value);
        assert_eq!(
            value,
            [9, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0, 0, 0, 0]
        );
    }
}
