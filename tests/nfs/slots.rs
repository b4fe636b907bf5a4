//! Slots and connections: what is cut, late, repeated, or fewer than before.

use std::time::Duration;

use dpfs::wire::errno::Errno;
use dpfs::wire::nfs4::{Status, op};

use crate::fake::Act;
use crate::host::*;
use crate::refusals::{attempt, things};
use crate::scripted::Mounted;

#[test]
fn a_connection_that_is_cut_anywhere_is_not_seen() {
    let mut host = Mounted::new();
    let things = things(&mut host);
    let operations = [
        op::LOOKUP,
        op::READ,
        op::WRITE,
        op::COMMIT,
        op::OPEN,
        op::CREATE,
        op::LINK,
        op::REMOVE,
        op::RENAME,
        op::SETATTR,
        op::READDIR,
        op::LOCK,
    ];
    for operation in operations {
        let acts = [0, 3, 4, 30, 70].map(Act::CutAfter);
        for act in acts.into_iter().chain([Act::CutBefore]) {
            host.at(operation, 0, 1, act);
            assert_eq!(
                attempt(&mut host, &things, operation),
                Ok(()),
                "{operation}"
            );
            host.check();
        }
    }
    // What changes something was answered from memory, what does not was done again.
    let server = host.fake.server();
    let uncached = (op::SEQUENCE, Status::ERR_RETRY_UNCACHED_REP);
    assert!(server.script.repeated > 25, "{}", server.script.repeated);
    assert!(server.script.done.contains(&uncached));
}

#[test]
fn a_connection_that_is_cut_in_the_data_of_a_read_is_not_seen() {
    const SIZE: usize = 1 << 20;
    let mut host = Mounted::new();
    let things = things(&mut host);
    let content: Vec<u8> = (0..SIZE).map(|at| (at / 7) as u8).collect();
    host.write(things.node, things.fh, 0, &content).unwrap();
    for cut in [600, 5_000, 100_000, 500_000, SIZE] {
        host.at(op::READ, 0, 1, Act::CutAfter(cut));
        let read = host.read(things.node, things.fh, 0, SIZE as u32).unwrap();
        assert!(read == content, "{cut}");
        host.check();
    }
}

#[test]
fn a_connection_that_is_cut_while_a_write_is_sent_is_not_seen() {
    const SIZE: usize = 1 << 20;
    let mut host = Mounted::new();
    let things = things(&mut host);
    for round in 1..6 {
        host.fake.server().script.halves = round;
        let content: Vec<u8> = (0..SIZE).map(|at| (at / 7) as u8 ^ round as u8).collect();
        let written = host.write(things.node, things.fh, 0, &content);
        assert_eq!(written, Ok(SIZE as u32));
        assert_eq!(host.fake.server().script.halves, 0);
        assert!(host.fake.server().content("f") == content, "{round}");
        host.check();
    }
}

#[test]
fn a_server_that_falls_silent_in_the_data_of_a_read_is_asked_again() {
    const SIZE: usize = 1 << 20;
    let mut host = Mounted::with(|config| config.options.timeo = 200_000_000);
    let things = things(&mut host);
    host.write(things.node, things.fh, 0, &[6; SIZE]).unwrap();
    for stall in [600, 100_000, SIZE] {
        host.at(op::READ, 0, 1, Act::Stall(stall));
        let read = host.read(things.node, things.fh, 0, SIZE as u32).unwrap();
        assert!(read == [6; SIZE], "{stall}");
        host.check();
    }
}

#[test]
fn a_read_that_comes_slowly_is_waited_for() {
    const SIZE: usize = 1 << 20;
    for soft in [false, true] {
        let mut host = Mounted::with(|config| {
            config.options.soft = soft;
            config.options.retrans = 0;
            config.options.timeo = 1_000_000_000;
        });
        let things = things(&mut host);
        host.write(things.node, things.fh, 0, &[6; SIZE]).unwrap();
        let mut server = host.fake.server();
        (server.script.segment, server.script.pause) = (40_000, Duration::from_millis(60));
        let before = server.script.count(op::READ);
        drop(server);
        let read = host.read(things.node, things.fh, 0, SIZE as u32).unwrap();
        assert!(read == [6; SIZE]);
        assert_eq!(host.fake.server().script.count(op::READ), before + 1);
        host.check();
    }
}

