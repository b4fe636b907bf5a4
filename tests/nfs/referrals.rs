//! Referrals: directories whose file system another server has. Both servers are scripted.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use dpfs::backend::nfs::served::{self, Config};
use dpfs::backend::nfs::{Namespace, NamespaceVolume};
use dpfs::fuse::FileSystem;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::{ATTR_SUBMOUNT, EntryOut, InitFlags, Opcode};
use dpfs::wire::nfs4::{FileKind, Status, op};

use dpfs_harness::Ticket;

use crate::fake::files::locations;
use crate::fake::{Act, Fake};
use crate::host::*;

/// Hold two servers, and a host that mounted the root of the first and may be led to the second.
struct Two {
    host: dpfs_harness::Host<Namespace>,
    volume: &'static NamespaceVolume,
    home: Fake,
    there: Fake,
}

impl Deref for Two {
    type Target = dpfs_harness::Host<Namespace>;

    fn deref(&self) -> &Self::Target {
        &self.host
    }
}

impl DerefMut for Two {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.host
    }
}

/// Give an address of this machine as the configuration has it.
fn place(fake: &Fake) -> Vec<String> {
    vec![format!("127.0.0.1:{}", fake.port)]
}

/// Refer to a path of the server `there`.
fn there(path: &str) -> Vec<u8> {
    locations(&[(&["there"], path)])
}

impl Two {
    fn new() -> Self {
        Self::with(|_| ())
    }

    /// Mount the first as the changed configuration says: it refers to `/srv/data` of the second, which has a file.
    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let (home, there) = (Fake::start(), Fake::start());
        home.server().refer("data", self::there("/srv/data"));
        there.server().directory("srv/data");
        let mut config = config(home.port);
        config.export = "/".into();
        config.referrals = vec![
            ("there".into(), place(&there)),
            ("home.example.org".into(), place(&home)),
        ];
        change(&mut config);
        let (volume, mut host) = namespace(&config);
        host.getattr(ROOT, None).unwrap();
        Self {
            host,
            volume,
            home,
            there,
        }
    }

    fn data(&mut self) -> EntryOut {
        self.lookup(ROOT, "data").unwrap()
    }

    /// Refer from a directory of the root of the first server, and look it up.
    fn refer(&mut self, name: &str, locations: Vec<u8>) -> Result<EntryOut> {
        self.home.server().refer(name, locations);
        self.lookup(ROOT, name)
    }

    /// Check that slots were used as they are to be, and nothing was left unanswered.
    fn check(&mut self) {
        for fake in [&self.home, &self.there] {
            let server = fake.server();
            assert!(server.script.is_over(), "not all was played");
            assert_eq!(server.script.misused, 0, "slots were misused");
        }
        assert_eq!(self.bed.unanswered(), 0);
    }
}

#[test]
fn what_a_referral_leads_to_is_a_file_system_like_any() {
    let mut host = Two::new();
    let here = host.mkdir(ROOT, "here", 0o755).unwrap();
    let data = host.data();
    assert_eq!(data.attr.flags, ATTR_SUBMOUNT);
    assert_eq!(here.attr.flags, 0);
    assert_eq!(host.lookup(ROOT, "data").unwrap().nodeid, data.nodeid);
    let dir = data.nodeid;
    let (file, fh) = host.create(dir, "f", O_RDWR, 0o644).unwrap();
    let node = file.nodeid;
    assert_eq!(file.attr.flags, 0);
    let content: Vec<u8> = (0..300_000u32).map(|at| (at >> 3) as u8).collect();
    assert_eq!(host.write(node, fh, 0, &content), Ok(300_000));
    assert_eq!(host.read(node, fh, 0, 300_000).unwrap(), content);
    host.fsync(node, fh).unwrap();
    host.syncfs(dir).unwrap();
    assert_eq!(host.setlk(node, fh, 1, lock(F_WRLCK, 0, 9)), Ok(()));
    assert_eq!(host.setlk(node, fh, 1, lock(F_UNLCK, 0, 9)), Ok(()));
    assert_eq!(host.lseek(node, fh, 0, 3), Ok(0));
    assert_eq!(host.fallocate(node, fh, 0, 400_000, 0), Ok(()));
    assert_eq!(host.getattr(node, None).unwrap().size, 400_000);
    assert_eq!(
        host.setattr(node, &size_change(5, Some(fh))).unwrap().size,
        5
    );
    let sub = host.mkdir(dir, "sub", 0o755).unwrap().nodeid;
    host.rename((dir, "f"), (sub, "g"), 0).unwrap();
    host.link(node, dir, "twin").unwrap();
    host.symlink(dir, "link", "twin").unwrap();
    host.unlink(dir, "twin").unwrap();
    let names = |host: &mut Two, plus| {
        let listed = host.list(dir, 4096, plus);
        let mut names: Vec<_> = listed.into_iter().map(|entry| entry.name).collect();
        names.sort();
        names
    };
    // The name that went while the file was open is not seen.
    assert_eq!(names(&mut host, false), [".", "..", "link", "sub"]);
    assert_eq!(names(&mut host, true), [".", "..", "link", "sub"]);
    // Its last name goes, the file stays while it is open.
    host.unlink(sub, "g").unwrap();
    assert_eq!(host.read(node, fh, 0, 10).unwrap(), content[..5]);
    host.release(node, fh).unwrap();
    host.rmdir(dir, "sub").unwrap();
    assert!(host.statfs(dir).is_ok());
    // All of it was done by the second server, and the first knows nothing of it.
    let written = |fake: &Fake| fake.server().script.count(op::WRITE);
    assert!(written(&host.there) > 0);
    assert_eq!(written(&host.home), 0);
    host.check();
}

