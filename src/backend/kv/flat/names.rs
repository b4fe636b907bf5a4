//! Which name each node of the host has now.
//!
//! ```text
//!  name ──hash──> bucket ──> entry ──> entry      nodeid = generation | index of the entry
//! ```
//!
//! A name leads to its node, and a node to its name, which RENAME changes: that is what
//! [`NodeTable`](crate::mem::NodeTable) cannot do. A node whose object was removed keeps its entry, without a name, until
//! the host lets go of it. The cores of a device share the table under one lock, which is held for a few cache lines.

use spin::Mutex;
use zerocopy::FromZeros;

use super::super::engine::NAME_MAX;
use crate::fuse::NodeId;
use crate::mem::{Arena, OutOfMemory, hash_bytes};
use crate::wire::errno::Errno;

/// A name.
#[derive(Clone, Copy, FromZeros)]
pub struct Name {
    bytes: [u8; NAME_MAX],
    len: u8,
}

impl Name {
    /// Keep a name. Beyond 255 bytes it is cut; the FUSE layer has refused it before.
    pub fn new(name: &[u8]) -> Self {
        let mut kept = Self::new_zeroed();
        let len = name.len().min(NAME_MAX);
        kept.bytes[..len].copy_from_slice(&name[..len]);
        kept.len = len as u8;
        kept
    }

    /// Give its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// End of a chain. The entry of this index is never used.
const NONE: u32 = 0;
/// The entry that stands for the root directory, which has no name.
const ROOT: u32 = 1;
const _: () = assert!(NodeId::ROOT.0 == ROOT as u64);

#[derive(FromZeros)]
struct Entry {
    lookups: u64,
    /// Counts the uses of the entry.
    generation: u32,
    /// Of the bucket's chain, or of those that are free.
    next: u32,
    name: Name,
    /// The name leads here.
    named: bool,
}

struct Table {
    entries: &'static mut [Entry],
    buckets: &'static mut [u32],
    free: u32,
    /// Entries that were ever used.
    fresh: u32,
    count: u32,
    epoch: u32,
}

/// Hold the nodes of a device.
pub struct Names {
    table: Mutex<Table>,
    seed: u64,
}

const fn index(node: NodeId) -> u32 {
    node.0 as u32
}

impl Table {
    fn bucket(&self, hash: u64) -> usize {
        // A power of two.
        hash as usize & (self.buckets.len() - 1)
    }

    fn node(&self, at: u32) -> NodeId {
        let generation = self.entries[at as usize].generation;
        NodeId(u64::from(generation) << 32 | u64::from(at))
    }

    /// Find the entry of a node.
    fn entry(&mut self, node: NodeId) -> Option<&mut Entry> {
        let at = index(node);
        let used = at > ROOT && at < self.fresh;
        let entry = self.entries.get_mut(at as usize).filter(|_| used)?;
        let same = entry.lookups > 0 && u64::from(entry.generation) == node.0 >> 32;
        same.then_some(entry)
    }

    fn find(&self, hash: u64, name: &[u8]) -> Option<u32> {
        let mut at = self.buckets[self.bucket(hash)];
        while at != NONE {
            let entry = &self.entries[at as usize];
            if entry.name.bytes() == name {
                return Some(at);
            }
            at = entry.next;
        }
        None
    }

    fn link(&mut self, at: u32, hash: u64) {
        let bucket = self.bucket(hash);
        let entry = &mut self.entries[at as usize];
        entry.next = core::mem::replace(&mut self.buckets[bucket], at);
        entry.named = true;
    }

    fn unlink(&mut self, at: u32, hash: u64) {
        let next = self.entries[at as usize].next;
        self.entries[at as usize].named = false;
        let bucket = self.bucket(hash);
        if self.buckets[bucket] == at {
            self.buckets[bucket] = next;
            return;
        }
        let mut before = self.buckets[bucket];
        while before != NONE {
            let entry = &mut self.entries[before as usize];
            if entry.next == at {
                entry.next = next;
                return;
            }
            before = entry.next;
        }
    }

