//! What goes wrong, and what becomes of the requests under way.

use std::io::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use dpfs::backend::kv::fsck::{self, Report};
use dpfs::backend::kv::served::Store;
use dpfs::backend::kv::valkey::Valkey;
use dpfs::backend::kv::valkey::request::VERSION;
use dpfs::backend::kv::valkey::server::{Config, Place, Server as Volume};
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::Opcode;
use dpfs_harness::Message;

use crate::engine::{attach, attach_to, config};
use crate::host::{Host, ROOT};
use crate::proxy::Proxy;
use crate::server::{KINDS, Reply, Server};
use crate::tree::settle;

const SECOND: u64 = 1_000_000_000;

fn check(config: &Config<'_>) -> Report {
    fsck::check(&mut attach_to(config), false, &mut |_, _| ()).unwrap()
}

/// Make files with names and content, rename and remove some: what is left after `count` of them is known.
pub fn work(host: &mut Host<Valkey>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let name = format!("file-{number}");
        let file = host.create(ROOT, &name).unwrap().nodeid;
        let data = vec![number as u8; 9000];
        assert_eq!(host.write(file, 0, &data, (0, 0)), Ok(9000));
        match number % 3 {
            0 => host.unlink(ROOT, &name).unwrap(),
            1 => host
                .rename((ROOT, &name), (ROOT, &format!("new-{number}")), 0)
                .unwrap(),
            _ => {}
        }
        host.forget(file);
    }
}

/// Hold what is there against what [`work`] did.
pub fn is_whole(config: &Config<'_>, numbers: std::ops::Range<u64>) {
    let mut host = Host::over(attach_to(config));
    settle(&mut host);
    let mut wanted = 0;
    for number in numbers {
        for (name, rest) in [(format!("new-{number}"), 1), (format!("file-{number}"), 2)] {
            match host.lookup(ROOT, &name) {
                Ok(entry) => {
                    assert_eq!(number % 3, rest, "{name}");
                    assert_eq!(
                        host.read(entry.nodeid, 0, 10_000).unwrap(),
                        vec![number as u8; 9000]
                    );
                    wanted += 1;
                }
                Err(error) => assert!(
                    error == Errno::ENOENT && number % 3 != rest,
                    "{name}: {error}"
                ),
            }
        }
    }
    let report = check(config);
    assert_eq!(report.damage, Vec::<String>::new());
    assert_eq!(
        (report.inodes, report.entries),
        (wanted + 1, wanted),
        "{report:?}"
    );
}

#[test]
fn connections_that_break_anywhere_cost_time_and_nothing_else() {
    let server = Server::start(KINDS[0], &[]);
    let proxy = Proxy::new(&server.place());
    let mut host = Host::over(attach(proxy.place(), "v"));
    let mut number = 0;
    // From within a greeting to the middle of content, at any place of a request and of a reply.
    proxy.cut_within(40_000);
    server
        .connect()
        .ask(&[b"CLIENT", b"KILL", b"TYPE", b"NORMAL"]);
    while proxy.connections() < 150 {
        work(&mut host, number..number + 1);
        number += 1;
    }
    is_whole(&config(&server.place(), "v"), 0..number);
}

/// Work while the server is killed and comes back a few times. Gives it, and how much was made.
pub fn work_while_killed(mut server: Server, host: &mut Host<Valkey>) -> (Server, u64) {
    work(host, 0..20);
    let stop = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&stop);
    let killer = thread::spawn(move || {
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(300));
            server.kill();
            thread::sleep(Duration::from_millis(50));
            server.start_again();
        }
        ends.store(true, Ordering::SeqCst);
        server
    });
    let mut number = 20;
    while !stop.load(Ordering::SeqCst) {
        work(host, number..number + 1);
        number += 1;
    }
    (killer.join().unwrap(), number)
}

#[test]
fn a_server_that_is_killed_and_comes_back_has_lost_nothing_that_was_answered() {
    for kind in KINDS {
        let server = Server::start(kind, &["--appendonly", "yes", "--appendfsync", "always"]);
        let place = server.place();
        let mut host = Host::over(attach(&place, "v"));
        let (server, number) = work_while_killed(server, &mut host);
        is_whole(&config(&server.place(), "v"), 0..number);
    }
}

