//! Where the bytes of one request lie: runs of the host's memory, or of buffers that stand for it.
//!
//! A HAL builds the list from a descriptor chain. The host may change the bytes at any time, so nothing here forms a
//! reference to them: they are copied out, copied in, or lent to a system call as an `iovec`.

use core::ptr;

use zerocopy::{FromBytes, FromZeros, IntoBytes, KnownLayout};

use super::past_caches;

/// Most segments of one request: the pages of 1 MiB, its headers, and a run that is cut by a memory region's end.
pub const MAX_SEGMENTS: usize = 272;

/// Most segments that hold the first bytes of a reply.
const MAX_HEAD: usize = 16;

/// Hold one run of memory. Laid out as `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromZeros, KnownLayout)]
pub struct Segment {
    base: *mut u8,
    len: usize,
}

impl Segment {
    /// Describe `len` bytes from `base`.
    ///
    /// # Safety
    /// Until the request is completed the bytes must stay mapped and may be read and, in a writable segment, written
    /// by any thread of this process. Others, the host above all, may change them meanwhile; no Rust reference to
    /// them may exist.
    pub const unsafe fn new(base: *mut u8, len: usize) -> Self {
        Self { base, len }
    }

    /// Give the address of the first byte.
    pub const fn base(&self) -> *mut u8 {
        self.base
    }

    /// Give the length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a list holds no empty segment")]
    pub const fn len(&self) -> usize {
        self.len
    }
}

/// Copy `bytes` into `segments`, from byte `offset` of them on.
///
/// # Errors
/// [`TooShort`] when they do not fit; nothing is copied then.
pub fn fill(segments: &[Segment], offset: usize, bytes: &[u8]) -> Result<(), TooShort> {
    within(segments, offset, bytes.len())?;
    copy_in(segments, offset, bytes);
    Ok(())
}

/// Copy bytes out of `segments`, from byte `offset` of them on.
///
/// # Errors
/// [`TooShort`] when they are not all there; nothing is copied then.
pub fn gather(segments: &[Segment], offset: usize, bytes: &mut [u8]) -> Result<(), TooShort> {
    within(segments, offset, bytes.len())?;
    copy_out(segments, offset, bytes, ptr::copy_nonoverlapping);
    Ok(())
}

/// Check that `len` bytes from `offset` lie in `segments`.
fn within(segments: &[Segment], offset: usize, len: usize) -> Result<(), TooShort> {
    let all: usize = segments.iter().map(Segment::len).sum();
    match offset.checked_add(len) {
        Some(end) if end <= all => Ok(()),
        _ => Err(TooShort),
    }
}

/// Hold a word at any address: the host aligns as it likes.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Word(u64);

/// Copy a structure out of the host's memory, word by word, each exactly once.
///
/// The reads are volatile, so that the compiler never reads a second time what the host may have changed since.
///
/// # Safety
/// `size_of::<T>()` bytes from `base` lie in a live segment.
#[inline(always)]
unsafe fn load<T: FromBytes + IntoBytes>(base: *mut u8) -> T {
    const WORD: usize = size_of::<Word>();
    let mut value = T::new_zeroed();
    let mut words = value.as_mut_bytes().chunks_exact_mut(WORD);
    let mut at = 0;
    for word in &mut words {
        // SAFETY: `at + WORD` is at most the size of a `T`, as many bytes as lie there.
        let read = unsafe { base.add(at).cast::<Word>().read_volatile() }.0;
        word.copy_from_slice(&read.to_ne_bytes());
        at += WORD;
    }
    for byte in words.into_remainder() {
        // SAFETY: as above.
        *byte = unsafe { base.add(at).read_volatile() };
        at += 1;
    }
    value
}

/// Count the segments of a list and their bytes. None is empty.
pub(crate) struct Counts {
    /// Segments that the host wrote; they come first.
    pub(crate) readable: u16,
    /// Segments.
    pub(crate) all: u16,
    /// Bytes that the host wrote.
    pub(crate) readable_len: usize,
    /// Bytes that the host wants filled.
    pub(crate) writable_len: usize,
}

