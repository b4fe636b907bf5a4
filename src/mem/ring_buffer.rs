//! A ring buffer: what a connection received and nobody parsed yet, or what it is to send.
//!
//! ```text
//! storage   | free ......... | held, oldest first ..... | free ......... |
//! or        | held, newest . | free ................... | held, oldest . |
//! ```
//!
//! Both the elements it holds and its free room are at most two slices. Whoever moves data lends them to the system
//! (`readv` into [`RingBuffer::room_mut`], `writev` from [`RingBuffer::slices`]) and then says how much was moved.

/// Queue elements of one core in a piece of fixed storage: bytes of a stream, or small records.
pub struct RingBuffer<'a, T> {
    storage: &'a mut [T],
    /// Index of the oldest element; below the capacity, or zero when that is zero.
    head: usize,
    len: usize,
}

impl<'a, T: Copy> RingBuffer<'a, T> {
    /// Make an empty buffer that keeps its elements in `storage`.
    pub const fn new(storage: &'a mut [T]) -> Self {
        Self {
            storage,
            head: 0,
            len: 0,
        }
    }

    /// Drop all elements.
    pub const fn clear(&mut self) {
        self.head = 0;
        self.len = 0;
    }

    /// Give the number of elements that fit.
    pub const fn capacity(&self) -> usize {
        self.storage.len()
    }

    /// Give the number of elements held.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Tell whether nothing is held.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Give the number of elements that still fit.
    pub const fn room(&self) -> usize {
        self.storage.len() - self.len
    }

    /// Tell whether no element fits any more.
    pub const fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// Give what is held, oldest first; the second slice goes on where the first ends.
    #[inline]
    pub fn slices(&self) -> (&[T], &[T]) {
        let (from_start, from_head) = self.storage.split_at(self.head);
        if self.len <= from_head.len() {
            (&from_head[..self.len], &[])
        } else {
            (from_head, &from_start[..self.len - from_head.len()])
        }
    }

