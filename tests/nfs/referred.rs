//! Referrals of real servers, to real servers that are killed, cut off and away.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use dpfs::backend::nfs::served::{self, Config};
use dpfs::backend::nfs::{Namespace, NamespaceVolume};
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::{ATTR_SUBMOUNT, Opcode};
use dpfs_harness::Ticket;

use crate::host::*;
use crate::knfsd::{Knfsd, REFERRAL};
use crate::relay::Relay;
use crate::server::{EXPORT, Ganesha, Manner};

/// Hold a host that mounted one server, and may be led to another by a relay.
struct Led {
    host: dpfs_harness::Host<Namespace>,
    volume: &'static NamespaceVolume,
    home: Ganesha,
    there: Ganesha,
    relay: Relay,
}

impl Led {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let home = Ganesha::start(Manner::default());
        let there = Ganesha::start(Manner {
            lease: 4,
            grace: 4,
            ..Manner::default()
        });
        home.refer("data", &format!("nfs2.example.org:{EXPORT}"));
        let relay = Relay::to(([127, 0, 0, 1], there.port).into());
        let mut config = config(home.port);
        let place = vec![format!("127.0.0.1:{}", relay.port)];
        config.referrals = vec![("nfs2.example.org".into(), place)];
        change(&mut config);
        let (volume, mut host) = namespace(&config);
        host.getattr(ROOT, None).unwrap();
        Self {
            host,
            volume,
            home,
            there,
            relay,
        }
    }

    /// Begin to write content, and do not wait.
    fn write(&mut self, (node, fh): (u64, u64), at: u64, data: &[u8]) -> Ticket {
        let message = self.host.write_message(node, fh, at, data);
        self.host.bed.send(&message)
    }
}

#[test]
fn ganesha_refers_to_another_and_files_there_are_used_while_it_is_killed_and_cut_off() {
    let mut led = Led::new(|_| ());
    let data = led.host.lookup(ROOT, "data").unwrap();
    assert_eq!(data.attr.flags, ATTR_SUBMOUNT);
    let dir = data.nodeid;
    let root = fs::metadata(led.there.path("")).unwrap();
    assert_eq!(data.attr.mode, root.permissions().mode());
    let (file, fh) = led.host.create(dir, "f", O_RDWR, 0o644).unwrap();
    let node = file.nodeid;
    let (home, own) = led.host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    assert_eq!(led.host.setlk(node, fh, 1, lock(F_WRLCK, 0, 9)), Ok(()));
    // Killed and cut off while much is being written.
    let block = |round: u8, at: u8| vec![round ^ at; 64 << 10];
    for round in 0..4 {
        let tickets: Vec<_> = (0..16)
            .map(|at| led.write((node, fh), u64::from(at) << 16, &block(round, at)))
            .collect();
        match round % 2 {
            0 => led.there.restart(),
            _ => led.relay.cut(),
        }
        // The server that is mounted goes on meanwhile.
        assert_eq!(led.host.write(home.nodeid, own, 0, &[round; 100]), Ok(100));
        for ticket in tickets {
            assert_eq!(led.host.finish(ticket), Ok(()));
        }
        assert_eq!(led.host.lookup(ROOT, "data").unwrap().nodeid, dir);
        for at in 0..16 {
            let read = led.host.read(node, fh, u64::from(at) << 16, 64 << 10);
            assert_eq!(read.unwrap(), block(round, at), "{round}, {at}");
        }
    }
    led.host.fsync(node, fh).unwrap();
    // Its lock was claimed again.
    let mut other = crate::host::config(led.there.port);
    other.device = "other".into();
    let mut other = core(served::open(&other).unwrap());
    let (its, its_fh) = crate::locks::opened(&mut other, "f");
    let refused = other.setlk(its, its_fh, 2, lock(F_WRLCK, 0, 0));
    assert_eq!(refused, Err(Errno::EAGAIN));
    led.host.release(node, fh).unwrap();
    let written = fs::read(led.there.path("f")).unwrap();
    assert_eq!(written.len(), 1 << 20);
    assert_eq!(written[..64 << 10], block(3, 0));
    assert_eq!(fs::read(led.home.path("f")).unwrap(), [3; 100]);
    assert!(!led.there.path("data").exists());
    assert_eq!(led.host.bed.unanswered(), 0);
}

