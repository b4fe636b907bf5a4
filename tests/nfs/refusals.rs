//! What a server may answer to any operation, and what the host sees of it.

use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::SetattrValid;
use dpfs::wire::nfs4::{Status, op};

use crate::fake::Act;
use crate::host::*;
use crate::scripted::Mounted;

const MODE: SetattrValid = SetattrValid::MODE;

/// Do everything once, in a directory that is empty, and expect it to succeed.
fn everything(host: &mut Mounted, dir: u64) {
    let (file, fh) = host.create(dir, "f", O_RDWR, 0o644).unwrap();
    let node = file.nodeid;
    let (_, own) = host.create(dir, "own", O_RDWR | O_EXCL, 0o600).unwrap();
    assert_eq!(host.write(node, fh, 0, &[7; 5000]), Ok(5000));
    assert_eq!(host.read(node, fh, 0, 9000).unwrap(), [7; 5000]);
    assert_eq!(host.fsync(node, fh), Ok(()));
    host.setattr(node, &size_change(100, Some(fh))).unwrap();
    let chmod = dpfs::wire::fuse::SetattrIn {
        valid: MODE.bits(),
        mode: 0o640,
        ..Default::default()
    };
    assert_eq!(host.setattr(node, &chmod).unwrap().mode & 0o777, 0o640);
    assert_eq!(host.getattr(node, None).unwrap().size, 100);
    assert_eq!(host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)), Ok(()));
    assert_eq!(host.setlk(node, fh, 7, lock(F_RDLCK, 20, 29)), Ok(()));
    host.getlk(node, fh, 8, lock(F_WRLCK, 0, 9)).unwrap();
    assert_eq!(host.flush(node, fh, 7), Ok(()));
    host.fallocate(node, fh, 0, 200, 0).unwrap();
    assert_eq!(host.lseek(node, fh, 0, 4), Ok(200));
    host.mkdir(dir, "d", 0o755).unwrap();
    host.mknod(dir, "p", 0o010_644, 0).unwrap();
    host.mknod(dir, "m", 0o100_644, 0).unwrap();
    let link = host.symlink(dir, "s", "target").unwrap();
    assert_eq!(host.readlink(link.nodeid).unwrap(), b"target");
    assert_eq!(host.link(node, dir, "l").unwrap().nodeid, node);
    assert_eq!(host.lookup(dir, "l").unwrap().attr.nlink, 2);
    host.rename((dir, "l"), (dir, "k"), 0).unwrap();
    for plus in [false, true] {
        let names = host.list(dir, 4096, plus).len();
        assert_eq!(names, 9, "with . and ..");
    }
    host.statfs(dir).unwrap();
    let access = dpfs::wire::fuse::AccessIn {
        mask: 4,
        padding: 0,
    };
    let message = host.message(dpfs::wire::fuse::Opcode::ACCESS, dir);
    let ticket = host.bed.send(&message.arg(&access));
    host.finish(ticket).unwrap();
    let again = host.open(node, O_RDONLY).unwrap();
    host.release(node, again).unwrap();
    host.release(node, fh).unwrap();
    host.release(node, own).unwrap();
    for name in ["f", "k", "own", "p", "m", "s"] {
        assert_eq!(host.unlink(dir, name), Ok(()), "{name}");
    }
    host.rmdir(dir, "d").unwrap();
}

#[test]
fn everything_is_done_by_a_server_without_a_script() {
    let mut host = Mounted::new();
    everything(&mut host, ROOT);
    host.until(|server| server.states.count(false) == 0 && server.states.count(true) == 0);
    host.check();
}

/// Give how often each operation is done when nothing goes wrong.
fn counts(host: &mut Mounted) -> Vec<(u32, u32)> {
    let dir = host.mkdir(ROOT, "counts", 0o755).unwrap().nodeid;
    host.fake.server().script.done.clear();
    everything(host, dir);
    let server = host.fake.server();
    let mut counts = std::collections::BTreeMap::new();
    for (number, _) in &server.script.done {
        *counts.entry(*number).or_insert(0) += 1;
    }
    counts.into_iter().collect()
}

