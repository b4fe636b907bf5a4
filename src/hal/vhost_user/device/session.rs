//! When the device stands still, and when what its guest knows is void.

use std::sync::{Arc, Weak};

use super::super::memory::Memory;
use super::super::queues::QueueError;
use super::{Device, Refusal};
use crate::log;
use crate::sys::time::Instant;
use crate::wire::vhost_user::ProtocolFeatures;

/// Time that a front-end which keeps a record of what is in flight gets to come back, in nanoseconds.
const GRACE: u64 = 10_000_000_000;

/// Where the session with the guest stands: what it knows (nodes, open files) lives as long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Session {
    /// Nothing is known.
    Fresh,
    /// Queues were started since.
    Live,
    /// The front-end is gone and may come back until then.
    Lost(Instant),
}

impl Device {
    pub(super) fn reset_session(&mut self, why: &str) {
        if self.session != Session::Fresh {
            log::info!("device {}: {}", self.tag.as_str(), why);
            self.events.reset();
            self.session = Session::Fresh;
        }
    }

    /// End the old session when a queue does not go on where it stopped: then the guest's driver began anew.
    pub(super) fn renew(&mut self, index: usize) -> Result<(), Refusal> {
        if !self.queues.any_running() {
            self.renewed = false;
        }
        match self.session {
            Session::Fresh => {}
            Session::Live => {
                let vring = &self.queues.vrings[index];
                let moved = vring.stopped_at.is_some_and(|at| at != vring.base);
                if moved && !self.renewed {
                    self.renewed = true;
                    self.drop_record()?;
                    self.reset_session("taken over by a new driver");
                }
            }
            Session::Lost(_) => {
                if !self.resuming {
                    self.reset_session("taken over by a new front-end");
                }
            }
        }
        self.session = Session::Live;
        Ok(())
    }

    pub(super) fn stop<const N: usize>(&mut self, indices: [usize; N]) -> Result<(), Refusal> {
        let abandoned = self.queues.stop(indices.into_iter());
        self.stopped(abandoned)
    }

    pub(super) fn stop_all(&mut self) -> Result<(), Refusal> {
        let abandoned = self.queues.stop(0..self.queues.len());
        self.stopped(abandoned)
    }

    fn stopped(&mut self, abandoned: Result<u32, QueueError>) -> Result<(), Refusal> {
        if abandoned != Ok(0) {
            self.orphans = true;
        }
        if let Ok(abandoned @ 1..) = abandoned {
            log::warn!(
                "device {}: stopped with {} requests that did not end in time",
                self.tag.as_str(),
                abandoned
            );
        }
        if self.orphans && !self.queues.any_running() {
            self.orphans = false;
            self.detach()?;
        }
        abandoned?;
        Ok(())
    }

    /// Take the guest's memory away from requests that are still under way though all queues are stopped: a device
    /// that stands still must not write to its guest any more, whenever they end.
    fn detach(&mut self) -> Result<(), Refusal> {
        let old = core::mem::take(&mut self.mapped);
        for mapping in old.iter().filter_map(Weak::upgrade) {
            mapping.detach()?;
        }
        let memory = self.memory.take();
        let regions = core::mem::take(&mut self.regions);
        let regions = regions.iter().map(|mapping| mapping.again());
        self.regions = regions.collect::<Result<_, _>>()?;
        self.mapped = self.regions.iter().map(Arc::downgrade).collect();
        if memory.is_some() {
            self.memory = Some(Memory::new(&self.regions, self.record.clone())?);
        }
        Ok(())
    }

    /// Let go of a front-end that is gone. Its guest's session ends, unless it kept a record of what is in flight:
    /// then it gets [`GRACE`] to come back with it.
    pub(in super::super) fn disconnected(&mut self) {
        if let Err(error) = self.stop_all() {
            log::error!("device {}: {}", self.tag.as_str(), log::Debugged(&error));
        }
        let recorded = self.record.take().is_some();
        self.queues.forget();
        self.memory = None;
        self.regions.clear();
        self.backend = None;
        self.features = 0;
        self.protocol = ProtocolFeatures::empty();
        self.status = 0;
        self.resuming = false;
        if recorded && self.session == Session::Live {
            self.session = Session::Lost(Instant::now().after(GRACE));
        } else {
            self.reset_session("its front-end is gone");
        }
    }

    /// Say when to call [`Self::expire`].
    pub(in super::super) const fn deadline(&self) -> Option<Instant> {
        match self.session {
            Session::Lost(until) => Some(until),
            _ => None,
        }
    }

    /// End the session of a front-end that did not come back in time.
    pub(in super::super) fn expire(&mut self, now: Instant) {
        if self.deadline().is_some_and(|until| now >= until) {
            self.reset_session("its front-end did not come back");
        }
    }
}
