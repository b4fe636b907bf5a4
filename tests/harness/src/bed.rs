//! One core of one device, driven by hand.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use dpfs::fuse::{FileSystem, Limits, Session, Volume};
use dpfs::mem::Token;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::{
    InHeader, InitFlags, InitIn, InitOut, KERNEL_MINOR_VERSION, KERNEL_VERSION, OUT_HEADER_LEN,
    Opcode, OutHeader,
};
use dpfs::wire::open_flags::ClientArch;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::memory::{Exchange, Layout};
use crate::message::Message;
use crate::serve::Parts;

/// How long [`Bed::wait`] is patient.
const PATIENCE: Duration = Duration::from_secs(20);

/// Count the resets of a device; it has nothing else to drop.
#[derive(Debug, Default)]
pub struct CountingVolume {
    resets: AtomicU32,
}

impl CountingVolume {
    /// Give the number of resets so far.
    pub fn resets(&self) -> u32 {
        self.resets.load(Ordering::Relaxed)
    }
}

impl Volume for CountingVolume {
    fn reset(&self, _epoch: u32) {
        self.resets.fetch_add(1, Ordering::Relaxed);
    }
}

/// Say how a bed is made.
pub struct Setup {
    /// Requests in flight.
    pub depth: u16,
    /// Bounds of the session.
    pub limits: Limits,
    /// The host's architecture.
    pub arch: ClientArch,
    /// What the backend's cores share; a [`CountingVolume`] for one that shares nothing.
    pub volume: &'static dyn Volume,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            depth: 64,
            limits: Limits::default(),
            arch: ClientArch::default(),
            volume: Box::leak(Box::<CountingVolume>::default()),
        }
    }
}

/// Name a request that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket(u64);

/// Hold what a request ended with.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Error number that the table recorded, zero for success.
    pub recorded: u16,
    /// Reply as written, header included; empty when the request has none.
    pub bytes: Vec<u8>,
}

impl Answer {
    /// Give the reply's error.
    ///
    /// # Panics
    /// When there is no reply.
    pub fn error(&self) -> Option<Errno> {
        let (header, _) = OutHeader::read_from_prefix(&self.bytes).expect("a reply");
        (header.error != 0).then(|| Errno::from_os(-header.error))
    }

    /// Give the bytes behind the header.
    ///
    /// # Panics
    /// When the reply is an error, or there is none.
    pub fn body(&self) -> &[u8] {
        assert_eq!(self.error(), None);
        &self.bytes[OUT_HEADER_LEN..]
    }

    /// Give the structure behind the header; bytes behind it are left.
    ///
    /// # Panics
    /// When the reply is an error, or too short, or there is none.
    pub fn value<T: FromBytes + Immutable + KnownLayout>(&self) -> T {
        T::read_from_prefix(self.body())
            .expect("a reply long enough")
            .0
    }
}

/// Drive one core of one device.
pub struct Bed<F> {
    /// The backend.
    pub fs: F,
    parts: Parts,
    flying: HashMap<u64, Exchange>,
    landed: HashMap<u64, Answer>,
    next_token: u64,
    next_unique: u64,
}

impl<F: FileSystem> Bed<F> {
    /// Make a core of a new device that no host has mounted.
    pub fn new(fs: F) -> Self {
        Self::with(fs, Setup::default())
    }

    /// Make a core of a new device, as the setup says.
    pub fn with(fs: F, setup: Setup) -> Self {
        let session = Session::new(setup.volume, setup.limits, setup.arch);
        Self::core(fs, Box::leak(Box::new(session)), setup.depth)
    }

    /// Make a core of a new device and mount it with [`Self::init`].
    pub fn mounted(fs: F) -> Self {
        let mut bed = Self::new(fs);
        bed.init();
        bed
    }

    /// Make another core of the same device.
    pub fn sibling<G: FileSystem>(&self, fs: G, depth: u16) -> Bed<G> {
        Bed::core(fs, self.parts.session, depth)
    }

    fn core(fs: F, session: &'static Session, depth: u16) -> Self {
        Self {
            fs,
            parts: Parts::new(session, depth),
            flying: HashMap::new(),
            landed: HashMap::new(),
            next_token: 0,
            next_unique: 2,
        }
    }

