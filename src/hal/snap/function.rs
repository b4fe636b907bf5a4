//! One function of the DPU, PF or VF: its controller and the thread that manages it.

use core::ffi::c_void;
use core::fmt;
use core::ptr;
use core::time::Duration;
use std::format;
use std::string::String;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;
use std::vec::Vec;

use super::ffi;
use super::manager::{Manager, SnapError, check, lock};
use super::queue::{self, Holds, SnapQueue};
use crate::hal::Events;
use crate::log::{self, Show};
use crate::wire::errno::Errno;
use crate::wire::virtio_fs;

/// Most request queues of a function: a PCIe function has at most 2,048 interrupts, and no host has more CPUs than that.
pub const MAX_REQUEST_QUEUES: u16 = 255;

/// How often the host's doings are looked at. A driver that resets a device waits for it, and an FLR must be over within
/// 100 ms (PCIe 4.0, 6.6.2).
const TICK: Duration = Duration::from_millis(1);

/// Time that requests under way get to end when a function is closed.
const QUIET: Duration = Duration::from_secs(5);

/// Time that cores get to let go of a controller: one round each.
const LET_GO: Duration = Duration::from_secs(2);

/// Time after which a stop does not wait for libsnap any more.
const STOP: Duration = Duration::from_secs(8);

/// Describe a function and the device that it shall be.
#[derive(Clone, Debug)]
pub struct SnapConfig {
    /// Name of the emulation manager, like `mlx5_0`.
    pub manager: String,
    /// Number of the physical function.
    pub pf: u32,
    /// Number of the virtual function; `None` for the physical function itself.
    pub vf: Option<u32>,
    /// Name that the host mounts, 1 to 36 bytes.
    pub tag: String,
    /// Request queues, 1 to [`MAX_REQUEST_QUEUES`].
    pub request_queues: u16,
    /// Descriptors of each queue, a power of two.
    pub depth: u16,
    /// Poll groups, each a queue of the HAL; the same number for all functions of a process.
    pub poll_groups: u32,
}

impl fmt::Display for SnapConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} pf {}", self.manager, self.pf)?;
        match self.vf {
            Some(vf) => write!(out, " vf {vf}"),
            None => Ok(()),
        }
    }
}

impl SnapConfig {
    fn check(&self) -> Result<(), SnapError> {
        if !(1..=virtio_fs::TAG_LEN).contains(&self.tag.len()) {
            return Err(SnapError::Invalid("a tag of 1 to 36 bytes is needed"));
        }
        if !(1..=MAX_REQUEST_QUEUES).contains(&self.request_queues) {
            return Err(SnapError::Invalid("1 to 255 request queues are possible"));
        }
        if !self.depth.is_power_of_two() || self.poll_groups == 0 {
            return Err(SnapError::Invalid(
                "a depth that is a power of two and a poll group are needed",
            ));
        }
        Ok(())
    }

    fn shim(&self) -> ffi::dpfs_snap_config {
        let mut tag = [0; ffi::DPFS_SNAP_TAG as usize];
        tag[..self.tag.len()].copy_from_slice(self.tag.as_bytes());
        ffi::dpfs_snap_config {
            pf: self.pf,
            vf: self.vf.map_or(-1, |vf| vf as i32),
            tag,
            request_queues: self.request_queues,
            depth: self.depth,
            poll_groups: self.poll_groups,
        }
    }
}

/// An open controller, in the hands of whoever manages it.
struct Controller(*mut ffi::dpfs_snap_function);

// SAFETY: managed by one thread at a time, under the function's lock.
unsafe impl Send for Controller {}

/// What management, cores and libsnap share of a function.
pub(super) struct Function {
    config: SnapConfig,
    manager: Arc<Manager>,
    events: &'static dyn Events,
    /// None while there is no such VF.
    controller: Mutex<Option<Controller>>,
    holds: Holds,
}

impl Function {
    pub(super) const fn config(&self) -> &SnapConfig {
        &self.config
    }

    pub(super) const fn holds(&self) -> &Holds {
        &self.holds
    }

