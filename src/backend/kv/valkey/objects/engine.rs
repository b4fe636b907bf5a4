//! The engine of one core: calls, the nodes that they go to, and the map of slots.

mod groups;
mod recovery;

use core::net::SocketAddr;

use super::super::super::engine::{Busy, Token};
use super::super::super::line::Transport;
use super::super::super::objects::{Client, Done, Failure, Objects, Op, Want};
use super::super::connection::Settings;
use super::super::link::{Trouble, kept};
use super::super::route::Target;
use super::super::sockets::Sockets;
use super::ask::{Answer, Call, Job};
use super::group::{Identity, Volume};
use super::node::Node;
use super::slots::Slots;
use crate::mem::{Arena, Handle, RingBuffer, SlotMap};
use crate::sys;
use crate::sys::tcp::Pieces;
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::resp::{BULK_MAX, Malformed, SLOTS, slot};

/// Most nodes that are known at a time.
const NODES: u32 = 64;
/// Calls of the engine itself: the map.
const OWN: u32 = 1;
/// Nanoseconds without a word from a server that owes an answer, after which the connection is made anew; and where
/// another may have taken over meanwhile.
const SILENCE: u64 = 10_000_000_000;
const TAKEOVER: u64 = 3_000_000_000;
/// Nanoseconds between two looks at a connection that owes nothing, and at the time that calls take.
const LOOK: u64 = 1_000_000;
/// First and last wait in nanoseconds before the map is asked for again.
const PACE: (u64, u64) = (2_000_000, 500_000_000);
/// Nanoseconds until a server that cannot answer now is asked again.
const LATER: u64 = 20_000_000;
/// Most system calls that receive from one node in a round.
const RECEIVES: u32 = 8;

/// Serve one core from the keys of a server or cluster.
pub struct Strings {
    settings: &'static Settings,
    sockets: Sockets,
    calls: SlotMap<Call>,
    /// Calls that are to be given to a node, by handle. Those that were given up go at the next turn, so there may be
    /// twice as many as calls.
    ready: RingBuffer<'static, u64>,
    nodes: heapless::Vec<Node, { NODES as usize }>,
    slots: Slots,
    /// Who has the slots is known; they are a cluster's.
    known: bool,
    cluster: bool,
    /// Which of those that are configured is asked next.
    seed: usize,
    epochs: u64,
    mapping: bool,
    map_wanted: bool,
    map_at: Instant,
    pace: u64,
    /// Changes that were answered may be lost, and nobody was told.
    doubt: bool,
    /// A random number that nobody else has, and how many connections were lost.
    who: Identity,
    now: Instant,
    looked: Instant,
    trouble: Option<Trouble>,
    complained: bool,
}

impl Strings {
    /// Make one for so many operations under way.
    ///
    /// # Errors
    /// `ENOMEM` when the arena has less than [`Self::footprint`]; as epoll_create1(2).
    pub fn new(arena: &Arena, settings: &'static Settings, calls: u32) -> sys::Result<Self> {
        let calls = calls + OWN;
        let no_memory = |_| Errno::ENOMEM;
        let mut nodes = heapless::Vec::new();
        for _ in 0..NODES {
            let _ = nodes.push(Node::new(arena, calls).map_err(no_memory)?);
        }
        let mut engine = Self {
            settings,
            sockets: Sockets::new(settings)?,
            calls: SlotMap::new(arena, calls).map_err(no_memory)?,
            ready: RingBuffer::new(arena.zeroed(2 * calls as usize).map_err(no_memory)?),
            nodes,
            slots: Slots::new(arena).map_err(no_memory)?,
            known: false,
            cluster: false,
            seed: 0,
            epochs: 0,
            mapping: false,
            map_wanted: false,
            map_at: Instant(0),
            pace: PACE.0,
            doubt: false,
            who: Identity { client: 0, lost: 0 },
            now: Instant(0),
            looked: Instant(0),
            trouble: None,
            complained: false,
        };
        let first = engine.next_seed();
        engine.nodes[0].name(first);
        engine.nodes[0].wanted = true;
        Ok(engine)
    }

    /// Give the bytes of arena that one needs.
    pub const fn footprint(calls: u32) -> usize {
        let calls = calls + OWN;
        NODES as usize * Node::footprint(calls)
            + SlotMap::<Call>::footprint(calls)
            + (2 * calls as usize + 1) * size_of::<u64>()
            + Slots::footprint()
            + 256
    }

    /// Tell whether who serves is known, and serves.
    pub fn is_ready(&self) -> bool {
        self.known && self.nodes.iter().any(Node::is_ready)
    }

    /// Give what was wrong last; nothing while all serve.
    pub const fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Give name and version of a server that serves, and whether it is a node of a cluster.
    pub fn server(&self) -> Option<(&str, bool)> {
        let node = self.nodes.iter().find(|node| node.is_ready())?;
        Some((&node.server, node.cluster))
    }

