//! The FUSE ABI, 7.31 to 7.45: headers, opcodes, arguments and flags as Linux `include/uapi/linux/fuse.h` lays them out.
//!
//! Structures carry the header's names without the `fuse_` prefix. A request is [`InHeader`], the operation's argument
//! structure, then names or data; a reply is [`OutHeader`], then the operation's result.

mod args;
mod entry;
mod ext;
mod flags;
mod init;
mod opcode;

pub use args::*;
pub use entry::*;
pub use ext::*;
pub use flags::*;
pub use init::*;
pub use opcode::*;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Major version of the protocol.
pub const KERNEL_VERSION: u32 = 7;
/// Newest minor version that this implementation speaks (Linux 6.19).
pub const KERNEL_MINOR_VERSION: u32 = 45;
/// Oldest minor version that is accepted (Linux 5.2, where virtio-fs began).
pub const OLDEST_MINOR_VERSION: u32 = 31;
/// Node of the root directory.
pub const ROOT_ID: u64 = 1;

/// Bit of `unique` that marks a request that the kernel sends again (`FUSE_UNIQUE_RESEND`, ABI 7.40).
pub const UNIQUE_RESEND: u64 = 1 << 63;

/// Begin every request.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct InHeader {
    /// Length of the whole request in bytes, this header included.
    pub len: u32,
    /// Operation, an [`Opcode`].
    pub opcode: u32,
    /// Identity of the request, repeated in its reply.
    pub unique: u64,
    /// Node that the request is about.
    pub nodeid: u64,
    /// Caller's user.
    pub uid: u32,
    /// Caller's group.
    pub gid: u32,
    /// Caller's process.
    pub pid: u32,
    /// Length of the extensions at the end of the request, in units of 8 bytes.
    pub total_extlen: u16,
    /// Unused.
    pub padding: u16,
}

/// Begin every reply.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct OutHeader {
    /// Length of the whole reply in bytes, this header included.
    pub len: u32,
    /// Zero, or a negative error number.
    pub error: i32,
    /// Identity of the request.
    pub unique: u64,
}

/// Bytes of [`InHeader`].
pub const IN_HEADER_LEN: usize = 40;
/// Bytes of [`OutHeader`].
pub const OUT_HEADER_LEN: usize = 16;

const _: () = assert!(size_of::<InHeader>() == IN_HEADER_LEN);
const _: () = assert!(size_of::<OutHeader>() == OUT_HEADER_LEN);
