//! The engine by TLS: what it does without, and who is not talked to.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use dpfs::backend::kv::valkey::objects::server::Keys;
use dpfs::backend::kv::valkey::request::Durability;
use dpfs::backend::kv::valkey::server::{Config, Place, Server as Volume};
use dpfs::backend::tls::Files;
use rcgen::date_time_ymd;

use crate::authority::Authority;
use crate::cluster::Cluster;
use crate::engine::{attach_to, config};
use crate::failover::{is_whole_by, make, make_while};
use crate::faults::{is_whole, work, work_while_killed};
use crate::flat::{TRAITS, mount};
use crate::host::{Host, ROOT};
use crate::proxy::Proxy;
use crate::server::{KINDS, Server};
use crate::suite::suite;
use crate::tree::does_what_it_should;

/// Give the arguments of a server with this certificate; whether clients have one `tells` ("yes", "no").
fn arguments(authority: &Authority, file: &str, tells: &str) -> Vec<String> {
    let shown = |file: &str| authority.path(file).display().to_string();
    let named = [
        ("--tls-cert-file", shown(file)),
        ("--tls-key-file", shown(&format!("{file}.key"))),
        ("--tls-ca-cert-file", shown("ca")),
        ("--tls-auth-clients", tells.to_string()),
    ];
    let words = named
        .into_iter()
        .flat_map(|(name, value)| [name.to_string(), value]);
    words.collect()
}

/// Start a server with TLS.
fn start(kind: &str, authority: &Authority, more: &[&str]) -> Server {
    let arguments = arguments(authority, "server", "no");
    let mut all: Vec<&str> = arguments.iter().map(String::as_str).collect();
    all.extend(more);
    Server::start_tls(kind, &all)
}

/// Say how to reach volume "v".
fn by<'a>(place: &'a Place, files: &'a Files) -> Config<'a> {
    Config {
        tls: Some(files),
        ..config(place, "v")
    }
}

#[test]
fn a_file_system_by_tls_does_what_it_does_without() {
    let authority = Authority::new();
    let files = authority.files();
    for kind in KINDS {
        let server = start(kind, &authority, &[]);
        let place = server.secure();
        does_what_it_should(kind, &by(&place, &files));
        let found = Volume::look(&by(&place, &files)).unwrap();
        assert!(found.contains("is there, in chunks of 4 KiB"), "{found}");
    }
}

#[test]
fn files_are_keys_of_a_server_by_tls() {
    let authority = Authority::new();
    let files = authority.files();
    for kind in KINDS {
        let server = start(kind, &authority, &[]);
        suite(&mut mount(&by(&server.secure(), &files)), &TRAITS);
    }
}

#[test]
fn every_node_of_a_cluster_is_reached_by_tls_and_one_that_is_killed_is_replaced() {
    let authority = Authority::new();
    let arguments = arguments(&authority, "server", "yes");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let among = ["--tls-cluster", "yes", "--tls-replication", "yes"];
    let all = [&among[..], &arguments].concat();
    let mut cluster = Cluster::begin("valkey", &all, Server::start_tls);
    authority.sign("client", &[], |_| ());
    let files = Files {
        identity: Some((authority.path("client"), authority.path("client.key"))),
        ..authority.files()
    };
    let places: Vec<Place> = cluster.nodes.iter().map(Server::secure).collect();
    let reached = |places| Config {
        places,
        durability: Some(Durability::Replicas(1)),
        ..by(&places[0], &files)
    };
    let mut host = Host::over(attach_to(&reached(&places)));
    for number in 0..10 {
        make(&mut host, number);
    }
    let number = make_while(&mut host, 10, || {
        let old = cluster.owner("v");
        cluster.has_replicated(old);
        cluster.nodes[old].kill();
        cluster.new_owner(old, "v");
        cluster.nodes[old].start_again();
    });
    is_whole_by(&reached(&places), 0..number);
    // Keys are everywhere: those of all nodes are files.
    let config = Config {
        durability: None,
        ..reached(&places)
    };
    let mut keys = mount(&config);
    for number in 0..100u8 {
        let name = format!("key-{number}");
        crate::suite::file(&mut keys, &name, &[number; 5000]);
    }
    let mut other = mount(&config);
    for number in 0..100u8 {
        let file = other.lookup(ROOT, &format!("key-{number}")).unwrap().nodeid;
        assert_eq!(other.read(file, 0, 0, 8192).unwrap(), [number; 5000]);
    }
}

