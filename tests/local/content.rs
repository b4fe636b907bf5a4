//! Content of files.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::WriteFlags;

use crate::host::*;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// Run a test with each way in which content is written.
fn each_way(test: impl Fn(Host)) {
    test(Host::new());
    test(Host::with(|config| config.blocking_writes = true));
}

#[test]
fn what_is_written_is_read_and_lies_in_the_file() {
    each_way(|mut host| {
        let (entry, fh) = host.create(ROOT, "file", O_RDWR, 0o640).unwrap();
        let node = entry.nodeid;
        let data = pattern(300_000);
        assert_eq!(host.write(node, fh, 1000, &data), Ok(300_000));
        assert_eq!(host.read(node, fh, 1000, 300_000).unwrap(), data);
        assert_eq!(host.read(node, fh, 0, 1000).unwrap(), [0; 1000]);
        assert_eq!(host.read(node, fh, 300_000, 4096).unwrap(), data[299_000..]);
        assert_eq!(host.read(node, fh, 301_000, 4096), Ok(vec![]));
        assert_eq!(host.read(node, fh, u64::MAX, 1), Err(Errno::EINVAL));
        assert_eq!(host.write(node, fh, u64::MAX, b"x"), Err(Errno::EINVAL));
        assert_eq!(host.read(node, fh, 0, 0), Ok(vec![]));
        assert_eq!(host.getattr(node, Some(fh)).unwrap().size, 301_000);
        assert_eq!(host.fsync(node, fh), Ok(()));
        assert_eq!(host.flush(node, fh, 1), Ok(()));
        assert_eq!(host.release(node, fh), Ok(()));
        assert_eq!(host.release(node, fh), Err(Errno::EBADF));
        assert_eq!(host.read(node, fh, 0, 10), Err(Errno::EBADF));
        assert_eq!(host.flush(node, fh, 1), Err(Errno::EBADF));
        let own = fs::read(host.path("file")).unwrap();
        assert_eq!(own[1000..], data);
    });
}

#[test]
fn many_requests_at_once_are_all_answered() {
    let mut host = Host::new();
    let data = pattern(256 * 1024);
    let node = host.file(ROOT, "file", &data).nodeid;
    let fh = host.open(node, O_RDONLY).unwrap();
    let tickets: Vec<_> = (0..32u64)
        .map(|n| {
            let message = host.read_message(node, fh, n * 8192, 8192);
            host.bed.send(&message)
        })
        .collect();
    for (n, ticket) in tickets.into_iter().enumerate().rev() {
        let answer = host.bed.wait(ticket);
        assert_eq!(answer.body(), &data[n * 8192..][..8192]);
    }
}

#[test]
fn what_is_in_memory_in_part_is_read_whole() {
    let mut host = Host::new();
    let data = pattern(256 * 1024);
    let node = host.file(ROOT, "file", &data).nodeid;
    let own = fs::File::open(host.path("file")).unwrap();
    own.sync_all().unwrap();
    let fh = host.open(node, O_RDONLY).unwrap();
    let advise = |advice| {
        // SAFETY: the file is open; nothing but its pages in memory is concerned.
        let result = unsafe { libc::posix_fadvise(own.as_raw_fd(), 0, 0, advice) };
        assert_eq!(result, 0);
    };
    // Nothing beyond what is asked for.
    advise(libc::POSIX_FADV_RANDOM);
    for kept in [4096, 128 * 1024, 192 * 1024] {
        advise(libc::POSIX_FADV_DONTNEED);
        own.read_exact_at(&mut vec![0; kept], 0).unwrap();
        assert_eq!(host.read(node, fh, 0, 256 * 1024).unwrap(), data);
    }
}

/// Count the read and write calls that this thread makes itself, by what the kernel says of it.
fn own_calls(work: impl FnOnce()) -> u64 {
    let count = || -> u64 {
        let text = fs::read_to_string("/proc/thread-self/io").unwrap();
        let lines = text.lines().filter(|line| line.starts_with("sysc"));
        let values = lines.filter_map(|line| line.split(' ').nth(1)?.parse::<u64>().ok());
        values.sum()
    };
    let before = count();
    work();
    count() - before
}

