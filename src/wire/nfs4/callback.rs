//! The backchannel: what the server asks of us.

use super::{Handle, MAX_HANDLE, MAX_OPAQUE, SessionId, StateId, Status};
use crate::wire::xdr::{Decoder, Encoder, Malformed, Result};

const CB_GETATTR: u32 = 3;
const CB_RECALL: u32 = 4;
const CB_RECALL_SLOT: u32 = 10;
const CB_SEQUENCE: u32 = 11;
const CB_NOTIFY_LOCK: u32 = 13;
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
    /// Give a delegation back.
    Recall(StateId),
    /// Use slots up to this one only.
    RecallSlot(u32),
    /// A lock that was waited for may be free.
    NotifyLock(Handle),
    /// Anything else: not supported here.
    Other(u32),
}

/// Read a CB_COMPOUND and write its answer, operation by operation.
pub struct Callbacks<'a> {
    input: Decoder<'a>,
    left: u32,
}

impl<'a> Callbacks<'a> {
    /// Begin with the arguments of CB_COMPOUND.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn new(mut input: Decoder<'a>) -> Result<Self> {
        input.opaque(MAX_OPAQUE)?;
        input.u32()?;
        input.u32()?;
        let left = input.count(64)?;
        Ok(Self { input, left })
    }

    /// Give the next operation. What is behind an unknown one cannot be read, so that is the last.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn next_call(&mut self) -> Result<Option<Callback>> {
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
                input.opaque(MAX_HANDLE)?;
                Callback::Recall(stateid)
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
    /// Write the result of one operation.
    pub fn answer(&self, out: &mut Encoder<'_>, status: Status, slots: u32) {
        let number = match self {
            Self::Sequence { .. } => CB_SEQUENCE,
            Self::Recall(_) => CB_RECALL,
            Self::RecallSlot(_) => CB_RECALL_SLOT,
            Self::NotifyLock(_) => CB_NOTIFY_LOCK,
            Self::Other(number @ CB_GETATTR..=15) => *number,
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

    #[test]
    fn a_recall_is_read_behind_its_sequence() {
        let words = [
            0,
            1,
            0,
            2,
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
            CB_RECALL,
            1,
            2,
            3,
            4,
            0,
            0,
        ];
        let bytes: Vec<u8> = words.iter().flat_map(|w: &u32| w.to_be_bytes()).collect();
        let mut calls = Callbacks::new(Decoder::new(&bytes)).unwrap();
        let Some(first @ Callback::Sequence { sequence: 7, .. }) = calls.next_call().unwrap()
        else {
            panic!("no sequence");
        };
        let mut buffer = [0; 40];
        let mut out = Encoder::new(&mut buffer);
        first.answer(&mut out, Status::OK, 1);
        assert_eq!(out.finish(), Some(40));
        assert!(matches!(calls.next_call(), Ok(Some(Callback::Recall(_)))));
        assert!(matches!(calls.next_call(), Ok(None)));
        let mut cut = Callbacks::new(Decoder::new(&bytes[..60])).unwrap();
        cut.next_call().unwrap();
        assert!(cut.next_call().is_err());
    }
}
