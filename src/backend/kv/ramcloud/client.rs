//! The engine of one core: calls, the servers that they go to, the lease and the map.

mod incoming;
mod recovery;
mod together;

use core::net::SocketAddr;

use super::super::engine::{Busy, Token};
use super::super::line::{Broken, Tcp, Transport};
use super::super::objects::{Client, Done, Failure, Objects, Op};
use super::bundle::{BUNDLES, Bundle};
use super::call::{Call, Job, Next, SIZE_MAX, Step};
use super::lease::Lessee;
use super::peer::{BUFFER, Peer};
use super::tablets::Tablets;
use crate::mem::{Arena, Handle, RingBuffer, SlotMap};
use crate::sys;
use crate::sys::fd::Fd;
use crate::sys::tcp::Pieces;
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::ramcloud::reply;
use crate::wire::ramcloud::{Malformed, Status};
use incoming::take;

/// Most servers that are known at a time: the coordinator, and masters of the table.
const PEERS: u32 = 65;
/// The coordinator among them.
const COORDINATOR: u32 = 0;
/// Places for whole values: changes that are under way at a time.
const PADS: usize = 16;
/// Calls of the client itself: a lease, the map, a word about each server, and bundles.
const OWN: u32 = 2 + PEERS + BUNDLES as u32;
/// Nanoseconds without a word from a server that owes an answer, after which the connection is made anew.
const SILENCE: u64 = 3_000_000_000;
/// Nanoseconds between two looks at a connection that owes nothing, and at the time that calls take.
const LOOK: u64 = 1_000_000;
/// First and last wait in nanoseconds before the map is asked for again, or a lease.
const PACE: (u64, u64) = (2_000_000, 500_000_000);
/// Longest delay in nanoseconds that a server may ask for.
const DELAY_MAX: u64 = 10_000_000_000;
/// Most system calls that receive from one server in a round.
const RECEIVES: u32 = 8;

/// Say which table is served, and how to reach it.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The coordinator.
    pub coordinator: SocketAddr,
    /// Number of the table.
    pub table: u64,
    /// Nanoseconds without an answer after which a request fails.
    pub timeout: u64,
}

/// Serve one core from a table.
pub struct Ramcloud<T: Transport<Address = SocketAddr> = Tcp> {
    settings: Settings,
    transport: T,
    calls: SlotMap<Call>,
    /// Calls that are to be given to a server, by handle. Those that were given up go at the next turn, so there may be
    /// twice as many as calls.
    ready: RingBuffer<'static, u64>,
    peers: heapless::Vec<Peer<T::Wire>, { PEERS as usize }>,
    pads: &'static mut [[u8; SIZE_MAX]],
    free_pads: heapless::Vec<u16, PADS>,
    bundles: &'static mut [Bundle],
    free_bundles: heapless::Vec<u16, BUNDLES>,
    lessee: Lessee,
    tablets: Tablets,
    /// The map as it was told last.
    told: &'static mut [u8],
    /// A lease, the map is being asked for; and when it may be, at the earliest.
    leasing: bool,
    lease_at: Instant,
    mapping: bool,
    map_wanted: bool,
    map_at: Instant,
    pace: u64,
    now: Instant,
    looked: Instant,
    complained: bool,
}

impl Ramcloud {
    /// Make one for so many operations under way.
    ///
    /// # Errors
    /// `ENOMEM` when the arena has less than [`Self::footprint`]; as epoll_create1(2).
    pub fn new(arena: &Arena, settings: Settings, calls: u32) -> sys::Result<Self> {
        Self::over(arena, Tcp::new()?, settings, calls)
    }
}

