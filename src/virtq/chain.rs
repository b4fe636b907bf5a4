//! The walk along one descriptor chain, which trusts nothing it reads.

use super::layout::{
    DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_LEN, Descriptor, Rings, load_byte,
    load_descriptor,
};
use super::memory::{MemoryMap, Region, RegionCache};
use crate::mem::{Counts, MAX_SEGMENTS, Segment, SegmentList};

/// Most descriptors of an indirect table.
///
/// Drivers do exceed the queue's size there (Linux checks it only for direct chains), so that is not the limit; a
/// request can use no more than [`MAX_SEGMENTS`](crate::mem::MAX_SEGMENTS) that are not empty anyway.
pub const MAX_INDIRECT: u32 = 1024;

/// Say how a chain breaks the rules (VIRTIO 1.3, sections 2.7.5 and 2.7.13).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChainError {
    /// More descriptors than its table has: the chain runs in a circle.
    Loop,
    /// A `next` beyond the table.
    NextOutOfRange,
    /// Bytes that lie in no region of the host's memory.
    OutsideMemory,
    /// A descriptor to read after one to write.
    ReadableAfterWritable,
    /// More runs of memory than a request holds.
    TooManySegments,
    /// More than 2^32 - 1 bytes in all.
    TooLong,
    /// An indirect descriptor though the feature was not negotiated.
    IndirectUnexpected,
    /// An indirect descriptor inside an indirect table.
    IndirectNested,
    /// An indirect descriptor that has a next one.
    IndirectWithNext,
    /// An indirect table whose length is zero or no multiple of 16.
    IndirectLength,
    /// An indirect table of more than [`MAX_INDIRECT`] descriptors.
    IndirectTooLong,
}

/// Where the descriptors come from.
#[derive(Clone, Copy)]
enum Table {
    /// In one piece, aligned to 8.
    Plain(*mut u8),
    /// An indirect table that is cut by a region's end or lies at an odd address: read byte by byte.
    Scattered(u64),
}

/// Put the buffers of the chain at `head`, which is below the size, into the empty list, if the chain is of the common
/// shape: one indirect table that is aligned, its descriptors one after another as drivers lay them out, every buffer
/// in one piece and not empty, all of it in the region that was used last.
///
/// `None`, and the list as it was, for any other: it is then to be walked again from its head by [`walk_any`], which
/// checks every rule in its place. What the short way does not understand may be fine, and has its error if not.
#[inline(always)]
pub(super) fn walk_indirect(
    rings: &Rings,
    head: u16,
    indirect: bool,
    cache: &RegionCache,
    list: &mut SegmentList,
) -> Option<()> {
    // SAFETY: `head` is below the size, and that many descriptors lie there by the contract of `Rings::new`.
    let outer =
        unsafe { load_descriptor(rings.table().add(usize::from(head) * DESC_LEN as usize)) };
    let region = cache.last();
    let len = outer.len as usize;
    let table = region.place(outer.address, len as u64)?;
    if !indirect
        || outer.flags & (DESC_F_INDIRECT | DESC_F_NEXT) != DESC_F_INDIRECT
        || !(table as usize | len).is_multiple_of(DESC_LEN as usize)
    {
        return None;
    }
    let places = list.places().get_mut(..len / DESC_LEN as usize)?;
    let counts = Run::new(region, table, 0, places).follow()?;
    list.fill(counts);
    Some(())
}

/// Do as [`walk_indirect`] for a chain whose descriptors are one after another in the ring itself.
pub(super) fn walk_direct(
    rings: &Rings,
    head: u16,
    cache: &RegionCache,
    list: &mut SegmentList,
) -> Option<()> {
    // SAFETY: as above.
    let table = unsafe { rings.table().add(usize::from(head) * DESC_LEN as usize) };
    let most = usize::from(rings.size() - head).min(MAX_SEGMENTS);
    let run = Run::new(cache.last(), table, head, &mut list.places()[..most]);
    let counts = run.follow()?;
    list.fill(counts);
    Some(())
}

