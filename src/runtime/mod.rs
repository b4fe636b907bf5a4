//! Bringing devices up and serving them: one thread a core, each running its queues to completion.
//!
//! ```text
//! core thread:  for each device: for each queue: take chains ──> dispatch ──> backend
//!                                backend.poll()  ──> finished requests ──> complete ──> flush
//!               idle? spin a while, then sleep on epoll (busy: never)
//! ```
//!
//! [`Worker`] is the part of the loop for one device and needs no heap; the rest is for the daemon.

#[cfg(feature = "daemon")]
pub mod budget;
#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "std")]
mod core_loop;
#[cfg(feature = "std")]
mod device;
#[cfg(feature = "daemon")]
mod fsck;
#[cfg(all(feature = "daemon", feature = "snap"))]
mod functions;
mod lane;
#[cfg(all(feature = "daemon", feature = "defmt"))]
pub mod log_ring;
#[cfg(feature = "daemon")]
mod notify;
#[cfg(feature = "daemon")]
mod open;
#[cfg(feature = "daemon")]
pub mod probe;
pub mod qos;
#[cfg(feature = "daemon")]
pub mod sandbox;
#[cfg(feature = "daemon")]
mod selftest;
#[cfg(feature = "daemon")]
mod serve;
#[cfg(feature = "std")]
pub mod stats;
#[cfg(feature = "std")]
pub mod warden;
mod worker;

/// What a build without libsnap says when it is asked for a function.
#[cfg(all(feature = "daemon", not(feature = "snap")))]
const NO_SNAP: &str =
    "this build has no SNAP HAL: build with the feature snap, where libsnap is installed";

#[cfg(feature = "std")]
pub use core_loop::{CoreLoop, Polling, Stop};
#[cfg(feature = "std")]
pub use device::{Backend, Control, Device, SessionEvents, Share, spread};
pub use lane::{Lane, Served};
#[cfg(feature = "daemon")]
pub use serve::{ServeError, serve};
pub use worker::{Admission, Load, Observer, Worker};
