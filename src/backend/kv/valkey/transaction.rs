//! Which WRITEs go as a transaction instead of by their function, and how: see [`watch`](super::watch).
//!
//! ```text
//!  queue  W1 function | watch | W2 W3 | R | W4
//!                 told ───┘      └──┬──────┘
//!                            wait for that, then go together; a READ between them goes with them
//! ```
//!
//! A WRITE that lies in one chunk, of the file that the one before was of, has the file watched behind it. Those that
//! come from then on *join*: they are in the queue like any other, with the call of the function as what is kept of them,
//! and wait until it is told what is there. Then all that wait are one transaction, whose end watches again; so one is under way at a
//! time, and at depth 1 none ever waits. A change of any other kind ends that: what comes behind it does not join.
//!
//! When it cannot be told, the connection is lost, or a transaction was not done as somebody else changed the file, all
//! that joined go by the function.

use heapless::Vec;

use super::super::engine::{Client, Done, Failure, Op, Token};
use super::pipeline::{Call, Lost, Pipeline, complain, lengths};
use super::request::Once;
use super::watch::{self, Names, Outcome, Told};
use super::write_call::WriteCall;
use crate::mem::{Arena, OutOfMemory};
use crate::sys::tcp::Pieces;
use crate::wire::resp::{Encoder, Reader};

/// Most WRITEs of a transaction.
const TOGETHER: usize = 32;
/// WRITEs that go by the function after somebody else changed the file, and after the server refused.
const RACED: u32 = 64;
const REFUSED: u32 = 4096;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing is watched, and nobody joined.
    Idle,
    /// It will be told what is there: by the watch, or by the transaction under way.
    Asked,
    /// It was told, and is watched since.
    Told,
    /// It will not be told. Those that joined go by the function.
    Failed,
}

/// A transaction that is to be sent, or under way.
struct Group {
    /// Number of its first call, of all that there ever were.
    first: u64,
    /// Where the text is cut, to put content in.
    cuts: Vec<u16, TOGETHER>,
    text: usize,
    /// Bytes of all of it.
    len: usize,
    /// Its requests, but for MULTI and EXEC.
    requests: usize,
}

/// Hold what is known of the file that is written to.
pub struct Transactions {
    text: &'static mut [u8],
    told: Told,
    state: State,
    /// The file that is watched.
    ino: u64,
    /// More may join.
    open: bool,
    /// Calls in the queue that joined; whether it is a call there that watches.
    joined: u32,
    asks: bool,
    group: Option<Group>,
    /// The file that was last written to, in one chunk; 0 for none.
    last: u64,
    /// WRITEs before anything is watched again.
    spared: u32,
}

impl Transactions {
    /// Reserve so many bytes for what is sent of one, content not counted.
    pub fn new(arena: &Arena, text: usize) -> Result<Self, OutOfMemory> {
        Ok(Self {
            text: arena.zeroed(text)?,
            told: Told::default(),
            state: State::Idle,
            ino: 0,
            open: false,
            joined: 0,
            asks: false,
            group: None,
            last: 0,
            spared: 0,
        })
    }

    /// Take an operation in; `chunk` is the size of chunks. True when it joins.
    pub fn takes(&mut self, op: Option<&Op<'_>>, chunk: u32) -> bool {
        match op.and_then(|op| one_chunk(op, chunk)) {
            Some(ino) if self.open && ino == self.ino => {
                self.joined += 1;
                true
            }
            _ => false,
        }
    }

    /// Note that a change goes another way. Gives the file that is to be watched behind it.
    pub fn changes(&mut self, op: Option<&Op<'_>>, chunk: u32) -> Option<u64> {
        self.open = false;
        self.settle();
        let ino = op.and_then(|op| one_chunk(op, chunk)).unwrap_or(0);
        let again = core::mem::replace(&mut self.last, ino) == ino && ino != 0;
        if !again || self.state != State::Idle {
            return None;
        }
        self.spared = self.spared.saturating_sub(1);
        (self.spared == 0).then_some(ino)
    }

    /// Note that a call to watch a file is in the queue.
    pub const fn asked(&mut self, ino: u64) {
        (self.state, self.ino, self.open, self.asks) = (State::Asked, ino, true, true);
    }

    /// Tell whether calls that joined, and are of no transaction, wait.
    pub const fn holds_back(&self) -> bool {
        !matches!(self.state, State::Failed)
    }

    /// Note that a call that joined has ended, or goes by the function.
    pub fn left(&mut self) {
        self.joined -= 1;
        self.settle();
    }

    /// Nothing is expected any more when nobody waits for it, and nobody can.
    fn settle(&mut self) {
        let useless = self.state == State::Failed || !self.open;
        if self.joined == 0 && !self.asks && useless {
            self.state = State::Idle;
        }
    }

    /// Note that the call that watches was given up.
    pub fn unwatched(&mut self) {
        self.asks = false;
        self.settle();
    }

