//! Byte layouts: what the protocols put on the wire, as checked views and small plain values.
//!
//! This layer does no I/O, keeps no state and cannot panic on any input. Integers are native, that is little-endian:
//! the crate refuses to build for anything else.

pub mod errno;
pub mod fuse;
pub mod nfs4;
pub mod open_flags;
pub mod ramcloud;
pub mod resp;
pub mod rpc;
pub mod vhost_user;
pub mod virtio_fs;
pub mod xdr;
