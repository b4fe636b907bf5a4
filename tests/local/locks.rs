//! Locks of the host's processes and open files.

use dpfs::fuse::FileSystem;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::{InterruptIn, Opcode};

use crate::host::*;

const ALICE: u64 = 0xa11c_e000_0000_0001;
const BOB: u64 = 0xb0b;
const END: u64 = i64::MAX as u64;

fn file(host: &mut Host) -> (u64, u64) {
    let node = host.file(ROOT, "file", b"content").nodeid;
    let fh = host.open(node, O_RDWR).unwrap();
    (node, fh)
}

#[test]
fn owners_of_one_open_file_keep_each_other_out() {
    let mut host = Host::new();
    let (node, fh) = file(&mut host);
    assert_eq!(host.setlk(node, fh, ALICE, lock(F_WRLCK, 10, 19)), Ok(()));
    assert_eq!(
        host.setlk(node, fh, BOB, lock(F_RDLCK, 15, 15)),
        Err(Errno::EAGAIN)
    );
    assert_eq!(host.setlk(node, fh, BOB, lock(F_WRLCK, 20, END)), Ok(()));
    assert_eq!(
        host.setlk(node, fh, ALICE, lock(F_RDLCK, 0, 30)),
        Err(Errno::EAGAIN)
    );
    assert_eq!(host.setlk(node, fh, ALICE, lock(F_RDLCK, 10, 19)), Ok(()));
    assert_eq!(host.setlk(node, fh, BOB, lock(F_RDLCK, 12, 12)), Ok(()));
    // Part of a range.
    assert_eq!(host.setlk(node, fh, ALICE, lock(F_UNLCK, 15, END)), Ok(()));
    assert_eq!(host.setlk(node, fh, BOB, lock(F_WRLCK, 15, 19)), Ok(()));
    assert_eq!(
        host.setlk(node, fh, BOB, lock(F_WRLCK, 14, 14)),
        Err(Errno::EAGAIN)
    );
    // Whoever has none gives none up.
    assert_eq!(host.setlk(node, fh, 77, lock(F_UNLCK, 0, END)), Ok(()));
}

#[test]
fn a_lock_in_the_way_is_described() {
    let mut host = Host::new();
    let (node, fh) = file(&mut host);
    let mut held = lock(F_WRLCK, 10, 19);
    held.pid = 4711;
    host.setlk(node, fh, ALICE, held).unwrap();
    let found = host.getlk(node, fh, BOB, lock(F_RDLCK, 0, END)).unwrap();
    assert_eq!(
        (found.kind, found.start, found.end, found.pid),
        (F_WRLCK, 10, 19, 4711)
    );
    let none = host.getlk(node, fh, BOB, lock(F_WRLCK, 20, END)).unwrap();
    assert_eq!((none.kind, none.start, none.end), (F_UNLCK, 20, END));
    let own = host.getlk(node, fh, ALICE, lock(F_WRLCK, 0, END)).unwrap();
    assert_eq!(own.kind, F_UNLCK);
    host.setlk(node, fh, BOB, lock(F_RDLCK, 100, END)).unwrap();
    let found = host.getlk(node, fh, ALICE, lock(F_WRLCK, 50, END)).unwrap();
    assert_eq!((found.kind, found.start, found.end), (F_RDLCK, 100, END));
}

#[test]
fn closing_a_descriptor_releases_the_owners_locks_and_nobody_elses() {
    let mut host = Host::new();
    let (node, fh) = file(&mut host);
    let other = host.open(node, O_RDONLY).unwrap();
    host.setlk(node, fh, ALICE, lock(F_WRLCK, 0, 9)).unwrap();
    host.setlk(node, fh, BOB, lock(F_WRLCK, 10, 19)).unwrap();
    // Any descriptor of the file will do, as POSIX has it.
    host.flush(node, other, ALICE).unwrap();
    host.setlk(node, fh, 3, lock(F_WRLCK, 0, 9)).unwrap();
    assert_eq!(
        host.setlk(node, fh, 3, lock(F_WRLCK, 10, 10)),
        Err(Errno::EAGAIN)
    );
    assert_eq!(host.release(node, other), Ok(()));
    assert_eq!(
        host.setlk(node, fh, 3, lock(F_WRLCK, 10, 10)),
        Err(Errno::EAGAIN)
    );
}

