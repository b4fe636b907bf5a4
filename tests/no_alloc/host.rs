//! The driver's side of a loopback queue, and the requests that a host's kernel would send. Allocates nothing once made.

use std::ffi::CStr;

use dpfs::fuse::{Limits, Session};
use dpfs::hal::loopback::{self, FEATURES};
use dpfs::mem::Finished;
use dpfs::runtime::{Backend, Load, Observer, Share, Worker};
use dpfs::sys::map;
use dpfs::sys::time::Instant;
use dpfs::virtq::driver::{Buffer, Driver};
use dpfs::virtq::{MemoryMap, Region};
use dpfs::wire::fuse::*;
use dpfs::wire::open_flags::ClientArch;
use zerocopy::{FromBytes, IntoBytes};

/// Requests in flight.
const DEPTH: u16 = 64;
/// Places for requests and replies, used in turn.
const PLACES: u64 = 32;
/// Where they begin, behind the queue.
const FIRST: u64 = 1 << 20;
/// Bytes of a place: a request of up to 32 KiB, then a reply.
const PLACE: u64 = 128 << 10;
const REPLY: u64 = 64 << 10;
const MEMORY: usize = (FIRST + PLACES * PLACE) as usize;
/// Bytes of one READ or WRITE.
pub const DATA: usize = 16 << 10;

struct Deaf;

impl Observer for Deaf {
    fn finished(&mut self, _finished: &Finished, _now: u64) {}
    fn round_ended(&mut self, _: Load) {}
}

/// Stand for the host: the driver's side of the queue, and the requests that its kernel would send.
pub struct Host {
    driver: Driver,
    worker: Worker,
    base: *mut u8,
    sent: u64,
    /// Directory that all is made in: the root, until another one is entered.
    directory: u64,
    /// Flags of a RENAME.
    renames: u32,
}

impl Host {
    pub fn new(backend: &'static dyn Backend) -> Self {
        let arena = map::reserve(MEMORY).unwrap();
        let base = arena.zeroed::<u8>(MEMORY).unwrap().as_mut_ptr();
        // SAFETY: the memory lives for ever and is reached only through this pointer from here on.
        let region = unsafe { Region::new(0, base, MEMORY as u64) };
        let map: &'static MemoryMap = Box::leak(Box::new(MemoryMap::new(&[region]).unwrap()));
        let layout = loopback::Layout {
            address: 0,
            size: 256,
            features: FEATURES,
            indirect: 8,
        };
        // SAFETY: nothing else uses the memory in front of the places.
        let (queue, driver) = unsafe { loopback::queue(map, layout) }.unwrap();
        let session = Session::new(backend, Limits::default(), ClientArch::default());
        let share = Share {
            session: Box::leak(Box::new(session)),
            backend,
            queues: vec![Box::new(queue)],
            depth: DEPTH,
            observer: Box::new(Deaf),
            admission: None,
        };
        let worker = share.into_worker().unwrap();
        Self {
            driver,
            worker,
            base,
            sent: 0,
            directory: ROOT_ID,
            renames: 1,
        }
    }

    /// Rename as file systems do that have no RENAME_NOREPLACE.
    pub fn rename_plainly(&mut self) {
        self.renames = 0;
    }

    /// Make everything in this directory of the root from now on.
    pub fn enter(&mut self, name: &CStr) {
        let found: EntryOut = self.get(Opcode::LOOKUP, ROOT_ID, &[name.to_bytes_with_nul()]);
        self.directory = found.nodeid;
    }

    /// Make everything in the root again.
    pub fn leave(&mut self) {
        let entered = std::mem::replace(&mut self.directory, ROOT_ID);
        let forget = ForgetIn { nlookup: 1 };
        self.silent(Opcode::FORGET, entered, &[forget.as_bytes()]);
    }

