//! The device's side of one queue.

use core::sync::atomic::Ordering;

use super::chain::{self, ChainError};
use super::inflight::Inflight;
use super::layout::{AVAIL_F_NO_INTERRUPT, Rings, USED_F_NO_NOTIFY};
use super::memory::{MemoryMap, RegionCache};
use super::{F_EVENT_IDX, F_INDIRECT_DESC, notify};
use crate::mem::SegmentList;

/// Entries after which a suppressed event index is moved on, so that the driver's index never wraps around to it.
const REFRESH: u16 = 0x4000;

/// Say why a queue takes no more chains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// The available index ran ahead by more chains than the queue has free descriptors.
    AvailIndex,
    /// An available entry names a descriptor that does not exist.
    HeadOutOfRange,
}

/// Say what [`DeviceQueue::take`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// A chain, by its head; its buffers are in the list. Give it back with [`DeviceQueue::put`].
    Chain(u16),
    /// A chain that breaks the rules; give it back with no bytes written. The list holds part of it.
    Bad(u16, ChainError),
    /// Nothing.
    Empty,
    /// Nothing, and never again.
    Broken(Broken),
}

/// What a look at the available index found.
enum Look {
    /// Entries to take.
    Ready,
    /// A head that a predecessor left in flight.
    Again(u16),
    Empty,
    Broken(Broken),
}

/// Say how a queue begins.
#[derive(Debug)]
pub struct Start {
    /// Where it lies.
    pub rings: Rings,
    /// Index of the first available entry to take, unless `inflight` holds a predecessor's record.
    pub next_avail: u16,
    /// Negotiated features: [`F_EVENT_IDX`] and [`F_INDIRECT_DESC`] are looked at.
    pub features: u64,
    /// Where to record what is in flight.
    pub inflight: Option<Inflight>,
}

/// Take chains from a queue and give them back. It starts with notifications suppressed.
#[derive(Debug)]
pub struct DeviceQueue {
    rings: Rings,
    /// Index of the next available entry to take.
    next_avail: u16,
    /// The available index when it was last read: up to there no look is needed.
    avail_seen: u16,
    /// Index of the next used element to write.
    next_used: u16,
    /// The used index that the driver sees.
    published: u16,
    /// Chains taken and not given back, at most the size.
    in_flight: u16,
    /// Where the avail event was parked last.
    parked: u16,
    event_idx: bool,
    indirect: bool,
    armed: bool,
    broken: Option<Broken>,
    cache: RegionCache,
    inflight: Option<Inflight>,
}

impl DeviceQueue {
    /// Begin with a queue that the driver set up.
    ///
    /// With a predecessor's record of requests in flight, these are taken again first, and the rest from where the
    /// used index and their number say; a base from elsewhere would miss those that were available but never taken.
    pub fn new(start: Start) -> Self {
        let used = start.rings.published();
        let next_avail = match &start.inflight {
            Some(record) if record.resumed() => used.wrapping_add(record.left()),
            _ => start.next_avail,
        };
        let mut queue = Self {
            rings: start.rings,
            next_avail,
            avail_seen: next_avail,
            next_used: used,
            published: used,
            in_flight: 0,
            parked: 0,
            event_idx: start.features & F_EVENT_IDX != 0,
            indirect: start.features & F_INDIRECT_DESC != 0,
            armed: false,
            broken: None,
            cache: RegionCache::default(),
            inflight: start.inflight,
        };
        if queue.event_idx {
            queue.rings.used_flags().store(0, Ordering::Relaxed);
        }
        queue.suppress();
        queue
    }

    /// Take the next available chain and put its buffers into the empty list.
    ///
    /// `map` must be the memory in which the driver's addresses lie; its regions stay mapped until every chain taken
    /// with it is given back.
    #[inline(always)]
    pub fn take(&mut self, map: &MemoryMap, list: &mut SegmentList) -> Taken {
        if self.next_avail == self.avail_seen {
            match self.look() {
                Look::Ready => {}
                Look::Again(head) => return self.walk(head, map, list),
                Look::Empty => return Taken::Empty,
                Look::Broken(error) => return Taken::Broken(error),
            }
        }
        let head = self
            .rings
            .avail_entry(self.next_avail)
            .load(Ordering::Relaxed);
        if !self.rings.has(head) {
            self.stop(Broken::HeadOutOfRange);
            return Taken::Broken(Broken::HeadOutOfRange);
        }
        self.next_avail = self.next_avail.wrapping_add(1);
        if let Some(record) = &mut self.inflight {
            record.taken(head);
        }
        self.walk(head, map, list)
    }

