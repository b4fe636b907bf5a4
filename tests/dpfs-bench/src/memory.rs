//! The memory that a guest would have: one run, shared with the back-end as a file.

use dpfs::sys::fd::Fd;
use dpfs::sys::map::SharedMap;
use dpfs::sys::memfd;
use dpfs::virtq::{MemoryMap, Region};

/// Guest-physical address of the first byte; not zero, so that a back-end that confuses addresses is found out.
pub const GUEST: u64 = 1 << 32;

/// Hold the memory. Offsets count from its first byte.
pub struct Memory {
    file: Fd,
    map: SharedMap,
}

impl Memory {
    /// Reserve `bytes`, all zero.
    pub fn new(bytes: u64) -> Result<Self, String> {
        let fail = |error| format!("{bytes} bytes of shared memory: {error}");
        let file = memfd::create(c"dpfs-bench", bytes).map_err(fail)?;
        let map = SharedMap::new(file.raw(), 0, bytes as usize, true).map_err(fail)?;
        Ok(Self { file, map })
    }

    /// Give the file to share.
    pub fn file(&self) -> i32 {
        self.file.raw()
    }

    /// Give the length in bytes.
    pub fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Describe it as a device in this process sees it.
    pub fn regions(&self) -> MemoryMap {
        // SAFETY: mapped while `self` lives, which outlives every queue; reached through raw pointers only.
        let region = unsafe { Region::new(GUEST, self.map.base(), self.len()) };
        MemoryMap::new(&[region]).expect("one region, not empty")
    }

    fn place(&self, offset: u64, len: usize) -> *mut u8 {
        assert!(offset + len as u64 <= self.len(), "our own layout");
        // SAFETY: inside the mapping.
        unsafe { self.map.base().add(offset as usize) }
    }

    /// Copy bytes in.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let place = self.place(offset, bytes.len());
        // SAFETY: inside the mapping; the device may race with it only where it breaks the protocol, and then any bytes
        // may be seen.
        unsafe { place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// Copy bytes out.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        let place = self.place(offset, bytes.len());
        // SAFETY: as for `write`.
        unsafe { place.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
    }
}
