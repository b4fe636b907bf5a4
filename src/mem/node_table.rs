//! The node table: which nodeid the host knows a backend's file by, and how often it looked the file up.
//!
//! ```text
//!  key ──hash──> bucket ──> entry ──> entry      a bucket's chain is linked through the entries
//!                  │          │
//!                shard      nodeid = tag | generation | shard | index of the entry
//! ```
//!
//! A device's cores share one table. The buckets are divided among shards, each with a short spin lock that guards its
//! buckets and the entries in their chains; a nodeid names its shard, so an operation takes one lock. Entries come from
//! one pool for all shards, whose own lock is taken inside a shard's lock, only to add or remove a node; so the capacity
//! is exact however the keys spread.
//!
//! The highest four bits of a nodeid are the table's tag, zero for most: where a device has several tables, they tell whose
//! node it is. An entry's generation grows with each use, so a nodeid that the host kept too long, or made up, finds nothing.

use core::mem::size_of;

use super::free_list::{FreeList, NONE};
use super::refused::is_newer;
use super::spin_lock::{Guard, SpinLock};
use super::sync::{self, AtomicU32, AtomicU64, Ordering, Place};
use super::{Arena, NodeKey, OutOfMemory, Refused};
use crate::wire::fuse::ROOT_ID;

/// Where the root is kept, so that its nodeid comes out as [`ROOT_ID`]: generation zero, shard zero, this index.
const ROOT: u32 = ROOT_ID as u32;

/// A table below this capacity has one shard: it serves few cores or few files.
const SMALL: u32 = 4096;

/// log2 of the number of shards of a larger table. Several times the cores of any DPU.
const SHARD_BITS: u32 = 6;

#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
struct Entry<K, V> {
    /// The nodeid. In a free entry its part for the index is zero: no nodeid that names the entry equals that.
    ///
    /// Changed only under the lock of the shard it names, so who holds that lock and finds the nodeid here may reach
    /// the rest of the entry.
    id: AtomicU64,
    /// Link of the bucket's chain or of the pool; changed under the lock of the one or the other.
    next: AtomicU32,
    /// Open handles. Changed under the shard's lock; an atomic because it fills the gap after `next`.
    opens: AtomicU32,
    body: Place<Body<K, V>>,
}

// SAFETY: the body is reached under a shard's lock, or by the one thread that took the entry out of all chains; so keys
// and values are sent between threads and never shared.
unsafe impl<K: Send, V: Send> Sync for Entry<K, V> {}

struct Body<K, V> {
    lookups: u64,
    key: K,
    value: V,
}

#[cfg(loom)]
impl<K, V> Default for Entry<K, V> {
    fn default() -> Self {
        Self {
            id: AtomicU64::new(0),
            next: AtomicU32::new(0),
            opens: AtomicU32::new(0),
            body: Place::default(),
        }
    }
}

#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[cfg_attr(loom, derive(Default))]
#[repr(align(64))]
struct Shard {
    /// The session whose nodes the shard holds.
    epoch: SpinLock<u32>,
}

type Locked = Guard<'static, u32>;

/// Map nodeids to a backend's keys and values, and back. Shared by the cores of a device.
///
/// `K` names a file in the backend's terms. `V` is what the backend keeps with it: numbers, a descriptor, atomics.
/// [`Self::get`] copies both out; another core may forget the node right after that, so a `V` that owns something (a
/// descriptor) is to be used between [`Self::open`] and [`Self::close`], which keep the node.
pub struct NodeTable<K: 'static, V: 'static> {
    entries: &'static [Entry<K, V>],
    buckets: &'static [AtomicU32],
    shards: &'static [Shard],
    pool: SpinLock<FreeList>,
    root_key: K,
    seed: u64,
    /// In its place.
    tag: u64,
    index_bits: u32,
    shard_bits: u32,
    bucket_bits: u32,
}

/// Bits of a nodeid below the tag.
const TAG_AT: u32 = 60;

const fn bucket_bits(capacity: u32) -> u32 {
    let bits = u32::BITS - capacity.leading_zeros();
    if bits > 31 { 31 } else { bits }
}

const fn shard_bits(capacity: u32) -> u32 {
    if capacity < SMALL { 0 } else { SHARD_BITS }
}

impl<K: NodeKey + Send + Sync, V: Send> NodeTable<K, V> {
    /// Bytes of memory that a node takes, its share of the buckets aside (4 to 8 bytes in a full table).
    pub const NODE_SIZE: usize = size_of::<Entry<K, V>>();

