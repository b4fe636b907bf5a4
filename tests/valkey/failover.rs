//! Nodes of a cluster that fail while they are used, and what became of what was made durable.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use dpfs::backend::kv::engine::{Key, Patch, Write};
use dpfs::backend::kv::fsck;
use dpfs::backend::kv::valkey::Valkey;
use dpfs::backend::kv::valkey::request::{self, Durability, Once, VERSION_LEN};
use dpfs::backend::kv::valkey::server::{Config, Place, Server as Volume};
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::{Opcode, WriteIn};
use dpfs_harness::{Message, Ticket};

use crate::cluster::{Cluster, ok, wait_for};
use crate::engine::{attach_to, config};
use crate::host::{Host, ROOT};
use crate::server::{KINDS, Reply};
use crate::tree::settle;

/// Number of the first file of those that come late.
const LATE: u64 = 1_000_000;

/// Say how to reach volume "v" of a cluster.
pub fn in_cluster(places: &[Place]) -> Config<'_> {
    Config {
        places,
        ..config(&places[0], "v")
    }
}

pub fn durable(places: &[Place], durability: Durability) -> Host<Valkey> {
    let config = Config {
        durability: Some(durability),
        ..in_cluster(places)
    };
    Host::over(attach_to(&config))
}

/// Make a file and make it durable; over again, when that cannot be promised.
///
/// What was answered and is not durable may be gone, so that nothing is expected of what an earlier try left.
pub fn make(host: &mut Host<Valkey>, number: u64) {
    let (name, new) = (format!("file-{number}"), format!("new-{number}"));
    let once = |host: &mut Host<Valkey>| -> Result<(), Errno> {
        let _ = (host.unlink(ROOT, &name), host.unlink(ROOT, &new));
        let file = host.create(ROOT, &name)?.nodeid;
        let wrote = host.write(file, 0, &[number as u8; 9000], (0, 0));
        let renamed = match number % 2 {
            0 => host.rename((ROOT, &name), (ROOT, &new), 0),
            _ => Ok(()),
        };
        let synced = host.fsync(file);
        host.forget(file);
        wrote.and(renamed).and(synced)
    };
    for _ in 0..20 {
        if once(host).is_ok() {
            return;
        }
    }
    panic!("{number} cannot be made durable");
}

/// Give the name under which [`make`] leaves a file.
fn name_of(number: u64) -> String {
    match number % 2 {
        0 => format!("new-{number}"),
        _ => format!("file-{number}"),
    }
}

/// Look by another daemon for all that was made, and for damage.
pub fn is_whole(places: &[Place], numbers: impl Iterator<Item = u64>) {
    is_whole_by(&in_cluster(places), numbers);
}

/// As [`is_whole`], reached as configured.
pub fn is_whole_by(config: &Config<'_>, numbers: impl Iterator<Item = u64>) {
    let mut host = Host::over(attach_to(config));
    settle(&mut host);
    let mut count = 0;
    for number in numbers {
        count += 1;
        let name = name_of(number);
        let file = host
            .lookup(ROOT, &name)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            host.read(file.nodeid, 0, 10_000).unwrap(),
            [number as u8; 9000]
        );
        host.forget(file.nodeid);
    }
    settle(&mut host);
    let report = fsck::check(&mut attach_to(config), false, &mut |_, _| ()).unwrap();
    assert_eq!(report.damage, Vec::<String>::new());
    assert_eq!((report.entries, report.orphans), (count, 0), "{report:?}");
}

/// Note the end of what happens, also of what fails: who waits for it goes on.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Make files while `happens`, and some more.
pub fn make_while(host: &mut Host<Valkey>, first: u64, happens: impl FnOnce() + Send) -> u64 {
    let done = AtomicBool::new(false);
    let mut number = first;
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ends = Ends(&done);
            thread::sleep(Duration::from_millis(200));
            happens();
        });
        while !done.load(Ordering::SeqCst) {
            make(host, number);
            number += 1;
        }
    });
    for _ in 0..10 {
        make(host, number);
        number += 1;
    }
    number
}

#[test]
fn a_primary_that_is_killed_has_a_replica_take_over_with_all_that_was_durable() {
    for kind in KINDS {
        let mut cluster = Cluster::start(kind, &[]);
        let places = cluster.places();
        let mut host = durable(&places, Durability::Replicas(1));
        let mut number = 0;
        for _ in 0..2 {
            let old = cluster.owner("v");
            number = make_while(&mut host, number, || {
                cluster.nodes[old].kill();
                cluster.new_owner(old, "v");
                // As a replica of the new one: or nothing is durable any more.
                cluster.nodes[old].start_again();
            });
            let new = cluster.owner("v");
            assert_ne!(new, old);
            cluster.replicates(new);
        }
        is_whole(&places, 0..number);
    }
}

