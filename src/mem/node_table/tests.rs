use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::vec::Vec;

use proptest::prelude::*;

use super::super::arena::test_arena;
use super::*;

type Table = NodeTable<u64, u64>;

const ROOT_KEY: u64 = 1000;

fn table(capacity: u32) -> &'static Table {
    let arena = test_arena(Table::footprint(capacity));
    NodeTable::new(&arena, capacity, 0x5eed, ROOT_KEY, 0).unwrap()
}

/// Make a table whose shards are smaller than those of real ones, so that an interpreter can work through them.
fn sharded(capacity: u32) -> &'static Table {
    let arena = test_arena(Table::footprint(capacity) + 8 * size_of::<Shard>());
    NodeTable::with_shards(&arena, capacity, (0, 3), 0x5eed, ROOT_KEY, 0).unwrap()
}

/// Give more of the same numbers for each seed.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn the_root_is_found_by_key_and_number_and_never_goes() {
    let table = table(1);
    assert_eq!(table.look_up(ROOT_KEY, || unreachable!(), 0), Ok(1));
    assert_eq!(table.forget(1, u64::MAX), None);
    assert!(table.open(1));
    assert_eq!(table.close(1), None);
    assert_eq!(table.close(1), None);
    table.reset(1, |_| unreachable!());
    assert_eq!(table.get(1), Some((ROOT_KEY, 0)));
    assert_eq!(table.update(1, |_, value| *value = 5), Some(()));
    assert_eq!(table.get(1), Some((ROOT_KEY, 5)));
    assert_eq!((table.len(), table.capacity()), (1, 1));
    assert_eq!(table.look_up(7, || unreachable!(), 1), Err(Refused::Full));
    assert_eq!(table.look_up(ROOT_KEY, || 0, 0), Err(Refused::StaleEpoch));
}

#[test]
fn a_node_goes_with_its_last_lookup_or_its_last_handle() {
    let table = table(3);
    let id = table.look_up(7, || 70, 0).unwrap();
    assert_eq!(table.look_up(7, || unreachable!(), 0), Ok(id));
    assert_eq!(table.forget(id, 1), None);
    assert!(table.open(id));
    assert_eq!(table.forget(id, 100), None, "it is open");
    assert_eq!(table.get(id), Some((7, 70)));
    assert_eq!(table.close(id), Some(70));
    assert_eq!(table.get(id), None);
    assert!(!table.open(id));
    assert_eq!(table.close(id), None);
    assert_eq!(table.len(), 1);
    let again = table.look_up(7, || 71, 0).unwrap();
    assert_ne!(again, id);
    assert_eq!(table.forget(id, 1), None, "a forget of the old one is void");
    assert_eq!(table.forget(again, 1), Some(71));
}

#[test]
fn a_full_table_serves_what_it_holds_and_takes_more_when_it_drains() {
    let table = table(4);
    let ids: Vec<u64> = (0..3)
        .map(|key| table.look_up(key, || key, 0).unwrap())
        .collect();
    assert_eq!(table.look_up(3, || unreachable!(), 0), Err(Refused::Full));
    assert_eq!(table.look_up(0, || unreachable!(), 0), Ok(ids[0]));
    assert_eq!(table.len(), table.capacity());
    assert_eq!(table.forget(ids[1], 1), Some(1));
    assert!(table.look_up(3, || 3, 0).is_ok());
}

#[test]
fn made_up_nodeids_find_nothing() {
    for table in [table(4), sharded(20)] {
        let id = table.look_up(7, || 70, 0).unwrap();
        let gone = table.look_up(8, || 80, 0).unwrap();
        table.forget(gone, 1);
        for bit in 0..64 {
            assert_eq!(table.get(id ^ 1 << bit), None);
            if gone ^ 1 << bit != id {
                assert_eq!(table.get(gone ^ 1 << bit), None);
            }
            if bit > 0 {
                assert_eq!(table.get(1 ^ 1 << bit), None);
            }
        }
        for forged in [0, gone, u64::MAX, u64::MAX >> 1, 1 << 63, 2, 3] {
            assert_eq!(table.get(forged), None);
            assert_eq!(table.forget(forged, 1), None);
        }
    }
}