/// Descriptors one after another.
struct Run<'l> {
    region: Region,
    /// Where the next one lies: at a multiple of 16, at least as many as there are places.
    table: *mut u8,
    places: core::slice::IterMut<'l, Segment>,
    /// Index of the first one.
    first: u16,
    /// What the one taken last says, flags and next, when the next one follows it.
    follows: u32,
    /// Sum of the buffers.
    bytes: usize,
}

impl<'l> Run<'l> {
    #[inline(always)]
    fn new(region: Region, table: *mut u8, first: u16, places: &'l mut [Segment]) -> Self {
        Self {
            region,
            table,
            places: places.iter_mut(),
            first,
            follows: u32::from(first) << 16 | u32::from(DESC_F_NEXT),
            bytes: 0,
        }
    }

    /// Take a whole chain.
    #[inline(always)]
    fn follow(mut self) -> Option<Counts> {
        let mut last = self.take_while_followed()?;
        let (mut readable, mut readable_len) = (self.count(), self.bytes);
        if last.flags != 0 {
            readable -= 1;
            readable_len -= last.len as usize;
            self.follows |= u32::from(DESC_F_WRITE);
            if last.tail() == self.follows {
                last = self.take_while_followed()?;
            }
            if last.flags != DESC_F_WRITE {
                return None;
            }
        }
        if self.bytes as u64 > u64::from(u32::MAX) {
            return None;
        }
        Some(Counts {
            readable,
            all: self.count(),
            readable_len,
            writable_len: self.bytes - readable_len,
        })
    }

    /// Give the number of descriptors taken.
    fn count(&self) -> u16 {
        (self.follows >> 16) as u16 - self.first
    }

    /// Take descriptors up to one that is not followed, or has other flags; give that.
    #[inline(always)]
    fn take_while_followed(&mut self) -> Option<Descriptor> {
        loop {
            let place = self.places.next()?;
            // SAFETY: there is a descriptor for each place.
            let descriptor = unsafe { load_descriptor(self.table) };
            // SAFETY: as above.
            self.table = unsafe { self.table.add(DESC_LEN as usize) };
            let base = self
                .region
                .place(descriptor.address, descriptor.len.into())?;
            // SAFETY: as in `push`.
            *place = unsafe { Segment::new(base, descriptor.len as usize) };
            self.bytes += descriptor.len as usize;
            self.follows += 1 << 16;
            if descriptor.tail() != self.follows {
                return Some(descriptor);
            }
        }
    }
}

/// Put the buffers of a chain of any shape into the empty list, with every rule checked.
pub(super) fn walk_any(
    rings: &Rings,
    head: u16,
    indirect: bool,
    map: &MemoryMap,
    cache: &mut RegionCache,
    list: &mut SegmentList,
) -> Result<(), ChainError> {
    let mut table = Table::Plain(rings.table());
    let mut table_len = u32::from(rings.size());
    let mut inside = false;
    let mut index = u32::from(head);
    let mut left = table_len;
    let mut writable = false;
    loop {
        if left == 0 {
            return Err(ChainError::Loop);
        }
        left -= 1;
        let descriptor = match table {
            Table::Plain(place) => {
                // SAFETY: `index` is below `table_len`, and that many descriptors lie in one piece at `place`: the
                // ring's by the contract of `Rings::new`, an indirect table's by `open`.
                unsafe { load_descriptor(place.add((index as usize) * DESC_LEN as usize)) }
            }
            Table::Scattered(address) => {
                load_scattered(map, cache, address + u64::from(index) * DESC_LEN)?
            }
        };
        if descriptor.flags & DESC_F_INDIRECT != 0 {
            if inside {
                return Err(ChainError::IndirectNested);
            }
            if !indirect {
                return Err(ChainError::IndirectUnexpected);
            }
            (table, table_len) = open(descriptor, map, cache)?;
            inside = true;
            index = 0;
            left = table_len;
            continue;
        }
        if descriptor.flags & DESC_F_WRITE != 0 {
            writable = true;
        } else if writable {
            return Err(ChainError::ReadableAfterWritable);
        }
        push(descriptor, writable, map, cache, list)?;
        if descriptor.flags & DESC_F_NEXT == 0 {
            break;
        }
        index = u32::from(descriptor.next);
        if index >= table_len {
            return Err(ChainError::NextOutOfRange);
        }
    }
    // Each length is below 2^32 and there are at most MAX_SEGMENTS, so the sums themselves do not overflow.
    if list.readable_len() as u64 + list.writable_len() as u64 > u64::from(u32::MAX) {
        return Err(ChainError::TooLong);
    }
    Ok(())
}

