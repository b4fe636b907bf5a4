//! Content of large files on all nodes of a cluster.

use dpfs::backend::kv::fsck;
use dpfs::backend::kv::valkey::Valkey;

use crate::cluster::{Cluster, PRIMARIES};
use crate::engine::attach_to;
use crate::failover::in_cluster;
use crate::host::{Host, O_APPEND, ROOT};
use crate::server::{KINDS, Reply};
use crate::tree::settle;

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
