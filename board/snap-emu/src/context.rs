//! An open emulation manager: its functions and what they may have.

use std::collections::HashSet;
use std::ffi::{CStr, c_char, c_int};
use std::ptr;
use std::sync::Mutex;

use crate::bindings::*;
use crate::firmware::{Firmware, complain};

/// What `struct snap_context` points into, which comes first.
#[repr(C)]
pub struct Context {
    /// What programs see.
    seen: snap_context,
    verbs: Box<ibv_context>,
    /// As long as it was made, so that pointers into it stay.
    functions: Box<[snap_pci]>,
    pub firmware: Firmware,
    /// Functions that a controller drives: PF, and VF or -1.
    pub driven: Mutex<HashSet<(i32, i32)>>,
}

impl Context {
    /// Give the context of a handle that a program has.
    ///
    /// # Safety
    /// It is open, as the interface asks for.
    pub unsafe fn of<'a>(seen: *mut snap_context) -> &'a Self {
        // SAFETY: `seen` is the first field of what `snap_open` made.
        unsafe { &*seen.cast() }
    }

    /// Name a function as its files are named.
    pub fn name(&self, pf: i32, vf: i32) -> String {
        // SAFETY: the device lives for ever and its name ends within its room.
        let manager = unsafe { CStr::from_ptr((*self.verbs.device).name.as_ptr()) };
        let manager = manager.to_string_lossy();
        match vf {
            ..0 => format!("{manager}-pf{pf}"),
            vf => format!("{manager}-pf{pf}vf{vf}"),
        }
    }
}

fn function(sctx: *mut snap_context, id: u32, firmware: &Firmware) -> snap_pci {
    let plugged = id < firmware.pfs;
    let mut pci_number = [0; 16];
    let number = format!("0000:{:02x}:00.{}", 3 + id / 8, id % 8);
    for (to, from) in pci_number.iter_mut().zip(number.bytes()) {
        *to = from as c_char;
    }
    snap_pci {
        sctx,
        type_: SNAP_VIRTIO_FS_PF,
        plugged,
        id: id as c_int,
        pci_number,
        num_vfs: if plugged { firmware.vfs as c_int } else { 0 },
        hotplugged: false,
    }
}

/// Open an emulation manager.
#[unsafe(no_mangle)]
extern "C" fn snap_open(device: *mut ibv_device) -> *mut snap_context {
    let firmware = match Firmware::read() {
        Ok(firmware) => firmware,
        Err(error) => {
            complain(error);
            return ptr::null_mut();
        }
    };
    let count = if firmware.fs {
        firmware.pfs + firmware.hotplug
    } else {
        0
    };
    let mut context = Box::new(Context {
        seen: snap_context {
            context: ptr::null_mut(),
            emulation_caps: if firmware.fs {
                SNAP_VIRTIO_FS as c_int
            } else {
                0
            },
            virtio_fs_pfs: snap_pfs_ctx {
                type_: SNAP_VIRTIO_FS,
                max_pfs: count as c_int,
                pfs: ptr::null_mut(),
            },
            virtio_fs_caps: snap_virtio_caps {
                max_emulated_virtqs: firmware.virtqs,
                max_tunnel_desc: 4,
            },
            hotplug_supported: firmware.hotplug > 0,
            hotplug: snap_hotplug_context {
                supported_types: SNAP_VIRTIO_FS as c_int,
                max_devices: firmware.hotplug as u8,
                max_total_vfs: 0,
            },
        },
        verbs: Box::new(ibv_context { device }),
        functions: Box::new([]),
        firmware,
        driven: Mutex::default(),
    });
    let seen = &raw mut context.seen;
    let firmware = &context.firmware;
    context.functions = (0..count).map(|id| function(seen, id, firmware)).collect();
    context.seen.context = &raw mut *context.verbs;
    context.seen.virtio_fs_pfs.pfs = context.functions.as_mut_ptr();
    Box::into_raw(context).cast()
}

/// Close an emulation manager.
#[unsafe(no_mangle)]
extern "C" fn snap_close(sctx: *mut snap_context) {
    // SAFETY: made by `snap_open`, closed once by contract.
    drop(unsafe { Box::from_raw(sctx.cast::<Context>()) });
}

/// Plug a physical function in: the first that is not.
#[unsafe(no_mangle)]
extern "C" fn snap_hotplug_pf(
    sctx: *mut snap_context,
    attr: *mut snap_hotplug_attr,
) -> *mut snap_pci {
    // SAFETY: open, and the caller lends the attributes.
    let (pfs, attr) = unsafe { (&(*sctx).virtio_fs_pfs, &*attr) };
    if attr.type_ != SNAP_VIRTIO_FS {
        complain("hot-plug of another type");
        return ptr::null_mut();
    }
    for id in 0..pfs.max_pfs as usize {
        // SAFETY: so many functions are there.
        let pf = unsafe { &mut *pfs.pfs.add(id) };
        if !pf.plugged {
            pf.plugged = true;
            pf.hotplugged = true;
            return pf;
        }
    }
    complain("no function is left to be plugged in");
    ptr::null_mut()
}

/// Take a function away that was plugged in.
#[unsafe(no_mangle)]
extern "C" fn snap_hotunplug_pf(pf: *mut snap_pci) -> c_int {
    // SAFETY: a function of an open manager.
    let pf = unsafe { &mut *pf };
    if !pf.hotplugged {
        complain("a function that was not plugged in cannot be taken away");
        return -libc::EINVAL;
    }
    pf.plugged = false;
    pf.hotplugged = false;
    0
}

/// Learn of a physical function's VFs anew.
///
/// Where libsnap would go on with controllers of functions that are gone, this refuses.
#[unsafe(no_mangle)]
extern "C" fn snap_rescan_vfs(pf: *mut snap_pci, count: usize) -> c_int {
    // SAFETY: a function of an open manager.
    let pf = unsafe { &mut *pf };
    // SAFETY: as above.
    let context = unsafe { Context::of(pf.sctx) };
    let driven = context.driven.lock().expect("nothing panics");
    if driven
        .iter()
        .any(|&(of, vf)| of == pf.id && vf >= count as i32)
    {
        complain("VFs were taken away under their controllers");
        return -libc::EBUSY;
    }
    pf.num_vfs = count as c_int;
    0
}
