//! Every operation, what it costs, and what it refuses.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use dpfs::backend::nfs::{Cache, served};
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::*;

use crate::host::*;
use crate::server::{EXPORT, Ganesha, Manner};

const NOTHING: [&str; 2] = [".", ".."];

fn names(listed: &[Listed]) -> Vec<&str> {
    listed.iter().map(|entry| entry.name.as_str()).collect()
}

#[test]
fn each_operation_is_one_round_trip() {
    let mut host = Host::new();
    let (calls, (file, fh)) = host.calls_of(|host| host.create(ROOT, "f", O_RDWR, 0o644).unwrap());
    assert_eq!(calls, 1, "CREATE");
    // The file's times hold what tells the creation's repetition from another's.
    let (calls, (own, own_fh)) =
        host.calls_of(|host| host.create(ROOT, "own", O_RDWR | O_EXCL, 0o600).unwrap());
    assert_eq!(calls, 2, "exclusive CREATE");
    host.release(own.nodeid, own_fh).unwrap();
    host.unlink(ROOT, "own").unwrap();
    let node = file.nodeid;
    let mut one = |what: &str, act: &mut dyn FnMut(&mut Mounted)| {
        let (calls, ()) = host.calls_of(|host| act(host));
        assert_eq!(calls, 1, "{what}");
    };
    one("WRITE", &mut |host| {
        assert_eq!(host.write(node, fh, 0, &[7; 4096]), Ok(4096));
    });
    one("READ", &mut |host| {
        assert_eq!(host.read(node, fh, 0, 4096).unwrap(), [7; 4096]);
    });
    one("GETATTR", &mut |host| {
        assert_eq!(host.getattr(node, None).unwrap().size, 4096);
    });
    one("SETATTR", &mut |host| {
        host.setattr(node, &size_change(100, Some(fh))).unwrap();
    });
    one("LOOKUP", &mut |host| {
        host.lookup(ROOT, "f").unwrap();
    });
    one("LOOKUP of nothing", &mut |host| {
        assert_eq!(host.lookup(ROOT, "nothing").err(), Some(Errno::ENOENT));
    });
    one("LINK", &mut |host| {
        host.link(node, ROOT, "g").unwrap();
    });
    one("RELEASE", &mut |host| host.release(node, fh).unwrap());
    one("RENAME", &mut |host| {
        host.rename((ROOT, "g"), (ROOT, "h"), 0).unwrap();
    });
    one("UNLINK", &mut |host| host.unlink(ROOT, "h").unwrap());
    one("MKDIR", &mut |host| {
        host.mkdir(ROOT, "d", 0o755).unwrap();
    });
    one("RMDIR", &mut |host| host.rmdir(ROOT, "d").unwrap());
    one("MKNOD", &mut |host| {
        host.mknod(ROOT, "p", 0o010_644, 0).unwrap();
    });
    one("SYMLINK", &mut |host| {
        host.symlink(ROOT, "s", "target").unwrap();
    });
    one("STATFS", &mut |host| {
        host.statfs(ROOT).unwrap();
    });
    let link = host.lookup(ROOT, "s").unwrap().nodeid;
    let mut one = |what: &str, calls: u64, act: &mut dyn FnMut(&mut Mounted)| {
        let (made, ()) = host.calls_of(|host| act(host));
        assert_eq!(made, calls, "{what}");
    };
    one("READLINK", 1, &mut |host| {
        assert_eq!(host.readlink(link).unwrap(), b"target");
    });
    let mut opened = 0;
    one("OPEN", 1, &mut |host| {
        opened = host.open(node, O_RDONLY).unwrap();
    });
    // That a descriptor was closed changes nothing.
    one("FLUSH", 0, &mut |host| {
        assert_eq!(host.flush(node, opened, 1), Ok(()));
    });
    one("FSYNC of what is durable", 0, &mut |host| {
        assert_eq!(host.fsync(node, opened), Ok(()));
    });
    one("READDIRPLUS", 1, &mut |host| {
        let dir = host.opendir(ROOT).unwrap();
        assert_eq!(host.readdir(ROOT, dir, 0, 4096, true).unwrap().len(), 5);
        host.releasedir(ROOT, dir).unwrap();
    });
    host.release(node, opened).unwrap();
}