#[test]
fn what_may_wait_for_the_disk_is_not_called_for_by_the_core_itself() {
    let data = pattern(8192);
    // On a file system in memory everything is done at once, since nothing waits.
    let mut host = Host::new();
    // SAFETY: zero bytes are a valid structure, which the kernel fills.
    let kind = unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        let path = std::ffi::CString::new(host.path("").to_str().unwrap()).unwrap();
        assert_eq!(libc::statfs(path.as_ptr(), &mut stat), 0);
        stat.f_type
    };
    if kind == libc::TMPFS_MAGIC {
        println!("not run: the temporary folder is in memory");
        return;
    }
    let node = host.file(ROOT, "file", &data).nodeid;
    let looking = own_calls(|| ());
    let mut cost = |flags: u32, write: bool, sync: u32| {
        let fh = host.open(node, flags).unwrap();
        own_calls(|| match write {
            true => {
                let none = WriteFlags::empty();
                let written = host.write_with(node, fh, 0, &data[..4096], flags | sync, none);
                assert_eq!(written, Ok(4096));
            }
            false => assert_eq!(host.read(node, fh, 0, 4096).unwrap(), data[..4096]),
        }) - looking
    };
    assert_eq!(cost(O_RDWR, false, 0), 1, "in the page cache");
    assert_eq!(cost(O_RDWR | O_DIRECT, false, 0), 0, "from the disk");
    assert_eq!(cost(O_RDWR | O_DIRECT, true, 0), 0, "to the disk");
    assert_eq!(cost(O_RDWR, true, O_DSYNC), 0, "durable");
}

#[test]
fn reads_and_writes_of_one_round_are_all_done() {
    each_way(|mut host| {
        let data = pattern(64 * 1024);
        let node = host.file(ROOT, "file", &data).nodeid;
        let fh = host.open(node, O_RDWR).unwrap();
        for count in [2, 3, 16] {
            let tickets: Vec<_> = (0..count)
                .map(|n| {
                    let message = match n % 2 {
                        0 => host.read_message(node, fh, n * 4096, 4096),
                        _ => host.write_message(node, fh, n * 4096, &[n as u8; 4096]),
                    };
                    host.bed.send(&message)
                })
                .collect();
            for (n, ticket) in tickets.into_iter().enumerate() {
                let answer = host.bed.wait(ticket);
                match n % 2 {
                    0 => assert_eq!(answer.body(), &data[n * 4096..][..4096]),
                    _ => assert_eq!(answer.error(), None),
                }
            }
        }
        let own = fs::read(host.path("file")).unwrap();
        for (n, block) in own.chunks(4096).enumerate() {
            match n % 2 {
                0 => assert_eq!(block, &data[n * 4096..][..4096]),
                _ => assert_eq!(block, [n as u8; 4096]),
            }
        }
    });
}

#[test]
fn access_modes_hold() {
    let mut host = Host::new();
    let node = host.file(ROOT, "file", b"content").nodeid;
    let reader = host.open(node, O_RDONLY).unwrap();
    assert_eq!(host.write(node, reader, 0, b"x"), Err(Errno::EBADF));
    let writer = host.open(node, O_WRONLY).unwrap();
    assert_eq!(host.read(node, writer, 0, 1), Err(Errno::EBADF));
    let dir = host.opendir(ROOT).unwrap();
    assert_eq!(host.read(ROOT, dir, 0, 1), Err(Errno::EISDIR));
    assert_eq!(
        host.readdir(node, reader, 0, 4096, false).unwrap_err(),
        Errno::ENOTDIR
    );
    assert_eq!(host.open(ROOT, O_RDONLY).unwrap_err(), Errno::EISDIR);
    assert_eq!(host.opendir(node).unwrap_err(), Errno::ENOTDIR);
    assert_eq!(host.fsync(node, dir), Err(Errno::EISDIR));
}

