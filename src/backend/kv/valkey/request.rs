//! Requests to the functions of the library, and the plain ones beside them.
//!
//! All records of a volume are in one hash slot, that of its name, where a function of the library [`FUNCTIONS`] reads
//! or changes them in one step. What changes something has its client's number and a sequence number. The server
//! remembers the result, so that a request which is sent again after a lost reply is not executed again; `ack`, the
//! lowest sequence number whose reply is still wanted, lets it forget.

use super::super::chunk::pieces;
use super::super::engine::{Check, Expect, KEY_MAX, Key, List, Op, Patch, Write, kind};
use crate::wire::resp::Encoder;

/// The library, for FUNCTION LOAD on every primary.
pub const FUNCTIONS: &str = include_str!("functions.lua");

/// Its version, as `dpfs_open` tells it.
pub const VERSION: i64 = 4;

/// Bytes of a stored value before the record's value: its version, big-endian.
pub const VERSION_LEN: usize = 8;

/// Say what FSYNC and SYNCFS wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// The server has everything in its append-only file, on its disk.
    Aof,
    /// So many replicas have everything, in memory.
    Replicas(u32),
}

/// Name a transaction, so that it is executed once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Once {
    /// The client: a random number that nobody else has.
    pub client: u64,
    /// The transaction, counted from 1; below 2^53.
    pub sequence: u64,
    /// Lowest sequence number that the client has no reply to.
    pub ack: u64,
    /// The number before that was answered, and not given up.
    pub sure: bool,
}

/// Begin a call of a function on the volume with this prefix, a name in braces, with so many arguments.
///
/// The first key, the prefix, is a record of none and never there; the second, the volume's own, always is. While a node
/// of a cluster has only some of the slot's keys, it answers who needs keys that it has and keys that it has not with
/// TRYAGAIN or ASK. So no function runs where it would see half of a volume, and the server itself sees to that.
pub(super) fn call<'e, 'b>(
    to: &'e mut Encoder<'b>,
    function: &[u8],
    prefix: &[u8],
    arguments: usize,
) -> &'e mut Encoder<'b> {
    call_on(to, function, prefix, b"k", arguments)
}

/// Begin a call of a function on two keys: a prefix, and the prefix with a letter.
pub(super) fn call_on<'e, 'b>(
    to: &'e mut Encoder<'b>,
    function: &[u8],
    prefix: &[u8],
    letter: &[u8; 1],
    arguments: usize,
) -> &'e mut Encoder<'b> {
    to.request(5 + arguments as u32)
        .bytes(b"FCALL")
        .bytes(function)
        .number(2)
        .bytes(prefix)
        .announce(prefix.len() as u64 + 1)
        .part(prefix)
        .part(letter)
        .end()
}

/// As [`call`], for what is done once; its arguments come behind those that say so.
pub(super) fn call_once<'e, 'b>(
    to: &'e mut Encoder<'b>,
    function: &[u8],
    prefix: &[u8],
    once: &Once,
    arguments: usize,
) -> &'e mut Encoder<'b> {
    call(to, function, prefix, 4 + arguments)
        .number(once.client)
        .number(once.sequence)
        .number(once.ack)
        .number(once.sure.into())
}

/// Ask whether the volume is there, and make it with chunks of this size unless it is zero; then its files spread or not.
/// The reply is an array: version of the library, size of chunks (zero: no such volume), when it was made, whether its files
/// spread (1 or 0).
pub fn open(to: &mut Encoder<'_>, prefix: &[u8], chunk: u32, spread: bool) {
    call(to, b"dpfs_volume", prefix, 2)
        .number(chunk.into())
        .number(spread.into());
}

