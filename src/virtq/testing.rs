//! A guest for the tests of this folder: its memory, one queue, and a driver's hand on every field.

use core::sync::atomic::Ordering;
use std::vec::Vec;

use zerocopy::FromZeros;

use super::layout::{Descriptor, store_descriptor};
use super::*;
use crate::mem::{Segment, SegmentList};

const START: u64 = 0x4000_0000;
const BYTES: usize = 64 * 1024;
/// The memory is two regions that touch here.
const BORDER: u64 = 40 * 1024 + 3;

pub(super) struct Guest {
    memory: *mut u8,
    layout: std::alloc::Layout,
    pub(super) map: MemoryMap,
    pub(super) rings: Rings,
    pub(super) device: DeviceQueue,
    features: u64,
    avail: u16,
    used: u16,
}

impl Guest {
    pub(super) fn new(size: u16, features: u64) -> Self {
        Self::starting_at(size, features, 0)
    }

    pub(super) fn starting_at(size: u16, features: u64, index: u16) -> Self {
        let layout = std::alloc::Layout::from_size_align(BYTES, 4096).unwrap();
        // SAFETY: the size is not zero.
        let memory = unsafe { std::alloc::alloc_zeroed(layout) };
        // SAFETY: both parts lie in the memory, which lives as long as this value and is reached by raw pointers only.
        let map = unsafe {
            MemoryMap::new(&[
                Region::new(START, memory, BORDER),
                Region::new(
                    START + BORDER,
                    memory.add(BORDER as usize),
                    BYTES as u64 - BORDER,
                ),
            ])
            .unwrap()
        };
        // SAFETY: three pages that nothing else uses, each large enough for the small sizes of the tests.
        let rings =
            unsafe { Rings::new(memory, memory.add(4096), memory.add(8192), size) }.unwrap();
        rings.avail_idx().store(index, Ordering::Relaxed);
        rings.used_idx().store(index, Ordering::Relaxed);
        let device = DeviceQueue::new(Start {
            rings,
            next_avail: index,
            features,
            inflight: None,
        });
        Self {
            memory,
            layout,
            map,
            rings,
            device,
            features,
            avail: index,
            used: index,
        }
    }

    /// Put a new device on the queue as it stands.
    pub(super) fn restart(&mut self, next_avail: u16, inflight: Option<Inflight>) {
        self.device = DeviceQueue::new(Start {
            rings: self.rings,
            next_avail,
            features: self.features,
            inflight,
        });
    }

    pub(super) fn list(&self) -> SegmentList {
        SegmentList::new_zeroed()
    }

    /// Where buffers may lie: behind the rings.
    pub(super) fn data(&self) -> u64 {
        START + 12 * 1024
    }

    pub(super) fn border(&self) -> u64 {
        START + BORDER
    }

    pub(super) fn end(&self) -> u64 {
        START + BYTES as u64
    }

    /// Write a descriptor of an indirect table.
    pub(super) fn store(&mut self, address: u64, descriptor: Descriptor) {
        let place = self.map.contiguous(address, 16, 8).unwrap();
        // SAFETY: the map found it.
        unsafe { store_descriptor(place, descriptor) };
    }

    /// Write a descriptor at any address.
    pub(super) fn store_bytes(&mut self, address: u64, descriptor: Descriptor) {
        let (first, second) = descriptor.words();
        let bytes = [first.to_le_bytes(), second.to_le_bytes()].concat();
        for (at, byte) in bytes.into_iter().enumerate() {
            let place = self.map.contiguous(address + at as u64, 1, 1).unwrap();
            // SAFETY: the map found it.
            unsafe { place.write(byte) };
        }
    }

    /// Make a chain available.
    pub(super) fn offer(&mut self, head: u16) {
        self.rings
            .avail_entry(self.avail)
            .store(head, Ordering::Relaxed);
        self.avail = self.avail.wrapping_add(1);
        self.rings.avail_idx().store(self.avail, Ordering::Release);
    }

    /// Make chains of one empty descriptor available.
    pub(super) fn offer_plain(&mut self, heads: &[u16]) {
        for &head in heads {
            if head < self.rings.size() {
                self.rings.store_desc(head, Descriptor::default());
            }
            self.offer(head);
        }
    }

    /// Decide as a driver does whether the chains since index `old` need a notification.
    pub(super) fn kick_wanted(&self, old: u16) -> bool {
        notify::published();
        if self.features & F_EVENT_IDX != 0 {
            notify::must_wake(self.rings.avail_event(), old, self.avail)
        } else {
            self.rings.used_flags().load(Ordering::Relaxed) & 1 == 0
        }
    }

    /// Reap what was published.
    pub(super) fn used(&mut self) -> Vec<(u32, u32)> {
        let mut reaped = Vec::new();
        while self.used != self.rings.used_idx().load(Ordering::Acquire) {
            reaped.push(self.rings.load_used(self.used));
            self.used = self.used.wrapping_add(1);
        }
        reaped
    }

    /// Check that every segment lies in the memory.
    pub(super) fn assert_inside(&self, list: &SegmentList) {
        let start = self.memory as usize;
        let check = |segment: &Segment| {
            let base = segment.base() as usize;
            assert!(base >= start && segment.len() > 0);
            assert!(base - start + segment.len() <= BYTES);
        };
        list.readable().iter().for_each(check);
        list.writable().iter().for_each(check);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout and not used again.
        unsafe { std::alloc::dealloc(self.memory, self.layout) };
    }
}
