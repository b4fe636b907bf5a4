//! What a server may answer to any operation, and what the host sees of it.

use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::SetattrValid;
use dpfs::wire::nfs4::{Status, attr, op};

use crate::fake::{Act, Mounted, without};
use crate::host::*;

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
    for (number, count) in counts.into_iter().filter(|(number, _)| !never.contains(number)) {
        let step = if matches!(number, op::SEQUENCE | op::PUTFH) { 3 } else { 1 };
        for skip in (0..count).step_by(step) {
            let name = format!("{number}-{skip}");
            let dir = host.mkdir(ROOT, &name, 0o755).unwrap().nodeid;
            host.at(number, skip, 1, Act::Status(Status::ERR_DELAY));
            everything(&mut host, dir);
            // Nothing is left open, and nothing locked.
            host.until(|server| {
                server.script.is_over() && server.states.count(false) + server.states.count(true) == 0
            });
            host.check();
        }
    }
}
