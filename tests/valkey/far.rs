//! Nodes that have content of large files, and not the volume: killed, and handing slots over, under load.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use dpfs::backend::kv::fsck;
use dpfs::backend::kv::valkey::Valkey;
use dpfs::backend::kv::valkey::request::Durability;
use dpfs::backend::kv::valkey::server::{Config, Place};
use dpfs::wire::errno::Errno;

use crate::cluster::{Cluster, PRIMARIES, ok, wait_for};
use crate::engine::attach_to;
use crate::failover::{durable, in_cluster};
use crate::host::{Host, ROOT};
use crate::migration::{Move, impatient};
use crate::server::{KINDS, Reply};
use crate::spread::content;
use crate::tree::settle;

const MIB: usize = 1 << 20;
/// Bytes of a file: groups on all nodes.
const LEN: usize = 9 * MIB + 4321;

fn bytes(number: u64) -> Vec<u8> {
    (0..LEN as u64)
        .map(|at| (at / 1000 + number * 31) as u8 | 1)
        .collect()
}

/// Make a large file and make it durable; over again, when that cannot be promised.
fn make(host: &mut Host<Valkey>, number: u64) {
    let name = format!("file-{number}");
    let once = |host: &mut Host<Valkey>| -> Result<(), Errno> {
        let _ = host.unlink(ROOT, &name);
        let file = host.create(ROOT, &name)?.nodeid;
        let wrote = bytes(number)
            .chunks(MIB)
            .zip(0..)
            .try_for_each(|(piece, at)| host.write(file, at * MIB as u64, piece, (0, 0)).map(drop));
        let synced = host.fsync(file);
        host.forget(file);
        wrote.and(synced)
    };
    for _ in 0..20 {
        if once(host).is_ok() {
            return;
        }
    }
    panic!("{number} cannot be made durable");
}

/// Look by another daemon for all that was made, and for damage.
fn is_whole(places: &[Place], numbers: std::ops::Range<u64>) {
    let mut host = Host::over(attach_to(&in_cluster(places)));
    settle(&mut host);
    for number in numbers.clone() {
        let file = host.lookup(ROOT, &format!("file-{number}")).unwrap().nodeid;
        assert!(content(&mut host, file) == bytes(number), "{number}");
        host.forget(file);
    }
    let report = fsck::check(&mut attach_to(&in_cluster(places)), false, &mut |_, _| ()).unwrap();
    assert_eq!(report.damage, Vec::<String>::new());
    assert_eq!(report.entries, numbers.end - numbers.start);
}

/// Give the tag of some slot that a node has.
fn tag_of(cluster: &Cluster, node: usize) -> String {
    let mut tags = (0..1000).map(|number| format!("tag{number}"));
    tags.find(|tag| cluster.owner(tag) == node).unwrap()
}

#[test]
fn a_node_of_content_that_is_killed_has_a_replica_take_over_with_all_that_was_durable() {
    let mut cluster = Cluster::start(KINDS[0], &[]);
    let places = cluster.places();
    let mut host = durable(&places, Durability::Replicas(1));
    let mut number = 0;
    for _ in 0..2 {
        let old = (0..PRIMARIES)
            .find(|&node| node != cluster.owner("v"))
            .unwrap();
        let tag = tag_of(&cluster, old);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(300));
                cluster.nodes[old].kill();
                cluster.new_owner(old, &tag);
                cluster.nodes[old].start_again();
                done.store(true, Ordering::SeqCst);
            });
            while !done.load(Ordering::SeqCst) {
                make(&mut host, number);
                number += 1;
            }
        });
        for _ in 0..3 {
            make(&mut host, number);
            number += 1;
        }
        cluster.replicates(old + PRIMARIES);
        // Back to where it was, for the next turn.
        ok(&mut cluster.nodes[old].connect(), &["CLUSTER", "FAILOVER"]);
        wait_for("it is a primary again", || {
            cluster.owner_by(cluster.owner("v"), &tag) == Some(old)
        });
        cluster.replicates(old);
    }
    is_whole(&places, 0..number);
}

