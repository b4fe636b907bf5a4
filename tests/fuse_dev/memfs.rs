//! A small file system in memory, served by several cores: enough for a kernel to work on.
//!
//! Two of its names behave: a READ of a file called "slow" is answered 50 ms later, out of order with the others; a
//! SETLKW that must wait keeps its reply until it is granted or interrupted.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use dpfs::fuse::{
    Attributes, Created, Creation, Data, DirEntries, DirEntriesPlus, Entry, Fh, FileSystem, Lock,
    LockKind, LockRequest, Name, NodeId, Opened, Reply, Request, SetAttr, Statfs, Volume, Wishes,
    Written,
};
use dpfs::mem::SlotId;
use dpfs::runtime::Backend;
use dpfs::sys::time::Instant;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::{Attr, FopenFlags, InitFlags, Kstatfs, ReleaseFlags, WriteFlags};
use dpfs::wire::open_flags::OpenFlags;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const TTL: Duration = Duration::from_millis(200);

enum Content {
    File(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, u64>),
}

struct Node {
    content: Content,
    mode: u32,
    owner: (u32, u32),
    names: u32,
    lookups: u64,
}

struct State {
    nodes: HashMap<u64, Node>,
    next: u64,
    locks: Vec<(u64, u64, Lock)>,
    slow: u64,
}

/// Hold what the cores share.
pub struct Volatile {
    state: Mutex<State>,
    pub resets: AtomicU32,
    pub interrupts: AtomicU32,
    pub largest_write: AtomicU64,
    pub forgets: AtomicU64,
    /// Requests that each core's instance was asked, in the order of their making.
    pub asked: Mutex<Vec<&'static AtomicU64>>,
}

