//! The search for a file system that moved ([`migrate`](super::migrate)): one core asks the places where it may be, one
//! after another, and the others wait.

use core::net::SocketAddr;

use crate::fuse::NodeId;
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::nfs4::{AttrRequest, Compound, Results, Status};

use super::answer::{Trouble, ok};
use super::instance::Nfs;
use super::link::State;
use super::migrate::went_down;
use super::op::{Op, Place as At};
use super::path::Path;
use super::recovery::{Mounted, Next, Phase};
use super::referral::{HOPS, down};
use super::volume::{NfsVolume, Standing};
use super::whereabouts::{Place, Places};

/// First and longest wait between two places, in nanoseconds.
const PAUSE: (u64, u64) = (10_000_000, 2_000_000_000);

/// Handles may end at any time, or when their file system moves (`FH4_VOLATILE_ANY`, `FH4_VOL_MIGRATION`).
const EXPIRES: u32 = 2 | 4;

/// Hold what a core does about a file system that moves.
#[derive(Default)]
pub struct Search {
    /// Departures that this core went along with.
    pub(super) departures: u32,
    /// When it heard of one that it has not gone along with, since calls are still under way.
    pub(super) heard: Option<Instant>,
    /// This is the core that looks.
    pub(super) looks: bool,
    /// Something is said to have moved: the server is to be asked about the root.
    pub(super) suspects: bool,
    /// The server says that something did of which we hold state.
    pub(super) flagged: bool,
    /// It is being asked; when it was last.
    pub(super) asks: bool,
    pub(super) asked: Option<Instant>,
    /// Servers that sent on to the next.
    pub(super) hops: u8,
    /// Wait before the next place.
    pub(super) pause: u64,
    /// How we stood with the server that was left, in case that it is gone back to.
    pub(super) left: Option<Standing>,
    /// Locks are not reclaimed after a restart, since their file system is said to have moved.
    pub(super) unclaimed: bool,
    /// Where the path is at the present place: behind so many of its names the file system is on another server.
    pub(super) further: Option<u8>,
}

impl Standing {
    /// Begin with a server that knows nothing of us: what we have is to be made anew there.
    fn begin_elsewhere(&mut self) {
        self.forgotten();
        self.complete = false;
        (self.rewrite, self.anew) = (true, true);
    }
}

/// Ask the present place for the export, or where it is from there, as far as so many names.
pub(super) fn arrive_call<'a>(
    call: Compound<'a>,
    volume: &NfsVolume,
    further: Option<u8>,
) -> Compound<'a> {
    let places = volume.whereabouts.places.lock();
    let path = places.now().map_or(Path::ROOT, |place| place.path);
    if let Some(names) = further {
        let call = down(call, path.names().take(usize::from(names)));
        return call.getattr(&AttrRequest::LOCATIONS);
    }
    let call = down(call, path.names()).getfh();
    call.getattr(&AttrRequest::SERVER)
        .getattr(&AttrRequest::STAT)
}

impl Nfs {
    /// Tell whether this core looks for it.
    pub(super) fn looks(&self) -> bool {
        self.search.looks
    }

    /// Tell whether calls are held back, since the server is about to be left.
    pub(super) fn is_departing(&self) -> bool {
        self.search.heard.is_some()
    }

    /// Give the address for a connection, after its failures; `None` while nothing is to be connected to.
    pub(super) fn address(&self, at: usize) -> Option<SocketAddr> {
        let settings = &self.volume.settings;
        let whereabouts = &self.volume.whereabouts;
        let seeks = whereabouts.is_sought() && !self.is_departing();
        let client = match seeks {
            true if !self.search.looks || at > 0 => return None,
            true => whereabouts.places.lock().now()?.client,
            false => whereabouts.home(),
        };
        let servers = self.addresses_of(client);
        // Of a server that was not met at the start nobody knows whether its addresses lead to one.
        let turn = match settings.tag == 0 && client == 0 && !seeks {
            true => at + self.links[at].failures,
            false => self.links[0].failures,
        };
        servers.get(turn % servers.len().max(1)).copied()
    }

