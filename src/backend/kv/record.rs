//! What the tree keeps in the engine's records.
//!
//! | record | value |
//! |---|---|
//! | [`Key::Volume`](super::engine::Key::Volume) | [`MAGIC`] |
//! | [`Key::Inode`](super::engine::Key::Inode) | [`Inode`], 120 bytes |
//! | [`Key::Name`](super::engine::Key::Name) | [`Dentry`], 24 bytes |
//! | [`Key::Position`](super::engine::Key::Position) | [`Dentry`], then the name |
//! | [`Key::Xattr`](super::engine::Key::Xattr), [`Key::Target`](super::engine::Key::Target) | the bytes themselves |
//! | [`Key::Orphan`](super::engine::Key::Orphan) | nothing |

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::engine::Patch;
use crate::wire::fuse::{Attr, Statx, SxTime, decode_dev};

/// Value of the volume's record: which format this is.
pub const MAGIC: &[u8; 16] = b"dpfs-kv-tree-1\0\0";
/// Inode number of the root.
pub const ROOT: u64 = 1;

/// File type bits of a mode, and what may stand there.
#[expect(missing_docs, reason = "named as in POSIX")]
pub mod mode {
    pub const S_IFMT: u32 = 0o170_000;
    pub const S_IFSOCK: u32 = 0o140_000;
    pub const S_IFLNK: u32 = 0o120_000;
    pub const S_IFREG: u32 = 0o100_000;
    pub const S_IFBLK: u32 = 0o060_000;
    pub const S_IFDIR: u32 = 0o040_000;
    pub const S_IFCHR: u32 = 0o020_000;
    pub const S_IFIFO: u32 = 0o010_000;
    pub const S_ISUID: u32 = 0o4000;
    pub const S_ISGID: u32 = 0o2000;
    pub const S_IXGRP: u32 = 0o0010;
}

/// State bits of an inode, beside its mode.
pub mod state {
    /// Content behind the size, up to `trim`, may be old, and is to be cleared before the size grows.
    pub const TRIM: u32 = 1 << 31;
    /// A directory that was removed: nothing may be made in it.
    pub const DEAD: u32 = 1 << 30;
    /// Has no name and may get one (O_TMPFILE).
    pub const NAMELESS: u32 = 1 << 29;
    /// Has file capabilities, which end with the next write.
    pub const CAPS: u32 = 1 << 28;
    /// All of them.
    pub const ALL: u32 = 0xffff_0000;
}

/// A point in time.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds.
    pub nanoseconds: u32,
    /// Zero.
    pub unused: u32,
}

impl Time {
    /// Give the present time.
    pub fn now() -> Self {
        let (seconds, nanoseconds) = crate::sys::time::wall();
        Self::at(seconds, nanoseconds)
    }

    /// Make one.
    pub const fn at(seconds: i64, nanoseconds: u32) -> Self {
        Self {
            seconds,
            nanoseconds,
            unused: 0,
        }
    }

    fn wire(self) -> SxTime {
        SxTime {
            tv_sec: self.seconds,
            tv_nsec: self.nanoseconds,
            reserved: 0,
        }
    }
}

/// An inode.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Inode {
    /// Number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Of a directory: the inode that it is in.
    pub parent: u64,
    /// File type, permissions, and [`state`] bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names; of a directory, 2 and one for each directory in it.
    pub nlink: u32,
    /// Device number of a special file.
    pub rdev: u32,
    /// Of a directory: number of entries.
    pub entries: u32,
    /// With [`state::TRIM`]: no content lies behind this byte.
    pub trim: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of attributes.
    pub ctime: Time,
    /// Birth.
    pub btime: Time,
}

const _: () = assert!(size_of::<Inode>() == 120);

/// Where fields of an inode are, for patches and checks.
#[expect(missing_docs, reason = "named as the fields are")]
pub mod field {
    use super::{Inode, offset_of};
    pub const SIZE: u16 = offset_of!(Inode, size) as u16;
    pub const PARENT: u16 = offset_of!(Inode, parent) as u16;
    pub const MODE: u16 = offset_of!(Inode, mode) as u16;
    pub const NLINK: u16 = offset_of!(Inode, nlink) as u16;
    pub const ENTRIES: u16 = offset_of!(Inode, entries) as u16;
    pub const MTIME: u16 = offset_of!(Inode, mtime) as u16;
    pub const CTIME: u16 = offset_of!(Inode, ctime) as u16;
}

