//! Referrals: directories whose file system is on another server (RFC 8881, section 11).
//!
//! ```text
//!  here                                                          there, the client of the server that is named
//!  LOOKUP ──MOVED──> LOOKUP, GETATTR(fs_locations) ──Crossing──> PUTROOTFH, LOOKUP..., GETFH, GETATTR ──> answer
//!                        │ nobody is reached: again later            │ MOVED: where is it from there?
//! ```
//!
//! What is asked here ends with a [`Crossing`], which the [namespace](super::Namespace) carries to the other client. Of
//! the locations that a server tells, the first is taken whose server may be followed and is reached; they are connected
//! to one after another while none is. One that is reached and refuses the path is passed over while there are others: then
//! the task that asked for them stays, to be told ([`Return`]), and what the last says is the answer. A path that meets the
//! next referral goes on from there; at most [`HOPS`] times, those that were passed over among them. Of what moves while it is in use
//! (MOVED for a file that is known) only the file system of the export is followed ([`migrate`](super::migrate)); the rest is
//! `EREMOTE`, and met anew by its name. While that is at another server, nothing leads back to the one that was mounted.
//!
//! A host that looks a name up lets nobody change the directory meanwhile, so a lookup does not wait for ever for another
//! server than the directory's: within `timeo`, and 10 s at most, it is answered from [`roots`](super::roots), or with
//! `ETIMEDOUT` when nobody was led there before.

use crate::fuse::{Entry, Reply};
use crate::mem::Handle as TaskId;
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::nfs4::{AttrRequest, Compound, FsLocation, FsLocations, Results, Status, op};

use super::allowed::MAX_CLIENTS;
use super::answer::{Trouble, found, ok, putfh, with_attributes};
use super::instance::Nfs;
use super::link::State;
use super::op::{Op, Place, With};
use super::path::Path;
use super::recovery::Phase;
use super::volume::NfsVolume;

/// Most referrals one after another.
pub(super) const HOPS: u8 = 8;
/// Crossings that wait to be carried to other clients, which is done each round; more are asked for again.
const WAITING: usize = 8;
/// Most lookups that are given up before their answers came, and whose tasks still wait for these.
const GIVEN_UP: usize = 32;
/// Most tasks of a client that stay for those who were sent on to locations of theirs; others wait.
const STAYING: usize = 48;
/// Longest wait of a lookup for another server, in nanoseconds.
const PATIENCE: u64 = 10_000_000_000;

/// Say whether a server can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Site {
    /// Not yet: nobody tried.
    Asleep,
    /// Not now.
    Away,
    /// Not for so long that nobody waits for it any more.
    Silent,
    /// Yes.
    Reached,
    /// It wants nothing to do with us.
    Refused(Errno),
}

/// Hold a name that is to be looked up at another server.
pub struct Crossing {
    /// Number of the server's client.
    pub client: u8,
    /// Answer.
    pub reply: Reply<Entry>,
    /// Path there.
    pub path: Path,
    /// Referrals so far.
    pub hops: u8,
    /// Who has more locations.
    pub origin: Option<Origin>,
}

/// Name a task that has more locations: its client, the task, and the location that is being tried.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    client: u8,
    task: TaskId,
    which: u8,
}

/// Tell a task what became of a location of its.
pub struct Return {
    origin: Origin,
    /// It refuses: the name is still to be answered, so many referrals were followed, and what it says. `None`: there is
    /// an answer.
    refusal: Option<(Reply<Entry>, u8, Errno)>,
}

impl Return {
    /// Give the number of the task's client.
    pub const fn client(&self) -> u8 {
        self.origin.client
    }
}