#[test]
fn content_is_made_durable_when_the_host_asks_or_closes() {
    let mut host = Host::new();
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    let node = file.nodeid;
    let mut steps = |what: &str, calls: u64, act: &mut dyn FnMut(&mut Mounted)| {
        let (made, ()) = host.calls_of(|host| act(host));
        assert_eq!(made, calls, "{what}");
    };
    let sync = |host: &mut Mounted, flags: u32| {
        host.write_with(node, fh, 0, b"x", O_RDWR | flags, WriteFlags::empty())
    };
    steps("O_DSYNC on a clean file", 1, &mut |host| {
        assert_eq!(sync(host, O_DSYNC), Ok(1));
        host.fsync(node, fh).unwrap();
    });
    steps("many WRITEs, one COMMIT", 9, &mut |host| {
        for at in 0..8 {
            host.write(node, fh, at * 4096, &[1; 4096]).unwrap();
        }
        host.fsync(node, fh).unwrap();
        host.fsync(node, fh).unwrap();
    });
    steps("O_DSYNC behind a WRITE that is not", 3, &mut |host| {
        host.write(node, fh, 0, b"a").unwrap();
        assert_eq!(sync(host, O_DSYNC), Ok(1));
        host.fsync(node, fh).unwrap();
    });
    steps("SYNCFS", 2, &mut |host| {
        host.write(node, fh, 0, b"a").unwrap();
        host.syncfs(ROOT).unwrap();
        host.syncfs(ROOT).unwrap();
    });
    steps("COMMIT and CLOSE in one", 2, &mut |host| {
        host.write(node, fh, 0, b"b").unwrap();
        host.release(node, fh).unwrap();
    });
    let mut host = Host::with(Manner::default(), |config| config.options.uncommitted = 0);
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    host.write(file.nodeid, fh, 0, b"a").unwrap();
    let (calls, ()) = host.calls_of(|host| host.fsync(file.nodeid, fh).unwrap());
    assert_eq!(calls, 0);
}

#[test]
fn content_is_what_was_written_at_any_offset_and_of_any_size() {
    let mut host = Host::new();
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    let node = file.nodeid;
    let mut model = vec![0u8; 3 << 20];
    let mut size = 0;
    for (number, (offset, len)) in [
        (0, 1),
        (1, 4095),
        (4096, 1 << 20),
        (3, 5),
        (1_000_001, 700_003),
        (2_000_000, 131_071),
        (2 << 20, 1 << 20),
    ]
    .into_iter()
    .enumerate()
    {
        let data: Vec<u8> = (0..len).map(|at| (at * 31 + number * 7) as u8).collect();
        assert_eq!(host.write(node, fh, offset as u64, &data), Ok(len as u32));
        model[offset..offset + len].copy_from_slice(&data);
        size = size.max(offset + len);
    }
    for (offset, len) in [
        (0, 1 << 20),
        (999_999, 1 << 20),
        (size - 10, 4096),
        (size, 4096),
        (5, 3),
    ] {
        let end = size.min(offset + len);
        let got = host.read(node, fh, offset as u64, len as u32).unwrap();
        assert!(
            got == model[offset..end],
            "{offset} {len}: {} bytes",
            got.len()
        );
    }
    assert!(fs::read(host.server.path("f")).unwrap() == model[..size]);
    host.setattr(node, &size_change(10, None)).unwrap();
    assert_eq!(host.read(node, fh, 0, 100).unwrap(), model[..10]);
}

