//! The calls of one connection: what is to be sent, and what each reply means. No I/O is done here.
//!
//! ```text
//!  log    | answered | sent, not answered | not sent | free |      the bytes of requests, in order
//!  queue  [        oldest call ......... newest call        ]      what is asked, where in the log, where the payload
//!  buffer | understood | has come | free |                         of a READ's content only the first bytes
//! ```
//!
//! Replies come in the order of the requests, so both are queues. Bytes of a WRITE are sent from the host's pages and
//! never copied; those of a READ are received into them, but for what came together with the replies before. When the
//! connection is lost, [`Pipeline::reset`] takes the sent mark back to the oldest call, and everything is sent again.
//! Some WRITEs leave as a [`transaction`](super::transaction) instead of as their requests in the log.

use zerocopy::FromZeros;

use super::super::chunk::zero;
use super::super::engine::{Busy, Client, Done, Failure, Op, Token, VALUE_MAX};
use super::link::kept;
use super::reply::{self, Answer, Ask, What};
use super::request::{FUNCTIONS, Once, VERSION_LEN};
use super::route::Node;
use super::spread::Near;
use super::transaction::Transactions;
use super::watch::Names;
use crate::mem::{Arena, OutOfMemory, RingBuffer, fill};
use crate::sys::tcp::Pieces;
use crate::sys::time::Instant;
use crate::wire::resp::{Depth, Encoder, Item, Malformed, Reader};

/// Say how much memory a connection has.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Bytes of requests that are not answered, payloads not counted.
    log: usize,
    /// Bytes that have come and are not understood. Every reply but a READ's is held whole.
    buffer: usize,
    /// Bytes of a transaction, content not counted.
    transaction: usize,
}

/// For everything.
pub const FULL: Sizes = Sizes {
    log: 1 << 20,
    buffer: 256 << 10,
    transaction: 12 << 10,
};
/// For requests whose replies are short: no records, no content.
pub const SMALL: Sizes = Sizes {
    log: 4 << 10,
    buffer: 16 << 10,
    transaction: 0,
};
/// Changes after which the server notes that it heard of a client; nanoseconds after which one does at the latest.
const BATCH: u64 = 32;
const HEARD: u64 = 3_600_000_000_000;
/// Bytes of what is asked before calls are sent: the library, at most.
const ASK: usize = 48 << 10;
const _: () = assert!(FUNCTIONS.len() + 256 < ASK);
/// Most records of a list: an entry and its inode, or the name of an attribute.
const LIST_MAX: u32 = 400;
const _: () = assert!(LIST_MAX as usize * 600 < FULL.buffer);
const _: () = assert!(2 * VALUE_MAX < FULL.buffer);
/// Content of at least so many bytes is not received into the buffer with what comes before.
const LARGE: u32 = 16 << 10;
/// Bytes that are received when large content is next.
const HEAD: usize = 1 << 10;

/// One call.
#[derive(Clone, Copy, FromZeros)]
#[repr(C)]
pub struct Call {
    pub token: u64,
    /// Its sequence number when it changes something, or zero.
    pub(super) sequence: u64,
    /// First byte of content; or where a list began.
    pub start: u64,
    /// Bytes of content, keys, or most records.
    pub count: u32,
    /// Its request in the log.
    pub(super) at: u32,
    pub(super) len: u32,
    /// Bytes of the request before the payload, and of the payload.
    pub(super) split: u32,
    pub(super) payload: u32,
    pub what: What,
    /// Every record may be followed by another, the inode that it names.
    pub follow: u8,
    /// It goes as part of a transaction.
    pub(super) joined: u8,
    /// It is asked again behind later ones.
    pub(super) again: u8,
}

/// Where the reply to a READ stands.
#[derive(Clone, Copy, Default)]
struct Content {
    /// The inode's reply came.
    begun: bool,
    /// Bytes of content that are in place.
    at: usize,
    /// Bytes of a string that are still to come, and its end.
    body: usize,
    end: bool,
    /// Bytes that are zeros behind it.
    rest: usize,
    /// Why the call fails when all has come.
    failed: Option<Failure>,
}

