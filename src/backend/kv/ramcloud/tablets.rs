//! Which master has which part of the table.

use zerocopy::FromZeros;

use crate::mem::{Arena, OutOfMemory};

/// Most tablets of a table.
pub const TABLETS_MAX: usize = 1024;

/// A part of the table.
#[derive(Clone, Copy, FromZeros)]
pub struct Tablet {
    /// First and last hash of a key.
    pub first: u64,
    pub last: u64,
    /// Number of its master among the peers; zero while nobody serves it.
    pub peer: u32,
    unused: u32,
}

/// Hold the map.
pub struct Tablets {
    entries: &'static mut [Tablet],
    len: usize,
    /// How often it was told.
    told: u64,
}

impl Tablets {
    pub fn new(arena: &Arena) -> Result<Self, OutOfMemory> {
        Ok(Self {
            entries: arena.zeroed(TABLETS_MAX)?,
            len: 0,
            told: 0,
        })
    }

    pub const fn footprint() -> usize {
        (TABLETS_MAX + 1) * size_of::<Tablet>()
    }

    /// Give how often the map was told so far.
    pub const fn told(&self) -> u64 {
        self.told
    }

    /// Begin a new map.
    pub const fn renew(&mut self) {
        self.len = 0;
        self.told += 1;
    }

    /// Add a tablet. False when there are too many.
    pub fn add(&mut self, (first, last): (u64, u64), peer: u32) -> bool {
        let Some(entry) = self.entries.get_mut(self.len) else {
            return false;
        };
        *entry = Tablet {
            first,
            last,
            peer,
            unused: 0,
        };
        self.len += 1;
        true
    }

    /// Tell whether no tablet is known.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Find who has a hash.
    pub fn peer(&self, hash: u64) -> Option<u32> {
        let mut known = self.entries[..self.len].iter();
        let tablet = known.find(|tablet| (tablet.first..=tablet.last).contains(&hash))?;
        (tablet.peer != 0).then_some(tablet.peer)
    }

    /// Tell whether a peer has any part.
    pub fn names(&self, peer: u32) -> bool {
        self.entries[..self.len]
            .iter()
            .any(|tablet| tablet.peer == peer)
    }
}
