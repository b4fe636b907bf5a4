//! An emulated libsnap: the entry points of NVIDIA's library that DPFS uses, with no DPU behind them.
//!
//! The SNAP HAL and its C shim are compiled against this library's headers (`include/`) and linked with it as they
//! would be with NVIDIA's; nothing in them knows the difference. The host is played by whoever connects to a vhost-user
//! socket: a real guest kernel under User-Mode Linux or QEMU, or a test.
//!
//! ```text
//!  guest kernel ══vhost-user══ queue ──copies──> command ──handle_req──> shim > HAL > FUSE > backend
//!     host's memory                     DPU memory       <──done or now──
//! ```
//!
//! # Faithful to
//! - **framing**: the first descriptor is the FUSE header (64 bytes at most); the first writable one has exactly the 16
//!   bytes of the reply's header; the hiprio queue has no writable ones; a chain has no more descriptors than the queue.
//!   What breaks that is answered with `EINVAL`;
//! - **full-length writes**: every writable descriptor is sent whole, and holds `0xA5`, for what earlier requests left,
//!   where it was not filled; the used length is the sum of all;
//! - **completion**: stock libsnap takes every result but 0 for `EIO` and completes at once; patched libsnap (`mode=later`)
//!   takes `EWOULDBLOCK` for a request that will be completed through its context;
//! - **poll groups**: a queue goes to the one with the fewest; a spin lock is held while a group is polled, in the
//!   handler, too; all controllers of a process must ask for the same number of them;
//! - **states**: stopped, started, suspending until the last request is done, suspended; a reset by the host arrives as a
//!   function-level reset with its call-backs, in the thread that progresses the controller;
//! - **SR-IOV and hot-plug**: VFs come and go as the host says, physical functions as the DPU says.
//!
//! # Not faithful to
//! RDMA, firmware limits of time, interrupts' cost, live migration; a driver's reset is not told from an FLR. Recovering
//! a controller that lived through its daemon's crash is played by a front-end that comes back with its record of
//! requests in flight.
//!
//! What is emulated is said by the environment, see [`firmware`].

mod bindings;
mod context;
mod controller;
mod firmware;
mod queue;
mod verbs;
