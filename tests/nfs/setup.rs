//! The way to a session, with everything that may stand in it; and what a server tells of its files.

use dpfs::backend::nfs::served;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::{ATTR_SUBMOUNT, InitFlags};
use dpfs::wire::nfs4::{Status, attr, op};

use crate::fake::files::without;
use crate::fake::{Act, Fake};
use crate::host::*;
use crate::refusals::{attempt, things};
use crate::scripted::Mounted;

#[test]
fn a_server_of_4_1_is_used_as_one() {
    let fake = Fake::start();
    fake.server().script.minor = 1;
    let mut host = Mounted::of(fake.clone(), |_| ());
    let things = things(&mut host);
    assert_eq!(attempt(&mut host, &things, op::READ), Ok(()));
    let refused = attempt(&mut host, &things, op::ALLOCATE);
    assert_eq!(refused, Err(Errno::EOPNOTSUPP));
    host.check();
    let mut config = config(fake.port);
    config.export = "/".into();
    config.minor = Some(2);
    let refused = served::open(&config).map(drop).unwrap_err();
    assert!(
        refused.ends_with("NFS4ERR_MINOR_VERS_MISMATCH"),
        "{refused}"
    );
}

#[test]
fn a_mount_that_is_refused_says_why() {
    for (operation, act, why) in [
        (
            op::EXCHANGE_ID,
            Act::Reply(vec![1, 0, 0, 0, 2, 2, 3]),
            "ERR_MINOR_VERS_MISMATCH",
        ),
        (
            op::EXCHANGE_ID,
            Act::Reply(vec![1, 1, 1, 5]),
            "ERR_WRONGSEC",
        ),
        (
            op::EXCHANGE_ID,
            Act::Status(Status::ERR_CLID_INUSE),
            "ERR_CLID_INUSE",
        ),
        (
            op::CREATE_SESSION,
            Act::Status(Status::ERR_SERVERFAULT),
            "ERR_SERVERFAULT",
        ),
        (
            op::PUTROOTFH,
            Act::Status(Status::ERR_WRONGSEC),
            "ERR_WRONGSEC",
        ),
        (op::LOOKUP, Act::Status(Status::ERR_NOENT), "ERR_NOENT"),
        (op::LOOKUP, Act::Status(Status::ERR_MOVED), "ERR_MOVED"),
    ] {
        let fake = Fake::start();
        fake.server().at(operation, 0, u32::MAX, act);
        let mut config = config(fake.port);
        config.export = "/a/b".into();
        let refused = served::open(&config).map(drop).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn a_deep_export_is_found() {
    use dpfs::wire::nfs4::FileKind;
    let fake = Fake::start();
    let (mut at, mut path) = (1, String::new());
    for depth in 0..40 {
        let name = format!("folder{depth}");
        let tree = &mut fake.server().tree;
        at = tree
            .make(at, name.as_bytes(), FileKind::Directory, 0o755)
            .unwrap();
        path = format!("{path}/{name}");
    }
    let mut host = Mounted::of(fake.clone(), |config| config.export = path.clone());
    host.file(ROOT, "f", b"f");
    assert!(fake.server().tree.lookup(at, b"f").is_ok());
    // Not by a server that does not take as much at a time.
    fake.server().sessions.max_operations = 16;
    let mut config = config(fake.port);
    config.export = path;
    let refused = served::open(&config).map(drop).unwrap_err();
    assert!(refused.contains("ERR_TOO_MANY_OPS"), "{refused}");
}

#[test]
fn a_server_that_refuses_a_session_once_has_not_forgotten_the_locks() {
    for status in [
        Status::ERR_SERVERFAULT,
        Status::ERR_NOSPC,
        Status::ERR_SEQ_MISORDERED,
    ] {
        let mut host = Mounted::new();
        let things = things(&mut host);
        let (node, fh) = (things.node, things.fh);
        host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)).unwrap();
        host.fake.server().sessions.sessions.clear();
        host.refuse(op::CREATE_SESSION, status);
        let claims = host.fake.server().script.count(op::OPEN);
        assert_eq!(host.read(node, fh, 0, 9).unwrap(), b"content", "{status}");
        assert_eq!(host.fake.server().script.count(op::OPEN), claims);
        assert_eq!(host.fake.server().states.count(true), 1);
        assert_eq!(host.setlk(node, fh, 7, lock(F_UNLCK, 0, 9)), Ok(()));
        host.check();
    }
}

