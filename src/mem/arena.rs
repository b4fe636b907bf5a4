//! A run of memory, reserved once, from which tables are carved at start.

use core::cell::Cell;
use core::marker::PhantomData;
use core::mem::MaybeUninit;

use zerocopy::FromZeros;

/// Say that an arena is too small for what was asked of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub wanted: usize,
    /// Bytes left.
    pub left: usize,
}

/// Hand out pieces of zeroed memory that are never given back.
///
/// Pages of a fresh mapping cost nothing until they are touched, and [`Arena::zeroed`] touches none, so a table may be
/// reserved for its largest size and still use only what it holds.
pub struct Arena {
    start: *mut u8,
    used: Cell<usize>,
    len: usize,
    memory: PhantomData<&'static mut [MaybeUninit<u8>]>,
}

// SAFETY: an arena owns its memory; moving it to another thread moves all access to the part not yet handed out.
unsafe impl Send for Arena {}

impl Arena {
    /// Take over memory that is all zero.
    ///
    /// # Safety
    /// Every byte of `memory` must be initialised to zero.
    pub unsafe fn new(memory: &'static mut [MaybeUninit<u8>]) -> Self {
        Self {
            start: memory.as_mut_ptr().cast(),
            used: Cell::new(0),
            len: memory.len(),
            memory: PhantomData,
        }
    }

    /// Give `count` values of `T`, all bits zero, without touching their memory.
    ///
    /// # Errors
    /// [`OutOfMemory`] when too little is left; nothing is taken then.
    pub fn zeroed<T: FromZeros>(&self, count: usize) -> Result<&'static mut [T], OutOfMemory> {
        let used = self.used.get();
        let pad = (self.start as usize + used).wrapping_neg() % align_of::<T>();
        let error = OutOfMemory {
            wanted: count.saturating_mul(size_of::<T>()),
            left: self.len - used,
        };
        let wanted = count
            .checked_mul(size_of::<T>())
            .and_then(|bytes| bytes.checked_add(pad))
            .ok_or(error)?;
        if wanted > self.len - used {
            return Err(error);
        }
        self.used.set(used + wanted);
        // SAFETY: `used + pad` lies within the memory or at its end, as checked above.
        let first = unsafe { self.start.add(used + pad) }.cast::<T>();
        // SAFETY: the range is aligned, inside the memory that this arena owns for ever, handed out only once because
        // `used` never shrinks, and all zero by the contract of `new`, which is a valid `T` by `FromZeros`.
        Ok(unsafe { core::slice::from_raw_parts_mut(first, count) })
    }

    /// Give one value, moved into the arena.
    ///
    /// # Errors
    /// [`OutOfMemory`] when too little is left; the value is dropped then.
    pub fn place<T>(&self, value: T) -> Result<&'static mut T, OutOfMemory> {
        let bytes = self.zeroed::<u8>(size_of::<T>() + align_of::<T>() - 1)?;
        let pad = (bytes.as_ptr() as usize).wrapping_neg() % align_of::<T>();
        // SAFETY: `pad` is less than the alignment, by which the bytes were made longer than the value.
        let place = unsafe { bytes.as_mut_ptr().add(pad) }.cast::<T>();
        // SAFETY: the place is aligned, large enough, exclusively ours and lives for ever.
        unsafe {
            place.write(value);
            Ok(&mut *place)
        }
    }

    /// Tell how many bytes are handed out.
    pub fn used(&self) -> usize {
        self.used.get()
    }
}

#[cfg(all(test, feature = "std"))]
pub(crate) fn test_arena(bytes: usize) -> Arena {
    use core::sync::atomic::AtomicPtr;
    /// Keeps what tests leak in reach, or Miri would report it.
    static LEAKED: std::sync::Mutex<std::vec::Vec<AtomicPtr<u8>>> =
        std::sync::Mutex::new(std::vec::Vec::new());

    // Bytes rather than `MaybeUninit`, which the standard library would fill one by one.
    let memory = std::vec![0u8; bytes].leak();
    let base = memory.as_mut_ptr();
    LEAKED.lock().unwrap().push(AtomicPtr::new(base));
    // SAFETY: the memory is zero, leaked and nobody else's.
    unsafe { Arena::new(core::slice::from_raw_parts_mut(base.cast(), bytes)) }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_aligned_disjoint_and_bounded() {
        let arena = test_arena(64);
        let bytes = arena.zeroed::<u8>(3).unwrap();
        let words = arena.zeroed::<u64>(2).unwrap();
        bytes.fill(0xff);
        assert_eq!(words, [0, 0]);
        assert_eq!(words.as_ptr() as usize % 8, 0);
        let error = arena.zeroed::<u64>(8).unwrap_err();
        assert_eq!(error.wanted, 64);
        assert!(arena.zeroed::<u64>(usize::MAX).is_err());
        assert!(arena.zeroed::<u8>(1).is_ok());
    }

    #[test]
    fn a_placed_value_is_kept() {
        let arena = test_arena(64);
        arena.zeroed::<u8>(1).unwrap();
        let value = arena.place(0x0123_4567_89ab_cdef_u64).unwrap();
        *value += 1;
        assert_eq!(*value, 0x0123_4567_89ab_cdf0);
    }
}
