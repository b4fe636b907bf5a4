//! A file system without content, for measuring the path to and from a backend.
//!
//! Every operation succeeds at once and nothing is stored: any name exists, and is a file of the configured size, or a
//! directory when it begins with "dir" or was made by MKDIR. Node numbers are derived from names, so there is no node
//! table either. Directories list as empty. A write is accepted and forgotten; a read gives zeros, or, for measuring
//! alone, whatever the host's pages held before.

use core::time::Duration;

use crate::fuse::{
    Attributes, Copied, Created, Creation, Data, DirEntries, DirEntriesPlus, Entry, Fh, FileSystem,
    Lock, LockKind, LockRequest, Name, NodeId, Opened, Reply, Request, SetAttr, Statfs, Target,
    Volume, Wishes, Written, XattrValue, number::Position,
};
use crate::wire::errno::Errno;
use crate::wire::fuse::{Attr, FopenFlags, InitFlags, Kstatfs, ReleaseFlags, WriteFlags};
use crate::wire::open_flags::OpenFlags;

/// Set what the files look like.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Size of every file in bytes.
    pub file_size: u64,
    /// Fill reads with zeros. Without it the host's pages stay as they were, which no file system may do to a user.
    pub zero: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file_size: 1 << 30,
            zero: true,
        }
    }
}

/// Serve nothing, at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Null {
    config: Config,
}

/// Names and attributes never change.
const TTL: Duration = Duration::from_secs(86_400);
const DIRECTORY: u64 = 1 << 62;
const BLOCK: u32 = 4096;
const DT_DIR: u8 = 4;
const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

impl Null {
    /// Make one; it has no state, so each core may have its own.
    pub const fn new(config: Config) -> Self {
        Self { config }
    }

    /// Derive the node of a name (FNV-1a), apart from the root and from directories.
    fn node(name: &[u8]) -> NodeId {
        let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let kind = if name.starts_with(b"dir") {
            DIRECTORY
        } else {
            0
        };
        NodeId((hash >> 3) | 2 | kind)
    }

    fn attr(&self, node: NodeId) -> Attr {
        let directory = node == NodeId::ROOT || node.0 & DIRECTORY != 0;
        let size = if directory { 0 } else { self.config.file_size };
        Attr {
            ino: node.0,
            size,
            blocks: size.div_ceil(512),
            mode: if directory {
                S_IFDIR | 0o777
            } else {
                S_IFREG | 0o666
            },
            nlink: if directory { 2 } else { 1 },
            blksize: BLOCK,
            ..Attr::default()
        }
    }

    fn entry(&self, node: NodeId) -> Entry {
        Entry {
            node,
            generation: 0,
            attr: self.attr(node),
            entry_ttl: TTL,
            attr_ttl: TTL,
        }
    }

    fn make(&self, name: Name<'_>, mode: u32) -> Entry {
        let mut node = Self::node(name.bytes());
        if mode & S_IFMT == S_IFDIR {
            node.0 |= DIRECTORY;
        }
        let mut entry = self.entry(node);
        if mode & S_IFMT == S_IFLNK {
            entry.attr.mode = mode;
        }
        entry
    }
}

impl Volume for Null {
    fn reset(&self, _epoch: u32) {}
}

const OPENED: Opened = Opened {
    fh: Fh(1),
    flags: FopenFlags::empty(),
};

impl FileSystem for Null {
    fn wishes(&self, _offered: InitFlags) -> Wishes {
        Wishes {
            flags: InitFlags::ATOMIC_O_TRUNC
                | InitFlags::HANDLE_KILLPRIV_V2
                | InitFlags::POSIX_LOCKS
                | InitFlags::FLOCK_LOCKS
                | InitFlags::DO_READDIRPLUS
                | InitFlags::READDIRPLUS_AUTO,
            ..Wishes::default()
        }
    }

