//! The three areas of a split virtqueue, through one accessor for each field.

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Most descriptors of a queue (VIRTIO 1.3, section 2.7).
pub const MAX_SIZE: u16 = 32768;

/// Descriptor flag: `next` names another descriptor of the chain.
pub(super) const DESC_F_NEXT: u16 = 1;
/// Descriptor flag: the device writes the buffer; otherwise it reads it.
pub(super) const DESC_F_WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors.
pub(super) const DESC_F_INDIRECT: u16 = 4;

/// Available ring flag: the driver wants no interrupt.
pub(super) const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// Used ring flag: the device wants no notification.
pub(super) const USED_F_NO_NOTIFY: u16 = 1;

/// Hold one descriptor, copied out of the host's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Descriptor {
    /// Host-physical address of the buffer.
    pub address: u64,
    /// Length of the buffer in bytes.
    pub len: u32,
    /// `VIRTQ_DESC_F_*`: 1 next, 2 write, 4 indirect.
    pub flags: u16,
    /// Index of the next descriptor, when flagged.
    pub next: u16,
}

/// Bytes of one descriptor.
pub(super) const DESC_LEN: u64 = 16;

impl Descriptor {
    /// Take apart the two words of a descriptor in memory.
    #[inline(always)]
    pub(super) const fn from_words(address: u64, rest: u64) -> Self {
        Self {
            address,
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }

    /// Give flags and next as one number, next in its upper half.
    #[inline(always)]
    pub(super) const fn tail(self) -> u32 {
        self.flags as u32 | (self.next as u32) << 16
    }

    /// Put together the two words.
    pub(super) const fn words(self) -> (u64, u64) {
        (
            self.address,
            self.len as u64 | (self.flags as u64) << 32 | (self.next as u64) << 48,
        )
    }
}

/// Load a descriptor, each of its words once.
///
/// # Safety
/// 16 bytes from `place` on are mapped, and `place` is a multiple of 8.
#[inline(always)]
pub(super) unsafe fn load_descriptor(place: *mut u8) -> Descriptor {
    let words = place.cast::<u64>();
    // SAFETY: mapped and aligned, as the caller says; the driver's writes do not race with an atomic load.
    let (address, rest) = unsafe {
        (
            AtomicU64::from_ptr(words).load(Ordering::Relaxed),
            AtomicU64::from_ptr(words.add(1)).load(Ordering::Relaxed),
        )
    };
    Descriptor::from_words(address, rest)
}

/// Load one byte.
///
/// # Safety
/// `place` is mapped.
pub(super) unsafe fn load_byte(place: *mut u8) -> u8 {
    // SAFETY: mapped, as the caller says; any address is aligned for a byte.
    unsafe { AtomicU8::from_ptr(place).load(Ordering::Relaxed) }
}

/// Store a descriptor: the driver's side.
///
/// # Safety
/// As for [`load_descriptor`].
pub(super) unsafe fn store_descriptor(place: *mut u8, descriptor: Descriptor) {
    let words = place.cast::<u64>();
    let (address, rest) = descriptor.words();
    // SAFETY: mapped and aligned, as the caller says.
    unsafe {
        AtomicU64::from_ptr(words).store(address, Ordering::Relaxed);
        AtomicU64::from_ptr(words.add(1)).store(rest, Ordering::Relaxed);
    }
}

/// Give the bytes of a descriptor table.
pub const fn desc_bytes(size: u16) -> u64 {
    16 * size as u64
}

/// Give the bytes of an available ring, `used_event` included.
pub const fn avail_bytes(size: u16) -> u64 {
    6 + 2 * size as u64
}

/// Give the bytes of a used ring, `avail_event` included.
pub const fn used_bytes(size: u16) -> u64 {
    6 + 8 * size as u64
}

/// Say why three areas make no queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RingsError {
    /// The size is no power of two, or zero, or more than [`MAX_SIZE`].
    Size,
    /// The descriptor table is not at a multiple of 16, the available ring of 2, the used ring of 4.
    Alignment,
}