#[test]
fn a_cluster_that_goes_down_as_a_whole_has_all_content_on_its_disks() {
    let aof = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut cluster = Cluster::start(KINDS[0], &aof);
    let places = cluster.places();
    let mut host = durable(&places, Durability::Aof);
    let mut number = 0;
    for _ in 0..2 {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(700));
                cluster.nodes.iter_mut().for_each(|node| node.kill());
                thread::sleep(Duration::from_millis(300));
                cluster.nodes.iter_mut().for_each(|node| node.start_again());
                done.store(true, Ordering::SeqCst);
            });
            while !done.load(Ordering::SeqCst) {
                make(&mut host, number);
                number += 1;
            }
        });
        make(&mut host, number);
        number += 1;
    }
    is_whole(&places, 0..number);
}

#[test]
fn slots_of_content_that_move_key_by_key_under_load_lose_nothing() {
    for kind in KINDS {
        let cluster = Cluster::start(kind, &[]);
        let places = cluster.places();
        let [mut one, mut two] = impatient(&places);
        let entry = one.create(ROOT, "file").unwrap();
        let (file, ino) = (entry.nodeid, entry.attr.ino);
        let there = two.lookup(ROOT, "file").unwrap().nodeid;
        let mut model = bytes(0);
        for (piece, at) in model.chunks(MIB).zip(0..) {
            one.write(file, at * MIB as u64, piece, (0, 0)).unwrap();
        }
        let (done, mut rounds) = (AtomicBool::new(false), 0u64);
        thread::scope(|scope| {
            scope.spawn(|| {
                for group in [2, 5] {
                    thread::sleep(Duration::from_millis(700));
                    let tag = format!("v.{ino:x}.{group:x}");
                    let from = cluster.owner(&tag);
                    let moving = Move::begin_of(&cluster, &tag, from, (from + 1) % PRIMARIES);
                    moving.step();
                    thread::sleep(Duration::from_secs(3));
                    while moving.step() {
                        thread::sleep(Duration::from_millis(5));
                    }
                    moving.end();
                }
                thread::sleep(Duration::from_millis(300));
                done.store(true, Ordering::SeqCst);
            });
            while !done.load(Ordering::SeqCst) {
                for group in 0..9 {
                    let at = group * MIB + (rounds as usize * 7919) % (MIB - 9000);
                    let piece = vec![rounds as u8 | 1; 9000];
                    assert_eq!(one.write(file, at as u64, &piece, (0, 0)), Ok(9000));
                    model[at..at + 9000].copy_from_slice(&piece);
                    assert_eq!(two.read(there, at as u64, 9000).unwrap(), piece);
                }
                rounds += 1;
            }
        });
        assert!(rounds > 2, "{kind}: {rounds}");
        assert!(content(&mut two, there) == model, "{kind}");
        two.truncate(there, 100).unwrap();
        two.truncate(there, LEN as u64).unwrap();
        model[100..].fill(0);
        assert!(content(&mut one, file) == model, "{kind}");
        two.forget(there);
        one.unlink(ROOT, "file").unwrap();
        one.forget(file);
        settle(&mut one);
        for node in &cluster.nodes[..PRIMARIES] {
            let left = node.connect().ask(&[b"KEYS", b"{v.*}????"]);
            assert_eq!(left, Reply::Elements(Vec::new()), "{kind}");
        }
    }
}

#[test]
fn a_node_of_content_that_has_lost_the_functions_gets_them_again() {
    let cluster = Cluster::start(KINDS[0], &[]);
    let places = cluster.places();
    let mut host = durable(&places, Durability::Replicas(1));
    make(&mut host, 0);
    for node in &cluster.nodes[..PRIMARIES] {
        ok(&mut node.connect(), &["FUNCTION", "FLUSH"]);
    }
    (1..3).for_each(|number| make(&mut host, number));
    is_whole(&places, 0..3);
}

