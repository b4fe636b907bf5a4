//! Names, nodes and attributes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::{SetattrIn, SetattrValid, encode_dev};

use crate::host::*;

const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;
const WHITEOUT: u32 = 4;

#[test]
fn names_come_and_go() {
    let mut host = Host::new();
    assert_eq!(host.lookup(ROOT, "a").unwrap_err(), Errno::ENOENT);
    let dir = host.mkdir(ROOT, "dir", 0o751).unwrap();
    assert_eq!(dir.attr.mode, 0o40751);
    let file = host.file(dir.nodeid, "a", b"hello");
    let again = host.lookup(dir.nodeid, "a").unwrap();
    assert_eq!(again.nodeid, file.nodeid);
    assert_eq!(again.attr.size, 5);
    assert_eq!(host.rmdir(ROOT, "dir"), Err(Errno::ENOTEMPTY));
    assert_eq!(host.unlink(ROOT, "dir"), Err(Errno::EISDIR));
    assert_eq!(host.rename((dir.nodeid, "a"), (ROOT, "b"), 0), Ok(()));
    assert_eq!(host.lookup(dir.nodeid, "a").unwrap_err(), Errno::ENOENT);
    assert_eq!(host.lookup(ROOT, "b").unwrap().nodeid, file.nodeid);
    assert_eq!(fs::read(host.path("b")).unwrap(), b"hello");
    assert_eq!(host.rmdir(ROOT, "dir"), Ok(()));
    assert_eq!(host.unlink(ROOT, "b"), Ok(()));
    assert_eq!(host.unlink(ROOT, "b"), Err(Errno::ENOENT));
    host.forget(file.nodeid, 3);
    host.forget(dir.nodeid, 1);
    assert_eq!(host.volume.nodes(), 1);
    assert_eq!(host.getattr(file.nodeid, None).unwrap_err(), Errno::ESTALE);
    assert_eq!(host.lookup(file.nodeid, "a").unwrap_err(), Errno::ESTALE);
}

#[test]
fn a_file_is_not_a_directory() {
    let mut host = Host::new();
    let file = host.file(ROOT, "file", b"").nodeid;
    assert_eq!(host.lookup(file, "x").unwrap_err(), Errno::ENOTDIR);
    assert_eq!(host.mkdir(file, "x", 0o755).unwrap_err(), Errno::ENOTDIR);
    assert_eq!(host.mkdir(ROOT, "file", 0o755).unwrap_err(), Errno::EEXIST);
    assert_eq!(
        host.create(ROOT, "file", O_RDWR | O_EXCL, 0o600)
            .unwrap_err(),
        Errno::EEXIST
    );
    assert_eq!(host.rmdir(ROOT, "file"), Err(Errno::ENOTDIR));
    assert_eq!(host.readlink(file).unwrap_err(), Errno::EINVAL);
    let long = "n".repeat(255);
    host.file(ROOT, &long, b"");
    assert_eq!(
        host.lookup(ROOT, &"n".repeat(256)).unwrap_err(),
        Errno::ENAMETOOLONG
    );
    assert_eq!(host.unlink(ROOT, &long), Ok(()));
}

#[test]
fn hard_links_are_one_node() {
    for handles in [true, false] {
        let mut host = Host::with(|config| config.handles = handles);
        let file = host.file(ROOT, "one", b"x");
        let linked = host.link(file.nodeid, ROOT, "two").unwrap();
        assert_eq!(linked.nodeid, file.nodeid);
        assert_eq!(linked.attr.nlink, 2);
        assert_eq!(host.lookup(ROOT, "two").unwrap().nodeid, file.nodeid);
        assert_eq!(
            host.link(file.nodeid, ROOT, "two").unwrap_err(),
            Errno::EEXIST
        );
        let dir = host.mkdir(ROOT, "dir", 0o755).unwrap().nodeid;
        assert_eq!(host.link(dir, ROOT, "loop").unwrap_err(), Errno::EPERM);
        host.unlink(ROOT, "one").unwrap();
        assert_eq!(host.getattr(file.nodeid, None).unwrap().nlink, 1);
        let link = host.symlink(ROOT, "link", "two").unwrap().nodeid;
        assert_eq!(host.link(link, ROOT, "again").unwrap().nodeid, link);
        assert_eq!(host.readlink(link).unwrap(), b"two");
        host.forget(file.nodeid, 3);
        host.forget(link, 2);
        host.forget(dir, 1);
        assert_eq!(host.volume.nodes(), 1);
    }
}

