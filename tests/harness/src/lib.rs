//! Drive the FUSE layer and a backend without a transport.
//!
//! A [`Bed`] is one core of one device: a session, a decoder, a request table and a backend. It takes a [`Message`]
//! (or any bytes), lays it out in memory cut as the test likes, runs it, and gives the [`Answer`]:
//!
//! ```
//! use dpfs::{fuse::FileSystem, wire::errno::Errno, wire::fuse::*};
//! use dpfs_harness::{Bed, Message};
//!
//! struct Nothing;
//! impl FileSystem for Nothing {}
//!
//! let mut bed = Bed::mounted(Nothing);
//! let answer = bed.call(&Message::new(Opcode::LOOKUP).name("file").room(128));
//! assert_eq!(answer.error(), Some(Errno::ENOSYS));
//! ```
//!
//! Every completion is held against the protocol: the request is unchanged, nothing is written outside of the room
//! for the reply, the reply's header names the request and its length. A breach panics, so tests and fuzz targets
//! need not ask. The memory of a bed is never given back; a fuzz target makes one and keeps it.

pub mod answers;
mod bed;
pub mod host;
mod memory;
mod message;
mod recorder;
pub mod samples;
mod serve;

pub use bed::{Answer, Bed, CountingVolume, Setup, Ticket};
pub use host::Host;
pub use memory::Layout;
pub use message::Message;
pub use recorder::{Mode, Recorder};
pub use serve::Core;
