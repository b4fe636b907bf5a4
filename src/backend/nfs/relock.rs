//! Locks after the server forgot them: each is reclaimed, behind the opens, before the server is told that all is.
//!
//! A lock that cannot be reclaimed is lost, since others may have had it in between: the host's files through which it
//! was taken fail with `EIO` until they are closed, as under Linux' `NFS_LOCK_LOST`. It is not taken anew.

use crate::mem::Handle as Place;
use crate::wire::nfs4::{Class, Compound, OpenClaim, Results, Status, op};
use crate::wire::rpc::Credentials;

use super::answer::{Trouble, ok};
use super::instance::Nfs;
use super::lock_table::{Holder, Range};
use super::locks::{kind, open_for};

/// Ask for one range of a holder again.
pub struct Relock {
    at: Place,
    holder: Holder,
    range: Range,
}

impl Relock {
    /// Say in whose name.
    pub const fn user(&self) -> Credentials {
        self.holder.user
    }

    /// Write the call: the holder's open comes first, in a call of its own, since not every server lets LOCK name the open of
    /// the same compound. `anew`: the server never knew of it.
    pub fn call<'a>(&self, call: Compound<'a>, anew: bool) -> Compound<'a> {
        let Self { holder, range, .. } = self;
        let call = call.sequence(true).putfh(&holder.handle);
        let Some(open) = holder.open else {
            return open_for(call, holder, holder.access, &claim(anew));
        };
        let bytes = Range::on_wire(range.start, range.end);
        let kind = kind(range.write, false);
        match holder.lock {
            Some(lock) => call.lock_more(kind, !anew, bytes, &lock.newest()),
            None => call.lock_new(kind, !anew, bytes, &open.newest(), holder.number),
        }
    }
}

/// Say how something is opened that was open at the server before, or at another one.
pub const fn claim(anew: bool) -> OpenClaim<'static> {
    match anew {
        true => OpenClaim::Current,
        false => OpenClaim::Previous,
    }
}

impl Nfs {
    /// Ask for the present range once more.
    pub(super) fn relock_again(&mut self) {
        self.relocked = self.relocked.saturating_sub(1);
    }

    /// Give the next range that is to be asked for again, or its holder's open.
    pub(super) fn next_relock(&mut self) -> Option<Relock> {
        let locks = self.volume.locks.lock();
        let (next, at, range) = locks.range_after(self.relocked)?;
        let holder = *locks.get(at)?;
        if holder.open.is_some() {
            self.relocked = next;
        }
        Some(Relock { at, holder, range })
    }

    /// Read what became of it.
    pub(super) fn relocked(
        &mut self,
        ask: &Relock,
        mut results: Results<'_>,
    ) -> Result<(), Trouble> {
        ok(results.sequence())?;
        self.slots.give(0, true);
        let done = (|| {
            ok(results.step(op::PUTFH))?;
            match ask.holder.open {
                Some(open) => Ok((open, Some(ok(results.lock())?))),
                None => Ok((ok(results.open())?.stateid, None)),
            }
        })();
        match done {
            Ok((open, lock)) => {
                if let Some(holder) = self.volume.locks.lock().get_mut(ask.at) {
                    (holder.open, holder.lock) = (Some(open), lock);
                }
                Ok(())
            }
            Err(Trouble::Status(Status::ERR_MOVED)) if self.may_move() => {
                Err(Trouble::Status(Status::ERR_MOVED))
            }
            Err(Trouble::Status(status)) if status.class() != Class::Later => {
                crate::log::info!("nfs: a lock cannot be reclaimed: {}", status.name());
                self.volume.lose_locks(ask.at);
                Ok(())
            }
            Err(trouble) => Err(trouble),
        }
    }
}