#[test]
fn a_mount_that_is_put_off_is_waited_for() {
    for operation in [
        op::EXCHANGE_ID,
        op::CREATE_SESSION,
        op::RECLAIM_COMPLETE,
        op::PUTROOTFH,
    ] {
        let fake = Fake::start();
        fake.server()
            .at(operation, 0, 2, Act::Status(Status::ERR_DELAY));
        let mut host = Mounted::of(fake, |_| ());
        host.file(ROOT, "f", b"f");
        host.check();
    }
}

#[test]
fn whatever_a_server_says_on_the_way_to_a_new_session_is_a_pause() {
    let mut host = Mounted::new();
    let things = things(&mut host);
    for (operation, statuses) in [
        (
            op::EXCHANGE_ID,
            &[
                Status::ERR_DELAY,
                Status::ERR_CLID_INUSE,
                Status::ERR_SERVERFAULT,
            ][..],
        ),
        (
            op::CREATE_SESSION,
            &[
                Status::ERR_DELAY,
                Status::ERR_STALE_CLIENTID,
                Status::ERR_SEQ_MISORDERED,
                Status::ERR_CLID_INUSE,
                Status::ERR_NOSPC,
            ],
        ),
        (
            op::RECLAIM_COMPLETE,
            &[
                Status::ERR_DELAY,
                Status::ERR_COMPLETE_ALREADY,
                Status::ERR_BADSESSION,
                Status::ERR_SERVERFAULT,
            ],
        ),
        (
            op::OPEN,
            &[
                Status::ERR_DELAY,
                Status::ERR_GRACE,
                Status::ERR_NO_GRACE,
                Status::ERR_RECLAIM_BAD,
                Status::ERR_RECLAIM_CONFLICT,
            ],
        ),
        (
            op::SEQUENCE,
            &[
                Status::ERR_BADSESSION,
                Status::ERR_DELAY,
                Status::ERR_SEQ_MISORDERED,
            ],
        ),
    ] {
        // The first SEQUENCE finds out that there is no session.
        let skip = u32::from(operation == op::SEQUENCE);
        for status in statuses {
            // What is refused to the claim is given when the file is used.
            let most = if operation == op::OPEN { 1 } else { 3 };
            for times in [1, most] {
                let mut server = host.fake.server();
                server.expire();
                server.at(operation, skip, times, Act::Status(*status));
                drop(server);
                assert_eq!(
                    attempt(&mut host, &things, op::READ),
                    Ok(()),
                    "{operation} {status}"
                );
                assert_eq!(attempt(&mut host, &things, op::CREATE), Ok(()));
                host.fake.server().script.clear();
                host.check();
            }
        }
        // All of it as answers that make no sense, and as cuts.
        for act in [
            Act::change(|answer| answer.truncate(30)),
            Act::Reply(vec![1, 0, 0, 0, 5]),
            Act::CutBefore,
            Act::CutAfter(20),
        ] {
            host.fake.server().expire();
            host.at(operation, skip, 2, act);
            assert_eq!(attempt(&mut host, &things, op::READ), Ok(()), "{operation}");
            host.fake.server().script.clear();
        }
        host.fake.server().script.misused = 0;
    }
}

#[test]
fn a_connection_that_may_not_carry_the_session_is_made_again() {
    let mut host = Mounted::new();
    let things = things(&mut host);
    for status in [
        Status::ERR_BADSESSION,
        Status::ERR_DELAY,
        Status::ERR_NOTSUPP,
        Status::ERR_DEADSESSION,
    ] {
        host.refuse(op::BIND_CONN_TO_SESSION, status);
        host.fake.cut();
        assert_eq!(attempt(&mut host, &things, op::READ), Ok(()), "{status}");
        host.check();
    }
}

