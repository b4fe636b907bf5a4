//! The engine in one file of this machine, or in memory: a copy-on-write B-tree (`redb`).
//!
//! ```text
//!  core: Embedded ──try──> one write transaction for a round's changes ──poll──> commit, not yet durable
//!        └─ reads: a snapshot of the last commit                                   │
//!  worker: each second, or when a Sync waits: one durable commit for all of them <─┘  (group commit)
//! ```
//!
//! Why not LMDB: its commits are either durable one by one, so that each CREATE waits for the disk, or may leave a
//! damaged file when the power fails (`MDB_NOSYNC`). Here a commit that is not durable leaves the last durable one
//! whole, whatever reaches the disk. What was fsynced stays; of the rest, a failing power supply or a killed daemon
//! takes at most about the last second, and always from the end.
//!
//! A core never waits: while another core, or the worker, has the write transaction, operations are refused with
//! [`Busy`] and come again. The store allocates; nothing here does beside it, once its buffers have grown.

extern crate std;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::boxed::Box;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::string::{String, ToString};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::vec::Vec;

use redb::backends::InMemoryBackend;
use redb::{
    CommitError, Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable,
    StorageError, Table, TableDefinition, WriteTransaction,
};

use super::engine::{
    Busy, Check, Client, Done, Engine, Expect, Failure, KEY_MAX, Key, List, NAME_MAX, Op, Patch,
    Record, Token, Write, kind,
};
use crate::mem::{fill, gather};
use crate::sys::eventfd::EventFd;
use crate::sys::time::Instant;
use crate::wire::errno::Errno;

const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
const CHUNKS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("chunks");

/// Bytes of the version before each record's value.
const VERSION: usize = 8;
/// First number that is given out.
const FIRST_NUMBER: u64 = 1024;
/// Longest time that a change waits to be made durable.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Most chunks that one step of a Clear or Seek looks at.
const STEP: u64 = 1024;
const ZEROS: [u8; 4096] = [0; 4096];

/// Say where the store is, and how large its parts are.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    /// The file; `None` for a store in memory, which is gone with the process.
    pub path: Option<&'a Path>,
    /// Size of the chunks of a new store in bytes.
    pub chunk: u32,
    /// Memory for cached pages in bytes.
    pub cache: usize,
}

/// Hold a store that is open, for all cores.
pub struct Store {
    db: Database,
    /// To ask how full the disk is.
    file: Option<File>,
    chunk: u32,
    /// Somebody has the write transaction.
    writing: AtomicBool,
    /// The worker wants it next.
    wanted: AtomicBool,
    /// The worker runs.
    started: AtomicBool,
    /// Commits so far. Each core's snapshot is of one of them.
    commits: AtomicU64,
    /// Commits that are durable.
    durable: AtomicU64,
    /// A durable commit failed: nothing is promised any more.
    broken: AtomicBool,
    next_version: AtomicU64,
    /// A Sync waits for the worker.
    asked: Mutex<bool>,
    wake: Condvar,
    bells: Mutex<Vec<Arc<EventFd>>>,
}

type Stored<T> = Result<T, StorageError>;

fn failure(error: &StorageError) -> Failure {
    match error {
        StorageError::Io(error) if error.raw_os_error() == Some(libc::ENOSPC) => Failure::Full,
        _ => Failure::Broken,
    }
}

