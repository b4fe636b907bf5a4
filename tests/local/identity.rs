//! Whose files are made, and what a change by someone without privileges takes away.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use dpfs::wire::fuse::{SETXATTR_ACL_KILL_SGID, SetattrIn, SetattrValid, WriteFlags};
use zerocopy::IntoBytes;

use crate::host::*;

const USER: Who = Who {
    uid: 1234,
    gid: 5678,
};

#[test]
fn what_is_made_belongs_to_the_caller() {
    let mut host = Host::new();
    host.who = USER;
    let (file, _) = host.create(ROOT, "file", O_RDWR, 0o640).unwrap();
    let others = [
        host.mkdir(ROOT, "dir", 0o750).unwrap(),
        host.symlink(ROOT, "link", "x").unwrap(),
        host.mknod(ROOT, "fifo", 0o010_600, 0).unwrap(),
        host.mknod(ROOT, "char", 0o020_600, 0x103).unwrap(),
        host.tmpfile(ROOT, O_RDWR, 0o600).unwrap().0,
        file,
    ];
    for made in others {
        assert_eq!((made.attr.uid, made.attr.gid), (1234, 5678));
    }
    host.who = SUPER;
    let made = host.mkdir(ROOT, "roots", 0o755).unwrap();
    assert_eq!((made.attr.uid, made.attr.gid), (0, 0));
    // The server's own rights were not lost: the directory is not the user's.
    fs::set_permissions(host.path("roots"), fs::Permissions::from_mode(0o700)).unwrap();
    host.who = USER;
    let made = host.mkdir(made.nodeid, "below", 0o755).unwrap();
    assert_eq!(made.attr.uid, 1234);
}

#[test]
fn a_directory_gives_its_group_and_keeps_strangers_from_setting_it() {
    let mut host = Host::new();
    let dir = host.mkdir(ROOT, "dir", 0o755).unwrap().nodeid;
    chown(host.path("dir"), Some(0), Some(999)).unwrap();
    fs::set_permissions(host.path("dir"), fs::Permissions::from_mode(0o2777)).unwrap();
    host.who = USER;
    let (file, _) = host.create(dir, "file", O_RDWR, 0o2755).unwrap();
    assert_eq!(file.attr.gid, 999);
    assert_eq!(file.attr.mode & 0o7777, 0o755, "not of the group");
    host.extensions = group(999);
    let (file, _) = host.create(dir, "member", O_RDWR, 0o2755).unwrap();
    assert_eq!((file.attr.gid, file.attr.mode & 0o7777), (999, 0o2755));
    let below = host.mkdir(dir, "below", 0o755).unwrap();
    assert_eq!((below.attr.gid, below.attr.mode & 0o7777), (999, 0o2755));
    // The group was for that one request.
    let (file, _) = host.create(dir, "again", O_RDWR, 0o2755).unwrap();
    assert_eq!(file.attr.mode & 0o7777, 0o755);
}

/// Lay out an ACL: version 2, then tag, permissions and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.as_bytes().to_vec();
    for &(tag, permissions, id) in entries {
        bytes.extend_from_slice([tag, permissions].as_bytes());
        bytes.extend_from_slice(id.as_bytes());
    }
    bytes
}

const USER_OBJ: u16 = 1;
const ACL_USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const NO_ID: u32 = u32::MAX;

#[test]
fn the_umask_is_applied_unless_the_directory_has_a_default_acl() {
    let mut host = Host::new();
    host.umask = 0o027;
    let (file, _) = host.create(ROOT, "file", O_RDWR, 0o666).unwrap();
    assert_eq!(file.attr.mode & 0o7777, 0o640);
    let dir = host.mkdir(ROOT, "dir", 0o777).unwrap();
    assert_eq!(dir.attr.mode & 0o7777, 0o750);
    let node = dir.nodeid;
    let default = acl(&[
        (USER_OBJ, 7, NO_ID),
        (ACL_USER, 6, 1234),
        (GROUP_OBJ, 7, NO_ID),
        (MASK, 7, NO_ID),
        (OTHER, 4, NO_ID),
    ]);
    host.setxattr(node, "system.posix_acl_default", &default, 0)
        .unwrap();
    let (file, _) = host.create(node, "file", O_RDWR, 0o666).unwrap();
    assert_eq!(file.attr.mode & 0o7777, 0o664);
    let given = host
        .getxattr(file.nodeid, "system.posix_acl_access", 1000)
        .unwrap();
    assert_eq!(given.len(), 4 + 5 * 8);
    let below = host.mkdir(node, "below", 0o777).unwrap();
    assert_eq!(below.attr.mode & 0o777, 0o774);
    let inherited = host
        .getxattr(below.nodeid, "system.posix_acl_default", 1000)
        .unwrap();
    assert_eq!(inherited, default);
    // A mode that is set shows in the ACL's mask.
    let mode = SetattrIn {
        valid: SetattrValid::MODE.bits(),
        mode: 0o600,
        ..SetattrIn::default()
    };
    host.setattr(file.nodeid, &mode).unwrap();
    let masked = host
        .getxattr(file.nodeid, "system.posix_acl_access", 1000)
        .unwrap();
    assert_ne!(masked, given);
}

