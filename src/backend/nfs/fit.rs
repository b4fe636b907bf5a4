//! Calls that were written for a server, or a session, that takes more than the one that they go to.

use crate::mem::Handle as TaskId;

use super::instance::Nfs;
use super::op::{Op, Stage};

/// Hold the bytes that READ and WRITE have at most, and those of a call and of an answer.
#[derive(Clone, Copy, Default)]
pub struct Sizes([u32; 4]);

impl Nfs {
    /// The session stands: write again what was written for one that took more.
    pub(super) fn fit_to_session(&mut self) {
        let known = &self.volume.known;
        let now = [
            known.max_read(),
            known.max_write(),
            self.request_room,
            self.response_room,
        ];
        let Sizes(before) = core::mem::replace(&mut self.sizes, Sizes(now));
        if before.iter().zip(&now).any(|(before, now)| before > now) {
            self.fit_calls();
        }
    }

    /// Write the READs and WRITEs again that are not under way, each as large as may be now.
    pub(super) fn fit_calls(&mut self) {
        for index in 0..self.tasks.capacity() {
            if let Some(handle) = self.tasks.handle_at(index) {
                self.fit_call(handle);
            }
        }
    }

    fn fit_call(&mut self, handle: TaskId) {
        match self.tasks.get_mut(handle).map(|task| &mut task.op) {
            Some(Op::Read {
                reply,
                offset,
                done,
            }) => {
                let (at, left) = (*offset + *done as u64, reply.wanted() - *done);
                self.build_read(handle, at, left);
            }
            Some(Op::Write { stage, .. }) if *stage == Stage::Commits => {}
            Some(Op::Write {
                reply,
                offset,
                done,
                count,
                stage,
            }) => {
                if let Stage::HasRoom(sync) = *stage {
                    self.volume.uncommitted.lock().release(*count);
                    *stage = Stage::Waits(sync);
                }
                let (at, left) = (*offset + *done as u64, reply.wanted() - *done);
                self.build_write(handle, at, left);
            }
            _ => {}
        }
    }
}