impl Volatile {
    pub fn new() -> &'static Self {
        let root = Node {
            content: Content::Directory(BTreeMap::new()),
            mode: DIRECTORY | 0o755,
            owner: (dpfs::sys::identity::uid(), dpfs::sys::identity::gid()),
            names: 2,
            lookups: 1,
        };
        let state = State {
            nodes: HashMap::from([(1, root)]),
            next: 2,
            locks: Vec::new(),
            slow: 0,
        };
        Box::leak(Box::new(Self {
            state: Mutex::new(state),
            resets: AtomicU32::new(0),
            interrupts: AtomicU32::new(0),
            largest_write: AtomicU64::new(0),
            forgets: AtomicU64::new(0),
            asked: Mutex::new(Vec::new()),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Give the number of requests that each core was asked.
    pub fn asked(&self) -> Vec<u64> {
        let asked = self.asked.lock().unwrap();
        asked
            .iter()
            .map(|core| core.load(Ordering::Relaxed))
            .collect()
    }
}

impl Volume for Volatile {
    fn reset(&self, _epoch: u32) {
        self.resets.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        state.locks.clear();
        for (id, node) in &mut state.nodes {
            node.lookups = u64::from(*id == 1);
        }
        state.nodes.retain(|_, node| node.names > 0);
    }
}

impl Backend for Volatile {
    fn attach(&'static self, _slots: u32) -> Result<Box<dyn FileSystem>, String> {
        let asked: &'static AtomicU64 = Box::leak(Box::default());
        self.asked.lock().unwrap().push(asked);
        Ok(Box::new(MemFs {
            shared: self,
            asked,
            slow: Vec::new(),
            locks: Vec::new(),
        }))
    }

    fn nodes(&self) -> u64 {
        self.state()
            .nodes
            .values()
            .filter(|node| node.lookups > 0)
            .count() as u64
    }

    fn open_files(&self) -> u64 {
        0
    }
}

/// Serve one core.
struct MemFs {
    shared: &'static Volatile,
    asked: &'static AtomicU64,
    slow: Vec<(Instant, u64, u64, Reply<Data>)>,
    locks: Vec<(u64, LockRequest, Reply<()>)>,
}

impl State {
    fn attr(&self, id: u64) -> Result<Attr, Errno> {
        let node = self.nodes.get(&id).ok_or(Errno::ESTALE)?;
        let size = match &node.content {
            Content::File(bytes) => bytes.len() as u64,
            Content::Directory(_) => 0,
        };
        Ok(Attr {
            ino: id,
            size,
            blocks: size.div_ceil(512),
            mode: node.mode,
            nlink: node.names,
            uid: node.owner.0,
            gid: node.owner.1,
            blksize: 4096,
            ..Attr::default()
        })
    }

    fn directory(&mut self, id: u64) -> Result<&mut BTreeMap<Vec<u8>, u64>, Errno> {
        match self.nodes.get_mut(&id).map(|node| &mut node.content) {
            Some(Content::Directory(names)) => Ok(names),
            Some(Content::File(_)) => Err(Errno::ENOTDIR),
            None => Err(Errno::ESTALE),
        }
    }

    fn file(&mut self, id: u64) -> Result<&mut Vec<u8>, Errno> {
        match self.nodes.get_mut(&id).map(|node| &mut node.content) {
            Some(Content::File(bytes)) => Ok(bytes),
            Some(Content::Directory(_)) => Err(Errno::EISDIR),
            None => Err(Errno::ESTALE),
        }
    }

    fn entry(&mut self, id: u64) -> Result<Entry, Errno> {
        let attr = self.attr(id)?;
        self.nodes.get_mut(&id).ok_or(Errno::ESTALE)?.lookups += 1;
        Ok(Entry {
            node: NodeId(id),
            generation: 0,
            attr,
            entry_ttl: TTL,
            attr_ttl: TTL,
        })
    }

    fn make(
        &mut self,
        parent: u64,
        name: &[u8],
        rq: &Request,
        how: &Creation<'_>,
    ) -> Result<Entry, Errno> {
        let id = self.next;
        if self.directory(parent)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.directory(parent)?.insert(name.to_vec(), id);
        self.next += 1;
        let directory = how.mode & 0o170_000 == DIRECTORY;
        let content = if directory {
            Content::Directory(BTreeMap::new())
        } else {
            Content::File(Vec::new())
        };
        let node = Node {
            content,
            mode: how.mode & !how.umask,
            owner: (rq.caller.uid, rq.caller.gid),
            names: if directory { 2 } else { 1 },
            lookups: 0,
        };
        self.nodes.insert(id, node);
        if name == b"slow" {
            self.slow = id;
        }
        self.entry(id)
    }

    fn remove(&mut self, parent: u64, name: &[u8], directory: bool) -> Result<(), Errno> {
        let id = *self.directory(parent)?.get(name).ok_or(Errno::ENOENT)?;
        match (self.directory(id).map(|names| names.is_empty()), directory) {
            (Ok(false), true) => return Err(Errno::ENOTEMPTY),
            (Ok(_), false) => return Err(Errno::EISDIR),
            (Err(_), true) => return Err(Errno::ENOTDIR),
            _ => {}
        }
        self.directory(parent)?.remove(name);
        let node = self.nodes.get_mut(&id).ok_or(Errno::ESTALE)?;
        node.names -= if directory { 2 } else { 1 };
        self.drop_unused(id);
        Ok(())
    }

    fn drop_unused(&mut self, id: u64) {
        if self
            .nodes
            .get(&id)
            .is_some_and(|node| node.names == 0 && node.lookups == 0)
        {
            self.nodes.remove(&id);
        }
    }

    /// Set a lock if nobody else's is in the way.
    fn lock(&mut self, node: u64, request: &LockRequest) -> bool {
        let wanted = request.lock;
        let hits = |held: &Lock| held.start <= wanted.end && wanted.start <= held.end;
        let in_the_way = self.locks.iter().any(|(on, owner, held)| {
            *on == node
                && *owner != request.owner
                && hits(held)
                && (held.kind == LockKind::Write || wanted.kind == LockKind::Write)
        });
        if in_the_way && wanted.kind != LockKind::Unlock {
            return false;
        }
        // Locks of the tests do not overlap in part.
        self.locks
            .retain(|(on, owner, held)| !(*on == node && *owner == request.owner && hits(held)));
        if wanted.kind != LockKind::Unlock {
            self.locks.push((node, request.owner, wanted));
        }
        true
    }
}

/// Give the reply its result.
fn answer<T: dpfs::fuse::Body>(reply: Reply<T>, result: Result<T, Errno>) {
    match result {
        Ok(value) => reply.ok(value),
        Err(error) => reply.err(error),
    }
}

impl MemFs {
    fn fill(&self, node: u64, offset: u64, reply: Reply<Data>) {
        let mut state = self.shared.state();
        match state.file(node) {
            Ok(bytes) => {
                let from = (offset as usize).min(bytes.len());
                let to = (from + reply.wanted()).min(bytes.len());
                let part = bytes[from..to].to_vec();
                reply.bytes(&part);
            }
            Err(error) => reply.err(error),
        }
    }
}

impl FileSystem for MemFs {
    fn wishes(&self, _offered: InitFlags) -> Wishes {
        Wishes {
            flags: InitFlags::POSIX_LOCKS
                | InitFlags::DO_READDIRPLUS
                | InitFlags::READDIRPLUS_AUTO
                | InitFlags::ATOMIC_O_TRUNC,
            ..Wishes::default()
        }
    }

    fn poll(&mut self, now: Instant) -> bool {
        let before = self.slow.len() + self.locks.len();
        for (at, node, offset, reply) in std::mem::take(&mut self.slow) {
            if at <= now {
                self.fill(node, offset, reply);
            } else {
                self.slow.push((at, node, offset, reply));
            }
        }
        for (node, request, reply) in std::mem::take(&mut self.locks) {
            if self.shared.state().lock(node, &request) {
                reply.ok(());
            } else {
                self.locks.push((node, request, reply));
            }
        }
        self.slow.len() + self.locks.len() < before
    }

    fn deadline(&self) -> Option<Instant> {
        let lock = self.locks.first().map(|_| Instant::now().after(2_000_000));
        self.slow.iter().map(|(at, ..)| *at).chain(lock).min()
    }

    fn shutdown(&mut self) {
        for (_, _, reply) in self.locks.drain(..) {
            reply.err(Errno::EINTR);
        }
    }

    fn interrupt(&mut self, target: SlotId) {
        self.shared.interrupts.fetch_add(1, Ordering::Relaxed);
        if let Some(at) = self
            .locks
            .iter()
            .position(|(_, _, reply)| reply.id() == target)
        {
            self.locks.remove(at).2.err(Errno::EINTR);
        }
    }

    fn forget(&mut self, node: NodeId, count: u64) {
        self.shared.forgets.fetch_add(count, Ordering::Relaxed);
        let mut state = self.shared.state();
        if let Some(entry) = state.nodes.get_mut(&node.0) {
            entry.lookups = entry.lookups.saturating_sub(count);
        }
        state.drop_unused(node.0);
    }

    fn lookup(&mut self, _rq: &Request, parent: NodeId, name: Name<'_>, reply: Reply<Entry>) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut state = self.shared.state();
        let found = state
            .directory(parent.0)
            .map(|names| names.get(name.bytes()).copied());
        let entry = found
            .and_then(|id| id.ok_or(Errno::ENOENT))
            .and_then(|id| state.entry(id));
        answer(reply, entry);
    }

    fn getattr(&mut self, _rq: &Request, node: NodeId, _fh: Option<Fh>, reply: Reply<Attributes>) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let attr = self.shared.state().attr(node.0);
        answer(reply, attr.map(|attr| Attributes { attr, ttl: TTL }));
    }

    fn setattr(&mut self, _rq: &Request, node: NodeId, set: &SetAttr, reply: Reply<Attributes>) {
        let mut state = self.shared.state();
        if let Some(size) = set.size
            && let Ok(bytes) = state.file(node.0)
        {
            bytes.resize(size as usize, 0);
        }
        if let (Some(mode), Some(entry)) = (set.mode, state.nodes.get_mut(&node.0)) {
            entry.mode = (entry.mode & 0o170_000) | (mode & 0o7777);
        }
        let attr = state.attr(node.0);
        answer(reply, attr.map(|attr| Attributes { attr, ttl: TTL }));
    }

    fn mkdir(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        how: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        let how = Creation {
            mode: how.mode & 0o7777 | DIRECTORY,
            ..*how
        };
        let entry = self.shared.state().make(parent.0, name.bytes(), rq, &how);
        answer(reply, entry);
    }

    fn unlink(&mut self, _rq: &Request, parent: NodeId, name: Name<'_>, reply: Reply<()>) {
        let done = self.shared.state().remove(parent.0, name.bytes(), false);
        answer(reply, done);
    }

    fn rmdir(&mut self, _rq: &Request, parent: NodeId, name: Name<'_>, reply: Reply<()>) {
        let done = self.shared.state().remove(parent.0, name.bytes(), true);
        answer(reply, done);
    }

    fn open(
        &mut self,
        _rq: &Request,
        node: NodeId,
        flags: OpenFlags,
        _kill: bool,
        reply: Reply<Opened>,
    ) {
        if flags.contains(OpenFlags::TRUNC)
            && let Ok(bytes) = self.shared.state().file(node.0)
        {
            bytes.clear();
        }
        reply.ok(opened());
    }

    fn create(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        _flags: OpenFlags,
        _kill: bool,
        how: &Creation<'_>,
        reply: Reply<Created>,
    ) {
        let how = Creation {
            mode: how.mode & 0o7777 | REGULAR,
            ..*how
        };
        let entry = self.shared.state().make(parent.0, name.bytes(), rq, &how);
        answer(
            reply,
            entry.map(|entry| Created {
                entry,
                opened: opened(),
            }),
        );
    }

    fn read(
        &mut self,
        _rq: &Request,
        node: NodeId,
        _fh: Fh,
        offset: u64,
        _flags: OpenFlags,
        reply: Reply<Data>,
    ) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.shared.state().slow == node.0 {
            let at = Instant::now().after(50_000_000);
            self.slow.push((at, node.0, offset, reply));
        } else {
            self.fill(node.0, offset, reply);
        }
    }

    fn write(
        &mut self,
        _rq: &Request,
        node: NodeId,
        _fh: Fh,
        offset: u64,
        _how: WriteFlags,
        _flags: OpenFlags,
        reply: Reply<Written>,
    ) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (at, len) = (offset as usize, reply.wanted());
        self.shared
            .largest_write
            .fetch_max(len as u64, Ordering::Relaxed);
        let mut data = vec![0; len];
        reply.copy(0, &mut data).expect("as long as it says");
        let mut state = self.shared.state();
        let written = state.file(node.0).map(|bytes| {
            bytes.resize(bytes.len().max(at + len), 0);
            bytes[at..at + len].copy_from_slice(&data);
            Written(len as u32)
        });
        answer(reply, written);
    }

