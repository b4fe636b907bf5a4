//! Objects that are looked at together: one multi-read for those of one master, instead of a READ for each.
//!
//! Each of them stays a call of its own. A bundle is one more call, whose answer tells each member how its part went; what
//! goes wrong with a part then goes on as if that object had been asked for alone. Members that the answer leaves out are
//! asked for again; those whose bundle is lost with its connection, or refused, are asked for one by one.

use zerocopy::FromZeros;

use super::super::engine::NAME_MAX;
use super::call::Call;
use super::peer::Incoming;
use crate::mem::{Handle, SlotMap};
use crate::wire::ramcloud::multi::{PARTS_MAX, Part};
use crate::wire::ramcloud::request::MULTI_LEN;
use crate::wire::ramcloud::{Malformed, Request};

/// Bundles that are under way at a time; without one, objects are looked at alone.
pub const BUNDLES: usize = 16;
/// Longest request.
const FRAME: usize = MULTI_LEN.0 + PARTS_MAX * (MULTI_LEN.1 + NAME_MAX);
/// Microseconds before an object is asked for again that its master could not tell of now.
const DELAY: u32 = 1000;

/// Hold the request, and who is in it.
#[derive(FromZeros)]
pub struct Bundle {
    frame: [u8; FRAME],
    len: usize,
    /// Members, by handle; one that was given up finds nothing.
    members: [u64; PARTS_MAX],
    count: usize,
    /// Members whose part has come, and bytes of the last one that are still to come.
    answered: usize,
    skip: usize,
}

impl Bundle {
    /// Begin one. False when it cannot be.
    pub fn begin(
        &mut self,
        nonce: u64,
        table: u64,
        members: &[u64],
        calls: &SlotMap<Call>,
    ) -> bool {
        let mut keys = heapless::Vec::<&[u8], PARTS_MAX>::new();
        for (place, bits) in self.members.iter_mut().zip(members) {
            let Some(call) = calls.get(Handle::from_bits(*bits)) else {
                return false;
            };
            *place = *bits;
            let _ = keys.push(call.key());
        }
        (self.count, self.answered, self.skip) = (keys.len(), 0, 0);
        let request = Request::MultiRead { table, keys: &keys };
        self.len = request.emit(nonce, &mut self.frame).unwrap_or(0);
        self.len > 0
    }

    /// Give the request.
    pub fn frame(&self) -> &[u8] {
        &self.frame[..self.len]
    }

    /// Give the members, and how many of them were answered.
    pub fn members(&self) -> (heapless::Vec<u64, PARTS_MAX>, usize) {
        let members = self.members[..self.count].iter().copied().collect();
        (members, self.answered)
    }

    /// Take parts of the answer, as far as they have come. `told` is how many it is said to have. Gives the bytes.
    pub fn take(
        &mut self,
        incoming: &Incoming<'_>,
        told: usize,
        calls: &mut SlotMap<Call>,
    ) -> Result<usize, Malformed> {
        let mut rest = incoming.bytes;
        let mut left = incoming.head.len - incoming.at;
        while !rest.is_empty() {
            let skipped = self.skip.min(rest.len());
            (rest, left, self.skip) = (&rest[skipped..], left - skipped, self.skip - skipped);
            if rest.is_empty() {
                break;
            }
            if self.answered >= told.min(self.count) {
                return Err(Malformed);
            }
            let Some(part) = Part::parse(rest, left)? else {
                break;
            };
            let member = Handle::from_bits(self.members[self.answered]);
            if let Some(call) = calls.get_mut(member) {
                (call.status, call.delay) = (part.status, DELAY);
                (call.known.size, call.known.version) = (part.size, part.version);
            }
            self.answered += 1;
            self.skip = part.len;
        }
        Ok(incoming.bytes.len() - rest.len())
    }
}
