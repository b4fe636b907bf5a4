//! What goes wrong between client and cluster, and what a host sees of it: nothing, or an honest error.

use dpfs::backend::kv::engine::Token;
use dpfs::backend::kv::objects::{Client, Cursor, Done, Failure, Objects};
use dpfs::backend::kv::ramcloud::server::Server;
use dpfs::mem::Segment;
use dpfs::sys::time::Instant;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::{Opcode, Rename2In};
use dpfs_harness::host::{Host, O_APPEND, O_EXCL, O_RDWR, ROOT};
use dpfs_harness::{Message, Ticket};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::fake::Cluster;
use crate::suite::{file, names};
use crate::volume::{Core, config, mount};

fn started(masters: u64) -> (Cluster, Host<Core>) {
    let cluster = Cluster::start(masters);
    let host = mount(&config(cluster.port));
    (cluster, host)
}

fn append(host: &mut Host<Core>, node: u64, data: &[u8]) -> Result<u32, Errno> {
    let flags = dpfs::wire::fuse::WriteFlags::empty();
    host.write_with(node, 0, 0, data, O_APPEND | 1, flags)
}

/// Run rounds until all have ended, and give their errors.
fn all(host: &mut Host<Core>, tickets: Vec<Ticket>) -> Vec<Option<Errno>> {
    tickets
        .into_iter()
        .map(|ticket| host.bed.wait(ticket).error())
        .collect()
}

#[test]
fn changes_whose_replies_were_lost_are_done_once() {
    let (cluster, mut host) = started(2);
    let log = file(&mut host, "log", b"");
    for round in 0..5u8 {
        cluster.state().lost_replies = 1;
        append(&mut host, log, &[b'0' + round]).unwrap();
    }
    assert_eq!(host.read(log, 0, 0, 99).unwrap(), b"01234");
    cluster.state().lost_replies = 1;
    host.create(ROOT, "new", O_RDWR | O_EXCL, 0o644).unwrap();
    cluster.state().lost_replies = 1;
    host.unlink(ROOT, "new").unwrap();
    cluster.state().lost_replies = 2;
    host.rename((ROOT, "log"), (ROOT, "moved"), 1).unwrap();
    assert_eq!(names(&mut host, 4096), [".", "..", "moved"]);
    let state = cluster.state();
    assert_eq!(state.lost_replies, 0);
    // Create, five appends, create, unlink, and two for the rename.
    assert_eq!(state.changes, 10);
}

#[test]
fn many_requests_under_way_survive_a_connection_that_breaks() {
    let (cluster, mut host) = started(3);
    let nodes: Vec<u64> = (0..8)
        .map(|n| file(&mut host, &n.to_string(), b""))
        .collect();
    for round in 0..20u8 {
        cluster.state().lost_replies = u32::from(round % 3);
        let messages: Vec<Message> = nodes
            .iter()
            .map(|&node| host.write_message(node, 0, round.into(), &[round]))
            .collect();
        let tickets = messages
            .iter()
            .map(|message| host.bed.send(message))
            .collect();
        assert!(all(&mut host, tickets).iter().all(Option::is_none));
    }
    let wanted: Vec<u8> = (0..20).collect();
    for node in nodes {
        assert_eq!(host.read(node, 0, 0, 99).unwrap(), wanted);
    }
    // One for each create and each write: none was done twice.
    assert_eq!(cluster.state().changes, 8 + 8 * 20);
}

#[test]
fn a_client_that_dies_in_a_rename_leaves_the_content_under_one_name_or_both() {
    let cluster = Cluster::start(2);
    let wanted: [&[&str]; 2] = [&["old"], &["new", "old"]];
    for (changes, wanted) in (0..).zip(wanted) {
        let mut host = mount(&config(cluster.port));
        file(&mut host, "old", b"content");
        let before = cluster.state().changes;
        cluster.state().changes_left = Some(changes);
        let message = host
            .message(Opcode::RENAME2, ROOT)
            .arg(&Rename2In {
                newdir: ROOT,
                ..Default::default()
            })
            .name("old")
            .name("new");
        let ticket = host.bed.send(&message);
        while cluster.state().refused == 0 {
            host.bed.round();
            assert!(host.bed.answer(ticket).is_none(), "nobody was told");
        }
        drop(host);
        {
            let mut state = cluster.state();
            assert_eq!(state.changes - before, changes);
            (state.changes_left, state.refused) = (None, 0);
        }
        let mut host = mount(&config(cluster.port));
        assert_eq!(names(&mut host, 4096)[2..], *wanted);
        for name in wanted {
            let node = host.lookup(ROOT, name).unwrap().nodeid;
            assert_eq!(host.read(node, 0, 0, 99).unwrap(), b"content");
        }
        // The rename, done again, ends it.
        host.rename((ROOT, "old"), (ROOT, "new"), 0).unwrap();
        assert_eq!(names(&mut host, 4096), [".", "..", "new"]);
        host.unlink(ROOT, "new").unwrap();
    }
}

