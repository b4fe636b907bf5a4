//! A device to load: queues of our own, and behind them a back-end on a socket or a worker in this process.

use std::path::PathBuf;

use dpfs::backend::null::{Config, Null};
use dpfs::fuse::{Dispatcher, Limits, Session};
use dpfs::hal::loopback::{self, FEATURES, Layout};
use dpfs::mem::{Finished, RequestTable};
use dpfs::runtime::{Lane, Load, Observer, Worker};
use dpfs::sys::epoll::Epoll;
use dpfs::sys::eventfd::EventFd;
use dpfs::sys::map;
use dpfs::sys::time::Instant;
use dpfs::virtq::MemoryMap;
use dpfs::virtq::driver::{Buffer, Driver, Used};
use dpfs::wire::open_flags::ClientArch;

use crate::memory::{GUEST, Memory};
use crate::vhost::Connection;

/// Name a back-end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Whoever listens on this vhost-user socket.
    Socket(PathBuf),
    /// The `null` backend in this process.
    Loopback,
}

/// Say how the device is set up.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Request queues.
    pub queues: u16,
    /// Descriptors of each queue, a power of two.
    pub size: u16,
    /// Descriptors of one chain at most.
    pub chain: u16,
    /// Bytes for requests and data, behind the queues.
    pub room: u64,
    /// Sleep on interrupts instead of polling.
    pub wait: bool,
}

struct Queue {
    driver: Driver,
    kick: EventFd,
    call: EventFd,
}

/// Hold a device that is set up. Queue 0 is the hiprio queue.
pub struct Device {
    /// The guest's memory.
    pub memory: Memory,
    /// Where the room for requests begins.
    pub room: u64,
    /// Where each queue lies.
    pub layouts: Vec<Layout>,
    queues: Vec<Queue>,
    connection: Option<Connection>,
    worker: Option<Worker>,
    sleeper: Option<Epoll>,
    /// Notifications sent.
    pub kicks: u64,
}

struct Nobody;

impl Observer for Nobody {
    fn finished(&mut self, _: &Finished, _: u64) {}
    fn round_ended(&mut self, _: Load) {}
}

impl Device {
    /// Connect, share memory, start all queues.
    pub fn open(target: &Target, shape: Shape) -> Result<Self, String> {
        let connection = match target {
            Target::Socket(path) => Some(Connection::open(path, FEATURES)?),
            Target::Loopback => None,
        };
        let features = connection.as_ref().map_or(FEATURES, |c| c.features);
        let count = shape.queues + 1;
        if let Some(connection) = &connection
            && connection.queues < count.into()
        {
            let most = connection.queues.saturating_sub(1);
            return Err(format!(
                "{} request queues asked for, the back-end has {most}",
                shape.queues
            ));
        }
        let indirect = if features & dpfs::virtq::F_INDIRECT_DESC == 0 {
            0
        } else {
            shape.chain
        };
        let mut layouts = Vec::new();
        let mut address = GUEST;
        for _ in 0..count {
            let layout = Layout {
                address,
                size: shape.size,
                features,
                indirect,
            };
            address = layout.end().next_multiple_of(4096);
            layouts.push(layout);
        }
        let room = address - GUEST;
        let memory = Memory::new((room + shape.room).next_multiple_of(4096))?;
        let map: &'static MemoryMap = Box::leak(Box::new(memory.regions()));
        let mut device = Self {
            memory,
            room,
            layouts,
            queues: Vec::new(),
            connection,
            worker: None,
            sleeper: None,
            kicks: 0,
        };
        let event = || EventFd::new().map_err(|error| format!("an eventfd: {error}"));
        let mut rings = Vec::new();
        for index in 0..device.layouts.len() {
            let layout = &device.layouts[index];
            // SAFETY: the layouts do not overlap and lie before the room; the map lives for ever, and the memory is
            // unmapped only after the drivers are gone.
            let (driver, ring) = unsafe {
                if device.connection.is_some() {
                    (
                        loopback::driver(map, *layout).map(|(_, driver)| driver),
                        None,
                    )
                } else {
                    match loopback::queue(map, *layout) {
                        Ok((ring, driver)) => (Ok(driver), Some(ring)),
                        Err(error) => (Err(error), None),
                    }
                }
            };
            let driver = driver.map_err(|error| format!("queue {index}: {error:?}"))?;
            rings.extend(ring);
            let (kick, call) = (event()?, event()?);
            if let Some(connection) = &device.connection {
                connection_start(connection, &device.memory, index, layout, &kick, &call)?;
            }
            device.queues.push(Queue { driver, kick, call });
        }
        if device.connection.is_none() {
            device.worker = Some(worker(rings, shape.size)?);
        } else if shape.wait {
            let sleeper = Epoll::new().map_err(|error| format!("epoll: {error}"))?;
            for (index, queue) in device.queues.iter().enumerate() {
                let added = sleeper.add(queue.call.raw(), index as u64);
                added.map_err(|error| format!("epoll: {error}"))?;
            }
            device.sleeper = Some(sleeper);
        }
        Ok(device)
    }