#[test]
fn what_would_lead_from_one_server_to_another_is_refused() {
    let mut host = Two::new();
    let dir = host.data().nodeid;
    let (one, from) = host.create(ROOT, "one", O_RDWR, 0o644).unwrap();
    let (other, to) = host.create(dir, "other", O_RDWR, 0o644).unwrap();
    let moved = host.rename((ROOT, "one"), (dir, "one"), 0);
    assert_eq!(moved, Err(Errno::EXDEV));
    let moved = host.rename((dir, "other"), (ROOT, "other"), 0);
    assert_eq!(moved, Err(Errno::EXDEV));
    for (node, parent) in [(one.nodeid, dir), (other.nodeid, ROOT)] {
        assert_eq!(host.link(node, parent, "x").map(drop), Err(Errno::EXDEV));
    }
    let ends = [(one.nodeid, from, 0), (other.nodeid, to, 0)];
    assert_eq!(host.copy(ends[0], ends[1], 10), Err(Errno::EXDEV));
    assert_eq!(host.copy(ends[1], ends[0], 10), Err(Errno::EXDEV));
    // An open file of one server is nothing to the other.
    assert!(host.read(one.nodeid, u64::MAX, 0, 10).is_err());
    // Nodes that nobody gave, of servers that there are and are not.
    for tag in 0..16u64 {
        let made_up = tag << 60 | 0x77_0000;
        assert_eq!(host.getattr(made_up, None).map(drop), Err(Errno::ESTALE));
    }
    host.check();
}

#[test]
fn what_is_forgotten_and_closed_leaves_nothing_behind() {
    let mut host = Two::new();
    let dir = host.data().nodeid;
    host.data();
    let (file, fh) = host.create(dir, "f", O_RDWR, 0o644).unwrap();
    assert_eq!((host.volume.nodes(), host.volume.open_files()), (3, 1));
    host.release(file.nodeid, fh).unwrap();
    host.forget(file.nodeid, 1);
    host.forget(dir, 2);
    assert_eq!((host.volume.nodes(), host.volume.open_files()), (1, 0));
    // The host is gone without a word, and another one mounts.
    let dir = host.data().nodeid;
    let (_, fh) = host.create(dir, "g", O_RDWR, 0o644).unwrap();
    host.bed.init();
    assert_eq!((host.volume.nodes(), host.volume.open_files()), (1, 0));
    assert_eq!(host.getattr(dir, None).map(drop), Err(Errno::ESTALE));
    assert_eq!(host.read(dir, fh, 0, 1), Err(Errno::EBADF));
    host.data();
    host.check();
}

#[test]
fn a_host_without_sub_mounts_sees_a_directory_whose_numbers_meet_no_others() {
    let mut host = Two::new();
    host.bed.init_as(31, InitFlags::ASYNC_READ);
    let data = host.data();
    assert_eq!(data.attr.flags, 0);
    // Both servers number their files alike.
    let (here, there) = (
        host.file(ROOT, "f", b"here"),
        host.file(data.nodeid, "f", b"there"),
    );
    let plain = host.there.server().tree.node(3).unwrap().fileid;
    assert_ne!(data.attr.ino, plain);
    assert_eq!(
        data.attr.ino << 16,
        plain << 16,
        "the rest of the number stays"
    );
    assert_ne!(here.attr.ino, there.attr.ino);
    // READDIR tells the same number.
    for plus in [false, true] {
        let listed = host.list(data.nodeid, 4096, plus);
        let found = listed.iter().find(|entry| entry.name == "f").unwrap();
        assert_eq!(found.ino, there.attr.ino, "{plus}");
    }
}

