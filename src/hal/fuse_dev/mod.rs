//! A mount of this machine through `/dev/fuse`: how a developer runs a backend on a laptop, with no guest and no DPU.
//!
//! ```text
//! VFS > FUSE ==/dev/fuse==> clone of the device, one for each queue ──read──> request buffer of a slot
//!                                                                   <─write── reply buffer of the slot
//! ```
//!
//! [`mount`] mounts as root by mount(2), otherwise with the help of `fusermount3` (Debian: package `fuse3`), and gives
//! one [`FuseQueue`] for each core: clones of the device take requests side by side, and a request is answered through
//! the clone that it came from. Bytes are copied by the kernel, so segments are not the host's memory; data begins on
//! a page in both buffers, as `O_DIRECT` below wants it.
//!
//! INTERRUPT, FORGET and BATCH_FORGET all arrive here. There is no DESTROY: a device whose mount is gone ends, tells
//! [`super::Events::reset`] and gives no more requests. An end comes from an unmount, from
//! `/sys/fs/fuse/connections/N/abort`, or from the death of the daemon, which leaves a mount point that answers
//! "Transport endpoint is not connected" until it is cleared ([`MountError::Stale`] names the command).
//!
//! **Not supported:** FUSE over io_uring, splice, notifications to the kernel. Unmounting needs what mounting needed:
//! a daemon that gives up root or locks itself in afterwards leaves a mount point to clear.

mod error;
mod mount;
mod queue;

pub use error::MountError;
pub use mount::{Config, FuseMount, Method, Mounted, mount};
pub use queue::FuseQueue;