/// Ask for content to be written, and do not wait.
fn send_write(host: &mut Host<Valkey>, file: u64, data: &[u8]) -> Ticket {
    let args = WriteIn {
        size: data.len() as u32,
        flags: 1,
        ..Default::default()
    };
    let message = Message::new(Opcode::WRITE)
        .node(file)
        .arg(&args)
        .data(data)
        .room(8);
    let ticket = host.bed.send(&message);
    host.bed.round();
    ticket
}

#[test]
fn a_primary_that_stops_and_comes_back_accepts_nothing_as_durable() {
    let cluster = Cluster::start(KINDS[0], &["--cluster-node-timeout", "1000"]);
    let places = cluster.places();
    let mut busy = durable(&places, Durability::Replicas(1));
    let (mut number, mut late, mut lost) = (0, LATE, 0);
    for _ in 0..4 {
        let old = cluster.owner("v");
        number = make_while(&mut busy, number, || {
            let mut hosts: Vec<_> = (late..late + 5)
                .map(|number| {
                    let mut host = durable(&places, Durability::Replicas(1));
                    make(&mut host, number);
                    let name = name_of(number);
                    let file = host.lookup(ROOT, &name).unwrap().nodeid;
                    (host, number, name, file)
                })
                .collect();
            cluster.nodes[old].signal("STOP");
            // The old one finds these when it comes back, before it hears that it is a primary no more.
            let sent: Vec<_> = hosts
                .iter_mut()
                .map(|(host, _, _, file)| send_write(host, *file, b"late"))
                .collect();
            let new = cluster.new_owner(old, "v");
            cluster.nodes[old].signal("CONT");
            for ((host, number, name, file), ticket) in hosts.iter_mut().zip(sent) {
                assert_eq!(host.bed.wait(ticket).error(), None);
                let synced = host.fsync(*file);
                // The old one may still answer who comes to it, with what it has.
                let mut witness = Host::over(attach_to(&in_cluster(&places[new..=new])));
                let there = witness.lookup(ROOT, name).unwrap().nodeid;
                let found = witness.read(there, 0, 4).unwrap();
                match synced {
                    Ok(()) => assert_eq!(found, b"late", "durable, and gone"),
                    Err(_) => lost += u32::from(found != b"late"),
                }
                host.forget(*file);
                make(host, *number);
            }
            late += 5;
        });
        let new = cluster.owner("v");
        assert_ne!(new, old);
        cluster.replicates(new);
        is_whole(&places[new..=new], (0..number).chain(LATE..late));
    }
    assert!(lost > 0, "the old one was asked too late");
}

#[test]
fn a_cluster_that_goes_down_as_a_whole_comes_back_with_all_that_is_on_its_disks() {
    let mut cluster = Cluster::start(
        KINDS[0],
        &["--appendonly", "yes", "--appendfsync", "always"],
    );
    let places = cluster.places();
    let mut host = durable(&places, Durability::Aof);
    let mut number = 0;
    for _ in 0..2 {
        number = make_while(&mut host, number, || {
            cluster.nodes.iter_mut().for_each(|node| node.kill());
            thread::sleep(Duration::from_millis(300));
            cluster.nodes.iter_mut().for_each(|node| node.start_again());
        });
    }
    is_whole(&places, 0..number);
}

#[test]
fn a_promoted_node_without_functions_gets_them() {
    let mut cluster = Cluster::start(KINDS[0], &[]);
    let places = cluster.places();
    let mut host = durable(&places, Durability::Replicas(1));
    (0..5).for_each(|number| make(&mut host, number));
    let old = cluster.owner("v");
    ok(&mut cluster.nodes[old].connect(), &["FUNCTION", "FLUSH"]);
    let gone = |reply: Reply| reply == Reply::Elements(Vec::new());
    let replica = old + 3;
    wait_for("the replica has none, too", || {
        gone(
            cluster.nodes[replica]
                .connect()
                .ask(&[b"FUNCTION", b"LIST"]),
        )
    });
    cluster.nodes[old].kill();
    assert_eq!(cluster.new_owner(old, "v"), replica);
    assert!(gone(
        cluster.nodes[replica]
            .connect()
            .ask(&[b"FUNCTION", b"LIST"])
    ));
    cluster.nodes[old].start_again();
    (5..10).for_each(|number| make(&mut host, number));
    assert!(!gone(
        cluster.nodes[replica]
            .connect()
            .ask(&[b"FUNCTION", b"LIST"])
    ));
    is_whole(&places, 0..10);
}

