//! Entry for fuzzing: any content of the host's memory against the device's side.

use std::alloc::{Layout, alloc_zeroed, dealloc};

use zerocopy::FromZeros;

use super::{
    DeviceQueue, F_EVENT_IDX, F_INDIRECT_DESC, MemoryMap, Region, Rings, Start, Taken, avail_bytes,
    desc_bytes,
};
use crate::mem::{Segment, SegmentList};

/// Bytes of the memory, in two regions that touch and one apart.
const BYTES: usize = 16384;
/// Where each region begins in the memory, and its address.
const REGIONS: [(usize, u64); 3] = [(0, 0), (6000, 6000), (12288, 1 << 32)];
const SIZE: u16 = 16;

/// Hold memory that is freed at the end of a run.
struct Memory(*mut u8);

impl Memory {
    const LAYOUT: Layout = match Layout::from_size_align(BYTES, 4096) {
        Ok(layout) => layout,
        Err(_) => panic!("a page is a power of two"),
    };
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated so by `chains`, which does not use it any more.
        unsafe { dealloc(self.0, Self::LAYOUT) };
    }
}

/// Take `input` for the memory of a host: a queue of 16 descriptors at its start (table, available ring, used ring, each
/// behind the other), then whatever the descriptors point to. Its first byte chooses the features.
///
/// # Panics
/// When a segment lies outside the memory, or when the device takes more chains than the queue can hold.
pub fn chains(input: &[u8]) {
    let Some((&choice, image)) = input.split_first() else {
        return;
    };
    // SAFETY: the layout is not empty.
    let memory = Memory(unsafe { alloc_zeroed(Memory::LAYOUT) });
    let len = image.len().min(BYTES);
    // SAFETY: `len` bytes of both; nobody else has the memory yet.
    unsafe { memory.0.copy_from_nonoverlapping(image.as_ptr(), len) };
    let ends = REGIONS.iter().skip(1).map(|(offset, _)| *offset);
    let regions = REGIONS.iter().zip(ends.chain([BYTES]));
    let mut parts = regions.map(|(&(offset, address), end)| {
        // SAFETY: parts of the memory, which outlives the map and is reached by raw pointers only.
        unsafe { Region::new(address, memory.0.add(offset), (end - offset) as u64) }
    });
    let parts: [Region; 3] = core::array::from_fn(|_| parts.next().expect("three of each"));
    let map = MemoryMap::new(&parts).expect("three regions in order");
    let avail = desc_bytes(SIZE);
    let used = (avail + avail_bytes(SIZE)).next_multiple_of(4);
    let place = |address, align| map.contiguous(address, 4, align).expect("at the start");
    // SAFETY: the areas lie behind each other at the start of the first region.
    let rings = unsafe { Rings::new(place(0, 16), place(avail, 2), place(used, 4), SIZE) };
    let event_idx = if choice & 1 != 0 { F_EVENT_IDX } else { 0 };
    let indirect = if choice & 2 != 0 { F_INDIRECT_DESC } else { 0 };
    let mut device = DeviceQueue::new(Start {
        rings: rings.expect("aligned, and a power of two"),
        next_avail: 0,
        features: event_idx | indirect,
        inflight: None,
    });
    let inside = |segment: &Segment| {
        let start = (segment.base() as usize).wrapping_sub(memory.0 as usize);
        assert!(start < BYTES && segment.len() <= BYTES - start && segment.len() > 0);
    };
    let mut held = 0;
    loop {
        let mut list = SegmentList::new_zeroed();
        let taken = device.take(&map, &mut list);
        list.readable().iter().for_each(inside);
        list.writable().iter().for_each(inside);
        match taken {
            Taken::Chain(_) => {
                // Kept until the end: a reply could fill the rings and make up more chains without end.
                held += 1;
                assert!(held <= SIZE);
            }
            Taken::Bad(head, _) => {
                assert!(head < SIZE);
                held += 1;
                assert!(held <= SIZE);
            }
            Taken::Empty | Taken::Broken(_) => break,
        }
    }
    for head in 0..held {
        device.put(head, 1);
    }
    device.flush();
    device.arm();
    device.disarm();
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_queue_at_the_start_of_the_input_is_served() {
        // One chain of one descriptor of 16 bytes at the second region's border, then available index 1.
        let mut input = std::vec![0; 400];
        input[0] = 3;
        input[1..3].copy_from_slice(&5990u16.to_le_bytes());
        input[9] = 16;
        input[1 + 256 + 2] = 1;
        super::chains(&input);
        super::chains(&[]);
        super::chains(&[3; 20000]);
    }
}