#[test]
fn a_server_that_refuses_the_client_is_not_flooded() {
    let mut host = Mounted::with(|config| config.options.timeo = 100_000_000);
    let things = things(&mut host);
    for act in [
        Act::Status(Status::ERR_CLID_INUSE),
        Act::Reply(vec![1, 1, 1, 5]),
    ] {
        host.fake.server().expire();
        host.at(op::EXCHANGE_ID, 0, u32::MAX, act);
        let message = host.read_message(things.node, things.fh, 0, 9);
        let ticket = host.bed.send(&message);
        let before = host.fake.calls();
        host.idle(1000);
        let asked = host.fake.calls() - before;
        assert!(asked < 15, "asked {asked} times");
        assert!(host.bed.answer(ticket).is_none());
        host.fake.server().script.clear();
        assert_eq!(host.bed.wait(ticket).body(), b"content");
    }
}

#[test]
fn locks_are_taken_back_or_lost() {
    for (status, kept) in [
        (None, true),
        (Some(Status::ERR_DELAY), true),
        (Some(Status::ERR_RECLAIM_BAD), false),
        (Some(Status::ERR_NO_GRACE), false),
        (Some(Status::ERR_RECLAIM_CONFLICT), false),
    ] {
        let mut host = Mounted::new();
        let things = things(&mut host);
        let (node, fh) = (things.node, things.fh);
        let bystander = host.open(node, O_RDWR).unwrap();
        host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)).unwrap();
        let mut server = host.fake.server();
        server.expire();
        server.script.grace = true;
        if let Some(status) = status {
            server.at(op::LOCK, 0, 1, Act::Status(status));
        }
        drop(server);
        let expected = if kept { Ok(()) } else { Err(Errno::EIO) };
        assert_eq!(host.read(node, fh, 0, 9).map(drop), expected, "{status:?}");
        assert_eq!(host.read(node, bystander, 0, 9).unwrap(), b"content");
        assert_eq!(host.fake.server().states.count(true), usize::from(kept));
        host.check();
    }
}

#[test]
fn files_of_which_little_is_told() {
    let mut host = Mounted::with(|config| config.options.cache = dpfs::backend::nfs::Cache::Auto);
    let file = host.file(ROOT, "f", b"content");
    let all = host.lookup(ROOT, "f").unwrap().attr;
    assert_eq!((all.nlink, all.uid, all.mode), (1, 0, 0o100_644));
    // Without its type or its number a file is none.
    for missing in [attr::TYPE, attr::FILEID] {
        host.fake.server().script.attributes = without(&[missing]);
        assert_eq!(host.lookup(ROOT, "f").map(drop), Err(Errno::EIO));
        assert_eq!(host.getattr(file.nodeid, None).map(drop), Err(Errno::EIO));
        for plus in [false, true] {
            let listed = host.list(ROOT, 4096, plus);
            let entry = listed.last().unwrap();
            assert_eq!(entry.name, "f");
            assert!(entry.ino != 0 && entry.entry.is_none());
            assert_eq!(entry.kind, if missing == attr::TYPE { 0 } else { 8 });
        }
    }
    // Everything else is supposed, rather nothing than wrong.
    host.fake.server().script.attributes = without(&[
        attr::CHANGE,
        attr::FSID,
        attr::NUMLINKS,
        attr::OWNER,
        attr::OWNER_GROUP,
        attr::RAWDEV,
        attr::SPACE_USED,
        attr::TIME_ACCESS,
        attr::TIME_METADATA,
        attr::TIME_MODIFY,
        attr::MOUNTED_ON_FILEID,
        attr::FILES_FREE,
        attr::SPACE_TOTAL,
        attr::MAXNAME,
    ]);
    let little = host.lookup(ROOT, "f").unwrap().attr;
    assert_eq!((little.ino, little.nlink, little.size), (all.ino, 1, 7));
    assert_eq!((little.uid, little.gid), (65_534, 65_534));
    assert_eq!(host.statfs(ROOT).unwrap().namelen, 255);
    // Whether the content is as it was cannot be known.
    for _ in 0..2 {
        let opened = host.open_with(file.nodeid, O_RDONLY, false).unwrap();
        let keeps = dpfs::wire::fuse::FopenFlags::KEEP_CACHE.bits();
        assert_eq!(opened.open_flags & keeps, 0);
        host.release(file.nodeid, opened.fh).unwrap();
    }
    host.check();
}

