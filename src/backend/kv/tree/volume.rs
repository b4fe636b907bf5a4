//! What the cores of a device share: which nodes the host holds, and which of them have no name any more.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;

use super::super::record::{Inode, ROOT};
use super::desk::Kind;
use crate::fuse::{Entry, NodeId, Volume};
use crate::mem::{Arena, NodeTable, OutOfMemory, Refused};
use crate::wire::errno::Errno;

/// A node of the host.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// Its inode.
    pub ino: u64,
    /// It has no name, and is to be removed when the host lets go of it.
    pub orphan: bool,
}

/// Share a volume between the cores of its device.
pub struct TreeVolume {
    nodes: &'static NodeTable<u64, Node>,
    ttl: Duration,
    pub(super) blksize: u32,
    pub(super) read_only: bool,
    epoch: AtomicU32,
    /// Orphans of an earlier session or run may be left.
    pub(super) sweep: AtomicBool,
    /// Sweeping is some core's work already.
    pub(super) sweeping: AtomicBool,
}

impl TreeVolume {
    /// Make one. `seed` is to be random; `ttl` says how long the host may remember names and attributes.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena has less than [`Self::footprint`].
    pub fn new(
        arena: &Arena,
        nodes: u32,
        seed: u64,
        ttl: Duration,
        blksize: u32,
        read_only: bool,
    ) -> Result<&'static Self, OutOfMemory> {
        let root = Node {
            ino: ROOT,
            orphan: false,
        };
        let volume = Self {
            nodes: NodeTable::new(arena, nodes, seed, ROOT, root)?,
            ttl,
            blksize,
            read_only,
            epoch: AtomicU32::new(0),
            sweep: AtomicBool::new(true),
            sweeping: AtomicBool::new(false),
        };
        Ok(arena.place(volume)?)
    }

    /// Give the bytes of arena that a volume needs.
    pub const fn footprint(nodes: u32) -> usize {
        NodeTable::<u64, Node>::footprint(nodes) + size_of::<Self>() + 64
    }

    /// Give the number of nodes that the host holds, the root included.
    pub fn nodes(&self) -> u32 {
        self.nodes.len()
    }

    /// Give how long the host may remember.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Find the inode of a node.
    ///
    /// # Errors
    /// `ESTALE` for a node that the host does not hold.
    pub fn ino(&self, node: NodeId) -> Result<u64, Errno> {
        let found = self.nodes.get(node.0).ok_or(Errno::ESTALE)?;
        Ok(found.1.ino)
    }

    /// Hand an inode to the host, counting one lookup.
    ///
    /// # Errors
    /// `ENOMEM` when the host holds too many; `EIO` when its session ended.
    pub fn entry(&self, inode: &Inode, epoch: u32) -> Result<Entry, Errno> {
        let make = || Node {
            ino: inode.ino,
            orphan: inode.nlink == 0,
        };
        let node = self
            .nodes
            .look_up(inode.ino, make, epoch)
            .map_err(|refused| match refused {
                Refused::Full => Errno::ENOMEM,
                Refused::StaleEpoch => Errno::EIO,
            })?;
        Ok(Entry {
            node: NodeId(node),
            generation: 0,
            attr: inode.attr(self.blksize),
            entry_ttl: self.ttl,
            attr_ttl: self.ttl,
        })
    }

    /// Drop lookups. Gives an inode that is to be removed.
    pub fn forget(&self, node: NodeId, count: u64) -> Option<u64> {
        let gone = self.nodes.forget(node.0, count)?;
        gone.orphan.then_some(gone.ino)
    }

    /// Say that an inode has no name any more, or has one again. Tells whether it is to be removed right away.
    pub fn set_orphan(&self, ino: u64, orphan: bool) -> bool {
        let epoch = self.epoch.load(Ordering::Acquire);
        let Ok(node) = self.nodes.look_up(ino, || Node { ino, orphan }, epoch) else {
            // No room, or another session: the next sweep finds it.
            self.sweep.store(orphan, Ordering::Release);
            return false;
        };
        self.nodes.update(node, |_, value| value.orphan = orphan);
        self.nodes.forget(node, 1).is_some_and(|node| node.orphan)
    }

    /// Note an orphan that a sweep found.
    pub(super) fn note_orphan(&self, sweep: &mut Kind, ino: u64) {
        if let Kind::Sweep { after } = sweep {
            *after = ino;
        }
    }
}

impl Volume for TreeVolume {
    fn reset(&self, epoch: u32) {
        self.epoch.store(epoch, Ordering::Release);
        let orphans = AtomicBool::new(false);
        self.nodes.reset(epoch, |node| {
            orphans.fetch_or(node.orphan, Ordering::Relaxed);
        });
        if orphans.into_inner() {
            self.sweep.store(true, Ordering::Release);
        }
    }
}
