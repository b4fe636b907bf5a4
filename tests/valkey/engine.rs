//! The engine's operations one by one, compared with those of the embedded engine.

use dpfs::backend::kv::embedded::{self, Embedded};
use dpfs::backend::kv::engine::{
    Busy, Client, Done, Engine, Expect, Failure, Key, List, Op, Patch, Record, Token, Write,
};
use dpfs::backend::kv::served::Store;
use dpfs::backend::kv::valkey::Valkey;
use dpfs::backend::kv::valkey::server::{Config, Place, Server as Volume};
use dpfs::mem::Segment;
use dpfs::sys::time::Instant;
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};

use crate::cluster::{Cluster, PRIMARIES};
use crate::proxy::Proxy;
use crate::server::{KINDS, Reply, Server};

/// Size of chunks in bytes.
pub const CHUNK: u32 = 4096;

/// Say how to reach a volume.
pub fn config<'a>(place: &'a Place, volume: &'a str) -> Config<'a> {
    Config {
        places: std::slice::from_ref(place),
        user: None,
        password_file: None,
        volume,
        chunk: CHUNK,
        timeout: 30_000_000_000,
        durability: None,
        tls: None,
        spread: None,
    }
}

/// Open a volume and attach to it.
pub fn attach(place: &Place, volume: &str) -> Valkey {
    attach_to(&config(place, volume))
}

/// Open the volume that is configured, and attach to it.
pub fn attach_to(config: &Config<'_>) -> Valkey {
    Volume::open(config).unwrap().attach(64).unwrap()
}

/// A record without its version: index, followed, position, name, value.
type Seen = (u32, bool, u64, Vec<u8>, Vec<u8>);

/// What an operation brought.
#[derive(PartialEq, Debug)]
struct Outcome {
    result: Result<Done, Failure>,
    records: Vec<Seen>,
    bytes: Vec<u8>,
}

/// Memory of a host, in odd pieces.
struct Pages {
    segments: Vec<Segment>,
    memory: Vec<u8>,
    records: Vec<Seen>,
    result: Option<Result<Done, Failure>>,
}

impl Pages {
    fn new(mut memory: Vec<u8>) -> Self {
        let mut segments = Vec::new();
        for piece in memory.chunks_mut(1001) {
            // SAFETY: the memory lives as long as the segments, and is not looked at before the operation ended.
            segments.push(unsafe { Segment::new(piece.as_mut_ptr(), piece.len()) });
        }
        Self {
            segments,
            memory,
            records: Vec::new(),
            result: None,
        }
    }
}

impl Client for Pages {
    fn record(&mut self, _: Token, record: Record<'_>) {
        let (name, value) = (record.name.to_vec(), record.value.to_vec());
        let seen = (record.index, record.followed, record.at, name, value);
        self.records.push(seen);
    }

    fn buffers(&self, _: Token) -> &[Segment] {
        &self.segments
    }

    fn payload(&self, _: Token) -> &[Segment] {
        &self.segments
    }

    fn done(&mut self, _: Token, result: Result<Done, Failure>) {
        assert!(self.result.replace(result).is_none(), "ended twice");
    }
}