/// Check an indirect descriptor and find its table. The write flag says nothing there and is ignored.
#[inline]
fn open(
    descriptor: Descriptor,
    map: &MemoryMap,
    cache: &mut RegionCache,
) -> Result<(Table, u32), ChainError> {
    if descriptor.flags & DESC_F_NEXT != 0 {
        return Err(ChainError::IndirectWithNext);
    }
    if descriptor.len == 0 || !descriptor.len.is_multiple_of(DESC_LEN as u32) {
        return Err(ChainError::IndirectLength);
    }
    let count = descriptor.len / DESC_LEN as u32;
    if count > MAX_INDIRECT {
        return Err(ChainError::IndirectTooLong);
    }
    let len = u64::from(descriptor.len);
    match cache.place(map, descriptor.address, len) {
        Some(place) if (place as usize).is_multiple_of(8) => Ok((Table::Plain(place), count)),
        _ if cache.pieces(map, descriptor.address, len, |_, _| true) => {
            Ok((Table::Scattered(descriptor.address), count))
        }
        _ => Err(ChainError::OutsideMemory),
    }
}

/// Read a descriptor of which any byte may lie in another region.
#[cold]
fn load_scattered(
    map: &MemoryMap,
    cache: &mut RegionCache,
    address: u64,
) -> Result<Descriptor, ChainError> {
    let mut words = [0; 2];
    for at in 0..DESC_LEN {
        // The whole table lies in memory, so this overflows nothing.
        let place = cache
            .place(map, address + at, 1)
            .ok_or(ChainError::OutsideMemory)?;
        // SAFETY: the place was found in a region.
        let byte = unsafe { load_byte(place) };
        words[at as usize / 8] |= u64::from(byte) << (at % 8 * 8);
    }
    Ok(Descriptor::from_words(words[0], words[1]))
}

/// Add one buffer to the list. An empty one is skipped: it names no byte, so its address means nothing.
#[inline(always)]
fn push(
    descriptor: Descriptor,
    writable: bool,
    map: &MemoryMap,
    cache: &mut RegionCache,
    list: &mut SegmentList,
) -> Result<(), ChainError> {
    let len = u64::from(descriptor.len);
    if let Some(place) = cache.place(map, descriptor.address, len) {
        // SAFETY: the run lies in a region, whose contract is that of a segment: mapped while the map is used, which
        // the queue's owner keeps until the request is completed.
        return append(unsafe { Segment::new(place, len as usize) }, writable, list);
    }
    push_cut(descriptor, writable, map, cache, list)
}

/// Add a buffer that no single region holds.
#[cold]
fn push_cut(
    descriptor: Descriptor,
    writable: bool,
    map: &MemoryMap,
    cache: &mut RegionCache,
    list: &mut SegmentList,
) -> Result<(), ChainError> {
    let mut full = Ok(());
    let whole = cache.pieces(
        map,
        descriptor.address,
        u64::from(descriptor.len),
        |place, len| {
            // SAFETY: as in `push`.
            full = append(unsafe { Segment::new(place, len as usize) }, writable, list);
            full.is_ok()
        },
    );
    full?;
    if whole {
        Ok(())
    } else {
        Err(ChainError::OutsideMemory)
    }
}

