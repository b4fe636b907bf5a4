//! virtio-fs functions of a BlueField DPU, through NVIDIA's libsnap: what the host sees is a PCIe device.
//!
//! ```text
//!  host ══PCIe══ RDMA ══ libsnap ──handler──> Intake ──poll──> SnapQueue > FUSE > backend
//!                           │   core's thread: poll groups of every function
//!                           └── management: a thread for each function ──reset──> session
//! ```
//!
//! libsnap is reached through a shim of our own (`board/bluefield2/snap_shim.h`), and the shim alone knows its headers.
//! libsnap spreads the virtqueues of a function over poll groups, and each group is a [`SnapQueue`] of some core.
//!
//! # Ending a request
//! - **now** (stock libsnap): the handler must not return before the request ended, while the core has other queues to
//!   serve and the backend needs polling. So libsnap polls on a stack of its own, see [`fiber`]: its handler hands the
//!   request over and stands still until the request is completed. One request of a poll group is under way at a time;
//! - **later** (patched libsnap, `SNAP_ASYNC=1` at build): the handler returns at once, any number is under way.
//!
//! # What the host gets
//! libsnap sends every writable descriptor whole. What a reply did not fill is zeroed first: it holds what was there from
//! other requests, of other tenants maybe.
//!
//! # When a function comes and goes
//! VFs exist once the host switched them on, maybe long after the daemon's start, and may go again. Management opens and
//! closes controllers; a core follows between two requests, and a controller is closed when no core holds it any more.
//! At shutdown a function is suspended first, until no request is under way. After a crash libsnap recovers what the
//! host's driver has going; its session with the daemon is gone then, so its requests fail until it mounts anew.
//!
//! # Never
//! Sleeping: libsnap can only be polled. Live migration. A host that resets its function while a request waits for a
//! server that is away waits, too: stock libsnap holds a lock meanwhile.

mod ffi;
mod fiber;
mod function;
mod manager;
mod queue;

pub use function::{Control, MAX_REQUEST_QUEUES, SnapConfig, open};
pub use manager::{Limits, ManagerInfo, Pf, SnapError, managers};
pub use queue::SnapQueue;

/// Tell whether this build's libsnap lets requests end after their handler returned.
pub fn completes_later() -> bool {
    // SAFETY: a constant of the shim.
    unsafe { ffi::dpfs_snap_completes_later() }
}

/// Tell whether this build is linked with the emulated libsnap.
pub fn is_emulated() -> bool {
    // SAFETY: a constant of the shim.
    unsafe { ffi::dpfs_snap_is_emulated() }
}