/// Hold why a volume and keys cannot be opened against what is to be said.
fn refused(place: &Place, files: Option<&Files>, wanted: &str) {
    let config = Config {
        tls: files,
        ..config(place, "v")
    };
    for error in [
        Volume::open(&config).err(),
        Volume::look(&config).err(),
        Keys::open(&config).err(),
    ] {
        let error = error.expect("a refusal");
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn a_server_that_is_not_the_one_is_refused_in_words() {
    let (authority, other) = (Authority::new(), Authority::new());
    let files = authority.files();
    let server = start("valkey", &authority, &[]);
    let place = server.secure();
    refused(
        &place,
        Some(&other.files()),
        "is signed by nobody of tls_ca; allowed: one that leads to /",
    );
    let named = |name: &str| Files {
        name: Some(name.into()),
        ..authority.files()
    };
    refused(
        &place,
        Some(&named("kv.other")),
        "; allowed: \"kv.other\", which is tls_name or else the address",
    );
    refused(&place, Some(&named("127.0.0.2")), "allowed: \"127.0.0.2\"");
    Volume::look(&by(&place, &named("kv.example"))).unwrap();
    // What was looked up is what it is to be, not its address.
    let Place::Tcp(_, port) = place else {
        panic!("{place}");
    };
    refused(
        &Place::Tcp("localhost".into(), port),
        Some(&files),
        "allowed: \"localhost\"",
    );
    Volume::look(&by(
        &Place::Tcp("localhost".into(), port),
        &named("kv.example"),
    ))
    .unwrap();
    authority.sign("old", &["127.0.0.1"], |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    authority.sign("early", &["127.0.0.1"], |params| {
        params.not_before = date_time_ymd(2200, 1, 1);
        params.not_after = date_time_ymd(2201, 1, 1);
    });
    for (file, wanted) in [
        ("old", "has expired by this machine's clock"),
        ("early", "is not valid yet by this machine's clock"),
    ] {
        let arguments = arguments(&authority, file, "no");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let server = Server::start_tls("valkey", &arguments);
        refused(&server.secure(), Some(&files), wanted);
    }
}

#[test]
fn a_server_that_wants_to_know_the_client_is_told_who_it_is() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.sign("client", &[], |_| ());
    other.sign("client", &[], |_| ());
    let identity = |from: &Authority, key: &Authority| Files {
        identity: Some((from.path("client"), key.path("client.key"))),
        ..authority.files()
    };
    for kind in KINDS {
        let arguments = arguments(&authority, "server", "yes");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let server = Server::start_tls(kind, &arguments);
        let place = server.secure();
        refused(
            &place,
            Some(&authority.files()),
            "wants a certificate of this client; allowed: tls_cert and tls_key",
        );
        refused(
            &place,
            Some(&identity(&other, &other)),
            "the server refuses the certificate of tls_cert",
        );
        Volume::look(&by(&place, &identity(&authority, &authority))).unwrap();
        refused(
            &place,
            Some(&identity(&authority, &other)),
            "allowed: the key of tls_cert",
        );
    }
}

#[test]
fn who_speaks_tls_and_who_does_not_do_not_understand_each_other() {
    let authority = Authority::new();
    let files = authority.files();
    for kind in KINDS {
        let server = start(kind, &authority, &[]);
        refused(
            &server.place(),
            Some(&files),
            "allowed: a port where it speaks TLS",
        );
        let error = Volume::look(&config(&server.secure(), "v")).unwrap_err();
        assert!(error.contains("tls = true"), "{error}");
    }
}

#[test]
fn files_that_are_not_what_they_should_be_are_named() {
    let authority = Authority::new();
    authority.sign("client", &[], |_| ());
    let place = Place::Tcp("127.0.0.1".into(), 1);
    let ca = |name: &str| Files {
        ca: authority.path(name),
        ..authority.files()
    };
    refused(&place, Some(&ca("none")), "/none: No such file");
    refused(&place, Some(&ca("client.key")), "no certificate in it");
    std::fs::write(authority.path("torn"), "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
    refused(&place, Some(&ca("torn")), "tls_ca /");
    let key = Files {
        identity: Some((authority.path("client"), authority.path("ca"))),
        ..authority.files()
    };
    refused(&place, Some(&key), "PEM with a private key");
    let name = Files {
        name: Some("a..b".into()),
        ..authority.files()
    };
    refused(&place, Some(&name), "tls_name \"a..b\"");
}

#[test]
fn connections_that_break_anywhere_also_within_a_handshake_cost_time_and_nothing_else() {
    let authority = Authority::new();
    let files = authority.files();
    let server = start(KINDS[0], &authority, &[]);
    let proxy = Proxy::new(&server.secure());
    let mut host = Host::over(attach_to(&by(proxy.place(), &files)));
    let mut number = 0;
    let mut go_on = |host: &mut Host<_>, connections: u64| {
        let until = proxy.connections() + connections;
        while proxy.connections() < until {
            work(host, number..number + 1);
            number += 1;
        }
    };
    let kill = || {
        let mut connection = server.connect();
        connection.ask(&[b"CLIENT", b"KILL", b"TYPE", b"NORMAL"]);
    };
    proxy.cut_within(40_000);
    kill();
    go_on(&mut host, 60);
    // A handshake is 2 KiB, about.
    proxy.cut_within(4000);
    kill();
    thread::scope(|scope| {
        scope.spawn(|| {
            let from = proxy.connections();
            while proxy.connections() < from + 25 {
                thread::sleep(Duration::from_millis(5));
            }
            proxy.cut_within(0);
        });
        go_on(&mut host, 25);
    });
    // A byte that is not the one that was sent, anywhere.
    proxy.spoil_within(20_000);
    kill();
    go_on(&mut host, 40);
    is_whole(&config(&server.place(), "v"), 0..number);
}

#[test]
fn records_that_come_in_pieces_are_put_together() {
    let authority = Authority::new();
    let files = authority.files();
    let server = start(KINDS[0], &authority, &[]);
    let proxy = Proxy::new(&server.secure());
    for bytes in [1, 7, 1000] {
        proxy.in_pieces_of(bytes);
        let volume = format!("v{bytes}");
        let config = Config {
            volume: &volume,
            ..by(proxy.place(), &files)
        };
        let mut host = Host::over(attach_to(&config));
        let file = host.create(ROOT, "file").unwrap().nodeid;
        let data: Vec<u8> = (0..90_000u32).map(|at| (at % 251) as u8).collect();
        host.write(file, 5, &data, (0, 0)).unwrap();
        assert_eq!(host.read(file, 5, 1 << 20).unwrap(), data);
    }
}

#[test]
fn a_server_that_is_killed_under_load_and_comes_back_has_lost_nothing_that_was_answered() {
    let authority = Authority::new();
    let files = authority.files();
    for kind in KINDS {
        let aof = ["--appendonly", "yes", "--appendfsync", "always"];
        let server = start(kind, &authority, &aof);
        let place = server.secure();
        let mut host = Host::over(attach_to(&by(&place, &files)));
        let (server, number) = work_while_killed(server, &mut host);
        is_whole(&by(&server.secure(), &files), 0..number);
    }
}

/// Answer every connection with these bytes, once something was said, and wait for its end.
fn answers(bytes: &'static [u8]) -> Place {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::Tcp("127.0.0.1".into(), listener.local_addr().unwrap().port());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer);
                let _ = stream.write_all(bytes);
                while matches!(stream.read(&mut buffer), Ok(1..)) {}
            });
        }
    });
    place
}

