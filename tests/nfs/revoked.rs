//! What SEQUENCE says beside its slot: state that was taken away, a server that restarted with its sessions.

use dpfs::wire::errno::Errno;
use dpfs::wire::nfs4::{Status, op};

use crate::fake::Act;
use crate::host::*;
use crate::refusals::{Things, attempt, things};
use crate::scripted::Mounted;

const CB_PATH_DOWN: u32 = 0x01;
const EXPIRED_ALL: u32 = 0x08;
const EXPIRED_SOME: u32 = 0x10;
const ADMIN_REVOKED: u32 = 0x20;
const LEASE_MOVED: u32 = 0x80;
const RESTART: u32 = 0x100;
const BACKCHANNEL_FAULT: u32 = 0x400;

/// Count what was done of a kind.
fn count(host: &Mounted, operation: u32) -> usize {
    host.fake.server().script.count(operation)
}

/// Mount, and have a file with a lock open twice, and two others.
fn locked() -> (Mounted, Things, u64, (u64, u64)) {
    let mut host = Mounted::new();
    let (things, bystander, other) = lock_two(&mut host);
    (host, things, bystander, other)
}

fn lock_two(host: &mut Mounted) -> (Things, u64, (u64, u64)) {
    let things = things(host);
    let bystander = host.open(things.node, O_RDWR).unwrap();
    let (other, other_fh) = host.create(ROOT, "other", O_RDWR, 0o644).unwrap();
    host.setlk(things.node, things.fh, 7, lock(F_WRLCK, 0, 9))
        .unwrap();
    host.setlk(other.nodeid, other_fh, 7, lock(F_WRLCK, 0, 9))
        .unwrap();
    (things, bystander, (other.nodeid, other_fh))
}

#[test]
fn locks_that_were_taken_away_fail_the_files_that_they_were_taken_through() {
    for (flag, status) in [
        (EXPIRED_ALL, Status::ERR_EXPIRED),
        (EXPIRED_SOME, Status::ERR_EXPIRED),
        (ADMIN_REVOKED, Status::ERR_ADMIN_REVOKED),
    ] {
        for opens in [false, true] {
            let (mut host, things, bystander, (other, other_fh)) = locked();
            let mut server = host.fake.server();
            if opens {
                server.states.revoke(false, status);
            }
            server.states.revoke(true, status);
            server.script.flags |= flag;
            drop(server);
            // Any call hears of it, and the server is told of all that is let go of.
            host.statfs(ROOT).unwrap();
            host.until(|server| server.script.flags == 0);
            host.idle(20);
            for (node, fh) in [(things.node, things.fh), (other, other_fh)] {
                assert_eq!(host.read(node, fh, 0, 9).map(drop), Err(Errno::EIO));
                assert_eq!(host.write(node, fh, 0, b"x"), Err(Errno::EIO));
            }
            assert_eq!(host.read(things.node, bystander, 0, 9).unwrap(), b"content");
            // Others may have the lock, or who opens the file anew.
            let again = host.open(things.node, O_RDWR).unwrap();
            assert_eq!(
                host.setlk(things.node, again, 9, lock(F_WRLCK, 0, 9)),
                Ok(())
            );
            for (node, fh) in [
                (things.node, things.fh),
                (other, other_fh),
                (things.node, bystander),
            ] {
                host.flush(node, fh, 7).unwrap();
                host.release(node, fh).unwrap();
            }
            host.until(|server| server.states.count(false) == 2);
            host.check();
        }
    }
}

#[test]
fn one_lock_that_was_taken_away_is_no_other() {
    let (mut host, things, _, (other, other_fh)) = locked();
    let mut server = host.fake.server();
    let file = server.tree.lookup(1, b"other").unwrap();
    for state in server.states.all.values_mut() {
        if state.file == file && state.ranges.is_some() {
            state.revoked = Some(Status::ERR_ADMIN_REVOKED);
        }
    }
    server.script.flags |= ADMIN_REVOKED;
    // The asking is put off, and its answers are lost.
    server.at(op::TEST_STATEID, 0, 2, Act::Status(Status::ERR_DELAY));
    server.at(op::TEST_STATEID, 4, 1, Act::CutAfter(0));
    drop(server);
    host.statfs(ROOT).unwrap();
    host.until(|server| server.script.flags == 0 && server.script.is_over());
    host.idle(20);
    assert_eq!(host.read(other, other_fh, 0, 9).map(drop), Err(Errno::EIO));
    assert_eq!(host.read(things.node, things.fh, 0, 9).unwrap(), b"content");
    assert_eq!(host.fake.server().states.count(true), 1);
    host.check();
}

