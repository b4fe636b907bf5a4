//! The engine of one core: a connection for everything, and one for what has to wait until it is durable.

use super::super::engine::{Busy, Client, Done, Engine, List, Op, Token};
use super::connection::{Aim, Connection, Settings};
use super::pipeline::FULL;
use super::reply::Ask;
use super::spread::Spread;
use super::sync::Syncer;
use crate::mem::Arena;
use crate::sys;
use crate::sys::time::Instant;

/// Serve one core from a volume on a server.
pub struct Valkey {
    settings: &'static Settings,
    main: Connection,
    sync: Option<Syncer>,
    spread: Option<Spread>,
}

impl Valkey {
    /// Make one for so many calls under way. `clients` are random numbers that nobody else has.
    ///
    /// # Errors
    /// `ENOMEM` when the arena has less than [`Self::footprint`]; as epoll_create1(2).
    pub fn new(
        arena: &Arena,
        settings: &'static Settings,
        aim: Aim,
        calls: u32,
        clients: [u64; 3],
    ) -> sys::Result<Self> {
        let main = Connection::new(arena, settings, aim, (calls, FULL), clients[0])?;
        let sync = match (settings.durability, aim) {
            (Some(durability), Aim::Serve) => {
                Some(Syncer::new(arena, settings, durability, calls, clients[1])?)
            }
            _ => None,
        };
        let spread = match (settings.spread, aim) {
            (true, Aim::Serve) => Some(Spread::new(arena, settings, calls, clients[2])?),
            _ => None,
        };
        Ok(Self {
            settings,
            main,
            sync,
            spread,
        })
    }

    /// Give the bytes of arena that one needs.
    pub const fn footprint(calls: u32) -> usize {
        Connection::footprint(calls, FULL) + Syncer::footprint(calls) + Spread::footprint(calls)
    }

    /// Give the connection.
    pub const fn connection(&self) -> &Connection {
        &self.main
    }
}

impl Engine for Valkey {
    fn submit(&mut self, token: Token, op: &Op<'_>, client: &mut dyn Client) -> Result<(), Busy> {
        if let Some(spread) = &mut self.spread
            && let Some(taken) = spread.submit(token, op, &mut self.main, client)
        {
            return taken;
        }
        match (op, &mut self.sync) {
            (Op::Sync, None) | (Op::Discard { .. }, _) => client.done(token, Ok(Done::Done)),
            (
                Op::Scan {
                    list: List::Groups, ..
                },
                _,
            ) => client.done(token, Ok(Done::Listed { more: false })),
            (Op::Sync, Some(sync)) => return sync.submit(token),
            _ => return self.main.submit(token, &Ask::Op(op)),
        }
        Ok(())
    }

    fn poll(&mut self, now: Instant, client: &mut dyn Client) -> bool {
        let mut any = match &mut self.spread {
            Some(spread) => spread.poll(now, &mut self.main, client),
            None => self.main.poll(now, client),
        };
        if let (Some(spread), Some(sync)) = (&mut self.spread, &mut self.sync) {
            while let Some(token) = spread.settled() {
                // Fewer wait than there are calls.
                let _ = sync.submit(token);
                any = true;
            }
        }
        if let Some(sync) = &mut self.sync {
            any |= sync.poll(now, &mut self.main, client);
        }
        any
    }

    fn wait_fds(&self, add: &mut dyn FnMut(i32)) {
        add(self.main.bell());
        if let Some(sync) = &self.sync {
            add(sync.connection().bell());
        }
        if let Some(spread) = &self.spread {
            spread.wait_fds(add);
        }
    }

    fn arm(&mut self) -> bool {
        if let Some(spread) = &mut self.spread
            && !spread.may_sleep()
        {
            return false;
        }
        let sync = self.sync.as_ref();
        self.main.may_sleep() && sync.is_none_or(|sync| sync.connection().may_sleep())
    }

    fn deadline(&self) -> Option<Instant> {
        let sync = self.sync.as_ref();
        let sync = sync.and_then(|sync| sync.connection().deadline());
        let spread = self.spread.as_ref().and_then(Spread::deadline);
        let all = [self.main.deadline(), sync, spread];
        all.into_iter().flatten().min()
    }

    fn chunk_size(&self) -> u32 {
        self.settings.chunk
    }

    fn copies(&self) -> bool {
        true
    }
}
