use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::vec::Vec;

use proptest::prelude::*;

use super::super::arena::test_arena;
use super::*;

fn table<T: Send + Sync>(capacity: u32) -> &'static OpenFileTable<T> {
    let arena = test_arena(OpenFileTable::<T>::footprint(capacity));
    OpenFileTable::new(&arena, capacity).unwrap()
}

#[test]
fn a_file_is_open_until_it_is_closed() {
    let table = table(2);
    let fh = table.insert('a', 0).unwrap();
    let pinned = table.pin(fh).unwrap();
    assert_eq!(*pinned, 'a');
    assert_eq!(pinned.unpin(), None);
    assert_eq!(table.close(fh), Closed::Now('a'));
    assert_eq!(table.close(fh), Closed::Unknown);
    assert!(table.pin(fh).is_none());
    assert!(table.is_empty());
}

#[test]
fn the_last_pin_hands_a_closed_file_back() {
    let table = table(1);
    let fh = table.insert('a', 0).unwrap();
    let (first, second) = (table.pin(fh).unwrap(), table.pin(fh).unwrap());
    assert_eq!(table.close(fh), Closed::Later);
    assert_eq!(table.close(fh), Closed::Unknown, "closed twice");
    assert!(table.pin(fh).is_none());
    assert_eq!(first.unpin(), None);
    assert_eq!(*second, 'a');
    assert_eq!(table.insert('b', 0), Err((Refused::Full, 'b')));
    assert_eq!(second.unpin(), Some('a'));
    let next = table.insert('b', 0).unwrap();
    assert_ne!(next, fh);
    assert!(table.pin(fh).is_none(), "a handle of the file before");
    assert_eq!(table.close(fh), Closed::Unknown);
}

#[test]
fn made_up_handles_find_nothing() {
    let table = table(3);
    let fh = table.insert('a', 0).unwrap();
    let gone = table.insert('b', 0).unwrap();
    assert_eq!(table.close(gone), Closed::Now('b'));
    for bit in 0..64 {
        assert!(table.pin(fh ^ 1 << bit).is_none());
        assert_eq!(table.close(fh ^ 1 << bit), Closed::Unknown);
        assert!(table.pin(gone ^ 1 << bit).is_none());
    }
    for forged in [0, 1, 2, 3, 4, u64::MAX, gone] {
        assert!(table.pin(forged).is_none());
        assert_eq!(table.close(forged), Closed::Unknown);
    }
}

#[test]
fn pins_are_counted_up_to_their_limit() {
    let table = table(1);
    let fh = table.insert('a', 0).unwrap();
    let state = &table.entries[1].state;
    state.fetch_add(PINS - 1, Ordering::Relaxed);
    let last = table.pin(fh).unwrap();
    assert!(table.pin(fh).is_none(), "and the file stays open");
    state.fetch_sub(PINS - 1, Ordering::Relaxed);
    assert_eq!(last.unpin(), None);
    assert_eq!(table.close(fh), Closed::Now('a'));
}

#[test]
fn generations_wrap_around_without_zero() {
    let table = table(1);
    let last = u64::MAX << LOW_BITS;
    table.entries[1]
        .state
        .store(last | CLOSED, Ordering::Relaxed);
    let fh = table.insert('a', 0).unwrap();
    assert_eq!(fh, 1 << LOW_BITS | 1);
    assert_eq!(table.close(fh), Closed::Now('a'));
}

#[test]
fn a_reset_closes_all_and_refuses_the_old_session() {
    let table = table(4);
    let pinned = table.pin(table.insert('a', 0).unwrap()).unwrap();
    let other = table.insert('b', 0).unwrap();
    let closed = table.insert('c', 0).unwrap();
    assert_eq!(table.close(closed), Closed::Now('c'));
    let mut dropped = Vec::new();
    table.reset(1, |file| dropped.push(file));
    assert_eq!(dropped, ['b']);
    assert_eq!(table.len(), 1);
    assert_eq!(pinned.unpin(), Some('a'));
    assert_eq!(table.close(other), Closed::Unknown);
    assert_eq!(table.insert('d', 0), Err((Refused::StaleEpoch, 'd')));
    let next = table.insert('e', 1).unwrap();
    table.reset(1, |_| unreachable!());
    table.reset(0, |_| unreachable!());
    assert_eq!(table.close(next), Closed::Now('e'));
    assert!(table.is_empty());
}

/// Readers and closers race for files; a file is marked when it is disposed of, and no pin ever sees the mark.
#[test]
fn threads_never_work_on_a_file_that_was_disposed_of() {
    let rounds = if cfg!(miri) { 60 } else { 50_000 };
    let table: &'static OpenFileTable<u32> = table(3);
    let alive: Vec<AtomicU32> = (0..rounds).map(|_| AtomicU32::new(1)).collect();
    let handles = [const { AtomicU64::new(0) }; 2];
    let done = AtomicU32::new(0);
    let dispose = |file: u32| {
        assert_eq!(alive[file as usize].swap(0, Ordering::Relaxed), 1, "once");
    };
    std::thread::scope(|scope| {
        for thread in 0..2usize {
            let (handles, alive, done) = (&handles, &alive, &done);
            scope.spawn(move || {
                let mut at = thread;
                while done.load(Ordering::Relaxed) == 0 {
                    at += 1;
                    let fh = handles[at % 2].load(Ordering::Relaxed);
                    if let Some(pinned) = table.pin(fh) {
                        assert_eq!(alive[*pinned as usize].load(Ordering::Relaxed), 1);
                        if at % 5 == 0
                            && let Closed::Now(_) = table.close(fh)
                        {
                            unreachable!("it is pinned");
                        }
                        assert_eq!(alive[*pinned as usize].load(Ordering::Relaxed), 1);
                        if let Some(file) = pinned.unpin() {
                            dispose(file);
                        }
                    }
                }
            });
        }
        for file in 0..rounds {
            let handle = &handles[file as usize % 2];
            if let Closed::Now(old) = table.close(handle.load(Ordering::Relaxed)) {
                dispose(old);
            }
            match table.insert(file, 0) {
                Ok(fh) => handle.store(fh, Ordering::Relaxed),
                Err((_, file)) => dispose(file),
            }
        }
        done.store(1, Ordering::Relaxed);
    });
    table.reset(1, dispose);
    assert!(table.is_empty());
    assert!(alive.iter().all(|a| a.load(Ordering::Relaxed) == 0));
}