#[test]
fn what_a_host_without_sub_mounts_has_synced_is_durable_at_every_server() {
    for mounts in [false, true] {
        let mut host = Two::new();
        if !mounts {
            host.bed.init_as(34, InitFlags::ASYNC_READ);
        }
        let dir = host.data().nodeid;
        let files = [ROOT, dir].map(|dir| {
            let (file, fh) = host.create(dir, "f", O_RDWR, 0o644).unwrap();
            (file.nodeid, fh)
        });
        for (node, fh) in files {
            host.write(node, fh, 0, b"text").unwrap();
        }
        let before = (host.home.calls(), host.there.calls());
        host.syncfs(ROOT).unwrap();
        let commits = (host.home.calls() - before.0, host.there.calls() - before.1);
        // Else it asks for each file system by its root.
        assert_eq!(commits, (1, u64::from(!mounts)));
        host.syncfs(dir).unwrap();
        assert_eq!(host.there.calls() - before.1, 1);
        let (node, fh) = files[1];
        host.write(node, fh, 0, b"more").unwrap();
        host.there.server().refuse(op::COMMIT, Status::ERR_NOSPC);
        let wanted = if mounts { Ok(()) } else { Err(Errno::ENOSPC) };
        assert_eq!(host.syncfs(ROOT), wanted);
        assert_eq!(host.home.calls() - before.0, 1);
    }
}

#[test]
fn a_directory_shows_its_referrals_and_nobody_is_connected_to_before_one_is_looked_up() {
    let mut host = Two::new();
    for plus in [false, true] {
        let listed = host.list(ROOT, 4096, plus);
        let found = listed.iter().find(|entry| entry.name == "data").unwrap();
        assert!(found.entry.is_none());
    }
    host.file(ROOT, "f", b"here");
    host.idle(50);
    assert_eq!(host.there.calls(), 0);
    assert_eq!(host.there.connected(), 0);
    host.data();
    assert!(host.there.calls() > 0 && host.there.connected() > 0);
    host.check();
}

/// Begin to look up what the first server refers to, and do not wait.
fn begin_lookup(host: &mut Two) -> Ticket {
    let message = host.message(Opcode::LOOKUP, ROOT).name("data").room(128);
    host.bed.send(&message)
}

#[test]
fn a_server_that_was_never_there_is_not_waited_for_by_whoever_looks_its_directory_up() {
    for soft in [false, true] {
        let mut host = Two::with(|config| {
            config.options.timeo = 300_000_000;
            config.options.soft = soft;
        });
        host.there.server().script.closed = true;
        let waits = begin_lookup(&mut host);
        for at in 0..20 {
            host.file(ROOT, &format!("f{at}"), b"here");
        }
        host.syncfs(ROOT).unwrap();
        assert_eq!(host.bed.wait(waits).error(), Some(Errno::ETIMEDOUT));
        assert_eq!(host.lookup(ROOT, "data").map(drop), Err(Errno::ETIMEDOUT));
        host.there.server().script.closed = false;
        host.until(|host| host.lookup(ROOT, "data").is_ok());
        host.check();
    }
}

#[test]
fn while_a_server_is_away_only_who_works_there_waits() {
    let mut host = Two::with(|config| config.options.timeo = 300_000_000);
    let data = host.data();
    let dir = data.nodeid;
    host.file(dir, "f", b"there");
    host.there.server().script.closed = true;
    host.there.cut();
    let message = host.message(Opcode::GETATTR, dir).arg(&[0u64; 2]).room(256);
    let attributes = host.bed.send(&message);
    let message = host.message(Opcode::LOOKUP, dir).name("f").room(128);
    let waits = [attributes, host.bed.send(&message)];
    host.idle(100);
    let before = host.home.calls();
    host.data();
    assert_eq!(
        host.home.calls() - before,
        2,
        "it is not asked again and again"
    );
    // For a while, and when it is away for long: its directory is as it was.
    for _ in 0..5 {
        let found = host.data();
        assert_eq!((found.nodeid, found.attr), (dir, data.attr));
        assert_eq!((found.attr_valid, found.attr_valid_nsec), (0, 0));
        host.file(ROOT, "f", b"here");
        host.unlink(ROOT, "f").unwrap();
        host.syncfs(ROOT).unwrap();
        host.idle(150);
    }
    assert!(
        waits
            .iter()
            .all(|ticket| host.bed.answer(*ticket).is_none())
    );
    // A directory that nobody was led to before is another thing.
    let other = host.refer("other", there("srv")).map(drop);
    assert_eq!(other, Err(Errno::ETIMEDOUT));
    host.there.server().script.closed = false;
    for ticket in waits {
        assert_eq!(host.bed.wait(ticket).error(), None);
    }
    host.until(|host| host.lookup(ROOT, "other").is_ok());
    assert_eq!(host.data().nodeid, dir);
    host.forget(dir, 100);
    host.check();
}

