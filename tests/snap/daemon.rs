//! The daemon dies under its host, and the next one takes the host's driver up where it stands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dpfs::sys::fd::Fd;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::{
    EntryOut, FileLock, InHeader, InitFlags, InitIn, LkIn, Opcode, OpenIn, OutHeader,
};
use tempfile::TempDir;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::chain::{Sent, exchange, send};
use crate::frontend::{FrontEnd, GET_INFLIGHT_FD, Guest, SET_INFLIGHT_FD, SIZE, eventually};

/// Write locks (`F_WRLCK`).
const WRITE_LOCK: u32 = 1;
/// The host opens for reading and writing (`O_RDWR`).
const READ_WRITE: u32 = 2;

struct Daemon {
    folder: TempDir,
    child: Child,
}

impl Daemon {
    /// Serve a directory with the file `f` as a physical function with one request queue and the queue for FORGETs.
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let share = folder.path().join("share");
        fs::create_dir(&share).unwrap();
        fs::write(share.join("f"), "content").unwrap();
        let config = format!(
            "[runtime]\ncores = [0]\ndir = {:?}\n[[device]]\ntag = \"t\"\n\
             hal = {{ kind = \"snap\", manager = \"mlx5_0\", pf = 0, queues = 1, depth = 64 }}\n\
             backend = {{ kind = \"local\", path = {share:?} }}\n",
            folder.path().join("run")
        );
        fs::write(folder.path().join("c.toml"), config).unwrap();
        let child = Self::launch(folder.path());
        let daemon = Self { folder, child };
        daemon.wait();
        daemon
    }

    fn launch(folder: &Path) -> Child {
        let later = dpfs::hal::snap::completes_later();
        let mode = if later { "later" } else { "now" };
        Command::new(env!("CARGO_BIN_EXE_dpfs"))
            .args(["serve", "-c"])
            .arg(folder.join("c.toml"))
            .env("SNAP_EMU", format!("dir={} mode={mode}", folder.display()))
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("mlx5_0-pf0.sock")
    }

    fn wait(&self) {
        eventually("the function is there", || self.socket().exists());
    }

    fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // What tells that the next one is there.
        fs::remove_file(self.socket()).unwrap();
        self.child = Self::launch(self.folder.path());
        let socket = self.socket();
        eventually("the next daemon serves", || {
            // The child that cleans up after the dead one may hold its folder a moment longer. systemd would start anew, too.
            if self.child.try_wait().unwrap().is_some() {
                self.child = Self::launch(self.folder.path());
            }
            socket.exists()
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The host's record of what is in flight.
struct Record {
    area: Vec<u8>,
    file: Fd,
}

/// Ask for a record, as a host does that wants to come back.
fn record(front_end: &FrontEnd) -> Record {
    let mut area = vec![0; 24];
    area[16] = 2;
    area[18] = SIZE as u8;
    front_end.send(GET_INFLIGHT_FD, &area, &[], false);
    let (_, area, mut files) = front_end.receive().unwrap();
    Record {
        area,
        file: files.remove(0),
    }
}

fn connect(daemon: &Daemon, guest: &Guest, record: Option<&Record>) -> (FrontEnd, Option<Record>) {
    let mut front_end = FrontEnd::connect(&daemon.socket());
    front_end.negotiate();
    let new = record.is_none().then(|| self::record(&front_end));
    let used = record.or(new.as_ref()).unwrap();
    front_end.tell(SET_INFLIGHT_FD, &used.area, &[used.file.raw()]);
    front_end.share(guest);
    for queue in 0..2 {
        let base = if record.is_some() {
            guest.drivers[queue].available()
        } else {
            0
        };
        front_end.start(guest, queue, base);
    }
    (front_end, new)
}

fn header(opcode: Opcode, unique: u64, node: u64, body: usize) -> InHeader {
    InHeader {
        len: (size_of::<InHeader>() + body) as u32,
        opcode: opcode as u32,
        unique,
        nodeid: node,
        ..InHeader::default()
    }
}

/// Send a request; give the error and the reply's body.
fn call(guest: &mut Guest, opcode: Opcode, node: u64, body: &[u8]) -> (i32, Vec<u8>) {
    let header = header(opcode, 7, node, body.len());
    let (_, reply) = exchange(guest, 1, &[header.as_bytes(), body], &[16, 160]);
    let (out, body) = OutHeader::read_from_prefix(&reply).unwrap();
    assert_eq!(out.unique, 7);
    (out.error, body.to_vec())
}

fn init(guest: &mut Guest) {
    let init = InitIn {
        major: 7,
        minor: 45,
        flags: InitFlags::POSIX_LOCKS.bits() as u32,
        ..InitIn::default()
    };
    assert_eq!(call(guest, Opcode::INIT, 0, init.as_bytes()).0, 0);
}

/// Look `f` up and open it; give node and handle.
fn open(guest: &mut Guest) -> (u64, u64) {
    let (error, body) = call(guest, Opcode::LOOKUP, 1, b"f\0");
    assert_eq!(error, 0);
    let node = EntryOut::read_from_prefix(&body).unwrap().0.nodeid;
    let mut open = OpenIn::new_zeroed();
    open.flags = READ_WRITE;
    let (error, body) = call(guest, Opcode::OPEN, node, open.as_bytes());
    assert_eq!(error, 0);
    (node, u64::from_le_bytes(body[..8].try_into().unwrap()))
}

/// Describe a lock of the whole file for an owner.
fn lock(handle: u64, owner: u64) -> LkIn {
    let mut lock = LkIn::new_zeroed();
    (lock.fh, lock.owner) = (handle, owner);
    lock.lk = FileLock {
        start: 0,
        end: i64::MAX as u64,
        kind: WRITE_LOCK,
        pid: 1,
    };
    lock
}

/// Wait for a lock that another owner has: a request that does not end.
fn wait_for_lock(guest: &mut Guest, node: u64, handle: u64) -> Sent {
    let (error, _) = call(guest, Opcode::SETLK, node, lock(handle, 1).as_bytes());
    assert_eq!(error, 0);
    let body = lock(handle, 2);
    let header = header(Opcode::SETLKW, 99, node, size_of::<LkIn>());
    send(guest, 1, 5, &[header.as_bytes(), body.as_bytes()], &[16])
}

#[test]
fn after_a_crash_what_was_under_way_ends_and_the_host_mounts_anew() {
    let mut daemon = Daemon::start();
    let mut guest = Guest::new(2);
    let (front_end, record) = connect(&daemon, &guest, None);
    init(&mut guest);
    let (node, handle) = open(&mut guest);
    let waits = wait_for_lock(&mut guest, node, handle);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(guest.drivers[1].reap(), None, "it waits");

    daemon.crash();
    drop(front_end);
    let (_front_end, _) = connect(&daemon, &guest, record.as_ref());
    // The new daemon knows nothing of that lock, file and node.
    let used = guest.reap(1);
    assert_eq!((used.head, used.written), (waits.head, 16));
    let (out, _) = OutHeader::read_from_prefix(&waits.read(&guest)).unwrap();
    assert_eq!((out.error, out.unique), (-Errno::EIO.get(), 99));
    assert_eq!(
        call(&mut guest, Opcode::GETATTR, node, &[0; 16]).0,
        -Errno::EIO.get()
    );
    // The device was not reset: the driver's queues go on where they were.
    init(&mut guest);
    let (node, handle) = open(&mut guest);
    assert_eq!(
        call(&mut guest, Opcode::SETLK, node, lock(handle, 3).as_bytes()).0,
        0
    );
}
