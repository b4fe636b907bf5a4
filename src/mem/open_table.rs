//! The open-file table: what the host's file handles stand for.
//!
//! A file that the host opened on one queue it may read on a second and release on a third at the same time, if only
//! out of malice. So a request pins the file while it works on it, and a file that is closed meanwhile is handed back
//! by the last pin: a descriptor is never closed, and its number never reused, under a request. Pinning takes no lock:
//! all that decides stands in one word.
//!
//! ```text
//! state   63........24  23      22......0        fh   63........24  23.....0
//!         generation    closed  pins                  generation    index
//! ```

use core::mem::size_of;
use core::ops::Deref;

use super::free_list::FreeList;
use super::refused::is_newer;
use super::spin_lock::SpinLock;
use super::sync::{self, AtomicU32, AtomicU64, Ordering, Place};
use super::{Arena, OutOfMemory, Refused};

const LOW_BITS: u32 = 24;
const CLOSED: u64 = 1 << 23;
const PINS: u64 = CLOSED - 1;

#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
struct Entry<T> {
    /// Zero when never used; closed and without pins when free.
    state: AtomicU64,
    /// Link of the pool, changed under its lock.
    next: AtomicU32,
    file: Place<T>,
}

// SAFETY: a file is written and taken by one thread, while no other can reach it, and shared between those that pin it.
unsafe impl<T: Send + Sync> Sync for Entry<T> {}

#[cfg(loom)]
impl<T> Default for Entry<T> {
    fn default() -> Self {
        Self {
            state: AtomicU64::new(0),
            next: AtomicU32::new(0),
            file: Place::default(),
        }
    }
}

struct Pool {
    free: FreeList,
    epoch: u32,
}

/// Hold the open files and directories of a device. Shared by its cores.
pub struct OpenFileTable<T: 'static> {
    entries: &'static [Entry<T>],
    /// Guards adding, and giving entries back. Pinning and closing go past it.
    pool: SpinLock<Pool>,
}

/// Tell what became of a file that was closed.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closed<T> {
    /// Nobody works on it: it is the caller's to dispose of.
    Now(T),
    /// Requests still work on it: the last [`Pinned::unpin`] hands it back.
    Later,
    /// The host has no such file open (`EBADF`).
    Unknown,
}

impl<T: Send + Sync> OpenFileTable<T> {
    /// Largest capacity.
    pub const MAX: u32 = (1 << LOW_BITS) - 1;

    /// Bytes of memory that an open file takes.
    pub const FILE_SIZE: usize = size_of::<Entry<T>>();

