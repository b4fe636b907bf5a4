//! A table as a host sees it, on the cluster that the tests play, and on a real one where it is given.

use std::time::Duration;

use dpfs::backend::kv::flat::served::Served;
use dpfs::backend::kv::flat::{Flat, Look};
use dpfs::backend::kv::ramcloud::Ramcloud;
use dpfs::backend::kv::ramcloud::server::{Config, Coordinator, Server};
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::{SetattrIn, SetattrValid, WriteFlags};
use dpfs::wire::ramcloud::{Request, locator};
use dpfs_harness::host::{Host, O_APPEND, O_EXCL, O_RDWR, O_TRUNC, ROOT};
use dpfs_harness::{Bed, Setup};

use crate::fake::Cluster;

pub type Core = Flat<Ramcloud>;

pub const LOOK: Look = Look {
    uid: 7,
    gid: 8,
    mode: 0o640,
    ttl: Duration::ZERO,
    read_only: false,
};

pub fn config(port: u16) -> Config {
    Config {
        coordinator: ("127.0.0.1".into(), port),
        table: "files".into(),
        span: 4,
        timeout: 5_000_000_000,
    }
}

/// Mount a table.
pub fn mount(config: &Config) -> Host<Core> {
    let served = Served::new(Server::open(config).unwrap(), 1000, LOOK).unwrap();
    let served: &'static Served<Server> = Box::leak(Box::new(served));
    let setup = Setup {
        volume: served,
        depth: 32,
        ..Setup::default()
    };
    let mut bed = Bed::with(served.attach(32).unwrap(), setup);
    bed.init();
    Host::new(bed)
}

/// Make a file with this content, and give its node.
pub fn file(host: &mut Host<Core>, name: &str, content: &[u8]) -> u64 {
    let (entry, _) = host.create(ROOT, name, O_RDWR, 0o644).unwrap();
    if !content.is_empty() {
        host.write(entry.nodeid, 0, 0, content).unwrap();
    }
    entry.nodeid
}

pub fn names(host: &mut Host<Core>, size: u32) -> Vec<String> {
    let mut names: Vec<String> = host
        .list(ROOT, size, false)
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    names.sort();
    names
}

