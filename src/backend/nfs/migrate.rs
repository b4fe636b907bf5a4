//! A file system that moves to another server while it is in use (RFC 8881, section 11.11).
//!
//! ```text
//!  MOVED, LEASE_MOVED ──> root: GETATTR(fs_locations), GETATTR ──here──> EREMOTE: something else moved
//!                             │ MOVED
//!                   every core leaves the server, and one of them looks:
//!      ┌──> the next place: EXCHANGE_ID ──> CREATE_SESSION ──> PUTROOTFH, LOOKUP..., GETFH ──MOVED──> where is it from there?
//!      └──── not reached, or refused ──────────┴───────────────────┘ the same handle as here
//!                      RECLAIM_COMPLETE ──> opens and locks made anew ──> content written again ──> up
//! ```
//!
//! What moves is the file system of the export that is mounted, and with it all that its client holds: the client as a
//! whole is pointed at the other server. Meanwhile requests wait, as they do for a server that is away; `soft` ends that.
//! The places are those that the server tells and that referrals may be followed to, in their order, then the server that
//! told them, in a circle until one has the file system. When all that were told are reached and refuse, what the last said
//! is the answer, and for 2 s it is not tried again. At most 8 servers send from one to the next.
//!
//! Handles stay what they are: names of files are not kept here, so what has other handles there is not followed to
//! (`ESTALE`). That shows in the root's handle, and in `FH4_VOL_MIGRATION`. Servers that share disks, or of which one takes
//! over those of the other, have the same handles. State is not reclaimed but made
//! anew, since the other server does not know of it: opens by handle, after which a file whose number is another one is
//! lost (`ESTALE`); locks as new ones, so that one which somebody else took meanwhile is lost (`EIO`). What was not durable
//! is written again, whatever the verifiers say.
//!
//! Not followed, and `EREMOTE`: a file system below that of the export, and one behind a referral, which are met anew by
//! their names. The other server is to speak the minor version of the first. The old one is not told that we left.

use crate::fuse::NodeId;
use crate::mem::Handle as TaskId;
use crate::wire::errno::Errno;
use crate::wire::nfs4::{AttrRequest, Compound, Results, SequenceResult, Status, op};

use super::answer::{Trouble, ok, putfh, with_attributes};
use super::instance::Nfs;
use super::op::{Op, Place as At, Task, With};
use super::path::Path;
use super::referral::down;
use super::whereabouts::Place;

