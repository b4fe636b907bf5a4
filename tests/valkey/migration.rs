//! The slot of a volume moves to another node key by key, as `valkey-cli --cluster reshard` does, while it is used.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use dpfs::backend::kv::engine::Key;
use dpfs::backend::kv::fsck;
use dpfs::backend::kv::valkey::Valkey;
use dpfs::backend::kv::valkey::request::{self, Durability};
use dpfs::backend::kv::valkey::server::{Config, Place};
use dpfs::wire::errno::Errno;
use dpfs::wire::resp::{Problem, slot};

use crate::cluster::{Cluster, PRIMARIES, ok, text, wait_for};
use crate::engine::attach_to;
use crate::failover::{durable, in_cluster, is_whole, make};
use crate::host::{Host, ROOT};
use crate::server::{KINDS, Reply};
use crate::tree::settle;

/// Keys that are moved at a time.
const BATCH: &str = "7";

/// A move that is under way.
pub struct Move<'a> {
    cluster: &'a Cluster,
    tag: String,
    slot: String,
    from: usize,
    to: usize,
}

impl<'a> Move<'a> {
    /// Tell both nodes.
    pub fn begin(cluster: &'a Cluster, from: usize, to: usize) -> Self {
        Self::begin_of(cluster, "v", from, to)
    }

    /// As [`Self::begin`], for the slot of any tag.
    pub fn begin_of(cluster: &'a Cluster, tag: &str, from: usize, to: usize) -> Self {
        let slot = slot(format!("{{{tag}}}").as_bytes()).to_string();
        let source = ["CLUSTER", "SETSLOT", &slot, "IMPORTING", &cluster.id(from)];
        ok(&mut cluster.nodes[to].connect(), &source);
        let destination = ["CLUSTER", "SETSLOT", &slot, "MIGRATING", &cluster.id(to)];
        ok(&mut cluster.nodes[from].connect(), &destination);
        Self {
            tag: tag.into(),
            slot,
            ..Self::of(cluster, from, to)
        }
    }

    /// Go on with a move that was begun.
    fn of(cluster: &'a Cluster, from: usize, to: usize) -> Self {
        let slot = slot(b"{v}").to_string();
        Self {
            cluster,
            tag: "v".into(),
            slot,
            from,
            to,
        }
    }

    /// Move some keys; false when there are no more.
    pub fn step(&self) -> bool {
        let mut from = self.cluster.nodes[self.from].connect();
        let some: [&[u8]; 4] = [
            b"CLUSTER",
            b"GETKEYSINSLOT",
            self.slot.as_bytes(),
            BATCH.as_bytes(),
        ];
        let Reply::Elements(keys) = from.ask(&some) else {
            panic!("no keys");
        };
        if keys.is_empty() {
            return false;
        }
        let port = self.cluster.nodes[self.to].port().to_string();
        let head: [&[u8]; 7] = [
            b"MIGRATE",
            b"127.0.0.1",
            port.as_bytes(),
            b"",
            b"0",
            b"5000",
            b"KEYS",
        ];
        let mut words = head.to_vec();
        words.extend(keys.iter().map(|key| match key {
            Reply::Bytes(key) => &key[..],
            other => panic!("{other:?}"),
        }));
        assert_eq!(from.ask(&words), Reply::Simple(b"OK".into()));
        true
    }

    /// Tell both who has the slot now.
    pub fn end(self) {
        let id = self.cluster.id(self.to);
        for node in [self.to, self.from] {
            let words = ["CLUSTER", "SETSLOT", &self.slot, "NODE", &id];
            ok(&mut self.cluster.nodes[node].connect(), &words);
        }
        wait_for("all know", || self.cluster.owner(&self.tag) == self.to);
    }
}

#[test]
fn no_function_runs_where_half_of_a_volume_is() {
    for kind in KINDS {
        let cluster = Cluster::start(kind, &[]);
        let mut host = Host::over(attach_to(&in_cluster(&cluster.places())));
        for number in 0..20 {
            host.create(ROOT, &format!("file-{number}")).unwrap();
        }
        settle(&mut host);
        let from = cluster.owner("v");
        let moving = Move::begin(&cluster, from, (from + 1) % PRIMARIES);
        let mut nodes = [moving.from, moving.to].map(|node| cluster.nodes[node].connect());
        let mut states = 0;
        loop {
            // Names that are there, at the one or the other; the target is asked as it wants to be.
            for (node, asking) in nodes.iter_mut().zip([false, true]) {
                if asking {
                    ok(node, &["ASKING"]);
                }
                let keys = [Key::Name(1, b"file-0"), Key::Inode(1)];
                let reply = node.call(|to| request::get(to, b"{v}", &keys, true));
                let Reply::Error(text) = reply else {
                    panic!("{kind}: an answer out of half a volume: {reply:?}");
                };
                let problem = Problem::parse(&text);
                assert!(
                    matches!(problem, Problem::TryAgain | Problem::Ask(_)),
                    "{problem:?}"
                );
            }
            states += 1;
            if !moving.step() {
                break;
            }
        }
        assert!(states > 5, "{states}");
        moving.end();
        assert_eq!(host.lookup(ROOT, "file-0").map(drop), Ok(()));
        assert_eq!(host.lookup(ROOT, "none").map(drop), Err(Errno::ENOENT));
    }
}

