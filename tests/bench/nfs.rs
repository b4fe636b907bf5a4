//! The same path to the `nfs` backend, beside a bare client of one connection that asks the same server for the same
//! bytes: READ and WRITE of 4 KiB at random places of a file of 64 MiB.
//!
//! The bare client has one fixed COMPOUND for each slot and looks at nothing of the answers but their number and status:
//! no file system, no host's memory, no recovery. Then libnfs, by its asynchronous interface ([`super::libnfs`]); and 1 MiB
//! at a time, in order, of a file of 1 GiB. Server, device and driver share this machine's cores.

use std::io::{IoSlice, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant as Clock;

use dpfs::backend::nfs::served::{self, Config};
use dpfs::backend::nfs::{Cache, NfsVolume, Options};
use dpfs::wire::fuse::Opcode;
use dpfs::wire::nfs4::{
    Call, ChannelSize, Compound, Handle, Results, SessionId, StateId, Status, op,
};
use dpfs::wire::rpc::{self, Credentials, MARK_LEN, Message};

use super::fake::Fake;
use super::fake::network::THREADS;
use super::libnfs::Libnfs;
use super::nfs_server::{EXPORT, Ganesha, Manner};
use super::rates::{FILE, Places, Run};
use super::{Bench, PAGE};

/// Name of the file.
const NAME: &str = "file";
const MIB: u64 = 1 << 20;
/// Bytes of a call or an answer with as much content.
const ROOM: u32 = (1 << 20) + 4096;
/// Bytes of the file that is read and written in order.
const LARGE: u64 = 1 << 30;
const MACHINE: Credentials = Credentials::Sys {
    uid: 0,
    gid: 0,
    group: None,
};

/// Say how to reach the server at a port of this machine.
pub fn config(port: u16) -> Config {
    Config {
        servers: vec!["127.0.0.1".into()],
        port,
        export: EXPORT.into(),
        minor: Some(1),
        options: Options {
            connections: 1,
            soft: false,
            timeo: 60_000_000_000,
            retrans: 2,
            reserved_port: false,
            cache: Cache::Auto,
            read_only: false,
            anonymous: false,
            server_locks: true,
            uncommitted: 32 << 20,
        },
        owners: Vec::new(),
        groups: Vec::new(),
        tls: None,
        referrals: Vec::new(),
        limits: (1 << 17, 1 << 10),
        watches: 0,
        device: "bench".into(),
    }
}

/// A client that does as little as a client can.
struct Bare {
    stream: TcpStream,
    session: SessionId,
    /// Numbers of the slots' next calls.
    sequences: Vec<u32>,
    file: Handle,
    came: Vec<u8>,
    have: usize,
}

/// Begin a call.
fn compound(buffer: &mut [u8]) -> Compound<'_> {
    Compound::new(buffer, 1, b"", &MACHINE)
}

