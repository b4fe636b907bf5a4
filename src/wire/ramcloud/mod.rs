//! RAMCloud's RPCs over its TCP transport: requests written into fixed memory, replies read from what has come.
//!
//! ```text
//!  frame    u64 nonce, u32 length | payload           at most FRAME_MAX bytes; a reply repeats its request's nonce
//!  request  u16 opcode, u16 service, fields, key, value
//!  reply    u32 status, fields, value                 replies come in any order
//! ```
//!
//! All is little-endian and packed. A [`Request`] is written without its value, which is sent from where it is. A reply
//! is read from its front, so that a value can be taken as it comes. What comes is not trusted: lengths are bounded, and
//! nothing here panics.
//!
//! The layouts were checked against frames of a real coordinator and master (`tests/ramcloud/frames.txt`). Source:
//! RAMCloud, `src/WireFormat.h`, `src/TcpTransport.h`, `src/RejectRules.h`, `src/TableConfig.proto`.

pub mod config;
pub mod hash;
pub mod locator;
pub mod multi;
pub mod reply;
pub mod request;

pub use request::Request;

/// Length of a frame's head in bytes.
pub const HEAD_LEN: usize = 12;
/// Longest payload of a frame in bytes.
pub const FRAME_MAX: usize = (8 << 20) + 200;
/// Longest key in bytes that the length's 16 bits hold.
pub const KEY_MAX: usize = u16::MAX as usize;

/// Tell that what came is no reply to what was asked, or beyond the bounds above.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// Say how a request went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// It was done.
    Ok,
    /// The server does not have the key's tablet: the map is old, or the table is no more.
    UnknownTablet,
    /// There is no such table.
    TableDoesntExist,
    /// There is no such object.
    ObjectDoesntExist,
    /// There is one, and none was wanted.
    ObjectExists,
    /// The object's version is not the one that was wanted.
    WrongVersion,
    /// Not now; ask again after a delay ([`reply::retry`]).
    Retry,
    /// The server has forgotten the result of this RPC: it was acknowledged.
    StaleRpc,
    /// The client's lease is over.
    ExpiredLease,
    /// Another, by number.
    Other(u32),
}

impl From<u32> for Status {
    fn from(code: u32) -> Self {
        match code {
            0 => Self::Ok,
            1 => Self::UnknownTablet,
            2 => Self::TableDoesntExist,
            3 => Self::ObjectDoesntExist,
            4 => Self::ObjectExists,
            5 => Self::WrongVersion,
            17 => Self::Retry,
            31 => Self::StaleRpc,
            32 => Self::ExpiredLease,
            other => Self::Other(other),
        }
    }
}

/// Say when a server is to refuse a request instead of doing it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// Refuse any version but this one.
    pub version: Option<u64>,
    /// Refuse when there is no object.
    pub absent: bool,
    /// Refuse when there is one.
    pub exists: bool,
}

/// Hold a client's lease, as the coordinator gave it. Times are the cluster's, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lease {
    /// Name of the client; never zero for a lease that was given.
    pub id: u64,
    /// When it ends.
    pub expiration: u64,
    /// When it was given.
    pub timestamp: u64,
}

/// Name one change of one client, so that a server does it once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Once {
    /// The client's lease.
    pub lease: Lease,
    /// Number of the change, from 1.
    pub rpc: u64,
    /// All up to this one are answered: their results may be forgotten.
    pub ack: u64,
}

/// Most changes of a client that may be under way: from the oldest that is not answered to the newest.
pub const WINDOW: u64 = 512;