/// What every cluster must do, real or played.
fn suite(host: &mut Host<Core>) {
    assert_eq!(names(host, 4096), [".", ".."]);
    assert_eq!(host.lookup(ROOT, "a").err(), Some(Errno::ENOENT));
    let a = file(host, "a", b"hello");
    assert_eq!(host.read(a, 0, 0, 100).unwrap(), b"hello");
    assert_eq!(host.read(a, 0, 1, 3).unwrap(), b"ell");
    assert_eq!(host.read(a, 0, 5, 3).unwrap(), b"");
    assert_eq!(host.read(a, 0, 500, 3).unwrap(), b"");

    let attr = host.getattr(a, None).unwrap();
    assert_eq!((attr.size, attr.mode, attr.nlink), (5, 0o100_640, 1));
    assert_eq!((attr.uid, attr.gid, attr.ino), (7, 8, a));
    let root = host.getattr(ROOT, None).unwrap();
    assert_eq!(root.mode, 0o040_750);
    host.write(a, 0, 0, b"HELLO").unwrap();
    let later = host.getattr(a, None).unwrap();
    assert_ne!(
        later.mtimensec, attr.mtimensec,
        "the host sees a change of the same size"
    );

    // In the middle, behind the end with a hole, at the end.
    host.write(a, 0, 2, b"..").unwrap();
    host.write(a, 0, 8, b"x").unwrap();
    assert_eq!(host.read(a, 0, 0, 100).unwrap(), b"HE..O\0\0\0x");
    host.write_with(a, 0, 0, b"end", O_APPEND | 1, WriteFlags::empty())
        .unwrap();
    assert_eq!(host.read(a, 0, 8, 100).unwrap(), b"xend");

    let size = |size| SetattrIn {
        valid: SetattrValid::SIZE.bits(),
        size,
        ..SetattrIn::default()
    };
    assert_eq!(host.setattr(a, &size(3)).unwrap().size, 3);
    assert_eq!(host.setattr(a, &size(6)).unwrap().size, 6);
    assert_eq!(host.read(a, 0, 0, 100).unwrap(), b"HE.\0\0\0");
    assert_eq!(
        host.setattr(a, &size((1 << 20) + 1)).err(),
        Some(Errno::EFBIG)
    );
    assert_eq!(host.write(a, 0, 1 << 20, b"x").err(), Some(Errno::EFBIG));
    assert_eq!(
        host.write(a, 0, u64::MAX - 1, b"x").err(),
        Some(Errno::EFBIG)
    );
    let owner = SetattrIn {
        valid: (SetattrValid::MODE | SetattrValid::UID | SetattrValid::MTIME).bits(),
        mode: 0o777,
        uid: 1,
        mtime: 5,
        ..SetattrIn::default()
    };
    assert_eq!(
        host.setattr(a, &owner).unwrap().mode,
        0o100_640,
        "accepted, and forgotten"
    );
    host.open_with(a, O_RDWR | O_TRUNC, false).unwrap();
    assert_eq!(host.getattr(a, None).unwrap().size, 0);

    // The largest.
    let large: Vec<u8> = (0..1u32 << 20).map(|n| (n * 7 >> 3) as u8).collect();
    host.write(a, 0, 0, &large).unwrap();
    assert_eq!(host.read(a, 0, 0, 1 << 20).unwrap(), large);
    assert_eq!(
        host.read(a, 0, 500_001, 4096).unwrap(),
        large[500_001..504_097]
    );
    host.write(a, 0, (1 << 20) - 1, b"!").unwrap();

    assert_eq!(
        host.create(ROOT, "a", O_RDWR | O_EXCL, 0o644).err(),
        Some(Errno::EEXIST)
    );
    let (again, _) = host.create(ROOT, "a", O_RDWR, 0o644).unwrap();
    assert_eq!((again.nodeid, again.attr.size), (a, 1 << 20));
    let (again, _) = host.create(ROOT, "a", O_RDWR | O_TRUNC, 0o644).unwrap();
    assert_eq!((again.nodeid, again.attr.size), (a, 0));

    // An open file goes along.
    host.write(a, 0, 0, b"one").unwrap();
    let b = file(host, "b", b"two");
    assert_eq!(
        host.rename((ROOT, "a"), (ROOT, "b"), 1).err(),
        Some(Errno::EEXIST)
    );
    assert_eq!(
        host.rename((ROOT, "c"), (ROOT, "b"), 0).err(),
        Some(Errno::ENOENT)
    );
    assert_eq!(
        host.rename((ROOT, "a"), (ROOT, "b"), 2).err(),
        Some(Errno::EINVAL)
    );
    host.rename((ROOT, "a"), (ROOT, "b"), 0).unwrap();
    assert_eq!(host.lookup(ROOT, "a").err(), Some(Errno::ENOENT));
    assert_eq!(host.lookup(ROOT, "b").unwrap().nodeid, a);
    assert_eq!(host.read(a, 0, 0, 9).unwrap(), b"one");
    assert_eq!(host.read(b, 0, 0, 9).err(), Some(Errno::ESTALE));
    host.rename((ROOT, "b"), (ROOT, "c"), 1).unwrap();
    assert_eq!(names(host, 4096), [".", "..", "c"]);

    host.unlink(ROOT, "c").unwrap();
    assert_eq!(host.unlink(ROOT, "c").err(), Some(Errno::ENOENT));
    assert_eq!(host.read(a, 0, 0, 9).err(), Some(Errno::ESTALE));
    assert_eq!(host.write(a, 0, 0, b"x").err(), Some(Errno::ESTALE));
    assert_eq!(
        host.lookup(ROOT, "c").err(),
        Some(Errno::ENOENT),
        "nothing brings it back"
    );

    // What is not there.
    assert_eq!(host.mkdir(ROOT, "d", 0o755).err(), Some(Errno::EPERM));
    assert_eq!(host.symlink(ROOT, "l", "x").err(), Some(Errno::EPERM));
    assert_eq!(
        host.mknod(ROOT, "p", 0o010_644, 0).err(),
        Some(Errno::EPERM)
    );
    assert_eq!(host.getxattr(ROOT, "user.a", 9).err(), Some(Errno::ENOSYS));
    host.mknod(ROOT, "f", 0o100_644, 0).unwrap();
    assert_eq!(
        host.mknod(ROOT, "f", 0o100_644, 0).err(),
        Some(Errno::EEXIST)
    );
    let f = host.lookup(ROOT, "f").unwrap().nodeid;
    assert_eq!(host.link(f, ROOT, "g").err(), Some(Errno::EPERM));
    assert_eq!(host.lookup(f, "x").err(), Some(Errno::ENOTDIR));
    host.fsync(f, 0).unwrap();
    host.statfs(ROOT).unwrap();
    host.unlink(ROOT, "f").unwrap();

    let mut wanted: Vec<String> = (0..40)
        .map(|n| format!("{n}{}", "n".repeat(n * 6)))
        .collect();
    for name in &wanted {
        file(host, name, b"");
    }
    wanted.extend([".".into(), "..".into()]);
    wanted.sort();
    for room in [512, 4096, 1 << 16] {
        assert_eq!(names(host, room), wanted, "{room}");
    }
    // Removed while it is read, nothing is missed.
    let fh = host.opendir(ROOT).unwrap();
    let (mut position, mut removed) = (0, 0);
    loop {
        let page = host.readdir(ROOT, fh, position, 600, false).unwrap();
        let Some(last) = page.last() else {
            break;
        };
        position = last.next;
        for entry in page.iter().filter(|entry| !entry.name.starts_with('.')) {
            host.unlink(ROOT, &entry.name).unwrap();
            removed += 1;
        }
    }
    assert_eq!((removed, names(host, 4096).len()), (40, 2));
}

