//! Guests on a volume of a real Valkey or Redis server; the daemon is in its sandbox.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::boot::{alone, end, turn};
use crate::cluster::Cluster;
use crate::daemon::{Daemon, wait_for};
use crate::server::Server;
use crate::{MANY, SOME, UML, developers_work, nothing_is_held, works_on};

#[test]
fn the_valkey_engine_works() {
    let _turn = turn();
    let server = Server::start("valkey", &[]);
    works_on(Daemon::valkey(&server.place(), ""), SOME, &[]);
}

#[test]
fn developers_work_on_the_valkey_engine() {
    let _turn = turn();
    let server = Server::start("valkey", &[]);
    developers_work(Daemon::valkey(&server.place(), ""));
}

#[test]
fn the_valkey_engine_with_small_chunks_works_with_redis_by_a_unix_socket() {
    let _turn = turn();
    let server = Server::start("redis", &[]);
    let options = ", chunk = \"4KiB\", cache = \"none\"";
    let daemon = Daemon::valkey(&server.socket(), options);
    UML.run(&daemon, "smoke", &[]);
    UML.run(&daemon, "fsx", &[&format!("ops={MANY}"), "map=no"]);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_source_tree_on_a_server_that_is_killed_again_and_again_is_whole() {
    let _turn = turn();
    let mut server = Server::start(
        "valkey",
        &["--appendonly", "yes", "--appendfsync", "always"],
    );
    let daemon = Daemon::valkey(&server.place(), ", durability = \"aof\"");
    let done = AtomicBool::new(false);
    let mut kills = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            UML.run(&daemon, "tree-unpack", &[]);
            done.store(true, Ordering::SeqCst);
        });
        while !done.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1500));
            server.kill();
            thread::sleep(Duration::from_millis(100));
            server.start_again();
            kills += 1;
        }
    });
    assert!(kills > 2, "{kills}");
    // Another DPU has it, too, at the same time.
    let other = Daemon::valkey(&server.place(), ", read_only = true");
    UML.run(&other, "tree-check", &[]);
    let daemon = daemon.killed_and_restarted();
    UML.run(&daemon, "tree-check", &[]);
}

#[test]
fn a_cluster_works() {
    let _turn = turn();
    let cluster = Cluster::start("valkey", &[]);
    let daemon = Daemon::cluster(&cluster.places(), "");
    UML.run(&daemon, "smoke", &[]);
    UML.run(&daemon, "fio-verify", &[]);
    nothing_is_held(&daemon);
    let (good, text) = daemon.command("selftest");
    assert!(good, "{text}");
    let (good, text) = daemon.command("fsck");
    assert!(good && text.contains("no damage"), "{text}");
    let (_, text) = daemon.command("check");
    let server = text.lines().find(|line| line.contains("server"));
    assert!(server.unwrap().starts_with("ok"), "{text}");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_source_tree_in_a_cluster_whose_primaries_are_killed_is_whole() {
    let _turn = alone();
    let mut cluster = Cluster::start("valkey", &[]);
    let daemon = Daemon::cluster(&cluster.places(), ", durability = \"replicas:1\"");
    let done = AtomicBool::new(false);
    let mut kills = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            UML.run(&daemon, "tree-unpack", &[]);
            done.store(true, Ordering::SeqCst);
        });
        while !done.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1500));
            let old = cluster.owner("v");
            // Replication does not wait: who is killed at once may have answered what no replica has.
            cluster.has_replicated(old);
            cluster.nodes[old].kill();
            let new = cluster.new_owner(old, "v");
            cluster.nodes[old].start_again();
            cluster.replicates(new);
            kills += 1;
        }
    });
    assert!(kills > 1, "{kills}");
    let other = Daemon::cluster(&cluster.places(), ", read_only = true");
    UML.run(&other, "tree-check", &[]);
    let (good, text) = daemon.command("fsck");
    assert!(good && text.contains("no damage"), "{text}");
}

#[test]
fn a_guest_that_is_killed_while_the_server_is_silent_leaves_nothing() {
    let _turn = turn();
    let server = Server::start("valkey", &[]);
    let daemon = Daemon::valkey(&server.place(), "");
    let mut boot = UML.spawn(&daemon, "hold", &["files=5000"]);
    wait_for("the guest makes files", 120, || daemon.gauge("nodes") > 500);
    server.signal("STOP");
    wait_for("a request waits", 60, || daemon.gauge("in_flight") > 0);
    end(&mut boot);
    server.signal("CONT");
    nothing_is_held(&daemon);
    UML.run(&daemon, "smoke", &[]);
    assert_eq!(daemon.stop(), Some(0));
}
