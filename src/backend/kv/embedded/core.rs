//! One core's part: reads from a snapshot, and the changes of a round in one transaction.

use ::core::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::vec::Vec;

use redb::{CommitError, Durability, StorageError, WriteTransaction};

use super::super::engine::{
    Busy, Check, Client, Done, Engine, Failure, Key, Op, Token, VALUE_MAX, Write,
};
use super::changes::{clear, copy, overwrite, purge, reserve, transact};
use super::snapshot::Snapshot;
use super::{CHUNKS, RECORDS, Store, Stored, failure};
use crate::sys::eventfd::EventFd;
use crate::sys::time::Instant;

/// Most changes of one round, and most Syncs that wait.
const UNDER_WAY: usize = 1024;

/// Serve one core from a store.
pub struct Embedded {
    store: &'static Store,
    bell: Arc<EventFd>,
    snapshot: Option<Snapshot>,
    /// The changes of this round.
    writer: Option<WriteTransaction>,
    /// The disk was nearly full when the round began: nothing is added.
    full: bool,
    /// Why the changes are to be dropped.
    failed: Option<Failure>,
    /// What is done when the changes are committed.
    committed: Vec<(Token, Result<Done, Failure>)>,
    /// What is done when so many commits are durable.
    syncing: Vec<(Token, u64)>,
    /// One chunk that is being changed.
    chunk: Vec<u8>,
    /// One record that is being changed.
    value: Vec<u8>,
}

impl Embedded {
    pub(super) fn new(store: &'static Store, bell: Arc<EventFd>) -> Self {
        Self {
            store,
            bell,
            snapshot: None,
            writer: None,
            failed: None,
            full: false,
            committed: Vec::with_capacity(UNDER_WAY),
            syncing: Vec::with_capacity(UNDER_WAY),
            chunk: Vec::with_capacity(store.chunk as usize),
            value: Vec::with_capacity(2 * VALUE_MAX),
        }
    }

    fn snapshot(&mut self) -> Stored<&Snapshot> {
        let commit = self.store.commits.load(Ordering::Acquire);
        if self
            .snapshot
            .as_ref()
            .is_none_or(|old| old.commit != commit)
        {
            self.snapshot = None;
            self.snapshot = Some(Snapshot::take(&self.store.db, commit)?);
        }
        self.snapshot.as_ref().ok_or(StorageError::PreviousIo)
    }

    /// Have the write transaction, or not now.
    fn begin(&mut self) -> Result<(), Busy> {
        if self.writer.is_some() {
            return Ok(());
        }
        if self.committed.len() == self.committed.capacity()
            || self.store.wanted.load(Ordering::SeqCst)
            || self.store.writing.swap(true, Ordering::SeqCst)
        {
            return Err(Busy);
        }
        let begun = self.store.db.begin_write().map(|mut txn| {
            let _ = txn.set_durability(Durability::None);
            txn
        });
        match begun {
            Ok(txn) => {
                self.full = self.store.is_full();
                self.writer = Some(txn);
                Ok(())
            }
            Err(_) => {
                self.store.broken.store(true, Ordering::Release);
                self.store.writing.store(false, Ordering::SeqCst);
                Ok(())
            }
        }
    }

    fn read(&mut self, token: Token, op: &Op<'_>, client: &mut dyn Client) -> Stored<Done> {
        let chunk = self.store.chunk;
        let snapshot = self.snapshot()?;
        match *op {
            Op::Get { keys, follow } => snapshot.get(token, keys, follow, client),
            Op::Scan {
                list,
                after,
                limit,
                follow,
            } => snapshot.scan(token, list, after, limit, follow, client),
            Op::Read { ino, offset, len } => {
                snapshot.read(token, ino, offset..offset + u64::from(len), chunk, client)
            }
            Op::Seek {
                ino,
                offset,
                size,
                hole,
            } => snapshot.seek(ino, offset, size, hole, chunk),
            _ => Ok(Done::Done),
        }
    }

