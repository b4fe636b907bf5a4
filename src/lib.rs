//! DPFS: a file system client that runs on a DPU.
//!
//! The host mounts a plain virtio-fs device; everything behind that device runs here. A request enters through a
//! [`hal`], is decoded by [`fuse`], answered by a [`backend`], and leaves the way it came:
//!
//! ```text
//! host kernel                       one thread per core, no locks between cores on this path
//! VFS > FUSE > virtio-fs ==ring==>  hal --> fuse --> backend --> storage
//!                                   hal <-- fuse <-- backend <--
//! ```
//!
//! Each layer may use only those above it in this list:
//!
//! 1. [`wire`]: byte layouts. No I/O, no state, no panics.
//! 2. [`mem`]: fixed storage, reserved once. Never allocates, never blocks.
//! 3. [`sys`]: the one shim over `libc`. Knows no protocol.
//! 4. [`virtq`]: split virtqueues. Knows nothing of FUSE.
//! 5. [`hal`]: where requests come from. Knows no backend.
//! 6. [`fuse`]: session, decode, dispatch, replies, the [`fuse::FileSystem`] trait. Knows neither HAL nor backend.
//! 7. [`backend`]: file systems. Know no HAL.
//! 8. [`runtime`]: the core loop, devices, configuration, statistics. No protocol code.
//!
//! [`log`] and [`board`] stand beside them: every layer from [`virtq`] on may write a line and read a limit.
//!
//! Principles that hold everywhere:
//!
//! 1. The core is `no_std` without `alloc`; feature `std` is for start-up and for development machines.
//! 2. Nothing is allocated after start.
//! 3. Every capacity is a named constant or configuration; "full" has a defined answer and never panics.
//! 4. The host is not trusted: headers are copied out once, then checked; no reference into host memory is formed.
//! 5. Host and DPU are different machines: flags and layouts on the wire are the host's.
//! 6. A reply happens exactly once, by type.
//! 7. State machines do no I/O and read no clock.
//! 8. `unsafe` lives in [`sys`], [`hal`], [`virtq`] and [`mem`], and in the library for C, which is a crate of its own
//!    (`src/capi/`).
#![no_std]

#[cfg(feature = "std")]
#[macro_use]
extern crate std;

#[cfg(target_endian = "big")]
compile_error!("FUSE and virtio structures are laid out for little-endian machines");

#[deny(unsafe_code)]
pub mod board;

#[deny(unsafe_code)]
pub mod wire;

pub mod mem;

pub mod sys;

#[deny(unsafe_code)]
pub mod log;

pub mod virtq;

pub mod hal;

#[deny(unsafe_code)]
pub mod fuse;

#[deny(unsafe_code)]
pub mod backend;

#[deny(unsafe_code)]
pub mod runtime;