/// Say why a connection is of no use any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// What came is no RESP3, or no reply to what was asked.
    Malformed,
    /// The server cannot answer now. Nothing was done, and later it may.
    Later,
    /// As before: the cluster has nobody for the slot.
    Unserved,
    /// As before: the slot is on its way from one node to another.
    Moving,
    /// Another node has the slot. Nothing was done here.
    Moved(Node),
    /// As before, but the node is named as nobody here can look up.
    Named,
}

impl From<Malformed> for Lost {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Hold the calls of one connection.
pub struct Pipeline {
    pub(super) prefix: &'static [u8],
    pub(super) log: &'static mut [u8],
    /// End of the newest request.
    pub(super) log_end: usize,
    pub(super) queue: RingBuffer<'static, Call>,
    pub(super) transactions: Transactions,
    /// Calls at the front that are sent in full, and bytes of the next, or of the transaction.
    pub(super) sent: usize,
    part: usize,
    /// Calls that were answered, and how many of all had been sent in full at some time.
    pub(super) answered: u64,
    ever_sent: u64,
    /// What is asked before calls are sent.
    ask: &'static mut [u8],
    ask_len: usize,
    ask_sent: usize,
    asking: bool,
    pub(super) buffer: &'static mut [u8],
    pub(super) start: usize,
    pub(super) end: usize,
    content: Content,
    /// The server's words for a failure were logged.
    pub(super) complained: bool,
    pub(super) client: u64,
    /// Sequence numbers: of the next change, and the lowest whose reply is wanted.
    next: u64,
    oldest: u64,
    /// The highest that the server said it did.
    last: u64,
    /// Calls in the queue behind others with higher sequence numbers.
    pub(super) disordered: u32,
    /// When the server last noted that it heard of the client.
    heard: Option<Instant>,
}

impl Pipeline {
    /// Reserve one for so many calls under way. `client` is a random number.
    pub fn new(
        arena: &Arena,
        prefix: &'static [u8],
        calls: u32,
        client: u64,
        sizes: Sizes,
    ) -> Result<Self, OutOfMemory> {
        Ok(Self {
            prefix,
            log: arena.zeroed(sizes.log)?,
            log_end: 0,
            // One more than there are calls: that which watches.
            queue: RingBuffer::new(arena.zeroed(calls as usize + 1)?),
            transactions: Transactions::new(arena, sizes.transaction)?,
            sent: 0,
            part: 0,
            answered: 0,
            ever_sent: 0,
            ask: arena.zeroed(ASK)?,
            ask_len: 0,
            ask_sent: 0,
            asking: true,
            buffer: arena.zeroed(sizes.buffer)?,
            start: 0,
            end: 0,
            content: Content::default(),
            complained: false,
            client,
            next: 1,
            oldest: 1,
            last: 0,
            disordered: 0,
            heard: None,
        })
    }

    /// Give the bytes of arena that one needs.
    pub const fn footprint(calls: u32, sizes: Sizes) -> usize {
        let calls = (calls as usize + 2) * size_of::<Call>();
        sizes.log + sizes.buffer + sizes.transaction + ASK + calls + 128
    }

    /// Tell whether no call is under way.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Name this client, and the highest sequence number that the server said it did.
    pub const fn done_so_far(&self) -> (u64, u64) {
        (self.client, self.last)
    }

    /// Say no more that the server did what it said: it was told that it lost some. Gives the last number that was given.
    pub const fn told_of_loss(&mut self) -> u64 {
        self.last = 0;
        self.next - 1
    }

    /// Tell whether everything is sent that does not wait for an answer.
    pub fn is_sent(&self) -> bool {
        match (self.queue.get(self.sent), self.transaction_at(self.sent)) {
            (None, _) => true,
            (Some(_), Some((len, _, open))) => open && self.part == len,
            (Some(call), None) => call.joined != 0 && self.transactions.holds_back(),
        }
    }