#[test]
fn a_server_that_falls_silent_while_it_is_asked_is_given_up_by_lookups_alone() {
    let mut host = Two::with(|config| config.options.timeo = 300_000_000);
    let dir = host.data().nodeid;
    // More of them than are given up.
    for silent in [op::PUTROOTFH, op::LOOKUP, op::GETFH] {
        for count in [1, 30] {
            host.there.server().at(silent, 0, count, Act::Silent);
            let tickets: Vec<_> = (0..count).map(|_| begin_lookup(&mut host)).collect();
            for ticket in tickets {
                let found: EntryOut = host.bed.wait(ticket).value();
                assert_eq!(found.nodeid, dir);
            }
            host.file(ROOT, "f", b"here");
            host.until(|host| host.there.server().script.is_over());
            // It answers again, and what nobody waits for any more is done.
            host.until(|host| host.data().attr_valid > 0);
        }
    }
    host.check();
    let mut host = Two::with(|config| config.options.timeo = 300_000_000);
    host.data();
    // Where nobody was led before, there is nothing to answer with. Asked anew by another connection, it is silent again,
    // or it might be just in time.
    host.there.server().at(op::LOOKUP, 0, 2, Act::Silent);
    let found = host.refer("other", there("srv")).map(drop);
    assert_eq!(found, Err(Errno::ETIMEDOUT));
    host.until(|host| host.lookup(ROOT, "other").is_ok());
    let found = host.refer("third", there("srv/data/none")).map(drop);
    assert_eq!(found, Err(Errno::ENOENT));
    host.check();
}

#[test]
fn the_first_location_is_taken_whose_server_is_there() {
    let third = Fake::start();
    third.server().directory("copy");
    let mut host = Two::with(|config| {
        config.referrals.push(("third".into(), place(&third)));
    });
    let places = locations(&[
        (&["unknown", "unknown.example.org"], "/elsewhere"),
        (&["unknown.example.org", "there"], "/srv/data"),
        (&["third"], "/copy"),
    ]);
    host.there.server().script.closed = true;
    let copy = host.refer("copies", places.clone()).unwrap();
    assert!(third.calls() > 0);
    host.file(copy.nodeid, "f", b"third");
    host.there.server().script.closed = false;
    // The first one is there by now, and comes before the other.
    host.until(|host| host.lookup(ROOT, "copies").unwrap().nodeid != copy.nodeid);
    assert_eq!(
        host.lookup(ROOT, "copies").unwrap().nodeid,
        host.data().nodeid
    );
    assert_eq!(host.lookup(copy.nodeid, "f").map(drop), Ok(()));
    host.check();
}

/// Have a third server, which may be followed to and has `/copy`.
fn three() -> (Two, Fake) {
    let third = Fake::start();
    third.server().directory("copy");
    let host = Two::with(|config| {
        config.referrals.push(("third".into(), place(&third)));
        config.options.timeo = 300_000_000;
    });
    (host, third)
}

#[test]
fn a_location_that_is_reached_and_refuses_is_passed_over() {
    let (mut host, third) = three();
    host.there
        .server()
        .tree
        .make(1, b"file", FileKind::Regular, 0o644)
        .ok();
    host.data();
    let places: [(&[&str], &str); 4] = [
        (&["there"], "/srv/none"),
        (&["there"], "/file/x"),
        (&["stranger"], "/"),
        (&["third"], "/copy"),
    ];
    let copy = host.refer("copies", locations(&places)).unwrap();
    host.file(copy.nodeid, "f", b"third");
    assert_eq!(third.server().script.count(op::WRITE), 1);
    // More often than tasks can stay: each is gone when there is an answer.
    for _ in 0..100 {
        assert_eq!(host.lookup(ROOT, "copies").unwrap().nodeid, copy.nodeid);
    }
    let tickets: Vec<_> = (0..30)
        .map(|_| {
            let message = host.message(Opcode::LOOKUP, ROOT).name("copies").room(128);
            host.bed.send(&message)
        })
        .collect();
    for ticket in tickets {
        assert_eq!(
            host.bed.wait(ticket).value::<EntryOut>().nodeid,
            copy.nodeid
        );
    }
    // A server that wants nothing to do with us is passed over, too.
    third
        .server()
        .at(op::LOOKUP, 0, 1, Act::Status(Status::ERR_ACCESS));
    let found = host.refer("others", locations(&[places[3], (&["there"], "/srv/data")]));
    assert_eq!(found.unwrap().nodeid, host.data().nodeid);
    host.check();
}

#[test]
fn when_all_locations_refuse_the_last_one_is_heard() {
    let (mut host, third) = three();
    third
        .server()
        .at(op::LOOKUP, 0, 100, Act::Status(Status::ERR_ACCESS));
    let none: (&[&str], &str) = (&["there"], "/srv/none");
    let closed: (&[&str], &str) = (&["third"], "/copy");
    for (at, (places, wanted)) in [
        ([none, closed], Errno::EACCES),
        ([closed, none], Errno::ENOENT),
    ]
    .into_iter()
    .enumerate()
    {
        let found = host.refer(&format!("d{at}"), locations(&places)).map(drop);
        assert_eq!(found, Err(wanted));
    }
    // No more are tried than referrals are followed.
    let before = host.there.calls();
    let found = host.refer("many", locations(&[none; 30])).map(drop);
    assert_eq!(found, Err(Errno::ENOENT));
    assert!(host.there.calls() - before < 12);
    // Behind a referral that is met on the way, too.
    host.there
        .server()
        .refer("srv/on", locations(&[none, none]));
    let found = host
        .refer("far", locations(&[(&["there"], "srv/on"), closed]))
        .map(drop);
    assert_eq!(found, Err(Errno::EACCES));
    let good: (&[&str], &str) = (&["there"], "srv/data");
    let found = host.refer("farther", locations(&[(&["there"], "srv/on"), good]));
    assert_eq!(found.unwrap().nodeid, host.data().nodeid);
    third.server().script.clear();
    host.check();
}

