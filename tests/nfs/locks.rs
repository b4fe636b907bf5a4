//! Locks that are held at the server: two devices, each a client of its own, and two cores of one of them.

use dpfs::backend::nfs::served;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::{InterruptIn, Opcode};
use dpfs_harness::{Message, Ticket};

use crate::host::*;
use crate::server::Manner;

type Other = dpfs_harness::Host<dpfs::backend::nfs::Nfs>;

/// Mount the export for another device, as another machine would.
pub fn other(host: &Host, device: &str) -> Other {
    let mut config = config(host.relay.port);
    config.device = device.into();
    let mut other = core(served::open(&config).unwrap());
    other.getattr(ROOT, None).unwrap();
    other
}

/// Open a file of the root for reading and writing.
pub fn opened(host: &mut Other, name: &str) -> (u64, u64) {
    let node = host.lookup(ROOT, name).unwrap().nodeid;
    (node, host.open(node, O_RDWR).unwrap())
}

/// Ask for a lock and wait for it.
pub fn lock_and_wait(host: &mut Other, (node, fh): (u64, u64), owner: u64, flock: bool) -> Ticket {
    let lk = lock(F_WRLCK, 0, i64::MAX as u64);
    let message = host.lock_message(Opcode::SETLKW, node, fh, owner, lk, flock);
    host.bed.send(&message)
}

fn rounds(host: &mut Other, milliseconds: u64) {
    let end = std::time::Instant::now() + std::time::Duration::from_millis(milliseconds);
    while std::time::Instant::now() < end {
        host.bed.round();
    }
}

const ALL: u64 = i64::MAX as u64;

#[test]
fn locks_of_one_device_stand_against_those_of_another() {
    let mut host = Host::new();
    host.file(ROOT, "f", b"content");
    let mut other = other(&host, "other");
    let (node, fh) = opened(&mut host, "f");
    let (its_node, its_fh) = opened(&mut other, "f");
    let again = host.open(node, O_RDWR).unwrap();
    assert_eq!(host.setlk(node, fh, 7, lock(F_WRLCK, 10, 19)), Ok(()));
    // The same owner, through another open file and of another kind.
    assert_eq!(host.setlk(node, again, 7, lock(F_RDLCK, 15, 15)), Ok(()));
    // Another process of the same host; and who that is.
    let denied = host.setlk(node, again, 8, lock(F_WRLCK, 19, 25));
    assert_eq!(denied, Err(Errno::EAGAIN));
    let mut asked = lock(F_WRLCK, 0, ALL);
    asked.pid = 9;
    let found = host.getlk(node, again, 8, asked).unwrap();
    assert_eq!((found.kind, found.start), (F_WRLCK, 10));
    // The other device.
    for (start, end, kind, outcome) in [
        (0, 9, F_WRLCK, Ok(())),
        (9, 10, F_RDLCK, Err(Errno::EAGAIN)),
        (15, 15, F_RDLCK, Ok(())),
        (15, 15, F_WRLCK, Err(Errno::EAGAIN)),
        (20, ALL, F_WRLCK, Ok(())),
    ] {
        let got = other.setlk(its_node, its_fh, 7, lock(kind, start, end));
        assert_eq!(got, outcome, "{start} to {end}, {kind}");
    }
    let found = host.getlk(node, fh, 7, lock(F_WRLCK, 20, 30)).unwrap();
    assert_eq!((found.kind, found.start, found.end), (F_WRLCK, 20, ALL));
    assert_eq!(found.pid, 0, "a process of another machine");
    let found = host.getlk(node, fh, 7, lock(F_WRLCK, 10, 14)).unwrap();
    assert_eq!(found.kind, F_UNLCK);
    // Unlocking a part frees that part.
    other
        .setlk(its_node, its_fh, 7, lock(F_UNLCK, 20, 29))
        .unwrap();
    assert_eq!(host.setlk(node, fh, 7, lock(F_WRLCK, 20, 29)), Ok(()));
    let beyond = host.setlk(node, fh, 7, lock(F_WRLCK, 29, 30));
    assert_eq!(beyond, Err(Errno::EAGAIN));
    // Closing any descriptor frees all that its process has; one of another process nothing.
    host.flush(node, again, 8).unwrap();
    assert_eq!(
        other.setlk(its_node, its_fh, 7, lock(F_WRLCK, 12, 12)),
        Err(Errno::EAGAIN)
    );
    host.flush(node, again, 7).unwrap();
    assert_eq!(
        other.setlk(its_node, its_fh, 7, lock(F_WRLCK, 0, ALL)),
        Ok(())
    );
    other.flush(its_node, its_fh, 7).unwrap();
    assert_eq!(host.setlk(node, fh, 7, lock(F_WRLCK, 0, ALL)), Ok(()));
    // A reader cannot lock for writing.
    let reader = other.open(its_node, O_RDONLY).unwrap();
    let refused = other.setlk(its_node, reader, 5, lock(F_WRLCK, 0, 0));
    assert!(refused.is_err(), "{refused:?}");
}

