//! One commit, to read from.

use ::core::ops::Range;

use redb::{Database, ReadOnlyTable, ReadableDatabase, StorageError};

use super::super::chunk::{pieces, zero};
use super::super::engine::{Client, Done, Key, List, Record, Token, kind};
use super::changes::{encoded, split};
use super::{CHUNKS, RECORDS, STEP, Stored};
use crate::mem::fill;

/// Hold one commit to read from.
pub(super) struct Snapshot {
    pub(super) commit: u64,
    records: ReadOnlyTable<&'static [u8], &'static [u8]>,
    chunks: ReadOnlyTable<(u64, u32), &'static [u8]>,
}

/// Give a record that is in no list.
fn give(token: Token, index: u32, followed: bool, stored: &[u8], client: &mut dyn Client) {
    let (version, value) = split(stored);
    let record = Record {
        index,
        followed,
        at: 0,
        version,
        name: &[],
        value,
    };
    client.record(token, record);
}

impl Snapshot {
    /// Take the present state; `commit` is its number, or an older one.
    pub(super) fn take(db: &Database, commit: u64) -> Stored<Self> {
        let broken = |_| StorageError::PreviousIo;
        let txn = db.begin_read().map_err(|_| StorageError::PreviousIo)?;
        Ok(Self {
            commit,
            records: txn.open_table(RECORDS).map_err(broken)?,
            chunks: txn.open_table(CHUNKS).map_err(broken)?,
        })
    }

    pub(super) fn get(
        &self,
        token: Token,
        keys: &[Key<'_>],
        follow: bool,
        client: &mut dyn Client,
    ) -> Stored<Done> {
        for (index, key) in (0..).zip(keys) {
            let Some(stored) = encoded(key, |key| self.records.get(key))? else {
                continue;
            };
            give(token, index, false, stored.value(), client);
            if follow && matches!(key, Key::Name(..)) {
                self.follow(token, index, split(stored.value()).1, client)?;
            }
        }
        Ok(Done::Done)
    }

    /// Read content into the client's buffers, and give the inode.
    pub(super) fn read(
        &self,
        token: Token,
        ino: u64,
        bytes: Range<u64>,
        chunk: u32,
        client: &mut dyn Client,
    ) -> Stored<Done> {
        let inode = encoded(&Key::Inode(ino), |key| self.records.get(key))?;
        let Some(inode) = inode else {
            return Ok(Done::Done);
        };
        for piece in pieces(bytes, chunk) {
            let stored = self.chunks.get((ino, piece.index))?;
            let bytes = stored.as_ref().map_or(&[][..], |stored| stored.value());
            let end = bytes.len().min(piece.inside + piece.count);
            let bytes = bytes.get(piece.inside..end).unwrap_or(&[]);
            let buffers = client.buffers(token);
            let _ = fill(buffers, piece.at, bytes);
            zero(buffers, piece.at + bytes.len()..piece.at + piece.count);
        }
        give(token, 0, false, inode.value(), client);
        Ok(Done::Done)
    }

    fn follow(
        &self,
        token: Token,
        index: u32,
        entry: &[u8],
        client: &mut dyn Client,
    ) -> Stored<()> {
        let Some(ino) = entry.first_chunk::<8>() else {
            return Ok(());
        };
        let key = Key::Inode(u64::from_le_bytes(*ino));
        if let Some(stored) = encoded(&key, |key| self.records.get(key))? {
            give(token, index, true, stored.value(), client);
        }
        Ok(())
    }

    pub(super) fn scan(
        &self,
        token: Token,
        list: List,
        after: u64,
        limit: u32,
        follow: bool,
        client: &mut dyn Client,
    ) -> Stored<Done> {
        let (ino, kind) = match list {
            List::Entries(ino) => (ino, kind::POSITION),
            List::Xattrs(ino) => (ino, kind::XATTR),
            List::Names(ino) => (ino, kind::NAME),
            List::Orphans => (0, kind::ORPHAN),
            List::Inodes => return self.inodes(token, after, limit, client),
            List::Groups => return Ok(Done::Listed { more: false }),
        };
        let named = matches!(list, List::Xattrs(_) | List::Names(_));
        let mut first = [0; 17];
        first[..8].copy_from_slice(&ino.to_be_bytes());
        first[8] = kind;
        let mut last = first;
        last[8] = kind + 1;
        let begin = if named {
            9
        } else {
            first[9..].copy_from_slice(&after.saturating_add(1).to_be_bytes());
            17
        };
        let skip = if named { after as usize } else { 0 };
        let range = self.records.range::<&[u8]>(&first[..begin]..&last[..9])?;
        for (given, found) in (0..).zip(range.skip(skip)) {
            let (key, stored) = found?;
            if given == limit {
                return Ok(Done::Listed { more: true });
            }
            let tail = key.value().get(9..).unwrap_or(&[]);
            let at = match tail.first_chunk::<8>() {
                Some(at) if !named => u64::from_be_bytes(*at),
                _ => after + u64::from(given) + 1,
            };
            let (version, value) = split(stored.value());
            let record = Record {
                index: given,
                followed: false,
                at,
                version,
                name: if named { tail } else { &[] },
                value: match list {
                    List::Xattrs(_) => &[],
                    _ => value,
                },
            };
            client.record(token, record);
            if follow {
                self.follow(token, given, value, client)?;
            }
        }
        Ok(Done::Listed { more: false })
    }

    fn inodes(
        &self,
        token: Token,
        after: u64,
        limit: u32,
        client: &mut dyn Client,
    ) -> Stored<Done> {
        let mut ino = after;
        for index in 0..limit {
            loop {
                let Some(next) = ino.checked_add(1) else {
                    return Ok(Done::Listed { more: false });
                };
                let from = next.to_be_bytes();
                let found = self.records.range::<&[u8]>(&from[..]..)?.next();
                let Some((key, stored)) = found.transpose()? else {
                    return Ok(Done::Listed { more: false });
                };
                let Some((number, tail)) = key.value().split_first_chunk::<8>() else {
                    return Ok(Done::Listed { more: false });
                };
                ino = u64::from_be_bytes(*number);
                if tail != [kind::INODE] {
                    continue;
                }
                let (version, value) = split(stored.value());
                let record = Record {
                    index,
                    followed: false,
                    at: ino,
                    version,
                    name: &[],
                    value,
                };
                client.record(token, record);
                break;
            }
        }
        Ok(Done::Listed { more: true })
    }

    pub(super) fn seek(
        &self,
        ino: u64,
        offset: u64,
        size: u64,
        hole: bool,
        chunk: u32,
    ) -> Stored<Done> {
        let chunk = u64::from(chunk);
        let first = (offset / chunk) as u32;
        let last = (size.div_ceil(chunk)).min(u64::from(u32::MAX)) as u32;
        let mut expected = first;
        for (seen, found) in (0..).zip(self.chunks.range((ino, first)..(ino, last))?) {
            let (_, index) = found?.0.value();
            if !hole {
                return Ok(Done::At((u64::from(index) * chunk).max(offset)));
            }
            if index != expected {
                break;
            }
            expected += 1;
            if seen == STEP {
                return Ok(Done::More(u64::from(expected) * chunk));
            }
        }
        let end = if hole {
            u64::from(expected) * chunk
        } else {
            size
        };
        Ok(Done::At(end.max(offset).min(size)))
    }
}
