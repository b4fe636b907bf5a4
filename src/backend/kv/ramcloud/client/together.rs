//! Looks that go to one master in one round are asked together, and told of one by one.

use core::net::SocketAddr;

use super::super::super::line::Transport;
use super::super::super::objects::Client;
use super::super::call::Call;
use super::super::job::{Job, Step};
use super::{DELAY_MAX, PEERS, Ramcloud, Token};
use crate::mem::Handle;
use crate::wire::ramcloud::Status;

impl<T: Transport<Address = SocketAddr>> Ramcloud<T> {
    /// Hand what is to be looked at to its masters.
    pub(super) fn ask_together(&mut self) {
        for which in 0..PEERS {
            self.bundle(which);
        }
    }

    /// Ask one master for what has gathered for it.
    pub(super) fn bundle(&mut self, which: u32) {
        let looks = core::mem::take(&mut self.peers[which as usize].looks);
        if looks.len() > 1 && self.begin_bundle(which, &looks).is_some() {
            return;
        }
        for bits in looks {
            self.post(Handle::from_bits(bits), which);
        }
    }

    fn begin_bundle(&mut self, which: u32, looks: &[u64]) -> Option<()> {
        let place = self.free_bundles.pop()?;
        let mut call = Call::own(Job::Bundle { place }, Token(0), Step::Bundle);
        (call.peer, call.since) = (Some(which), self.now);
        let handle = self.calls.insert(call).ok()?;
        let bundle = &mut self.bundles[usize::from(place)];
        let table = self.settings.table;
        if !bundle.begin(handle.to_bits(), table, looks, &self.calls) {
            self.end_bundle(handle);
            return None;
        }
        let _ = self.peers[which as usize].queue.push(handle.to_bits());
        Some(())
    }

    /// Let go of a bundle. Gives its call, and its place.
    pub(super) fn end_bundle(&mut self, handle: Handle) -> Option<(Call, u16)> {
        let call = self.calls.remove(handle)?;
        let Job::Bundle { place } = call.job else {
            return None;
        };
        let _ = self.free_bundles.push(place);
        Some((call, place))
    }

    /// Tell members how it went, and ask for the others again.
    pub(super) fn bundle_answered(&mut self, handle: Handle, client: &mut dyn Client) {
        let Some((bundle, place)) = self.end_bundle(handle) else {
            return;
        };
        let (members, answered) = self.bundles[usize::from(place)].members();
        for (number, bits) in members.into_iter().enumerate() {
            let member = Handle::from_bits(bits);
            let Some(call) = self.calls.get_mut(member) else {
                continue;
            };
            call.peer = None;
            match bundle.status {
                Status::Ok if number < answered => {
                    self.answered(member, client);
                    continue;
                }
                // There was no room in the answer.
                Status::Ok if answered > 0 => {}
                Status::Retry => {
                    let delay = (u64::from(bundle.delay) * 1000).min(DELAY_MAX);
                    (call.not_before, call.since) = (self.now.after(delay), self.now);
                }
                // Its master knows no such request, or one object is too large for the answer.
                _ => call.alone = true,
            }
            let _ = self.ready.push(bits);
        }
    }
}
