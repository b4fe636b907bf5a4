//! The backchannel: what the server asks of us, by the connection that made the session.
//!
//! Its one slot holds one call at a time, answered at once. Nothing that it asks for is begun twice by a call that comes
//! twice, so answers are not kept. Delegations are not asked for, and given back when one comes.

use core::sync::atomic::Ordering;

use crate::wire::nfs4::{CALLBACK_PROGRAM, Callback, Callbacks, Handle, OpenResult, Status};
use crate::wire::rpc::{self, Credentials};
use crate::wire::xdr::{Decoder, Encoder};

use super::instance::Nfs;
use super::link::ANSWER;
use super::volume::{Leftover, NfsVolume};

/// Calls that the server may make at a time.
pub(super) const SLOTS: u32 = 1;
/// Version of the program, and its procedures.
const VERSION: u32 = 1;
const NULL: u32 = 0;
const COMPOUND: u32 = 1;

/// `accept_stat` of a call that is not answered.
const PROGRAM_UNAVAILABLE: u32 = 1;
const PROCEDURE_UNAVAILABLE: u32 = 3;
const GARBAGE: u32 = 4;

impl NfsVolume {
    /// Give back the delegation that an OPEN brought, if it brought one.
    pub(super) fn give_back(&self, open: &OpenResult, file: &Handle, user: Credentials) {
        if let Some(delegation) = open.delegation {
            self.leave(Leftover::Delegation(*file, delegation, user));
        }
    }
}

impl Nfs {
    /// Answer a call of the server's.
    pub(super) fn called(
        &mut self,
        at: usize,
        xid: u32,
        (program, version, procedure): (u32, u32, u32),
        arguments: Decoder<'_>,
    ) {
        let link = &mut self.links[at];
        if link.answer_len > 0 {
            // Only one of two that came at once is answered; the server asks again for the other.
            return;
        }
        // The buffer is set aside while what is asked for is done.
        let buffer = core::mem::take(&mut link.answer);
        let refusal = match (program, version, procedure) {
            (CALLBACK_PROGRAM, VERSION, NULL) => None,
            (CALLBACK_PROGRAM, VERSION, COMPOUND) => {
                let len = Callbacks::new(arguments)
                    .ok()
                    .and_then(|calls| self.answer_compound(buffer, xid, calls));
                match len {
                    Some(len) => return self.send_answer(at, buffer, len),
                    None => Some(GARBAGE),
                }
            }
            (CALLBACK_PROGRAM, VERSION, _) => Some(PROCEDURE_UNAVAILABLE),
            _ => Some(PROGRAM_UNAVAILABLE),
        };
        let mut out = Encoder::new(buffer);
        match refusal {
            None => rpc::accept(&mut out, xid),
            Some(why) => rpc::refuse(&mut out, xid, why),
        }
        let len = out.finish().unwrap_or(0);
        self.send_answer(at, buffer, len);
    }

    fn send_answer(&mut self, at: usize, buffer: &'static mut [u8], len: usize) {
        if let Some(mark) = buffer.first_chunk_mut() {
            *mark = rpc::mark(len.saturating_sub(rpc::MARK_LEN));
        }
        let link = &mut self.links[at];
        (link.answer, link.answer_len) = (buffer, len);
        let _ = link.queue.push(ANSWER);
    }

    /// Do what a compound asks for and write its answer; `None` for one that makes no sense.
    fn answer_compound(
        &mut self,
        buffer: &mut [u8],
        xid: u32,
        calls: Callbacks<'_>,
    ) -> Option<usize> {
        let mut out = Encoder::new(buffer);
        rpc::accept(&mut out, xid);
        let mut begun = false;
        let answered = calls.answer(&mut out, SLOTS, |callback| {
            let first = !core::mem::replace(&mut begun, true);
            match (callback, first) {
                (
                    Callback::Sequence {
                        session,
                        sequence,
                        slot,
                    },
                    true,
                ) => {
                    if *session != self.session {
                        Status::ERR_BADSESSION
                    } else if *slot >= SLOTS {
                        Status::ERR_BADSLOT
                    } else if sequence.wrapping_sub(self.called) > 1 {
                        Status::ERR_SEQ_MISORDERED
                    } else {
                        self.called = *sequence;
                        Status::OK
                    }
                }
                (Callback::Sequence { .. }, false) => Status::ERR_SEQUENCE_POS,
                (_, true) => Status::ERR_OP_NOT_IN_SESSION,
                (other, false) => self.act(other),
            }
        });
        answered.ok().and_then(|()| out.finish())
    }

    fn act(&mut self, callback: &Callback) -> Status {
        match callback {
            Callback::Recall(stateid, file) => {
                let user = self.machine();
                self.volume
                    .leave(Leftover::Delegation(*file, *stateid, user));
                Status::OK
            }
            // There is never more than what is on its way back.
            Callback::RecallAny => Status::OK,
            Callback::RecallSlot(highest) => {
                let most = highest.saturating_add(1).min(self.most_slots);
                self.slots.set_limit(most);
                Status::OK
            }
            Callback::NotifyLock(_) => {
                self.volume.unlocked.fetch_add(1, Ordering::Release);
                Status::OK
            }
            Callback::Other(number) if Callback::is_known(*number) => Status::ERR_NOTSUPP,
            Callback::Other(_) | Callback::Sequence { .. } => Status::ERR_OP_ILLEGAL,
        }
    }
}