    /// Make a request available, and give its place.
    fn send(&mut self, opcode: Opcode, node: u64, parts: &[&[u8]]) -> u64 {
        let place = FIRST + self.sent % PLACES * PLACE;
        self.sent += 1;
        let body: usize = parts.iter().map(|part| part.len()).sum();
        let header = InHeader {
            len: (IN_HEADER_LEN + body) as u32,
            opcode: opcode as u32,
            unique: self.sent * 2,
            nodeid: node,
            pid: 1,
            ..InHeader::default()
        };
        let mut at = place;
        for part in [header.as_bytes()].iter().chain(parts) {
            // SAFETY: requests are shorter than the place's half for them, and nobody uses that now.
            unsafe {
                self.base
                    .add(at as usize)
                    .copy_from_nonoverlapping(part.as_ptr(), part.len())
            };
            at += part.len() as u64;
        }
        let silent = matches!(opcode, Opcode::FORGET | Opcode::BATCH_FORGET);
        let buffer = |address, len, writable| Buffer {
            address,
            len,
            writable,
        };
        let buffers = [
            buffer(place, IN_HEADER_LEN as u32, false),
            buffer(place + IN_HEADER_LEN as u64, body as u32, false),
            buffer(place + REPLY, OUT_HEADER_LEN as u32, true),
            buffer(
                place + REPLY + OUT_HEADER_LEN as u64,
                (2 * DATA) as u32,
                true,
            ),
        ];
        // A request without arguments has no segment for them.
        let used = if silent { &buffers[..2] } else { &buffers[..] };
        let head = match (body, silent) {
            (0, _) => self.driver.add(&[buffers[0], buffers[2], buffers[3]]),
            _ => self.driver.add(used),
        };
        assert!(head.is_some(), "a free descriptor");
        self.driver.publish();
        place
    }

    /// Serve until so many requests have come back.
    fn reap(&mut self, mut count: usize) {
        while count > 0 {
            self.worker.round(Instant::now());
            while self.driver.reap().is_some() {
                count -= 1;
            }
        }
    }

    fn reply<T: FromBytes>(&self, place: u64, offset: u64) -> T {
        let at = place + REPLY + offset;
        // SAFETY: inside the place; the device gave the request back.
        unsafe { self.base.add(at as usize).cast::<T>().read_unaligned() }
    }

    /// Send a request and give its error and its place.
    fn ask(&mut self, opcode: Opcode, node: u64, parts: &[&[u8]]) -> (i32, u64) {
        let place = self.send(opcode, node, parts);
        self.reap(1);
        let header: OutHeader = self.reply(place, 0);
        (-header.error, place)
    }

    /// Send a request that succeeds, and give its place.
    pub fn good(&mut self, opcode: Opcode, node: u64, parts: &[&[u8]]) -> u64 {
        let (error, place) = self.ask(opcode, node, parts);
        assert_eq!(error, 0, "{}", opcode.name());
        place
    }

    /// The same for one that answers with a structure.
    fn get<T: FromBytes>(&mut self, opcode: Opcode, node: u64, parts: &[&[u8]]) -> T {
        let place = self.good(opcode, node, parts);
        self.reply(place, OUT_HEADER_LEN as u64)
    }

    fn silent(&mut self, opcode: Opcode, node: u64, parts: &[&[u8]]) {
        self.send(opcode, node, parts);
        self.reap(1);
    }

    pub fn init(&mut self) {
        let flags = InitFlags::all().bits();
        let init = InitIn {
            major: KERNEL_VERSION,
            minor: KERNEL_MINOR_VERSION,
            max_readahead: 1 << 20,
            flags: flags as u32,
            flags2: (flags >> 32) as u32,
            ..InitIn::default()
        };
        self.good(Opcode::INIT, 0, &[init.as_bytes()]);
    }

    /// Make a directory with a file, use both in every way, and remove them.
    pub fn round(&mut self, data: &[u8]) {
        assert_ne!(self.ask(Opcode::REMOVEMAPPING, 1, &[&[0; 4]]).0, 0);
        let mkdir = MkdirIn {
            mode: 0o755,
            umask: 0,
        };
        let directory: EntryOut =
            self.get(Opcode::MKDIR, self.directory, &[mkdir.as_bytes(), b"dir\0"]);
        let directory = directory.nodeid;
        let create = CreateIn {
            flags: 0o102,
            mode: 0o100_644,
            umask: 0,
            open_flags: 0,
        };
        let place = self.good(Opcode::CREATE, directory, &[create.as_bytes(), b"file\0"]);
        let entry: EntryOut = self.reply(place, OUT_HEADER_LEN as u64);
        let open: OpenOut = self.reply(place, (OUT_HEADER_LEN + size_of::<EntryOut>()) as u64);
        let (file, fh) = (entry.nodeid, open.fh);
        self.file(file, fh, data);
        self.names(directory, file);
        self.listing(directory);
        let release = ReleaseIn {
            fh,
            flags: 2,
            release_flags: 0,
            lock_owner: 0,
        };
        self.good(Opcode::RELEASE, file, &[release.as_bytes()]);
        self.good(Opcode::UNLINK, directory, &[b"file\0"]);
        self.good(Opcode::RMDIR, self.directory, &[b"dir\0"]);
        self.silent(Opcode::FORGET, file, &[ForgetIn { nlookup: 4 }.as_bytes()]);
        let head = BatchForgetIn { count: 1, dummy: 0 };
        let one = ForgetOne {
            nodeid: directory,
            nlookup: 1,
        };
        self.silent(Opcode::BATCH_FORGET, 0, &[head.as_bytes(), one.as_bytes()]);
    }

