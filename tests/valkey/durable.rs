//! FSYNC: what it waits for, and what it says when the server has lost what it had confirmed.

use std::fs::{self, File, OpenOptions};
use std::thread;
use std::time::Duration;

use dpfs::backend::kv::served::Store;
use dpfs::backend::kv::valkey::Valkey;
use dpfs::backend::kv::valkey::request::Durability;
use dpfs::backend::kv::valkey::server::{Config, Place, Server as Volume};
use dpfs::wire::errno::Errno;

use crate::engine::config;
use crate::host::{Host, ROOT};
use crate::server::{KINDS, Reply, Server};

const AOF: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

fn open(place: &Place, durability: Durability) -> Result<Host<Valkey>, String> {
    let volume = Volume::open(&Config {
        timeout: 2_000_000_000,
        durability: Some(durability),
        ..config(place, "v")
    })?;
    Ok(Host::over(volume.attach(64)?))
}

/// Give how often the server was asked for a command.
pub fn calls(server: &Server, command: &str) -> u64 {
    let Reply::Bytes(report) = server.connect().ask(&[b"INFO", b"commandstats"]) else {
        panic!("no report");
    };
    let report = String::from_utf8(report).unwrap();
    let start = format!("cmdstat_{command}:calls=");
    let line = report.lines().find_map(|line| line.strip_prefix(&start));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

/// Open the server's append-only file, and give its length.
fn log(server: &Server) -> (File, u64) {
    let files = fs::read_dir(server.dir().join("appendonlydir")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let mut logs = paths.filter(|path| path.to_str().unwrap().ends_with(".incr.aof"));
    let file = OpenOptions::new().write(true).open(logs.next().unwrap());
    assert_eq!(logs.next(), None);
    let file = file.unwrap();
    let len = file.metadata().unwrap().len();
    (file, len)
}

#[test]
fn fsync_waits_for_the_servers_disk() {
    let server = Server::start(KINDS[0], AOF);
    let mut host = open(&server.place(), Durability::Aof).unwrap();
    let file = host.create(ROOT, "file").unwrap().nodeid;
    host.write(file, 0, b"text", (0, 0)).unwrap();
    let before = calls(&server, "waitaof");
    assert_eq!(host.fsync(file), Ok(()));
    assert!(calls(&server, "waitaof") > before);
    // Others need not wait meanwhile.
    let message = dpfs_harness::Message::new(dpfs::wire::fuse::Opcode::FSYNC)
        .node(file)
        .arg(&dpfs::wire::fuse::FsyncIn::default());
    host.write(file, 0, b"more", (0, 0)).unwrap();
    let ticket = host.bed.send(&message);
    assert_eq!(host.read(file, 0, 4).unwrap(), b"more");
    assert_eq!(host.bed.wait(ticket).error(), None);
}

#[test]
fn a_server_that_lost_what_it_confirmed_fails_fsync_once() {
    for writes_between in [false, true] {
        let mut server = Server::start(KINDS[0], AOF);
        let mut host = open(&server.place(), Durability::Aof).unwrap();
        let kept = host.create(ROOT, "kept").unwrap().nodeid;
        host.write(kept, 0, &[1; 5000], (0, 0)).unwrap();
        assert_eq!(host.fsync(kept), Ok(()));
        // Back as it was, nothing is said.
        server.kill();
        server.start_again();
        assert_eq!(host.fsync(kept), Ok(()));
        let (_, synced) = log(&server);
        host.write(kept, 0, &[2; 5000], (0, 0)).unwrap();
        server.kill();
        // As a machine that lost power would have it.
        log(&server).0.set_len(synced).unwrap();
        server.start_again();
        if writes_between {
            host.write(kept, 9000, &[3; 10], (0, 0)).unwrap();
        }
        assert_eq!(host.fsync(kept), Err(Errno::EIO), "{writes_between}");
        assert_eq!(host.fsync(kept), Ok(()), "{writes_between}");
        assert_eq!(host.read(kept, 0, 5000).unwrap(), [1; 5000]);
        host.write(kept, 0, &[4; 5000], (0, 0)).unwrap();
        assert_eq!(host.fsync(kept), Ok(()));
        server.kill();
        server.start_again();
        assert_eq!(host.read(kept, 0, 5000).unwrap(), [4; 5000]);
        assert_eq!(host.fsync(kept), Ok(()));
    }
}

#[test]
fn fsync_waits_for_replicas() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        let Place::Tcp(host, port) = server.place() else {
            panic!("no port");
        };
        let refused = open(&server.place(), Durability::Replicas(1)).err();
        assert_eq!(
            refused.unwrap(),
            "1 replicas were to confirm, and fewer did"
        );
        let replica = Server::start(kind, &["--replicaof", &host, &port.to_string()]);
        // It takes the first copy, which takes a while.
        let mut tries = 0;
        let mut host = loop {
            match open(&server.place(), Durability::Replicas(1)) {
                Ok(host) => break host,
                Err(_) if tries < 20 => tries += 1,
                Err(error) => panic!("{error}"),
            }
        };
        let file = host.create(ROOT, "file").unwrap().nodeid;
        host.write(file, 0, b"text", (0, 0)).unwrap();
        assert_eq!(host.fsync(file), Ok(()), "{kind}");
        let chunks = |server: &Server| server.connect().ask(&[b"KEYS", b"{v}\x05*"]);
        assert_eq!(chunks(&replica), chunks(&server));
        replica.signal("STOP");
        host.write(file, 0, b"more", (0, 0)).unwrap();
        assert_eq!(host.fsync(file), Err(Errno::ETIMEDOUT), "{kind}");
        replica.signal("CONT");
        thread::sleep(Duration::from_millis(10));
        assert_eq!(host.fsync(file), Ok(()), "{kind}");
    }
}

#[test]
fn what_a_server_cannot_promise_is_refused() {
    let refused = |server: Server| open(&server.place(), Durability::Aof).err().unwrap();
    let late = "the server has appendfsync everysec; allowed with durability \"aof\": always";
    let everysec = &["--appendonly", "yes", "--appendfsync", "everysec"];
    assert_eq!(refused(Server::start("valkey", everysec)), late);
    let wanted = "durability \"aof\" needs a server with appendonly yes and WAITAOF: Valkey, or Redis from 7.2";
    assert_eq!(
        refused(Server::start("valkey", &["--appendfsync", "always"])),
        wanted
    );
    assert_eq!(refused(Server::start("redis", AOF)), wanted, "Redis 7.0");
}