#[test]
fn opens_that_were_taken_away_are_made_again() {
    let mut host = Mounted::new();
    let things = things(&mut host);
    host.fake
        .server()
        .states
        .revoke(false, Status::ERR_ADMIN_REVOKED);
    host.fake.server().script.flags |= ADMIN_REVOKED;
    host.statfs(ROOT).unwrap();
    host.until(|server| server.script.flags == 0);
    assert_eq!(attempt(&mut host, &things, op::READ), Ok(()));
    assert_eq!(attempt(&mut host, &things, op::WRITE), Ok(()));
    assert_eq!(host.fake.server().states.count(false), 1);
    host.check();
}

#[test]
fn a_server_that_cannot_say_what_it_took_has_taken_all() {
    let (mut host, things, bystander, _) = locked();
    host.fake.server().script.flags |= EXPIRED_SOME;
    host.at(
        op::TEST_STATEID,
        0,
        u32::MAX,
        Act::Status(Status::ERR_NOTSUPP),
    );
    host.statfs(ROOT).unwrap();
    host.until(|server| server.states.count(true) == 0);
    assert_eq!(
        host.read(things.node, things.fh, 0, 9).map(drop),
        Err(Errno::EIO)
    );
    assert_eq!(host.read(things.node, bystander, 0, 9).unwrap(), b"content");
}

#[test]
fn a_server_that_says_so_for_nothing_is_asked_once_and_nothing_is_lost() {
    let (mut host, things, _, _) = locked();
    host.fake.server().script.stuck = EXPIRED_ALL | EXPIRED_SOME | ADMIN_REVOKED;
    for _ in 0..100 {
        assert_eq!(host.read(things.node, things.fh, 0, 9).unwrap(), b"content");
        host.bed.round();
    }
    host.idle(200);
    assert_eq!(host.fake.server().states.count(true), 2);
    // One for each open, those of the locks' owners among them, and each owner's locks.
    assert_eq!(count(&host, op::TEST_STATEID), 7);
    host.check();
}

#[test]
fn what_does_not_matter_is_ignored() {
    let (mut host, things, _, _) = locked();
    let sessions = count(&host, op::CREATE_SESSION);
    let flags = [
        CB_PATH_DOWN,
        LEASE_MOVED,
        BACKCHANNEL_FAULT,
        0x200,
        0xffff_f000,
    ];
    for flag in flags {
        host.fake.server().script.stuck = flag;
        assert_eq!(attempt(&mut host, &things, op::READ), Ok(()));
        assert_eq!(attempt(&mut host, &things, op::CREATE), Ok(()));
        host.idle(60);
    }
    assert_eq!(count(&host, op::CREATE_SESSION), sessions);
    assert_eq!(count(&host, op::TEST_STATEID), 0);
    host.check();
}

#[test]
fn a_server_that_restarted_with_its_sessions_gives_everything_back() {
    let mut host = Mounted::new();
    let mut second = core(host.volume);
    second.getattr(ROOT, None).unwrap();
    let (things, bystander, (other, other_fh)) = lock_two(&mut host);
    for round in 0..3 {
        host.write(things.node, things.fh, 0, b"CONTENT").unwrap();
        let mut server = host.fake.server();
        server.restart();
        server.verifier[6] += 1;
        let file = server.tree.lookup(1, b"f").unwrap();
        server.tree.node(file).unwrap().data.fill(0);
        drop(server);
        let complete = count(&host, op::RECLAIM_COMPLETE);
        let (first, last) = if round % 2 == 0 {
            (host.statfs(ROOT), second.statfs(ROOT))
        } else {
            (second.statfs(ROOT), host.statfs(ROOT))
        };
        first.and(last).unwrap();
        host.until(|server| server.states.count(true) == 2 && !server.script.grace);
        assert_eq!(host.read(things.node, bystander, 0, 9).unwrap(), b"CONTENT");
        assert_eq!(second.read(other, other_fh, 0, 9).map(drop), Ok(()));
        assert_eq!(host.write(things.node, things.fh, 0, b"content"), Ok(7));
        // The locks' owners have opens of their own.
        assert_eq!(host.fake.server().states.count(false), 5);
        assert_eq!(count(&host, op::RECLAIM_COMPLETE), complete + 1);
        host.check();
    }
}

#[test]
fn a_server_that_always_restarts_is_believed_once() {
    let (mut host, things, _, _) = locked();
    let sessions = count(&host, op::CREATE_SESSION);
    host.fake.server().script.stuck = RESTART;
    for _ in 0..50 {
        host.bed.round();
        assert_eq!(attempt(&mut host, &things, op::LOOKUP), Ok(()));
    }
    assert_eq!(count(&host, op::CREATE_SESSION), sessions + 1);
    host.check();
}
