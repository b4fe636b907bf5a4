//! Whole files of 4 KiB by every engine, as table 3 of the paper has it (OPEN, READ or WRITE, FLUSH, RELEASE), and 4 KiB at
//! random places of a file of 64 MiB: beside them the `nfs` backend on nfs-ganesha.
//!
//! RAMCloud is the cluster that the tests play, in threads of this program: its rows say what the client costs, not what
//! RAMCloud does. Servers, device and driver share this machine's cores.

use std::time::Instant as Clock;

use dpfs::backend::kv::embedded;
use dpfs::backend::kv::flat::{Look, served as flat};
use dpfs::backend::kv::ramcloud::server as ramcloud;
use dpfs::backend::kv::served::{self as tree, ALWAYS, EmbeddedVolume, Served};
use dpfs::backend::kv::valkey::objects::server::Keys;
use dpfs::backend::kv::valkey::server::{Config, Place, Server as Store};
use dpfs::backend::nfs::served;
use dpfs::fuse::{FileSystem, Volume};
use dpfs::virtq::driver::Buffer;
use dpfs::wire::fuse::{FlushIn, Opcode, OpenIn, ReleaseIn};

use super::cluster::Cluster;
use super::nfs_server::{Ganesha, Manner};
use super::played::Cluster as Played;
use super::rates::{FILE, Run};
use super::server::Server;
use super::{BUFFERS, Bench, PAGE, STRIDE, nfs, writable};

/// Files that are opened one after another.
const FILES: usize = 1000;

/// Where a slot is in its file.
#[derive(Clone)]
struct Slot {
    step: usize,
    node: u64,
    fh: u64,
    begun: Clock,
}

impl Bench {
    /// Lay out a request about a file without content.
    fn about(&self, slot: u64, opcode: Opcode) -> Vec<Buffer> {
        let (place, fh) = (BUFFERS + slot * STRIDE, self.fh);
        let reply = writable(place + 2048, 16);
        match opcode {
            Opcode::OPEN => {
                let args = OpenIn {
                    flags: 2,
                    ..OpenIn::default()
                };
                let mut chain = self.put(place, opcode, &args, 0);
                chain.extend([reply, writable(place + 2064, 16)]);
                chain
            }
            Opcode::FLUSH => {
                let args = FlushIn {
                    fh,
                    ..FlushIn::default()
                };
                let mut chain = self.put(place, opcode, &args, 0);
                chain.push(reply);
                chain
            }
            _ => {
                let args = ReleaseIn {
                    fh,
                    flags: 2,
                    ..ReleaseIn::default()
                };
                let mut chain = self.put(place, opcode, &args, 0);
                chain.push(reply);
                chain
            }
        }
    }

    /// Make the files, each with a page.
    fn make_files(&mut self) -> Vec<u64> {
        let make = |number| {
            self.make_file(&format!("whole-{number}"));
            let written = self.content(0, Opcode::WRITE, 0);
            self.serve(&[written]);
            let released = self.about(0, Opcode::RELEASE);
            self.serve(&[released]);
            self.node
        };
        (0..FILES).map(make).collect()
    }

    /// Have one file after another opened, read or written, flushed and released, so many at a time.
    fn whole(&mut self, run: Run<'_>, files: &[u64], opcode: Opcode) {
        let steps = [Opcode::OPEN, opcode, Opcode::FLUSH, Opcode::RELEASE];
        let idle = Slot {
            step: steps.len(),
            node: 0,
            fh: 0,
            begun: Clock::now(),
        };
        let mut slots = vec![idle; run.depth];
        let mut latencies = Vec::with_capacity(1 << 20);
        let mut next = files.iter().cycle();
        self.keep(run.depth, |bench, number| {
            let slot = &mut slots[number as usize];
            match slot.step {
                1 => slot.fh = bench.replied(number, 0),
                4 if slot.node != 0 => latencies.push(slot.begun.elapsed().as_secs_f32() * 1e6),
                _ => {}
            }
            if slot.step == steps.len() {
                slot.node = 0;
                if !run.goes_on() {
                    return None;
                }
                (slot.step, slot.begun, slot.node) = (0, Clock::now(), *next.next()?);
            }
            let step = steps[slot.step];
            slot.step += 1;
            (bench.node, bench.fh) = (slot.node, slot.fh);
            Some(match step {
                Opcode::READ | Opcode::WRITE => bench.content(number, step, 0),
                _ => bench.about(number, step),
            })
        });
        let what = format!("OPEN, {} 4 KiB, FLUSH, RELEASE", opcode.name());
        run.report(&what, latencies);
    }
}

