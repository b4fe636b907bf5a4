//! The controller of one function: states, poll groups, and a vhost-user socket as its host.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::fs;
use std::path::PathBuf;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use dpfs::hal::Events;
use dpfs::hal::vhost_user::{self, Control, VhostUserConfig};

use crate::bindings::*;
use crate::context::Context;
use crate::firmware::complain;
use crate::queue::VirtQueue;

const STOPPED: u32 = 0;
const STARTED: u32 = 1;
const SUSPENDED: u32 = 2;
const SUSPENDING: u32 = 3;

/// Queues of each poll group, over all controllers; as many groups as the first controller asked for.
static USAGE: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// What the host did that the controller has not seen yet.
#[derive(Default)]
struct Host {
    reset: AtomicBool,
}

impl Events for Host {
    fn reset(&self) {
        self.reset.store(true, Ordering::Release);
    }
}

/// Queues, in boxes: their commands point to them.
type Queues = Vec<Box<VirtQueue>>;

/// A poll group: queues, and the lock under which they are polled.
struct Group {
    locked: AtomicBool,
    queues: UnsafeCell<Queues>,
}

// SAFETY: the queues are only reached under the lock, or by completions in the thread that polls the group.
unsafe impl Sync for Group {}

impl Group {
    /// Run under the lock; waits by spinning, as long as it takes.
    fn with<T>(&self, run: impl FnOnce(*mut Queues) -> T) -> T {
        while self.locked.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
        let result = run(self.queues.get());
        self.locked.store(false, Ordering::Release);
        result
    }
}

/// What `struct snap_virtio_fs_ctrl` is the first field of.
#[repr(C)]
struct Controller {
    seen: snap_virtio_fs_ctrl,
    context: *mut snap_context,
    function: (i32, i32),
    calls: snap_virtio_ctrl_bar_cbs,
    call_context: *mut c_void,
    state: AtomicU32,
    groups: Vec<Group>,
    host: &'static Host,
    control: Control,
    /// Where the host says how many VFs it wants, and how many there are.
    vfs: Option<(PathBuf, Option<u16>)>,
}

impl Controller {
    /// # Safety
    /// The handle is open.
    unsafe fn of<'a>(seen: *mut snap_virtio_ctrl) -> &'a Self {
        // SAFETY: first field of the first field.
        unsafe { &*seen.cast() }
    }

    fn each_queue(&self, mut run: impl FnMut(&mut VirtQueue)) {
        for group in &self.groups {
            group.with(|queues| {
                // SAFETY: under the lock.
                unsafe { &mut *queues }
                    .iter_mut()
                    .for_each(|queue| run(queue));
            });
        }
    }

    fn call(&self, call: Option<unsafe extern "C" fn(*mut c_void) -> c_int>) -> c_int {
        // SAFETY: the program's own function and context.
        call.map_or(0, |call| unsafe { call(self.call_context) })
    }

    /// Reset, as the host wants: its queues are quiet already, because vhost-user waits for them.
    fn reset(&self) {
        if self.call(self.calls.pre_flr) != 0 {
            self.host.reset.store(true, Ordering::Release);
            return;
        }
        self.call(self.calls.stop);
        self.state.store(STOPPED, Ordering::Release);
        self.each_queue(VirtQueue::resume);
        self.call(self.calls.post_flr);
    }

    fn look_at_vfs(&mut self) {
        let Some((path, last)) = &mut self.vfs else {
            return;
        };
        let text = fs::read_to_string(path).unwrap_or_default();
        let Ok(count) = text.trim().parse::<u16>() else {
            return;
        };
        if *last == Some(count) {
            return;
        }
        let changed = match self.calls.num_vfs_changed {
            // SAFETY: the program's own function and context.
            Some(call) => unsafe { call(self.call_context, count) },
            None => {
                complain("nobody hears of the number of VFs");
                0
            }
        };
        if changed == 0 {
            *last = Some(count);
        }
    }
}

/// Give a queue the number of its group.
fn least_used(groups: u32) -> usize {
    let mut usage = USAGE.lock().expect("nothing panics");
    let count = groups as usize;
    let least = (0..count).min_by_key(|&group| usage[group]);
    let least = least.expect("there is a group");
    usage[least] += 1;
    least
}

fn claim_groups(groups: u32) -> bool {
    let mut usage = USAGE.lock().expect("nothing panics");
    if usage.is_empty() {
        usage.resize(groups as usize, 0);
    }
    usage.len() == groups as usize
}

