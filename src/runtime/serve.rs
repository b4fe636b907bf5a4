//! From a configuration to a running daemon, and back to nothing.
//!
//! Order matters: what needs a path or a privilege is opened first, then the sandbox closes, then threads start. So no
//! thread ever has more than the sandbox leaves it.
//!
//! 1. backends open their directories, transports bind their sockets or mount;
//! 2. a warden stays outside, the sandbox closes;
//! 3. backends start their threads; one thread a core: memory, backend instances, polling;
//! 4. transports begin to serve;
//! 5. a signal: waiting locks end, transports stop and drain, cores return.

use core::time::Duration;
use std::boxed::Box;
use std::format;
use std::string::{String, ToString};
use std::sync::mpsc;
use std::thread;
use std::vec::Vec;

use super::budget::Budget;
use super::config::{self, Config, Hal, Sandbox};
use super::core_loop::{CoreLoop, Polling, Stop};
use super::device::{Device, Share, spread};
use super::notify::Manager;
use super::open::open;
use super::qos::{Gate, Limiter};
use super::sandbox;
use super::stats::{Counters, Description, Gauge, Stats};
use super::warden::Warden;
use super::worker::Admission;
use crate::log::{info, warn};
use crate::sys::sandbox::single_threaded;
use crate::sys::time::cycle_rate;
use crate::sys::{affinity, signal};

/// Say why the daemon could not start or did not end in order.
#[derive(Debug)]
pub struct ServeError(pub String);

impl core::fmt::Display for ServeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServeError {}

/// Nanoseconds over which the rate of the cycle counter is measured.
const MEASURE: u64 = 5_000_000;

/// How often the gauges of the statistics are brought up to date, and the service manager hears of the cores.
const GAUGES: Duration = Duration::from_millis(250);

/// Run the daemon until a signal ends it.
///
/// # Errors
/// What could not be opened or started, with the device's tag; also when requests were still pending at the end.
pub fn serve(config: &Config) -> Result<(), ServeError> {
    signal::hold().map_err(|error| ServeError(format!("signals: {error}")))?;
    let budget = Budget::of(config).check();
    budget.map_err(|over| ServeError(over.to_string()))?;
    let mut manager = Manager::find().map_err(ServeError)?;
    sandbox::raise_limits(config).map_err(|error| ServeError(error.to_string()))?;
    // Claims the folder, so that a second daemon ends before it touches anything.
    let stats = create_stats(config)?;
    #[cfg(feature = "defmt")]
    super::log_ring::create(&config.runtime.dir)
        .map_err(|error| ServeError(format!("{}/log: {error}", config.runtime.dir.display())))?;
    let mut devices = Vec::new();
    for device in &config.devices {
        let opened = open(device, config.poll_groups());
        devices.push(opened.map_err(|why| ServeError(format!("device {:?}: {why}", device.tag)))?);
    }
    let tasks = devices
        .iter_mut()
        .filter_map(|device| device.control.cleanup())
        .collect();
    let warden = if config.runtime.sandbox == Sandbox::None && !single_threaded() {
        Warden::here(tasks)
    } else {
        let posted = Warden::post(tasks);
        posted.map_err(|error| ServeError(format!("a child that cleans up: {error}")))?
    };
    sandbox::enter(config).map_err(|error| ServeError(error.to_string()))?;
    let mut cores = Cores::share(&mut devices, config, stats);
    let mut started = cores.start(config.runtime.polling);
    for device in &mut devices {
        started = started.and_then(|()| device.control.start());
    }
    if started.is_ok() {
        info!(
            "serving {} devices on {} cores",
            devices.len(),
            cores.stops.len()
        );
        manager.ready();
        while signal::wait(GAUGES).is_none() {
            set_gauges(&devices, stats);
            manager.watch(&cores.stops);
        }
        manager.stopping();
        info!("stopping");
    }
    cores.cancel_waits();
    // Unmounting comes first: it brings what a kernel has still to write.
    warden.finish();
    devices.iter_mut().for_each(|device| device.control.stop());
    let left = cores.join();
    stats.end();
    started.map_err(ServeError)?;
    match left {
        0 => Ok(()),
        left => Err(ServeError(format!(
            "{left} requests were still pending at the end"
        ))),
    }
}

/// Make the file that `dpfs stats` reads.
fn create_stats(config: &Config) -> Result<&'static Stats, ServeError> {
    let devices: Vec<_> = config.devices.iter().map(describe).collect();
    let rate = cycle_rate(MEASURE);
    Stats::create(&config.runtime.dir, &devices, &config.runtime.cores, rate)
        .map_err(|error| ServeError(error.to_string()))
}

