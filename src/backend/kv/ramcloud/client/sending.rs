//! Requests on their way: which server each call is given to, and the bytes of those that wait for it.

use core::net::SocketAddr;

use super::super::super::line::{Broken, Transport};
use super::super::bundle::Bundle;
use super::super::call::{Call, SIZE_MAX};
use super::super::job::Job;
use super::{COORDINATOR, Ramcloud};
use crate::mem::Handle;
use crate::sys::tcp::Pieces;
use crate::sys::time::Instant;

impl<T: Transport<Address = SocketAddr>> Ramcloud<T> {
    /// Give calls to their servers, as far as it is known which these are.
    pub(super) fn dispatch(&mut self) {
        if self.ready.is_empty() {
            return;
        }
        for _ in 0..self.ready.len() {
            let Some(bits) = self.ready.pop() else {
                break;
            };
            if !self.give(Handle::from_bits(bits)) {
                let _ = self.ready.push(bits);
            }
        }
        self.ask_together();
    }

    /// Give a call to its server. False when it has to wait.
    fn give(&mut self, handle: Handle) -> bool {
        let Some(call) = self.calls.get_mut(handle) else {
            return true;
        };
        if call.since == Instant(0) {
            call.since = self.now;
        }
        if self.now < call.not_before {
            return false;
        }
        if call.waits_for_pad() {
            call.pad = self.free_pads.pop();
            if call.pad.is_none() {
                return false;
            }
        }
        let peer = match call.job.is_own() {
            true => COORDINATOR,
            false => {
                let known = self.tablets.peer(call.hash(self.settings.table));
                match known.filter(|_| self.tablets.told() > call.wrong_map) {
                    Some(peer) => peer,
                    None => {
                        self.map_wanted |= !self.mapping;
                        return false;
                    }
                }
            }
        };
        if call.goes_together() {
            (call.peer, call.sent) = (Some(peer), false);
            let looks = &mut self.peers[peer as usize].looks;
            let _ = looks.push(handle.to_bits());
            if looks.is_full() {
                self.bundle(peer);
            }
            return true;
        }
        self.post(handle, peer)
    }

    /// Queue a call's request. False when it has to wait.
    pub(super) fn post(&mut self, handle: Handle, peer: u32) -> bool {
        let Some(call) = self.calls.get_mut(handle) else {
            return true;
        };
        if call.frame().is_empty() {
            let once = match call.step.changes() {
                true => match self.lessee.number(self.now) {
                    Some(once) => Some(once),
                    None => return false,
                },
                false => None,
            };
            let (table, lease) = (self.settings.table, self.lessee.id());
            // It fits: names are bounded, and so is a place in a listing.
            call.write(handle.to_bits(), table, lease, once);
        }
        call.peer = Some(peer);
        call.sent = false;
        let _ = self.peers[peer as usize].queue.push(handle.to_bits());
        true
    }

    /// Send what is queued for one server. True when something was sent.
    pub(super) fn send(&mut self, which: u32) -> Result<bool, Broken> {
        let mut any = false;
        loop {
            let peer = &mut self.peers[which as usize];
            let mut pieces = Pieces::default();
            let mut skip = peer.part;
            let (first, second) = peer.queue.slices();
            for bits in first.iter().chain(second) {
                let Some(call) = self.calls.get(Handle::from_bits(*bits)) else {
                    continue;
                };
                let (frame, value) = parts(call, self.pads, self.bundles);
                let (head, rest) = (skip.min(frame.len()), skip.saturating_sub(frame.len()));
                if !pieces.bytes(&frame[head..]) || !pieces.bytes(&value[rest..]) {
                    break;
                }
                skip = 0;
            }
            let bytes = match pieces.is_empty() {
                true => 0,
                false => peer.line.send(&self.transport, &mut pieces)?,
            };
            if bytes == 0 {
                // Those that were given up meanwhile go.
                self.sent(which, 0);
                return Ok(any);
            }
            any = true;
            self.sent(which, bytes);
        }
    }

    /// Note that so many bytes are sent.
    fn sent(&mut self, which: u32, mut bytes: usize) {
        let peer = &mut self.peers[which as usize];
        while let Some(bits) = peer.queue.front() {
            let Some(call) = self.calls.get_mut(Handle::from_bits(bits)) else {
                peer.queue.pop();
                continue;
            };
            let len = frame(call, self.bundles).len() + call.value_len();
            if peer.part == 0 && bytes > 0 {
                call.sendings += 1;
            }
            let left = len - peer.part;
            if bytes < left {
                peer.part += bytes;
                return;
            }
            bytes -= left;
            peer.part = 0;
            peer.queue.pop();
            call.sent = true;
            if peer.owed == 0 {
                peer.since = self.now;
            }
            peer.owed += 1;
        }
    }
}

/// Give the bytes of a request, and of the value behind it.
fn parts<'a>(
    call: &'a Call,
    pads: &'a [[u8; SIZE_MAX]],
    bundles: &'a [Bundle],
) -> (&'a [u8], &'a [u8]) {
    let value = match call.pad {
        Some(pad) => &pads[usize::from(pad)][..call.value_len()],
        None => &[],
    };
    (frame(call, bundles), value)
}

/// Give the bytes of a request.
fn frame<'a>(call: &'a Call, bundles: &'a [Bundle]) -> &'a [u8] {
    match call.job {
        Job::Bundle { place } => bundles[usize::from(place)].frame(),
        _ => call.frame(),
    }
}
