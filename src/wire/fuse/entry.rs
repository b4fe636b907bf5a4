//! What replies are made of: attributes, entries, directory records, statistics.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Attributes of a node (`struct fuse_attr`).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Attr {
    /// Inode number shown to users.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Space used, in units of 512 bytes.
    pub blocks: u64,
    /// Seconds of the last access.
    pub atime: i64,
    /// Seconds of the last change of content.
    pub mtime: i64,
    /// Seconds of the last change of attributes.
    pub ctime: i64,
    /// Nanoseconds of `atime`.
    pub atimensec: u32,
    /// Nanoseconds of `mtime`.
    pub mtimensec: u32,
    /// Nanoseconds of `ctime`.
    pub ctimensec: u32,
    /// File type and permissions.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a special file, in the kernel's 32-bit encoding ([`encode_dev`]).
    pub rdev: u32,
    /// Preferred size of I/O in bytes.
    pub blksize: u32,
    /// `FUSE_ATTR_*`.
    pub flags: u32,
}

/// Encode a device number as FUSE carries it (`new_encode_dev` of Linux).
pub const fn encode_dev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Split a device number into major and minor (`new_decode_dev` of Linux).
pub const fn decode_dev(dev: u32) -> (u32, u32) {
    ((dev & 0xfff00) >> 8, (dev & 0xff) | ((dev >> 12) & 0xfff00))
}

/// Reply with a node (`struct fuse_entry_out`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EntryOut {
    /// Node, or zero for a cacheable "no such name".
    pub nodeid: u64,
    /// Generation of the node.
    pub generation: u64,
    /// Seconds that the name may be cached.
    pub entry_valid: u64,
    /// Seconds that the attributes may be cached.
    pub attr_valid: u64,
    /// Nanoseconds of `entry_valid`.
    pub entry_valid_nsec: u32,
    /// Nanoseconds of `attr_valid`.
    pub attr_valid_nsec: u32,
    /// Attributes.
    pub attr: Attr,
}

/// Reply with attributes (`struct fuse_attr_out`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AttrOut {
    /// Seconds that the attributes may be cached.
    pub attr_valid: u64,
    /// Nanoseconds of `attr_valid`.
    pub attr_valid_nsec: u32,
    /// Unused.
    pub dummy: u32,
    /// Attributes.
    pub attr: Attr,
}

/// Begin a directory record; the name follows, padded to 8 bytes (`struct fuse_dirent`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Dirent {
    /// Inode number.
    pub ino: u64,
    /// Offset at which the next record begins.
    pub off: u64,
    /// Length of the name in bytes.
    pub namelen: u32,
    /// File type, `DT_*`.
    pub kind: u32,
}

/// Statistics of a file system (`struct fuse_kstatfs`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Kstatfs {
    /// Size in units of `frsize`.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Free blocks for users.
    pub bavail: u64,
    /// Nodes.
    pub files: u64,
    /// Free nodes.
    pub ffree: u64,
    /// Preferred size of I/O in bytes.
    pub bsize: u32,
    /// Longest name in bytes.
    pub namelen: u32,
    /// Block size in bytes.
    pub frsize: u32,
    /// Unused.
    pub padding: u32,
    /// Unused.
    pub spare: [u32; 6],
}

/// A time stamp of STATX (`struct fuse_sx_time`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SxTime {
    /// Seconds.
    pub tv_sec: i64,
    /// Nanoseconds.
    pub tv_nsec: u32,
    /// Unused.
    pub reserved: i32,
}

/// Attributes as STATX reports them (`struct fuse_statx`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Statx {
    /// `STATX_*`: which fields are valid.
    pub mask: u32,
    /// Preferred size of I/O in bytes.
    pub blksize: u32,
    /// `STATX_ATTR_*`.
    pub attributes: u64,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// File type and permissions.
    pub mode: u16,
    /// Unused.
    pub spare0: u16,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Space used, in units of 512 bytes.
    pub blocks: u64,
    /// `STATX_ATTR_*` that the file system knows.
    pub attributes_mask: u64,
    /// Last access.
    pub atime: SxTime,
    /// Creation.
    pub btime: SxTime,
    /// Last change of attributes.
    pub ctime: SxTime,
    /// Last change of content.
    pub mtime: SxTime,
    /// Major number of a special file.
    pub rdev_major: u32,
    /// Minor number of a special file.
    pub rdev_minor: u32,
    /// Major number of the file system's device.
    pub dev_major: u32,
    /// Minor number of the file system's device.
    pub dev_minor: u32,
    /// Unused.
    pub spare2: [u64; 14],
}

/// Reply to STATX (`struct fuse_statx_out`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct StatxOut {
    /// Seconds that the attributes may be cached.
    pub attr_valid: u64,
    /// Nanoseconds of `attr_valid`.
    pub attr_valid_nsec: u32,
    /// Unused.
    pub flags: u32,
    /// Unused.
    pub spare: [u64; 2],
    /// Attributes.
    pub stat: Statx,
}

const _: () = assert!(size_of::<Attr>() == 88);
const _: () = assert!(size_of::<EntryOut>() == 128);
const _: () = assert!(size_of::<AttrOut>() == 104);
const _: () = assert!(size_of::<Dirent>() == 24);
const _: () = assert!(size_of::<Kstatfs>() == 80);
const _: () = assert!(size_of::<Statx>() == 256);
const _: () = assert!(size_of::<StatxOut>() == 288);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_round_trip() {
        for (major, minor) in [(0, 0), (8, 1), (259, 0xfffff), (0xfff, 0x12345)] {
            assert_eq!(decode_dev(encode_dev(major, minor)), (major, minor));
        }
        assert_eq!(encode_dev(8, 1), 0x801);
    }
}
