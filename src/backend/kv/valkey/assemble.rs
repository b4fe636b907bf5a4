//! Transactions of WRITEs: how they are put together, sent, and understood. Which WRITEs they have is for
//! [`transaction`](super::transaction).
//!
//! ```text
//!  text     MULTI SETRANGE.. | SETRANGE.. | SETRANGE.. | ZADD MSET EXEC WATCH GET
//!                         content      content      content
//!           [      sent as the calls come, while it is open      ] [ when it is told what the records are ]
//! ```
//!
//! The calls stay in the queue, and each call's request in the log, to be sent instead should nothing come of it.

use heapless::Vec;

use super::super::engine::{Client, Done, Failure, Token};
use super::pipeline::{Call, Lost, Pipeline, complain, lengths};
use super::request::Once;
use super::transaction::{End, Group, RACED, REFUSED, State, TOGETHER, Transactions};
use super::watch::{self, Names, Outcome};
use super::write_call::WriteCall;
use crate::sys::tcp::Pieces;
use crate::wire::resp::{Encoder, Reader};

/// Bytes that the end of a transaction may need: two records, and some names and numbers.
const END_ROOM: usize = 5 << 10;

/// Read the WRITE that a call's request in the log is.
fn parse<'a>(log: &'a [u8], call: &Call) -> Option<WriteCall<'a>> {
    WriteCall::parse(&log[call.at as usize..][..call.split as usize])
}

impl Pipeline {
    /// Have the WRITEs that wait leave, as far as it is known what they change.
    pub fn prepare(&mut self) {
        if self.transactions.joined == 0 {
            return;
        }
        if self.transactions.group.is_none() && self.transactions.may_begin() {
            self.begin();
        }
        self.grow();
        self.close();
    }

    /// Begin a transaction with the first WRITE that waits; READs before it leave before it.
    fn begin(&mut self) {
        let mut index = self.sent;
        while (self.queue.get(index)).is_some_and(|call| !call.what.changes()) {
            index += 1;
        }
        if self.queue.get(index).is_some_and(|call| call.joined != 0) {
            self.transactions.group = Some(Group {
                first: self.answered + index as u64,
                cuts: Vec::new(),
                text: 0,
                len: 0,
                requests: 0,
                end: End::Open,
            });
        }
    }

    /// Take WRITEs that wait into the transaction that is open, but leave half of all for the next one.
    fn grow(&mut self) {
        let names = self.names();
        let transactions = &mut self.transactions;
        let Some(group) = transactions.group.as_mut() else {
            return;
        };
        while group.end == End::Open
            && group.cuts.len() < TOGETHER
            && group.cuts.len() * 2 < transactions.joined as usize
        {
            let index = (group.first - self.answered) as usize + group.cuts.len();
            let call = self.queue.get(index).filter(|call| call.joined != 0);
            let Some(write) = call.as_ref().and_then(|call| parse(self.log, call)) else {
                return;
            };
            let room = transactions.text.len().saturating_sub(END_ROOM);
            let Some(text) = transactions.text.get_mut(group.text..room) else {
                return;
            };
            let mut to = Encoder::new(text);
            match group.cuts.is_empty() {
                true => to.request(1).bytes(b"MULTI"),
                false => to.end(),
            };
            let (at, inside) = write.place();
            names.content(&mut to, at, inside, write.len);
            let Some(written) = to.finish() else {
                return;
            };
            group.text += written;
            group.len += written + write.len as usize;
            let _ = group.cuts.push(group.text as u16);
        }
    }

    /// Say how the transaction that is open ends, when that is known.
    fn close(&mut self) {
        let known = matches!(self.transactions.state, State::Told | State::Failed);
        let open = |group: &mut Group| group.end == End::Open;
        let Some(mut group) = self
            .transactions
            .group
            .take_if(|group| known && open(group))
        else {
            return;
        };
        let exec = (self.transactions.state == State::Told)
            .then(|| self.exec(&mut group))
            .flatten();
        let written = match exec {
            Some(written) => {
                (group.end, self.transactions.state) = (End::Exec, State::Asked);
                written
            }
            None => {
                self.transactions.failed(0);
                if group.cuts.is_empty() {
                    return;
                }
                (group.end, group.requests) = (End::Discard, group.cuts.len());
                let mut to = Encoder::new(&mut self.transactions.text[group.text..]);
                to.end().request(1).bytes(b"DISCARD");
                to.written()
            }
        };
        group.text += written;
        group.len += written;
        self.transactions.group = Some(group);
    }

    /// Write the end of a transaction that is to be done; nothing when only the server can say what becomes of the records.
    fn exec(&mut self, group: &mut Group) -> Option<usize> {
        let (names, once) = (self.names(), self.once(0));
        let Transactions { text, told, .. } = &mut self.transactions;
        let mut chunks = Vec::<u32, TOGETHER>::new();
        for place in 0..group.cuts.len() {
            let call = (self.queue).get((group.first - self.answered) as usize + place)?;
            let write = parse(self.log, call)?;
            let sequence = call.sequence;
            if !told.write(&Once { sequence, ..once }, &write) {
                return None;
            }
            let (at, _) = write.place();
            if at > 0 {
                let _ = chunks.push(at);
            }
        }
        group.requests = group.cuts.len() + usize::from(!chunks.is_empty()) + 1;
        let mut to = Encoder::new(&mut text[group.text..]);
        to.end();
        names.end(&mut to, &chunks, told);
        to.finish().filter(|_| !group.cuts.is_empty())
    }

