//! The engine on Valkey or Redis: one connection of each core, and functions on the server's side.
//!
//! ```text
//!  Op::Transact, Write, ..  ──> FCALL dpfs_.. {volume} client sequence ack ..   ──> 1, or 0
//!  Op::Get, Scan, Seek      ──> FCALL dpfs_.. {volume} ..                       ──> stored values, places
//!  Op::Read                 ──> GET inode, GETRANGE of each chunk               ──> the bytes, into the host's pages
//!  Op::Write, of one file   ──> MULTI, SETRANGE.., MSET records, EXEC, WATCH    ──> done, or the function after all
//! ```
//!
//! Requests are pipelined ([`pipeline`]): what a round submitted leaves with one system call, and what has come is
//! understood in the order in which it was asked for. Every operation is one round trip. When the connection is lost, it
//! is made again, and everything that was not answered is sent again: the server has remembered what it did already
//! ([`request`]). What is not answered within the configured time fails, with [`Failure::Unknown`] where it may have
//! happened.
//!
//! A new connection first says who it is and waits for the answer; then it asks for the volume, and loads the library
//! of functions where that is missing or old. A server that does not have the volume that was opened, or another of the
//! same name, is not used: its data went, and what is still on its way must not make half of a new one.
//!
//! # What a WRITE costs
//! The server's time is what binds. Of about 21 us at depth 1 (a bare SETRANGE: 10 us) the call of a function takes 2 us,
//! the bytes on their way through Lua 3 us, its two other calls of the server 2 us, and what is decided in Lua 4 us. So
//! the function of a WRITE reads the client's record and the inode with one MGET, and writes both with one MSET; and of
//! WRITEs to the same file all but the first go without it, as a [`transaction`] of the server's own, which costs the server
//! about 7 us more than a SETRANGE at depth 1, and up to 1 us more for each of many that go together. While one
//! transaction is waited for, the content of the next is on its way.
//!
//! The flat layout has an engine of its own, for its keys lie where a cluster puts them: [`objects`].
//!
//! # A cluster
//! All of a volume but content is in one hash slot, that of its name: one node serves it, and volumes spread over the
//! nodes. What files have behind their first MiB spreads, too, when the volume was made in a cluster ([`spread`]). Any
//! node says who has a volume, so there is no map of slots for it ([`route`]); for content there is one ([`objects`]). When that node does not answer, its replicas are
//! asked, and whoever is configured: one of them has taken over, or knows who has. What the new one does not know of
//! what was answered is lost, as replication does not wait; FSYNC says so, as with a server that came back with less.
//! While a slot moves key by key, no function runs ([`request`]) and requests wait, however long that takes.
//!
//! # TLS
//! Every connection is made with it, or none: to what is configured, and to each node that a cluster names. What carries
//! the bytes is the one difference ([`sockets`]); without TLS nothing is copied and nothing is added.
//!
//! [`Failure::Unknown`]: super::engine::Failure::Unknown

mod assemble;
mod client;
mod connection;
mod link;
pub mod objects;
mod pipeline;
mod reply;
pub mod request;
mod route;
#[cfg(feature = "std")]
pub mod server;
mod sockets;
mod spread;
mod sync;
mod transaction;
mod watch;
mod write_call;

pub use client::Valkey;
pub use connection::{Aim, Made, Settings};
pub use link::{Address, Trouble};