/// Give the segment at `index`.
///
/// # Safety
/// It is the first one of a side with bytes left: a list's index below [`MAX_SEGMENTS`].
#[inline(always)]
unsafe fn at(segments: &mut [Segment; MAX_SEGMENTS], index: u16) -> &mut Segment {
    debug_assert!(usize::from(index) < MAX_SEGMENTS);
    // SAFETY: as the caller says: the bytes of a side lie in its segments, none of which is empty.
    unsafe { segments.get_unchecked_mut(index as usize) }
}

/// Say that a request or the room for its reply is shorter than what should be copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooShort;

/// Say that a request has more than [`MAX_SEGMENTS`] segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooMany;

/// Hold the segments of one request: first those the host wrote, then those it wants filled.
///
/// Both sides are consumed from the front: [`Self::skip_readable`] leaves the payload of a WRITE,
/// [`Self::split_head`] leaves the pages of a READ, each as a slice that a system call takes as it is. All zero is a
/// valid, empty list.
#[derive(FromZeros, KnownLayout)]
pub struct SegmentList {
    segments: [Segment; MAX_SEGMENTS],
    /// First readable segment that is left.
    read_start: u16,
    /// End of the readable segments.
    read_end: u16,
    /// First writable segment after the head.
    write_start: u16,
    end: u16,
    readable_len: usize,
    /// Bytes after the head.
    writable_len: usize,
    /// The first bytes of the writable segments, once they are set aside; the first one is empty before.
    head: [Segment; MAX_HEAD],
    /// Pieces of the head behind its first one.
    head_more: u16,
}

impl SegmentList {
    /// Forget all segments.
    #[inline]
    pub fn clear(&mut self) {
        self.read_start = 0;
        self.read_end = 0;
        self.write_start = 0;
        self.end = 0;
        self.readable_len = 0;
        self.writable_len = 0;
        self.head_more = 0;
        self.head[0].len = 0;
    }

    /// Append a segment that the host wrote. Every readable segment comes before the first writable one.
    ///
    /// # Errors
    /// [`TooMany`] when the list is full.
    #[inline]
    pub fn push_readable(&mut self, segment: Segment) -> Result<(), TooMany> {
        debug_assert_eq!(self.read_end, self.end, "readable segments come first");
        self.push(segment)?;
        self.read_end = self.end;
        self.write_start = self.end;
        self.readable_len += segment.len;
        Ok(())
    }

    /// Append a segment that the host wants filled.
    ///
    /// # Errors
    /// [`TooMany`] when the list is full.
    #[inline]
    pub fn push_writable(&mut self, segment: Segment) -> Result<(), TooMany> {
        self.push(segment)?;
        self.writable_len += segment.len;
        Ok(())
    }

    #[inline]
    fn push(&mut self, segment: Segment) -> Result<(), TooMany> {
        if segment.len == 0 {
            return Ok(());
        }
        *self.segments.get_mut(self.end as usize).ok_or(TooMany)? = segment;
        self.end += 1;
        Ok(())
    }

    /// Fill an empty list with what [`Self::places`] holds.
    #[inline(always)]
    pub(crate) fn fill(&mut self, counts: Counts) {
        debug_assert!(self.end == 0 && counts.readable <= counts.all);
        debug_assert!(usize::from(counts.all) <= MAX_SEGMENTS);
        self.read_end = counts.readable;
        self.write_start = counts.readable;
        self.end = counts.all;
        self.readable_len = counts.readable_len;
        self.writable_len = counts.writable_len;
    }

    /// Lend the places of the segments, to be counted by [`Self::fill`].
    #[inline(always)]
    pub(crate) fn places(&mut self) -> &mut [Segment; MAX_SEGMENTS] {
        &mut self.segments
    }