impl<T: Transport<Address = SocketAddr>> Ramcloud<T> {
    /// As [`Ramcloud::new`], over any transport.
    ///
    /// # Errors
    /// `ENOMEM` when the arena has less than [`Self::footprint`].
    pub fn over(arena: &Arena, transport: T, settings: Settings, calls: u32) -> sys::Result<Self> {
        let calls = calls + OWN;
        let no_memory = |_| Errno::ENOMEM;
        let mut peers = heapless::Vec::new();
        for _ in 0..PEERS {
            let _ = peers.push(Peer::new(arena, calls).map_err(no_memory)?);
        }
        peers[COORDINATOR as usize].name(settings.coordinator, 0);
        Ok(Self {
            settings,
            transport,
            calls: SlotMap::new(arena, calls).map_err(no_memory)?,
            ready: RingBuffer::new(arena.zeroed(2 * calls as usize).map_err(no_memory)?),
            peers,
            pads: arena.zeroed(PADS).map_err(no_memory)?,
            free_pads: (0..PADS as u16).collect(),
            bundles: arena.zeroed(BUNDLES).map_err(no_memory)?,
            free_bundles: (0..BUNDLES as u16).collect(),
            lessee: Lessee::new(),
            tablets: Tablets::new(arena).map_err(no_memory)?,
            told: arena.zeroed(BUFFER).map_err(no_memory)?,
            leasing: false,
            lease_at: Instant(0),
            mapping: false,
            map_wanted: true,
            map_at: Instant(0),
            pace: PACE.0,
            now: Instant(0),
            looked: Instant(0),
            complained: false,
        })
    }

    /// Give the bytes of arena that one needs.
    pub const fn footprint(calls: u32) -> usize {
        let calls = calls + OWN;
        PEERS as usize * Peer::<Fd>::footprint(calls)
            + SlotMap::<Call>::footprint(calls)
            + (2 * calls as usize + 1) * size_of::<u64>()
            + PADS * SIZE_MAX
            + (BUNDLES + 1) * size_of::<Bundle>()
            + Tablets::footprint()
            + BUFFER
            + 256
    }

    /// Begin a call.
    fn enter(&mut self, call: Call) -> Result<(), Busy> {
        let handle = self.calls.insert(call).map_err(|_| Busy)?;
        let _ = self.ready.push(handle.to_bits());
        Ok(())
    }

    fn enter_own(&mut self, job: Job) -> bool {
        self.enter(Call::own(job, Token(0), Step::Own)).is_ok()
    }

    /// Ask for what the client itself needs: a lease, the map.
    fn ask_own(&mut self) {
        let now = self.now;
        if !self.leasing && now >= self.lessee.renewal() && now >= self.lease_at {
            self.leasing = self.enter_own(Job::Lease);
        }
        if self.map_wanted && !self.mapping && now >= self.map_at {
            self.mapping = self.enter_own(Job::Map);
            self.map_wanted = !self.mapping;
            self.map_at = now.after(self.pace);
            self.pace = (self.pace * 2).min(PACE.1);
        }
    }

    /// Give calls to their servers, as far as it is known which these are.
    fn dispatch(&mut self) {
        if self.ready.is_empty() {
            return;
        }
        for _ in 0..self.ready.len() {
            let Some(bits) = self.ready.pop() else {
                break;
            };
            if !self.give(Handle::from_bits(bits)) {
                let _ = self.ready.push(bits);
            }
        }
        self.ask_together();
    }

    /// Give a call to its server. False when it has to wait.
    fn give(&mut self, handle: Handle) -> bool {
        let Some(call) = self.calls.get_mut(handle) else {
            return true;
        };
        if call.since == Instant(0) {
            call.since = self.now;
        }
        if self.now < call.not_before {
            return false;
        }
        if call.waits_for_pad() {
            call.pad = self.free_pads.pop();
            if call.pad.is_none() {
                return false;
            }
        }
        let peer = match call.job.is_own() {
            true => COORDINATOR,
            false => {
                let known = self.tablets.peer(call.hash(self.settings.table));
                match known.filter(|_| self.tablets.told() > call.wrong_map) {
                    Some(peer) => peer,
                    None => {
                        self.map_wanted |= !self.mapping;
                        return false;
                    }
                }
            }
        };
        if call.goes_together() {
            (call.peer, call.sent) = (Some(peer), false);
            let looks = &mut self.peers[peer as usize].looks;
            let _ = looks.push(handle.to_bits());
            if looks.is_full() {
                self.bundle(peer);
            }
            return true;
        }
        self.post(handle, peer)
    }

