//! What the fuzz targets do with their input. Each has a module with a `run`, so that a seed or a finding can be
//! replayed without a fuzzer (`cargo test` does so with every seed).
//!
//! Inputs are small programs, not only bytes: a step says what to do, its operands are mostly near what is right, and
//! anything can still be anything. [`tape`] reads and writes them, so that `cargo run --example seeds` can make seeds
//! out of real requests.

pub mod boot_stream;
pub mod config;
pub mod fuse_decode;
pub mod guest;
pub mod nfs_reply;
pub mod ramcloud_reply;
pub mod resp_reply;
pub mod tape;
pub mod vhost_user_message;
pub mod virtq_chain;
