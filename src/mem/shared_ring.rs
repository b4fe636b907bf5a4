//! A bounded ring between threads: answers of foreign threads to a core, jobs of a core for its workers.
//!
//! Any number of threads push and any number pop, without locks, after Dmitry Vyukov's bounded queue: each cell says
//! in its `turn` for which push or pop it is ready, a thread claims a position by moving `tail` or `head`, and works on
//! its cell alone. With one consumer the exchange in `pop` always succeeds, so that case needs no code of its own.

use core::mem::size_of;

use super::sync::{self, AtomicUsize, Ordering, Place, relax};
use super::{Arena, OutOfMemory};

#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
struct Cell<T> {
    /// For the positions `lap + i` that fall on cell `i`: `lap` when it waits to be filled, `lap + 1` when it is full.
    /// Counting from the lap rather than the position makes zero the first state of every cell.
    turn: AtomicUsize,
    value: Place<T>,
}

// SAFETY: a value is reached by the one thread that claimed its cell's position; it is sent and never shared.
unsafe impl<T: Send> Sync for Cell<T> {}

#[cfg(loom)]
impl<T> Default for Cell<T> {
    fn default() -> Self {
        Self {
            turn: AtomicUsize::new(0),
            value: Place::default(),
        }
    }
}

/// Keep an index on a cache line of its own: producers and consumers each write theirs.
#[repr(align(64))]
struct Position(AtomicUsize);

/// Pass small values from threads to threads, in the order in which they were pushed.
pub struct SharedRing<T: 'static> {
    cells: &'static [Cell<T>],
    tail: Position,
    head: Position,
}

impl<T: Copy + Send> SharedRing<T> {
    /// Reserve a ring for `capacity` values, rounded up to a power of two, 2 or more.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena has less than [`Self::footprint`].
    pub fn new(arena: &Arena, capacity: u32) -> Result<&'static Self, OutOfMemory> {
        let ring = Self {
            cells: sync::table(arena, cells(capacity))?,
            tail: Position(AtomicUsize::new(0)),
            head: Position(AtomicUsize::new(0)),
        };
        Ok(arena.place(ring)?)
    }

    /// Give the bytes of arena that a ring for `capacity` values needs.
    pub const fn footprint(capacity: u32) -> usize {
        cells(capacity) * size_of::<Cell<T>>() + size_of::<Self>() + 2 * 64
    }

    /// Give the number of values that the ring holds when full.
    pub fn capacity(&self) -> usize {
        self.cells.len()
    }

    /// Append a value; hand it back when the ring is full.
    ///
    /// # Errors
    /// The value, when there is no room for it.
    #[inline]
    pub fn push(&self, value: T) -> Result<(), T> {
        let mut tail = self.tail.0.load(Ordering::Relaxed);
        loop {
            let (cell, lap) = self.cell(tail);
            // Acquire: what was here last has been read.
            let ahead = cell.turn.load(Ordering::Acquire).wrapping_sub(lap) as isize;
            if ahead < 0 {
                return Err(value);
            }
            if ahead > 0 {
                // Another thread took this position.
                relax();
                tail = self.tail.0.load(Ordering::Relaxed);
                continue;
            }
            match claim(&self.tail, tail) {
                Ok(()) => {
                    // SAFETY: this thread alone moved `tail` over the position, and nobody reads before `turn` says so.
                    unsafe { cell.value.write(value) };
                    cell.turn.store(lap.wrapping_add(1), Ordering::Release);
                    return Ok(());
                }
                Err(now) => tail = now,
            }
        }
    }

    /// Take the oldest value; `None` when there is none, or when the thread that is pushing it has not finished.
    #[inline]
    pub fn pop(&self) -> Option<T> {
        let mut head = self.head.0.load(Ordering::Relaxed);
        loop {
            let (cell, lap) = self.cell(head);
            // Acquire: see the value.
            let turn = cell.turn.load(Ordering::Acquire);
            let ahead = turn.wrapping_sub(lap.wrapping_add(1)) as isize;
            if ahead < 0 {
                return None;
            }
            if ahead > 0 {
                // Another thread took this position.
                relax();
                head = self.head.0.load(Ordering::Relaxed);
                continue;
            }
            match claim(&self.head, head) {
                Ok(()) => {
                    // SAFETY: this thread alone moved `head` over the position, and nobody writes before `turn` says so.
                    let value = unsafe { cell.value.take() };
                    let next = lap.wrapping_add(self.cells.len());
                    cell.turn.store(next, Ordering::Release);
                    return Some(value);
                }
                Err(now) => head = now,
            }
        }
    }

    /// Tell whether [`Self::pop`] would give nothing now. For a consumer that is about to sleep: it says so to the
    /// producers first, and looks here after that.
    #[inline]
    pub fn is_empty(&self) -> bool {
        let (cell, lap) = self.cell(self.head.0.load(Ordering::Relaxed));
        let turn = cell.turn.load(Ordering::Acquire);
        (turn.wrapping_sub(lap.wrapping_add(1)) as isize) < 0
    }

    #[inline]
    fn cell(&self, position: usize) -> (&Cell<T>, usize) {
        let mask = self.cells.len() - 1;
        (&self.cells[position & mask], position & !mask)
    }
}

const fn cells(capacity: u32) -> usize {
    // With a single cell, "full" and "to be filled next" would be the same number.
    let capacity = if capacity < 2 { 2 } else { capacity as usize };
    capacity.next_power_of_two()
}

