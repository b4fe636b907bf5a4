//! A file system that moves to another server while it is in use. All servers are scripted.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use dpfs::backend::nfs::served::Config;
use dpfs::backend::nfs::{Namespace, NamespaceVolume};
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::{InitFlags, Opcode};
use dpfs::wire::nfs4::{Status, op};
use dpfs_harness::Ticket;

use crate::fake::files::{locations, locations_of};
use crate::fake::{Act, Fake, Server};
use crate::host::*;

const HOME: usize = 0;
const THERE: usize = 1;
const THIRD: usize = 2;
/// What the servers call each other.
const NAMES: [&str; 3] = ["home.example.org", "there", "third"];
/// The export, at each of them.
const PATHS: [&str; 3] = ["srv/data", "vol/new", "third"];

const LEASE_MOVED: u32 = 0x80;

/// Hold three servers, and a host that mounted an export of the first and may be led to the others.
struct Moving {
    host: dpfs_harness::Host<Namespace>,
    volume: &'static NamespaceVolume,
    fakes: [Fake; 3],
}

impl Deref for Moving {
    type Target = dpfs_harness::Host<Namespace>;

    fn deref(&self) -> &Self::Target {
        &self.host
    }
}

impl DerefMut for Moving {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.host
    }
}

/// Say where one of them has it.
fn at(server: usize) -> Vec<u8> {
    to(&[(server, PATHS[server])])
}

/// Say where it may be, as the first server does.
fn to(places: &[(usize, &str)]) -> Vec<u8> {
    let places: Vec<_> = places
        .iter()
        .map(|(server, path)| (&NAMES[*server..=*server], *path))
        .collect();
    locations(&places)
}

impl Moving {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let fakes = [Fake::start(), Fake::start(), Fake::start()];
        fakes[HOME].server().directory(PATHS[HOME]);
        let mut config = config(fakes[HOME].port);
        config.export = format!("/{}", PATHS[HOME]);
        config.options.timeo = 300_000_000;
        for (name, fake) in NAMES.iter().zip(&fakes) {
            let place = vec![format!("127.0.0.1:{}", fake.port)];
            config.referrals.push(((*name).into(), place));
        }
        change(&mut config);
        let (volume, mut host) = namespace(&config);
        host.getattr(ROOT, None).unwrap();
        Self {
            host,
            volume,
            fakes,
        }
    }

    fn server(&self, which: usize) -> std::sync::MutexGuard<'_, Server> {
        self.fakes[which].server()
    }

    /// Have all files of one server at another, too, where what is not durable is not known. Their handles are the same.
    fn copy(&self, from: usize, to: usize) {
        let mut tree = self.server(from).tree.clone();
        let here = PATHS[from].split('/').collect::<Vec<_>>();
        let mut server = self.server(to);
        std::mem::swap(&mut server.tree, &mut tree);
        let mut parent = 1;
        let place = PATHS[to].rsplit_once('/');
        if let Some((above, _)) = place {
            parent = server.directory(above);
        }
        let mut old = 1;
        for name in &here[..here.len() - 1] {
            old = server.tree.lookup(old, name.as_bytes()).unwrap();
        }
        let (last, name) = (
            here[here.len() - 1],
            place.map_or(PATHS[to], |(_, name)| name),
        );
        if server.tree.lookup(parent, name.as_bytes()).is_err() {
            let (old, new) = ((old, last.as_bytes()), (parent, name.as_bytes()));
            server.tree.rename(old, new).unwrap();
        }
        server.move_away(PATHS[to], None);
        drop(server);
    }

    /// Say at one of them that the file system is elsewhere.
    fn leave(&self, from: usize, locations: &[u8]) {
        self.server(from).move_away(PATHS[from], Some(locations));
    }

    /// Move the file system from one to another.
    fn go(&self, from: usize, to: usize) {
        self.copy(from, to);
        self.leave(from, &at(to));
    }

    fn content(&self, which: usize, name: &str) -> Vec<u8> {
        let mut server = self.server(which);
        let dir = server.directory(PATHS[which]);
        let file = server.tree.lookup(dir, name.as_bytes()).unwrap();
        server.tree.node(file).unwrap().data.clone()
    }

    fn begin_getattr(&mut self, node: u64) -> Ticket {
        let message = self
            .message(Opcode::GETATTR, node)
            .arg(&[0u64; 2])
            .room(256);
        self.bed.send(&message)
    }

    /// Make a file of the root, and keep it open.
    fn opened(&mut self, name: &str) -> (u64, u64) {
        let (file, fh) = self.create(ROOT, name, O_RDWR, 0o644).unwrap();
        (file.nodeid, fh)
    }

    fn count(&self, which: usize, operation: u32) -> usize {
        self.server(which).script.count(operation)
    }

    fn check(&mut self) {
        for fake in &self.fakes {
            let server = fake.server();
            assert!(server.script.is_over(), "not all was played");
            assert_eq!(server.script.misused, 0, "slots were misused");
        }
        assert_eq!(self.bed.unanswered(), 0);
    }
}