#[test]
fn garbage_within_a_handshake_is_no_server() {
    let authority = Authority::new();
    let files = authority.files();
    let garbage: [(&[u8], &str); 5] = [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "what came is no TLS"),
        (b"-ERR unknown command\r\n", "what came is no TLS"),
        // A record of handshake that says it is a message of 16 MiB.
        (b"\x16\x03\x03\x00\x04\x02\xff\xff\xff", "TLS: "),
        // Alerts: of no such protocol, and of no such description.
        (
            b"\x15\x03\x03\x00\x02\x02\x46",
            "no TLS 1.3; allowed: TLS 1.3",
        ),
        (b"\x15\x03\x03\x00\x02\x02\xee", "the server refuses ("),
    ];
    for (bytes, wanted) in garbage {
        refused(&answers(bytes), Some(&files), wanted);
    }
}

#[test]
fn a_server_that_says_nothing_is_told_apart_from_one_that_is_not_there() {
    let authority = Authority::new();
    let files = authority.files();
    let error = Volume::look(&by(&answers(b""), &files)).unwrap_err();
    assert!(
        error.contains("does not go on with the handshake"),
        "{error}"
    );
}

#[test]
fn what_a_message_of_the_handshake_may_hold_is_bounded() {
    let authority = Authority::new();
    let files = authority.files();
    // A message of 16 MiB that never ends, record by record.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::Tcp("127.0.0.1".into(), listener.local_addr().unwrap().port());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let mut record = b"\x16\x03\x03\x40\x00\x02\xff\xff\xff".to_vec();
            record.resize(5 + 0x4000, 0);
            while stream.write_all(&record).is_ok() {
                record[5..9].fill(0);
            }
        }
    });
    refused(&place, Some(&files), "TLS: ");
}

