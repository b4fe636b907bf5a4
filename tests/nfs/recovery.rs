//! What is lost comes back: connections, answers, leases, servers.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dpfs::wire::errno::Errno;
use dpfs_harness::Ticket;

use crate::host::*;
use crate::server::Manner;

/// Do something whose answer is lost after the server did it, and the connection with it.
fn lose_the_answer<T>(host: &mut Host, act: impl FnOnce(&mut Host) -> T) -> T {
    host.relay.lose_next_answer();
    let outcome = act(host);
    assert!(host.relay.lost());
    outcome
}

#[test]
fn a_call_whose_answer_is_lost_is_done_exactly_once() {
    let mut host = Host::new();
    // Each of these fails when it is done twice.
    for round in 0..5 {
        let name = |name: &str| format!("{name}-{round}");
        let (file, fh) = lose_the_answer(&mut host, |host| {
            host.create(ROOT, &name("f"), O_RDWR | O_EXCL, 0o644)
                .unwrap()
        });
        lose_the_answer(&mut host, |host| {
            host.mkdir(ROOT, &name("d"), 0o755).unwrap()
        });
        lose_the_answer(&mut host, |host| {
            host.symlink(ROOT, &name("s"), "t").unwrap()
        });
        let linked = lose_the_answer(&mut host, |host| host.link(file.nodeid, ROOT, &name("g")));
        assert_eq!(linked.unwrap().attr.nlink, 2);
        lose_the_answer(&mut host, |host| {
            host.rename((ROOT, &name("g")), (ROOT, &name("h")), 0)
                .unwrap();
        });
        lose_the_answer(&mut host, |host| host.unlink(ROOT, &name("h")).unwrap());
        lose_the_answer(&mut host, |host| host.rmdir(ROOT, &name("d")).unwrap());
        let written = lose_the_answer(&mut host, |host| {
            host.write(file.nodeid, fh, 0, &[round; 100_000])
        });
        assert_eq!(written, Ok(100_000));
        let read = lose_the_answer(&mut host, |host| host.read(file.nodeid, fh, 0, 100_000));
        assert_eq!(read.unwrap(), [round; 100_000]);
        lose_the_answer(&mut host, |host| host.release(file.nodeid, fh).unwrap());
    }
}

#[test]
fn connections_that_break_at_any_time_are_not_seen() {
    break_at_any_time(2, 0);
}

/// Where there is no io_uring, connections are asked, and this is the test before.
#[test]
fn connections_that_are_watched_by_a_ring_break_unseen_too() {
    break_at_any_time(4, 1);
}

fn break_at_any_time(connections: u32, watches: u32) {
    let mut host = Host::with(Manner::default(), |config| {
        config.options.connections = connections;
        config.watches = watches;
    });
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    let node = file.nodeid;
    for round in 0..60u8 {
        let data = [round; 70_000];
        let write = |host: &mut Host, at: u64| -> Ticket {
            let args = dpfs::wire::fuse::WriteIn {
                fh,
                offset: at * 70_000,
                size: 70_000,
                ..Default::default()
            };
            let message = host.message(dpfs::wire::fuse::Opcode::WRITE, node);
            host.bed.send(&message.arg(&args).data(&data).room(8))
        };
        let tickets: Vec<_> = (0..8).map(|at| write(&mut host, at)).collect();
        let made = host.mkdir(ROOT, &format!("d{round}"), 0o755);
        // Somewhere on the way: after as many rounds as this.
        for _ in 0..round * 2 {
            host.bed.round();
        }
        host.relay.cut();
        made.unwrap();
        for ticket in tickets {
            host.finish(ticket).unwrap();
        }
        let ticket = {
            let message = host.read_message(node, fh, 0, 8 * 70_000);
            host.bed.send(&message)
        };
        for _ in 0..round {
            host.bed.round();
        }
        host.relay.cut();
        assert!(host.bed.wait(ticket).body() == [round; 8 * 70_000]);
        host.rmdir(ROOT, &format!("d{round}")).unwrap();
    }
}

