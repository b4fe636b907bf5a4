//! Split virtqueues (VIRTIO 1.3, section 2.7): the device's side, and the driver's side for tests and load.
//!
//! A queue is three areas of the host's memory. The driver writes the first two, the device the third:
//!
//! ```text
//!  descriptor table      available ring (driver > device)         used ring (device > driver)
//!  [addr len flags next] flags | idx | ring[size] | used_event    flags | idx | ring[size] (id,len) | avail_event
//!         ^                           |                                            |
//!         └── head index ─────────────┘              head index, bytes written ────┘
//! ```
//!
//! [`DeviceQueue::take`] turns the next available chain into a [`SegmentList`](crate::mem::SegmentList), checked
//! against a [`MemoryMap`]; [`DeviceQueue::put`] writes a used element; [`DeviceQueue::flush`] publishes all of them
//! with one store and says whether the driver wants to be told.
//!
//! This layer knows nothing of FUSE, makes no system call, allocates nothing and never blocks.
//!
//! # What the host can do to us
//! Change any byte at any time. So each value is read exactly once, by an atomic load through a raw pointer, then
//! checked, then used; no reference covers host memory other than the atomics of [`Rings`], which promise nothing
//! about its content. A chain that breaks the rules is a [`ChainError`] and costs the host that one request; an index
//! that breaks them makes the queue [`Broken`]: it takes nothing more and touches nothing more.
//!
//! # Memory ordering
//! 1. *Chains.* The driver writes descriptors and ring entry, then `avail.idx` with release; we load `avail.idx` with
//!    acquire before we read either.
//! 2. *Replies.* We write data and used elements, then `used.idx` with release; the driver acquires it. The data was
//!    written by this core or by a system call or completion that this core has observed, so it is ordered before.
//! 3. *Sleeping.* Each side announces where it wants to be woken, then looks again; the other publishes, then looks
//!    whether it must wake. Store before load on both sides, so each needs a sequentially consistent fence between
//!    them, or both could miss the other. [`notify`] holds that protocol, and a loom model runs it.

mod chain;
mod device;
pub mod driver;
mod inflight;
mod layout;
mod memory;
pub mod notify;

pub use chain::{ChainError, MAX_INDIRECT};
pub use device::{Broken, DeviceQueue, Start, Taken};
pub use inflight::{Inflight, InflightError};
pub use layout::{Descriptor, MAX_SIZE, Rings, RingsError, avail_bytes, desc_bytes, used_bytes};
pub use memory::{MAX_REGIONS, MapError, MemoryMap, Region, RegionCache};

#[cfg(feature = "std")]
#[doc(hidden)]
pub mod fuzz;

#[cfg(all(test, feature = "std", not(loom)))]
mod testing;

#[cfg(all(test, feature = "std", not(loom)))]
mod hostile;

/// Feature bit: a descriptor may refer to a table of descriptors (`VIRTIO_F_INDIRECT_DESC`).
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// Feature bit: each side names the index at which it wants to be notified (`VIRTIO_F_EVENT_IDX`).
pub const F_EVENT_IDX: u64 = 1 << 29;
/// Feature bit: the device follows VIRTIO 1.0 or later (`VIRTIO_F_VERSION_1`).
pub const F_VERSION_1: u64 = 1 << 32;
