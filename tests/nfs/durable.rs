//! Content on its way to be durable: refused, cut short, forgotten by the server.

use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::WriteFlags;
use dpfs::wire::nfs4::{Status, op};

use crate::fake::Act;
use crate::host::*;
use crate::scripted::Mounted;

const REFUSALS: [(Status, Errno); 3] = [
    (Status::ERR_NOSPC, Errno::ENOSPC),
    (Status::ERR_DQUOT, Errno::EDQUOT),
    (Status::ERR_IO, Errno::EIO),
];

/// Have a file open twice, and another one.
fn opened(host: &mut Mounted) -> (u64, u64, u64, (u64, u64)) {
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    let second = host.open(file.nodeid, O_RDWR).unwrap();
    let (other, other_fh) = host.create(ROOT, "g", O_RDWR, 0o644).unwrap();
    (file.nodeid, fh, second, (other.nodeid, other_fh))
}

#[test]
fn a_write_that_is_refused_takes_nothing_else_with_it() {
    let mut host = Mounted::new();
    let (node, fh, second, _) = opened(&mut host);
    for (status, errno) in REFUSALS {
        host.write(node, fh, 0, b"before").unwrap();
        host.refuse(op::WRITE, status);
        assert_eq!(host.write(node, fh, 6, b"refused"), Err(errno));
        // The host has it already.
        assert_eq!(host.flush(node, fh, 7), Ok(()));
        for fh in [fh, second] {
            assert_eq!(host.fsync(node, fh), Ok(()));
        }
        assert_eq!(host.read(node, fh, 0, 99).unwrap(), b"before");
        host.check();
    }
}

#[test]
fn a_commit_that_is_refused_is_told_once_to_each_who_has_the_file_open() {
    let mut host = Mounted::new();
    let (node, fh, second, (other, other_fh)) = opened(&mut host);
    for (status, errno) in REFUSALS {
        host.write(node, fh, 0, b"content").unwrap();
        host.write(other, other_fh, 0, b"other").unwrap();
        host.refuse(op::COMMIT, status);
        assert_eq!(host.fsync(node, fh), Err(errno));
        assert_eq!(host.fsync(node, fh), Ok(()));
        assert_eq!(host.flush(node, fh, 7), Ok(()));
        // It is open, and can be read and written.
        assert_eq!(host.read(node, second, 0, 99).unwrap(), b"content");
        assert_eq!(host.write(node, second, 0, b"CONTENT"), Ok(7));
        assert_eq!(host.flush(node, second, 7), Err(errno));
        assert_eq!(host.flush(node, second, 7), Ok(()));
        assert_eq!(host.fsync(node, second), Ok(()));
        assert_eq!(host.fsync(other, other_fh), Ok(()));
        host.check();
    }
}

#[test]
fn a_commit_that_nobody_asked_for_is_told_at_the_close_and_the_locks_end_with_it() {
    let mut host = Mounted::with(|config| config.options.uncommitted = 64 << 10);
    let (node, fh, second, _) = opened(&mut host);
    for (status, errno) in REFUSALS {
        host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)).unwrap();
        host.at(op::COMMIT, 0, 1, Act::Status(status));
        // More than half of what can be kept.
        for at in 0..12 {
            host.write(node, fh, at * 4096, &[1; 4096]).unwrap();
        }
        host.until(|server| server.script.is_over());
        host.idle(20);
        assert_eq!(host.flush(node, fh, 7), Err(errno));
        host.until(|server| server.states.count(true) == 0);
        assert_eq!(host.flush(node, fh, 7), Ok(()));
        assert_eq!(host.fsync(node, second), Err(errno));
        assert_eq!(host.fsync(node, second), Ok(()));
        host.check();
    }
}

#[test]
fn a_commit_that_is_refused_at_the_last_close_closes_the_file() {
    let mut host = Mounted::new();
    let (node, fh, second, (other, other_fh)) = opened(&mut host);
    host.write(node, fh, 0, b"content").unwrap();
    host.refuse(op::COMMIT, Status::ERR_NOSPC);
    assert_eq!(host.release(node, fh), Ok(()));
    assert_eq!(host.fsync(node, second), Err(Errno::ENOSPC));
    assert_eq!(host.release(node, second), Ok(()));
    assert_eq!(host.release(other, other_fh), Ok(()));
    host.until(|server| server.states.count(false) == 0);
    host.check();
}

#[test]
fn what_was_lost_at_the_last_close_is_told_to_who_opens_the_file_next() {
    let mut host = Mounted::new();
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    let node = file.nodeid;
    let mut last = fh;
    for (status, errno) in REFUSALS {
        host.write(node, last, 0, b"content").unwrap();
        host.refuse(op::COMMIT, status);
        assert_eq!(host.release(node, last), Ok(()));
        host.until(|server| server.states.count(false) == 0);
        let (next, other) = (
            host.open(node, O_RDWR).unwrap(),
            host.open(node, O_RDWR).unwrap(),
        );
        assert_eq!(host.fsync(node, next), Err(errno));
        assert_eq!(host.fsync(node, next), Ok(()));
        assert_eq!(host.fsync(node, other), Ok(()));
        assert_eq!(host.release(node, other), Ok(()));
        last = next;
        host.check();
    }
}

