//! The flat layout as a host sees it, on any engine.

use std::time::Duration;

use dpfs::backend::kv::flat::{Flat, Look};
use dpfs::backend::kv::objects::Objects;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::{SetattrIn, SetattrValid, WriteFlags};
use dpfs_harness::host::{Host, O_APPEND, O_EXCL, O_RDWR, O_TRUNC, ROOT};

pub const LOOK: Look = Look {
    uid: 7,
    gid: 8,
    mode: 0o640,
    ttl: Duration::ZERO,
    keep: false,
    read_only: false,
};

/// Make a file with this content, and give its node.
pub fn file<O: Objects>(host: &mut Host<Flat<O>>, name: &str, content: &[u8]) -> u64 {
    let (entry, _) = host.create(ROOT, name, O_RDWR, 0o644).unwrap();
    if !content.is_empty() {
        host.write(entry.nodeid, 0, 0, content).unwrap();
    }
    entry.nodeid
}

pub fn names<O: Objects>(host: &mut Host<Flat<O>>, size: u32) -> Vec<String> {
    let mut names: Vec<String> = host
        .list(ROOT, size, false)
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    names.sort();
    names
}

/// What differs between engines.
pub struct Traits {
    /// Most bytes of a file.
    pub size_max: u64,
    /// Objects have versions.
    pub versions: bool,
}