impl Store {
    /// Open a store, or make it. Its worker starts with the first core that is attached, for a process that is to
    /// change its name spaces may have no threads before.
    ///
    /// # Errors
    /// Why it cannot be opened, in words: another process has it open, it is no store, or as open(2).
    pub fn open(config: &Config<'_>) -> Result<&'static Self, String> {
        let mut builder = Database::builder();
        builder.set_cache_size(config.cache);
        let db = match config.path {
            Some(path) => builder.create(path).map_err(|error| error.to_string())?,
            None => builder
                .create_with_backend(InMemoryBackend::new())
                .map_err(|error| error.to_string())?,
        };
        let file = config.path.and_then(|path| File::open(path).ok());
        let (chunk, opened) = begin(&db, config.chunk).map_err(|error| error.to_string())?;
        let store: &'static Self = Box::leak(Box::new(Self {
            db,
            file,
            chunk,
            writing: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            started: AtomicBool::new(false),
            commits: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            next_version: AtomicU64::new(opened << 40 | 1),
            asked: Mutex::new(false),
            wake: Condvar::new(),
            bells: Mutex::new(Vec::new()),
        }));
        Ok(store)
    }

    /// Make the engine of one core.
    ///
    /// # Errors
    /// As eventfd(2); `EAGAIN` when no thread can be started.
    pub fn attach(&'static self) -> crate::sys::Result<Embedded> {
        if !self.volatile() && !self.started.swap(true, Ordering::SeqCst) {
            let worker = std::thread::Builder::new().name("kv-sync".into());
            worker
                .spawn(move || self.work())
                .map_err(|_| Errno::EAGAIN)?;
        }
        self.engine()
    }

    /// Make an engine without a worker, to prepare a volume: what it does is durable when a worker is there, or
    /// with [`Self::sync`].
    ///
    /// # Errors
    /// As eventfd(2).
    pub fn engine(&'static self) -> crate::sys::Result<Embedded> {
        let bell = Arc::new(EventFd::new()?);
        self.bells
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&bell));
        Ok(Embedded {
            store: self,
            bell,
            snapshot: None,
            writer: None,
            failed: None,
            committed: Vec::with_capacity(1024),
            syncing: Vec::with_capacity(1024),
            chunk: Vec::with_capacity(self.chunk as usize),
            value: Vec::with_capacity(8192),
        })
    }

    /// Make durable what was committed, on this thread, with nothing else under way.
    ///
    /// # Errors
    /// As fdatasync(2), in words.
    pub fn sync(&self) -> Result<(), String> {
        commit(&self.db).map_err(|error| error.to_string())
    }

    fn volatile(&self) -> bool {
        self.file.is_none()
    }

    /// Make durable what was committed, again and again.
    fn work(&self) {
        loop {
            {
                let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
                let wait = self
                    .wake
                    .wait_timeout_while(asked, COMMIT_INTERVAL, |asked| !*asked);
                *wait.unwrap_or_else(PoisonError::into_inner).0 = false;
            }
            if self.commits.load(Ordering::Acquire) == self.durable.load(Ordering::Acquire) {
                continue;
            }
            self.wanted.store(true, Ordering::SeqCst);
            while self.writing.swap(true, Ordering::SeqCst) {
                std::thread::sleep(Duration::from_micros(20));
            }
            let commits = self.commits.load(Ordering::Acquire);
            let result = commit(&self.db);
            self.writing.store(false, Ordering::SeqCst);
            self.wanted.store(false, Ordering::SeqCst);
            match result {
                Ok(()) => self.durable.store(commits, Ordering::Release),
                Err(_) => self.broken.store(true, Ordering::Release),
            }
            let bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
            bells.iter().for_each(|bell| bell.notify());
        }
    }
}

/// Commit durably what was committed before.
fn commit(db: &Database) -> Result<(), redb::Error> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.commit()?;
    Ok(())
}

/// Make what a new store needs. Gives the size of chunks, and how often the store was opened.
fn begin(db: &Database, chunk: u32) -> Result<(u32, u64), redb::Error> {
    let mut key = [0; 9];
    key[8] = kind::COUNTER;
    let txn = db.begin_write()?;
    let (chunk, opened) = {
        txn.open_table(CHUNKS)?;
        let mut records = txn.open_table(RECORDS)?;
        let old = records.get(&key[..])?.and_then(|value| {
            let (words, _) = value.value().as_chunks::<8>();
            match words {
                [chunk, opened, next] => Some((
                    u64::from_le_bytes(*chunk) as u32,
                    u64::from_le_bytes(*opened) + 1,
                    u64::from_le_bytes(*next),
                )),
                _ => None,
            }
        });
        let (chunk, opened, next) = old.unwrap_or((chunk, 1, FIRST_NUMBER));
        records.insert(&key[..], &counters(chunk, opened, next)[..])?;
        (chunk, opened)
    };
    txn.commit()?;
    Ok((chunk, opened))
}

fn counters(chunk: u32, opened: u64, next: u64) -> [u8; 24] {
    let mut value = [0; 24];
    value[..8].copy_from_slice(&u64::from(chunk).to_le_bytes());
    value[8..16].copy_from_slice(&opened.to_le_bytes());
    value[16..].copy_from_slice(&next.to_le_bytes());
    value
}