/// Measure with a file system that is there; `random` is where content is not a whole object.
fn measure(who: &str, volume: &'static dyn Volume, fs: &'static mut dyn FileSystem, random: bool) {
    let mut bench = Bench::new(volume, fs, false);
    bench.mount();
    let files = bench.make_files();
    let mut unknown = || 0.0;
    for depth in [1, 32] {
        for opcode in [Opcode::READ, Opcode::WRITE] {
            bench.whole(
                Run::start("whole", &mut unknown, who, depth),
                &files,
                opcode,
            );
        }
    }
    if !random {
        return;
    }
    bench.make_file("large");
    let mut page = 0;
    bench.keep(32, |bench, slot| {
        page += 1;
        (page <= FILE / PAGE).then(|| bench.content(slot, Opcode::WRITE, (page - 1) * PAGE))
    });
    for depth in [1, 32] {
        for opcode in [Opcode::READ, Opcode::WRITE] {
            bench.timed(Run::start("random", &mut unknown, who, depth), opcode);
        }
    }
}

fn leak<T>(value: T) -> &'static mut T {
    Box::leak(Box::new(value))
}

fn config<'a>(places: &'a [Place], volume: &'a str) -> Config<'a> {
    Config {
        places,
        user: None,
        password_file: None,
        volume,
        chunk: 64 << 10,
        timeout: 60_000_000_000,
        durability: None,
        tls: None,
        spread: None,
    }
}

/// Measure the tree on a server or a cluster.
fn valkey(who: &str, places: &[Place]) {
    let store = Store::open(&config(places, "v")).unwrap();
    let served = &*leak(Served::new(store, 1 << 17, ALWAYS, false).unwrap());
    measure(who, served, leak(served.attach(256).unwrap()), true);
}

const LOOK: Look = Look {
    uid: 0,
    gid: 0,
    mode: 0o644,
    ttl: ALWAYS,
    keep: true,
    read_only: false,
};

/// Measure one after another.
pub fn run() {
    let embedded = EmbeddedVolume::open(&tree::Config {
        store: embedded::Config {
            path: None,
            chunk: 64 << 10,
            cache: 1 << 30,
        },
        nodes: 1 << 17,
        read_only: false,
    });
    let embedded = &*leak(embedded.unwrap());
    measure(
        "tree, embedded",
        embedded,
        leak(embedded.attach(256).unwrap()),
        true,
    );

    let server = Server::start("valkey", &[]);
    valkey("tree, Valkey", &[server.place()]);
    let keys = Keys::open(&config(&[server.place()], "")).unwrap();
    let served = &*leak(flat::Served::new(keys, 1 << 17, LOOK).unwrap());
    measure(
        "flat, Valkey",
        served,
        leak(served.attach(256).unwrap()),
        true,
    );
    drop(server);

    let cluster = Cluster::start("valkey", &[]);
    let places: Vec<_> = cluster.nodes.iter().map(Server::place).collect();
    valkey("tree, Valkey cluster of six nodes", &places);
    drop(cluster);

    let cluster = Played::start(3);
    let table = ramcloud::Server::open(&ramcloud::Config {
        coordinator: ("127.0.0.1".into(), cluster.port),
        table: "files".into(),
        span: 3,
        timeout: 60_000_000_000,
    });
    let served = &*leak(flat::Served::new(table.unwrap(), 1 << 17, LOOK).unwrap());
    measure(
        "flat, RAMCloud as the tests play it",
        served,
        leak(served.attach(256).unwrap()),
        false,
    );
    drop(cluster);

    let server = Ganesha::start(Manner {
        minor: 1,
        lease: 60,
        ..Manner::default()
    });
    let volume = served::open(&nfs::config(server.port)).unwrap();
    measure(
        "nfs, nfs-ganesha",
        volume,
        leak(volume.attach(128).unwrap()),
        true,
    );
}