    /// Do as [`Self::take`], off the common path: this one is not put where it is called.
    #[cold]
    #[inline(never)]
    pub fn take_after_bad(&mut self, map: &MemoryMap, list: &mut SegmentList) -> Taken {
        self.take(map, list)
    }

    #[inline(always)]
    fn walk(&mut self, head: u16, map: &MemoryMap, list: &mut SegmentList) -> Taken {
        self.in_flight += 1;
        match chain::walk_indirect(&self.rings, head, self.indirect, &self.cache, list) {
            Some(()) => Taken::Chain(head),
            None => self.walk_other(head, map, list),
        }
    }

    #[cold]
    fn walk_other(&mut self, head: u16, map: &MemoryMap, list: &mut SegmentList) -> Taken {
        if chain::walk_direct(&self.rings, head, &self.cache, list).is_some() {
            return Taken::Chain(head);
        }
        match chain::walk_any(&self.rings, head, self.indirect, map, &mut self.cache, list) {
            Ok(()) => Taken::Chain(head),
            Err(error) => Taken::Bad(head, error),
        }
    }

    /// Read the available index.
    #[inline]
    fn look(&mut self) -> Look {
        if let Some(error) = self.broken {
            return Look::Broken(error);
        }
        if let Some(head) = self.inflight.as_mut().and_then(Inflight::take_again) {
            return Look::Again(head);
        }
        let avail = self.rings.avail_idx().load(Ordering::Acquire);
        if avail == self.next_avail {
            return Look::Empty;
        }
        // What is in flight and what is ready are different chains, each of one descriptor at least. A driver that
        // claims more gives the same descriptor twice, or its index is garbage.
        if avail.wrapping_sub(self.next_avail) > self.rings.size() - self.in_flight {
            self.stop(Broken::AvailIndex);
            return Look::Broken(Broken::AvailIndex);
        }
        self.avail_seen = avail;
        Look::Ready
    }

    #[cold]
    fn stop(&mut self, error: Broken) {
        self.broken = Some(error);
        // So that `take` looks, and `flush` has nothing to publish.
        self.avail_seen = self.next_avail;
        self.next_used = self.published;
    }

    /// Give a chain back with `written` bytes in its writable buffers. The driver sees it after [`Self::flush`].
    #[inline]
    pub fn put(&mut self, head: u16, written: u32) {
        if !self.rings.has(head) {
            return;
        }
        if self.in_flight > 0 {
            self.in_flight -= 1;
        }
        if self.broken.is_some() {
            return;
        }
        self.rings.store_used(self.next_used, head, written);
        self.next_used = self.next_used.wrapping_add(1);
        if let Some(record) = &mut self.inflight {
            record.put(head);
        }
    }

    /// Publish what was given back since the last flush. True when the driver wants to be notified of it.
    #[inline]
    pub fn flush(&mut self) -> bool {
        let (old, new) = (self.published, self.next_used);
        if old == new {
            return false;
        }
        self.rings.used_idx().store(new, Ordering::Release);
        self.published = new;
        if let Some(record) = &mut self.inflight {
            record.end_batch(new.wrapping_sub(old), new);
        }
        notify::published();
        if self.event_idx {
            if !self.armed && self.next_avail.wrapping_sub(self.parked) > REFRESH {
                self.suppress();
            }
            notify::must_wake(self.rings.used_event(), old, new)
        } else {
            self.rings.avail_flags().load(Ordering::Relaxed) & AVAIL_F_NO_INTERRUPT == 0
        }
    }

    /// Ask the driver for a notification of the next chain. False, and nothing asked, when there is one already.
    #[inline]
    pub fn arm(&mut self) -> bool {
        if self.broken.is_some() {
            return true;
        }
        if self.has_chain() {
            return false;
        }
        self.armed = true;
        let idle = if self.event_idx {
            notify::may_sleep(
                self.rings.avail_event(),
                self.rings.avail_idx(),
                self.next_avail,
            )
        } else {
            self.rings.used_flags().store(0, Ordering::Relaxed);
            notify::look_again(self.rings.avail_idx(), self.next_avail)
        };
        if !idle {
            self.disarm();
        }
        idle
    }

    /// Ask the driver for no more notifications.
    #[inline]
    pub fn disarm(&mut self) {
        if self.armed {
            self.armed = false;
            self.suppress();
        }
    }

