//! A spin lock for a few instructions' work. Unlike the crate `spin`'s, all zero bits are an open lock, and loom can
//! look inside.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use super::sync::{AtomicU32, Ordering, Shared, relax};

const OPEN: u32 = 0;
const TAKEN: u32 = 1;

/// Guard a value that cores change in turn. Never held across a wait, a system call or a caller's long work.
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[cfg_attr(loom, derive(Default))]
pub(super) struct SpinLock<T> {
    word: AtomicU32,
    value: Shared<T>,
}

// SAFETY: the lock gives the value to one thread at a time; that is the same as sending it from one to the next.
unsafe impl<T: Send> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// Make an open lock.
    pub(super) fn new(value: T) -> Self {
        Self {
            word: AtomicU32::new(OPEN),
            value: Shared::new(value),
        }
    }

    /// Wait for the lock.
    #[inline]
    pub(super) fn lock(&self) -> Guard<'_, T> {
        while self
            .word
            .compare_exchange_weak(OPEN, TAKEN, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            // Wait on a plain load: it keeps the line shared, where a failing exchange would take it from the owner.
            while self.word.load(Ordering::Relaxed) != OPEN {
                relax();
            }
        }
        Guard {
            lock: self,
            exclusive: PhantomData,
        }
    }
}

/// Hold a lock; dropping this opens it.
pub(super) struct Guard<'a, T> {
    lock: &'a SpinLock<T>,
    /// A shared guard gives out `&T`, so it may cross threads only when `T` may.
    exclusive: PhantomData<&'a mut T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the lock is taken by this guard alone, and changing the value needs `&mut` of it.
        unsafe { self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is taken by this guard alone, and `&mut self` makes the borrow exclusive.
        unsafe { self.lock.value.get_mut() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.word.store(OPEN, Ordering::Release);
    }
}

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn threads_take_turns() {
        let rounds = if cfg!(miri) { 20 } else { 10_000 };
        let lock = SpinLock::new(0u32);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..rounds).for_each(|_| *lock.lock() += 1));
            }
        });
        assert_eq!(*lock.lock(), 3 * rounds);
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::Arc;

    #[test]
    fn the_second_owner_sees_what_the_first_did() {
        loom::model(|| {
            let lock = Arc::new(SpinLock::new(0u32));
            let other = lock.clone();
            let thread = loom::thread::spawn(move || *other.lock() += 1);
            *lock.lock() += 1;
            thread.join().unwrap();
            assert_eq!(*lock.lock(), 2);
        });
    }
}