    /// Give the readable segments that are left.
    pub fn readable(&self) -> &[Segment] {
        &self.segments[self.read_start as usize..self.read_end as usize]
    }

    /// Give the writable segments after the head.
    pub fn writable(&self) -> &[Segment] {
        &self.segments[self.write_start as usize..self.end as usize]
    }

    /// Give the number of readable bytes that are left.
    pub const fn readable_len(&self) -> usize {
        self.readable_len
    }

    /// Give the number of writable bytes after the head.
    pub const fn writable_len(&self) -> usize {
        self.writable_len
    }

    /// Copy out the first bytes of what the host wrote and leave the rest.
    ///
    /// # Errors
    /// [`TooShort`] when there are fewer; nothing is consumed then.
    pub fn read_front(&mut self, bytes: &mut [u8]) -> Result<(), TooShort> {
        let copied = bytes.len();
        if copied > self.readable_len {
            return Err(TooShort);
        }
        copy_out(self.readable(), 0, bytes, ptr::copy_nonoverlapping);
        self.skip_readable(copied)
    }

    /// Copy out a structure at the front of what the host wrote and leave the rest.
    ///
    /// # Errors
    /// [`TooShort`] when there are fewer bytes; nothing is consumed then.
    #[inline]
    pub fn read_value<T: FromBytes + IntoBytes + Copy>(&mut self) -> Result<T, TooShort> {
        let size = const {
            assert!(size_of::<T>() > 0);
            size_of::<T>()
        };
        // The common cases: a structure in a segment of its own, or with more behind it.
        if size <= self.readable_len {
            // SAFETY: there are readable bytes.
            let first = unsafe { at(&mut self.segments, self.read_start) };
            if first.len >= size {
                // SAFETY: `size` bytes of a live segment.
                let value = unsafe { load(first.base) };
                self.readable_len -= size;
                if first.len == size {
                    self.read_start += 1;
                } else {
                    // SAFETY: before the end of the segment.
                    first.base = unsafe { first.base.add(size) };
                    first.len -= size;
                }
                return Ok(value);
            }
        }
        let mut value = T::new_zeroed();
        self.read_front(value.as_mut_bytes()).map(|()| value)
    }

    /// Copy out bytes that the host wrote, from `offset` in what is left; nothing is consumed.
    ///
    /// # Errors
    /// [`TooShort`] when they are not all there; nothing is copied then.
    pub fn read_at(&self, offset: usize, bytes: &mut [u8]) -> Result<(), TooShort> {
        self.read_by(ptr::copy_nonoverlapping, offset, bytes)
    }

    /// The same for bytes that nobody looks at soon: they go past the processor's caches.
    ///
    /// # Errors
    /// As for [`Self::read_at`].
    pub fn read_past_caches(&self, offset: usize, bytes: &mut [u8]) -> Result<(), TooShort> {
        self.read_by(past_caches::copy, offset, bytes)
    }

    fn read_by(&self, copy: CopyBytes, offset: usize, bytes: &mut [u8]) -> Result<(), TooShort> {
        match offset.checked_add(bytes.len()) {
            Some(end) if end <= self.readable_len => {}
            _ => return Err(TooShort),
        }
        copy_out(self.readable(), offset, bytes, copy);
        Ok(())
    }

    /// Drop the first bytes of what the host wrote.
    ///
    /// # Errors
    /// [`TooShort`] when there are fewer; nothing is consumed then.
    pub fn skip_readable(&mut self, mut count: usize) -> Result<(), TooShort> {
        if count > self.readable_len {
            return Err(TooShort);
        }
        self.readable_len -= count;
        while count > 0 {
            let first = &mut self.segments[self.read_start as usize];
            if count < first.len {
                // SAFETY: `count` is inside the segment.
                first.base = unsafe { first.base.add(count) };
                first.len -= count;
                return Ok(());
            }
            count -= first.len;
            self.read_start += 1;
        }
        Ok(())
    }