#[test]
fn whole_file_locks_belong_to_open_files() {
    let mut host = Host::new();
    let (node, one) = file(&mut host);
    let two = host.open(node, O_RDONLY).unwrap();
    assert_eq!(host.flock(node, one, F_WRLCK), Ok(()));
    assert_eq!(host.flock(node, two, F_RDLCK), Err(Errno::EAGAIN));
    // They do not mind byte-range locks.
    assert_eq!(host.setlk(node, two, BOB, lock(F_RDLCK, 0, END)), Ok(()));
    assert_eq!(host.flock(node, one, F_RDLCK), Ok(()));
    assert_eq!(host.flock(node, two, F_RDLCK), Ok(()));
    assert_eq!(host.flock(node, two, F_WRLCK), Err(Errno::EAGAIN));
    host.release(node, one).unwrap();
    assert_eq!(host.flock(node, two, F_WRLCK), Ok(()));
    assert_eq!(host.flock(node, two, F_UNLCK), Ok(()));
}

#[test]
fn a_lock_is_waited_for_until_it_is_released() {
    for by_close in [false, true] {
        let mut host = Host::new();
        let (node, fh) = file(&mut host);
        host.setlk(node, fh, ALICE, lock(F_WRLCK, 0, END)).unwrap();
        let waits: Vec<_> = [BOB, 5, 6]
            .map(|owner| {
                let lk = lock(F_RDLCK, 0, 0);
                let message = host.lock_message(Opcode::SETLKW, node, fh, owner, lk, false);
                host.bed.send(&message)
            })
            .into();
        for _ in 0..200 {
            host.bed.round();
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        assert_eq!(host.bed.pending(), 3);
        // Everything else goes on.
        assert_eq!(host.read(node, fh, 0, 7).unwrap(), b"content");
        if by_close {
            host.flush(node, fh, ALICE).unwrap();
        } else {
            host.setlk(node, fh, ALICE, lock(F_UNLCK, 0, END)).unwrap();
        }
        for ticket in waits {
            assert_eq!(host.finish(ticket), Ok(()));
        }
    }
}

#[test]
fn a_lock_that_others_below_hold_is_waited_for_too() {
    let mut host = Host::new();
    let (node, fh) = file(&mut host);
    let own = std::fs::File::open(host.path("file")).unwrap();
    own.lock().unwrap();
    let lk = lock(F_WRLCK, 0, END);
    let message = host.lock_message(Opcode::SETLKW, node, fh, fh, lk, true);
    let ticket = host.bed.send(&message);
    // Between two attempts the core knows when to make the next.
    while host.bed.fs.deadline().is_none() {
        assert_eq!(host.bed.pending(), 1);
        host.bed.round();
    }
    drop(own);
    assert_eq!(host.finish(ticket), Ok(()));
    assert!(host.bed.fs.deadline().is_none());
}

#[test]
fn waiting_ends_by_interrupt_shutdown_and_the_end_of_the_session() {
    for how in 0..3 {
        let mut host = Host::new();
        let (node, fh) = file(&mut host);
        host.setlk(node, fh, ALICE, lock(F_WRLCK, 0, END)).unwrap();
        let lk = lock(F_WRLCK, 0, 0);
        let message = host
            .lock_message(Opcode::SETLKW, node, fh, BOB, lk, false)
            .unique(1000);
        let ticket = host.bed.send(&message);
        for _ in 0..how * 20 {
            host.bed.round();
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        match how {
            0 => {
                let target = InterruptIn { unique: 1000 };
                let message = host.message(Opcode::INTERRUPT, 0).arg(&target);
                host.bed.call(&message);
            }
            1 => host.bed.fs.shutdown(),
            _ => host.bed.session().reset(),
        }
        assert_eq!(host.finish(ticket), Err(Errno::EINTR), "{how}");
        assert_eq!(host.bed.pending(), 0);
    }
}

#[test]
fn the_end_of_a_session_releases_its_locks() {
    let mut host = Host::new();
    let (node, fh) = file(&mut host);
    host.setlk(node, fh, ALICE, lock(F_WRLCK, 0, END)).unwrap();
    host.flock(node, fh, F_WRLCK).unwrap();
    host.bed.init();
    let node = host.lookup(ROOT, "file").unwrap().nodeid;
    let fh = host.open(node, O_RDWR).unwrap();
    assert_eq!(host.setlk(node, fh, BOB, lock(F_WRLCK, 0, END)), Ok(()));
    // The old open file is closed in the background.
    let lk = lock(F_WRLCK, 0, END);
    let message = host.lock_message(Opcode::SETLKW, node, fh, fh, lk, true);
    let ticket = host.bed.send(&message);
    assert_eq!(host.finish(ticket), Ok(()));
}
