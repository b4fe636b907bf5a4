//! The `valkey` engine on real servers, compared with the embedded engine: first its functions alone.

#[cfg(feature = "tls")]
mod authority;
mod cluster;
mod durable;
mod engine;
mod failover;
mod far;
mod faults;
mod flat;
#[expect(dead_code, reason = "the embedded engine's tests use all of it")]
#[path = "../kv/host.rs"]
mod host;
mod migration;
mod proxy;
mod races;
mod server;
mod spread;
#[path = "../kv/flat.rs"]
mod suite;
#[cfg(feature = "tls")]
mod tls;
mod together;
mod tree;
#[path = "../kv/xattr.rs"]
mod xattr;

use dpfs::backend::kv::embedded::{self, Embedded, Store};
use dpfs::backend::kv::engine::{Check, Done, Expect, Failure, Key, Op, Patch, Write};
use dpfs::backend::kv::setup;
use dpfs::backend::kv::valkey::request::{self, FUNCTIONS, Once, VERSION_LEN};
use dpfs::wire::resp::{Problem, slot};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use server::{Connection, KINDS, Reply, Server};

/// Load the library, as on each primary.
fn load(to: &mut Connection) {
    let reply = to.ask(&[b"FUNCTION", b"LOAD", b"REPLACE", FUNCTIONS.as_bytes()]);
    assert_eq!(reply, Reply::Bytes(b"dpfs".into()));
}

fn once(sequence: u64) -> Once {
    Once {
        client: 7,
        sequence,
        ack: sequence,
        sure: false,
    }
}