#[test]
fn a_reset_drops_all_but_what_is_open() {
    let table = sharded(150);
    let ids: Vec<u64> = (0..100)
        .map(|key| table.look_up(key, || key, 0).unwrap())
        .collect();
    assert!(table.open(ids[50]));
    let mut dropped = HashSet::new();
    table.reset(1, |value| assert!(dropped.insert(value)));
    assert_eq!(dropped.len(), 99);
    assert_eq!(table.len(), 2);
    assert_eq!(table.look_up(1, || 1, 0), Err(Refused::StaleEpoch));
    assert_eq!(table.close(ids[50]), Some(50), "its lookups are gone");
    assert_eq!(table.len(), 1);
    assert!(ids.iter().all(|&id| table.get(id).is_none()));
    table.reset(1, |_| unreachable!());
    assert!(table.look_up(1, || 1, 1).is_ok());
    table.reset(0, |_| unreachable!("an older session ended before"));
    assert_eq!(table.len(), 2);
}

#[test]
fn a_reset_that_is_overtaken_leaves_the_newer_session_alone() {
    let table = sharded(150);
    for key in 0..70 {
        table.look_up(key, || key, 0).unwrap();
    }
    let mut dropped = 0;
    let mut overtaken = false;
    table.reset(1, |_| {
        dropped += 1;
        if !overtaken {
            overtaken = true;
            table.reset(2, |_| dropped += 1);
            for key in 0..70 {
                table.look_up(key, || key, 2).unwrap();
            }
        }
    });
    assert_eq!((dropped, table.len()), (70, 71));
    assert!(table.look_up(0, || unreachable!(), 2).is_ok());
}

#[test]
fn generations_wrap_around_without_the_roots() {
    let table = table(5000);
    let low_bits = table.index_bits + table.shard_bits;
    let id = table.next_id(u64::MAX << low_bits, 3, 9);
    assert_eq!(id, 1 << low_bits | 3 << table.index_bits | 9);
}

#[test]
fn nodeids_of_tables_with_tags_are_told_apart() {
    let tables = [0, 1, 15].map(|tag| {
        let arena = test_arena(Table::footprint(5000));
        let table: &'static Table =
            NodeTable::tagged(&arena, 5000, tag, 0x5eed, ROOT_KEY, 0).unwrap();
        (tag, table)
    });
    let ids = tables.map(|(tag, table)| {
        let used = table.look_up(7, || 1, 0).unwrap();
        assert_eq!(table.forget(used, 1), Some(1));
        let id = table.look_up(7, || tag.into(), 0).unwrap();
        assert_ne!(id, used);
        assert_eq!((Table::tag_of(used), Table::tag_of(id)), (tag, tag));
        assert_eq!(table.look_up(ROOT_KEY, || 0, 0), Ok(table.root()));
        assert_eq!(Table::tag_of(table.root()), tag);
        assert_eq!(table.forget(table.root(), 1), None);
        assert_eq!(table.get(table.root()), Some((ROOT_KEY, 0)));
        (table.root(), id)
    });
    assert_eq!(tables[0].1.root(), ROOT_ID);
    for (place, (tag, table)) in tables.iter().enumerate() {
        for (other, (root, id)) in ids.iter().enumerate() {
            let own = (other == place).then_some((7, u64::from(*tag)));
            assert_eq!(table.get(*id), own);
            assert_eq!(table.get(*root).is_some(), other == place);
        }
    }
    // The last generation is followed by the first, and leaves the tag alone.
    let (tag, table) = tables[2];
    let low_bits = table.index_bits + table.shard_bits;
    let last = u64::MAX << low_bits;
    let id = table.next_id(last, 3, 9);
    assert_eq!(
        id,
        u64::from(tag) << TAG_AT | 1 << low_bits | 3 << table.index_bits | 9
    );
}

