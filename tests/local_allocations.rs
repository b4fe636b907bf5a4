//! The `local` backend allocates nothing once it serves: neither on a core nor in its workers.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use dpfs::backend::local::{Config, LocalVolume};
use dpfs::fuse::{Dispatcher, FileSystem, Limits, Session};
use dpfs::mem::{RequestTable, Segment, Token};
use dpfs::sys::map;
use dpfs::sys::time::Instant;
use dpfs::wire::fuse::*;
use dpfs::wire::open_flags::ClientArch;
use dpfs_harness::Message;
use zerocopy::FromBytes;

/// Count what is allocated while the device is at work.
struct Counting;

static WORKING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// The thread of the test harness, which still keeps its books when a test on a thread of its own has begun.
static HARNESS: AtomicI32 = AtomicI32::new(0);

/// Leave out the harness, unless it runs the test itself (`--test-threads=1`).
fn leave_out_harness() {
    // SAFETY: plain calls.
    let (own, first) = unsafe { (libc::gettid(), libc::getpid()) };
    if own != first {
        HARNESS.store(first, Ordering::SeqCst);
    }
}

fn is_harness() -> bool {
    // SAFETY: plain call.
    HARNESS.load(Ordering::Relaxed) == unsafe { libc::gettid() }
}

thread_local! {
    /// This thread prepares requests and looks at answers, which is no part of the device.
    static HOST: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if WORKING.load(Ordering::Relaxed) && !HOST.get() && !is_harness() {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const DEPTH: u16 = 8;
const REPLY: usize = 72 << 10;

/// One core and the memory of its requests.
struct Core {
    fs: dpfs::backend::local::Local,
    dispatcher: Dispatcher,
    tables: [&'static RequestTable; 1],
}

impl Core {
    /// Run one request to its end; give the reply.
    fn call(&mut self, message: &Message) -> Vec<u8> {
        HOST.set(true);
        let request = message.bytes().leak();
        let room = message.room.map_or(0, |room| OUT_HEADER_LEN + room);
        let reply = vec![0; REPLY].leak();
        let reply_base = reply.as_mut_ptr();
        HOST.set(false);

        let mut slot = self.tables[0].take().unwrap();
        let segments = slot.segments_mut();
        // SAFETY: both are leaked, so they stay mapped, and nobody else uses them until the request ended.
        let (read, write) = unsafe {
            (
                Segment::new(request.as_mut_ptr(), request.len()),
                Segment::new(reply_base, room),
            )
        };
        segments.push_readable(read).unwrap();
        segments.push_writable(write).unwrap();
        self.dispatcher
            .dispatch(&mut self.fs, &self.tables, slot, Token(1), 0);
        let finished = loop {
            if let Some(finished) = self.tables[0].hand_back(|ended| *ended) {
                break finished;
            }
            self.fs.poll(Instant::now());
            self.fs.arm();
        };

        HOST.set(true);
        // SAFETY: the request ended, so the memory is this thread's again.
        let answer = unsafe { std::slice::from_raw_parts(reply_base, finished.written as usize) };
        let answer = answer.to_vec();
        HOST.set(false);
        answer
    }

    fn ok<T: FromBytes>(&mut self, message: &Message) -> T {
        let reply = self.call(message);
        HOST.set(true);
        let (header, body) = OutHeader::read_from_prefix(&reply).unwrap();
        assert_eq!(header.error, 0, "opcode {}", message.header.opcode);
        let value = T::read_from_prefix(body).unwrap().0;
        HOST.set(false);
        value
    }
}

fn request(opcode: Opcode, node: u64) -> Message {
    HOST.set(true);
    let message = Message::new(opcode)
        .node(node)
        .caller(1000, 1000, 5)
        .unique(8);
    HOST.set(false);
    message
}

/// Build a message without being counted.
fn host<T>(build: impl FnOnce() -> T) -> T {
    HOST.set(true);
    let built = build();
    HOST.set(false);
    built
}

fn round(core: &mut Core, name: &str) {
    let create = CreateIn {
        flags: 2,
        mode: 0o100_644,
        umask: 0o22,
        open_flags: 0,
    };
    let message = request(Opcode::CREATE, ROOT_ID);
    let message = host(|| message.arg(&create).name(name).room(144));
    let created: [u8; 144] = core.ok(&message);
    let (entry, open) = EntryOut::read_from_prefix(&created).unwrap();
    let (open, _) = OpenOut::read_from_prefix(open).unwrap();
    let (node, fh) = (entry.nodeid, open.fh);
    let ask = |opcode, node, build: &dyn Fn(Message) -> Message| {
        let message = request(opcode, node);
        host(|| build(message))
    };

    let data = host(|| vec![7; 5000]);
    let write = WriteIn {
        fh,
        size: 5000,
        write_flags: WriteFlags::KILL_SUIDGID.bits(),
        ..WriteIn::default()
    };
    let message = ask(Opcode::WRITE, node, &|m| m.arg(&write).data(&data).room(8));
    assert_eq!(core.ok::<WriteOut>(&message).size, 5000);
    let read = ReadIn {
        fh,
        size: 8192,
        ..ReadIn::default()
    };
    core.ok::<[u8; 5000]>(&ask(Opcode::READ, node, &|m| m.arg(&read).room(8192)));
    core.ok::<AttrOut>(&ask(Opcode::GETATTR, node, &|m| {
        m.arg(&GetattrIn::default()).room(104)
    }));
    let set = SetattrIn {
        valid: (SetattrValid::MODE | SetattrValid::SIZE | SetattrValid::MTIME).bits(),
        mode: 0o600,
        size: 100,
        ..SetattrIn::default()
    };
    core.ok::<AttrOut>(&ask(Opcode::SETATTR, node, &|m| m.arg(&set).room(104)));
    let value = host(|| vec![1; 1000]);
    let xattr = SetxattrIn {
        size: 1000,
        ..SetxattrIn::default()
    };
    core.ok::<[u8; 0]>(&ask(Opcode::SETXATTR, node, &|m| {
        m.arg(&xattr).name("user.a").data(&value)
    }));
    let get = GetxattrIn {
        size: 2000,
        padding: 0,
    };
    core.ok::<[u8; 1000]>(&ask(Opcode::GETXATTR, node, &|m| {
        m.arg(&get).name("user.a").room(2000)
    }));
    core.ok::<[u8; 7]>(&ask(Opcode::LISTXATTR, node, &|m| m.arg(&get).room(2000)));
    for (opcode, kind) in [(Opcode::SETLK, 1), (Opcode::SETLKW, 0), (Opcode::GETLK, 1)] {
        let lock = LkIn {
            fh,
            owner: 9,
            lk: FileLock {
                start: 0,
                end: 10,
                kind,
                pid: 5,
            },
            ..LkIn::default()
        };
        core.ok::<[u8; 0]>(&ask(opcode, node, &|m| m.arg(&lock).room(24)));
    }
    let fsync = FsyncIn {
        fh,
        ..FsyncIn::default()
    };
    core.ok::<[u8; 0]>(&ask(Opcode::FSYNC, node, &|m| m.arg(&fsync)));
    let flush = FlushIn {
        fh,
        lock_owner: 9,
        ..FlushIn::default()
    };
    core.ok::<[u8; 0]>(&ask(Opcode::FLUSH, node, &|m| m.arg(&flush)));
    let release = ReleaseIn {
        fh,
        ..ReleaseIn::default()
    };
    core.ok::<[u8; 0]>(&ask(Opcode::RELEASE, node, &|m| m.arg(&release)));

    let open = core.ok::<OpenOut>(&ask(Opcode::OPENDIR, ROOT_ID, &|m| {
        m.arg(&OpenIn::default()).room(16)
    }));
    let read = ReadIn {
        fh: open.fh,
        size: 4096,
        ..ReadIn::default()
    };
    for opcode in [Opcode::READDIR, Opcode::READDIRPLUS] {
        core.ok::<[u8; 24]>(&ask(opcode, ROOT_ID, &|m| m.arg(&read).room(4096)));
    }
    let release = ReleaseIn {
        fh: open.fh,
        ..ReleaseIn::default()
    };
    core.ok::<[u8; 0]>(&ask(Opcode::RELEASEDIR, ROOT_ID, &|m| m.arg(&release)));
    core.ok::<EntryOut>(&ask(Opcode::LOOKUP, ROOT_ID, &|m| m.name(name).room(128)));
    core.ok::<Kstatfs>(&ask(Opcode::STATFS, ROOT_ID, &|m| m.room(80)));
    core.ok::<EntryOut>(&ask(Opcode::SYMLINK, ROOT_ID, &|m| {
        m.name("link").name("target").room(128)
    }));
    let rename = Rename2In {
        newdir: ROOT_ID,
        ..Rename2In::default()
    };
    core.ok::<[u8; 0]>(&ask(Opcode::RENAME2, ROOT_ID, &|m| {
        m.arg(&rename).name("link").name("moved")
    }));
    for name in [name, "moved"] {
        core.ok::<[u8; 0]>(&ask(Opcode::UNLINK, ROOT_ID, &|m| m.name(name)));
    }
    for (node, nlookup) in [(node, 3), (node + 1, 1)] {
        core.call(&ask(Opcode::FORGET, node, &|m| {
            m.arg(&ForgetIn { nlookup }).no_reply()
        }));
    }
}

#[test]
fn nothing_is_allocated_after_the_start() {
    leave_out_harness();
    let dir = tempfile::TempDir::new().unwrap();
    let mut config = Config::new(dir.path());
    (config.nodes, config.open_files, config.descriptors) = (1000, 100, 16);
    let volume = LocalVolume::open(config).unwrap();
    let session = Box::leak(Box::new(Session::new(
        volume,
        Limits::default(),
        ClientArch::X86_64,
    )));
    let arena = map::reserve(Dispatcher::FOOTPRINT + RequestTable::footprint(DEPTH)).unwrap();
    let mut core = Core {
        fs: volume.attach(DEPTH.into()).unwrap(),
        dispatcher: Dispatcher::new(session, &arena).unwrap(),
        tables: [RequestTable::new(&arena, DEPTH, 0).unwrap()],
    };
    let flags = InitFlags::all().bits();
    let init = InitIn {
        major: KERNEL_VERSION,
        minor: KERNEL_MINOR_VERSION,
        flags: flags as u32,
        flags2: (flags >> 32) as u32,
        ..InitIn::default()
    };
    let message = request(Opcode::INIT, 0).arg(&init).room(64);
    core.ok::<InitOut>(&message);
    // The first use of locks and thread-local values may allocate.
    round(&mut core, "first");

    WORKING.store(true, Ordering::SeqCst);
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(
        ALLOCATIONS.swap(0, Ordering::SeqCst),
        1,
        "the counter counts"
    );
    for _ in 0..20 {
        round(&mut core, "file");
    }
    WORKING.store(false, Ordering::SeqCst);
    assert_eq!(ALLOCATIONS.load(Ordering::SeqCst), 0);
}