/// Ask for records: version and value of each, without and with what names name.
fn get(
    from: &mut Connection,
    volume: &str,
    keys: &[Key<'_>],
    follow: bool,
) -> Vec<Option<(u64, Vec<u8>)>> {
    let reply = from.call(|to| request::get(to, volume.as_bytes(), keys, follow));
    let Reply::Elements(elements) = reply else {
        panic!("{reply:?}");
    };
    let stored = |element| match element {
        Reply::Null => None,
        Reply::Bytes(bytes) => {
            let (version, value) = bytes.split_at(VERSION_LEN);
            Some((
                u64::from_be_bytes(version.try_into().unwrap()),
                value.into(),
            ))
        }
        other => panic!("{other:?}"),
    };
    elements.into_iter().map(stored).collect()
}

const KEYS: [Key<'static>; 8] = [
    Key::Volume,
    Key::Inode(1),
    Key::Inode(u64::MAX >> 11),
    Key::Name(1, b"a\r\n\xff"),
    Key::Position(1, 3),
    Key::Xattr(1, b"user.a"),
    Key::Target(1),
    Key::Orphan(1024),
];

#[derive(Clone, Debug)]
enum Change {
    Put(Vec<u8>),
    Delete,
    Patch(Vec<Field>),
}

#[derive(Clone, Debug)]
enum Field {
    Set(u16, Vec<u8>),
    Max(u16, u64),
    Add64(u16, i64),
    Add32(u16, i32),
    Clear(u16, u32),
}

fn field() -> impl Strategy<Value = Field> {
    let at = 0..28u16;
    // Carries and the sign are where halves go wrong.
    let long = prop_oneof![any::<u64>(), Just(u64::MAX), Just(1 << 32), 0..9u64];
    prop_oneof![
        (at.clone(), prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(a, b)| Field::Set(a, b)),
        (at.clone(), long.clone()).prop_map(|(a, v)| Field::Max(a, v)),
        (at.clone(), long).prop_map(|(a, v)| Field::Add64(a, v as i64)),
        (at.clone(), any::<i32>()).prop_map(|(a, v)| Field::Add32(a, v)),
        (at, any::<u32>()).prop_map(|(a, v)| Field::Clear(a, v)),
    ]
}

impl Field {
    fn patch(&self) -> Patch<'_> {
        match *self {
            Self::Set(at, ref bytes) => Patch::Set { at, bytes },
            Self::Max(at, value) => Patch::Max { at, value },
            Self::Add64(at, value) => Patch::Add64 { at, value },
            Self::Add32(at, value) => Patch::Add32 { at, value },
            Self::Clear(at, bits) => Patch::Clear { at, bits },
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let byte = prop_oneof![any::<u8>(), Just(0), Just(255)];
    prop_oneof![
        3 => prop::collection::vec(byte, 0..33).prop_map(Change::Put),
        1 => Just(Change::Delete),
        3 => prop::collection::vec(field(), 1..4).prop_map(Change::Patch),
    ]
}

/// Expectations that do not depend on an engine's own versions.
fn expect() -> impl Strategy<Value = Expect> {
    let mask = prop_oneof![Just(0), Just(1), Just(1 << 31), any::<u32>()];
    prop_oneof![
        1 => Just(Expect::Absent),
        2 => Just(Expect::Present),
        2 => (0..28u16, mask, any::<u32>()).prop_map(|(at, mask, want)| {
            Expect::Bits { at, mask, want: want & mask }
        }),
    ]
}

type Step = (Vec<(usize, Expect)>, Vec<(usize, Change)>);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let checks = prop::collection::vec((0..KEYS.len(), expect()), 0..2);
    let writes = prop::collection::vec((0..KEYS.len(), change()), 1..5);
    prop::collection::vec((checks, writes), 1..40)
}

/// Run a step on the embedded engine; true when its checks held.
fn model(engine: &mut Embedded, checks: &[Check<'_>], writes: &[Write<'_>]) -> bool {
    match setup::call(engine, &Op::Transact { checks, writes }, &mut |_| ()) {
        Ok(Done::Done) => true,
        Err(Failure::Conflict) => false,
        other => panic!("{other:?}"),
    }
}

fn known(engine: &mut Embedded) -> Vec<Option<Vec<u8>>> {
    let mut found = vec![None; KEYS.len()];
    let op = Op::Get {
        keys: &KEYS,
        follow: false,
    };
    setup::call(engine, &op, &mut |record| {
        found[record.index as usize] = Some(record.value.to_vec());
    })
    .unwrap();
    found
}

/// Run steps on a volume of a server and on a new embedded store, each request sent twice.
fn compare(connection: &mut Connection, volume: &str, steps: &[Step]) -> Result<(), TestCaseError> {
    let config = embedded::Config {
        path: None,
        chunk: 4096,
        cache: 1 << 20,
    };
    let mut engine = Store::open(&config).unwrap().engine().unwrap();
    for (sequence, (checks, writes)) in (1..).zip(steps) {
        let checks: Vec<Check<'_>> = checks
            .iter()
            .map(|&(key, expect)| Check {
                key: KEYS[key],
                expect,
            })
            .collect();
        let patches: Vec<Vec<Patch<'_>>> = writes
            .iter()
            .map(|(_, change)| match change {
                Change::Patch(fields) => fields.iter().map(Field::patch).collect(),
                _ => Vec::new(),
            })
            .collect();
        let writes: Vec<Write<'_>> = writes
            .iter()
            .zip(&patches)
            .map(|((key, change), patches)| match change {
                Change::Put(value) => Write::Put(KEYS[*key], value),
                Change::Delete => Write::Delete(KEYS[*key]),
                Change::Patch(_) => Write::Patch(KEYS[*key], patches),
            })
            .collect();
        let wanted = Reply::Integer(model(&mut engine, &checks, &writes).into());
        for _ in 0..2 {
            let reply = connection.call(|to| {
                request::transact(
                    to,
                    volume.as_bytes(),
                    &once(sequence),
                    (&checks, &writes),
                    true,
                );
            });
            prop_assert_eq!(&reply, &wanted);
        }
        let values: Vec<_> = get(connection, volume, &KEYS, false)
            .into_iter()
            .map(|found| found.map(|(_, value)| value))
            .collect();
        prop_assert_eq!(values, known(&mut engine));
    }
    Ok(())
}

#[test]
fn transactions_do_what_they_do_on_the_embedded_engine_and_once_when_sent_twice() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        let connection = std::cell::RefCell::new(server.connect());
        load(&mut connection.borrow_mut());
        let volumes = std::cell::Cell::new(0);
        let config = Config {
            cases: 64,
            failure_persistence: None,
            ..Config::default()
        };
        TestRunner::new(config)
            .run(&steps(), |steps| {
                volumes.set(volumes.get() + 1);
                let volume = format!("{{v{}}}", volumes.get());
                compare(&mut connection.borrow_mut(), &volume, &steps)
            })
            .unwrap();
    }
}

