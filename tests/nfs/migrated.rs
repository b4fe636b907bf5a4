//! A file system that moves between two real servers while it is in use.
//!
//! The kernel's server says so by itself; the other has a copy of its disk. Two of nfs-ganesha have the same directory, and
//! what says that it moved is a relay before the first, which changes that server's answers: ganesha says so of a directory
//! only, and not of the files in it.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dpfs::backend::nfs::Namespace;
use dpfs::backend::nfs::served;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::Opcode;
use dpfs::wire::nfs4::{Bitmap, Status, attr, op};
use dpfs::wire::xdr::{Decoder, Encoder, Result as Decoded};
use dpfs_harness::Ticket;
use tempfile::TempDir;

use crate::fake::files::locations_of;
use crate::host::*;
use crate::knfsd::Knfsd;
use crate::relay::Relay;
use crate::server::{EXPORT, Ganesha, Manner};

/// Bytes of a record's mark.
const MARK: usize = 4;

/// Find where in a record the result begins that says where a file system is, or that it moved, and whether it is to say
/// where; `None` for an answer that is about nothing of the file system.
fn place(record: &[u8]) -> Decoded<Option<(usize, bool, u32)>> {
    let mut input = Decoder::new(&record[MARK..]);
    let at = |input: &Decoder<'_>| record.len() - input.rest().len();
    // An accepted call: its number, that it is an answer, and is accepted, no verifier, and that it was done.
    input.skip(6)?;
    if Status(input.u32()?) != Status::OK {
        return Ok(None);
    }
    input.opaque(1024)?;
    let count = input.u32()?;
    let mut root = false;
    for _ in 0..count {
        let start = at(&input);
        let number = input.u32()?;
        input.u32()?;
        match number {
            op::SEQUENCE => input.skip(4 + 5)?,
            op::PUTFH | op::LOOKUP => {}
            op::PUTROOTFH => root = true,
            op::GETATTR => {
                Bitmap::decode(&mut input)?;
                input.opaque(1 << 20)?;
                let more = !input.rest().is_empty();
                return Ok(Some((start, root || more, u32::from(more))));
            }
            op::GETFH | op::READ | op::WRITE | op::OPEN | op::LOCK | op::COMMIT | op::ACCESS => {
                return Ok(Some((start, false, 0)));
            }
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// Tell whether an answer is one to EXCHANGE_ID.
fn introduces(record: &[u8]) -> bool {
    let mut input = Decoder::new(&record[MARK..]);
    let first = (|| {
        input.skip(7)?;
        input.opaque(1024)?;
        input.u32()?;
        input.u32()
    })();
    first == Ok(op::EXCHANGE_ID)
}

/// Have an answer say that the file system is elsewhere, as a server does from which it was taken.
fn say_moved(record: &mut Vec<u8>, locations: &[u8]) {
    let Ok(Some((start, tells, more))) = place(record) else {
        return;
    };
    let number = u32::from_be_bytes(record[start..start + 4].try_into().unwrap());
    record.truncate(start);
    let mut buffer = [0; 512];
    let mut out = Encoder::new(&mut buffer);
    if tells {
        out.u32(op::GETATTR);
        out.u32(0);
        Bitmap::of(&[attr::FS_LOCATIONS]).encode(&mut out);
        out.opaque(locations);
    }
    if !tells || more > 0 {
        out.u32(number);
        out.u32(Status::ERR_MOVED.0);
    }
    let len = out.finish().unwrap();
    record.extend_from_slice(&buffer[..len]);
    // What the compound came to, and how many results there are.
    let mut input = Decoder::new(&record[MARK + 28..]);
    input.opaque(1024).unwrap();
    let count_at = record.len() - input.rest().len();
    let mut results = Decoder::new(&record[count_at + 4..]);
    let mut count = 0u32;
    while !results.rest().is_empty() {
        count += 1;
        let (number, status) = (results.u32().unwrap(), results.u32().unwrap());
        match number {
            op::SEQUENCE => results.skip(4 + 5).unwrap(),
            op::GETATTR if status == 0 => {
                Bitmap::decode(&mut results).unwrap();
                results.opaque(1 << 20).unwrap();
            }
            _ => {}
        }
    }
    record[count_at..count_at + 4].copy_from_slice(&count.to_be_bytes());
    if !tells || more > 0 {
        record[MARK + 24..MARK + 28].copy_from_slice(&Status::ERR_MOVED.0.to_be_bytes());
    }
    let len = (record.len() - MARK) as u32 | 1 << 31;
    record[..MARK].copy_from_slice(&len.to_be_bytes());
}

/// Hold two servers of one directory, a relay before each, and a host that mounted it of the first.
struct Both {
    host: dpfs_harness::Host<Namespace>,
    servers: [Ganesha; 2],
    relays: [Relay; 2],
}

const NAMES: [&str; 2] = ["nfs1.example.org", "nfs2.example.org"];

impl Both {
    fn new() -> Self {
        let home = Ganesha::start(Manner::default());
        let manner = Manner {
            lease: 4,
            grace: 4,
            ..Manner::default()
        };
        let shared = home.path("x").parent().unwrap().into();
        let there = Ganesha::serve(manner, TempDir::new().unwrap(), shared);
        let servers = [home, there];
        let relays = [0, 1].map(|at| Relay::to(([127, 0, 0, 1], servers[at].port).into()));
        let mut config = config(relays[0].port);
        for (name, relay) in NAMES.iter().zip(&relays) {
            let place = vec![format!("127.0.0.1:{}", relay.port)];
            config.referrals.push(((*name).into(), place));
        }
        let (_, mut host) = namespace(&config);
        host.getattr(ROOT, None).unwrap();
        Self {
            host,
            servers,
            relays,
        }
    }

    /// Have one of them say that the file system is at the other, which is reached only when the first was left and
    /// forgot what it had: both lock files of one directory.
    fn go(&mut self, from: usize) {
        let to = 1 - from;
        let locations = locations_of(EXPORT, &[(&NAMES[to..=to], EXPORT)]);
        self.relays[to].change(None);
        self.relays[to].close(true);
        let left = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&left);
        self.relays[from].change(Some(Box::new(move |record| {
            seen.fetch_or(introduces(record), Ordering::SeqCst);
            say_moved(record, &locations);
        })));
        let message = self.host.message(Opcode::STATFS, ROOT).room(256);
        let waits = self.host.bed.send(&message);
        // Asked once more, it is not the one that has it any more.
        let end = Instant::now() + Duration::from_secs(20);
        while !left.load(Ordering::SeqCst) {
            assert!(Instant::now() < end);
            self.host.bed.round();
        }
        self.servers[from].restart();
        assert!(self.host.bed.answer(waits).is_none());
        self.relays[to].close(false);
    }

    fn write(&mut self, (node, fh): (u64, u64), at: u64, data: &[u8]) -> Ticket {
        let message = self.host.write_message(node, fh, at, data);
        self.host.bed.send(&message)
    }

    /// Try to lock a file at a server as another client.
    fn lock_at(&self, which: usize, name: &str) -> Result<()> {
        let mut config = config(self.servers[which].port);
        config.device = "other".into();
        let mut other = core(served::open(&config).unwrap());
        let (node, fh) = crate::locks::opened(&mut other, name);
        let locked = other.setlk(node, fh, 2, lock(F_WRLCK, 0, 0));
        other.release(node, fh).unwrap();
        locked
    }
}

fn block(round: u8, at: u8) -> Vec<u8> {
    vec![round ^ at; 64 << 10]
}

#[test]
fn it_moves_from_ganesha_to_ganesha_and_back_under_load() {
    let mut both = Both::new();
    let (file, fh) = both.host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    let node = file.nodeid;
    let dir = both.host.mkdir(ROOT, "dir", 0o755).unwrap();
    assert_eq!(both.host.setlk(node, fh, 1, lock(F_WRLCK, 0, 9)), Ok(()));
    for (round, from) in [(1, 0), (2, 1), (3, 0), (4, 1)] {
        let tickets: Vec<_> = (0..16)
            .map(|at| both.write((node, fh), u64::from(at) << 16, &block(round, at)))
            .collect();
        both.go(from);
        for ticket in tickets {
            assert_eq!(both.host.finish(ticket), Ok(()), "{round}");
        }
        for at in 0..16 {
            let read = both.host.read(node, fh, u64::from(at) << 16, 64 << 10);
            assert_eq!(read.unwrap(), block(round, at), "{round}, {at}");
        }
        let found = both.host.lookup(ROOT, "dir").unwrap();
        assert_eq!((found.nodeid, found.attr.ino), (dir.nodeid, dir.attr.ino));
        let before = both.relays[from].calls();
        both.host.file(ROOT, &format!("g{round}"), b"new");
        assert_eq!(both.relays[from].calls(), before, "{round}");
        assert_eq!(both.lock_at(1 - from, "f"), Err(Errno::EAGAIN), "{round}");
    }
    both.host.fsync(node, fh).unwrap();
    let written = fs::read(both.servers[0].path("f")).unwrap();
    let wanted: Vec<u8> = (0..16).flat_map(|at| block(4, at)).collect();
    assert!(written == wanted);
    assert_eq!(both.host.setlk(node, fh, 1, lock(F_UNLCK, 0, 9)), Ok(()));
    assert_eq!(both.lock_at(0, "f"), Ok(()));
    both.host.release(node, fh).unwrap();
    assert_eq!(both.host.bed.unanswered(), 0);
}

#[test]
fn what_moves_to_a_server_that_is_killed_is_waited_for() {
    let mut both = Both::new();
    let (file, fh) = both.host.create(ROOT, "f", O_RDWR, 0o644).unwrap();
    let node = file.nodeid;
    assert_eq!(both.host.setlk(node, fh, 1, lock(F_WRLCK, 0, 9)), Ok(()));
    both.host.write(node, fh, 0, b"before").unwrap();
    both.servers[1].kill();
    both.go(0);
    let waits = both.write((node, fh), 6, b"after");
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        both.host.bed.round();
        assert!(both.host.bed.answer(waits).is_none());
    }
    both.servers[1].restart();
    assert_eq!(both.host.finish(waits), Ok(()));
    assert_eq!(both.host.read(node, fh, 0, 99).unwrap(), b"beforeafter");
    both.host.fsync(node, fh).unwrap();
    assert_eq!(fs::read(both.servers[1].path("f")).unwrap(), b"beforeafter");
    assert_eq!(both.lock_at(1, "f"), Err(Errno::EAGAIN));
    assert_eq!(both.host.bed.unanswered(), 0);
}

#[test]
fn it_moves_from_one_server_of_the_kernel_to_another() {
    let moves = ["moves=nfs2.example.org,/".to_string()];
    let Some(home) = Knfsd::start(&moves) else {
        return;
    };
    let mut config = config_of(&home);
    {
        let mut host = core(served::open(&config).unwrap());
        let dir = host.mkdir(ROOT, "dir", 0o755).unwrap();
        let (file, fh) = host.create(dir.nodeid, "f", O_RDWR, 0o644).unwrap();
        host.write(file.nodeid, fh, 0, b"durable").unwrap();
        host.fsync(file.nodeid, fh).unwrap();
        host.release(file.nodeid, fh).unwrap();
    }
    // The other has what is durable, and knows nothing of what is open.
    let Some(there) = home.copy() else { return };
    config.device = "moves".into();
    config.referrals = vec![(NAMES[1].into(), vec![there.address.to_string()])];
    let (_, mut host) = namespace(&config);
    let dir = host.lookup(ROOT, "dir").unwrap();
    let node = host.lookup(dir.nodeid, "f").unwrap().nodeid;
    let fh = host.open(node, O_RDWR).unwrap();
    host.write(node, fh, 7, b" and not").unwrap();
    assert_eq!(host.setlk(node, fh, 7, lock(F_WRLCK, 0, 9)), Ok(()));
    host.file(ROOT, ".moved", b"");
    // It is elsewhere when what stays behind is not there any more.
    let end = Instant::now() + Duration::from_secs(20);
    while host.lookup(ROOT, ".moved").is_ok() {
        assert!(Instant::now() < end);
    }
    assert_eq!(host.read(node, fh, 0, 99).unwrap(), b"durable and not");
    assert_eq!(host.write(node, fh, 7, b" but"), Ok(4));
    host.fsync(node, fh).unwrap();
    assert_eq!(
        host.getattr(ROOT, None).map(|attr| attr.mode & 0o7777),
        Ok(0o755)
    );
    let found = host.lookup(ROOT, "dir").unwrap();
    assert_eq!((found.nodeid, found.attr.ino), (dir.nodeid, dir.attr.ino));
    host.file(found.nodeid, "g", b"new");
    // Another client sees it there, and the lock.
    let mut config = config_of(&there);
    config.device = "other".into();
    let mut other = core(served::open(&config).unwrap());
    let its_dir = other.lookup(ROOT, "dir").unwrap().nodeid;
    assert!(other.lookup(its_dir, "g").is_ok());
    let its = other.lookup(its_dir, "f").unwrap().nodeid;
    let its_fh = other.open(its, O_RDWR).unwrap();
    assert_eq!(other.read(its, its_fh, 0, 99).unwrap(), b"durable but not");
    let refused = other.setlk(its, its_fh, 2, lock(F_WRLCK, 0, 0));
    assert_eq!(refused, Err(Errno::EAGAIN));
    assert_eq!(host.setlk(node, fh, 7, lock(F_UNLCK, 0, 9)), Ok(()));
    assert_eq!(other.setlk(its, its_fh, 2, lock(F_WRLCK, 0, 0)), Ok(()));
    host.release(node, fh).unwrap();
    assert_eq!(host.bed.unanswered(), 0);
}

/// Give the configuration of a client of the kernel's server.
fn config_of(server: &Knfsd) -> served::Config {
    let mut config = config(server.address.port());
    config.servers = vec![server.address.ip().to_string()];
    config.export = "/".into();
    config
}