    fn take(&mut self) -> Option<u32> {
        if self.free != NONE {
            let at = self.free;
            self.free = self.entries[at as usize].next;
            return Some(at);
        }
        let at = self.fresh;
        self.entries.get(at as usize)?;
        self.fresh += 1;
        Some(at)
    }
}

impl Names {
    /// Reserve a table of so many nodes, the root included. `seed` is to be random.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena has less than [`Self::footprint`].
    pub fn new(arena: &Arena, nodes: u32, seed: u64) -> Result<Self, OutOfMemory> {
        let table = Table {
            entries: arena.zeroed(nodes as usize + 1)?,
            buckets: arena.zeroed(buckets(nodes))?,
            free: NONE,
            fresh: ROOT + 1,
            count: 1,
            epoch: 0,
        };
        Ok(Self {
            table: Mutex::new(table),
            seed,
        })
    }

    /// Give the bytes of arena that a table needs.
    pub const fn footprint(nodes: u32) -> usize {
        (nodes as usize + 2) * size_of::<Entry>() + (buckets(nodes) + 1) * size_of::<u32>()
    }

    fn hash(&self, name: &[u8]) -> u64 {
        hash_bytes(self.seed, name)
    }

    /// Give the number of nodes that the host holds, the root included.
    pub fn len(&self) -> u32 {
        self.table.lock().count
    }

    /// Tell whether the host holds nothing; the root is always held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Give the name that a node has now.
    ///
    /// # Errors
    /// `ESTALE` for a node that the host does not hold, or whose object was removed; `EISDIR` for the root.
    pub fn name(&self, node: NodeId) -> Result<Name, Errno> {
        if node == NodeId::ROOT {
            return Err(Errno::EISDIR);
        }
        let mut table = self.table.lock();
        let entry = table.entry(node).filter(|entry| entry.named);
        entry.map(|entry| entry.name).ok_or(Errno::ESTALE)
    }

    /// Find the node of a name, without counting a lookup.
    pub fn find(&self, name: &[u8]) -> Option<NodeId> {
        let hash = self.hash(name);
        let table = self.table.lock();
        table.find(hash, name).map(|at| table.node(at))
    }

    /// Hand a name's node to the host, counting one lookup.
    ///
    /// # Errors
    /// `ENOMEM` when the host holds too many; `EIO` when its session ended.
    pub fn look_up(&self, name: &[u8], epoch: u32) -> Result<NodeId, Errno> {
        let hash = self.hash(name);
        let mut table = self.table.lock();
        if table.epoch != epoch {
            return Err(Errno::EIO);
        }
        let at = match table.find(hash, name) {
            Some(at) => at,
            None => {
                let at = table.take().ok_or(Errno::ENOMEM)?;
                let entry = &mut table.entries[at as usize];
                entry.generation = entry.generation.wrapping_add(1);
                (entry.name, entry.lookups) = (Name::new(name), 0);
                table.link(at, hash);
                table.count += 1;
                at
            }
        };
        table.entries[at as usize].lookups += 1;
        Ok(table.node(at))
    }

    /// Drop lookups; without any, the node is no more.
    pub fn forget(&self, node: NodeId, count: u64) {
        let mut table = self.table.lock();
        let Some(entry) = table.entry(node) else {
            return;
        };
        entry.lookups = entry.lookups.saturating_sub(count);
        if entry.lookups > 0 {
            return;
        }
        let (named, name) = (entry.named, entry.name);
        let at = index(node);
        if named {
            table.unlink(at, self.hash(name.bytes()));
        }
        table.entries[at as usize].next = table.free;
        table.free = at;
        table.count -= 1;
    }

    /// Note that an object was removed: its node has no name any more.
    pub fn removed(&self, name: &[u8]) {
        let hash = self.hash(name);
        let mut table = self.table.lock();
        if let Some(at) = table.find(hash, name) {
            table.unlink(at, hash);
        }
    }

    /// Note that an object has another name now, in the place of whatever had it.
    pub fn renamed(&self, from: &[u8], to: &[u8]) {
        if from == to {
            return;
        }
        self.removed(to);
        let (old, new) = (self.hash(from), self.hash(to));
        let mut table = self.table.lock();
        if let Some(at) = table.find(old, from) {
            table.unlink(at, old);
            table.entries[at as usize].name = Name::new(to);
            table.link(at, new);
        }
    }