#[test]
fn every_kind_of_node_is_made() {
    let mut host = Host::new();
    for (name, mode, rdev) in [
        ("file", 0o100_640, 0),
        ("fifo", 0o010_600, 0),
        ("socket", 0o140_600, 0),
        ("char", 0o020_600, encode_dev(1, 3)),
        ("block", 0o060_600, encode_dev(259, 0x12345)),
    ] {
        let made = host.mknod(ROOT, name, mode, rdev).unwrap();
        assert_eq!((made.attr.mode, made.attr.rdev), (mode, rdev), "{name}");
        assert_eq!(host.lookup(ROOT, name).unwrap().nodeid, made.nodeid);
    }
    let block = fs::symlink_metadata(host.path("block")).unwrap();
    assert!(block.file_type().is_block_device());
    assert_eq!(block.rdev(), libc::makedev(259, 0x12345));
    let link = host.symlink(ROOT, "link", "no/such/place").unwrap();
    assert_eq!(link.attr.mode & 0o170_000, 0o120_000);
    assert_eq!(host.readlink(link.nodeid).unwrap(), b"no/such/place");
    let long = "t".repeat(4095);
    let link = host.symlink(ROOT, "long", &long).unwrap();
    assert_eq!(host.readlink(link.nodeid).unwrap(), long.as_bytes());
}

#[test]
fn renames_keep_to_their_flags() {
    let mut host = Host::new();
    let (a, b) = (host.file(ROOT, "a", b"a"), host.file(ROOT, "b", b"b"));
    let rename = |host: &mut Host, from, to, flags| host.rename((ROOT, from), (ROOT, to), flags);
    assert_eq!(rename(&mut host, "a", "b", NOREPLACE), Err(Errno::EEXIST));
    assert_eq!(rename(&mut host, "a", "b", EXCHANGE), Ok(()));
    assert_eq!(host.lookup(ROOT, "a").unwrap().nodeid, b.nodeid);
    assert_eq!(host.lookup(ROOT, "b").unwrap().nodeid, a.nodeid);
    assert_eq!(rename(&mut host, "a", "c", EXCHANGE), Err(Errno::ENOENT));
    assert_eq!(rename(&mut host, "a", "c", 8), Err(Errno::EINVAL));
    assert_eq!(
        rename(&mut host, "a", "b", NOREPLACE | EXCHANGE),
        Err(Errno::EINVAL)
    );
    if rename(&mut host, "a", "c", WHITEOUT) == Ok(()) {
        let out = host.lookup(ROOT, "a").unwrap();
        assert_eq!((out.attr.mode & 0o170_000, out.attr.rdev), (0o020_000, 0));
    }
    let dir = host.mkdir(ROOT, "dir", 0o755).unwrap().nodeid;
    assert_eq!(
        host.rename((ROOT, "dir"), (dir, "in-itself"), 0),
        Err(Errno::EINVAL)
    );
    assert_eq!(rename(&mut host, "b", "dir", 0), Err(Errno::EISDIR));
}

#[test]
fn a_file_without_a_name_gets_one_later() {
    let mut host = Host::new();
    let (entry, fh) = host.tmpfile(ROOT, O_RDWR, 0o600).unwrap();
    let node = entry.nodeid;
    assert_eq!(entry.attr.nlink, 0);
    assert_eq!(host.list(ROOT, 4096, false).len(), 2);
    host.write(node, fh, 0, b"content").unwrap();
    assert_eq!(host.link(node, ROOT, "named").unwrap().nodeid, node);
    assert_eq!(fs::read(host.path("named")).unwrap(), b"content");
    let (never, _) = host.tmpfile(ROOT, O_RDWR | O_EXCL, 0o600).unwrap();
    assert_eq!(
        host.link(never.nodeid, ROOT, "no").unwrap_err(),
        Errno::ENOENT
    );
}