/// Write the request of a transaction. Its reply is the integer 1, or 0 when a check does not hold. One that does not
/// grow the store (`grows` false) is done even when there is no memory left.
pub fn transact(
    to: &mut Encoder<'_>,
    prefix: &[u8],
    once: &Once,
    (checks, writes): (&[Check<'_>], &[Write<'_>]),
    grows: bool,
) {
    let function = if grows {
        &b"dpfs_transact"[..]
    } else {
        b"dpfs_release"
    };
    let arguments = 1 + 2 * checks.len() + 3 * writes.len();
    let to = call_once(to, function, prefix, once, arguments).number(checks.len() as u64);
    for check in checks {
        key(to, &check.key);
        expect(to, check.expect);
    }
    for write in writes {
        match write {
            Write::Put(record, value) => {
                key(to, record);
                to.bytes(b"P").bytes(value);
            }
            Write::Delete(record) => {
                key(to, record);
                to.bytes(b"D").bytes(b"");
            }
            Write::Patch(record, changes) => {
                key(to, record);
                to.bytes(b"U");
                patches(to, changes);
            }
        }
    }
}

pub(super) fn patches(to: &mut Encoder<'_>, patches: &[Patch<'_>]) {
    to.announce(patches.iter().map(patch_len).sum());
    patches.iter().for_each(|each| patch(to, each));
    to.end();
}