/// Open the controller of a function.
#[unsafe(no_mangle)]
extern "C" fn snap_virtio_fs_ctrl_open(
    sctx: *mut snap_context,
    attr: *mut snap_virtio_fs_ctrl_attr,
    ops: *mut snap_fs_dev_ops,
    device: *mut c_void,
) -> *mut snap_virtio_fs_ctrl {
    // SAFETY: the caller lends all of them, and the manager is open.
    let opened = unsafe { open(sctx, &*attr, *ops, device) };
    opened.unwrap_or_else(|(error, why)| {
        complain(why);
        // SAFETY: this thread's own.
        unsafe { *libc::__errno_location() = error };
        ptr::null_mut()
    })
}

/// # Safety
/// The manager is open.
unsafe fn open(
    sctx: *mut snap_context,
    attr: &snap_virtio_fs_ctrl_attr,
    ops: snap_fs_dev_ops,
    device: *mut c_void,
) -> Result<*mut snap_virtio_fs_ctrl, (c_int, String)> {
    let refuse = |error: c_int, why: &str| Err((error, why.to_string()));
    // SAFETY: as the caller says.
    let (context, pfs) = unsafe { (Context::of(sctx), &(*sctx).virtio_fs_pfs) };
    let (common, regs) = (&attr.common, &attr.regs);
    let is_vf = common.pci_type == SNAP_VIRTIO_FS_VF;
    let function = (common.pf_id, if is_vf { common.vf_id } else { -1 });
    if !(0..pfs.max_pfs).contains(&common.pf_id) {
        return refuse(libc::ENODEV, "no such physical function");
    }
    // SAFETY: in range.
    let pf = unsafe { &*pfs.pfs.add(common.pf_id as usize) };
    if !pf.plugged || is_vf && !(0..pf.num_vfs).contains(&common.vf_id) {
        return refuse(libc::ENODEV, "no such function");
    }
    if common.bar_cbs.is_null() || common.pd.is_null() || ops.handle_req.is_none() {
        return refuse(
            libc::EINVAL,
            "call-backs, a protection domain and a handler are needed",
        );
    }
    let queues = u32::from(regs.num_request_queues) + 1;
    if queues > context.firmware.virtqs || !regs.queue_size.is_power_of_two() {
        return refuse(libc::EINVAL, "queues");
    }
    let groups = common.npgs.max(1);
    if !claim_groups(groups) {
        return refuse(
            libc::EINVAL,
            "another number of poll groups than the first controller's",
        );
    }
    if !context
        .driven
        .lock()
        .expect("nothing panics")
        .insert(function)
    {
        return refuse(libc::EBUSY, "the function has a controller");
    }
    let release = || {
        context
            .driven
            .lock()
            .expect("nothing panics")
            .remove(&function)
    };
    let tag: Vec<u8> = regs
        .tag
        .iter()
        .copied()
        .take_while(|&byte| byte != 0)
        .collect();
    let name = context.name(function.0, function.1);
    let config = VhostUserConfig {
        socket: context.firmware.dir.join(format!("{name}.sock")),
        mode: 0o600,
        tag: String::from_utf8_lossy(&tag).into_owned(),
        request_queues: regs.num_request_queues,
        interrupt_hold: 0,
        inband_notifications: false,
    };
    let host: &'static Host = Box::leak(Box::default());
    let (rings, control) = vhost_user::bind(&config, host).map_err(|error| {
        release();
        (
            libc::ENODEV,
            format!("{}: {error}", config.socket.display()),
        )
    })?;
    let mut grouped: Vec<Queues> = (0..groups).map(|_| Vec::new()).collect();
    for (index, ring) in rings.into_iter().enumerate() {
        let later = context.firmware.later;
        let queue = VirtQueue::new(ring, index == 0, regs.queue_size, later, ops, device);
        let Some(queue) = queue else {
            release();
            return refuse(libc::ENOMEM, "no memory for a queue");
        };
        grouped[least_used(groups)].push(queue);
    }
    let vfs = context.firmware.dir.join(format!("{name}.vfs"));
    let controller = Box::new(Controller {
        seen: snap_virtio_fs_ctrl {
            common: snap_virtio_ctrl {
                type_: SNAP_VIRTIO_FS_CTRL,
                max_queues: context.firmware.virtqs as usize,
            },
        },
        context: sctx,
        function,
        // SAFETY: not null, lent by the caller.
        calls: unsafe { *common.bar_cbs },
        call_context: common.cb_ctx,
        state: AtomicU32::new(STOPPED),
        groups: grouped
            .into_iter()
            .map(|queues| Group {
                locked: AtomicBool::new(false),
                queues: UnsafeCell::new(queues),
            })
            .collect(),
        host,
        control,
        vfs: (!is_vf).then_some((vfs, None)),
    });
    Ok(Box::into_raw(controller).cast())
}