    fn release(
        &mut self,
        _rq: &Request,
        _node: NodeId,
        _fh: Fh,
        _how: ReleaseFlags,
        _owner: u64,
        reply: Reply<()>,
    ) {
        reply.ok(());
    }

    fn flush(&mut self, _rq: &Request, node: NodeId, _fh: Fh, owner: u64, reply: Reply<()>) {
        self.shared
            .state()
            .locks
            .retain(|(on, holder, _)| !(*on == node.0 && *holder == owner));
        reply.ok(());
    }

    fn opendir(&mut self, _rq: &Request, _node: NodeId, _flags: OpenFlags, reply: Reply<Opened>) {
        reply.ok(opened());
    }

    fn readdir(
        &mut self,
        _rq: &Request,
        node: NodeId,
        _fh: Fh,
        position: u64,
        reply: Reply<DirEntries>,
    ) {
        let mut state = self.shared.state();
        let names = match state.directory(node.0) {
            Ok(names) => names.clone(),
            Err(error) => return reply.err(error),
        };
        let mut at = 0;
        for (index, (name, id)) in (1..).zip(&names).skip(position as usize) {
            match reply.push(at, *id, index, 0, name) {
                Some(next) => at = next,
                None => break,
            }
        }
        reply.ok(at);
    }

    fn readdirplus(
        &mut self,
        _rq: &Request,
        node: NodeId,
        _fh: Fh,
        position: u64,
        reply: Reply<DirEntriesPlus>,
    ) {
        let mut state = self.shared.state();
        let names = match state.directory(node.0) {
            Ok(names) => names.clone(),
            Err(error) => return reply.err(error),
        };
        let mut at = 0;
        for (index, (name, id)) in (1..).zip(&names).skip(position as usize) {
            if !reply.fits(at, name.len()) {
                break;
            }
            let Ok(entry) = state.entry(*id) else {
                continue;
            };
            at = reply
                .push(at, Some(&entry), *id, index, 0, name)
                .unwrap_or(at);
        }
        reply.ok(at);
    }

    fn statfs(&mut self, _rq: &Request, _node: NodeId, reply: Reply<Statfs>) {
        reply.ok(Statfs(Kstatfs {
            bsize: 4096,
            frsize: 4096,
            blocks: 1000,
            namelen: 255,
            ..Kstatfs::default()
        }));
    }

    fn setlk(
        &mut self,
        _rq: &Request,
        node: NodeId,
        _fh: Fh,
        lock: &LockRequest,
        reply: Reply<()>,
    ) {
        if self.shared.state().lock(node.0, lock) {
            reply.ok(());
        } else if lock.wait {
            self.locks.push((node.0, *lock, reply));
        } else {
            reply.err(Errno::EAGAIN);
        }
    }
}

/// Open without a number: the state is in the nodes.
fn opened() -> Opened {
    Opened {
        fh: Fh(0),
        flags: FopenFlags::empty(),
    }
}