    /// Give the device's session.
    pub fn session(&self) -> &'static Session {
        self.parts.session
    }

    /// Give the number of replies that the backend dropped unanswered.
    pub fn unanswered(&self) -> u64 {
        self.parts.tables[0].unanswered()
    }

    /// Give the number of requests that are not yet answered.
    pub fn pending(&self) -> usize {
        self.flying.len()
    }

    /// Mount as a host of the newest version that offers everything.
    ///
    /// # Panics
    /// When INIT fails.
    pub fn init(&mut self) -> InitOut {
        self.init_as(KERNEL_MINOR_VERSION, InitFlags::all())
    }

    /// Mount as a host of version 7.`minor` that offers `flags`.
    ///
    /// # Panics
    /// When INIT fails.
    pub fn init_as(&mut self, minor: u32, flags: InitFlags) -> InitOut {
        let init = InitIn {
            major: KERNEL_VERSION,
            minor,
            max_readahead: 128 << 10,
            flags: flags.bits() as u32,
            flags2: (flags.bits() >> 32) as u32,
            ..InitIn::default()
        };
        self.call(&Message::new(Opcode::INIT).arg(&init).room(64))
            .value()
    }

    /// Send a request; a `unique` of zero is replaced by the next even number, as a kernel counts.
    ///
    /// # Panics
    /// When the request table is full.
    pub fn send(&mut self, message: &Message) -> Ticket {
        let mut message = message.clone();
        if message.header.unique == 0 {
            message.header.unique = self.next_unique;
            self.next_unique += 2;
        }
        self.send_layout(&message.layout())
    }

    /// Send any bytes in any segments.
    ///
    /// # Panics
    /// When the request table is full.
    pub fn send_layout(&mut self, layout: &Layout) -> Ticket {
        self.try_send(layout)
            .expect("a free entry in the request table")
    }

    /// Send any bytes in any segments to a backend that answers at once, and give the answer.
    ///
    /// # Panics
    /// When the request has not ended.
    pub fn run(&mut self, layout: &Layout) -> Answer {
        let ticket = self.send_layout(layout);
        self.answer(ticket).expect("a request that ended at once")
    }

    /// Send any bytes in any segments; `None` when the request table is full.
    pub fn try_send(&mut self, layout: &Layout) -> Option<Ticket> {
        let mut slot = self.parts.tables[0].take()?;
        let token = self.next_token;
        self.next_token += 1;
        let exchange = Exchange::new(layout);
        exchange.lend(slot.segments_mut());
        self.flying.insert(token, exchange);
        self.parts.dispatch(&mut self.fs, slot, Token(token), token);
        self.collect();
        Some(Ticket(token))
    }

    /// Run one round of the core: interrupts of other cores, then the backend.
    pub fn round(&mut self) -> bool {
        let progress = self.parts.poll(&mut self.fs);
        self.collect();
        progress
    }

    /// Give the answer to a request if it has ended; only once.
    pub fn answer(&mut self, ticket: Ticket) -> Option<Answer> {
        self.landed.remove(&ticket.0)
    }

    /// Forget the answers that nobody asked for.
    pub fn forget_answers(&mut self) {
        self.landed.clear();
    }

    /// Run rounds until the request has ended.
    ///
    /// # Panics
    /// When that takes more than 20 seconds.
    pub fn wait(&mut self, ticket: Ticket) -> Answer {
        let start = std::time::Instant::now();
        loop {
            if let Some(answer) = self.answer(ticket) {
                return answer;
            }
            assert!(start.elapsed() < PATIENCE, "no answer to {ticket:?}");
            if !self.round() {
                thread::sleep(Duration::from_micros(50));
            }
        }
    }

    /// Send a request and wait for its end.
    ///
    /// # Panics
    /// When that takes more than 20 seconds.
    pub fn call(&mut self, message: &Message) -> Answer {
        let ticket = self.send(message);
        self.wait(ticket)
    }

    /// Take what ended out of the table and hold it against the protocol.
    fn collect(&mut self) {
        while let Some(finished) = self.parts.tables[0].hand_back(|ended| *ended) {
            let exchange = self.flying.remove(&finished.token.0);
            let exchange = exchange.expect("a request that ended once");
            let (request, bytes) = exchange.take_back(finished.written as usize);
            check(&request, &bytes, finished.error);
            let answer = Answer {
                recorded: finished.error,
                bytes,
            };
            self.landed.insert(finished.token.0, answer);
        }
        assert_eq!(
            self.parts.tables[0].in_use() as usize,
            self.flying.len(),
            "a request was lost"
        );
    }
}

impl<F> Drop for Bed<F> {
    /// Leave the memory of requests in flight: replies that were moved out of the backend still lend it.
    fn drop(&mut self) {
        std::mem::forget(std::mem::take(&mut self.flying));
    }
}

/// Hold a reply against its request.
fn check(request: &[u8], reply: &[u8], recorded: u16) {
    if reply.is_empty() {
        return;
    }
    let (out, body) = OutHeader::read_from_prefix(reply).expect("a whole header");
    let sent = InHeader::read_from_prefix(request);
    let (sent, _) = sent.unwrap_or_else(|_| panic!("a reply to {} bytes", request.len()));
    assert_eq!(out.len as usize, reply.len(), "the reply's length");
    assert_eq!(out.unique, sent.unique, "the reply's number");
    assert!((-4095..=0).contains(&out.error), "error {}", out.error);
    assert_eq!(i32::from(recorded), -out.error, "the recorded error");
    assert!(out.error == 0 || body.is_empty(), "an error with a body");
}
