//! Making content durable: WRITEs that are kept, and COMMITs.

use crate::fuse::Reply;
use crate::mem::{Handle as TaskId, Pinned};
use crate::wire::errno::Errno;
use crate::wire::nfs4::{Compound, Handle, Verifier};
use crate::wire::rpc::Credentials;

use super::instance::Nfs;
use super::op::{Op, Stage, With};
use super::uncommitted::Record;
use super::volume::OpenFile;

/// Nanoseconds after which what is kept is made durable although nobody asks.
const AGE: u64 = 5_000_000_000;

/// Make all of a file's content durable.
pub(super) fn commit_call<'a>(call: Compound<'a>, file: &Handle) -> Compound<'a> {
    call.sequence(false).putfh(file).commit(0, 0)
}

impl Nfs {
    /// Say how a WRITE begins. What is newer than something that is kept has to be kept, too, behind it.
    pub(super) fn stage(&self, node: u64, sync: bool) -> Stage {
        if self.volume.settings.options.uncommitted == 0
            || (sync && !self.volume.is_uncommitted(node))
        {
            Stage::Stable
        } else {
            Stage::Waits(sync)
        }
    }

    /// Take the room that a call needs before it is sent. False when there is none now.
    pub(super) fn take_room(&mut self, handle: TaskId) -> bool {
        let op = self.tasks.get_mut(handle).map(|task| &mut task.op);
        if let Some(Op::Write { stage, count, .. }) = op
            && let Stage::Waits(sync) = *stage
        {
            if !self.volume.uncommitted.lock().reserve(*count) {
                self.commit_oldest();
                return false;
            }
            *stage = Stage::HasRoom(sync);
        }
        true
    }

    /// A WRITE was answered: keep what it wrote unless it is durable already.
    pub(super) fn keep(&mut self, handle: TaskId, took: usize, durable: bool, verifier: Verifier) {
        let verifier = self.life_of(&verifier);
        let Some(task) = self.tasks.get_mut(handle) else {
            return;
        };
        let (
            Op::Write {
                reply,
                offset,
                done,
                count,
                stage,
            },
            Some(file),
        ) = (&mut task.op, &task.file)
        else {
            return;
        };
        let Stage::HasRoom(sync) = *stage else {
            return;
        };
        *stage = Stage::Waits(sync);
        let mut kept = self.volume.uncommitted.lock();
        if durable && !kept.has(file.node) {
            return kept.release(*count);
        }
        let owner = match file.user {
            Credentials::Sys { uid, gid, .. } => [uid, gid],
            Credentials::None => [0, 0],
        };
        let at = *offset + *done as u64;
        let record = Record::new(file.node, file.handle, owner, (at, took as u32), verifier);
        let same = kept.keep(record, *count, |first, second| {
            // As many bytes as the WRITE had are there.
            let _ = reply.copy(*done, first);
            let _ = reply.copy(*done + first.len(), second);
        });
        let pressing = kept.is_half_full();
        drop(kept);
        if !same {
            self.server_forgot();
        } else if pressing {
            self.commit_oldest();
        }
    }

    /// Tell one life of the servers that had the file system from all others: by what the server of now says, and by how
    /// often one was left, as this core saw it. Two servers may have the same verifier, and a core may hear of the first
    /// when another has found the second.
    pub(super) fn life_of(&self, verifier: &Verifier) -> Verifier {
        (u64::from_ne_bytes(*verifier) ^ u64::from(self.search.departures)).to_ne_bytes()
    }

    /// The server started anew, and forgot what it had not made durable.
    fn server_forgot(&mut self) {
        self.volume.standing.lock().rewrite = true;
        self.lose_session("another write verifier");
    }

    /// A COMMIT was answered. False when the server forgot what it was about: that is written again, and then the task
    /// is to be sent again.
    pub(super) fn committed(&mut self, handle: TaskId, verifier: &Verifier) -> bool {
        let verifier = &self.life_of(verifier);
        let Some(task) = self.tasks.get(handle) else {
            return true;
        };
        let mut kept = self.volume.uncommitted.lock();
        let same = kept.committed(task.node, task.upto, verifier);
        drop(kept);
        // Who waits for room looks again.
        self.tick = self.now;
        if !same {
            self.server_forgot();
        }
        same
    }