    fn next_seed(&mut self) -> Target {
        let all = self.settings.addresses;
        let seed = &all[self.seed % all.len()];
        self.seed += 1;
        seed.into()
    }

    fn enter(&mut self, call: Call) -> Result<(), Busy> {
        let handle = self.calls.insert(call).map_err(|_| Busy)?;
        let _ = self.ready.push(handle.to_bits());
        Ok(())
    }

    /// Enter a call that is not the engine's own: those have room that is kept for them.
    fn admit(&mut self, call: impl FnOnce() -> Call) -> Result<(), Busy> {
        if self.calls.len() + OWN >= self.calls.capacity() {
            return Err(Busy);
        }
        self.enter(call())
    }

    fn ask_map(&mut self) {
        if self.cluster && self.map_wanted && !self.mapping && self.now >= self.map_at {
            self.mapping = self.enter(Call::map()).is_ok();
            self.map_wanted = !self.mapping;
            self.map_at = self.now.after(self.pace);
            self.pace = (self.pace * 2).min(PACE.1);
        }
    }

    fn dispatch(&mut self, client: &mut dyn Client) {
        for _ in 0..self.ready.len() {
            let Some(bits) = self.ready.pop() else {
                return;
            };
            if !self.give(Handle::from_bits(bits), client) {
                let _ = self.ready.push(bits);
            }
        }
    }

    /// Give a call to its node. False when it has to wait.
    fn give(&mut self, handle: Handle, client: &mut dyn Client) -> bool {
        let now = self.now;
        let Some(call) = self.calls.get_mut(handle) else {
            return true;
        };
        if call.since == Instant(0) {
            call.since = now;
        }
        if now < call.not_before {
            return false;
        }
        let by_name = self.slots.node(slot(call.name(0)));
        let node = match call.job {
            Job::Map => Some(self.anyone()),
            Job::Want(Want::Usage) => self.slots.node(0),
            Job::Want(Want::List) => self.slots.node(call.slot),
            job if job.settles() && core::mem::take(&mut self.doubt) => {
                self.end(handle, Err(Failure::Unknown), client);
                return true;
            }
            Job::Want(Want::Sync { all: true }) => {
                let dirty = (0..NODES).find(|at| self.nodes[*at as usize].dirty);
                if dirty.is_none() {
                    self.end(handle, Ok(Done::Done), client);
                    return true;
                }
                dirty
            }
            _ => call.asking.or(by_name),
        };
        let Some(which) = node else {
            self.map_wanted = true;
            return false;
        };
        let Some(call) = self.calls.get_mut(handle) else {
            return true;
        };
        let node = &mut self.nodes[which as usize];
        match call.job {
            // A place in a listing means nothing to another server, or to one that was started anew.
            Job::Want(Want::List) if !node.is_ready() => {
                node.wanted = true;
                return false;
            }
            Job::Want(Want::List) if call.epoch != node.epoch => {
                (call.epoch, call.scan) = (node.epoch, 0);
            }
            job if job.settles() => node.dirty = false,
            _ => {}
        }
        call.write(volume(self.settings), self.who);
        (call.node, call.sent) = (Some(which), false);
        let _ = node.queue.push(handle.to_bits());
        true
    }

    /// Send, receive and connect, for one node. True when something happened.
    fn serve(&mut self, which: u32, client: &mut dyn Client) -> bool {
        let node = &self.nodes[which as usize];
        let idle = node.is_idle() && !node.line.is_up() && !node.wanted;
        if node.target.is_none() || idle {
            return false;
        }
        match self.go_on(which, client) {
            Ok(any) => any,
            Err(why) => {
                self.lost(which, why, client);
                true
            }
        }
    }

    fn go_on(&mut self, which: u32, client: &mut dyn Client) -> Result<bool, Trouble> {
        let now = self.now;
        let node = &mut self.nodes[which as usize];
        node.connect(&self.sockets, self.settings, now, &mut self.epochs)?;
        if !node.line.is_up() {
            return Ok(false);
        }
        let mut any = false;
        if node.introduce(&self.sockets)? {
            any = self.send(which, client)?;
        }
        let node = &self.nodes[which as usize];
        if !node.owes() && now.since(node.looked) < LOOK {
            return Ok(any);
        }
        for _ in 0..RECEIVES {
            let node = &mut self.nodes[which as usize];
            let next = node.owed.front().map(Handle::from_bits);
            let next = next.and_then(|handle| self.calls.get_mut(handle));
            let (bytes, more) = node.receive(&self.sockets, now, next, client)?;
            if bytes == 0 {
                break;
            }
            any = true;
            if !node.is_ready() {
                if !node.introduced(self.settings)? {
                    node.introduce(&self.sockets)?;
                    continue;
                }
                self.serves(which);
            }
            self.understand(which, client)?;
            if !more {
                break;
            }
        }
        let silence = if self.cluster { TAKEOVER } else { SILENCE };
        let node = &self.nodes[which as usize];
        match node.owes() && now.since(node.since) > silence {
            true => Err(Trouble::Silent),
            false => Ok(any),
        }
    }

