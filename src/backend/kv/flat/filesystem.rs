//! Requests: which need the engine, and what it is asked.

use core::ffi::CStr;

use super::super::engine::{Busy, Token};
use super::super::objects::{Cursor, Found, Objects, Place};
use super::desk::{Desk, Kind, Work};
use super::names::Name as Kept;
use super::page::{Page, look};
use super::volume::FlatVolume;
use crate::fuse::{
    Attributes, Created, Creation, Data, DirEntries, DirEntriesPlus, Entry, Fh, FileSystem, Name,
    NodeId, Opened, Reply, Request, SetAttr, Statfs, Wishes, Written,
};
use crate::mem::{Arena, Handle, OutOfMemory};
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::fuse::{FopenFlags, InitFlags, ReleaseFlags, WriteFlags};
use crate::wire::open_flags::OpenFlags;

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
/// `RENAME_NOREPLACE`.
const NOREPLACE: u32 = 1;
/// Longest READ and WRITE in bytes.
const IO_MAX: usize = 1 << 20;

/// Serve a flat volume to one core of a device.
pub struct Flat<O> {
    pub(super) objects: O,
    pub(super) desk: Desk,
}

impl<O: Objects> Flat<O> {
    /// Make one for `requests` in flight.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena has less than [`Self::footprint`].
    pub fn new(
        arena: &Arena,
        volume: &'static FlatVolume,
        objects: O,
        requests: u32,
    ) -> Result<Self, OutOfMemory> {
        Ok(Self {
            objects,
            desk: Desk::new(arena, volume, requests)?,
        })
    }

    /// Give the bytes of arena that an instance needs.
    pub const fn footprint(requests: u32) -> usize {
        Desk::footprint(requests)
    }

    /// Give the engine.
    pub fn objects(&mut self) -> &mut O {
        &mut self.objects
    }

    /// Begin a request on an object.
    fn start(&mut self, kind: Kind, node: NodeId, names: Result<(Kept, Kept), Errno>) {
        let (name, to) = match names {
            Ok(names) => names,
            Err(error) => return kind.err(error),
        };
        let work = Work {
            kind,
            node,
            name,
            to,
        };
        match self.desk.works.insert(work) {
            Ok(handle) => self.go(handle),
            Err(work) => work.kind.err(Errno::ENOMEM),
        }
    }

    /// Go on with a request.
    fn go(&mut self, handle: Handle) {
        if let Some(Work {
            kind: Kind::List { fetches: false, .. },
            ..
        }) = self.desk.works.get(handle)
        {
            return self.list(handle);
        }
        self.ask(handle);
    }

    /// Hand a request to the engine; when that is busy, it is tried again.
    pub(super) fn ask(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        // The engine answers through the desk, so nothing of it is lent.
        let (name, to) = (work.name, work.to);
        let cursor = match &work.kind {
            Kind::List { fh, .. } => self.desk.volume.listings.place(*fh),
            _ => Cursor::default(),
        };
        let op = work.kind.op(name.bytes(), to.bytes(), &cursor);
        let token = Token(handle.to_bits());
        if self.objects.submit(token, &op, &mut self.desk) == Err(Busy) {
            let _ = self.desk.again.push(handle.to_bits());
        }
    }

    /// Begin a page of a directory.
    fn read_page(&mut self, node: NodeId, fh: Fh, position: u64, page: Page) {
        // Zero is nobody's.
        if node != NodeId::ROOT || fh.0 == 0 {
            return page.err(Errno::ENOTDIR);
        }
        let kind = Kind::List {
            page,
            fh: fh.0,
            position,
            at: 0,
            fetches: false,
            awaited: 0,
            ended: false,
        };
        self.start(kind, node, Ok(only(Kept::new(b""))));
    }

    /// Give the name of a node that is a file.
    fn file(&self, node: NodeId) -> Result<(Kept, Kept), Errno> {
        self.desk.volume.names.name(node).map(only)
    }

    fn writable(&self) -> Result<(), Errno> {
        match self.desk.volume.look.read_only {
            true => Err(Errno::EROFS),
            false => Ok(()),
        }
    }

    /// As [`Self::file`], for what is going to change.
    fn writable_file(&self, node: NodeId) -> Result<(Kept, Kept), Errno> {
        self.writable().and_then(|()| self.file(node))
    }

