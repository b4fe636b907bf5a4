//! Objects that are looked at together: what a host sees of them, and what goes wrong with some.

use std::collections::{BTreeMap, HashMap};

use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::Opcode;
use dpfs_harness::host::{Host, Listed, ROOT};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::fake::{Cluster, Multi};
use crate::suite::file;
use crate::volume::{Core, config, mount};

const FILES: usize = 50;

fn name(n: usize) -> String {
    format!("{n}{}", "n".repeat(n * 5 % 253))
}

/// Start two masters with files of different sizes, which are listed tablet by tablet.
fn started() -> (Cluster, Host<Core>) {
    let cluster = Cluster::start(2);
    let mut host = mount(&config(cluster.port));
    for n in 0..FILES {
        file(&mut host, &name(n), &vec![b'x'; n * 3]);
    }
    cluster.state().batch = 1000;
    (cluster, host)
}

/// List, and give the sizes that were told.
fn sizes(host: &mut Host<Core>) -> BTreeMap<String, Option<u64>> {
    let size = |entry: &Listed| entry.entry.map(|entry| entry.attr.size);
    let listed = host.list(ROOT, 1 << 16, true);
    let files = listed.iter().filter(|entry| !entry.name.starts_with('.'));
    files
        .map(|entry| (entry.name.clone(), size(entry)))
        .collect()
}

fn right() -> BTreeMap<String, Option<u64>> {
    (0..FILES).map(|n| (name(n), Some(n as u64 * 3))).collect()
}

/// Give how often each key was answered about, with this status.
fn answered(multi: &Multi, status: u32) -> HashMap<Vec<u8>, usize> {
    let mut counts = HashMap::new();
    for (key, _) in multi.answered.iter().filter(|part| part.1 == status) {
        *counts.entry(key.clone()).or_default() += 1;
    }
    counts
}

/// No object was asked for again that was told of before. The last of a master is asked for by a READ.
fn assert_told_once(multi: &Multi) {
    let counts = answered(multi, 0);
    assert!(counts.len() > FILES / 2);
    assert!(counts.values().all(|&count| count == 1), "{counts:?}");
}

#[test]
fn a_page_asks_for_the_names_of_a_tablet_together() {
    let (cluster, mut host) = started();
    let before = cluster.state().requests;
    assert_eq!(sizes(&mut host), right());
    let state = cluster.state();
    assert_told_once(&state.multi);
    assert_eq!(answered(&state.multi, 0).len(), FILES);
    // At least one for each of four tablets, and for 20 names.
    assert!(
        (4..=8).contains(&state.multi.count),
        "{}",
        state.multi.count
    );
    let listing = state.requests - before - state.multi.count;
    assert!(listing <= 9, "no READ, but {listing}");
}

#[test]
fn lookups_of_one_round_go_together_and_fail_alone() {
    let (cluster, mut host) = started();
    let before = cluster.state().requests;
    let wanted = [&name(1), "none", &name(2), &name(3), "no", &name(4)];
    let tickets: Vec<_> = wanted
        .iter()
        .map(|name| {
            let message = host.message(Opcode::LOOKUP, ROOT).name(name).room(128);
            host.bed.send(&message)
        })
        .collect();
    let errors: Vec<_> = tickets
        .into_iter()
        .map(|ticket| host.bed.wait(ticket).error())
        .collect();
    let none = Some(Errno::ENOENT);
    assert_eq!(errors, [None, none, None, None, none, None]);
    assert!(cluster.state().requests - before <= 3);
    assert!(cluster.state().multi.count > 0);
}

#[test]
fn what_an_answer_leaves_out_is_asked_for_again_and_nothing_else() {
    let (cluster, mut host) = started();
    for parts_max in [1, 3, 7] {
        cluster.state().multi = Multi {
            parts_max,
            ..Multi::default()
        };
        assert_eq!(sizes(&mut host), right(), "{parts_max}");
        let state = cluster.state();
        assert_told_once(&state.multi);
        assert!(state.multi.count > 8, "{parts_max}");
    }
}

#[test]
fn more_content_than_an_answer_holds_comes_in_several() {
    let cluster = Cluster::start(1);
    let mut host = mount(&config(cluster.port));
    for n in 0..12 {
        file(&mut host, &name(n), b"");
        let value = vec![7; (1 << 20) - n];
        cluster
            .state()
            .objects
            .get_mut(name(n).as_bytes())
            .unwrap()
            .1 = value;
    }
    // One that is larger than any answer of several.
    file(&mut host, "huge", b"");
    cluster.state().objects.get_mut(&b"huge"[..]).unwrap().1 = vec![8; (8 << 20) - 8];
    cluster.state().batch = 1000;
    let found = sizes(&mut host);
    for n in 0..12 {
        assert_eq!(found[&name(n)], Some((1 << 20) - n as u64));
    }
    assert_eq!(found["huge"], Some((8 << 20) - 8));
}

#[test]
fn objects_of_a_tablet_that_moves_meanwhile_are_asked_for_at_its_new_master_and_no_others() {
    let (cluster, mut host) = started();
    for to in [2, 1] {
        cluster.state().multi = Multi {
            moves: Some((0, to)),
            ..Multi::default()
        };
        assert_eq!(sizes(&mut host), right());
        let state = cluster.state();
        let moved = answered(&state.multi, 1);
        assert!(!moved.is_empty());
        assert!(moved.values().all(|&count| count == 1), "{moved:?}");
        assert_told_once(&state.multi);
    }
}