    /// Tell whether no answer is waited for.
    pub fn owes_nothing(&self) -> bool {
        !self.asking && self.queue.is_empty()
    }

    /// Give the number of calls that have ended so far.
    pub const fn answered(&self) -> u64 {
        self.answered
    }

    /// Ask something before any call is sent, with one request; with none, calls are sent from now on.
    pub fn ask(&mut self, request: impl FnOnce(&mut Encoder<'_>)) {
        let mut encoder = Encoder::new(self.ask);
        request(&mut encoder);
        self.ask_len = encoder.finish().unwrap_or(0);
        self.ask_sent = 0;
        self.asking = self.ask_len > 0;
    }

    /// Take the answer to that, once it has come in full.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn answer(&mut self) -> Result<Option<&[u8]>, Malformed> {
        let Some(len) = whole(&self.buffer[self.start..self.end])? else {
            return Ok(None);
        };
        let start = self.start;
        self.start += len;
        Ok(Some(&self.buffer[start..start + len]))
    }

    /// Find room in the log for so many bytes.
    pub(super) fn place(&self, len: usize) -> Option<usize> {
        let begin = self.queue.front().map_or(0, |oldest| oldest.at as usize);
        let end = self.log_end;
        if self.queue.is_empty() || end > begin {
            let fits = self.log.len() - end >= len;
            return if fits {
                Some(end)
            } else {
                (begin > len).then_some(0)
            };
        }
        (begin - 1 - end >= len).then_some(end)
    }

    /// Find room in the log, and write a request there.
    fn write(&mut self, request: impl Fn(&mut Encoder<'_>)) -> Option<(usize, usize)> {
        let encode = |place: &mut [u8]| {
            let mut encoder = Encoder::new(place);
            request(&mut encoder);
            encoder.finish()
        };
        let begin = match self.queue.front() {
            None => {
                self.log_end = 0;
                0
            }
            Some(oldest) => oldest.at as usize,
        };
        let end = self.log_end;
        if self.queue.is_empty() || end > begin {
            if let Some(len) = encode(&mut self.log[end..]) {
                return Some((end, len));
            }
            // Not up to the oldest, so that a full log does not look like an empty one.
            let len = encode(&mut self.log[..begin.saturating_sub(1)])?;
            return Some((0, len));
        }
        encode(&mut self.log[end..begin - 1]).map(|len| (end, len))
    }

    /// Take an operation; `chunk` is the size of chunks.
    ///
    /// # Errors
    /// [`Busy`] when there is no room.
    pub fn submit(
        &mut self,
        token: Token,
        ask: &Ask<'_>,
        chunk: u32,
        now: Instant,
    ) -> Result<(), Busy> {
        if self.queue.room() < 2 {
            return Err(Busy);
        }
        let mut call = Call::new_zeroed();
        call.token = token.0;
        reply::expected(ask, &mut call);
        let heard = *self.heard.get_or_insert(now);
        let unheard = call.what.changes() && now.since(heard) > HEARD;
        let sequence = match unheard {
            // A change of this number has the server note that it heard of the client.
            true => self.next.next_multiple_of(BATCH),
            false => self.next,
        };
        let once = self.once(sequence);
        if matches!(call.what, What::List | What::NamedList) {
            call.count = call.count.min(LIST_MAX);
        }
        let prefix = self.prefix;
        let count = call.count;
        let request = |to: &mut Encoder<'_>| reply::request(ask, to, prefix, &once, chunk, count);
        let (at, len) = self.write(request).ok_or(Busy)?;
        self.log_end = at + len;
        (call.at, call.len, call.split) = (at as u32, len as u32, len as u32);
        let payload = match *ask {
            Ask::Op(Op::Write { len, .. }) => *len,
            Ask::Spread(Near::Write { payload, .. }) => payload,
            _ => 0,
        };
        if payload > 0 {
            // The end of the string stands behind it.
            (call.payload, call.split) = (payload, call.len - 2);
        }
        let mut watch = None;
        if call.what.changes() {
            call.sequence = sequence;
            self.next = sequence + 1;
            let op = match *ask {
                Ask::Op(op) => Some(op),
                _ => None,
            };
            if unheard {
                self.heard = Some(now);
            } else {
                call.joined = self.transactions.takes(op, chunk).into();
            }
            if call.joined == 0 {
                watch = self.transactions.changes(op, chunk);
            }
        }
        let _ = self.queue.push(call);
        if let Some(ino) = watch {
            self.watch(ino);
        }
        Ok(())
    }

    /// Name a change that is sent from now on.
    pub(super) const fn once(&self, sequence: u64) -> Once {
        Once {
            client: self.client,
            sequence,
            ack: self.oldest,
            sure: self.last + 1 == self.oldest,
        }
    }

    /// Have a file watched behind all calls so far, when there is room to ask for that.
    fn watch(&mut self, ino: u64) {
        let (prefix, client) = (self.prefix, self.client);
        let request = |to: &mut Encoder<'_>| {
            Names {
                prefix,
                client,
                ino,
            }
            .watch(to)
        };
        if let Some((at, len)) = self.write(request) {
            self.log_end = at + len;
            let mut call = Call::new_zeroed();
            call.what = What::Watched;
            (call.at, call.len, call.split) = (at as u32, len as u32, len as u32);
            let _ = self.queue.push(call);
            self.transactions.asked(ino);
        }
    }

