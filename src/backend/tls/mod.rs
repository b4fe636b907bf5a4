//! TLS 1.3 upon TCP, for backends that reach their server by it, through the library rustls.
//!
//! ```text
//!  Files ── read before the sandbox closes ──> Trust ── one for each connection ──> Session
//!  requests, host's pages ─ copy ─> a record's plaintext ─ encrypt ─> outgoing ─ sendmsg ─> socket
//!  replies, host's pages <─ copy ── a record's plaintext <─ decrypt ─ incoming <─ recvmsg ─ socket
//! ```
//!
//! Nothing here waits: a handshake goes on with every look at the connection, as its making does. The server's
//! certificate is always verified, with the authorities that are configured and no others, for the name that is configured
//! or the address that is connected to.
//!
//! # What it costs
//! What goes by the host's pages without TLS is copied once with it, and the library allocates each record on its way: this
//! is the one place where something is allocated after start. A connection holds at most [`Session::FOOTPRINT`] bytes, and
//! the library up to three records of 16 KiB and its keys. Sessions are not resumed: a connection that is made again is
//! authenticated again.
//!
//! Without the feature `tls` only the names of the files are here, so that a configuration can say what is missing.

use std::path::PathBuf;
use std::string::String;

#[cfg(feature = "tls")]
mod buffer;
#[cfg(feature = "tls")]
mod session;
#[cfg(feature = "tls")]
mod trust;
#[cfg(feature = "tls")]
mod words;

#[cfg(feature = "tls")]
pub use session::Session;
#[cfg(feature = "tls")]
pub use trust::Trust;
#[cfg(feature = "tls")]
pub use words::Fault;

/// Say why it cannot be had, for a program without it.
#[cfg(not(feature = "tls"))]
pub const ABSENT: &str = "this program was built without TLS (feature `tls`)";

/// Say with which files a server is verified, and with which ones this client is. All are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Certificates of the authorities that are trusted.
    pub ca: PathBuf,
    /// Name or address that the server's certificate is to have; `None` for the one that is connected to.
    pub name: Option<String>,
    /// This client's certificate, with those that lead to its authority, and its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Say why a connection is of no use.
#[cfg(feature = "tls")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    /// As the system says.
    Errno(crate::wire::errno::Errno),
    /// As the peers do not agree.
    Fault(Fault),
}

#[cfg(feature = "tls")]
impl From<crate::wire::errno::Errno> for Error {
    fn from(error: crate::wire::errno::Errno) -> Self {
        Self::Errno(error)
    }
}

#[cfg(feature = "tls")]
impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}
