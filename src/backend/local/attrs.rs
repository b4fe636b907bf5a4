//! Attributes: from this machine's statx to the host's, in both forms that FUSE has.

use core::time::Duration;

use crate::fuse::SetTime;
use crate::sys::stat::{Stamp, Statx};
use crate::wire::fuse::{Attr, Kstatfs, Statx as WireStatx, SxTime, encode_dev};

/// What every reply with attributes needs.
pub const BASIC: u32 = libc::STATX_BASIC_STATS;
/// What a STATX reply may have beyond.
pub const ALL: u32 = libc::STATX_BASIC_STATS | libc::STATX_BTIME;

/// File type bits of a mode.
pub const S_IFMT: u32 = 0o170_000;
/// Type of regular files.
pub const S_IFREG: u32 = 0o100_000;
/// Type of directories.
pub const S_IFDIR: u32 = 0o040_000;

/// Say how a policy of the host's caches shows in replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ttl {
    /// Names.
    pub entry: Duration,
    /// Attributes.
    pub attr: Duration,
    /// Names that do not exist; `None` when that is not to be remembered.
    pub negative: Option<Duration>,
}

/// Give the number of the device that a file is on.
pub fn device(stat: &Statx) -> u64 {
    u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor)
}

/// Give the inode number that the host sees: the file's own on the root's file system. On a mount below it, the
/// device's number is mixed into the high 16 bits, so that the files of up to 65,535 mounts stay distinct as long as
/// their own numbers leave those bits alone.
pub fn inode(root_device: u64, device: u64, ino: u64) -> u64 {
    if device == root_device {
        return ino;
    }
    let (major, minor) = (device >> 32, device & 0xffff_ffff);
    let tag = major.wrapping_mul(0x9e5) ^ minor;
    ino ^ (tag % 0xffff + 1) << 48
}

/// Lay attributes out for GETATTR and entries.
pub fn attr(stat: &Statx, root_device: u64) -> Attr {
    Attr {
        ino: inode(root_device, device(stat), stat.stx_ino),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: stat.stx_atime.tv_sec,
        mtime: stat.stx_mtime.tv_sec,
        ctime: stat.stx_ctime.tv_sec,
        atimensec: stat.stx_atime.tv_nsec,
        mtimensec: stat.stx_mtime.tv_nsec,
        ctimensec: stat.stx_ctime.tv_nsec,
        mode: u32::from(stat.stx_mode),
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: encode_dev(stat.stx_rdev_major, stat.stx_rdev_minor),
        blksize: stat.stx_blksize,
        flags: 0,
    }
}

/// Lay attributes out for STATX.
pub fn wire_statx(stat: &Statx, root_device: u64) -> WireStatx {
    let time = |time: libc::statx_timestamp| SxTime {
        tv_sec: time.tv_sec,
        tv_nsec: time.tv_nsec,
        reserved: 0,
    };
    WireStatx {
        mask: stat.stx_mask & ALL,
        blksize: stat.stx_blksize,
        attributes: stat.stx_attributes,
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mode: stat.stx_mode,
        ino: inode(root_device, device(stat), stat.stx_ino),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        attributes_mask: stat.stx_attributes_mask,
        atime: time(stat.stx_atime),
        btime: time(stat.stx_btime),
        ctime: time(stat.stx_ctime),
        mtime: time(stat.stx_mtime),
        rdev_major: stat.stx_rdev_major,
        rdev_minor: stat.stx_rdev_minor,
        dev_major: stat.stx_dev_major,
        dev_minor: stat.stx_dev_minor,
        ..WireStatx::default()
    }
}

/// Lay statistics out for STATFS.
pub fn statfs(stat: &libc::statfs) -> Kstatfs {
    Kstatfs {
        blocks: stat.f_blocks,
        bfree: stat.f_bfree,
        bavail: stat.f_bavail,
        files: stat.f_files,
        ffree: stat.f_ffree,
        bsize: stat.f_bsize as u32,
        namelen: stat.f_namelen as u32,
        frsize: stat.f_frsize as u32,
        ..Kstatfs::default()
    }
}

/// Tell what a time stamp becomes.
pub fn stamp(time: Option<SetTime>) -> Stamp {
    match time {
        None => Stamp::Omit,
        Some(SetTime::Now) => Stamp::Now,
        Some(SetTime::At(seconds, nanoseconds)) => Stamp::At(seconds, nanoseconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_other_mounts_are_distinct() {
        let root = 8 << 32 | 1;
        assert_eq!(inode(root, root, 42), 42);
        let mut seen = std::collections::HashSet::from([42]);
        for device in [1, 2, 3, 8 << 32 | 2, 8 << 32 | 3, 259 << 32, 0xfffff] {
            assert!(seen.insert(inode(root, device, 42)), "{device:x}");
        }
    }
}
