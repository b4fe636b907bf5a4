//! A host on a volume of any engine, and an engine before that which counts, refuses and dies.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use dpfs::backend::kv::embedded::{Config, Embedded, Store};
use dpfs::backend::kv::engine::{Busy, Client, Engine, Failure, Op, Token};
use dpfs::backend::kv::setup;
use dpfs::backend::kv::tree::{Tree, TreeVolume};
use dpfs::sys::map;
use dpfs::sys::time::Instant;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::*;
use dpfs_harness::{Answer, Bed, Message, Setup, Ticket};
use zerocopy::{FromBytes, Immutable, KnownLayout};

pub type Result<T> = std::result::Result<T, Errno>;

pub const ROOT: u64 = ROOT_ID;
pub const O_TRUNC: u32 = 0o1000;
pub const O_APPEND: u32 = 0o2000;

/// Say how an engine behaves; shared with the test.
#[derive(Clone, Default)]
pub struct Faults {
    /// Operations that were taken, reads included.
    pub taken: Rc<Cell<u64>>,
    /// Changes that are still let through; then the daemon is dead.
    pub left: Rc<Cell<Option<u64>>>,
    /// Refuse every second submission.
    pub stubborn: Rc<Cell<bool>>,
    /// COPY_FILE_RANGEs of the engine that are still done; then it is full.
    pub full_after: Rc<Cell<Option<u64>>>,
    /// The last one was refused.
    refused: Rc<Cell<bool>>,
}

/// An engine with faults before it.
pub struct Faulty<E> {
    inner: E,
    pub faults: Faults,
}

impl<E: Engine> Engine for Faulty<E> {
    fn submit(
        &mut self,
        token: Token,
        op: &Op<'_>,
        client: &mut dyn Client,
    ) -> std::result::Result<(), Busy> {
        if self.faults.stubborn.get() {
            self.faults.refused.set(!self.faults.refused.get());
            if self.faults.refused.get() {
                return Err(Busy);
            }
        }
        let reads = matches!(
            op,
            Op::Get { .. } | Op::Scan { .. } | Op::Read { .. } | Op::Seek { .. } | Op::Usage
        );
        // Dead: taken, and never answered.
        if self.faults.left.get() == Some(0) {
            return Ok(());
        }
        let copies = matches!(op, Op::Copy { .. });
        if copies && self.faults.full_after.get() == Some(0) {
            client.done(token, Err(Failure::Full));
            return Ok(());
        }
        // What is refused for now does not count; it comes again.
        self.inner.submit(token, op, client)?;
        self.faults.taken.set(self.faults.taken.get() + 1);
        let less = |left: &Cell<Option<u64>>| left.set(left.get().map(|left| left - 1));
        if !reads {
            less(&self.faults.left);
        }
        if copies {
            less(&self.faults.full_after);
        }
        Ok(())
    }

    fn poll(&mut self, now: Instant, client: &mut dyn Client) -> bool {
        self.inner.poll(now, client)
    }

    fn chunk_size(&self) -> u32 {
        self.inner.chunk_size()
    }

    fn copies(&self) -> bool {
        self.inner.copies()
    }
}

/// Make a store in memory with small chunks.
pub fn store() -> &'static Store {
    let config = Config {
        path: None,
        chunk: 4096,
        cache: 16 << 20,
    };
    let store = Store::open(&config).unwrap();
    setup::prepare(&mut store.engine().unwrap()).unwrap();
    store
}

/// Make a core of a volume.
pub fn core<E: Engine>(inner: E, volume: &'static TreeVolume, faults: Faults) -> Tree<Faulty<E>> {
    let engine = Faulty { inner, faults };
    let arena = map::reserve(Tree::<Faulty<E>>::footprint(32)).unwrap();
    Tree::new(&arena, volume, engine, 32).unwrap()
}

/// A mounted volume.
pub struct Host<E = Embedded> {
    pub bed: Bed<Tree<Faulty<E>>>,
    pub faults: Faults,
}

/// Time that an answer may take: a server may be away for a while.
const PATIENCE: Duration = Duration::from_secs(60);

fn value<T: FromBytes + Immutable + KnownLayout>(answer: &Answer) -> Result<T> {
    match answer.error() {
        Some(error) => Err(error),
        None => Ok(answer.value()),
    }
}

fn unit(answer: &Answer) -> Result<()> {
    answer.error().map_or(Ok(()), Err)
}