/// Reach the fields of a queue. Plain pointers: copying it copies no memory.
///
/// The atomics it forms are the only references to host memory in this program. An atomic promises neither that
/// nobody else writes nor what is read, so the host can break no assumption of the compiler.
#[derive(Clone, Copy, Debug)]
pub struct Rings {
    desc: *mut u8,
    avail: *mut u16,
    used: *mut u16,
    /// One less than the size.
    mask: u32,
}

// SAFETY: see the contract of `new`, which does not depend on the thread.
unsafe impl Send for Rings {}

impl Rings {
    /// Describe a queue of `size` descriptors.
    ///
    /// # Errors
    /// [`RingsError`] when the size or an alignment is not allowed (VIRTIO 1.3, section 2.7).
    ///
    /// # Safety
    /// While the value or a copy of it is used, [`desc_bytes`], [`avail_bytes`] and [`used_bytes`] of `size` must be
    /// mapped at the three places for reading and writing, and this process may reach them only by atomic operations.
    pub unsafe fn new(
        desc: *mut u8,
        avail: *mut u8,
        used: *mut u8,
        size: u16,
    ) -> Result<Self, RingsError> {
        if !size.is_power_of_two() || size > MAX_SIZE {
            return Err(RingsError::Size);
        }
        let aligned = |place: *mut u8, to: usize| (place as usize).is_multiple_of(to);
        if !aligned(desc, 16) || !aligned(avail, 2) || !aligned(used, 4) {
            return Err(RingsError::Alignment);
        }
        Ok(Self {
            desc,
            avail: avail.cast(),
            used: used.cast(),
            mask: u32::from(size) - 1,
        })
    }

    /// Give the number of descriptors.
    #[inline(always)]
    pub const fn size(&self) -> u16 {
        self.mask as u16 + 1
    }

    /// Tell whether there is a descriptor of this index.
    #[inline(always)]
    pub(super) const fn has(&self, index: u16) -> bool {
        index as u32 <= self.mask
    }

    /// Read the used index: the number of used elements that the device has published, modulo 2^16.
    pub fn published(&self) -> u16 {
        self.used_idx().load(Ordering::Relaxed)
    }

    /// Give where the table lies, for the walk of a chain.
    #[inline(always)]
    pub(super) const fn table(&self) -> *mut u8 {
        self.desc
    }

    /// Give the place in a ring of a free-running index: below the size.
    #[inline(always)]
    const fn slot(&self, index: u16) -> usize {
        (index as u32 & self.mask) as usize
    }

    /// Give a field of the available ring, counted in 16-bit words.
    ///
    /// # Safety
    /// `word` is below 3 + size.
    #[inline(always)]
    unsafe fn avail(&self, word: usize) -> &AtomicU16 {
        // SAFETY: mapped by the contract of `new`, aligned as checked there.
        unsafe { AtomicU16::from_ptr(self.avail.add(word)) }
    }

    /// Give a 16-bit field of the used ring, counted in 16-bit words.
    ///
    /// # Safety
    /// `word` is below 3 + 4 * size.
    #[inline(always)]
    unsafe fn used(&self, word: usize) -> &AtomicU16 {
        // SAFETY: as for `avail`.
        unsafe { AtomicU16::from_ptr(self.used.add(word)) }
    }

    /// Give one half of an element of the used ring.
    ///
    /// # Safety
    /// `half` is 0 or 1.
    #[inline(always)]
    unsafe fn used_half(&self, index: u16, half: usize) -> &AtomicU32 {
        let word = 2 + 4 * self.slot(index) + 2 * half;
        // SAFETY: `index` is masked, so the four bytes lie inside the ring; words 2, 4, .. are multiples of four bytes
        // from a start that is one.
        unsafe { AtomicU32::from_ptr(self.used.add(word).cast()) }
    }

    /// The driver's wish not to be interrupted.
    #[inline(always)]
    pub(super) fn avail_flags(&self) -> &AtomicU16 {
        // SAFETY: the first word.
        unsafe { self.avail(0) }
    }