#[test]
fn a_location_that_is_away_is_waited_for_when_the_others_refuse() {
    let (mut host, third) = three();
    host.data();
    third.server().script.closed = true;
    let places: [(&[&str], &str); 2] = [(&["there"], "/srv/none"), (&["third"], "/copy")];
    host.home.server().refer("copies", locations(&places));
    let message = host.message(Opcode::LOOKUP, ROOT).name("copies").room(128);
    let waits = host.bed.send(&message);
    host.until(|host| {
        host.there
            .server()
            .script
            .done
            .contains(&(op::LOOKUP, Status::ERR_NOENT))
    });
    third.server().script.closed = false;
    let found: EntryOut = host.bed.wait(waits).value();
    host.file(found.nodeid, "f", b"third");
    assert_eq!(third.server().script.count(op::WRITE), 1);
    // And not for ever.
    third.server().script.closed = true;
    third.cut();
    let places: [(&[&str], &str); 2] = [(&["there"], "/srv/none"), (&["third"], "/")];
    host.home.server().refer("roots", locations(&places));
    assert!(host.lookup(ROOT, "roots").is_err());
    host.check();
}

#[test]
fn names_of_servers_are_the_same_in_either_case_and_with_a_dot_or_brackets() {
    let mut host = Two::with(|config| {
        config
            .referrals
            .push(("::2".into(), config.referrals[0].1.clone()))
    });
    let dir = host.data().nodeid;
    for (at, name) in ["THERE", "there.", "There", "[::2]", "::2"]
        .into_iter()
        .enumerate()
    {
        let found = host.refer(&format!("d{at}"), locations(&[(&[name], "srv/data")]));
        assert_eq!(found.unwrap().nodeid, dir, "{name}");
    }
    host.check();
}

#[test]
fn a_server_that_is_not_in_the_table_is_not_followed_to() {
    let mut host = Two::new();
    let refers = |host: &mut Two, name: &str| host.refer(name, locations(&[(&[name], "/")]));
    for name in [
        "stranger",
        "there.example.org",
        "192.0.2.1",
        "her",
        "therethere",
    ] {
        assert_eq!(
            refers(&mut host, name).map(drop),
            Err(Errno::EREMOTE),
            "{name}"
        );
    }
    assert_eq!(host.there.connected(), 0);
    host.data();
    host.check();
}

#[test]
fn the_server_that_is_mounted_may_be_led_back_to() {
    let mut host = Two::new();
    let dir = host.mkdir(ROOT, "dir", 0o755).unwrap().nodeid;
    for (at, name) in ["home.example.org", "127.0.0.1", "HOME.example.org"]
        .iter()
        .enumerate()
    {
        let found = host.refer(&format!("d{at}"), locations(&[(&[name], "/dir")]));
        let found = found.unwrap();
        assert_eq!(
            (found.nodeid, found.attr.flags),
            (dir, ATTR_SUBMOUNT),
            "{name}"
        );
    }
    // But not to the root, which the host has already.
    let root = host.refer("root", locations(&[(&["home.example.org"], "")]));
    assert_eq!(root.map(drop), Err(Errno::ELOOP));
    // From the other server, too, and on from there.
    let back = locations(&[(&["home.example.org"], "dir")]);
    host.there.server().refer("srv/data/back", back);
    host.home.server().refer("dir/forth", there("/srv"));
    let data = host.data().nodeid;
    let back = host.lookup(data, "back").unwrap();
    assert_eq!((back.nodeid, back.attr.flags), (dir, ATTR_SUBMOUNT));
    let forth = host.lookup(back.nodeid, "forth").unwrap().nodeid;
    assert_eq!(host.lookup(forth, "data").unwrap().nodeid, data);
    host.check();
}

#[test]
fn a_path_goes_on_behind_each_referral_it_meets() {
    let mut host = Two::new();
    let end = host.mkdir(ROOT, "end", 0o755).unwrap().nodeid;
    let sub = host.mkdir(end, "sub", 0o755).unwrap().nodeid;
    let back = locations(&[(&["home.example.org"], "/end")]);
    host.there.server().refer("srv/back", back);
    let found = host.refer("far", there("srv/back/sub")).unwrap();
    assert_eq!(found.nodeid, sub);
    assert_eq!(host.refer("near", there("srv/back")).unwrap().nodeid, end);
    let none = host.refer("none", there("srv/back/none")).map(drop);
    assert_eq!(none, Err(Errno::ENOENT));
    host.check();
}