#[test]
fn open_files_locks_and_what_was_not_durable_go_along() {
    let mut host = Moving::new();
    let dir = host.mkdir(ROOT, "dir", 0o755).unwrap();
    let (node, fh) = host.opened("f");
    let (file, other) = host.create(dir.nodeid, "g", O_RDWR, 0o644).unwrap();
    let ino = host.getattr(node, None).unwrap().ino;
    host.write(node, fh, 0, b"durable").unwrap();
    host.fsync(node, fh).unwrap();
    // The other server has what was durable; its verifier is by chance the same.
    host.copy(HOME, THERE);
    host.write(node, fh, 7, b" and not").unwrap();
    assert_eq!(host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)), Ok(()));
    assert_eq!(host.setlk(node, fh, 8, lock(F_RDLCK, 20, 29)), Ok(()));
    host.leave(HOME, &at(THERE));
    assert_eq!(host.read(node, fh, 0, 99).unwrap(), b"durable and not");
    assert_eq!(host.content(THERE, "f"), b"durable and not");
    assert_eq!(host.server(THERE).states.count(true), 2);
    assert_eq!(host.write(file.nodeid, other, 0, b"there"), Ok(5));
    host.fsync(file.nodeid, other).unwrap();
    assert_eq!(host.getattr(node, None).unwrap().ino, ino);
    assert_eq!(host.lookup(ROOT, "dir").unwrap().nodeid, dir.nodeid);
    assert_eq!(host.setlk(node, fh, 7, lock(F_UNLCK, 0, 9)), Ok(()));
    assert_eq!(host.setlk(node, fh, 8, lock(F_UNLCK, 20, 29)), Ok(()));
    assert_eq!(host.server(THERE).states.count(true), 0);
    host.release(node, fh).unwrap();
    host.release(file.nodeid, other).unwrap();
    assert_eq!(host.server(THERE).states.count(false), 0);
    // Nothing is asked of the old one any more.
    let before = host.fakes[HOME].calls();
    host.file(ROOT, "h", b"new");
    host.idle(50);
    assert_eq!(host.fakes[HOME].calls(), before);
    assert_eq!(host.content(THERE, "h"), b"new");
    host.check();
}