    /// Reserve a table for `capacity` open files, at most [`Self::MAX`]. The first session is number zero.
    ///
    /// Memory is touched as files are opened.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena has less than [`Self::footprint`].
    pub fn new(arena: &Arena, capacity: u32) -> Result<&'static Self, OutOfMemory> {
        let capacity = capacity.min(Self::MAX);
        let table = Self {
            entries: sync::table(arena, capacity as usize + 1)?,
            pool: SpinLock::new(Pool {
                free: FreeList::new(1, capacity + 1),
                epoch: 0,
            }),
        };
        Ok(arena.place(table)?)
    }

    /// Give the bytes of arena that a table for `capacity` files needs.
    pub const fn footprint(capacity: u32) -> usize {
        (capacity as usize + 2) * Self::FILE_SIZE + size_of::<Self>() + 2 * 64
    }

    /// Give the number of files that may be open at once.
    pub fn capacity(&self) -> u32 {
        self.entries.len() as u32 - 1
    }

    /// Give the number of open files, those that are closed but still pinned included.
    pub fn len(&self) -> u32 {
        self.pool.lock().free.used()
    }

    /// Tell whether no file is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Add a file that session `epoch` opened. Returns its handle, which is never zero.
    ///
    /// # Errors
    /// [`Refused::Full`] (`ENFILE`) or, when the table is not in session `epoch`, [`Refused::StaleEpoch`]; the file
    /// comes back to be disposed of.
    pub fn insert(&self, file: T, epoch: u32) -> Result<u64, (Refused, T)> {
        let mut pool = self.pool.lock();
        if pool.epoch != epoch {
            return Err((Refused::StaleEpoch, file));
        }
        let link = |index: u32| self.entries[index as usize].next.load(Ordering::Relaxed);
        let Some(index) = pool.free.take(link) else {
            return Err((Refused::Full, file));
        };
        let entry = &self.entries[index as usize];
        // SAFETY: the pool gave the entry to us alone, and it cannot be pinned, being closed or of generation zero.
        unsafe { entry.file.write(file) };
        let generation = match (entry.state.load(Ordering::Relaxed) >> LOW_BITS) + 1 {
            wrapped if wrapped >> (u64::BITS - LOW_BITS) != 0 => 1,
            generation => generation,
        };
        // Release: who pins the file sees it written. Under the lock: a reset that begins now finds the file.
        entry.state.store(generation << LOW_BITS, Ordering::Release);
        Ok(generation << LOW_BITS | u64::from(index))
    }

    /// Keep an open file from being disposed of while a request works on it; `None` (`EBADF`) when it is not open.
    #[inline]
    pub fn pin(&'static self, fh: u64) -> Option<Pinned<T>> {
        let (index, entry) = self.entry(fh)?;
        let mut state = entry.state.load(Ordering::Relaxed);
        loop {
            if !is_open(state, fh) || state & PINS == PINS {
                return None;
            }
            // Acquire: see the file as `insert` wrote it.
            match entry.state.compare_exchange_weak(
                state,
                state + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(Pinned { table: self, index }),
                Err(now) => state = now,
            }
        }
    }

    /// Keep the first open file behind place `after`, and give its place; zero begins. For going through all of them
    /// while others open and close files.
    pub fn pin_after(&'static self, after: u32) -> Option<(u32, Pinned<T>)> {
        let end = self.pool.lock().free.high_water();
        (after + 1..end).find_map(|index| {
            let state = self.entries[index as usize].state.load(Ordering::Relaxed);
            let generation = state >> LOW_BITS << LOW_BITS;
            self.pin(generation | u64::from(index))
                .map(|pinned| (index, pinned))
        })
    }

    /// Close a file: it can be pinned no more.
    pub fn close(&self, fh: u64) -> Closed<T> {
        let Some((index, entry)) = self.entry(fh) else {
            return Closed::Unknown;
        };
        let mut state = entry.state.load(Ordering::Relaxed);
        while is_open(state, fh) {
            // Acquire: see what those did who unpinned before.
            match entry.state.compare_exchange_weak(
                state,
                state | CLOSED,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) if state & PINS == 0 => return Closed::Now(self.retire(index)),
                Ok(_) => return Closed::Later,
                Err(now) => state = now,
            }
        }
        Closed::Unknown
    }

    /// Begin session `epoch`: close every file. `dispose` gets those that nobody works on, with no lock held.
    ///
    /// From the moment that this is called, [`Self::insert`] refuses files of older sessions; those of the new one
    /// are to wait until this returns. Of several resets, also at the same time, the newest counts.
    pub fn reset(&self, epoch: u32, mut dispose: impl FnMut(T)) {
        let end = {
            let mut pool = self.pool.lock();
            if !is_newer(epoch, pool.epoch) {
                return;
            }
            pool.epoch = epoch;
            pool.free.high_water()
        };
        for index in 1..end {
            let state = &self.entries[index as usize].state;
            if state.load(Ordering::Relaxed) & CLOSED != 0 {
                continue;
            }
            let closed = {
                // Under the lock, so that a newer reset, and files opened after that, are not run over.
                let pool = self.pool.lock();
                if pool.epoch != epoch {
                    return;
                }
                state.fetch_or(CLOSED, Ordering::Acquire)
            };
            if closed & (CLOSED | PINS) == 0 {
                dispose(self.retire(index));
            }
        }
    }

    #[inline]
    fn entry(&self, fh: u64) -> Option<(u32, &'static Entry<T>)> {
        let index = fh as u32 & ((1 << LOW_BITS) - 1);
        Some((index, self.entries.get(index as usize)?))
    }

    /// Take the file out of an entry and give that back.
    fn retire(&self, index: u32) -> T {
        let entry = &self.entries[index as usize];
        // SAFETY: called once for each file: by who closed it without pins, or dropped the last pin of a closed one.
        // From then on it cannot be pinned, and the pool does not have the entry yet.
        let file = unsafe { entry.file.take() };
        let mut pool = self.pool.lock();
        entry.next.store(pool.free.give(index), Ordering::Relaxed);
        file
    }
}

#[inline]
const fn is_open(state: u64, fh: u64) -> bool {
    let generation = fh >> LOW_BITS;
    generation != 0 && state >> LOW_BITS == generation && state & CLOSED == 0
}

/// Keep an open file while a request works on it. End it with [`Self::unpin`]: one that is dropped instead keeps its
/// file for ever.
#[must_use = "the file stays pinned until `unpin`"]
pub struct Pinned<T: Send + Sync + 'static> {
    table: &'static OpenFileTable<T>,
    index: u32,
}

impl<T: Send + Sync> Pinned<T> {
    /// Keep the file once more, for another request.
    pub fn again(&self) -> Self {
        let state = &self.table.entries[self.index as usize].state;
        // Relaxed: this pin saw the file already, and keeps it meanwhile.
        state.fetch_add(1, Ordering::Relaxed);
        Self {
            table: self.table,
            index: self.index,
        }
    }

    /// Let go of the file. Returns it, to be disposed of, when it was closed and this was the last pin.
    #[must_use = "a closed file is handed back to be disposed of"]
    #[inline]
    pub fn unpin(self) -> Option<T> {
        let state = &self.table.entries[self.index as usize].state;
        // Release: what we did with the file comes before its disposal. Acquire: so does what others did.
        let before = state.fetch_sub(1, Ordering::AcqRel);
        (before & (CLOSED | PINS) == CLOSED | 1).then(|| self.table.retire(self.index))
    }
}

impl<T: Send + Sync> Deref for Pinned<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: while it is pinned the file is neither taken nor written.
        unsafe { self.table.entries[self.index as usize].file.get() }
    }
}

#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, feature = "std", not(loom)))]
mod tests;
