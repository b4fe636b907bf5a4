//! The client by TLS: what it does without, and who is not talked to.

use std::net::SocketAddr;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use dpfs::backend::kv::valkey::server::Place;
use dpfs::backend::nfs::Nfs;
use dpfs::backend::nfs::served::{self, Config};
use dpfs::backend::tls::Files;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::Opcode;
use rcgen::date_time_ymd;

use crate::authority::Authority;
use crate::fake::Fake;
use crate::fake::files::locations;
use crate::front::{self, Front, Manner};
use crate::host::*;
use crate::knfsd::Knfsd;
use crate::proxy::Proxy;
use crate::server::{EXPORT, Ganesha};

/// Bytes that one READ or WRITE of these tests carries.
const PIECE: usize = 1 << 20;

/// Say how to reach the root of a server by TLS.
fn by(port: u16, files: &Files) -> Config {
    Config {
        export: "/".into(),
        tls: Some(files.clone()),
        ..config(port)
    }
}

/// Mount it.
fn mount(config: &Config) -> dpfs_harness::Host<Nfs> {
    let mut host = core(served::open(config).unwrap());
    host.getattr(ROOT, None).unwrap();
    host
}

/// Bytes that repeat late.
fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len as u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed)
        .collect()
}

/// Make a file of so many bytes, and leave it closed.
fn write(host: &mut dpfs_harness::Host<Nfs>, name: &str, len: usize) {
    let (entry, fh) = host.create(ROOT, name, O_RDWR, 0o644).unwrap();
    let content = pattern(len, name.len() as u8);
    for (at, piece) in content.chunks(PIECE).enumerate() {
        let written = host.write(entry.nodeid, fh, (at * PIECE) as u64, piece);
        assert_eq!(written, Ok(piece.len() as u32));
    }
    host.fsync(entry.nodeid, fh).unwrap();
    host.release(entry.nodeid, fh).unwrap();
}

/// Find a file as [`write`] made it.
fn is_as_written(host: &mut dpfs_harness::Host<Nfs>, name: &str, len: usize) {
    let node = host.lookup(ROOT, name).unwrap().nodeid;
    let fh = host.open(node, O_RDONLY).unwrap();
    let content = pattern(len, name.len() as u8);
    for (at, piece) in content.chunks(PIECE).enumerate() {
        let found = host.read(node, fh, (at * PIECE) as u64, PIECE as u32);
        assert!(found.unwrap() == piece, "{name}, {at}");
    }
    host.release(node, fh).unwrap();
}

/// Hold why nothing is mounted against what is to be said.
fn refused(config: &Config, wanted: &str) {
    let error = served::open(config).map(drop).expect_err("a refusal");
    assert!(error.contains(wanted), "{error}");
}

#[test]
fn a_server_is_asked_for_tls_by_every_connection_and_then_does_what_it_does_without() {
    let authority = Authority::new();
    let fake = Fake::start();
    let front = Front::of(&authority, fake.port);
    let mut config = by(front.port, &authority.files());
    config.options.connections = 3;
    let mut host = mount(&config);
    for (name, len) in [("a", 0), ("bb", 1), ("ccc", 5000), ("dddd", 5 * PIECE + 77)] {
        write(&mut host, name, len);
        is_as_written(&mut host, name, len);
        assert!(fake.server().content(name) == pattern(len, name.len() as u8));
    }
    host.mkdir(ROOT, "d", 0o755).unwrap();
    assert_eq!(host.list(ROOT, 4096, true).len(), 7);
    // That of the mount, and three of the core.
    assert_eq!(front.sessions(), 4);
    assert_eq!(front.connections(), 4);
    front.check();
    assert_eq!(fake.server().script.misused, 0);
}