fn run<E: Engine>(engine: &mut E, op: &Op<'_>, memory: Vec<u8>) -> Outcome {
    let mut pages = Pages::new(memory);
    while engine.submit(Token(1), op, &mut pages) == Err(Busy) {
        engine.poll(Instant::now(), &mut pages);
    }
    while pages.result.is_none() {
        engine.poll(Instant::now(), &mut pages);
    }
    Outcome {
        result: pages.result.unwrap(),
        records: pages.records,
        bytes: pages.memory,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Make(u64, u8),
    Write(u64, u64, Vec<u8>, Expect, u64),
    Read(u64, u64, u32),
    Clear(u64, u64, u64, Expect),
    Copy((u64, u64), (u64, u64), u32, Expect, Expect),
    Seek(u64, u64, bool),
    Name(u64, u8, u64),
    Xattr(u64, u8, bool),
    Orphan(u64, bool),
    Purge(u64, Expect),
    Scan(u8, u64, u64, u32, bool),
}

const SIZE: u64 = 5 * CHUNK as u64;
/// Field at byte 8 of an inode that is made with a byte of 1.
const LONG: u64 = u64::from_le_bytes([1; 8]);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ino = 1..4u64;
    let edge = prop_oneof![
        (0..6u64, 0..3u64)
            .prop_map(|(chunk, by)| (chunk * u64::from(CHUNK) + by).saturating_sub(1)),
        0..SIZE,
    ];
    let expect = |absent| {
        prop_oneof![
            4 => Just(Expect::Present),
            // A WRITE to what is not there is none of the tree's.
            absent => Just(Expect::Absent),
            1 => Just(Expect::Bits { at: 0, mask: 1, want: 1 }),
        ]
    };
    // What is made with a byte of 1, and not longer since.
    let given = prop_oneof![
        4 => Just(Expect::Present),
        2 => any::<u64>().prop_map(|value| Expect::Least { at: 8, value }),
        1 => Just(Expect::Least { at: 17, value: 0 }),
        1 => Just(Expect::Exactly { at: 8, value: LONG }),
        1 => Just(Expect::Exactly { at: 17, value: 0 }),
    ];
    let bytes = (any::<u8>(), prop_oneof![0..40usize, 0..9000usize])
        .prop_map(|(seed, len)| (0..len).map(|at| seed.wrapping_add(at as u8)).collect());
    let step = prop_oneof![
        2 => (ino.clone(), prop_oneof![any::<u8>(), Just(1)]).prop_map(|(i, b)| Step::Make(i, b)),
        5 => (ino.clone(), edge.clone(), bytes, expect(0), any::<u64>())
            .prop_map(|(i, o, b, e, v)| Step::Write(i, o, b, e, v)),
        5 => (ino.clone(), edge.clone(), 0..20_000u32).prop_map(|(i, o, l)| Step::Read(i, o, l)),
        3 => (ino.clone(), edge.clone(), prop_oneof![edge.clone(), Just(u64::MAX)], given.clone())
            .prop_map(|(i, a, b, e)| Step::Clear(i, a, b, e)),
        4 => ((ino.clone(), edge.clone()), (ino.clone(), edge.clone()), 0..9000u32, given, expect(0))
            .prop_filter("overlap", |(from, to, len, ..)| {
                from.0 != to.0 || from.1.abs_diff(to.1) >= u64::from(*len)
            })
            .prop_map(|(f, t, l, g, e)| Step::Copy(f, t, l, g, e)),
        2 => (ino.clone(), edge, any::<bool>()).prop_map(|(i, o, h)| Step::Seek(i, o, h)),
        3 => (ino.clone(), any::<u8>(), 0..5u64).prop_map(|(i, n, t)| Step::Name(i, n % 20, t)),
        2 => (ino.clone(), any::<u8>(), any::<bool>()).prop_map(|(i, n, d)| Step::Xattr(i, n % 9, d)),
        1 => (ino.clone(), any::<bool>()).prop_map(|(i, d)| Step::Orphan(i, d)),
        1 => (ino.clone(), expect(1)).prop_map(|(i, e)| Step::Purge(i, e)),
        4 => (0..4u8, ino, 0..25u64, 1..9u32, any::<bool>())
            .prop_map(|(k, i, a, l, f)| Step::Scan(k, i, a, l, f)),
    ];
    prop::collection::vec(step, 1..60)
}

fn apply<E: Engine>(engine: &mut E, step: &Step) -> Outcome {
    apply_at(engine, step, 0)
}