#[test]
fn every_operation_that_meets_the_move_is_done_at_the_other_server() {
    type Does = fn(&mut Moving, (u64, u64));
    let does: [Does; 20] = [
        |host, _| assert!(host.getattr(ROOT, None).is_ok()),
        |host, _| assert_eq!(host.lookup(ROOT, "f").map(drop), Ok(())),
        |host, _| assert_eq!(host.lookup(ROOT, "none").map(drop), Err(Errno::ENOENT)),
        |host, (node, fh)| assert_eq!(host.read(node, fh, 0, 9).unwrap(), b"content"),
        |host, (node, fh)| assert_eq!(host.write(node, fh, 0, b"x"), Ok(1)),
        |host, (node, fh)| host.fsync(node, fh).unwrap(),
        |host, _| host.syncfs(ROOT).unwrap(),
        |host, (node, fh)| {
            let set = host.setattr(node, &size_change(3, Some(fh)));
            assert_eq!(set.unwrap().size, 3);
        },
        |host, (node, _)| assert!(host.setattr(node, &size_change(3, None)).is_ok()),
        |host, _| assert!(host.mkdir(ROOT, "made", 0o755).is_ok()),
        |host, _| assert!(host.mknod(ROOT, "made", 0o100_644, 0).is_ok()),
        |host, _| assert!(host.create(ROOT, "made", O_RDWR, 0o644).is_ok()),
        |host, _| assert!(host.create(ROOT, "made", O_RDWR | O_EXCL, 0o644).is_ok()),
        |host, (node, _)| assert!(host.link(node, ROOT, "made").is_ok()),
        |host, _| host.rename((ROOT, "f"), (ROOT, "g"), 0).unwrap(),
        |host, _| host.unlink(ROOT, "f").unwrap(),
        |host, _| assert_eq!(host.list(ROOT, 4096, true).len(), 4),
        |host, (node, fh)| assert_eq!(host.setlk(node, fh, 1, lock(F_WRLCK, 0, 9)), Ok(())),
        |host, (node, _)| assert!(host.open(node, O_RDWR).is_ok()),
        |host, _| assert!(host.statfs(ROOT).is_ok()),
    ];
    for (which, does) in does.into_iter().enumerate() {
        let mut host = Moving::new();
        let (node, fh) = host.opened("f");
        host.write(node, fh, 0, b"content").unwrap();
        host.mkdir(ROOT, "other", 0o755).unwrap();
        host.go(HOME, THERE);
        does(&mut host, (node, fh));
        host.release(node, fh).unwrap();
        assert!(host.count(THERE, op::SEQUENCE) > 3, "{which}");
        host.check();
    }
    // What is closed is closed, and what was written is there.
    let mut host = Moving::new();
    let (node, fh) = host.opened("f");
    host.copy(HOME, THERE);
    host.write(node, fh, 0, b"content").unwrap();
    host.leave(HOME, &at(THERE));
    host.release(node, fh).unwrap();
    assert_eq!(host.content(THERE, "f"), b"content");
    host.check();
}

#[test]
fn a_file_without_a_name_goes_along_and_then_goes() {
    let mut host = Moving::new();
    let (node, fh) = host.opened("f");
    host.write(node, fh, 0, b"content").unwrap();
    host.unlink(ROOT, "f").unwrap();
    host.go(HOME, THERE);
    assert_eq!(host.read(node, fh, 0, 9).unwrap(), b"content");
    assert_eq!(
        host.server(THERE).directory(PATHS[THERE]),
        host.server(HOME).directory(PATHS[HOME])
    );
    host.release(node, fh).unwrap();
    host.until(|host| {
        let mut server = host.server(THERE);
        let dir = server.directory(PATHS[THERE]);
        server.tree.node(dir).unwrap().children.is_empty()
    });
    host.check();
}

#[test]
fn whoever_works_waits_while_the_other_server_is_away() {
    let mut host = Moving::new();
    let (node, fh) = host.opened("f");
    assert_eq!(host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)), Ok(()));
    host.go(HOME, THERE);
    host.server(THERE).script.closed = true;
    let message = host.host.write_message(node, fh, 0, b"text");
    let waits = [host.begin_getattr(ROOT), host.bed.send(&message)];
    host.idle(500);
    assert!(
        waits
            .iter()
            .all(|ticket| host.bed.answer(*ticket).is_none())
    );
    // Now and then the first is asked whether it is still so.
    let before = host.fakes[HOME].calls();
    host.idle(1500);
    let calls = host.fakes[HOME].calls() - before;
    assert!((1..100).contains(&calls), "{calls}");
    host.server(THERE).script.closed = false;
    for ticket in waits {
        assert_eq!(host.finish(ticket), Ok(()));
    }
    assert_eq!(host.server(THERE).states.count(true), 1);
    host.check();
}

#[test]
fn a_soft_host_gives_up() {
    let mut host = Moving::with(|config| config.options.soft = true);
    let (node, fh) = host.opened("f");
    host.go(HOME, THERE);
    host.server(THERE).script.closed = true;
    assert_eq!(host.read(node, fh, 0, 9), Err(Errno::EIO));
    assert_eq!(host.getattr(ROOT, None).map(drop), Err(Errno::EIO));
    host.server(THERE).script.closed = false;
    host.until(|host| host.read(node, fh, 0, 9).is_ok());
    host.check();
}

