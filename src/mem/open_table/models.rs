use loom::thread;

use super::super::arena::test_arena;
use super::*;

fn table(capacity: u32) -> &'static OpenFileTable<u32> {
    OpenFileTable::new(&test_arena(4096), capacity).unwrap()
}

fn model(preemptions: Option<usize>, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(f);
}

/// Read a file as a request does. Returns what it is to dispose of.
fn read(table: &'static OpenFileTable<u32>, fh: u64) -> Option<u32> {
    let pinned = table.pin(fh)?;
    assert_eq!(*pinned, 5);
    pinned.unpin()
}

fn close(table: &OpenFileTable<u32>, fh: u64) -> Option<u32> {
    match table.close(fh) {
        Closed::Now(file) => Some(file),
        Closed::Later | Closed::Unknown => None,
    }
}

#[test]
fn a_file_that_is_closed_under_reads_is_disposed_of_once_and_its_entry_reused() {
    model(None, || {
        let table = table(1);
        let fh = table.insert(5, 0).unwrap();
        let reader = thread::spawn(move || read(table, fh));
        let closed = close(table, fh);
        // Loom reports it if this write can meet the read.
        let next = table.insert(6, 0);
        let read = reader.join().unwrap();
        assert_eq!((closed.or(read), closed.and(read)), (Some(5), None));
        assert!(next.is_ok() || read.is_some());
        assert!(table.pin(fh).is_none());
    });
}

#[test]
fn a_handle_that_is_guessed_shows_its_file_whole() {
    model(None, || {
        let table = table(1);
        let reader = thread::spawn(move || read(table, 1 << LOW_BITS | 1));
        let fh = table.insert(5, 0).unwrap();
        assert_eq!(fh, 1 << LOW_BITS | 1, "the guess is right");
        assert_eq!(reader.join().unwrap(), None);
    });
}

#[test]
fn the_last_of_two_readers_disposes() {
    model(None, || {
        let table = table(1);
        let fh = table.insert(5, 0).unwrap();
        let readers = [0, 1].map(|_| thread::spawn(move || read(table, fh)));
        let closed = close(table, fh);
        let [a, b] = readers.map(|reader| reader.join().unwrap());
        let disposed = [closed, a, b].into_iter().flatten();
        assert_eq!(disposed.count(), 1);
        assert!(table.is_empty());
    });
}

#[test]
fn of_two_closes_one_succeeds() {
    model(None, || {
        let table = table(1);
        let fh = table.insert(5, 0).unwrap();
        let other = thread::spawn(move || close(table, fh));
        let mine = close(table, fh);
        assert_eq!([mine, other.join().unwrap()].iter().flatten().count(), 1);
        assert!(table.is_empty());
    });
}

#[test]
fn a_late_open_adds_nothing_to_the_next_session() {
    model(None, || {
        let table = table(2);
        let late = thread::spawn(move || table.insert(5, 0));
        let mut dropped = 0;
        table.reset(1, |_| dropped += 1);
        match late.join().unwrap() {
            Ok(_) => assert_eq!(dropped, 1),
            Err(refused) => assert_eq!((refused, dropped), ((Refused::StaleEpoch, 5), 0)),
        }
        assert!(table.is_empty());
    });
}

#[test]
fn a_reset_meets_a_read_and_a_close() {
    model(Some(3), || {
        let table = table(1);
        let fh = table.insert(5, 0).unwrap();
        let reader = thread::spawn(move || read(table, fh));
        let closer = thread::spawn(move || close(table, fh));
        let mut dropped = None;
        table.reset(1, |file| dropped = Some(file));
        let disposed = [dropped, reader.join().unwrap(), closer.join().unwrap()];
        assert_eq!(disposed.into_iter().flatten().count(), 1);
        assert!(table.is_empty());
    });
}

#[test]
fn an_older_reset_leaves_the_files_of_a_newer_session() {
    model(None, || {
        let table = table(2);
        table.insert(4, 0).unwrap();
        let older = thread::spawn(move || {
            let mut dropped = 0;
            table.reset(1, |_| dropped += 1);
            dropped
        });
        let mut dropped = 0;
        table.reset(2, |_| dropped += 1);
        let fh = table.insert(5, 2).unwrap();
        assert_eq!(older.join().unwrap() + dropped, 1);
        assert_eq!(read(table, fh), None);
        assert_eq!(close(table, fh), Some(5));
    });
}