#[test]
fn what_is_put_off_is_done_later_and_once() {
    let mut host = Mounted::new();
    let counts = counts(&mut host);
    assert!(counts.len() > 22, "{counts:?}");
    // Those that cannot be put off (RFC 8881, section 15.2) are not.
    let never = [op::GETFH, op::SAVEFH, op::RESTOREFH];
    for (number, count) in counts
        .into_iter()
        .filter(|(number, _)| !never.contains(number))
    {
        let step = if matches!(number, op::SEQUENCE | op::PUTFH) {
            3
        } else {
            1
        };
        for skip in (0..count).step_by(step) {
            let name = format!("{number}-{skip}");
            let dir = host.mkdir(ROOT, &name, 0o755).unwrap().nodeid;
            host.at(number, skip, 1, Act::Status(Status::ERR_DELAY));
            everything(&mut host, dir);
            // Nothing is left open, and nothing locked.
            host.until(|server| {
                server.script.is_over()
                    && server.states.count(false) + server.states.count(true) == 0
            });
            host.check();
        }
    }
}

/// Hold a file that is open, and a link.
pub struct Things {
    pub node: u64,
    pub fh: u64,
    pub link: u64,
    pub dir: u64,
}

pub fn things(host: &mut Mounted) -> Things {
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    host.write(file.nodeid, fh, 0, b"content").unwrap();
    Things {
        node: file.nodeid,
        fh,
        link: host.symlink(ROOT, "s", "target").unwrap().nodeid,
        dir: host.opendir(ROOT).unwrap(),
    }
}

/// Do something that comes to this operation.
pub fn attempt(host: &mut Mounted, things: &Things, operation: u32) -> Result<()> {
    let (node, fh) = (things.node, things.fh);
    match operation {
        op::LOOKUP | op::PUTFH | op::SEQUENCE => host.lookup(ROOT, "f").map(drop),
        op::GETATTR => host.getattr(node, None).map(drop),
        op::READ => host.read(node, fh, 0, 7).map(drop),
        op::WRITE => host.write(node, fh, 0, b"content").map(drop),
        op::COMMIT => {
            host.write(node, fh, 0, b"content").unwrap();
            host.fsync(node, fh)
        }
        op::OPEN => {
            let fh = host.open(node, O_RDONLY)?;
            host.release(node, fh)
        }
        op::CREATE => {
            host.mkdir(ROOT, "made", 0o755)?;
            host.rmdir(ROOT, "made")
        }
        op::LINK => {
            host.link(node, ROOT, "linked")?;
            host.unlink(ROOT, "linked")
        }
        op::REMOVE => {
            host.file(ROOT, "gone", b"");
            host.unlink(ROOT, "gone")
        }
        op::RENAME => {
            host.rename((ROOT, "s"), (ROOT, "t"), 0)?;
            host.rename((ROOT, "t"), (ROOT, "s"), 0)
        }
        op::SETATTR => host.setattr(node, &size_change(7, None)).map(drop),
        op::READDIR => host.readdir(ROOT, things.dir, 0, 4096, false).map(drop),
        op::READLINK => host.readlink(things.link).map(drop),
        op::LOCK => {
            host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9))?;
            host.setlk(node, fh, 7, lock(F_UNLCK, 0, 9))
        }
        op::LOCKT => host.getlk(node, fh, 8, lock(F_WRLCK, 0, 9)).map(drop),
        op::SEEK => host.lseek(node, fh, 0, 4).map(drop),
        op::ALLOCATE => host.fallocate(node, fh, 0, 7, 0),
        _ => unreachable!("{operation}"),
    }
}