/// Hold one commit to read from.
struct Snapshot {
    commit: u64,
    records: ReadOnlyTable<&'static [u8], &'static [u8]>,
    chunks: ReadOnlyTable<(u64, u32), &'static [u8]>,
}

/// Serve one core from a store.
pub struct Embedded {
    store: &'static Store,
    bell: Arc<EventFd>,
    snapshot: Option<Snapshot>,
    /// The changes of this round.
    writer: Option<WriteTransaction>,
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

fn encoded<R>(key: &Key<'_>, with: impl FnOnce(&[u8]) -> R) -> R {
    with(key.encode(&mut [0; KEY_MAX]))
}

fn split(stored: &[u8]) -> (u64, &[u8]) {
    match stored.split_first_chunk::<VERSION>() {
        Some((version, value)) => (u64::from_le_bytes(*version), value),
        None => (0, stored),
    }
}

fn holds(expect: Expect, stored: Option<&[u8]>) -> bool {
    match (expect, stored.map(split)) {
        (Expect::Absent, found) => found.is_none(),
        (_, None) => false,
        (Expect::Present, _) => true,
        (Expect::Version(wanted), Some((version, _))) => version == wanted,
        (Expect::Bits { at, mask, want }, Some((_, value))) => value
            .get(usize::from(at)..)
            .and_then(|rest| rest.first_chunk::<4>())
            .is_some_and(|word| u32::from_le_bytes(*word) & mask == want),
    }
}

/// Cut a range of bytes into pieces of chunks: index, first byte in the chunk, first byte in the range, length.
fn pieces(offset: u64, len: u32, chunk: u32) -> impl Iterator<Item = (u32, usize, usize, usize)> {
    let chunk = u64::from(chunk);
    let end = offset + u64::from(len);
    let mut at = offset;
    core::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let inside = at % chunk;
        let count = (chunk - inside).min(end - at);
        let piece = (
            (at / chunk) as u32,
            inside as usize,
            (at - offset) as usize,
            count as usize,
        );
        at += count;
        Some(piece)
    })
}

type Records<'t> = Table<'t, &'static [u8], &'static [u8]>;

