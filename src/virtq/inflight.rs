//! The record of what is in flight, in memory that outlives this process.
//!
//! A vhost-user front-end keeps the area and hands it to the back-end that takes over; the layout is that of the
//! split-virtqueue region in QEMU's `docs/interop/vhost-user.rst`, section "Inflight I/O tracking":
//!
//! ```text
//! features u64 | version u16 = 1 | desc_num u16 | last_batch_head u16 | used_idx u16
//! then desc_num times:  inflight u8 | padding [u8; 5] | next u16 | counter u64
//! ```
//!
//! A process may be killed between any two stores, never inside one, and what it stored before stays visible. So only
//! the order of stores counts, and a release store where it matters keeps that.

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use super::layout::MAX_SIZE;

const HEADER: usize = 16;
const ENTRY: usize = 16;
const VERSION: u16 = 1;

/// Say why an area records nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InflightError {
    /// It is shorter than [`Inflight::bytes`] says, or not at a multiple of 8.
    Area,
    /// It was written for another queue size or by another version of the layout.
    Layout,
    /// It records more requests than the queue has descriptors, or an impossible batch.
    Content,
}

/// Record the requests of one queue that are in flight.
#[derive(Debug)]
pub struct Inflight {
    base: *mut u8,
    size: u16,
    /// Order of the next request that is taken.
    counter: u64,
    /// Requests recorded by a predecessor that are still to be taken again.
    left: u16,
    /// The one taken again last, as (counter, head).
    last: Option<(u64, u16)>,
    /// The area held a record when it was attached.
    resumed: bool,
}

// SAFETY: see the contract of `attach`, which does not depend on the thread.
unsafe impl Send for Inflight {}

impl Inflight {
    /// Give the bytes that the record of one queue needs, a multiple of 64.
    pub const fn bytes(size: u16) -> usize {
        (HEADER + ENTRY * size as usize).next_multiple_of(64)
    }

    /// Open an area: fresh when it is all zero, a predecessor's otherwise. Finish what the predecessor began to
    /// publish, given the queue's `used_idx`.
    ///
    /// # Errors
    /// [`InflightError`] when the area is not one for a queue of this size.
    ///
    /// # Safety
    /// While the value lives, `len` bytes from `base` must be mapped for reading and writing, and this process may
    /// reach them only through this value. Others may change them.
    pub unsafe fn attach(
        base: *mut u8,
        len: usize,
        size: u16,
        used_idx: u16,
    ) -> Result<Self, InflightError> {
        if len < Self::bytes(size) || !(base as usize).is_multiple_of(8) || size > MAX_SIZE {
            return Err(InflightError::Area);
        }
        let mut record = Self {
            base,
            size,
            counter: 0,
            left: 0,
            last: None,
            resumed: false,
        };
        match record.version().load(Ordering::Relaxed) {
            0 => {
                record.desc_num().store(size, Ordering::Relaxed);
                record.used_idx().store(used_idx, Ordering::Relaxed);
                record.version().store(VERSION, Ordering::Release);
            }
            VERSION if record.desc_num().load(Ordering::Relaxed) == size => {
                record.recover(used_idx)?;
                record.resumed = true;
            }
            _ => return Err(InflightError::Layout),
        }
        Ok(record)
    }

    fn recover(&mut self, used_idx: u16) -> Result<(), InflightError> {
        let batch = used_idx.wrapping_sub(self.used_idx().load(Ordering::Relaxed));
        if batch > self.size {
            return Err(InflightError::Content);
        }
        self.end_batch(batch, used_idx);
        for head in 0..self.size {
            if self.inflight(head).load(Ordering::Relaxed) == 1 {
                self.left += 1;
                let counter = self.counter_of(head).load(Ordering::Relaxed);
                self.counter = self.counter.max(counter.saturating_add(1));
            }
        }
        Ok(())
    }

    /// Give the number of requests that a predecessor left in flight and that were not yet taken again.
    pub const fn left(&self) -> u16 {
        self.left
    }

