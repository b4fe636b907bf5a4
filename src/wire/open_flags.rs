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
    /// Hold open flags in values of our own, equal for every host and DPU.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct OpenFlags: u32 {
        /// `O_APPEND`.
        const APPEND = 1 << 0;
        /// `O_TRUNC`.
        const TRUNC = 1 << 1;
        /// `O_EXCL`.
        const EXCL = 1 << 2;
        /// `O_DIRECT`.
        const DIRECT = 1 << 3;
        /// `O_DSYNC`, also set by `O_SYNC`.
        const DSYNC = 1 << 4;
        /// The part of `O_SYNC` beyond `O_DSYNC`.
        const SYNC = 1 << 5;
        /// `O_NOATIME`.
        const NOATIME = 1 << 6;
        /// `O_DIRECTORY`.
        const DIRECTORY = 1 << 7;
        /// `O_NOFOLLOW`.
        const NOFOLLOW = 1 << 8;
        /// `O_NONBLOCK`.
        const NONBLOCK = 1 << 9;
        /// `O_CREAT`.
        const CREAT = 1 << 10;
        /// Access mode `O_WRONLY`.
        const WRITE_ONLY = 1 << 11;
        /// Access mode `O_RDWR`.
        const READ_WRITE = 1 << 12;
    }
}

/// The bits that have one value on both architectures.
const COMMON: [(u32, OpenFlags); 9] = [
    (0o1, OpenFlags::WRITE_ONLY),
    (0o2, OpenFlags::READ_WRITE),
    (0o100, OpenFlags::CREAT),
    (0o200, OpenFlags::EXCL),
    (0o1000, OpenFlags::TRUNC),
    (0o2000, OpenFlags::APPEND),
    (0o4000, OpenFlags::NONBLOCK),
    (0o10000, OpenFlags::DSYNC),
    (0o4000000, OpenFlags::SYNC),
];
const NOATIME: (u32, OpenFlags) = (0o1000000, OpenFlags::NOATIME);
const X86_64: [(u32, OpenFlags); 3] = [
    (0o40000, OpenFlags::DIRECT),
    (0o200000, OpenFlags::DIRECTORY),
    (0o400000, OpenFlags::NOFOLLOW),
];
const AARCH64: [(u32, OpenFlags); 3] = [
    (0o200000, OpenFlags::DIRECT),
    (0o40000, OpenFlags::DIRECTORY),
    (0o100000, OpenFlags::NOFOLLOW),
];

impl OpenFlags {
    /// Decode the raw flags of a host; bits with no meaning to a server (`O_CLOEXEC`, `O_LARGEFILE`) are dropped.
    pub fn decode(raw: u32, host: ClientArch) -> Self {
        let own = match host {
            ClientArch::X86_64 => &X86_64,
            ClientArch::Aarch64 => &AARCH64,
        };
        let mut flags = Self::empty();
        for &(bit, flag) in COMMON.iter().chain(own).chain([&NOATIME]) {
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