/// Apply a step whose bytes are counted from here.
fn apply_at<E: Engine>(engine: &mut E, step: &Step, base: u64) -> Outcome {
    let transact = |engine: &mut E, writes: &[Write<'_>]| {
        let op = Op::Transact {
            checks: &[],
            writes,
        };
        run(engine, &op, Vec::new())
    };
    match *step {
        Step::Make(ino, byte) => transact(engine, &[Write::Put(Key::Inode(ino), &[byte; 24])]),
        Step::Write(ino, offset, ref bytes, expect, value) => {
            let op = Op::Write {
                ino,
                offset: base + offset,
                len: bytes.len() as u32,
                expect,
                patches: &[Patch::Max { at: 8, value }],
            };
            run(engine, &op, bytes.clone())
        }
        Step::Read(ino, offset, len) => {
            let mut outcome = run(
                engine,
                &Op::Read {
                    ino,
                    offset: base + offset,
                    len,
                },
                vec![9; len as usize],
            );
            // Without an inode nothing need be read.
            if outcome.records.is_empty() {
                outcome.bytes.clear();
            }
            outcome
        }
        Step::Clear(ino, from, to, expect) => {
            let (size, from) = (base + SIZE * 2, base + from);
            let to = to.saturating_add(base);
            run(
                engine,
                &Op::Clear {
                    ino,
                    from,
                    to,
                    size,
                    expect,
                },
                Vec::new(),
            )
        }
        Step::Copy((source, from), (ino, to), len, given, expect) => {
            let op = Op::Copy {
                source,
                from,
                given,
                ino,
                to,
                len,
                expect,
                patches: &[Patch::Add64 { at: 8, value: 1 }],
            };
            run(engine, &op, Vec::new())
        }
        Step::Seek(ino, offset, hole) => {
            let (mut offset, size) = (base + offset.min(SIZE - 1), base + SIZE);
            loop {
                let op = Op::Seek {
                    ino,
                    offset,
                    size,
                    hole,
                };
                let outcome = run(engine, &op, Vec::new());
                match outcome.result {
                    Ok(Done::More(next)) => offset = next,
                    _ => return outcome,
                }
            }
        }
        Step::Name(ino, name, to) => {
            let value = [&to.to_le_bytes()[..], &[name; 16]].concat();
            let text = format!("name-{name}");
            let (key, place) = (
                Key::Name(ino, text.as_bytes()),
                Key::Position(ino, name.into()),
            );
            match to {
                0 => transact(engine, &[Write::Delete(key), Write::Delete(place)]),
                _ => transact(
                    engine,
                    &[Write::Put(key, &value), Write::Put(place, &value)],
                ),
            }
        }
        Step::Xattr(ino, name, delete) => {
            let text = format!("user.{name}");
            let key = Key::Xattr(ino, text.as_bytes());
            match delete {
                true => transact(engine, &[Write::Delete(key)]),
                false => transact(engine, &[Write::Put(key, text.as_bytes())]),
            }
        }
        Step::Orphan(ino, delete) => match delete {
            true => transact(engine, &[Write::Delete(Key::Orphan(ino))]),
            false => transact(engine, &[Write::Put(Key::Orphan(ino), b"")]),
        },
        Step::Purge(ino, expect) => run(engine, &Op::Purge { ino, expect }, Vec::new()),
        Step::Scan(kind, ino, after, limit, follow) => {
            let list = match kind {
                0 => List::Entries(ino),
                1 => List::Xattrs(ino),
                2 => return names(engine, ino),
                _ => List::Orphans,
            };
            let follow = follow && kind == 0;
            run(
                engine,
                &Op::Scan {
                    list,
                    after,
                    limit,
                    follow,
                },
                Vec::new(),
            )
        }
    }
}

/// List the names of a directory to the end; they come in the engine's own order.
fn names<E: Engine>(engine: &mut E, ino: u64) -> Outcome {
    let (mut found, mut after) = (std::collections::BTreeSet::new(), 0);
    loop {
        let op = Op::Scan {
            list: List::Names(ino),
            after,
            limit: 3,
            follow: false,
        };
        let outcome = run(engine, &op, Vec::new());
        for (_, _, at, name, value) in outcome.records {
            after = at;
            found.insert((name, value));
        }
        if outcome.result != Ok(Done::Listed { more: true }) {
            let plain = |(name, value)| (0, false, 0, name, value);
            return Outcome {
                result: outcome.result,
                records: found.into_iter().map(plain).collect(),
                bytes: Vec::new(),
            };
        }
    }
}