    /// The same where the root directory is all there is.
    pub fn flat_round(&mut self, data: &[u8]) {
        let create = CreateIn {
            flags: 0o102,
            mode: 0o100_644,
            umask: 0,
            open_flags: 0,
        };
        let place = self.good(Opcode::CREATE, 1, &[create.as_bytes(), b"file\0"]);
        let entry: EntryOut = self.reply(place, OUT_HEADER_LEN as u64);
        let file = entry.nodeid;
        let write = WriteIn {
            size: data.len() as u32,
            flags: 2,
            ..WriteIn::default()
        };
        self.good(Opcode::WRITE, file, &[write.as_bytes(), data]);
        let read = ReadIn {
            size: data.len() as u32,
            ..ReadIn::default()
        };
        self.good(Opcode::READ, file, &[read.as_bytes()]);
        self.good(Opcode::GETATTR, file, &[GetattrIn::default().as_bytes()]);
        let truncate = SetattrIn {
            valid: SetattrValid::SIZE.bits(),
            size: 100,
            ..SetattrIn::default()
        };
        self.good(Opcode::SETATTR, file, &[truncate.as_bytes()]);
        self.good(Opcode::FSYNC, file, &[FsyncIn::default().as_bytes()]);
        let opened: OpenOut = self.get(Opcode::OPENDIR, 1, &[OpenIn::default().as_bytes()]);
        let list = ReadIn {
            fh: opened.fh,
            size: 4096,
            ..ReadIn::default()
        };
        self.good(Opcode::READDIR, 1, &[list.as_bytes()]);
        self.forget_page(&list);
        let release = ReleaseIn {
            fh: opened.fh,
            ..ReleaseIn::default()
        };
        self.good(Opcode::RELEASEDIR, 1, &[release.as_bytes()]);
        let rename = Rename2In {
            newdir: 1,
            flags: 0,
            padding: 0,
        };
        let names = [rename.as_bytes(), &b"file\0"[..], &b"new\0"[..]];
        self.good(Opcode::RENAME2, 1, &names);
        self.good(Opcode::UNLINK, 1, &[b"new\0"]);
        assert_ne!(self.ask(Opcode::LOOKUP, 1, &[b"file\0"]).0, 0);
        self.silent(Opcode::FORGET, file, &[ForgetIn { nlookup: 1 }.as_bytes()]);
        self.good(Opcode::STATFS, 1, &[]);
    }

    /// Ask for a page of a directory with attributes, and forget the nodes that came with it.
    fn forget_page(&mut self, list: &ReadIn) {
        let place = self.good(Opcode::READDIRPLUS, 1, &[list.as_bytes()]);
        let end = u64::from(self.reply::<OutHeader>(place, 0).len);
        let (mut nodes, mut at) = ([0; 32], OUT_HEADER_LEN as u64);
        for node in &mut nodes {
            if at == end {
                break;
            }
            *node = self.reply::<EntryOut>(place, at).nodeid;
            let behind = at + size_of::<EntryOut>() as u64;
            let name: Dirent = self.reply(place, behind);
            let record = size_of::<Dirent>() as u64 + u64::from(name.namelen);
            at = behind + record.next_multiple_of(8);
        }
        assert_eq!(at, end, "all of them");
        assert!(nodes.iter().any(|&node| node != 0));
        for node in nodes.into_iter().filter(|&node| node != 0) {
            self.silent(Opcode::FORGET, node, &[ForgetIn { nlookup: 1 }.as_bytes()]);
        }
    }

