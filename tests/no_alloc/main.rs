//! Nothing is allocated after start: a counting allocator under a mixed workload, from the driver's side of a loopback
//! queue through decoding and a backend and back.
//!
//! Counting begins before the first request, so not even the first use of anything may allocate. Every thread counts,
//! a backend's own included; the test's side of the queue allocates nothing either.
#![cfg(feature = "daemon")]

mod host;
#[expect(dead_code, reason = "the backend's own tests use all of it")]
#[path = "../nfs/server.rs"]
mod nfs_server;
#[expect(dead_code, reason = "the engine's own tests use all of it")]
#[path = "../valkey/server.rs"]
mod valkey;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use dpfs::backend::kv::flat::{Look, served as flat};
use dpfs::backend::kv::served::{ALWAYS, Served};
use dpfs::backend::kv::valkey::objects::server::Keys;
use dpfs::backend::kv::valkey::request::Durability;
use dpfs::backend::kv::valkey::server;
use dpfs::backend::local::{self, LocalVolume};
use dpfs::backend::nfs;
use dpfs::backend::null::{self, Null};
use dpfs::runtime::Backend;
use dpfs::wire::fuse::Opcode;
use host::{DATA, Host};
use nfs_server::{EXPORT, Ganesha, Manner};
use valkey::Server;

/// Count calls of the allocator while asked to.
struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicUsize = AtomicUsize::new(0);

/// The thread of the test harness, which still keeps its books when a test on a thread of its own has begun.
static HARNESS: AtomicI32 = AtomicI32::new(0);

/// Leave out the harness, unless it runs the test itself (`--test-threads=1`).
fn leave_out_harness() {
    // SAFETY: plain calls.
    let (own, first) = unsafe { (libc::gettid(), libc::getpid()) };
    if own != first {
        HARNESS.store(first, Ordering::SeqCst);
    }
}

fn is_harness() -> bool {
    // SAFETY: plain call.
    HARNESS.load(Ordering::Relaxed) == unsafe { libc::gettid() }
}

fn count() {
    if COUNTS.load(Ordering::Relaxed) && !is_harness() {
        CALLS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count();
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Give the number of calls of the allocator, by any thread, while `work` runs.
fn calls_while(work: impl FnOnce()) -> usize {
    CALLS.store(0, Ordering::SeqCst);
    COUNTS.store(true, Ordering::SeqCst);
    work();
    COUNTS.store(false, Ordering::SeqCst);
    CALLS.load(Ordering::SeqCst)
}

/// Run the workload and count.
fn allocations(backend: &'static dyn Backend, rounds: usize) -> usize {
    let data = vec![0x5a; DATA];
    let mut host = Host::new(backend);
    calls_while(|| {
        host.init();
        for _ in 0..rounds {
            host.round(&data);
        }
        host.crowd(&data);
        host.good(Opcode::DESTROY, 0, &[]);
        host.init();
        host.round(&data);
    })
}

/// The same where another server has the directory `data`.
fn referred_allocations(backend: &'static dyn Backend, rounds: usize) -> usize {
    let data = vec![0x5a; DATA];
    let mut host = Host::new(backend);
    host.rename_plainly();
    calls_while(|| {
        host.init();
        host.round(&data);
        // The connection to the other server is made while it counts.
        for _ in 0..rounds {
            host.enter(c"data");
            host.round(&data);
            host.crowd(&data);
            host.leave();
            host.round(&data);
        }
        host.good(Opcode::DESTROY, 0, &[]);
        host.init();
        host.round(&data);
    })
}

/// The same for a volume whose root directory is all there is.
fn flat_allocations(backend: &'static dyn Backend, rounds: usize) -> usize {
    let data = vec![0x5a; DATA];
    let mut host = Host::new(backend);
    calls_while(|| {
        host.init();
        for _ in 0..rounds {
            host.flat_round(&data);
        }
    })
}

/// One test, for the threads of others would be counted, too.
#[test]
fn nothing_is_allocated_after_start() {
    leave_out_harness();
    assert_eq!(
        calls_while(|| drop(std::hint::black_box(vec![1_u8; 100]))),
        2,
        "the counter counts"
    );

    let null = Null::new(null::Config::default());
    assert_eq!(allocations(Box::leak(Box::new(null)), 200), 0, "null");

    let directory = tempfile::tempdir().unwrap();
    let mut config = local::Config::new(directory.path());
    (config.nodes, config.open_files, config.descriptors) = (1000, 100, 100);
    let volume = LocalVolume::open(config).unwrap();
    assert_eq!(allocations(volume, 50), 0, "local");
    assert_eq!(Backend::nodes(volume), 1, "every node was forgotten");
    assert_eq!(Backend::open_files(volume), 0);

    // The connection is made while it counts.
    let server = Server::start(
        "valkey",
        &["--appendonly", "yes", "--appendfsync", "always"],
    );
    for spread in [false, true] {
        let opened = server::Server::open(&server::Config {
            places: &[server.place()],
            user: None,
            password_file: None,
            volume: if spread { "wide" } else { "v" },
            chunk: 65_536,
            timeout: 30_000_000_000,
            durability: Some(Durability::Aof),
            spread: Some(spread),
            tls: None,
        });
        let volume = Served::new(opened.unwrap(), 1000, ALWAYS, false).unwrap();
        let volume: &'static Served<server::Server> = Box::leak(Box::new(volume));
        assert_eq!(allocations(volume, 20), 0, "valkey, spread: {spread}");
        assert_eq!(Backend::nodes(volume), 1, "every node was forgotten");
    }

    let (home, there) = (
        Ganesha::start(Manner::default()),
        Ganesha::start(Manner::default()),
    );
    home.refer("data", &format!("there:{EXPORT}"));
    let volume = nfs::served::open_namespace(&nfs::served::Config {
        servers: vec!["127.0.0.1".into()],
        port: home.port,
        export: EXPORT.into(),
        minor: None,
        options: nfs::Options {
            connections: 1,
            soft: false,
            timeo: 60_000_000_000,
            retrans: 2,
            reserved_port: false,
            cache: nfs::Cache::Auto,
            read_only: false,
            anonymous: false,
            server_locks: true,
            uncommitted: 8 << 20,
        },
        owners: Vec::new(),
        groups: Vec::new(),
        tls: None,
        referrals: vec![("there".into(), vec![format!("127.0.0.1:{}", there.port)])],
        limits: (1000, 100),
        watches: 0,
        device: "no_alloc".into(),
    });
    let volume = volume.unwrap();
    assert_eq!(referred_allocations(volume, 5), 0, "nfs, by a referral");
    assert_eq!(Backend::nodes(volume), 1, "every node was forgotten");
    assert_eq!(Backend::open_files(volume), 0);

    let keys = Keys::open(&server::Config {
        places: &[server.place()],
        user: None,
        password_file: None,
        volume: "",
        chunk: 65_536,
        timeout: 30_000_000_000,
        durability: Some(Durability::Aof),
        tls: None,
        spread: None,
    });
    let look = Look {
        uid: 0,
        gid: 0,
        mode: 0o644,
        ttl: Duration::ZERO,
        keep: false,
        read_only: false,
    };
    let volume = flat::Served::new(keys.unwrap(), 1000, look).unwrap();
    let volume: &'static flat::Served<Keys> = Box::leak(Box::new(volume));
    assert_eq!(flat_allocations(volume, 20), 0, "valkey, flat");
    assert_eq!(Backend::nodes(volume), 1, "every node was forgotten");
}