#[test]
fn a_daemon_in_its_sandbox_serves_a_mount_by_tls_while_its_server_is_killed() {
    let authority = Authority::new();
    let aof = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = start(KINDS[0], &authority, &aof);
    let dir = tempfile::TempDir::new().unwrap();
    let (mount, config) = (dir.path().join("mount"), dir.path().join("dpfs.toml"));
    std::fs::create_dir(&mount).unwrap();
    let text = format!(
        "[runtime]\ndir = {:?}\n[[device]]\ntag = \"a\"\nhal = {{ kind = \"fuse\", mountpoint = {mount:?} }}\n\
         [device.backend]\nkind = \"kv\"\nengine = \"valkey\"\naddress = \"{}\"\nvolume = \"v\"\ntls = true\ntls_ca = {:?}\n",
        dir.path().join("run"),
        server.secure(),
        authority.path("ca"),
    );
    std::fs::write(&config, text).unwrap();
    let mut daemon = std::process::Command::new(env!("CARGO_BIN_EXE_dpfs"))
        .args(["serve", "-c"])
        .arg(&config)
        .spawn()
        .unwrap();
    let number = |at: u8| (mount.join(format!("file-{at}")), vec![at; 100_000]);
    // A mount point is another file system than its folder.
    use std::os::unix::fs::MetadataExt;
    let device = |path: &std::path::Path| std::fs::metadata(path).map(|found| found.dev());
    while device(&mount).ok() == device(dir.path()).ok() {
        assert!(daemon.try_wait().unwrap().is_none(), "it ended");
        thread::sleep(Duration::from_millis(20));
    }
    for round in 0..3 {
        for at in 0..20 {
            let (path, content) = number(at + round * 20);
            let mut file = std::fs::File::create(path).unwrap();
            file.write_all(&content).unwrap();
            file.sync_all().unwrap();
        }
        server.kill();
        server.start_again();
    }
    for at in 0..60 {
        let (path, content) = number(at);
        assert!(std::fs::read(path).unwrap() == content, "{at}");
    }
    // SAFETY: plain call, to a child that was not waited for.
    unsafe { libc::kill(daemon.id() as i32, libc::SIGTERM) };
    assert!(daemon.wait().unwrap().success());
}
