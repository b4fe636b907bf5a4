//! Fixed storage: everything that lives longer than one call and was reserved at start.
//!
//! Tables take their memory from an [`Arena`] that the caller mapped once; nothing here allocates, blocks or knows a
//! protocol beyond [`crate::wire`]. "Full" is a value that is returned, never a panic.
//!
//! | type | what it holds | who shares it |
//! |---|---|---|
//! | [`RequestTable`] | the requests of one queue, from the taken chain to the published reply | one core |
//! | [`NodeTable`] | nodeids, the backend's keys and values for them, lookup counts | a device's cores |
//! | [`OpenFileTable`] | what file handles stand for | a device's cores |
//! | [`SharedRing`] | answers to a core, jobs for workers | any threads |
//! | [`SlotMap`] | values with handles that tell a later value from an earlier one | one core |
//! | [`RingBuffer`] | bytes received or to be sent; small records | one core |
//! | [`SegmentList`] | where one request's bytes lie in the host's memory | one core |

mod arena;
mod free_list;
mod node_key;
mod node_table;
mod open_table;
mod past_caches;
mod refused;
mod request;
mod ring_buffer;
mod segment;
mod shared_ring;
mod slot_map;
mod spin_lock;
mod sync;

pub use arena::{Arena, OutOfMemory};
pub use node_key::{NodeKey, hash_bytes, hash_words};
pub use node_table::NodeTable;
pub use open_table::{Closed, OpenFileTable, Pinned};
pub use refused::Refused;
pub use request::{Finished, RequestTable, Slot, SlotId, Token};
pub use ring_buffer::RingBuffer;
pub(crate) use segment::Counts;
pub use segment::{MAX_SEGMENTS, Segment, SegmentList, TooMany, TooShort, fill, gather};
pub use shared_ring::SharedRing;
pub use slot_map::{Handle, SlotMap};