    /// Check a name in a directory.
    fn named(parent: NodeId, name: Name<'_>) -> Result<(Kept, Kept), Errno> {
        match parent {
            NodeId::ROOT => Ok(only(Kept::new(name.bytes()))),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// As [`Self::named`], for what is going to change.
    fn writable_name(&self, parent: NodeId, name: Name<'_>) -> Result<(Kept, Kept), Errno> {
        self.writable().and_then(|()| Self::named(parent, name))
    }
}

/// Name one object alone.
fn only(name: Kept) -> (Kept, Kept) {
    (name, Kept::new(b""))
}

/// Refuse what is no file.
fn regular(mode: u32) -> Result<(), Errno> {
    match mode & S_IFMT {
        0 | S_IFREG => Ok(()),
        _ => Err(Errno::EPERM),
    }
}

impl<O: Objects> FileSystem for Flat<O> {
    fn wishes(&self, _offered: InitFlags) -> Wishes {
        Wishes {
            flags: InitFlags::ATOMIC_O_TRUNC
                | InitFlags::HANDLE_KILLPRIV_V2
                | InitFlags::DO_READDIRPLUS
                | InitFlags::READDIRPLUS_AUTO
                | InitFlags::AUTO_INVAL_DATA,
            ..Wishes::default()
        }
    }

    fn poll(&mut self, now: Instant) -> bool {
        let mut any = self.objects.poll(now, &mut self.desk);
        for _ in 0..self.desk.again.len() {
            if let Some(bits) = self.desk.again.pop() {
                match look(bits) {
                    Some(handle) => self.look(handle),
                    None => self.go(Handle::from_bits(bits)),
                }
            }
        }
        // What was submitted just now is on its way before the next round.
        any |= self.objects.poll(now, &mut self.desk);
        any
    }

    fn wait_fds(&self, add: &mut dyn FnMut(i32)) {
        self.objects.wait_fds(add);
    }

    fn arm(&mut self) -> bool {
        self.objects.arm() && self.desk.again.is_empty()
    }

    fn deadline(&self) -> Option<Instant> {
        self.objects.deadline()
    }

    fn forget(&mut self, node: NodeId, count: u64) {
        self.desk.volume.names.forget(node, count);
    }

    fn lookup(&mut self, _: &Request, parent: NodeId, name: Name<'_>, reply: Reply<Entry>) {
        let names = Self::named(parent, name);
        self.start(Kind::Lookup(reply), parent, names);
    }

    fn getattr(&mut self, _: &Request, node: NodeId, _: Option<Fh>, reply: Reply<Attributes>) {
        if node == NodeId::ROOT {
            return reply.ok(self.desk.attributes(node, Found::default()));
        }
        self.start(Kind::Attr(reply), node, self.file(node));
    }

    fn setattr(&mut self, _: &Request, node: NodeId, set: &SetAttr, reply: Reply<Attributes>) {
        match (set.size, node) {
            _ if self.desk.volume.look.read_only => reply.err(Errno::EROFS),
            (Some(size), _) if size > self.objects.size_max() => reply.err(Errno::EFBIG),
            (Some(size), _) => self.start(Kind::Resize { reply, size }, node, self.file(node)),
            (None, NodeId::ROOT) => reply.ok(self.desk.attributes(node, Found::default())),
            (None, _) => self.start(Kind::Attr(reply), node, self.file(node)),
        }
    }

    fn symlink(
        &mut self,
        _: &Request,
        _: NodeId,
        _: Name<'_>,
        _: &CStr,
        _: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        reply.err(Errno::EPERM);
    }

    fn mknod(
        &mut self,
        _: &Request,
        parent: NodeId,
        name: Name<'_>,
        _: u32,
        how: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        let names = regular(how.mode).and_then(|()| self.writable_name(parent, name));
        self.start(Kind::Make(reply), parent, names);
    }

    fn mkdir(
        &mut self,
        _: &Request,
        _: NodeId,
        _: Name<'_>,
        _: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        reply.err(Errno::EPERM);
    }

    fn create(
        &mut self,
        _: &Request,
        parent: NodeId,
        name: Name<'_>,
        flags: OpenFlags,
        _kill_suidgid: bool,
        how: &Creation<'_>,
        reply: Reply<Created>,
    ) {
        let kind = Kind::Create {
            reply,
            exclusive: flags.contains(OpenFlags::EXCL),
            truncate: flags.contains(OpenFlags::TRUNC),
        };
        let names = regular(how.mode).and_then(|()| self.writable_name(parent, name));
        self.start(kind, parent, names);
    }

    fn unlink(&mut self, _: &Request, parent: NodeId, name: Name<'_>, reply: Reply<()>) {
        let names = self.writable_name(parent, name);
        self.start(Kind::Unlink(reply), parent, names);
    }

    fn rmdir(&mut self, _: &Request, _: NodeId, _: Name<'_>, reply: Reply<()>) {
        reply.err(Errno::ENOTDIR);
    }

    fn rename(
        &mut self,
        _: &Request,
        parent: NodeId,
        name: Name<'_>,
        new_parent: NodeId,
        new_name: Name<'_>,
        flags: u32,
        reply: Reply<()>,
    ) {
        if flags & !NOREPLACE != 0 {
            return reply.err(Errno::EINVAL);
        }
        let from = self.writable_name(parent, name);
        let to = Self::named(new_parent, new_name);
        let names = from.and_then(|(from, _)| to.map(|(to, _)| (from, to)));
        let kind = Kind::Rename {
            reply,
            replace: flags & NOREPLACE == 0,
        };
        self.start(kind, parent, names);
    }

    fn link(&mut self, _: &Request, _: NodeId, _: NodeId, _: Name<'_>, reply: Reply<Entry>) {
        reply.err(Errno::EPERM);
    }

    fn open(
        &mut self,
        _: &Request,
        node: NodeId,
        flags: OpenFlags,
        _kill_suidgid: bool,
        reply: Reply<Opened>,
    ) {
        let writes = flags.contains(OpenFlags::TRUNC) || flags.access().writes();
        let names = match writes {
            true => self.writable_file(node),
            false => self.file(node),
        };
        match names {
            Ok(_) if !flags.contains(OpenFlags::TRUNC) => reply.ok(self.desk.opened()),
            names => self.start(Kind::Open(reply), node, names),
        }
    }

    fn read(
        &mut self,
        _: &Request,
        node: NodeId,
        _: Fh,
        offset: u64,
        _: OpenFlags,
        reply: Reply<Data>,
    ) {
        let len = reply.wanted().min(IO_MAX) as u32;
        let kind = Kind::Read { reply, offset, len };
        self.start(kind, node, self.file(node));
    }

    fn write(
        &mut self,
        _: &Request,
        node: NodeId,
        _: Fh,
        offset: u64,
        how: WriteFlags,
        flags: OpenFlags,
        reply: Reply<Written>,
    ) {
        let len = reply.wanted().min(IO_MAX) as u32;
        // A host that caches writes knows their places.
        let append = flags.contains(OpenFlags::APPEND) && !how.contains(WriteFlags::CACHE);
        let place = match append {
            true => Place::End,
            false => Place::Byte(offset),
        };
        if !append && offset.saturating_add(len.into()) > self.objects.size_max() {
            return reply.err(Errno::EFBIG);
        }
        let kind = Kind::Write { reply, place, len };
        self.start(kind, node, self.writable_file(node));
    }

    fn flush(&mut self, _: &Request, _: NodeId, _: Fh, _: u64, reply: Reply<()>) {
        reply.ok(());
    }

    fn release(
        &mut self,
        _: &Request,
        _: NodeId,
        _: Fh,
        _: ReleaseFlags,
        _: u64,
        reply: Reply<()>,
    ) {
        reply.ok(());
    }

    fn fsync(&mut self, _: &Request, node: NodeId, _: Fh, _: bool, reply: Reply<()>) {
        let names = self.file(node);
        self.start(Kind::Sync { reply, all: false }, node, names);
    }

    fn opendir(&mut self, _: &Request, node: NodeId, _: OpenFlags, reply: Reply<Opened>) {
        match node {
            NodeId::ROOT => reply.ok(Opened {
                fh: Fh(self.desk.volume.number()),
                flags: FopenFlags::empty(),
            }),
            _ => reply.err(Errno::ENOTDIR),
        }
    }

    fn readdir(
        &mut self,
        _: &Request,
        node: NodeId,
        fh: Fh,
        position: u64,
        reply: Reply<DirEntries>,
    ) {
        self.read_page(node, fh, position, Page::Plain(reply));
    }

    fn readdirplus(
        &mut self,
        _: &Request,
        node: NodeId,
        fh: Fh,
        position: u64,
        reply: Reply<DirEntriesPlus>,
    ) {
        self.read_page(node, fh, position, Page::Plus(reply));
    }

    fn releasedir(&mut self, _: &Request, _: NodeId, fh: Fh, reply: Reply<()>) {
        self.desk.volume.listings.close(fh.0);
        reply.ok(());
    }

    fn fsyncdir(&mut self, _: &Request, node: NodeId, _: Fh, _: bool, reply: Reply<()>) {
        let none = Ok(only(Kept::new(b"")));
        self.start(Kind::Sync { reply, all: true }, node, none);
    }

    fn syncfs(&mut self, _: &Request, node: NodeId, reply: Reply<()>) {
        let none = Ok(only(Kept::new(b"")));
        self.start(Kind::Sync { reply, all: true }, node, none);
    }

    fn statfs(&mut self, _: &Request, node: NodeId, reply: Reply<Statfs>) {
        self.start(Kind::Statfs(reply), node, Ok(only(Kept::new(b""))));
    }
}
