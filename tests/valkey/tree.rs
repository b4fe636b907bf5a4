//! The whole file system on a server: what round trips it takes, and what others see.

use dpfs::backend::kv::fsck;
use dpfs::backend::kv::valkey::Valkey;
use dpfs::backend::kv::valkey::server::Config;
use dpfs::wire::errno::Errno;

use crate::engine::{attach, attach_to, config};
use crate::host::{Host, O_APPEND, O_TRUNC, ROOT};
use crate::proxy::Proxy;
use crate::server::{KINDS, Server};
use crate::xattr::reach_what_linux_allows;

/// Count the turns of one call.
pub fn turns<H, T>(proxy: &Proxy, host: &mut H, call: impl FnOnce(&mut H) -> T) -> u64 {
    let before = proxy.turns();
    call(host);
    proxy.turns() - before
}

/// Let what is done beside the requests come to its end.
pub fn settle(host: &mut Host<Valkey>) {
    for _ in 0..50 {
        host.bed.round();
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn round_trips_over_the_wire_are_as_few_as_promised() {
    let server = Server::start(KINDS[0], &[]);
    let proxy = Proxy::new(&server.place());
    let mut host = Host::over(attach(proxy.place(), "v"));
    // Numbers are reserved with the first name.
    host.create(ROOT, "first").unwrap();
    let file = host.create(ROOT, "file").unwrap().nodeid;
    settle(&mut host);
    let data = [7; 4096];
    let host = &mut host;
    assert_eq!(
        turns(&proxy, host, |host| host.lookup(ROOT, "file").unwrap()),
        1
    );
    assert_eq!(
        turns(&proxy, host, |host| host.lookup(ROOT, "none").unwrap_err()),
        1
    );
    assert_eq!(turns(&proxy, host, |host| host.getattr(file).unwrap()), 1);
    assert_eq!(turns(&proxy, host, |host| host.open(file, 2).unwrap()), 0);
    assert_eq!(
        turns(&proxy, host, |host| host
            .write(file, 0, &data, (0, 4))
            .unwrap()),
        1
    );
    assert_eq!(
        turns(&proxy, host, |host| host.read(file, 0, 4096).unwrap()),
        1
    );
    assert_eq!(
        turns(&proxy, host, |host| host.create(ROOT, "other").unwrap()),
        2
    );
    assert_eq!(
        turns(&proxy, host, |host| host.mkdir(ROOT, "dir").unwrap()),
        2
    );
    assert_eq!(
        turns(&proxy, host, |host| host.unlink(ROOT, "other").unwrap()),
        2
    );
    assert_eq!(
        turns(&proxy, host, |host| host
            .rename((ROOT, "file"), (ROOT, "new"), 0)
            .unwrap()),
        2
    );
    let copied = host.create(ROOT, "copied").unwrap().nodeid;
    assert_eq!(
        turns(&proxy, host, |host| host
            .copy((file, 0), (copied, 0), 4096)
            .unwrap()),
        2
    );
    // Sixteen chunks are one, too.
    host.write(file, 0, &[8; 65_536], (0, 0)).unwrap();
    let large =
        |host: &mut Host<Valkey>| assert_eq!(host.read(file, 0, 65_536).unwrap(), [8; 65_536]);
    assert!(
        turns(&proxy, host, large) <= 3,
        "a reply of several segments"
    );
    assert_eq!(proxy.connections(), 3, "made, prepared, served");
}

/// Do a bit of everything on a new volume, and look at what is left.
pub fn does_what_it_should(kind: &str, config: &Config<'_>) {
    let mut host = Host::over(attach_to(config));
    let file = host.create(ROOT, "file").unwrap().nodeid;
    let data: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8 + 1).collect();
    host.write(file, 3000, &data, (0, 0)).unwrap();
    let mut model = vec![0; 3000];
    model.extend_from_slice(&data);
    assert_eq!(host.read(file, 0, 1 << 20).unwrap(), model, "{kind}");
    host.truncate(file, 5000).unwrap();
    host.truncate(file, 30_000).unwrap();
    model.truncate(5000);
    model.resize(30_000, 0);
    host.write(file, 0, b"end", (O_APPEND, 0)).unwrap();
    model.extend_from_slice(b"end");
    host.fallocate(file, 4000, 500, 3).unwrap();
    model[4000..4500].fill(0);
    assert_eq!(host.read(file, 0, 65_536).unwrap(), model, "{kind}");
    let copy = host.create(ROOT, "copy").unwrap().nodeid;
    let len = model.len() as u64;
    assert_eq!(host.copy((file, 0), (copy, 0), 1 << 20), Ok(len as u32));
    assert_eq!(host.read(copy, 0, 65_536).unwrap(), model, "{kind}");
    host.unlink(ROOT, "copy").unwrap();
    host.forget(copy);
    host.open(file, 1 | O_TRUNC).unwrap();
    assert_eq!(host.getattr(file).unwrap().size, 0);
    host.setxattr(file, "user.x", b"value").unwrap();
    assert_eq!(host.getxattr(file, "user.x").unwrap(), b"value");
    assert_eq!(host.getxattr(file, "user.y"), Err(Errno::ENODATA));
    let dir = host.mkdir(ROOT, "dir").unwrap().nodeid;
    for number in 0..1000 {
        host.create(dir, &format!("a-file-with-a-name-{number}"))
            .unwrap();
    }
    assert_eq!(host.list(dir, 65_536).len(), 1002, "{kind}");
    host.symlink(ROOT, "link", "dir/target").unwrap();
    let link = host.lookup(ROOT, "link").unwrap().nodeid;
    assert_eq!(host.readlink(link).unwrap(), b"dir/target");
    host.unlink(ROOT, "file").unwrap();
    host.forget(file);
    settle(&mut host);
    let report = fsck::check(&mut attach_to(config), false, &mut |_, _| ()).unwrap();
    assert_eq!(report.damage, Vec::<String>::new(), "{kind}");
    assert_eq!(
        (report.inodes, report.orphans),
        (1003, 0),
        "{kind}: {report:?}"
    );
}

#[test]
fn a_file_system_on_each_server_does_what_it_should() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        does_what_it_should(kind, &config(&server.place(), "v"));
    }
}

#[test]
fn attributes_reach_what_linux_allows() {
    for kind in KINDS {
        let server = Server::start(kind, &[]);
        reach_what_linux_allows(&mut Host::over(attach(&server.place(), "v")));
    }
}

#[test]
fn two_daemons_see_what_the_other_does() {
    let server = Server::start(KINDS[0], &[]);
    let mut one = Host::over(attach(&server.place(), "v"));
    let mut two = Host::over(attach(&server.socket(), "v"));
    let file = one.create(ROOT, "file").unwrap().nodeid;
    one.write(file, 0, b"from one", (0, 0)).unwrap();
    let there = two.lookup(ROOT, "file").unwrap().nodeid;
    assert_eq!(two.read(there, 0, 100).unwrap(), b"from one");
    two.write(there, 5, b"two", (0, 0)).unwrap();
    assert_eq!(one.read(file, 0, 100).unwrap(), b"from two");
    assert_eq!(one.create(ROOT, "x").map(drop), Ok(()));
    two.rename((ROOT, "x"), (ROOT, "file"), 0).unwrap();
    assert_eq!(one.lookup(ROOT, "x").map(drop), Err(Errno::ENOENT));
    assert_eq!(one.snapshot(), two.snapshot());
}