fn describe(device: &config::Device) -> Description {
    let hal = match device.hal {
        Hal::VhostUser { .. } => "vhost-user",
        Hal::Fuse { .. } => "fuse",
        Hal::Snap { .. } => "snap",
    };
    let backend = match device.backend {
        config::Backend::Null { .. } => "null",
        config::Backend::Local(_) => "local",
        config::Backend::Kv(_) => "kv",
        config::Backend::Nfs(_) => "nfs",
    };
    Description {
        tag: device.tag.clone(),
        hal: hal.to_string(),
        backend: backend.to_string(),
        queues: device.hal.queues().into(),
        depth: device.hal.depth().into(),
        nodes: device.limits.nodes.into(),
        open_files: device.limits.open_files.into(),
    }
}

/// Bring up to date what is counted by device and not by core; it stands with the first core's counters.
fn set_gauges(devices: &[Device], stats: &'static Stats) {
    for (number, device) in devices.iter().enumerate() {
        if let Some(counters) = stats.counters(number, 0) {
            counters.set(Gauge::Nodes, device.backend.nodes());
            counters.set(Gauge::OpenFiles, device.backend.open_files());
        }
    }
}

/// Hold the cores' threads.
struct Cores {
    /// Number of each core and what it serves, until it is started.
    shares: Vec<(usize, Vec<Share>)>,
    stops: Vec<Stop>,
    threads: Vec<thread::JoinHandle<usize>>,
}

impl Cores {
    /// Spread the devices' queues over the cores.
    fn share(devices: &mut [Device], config: &Config, stats: &'static Stats) -> Self {
        let cores = &config.runtime.cores;
        let mut shares: Vec<(usize, Vec<Share>)> =
            cores.iter().map(|&core| (core, Vec::new())).collect();
        for (number, (device, configured)) in devices.iter_mut().zip(&config.devices).enumerate() {
            let limits = configured.limits;
            let limiter: &'static Limiter =
                Box::leak(Box::new(Limiter::new(limits.iops, limits.bandwidth)));
            let queues: Vec<_> = device.queues.drain(..).collect();
            // A poll group of a function has whichever virtqueues libsnap puts there.
            let hiprio = matches!(configured.hal, Hal::VhostUser { .. });
            let places = spread(number, queues.len(), hiprio, cores.len());
            let mut by_core: Vec<Vec<_>> = cores.iter().map(|_| Vec::new()).collect();
            for (queue, place) in queues.into_iter().zip(places) {
                by_core[place].push(queue);
            }
            for (place, queues) in by_core
                .into_iter()
                .enumerate()
                .filter(|(_, q)| !q.is_empty())
            {
                shares[place].1.push(Share {
                    session: device.session,
                    backend: device.backend,
                    queues,
                    depth: device.depth,
                    observer: Box::new(counters(stats, number, place)),
                    admission: limiter
                        .is_limited()
                        .then(|| -> Box<dyn Admission + Send> { Box::new(Gate::new(limiter)) }),
                });
            }
        }
        // A core without a queue has nothing to poll.
        shares.retain(|(_, shares)| !shares.is_empty());
        Self {
            shares,
            stops: Vec::new(),
            threads: Vec::new(),
        }
    }

    /// Start the threads and wait until each has its memory and its backends.
    fn start(&mut self, polling: Polling) -> Result<(), String> {
        let (report, reports) = mpsc::channel();
        for (core, shares) in self.shares.drain(..) {
            let stop = Stop::new().map_err(|error| format!("core {core}: {error}"))?;
            self.stops.push(stop.clone());
            let report = report.clone();
            let run = move || match prepare(core, shares, polling, stop) {
                Ok(ready) => {
                    let _ = report.send(Ok(()));
                    drop(report);
                    ready.run()
                }
                Err(why) => {
                    let _ = report.send(Err(format!("core {core}: {why}")));
                    0
                }
            };
            let thread = thread::Builder::new()
                .name(format!("core-{core}"))
                .spawn(run);
            self.threads
                .push(thread.map_err(|error| format!("core {core}: {error}"))?);
        }
        drop(report);
        reports.iter().collect()
    }

    fn cancel_waits(&self) {
        self.stops.iter().for_each(Stop::cancel_waits);
    }

    /// End the threads; give the number of requests that were still pending.
    fn join(self) -> usize {
        self.stops.iter().for_each(Stop::stop);
        // A core that panicked aborted the process.
        self.threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(0))
            .sum()
    }
}

fn counters(stats: &'static Stats, device: usize, core: usize) -> Counters {
    stats
        .counters(device, core)
        .expect("the file was made for these devices and cores")
}

/// Bind the calling thread to its core and reserve what it needs.
fn prepare(
    core: usize,
    shares: Vec<Share>,
    polling: Polling,
    stop: Stop,
) -> Result<CoreLoop, String> {
    if let Err(error) = affinity::pin(core) {
        warn!("core {}: cannot be bound to: {}", core, error);
    }
    let workers: Result<Vec<_>, _> = shares.into_iter().map(Share::into_worker).collect();
    CoreLoop::new(workers?, polling, stop).map_err(|error| format!("epoll: {error}"))
}