impl Inode {
    /// Read a record.
    pub fn parse(value: &[u8]) -> Option<Self> {
        Self::read_from_bytes(value).ok()
    }

    /// Give type and permissions alone.
    pub const fn permissions(&self) -> u32 {
        self.mode & !state::ALL
    }

    /// Give the type.
    pub const fn kind(&self) -> u32 {
        self.mode & mode::S_IFMT
    }

    /// Tell whether it is a directory.
    pub const fn is_dir(&self) -> bool {
        self.kind() == mode::S_IFDIR
    }

    /// Clear the bits that a change of content by an unprivileged user ends.
    pub const fn kill_suidgid(&mut self) {
        self.mode &= !mode::S_ISUID;
        if self.mode & mode::S_IXGRP != 0 {
            self.mode &= !mode::S_ISGID;
        }
    }

    /// Lay out for GETATTR and entries.
    pub fn attr(&self, blksize: u32) -> Attr {
        Attr {
            ino: self.ino,
            size: self.size,
            blocks: self.size.div_ceil(512),
            atime: self.atime.seconds,
            mtime: self.mtime.seconds,
            ctime: self.ctime.seconds,
            atimensec: self.atime.nanoseconds,
            mtimensec: self.mtime.nanoseconds,
            ctimensec: self.ctime.nanoseconds,
            mode: self.permissions(),
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            blksize,
            flags: 0,
        }
    }

    /// Lay out for STATX.
    pub fn statx(&self, blksize: u32) -> Statx {
        const BASIC_AND_BTIME: u32 = 0xfff;
        let (rdev_major, rdev_minor) = decode_dev(self.rdev);
        Statx {
            mask: BASIC_AND_BTIME,
            blksize,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            mode: self.permissions() as u16,
            ino: self.ino,
            size: self.size,
            blocks: self.size.div_ceil(512),
            atime: self.atime.wire(),
            btime: self.btime.wire(),
            ctime: self.ctime.wire(),
            mtime: self.mtime.wire(),
            rdev_major,
            rdev_minor,
            ..Statx::default()
        }
    }
}

/// An entry of a directory.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Dentry {
    /// Inode; first, for engines that follow it.
    pub ino: u64,
    /// Position in the directory's list.
    pub position: u64,
    /// Type, as in a mode.
    pub kind: u32,
    /// Zero.
    pub unused: u32,
}

impl Dentry {
    /// Bytes of one.
    pub const LEN: usize = size_of::<Self>();

    /// Read a record; gives the name that follows it in a list.
    pub fn parse(value: &[u8]) -> Option<(Self, &[u8])> {
        Self::read_from_prefix(value).ok()
    }

    /// Give the type as READDIR does (`DT_*`).
    pub const fn dt(&self) -> u8 {
        (self.kind >> 12) as u8
    }
}

/// Hold the value of a position: an entry and its name.
pub struct Placed {
    bytes: [u8; Dentry::LEN + super::engine::NAME_MAX],
    len: usize,
}

impl Placed {
    /// Make one; a name has at most 255 bytes.
    pub fn new(entry: &Dentry, name: &[u8]) -> Self {
        let mut bytes = [0; Dentry::LEN + super::engine::NAME_MAX];
        let len = name.len().min(super::engine::NAME_MAX);
        bytes[..Dentry::LEN].copy_from_slice(entry.as_bytes());
        bytes[Dentry::LEN..Dentry::LEN + len].copy_from_slice(&name[..len]);
        Self {
            bytes,
            len: Dentry::LEN + len,
        }
    }

    /// Give the value.
    pub fn value(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Patch a directory whose entries change: by how many entries, and by how many directories among them.
pub fn dir_patches(now: &Time, entries: i32, dirs: i32) -> [Patch<'_>; 4] {
    [
        Patch::Set {
            at: field::MTIME,
            bytes: now.as_bytes(),
        },
        Patch::Set {
            at: field::CTIME,
            bytes: now.as_bytes(),
        },
        Patch::Add32 {
            at: field::ENTRIES,
            value: entries,
        },
        Patch::Add32 {
            at: field::NLINK,
            value: dirs,
        },
    ]
}