#[test]
fn it_may_come_back_while_it_is_looked_for() {
    let mut host = Moving::new();
    let (node, fh) = host.opened("f");
    assert_eq!(host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)), Ok(()));
    host.write(node, fh, 0, b"content").unwrap();
    host.leave(HOME, &at(THERE));
    host.server(THERE).script.closed = true;
    let waits = host.begin_getattr(node);
    host.idle(300);
    assert!(host.bed.answer(waits).is_none());
    host.server(HOME).move_away(PATHS[HOME], None);
    assert_eq!(host.finish(waits), Ok(()));
    assert_eq!(host.read(node, fh, 0, 9).unwrap(), b"content");
    assert_eq!(host.setlk(node, fh, 7, lock(F_UNLCK, 0, 9)), Ok(()));
    assert_eq!(host.server(HOME).states.count(true), 0);
    host.release(node, fh).unwrap();
    host.check();
}

#[test]
fn it_moves_on_and_back_again() {
    let mut host = Moving::new();
    let (node, fh) = host.opened("f");
    assert_eq!(host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)), Ok(()));
    let mut content: Vec<u8> = Vec::new();
    for (from, to) in [(HOME, THERE), (THERE, THIRD), (THIRD, HOME), (HOME, THERE)] {
        let offset = content.len() as u64;
        host.copy(from, to);
        host.write(node, fh, offset, b"more").unwrap();
        content.extend(b"more");
        host.leave(from, &at(to));
        assert_eq!(host.read(node, fh, 0, 99).unwrap(), content);
        host.fsync(node, fh).unwrap();
        assert_eq!(host.content(to, "f"), content);
        assert_eq!(host.server(to).states.count(true), 1, "{to}");
    }
    host.check();
}

#[test]
fn one_server_sends_on_to_the_next() {
    let mut host = Moving::new();
    let (node, fh) = host.opened("f");
    host.write(node, fh, 0, b"content").unwrap();
    host.go(HOME, THERE);
    host.go(THERE, THIRD);
    assert_eq!(host.read(node, fh, 0, 9).unwrap(), b"content");
    assert_eq!(host.content(THIRD, "f"), b"content");
    host.check();
}

#[test]
fn servers_that_send_to_each_other_are_not_followed_for_ever() {
    let mut host = Moving::new();
    let (node, fh) = host.opened("f");
    host.copy(HOME, THERE);
    host.leave(HOME, &at(THERE));
    host.leave(THERE, &at(HOME));
    let before = host.fakes[HOME].calls() + host.fakes[THERE].calls();
    for _ in 0..5 {
        assert_eq!(host.read(node, fh, 0, 9), Err(Errno::ELOOP));
        assert_eq!(host.getattr(ROOT, None).map(drop), Err(Errno::ELOOP));
    }
    let calls = host.fakes[HOME].calls() + host.fakes[THERE].calls() - before;
    assert!(calls < 150, "{calls}");
    host.server(THERE).move_away(PATHS[THERE], None);
    host.until(|host| host.read(node, fh, 0, 9).is_ok());
    host.write(node, fh, 0, b"there").unwrap();
    host.fsync(node, fh).unwrap();
    assert_eq!(host.content(THERE, "f"), b"there");
    host.check();
}

#[test]
fn nobody_is_led_to_a_server_that_may_not_be_followed_to() {
    let mut host = Moving::new();
    let (node, fh) = host.opened("f");
    let stranger = locations(&[(&["stranger"], "srv/data"), (&["192.0.2.1"], "srv/data")]);
    for locations in [stranger, locations(&[])] {
        host.leave(HOME, &locations);
        let before = host.fakes[HOME].calls();
        assert_eq!(host.read(node, fh, 0, 9), Err(Errno::EREMOTE));
        assert_eq!(host.getattr(ROOT, None).map(drop), Err(Errno::EREMOTE));
        assert!(host.fakes[HOME].calls() - before < 8);
    }
    assert_eq!(host.fakes[THERE].connected(), 0);
    host.server(HOME).move_away(PATHS[HOME], None);
    assert_eq!(host.read(node, fh, 0, 9).unwrap(), b"");
    host.check();
}

