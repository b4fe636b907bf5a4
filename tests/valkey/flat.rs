//! The flat layout on real servers and a real cluster, with other programs at the same keys.

use dpfs::backend::kv::flat::Flat;
use dpfs::backend::kv::flat::served::Served;
use dpfs::backend::kv::valkey::objects::Strings;
use dpfs::backend::kv::valkey::objects::server::Keys;
use dpfs::backend::kv::valkey::request::Durability;
use dpfs::backend::kv::valkey::server::{Config, Place};
use dpfs::wire::errno::Errno;
use dpfs::wire::resp::slot;
use dpfs_harness::host::{Host, O_APPEND, O_EXCL, O_RDWR, O_TRUNC, ROOT};
use dpfs_harness::{Bed, Setup};

use crate::cluster::{Cluster, PRIMARIES, ok, text, wait_for};
use crate::engine::config;
use crate::proxy::Proxy;
use crate::server::{KINDS, Reply, Server};
use crate::suite::{LOOK, Traits, file, names, suite};
use crate::tree::turns;

pub type Core = Flat<Strings>;

pub const TRAITS: Traits = Traits {
    size_max: 512 << 20,
    versions: false,
};

/// Mount the keys.
pub fn mount(config: &Config<'_>) -> Host<Core> {
    let served = Served::new(Keys::open(config).unwrap(), 1000, LOOK).unwrap();
    let served: &'static Served<Keys> = Box::leak(Box::new(served));
    let setup = Setup {
        volume: served,
        depth: 32,
        ..Setup::default()
    };
    let mut bed = Bed::with(served.attach(32).unwrap(), setup);
    bed.init();
    Host::new(bed)
}

fn mounted(place: &Place) -> Host<Core> {
    mount(&config(place, ""))
}

#[test]
fn files_are_keys_of_a_server() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        suite(&mut mounted(&server.place()), &TRAITS);
        suite(&mut mounted(&server.socket()), &TRAITS);
    }
}

#[test]
fn every_operation_is_one_round_trip_over_the_wire() {
    let server = Server::start(KINDS[0], &[]);
    let proxy = Proxy::new(&server.place());
    let host = &mut mounted(proxy.place());
    let a = file(host, "a", &[1; 4096]);
    let data = [2; 4096];
    assert_eq!(
        turns(&proxy, host, |host| host.lookup(ROOT, "a").unwrap()),
        1
    );
    assert_eq!(
        turns(&proxy, host, |host| host.lookup(ROOT, "none").unwrap_err()),
        1
    );
    assert_eq!(
        turns(&proxy, host, |host| host.getattr(a, None).unwrap()),
        1
    );
    assert_eq!(turns(&proxy, host, |host| host.open(a, O_RDWR).unwrap()), 0);
    assert_eq!(
        turns(&proxy, host, |host| host.open(a, O_RDWR | O_TRUNC).unwrap()),
        1
    );
    assert_eq!(
        turns(&proxy, host, |host| host.write(a, 0, 0, &data).unwrap()),
        1
    );
    assert_eq!(
        turns(&proxy, host, |host| host.read(a, 0, 0, 4096).unwrap()),
        1
    );
    assert_eq!(
        turns(&proxy, host, |host| host
            .create(ROOT, "b", O_RDWR, 0o644)
            .unwrap()),
        1
    );
    assert_eq!(
        turns(&proxy, host, |host| host
            .rename((ROOT, "b"), (ROOT, "c"), 0)
            .unwrap()),
        1
    );
    assert_eq!(
        turns(&proxy, host, |host| host.unlink(ROOT, "c").unwrap()),
        1
    );
    assert_eq!(turns(&proxy, host, |host| host.list(ROOT, 4096, false)), 1);
}

#[test]
fn other_programs_see_and_change_the_same_objects() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        let mut host = mounted(&server.place());
        let a = file(&mut host, "a", b"ours");
        assert_eq!(server.command_line(&["GET", "a"]), "ours\n", "{kind}");
        assert_eq!(server.command_line(&["SET", "a", "theirs"]), "OK\n");
        assert_eq!(server.command_line(&["EXPIRE", "a", "1000"]), "1\n");
        assert_eq!(host.read(a, 0, 0, 99).unwrap(), b"theirs");
        host.write(a, 0, 0, b"T").unwrap();
        host.open(a, O_RDWR | O_TRUNC).unwrap();
        assert_eq!(
            server.command_line(&["TTL", "a"]),
            "1000\n",
            "what they said of it stays"
        );
        assert_eq!(server.command_line(&["DEL", "a"]), "1\n");
        assert_eq!(host.write(a, 0, 0, b"x").err(), Some(Errno::ESTALE));
        assert_eq!(server.command_line(&["EXISTS", "a"]), "0\n");

        let mut other = server.connect();
        let (long, longest, huge) = (vec![b'l'; 256], vec![b'm'; 255], vec![b'h'; 300_000]);
        for key in [
            &b"x/y"[..],
            b".",
            b"..",
            b"nul\0",
            b"",
            &long,
            &huge,
            &longest,
            b"b",
        ] {
            assert_eq!(other.ask(&[b"SET", key, b"v"]), Reply::Simple(b"OK".into()));
        }
        other.ask(&[b"RPUSH", b"list", b"v"]);
        let longest = "m".repeat(255);
        assert_eq!(names(&mut host, 4096), [".", "..", "b", &longest], "{kind}");
        // What is no string is not ours to read or to write over.
        assert_eq!(host.lookup(ROOT, "list").err(), Some(Errno::EIO));
        assert_eq!(
            host.create(ROOT, "list", O_RDWR, 0o644).err(),
            Some(Errno::EIO)
        );
        assert_eq!(
            host.create(ROOT, "list", O_RDWR | O_TRUNC, 0o644).err(),
            Some(Errno::EIO)
        );
        assert_eq!(other.ask(&[b"LLEN", b"list"]), Reply::Integer(1));
    }
}