#[test]
fn files_of_another_file_system_have_numbers_of_their_own() {
    let mut host = Mounted::new();
    let here = host.file(ROOT, "here", b"");
    host.file(ROOT, "there", b"");
    let mut server = host.fake.server();
    let number = server.tree.lookup(1, b"there").unwrap();
    let fileid = here.attr.ino;
    let node = server.tree.node(number).unwrap();
    (node.fsid, node.fileid) = ((9, 1), fileid);
    drop(server);
    let there = host.lookup(ROOT, "there").unwrap();
    assert_ne!(there.attr.ino, fileid);
    assert_eq!(
        host.getattr(there.nodeid, None).unwrap().ino,
        there.attr.ino
    );
    host.check();
}

#[test]
fn another_file_system_of_the_server_is_one_of_its_own_where_the_host_mounts_such_ones() {
    let mut host = Mounted::new();
    let numbers = {
        let mut server = host.fake.server();
        let numbers = ["there", "there/in", "here"].map(|path| server.directory(path));
        for number in &numbers[..2] {
            server.tree.node(*number).unwrap().fsid = (9, 1);
        }
        numbers
    };
    let flags = |host: &mut Mounted| {
        let there = host.lookup(ROOT, "there").unwrap();
        let inside = host.lookup(there.nodeid, "in").unwrap();
        let here = host.lookup(ROOT, "here").unwrap();
        let [there, inside, here] = [there, inside, here].map(|entry| entry.attr.flags);
        assert_eq!((inside, here), (0, 0));
        for entry in host.list(ROOT, 4096, true) {
            let expected = if entry.name == "there" { there } else { 0 };
            assert!(entry.entry.is_none_or(|found| found.attr.flags == expected));
        }
        there
    };
    assert_eq!(flags(&mut host), ATTR_SUBMOUNT);
    // A file has no file system of its own, and one that the server does not tell is none.
    host.fake.server().tree.node(numbers[0]).unwrap().fsid = (0, 0);
    assert_eq!(host.lookup(ROOT, "there").unwrap().attr.flags, 0);
    host.fake.server().tree.node(numbers[0]).unwrap().fsid = (9, 1);
    host.file(ROOT, "file", b"");
    let file = host.fake.server().tree.lookup(1, b"file").unwrap();
    host.fake.server().tree.node(file).unwrap().fsid = (9, 1);
    assert_eq!(host.lookup(ROOT, "file").unwrap().attr.flags, 0);
    let offered = InitFlags::all() - InitFlags::SUBMOUNTS;
    host.bed.init_as(45, offered);
    assert_eq!(flags(&mut host), 0);
    // One that would not survive it.
    host.bed.init_as(40, InitFlags::all());
    assert_eq!(flags(&mut host), 0);
    host.check();
}

#[test]
fn a_directory_is_listed_in_answers_that_the_session_holds() {
    let fake = Fake::start();
    fake.server().sessions.max_response = 12_000;
    let mut host = Mounted::of(fake, |_| ());
    for at in 0..300 {
        host.file(ROOT, &format!("a-file-with-a-rather-long-name-{at}"), b"");
    }
    for plus in [false, true] {
        assert_eq!(host.list(ROOT, 128 << 10, plus).len(), 302);
    }
    let node = host
        .lookup(ROOT, "a-file-with-a-rather-long-name-7")
        .unwrap()
        .nodeid;
    let fh = host.open(node, O_RDWR).unwrap();
    host.write(node, fh, 0, &[3; 100_000]).unwrap();
    assert!(host.read(node, fh, 0, 100_000).unwrap() == [3; 100_000]);
    host.check();
}
