//! The memory of a guest: two regions that touch, each an allocation of its own, so that the address sanitizer sees
//! a step outside.

use std::alloc::Layout;
use std::sync::Arc;

use dpfs::virtq::{Descriptor, MemoryMap, Region, Rings};
use zerocopy::IntoBytes;

/// First address.
pub const START: u64 = 0x4000_0000;
/// Bytes of the first region: the rings, then buffers; the border is odd.
pub const FIRST: u64 = 40 * 1024 + 3;
/// Bytes of the second region.
pub const SECOND: u64 = 23 * 1024 + 1;
/// Where buffers may lie.
pub const DATA: u64 = START + 12 * 1024;
/// Most descriptors of a queue: its three areas have a page each.
pub const SIZE: u16 = 128;

/// Own the memory.
pub struct Memory {
    first: *mut u8,
    second: *mut u8,
    map: MemoryMap,
}

// SAFETY: the memory is reached by raw pointers, on the thread that made it.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

const fn layout(bytes: u64) -> Layout {
    match Layout::from_size_align(bytes as usize, 4096) {
        Ok(layout) => layout,
        Err(_) => panic!("an alignment that is a power of two"),
    }
}

impl Memory {
    /// Reserve it, zeroed.
    pub fn new() -> Arc<Self> {
        // SAFETY: the sizes are not zero; both live until the drop, and are reached by raw pointers only.
        let (first, second, map) = unsafe {
            let first = std::alloc::alloc_zeroed(layout(FIRST));
            let second = std::alloc::alloc_zeroed(layout(SECOND));
            let regions = [
                Region::new(START + FIRST, second, SECOND),
                Region::new(START, first, FIRST),
            ];
            (
                first,
                second,
                MemoryMap::new(&regions).expect("two regions that touch"),
            )
        };
        Arc::new(Self { first, second, map })
    }

    /// Give the map.
    pub const fn map(&self) -> &MemoryMap {
        &self.map
    }

    /// Lay a queue's rings into the first three pages.
    pub fn rings(&self, size: u16) -> Rings {
        assert!(size <= SIZE);
        // SAFETY: a page each, which nothing but the two sides of the queue uses.
        let rings =
            unsafe { Rings::new(self.first, self.first.add(4096), self.first.add(8192), size) };
        rings.expect("a power of two on pages")
    }

    /// Write bytes at any address; those outside are dropped.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        for (at, byte) in (0..).zip(bytes) {
            if let Some(place) = self.map.contiguous(address.wrapping_add(at), 1, 1) {
                // SAFETY: the map found it, and no request uses it at the same time on another thread.
                unsafe { place.write(*byte) };
            }
        }
    }

    /// Write a descriptor of an indirect table.
    pub fn write_descriptor(&self, address: u64, descriptor: Descriptor) {
        let Descriptor {
            address: to,
            len,
            flags,
            next,
        } = descriptor;
        self.write(
            address,
            &[
                to.as_bytes(),
                len.as_bytes(),
                flags.as_bytes(),
                next.as_bytes(),
            ]
            .concat(),
        );
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with these layouts, and no request is left that could use them.
        unsafe {
            std::alloc::dealloc(self.first, layout(FIRST));
            std::alloc::dealloc(self.second, layout(SECOND));
        }
    }
}
