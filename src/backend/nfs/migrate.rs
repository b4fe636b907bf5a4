//! A file system that moves to another server while it is in use (RFC 8881, section 11.11).
//!
//! ```text
//!  MOVED, LEASE_MOVED ──> root: GETATTR(fs_locations), GETATTR ──here──> EREMOTE: something else moved
//!                             │ MOVED
//!                   every core leaves the server, and one of them looks:
//!      ┌──> the next place: EXCHANGE_ID ──> CREATE_SESSION ──> PUTROOTFH, LOOKUP..., GETFH ──MOVED──> where is it from there?
//!      └──── not reached, or refused ──────────┴───────────────────┘ the same handle as here
//!                      RECLAIM_COMPLETE ──> opens and locks made anew ──> content written again ──> up
//! ```
//!
//! What moves is the file system of the export that is mounted, and with it all that its client holds: the client as a
//! whole is pointed at the other server. Meanwhile requests wait, as they do for a server that is away; `soft` ends that.
//! The places are those that the server tells and that referrals may be followed to, in their order, then the server that
//! told them, in a circle until one has the file system. When all that were told are reached and refuse, what the last said
//! is the answer, and for 2 s it is not tried again. At most [`HOPS`] servers send from one to the next.
//!
//! Handles stay what they are: names of files are not kept here, so what has other handles there is not followed to
//! (`ESTALE`), and that shows in the root's. A server says by the absence of `FH4_VOL_MIGRATION` that its handles outlive a
//! move; servers that share disks, or of which one takes over for the other, are like that. State is not reclaimed but made
//! anew, since the other server does not know of it: opens by handle, after which a file whose number is another one is
//! lost (`ESTALE`); locks as new ones, so that one which somebody else took meanwhile is lost (`EIO`). What was not durable
//! is written again, whatever the verifiers say.
//!
//! Not followed, and `EREMOTE`: a file system below that of the export, and one behind a referral, which are met anew by
//! their names. The other server is to speak the minor version of the first. The old one is not told that we left.

use core::net::SocketAddr;

use crate::fuse::NodeId;
use crate::mem::Handle as TaskId;
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::nfs4::{AttrRequest, Compound, Results, SequenceResult, Status, op};

use super::answer::{Trouble, ok, putfh, with_attributes};
use super::instance::Nfs;
use super::link::State;
use super::op::{Op, Place as At, With};
use super::path::Path;
use super::recovery::{Mounted, Next, Phase};
use super::referral::{HOPS, down};
use super::volume::{NfsVolume, Standing};
use super::whereabouts::Place;

/// First and longest wait between two places, in nanoseconds.
const PAUSE: (u64, u64) = (10_000_000, 2_000_000_000);

/// Hold what a core does about a file system that moves.
#[derive(Default)]
pub struct Search {
    /// Departures that this core went along with.
    departures: u32,
    /// When it heard of one that it has not gone along with, since calls are still under way.
    heard: Option<Instant>,
    /// This is the core that looks.
    looks: bool,
    /// Something is said to have moved: the server is to be asked about the root.
    suspects: bool,
    /// The server says that something did of which we hold state.
    flagged: bool,
    /// It is being asked; when it was last.
    asks: bool,
    asked: Option<Instant>,
    /// Servers that sent on to the next.
    hops: u8,
    /// Wait before the next place.
    pause: u64,
    /// How we stood with the server that was left, in case that it is gone back to.
    left: Option<Standing>,
    /// Locks are not reclaimed after a restart, since their file system is said to have moved.
    unclaimed: bool,
    /// Where the path is at the present place: behind so many of its names the file system is on another server.
    further: Option<u8>,
}

impl Standing {
    /// Begin with a server that knows nothing of us: what we have is to be made anew there.
    fn begin_elsewhere(&mut self) {
        self.forgotten();
        self.complete = false;
        (self.rewrite, self.anew) = (true, true);
    }
}

