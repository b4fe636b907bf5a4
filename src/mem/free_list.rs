//! Which entries of a table are free: those given back, then those never used.
//!
//! Entries that were given back go out again first, so a table touches only as much memory as it held at its fullest.
//! The links live in the table's own entries; the list is given the means to read and write them.

/// No entry. Index zero of every table is left empty, so that zero bits are "no link".
pub(super) const NONE: u32 = 0;

/// Name the free entries of a table by index.
pub(super) struct FreeList {
    /// The entry given back last.
    head: u32,
    /// Entries from here on were never used.
    fresh: u32,
    end: u32,
    used: u32,
}

impl FreeList {
    /// Make the list of the entries `first..end`, all free. `first` is not zero.
    pub(super) const fn new(first: u32, end: u32) -> Self {
        debug_assert!(first != NONE);
        Self {
            head: NONE,
            fresh: first,
            end,
            used: 0,
        }
    }

    /// Take an entry, or `None` when all are in use. `link` reads what [`Self::give`] had stored for an entry.
    #[inline]
    pub(super) fn take(&mut self, link: impl FnOnce(u32) -> u32) -> Option<u32> {
        let index = if self.head != NONE {
            let index = self.head;
            self.head = link(index);
            index
        } else if self.fresh < self.end {
            self.fresh += 1;
            self.fresh - 1
        } else {
            return None;
        };
        self.used += 1;
        Some(index)
    }

    /// Give an entry back. Returns the link that the caller is to store for it.
    #[inline]
    pub(super) fn give(&mut self, index: u32) -> u32 {
        self.used -= 1;
        core::mem::replace(&mut self.head, index)
    }

    /// Give the index behind the last entry that was ever used.
    pub(super) fn high_water(&self) -> u32 {
        self.fresh
    }

    /// Give the number of entries in use.
    pub(super) fn used(&self) -> u32 {
        self.used
    }
}