#[test]
fn a_place_that_does_not_have_it_is_passed_over() {
    let refusals: [fn(&mut Server); 4] = [
        |_| (),
        |server| server.at(op::EXCHANGE_ID, 0, 1000, Act::Status(Status::ERR_ACCESS)),
        |server| server.at(op::PUTROOTFH, 0, 1000, Act::Status(Status::ERR_WRONGSEC)),
        |server| {
            // Another file system, with other handles.
            server.directory(PATHS[THERE]);
            server.tree.generation = 7;
        },
    ];
    let wanted = [Errno::ENOENT, Errno::EACCES, Errno::EPERM, Errno::ESTALE];
    for (refuse, wanted) in refusals.into_iter().zip(wanted) {
        let mut host = Moving::new();
        let (node, fh) = host.opened("f");
        host.write(node, fh, 0, b"content").unwrap();
        refuse(&mut host.server(THERE));
        host.copy(HOME, THIRD);
        let places = [
            (THERE, PATHS[THERE]),
            (THIRD, "none"),
            (THIRD, PATHS[THIRD]),
        ];
        host.leave(HOME, &to(&places));
        assert_eq!(host.read(node, fh, 0, 9).unwrap(), b"content");
        assert_eq!(host.content(THIRD, "f"), b"content");
        // Where all refuse, the last is heard, and all is as before when it is here again.
        let mut host = Moving::new();
        let (node, fh) = host.opened("f");
        host.write(node, fh, 0, b"content").unwrap();
        assert_eq!(host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)), Ok(()));
        refuse(&mut host.server(THERE));
        host.leave(HOME, &to(&[(THIRD, "none"), (THERE, PATHS[THERE])]));
        assert_eq!(host.getattr(node, None).map(drop), Err(wanted));
        assert_eq!(host.getattr(ROOT, None).map(drop), Err(wanted));
        host.server(HOME).move_away(PATHS[HOME], None);
        assert_eq!(host.read(node, fh, 0, 9).unwrap(), b"content");
        assert_eq!(host.setlk(node, fh, 7, lock(F_UNLCK, 0, 9)), Ok(()));
        host.release(node, fh).unwrap();
        assert_eq!(host.bed.unanswered(), 0);
    }
}

#[test]
fn handles_that_end_with_a_move_are_not_used_at_the_other_server() {
    for expires in [2, 4] {
        let mut host = Moving::new();
        let (node, fh) = host.opened("f");
        host.go(HOME, THERE);
        host.server(THERE).tree.expires = expires;
        assert_eq!(host.read(node, fh, 0, 9), Err(Errno::ESTALE));
        host.check();
    }
}

#[test]
fn the_path_below_the_file_systems_root_stays() {
    let mut host = Moving::with(|config| config.export = "/srv".into());
    // The file system is that of `srv`, of which the export is the root.
    let (node, fh) = host.opened("f");
    let tree = host.server(HOME).tree.clone();
    host.server(THERE).tree = tree;
    let up = host.server(THERE).directory("up");
    host.server(THERE)
        .tree
        .rename((1, b"srv"), (up, b"srv"))
        .unwrap();
    let places = [(&NAMES[THERE..=THERE], "up")];
    // Its root is the server's own, as that says.
    host.server(HOME)
        .move_away("", Some(&locations_of("", &places)));
    host.write(node, fh, 0, b"there").unwrap();
    host.fsync(node, fh).unwrap();
    assert_eq!(host.read(node, fh, 0, 9).unwrap(), b"there");
    assert!(host.count(THERE, op::WRITE) > 0);
    host.check();
}

