//! A file system on a key-value engine.
//!
//! ```text
//!  tree: inodes, names, chunks, xattr ──mini-transactions──> Engine: embedded, valkey
//! ```
//!
//! The file system ([`tree`]) is written once against [`engine::Engine`]; an engine knows records and chunks, and no
//! FUSE. Nothing here blocks or allocates after start; what an engine's own library does is said with the engine.

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
