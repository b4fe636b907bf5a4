//! The request table: one entry for each request in flight, one table for each queue.
//!
//! An entry's life: [`RequestTable::take`] gives an empty [`Slot`], the HAL fills its segments and token, the FUSE
//! layer its header, a backend keeps it inside a reply, [`Slot::finish`] ends it, and [`RequestTable::finished`] hands
//! the token back to the loop that publishes it. A `Slot` is the only handle to its entry while it lives, so its
//! segments are changed without a lock; the table belongs to one core.

use core::cell::{Cell, UnsafeCell};

use zerocopy::{FromZeros, KnownLayout};

use super::{Arena, OutOfMemory, SegmentList};
use crate::wire::fuse::InHeader;

/// Hold what a HAL needs to complete a request: an opaque number of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromZeros, KnownLayout)]
pub struct Token(pub u64);

/// Identify a request below the FUSE layer: as an io_uring user data, an NFS slot, a pipeline slot.
///
/// The index counts over all tables of one device on one core; the generation tells a late or repeated answer from
/// one for the entry's present request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotId {
    /// Position, from zero to the sum of the depths of the core's queues of the device.
    pub index: u32,
    /// Number of requests that the entry held before, modulo 2^32.
    pub generation: u32,
}

impl SlotId {
    /// Pack into one number, for interfaces that carry a `u64`.
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// Unpack what [`Self::to_bits`] gave.
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            index: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

/// Describe a request that ended, for publishing and statistics.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// The HAL's token.
    pub token: Token,
    /// Operation number as the host sent it.
    pub opcode: u32,
    /// Length of the request in bytes.
    pub request_len: u32,
    /// Bytes written into the reply, its header included; zero when the request has no reply.
    pub written: u32,
    /// Error number of the reply, positive; zero for success.
    pub error: u16,
    /// When the request was taken, in the loop's cycle counter.
    pub started: u64,
}

const NONE: u16 = u16::MAX;

/// Where an entry stands. Only a busy one can be found by its `unique`.
const BUSY: u8 = 1;

#[derive(FromZeros, KnownLayout)]
#[repr(C, align(64))]
struct Entry {
    token: Cell<Token>,
    started: Cell<u64>,
    header: Cell<InHeader>,
    generation: Cell<u32>,
    epoch: Cell<u32>,
    written: Cell<u32>,
    error: Cell<u16>,
    /// Place in the table.
    index: Cell<u16>,
    /// Link of the free or the finished list.
    next: Cell<u16>,
    state: Cell<u8>,
    interrupted: Cell<bool>,
    segments: UnsafeCell<SegmentList>,
}

/// Hold the requests of one queue.
pub struct RequestTable {
    entries: &'static [Entry],
    first: u32,
    /// Entries from here on were never used; their memory is untouched.
    fresh: Cell<u16>,
    free: Cell<u16>,
    finished_head: Cell<u16>,
    finished_tail: Cell<u16>,
    taken: Cell<u16>,
    unanswered: Cell<u64>,
}

impl RequestTable {
    /// Reserve a table of `depth` entries, whose indices begin at `first`.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena is too small.
    pub fn new(arena: &Arena, depth: u16, first: u32) -> Result<&'static Self, OutOfMemory> {
        let depth = depth.min(NONE - 1);
        let table = Self {
            entries: arena.zeroed(depth as usize)?,
            first,
            fresh: Cell::new(0),
            free: Cell::new(NONE),
            finished_head: Cell::new(NONE),
            finished_tail: Cell::new(NONE),
            taken: Cell::new(0),
            unanswered: Cell::new(0),
        };
        Ok(arena.place(table)?)
    }

    /// Give the bytes of arena that a table of `depth` entries needs.
    pub const fn footprint(depth: u16) -> usize {
        (depth as usize + 1) * size_of::<Entry>() + 2 * size_of::<Self>()
    }

    /// Take an empty entry, or `None` when all are in use: then the queue waits.
    #[inline]
    pub fn take(&'static self) -> Option<Slot> {
        let index = match self.free.get() {
            NONE if (self.fresh.get() as usize) < self.entries.len() => {
                let index = self.fresh.get();
                self.fresh.set(index + 1);
                index
            }
            NONE => return None,
            index => {
                self.free.set(self.entries[index as usize].next.get());
                index
            }
        };
        self.taken.set(self.taken.get() + 1);
        let entry = &self.entries[index as usize];
        entry.index.set(index);
        let mut slot = Slot { table: self, entry };
        slot.segments_mut().clear();
        Some(slot)
    }

    /// Give the number of entries.
    pub fn depth(&self) -> u16 {
        self.entries.len() as u16
    }

    /// Give the number of entries that are taken: in flight, or finished and not yet handed back.
    pub fn in_use(&self) -> u16 {
        self.taken.get()
    }

    /// Give the number of requests that ended because their reply was dropped: each is a bug of a backend.
    pub fn unanswered(&self) -> u64 {
        self.unanswered.get()
    }

    /// Hand back the oldest request that ended and free its entry.
    #[inline]
    pub fn finished(&self) -> Option<Finished> {
        let index = self.finished_head.get();
        let entry = self.entries.get(index as usize)?;
        self.finished_head.set(entry.next.get());
        let header = entry.header.get();
        self.release(entry);
        Some(Finished {
            token: entry.token.get(),
            opcode: header.opcode,
            request_len: header.len,
            written: entry.written.get(),
            error: entry.error.get(),
            started: entry.started.get(),
        })
    }

    /// Mark the request with this `unique` as interrupted and name it.
    pub fn interrupt(&self, unique: u64) -> Option<SlotId> {
        let used = &self.entries[..self.fresh.get() as usize];
        let index = used
            .iter()
            .position(|entry| entry.state.get() == BUSY && entry.header.get().unique == unique)?;
        used[index].interrupted.set(true);
        Some(self.id(&used[index]))
    }

    #[inline]
    fn id(&self, entry: &Entry) -> SlotId {
        SlotId {
            index: self.first + u32::from(entry.index.get()),
            generation: entry.generation.get(),
        }
    }

    #[inline]
    fn release(&self, entry: &Entry) {
        entry.generation.set(entry.generation.get().wrapping_add(1));
        entry.next.set(self.free.get());
        self.free.set(entry.index.get());
        self.taken.set(self.taken.get() - 1);
    }
}

