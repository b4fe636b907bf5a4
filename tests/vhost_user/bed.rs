//! A device with a core that gives requests back with their bytes inverted.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use dpfs::hal::vhost_user::{Control, VhostUserConfig, VhostUserQueue, bind};
use dpfs::hal::{Events, Queue};
use dpfs::mem::{SegmentList, Token};
use dpfs::sys::epoll::Epoll;
use dpfs::sys::eventfd::EventFd;
use zerocopy::FromZeros;

use crate::frontend::{DATA, Guest, eventually};

/// Counts resets.
#[derive(Default)]
pub struct Resets(AtomicU32);

impl Events for Resets {
    fn reset(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// What the test tells the core.
#[derive(Default)]
pub struct Orders {
    pub quit: AtomicBool,
    /// Complete nothing.
    pub hold: AtomicBool,
    /// Requests taken so far.
    pub taken: AtomicU32,
}

/// A device whose core gives every request back with its bytes inverted.
pub struct Bed {
    pub path: PathBuf,
    _folder: tempfile::TempDir,
    pub control: Control,
    pub orders: Arc<Orders>,
    pub wake: Arc<EventFd>,
    resets: &'static Resets,
    core: Option<JoinHandle<()>>,
}

impl Bed {
    pub fn new(request_queues: u16) -> Self {
        Self::with(request_queues, false)
    }

    pub fn with(request_queues: u16, inband_notifications: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let resets: &'static Resets = Box::leak(Box::default());
        let config = VhostUserConfig {
            socket: path.clone(),
            mode: 0o600,
            tag: "projects".into(),
            request_queues,
            interrupt_hold: 0,
            inband_notifications,
        };
        let (queues, mut control) = bind(&config, resets).unwrap();
        let orders = Arc::new(Orders::default());
        let wake = Arc::new(EventFd::new().unwrap());
        let core = {
            let (orders, wake) = (Arc::clone(&orders), Arc::clone(&wake));
            std::thread::spawn(move || serve(queues, &orders, &wake))
        };
        control.start().unwrap();
        Self {
            path,
            _folder: folder,
            control,
            orders,
            wake,
            resets,
            core: Some(core),
        }
    }

    pub fn hold(&self, hold: bool) {
        self.orders.hold.store(hold, Ordering::SeqCst);
        self.wake.notify();
    }

    pub fn taken(&self) -> u32 {
        self.orders.taken.load(Ordering::SeqCst)
    }

    pub fn resets(&self) -> u32 {
        self.resets.0.load(Ordering::SeqCst)
    }

    pub fn reset_comes(&self, count: u32) {
        eventually("a reset", || self.resets() == count);
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.control.stop();
        self.orders.quit.store(true, Ordering::SeqCst);
        self.wake.notify();
        if let Some(core) = self.core.take() {
            core.join().unwrap();
        }
    }
}

/// The core: sleeps whenever it may.
fn serve(mut queues: Vec<VhostUserQueue>, orders: &Orders, wake: &EventFd) {
    let epoll = Epoll::new().unwrap();
    epoll.add(wake.raw(), 0).unwrap();
    for queue in &queues {
        epoll.add(queue.wait_fd().unwrap(), 1).unwrap();
    }
    let mut held: Vec<(usize, Token, Box<SegmentList>)> = Vec::new();
    while !orders.quit.load(Ordering::SeqCst) {
        let mut worked = false;
        for (index, queue) in queues.iter_mut().enumerate() {
            let mut list = Box::new(SegmentList::new_zeroed());
            while let Some(token) = queue.poll(&mut list) {
                orders.taken.fetch_add(1, Ordering::SeqCst);
                held.push((index, token, list));
                list = Box::new(SegmentList::new_zeroed());
                worked = true;
            }
        }
        if !orders.hold.load(Ordering::SeqCst) {
            for (index, token, mut list) in held.drain(..) {
                let mut bytes = vec![0; list.readable_len()];
                list.read_front(&mut bytes).unwrap();
                bytes.iter_mut().for_each(|byte| *byte = !*byte);
                list.write_at(0, &bytes).unwrap();
                queues[index].complete(token, bytes.len() as u32);
                worked = true;
            }
        }
        queues.iter_mut().for_each(Queue::flush);
        if worked {
            continue;
        }
        if queues.iter_mut().all(Queue::arm) {
            epoll
                .wait(-1, |key| {
                    if key == 0 {
                        wake.clear();
                    }
                })
                .unwrap();
        }
        queues.iter_mut().for_each(Queue::disarm);
    }
}

/// Send a request and see that it comes back.
pub fn echo(guest: &mut Guest, queue: usize, text: &[u8]) {
    let available = u64::from(guest.drivers[queue].available());
    let head = guest.send(queue, text);
    let used = guest.reap(queue);
    assert_eq!((used.head, used.written), (head, text.len() as u32));
    let slot = DATA + queue as u64 * 0x1_0000 + available * 512;
    let expected: Vec<u8> = text.iter().map(|byte| !byte).collect();
    assert_eq!(guest.read(slot + 256, text.len()), expected);
}