#[test]
fn versions_rise_across_a_delete_and_guard_a_change() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        let mut connection = server.connect();
        load(&mut connection);
        let mut other = server.connect();
        for key in KEYS {
            let mut sequence = 0;
            let volume = format!("{{{key:?}}}");
            let mut change = |checks: &[Check<'_>], write| {
                sequence += 1;
                let prefix = volume.as_bytes();
                connection.call(|to| {
                    request::transact(to, prefix, &once(sequence), (checks, &[write]), true)
                })
            };
            let version = |version| {
                [Check {
                    key,
                    expect: Expect::Version(version),
                }]
            };
            let mut now = |wanted: &[u8]| {
                let found = get(&mut other, &volume, &[key], false);
                let (version, value) = found[0].clone().unwrap();
                assert_eq!(value, wanted);
                version
            };
            assert_eq!(change(&[], Write::Put(key, b"a")), Reply::Integer(1));
            let first = now(b"a");
            assert_eq!(change(&[], Write::Delete(key)), Reply::Integer(1));
            assert_eq!(change(&[], Write::Put(key, b"a")), Reply::Integer(1));
            let second = now(b"a");
            assert!(second > first, "{second} {first}");
            let late = change(&version(first), Write::Put(key, b"b"));
            assert_eq!(late, Reply::Integer(0));
            let right = change(&version(second), Write::Put(key, b"c"));
            assert_eq!(right, Reply::Integer(1));
            assert!(now(b"c") > second);
        }
    }
}

#[test]
fn numbers_are_given_out_once_also_to_a_client_that_asks_twice() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        let mut connection = server.connect();
        load(&mut connection);
        let mut reserve = |volume: &str, client, sequence, count| {
            let once = Once {
                client,
                ..once(sequence)
            };
            connection.call(|to| request::reserve(to, volume.as_bytes(), &once, count))
        };
        assert_eq!(reserve("{v}", 1, 1, 1000), Reply::Integer(1024), "{kind}");
        assert_eq!(reserve("{v}", 1, 1, 1000), Reply::Integer(1024), "again");
        assert_eq!(reserve("{v}", 2, 1, 1), Reply::Integer(2024));
        assert_eq!(reserve("{v}", 1, 2, 1), Reply::Integer(2025));
        assert_eq!(
            reserve("{w}", 1, 1, 1),
            Reply::Integer(1024),
            "another volume"
        );
        connection.ask(&[b"SET", b"{v}r", b"4503599627370496"]);
        let reply = connection.call(|to| request::reserve(to, b"{v}", &once(1), 1));
        assert_eq!(reply, Reply::Integer((1 << 52) + 1024), "{kind}");
        let again = connection.call(|to| request::reserve(to, b"{v}", &once(1), 1));
        assert_eq!(again, reply, "exact when remembered");
    }
}

#[test]
fn numbers_that_were_lost_with_the_server_that_gave_them_are_not_given_again() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        let mut connection = server.connect();
        load(&mut connection);
        let reserve = |connection: &mut Connection, client| {
            let once = Once { client, ..once(1) };
            match connection.call(|to| request::reserve(to, b"{v}", &once, 1000)) {
                Reply::Integer(first) => first,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(reserve(&mut connection, 1), 1024);
        assert_eq!(reserve(&mut connection, 2), 2024);
        // A replica that had only the first takes the place of the server.
        connection.ask(&[b"SET", b"{v}r", b"1000"]);
        connection.ask(&[b"SET", b"{v}n", b"1"]);
        connection.ask(&[b"REPLICAOF", b"127.0.0.1", b"1"]);
        connection.ask(&[b"REPLICAOF", b"NO", b"ONE"]);
        let (first, second) = (reserve(&mut connection, 3), reserve(&mut connection, 4));
        assert!(first >= 3024, "{kind}: {first}");
        assert_eq!(second, first + 1000, "{kind}: and no more than once");
        let mut id = |client: &[u8]| {
            let key = [b"{v}s", client].concat();
            connection.ask(&[b"GETRANGE", &key, b"0", b"2"])
        };
        assert_ne!(id(b"2"), id(b"3"), "{kind}");
    }
}