#[test]
fn a_write_that_is_to_be_durable_is_told_of_the_commit() {
    let mut host = Mounted::new();
    let (node, fh, second, _) = opened(&mut host);
    for (status, errno) in REFUSALS {
        host.write(node, fh, 0, b"content").unwrap();
        host.refuse(op::COMMIT, status);
        let flags = O_RDWR | O_DSYNC;
        let written = host.write_with(node, fh, 0, b"CONTENT", flags, WriteFlags::empty());
        assert_eq!(written, Err(errno));
        assert_eq!(host.fsync(node, fh), Ok(()));
        assert_eq!(host.fsync(node, second), Err(errno));
        host.check();
    }
}

/// Have the server lose its memory, and what was only in it.
fn forgets(host: &Mounted, name: &str) {
    let mut server = host.fake.server();
    server.verifier[7] += 1;
    let number = server.tree.lookup(1, name.as_bytes()).unwrap();
    server.tree.node(number).unwrap().data.fill(0);
}

#[test]
fn what_a_server_forgot_is_written_again_whoever_finds_out() {
    let mut host = Mounted::new();
    let (node, fh, ..) = opened(&mut host);
    let mut model = vec![0; 60_000];
    for round in 1..5u8 {
        for at in 0..6 {
            let place = at * 10_000;
            model[place..place + 10_000].fill(round * 16 + at as u8);
            host.write(node, fh, place as u64, &model[place..place + 10_000])
                .unwrap();
        }
        forgets(&host, "f");
        // Pieces are taken, too.
        host.at(op::WRITE, u32::from(round), 3, Act::Short(1000));
        match round {
            1 => assert_eq!(host.fsync(node, fh), Ok(())),
            2 => {
                model[5..9].fill(0xee);
                assert_eq!(host.write(node, fh, 5, &[0xee; 4]), Ok(4));
                assert_eq!(host.fsync(node, fh), Ok(()));
            }
            3 => {
                // Nothing but the session says it.
                host.fake.server().expire();
                assert!(host.read(node, fh, 0, 60_000).unwrap() == model);
            }
            _ => assert_eq!(host.syncfs(ROOT), Ok(())),
        }
        assert!(host.fake.server().content("f") == model, "{round}");
        host.fake.server().script.clear();
        assert_eq!(host.fsync(node, fh), Ok(()));
        host.check();
    }
}

#[test]
fn what_is_refused_when_it_is_written_again_is_told_once() {
    let mut host = Mounted::new();
    let (node, fh, second, (other, other_fh)) = opened(&mut host);
    for (status, errno) in REFUSALS {
        host.write(node, fh, 0, b"content").unwrap();
        host.write(other, other_fh, 0, b"other").unwrap();
        forgets(&host, "f");
        host.at(op::WRITE, 0, 1, Act::Status(status));
        assert_eq!(host.fsync(node, fh), Err(errno), "{status}");
        assert_eq!(host.fsync(node, fh), Ok(()));
        assert_eq!(host.fsync(node, second), Err(errno));
        assert_eq!(host.fsync(other, other_fh), Ok(()));
        // And to a WRITE that is to be durable.
        host.write(node, fh, 0, b"content").unwrap();
        forgets(&host, "f");
        host.at(op::WRITE, 1, 1, Act::Status(status));
        let flags = O_RDWR | O_DSYNC;
        let written = host.write_with(node, fh, 7, b"more", flags, WriteFlags::empty());
        assert_eq!(written, Err(errno), "{status}");
        assert_eq!(host.fsync(node, fh), Ok(()));
        assert_eq!(host.fsync(node, second), Err(errno));
        host.check();
    }
}

#[test]
fn what_is_taken_or_given_in_pieces_is_whole() {
    let mut host = Mounted::new();
    let (node, fh, ..) = opened(&mut host);
    let content: Vec<u8> = (0..50_000).map(|at| (at / 11) as u8).collect();
    host.at(op::WRITE, 0, 30, Act::Short(1001));
    assert_eq!(host.write(node, fh, 0, &content), Ok(50_000));
    host.at(op::READ, 0, 30, Act::Short(999));
    assert!(host.read(node, fh, 0, 60_000).unwrap() == content);
    host.check();
    assert!(host.fake.server().content("f") == content);
    // Nothing at all is not a piece: the end for a READ, and no success for a WRITE.
    host.at(op::READ, 0, 1, Act::Short(0));
    assert!(host.read(node, fh, 0, 10).unwrap().is_empty());
    host.at(op::WRITE, 0, 1, Act::Short(0));
    assert_eq!(host.write(node, fh, 0, b"x"), Err(Errno::EIO));
    host.check();
}

#[test]
fn a_server_that_is_never_the_same_twice_is_an_error_or_a_pause_but_no_loop() {
    let mut host = Mounted::soft();
    let (node, fh, ..) = opened(&mut host);
    host.write(node, fh, 0, b"content").unwrap();
    // Each COMMIT has another verifier.
    let change = |answer: &mut Vec<u8>| {
        let end = answer.len() - 8;
        let number = std::time::Instant::now();
        let number = format!("{number:?}");
        let bytes = &number.as_bytes()[number.len() - 12..];
        answer[end..].copy_from_slice(&bytes[..8]);
    };
    host.at(op::COMMIT, 0, u32::MAX, Act::change(change));
    let _ = host.fsync(node, fh);
    host.fake.server().script.clear();
    assert_eq!(host.fsync(node, fh), Ok(()));
    assert_eq!(host.fake.server().content("f"), b"content");
}