#[test]
fn a_server_that_crashed_gives_open_files_back() {
    for grace in [0, 4] {
        let manner = Manner {
            grace,
            lease: 4,
            ..Manner::default()
        };
        let mut host = Host::with(manner, |_| ());
        let mut other = core(host.volume);
        let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
        let read = host.open(file.nodeid, O_RDONLY).unwrap();
        host.write(file.nodeid, fh, 0, b"before").unwrap();
        let lost = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&lost);
        host.relay.change(Some(Box::new(move |record| {
            // EXPIRED, STALE_STATEID, BAD_STATEID: of the compound, behind the record's mark and an accepted reply's header.
            let lost = [10011u32, 10023, 10025].map(u32::to_be_bytes);
            if lost.iter().any(|status| record.get(28..32) == Some(status)) {
                count.fetch_add(1, Ordering::SeqCst);
            }
        })));
        for round in 0..3 {
            host.server.restart();
            assert_eq!(host.write(file.nodeid, fh, 0, b"after!"), Ok(6), "{round}");
            assert_eq!(other.read(file.nodeid, read, 0, 100).unwrap(), b"after!");
            assert_eq!(host.read(file.nodeid, fh, 0, 100).unwrap(), b"after!");
            // What is new waits for the end of the grace period.
            let name = format!("new{round}");
            let (new, fh) = other.create(ROOT, &name, O_RDWR | O_EXCL, 0o644).unwrap();
            other.release(new.nodeid, fh).unwrap();
        }
        host.release(file.nodeid, fh).unwrap();
        host.release(file.nodeid, read).unwrap();
        assert_eq!(host.volume.open_files(), 0);
        // What was claimed in the grace period is still open; without one it is opened again when it is used.
        assert!(grace == 0 || lost.load(Ordering::SeqCst) == 0);
    }
}

#[test]
fn what_the_server_had_not_made_durable_is_written_again() {
    for grace in [0, 3] {
        let manner = Manner {
            grace,
            lease: 3,
            ..Manner::default()
        };
        let mut host = Host::with(manner, |_| ());
        let mut other = core(host.volume);
        let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
        let node = file.nodeid;
        host.write(node, fh, 0, &[1; 100_000]).unwrap();
        host.fsync(node, fh).unwrap();
        host.write(node, fh, 50_000, &[2; 300_000]).unwrap();
        other.write(node, fh, 60_000, &[3; 10]).unwrap();
        host.setattr(node, &size_change(200_000, Some(fh))).unwrap();
        // With its machine the server loses what it had only in memory; here the test plays that part.
        host.server.kill();
        fs::write(host.server.path("f"), [9; 100_000]).unwrap();
        // This server counts its lives in seconds.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        host.server.restart();
        let mut model = vec![9; 50_000];
        model.extend([2; 150_000]);
        model[60_000..60_010].fill(3);
        // Nobody sees the file without it.
        let mut seen = Vec::new();
        for offset in [0, 100_000] {
            seen.extend(other.read(node, fh, offset, 100_000).unwrap());
        }
        let first = seen.iter().zip(&model).position(|(a, b)| a != b);
        assert!(seen == model, "{grace}: {} bytes, {first:?}", seen.len());
        host.fsync(node, fh).unwrap();
        assert!(fs::read(host.server.path("f")).unwrap() == model);
        host.release(node, fh).unwrap();
    }
}

