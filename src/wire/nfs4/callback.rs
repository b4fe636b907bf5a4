//! The backchannel: what the server asks of us.

use super::{Handle, MAX_HANDLE, MAX_OPAQUE, SessionId, StateId, Status};
use crate::wire::xdr::{Decoder, Encoder, Malformed, Result};

const CB_GETATTR: u32 = 3;
const CB_RECALL: u32 = 4;
const CB_RECALL_ANY: u32 = 8;
const CB_RECALL_SLOT: u32 = 10;
const CB_SEQUENCE: u32 = 11;
const CB_NOTIFY_LOCK: u32 = 13;
const CB_OFFLOAD: u32 = 15;
const CB_ILLEGAL: u32 = 10044;

/// Say what the server wants.
#[derive(Clone, Copy, Debug)]
pub enum Callback {
    /// Begin: prove which slot of the backchannel this is.
    Sequence {
        /// Session.
        session: SessionId,
        /// Sequence number.
        sequence: u32,
        /// Slot.
        slot: u32,
    },
    /// Give the delegation of a file back.
    Recall(StateId, Handle),
    /// Give back some of what is held beyond this.
    RecallAny,
    /// Use slots up to this one only.
    RecallSlot(u32),
    /// A lock that was waited for may be free.
    NotifyLock(Handle),
    /// Anything else: not supported here.
    Other(u32),
}

/// Read a CB_COMPOUND, operation by operation.
pub struct Callbacks<'a> {
    input: Decoder<'a>,
    tag: &'a [u8],
    left: u32,
}

impl<'a> Callbacks<'a> {
    /// Begin with the arguments of CB_COMPOUND.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn new(mut input: Decoder<'a>) -> Result<Self> {
        let tag = input.opaque(MAX_OPAQUE)?;
        // The minor version, and a number that sessions made useless.
        input.skip(2)?;
        let left = input.count(64)?;
        Ok(Self { input, tag, left })
    }

    /// Answer: `act` says what comes of each operation, up to the first that fails. There are `slots` of the channel.
    ///
    /// # Errors
    /// [`Malformed`]; what is written until then is of no use.
    pub fn answer(
        mut self,
        out: &mut Encoder<'_>,
        slots: u32,
        mut act: impl FnMut(&Callback) -> Status,
    ) -> Result<()> {
        let status_at = out.len();
        out.u32(0);
        out.opaque(self.tag);
        let count_at = out.len();
        out.u32(0);
        let (mut count, mut status) = (0, Status::OK);
        while status.is_ok()
            && let Some(callback) = self.next_call()?
        {
            status = act(&callback);
            callback.encode(out, status, slots);
            count += 1;
        }
        out.patch(status_at, status.0);
        out.patch(count_at, count);
        Ok(())
    }

    /// Give the next operation. What is behind an unknown one cannot be read, so that is the last.
    ///
    /// # Errors
    /// [`Malformed`].
    fn next_call(&mut self) -> Result<Option<Callback>> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        let input = &mut self.input;
        Ok(Some(match input.u32()? {
            CB_SEQUENCE => {
                let session = input.fixed()?;
                let [sequence, slot] = [input.u32()?, input.u32()?];
                input.skip(2)?;
                for _ in 0..input.count(16)? {
                    input.skip(4)?;
                    for _ in 0..input.count(64)? {
                        input.skip(2)?;
                    }
                }
                Callback::Sequence {
                    session,
                    sequence,
                    slot,
                }
            }
            CB_RECALL => {
                let stateid = StateId {
                    seqid: input.u32()?,
                    other: input.fixed()?,
                };
                input.skip(1)?;
                let handle = Handle::new(input.opaque(MAX_HANDLE)?).ok_or(Malformed)?;
                Callback::Recall(stateid, handle)
            }
            CB_RECALL_ANY => {
                input.skip(1)?;
                let words = input.count(8)?;
                input.skip(words as usize)?;
                Callback::RecallAny
            }
            CB_RECALL_SLOT => Callback::RecallSlot(input.u32()?),
            CB_NOTIFY_LOCK => {
                let handle = Handle::new(input.opaque(MAX_HANDLE)?).ok_or(Malformed)?;
                input.skip(2)?;
                input.opaque(MAX_OPAQUE)?;
                Callback::NotifyLock(handle)
            }
            other => {
                self.left = 0;
                Callback::Other(other)
            }
        }))
    }
}