#[test]
fn a_server_that_comes_back_empty_is_not_taken_for_the_volume() {
    let mut server = Server::start(KINDS[0], &[]);
    let volume = Volume::open(&Config {
        timeout: SECOND,
        ..config(&server.place(), "v")
    });
    let mut host = Host::over(volume.unwrap().attach(64).unwrap());
    host.create(ROOT, "file").unwrap();
    settle(&mut host);
    server.kill();
    server.start_again();
    assert_eq!(host.lookup(ROOT, "file").map(drop), Err(Errno::ETIMEDOUT));
    let keys = server.connect().ask(&[b"DBSIZE"]);
    assert_eq!(keys, Reply::Integer(0), "and nothing is made in it");
}

#[test]
fn functions_that_went_are_loaded_again_and_replicas_waited_for() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        let mut host = Host::over(attach(&server.place(), "v"));
        work(&mut host, 0..3);
        let mut connection = server.connect();
        assert_eq!(
            connection.ask(&[b"FUNCTION", b"FLUSH"]),
            Reply::Simple(b"OK".into())
        );
        work(&mut host, 3..6);
        // An old library is replaced, one of a later version used.
        let old: &[u8] = b"#!lua name=dpfs\nredis.register_function('dpfs_volume', function() return {0, 0, '', 0} end)";
        connection.ask(&[b"FUNCTION", b"LOAD", b"REPLACE", old]);
        work(&mut host, 6..9);
        connection.ask(&[b"REPLICAOF", b"127.0.0.1", b"1"]);
        let late = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            connection.ask(&[b"REPLICAOF", b"NO", b"ONE"]);
        });
        work(&mut host, 9..12);
        late.join().unwrap();
        // Somebody's script keeps it busy, until that is ended.
        let (mut busy, mut other) = (server.connect(), server.connect());
        other.ask(&[b"CONFIG", b"SET", b"busy-reply-threshold", b"50"]);
        let endless = thread::spawn(move || busy.ask(&[b"EVAL", b"while true do end", b"0"]));
        let end = thread::spawn(move || {
            thread::sleep(Duration::from_millis(500));
            other.ask(&[b"SCRIPT", b"KILL"])
        });
        work(&mut host, 12..15);
        assert_eq!(end.join().unwrap(), Reply::Simple(b"OK".into()));
        assert!(matches!(endless.join().unwrap(), Reply::Error(_)));
        is_whole(&config(&server.place(), "v"), 0..15);
    }
}

#[test]
fn a_full_server_refuses_content_and_names_and_lets_things_be_removed() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        let mut host = Host::over(attach(&server.place(), "v"));
        work(&mut host, 0..6);
        let file = host.create(ROOT, "file").unwrap().nodeid;
        host.write(file, 0, &[1; 100_000], (0, 0)).unwrap();
        let mut connection = server.connect();
        connection.ask(&[b"CONFIG", b"SET", b"maxmemory", b"1000000"]);
        assert_eq!(
            host.write(file, 0, &[1; 100_000], (0, 0)),
            Err(Errno::ENOSPC),
            "{kind}"
        );
        assert_eq!(
            host.create(ROOT, "more").map(drop),
            Err(Errno::ENOSPC),
            "{kind}"
        );
        assert_eq!(host.read(file, 99_990, 100).unwrap(), [1; 10]);
        host.truncate(file, 10).unwrap();
        host.unlink(ROOT, "file").unwrap();
        host.forget(file);
        settle(&mut host);
        connection.ask(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
        host.create(ROOT, "file-6").unwrap();
        host.unlink(ROOT, "file-6").unwrap();
        is_whole(&config(&server.place(), "v"), 0..6);
    }
}

#[test]
fn a_server_that_is_not_answering_fails_requests_in_the_end() {
    let mut server = Server::start(KINDS[0], &[]);
    let place = server.place();
    let volume = Volume::open(&Config {
        timeout: SECOND,
        ..config(&place, "v")
    });
    let mut host = Host::over(volume.unwrap().attach(64).unwrap());
    let file = host.create(ROOT, "file").unwrap().nodeid;
    server.kill();
    assert_eq!(host.getattr(file).map(drop), Err(Errno::ETIMEDOUT));
    assert_eq!(
        host.write(file, 0, b"x", (0, 0)),
        Err(Errno::ETIMEDOUT),
        "never sent"
    );
}

#[test]
fn a_server_that_stops_in_the_middle_leaves_writes_in_doubt() {
    let server = Server::start(KINDS[0], &[]);
    let place = server.place();
    let volume = Volume::open(&Config {
        timeout: 3 * SECOND,
        ..config(&place, "v")
    });
    let mut host = Host::over(volume.unwrap().attach(64).unwrap());
    let file = host.create(ROOT, "file").unwrap().nodeid;
    server.signal("STOP");
    let wrote = host.write(file, 0, b"late", (0, 0));
    server.signal("CONT");
    assert_eq!(wrote, Err(Errno::EIO));
    // The session goes on.
    assert_eq!(host.write(file, 0, b"then", (0, 0)), Ok(4));
    assert_eq!(host.read(file, 0, 10).unwrap(), b"then");
}