#[test]
fn writers_of_one_object_do_not_lose_each_others_bytes() {
    let (cluster, mut one) = started(2);
    let mut two = mount(&config(cluster.port));
    file(&mut one, "log", b"");
    let nodes = [&mut one, &mut two].map(|host| host.lookup(ROOT, "log").unwrap().nodeid);
    for _ in 0..10 {
        let mut tickets = Vec::new();
        for (host, node) in [(&mut one, nodes[0]), (&mut two, nodes[1])] {
            for _ in 0..8 {
                let args = dpfs::wire::fuse::WriteIn {
                    size: 1,
                    flags: O_APPEND | 1,
                    ..Default::default()
                };
                let message = host
                    .message(dpfs::wire::fuse::Opcode::WRITE, node)
                    .arg(&args)
                    .data(b"x")
                    .room(8);
                tickets.push(host.bed.send(&message));
            }
        }
        let (first, second) = tickets.split_at(8);
        let (mut first, mut second) = (first.to_vec(), second.to_vec());
        while !first.is_empty() || !second.is_empty() {
            for (host, tickets) in [(&mut one, &mut first), (&mut two, &mut second)] {
                host.bed.round();
                tickets.retain(|ticket| match host.bed.answer(*ticket) {
                    Some(answer) => {
                        assert_eq!(answer.error(), None);
                        false
                    }
                    None => true,
                });
            }
        }
    }
    assert_eq!(one.read(nodes[0], 0, 0, 999).unwrap(), [b'x'; 160]);
}

#[test]
fn servers_that_are_busy_are_asked_again_after_the_delay() {
    let (cluster, mut host) = started(2);
    cluster.state().retries = 20;
    let a = file(&mut host, "a", b"content");
    cluster.state().retries = 5;
    assert_eq!(host.read(a, 0, 0, 99).unwrap(), b"content");
    assert_eq!(cluster.state().retries, 0);
    assert_eq!(cluster.state().changes, 2);
}

#[test]
fn tablets_that_move_and_split_are_found() {
    let (cluster, mut host) = started(3);
    let wanted: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    for name in &wanted {
        file(&mut host, name, name.as_bytes());
    }
    for (from, to, parts) in [(1, 2, 1), (2, 3, 4), (3, 1, 1), (1, 2, 3)] {
        cluster.move_tablets(from, to, parts);
        for name in &wanted {
            let node = host.lookup(ROOT, name).unwrap().nodeid;
            host.write(node, 0, 0, name.as_bytes()).unwrap();
            assert_eq!(host.read(node, 0, 0, 9).unwrap(), name.as_bytes());
        }
        assert_eq!(names(&mut host, 4096).len(), 32);
    }
    // The map was asked for when it was wrong, and not otherwise.
    let maps = cluster.state().maps;
    names(&mut host, 4096);
    assert_eq!(cluster.state().maps, maps);
}

#[test]
fn a_master_that_dies_is_reported_and_its_tablets_are_found_elsewhere() {
    let (cluster, mut host) = started(3);
    let wanted: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    for name in &wanted {
        file(&mut host, name, name.as_bytes());
    }
    cluster.kill(2);
    for name in &wanted {
        let node = host.lookup(ROOT, name).unwrap().nodeid;
        assert_eq!(host.read(node, 0, 0, 9).unwrap(), name.as_bytes());
        append(&mut host, node, b"!").unwrap();
    }
    assert!(cluster.state().reports > 0);
    cluster.kill(1);
    for name in &wanted {
        let node = host.lookup(ROOT, name).unwrap().nodeid;
        let content = [name.as_bytes(), b"!"].concat();
        assert_eq!(host.read(node, 0, 0, 9).unwrap(), content);
    }
    assert_eq!(names(&mut host, 4096).len(), 32);
}

