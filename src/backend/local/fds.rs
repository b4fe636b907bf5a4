//! The cache of node descriptors: which nodes have an `O_PATH` descriptor open, the least recently used ones closed
//! first. A million nodes share a few thousand descriptors.
//!
//! A descriptor is pinned while a request works with it ([`OpenFileTable`] does that part); one that is dropped from the
//! cache meanwhile is handed back by its last pin. Shards keep the cores apart; a lock is held for a few instructions.

use std::boxed::Box;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

use crate::mem::{Arena, Closed, OpenFileTable, OutOfMemory, Pinned, hash_words};
use crate::sys::fd::Fd;

/// Descriptors that may be pinned by requests beyond those that the cache holds.
const SPARE: u32 = 4096;
/// A cache below this capacity has one shard, so that its bound is exact for tests and small devices.
const SMALL: u32 = 1024;
const SHARDS: u32 = 16;
const NONE: u32 = u32::MAX;

/// Hold the descriptors of a device's nodes.
pub struct Descriptors {
    table: &'static OpenFileTable<Fd>,
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Clone, Copy)]
struct Entry {
    node: u64,
    /// Handle in the table.
    handle: u64,
    /// Neighbours by time of use; `newer` links free entries too.
    newer: u32,
    older: u32,
    /// Next in the bucket.
    chain: u32,
}

struct Shard {
    entries: Box<[Entry]>,
    buckets: Box<[u32]>,
    newest: u32,
    oldest: u32,
    free: u32,
}

impl Descriptors {
    /// Make a cache for `capacity` descriptors.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena has less than [`Self::footprint`].
    pub fn new(arena: &Arena, capacity: u32) -> Result<Self, OutOfMemory> {
        let shards = if capacity < SMALL { 1 } else { SHARDS };
        let each = (capacity / shards).max(1);
        Ok(Self {
            table: OpenFileTable::new(arena, capacity + SPARE)?,
            shards: (0..shards).map(|_| Mutex::new(Shard::new(each))).collect(),
        })
    }

    /// Give the bytes of arena that a cache needs.
    pub const fn footprint(capacity: u32) -> usize {
        OpenFileTable::<Fd>::footprint(capacity + SPARE)
    }