/// Own one entry of a table. Dropping it unfinished frees the entry and answers nothing.
pub struct Slot {
    table: &'static RequestTable,
    entry: &'static Entry,
}

impl Slot {
    /// Give the request's identity.
    #[inline]
    pub fn id(&self) -> SlotId {
        self.table.id(self.entry)
    }

    /// Begin a request: remember the HAL's token, the header and when it was taken.
    #[inline]
    pub fn begin(&mut self, token: Token, header: InHeader, epoch: u32, started: u64) {
        let entry = self.entry;
        entry.token.set(token);
        entry.header.set(header);
        entry.epoch.set(epoch);
        entry.started.set(started);
        entry.interrupted.set(false);
        entry.state.set(BUSY);
    }

    /// Give the request's header.
    #[inline]
    pub fn header(&self) -> InHeader {
        self.entry.header.get()
    }

    /// Give the session that the request belongs to.
    pub fn epoch(&self) -> u32 {
        self.entry.epoch.get()
    }

    /// Tell whether the host interrupted the request.
    pub fn interrupted(&self) -> bool {
        self.entry.interrupted.get()
    }

    /// Give the request's segments.
    #[inline]
    pub fn segments(&self) -> &SegmentList {
        // SAFETY: this slot is the entry's only handle, the table gives no other access to the list, and a mutable
        // borrow needs `&mut self`.
        unsafe { &*self.entry.segments.get() }
    }

    /// Give the request's segments, to change them.
    #[inline]
    pub fn segments_mut(&mut self) -> &mut SegmentList {
        // SAFETY: as for `segments`.
        unsafe { &mut *self.entry.segments.get() }
    }

    /// Count a request whose reply was dropped; it is yet to be finished.
    #[cold]
    pub fn count_unanswered(&self) {
        let count = &self.table.unanswered;
        count.set(count.get() + 1);
    }

    /// End the request: `written` bytes of reply are in place, with this error number.
    #[inline]
    pub fn finish(self, written: u32, error: u16) {
        let (table, entry) = (self.table, self.entry);
        let index = entry.index.get();
        core::mem::forget(self);
        entry.written.set(written);
        entry.error.set(error);
        entry.state.set(0);
        entry.next.set(NONE);
        if table.finished_head.get() == NONE {
            table.finished_head.set(index);
        } else {
            table.entries[table.finished_tail.get() as usize]
                .next
                .set(index);
        }
        table.finished_tail.set(index);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.entry.state.set(0);
        self.table.release(self.entry);
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::super::arena::test_arena;
    use super::*;

    fn table(depth: u16) -> &'static RequestTable {
        RequestTable::new(&test_arena(RequestTable::footprint(depth)), depth, 100).unwrap()
    }

    fn begin(slot: &mut Slot, token: u64, unique: u64) {
        slot.begin(
            Token(token),
            InHeader {
                unique,
                ..InHeader::default()
            },
            1,
            0,
        );
    }

    #[test]
    fn a_full_table_gives_nothing_until_one_is_handed_back() {
        let table = table(2);
        let (first, _second) = (table.take().unwrap(), table.take().unwrap());
        assert!(table.take().is_none());
        first.finish(0, 0);
        assert!(
            table.take().is_none(),
            "not before its token is handed back"
        );
        table.finished().unwrap();
        assert!(table.take().is_some());
    }

    #[test]
    fn requests_are_handed_back_in_the_order_they_ended() {
        let table = table(4);
        let mut slots: std::vec::Vec<_> = (0..4)
            .map(|token| {
                let mut slot = table.take().unwrap();
                begin(&mut slot, token, token);
                slot
            })
            .collect();
        for place in [2, 0, 1, 0] {
            slots.remove(place).finish(0, 0);
        }
        let order: std::vec::Vec<_> = core::iter::from_fn(|| table.finished())
            .map(|f| f.token.0)
            .collect();
        assert_eq!(order, [2, 0, 3, 1]);
        assert_eq!(table.in_use(), 0);
    }

    #[test]
    fn a_generation_tells_the_next_request_of_an_entry_from_the_last() {
        let table = table(1);
        let slot = table.take().unwrap();
        let old = slot.id();
        slot.finish(0, 0);
        table.finished().unwrap();
        let new = table.take().unwrap().id();
        assert_eq!((old.index, new.index), (100, 100));
        assert_ne!(old, new);
        assert_eq!(SlotId::from_bits(new.to_bits()), new);
    }

    #[test]
    fn only_a_request_in_flight_is_interrupted() {
        let table = table(2);
        let mut slot = table.take().unwrap();
        begin(&mut slot, 1, 7);
        assert_eq!(table.interrupt(7), Some(slot.id()));
        assert!(slot.interrupted());
        assert_eq!(table.interrupt(8), None);
        slot.finish(0, 0);
        assert_eq!(table.interrupt(7), None);
        table.finished().unwrap();
        assert_eq!(table.interrupt(7), None);
    }
}
