//! State that the server took away: each SEQUENCE says so until the client has let go of it (RFC 8881, section 8.3).
//!
//! The server does not say which state that is. So each is asked after, one call a state, and let go of in the same
//! call: a server keeps what is valid (`LOCKS_HELD`). An open is made anew when it is used. Locks are lost, as others
//! may have them now: the files through which they were taken fail.

use crate::mem::Handle as TaskId;
use crate::wire::nfs4::{Class, Compound, Results, SequenceResult, StateId};

use super::answer::{Trouble, ok};
use super::instance::Nfs;
use super::op::{Op, With};

/// Say which state is asked after.
#[derive(Clone, Copy, Debug, Default)]
pub struct Probe {
    /// Place of the last open file that was.
    file: u32,
    /// Place of the last holder of locks that was, and whether its open was and its locks are next.
    holder: u32,
    locks: bool,
    /// The state.
    state: StateId,
}

/// Ask after a state, and let go of it if it is gone.
fn probe_call<'a>(call: Compound<'a>, probe: &Probe) -> Compound<'a> {
    let call = call.sequence(true).test_stateid(&probe.state);
    call.free_stateid(&probe.state)
}

impl Nfs {
    /// Note what the server says of our state as a whole.
    pub(super) fn note_flags(&mut self, flags: u32) {
        let restarted = flags & SequenceResult::RESTART != 0;
        // A server that says so although it was told that all is reclaimed is not believed twice.
        if restarted && !self.restarted {
            self.reclaims = true;
        }
        self.restarted = restarted;
        self.revoked |= flags & SequenceResult::REVOKED != 0;
        self.note_move(flags);
    }

    /// Do what [`Self::note_flags`] noted. True when there was something.
    pub(super) fn heed_flags(&mut self) -> bool {
        if !core::mem::take(&mut self.reclaims) {
            return false;
        }
        let volume = self.volume;
        {
            let mut standing = volume.standing.lock();
            let mut locks = volume.locks.lock();
            // Otherwise another core was told first, and has it all back or is about to.
            if locks.life() == self.life {
                locks.forget_states();
                (standing.complete, standing.rewrite) = (false, true);
            }
        }
        self.lose_session("the server restarted");
        true
    }

    /// Begin to ask after all state, at most once in a third of the lease.
    pub(super) fn probe_state(&mut self) {
        let pause = self.volume.known.lease() / 3;
        let recent = self.probed.is_some_and(|at| self.now.since(at) < pause);
        // One of our own that does not find room is tried again.
        let full = self.tasks.len() == self.tasks.capacity();
        if !self.revoked || self.probing || recent || full {
            return;
        }
        (self.revoked, self.probed) = (false, Some(self.now));
        if let Some(probe) = self.next_probe(Probe::default()) {
            crate::log::warn!("nfs: the server revoked state; looking for what is lost");
            self.probing = true;
            let user = self.machine();
            self.start_own(Op::Probe(probe), user, None, With::Nothing, |call| {
                probe_call(call, &probe)
            });
        }
    }

    /// Give the state behind this one.
    fn next_probe(&self, mut probe: Probe) -> Option<Probe> {
        while let Some((place, file)) = self.volume.files.pin_after(probe.file) {
            let (access, state) = (file.access, file.state.lock().stateid);
            self.unpin(file);
            probe.file = place;
            if access != 0 {
                probe.state = state.newest();
                return Some(probe);
            }
        }
        let locks = self.volume.locks.lock();
        loop {
            let (at, holder) = locks.holder_after(probe.holder)?;
            let state = if probe.locks {
                probe.holder = at.index;
                holder.lock
            } else {
                holder.open
            };
            probe.locks = !probe.locks;
            if let Some(state) = state {
                probe.state = state.newest();
                return Some(probe);
            }
        }
    }

    /// Read what the server says of a state, and ask after the next.
    pub(super) fn probed(
        &mut self,
        handle: TaskId,
        mut results: Results<'_>,
    ) -> Result<(), Trouble> {
        let Some(Op::Probe(probe)) = self.tasks.get(handle).map(|task| &task.op) else {
            return Ok(());
        };
        let probe = *probe;
        match ok(results.test_stateid()) {
            Ok(status) if status.class() == Class::State => self.lost_holder(&probe.state, true),
            Ok(_) => {}
            // Who does not tell what is lost has taken all.
            Err(Trouble::Status(status)) if status.class() == Class::Caller => {
                self.lost_holder(&probe.state, false);
            }
            Err(trouble) => return Err(trouble),
        }
        let Some(next) = self.next_probe(probe) else {
            self.finish(handle);
            return Ok(());
        };
        if let Some(Op::Probe(probe)) = self.tasks.get_mut(handle).map(|task| &mut task.op) {
            *probe = next;
        }
        self.build_again(handle, With::Nothing, |call| probe_call(call, &next));
        Ok(())
    }

    /// A state is gone, for `certain` or perhaps: if it is that of a holder of locks, so are those.
    fn lost_holder(&self, state: &StateId, certain: bool) {
        let mut place = 0;
        loop {
            let found = self.volume.locks.lock().holder_after(place);
            let Some((at, holder)) = found else { return };
            place = at.index;
            let is = |held: Option<StateId>| held.is_some_and(|held| held.other == state.other);
            if is(holder.lock) {
                self.volume.lose_locks(at);
                let mut left = holder;
                left.lock = left.lock.filter(|_| !certain);
                self.volume.leave_holder(&left);
            } else if certain
                && is(holder.open)
                && let Some(holder) = self.volume.locks.lock().get_mut(at)
            {
                (holder.open, holder.access) = (None, 0);
            }
        }
    }
}