    /// Run an operation that changes something, in the write transaction. A failed check changes nothing.
    fn change(&mut self, token: Token, op: &Op<'_>, client: &dyn Client) -> Result<Done, Failure> {
        let writer = self.writer.as_ref().ok_or(Failure::Broken)?;
        if self.full && op.grows() && !self.store.spend(op) {
            return Err(Failure::Full);
        }
        let mut freed = 0;
        let broken = |_| Failure::Broken;
        let mut records = writer.open_table(RECORDS).map_err(broken)?;
        let size = self.store.chunk;
        let versions = &self.store.next_version;
        let fresh = || versions.fetch_add(1, Ordering::Relaxed);
        let value = &mut self.value;
        let run = match *op {
            Op::Transact { checks, writes } => transact(&mut records, checks, writes, value, fresh),
            Op::Write {
                ino,
                offset,
                len,
                expect,
                patches,
            } => {
                let key = Key::Inode(ino);
                let check = Check { key, expect };
                let patch = Write::Patch(key, patches);
                let payload = client.payload(token);
                transact(&mut records, &[check], &[patch], value, fresh).and_then(|done| {
                    if done.is_some() {
                        let chunks = writer.open_table(CHUNKS);
                        let mut chunks = chunks.map_err(|_| StorageError::PreviousIo)?;
                        let bytes = offset..offset + u64::from(len);
                        overwrite(&mut chunks, ino, bytes, size, payload, &mut self.chunk)?;
                    }
                    Ok(done)
                })
            }
            Op::Copy {
                source,
                from,
                given,
                ino,
                to,
                len,
                expect,
                patches,
            } => {
                let key = Key::Inode(ino);
                let checks = [
                    Check {
                        key: Key::Inode(source),
                        expect: given,
                    },
                    Check { key, expect },
                ];
                let patch = Write::Patch(key, patches);
                transact(&mut records, &checks, &[patch], value, fresh).and_then(|done| {
                    if done.is_some() {
                        let chunks = writer.open_table(CHUNKS);
                        let mut chunks = chunks.map_err(|_| StorageError::PreviousIo)?;
                        let (from, to) = ((source, from), (ino, to));
                        let scratch = &mut self.chunk;
                        copy(&mut chunks, from, to, len, size, scratch, &mut freed)?;
                    }
                    Ok(done)
                })
            }
            Op::Clear {
                ino,
                from,
                to,
                expect,
                ..
            } => {
                let check = Check {
                    key: Key::Inode(ino),
                    expect,
                };
                transact(&mut records, &[check], &[], value, fresh).and_then(|done| {
                    if done.is_none() {
                        return Ok(None);
                    }
                    let chunks = writer.open_table(CHUNKS);
                    let mut chunks = chunks.map_err(|_| StorageError::PreviousIo)?;
                    let scratch = &mut self.chunk;
                    clear(&mut chunks, ino, from, to, size, scratch, &mut freed).map(Some)
                })
            }
            Op::Purge { ino, expect } => purge(&mut records, ino, expect),
            Op::Reserve { count } => reserve(&mut records, count).map(Some),
            _ => Ok(Some(Done::Done)),
        };
        self.store.freed.fetch_add(freed, Ordering::Relaxed);
        match run {
            Ok(Some(done)) => Ok(done),
            Ok(None) => Err(Failure::Conflict),
            Err(error) => {
                self.failed = Some(failure(&error));
                Err(failure(&error))
            }
        }
    }

    fn commit(&mut self, client: &mut dyn Client) {
        if self.committed.is_empty() && self.writer.is_none() {
            return;
        }
        // What failed in the middle may have left a part of itself, so the whole round is dropped.
        let result = match (self.writer.take(), self.failed.take()) {
            (None, _) => Err(Failure::Broken),
            (Some(writer), Some(failure)) => writer
                .abort()
                .map_or(Err(Failure::Broken), |()| Err(failure)),
            (Some(writer), None) => writer.commit().map_err(|error| match error {
                CommitError::Storage(error) => failure(&error),
                _ => Failure::Broken,
            }),
        };
        if result.is_ok() {
            self.store.commits.fetch_add(1, Ordering::AcqRel);
        }
        self.store.writing.store(false, Ordering::SeqCst);
        for (token, done) in self.committed.drain(..) {
            client.done(token, result.and(done));
        }
    }

    fn usage(&self) -> Done {
        let (mut total, mut free) = (1 << 40, 1 << 40);
        if let Some((all, left)) = self.store.disk() {
            (total, free) = (all, left.saturating_sub(self.store.reserve));
        }
        Done::Usage {
            total,
            free,
            inodes: 0,
        }
    }
}

impl Engine for Embedded {
    fn submit(&mut self, token: Token, op: &Op<'_>, client: &mut dyn Client) -> Result<(), Busy> {
        match op {
            Op::Get { .. } | Op::Scan { .. } | Op::Read { .. } | Op::Seek { .. } => {
                let result = self.read(token, op, client);
                client.done(token, result.map_err(|error| failure(&error)));
            }
            Op::Usage => client.done(token, Ok(self.usage())),
            Op::Sync if self.store.volatile() => client.done(token, Ok(Done::Done)),
            Op::Sync => {
                if self.syncing.len() == self.syncing.capacity() {
                    return Err(Busy);
                }
                // What is in this round's transaction is not acknowledged yet, so it need not be durable.
                let commits = self.store.commits.load(Ordering::Acquire);
                self.syncing.push((token, commits));
                *self
                    .store
                    .asked
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = true;
                self.store.wake.notify_one();
            }
            _ => {
                self.begin()?;
                let result = self.change(token, op, client);
                self.committed.push((token, result));
            }
        }
        Ok(())
    }

    fn poll(&mut self, _now: Instant, client: &mut dyn Client) -> bool {
        let mut any = !self.committed.is_empty();
        self.commit(client);
        if !self.syncing.is_empty() {
            let durable = self.store.durable.load(Ordering::Acquire);
            let broken = self.store.broken.load(Ordering::Acquire);
            let before = self.syncing.len();
            self.syncing.retain(|&(token, commits)| {
                let done = durable >= commits;
                if done || broken {
                    let result = if done {
                        Ok(Done::Done)
                    } else {
                        Err(Failure::Broken)
                    };
                    client.done(token, result);
                }
                !done && !broken
            });
            any |= self.syncing.len() != before;
        }
        any
    }

    fn wait_fds(&self, add: &mut dyn FnMut(i32)) {
        add(self.bell.raw());
    }

    fn arm(&mut self) -> bool {
        // An idle core keeps no old pages.
        self.snapshot = None;
        self.bell.clear();
        let durable = self.store.durable.load(Ordering::Acquire);
        let broken = self.store.broken.load(Ordering::Acquire);
        self.committed.is_empty()
            && !self
                .syncing
                .iter()
                .any(|&(_, commits)| broken || commits <= durable)
    }

    fn chunk_size(&self) -> u32 {
        self.store.chunk
    }

    fn copies(&self) -> bool {
        true
    }
}
