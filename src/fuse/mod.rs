//! FUSE: the session with the host's kernel, request decoding, typed replies, and the trait that backends implement.
//!
//! ```text
//!            Dispatcher                          Reply<T>
//! chain ──> header ──> arguments ──> FileSystem::op(.., reply) ──> out header + body ──> request table
//!                                          └─ keeps the reply, answers from poll() later
//! ```
//!
//! A request is decoded on the core that took it: its header and arguments are copied out of the host's memory once,
//! checked, and handed to one method of [`FileSystem`] as plain values. Data is not copied: a [`Reply<Data>`] lends
//! the host's pages, a WRITE's payload is lent by its [`Reply<Written>`].
//!
//! This layer never blocks, allocates or panics on any input, and knows neither where requests come from nor what
//! answers them. [`Session`] is shared by a device's cores; everything else belongs to one.

mod dispatch;
mod fs;
mod interrupts;
mod negotiate;
mod parse;
mod reply;
mod session;
mod types;

pub use dispatch::Dispatcher;
pub use fs::FileSystem;
pub use negotiate::{Limits, Wishes};
pub use reply::number;
pub use reply::{
    Attributes, Body, Copied, Created, Data, DirEntries, DirEntriesPlus, Ioctl, Reply, Statfs,
    StatxReply, Target, XattrValue,
};
pub use session::{Session, Volume};
pub use types::{
    Caller, Creation, Entry, Fh, Lock, LockKind, LockRequest, Name, NodeId, Opened, Request,
    SetAttr, SetTime, Written,
};
