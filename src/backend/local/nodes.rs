//! Nodes: from a descriptor to a nodeid, and back.
//!
//! ```text
//! lookup:   descriptor ──statx, name_to_handle_at──> key ──NodeTable──> nodeid, and the descriptor into the cache
//! any use:  nodeid ──cache──> descriptor             or    ──NodeTable──> key ──open_by_handle_at──> descriptor
//! ```

use core::sync::atomic::Ordering;

use super::attrs::{self, S_IFDIR, S_IFMT, S_IFREG};
use super::key::Key;
use super::volume::LocalVolume;
use crate::fuse::{Entry, NodeId};
use crate::mem::{Pinned, Refused};
use crate::sys::fd::Fd;
use crate::sys::stat::{self, Statx};
use crate::sys::{Result, file};
use crate::wire::errno::Errno;

/// Hold what the node table keeps beside a file's name.
pub struct Value {
    /// The only way to a file that has no handle. Descriptors of other files are in the cache.
    pub fd: Option<Fd>,
    /// Type of the file: the `S_IFMT` bits, shifted down. It never changes.
    kind: u8,
}

impl Value {
    fn new(fd: Option<Fd>, stat: &Statx) -> Self {
        Self {
            fd,
            kind: ((u32::from(stat.stx_mode) & S_IFMT) >> 12) as u8,
        }
    }

    /// Describe a directory that has a handle.
    pub const fn directory() -> Self {
        Self {
            fd: None,
            kind: (S_IFDIR >> 12) as u8,
        }
    }
}

/// Hold a descriptor of a node, most often an `O_PATH` one, for the time of a request.
pub struct NodeFd {
    volume: &'static LocalVolume,
    held: Held,
}

enum Held {
    Root,
    /// Pinned in the cache; `None` only while it is dropped.
    Cached(Option<Pinned<Fd>>),
    /// The node's own; the node is kept open.
    Own(NodeId, i32),
    /// There was no room in the cache.
    Loose(Option<Fd>),
}

impl NodeFd {
    /// Give the descriptor.
    #[inline]
    pub fn raw(&self) -> i32 {
        match &self.held {
            Held::Root => self.volume.root.raw(),
            Held::Cached(pinned) => pinned.as_ref().map_or(-1, |fd| fd.raw()),
            Held::Own(_, raw) => *raw,
            Held::Loose(fd) => fd.as_ref().map_or(-1, Fd::raw),
        }
    }
}

impl Drop for NodeFd {
    #[inline]
    fn drop(&mut self) {
        let left = match &mut self.held {
            Held::Root => None,
            Held::Cached(pinned) => pinned.take().and_then(Pinned::unpin),
            Held::Own(node, _) => {
                self.volume.close_node(*node);
                None
            }
            Held::Loose(fd) => fd.take(),
        };
        if let Some(fd) = left {
            self.volume.dispose(fd);
        }
    }
}

/// Tell whether a call may wait for a disk or a server: in a worker it may, on a core it may not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// It may.
    May,
    /// It may not; what cannot be had at once is `None`.
    Never,
}

impl LocalVolume {
    fn hold(&'static self, held: Held) -> NodeFd {
        NodeFd { volume: self, held }
    }

    /// Give a node's descriptor if it is open.
    #[inline]
    pub(super) fn open_node(&'static self, node: NodeId) -> Option<NodeFd> {
        if node == NodeId::ROOT {
            return Some(self.hold(Held::Root));
        }
        if let Some(pinned) = self.fds.get(node.0) {
            return Some(self.hold(Held::Cached(Some(pinned))));
        }
        if self.held.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let own = |value: &Value| value.fd.as_ref().map(Fd::raw);
        self.nodes.update(node.0, |_, value| own(value))??;
        if !self.nodes.open(node.0) {
            return None;
        }
        // The node cannot go any more, so its descriptor stays open.
        match self.nodes.update(node.0, |_, value| own(value)).flatten() {
            Some(raw) => Some(self.hold(Held::Own(node, raw))),
            None => {
                self.close_node(node);
                None
            }
        }
    }

    /// Give a node's descriptor; opens the file by its handle when there is none. Not for a core.
    ///
    /// # Errors
    /// `ESTALE` for a node that the host does not hold or whose file is gone; `ENFILE` without descriptors.
    pub(super) fn reach(&'static self, node: NodeId) -> Result<NodeFd> {
        if let Some(open) = self.open_node(node) {
            return Ok(open);
        }
        let key = self
            .nodes
            .update(node.0, |key, _| *key)
            .ok_or(Errno::ESTALE)?;
        let (handle, mount) = key.handle().ok_or(Errno::ESTALE)?;
        let mount = self.mounts.get(mount).and_then(|mount| mount.fd.as_ref());
        let mount = mount.ok_or(Errno::ESTALE)?.raw();
        let fd = self.with_descriptors(|| {
            file::open_by_handle(mount, &handle, libc::O_PATH | libc::O_NOFOLLOW)
        })?;
        self.remember(node, fd);
        match self.fds.get(node.0) {
            Some(pinned) => Ok(self.hold(Held::Cached(Some(pinned)))),
            // Evicted already by others, or forgotten.
            None => self
                .with_descriptors(|| {
                    file::open_by_handle(mount, &handle, libc::O_PATH | libc::O_NOFOLLOW)
                })
                .map(|fd| self.hold(Held::Loose(Some(fd)))),
        }
    }

