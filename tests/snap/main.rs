//! The SNAP HAL over the emulated libsnap (`board/snap-emu`), whose hosts are front-ends of these tests.
//!
//! Built with `SNAP_ASYNC=1` the same tests run with requests that end later, otherwise with requests that end in their
//! handler.

mod bed;
mod chain;
mod coming_and_going;
mod counting;
mod daemon;
#[allow(dead_code, reason = "shared with the tests of vhost-user")]
#[path = "../vhost_user/frontend.rs"]
mod frontend;
mod program;
mod requests;
