//! The atomics and places of the shared tables: the machine's own, or loom's when a model is checked.
//!
//! With `--cfg loom` every atomic and every [`Place`] is one that loom watches. Those are not valid when all zero, so
//! [`table`] then builds them on the heap instead of taking the arena's untouched memory.

use core::mem::MaybeUninit;

#[cfg(not(loom))]
pub(super) use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
};
#[cfg(loom)]
pub(super) use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use super::{Arena, OutOfMemory};

/// Let another thread go on while this one spins.
#[inline]
pub(super) fn relax() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// Give `count` elements in their first state: all bits zero.
#[cfg(not(loom))]
pub(super) fn table<T: zerocopy::FromZeros>(
    arena: &Arena,
    count: usize,
) -> Result<&'static [T], OutOfMemory> {
    Ok(arena.zeroed(count)?)
}

/// Give `count` elements in their first state.
#[cfg(loom)]
pub(super) fn table<T: Default>(_: &Arena, count: usize) -> Result<&'static [T], OutOfMemory> {
    let elements: std::vec::Vec<T> = (0..count).map(|_| T::default()).collect();
    Ok(elements.leak())
}

/// Hold a value that several cores reach by a rule that its owner keeps.
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[cfg_attr(loom, derive(Default))]
#[repr(transparent)]
pub(super) struct Shared<T>(UnsafeCell<T>);

impl<T> Shared<T> {
    /// Hold a value.
    pub(super) fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Borrow the value.
    ///
    /// # Safety
    /// Nobody changes it while the borrow lasts.
    #[inline]
    pub(super) unsafe fn get(&self) -> &T {
        #[cfg(not(loom))]
        let value = self.0.get().cast_const();
        #[cfg(loom)]
        let value = self.0.with(|value| value);
        // SAFETY: the pointer is to our own value, and by this function's contract that is only read.
        unsafe { &*value }
    }

    /// Borrow the value to change it.
    ///
    /// # Safety
    /// Nobody else reaches it while the borrow lasts.
    #[expect(
        clippy::mut_from_ref,
        reason = "that the borrow is exclusive is the contract"
    )]
    #[inline]
    pub(super) unsafe fn get_mut(&self) -> &mut T {
        #[cfg(not(loom))]
        let value = self.0.get();
        #[cfg(loom)]
        let value = self.0.with_mut(|value| value);
        // SAFETY: the pointer is to our own value, and by this function's contract the borrow is exclusive.
        unsafe { &mut *value }
    }
}

/// Keep room for a value that several cores reach by a rule that its owner keeps.
///
/// It starts empty, as zero bits of any kind, and drops no value by itself.
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[repr(transparent)]
pub(super) struct Place<T>(Shared<MaybeUninit<T>>);

#[cfg(loom)]
impl<T> Default for Place<T> {
    fn default() -> Self {
        Self(Shared::new(MaybeUninit::uninit()))
    }
}

impl<T> Place<T> {
    /// Put a value in, over whatever was there.
    ///
    /// # Safety
    /// Nobody else reaches the place meanwhile.
    #[inline]
    pub(super) unsafe fn write(&self, value: T) {
        // SAFETY: as our own contract.
        unsafe { self.0.get_mut() }.write(value);
    }

    /// Move the value out.
    ///
    /// # Safety
    /// The place holds a value, which is not used again; nobody else reaches the place meanwhile.
    #[inline]
    pub(super) unsafe fn take(&self) -> T {
        // SAFETY: as our own contract.
        unsafe { self.0.get_mut().assume_init_read() }
    }

    /// Borrow the value.
    ///
    /// # Safety
    /// The place holds a value, which nobody changes while the borrow lasts.
    #[inline]
    pub(super) unsafe fn get(&self) -> &T {
        // SAFETY: as our own contract.
        unsafe { self.0.get().assume_init_ref() }
    }

    /// Borrow the value to change it.
    ///
    /// # Safety
    /// The place holds a value, and nobody else reaches it while the borrow lasts.
    #[expect(
        clippy::mut_from_ref,
        reason = "that the borrow is exclusive is the contract"
    )]
    #[inline]
    pub(super) unsafe fn get_mut(&self) -> &mut T {
        // SAFETY: as our own contract.
        unsafe { self.0.get_mut().assume_init_mut() }
    }
}
