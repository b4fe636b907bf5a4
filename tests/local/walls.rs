//! The host cannot leave the directory, whatever it makes in it and whatever it asks.

use std::fs;
use std::os::unix::fs::symlink;

use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::encode_dev;

use crate::host::*;

#[test]
fn links_are_shown_and_never_followed() {
    let mut host = Host::new();
    fs::write(host.outside("secret"), b"secret").unwrap();
    fs::create_dir(host.outside("secrets")).unwrap();
    for (name, target) in [
        ("root", "/"),
        ("up", ".."),
        ("file", "../secret"),
        ("dir", "../secrets"),
        ("proc", "/proc/self/root"),
        ("cwd", "/proc/self/cwd"),
        ("fd", "/proc/self/fd/0"),
    ] {
        let made = host.symlink(ROOT, name, target).unwrap();
        let node = made.nodeid;
        assert_eq!(made.attr.mode & 0o170_000, 0o120_000);
        assert_eq!(host.lookup(ROOT, name).unwrap().nodeid, node);
        for inside in ["etc", "secret", "x"] {
            assert_eq!(host.lookup(node, inside).unwrap_err(), Errno::ENOTDIR);
            assert_eq!(
                host.create(node, inside, O_RDWR, 0o600).unwrap_err(),
                Errno::ENOTDIR
            );
            assert_eq!(host.unlink(node, inside).unwrap_err(), Errno::ENOTDIR);
            assert_eq!(host.mkdir(node, inside, 0o755).unwrap_err(), Errno::ENOTDIR);
            assert_eq!(host.link(node, node, inside).unwrap_err(), Errno::ENOTDIR);
        }
        assert!(host.open(node, O_RDWR).is_err());
        assert_eq!(host.opendir(node).unwrap_err(), Errno::ENOTDIR);
        assert!(host.setattr(node, &size_change(0, None)).is_err());
        // The name is taken: what it leads to is neither opened nor replaced.
        assert!(host.create(ROOT, name, O_RDWR, 0o600).is_err());
        assert_eq!(host.mkdir(ROOT, name, 0o755).unwrap_err(), Errno::EEXIST);
        assert_eq!(
            host.rename((ROOT, "none"), (node, "x"), 0),
            Err(Errno::ENOENT).or(Err(Errno::ENOTDIR))
        );
    }
    assert_eq!(fs::read(host.outside("secret")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(host.outside("secrets")).unwrap().count(), 0);
}

#[test]
fn the_way_up_ends_at_the_root() {
    let mut host = Host::new();
    assert_eq!(host.lookup(ROOT, "..").unwrap().nodeid, ROOT);
    assert_eq!(host.lookup(ROOT, ".").unwrap().nodeid, ROOT);
    let dir = host.mkdir(ROOT, "dir", 0o755).unwrap().nodeid;
    assert_eq!(host.lookup(dir, "..").unwrap().nodeid, ROOT);
    assert_eq!(host.lookup(dir, ".").unwrap().nodeid, dir);
    let file = host.file(dir, "file", b"").nodeid;
    assert_eq!(host.lookup(file, ".").unwrap().nodeid, file);
    for name in ["../x", "a/b", "/etc"] {
        assert_eq!(host.lookup(ROOT, name).unwrap_err(), Errno::EINVAL);
        assert_eq!(host.mkdir(ROOT, name, 0o755).unwrap_err(), Errno::EINVAL);
    }
    for name in ["..", "."] {
        assert_eq!(host.rmdir(dir, name), Err(Errno::EINVAL));
        assert_eq!(host.rename((dir, name), (ROOT, "x"), 0), Err(Errno::EINVAL));
    }
}

#[test]
fn a_directory_that_was_moved_out_does_not_lead_further_up() {
    let mut host = Host::new();
    let dir = host.mkdir(ROOT, "dir", 0o755).unwrap().nodeid;
    let below = host.mkdir(dir, "below", 0o755).unwrap().nodeid;
    fs::write(host.outside("secret"), b"secret").unwrap();
    fs::rename(host.path("dir"), host.outside("moved")).unwrap();
    // Still in hand, as a process keeps a directory that it stands in.
    assert_eq!(host.getattr(dir, None).unwrap().mode & 0o170_000, 0o040_000);
    match host.lookup(below, "..") {
        Ok(entry) => assert_eq!(entry.nodeid, dir),
        Err(error) => assert_eq!(error, Errno::ENOENT),
    }
    if let Ok(entry) = host.lookup(dir, "..") {
        assert_eq!(
            host.lookup(entry.nodeid, "secret").unwrap_err(),
            Errno::ENOENT
        );
    }
}

#[test]
fn special_files_of_this_machine_are_never_opened() {
    let mut host = Host::new();
    let zero = host
        .mknod(ROOT, "zero", 0o020_666, encode_dev(1, 5))
        .unwrap()
        .nodeid;
    let fifo = host.mknod(ROOT, "fifo", 0o010_666, 0).unwrap().nodeid;
    for node in [zero, fifo] {
        for flags in [O_RDONLY, O_WRONLY, O_RDWR] {
            assert_eq!(host.open(node, flags).unwrap_err(), Errno::ENXIO);
        }
        assert!(host.setattr(node, &size_change(0, None)).is_err());
        assert!(host.syncfs(node).is_err());
    }
    for name in ["zero", "fifo"] {
        assert_eq!(
            host.create(ROOT, name, O_RDWR, 0o600).unwrap_err(),
            Errno::ESTALE
        );
    }
}

#[test]
fn a_name_that_becomes_a_link_between_two_requests_is_not_followed() {
    let mut host = Host::new();
    fs::write(host.outside("secret"), b"secret").unwrap();
    let file = host.file(ROOT, "file", b"mine");
    fs::remove_file(host.path("file")).unwrap();
    symlink("../secret", host.path("file")).unwrap();
    // By node: the file that was looked up, or nothing. By name: the link.
    if let Ok(fh) = host.open(file.nodeid, O_RDONLY) {
        assert_eq!(host.read(file.nodeid, fh, 0, 100).unwrap(), b"mine");
    }
    assert_eq!(
        host.create(ROOT, "file", O_RDWR | O_TRUNC, 0o600)
            .unwrap_err(),
        Errno::ESTALE
    );
    assert_eq!(fs::read(host.outside("secret")).unwrap(), b"secret");
}