#[test]
fn appending_follows_the_end_of_the_file_and_the_flags_of_each_write() {
    each_way(|mut host| {
        let node = host.file(ROOT, "file", b"12345").nodeid;
        let fh = host.open(node, O_WRONLY | O_APPEND).unwrap();
        fs::write(host.path("file"), b"1234567").unwrap();
        let append = O_WRONLY | O_APPEND;
        let none = WriteFlags::empty();
        assert_eq!(host.write_with(node, fh, 5, b"ab", append, none), Ok(2));
        assert_eq!(fs::read(host.path("file")).unwrap(), b"1234567ab");
        // The host took the flag back with fcntl(2).
        assert_eq!(host.write_with(node, fh, 0, b"X", O_WRONLY, none), Ok(1));
        assert_eq!(fs::read(host.path("file")).unwrap(), b"X234567ab");
        // From the page cache: the host knows where it belongs.
        assert_eq!(
            host.write_with(node, fh, 1, b"Y", append, WriteFlags::CACHE),
            Ok(1)
        );
        assert_eq!(fs::read(host.path("file")).unwrap(), b"XY34567ab");
        assert_eq!(
            host.write_with(node, fh, 2, b"Z", O_WRONLY | O_DSYNC, none),
            Ok(1)
        );
    });
}

#[test]
fn a_host_that_caches_writes_reads_what_it_opened_for_writing() {
    let mut host = Host::with(|config| config.writeback = true);
    let node = host.file(ROOT, "file", b"12345").nodeid;
    let fh = host.open(node, O_WRONLY | O_APPEND).unwrap();
    assert_eq!(host.read(node, fh, 0, 10).unwrap(), b"12345");
    let append = O_WRONLY | O_APPEND;
    assert_eq!(
        host.write_with(node, fh, 1, b"ab", append, WriteFlags::empty()),
        Ok(2)
    );
    assert_eq!(fs::read(host.path("file")).unwrap(), b"1ab45");
    let (made, fh) = host.create(ROOT, "new", O_WRONLY, 0o600).unwrap();
    assert_eq!(host.read(made.nodeid, fh, 0, 10), Ok(vec![]));
}

#[test]
fn direct_files_take_requests_of_any_alignment() {
    each_way(|mut host| {
        let data = pattern(20_000);
        let (entry, fh) = host.create(ROOT, "file", O_RDWR | O_DIRECT, 0o600).unwrap();
        let node = entry.nodeid;
        assert_eq!(host.write(node, fh, 0, &data), Ok(20_000));
        assert_eq!(host.write(node, fh, 8192, &data[..4096]), Ok(4096));
        assert_eq!(host.read(node, fh, 3, 5000).unwrap(), data[3..5003]);
        assert_eq!(host.read(node, fh, 8192, 4096).unwrap(), data[..4096]);
        assert_eq!(host.read(node, fh, 12288, 65536).unwrap(), data[12288..]);
        assert_eq!(host.read(node, fh, 1, 1).unwrap(), data[1..2]);
        let reader = host.open(node, O_DIRECT).unwrap();
        assert_eq!(host.read(node, reader, 5, 5).unwrap(), data[5..10]);
    });
}