/// Stand between a client and the others of its core.
pub struct Border {
    /// How the servers of all clients are.
    pub sites: [Site; MAX_CLIENTS],
    /// Numbers of the clients that are to connect, a bit each.
    pub wanted: u16,
    /// What is to be carried to them.
    pub leaving: heapless::Deque<Crossing, WAITING>,
    /// What is to be carried back.
    pub returning: heapless::Deque<Return, { 2 * STAYING }>,
    /// Who asked for all that the host wrote to be durable, which it is here: to be asked of the next.
    pub synced: heapless::Deque<Reply<()>, WAITING>,
    /// What they know.
    pub volumes: &'static [&'static NfsVolume],
    /// A lookup was given up, and nothing has come since.
    pub mute: bool,
}

/// No location refused yet.
const NONE: (u32, Errno) = (0, Errno::EREMOTE);

impl Border {
    /// Begin with nobody on the other side.
    pub const fn new() -> Self {
        Self {
            sites: [Site::Asleep; MAX_CLIENTS],
            wanted: 0,
            leaving: heapless::Deque::new(),
            returning: heapless::Deque::new(),
            synced: heapless::Deque::new(),
            volumes: &[],
            mute: false,
        }
    }
}

/// Say what a list of locations is good for.
enum Choice {
    /// This client, and the path there; which of the locations that is, and whether there are others.
    Go(u8, Path, u8, bool),
    /// What is known of the path at this client's server.
    Recall(u8, Path),
    /// Some server may be followed, and none is reached.
    Wait,
    /// None may be followed, or all refuse.
    Fail(Errno),
}

/// Go down from a server's root.
pub(super) fn down<'a, 'n>(
    call: Compound<'a>,
    names: impl Iterator<Item = &'n [u8]>,
) -> Compound<'a> {
    let root = call.sequence(false).putrootfh();
    names.fold(root, |call, name| call.lookup(name))
}

/// Put together where a path leads that meets a referral behind so many of its names.
pub(super) fn path_there(
    location: &FsLocation<'_>,
    (path, passed): (&Path, usize),
) -> Result<Path, Errno> {
    let mut there = Path::ROOT;
    for name in location.path {
        there.push(name)?;
    }
    for name in path.names().skip(passed) {
        there.push(name)?;
    }
    Ok(there)
}

impl Nfs {
    /// Say how the server is.
    pub(super) fn site(&self) -> Site {
        let bound = self.links.iter().any(|link| link.state == State::Bound);
        match self.mount_failed {
            _ if self.phase == Phase::Up && bound && !self.border.mute => Site::Reached,
            // Who was there once is waited for.
            Some(status) if self.mounted.is_none() => Site::Refused(status.errno()),
            _ => Site::Away,
        }
    }

    /// Give how long a lookup waits for this server, in nanoseconds, where it is not that of the directory.
    pub(super) fn patience(&self) -> u64 {
        self.volume.settings.options.timeo.min(PATIENCE)
    }

    /// Answer lookups that other servers led here and that were not answered within the time for that. Their calls may
    /// still be done, so their tasks stay.
    pub(super) fn give_up_lookups(&mut self) {
        let (volume, patience) = (self.volume, self.patience());
        let mut given_up = 0;
        for (handle, task) in self.tasks.iter_mut() {
            let (reply, hops) = match &mut task.op {
                Op::Walk { reply, hops, .. } | Op::Locate { reply, hops, .. } => (reply, *hops),
                _ => continue,
            };
            if reply.is_none() {
                given_up += 1;
            }
            let waits = task.asked != Instant::default() && self.now.since(task.asked) > patience;
            if !waits || hops == 0 || given_up >= GIVEN_UP {
                continue;
            }
            if let Some(reply) = reply.take() {
                given_up += 1;
                self.border.mute |= task.place == Place::Sent;
                let path = self.args[handle.index as usize].path();
                volume.answer_from_roots(&path, reply);
            }
        }
    }