    /// Tell whether [`Self::take`] would find something.
    pub fn has_chain(&self) -> bool {
        self.broken.is_none()
            && (self.next_avail != self.avail_seen
                || self
                    .inflight
                    .as_ref()
                    .is_some_and(|record| record.left() > 0)
                || self.rings.avail_idx().load(Ordering::Relaxed) != self.next_avail)
    }

    /// Write the wish for no notifications: as a flag, or as an event index that the driver has passed already.
    fn suppress(&mut self) {
        if self.event_idx {
            self.parked = self.next_avail.wrapping_sub(1);
            self.rings
                .avail_event()
                .store(self.parked, Ordering::Relaxed);
        } else {
            self.rings
                .used_flags()
                .store(USED_F_NO_NOTIFY, Ordering::Relaxed);
        }
    }

    /// Go on with the same queue, which is now mapped elsewhere. Nothing happens when it is of another size.
    pub fn relocate(&mut self, rings: Rings) {
        if rings.size() == self.rings.size() {
            self.rings = rings;
            self.cache = RegionCache::default();
        }
    }

    /// Give the used index that the driver sees.
    pub const fn published(&self) -> u16 {
        self.published
    }

    /// Give the index of the next available entry: where a successor goes on.
    pub const fn position(&self) -> u16 {
        self.next_avail
    }

