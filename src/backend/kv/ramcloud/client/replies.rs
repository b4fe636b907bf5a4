//! Replies: what each means for its call, and how the call goes on or ends.

use core::net::SocketAddr;

use super::super::super::line::Transport;
use super::super::super::objects::{Client, Done, Failure};
use super::super::call::{Call, Next};
use super::super::job::{Job, Step};
use super::incoming::take;
use super::{DELAY_MAX, PACE, Ramcloud};
use crate::mem::Handle;
use crate::wire::ramcloud::reply;
use crate::wire::ramcloud::{Malformed, Status};

impl<T: Transport<Address = SocketAddr>> Ramcloud<T> {
    /// Take what has come from a server.
    pub(super) fn understand(
        &mut self,
        which: u32,
        client: &mut dyn Client,
    ) -> Result<(), Malformed> {
        loop {
            let Some(incoming) = self.peers[which as usize].incoming()? else {
                return Ok(());
            };
            let handle = Handle::from_bits(incoming.head.nonce);
            let call = self.calls.get_mut(handle);
            let call = call.filter(|call| call.peer == Some(which) && call.sent);
            let (taken, known) = match call {
                // It was given up.
                None => (incoming.bytes.len(), false),
                Some(&mut Call {
                    job: Job::Bundle { place },
                    status: Status::Ok,
                    objects: told,
                    ..
                }) if incoming.at > 0 => {
                    let bundle = &mut self.bundles[usize::from(place)];
                    (bundle.take(&incoming, told, &mut self.calls)?, true)
                }
                Some(call) => (take(call, &incoming, self.pads, client)?, true),
            };
            let (at, left) = (incoming.at, incoming.head.len - incoming.at);
            // What is told whole is understood before it is overwritten.
            if known && at == 0 && taken == left {
                self.whole(which, handle)?;
            }
            let peer = &mut self.peers[which as usize];
            let ended = peer.taken(taken);
            if ended {
                peer.owed = peer.owed.saturating_sub(1);
                peer.line.proven();
                peer.reported = None;
            }
            if ended && known {
                self.answered(handle, client);
            } else if !ended && taken == 0 {
                return Ok(());
            }
        }
    }

    /// Understand a reply that is held whole: a number, a lease, the map.
    fn whole(&mut self, which: u32, handle: Handle) -> Result<(), Malformed> {
        let Some(call) = self.calls.get_mut(handle) else {
            return Ok(());
        };
        let Some(incoming) = self.peers[which as usize].incoming()? else {
            return Ok(());
        };
        let payload = incoming.bytes;
        match (call.status, call.job) {
            (Status::Retry, _) => call.delay = reply::retry(payload)?.0,
            (Status::Ok, Job::Lease) => {
                let lease = reply::lease(payload)?;
                if lease.id == 0 {
                    return Err(Malformed);
                }
                self.lessee.gave(lease, call.since);
            }
            (Status::Ok, Job::Map) => {
                // Servers may change their places with it.
                let message = reply::message(payload)?;
                let len = message.len();
                self.told
                    .get_mut(..len)
                    .ok_or(Malformed)?
                    .copy_from_slice(message);
                let told = core::mem::take(&mut self.told);
                let result = self.remap(&told[..len]);
                self.told = told;
                result?;
            }
            (Status::Ok, _) if call.step.changes() => call.next_hash = reply::number(payload)?,
            _ => {}
        }
        Ok(())
    }

    /// Go on with a call whose reply has come in full.
    pub(super) fn answered(&mut self, handle: Handle, client: &mut dyn Client) {
        let Some(call) = self.calls.get_mut(handle) else {
            return;
        };
        call.peer = None;
        if call.step == Step::Bundle {
            return self.bundle_answered(handle, client);
        }
        match call.status {
            Status::Retry => {
                let delay = (u64::from(call.delay) * 1000).min(DELAY_MAX);
                call.not_before = self.now.after(delay);
                call.since = self.now;
                let _ = self.ready.push(handle.to_bits());
                return;
            }
            Status::UnknownTablet if !call.job.is_own() => {
                call.wrong_map = self.tablets.told();
                self.map_wanted |= !self.mapping;
                let _ = self.ready.push(handle.to_bits());
                return;
            }
            Status::ExpiredLease => {
                self.lessee.expired();
                // Sent once, it was refused and nothing more: a new lease, a new number.
                if call.sendings == 1 {
                    self.lessee.ended(call.rpc);
                    call.go(call.step);
                    let _ = self.ready.push(handle.to_bits());
                    return;
                }
                return self.end(handle, Err(Failure::Unknown), client);
            }
            Status::StaleRpc => return self.end(handle, Err(Failure::Unknown), client),
            Status::Other(code) if !self.complained && !call.job.is_own() => {
                self.complained = true;
                crate::log::error!("ramcloud: a master answers with status {}", code);
            }
            _ => {}
        }
        if call.job.is_own() {
            return self.end(handle, Ok(Done::Done), client);
        }
        self.pace = PACE.0;
        self.lessee.ended(call.rpc);
        let pad: &mut [u8] = match call.pad {
            Some(pad) => &mut self.pads[usize::from(pad)],
            None => &mut [],
        };
        match call.answered(call.next_hash, pad, client) {
            Next::Step(step) => {
                call.go(step);
                let _ = self.ready.push(handle.to_bits());
            }
            Next::End(result) => self.end(handle, result, client),
        }
    }

    /// End a call.
    pub(super) fn end(
        &mut self,
        handle: Handle,
        result: Result<Done, Failure>,
        client: &mut dyn Client,
    ) {
        let Some(call) = self.calls.remove(handle) else {
            return;
        };
        self.lessee.ended(call.rpc);
        if let Some(pad) = call.pad {
            let _ = self.free_pads.push(pad);
        }
        match call.job {
            Job::Lease => {
                self.leasing = false;
                self.lease_at = self.now.after(PACE.1);
            }
            Job::Map => self.mapping = false,
            Job::Report { .. } | Job::Bundle { .. } => {}
            _ => client.done(call.token, result),
        }
    }
}