/// Close a controller. Nobody polls it any more.
#[unsafe(no_mangle)]
extern "C" fn snap_virtio_fs_ctrl_close(ctrl: *mut snap_virtio_fs_ctrl) {
    // SAFETY: made by `open`, closed once by contract.
    let controller = unsafe { Box::from_raw(ctrl.cast::<Controller>()) };
    if controller.state.load(Ordering::Acquire) != STOPPED {
        controller.call(controller.calls.stop);
    }
    {
        let mut usage = USAGE.lock().expect("nothing panics");
        for (count, group) in usage.iter_mut().zip(&controller.groups) {
            *count -= group.with(|queues| {
                // SAFETY: under the lock.
                unsafe { &*queues }.len()
            });
        }
    }
    let Controller {
        groups,
        mut control,
        context,
        function,
        ..
    } = *controller;
    // Queues first: their control side learns that nobody answers any more.
    drop(groups);
    control.stop();
    // SAFETY: managers are closed after their controllers.
    let context = unsafe { Context::of(context) };
    context
        .driven
        .lock()
        .expect("nothing panics")
        .remove(&function);
}

/// Look at what the host did to the device.
#[unsafe(no_mangle)]
extern "C" fn snap_virtio_fs_ctrl_progress(ctrl: *mut snap_virtio_fs_ctrl) {
    // SAFETY: open, and only one thread manages a controller. Others only reach its groups.
    let controller = unsafe { &mut *ctrl.cast::<Controller>() };
    if let Err(error) = controller.control.start() {
        complain(error);
    }
    if controller.state.load(Ordering::Acquire) == SUSPENDING {
        let mut quiet = true;
        controller.each_queue(|queue| quiet &= queue.is_suspended());
        if quiet {
            controller.state.store(SUSPENDED, Ordering::Release);
        }
    }
    if controller.host.reset.swap(false, Ordering::AcqRel) {
        controller.reset();
    }
    controller.look_at_vfs();
}

/// Poll the queues of one group.
#[unsafe(no_mangle)]
extern "C" fn snap_virtio_fs_ctrl_io_progress_thread(ctrl: *mut snap_virtio_fs_ctrl, thread: u32) {
    let controller = ctrl.cast::<Controller>();
    // SAFETY: open; only fields that are shared are reached.
    let (groups, state) = unsafe { (&(*controller).groups, &(*controller).state) };
    let Some(group) = groups.get(thread as usize) else {
        complain("no such poll group");
        std::process::abort();
    };
    // A chain came, so the driver is live.
    let live = || {
        let _ = state.compare_exchange(STOPPED, STARTED, Ordering::AcqRel, Ordering::Relaxed);
    };
    group.with(|queues| {
        // SAFETY: under the lock; the list does not change while the controller is open.
        let places: &mut Queues = unsafe { &mut *queues };
        for queue in places {
            // SAFETY: under the lock.
            unsafe { VirtQueue::progress(&raw mut **queue, &live) };
        }
    });
}

/// Tell whether a controller has no live driver.
#[unsafe(no_mangle)]
extern "C" fn snap_virtio_ctrl_is_stopped(ctrl: *mut snap_virtio_ctrl) -> bool {
    // SAFETY: open.
    unsafe { Controller::of(ctrl) }
        .state
        .load(Ordering::Acquire)
        == STOPPED
}

/// Tell whether a controller is suspended.
#[unsafe(no_mangle)]
extern "C" fn snap_virtio_ctrl_is_suspended(ctrl: *mut snap_virtio_ctrl) -> bool {
    // SAFETY: open.
    unsafe { Controller::of(ctrl) }
        .state
        .load(Ordering::Acquire)
        == SUSPENDED
}

/// Begin to suspend a controller that is started.
#[unsafe(no_mangle)]
extern "C" fn snap_virtio_ctrl_suspend(ctrl: *mut snap_virtio_ctrl) -> c_int {
    // SAFETY: open.
    let controller = unsafe { Controller::of(ctrl) };
    match controller.state.load(Ordering::Acquire) {
        SUSPENDING => 0,
        STARTED => {
            controller.each_queue(VirtQueue::suspend);
            controller.state.store(SUSPENDING, Ordering::Release);
            0
        }
        _ => -libc::EINVAL,
    }
}

/// Let a suspended controller go on.
#[unsafe(no_mangle)]
extern "C" fn snap_virtio_ctrl_resume(ctrl: *mut snap_virtio_ctrl) -> c_int {
    // SAFETY: open.
    let controller = unsafe { Controller::of(ctrl) };
    match controller.state.load(Ordering::Acquire) {
        SUSPENDED => {
            controller.each_queue(VirtQueue::resume);
            controller.state.store(STARTED, Ordering::Release);
            0
        }
        STOPPED => 0,
        _ => -libc::EINVAL,
    }
}