#[test]
fn halves_of_numbers_carry_and_compare_as_wholes_do() {
    let edges = [
        0,
        1,
        (1 << 32) - 1,
        1 << 32,
        (1 << 32) + 1,
        5 << 32,
        u64::MAX,
    ];
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        let mut connection = server.connect();
        load(&mut connection);
        let mut sequence = 0;
        for (old, value) in edges.iter().flat_map(|&a| edges.map(|b| (a, b))) {
            let by = value as i64;
            for patch in [
                Patch::Max { at: 0, value },
                Patch::Add64 { at: 0, value: by },
            ] {
                let mut wanted = old.to_le_bytes();
                patch.apply(&mut wanted);
                let (before, patches) = (old.to_le_bytes(), [patch]);
                let key = Key::Inode(1);
                let writes = [Write::Put(key, &before), Write::Patch(key, &patches)];
                sequence += 1;
                let once = once(sequence);
                connection.call(|to| request::transact(to, b"{v}", &once, (&[], &writes), true));
                let found = get(&mut connection, "{v}", &[key], false);
                let (_, value) = found[0].as_ref().unwrap();
                assert_eq!(value[..], wanted, "{kind}: {old:#x}, {patch:?}");
            }
        }
    }
}

#[test]
fn a_name_is_followed_to_its_inode_in_one_request() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        let mut connection = server.connect();
        load(&mut connection);
        let ino = 0x0001_0203_0405_0607u64;
        let name = [&ino.to_le_bytes()[..], b"more"].concat();
        let writes = [
            Write::Put(Key::Name(1, b"f"), &name),
            Write::Put(Key::Inode(ino), b"inode"),
            Write::Put(Key::Name(1, b"lost"), &7u64.to_le_bytes()),
        ];
        connection.call(|to| request::transact(to, b"{v}", &once(1), (&[], &writes), true));
        let keys = [
            Key::Name(1, b"f"),
            Key::Name(1, b"none"),
            Key::Name(1, b"lost"),
            Key::Inode(ino),
        ];
        let found = get(&mut connection, "{v}", &keys, true);
        // The first client's first change made them all.
        let version = 1 << 40 | 1;
        let inode = Some((version, b"inode".to_vec()));
        let lost = Some((version, 7u64.to_le_bytes().to_vec()));
        assert_eq!(
            found,
            [
                Some((version, name)),
                inode.clone(),
                None,
                None,
                lost,
                None,
                inode,
                None
            ]
        );
    }
}

#[test]
fn results_are_kept_until_acknowledged_and_clients_do_not_meet() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        let mut connection = server.connect();
        load(&mut connection);
        let put = [Write::Put(Key::Inode(1), &[0; 8])];
        let first = Once {
            client: 3,
            ..once(1)
        };
        connection.call(|to| request::transact(to, b"{v}", &first, (&[], &put), true));
        let mut add = |client, sequence, ack| {
            let once = Once {
                client,
                sequence,
                ack,
                sure: false,
            };
            let patch = [Patch::Add64 { at: 0, value: 1 }];
            let writes = [Write::Patch(Key::Inode(1), &patch)];
            connection.call(|to| request::transact(to, b"{v}", &once, (&[], &writes), true))
        };
        for sequence in [3, 1, 2, 1, 3] {
            assert_eq!(add(1, sequence, 1), Reply::Integer(1));
        }
        assert_eq!(add(2, 1, 1), Reply::Integer(1));
        assert_eq!(add(1, 4, 3), Reply::Integer(1));
        assert_eq!(add(1, 3, 1), Reply::Integer(1), "still remembered");
        assert_eq!(add(1, 40, 39), Reply::Integer(1));
        assert_eq!(add(1, 40, 1), Reply::Integer(1), "still remembered");
        for late in [3, 5, 38] {
            let Reply::Error(stale) = add(1, late, 1) else {
                panic!("executed again");
            };
            assert!(stale.starts_with(b"DPFS stale"), "{kind}: {stale:?}");
        }
        let found = get(&mut connection, "{v}", &[Key::Inode(1)], false);
        let sum = 6u64.to_le_bytes().to_vec();
        let version = 2 << 40 | 40;
        assert_eq!(
            found,
            [Some((version, sum))],
            "one for each sequence number"
        );
        // Who it is, and places for the last number and the two before.
        let size = connection.ask(&[b"STRLEN", b"{v}s1"]);
        assert_eq!(size, Reply::Integer(13 + 3 * 7));
    }
}