#[test]
fn what_somebody_else_took_meanwhile_is_lost() {
    let mut host = Moving::new();
    let (node, fh) = host.opened("f");
    let (kept, kept_fh) = host.opened("g");
    for (node, fh) in [(node, fh), (kept, kept_fh)] {
        assert_eq!(host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)), Ok(()));
    }
    host.go(HOME, THERE);
    {
        let mut server = host.server(THERE);
        let dir = server.directory(PATHS[THERE]);
        let file = server.tree.lookup(dir, b"f").unwrap();
        let (_, state) = server.states.of(99, b"somebody", file, true);
        state.ranges = Some(vec![(5, 6, true)]);
    }
    assert_eq!(host.read(node, fh, 0, 9), Err(Errno::EIO));
    assert_eq!(host.write(node, fh, 0, b"x"), Err(Errno::EIO));
    assert_eq!(host.read(kept, kept_fh, 0, 9).unwrap(), b"");
    assert_eq!(host.setlk(kept, kept_fh, 7, lock(F_UNLCK, 0, 9)), Ok(()));
    let again = host.open(node, O_RDWR).unwrap();
    assert_eq!(host.read(node, again, 0, 9).unwrap(), b"");
    host.check();
}

#[test]
fn an_open_file_that_is_another_one_there_or_none_is_lost() {
    for gone in [false, true] {
        let mut host = Moving::new();
        let (node, fh) = host.opened("f");
        let (kept, kept_fh) = host.opened("g");
        host.copy(HOME, THERE);
        host.write(node, fh, 0, b"x").unwrap();
        {
            let mut server = host.server(THERE);
            let dir = server.directory(PATHS[THERE]);
            let file = server.tree.lookup(dir, b"f").unwrap();
            match gone {
                true => drop(server.tree.take(file)),
                false => server.tree.node(file).unwrap().fileid += 1000,
            }
        }
        host.leave(HOME, &at(THERE));
        assert_eq!(host.read(kept, kept_fh, 0, 9).unwrap(), b"");
        assert_eq!(host.read(node, fh, 0, 9), Err(Errno::ESTALE), "{gone}");
        assert_eq!(host.fsync(node, fh).is_err(), !gone, "{gone}");
        host.release(node, fh).unwrap();
        host.check();
    }
}

#[test]
fn a_flag_alone_has_it_looked_for_and_a_wrong_one_is_not_heeded_again_and_again() {
    let mut host = Moving::new();
    let (node, fh) = host.opened("f");
    host.write(node, fh, 0, b"content").unwrap();
    host.server(HOME).script.stuck = LEASE_MOVED;
    let before = host.fakes[HOME].calls();
    for _ in 0..30 {
        host.read(node, fh, 0, 9).unwrap();
    }
    host.idle(300);
    // One question beside them.
    assert_eq!(host.fakes[HOME].calls() - before, 31);
    // The lease is one of 90 s.
    let mut host = Moving::new();
    let (node, fh) = host.opened("f");
    host.write(node, fh, 0, b"content").unwrap();
    host.go(HOME, THERE);
    {
        // What is asked for is still here, as when only another file system of it moved.
        let mut server = host.server(HOME);
        let dir = server.directory(PATHS[HOME]);
        let file = server.tree.lookup(dir, b"f").unwrap();
        server.tree.node(file).unwrap().moved = None;
        server.script.stuck = LEASE_MOVED;
    }
    host.read(node, fh, 0, 9).unwrap();
    host.until(|host| host.count(THERE, op::OPEN) == 1);
    host.read(node, fh, 0, 9).unwrap();
    assert!(host.count(THERE, op::READ) > 0);
    host.check();
}

#[test]
fn another_file_system_that_moves_is_an_error() {
    let mut host = Moving::new();
    let sub = host.mkdir(ROOT, "sub", 0o755).unwrap().nodeid;
    let (file, fh) = host.create(sub, "f", O_RDWR, 0o644).unwrap();
    let path = format!("{}/sub", PATHS[HOME]);
    host.server(HOME).move_away(&path, Some(&at(THERE)));
    assert_eq!(host.read(file.nodeid, fh, 0, 9), Err(Errno::EREMOTE));
    assert_eq!(host.getattr(sub, None).map(drop), Err(Errno::EREMOTE));
    assert_eq!(host.fakes[THERE].connected(), 0);
    host.getattr(ROOT, None).unwrap();
    host.check();
}

