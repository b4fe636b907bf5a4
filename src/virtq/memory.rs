//! The host's memory as this process sees it: a sorted list of regions.

/// Most regions of one map. QEMU needs a handful, and one more for each piece of hot-plugged memory.
pub const MAX_REGIONS: usize = 64;

/// Hold one run of host-physical addresses and where it is mapped.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    start: u64,
    len: u64,
    base: *mut u8,
}

// SAFETY: plain numbers. What the pointer may be used for is the contract of `new`, which does not depend on the thread.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// No addresses at all.
    const NONE: Self = Self {
        start: 0,
        len: 0,
        base: core::ptr::null_mut(),
    };

    /// Describe `len` bytes of host memory from address `start` on, mapped at `base`.
    ///
    /// # Safety
    /// For as long as a map with this region is used, `len` bytes from `base` must be mapped for reading and writing
    /// and no Rust reference may cover them. Others may change them at any time.
    pub const unsafe fn new(start: u64, base: *mut u8, len: u64) -> Self {
        Self { start, len, base }
    }

    /// Give the address after the last one.
    const fn end(&self) -> u64 {
        self.start + self.len
    }

    /// Give where `len` bytes from `address`, one at least, are mapped when all of them lie in this region.
    #[inline(always)]
    pub(super) fn place(&self, address: u64, len: u64) -> Option<*mut u8> {
        let first = address.wrapping_sub(self.start);
        let last = first.wrapping_add(len).wrapping_sub(1);
        // No bytes give a `last` before `first`, and so do bytes that wrap. An address before the region gives a
        // `first` of at least 2^64 - start, which is more than any region's length.
        if first <= last && last < self.len {
            // SAFETY: `first` is inside the region, whose bytes are mapped by the contract of `new`.
            Some(unsafe { self.base.add(first as usize) })
        } else {
            None
        }
    }
}

/// Say why regions make no map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// More than [`MAX_REGIONS`].
    TooMany,
    /// A region without a byte.
    Empty,
    /// A region that ends beyond the last address.
    Overflow,
    /// Two regions that share an address.
    Overlap,
}

/// Translate host-physical addresses to pointers. Never changed once made, so cores share it freely.
#[derive(Debug)]
pub struct MemoryMap {
    /// Sorted by address, without overlap; those from `count` on are empty.
    regions: [Region; MAX_REGIONS],
    count: usize,
}

impl MemoryMap {
    /// Make a map of regions in any order.
    ///
    /// # Errors
    /// [`MapError`] when there are too many, or when one is empty, passes the end of the address space or overlaps
    /// another.
    pub fn new(regions: &[Region]) -> Result<Self, MapError> {
        if regions.len() > MAX_REGIONS {
            return Err(MapError::TooMany);
        }
        let mut map = Self {
            regions: [Region::NONE; MAX_REGIONS],
            count: regions.len(),
        };
        map.regions[..regions.len()].copy_from_slice(regions);
        let sorted = &mut map.regions[..regions.len()];
        sorted.sort_unstable_by_key(|region| region.start);
        for region in sorted.iter() {
            if region.len == 0 {
                return Err(MapError::Empty);
            }
            if region.start.checked_add(region.len).is_none() {
                return Err(MapError::Overflow);
            }
        }
        if sorted.windows(2).any(|pair| pair[0].end() > pair[1].start) {
            return Err(MapError::Overlap);
        }
        Ok(map)
    }

    /// Find the region that holds an address.
    fn find(&self, address: u64) -> Option<&Region> {
        let regions = &self.regions[..self.count];
        let after = regions.partition_point(|region| region.start <= address);
        let region = regions.get(after.checked_sub(1)?)?;
        (address - region.start < region.len).then_some(region)
    }

    /// Give where `len` bytes from `address` on are mapped when they lie in one region at a multiple of `align`.
    pub fn contiguous(&self, address: u64, len: u64, align: usize) -> Option<*mut u8> {
        let place = self.find(address)?.place(address, len)?;
        (place as usize).is_multiple_of(align).then_some(place)
    }
}

/// Remember the region that answered last: nearly every address of a queue lies in the same one.
#[derive(Clone, Copy, Debug)]
pub struct RegionCache(Region);

impl Default for RegionCache {
    fn default() -> Self {
        Self(Region::NONE)
    }
}

// SAFETY: the cache is a copy of a region, which is bound to no thread: see `MemoryMap`.
unsafe impl Send for RegionCache {}

impl RegionCache {
    /// Give where `len` bytes from `address` on are mapped when they lie in one region.
    #[inline(always)]
    pub fn place(&mut self, map: &MemoryMap, address: u64, len: u64) -> Option<*mut u8> {
        match self.0.place(address, len) {
            None => self.refill(map, address, len),
            place => place,
        }
    }

    /// Give the region that answered last.
    #[inline(always)]
    pub const fn last(&self) -> Region {
        self.0
    }