    /// Open the controller if there is such a function now, and let cores poll it.
    fn open(&self, controller: &mut Option<Controller>) -> Result<(), SnapError> {
        let handle = self.manager.handle();
        if let Some(vf) = self.config.vf
            && handle.pf(self.config.pf).is_none_or(|pf| pf.vfs <= vf)
        {
            return Ok(());
        }
        let calls = ffi::dpfs_snap_calls {
            request: Some(queue::request),
            reset: Some(reset),
            vfs_changed: Some(vfs_changed),
        };
        let mut opened = ptr::null_mut();
        let context = ptr::from_ref(self).cast_mut().cast::<c_void>();
        // SAFETY: the manager is open; the calls are copied; the context outlives the controller, as `close` shows.
        let result = unsafe {
            let config = self.config.shim();
            ffi::dpfs_snap_open(
                handle.raw(),
                &raw const config,
                &raw const calls,
                context,
                &raw mut opened,
            )
        };
        check(result).map_err(|error| SnapError::Controller(format!("{}", self.config), error))?;
        *controller = Some(Controller(opened));
        self.holds.publish(opened);
        log::info!("{}: open", Show(&self.config));
        Ok(())
    }

    /// Close the controller in order: no new requests, none under way, no core that polls. False when requests do not
    /// end; then everything stays as it is.
    fn close(&self, controller: &mut Option<Controller>) -> bool {
        let Some(Controller(open)) = *controller else {
            return true;
        };
        let quiet = within(QUIET, || {
            // SAFETY: open, and managed here under the lock.
            unsafe {
                // Again each time: a driver may just start, and only what is started can be suspended.
                ffi::dpfs_snap_suspend(open);
                ffi::dpfs_snap_progress(open);
                ffi::dpfs_snap_is_quiet(open)
            }
        });
        if !quiet {
            log::error!(
                "{}: requests do not end, so it stays open",
                Show(&self.config)
            );
            return false;
        }
        self.holds.publish(ptr::null_mut());
        if !within(LET_GO, || self.holds.are_free()) {
            log::error!(
                "{}: a core does not let go, so it stays open",
                Show(&self.config)
            );
            return false;
        }
        *controller = None;
        // SAFETY: open, quiet, and no core will poll it again.
        unsafe { ffi::dpfs_snap_close(open) };
        log::info!("{}: closed", Show(&self.config));
        true
    }

    /// Look at what the host did, once.
    fn tick(&self, complained: &mut bool) {
        let mut controller = lock(&self.controller);
        if let Some(Controller(open)) = *controller {
            // SAFETY: open, and managed here under the lock.
            unsafe { ffi::dpfs_snap_progress(open) };
        } else if let Err(error) = self.open(&mut controller)
            && !core::mem::replace(complained, true)
        {
            log::error!("{}", Show(&error));
        }
    }

    /// Let VFs go that the host switches off, and tell libsnap of the new number. Those that come open themselves.
    fn change_vfs(&self, count: u16) -> bool {
        log::info!("{}: the host wants {} VFs", Show(&self.config), count);
        let functions = self.manager.functions();
        let goes = |function: &&Arc<Self>| {
            function.config.pf == self.config.pf
                && function.config.vf.is_some_and(|vf| vf >= u32::from(count))
        };
        // Their locks are kept until libsnap knows: they would open again.
        let mut closed = Vec::new();
        for function in functions.iter().filter(goes) {
            let mut controller = lock(&function.controller);
            if !function.close(&mut controller) {
                return false;
            }
            closed.push(controller);
        }
        let handle = self.manager.handle();
        // SAFETY: the manager is open, and no VF that goes has a controller.
        let rescanned = unsafe { ffi::dpfs_snap_rescan_vfs(handle.raw(), self.config.pf, count) };
        check(rescanned).is_ok()
    }
}

/// The host reset the device.
unsafe extern "C" fn reset(context: *mut c_void) {
    // SAFETY: the context that `Function::open` gave, which outlives its controller.
    let function = unsafe { &*context.cast::<Function>() };
    log::info!("{}: reset", Show(&function.config));
    function.events.reset();
}

/// The host switches VFs on or off.
unsafe extern "C" fn vfs_changed(context: *mut c_void, count: u16) -> bool {
    // SAFETY: as above.
    unsafe { &*context.cast::<Function>() }.change_vfs(count)
}

/// Wait until something is so, at most for a time; tell whether it is.
fn within(time: Duration, mut so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    loop {
        if so() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(TICK);
    }
}

