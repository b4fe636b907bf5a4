//! Where requests come from: one trait, several transports.
//!
//! A HAL brings up a device that the host mounts and gives one [`Queue`] for each of its virtqueues (or for each
//! clone of `/dev/fuse`). A queue is moved to the core that polls it and is used there only; the HAL's control side
//! (a vhost-user socket, an emulation manager) runs elsewhere and reaches the device's session through [`Events`].
//!
//! ```text
//! core:     poll ──> chain as segments + token ──> ... ──> complete(token) ... complete(token) ──> flush
//! control:  stop, start, new memory ──> the queue itself takes these up between two polls
//! ```
//!
//! A queue that is being stopped gives no more chains, waits for those it gave, and then lets go of the host's memory.
//! A chain that outlives its queue (the host is gone, a backend still waits for its server) keeps its memory mapped;
//! completing it then does nothing. So the layers above never need to know.

#[cfg(feature = "fuse-dev")]
pub mod fuse_dev;
pub mod loopback;
pub mod ring;
#[cfg(feature = "snap")]
pub mod snap;
#[cfg(feature = "vhost-user")]
pub mod vhost_user;

use crate::mem::{SegmentList, Token};

/// State what a transport does, fixed for each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// A request may be completed later, after others. Where not (stock SNAP), the core polls the backend until the
    /// request is answered before it takes the next one of that queue.
    pub deferred: bool,
    /// Every writable byte is sent to the host, whatever the reply's length: the HAL zeroes what was not filled.
    pub sends_all: bool,
    /// Segments are the host's own memory; otherwise they are local copies.
    pub host_memory: bool,
}

/// Take requests from one queue and give them back. Owned by one core.
pub trait Queue {
    /// State what this transport does.
    fn traits(&self) -> Traits;

    /// Take the next request: put its segments into the empty list, readable ones first.
    ///
    /// A chain that breaks the transport's rules is answered (or its queue stopped) by the queue itself; it is never
    /// handed up. A partly filled list after `None` is to be cleared.
    fn poll(&mut self, into: &mut SegmentList) -> Option<Token>;

    /// Give a request back with `written` bytes of reply. The host sees it after [`Queue::flush`].
    fn complete(&mut self, token: Token, written: u32);

    /// Publish what was completed since the last flush and notify the host at most once.
    ///
    /// Called once a round even when nothing was completed; costs nothing then.
    fn flush(&mut self);

    /// Ask for a wake-up through [`Queue::wait_fd`] before the core sleeps.
    ///
    /// Returns false when a request arrived meanwhile: then the core must poll again instead.
    fn arm(&mut self) -> bool;

    /// Take back what [`Queue::arm`] asked for; the core polls again.
    fn disarm(&mut self);

    /// Give the descriptor that becomes readable when this queue needs its core. It stays the same for the queue's
    /// life. `None` for a transport that can only be polled.
    fn wait_fd(&self) -> Option<i32>;
}

/// Hear from a HAL's control side. Called on the control side's thread.
pub trait Events: Sync {
    /// The host reset the device or went away: every lookup count and open file of its session is void.
    fn reset(&self);
}
