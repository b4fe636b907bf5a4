//! WRITEs of one file: they go together and without a function, and each is done once all the same.
//!
//! Each WRITE adds one to a number in the inode, so the number says how many were done.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use dpfs::backend::kv::engine::{
    Check, Client, Done, Engine, Expect, Failure, Key, Op, Patch, Record, Token, Write,
};
use dpfs::backend::kv::valkey::Valkey;
use dpfs::mem::Segment;
use dpfs::sys::time::Instant;

use crate::cluster::{Cluster, PRIMARIES};
use crate::durable::calls;
use crate::engine::{CHUNK, attach, attach_to};
use crate::failover::in_cluster;
use crate::migration::Move;
use crate::proxy::Proxy;
use crate::server::{KINDS, Reply, Server};

const INO: u64 = 1 << 40;
/// Where the number is that each WRITE adds to, and one that something else does.
const COUNT: u16 = 8;
const OTHER: u16 = 16;
/// Bytes of the file.
const SIZE: usize = 4 * CHUNK as usize;

/// A WRITE under way: where it is to, its bytes, and how it ended.
struct Slot {
    offset: usize,
    bytes: Vec<u8>,
    segments: Vec<Segment>,
    result: Option<Result<Done, Failure>>,
}

/// Take what operations bring.
#[derive(Default)]
struct Host {
    slots: Vec<Option<Slot>>,
    value: Vec<u8>,
    read: Vec<Segment>,
    result: Option<Result<Done, Failure>>,
}

/// Token of what is no WRITE.
const ALONE: Token = Token(1 << 20);

impl Client for Host {
    fn record(&mut self, _: Token, record: Record<'_>) {
        self.value = record.value.to_vec();
    }

    fn buffers(&self, _: Token) -> &[Segment] {
        &self.read
    }

    fn payload(&self, token: Token) -> &[Segment] {
        &self.slots[token.0 as usize].as_ref().unwrap().segments
    }

    fn done(&mut self, token: Token, result: Result<Done, Failure>) {
        let place = match token {
            ALONE => &mut self.result,
            _ => &mut self.slots[token.0 as usize].as_mut().unwrap().result,
        };
        assert!(place.replace(result).is_none(), "ended twice");
    }
}

/// One who writes to the file.
struct Writer {
    engine: Valkey,
    host: Host,
    random: u64,
    /// What the file has, as far as this one wrote it.
    model: Vec<u8>,
    /// Nanoseconds by which this one's clock is ahead.
    ahead: u64,
}

impl Writer {
    fn new(engine: Valkey) -> Self {
        Self {
            engine,
            host: Host::default(),
            random: 1,
            model: vec![0; SIZE],
            ahead: 0,
        }
    }

    /// As [`Self::new`], and the file is made.
    fn first(engine: Valkey) -> Self {
        let mut this = Self::new(engine);
        let writes = [Write::Put(Key::Inode(INO), &[0; 24])];
        this.transact(&writes).unwrap();
        this
    }

    fn now(&self) -> Instant {
        Instant::now().after(self.ahead)
    }

    fn poll(&mut self) {
        let now = self.now();
        self.engine.poll(now, &mut self.host);
    }

    fn alone(&mut self, op: &Op<'_>) -> Result<Done, Failure> {
        while self.engine.submit(ALONE, op, &mut self.host).is_err() {
            self.poll();
        }
        while self.host.result.is_none() {
            self.poll();
        }
        self.host.result.take().unwrap()
    }