    /// Set the first `count` writable bytes aside as the head; [`Self::writable`] begins behind them.
    ///
    /// # Errors
    /// [`TooShort`] when there are fewer, or when they are spread over more than 16 segments; the list is unchanged then.
    #[inline]
    pub fn split_head(&mut self, count: usize) -> Result<(), TooShort> {
        debug_assert_eq!(self.head[0].len, 0, "the head is set aside once");
        if count > self.writable_len {
            return Err(TooShort);
        }
        if count > 0 {
            // SAFETY: there are writable bytes.
            let first = unsafe { at(&mut self.segments, self.write_start) };
            if first.len == count {
                // The common case: a header with a buffer of its own.
                self.head[0] = *first;
                self.write_start += 1;
                self.writable_len -= count;
                return Ok(());
            }
        }
        self.split_head_anywhere(count)
    }

    #[cold]
    fn split_head_anywhere(&mut self, count: usize) -> Result<(), TooShort> {
        let (mut left, mut pieces) = (count, 0);
        for segment in self.writable() {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(segment.len);
            pieces += 1;
        }
        if pieces > MAX_HEAD {
            return Err(TooShort);
        }
        let (mut left, mut set_aside) = (count, 0);
        while left > 0 {
            let first = &mut self.segments[self.write_start as usize];
            let piece = Segment {
                base: first.base,
                len: first.len.min(left),
            };
            left -= piece.len;
            if piece.len == first.len {
                self.write_start += 1;
            } else {
                // SAFETY: the piece is shorter than the segment.
                first.base = unsafe { first.base.add(piece.len) };
                first.len -= piece.len;
            }
            self.head[set_aside] = piece;
            self.head_more = set_aside as u16;
            set_aside += 1;
        }
        self.writable_len -= count;
        Ok(())
    }

    /// Copy `bytes` into the head, from its start.
    ///
    /// # Errors
    /// [`TooShort`] when the head is shorter; nothing is copied then.
    pub fn write_head(&self, bytes: &[u8]) -> Result<(), TooShort> {
        fill(&self.head[..=self.head_more as usize], 0, bytes)
    }

    /// Do as [`Self::write_head`] when the head is in one piece; false, and nothing done, when it is not.
    #[inline]
    pub fn write_head_at_once(&self, bytes: &[u8]) -> bool {
        let [first, ..] = &self.head;
        let one = bytes.len() <= first.len;
        if one {
            // SAFETY: inside a live writable segment, see `Segment::new`: without a head its length is zero. `bytes`
            // are ours, so they do not overlap it.
            unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), first.base, bytes.len()) };
        }
        one
    }

    /// Copy `bytes` behind the head, `offset` bytes after it.
    ///
    /// # Errors
    /// [`TooShort`] when they do not fit; nothing is copied then.
    pub fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<(), TooShort> {
        match offset.checked_add(bytes.len()) {
            Some(end) if end <= self.writable_len => {}
            _ => return Err(TooShort),
        }
        copy_in(self.writable(), offset, bytes);
        Ok(())
    }

    /// Do as [`Self::write_at`], right behind the head, when the first segment there has the room; false, and nothing
    /// done, when it has not.
    #[inline]
    pub fn write_at_once(&self, bytes: &[u8]) -> bool {
        if bytes.is_empty() || bytes.len() > self.writable_len {
            return false;
        }
        // SAFETY: there are writable bytes.
        let first = unsafe { self.segments.get_unchecked(self.write_start as usize) };
        let room = bytes.len() <= first.len;
        if room {
            // SAFETY: inside a live writable segment, see `Segment::new`; `bytes` are ours, so they do not overlap it.
            unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), first.base, bytes.len()) };
        }
        room
    }

    /// Zero everything behind the head from `offset` on.
    pub fn zero_from(&self, offset: usize) {
        let mut skip = offset;
        for segment in self.writable() {
            if skip < segment.len {
                // SAFETY: inside a writable segment, see `Segment::new`.
                unsafe { segment.base.add(skip).write_bytes(0, segment.len - skip) };
            }
            skip = skip.saturating_sub(segment.len);
        }
    }

    /// Forget the readable bytes behind the first `len`.
    #[inline]
    pub fn limit_readable(&mut self, len: usize) {
        if len >= self.readable_len {
            return;
        }
        self.readable_len = len;
        let side = &mut self.segments[self.read_start as usize..self.read_end as usize];
        self.read_end = self.read_start + truncate(side, len);
    }

    /// Forget the writable bytes behind the first `len` after the head.
    ///
    /// A READ lends exactly as many bytes as the host asked for, whatever room the chain has.
    #[inline]
    pub fn limit_writable(&mut self, len: usize) {
        if len >= self.writable_len {
            return;
        }
        self.writable_len = len;
        let side = &mut self.segments[self.write_start as usize..self.end as usize];
        self.end = self.write_start + truncate(side, len);
    }
}