#[derive(Clone, Debug)]
enum Op {
    Open,
    Close(usize),
    Pin(usize),
    Unpin(usize),
    Reset,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => Just(Op::Open),
        3 => (0..64usize).prop_map(Op::Close),
        3 => (0..64usize).prop_map(Op::Pin),
        3 => (0..64usize).prop_map(Op::Unpin),
        1 => Just(Op::Reset),
    ]
}

/// Say what a table is to do: each file's number, whether it is closed, and its pins.
#[derive(Default)]
struct Model {
    files: HashMap<u64, (u32, bool, u32)>,
    given: Vec<u64>,
    pins: Vec<(u64, Pinned<u32>)>,
    next: u32,
    epoch: u32,
}

impl Model {
    fn pick(&self, at: usize) -> u64 {
        *self.given.get(at % self.given.len().max(1)).unwrap_or(&77)
    }

    fn apply(&mut self, table: &'static OpenFileTable<u32>, op: Op) {
        match op {
            Op::Open => match table.insert(self.next, self.epoch) {
                Ok(fh) => {
                    assert!(!self.given.contains(&fh) && fh != 0);
                    self.given.push(fh);
                    self.files.insert(fh, (self.next, false, 0));
                    self.next += 1;
                }
                Err(refused) => {
                    assert_eq!(refused, (Refused::Full, self.next));
                    assert_eq!(self.files.len() as u32, table.capacity());
                }
            },
            Op::Close(at) => {
                let fh = self.pick(at);
                let expected = match self.files.get_mut(&fh) {
                    None | Some((_, true, _)) => Closed::Unknown,
                    Some((file, _, 0)) => Closed::Now(*file),
                    Some((_, closed, _)) => {
                        *closed = true;
                        Closed::Later
                    }
                };
                if let Closed::Now(_) = expected {
                    self.files.remove(&fh);
                }
                assert_eq!(table.close(fh), expected);
            }
            Op::Pin(at) => {
                let fh = self.pick(at);
                match (table.pin(fh), self.files.get_mut(&fh)) {
                    (Some(pinned), Some((file, false, pins))) => {
                        assert_eq!(*pinned, *file);
                        *pins += 1;
                        self.pins.push((fh, pinned));
                    }
                    (pinned, file) => {
                        assert!(pinned.is_none() && file.is_none_or(|(_, closed, _)| *closed));
                    }
                }
            }
            Op::Unpin(at) => {
                if self.pins.is_empty() {
                    return;
                }
                let (fh, pinned) = self.pins.swap_remove(at % self.pins.len());
                let (file, closed, pins) = self.files.get_mut(&fh).unwrap();
                *pins -= 1;
                let expected = (*closed && *pins == 0).then_some(*file);
                if expected.is_some() {
                    self.files.remove(&fh);
                }
                assert_eq!(pinned.unpin(), expected);
            }
            Op::Reset => {
                self.epoch += 1;
                let mut expected = HashSet::new();
                self.files.retain(|_, (file, closed, pins)| {
                    *closed = true;
                    *pins > 0 || !expected.insert(*file)
                });
                table.reset(self.epoch, |file| assert!(expected.remove(&file)));
                assert!(expected.is_empty());
            }
        }
        assert_eq!(table.len() as usize, self.files.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 1 } else { 400 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn it_does_what_a_hash_map_does(ops in proptest::collection::vec(op(), 0..150)) {
        let table = table(5);
        let mut model = Model::default();
        for op in ops {
            model.apply(table, op);
        }
    }
}

#[test]
fn going_through_all_meets_each_open_file_once_and_a_second_pin_keeps_it() {
    let table = table(4);
    let handles: Vec<u64> = ['a', 'b', 'c', 'd']
        .map(|file| table.insert(file, 0).unwrap())
        .into();
    assert_eq!(table.close(handles[1]), Closed::Now('b'));
    let (mut place, mut met) = (0, Vec::new());
    while let Some((next, pinned)) = table.pin_after(place) {
        place = next;
        met.push(*pinned);
        assert_eq!(pinned.unpin(), None);
    }
    met.sort_unstable();
    assert_eq!(met, ['a', 'c', 'd']);
    let first = table.pin(handles[0]).unwrap();
    let second = first.again();
    assert_eq!(table.close(handles[0]), Closed::Later);
    assert_eq!(first.unpin(), None);
    assert_eq!(second.unpin(), Some('a'));
}