    /// A node serves from now on.
    fn serves(&mut self, which: u32) {
        let node = &mut self.nodes[which as usize];
        node.wanted = false;
        self.cluster = node.cluster;
        match node.cluster {
            true => self.map_wanted |= !self.known,
            false => {
                self.slots.set(0, SLOTS - 1, Some(which));
                self.known = true;
            }
        }
        if self.trouble.take().is_some() {
            crate::log::info!("valkey: {} serves", node.server.as_str());
        }
    }

    fn send(&mut self, which: u32, client: &mut dyn Client) -> Result<bool, Trouble> {
        let mut any = false;
        loop {
            let node = &mut self.nodes[which as usize];
            let mut pieces = Pieces::default();
            let mut skip = node.part;
            let (first, second) = node.queue.slices();
            for bits in first.iter().chain(second) {
                let Some(call) = self.calls.get(Handle::from_bits(*bits)) else {
                    continue;
                };
                if !collect(&mut pieces, call, skip, &*client) {
                    break;
                }
                skip = 0;
            }
            let bytes = match pieces.is_empty() {
                true => 0,
                false => node.line.send(&self.sockets, &mut pieces)?,
            };
            self.sent(which, bytes);
            if bytes == 0 {
                return Ok(any);
            }
            any = true;
        }
    }

    /// Note that so many bytes are sent.
    fn sent(&mut self, which: u32, mut bytes: usize) {
        let node = &mut self.nodes[which as usize];
        while let Some(bits) = node.queue.front() {
            let Some(call) = self.calls.get_mut(Handle::from_bits(bits)) else {
                node.queue.pop();
                continue;
            };
            let (head, tail) = call.frame();
            let left = head.len() + call.payload() + tail.len() - node.part;
            if bytes < left {
                node.part += bytes;
                return;
            }
            bytes -= left;
            node.part = 0;
            node.queue.pop();
            call.sent = true;
            call.sendings += 1;
            if node.owed.is_empty() {
                node.since = self.now;
            }
            let _ = node.owed.push(bits);
        }
    }

    /// Take what has come from a node.
    fn understand(&mut self, which: u32, client: &mut dyn Client) -> Result<(), Trouble> {
        let volume = volume(self.settings);
        loop {
            let node = &mut self.nodes[which as usize];
            let Some(bits) = node.owed.front() else {
                // An answer to nothing is none.
                return match node.came().is_empty() {
                    true => Ok(()),
                    false => Err(Trouble::Malformed),
                };
            };
            let handle = Handle::from_bits(bits);
            // Who gives a call up that was sent ends the connection.
            let call = self.calls.get_mut(handle).ok_or(Trouble::Malformed)?;
            let taken = call.take(node.came(), volume, client);
            let (bytes, answer) = taken.map_err(|Malformed| Trouble::Malformed)?;
            let Some(answer) = answer else {
                node.understood(bytes);
                return Ok(());
            };
            // A new connection loads it.
            if let Answer::NoFunction = answer {
                return Err(Trouble::Later);
            }
            node.owed.pop();
            node.line.proven();
            call.node = None;
            if let Answer::Map = answer {
                let mapped = self.remap(which, bytes);
                mapped.map_err(|Malformed| Trouble::Malformed)?;
            } else if let Answer::Refused = answer
                && !core::mem::replace(&mut self.complained, true)
            {
                let text = node.came().strip_prefix(b"-").unwrap_or_default();
                let text = kept(text[..bytes.min(text.len())].trim_ascii_end());
                crate::log::error!("valkey: the server answers: {}", text.as_str());
            }
            self.nodes[which as usize].understood(bytes);
            self.answered(which, handle, answer, client);
        }
    }