impl Callback {
    /// Tell whether there is an operation of this number.
    pub const fn is_known(number: u32) -> bool {
        matches!(number, CB_GETATTR..=CB_OFFLOAD)
    }

    /// Write the result of one operation.
    fn encode(&self, out: &mut Encoder<'_>, status: Status, slots: u32) {
        let number = match self {
            Self::Sequence { .. } => CB_SEQUENCE,
            Self::Recall(..) => CB_RECALL,
            Self::RecallAny => CB_RECALL_ANY,
            Self::RecallSlot(_) => CB_RECALL_SLOT,
            Self::NotifyLock(_) => CB_NOTIFY_LOCK,
            Self::Other(number) if Self::is_known(*number) => *number,
            Self::Other(_) => CB_ILLEGAL,
        };
        out.u32(number);
        out.u32(status.0);
        if let Self::Sequence {
            session,
            sequence,
            slot,
        } = self
            && status.is_ok()
        {
            out.fixed(session);
            for word in [*sequence, *slot, slots - 1, slots - 1] {
                out.u32(word);
            }
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    /// A CB_COMPOUND with the tag "dpu" and so many operations, the first of which is CB_SEQUENCE number 7 of slot 0.
    fn sequence(operations: u32) -> Vec<u32> {
        let tag = u32::from_be_bytes(*b"dpu\0");
        [
            3,
            tag,
            1,
            0,
            operations,
            CB_SEQUENCE,
            1,
            2,
            3,
            4,
            7,
            0,
            0,
            0,
            0,
        ]
        .to_vec()
    }

    fn answer(words: &[u32], statuses: &[Status]) -> Result<Vec<u32>> {
        let (bytes, mut buffer) = (bytes(words), [0; 128]);
        let mut out = Encoder::new(&mut buffer);
        let mut statuses = statuses.iter();
        let calls = Callbacks::new(Decoder::new(&bytes))?;
        calls.answer(&mut out, 1, |_| *statuses.next().unwrap())?;
        let len = out.finish().unwrap();
        let words = buffer[..len].chunks(4);
        Ok(words
            .map(|word| u32::from_be_bytes(word.try_into().unwrap()))
            .collect())
    }

    #[test]
    fn each_operation_is_answered_up_to_the_first_that_fails() {
        let tag = u32::from_be_bytes(*b"dpu\0");
        let mut words = sequence(2);
        words.extend([CB_RECALL, 1, 2, 3, 4, 0, 0]);
        let all = answer(&words, &[Status::OK, Status::ERR_BAD_STATEID]).unwrap();
        let bad = Status::ERR_BAD_STATEID.0;
        let first = [CB_SEQUENCE, 0, 1, 2, 3, 4, 7, 0, 0, 0];
        assert_eq!(all[..4], [bad, 3, tag, 2]);
        assert_eq!(all[4..14], first);
        assert_eq!(all[14..], [CB_RECALL, bad]);
        let refused = answer(&words, &[Status::ERR_BADSESSION]).unwrap();
        let bad = Status::ERR_BADSESSION.0;
        assert_eq!(refused, [bad, 3, tag, 1, CB_SEQUENCE, bad]);
    }

    #[test]
    fn what_is_behind_an_unknown_operation_is_not_read() {
        let mut words = sequence(3);
        words.extend([99, 5, 5]);
        let all = answer(&words, &[Status::OK, Status::ERR_OP_ILLEGAL]).unwrap();
        assert_eq!(all[14..], [CB_ILLEGAL, Status::ERR_OP_ILLEGAL.0]);
        let mut words = sequence(2);
        words.extend([CB_RECALL_ANY, 0, 1, 0xf]);
        let all = answer(&words, &[Status::OK; 2]).unwrap();
        assert_eq!(all[14..], [CB_RECALL_ANY, 0]);
    }

    #[test]
    fn what_is_cut_is_malformed() {
        let mut words = sequence(2);
        words.extend([CB_RECALL, 1, 2, 3, 4, 0, 0]);
        for len in 1..words.len() {
            assert!(answer(&words[..len], &[Status::OK; 2]).is_err(), "{len}");
        }
    }
}
