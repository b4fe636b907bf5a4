//! The guest's memory, mapped region by region, and the memory that records what is in flight.

use std::ops::Deref;
use std::sync::Arc;
use std::vec::Vec;

use crate::sys::fd::Fd;
use crate::sys::map::SharedMap;
use crate::sys::memfd;
use crate::virtq::{
    Inflight, MAX_SIZE, MapError, MemoryMap, Region, Rings, avail_bytes, desc_bytes, used_bytes,
};
use crate::wire::errno::Errno;
use crate::wire::vhost_user::{InflightArea, MemoryRegion, VringAddr};

/// Multiple of every page size of the processors that this runs on.
const PAGE: u64 = 65536;
/// Largest of huge pages.
const LARGEST_PAGE: u64 = 16 << 30;

/// Say why memory cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MemoryError {
    /// A region is empty, passes the end of an address space or of its file.
    Extent,
    /// The kernel does not map it.
    Map(Errno),
    /// Regions overlap, or are too many.
    Table(MapError),
    /// A part of a queue lies in no region, or not at the multiple it must.
    Queue,
    /// The record of requests in flight has impossible measures.
    Record,
}

/// A part of a file, mapped.
#[derive(Debug)]
struct Window {
    map: SharedMap,
    /// Bytes of the mapping before the part.
    skip: usize,
}

impl Window {
    /// Map `len` bytes from `offset` on.
    fn new(file: &Fd, offset: u64, len: u64) -> Result<Self, MemoryError> {
        let end = offset.checked_add(len).ok_or(MemoryError::Extent)?;
        let extent = memfd::extent(file.raw()).map_err(MemoryError::Map)?;
        if len == 0 || extent.len.is_some_and(|file| end > file) {
            return Err(MemoryError::Extent);
        }
        let block = if extent.block.is_power_of_two() && extent.block <= LARGEST_PAGE {
            extent.block.max(PAGE)
        } else {
            PAGE
        };
        let start = offset & !(block - 1);
        let bytes = (end - start)
            .checked_next_multiple_of(block)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .ok_or(MemoryError::Extent)?;
        let map = SharedMap::new(file.raw(), start, bytes, true).map_err(MemoryError::Map)?;
        Ok(Self {
            map,
            skip: (offset - start) as usize,
        })
    }

    /// Give the address of the first byte of the part.
    fn base(&self) -> *mut u8 {
        // SAFETY: the mapping is longer than what is skipped.
        unsafe { self.map.base().add(self.skip) }
    }
}

/// One region of the guest's memory.
#[derive(Debug)]
pub(super) struct Mapping {
    window: Window,
    region: MemoryRegion,
    /// Kept to map it again.
    file: Fd,
}

impl Mapping {
    /// Map a region from the descriptor that came with it.
    pub(super) fn new(file: Fd, region: MemoryRegion) -> Result<Arc<Self>, MemoryError> {
        let window = Window::new(&file, region.mmap_offset, region.size)?;
        Ok(Arc::new(Self {
            window,
            region,
            file,
        }))
    }

    /// Map the same region once more.
    pub(super) fn again(&self) -> Result<Arc<Self>, MemoryError> {
        let file = self.file.duplicate().map_err(MemoryError::Map)?;
        Self::new(file, self.region)
    }

    /// Take the guest's memory away from whoever still uses this mapping: they read zeros and write what nobody sees.
    pub(super) fn detach(&self) -> Result<(), MemoryError> {
        self.window.map.detach().map_err(MemoryError::Map)
    }

    /// Tell whether this is the region that a front-end names.
    pub(super) fn is(&self, named: &MemoryRegion) -> bool {
        (
            self.region.guest_address,
            self.region.user_address,
            self.region.size,
        ) == (named.guest_address, named.user_address, named.size)
    }
}

/// Memory in which requests in flight are recorded, a part for each queue.
#[derive(Debug)]
pub(super) struct Record {
    window: Window,
    /// Bytes for each queue.
    stride: usize,
    queues: u16,
}

