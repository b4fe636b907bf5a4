//! Emulation managers: the RDMA devices through which a DPU's functions are emulated.

use core::ffi::CStr;
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr;
use std::ffi::CString;
use std::string::{String, ToString};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::vec::Vec;

use super::ffi;
use super::function::Function;
use crate::wire::errno::Errno;

/// Say why an emulation manager or a function cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapError {
    /// There is no emulation manager of that name; those that are there.
    NoManager(String, Vec<String>),
    /// libsnap does not open the emulation manager.
    Manager(String, Errno),
    /// The firmware does not emulate virtio-fs.
    NoVirtioFs(String),
    /// There is no such physical function; how many there are.
    NoPf(u32, u32),
    /// The physical function is not plugged in, and hot-plug did not work.
    Unplugged(u32, Errno),
    /// More queues than the function can have, the hiprio queue included.
    Queues(u32, u32),
    /// libsnap does not open the function's controller.
    Controller(String, Errno),
    /// The configuration cannot be.
    Invalid(&'static str),
}

impl fmt::Display for SnapError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoManager(name, there) if there.is_empty() => {
                write!(
                    out,
                    "emulation manager {name:?}: this machine has no RDMA device"
                )
            }
            Self::NoManager(name, there) => {
                write!(
                    out,
                    "emulation manager {name:?}: there is none; allowed: {}",
                    there.join(", ")
                )
            }
            Self::Manager(name, error) => write!(
                out,
                "emulation manager {name:?}: libsnap does not open it: {error}; it must be a DPU's own device, and \
                 nothing else may emulate through it"
            ),
            Self::NoVirtioFs(name) => write!(
                out,
                "emulation manager {name:?}: the firmware does not emulate virtio-fs; `dpfs devices` says how to set it"
            ),
            Self::NoPf(pf, 0) => write!(out, "pf = {pf}: the firmware has no physical function"),
            Self::NoPf(pf, pfs) => {
                write!(out, "pf = {pf}: there is none; allowed: 0 to {}", pfs - 1)
            }
            Self::Unplugged(pf, Errno::EOPNOTSUPP) => write!(
                out,
                "pf = {pf}: not plugged in, and the firmware has no hot-plug; `dpfs devices` says how to set it"
            ),
            Self::Unplugged(pf, Errno::EBUSY) => {
                write!(
                    out,
                    "pf = {pf}: not plugged in, and another function would be plugged in first"
                )
            }
            Self::Unplugged(pf, error) => {
                write!(
                    out,
                    "pf = {pf}: not plugged in, and hot-plug failed: {error}"
                )
            }
            Self::Queues(queues, most) => write!(
                out,
                "{queues} virtqueues (one is for FORGETs); allowed by the firmware: {most}"
            ),
            Self::Controller(function, error) => {
                write!(
                    out,
                    "{function}: libsnap does not open its controller: {error}"
                )
            }
            Self::Invalid(what) => out.write_str(what),
        }
    }
}

impl std::error::Error for SnapError {}

pub(super) fn check(result: i32) -> Result<(), Errno> {
    match result {
        0 => Ok(()),
        error => Err(Errno::from_os(error)),
    }
}

/// What an emulation manager's firmware can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// It emulates virtio-fs.
    pub virtio_fs: bool,
    /// Physical functions can be plugged in.
    pub hotplug: bool,
    /// Physical functions, plugged in or not.
    pub pfs: u32,
    /// Virtqueues of a function, the hiprio queue included.
    pub virtqueues: u32,
}

/// How a physical function stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pf {
    /// The host sees it.
    pub plugged: bool,
    /// VFs that the host switched on.
    pub vfs: u32,
    /// Its address on the host's bus.
    pub pci: String,
}

/// An open emulation manager.
pub(super) struct Manager {
    name: String,
    /// Also the lock under which libsnap's view of the functions changes.
    handle: Mutex<Handle>,
    /// Functions that are served, for PFs to find their VFs.
    functions: Mutex<Vec<Weak<Function>>>,
}

pub(super) struct Handle(*mut ffi::dpfs_snap_manager);

// SAFETY: libsnap's context has no thread of its own; it is used under a lock.
unsafe impl Send for Handle {}

impl Handle {
    pub(super) fn raw(&self) -> *mut ffi::dpfs_snap_manager {
        self.0
    }