    /// Have a task make content durable: that of its node, answered so far.
    pub(super) fn build_commit(&mut self, handle: TaskId, node: u64, file: &Handle) {
        let upto = self.volume.uncommitted.lock().number();
        if let Some(task) = self.tasks.get_mut(handle) {
            (task.node, task.upto) = (node, upto);
        }
        self.build_again(handle, With::Nothing, |call| commit_call(call, file));
    }

    /// Begin to make a file's content durable, for who has it open or for nobody in particular.
    pub(super) fn sync(
        &mut self,
        node: u64,
        (file, opened): (&Handle, Option<Pinned<OpenFile>>),
        user: Credentials,
        op: Op,
    ) {
        let upto = self.volume.uncommitted.lock().number();
        let begun = self.start(op, user, opened, With::Nothing, |call| {
            commit_call(call, file)
        });
        if let Some(task) = begun.and_then(|handle| self.tasks.get_mut(handle)) {
            (task.node, task.upto) = (node, upto);
        }
    }

    /// Begin to make the oldest content durable, for the room that it takes.
    pub(super) fn commit_oldest(&mut self) {
        if self.committing {
            return;
        }
        let oldest = self.volume.uncommitted.lock().from(0);
        self.settled = self.now;
        if let Some((_, record)) = oldest {
            let user = self.user(record.user());
            // One of our own that does not find room leaves it so.
            self.committing = self.tasks.len() < self.tasks.capacity();
            self.sync(record.node, (&record.handle, None), user, Op::Commit);
        }
    }

    /// Make old content durable.
    pub(super) fn commit_old(&mut self) {
        if self.volume.settings.options.uncommitted > 0 && self.now.since(self.settled) > AGE {
            self.commit_oldest();
        }
    }

    /// Tell whether the server has content that is not durable.
    pub(super) fn has_uncommitted(&self) -> bool {
        self.volume.uncommitted.lock().from(0).is_some()
    }

    /// Have all content that was written made durable.
    pub(super) fn sync_all(&mut self, reply: Reply<()>) {
        let oldest = self.volume.uncommitted.lock().from(0);
        match oldest {
            Some((_, record)) => {
                let user = self.user(record.user());
                let op = Op::Sync { reply, all: true };
                self.sync(record.node, (&record.handle, None), user, op);
            }
            None => self.all_synced(reply),
        }
    }

    /// Go on with a SYNC after a COMMIT: with the next file, if all are meant.
    pub(super) fn synced(&mut self, handle: TaskId) {
        let Some(task) = self.tasks.get(handle) else {
            return;
        };
        let upto = task.upto;
        let next = self.volume.uncommitted.lock().from(0);
        if let (Op::Sync { all: true, .. }, Some((number, record))) = (&task.op, next)
            && number < upto
        {
            if let Some(task) = self.tasks.get_mut(handle) {
                task.node = record.node;
            }
            self.build_again(handle, With::Nothing, |call| {
                commit_call(call, &record.handle)
            });
            return;
        }
        let unsaid = self.unsaid(handle);
        if let Op::Sync { reply, all } = self.finish(handle) {
            match unsaid {
                Some(unsaid) => reply.err(unsaid),
                None if all => self.all_synced(reply),
                None => reply.ok(()),
            }
        }
    }

    /// Take what the host is still to be told of content of a task's open file: it may have been refused when it was
    /// written again.
    pub(super) fn unsaid(&self, handle: TaskId) -> Option<Errno> {
        let file = self.tasks.get(handle)?.file.as_ref()?;
        file.state.lock().unsaid.take()
    }

    /// The server refuses to make content durable: it is lost.
    pub(super) fn commit_failed(&mut self, handle: TaskId, why: Errno) {
        let Some(task) = self.tasks.get(handle) else {
            return;
        };
        let commits = match &task.op {
            Op::Commit | Op::Sync { .. } | Op::Release { commits: true, .. } => true,
            Op::Write { stage, .. } => *stage == Stage::Commits,
            _ => false,
        };
        if commits {
            self.volume.lose_content(task.node, task.upto, why);
            // Who asked for it is told by the answer.
            if let Some(file) = &task.file {
                file.state.lock().unsaid = None;
            }
        }
    }
}