    /// Queue a call's request. False when it has to wait.
    fn post(&mut self, handle: Handle, peer: u32) -> bool {
        let Some(call) = self.calls.get_mut(handle) else {
            return true;
        };
        if call.frame().is_empty() {
            let once = match call.step.changes() {
                true => match self.lessee.number(self.now) {
                    Some(once) => Some(once),
                    None => return false,
                },
                false => None,
            };
            let (table, lease) = (self.settings.table, self.lessee.id());
            // It fits: names are bounded, and so is a place in a listing.
            call.write(handle.to_bits(), table, lease, once);
        }
        call.peer = Some(peer);
        call.sent = false;
        let _ = self.peers[peer as usize].queue.push(handle.to_bits());
        true
    }

    /// Send, receive and connect, for one server. True when something happened.
    fn serve(&mut self, which: u32, client: &mut dyn Client) -> bool {
        let peer = &self.peers[which as usize];
        if peer.address.is_none() || (peer.is_idle() && !peer.line.is_up()) {
            return false;
        }
        match self.go_on(which, client) {
            Ok(any) => any,
            Err(why) => {
                self.lost(which, Some(why));
                true
            }
        }
    }

    fn go_on(&mut self, which: u32, client: &mut dyn Client) -> Result<bool, Broken> {
        let now = self.now;
        let peer = &mut self.peers[which as usize];
        if let Some(address) = peer.address {
            peer.line.connect(&self.transport, &address, now)?;
        }
        if !peer.line.is_up() {
            return Ok(false);
        }
        let mut any = self.send(which)?;
        let peer = &self.peers[which as usize];
        if peer.owed == 0 && now.since(peer.looked) < LOOK {
            return Ok(any);
        }
        for _ in 0..RECEIVES {
            let peer = &mut self.peers[which as usize];
            let (bytes, more) = peer.receive(&self.transport, now)?;
            if bytes == 0 {
                break;
            }
            any = true;
            if self.understand(which, client).is_err() {
                crate::log::error!("ramcloud: what came is no reply of RAMCloud");
                return Err(Broken::Ended);
            }
            if !more {
                break;
            }
        }
        let peer = &self.peers[which as usize];
        match peer.owed > 0 && now.since(peer.since) > SILENCE {
            true => Err(Broken::Silent),
            false => Ok(any),
        }
    }

    fn send(&mut self, which: u32) -> Result<bool, Broken> {
        let mut any = false;
        loop {
            let peer = &self.peers[which as usize];
            let mut pieces = Pieces::default();
            let mut skip = peer.part;
            let (first, second) = peer.queue.slices();
            for bits in first.iter().chain(second) {
                let Some(call) = self.calls.get(Handle::from_bits(*bits)) else {
                    continue;
                };
                let (frame, value) = parts(call, self.pads, self.bundles);
                let (head, rest) = (skip.min(frame.len()), skip.saturating_sub(frame.len()));
                if !pieces.bytes(&frame[head..]) || !pieces.bytes(&value[rest..]) {
                    break;
                }
                skip = 0;
            }
            let bytes = match pieces.is_empty() {
                true => 0,
                false => peer.line.send(&self.transport, &mut pieces)?,
            };
            if bytes == 0 {
                // Those that were given up meanwhile go.
                self.sent(which, 0);
                return Ok(any);
            }
            any = true;
            self.sent(which, bytes);
        }
    }

    /// Note that so many bytes are sent.
    fn sent(&mut self, which: u32, mut bytes: usize) {
        let peer = &mut self.peers[which as usize];
        while let Some(bits) = peer.queue.front() {
            let Some(call) = self.calls.get_mut(Handle::from_bits(bits)) else {
                peer.queue.pop();
                continue;
            };
            let len = frame(call, self.bundles).len() + call.value_len();
            if peer.part == 0 && bytes > 0 {
                call.sendings += 1;
            }
            let left = len - peer.part;
            if bytes < left {
                peer.part += bytes;
                return;
            }
            bytes -= left;
            peer.part = 0;
            peer.queue.pop();
            call.sent = true;
            if peer.owed == 0 {
                peer.since = self.now;
            }
            peer.owed += 1;
        }
    }