#[test]
fn times_owners_and_permissions_are_set() {
    let mut host = Host::new();
    let node = host.file(ROOT, "file", b"x").nodeid;
    let times = SetattrValid::ATIME | SetattrValid::MTIME;
    let mut args = SetattrIn {
        valid: times.bits(),
        atime: -5,
        atimensec: 999_999_999,
        mtime: 4_000_000_000,
        mtimensec: 1,
        ..SetattrIn::default()
    };
    let attr = host.setattr(node, &args).unwrap();
    assert_eq!((attr.atime, attr.atimensec), (-5, 999_999_999));
    assert_eq!((attr.mtime, attr.mtimensec), (4_000_000_000, 1));
    args.valid = (SetattrValid::MTIME | SetattrValid::MTIME_NOW).bits();
    let later = host.setattr(node, &args).unwrap();
    assert_eq!((later.atime, later.atimensec), (-5, 999_999_999));
    assert!(later.mtime < 4_000_000_000);
    args.valid = times.bits();
    args.mtimensec = 1 << 30;
    assert_eq!(host.setattr(node, &args), Err(Errno::EINVAL));

    let owner = SetattrIn {
        valid: (SetattrValid::UID | SetattrValid::GID | SetattrValid::MODE).bits(),
        uid: 1000,
        gid: 1001,
        mode: 0o104_711,
        ..SetattrIn::default()
    };
    let attr = host.setattr(node, &owner).unwrap();
    assert_eq!((attr.uid, attr.gid, attr.mode), (1000, 1001, 0o104_711));
    // A link's own attributes, not its target's.
    let link = host.symlink(ROOT, "link", "file").unwrap().nodeid;
    let only = SetattrIn {
        valid: SetattrValid::UID.bits(),
        uid: 77,
        ..SetattrIn::default()
    };
    assert_eq!(host.setattr(link, &only).unwrap().uid, 77);
    args.mtimensec = 5;
    assert_eq!(host.setattr(link, &args).unwrap().mtimensec, 5);
    assert_eq!(host.getattr(node, None).unwrap().uid, 1000);
    let mode = SetattrIn {
        valid: SetattrValid::MODE.bits(),
        mode: 0o600,
        ..SetattrIn::default()
    };
    assert_eq!(host.setattr(link, &mode), Err(Errno::EOPNOTSUPP));
}

#[test]
fn statx_tells_the_time_of_birth() {
    let mut host = Host::new();
    let node = host.file(ROOT, "file", b"12345").nodeid;
    let stat = host.statx(node, 0xfff).unwrap();
    assert_eq!(
        (stat.size, stat.ino),
        (5, host.getattr(node, None).unwrap().ino)
    );
    let own = fs::metadata(host.path("file")).unwrap();
    if let Ok(created) = own.created() {
        let since = created.duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(stat.btime.tv_sec as u64, since.as_secs());
        assert_ne!(stat.mask & 0x800, 0);
    }
    assert_eq!(host.statx(99, 0xfff).unwrap_err(), Errno::ESTALE);
}

#[test]
fn the_file_system_is_described_and_synced() {
    let mut host = Host::new();
    let stat = host.statfs(ROOT).unwrap();
    assert!(stat.blocks > 0 && stat.frsize > 0);
    assert_eq!(stat.namelen, 255);
    assert_eq!(host.syncfs(ROOT), Ok(()));
    let node = host.file(ROOT, "file", b"").nodeid;
    assert_eq!(host.syncfs(node), Ok(()));
    assert_eq!(host.statfs(node).unwrap().blocks, stat.blocks);
}

#[test]
fn a_directory_is_listed_with_and_without_attributes() {
    let mut host = Host::new();
    for n in 0..300 {
        fs::write(host.path(&format!("file-{n:03}")), vec![0; n]).unwrap();
    }
    let root = host.getattr(ROOT, None).unwrap().ino;
    for (size, plus) in [
        (65536, false),
        (4096, false),
        (300, false),
        (65536, true),
        (4096, true),
        (400, true),
    ] {
        let mut listed = host.list(ROOT, size, plus);
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(listed.len(), 302, "{size} {plus}");
        assert_eq!((&*listed[0].name, &*listed[1].name), (".", ".."));
        // What is above the root is not shown.
        assert_eq!((listed[0].ino, listed[1].ino), (root, root));
        for (n, entry) in listed[2..].iter().enumerate() {
            assert_eq!((&*entry.name, entry.kind), (&*format!("file-{n:03}"), 8));
            if plus {
                let given = entry.entry.unwrap();
                assert_eq!((given.attr.size, given.attr.ino), (n as u64, entry.ino));
                host.forget(given.nodeid, 1);
            }
        }
        assert_eq!(host.volume.nodes(), 1);
    }
    let fh = host.opendir(ROOT).unwrap();
    for plus in [false, true] {
        let none = host.readdir(ROOT, fh, 0, 16, plus);
        assert!(matches!(none.as_deref(), Ok([]) | Err(&Errno::EINVAL)));
    }
    assert_eq!(host.releasedir(ROOT, fh), Ok(()));
}

