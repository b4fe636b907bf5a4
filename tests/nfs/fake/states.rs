//! Opens and locks.

use std::collections::HashMap;

use dpfs::wire::nfs4::{StateId, Status};
use dpfs::wire::xdr::{Decoder, Encoder};

use super::compound::Refused;

/// A range of bytes: the first, the one behind the last, for writing.
type Range = (u64, u64, bool);

/// Hold an open, or an owner's locks of a file.
pub struct State {
    pub client: u64,
    pub owner: Vec<u8>,
    pub file: u64,
    pub seqid: u32,
    pub access: u32,
    /// What is locked; `None` for an open.
    pub ranges: Option<Vec<Range>>,
    /// Why it is gone, although the client has not let go of it.
    pub revoked: Option<Status>,
}

/// Hold them all.
#[derive(Default)]
pub struct States {
    pub all: HashMap<[u8; 12], State>,
    next: u64,
}

/// Read a stateid.
pub fn stateid(input: &mut Decoder<'_>) -> Result<StateId, Refused> {
    Ok(StateId {
        seqid: input.u32()?,
        other: input.fixed()?,
    })
}

/// Write a stateid.
pub fn put_stateid(out: &mut Encoder<'_>, stateid: &StateId) {
    out.u32(stateid.seqid);
    out.fixed(&stateid.other);
}

impl States {
    /// Find the state of a stateid.
    pub fn find(&mut self, stateid: &StateId) -> Result<&mut State, Refused> {
        let found = self.all.get_mut(&stateid.other);
        let state = found.ok_or(Refused(Status::ERR_BAD_STATEID))?;
        match state.revoked {
            Some(why) => Err(Refused(why)),
            None if stateid.seqid > state.seqid => Err(Refused(Status::ERR_BAD_STATEID)),
            None if stateid.seqid != 0 && stateid.seqid < state.seqid => {
                Err(Refused(Status::ERR_OLD_STATEID))
            }
            None => Ok(state),
        }
    }

    /// Give an owner's state of a file, made when there is none.
    pub fn of(
        &mut self,
        client: u64,
        owner: &[u8],
        file: u64,
        locks: bool,
    ) -> (StateId, &mut State) {
        let known = self.all.iter().find(|(_, state)| {
            let same = state.client == client && state.owner == owner && state.file == file;
            same && state.ranges.is_some() == locks && state.revoked.is_none()
        });
        let other = known.map(|(other, _)| *other).unwrap_or_else(|| {
            self.next += 1;
            let mut other = *b"fake00000000";
            other[4..].copy_from_slice(&self.next.to_be_bytes());
            other
        });
        let state = self.all.entry(other).or_insert_with(|| State {
            client,
            owner: owner.to_vec(),
            file,
            seqid: 0,
            access: 0,
            ranges: locks.then(Vec::new),
            revoked: None,
        });
        state.seqid += 1;
        let stateid = StateId {
            seqid: state.seqid,
            other,
        };
        (stateid, state)
    }

    /// Find a lock of somebody else in the way.
    pub fn conflict(
        &self,
        file: u64,
        client: u64,
        owner: &[u8],
        (start, end, write): Range,
    ) -> Option<(Range, u64, Vec<u8>)> {
        let others = self
            .all
            .values()
            .filter(|state| state.file == file && (state.client != client || state.owner != owner));
        others
            .filter(|state| state.revoked.is_none())
            .flat_map(|state| {
                state
                    .ranges
                    .iter()
                    .flatten()
                    .map(move |range| (range, state))
            })
            .find(|(range, _)| range.0 < end && start < range.1 && (write || range.2))
            .map(|(range, state)| (*range, state.client, state.owner.clone()))
    }

    /// Take everything away, as an administrator does; what is open only, or locks only.
    pub fn revoke(&mut self, locks: bool, why: Status) {
        for state in self.all.values_mut() {
            if state.ranges.is_some() == locks {
                state.revoked = Some(why);
            }
        }
    }

    /// Count what is open, or locked.
    pub fn count(&self, locks: bool) -> usize {
        let counts = |state: &&State| {
            let held = state
                .ranges
                .as_ref()
                .map_or(!locks, |held| locks && !held.is_empty());
            held && state.revoked.is_none()
        };
        self.all.values().filter(counts).count()
    }
}