    /// Take what has come from a server.
    fn understand(&mut self, which: u32, client: &mut dyn Client) -> Result<(), Malformed> {
        loop {
            let Some(incoming) = self.peers[which as usize].incoming()? else {
                return Ok(());
            };
            let handle = Handle::from_bits(incoming.head.nonce);
            let call = self.calls.get_mut(handle);
            let call = call.filter(|call| call.peer == Some(which) && call.sent);
            let (taken, known) = match call {
                // It was given up.
                None => (incoming.bytes.len(), false),
                Some(&mut Call {
                    job: Job::Bundle { place },
                    status: Status::Ok,
                    objects: told,
                    ..
                }) if incoming.at > 0 => {
                    let bundle = &mut self.bundles[usize::from(place)];
                    (bundle.take(&incoming, told, &mut self.calls)?, true)
                }
                Some(call) => (take(call, &incoming, self.pads, client)?, true),
            };
            let (at, left) = (incoming.at, incoming.head.len - incoming.at);
            // What is told whole is understood before it is overwritten.
            if known && at == 0 && taken == left {
                self.whole(which, handle)?;
            }
            let peer = &mut self.peers[which as usize];
            let ended = peer.taken(taken);
            if ended {
                peer.owed = peer.owed.saturating_sub(1);
                peer.line.proven();
                peer.reported = None;
            }
            if ended && known {
                self.answered(handle, client);
            } else if !ended && taken == 0 {
                return Ok(());
            }
        }
    }

    /// Understand a reply that is held whole: a number, a lease, the map.
    fn whole(&mut self, which: u32, handle: Handle) -> Result<(), Malformed> {
        let Some(call) = self.calls.get_mut(handle) else {
            return Ok(());
        };
        let Some(incoming) = self.peers[which as usize].incoming()? else {
            return Ok(());
        };
        let payload = incoming.bytes;
        match (call.status, call.job) {
            (Status::Retry, _) => call.delay = reply::retry(payload)?.0,
            (Status::Ok, Job::Lease) => {
                let lease = reply::lease(payload)?;
                if lease.id == 0 {
                    return Err(Malformed);
                }
                self.lessee.gave(lease, call.since);
            }
            (Status::Ok, Job::Map) => {
                // Servers may change their places with it.
                let message = reply::message(payload)?;
                let len = message.len();
                self.told
                    .get_mut(..len)
                    .ok_or(Malformed)?
                    .copy_from_slice(message);
                let told = core::mem::take(&mut self.told);
                let result = self.remap(&told[..len]);
                self.told = told;
                result?;
            }
            (Status::Ok, _) if call.step.changes() => call.next_hash = reply::number(payload)?,
            _ => {}
        }
        Ok(())
    }

    /// Go on with a call whose reply has come in full.
    fn answered(&mut self, handle: Handle, client: &mut dyn Client) {
        let Some(call) = self.calls.get_mut(handle) else {
            return;
        };
        call.peer = None;
        if call.step == Step::Bundle {
            return self.bundle_answered(handle, client);
        }
        match call.status {
            Status::Retry => {
                let delay = (u64::from(call.delay) * 1000).min(DELAY_MAX);
                call.not_before = self.now.after(delay);
                call.since = self.now;
                let _ = self.ready.push(handle.to_bits());
                return;
            }
            Status::UnknownTablet if !call.job.is_own() => {
                call.wrong_map = self.tablets.told();
                self.map_wanted |= !self.mapping;
                let _ = self.ready.push(handle.to_bits());
                return;
            }
            Status::ExpiredLease => {
                self.lessee.expired();
                // Sent once, it was refused and nothing more: a new lease, a new number.
                if call.sendings == 1 {
                    self.lessee.ended(call.rpc);
                    call.go(call.step);
                    let _ = self.ready.push(handle.to_bits());
                    return;
                }
                return self.end(handle, Err(Failure::Unknown), client);
            }
            Status::StaleRpc => return self.end(handle, Err(Failure::Unknown), client),
            Status::Other(code) if !self.complained && !call.job.is_own() => {
                self.complained = true;
                crate::log::error!("ramcloud: a master answers with status {}", code);
            }
            _ => {}
        }
        if call.job.is_own() {
            return self.end(handle, Ok(Done::Done), client);
        }
        self.pace = PACE.0;
        self.lessee.ended(call.rpc);
        let pad: &mut [u8] = match call.pad {
            Some(pad) => &mut self.pads[usize::from(pad)],
            None => &mut [],
        };
        match call.answered(call.next_hash, pad, client) {
            Next::Step(step) => {
                call.go(step);
                let _ = self.ready.push(handle.to_bits());
            }
            Next::End(result) => self.end(handle, result, client),
        }
    }