#[test]
fn parts_that_are_busy_are_asked_for_again() {
    let (cluster, mut host) = started();
    cluster.state().multi.busy = 30;
    assert_eq!(sizes(&mut host), right());
    let state = cluster.state();
    assert_eq!(answered(&state.multi, 17).values().sum::<usize>(), 30);
    assert_told_once(&state.multi);
}

#[test]
fn a_busy_master_is_asked_again() {
    let (cluster, mut host) = started();
    cluster.state().retries = 7;
    assert_eq!(sizes(&mut host), right());
    assert_eq!(cluster.state().retries, 0);
}

#[test]
fn a_master_that_refuses_is_asked_for_one_by_one() {
    let (cluster, mut host) = started();
    cluster.state().multi.refused = Some(8);
    assert_eq!(sizes(&mut host), right());
    assert!(cluster.state().multi.count > 0);
}

#[test]
fn a_connection_or_a_master_that_is_lost_is_survived() {
    let (cluster, mut host) = started();
    cluster.state().multi.lost = 3;
    assert_eq!(sizes(&mut host), right());
    assert_eq!(cluster.state().multi.lost, 0);
    // Whoever never answers these is asked in another way.
    cluster.state().multi.lost = 1000;
    assert_eq!(sizes(&mut host), right());
    assert!((900..1000).contains(&cluster.state().multi.lost));
    cluster.kill(1);
    assert_eq!(sizes(&mut host), right());
}

#[test]
fn names_that_nobody_tells_of_come_without_attributes() {
    let (cluster, mut host) = started();
    cluster.state().multi.mutes = true;
    let fh = host.opendir(ROOT).unwrap();
    let page = host.readdir(ROOT, fh, 0, 1 << 16, true).unwrap();
    assert!(page.len() > 3);
    assert!(page.iter().all(|entry| entry.entry.is_none()));
    let mut state = cluster.state();
    (state.mute, state.multi.mutes) = (false, false);
    drop(state);
    assert_eq!(sizes(&mut host), right());
}

#[test]
fn a_listing_that_fails_gives_the_names_that_were_told_of_first() {
    let (cluster, mut host) = started();
    cluster.state().batch = 4;
    cluster.state().lists_left = Some(2);
    let fh = host.opendir(ROOT).unwrap();
    let page = host.readdir(ROOT, fh, 0, 1 << 16, true).unwrap();
    // The host holds their nodes, so it has to hear of them.
    assert_eq!(page.len(), 2 + 8);
    assert!(page[2..].iter().all(|entry| entry.entry.is_some()));
    let position = page.last().unwrap().next;
    let next = host.readdir(ROOT, fh, position, 1 << 16, true);
    assert_eq!(next.err(), Some(Errno::EIO));
    cluster.state().lists_left = None;
    assert_eq!(sizes(&mut host), right());
}

#[test]
fn objects_that_go_while_they_are_listed_come_without_attributes() {
    let (cluster, mut host) = started();
    let fh = host.opendir(ROOT).unwrap();
    // The part is fetched, and little of it taken.
    let first = host.readdir(ROOT, fh, 0, 700, true).unwrap();
    let position = first.last().unwrap().next;
    cluster.state().objects.clear();
    let page = host.readdir(ROOT, fh, position, 1 << 16, true).unwrap();
    assert!(!page.is_empty());
    assert!(page.iter().all(|entry| entry.entry.is_none()));
}

#[test]
fn answers_that_lie_are_not_believed() {
    let (cluster, mut host) = started();
    let part = |length: u32, keys: &[u8]| {
        let mut bytes = vec![0; 12];
        bytes.extend(length.to_le_bytes());
        bytes.extend(keys);
        bytes
    };
    let answer = |count: u32, parts: &[u8]| {
        let mut bytes = vec![0; 4];
        bytes.extend(count.to_le_bytes());
        bytes.extend(parts);
        bytes
    };
    let missing = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
    let lies = [
        vec![],
        vec![0; 3],
        answer(1, &[])[..7].to_vec(),
        answer(1, &[0; 15]),
        answer(1, &part(u32::MAX, &[1, 0, 0])),
        answer(1, &part(0, &[])),
        answer(1, &part(4, &[1, 2, 0, b'k'])),
        answer(1, &part(3, &[0, 0, 0])),
        answer(1, &part(3, &[255, 0, 0])),
        answer(0, &[1]),
        answer(u32::MAX, &missing.repeat(21)),
        answer(1, &missing.repeat(2)),
    ];
    for lie in lies {
        cluster.state().multi.payload = Some(lie.clone());
        assert_eq!(sizes(&mut host), right(), "{lie:?}");
        assert_eq!(cluster.state().multi.payload, None);
    }
}

#[test]
fn no_answer_to_a_multi_read_does_any_harm() {
    let (cluster, host) = started();
    let host = std::cell::RefCell::new(host);
    let small = prop_oneof![4 => Just(0u8), 2 => 1u8..20, 1 => any::<u8>()];
    let payload = prop::collection::vec(small, 0..80);
    let config = Config {
        cases: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let each = |mut bytes: Vec<u8>| {
        // Never a delay.
        bytes.iter_mut().take(4).for_each(|byte| *byte %= 17);
        let mut host = host.borrow_mut();
        cluster.state().multi.payload = Some(bytes);
        // It may be believed, or not.
        let names: Vec<String> = sizes(&mut host).into_keys().collect();
        prop_assert_eq!(names, right().into_keys().collect::<Vec<_>>());
        cluster.state().multi.payload = None;
        prop_assert_eq!(sizes(&mut host), right());
        Ok(())
    };
    TestRunner::new(config).run(&payload, each).unwrap();
}
