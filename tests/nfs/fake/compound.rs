//! One call: its operations in order, to the first that is refused.

use dpfs::wire::nfs4::{SessionId, StateId, Status, op};
use dpfs::wire::rpc;
use dpfs::wire::xdr::{Decoder, Encoder, Malformed};

use super::Server;
use super::mutate::Parts;
use super::script::{Act, Change};
use super::sessions::Slot;

/// Say why an operation is not done.
#[derive(Clone, Copy, Debug)]
pub struct Refused(pub Status);

impl From<Malformed> for Refused {
    fn from(_: Malformed) -> Self {
        Self(Status::ERR_BADXDR)
    }
}

/// Say what becomes of an answer.
#[derive(Clone)]
pub enum Delivery {
    Send,
    Cut(usize),
    Stall(usize),
    Silent,
    Change(Change),
    Late(std::time::Duration),
}

/// Hold what the operations of a call share.
#[derive(Default)]
pub struct Current {
    pub file: Option<u64>,
    pub saved: Option<u64>,
    pub state: Option<StateId>,
    pub client: u64,
    /// READ and WRITE are this short.
    pub short: Option<u32>,
}

impl Current {
    /// Give the current file.
    pub fn file(&self) -> Result<u64, Refused> {
        self.file.ok_or(Refused(Status::ERR_NOFILEHANDLE))
    }
}

/// Give a number of `SEQ4_STATUS_*`: the server restarted, and waits for what its clients had.
pub const RESTART: u32 = 0x100;

impl Server {
    /// Do a call and write its answer.
    pub fn call(&mut self, record: &[u8], out: &mut Encoder<'_>) -> Delivery {
        let Ok(rpc::Message::Call { xid, arguments, .. }) = rpc::parse(record) else {
            return Delivery::Cut(0);
        };
        self.script.calls += 1;
        self.starts.clear();
        rpc::accept(out, xid);
        let begin = out.len();
        let Ok(mut input) = arguments_of(arguments) else {
            return Delivery::Cut(0);
        };
        let (minor, count) = (input.u32().unwrap_or(9), input.u32().unwrap_or(0));
        for word in [0; 3] {
            out.u32(word);
        }
        if minor == 0 || minor > self.script.minor {
            out.patch(begin, Status::ERR_MINOR_VERS_MISMATCH.0);
            return Delivery::Send;
        }
        let mut current = Current::default();
        let mut delivery = Delivery::Send;
        let mut done = 0;
        let mut status = Status::OK;
        while done < count && status.is_ok() {
            let Ok(number) = input.u32() else { break };
            match self.script.next(number) {
                None => {}
                Some(Act::CutBefore) => {
                    self.undo();
                    return Delivery::Cut(0);
                }
                Some(Act::Reply(words)) => {
                    self.undo();
                    let mut bytes = xid.to_be_bytes().to_vec();
                    bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
                    return Delivery::Change(std::sync::Arc::new(move |record| {
                        record.clone_from(&bytes);
                    }));
                }
                Some(Act::CutAfter(bytes)) => delivery = Delivery::Cut(bytes),
                Some(Act::Stall(bytes)) => delivery = Delivery::Stall(bytes),
                Some(Act::Silent) => delivery = Delivery::Silent,
                Some(Act::Change(change)) => delivery = Delivery::Change(change),
                Some(Act::Late(by)) => delivery = Delivery::Late(by),
                Some(Act::Short(bytes)) => current.short = Some(bytes),
                Some(Act::Status(refused)) => status = refused,
            }
            if number == op::SEQUENCE && status.is_ok() && done == 0 {
                match self.repeats(record, count, &input) {
                    Ok(None) => {}
                    Ok(Some(kept)) => {
                        // All but the transaction number, which is that of the repetition.
                        self.script.repeated += 1;
                        return Delivery::Change(std::sync::Arc::new(move |record| {
                            record.truncate(4);
                            record.extend_from_slice(&kept[4..]);
                        }));
                    }
                    Err(Refused(refused)) => status = refused,
                }
            }
            self.starts.push(out.len() - rpc::MARK_LEN);
            out.u32(number);
            let status_at = out.len();
            out.u32(0);
            if status.is_ok() {
                let outcome = if number == op::SEQUENCE {
                    self.sequence(record, &mut current, &mut input, out)
                } else {
                    self.operation(number, &mut current, &mut input, out)
                };
                if let Err(Refused(refused)) = outcome {
                    status = refused;
                } else if out.len() > self.sessions.max_response as usize {
                    // What is behind it does not matter.
                    status = Status::ERR_REP_TOO_BIG;
                }
            }
            if number == op::SETATTR && !status.is_ok() {
                out.u32(0);
            }
            out.patch(status_at, status.0);
            self.script.done.push((number, status));
            done += 1;
        }
        out.patch(begin, status.0);
        out.patch(begin + 8, done);
        delivery
    }