#[test]
fn a_node_that_dies_while_a_slot_leaves_it_has_a_replica_go_on() {
    // Redis does not tell its replicas that a slot is on its way.
    let mut cluster = Cluster::start("valkey", &[]);
    let places = cluster.places();
    let mut host = durable(&places, Durability::Replicas(1));
    (0..30).for_each(|number| make(&mut host, number));
    let old = cluster.owner("v");
    let to = (old + 1) % PRIMARIES;
    let moving = Move::begin(&cluster, old, to);
    (0..3).for_each(|_| assert!(moving.step()));
    // Or its replica would still have what has left.
    cluster.has_replicated(old);
    cluster.nodes[old].kill();
    let from = cluster.new_owner(old, "v");
    cluster.nodes[old].start_again();
    let moving = Move::of(&cluster, from, to);
    while moving.step() {
        let mut node = cluster.nodes[from].connect();
        let reply = node.call(|to| request::get(to, b"{v}", &[Key::Inode(1)], true));
        assert!(matches!(reply, Reply::Error(_)), "{reply:?}");
    }
    moving.end();
    (30..40).for_each(|number| make(&mut host, number));
    is_whole(&places, 0..40);
}

/// Serve volume "v" of a cluster to two hosts, whose requests fail when a server says nothing for a while. A move of a slot
/// takes longer than that.
pub fn impatient(places: &[Place]) -> [Host<Valkey>; 2] {
    let config = Config {
        timeout: 2_000_000_000,
        ..in_cluster(places)
    };
    [(); 2].map(|()| Host::over(attach_to(&config)))
}

#[test]
fn a_slot_that_moves_key_by_key_under_load_loses_nothing_and_gives_no_wrong_answer() {
    for kind in KINDS {
        let cluster = Cluster::start(kind, &[]);
        let places = cluster.places();
        let [mut one, mut two] = impatient(&places);
        let (mut moves, mut number) = (0, 0u64);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                // Round and back to where it began.
                for _ in 0..PRIMARIES {
                    thread::sleep(Duration::from_millis(300));
                    let from = cluster.owner("v");
                    let moving = Move::begin(&cluster, from, (from + 1) % PRIMARIES);
                    moving.step();
                    thread::sleep(Duration::from_secs(4));
                    while moving.step() {
                        thread::sleep(Duration::from_millis(5));
                    }
                    moving.end();
                    moves += 1;
                }
                done.store(true, Ordering::SeqCst);
            });
            while !done.load(Ordering::SeqCst) {
                let (name, new) = (format!("file-{number}"), format!("new-{number}"));
                let file = one.create(ROOT, &name).unwrap().nodeid;
                let data = vec![number as u8; 20_000];
                assert_eq!(one.write(file, 0, &data, (0, 0)), Ok(20_000));
                one.rename((ROOT, &name), (ROOT, &new), 0).unwrap();
                one.forget(file);
                // Another daemon sees it all, and everything before.
                for each in [number, number / 2] {
                    let name = format!("new-{each}");
                    let there = two.lookup(ROOT, &name).unwrap().nodeid;
                    assert_eq!(
                        two.read(there, 0, 30_000).unwrap(),
                        vec![each as u8; 20_000]
                    );
                    two.forget(there);
                }
                assert_eq!(two.lookup(ROOT, &name).map(drop), Err(Errno::ENOENT));
                number += 1;
            }
        });
        assert_eq!(moves, PRIMARIES);
        assert!(number > 20, "{number}");
        settle(&mut one);
        let mut engine = attach_to(&in_cluster(&places));
        let report = fsck::check(&mut engine, false, &mut |_, _| ()).unwrap();
        assert_eq!(report.damage, Vec::<String>::new());
        assert_eq!(
            (report.entries, report.orphans),
            (number, 0),
            "{kind}: {report:?}"
        );
        assert_eq!(one.snapshot(), two.snapshot());
        // Nothing is left where it is not.
        let owner = cluster.owner("v");
        for node in (0..PRIMARIES).filter(|&node| node != owner) {
            let slot = slot(b"{v}").to_string();
            let count: [&[u8]; 3] = [b"CLUSTER", b"COUNTKEYSINSLOT", slot.as_bytes()];
            assert_eq!(cluster.nodes[node].connect().ask(&count), Reply::Integer(0));
        }
        let info = text(
            &mut cluster.nodes[owner].connect(),
            &["INFO", "commandstats"],
        );
        assert!(info.contains("cmdstat_fcall"), "{kind}");
    }
}
