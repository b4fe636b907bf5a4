//! A file system on a key-value engine, in one of two layouts.
//!
//! ```text
//!  tree: inodes, names, chunks, xattr ──mini-transactions──> Engine: embedded, valkey
//!  flat: a file is a key and its value ──whole objects─────> Objects: valkey, ramcloud
//! ```
//!
//! The [`tree`] is a complete file system that only this program understands, written once against [`engine::Engine`].
//! The [`flat`] layout is one directory whose files are the objects of other programs, written once against
//! [`objects::Objects`]. An engine knows records and chunks, or objects, and no FUSE. Nothing here blocks or allocates after start; what an engine's own library does is said with the engine.

mod chunk;
#[cfg(feature = "kv-embedded")]
pub mod embedded;
pub mod engine;
pub mod flat;
#[cfg(feature = "std")]
pub mod fsck;
pub mod line;
pub mod objects;
pub mod ramcloud;
pub mod record;
#[cfg(feature = "std")]
pub mod served;
pub mod setup;
pub mod tree;
pub mod valkey;
