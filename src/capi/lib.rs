//! The core of DPFS for programs in C: a device, its workers and a transport of the caller's, as `dpfs.h` describes.
//!
//! Every function checks what it can of its arguments, says on standard error what is wrong with them, and calls the core;
//! there is no logic here. Built without `std`: no allocation, no threads, no unwinding. What is public here is in
//! `dpfs.h` with its contract; a test compiles a program against that header and compares the layouts.
#![cfg_attr(not(feature = "std"), no_std)]

mod device;
mod queue;
mod worker;

use core::ffi::c_int;
use core::mem::MaybeUninit;

use dpfs::mem::Arena;

/// Version of the header that this library implements.
const VERSION: u32 = 0x00_01_00;

/// Give [`VERSION`].
#[unsafe(no_mangle)]
pub extern "C" fn dpfs_version() -> u32 {
    VERSION
}

const EINVAL: c_int = -libc::EINVAL;
const ENOMEM: c_int = -libc::ENOMEM;

/// Check a value, or say what was found and what is allowed, and return.
macro_rules! require {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            dpfs::log::error!($($text)+);
            return $crate::EINVAL;
        }
    };
}
use require;

/// Take over the caller's memory, zeroed.
///
/// # Safety
/// The `bytes` from `memory` on are the library's alone until the object made of them is used no more.
unsafe fn arena(memory: *mut u8, bytes: usize) -> Arena {
    // SAFETY: as the caller says.
    unsafe { memory.write_bytes(0, bytes) };
    // SAFETY: as the caller says; the bytes are zero now. No object outlives what the caller promised, for only its
    // pointer leads to it.
    unsafe {
        let memory = core::slice::from_raw_parts_mut(memory.cast::<MaybeUninit<u8>>(), bytes);
        Arena::new(memory)
    }
}

/// Say that the caller's memory was too little.
fn too_little(what: &str, bytes: usize, needed: usize) -> c_int {
    dpfs::log::error!(
        "{}: found {} bytes of memory; allowed: at least {}",
        what,
        bytes,
        needed
    );
    ENOMEM
}

/// End the process: nothing may unwind into a program in C.
#[cfg(not(feature = "std"))]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    dpfs::log::error!("defect: {}", dpfs::log::Show(info));
    // SAFETY: ends the process.
    unsafe { libc::abort() }
}

/// Rust's own objects name this function in their tables for unwinding, which nothing does here.
#[cfg(not(feature = "std"))]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {
    // SAFETY: ends the process.
    unsafe { libc::abort() }
}