impl Embedded {
    fn snapshot(&mut self) -> Stored<&Snapshot> {
        let commit = self.store.commits.load(Ordering::Acquire);
        if self
            .snapshot
            .as_ref()
            .is_none_or(|old| old.commit != commit)
        {
            self.snapshot = None;
            let broken = |_| StorageError::PreviousIo;
            let txn = self.store.db.begin_read().map_err(broken)?;
            self.snapshot = Some(Snapshot {
                commit,
                records: txn
                    .open_table(RECORDS)
                    .map_err(|_| StorageError::PreviousIo)?,
                chunks: txn
                    .open_table(CHUNKS)
                    .map_err(|_| StorageError::PreviousIo)?,
            });
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
        let begun = self.store.db.begin_write().and_then(|mut txn| {
            let _ = txn.set_durability(Durability::None);
            Ok(txn)
        });
        match begun {
            Ok(txn) => {
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
            Op::Get { keys, follow } => {
                for (index, key) in (0..).zip(keys) {
                    let Some(stored) = encoded(key, |key| snapshot.records.get(key))? else {
                        continue;
                    };
                    let (version, value) = split(stored.value());
                    let record = Record {
                        index,
                        followed: false,
                        at: 0,
                        version,
                        name: &[],
                        value,
                    };
                    client.record(token, record);
                    if follow && matches!(key, Key::Name(..)) {
                        snapshot.follow(token, index, value, client)?;
                    }
                }
                Ok(Done::Done)
            }
            Op::Scan {
                list,
                after,
                limit,
                follow,
            } => snapshot.scan(token, list, after, limit, follow, client),
            Op::Read { ino, offset, len } => {
                let inode = encoded(&Key::Inode(ino), |key| snapshot.records.get(key))?;
                let Some(inode) = inode else {
                    return Ok(Done::Done);
                };
                for (index, inside, at, count) in pieces(offset, len, chunk) {
                    let stored = snapshot.chunks.get((ino, index))?;
                    let bytes = stored.as_ref().map_or(&[][..], |stored| stored.value());
                    let end = bytes.len().min(inside + count);
                    let bytes = bytes.get(inside..end).unwrap_or(&[]);
                    let buffers = client.buffers(token);
                    let _ = fill(buffers, at, bytes);
                    let mut done = bytes.len();
                    while done < count {
                        let zeros = &ZEROS[..(count - done).min(ZEROS.len())];
                        let _ = fill(buffers, at + done, zeros);
                        done += zeros.len();
                    }
                }
                let (version, value) = split(inode.value());
                let record = Record {
                    index: 0,
                    followed: false,
                    at: 0,
                    version,
                    name: &[],
                    value,
                };
                client.record(token, record);
                Ok(Done::Done)
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
                transact(&mut records, &[check], &[patch], value, fresh).and_then(|done| {
                    let Some(done) = done else { return Ok(None) };
                    let mut chunks = writer
                        .open_table(CHUNKS)
                        .map_err(|_| StorageError::PreviousIo)?;
                    for (index, inside, at, count) in pieces(offset, len, size) {
                        self.chunk.clear();
                        if let Some(old) = chunks.get((ino, index))? {
                            self.chunk.extend_from_slice(old.value());
                        }
                        if self.chunk.len() < inside + count {
                            self.chunk.resize(inside + count, 0);
                        }
                        let place = &mut self.chunk[inside..inside + count];
                        let _ = gather(client.payload(token), at, place);
                        chunks.insert((ino, index), &self.chunk[..])?;
                    }
                    Ok(Some(done))
                })
            }
            Op::Clear { ino, from, to, .. } => {
                let chunks = writer.open_table(CHUNKS);
                let chunks = chunks.map_err(|_| StorageError::PreviousIo);
                chunks.and_then(|mut chunks| {
                    clear(&mut chunks, ino, from, to, size, &mut self.chunk).map(Some)
                })
            }
            Op::Purge { ino, expect } => purge(&mut records, ino, expect),
            Op::Reserve { count } => reserve(&mut records, count).map(Some),
            _ => Ok(Some(Done::Done)),
        };
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
        let Some(writer) = self.writer.take() else {
            return;
        };
        // What failed in the middle may have left a part of itself, so the whole round is dropped.
        let result = match self.failed.take() {
            Some(failure) => writer
                .abort()
                .map_or(Err(Failure::Broken), |()| Err(failure)),
            None => writer.commit().map_err(|error| match error {
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
        if let Some(file) = &self.store.file {
            if let Ok(stat) = crate::sys::stat::statfs(file.as_raw_fd()) {
                let size = stat.f_frsize as u64;
                (total, free) = (stat.f_blocks * size, stat.f_bavail * size);
            }
        }
        Done::Usage {
            total,
            free,
            inodes: 0,
        }
    }
}

impl Snapshot {
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
            let (version, value) = split(stored.value());
            let record = Record {
                index,
                followed: true,
                at: 0,
                version,
                name: &[],
                value,
            };
            client.record(token, record);
        }
        Ok(())
    }

    fn scan(
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
        let mut given = 0;
        for found in range.skip(skip) {
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
                value,
            };
            client.record(token, record);
            if follow {
                self.follow(token, given, value, client)?;
            }
            given += 1;
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

    fn seek(&self, ino: u64, offset: u64, size: u64, hole: bool, chunk: u32) -> Stored<Done> {
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

/// Check, then write. `None` when a check did not hold.
fn transact(
    records: &mut Records<'_>,
    checks: &[Check<'_>],
    writes: &[Write<'_>],
    scratch: &mut Vec<u8>,
    fresh: impl Fn() -> u64,
) -> Stored<Option<Done>> {
    for check in checks {
        let stored = encoded(&check.key, |key| records.get(key))?;
        if !holds(check.expect, stored.as_ref().map(|stored| stored.value())) {
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

fn clear(
    chunks: &mut Table<'_, (u64, u32), &'static [u8]>,
    ino: u64,
    from: u64,
    to: u64,
    size: u32,
    scratch: &mut Vec<u8>,
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

fn purge(records: &mut Records<'_>, ino: u64, expect: Expect) -> Stored<Option<Done>> {
    let stored = encoded(&Key::Inode(ino), |key| records.get(key))?.map(|found| {
        let mut copy = heapless::Vec::<u8, 256>::new();
        let value = found.value();
        let _ = copy.extend_from_slice(&value[..value.len().min(256)]);
        copy
    });
    if !holds(expect, stored.as_deref()) {
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

fn reserve(records: &mut Records<'_>, count: u32) -> Stored<Done> {
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
}

const _: () = assert!(KEY_MAX == 9 + NAME_MAX);