impl Bare {
    /// Be a client of this name.
    fn connect(port: u16, path: &[&str], name: &str, slots: usize) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut bare = Self {
            stream,
            session: [0; 16],
            sequences: vec![1; slots],
            file: Handle::EMPTY,
            came: vec![0; 8 << 20],
            have: 0,
        };
        let boot = std::process::id().to_be_bytes();
        let verifier = [boot, *b"bare"].concat().try_into().unwrap();
        let channel = ChannelSize {
            max_request: ROOM,
            max_response: ROOM,
            max_cached: 4096,
            max_operations: 16,
            max_requests: slots as u32,
        };
        let (client, number) = bare.ask(
            |call| call.exchange_id(&verifier, name.as_bytes()),
            |results| {
                results
                    .exchange_id()
                    .unwrap()
                    .map(|known| (known.client, known.sequence))
            },
        );
        bare.session = bare.ask(
            |call| call.create_session(client, number, false, &channel, &channel),
            |results| results.create_session().unwrap().map(|made| made.session),
        );
        bare.ask(
            |call| call.sequence(true).reclaim_complete(),
            |results| {
                results.sequence().unwrap()?;
                results.step(op::RECLAIM_COMPLETE).unwrap()
            },
        );
        bare.file = bare.ask(
            |call| {
                let mut call = call.sequence(false).putrootfh();
                for name in path {
                    call = call.lookup(name.as_bytes());
                }
                call.getfh()
            },
            |results| {
                results.sequence().unwrap()?;
                results.step(op::PUTROOTFH).unwrap()?;
                for _ in path {
                    results.step(op::LOOKUP).unwrap()?;
                }
                results.getfh().unwrap()
            },
        );
        bare
    }

    /// Ask one thing in slot 0 and wait for the answer.
    fn ask<T>(
        &mut self,
        write: impl FnOnce(Compound<'_>) -> Compound<'_>,
        read: impl FnOnce(&mut Results<'_>) -> Result<T, Status>,
    ) -> T {
        let mut buffer = vec![0; 4096];
        let call = write(compound(&mut buffer)).finish(0).unwrap();
        call.set_sequence(&mut buffer, &self.session, self.sequences[0], 0, 0);
        self.stream.write_all(&buffer[..call.len]).unwrap();
        let mut read = Some(read);
        let mut answer = None;
        while answer.is_none() {
            self.receive(|_, results| {
                let read = read.take().expect("one answer");
                answer = Some(read(results).expect("an operation that succeeds"));
            });
        }
        // Only calls of a session have a number in its slot.
        if self.session != [0; 16] && buffer[..call.len].windows(16).any(|at| at == self.session) {
            self.sequences[0] += 1;
        }
        answer.unwrap()
    }

    /// Take what has come: the number of each answer's call, and its results.
    fn receive(&mut self, mut answer: impl FnMut(u32, &mut Results<'_>)) {
        self.have += self.stream.read(&mut self.came[self.have..]).unwrap();
        let mut at = 0;
        while let Some(mark) = self.came[at..self.have].first_chunk::<MARK_LEN>() {
            let (len, _) = rpc::parse_mark(*mark);
            let Some(record) = self.came[at + MARK_LEN..self.have].get(..len) else {
                break;
            };
            let Ok(Message::Reply {
                xid,
                outcome: Ok(input),
            }) = rpc::parse(record)
            else {
                panic!("no answer");
            };
            answer(xid, &mut Results::new(input).unwrap());
            at += MARK_LEN + len;
        }
        self.came.copy_within(at..self.have, 0);
        self.have -= at;
    }

    /// Keep `depth` calls under way.
    fn measure(&mut self, run: Run<'_>, read: bool) {
        let depth = run.depth;
        let size = run.places.size;
        let value = vec![7u8; size as usize];
        let mut calls: Vec<(Vec<u8>, Call)> = (0..depth)
            .map(|_| (vec![0; 512], Call::default()))
            .collect();
        let mut since = vec![None; depth];
        let mut places = run.places;
        let mut latencies = Vec::with_capacity(1 << 20);
        loop {
            let now = Clock::now();
            let mut begun = Vec::with_capacity(depth);
            if run.goes_on() {
                for slot in (0..depth).filter(|slot| since[*slot].is_none()) {
                    let (buffer, call) = &mut calls[slot];
                    let place = places.next_place();
                    let compound = compound(buffer).sequence(false).putfh(&self.file);
                    let (compound, payload) = if read {
                        (compound.read(place, size as u32), 0)
                    } else {
                        (compound.write(place, 0, size as u32), size as usize)
                    };
                    *call = compound.finish(payload).unwrap();
                    Call::set_xid(buffer, slot as u32);
                    call.set_sequence(
                        buffer,
                        &self.session,
                        self.sequences[slot],
                        slot as u32,
                        depth as u32 - 1,
                    );
                    call.set_stateid(buffer, &StateId::ANONYMOUS);
                    begun.push(slot);
                }
            }
            let mut pieces = Vec::with_capacity(2 * depth);
            for &slot in &begun {
                since[slot] = Some(now);
                let (buffer, call) = &calls[slot];
                pieces.push(IoSlice::new(&buffer[..call.len]));
                if !read {
                    pieces.push(IoSlice::new(&value));
                }
            }
            let mut pieces = &mut pieces[..];
            while !pieces.is_empty() {
                let count = self.stream.write_vectored(pieces).unwrap();
                IoSlice::advance_slices(&mut pieces, count);
            }
            if since.iter().all(Option::is_none) {
                break;
            }
            let mut answered = Vec::with_capacity(depth);
            self.receive(|xid, results| {
                assert!(results.status().is_ok());
                answered.push(xid as usize);
            });
            for slot in answered {
                self.sequences[slot] += 1;
                let since: Clock = since[slot].take().expect("its own");
                latencies.push(since.elapsed().as_secs_f32() * 1e6);
            }
        }
        run.report_content(read, latencies);
    }
}

/// Give the seconds that a process has worked.
fn work(pid: u32) -> f64 {
    work_in(Path::new(&format!("/proc/{pid}/stat")))
}

fn work_in(stat: &Path) -> f64 {
    let stat = std::fs::read_to_string(stat).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    // utime and stime, in hundredths of a second on every architecture of Linux.
    fields[11..13]
        .iter()
        .map(|ticks| ticks.parse::<f64>().unwrap())
        .sum::<f64>()
        / 100.0
}

/// Give the seconds that this program's threads of a name have worked.
fn work_of_threads(name: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stat = |task: std::io::Result<std::fs::DirEntry>| {
        let path = task.unwrap().path();
        let comm = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        (comm.trim_end() == name).then(|| work_in(&path.join("stat")))
    };
    tasks.filter_map(stat).sum()
}

/// Make a bench whose file is there and written.
fn prepared(config: &Config) -> Bench {
    let volume: &'static NfsVolume = served::open(config).unwrap();
    let client = volume.attach(128).unwrap();
    let mut bench = Bench::new(volume, Box::leak(Box::new(client)), false);
    bench.mount();
    bench.make_file(NAME);
    let mut page = 0;
    bench.keep(32, |bench, slot| {
        page += 1;
        (page <= FILE / PAGE).then(|| bench.content(slot, Opcode::WRITE, (page - 1) * PAGE))
    });
    bench
}

/// Measure with one file.
pub fn run() {
    respond();
    let server = Ganesha::start(Manner {
        minor: 1,
        // One of two mounts is not polled while the other is measured.
        lease: 60,
        ..Manner::default()
    });
    let mut ways = Ways::new(config(server.port));
    let (pid, libnfs) = (server.pid(), Libnfs::new());
    let path = [EXPORT.trim_start_matches('/'), NAME];
    let mut all = |depth: usize, places: Places| {
        for opcode in [Opcode::READ, Opcode::WRITE] {
            let read = opcode == Opcode::READ;
            let name = format!("bench {depth} {} {}", places.size, opcode.name());
            let mut worked = || work(pid);
            Bare::connect(server.port, &path, &name, depth).measure(
                Run::start("nfs", &mut worked, "bare client", depth).at(places),
                read,
            );
            libnfs.measure(
                Run::start("nfs", &mut worked, "libnfs", depth).at(places),
                server.port,
                NAME,
                read,
            );
            ways.measure("nfs", &mut worked, depth, places, opcode);
        }
    };
    for depth in [1, 16, 32] {
        all(depth, Places::RANDOM);
    }
    // What was read is kept by the server, so a file as large as a guest would copy.
    std::fs::OpenOptions::new()
        .write(true)
        .open(server.path(NAME))
        .unwrap()
        .set_len(LARGE)
        .unwrap();
    all(4, Places::in_order(MIB, LARGE));
}

/// Measure with a server in this program that does little but answer.
fn respond() {
    let server = Fake::start();
    let mut config = config(server.port);
    config.export = "/".into();
    let mut ways = Ways::new(config);
    for depth in [1, 32] {
        for opcode in [Opcode::READ, Opcode::WRITE] {
            let name = format!("bench {depth} {}", opcode.name());
            let mut worked = || work_of_threads(THREADS);
            let run = Run::start("responder", &mut worked, "bare client", depth);
            Bare::connect(server.port, &[NAME], &name, depth).measure(run, opcode == Opcode::READ);
            // The thread of that connection ends, and its time with it.
            std::thread::sleep(std::time::Duration::from_millis(50));
            ways.measure("responder", &mut worked, depth, Places::RANDOM, opcode);
        }
    }
}

/// DPFS in the ways in which it can wait.
struct Ways {
    /// Which asks its connection.
    asks: Bench,
    /// Which is told by a ring.
    told: Bench,
}

impl Ways {
    /// Mount twice, as two devices.
    fn new(config: Config) -> Self {
        let told = Config {
            watches: 1,
            device: "bench, told".into(),
            ..config.clone()
        };
        Self {
            asks: prepared(&config),
            told: prepared(&told),
        }
    }

    fn measure(
        &mut self,
        server: &str,
        worked: &mut dyn FnMut() -> f64,
        depth: usize,
        places: Places,
        opcode: Opcode,
    ) {
        for (told, sleeps, who) in [
            (false, false, "dpfs"),
            (true, false, "dpfs, told by a ring"),
            (false, true, "dpfs, asleep while it waits"),
        ] {
            let bench = if told { &mut self.told } else { &mut self.asks };
            bench.sleep(sleeps);
            bench.timed(Run::start(server, worked, who, depth).at(places), opcode);
        }
    }
}