#[test]
fn a_value_may_be_as_large_as_the_server_takes() {
    let server = Server::start(KINDS[0], &["--proto-max-bulk-len", "1048576"]);
    let mut host = mounted(&server.place());
    let a = file(&mut host, "a", b"x");
    assert_eq!(host.write(a, 0, 1 << 20, b"x").err(), Some(Errno::EFBIG));
    let mut other = server.connect();
    other.ask(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    assert_eq!(host.write(a, 0, 0, b"x").err(), Some(Errno::ENOSPC));
    assert_eq!(host.read(a, 0, 0, 9).unwrap(), b"x");
    host.unlink(ROOT, "a").unwrap();
}

#[test]
fn files_are_keys_of_a_cluster_and_lie_where_it_puts_them() {
    let cluster = Cluster::start(KINDS[0], &[]);
    let places = cluster.places();
    let config = Config {
        // One is enough to find the others.
        places: &places[1..2],
        ..config(&places[0], "")
    };
    let mut host = mount(&config);
    let wanted: Vec<String> = (0..60).map(|n| format!("file{n}")).collect();
    for name in &wanted {
        let node = file(&mut host, name, name.as_bytes());
        assert_eq!(host.read(node, 0, 0, 99).unwrap(), name.as_bytes());
    }
    let sizes: Vec<Reply> = (0..PRIMARIES)
        .map(|node| cluster.nodes[node].connect().ask(&[b"DBSIZE"]))
        .collect();
    assert!(
        sizes.iter().all(|size| *size != Reply::Integer(0)),
        "{sizes:?}"
    );
    for size in [600, 1 << 16] {
        let mut all = names(&mut host, size);
        all.retain(|name| !name.starts_with('.'));
        let mut wanted = wanted.clone();
        wanted.sort();
        assert_eq!(all, wanted);
    }
    let (one, other) = ("{a}1", "{b}1");
    assert_ne!(slot(one.as_bytes()), slot(other.as_bytes()));
    file(&mut host, one, b"1");
    assert_eq!(
        host.rename((ROOT, one), (ROOT, other), 0).err(),
        Some(Errno::EXDEV)
    );
    host.rename((ROOT, one), (ROOT, "{a}2"), 1).unwrap();
    assert_eq!(cluster.nodes[0].command_line(&["-c", "GET", "{a}2"]), "1\n");
    host.statfs(ROOT).unwrap();

    // A primary dies, and a replica takes its place.
    for node in 0..PRIMARIES {
        cluster.has_replicated(node);
    }
    let mut cluster = cluster;
    cluster.nodes[0].kill();
    wait_for("a replica takes over", || {
        let nodes = text(&mut cluster.nodes[1].connect(), &["CLUSTER", "NODES"]);
        nodes
            .lines()
            .filter(|line| line.contains("master"))
            .filter(|line| !line.contains("fail"))
            .count()
            == PRIMARIES
    });
    for node in 1..PRIMARIES {
        ok(&mut cluster.nodes[node].connect(), &["CLIENT", "UNPAUSE"]);
    }
    for name in &wanted {
        let node = host.lookup(ROOT, name).unwrap().nodeid;
        host.write(node, 0, 0, b"F").unwrap();
        assert_eq!(host.read(node, 0, 0, 1).unwrap(), b"F");
    }
    assert_eq!(names(&mut host, 4096).len(), 63);
}

#[test]
fn a_slot_that_moves_is_followed() {
    let cluster = Cluster::start(KINDS[0], &[]);
    let places = cluster.places();
    let mut host = mount(&config(&places[0], ""));
    let (first, second) = ("{m}1", "{m}2");
    let one = file(&mut host, first, b"one");
    let slot = slot(b"m").to_string();
    let from = cluster.owner_by(0, "m").unwrap();
    let to = (from + 1) % PRIMARIES;
    let ids = [cluster.id(from), cluster.id(to)];
    let (mut source, mut target) = (cluster.nodes[from].connect(), cluster.nodes[to].connect());
    ok(
        &mut target,
        &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]],
    );
    ok(
        &mut source,
        &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]],
    );
    // A new name of a slot on its way is asked for at its new place, once each.
    let two = file(&mut host, second, b"two");
    assert_eq!(host.read(two, 0, 0, 9).unwrap(), b"two");
    assert_eq!(host.read(one, 0, 0, 9).unwrap(), b"one");
    let port = cluster.nodes[to].port().to_string();
    ok(
        &mut source,
        &["MIGRATE", "127.0.0.1", &port, first, "0", "5000"],
    );
    host.write(one, 0, 0, b"ONE").unwrap();
    for node in [&mut target, &mut source] {
        ok(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &ids[1]]);
    }
    assert_eq!(host.read(one, 0, 0, 9).unwrap(), b"ONE");
    host.rename((ROOT, first), (ROOT, second), 0).unwrap();
    assert_eq!(host.read(one, 0, 0, 9).unwrap(), b"ONE");
}