#[test]
fn more_than_can_be_kept_is_made_durable_in_between() {
    let mut host = Host::new();
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    let node = file.nodeid;
    // Four times as much as there is room for; many at once, so that some find none.
    let data: Vec<u8> = (0..1 << 20).map(|at: u32| (at >> 4) as u8).collect();
    let mut tickets = Vec::new();
    for at in 0..32u64 {
        let args = dpfs::wire::fuse::WriteIn {
            fh,
            offset: at << 20,
            size: 1 << 20,
            ..Default::default()
        };
        let message = host.message(dpfs::wire::fuse::Opcode::WRITE, node);
        let message = message.arg(&args).data(&data).room(8);
        tickets.push(host.bed.send(&message));
        if at == 20 {
            host.server.restart();
        }
    }
    for ticket in tickets {
        host.finish(ticket).unwrap();
    }
    host.fsync(node, fh).unwrap();
    let found = fs::read(host.server.path("f")).unwrap();
    assert_eq!(found.len(), 32 << 20);
    assert!(found.chunks(1 << 20).all(|chunk| chunk == data));
}

#[test]
fn a_server_that_is_down_is_waited_for() {
    let mut host = Host::new();
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    host.server.kill();
    let message = host.read_message(file.nodeid, fh, 0, 100);
    let ticket = host.bed.send(&message);
    host.idle(1500);
    assert!(host.bed.answer(ticket).is_none());
    host.server.restart();
    host.finish(ticket).unwrap();
}

#[test]
fn a_lease_that_ran_out_is_not_seen() {
    let manner = Manner {
        lease: 2,
        ..Manner::default()
    };
    let mut host = Host::with(manner, |_| ());
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    host.write(file.nodeid, fh, 0, b"content").unwrap();
    // Nobody polls: a partition.
    std::thread::sleep(std::time::Duration::from_secs(6));
    assert_eq!(host.read(file.nodeid, fh, 0, 100).unwrap(), b"content");
    assert_eq!(host.write(file.nodeid, fh, 0, b"CONTENT"), Ok(7));
    // With rounds the lease is renewed, and nothing has to be opened again.
    let before = host.relay.calls();
    host.idle(6000);
    let renewals = host.relay.calls() - before;
    assert!((4..=20).contains(&renewals), "{renewals} renewals");
    let (calls, read) = host.calls_of(|host| host.read(file.nodeid, fh, 0, 100).unwrap());
    assert_eq!((calls, &read[..]), (1, &b"CONTENT"[..]));
}

#[test]
fn a_file_that_went_while_the_server_was_down_is_stale() {
    let mut host = Host::new();
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    host.server.kill();
    fs::remove_file(host.server.path("f")).unwrap();
    host.server.restart();
    let error = host.read(file.nodeid, fh, 0, 100).err();
    assert!(
        matches!(error, Some(Errno::ESTALE | Errno::EIO)),
        "{error:?}"
    );
    // Nobody else is hurt.
    host.file(ROOT, "g", b"g");
    host.release(file.nodeid, fh).unwrap();
}

#[test]
fn a_soft_mount_gives_up_and_a_hard_one_waits() {
    for soft in [true, false] {
        let mut host = Host::with(Manner::default(), |config| {
            config.options.soft = soft;
            config.options.timeo = 300_000_000;
            config.options.retrans = 2;
        });
        let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
        host.server.freeze(true);
        let message = host.read_message(file.nodeid, fh, 0, 100);
        let ticket = host.bed.send(&message);
        host.idle(2500);
        let answer = host.bed.answer(ticket);
        assert_eq!(
            answer.as_ref().map(|answer| answer.error()),
            soft.then_some(Some(Errno::EIO))
        );
        host.server.freeze(false);
        if !soft {
            host.finish(ticket).unwrap();
        }
        assert_eq!(host.write(file.nodeid, fh, 0, b"again"), Ok(5));
        assert_eq!(host.read(file.nodeid, fh, 0, 100).unwrap(), b"again");
    }
}

#[test]
fn a_server_slower_than_the_timeout_is_not_asked_twice() {
    let mut host = Host::with(Manner::default(), |config| {
        config.options.timeo = 300_000_000
    });
    for round in 0..4 {
        host.server.freeze(true);
        let message = host
            .message(dpfs::wire::fuse::Opcode::MKDIR, ROOT)
            .arg(&dpfs::wire::fuse::MkdirIn {
                mode: 0o755,
                umask: 0,
            })
            .name(format!("d{round}"))
            .room(128);
        let ticket = host.bed.send(&message);
        host.idle(700);
        host.server.freeze(false);
        host.finish(ticket).unwrap();
    }
}

