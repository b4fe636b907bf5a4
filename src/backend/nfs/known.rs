//! What is known of a server: by a mount at the start, or, of one that is met later, by the first session with it.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::recovery::Mounted;

/// Largest READ and WRITE that the host sends, in bytes.
const LARGEST: u32 = 1 << 20;
/// Least that any server takes.
const LEAST: u64 = 4096;
/// Nanoseconds of a lease, as long as the server has not told it.
const LEASE: u64 = 30_000_000_000;
/// Newest and oldest minor version of NFSv4 that is spoken.
const NEWEST: u32 = 2;
const OLDEST: u32 = 1;

/// Hold what the cores of a device know of a server.
pub struct Known {
    minor: AtomicU32,
    max_read: AtomicU32,
    max_write: AtomicU32,
    lease: AtomicU64,
    xattr: AtomicBool,
}

impl Known {
    /// Know nothing but the minor version, when that is given.
    pub fn new(minor: Option<u32>) -> Self {
        Self {
            minor: AtomicU32::new(minor.unwrap_or(NEWEST)),
            max_read: AtomicU32::new(LARGEST),
            max_write: AtomicU32::new(LARGEST),
            lease: AtomicU64::new(LEASE),
            xattr: AtomicBool::new(false),
        }
    }

    /// Learn what a mount found.
    pub fn learn(&self, mounted: &Mounted) {
        let size = |size: u64| size.clamp(LEAST, LARGEST.into()) as u32;
        let lease = u64::from(mounted.lease.clamp(1, 3600)) * 1_000_000_000;
        self.max_read
            .store(size(mounted.sizes.0), Ordering::Relaxed);
        self.max_write
            .store(size(mounted.sizes.1), Ordering::Relaxed);
        self.lease.store(lease, Ordering::Relaxed);
        self.xattr.store(mounted.xattr, Ordering::Relaxed);
    }

    /// The server does not speak the newest minor version: speak the oldest.
    pub fn speak_older(&self) {
        self.minor.store(OLDEST, Ordering::Relaxed);
    }

    /// Give the minor version of NFSv4: 1 or 2.
    #[inline]
    pub fn minor(&self) -> u32 {
        self.minor.load(Ordering::Relaxed)
    }

    /// Give the largest READ in bytes.
    #[inline]
    pub fn max_read(&self) -> u32 {
        self.max_read.load(Ordering::Relaxed)
    }

    /// Give the largest WRITE in bytes.
    #[inline]
    pub fn max_write(&self) -> u32 {
        self.max_write.load(Ordering::Relaxed)
    }

    /// Give the nanoseconds that the server keeps state which is not renewed.
    #[inline]
    pub fn lease(&self) -> u64 {
        self.lease.load(Ordering::Relaxed)
    }

    /// Tell whether the server has extended attributes.
    #[inline]
    pub fn xattr(&self) -> bool {
        self.xattr.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::nfs4::Handle;

    #[test]
    fn what_a_server_says_is_kept_within_bounds() {
        let known = Known::new(None);
        assert_eq!((known.minor(), known.max_read()), (2, LARGEST));
        let mut mounted = Mounted {
            root: Handle::EMPTY,
            fsid: (0, 0),
            fileid: 0,
            sizes: (0, u64::MAX),
            lease: u32::MAX,
            xattr: true,
            server: 0,
        };
        known.learn(&mounted);
        assert_eq!((known.max_read(), known.max_write()), (4096, LARGEST));
        assert_eq!((known.lease(), known.xattr()), (3_600_000_000_000, true));
        (mounted.lease, mounted.xattr) = (0, false);
        known.learn(&mounted);
        assert_eq!((known.lease(), known.xattr()), (1_000_000_000, false));
    }

    #[test]
    fn the_newest_version_is_spoken_until_the_server_has_it_not() {
        let known = Known::new(None);
        assert_eq!(known.minor(), 2);
        known.speak_older();
        assert_eq!(known.minor(), 1);
        assert_eq!(Known::new(Some(1)).minor(), 1);
    }
}
