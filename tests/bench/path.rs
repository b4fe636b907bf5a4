//! What one request costs between the taken chain and the published used entry: null backend, loopback, one core.
//!
//! ```text
//! cargo bench --bench path                         requests per second, and where the time goes
//! DPFS_BENCH_ONLY=kv cargo bench --bench path      the same path to the embedded key-value engine
//! DPFS_BENCH_ONLY=valkey cargo bench --bench path  and to a Valkey server of its own, beside a bare client
//! DPFS_BENCH_ONLY=names cargo bench --bench path   a directory of a million names, in both key-value engines
//! DPFS_BENCH_ONLY=nfs cargo bench --bench path     and to an NFS server of its own, beside a bare client and libnfs
//! DPFS_BENCH_ONLY=whole cargo bench --bench path   whole files of 4 KiB by every engine
//! tests/bench/instructions                         instructions per request, by callgrind
//! ```
//!
//! Driver and device take turns in one thread: `DEPTH` requests are made available, served in one round, reaped. The
//! device's part is [`serve`], which callgrind singles out; the time printed is of both parts.

#[expect(dead_code, reason = "the engine's own tests use all of it")]
#[path = "../valkey/cluster.rs"]
mod cluster;
#[expect(dead_code, reason = "the backend's own tests use all of it")]
#[path = "../nfs/fake/mod.rs"]
mod fake;
mod kv;
mod libnfs;
mod names;
mod nfs;
#[expect(dead_code, reason = "the backend's own tests use all of it")]
#[path = "../nfs/server.rs"]
mod nfs_server;
#[expect(dead_code, reason = "the engine's own tests use all of it")]
#[path = "../ramcloud/fake.rs"]
mod played;
mod rates;
#[expect(dead_code, reason = "the engine's own tests use all of it")]
#[path = "../valkey/server.rs"]
mod server;
mod stages;
mod valkey;
mod whole;

use std::time::Instant as Clock;

use dpfs::backend::null::{Config, Null};
use dpfs::fuse::{Dispatcher, FileSystem, Limits, Session, Volume};
use dpfs::hal::loopback::{self, FEATURES, Layout};
use dpfs::mem::{Finished, RequestTable};
use dpfs::runtime::{Lane, Load, Observer, Served, Worker};
use dpfs::sys::epoll::Epoll;
use dpfs::sys::map;
use dpfs::sys::time::Instant;
use dpfs::virtq::driver::{Buffer, Driver};
use dpfs::virtq::{MemoryMap, Region};
use dpfs::wire::fuse::{InHeader, InitIn, Opcode, ReadIn, WriteIn};
use dpfs::wire::open_flags::ClientArch;
use stages::{TimedNull, TimedQueue};
use zerocopy::{Immutable, IntoBytes};

/// Requests made available at a time.
const DEPTH: usize = 32;
const MEMORY: usize = 8 << 20;
/// Where requests and data lie, behind the queue.
const BUFFERS: u64 = 1 << 20;
/// Bytes for one request: header and arguments, reply header, then a page of data.
const STRIDE: u64 = 8192;
const PAGE: u64 = 4096;

/// Count, as the daemon does, but in memory of our own.
struct Count {
    requests: u64,
    latency: u64,
}

impl Observer for Count {
    fn finished(&mut self, finished: &Finished, now: u64) {
        assert_eq!(finished.error, 0);
        self.requests += 1;
        self.latency += now.wrapping_sub(finished.started);
    }

    fn round_ended(&mut self, _: Load) {}
}

fn readable(address: u64, len: u32) -> Buffer {
    Buffer {
        address,
        len,
        writable: false,
    }
}

fn writable(address: u64, len: u32) -> Buffer {
    Buffer {
        address,
        len,
        writable: true,
    }
}