    /// Give an element by its place, counted from the oldest.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        let (first, second) = self.slices();
        first.get(index).or_else(|| second.get(index - first.len()))
    }

    /// Give the free room, in the order in which [`Self::commit`] takes it.
    #[inline]
    pub fn room_mut(&mut self) -> (&mut [T], &mut [T]) {
        if self.len == 0 {
            // Lend it in one piece.
            self.head = 0;
        }
        let (from_start, from_head) = self.storage.split_at_mut(self.head);
        match self.len.checked_sub(from_head.len()) {
            Some(wrapped) => (&mut from_start[wrapped..], &mut []),
            None => (&mut from_head[self.len..], from_start),
        }
    }

    /// Count the first `count` elements of the room as held, after they were written; at most all of it. Returns how
    /// many that were.
    pub fn commit(&mut self, count: usize) -> usize {
        let count = count.min(self.room());
        self.len += count;
        count
    }

    /// Drop the `count` oldest elements; at most all. Returns how many that were.
    pub fn consume(&mut self, count: usize) -> usize {
        let count = count.min(self.len);
        self.len -= count;
        self.head += count;
        if self.head >= self.storage.len() {
            self.head -= self.storage.len();
        }
        count
    }

    /// Append as many of `elements` as fit. Returns how many that were.
    pub fn enqueue(&mut self, elements: &[T]) -> usize {
        let elements = &elements[..elements.len().min(self.room())];
        let (first, second) = self.room_mut();
        let (now, later) = elements.split_at(elements.len().min(first.len()));
        first[..now.len()].copy_from_slice(now);
        second[..later.len()].copy_from_slice(later);
        self.commit(elements.len())
    }

    /// Append all of `elements`, or nothing when they do not fit. Returns whether they did.
    #[must_use]
    pub fn enqueue_all(&mut self, elements: &[T]) -> bool {
        elements.len() <= self.room() && self.enqueue(elements) == elements.len()
    }

    /// Copy out elements from the `offset`-th on, without dropping any. Returns how many there were.
    pub fn peek(&self, offset: usize, into: &mut [T]) -> usize {
        let (first, second) = self.slices();
        let skipped = offset.min(first.len());
        let (first, second) = (
            &first[skipped..],
            &second[(offset - skipped).min(second.len())..],
        );
        let now = into.len().min(first.len());
        let later = (into.len() - now).min(second.len());
        into[..now].copy_from_slice(&first[..now]);
        into[now..now + later].copy_from_slice(&second[..later]);
        now + later
    }

    /// Move out the oldest elements, as many as there are and `into` takes. Returns how many that were.
    pub fn dequeue(&mut self, into: &mut [T]) -> usize {
        let count = self.peek(0, into);
        self.consume(count)
    }

    /// Append one element.
    ///
    /// # Errors
    /// The element, when the buffer is full.
    pub fn push(&mut self, element: T) -> Result<(), T> {
        match self.enqueue(&[element]) {
            0 => Err(element),
            _ => Ok(()),
        }
    }

    /// Give the oldest element.
    pub fn front(&self) -> Option<T> {
        (self.len > 0).then(|| self.storage[self.head])
    }

    /// Move out the oldest element.
    pub fn pop(&mut self) -> Option<T> {
        let element = self.front()?;
        self.consume(1);
        Some(element)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use std::collections::VecDeque;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_wraps_around_comes_out_in_order() {
        let mut storage = [0; 5];
        let mut ring = RingBuffer::new(&mut storage);
        assert_eq!(ring.enqueue(b"abc"), 3);
        assert_eq!(ring.consume(2), 2);
        assert_eq!(ring.enqueue(b"defgh"), 4);
        assert!(ring.is_full());
        assert_eq!(ring.slices(), (&b"cde"[..], &b"fg"[..]));
        let mut out = [0; 8];
        assert_eq!(ring.peek(1, &mut out[..3]), 3);
        assert_eq!(&out[..3], b"def");
        assert_eq!(ring.peek(4, &mut out), 1);
        assert_eq!(ring.peek(9, &mut out), 0);
        assert_eq!(ring.dequeue(&mut out), 5);
        assert_eq!(&out[..5], b"cdefg");
        assert!(ring.is_empty());
    }

    #[test]
    fn an_empty_buffer_lends_its_room_in_one_piece() {
        let mut storage = [0; 4];
        let mut ring = RingBuffer::new(&mut storage);
        ring.enqueue(b"abc");
        ring.consume(3);
        let (first, second) = ring.room_mut();
        assert_eq!((first.len(), second.len()), (4, 0));
        first[0] = b'x';
        assert_eq!(ring.commit(1), 1);
        assert_eq!(ring.pop(), Some(b'x'));
    }

    #[test]
    fn storage_of_no_size_holds_nothing() {
        let mut ring = RingBuffer::<u8>::new(&mut []);
        assert!(ring.is_full() && ring.is_empty());
        assert_eq!(ring.push(1), Err(1));
        assert_eq!((ring.pop(), ring.consume(1), ring.commit(1)), (None, 0, 0));
        assert!(ring.enqueue_all(&[]));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Enqueue(Vec<u8>),
        EnqueueAll(Vec<u8>),
        Commit(usize),
        Dequeue(usize),
        Peek(usize, usize),
        Push(u8),
        Pop,
    }

    fn op() -> impl Strategy<Value = Op> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..10);
        prop_oneof![
            bytes().prop_map(Op::Enqueue),
            bytes().prop_map(Op::EnqueueAll),
            (0..10usize).prop_map(Op::Commit),
            (0..10usize).prop_map(Op::Dequeue),
            (0..10usize, 0..10usize).prop_map(|(offset, count)| Op::Peek(offset, count)),
            any::<u8>().prop_map(Op::Push),
            Just(Op::Pop),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 1 } else { 400 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn it_does_what_a_bounded_queue_does(
            capacity in 0..8usize,
            ops in proptest::collection::vec(op(), 0..100),
        ) {
            let mut storage = std::vec![0; capacity];
            let (mut ring, mut model) = (RingBuffer::new(&mut storage), VecDeque::new());
            for op in ops {
                let room = capacity - model.len();
                match op {
                    Op::Enqueue(bytes) => {
                        let fits = room.min(bytes.len());
                        prop_assert_eq!(ring.enqueue(&bytes), fits);
                        model.extend(&bytes[..fits]);
                    }
                    Op::EnqueueAll(bytes) => {
                        let fits = bytes.len() <= room;
                        prop_assert_eq!(ring.enqueue_all(&bytes), fits);
                        if fits {
                            model.extend(&bytes);
                        }
                    }
                    Op::Commit(count) => {
                        let (first, second) = ring.room_mut();
                        prop_assert_eq!(first.len() + second.len(), room);
                        for (byte, number) in first.iter_mut().chain(second).zip(0..) {
                            *byte = number;
                        }
                        prop_assert_eq!(ring.commit(count), count.min(room));
                        model.extend(0..count.min(room) as u8);
                    }
                    Op::Dequeue(count) => {
                        let mut out = std::vec![0; count];
                        let moved = ring.dequeue(&mut out);
                        prop_assert_eq!(moved, count.min(model.len()));
                        prop_assert!(model.drain(..moved).eq(out[..moved].iter().copied()));
                    }
                    Op::Peek(offset, count) => {
                        let mut out = std::vec![0; count];
                        let seen = ring.peek(offset, &mut out);
                        prop_assert_eq!(seen, count.min(model.len().saturating_sub(offset)));
                        prop_assert!(model.iter().skip(offset).take(count).eq(&out[..seen]));
                    }
                    Op::Push(byte) => {
                        prop_assert_eq!(ring.push(byte).is_ok(), room > 0);
                        if room > 0 {
                            model.push_back(byte);
                        }
                    }
                    Op::Pop => {
                        prop_assert_eq!(ring.front(), model.front().copied());
                        prop_assert_eq!(ring.pop(), model.pop_front());
                    }
                }
                prop_assert_eq!((ring.len(), ring.room()), (model.len(), capacity - model.len()));
                let (first, second) = ring.slices();
                prop_assert!(first.iter().chain(second).eq(&model));
            }
        }
    }
}
