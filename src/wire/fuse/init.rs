//! INIT: version and feature negotiation.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The kernel's offer. Kernels before 5.17 send the first 16 bytes only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct InitIn {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Read-ahead that the kernel would do, in bytes.
    pub max_readahead: u32,
    /// Low half of [`InitFlags`].
    pub flags: u32,
    /// High half of [`InitFlags`], valid with [`InitFlags::INIT_EXT`].
    pub flags2: u32,
    /// Unused.
    pub unused: [u32; 11],
}

/// Bytes of [`InitIn`] before ABI 7.36.
pub const COMPAT_INIT_IN_LEN: usize = 16;

/// Our answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct InitOut {
    /// Major version.
    pub major: u32,
    /// Minor version: the smaller of both sides'.
    pub minor: u32,
    /// Read-ahead in bytes.
    pub max_readahead: u32,
    /// Low half of [`InitFlags`]: offered and supported.
    pub flags: u32,
    /// Background requests that the kernel may have in flight.
    pub max_background: u16,
    /// Background requests at which the kernel calls the device congested.
    pub congestion_threshold: u16,
    /// Largest WRITE in bytes.
    pub max_write: u32,
    /// Granularity of time stamps in nanoseconds.
    pub time_gran: u32,
    /// Largest number of 4 KiB pages in a request.
    pub max_pages: u16,
    /// Alignment of DAX mappings, as a power of two.
    pub map_alignment: u16,
    /// High half of [`InitFlags`].
    pub flags2: u32,
    /// Passthrough stacking depth (7.40).
    pub max_stack_depth: u32,
    /// Request time-out in seconds (7.43).
    pub request_timeout: u16,
    /// Unused.
    pub unused: [u16; 11],
}

const _: () = assert!(size_of::<InitIn>() == 64);
const _: () = assert!(size_of::<InitOut>() == 64);

bitflags! {
    /// Features of the INIT exchange; the low half is `flags`, the high half `flags2`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct InitFlags: u64 {
        /// Several reads of one file at a time.
        const ASYNC_READ = 1 << 0;
        /// POSIX locks are the server's.
        const POSIX_LOCKS = 1 << 1;
        /// Unused by the kernel.
        const FILE_OPS = 1 << 2;
        /// `O_TRUNC` arrives with OPEN.
        const ATOMIC_O_TRUNC = 1 << 3;
        /// "." and ".." may be looked up.
        const EXPORT_SUPPORT = 1 << 4;
        /// Writes above 4 KiB.
        const BIG_WRITES = 1 << 5;
        /// The server applies the umask.
        const DONT_MASK = 1 << 6;
        /// Splice to the device.
        const SPLICE_WRITE = 1 << 7;
        /// Splice moves pages.
        const SPLICE_MOVE = 1 << 8;
        /// Splice from the device.
        const SPLICE_READ = 1 << 9;
        /// BSD locks are the server's.
        const FLOCK_LOCKS = 1 << 10;
        /// IOCTL on directories.
        const HAS_IOCTL_DIR = 1 << 11;
        /// Drop cached pages when size or mtime change.
        const AUTO_INVAL_DATA = 1 << 12;
        /// READDIRPLUS.
        const DO_READDIRPLUS = 1 << 13;
        /// READDIRPLUS where it pays.
        const READDIRPLUS_AUTO = 1 << 14;
        /// Several direct requests of one file at a time.
        const ASYNC_DIO = 1 << 15;
        /// The host caches writes.
        const WRITEBACK_CACHE = 1 << 16;
        /// OPEN may be answered with ENOSYS.
        const NO_OPEN_SUPPORT = 1 << 17;
        /// Lookups and READDIR of one directory at a time.
        const PARALLEL_DIROPS = 1 << 18;
        /// The server clears set-user-ID bits, first version.
        const HANDLE_KILLPRIV = 1 << 19;
        /// The host checks POSIX ACLs.
        const POSIX_ACL = 1 << 20;
        /// ECONNABORTED on a device that was aborted.
        const ABORT_ERROR = 1 << 21;
        /// `max_pages` is valid.
        const MAX_PAGES = 1 << 22;
        /// The host caches symbolic links.
        const CACHE_SYMLINKS = 1 << 23;
        /// OPENDIR may be answered with ENOSYS.
        const NO_OPENDIR_SUPPORT = 1 << 24;
        /// Pages are dropped only on request.
        const EXPLICIT_INVAL_DATA = 1 << 25;
        /// `map_alignment` is valid.
        const MAP_ALIGNMENT = 1 << 26;
        /// Automatic sub-mounts.
        const SUBMOUNTS = 1 << 27;
        /// The server clears set-user-ID bits, second version.
        const HANDLE_KILLPRIV_V2 = 1 << 28;
        /// Long form of SETXATTR.
        const SETXATTR_EXT = 1 << 29;
        /// `flags2` is valid.
        const INIT_EXT = 1 << 30;
        /// Security context with creates.
        const SECURITY_CTX = 1 << 32;
        /// DAX a file at a time.
        const HAS_INODE_DAX = 1 << 33;
        /// Supplementary group with creates.
        const CREATE_SUPP_GROUP = 1 << 34;
        /// Notifications that only expire.
        const HAS_EXPIRE_ONLY = 1 << 35;
        /// Shared mmap of direct files.
        const DIRECT_IO_ALLOW_MMAP = 1 << 36;
        /// Passthrough to a backing file.
        const PASSTHROUGH = 1 << 37;
        /// Node identities do not outlive FORGET.
        const NO_EXPORT_SUPPORT = 1 << 38;
        /// The kernel can send requests again.
        const HAS_RESEND = 1 << 39;
        /// Idmapped mounts.
        const ALLOW_IDMAP = 1 << 40;
        /// FUSE over io_uring.
        const OVER_IO_URING = 1 << 41;
        /// `request_timeout` is valid.
        const REQUEST_TIMEOUT = 1 << 42;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_keeps_the_kernel_offsets() {
        assert_eq!(core::mem::offset_of!(InitOut, max_pages), 28);
        assert_eq!(core::mem::offset_of!(InitOut, flags2), 32);
        assert_eq!(core::mem::offset_of!(InitOut, request_timeout), 40);
    }
}
