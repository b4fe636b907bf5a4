//! A slot map: values of one core, each found by a handle that a later value in the same place does not answer to.

use core::mem::{MaybeUninit, size_of};

use zerocopy::FromZeros;

use super::free_list::FreeList;
use super::{Arena, OutOfMemory};

/// Name a value of a [`SlotMap`].
#[derive(zerocopy::FromZeros, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Handle {
    /// Position, from 1 to the capacity.
    pub index: u32,
    /// An odd number that grows with each value of the position.
    pub generation: u32,
}

impl Handle {
    /// Pack into one number, for interfaces that carry a `u64`. It is never zero.
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// Unpack what [`Self::to_bits`] gave. Any number will do: one that was not given out finds nothing.
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            index: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

#[derive(FromZeros)]
struct Entry<T> {
    /// Odd while there is a value. 2^31 values of one position have different ones.
    generation: u32,
    /// Link of the free list.
    next: u32,
    value: MaybeUninit<T>,
}

impl<T> Entry<T> {
    fn holds(&self) -> bool {
        self.generation & 1 == 1
    }
}

/// Hold a fixed number of values of one core. Adding, finding and removing one takes constant time.
///
/// What is left when the map is dropped is dropped too.
pub struct SlotMap<T: 'static> {
    entries: &'static mut [Entry<T>],
    free: FreeList,
}

impl<T> SlotMap<T> {
    /// Reserve a map for `capacity` values. Memory is touched as values are added.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena has less than [`Self::footprint`].
    pub fn new(arena: &Arena, capacity: u32) -> Result<Self, OutOfMemory> {
        let capacity = capacity.min(u32::MAX - 1);
        Ok(Self {
            entries: arena.zeroed(capacity as usize + 1)?,
            free: FreeList::new(1, capacity + 1),
        })
    }

    /// Give the bytes of arena that a map for `capacity` values needs.
    pub const fn footprint(capacity: u32) -> usize {
        (capacity as usize + 2) * size_of::<Entry<T>>()
    }

    /// Give the number of values that the map may hold.
    pub fn capacity(&self) -> u32 {
        self.entries.len() as u32 - 1
    }

    /// Give the number of values.
    pub fn len(&self) -> u32 {
        self.free.used()
    }

    /// Tell whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Add a value.
    ///
    /// # Errors
    /// The value, when the map is full.
    pub fn insert(&mut self, value: T) -> Result<Handle, T> {
        let Some(index) = self.free.take(|index| self.entries[index as usize].next) else {
            return Err(value);
        };
        let entry = &mut self.entries[index as usize];
        entry.value.write(value);
        entry.generation = entry.generation.wrapping_add(1);
        Ok(Handle {
            index,
            generation: entry.generation,
        })
    }

    /// Give the handle of the value at a place, if one is there.
    #[inline]
    pub fn handle_at(&self, index: u32) -> Option<Handle> {
        let entry = self.entries.get(index as usize)?;
        entry.holds().then_some(Handle {
            index,
            generation: entry.generation,
        })
    }

    /// Find a value.
    #[inline]
    pub fn get(&self, handle: Handle) -> Option<&T> {
        let entry = self.entries.get(handle.index as usize)?;
        let found = entry.holds() && entry.generation == handle.generation;
        // SAFETY: `insert` wrote the value and then made the generation odd; it is taken only when made even.
        found.then(|| unsafe { entry.value.assume_init_ref() })
    }

    /// Find a value, to change it.
    #[inline]
    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        let entry = self.entries.get_mut(handle.index as usize)?;
        let found = entry.holds() && entry.generation == handle.generation;
        // SAFETY: as for `get`.
        found.then(|| unsafe { entry.value.assume_init_mut() })
    }

    /// Remove a value and hand it back.
    pub fn remove(&mut self, handle: Handle) -> Option<T> {
        self.get(handle)?;
        let entry = &mut self.entries[handle.index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = self.free.give(handle.index);
        // SAFETY: `get` found it; with an even generation it is not found again.
        Some(unsafe { entry.value.assume_init_read() })
    }

    /// Go through the values, in no order that means anything. Takes time by the most values there ever were at once.
    pub fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        let used = &self.entries[..self.free.high_water() as usize];
        (0..)
            .zip(used)
            .filter(|(_, entry)| entry.holds())
            .map(|(index, entry)| {
                let generation = entry.generation;
                // SAFETY: as for `get`.
                (Handle { index, generation }, unsafe {
                    entry.value.assume_init_ref()
                })
            })
    }

    /// Go through the values, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Handle, &mut T)> {
        let used = &mut self.entries[..self.free.high_water() as usize];
        (0..)
            .zip(used)
            .filter(|(_, entry)| entry.holds())
            .map(|(index, entry)| {
                let generation = entry.generation;
                // SAFETY: as for `get`.
                (Handle { index, generation }, unsafe {
                    entry.value.assume_init_mut()
                })
            })
    }
}

