//! The request table: one entry for each request in flight, one table for each queue.
//!
//! An entry's life: [`RequestTable::take`] gives an empty [`Slot`], the HAL fills its segments and token, the FUSE
//! layer its header, a backend keeps it inside a reply, [`Slot::finish`] ends it, and [`RequestTable::hand_back`] gives
//! the token back to the loop that publishes it. A `Slot` is the only handle to its entry while it lives, so its
//! segments are changed without a lock; the table belongs to one core.

use core::cell::{Cell, UnsafeCell};

use zerocopy::{FromZeros, KnownLayout};

use super::{Arena, OutOfMemory, SegmentList, TooShort};
use crate::wire::fuse::InHeader;

/// Hold what a HAL needs to complete a request: an opaque number of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromZeros, KnownLayout)]
pub struct Token(pub u64);

/// Identify a request below the FUSE layer: as an io_uring user data, an NFS slot, a pipeline slot.
///
/// The index counts over all tables of one device on one core; the generation tells a late or repeated answer from
/// one for the entry's present request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromZeros, KnownLayout)]
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
#[derive(Clone, Copy, Debug, FromZeros, KnownLayout)]
pub struct Finished {
    /// The HAL's token.
    pub token: Token,
    /// What the host sent first; all zero when that was too short.
    pub header: InHeader,
    /// Bytes written into the reply, its header included; zero when the request has no reply.
    pub written: u32,
    /// Error number of the reply, positive; zero for success.
    pub error: u16,
    /// When the request was taken, in the loop's cycle counter.
    pub started: u64,
}

/// Where an entry stands. Only a busy one can be found by its `unique`.
const BUSY: u8 = 1;

/// Name an entry, without the multiplication and the check that an index costs.
type Link = Cell<Option<&'static Entry>>;

#[derive(FromZeros, KnownLayout)]
#[repr(C, align(64))]
struct Entry {
    /// What there is to say when the request has ended, filled in meanwhile.
    finished: UnsafeCell<Finished>,
    id: Cell<SlotId>,
    epoch: Cell<u32>,
    /// Link of the free or the finished list.
    next: Link,
    state: Cell<u8>,
    interrupted: Cell<bool>,
    room: Cell<u32>,
    /// The table, once the entry was used.
    table: Cell<Option<&'static RequestTable>>,
    segments: UnsafeCell<SegmentList>,
}

impl Entry {
    #[inline(always)]
    fn header(&self) -> InHeader {
        // SAFETY: the entry is of one core, and nothing that changes it runs meanwhile.
        unsafe { (*self.finished.get()).header }
    }
}

/// Hold the requests of one queue.
pub struct RequestTable {
    entries: &'static [Entry],
    first: u32,
    /// Entries from here on were never used; their memory is untouched.
    fresh: Cell<u16>,
    free: Link,
    finished_head: Link,
    finished_tail: Link,
    taken: Cell<u16>,
    unanswered: Cell<u64>,
}

impl RequestTable {
    /// Reserve a table of `depth` entries, whose indices begin at `first`.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena is too small.
    pub fn new(arena: &Arena, depth: u16, first: u32) -> Result<&'static Self, OutOfMemory> {
        let table = Self {
            entries: arena.zeroed(depth as usize)?,
            first,
            fresh: Cell::new(0),
            free: Cell::new(None),
            finished_head: Cell::new(None),
            finished_tail: Cell::new(None),
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
        let entry = match self.free.get() {
            Some(entry) => {
                self.free.set(entry.next.get());
                entry
            }
            None => self.take_fresh()?,
        };
        self.taken.set(self.taken.get() + 1);
        let mut slot = Slot(entry);
        slot.segments_mut().clear();
        Some(slot)
    }

