//! The verbs: a list of devices, and protection domains that protect nothing.

use std::ffi::{c_char, c_int};
use std::ptr;

use crate::bindings::{ibv_context, ibv_device, ibv_pd};
use crate::firmware::{Firmware, complain};

/// Make a device of that name. It is never freed: programs may keep it, as with rdma-core while a context is open.
fn device(name: &str) -> *mut ibv_device {
    let mut device = ibv_device { name: [0; 64] };
    for (to, from) in device.name.iter_mut().zip(name.bytes().take(63)) {
        *to = from as c_char;
    }
    Box::into_raw(Box::new(device))
}

/// List the emulation managers, with a null behind the last.
#[unsafe(no_mangle)]
extern "C" fn ibv_get_device_list(count: *mut c_int) -> *mut *mut ibv_device {
    let names = Firmware::read().map(|firmware| firmware.managers);
    let names = names.unwrap_or_else(|error| {
        complain(error);
        Vec::new()
    });
    // SAFETY: zeroed memory for so many pointers, or none.
    let list = unsafe { libc::calloc(names.len() + 1, size_of::<*mut ibv_device>()) };
    let list = list.cast::<*mut ibv_device>();
    if list.is_null() {
        return list;
    }
    for (index, name) in names.iter().enumerate() {
        // SAFETY: there is room for all of them and the null.
        unsafe { list.add(index).write(device(name)) };
    }
    if !count.is_null() {
        // SAFETY: the caller lends a number.
        unsafe { *count = names.len() as c_int };
    }
    list
}

/// Free a list.
#[unsafe(no_mangle)]
extern "C" fn ibv_free_device_list(list: *mut *mut ibv_device) {
    // SAFETY: it was allocated above, and callers free it once.
    unsafe { libc::free(list.cast()) };
}

/// Give a device's name.
#[unsafe(no_mangle)]
extern "C" fn ibv_get_device_name(device: *mut ibv_device) -> *const c_char {
    // SAFETY: devices are never freed.
    unsafe { (&raw const (*device).name).cast() }
}

/// Make a protection domain.
#[unsafe(no_mangle)]
extern "C" fn ibv_alloc_pd(context: *mut ibv_context) -> *mut ibv_pd {
    if context.is_null() {
        return ptr::null_mut();
    }
    Box::into_raw(Box::new(ibv_pd { context }))
}

/// Free a protection domain.
#[unsafe(no_mangle)]
extern "C" fn ibv_dealloc_pd(pd: *mut ibv_pd) -> c_int {
    // SAFETY: made above, and freed once by contract.
    drop(unsafe { Box::from_raw(pd) });
    0
}
