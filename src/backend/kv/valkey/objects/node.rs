//! One node: what is said before it serves, what is to be sent to it, and what comes from it.

use super::super::super::line::Line;
use super::super::super::objects::Client;
use super::super::connection::{Settings, evicts, hello, introduce, waits_for_disk};
use super::super::link::{Text, Trouble};
use super::super::pipeline::whole;
use super::super::request::{Durability, FUNCTIONS, VERSION};
use super::super::route::Target;
use super::super::sockets::{Sockets, Wire};
use super::ask::Call;
use crate::mem::{Arena, OutOfMemory, RingBuffer};
use crate::sys::tcp::Pieces;
use crate::sys::time::Instant;
use crate::wire::resp::{Encoder, Item, Malformed, Problem, Reader};

/// Bytes that have come and are not understood. Every reply but content and names is held whole.
pub const BUFFER: usize = 128 << 10;
/// Bytes of what is asked before calls are sent: user and password at most.
const ASK: usize = 1 << 10;
/// Bytes that are received with content of a group, or before it.
const HEAD: usize = 1 << 10;

/// What is waited for before calls are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Hello,
    /// Whether the server waits for its disk, where that is asked for.
    Disk,
    /// Whether it throws keys away.
    Memory,
    /// Whether it has the library of functions, where groups are asked.
    Library,
    Load,
    /// Nothing: calls are sent.
    Ready,
}

/// Hold the connection to a node.
pub struct Node {
    /// Where it is; `None` for a place that is free.
    pub target: Option<Target>,
    pub line: Line<Wire>,
    step: Step,
    ask: &'static mut [u8],
    ask_len: usize,
    ask_sent: usize,
    /// The library was loaded by this connection.
    loaded: bool,
    /// Calls to be sent, by handle, those that were given up among them; and bytes of the first that are sent.
    pub queue: RingBuffer<'static, u64>,
    pub part: usize,
    /// Calls that were sent and are not answered, in order.
    pub owed: RingBuffer<'static, u64>,
    /// Since when something is owed without a word.
    pub since: Instant,
    pub looked: Instant,
    buffer: &'static mut [u8],
    start: usize,
    end: usize,
    /// Which connection this is, counted over all nodes.
    pub epoch: u64,
    /// It is to be connected to, though nothing is to be sent yet.
    pub wanted: bool,
    /// Changes were answered, and no Sync since.
    pub dirty: bool,
    /// It is a node of a cluster.
    pub cluster: bool,
    /// Name and version of the server.
    pub server: Text,
}

impl Node {
    pub fn new(arena: &Arena, calls: u32) -> Result<Self, OutOfMemory> {
        Ok(Self {
            target: None,
            line: Line::default(),
            step: Step::Hello,
            ask: arena.zeroed(ASK)?,
            ask_len: 0,
            ask_sent: 0,
            loaded: false,
            queue: RingBuffer::new(arena.zeroed(2 * calls as usize)?),
            part: 0,
            owed: RingBuffer::new(arena.zeroed(2 * calls as usize)?),
            since: Instant(0),
            looked: Instant(0),
            buffer: arena.zeroed(BUFFER)?,
            start: 0,
            end: 0,
            epoch: 0,
            wanted: false,
            dirty: false,
            cluster: false,
            server: Text::new(),
        })
    }

    pub const fn footprint(calls: u32) -> usize {
        ASK + BUFFER + (4 * calls as usize + 2) * size_of::<u64>()
    }

    /// Tell whether calls are sent.
    pub fn is_ready(&self) -> bool {
        self.step == Step::Ready && self.line.is_up()
    }