#[test]
fn many_requests_at_once_are_answered_each_by_its_own() {
    let server = Server::start(KINDS[0], &[]);
    let proxy = Proxy::new(&server.place());
    let mut host = Host::over(attach(proxy.place(), "v"));
    let files: Vec<u64> = (0..16u8)
        .map(|number| {
            let file = host.create(ROOT, &format!("file-{number}")).unwrap().nodeid;
            host.write(file, 0, &vec![number; 50_000], (0, 0)).unwrap();
            file
        })
        .collect();
    proxy.cut_within(2_000_000);
    server
        .connect()
        .ask(&[b"CLIENT", b"KILL", b"TYPE", b"NORMAL"]);
    for round in 0..300u64 {
        let tickets: Vec<_> = (0..30u64)
            .map(|number| {
                let which = ((number * 7 + round) % 16) as usize;
                let args = dpfs::wire::fuse::ReadIn {
                    offset: number * 100,
                    size: 100 + (number as u32 * 1300),
                    ..Default::default()
                };
                let size = args.size as usize;
                let message = Message::new(Opcode::READ)
                    .node(files[which])
                    .arg(&args)
                    .room(size);
                (which, size, host.bed.send(&message))
            })
            .collect();
        for (which, size, ticket) in tickets {
            let answer = host.bed.wait(ticket);
            assert_eq!(answer.error(), None);
            assert_eq!(answer.body(), vec![which as u8; size], "round {round}");
        }
    }
    assert!(proxy.connections() > 20, "{}", proxy.connections());
}

#[test]
fn whoever_may_not_is_told_why() {
    for kind in KINDS {
        let server = Server::start(kind, &["--requirepass", "secret"]);
        let place = server.place();
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let open = |user: Option<&str>, password: Option<&std::path::Path>| {
            let config = Config {
                user,
                password_file: password,
                ..config(&place, "v")
            };
            Volume::open(&config)
        };
        let said = |error: Option<String>, wanted: &str| {
            let error = error.expect("a refusal");
            assert!(error.contains(wanted), "{kind}: {error}");
        };
        let (right, wrong) = (file("right", "secret\n"), file("wrong", "Secret\n"));
        let user = file("user", "user's own\n");
        said(open(None, None).err(), "the server answers: NOAUTH");
        said(
            open(None, Some(&wrong)).err(),
            "the server answers: WRONGPASS",
        );
        said(
            open(None, Some(&file("none", "\n"))).err(),
            "0 bytes; allowed: 1 to 512",
        );
        said(
            open(None, Some(&dir.path().join("no"))).err(),
            "/no: No such file",
        );
        let mut host = Host::over(open(None, Some(&right)).unwrap().attach(64).unwrap());
        work(&mut host, 0..3);
        let mut connection = server.connect_with(&[b"AUTH", b"default", b"secret"]);
        let rules: [&[u8]; 8] = [
            b"ACL",
            b"SETUSER",
            b"dpfs",
            b"on",
            b">user's own",
            b"~{v}*",
            b"+@all",
            b"-@dangerous",
        ];
        assert_eq!(connection.ask(&rules), Reply::Simple(b"OK".into()));
        said(open(Some("dpfs"), Some(&right)).err(), "WRONGPASS");
        // INFO is among the dangerous.
        said(open(Some("dpfs"), Some(&user)).err(), "NOPERM");
        connection.ask(&[b"ACL", b"SETUSER", b"dpfs", b"+info"]);
        connection.ask(&[b"FUNCTION", b"FLUSH"]);
        let mut other = Host::over(open(Some("dpfs"), Some(&user)).unwrap().attach(64).unwrap());
        work(&mut other, 3..6);
        assert_eq!(host.snapshot(), other.snapshot());
    }
}

#[test]
fn servers_that_cannot_be_used_are_refused() {
    let said = |place: &Place, wanted: &str| {
        for error in [
            Volume::open(&config(place, "v")).err(),
            Volume::look(&config(place, "v")).err(),
        ] {
            let error = error.expect("a refusal");
            assert!(error.contains(wanted), "{error}");
        }
    };
    for kind in KINDS {
        let evicts = Server::start(
            kind,
            &["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"],
        );
        said(
            &evicts.place(),
            "allowed: maxmemory 0, or maxmemory-policy noeviction",
        );
    }
    let alone = Server::start(KINDS[0], &["--cluster-enabled", "yes"]);
    said(&alone.place(), "nobody for the volume's slot now");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::Tcp("127.0.0.1".into(), listener.local_addr().unwrap().port());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
        }
    });
    said(&place, "no reply of Valkey or Redis");
}