    /// Give the transaction whose first call is at this place of the queue: bytes so far, count of its calls, and whether
    /// there may be more of it.
    pub fn transaction_at(&self, index: usize) -> Option<(usize, usize, bool)> {
        let group = self.transactions.group.as_ref()?;
        let here = group.first == self.answered + index as u64;
        here.then_some((group.len, group.cuts.len(), group.end == End::Open))
    }

    /// Tell whether replies may come that are about the oldest call, and it is of a transaction that is sent whole, or
    /// in part.
    pub fn front_is_together(&self) -> (bool, bool) {
        let first = |number| number == self.answered;
        let transactions = &self.transactions;
        (
            transactions.awaited.is_some_and(|whole| first(whole.first)),
            (transactions.group.as_ref()).is_some_and(|part| first(part.first)),
        )
    }

    /// Collect what of the transaction is to be sent, behind so many bytes; false when there is no more room.
    pub fn outgoing_transaction<'a>(
        &'a self,
        index: usize,
        mut skip: usize,
        pieces: &mut Pieces<'a>,
        client: &'a dyn Client,
    ) -> bool {
        let Some(group) = &self.transactions.group else {
            return true;
        };
        let mut from = 0;
        let mut text = |to: usize, skip: &mut usize, pieces: &mut Pieces<'a>| {
            let piece = &self.transactions.text[from..to];
            from = to;
            let first = (*skip).min(piece.len());
            *skip -= first;
            pieces.bytes(&piece[first..])
        };
        for (place, &cut) in group.cuts.iter().enumerate() {
            if !text(cut.into(), &mut skip, pieces) {
                return false;
            }
            let Some(call) = self.queue.get(index + place) else {
                return false;
            };
            let payload = call.payload as usize;
            let first = skip.min(payload);
            skip -= first;
            let segments = client.payload(Token(call.token));
            if first < payload && !pieces.segments(segments, first, payload - first) {
                return false;
            }
        }
        text(group.text, &mut skip, pieces)
    }

    /// Take the replies to the transaction that is waited for, when all have come.
    pub fn transaction(&mut self) -> Result<bool, Lost> {
        let Some(awaited) = self.transactions.awaited else {
            return Err(Lost::Malformed);
        };
        let (count, requests) = (awaited.calls, awaited.requests);
        let replies = match awaited.end {
            End::Discard => requests + watch::DISCARD,
            End::Exec | End::Open => requests + watch::BESIDE,
        };
        let bytes = &self.buffer[self.start..self.end];
        let Some(len) = lengths(bytes, replies)? else {
            return self.more();
        };
        let mut reader = Reader::new(&bytes[..len]);
        if awaited.end == End::Discard {
            watch::discarded(&mut reader, requests)?;
            return self.again(count, len);
        }
        let outcome = watch::outcome(&mut reader, requests)?;
        let told = self.transactions.told.watched_again(&mut reader)?;
        let broken = match outcome {
            Outcome::Done => false,
            Outcome::Broken => {
                complain(&mut self.complained, b"a transaction was done in part");
                true
            }
            Outcome::Raced => {
                self.transactions.failed(RACED);
                return self.again(count, len);
            }
            Outcome::Refused => {
                self.transactions.failed(REFUSED);
                return self.again(count, len);
            }
        };
        self.start += len;
        self.transactions.awaited = None;
        self.transactions.tells(told);
        self.transactions.broken = broken;
        for _ in 0..count {
            if let Some(call) = self.queue.front() {
                self.finish(&call, !broken);
                let _ = self.transactions.ended.push(call.token);
            }
        }
        Ok(true)
    }

    /// Tell whether a transaction has ended, and who asked for its WRITEs does not know yet. What is to be sent goes first:
    /// the server waits for it.
    pub fn has_ended(&self) -> bool {
        !self.transactions.ended.is_empty()
    }

    /// Tell who asked for the WRITEs of a transaction that has ended.
    pub fn deliver(&mut self, client: &mut dyn Client) {
        let result = match self.transactions.broken {
            false => Ok(Done::Done),
            true => Err(Failure::Broken),
        };
        for token in self.transactions.ended.drain(..) {
            client.done(Token(token), result);
        }
    }

    /// Ask again for the first calls, of which nothing was done: by the function, behind what is sent.
    fn again(&mut self, count: usize, reply: usize) -> Result<bool, Lost> {
        for _ in 0..count {
            let mut call = self.queue.front().ok_or(Lost::Malformed)?;
            // Without room, all is sent again by a new connection.
            let at = self.place(call.len as usize).ok_or(Lost::Later)?;
            let from = call.at as usize;
            self.log.copy_within(from..from + call.len as usize, at);
            self.log_end = at + call.len as usize;
            self.queue.pop();
            self.sent = self.sent.saturating_sub(1);
            (call.at, call.joined, call.again) = (at as u32, 0, 1);
            let _ = self.queue.push(call);
            self.transactions.left();
            self.disordered += 1;
        }
        self.start += reply;
        self.transactions.awaited = None;
        if let Some(next) = &mut self.transactions.group {
            next.first -= count as u64;
        }
        Ok(true)
    }

    /// Take the replies of a watch, when all have come.
    pub fn watched(&mut self, call: &Call) -> Result<bool, Lost> {
        let bytes = &self.buffer[self.start..self.end];
        let Some(len) = lengths(bytes, watch::WATCH)? else {
            return self.more();
        };
        let mut reader = Reader::new(&bytes[..len]);
        let told = self.transactions.told.watched(&mut reader)?;
        self.start += len;
        self.transactions.unwatched();
        self.transactions.tells(told);
        self.finish(call, false);
        Ok(true)
    }

    const fn names(&self) -> Names<'static> {
        Names {
            prefix: self.prefix,
            client: self.client,
            ino: self.transactions.ino,
        }
    }
}
