//! What the cores of a device share about the host that mounted it.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use zerocopy::IntoBytes;

use super::fs::FileSystem;
use super::interrupts::Interrupts;
use super::negotiate::{self, Limits};
use crate::mem::{Slot, TooShort};
use crate::wire::errno::Errno;
use crate::wire::fuse::{COMPAT_INIT_IN_LEN, InitFlags, InitIn, InitOut, KERNEL_VERSION};
use crate::wire::open_flags::ClientArch;

/// Bytes of [`InitIn`] since ABI 7.36.
const INIT_IN_LEN: usize = size_of::<InitIn>();

/// Be the part of a backend that the cores of a device share.
pub trait Volume: Sync {
    /// Drop every lookup count and every open file: the host unmounted, rebooted or is gone.
    ///
    /// Requests of an earlier epoch may still be pending; they must not leave a node or an open file behind.
    fn reset(&self, epoch: u32);
}

/// Hold the state of a device's session.
///
/// An epoch is one session: it ends with DESTROY, with a reset of the device, or with the INIT of a host that
/// rebooted, whatever requests are still pending then.
pub struct Session {
    volume: &'static dyn Volume,
    limits: Limits,
    arch: ClientArch,
    epoch: AtomicU32,
    ready: AtomicBool,
    /// Negotiated [`InitFlags`].
    flags: AtomicU64,
    minor: AtomicU32,
    pub(super) interrupts: Interrupts,
}

impl Session {
    /// Make the session of a device that no host has mounted yet.
    pub fn new(volume: &'static dyn Volume, limits: Limits, arch: ClientArch) -> Self {
        Self {
            volume,
            limits,
            arch,
            epoch: AtomicU32::new(0),
            ready: AtomicBool::new(false),
            flags: AtomicU64::new(0),
            minor: AtomicU32::new(0),
            interrupts: Interrupts::new(),
        }
    }

    /// End the session, if there is one: its nodes and open files are dropped.
    pub fn reset(&self) {
        self.ready.store(false, Ordering::Release);
        let epoch = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        self.volume.reset(epoch);
    }

    /// Tell whether a host has the file system mounted.
    #[inline]
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Give the number of the present session.
    #[inline]
    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Give the negotiated features; empty before INIT.
    #[inline]
    pub fn flags(&self) -> InitFlags {
        InitFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Give the negotiated minor version; zero before INIT.
    pub fn minor(&self) -> u32 {
        self.minor.load(Ordering::Relaxed)
    }

    /// Give the host's architecture.
    #[inline]
    pub fn arch(&self) -> ClientArch {
        self.arch
    }

    /// Give the largest WRITE in bytes.
    #[inline]
    pub fn max_write(&self) -> u32 {
        self.limits.max_write
    }

    /// Begin a session: decode INIT, end a session that still stands, negotiate.
    pub(super) fn init(&self, slot: &mut Slot, fs: &dyn FileSystem) -> Result<InitOut, Errno> {
        let mut init = InitIn::default();
        let sent = match slot.segments().readable_len() {
            0..COMPAT_INIT_IN_LEN => return Err(Errno::EINVAL),
            COMPAT_INIT_IN_LEN..INIT_IN_LEN => COMPAT_INIT_IN_LEN,
            _ => INIT_IN_LEN,
        };
        let bytes = &mut init.as_mut_bytes()[..sent];
        slot.segments_mut()
            .read_front(bytes)
            .map_err(|TooShort| Errno::EINVAL)?;
        let wishes = fs.wishes(negotiate::offered(&init));
        let out = negotiate::answer(&init, &wishes, &self.limits)?;
        if init.major == KERNEL_VERSION {
            self.reset();
            self.flags.store(
                u64::from(out.flags) | u64::from(out.flags2) << 32,
                Ordering::Relaxed,
            );
            self.minor.store(out.minor, Ordering::Relaxed);
            self.ready.store(true, Ordering::Release);
        }
        Ok(out)
    }
}
