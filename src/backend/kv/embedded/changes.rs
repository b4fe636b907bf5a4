//! What changes in a write transaction, and how records are stored: a version, then the value.

use ::core::ops::Range;
use std::vec::Vec;

use redb::{ReadableTable, StorageError, Table};

use super::super::chunk::pieces;
use super::super::engine::{Check, Done, Expect, KEY_MAX, Key, Patch, Write, kind};
use super::{STEP, Stored};
use crate::mem::{Segment, gather};

/// Bytes of the version before each record's value.
const VERSION: usize = 8;

type Chunks<'t> = Table<'t, (u64, u32), &'static [u8]>;
type Records<'t> = Table<'t, &'static [u8], &'static [u8]>;

pub(super) fn encoded<R>(key: &Key<'_>, with: impl FnOnce(&[u8]) -> R) -> R {
    with(key.encode(&mut [0; KEY_MAX]))
}

pub(super) fn split(stored: &[u8]) -> (u64, &[u8]) {
    match stored.split_first_chunk::<VERSION>() {
        Some((version, value)) => (u64::from_le_bytes(*version), value),
        None => (0, stored),
    }
}

/// Check, then write. `None` when a check did not hold.
pub(super) fn transact(
    records: &mut Records<'_>,
    checks: &[Check<'_>],
    writes: &[Write<'_>],
    scratch: &mut Vec<u8>,
    fresh: impl Fn() -> u64,
) -> Stored<Option<Done>> {
    for check in checks {
        let stored = encoded(&check.key, |key| records.get(key))?;
        let found = stored.as_ref().map(|stored| split(stored.value()));
        if !check.expect.holds(found) {
            return Ok(None);
        }
    }
    for write in writes {
        match write {
            Write::Delete(key) => {
                encoded(key, |key| records.remove(key).map(|_| ()))?;
            }
            Write::Put(key, value) => {
                scratch.clear();
                scratch.extend_from_slice(&fresh().to_le_bytes());
                scratch.extend_from_slice(value);
                encoded(key, |key| records.insert(key, &scratch[..]).map(|_| ()))?;
            }
            Write::Patch(key, patches) => {
                scratch.clear();
                match encoded(key, |key| records.get(key))? {
                    Some(stored) => scratch.extend_from_slice(stored.value()),
                    None => continue,
                }
                patch(scratch, fresh(), patches);
                encoded(key, |key| records.insert(key, &scratch[..]).map(|_| ()))?;
            }
        }
    }
    Ok(Some(Done::Done))
}

fn patch(stored: &mut [u8], version: u64, patches: &[Patch<'_>]) {
    if let Some((old, value)) = stored.split_first_chunk_mut::<VERSION>() {
        *old = version.to_le_bytes();
        patches.iter().for_each(|patch| patch.apply(value));
    }
}

/// Clear a range; `freed` grows by the bytes of the chunks that went.
pub(super) fn clear(
    chunks: &mut Chunks<'_>,
    ino: u64,
    from: u64,
    to: u64,
    size: u32,
    scratch: &mut Vec<u8>,
    freed: &mut u64,
) -> Stored<Done> {
    let size = u64::from(size);
    let mut seen = 0;
    let mut next = (from / size) as u32;
    loop {
        scratch.clear();
        let found = chunks.range((ino, next)..=(ino, u32::MAX))?.next();
        let Some((key, stored)) = found.transpose()? else {
            return Ok(Done::Done);
        };
        let (_, index) = key.value();
        let begin = u64::from(index) * size;
        if begin >= to {
            return Ok(Done::Done);
        }
        if seen == STEP {
            return Ok(Done::More(begin));
        }
        let len = stored.value().len() as u64;
        let cut_from = from.saturating_sub(begin).min(len) as usize;
        let cut_to = (to - begin).min(len) as usize;
        if cut_from > 0 || (cut_to as u64) < len {
            scratch.extend_from_slice(stored.value());
        }
        drop((key, stored));
        if scratch.is_empty() {
            chunks.remove((ino, index))?;
            *freed += len;
        } else if cut_to as u64 == len {
            chunks.insert((ino, index), &scratch[..cut_from])?;
        } else if cut_from < cut_to {
            scratch[cut_from..cut_to].fill(0);
            chunks.insert((ino, index), &scratch[..])?;
        }
        seen += 1;
        match index.checked_add(1) {
            Some(after) => next = after,
            None => return Ok(Done::Done),
        }
    }
}

pub(super) fn purge(records: &mut Records<'_>, ino: u64, expect: Expect) -> Stored<Option<Done>> {
    let stored = encoded(&Key::Inode(ino), |key| records.get(key))?.map(|found| {
        let mut copy = heapless::Vec::<u8, 256>::new();
        let value = found.value();
        let _ = copy.extend_from_slice(&value[..value.len().min(256)]);
        copy
    });
    if !expect.holds(stored.as_deref().map(split)) {
        return Ok(None);
    }
    for key in [Key::Inode(ino), Key::Target(ino), Key::Orphan(ino)] {
        encoded(&key, |key| records.remove(key).map(|_| ()))?;
    }
    let mut first = [0; 9];
    first[..8].copy_from_slice(&ino.to_be_bytes());
    first[8] = kind::XATTR;
    let mut last = first;
    last[8] += 1;
    records.retain_in::<&[u8], _>(&first[..]..&last[..], |_, _| false)?;
    Ok(Some(Done::Done))
}

pub(super) fn reserve(records: &mut Records<'_>, count: u32) -> Stored<Done> {
    let mut key = [0; 9];
    key[8] = kind::COUNTER;
    let old: [u8; 24] = match records.get(&key[..])? {
        Some(value) => value
            .value()
            .try_into()
            .map_err(|_| StorageError::PreviousIo)?,
        None => return Err(StorageError::PreviousIo),
    };
    let mut next = [0; 8];
    next.copy_from_slice(&old[16..]);
    let first = u64::from_le_bytes(next);
    let mut new = old;
    new[16..].copy_from_slice(&(first + u64::from(count)).to_le_bytes());
    records.insert(&key[..], &new[..])?;
    Ok(Done::First(first))
}

/// Write bytes over the content that is there.
pub(super) fn overwrite(
    chunks: &mut Chunks<'_>,
    ino: u64,
    bytes: Range<u64>,
    size: u32,
    payload: &[Segment],
    scratch: &mut Vec<u8>,
) -> Stored<()> {
    for piece in pieces(bytes, size) {
        let end = piece.inside + piece.count;
        scratch.clear();
        if let Some(old) = chunks.get((ino, piece.index))? {
            scratch.extend_from_slice(old.value());
        }
        if scratch.len() < end {
            scratch.resize(end, 0);
        }
        let _ = gather(payload, piece.at, &mut scratch[piece.inside..end]);
        chunks.insert((ino, piece.index), &scratch[..])?;
    }
    Ok(())
}

/// Copy bytes, from byte of inode to byte of inode; holes, too. `freed` grows as with [`clear`].
pub(super) fn copy(
    chunks: &mut Chunks<'_>,
    from: (u64, u64),
    to: (u64, u64),
    len: u32,
    size: u32,
    scratch: &mut Vec<u8>,
    freed: &mut u64,
) -> Stored<()> {
    let bytes = from.1..from.1 + u64::from(len);
    for source in pieces(bytes, size) {
        let begin = to.1 + source.at as u64;
        for piece in pieces(begin..begin + source.count as u64, size) {
            let end = begin + (piece.at + piece.count) as u64;
            let inside = source.inside + piece.at;
            scratch.clear();
            if let Some(old) = chunks.get((to.0, piece.index))? {
                scratch.extend_from_slice(old.value());
            }
            let mut there = 0;
            if let Some(found) = chunks.get((from.0, source.index))? {
                let found = found.value().get(inside..).unwrap_or(&[]);
                let found = &found[..found.len().min(piece.count)];
                there = found.len();
                if scratch.len() < piece.inside + there {
                    scratch.resize(piece.inside + there, 0);
                }
                scratch[piece.inside..piece.inside + there].copy_from_slice(found);
            }
            if there > 0 {
                chunks.insert((to.0, piece.index), &scratch[..])?;
            }
            if there < piece.count {
                let hole = end - (piece.count - there) as u64;
                clear(chunks, to.0, hole, end, size, scratch, freed)?;
            }
        }
    }
    Ok(())
}