#[test]
fn referrals_in_a_circle_end() {
    let mut host = Two::new();
    let back = locations(&[(&["home.example.org"], "/circle/x")]);
    host.there.server().refer("circle", back);
    let before = (host.home.calls(), host.there.calls());
    let found = host.refer("circle", there("/circle/x"));
    assert_eq!(found.map(drop), Err(Errno::ELOOP));
    // Each of them is asked some times, and no more.
    assert!(host.home.calls() - before.0 < 20);
    assert!(host.there.calls() - before.1 < 30);
    let own = host.refer("own", locations(&[(&["home.example.org"], "own")]));
    assert_eq!(own.map(drop), Err(Errno::ELOOP));
    host.data();
    host.check();
}

#[test]
fn lies_about_locations_are_errors() {
    let mut host = Two::new();
    let words =
        |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_be_bytes()).collect() };
    let long = "x".repeat(256);
    let longer = format!("{0}/{0}/{0}", "x".repeat(255));
    let deep = "x/".repeat(65);
    let deeper = "x/".repeat(513);
    let name = |bytes: &[u8]| {
        let mut value = words(&[0, 1, 1, bytes.len() as u32]);
        value.extend(bytes);
        value.resize(value.len().next_multiple_of(4), 0);
        value.extend([0; 4]);
        value
    };
    let remote = [
        // No location; one without a server; a name that is empty, or none that anybody has.
        locations(&[]),
        locations(&[(&[], "/srv/data")]),
        locations(&[(&[""], "/srv/data")]),
        locations(&[(&["."], "/"), (&["[]"], "/"), (&["["], "/")]),
        name(b"\0\xff\xfe\x1b[2Jthere"),
        name(&[b'a'; 1024]),
    ];
    for (at, value) in remote.into_iter().enumerate() {
        let found = host.refer(&format!("r{at}"), value).map(drop);
        assert_eq!(found, Err(Errno::EREMOTE), "{at}");
    }
    let broken = [
        // Counts beyond all bounds, and what ends early.
        words(&[u32::MAX]),
        words(&[0, u32::MAX]),
        words(&[0, 257]),
        words(&[0, 1, u32::MAX]),
        words(&[0, 1, 1, u32::MAX]),
        words(&[0, 1, 1, 1025]),
        words(&[0, 1, 0, u32::MAX]),
        words(&[0, 1]),
        words(&[0, 1, 1, 5, 0x6161_6161]),
        words(&[]),
        locations(&[(&["there"], &deeper)]),
        // Names that are none.
        locations(&[(&["there"], "..")]),
        locations(&[(&["there"], "srv/../srv/data")]),
        locations(&[(&["there"], "./srv")]),
        locations(&[(&["there"], "srv/da\0ta")]),
    ];
    for (at, value) in broken.into_iter().enumerate() {
        let found = host.refer(&format!("b{at}"), value).map(drop);
        assert_eq!(found, Err(Errno::EIO), "{at}");
    }
    let mut slash = locations(&[(&["there"], "srv-data")]);
    let at = slash.windows(8).position(|bytes| bytes == b"srv-data");
    slash[at.unwrap() + 3] = b'/';
    assert_eq!(host.refer("slash", slash).map(drop), Err(Errno::EIO));
    for (at, path) in [&long, &longer, &deep].into_iter().enumerate() {
        let found = host.refer(&format!("l{at}"), there(path)).map(drop);
        assert_eq!(found, Err(Errno::ENAMETOOLONG), "{at}");
    }
    // Locations without the attribute, and none at all where there were some.
    host.home.server().script.attributes = crate::fake::files::without(&[24]);
    assert_eq!(host.lookup(ROOT, "data").map(drop), Err(Errno::EREMOTE));
    host.home.server().script.attributes = crate::fake::files::without(&[]);
    // It is said to be elsewhere, and where nobody says.
    host.home
        .server()
        .at(op::GETFH, 0, 1, Act::Status(Status::ERR_MOVED));
    host.mkdir(ROOT, "plain", 0o755).unwrap();
    host.home
        .server()
        .at(op::GETFH, 0, 1, Act::Status(Status::ERR_MOVED));
    assert_eq!(host.lookup(ROOT, "plain").map(drop), Err(Errno::EREMOTE));
    host.home
        .server()
        .at(op::LOOKUP, 0, 30, Act::Status(Status::ERR_MOVED));
    assert_eq!(host.lookup(ROOT, "plain").map(drop), Err(Errno::EREMOTE));
    host.home.server().script.clear();
    host.lookup(ROOT, "plain").unwrap();
    // The other server says it of everything.
    host.data();
    for operation in [op::PUTROOTFH, op::LOOKUP, op::GETFH, op::GETATTR] {
        host.there
            .server()
            .at(operation, 0, 30, Act::Status(Status::ERR_MOVED));
        let found = host.lookup(ROOT, "data").map(drop);
        assert!(found.is_err(), "{operation}: {found:?}");
        host.there.server().script.clear();
    }
    host.data();
    host.check();
}