    /// Collect what is to be sent next.
    pub fn outgoing<'a>(&'a self, pieces: &mut Pieces<'a>, client: &'a dyn Client) {
        if self.asking {
            pieces.bytes(&self.ask[self.ask_sent..self.ask_len]);
            return;
        }
        let mut skip = self.part;
        let mut index = self.sent;
        while let Some(call) = self.queue.get(index) {
            if let Some((len, count, open)) = self.transaction_at(index) {
                if !self.outgoing_transaction(index, skip, pieces, client) || open {
                    return;
                }
                skip = skip.saturating_sub(len);
                index += count;
                continue;
            }
            if call.joined != 0 && self.transactions.holds_back() {
                return;
            }
            index += 1;
            let request = &self.log[call.at as usize..][..call.len as usize];
            let (head, tail) = request.split_at(call.split as usize);
            let payload = call.payload as usize;
            let first = skip.min(head.len());
            skip -= first;
            let second = skip.min(payload);
            skip -= second;
            if !pieces.bytes(&head[first..]) {
                return;
            }
            if payload > second {
                let segments = client.payload(Token(call.token));
                if !pieces.segments(segments, second, payload - second) {
                    return;
                }
            }
            if !pieces.bytes(&tail[skip..]) {
                return;
            }
            skip = 0;
        }
    }

    /// Note that so many bytes of [`Self::outgoing`] are sent.
    pub fn sent(&mut self, mut bytes: usize) {
        if self.asking {
            self.ask_sent += bytes;
            return;
        }
        while bytes > 0 {
            let transaction = self.transaction_at(self.sent);
            let (len, count, open) = match (transaction, self.queue.get(self.sent)) {
                (Some(transaction), _) => transaction,
                (None, Some(call)) => ((call.len + call.payload) as usize, 1, false),
                (None, None) => return,
            };
            let left = len - self.part;
            if bytes < left || open {
                self.part += bytes;
                return;
            }
            bytes -= left;
            self.part = 0;
            self.sent += count;
            if transaction.is_some() {
                self.transactions.sent_whole();
            }
        }
        self.ever_sent = self.ever_sent.max(self.answered + self.sent as u64);
    }

