//! INIT: what is offered, what this layer and the backend can do, what the session gets.

use crate::wire::errno::Errno;
use crate::wire::fuse::{
    InitFlags, InitIn, InitOut, KERNEL_MINOR_VERSION, KERNEL_VERSION, OLDEST_MINOR_VERSION,
};

/// Say what a backend can do and how it would like to be used.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// Features beyond those of this layer; those that are not offered fall away.
    pub flags: InitFlags,
    /// Granularity of its time stamps in nanoseconds, 1 to 1,000,000,000.
    pub time_gran: u32,
    /// Read-ahead that the host may do at most, in bytes.
    pub max_readahead: u32,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            flags: InitFlags::empty(),
            time_gran: 1,
            max_readahead: 1 << 20,
        }
    }
}

/// Bound a session's requests.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest READ or WRITE in bytes: a multiple of 4096, at most 1 MiB.
    pub max_write: u32,
    /// Background requests that the host may have in flight.
    pub max_background: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_write: 1 << 20,
            max_background: 512,
        }
    }
}

/// What this layer does for every backend.
const LAYER: InitFlags = InitFlags::ASYNC_READ
    .union(InitFlags::ASYNC_DIO)
    .union(InitFlags::BIG_WRITES)
    .union(InitFlags::PARALLEL_DIROPS)
    .union(InitFlags::ABORT_ERROR)
    .union(InitFlags::MAX_PAGES)
    .union(InitFlags::SETXATTR_EXT)
    .union(InitFlags::INIT_EXT)
    .union(InitFlags::CREATE_SUPP_GROUP)
    .union(InitFlags::HAS_RESEND);

/// What a backend may ask for. The rest is off: splice (there is no pipe), DAX, passthrough (both need this kernel's
/// cooperation with the host's), the first version of killpriv.
const BACKEND: InitFlags = InitFlags::POSIX_LOCKS
    .union(InitFlags::ATOMIC_O_TRUNC)
    .union(InitFlags::EXPORT_SUPPORT)
    .union(InitFlags::DONT_MASK)
    .union(InitFlags::FLOCK_LOCKS)
    .union(InitFlags::HAS_IOCTL_DIR)
    .union(InitFlags::AUTO_INVAL_DATA)
    .union(InitFlags::DO_READDIRPLUS)
    .union(InitFlags::READDIRPLUS_AUTO)
    .union(InitFlags::WRITEBACK_CACHE)
    .union(InitFlags::NO_OPEN_SUPPORT)
    .union(InitFlags::POSIX_ACL)
    .union(InitFlags::CACHE_SYMLINKS)
    .union(InitFlags::NO_OPENDIR_SUPPORT)
    .union(InitFlags::EXPLICIT_INVAL_DATA)
    .union(InitFlags::SUBMOUNTS)
    .union(InitFlags::HANDLE_KILLPRIV_V2)
    .union(InitFlags::SECURITY_CTX)
    .union(InitFlags::DIRECT_IO_ALLOW_MMAP)
    .union(InitFlags::NO_EXPORT_SUPPORT)
    .union(InitFlags::ALLOW_IDMAP);

/// First minor version whose sub-mounts are used, that of Linux 6.12. Linux 6.1 crashes when it unmounts one right after
/// a file in it was read and closed: its RELEASE may end when the file system is gone.
const SOUND_SUBMOUNTS: u32 = 41;

/// Give what the host offers and can do, `flags2` only where it is valid.
pub(super) fn offered(init: &InitIn) -> InitFlags {
    let low = InitFlags::from_bits_retain(u64::from(init.flags));
    let high = InitFlags::from_bits_retain(u64::from(init.flags2) << 32);
    let mut offered = low;
    if low.contains(InitFlags::INIT_EXT) {
        offered |= high;
    }
    if init.minor < SOUND_SUBMOUNTS {
        offered -= InitFlags::SUBMOUNTS;
    }
    offered
}

