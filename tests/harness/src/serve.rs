//! One core of one device behind a transport.

use dpfs::fuse::{Dispatcher, FileSystem, Session};
use dpfs::hal::Queue;
use dpfs::mem::{Arena, RequestTable, Token};
use dpfs::sys::time::Instant;

/// Serve a queue with a backend, a round at a time.
pub struct Core<F> {
    /// The backend.
    pub fs: F,
    pub(crate) parts: Parts,
}

impl<F: FileSystem> Core<F> {
    /// Make a core of a device.
    pub fn new(fs: F, session: &'static Session, depth: u16) -> Self {
        let parts = Parts::new(session, depth);
        Self { fs, parts }
    }

    /// Give the device's session.
    pub fn session(&self) -> &'static Session {
        self.parts.session
    }

    /// Give the number of requests in flight.
    pub fn in_flight(&self) -> u16 {
        self.parts.tables[0].in_use()
    }

    /// Take every request that the queue has and the table has room for; give their number.
    pub fn take(&mut self, queue: &mut dyn Queue) -> usize {
        let mut taken = 0;
        while let Some(mut slot) = self.parts.tables[0].take() {
            let Some(token) = queue.poll(slot.segments_mut()) else {
                break;
            };
            self.parts.dispatch(&mut self.fs, slot, token, 0);
            taken += 1;
        }
        taken
    }

    /// Let the backend go on, give every request back that ended, and publish; give their number.
    pub fn give_back(&mut self, queue: &mut dyn Queue) -> usize {
        self.parts.poll(&mut self.fs);
        let mut given = 0;
        while let Some(finished) = self.parts.tables[0].hand_back(|ended| *ended) {
            queue.complete(finished.token, finished.written);
            given += 1;
        }
        queue.flush();
        given
    }
}

/// Hold what a core has beside its backend. Its memory is never given back.
pub(crate) struct Parts {
    pub(crate) session: &'static Session,
    dispatcher: Dispatcher,
    pub(crate) tables: [&'static RequestTable; 1],
}

impl Parts {
    pub(crate) fn new(session: &'static Session, depth: u16) -> Self {
        let bytes = Dispatcher::FOOTPRINT + RequestTable::footprint(depth) + 4096;
        // SAFETY: the box is zeroed.
        let arena = unsafe { Arena::new(Box::leak(Box::<[u8]>::new_zeroed_slice(bytes))) };
        Self {
            session,
            dispatcher: Dispatcher::new(session, &arena).expect("reserved"),
            tables: [RequestTable::new(&arena, depth, 0).expect("reserved")],
        }
    }

    pub(crate) fn dispatch(
        &mut self,
        fs: &mut dyn FileSystem,
        slot: dpfs::mem::Slot,
        token: Token,
        started: u64,
    ) {
        self.dispatcher
            .dispatch(fs, &self.tables, slot, token, started);
    }

    /// Run one round: interrupts of other cores, then the backend.
    pub(crate) fn poll(&mut self, fs: &mut dyn FileSystem) -> bool {
        self.dispatcher.poll_interrupts(fs, &self.tables);
        fs.poll(Instant::now())
    }
}
