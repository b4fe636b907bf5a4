//! Content in chunks: where a range of bytes lies.

use core::ops::Range;

use crate::mem::{Segment, fill};

/// A part of a range of bytes that lies in one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Number of the chunk.
    pub index: u32,
    /// First byte in the chunk.
    pub inside: usize,
    /// First byte in the range.
    pub at: usize,
    /// Bytes.
    pub count: usize,
}

/// Cut a range of bytes into chunks.
pub fn pieces(bytes: Range<u64>, chunk: u32) -> impl Iterator<Item = Piece> {
    let chunk = u64::from(chunk);
    let mut at = bytes.start;
    core::iter::from_fn(move || {
        if at >= bytes.end {
            return None;
        }
        let inside = at % chunk;
        let count = (chunk - inside).min(bytes.end - at);
        let piece = Piece {
            index: (at / chunk) as u32,
            inside: inside as usize,
            at: (at - bytes.start) as usize,
            count: count as usize,
        };
        at += count;
        Some(piece)
    })
}

/// Zero a range of what is lent; what lies beyond it is left out.
pub fn zero(buffers: &[Segment], bytes: Range<usize>) {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut at = bytes.start;
    while at < bytes.end {
        let zeros = &ZEROS[..(bytes.end - at).min(ZEROS.len())];
        let _ = fill(buffers, at, zeros);
        at += zeros.len();
    }
}
