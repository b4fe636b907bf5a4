//! The memory of one request, as a host would lend it.

use dpfs::mem::{Segment, SegmentList};

/// Bytes around each segment that nobody may touch.
const GUARD: usize = 32;
const GUARD_BYTE: u8 = 0xd6;
/// What room for a reply holds before it is written.
const FRESH_BYTE: u8 = 0xa5;

/// Say how a request's bytes and the room for its reply are cut into segments.
#[derive(Clone, Debug)]
pub struct Layout {
    readable: Vec<Vec<u8>>,
    writable: Vec<usize>,
}

impl Layout {
    /// Put the request in one segment and `room` bytes for the reply in another.
    pub fn new(request: &[u8], room: usize) -> Self {
        Self {
            readable: vec![request.to_vec()],
            writable: vec![room],
        }
    }

    /// Cut both sides behind the given counts of bytes; a count beyond the end cuts nothing.
    pub fn cut(self, readable: &[usize], writable: &[usize]) -> Self {
        let request = self.readable.concat();
        let room = self.writable.iter().sum();
        Self {
            readable: pieces(request.len(), readable)
                .map(|(start, end)| request[start..end].to_vec())
                .collect(),
            writable: pieces(room, writable)
                .map(|(start, end)| end - start)
                .collect(),
        }
    }

    /// Cut both sides into segments of at most `size` bytes.
    pub fn shred(self, size: usize) -> Self {
        let cuts = |len: usize| {
            (1..len.div_ceil(size))
                .map(|n| n * size)
                .collect::<Vec<_>>()
        };
        let readable = cuts(self.readable.iter().map(Vec::len).sum());
        let writable = cuts(self.writable.iter().sum());
        self.cut(&readable, &writable)
    }
}

/// Give the runs between sorted cuts.
fn pieces(len: usize, cuts: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    let inner = cuts
        .iter()
        .copied()
        .filter(move |&cut| 0 < cut && cut < len);
    let starts = std::iter::once(0).chain(inner.clone());
    starts.zip(inner.chain(std::iter::once(len)))
}

/// Hold memory with guards around it, reached through a raw pointer only while it is lent.
struct Block {
    base: *mut u8,
    len: usize,
}

impl Block {
    fn new(content: &[u8]) -> Self {
        let guard = [GUARD_BYTE; GUARD];
        let whole = [&guard[..], content, &guard[..]]
            .concat()
            .into_boxed_slice();
        Self {
            base: Box::into_raw(whole).cast(),
            len: content.len(),
        }
    }

    fn segment(&self) -> Segment {
        // SAFETY: behind the guard lie `len` bytes that stay until the exchange is dropped, which its bed does
        // after the request has ended; no reference to them exists meanwhile.
        unsafe { Segment::new(self.base.add(GUARD), self.len) }
    }

    /// Give the content, and panic when a guard was touched.
    fn content(&self) -> Vec<u8> {
        // SAFETY: the allocation has this size, and nobody writes it while the request is not lent.
        let whole = unsafe { std::slice::from_raw_parts(self.base, self.len + 2 * GUARD) };
        let (front, rest) = whole.split_at(GUARD);
        let (content, back) = rest.split_at(self.len);
        assert!(
            front.iter().chain(back).all(|&byte| byte == GUARD_BYTE),
            "bytes next to a segment were written"
        );
        content.to_vec()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let whole = std::ptr::slice_from_raw_parts_mut(self.base, self.len + 2 * GUARD);
        // SAFETY: this is the box that `new` gave away, with its size.
        drop(unsafe { Box::from_raw(whole) });
    }
}

/// Hold the memory of a request in flight.
pub(crate) struct Exchange {
    request: Vec<u8>,
    readable: Vec<Block>,
    writable: Vec<Block>,
}

impl Exchange {
    pub(crate) fn new(layout: &Layout) -> Self {
        let room = |&len: &usize| Block::new(&vec![FRESH_BYTE; len]);
        Self {
            request: layout.readable.concat(),
            readable: layout
                .readable
                .iter()
                .map(|piece| Block::new(piece))
                .collect(),
            writable: layout.writable.iter().map(room).collect(),
        }
    }

    /// Lend the memory.
    pub(crate) fn lend(&self, list: &mut SegmentList) {
        for block in &self.readable {
            list.push_readable(block.segment()).expect("few segments");
        }
        for block in &self.writable {
            list.push_writable(block.segment()).expect("few segments");
        }
    }

    /// Give the request and its reply of `written` bytes, and check that nothing else changed.
    pub(crate) fn take_back(self, written: usize) -> (Vec<u8>, Vec<u8>) {
        let gather = |blocks: &[Block]| {
            let pieces: Vec<_> = blocks.iter().map(Block::content).collect();
            pieces.concat()
        };
        assert_eq!(
            gather(&self.readable),
            self.request,
            "the request was written"
        );
        let mut reply = gather(&self.writable);
        assert!(
            written <= reply.len(),
            "a reply of {written} bytes in room for {}",
            reply.len()
        );
        reply.truncate(written);
        (self.request, reply)
    }
}
