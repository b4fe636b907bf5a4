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
//! While the disk has less free than the cache's size and 64 MiB, what adds names or content is refused (`ENOSPC`),
//! beyond what was removed since the start; the rest goes on. The file never shrinks.
//!
//! A core never waits: while another core, or the worker, has the write transaction, operations are refused with
//! [`Busy`] and come again. The store allocates; nothing here does beside it, once its buffers have grown.

extern crate std;

mod changes;
mod core;
mod snapshot;

use ::core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use ::core::time::Duration;
use std::boxed::Box;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::string::{String, ToString};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::vec::Vec;

use redb::backends::InMemoryBackend;
use redb::{Database, Durability, ReadableTable, StorageError, TableDefinition};

pub use self::core::Embedded;
use super::engine::{Failure, Op, kind};
use crate::sys::eventfd::EventFd;
use crate::wire::errno::Errno;

const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
const CHUNKS: TableDefinition<(u64, u32), &[u8]> = TableDefinition::new("chunks");

/// First number that is given out.
const FIRST_NUMBER: u64 = 1024;
/// Longest time that a change waits to be made durable.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of the disk that stay free, beside room for all cached pages.
const RESERVE: u64 = 64 << 20;
/// Most chunks that one step of a Clear or Seek looks at.
const STEP: u64 = 1024;

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
    /// Bytes of the disk that are left alone: after a write that the disk had no room for, the store could not go on
    /// before it is opened again.
    reserve: u64,
    /// Bytes of content that were removed and not yet spent. The file does not shrink, so on a full disk this is what
    /// there is to write to; it begins anew with each start.
    freed: AtomicU64,
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
            reserve: config.cache as u64 + RESERVE,
            freed: AtomicU64::new(0),
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
        // In memory, too: pages that changes left are used again only after a durable commit.
        if !self.started.swap(true, Ordering::SeqCst) {
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
        Ok(Embedded::new(self, bell))
    }

    /// Make durable what was committed, on this thread, with nothing else under way.
    ///
    /// # Errors
    /// As fdatasync(2), in words.
    pub fn sync(&self) -> Result<(), String> {
        commit(&self.db).map_err(|error| error.to_string())
    }

    /// Give the size of the disk and what is free of it, in bytes.
    fn disk(&self) -> Option<(u64, u64)> {
        let stat = crate::sys::stat::statfs(self.file.as_ref()?.as_raw_fd()).ok()?;
        let size = stat.f_frsize as u64;
        Some((stat.f_blocks * size, stat.f_bavail * size))
    }

    /// Tell whether nothing is to be added any more.
    fn is_full(&self) -> bool {
        self.disk().is_some_and(|(_, free)| free < self.reserve)
    }

    /// Take what an operation needs, generously, from what was freed inside of the store. False when that is too little.
    fn spend(&self, op: &Op<'_>) -> bool {
        let cost = match op {
            Op::Write { len, .. } | Op::Copy { len, .. } => {
                2 * (u64::from(*len) + u64::from(self.chunk))
            }
            _ => u64::from(self.chunk),
        };
        let left = |freed: u64| freed.checked_sub(cost);
        self.freed
            .try_update(Ordering::Relaxed, Ordering::Relaxed, left)
            .is_ok()
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