#[test]
fn flocks_belong_to_open_files_and_end_with_them() {
    let mut host = Host::new();
    host.file(ROOT, "f", b"content");
    let mut other = other(&host, "other");
    let (node, fh) = opened(&mut host, "f");
    let (its_node, its_fh) = opened(&mut other, "f");
    host.flock(node, fh, F_RDLCK).unwrap();
    other.flock(its_node, its_fh, F_RDLCK).unwrap();
    assert_eq!(host.flock(node, fh, F_WRLCK), Err(Errno::EAGAIN));
    other.flock(its_node, its_fh, F_UNLCK).unwrap();
    host.flock(node, fh, F_WRLCK).unwrap();
    // Another open file of the same host.
    let (_, second) = opened(&mut host, "f");
    assert_eq!(host.flock(node, second, F_RDLCK), Err(Errno::EAGAIN));
    // A descriptor is closed, the open file stays.
    host.flush(node, fh, 1).unwrap();
    assert_eq!(other.flock(its_node, its_fh, F_RDLCK), Err(Errno::EAGAIN));
    host.release(node, fh).unwrap();
    host.idle(100);
    assert_eq!(other.flock(its_node, its_fh, F_WRLCK), Ok(()));
    // What a guest held that is gone.
    let waiting = lock_and_wait(&mut host, (node, second), 3, true);
    host.idle(50);
    assert!(host.bed.answer(waiting).is_none());
    other.bed.call(&Message::new(Opcode::DESTROY));
    rounds(&mut other, 100);
    host.finish(waiting).unwrap();
}

#[test]
fn a_lock_that_must_wait_gets_its_turn_or_is_interrupted() {
    let mut host = Host::new();
    host.file(ROOT, "f", b"content");
    let mut other = other(&host, "other");
    let file = opened(&mut host, "f");
    let its = opened(&mut other, "f");
    host.setlk(file.0, file.1, 7, lock(F_WRLCK, 0, ALL))
        .unwrap();
    let waiting = lock_and_wait(&mut other, its, 7, false);
    // Nothing else waits for it.
    rounds(&mut other, 300);
    assert_eq!(other.read(its.0, its.1, 0, 7).unwrap(), b"content");
    assert!(other.bed.answer(waiting).is_none());
    let before = host.relay.calls();
    rounds(&mut other, 2000);
    let asked = host.relay.calls() - before;
    assert!((1..30).contains(&asked), "asked {asked} times");
    host.setlk(file.0, file.1, 7, lock(F_UNLCK, 0, ALL))
        .unwrap();
    other.finish(waiting).unwrap();
    // Interrupted while it waits.
    const UNIQUE: u64 = 1 << 40;
    let lk = lock(F_WRLCK, 0, ALL);
    let message = host.lock_message(Opcode::SETLKW, file.0, file.1, 7, lk, false);
    let waiting = host.bed.send(&message.unique(UNIQUE));
    host.idle(100);
    assert!(host.bed.answer(waiting).is_none());
    let args = InterruptIn { unique: UNIQUE };
    let interrupt = host.message(Opcode::INTERRUPT, 0).arg(&args);
    host.bed.send(&interrupt);
    assert_eq!(host.finish(waiting), Err(Errno::EINTR));
    // Nothing of it is left.
    other.setlk(its.0, its.1, 7, lock(F_UNLCK, 0, ALL)).unwrap();
    host.idle(100);
    assert_eq!(other.setlk(its.0, its.1, 7, lock(F_WRLCK, 0, ALL)), Ok(()));
}

