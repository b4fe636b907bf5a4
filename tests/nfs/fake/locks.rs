//! Locks, and what is asked of states.

use dpfs::wire::nfs4::{Status, op};
use dpfs::wire::xdr::{Decoder, Encoder};

use super::Server;
use super::compound::{Current, Refused};
use super::states::{put_stateid, stateid};

fn put_denied(out: &mut Encoder<'_>, (range, client, owner): &((u64, u64, bool), u64, Vec<u8>)) {
    out.u64(range.0);
    out.u64(if range.1 == u64::MAX {
        u64::MAX
    } else {
        range.1 - range.0
    });
    out.u32(if range.2 { 2 } else { 1 });
    out.u64(*client);
    out.opaque(owner);
}

/// Read a range: its first byte, the one behind its last.
fn range(input: &mut Decoder<'_>) -> Result<(u64, u64), Refused> {
    let (start, len) = (input.u64()?, input.u64()?);
    Ok((start, start.saturating_add(len)))
}

impl Server {
    /// Do an operation about locks or states.
    pub fn state_operation(
        &mut self,
        number: u32,
        current: &mut Current,
        input: &mut Decoder<'_>,
        out: &mut Encoder<'_>,
    ) -> Result<(), Refused> {
        match number {
            op::LOCK => {
                let (kind, reclaim) = (input.u32()?, input.bool()?);
                let (start, end) = range(input)?;
                let wanted = (start, end, kind % 2 == 0);
                if self.script.grace && !reclaim {
                    return Err(Refused(Status::ERR_GRACE));
                }
                if reclaim && !self.script.grace {
                    return Err(Refused(Status::ERR_NO_GRACE));
                }
                let owner = if input.bool()? {
                    input.u32()?;
                    let named = self.resolve(current, &stateid(input)?);
                    self.states.find(&named)?;
                    input.skip(3)?;
                    input.opaque(1024)?.to_vec()
                } else {
                    self.states.find(&stateid(input)?)?.owner.clone()
                };
                let (client, file) = (current.client, current.file()?);
                if let Some(denied) = self.states.conflict(file, client, &owner, wanted) {
                    put_denied(out, &denied);
                    return Err(Refused(Status::ERR_DENIED));
                }
                let (named, state) = self.states.of(client, &owner, file, true);
                let ranges = state.ranges.get_or_insert_default();
                ranges.push(wanted);
                put_stateid(out, &named);
            }
            op::LOCKT => {
                let kind = input.u32()?;
                let (start, end) = range(input)?;
                input.skip(2)?;
                let owner = input.opaque(1024)?;
                let wanted = (start, end, kind % 2 == 0);
                let file = current.file()?;
                let denied = self.states.conflict(file, current.client, owner, wanted);
                if let Some(denied) = denied {
                    put_denied(out, &denied);
                    return Err(Refused(Status::ERR_DENIED));
                }
            }
            op::LOCKU => {
                input.skip(2)?;
                let mut named = stateid(input)?;
                let (start, end) = range(input)?;
                let state = self.states.find(&named)?;
                // Whole ranges are enough for a test.
                let outside = |range: &(u64, u64, bool)| range.1 <= start || end <= range.0;
                let ranges = state.ranges.get_or_insert_default();
                ranges.retain(outside);
                state.seqid += 1;
                named.seqid = state.seqid;
                put_stateid(out, &named);
            }
            op::TEST_STATEID => {
                let count = input.count(64)?;
                out.u32(count);
                for _ in 0..count {
                    let found = self.states.find(&stateid(input)?);
                    out.u32(found.err().map_or(0, |refused| refused.0.0));
                }
            }
            _ => {
                let named = stateid(input)?;
                let state = self.states.all.get(&named.other);
                let state = state.ok_or(Refused(Status::ERR_BAD_STATEID))?;
                if state.revoked.is_none() {
                    return Err(Refused(Status::ERR_LOCKS_HELD));
                }
                self.states.all.remove(&named.other);
                if self
                    .states
                    .all
                    .values()
                    .all(|state| state.revoked.is_none())
                {
                    self.script.flags &= !0x78;
                }
            }
        }
        Ok(())
    }
}