fn embedded() -> Embedded {
    let config = embedded::Config {
        path: None,
        chunk: CHUNK,
        cache: 1 << 20,
    };
    embedded::Store::open(&config).unwrap().engine().unwrap()
}

/// Do the same on volumes of a server, each of a name of its own, and on the embedded engine.
fn does_the_same(place: &Place) {
    does_the_same_at(place, 48, None);
}

/// As [`does_the_same`]; with a base, at and behind this byte of files that spread.
fn does_the_same_at(place: &Place, count: u32, base: Option<u64>) {
    let volumes = std::cell::Cell::new(0);
    let cases = Cases {
        cases: count,
        max_shrink_iters: 64,
        failure_persistence: None,
        ..Cases::default()
    };
    TestRunner::new(cases)
        .run(&steps(), |steps| {
            volumes.set(volumes.get() + 1);
            let name = format!("v{}-{}", base.unwrap_or(0), volumes.get());
            let mut valkey = attach_to(&Config {
                spread: base.map(|_| true),
                ..config(place, &name)
            });
            let mut model = embedded();
            // What a new volume has, the model has not.
            let root = [Write::Delete(Key::Inode(1)), Write::Delete(Key::Volume)];
            let op = Op::Transact {
                checks: &[],
                writes: &root,
            };
            run(&mut valkey, &op, Vec::new());
            for step in &steps {
                if base.is_some() && matches!(step, Step::Copy(..)) {
                    continue;
                }
                let at = base.unwrap_or(0);
                // What is removed was cleared before.
                if let (Some(_), &Step::Purge(ino, expect)) = (base, step) {
                    let step = Step::Clear(ino, 0, u64::MAX, expect);
                    let cleared = [apply(&mut valkey, &step), apply(&mut model, &step)];
                    prop_assert_eq!(&cleared[0], &cleared[1], "{:?}", step);
                }
                let found = apply_at(&mut valkey, step, at);
                let wanted = apply_at(&mut model, step, at);
                prop_assert_eq!(found, wanted, "{}: {:?}", place, step);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn every_operation_does_what_the_embedded_engine_does() {
    for kind in KINDS {
        does_the_same(&Server::start(kind, &[]).place());
    }
}

/// First bytes of interest: the border of what is near, and that of two groups.
const BORDERS: [u64; 3] = [
    (1 << 20) - 2 * CHUNK as u64,
    3 * 256 * CHUNK as u64 - 2 * CHUNK as u64,
    40 << 20,
];

#[test]
fn every_operation_on_content_that_spreads_does_what_the_embedded_engine_does() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        for base in BORDERS {
            does_the_same_at(&server.place(), 48, Some(base));
        }
    }
}

#[test]
fn every_operation_on_content_that_spreads_is_done_once_over_connections_that_break() {
    let server = Server::start(KINDS[0], &[]);
    for base in BORDERS {
        let proxy = Proxy::new(&server.place());
        // A library goes through in one piece.
        proxy.cut_within(300_000);
        does_the_same_at(proxy.place(), 24, Some(base));
        assert!(proxy.connections() > 100, "{}", proxy.connections());
    }
}

#[test]
fn every_operation_does_the_same_in_a_cluster_whichever_node_is_asked() {
    for kind in KINDS {
        let cluster = Cluster::start(kind, &[]);
        // Volumes are everywhere; who is asked is a replica.
        does_the_same(&cluster.nodes[PRIMARIES].place());
        for node in &cluster.nodes[..PRIMARIES] {
            let Reply::Integer(keys) = node.connect().ask(&[b"DBSIZE"]) else {
                panic!("no number");
            };
            assert!(keys > 10, "{kind}: {keys}");
        }
    }
}

#[test]
fn content_of_many_chunks_is_cleared_and_searched_step_by_step() {
    let server = Server::start(KINDS[0], &[]);
    let mut engine = attach(&server.place(), "v");
    let chunk = u64::from(CHUNK);
    let ino = 7;
    apply(&mut engine, &Step::Make(ino, 1));
    for piece in 0..4 {
        let offset = piece * 200 * chunk;
        let bytes = vec![1; 200 * CHUNK as usize];
        apply(
            &mut engine,
            &Step::Write(ino, offset, bytes, Expect::Present, 0),
        );
    }
    let size = 900 * chunk;
    let (mut offset, mut steps) = (3 * chunk, 0);
    loop {
        let op = Op::Seek {
            ino,
            offset,
            size,
            hole: true,
        };
        steps += 1;
        match run(&mut engine, &op, Vec::new()).result.unwrap() {
            Done::More(next) => offset = next,
            Done::At(at) => break assert_eq!(at, 800 * chunk),
            other => panic!("{other:?}"),
        }
    }
    assert!(steps > 2, "{steps}");
    let (mut from, mut steps) = (10, 0);
    loop {
        let op = Op::Clear {
            ino,
            from,
            to: u64::MAX,
            size,
            expect: Expect::Exactly { at: 8, value: LONG },
        };
        steps += 1;
        match run(&mut engine, &op, Vec::new()).result.unwrap() {
            Done::More(next) => from = next,
            Done::Done => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(steps > 2, "{steps}");
    let read = run(
        &mut engine,
        &Op::Read {
            ino,
            offset: 0,
            len: 20,
        },
        vec![9; 20],
    );
    assert_eq!(read.bytes, [[1; 10], [0; 10]].concat());
    // The root's record and its volume's, this inode, one chunk, and the volume's own.
    let mut connection = server.connect();
    let left = connection.ask(&[b"KEYS", b"{v}\x05*"]);
    assert!(matches!(left, Reply::Elements(left) if left.len() == 1));
}

#[test]
fn a_list_of_inodes_has_each_however_many_there_are() {
    let server = Server::start(KINDS[0], &[]);
    let mut engine = attach(&server.place(), "v");
    // Another volume's are not among them.
    let mut other = attach(&server.place(), "w");
    for number in 0..50u64 {
        apply(&mut other, &Step::Make(9_000 + number, 1));
    }
    for number in 0..2000u64 {
        let value = number.to_le_bytes();
        let writes = [Write::Put(Key::Inode(2000 + number), &value)];
        let op = Op::Transact {
            checks: &[],
            writes: &writes,
        };
        run(&mut engine, &op, Vec::new());
    }
    let (mut seen, mut after) = (std::collections::BTreeSet::new(), 0);
    loop {
        let op = Op::Scan {
            list: List::Inodes,
            after,
            limit: 100,
            follow: false,
        };
        let outcome = run(&mut engine, &op, Vec::new());
        for (_, _, at, _, value) in outcome.records {
            after = at;
            seen.insert(value);
        }
        match outcome.result {
            Ok(Done::Listed { more: true }) => {}
            Ok(Done::Listed { more: false }) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen.len(), 2001, "and the root");
}

#[test]
fn a_list_of_names_has_each_and_never_all_are_asked_for_at_once() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        let mut engine = attach(&server.place(), "v");
        // With few the server keeps a list, which it gives as a whole; with many a table.
        for count in [0, 100, 20_000u64] {
            let dir = 10 + count;
            for first in (0..count).step_by(10) {
                let long = |number| format!("{number:0>200}");
                let texts: Vec<_> = (first..first + 10).map(long).collect();
                let keys = texts.iter().map(|text| Key::Name(dir, text.as_bytes()));
                let writes: Vec<_> = keys.map(|key| Write::Put(key, &[7; 24])).collect();
                let op = Op::Transact {
                    checks: &[],
                    writes: &writes,
                };
                run(&mut engine, &op, Vec::new());
            }
            let mut connection = server.connect();
            connection.ask(&[b"CONFIG", b"RESETSTAT"]);
            let found = names(&mut engine, dir);
            assert_eq!(found.result, Ok(Done::Listed { more: false }));
            assert_eq!(found.records.len() as u64, count, "{kind}");
            let Reply::Bytes(report) = connection.ask(&[b"INFO", b"commandstats"]) else {
                panic!("no report");
            };
            let report = String::from_utf8(report).unwrap();
            assert!(!report.contains("cmdstat_hkeys"), "{kind}");
        }
    }
}
