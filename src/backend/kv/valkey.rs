//! The server's side of an engine on Valkey or Redis, and the requests to it. The client that sends them is not
//! written yet, so no configuration can name this engine.
//!
//! ```text
//!  Op::Transact ──transact──> FCALL dpfs_transact 1 {volume} client sequence ack checks.. writes..  ──> 1, or 0
//!  Op::Reserve  ──reserve──> FCALL dpfs_reserve 1 {volume} client sequence ack count                 ──> the first
//!  Op::Get      ──get───────> FCALL dpfs_get 1 {volume} follow keys..             ──> stored values and nothings
//! ```
//!
//! All records of a volume are in one hash slot, that of its name, where a function of the library [`FUNCTIONS`] reads
//! or changes them in one step. A transaction has its client's number and a sequence number. The server remembers the
//! result, so that a request which is sent again after a lost reply is not executed again; `ack`, the lowest sequence
//! number whose reply is still wanted, lets it forget.

use super::engine::{Check, Expect, KEY_MAX, Key, Patch, Write};
use crate::wire::resp::Encoder;

/// The library, for FUNCTION LOAD on every primary.
pub const FUNCTIONS: &str = include_str!("valkey/functions.lua");

/// Bytes of a stored value before the record's value: its version, big-endian.
pub const VERSION_LEN: usize = 8;

/// Name a transaction, so that it is executed once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Once {
    /// The client: a random number that nobody else has.
    pub client: u64,
    /// The transaction, counted from 1; below 2^53.
    pub sequence: u64,
    /// Lowest sequence number that the client has no reply to.
    pub ack: u64,
}

/// Write the request of a transaction on the volume with this prefix, a name in braces. Its reply is the integer 1, or 0
/// when a check does not hold.
pub fn transact(
    to: &mut Encoder<'_>,
    prefix: &[u8],
    once: &Once,
    checks: &[Check<'_>],
    writes: &[Write<'_>],
) {
    let strings = 8 + 2 * checks.len() + 3 * writes.len();
    to.request(strings as u32)
        .bytes(b"FCALL")
        .bytes(b"dpfs_transact")
        .number(1)
        .bytes(prefix)
        .number(once.client)
        .number(once.sequence)
        .number(once.ack)
        .number(checks.len() as u64);
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
            Write::Patch(record, patches) => {
                key(to, record);
                to.bytes(b"U");
                to.announce(patches.iter().map(patch_len).sum());
                patches.iter().for_each(|each| patch(to, each));
                to.end();
            }
        }
    }
}

/// Write the request for records. Its reply is an array of stored values and nothings, one for each key, and with
/// `follow` another behind each: the inode that a name names.
pub fn get(to: &mut Encoder<'_>, prefix: &[u8], keys: &[Key<'_>], follow: bool) {
    to.request(5 + keys.len() as u32)
        .bytes(b"FCALL")
        .bytes(b"dpfs_get")
        .number(1)
        .bytes(prefix)
        .number(follow.into());
    for record in keys {
        key(to, record);
    }
}

/// Write the request for so many numbers that nobody else gets. Its reply is the first of them, an integer.
pub fn reserve(to: &mut Encoder<'_>, prefix: &[u8], once: &Once, count: u32) {
    to.request(8)
        .bytes(b"FCALL")
        .bytes(b"dpfs_reserve")
        .number(1)
        .bytes(prefix)
        .number(once.client)
        .number(once.sequence)
        .number(once.ack)
        .number(count.into());
}

fn key(to: &mut Encoder<'_>, key: &Key<'_>) {
    to.bytes(key.encode(&mut [0; KEY_MAX]));
}

fn expect(to: &mut Encoder<'_>, expect: Expect) {
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
    };
}

/// Bytes of a patch before what it puts, compares or adds: kind, place, length.
const PATCH_HEAD: u64 = 5;

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
