//! File systems: what stands behind a device.
//!
//! A backend has two halves. The [`crate::fuse::Volume`] is shared by the device's cores: configuration, node table,
//! open files. The [`crate::fuse::FileSystem`] belongs to one core: its connections, rings and pending replies.
//! A backend never knows where its requests come from.

#[cfg(feature = "kv")]
pub mod kv;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "nfs")]
pub mod nfs;
pub mod null;
#[cfg(all(feature = "std", any(feature = "kv", feature = "nfs")))]
pub mod tls;