#[test]
fn many_requests_are_under_way_at_once() {
    let mut host = Host::with(Manner::default(), |config| config.options.connections = 3);
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    let content: Vec<u8> = (0..32 << 16).map(|at: u32| (at >> 8) as u8).collect();
    assert_eq!(
        host.write(file.nodeid, fh, 0, &content[..1 << 20]),
        Ok(1 << 20)
    );
    assert_eq!(
        host.write(file.nodeid, fh, 1 << 20, &content[1 << 20..]),
        Ok(1 << 20)
    );
    for round in 0..20 {
        let tickets: Vec<_> = (0..32)
            .map(|at| {
                let message =
                    host.read_message(file.nodeid, fh, at << 16, 1 << (12 + (at + round) % 5));
                (at, host.bed.send(&message))
            })
            .collect();
        for (at, ticket) in tickets {
            let answer = host.bed.wait(ticket);
            let start = (at << 16) as usize;
            let len = 1 << (12 + (at + round) % 5);
            assert!(answer.body() == &content[start..start + len]);
        }
    }
}

#[test]
fn names_are_made_found_moved_and_removed() {
    let mut host = Host::new();
    let d = host.mkdir(ROOT, "d", 0o750).unwrap();
    assert_eq!(d.attr.mode, 0o040_750);
    assert_eq!(host.mkdir(ROOT, "d", 0o750).err(), Some(Errno::EEXIST));
    let f = host.file(d.nodeid, "f", b"content");
    assert_eq!(
        host.create(d.nodeid, "f", O_RDWR | O_EXCL, 0o600).err(),
        Some(Errno::EEXIST)
    );
    let (again, fh) = host.create(d.nodeid, "f", O_RDWR, 0o600).unwrap();
    assert_eq!(
        (again.nodeid, again.attr.size, again.attr.mode & 0o777),
        (f.nodeid, 7, 0o644)
    );
    host.release(again.nodeid, fh).unwrap();
    let (only, fh) = host
        .create(d.nodeid, "only", O_RDWR | O_EXCL, 0o640)
        .unwrap();
    assert_eq!(only.attr.mode, 0o100_640);
    // The verifier of an exclusive creation does not stay in the times.
    assert!(
        only.attr.mtime > 1_700_000_000 && only.attr.mtime < 1 << 33,
        "{}",
        only.attr.mtime
    );
    host.release(only.nodeid, fh).unwrap();
    assert_eq!(host.link(f.nodeid, ROOT, "g").unwrap().attr.nlink, 2);
    assert_eq!(host.rmdir(ROOT, "d"), Err(Errno::ENOTEMPTY));
    // That a directory is removed by rmdir(2) alone is seen to by the host's kernel: REMOVE takes both.
    assert_eq!(host.unlink(ROOT, "none"), Err(Errno::ENOENT));
    assert_eq!(
        host.lookup(ROOT, &"x".repeat(256)).err(),
        Some(Errno::ENAMETOOLONG)
    );
    host.rename((d.nodeid, "f"), (ROOT, "only"), 0).unwrap();
    host.rename((ROOT, "only"), (ROOT, "g2"), 0).unwrap();
    assert_eq!(
        host.rename((ROOT, "none"), (ROOT, "x"), 0),
        Err(Errno::ENOENT)
    );
    const RENAME_EXCHANGE: u32 = 2;
    assert_eq!(
        host.rename((ROOT, "g"), (ROOT, "g2"), RENAME_EXCHANGE),
        Err(Errno::EINVAL)
    );
    let s = host.symlink(ROOT, "s", &"long/".repeat(500)).unwrap();
    assert_eq!(
        host.readlink(s.nodeid).unwrap(),
        "long/".repeat(500).as_bytes()
    );
    host.mknod(ROOT, "p", 0o010_600, 0).unwrap();
    host.mknod(ROOT, "c", 0o020_600, (1 << 8) | 3).unwrap();
    host.mknod(ROOT, "r", 0o100_600, 0).unwrap();
    let kind = |name: &str| fs::symlink_metadata(host.server.path(name)).unwrap();
    assert!(kind("p").file_type().is_fifo() && kind("r").file_type().is_file());
    assert!(kind("c").file_type().is_char_device() && kind("c").rdev() == 0x103);
    let there: BTreeSet<String> = host
        .list(ROOT, 4096, true)
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    let wanted = [".", "..", "c", "d", "g", "g2", "p", "r", "s"].map(String::from);
    assert_eq!(there, wanted.into());
}

