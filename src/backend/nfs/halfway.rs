//! Compounds that a server did in part: it made or opened something, and put off the rest.
//!
//! To send such a call again would make or open a second time (`EEXIST` for a name that we made ourselves), so the task
//! goes on with the rest alone.
//!
//! An exclusive creation is always done in two: the server keeps the verifier, by which it knows the call when it is sent
//! again after a restart, in the file's times, so these are set only when the answer is here.

use crate::mem::Handle as TaskId;
use crate::wire::nfs4::{AttrRequest, Class, FileAttr, Results, Status, op};
use crate::wire::rpc::Credentials;

use super::answer::{Trouble, ok, with_attributes};
use super::filesystem::FRESH;
use super::instance::Nfs;
use super::op::{Op, Opening, With};
use super::volume::{Leftover, NfsVolume};

impl Trouble {
    /// Tell whether the server only asks for patience.
    pub(super) const fn is_later(&self) -> bool {
        matches!(self, Self::Status(status) if matches!(status.class(), Class::Later))
    }
}

/// Read OPEN, or what is left of it, to the file's attributes; `names` when it named the file in a directory. Notes in
/// `opening` what was opened. Without attributes, the rest is still to be asked for.
fn opened<'a>(
    volume: &NfsVolume,
    user: Credentials,
    results: &mut Results<'a>,
    opening: &mut Opening,
    names: bool,
) -> Result<Option<FileAttr<'a>>, Trouble> {
    ok(results.step(op::PUTFH))?;
    if opening.state.is_none() {
        let open = ok(results.open())?;
        if names {
            opening.handle = ok(results.getfh())?;
        }
        opening.state = Some(open.stateid);
        volume.give_back(&open, &opening.handle, user);
        if opening.sets {
            return Ok(None);
        }
    } else if opening.sets {
        ok(results.setattr())?;
    }
    ok(results.getattr()).map(Some)
}

impl Nfs {
    /// Tell whether the rest of a compound is to be asked for later, maybe of another server.
    fn is_put_off(&self, trouble: &Trouble) -> bool {
        let moved = matches!(trouble, Trouble::Status(Status::ERR_MOVED));
        trouble.is_later() || (moved && self.may_move())
    }

    /// Read the answer to a task's OPEN, or to what was left of it: what was opened, and its attributes. `None` when the
    /// task goes on with the rest.
    pub(super) fn take_open<'a>(
        &mut self,
        handle: TaskId,
        results: &mut Results<'a>,
    ) -> Result<Option<(Opening, FileAttr<'a>)>, Trouble> {
        let Some(task) = self.tasks.get(handle) else {
            return Ok(None);
        };
        let (Op::Open(_, noted) | Op::Create(_, noted)) = &task.op else {
            return Ok(None);
        };
        let mut opening = *noted;
        let names = matches!(task.op, Op::Create(..));
        match opened(self.volume, task.user, results, &mut opening, names) {
            Ok(Some(attr)) => return Ok(Some((opening, attr))),
            // A file was made exclusively, and has no times yet.
            Ok(None) => {
                if self.build_rest(handle, opening) {
                    self.make_ready(handle);
                }
            }
            Err(trouble) => self.half_open(handle, opening, trouble)?,
        }
        Ok(None)
    }

    /// A file was opened, and then something failed: go on with the rest later, or have the file closed.
    fn half_open(
        &mut self,
        handle: TaskId,
        opening: Opening,
        trouble: Trouble,
    ) -> Result<(), Trouble> {
        let put_off = self.is_put_off(&trouble);
        let (Some(state), Some(task)) = (opening.state, self.tasks.get_mut(handle)) else {
            return Err(trouble);
        };
        if let Op::Open(_, noted) | Op::Create(_, noted) = &task.op
            && noted.state.is_some()
        {
            // The rest is what was sent: it is sent again, or the task fails and leaves what is open.
            return Err(trouble);
        }
        if !put_off {
            let user = task.user;
            self.volume
                .leave(Leftover::Open(opening.handle, state, user));
            return Err(trouble);
        }
        if self.build_rest(handle, opening) {
            self.delay(handle);
        }
        Ok(())
    }

    /// Write the call of what is left when a file is open. It names no state, which a restart of the server would end.
    fn build_rest(&mut self, handle: TaskId, opening: Opening) -> bool {
        let Some(task) = self.tasks.get_mut(handle) else {
            return false;
        };
        if let Op::Open(_, noted) | Op::Create(_, noted) = &mut task.op {
            *noted = opening;
        }
        self.build(handle, With::Nothing, 0, |call| {
            let call = call.sequence(true).putfh(&opening.handle);
            let call = if opening.sets {
                call.setattr(&FRESH)
            } else {
                call
            };
            call.getattr(&AttrRequest::STAT)
        })
    }

    /// Something was made, or got one more name, and then something failed: look it up later.
    pub(super) fn half_made(&mut self, handle: TaskId, trouble: Trouble) -> Result<(), Trouble> {
        let put_off = self.is_put_off(&trouble);
        let Some(task) = self.tasks.get_mut(handle).filter(|_| put_off) else {
            return Err(trouble);
        };
        task.op = match core::mem::replace(&mut task.op, Op::Renew) {
            Op::Make { reply, .. } | Op::Link(reply) => Op::Lookup(reply),
            other => other,
        };
        let args = self.args[handle.index as usize];
        let built = self.build(handle, With::Nothing, 0, |call| {
            let call = call.sequence(false).putfh(&args.handles[0]);
            with_attributes(call.lookup(args.name(0)))
        });
        if built {
            self.delay(handle);
        }
        Ok(())
    }
}
