//! Open flags: FUSE passes the host's raw `O_*` bits, whose values depend on the host's architecture.
//!
//! On arm64 `O_DIRECT`, `O_DIRECTORY`, `O_NOFOLLOW` and `O_LARGEFILE` have other values than on x86_64, so the DPU's
//! own constants would turn a host's `O_DIRECT` into `O_DIRECTORY`. Source: Linux `arch/*/include/uapi/asm/fcntl.h`.

use bitflags::bitflags;

/// Name the host's architecture.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ClientArch {
    /// x86_64, the default; also every architecture with the `asm-generic` values.
    #[default]
    X86_64,
    /// arm64.
    Aarch64,
}

/// Tell what an open file may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessMode {
    /// `O_RDONLY`.
    Read,
    /// `O_WRONLY`.
    Write,
    /// `O_RDWR`.
    ReadWrite,
}

impl AccessMode {
    /// Tell whether reading is allowed.
    pub const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    /// Tell whether writing is allowed.
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }
}

bitflags! {
    /// Hold open flags of any host. The bits are x86_64's, so that the common host costs a mask.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct OpenFlags: u32 {
        /// Access mode `O_WRONLY`.
        const WRITE_ONLY = 0o1;
        /// Access mode `O_RDWR`.
        const READ_WRITE = 0o2;
        /// `O_CREAT`.
        const CREAT = 0o100;
        /// `O_EXCL`.
        const EXCL = 0o200;
        /// `O_TRUNC`.
        const TRUNC = 0o1000;
        /// `O_APPEND`.
        const APPEND = 0o2000;
        /// `O_NONBLOCK`.
        const NONBLOCK = 0o4000;
        /// `O_DSYNC`, also set by `O_SYNC`.
        const DSYNC = 0o10000;
        /// `O_DIRECT`.
        const DIRECT = 0o40000;
        /// `O_DIRECTORY`.
        const DIRECTORY = 0o200000;
        /// `O_NOFOLLOW`.
        const NOFOLLOW = 0o400000;
        /// `O_NOATIME`.
        const NOATIME = 0o1000000;
        /// The part of `O_SYNC` beyond `O_DSYNC`.
        const SYNC = 0o4000000;
    }
}

/// The bits whose value differs on arm64.
const AARCH64: [(u32, OpenFlags); 3] = [
    (0o200000, OpenFlags::DIRECT),
    (0o40000, OpenFlags::DIRECTORY),
    (0o100000, OpenFlags::NOFOLLOW),
];

impl OpenFlags {
    /// Decode the raw flags of a host; bits with no meaning to a server (`O_CLOEXEC`, `O_LARGEFILE`) are dropped.
    #[inline]
    pub fn decode(raw: u32, host: ClientArch) -> Self {
        match host {
            ClientArch::X86_64 => Self::from_bits_truncate(raw),
            ClientArch::Aarch64 => Self::decode_aarch64(raw),
        }
    }

    fn decode_aarch64(raw: u32) -> Self {
        let own = AARCH64
            .iter()
            .fold(Self::empty(), |all, (_, flag)| all | *flag);
        let mut flags = Self::from_bits_truncate(raw) - own;
        for (bit, flag) in AARCH64 {
            if raw & bit != 0 {
                flags |= flag;
            }
        }
        flags
    }

    /// Give the access mode. The value 3, which means "no access" to Linux, counts as reading and writing.
    pub const fn access(self) -> AccessMode {
        if self.contains(Self::READ_WRITE) {
            AccessMode::ReadWrite
        } else if self.contains(Self::WRITE_ONLY) {
            AccessMode::Write
        } else {
            AccessMode::Read
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o_direct_of_either_host_is_o_direct() {
        assert_eq!(
            OpenFlags::decode(0x4000, ClientArch::X86_64),
            OpenFlags::DIRECT
        );
        assert_eq!(
            OpenFlags::decode(0x10000, ClientArch::Aarch64),
            OpenFlags::DIRECT
        );
        assert_eq!(
            OpenFlags::decode(0x4000, ClientArch::Aarch64),
            OpenFlags::DIRECTORY
        );
        assert_eq!(
            OpenFlags::decode(0x10000, ClientArch::X86_64),
            OpenFlags::DIRECTORY
        );
    }

    #[test]
    fn largefile_of_one_host_is_not_nofollow_of_the_other() {
        assert_eq!(
            OpenFlags::decode(0x8000, ClientArch::X86_64),
            OpenFlags::empty()
        );
        assert_eq!(
            OpenFlags::decode(0x8000, ClientArch::Aarch64),
            OpenFlags::NOFOLLOW
        );
        assert_eq!(
            OpenFlags::decode(0x20000, ClientArch::X86_64),
            OpenFlags::NOFOLLOW
        );
        assert_eq!(
            OpenFlags::decode(0x20000, ClientArch::Aarch64),
            OpenFlags::empty()
        );
    }

    #[test]
    fn o_sync_is_both_bits() {
        let flags = OpenFlags::decode(0o4010000 | 2, ClientArch::X86_64);
        assert_eq!(
            flags,
            OpenFlags::SYNC | OpenFlags::DSYNC | OpenFlags::READ_WRITE
        );
        assert_eq!(flags.access(), AccessMode::ReadWrite);
    }
}