    /// Go on with a call whose reply has come.
    fn answered(&mut self, which: u32, handle: Handle, answer: Answer, client: &mut dyn Client) {
        let asked = self.ip_of(which);
        let Some(call) = self.calls.get_mut(handle) else {
            return;
        };
        call.asking = None;
        if matches!(answer, Answer::Moved | Answer::Ask | Answer::Later) {
            call.sendings = call.sendings.saturating_sub(1);
            let elsewhere = call.elsewhere.take();
            call.not_before = match (&answer, elsewhere) {
                (Answer::Moved | Answer::Ask, Some(_)) => self.now,
                _ => self.now.after(LATER),
            };
            let _ = self.ready.push(handle.to_bits());
            self.map_wanted |= !matches!(answer, Answer::Ask);
            if let Some((slot, ip, port)) = elsewhere {
                let target = Target::Tcp(SocketAddr::new(ip.unwrap_or(asked), port));
                let node = self.find_node(target);
                match (answer, self.calls.get_mut(handle)) {
                    (Answer::Ask, Some(call)) => call.asking = node,
                    _ => self.slots.set(slot, slot, node),
                }
            }
            return;
        }
        let node = &mut self.nodes[which as usize];
        let result = match answer {
            Answer::End(result) => {
                node.dirty |= result.is_ok() && call.job.changes();
                self.pace = PACE.0;
                result
            }
            Answer::Listed(scan) => {
                let next = match scan {
                    0 => self.slots.next(call.slot).map(|slot| (slot, 0, 0)),
                    scan => Some((call.slot, call.epoch, scan)),
                };
                if let Some(next) = next {
                    (call.slot, call.epoch, call.scan) = next;
                    call.tell_place(client);
                }
                Ok(Done::Listed {
                    more: next.is_some(),
                })
            }
            Answer::Durable if call.job == (Job::Want(Want::Sync { all: true })) => {
                let _ = self.ready.push(handle.to_bits());
                return;
            }
            Answer::NotDurable => {
                node.dirty = true;
                let _ = self.ready.push(handle.to_bits());
                return;
            }
            Answer::Refused => Err(Failure::Broken),
            _ => Ok(Done::Done),
        };
        self.end(handle, result, client);
    }

    fn end(&mut self, handle: Handle, result: Result<Done, Failure>, client: &mut dyn Client) {
        let Some(call) = self.calls.remove(handle) else {
            return;
        };
        match call.job {
            Job::Map => self.mapping = false,
            _ => client.done(call.token, result),
        }
    }
}

/// Say how chunks are kept.
const fn volume(settings: &Settings) -> Volume {
    Volume {
        chunk: settings.chunk,
        durability: settings.durability,
    }
}

/// Collect what of a call is to be sent, some bytes left out at its start. False when there was no room for all.
fn collect<'a>(
    pieces: &mut Pieces<'a>,
    call: &'a Call,
    mut skip: usize,
    client: &'a dyn Client,
) -> bool {
    let (head, tail) = call.frame();
    let payload = call.payload();
    let first = skip.min(head.len());
    skip -= first;
    let second = skip.min(payload);
    skip -= second;
    pieces.bytes(&head[first..])
        && (payload == second
            || pieces.segments(
                client.payload(call.token),
                call.base() + second,
                payload - second,
            ))
        && pieces.bytes(&tail[skip..])
}

impl Objects for Strings {
    fn submit(&mut self, token: Token, op: &Op<'_>, client: &mut dyn Client) -> Result<(), Busy> {
        match *op {
            Op::Sync { .. } if self.settings.durability.is_none() => {
                client.done(token, Ok(Done::Done));
                return Ok(());
            }
            Op::Read { len: 0, .. } => {
                client.done(token, Ok(Done::Read(0)));
                return Ok(());
            }
            Op::Rename { from, to, .. } if self.cluster && slot(from) != slot(to) => {
                client.done(token, Err(Failure::Elsewhere));
                return Ok(());
            }
            _ => {}
        }
        self.admit(|| Call::new(token, op))
    }

    fn poll(&mut self, now: Instant, client: &mut dyn Client) -> bool {
        self.now = now;
        self.ask_map();
        self.dispatch(client);
        let mut any = false;
        for which in 0..NODES {
            any |= self.serve(which, client);
        }
        any | self.give_up(client)
    }

    fn wait_fds(&self, add: &mut dyn FnMut(i32)) {
        add(self.sockets.bell());
    }

    fn arm(&mut self) -> bool {
        let unsent = |node: &Node| !node.queue.is_empty() || node.line.holds(&self.sockets);
        !self
            .nodes
            .iter()
            .any(|node| node.is_ready() && unsent(node))
    }

    fn deadline(&self) -> Option<Instant> {
        let silence = if self.cluster { TAKEOVER } else { SILENCE };
        let nodes = self.nodes.iter().filter_map(|node| {
            let busy = node.target.is_some() && (!node.is_idle() || node.wanted);
            match node.owes() {
                true => Some(node.since.after(silence)),
                false if busy => node.line.deadline(self.now),
                false => None,
            }
        });
        let calls = self.calls.iter().map(|(_, call)| {
            let late = call.since.after(self.settings.timeout);
            match call.node {
                Some(_) => late,
                None => late.min(call.not_before.max(self.now.after(PACE.0))),
            }
        });
        nodes.chain(calls).min()
    }

    fn size_max(&self) -> u64 {
        BULK_MAX
    }
}
