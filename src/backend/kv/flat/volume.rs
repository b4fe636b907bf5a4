//! What the cores of a device share: the names of its nodes, its directories that are being read, and how files look.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use super::super::objects::Found;
use super::listing::Listings;
use super::names::Names;
use crate::fuse::{Entry, NodeId, Volume};
use crate::mem::{Arena, OutOfMemory};
use crate::sys::time;
use crate::wire::errno::Errno;
use crate::wire::fuse::Attr;

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
/// Bytes that the host is told to read and write at a time.
pub const BLOCK: u32 = 4096;

/// Say how all files look, and how they are served.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions of files. The directory may be searched by who may read, as well.
    pub mode: u32,
    /// How long the host may remember names and attributes.
    pub ttl: Duration,
    /// The host may keep content over an OPEN: nobody else changes objects. Not all engines tell of a change that leaves
    /// the size as it was.
    pub keep: bool,
    /// Refuse every change with `EROFS`.
    pub read_only: bool,
}

/// Share a volume between the cores of its device.
pub struct FlatVolume {
    pub(super) names: Names,
    pub(super) listings: Listings,
    pub(super) look: Look,
    /// Seconds of all times.
    started: i64,
    /// Counts open directories, and reads of them.
    count: AtomicU64,
}

impl FlatVolume {
    /// Make one for so many nodes, the root included. `seed` is to be random.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena has less than [`Self::footprint`].
    pub fn new(
        arena: &Arena,
        nodes: u32,
        seed: u64,
        look: Look,
    ) -> Result<&'static Self, OutOfMemory> {
        let volume = Self {
            names: Names::new(arena, nodes, seed)?,
            listings: Listings::new(arena)?,
            look,
            started: time::wall().0,
            count: AtomicU64::new(0),
        };
        Ok(arena.place(volume)?)
    }

    /// Give the bytes of arena that a volume needs.
    pub const fn footprint(nodes: u32) -> usize {
        Names::footprint(nodes) + Listings::footprint() + size_of::<Self>() + 128
    }

    /// Give the number of nodes that the host holds, the root included.
    pub fn nodes(&self) -> u32 {
        self.names.len()
    }

    /// Give a number that none before had.
    pub(super) fn number(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Lay out a node's attributes.
    pub(super) fn attr(&self, node: NodeId, found: Found) -> Attr {
        let Look { uid, gid, mode, .. } = self.look;
        let (mode, nlink) = match node == NodeId::ROOT {
            true => (S_IFDIR | mode | (mode & 0o444) >> 2, 2),
            false => (S_IFREG | mode, 1),
        };
        let fraction = (found.version % 1_000_000_000) as u32;
        Attr {
            ino: node.0,
            size: found.size,
            blocks: found.size.div_ceil(512),
            atime: self.started,
            mtime: self.started,
            ctime: self.started,
            atimensec: 0,
            mtimensec: fraction,
            ctimensec: fraction,
            mode,
            nlink,
            uid,
            gid,
            blksize: BLOCK,
            ..Attr::default()
        }
    }

    /// Hand a file to the host, counting one lookup.
    pub(super) fn entry(&self, name: &[u8], found: Found, epoch: u32) -> Result<Entry, Errno> {
        let node = self.names.look_up(name, epoch)?;
        Ok(Entry {
            node,
            generation: 0,
            attr: self.attr(node, found),
            entry_ttl: self.look.ttl,
            attr_ttl: self.look.ttl,
        })
    }
}

impl Volume for FlatVolume {
    fn reset(&self, epoch: u32) {
        self.names.reset(epoch);
    }
}