    fn shard(&self, node: u64) -> MutexGuard<'_, Shard> {
        let at = hash_words(1, &[node]) as usize % self.shards.len();
        lock(&self.shards[at])
    }

    /// Pin a node's descriptor, if there is one.
    #[inline]
    pub fn get(&self, node: u64) -> Option<Pinned<Fd>> {
        let mut shard = self.shard(node);
        let at = shard.find(node)?;
        shard.touch(at);
        self.table.pin(shard.entries[at as usize].handle)
    }

    /// Keep a descriptor of a node. `dispose` gets what has no place any more: an older one, or this one when the
    /// node has one already.
    pub fn put(&self, node: u64, fd: Fd, dispose: &mut dyn FnMut(Fd)) {
        let mut shard = self.shard(node);
        if shard.find(node).is_some() {
            return dispose(fd);
        }
        let handle = match self.table.insert(fd, 0) {
            Ok(handle) => handle,
            Err((_, fd)) => return dispose(fd),
        };
        if let Some(evicted) = shard.add(node, handle) {
            self.close(evicted, dispose);
        }
    }

    /// Drop a node's descriptor, if there is one.
    pub fn remove(&self, node: u64, dispose: &mut dyn FnMut(Fd)) {
        let mut shard = self.shard(node);
        if let Some(at) = shard.find(node) {
            let handle = shard.remove(at);
            self.close(handle, dispose);
        }
    }

    /// Drop about `count` of the least recently used descriptors: the process has run out of them.
    pub fn shrink(&self, count: usize, dispose: &mut dyn FnMut(Fd)) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            for _ in 0..count.div_ceil(self.shards.len()) {
                let oldest = shard.oldest;
                if oldest == NONE {
                    break;
                }
                let handle = shard.remove(oldest);
                self.close(handle, dispose);
            }
        }
    }

    /// Drop all.
    pub fn clear(&self, dispose: &mut dyn FnMut(Fd)) {
        self.shrink(usize::MAX / 2, dispose);
    }

    /// Give the number of descriptors held, those that only a pin keeps included.
    pub fn len(&self) -> u32 {
        self.table.len()
    }

    fn close(&self, handle: u64, dispose: &mut dyn FnMut(Fd)) {
        match self.table.close(handle) {
            Closed::Now(fd) => dispose(fd),
            // The last pin disposes of it.
            Closed::Later | Closed::Unknown => {}
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    fn new(capacity: u32) -> Self {
        let entries: Vec<Entry> = (0..capacity)
            .map(|at| Entry {
                node: 0,
                handle: 0,
                newer: if at + 1 < capacity { at + 1 } else { NONE },
                older: NONE,
                chain: NONE,
            })
            .collect();
        Self {
            entries: entries.into(),
            buckets: std::vec![NONE; (capacity as usize).next_power_of_two()].into(),
            newest: NONE,
            oldest: NONE,
            free: 0,
        }
    }

    fn bucket(&self, node: u64) -> usize {
        hash_words(2, &[node]) as usize & (self.buckets.len() - 1)
    }

    #[inline]
    fn find(&self, node: u64) -> Option<u32> {
        let mut at = self.buckets[self.bucket(node)];
        while at != NONE {
            let entry = &self.entries[at as usize];
            if entry.node == node {
                return Some(at);
            }
            at = entry.chain;
        }
        None
    }

    /// Take an entry out of the order of use.
    fn detach(&mut self, at: u32) {
        let Entry { newer, older, .. } = self.entries[at as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
    }

    /// Put an entry first in the order of use.
    fn attach(&mut self, at: u32) {
        let newest = self.newest;
        self.entries[at as usize].newer = NONE;
        self.entries[at as usize].older = newest;
        match newest {
            NONE => self.oldest = at,
            newest => self.entries[newest as usize].newer = at,
        }
        self.newest = at;
    }

    #[inline]
    fn touch(&mut self, at: u32) {
        if self.newest != at {
            self.detach(at);
            self.attach(at);
        }
    }

    /// Add a node; give the handle that made room for it.
    fn add(&mut self, node: u64, handle: u64) -> Option<u64> {
        let evicted = (self.free == NONE).then(|| self.remove(self.oldest));
        let (at, bucket) = (self.free, self.bucket(node));
        let entry = &mut self.entries[at as usize];
        self.free = entry.newer;
        entry.node = node;
        entry.handle = handle;
        entry.chain = core::mem::replace(&mut self.buckets[bucket], at);
        self.attach(at);
        evicted
    }

    fn remove(&mut self, at: u32) -> u64 {
        self.detach(at);
        let Entry {
            node,
            handle,
            chain,
            ..
        } = self.entries[at as usize];
        let bucket = self.bucket(node);
        if self.buckets[bucket] == at {
            self.buckets[bucket] = chain;
        } else {
            let mut link = self.buckets[bucket];
            while link != NONE {
                let next = self.entries[link as usize].chain;
                if next == at {
                    self.entries[link as usize].chain = chain;
                    break;
                }
                link = next;
            }
        }
        self.entries[at as usize].newer = core::mem::replace(&mut self.free, at);
        handle
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{file, map};

    fn descriptors(capacity: u32) -> Descriptors {
        let arena = map::reserve(Descriptors::footprint(capacity)).unwrap();
        Descriptors::new(&arena, capacity).unwrap()
    }

    fn open() -> Fd {
        file::openat(libc::AT_FDCWD, c"/", libc::O_PATH).unwrap()
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache = descriptors(3);
        let mut closed = 0;
        for node in 1..=3 {
            cache.put(node, open(), &mut |_| closed += 1);
        }
        assert!(cache.get(1).unwrap().unpin().is_none());
        cache.put(4, open(), &mut |_| closed += 1);
        assert_eq!(closed, 1);
        assert!(cache.get(2).is_none());
        for node in [1, 3, 4] {
            assert!(cache.get(node).unwrap().unpin().is_none());
        }
        cache.put(4, open(), &mut |_| closed += 1);
        assert_eq!((closed, cache.len()), (2, 3));
    }

    #[test]
    fn a_pinned_one_is_closed_by_its_last_user() {
        let cache = descriptors(1);
        cache.put(1, open(), &mut |_| unreachable!());
        let pinned = cache.get(1).unwrap();
        cache.put(2, open(), &mut |_| unreachable!("still in use"));
        assert!(cache.get(1).is_none());
        assert!(pinned.unpin().is_some());
    }

    #[test]
    fn any_order_of_use_keeps_the_lists_whole() {
        let cache = descriptors(16);
        let mut state = 1u64;
        for _ in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let node = state >> 59;
            match (state >> 33) % 4 {
                0 | 1 => cache.put(node, open(), &mut drop),
                2 => cache.remove(node, &mut drop),
                _ => {
                    if let Some(pinned) = cache.get(node) {
                        drop(pinned.unpin());
                    }
                }
            }
            assert!(cache.len() <= 16);
        }
        cache.clear(&mut drop);
        assert_eq!(cache.len(), 0);
        for node in 0..16 {
            cache.put(node, open(), &mut |_| unreachable!("all were free"));
        }
    }
}
