//! Copying at the server, so that content does not come here: CLONE and COPY (RFC 7862).
//!
//! ```text
//!  CLONE, where both places begin with a block ──done──> answer
//!    └─ no, or not these ranges ──> COPY ──durable──> answer
//!                                    ^ └─ not yet ──> COMMIT ──same life of the server──> answer
//!                                    └──────────────────┘ another
//! ```
//!
//! What was written to the destination and is not durable is made durable in the same compound before, so that it is not
//! written again over the copy when the server starts anew.

use crate::fuse::{Copied, Fh, Reply};
use crate::mem::{Handle as TaskId, Pinned};
use crate::wire::errno::Errno;
use crate::wire::nfs4::{Class, Results, StateId, Status, Verifier, op};

use core::sync::atomic::Ordering;

use super::answer::{Trouble, ok};
use super::commit::commit_call;
use super::instance::Nfs;
use super::op::{Op, With};
use super::volume::OpenFile;

/// Blocks that a server may share are multiples of this.
const BLOCK: u64 = 4096;
/// Most bytes of one CLONE, which shares blocks: a host's older answer has 32 bits for it.
const MOST_SHARED: u64 = u32::MAX as u64 & !(BLOCK - 1);
/// Most bytes of one COPY, so that a server has copied them before its answer is missed.
const MOST_COPIED: u64 = 16 << 20;

/// Say how far a copy is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Blocks are to be shared.
    Clone,
    /// Bytes are to be copied.
    Copy,
    /// So many bytes are copied, in this life of the server, and are to be durable.
    Commit(u64, Verifier),
}

/// Hold a copy that the host waits for; the task's file is the destination.
pub struct CopyCall {
    /// Answer.
    pub reply: Reply<Copied>,
    /// File that is copied from, until the task ends.
    pub source: Option<Pinned<OpenFile>>,
    /// State of it that was named.
    pub named: StateId,
    from: u64,
    to: u64,
    length: u64,
    step: Step,
    /// The compound has a COMMIT first.
    commits: bool,
}

impl CopyCall {
    const fn most(&self) -> u64 {
        match self.step {
            Step::Clone => MOST_SHARED,
            _ => MOST_COPIED,
        }
    }

    fn count(&self) -> u64 {
        self.length.min(self.most())
    }
}

impl Nfs {
    pub(super) fn begin_copy(
        &mut self,
        (source, from): (Fh, u64),
        (destination, to): (Fh, u64),
        length: u64,
        reply: Reply<Copied>,
    ) {
        let volume = self.volume;
        if volume.known.minor() < 2 || !volume.copies.load(Ordering::Relaxed) {
            // The host copies by itself.
            return reply.err(volume.lacks());
        }
        let source = match self.writable().and_then(|()| volume.opened(source)) {
            Ok(source) => source,
            Err(error) => return reply.err(error),
        };
        let file = match volume.opened(destination) {
            Ok(file) => file,
            Err(error) => {
                self.unpin(source);
                return reply.err(error);
            }
        };
        let shares = (from | to) % BLOCK == 0 && volume.clones.load(Ordering::Relaxed);
        let (user, node) = (file.user, file.node);
        let op = Op::Copy(CopyCall {
            reply,
            source: Some(source),
            named: StateId::ANONYMOUS,
            from,
            to,
            length,
            step: if shares { Step::Clone } else { Step::Copy },
            commits: false,
        });
        let begun = self.start(op, user, Some(file), With::File, |call| call);
        if let Some(handle) = begun {
            if let Some(task) = self.tasks.get_mut(handle) {
                task.node = node;
            }
            self.build_copy(handle);
        }
    }

    /// Write the call of the present step.
    fn build_copy(&mut self, handle: TaskId) -> bool {
        let volume = self.volume;
        let Some(task) = self.tasks.get_mut(handle) else {
            return false;
        };
        let (Op::Copy(copy), Some(file)) = (&mut task.op, &task.file) else {
            return false;
        };
        let Some(from) = copy.source.as_ref().map(|source| source.handle) else {
            return false;
        };
        copy.commits = volume.is_uncommitted(file.node);
        task.upto = volume.uncommitted.lock().number();
        let (to, step, commits) = (file.handle, copy.step, copy.commits);
        let (places, count) = ((copy.from, copy.to), copy.count());
        self.build(handle, With::File, 0, |call| {
            if matches!(step, Step::Commit(..)) {
                return commit_call(call, &to);
            }
            let mut call = call.sequence(true);
            if commits {
                call = call.putfh(&to).commit(0, 0);
            }
            let call = call.putfh(&from).savefh().putfh(&to);
            match step {
                Step::Clone => call.clone_range(places.0, places.1, count),
                _ => call.copy(places.0, places.1, count),
            }
        })
    }

    /// Go on with a step.
    fn copy_on(&mut self, handle: TaskId, next: Step) {
        if let Some(Op::Copy(copy)) = self.tasks.get_mut(handle).map(|task| &mut task.op) {
            copy.step = next;
        }
        if self.build_copy(handle) {
            self.make_ready(handle);
        }
    }

    fn copied(&mut self, handle: TaskId, count: u64) {
        if let Op::Copy(copy) = self.finish(handle) {
            copy.reply.ok(count);
        }
    }

    /// Read the answer to a step.
    pub(super) fn answer_copy(
        &mut self,
        handle: TaskId,
        mut results: Results<'_>,
    ) -> Result<(), Trouble> {
        let Some(Op::Copy(copy)) = self.tasks.get(handle).map(|task| &task.op) else {
            return Ok(());
        };
        let (step, count, commits) = (copy.step, copy.count(), copy.commits);
        ok(results.step(op::PUTFH))?;
        if let Step::Commit(count, life) = step {
            if self.life_of(&ok(results.commit())?) == life {
                self.copied(handle, count);
            } else {
                self.copy_on(handle, Step::Copy);
            }
            return Ok(());
        }
        if commits {
            let verifier = ok(results.commit())?;
            if !self.committed(handle, &verifier) {
                self.make_ready(handle);
                return Ok(());
            }
            ok(results.step(op::PUTFH))?;
        }
        ok(results.step(op::SAVEFH))?;
        ok(results.step(op::PUTFH))?;
        if step == Step::Clone {
            match ok(results.step(op::CLONE)) {
                Ok(()) => self.copied(handle, count),
                Err(Trouble::Status(status)) if status.class() == Class::Caller => {
                    if lacks(status) {
                        self.volume.clones.store(false, Ordering::Relaxed);
                    }
                    self.copy_on(handle, Step::Copy);
                }
                Err(trouble) => return Err(trouble),
            }
            return Ok(());
        }
        let (took, stability) = match ok(results.copy()) {
            Err(Trouble::Status(status)) if lacks(status) => {
                self.volume.copies.store(false, Ordering::Relaxed);
                self.fail(handle, Errno::EOPNOTSUPP);
                return Ok(());
            }
            outcome => outcome?,
        };
        if took > count {
            return Err(Trouble::Malformed);
        }
        if stability.durable || took == 0 {
            self.copied(handle, took);
        } else {
            self.copy_on(
                handle,
                Step::Commit(took, self.life_of(&stability.verifier)),
            );
        }
        Ok(())
    }
}

/// Tell whether a status says that the server does not have the operation, or not as it was asked for.
const fn lacks(status: Status) -> bool {
    matches!(
        status,
        Status::ERR_NOTSUPP
            | Status::ERR_OP_ILLEGAL
            | Status::ERR_OFFLOAD_DENIED
            | Status::ERR_OFFLOAD_NO_REQS
    )
}