    fn failed(&mut self, spared: u32) {
        (self.state, self.open, self.spared) = (State::Failed, false, spared);
        self.settle();
    }

    /// Note whether it is told what is there.
    fn tells(&mut self, told: bool) {
        match (told, self.state) {
            (true, State::Asked) => self.state = State::Told,
            (true, _) => {}
            (false, _) => return self.failed(REFUSED),
        }
        self.settle();
    }

    /// Note that the connection is lost.
    pub fn reset(&mut self) {
        self.group = None;
        if self.state != State::Idle {
            self.failed(0);
        }
    }
}

/// Give the inode of a WRITE that lies in one chunk.
fn one_chunk(op: &Op<'_>, chunk: u32) -> Option<u64> {
    match *op {
        Op::Write {
            ino, offset, len, ..
        } => {
            let inside = offset % u64::from(chunk);
            let numbered = offset / u64::from(chunk) <= u32::MAX.into();
            (numbered && len > 0 && inside + u64::from(len) <= chunk.into()).then_some(ino)
        }
        _ => None,
    }
}

impl Pipeline {
    /// Make the WRITEs that wait one transaction, when it is known what they change.
    pub fn prepare(&mut self) {
        if self.transactions.state != State::Told || self.transactions.joined == 0 {
            return;
        }
        let (mut index, mut first) = (self.sent, None);
        let mut chunks = Vec::<u32, TOGETHER>::new();
        let once = self.once(0);
        let mut group = Group {
            first: 0,
            cuts: Vec::new(),
            text: 0,
            len: 0,
            requests: 0,
        };
        let Transactions {
            text, told, ino, ..
        } = &mut self.transactions;
        let names = Names {
            prefix: self.prefix,
            client: self.client,
            ino: *ino,
        };
        let mut to = Encoder::new(text);
        to.request(1).bytes(b"MULTI");
        while let Some(call) = self.queue.get(index).filter(|_| !group.cuts.is_full()) {
            index += 1;
            if first.is_none() && !call.what.changes() {
                continue;
            }
            let text = &self.log[call.at as usize..][..call.split as usize];
            let Some(write) = WriteCall::parse(text).filter(|_| call.joined != 0) else {
                break;
            };
            let once = Once {
                sequence: call.sequence,
                ..once
            };
            if !told.write(&once, &write) {
                break;
            }
            if first.is_none() {
                first = Some(index - 1);
            } else {
                to.end();
            }
            let (at, inside) = write.place();
            names.content(&mut to, at, inside, write.len);
            if at > 0 {
                let _ = chunks.push(at);
            }
            let _ = group.cuts.push(to.written() as u16);
            group.len += write.len as usize;
        }
        to.end();
        names.end(&mut to, &chunks, told);
        // The text has room for as many as there can be.
        let (Some(first), Some(text)) = (first, to.finish()) else {
            return self.transactions.failed(0);
        };
        group.first = self.answered + first as u64;
        group.requests = group.cuts.len() + usize::from(!chunks.is_empty()) + 1;
        (group.text, group.len) = (text, group.len + text);
        (self.transactions.group, self.transactions.state) = (Some(group), State::Asked);
    }

    /// Give the length of the transaction whose first call is at this place of the queue, and the count of its calls.
    pub fn transaction_at(&self, index: usize) -> Option<(usize, usize)> {
        let group = self.transactions.group.as_ref()?;
        let here = group.first == self.answered + index as u64;
        here.then_some((group.len, group.cuts.len()))
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

    /// Take the replies to the transaction, when all have come.
    pub fn transaction(&mut self, client: &mut dyn Client) -> Result<bool, Lost> {
        let Some(group) = &self.transactions.group else {
            return Err(Lost::Malformed);
        };
        let (count, requests) = (group.cuts.len(), group.requests);
        let bytes = &self.buffer[self.start..self.end];
        let Some(len) = lengths(bytes, requests + watch::BESIDE)? else {
            return self.more();
        };
        let mut reader = Reader::new(&bytes[..len]);
        let outcome = watch::outcome(&mut reader, requests)?;
        let told = self.transactions.told.watched_again(&mut reader)?;
        let result = match outcome {
            Outcome::Done => Ok(Done::Done),
            Outcome::Broken => {
                complain(&mut self.complained, b"a transaction was done in part");
                Err(Failure::Broken)
            }
            Outcome::Raced => return self.again(count, RACED, len),
            Outcome::Refused => return self.again(count, REFUSED, len),
        };
        self.start += len;
        self.transactions.group = None;
        self.transactions.tells(told);
        for _ in 0..count {
            if let Some(call) = self.queue.front() {
                self.finish(&call, result.is_ok());
                client.done(Token(call.token), result);
            }
        }
        Ok(true)
    }

    /// Ask again for the first calls, of which nothing was done: by the function, behind what is sent.
    fn again(&mut self, count: usize, spared: u32, reply: usize) -> Result<bool, Lost> {
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
        self.transactions.group = None;
        self.transactions.failed(spared);
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
}
