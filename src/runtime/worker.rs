//! One device on one core: its queues, their requests, its backend's instance.

use super::lane::Lane;
use crate::fuse::{Dispatcher, FileSystem};
use crate::mem::{Finished, RequestTable};
use crate::sys::time::Instant;

/// Say how a device's tables stand on one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Requests that were taken and not yet given back.
    pub in_flight: usize,
    /// Replies that the backend dropped unanswered since the start.
    pub unanswered: u64,
}

/// Hear of each request that ended.
pub trait Observer {
    /// A request ended; `now` is in the unit of [`Finished::started`].
    fn finished(&mut self, finished: &Finished, now: u64);

    /// Hear how the tables stand at the end of a round that changed them.
    fn round_ended(&mut self, load: Load);
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
        if taken || published {
            self.observer.round_ended(self.load());
        }
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
            taken |= lane
                .queue
                .take(lane.table, &mut self.dispatcher, self.fs, self.tables);
        }
        taken
    }

    fn publish(&mut self) -> bool {
        let mut published = false;
        for lane in self.lanes.iter_mut() {
            published |= lane
                .queue
                .publish(lane.table, self.observer, &mut self.admission);
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

    /// Take leave of what is behind the file system; true when that is done.
    pub fn leave(&mut self) -> bool {
        self.fs.leave()
    }

    fn load(&self) -> Load {
        Load {
            in_flight: self.in_flight(),
            unanswered: self.tables.iter().map(|table| table.unanswered()).sum(),
        }
    }

    /// Give the number of requests that were taken and not yet given back.
    pub fn in_flight(&self) -> usize {
        self.tables
            .iter()
            .map(|table| usize::from(table.in_use()))
            .sum()
    }
}

#[cfg(all(test, feature = "std"))]
#[expect(unsafe_code, reason = "a queue of the tests' own lends its memory")]
mod tests {
    use super::*;
    use crate::backend::null::Null;
    use crate::fuse::{Limits, Session};
    use crate::hal::{Queue, Traits};
    use crate::mem::{Arena, Segment, SegmentList, Token};
    use crate::sys::map;
    use crate::wire::fuse::{InHeader, InitIn, Opcode, OutHeader};
    use crate::wire::open_flags::ClientArch;
    use std::boxed::Box;
    use std::sync::{Arc, Mutex};
    use std::vec::Vec;
    use zerocopy::{FromBytes, IntoBytes};

    /// Hand out requests from a list and keep what comes back.
    #[derive(Default)]
    struct Script {
        requests: Vec<&'static [u8]>,
        room: Vec<&'static mut [u8]>,
        completed: Vec<(Token, u32)>,
        published: Vec<(Token, u32)>,
    }

    #[derive(Clone, Default)]
    struct ScriptQueue(Arc<Mutex<Script>>);

    impl Queue for ScriptQueue {
        fn traits(&self) -> Traits {
            Traits {
                deferred: true,
                sends_all: false,
                host_memory: true,
            }
        }

        fn poll(&mut self, into: &mut SegmentList) -> Option<Token> {
            let mut script = self.0.lock().unwrap();
            let request = script.requests.pop()?;
            let room: &'static mut [u8] = Box::leak(Box::new([0; 256]));
            // SAFETY: both are leaked; the request is only read.
            unsafe {
                into.push_readable(Segment::new(request.as_ptr().cast_mut(), request.len()))
                    .unwrap();
                into.push_writable(Segment::new(room.as_mut_ptr(), room.len()))
                    .unwrap();
            }
            script.room.push(room);
            Some(Token(script.room.len() as u64 - 1))
        }

        fn complete(&mut self, token: Token, written: u32) {
            self.0.lock().unwrap().completed.push((token, written));
        }

        fn flush(&mut self) {
            let mut script = self.0.lock().unwrap();
            let completed = core::mem::take(&mut script.completed);
            script.published.extend(completed);
        }

        fn arm(&mut self) -> bool {
            self.0.lock().unwrap().requests.is_empty()
        }

        fn disarm(&mut self) {}

        fn wait_fd(&self) -> Option<i32> {
            None
        }
    }

    #[derive(Default)]
    struct Count(usize);

    impl Observer for Count {
        fn finished(&mut self, _: &Finished, _: u64) {
            self.0 += 1;
        }

        fn round_ended(&mut self, _: Load) {}
    }

    /// Close after a number of requests, for a second.
    struct Quota {
        left: usize,
        closed_at: Option<Instant>,
    }

    impl Admission for Quota {
        fn open(&mut self, now: Instant) -> bool {
            if self.left == 0 {
                self.closed_at.get_or_insert(now);
            }
            self.left > 0
        }

        fn charge(&mut self, _: &Finished) {
            self.left = self.left.saturating_sub(1);
        }

        fn opens_at(&self) -> Instant {
            self.closed_at.unwrap_or_default().after(1_000_000_000)
        }
    }

    fn request(opcode: Opcode, unique: u64, body: &[u8]) -> &'static [u8] {
        let len = (size_of::<InHeader>() + body.len()) as u32;
        let header = InHeader {
            len,
            opcode: opcode as u32,
            unique,
            nodeid: 1,
            ..Default::default()
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes.leak()
    }

    fn init() -> &'static [u8] {
        let init = InitIn {
            major: 7,
            minor: 45,
            ..InitIn::default()
        };
        request(Opcode::INIT, 1, init.as_bytes())
    }

    fn worker(queue: &ScriptQueue, depth: u16, quota: Option<usize>) -> Worker {
        let session = Session::new(
            Box::leak(Box::new(Null::default())),
            Limits::default(),
            ClientArch::X86_64,
        );
        let arena: Arena =
            map::reserve(RequestTable::footprint(depth) + Dispatcher::FOOTPRINT).unwrap();
        let table = RequestTable::new(&arena, depth, 0).unwrap();
        let lane = Lane {
            queue: Box::leak(Box::new(queue.clone())),
            table,
        };
        let admission = quota.map(|left| -> &'static mut dyn Admission {
            Box::leak(Box::new(Quota {
                left,
                closed_at: None,
            }))
        });
        Worker::new(
            Vec::from([lane]).leak(),
            Vec::from([table]).leak(),
            Dispatcher::new(Box::leak(Box::new(session)), &arena).unwrap(),
            Box::leak(Box::new(Null::default())),
            Box::leak(Box::<Count>::default()),
            admission,
        )
    }

    #[test]
    fn one_round_takes_answers_and_publishes() {
        let queue = ScriptQueue::default();
        let mut worker = worker(&queue, 4, None);
        queue
            .0
            .lock()
            .unwrap()
            .requests
            .extend([request(Opcode::STATFS, 2, &[]), init()]);
        assert!(worker.round(Instant(1)));
        let script = queue.0.lock().unwrap();
        let lengths: Vec<u32> = script
            .published
            .iter()
            .map(|(_, written)| *written)
            .collect();
        assert_eq!(lengths, [16 + 64, 16 + 80]);
        let (answer, _) = OutHeader::read_from_prefix(&*script.room[1]).unwrap();
        assert_eq!((answer.len, answer.error, answer.unique), (96, 0, 2));
        assert_eq!(worker.in_flight(), 0);
        drop(script);
        assert!(!worker.round(Instant(2)), "nothing is left to do");
        assert!(worker.arm());
    }

    #[test]
    fn a_queue_deeper_than_its_table_is_served_in_several_rounds() {
        let queue = ScriptQueue::default();
        let mut worker = worker(&queue, 2, None);
        queue
            .0
            .lock()
            .unwrap()
            .requests
            .extend([request(Opcode::STATFS, 3, &[]); 5]);
        queue.0.lock().unwrap().requests.push(init());
        for served in [2, 4, 6] {
            worker.round(Instant(1));
            assert_eq!(queue.0.lock().unwrap().published.len(), served);
        }
    }

    #[test]
    fn a_device_over_its_limit_sleeps_until_the_limit_allows_more() {
        let queue = ScriptQueue::default();
        let mut worker = worker(&queue, 1, Some(1));
        queue
            .0
            .lock()
            .unwrap()
            .requests
            .extend([request(Opcode::STATFS, 2, &[]), init()]);
        assert!(worker.round(Instant(5)));
        assert_eq!(worker.deadline(), None);
        assert!(!worker.round(Instant(7)));
        assert_eq!(queue.0.lock().unwrap().requests.len(), 1);
        assert!(
            worker.arm(),
            "what waits in the queue must not keep the core awake"
        );
        assert_eq!(worker.deadline(), Some(Instant(1_000_000_007)));
    }
}