#[test]
fn what_moves_while_it_is_in_use_is_an_error_and_no_loop() {
    let mut host = Two::new();
    let dir = host.mkdir(ROOT, "dir", 0o755).unwrap().nodeid;
    let (file, fh) = host.create(dir, "f", O_RDWR, 0o644).unwrap();
    let all: Vec<u64> = {
        let mut server = host.home.server();
        let dir = server.directory("dir");
        let file = server.tree.lookup(dir, b"f").unwrap();
        vec![dir, file]
    };
    let mark = |host: &Two, moved: Option<Vec<u8>>| {
        for number in &all {
            host.home.server().tree.node(*number).unwrap().moved = moved.clone();
        }
    };
    mark(&host, Some(there("/srv/data")));
    let before = host.home.calls();
    assert_eq!(host.getattr(dir, None).map(drop), Err(Errno::EREMOTE));
    assert_eq!(host.lookup(dir, "f").map(drop), Err(Errno::EREMOTE));
    assert_eq!(host.read(file.nodeid, fh, 0, 10), Err(Errno::EREMOTE));
    assert_eq!(host.write(file.nodeid, fh, 0, b"x"), Err(Errno::EREMOTE));
    assert_eq!(
        host.create(dir, "g", O_RDWR, 0o644).map(drop),
        Err(Errno::EREMOTE)
    );
    assert_eq!(host.unlink(dir, "f"), Err(Errno::EREMOTE));
    assert_eq!(host.statfs(dir).map(drop), Err(Errno::EREMOTE));
    assert!(host.home.calls() - before < 20);
    // By its name it is met anew, and followed.
    assert_eq!(host.lookup(ROOT, "dir").unwrap().nodeid, host.data().nodeid);
    mark(&host, None);
    assert_eq!(host.read(file.nodeid, fh, 0, 10).unwrap(), b"");
    host.release(file.nodeid, fh).unwrap();
    host.check();
}

#[test]
fn without_a_table_referrals_are_not_followed() {
    let mut host = crate::scripted::Mounted::new();
    host.fake.server().refer("data", there("/"));
    let before = host.fake.calls();
    assert_eq!(host.lookup(ROOT, "data").map(drop), Err(Errno::EREMOTE));
    assert_eq!(host.fake.calls() - before, 1);
    host.check();
}

#[test]
fn what_one_server_lacks_the_other_is_asked_for() {
    let mut host = Two::new();
    host.there.server().script.minor = 1;
    let dir = host.data().nodeid;
    let (file, fh) = host.create(dir, "f", O_RDWR, 0o644).unwrap();
    host.write(file.nodeid, fh, 0, b"4.1").unwrap();
    let punched = host.fallocate(file.nodeid, fh, 0, 2, 3);
    assert_eq!(punched, Err(Errno::EOPNOTSUPP));
    let (here, own) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    assert_eq!(host.fallocate(here.nodeid, own, 0, 2, 0), Ok(()));
    // Not ENOSYS, after which the host would ask neither.
    let copied = host.copy((file.nodeid, fh, 0), (file.nodeid, fh, 8), 2);
    assert_eq!(copied, Err(Errno::EOPNOTSUPP));
    let got = host.getxattr(file.nodeid, "user.a", 9);
    assert_eq!(got, Err(Errno::EOPNOTSUPP));
    host.check();
}

#[test]
fn a_server_that_refuses_is_an_error_until_it_does_not() {
    let mut host = Two::new();
    host.there
        .server()
        .at(op::EXCHANGE_ID, 0, 1000, Act::Status(Status::ERR_ACCESS));
    assert_eq!(host.lookup(ROOT, "data").map(drop), Err(Errno::EACCES));
    host.there.server().script.clear();
    host.until(|host| host.lookup(ROOT, "data").is_ok());
    // The root, by which a server is known, is not for us.
    let mut host = Two::new();
    host.there
        .server()
        .at(op::PUTROOTFH, 0, 1000, Act::Status(Status::ERR_WRONGSEC));
    assert_eq!(host.lookup(ROOT, "data").map(drop), Err(Errno::EPERM));
    host.there.server().script.clear();
    host.until(|host| host.lookup(ROOT, "data").is_ok());
    host.check();
}

#[test]
fn calls_that_are_put_off_or_cut_on_the_way_are_made_again() {
    let mut host = Two::new();
    let dir = host.data().nodeid;
    let acts = [
        Act::Status(Status::ERR_DELAY),
        Act::CutBefore,
        Act::CutAfter(0),
        Act::CutAfter(60),
    ];
    for act in acts {
        for operation in [op::SEQUENCE, op::PUTFH, op::LOOKUP, op::GETATTR] {
            // At the lookup, and at the question where it is.
            for skip in [0, 1] {
                host.home.server().at(operation, skip, 1, act.clone());
                assert_eq!(host.data().nodeid, dir);
                host.until(|host| host.data().nodeid == dir && host.home.server().script.is_over());
            }
        }
        for operation in [
            op::SEQUENCE,
            op::PUTROOTFH,
            op::LOOKUP,
            op::GETFH,
            op::GETATTR,
        ] {
            host.there.server().at(operation, 0, 1, act.clone());
            assert_eq!(host.data().nodeid, dir);
        }
    }
    host.check();
}