    /// Keep the answer to the call that was done last, when its client wants that.
    pub fn keep(&mut self, answer: &[u8]) {
        if let Some((session, slot)) = self.begun.take()
            && let Some(session) = self.sessions.sessions.get_mut(&session)
            && let Some(kept) = &mut session.slots[slot].answer
        {
            *kept = answer.to_vec();
        }
    }

    /// Change the answer to the call that was done last, if it is its turn.
    pub fn mutate(&mut self, answer: &mut Vec<u8>) {
        let Some((one_in, random)) = &mut self.script.mutates else {
            return;
        };
        let parts = Parts::of(answer, &self.starts);
        if random.below(*one_in) == 0 {
            *answer = parts.clone().mutate(&self.earlier, random);
            self.script.mutated += 1;
        }
        if random.below(3) == 0 {
            self.earlier = parts;
        }
    }

    /// Forget that a call was begun.
    fn undo(&mut self) {
        if let Some((session, slot)) = self.begun.take()
            && let Some(session) = self.sessions.sessions.get_mut(&session)
        {
            session.slots[slot].sequence -= 1;
            session.slots[slot].call.clear();
        }
    }

    /// Look whether a call is a repetition, and give the answer that was kept.
    fn repeats(
        &mut self,
        record: &[u8],
        count: u32,
        input: &Decoder<'_>,
    ) -> Result<Option<Vec<u8>>, Refused> {
        let mut input = *input;
        let session: SessionId = input.fixed()?;
        let [sequence, slot] = [input.u32()?, input.u32()?];
        let found = self.sessions.sessions.get_mut(&session);
        let found = found.ok_or(Refused(Status::ERR_BADSESSION))?;
        if record.len() > self.sessions.max_request as usize {
            return Err(Refused(Status::ERR_REQ_TOO_BIG));
        }
        if count > found.operations {
            return Err(Refused(Status::ERR_TOO_MANY_OPS));
        }
        let place = found.slots.get(slot as usize);
        let place = place.ok_or(Refused(Status::ERR_BADSLOT))?;
        if sequence == place.sequence.wrapping_add(1) {
            return Ok(None);
        }
        if sequence != place.sequence {
            self.script.misused += 1;
            return Err(Refused(Status::ERR_SEQ_MISORDERED));
        }
        // The transaction number may be another one.
        if place.call.get(4..) != record.get(4..) {
            self.script.misused += 1;
            return Err(Refused(Status::ERR_SEQ_FALSE_RETRY));
        }
        match &place.answer {
            Some(answer) => Ok(Some(answer.clone())),
            None => Err(Refused(Status::ERR_RETRY_UNCACHED_REP)),
        }
    }

    fn sequence(
        &mut self,
        record: &[u8],
        current: &mut Current,
        input: &mut Decoder<'_>,
        out: &mut Encoder<'_>,
    ) -> Result<(), Refused> {
        let id: SessionId = input.fixed()?;
        let [sequence, slot, _] = [input.u32()?, input.u32()?, input.u32()?];
        let keep = input.bool()?;
        let session = self.sessions.sessions.get_mut(&id);
        let session = session.ok_or(Refused(Status::ERR_BADSESSION))?;
        let most = session.slots.len() as u32 - 1;
        let place = session.slots.get_mut(slot as usize);
        let place = place.ok_or(Refused(Status::ERR_BADSLOT))?;
        *place = Slot {
            sequence,
            call: record.to_vec(),
            answer: keep.then(Vec::new),
        };
        current.client = session.client;
        self.begun = Some((id, slot as usize));
        let (highest, target) = self.script.slots.unwrap_or((most, most));
        self.script.highest_used = self.script.highest_used.max(slot);
        let flags = self.script.flags | self.script.stuck;
        out.fixed(&id);
        for word in [sequence, slot, highest, target, flags] {
            out.u32(word);
        }
        Ok(())
    }
}

/// Skip the tag.
fn arguments_of(mut input: Decoder<'_>) -> Result<Decoder<'_>, Malformed> {
    input.opaque(1024)?;
    Ok(input)
}
