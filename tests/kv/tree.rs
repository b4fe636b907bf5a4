//! Operations, their round trips, and lists under change.

use dpfs::wire::errno::Errno;

use crate::host::{Host, O_APPEND, O_TRUNC, ROOT};

const KILL: u32 = 1 << 2;

/// Count the engine's operations of one call.
fn trips<T>(host: &mut Host, call: impl FnOnce(&mut Host) -> T) -> u64 {
    let before = host.faults.taken.get();
    call(host);
    host.faults.taken.get() - before
}

#[test]
fn round_trips_are_as_few_as_promised() {
    let mut host = Host::new();
    // Numbers are reserved with the first name.
    host.create(ROOT, "first").unwrap();
    let file = host.create(ROOT, "file").unwrap().nodeid;
    let data = [7; 4096];
    assert_eq!(
        trips(&mut host, |host| host.lookup(ROOT, "file").unwrap()),
        1
    );
    assert_eq!(
        trips(&mut host, |host| host.lookup(ROOT, "none").unwrap_err()),
        1
    );
    assert_eq!(trips(&mut host, |host| host.getattr(file).unwrap()), 1);
    assert!(trips(&mut host, |host| host.open(file, 2).unwrap()) <= 1);
    let write = |host: &mut Host| host.write(file, 0, &data, (0, KILL)).unwrap();
    assert_eq!(trips(&mut host, write), 1);
    assert_eq!(trips(&mut host, |host| host.fsync(file).unwrap()), 1);
    assert_eq!(
        trips(&mut host, |host| host.read(file, 0, 4096).unwrap()),
        1
    );
    assert!(trips(&mut host, |host| host.create(ROOT, "other").unwrap()) <= 2);
    assert_eq!(trips(&mut host, |host| host.mkdir(ROOT, "dir").unwrap()), 2);
    assert_eq!(
        trips(&mut host, |host| host.link(file, ROOT, "twin").unwrap()),
        2
    );
    let rename = |host: &mut Host| host.rename((ROOT, "twin"), (ROOT, "third"), 0).unwrap();
    assert_eq!(trips(&mut host, rename), 2);
    assert_eq!(
        trips(&mut host, |host| host.unlink(ROOT, "third").unwrap()),
        2
    );
}

#[test]
fn content_is_what_was_written_over_chunks_and_holes() {
    let mut host = Host::new();
    let file = host.create(ROOT, "file").unwrap().nodeid;
    let data: Vec<u8> = (0..20_000u32).map(|at| (at % 251) as u8 + 1).collect();
    host.write(file, 3000, &data, (0, 0)).unwrap();
    let mut model = vec![0; 3000];
    model.extend_from_slice(&data);
    assert_eq!(host.read(file, 0, 65_536).unwrap(), model);
    assert_eq!(host.read(file, 22_999, 10).unwrap(), model[22_999..]);
    assert!(host.read(file, 23_000, 10).unwrap().is_empty());
    // Shorter, then longer: what was cut does not come back.
    host.truncate(file, 5000).unwrap();
    host.truncate(file, 30_000).unwrap();
    model.truncate(5000);
    model.resize(30_000, 0);
    assert_eq!(host.read(file, 0, 65_536).unwrap(), model);
    host.write(file, 0, b"end", (O_APPEND, 0)).unwrap();
    model.extend_from_slice(b"end");
    host.fallocate(file, 4000, 500, 3).unwrap();
    model[4000..4500].fill(0);
    assert_eq!(host.read(file, 0, 65_536).unwrap(), model);
    assert_eq!(host.fallocate(file, 0, 4096, 8), Err(Errno::EOPNOTSUPP));
    assert_eq!(host.fsync(file), Ok(()));
    host.fallocate(file, 0, 40_000, 0).unwrap();
    assert_eq!(host.getattr(file).unwrap().size, 40_000);
    host.open(file, 1 | O_TRUNC).unwrap();
    assert_eq!(host.getattr(file).unwrap().size, 0);
    assert!(host.read(file, 0, 10).unwrap().is_empty());
}

#[test]
fn data_and_holes_are_found_in_whole_chunks() {
    const DATA: u32 = 3;
    const HOLE: u32 = 4;
    let mut host = Host::new();
    let file = host.create(ROOT, "file").unwrap().nodeid;
    host.write(file, 8192, &[1; 4096], (0, 0)).unwrap();
    host.truncate(file, 20_000).unwrap();
    assert_eq!(host.lseek(file, 0, DATA), Ok(8192));
    assert_eq!(host.lseek(file, 8200, DATA), Ok(8200));
    assert_eq!(host.lseek(file, 12_288, DATA), Err(Errno::ENXIO));
    assert_eq!(host.lseek(file, 5, HOLE), Ok(5));
    assert_eq!(host.lseek(file, 8192, HOLE), Ok(12_288));
    assert_eq!(host.lseek(file, 20_000, HOLE), Err(Errno::ENXIO));
}

#[test]
fn a_write_ends_set_id_bits_and_capabilities() {
    let mut host = Host::new();
    let file = host.create(ROOT, "file").unwrap().nodeid;
    let mode = dpfs::wire::fuse::SetattrIn {
        valid: dpfs::wire::fuse::SetattrValid::MODE.bits(),
        mode: 0o6755,
        ..Default::default()
    };
    host.setattr(file, &mode).unwrap();
    host.setxattr(file, "security.capability", b"caps").unwrap();
    host.write(file, 0, b"x", (0, 0)).unwrap();
    assert_eq!(host.getattr(file).unwrap().mode & 0o7777, 0o6755);
    assert_eq!(
        host.getxattr(file, "security.capability"),
        Err(Errno::ENODATA)
    );
    host.write(file, 0, b"x", (0, KILL)).unwrap();
    assert_eq!(host.getattr(file).unwrap().mode & 0o7777, 0o755);
}