#[test]
fn files_are_objects_on_a_cluster_of_three_masters() {
    let cluster = Cluster::start(3);
    suite(&mut mount(&config(cluster.port)));
}

#[test]
fn files_are_objects_on_a_real_cluster() {
    let Ok(given) = std::env::var("DPFS_RAMCLOUD") else {
        eprintln!("not run: DPFS_RAMCLOUD names no coordinator");
        return;
    };
    let (host, port) = locator::tcp(&given).expect("a locator like tcp:host=127.0.0.1,port=11100");
    let config = Config {
        coordinator: (host.into(), port),
        table: format!("dpfs-test-{}", std::process::id()),
        ..config(port)
    };
    suite(&mut mount(&config));
    let mut coordinator = Coordinator::connect(&config.coordinator).unwrap();
    coordinator
        .ask(&Request::DropTable(config.table.as_bytes()))
        .unwrap();
}

/// Count the requests that masters get for one call.
fn requests<T>(
    cluster: &Cluster,
    host: &mut Host<Core>,
    call: impl FnOnce(&mut Host<Core>) -> T,
) -> u64 {
    let before = cluster.state().requests;
    call(host);
    cluster.state().requests - before
}

#[test]
fn round_trips_are_as_few_as_the_engine_allows() {
    let cluster = Cluster::start(2);
    let host = &mut mount(&config(cluster.port));
    let a = file(host, "a", &[1; 4096]);
    let data = [2; 4096];
    assert_eq!(
        requests(&cluster, host, |host| host.lookup(ROOT, "a").unwrap()),
        1
    );
    assert_eq!(
        requests(&cluster, host, |host| host
            .lookup(ROOT, "none")
            .unwrap_err()),
        1
    );
    assert_eq!(
        requests(&cluster, host, |host| host.getattr(a, None).unwrap()),
        1
    );
    assert_eq!(
        requests(&cluster, host, |host| host.open(a, O_RDWR).unwrap()),
        0
    );
    assert_eq!(
        requests(&cluster, host, |host| host
            .open(a, O_RDWR | O_TRUNC)
            .unwrap()),
        1
    );
    assert_eq!(
        requests(&cluster, host, |host| host.read(a, 0, 0, 4096).unwrap()),
        1
    );
    assert_eq!(
        requests(&cluster, host, |host| host.write(a, 0, 0, &data).unwrap()),
        2
    );
    assert_eq!(
        requests(&cluster, host, |host| host
            .create(ROOT, "b", O_RDWR, 0o644)
            .unwrap()),
        1
    );
    assert_eq!(
        requests(&cluster, host, |host| host
            .rename((ROOT, "b"), (ROOT, "c"), 0)
            .unwrap()),
        3
    );
    assert_eq!(
        requests(&cluster, host, |host| host.unlink(ROOT, "c").unwrap()),
        1
    );
}

#[test]
fn others_write_the_same_objects_and_their_names_are_shown_if_they_can_be() {
    let cluster = Cluster::start(2);
    let mut host = mount(&config(cluster.port));
    let a = file(&mut host, "a", b"ours");
    assert_eq!(cluster.state().objects[&b"a"[..]].1, b"ours");
    {
        let mut state = cluster.state();
        state.objects.get_mut(&b"a"[..]).unwrap().1 = b"theirs".to_vec();
        let long = vec![b'l'; 256];
        let longest = vec![b'm'; 255];
        let huge = vec![b'h'; 40_000];
        for key in [
            &b"x/y"[..],
            b".",
            b"..",
            b"",
            b"nul\0",
            &long,
            &huge,
            &longest,
            b"b",
        ] {
            state
                .objects
                .insert(key.to_vec(), (1000, b"value".to_vec()));
        }
        // Larger than any that we write, and than what comes at a time.
        state
            .objects
            .insert(b"big".to_vec(), (1001, vec![9; 3 << 20]));
    }
    assert_eq!(host.read(a, 0, 0, 9).unwrap(), b"theirs");
    let longest = "m".repeat(255);
    assert_eq!(
        names(&mut host, 4096),
        [".", "..", "a", "b", "big", &longest]
    );
    let big = host.lookup(ROOT, "big").unwrap();
    assert_eq!(big.attr.size, 3 << 20);
    assert_eq!(host.read(big.nodeid, 0, 2 << 20, 100).unwrap(), [9; 100]);
    assert_eq!(host.write(big.nodeid, 0, 0, b"x").err(), Some(Errno::EFBIG));
    assert_eq!(
        host.rename((ROOT, "big"), (ROOT, "z"), 0).err(),
        Some(Errno::EXDEV)
    );
    assert!(
        cluster.state().objects.contains_key(&b"big"[..]),
        "and is still there"
    );
}