#[test]
fn a_server_that_does_not_even_take_the_handle_is_asked_by_path() {
    let mut host = Moving::new();
    let (node, fh) = host.opened("f");
    host.go(HOME, THERE);
    host.server(HOME)
        .at(op::PUTFH, 0, 1000, Act::Status(Status::ERR_MOVED));
    assert_eq!(host.read(node, fh, 0, 9).unwrap(), b"");
    assert!(host.count(THERE, op::READ) > 0);
    host.server(HOME).script.clear();
    host.check();
}

#[test]
fn a_server_in_its_grace_is_waited_for_in_one_session() {
    let mut host = Moving::new();
    let (node, fh) = host.opened("f");
    assert_eq!(host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)), Ok(()));
    host.go(HOME, THERE);
    host.server(THERE)
        .at(op::OPEN, 0, 3, Act::Status(Status::ERR_GRACE));
    host.server(THERE)
        .at(op::LOCK, 0, 2, Act::Status(Status::ERR_GRACE));
    assert_eq!(host.read(node, fh, 0, 9).unwrap(), b"");
    assert_eq!(host.server(THERE).states.count(true), 1);
    assert_eq!(host.count(THERE, op::CREATE_SESSION), 1);
    host.check();
}

#[test]
fn trouble_at_any_step_of_the_way_is_overcome() {
    let acts = [
        Act::Status(Status::ERR_DELAY),
        Act::CutBefore,
        Act::CutAfter(0),
        Act::Silent,
    ];
    let steps = [
        op::EXCHANGE_ID,
        op::CREATE_SESSION,
        op::SEQUENCE,
        op::PUTROOTFH,
        op::LOOKUP,
        op::GETFH,
        op::RECLAIM_COMPLETE,
        op::OPEN,
        op::LOCK,
        op::WRITE,
        op::READ,
    ];
    for act in acts {
        for step in steps {
            let mut host = Moving::new();
            let (node, fh) = host.opened("f");
            host.copy(HOME, THERE);
            host.write(node, fh, 0, b"content").unwrap();
            assert_eq!(host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)), Ok(()));
            host.server(THERE).at(step, 0, 1, act.clone());
            host.leave(HOME, &at(THERE));
            assert_eq!(host.read(node, fh, 0, 9).unwrap(), b"content", "{step}");
            assert_eq!(host.server(THERE).states.count(true), 1, "{step}");
            host.fsync(node, fh).unwrap();
            assert_eq!(host.content(THERE, "f"), b"content", "{step}");
            host.check();
        }
    }
}

#[test]
fn calls_are_as_large_as_the_other_server_takes() {
    let mut host = Moving::new();
    let (node, fh) = host.opened("f");
    let content: Vec<u8> = (0..300_000u32).map(|at| (at >> 4) as u8).collect();
    host.write(node, fh, 0, &content).unwrap();
    host.fsync(node, fh).unwrap();
    for from in [HOME, THERE] {
        let to = 1 - from;
        host.copy(from, to);
        {
            let mut server = host.server(to);
            (server.sessions.max_request, server.sessions.max_response) = match to {
                THERE => (50_000, 60_000),
                _ => (2 << 20, 2 << 20),
            };
        }
        host.leave(from, &at(to));
        let messages = [
            host.host.read_message(node, fh, 0, 300_000),
            host.host.write_message(node, fh, 300_000, &content),
            host.host.write_message(node, fh, 600_000, &content),
        ];
        let tickets = messages.map(|message| host.bed.send(&message));
        for ticket in tickets {
            assert_eq!(host.finish(ticket), Ok(()));
        }
        host.fsync(node, fh).unwrap();
        assert!(
            host.content(to, "f")
                .chunks(300_000)
                .all(|part| part == content)
        );
    }
    host.check();
}