/// Write the request for content that is written to an inode as it is expected to be, but for the bytes themselves: they
/// come behind what is written now, and then the end of a string ([`Encoder::end`]). Its reply is the integer 1, or 0
/// when the inode is not as expected.
#[expect(clippy::too_many_arguments, reason = "one for each string")]
pub fn write(
    to: &mut Encoder<'_>,
    prefix: &[u8],
    once: &Once,
    ino: u64,
    as_expected: Expect,
    changes: &[Patch<'_>],
    chunk: u32,
    (offset, len): (u64, u32),
) {
    let to = call_once(to, b"dpfs_write", prefix, once, 6).bytes(&ino.to_be_bytes());
    expect(to, as_expected);
    patches(to, changes);
    to.number(chunk.into()).number(offset).announce(len.into());
}

/// Write the request of an [`Op::Copy`]; of another, none. Its reply is the integer 1, or 0 when an inode is not as
/// expected.
pub fn copy(to: &mut Encoder<'_>, prefix: &[u8], once: &Once, op: &Op<'_>, chunk: u32) {
    if let Op::Copy {
        source,
        from,
        given,
        ino,
        to: at,
        len,
        expect: as_expected,
        patches: changes,
    } = *op
    {
        let to = call_once(to, b"dpfs_copy", prefix, once, 9).bytes(&source.to_be_bytes());
        expect(to, given);
        to.number(from).bytes(&ino.to_be_bytes());
        expect(to, as_expected);
        patches(to, changes);
        to.number(chunk.into()).number(at).number(len.into());
    }
}

/// Write the request to clear content of an inode as it is expected to be. Its reply is the integer 0, the byte to go on
/// from, or 1 when the inode is not as expected: no chunk begins there.
pub fn clear(
    to: &mut Encoder<'_>,
    prefix: &[u8],
    once: &Once,
    ino: u64,
    (from, end): (u64, u64),
    chunk: u32,
    as_expected: Expect,
) {
    // No content lies behind the last chunk that has a number; and the server's numbers are exact up to there.
    let end = end.min(u64::from(chunk) << 32);
    let to = call_once(to, b"dpfs_clear", prefix, once, 5)
        .bytes(&ino.to_be_bytes())
        .number(from)
        .number(end)
        .number(chunk.into());
    expect(to, as_expected);
}

/// Write the request to remove an inode as it is expected to be. Its reply is the integer 1, or 0.
pub fn purge(to: &mut Encoder<'_>, prefix: &[u8], once: &Once, ino: u64, as_expected: Expect) {
    let to = call_once(to, b"dpfs_purge", prefix, once, 2).bytes(&ino.to_be_bytes());
    expect(to, as_expected);
}

/// Write the request whether the server still has what it answered to a client, up to a sequence number and after `seen`.
/// Its reply is the integer 1, or 0 when it has lost some of it.
pub fn kept(to: &mut Encoder<'_>, prefix: &[u8], client: u64, sequence: u64, seen: u64) {
    call(to, b"dpfs_kept", prefix, 3)
        .number(client)
        .number(sequence)
        .number(seen);
}

/// Write the request to wait until this connection's last change is as durable as asked. Its reply is a number, or two
/// for [`Durability::Aof`]: how many confirmed.
pub fn wait(to: &mut Encoder<'_>, durability: Durability) {
    // Not for ever, so that a server that is silent is told from one that waits.
    const MILLISECONDS: u64 = 500;
    match durability {
        Durability::Aof => to.request(4).bytes(b"WAITAOF").number(1).number(0),
        Durability::Replicas(count) => to.request(3).bytes(b"WAIT").number(count.into()),
    }
    .number(MILLISECONDS);
}

/// Write the request for a part of a list. Its reply is an array: whether there may be more, as "1" or "0"; then of each
/// record its number, or its name, or where to go on and its name or number; its stored value; and, with `follow`, the stored inode that it names or nothing.
pub fn scan(to: &mut Encoder<'_>, prefix: &[u8], list: List, after: u64, limit: u32, follow: bool) {
    let (ino, kind) = match list {
        List::Entries(ino) => (ino, kind::POSITION),
        List::Xattrs(ino) => (ino, kind::XATTR),
        List::Names(ino) => {
            call(to, b"dpfs_names", prefix, 2)
                .bytes(&ino.to_be_bytes())
                .number(after);
            return;
        }
        List::Orphans => (0, kind::ORPHAN),
        // Groups are listed where they are.
        List::Inodes | List::Groups => (0, kind::INODE),
    };
    let to = call(to, b"dpfs_scan", prefix, 5)
        .bytes(&[kind])
        .bytes(&ino.to_be_bytes());
    match list {
        List::Entries(_) | List::Orphans => to.bytes(&after.saturating_add(1).to_be_bytes()),
        List::Xattrs(_) | List::Inodes | List::Groups | List::Names(_) => to.number(after),
    };
    to.number(limit.into()).number(follow.into());
}

/// Write the request for content or a hole. Its reply is an array: "=" and the byte, or "+" and the byte to go on from.
pub fn seek(
    to: &mut Encoder<'_>,
    prefix: &[u8],
    ino: u64,
    (offset, size): (u64, u64),
    chunk: u32,
    hole: bool,
) {
    call(to, b"dpfs_seek", prefix, 5)
        .bytes(&ino.to_be_bytes())
        .number(offset)
        .number(size)
        .number(chunk.into())
        .number(hole.into());
}

/// Write the requests for content: for the inode, then for what each chunk has of the range. Each has a reply of its
/// own, the stored inode or nothing, then bytes.
///
/// They are not one step. The inode is read before the content, so that no size is seen without what was written then.
pub fn read(to: &mut Encoder<'_>, prefix: &[u8], ino: u64, (offset, len): (u64, u32), chunk: u32) {
    get_plain(to, prefix, &Key::Inode(ino));
    let ino = ino.to_be_bytes();
    for piece in pieces(offset..offset + u64::from(len), chunk) {
        let index = piece.index.to_be_bytes();
        to.request(4).bytes(b"GETRANGE");
        to.announce((prefix.len() + 1 + ino.len() + index.len()) as u64);
        to.part(prefix)
            .part(&[kind::CHUNK])
            .part(&ino)
            .part(&index)
            .end();
        to.number(piece.inside as u64);
        to.number((piece.inside + piece.count - 1) as u64);
    }
}

/// Write the requests for what each chunk of a group with this prefix has of a range. Each has a reply of its own: bytes.
pub fn parts(to: &mut Encoder<'_>, prefix: &[u8], (offset, len): (u64, u32), chunk: u32) {
    for piece in pieces(offset..offset + u64::from(len), chunk) {
        to.request(4).bytes(b"GETRANGE");
        to.announce(prefix.len() as u64 + 4);
        to.part(prefix).part(&piece.index.to_be_bytes()).end();
        to.number(piece.inside as u64);
        to.number((piece.inside + piece.count - 1) as u64);
    }
}

/// Tell whether a record is read without a function: an inode has one of it.
pub const fn is_plain(record: &Key<'_>) -> bool {
    matches!(record, Key::Inode(_) | Key::Target(_))
}

/// Write the request for such a record. Its reply is the stored value or nothing.
pub fn get_plain(to: &mut Encoder<'_>, prefix: &[u8], record: &Key<'_>) {
    let mut bytes = [0; KEY_MAX];
    let (ino, kind) = record.encode(&mut bytes).split_at(8);
    to.request(2).bytes(b"GET");
    to.announce((prefix.len() + kind.len() + ino.len()) as u64);
    to.part(prefix).part(kind).part(ino).end();
}

/// Write the request for records. Its reply is an array of stored values and nothings, one for each key, and with
/// `follow` another behind each: the inode that a name names.
pub fn get(to: &mut Encoder<'_>, prefix: &[u8], keys: &[Key<'_>], follow: bool) {
    call(to, b"dpfs_get", prefix, 1 + keys.len()).number(follow.into());
    for record in keys {
        key(to, record);
    }
}