#[test]
fn changes_under_way_when_a_master_dies_are_done_once_by_its_heir() {
    let (cluster, mut host) = started(3);
    let nodes: Vec<u64> = (0..8)
        .map(|n| file(&mut host, &n.to_string(), b""))
        .collect();
    let before = cluster.state().changes;
    // Done, not answered, and then there is nobody to ask.
    cluster.state().lost_replies = 8;
    let messages: Vec<Message> = nodes
        .iter()
        .map(|&node| host.write_message(node, 0, 0, b"x"))
        .collect();
    let tickets: Vec<Ticket> = messages
        .iter()
        .map(|message| host.bed.send(message))
        .collect();
    for _ in 0..100 {
        host.bed.round();
    }
    cluster.kill(1);
    assert_eq!(all(&mut host, tickets), [None; 8]);
    for node in nodes {
        assert_eq!(host.read(node, 0, 0, 9).unwrap(), b"x");
    }
    assert_eq!(cluster.state().changes - before, 8);
}

#[test]
fn a_client_without_a_lease_gets_one_before_it_changes_anything() {
    let (cluster, mut host) = started(2);
    let a = file(&mut host, "a", b"1");
    cluster.end_leases();
    append(&mut host, a, b"2").unwrap();
    assert_eq!(host.read(a, 0, 0, 9).unwrap(), b"12");
    // Less than a minute is no lease to begin a change with; reading needs none.
    cluster.state().term = Some(59_000_000_000);
    cluster.end_leases();
    assert_eq!(append(&mut host, a, b"3"), Err(Errno::ETIMEDOUT));
    assert_eq!(host.read(a, 0, 0, 9).unwrap(), b"12");
    cluster.state().term = None;
    append(&mut host, a, b"4").unwrap();
    assert_eq!(host.read(a, 0, 0, 9).unwrap(), b"124");
}

#[test]
fn a_result_that_was_forgotten_is_unknown() {
    let (cluster, mut host) = started(2);
    let a = file(&mut host, "a", b"1");
    cluster.state().stale = 1;
    assert_eq!(append(&mut host, a, b"2"), Err(Errno::EIO));
    append(&mut host, a, b"3").unwrap();
    assert_eq!(host.read(a, 0, 0, 9).unwrap(), b"13");
}

#[test]
fn garbage_ends_a_connection_and_nothing_else() {
    let (cluster, mut host) = started(2);
    let a = file(&mut host, "a", b"content");
    let frame = |nonce: u64, len: u32, payload: &[u8]| {
        [&nonce.to_le_bytes()[..], &len.to_le_bytes(), payload].concat()
    };
    for garbage in [
        frame(0, 0, b""),
        frame(u64::MAX, 3, b"abc"),
        frame(1, u32::MAX, b""),
        frame(1, (8 << 20) + 201, b""),
        // An answer to nobody, and then nothing but noise.
        [frame(77, 4, &[0; 4]), vec![0xff; 64]].concat(),
        vec![0; 64],
        b"+OK\r\n-ERR no RAMCloud\r\n".to_vec(),
    ] {
        cluster.state().garbage = Some(garbage);
        assert_eq!(host.read(a, 0, 0, 9).unwrap(), b"content");
    }
    // In frames that are right: lengths that lie, and what is cut off.
    for payload in [
        &[0, 0, 0, 0][..],
        &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f],
        &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, b'a'],
        &[17, 0, 0, 0],
    ] {
        cluster.state().payload = Some(payload.to_vec());
        assert_eq!(host.read(a, 0, 0, 9).unwrap(), b"content");
        cluster.state().payload = Some(payload.to_vec());
        host.write(a, 0, 0, b"content").unwrap();
        cluster.state().payload = Some(payload.to_vec());
        assert_eq!(names(&mut host, 4096), [".", "..", "a"]);
    }
    cluster.state().payload = Some(vec![21, 0, 0, 0]);
    assert_eq!(
        host.read(a, 0, 0, 9),
        Err(Errno::EIO),
        "a status that nobody knows"
    );
}

