//! File systems that are mounted below the served directory.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use dpfs::sys::mount;
use dpfs::wire::errno::Errno;
use tempfile::TempDir;

use crate::host::*;

/// Hold a mount until the test ends, well or not.
struct Mounted(CString);

impl Mounted {
    fn new(path: &Path) -> Option<Self> {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        mount::mount(c"tmpfs", &path, c"tmpfs", 0, c"size=1m").ok()?;
        Some(Self(path))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = mount::detach(&self.0);
    }
}

#[test]
fn mounts_below_are_entered_and_their_files_told_apart() {
    let dir = TempDir::new().unwrap();
    let export = dir.path().join("export");
    fs::create_dir_all(export.join("one")).unwrap();
    fs::create_dir_all(export.join("two")).unwrap();
    let mounts: Vec<_> = ["one", "two"]
        .iter()
        .filter_map(|name| Mounted::new(&export.join(name)))
        .collect();
    if mounts.len() < 2 {
        return;
    }
    for name in ["one", "two"] {
        fs::write(export.join(name).join("file"), name).unwrap();
    }
    let mut host = Host::at(dir, |config| config.descriptors = 1);
    let own = host.getattr(ROOT, None).unwrap().ino;
    let mut inodes = vec![own];
    for name in ["one", "two", "one"] {
        let mounted = host.lookup(ROOT, name).unwrap();
        let file = host.lookup(mounted.nodeid, "file").unwrap();
        // Through the handle: the cache has room for one descriptor.
        host.lookup(ROOT, "two").unwrap();
        let fh = host.open(file.nodeid, O_RDWR).unwrap();
        assert_eq!(host.read(file.nodeid, fh, 0, 10).unwrap(), name.as_bytes());
        assert_eq!(host.getattr(file.nodeid, None).unwrap().ino, file.attr.ino);
        inodes.extend([mounted.attr.ino, file.attr.ino]);
        host.release(file.nodeid, fh).unwrap();
        // The way up leads back across the mount.
        assert_eq!(host.lookup(mounted.nodeid, "..").unwrap().nodeid, ROOT);
    }
    inodes.truncate(5);
    inodes.sort_unstable();
    inodes.dedup();
    assert_eq!(inodes.len(), 5);
    let one = host.lookup(ROOT, "one").unwrap().nodeid;
    let two = host.lookup(ROOT, "two").unwrap().nodeid;
    assert_eq!(
        host.rename((one, "file"), (two, "moved"), 0),
        Err(Errno::EXDEV)
    );
    let file = host.lookup(one, "file").unwrap().nodeid;
    assert_eq!(host.link(file, two, "linked").unwrap_err(), Errno::EXDEV);
    assert_eq!(host.rmdir(ROOT, "one"), Err(Errno::EBUSY));
    let listed = host.list(ROOT, 4096, true);
    for name in ["one", "two"] {
        let entry = listed.iter().find(|entry| entry.name == name).unwrap();
        assert_eq!(entry.ino, entry.entry.unwrap().attr.ino);
    }
    assert!(host.statfs(one).unwrap().blocks < host.statfs(ROOT).unwrap().blocks);
}

#[test]
fn what_is_mounted_later_is_not_seen() {
    let mut host = Host::new();
    let entry = host.mkdir(ROOT, "dir", 0o755).unwrap();
    let Some(_mounted) = Mounted::new(&host.path("dir")) else {
        return;
    };
    fs::write(host.path("dir/hidden"), b"").unwrap();
    assert_eq!(host.lookup(ROOT, "dir").unwrap().nodeid, entry.nodeid);
    assert_eq!(
        host.lookup(entry.nodeid, "hidden").unwrap_err(),
        Errno::ENOENT
    );
}