#[test]
fn a_refusal_is_an_error_of_the_host_and_of_one_call_only() {
    let mut host = Mounted::new();
    let things = things(&mut host);
    let expected = [
        (op::LOOKUP, Status::ERR_ACCESS, Errno::EACCES),
        (op::LOOKUP, Status::ERR_MOVED, Errno::EREMOTE),
        (op::LOOKUP, Status::ERR_WRONGSEC, Errno::EPERM),
        (op::LOOKUP, Status::ERR_SYMLINK, Errno::ELOOP),
        (op::PUTFH, Status::ERR_STALE, Errno::ESTALE),
        (op::PUTFH, Status::ERR_FHEXPIRED, Errno::ESTALE),
        (op::PUTFH, Status::ERR_BADHANDLE, Errno::ESTALE),
        (op::PUTFH, Status::ERR_MOVED, Errno::EREMOTE),
        (op::GETATTR, Status::ERR_STALE, Errno::ESTALE),
        (op::GETATTR, Status::ERR_SERVERFAULT, Errno::EIO),
        // NFS4ERR_RESOURCE, which is of NFSv4.0 only.
        (op::GETATTR, Status(10018), Errno::EIO),
        // A number that nobody knows.
        (op::GETATTR, Status(77_777), Errno::EIO),
        (op::OPEN, Status::ERR_ROFS, Errno::EROFS),
        (op::OPEN, Status::ERR_SHARE_DENIED, Errno::ETXTBSY),
        (op::OPEN, Status::ERR_RECLAIM_BAD, Errno::EIO),
        (op::OPEN, Status::ERR_NO_GRACE, Errno::EIO),
        // NFS4ERR_BAD_SEQID, which is of NFSv4.0 only.
        (op::OPEN, Status(10026), Errno::EIO),
        (op::READ, Status::ERR_LOCKED, Errno::EAGAIN),
        (op::READ, Status::ERR_IO, Errno::EIO),
        (op::READ, Status::ERR_OPENMODE, Errno::EBADF),
        (op::READ, Status::ERR_REP_TOO_BIG, Errno::EIO),
        (op::WRITE, Status::ERR_NOSPC, Errno::ENOSPC),
        (op::WRITE, Status::ERR_DQUOT, Errno::EDQUOT),
        (op::WRITE, Status::ERR_FBIG, Errno::EFBIG),
        (op::WRITE, Status::ERR_IO, Errno::EIO),
        (op::WRITE, Status::ERR_ROFS, Errno::EROFS),
        (op::WRITE, Status::ERR_LOCKED, Errno::EAGAIN),
        (op::CREATE, Status::ERR_NOSPC, Errno::ENOSPC),
        (op::CREATE, Status::ERR_ROFS, Errno::EROFS),
        (op::CREATE, Status::ERR_REP_TOO_BIG_TO_CACHE, Errno::EIO),
        (op::LINK, Status::ERR_MLINK, Errno::EMLINK),
        (op::LINK, Status::ERR_XDEV, Errno::EXDEV),
        (op::REMOVE, Status::ERR_FILE_OPEN, Errno::EBUSY),
        (op::RENAME, Status::ERR_FILE_OPEN, Errno::EBUSY),
        (op::RENAME, Status::ERR_NOTDIR, Errno::ENOTDIR),
        (op::SETATTR, Status::ERR_NOTSUPP, Errno::EOPNOTSUPP),
        (op::SETATTR, Status::ERR_ATTRNOTSUPP, Errno::EOPNOTSUPP),
        (op::SETATTR, Status::ERR_BADOWNER, Errno::EINVAL),
        (op::SETATTR, Status::ERR_PERM, Errno::EPERM),
        (op::READDIR, Status::ERR_BAD_COOKIE, Errno::EINVAL),
        (op::READDIR, Status::ERR_NOT_SAME, Errno::EINVAL),
        (op::READDIR, Status::ERR_TOOSMALL, Errno::EINVAL),
        (op::READDIR, Status::ERR_REP_TOO_BIG, Errno::EIO),
        (op::READLINK, Status::ERR_INVAL, Errno::EINVAL),
        (op::LOCK, Status::ERR_DEADLOCK, Errno::EDEADLK),
        (op::LOCK, Status::ERR_LOCK_RANGE, Errno::EINVAL),
        (op::LOCK, Status::ERR_LOCK_NOTSUPP, Errno::ENOLCK),
        (op::LOCKT, Status::ERR_SERVERFAULT, Errno::EIO),
        (op::SEEK, Status::ERR_NOTSUPP, Errno::ENOSYS),
        (op::ALLOCATE, Status::ERR_NOTSUPP, Errno::EOPNOTSUPP),
        (op::ALLOCATE, Status::ERR_OP_ILLEGAL, Errno::EOPNOTSUPP),
        (op::SEQUENCE, Status::ERR_TOO_MANY_OPS, Errno::EIO),
        (op::SEQUENCE, Status::ERR_REQ_TOO_BIG, Errno::EIO),
        (op::SEQUENCE, Status::ERR_REP_TOO_BIG, Errno::EIO),
    ];
    for (operation, status, errno) in expected {
        host.refuse(operation, status);
        let seen = attempt(&mut host, &things, operation);
        assert_eq!(seen, Err(errno), "{operation} {status}");
        assert_eq!(
            attempt(&mut host, &things, operation),
            Ok(()),
            "{operation} {status}"
        );
        let _ = host.unlink(ROOT, "gone");
        host.check();
    }
    assert_eq!(host.read(things.node, things.fh, 0, 9).unwrap(), b"content");
    let made = host.fake.server().script.count(op::CREATE_SESSION);
    // That of the mount, and the device's: none of these is a reason for another.
    assert_eq!(made, 2);
}

