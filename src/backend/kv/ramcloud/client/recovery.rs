//! What goes on when a server or the map does not: connections that are lost, a new map, requests that took too long.

use core::net::{IpAddr, SocketAddr};

use super::super::super::line::{Broken, Transport};
use super::super::super::objects::{Client, Failure};
use super::super::bundle::BUNDLES;
use super::super::job::Job;
use super::super::peer::Peer;
use super::{COORDINATOR, LOOK, PEERS, Ramcloud};
use crate::mem::Handle;
use crate::sys::time::Instant;
use crate::wire::ramcloud::config::tablets;
use crate::wire::ramcloud::{Malformed, locator};

/// Nanoseconds between two words to the coordinator about a server that does not answer.
const REPORT: u64 = 250_000_000;

impl<T: Transport<Address = SocketAddr>> Ramcloud<T> {
    /// Take the map.
    pub(super) fn remap(&mut self, message: &[u8]) -> Result<(), Malformed> {
        if tablets(message).any(|tablet| tablet.is_err()) {
            return Err(Malformed);
        }
        self.tablets.renew();
        let table = self.settings.table;
        for tablet in tablets(message).flatten() {
            if tablet.table != table {
                continue;
            }
            let peer = match tablet.serves {
                true => address(tablet.locator)
                    .and_then(|address| self.find_peer(address, tablet.server, message)),
                false => None,
            };
            if tablet.serves && peer.is_none() {
                crate::log::error!("ramcloud: a master has no address by TCP, or is one too many");
            }
            // Without a peer it is asked for again.
            if !self.tablets.add(tablet.hashes, peer.unwrap_or(0)) {
                crate::log::error!("ramcloud: the table has too many tablets");
                break;
            }
        }
        if self.tablets.is_empty() {
            crate::log::error!("ramcloud: the table is no more");
        }
        Ok(())
    }

    /// Find the place of a server, or give it one that `message` does not name.
    fn find_peer(&mut self, address: SocketAddr, server: u64, message: &[u8]) -> Option<u32> {
        let known = |peer: &Peer<T::Wire>| peer.address == Some(address) && peer.server == server;
        let masters = 1..PEERS;
        if let Some(at) = masters.clone().find(|at| known(&self.peers[*at as usize])) {
            return Some(at);
        }
        let is_named = |peer: &Peer<T::Wire>| {
            let mut all = tablets(message).flatten();
            all.any(|tablet| tablet.serves && tablet.server == peer.server)
        };
        let free = |at: &u32| {
            let peer = &self.peers[*at as usize];
            peer.address.is_none() || (!is_named(peer) && !self.tablets.names(*at))
        };
        let at = masters.clone().find(free)?;
        // Who waits for the one that was there is sent on.
        self.lost(at, None);
        self.peers[at as usize].name(address, server);
        Some(at)
    }

    /// A connection is lost: what was under way by it is given again to whoever has it. Tell the coordinator.
    pub(super) fn lost(&mut self, which: u32, why: Option<Broken>) {
        let peer = &mut self.peers[which as usize];
        let had_work = !peer.is_idle();
        peer.reset();
        peer.line.close(self.now, 1);
        let mut bundles = heapless::Vec::<Handle, BUNDLES>::new();
        for (handle, call) in self.calls.iter_mut() {
            if call.peer == Some(which) {
                // Whatever it was that the server did not like.
                (call.peer, call.alone) = (None, true);
                let _ = match call.job {
                    // Its members go on by themselves.
                    Job::Bundle { .. } => bundles.push(handle).is_ok(),
                    _ => self.ready.push(handle.to_bits()).is_ok(),
                };
            }
        }
        for handle in bundles {
            self.end_bundle(handle);
        }
        let Some(why) = why else {
            return;
        };
        let peer = &mut self.peers[which as usize];
        let before = peer.reported;
        // The coordinator may have found it alive, and it has died since.
        if had_work && before.is_none_or(|before| self.now.since(before) > REPORT) {
            peer.reported = Some(self.now);
            let server = peer.server;
            if before.is_none() {
                crate::log::warn!("ramcloud: server {}: {}", server, crate::log::Show(&why));
            }
            if which != COORDINATOR {
                // There is room for a word about each server.
                let _ = self.enter_own(Job::Report { server });
            }
        }
        if which != COORDINATOR {
            self.map_wanted |= !self.mapping;
        }
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
                waits && call.since != Instant(0) && !call.job.is_own()
            });
            let Some((handle, call)) = late else {
                return any;
            };
            any = true;
            let failure = match call.may_have_happened() {
                true => Failure::Unknown,
                false => Failure::Unreachable,
            };
            // Half a request cannot be followed by another.
            if let Some(which) = call.peer {
                let peer = &self.peers[which as usize];
                if peer.part > 0 && peer.queue.front() == Some(handle.to_bits()) {
                    self.lost(which, Some(Broken::Silent));
                }
            }
            self.end(handle, Err(failure), client);
        }
    }
}

/// Read where a master is. Names cannot be looked up here.
fn address(text: &[u8]) -> Option<SocketAddr> {
    let (host, port) = locator::tcp(core::str::from_utf8(text).ok()?)?;
    let host: IpAddr = host.parse().ok()?;
    Some(SocketAddr::new(host, port))
}