/// Cut `segments` to `len` bytes; give the number of segments that are left.
fn truncate(segments: &mut [Segment], len: usize) -> u16 {
    let (mut left, mut count) = (len, 0);
    for segment in segments {
        if left == 0 {
            break;
        }
        segment.len = segment.len.min(left);
        left -= segment.len;
        count += 1;
    }
    count
}

/// A way to copy bytes from one place to another that does not overlap it.
type CopyBytes = unsafe fn(*const u8, *mut u8, usize);

/// Copy the bytes from `offset` of `segments`, which hold at least that many.
#[inline]
fn copy_out(segments: &[Segment], offset: usize, mut bytes: &mut [u8], copy: CopyBytes) {
    let mut skip = offset;
    for segment in segments {
        if bytes.is_empty() {
            return;
        }
        if skip >= segment.len {
            skip -= segment.len;
            continue;
        }
        let count = (segment.len - skip).min(bytes.len());
        let (now, later) = bytes.split_at_mut(count);
        // SAFETY: `skip + count` bytes lie in a live segment, which no Rust reference covers, so `now` is disjoint
        // from it. The host may write them at the same time: whatever mix of bytes arrives is then checked like any
        // other.
        unsafe { copy(segment.base.add(skip), now.as_mut_ptr(), count) };
        bytes = later;
        skip = 0;
    }
}

