//! One device on one core: its queues, their requests, its backend's instance.

use crate::fuse::{Dispatcher, FileSystem};
use crate::hal::Queue;
use crate::mem::{Finished, RequestTable};
use crate::sys::time::{Instant, cycles};

/// Most requests taken from one queue in a round, so that no queue starves the others.
const BURST: usize = 64;

/// Hear of each request that ended.
pub trait Observer {
    /// A request ended; `now` is in the unit of [`Finished::started`].
    fn finished(&mut self, finished: &Finished, now: u64);
}

/// Bound how much a device may do.
pub trait Admission {
    /// Tell whether another request may be taken now.
    fn open(&mut self, now: Instant) -> bool;

    /// Count a request that ended.
    fn charge(&mut self, finished: &Finished);

    /// Say when [`Self::open`] will be true again.
    fn opens_at(&self) -> Instant;
}

/// Join a queue and the table of its requests.
pub struct Lane {
    /// The queue.
    pub queue: &'static mut (dyn Queue + Send),
    /// Its requests, as deep as the queue.
    pub table: &'static RequestTable,
}

/// Serve a device's queues on one core.
pub struct Worker {
    lanes: &'static mut [Lane],
    /// The lanes' tables, for the dispatcher to find requests in.
    tables: &'static [&'static RequestTable],
    dispatcher: Dispatcher,
    fs: &'static mut dyn FileSystem,
    observer: &'static mut dyn Observer,
    admission: Option<&'static mut dyn Admission>,
    closed: bool,
}

impl Worker {
    /// Join the parts; `tables` are those of `lanes`, in the same order.
    pub fn new(
        lanes: &'static mut [Lane],
        tables: &'static [&'static RequestTable],
        dispatcher: Dispatcher,
        fs: &'static mut dyn FileSystem,
        observer: &'static mut dyn Observer,
        admission: Option<&'static mut dyn Admission>,
    ) -> Self {
        Self {
            lanes,
            tables,
            dispatcher,
            fs,
            observer,
            admission,
            closed: false,
        }
    }

    /// Do all that can be done now; tell whether anything was.
    #[inline]
    pub fn round(&mut self, now: Instant) -> bool {
        let taken = self.take(now);
        self.dispatcher.poll_interrupts(self.fs, self.tables);
        let polled = self.fs.poll(now);
        let published = self.publish();
        taken || polled || published
    }

    fn take(&mut self, now: Instant) -> bool {
        if let Some(admission) = &mut self.admission {
            self.closed = !admission.open(now);
            if self.closed {
                return false;
            }
        }
        let mut taken = false;
        for lane in self.lanes.iter_mut() {
            for _ in 0..BURST {
                let Some(mut slot) = lane.table.take() else {
                    break;
                };
                let Some(token) = lane.queue.poll(slot.segments_mut()) else {
                    break;
                };
                taken = true;
                self.dispatcher
                    .dispatch(self.fs, self.tables, slot, token, cycles());
            }
        }
        taken
    }

    fn publish(&mut self) -> bool {
        let mut published = false;
        for lane in self.lanes.iter_mut() {
            while let Some(finished) = lane.table.finished() {
                lane.queue.complete(finished.token, finished.written);
                self.observer.finished(&finished, cycles());
                if let Some(admission) = &mut self.admission {
                    admission.charge(&finished);
                }
                published = true;
            }
            lane.queue.flush();
        }
        published
    }

    /// Ask for a wake-up before the core sleeps; false when there is work after all.
    pub fn arm(&mut self) -> bool {
        let mut idle = self.fs.arm();
        for lane in self.lanes.iter_mut() {
            // A full table takes nothing, whatever waits in the queue: its backend will wake the core. So does the
            // clock while the device is over its limits.
            let waits = self.closed || lane.table.in_use() >= lane.table.depth();
            idle &= lane.queue.arm() || waits;
        }
        idle
    }

    /// Take back what [`Self::arm`] asked for.
    pub fn disarm(&mut self) {
        for lane in self.lanes.iter_mut() {
            lane.queue.disarm();
        }
    }

    /// Name the descriptors that wake this worker, which stay the same for ever.
    pub fn wait_fds(&self, add: &mut dyn FnMut(i32)) {
        self.lanes
            .iter()
            .filter_map(|lane| lane.queue.wait_fd())
            .for_each(&mut *add);
        self.fs.wait_fds(add);
    }

    /// Say when [`Self::round`] is to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let admission = self.admission.as_ref().filter(|_| self.closed);
        [
            self.fs.deadline(),
            admission.map(|admission| admission.opens_at()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// End all waiting, so that [`Self::in_flight`] goes to zero.
    pub fn shutdown(&mut self) {
        self.fs.shutdown();
    }

    /// Give the number of requests that were taken and not yet given back.
    pub fn in_flight(&self) -> usize {
        self.tables
            .iter()
            .map(|table| usize::from(table.in_use()))
            .sum()
    }
}