    /// Where the driver puts the next chain.
    #[inline(always)]
    pub(super) fn avail_idx(&self) -> &AtomicU16 {
        // SAFETY: the second word.
        unsafe { self.avail(1) }
    }

    /// The head of the chain at a free-running index.
    #[inline(always)]
    pub(super) fn avail_entry(&self, index: u16) -> &AtomicU16 {
        // SAFETY: `index` is masked to below the size.
        unsafe { self.avail(2 + self.slot(index)) }
    }

    /// The used index at which the driver wants an interrupt.
    #[inline(always)]
    pub(super) fn used_event(&self) -> &AtomicU16 {
        // SAFETY: the last word.
        unsafe { self.avail(2 + self.size() as usize) }
    }

    /// The device's wish not to be notified.
    #[inline(always)]
    pub(super) fn used_flags(&self) -> &AtomicU16 {
        // SAFETY: the first word.
        unsafe { self.used(0) }
    }

    /// Where the device puts the next used element.
    #[inline(always)]
    pub(super) fn used_idx(&self) -> &AtomicU16 {
        // SAFETY: the second word.
        unsafe { self.used(1) }
    }

    /// The available index at which the device wants a notification.
    #[inline(always)]
    pub(super) fn avail_event(&self) -> &AtomicU16 {
        // SAFETY: the last word.
        unsafe { self.used(2 + 4 * self.size() as usize) }
    }

    /// Write the used element at a free-running index.
    #[inline(always)]
    pub(super) fn store_used(&self, index: u16, id: u16, len: u32) {
        // SAFETY: the two halves.
        let (head, written) = unsafe { (self.used_half(index, 0), self.used_half(index, 1)) };
        head.store(u32::from(id), Ordering::Relaxed);
        written.store(len, Ordering::Relaxed);
    }

    /// Read the used element at a free-running index: the driver's side.
    pub(super) fn load_used(&self, index: u16) -> (u32, u32) {
        // SAFETY: the two halves.
        let (head, written) = unsafe { (self.used_half(index, 0), self.used_half(index, 1)) };
        (
            head.load(Ordering::Relaxed),
            written.load(Ordering::Relaxed),
        )
    }

    /// Write a descriptor of the table: the driver's side.
    pub(super) fn store_desc(&self, index: u16, descriptor: Descriptor) {
        let offset = DESC_LEN as usize * self.slot(index);
        // SAFETY: `index` is masked, so the descriptor lies inside the table, which is aligned to 16.
        unsafe { store_descriptor(self.desc.add(offset), descriptor) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_laid_out_as_in_the_specification() {
        // le64 addr; le32 len; le16 flags; le16 next
        let bytes: [u8; 16] = [8, 7, 6, 5, 4, 3, 2, 1, 0x44, 0x33, 0x22, 0x11, 5, 0, 9, 0];
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let descriptor = Descriptor::from_words(word(0), word(8));
        assert_eq!(
            descriptor,
            Descriptor {
                address: 0x0102_0304_0506_0708,
                len: 0x1122_3344,
                flags: DESC_F_NEXT | DESC_F_INDIRECT,
                next: 9,
            }
        );
        assert_eq!(descriptor.words(), (word(0), word(8)));
    }

    #[test]
    fn sizes_and_alignments_are_checked() {
        let at = |desc: usize, avail: usize, used: usize, size| {
            let place = |address| core::ptr::without_provenance_mut(address);
            // SAFETY: the value is dropped unused.
            unsafe { Rings::new(place(desc), place(avail), place(used), size) }.map(|_| ())
        };
        assert_eq!(at(16, 2, 4, 32768), Ok(()));
        assert_eq!(at(16, 2, 4, 1), Ok(()));
        for size in [0, 3, 32769, u16::MAX] {
            assert_eq!(at(16, 2, 4, size), Err(RingsError::Size));
        }
        assert_eq!(at(8, 2, 4, 2), Err(RingsError::Alignment));
        assert_eq!(at(16, 1, 4, 2), Err(RingsError::Alignment));
        assert_eq!(at(16, 2, 2, 2), Err(RingsError::Alignment));
    }
}