#[test]
fn a_directory_that_changes_is_still_listed_whole() {
    let mut host = Host::new();
    for n in 0..500 {
        fs::write(host.path(&format!("stays-{n}")), b"").unwrap();
        fs::write(host.path(&format!("goes-{n}")), b"").unwrap();
    }
    let fh = host.opendir(ROOT).unwrap();
    let (mut seen, mut position, mut round) = (Vec::new(), 0, 0);
    loop {
        let some = host
            .readdir(ROOT, fh, position, 1024, round % 2 == 1)
            .unwrap();
        let Some(last) = some.last() else { break };
        position = last.next;
        seen.extend(some.into_iter().map(|entry| entry.name));
        let _ = host.unlink(ROOT, &format!("goes-{round}"));
        host.file(ROOT, &format!("comes-{round}"), b"");
        round += 1;
    }
    seen.retain(|name| name.starts_with("stays"));
    seen.sort();
    assert_eq!(seen.len(), 500);
    seen.dedup();
    assert_eq!(seen.len(), 500);
    // Back to the start, and to a place in between.
    let first = host.readdir(ROOT, fh, 0, 1024, false).unwrap();
    let again = host.readdir(ROOT, fh, first[2].next, 1024, false).unwrap();
    assert_eq!(again[0].name, first[3].name);
}

#[test]
fn extended_attributes_of_every_kind() {
    let mut host = Host::new();
    let node = host.file(ROOT, "file", b"").nodeid;
    for name in ["user.a", "trusted.b", "security.c"] {
        assert_eq!(host.setxattr(node, name, b"value", 0), Ok(()), "{name}");
        assert_eq!(host.getxattr(node, name, 100).unwrap(), b"value");
        assert_eq!(host.own_xattr(&host.path("file"), name).unwrap(), b"value");
        let size = host.getxattr(node, name, 0).unwrap();
        assert_eq!(size, [5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(host.getxattr(node, name, 4), Err(Errno::ERANGE));
    }
    assert_eq!(host.setxattr(node, "user.a", b"x", 1), Err(Errno::EEXIST));
    assert_eq!(host.setxattr(node, "user.z", b"x", 2), Err(Errno::ENODATA));
    let list = host.listxattr(node, 1000).unwrap();
    for name in ["user.a\0", "trusted.b\0", "security.c\0"] {
        let found = list.windows(name.len()).any(|part| part == name.as_bytes());
        assert!(found, "{name}");
    }
    assert_eq!(host.listxattr(node, 3), Err(Errno::ERANGE));
    assert_eq!(host.listxattr(node, 0).unwrap()[0] as usize, list.len());
    assert_eq!(host.removexattr(node, "user.a"), Ok(()));
    assert_eq!(host.removexattr(node, "user.a"), Err(Errno::ENODATA));
    assert_eq!(host.getxattr(node, "user.a", 10), Err(Errno::ENODATA));
    let dir = host.mkdir(ROOT, "dir", 0o755).unwrap().nodeid;
    let link = host.symlink(ROOT, "link", "file").unwrap().nodeid;
    assert_eq!(host.setxattr(dir, "user.d", b"d", 0), Ok(()));
    assert_eq!(host.setxattr(link, "trusted.l", b"l", 0), Ok(()));
    assert_eq!(host.getxattr(link, "trusted.l", 10).unwrap(), b"l");
    assert_eq!(host.getxattr(node, "trusted.l", 10), Err(Errno::ENODATA));
    assert_eq!(host.setxattr(link, "user.l", b"l", 0), Err(Errno::EPERM));
}