#[inline]
fn claim(position: &Position, at: usize) -> Result<(), usize> {
    position
        .0
        .compare_exchange_weak(at, at.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed)
        .map(|_| ())
}

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use std::collections::VecDeque;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::super::arena::test_arena;
    use super::*;

    fn ring(capacity: u32) -> &'static SharedRing<u32> {
        SharedRing::new(
            &test_arena(SharedRing::<u32>::footprint(capacity)),
            capacity,
        )
        .unwrap()
    }

    #[test]
    fn the_capacity_is_a_power_of_two() {
        for (asked, given) in [(0, 2), (1, 2), (2, 2), (3, 4), (512, 512)] {
            let ring = ring(asked);
            assert_eq!(ring.capacity(), given);
            assert!((0..given as u32).all(|n| ring.push(n).is_ok()));
            assert_eq!(ring.push(9), Err(9));
        }
    }

    #[test]
    fn positions_wrap_around() {
        let ring = ring(4);
        // As if almost 2^64 values had gone through.
        let start = usize::MAX - 5;
        ring.head.0.store(start, Ordering::Relaxed);
        ring.tail.0.store(start, Ordering::Relaxed);
        for position in start..=start + 3 {
            let (cell, lap) = ring.cell(position);
            cell.turn.store(lap, Ordering::Relaxed);
        }
        for n in 0..20 {
            assert!(ring.is_empty());
            ring.push(n).unwrap();
            ring.push(n + 100).unwrap();
            assert!(!ring.is_empty());
            assert_eq!(
                (ring.pop(), ring.pop(), ring.pop()),
                (Some(n), Some(n + 100), None)
            );
        }
    }

    /// Every value arrives once, and each consumer sees each producer's values in order.
    #[test]
    fn threads_lose_and_repeat_nothing() {
        let count = if cfg!(miri) { 40 } else { 50_000 };
        for consumers in [1, 2] {
            let ring = ring(8);
            let mut seen: Vec<u32> = std::thread::scope(|scope| {
                for producer in 0..2 {
                    scope.spawn(move || {
                        for n in 0..count {
                            while ring.push(producer * count + n).is_err() {
                                std::thread::yield_now();
                            }
                        }
                    });
                }
                let share = 2 * count / consumers;
                let threads: Vec<_> = (0..consumers)
                    .map(|_| {
                        scope.spawn(move || {
                            let mut seen = Vec::new();
                            while (seen.len() as u32) < share {
                                match ring.pop() {
                                    Some(value) => seen.push(value),
                                    None => std::thread::yield_now(),
                                }
                            }
                            for producer in 0..2 {
                                let of = |v: &&u32| **v / count == producer;
                                assert!(seen.iter().filter(of).is_sorted());
                            }
                            seen
                        })
                    })
                    .collect();
                threads
                    .into_iter()
                    .flat_map(|t| t.join().unwrap())
                    .collect()
            });
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..2 * count));
            assert!(ring.is_empty());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 1 } else { 200 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn it_does_what_a_bounded_queue_does(pushes in proptest::collection::vec(any::<bool>(), 0..100)) {
            let (ring, mut model) = (ring(4), VecDeque::new());
            for (n, push) in (0..).zip(pushes) {
                if push {
                    let room = model.len() < 4;
                    prop_assert_eq!(ring.push(n).is_ok(), room);
                    if room {
                        model.push_back(n);
                    }
                } else {
                    prop_assert_eq!(ring.pop(), model.pop_front());
                }
                prop_assert_eq!(ring.is_empty(), model.is_empty());
            }
        }
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::thread;

    use super::super::arena::test_arena;
    use super::*;

    fn ring() -> &'static SharedRing<u32> {
        SharedRing::new(&test_arena(4096), 2).unwrap()
    }

    fn model(preemptions: Option<usize>, f: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = preemptions;
        builder.check(f);
    }

    fn pop(ring: &SharedRing<u32>) -> u32 {
        loop {
            match ring.pop() {
                Some(value) => return value,
                None => thread::yield_now(),
            }
        }
    }

    #[test]
    fn what_two_producers_push_arrives_once() {
        model(None, || {
            let ring = ring();
            let producers = [1, 2].map(|n| thread::spawn(move || ring.push(n).unwrap()));
            assert_eq!(pop(ring) + pop(ring), 3);
            assert_eq!(ring.pop(), None);
            for producer in producers {
                producer.join().unwrap();
            }
        });
    }

    #[test]
    fn a_cell_is_filled_again_only_after_it_was_read() {
        model(None, || {
            let ring = ring();
            ring.push(1).unwrap();
            ring.push(2).unwrap();
            let producer = thread::spawn(move || {
                while ring.push(3).is_err() {
                    thread::yield_now();
                }
            });
            assert_eq!((pop(ring), pop(ring), pop(ring)), (1, 2, 3));
            producer.join().unwrap();
        });
    }

    #[test]
    fn two_consumers_share_without_repeating() {
        model(None, || {
            let ring = ring();
            ring.push(1).unwrap();
            let consumer = thread::spawn(move || ring.pop());
            ring.push(2).unwrap();
            let mine = ring.pop();
            let other = consumer.join().unwrap();
            let rest: u32 = core::iter::from_fn(|| ring.pop()).sum();
            assert_eq!(mine.unwrap_or(0) + other.unwrap_or(0) + rest, 3);
        });
    }
}