#[test]
fn two_daemons_on_a_volume_of_a_cluster_see_what_the_other_does() {
    let cluster = Cluster::start(KINDS[0], &[]);
    let places = cluster.places();
    let last = [places[5].clone()];
    let found = Volume::look(&in_cluster(&places)).unwrap();
    assert!(found.ends_with("volume \"v\" will be made"), "{found}");
    let mut one = Host::over(attach_to(&in_cluster(&places)));
    let mut two = Host::over(attach_to(&in_cluster(&last)));
    let file = one.create(ROOT, "file").unwrap().nodeid;
    one.write(file, 0, &[1; 100_000], (0, 0)).unwrap();
    let there = two.lookup(ROOT, "file").unwrap().nodeid;
    assert_eq!(two.read(there, 0, 100_000).unwrap(), [1; 100_000]);
    // The slot's primary hands over in good order.
    let replica = cluster.owner("v") + 3;
    ok(
        &mut cluster.nodes[replica].connect(),
        &["CLUSTER", "FAILOVER"],
    );
    cluster.new_owner(cluster.owner("v"), "v");
    two.write(there, 50_000, b"two", (0, 0)).unwrap();
    assert_eq!(one.read(file, 49_999, 5).unwrap(), b"\x01two\x01");
    assert_eq!(one.snapshot(), two.snapshot());
    let found = Volume::look(&in_cluster(&last)).unwrap();
    assert!(
        found.ends_with("is there, in chunks of 4 KiB, spread over the cluster"),
        "{found}"
    );
}

#[test]
fn nodes_that_are_named_as_nobody_here_can_look_up_are_refused() {
    let names = [
        "--cluster-announce-hostname",
        "node.example",
        "--cluster-preferred-endpoint-type",
        "hostname",
    ];
    let cluster = Cluster::start(KINDS[0], &names);
    let places = cluster.places();
    let other = (cluster.owner("v") + 1) % 3;
    let refused = Volume::look(&in_cluster(&places[other..=other])).unwrap_err();
    let wanted = "by host names; allowed: cluster-preferred-endpoint-type ip";
    assert!(refused.ends_with(wanted), "{refused}");
}

#[test]
fn a_node_that_would_throw_keys_away_is_not_used_when_it_takes_over() {
    for kind in KINDS {
        let cluster = Cluster::start(kind, &[]);
        let places = cluster.places();
        let config = Config {
            timeout: 1_000_000_000,
            ..in_cluster(&places)
        };
        let mut host = Host::over(attach_to(&config));
        host.create(ROOT, "file").unwrap();
        let old = cluster.owner("v");
        let mut replica = cluster.nodes[old + 3].connect();
        ok(&mut replica, &["CONFIG", "SET", "maxmemory", "100mb"]);
        let policy = ["CONFIG", "SET", "maxmemory-policy"];
        ok(&mut replica, &[&policy[..], &["allkeys-lru"]].concat());
        ok(&mut replica, &["CLUSTER", "FAILOVER"]);
        cluster.new_owner(old, "v");
        let refused = host.lookup(ROOT, "file").map(drop);
        assert_eq!(refused, Err(Errno::ETIMEDOUT), "{kind}");
        ok(&mut replica, &[&policy[..], &["noeviction"]].concat());
        let found = host.lookup(ROOT, "file").map(drop);
        assert_eq!(found, Ok(()), "{kind}");
    }
}

#[test]
fn what_a_primary_did_and_could_not_say_is_not_done_again_by_the_one_that_takes_over() {
    for kind in KINDS {
        let mut cluster = Cluster::start(kind, &[]);
        // The volume, and the functions.
        drop(attach_to(&in_cluster(&cluster.places())));
        let add = |cluster: &Cluster, node: usize, sequence| {
            let once = Once {
                client: 7,
                sequence,
                ack: 1,
                sure: false,
            };
            let patches = [Patch::Add64 { at: 0, value: 1 }];
            let writes = match sequence {
                1 => Write::Put(Key::Inode(9), &[0; 8]),
                _ => Write::Patch(Key::Inode(9), &patches),
            };
            let mut node = cluster.nodes[node].connect();
            node.call(|to| request::transact(to, b"{v}", &once, (&[], &[writes]), true))
        };
        let old = cluster.owner("v");
        for sequence in [1, 2, 3] {
            assert_eq!(add(&cluster, old, sequence), Reply::Integer(1));
        }
        // The reply was lost with the node; a replica had it all.
        cluster.has_replicated(old);
        cluster.nodes[old].kill();
        let new = cluster.new_owner(old, "v");
        wait_for("it serves", || {
            !matches!(add(&cluster, new, 3), Reply::Error(_))
        });
        assert_eq!(add(&cluster, new, 3), Reply::Integer(1));
        assert_eq!(add(&cluster, new, 4), Reply::Integer(1));
        let mut node = cluster.nodes[new].connect();
        let reply = node.call(|to| request::get_plain(to, b"{v}", &Key::Inode(9)));
        let Reply::Bytes(stored) = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(stored[VERSION_LEN..], 3u64.to_le_bytes(), "{kind}");
    }
}
