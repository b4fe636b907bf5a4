//! A device without a host: the driver's side runs in the same process, for tests and benches.
//!
//! The caller hands in memory that plays the host's. Each queue's rings are laid out in it from the front; the rest is
//! for buffers. There is no control side and nothing to wait on: queues are polled.

use core::ops::Deref;

use super::ring::RingQueue;
use crate::virtq::driver::{Driver, MAX_DRIVER_SIZE, Tables};
use crate::virtq::{
    F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, MemoryMap, Rings, Start, avail_bytes, desc_bytes,
    used_bytes,
};

/// Features of a loopback queue unless others are asked for.
pub const FEATURES: u64 = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX;

/// Say why a queue does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoopbackError {
    /// The size is no power of two, or more than [`MAX_DRIVER_SIZE`].
    Size,
    /// The memory at that address is too short, or not in one piece.
    Memory,
}

/// Describe one queue: how large, where, and in what manner.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Host-physical address from which on the queue may use the memory; a multiple of 16.
    pub address: u64,
    /// Number of descriptors, a power of two up to [`MAX_DRIVER_SIZE`].
    pub size: u16,
    /// Virtio features, [`FEATURES`] for most.
    pub features: u64,
    /// Descriptors of each chain's indirect table; zero for direct chains.
    pub indirect: u16,
}

impl Layout {
    /// Give the address of the available ring; the descriptor table stands at `address`.
    pub const fn avail(&self) -> u64 {
        self.address + desc_bytes(self.size)
    }

    /// Give the address of the used ring.
    pub const fn used(&self) -> u64 {
        (self.avail() + avail_bytes(self.size)).next_multiple_of(4)
    }

    const fn tables(&self) -> u64 {
        (self.used() + used_bytes(self.size)).next_multiple_of(64)
    }

    /// Give the first address behind the queue, a multiple of 64.
    pub const fn end(&self) -> u64 {
        let tables = Tables::bytes(self.size, self.indirect) as u64;
        (self.tables() + tables).next_multiple_of(64)
    }
}

/// Set up one queue in `memory`, whose bytes from [`Layout::address`] to [`Layout::end`] are zero, and give both its
/// sides.
///
/// # Errors
/// [`LoopbackError`] when the size is not allowed or the memory ends before the queue.
///
/// # Safety
/// While either side lives, those bytes must stay mapped and be used for nothing else. The driver does not keep
/// `memory` alive.
pub unsafe fn queue<M>(memory: M, layout: Layout) -> Result<(RingQueue<M>, Driver), LoopbackError>
where
    M: Deref<Target = MemoryMap> + 'static,
{
    // SAFETY: as the caller says.
    let (rings, driver) = unsafe { driver(&memory, layout) }?;
    let start = Start {
        rings,
        next_avail: 0,
        features: layout.features,
        inflight: None,
    };
    Ok((RingQueue::fixed(start, memory), driver))
}

/// Set up one queue as [`queue`] does, for a device that is elsewhere: where its rings lie, and the driver's side.
///
/// # Errors
/// As for [`queue`].
///
/// # Safety
/// As for [`queue`]; nobody else but the device may reach those bytes.
pub unsafe fn driver(memory: &MemoryMap, layout: Layout) -> Result<(Rings, Driver), LoopbackError> {
    let size = layout.size;
    if !size.is_power_of_two() || size as usize > MAX_DRIVER_SIZE {
        return Err(LoopbackError::Size);
    }
    let place = |address, len, align| {
        let place = memory.contiguous(address, len, align);
        place.ok_or(LoopbackError::Memory)
    };
    let desc = place(layout.address, desc_bytes(size), 16)?;
    let avail = place(layout.avail(), avail_bytes(size), 2)?;
    let used = place(layout.used(), used_bytes(size), 4)?;
    // SAFETY: the three areas lie in a region of the memory map, stay mapped and are used for nothing
    // else, as the caller says.
    let rings = unsafe { Rings::new(desc, avail, used, size) }.map_err(|_| LoopbackError::Size)?;
    let tables = if layout.indirect > 0 {
        let bytes = Tables::bytes(size, layout.indirect) as u64;
        let tables = place(layout.tables(), bytes, 16)?;
        // SAFETY: as above.
        Some(unsafe { Tables::new(tables, layout.tables(), layout.indirect) })
    } else {
        None
    };
    let driver = Driver::new(rings, layout.features, tables).ok_or(LoopbackError::Size)?;
    Ok((rings, driver))
}

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use super::*;
    use crate::hal::Queue;
    use crate::mem::SegmentList;
    use crate::virtq::Region;
    use crate::virtq::driver::{Buffer, Used};
    use std::boxed::Box;
    use zerocopy::FromZeros;

    const START: u64 = 1 << 32;

    /// Memory that lives as long as the test program.
    fn memory(bytes: usize) -> &'static MemoryMap {
        let layout = std::alloc::Layout::from_size_align(bytes, 4096).unwrap();
        // SAFETY: the size is not zero; the memory is never freed and only reached through the map.
        let region = unsafe { Region::new(START, std::alloc::alloc_zeroed(layout), bytes as u64) };
        Box::leak(Box::new(MemoryMap::new(&[region]).unwrap()))
    }

    #[test]
    fn a_request_goes_round() {
        for indirect in [0, 8] {
            let layout = Layout {
                address: START,
                size: 16,
                features: FEATURES,
                indirect,
            };
            let memory = memory(64 * 1024);
            // SAFETY: used for nothing else.
            let (mut queue, mut driver) = unsafe { queue(memory, layout) }.unwrap();
            let data = layout.end();
            let mut list = SegmentList::new_zeroed();
            for round in 0..100u32 {
                let chain = [
                    Buffer {
                        address: data,
                        len: 40,
                        writable: false,
                    },
                    Buffer {
                        address: data + 64,
                        len: 4096,
                        writable: true,
                    },
                ];
                let head = driver.add(&chain).unwrap();
                assert!(!driver.publish(), "a polled queue is not notified");
                list.clear();
                let token = queue.poll(&mut list).unwrap();
                assert_eq!((list.readable_len(), list.writable_len()), (40, 4096));
                list.write_at(0, &round.to_ne_bytes()).unwrap();
                queue.complete(token, 4);
                assert_eq!(driver.reap(), None);
                queue.flush();
                assert_eq!(driver.reap(), Some(Used { head, written: 4 }));
                let place = memory.contiguous(data + 64, 4, 4).unwrap();
                // SAFETY: the map found it, and nobody else is there now.
                assert_eq!(unsafe { place.cast::<u32>().read() }, round);
            }
        }
    }

    #[test]
    fn a_queue_that_does_not_fit_is_refused() {
        let layout = Layout {
            address: START,
            size: 128,
            features: FEATURES,
            indirect: 4,
        };
        let enough = (layout.end() - START) as usize;
        // SAFETY: nothing is used at the same time.
        let result = |bytes, layout| unsafe { queue(memory(bytes), layout) }.map(|_| ()).err();
        assert_eq!(result(enough, layout), None);
        assert_eq!(result(enough - 64, layout), Some(LoopbackError::Memory));
        for size in [0, 3, 2048] {
            let layout = Layout { size, ..layout };
            assert_eq!(result(enough, layout), Some(LoopbackError::Size));
        }
    }
}