/// Run rounds until the core has taken leave; false when it has not within a second.
fn leaves(host: &mut dpfs_harness::Host<dpfs::backend::nfs::Nfs>) -> bool {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(1);
    while std::time::Instant::now() < end {
        host.bed.round();
        if dpfs::fuse::FileSystem::leave(&mut host.bed.fs) {
            return true;
        }
    }
    false
}

#[test]
fn the_end_of_a_device_is_told_to_the_server() {
    const CLOSE: u32 = 4;
    const DESTROY_SESSION: u32 = 44;
    const DESTROY_CLIENTID: u32 = 57;
    let mut host = Host::new();
    let mut second = core(host.volume);
    second.getattr(ROOT, None).unwrap();
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    let whole = lock(F_WRLCK, 0, i64::MAX as u64);
    host.setlk(file.nodeid, fh, 7, whole).unwrap();
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let note = Arc::clone(&told);
    host.relay.change(Some(Box::new(move |record| {
        // Behind the header of an accepted reply: status, an empty tag, the first result; the last one is at the end.
        let word = |at: usize| {
            let bytes = record.get(at..at + 4).expect("a whole word");
            u32::from_be_bytes(bytes.try_into().unwrap())
        };
        let closes = record.len() >= 24 && word(record.len() - 24) == CLOSE;
        let operation = if closes { CLOSE } else { word(40) };
        note.lock().unwrap().push((operation, word(28)));
    })));
    assert!(leaves(&mut second) && leaves(&mut host));
    host.relay.change(None);
    let mut told = told.lock().unwrap().clone();
    let ends = told.split_off(told.len() - 3);
    let expected = [DESTROY_SESSION, DESTROY_SESSION, DESTROY_CLIENTID];
    assert_eq!(ends, expected.map(|operation| (operation, 0)));
    // The file, and the open of who locked it.
    assert_eq!(told, [(CLOSE, 0); 2]);
    // Nobody waits for the end of a lease.
    let mut other = crate::locks::other(&host, "other");
    let (node, fh) = crate::locks::opened(&mut other, "f");
    assert_eq!(other.setlk(node, fh, 7, whole), Ok(()));
}

#[test]
fn a_server_that_is_gone_or_silent_is_not_waited_for_at_the_end() {
    let mut host = Host::new();
    host.server.freeze(true);
    // How long that may take is the core's to say.
    assert!(!leaves(&mut host));
    host.server.freeze(false);
    assert!(leaves(&mut host));
    let mut host = Host::new();
    host.server.kill();
    host.idle(100);
    assert!(leaves(&mut host));
}

#[test]
fn an_exclusive_creation_whose_answer_went_with_the_server_is_its_own() {
    let mut host = Host::new();
    let (server, mounted) = (&mut host.server, &mut host.mounted);
    let (relay, client) = (&mounted.relay, &mut mounted.host);
    relay.lose_next_answer();
    let created = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !relay.lost() {
                std::thread::yield_now();
            }
            server.restart();
        });
        client.create(ROOT, "f", O_RDWR | O_EXCL, 0o640)
    });
    let (file, fh) = created.unwrap();
    assert_eq!(file.attr.mode & 0o7777, 0o640);
    assert_eq!(host.write(file.nodeid, fh, 0, b"content"), Ok(7));
    host.fsync(file.nodeid, fh).unwrap();
    let again = host.create(ROOT, "f", O_RDWR | O_EXCL, 0o640);
    assert_eq!(again.err(), Some(Errno::EEXIST));
    // The verifier, which the server kept in them, is no time of the file.
    let age = std::fs::metadata(host.server.path("f")).unwrap().accessed();
    assert!(age.unwrap().elapsed().unwrap() < std::time::Duration::from_secs(3600));
}