    fn transact(&mut self, writes: &[Write<'_>]) -> Result<Done, Failure> {
        let checks: &[Check<'_>] = &[];
        self.alone(&Op::Transact { checks, writes })
    }

    fn random(&mut self, below: usize) -> usize {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.random >> 33) as usize % below
    }

    /// Write so many times, with so many WRITEs under way; gives how many were done. All others must have failed so.
    fn write(&mut self, count: usize, depth: usize, fails: Failure) -> u64 {
        let (mut left, mut ended, mut done) = (count, 0, 0);
        self.host.slots.clear();
        self.host.slots.resize_with(depth, || None);
        while ended < count {
            for place in 0..depth {
                if left > 0 && self.host.slots[place].is_none() && self.begin(place) {
                    left -= 1;
                }
            }
            self.poll();
            for place in 0..depth {
                let slot = self.host.slots[place].take_if(|slot| slot.result.is_some());
                if let Some(slot) = slot {
                    ended += 1;
                    match slot.result.unwrap() {
                        Ok(Done::Done) => {
                            done += 1;
                            self.model[slot.offset..][..slot.bytes.len()]
                                .copy_from_slice(&slot.bytes);
                        }
                        other => assert_eq!(other, Err(fails)),
                    }
                }
            }
        }
        done
    }

    /// Begin a WRITE; false when there is no room, or one under way is to the same place.
    fn begin(&mut self, place: usize) -> bool {
        let len = 1 + self.random(200);
        // Most lie in one chunk, and some do not.
        let offset = self.random(SIZE - len);
        let overlaps =
            |slot: &Slot| slot.offset < offset + len && offset < slot.offset + slot.bytes.len();
        if self.host.slots.iter().flatten().any(overlaps) {
            return false;
        }
        let seed = self.random(256) as u8;
        let mut bytes: Vec<u8> = (0..len).map(|at| seed.wrapping_add(at as u8)).collect();
        let segments = bytes
            .chunks_mut(77)
            // SAFETY: the bytes live in the slot as long as the segments, and are only read until the WRITE ended.
            .map(|piece| unsafe { Segment::new(piece.as_mut_ptr(), piece.len()) })
            .collect();
        self.host.slots[place] = Some(Slot {
            offset,
            bytes,
            segments,
            result: None,
        });
        let op = Op::Write {
            ino: INO,
            offset: offset as u64,
            len: len as u32,
            expect: Expect::Present,
            patches: &[Patch::Add64 {
                at: COUNT,
                value: 1,
            }],
        };
        let taken = self.engine.submit(Token(place as u64), &op, &mut self.host);
        if taken.is_err() {
            self.host.slots[place] = None;
        }
        taken.is_ok()
    }

    /// Give a number in the inode, and what the file has.
    fn read(&mut self, at: u16) -> (u64, Vec<u8>) {
        let mut bytes = vec![1; SIZE];
        // SAFETY: the bytes live as long as the segment, and are not looked at before the READ ended.
        self.host.read = vec![unsafe { Segment::new(bytes.as_mut_ptr(), SIZE) }];
        let op = Op::Read {
            ino: INO,
            offset: 0,
            len: SIZE as u32,
        };
        self.alone(&op).unwrap();
        let field = &self.host.value[at.into()..][..8];
        (u64::from_le_bytes(field.try_into().unwrap()), bytes)
    }

    /// Hold what is there against what was done.
    fn is_there(&mut self, count: u64) {
        let (found, bytes) = self.read(COUNT);
        assert_eq!(found, count);
        assert!(bytes == self.model, "the content is another");
    }
}

/// Give how often a server did what the WRITEs of one file need: calls of functions, transactions, pieces of content.
fn done(server: &Server) -> [u64; 3] {
    ["fcall", "exec", "setrange"].map(|command| calls(server, command))
}

#[test]
fn writes_of_one_file_go_without_a_function_and_together() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        let mut writer = Writer::first(attach(&server.place(), "v"));
        for (depth, transactions) in [(1, 700..1000), (16, 30..200)] {
            let before = done(&server);
            assert_eq!(writer.write(1000, depth, Failure::Broken), 1000);
            let [calls, execs, _] = [0, 1, 2].map(|what| done(&server)[what] - before[what]);
            // Those that do not lie in one chunk go by the function, and the one or two behind each.
            assert!(transactions.contains(&execs), "{kind}, {depth}: {execs}");
            assert!(calls < 250, "{kind}, {depth}: {calls}");
        }
        writer.is_there(2000);
    }
}

#[test]
fn what_is_kept_is_what_the_function_would_keep() {
    for kind in KINDS {
        let kept = [&b"+@all"[..], b"-multi"].map(|may| {
            let server = Server::start(kind, &[]);
            let mut connection = server.connect();
            connection.ask(&[b"ACL", b"SETUSER", b"default", may]);
            let mut writer = Writer::first(attach(&server.place(), "v"));
            writer.write(100, 1, Failure::Broken);
            let inode = connection.ask(&[b"GET", &[&b"{v}\0"[..], &INO.to_be_bytes()].concat()]);
            let Reply::Elements(keys) = connection.ask(&[b"KEYS", b"{v}s*"]) else {
                panic!("no keys");
            };
            // Who opened the volume has one, too.
            let mut records: Vec<_> = (keys.iter())
                .map(|key| match key {
                    Reply::Bytes(key) => connection.ask(&[b"GET", key]),
                    other => panic!("{other:?}"),
                })
                .map(|record| format!("{record:?}"))
                .collect();
            records.sort();
            (calls(&server, "multi") > 0, inode, records)
        });
        assert_eq!((kept[0].0, kept[1].0), (true, false), "{kind}");
        assert_eq!((&kept[0].1, &kept[0].2), (&kept[1].1, &kept[1].2), "{kind}");
    }
}