#[test]
fn what_is_wrong_with_a_session_is_mended_unseen() {
    let mut host = Mounted::new();
    let things = things(&mut host);
    for status in [
        Status::ERR_BADSESSION,
        Status::ERR_DEADSESSION,
        Status::ERR_STALE_CLIENTID,
        Status::ERR_BADSLOT,
        Status::ERR_BAD_HIGH_SLOT,
        Status::ERR_SEQ_MISORDERED,
        Status::ERR_SEQ_FALSE_RETRY,
        Status::ERR_CONN_NOT_BOUND_TO_SESSION,
        Status::ERR_DELAY,
    ] {
        for operation in [
            op::READ,
            op::WRITE,
            op::CREATE,
            op::RENAME,
            op::LOCK,
            op::REMOVE,
            op::OPEN,
        ] {
            host.refuse(op::SEQUENCE, status);
            assert_eq!(
                attempt(&mut host, &things, operation),
                Ok(()),
                "{operation} {status}"
            );
            host.check();
        }
    }
    assert_eq!(host.read(things.node, things.fh, 0, 9).unwrap(), b"content");
}

#[test]
fn a_state_that_is_gone_is_made_again_unseen() {
    let mut host = Mounted::new();
    let things = things(&mut host);
    for status in [
        Status::ERR_EXPIRED,
        Status::ERR_ADMIN_REVOKED,
        Status::ERR_BAD_STATEID,
        Status::ERR_OLD_STATEID,
        Status::ERR_STALE_STATEID,
    ] {
        for operation in [op::READ, op::WRITE, op::SEEK, op::ALLOCATE] {
            let before = host.fake.server().script.count(op::OPEN);
            host.refuse(operation, status);
            assert_eq!(
                attempt(&mut host, &things, operation),
                Ok(()),
                "{operation} {status}"
            );
            assert_eq!(host.fake.server().script.count(op::OPEN), before + 1);
            host.check();
        }
        // In earnest: all opens are.
        host.fake.server().states.revoke(false, status);
        assert_eq!(attempt(&mut host, &things, op::READ), Ok(()), "{status}");
    }
    // Or the file cannot be opened any more: only who had it open is told.
    host.fake.server().states.revoke(false, Status::ERR_EXPIRED);
    host.refuse(op::OPEN, Status::ERR_ACCESS);
    for _ in 0..2 {
        assert_eq!(attempt(&mut host, &things, op::READ), Err(Errno::EACCES));
    }
    host.release(things.node, things.fh).unwrap();
    assert_eq!(attempt(&mut host, &things, op::OPEN), Ok(()));
    host.check();
}

#[test]
fn a_grace_period_is_waited_for() {
    let mut host = Mounted::new();
    let things = things(&mut host);
    for operation in [
        op::OPEN,
        op::LOCK,
        op::READ,
        op::WRITE,
        op::SETATTR,
        op::REMOVE,
        op::RENAME,
    ] {
        host.at(operation, 0, 3, Act::Status(Status::ERR_GRACE));
        assert_eq!(
            attempt(&mut host, &things, operation),
            Ok(()),
            "{operation}"
        );
        host.check();
    }
}

#[test]
fn a_listing_whose_cookie_is_lost_goes_on_from_where_that_is_now() {
    for (status, plus) in [
        (Status::ERR_BAD_COOKIE, false),
        (Status::ERR_NOT_SAME, true),
    ] {
        let mut host = Mounted::new();
        let names: Vec<String> = (0..300).map(|at| format!("f{at:03}")).collect();
        for name in &names {
            host.file(ROOT, name, b"");
        }
        let fh = host.opendir(ROOT).unwrap();
        let (mut all, mut position) = (Vec::new(), 0);
        loop {
            if position > 0 {
                host.refuse(op::READDIR, status);
            }
            let some = host.readdir(ROOT, fh, position, 8192, plus).unwrap();
            let Some(last) = some.last() else { break };
            position = last.next;
            all.extend(some.into_iter().map(|entry| entry.name));
        }
        assert_eq!(all[2..], names, "each once");
        // It does not do better at the start either.
        host.at(op::READDIR, 0, 2, Act::Status(status));
        let listed = host.readdir(ROOT, fh, 20, 8192, plus).map(drop);
        assert_eq!(listed, Err(Errno::EINVAL));
        // The place is nowhere any more.
        host.refuse(op::READDIR, status);
        let listed = host.readdir(ROOT, fh, 1000, 8192, plus).map(drop);
        assert_eq!(listed, Err(Errno::EINVAL));
        assert_eq!(
            host.readdir(ROOT, fh, 0, 8192, plus).unwrap()[2].name,
            "f000"
        );
        host.check();
    }
}