#[test]
fn results_that_an_earlier_library_kept_are_still_known() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        let mut connection = server.connect();
        load(&mut connection);
        // As version 2 left them: 5 gave up some numbers, and reserved others.
        connection.ask(&[b"SET", b"{v}n", b"7"]);
        let fields: [&[u8]; 12] = [
            b"HSET",
            b"{v}s9",
            b"from",
            b"4",
            b"id",
            b"5",
            b"4",
            b"1",
            b"6",
            b"0",
            b"7",
            b"4503599627371520",
        ];
        connection.ask(&fields);
        connection.ask(&[b"EXPIRE", b"{v}s9", b"1000"]);
        let mut reserve = |sequence| {
            let once = Once {
                client: 9,
                sequence,
                ack: 4,
                sure: true,
            };
            connection.call(|to| request::reserve(to, b"{v}", &once, 1))
        };
        assert_eq!(reserve(4), Reply::Integer(1), "{kind}");
        assert_eq!(reserve(7), Reply::Integer(4_503_599_627_371_520), "{kind}");
        assert_eq!(reserve(6), Reply::Integer(0), "{kind}");
        assert!(matches!(reserve(3), Reply::Error(_)), "{kind}");
        assert_eq!(reserve(8), Reply::Integer(1024), "{kind}");
        for (sequence, result) in [(8, 1024), (7, 4_503_599_627_371_520), (4, 1), (5, 1025)] {
            assert_eq!(reserve(sequence), Reply::Integer(result), "{kind}");
        }
        let id = connection.ask(&[b"GETRANGE", b"{v}s9", b"0", b"2"]);
        assert_eq!(id, Reply::Bytes(vec![0, 0, 5]));
        let kept = |connection: &mut Connection, sequence| {
            connection.call(|to| request::kept(to, b"{v}", 9, sequence, 0))
        };
        assert_eq!(kept(&mut connection, 8), Reply::Integer(1));
        assert_eq!(kept(&mut connection, 9), Reply::Integer(0), "never done");
        // It lives on without an end that the hash had.
        assert_eq!(connection.ask(&[b"TTL", b"{v}s9"]), Reply::Integer(-1));
    }
}

#[test]
fn clients_that_are_not_heard_of_for_long_are_forgotten() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        let mut connection = server.connect();
        load(&mut connection);
        let reserve = |connection: &mut Connection, client, sequence| {
            let once = Once {
                client,
                ..once(sequence)
            };
            connection.call(|to| request::reserve(to, b"{v}", &once, 1))
        };
        reserve(&mut connection, 1, 1);
        reserve(&mut connection, 2, 1);
        // Both are of last year; one is heard of again, as it goes on.
        for client in [b"1", b"2"] {
            connection.ask(&[b"ZADD", b"{v}u", b"1700000000", client]);
        }
        for sequence in 2..=32 {
            reserve(&mut connection, 1, sequence);
        }
        reserve(&mut connection, 3, 1);
        let there = |connection: &mut Connection, key: &[u8]| connection.ask(&[b"EXISTS", key]);
        assert_eq!(
            there(&mut connection, b"{v}s1"),
            Reply::Integer(1),
            "{kind}"
        );
        assert_eq!(
            there(&mut connection, b"{v}s2"),
            Reply::Integer(0),
            "{kind}"
        );
        assert_eq!(
            there(&mut connection, b"{v}s3"),
            Reply::Integer(1),
            "{kind}"
        );
        assert_eq!(connection.ask(&[b"ZCARD", b"{v}u"]), Reply::Integer(2));
    }
}

