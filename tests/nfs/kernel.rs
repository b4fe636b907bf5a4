//! What the kernel's own server has and ganesha lacks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dpfs::backend::nfs::served::Config;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::Opcode;
use dpfs::wire::nfs4::op;

use crate::host::*;
use crate::knfsd::Knfsd;
use crate::locks::opened;

/// Mount the server's export as one more client.
fn mount(server: &Knfsd, name: &str, change: impl FnOnce(&mut Config)) -> Mounted {
    Mounted::new(server.address, |config| {
        config.export = "/".into();
        config.device = name.into();
        change(config);
    })
}

const XATTR_CREATE: u32 = 1;
const XATTR_REPLACE: u32 = 2;

/// Bytes that repeat late.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// Count the answers whose last operation is this one, and was done.
fn count(mounted: &Mounted, wanted: u32) -> Arc<AtomicU32> {
    let counted = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&counted);
    mounted.relay.change(Some(Box::new(move |answer| {
        let end: Vec<u8> = [wanted, 0].into_iter().flat_map(u32::to_be_bytes).collect();
        // What CLONE returns is its status alone, COPY 32 bytes more.
        for len in [0, 32] {
            let at = answer.len().saturating_sub(8 + len);
            if answer[at..].starts_with(&end) {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    })));
    counted
}

#[test]
fn extended_attributes_are_the_servers() {
    let Some(server) = Knfsd::shared() else {
        return;
    };
    let (mut host, mut other) = (
        mount(&server, "xattr-a", |_| ()),
        mount(&server, "xattr-b", |_| ()),
    );
    let node = host.file(ROOT, "xattr", b"content").nodeid;
    let its = other.lookup(ROOT, "xattr").unwrap().nodeid;
    for len in [0, 1, 5, 4096, 16_000] {
        let value = pattern(len);
        let name = format!("user.{len}");
        let (calls, set) = host.calls_of(|host| host.setxattr(node, &name, &value, 0));
        assert_eq!((calls, set), (1, Ok(())), "{len}");
        assert_eq!(other.getxattr(its, &name, 1 << 16).unwrap(), value, "{len}");
        // The length alone, and too little room for the value.
        let out = host.getxattr(node, &name, 0).unwrap();
        assert_eq!(out[..4], (len as u32).to_le_bytes(), "{len}");
        if len > 1 {
            let short = host.getxattr(node, &name, len as u32 - 1);
            assert_eq!(short, Err(Errno::ERANGE), "{len}");
        }
    }
    for (name, flags, outcome) in [
        ("user.1", XATTR_CREATE, Err(Errno::EEXIST)),
        ("user.1", XATTR_REPLACE, Ok(())),
        ("user.new", XATTR_REPLACE, Err(Errno::ENODATA)),
        ("user.new", XATTR_CREATE, Ok(())),
        ("user.", 0, Err(Errno::EINVAL)),
        ("security.selinux", 0, Err(Errno::EOPNOTSUPP)),
        ("trusted.a", 0, Err(Errno::EOPNOTSUPP)),
    ] {
        let set = host.setxattr(node, name, b"value", flags);
        assert_eq!(set, outcome, "{name}, {flags}");
    }
    assert_eq!(other.getxattr(its, "user.new", 100).unwrap(), b"value");
    let (calls, got) = host.calls_of(|host| host.getxattr(node, "system.posix_acl_access", 100));
    assert_eq!((calls, got), (0, Err(Errno::EOPNOTSUPP)));
    let list = |names: &[u8]| {
        let mut names: Vec<_> = names.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        names.sort();
        names.remove(0);
        names
    };
    let all = [
        "user.0",
        "user.1",
        "user.16000",
        "user.4096",
        "user.5",
        "user.new",
    ];
    let listed = other.listxattr(its, 1 << 16).unwrap();
    assert_eq!(list(&listed), all.map(|name| name.as_bytes().to_vec()));
    assert_eq!(other.listxattr(its, 10), Err(Errno::ERANGE));
    assert_eq!(host.removexattr(node, "user.1"), Ok(()));
    assert_eq!(host.removexattr(node, "user.1"), Err(Errno::ENODATA));
    assert_eq!(other.getxattr(its, "user.1", 9), Err(Errno::ENODATA));
    // The answer is lost: the attribute is new nevertheless.
    host.relay.lose_next_answer();
    assert_eq!(host.setxattr(node, "user.once", b"1", XATTR_CREATE), Ok(()));
    assert!(host.relay.lost());
    host.relay.lose_next_answer();
    assert_eq!(host.removexattr(node, "user.once"), Ok(()));
    assert!(host.relay.lost());
    // As many names as a file of Linux has.
    let dir = host.mkdir(ROOT, "xattrs", 0o755).unwrap().nodeid;
    let names: Vec<_> = (0..100).map(|at| format!("user.{at:0>200}")).collect();
    for name in &names {
        host.setxattr(dir, name, b"x", 0).unwrap();
    }
    let len = names.len() * 206;
    let (calls, listed) = host.calls_of(|host| host.listxattr(dir, 1 << 16).unwrap());
    assert!(calls > 1, "{calls}");
    assert_eq!(listed.len(), len);
    let (listed, expected) = (list(&listed), names.iter().map(String::as_bytes));
    assert!(listed.iter().map(Vec::as_slice).eq(expected));
    let out = host.listxattr(dir, 0).unwrap();
    assert_eq!(out[..4], (len as u32).to_le_bytes());
    assert_eq!(host.listxattr(dir, len as u32 - 1), Err(Errno::ERANGE));
}

#[test]
fn what_a_server_does_not_have_the_host_asks_for_once() {
    let mut host = Host::new();
    let (file, fh) = host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    let node = file.nodeid;
    let (calls, ()) = host.calls_of(|host| {
        assert_eq!(host.setxattr(node, "user.a", b"b", 0), Err(Errno::ENOSYS));
        assert_eq!(host.getxattr(node, "user.a", 9), Err(Errno::ENOSYS));
        assert_eq!(host.listxattr(node, 9), Err(Errno::ENOSYS));
        assert_eq!(host.removexattr(node, "user.a"), Err(Errno::ENOSYS));
    });
    assert_eq!(calls, 0);
    host.write(node, fh, 0, &[1; 8192]).unwrap();
    let copy = |host: &mut Mounted| host.copy((node, fh, 0), (node, fh, 8192), 4096);
    assert_eq!(copy(&mut host), Err(Errno::EOPNOTSUPP));
    let (calls, again) = host.calls_of(copy);
    assert_eq!((calls, again), (0, Err(Errno::ENOSYS)));
}

#[test]
fn content_is_copied_at_the_server() {
    let Some(server) = Knfsd::shared() else {
        return;
    };
    let mut host = mount(&server, "copy-a", |_| ());
    let data = pattern(3_000_001);
    let source = host.file(ROOT, "source", b"").nodeid;
    let from = host.open(source, O_RDWR).unwrap();
    for (at, part) in data.chunks(1 << 20).enumerate() {
        host.write(source, from, (at as u64) << 20, part).unwrap();
    }
    let (file, to) = host.create(ROOT, "copy", O_RDWR, 0o644).unwrap();
    let copy = file.nodeid;
    // Bytes of other places are copied, whole files share their blocks.
    let copies = count(&host, op::COPY);
    let done = host.copy((source, from, 3), (copy, to, 7), 2_000_000);
    assert_eq!(done, Ok(2_000_000));
    assert_eq!(
        host.read(copy, to, 7, 1 << 20).unwrap(),
        data[3..][..1 << 20]
    );
    assert_eq!(copies.load(Ordering::SeqCst), 1);
    let clones = count(&host, op::CLONE);
    host.fsync(source, from).unwrap();
    let (calls, done) =
        host.calls_of(|host| host.copy((source, from, 0), (copy, to, 0), data.len() as u64));
    assert_eq!((calls, done), (1, Ok(data.len() as u64)));
    assert_eq!(clones.load(Ordering::SeqCst), 1);
    for (at, part) in data.chunks(1 << 20).enumerate() {
        let read = host.read(copy, to, (at as u64) << 20, 1 << 20).unwrap();
        assert_eq!(read, part, "{at}");
    }
    // Behind the end there is nothing to copy; what begins in a block is not shared.
    let end = data.len() as u64;
    assert_eq!(host.copy((source, from, end), (copy, to, 0), 4096), Ok(0));
    let copies = count(&host, op::COPY);
    assert_eq!(host.copy((source, from, 0), (copy, to, 4096), 100), Ok(100));
    assert_eq!(copies.load(Ordering::SeqCst), 1);
    assert_eq!(host.read(copy, to, 4096, 100).unwrap(), data[..100]);
    assert_eq!(host.read(copy, to, 4196, 100).unwrap(), data[4196..4296]);
    // A file that was opened for reading only takes no copy, and a copy may come from it.
    let reads = host.open(source, O_RDONLY).unwrap();
    let refused = host.copy((copy, to, 0), (source, reads, 0), 4096);
    assert_eq!(refused, Err(Errno::EBADF));
    assert_eq!(host.copy((source, reads, 1), (copy, to, 0), 10), Ok(10));
    assert_eq!(host.read(copy, to, 0, 10).unwrap(), data[1..11]);
    // What was written before and is not durable yet stays under the copy.
    host.write(copy, to, 0, &[9; 20]).unwrap();
    host.relay.lose_next_answer();
    assert_eq!(host.copy((source, from, 5), (copy, to, 5), 5), Ok(5));
    assert!(host.relay.lost());
    host.fsync(copy, to).unwrap();
    let expected = [&[9; 5][..], &data[5..10], &[9; 10]].concat();
    assert_eq!(host.read(copy, to, 0, 20).unwrap(), expected);
}

#[test]
fn the_server_says_when_a_lock_is_free() {
    let Some(server) = Knfsd::shared() else {
        return;
    };
    let (mut host, mut other) = (
        mount(&server, "notify-a", |_| ()),
        mount(&server, "notify-b", |_| ()),
    );
    host.file(ROOT, "notify", b"content");
    let (file, its) = (opened(&mut host, "notify"), opened(&mut other, "notify"));
    // Asked for again and again, a lock is a second late by now. One that comes sooner came because the server called. A
    // machine that is busy elsewhere may take as long, but not each time.
    let quick = (0..5).any(|_| {
        let setlk = |host: &mut Mounted, (node, fh): (u64, u64), kind: u32, at: u64| {
            assert_eq!(host.setlk(node, fh, 7, lock(kind, at, at)), Ok(()));
        };
        setlk(&mut other, its, F_WRLCK, 0);
        setlk(&mut host, file, F_WRLCK, 100);
        let lk = lock(F_WRLCK, 0, 0);
        let message = host.lock_message(Opcode::SETLKW, file.0, file.1, 7, lk, false);
        let ticket = host.bed.send(&message);
        host.idle(3000);
        let asked = host.relay.calls();
        while host.relay.calls() == asked {
            host.bed.round();
        }
        let (before, freed) = (host.relay.calls_of_server(), Instant::now());
        setlk(&mut other, its, F_UNLCK, 0);
        assert_eq!(host.finish(ticket), Ok(()));
        let took = freed.elapsed();
        assert!(host.relay.calls_of_server() > before);
        setlk(&mut host, file, F_UNLCK, 0);
        took < Duration::from_millis(500)
    });
    assert!(quick);
}

#[test]
fn everyday_work_is_done_on_it_by_both_minor_versions() {
    let Some(server) = Knfsd::shared() else {
        return;
    };
    for minor in [1, 2] {
        let mut host = mount(&server, "everyday-a", |config| config.minor = Some(minor));
        let mut other = mount(&server, "everyday-b", |config| config.minor = Some(minor));
        let name = format!("d{minor}");
        let dir = host.mkdir(ROOT, &name, 0o755).unwrap().nodeid;
        for at in 0..500 {
            let (file, fh) = host.create(dir, &format!("f{at}"), O_RDWR, 0o640).unwrap();
            host.write(file.nodeid, fh, 0, &[at as u8; 100]).unwrap();
            host.release(file.nodeid, fh).unwrap();
        }
        let its = other.lookup(ROOT, &name).unwrap().nodeid;
        assert_eq!(other.list(its, 16 << 10, true).len(), 502);
        let data = pattern(1 << 20);
        let (file, fh) = host.create(dir, "big", O_RDWR, 0o600).unwrap();
        assert_eq!(host.write(file.nodeid, fh, 0, &data), Ok(1 << 20));
        // Its name goes, the file stays while it is open.
        host.unlink(dir, "big").unwrap();
        assert_eq!(host.read(file.nodeid, fh, 0, 1 << 20).unwrap(), data);
        host.fsync(file.nodeid, fh).unwrap();
        host.release(file.nodeid, fh).unwrap();
        host.rename((dir, "f0"), (dir, "f1"), 0).unwrap();
        let node = other.lookup(its, "f1").unwrap().nodeid;
        let fh = other.open(node, O_RDWR).unwrap();
        assert_eq!(other.read(node, fh, 0, 4096).unwrap(), [0; 100]);
        let punched = other.fallocate(node, fh, 0, 50, 3);
        let sought = other.lseek(node, fh, 0, 3);
        if minor == 1 {
            assert_eq!(punched, Err(Errno::EOPNOTSUPP));
            assert_eq!(sought, Err(Errno::ENOSYS));
            assert_eq!(other.getxattr(node, "user.a", 9), Err(Errno::ENOSYS));
        } else {
            assert_eq!(punched, Ok(()));
            assert!(sought.is_ok());
        }
        assert_eq!(other.setlk(node, fh, 1, lock(F_WRLCK, 0, 9)), Ok(()));
        other.release(node, fh).unwrap();
    }
}