#[test]
fn the_kernels_server_refers_to_ganesha() {
    let Some(server) = Knfsd::shared() else {
        return;
    };
    let there = Ganesha::start(Manner::default());
    let relay = Relay::to(server.address);
    let mut config = config(relay.port);
    config.export = "/".into();
    config.device = "referral".into();
    let place = vec![format!("127.0.0.1:{}", there.port)];
    config.referrals = vec![("nfs2.example.org".into(), place)];
    let (_, mut host) = namespace(&config);
    let listed = host.list(ROOT, 4096, true);
    let shown = listed.iter().find(|entry| entry.name == REFERRAL).unwrap();
    assert!(shown.entry.is_none());
    let before = relay.calls();
    let found = host.lookup(ROOT, REFERRAL).unwrap();
    assert_eq!(found.attr.flags, ATTR_SUBMOUNT);
    assert!(relay.calls() - before >= 2);
    let (file, fh) = host.create(found.nodeid, "f", O_RDWR, 0o644).unwrap();
    assert_eq!(
        host.write(file.nodeid, fh, 0, b"by way of the kernel's"),
        Ok(22)
    );
    host.fsync(file.nodeid, fh).unwrap();
    assert_eq!(
        fs::read(there.path("f")).unwrap(),
        b"by way of the kernel's"
    );
    assert_eq!(host.read(file.nodeid, fh, 3, 3).unwrap(), b"way");
    // What the kernel's server has and ganesha has not is there on the one, and refused by the other.
    let own = host.file(ROOT, "referring", b"own").nodeid;
    host.setxattr(own, "user.a", b"value", 0).unwrap();
    let set = host.setxattr(file.nodeid, "user.a", b"value", 0);
    assert_eq!(set, Err(Errno::EOPNOTSUPP));
    assert_eq!(host.getxattr(own, "user.a", 9).unwrap(), b"value");
    host.release(file.nodeid, fh).unwrap();
    host.unlink(found.nodeid, "f").unwrap();
    assert!(!there.path("f").exists());
    assert_eq!(host.bed.unanswered(), 0);
}

#[test]
fn a_server_that_comes_late_or_is_frozen_is_waited_for_only_by_those_who_work_there() {
    let mut led = Led::new(|config| config.options.timeo = 1_000_000_000);
    led.there.kill();
    let found = led.host.lookup(ROOT, "data").map(drop);
    assert_eq!(found, Err(Errno::ETIMEDOUT));
    led.host.file(ROOT, "f", b"content");
    assert_eq!(led.relay.calls(), 0);
    led.there.restart();
    let end = Instant::now() + Duration::from_secs(20);
    let dir = loop {
        assert!(Instant::now() < end);
        if let Ok(found) = led.host.lookup(ROOT, "data") {
            break found.nodeid;
        }
    };
    // The names of a directory, its files, and what is not there.
    fs::write(led.there.path("g"), b"there").unwrap();
    let names = led.host.list(dir, 4096, true);
    assert!(names.iter().any(|entry| entry.name == "g"));
    assert_eq!(led.host.lookup(dir, "f").map(drop), Err(Errno::ENOENT));
    let shown = led.host.list(ROOT, 4096, true);
    let data = shown.iter().find(|entry| entry.name == "data").unwrap();
    assert!(data.entry.is_none());
    // Frozen, it keeps those who ask for its files, and nobody else.
    led.there.freeze(true);
    let message = led.host.message(Opcode::LOOKUP, dir).name("g").room(128);
    let waits = led.host.bed.send(&message);
    for at in 0..3 {
        assert_eq!(led.host.lookup(ROOT, "data").unwrap().nodeid, dir);
        led.host.file(ROOT, &format!("f{at}"), b"content");
    }
    assert!(led.host.bed.answer(waits).is_none());
    led.there.freeze(false);
    assert_eq!(led.host.finish(waits), Ok(()));
    assert_eq!(led.host.bed.unanswered(), 0);
}

#[test]
fn a_referral_to_nowhere_is_an_error() {
    let mut led = Led::new(|_| ());
    for (name, place, errno) in [
        ("stranger", "192.0.2.1:/share", Errno::EREMOTE),
        ("lost", "nfs2.example.org:/nothing/here", Errno::ENOENT),
        ("up", "nfs2.example.org:/share/../share", Errno::EIO),
    ] {
        led.home.refer(name, place);
        let found = led.host.lookup(ROOT, name).map(drop);
        assert_eq!(found, Err(errno), "{name}");
    }
    assert_eq!(led.volume.nodes(), 1);
}