#[test]
fn an_unlock_by_one_core_wakes_who_waits_on_another() {
    let mut host = Host::new();
    host.file(ROOT, "f", b"content");
    let mut second = core(host.volume);
    let file = opened(&mut host, "f");
    host.setlk(file.0, file.1, 7, lock(F_WRLCK, 0, ALL))
        .unwrap();
    let waiting = lock_and_wait(&mut second, file, 8, false);
    rounds(&mut second, 1500);
    assert!(second.bed.answer(waiting).is_none());
    let unlocked = std::time::Instant::now();
    host.setlk(file.0, file.1, 7, lock(F_UNLCK, 0, ALL))
        .unwrap();
    second.finish(waiting).unwrap();
    let took = unlocked.elapsed();
    assert!(took < std::time::Duration::from_millis(300), "{took:?}");
}

#[test]
fn a_lock_whose_answer_is_lost_is_taken_once_and_costs_one_call() {
    let mut host = Host::new();
    host.file(ROOT, "f", b"content");
    let mut other = other(&host, "other");
    let (node, fh) = opened(&mut host, "f");
    let its = opened(&mut other, "f");
    for (kind, start, end) in [
        (F_WRLCK, 0, 9),
        (F_WRLCK, 20, 29),
        (F_UNLCK, 0, 4),
        (F_RDLCK, 22, 22),
        (F_UNLCK, 0, ALL),
    ] {
        host.relay.lose_next_answer();
        host.setlk(node, fh, 7, lock(kind, start, end)).unwrap();
        assert!(host.relay.lost());
    }
    assert_eq!(other.setlk(its.0, its.1, 7, lock(F_WRLCK, 0, ALL)), Ok(()));
    other.flush(its.0, its.1, 7).unwrap();
    for (what, kind, start) in [
        ("first", F_WRLCK, 0),
        ("more", F_WRLCK, 50),
        ("last", F_UNLCK, 0),
    ] {
        let end = if kind == F_UNLCK { ALL } else { start + 10 };
        let (calls, done) = host.calls_of(|host| host.setlk(node, fh, 7, lock(kind, start, end)));
        assert_eq!((calls, done), (1, Ok(())), "{what}");
    }
    let (calls, done) = host.calls_of(|host| host.flush(node, fh, 7));
    assert_eq!((calls, done), (0, Ok(())), "nothing to unlock");
}

#[test]
fn a_host_that_locks_by_itself_asks_the_server_for_nothing() {
    let mut host = Host::with(Manner::default(), |config| {
        config.options.server_locks = false
    });
    host.file(ROOT, "f", b"content");
    let (node, fh) = opened(&mut host, "f");
    assert_eq!(host.flush(node, fh, 7), Err(Errno::ENOSYS));
}