    /// Answer a SYNCFS whose content here is durable. A host without sub-mounts means all servers by it.
    pub(super) fn all_synced(&mut self, reply: Reply<()>) {
        if self.border.volumes.is_empty() || self.volume.submounts() {
            return reply.ok(());
        }
        if let Err(reply) = self.border.synced.push_back(reply) {
            reply.err(Errno::EAGAIN);
        }
    }

    /// A name that was looked up has its file system elsewhere: ask where.
    pub(super) fn locate(&mut self, handle: TaskId) {
        let args = self.args[handle.index as usize];
        if !self.asks_where(handle, 0) {
            return;
        }
        self.build_again(handle, With::Nothing, |call| {
            let call = call.sequence(false).putfh(&args.handles[0]);
            call.lookup(args.name(0)).getattr(&AttrRequest::LOCATIONS)
        });
    }

    /// The path that is walked has a referral behind its first `names` names: ask where that leads.
    fn locate_further(&mut self, handle: TaskId, names: usize) {
        let path = self.args[handle.index as usize].path();
        if !self.asks_where(handle, names as u8) {
            return;
        }
        self.build_again(handle, With::Nothing, |call| {
            down(call, path.names().take(names)).getattr(&AttrRequest::LOCATIONS)
        });
    }

    /// Make a task one that asks where a file system is.
    fn asks_where(&mut self, handle: TaskId, walked: u8) -> bool {
        let Some(task) = self.tasks.get_mut(handle) else {
            return false;
        };
        task.op = match core::mem::replace(&mut task.op, Op::Renew) {
            Op::Lookup(reply) => Op::Locate {
                reply: Some(reply),
                hops: 0,
                walked,
                refused: NONE,
                origin: None,
            },
            Op::Walk {
                reply,
                hops,
                origin,
            } => Op::Locate {
                reply,
                hops,
                walked,
                refused: NONE,
                origin,
            },
            other => other,
        };
        true
    }

    /// Read where a file system is, and send the task there.
    pub(super) fn located(
        &mut self,
        handle: TaskId,
        mut results: Results<'_>,
    ) -> Result<(), Trouble> {
        let Some(task) = self.tasks.get(handle) else {
            return Ok(());
        };
        let Op::Locate {
            reply: Some(_),
            hops,
            walked,
            refused,
            ..
        } = task.op
        else {
            self.finish(handle);
            return Ok(());
        };
        let (tries, walked) = (task.tries, usize::from(walked));
        let path = self.args[handle.index as usize].path();
        let mut rest = (&Path::ROOT, 0);
        if walked == 0 {
            putfh(&mut results)?;
            ok(results.step(op::LOOKUP))?;
        } else {
            ok(results.step(op::PUTROOTFH))?;
            for _ in 0..walked {
                ok(results.step(op::LOOKUP))?;
            }
            rest = (&path, walked);
        }
        let locations = ok(results.locations())?;
        if hops == HOPS {
            self.fail(
                handle,
                if refused.0 > 0 {
                    refused.1
                } else {
                    Errno::ELOOP
                },
            );
            return Ok(());
        }
        let choice = match locations {
            Some(locations) => self.choose(locations, rest, tries, refused),
            None => Choice::Fail(Errno::EREMOTE),
        };
        match choice {
            Choice::Fail(errno) => self.fail(handle, errno),
            Choice::Go(client, path, which, more) if !self.border.leaving.is_full() => {
                if let Some((reply, origin)) = self.send_on(handle, which, more) {
                    let _ = self.border.leaving.push_back(Crossing {
                        client,
                        reply,
                        path,
                        hops: hops + 1,
                        origin,
                    });
                }
            }
            Choice::Go(..) | Choice::Wait => self.delay(handle),
            Choice::Recall(client, path) => {
                let volume = self.border.volumes[usize::from(client)];
                if let Op::Locate {
                    reply: Some(reply),
                    origin,
                    ..
                } = self.finish(handle)
                {
                    volume.answer_from_roots(&path, reply);
                    self.send_back(origin, None);
                }
            }
        }
        Ok(())
    }