#[test]
fn attributes_are_set_by_those_who_may() {
    let mut host = Host::new();
    host.who = Who {
        uid: 1000,
        gid: 100,
    };
    assert_eq!(host.mkdir(ROOT, "mine", 0o700).err(), Some(Errno::EACCES));
    host.who = SUPER;
    let dir = host.mkdir(ROOT, "open", 0o777).unwrap().nodeid;
    host.who = Who {
        uid: 1000,
        gid: 100,
    };
    let file = host.file(dir, "f", b"x");
    assert_eq!((file.attr.uid, file.attr.gid), (1000, 100));
    let set = |valid: SetattrValid| SetattrIn {
        valid: valid.bits(),
        ..SetattrIn::default()
    };
    let mode = SetattrIn {
        mode: 0o100_604,
        ..set(SetattrValid::MODE)
    };
    assert_eq!(host.setattr(file.nodeid, &mode).unwrap().mode, 0o100_604);
    let owner = SetattrIn {
        uid: 5,
        gid: 6,
        ..set(SetattrValid::UID | SetattrValid::GID)
    };
    assert_eq!(host.setattr(file.nodeid, &owner).err(), Some(Errno::EPERM));
    host.who = SUPER;
    let attr = host.setattr(file.nodeid, &owner).unwrap();
    assert_eq!((attr.uid, attr.gid), (5, 6));
    let times = SetattrIn {
        atime: 1_000_000_000,
        atimensec: 5,
        mtime: 1_500_000_000,
        mtimensec: 999_999_999,
        ..set(SetattrValid::ATIME | SetattrValid::MTIME)
    };
    let attr = host.setattr(file.nodeid, &times).unwrap();
    assert_eq!(
        (attr.atime, attr.atimensec, attr.mtime, attr.mtimensec),
        (1_000_000_000, 5, 1_500_000_000, 999_999_999)
    );
    let now = set(SetattrValid::MTIME | SetattrValid::MTIME_NOW);
    assert!(host.setattr(file.nodeid, &now).unwrap().mtime > 1_700_000_000);
    let seen = fs::metadata(host.server.path("open/f")).unwrap();
    assert_eq!((seen.uid(), seen.gid(), seen.mode()), (5, 6, 0o100_604));
}

#[test]
fn a_large_directory_is_listed_once_in_pieces_of_any_size() {
    let mut host = Host::new();
    for number in 0..1500 {
        fs::write(
            host.server.path(&format!("a-file-with-number-{number}")),
            "",
        )
        .unwrap();
    }
    for (room, plus) in [(4096, false), (4096, true), (65536, true), (512, false)] {
        let listed = host.list(ROOT, room, plus);
        let all = names(&listed);
        assert_eq!(all.len(), 1502, "{room} {plus}");
        assert_eq!(all[..2], NOTHING);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 1502);
        for entry in listed.iter().skip(2).step_by(100) {
            let inode = fs::metadata(host.server.path(&entry.name)).unwrap().ino();
            assert_eq!(entry.ino, inode);
            assert_eq!(entry.entry.is_some(), plus);
        }
    }
}

#[test]
fn an_open_file_outlives_its_name_and_its_replacement() {
    let mut host = Host::new();
    for (name, replace) in [("removed", false), ("replaced", true)] {
        let (file, fh) = host.create(ROOT, name, O_RDWR, 0o644).unwrap();
        host.write(file.nodeid, fh, 0, b"still here").unwrap();
        if replace {
            host.file(ROOT, "new", b"new");
            host.rename((ROOT, "new"), (ROOT, name), 0).unwrap();
        } else {
            host.unlink(ROOT, name).unwrap();
            assert_eq!(host.lookup(ROOT, name).err(), Some(Errno::ENOENT));
        }
        assert_eq!(host.read(file.nodeid, fh, 0, 100).unwrap(), b"still here");
        host.write(file.nodeid, fh, 10, b"!").unwrap();
        // The server has it under a name that the host does not see.
        let hidden = |host: &Host| {
            let all = fs::read_dir(host.server.path("")).unwrap();
            all.filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_str().unwrap().starts_with(".nfs")
            })
            .count()
        };
        assert_eq!(hidden(&host), 1);
        let seen = host.list(ROOT, 4096, false).len();
        assert_eq!(seen, 2 + usize::from(replace));
        host.release(file.nodeid, fh).unwrap();
        host.idle(500);
        assert_eq!(hidden(&host), 0, "{name}");
    }
    assert_eq!(fs::read(host.server.path("replaced")).unwrap(), b"new");
}