#[test]
fn a_server_that_crashed_gives_locks_back_inside_its_grace_period() {
    let manner = Manner {
        // The first device's cores are not polled while the second one waits for the end of the grace period.
        grace: 4,
        lease: 20,
        ..Manner::default()
    };
    let mut host = Host::with(manner, |_| ());
    host.file(ROOT, "f", b"content");
    host.file(ROOT, "g", b"content");
    let mut second = core(host.volume);
    let mut other = other(&host, "other");
    let (node, fh) = opened(&mut host, "f");
    let flocked = opened(&mut host, "g");
    let its = opened(&mut other, "f");
    let its_flocked = opened(&mut other, "g");
    host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)).unwrap();
    host.setlk(node, fh, 7, lock(F_RDLCK, 30, 39)).unwrap();
    second.setlk(node, fh, 8, lock(F_WRLCK, 50, ALL)).unwrap();
    host.flock(flocked.0, flocked.1, F_WRLCK).unwrap();
    for round in 0..2 {
        host.server.restart();
        // Whoever asks first claims what the others have.
        assert_eq!(second.read(node, fh, 0, 7).unwrap(), b"content");
        for (start, kind, outcome) in [
            (0, F_RDLCK, Err(Errno::EAGAIN)),
            (30, F_RDLCK, Ok(())),
            (31, F_WRLCK, Err(Errno::EAGAIN)),
            (60, F_RDLCK, Err(Errno::EAGAIN)),
            (10, F_WRLCK, Ok(())),
        ] {
            let got = other.setlk(its.0, its.1, 7, lock(kind, start, start));
            assert_eq!(got, outcome, "{round}: {start}");
        }
        assert_eq!(
            other.flock(its_flocked.0, its_flocked.1, F_RDLCK),
            Err(Errno::EAGAIN)
        );
        assert_eq!(host.write(node, fh, 0, b"CONTENT"), Ok(7));
        assert_eq!(host.write(node, fh, 0, b"content"), Ok(7));
        other.flush(its.0, its.1, 7).unwrap();
    }
    host.flush(node, fh, 7).unwrap();
    host.flush(node, fh, 8).unwrap();
    assert_eq!(other.setlk(its.0, its.1, 7, lock(F_WRLCK, 0, ALL)), Ok(()));
}

/// A lock is lost: the file that it was taken through fails until it is closed, and nothing else does.
fn is_lost(host: &mut Host, other: &mut Other, (node, fh): (u64, u64), its: (u64, u64)) {
    let bystander = host.open(node, O_RDWR).unwrap();
    assert_eq!(host.read(node, fh, 0, 7).err(), Some(Errno::EIO));
    assert_eq!(host.write(node, fh, 0, b"x"), Err(Errno::EIO));
    assert_eq!(
        host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)),
        Err(Errno::EIO)
    );
    assert_eq!(host.setlk(node, fh, 7, lock(F_UNLCK, 0, ALL)), Ok(()));
    assert_eq!(host.read(node, bystander, 0, 7).unwrap(), b"content");
    assert_eq!(other.setlk(its.0, its.1, 7, lock(F_WRLCK, 0, ALL)), Ok(()));
    assert_eq!(
        host.setlk(node, bystander, 9, lock(F_WRLCK, 0, 9)),
        Err(Errno::EAGAIN)
    );
    host.flush(node, fh, 7).unwrap();
    host.release(node, fh).unwrap();
    other.flush(its.0, its.1, 7).unwrap();
    assert_eq!(host.setlk(node, bystander, 9, lock(F_WRLCK, 0, 9)), Ok(()));
}

#[test]
fn a_lock_that_a_server_without_a_grace_period_forgot_is_lost() {
    let mut host = Host::new();
    host.file(ROOT, "f", b"content");
    let mut other = other(&host, "other");
    let file = opened(&mut host, "f");
    let its = opened(&mut other, "f");
    host.setlk(file.0, file.1, 7, lock(F_WRLCK, 0, 9)).unwrap();
    host.server.restart();
    is_lost(&mut host, &mut other, file, its);
}

#[test]
fn a_lock_is_lost_with_its_lease_and_others_have_it_then() {
    let manner = Manner {
        lease: 2,
        ..Manner::default()
    };
    let mut host = Host::with(manner, |_| ());
    host.file(ROOT, "f", b"content");
    let mut other = other(&host, "other");
    let file = opened(&mut host, "f");
    let its = opened(&mut other, "f");
    host.setlk(file.0, file.1, 7, lock(F_WRLCK, 0, 9)).unwrap();
    let begun = std::time::Instant::now();
    let waiting = lock_and_wait(&mut other, its, 7, false);
    // Nobody polls the first device: a partition, or a machine that is gone.
    other.finish(waiting).unwrap();
    let waited = begun.elapsed().as_secs_f32();
    assert!((1.0..15.0).contains(&waited), "{waited} s");
    other.flush(its.0, its.1, 7).unwrap();
    is_lost(&mut host, &mut other, file, its);
}