    #[cold]
    fn refill(&mut self, map: &MemoryMap, address: u64, len: u64) -> Option<*mut u8> {
        self.0 = *map.find(address)?;
        self.0.place(address, len)
    }

    /// Call `piece` for each run of mapped memory that together make `len` bytes from `address` on.
    ///
    /// Regions that touch each other are followed from one into the next. Returns false when an address is in no
    /// region; pieces before it were given then.
    #[cold]
    pub fn pieces(
        &mut self,
        map: &MemoryMap,
        mut address: u64,
        mut len: u64,
        mut piece: impl FnMut(*mut u8, u64) -> bool,
    ) -> bool {
        while len > 0 {
            let Some(region) = map.find(address) else {
                return false;
            };
            self.0 = *region;
            let run = len.min(region.end() - address);
            let Some(place) = region.place(address, run) else {
                return false;
            };
            if !piece(place, run) {
                return false;
            }
            len -= run;
            // The end of a region does not overflow; behind the last one `find` ends the loop.
            address += run;
        }
        true
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn region(start: u64, memory: &mut [u8]) -> Region {
        // SAFETY: the tests keep the memory and only compare addresses.
        unsafe { Region::new(start, memory.as_mut_ptr(), memory.len() as u64) }
    }

    #[test]
    fn only_addresses_wholly_inside_a_region_are_placed() {
        let mut memory = [0u8; 64];
        let base = memory.as_mut_ptr();
        let map = MemoryMap::new(&[region(0x1000, &mut memory)]).unwrap();
        let mut cache = RegionCache::default();
        for (address, len, expected) in [
            (0x1000, 64, Some(0)),
            (0x103f, 1, Some(63)),
            (0x1040, 0, None),
            (0x1001, 64, None),
            (0xfff, 1, None),
            (0xfff, 2, None),
            (0, 1, None),
            (u64::MAX, 1, None),
            (0x1000, u64::MAX, None),
            (0x103f, u64::MAX, None),
        ] {
            // SAFETY: the expected offsets lie inside.
            let expected = expected.map(|offset: usize| unsafe { base.add(offset) });
            assert_eq!(cache.place(&map, address, len), expected, "{address:x}");
            assert_eq!(map.contiguous(address, len, 1), expected, "{address:x}");
        }
    }

    #[test]
    fn a_run_over_regions_that_touch_is_cut_at_their_border() {
        let (mut low, mut high, mut far) = ([0u8; 16], [0u8; 16], [0u8; 16]);
        let bases = [low.as_mut_ptr(), high.as_mut_ptr()];
        let map = MemoryMap::new(&[
            region(0x110, &mut high),
            region(0x200, &mut far),
            region(0x100, &mut low),
        ])
        .unwrap();
        let mut cache = RegionCache::default();
        let mut seen = Vec::new();
        assert!(cache.pieces(&map, 0x108, 16, |place, len| {
            seen.push((place, len));
            true
        }));
        // SAFETY: inside the first array.
        assert_eq!(seen, [(unsafe { bases[0].add(8) }, 8), (bases[1], 8)]);
        assert!(
            !cache.pieces(&map, 0x118, 16, |_, _| true),
            "runs into a gap"
        );
        assert!(cache.place(&map, 0x108, 16).is_none());
    }

    #[test]
    fn regions_that_make_no_map_are_refused() {
        let mut memory = [0u8; 64];
        let mut at = |start, len| {
            let mut region = region(start, &mut memory);
            region.len = len;
            region
        };
        let error = |regions: &[Region]| MemoryMap::new(regions).unwrap_err();
        assert_eq!(error(&[at(0, 0)]), MapError::Empty);
        assert_eq!(error(&[at(u64::MAX, 1)]), MapError::Overflow);
        assert_eq!(error(&[at(16, 16), at(0, 17)]), MapError::Overlap);
        assert_eq!(error(&[at(16, 16), at(16, 16)]), MapError::Overlap);
        assert_eq!(error(&[at(0, 1); MAX_REGIONS + 1]), MapError::TooMany);
        assert!(MemoryMap::new(&[at(u64::MAX - 1, 1), at(0, 1)]).is_ok());
        assert!(MemoryMap::new(&[]).is_ok());
    }

    #[test]
    fn every_one_of_the_most_regions_is_found() {
        let mut memory = [0u8; MAX_REGIONS];
        let base = memory.as_mut_ptr();
        let regions: Vec<_> = (0..MAX_REGIONS)
            // SAFETY: one byte each of the array.
            .map(|i| unsafe { Region::new(i as u64 * 16, base.add(i), 1) })
            .rev()
            .collect();
        let map = MemoryMap::new(&regions).unwrap();
        for i in 0..MAX_REGIONS {
            // SAFETY: inside the array.
            let expected = Some(unsafe { base.add(i) });
            assert_eq!(map.contiguous(i as u64 * 16, 1, 1), expected);
            assert_eq!(map.contiguous(i as u64 * 16 + 1, 1, 1), None);
        }
    }
}