    /// Take the oldest of them again.
    ///
    /// Looks through the whole record, which is done once for each request after a restart and never again.
    #[cold]
    pub(super) fn take_again(&mut self) -> Option<u16> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let next = (0..self.size)
            .filter(|&head| self.inflight(head).load(Ordering::Relaxed) == 1)
            .map(|head| (self.counter_of(head).load(Ordering::Relaxed), head))
            .filter(|&order| Some(order) > self.last)
            .min();
        // None only when somebody else wrote the area meanwhile.
        self.last = next.or(self.last);
        next.map(|(_, head)| head)
    }

    /// Tell whether the area held a predecessor's record.
    pub const fn resumed(&self) -> bool {
        self.resumed
    }

    /// Record that the chain at `head` was taken.
    #[inline]
    pub(super) fn taken(&mut self, head: u16) {
        self.counter_of(head).store(self.counter, Ordering::Relaxed);
        self.counter = self.counter.wrapping_add(1);
        self.inflight(head).store(1, Ordering::Release);
    }

    /// Record that the used element of `head` was written, before it is published.
    #[inline]
    pub(super) fn put(&mut self, head: u16) {
        let last = self.last_batch_head().load(Ordering::Relaxed);
        self.next(head).store(last, Ordering::Relaxed);
        self.last_batch_head().store(head, Ordering::Release);
    }

    /// Record that the last `batch` used elements were published and that the used index is now `used_idx`.
    #[inline]
    pub(super) fn end_batch(&mut self, batch: u16, used_idx: u16) {
        let mut head = self.last_batch_head().load(Ordering::Relaxed);
        for _ in 0..batch {
            if head >= self.size {
                // Somebody else wrote that. The rest is taken for in flight, at worst done twice after a restart.
                break;
            }
            self.inflight(head).store(0, Ordering::Relaxed);
            head = self.next(head).load(Ordering::Relaxed);
        }
        self.used_idx().store(used_idx, Ordering::Release);
    }

    /// Give one 16-bit field.
    ///
    /// # Safety
    /// `offset` is even and below the record's end.
    #[inline(always)]
    unsafe fn half(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: mapped by the contract of `attach`; base and offset are even.
        unsafe { AtomicU16::from_ptr(self.base.add(offset).cast()) }
    }

    #[inline(always)]
    fn version(&self) -> &AtomicU16 {
        // SAFETY: in the header.
        unsafe { self.half(8) }
    }

    #[inline(always)]
    fn desc_num(&self) -> &AtomicU16 {
        // SAFETY: in the header.
        unsafe { self.half(10) }
    }

    #[inline(always)]
    fn last_batch_head(&self) -> &AtomicU16 {
        // SAFETY: in the header.
        unsafe { self.half(12) }
    }

    #[inline(always)]
    fn used_idx(&self) -> &AtomicU16 {
        // SAFETY: in the header.
        unsafe { self.half(14) }
    }

    /// Give where the entry of `head` begins. Heads are below the size wherever they come from.
    #[inline(always)]
    fn entry(&self, head: u16) -> usize {
        debug_assert!(head < self.size);
        HEADER + ENTRY * head as usize
    }

    #[inline(always)]
    fn inflight(&self, head: u16) -> &AtomicU8 {
        // SAFETY: in the entry of a head below the size, which `attach` checked to fit.
        unsafe { AtomicU8::from_ptr(self.base.add(self.entry(head))) }
    }

    #[inline(always)]
    fn next(&self, head: u16) -> &AtomicU16 {
        // SAFETY: as above.
        unsafe { self.half(self.entry(head) + 6) }
    }

    #[inline(always)]
    fn counter_of(&self, head: u16) -> &AtomicU64 {
        // SAFETY: as above; base, header and entries are multiples of 8.
        unsafe { AtomicU64::from_ptr(self.base.add(self.entry(head) + 8).cast()) }
    }
}

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use super::*;
    use std::vec::Vec;

    const SIZE: u16 = 4;

    struct Area(Vec<u64>);

    impl Area {
        fn new() -> Self {
            Self(std::vec![0; Inflight::bytes(SIZE) / 8])
        }

        fn attach(&mut self, used_idx: u16) -> Result<Inflight, InflightError> {
            // SAFETY: the tests keep the area and use one record at a time.
            unsafe {
                Inflight::attach(self.0.as_mut_ptr().cast(), 8 * self.0.len(), SIZE, used_idx)
            }
        }
    }

    fn again(record: &mut Inflight) -> Vec<u16> {
        core::iter::from_fn(|| record.take_again()).collect()
    }

    #[test]
    fn a_successor_takes_again_what_was_in_flight_in_the_order_it_was_taken() {
        let mut area = Area::new();
        let mut record = area.attach(0).unwrap();
        assert!(!record.resumed());
        for head in [3, 0, 2] {
            record.taken(head);
        }
        record.put(0);
        record.end_batch(1, 1);
        record.taken(0);
        let mut record = area.attach(1).unwrap();
        assert!(record.resumed());
        assert_eq!(record.left(), 3);
        assert_eq!(again(&mut record), [3, 2, 0]);
        record.taken(1);
        let mut record = area.attach(1).unwrap();
        assert_eq!(again(&mut record), [3, 2, 0, 1], "new ones come last");
    }

    #[test]
    fn a_batch_that_was_published_but_not_recorded_is_not_done_again() {
        for published in [0, 2] {
            let mut area = Area::new();
            let mut record = area.attach(u16::MAX).unwrap();
            for head in 0..4 {
                record.taken(head);
            }
            record.put(2);
            record.put(1);
            // Killed here, before or after the store to the used ring's index.
            let mut record = area.attach(u16::MAX.wrapping_add(published)).unwrap();
            let left = again(&mut record);
            if published == 2 {
                assert_eq!(left, [0, 3]);
            } else {
                assert_eq!(left, [0, 1, 2, 3]);
            }
        }
    }

    #[test]
    fn an_area_of_another_queue_is_refused() {
        let mut area = Area::new();
        area.attach(0).unwrap();
        let at = |area: &mut Area, len: usize, size| {
            let base = area.0.as_mut_ptr().cast();
            // SAFETY: never more than the area.
            unsafe { Inflight::attach(base, len, size, 0) }.map(|_| ())
        };
        let len = 8 * area.0.len();
        assert_eq!(at(&mut area, len, 2), Err(InflightError::Layout));
        assert_eq!(at(&mut area, len, 8), Err(InflightError::Area));
        assert_eq!(at(&mut area, len - 1, SIZE), Err(InflightError::Area));
        assert_eq!(area.attach(5).unwrap_err(), InflightError::Content);
        area.0[1] = 2;
        assert_eq!(area.attach(0).unwrap_err(), InflightError::Layout);
    }

    #[test]
    fn nothing_written_into_the_area_meanwhile_leads_outside() {
        let mut area = Area::new();
        let mut record = area.attach(0).unwrap();
        for head in 0..4 {
            record.taken(head);
        }
        record.last_batch_head().store(60000, Ordering::Relaxed);
        record.end_batch(4, 4);
        record.put(1);
        record.next(1).store(60000, Ordering::Relaxed);
        record.end_batch(4, 8);
        let mut record = area.attach(8).unwrap();
        assert_eq!(record.left(), 3);
        record.inflight(0).store(0, Ordering::Relaxed);
        assert_eq!(again(&mut record), [2, 3]);
    }
}