/// Copy `bytes` to `offset` in `segments`, which have room for them.
#[inline(never)]
fn copy_in(segments: &[Segment], offset: usize, mut bytes: &[u8]) {
    let mut skip = offset;
    for segment in segments {
        if bytes.is_empty() {
            return;
        }
        if skip >= segment.len {
            skip -= segment.len;
            continue;
        }
        let count = (segment.len - skip).min(bytes.len());
        // SAFETY: `skip + count` bytes lie in a live writable segment, see `Segment::new`.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), segment.base.add(skip), count) };
        bytes = &bytes[count..];
        skip = 0;
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// Build a list over `memory`, cut into readable and writable pieces of the given lengths.
    fn list(memory: &mut [u8], readable: &[usize], writable: &[usize]) -> SegmentList {
        let mut list = SegmentList::new_zeroed();
        let mut base = memory.as_mut_ptr();
        for (index, &len) in readable.iter().chain(writable).enumerate() {
            // SAFETY: the tests give lengths that add up to at most the memory, and do not touch it meanwhile.
            let segment = unsafe { Segment::new(base, len) };
            // SAFETY: as above.
            base = unsafe { base.add(len) };
            if index < readable.len() {
                list.push_readable(segment).unwrap();
            } else {
                list.push_writable(segment).unwrap();
            }
        }
        list
    }

    #[test]
    fn a_header_cut_at_any_place_is_read_whole() {
        let source: Vec<u8> = (0..48).collect();
        for cut in 0..=40 {
            let mut memory = source.clone();
            let mut list = list(&mut memory, &[cut, 48 - cut], &[]);
            let mut header = [0; 40];
            list.read_front(&mut header).unwrap();
            assert_eq!(header, source[..40]);
            assert_eq!(list.readable_len(), 8);
            assert_eq!(list.readable().iter().map(Segment::len).sum::<usize>(), 8);
            let mut rest = [0; 8];
            list.read_front(&mut rest).unwrap();
            assert_eq!(rest, source[40..]);
            assert_eq!(list.read_front(&mut [0]), Err(TooShort));
        }
    }

    #[test]
    fn head_and_data_never_overlap_wherever_the_chain_is_cut() {
        for cut in 0..=32 {
            let mut memory = [0; 32];
            let mut list = list(&mut memory, &[], &[cut, 32 - cut]);
            list.split_head(16).unwrap();
            assert_eq!(list.writable_len(), 16);
            list.write_at(0, &[2; 16]).unwrap();
            list.write_head(&[1; 16]).unwrap();
            assert_eq!(list.write_at(1, &[3; 16]), Err(TooShort));
            assert_eq!(list.write_at(usize::MAX, &[3; 2]), Err(TooShort));
            assert_eq!(memory[..16], [1; 16]);
            assert_eq!(memory[16..], [2; 16]);
        }
    }

    #[test]
    fn a_part_of_a_payload_is_copied_wherever_the_chain_is_cut() {
        let source: Vec<u8> = (0..16).collect();
        for cut in 0..=16 {
            let mut memory = source.clone();
            let mut list = list(&mut memory, &[cut, 16 - cut], &[]);
            list.skip_readable(3).unwrap();
            let mut part = [0; 7];
            list.read_at(4, &mut part).unwrap();
            assert_eq!(part, source[7..14]);
            assert_eq!(list.read_at(7, &mut part), Err(TooShort));
            assert_eq!(list.read_at(usize::MAX, &mut part), Err(TooShort));
            assert_eq!(list.readable_len(), 13);
        }
    }

    #[test]
    fn a_limit_cuts_inside_a_segment_and_zeroing_stops_there() {
        let mut memory = [9; 12];
        let mut list = list(&mut memory, &[], &[4, 4, 4]);
        list.limit_writable(6);
        assert_eq!(
            list.writable().iter().map(Segment::len).collect::<Vec<_>>(),
            [4, 2]
        );
        list.zero_from(3);
        assert_eq!(memory, [9, 9, 9, 0, 0, 0, 9, 9, 9, 9, 9, 9]);
    }

    #[test]
    fn a_request_that_is_shorter_than_its_chain_ends_where_it_says() {
        let mut memory: Vec<u8> = (0..12).collect();
        let mut list = list(&mut memory, &[4, 4, 2], &[2]);
        list.limit_readable(5);
        let mut all = [0; 5];
        assert_eq!(list.readable().len(), 2);
        list.read_front(&mut all).unwrap();
        assert_eq!(all, [0, 1, 2, 3, 4]);
        assert_eq!(list.readable().len(), 0);
        assert_eq!(list.writable_len(), 2);
    }

    #[test]
    fn a_head_of_single_bytes_is_refused_when_it_has_too_many() {
        let mut memory = [0; 20];
        let mut list = list(&mut memory, &[], &[1; 20]);
        assert_eq!(list.split_head(17), Err(TooShort));
        assert_eq!(list.writable_len(), 20);
        list.split_head(16).unwrap();
        assert_eq!(list.writable_len(), 4);
    }

    #[test]
    fn the_list_is_bounded() {
        let mut memory = [0; MAX_SEGMENTS + 1];
        let base = memory.as_mut_ptr();
        let mut list = SegmentList::new_zeroed();
        // SAFETY: the byte outlives the list.
        let one = unsafe { Segment::new(base, 1) };
        for _ in 0..MAX_SEGMENTS {
            list.push_readable(one).unwrap();
        }
        assert_eq!(list.push_readable(one), Err(TooMany));
    }
}