#[test]
fn a_look_changes_nothing() {
    let server = Server::start(KINDS[0], &[]);
    let place = server.place();
    let found = Volume::look(&config(&place, "v")).unwrap();
    assert!(
        found.contains("valkey") && found.ends_with("volume \"v\" will be made"),
        "{found}"
    );
    let mut connection = server.connect();
    assert_eq!(connection.ask(&[b"DBSIZE"]), Reply::Integer(0));
    assert_eq!(
        connection.ask(&[b"FUNCTION", b"LIST"]),
        Reply::Elements(Vec::new())
    );
    attach(&place, "v");
    let found = Volume::look(&config(&place, "v")).unwrap();
    assert!(found.ends_with("is there, in chunks of 4 KiB"), "{found}");
}

/// Play a server to the greeting and no further: then what comes is whatever `noise` says.
fn noisy(noise: impl Fn(u64) -> Vec<u8> + Send + 'static) -> Place {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::Tcp("127.0.0.1".into(), listener.local_addr().unwrap().port());
    thread::spawn(move || {
        let greeting: &[u8] = b"%3\r\n$6\r\nserver\r\n$6\r\nvalkey\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n";
        let memory: &[u8] = b"$13\r\nmaxmemory:0\r\n\r\n";
        let open = format!("*4\r\n:{VERSION}\r\n:4096\r\n$3\r\n1.2\r\n:0\r\n");
        let open = open.as_bytes();
        for (number, stream) in (0..).zip(listener.incoming()) {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 65_536];
            // One reply to each request: they wait for each other.
            let replies: &[&[u8]] = match number {
                0 => &[greeting, memory, open],
                _ => &[greeting, open],
            };
            for reply in replies {
                let _ = std::io::Read::read(&mut stream, &mut buffer);
                let _ = stream.write_all(reply);
            }
            if number == 0 {
                continue;
            }
            // The volume's record, for the one that prepares.
            if number == 1 {
                let _ = std::io::Read::read(&mut stream, &mut buffer);
                let stored = b"*1\r\n$24\r\n\0\0\0\0\0\0\0\x01dpfs-kv-tree-1\0\0\r\n";
                let _ = stream.write_all(stored);
                let _ = std::io::Read::read(&mut stream, &mut buffer);
                continue;
            }
            let _ = std::io::Read::read(&mut stream, &mut buffer);
            let _ = stream.write_all(&noise(number));
        }
    });
    place
}

#[test]
fn garbage_for_a_reply_fails_requests_and_nothing_else() {
    let kinds: [fn(u64) -> Vec<u8>; 4] = [
        // Any bytes.
        |number| {
            let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            };
            (0..3000).map(|_| next()).collect()
        },
        // Replies of the wrong kind, or too many.
        |number| {
            let replies: [&[u8]; 8] = [
                b":1\r\n",
                b"$5\r\nhello\r\n",
                b"*1\r\n_\r\n",
                b"_\r\n_\r\n_\r\n",
                b"$-1\r\n",
                b"%1\r\n:1\r\n:2\r\n",
                b">2\r\n$1\r\na\r\n$1\r\nb\r\n",
                b"#t\r\n",
            ];
            replies[number as usize % 8].to_vec()
        },
        // Lengths that nobody asked for.
        |number| {
            let replies: [&[u8]; 4] = [
                b"$536870912\r\n",
                b"*1048576\r\n",
                b"$128\r\nshort",
                b"*8\r\n*8\r\n*8\r\n*8\r\n*8\r\n*8\r\n*8\r\n*8\r\n*8\r\n*8\r\n",
            ];
            replies[number as usize % 4].to_vec()
        },
        // Errors that are new, and an end.
        |number| format!("-NEW{number} \x07text\r\n").into_bytes(),
    ];
    for noise in kinds {
        let place = noisy(noise);
        let volume = Volume::open(&Config {
            timeout: SECOND,
            ..config(&place, "v")
        });
        let mut host = Host::over(volume.unwrap().attach(64).unwrap());
        for _ in 0..3 {
            let error = host.getattr(ROOT).map(drop).unwrap_err();
            assert!(
                [Errno::ETIMEDOUT, Errno::EIO, Errno::ESTALE].contains(&error),
                "{error}"
            );
        }
    }
}