#[test]
fn a_node_of_content_that_is_full_takes_no_more_and_gives_back() {
    let cluster = Cluster::start(KINDS[0], &[]);
    let places = cluster.places();
    let mut host = Host::over(attach_to(&in_cluster(&places)));
    let old = host.create(ROOT, "old").unwrap().nodeid;
    let model = bytes(7);
    for (piece, at) in model.chunks(MIB).zip(0..) {
        host.write(old, at * MIB as u64, piece, (0, 0)).unwrap();
    }
    let near = cluster.owner("v");
    let full = (near + 1) % PRIMARIES;
    let memory = ["CONFIG", "SET", "maxmemory"];
    let mut node = cluster.nodes[full].connect();
    ok(&mut node, &[&memory[..], &["1mb"]].concat());
    let new = host.create(ROOT, "new").unwrap().nodeid;
    let mut refused = 0;
    for at in 0..16 {
        match host.write(new, at * MIB as u64, &[3; MIB], (0, 0)) {
            Ok(written) => assert_eq!(written as usize, MIB),
            Err(error) => {
                assert_eq!(error, Errno::ENOSPC);
                refused += 1;
            }
        }
    }
    assert!((1..16).contains(&refused), "{refused}");
    // What is there is read, and what is removed is given back.
    assert!(content(&mut host, old) == model);
    host.truncate(old, 2 * MIB as u64).unwrap();
    assert!(content(&mut host, old) == model[..2 * MIB]);
    for (name, file) in [("old", old), ("new", new)] {
        host.unlink(ROOT, name).unwrap();
        host.forget(file);
    }
    settle(&mut host);
    ok(&mut node, &[&memory[..], &["0"]].concat());
    for node in &cluster.nodes[..PRIMARIES] {
        let left = node.connect().ask(&[b"KEYS", b"{v.*}????"]);
        assert_eq!(left, Reply::Elements(Vec::new()));
    }
}

#[test]
fn only_what_needs_a_node_that_is_down_waits_for_it() {
    let cluster = Cluster::start(KINDS[0], &["--cluster-require-full-coverage", "no"]);
    let places = cluster.places();
    let config = Config {
        timeout: 3_000_000_000,
        ..in_cluster(&places)
    };
    let mut host = Host::over(attach_to(&config));
    let entry = host.create(ROOT, "file").unwrap();
    for (piece, at) in bytes(1).chunks(MIB).zip(0..) {
        host.write(entry.nodeid, at * MIB as u64, piece, (0, 0))
            .unwrap();
    }
    let near = cluster.owner("v");
    let down = (near + 1) % PRIMARIES;
    // Its replica, too: nobody takes over.
    for node in [down + PRIMARIES, down] {
        cluster.nodes[node].signal("STOP");
    }
    let (mut waited, mut served) = (0, 0);
    for group in 1..9 {
        let at = (group * MIB) as u64;
        let there = cluster.owner_by(near, &format!("v.{:x}.{group:x}", entry.attr.ino));
        // A node that fails is nobody's owner any more.
        let is_down = there.is_none_or(|there| there == down);
        match host.read(entry.nodeid, at, 9000) {
            Ok(found) => {
                assert_eq!(found, bytes(1)[at as usize..][..9000]);
                assert!(!is_down, "{group}");
                served += 1;
            }
            Err(error) => {
                assert!(is_down, "{group}: {error}");
                waited += 1;
            }
        }
        assert_eq!(host.read(entry.nodeid, 0, 9000).unwrap(), bytes(1)[..9000]);
    }
    for node in [down + PRIMARIES, down] {
        cluster.nodes[node].signal("CONT");
    }
    assert!(waited > 0 && served > 0, "{waited}, {served}");
    wait_for("all is read again", || {
        (1..9).all(|group| host.read(entry.nodeid, (group * MIB) as u64, 9000).is_ok())
    });
    assert!(content(&mut host, entry.nodeid) == bytes(1));
}
