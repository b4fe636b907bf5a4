//! The engine of one core: calls, the servers that they go to, the lease and the map.

mod incoming;
mod recovery;
mod replies;
mod sending;
mod together;

use core::net::SocketAddr;

use super::super::engine::{Busy, Token};
use super::super::line::{Broken, Tcp, Transport};
use super::super::objects::{Client, Done, Objects, Op};
use super::bundle::{BUNDLES, Bundle};
use super::call::{Call, SIZE_MAX};
use super::job::{Job, Step};
use super::lease::Lessee;
use super::peer::{BUFFER, Peer};
use super::tablets::Tablets;
use crate::mem::{Arena, RingBuffer, SlotMap};
use crate::sys;
use crate::sys::fd::Fd;
use crate::sys::time::Instant;
use crate::wire::errno::Errno;

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