#[test]
fn a_copy_that_is_sent_again_is_not_done_again() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        let mut connection = server.connect();
        load(&mut connection);
        let make = [
            Write::Put(Key::Inode(1), &[0; 8]),
            Write::Put(Key::Inode(2), &[0; 8]),
        ];
        connection.call(|to| request::transact(to, b"{v}", &once(1), (&[], &make), true));
        let chunk = b"{v}\x05\0\0\0\0\0\0\0\x01\0\0\0\0";
        let copied = b"{v}\x05\0\0\0\0\0\0\0\x02\0\0\0\0";
        connection.ask(&[b"SET", chunk, b"before"]);
        let op = Op::Copy {
            source: 1,
            from: 0,
            given: Expect::Present,
            ino: 2,
            to: 0,
            len: 6,
            expect: Expect::Present,
            patches: &[],
        };
        let copy = |connection: &mut Connection, sequence| {
            connection.call(|to| request::copy(to, b"{v}", &once(sequence), &op, 4096))
        };
        assert_eq!(copy(&mut connection, 2), Reply::Integer(1));
        connection.ask(&[b"SET", chunk, b"after!"]);
        assert_eq!(copy(&mut connection, 2), Reply::Integer(1), "as answered");
        let content = connection.ask(&[b"GET", copied]);
        assert_eq!(content, Reply::Bytes(b"before".into()), "{kind}");
        assert_eq!(copy(&mut connection, 3), Reply::Integer(1));
        let content = connection.ask(&[b"GET", copied]);
        assert_eq!(content, Reply::Bytes(b"after!".into()), "{kind}");
    }
}

#[test]
fn refusals_of_real_servers_are_understood_and_leave_everything_as_it_was() {
    for kind in KINDS {
        let server = Server::start(kind, &["--requirepass", "secret"]);
        let mut connection = server.connect();
        let problem = |reply: &Reply| match reply {
            Reply::Error(error) => format!("{:?}", Problem::parse(error)),
            other => panic!("{kind}: {other:?}"),
        };
        let put = [Write::Put(Key::Inode(1), b"a")];
        let write = |connection: &mut Connection, sequence| {
            connection.call(|to| request::transact(to, b"{v}", &once(sequence), (&[], &put), true))
        };
        // Before it knows who asks, a server takes no request of more than 10 strings: that would end the connection.
        assert_eq!(problem(&connection.ask(&[b"PING"])), "Refused");
        assert_eq!(problem(&connection.ask(&[b"AUTH", b"wrong"])), "Refused");
        connection.ask(&[b"HELLO", b"3", b"AUTH", b"default", b"secret"]);
        assert_eq!(problem(&write(&mut connection, 1)), "NoFunction");
        load(&mut connection);
        connection.ask(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
        assert_eq!(problem(&write(&mut connection, 1)), "OutOfMemory");
        assert_eq!(get(&mut connection, "{v}", &[Key::Inode(1)], false), [None]);
        connection.ask(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
        connection.ask(&[b"REPLICAOF", b"127.0.0.1", b"1"]);
        assert_eq!(problem(&write(&mut connection, 1)), "ReadOnly");
        connection.ask(&[b"REPLICAOF", b"NO", b"ONE"]);
        assert_eq!(write(&mut connection, 1), Reply::Integer(1));
    }
}

#[test]
fn a_cluster_has_all_records_of_a_volume_in_the_slot_of_its_name() {
    for kind in KINDS {
        let server = Server::start(kind, &["--cluster-enabled", "yes"]);
        let mut connection = server.connect();
        load(&mut connection);
        let prefix = b"{projects}";
        let number = slot(prefix).to_string();
        let reply = connection.ask(&[b"CLUSTER", b"KEYSLOT", prefix]);
        assert_eq!(reply, Reply::Integer(slot(prefix).into()), "{kind}");
        let writes = KEYS.map(|key| Write::Put(key, b"12345678"));
        let transact = |connection: &mut Connection| {
            connection.call(|to| request::transact(to, prefix, &once(1), (&[], &writes), true))
        };
        let Reply::Error(error) = transact(&mut connection) else {
            panic!("{kind}: no slot is served");
        };
        assert_eq!(Problem::parse(&error), Problem::ClusterDown);
        connection.ask(&[b"CONFIG", b"SET", b"cluster-require-full-coverage", b"no"]);
        connection.ask(&[b"CLUSTER", b"ADDSLOTS", number.as_bytes()]);
        // The server takes a moment to find that it serves.
        let reply = loop {
            match transact(&mut connection) {
                Reply::Error(error) if Problem::parse(&error) == Problem::ClusterDown => {}
                reply => break reply,
            }
        };
        assert_eq!(reply, Reply::Integer(1), "{kind}");
        let found = get(&mut connection, "{projects}", &KEYS, false);
        assert!(found.iter().all(Option::is_some), "{found:?}");
    }
}