/// Answer an INIT.
///
/// A host with a newer major version gets ours back and asks again with it (nothing is negotiated then: the flags of
/// the answer are zero).
///
/// # Errors
/// `EPROTO` for a version below 7.31.
pub(super) fn answer(init: &InitIn, wishes: &Wishes, limits: &Limits) -> Result<InitOut, Errno> {
    if init.major > KERNEL_VERSION {
        let ours = InitOut {
            major: KERNEL_VERSION,
            minor: KERNEL_MINOR_VERSION,
            ..Default::default()
        };
        return Ok(ours);
    }
    if init.major < KERNEL_VERSION || init.minor < OLDEST_MINOR_VERSION {
        return Err(Errno::EPROTO);
    }
    let flags = offered(init) & (LAYER | (wishes.flags & BACKEND));
    let bits = flags.bits();
    Ok(InitOut {
        major: KERNEL_VERSION,
        minor: init.minor.min(KERNEL_MINOR_VERSION),
        max_readahead: init.max_readahead.min(wishes.max_readahead),
        flags: bits as u32,
        flags2: (bits >> 32) as u32,
        max_background: limits.max_background,
        congestion_threshold: limits.max_background / 4 * 3,
        max_write: limits.max_write,
        time_gran: wishes.time_gran,
        max_pages: limits.max_write.div_ceil(4096) as u16,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(minor: u32, flags: InitFlags) -> InitIn {
        InitIn {
            major: 7,
            minor,
            max_readahead: 128 << 10,
            flags: flags.bits() as u32,
            flags2: (flags.bits() >> 32) as u32,
            ..Default::default()
        }
    }

    #[test]
    fn the_answer_has_only_what_both_sides_can() {
        let wishes = Wishes {
            flags: InitFlags::all(),
            ..Default::default()
        };
        let out = answer(&init(45, InitFlags::all()), &wishes, &Limits::default()).unwrap();
        let given = u64::from(out.flags) | u64::from(out.flags2) << 32;
        assert_eq!(given, (LAYER | BACKEND).bits());
        for never in [InitFlags::HANDLE_KILLPRIV, InitFlags::PASSTHROUGH] {
            assert_eq!(given & never.bits(), 0);
        }
        let few = InitFlags::INIT_EXT | InitFlags::ASYNC_READ | InitFlags::SECURITY_CTX;
        let out = answer(&init(45, few), &wishes, &Limits::default()).unwrap();
        assert_eq!(
            u64::from(out.flags) | u64::from(out.flags2) << 32,
            few.bits()
        );
    }

    #[test]
    fn sub_mounts_are_for_hosts_that_survive_them() {
        let wishes = Wishes {
            flags: InitFlags::all(),
            ..Default::default()
        };
        for (minor, used) in [(31, false), (40, false), (41, true), (45, true)] {
            let init = init(minor, InitFlags::all());
            assert_eq!(offered(&init).contains(InitFlags::SUBMOUNTS), used);
            let out = answer(&init, &wishes, &Limits::default()).unwrap();
            let given = InitFlags::from_bits_retain(out.flags.into());
            assert_eq!(given.contains(InitFlags::SUBMOUNTS), used, "{minor}");
        }
    }

    #[test]
    fn flags2_counts_only_with_init_ext() {
        let wishes = Wishes {
            flags: InitFlags::all(),
            ..Default::default()
        };
        let out = answer(
            &init(35, InitFlags::SECURITY_CTX),
            &wishes,
            &Limits::default(),
        )
        .unwrap();
        assert_eq!(out.flags2, 0);
    }

    #[test]
    fn versions() {
        let (wishes, limits) = (Wishes::default(), Limits::default());
        assert_eq!(
            answer(&init(31, InitFlags::empty()), &wishes, &limits)
                .unwrap()
                .minor,
            31
        );
        assert_eq!(
            answer(&init(99, InitFlags::empty()), &wishes, &limits)
                .unwrap()
                .minor,
            45
        );
        assert_eq!(
            answer(&init(30, InitFlags::empty()), &wishes, &limits).unwrap_err(),
            Errno::EPROTO
        );
        let newer = InitIn {
            major: 8,
            ..init(0, InitFlags::all())
        };
        let out = answer(&newer, &wishes, &limits).unwrap();
        assert_eq!((out.major, out.flags, out.max_write), (7, 0, 0));
        let older = InitIn {
            major: 6,
            ..init(45, InitFlags::all())
        };
        assert_eq!(answer(&older, &wishes, &limits).unwrap_err(), Errno::EPROTO);
    }

    #[test]
    fn a_mebibyte_is_256_pages() {
        let out = answer(
            &init(45, InitFlags::all()),
            &Wishes::default(),
            &Limits::default(),
        )
        .unwrap();
        assert_eq!((out.max_write, out.max_pages), (1 << 20, 256));
    }
}
