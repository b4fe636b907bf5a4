//! Guests on the flat layout: files that are keys of a real server, or objects of a cluster that the tests play. The daemon
//! is in its sandbox.

use crate::boot::turn;
use crate::daemon::Daemon;
use crate::fake;
use crate::server::Server;
use crate::{UML, nothing_is_held};

#[test]
fn files_that_are_keys_of_a_server_work() {
    let _turn = turn();
    let server = Server::start("valkey", &[]);
    server.command_line(&["SET", "theirs", "from outside"]);
    let daemon = Daemon::keys(&server.place(), "");
    UML.run(&daemon, "flat", &["size=5M"]);
    assert_eq!(server.command_line(&["GET", "ours"]), "from inside\n");
    let (_, text) = daemon.command("check");
    let line = text.lines().find(|line| line.contains("server"));
    assert!(line.unwrap().contains("its keys are the files"), "{text}");
    nothing_is_held(&daemon);
    assert_eq!(daemon.gauge("unanswered"), 0);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn files_that_are_objects_of_a_ramcloud_cluster_work() {
    let _turn = turn();
    let cluster = fake::Cluster::start(3);
    cluster.state().batch = 100;
    let daemon = Daemon::ramcloud(cluster.port, "");
    let theirs = (1, b"from outside".to_vec());
    cluster.state().objects.insert(b"theirs".to_vec(), theirs);
    UML.run(&daemon, "flat", &[]);
    assert_eq!(cluster.state().objects[&b"ours"[..]].1, b"from inside");
    let (_, text) = daemon.command("check");
    let line = text.lines().find(|line| line.contains("coordinator"));
    assert!(line.unwrap().contains("3 masters"), "{text}");
    nothing_is_held(&daemon);
    assert_eq!(daemon.gauge("unanswered"), 0);
    assert_eq!(daemon.stop(), Some(0));
}
