//! INTERRUPTs whose target is on another core: each core is told of all, and looks among its own requests.

use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

/// How many the slowest core may be behind before it misses one. The host then asks again: INTERRUPT was answered
/// with `EAGAIN`.
const DEPTH: usize = 64;

/// Hold the latest interrupts of a device.
pub struct Interrupts {
    written: AtomicU64,
    uniques: [AtomicU64; DEPTH],
    writer: Mutex<()>,
}

impl Interrupts {
    pub(super) const fn new() -> Self {
        Self {
            written: AtomicU64::new(0),
            uniques: [const { AtomicU64::new(0) }; DEPTH],
            writer: Mutex::new(()),
        }
    }

    /// Tell every core of the device that the request `unique` is to be interrupted.
    pub(super) fn post(&self, unique: u64) {
        let _one_writer = self.writer.lock();
        let written = self.written.load(Ordering::Relaxed);
        self.uniques[written as usize % DEPTH].store(unique, Ordering::Relaxed);
        self.written.store(written + 1, Ordering::Release);
    }

    /// Call `heard` with each interrupt since `seen`, which counts those that this core was told of.
    #[inline]
    pub(super) fn drain(&self, seen: &mut u64, mut heard: impl FnMut(u64)) {
        let written = self.written.load(Ordering::Acquire);
        *seen = (*seen).max(written.saturating_sub(DEPTH as u64));
        while *seen < written {
            heard(self.uniques[*seen as usize % DEPTH].load(Ordering::Relaxed));
            *seen += 1;
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn each_core_hears_each_interrupt_once() {
        let interrupts = Interrupts::new();
        let (mut one, mut other) = (0, 0);
        interrupts.post(5);
        interrupts.post(7);
        let hear = |seen: &mut u64| {
            let mut all = std::vec::Vec::new();
            interrupts.drain(seen, |unique| all.push(unique));
            all
        };
        assert_eq!(hear(&mut one), [5, 7]);
        assert!(hear(&mut one).is_empty());
        interrupts.post(9);
        assert_eq!(hear(&mut one), [9]);
        assert_eq!(hear(&mut other), [5, 7, 9]);
        (100..200).for_each(|unique| interrupts.post(unique));
        assert!(hear(&mut one).into_iter().eq(200 - DEPTH as u64..200));
    }
}
