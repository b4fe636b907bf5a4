//! Bytes on their way, in a piece of memory that never grows.

use std::boxed::Box;
use std::vec;

/// Hold bytes in order.
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// Make an empty one for so many bytes.
    pub fn new(len: usize) -> Self {
        Self {
            bytes: vec![0; len].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// Tell whether nothing is in it.
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Give what is in it.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Give what is in it, to be changed in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Give the room behind that, all there is: what is in it moves to the front when there is little.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && self.bytes.len() - self.end < self.bytes.len() / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.bytes[self.end..]
    }

    /// Note that so many bytes of the room are filled.
    pub fn add(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.bytes.len());
    }

    /// Forget so many bytes at the front.
    pub fn take(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.end);
    }

    /// Put bytes behind what is in it, as many as there is room for.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = self.room();
        let count = bytes.len().min(room.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.add(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_makes_room_and_order_is_kept() {
        let mut buffer = Buffer::new(8);
        buffer.push(b"0123456789");
        assert_eq!(buffer.filled(), b"01234567", "what there is room for");
        assert!(buffer.room().is_empty());
        buffer.take(5);
        assert_eq!(buffer.room().len(), 5);
        buffer.push(b"abc");
        assert_eq!(buffer.filled(), b"567abc");
        buffer.take(99);
        assert!(buffer.is_empty());
        assert_eq!(buffer.room().len(), 8);
        buffer.add(99);
        assert_eq!(buffer.filled().len(), 8);
    }
}