impl<T> Drop for SlotMap<T> {
    fn drop(&mut self) {
        if !core::mem::needs_drop::<T>() {
            return;
        }
        for (_, value) in self.iter_mut() {
            // SAFETY: the value is there, and nobody finds it once the map is dropped.
            unsafe { core::ptr::drop_in_place(value) };
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use std::collections::HashMap;
    use std::rc::Rc;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::super::arena::test_arena;
    use super::*;

    fn map<T>(capacity: u32) -> SlotMap<T> {
        SlotMap::new(&test_arena(SlotMap::<T>::footprint(capacity)), capacity).unwrap()
    }

    #[test]
    fn a_full_map_hands_the_value_back() {
        let mut map = map(2);
        let first = map.insert('a').unwrap();
        map.insert('b').unwrap();
        assert_eq!(map.insert('c'), Err('c'));
        assert_eq!(map.remove(first), Some('a'));
        assert!(map.insert('c').is_ok());
        assert_eq!(map.insert('d'), Err('d'));
    }

    #[test]
    fn an_old_handle_finds_nothing_in_its_place() {
        let mut map = map(1);
        let old = map.insert('a').unwrap();
        assert_eq!(map.remove(old), Some('a'));
        assert_eq!(map.remove(old), None);
        let new = map.insert('b').unwrap();
        assert_eq!(new.index, old.index);
        assert_eq!(map.get(old), None);
        assert_eq!(map.get_mut(old), None);
        assert_eq!(map.remove(old), None);
        assert_eq!(map.get(new), Some(&'b'));
    }

    #[test]
    fn made_up_handles_find_nothing() {
        let mut map = map(3);
        let handle = map.insert('a').unwrap();
        assert_eq!(map.get(Handle::from_bits(handle.to_bits())), Some(&'a'));
        for bit in 0..64 {
            assert_eq!(
                map.get(Handle::from_bits(handle.to_bits() ^ 1 << bit)),
                None
            );
        }
        for bits in [0, 2, u64::MAX] {
            assert_eq!(map.get(Handle::from_bits(bits)), None);
        }
        map.remove(handle);
        // Even generations are those of an empty place.
        for generation in 0..4 {
            assert_eq!(
                map.get(Handle {
                    generation,
                    ..handle
                }),
                None
            );
        }
    }

    #[test]
    fn values_are_dropped_once_by_the_map_or_by_who_removed_them() {
        let value = Rc::new(());
        let mut map = map(3);
        let handles: Vec<Handle> = (0..3).map(|_| map.insert(value.clone()).unwrap()).collect();
        map.remove(handles[1]);
        assert_eq!(Rc::strong_count(&value), 3);
        drop(map);
        assert_eq!(Rc::strong_count(&value), 1);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u8),
        Remove(usize),
        Change(usize, u8),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            any::<u8>().prop_map(Op::Insert),
            (0..64usize).prop_map(Op::Remove),
            (0..64usize, any::<u8>()).prop_map(|(at, value)| Op::Change(at, value)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 1 } else { 200 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn it_does_what_a_hash_map_does(ops in proptest::collection::vec(op(), 0..100)) {
            let (mut map, mut model, mut given) = (map(5), HashMap::new(), Vec::new());
            for op in ops {
                let pick = |at: usize| {
                    given.get(at % given.len().max(1)).copied().unwrap_or(Handle::from_bits(1))
                };
                match op {
                    Op::Insert(value) => match map.insert(value) {
                        Ok(handle) => {
                            given.push(handle);
                            prop_assert_eq!(model.insert(handle, value), None);
                        }
                        Err(back) => prop_assert_eq!((back, model.len()), (value, 5)),
                    },
                    Op::Remove(at) => {
                        let handle = pick(at);
                        prop_assert_eq!(map.remove(handle), model.remove(&handle));
                    }
                    Op::Change(at, value) => {
                        let handle = pick(at);
                        prop_assert_eq!(map.get(handle), model.get(&handle));
                        let (a, b) = (map.get_mut(handle), model.get_mut(&handle));
                        prop_assert_eq!(a.map(|a| core::mem::replace(a, value)), b.map(|b| core::mem::replace(b, value)));
                    }
                }
                prop_assert_eq!(map.len() as usize, model.len());
                prop_assert_eq!(map.iter().map(|(h, &v)| (h, v)).collect::<HashMap<_, _>>(), model.clone());
            }
        }
    }
}