    fn file(&mut self, file: u64, fh: u64, data: &[u8]) {
        // The second is elsewhere where content spreads.
        for offset in [0, 1 << 20] {
            let write = WriteIn {
                fh,
                offset,
                size: data.len() as u32,
                flags: 2,
                ..WriteIn::default()
            };
            let written: WriteOut = self.get(Opcode::WRITE, file, &[write.as_bytes(), data]);
            assert_eq!(written.size as usize, data.len());
            let read = ReadIn {
                fh,
                offset,
                size: data.len() as u32,
                flags: 2,
                ..ReadIn::default()
            };
            self.good(Opcode::READ, file, &[read.as_bytes()]);
        }
        self.good(Opcode::GETATTR, file, &[GetattrIn::default().as_bytes()]);
        let valid = (SetattrValid::MODE | SetattrValid::MTIME_NOW | SetattrValid::MTIME).bits();
        let set = SetattrIn {
            valid,
            mode: 0o600,
            ..SetattrIn::default()
        };
        self.good(Opcode::SETATTR, file, &[set.as_bytes()]);
        let truncate = SetattrIn {
            valid: SetattrValid::SIZE.bits(),
            size: 100,
            ..SetattrIn::default()
        };
        self.good(Opcode::SETATTR, file, &[truncate.as_bytes()]);
        let lseek = LseekIn {
            fh,
            offset: 0,
            whence: 4,
            padding: 0,
        };
        self.good(Opcode::LSEEK, file, &[lseek.as_bytes()]);
        let fallocate = FallocateIn {
            fh,
            offset: 0,
            length: 8192,
            mode: 0,
            padding: 0,
        };
        self.good(Opcode::FALLOCATE, file, &[fallocate.as_bytes()]);
        self.good(
            Opcode::FSYNC,
            file,
            &[FsyncIn {
                fh,
                fsync_flags: 1,
                padding: 0,
            }
            .as_bytes()],
        );
        let lk = FileLock {
            start: 0,
            end: 9,
            kind: 1,
            pid: 1,
        };
        let lock = LkIn {
            fh,
            owner: 5,
            lk,
            lk_flags: 0,
            padding: 0,
        };
        self.ask(Opcode::SETLK, file, &[lock.as_bytes()]);
        self.ask(Opcode::GETLK, file, &[LkIn { owner: 6, ..lock }.as_bytes()]);
        self.good(
            Opcode::FLUSH,
            file,
            &[FlushIn {
                fh,
                unused: 0,
                padding: 0,
                lock_owner: 5,
            }
            .as_bytes()],
        );
        let setxattr = SetxattrIn {
            size: 5,
            ..SetxattrIn::default()
        };
        // Not every file system below has them.
        self.ask(
            Opcode::SETXATTR,
            file,
            &[setxattr.as_bytes(), b"user.key\0value"],
        );
        self.ask(
            Opcode::GETXATTR,
            file,
            &[
                GetxattrIn {
                    size: 64,
                    padding: 0,
                }
                .as_bytes(),
                b"user.key\0",
            ],
        );
        self.ask(
            Opcode::LISTXATTR,
            file,
            &[GetxattrIn {
                size: 64,
                padding: 0,
            }
            .as_bytes()],
        );
        self.ask(Opcode::REMOVEXATTR, file, &[b"user.key\0"]);
        self.ask(
            Opcode::STATX,
            file,
            &[StatxIn {
                sx_mask: 0xfff,
                ..StatxIn::default()
            }
            .as_bytes()],
        );
        self.ask(
            Opcode::ACCESS,
            file,
            &[AccessIn {
                mask: 4,
                padding: 0,
            }
            .as_bytes()],
        );
        self.good(Opcode::STATFS, file, &[]);
        let open: OpenOut = self.get(
            Opcode::OPEN,
            file,
            &[OpenIn {
                flags: 2,
                open_flags: 0,
            }
            .as_bytes()],
        );
        let copy = CopyFileRangeIn {
            fh_in: fh,
            nodeid_out: file,
            fh_out: open.fh,
            off_out: 8192,
            len: 50,
            ..CopyFileRangeIn::default()
        };
        self.ask(Opcode::COPY_FILE_RANGE, file, &[copy.as_bytes()]);
        let release = ReleaseIn {
            fh: open.fh,
            flags: 2,
            release_flags: 0,
            lock_owner: 0,
        };
        self.good(Opcode::RELEASE, file, &[release.as_bytes()]);
    }

