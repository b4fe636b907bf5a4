//! A table as a host sees it, on the cluster that the tests play, and on a real one where it is given.

use dpfs::backend::kv::flat::served::Served;
use dpfs::backend::kv::flat::{Flat, Look};
use dpfs::backend::kv::ramcloud::Ramcloud;
use dpfs::backend::kv::ramcloud::server::{Config, Coordinator, Server};
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::SetattrIn;
use dpfs::wire::ramcloud::{Request, locator};
use dpfs_harness::host::{Host, O_RDWR, O_TRUNC, ROOT};
use dpfs_harness::{Bed, Setup};

use crate::fake::Cluster;
use crate::suite::{LOOK, Traits, file, names, suite};

pub type Core = Flat<Ramcloud>;

pub fn config(port: u16) -> Config {
    Config {
        coordinator: ("127.0.0.1".into(), port),
        table: "files".into(),
        span: 4,
        timeout: 5_000_000_000,
    }
}

/// Serve a table.
fn served(config: &Config, look: Look) -> &'static Served<Server> {
    let served = Served::new(Server::open(config).unwrap(), 1000, look).unwrap();
    Box::leak(Box::new(served))
}

fn mount_as(config: &Config, look: Look) -> Host<Core> {
    let served = served(config, look);
    let setup = Setup {
        volume: served,
        depth: 32,
        ..Setup::default()
    };
    let mut bed = Bed::with(served.attach(32).unwrap(), setup);
    bed.init();
    Host::new(bed)
}

/// Mount a table.
pub fn mount(config: &Config) -> Host<Core> {
    mount_as(config, LOOK)
}

/// What the suite expects of RAMCloud.
const TRAITS: Traits = Traits {
    size_max: 1 << 20,
    versions: true,
};

#[test]
fn files_are_objects_on_a_cluster_of_three_masters() {
    let cluster = Cluster::start(3);
    suite(&mut mount(&config(cluster.port)), &TRAITS);
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
    suite(&mut mount(&config), &TRAITS);
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

#[test]
fn a_volume_that_is_read_only_is() {
    let cluster = Cluster::start(1);
    let mut writer = mount(&config(cluster.port));
    file(&mut writer, "a", b"content");
    let look = Look {
        read_only: true,
        ..LOOK
    };
    let mut host = mount_as(&config(cluster.port), look);
    let a = host.lookup(ROOT, "a").unwrap().nodeid;
    let refused = Some(Errno::EROFS);
    assert_eq!(host.open(a, O_RDWR).err(), refused);
    assert_eq!(host.open(a, O_TRUNC).err(), refused);
    assert_eq!(host.write(a, 0, 0, b"x").err(), refused);
    assert_eq!(host.setattr(a, &SetattrIn::default()).err(), refused);
    assert_eq!(host.create(ROOT, "b", O_RDWR, 0o644).err(), refused);
    assert_eq!(host.unlink(ROOT, "a").err(), refused);
    assert_eq!(host.rename((ROOT, "a"), (ROOT, "b"), 0).err(), refused);
    host.open(a, 0).unwrap();
    assert_eq!(host.read(a, 0, 0, 9).unwrap(), b"content");
    assert_eq!(names(&mut host, 4096), [".", "..", "a"]);
}

#[test]
fn cores_of_a_device_share_names_and_directories_that_are_read() {
    let cluster = Cluster::start(2);
    let served = served(&config(cluster.port), LOOK);
    let setup = Setup {
        volume: served,
        depth: 32,
        ..Setup::default()
    };
    let mut bed = Bed::with(served.attach(32).unwrap(), setup);
    bed.init();
    let other = bed.sibling(served.attach(32).unwrap(), 32);
    let (mut one, mut two) = (Host::new(bed), Host::new(other));
    let a = file(&mut one, "a", b"content");
    assert_eq!(two.lookup(ROOT, "a").unwrap().nodeid, a);
    two.rename((ROOT, "a"), (ROOT, "b"), 0).unwrap();
    assert_eq!(one.read(a, 0, 0, 9).unwrap(), b"content");
    for n in 0..50 {
        file(&mut one, &format!("file{n}"), b"");
    }
    // The kernel asks on whichever core the program runs.
    let fh = one.opendir(ROOT).unwrap();
    let (mut position, mut all) = (0, Vec::new());
    for turn in 0.. {
        let host = if turn % 2 == 0 { &mut one } else { &mut two };
        let page = host.readdir(ROOT, fh, position, 300, false).unwrap();
        let Some(last) = page.last() else {
            break;
        };
        position = last.next;
        all.extend(page.into_iter().map(|entry| entry.name));
    }
    assert_eq!(all.len(), 53, "each once");
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 53);
    one.unlink(ROOT, "b").unwrap();
    assert_eq!(two.read(a, 0, 0, 9).err(), Some(Errno::ESTALE));
    assert_eq!(served.nodes(), 52);
}