#[inline(always)]
fn append(segment: Segment, writable: bool, list: &mut SegmentList) -> Result<(), ChainError> {
    if writable {
        list.push_writable(segment)
    } else {
        list.push_readable(segment)
    }
    .map_err(|_| ChainError::TooManySegments)
}

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use super::super::testing::Guest;
    use super::super::{F_EVENT_IDX, F_INDIRECT_DESC, Taken};
    use super::*;
    use std::vec::Vec;

    const READ: u16 = 0;
    const NEXT: u16 = DESC_F_NEXT;
    const WRITE: u16 = DESC_F_WRITE;
    const INDIRECT: u16 = DESC_F_INDIRECT;

    fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> Descriptor {
        Descriptor {
            address,
            len,
            flags,
            next,
        }
    }

    /// Offer the chain at descriptor 0 and give what the device makes of it: (readable, writable) lengths.
    fn take(
        guest: &mut Guest,
        table: &[Descriptor],
    ) -> Result<(Vec<usize>, Vec<usize>), ChainError> {
        for (index, &descriptor) in table.iter().enumerate() {
            guest.rings.store_desc(index as u16, descriptor);
        }
        guest.offer(0);
        let mut list = guest.list();
        let taken = guest.device.take(&guest.map, &mut list);
        guest.assert_inside(&list);
        let lens = |segments: &[Segment]| segments.iter().map(Segment::len).collect();
        match taken {
            Taken::Chain(0) => Ok((lens(list.readable()), lens(list.writable()))),
            Taken::Bad(0, error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    fn guest() -> Guest {
        Guest::new(8, F_INDIRECT_DESC | F_EVENT_IDX)
    }

    #[test]
    fn a_chain_in_any_order_of_descriptors_is_followed() {
        let mut guest = guest();
        let data = guest.data();
        let chain = [
            descriptor(data, 40, NEXT, 5),
            descriptor(data + 200, 4096, WRITE, 0),
            descriptor(0, 0, 0, 0),
            descriptor(data + 100, 16, NEXT | WRITE, 1),
            descriptor(0, 0, 0, 0),
            descriptor(data + 40, 40, NEXT, 3),
        ];
        assert_eq!(
            take(&mut guest, &chain),
            Ok((Vec::from([40, 40]), Vec::from([16, 4096])))
        );
    }

    #[test]
    fn an_indirect_table_may_follow_direct_descriptors_and_its_write_flag_is_ignored() {
        let mut guest = guest();
        let data = guest.data();
        let table = data + 1024;
        guest.store(table, descriptor(data + 64, 32, NEXT, 2));
        guest.store(table + 32, descriptor(data + 128, 64, WRITE, 9));
        let chain = [
            descriptor(data, 40, NEXT, 7),
            descriptor(0, 0, 0, 0),
            descriptor(0, 0, 0, 0),
            descriptor(0, 0, 0, 0),
            descriptor(0, 0, 0, 0),
            descriptor(0, 0, 0, 0),
            descriptor(0, 0, 0, 0),
            descriptor(table, 48, INDIRECT | WRITE, 0),
        ];
        assert_eq!(
            take(&mut guest, &chain),
            Ok((Vec::from([40, 32]), Vec::from([64])))
        );
    }

    #[test]
    fn an_indirect_table_at_an_odd_address_or_over_two_regions_is_read() {
        for shift in [1, 4, 15, 16] {
            let mut guest = guest();
            let data = guest.data();
            let table = guest.border() - shift;
            guest.store_bytes(table, descriptor(data, 7, NEXT, 1));
            guest.store_bytes(table + 16, descriptor(data, 9, WRITE, 0));
            assert_eq!(
                take(&mut guest, &[descriptor(table, 32, INDIRECT, 0)]),
                Ok((Vec::from([7]), Vec::from([9]))),
                "{shift}"
            );
        }
    }

    #[test]
    fn a_buffer_over_two_regions_becomes_two_segments() {
        let mut guest = guest();
        let border = guest.border();
        assert_eq!(
            take(&mut guest, &[descriptor(border - 3, 10, WRITE, 0)]),
            Ok((Vec::new(), Vec::from([3, 7])))
        );
    }

    #[test]
    fn an_empty_buffer_is_skipped_wherever_it_points() {
        let mut guest = guest();
        let data = guest.data();
        let chain = [
            descriptor(u64::MAX, 0, NEXT, 1),
            descriptor(data, 1, NEXT, 2),
            descriptor(0, 0, NEXT | WRITE, 3),
            descriptor(data, 2, WRITE, 0),
        ];
        assert_eq!(
            take(&mut guest, &chain),
            Ok((Vec::from([1]), Vec::from([2])))
        );
    }

    #[test]
    fn each_broken_rule_has_its_error() {
        use ChainError::*;
        let layout = guest();
        let (data, end) = (layout.data(), layout.end());
        let table = data + 1024;
        let inner = |descriptors: &'static [(u64, u32, u16, u16)]| descriptors;
        let none = inner(&[]);
        let direct = |address, len, flags, next| [descriptor(address, len, flags, next)];
        let indirect = |len| [descriptor(table, len, INDIRECT, 0)];
        for (chain, inner, expected) in [
            (direct(data, 1, NEXT, 0), none, Loop),
            (direct(0, 0, NEXT, 0), none, Loop),
            (direct(data, 1, NEXT, 8), none, NextOutOfRange),
            (direct(data, 1, NEXT, u16::MAX), none, NextOutOfRange),
            (direct(end - 1, 2, 0, 0), none, OutsideMemory),
            (direct(end, 1, 0, 0), none, OutsideMemory),
            (direct(u64::MAX, 2, 0, 0), none, OutsideMemory),
            (direct(data, u32::MAX, 0, 0), none, OutsideMemory),
            (
                direct(table, 16, INDIRECT | NEXT, 0),
                none,
                IndirectWithNext,
            ),
            (indirect(0), none, IndirectLength),
            (indirect(15), none, IndirectLength),
            (indirect(u32::MAX), none, IndirectLength),
            (indirect(16 * (MAX_INDIRECT + 1)), none, IndirectTooLong),
            (direct(end - 16, 32, INDIRECT, 0), none, OutsideMemory),
            (direct(u64::MAX - 15, 16, INDIRECT, 0), none, OutsideMemory),
            (direct(0, 16, INDIRECT, 0), none, OutsideMemory),
            (indirect(16), inner(&[(0, 16, INDIRECT, 0)]), IndirectNested),
            (indirect(16), inner(&[(0, 0, NEXT, 1)]), NextOutOfRange),
            (
                indirect(32),
                inner(&[(0, 0, NEXT, 1), (0, 0, NEXT, 0)]),
                Loop,
            ),
            (
                indirect(32),
                inner(&[(0, 0, NEXT | WRITE, 1), (0, 0, READ, 0)]),
                ReadableAfterWritable,
            ),
        ] {
            let mut guest = guest();
            for (index, &(address, len, flags, next)) in inner.iter().enumerate() {
                guest.store(
                    table + 16 * index as u64,
                    descriptor(address, len, flags, next),
                );
            }
            assert_eq!(
                take(&mut guest, &chain),
                Err(expected),
                "{chain:?} {inner:?}"
            );
        }
    }

    #[test]
    fn indirect_needs_the_feature() {
        let mut guest = Guest::new(8, 0);
        let data = guest.data();
        assert_eq!(
            take(&mut guest, &[descriptor(data, 16, INDIRECT, 0)]),
            Err(ChainError::IndirectUnexpected)
        );
    }

    #[test]
    fn more_segments_than_a_request_holds_are_refused() {
        let mut guest = guest();
        let data = guest.data();
        let table = data + 1024;
        let most = crate::mem::MAX_SEGMENTS as u16;
        for count in [most, most + 1] {
            for index in 0..count {
                let flags = if index + 1 < count { NEXT } else { 0 };
                guest.store(
                    table + 16 * u64::from(index),
                    descriptor(data, 1, flags, index + 1),
                );
            }
            let taken = take(
                &mut guest,
                &[descriptor(table, 16 * u32::from(count), INDIRECT, 0)],
            );
            match taken {
                Ok((readable, _)) => assert_eq!((count, readable.len()), (most, most as usize)),
                Err(error) => {
                    assert_eq!((count, error), (most + 1, ChainError::TooManySegments));
                }
            }
        }
    }
}
