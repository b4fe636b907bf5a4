//! `struct dpfs_device`: what the workers of one host share.

use core::ffi::{c_int, c_void};

use dpfs::backend::null::{self, Null};
use dpfs::fuse::{Limits, Session};
use dpfs::mem::{Arena, OutOfMemory};
use dpfs::runtime::qos::Limiter;
use dpfs::wire::open_flags::ClientArch;

use crate::{EINVAL, arena, require, too_little};

/// `struct dpfs_config`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Config {
    size: u32,
    host: u32,
    max_write: u32,
    max_background: u32,
    iops: u64,
    bandwidth: u64,
    file_size: u64,
}

const _: () = assert!(size_of::<Config>() == 40);

/// `struct dpfs_device`.
pub struct Device {
    pub(crate) session: Session,
    pub(crate) limiter: Limiter,
    pub(crate) null: Null,
}

/// What [`Device`] and its volume take, at any alignment of the caller's memory.
const MEMORY: usize =
    size_of::<Device>() + align_of::<Device>() + size_of::<Null>() + align_of::<Null>();

/// See `dpfs.h`.
#[unsafe(no_mangle)]
pub extern "C" fn dpfs_device_memory() -> usize {
    MEMORY
}

/// See `dpfs.h`.
///
/// # Safety
/// `config` points to a configuration of the size it states, `memory` to `bytes` bytes that are the library's, and
/// `device` to a pointer; or they are null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpfs_device_new(
    config: *const Config,
    memory: *mut c_void,
    bytes: usize,
    device: *mut *mut Device,
) -> c_int {
    const WHAT: &str = "dpfs_device_new";
    require!(
        !config.is_null() && !memory.is_null() && !device.is_null(),
        "{}: found a null pointer; allowed: none",
        WHAT
    );
    // SAFETY: not null; its first field is there whatever its version.
    let size = unsafe { (*config).size } as usize;
    require!(
        size == size_of::<Config>(),
        "{}: size: found {}; allowed: {}, of version {:#x}",
        WHAT,
        size,
        size_of::<Config>(),
        crate::VERSION
    );
    // SAFETY: not null, and as long as ours.
    let config = unsafe { *config };
    let arch = match config.host {
        0 => ClientArch::X86_64,
        1 => ClientArch::Aarch64,
        other => {
            require!(false, "{}: host: found {}; allowed: 0, 1", WHAT, other);
            return EINVAL;
        }
    };
    require!(
        config.max_write.is_multiple_of(4096) && config.max_write <= 1 << 20,
        "{}: max_write: found {}; allowed: multiples of 4096 up to 1048576",
        WHAT,
        config.max_write
    );
    require!(
        config.max_background <= u32::from(u16::MAX),
        "{}: max_background: found {}; allowed: up to 65535",
        WHAT,
        config.max_background
    );
    let mut limits = Limits::default();
    if config.max_write > 0 {
        limits.max_write = config.max_write;
    }
    if config.max_background > 0 {
        limits.max_background = config.max_background as u16;
    }
    // SAFETY: not null; the caller's promise.
    let arena = unsafe { arena(memory.cast(), bytes) };
    match build(&arena, &config, limits, arch) {
        Ok(made) => {
            // SAFETY: not null, so a place for a pointer.
            unsafe { device.write(made) };
            0
        }
        Err(_) => too_little(WHAT, bytes, MEMORY),
    }
}

fn build(
    arena: &Arena,
    config: &Config,
    limits: Limits,
    arch: ClientArch,
) -> Result<&'static mut Device, OutOfMemory> {
    let mut looks = null::Config::default();
    if config.file_size > 0 {
        looks.file_size = config.file_size;
    }
    let null = Null::new(looks);
    let limit = |value| (value > 0).then_some(value);
    arena.place(Device {
        session: Session::new(arena.place(null)?, limits, arch),
        limiter: Limiter::new(limit(config.iops), limit(config.bandwidth)),
        null,
    })
}

/// See `dpfs.h`.
///
/// # Safety
/// `device` was made by [`dpfs_device_new`] and its memory is still the library's, or it is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpfs_device_reset(device: *const Device) -> c_int {
    // SAFETY: as the caller says; a device is only ever shared.
    match unsafe { device.as_ref() } {
        Some(device) => {
            device.session.reset();
            0
        }
        None => EINVAL,
    }
}