    /// Collect where what comes next belongs.
    pub fn room<'a>(&'a mut self, pieces: &mut Pieces<'a>, client: &'a dyn Client) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut most = usize::MAX;
        if let Some(call) = self.queue.front()
            && call.what == What::Content
        {
            let Content { at, body, .. } = self.content;
            if self.start == self.end && body > 0 {
                let segments = client.buffers(Token(call.token));
                if !pieces.segments(segments, at, body) {
                    return;
                }
            }
            if call.count >= LARGE {
                most = HEAD;
            }
        }
        let free = &mut self.buffer[self.end..];
        let len = free.len().min(most);
        pieces.room(&mut free[..len]);
    }

    /// Take bytes that have come, in order, into [`Self::room`]; answer what is answered with them.
    ///
    /// # Errors
    /// [`Lost`]: the connection is of no use any more.
    pub fn came(&mut self, bytes: usize, chunk: u32, client: &mut dyn Client) -> Result<(), Lost> {
        let direct = match self.start == self.end {
            true => bytes.min(self.content.body),
            false => 0,
        };
        self.content.at += direct;
        self.content.body -= direct;
        self.end += bytes - direct;
        if self.asking {
            return Ok(());
        }
        while let Some(call) = self.queue.front() {
            let (together, begun) = self.front_is_together();
            // An answer to what was not asked yet is none.
            if self.sent == 0 && !begun {
                break;
            }
            let whole = match call.what {
                What::Content => self.content(&call, chunk, client)?,
                What::Watched => self.watched(&call)?,
                _ if together => self.transaction()?,
                // The server says of each request that it is put off.
                _ if begun => self.more()?,
                _ => self.reply(&call, client)?,
            };
            if !whole {
                return Ok(());
            }
        }
        match self.start == self.end {
            true => Ok(()),
            false => Err(Lost::Malformed),
        }
    }

    /// End the oldest call.
    pub(super) fn finish(&mut self, call: &Call, done: bool) {
        self.queue.pop();
        self.answered += 1;
        self.sent = self.sent.saturating_sub(1);
        if call.joined != 0 {
            self.transactions.left();
        }
        if call.sequence == 0 {
            return;
        }
        self.oldest = match self.disordered {
            0 => call.sequence + 1,
            _ => self.lowest(),
        };
        self.disordered -= u32::from(call.again);
        if done {
            self.last = self.last.max(call.sequence);
        }
    }

    /// Give the lowest sequence number in the queue, or the next one.
    fn lowest(&self) -> u64 {
        let (first, second) = self.queue.slices();
        let numbers = first.iter().chain(second).map(|call| call.sequence);
        let lowest = numbers.filter(|&number| number != 0).min();
        lowest.unwrap_or(self.next)
    }

    /// Wait for the rest of a reply. What can never be held whole was not asked for.
    pub(super) const fn more(&self) -> Result<bool, Lost> {
        match self.end - self.start < self.buffer.len() {
            true => Ok(false),
            false => Err(Lost::Malformed),
        }
    }

    fn reply(&mut self, call: &Call, client: &mut dyn Client) -> Result<bool, Lost> {
        let bytes = &self.buffer[self.start..self.end];
        let Some(len) = whole(bytes)? else {
            return self.more();
        };
        let result = match reply::understand(call, &bytes[..len], client)? {
            Answer::Done(result) => result,
            Answer::Refused(failure) => {
                complain(&mut self.complained, &bytes[..len]);
                Err(failure)
            }
            Answer::Lost(lost) => return Err(lost),
        };
        self.start += len;
        self.finish(call, matches!(result, Ok(_) | Err(Failure::Conflict)));
        client.done(Token(call.token), result);
        Ok(true)
    }

    /// Go on with the content that comes. True when all of it is there.
    fn content(&mut self, call: &Call, chunk: u32, client: &mut dyn Client) -> Result<bool, Lost> {
        let token = Token(call.token);
        let wanted = call.count as usize;
        loop {
            let content = &mut self.content;
            let bytes = &self.buffer[self.start..self.end];
            let count = bytes.len().min(content.body);
            let _ = fill(client.buffers(token), content.at, &bytes[..count]);
            content.at += count;
            content.body -= count;
            self.start += count;
            let mut reader = Reader::new(&bytes[count..]);
            if content.body > 0 {
                return Ok(false);
            }
            if content.end {
                if reader.body(0)?.is_none() {
                    return Ok(false);
                }
                self.start += 2;
                zero(client.buffers(token), content.at..content.at + content.rest);
                content.at += content.rest;
                content.end = false;
            }
            if content.begun && content.at >= wanted {
                let result = content.failed.map_or(Ok(Done::Done), Err);
                self.content = Content::default();
                self.finish(call, result.is_ok());
                client.done(token, result);
                return Ok(true);
            }
            let left = reader.rest().len();
            let Some(item) = reader.item()? else {
                return Ok(false);
            };
            if let Item::Error(text) = item {
                match reply::refused(text) {
                    Answer::Lost(lost) => return Err(lost),
                    Answer::Done(result) => content.failed = result.err(),
                    Answer::Refused(failure) => {
                        complain(&mut self.complained, text);
                        content.failed = Some(failure);
                    }
                }
            }
            let inside = (call.start + content.at as u64) % u64::from(chunk);
            let piece = (chunk as usize - inside as usize).min(wanted - content.at);
            match (content.begun, item) {
                (false, Item::Null | Item::Error(_)) => {}
                (false, Item::Bulk(len)) if len <= (VALUE_MAX + VERSION_LEN) as u64 => {
                    let Some(stored) = reader.body(len)? else {
                        return Ok(false);
                    };
                    reply::give(token, stored, client)?;
                }
                (true, Item::Error(_)) => content.at += piece,
                (true, Item::Bulk(len)) if len <= piece as u64 => {
                    (content.body, content.end) = (len as usize, true);
                    content.rest = piece - len as usize;
                }
                _ => return Err(Lost::Malformed),
            }
            content.begun = true;
            self.start += left - reader.rest().len();
        }
    }

    /// Forget what was sent and has come by a connection that is lost.
    pub fn reset(&mut self) {
        (self.sent, self.part, self.start, self.end) = (0, 0, 0, 0);
        self.content = Content::default();
        self.transactions.reset();
        self.complained = false;
        self.asking = true;
        (self.ask_len, self.ask_sent) = (0, 0);
    }

    /// Give all calls up, after a [`Self::reset`].
    pub fn fail(&mut self, client: &mut dyn Client) {
        while let Some(call) = self.queue.front() {
            let failure = match call.sequence != 0 && self.answered < self.ever_sent {
                true => Failure::Unknown,
                false => Failure::Unreachable,
            };
            self.finish(&call, false);
            match call.what {
                What::Watched => self.transactions.unwatched(),
                _ => client.done(Token(call.token), Err(failure)),
            }
        }
    }
}

