//! A file system on a key-value engine.

pub mod engine;