    /// Reserve a table for `capacity` nodes, the root among them. The first session is number zero.
    ///
    /// `seed` is to be random and secret, see [`NodeKey`]. Memory is touched as nodes are added.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena has less than [`Self::footprint`].
    pub fn new(
        arena: &Arena,
        capacity: u32,
        seed: u64,
        root_key: K,
        root_value: V,
    ) -> Result<&'static Self, OutOfMemory> {
        Self::tagged(arena, capacity, 0, seed, root_key, root_value)
    }

    /// Reserve a table as [`Self::new`] does whose nodeids have a tag, 0 to 15 ([`Self::tag_of`]). With a tag the root has
    /// it, too, and not the number that the host gives the root.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn tagged(
        arena: &Arena,
        capacity: u32,
        tag: u8,
        seed: u64,
        root_key: K,
        root_value: V,
    ) -> Result<&'static Self, OutOfMemory> {
        let bits = shard_bits(capacity);
        Self::with_shards(arena, capacity, (tag, bits), seed, root_key, root_value)
    }

    /// Give the tag of the table whose nodeid this is.
    #[inline]
    pub const fn tag_of(nodeid: u64) -> u8 {
        (nodeid >> TAG_AT) as u8
    }

    fn with_shards(
        arena: &Arena,
        capacity: u32,
        (tag, shard_bits): (u8, u32),
        seed: u64,
        root_key: K,
        root_value: V,
    ) -> Result<&'static Self, OutOfMemory> {
        let capacity = capacity.clamp(1, u32::MAX - 1);
        let tag = u64::from(tag) << TAG_AT;
        let entries: &'static [Entry<K, V>] = sync::table(arena, capacity as usize + 1)?;
        let root = &entries[ROOT as usize];
        root.id.store(tag | ROOT_ID, Ordering::Relaxed);
        // SAFETY: the table is not shared yet.
        unsafe {
            root.body.write(Body {
                lookups: 1,
                key: root_key,
                value: root_value,
            });
        }
        let table = Self {
            entries,
            buckets: sync::table(arena, 1 << bucket_bits(capacity))?,
            shards: sync::table(arena, 1 << shard_bits)?,
            pool: SpinLock::new(FreeList::new(ROOT + 1, capacity + 1)),
            root_key,
            seed,
            tag,
            index_bits: u32::BITS - capacity.leading_zeros(),
            shard_bits,
            bucket_bits: bucket_bits(capacity),
        };
        Ok(arena.place(table)?)
    }

    /// Give the bytes of arena that a table for `capacity` nodes needs.
    pub const fn footprint(capacity: u32) -> usize {
        let shards = size_of::<Shard>() << shard_bits(capacity);
        (capacity as usize + 2) * Self::NODE_SIZE
            + (4 << bucket_bits(capacity))
            + shards
            + size_of::<Self>()
            + 4 * 64
    }

    /// Give the root's nodeid.
    #[inline]
    pub const fn root(&self) -> u64 {
        self.tag | ROOT_ID
    }

    /// Give the number of nodes that the table may hold, the root among them.
    pub fn capacity(&self) -> u32 {
        self.entries.len() as u32 - 1
    }

    /// Give the number of nodes, the root among them: 1 when the host holds no other.
    #[expect(clippy::len_without_is_empty, reason = "there always is a root")]
    pub fn len(&self) -> u32 {
        self.pool.lock().used() + 1
    }

    /// Count one more lookup of the file `key` by session `epoch`, and give its nodeid.
    ///
    /// A file without a node gets one, with the value that `make_value` gives. That is called at most once, under a
    /// lock: it must be short and not come back to this table. What was prepared for it (a descriptor) is the
    /// caller's to dispose of when it was not called.
    ///
    /// # Errors
    /// [`Refused::Full`] when the file has no node and there is no room for one; [`Refused::StaleEpoch`] when the
    /// table is not in session `epoch`.
    pub fn look_up(
        &self,
        key: K,
        make_value: impl FnOnce() -> V,
        epoch: u32,
    ) -> Result<u64, Refused> {
        if key == self.root_key {
            // Nothing to count: the root is never forgotten.
            let current = *self.shards[0].epoch.lock();
            return if current == epoch {
                Ok(self.root())
            } else {
                Err(Refused::StaleEpoch)
            };
        }
        let bucket = self.bucket(&key);
        let shard = self.shard_of(bucket);
        let mut locked = self.lock(shard);
        if *locked != epoch {
            return Err(Refused::StaleEpoch);
        }
        let head = &self.buckets[bucket];
        let first = head.load(Ordering::Relaxed);
        let mut at = first;
        while at != NONE {
            let entry = &self.entries[at as usize];
            let body = self.body(&mut locked, at);
            if body.key == key {
                body.lookups = body.lookups.saturating_add(1);
                return Ok(entry.id.load(Ordering::Relaxed));
            }
            at = entry.next.load(Ordering::Relaxed);
        }
        let index = self
            .pool
            .lock()
            .take(|index| self.entries[index as usize].next.load(Ordering::Relaxed))
            .ok_or(Refused::Full)?;
        let entry = &self.entries[index as usize];
        // SAFETY: the pool gave the entry to us alone: it is in no chain, and no nodeid that names it equals its `id`.
        unsafe {
            entry.body.write(Body {
                lookups: 1,
                key,
                value: make_value(),
            });
        }
        let id = self.next_id(entry.id.load(Ordering::Relaxed), shard, index);
        entry.opens.store(0, Ordering::Relaxed);
        entry.next.store(first, Ordering::Relaxed);
        entry.id.store(id, Ordering::Relaxed);
        head.store(index, Ordering::Relaxed);
        Ok(id)
    }

    /// Drop `count` lookups of a node, or all when it has fewer.
    ///
    /// A node without lookups and open handles goes: its value is handed back to be disposed of. The root stays, and
    /// an unknown nodeid does nothing.
    pub fn forget(&self, nodeid: u64, count: u64) -> Option<V> {
        if nodeid == self.root() {
            return None;
        }
        let (index, mut locked) = self.find(nodeid)?;
        let body = self.body(&mut locked, index);
        body.lookups = body.lookups.saturating_sub(count);
        self.remove_if_unused(locked, index)
    }

    /// Copy out the key and the value of a node, or `None` (`ESTALE`) when the host has no such node.
    #[inline]
    pub fn get(&self, nodeid: u64) -> Option<(K, V)>
    where
        V: Copy,
    {
        self.update(nodeid, |key, value| (*key, *value))
    }

    /// Look at a node and change its value, or `None` when the host has no such node.
    ///
    /// `change` is called under a lock: it must be short and not come back to this table.
    #[inline]
    pub fn update<R>(&self, nodeid: u64, change: impl FnOnce(&K, &mut V) -> R) -> Option<R> {
        let (index, mut locked) = self.find(nodeid)?;
        let body = self.body(&mut locked, index);
        Some(change(&body.key, &mut body.value))
    }

    /// Count one more open handle, or other use, that keeps a node although the host forgets it.
    ///
    /// False when the host has no such node; then there is nothing to close.
    #[must_use]
    pub fn open(&self, nodeid: u64) -> bool {
        let Some((index, _locked)) = self.find(nodeid) else {
            return false;
        };
        let opens = &self.entries[index as usize].opens;
        let Some(count) = opens.load(Ordering::Relaxed).checked_add(1) else {
            return false;
        };
        opens.store(count, Ordering::Relaxed);
        true
    }

    /// Take back one [`Self::open`]. A node that is not in use any more goes and its value is handed back.
    pub fn close(&self, nodeid: u64) -> Option<V> {
        let (index, locked) = self.find(nodeid)?;
        let opens = &self.entries[index as usize].opens;
        let count = opens.load(Ordering::Relaxed).saturating_sub(1);
        opens.store(count, Ordering::Relaxed);
        self.remove_if_unused(locked, index)
    }

    /// Begin session `epoch`: drop every lookup count, and every node but the root.
    ///
    /// `dispose` gets the values, with no lock held. A node that is still open (a request of the old session is
    /// working on it) stays until its last [`Self::close`], which then hands its value back. From the moment that
    /// this is called, a [`Self::look_up`] of an older session adds nothing; one of the new session is to wait until
    /// this returns. Of several resets, also at the same time, the newest counts.
    pub fn reset(&self, epoch: u32, mut dispose: impl FnMut(V)) {
        for shard in 0..self.shards.len() {
            {
                let mut current = self.lock(shard);
                if !is_newer(epoch, *current) {
                    return;
                }
                *current = epoch;
            }
            let bits = self.bucket_bits - self.shard_bits;
            for bucket in shard << bits..(shard + 1) << bits {
                while let Some(index) = self.detach_unopened(bucket, epoch) {
                    dispose(self.retire(index));
                }
            }
        }
    }

    /// Drop the lookups of a bucket's nodes and unlink the first one that is not open.
    fn detach_unopened(&self, bucket: usize, epoch: u32) -> Option<u32> {
        // An entry of an older session was linked before its shard's epoch changed, so it shows without the lock.
        if self.buckets[bucket].load(Ordering::Relaxed) == NONE {
            return None;
        }
        let mut locked = self.lock(self.shard_of(bucket));
        if *locked != epoch {
            return None;
        }
        let mut at = self.buckets[bucket].load(Ordering::Relaxed);
        while at != NONE {
            self.body(&mut locked, at).lookups = 0;
            let entry = &self.entries[at as usize];
            if entry.opens.load(Ordering::Relaxed) == 0 {
                self.unlink(&mut locked, bucket, at);
                return Some(at);
            }
            at = entry.next.load(Ordering::Relaxed);
        }
        None
    }

    fn remove_if_unused(&self, mut locked: Locked, index: u32) -> Option<V> {
        let opens = &self.entries[index as usize].opens;
        let body = self.body(&mut locked, index);
        if body.lookups > 0 || opens.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let bucket = self.bucket(&body.key);
        self.unlink(&mut locked, bucket, index);
        drop(locked);
        Some(self.retire(index))
    }

    /// Take a node out of its chain and make its nodeid void.
    fn unlink(&self, _locked: &mut Locked, bucket: usize, index: u32) {
        let entry = &self.entries[index as usize];
        let mut link = &self.buckets[bucket];
        loop {
            let at = link.load(Ordering::Relaxed);
            debug_assert_ne!(at, NONE, "a node is in the chain of its key");
            if at == index {
                break;
            }
            link = &self.entries[at as usize].next;
        }
        link.store(entry.next.load(Ordering::Relaxed), Ordering::Relaxed);
        let id = entry.id.load(Ordering::Relaxed);
        entry.id.store(id - u64::from(index), Ordering::Relaxed);
    }

    /// Give an unlinked entry back to the pool.
    fn retire(&self, index: u32) -> V {
        let entry = &self.entries[index as usize];
        // SAFETY: who unlinked the entry is the only one that can reach it until the pool has it.
        let body = unsafe { entry.body.take() };
        let mut pool = self.pool.lock();
        entry.next.store(pool.give(index), Ordering::Relaxed);
        body.value
    }

    fn bucket(&self, key: &K) -> usize {
        (key.hash(self.seed) >> (u64::BITS - self.bucket_bits)) as usize
    }

    /// Neighbouring buckets are of one shard, so that cores seldom write to the same cache line of them.
    fn shard_of(&self, bucket: usize) -> usize {
        bucket >> (self.bucket_bits - self.shard_bits)
    }

    fn lock(&self, shard: usize) -> Locked {
        self.shards[shard].epoch.lock()
    }

    /// Make the nodeid that follows `last` in an entry.
    fn next_id(&self, last: u64, shard: usize, index: u32) -> u64 {
        let low_bits = self.index_bits + self.shard_bits;
        // Generation zero is the root's. An entry comes back to one after 2^22 uses in the largest
        // table, 2^34 in one of a million nodes.
        let generation = match ((last & ((1 << TAG_AT) - 1)) >> low_bits) + 1 {
            wrapped if wrapped >> (TAG_AT - low_bits) != 0 => 1,
            generation => generation,
        };
        self.tag | generation << low_bits | (shard as u64) << self.index_bits | u64::from(index)
    }

    /// Find a node and lock its shard.
    #[inline]
    fn find(&self, nodeid: u64) -> Option<(u32, Locked)> {
        let index = (nodeid & ((1 << self.index_bits) - 1)) as u32;
        let shard = (nodeid >> self.index_bits) as usize & (self.shards.len() - 1);
        let entry = self.entries.get(index as usize).filter(|_| index != NONE)?;
        let locked = self.lock(shard);
        (entry.id.load(Ordering::Relaxed) == nodeid).then_some((index, locked))
    }

    /// Reach an entry's body. The entry is in a chain of the locked shard, or is the root and the shard is its.
    #[inline]
    fn body<'a>(&self, _locked: &'a mut Locked, index: u32) -> &'a mut Body<K, V> {
        // SAFETY: entries of a chain hold a body, and are reached under their shard's lock, which the borrow holds.
        unsafe { self.entries[index as usize].body.get_mut() }
    }
}

// A node costs 24 bytes and what the backend keeps: 48 MB and 4 MB of buckets for a million files named by device and
// inode number, 104 MB and 4 MB for a million named by file handles of up to 64 bytes.
#[cfg(not(loom))]
const _: () = {
    assert!(NodeTable::<(u64, u64), u64>::NODE_SIZE == 48);
    assert!(NodeTable::<[u8; 72], u64>::NODE_SIZE == 104);
};

#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, feature = "std", not(loom)))]
mod tests;