    /// Give the number of chains that were taken and not given back.
    pub const fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Tell why the queue takes no more chains, if so.
    pub const fn broken(&self) -> Option<Broken> {
        self.broken
    }
}

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use super::super::testing::Guest;
    use super::*;
    use std::vec::Vec;

    fn take(guest: &mut Guest) -> Taken {
        let mut list = guest.list();
        guest.device.take(&guest.map, &mut list)
    }

    #[test]
    fn chains_come_back_in_any_order_and_are_seen_after_the_flush() {
        for features in [0, F_EVENT_IDX] {
            let mut guest = Guest::new(4, features);
            guest.offer_plain(&[2, 0, 3]);
            let heads: Vec<_> = (0..3).map(|_| take(&mut guest)).collect();
            assert_eq!(heads, [2, 0, 3].map(Taken::Chain));
            assert_eq!(take(&mut guest), Taken::Empty);
            for (head, written) in [(3, 7), (2, 0), (0, 9)] {
                guest.device.put(head, written);
            }
            assert_eq!(guest.used(), []);
            assert!(guest.device.flush());
            assert_eq!(guest.used(), [(3, 7), (2, 0), (0, 9)]);
            assert!(!guest.device.flush(), "nothing to publish");
        }
    }

    #[test]
    fn indices_wrap_without_a_seam() {
        for features in [0, F_EVENT_IDX] {
            let mut guest = Guest::starting_at(4, features, 0xfffd);
            for round in 0..8 {
                guest.offer_plain(&[round % 4]);
                assert_eq!(take(&mut guest), Taken::Chain(round % 4));
                guest.device.put(round % 4, u32::from(round));
                guest.device.flush();
                let used = guest.used();
                assert_eq!(used.last(), Some(&(u32::from(round % 4), u32::from(round))));
            }
            assert_eq!(guest.device.position(), 0xfffd_u16.wrapping_add(8));
        }
    }

    #[test]
    fn an_index_that_runs_ahead_breaks_the_queue_for_good() {
        let mut guest = Guest::new(4, 0);
        guest.offer_plain(&[0]);
        assert_eq!(take(&mut guest), Taken::Chain(0));
        guest.offer_plain(&[0, 1, 2, 3]);
        assert_eq!(take(&mut guest), Taken::Broken(Broken::AvailIndex));
        assert_eq!(take(&mut guest), Taken::Broken(Broken::AvailIndex));
        guest.device.put(0, 1);
        assert!(!guest.device.flush());
        assert_eq!(guest.used(), [], "nothing is touched");
        assert!(guest.device.arm(), "the core may sleep");
        assert!(!guest.device.has_chain());
    }

    #[test]
    fn a_full_queue_is_no_error() {
        let mut guest = Guest::new(4, 0);
        guest.offer_plain(&[0, 1, 2, 3]);
        for head in 0..4 {
            assert_eq!(take(&mut guest), Taken::Chain(head));
        }
        guest.device.put(1, 0);
        guest.device.flush();
        guest.offer_plain(&[1]);
        assert_eq!(take(&mut guest), Taken::Chain(1));
    }

    #[test]
    fn a_head_beyond_the_table_breaks_the_queue() {
        let mut guest = Guest::new(4, 0);
        guest.offer_plain(&[4]);
        assert_eq!(take(&mut guest), Taken::Broken(Broken::HeadOutOfRange));
        guest.device.put(4, 0);
        guest.device.put(u16::MAX, 0);
        assert!(!guest.device.flush());
    }

    #[test]
    fn a_bad_chain_costs_one_request_and_no_other() {
        let mut guest = Guest::new(4, 0);
        let loops = super::super::Descriptor {
            flags: 1,
            ..Default::default()
        };
        guest.rings.store_desc(0, loops);
        guest.offer(0);
        guest.offer_plain(&[1]);
        assert_eq!(take(&mut guest), Taken::Bad(0, ChainError::Loop));
        guest.device.put(0, 0);
        assert_eq!(take(&mut guest), Taken::Chain(1));
        guest.device.put(1, 5);
        assert!(guest.device.flush());
        assert_eq!(guest.used(), [(0, 0), (1, 5)]);
    }

    #[test]
    fn with_event_index_a_batch_interrupts_when_it_passes_the_drivers_event() {
        let mut guest = Guest::starting_at(4, F_EVENT_IDX, 0xfffe);
        guest.rings.used_event().store(1, Ordering::Relaxed);
        let mut told = Vec::new();
        for batch in [1, 2, 1, 1] {
            for _ in 0..batch {
                guest.offer_plain(&[0]);
                assert_eq!(take(&mut guest), Taken::Chain(0));
                guest.device.put(0, 0);
            }
            told.push(guest.device.flush());
        }
        // Indices published: ffff, 1, 2, 3. The event is passed by the element at index 1.
        assert_eq!(told, [false, false, true, false]);
    }

    #[test]
    fn without_event_index_the_drivers_flag_decides() {
        let mut guest = Guest::new(4, 0);
        for (flags, expected) in [(0, true), (1, false), (0xfffe, true)] {
            guest.rings.avail_flags().store(flags, Ordering::Relaxed);
            guest.offer_plain(&[0]);
            assert_eq!(take(&mut guest), Taken::Chain(0));
            guest.device.put(0, 0);
            assert_eq!(guest.device.flush(), expected);
        }
    }

    #[test]
    fn notifications_are_asked_for_only_while_armed() {
        for features in [0, F_EVENT_IDX] {
            let mut guest = Guest::new(4, features);
            guest.offer_plain(&[0]);
            assert!(!guest.kick_wanted(0), "suppressed from the start");
            assert!(!guest.device.arm(), "a chain is there");
            assert!(!guest.kick_wanted(0), "so nothing was asked for");
            assert_eq!(take(&mut guest), Taken::Chain(0));
            assert!(guest.device.arm());
            guest.offer_plain(&[1]);
            assert!(guest.kick_wanted(1));
            guest.device.disarm();
            assert_eq!(take(&mut guest), Taken::Chain(1));
            guest.offer_plain(&[2]);
            assert!(!guest.kick_wanted(2));
        }
    }

    #[test]
    fn a_busy_queue_is_never_notified_however_often_the_index_wraps() {
        let mut guest = Guest::new(4, F_EVENT_IDX);
        let rounds = if cfg!(miri) { 100 } else { 200_000u32 };
        for round in 0..rounds {
            guest.offer_plain(&[0]);
            let old = guest.device.position();
            if round > 0 {
                assert!(!guest.kick_wanted(old), "{round}");
            }
            assert_eq!(take(&mut guest), Taken::Chain(0));
            guest.device.put(0, 0);
            guest.device.flush();
        }
    }

    #[test]
    fn requests_in_flight_are_taken_again_and_then_the_new_ones() {
        let mut area = std::vec![0u64; Inflight::bytes(4) / 8];
        let base: *mut u8 = area.as_mut_ptr().cast();
        let bytes = 8 * area.len();
        let mut guest = Guest::new(4, 0);
        // SAFETY: the area outlives the guest, and one record is used at a time.
        let attach = |used| unsafe { Inflight::attach(base, bytes, 4, used) }.unwrap();
        guest.restart(0, Some(attach(0)));
        guest.offer_plain(&[3, 1, 2]);
        for head in [3, 1] {
            assert_eq!(take(&mut guest), Taken::Chain(head));
        }
        guest.device.put(3, 8);
        guest.device.flush();
        // The front-end does not know where the lost one stopped and names the driver's index.
        guest.restart(3, Some(attach(1)));
        assert!(!guest.device.arm());
        assert_eq!(take(&mut guest), Taken::Chain(1));
        assert_eq!(take(&mut guest), Taken::Chain(2));
        assert_eq!(take(&mut guest), Taken::Empty);
        assert_eq!(guest.device.in_flight(), 2);
    }
}
