//! Objects on Valkey or Redis for the flat layout: a key is a name, its string the content. And groups of chunks, which
//! lie where a cluster puts them as well: content of the tree's large files ([`group`]).
//!
//! ```text
//!  Look, Make, Write, Resize ──> EVAL of a few lines on the key      Read   ──> GETRANGE, into the host's pages
//!  Remove, Rename            ──> UNLINK, RENAME, RENAMENX            List   ──> SCAN of one node after the other
//! ```
//!
//! Every operation is one round trip, and all that a round submitted to a node leaves with one system call. Keys lie where
//! the cluster puts them, so there is a connection to each primary that is needed, and a map of slots, which is asked for
//! anew when a node sends elsewhere or does not answer. RENAME between slots is [`Failure::Elsewhere`]. While a slot moves,
//! what has moved is asked for at its new place.
//!
//! # What is sent twice
//! Nothing is stored beside the objects, so a server does not remember what it did. When a connection is lost, what was
//! not answered is sent again where that does no harm: a READ, a WRITE to the same place, a size. A removed object that
//! is not there at the second attempt was removed. What cannot tell its second attempt from its first fails with
//! [`Failure::Unknown`]: an exclusive creation, a RENAME, and bytes for the end of an object.
//!
//! # Sync
//! It waits, by the connection that made the changes, until they are as durable as configured. When a connection was lost
//! after changes, the next Sync says so once, with [`Failure::Unknown`]: a server that came back, or a replica that took
//! its place, may have less than was answered.

mod ask;
mod engine;
pub(super) mod group;
mod node;
#[cfg(feature = "std")]
pub mod server;
mod slots;

pub use engine::Strings;

#[cfg(doc)]
use super::super::objects::Failure;