#[test]
fn a_connection_that_is_cut_again_and_again_loses_nothing_that_was_answered() {
    let server = Server::start(KINDS[0], &[]);
    let proxy = Proxy::new(&server.place());
    proxy.cut_within(6000);
    let mut host = mounted(proxy.place());
    let a = file(&mut host, "a", b"");
    let mut unknown = 0;
    let mut wanted = Vec::new();
    for round in 0..300u32 {
        let bytes = round.to_le_bytes();
        host.write(a, 0, u64::from(round) * 4, &bytes).unwrap();
        wanted.extend(bytes);
        let name = format!("n{round}");
        match host.create(ROOT, &name, O_RDWR | O_EXCL, 0o644) {
            Ok(_) => {}
            // It may be there, or not.
            Err(Errno::EIO) => unknown += 1,
            Err(error) => panic!("{error}"),
        }
        match host.unlink(ROOT, &name) {
            Ok(()) => {}
            Err(Errno::ENOENT) if unknown > 0 => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(host.read(a, 0, 0, 4096).unwrap(), wanted);
    assert_eq!(names(&mut host, 4096), [".", "..", "a"]);
    assert!(proxy.connections() > 10);

    let flags = dpfs::wire::fuse::WriteFlags::empty();
    let log = file(&mut host, "log", b"");
    let (mut written, mut lost) = (0, 0);
    for _ in 0..300 {
        match host.write_with(log, 0, 0, b"x", O_APPEND | 1, flags) {
            Ok(_) => written += 1,
            Err(Errno::EIO) => lost += 1,
            Err(error) => panic!("{error}"),
        }
    }
    let size = host.getattr(log, None).unwrap().size;
    assert!(
        (written..=written + lost).contains(&size),
        "{size}: {written}, {lost}"
    );
}

#[test]
fn sync_waits_and_tells_of_a_connection_that_was_lost_once() {
    let aof = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = Server::start(KINDS[0], &aof);
    let place = server.place();
    let durable = Config {
        durability: Some(Durability::Aof),
        ..config(&place, "")
    };
    let mut host = mount(&durable);
    let a = file(&mut host, "a", b"1");
    host.fsync(a, 0).unwrap();
    host.write(a, 0, 0, b"2").unwrap();
    server.kill();
    server.start_again();
    assert_eq!(host.read(a, 0, 0, 9).unwrap(), b"2");
    assert_eq!(
        host.fsync(a, 0).err(),
        Some(Errno::EIO),
        "it may have lost something"
    );
    host.fsync(a, 0).unwrap();
    host.syncfs(ROOT).unwrap();
    let replicas = Config {
        durability: Some(Durability::Replicas(1)),
        ..config(&place, "")
    };
    let why = Keys::open(&replicas).err().unwrap();
    assert!(why.contains("\"replicas:N\" so many replicas"), "{why}");
    let late = Server::start(KINDS[0], &["--appendonly", "yes"]);
    let place = late.place();
    let why = Keys::open(&Config {
        durability: Some(Durability::Aof),
        ..config(&place, "")
    });
    let why = why.err().unwrap();
    assert!(why.contains("appendfsync everysec"), "{why}");
}

#[test]
fn who_cannot_be_served_is_told_why() {
    let why = |place: &Place| Keys::open(&config(place, "")).err().unwrap();
    let secret = Server::start(KINDS[0], &["--requirepass", "secret"]);
    assert!(why(&secret.place()).contains("NOAUTH"));
    let evicts = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    let evicts = Server::start(KINDS[0], &evicts);
    assert!(why(&evicts.place()).contains("throws keys away"));
    // A node that nobody has given any slot.
    let alone = Server::start(KINDS[0], &["--cluster-enabled", "yes"]);
    assert!(why(&alone.place()).contains("nobody for the volume's slot"));
    let place = alone.place();
    drop(alone);
    assert!(why(&place).contains("no connection"));
}