    fn lookup(&mut self, _: &Request, _: NodeId, name: Name<'_>, reply: Reply<Entry>) {
        reply.ok(self.entry(Self::node(name.bytes())));
    }

    fn getattr(&mut self, _: &Request, node: NodeId, _: Option<Fh>, reply: Reply<Attributes>) {
        reply.ok(Attributes {
            attr: self.attr(node),
            ttl: TTL,
        });
    }

    fn setattr(&mut self, _: &Request, node: NodeId, _: &SetAttr, reply: Reply<Attributes>) {
        reply.ok(Attributes {
            attr: self.attr(node),
            ttl: TTL,
        });
    }

    fn readlink(&mut self, _: &Request, _: NodeId, reply: Reply<Target>) {
        reply.ok(b"null");
    }

    fn symlink(
        &mut self,
        _: &Request,
        _: NodeId,
        name: Name<'_>,
        _: &core::ffi::CStr,
        how: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        reply.ok(self.make(name, how.mode));
    }

    fn mknod(
        &mut self,
        _: &Request,
        _: NodeId,
        name: Name<'_>,
        _: u32,
        how: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        reply.ok(self.make(name, how.mode));
    }

    fn mkdir(
        &mut self,
        _: &Request,
        _: NodeId,
        name: Name<'_>,
        _: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        reply.ok(self.make(name, S_IFDIR));
    }

    fn unlink(&mut self, _: &Request, _: NodeId, _: Name<'_>, reply: Reply<()>) {
        reply.ok(());
    }

    fn rmdir(&mut self, _: &Request, _: NodeId, _: Name<'_>, reply: Reply<()>) {
        reply.ok(());
    }

    fn rename(
        &mut self,
        _: &Request,
        _: NodeId,
        _: Name<'_>,
        _: NodeId,
        _: Name<'_>,
        _: u32,
        reply: Reply<()>,
    ) {
        reply.ok(());
    }

    fn link(&mut self, _: &Request, node: NodeId, _: NodeId, _: Name<'_>, reply: Reply<Entry>) {
        reply.ok(self.entry(node));
    }

    fn open(&mut self, _: &Request, _: NodeId, _: OpenFlags, _: bool, reply: Reply<Opened>) {
        reply.ok(OPENED);
    }

    fn create(
        &mut self,
        _: &Request,
        _: NodeId,
        name: Name<'_>,
        _: OpenFlags,
        _: bool,
        how: &Creation<'_>,
        reply: Reply<Created>,
    ) {
        reply.ok(Created {
            entry: self.make(name, how.mode),
            opened: OPENED,
        });
    }

    #[inline]
    fn read(
        &mut self,
        _: &Request,
        _: NodeId,
        _: Fh,
        offset: u64,
        _: OpenFlags,
        reply: Reply<Data>,
    ) {
        let left = self.config.file_size.saturating_sub(offset);
        let len = (reply.wanted() as u64).min(left) as usize;
        if self.config.zero {
            reply.zero(0, len);
        }
        reply.filled(len);
    }