    /// Begin a session: the host holds nothing but the root.
    pub fn reset(&self, epoch: u32) {
        let mut table = self.table.lock();
        table.epoch = epoch;
        table.buckets.fill(NONE);
        table.free = NONE;
        table.count = 1;
        for at in (ROOT + 1..table.fresh).rev() {
            let free = table.free;
            let entry = &mut table.entries[at as usize];
            (entry.lookups, entry.next, entry.named) = (0, free, false);
            table.free = at;
        }
    }
}

const fn buckets(nodes: u32) -> usize {
    (nodes as usize).next_power_of_two()
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::sys::map;

    fn names(nodes: u32) -> Names {
        let arena = map::reserve(Names::footprint(nodes)).unwrap();
        let names = Names::new(&arena, nodes, 7).unwrap();
        names.reset(1);
        names
    }

    fn name_of(names: &Names, node: NodeId) -> Result<std::string::String, Errno> {
        let name = names.name(node)?;
        Ok(core::str::from_utf8(name.bytes()).unwrap().into())
    }

    #[test]
    fn a_name_has_one_node_until_it_is_forgotten() {
        let names = names(3);
        let a = names.look_up(b"a", 1).unwrap();
        assert_eq!(names.look_up(b"a", 1), Ok(a));
        let b = names.look_up(b"b", 1).unwrap();
        assert_ne!(a, b);
        assert_eq!(names.look_up(b"c", 1), Err(Errno::ENOMEM));
        names.forget(a, 1);
        assert_eq!(name_of(&names, a).as_deref(), Ok("a"));
        names.forget(a, 1);
        assert_eq!(names.name(a).err(), Some(Errno::ESTALE));
        assert_eq!((names.find(b"a"), names.len()), (None, 2));
        let c = names.look_up(b"c", 1).unwrap();
        assert_ne!(c, a, "the number is not used again");
        assert_eq!(names.look_up(b"d", 0), Err(Errno::EIO), "of an old session");
    }

    #[test]
    fn a_rename_takes_the_node_along_and_frees_the_old_name() {
        let names = names(10);
        let (a, b) = (
            names.look_up(b"a", 1).unwrap(),
            names.look_up(b"b", 1).unwrap(),
        );
        names.renamed(b"a", b"b");
        assert_eq!(name_of(&names, a).as_deref(), Ok("b"));
        assert_eq!(names.name(b).err(), Some(Errno::ESTALE));
        assert_eq!(names.find(b"b"), Some(a));
        let new = names.look_up(b"a", 1).unwrap();
        assert_ne!(new, a);
        // The one without a name is let go of, and its entry is of use again.
        names.forget(b, 1);
        assert_eq!(names.len(), 3);
        names.removed(b"b");
        assert_eq!(names.name(a).err(), Some(Errno::ESTALE));
        names.removed(b"b");
        names.renamed(b"none", b"a");
        assert_eq!(names.name(new).err(), Some(Errno::ESTALE));
    }

    #[test]
    fn made_up_nodes_and_those_of_another_session_find_nothing() {
        let names = names(10);
        let node = names.look_up(b"a", 1).unwrap();
        for wrong in [0, 2, 11, u64::MAX, node.0 ^ 1 << 32, node.0 ^ 1 << 3] {
            assert_eq!(
                names.name(NodeId(wrong)).err(),
                Some(Errno::ESTALE),
                "{wrong}"
            );
            names.forget(NodeId(wrong), 1);
        }
        assert_eq!(names.name(NodeId::ROOT).err(), Some(Errno::EISDIR));
        names.reset(2);
        assert_eq!(names.name(node).err(), Some(Errno::ESTALE));
        assert_eq!(names.len(), 1);
        let again = names.look_up(b"a", 2).unwrap();
        assert_ne!(again, node);
    }

    #[test]
    fn many_names_in_few_buckets_are_all_found() {
        let names = names(600);
        let name = |n: u32| std::format!("file{n}");
        let nodes: std::vec::Vec<_> = (0..500)
            .map(|n| names.look_up(name(n).as_bytes(), 1).unwrap())
            .collect();
        for n in (0..500).step_by(2) {
            names.removed(name(n).as_bytes());
        }
        for (n, node) in (0..500).zip(nodes) {
            let found = names.find(name(n).as_bytes());
            assert_eq!(found, (n % 2 == 1).then_some(node), "{n}");
        }
    }
}