    /// Give the process behind the device, if it is another one.
    pub fn process(&self) -> Option<u32> {
        self.connection.as_ref()?.process()
    }

    /// Add a chain; it is seen after [`Self::publish`]. `None` when the queue is full.
    #[inline]
    pub fn add(&mut self, queue: usize, buffers: &[Buffer]) -> Option<u16> {
        self.queues[queue].driver.add(buffers)
    }

    /// Make visible what was added, and notify the back-end if it wants that.
    #[inline]
    pub fn publish(&mut self, queue: usize) {
        let queue = &mut self.queues[queue];
        if queue.driver.publish() {
            queue.kick.notify();
            self.kicks += 1;
        }
    }

    /// Notify the back-end whatever it wants.
    pub fn kick(&mut self, queue: usize) {
        self.queues[queue].kick.notify();
    }

    /// Let the back-end work, where it is in this process.
    #[inline]
    pub fn serve(&mut self) {
        if let Some(worker) = &mut self.worker {
            worker.round(Instant(1));
        }
    }

    /// Reap the next chain that came back.
    #[inline]
    pub fn reap(&mut self, queue: usize) -> Option<Used> {
        self.queues[queue].driver.reap()
    }

    /// Sleep until an interrupt comes, at most 100 ms, where the shape says so.
    pub fn idle(&mut self) {
        let Some(sleeper) = &self.sleeper else {
            return core::hint::spin_loop();
        };
        let mut quiet = true;
        for queue in &mut self.queues {
            quiet &= queue.driver.arm();
        }
        if quiet {
            // Cannot fail on a set of our own; at worst the loop spins.
            let _ = sleeper.wait(100, |_| {});
        }
        for queue in &mut self.queues {
            queue.call.clear();
            queue.driver.disarm();
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            for index in 0..self.queues.len() {
                // The back-end may be gone already.
                let _ = connection.stop(index as u32);
            }
        }
    }
}

fn connection_start(
    connection: &Connection,
    memory: &Memory,
    index: usize,
    layout: &Layout,
    kick: &EventFd,
    call: &EventFd,
) -> Result<(), String> {
    if index == 0 {
        connection.share(memory)?;
    }
    connection.start(index as u32, layout, kick.raw(), call.raw())
}

/// Make the device's side in this process.
fn worker(
    rings: Vec<dpfs::hal::ring::RingQueue<&'static MemoryMap>>,
    depth: u16,
) -> Result<Worker, String> {
    let bytes = rings.len() * RequestTable::footprint(depth) + Dispatcher::FOOTPRINT;
    let fail = |error: &dyn core::fmt::Debug| format!("{bytes} bytes for requests: {error:?}");
    let arena = map::reserve(bytes).map_err(|error| fail(&error))?;
    let null = Null::new(Config {
        zero: false,
        ..Config::default()
    });
    let session = Session::new(
        Box::leak(Box::new(null)),
        Limits::default(),
        ClientArch::X86_64,
    );
    let mut lanes = Vec::new();
    let mut tables = Vec::new();
    for (index, ring) in rings.into_iter().enumerate() {
        let table = RequestTable::new(&arena, depth, index as u32 * u32::from(depth));
        let table = table.map_err(|error| fail(&error))?;
        tables.push(table);
        lanes.push(Lane {
            queue: Box::leak(Box::new(ring)),
            table,
        });
    }
    let dispatcher = Dispatcher::new(Box::leak(Box::new(session)), &arena);
    Ok(Worker::new(
        lanes.leak(),
        tables.leak(),
        dispatcher.map_err(|error| fail(&error))?,
        Box::leak(Box::new(null)),
        Box::leak(Box::new(Nobody)),
        None,
    ))
}
