//! What the host may remember, and a volume that cannot be changed.

use std::fs;

use dpfs::backend::local::Cache;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::{FopenFlags, InitFlags, SetattrIn, SetattrValid};

use crate::host::*;

#[test]
fn each_policy_has_its_times_and_flags() {
    let direct = FopenFlags::DIRECT_IO | FopenFlags::PARALLEL_DIRECT_WRITES;
    for (cache, seconds, flags) in [
        (Cache::None, 0, direct),
        (Cache::Auto, 1, FopenFlags::empty()),
        (Cache::Always, 86_400, FopenFlags::KEEP_CACHE),
    ] {
        let mut host = Host::with(|config| config.cache = cache);
        let entry = host.file(ROOT, "file", b"");
        assert_eq!((entry.entry_valid, entry.attr_valid), (seconds, seconds));
        let open = host.open_with(entry.nodeid, O_RDONLY, false).unwrap();
        assert_eq!(open.open_flags, flags.bits());
        match host.lookup(ROOT, "none") {
            Ok(none) => {
                assert_eq!(
                    (cache, none.nodeid, none.entry_valid),
                    (Cache::Always, 0, 86_400)
                );
            }
            Err(error) => assert_eq!((cache == Cache::Always, error), (false, Errno::ENOENT)),
        }
    }
}

#[test]
fn wishes_follow_the_configuration() {
    let flags = |change: fn(&mut dpfs::backend::local::Config)| {
        let mut host = Host::with(change);
        let out = host.bed.init();
        InitFlags::from_bits_retain(u64::from(out.flags) | u64::from(out.flags2) << 32)
    };
    let usual = flags(|_| ());
    assert!(usual.contains(
        InitFlags::POSIX_LOCKS
            | InitFlags::FLOCK_LOCKS
            | InitFlags::HANDLE_KILLPRIV_V2
            | InitFlags::POSIX_ACL
            | InitFlags::DONT_MASK
            | InitFlags::DO_READDIRPLUS
    ));
    assert!(!usual.contains(InitFlags::WRITEBACK_CACHE));
    assert!(flags(|config| config.writeback = true).contains(InitFlags::WRITEBACK_CACHE));
    let plain = flags(|config| config.acl = false);
    assert!(!plain.intersects(InitFlags::POSIX_ACL | InitFlags::DONT_MASK));
}

#[test]
fn a_read_only_volume_refuses_every_change() {
    let dir = tempfile::TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("export/dir")).unwrap();
    fs::write(dir.path().join("export/file"), b"content").unwrap();
    let mut host = Host::at(dir, |config| config.read_only = true);
    let node = host.lookup(ROOT, "file").unwrap().nodeid;
    let fh = host.open(node, O_RDONLY).unwrap();
    assert_eq!(host.read(node, fh, 0, 10).unwrap(), b"content");
    let attrs = SetattrIn {
        valid: SetattrValid::MODE.bits(),
        ..SetattrIn::default()
    };
    let refusals = [
        host.open(node, O_RDWR).map(drop),
        host.open(node, O_RDONLY | O_TRUNC).map(drop),
        host.write(node, fh, 0, b"x").map(drop),
        host.create(ROOT, "new", O_RDWR, 0o600).map(drop),
        host.tmpfile(ROOT, O_RDWR, 0o600).map(drop),
        host.mkdir(ROOT, "new", 0o755).map(drop),
        host.mknod(ROOT, "new", 0o100_600, 0).map(drop),
        host.symlink(ROOT, "new", "x").map(drop),
        host.link(node, ROOT, "new").map(drop),
        host.unlink(ROOT, "file"),
        host.rmdir(ROOT, "dir"),
        host.rename((ROOT, "file"), (ROOT, "new"), 0),
        host.setattr(node, &attrs).map(drop),
        host.setxattr(node, "user.a", b"x", 0),
        host.removexattr(node, "user.a"),
        host.fallocate(node, fh, 0, 1, 0),
        host.copy((node, fh, 0), (node, fh, 10), 5).map(drop),
    ];
    for (n, refusal) in refusals.into_iter().enumerate() {
        assert_eq!(refusal, Err(Errno::EROFS), "{n}");
    }
    assert_eq!(host.list(ROOT, 4096, true).len(), 4);
    assert_eq!(host.flock(node, fh, F_RDLCK), Ok(()));
    assert_eq!(host.setlk(node, fh, 1, lock(F_RDLCK, 0, 9)), Ok(()));
}