#[test]
fn a_file_is_truncated_by_opening_by_node_and_by_handle() {
    let mut host = Host::new();
    let node = host.file(ROOT, "file", b"content").nodeid;
    host.open(node, O_WRONLY | O_TRUNC).unwrap();
    assert_eq!(host.getattr(node, None).unwrap().size, 0);
    let size = |size, fh: Option<u64>| size_change(size, fh);
    assert_eq!(host.setattr(node, &size(100, None)).unwrap().size, 100);
    let writer = host.open(node, O_RDWR).unwrap();
    assert_eq!(
        host.setattr(node, &size(50, Some(writer))).unwrap().size,
        50
    );
    let reader = host.open(node, O_RDONLY).unwrap();
    assert_eq!(
        host.setattr(node, &size(20, Some(reader))).unwrap().size,
        20
    );
    assert_eq!(host.setattr(node, &size(u64::MAX, None)), Err(Errno::EFBIG));
    assert_eq!(host.setattr(ROOT, &size(1, None)), Err(Errno::EISDIR));
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    let mut host = Host::with(|config| config.descriptors = 1);
    let node = host.file(ROOT, "file", b"content").nodeid;
    let fh = host.open(node, O_RDWR).unwrap();
    host.unlink(ROOT, "file").unwrap();
    // The node's own descriptor is evicted.
    for n in 0..10 {
        host.file(ROOT, &format!("other-{n}"), b"");
    }
    assert_eq!(host.read(node, fh, 0, 10).unwrap(), b"content");
    assert_eq!(host.write(node, fh, 7, b"!"), Ok(1));
    let attr = host.getattr(node, None).unwrap();
    assert_eq!((attr.size, attr.nlink), (8, 0));
    assert_eq!(host.setattr(node, &size_change(3, None)).unwrap().size, 3);
    let second = host.open(node, O_RDONLY).unwrap();
    assert_eq!(host.read(node, second, 0, 10).unwrap(), b"con");
    host.release(node, fh).unwrap();
    host.release(node, second).unwrap();
}

#[test]
fn space_is_allocated_freed_and_found() {
    const KEEP_SIZE: u32 = 1;
    const PUNCH_HOLE: u32 = 2;
    const SEEK_DATA: u32 = 3;
    const SEEK_HOLE: u32 = 4;
    let mut host = Host::new();
    let (entry, fh) = host.create(ROOT, "file", O_RDWR, 0o600).unwrap();
    let node = entry.nodeid;
    host.fallocate(node, fh, 0, 8192, 0).unwrap();
    assert_eq!(host.getattr(node, None).unwrap().size, 8192);
    host.fallocate(node, fh, 0, 1 << 20, KEEP_SIZE).unwrap();
    let attr = host.getattr(node, None).unwrap();
    assert_eq!(attr.size, 8192);
    assert!(attr.blocks >= 2048);
    host.write(node, fh, 0, &[1; 65536]).unwrap();
    host.fallocate(node, fh, 16384, 16384, PUNCH_HOLE | KEEP_SIZE)
        .unwrap();
    assert_eq!(host.read(node, fh, 16384, 16384).unwrap(), [0; 16384]);
    host.fsync(node, fh).unwrap();
    assert_eq!(host.lseek(node, fh, 0, SEEK_HOLE), Ok(16384));
    assert_eq!(host.lseek(node, fh, 16384, SEEK_DATA), Ok(32768));
    assert_eq!(host.lseek(node, fh, 1 << 30, SEEK_DATA), Err(Errno::ENXIO));
    assert_eq!(host.lseek(node, fh, 0, 0), Err(Errno::EINVAL));
    assert_eq!(
        host.fallocate(node, fh, 0, 1, 0x8000),
        Err(Errno::EOPNOTSUPP)
    );
    assert_eq!(host.fallocate(node, fh, u64::MAX, 1, 0), Err(Errno::EINVAL));
}

#[test]
fn ranges_are_copied_between_files() {
    let mut host = Host::new();
    let data = pattern(100_000);
    let from = host.file(ROOT, "from", &data).nodeid;
    let source = host.open(from, O_RDONLY).unwrap();
    let (entry, target) = host.create(ROOT, "to", O_RDWR, 0o600).unwrap();
    let to = entry.nodeid;
    let copied = host
        .copy((from, source, 10), (to, target, 5), 1 << 40)
        .unwrap();
    assert_eq!(copied, 99_990);
    assert_eq!(fs::read(host.path("to")).unwrap()[5..], data[10..]);
    assert_eq!(
        host.copy((from, source, 100_000), (to, target, 0), 10),
        Ok(0)
    );
    assert_eq!(
        host.copy((from, source, 0), (to, 0, 0), 10),
        Err(Errno::EBADF)
    );
}