    pub(super) fn limits(&self) -> Limits {
        let mut limits = MaybeUninit::uninit();
        // SAFETY: open; the shim fills it.
        let limits = unsafe {
            ffi::dpfs_snap_manager_limits(self.0, limits.as_mut_ptr());
            limits.assume_init()
        };
        Limits {
            virtio_fs: limits.virtio_fs,
            hotplug: limits.hotplug,
            pfs: limits.pfs,
            virtqueues: limits.virtqueues,
        }
    }

    pub(super) fn pf(&self, number: u32) -> Option<Pf> {
        let mut found = MaybeUninit::uninit();
        // SAFETY: open; the shim fills it when there is such a function.
        let found = unsafe {
            check(ffi::dpfs_snap_manager_pf(
                self.0,
                number,
                found.as_mut_ptr(),
            ))
            .ok()?;
            found.assume_init()
        };
        Some(Pf {
            plugged: found.plugged,
            vfs: found.vfs,
            pci: text(&found.pci),
        })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: open, and its functions are closed: each of them holds the manager.
        unsafe { ffi::dpfs_snap_manager_close(self.0) };
    }
}

/// Managers that are open. A process opens each once, however many functions it serves.
static OPEN: Mutex<Vec<Weak<Manager>>> = Mutex::new(Vec::new());

/// Nothing panics under these locks, and if something did, the process would be gone.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Manager {
    /// Open a manager, or find the one that is open.
    pub(super) fn open(name: &str) -> Result<Arc<Self>, SnapError> {
        let mut open = lock(&OPEN);
        open.retain(|manager| manager.strong_count() > 0);
        let mut managers = open.iter().filter_map(Weak::upgrade);
        if let Some(manager) = managers.find(|manager| manager.name == name) {
            return Ok(manager);
        }
        let no_manager = || SnapError::NoManager(name.to_string(), names());
        let c_name = CString::new(name).map_err(|_| no_manager())?;
        let mut handle = ptr::null_mut();
        // SAFETY: a string with its NUL, and a place for the result.
        let opened = unsafe { ffi::dpfs_snap_manager_open(c_name.as_ptr(), &raw mut handle) };
        check(opened).map_err(|error| match error {
            Errno::ENODEV => no_manager(),
            error => SnapError::Manager(name.to_string(), error),
        })?;
        let manager = Arc::new(Self {
            name: name.to_string(),
            handle: Mutex::new(Handle(handle)),
            functions: Mutex::default(),
        });
        open.push(Arc::downgrade(&manager));
        Ok(manager)
    }

    pub(super) fn handle(&self) -> MutexGuard<'_, Handle> {
        lock(&self.handle)
    }

    pub(super) fn add(&self, function: &Arc<Function>) {
        let mut functions = lock(&self.functions);
        functions.retain(|function| function.strong_count() > 0);
        functions.push(Arc::downgrade(function));
    }

    /// Give the functions that are served.
    pub(super) fn functions(&self) -> Vec<Arc<Function>> {
        lock(&self.functions)
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }
}

fn text(bytes: &[core::ffi::c_char]) -> String {
    // SAFETY: the shim leaves a NUL at the end.
    let text = unsafe { CStr::from_ptr(bytes.as_ptr()) };
    text.to_string_lossy().into_owned()
}

/// Name the RDMA devices, which may be emulation managers.
fn names() -> Vec<String> {
    let name = |index| {
        let mut name = [0; ffi::DPFS_SNAP_NAME as usize];
        // SAFETY: room for a name.
        let found = unsafe { ffi::dpfs_snap_manager_name(index, name.as_mut_ptr()) };
        check(found).ok().map(|()| text(&name))
    };
    (0..).map_while(name).collect()
}

/// What was found out about an RDMA device.
#[derive(Clone, Debug)]
pub struct ManagerInfo {
    /// Its name, like `mlx5_0`.
    pub name: String,
    /// What it can do, and its physical functions; or why it cannot be opened.
    pub found: Result<(Limits, Vec<Pf>), SnapError>,
}

/// Look at every RDMA device of this machine. Each is opened and closed again.
pub fn managers() -> Vec<ManagerInfo> {
    let look = |name: &String| {
        let manager = Manager::open(name)?;
        let handle = manager.handle();
        let limits = handle.limits();
        let pfs = (0..limits.pfs).filter_map(|pf| handle.pf(pf)).collect();
        Ok((limits, pfs))
    };
    names()
        .into_iter()
        .map(|name| ManagerInfo {
            found: look(&name),
            name,
        })
        .collect()
}
