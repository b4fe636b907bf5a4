//! Flags of single operations.

use bitflags::bitflags;

bitflags! {
    /// Which attributes a SETATTR changes (`FATTR_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct SetattrValid: u32 {
        /// Permissions.
        const MODE = 1 << 0;
        /// Owner.
        const UID = 1 << 1;
        /// Group.
        const GID = 1 << 2;
        /// Size.
        const SIZE = 1 << 3;
        /// Last access.
        const ATIME = 1 << 4;
        /// Last change of content.
        const MTIME = 1 << 5;
        /// The file handle is valid.
        const FH = 1 << 6;
        /// Last access is now.
        const ATIME_NOW = 1 << 7;
        /// Last change is now.
        const MTIME_NOW = 1 << 8;
        /// The lock owner is valid.
        const LOCKOWNER = 1 << 9;
        /// Last change of attributes.
        const CTIME = 1 << 10;
        /// Clear set-user-ID and set-group-ID bits.
        const KILL_SUIDGID = 1 << 11;
    }
}

bitflags! {
    /// What an OPEN reply asks of the kernel (`FOPEN_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct FopenFlags: u32 {
        /// Bypass the host's page cache.
        const DIRECT_IO = 1 << 0;
        /// Keep cached pages.
        const KEEP_CACHE = 1 << 1;
        /// No seeking.
        const NONSEEKABLE = 1 << 2;
        /// Cache this directory.
        const CACHE_DIR = 1 << 3;
        /// No file position at all.
        const STREAM = 1 << 4;
        /// No FLUSH on close.
        const NOFLUSH = 1 << 5;
        /// Direct writes to one file at a time.
        const PARALLEL_DIRECT_WRITES = 1 << 6;
        /// Passthrough to a backing file.
        const PASSTHROUGH = 1 << 7;
    }
}

bitflags! {
    /// How a WRITE came about (`FUSE_WRITE_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct WriteFlags: u32 {
        /// From the page cache; the file handle is a guess.
        const CACHE = 1 << 0;
        /// The lock owner is valid.
        const LOCKOWNER = 1 << 1;
        /// Clear set-user-ID and set-group-ID bits.
        const KILL_SUIDGID = 1 << 2;
    }
}

bitflags! {
    /// What a RELEASE still has to do (`FUSE_RELEASE_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct ReleaseFlags: u32 {
        /// Flush.
        const FLUSH = 1 << 0;
        /// Release the owner's BSD lock.
        const FLOCK_UNLOCK = 1 << 1;
    }
}

/// GETATTR, STATX: the file handle is valid.
pub const GETATTR_FH: u32 = 1 << 0;
/// OPEN, CREATE: clear set-user-ID and set-group-ID bits.
pub const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// FSYNC: content only.
pub const FSYNC_FDATASYNC: u32 = 1 << 0;
/// SETLK: a BSD lock.
pub const LK_FLOCK: u32 = 1 << 0;
/// SETXATTR: clear the set-group-ID bit when the access ACL is set.
pub const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
/// Attributes of a sub-mount's root.
pub const ATTR_SUBMOUNT: u32 = 1 << 0;
