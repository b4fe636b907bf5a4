//! Several addresses: of one server, of several, of none.

use std::net::SocketAddr;

use dpfs::backend::nfs::Nfs;
use dpfs::backend::nfs::served::{self, Config};

use crate::fake::Fake;
use crate::host::*;
use crate::relay::Relay;
use crate::server::{Ganesha, Manner};

/// Relay by 127.0.0.`last` to a server, at a port of its own or at that of another relay.
fn path(last: u8, port: u16, server: u16) -> Relay {
    let to: SocketAddr = ([127, 0, 0, 1], server).into();
    Relay::at(([127, 0, 0, last], port).into(), to)
}

fn mount(port: u16, last: &[u8], change: impl FnOnce(&mut Config)) -> dpfs_harness::Host<Nfs> {
    let mut config = config(port);
    config.servers = last.iter().map(|last| format!("127.0.0.{last}")).collect();
    change(&mut config);
    let mut host = core(served::open(&config).unwrap());
    host.getattr(ROOT, None).unwrap();
    host
}

#[test]
fn connections_go_by_all_addresses_of_a_server_and_by_those_that_are_left() {
    let server = Ganesha::start(Manner::default());
    let one = path(2, 0, server.port);
    let other = path(3, one.port, server.port);
    let mut host = mount(one.port, &[2, 3], |config| config.options.connections = 2);
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    let mut calls = [one.calls(), other.calls()];
    for round in 0..30u8 {
        let closed = match round {
            0..10 => [false, false],
            10..20 => [true, false],
            _ => [false, true],
        };
        one.close(closed[0]);
        other.close(closed[1]);
        for at in 0..10 {
            let data = [round; 5000];
            let offset = (u64::from(round) * 10 + at) * 5000;
            assert_eq!(host.write(file.nodeid, fh, offset, &data), Ok(5000));
        }
        if round % 10 == 9 {
            let now = [one.calls(), other.calls()];
            for path in 0..2 {
                assert_eq!(now[path] > calls[path], !closed[path], "{round} {path}");
            }
            calls = now;
        }
    }
    for round in 0..30u8 {
        let found = host.read(file.nodeid, fh, u64::from(round) * 50_000, 50_000);
        assert!(found.unwrap() == [round; 50_000], "{round}");
    }
}

#[test]
fn an_address_of_another_server_is_left_out() {
    let server = Ganesha::start(Manner::default());
    let fake = Fake::start();
    let one = path(2, 0, server.port);
    let other = path(3, one.port, fake.port);
    let mut host = mount(one.port, &[2, 3], |config| {
        config.options.connections = 2;
        // Both have one.
        config.export = "/".into();
    });
    let asked = other.calls();
    assert!(asked > 0, "it was looked at");
    for _ in 0..20 {
        host.getattr(ROOT, None).unwrap();
    }
    assert_eq!(other.calls(), asked);
}

#[test]
fn an_address_where_nobody_is_does_not_prevent_a_mount_by_the_next() {
    let server = Ganesha::start(Manner::default());
    let one = path(2, 0, server.port);
    let mut host = mount(one.port, &[4, 2], |_| ());
    host.mkdir(ROOT, "d", 0o755).unwrap();
    let mut config = config(one.port);
    config.servers = vec!["127.0.0.4".into(), "no name".into()];
    let refused = served::open(&config).map(drop).unwrap_err();
    assert!(refused.starts_with("no name: "), "{refused}");
}