/// Ask of something where its file system is, and whether it is not here.
fn whither_call(call: Compound<'_>) -> Compound<'_> {
    call.getattr(&AttrRequest::LOCATIONS)
        .getattr(&AttrRequest::STAT)
}

/// Read PUTROOTFH and so many LOOKUPs; gives how many were done when something behind the root is elsewhere.
pub(super) fn went_down(results: &mut Results<'_>, names: usize) -> Result<Option<usize>, Trouble> {
    ok(results.step(op::PUTROOTFH))?;
    for passed in 0..names {
        match ok(results.step(op::LOOKUP)) {
            Err(Trouble::Status(Status::ERR_MOVED)) if passed > 0 => return Ok(Some(passed)),
            other => other?,
        }
    }
    Ok(None)
}

impl Nfs {
    /// Tell whether the file system of the export is followed when it moves.
    pub(super) fn may_move(&self) -> bool {
        self.volume.settings.tag == 0 && !self.border.volumes.is_empty()
    }

    /// Note that the server speaks of a move.
    pub(super) fn note_move(&mut self, flags: u32) {
        self.search.flagged |= flags & SequenceResult::LEASE_MOVED != 0;
    }

    /// Tell whether a task waits when the server says that its file system moved.
    pub(super) fn outlives_move(&self, op: &Op) -> bool {
        let ends = match op {
            Op::Walk { .. } | Op::Whither(_) | Op::Renew | Op::Probe(_) | Op::Close => true,
            Op::Locate { walked, .. } => *walked > 0,
            _ => false,
        };
        self.may_move() && !ends
    }

    /// The server says of something known that its file system moved: the task waits until that is looked into.
    pub(super) fn stray(&mut self, handle: TaskId) {
        // The directory itself moved, not what the name stands for.
        if !self.look_up_again(handle) {
            return;
        }
        if let Some(errno) = self.volume.whereabouts.lost(self.now) {
            return self.strand(handle, errno);
        }
        if let Some(task) = self.tasks.get_mut(handle) {
            task.strays = true;
        }
        self.search.suspects = true;
        self.delay(handle);
    }

    /// A task that asks where a name leads looks it up after all: what was said of the name was said of its directory. False
    /// when the task has ended.
    fn look_up_again(&mut self, handle: TaskId) -> bool {
        let args = self.args[handle.index as usize];
        let Some(task) = self.tasks.get_mut(handle) else {
            return false;
        };
        let reply = match &mut task.op {
            Op::Locate { reply, .. } => reply.take(),
            _ => None,
        };
        let Some(reply) = reply else { return true };
        task.op = Op::Lookup(reply);
        self.build(handle, With::Nothing, 0, |call| {
            let call = call.sequence(false).putfh(&args.handles[0]);
            with_attributes(call.lookup(args.name(0)))
        })
    }

    /// The server is left: whoever was about to ask it where a name leads looks the name up at the other one.
    pub(super) fn look_up_elsewhere(&mut self) {
        let asks = |op: &Op| matches!(op, Op::Locate { reply, walked, .. } if reply.is_some() && *walked == 0);
        loop {
            let mut tasks = self.tasks.iter();
            let Some((handle, _)) = tasks.find(|(_, task)| asks(&task.op)) else {
                return;
            };
            drop(tasks);
            self.look_up_again(handle);
        }
    }

    /// A task cannot follow its file system.
    fn strand(&mut self, handle: TaskId, errno: Errno) {
        self.commit_failed(handle, errno);
        self.refused(handle, errno);
    }

    /// The file system is not followed: whoever waits for that hears why.
    pub(super) fn judge(&mut self, errno: Errno) {
        if core::mem::take(&mut self.search.unclaimed) {
            self.volume.lose_unclaimed();
        }
        loop {
            let mut tasks = self.tasks.iter_mut();
            // Who is about to be sent again, or is, will hear the same from the server.
            let waits = |task: &Task| task.strays && matches!(task.place, At::Delayed(_));
            let Some((handle, task)) = tasks.find(|(_, task)| waits(task)) else {
                return;
            };
            (task.strays, task.place) = (false, At::Ready);
            self.delayed -= 1;
            drop(tasks);
            self.strand(handle, errno);
        }
    }

    /// Whoever waited for that is sent again.
    pub(super) fn unstray(&mut self) {
        for (handle, task) in self.tasks.iter_mut() {
            if core::mem::take(&mut task.strays)
                && let At::Delayed(_) = task.place
            {
                (task.place, task.tries) = (At::Ready, 0);
                self.delayed -= 1;
                let _ = self.ready.push(handle);
            }
        }
    }

    /// Ask the server about the root, when something is said to have moved. For the flag of a lease alone at most once in a
    /// third of that.
    pub(super) fn ask_whither(&mut self) {
        let pause = self.volume.known.lease() / 3;
        let recent = self
            .search
            .asked
            .is_some_and(|at| self.now.since(at) < pause);
        let wanted = self.search.suspects || (self.search.flagged && !recent);
        // One of our own that does not find room is tried again.
        let full = self.tasks.len() == self.tasks.capacity();
        if !wanted || !self.may_move() || self.search.asks || full || self.is_departing() {
            return;
        }
        let Ok(root) = self.volume.handle(NodeId(self.volume.nodes.root())) else {
            return;
        };
        (self.search.suspects, self.search.flagged) = (false, false);
        (self.search.asks, self.search.asked) = (true, Some(self.now));
        let user = self.machine();
        self.start_own(Op::Whither(None), user, None, With::Nothing, |call| {
            whither_call(call.sequence(false).putfh(&root))
        });
    }

    /// Ask the same by the path of the export, as far as so many names.
    fn ask_by_path(&mut self, handle: TaskId, path: &Path, names: usize) {
        if let Some(task) = self.tasks.get_mut(handle) {
            task.op = Op::Whither(Some(names as u8));
        }
        self.build_again(handle, With::Nothing, |call| {
            whither_call(down(call, path.names().take(names)))
        });
    }

    /// Read what the server says of the root.
    pub(super) fn whither(
        &mut self,
        handle: TaskId,
        mut results: Results<'_>,
    ) -> Result<(), Trouble> {
        let Some(&Op::Whither(by)) = self.tasks.get(handle).map(|task| &task.op) else {
            return Ok(());
        };
        let moved = Trouble::Status(Status::ERR_MOVED);
        let whereabouts = &self.volume.whereabouts;
        if whereabouts.departures() != self.search.departures {
            // Another core has found out, and may have the file system by now.
            self.finish(handle);
            return Ok(());
        }
        let path = whereabouts.path().ok_or(moved)?;
        let all = path.names().count();
        let names = match by {
            None => match putfh(&mut results) {
                // It does not even take the handle.
                Err(Trouble::Status(Status::ERR_MOVED)) => {
                    self.ask_by_path(handle, &path, all);
                    return Ok(());
                }
                other => other.map(|()| all)?,
            },
            Some(names) => {
                let names = usize::from(names);
                if let Some(passed) = went_down(&mut results, names)? {
                    self.ask_by_path(handle, &path, passed);
                    return Ok(());
                }
                names
            }
        };
        let locations = ok(results.locations())?;
        match ok(results.getattr()) {
            Err(Trouble::Status(Status::ERR_MOVED)) => {}
            Err(trouble) => return Err(trouble),
            Ok(_) => {
                self.fail(handle, Errno::EREMOTE);
                return Ok(());
            }
        }
        let places = locations.map_or(Err(Errno::EREMOTE), |locations| {
            self.volume.gather(locations, &path, names)
        });
        let mut places = match places {
            Ok(places) => places,
            Err(errno) => {
                self.fail(handle, errno);
                return Ok(());
            }
        };
        self.finish(handle);
        places.told_by(Place::new(whereabouts.home(), path));
        self.begin_search(places);
        Ok(())
    }

    /// The question about the root is answered, or will not be.
    pub(super) fn whither_ended(&mut self) {
        self.search.asks = false;
    }

    /// The question about the root failed, or the file system is here.
    pub(super) fn whither_failed(&mut self, errno: Errno) {
        self.judge(errno);
    }

    /// Content cannot be written again, since the file system is said to have moved: ask about that first.
    pub(super) fn suspect_move(&mut self) {
        self.search.suspects = true;
    }

    /// The same for locks.
    pub(super) fn leave_unclaimed(&mut self) {
        (self.search.suspects, self.search.unclaimed) = (true, true);
    }
}