struct Bench {
    driver: Driver,
    worker: Worker,
    base: *mut u8,
    /// Node of the file that is read and written, and number of its open file.
    node: u64,
    fh: u64,
    /// Bytes of its content that a request is about.
    size: u64,
    /// The time, for a backend that waits for something.
    now: fn() -> Instant,
    /// Where to sleep when there is nothing to do; `None` to look again.
    asleep: Option<Epoll>,
}

/// The device's part of the path; a name that callgrind can find.
#[inline(never)]
#[unsafe(no_mangle)]
fn dpfs_bench_serve(worker: &mut Worker, now: Instant) -> bool {
    worker.round(now)
}

impl Bench {
    /// Set up the path to the null backend; `timed` with notes of where the time goes.
    fn null(timed: bool) -> Self {
        let null = Null::new(Config {
            zero: false,
            ..Config::default()
        });
        let fs: &'static mut dyn FileSystem = if timed {
            Box::leak(Box::new(TimedNull))
        } else {
            Box::leak(Box::new(null))
        };
        let mut bench = Self::new(Box::leak(Box::new(null)), fs, timed);
        // It waits for nothing, so the time may stand still.
        bench.now = || Instant(1);
        bench
    }

    /// Set up the path to a backend.
    fn new(volume: &'static dyn Volume, fs: &'static mut dyn FileSystem, timed: bool) -> Self {
        let arena = map::reserve(MEMORY).unwrap();
        let memory = arena.zeroed::<u8>(MEMORY).unwrap();
        let base = memory.as_mut_ptr();
        // SAFETY: the memory lives for ever and is reached only through this pointer from here on.
        let region = unsafe { Region::new(0, base, MEMORY as u64) };
        let map: &'static MemoryMap = Box::leak(Box::new(MemoryMap::new(&[region]).unwrap()));
        let layout = Layout {
            address: 0,
            size: 128,
            features: FEATURES,
            indirect: 8,
        };
        // SAFETY: nothing else uses the memory in front of the buffers.
        let (queue, driver) = unsafe { loopback::queue(map, layout) }.unwrap();
        let tables = map::reserve(RequestTable::footprint(128) + Dispatcher::FOOTPRINT).unwrap();
        let table = RequestTable::new(&tables, 128, 0).unwrap();
        let session = Session::new(volume, Limits::default(), ClientArch::X86_64);
        let queue: &'static mut dyn Served = if timed {
            Box::leak(Box::new(TimedQueue(queue)))
        } else {
            Box::leak(Box::new(queue))
        };
        let worker = Worker::new(
            vec![Lane { queue, table }].leak(),
            vec![table].leak(),
            Dispatcher::new(Box::leak(Box::new(session)), &tables).unwrap(),
            fs,
            Box::leak(Box::new(Count {
                requests: 0,
                latency: 0,
            })),
            None,
        );
        Self {
            driver,
            worker,
            base,
            node: 2,
            fh: 0,
            size: PAGE,
            now: Instant::now,
            asleep: None,
        }
    }

    /// Sleep from now on while a backend waits, as a core does that polls adaptively, or do not.
    fn sleep(&mut self, sleeps: bool) {
        self.asleep = sleeps.then(|| {
            let set = Epoll::new().unwrap();
            self.worker.wait_fds(&mut |fd| set.add(fd, 0).unwrap());
            set
        });
    }

    /// Lay out a request at a place and describe it as Linux does: header and arguments in buffers of their own.
    fn put(
        &self,
        place: u64,
        opcode: Opcode,
        args: &(impl IntoBytes + Immutable),
        data: u32,
    ) -> Vec<Buffer> {
        let (header_len, args) = (size_of::<InHeader>(), args.as_bytes());
        let header = InHeader {
            len: (header_len + args.len()) as u32 + data,
            opcode: opcode as u32,
            unique: place,
            nodeid: self.node,
            ..InHeader::default()
        };
        let bytes = [header.as_bytes(), args].concat();
        // SAFETY: `place` is one of DEPTH strides behind the queue, within the memory.
        unsafe {
            self.base
                .add(place as usize)
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
        vec![
            readable(place, header_len as u32),
            readable(place + header_len as u64, args.len() as u32),
        ]
    }

    fn mount(&mut self) {
        let init = self.requests(Opcode::INIT);
        self.batch(&init[..1]);
    }

    /// Let the device do what it can.
    fn round(&mut self) {
        let worked = dpfs_bench_serve(&mut self.worker, (self.now)());
        if !worked && let Some(set) = &self.asleep {
            set.wait(1, |_| ()).unwrap();
        }
    }

    /// Make a batch available, serve it, reap it.
    fn batch(&mut self, buffers: &[Vec<Buffer>]) {
        for chain in buffers {
            self.driver
                .add(chain)
                .expect("the ring is larger than a batch");
        }
        self.driver.publish();
        self.round();
        for _ in buffers {
            let used = self.driver.reap().expect("served in one round");
            assert!(used.written >= 16);
        }
    }

    fn requests(&self, opcode: Opcode) -> Vec<Vec<Buffer>> {
        (0..DEPTH as u64)
            .map(|number| {
                let place = BUFFERS + number * STRIDE;
                let (reply, page) = (place + 2048, place + PAGE);
                match opcode {
                    Opcode::READ => {
                        let args = ReadIn {
                            size: PAGE as u32,
                            ..ReadIn::default()
                        };
                        let mut chain = self.put(place, opcode, &args, 0);
                        chain.extend([writable(reply, 16), writable(page, PAGE as u32)]);
                        chain
                    }
                    Opcode::WRITE => {
                        let args = WriteIn {
                            size: PAGE as u32,
                            ..WriteIn::default()
                        };
                        let mut chain = self.put(place, opcode, &args, PAGE as u32);
                        chain.push(readable(page, PAGE as u32));
                        chain.extend([writable(reply, 16), writable(reply + 16, 8)]);
                        chain
                    }
                    _ => {
                        let args = InitIn {
                            major: 7,
                            minor: 45,
                            ..InitIn::default()
                        };
                        let mut chain = self.put(place, opcode, &args, 0);
                        chain.extend([writable(reply, 16), writable(reply + 16, 64)]);
                        chain
                    }
                }
            })
            .collect()
    }
}