/// Ask of something where its file system is, and whether it is not here.
fn whither_call(call: Compound<'_>) -> Compound<'_> {
    call.getattr(&AttrRequest::LOCATIONS)
        .getattr(&AttrRequest::STAT)
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

/// Read PUTROOTFH and so many LOOKUPs; gives how many were done when something behind the root is elsewhere.
fn went_down(results: &mut Results<'_>, names: usize) -> Result<Option<usize>, Trouble> {
    ok(results.step(op::PUTROOTFH))?;
    for passed in 0..names {
        match ok(results.step(op::LOOKUP)) {
            Err(Trouble::Status(Status::ERR_MOVED)) if passed > 0 => return Ok(Some(passed)),
            other => other?,
        }
    }
    Ok(None)
}

impl Nfs {
    /// Tell whether the file system of the export is followed when it moves.
    pub(super) fn may_move(&self) -> bool {
        self.volume.settings.tag == 0 && !self.border.volumes.is_empty()
    }

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

    /// Note that the server speaks of a move.
    pub(super) fn note_move(&mut self, flags: u32) {
        self.search.flagged |= flags & SequenceResult::LEASE_MOVED != 0;
    }

    /// Tell whether a task waits when the server says that its file system moved.
    pub(super) fn outlives_move(&self, op: &Op) -> bool {
        let ends = match op {
            Op::Walk { .. } | Op::Whither(_) | Op::Renew | Op::Probe(_) | Op::Close => true,
            Op::Locate { walked, .. } => *walked > 0,
            _ => false,
        };
        self.may_move() && !ends
    }

    /// The server says of something known that its file system moved: the task waits until that is looked into.
    pub(super) fn stray(&mut self, handle: TaskId) {
        let args = self.args[handle.index as usize];
        let Some(task) = self.tasks.get_mut(handle) else {
            return;
        };
        if let Op::Locate { reply, .. } = &mut task.op
            && let Some(reply) = reply.take()
        {
            // The directory itself moved, not what the name stands for.
            task.op = Op::Lookup(reply);
            let built = self.build(handle, With::Nothing, 0, |call| {
                let call = call.sequence(false).putfh(&args.handles[0]);
                with_attributes(call.lookup(args.name(0)))
            });
            if !built {
                return;
            }
        }
        if let Some(errno) = self.volume.whereabouts.lost(self.now) {
            return self.strand(handle, errno);
        }
        if let Some(task) = self.tasks.get_mut(handle) {
            task.strays = true;
        }
        self.search.suspects = true;
        self.delay(handle);
    }

    /// A task cannot follow its file system.
    fn strand(&mut self, handle: TaskId, errno: Errno) {
        self.commit_failed(handle, errno);
        self.refused(handle, errno);
    }

    /// The file system is not followed: whoever waits for that hears why.
    fn judge(&mut self, errno: Errno) {
        if core::mem::take(&mut self.search.unclaimed) {
            self.volume.lose_unclaimed();
        }
        loop {
            let mut tasks = self.tasks.iter_mut();
            let strays = tasks.find(|(_, task)| task.strays);
            let Some((handle, task)) = strays else { return };
            task.strays = false;
            if let At::Delayed(_) = task.place {
                task.place = At::Ready;
                self.delayed -= 1;
            }
            drop(tasks);
            self.strand(handle, errno);
        }
    }

    /// Whoever waited for that is sent again.
    fn unstray(&mut self) {
        for (handle, task) in self.tasks.iter_mut() {
            if core::mem::take(&mut task.strays)
                && let At::Delayed(_) = task.place
            {
                (task.place, task.tries) = (At::Ready, 0);
                self.delayed -= 1;
                let _ = self.ready.push(handle);
            }
        }
    }

    /// Ask the server about the root, when something is said to have moved. For the flag of a lease alone at most once in a
    /// third of that.
    pub(super) fn ask_whither(&mut self) {
        let pause = self.volume.known.lease() / 3;
        let recent = self
            .search
            .asked
            .is_some_and(|at| self.now.since(at) < pause);
        let wanted = self.search.suspects || (self.search.flagged && !recent);
        // One of our own that does not find room is tried again.
        let full = self.tasks.len() == self.tasks.capacity();
        if !wanted || !self.may_move() || self.search.asks || full || self.is_departing() {
            return;
        }
        let Ok(root) = self.volume.handle(NodeId(self.volume.nodes.root())) else {
            return;
        };
        (self.search.suspects, self.search.flagged) = (false, false);
        (self.search.asks, self.search.asked) = (true, Some(self.now));
        let user = self.machine();
        self.start_own(Op::Whither(None), user, None, With::Nothing, |call| {
            whither_call(call.sequence(false).putfh(&root))
        });
    }

    /// Ask the same by the path of the export, as far as so many names.
    fn ask_by_path(&mut self, handle: TaskId, path: &Path, names: usize) {
        if let Some(task) = self.tasks.get_mut(handle) {
            task.op = Op::Whither(Some(names as u8));
        }
        self.build_again(handle, With::Nothing, |call| {
            whither_call(down(call, path.names().take(names)))
        });
    }

    /// Read what the server says of the root.
    pub(super) fn whither(
        &mut self,
        handle: TaskId,
        mut results: Results<'_>,
    ) -> Result<(), Trouble> {
        let Some(&Op::Whither(by)) = self.tasks.get(handle).map(|task| &task.op) else {
            return Ok(());
        };
        let moved = Trouble::Status(Status::ERR_MOVED);
        let whereabouts = &self.volume.whereabouts;
        if whereabouts.departures() != self.search.departures {
            // Another core has found out, and may have the file system by now.
            self.finish(handle);
            return Ok(());
        }
        let path = whereabouts.path().ok_or(moved)?;
        let all = path.names().count();
        let names = match by {
            None => match putfh(&mut results) {
                // It does not even take the handle.
                Err(Trouble::Status(Status::ERR_MOVED)) => {
                    self.ask_by_path(handle, &path, all);
                    return Ok(());
                }
                other => other.map(|()| all)?,
            },
            Some(names) => {
                let names = usize::from(names);
                if let Some(passed) = went_down(&mut results, names)? {
                    self.ask_by_path(handle, &path, passed);
                    return Ok(());
                }
                names
            }
        };
        let locations = ok(results.locations())?;
        match ok(results.getattr()) {
            Err(Trouble::Status(Status::ERR_MOVED)) => {}
            Err(trouble) => return Err(trouble),
            Ok(_) => {
                self.fail(handle, Errno::EREMOTE);
                return Ok(());
            }
        }
        let places = locations.map_or(Err(Errno::EREMOTE), |locations| {
            self.volume.gather(locations, &path, names)
        });
        let mut places = match places {
            Ok(places) => places,
            Err(errno) => {
                self.fail(handle, errno);
                return Ok(());
            }
        };
        self.finish(handle);
        places.told_by(Place::new(whereabouts.home(), path));
        if whereabouts.depart(places) {
            crate::log::warn!("nfs: the file system moved; looking for it");
            self.search.looks = true;
            (self.search.hops, self.search.pause, self.search.further) = (1, PAUSE.0, None);
        }
        Ok(())
    }

    /// The question about the root is answered, or will not be.
    pub(super) fn whither_ended(&mut self) {
        self.search.asks = false;
    }

    /// The question about the root failed, or the file system is here.
    pub(super) fn whither_failed(&mut self, errno: Errno) {
        self.judge(errno);
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

    /// Content cannot be written again, since the file system is said to have moved: ask about that first.
    pub(super) fn suspect_move(&mut self) {
        self.search.suspects = true;
    }

    /// The same for locks.
    pub(super) fn leave_unclaimed(&mut self) {
        (self.search.suspects, self.search.unclaimed) = (true, true);
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
        if known != Ok(root) {
            crate::log::warn!("nfs: files have other handles there; it is not followed to");
            return Err(Trouble::Status(Status::ERR_FHEXPIRED));
        }
        self.volume.known.learn(&Mounted {
            root,
            fsid: attr.fsid,
            fileid: attr.fileid,
            sizes: (server.max_read, server.max_write),
            lease: server.lease,
            xattr: server.xattr,
            server: self.server,
        });
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