#[test]
#[cfg_attr(miri, ignore = "too many for an interpreter")]
fn a_million_nodes() {
    const NODES: u32 = 1_000_000;
    let arena = crate::sys::map::reserve(Table::footprint(NODES)).unwrap();
    let table: &'static Table = NodeTable::new(&arena, NODES, 1, ROOT_KEY, 0).unwrap();
    let first = 1 << 32;
    let ids: Vec<u64> = (1..u64::from(NODES))
        .map(|n| table.look_up(first + n, || n, 0).unwrap())
        .collect();
    assert_eq!(table.look_up(5, || 0, 0), Err(Refused::Full));
    for (n, &id) in (1..).zip(&ids) {
        assert_eq!(table.get(id), Some((first + n, n)));
    }
    let (even, odd): (Vec<u64>, Vec<u64>) = ids.iter().partition(|&id| id % 2 == 0);
    assert!(even.iter().all(|&id| table.forget(id, 1).is_some()));
    assert_eq!(table.len() as usize, odd.len() + 1);
    let mut dropped = 0;
    table.reset(1, |_| dropped += 1);
    assert_eq!((dropped, table.len()), (odd.len(), 1));
}

/// Each thread balances its lookups and handles; whoever gets a value back is the only one.
#[test]
fn threads_leave_nothing_behind() {
    let rounds = if cfg!(miri) { 60 } else { 30_000 };
    let table = sharded(20);
    let made: Vec<AtomicU32> = (0..4 * rounds).map(|_| AtomicU32::new(0)).collect();
    let next = AtomicU32::new(0);
    let make = || {
        let value = next.fetch_add(1, Ordering::Relaxed);
        made[value as usize].fetch_add(1, Ordering::Relaxed);
        u64::from(value)
    };
    let dispose = |value: Option<u64>| {
        if let Some(value) = value {
            made[value as usize].fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for seed in 1..4u64 {
            scope.spawn(move || {
                let mut state = seed;
                for _ in 0..rounds {
                    let key = random(&mut state) % 5;
                    let id = table.look_up(key, make, 0).unwrap();
                    assert_eq!(table.get(id).unwrap().0, key);
                    assert!(table.open(id));
                    dispose(table.forget(id, 1));
                    assert_eq!(table.get(id).unwrap().0, key);
                    dispose(table.close(id));
                }
            });
        }
    });
    assert_eq!(table.len(), 1);
    for made in &made[..next.load(Ordering::Relaxed) as usize] {
        assert_eq!(
            made.load(Ordering::Relaxed),
            2,
            "made once, handed back once"
        );
    }
}

/// Lookups of an old session race its end; those of each next one begin when the reset returned.
#[test]
fn a_session_that_ends_leaves_nothing_behind() {
    let (sessions, capacity) = if cfg!(miri) { (3, 40) } else { (200, 5000) };
    let table = sharded(capacity);
    let epoch = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for seed in 1..3u64 {
            let epoch = &epoch;
            scope.spawn(move || {
                let mut state = seed;
                loop {
                    let now = epoch.load(Ordering::Acquire);
                    if now == sessions {
                        return;
                    }
                    let _ = table.look_up(random(&mut state) % 3000, || 0, now);
                }
            });
        }
        for next in 1..=sessions {
            table.reset(next, |_| ());
            assert_eq!(table.len(), 1, "no late lookup of the old session");
            epoch.store(next, Ordering::Release);
        }
    });
    table.reset(sessions + 1, |_| ());
    assert_eq!(table.len(), 1);
}

#[derive(Clone, Debug)]
enum Op {
    LookUp(u64),
    Forget(usize, u64),
    Open(usize),
    Close(usize),
    Get(usize),
    Reset,
}

fn op() -> impl Strategy<Value = Op> {
    let node = 0..64usize;
    prop_oneof![
        6 => (0..12u64).prop_map(Op::LookUp),
        3 => (node.clone(), 1..3u64).prop_map(|(node, count)| Op::Forget(node, count)),
        2 => node.clone().prop_map(Op::Open),
        2 => node.clone().prop_map(Op::Close),
        2 => node.prop_map(Op::Get),
        1 => Just(Op::Reset),
    ]
}