impl Host {
    pub fn new() -> Self {
        Self::on(store())
    }

    pub fn on(store: &'static Store) -> Self {
        Self::over(store.attach().unwrap())
    }
}

impl<E: Engine + 'static> Host<E> {
    pub fn over(engine: E) -> Self {
        let arena = map::reserve(TreeVolume::footprint(10_000)).unwrap();
        let ttl = Duration::ZERO;
        let volume = TreeVolume::new(&arena, 10_000, 7, ttl, 4096, false).unwrap();
        let faults = Faults::default();
        let tree = core(engine, volume, faults.clone());
        let setup = Setup {
            volume,
            depth: 32,
            ..Setup::default()
        };
        let mut bed = Bed::with(tree, setup);
        bed.init();
        // What a crash left is swept, and numbers are reserved, before anything is counted.
        for _ in 0..200 {
            bed.round();
        }
        Self { bed, faults }
    }

    fn message(&self, opcode: Opcode, node: u64) -> Message {
        Message::new(opcode).node(node).caller(1000, 100, 1)
    }

    /// Send a request; `None` when the daemon is dead before it answers.
    pub fn call(&mut self, message: &Message) -> Option<Answer> {
        let ticket: Ticket = self.bed.send(message);
        let started = std::time::Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(answer) = self.bed.answer(ticket) {
                return Some(answer);
            }
            self.bed.round();
            if self.faults.left.get() == Some(0) {
                // What was taken before may still be answered.
                self.bed.round();
                return self.bed.answer(ticket);
            }
        }
        panic!("no answer");
    }

    fn ask(&mut self, message: &Message) -> Result<Answer> {
        self.call(message).ok_or(Errno::ECANCELED)
    }

    pub fn lookup(&mut self, parent: u64, name: &str) -> Result<EntryOut> {
        let message = self.message(Opcode::LOOKUP, parent).name(name).room(128);
        value(&self.ask(&message)?)
    }

    pub fn forget(&mut self, node: u64) {
        let args = ForgetIn { nlookup: 1 << 32 };
        let message = self.message(Opcode::FORGET, node).arg(&args).no_reply();
        self.bed.call(&message);
        for _ in 0..20 {
            self.bed.round();
        }
    }

    pub fn getattr(&mut self, node: u64) -> Result<Attr> {
        let args = GetattrIn::default();
        let message = self.message(Opcode::GETATTR, node).arg(&args).room(104);
        value::<AttrOut>(&self.ask(&message)?).map(|out| out.attr)
    }

    pub fn setattr(&mut self, node: u64, args: &SetattrIn) -> Result<Attr> {
        let message = self.message(Opcode::SETATTR, node).arg(args).room(104);
        value::<AttrOut>(&self.ask(&message)?).map(|out| out.attr)
    }

    pub fn truncate(&mut self, node: u64, size: u64) -> Result<Attr> {
        let args = SetattrIn {
            valid: SetattrValid::SIZE.bits(),
            size,
            ..SetattrIn::default()
        };
        self.setattr(node, &args)
    }

    pub fn create(&mut self, parent: u64, name: &str) -> Result<EntryOut> {
        let args = CreateIn {
            flags: 2,
            mode: 0o100_644,
            ..CreateIn::default()
        };
        let message = self
            .message(Opcode::CREATE, parent)
            .arg(&args)
            .name(name)
            .room(144);
        value(&self.ask(&message)?)
    }

    pub fn tmpfile(&mut self, parent: u64) -> Result<EntryOut> {
        let args = CreateIn {
            flags: 2,
            mode: 0o100_600,
            ..CreateIn::default()
        };
        let message = self
            .message(Opcode::TMPFILE, parent)
            .arg(&args)
            .name("/")
            .room(144);
        value(&self.ask(&message)?)
    }

    pub fn mkdir(&mut self, parent: u64, name: &str) -> Result<EntryOut> {
        let args = MkdirIn {
            mode: 0o755,
            umask: 0,
        };
        let message = self
            .message(Opcode::MKDIR, parent)
            .arg(&args)
            .name(name)
            .room(128);
        value(&self.ask(&message)?)
    }

    pub fn symlink(&mut self, parent: u64, name: &str, target: &str) -> Result<EntryOut> {
        let message = self
            .message(Opcode::SYMLINK, parent)
            .name(name)
            .name(target)
            .room(128);
        value(&self.ask(&message)?)
    }

    pub fn readlink(&mut self, node: u64) -> Result<Vec<u8>> {
        let message = self.message(Opcode::READLINK, node).room(4096);
        let answer = self.ask(&message)?;
        unit(&answer).map(|()| answer.body().to_vec())
    }

    pub fn link(&mut self, node: u64, parent: u64, name: &str) -> Result<EntryOut> {
        let args = LinkIn { oldnodeid: node };
        let message = self
            .message(Opcode::LINK, parent)
            .arg(&args)
            .name(name)
            .room(128);
        value(&self.ask(&message)?)
    }

    pub fn unlink(&mut self, parent: u64, name: &str) -> Result<()> {
        let message = self.message(Opcode::UNLINK, parent).name(name);
        unit(&self.ask(&message)?)
    }

    pub fn rmdir(&mut self, parent: u64, name: &str) -> Result<()> {
        let message = self.message(Opcode::RMDIR, parent).name(name);
        unit(&self.ask(&message)?)
    }

    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str), flags: u32) -> Result<()> {
        let args = Rename2In {
            newdir: to.0,
            flags,
            padding: 0,
        };
        let message = self
            .message(Opcode::RENAME2, from.0)
            .arg(&args)
            .name(from.1)
            .name(to.1);
        unit(&self.ask(&message)?)
    }

    pub fn open(&mut self, node: u64, flags: u32) -> Result<OpenOut> {
        let args = OpenIn {
            flags,
            open_flags: 0,
        };
        let message = self.message(Opcode::OPEN, node).arg(&args).room(16);
        value(&self.ask(&message)?)
    }

    pub fn write(&mut self, node: u64, offset: u64, data: &[u8], how: (u32, u32)) -> Result<u32> {
        let args = WriteIn {
            offset,
            size: data.len() as u32,
            flags: 1 | how.0,
            write_flags: how.1,
            ..WriteIn::default()
        };
        let message = self
            .message(Opcode::WRITE, node)
            .arg(&args)
            .data(data)
            .room(8);
        value::<WriteOut>(&self.ask(&message)?).map(|out| out.size)
    }

    pub fn read(&mut self, node: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        let args = ReadIn {
            offset,
            size,
            ..ReadIn::default()
        };
        let message = self
            .message(Opcode::READ, node)
            .arg(&args)
            .room(size as usize);
        let answer = self.ask(&message)?;
        unit(&answer).map(|()| answer.body().to_vec())
    }

    pub fn fsync(&mut self, node: u64) -> Result<()> {
        let message = self.message(Opcode::FSYNC, node).arg(&FsyncIn::default());
        unit(&self.ask(&message)?)
    }

    pub fn fallocate(&mut self, node: u64, offset: u64, length: u64, mode: u32) -> Result<()> {
        let args = FallocateIn {
            offset,
            length,
            mode,
            ..FallocateIn::default()
        };
        let message = self.message(Opcode::FALLOCATE, node).arg(&args);
        unit(&self.ask(&message)?)
    }

    pub fn lseek(&mut self, node: u64, offset: u64, whence: u32) -> Result<u64> {
        let args = LseekIn {
            offset,
            whence,
            ..LseekIn::default()
        };
        let message = self.message(Opcode::LSEEK, node).arg(&args).room(8);
        value::<LseekOut>(&self.ask(&message)?).map(|out| out.offset)
    }

    /// Copy from a node's offset to a node's offset.
    pub fn copy(&mut self, from: (u64, u64), to: (u64, u64), len: u64) -> Result<u32> {
        let args = CopyFileRangeIn {
            off_in: from.1,
            nodeid_out: to.0,
            off_out: to.1,
            len,
            ..CopyFileRangeIn::default()
        };
        let message = self
            .message(Opcode::COPY_FILE_RANGE, from.0)
            .arg(&args)
            .room(8);
        value::<WriteOut>(&self.ask(&message)?).map(|out| out.size)
    }

    pub fn setxattr(&mut self, node: u64, name: &str, data: &[u8]) -> Result<()> {
        let message = self.to_set(node, name, data);
        unit(&self.ask(&message)?)
    }

    /// Send a SETXATTR, and do not wait for its answer.
    pub fn send_setxattr(&mut self, node: u64, name: &str, data: &[u8]) -> Ticket {
        let message = self.to_set(node, name, data);
        self.bed.send(&message)
    }

    /// Wait for the answer to what was sent.
    pub fn wait(&mut self, ticket: Ticket) -> Answer {
        loop {
            if let Some(answer) = self.bed.answer(ticket) {
                return answer;
            }
            self.bed.round();
        }
    }

    fn to_set(&self, node: u64, name: &str, data: &[u8]) -> Message {
        let args = SetxattrIn {
            size: data.len() as u32,
            ..SetxattrIn::default()
        };
        self.message(Opcode::SETXATTR, node)
            .arg(&args)
            .name(name)
            .data(data)
    }

    pub fn removexattr(&mut self, node: u64, name: &str) -> Result<()> {
        let message = self.message(Opcode::REMOVEXATTR, node).name(name);
        unit(&self.ask(&message)?)
    }

    pub fn getxattr(&mut self, node: u64, name: &str) -> Result<Vec<u8>> {
        let args = GetxattrIn {
            size: 65_536,
            padding: 0,
        };
        let message = self
            .message(Opcode::GETXATTR, node)
            .arg(&args)
            .name(name)
            .room(65_536);
        let answer = self.ask(&message)?;
        unit(&answer).map(|()| answer.body().to_vec())
    }

    /// List the names of a node's attributes.
    pub fn listxattr(&mut self, node: u64) -> Result<Vec<String>> {
        let args = GetxattrIn {
            size: 65_536,
            padding: 0,
        };
        let message = self
            .message(Opcode::LISTXATTR, node)
            .arg(&args)
            .room(65_536);
        let answer = self.ask(&message)?;
        unit(&answer)?;
        let names = answer.body().split_inclusive(|&byte| byte == 0);
        let text = |name: &[u8]| String::from_utf8(name[..name.len() - 1].to_vec()).unwrap();
        Ok(names.map(text).collect())
    }

    /// List a directory, with replies of `room` bytes: name, inode and position of each entry.
    pub fn list(&mut self, node: u64, room: usize) -> Vec<(String, u64, u64)> {
        let mut all = Vec::new();
        let mut offset = 0;
        loop {
            let page = self.list_page(node, offset, room);
            let Some(last) = page.last() else {
                return all;
            };
            offset = last.2;
            all.extend(page);
        }
    }

    /// Send one READDIR.
    pub fn list_page(&mut self, node: u64, offset: u64, room: usize) -> Vec<(String, u64, u64)> {
        let args = ReadIn {
            offset,
            size: room as u32,
            ..ReadIn::default()
        };
        let message = self.message(Opcode::READDIR, node).arg(&args).room(room);
        let answer = self.call(&message).expect("an answer");
        let mut rest = answer.body();
        let mut page = Vec::new();
        while let Ok((entry, names)) = Dirent::read_from_prefix(rest) {
            let len = entry.namelen as usize;
            let name = String::from_utf8(names[..len].to_vec()).unwrap();
            page.push((name, entry.ino, entry.off));
            rest = &names[len.next_multiple_of(8)..];
        }
        page
    }

    /// Describe everything below the root: path to type, links, size, content or target.
    pub fn snapshot(&mut self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        self.describe(ROOT, "", &mut all);
        all
    }

    fn describe(&mut self, node: u64, path: &str, all: &mut BTreeMap<String, String>) {
        for (name, ino, _) in self.list(node, 4096) {
            if name == "." || name == ".." {
                continue;
            }
            let path = format!("{path}/{name}");
            let entry = self.lookup(node, &name).expect("a listed name");
            let attr = entry.attr;
            assert_eq!(attr.ino, ino, "{path}");
            let content = match attr.mode & 0o170_000 {
                0o100_000 => self.read(entry.nodeid, 0, 1 << 20).unwrap(),
                0o120_000 => self.readlink(entry.nodeid).unwrap(),
                _ => Vec::new(),
            };
            let xattr = self.getxattr(entry.nodeid, "user.x").unwrap_or_default();
            let sum = content
                .iter()
                .fold(0u64, |sum, &byte| sum.wrapping_mul(31) + u64::from(byte));
            all.insert(
                path.clone(),
                format!(
                    "{:o} {} {} {sum} {xattr:?}",
                    attr.mode, attr.nlink, attr.size
                ),
            );
            if attr.mode & 0o170_000 == 0o040_000 {
                self.describe(entry.nodeid, &path, all);
            }
        }
    }
}