#[test]
fn a_change_of_the_acl_clears_the_group_bit_when_told_so() {
    let mut host = Host::new();
    let node = host.file(ROOT, "file", b"").nodeid;
    let access = acl(&[
        (USER_OBJ, 7, NO_ID),
        (ACL_USER, 6, 1234),
        (GROUP_OBJ, 7, NO_ID),
        (MASK, 7, NO_ID),
        (OTHER, 0, NO_ID),
    ]);
    for (more, expected) in [(0, 0o2770), (SETXATTR_ACL_KILL_SGID, 0o770)] {
        fs::set_permissions(host.path("file"), fs::Permissions::from_mode(0o2755)).unwrap();
        host.setxattr_with(node, "system.posix_acl_access", &access, 0, more)
            .unwrap();
        assert_eq!(host.getattr(node, None).unwrap().mode & 0o7777, expected);
    }
}

#[test]
fn a_write_clears_privileges_when_told_so() {
    let mut host = Host::new();
    let node = host.file(ROOT, "file", b"content").nodeid;
    let fh = host.open(node, O_RDWR).unwrap();
    let path = host.path("file");
    let set = || fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
    set();
    host.write(node, fh, 0, b"x").unwrap();
    assert_eq!(mode(), 0o6755);
    let kill = WriteFlags::KILL_SUIDGID;
    host.write_with(node, fh, 0, b"x", O_RDWR, kill).unwrap();
    assert_eq!(mode(), 0o755);
    set();
    host.write(node, fh, 0, b"x").unwrap();
    assert_eq!(mode(), 0o6755, "the ring's own credentials are as before");

    let truncate = |kill: bool| SetattrIn {
        valid: (SetattrValid::SIZE
            | if kill {
                SetattrValid::KILL_SUIDGID
            } else {
                SetattrValid::empty()
            })
        .bits(),
        size: 3,
        ..SetattrIn::default()
    };
    host.setattr(node, &truncate(false)).unwrap();
    assert_eq!(mode(), 0o6755);
    host.setattr(node, &truncate(true)).unwrap();
    assert_eq!(mode(), 0o755);
    set();
    host.open_with(node, O_RDWR | O_TRUNC, false).unwrap();
    assert_eq!(mode(), 0o6755);
    host.open_with(node, O_RDWR | O_TRUNC, true).unwrap();
    assert_eq!(mode(), 0o755);
    set();
    host.open_with(node, O_RDWR, true).unwrap();
    assert_eq!(mode(), 0o6755, "nothing was changed");
}

#[test]
fn a_security_attribute_comes_with_the_creation() {
    let mut host = Host::new();
    host.who = USER;
    let extension = security("security.dpfs", b"label\0");
    let path = |name: &str| name.to_string();
    for name in ["file", "dir", "link", "fifo"] {
        host.extensions = extension.clone();
        match name {
            "file" => host
                .create(ROOT, name, O_RDWR, 0o600)
                .map(|(entry, _)| entry),
            "dir" => host.mkdir(ROOT, name, 0o700),
            "link" => host.symlink(ROOT, name, "target"),
            _ => host.mknod(ROOT, name, 0o010_600, 0),
        }
        .unwrap();
        let node = host.lookup(ROOT, &path(name)).unwrap().nodeid;
        assert_eq!(
            host.getxattr(node, "security.dpfs", 100).unwrap(),
            b"label\0",
            "{name}"
        );
    }
    assert_eq!(
        host.lookup(ROOT, "link")
            .and_then(|link| host.readlink(link.nodeid))
            .unwrap(),
        b"target"
    );
}

#[test]
fn opening_what_another_made_meanwhile_needs_permission() {
    let mut host = Host::new();
    fs::write(host.path("open"), b"x").unwrap();
    fs::set_permissions(host.path("open"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::write(host.path("closed"), b"x").unwrap();
    fs::set_permissions(host.path("closed"), fs::Permissions::from_mode(0o600)).unwrap();
    host.who = USER;
    let (entry, fh) = host.create(ROOT, "open", O_RDWR | O_TRUNC, 0o600).unwrap();
    assert_eq!(host.read(entry.nodeid, fh, 0, 10), Ok(vec![]));
    let refused = host
        .create(ROOT, "closed", O_RDWR | O_TRUNC, 0o600)
        .unwrap_err();
    assert_eq!(refused, dpfs::wire::errno::Errno::ESTALE);
    assert_eq!(fs::read(host.path("closed")).unwrap(), b"x");
}