#[test]
fn what_an_earlier_life_left_hidden_is_removed() {
    let mut host = Host::new();
    let dir = host.mkdir(ROOT, "d", 0o755).unwrap().nodeid;
    let (_, _) = host.create(dir, "f", O_RDWR, 0o644).unwrap();
    host.unlink(dir, "f").unwrap();
    // Another client's is not ours to remove.
    fs::write(host.server.path("d/.nfs0123456789abcdef01234567"), "").unwrap();
    // The daemon dies, and a new one is started.
    let volume = served::open(&config(host.relay.port)).unwrap();
    let mut next = core(volume);
    let dir = next.lookup(ROOT, "d").unwrap().nodeid;
    assert_eq!(names(&next.list(dir, 4096, true)), NOTHING);
    for _ in 0..200 {
        next.bed.round();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let left = fs::read_dir(host.server.path("d")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".nfs0123456789abcdef01234567"]);
}

#[test]
fn the_page_cache_is_kept_until_somebody_else_changes_the_file() {
    let mut host = Host::new();
    let file = host.file(ROOT, "f", b"one");
    let flags = |host: &mut Host| {
        let opened = host.open_with(file.nodeid, O_RDONLY, false).unwrap();
        host.release(file.nodeid, opened.fh).unwrap();
        FopenFlags::from_bits_truncate(opened.open_flags)
    };
    flags(&mut host);
    assert!(flags(&mut host).contains(FopenFlags::KEEP_CACHE));
    fs::write(host.server.path("f"), "two").unwrap();
    // The server looks at what changed behind its back when its own attributes are old.
    std::thread::sleep(std::time::Duration::from_millis(100));
    host.setattr(file.nodeid, &size_change(2, None)).unwrap();
    assert!(!flags(&mut host).contains(FopenFlags::KEEP_CACHE));
    assert!(flags(&mut host).contains(FopenFlags::KEEP_CACHE));
}

#[test]
fn without_caches_nothing_is_kept() {
    let mut host = Host::with(Manner::default(), |config| {
        config.options.cache = Cache::None
    });
    let file = host.file(ROOT, "f", b"one");
    assert_eq!(
        (file.entry_valid, file.entry_valid_nsec, file.attr_valid),
        (0, 0, 0)
    );
    let opened = host.open_with(file.nodeid, O_RDONLY, false).unwrap();
    assert!(FopenFlags::from_bits_truncate(opened.open_flags).contains(FopenFlags::DIRECT_IO));
}

#[test]
fn space_is_allocated_and_freed_and_holes_are_found() {
    let mut host = Host::new();
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    let node = file.nodeid;
    host.fallocate(node, fh, 0, 1 << 20, 0).unwrap();
    assert_eq!(host.getattr(node, None).unwrap().size, 1 << 20);
    host.write(node, fh, 0, &[1; 65536]).unwrap();
    const PUNCH_HOLE_KEEP_SIZE: u32 = 3;
    host.fallocate(node, fh, 8192, 4096, PUNCH_HOLE_KEEP_SIZE)
        .unwrap();
    assert_eq!(host.read(node, fh, 8192, 4096).unwrap(), [0; 4096]);
    const SEEK_HOLE: u32 = 4;
    assert_eq!(host.lseek(node, fh, 0, SEEK_HOLE), Ok(8192));
    assert_eq!(
        host.fallocate(node, fh, 0, 4096, 1 << 7),
        Err(Errno::EOPNOTSUPP)
    );
    // A server without them: the host does without.
    let mut host = Host::with(
        Manner {
            minor: 1,
            ..Manner::default()
        },
        |_| (),
    );
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    let refused = host.fallocate(file.nodeid, fh, 0, 4096, 0).err();
    assert!(
        refused == Some(Errno::EOPNOTSUPP) || refused == Some(Errno::ENOSYS),
        "{refused:?}"
    );
    assert_eq!(
        host.lseek(file.nodeid, fh, 0, SEEK_HOLE),
        Err(Errno::ENOSYS)
    );
}