    fn names(&mut self, directory: u64, file: u64) {
        self.ask(Opcode::LOOKUP, directory, &[b"no such name\0"]);
        let found: EntryOut = self.get(Opcode::LOOKUP, directory, &[b"file\0"]);
        assert_eq!(found.nodeid, file);
        let link: EntryOut = self.get(Opcode::SYMLINK, directory, &[b"link\0target\0"]);
        self.good(Opcode::READLINK, link.nodeid, &[]);
        self.good(Opcode::UNLINK, directory, &[b"link\0"]);
        self.silent(
            Opcode::FORGET,
            link.nodeid,
            &[ForgetIn { nlookup: 1 }.as_bytes()],
        );
        self.good(
            Opcode::LINK,
            directory,
            &[LinkIn { oldnodeid: file }.as_bytes(), b"hard\0"],
        );
        let rename = Rename2In {
            newdir: directory,
            flags: self.renames,
            padding: 0,
        };
        self.good(
            Opcode::RENAME2,
            directory,
            &[rename.as_bytes(), b"hard\0moved\0"],
        );
        self.good(Opcode::UNLINK, directory, &[b"moved\0"]);
        let mknod = MknodIn {
            mode: 0o010_644,
            ..MknodIn::default()
        };
        let fifo: EntryOut = self.get(Opcode::MKNOD, directory, &[mknod.as_bytes(), b"fifo\0"]);
        self.good(Opcode::UNLINK, directory, &[b"fifo\0"]);
        self.silent(
            Opcode::FORGET,
            fifo.nodeid,
            &[ForgetIn { nlookup: 1 }.as_bytes()],
        );
        assert_ne!(
            self.ask(
                Opcode::INTERRUPT,
                0,
                &[InterruptIn { unique: 1 }.as_bytes()]
            )
            .0,
            0
        );
    }

    fn listing(&mut self, directory: u64) {
        let open = OpenIn {
            flags: 0o200_000,
            open_flags: 0,
        };
        let open: OpenOut = self.get(Opcode::OPENDIR, directory, &[open.as_bytes()]);
        let read = ReadIn {
            fh: open.fh,
            size: 8192,
            ..ReadIn::default()
        };
        self.good(Opcode::READDIR, directory, &[read.as_bytes()]);
        // Counts a lookup of the file.
        self.good(Opcode::READDIRPLUS, directory, &[read.as_bytes()]);
        self.ask(
            Opcode::FSYNCDIR,
            directory,
            &[FsyncIn {
                fh: open.fh,
                ..FsyncIn::default()
            }
            .as_bytes()],
        );
        let release = ReleaseIn {
            fh: open.fh,
            ..ReleaseIn::default()
        };
        self.good(Opcode::RELEASEDIR, directory, &[release.as_bytes()]);
    }

    /// Keep many reads, writes and lookups in flight on one file.
    pub fn crowd(&mut self, data: &[u8]) {
        let create = CreateIn {
            flags: 0o102,
            mode: 0o100_644,
            umask: 0,
            open_flags: 0,
        };
        let root = self.directory;
        let place = self.good(Opcode::CREATE, root, &[create.as_bytes(), b"crowd\0"]);
        let entry: EntryOut = self.reply(place, OUT_HEADER_LEN as u64);
        let open: OpenOut = self.reply(place, (OUT_HEADER_LEN + size_of::<EntryOut>()) as u64);
        let (file, fh, size) = (entry.nodeid, open.fh, data.len() as u32);
        for round in 0..50_u64 {
            for index in 0..PLACES {
                let offset = (round * 7 + index) % 64 * u64::from(size);
                let write = WriteIn {
                    fh,
                    size,
                    offset,
                    flags: 2,
                    ..WriteIn::default()
                };
                let read = ReadIn {
                    fh,
                    size,
                    offset,
                    flags: 2,
                    ..ReadIn::default()
                };
                match index % 3 {
                    0 => self.send(Opcode::WRITE, file, &[write.as_bytes(), data]),
                    1 => self.send(Opcode::READ, file, &[read.as_bytes()]),
                    _ => self.send(Opcode::GETATTR, file, &[GetattrIn::default().as_bytes()]),
                };
            }
            self.reap(PLACES as usize);
        }
        let release = ReleaseIn {
            fh,
            flags: 2,
            release_flags: 0,
            lock_owner: 0,
        };
        self.good(Opcode::RELEASE, file, &[release.as_bytes()]);
        self.good(Opcode::UNLINK, root, &[b"crowd\0"]);
        self.silent(Opcode::FORGET, file, &[ForgetIn { nlookup: 1 }.as_bytes()]);
    }
}