#[test]
fn who_comes_between_is_not_written_over_and_costs_nothing_but_time() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        let place = server.place();
        let mut writer = Writer::first(attach(&place, "v"));
        let stop = AtomicBool::new(false);
        let mut others = 0;
        let mut written = 0;
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let mut other = Writer::new(attach(&place, "v"));
                let patches = [Patch::Add64 {
                    at: OTHER,
                    value: 1,
                }];
                let mut count = 0;
                while !stop.load(Ordering::SeqCst) {
                    let writes = [Write::Patch(Key::Inode(INO), &patches)];
                    other.transact(&writes).unwrap();
                    count += 1;
                    thread::sleep(Duration::from_micros(count % 7 * 300));
                }
                count
            });
            for depth in [1, 16, 1, 16] {
                written += writer.write(5000, depth, Failure::Broken);
            }
            stop.store(true, Ordering::SeqCst);
            others = other.join().unwrap();
        });
        assert_eq!(written, 20_000);
        writer.is_there(20_000);
        assert_eq!(writer.read(OTHER).0, others, "{kind}");
        // A transaction that is done, and the function of a WRITE, put the records with one MSET.
        let raced = done(&server)[0] + done(&server)[1] - others - calls(&server, "mset");
        assert!(raced > 20, "{kind}: {raced}");
        // Content of a transaction behind one that came to nothing was sent by then. Each watch tries to discard nothing.
        let discarded = calls(&server, "discard") - calls(&server, "unwatch");
        assert!(discarded > 10, "{kind}: {discarded}");
    }
}

#[test]
fn two_who_write_to_one_file_each_do_so_once() {
    let server = Server::start(KINDS[0], &[]);
    let place = server.place();
    let mut one = Writer::first(attach(&place, "v"));
    let both = |writer: &mut Writer| {
        writer.write(3000, 1, Failure::Broken) + writer.write(5000, 9, Failure::Broken)
    };
    let written = thread::scope(|scope| {
        let other = scope.spawn(|| both(&mut Writer::new(attach(&place, "v"))));
        both(&mut one) + other.join().unwrap()
    });
    assert_eq!(one.read(COUNT).0, written);
}

#[test]
fn connections_that_break_within_a_transaction_have_it_done_once() {
    for depth in [1, 8] {
        let server = Server::start(KINDS[0], &[]);
        let proxy = Proxy::new(&server.place());
        let mut writer = Writer::first(attach(proxy.place(), "v"));
        proxy.cut_within(60_000);
        server
            .connect()
            .ask(&[b"CLIENT", b"KILL", b"TYPE", b"NORMAL"]);
        let mut count = 0;
        while proxy.connections() < 100 {
            count += writer.write(50, depth, Failure::Broken);
        }
        proxy.cut_within(0);
        server
            .connect()
            .ask(&[b"CLIENT", b"KILL", b"TYPE", b"NORMAL"]);
        writer.is_there(count);
        assert!(done(&server)[1] > 50, "{:?}", done(&server));
    }
}

#[test]
fn a_server_that_is_killed_within_a_transaction_has_it_done_once() {
    let mut server = Server::start(
        KINDS[0],
        &["--appendonly", "yes", "--appendfsync", "always"],
    );
    let mut writer = Writer::first(attach(&server.place(), "v"));
    let stop = AtomicBool::new(false);
    let count = thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..5 {
                thread::sleep(Duration::from_millis(200));
                server.kill();
                server.start_again();
            }
            stop.store(true, Ordering::SeqCst);
        });
        let mut count = 0;
        while !stop.load(Ordering::SeqCst) {
            count += writer.write(50, 8, Failure::Broken);
        }
        count
    });
    writer.is_there(count);
}