    #[cold]
    fn take_fresh(&'static self) -> Option<&'static Entry> {
        let index = self.fresh.get();
        let entry = self.entries.get(index as usize)?;
        self.fresh.set(index + 1);
        entry.id.set(SlotId {
            index: self.first + u32::from(index),
            generation: 0,
        });
        entry.table.set(Some(self));
        Some(entry)
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

    /// Hand back the oldest request that ended, and free its entry when `ended` has read it.
    #[inline]
    pub fn hand_back<T>(&self, ended: impl FnOnce(&Finished) -> T) -> Option<T> {
        let entry = self.finished_head.get()?;
        self.finished_head.set(entry.next.get());
        // SAFETY: the entry's slot is gone, and there is none anew before the entry is released.
        let read = ended(unsafe { &*entry.finished.get() });
        self.release(entry);
        Some(read)
    }

    /// Mark the request with this `unique` as interrupted and name it.
    pub fn interrupt(&self, unique: u64) -> Option<SlotId> {
        let used = &self.entries[..self.fresh.get() as usize];
        let index = used
            .iter()
            .position(|entry| entry.state.get() == BUSY && entry.header().unique == unique)?;
        used[index].interrupted.set(true);
        Some(used[index].id.get())
    }

    #[inline]
    fn release(&self, entry: &'static Entry) {
        let id = entry.id.get();
        entry.id.set(SlotId {
            generation: id.generation.wrapping_add(1),
            ..id
        });
        entry.next.set(self.free.get());
        self.free.set(Some(entry));
        self.taken.set(self.taken.get() - 1);
    }
}

/// Own one entry of a table. Dropping it unfinished frees the entry and answers nothing.
///
/// One pointer, for it is handed from layer to layer.
pub struct Slot(&'static Entry);

impl Slot {
    #[inline(always)]
    fn table(&self) -> &'static RequestTable {
        self.0
            .table
            .get()
            .expect("set before the first slot is given")
    }

    /// Give the request's identity.
    #[inline]
    pub fn id(&self) -> SlotId {
        self.0.id.get()
    }

    /// Begin a request: remember the HAL's token, the session and when it was taken, and copy out the header.
    ///
    /// # Errors
    /// [`TooShort`] when the host did not write a whole header; it is all zero then.
    #[inline]
    pub fn begin(&mut self, token: Token, epoch: u32, started: u64) -> Result<InHeader, TooShort> {
        let header = self.segments_mut().read_value();
        match header {
            Ok(header) => self.enter(token, epoch, started, header),
            Err(TooShort) => self.enter_nothing(token, epoch, started),
        }
        header
    }

    #[cold]
    #[inline(never)]
    fn enter_nothing(&mut self, token: Token, epoch: u32, started: u64) {
        self.enter(token, epoch, started, InHeader::default());
    }

    #[inline(always)]
    fn enter(&mut self, token: Token, epoch: u32, started: u64, header: InHeader) {
        let finished = self.finished_mut();
        finished.token = token;
        finished.header = header;
        finished.started = started;
        let entry = self.0;
        entry.epoch.set(epoch);
        entry.interrupted.set(false);
        entry.state.set(BUSY);
    }

    /// Give the request's header.
    #[inline]
    pub fn header(&self) -> InHeader {
        self.0.header()
    }

    /// Give the session that the request belongs to.
    pub fn epoch(&self) -> u32 {
        self.0.epoch.get()
    }

    /// Tell whether the host interrupted the request.
    pub fn interrupted(&self) -> bool {
        self.0.interrupted.get()
    }

    /// Remember how many bytes the request asks for where its arguments say so and not its buffers.
    pub fn set_room(&mut self, room: u32) {
        self.0.room.set(room);
    }

    /// Give what [`Self::set_room`] was given for this request.
    pub fn room(&self) -> u32 {
        self.0.room.get()
    }

    /// Give the request's segments.
    #[inline]
    pub fn segments(&self) -> &SegmentList {
        // SAFETY: this slot is the entry's only handle, the table gives no other access to the list, and a mutable
        // borrow needs `&mut self`.
        unsafe { &*self.0.segments.get() }
    }

    /// Give the request's segments, to change them.
    #[inline]
    pub fn segments_mut(&mut self) -> &mut SegmentList {
        // SAFETY: as for `segments`.
        unsafe { &mut *self.0.segments.get() }
    }

    #[inline]
    fn finished_mut(&mut self) -> &mut Finished {
        // SAFETY: as for `segments`: only [`RequestTable::hand_back`] reads it, when there is no slot.
        unsafe { &mut *self.0.finished.get() }
    }

    /// Count a request whose reply was dropped; it is yet to be finished.
    #[cold]
    pub fn count_unanswered(&self) {
        let count = &self.table().unanswered;
        count.set(count.get() + 1);
    }

    /// End the request: `written` bytes of reply are in place, with this error number.
    #[inline]
    pub fn finish(mut self, written: u32, error: u16) {
        let finished = self.finished_mut();
        finished.written = written;
        finished.error = error;
        let (table, entry) = (self.table(), self.0);
        core::mem::forget(self);
        entry.state.set(0);
        entry.next.set(None);
        match table.finished_head.get() {
            None => table.finished_head.set(Some(entry)),
            // Not `None`: the list has a head.
            Some(_) => table
                .finished_tail
                .get()
                .unwrap_or(entry)
                .next
                .set(Some(entry)),
        }
        table.finished_tail.set(Some(entry));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.state.set(0);
        self.table().release(self.0);
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::super::Segment;
    use super::super::arena::test_arena;
    use super::*;
    use zerocopy::IntoBytes;

    fn table(depth: u16) -> &'static RequestTable {
        RequestTable::new(&test_arena(RequestTable::footprint(depth)), depth, 100).unwrap()
    }

    fn begin(slot: &mut Slot, token: u64, unique: u64) {
        let header = InHeader {
            unique,
            ..InHeader::default()
        };
        let bytes = header.as_bytes().to_vec().leak();
        // SAFETY: the bytes are leaked, and only read.
        let segment = unsafe { Segment::new(bytes.as_mut_ptr(), bytes.len()) };
        slot.segments_mut().push_readable(segment).unwrap();
        let copied = slot.begin(Token(token), 1, 0).unwrap();
        assert_eq!(copied.unique, unique);
    }

    #[test]
    fn a_request_without_a_whole_header_begins_with_an_empty_one() {
        let table = table(1);
        let mut slot = table.take().unwrap();
        assert_eq!(slot.begin(Token(3), 1, 0).err(), Some(TooShort));
        slot.finish(0, 22);
        let finished = table.hand_back(|ended| *ended).unwrap();
        assert_eq!((finished.token, finished.header.opcode), (Token(3), 0));
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
        table.hand_back(|_| ()).unwrap();
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
        let order: std::vec::Vec<_> =
            core::iter::from_fn(|| table.hand_back(|ended| ended.token.0)).collect();
        assert_eq!(order, [2, 0, 3, 1]);
        assert_eq!(table.in_use(), 0);
    }

    #[test]
    fn a_generation_tells_the_next_request_of_an_entry_from_the_last() {
        let table = table(1);
        let slot = table.take().unwrap();
        let old = slot.id();
        slot.finish(0, 0);
        table.hand_back(|_| ()).unwrap();
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
        table.hand_back(|_| ()).unwrap();
        assert_eq!(table.interrupt(7), None);
    }
}
