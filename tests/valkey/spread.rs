//! Content of large files on all nodes of a cluster.

use dpfs::backend::kv::fsck;
use dpfs::backend::kv::valkey::Valkey;

use dpfs::backend::kv::valkey::server::{Config, Server as Volume};
use dpfs::wire::errno::Errno;

use crate::cluster::{Cluster, PRIMARIES};
use crate::engine::{attach_to, config};
use crate::failover::in_cluster;
use crate::host::{Host, O_APPEND, ROOT};
use crate::proxy::Proxy;
use crate::server::{KINDS, Reply, Server};
use crate::tree::{settle, turns};

const MIB: u64 = 1 << 20;

/// Bytes that differ from place to place.
fn pattern(from: u64, len: u64, seed: u64) -> Vec<u8> {
    (from..from + len)
        .map(|at| (at / 3 + at / 4096 * 7 + seed) as u8 | 1)
        .collect()
}

/// Write in pieces as a host does.
fn fill(host: &mut Host<Valkey>, file: u64, from: u64, bytes: &[u8]) {
    for (number, piece) in bytes.chunks(MIB as usize).enumerate() {
        let at = from + number as u64 * MIB;
        assert_eq!(
            host.write(file, at, piece, (0, 0)),
            Ok(piece.len() as u32),
            "{at}"
        );
    }
}

/// Read in pieces as a host does.
pub fn content(host: &mut Host<Valkey>, file: u64) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let piece = host.read(file, all.len() as u64, 1 << 20).unwrap();
        if piece.is_empty() {
            return all;
        }
        all.extend(piece);
    }
}

/// Give the number of chunks that lie in groups, on each primary; fences do not count.
fn chunks(cluster: &Cluster) -> Vec<usize> {
    cluster.nodes[..PRIMARIES]
        .iter()
        .map(|node| {
            let Reply::Elements(keys) = node.connect().ask(&[b"KEYS", b"{v.*}????"]) else {
                panic!("no keys");
            };
            keys.len()
        })
        .collect()
}

fn same(found: &[u8], wanted: &[u8]) {
    assert_eq!(found.len(), wanted.len());
    let differ = found.iter().zip(wanted).position(|(a, b)| a != b);
    assert_eq!(differ, None);
}

#[test]
fn a_large_file_is_on_all_nodes_and_leaves_them_all() {
    for kind in KINDS {
        let cluster = Cluster::start(kind, &[]);
        let places = cluster.places();
        let mut host = Host::over(attach_to(&in_cluster(&places)));
        let file = host.create(ROOT, "large").unwrap().nodeid;
        let mut model = pattern(0, 64 * MIB, 0);
        fill(&mut host, file, 0, &model);
        let there = chunks(&cluster);
        assert!(there.iter().all(|&count| count > 1000), "{kind}: {there:?}");
        same(&content(&mut host, file), &model);
        // Shorter, and longer again: zeros.
        host.truncate(file, 5 * MIB + 5000).unwrap();
        host.truncate(file, 9 * MIB).unwrap();
        model.truncate(5 * MIB as usize + 5000);
        model.resize(9 * MIB as usize, 0);
        same(&content(&mut host, file), &model);
        // A hole over the near end and groups.
        host.fallocate(file, MIB - 700, 2 * MIB + 1, 3).unwrap();
        model[MIB as usize - 700..3 * MIB as usize - 699].fill(0);
        same(&content(&mut host, file), &model);
        // Writes over borders, and at the end.
        for (from, len) in [(MIB - 100, 300), (4 * MIB - 5000, 10_000), (9 * MIB - 3, 9)] {
            let bytes = pattern(from, len, 77);
            fill(&mut host, file, from, &bytes);
            let end = (from + len) as usize;
            model.resize(model.len().max(end), 0);
            model[from as usize..end].copy_from_slice(&bytes);
        }
        host.write(file, 0, b"the end", (O_APPEND, 0)).unwrap();
        model.extend_from_slice(b"the end");
        same(&content(&mut host, file), &model);
        assert_eq!(host.getattr(file).unwrap().size, model.len() as u64);
        // Another daemon sees the same.
        let mut other = Host::over(attach_to(&in_cluster(&places[5..])));
        let there = other.lookup(ROOT, "large").unwrap().nodeid;
        same(&content(&mut other, there), &model);
        other.forget(there);
        host.unlink(ROOT, "large").unwrap();
        host.forget(file);
        settle(&mut host);
        assert_eq!(chunks(&cluster), [0; PRIMARIES], "{kind}");
        let report = fsck::check(&mut attach_to(&in_cluster(&places)), false, &mut |_, _| ());
        let report = report.unwrap();
        assert_eq!((report.damage, report.orphans), (Vec::new(), 0), "{kind}");
    }
}