#[test]
fn an_export_that_is_only_read_refuses_changes() {
    for by_server in [false, true] {
        let manner = Manner {
            read_only: by_server,
            ..Manner::default()
        };
        let mut host = Host::with(manner, |config| config.options.read_only = !by_server);
        fs::write(host.server.path("f"), "content").unwrap();
        let file = host.lookup(ROOT, "f").unwrap();
        assert_eq!(host.open(file.nodeid, O_RDWR).err(), Some(Errno::EROFS));
        assert_eq!(host.mkdir(ROOT, "d", 0o755).err(), Some(Errno::EROFS));
        assert_eq!(host.unlink(ROOT, "f").err(), Some(Errno::EROFS));
        let size = size_change(0, None);
        assert_eq!(host.setattr(file.nodeid, &size).err(), Some(Errno::EROFS));
        let fh = host.open(file.nodeid, O_RDONLY).unwrap();
        assert_eq!(host.read(file.nodeid, fh, 0, 100).unwrap(), b"content");
    }
}

#[test]
fn two_cores_share_files_that_either_opened() {
    let mut host = Host::new();
    let mut other = core(host.volume);
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    assert_eq!(other.write(file.nodeid, fh, 0, b"from the other"), Ok(14));
    assert_eq!(
        host.read(file.nodeid, fh, 0, 100).unwrap(),
        b"from the other"
    );
    other.release(file.nodeid, fh).unwrap();
    assert_eq!(host.read(file.nodeid, fh, 0, 100).err(), Some(Errno::EBADF));
}

#[test]
fn an_export_that_is_not_there_is_named() {
    let server = Ganesha::start(Manner::default());
    let mut config = config(server.port);
    config.export = format!("{EXPORT}/none");
    let error = served::open(&config).err().unwrap();
    assert_eq!(error, "the server does not give /share/none: NFS4ERR_NOENT");
    config.export = EXPORT.into();
    config.minor = Some(1);
    assert!(served::open(&config).is_ok());
}

#[test]
fn names_of_owners_have_the_numbers_of_the_table() {
    let manner = Manner {
        names: Some("a.org"),
        ..Manner::default()
    };
    let mut host = Host::with(manner, |config| {
        config.owners = vec![("daemon@a.org".into(), 4001)];
        config.groups = vec![("bin".into(), 4002)];
    });
    let node = host.file(ROOT, "f", b"content").nodeid;
    let mut owned = |uid: u32, gid: u32| {
        let change = SetattrIn {
            valid: (SetattrValid::UID | SetattrValid::GID).bits(),
            uid,
            gid,
            ..SetattrIn::default()
        };
        let attr = host.setattr(node, &change).unwrap();
        let meta = fs::metadata(host.server.path("f")).unwrap();
        ((attr.uid, attr.gid), (meta.uid(), meta.gid()))
    };
    // Debian's daemon is 1, its group bin 2.
    assert_eq!(owned(4001, 4002), ((4001, 4002), (1, 2)));
    // Whom neither has a name for.
    assert_eq!(owned(54_321, 0), ((54_321, 0), (54_321, 0)));
    // Whom only the server has a name for: mail.
    fs::write(host.server.path("g"), b"").unwrap();
    std::os::unix::fs::chown(host.server.path("g"), Some(8), Some(0)).unwrap();
    let attr = host.lookup(ROOT, "g").unwrap().attr;
    assert_eq!((attr.uid, attr.gid), (65_534, 0));
}
