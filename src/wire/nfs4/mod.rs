//! NFSv4.1 and 4.2: operations, results, attributes, as they lie on the wire.
//!
//! [`Compound`] writes a call into fixed memory; [`Results`] reads an answer step by step and cannot be led astray by its
//! lengths and counts. What is not of use to a client without pNFS, delegations and Kerberos is not here.
//!
//! Source: RFC 8881 (4.1; the XDR is RFC 5662), RFC 7862 and 7863 (4.2), RFC 8276 (extended attributes).

mod attributes;
mod call;
mod callback;
mod locations;
mod results;
mod status;

pub use attributes::{
    AttrRequest, Bitmap, FileAttr, FileKind, ServerAttr, SetTime, Settable, Time, attr,
};
pub use call::{Call, ChannelSize, Compound, Create, Created, OpenClaim, OpenHow, ROOM_OF_CALL};
pub use callback::{Callback, Callbacks};
pub use locations::{FsLocation, FsLocations, Strings};
pub use results::{
    DirEntry, DirEntryIter, Exchanged, Locked, OpenResult, Results, SequenceResult, ServerOwner,
    SessionResult, Stability,
};
pub use status::{Class, Status};

/// Program number of NFS.
pub const PROGRAM: u32 = 100_003;
/// Version of the program.
pub const VERSION: u32 = 4;
/// Procedure that carries operations.
pub const PROC_COMPOUND: u32 = 1;
/// Program number that our backchannel asks for.
pub const CALLBACK_PROGRAM: u32 = 0x4000_0000;

/// Longest file handle in bytes (`NFS4_FHSIZE`).
pub const MAX_HANDLE: usize = 128;
/// Longest opaque owner or server name in bytes (`NFS4_OPAQUE_LIMIT`).
pub const MAX_OPAQUE: usize = 1024;
/// Longest name of a file that is accepted, in bytes.
pub const MAX_NAME: usize = 255;
/// Length of a lock that reaches to the end of the file, wherever it is.
pub const TO_END: u64 = u64::MAX;

/// Name a session (`sessionid4`).
pub type SessionId = [u8; 16];
/// Name an incarnation of a client or of a server's memory (`verifier4`).
pub type Verifier = [u8; 8];

/// Name a file to the server (`nfs_fh4`): an opaque string of at most 128 bytes.
#[derive(Clone, Copy, zerocopy::FromZeros)]
pub struct Handle {
    len: u8,
    bytes: [u8; MAX_HANDLE],
}

impl Handle {
    /// Hold nothing.
    pub const EMPTY: Self = Self {
        len: 0,
        bytes: [0; MAX_HANDLE],
    };

    /// Hold what the server sent, or `None` when it is too long.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut handle = Self {
            len: u8::try_from(bytes.len()).ok()?,
            bytes: [0; MAX_HANDLE],
        };
        handle.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(handle)
    }

    /// Give the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len).min(MAX_HANDLE)]
    }
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Handle {}

impl core::fmt::Debug for Handle {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:02x?}", self.as_bytes())
    }
}

/// Name what a client holds of a file: an open, locks (`stateid4`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StateId {
    /// Grows with each change of the state. Zero stands for the newest, which is what a client with sessions sends.
    pub seqid: u32,
    /// Which state.
    pub other: [u8; 12],
}

impl StateId {
    /// Stand for no state at all: the server checks permissions and locks as it does for anyone.
    pub const ANONYMOUS: Self = Self {
        seqid: 0,
        other: [0; 12],
    };

    /// Name the newest state, whatever its number (RFC 8881, section 8.2.2).
    #[must_use]
    pub const fn newest(self) -> Self {
        Self { seqid: 0, ..self }
    }
}

/// Number operations as the wire does (`nfs_opnum4`).
pub mod op {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const ACCESS: u32 = 3;
    pub const CLOSE: u32 = 4;
    pub const COMMIT: u32 = 5;
    pub const CREATE: u32 = 6;
    pub const DELEGRETURN: u32 = 8;
    pub const GETATTR: u32 = 9;
    pub const GETFH: u32 = 10;
    pub const LINK: u32 = 11;
    pub const LOCK: u32 = 12;
    pub const LOCKT: u32 = 13;
    pub const LOCKU: u32 = 14;
    pub const LOOKUP: u32 = 15;
    pub const LOOKUPP: u32 = 16;
    pub const OPEN: u32 = 18;
    pub const PUTFH: u32 = 22;
    pub const PUTROOTFH: u32 = 24;
    pub const READ: u32 = 25;
    pub const READDIR: u32 = 26;
    pub const READLINK: u32 = 27;
    pub const REMOVE: u32 = 28;
    pub const RENAME: u32 = 29;
    pub const RESTOREFH: u32 = 31;
    pub const SAVEFH: u32 = 32;
    pub const SETATTR: u32 = 34;
    pub const WRITE: u32 = 38;
    pub const BIND_CONN_TO_SESSION: u32 = 41;
    pub const EXCHANGE_ID: u32 = 42;
    pub const CREATE_SESSION: u32 = 43;
    pub const DESTROY_SESSION: u32 = 44;
    pub const FREE_STATEID: u32 = 45;
    pub const SEQUENCE: u32 = 53;
    pub const TEST_STATEID: u32 = 55;
    pub const DESTROY_CLIENTID: u32 = 57;
    pub const RECLAIM_COMPLETE: u32 = 58;
    pub const ALLOCATE: u32 = 59;
    pub const COPY: u32 = 60;
    pub const DEALLOCATE: u32 = 62;
    pub const SEEK: u32 = 69;
    pub const CLONE: u32 = 71;
    pub const GETXATTR: u32 = 72;
    pub const SETXATTR: u32 = 73;
    pub const LISTXATTRS: u32 = 74;
    pub const REMOVEXATTR: u32 = 75;
}