#[test]
fn content_without_an_inode_is_found_on_every_node_and_removed() {
    let cluster = Cluster::start(KINDS[0], &[]);
    let places = cluster.places();
    let mut host = Host::over(attach_to(&in_cluster(&places)));
    let (lost, kept) = ("lost", "kept");
    for name in [lost, kept] {
        let file = host.create(ROOT, name).unwrap().nodeid;
        fill(&mut host, file, 0, &pattern(0, 9 * MIB, 3));
    }
    let before = chunks(&cluster);
    assert!(before.iter().all(|&count| count > 0), "{before:?}");
    let ino = host.lookup(ROOT, lost).unwrap().attr.ino;
    // As a near node that has lost it.
    host.bed.session().reset();
    let check = |repair| {
        let mut engine = attach_to(&in_cluster(&places));
        fsck::check(&mut engine, repair, &mut |_, _| ())
            .unwrap()
            .damage
    };
    assert_eq!(check(false), Vec::<String>::new());
    let inode = [b"{v}\0", &ino.to_be_bytes()[..]].concat();
    let mut owner = cluster.nodes[cluster.owner("v")].connect();
    assert_eq!(owner.ask(&[b"DEL", &inode]), Reply::Integer(1));
    let found = check(true);
    let parts = found
        .iter()
        .filter(|what| what.starts_with("content of inode"));
    assert_eq!(parts.count(), 8, "{found:?}");
    assert_eq!(check(false), Vec::<String>::new());
    let left: usize = chunks(&cluster).iter().sum();
    assert_eq!(left * 2, before.iter().sum::<usize>());
    let mut host = Host::over(attach_to(&in_cluster(&places)));
    let file = host.lookup(ROOT, kept).unwrap().nodeid;
    same(&content(&mut host, file), &pattern(0, 9 * MIB, 3));
}

#[test]
fn a_volume_spreads_as_it_was_made_and_says_so() {
    let server = Server::start(KINDS[0], &[]);
    let place = server.place();
    let with = |volume, spread| Config {
        spread,
        ..config(&place, volume)
    };
    drop(attach_to(&with("plain", None)));
    drop(attach_to(&with("wide", Some(true))));
    for (volume, made) in [("plain", false), ("wide", true)] {
        for spread in [None, Some(made)] {
            drop(attach_to(&with(volume, spread)));
        }
        let refused = Volume::open(&with(volume, Some(!made))).err().unwrap();
        let wanted = format!(
            "spread = {}, but the volume {volume:?} was made with spread = {made}, and stays so",
            !made
        );
        assert_eq!(refused, wanted);
        assert_eq!(
            Volume::look(&with(volume, Some(!made))).unwrap_err(),
            wanted
        );
    }
    // A client that knows nothing of it is refused, and keeps what does not spread.
    let open = |volume: &str| {
        let (prefix, key) = (format!("{{{volume}}}"), format!("{{{volume}}}k"));
        let words = ["FCALL", "dpfs_open", "2", &prefix, &key, "0"].map(str::as_bytes);
        server.connect().ask(&words)
    };
    assert!(matches!(open("plain"), Reply::Elements(found) if found.len() == 3));
    assert!(matches!(open("wide"), Reply::Error(text) if text.starts_with(b"DPFS")));
}

#[test]
fn round_trips_are_no_more_where_content_is_near_and_few_where_it_is_not() {
    let server = Server::start(KINDS[0], &[]);
    let proxy = Proxy::new(&server.place());
    let mut host = Host::over(attach_to(&Config {
        spread: Some(true),
        ..config(proxy.place(), "v")
    }));
    let file = host.create(ROOT, "file").unwrap().nodeid;
    settle(&mut host);
    let data = [7; 4096];
    let host = &mut host;
    let write = |host: &mut Host<Valkey>, at: u64| {
        turns(&proxy, host, |host| {
            host.write(file, at, &data, (0, 0)).unwrap()
        })
    };
    assert_eq!(write(host, 0), 1);
    assert_eq!(write(host, MIB - 4096), 1);
    assert_eq!(write(host, MIB), 3, "longer");
    assert_eq!(write(host, MIB), 2, "in place");
    assert_eq!(write(host, 0), 1);
    let read = |host: &mut Host<Valkey>, at| {
        turns(&proxy, host, |host| host.read(file, at, 4096).unwrap())
    };
    assert_eq!((read(host, 0), read(host, MIB)), (1, 2));
    let copy = host.create(ROOT, "copy").unwrap().nodeid;
    let copied = host.copy((file, MIB - 100), (copy, 0), 200);
    assert_eq!(copied, Err(Errno::EOPNOTSUPP));
    assert_eq!(host.copy((file, 0), (copy, 0), 4096), Ok(4096));
    let small = host.create(ROOT, "small").unwrap().nodeid;
    host.write(small, 0, &data, (0, 0)).unwrap();
    host.open(small, 2).unwrap();
    let shorter = turns(&proxy, host, |host| host.truncate(small, 10).unwrap());
    assert_eq!(shorter, 6);
    // The host lets go, and what has no groups is gone at once.
    host.unlink(ROOT, "small").unwrap();
    settle(host);
    let gone = turns(&proxy, host, |host| {
        host.forget(small);
        settle(host);
    });
    assert_eq!(gone, 3);
}
