use loom::thread;

use super::super::arena::test_arena;
use super::*;

type Table = NodeTable<u64, u64>;

fn table(capacity: u32) -> &'static Table {
    NodeTable::new(&test_arena(4096), capacity, 1, 1000, 0).unwrap()
}

fn model(preemptions: Option<usize>, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(f);
}

#[test]
fn two_cores_that_look_up_one_file_agree_on_its_node() {
    model(None, || {
        let table = table(2);
        let other = thread::spawn(move || table.look_up(7, || 1, 0).unwrap());
        let mine = table.look_up(7, || 2, 0).unwrap();
        assert_eq!(other.join().unwrap(), mine);
        assert_eq!(table.forget(mine, 1), None);
        assert!(table.forget(mine, 1).is_some());
        assert_eq!(table.len(), 1);
    });
}

#[test]
fn a_node_that_is_forgotten_and_looked_up_at_once_is_disposed_of_once() {
    model(None, || {
        let table = table(2);
        let old = table.look_up(7, || 1, 0).unwrap();
        let forget = thread::spawn(move || table.forget(old, 1));
        let looked_up = table.look_up(7, || 2, 0);
        let forgotten = forget.join().unwrap();
        match (looked_up, forgotten) {
            (Ok(id), None) => assert_eq!((id, table.get(id)), (old, Some((7, 1)))),
            (Ok(id), Some(value)) => {
                assert_eq!((value, table.get(id)), (1, Some((7, 2))));
                assert_ne!(id, old);
            }
            // The node was out of its chain, but its entry not yet free.
            (Err(refused), value) => assert_eq!((refused, value), (Refused::Full, Some(1))),
        }
    });
}

#[test]
fn a_node_that_was_opened_outlives_its_last_lookup() {
    model(None, || {
        let table = table(2);
        let id = table.look_up(7, || 1, 0).unwrap();
        let forget = thread::spawn(move || table.forget(id, 1));
        let opened = table.open(id);
        if opened {
            assert_eq!(table.get(id), Some((7, 1)));
        }
        let closed = if opened { table.close(id) } else { None };
        let forgotten = forget.join().unwrap();
        assert_eq!(closed.or(forgotten), Some(1));
        assert!(closed.is_none() || forgotten.is_none());
        assert_eq!(table.len(), 1);
    });
}

#[test]
fn a_late_lookup_adds_nothing_to_the_next_session() {
    model(None, || {
        let table = table(4);
        let late = thread::spawn(move || table.look_up(7, || 1, 0));
        let mut dropped = 0;
        table.reset(1, |_| dropped += 1);
        assert_eq!(table.len(), 1);
        match late.join().unwrap() {
            Ok(_) => assert_eq!(dropped, 1),
            Err(refused) => assert_eq!((refused, dropped), (Refused::StaleEpoch, 0)),
        }
        assert_eq!(table.len(), 1);
    });
}

#[test]
fn of_two_resets_the_newest_counts() {
    model(None, || {
        let table = table(4);
        table.look_up(7, || 1, 0).unwrap();
        let older = thread::spawn(move || {
            let mut dropped = 0;
            table.reset(1, |_| dropped += 1);
            dropped
        });
        let mut dropped = 0;
        table.reset(2, |_| dropped += 1);
        let id = table.look_up(8, || 2, 2).unwrap();
        assert_eq!(older.join().unwrap() + dropped, 1);
        assert_eq!(table.get(id), Some((8, 2)), "not dropped by the older");
    });
}