    /// Let the lookup of a task go to a location. The task stays when it has more of them.
    fn send_on(
        &mut self,
        handle: TaskId,
        which: u8,
        more: bool,
    ) -> Option<(Reply<Entry>, Option<Origin>)> {
        let stays = |op: &Op| matches!(op, Op::Locate { reply: None, .. });
        let staying = || {
            self.tasks
                .iter()
                .filter(|(_, task)| stays(&task.op))
                .count()
        };
        if !more {
            return match self.finish(handle) {
                Op::Locate { reply, origin, .. } => Some((reply?, origin)),
                _ => None,
            };
        }
        if staying() >= STAYING {
            self.delay(handle);
            return None;
        }
        let Op::Locate { reply, .. } = &mut self.tasks.get_mut(handle)?.op else {
            return None;
        };
        let reply = reply.take();
        // Whoever does not come back was given up: then it has nothing left to do.
        self.wait(handle, 2 * PATIENCE);
        let origin = Origin {
            client: self.volume.settings.tag,
            task: handle,
            which,
        };
        Some((reply?, Some(origin)))
    }

    /// Tell the task that has more locations what became of one.
    fn send_back(&mut self, origin: Option<Origin>, refusal: Option<(Reply<Entry>, u8, Errno)>) {
        let back = origin.map(|origin| Return { origin, refusal });
        if let Some(Err(lost)) = back.map(|back| self.border.returning.push_back(back))
            && let Some((reply, _, errno)) = lost.refusal
        {
            reply.err(errno);
        }
    }

    /// A lookup fails that referrals led here: who has more locations tries the next.
    pub(super) fn lookup_failed(&mut self, op: Op, errno: Errno) {
        match op {
            Op::Walk {
                reply: Some(reply),
                hops,
                origin: origin @ Some(_),
            }
            | Op::Locate {
                reply: Some(reply),
                hops,
                origin: origin @ Some(_),
                ..
            } => self.send_back(origin, Some((reply, hops, errno))),
            op => op.fail(errno),
        }
    }

    /// Hear what became of a location.
    pub(super) fn came_back(&mut self, back: Return) {
        let Return { origin, refusal } = back;
        let task = self.tasks.get_mut(origin.task);
        let stays = task.and_then(|task| match (&mut task.op, task.place) {
            (
                Op::Locate {
                    reply: reply @ None,
                    hops,
                    refused,
                    ..
                },
                Place::Delayed(_),
            ) => Some((reply, hops, refused, &mut task.tries)),
            _ => None,
        });
        match (stays, refusal) {
            (Some(_), None) => drop(self.finish(origin.task)),
            (Some((reply, hops, refused, tries)), Some((its, followed, errno))) => {
                (*reply, *hops, *tries) = (Some(its), followed, 0);
                *refused = (refused.0 | 1 << origin.which, errno);
                self.delayed -= 1;
                self.make_ready(origin.task);
            }
            (None, Some((reply, _, errno))) => reply.err(errno),
            (None, None) => {}
        }
    }