    /// End a call.
    fn end(&mut self, handle: Handle, result: Result<Done, Failure>, client: &mut dyn Client) {
        let Some(call) = self.calls.remove(handle) else {
            return;
        };
        self.lessee.ended(call.rpc);
        if let Some(pad) = call.pad {
            let _ = self.free_pads.push(pad);
        }
        match call.job {
            Job::Lease => {
                self.leasing = false;
                self.lease_at = self.now.after(PACE.1);
            }
            Job::Map => self.mapping = false,
            Job::Report { .. } | Job::Bundle { .. } => {}
            _ => client.done(call.token, result),
        }
    }
}

/// Give the bytes of a request, and of the value behind it.
fn parts<'a>(
    call: &'a Call,
    pads: &'a [[u8; SIZE_MAX]],
    bundles: &'a [Bundle],
) -> (&'a [u8], &'a [u8]) {
    let value = match call.pad {
        Some(pad) => &pads[usize::from(pad)][..call.value_len()],
        None => &[],
    };
    (frame(call, bundles), value)
}

/// Give the bytes of a request.
fn frame<'a>(call: &'a Call, bundles: &'a [Bundle]) -> &'a [u8] {
    match call.job {
        Job::Bundle { place } => bundles[usize::from(place)].frame(),
        _ => call.frame(),
    }
}

impl<T: Transport<Address = SocketAddr>> Objects for Ramcloud<T> {
    fn submit(&mut self, token: Token, op: &Op<'_>, client: &mut dyn Client) -> Result<(), Busy> {
        let Some(call) = Call::new(token, op) else {
            // What is answered is on the masters and their backups already; and they do not say how full they are.
            let done = match op {
                Op::Usage => Done::Usage {
                    total: 1 << 40,
                    free: 1 << 40,
                },
                _ => Done::Done,
            };
            client.done(token, Ok(done));
            return Ok(());
        };
        let bundles = (BUNDLES - self.free_bundles.len()) as u32;
        if self.calls.len() - bundles + OWN >= self.calls.capacity() {
            return Err(Busy);
        }
        self.enter(call)
    }

    fn poll(&mut self, now: Instant, client: &mut dyn Client) -> bool {
        self.now = now;
        self.ask_own();
        self.dispatch();
        let mut any = false;
        for which in 0..PEERS {
            any |= self.serve(which, client);
        }
        any |= self.give_up(client);
        if any && !self.ready.is_empty() {
            self.dispatch();
            for which in 0..PEERS {
                if !self.peers[which as usize].queue.is_empty() && self.send(which).is_err() {
                    // Seen again when it is received from.
                    self.peers[which as usize].looked = Instant(0);
                }
            }
        }
        any
    }

    fn wait_fds(&self, add: &mut dyn FnMut(i32)) {
        add(self.transport.bell());
    }

    fn arm(&mut self) -> bool {
        let unsent = |peer: &Peer<T::Wire>| peer.line.is_up() && !peer.queue.is_empty();
        !self.peers.iter().any(unsent)
    }

    fn deadline(&self) -> Option<Instant> {
        let mut next = self.lessee.renewal().max(self.lease_at);
        if self.leasing {
            next = self.now.after(SILENCE);
        }
        if self.map_wanted {
            next = next.min(self.map_at);
        }
        for peer in &self.peers {
            if peer.owed > 0 {
                next = next.min(peer.since.after(SILENCE));
            }
            if !peer.is_idle()
                && let Some(at) = peer.line.deadline(self.now)
            {
                next = next.min(at);
            }
        }
        for (_, call) in self.calls.iter().filter(|(_, call)| !call.job.is_own()) {
            next = next.min(call.since.after(self.settings.timeout));
            if call.peer.is_none() {
                let soon = self.now.after(PACE.0);
                next = next.min(call.not_before.max(soon));
            }
        }
        Some(next)
    }

    fn size_max(&self) -> u64 {
        SIZE_MAX as u64
    }
}