impl Record {
    /// Make the memory for `queues` queues of `size` descriptors; give it and its description for the front-end.
    pub(super) fn create(queues: u16, size: u16) -> Result<(Fd, InflightArea), MemoryError> {
        let len = Inflight::bytes(size) as u64 * u64::from(queues);
        if len == 0 || size > MAX_SIZE {
            return Err(MemoryError::Record);
        }
        let file = memfd::create(c"dpfs-inflight", len).map_err(MemoryError::Map)?;
        let area = InflightArea {
            mmap_size: len,
            mmap_offset: 0,
            num_queues: queues,
            queue_size: size,
        };
        Ok((file, area))
    }

    /// Map what the front-end kept.
    pub(super) fn open(file: &Fd, area: &InflightArea) -> Result<Arc<Self>, MemoryError> {
        let stride = Inflight::bytes(area.queue_size);
        let needed = stride as u64 * u64::from(area.num_queues);
        if needed == 0 || needed > area.mmap_size || area.queue_size > MAX_SIZE {
            return Err(MemoryError::Record);
        }
        Ok(Arc::new(Self {
            window: Window::new(file, area.mmap_offset, needed)?,
            stride,
            queues: area.num_queues,
        }))
    }
}

struct Parts {
    /// By guest-physical address: for descriptors.
    guest: MemoryMap,
    /// By the front-end's own addresses: for rings.
    user: MemoryMap,
    _regions: Vec<Arc<Mapping>>,
    record: Option<Arc<Record>>,
}

/// Share the guest's memory. It is unmapped when the last handle is gone.
#[derive(Clone)]
pub struct Memory(Arc<Parts>);

impl core::fmt::Debug for Memory {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.guest.fmt(out)
    }
}

impl Deref for Memory {
    type Target = MemoryMap;

    #[inline(always)]
    fn deref(&self) -> &MemoryMap {
        &self.0.guest
    }
}

impl Memory {
    /// Join regions, and the record of what is in flight where there is one.
    pub(super) fn new(
        regions: &[Arc<Mapping>],
        record: Option<Arc<Record>>,
    ) -> Result<Self, MemoryError> {
        let map = |address: fn(&MemoryRegion) -> u64| {
            let parts = regions.iter().map(|mapping| {
                let (base, len) = (mapping.window.base(), mapping.region.size);
                // SAFETY: the window is `len` bytes long and stays mapped while `_regions` holds it; nobody forms
                // references into it.
                unsafe { Region::new(address(&mapping.region), base, len) }
            });
            MemoryMap::new(&parts.collect::<Vec<_>>()).map_err(MemoryError::Table)
        };
        Ok(Self(Arc::new(Parts {
            guest: map(|region| region.guest_address)?,
            user: map(|region| region.user_address)?,
            _regions: regions.to_vec(),
            record,
        })))
    }

    /// Find a queue. Whoever uses the result must keep a handle of this memory beside it.
    pub(super) fn rings(&self, place: &VringAddr, size: u16) -> Result<Rings, MemoryError> {
        let find = |address, len, align| {
            let found = self.0.user.contiguous(address, len, align);
            found.ok_or(MemoryError::Queue)
        };
        let desc = find(place.descriptor, desc_bytes(size), 16)?;
        let avail = find(place.available, avail_bytes(size), 2)?;
        let used = find(place.used, used_bytes(size), 4)?;
        // SAFETY: the three areas lie in mapped regions, which the caller's handle keeps.
        unsafe { Rings::new(desc, avail, used, size) }.map_err(|_| MemoryError::Queue)
    }

    /// Open the record of queue `index`, `None` when there is none for it. Whoever uses the result must keep a handle
    /// of this memory beside it, and open it once only.
    pub(super) fn record(
        &self,
        index: usize,
        size: u16,
        used_idx: u16,
    ) -> Result<Option<Inflight>, MemoryError> {
        let Some(record) = &self.0.record else {
            return Ok(None);
        };
        if index >= usize::from(record.queues) {
            return Ok(None);
        }
        // SAFETY: `index` is below the number of queues, for all of which the window has room.
        let base = unsafe { record.window.base().add(index * record.stride) };
        // SAFETY: the part is `stride` bytes long, belongs to this queue, and is kept mapped by the caller's handle.
        let inflight = unsafe { Inflight::attach(base, record.stride, size, used_idx) };
        inflight.map(Some).map_err(|_| MemoryError::Record)
    }
}