/// Plug the physical function in that is not, where the firmware can; tell whether it was done.
fn plug_in(manager: &Manager, config: &SnapConfig) -> Result<bool, SnapError> {
    let handle = manager.handle();
    let limits = handle.limits();
    if !limits.virtio_fs {
        return Err(SnapError::NoVirtioFs(config.manager.clone()));
    }
    let queues = u32::from(config.request_queues) + 1;
    if queues > limits.virtqueues {
        return Err(SnapError::Queues(queues, limits.virtqueues));
    }
    let pf = handle.pf(config.pf);
    let pf = pf.ok_or(SnapError::NoPf(config.pf, limits.pfs))?;
    if pf.plugged {
        return Ok(false);
    }
    if config.vf.is_some() || !limits.hotplug {
        return Err(SnapError::Unplugged(config.pf, Errno::EOPNOTSUPP));
    }
    let shim = config.shim();
    // SAFETY: the manager is open.
    let plugged = unsafe { ffi::dpfs_snap_hotplug(handle.raw(), &raw const shim) };
    check(plugged).map_err(|error| SnapError::Unplugged(config.pf, error))?;
    log::info!("{}: plugged in", Show(config));
    Ok(true)
}

/// Open a function, and give a queue for each poll group. Nothing is served before [`Control::start`].
///
/// A VF that the host has not switched on is waited for.
///
/// # Errors
/// [`SnapError`]: what the firmware does not have or libsnap does not do.
pub fn open(
    config: SnapConfig,
    events: &'static dyn Events,
) -> Result<(Vec<SnapQueue>, Control), SnapError> {
    config.check()?;
    let manager = Manager::open(&config.manager)?;
    let plugged = plug_in(&manager, &config)?;
    let groups = config.poll_groups;
    let function = Arc::new(Function {
        config,
        events,
        controller: Mutex::new(None),
        holds: Holds::new(groups),
        manager,
    });
    let control = Control {
        function: Arc::clone(&function),
        thread: None,
        plugged,
    };
    function.open(&mut lock(&function.controller))?;
    function.manager.add(&function);
    let queues = (0..groups).map(|group| SnapQueue::new(Arc::clone(&function), group));
    Ok((queues.collect::<Result<_, _>>()?, control))
}

/// Start and stop the management of a function. Stops it on drop.
pub struct Control {
    function: Arc<Function>,
    thread: Option<Manage>,
    /// The physical function was plugged in by us.
    plugged: bool,
}

struct Manage {
    /// Dropped to end the thread.
    stop: mpsc::Sender<()>,
    ended: mpsc::Receiver<()>,
}

impl Control {
    /// Begin to serve the host.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(&mut self) -> std::io::Result<()> {
        let (stop, stopped) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let function = Arc::clone(&self.function);
        let manage = move || {
            let mut complained = false;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TICK) {
                function.tick(&mut complained);
            }
            function.close(&mut lock(&function.controller));
            drop(end);
        };
        let name = format!("snap-{}", self.function.config.tag);
        thread::Builder::new().name(name).spawn(manage)?;
        self.thread = Some(Manage { stop, ended });
        Ok(())
    }

    /// Stop: the function takes no more requests, those under way end, its controller is closed, and a function that was
    /// plugged in is taken away. Cores must go on polling until this returns, which takes at most 8 seconds.
    pub fn stop(&mut self) {
        let closed = match self.thread.take() {
            Some(Manage { stop, ended }) => {
                drop(stop);
                // libsnap waits for a lock that a request holds, if that does not end.
                let ended = ended.recv_timeout(STOP);
                !matches!(ended, Err(RecvTimeoutError::Timeout))
                    && lock(&self.function.controller).is_none()
            }
            None => self.function.close(&mut lock(&self.function.controller)),
        };
        if !closed {
            log::error!(
                "{}: libsnap does not let go of it",
                Show(&self.function.config)
            );
            return;
        }
        if core::mem::take(&mut self.plugged) {
            let handle = self.function.manager.handle();
            // SAFETY: the manager is open, and the function's controller is closed.
            let gone = unsafe { ffi::dpfs_snap_hotunplug(handle.raw(), self.function.config.pf) };
            if let Err(error) = check(gone) {
                log::error!(
                    "{}: cannot be taken away: {}",
                    Show(&self.function.config),
                    error
                );
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop();
    }
}