#[test]
fn a_file_without_a_name_lives_until_it_is_forgotten() {
    let store = crate::host::store();
    let mut host = Host::on(store);
    let file = host.create(ROOT, "file").unwrap().nodeid;
    host.write(file, 0, b"still here", (0, 0)).unwrap();
    host.unlink(ROOT, "file").unwrap();
    assert_eq!(host.getattr(file).unwrap().nlink, 0);
    assert_eq!(host.read(file, 0, 100).unwrap(), b"still here");
    assert_eq!(host.link(file, ROOT, "again").map(drop), Err(Errno::ENOENT));
    host.forget(file);
    assert_eq!(host.getattr(file).unwrap_err(), Errno::ESTALE);
    let report = crate::crash::fsck(store, false);
    assert_eq!((report.inodes, report.orphans), (1, 0), "{report:?}");
    // One without a name from the start may get one.
    let file = host.tmpfile(ROOT).unwrap().nodeid;
    host.write(file, 0, b"named", (0, 0)).unwrap();
    host.link(file, ROOT, "named").unwrap();
    host.forget(file);
    let named = host.lookup(ROOT, "named").unwrap();
    assert_eq!(host.read(named.nodeid, 0, 10).unwrap(), b"named");
    let report = crate::crash::fsck(store, false);
    assert_eq!(
        (report.inodes, report.orphans, report.damage.len()),
        (2, 0, 0),
        "{report:?}"
    );
}

#[test]
fn a_list_shows_what_stays_once_whatever_changes_meanwhile() {
    let mut host = Host::new();
    let dir = host.mkdir(ROOT, "dir").unwrap().nodeid;
    for number in 0..200 {
        host.create(dir, &format!("stays-{number}")).unwrap();
        host.create(dir, &format!("goes-{number}")).unwrap();
    }
    let (mut seen, mut offset, mut step) = (Vec::new(), 0, 0);
    loop {
        let page = host.list_page(dir, offset, 300);
        let Some(last) = page.last() else { break };
        offset = last.2;
        seen.extend(page.into_iter().map(|entry| entry.0));
        if step < 200 {
            host.unlink(dir, &format!("goes-{}", 199 - step)).unwrap();
            host.create(dir, &format!("new-{step}")).unwrap();
            step += 1;
        }
    }
    for number in 0..200 {
        let name = format!("stays-{number}");
        let times = seen.iter().filter(|seen| **seen == name).count();
        assert_eq!(times, 1, "{name}");
    }
    seen.sort();
    let all = seen.len();
    seen.dedup();
    assert_eq!(seen.len(), all, "a name came twice");
}

#[test]
fn names_follow_the_rules_of_rename() {
    const NOREPLACE: u32 = 1;
    const EXCHANGE: u32 = 2;
    const WHITEOUT: u32 = 4;
    let mut host = Host::new();
    let a = host.mkdir(ROOT, "a").unwrap().nodeid;
    let b = host.mkdir(ROOT, "b").unwrap().nodeid;
    host.create(a, "file").unwrap();
    host.mkdir(b, "sub").unwrap();
    assert_eq!(
        host.rename((ROOT, "a"), (ROOT, "b"), 0),
        Err(Errno::ENOTEMPTY)
    );
    assert_eq!(
        host.rename((ROOT, "a"), (b, "sub"), NOREPLACE),
        Err(Errno::EEXIST)
    );
    assert_eq!(host.rename((a, "file"), (b, "sub"), 0), Err(Errno::EISDIR));
    assert_eq!(host.rename((b, "sub"), (a, "file"), 0), Err(Errno::ENOTDIR));
    assert_eq!(host.rename((a, "none"), (a, "file"), 0), Err(Errno::ENOENT));
    host.rename((a, "file"), (b, "sub"), EXCHANGE).unwrap();
    assert_eq!(host.getattr(a).unwrap().nlink, 3);
    assert_eq!(host.getattr(b).unwrap().nlink, 2);
    host.rename((a, "file"), (b, "dir"), 0).unwrap();
    assert_eq!(host.getattr(a).unwrap().nlink, 2);
    assert_eq!(host.getattr(b).unwrap().nlink, 3);
    host.rename((b, "sub"), (a, "gone"), WHITEOUT).unwrap();
    assert_eq!(
        host.lookup(b, "sub").unwrap().attr.mode & 0o170_000,
        0o020_000
    );
    assert_eq!(host.rmdir(ROOT, "b"), Err(Errno::ENOTEMPTY));
    host.rename((a, "gone"), (b, "sub"), 0).unwrap();
    host.rmdir(ROOT, "a").unwrap();
    assert_eq!(host.create(a, "late").unwrap_err(), Errno::ENOENT);
}

#[test]
fn an_engine_that_refuses_every_other_request_serves_all() {
    let mut host = Host::new();
    host.faults.stubborn.set(true);
    let dir = host.mkdir(ROOT, "dir").unwrap().nodeid;
    for number in 0..50 {
        let file = host.create(dir, &format!("file-{number}")).unwrap().nodeid;
        host.write(file, 0, &[1; 10_000], (0, 0)).unwrap();
        host.truncate(file, 77).unwrap();
    }
    assert_eq!(host.list(dir, 512).len(), 52);
}