    /// Call what opens a descriptor; when the process has none left, close some of the cache and call it again.
    ///
    /// # Errors
    /// As `open`, with `ENFILE` for `EMFILE`: the limit is this process's, not the host's.
    pub(super) fn with_descriptors<T>(&self, open: impl Fn() -> Result<T>) -> Result<T> {
        match open() {
            Err(Errno::EMFILE | Errno::ENFILE) => {}
            other => return other,
        }
        self.fds.shrink(64, &mut |fd| self.dispose(fd));
        self.graveyard.close_all();
        open().map_err(|error| match error {
            Errno::EMFILE => Errno::ENFILE,
            error => error,
        })
    }

    /// Put a node's descriptor into the cache.
    fn remember(&self, node: NodeId, fd: Fd) {
        self.fds.put(node.0, fd, &mut |fd| self.dispose(fd));
        // A FORGET on another core may have come before: it has nothing to remove after this.
        if self.nodes.update(node.0, |_, _| ()).is_none() {
            self.fds.remove(node.0, &mut |fd| self.dispose(fd));
        }
    }

    /// Count a lookup of the file of an `O_PATH` descriptor, and keep the descriptor as the node's.
    ///
    /// `None` when that cannot be done without waiting.
    ///
    /// # Errors
    /// `ENOMEM` when the node table is full, `ENFILE` when the file needs a descriptor of its own and there are too
    /// many, `EIO` when the session ended meanwhile, and as statx(2).
    pub(super) fn enter(&self, fd: Fd, epoch: u32, wait: Wait) -> Option<Result<Entry>> {
        let stat = match stat::statx(fd.raw(), attrs::BASIC, 0) {
            Ok(stat) => stat,
            Err(error) => return Some(Err(error)),
        };
        if attrs::device(&stat) != self.root_device {
            self.foreign.store(true, Ordering::Relaxed);
        }
        let key = if self.handles {
            match file::name_to_handle(fd.raw()) {
                Ok((handle, kernel_id)) => {
                    let mount = self.mount_of(kernel_id, fd.raw(), wait == Wait::May);
                    if mount.is_none() && wait == Wait::Never {
                        return None;
                    }
                    mount
                        .filter(|&id| self.mounts.get(id).is_some_and(|mount| mount.fd.is_some()))
                        .and_then(|id| Key::of_handle(&handle, id))
                }
                Err(Errno::EOPNOTSUPP | Errno::EOVERFLOW) => None,
                Err(error) => return Some(Err(error)),
            }
        } else {
            None
        };
        let node = match key {
            Some(key) => self.enter_handle(key, fd, &stat, epoch),
            None => self.enter_inode(fd, &stat, epoch),
        };
        Some(node.map(|node| self.entry(node, &stat)))
    }

    fn enter_handle(&self, key: Key, fd: Fd, stat: &Statx, epoch: u32) -> Result<NodeId> {
        let value = || Value::new(None, stat);
        let node = self.nodes.look_up(key, value, epoch).map_err(refused)?;
        if node == NodeId::ROOT.0 {
            self.dispose(fd);
        } else {
            self.remember(NodeId(node), fd);
        }
        Ok(NodeId(node))
    }

    fn enter_inode(&self, fd: Fd, stat: &Statx, epoch: u32) -> Result<NodeId> {
        let key = Key::of_inode(attrs::device(stat), stat.stx_ino);
        let mut fd = Some(fd);
        // Counted first, so that the limit holds whatever others do; given back when it was not needed.
        let held = self.held.fetch_add(1, Ordering::Relaxed);
        let value = || Value::new(fd.take(), stat);
        let node = self.nodes.look_up(key, value, epoch).map_err(refused);
        if let Some(fd) = fd {
            self.held.fetch_sub(1, Ordering::Relaxed);
            self.dispose(fd);
        } else if held >= self.hold_limit {
            // A node that existed needed nothing; this is a new one.
            if let Some(value) = node.ok().and_then(|node| self.nodes.forget(node, 1)) {
                self.dispose_value(value);
            }
            return Err(Errno::ENFILE);
        }
        node.map(NodeId)
    }

    /// Describe a node to the host.
    pub(super) fn entry(&self, node: NodeId, stat: &Statx) -> Entry {
        Entry {
            node,
            generation: 0,
            attr: attrs::attr(stat, self.root_device),
            entry_ttl: self.ttl.entry,
            attr_ttl: self.ttl.attr,
        }
    }

    /// Tell the type of a node's file.
    ///
    /// # Errors
    /// `ESTALE` for a node that the host does not hold.
    pub(super) fn kind(&self, node: NodeId) -> Result<u32> {
        let kind = self.nodes.update(node.0, |_, value| value.kind);
        kind.map(|kind| u32::from(kind) << 12).ok_or(Errno::ESTALE)
    }

    /// Open a regular file a second time, to read and write it; a descriptor of anything else is never opened, as that
    /// could be a device of this machine.
    ///
    /// # Errors
    /// As open(2).
    pub(super) fn reopen_file(&self, fd: i32, flags: i32) -> Result<Fd> {
        let kind = u32::from(stat::statx(fd, libc::STATX_TYPE, libc::AT_STATX_DONT_SYNC)?.stx_mode);
        match kind & S_IFMT {
            S_IFREG => {}
            S_IFDIR => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        let flags = flags | libc::O_NOCTTY;
        let name = file::FdName::new(fd);
        self.with_descriptors(|| file::openat(self.links.raw(), name.as_c_str(), flags))
    }
}

fn refused(refused: Refused) -> Errno {
    match refused {
        Refused::Full => Errno::ENOMEM,
        Refused::StaleEpoch => Errno::EIO,
    }
}
