//! nfs-ganesha's own memory as the export (FSAL MEM): a server that has little of what is optional.

use crate::host::*;
use crate::server::Manner;
use dpfs::wire::errno::Errno;

/// Serve an export in memory.
fn host(minor: u32) -> Host {
    let manner = Manner {
        memory: true,
        ..Manner::default()
    };
    Host::with(manner, |config| config.minor = Some(minor))
}

#[test]
fn everyday_work_is_done_and_what_it_lacks_is_said() {
    for minor in [1, 2] {
        let mut host = host(minor);
        let dir = host.mkdir(ROOT, "dir", 0o755).unwrap().nodeid;
        for at in 0..300 {
            host.file(dir, &format!("f{at}"), &[at as u8; 100]);
        }
        assert_eq!(host.list(dir, 16 << 10, true).len(), 302);
        // A file holds 1 MiB there.
        let data: Vec<u8> = (0..1u32 << 20)
            .map(|at| (at * 7 + at / 256) as u8)
            .collect();
        let (file, fh) = host.create(dir, "big", O_RDWR, 0o600).unwrap();
        assert_eq!(host.write(file.nodeid, fh, 0, &data), Ok(1 << 20));
        host.fsync(file.nodeid, fh).unwrap();
        assert_eq!(host.read(file.nodeid, fh, 0, 1 << 20).unwrap(), data);
        let size = host.setattr(file.nodeid, &size_change(1000, Some(fh)));
        assert_eq!(size.unwrap().size, 1000);
        assert_eq!(
            host.read(file.nodeid, fh, 900, 4096).unwrap(),
            data[900..1000]
        );
        // Its name goes, the file stays while it is open.
        host.unlink(dir, "big").unwrap();
        assert_eq!(host.read(file.nodeid, fh, 0, 10).unwrap(), data[..10]);
        assert_eq!(host.lseek(file.nodeid, fh, 0, 3), Err(Errno::ENOSYS));
        let punched = host.fallocate(file.nodeid, fh, 0, 50, 3);
        assert_eq!(punched, Err(Errno::EOPNOTSUPP));
        host.release(file.nodeid, fh).unwrap();
        assert_eq!(
            host.lookup(dir, "big").map(|found| found.nodeid),
            Err(Errno::ENOENT)
        );

        let link = host.symlink(dir, "link", "f1").unwrap().nodeid;
        assert_eq!(host.readlink(link).unwrap(), b"f1");
        host.rename((dir, "f0"), (ROOT, "moved"), 0).unwrap();
        let moved = host.lookup(ROOT, "moved").unwrap();
        assert_eq!(moved.attr.size, 100);
        let two = host.link(moved.nodeid, ROOT, "two").unwrap();
        assert_eq!((two.nodeid, two.attr.nlink), (moved.nodeid, 2));
        let fh = host.open(moved.nodeid, O_RDWR).unwrap();
        let theirs = host.setlk(moved.nodeid, fh, 1, lock(F_WRLCK, 0, 9));
        assert_eq!(theirs, Ok(()));
        host.release(moved.nodeid, fh).unwrap();
        for at in 1..300 {
            host.unlink(dir, &format!("f{at}")).unwrap();
        }
        assert_eq!(host.rmdir(ROOT, "dir"), Err(Errno::ENOTEMPTY));
        host.unlink(dir, "link").unwrap();
        host.rmdir(ROOT, "dir").unwrap();
    }
}

#[test]
fn a_server_that_forgets_all_its_files_is_met_without_harm() {
    let mut host = host(2);
    let kept = host.file(ROOT, "kept", b"content");
    host.server.restart();
    assert_eq!(host.open(kept.nodeid, O_RDWR), Err(Errno::ESTALE));
    host.file(ROOT, "new", b"content");
    assert_eq!(host.list(ROOT, 4096, true).len(), 3);
}
