//! What goes on when a node or the map does not: connections that are lost, a new map, requests that took too long.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::super::super::link::Trouble;
use super::super::super::pipeline::whole;
use super::super::super::route::Target;
use super::super::ask::{Call, Job};
use super::super::slots::ranges;
use super::{LOOK, NODES, Strings};
use crate::backend::kv::objects::{Client, Failure};
use crate::sys::time::Instant;
use crate::wire::resp::{Malformed, SLOTS};

/// Most ranges of slots that a map has.
const RANGES: usize = 1024;

impl Strings {
    /// Find a node that may know the map.
    pub(super) fn anyone(&mut self) -> u32 {
        let ready = (0..NODES).find(|at| self.nodes[*at as usize].is_ready());
        ready.unwrap_or_else(|| {
            let seed = self.next_seed();
            self.find_node(seed).unwrap_or(0)
        })
    }

    /// Find the place of a node, or give it one that nobody needs: without a connection, for the node whose reply is being
    /// read has one.
    pub(super) fn find_node(&mut self, target: Target) -> Option<u32> {
        let known = |at: &u32| self.nodes[*at as usize].target == Some(target);
        if let Some(at) = (0..NODES).find(known) {
            return Some(at);
        }
        let free = |at: &u32| {
            let node = &self.nodes[*at as usize];
            let unused = node.is_idle() && !node.line.is_up() && !self.slots.names(*at);
            node.target.is_none() || unused
        };
        let at = (0..NODES).find(free)?;
        self.nodes[at as usize].name(target);
        Some(at)
    }

    /// Take the map that a node has told.
    pub(super) fn remap(&mut self, which: u32, bytes: usize) -> Result<(), Malformed> {
        let asked = self.ip_of(which);
        let node = &self.nodes[which as usize];
        let reply = node.came();
        let len = whole(reply)?.unwrap_or(0).min(bytes);
        // Nodes may change their places with it, so first it is only read.
        let mut told: heapless::Vec<(u16, u16, SocketAddr), RANGES> = heapless::Vec::new();
        ranges(&reply[..len], |range| {
            let host = core::str::from_utf8(range.host).unwrap_or("?");
            let ip = match host {
                "" => Some(asked),
                host => host.parse().ok(),
            };
            match ip {
                Some(ip) => {
                    let node = SocketAddr::new(ip, range.port);
                    let _ = told.push((range.slots.0, range.slots.1, node));
                }
                None => self.trouble = Some(Trouble::Named),
            }
        })?;
        self.slots.set(0, SLOTS - 1, None);
        for (first, last, node) in told {
            let node = self.find_node(Target::Tcp(node));
            self.slots.set(first, last, node);
            self.known = true;
        }
        if !self.known {
            self.map_wanted = true;
            self.trouble.get_or_insert(Trouble::Unserved);
        }
        Ok(())
    }

    pub(super) fn ip_of(&self, which: u32) -> IpAddr {
        match self.nodes[which as usize].target {
            Some(Target::Tcp(address)) => address.ip(),
            _ => Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// A connection is lost: what was under way by it is given again to whoever has it, or fails.
    pub(super) fn lost(&mut self, which: u32, why: Trouble, client: &mut dyn Client) {
        self.who.lost += 1;
        let node = &mut self.nodes[which as usize];
        self.doubt |= node.dirty && self.settings.durability.is_some();
        node.reset();
        node.line.close(self.now, 1);
        node.wanted = !self.known;
        if !self.cluster {
            // Another of those that are configured may serve instead.
            let next = self.next_seed();
            self.nodes[which as usize].target = Some(next);
        }
        self.map_wanted = true;
        loop {
            let unsure =
                |call: &Call| call.node == Some(which) && call.job.once() && call.sendings > 0;
            let found = self.calls.iter().find(|(_, call)| unsure(call));
            let Some(handle) = found.map(|(handle, _)| handle) else {
                break;
            };
            self.end(handle, Err(Failure::Unknown), client);
        }
        for (handle, call) in self.calls.iter_mut() {
            if call.node == Some(which) {
                (call.node, call.asking) = (None, None);
                self.doubt |= call.job.settles() && call.sent && self.settings.durability.is_some();
                let _ = self.ready.push(handle.to_bits());
            }
        }
        if self.trouble.as_ref() != Some(&why) {
            crate::log::warn!("valkey: {}", crate::log::Show(&why));
        }
        self.trouble = Some(why);
    }

    /// Fail what has waited for too long.
    pub(super) fn give_up(&mut self, client: &mut dyn Client) -> bool {
        if self.now.since(self.looked) < LOOK {
            return false;
        }
        self.looked = self.now;
        let mut any = false;
        loop {
            let late = self.calls.iter().find(|(_, call)| {
                let waits = self.now.since(call.since) > self.settings.timeout;
                waits && call.since != Instant(0) && call.job != Job::Map
            });
            let Some((handle, call)) = late else {
                return any;
            };
            any = true;
            let failure = match call.job.changes() && call.sendings > 0 {
                true => Failure::Unknown,
                false => Failure::Unreachable,
            };
            // Replies come in order, and half a request cannot be followed by another.
            if let Some(which) = call.node
                && (call.sent || self.nodes[which as usize].queue.front() == Some(handle.to_bits()))
            {
                self.lost(which, Trouble::Silent, client);
            }
            self.end(handle, Err(failure), client);
        }
    }
}
