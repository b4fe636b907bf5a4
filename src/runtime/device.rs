//! A device: what one tenant mounts. Its queues are spread over the cores; each core that has one gets a worker.

use std::boxed::Box;
use std::string::String;
use std::vec::Vec;

use super::lane::{Lane, Served};
use super::warden::Task;
use super::worker::{Admission, Observer, Worker};
use crate::fuse::{Dispatcher, FileSystem, Session, Volume};
use crate::hal::Events;
use crate::mem::RequestTable;
use crate::sys::map;

/// Be a file system that the daemon can serve.
pub trait Backend: Volume + Send {
    /// Make the instance of one core, on that core's thread, for `slots` requests in flight.
    ///
    /// # Errors
    /// What the backend needs and does not get, in words.
    fn attach(&'static self, slots: u32) -> Result<Box<dyn FileSystem>, String>;

    /// Give the number of nodes that the host holds, the root included.
    fn nodes(&self) -> u64;

    /// Give the number of open files and directories.
    fn open_files(&self) -> u64;
}

/// Control the transport of a device, from the thread that started it.
pub trait Control {
    /// Begin to serve. Everything that needs a path or a privilege was done before.
    ///
    /// # Errors
    /// What is missing, in words.
    fn start(&mut self) -> Result<(), String>;

    /// Stop: no more requests, those in flight answered.
    fn stop(&mut self);

    /// Give what must be done from outside of the sandbox when the daemon is gone, in order or not: what was mounted
    /// or bound is taken away.
    fn cleanup(&mut self) -> Option<Task>;
}

/// Join what makes up a device, before its queues are spread.
pub struct Device {
    /// Name that the host mounts.
    pub tag: String,
    /// Session with the host.
    pub session: &'static Session,
    /// File system.
    pub backend: &'static dyn Backend,
    /// Queues, the hiprio queue first where the transport has one.
    pub queues: Vec<Box<dyn Served + Send>>,
    /// Requests in flight per queue.
    pub depth: u16,
    /// Transport.
    pub control: Box<dyn Control>,
}

/// Pass a transport's events to a session.
pub struct SessionEvents(pub &'static Session);

impl Events for SessionEvents {
    fn reset(&self) {
        self.0.reset();
    }
}

/// Hold what one core serves of one device.
pub struct Share {
    /// Session with the host.
    pub session: &'static Session,
    /// File system.
    pub backend: &'static dyn Backend,
    /// This core's queues.
    pub queues: Vec<Box<dyn Served + Send>>,
    /// Requests in flight per queue.
    pub depth: u16,
    /// Where ended requests are counted.
    pub observer: Box<dyn Observer + Send>,
    /// Limits of the device.
    pub admission: Option<Box<dyn Admission + Send>>,
}

impl Share {
    /// Reserve the memory and make the worker, on the core's own thread.
    ///
    /// # Errors
    /// `ENOMEM` in words, or the backend's reason.
    pub fn into_worker(self) -> Result<Worker, String> {
        let count = self.queues.len();
        let bytes = count * RequestTable::footprint(self.depth) + Dispatcher::FOOTPRINT;
        let memory = |error| std::format!("{bytes} bytes for requests: {error}");
        let arena = map::reserve(bytes).map_err(|error| memory(std::format!("{error}")))?;
        let mut tables = Vec::with_capacity(count);
        for index in 0..count {
            let first = index as u32 * u32::from(self.depth);
            let table = RequestTable::new(&arena, self.depth, first);
            tables.push(table.map_err(|error| memory(std::format!("{error:?}")))?);
        }
        let dispatcher = Dispatcher::new(self.session, &arena);
        let dispatcher = dispatcher.map_err(|error| memory(std::format!("{error:?}")))?;
        let fs = self.backend.attach(count as u32 * u32::from(self.depth))?;
        let lanes = self.queues.into_iter().zip(&tables).map(|(queue, &table)| {
            let queue: &'static mut dyn Served = Box::leak(queue);
            Lane { queue, table }
        });
        Ok(Worker::new(
            lanes.collect::<Vec<_>>().leak(),
            tables.clone().leak(),
            dispatcher,
            Box::leak(fs),
            Box::leak(self.observer),
            self.admission
                .map(|admission| -> &'static mut dyn Admission { Box::leak(admission) }),
        ))
    }
}

/// Say on which of `cores` a device's queues run: request queues in turn, the hiprio queue with the first of them.
///
/// `device` is the device's number, so that devices with few queues begin on different cores.
pub fn spread(device: usize, queues: usize, hiprio: bool, cores: usize) -> Vec<usize> {
    let first_request = usize::from(hiprio);
    (0..queues)
        .map(|queue| (device + queue.saturating_sub(first_request)) % cores)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_spread_and_hiprio_stays_with_the_first() {
        assert_eq!(spread(0, 5, true, 2), [0, 0, 1, 0, 1]);
        assert_eq!(spread(1, 3, true, 4), [1, 1, 2]);
        assert_eq!(spread(0, 2, false, 2), [0, 1]);
        assert_eq!(spread(3, 2, true, 1), [0, 0]);
    }
}
