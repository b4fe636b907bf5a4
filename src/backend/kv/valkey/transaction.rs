//! Which WRITEs go as a transaction instead of by their function: see [`watch`](super::watch); [`assemble`](super::assemble)
//! has how.
//!
//! ```text
//!  queue  W1 function | watch | W2 W3 | W4 W5 W6 | R | W7
//!                 told ───┘      │        └ content is sent, and the end waits until it is told what W2 and W3 made
//!                                └ sent whole: their replies are waited for, and tell
//! ```
//!
//! A WRITE that lies in one chunk, of the file that the one before was of, has the file watched behind it. Those that
//! come from then on *join*: they are in the queue like any other, with the call of the function as what is kept of them.
//! Several are one transaction, whose end says what becomes of the records, and watches again. So it can be sent only when it is told
//! what there is, and one transaction is waited for at a time; but the content of the next one is sent meanwhile, so that the server has
//! something to do. Each has half of those that joined: at depth 1 none ever waits. A change of any other kind ends that: what comes
//! behind it does not join.
//!
//! When it cannot be told, the connection is lost, or a transaction was not done as somebody else changed the file, all
//! that joined go by the function. Content that was sent by then is discarded by the server.

use heapless::Vec;

use super::super::engine::Op;
use super::watch::Told;
use crate::mem::{Arena, OutOfMemory};

/// Most WRITEs of a transaction.
pub const TOGETHER: usize = 32;
/// WRITEs that go by the function after somebody else changed the file, and after the server refused.
pub const RACED: u32 = 64;
pub const REFUSED: u32 = 4096;

/// Say what is known of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Nothing is watched, and nobody joined.
    Idle,
    /// It will be told what is there: by the watch, or by the transaction that is waited for.
    Asked,
    /// It was told, and is watched since.
    Told,
    /// It will not be told. Those that joined go by the function.
    Failed,
}

/// Say how a transaction ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// That is not known yet: there may be more of it.
    Open,
    /// It is done.
    Exec,
    /// Nothing of it is.
    Discard,
}

/// A transaction that is not sent whole.
pub struct Group {
    /// Number of its first call, of all that there ever were.
    pub first: u64,
    /// Where the text is cut, to put content in.
    pub cuts: Vec<u16, TOGETHER>,
    pub text: usize,
    /// Bytes of all of it so far.
    pub len: usize,
    /// Its requests, but for MULTI and the last.
    pub requests: usize,
    pub end: End,
}

/// A transaction that is sent, and whose replies are waited for.
#[derive(Clone, Copy)]
pub struct Awaited {
    /// As above.
    pub first: u64,
    /// Its calls.
    pub calls: usize,
    pub requests: usize,
    pub end: End,
}

/// Hold what is known of the file that is written to.
pub struct Transactions {
    pub text: &'static mut [u8],
    pub told: Told,
    pub state: State,
    /// The file that is watched.
    pub ino: u64,
    /// More may join.
    open: bool,
    /// Calls in the queue that joined; whether it is a call there that watches.
    pub joined: u32,
    asks: bool,
    pub group: Option<Group>,
    pub awaited: Option<Awaited>,
    /// Tokens of one that has ended, and whether it was done in part.
    pub ended: Vec<u64, TOGETHER>,
    pub broken: bool,
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
            awaited: None,
            ended: Vec::new(),
            broken: false,
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

    /// Tell whether content may be sent. Before it was told anything, a server may refuse MULTI.
    pub const fn may_begin(&self) -> bool {
        match self.state {
            State::Told => true,
            State::Asked => self.awaited.is_some(),
            State::Idle | State::Failed => false,
        }
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

    /// Note that nothing will be told. So many WRITEs go by the function before that is tried again.
    pub fn failed(&mut self, spared: u32) {
        (self.state, self.open, self.spared) = (State::Failed, false, spared);
        self.settle();
    }

    /// Note whether it is told what is there.
    pub fn tells(&mut self, told: bool) {
        match (told, self.state) {
            (true, State::Asked) => self.state = State::Told,
            (true, _) => {}
            (false, _) => return self.failed(REFUSED),
        }
        self.settle();
    }

    /// Note that the transaction is sent whole.
    pub fn sent_whole(&mut self) {
        self.awaited = self.group.take().map(|group| Awaited {
            first: group.first,
            calls: group.cuts.len(),
            requests: group.requests,
            end: group.end,
        });
    }

    /// Note that the connection is lost.
    pub fn reset(&mut self) {
        (self.group, self.awaited) = (None, None);
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