#[test]
fn a_restart_of_either_server_on_the_way_loses_nothing() {
    for (which, after) in [(THERE, op::OPEN), (THERE, op::WRITE), (HOME, op::PUTFH)] {
        let mut host = Moving::new();
        let (node, fh) = host.opened("f");
        host.copy(HOME, THERE);
        host.write(node, fh, 0, b"content").unwrap();
        assert_eq!(host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)), Ok(()));
        host.server(which).at(after, 0, 1, Act::CutBefore);
        host.leave(HOME, &at(THERE));
        let waits = host.begin_getattr(node);
        host.until(|host| host.server(which).script.is_over());
        host.server(which).expire();
        host.server(which).verifier = *b"life0002";
        host.fakes[which].cut();
        assert_eq!(host.finish(waits), Ok(()));
        host.fsync(node, fh).unwrap();
        assert_eq!(host.content(THERE, "f"), b"content");
        host.check();
    }
}

#[test]
fn content_that_a_restarted_server_refuses_as_moved_is_kept() {
    let mut host = Moving::new();
    let (node, fh) = host.opened("f");
    host.copy(HOME, THERE);
    host.write(node, fh, 0, b"content").unwrap();
    host.leave(HOME, &at(THERE));
    host.server(HOME).expire();
    host.server(HOME).verifier = *b"life0002";
    host.fakes[HOME].cut();
    host.fsync(node, fh).unwrap();
    assert_eq!(host.content(THERE, "f"), b"content");
    host.check();
}

#[test]
fn all_cores_go_along() {
    let mut host = Moving::new();
    let mut other = dpfs_harness::Host::new(host.bed.sibling(host.volume.attach(8).unwrap(), 8));
    other.getattr(ROOT, None).unwrap();
    let (node, fh) = host.opened("f");
    host.copy(HOME, THERE);
    other.write(node, fh, 0, b"content").unwrap();
    assert_eq!(other.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)), Ok(()));
    host.leave(HOME, &at(THERE));
    let message = other.read_message(node, fh, 0, 9);
    let reads = other.bed.send(&message);
    let waits = host.begin_getattr(node);
    let end = Instant::now() + Duration::from_secs(20);
    let (mut one, mut two) = (None, None);
    while one.is_none() || two.is_none() {
        assert!(Instant::now() < end);
        host.bed.round();
        other.bed.round();
        one = one.or_else(|| host.bed.answer(waits).map(|answer| answer.error()));
        two = two.or_else(|| other.bed.answer(reads).map(|answer| answer.error()));
    }
    assert_eq!((one, two), (Some(None), Some(None)));
    assert_eq!(host.content(THERE, "f"), b"content");
    assert_eq!(host.server(THERE).states.count(true), 1);
    assert_eq!(host.server(THERE).sessions.sessions.len(), 2);
    assert_eq!(host.server(THERE).sessions.clients.len(), 1);
    host.check();
}

#[test]
fn files_keep_their_numbers_and_are_of_one_file_system() {
    let mut host = Moving::new();
    host.bed.init_as(38, InitFlags::SUBMOUNTS);
    let dir = host.mkdir(ROOT, "dir", 0o755).unwrap();
    host.go(HOME, THERE);
    {
        let mut server = host.server(THERE);
        for number in 1..10 {
            if let Ok(node) = server.tree.node(number) {
                node.fsid = (8, 9);
            }
        }
    }
    let made = host.mkdir(dir.nodeid, "made", 0o755).unwrap();
    assert_eq!(made.attr.flags, 0);
    let found = host.lookup(dir.nodeid, "made").unwrap();
    assert_eq!((found.nodeid, found.attr.flags), (made.nodeid, 0));
    let again = host.lookup(ROOT, "dir").unwrap();
    assert_eq!(again.attr.ino, dir.attr.ino);
    assert_eq!((again.nodeid, again.attr.flags), (dir.nodeid, 0));
    host.check();
}

#[test]
fn referrals_lead_to_the_others_and_not_back_to_a_client_that_is_elsewhere() {
    let mut host = Moving::new();
    host.go(HOME, THERE);
    host.getattr(ROOT, None).unwrap();
    host.server(THIRD).directory("x");
    for (name, server) in [("a", THIRD), ("b", HOME)] {
        let path = format!("{}/{name}", PATHS[THERE]);
        host.server(THERE).refer(&path, to(&[(server, "x")]));
    }
    assert!(host.lookup(ROOT, "a").is_ok());
    assert_eq!(host.lookup(ROOT, "b").map(drop), Err(Errno::EREMOTE));
    host.check();
}