    fn addresses_of(&self, client: u8) -> &'static [SocketAddr] {
        let of = |volume: &NfsVolume| volume.settings.servers;
        if client == self.volume.settings.tag {
            return of(self.volume);
        }
        let there = self.border.volumes.get(usize::from(client));
        there.map_or(&[], |volume| of(volume))
    }

    /// All addresses of the present place failed: go on to the next.
    pub(super) fn look_further(&mut self) {
        if !self.search.looks || self.is_departing() {
            return;
        }
        let client = self
            .volume
            .whereabouts
            .places
            .lock()
            .now()
            .map(|at| at.client);
        let most = client.map_or(0, |client| self.addresses_of(client).len());
        if self.links[0].failures >= most {
            self.pass_over(None);
        }
    }

    /// Leave the server to look at these places, unless another core does that.
    pub(super) fn begin_search(&mut self, places: Places) {
        let whereabouts = &self.volume.whereabouts;
        if whereabouts.depart(places, self.search.departures) {
            crate::log::warn!("nfs: the file system moved; looking for it");
            self.search.looks = true;
            (self.search.hops, self.search.pause, self.search.further) = (1, PAUSE.0, None);
        }
    }

    /// Leave the server when the file system is looked for elsewhere: as soon as what is under way is answered. True when
    /// there was something to do.
    pub(super) fn heed_departure(&mut self) -> bool {
        let departures = self.volume.whereabouts.departures();
        if departures == self.search.departures {
            return false;
        }
        let heard = *self.search.heard.get_or_insert(self.now);
        let mut tasks = self.tasks.iter();
        let waits = self.phase == Phase::Up
            && self.now.since(heard) < self.patience()
            && tasks.any(|(_, task)| task.place == At::Sent);
        drop(tasks);
        if waits {
            return false;
        }
        (self.search.departures, self.search.heard) = (departures, None);
        (self.search.suspects, self.search.flagged) = (false, false);
        self.leave_server("the file system is elsewhere");
        let mut tasks = self.tasks.iter();
        let asks = tasks.find(|(_, task)| matches!(task.op, Op::Whither(_)));
        let asks = asks.map(|(handle, _)| handle);
        drop(tasks);
        if let Some(handle) = asks {
            self.finish(handle);
        }
        self.look_up_elsewhere();
        if !self.search.looks {
            // They ask again when the file system is found.
            self.unstray();
        }
        true
    }

    /// End all connections, to begin anew with another server.
    fn leave_server(&mut self, why: &str) {
        self.lose_session(why);
        for at in 0..self.links.len() {
            if self.links[at].state != State::Down {
                self.close_link(at);
            }
            self.links[at].failures = 0;
        }
    }

    /// Begin with a server at which the file system is looked for.
    pub(super) fn begin_elsewhere(&mut self, standing: &mut Standing) {
        self.search.left.get_or_insert(*standing);
        standing.begin_elsewhere();
    }

    /// Say whether the present place is asked where the file system is from there: behind how many names of the path.
    pub(super) fn further(&self) -> Option<u8> {
        self.search.further
    }

    /// Read what the present place says.
    pub(super) fn arrived(&mut self, mut results: Results<'_>) -> Result<Next, Trouble> {
        let whereabouts = &self.volume.whereabouts;
        let Some(path) = whereabouts.places.lock().now().map(|place| place.path) else {
            return Err(Trouble::Malformed);
        };
        if let Some(names) = self.search.further.take() {
            return self.sent_on(results, &path, usize::from(names));
        }
        let all = path.names().count();
        let moved = went_down(&mut results, all)?;
        let root = match (moved, ok(results.getfh())) {
            (Some(passed), _) => Err(passed),
            (None, Err(Trouble::Status(Status::ERR_MOVED))) => Err(all),
            (None, found) => Ok(found?),
        };
        let root = match root {
            Ok(root) => root,
            Err(passed) => {
                self.search.further = Some(passed as u8);
                return Ok(Next::Arrive);
            }
        };
        let server = ok(results.server_attr())?;
        let attr = ok(results.getattr())?;
        let known = self.volume.handle(NodeId(self.volume.nodes.root()));
        if known != Ok(root) || server.expires & EXPIRES != 0 {
            crate::log::warn!("nfs: files have other handles there; it is not followed to");
            return Err(Trouble::Status(Status::ERR_FHEXPIRED));
        }
        let mounted = Mounted::new(root, &attr, &server, self.server);
        self.volume.known.learn(&mounted);
        self.volume.set_root_fsid(attr.fsid);
        whereabouts.settle();
        (self.search.looks, self.search.left, self.search.unclaimed) = (false, None, false);
        self.life = {
            let mut locks = self.volume.locks.lock();
            locks.forget_states();
            locks.life()
        };
        self.unstray();
        crate::log::warn!("nfs: the file system is found");
        Ok(self.next_claim())
    }

    /// Read where the file system is from the present place.
    fn sent_on(
        &mut self,
        mut results: Results<'_>,
        path: &Path,
        names: usize,
    ) -> Result<Next, Trouble> {
        let moved = Trouble::Status(Status::ERR_MOVED);
        if went_down(&mut results, names)?.is_some() {
            return Err(moved);
        }
        let locations = ok(results.locations())?.ok_or(moved)?;
        let whereabouts = &self.volume.whereabouts;
        let (teller, client) = {
            let places = whereabouts.places.lock();
            (places.is_teller(), places.now().map(|place| place.client))
        };
        // Who is asked again, since somebody was not reached, begins a new round.
        self.search.hops = if teller { 1 } else { self.search.hops + 1 };
        if self.search.hops > HOPS {
            return Ok(Next::Nowhere(Errno::ELOOP));
        }
        let mut told = match self.volume.gather(locations, path, names) {
            Ok(told) => told,
            Err(errno) => return Ok(Next::PassOver(errno)),
        };
        told.told_by(Place::new(client.unwrap_or(0), *path));
        *whereabouts.places.lock() = told;
        Ok(Next::Elsewhere)
    }

    /// The present place is not reached, or does not have the file system: go on to the next.
    pub(super) fn pass_over(&mut self, refusal: Option<Errno>) {
        let passed = self.volume.whereabouts.places.lock().pass(refusal);
        match passed {
            Ok(()) => self.go_elsewhere(),
            Err(errno) => self.give_up_search(errno),
        }
    }

    /// Begin with the present place, after a while that grows.
    pub(super) fn go_elsewhere(&mut self) {
        self.search.further = None;
        self.leave_server("the file system is not there");
        self.links[0].ask_at = self.now.after(self.search.pause);
        self.search.pause = (self.search.pause * 2).min(PAUSE.1);
    }

    /// The file system is nowhere: go back to where it was.
    pub(super) fn give_up_search(&mut self, errno: Errno) {
        crate::log::warn!("nfs: the file system is not found: {}", errno);
        self.leave_server("the file system is not found");
        (self.search.looks, self.search.further) = (false, None);
        if let Some(left) = self.search.left.take() {
            // A server that knows us by the same number has what it had of ours.
            let mut standing = self.volume.standing.lock();
            (standing.client, standing.before) = (None, left.client.or(left.before));
            (standing.complete, standing.anew) = (left.complete, left.anew);
        }
        self.volume.whereabouts.give_up(self.now, errno);
        self.judge(errno);
    }
}
