//! One TCP connection: what is to be sent by it, and what has come and is not understood yet.

use core::net::SocketAddr;

#[cfg(feature = "tls")]
use crate::backend::tls::Fault;
use crate::mem::{Arena, Handle, OutOfMemory, RingBuffer};
use crate::sys::time::Instant;
use crate::wire::nfs4::Call;

use super::recovery::Ask;
use super::wire::{Broken, Security, Wire};

/// Bytes of what comes in; the largest answer other than a READ's has to fit.
pub const BUFFER: usize = 128 << 10;
/// Bytes of a call of the session's own.
pub const ASK_ROOM: usize = (2 << 10) + REWRITE;
/// Bytes of content that one of them writes again.
pub const REWRITE: usize = 64 << 10;
/// Stands for the session's own call in the queue.
pub const ASK: Handle = Handle {
    index: u32::MAX,
    generation: 0,
};

/// Stands for the answer to a call of the server's.
pub const ANSWER: Handle = Handle {
    index: u32::MAX,
    generation: 1,
};
/// Bytes of such an answer: the server's tag is the longest thing in it.
const ANSWER_ROOM: usize = 1536;

/// First and last wait before a connection is tried again, in nanoseconds.
const BACKOFF: (u64, u64) = (10_000_000, 2_000_000_000);

/// Say how a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// There is none.
    Down,
    /// It is being made.
    Connecting,
    /// It stands, but carries no session.
    Bare,
    /// It carries the session.
    Bound,
}

/// Say where the rest of a READ's data goes.
#[derive(Clone, Copy, Debug)]
pub struct Body {
    /// Task.
    pub task: Handle,
    /// Place in the reply's buffers.
    pub at: usize,
    /// Bytes to come.
    pub left: usize,
    /// Bytes of padding behind.
    pub padding: usize,
    /// The file ends there.
    pub end: bool,
}

/// Hold a connection.
pub struct Link {
    pub state: State,
    pub wire: Option<Wire>,
    /// What has come: `start..end` is not understood yet.
    pub buffer: &'static mut [u8],
    pub start: usize,
    pub end: usize,
    /// Bytes to be thrown away before the next record.
    pub skip: usize,
    /// The READ whose data is coming.
    pub body: Option<Body>,
    /// What is to be sent, in order.
    pub queue: RingBuffer<'static, Handle>,
    /// Bytes of the first that are sent.
    pub sent: usize,
    /// What the session's own call asks.
    pub ask: Ask,
    pub ask_call: Call,
    pub ask_buffer: &'static mut [u8],
    pub ask_xid: u32,
    /// The answer to a call of the server's; its length is zero when there is none to be sent.
    pub answer: &'static mut [u8],
    pub answer_len: usize,
    /// When it was sent, or is to be made again; or when the connection was begun.
    pub ask_at: Instant,
    retry_at: Instant,
    backoff: u64,
    /// Connections that ended before they carried the session: another address is tried after each.
    pub failures: usize,
}

impl Link {
    /// Reserve one, for so many calls under way.
    pub fn new(arena: &Arena, calls: u32) -> Result<Self, OutOfMemory> {
        Ok(Self {
            state: State::Down,
            wire: None,
            buffer: arena.zeroed(BUFFER)?,
            start: 0,
            end: 0,
            skip: 0,
            body: None,
            queue: RingBuffer::new(arena.zeroed::<Handle>(calls as usize + 3)?),
            sent: 0,
            ask: Ask::Nothing,
            ask_call: Call::default(),
            ask_buffer: arena.zeroed(ASK_ROOM)?,
            ask_xid: 0,
            answer: arena.zeroed(ANSWER_ROOM)?,
            answer_len: 0,
            ask_at: Instant::default(),
            retry_at: Instant::default(),
            backoff: BACKOFF.0,
            failures: 0,
        })
    }

    /// Give the bytes of arena that one needs.
    pub const fn footprint(calls: u32) -> usize {
        BUFFER + ASK_ROOM + ANSWER_ROOM + (calls as usize + 3) * size_of::<Handle>() + 64
    }

    /// Begin to connect when it is time. Gives the connection's descriptor.
    pub fn connect(
        &mut self,
        to: &SocketAddr,
        (reserved, security): (bool, Security),
        now: Instant,
    ) -> Option<i32> {
        if now < self.retry_at {
            return None;
        }
        match Wire::connect(to, reserved, security) {
            Ok(wire) => {
                let raw = wire.raw();
                self.wire = Some(wire);
                self.state = State::Connecting;
                self.ask_at = now;
                Some(raw)
            }
            Err(error) => {
                crate::log::debug!("nfs: no connection: {}", error);
                self.close(now);
                None
            }
        }
    }

    /// Go on making the connection.
    ///
    /// # Errors
    /// Why it cannot be made; [`Self::close`] is to follow.
    pub fn look(&mut self) -> Result<(), Broken> {
        if let Some(wire) = &mut self.wire
            && wire.stands()?
        {
            self.state = State::Bare;
        }
        Ok(())
    }

    /// Tell whether something is to be sent, or was taken and is still on its way out.
    pub fn is_sending(&self) -> bool {
        !self.queue.is_empty() || self.wire.as_ref().is_some_and(Wire::holds)
    }

    /// Say what it means that making the connection takes too long, where that says more than that nobody is there.
    #[cfg(feature = "tls")]
    pub fn silent(&self) -> Option<Fault> {
        let making = self.state == State::Connecting;
        self.wire.as_ref().filter(|_| making)?.silent()
    }

    /// Tell whether the connection is one of TLS by which nothing was answered yet.
    #[cfg(feature = "tls")]
    pub fn is_fresh_tls(&self) -> bool {
        self.state == State::Bare && matches!(self.wire, Some(Wire::Tls(_)))
    }

    /// Note that the server answers by this connection.
    pub fn proven(&mut self) {
        self.backoff = BACKOFF.0;
    }

    /// End the connection, to be made again after a while that grows.
    pub fn close(&mut self, now: Instant) {
        self.wire = None;
        self.failures += usize::from(self.state != State::Bound);
        self.state = State::Down;
        (self.start, self.end, self.skip, self.sent) = (0, 0, 0, 0);
        self.body = None;
        self.queue.clear();
        self.answer_len = 0;
        self.retry_at = now.after(self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
    }

    /// Make room behind what has come, at least half of the buffer unless a record is longer.
    pub fn compact(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > self.buffer.len() / 2 || self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }
}