    #[inline]
    fn write(
        &mut self,
        _: &Request,
        _: NodeId,
        _: Fh,
        _: u64,
        _: WriteFlags,
        _: OpenFlags,
        reply: Reply<Written>,
    ) {
        let len = reply.wanted() as u32;
        reply.ok(Written(len));
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

    fn fsync(&mut self, _: &Request, _: NodeId, _: Fh, _: bool, reply: Reply<()>) {
        reply.ok(());
    }

    fn opendir(&mut self, _: &Request, _: NodeId, _: OpenFlags, reply: Reply<Opened>) {
        reply.ok(OPENED);
    }

    fn readdir(
        &mut self,
        _: &Request,
        node: NodeId,
        _: Fh,
        position: u64,
        reply: Reply<DirEntries>,
    ) {
        let mut at = 0;
        for (next, name) in [(1, &b"."[..]), (2, b"..")] {
            if position < next {
                at = reply.push(at, node.0, next, DT_DIR, name).unwrap_or(at);
            }
        }
        reply.ok(at);
    }

    fn readdirplus(
        &mut self,
        _: &Request,
        node: NodeId,
        _: Fh,
        position: u64,
        reply: Reply<DirEntriesPlus>,
    ) {
        let mut at = 0;
        for (next, name) in [(1, &b"."[..]), (2, b"..")] {
            if position < next {
                at = reply
                    .push(at, None, node.0, next, DT_DIR, name)
                    .unwrap_or(at);
            }
        }
        reply.ok(at);
    }

    fn releasedir(&mut self, _: &Request, _: NodeId, _: Fh, reply: Reply<()>) {
        reply.ok(());
    }

    fn fsyncdir(&mut self, _: &Request, _: NodeId, _: Fh, _: bool, reply: Reply<()>) {
        reply.ok(());
    }

    fn statfs(&mut self, _: &Request, _: NodeId, reply: Reply<Statfs>) {
        let blocks = 1 << 40;
        reply.ok(Statfs(Kstatfs {
            blocks,
            bfree: blocks,
            bavail: blocks,
            files: u64::from(u32::MAX),
            ffree: u64::from(u32::MAX),
            bsize: BLOCK,
            namelen: Name::MAX as u32,
            frsize: BLOCK,
            ..Kstatfs::default()
        }));
    }

    fn setxattr(
        &mut self,
        _: &Request,
        _: NodeId,
        _: &core::ffi::CStr,
        _: &[u8],
        _: u32,
        _: bool,
        reply: Reply<()>,
    ) {
        reply.ok(());
    }

    /// A file without attributes: answering `ENODATA` is this operation's success.
    fn getxattr(&mut self, _: &Request, _: NodeId, _: &core::ffi::CStr, reply: Reply<XattrValue>) {
        reply.err(Errno::ENODATA);
    }

    fn listxattr(&mut self, _: &Request, _: NodeId, reply: Reply<XattrValue>) {
        reply.ok(b"");
    }

    fn removexattr(&mut self, _: &Request, _: NodeId, _: &core::ffi::CStr, reply: Reply<()>) {
        reply.ok(());
    }

    fn access(&mut self, _: &Request, _: NodeId, _: u32, reply: Reply<()>) {
        reply.ok(());
    }

    fn getlk(&mut self, _: &Request, _: NodeId, _: Fh, lock: &LockRequest, reply: Reply<Lock>) {
        reply.ok(Lock {
            kind: LockKind::Unlock,
            ..lock.lock
        });
    }

    fn setlk(&mut self, _: &Request, _: NodeId, _: Fh, _: &LockRequest, reply: Reply<()>) {
        reply.ok(());
    }

    fn fallocate(
        &mut self,
        _: &Request,
        _: NodeId,
        _: Fh,
        _: u64,
        _: u64,
        _: u32,
        reply: Reply<()>,
    ) {
        reply.ok(());
    }

    fn lseek(
        &mut self,
        _: &Request,
        _: NodeId,
        _: Fh,
        offset: u64,
        whence: u32,
        reply: Reply<Position>,
    ) {
        const SEEK_DATA: u32 = 3;
        const SEEK_HOLE: u32 = 4;
        match whence {
            _ if offset >= self.config.file_size => reply.err(Errno::ENXIO),
            SEEK_DATA => reply.ok(Position(offset)),
            SEEK_HOLE => reply.ok(Position(self.config.file_size)),
            _ => reply.err(Errno::EINVAL),
        }
    }

    fn copy_file_range(
        &mut self,
        _: &Request,
        _: (NodeId, Fh, u64),
        _: (NodeId, Fh, u64),
        length: u64,
        reply: Reply<Copied>,
    ) {
        reply.ok(length);
    }

    fn syncfs(&mut self, _: &Request, _: NodeId, reply: Reply<()>) {
        reply.ok(());
    }
}