fn main() {
    // Fewer under callgrind, which is a hundred times slower and needs no repetition.
    let batches: u32 =
        std::env::var("DPFS_BENCH_BATCHES").map_or(200_000, |text| text.parse().unwrap());
    let only = std::env::var("DPFS_BENCH_ONLY").unwrap_or_default();
    let mut bench = Bench::null(false);
    bench.mount();
    for opcode in [Opcode::READ, Opcode::WRITE] {
        if !only.is_empty() && only != opcode.name() {
            continue;
        }
        let requests = bench.requests(opcode);
        let start = Clock::now();
        for _ in 0..batches {
            bench.batch(&requests);
        }
        let count = u64::from(batches) * DEPTH as u64;
        let rate = count as f64 / start.elapsed().as_secs_f64() / 1e6;
        println!(
            "{:5} 4 KiB: {count} requests, {rate:.2} million/s",
            opcode.name()
        );
    }
    if only.is_empty() || only == "kv" {
        kv::run(batches / 20);
    }
    // These take a server, so they are asked for.
    match only.as_str() {
        "valkey" => valkey::run(),
        "names" => names::run(),
        "nfs" => nfs::run(),
        "whole" => whole::run(),
        _ => {}
    }
    if !only.is_empty() {
        return;
    }
    let mut bench = Bench::null(true);
    bench.mount();
    for opcode in [Opcode::READ, Opcode::WRITE] {
        let requests = bench.requests(opcode);
        stages::forget();
        for _ in 0..batches {
            bench.batch(&requests);
        }
        stages::print(opcode.name(), u64::from(batches) * DEPTH as u64);
    }
}