#[test]
fn silence_fails_requests_in_time_and_says_what_is_known() {
    let (cluster, mut host) = started(2);
    let a = file(&mut host, "a", b"1");
    cluster.state().mute = true;
    assert_eq!(host.read(a, 0, 0, 9), Err(Errno::ETIMEDOUT));
    assert_eq!(
        host.unlink(ROOT, "a"),
        Err(Errno::EIO),
        "it may have happened"
    );
    cluster.state().mute = false;
    assert_eq!(
        host.lookup(ROOT, "a").err(),
        Some(Errno::ENOENT),
        "and it has"
    );
    file(&mut host, "a", b"2");
}

#[test]
fn more_changes_than_the_window_wait_for_their_turn() {
    let (cluster, mut host) = started(2);
    for n in 0..700 {
        host.create(ROOT, &n.to_string(), O_RDWR, 0o644).unwrap();
    }
    assert_eq!(cluster.state().changes, 700);
    cluster.state().batch = 1000;
    assert_eq!(names(&mut host, 4096).len(), 702);
}

#[test]
fn a_coordinator_that_is_away_is_missed_only_when_it_is_needed() {
    let (cluster, mut host) = started(2);
    let a = file(&mut host, "a", b"1");
    cluster.kill(0);
    append(&mut host, a, b"2").unwrap();
    assert_eq!(host.read(a, 0, 0, 9).unwrap(), b"12");
}

/// Payloads that begin like an answer and go on with anything; none asks to wait.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let status = prop_oneof![6 => Just(0u8), 1 => 1u8..6, 1 => 31u8..40];
    let small = prop_oneof![0u8..4, any::<u8>()];
    (status, prop::collection::vec(small, 0..60)).prop_map(|(status, rest)| {
        let mut bytes = vec![status, 0, 0, 0];
        bytes.extend(rest);
        bytes
    })
}

#[test]
fn no_answer_of_a_master_does_any_harm() {
    let (cluster, mut host) = started(2);
    let a = file(&mut host, "a", b"content");
    let host = std::cell::RefCell::new(host);
    let config = Config {
        cases: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let each = |bytes: Vec<u8>| {
        let mut host = host.borrow_mut();
        cluster.state().payload = Some(bytes.clone());
        // It may be believed, or not.
        let _ = host.read(a, 0, 0, 4096);
        cluster.state().payload = Some(bytes);
        let fh = host.opendir(ROOT).unwrap();
        let _ = host.readdir(ROOT, fh, 0, 4096, false);
        host.releasedir(ROOT, fh).unwrap();
        cluster.state().payload = None;
        let found = host.read(a, 0, 0, 4096);
        prop_assert_eq!(found, Ok(b"content".to_vec()));
        prop_assert_eq!(names(&mut host, 4096), [".", "..", "a"]);
        Ok(())
    };
    TestRunner::new(config).run(&payload(), each).unwrap();
}

/// Take no answers: nothing is asked.
struct Nobody;

impl Client for Nobody {
    fn name(&mut self, _: Token, _: &[u8]) {}

    fn place(&mut self, _: Token, _: &Cursor) {}

    fn buffers(&self, _: Token) -> &[Segment] {
        &[]
    }

    fn payload(&self, _: Token) -> &[Segment] {
        &[]
    }

    fn done(&mut self, _: Token, _: Result<Done, Failure>) {}
}

#[test]
fn a_lease_is_renewed_when_a_quarter_of_an_hour_is_left() {
    const MINUTE: u64 = 60_000_000_000;
    let cluster = Cluster::start(1);
    let server = Server::open(&config(cluster.port)).unwrap();
    let mut engine = server.attach(4).unwrap();
    let start = Instant::now();
    let mut renewals_at = |minutes: u64| {
        for _ in 0..100 {
            // The clock is the caller's.
            let now = Instant::now().since(start);
            engine.poll(start.after(now + minutes * MINUTE), &mut Nobody);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let next = engine.deadline().unwrap().since(start) / MINUTE;
        (cluster.state().renewals, next)
    };
    assert_eq!(renewals_at(0), (1, 15));
    assert_eq!(renewals_at(14), (1, 15));
    assert_eq!(renewals_at(16), (2, 31));
    assert_eq!(renewals_at(60), (3, 75));
}