#[test]
fn answers_in_any_pieces_are_understood() {
    let mut host = Mounted::new();
    let things = things(&mut host);
    for (fragment, segment) in [
        (usize::MAX, 1),
        (usize::MAX, 3),
        (4, usize::MAX),
        (1, usize::MAX),
        (7, 5),
        (1000, 999),
    ] {
        let mut server = host.fake.server();
        (server.script.fragment, server.script.segment) = (fragment, segment);
        drop(server);
        host.write(things.node, things.fh, 0, &[5; 30_000]).unwrap();
        let read = host.read(things.node, things.fh, 0, 30_000).unwrap();
        let wrong = read.iter().position(|byte| *byte != 5);
        assert_eq!((read.len(), wrong), (30_000, None), "{fragment} {segment}");
        for operation in [op::LOOKUP, op::CREATE, op::READDIR, op::LOCK, op::WRITE] {
            assert_eq!(
                attempt(&mut host, &things, operation),
                Ok(()),
                "{fragment} {segment}"
            );
        }
        host.check();
    }
}

#[test]
fn reads_whose_fragments_fit_no_buffer_are_asked_for_in_smaller_pieces() {
    const SIZE: usize = 1 << 20;
    let mut host = Mounted::new();
    let things = things(&mut host);
    let content: Vec<u8> = (0..SIZE).map(|at| (at / 1000) as u8).collect();
    host.write(things.node, things.fh, 0, &content).unwrap();
    host.fake.server().script.fragment = 60_000;
    let args = |at: u64| dpfs::wire::fuse::ReadIn {
        fh: things.fh,
        offset: at * 250_000,
        size: 250_000,
        ..Default::default()
    };
    let tickets: Vec<_> = (0..4)
        .map(|at| {
            let message = host.message(dpfs::wire::fuse::Opcode::READ, things.node);
            host.bed.send(&message.arg(&args(at)).room(250_000))
        })
        .collect();
    for (at, ticket) in tickets.into_iter().enumerate() {
        let answer = host.bed.wait(ticket);
        assert_eq!(answer.error(), None);
        assert!(answer.body() == &content[at * 250_000..][..250_000], "{at}");
    }
    assert!(host.read(things.node, things.fh, 0, SIZE as u32).unwrap() == content);
    assert_eq!(
        host.fake.server().script.count(op::CREATE_SESSION),
        3,
        "one more, once"
    );
    host.check();
}

#[test]
fn an_answer_that_is_late_comes_once() {
    let mut host = Mounted::with(|config| config.options.timeo = 200_000_000);
    let things = things(&mut host);
    for operation in [op::CREATE, op::REMOVE, op::READ, op::RENAME, op::WRITE] {
        host.at(operation, 0, 1, Act::Late(Duration::from_millis(450)));
        assert_eq!(
            attempt(&mut host, &things, operation),
            Ok(()),
            "{operation}"
        );
        host.at(operation, 0, 1, Act::Silent);
        assert_eq!(
            attempt(&mut host, &things, operation),
            Ok(()),
            "{operation}"
        );
        host.check();
    }
}

#[test]
fn fewer_slots_are_kept_to_and_all_calls_are_done() {
    let mut host = Mounted::new();
    let things = things(&mut host);
    host.fake.server().script.slots = Some((63, 1));
    host.lookup(ROOT, "f").unwrap();
    host.fake.server().script.highest_used = 0;
    let tickets: Vec<_> = (0..30)
        .map(|at| {
            let message = host.read_message(things.node, things.fh, at % 7, 3);
            host.bed.send(&message)
        })
        .collect();
    for ticket in tickets {
        host.finish(ticket).unwrap();
    }
    assert_eq!(host.fake.server().script.highest_used, 1);
    // None at all is not believed; and then they are all there again.
    for slots in [(0, 0), (u32::MAX, u32::MAX)] {
        host.fake.server().script.slots = Some(slots);
        let tickets: Vec<_> = (0..30)
            .map(|_| {
                let message = host.read_message(things.node, things.fh, 0, 3);
                host.bed.send(&message)
            })
            .collect();
        for ticket in tickets {
            host.finish(ticket).unwrap();
        }
    }
    host.check();
}

/// Send 30 READs while the slots become fewer under way.
#[test]
fn slots_that_become_fewer_while_all_are_in_use_do_not_lose_calls() {
    let mut host = Mounted::new();
    let things = things(&mut host);
    host.at(op::READ, 0, 1, Act::Late(Duration::from_millis(100)));
    let tickets: Vec<_> = (0..30)
        .map(|_| {
            let message = host.read_message(things.node, things.fh, 0, 3);
            host.bed.send(&message)
        })
        .collect();
    host.idle(20);
    host.fake.server().script.slots = Some((0, 0));
    for ticket in tickets {
        host.finish(ticket).unwrap();
    }
    host.fake.server().script.highest_used = 0;
    for _ in 0..10 {
        host.lookup(ROOT, "f").unwrap();
    }
    assert_eq!(host.fake.server().script.highest_used, 0);
    host.check();
}

