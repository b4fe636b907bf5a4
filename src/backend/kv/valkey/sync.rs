//! What was answered is made durable: one round for all that wait.
//!
//! A server that waits for its disk or its replicas answers nothing else by the same connection, so this has one of its
//! own. A round first asks whether everything that was answered is still there: a server that was behind when it came
//! back, or a replica that took its place, would confirm what is left.
//!
//! In a cluster it may be with another node than the one that answered, while that is a primary no more and does not know
//! it yet. Then what that one answered is not found here, and here is where it counts; or here is there, and no replica
//! confirms.

use super::super::engine::{Busy, Client, Done, Failure, Record, Token};
use super::connection::{Aim, Connection, Settings};
use super::pipeline::SMALL;
use super::reply::Ask;
use super::request::Durability;
use crate::mem::{Arena, OutOfMemory, RingBuffer, Segment};
use crate::sys;
use crate::sys::time::Instant;
use crate::wire::errno::Errno;

/// Calls of a round: whether everything is there, and to wait.
const CALLS: u32 = 2;
const KEPT: Token = Token(0);
const WAITED: Token = Token(1);

/// Take the answers of a round.
#[derive(Default)]
struct Round {
    kept: Option<Result<Done, Failure>>,
    waited: Option<Result<Done, Failure>>,
}

impl Client for Round {
    fn record(&mut self, _: Token, _: Record<'_>) {}

    fn buffers(&self, _: Token) -> &[Segment] {
        &[]
    }

    fn payload(&self, _: Token) -> &[Segment] {
        &[]
    }

    fn done(&mut self, token: Token, result: Result<Done, Failure>) {
        match token {
            KEPT => self.kept = Some(result),
            _ => self.waited = Some(result),
        }
    }
}

/// Hold who waits, and the round under way.
pub struct Syncer {
    settings: &'static Settings,
    durability: Durability,
    connection: Connection,
    waiting: RingBuffer<'static, u64>,
    /// Those at the front whose round is under way, and since when.
    covered: usize,
    since: Instant,
    round: Round,
    /// The highest number of a change when it was told that some are lost.
    told: u64,
}

impl Syncer {
    pub fn new(
        arena: &Arena,
        settings: &'static Settings,
        durability: Durability,
        calls: u32,
        client: u64,
    ) -> sys::Result<Self> {
        let waiting = arena.zeroed(calls as usize);
        Ok(Self {
            settings,
            durability,
            connection: Connection::new(arena, settings, Aim::Serve, (CALLS, SMALL), client)?,
            waiting: RingBuffer::new(waiting.map_err(|OutOfMemory { .. }| Errno::ENOMEM)?),
            covered: 0,
            since: Instant(0),
            round: Round::default(),
            told: 0,
        })
    }

    pub const fn footprint(calls: u32) -> usize {
        Connection::footprint(CALLS, SMALL) + (calls as usize + 1) * size_of::<u64>()
    }

    pub const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Let an operation wait for the next round.
    pub fn submit(&mut self, token: Token) -> Result<(), Busy> {
        self.waiting.push(token.0).map_err(|_| Busy)
    }

    /// Go on; `main` is where the changes went. True when something happened.
    pub fn poll(&mut self, now: Instant, main: &mut Connection, client: &mut dyn Client) -> bool {
        if self.covered == 0 && !self.waiting.is_empty() {
            self.covered = self.waiting.len();
            self.since = now;
            self.begin(main);
        }
        let any = self.connection.poll(now, &mut self.round);
        // The second of two that are answered in order.
        let Some(waited) = self.round.waited.take() else {
            return any;
        };
        let result = match (self.round.kept.take(), waited) {
            (Some(Err(failure)), _) => {
                if failure == Failure::Broken {
                    crate::log::error!("valkey: the server has lost changes that it had confirmed");
                    self.told = main.told_of_loss();
                }
                Err(failure)
            }
            (_, Err(Failure::Conflict)) if now.since(self.since) <= self.settings.timeout => {
                self.begin(main);
                return true;
            }
            (_, Err(Failure::Conflict)) => Err(Failure::Unreachable),
            (_, waited) => waited,
        };
        for _ in 0..core::mem::take(&mut self.covered) {
            if let Some(token) = self.waiting.pop() {
                client.done(Token(token), result);
            }
        }
        true
    }

    fn begin(&mut self, main: &Connection) {
        let (client, last) = main.pipe().done_so_far();
        let asks = [
            (KEPT, Ask::Kept(client, last, self.told)),
            (WAITED, Ask::Wait(self.durability)),
        ];
        for (token, ask) in asks {
            // There is room for a round, and the one before has ended.
            let _ = self.connection.submit(token, &ask);
        }
    }
}