    /// Choose among locations; `rest` is what of the path is behind the referral. Locations are wanted in their order: one
    /// more with each try. Those that refused are left out.
    fn choose(
        &mut self,
        locations: FsLocations<'_>,
        rest: (&Path, usize),
        tries: u32,
        refused: (u32, Errno),
    ) -> Choice {
        let volume = self.volume;
        let mut failed = (refused.0 > 0).then_some(refused.1);
        let (mut kept, mut go) = (None, None);
        let (mut away, mut stranger) = (0, None);
        let mut next = 0;
        for location in locations {
            for server in location.servers {
                let Some(client) = volume.client_of(server) else {
                    stranger = stranger.or(Some(server));
                    continue;
                };
                let which = next;
                next += 1;
                if which < u32::BITS && refused.0 & 1 << which != 0 {
                    continue;
                }
                let at = usize::from(client);
                let home = self.border.volumes.get(at);
                if home.is_some_and(|there| there.whereabouts.home() != client) {
                    // Its client is at another server now.
                    failed = failed.or(Some(Errno::EREMOTE));
                    continue;
                }
                let path = match path_there(&location, rest) {
                    Ok(path) => path,
                    Err(errno) => {
                        failed = failed.or(Some(errno));
                        continue;
                    }
                };
                let site = self.border.sites[at];
                if let Some((client, path, which)) = go.take() {
                    if matches!(site, Site::Refused(_)) {
                        go = Some((client, path, which));
                        continue;
                    }
                    return Choice::Go(client, path, which as u8, which < u32::BITS);
                }
                let knows = |volumes: &[&NfsVolume]| {
                    volumes.get(at).is_some_and(|there| there.knows_root(&path))
                };
                match site {
                    Site::Reached => go = Some((client, path, which)),
                    Site::Refused(errno) => failed = failed.or(Some(errno)),
                    Site::Away if knows(self.border.volumes) => {
                        return Choice::Recall(client, path);
                    }
                    Site::Silent if knows(self.border.volumes) => {
                        kept = kept.or(Some(Choice::Recall(client, path)));
                    }
                    Site::Silent => failed = failed.or(Some(Errno::ETIMEDOUT)),
                    Site::Asleep | Site::Away => {
                        if away <= tries {
                            self.border.wanted |= 1 << client;
                        }
                        away += 1;
                    }
                }
            }
        }
        if let Some((client, path, which)) = go {
            return Choice::Go(client, path, which as u8, false);
        }
        if away > 0 {
            return Choice::Wait;
        }
        if let (None, None, Some(stranger)) = (failed, &kept, stranger) {
            volume.tell_of(stranger);
        }
        kept.unwrap_or(Choice::Fail(failed.unwrap_or(Errno::EREMOTE)))
    }

    /// Look a path up from the server's root on, as a mount does: in the machine's name.
    pub(super) fn walk(&mut self, crossing: Crossing) {
        let Crossing {
            reply,
            path,
            hops,
            origin,
            ..
        } = crossing;
        let op = Op::Walk {
            reply: Some(reply),
            hops,
            origin,
        };
        let user = self.machine();
        let begun = self.start(op, user, None, With::Nothing, |call| {
            with_attributes(down(call, path.names()))
        });
        if let Some(handle) = begun {
            self.args[handle.index as usize].set_path(&path);
        }
    }

    /// Read what a path leads to.
    pub(super) fn walked(
        &mut self,
        handle: TaskId,
        mut results: Results<'_>,
    ) -> Result<(), Trouble> {
        ok(results.step(op::PUTROOTFH))?;
        let count = self.args[handle.index as usize].path().names().count();
        let mut passed = 0;
        let end = loop {
            if passed == count {
                break found(&mut results);
            }
            match ok(results.step(op::LOOKUP)) {
                Ok(()) => passed += 1,
                Err(trouble) => break Err(trouble),
            }
        };
        let (file, attr) = match end {
            Err(Trouble::Status(Status::ERR_MOVED)) if passed > 0 => {
                self.locate_further(handle, passed);
                return Ok(());
            }
            end => end?,
        };
        let path = self.args[handle.index as usize].path();
        let Op::Walk {
            reply: Some(reply),
            origin,
            ..
        } = self.finish(handle)
        else {
            return Ok(());
        };
        self.send_back(origin, None);
        match self.volume.entry(file, &attr, reply.epoch()) {
            // The host takes its root nowhere else.
            Ok(entry) if entry.node.0 == self.volume.nodes.root() => reply.err(Errno::ELOOP),
            Ok(mut entry) => {
                self.volume.keep_root(&path, file, &mut entry);
                reply.ok(entry);
            }
            Err(errno) => reply.err(errno),
        }
        Ok(())
    }
}
