//! Fixed storage: everything that lives longer than one call and was reserved at start.
//!
//! Tables take their memory from an [`Arena`] that the caller mapped once; nothing here allocates, blocks or knows a
//! protocol beyond [`crate::wire`]. "Full" is a value that is returned, never a panic.
//!
//! | type | what it holds | who shares it |
//! |---|---|---|
//! | [`RequestTable`] | the requests of one queue, from the taken chain to the published reply | one core |
//! | [`SegmentList`] | where one request's bytes lie in the host's memory | one core |

mod arena;
mod request;
mod segment;

pub use arena::{Arena, OutOfMemory};
pub use request::{Finished, RequestTable, Slot, SlotId, Token};
pub use segment::{MAX_SEGMENTS, Segment, SegmentList, TooMany, TooShort};
