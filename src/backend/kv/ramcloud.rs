//! The engine on RAMCloud: a client of its wire protocol, with a table as the store.
//!
//! ```text
//!  Objects op ──> Call: read | write | remove | list, one RPC after the other
//!                   │ key hash ──> Tablets ──> master          Lessee: which number a change has, until when
//!                   v
//!                 Peer: one connection per server ══ frames ══> coordinator, masters
//! ```
//!
//! RAMCloud reads and writes objects whole. A READ asks for the object and takes the wanted bytes as they come; a WRITE
//! reads it, changes it, and writes it if its version is still the same, otherwise begins again. So a change is never
//! lost to another client's, and costs two round trips.
//!
//! What is only looked at is asked for together: looks that go to one master in one round are one multi-read of up to 20
//! objects. There is no request for a size alone, so their contents come along and are dropped.
//!
//! RENAME is three round trips: the object is read, written under its new name, and removed under its old one if it is
//! still what was read; otherwise all of that is done again. Both names may be there for a moment, and both stay when the
//! client dies in between; neither is ever missing. RAMCloud's transactions are not used. An object of more than 1 MiB,
//! which only others write, is read, and not changed.
//!
//! # Once
//! Each change has a number under the client's lease, and a master remembers the results of numbers that are not
//! acknowledged. When a connection is lost, everything that was not answered is sent again, byte for byte, to whoever
//! has the key's tablet then: it is done once. At most [`WINDOW`](crate::wire::ramcloud::WINDOW) numbers are under way.
//! The lease is renewed when a quarter of an hour is left; with less than a minute left no change is sent.
//!
//! # Servers that fail
//! A master that refuses connections, ends one or is silent is reported to the coordinator, which makes sure by itself
//! and has its tablets recovered elsewhere. The map of tablets is asked for anew then, and when a master says that it
//! does not have a tablet; requests wait meanwhile. What is not answered within the configured time fails: with
//! [`Failure::Unknown`](super::objects::Failure::Unknown) when it may have happened.
//!
//! Nothing here blocks, or allocates after start. What carries the bytes is a [`Transport`](super::line::Transport).
//! Source: Lee et al., "Implementing Linearizability at Large Scale and Low Latency" (SOSP 2015); RAMCloud's sources.

mod bundle;
mod call;
mod client;
mod job;
mod lease;
mod peer;
#[cfg(feature = "std")]
pub mod server;
mod tablets;

pub use client::{Ramcloud, Settings};
