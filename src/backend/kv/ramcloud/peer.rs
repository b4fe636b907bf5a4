//! One server: what is to be sent to it, and what comes from it.

use core::net::SocketAddr;

use super::super::line::{Broken, Line, Transport};
use crate::mem::{Arena, OutOfMemory, RingBuffer};
use crate::sys::tcp::Pieces;
use crate::sys::time::Instant;
use crate::wire::ramcloud::multi::PARTS_MAX;
use crate::wire::ramcloud::reply::Head;
use crate::wire::ramcloud::{HEAD_LEN, Malformed};

/// Bytes that have come and are not understood; replies that are held whole are at most so long.
pub const BUFFER: usize = 64 << 10;

/// Hold the connection to a server.
pub struct Peer<W> {
    /// Where it is; `None` for a place that is free.
    pub address: Option<SocketAddr>,
    /// Its number in the cluster; zero for the coordinator.
    pub server: u64,
    pub line: Line<W>,
    /// Calls to be sent, by handle, those that were given up among them; and bytes of the first that are sent.
    pub queue: RingBuffer<'static, u64>,
    pub part: usize,
    /// Looks that gather in a round, by handle.
    pub looks: heapless::Vec<u64, PARTS_MAX>,
    /// Calls that were sent and are not answered.
    pub owed: u32,
    /// Since when something is owed without a word.
    pub since: Instant,
    /// When it was last looked whether something has come.
    pub looked: Instant,
    /// When the coordinator was told last that it does not answer; `None` once it does.
    pub reported: Option<Instant>,
    buffer: &'static mut [u8],
    start: usize,
    end: usize,
    /// The frame that comes, and bytes of its payload that were taken.
    frame: Option<Head>,
    at: usize,
}

/// Bytes of a frame that have come.
pub struct Incoming<'a> {
    /// The frame.
    pub head: Head,
    /// Bytes of its payload that were taken before.
    pub at: usize,
    /// Those that follow, as far as they have come.
    pub bytes: &'a [u8],
}

impl<W> Peer<W> {
    pub fn new(arena: &Arena, calls: u32) -> Result<Self, OutOfMemory> {
        Ok(Self {
            address: None,
            server: 0,
            line: Line::default(),
            queue: RingBuffer::new(arena.zeroed(2 * calls as usize)?),
            part: 0,
            looks: heapless::Vec::new(),
            owed: 0,
            since: Instant(0),
            looked: Instant(0),
            reported: None,
            buffer: arena.zeroed(BUFFER)?,
            start: 0,
            end: 0,
            frame: None,
            at: 0,
        })
    }

    pub const fn footprint(calls: u32) -> usize {
        BUFFER + (2 * calls as usize + 1) * size_of::<u64>()
    }

    /// Tell whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.owed == 0
    }

    /// Stand for a server from now on.
    pub fn name(&mut self, address: SocketAddr, server: u64) {
        self.reset();
        self.address = Some(address);
        self.server = server;
        self.line = Line::default();
        self.reported = None;
    }

    /// Forget what was under way by a connection that is lost.
    pub fn reset(&mut self) {
        self.queue.clear();
        (self.part, self.owed, self.start, self.end) = (0, 0, 0, 0);
        (self.frame, self.at) = (None, 0);
    }

    /// Receive what has come. Gives the bytes, and whether there may be more.
    pub fn receive<T: Transport<Wire = W>>(
        &mut self,
        transport: &T,
        now: Instant,
    ) -> Result<(usize, bool), Broken> {
        self.looked = now;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && self.buffer.len() - self.end < BUFFER / 4 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = self.buffer.len() - self.end;
        let mut pieces = Pieces::default();
        pieces.room(&mut self.buffer[self.end..]);
        let bytes = self.line.receive(transport, &mut pieces, now)?;
        self.end += bytes;
        if bytes > 0 {
            self.since = now;
        }
        Ok((bytes, bytes == room))
    }

    /// Give what has come of the present frame; nothing when no frame has begun.
    pub fn incoming(&mut self) -> Result<Option<Incoming<'_>>, Malformed> {
        if self.frame.is_none() {
            let Some(head) = Head::parse(&self.buffer[self.start..self.end])? else {
                return Ok(None);
            };
            self.start += HEAD_LEN;
            (self.frame, self.at) = (Some(head), 0);
        }
        Ok(self.frame.map(|head| {
            let bytes = &self.buffer[self.start..self.end];
            Incoming {
                head,
                at: self.at,
                bytes: &bytes[..bytes.len().min(head.len - self.at)],
            }
        }))
    }

    /// Note that so many bytes of that were taken. True when the frame has ended.
    pub fn taken(&mut self, bytes: usize) -> bool {
        self.start += bytes;
        self.at += bytes;
        let ended = self.frame.is_some_and(|head| self.at == head.len);
        if ended {
            self.frame = None;
        }
        ended
    }
}