    /// Tell whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.owed.is_empty()
    }

    /// Tell whether an answer is waited for.
    pub fn owes(&self) -> bool {
        self.line.is_up() && (self.step != Step::Ready || !self.owed.is_empty())
    }

    /// Stand for a server from now on.
    pub fn name(&mut self, target: Target) {
        self.reset();
        self.target = Some(target);
        self.line = Line::default();
    }

    /// Forget what was under way by a connection that is lost.
    pub fn reset(&mut self) {
        self.queue.clear();
        self.owed.clear();
        (self.part, self.start, self.end) = (0, 0, 0);
        (self.step, self.ask_len, self.ask_sent) = (Step::Hello, 0, 0);
        self.dirty = false;
    }

    /// Go on making the connection.
    pub fn connect(
        &mut self,
        sockets: &Sockets,
        settings: &Settings,
        now: Instant,
        epoch: &mut u64,
    ) -> Result<(), Trouble> {
        let Some(target) = self.target else {
            return Ok(());
        };
        if self.line.connect(sockets, &target, now)? {
            *epoch += 1;
            self.epoch = *epoch;
            self.since = now;
            self.loaded = false;
            self.ask(Step::Hello, settings);
        }
        Ok(())
    }

    fn ask(&mut self, step: Step, settings: &Settings) {
        self.step = step;
        let mut encoder = Encoder::new(self.ask);
        let to = &mut encoder;
        match step {
            Step::Hello => introduce(to, settings),
            Step::Disk => {
                to.request(3).bytes(b"CONFIG").bytes(b"GET");
                to.bytes(b"appendfsync");
            }
            Step::Memory => {
                to.request(2).bytes(b"INFO").bytes(b"memory");
            }
            Step::Library => {
                to.request(3)
                    .bytes(b"FCALL")
                    .bytes(b"dpfs_version")
                    .number(0);
            }
            // The library follows, and the end of a string.
            Step::Load => {
                to.request(4).bytes(b"FUNCTION").bytes(b"LOAD");
                to.bytes(b"REPLACE").announce(FUNCTIONS.len() as u64).end();
            }
            Step::Ready => {}
        }
        self.ask_len = encoder.finish().unwrap_or(0);
        self.ask_sent = 0;
    }

    /// Send what is asked before calls are. True when that is done, as far as sending goes.
    pub fn introduce(&mut self, sockets: &Sockets) -> Result<bool, Trouble> {
        let body: &[u8] = match self.step {
            Step::Load => FUNCTIONS.as_bytes(),
            _ => &[],
        };
        if self.ask_sent < self.ask_len + body.len() {
            let (head, tail) = self.ask[..self.ask_len].split_at(match self.step {
                Step::Load => self.ask_len - 2,
                _ => self.ask_len,
            });
            let mut pieces = Pieces::default();
            let mut skip = self.ask_sent;
            for part in [head, body, tail] {
                let left = skip.min(part.len());
                pieces.bytes(&part[left..]);
                skip -= left;
            }
            self.ask_sent += self.line.send(sockets, &mut pieces)?;
        }
        Ok(self.is_ready())
    }

    /// Take the answers to that. True when calls are sent from now on.
    pub fn introduced(&mut self, settings: &Settings) -> Result<bool, Trouble> {
        while self.step != Step::Ready {
            let bytes = &self.buffer[self.start..self.end];
            let Some(len) = whole(bytes).map_err(|Malformed| Trouble::Malformed)? else {
                return Ok(false);
            };
            let mut reader = Reader::new(&bytes[..len]);
            let first = reader.item().map_err(|_| Trouble::Malformed)?;
            let next = match (self.step, first) {
                (Step::Library, Some(Item::Error(text)))
                    if Problem::parse(text) == Problem::NoFunction =>
                {
                    self.load()?
                }
                (Step::Library, Some(Item::Integer(version))) if version < VERSION => {
                    self.load()?
                }
                (Step::Library, Some(Item::Integer(_))) => Step::Ready,
                (Step::Load, Some(Item::Bulk(_))) => Step::Library,
                // No group is a replica's; it may know who has one.
                (Step::Load, Some(Item::Error(text)))
                    if Problem::parse(text) == Problem::ReadOnly =>
                {
                    Step::Ready
                }
                (_, Some(Item::Error(text))) => return Err(Trouble::refused(text)),
                (Step::Hello, Some(Item::Map(pairs))) => {
                    (self.server, self.cluster) = hello(&mut reader, pairs)?;
                    match settings.durability {
                        Some(Durability::Aof) => Step::Disk,
                        _ => Step::Memory,
                    }
                }
                (Step::Disk, Some(Item::Map(1))) => {
                    waits_for_disk(&mut reader)?;
                    Step::Memory
                }
                (Step::Memory, Some(Item::Text { len, .. } | Item::Bulk(len))) => {
                    let report = reader.body(len).ok().flatten();
                    evicts(report.ok_or(Trouble::Malformed)?)?;
                    match settings.spread {
                        true => Step::Library,
                        false => Step::Ready,
                    }
                }
                _ => return Err(Trouble::Malformed),
            };
            self.start += len;
            self.ask(next, settings);
        }
        Ok(true)
    }

    /// The library is missing, or old.
    fn load(&mut self) -> Result<Step, Trouble> {
        match core::mem::replace(&mut self.loaded, true) {
            // Somebody else takes it away, or puts an old one there.
            true => Err(Trouble::Later),
            false => Ok(Step::Load),
        }
    }

    /// Receive what has come; what is content of the call whose answer is `next` goes to the host's pages. Gives the bytes,
    /// and whether there may be more.
    pub fn receive(
        &mut self,
        sockets: &Sockets,
        now: Instant,
        next: Option<&mut Call>,
        client: &dyn Client,
    ) -> Result<(usize, bool), Trouble> {
        self.looked = now;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = self.buffer.len() - self.end;
        if room == 0 {
            // What can never be held whole was not asked for.
            return Err(Trouble::Malformed);
        }
        let mut pieces = Pieces::default();
        let content = next.and_then(|call| call.wants().map(|wanted| (call, wanted)));
        let (mut direct, mut most) = (0, room);
        if let Some((call, (at, len))) = &content {
            if self.start == self.end {
                pieces.segments(client.buffers(call.token), *at, *len);
                direct = pieces.len();
            }
            most = match self.start == self.end && direct < *len {
                true => 0,
                false => room.min(HEAD),
            };
        }
        pieces.room(&mut self.buffer[self.end..self.end + most]);
        let room = pieces.len();
        let bytes = self.line.receive(sockets, &mut pieces, now)?;
        direct = direct.min(bytes);
        if let Some((call, _)) = content {
            call.placed(direct);
        }
        self.end += bytes - direct;
        if bytes > 0 {
            self.since = now;
        }
        Ok((bytes, bytes == room))
    }

    /// Give what has come and is not understood.
    pub fn came(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Note that so many bytes of that were understood.
    pub const fn understood(&mut self, bytes: usize) {
        self.start += bytes;
    }
}