struct Node {
    key: u64,
    value: u64,
    lookups: u64,
    opens: u32,
}

/// Say what a table is to do, with nodes by nodeid.
#[derive(Default)]
struct Model {
    nodes: HashMap<u64, Node>,
    made: u64,
    epoch: u32,
}

impl Model {
    fn remove_if_unused(&mut self, id: u64) -> Option<u64> {
        let node = self.nodes.get(&id)?;
        if node.lookups == 0 && node.opens == 0 {
            return self.nodes.remove(&id).map(|node| node.value);
        }
        None
    }

    fn look_up(&mut self, table: &Table, key: u64, given: &mut Vec<u64>) {
        let known = self.nodes.iter().find(|(_, node)| node.key == key);
        let known = known.map(|(&id, _)| id);
        let value = self.made;
        let mut made = 0;
        let make = || {
            made += 1;
            value
        };
        let result = table.look_up(key, make, self.epoch);
        self.made += made;
        match (known, result) {
            (Some(id), result) => {
                assert_eq!((result, made), (Ok(id), 0));
                self.nodes.get_mut(&id).unwrap().lookups += 1;
            }
            (None, Ok(id)) => {
                assert_eq!(made, 1);
                assert!(!given.contains(&id) && id > 1, "a nodeid is given once");
                given.push(id);
                let (lookups, opens) = (1, 0);
                let node = Node {
                    key,
                    value,
                    lookups,
                    opens,
                };
                self.nodes.insert(id, node);
            }
            (None, Err(refused)) => {
                assert_eq!((refused, made), (Refused::Full, 0));
                assert_eq!(self.nodes.len() as u32 + 1, table.capacity());
            }
        }
    }

    fn apply(&mut self, table: &Table, op: Op, given: &mut Vec<u64>) {
        let pick = |at: usize| *given.get(at % given.len().max(1)).unwrap_or(&77);
        match op {
            Op::LookUp(key) => self.look_up(table, key, given),
            Op::Forget(at, count) => {
                let id = pick(at);
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.lookups = node.lookups.saturating_sub(count);
                }
                assert_eq!(table.forget(id, count), self.remove_if_unused(id));
            }
            Op::Open(at) => {
                let id = pick(at);
                let known = self.nodes.get_mut(&id).map(|node| node.opens += 1);
                assert_eq!(table.open(id), known.is_some());
            }
            Op::Close(at) => {
                let id = pick(at);
                // One close too many is not a thing that callers do.
                if self.nodes.get(&id).is_none_or(|node| node.opens > 0) {
                    if let Some(node) = self.nodes.get_mut(&id) {
                        node.opens -= 1;
                    }
                    assert_eq!(table.close(id), self.remove_if_unused(id));
                }
            }
            Op::Get(at) => {
                let id = pick(at);
                let node = self.nodes.get(&id).map(|node| (node.key, node.value));
                assert_eq!(table.get(id), node);
            }
            Op::Reset => {
                self.epoch += 1;
                let mut dropped = HashSet::new();
                table.reset(self.epoch, |value| assert!(dropped.insert(value)));
                let ids: Vec<u64> = self.nodes.keys().copied().collect();
                let mut expected = HashSet::new();
                for id in ids {
                    self.nodes.get_mut(&id).unwrap().lookups = 0;
                    expected.extend(self.remove_if_unused(id));
                }
                assert_eq!(dropped, expected);
            }
        }
        assert_eq!(table.len() as usize, self.nodes.len() + 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 1 } else { 400 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn it_does_what_a_hash_map_does(shards: bool, ops in proptest::collection::vec(op(), 0..150)) {
        let table = if shards { sharded(8) } else { table(8) };
        let (mut model, mut given) = (Model::default(), Vec::new());
        for op in ops {
            model.apply(table, op, &mut given);
        }
    }
}
