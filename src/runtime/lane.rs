//! A queue and the table of its requests: the part of a round that is done for each request.
//!
//! This code is made anew for each kind of queue, so that between taking a chain and publishing its used element only
//! the backend and the observer are called through a table of functions.

use super::worker::{Admission, Observer};
use crate::fuse::{Dispatcher, FileSystem};
use crate::hal::Queue;
use crate::mem::{Finished, RequestTable};
use crate::sys::time::cycles;

/// Most requests taken from one queue in a round, so that no queue starves the others.
const BURST: usize = 64;

/// Be a queue whose requests go through a table. Every [`Queue`] is.
pub trait Served: Queue {
    /// Take what the queue has and give it to the backend. `tables` are those of the core.
    fn take(
        &mut self,
        table: &'static RequestTable,
        dispatcher: &mut Dispatcher,
        fs: &mut dyn FileSystem,
        tables: &[&'static RequestTable],
    ) -> bool;

    /// Give back and publish what ended.
    fn publish(
        &mut self,
        table: &'static RequestTable,
        observer: &mut dyn Observer,
        admission: &mut Option<&'static mut dyn Admission>,
    ) -> bool;
}

impl<Q: Queue> Served for Q {
    fn take(
        &mut self,
        table: &'static RequestTable,
        dispatcher: &mut Dispatcher,
        fs: &mut dyn FileSystem,
        tables: &[&'static RequestTable],
    ) -> bool {
        // What one look at the queue finds was sent before it: one time for all.
        let started = cycles();
        let mut taken = 0;
        while taken < BURST {
            let Some(mut slot) = table.take() else {
                break;
            };
            let Some(token) = self.poll(slot.segments_mut()) else {
                break;
            };
            taken += 1;
            dispatcher.dispatch(fs, tables, slot, token, started);
        }
        taken > 0
    }

    fn publish(
        &mut self,
        table: &'static RequestTable,
        observer: &mut dyn Observer,
        admission: &mut Option<&'static mut dyn Admission>,
    ) -> bool {
        // One time for all, since the host sees them together.
        let mut now = None;
        let mut end = |finished: &Finished| {
            self.complete(finished.token, finished.written);
            observer.finished(finished, *now.get_or_insert_with(cycles));
            if let Some(admission) = admission {
                admission.charge(finished);
            }
        };
        while table.hand_back(&mut end).is_some() {}
        self.flush();
        now.is_some()
    }
}

/// Join a queue and the table of its requests.
pub struct Lane {
    /// The queue.
    pub queue: &'static mut dyn Served,
    /// Its requests, as deep as the queue.
    pub table: &'static RequestTable,
}