#[test]
fn many_requests_at_a_time_go_by_one_connection() {
    let authority = Authority::new();
    let fake = Fake::start();
    let front = Front::of(&authority, fake.port);
    let mut host = mount(&by(front.port, &authority.files()));
    let (entry, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    let content = pattern(24 * 100_000, 3);
    let writes: Vec<_> = (0..24)
        .map(|at| {
            let piece = &content[at * 100_000..][..100_000];
            let message = host.write_message(entry.nodeid, fh, at as u64 * 100_000, piece);
            host.bed.send(&message)
        })
        .collect();
    for ticket in writes {
        assert_eq!(host.bed.wait(ticket).error(), None);
    }
    assert!(fake.server().content("f") == content);
    let reads: Vec<_> = (0..24)
        .map(|at| {
            let message = host.read_message(entry.nodeid, fh, at * 100_000, 100_000);
            host.bed.send(&message)
        })
        .collect();
    for (at, ticket) in reads.into_iter().enumerate() {
        assert!(host.bed.wait(ticket).body() == &content[at * 100_000..][..100_000]);
    }
    assert_eq!(fake.server().script.misused, 0);
}

#[test]
fn nothing_waits_in_a_session_for_what_a_ring_is_to_tell() {
    let authority = Authority::new();
    let fake = Fake::start();
    let front = Front::of(&authority, fake.port);
    let proxy = Proxy::new(&Place::Tcp("127.0.0.1".into(), front.port));
    let Place::Tcp(_, port) = proxy.place() else {
        panic!("{}", proxy.place());
    };
    let mut config = by(*port, &authority.files());
    config.watches = 1;
    let mut host = mount(&config);
    let connections = proxy.connections();
    for (round, pieces) in [0, 1000, 20_000].into_iter().enumerate() {
        proxy.in_pieces_of(pieces);
        let name = "f".repeat(round + 1);
        write(&mut host, &name, 2 * PIECE + 100);
        is_as_written(&mut host, &name, 2 * PIECE + 100);
    }
    // More than sockets hold: the last of it waits in the session.
    let (entry, fh) = host.create(ROOT, "long", O_RDWR, 0o644).unwrap();
    let content = pattern(PIECE, 1);
    let writes: Vec<_> = (0..24)
        .map(|at| {
            let offset = (at * PIECE) as u64;
            let message = host.write_message(entry.nodeid, fh, offset, &content);
            host.bed.send(&message)
        })
        .collect();
    for ticket in writes {
        assert_eq!(host.bed.wait(ticket).error(), None);
    }
    // What is not seen is asked for again by another connection.
    assert_eq!(proxy.connections(), connections);
}

#[test]
fn a_server_that_does_not_offer_tls_is_not_spoken_with() {
    let authority = Authority::new();
    let files = authority.files();
    let fake = Fake::start();
    for (manner, wanted) in [
        (
            Manner::Reply(vec![1, 0, 0, 0, 0]),
            "does not offer TLS: it answers without STARTTLS; allowed: a server with RPC-with-TLS",
        ),
        // AUTH_REJECTEDCRED, AUTH_BADCRED.
        (
            Manner::Reply(vec![1, 1, 1, 2]),
            "does not offer TLS: it refuses AUTH_TLS (auth_stat 2)",
        ),
        (Manner::Reply(vec![1, 1, 1, 1]), "(auth_stat 1)"),
        (
            Manner::Reply(vec![1, 0, 0, 0, 2, 4, 4]),
            "does not offer TLS: it refuses the call (accept_stat 2)",
        ),
        (Manner::Reply(vec![1, 1, 0, 2, 2]), "this version of RPC"),
        (Manner::Reply(vec![9, 9]), "is no answer of RPC"),
        (
            Manner::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
            "is no answer of RPC",
        ),
    ] {
        let front = Front::at(([127, 0, 0, 1], 0).into(), manner, fake.port);
        refused(&by(front.port, &files), wanted);
        front.check();
        assert_eq!(front.connections(), 1, "{wanted}");
    }
    assert_eq!(fake.calls(), 0);
}

#[test]
fn a_server_without_tls_says_so_itself() {
    let authority = Authority::new();
    let server = Ganesha::start(Default::default());
    refused(
        &by(server.port, &authority.files()),
        "the server does not offer TLS: ",
    );
}

#[test]
fn a_server_that_ends_or_says_nothing_is_told_apart_from_one_that_is_not_there() {
    let authority = Authority::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // Accepted by the system, and by nobody else.
    let mute = listener.local_addr().unwrap().port();
    let front = |manner| Front::at(([127, 0, 0, 1], 0).into(), manner, 1).port;
    thread::scope(|scope| {
        for (port, wanted) in [
            (
                front(Manner::End),
                "TLS: the server ended the connection when it was asked for TLS",
            ),
            (
                mute,
                "TLS: the server does not answer when it is asked for TLS",
            ),
            (
                front(Manner::Follow(Vec::new())),
                "TLS: the server does not go on with the handshake",
            ),
            (
                // Nobody is behind it.
                Front::of(&authority, 1).port,
                "TLS: the server ended the connection after the handshake, before any answer",
            ),
            (1, "no answer within 30 s"),
        ] {
            let config = by(port, &authority.files());
            scope.spawn(move || refused(&config, wanted));
        }
    });
}

#[test]
fn a_server_that_is_not_the_one_is_refused_in_words() {
    let (authority, other) = (Authority::new(), Authority::new());
    let files = authority.files();
    let fake = Fake::start();
    let front = Front::of(&authority, fake.port);
    refused(
        &by(front.port, &other.files()),
        "is signed by nobody of tls_ca; allowed: one that leads to /",
    );
    let named = |name: &str| Files {
        name: Some(name.into()),
        ..authority.files()
    };
    refused(
        &by(front.port, &named("nfs.other")),
        "; allowed: \"nfs.other\", which is tls_name or else the address",
    );
    mount(&by(front.port, &named("kv.example")));
    // What was looked up is what it is to be, not its address.
    let mut config = by(front.port, &files);
    config.servers = vec!["localhost".into()];
    refused(&config, "allowed: \"localhost\"");
    front.check();
    authority.sign("old", &["127.0.0.1"], |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    front.become_one(Manner::Tls(front::config(
        &authority,
        "old",
        false,
        &["sunrpc"],
    )));
    refused(
        &by(front.port, &files),
        "has expired by this machine's clock",
    );
}

#[test]
fn a_server_that_wants_to_know_the_client_is_told_who_it_is() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.sign("client", &[], |_| ());
    other.sign("client", &[], |_| ());
    let identity = |from: &Authority| Files {
        identity: Some((from.path("client"), from.path("client.key"))),
        ..authority.files()
    };
    let fake = Fake::start();
    let config = front::config(&authority, "server", true, &["sunrpc"]);
    let front = Front::at(([127, 0, 0, 1], 0).into(), Manner::Tls(config), fake.port);
    refused(
        &by(front.port, &authority.files()),
        "wants a certificate of this client; allowed: tls_cert and tls_key",
    );
    refused(
        &by(front.port, &identity(&other)),
        "the server refuses the certificate of tls_cert",
    );
    let mut host = mount(&by(front.port, &identity(&authority)));
    write(&mut host, "f", 10_000);
    is_as_written(&mut host, "f", 10_000);
    front.check();
}

#[test]
fn the_protocol_within_tls_is_named_and_servers_of_others_refuse() {
    let authority = Authority::new();
    let fake = Fake::start();
    let manner =
        |protocols: &[&str]| Manner::Tls(front::config(&authority, "server", false, protocols));
    let front = Front::at(
        ([127, 0, 0, 1], 0).into(),
        manner(&["h2", "sunrpc"]),
        fake.port,
    );
    mount(&by(front.port, &authority.files()));
    front.check();
    front.become_one(manner(&["h2"]));
    refused(
        &by(front.port, &authority.files()),
        "TLS: the server refuses (NoApplicationProtocol)",
    );
    // One that knows nothing of the extension, as Linux's handshake daemon does not.
    front.become_one(manner(&[]));
    mount(&by(front.port, &authority.files()));
}

#[test]
fn garbage_within_a_handshake_is_no_server() {
    let authority = Authority::new();
    let files = authority.files();
    for (bytes, wanted) in [
        (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "what came is no TLS"),
        // As if there were no TLS to speak: an answer of RPC.
        (
            b"\x80\0\0\x18\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0\0",
            "what came is no TLS",
        ),
        // A record of handshake that says it is a message of 16 MiB.
        (b"\x16\x03\x03\x00\x04\x02\xff\xff\xff", "TLS: "),
        (
            b"\x15\x03\x03\x00\x02\x02\x46",
            "no TLS 1.3; allowed: TLS 1.3",
        ),
    ] {
        let front = Front::at(
            ([127, 0, 0, 1], 0).into(),
            Manner::Follow(bytes.to_vec()),
            1,
        );
        refused(&by(front.port, &files), wanted);
    }
    // What comes with the offer was not said within TLS.
    let mut offer =
        b"\x80\0\0\x20TART\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x08STARTTLS\0\0\0\0".to_vec();
    offer.extend(b"\x15\x03\x03");
    let front = Front::at(([127, 0, 0, 1], 0).into(), Manner::Bytes(offer), 1);
    refused(&by(front.port, &files), "says more than STARTTLS");
}

/// Make a directory and a file, each once.
fn work(host: &mut dpfs_harness::Host<Nfs>, number: u32, len: usize) {
    host.mkdir(ROOT, &format!("d{number}"), 0o755).unwrap();
    host.file(ROOT, &format!("f{number}"), &pattern(len, number as u8));
}

#[test]
fn connections_that_break_anywhere_also_within_a_handshake_cost_time_and_nothing_else() {
    let authority = Authority::new();
    let fake = Fake::start();
    let front = Front::of(&authority, fake.port);
    let proxy = Proxy::new(&Place::Tcp("127.0.0.1".into(), front.port));
    let Place::Tcp(_, port) = proxy.place() else {
        panic!("{}", proxy.place());
    };
    let mut host = mount(&by(*port, &authority.files()));
    let mut made = Vec::new();
    let mut go_on = |host: &mut dpfs_harness::Host<Nfs>, connections: u64, len: usize| {
        let until = proxy.connections() + connections;
        while proxy.connections() < until {
            let number = made.len() as u32;
            work(host, number, len);
            made.push(len);
        }
    };
    proxy.cut_within(60_000);
    front.cut();
    go_on(&mut host, 60, 9000);
    // A handshake is 2 KiB, about.
    proxy.cut_within(5000);
    front.cut();
    go_on(&mut host, 60, 100);
    front.check();
    assert!(fake.server().script.repeated > 0, "nothing was repeated");
    // A byte that is not the one that was sent, anywhere.
    proxy.spoil_within(20_000);
    front.cut();
    go_on(&mut host, 30, 2000);
    assert_eq!(fake.server().script.misused, 0);
    for (number, len) in made.into_iter().enumerate() {
        let found = fake.server().content(&format!("f{number}"));
        assert!(found == pattern(len, number as u8), "{number}");
    }
}

#[test]
fn records_that_come_in_pieces_are_put_together() {
    let authority = Authority::new();
    let fake = Fake::start();
    let front = Front::of(&authority, fake.port);
    for bytes in [1, 7, 1000] {
        let proxy = Proxy::new(&Place::Tcp("127.0.0.1".into(), front.port));
        proxy.in_pieces_of(bytes);
        let Place::Tcp(_, port) = proxy.place() else {
            panic!("{}", proxy.place());
        };
        let mut host = mount(&by(*port, &authority.files()));
        let name = format!("f{bytes}");
        write(&mut host, &name, 90_000);
        is_as_written(&mut host, &name, 90_000);
    }
}

#[test]
fn a_server_that_is_no_longer_the_one_gets_nothing_until_it_is() {
    let authority = Authority::new();
    let other = Authority::new();
    let fake = Fake::start();
    let front = Front::of(&authority, fake.port);
    let mut config = by(front.port, &authority.files());
    config.options.timeo = 300_000_000;
    let mut host = mount(&config);
    write(&mut host, "f", 10_000);
    for manner in [
        Manner::Reply(vec![1, 0, 0, 0, 0]),
        Manner::Tls(front::config(&other, "server", false, &["sunrpc"])),
        Manner::Follow(Vec::new()),
        Manner::End,
    ] {
        front.become_one(manner);
        let before = (fake.calls(), front.connections());
        front.cut();
        let message = host.message(Opcode::LOOKUP, ROOT).name("f").room(128);
        let ticket = host.bed.send(&message);
        while front.connections() < before.1 + 3 {
            host.bed.round();
        }
        assert!(host.bed.answer(ticket).is_none());
        assert_eq!(fake.calls(), before.0);
        let config = front::config(&authority, "server", false, &["sunrpc"]);
        front.become_one(Manner::Tls(config));
        assert_eq!(host.bed.wait(ticket).error(), None);
        is_as_written(&mut host, "f", 10_000);
    }
    front.check();
}

#[test]
fn all_addresses_of_a_server_and_those_that_are_left_are_reached_by_tls() {
    let authority = Authority::new();
    authority.sign("two", &["127.0.0.2"], |_| ());
    authority.sign("three", &["127.0.0.3"], |_| ());
    let server = Ganesha::start(Default::default());
    let front = |last: u8, port: u16, file: &str| {
        let config = front::config(&authority, file, false, &["sunrpc"]);
        let at: SocketAddr = ([127, 0, 0, last], port).into();
        Front::at(at, Manner::Tls(config), server.port)
    };
    let two = front(2, 0, "two");
    let three = front(3, two.port, "three");
    let mut config = by(two.port, &authority.files());
    config.export = EXPORT.into();
    config.servers = vec!["127.0.0.2".into(), "127.0.0.3".into()];
    config.options.connections = 2;
    let mut host = mount(&config);
    write(&mut host, "a", 3 * PIECE);
    is_as_written(&mut host, "a", 3 * PIECE);
    // That of the mount, and one of the core.
    assert_eq!((two.sessions(), three.sessions()), (2, 2));
    let ended = Manner::End;
    two.become_one(ended);
    two.cut();
    write(&mut host, "b", 3 * PIECE);
    is_as_written(&mut host, "b", 3 * PIECE);
    two.check();
    three.check();
}

#[test]
fn a_referral_leads_to_a_server_that_is_reached_by_tls_too() {
    let authority = Authority::new();
    authority.sign("there", &["127.0.0.3"], |_| ());
    let (home, there) = (Fake::start(), Fake::start());
    let to = locations(&[(&["there"], "/srv/data")]);
    home.server().refer("data", to);
    there.server().directory("srv/data");
    let front = Front::of(&authority, home.port);
    let config_there = front::config(&authority, "there", false, &["sunrpc"]);
    let at: SocketAddr = ([127, 0, 0, 3], 0).into();
    let behind = Front::at(at, Manner::Tls(config_there), there.port);
    let mut config = by(front.port, &authority.files());
    config.referrals = vec![("there".into(), vec![format!("127.0.0.3:{}", behind.port)])];
    let (volume, mut host) = namespace(&config);
    assert_eq!(behind.connections(), 0);
    let data = host.lookup(ROOT, "data").unwrap();
    host.file(data.nodeid, "f", b"content");
    assert_eq!(there.calls() > 0, behind.sessions() > 0);
    assert_eq!(behind.sessions(), 1);
    for each in [&front, &behind] {
        each.check();
    }
    // One that is not the one is refused, rather than waited for.
    let other = Authority::new();
    other.sign("there", &["127.0.0.3"], |_| ());
    behind.become_one(Manner::Tls(front::config(
        &other,
        "there",
        false,
        &["sunrpc"],
    )));
    let mut host = core_of(volume, volume.attach(32).unwrap());
    let refused = host.lookup(ROOT, "data").map(drop);
    assert_eq!(refused, Err(Errno::EPERM));
}

#[test]
fn a_server_that_is_killed_and_comes_back_has_lost_nothing_that_was_answered() {
    let authority = Authority::new();
    let mut server = Ganesha::start(Default::default());
    let front = Front::of(&authority, server.port);
    let mut config = by(front.port, &authority.files());
    config.export = EXPORT.into();
    let mut host = mount(&config);
    let (entry, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    let content = pattern(8 * PIECE, 5);
    for (at, piece) in content.chunks(PIECE).enumerate() {
        let offset = (at * PIECE) as u64;
        let written = host.write(entry.nodeid, fh, offset, piece);
        assert_eq!(written, Ok(PIECE as u32));
        match at % 3 {
            0 => server.restart(),
            1 => front.cut(),
            _ => {}
        }
    }
    host.fsync(entry.nodeid, fh).unwrap();
    assert!(std::fs::read(server.path("f")).unwrap() == content);
    for (at, piece) in content.chunks(PIECE).enumerate() {
        let found = host.read(entry.nodeid, fh, (at * PIECE) as u64, PIECE as u32);
        assert!(found.unwrap() == piece, "{at}");
    }
    front.check();
}

/// Run a daemon until dropped.
struct Daemon(Child);

impl Daemon {
    /// Ask it to end; tell whether it did well.
    fn stop(&mut self) -> bool {
        let pid = self.0.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status();
        told.is_ok_and(|told| told.success()) && self.0.wait().is_ok_and(|end| end.success())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.stop();
        }
    }
}

#[test]
fn a_daemon_in_its_sandbox_serves_a_mount_by_tls_while_connections_are_cut() {
    use std::os::unix::fs::MetadataExt;
    let authority = Authority::new();
    let server = Ganesha::start(Default::default());
    let front = Front::of(&authority, server.port);
    let dir = tempfile::TempDir::new().unwrap();
    let (mount, config) = (dir.path().join("mount"), dir.path().join("dpfs.toml"));
    std::fs::create_dir(&mount).unwrap();
    let text = format!(
        "[runtime]\ndir = {:?}\n[[device]]\ntag = \"a\"\nhal = {{ kind = \"fuse\", mountpoint = {mount:?} }}\n\
         [device.backend]\nkind = \"nfs\"\nserver = \"127.0.0.1:{}\"\nexport = \"{EXPORT}\"\ntls = true\ntls_ca = {:?}\n",
        dir.path().join("run"),
        front.port,
        authority.path("ca"),
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dpfs"));
    command.args(["serve", "-c"]).arg(&config);
    let mut daemon = Daemon(command.spawn().unwrap());
    // A mount point is another file system than its folder.
    let device = |path: &std::path::Path| std::fs::metadata(path).map(|found| found.dev());
    while device(&mount).ok() == device(dir.path()).ok() {
        assert!(daemon.0.try_wait().unwrap().is_none(), "it ended");
        thread::sleep(Duration::from_millis(20));
    }
    for number in 0..30u8 {
        let path = mount.join(format!("file-{number}"));
        std::fs::write(path, pattern(300_000, number)).unwrap();
        if number % 10 == 9 {
            front.cut();
        }
    }
    for number in 0..30u8 {
        let content = std::fs::read(mount.join(format!("file-{number}"))).unwrap();
        assert!(content == pattern(300_000, number), "{number}");
    }
    assert!(front.sessions() > 3);
    front.check();
    assert!(daemon.stop());
}

/// Start the kernel's own server, which gives its export by TLS only.
fn kernels(authority: &Authority) -> Option<Knfsd> {
    let files = [
        (authority.path("ca"), "tls/ca"),
        (authority.path("server"), "tls/server"),
        (authority.path("server.key"), "tls/server.key"),
    ];
    Knfsd::start_as("nfsd-tls", &files, &["xprtsec=tls".into()])
}

/// Say how to reach it.
fn by_kernel(server: &Knfsd, files: Files) -> Config {
    let mut config = by(server.address.port(), &files);
    config.servers = vec![server.address.ip().to_string()];
    config.options.timeo = 10_000_000_000;
    config
}

#[test]
fn the_kernels_own_server_gives_by_tls_what_it_gives_to_nobody_else() {
    let authority = Authority::new();
    let Some(server) = kernels(&authority) else {
        return;
    };
    let named = Files {
        name: Some("kv.example".into()),
        ..authority.files()
    };
    let plain = Config {
        tls: None,
        ..by_kernel(&server, named.clone())
    };
    refused(&plain, "ERR_WRONGSEC");
    let mut config = by_kernel(&server, named.clone());
    config.options.connections = 2;
    let mut host = mount(&config);
    write(&mut host, "f", 6 * PIECE + 5);
    is_as_written(&mut host, "f", 6 * PIECE + 5);
    // Another client waits for a lock, and is told by the backchannel when it is free.
    let node = host.lookup(ROOT, "f").unwrap().nodeid;
    let fh = host.open(node, O_RDWR).unwrap();
    host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)).unwrap();
    config.device = "other".into();
    let mut other = mount(&config);
    let (its, its_fh) = crate::locks::opened(&mut other, "f");
    let taken = other.setlk(its, its_fh, 8, lock(F_WRLCK, 0, 9));
    assert_eq!(taken, Err(Errno::EAGAIN));
    host.setlk(node, fh, 7, lock(F_UNLCK, 0, 9)).unwrap();
    assert_eq!(other.setlk(its, its_fh, 8, lock(F_WRLCK, 0, 9)), Ok(()));
    // The address is none of the certificate's.
    let files = authority.files();
    refused(
        &by_kernel(&server, files),
        "which is tls_name or else the address",
    );
    refused(
        &by_kernel(&server, Authority::new().files()),
        "is signed by nobody of tls_ca",
    );
    // A client that is somebody is asked for who it is.
    let identity = |from: &Authority| {
        from.sign("client", &[], |_| ());
        Files {
            identity: Some((from.path("client"), from.path("client.key"))),
            ..named.clone()
        }
    };
    let mut host = mount(&by_kernel(&server, identity(&authority)));
    is_as_written(&mut host, "f", 6 * PIECE + 5);
    refused(
        &by_kernel(&server, identity(&Authority::new())),
        "TLS: the server refuses (AccessDenied)",
    );
}