/// Write the request for so many numbers that nobody else gets. Its reply is the first of them, an integer.
pub fn reserve(to: &mut Encoder<'_>, prefix: &[u8], once: &Once, count: u32) {
    call_once(to, b"dpfs_reserve", prefix, once, 1).number(count.into());
}

fn key(to: &mut Encoder<'_>, key: &Key<'_>) {
    to.bytes(key.encode(&mut [0; KEY_MAX]));
}

pub(super) fn expect(to: &mut Encoder<'_>, expect: Expect) {
    match expect {
        Expect::Absent => to.bytes(b"A"),
        Expect::Present => to.bytes(b"P"),
        Expect::Version(version) => {
            let to = to.announce(1 + VERSION_LEN as u64).part(b"V");
            to.part(&version.to_be_bytes()).end()
        }
        Expect::Bits { at, mask, want } => {
            let to = to.announce(11).part(b"B").part(&at.to_le_bytes());
            to.part(&mask.to_le_bytes()).part(&want.to_le_bytes()).end()
        }
        Expect::Least { at, value } => {
            let to = to.announce(11).part(b"L").part(&at.to_le_bytes());
            to.part(&value.to_le_bytes()).end()
        }
        Expect::Exactly { at, value } => {
            let to = to.announce(11).part(b"E").part(&at.to_le_bytes());
            to.part(&value.to_le_bytes()).end()
        }
    };
}

/// Bytes of a patch before what it puts, compares or adds: kind, place, length.
pub(super) const PATCH_HEAD: u64 = 5;

fn patch_len(patch: &Patch<'_>) -> u64 {
    PATCH_HEAD
        + match patch {
            Patch::Set { bytes, .. } => bytes.len() as u64,
            Patch::Max { .. } | Patch::Add64 { .. } => 8,
            Patch::Add32 { .. } | Patch::Clear { .. } => 4,
        }
}

fn patch(to: &mut Encoder<'_>, patch: &Patch<'_>) {
    let mut one = |kind: &[u8; 1], at: u16, bytes: &[u8]| {
        let to = to.part(kind).part(&at.to_le_bytes());
        to.part(&(bytes.len() as u16).to_le_bytes()).part(bytes);
    };
    match *patch {
        Patch::Set { at, bytes } => one(b"S", at, bytes),
        Patch::Max { at, value } => one(b"M", at, &value.to_le_bytes()),
        Patch::Add64 { at, value } => one(b"A", at, &value.to_le_bytes()),
        Patch::Add32 { at, value } => one(b"a", at, &value.to_le_bytes()),
        Patch::Clear { at, bits } => one(b"C", at, &bits.to_le_bytes()),
    }
}