#[test]
fn open_files_there_outlive_what_happens_to_their_server() {
    type Happens = fn(&Fake);
    let happens: [Happens; 3] = [
        Fake::cut,
        |fake| {
            fake.server().restart();
            fake.cut();
        },
        |fake| {
            fake.server().expire();
            fake.cut();
        },
    ];
    let mut host = Two::new();
    let dir = host.data().nodeid;
    for (at, happens) in happens.into_iter().enumerate() {
        let name = format!("f{at}");
        let (file, fh) = host.create(dir, &name, O_RDWR, 0o644).unwrap();
        let (own, own_fh) = host.create(ROOT, &name, O_RDWR, 0o644).unwrap();
        host.write(file.nodeid, fh, 0, b"before").unwrap();
        happens(&host.there);
        assert_eq!(host.read(file.nodeid, fh, 0, 10).unwrap(), b"before");
        host.write(file.nodeid, fh, 6, b"after").unwrap();
        host.fsync(file.nodeid, fh).unwrap();
        assert_eq!(host.read(file.nodeid, fh, 0, 20).unwrap(), b"beforeafter");
        host.write(own.nodeid, own_fh, 0, b"x").unwrap();
        assert_eq!(host.data().nodeid, dir);
        host.release(file.nodeid, fh).unwrap();
        host.release(own.nodeid, own_fh).unwrap();
    }
    host.check();
}

#[test]
fn many_are_led_there_at_once() {
    let mut host = Two::new();
    let names: Vec<String> = (0..30).map(|at| format!("d{at}")).collect();
    for name in &names {
        host.home.server().refer(name, there("/srv/data"));
    }
    let tickets: Vec<_> = names
        .iter()
        .map(|name| {
            let message = host.message(Opcode::LOOKUP, ROOT).name(name).room(128);
            host.bed.send(&message)
        })
        .collect();
    let found: Vec<u64> = tickets
        .into_iter()
        .map(|ticket| host.bed.wait(ticket).value::<EntryOut>().nodeid)
        .collect();
    assert!(found.iter().all(|node| *node == found[0]));
    host.forget(found[0], 30);
    assert_eq!(host.volume.nodes(), 1);
    host.check();
}

#[test]
fn cores_share_what_they_were_led_to_and_all_take_leave() {
    let mut host = Two::new();
    let mut other = dpfs_harness::Host::new(host.bed.sibling(host.volume.attach(8).unwrap(), 8));
    let dir = host.data().nodeid;
    let (file, fh) = host.create(dir, "f", O_RDWR, 0o644).unwrap();
    host.write(file.nodeid, fh, 0, b"shared").unwrap();
    // Its own session stands: who has just begun is not waited for at the end.
    other.getattr(ROOT, None).unwrap();
    // A core that was never led there works on it.
    assert_eq!(other.read(file.nodeid, fh, 0, 10).unwrap(), b"shared");
    let sessions = |fake: &Fake| fake.server().sessions.sessions.len();
    assert_eq!(sessions(&host.there), 2);
    for host in [&mut host.host, &mut other] {
        let end = Instant::now() + Duration::from_secs(5);
        host.bed.fs.shutdown();
        while !host.bed.fs.leave() {
            assert!(Instant::now() < end);
            host.bed.round();
        }
    }
    for fake in [&host.home, &host.there] {
        assert_eq!(sessions(fake), 0);
        assert!(fake.server().sessions.clients.is_empty());
        assert!(fake.server().states.all.is_empty());
    }
}

#[test]
fn tables_that_cannot_be_followed_are_refused() {
    let fake = Fake::start();
    let open = |referrals: Vec<(String, Vec<String>)>| {
        let mut config = config(fake.port);
        config.export = "/".into();
        config.referrals = referrals;
        served::open_namespace(&config).map(|volume| volume.members.len())
    };
    let at = |place: &str| vec![place.to_string()];
    let many = (0..9).map(|last| (format!("s{last}"), at(&format!("127.0.0.1:{}", last + 1))));
    assert_eq!(open(many.clone().take(8).collect()), Ok(9));
    assert_eq!(
        open(many.collect()),
        Err("referrals: more than 8 servers".into())
    );
    // Those with an address in common are one.
    let same = (0..9).map(|last| (format!("s{last}"), at("127.0.0.1:1")));
    assert_eq!(open(same.collect()), Ok(2));
    let unknown = open(vec![("a".into(), at("127.0.0.1:x"))]).unwrap_err();
    assert!(unknown.starts_with("127.0.0.1:x: "), "{unknown}");
}