/// What every engine must do.
pub fn suite<O: Objects>(host: &mut Host<Flat<O>>, traits: &Traits) {
    assert_eq!(names(host, 4096), [".", ".."]);
    assert_eq!(host.lookup(ROOT, "a").err(), Some(Errno::ENOENT));
    let a = file(host, "a", b"hello");
    assert_eq!(host.read(a, 0, 0, 100).unwrap(), b"hello");
    assert_eq!(host.read(a, 0, 1, 3).unwrap(), b"ell");
    assert_eq!(host.read(a, 0, 5, 3).unwrap(), b"");
    assert_eq!(host.read(a, 0, 500, 3).unwrap(), b"");

    let attr = host.getattr(a, None).unwrap();
    assert_eq!((attr.size, attr.mode, attr.nlink), (5, 0o100_640, 1));
    assert_eq!((attr.uid, attr.gid, attr.ino), (7, 8, a));
    let root = host.getattr(ROOT, None).unwrap();
    assert_eq!(root.mode, 0o040_750);
    host.write(a, 0, 0, b"HELLO").unwrap();
    let later = host.getattr(a, None).unwrap();
    // The host sees a change of the same size where it can.
    assert_eq!(later.mtimensec != attr.mtimensec, traits.versions);

    // In the middle, behind the end with a hole, at the end.
    host.write(a, 0, 2, b"..").unwrap();
    host.write(a, 0, 8, b"x").unwrap();
    assert_eq!(host.read(a, 0, 0, 100).unwrap(), b"HE..O\0\0\0x");
    host.write_with(a, 0, 0, b"end", O_APPEND | 1, WriteFlags::empty())
        .unwrap();
    assert_eq!(host.read(a, 0, 8, 100).unwrap(), b"xend");

    let size = |size| SetattrIn {
        valid: SetattrValid::SIZE.bits(),
        size,
        ..SetattrIn::default()
    };
    assert_eq!(host.setattr(a, &size(3)).unwrap().size, 3);
    assert_eq!(host.setattr(a, &size(6)).unwrap().size, 6);
    assert_eq!(host.read(a, 0, 0, 100).unwrap(), b"HE.\0\0\0");
    assert_eq!(
        host.setattr(a, &size(traits.size_max + 1)).err(),
        Some(Errno::EFBIG)
    );
    assert_eq!(
        host.write(a, 0, traits.size_max, b"x").err(),
        Some(Errno::EFBIG)
    );
    assert_eq!(
        host.write(a, 0, u64::MAX - 1, b"x").err(),
        Some(Errno::EFBIG)
    );
    let owner = SetattrIn {
        valid: (SetattrValid::MODE | SetattrValid::UID | SetattrValid::MTIME).bits(),
        mode: 0o777,
        uid: 1,
        mtime: 5,
        ..SetattrIn::default()
    };
    assert_eq!(
        host.setattr(a, &owner).unwrap().mode,
        0o100_640,
        "accepted, and forgotten"
    );
    host.open_with(a, O_RDWR | O_TRUNC, false).unwrap();
    assert_eq!(host.getattr(a, None).unwrap().size, 0);

    // The largest.
    let large: Vec<u8> = (0..1u32 << 20).map(|n| ((n * 7) >> 3) as u8).collect();
    host.write(a, 0, 0, &large).unwrap();
    assert_eq!(host.read(a, 0, 0, 1 << 20).unwrap(), large);
    assert_eq!(
        host.read(a, 0, 500_001, 4096).unwrap(),
        large[500_001..504_097]
    );
    host.write(a, 0, (1 << 20) - 1, b"!").unwrap();

    assert_eq!(
        host.create(ROOT, "a", O_RDWR | O_EXCL, 0o644).err(),
        Some(Errno::EEXIST)
    );
    let (again, _) = host.create(ROOT, "a", O_RDWR, 0o644).unwrap();
    assert_eq!((again.nodeid, again.attr.size), (a, 1 << 20));
    let (again, _) = host.create(ROOT, "a", O_RDWR | O_TRUNC, 0o644).unwrap();
    assert_eq!((again.nodeid, again.attr.size), (a, 0));

    // An open file goes along.
    host.write(a, 0, 0, b"one").unwrap();
    let b = file(host, "b", b"two");
    assert_eq!(
        host.rename((ROOT, "a"), (ROOT, "b"), 1).err(),
        Some(Errno::EEXIST)
    );
    assert_eq!(
        host.rename((ROOT, "c"), (ROOT, "b"), 0).err(),
        Some(Errno::ENOENT)
    );
    assert_eq!(
        host.rename((ROOT, "a"), (ROOT, "b"), 2).err(),
        Some(Errno::EINVAL)
    );
    host.rename((ROOT, "a"), (ROOT, "b"), 0).unwrap();
    assert_eq!(host.lookup(ROOT, "a").err(), Some(Errno::ENOENT));
    assert_eq!(host.lookup(ROOT, "b").unwrap().nodeid, a);
    assert_eq!(host.read(a, 0, 0, 9).unwrap(), b"one");
    assert_eq!(host.read(b, 0, 0, 9).err(), Some(Errno::ESTALE));
    host.rename((ROOT, "b"), (ROOT, "c"), 1).unwrap();
    assert_eq!(names(host, 4096), [".", "..", "c"]);

    host.unlink(ROOT, "c").unwrap();
    assert_eq!(host.unlink(ROOT, "c").err(), Some(Errno::ENOENT));
    assert_eq!(host.read(a, 0, 0, 9).err(), Some(Errno::ESTALE));
    assert_eq!(host.write(a, 0, 0, b"x").err(), Some(Errno::ESTALE));
    assert_eq!(
        host.lookup(ROOT, "c").err(),
        Some(Errno::ENOENT),
        "nothing brings it back"
    );

    // What is not there.
    assert_eq!(host.mkdir(ROOT, "d", 0o755).err(), Some(Errno::EPERM));
    assert_eq!(host.symlink(ROOT, "l", "x").err(), Some(Errno::EPERM));
    assert_eq!(
        host.mknod(ROOT, "p", 0o010_644, 0).err(),
        Some(Errno::EPERM)
    );
    assert_eq!(host.getxattr(ROOT, "user.a", 9).err(), Some(Errno::ENOSYS));
    host.mknod(ROOT, "f", 0o100_644, 0).unwrap();
    assert_eq!(
        host.mknod(ROOT, "f", 0o100_644, 0).err(),
        Some(Errno::EEXIST)
    );
    let f = host.lookup(ROOT, "f").unwrap().nodeid;
    assert_eq!(host.link(f, ROOT, "g").err(), Some(Errno::EPERM));
    assert_eq!(host.lookup(f, "x").err(), Some(Errno::ENOTDIR));
    host.fsync(f, 0).unwrap();
    host.statfs(ROOT).unwrap();
    host.unlink(ROOT, "f").unwrap();

    let mut wanted: Vec<String> = (0..40)
        .map(|n| format!("{n}{}", "n".repeat(n * 6)))
        .collect();
    for name in &wanted {
        file(host, name, b"");
    }
    wanted.extend([".".into(), "..".into()]);
    wanted.sort();
    for room in [512, 4096, 1 << 16] {
        assert_eq!(names(host, room), wanted, "{room}");
    }
    // With what they are like, each as a LOOKUP tells it.
    for (n, name) in wanted.iter().enumerate().skip(2).take(9) {
        let node = host.lookup(ROOT, name).unwrap().nodeid;
        host.write(node, 0, 0, &name.as_bytes()[..n.min(name.len())])
            .unwrap();
    }
    for room in [512, 4096, 1 << 16] {
        let mut listed = host.list(ROOT, room, true);
        listed.sort_by(|one, two| one.name.cmp(&two.name));
        let names: Vec<&String> = listed.iter().map(|entry| &entry.name).collect();
        assert_eq!(names, wanted.iter().collect::<Vec<_>>(), "{room}");
        for entry in &listed[2..] {
            let plus = entry.entry.expect("attributes");
            let found = host.lookup(ROOT, &entry.name).unwrap();
            assert_eq!((plus.nodeid, plus.attr), (found.nodeid, found.attr));
            assert_eq!(entry.ino, found.nodeid);
        }
        assert!(listed[..2].iter().all(|dot| dot.entry.is_none()));
    }
    // Removed while it is read, nothing is missed.
    let fh = host.opendir(ROOT).unwrap();
    let (mut position, mut removed) = (0, 0);
    loop {
        let page = host.readdir(ROOT, fh, position, 600, false).unwrap();
        let Some(last) = page.last() else {
            break;
        };
        position = last.next;
        for entry in page.iter().filter(|entry| !entry.name.starts_with('.')) {
            host.unlink(ROOT, &entry.name).unwrap();
            removed += 1;
        }
    }
    assert_eq!((removed, names(host, 4096).len()), (40, 2));
}