/// Log what a server says, once for each connection: thousands of requests may hear the same.
pub(super) fn complain(complained: &mut bool, text: &[u8]) {
    if !core::mem::replace(complained, true) {
        let text = kept(text.strip_prefix(b"-").unwrap_or(text).trim_ascii_end());
        crate::log::error!("valkey: the server answers: {}", text.as_str());
    }
}

/// Give the length of so many replies at the start of what has come, or nothing when they have not come in full.
pub(super) fn lengths(bytes: &[u8], count: usize) -> Result<Option<usize>, Malformed> {
    let mut len = 0;
    for _ in 0..count {
        match whole(&bytes[len..])? {
            Some(one) => len += one,
            None => return Ok(None),
        }
    }
    Ok(Some(len))
}

/// Give the length of the reply at the start of what has come, or nothing when it has not come in full.
pub fn whole(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut depth = Depth::new();
    loop {
        let Some(item) = reader.item()? else {
            return Ok(None);
        };
        match item {
            Item::Bulk(len) | Item::Text { len, .. } if reader.body(len)?.is_none() => {
                return Ok(None);
            }
            // Nobody asked to be told of anything.
            Item::Push(_) | Item::Attribute(_) => return Err(Malformed),
            _ => {}
        }
        if depth.item(&item)? {
            return Ok(Some(bytes.len() - reader.rest().len()));
        }
    }
}