#[test]
fn a_partition_longer_than_the_lease_is_a_pause() {
    let mut host = Mounted::new();
    let things = things(&mut host);
    host.write(things.node, things.fh, 0, b"CONTENT").unwrap();
    host.fake.server().script.closed = true;
    host.fake.cut();
    let message = host.read_message(things.node, things.fh, 0, 9);
    let ticket = host.bed.send(&message);
    host.idle(300);
    assert!(host.bed.answer(ticket).is_none());
    let mut server = host.fake.server();
    server.expire();
    server.script.closed = false;
    drop(server);
    assert_eq!(host.bed.wait(ticket).body(), b"CONTENT");
    assert_eq!(host.fsync(things.node, things.fh), Ok(()));
    // A lock that others may have had in between would be lost; there was none.
    assert_eq!(
        host.setlk(things.node, things.fh, 7, lock(F_WRLCK, 0, 9)),
        Ok(())
    );
    host.check();
}

#[test]
fn a_soft_mount_gives_up_although_the_connection_comes_back_each_time() {
    let mut host = Mounted::soft();
    let things = things(&mut host);
    host.at(op::READ, 0, u32::MAX, Act::CutBefore);
    let read = host.read(things.node, things.fh, 0, 9);
    assert_eq!(read, Err(Errno::EIO));
    host.fake.server().script.clear();
    assert_eq!(host.read(things.node, things.fh, 0, 9).unwrap(), b"content");
    // And a hard one does not.
    let mut host = Mounted::with(|config| config.options.timeo = 150_000_000);
    let things = self::things(&mut host);
    host.at(op::READ, 0, u32::MAX, Act::CutBefore);
    let message = host.read_message(things.node, things.fh, 0, 9);
    let ticket = host.bed.send(&message);
    host.idle(1500);
    assert!(host.bed.answer(ticket).is_none());
    host.fake.server().script.clear();
    assert_eq!(host.bed.wait(ticket).body(), b"content");
    host.check();
}

#[test]
fn a_soft_mount_gives_up_what_is_put_off_for_ever_and_nothing_else() {
    for status in [Status::ERR_DELAY, Status::ERR_GRACE] {
        let mut host = Mounted::with(|config| {
            config.options.soft = true;
            config.options.timeo = 250_000_000;
        });
        let things = things(&mut host);
        let sessions = host.fake.server().script.count(op::CREATE_SESSION);
        for operation in [op::READ, op::LOCK, op::CREATE, op::SEQUENCE] {
            host.at(operation, 0, u32::MAX, Act::Status(status));
            let seen = attempt(&mut host, &things, operation);
            assert_eq!(seen, Err(Errno::EIO), "{operation}");
            host.fake.server().script.clear();
            assert_eq!(attempt(&mut host, &things, operation), Ok(()));
        }
        // Also when only the end of a call is, and what is open by then is closed.
        host.at(op::GETATTR, 0, u32::MAX, Act::Status(status));
        assert_eq!(attempt(&mut host, &things, op::OPEN), Err(Errno::EIO));
        assert_eq!(attempt(&mut host, &things, op::CREATE), Err(Errno::EIO));
        host.fake.server().script.clear();
        host.rmdir(ROOT, "made").unwrap();
        host.until(|server| server.states.count(false) == 1);
        host.check();
        let now = host.fake.server().script.count(op::CREATE_SESSION);
        assert_eq!(now, sessions);
        // A lock that is waited for is not put off: somebody has it.
        let lk = lock(F_WRLCK, 0, 9);
        host.setlk(things.node, things.fh, 7, lk).unwrap();
        let setlkw = dpfs::wire::fuse::Opcode::SETLKW;
        let message = host.lock_message(setlkw, things.node, things.fh, 8, lk, false);
        let ticket = host.bed.send(&message);
        host.idle(1500);
        assert!(host.bed.answer(ticket).is_none());
        let unlock = lock(F_UNLCK, 0, 9);
        host.setlk(things.node, things.fh, 7, unlock).unwrap();
        host.finish(ticket).unwrap();
    }
}

#[test]
fn a_soft_mount_bears_its_silences_although_the_server_put_the_call_off_before() {
    let mut host = Mounted::with(|config| {
        config.options.soft = true;
        config.options.timeo = 500_000_000;
    });
    let things = things(&mut host);
    // As often as it bears silences, and once more.
    host.at(op::READ, 0, 3, Act::Status(Status::ERR_DELAY));
    host.at(op::READ, 0, 1, Act::Silent);
    assert_eq!(host.read(things.node, things.fh, 0, 9).unwrap(), b"content");
    host.check();
}