#[test]
fn a_server_that_is_full_refuses_each_and_does_none() {
    for depth in [1, 8] {
        let server = Server::start(KINDS[0], &[]);
        let mut writer = Writer::first(attach(&server.place(), "v"));
        let limit = |bytes: &[u8]| {
            server
                .connect()
                .ask(&[b"CONFIG", b"SET", b"maxmemory", bytes])
        };
        writer.write(100, depth, Failure::Broken);
        limit(b"1");
        assert_eq!(writer.write(100, depth, Failure::Full), 0);
        limit(b"0");
        writer.is_there(100);
        assert_eq!(writer.write(5000, depth, Failure::Broken), 5000);
        writer.is_there(5100);
    }
}

#[test]
fn who_may_call_functions_only_writes_with_them() {
    for forbidden in ["-multi", "-exec", "-watch", "-setrange", "-mset"] {
        let server = Server::start(KINDS[0], &[]);
        let may = |what: &[u8]| {
            let words: [&[u8]; 4] = [b"ACL", b"SETUSER", b"default", what];
            assert_eq!(server.connect().ask(&words), Reply::Simple(b"OK".into()));
        };
        let mut writer = Writer::first(attach(&server.place(), "v"));
        // What a function does is not asked after.
        let by_function = !matches!(forbidden, "-setrange" | "-mset");
        if by_function {
            may(forbidden.as_bytes());
        }
        for depth in [1, 8] {
            writer.write(500, depth, Failure::Broken);
        }
        writer.is_there(1000);
        // Somebody takes it away under way.
        may(b"+@all");
        writer.write(5000, 8, Failure::Broken);
        may(forbidden.as_bytes());
        if by_function {
            writer.write(100, 8, Failure::Broken);
            writer.is_there(6100);
        } else {
            assert_eq!(writer.write(100, 8, Failure::Broken), 0, "{forbidden}");
        }
    }
}

#[test]
fn what_is_forgotten_or_removed_is_noticed() {
    let server = Server::start(KINDS[0], &[]);
    let mut writer = Writer::first(attach(&server.place(), "v"));
    let mut connection = server.connect();
    let mut forget = |pattern: &[u8]| {
        let Reply::Elements(keys) = connection.ask(&[b"KEYS", pattern]) else {
            panic!("no keys");
        };
        assert!(!keys.is_empty());
        for key in keys {
            let Reply::Bytes(key) = key else { panic!() };
            connection.ask(&[b"DEL", &key]);
        }
    };
    writer.write(100, 4, Failure::Broken);
    forget(b"{v}s*");
    writer.write(1000, 4, Failure::Broken);
    writer.is_there(1100);
    forget(&[b"{v}\0", &INO.to_be_bytes()[..]].concat());
    assert_eq!(writer.write(100, 4, Failure::Conflict), 0);
}

#[test]
fn the_server_hears_of_who_only_writes_to_one_file() {
    let server = Server::start(KINDS[0], &[]);
    let mut writer = Writer::first(attach(&server.place(), "v"));
    // That is when it looks for those it has not heard of for long.
    let heard = || calls(&server, "zrange");
    // Hour by hour: a few WRITEs, of which one is heard of.
    writer.write(100, 1, Failure::Broken);
    let before = heard();
    for _ in 0..10 {
        writer.ahead += 3_700_000_000_000;
        writer.poll();
        writer.write(5, 1, Failure::Broken);
    }
    let times = heard() - before;
    assert!((10..15).contains(&times), "{times}");
    writer.is_there(150);
}

#[test]
fn writes_of_one_file_while_its_slot_moves_are_done_once() {
    for kind in KINDS {
        let cluster = Cluster::start(kind, &[]);
        let places = cluster.places();
        let mut writer = Writer::first(attach_to(&in_cluster(&places)));
        let stop = AtomicBool::new(false);
        let count = thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..PRIMARIES {
                    let from = cluster.owner("v");
                    let moving = Move::begin(&cluster, from, (from + 1) % PRIMARIES);
                    while moving.step() {
                        thread::sleep(Duration::from_millis(20));
                    }
                    moving.end();
                    thread::sleep(Duration::from_millis(200));
                }
                stop.store(true, Ordering::SeqCst);
            });
            let mut count = 0;
            while !stop.load(Ordering::SeqCst) {
                count += writer.write(20, 8, Failure::Broken);
            }
            count
        });
        assert!(count > 100, "{count}");
        writer.is_there(count);
    }
}
