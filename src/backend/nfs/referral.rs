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
//! to one after another while none is. One that is reached and does not have the path is not passed over: what it says is
//! the answer. A path that meets the next referral goes on from there, at most [`HOPS`] times. Of what moves while it is in use
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
}

/// Stand between a client and the others of its core.
pub struct Border {
    /// How the servers of all clients are.
    pub sites: [Site; MAX_CLIENTS],
    /// Numbers of the clients that are to connect, a bit each.
    pub wanted: u16,
    /// What is to be carried to them.
    pub leaving: heapless::Deque<Crossing, WAITING>,
    /// Who asked for all that the host wrote to be durable, which it is here: to be asked of the next.
    pub synced: heapless::Deque<Reply<()>, WAITING>,
    /// What they know.
    pub volumes: &'static [&'static NfsVolume],
    /// A lookup was given up, and nothing has come since.
    pub mute: bool,
}

impl Border {
    /// Begin with nobody on the other side.
    pub const fn new() -> Self {
        Self {
            sites: [Site::Asleep; MAX_CLIENTS],
            wanted: 0,
            leaving: heapless::Deque::new(),
            synced: heapless::Deque::new(),
            volumes: &[],
            mute: false,
        }
    }
}

/// Say what a list of locations is good for.
enum Choice {
    /// This client, and the path there.
    Go(u8, Path),
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
                Op::Walk { reply, hops } | Op::Locate { reply, hops, .. } => (reply, *hops),
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
            },
            Op::Walk { reply, hops } => Op::Locate {
                reply,
                hops,
                walked,
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
            self.fail(handle, Errno::ELOOP);
            return Ok(());
        }
        let choice = match locations {
            Some(locations) => self.choose(locations, rest, tries),
            None => Choice::Fail(Errno::EREMOTE),
        };
        match choice {
            Choice::Fail(errno) => self.fail(handle, errno),
            Choice::Go(client, path) if !self.border.leaving.is_full() => {
                if let Op::Locate {
                    reply: Some(reply), ..
                } = self.finish(handle)
                {
                    let _ = self.border.leaving.push_back(Crossing {
                        client,
                        reply,
                        path,
                        hops: hops + 1,
                    });
                }
            }
            Choice::Go(..) | Choice::Wait => self.delay(handle),
            Choice::Recall(client, path) => {
                let volume = self.border.volumes[usize::from(client)];
                if let Op::Locate {
                    reply: Some(reply), ..
                } = self.finish(handle)
                {
                    volume.answer_from_roots(&path, reply);
                }
            }
        }
        Ok(())
    }

    /// Choose among locations; `rest` is what of the path is behind the referral. Locations are wanted in their order: one
    /// more with each try.
    fn choose(&mut self, locations: FsLocations<'_>, rest: (&Path, usize), tries: u32) -> Choice {
        let volume = self.volume;
        let (mut failed, mut kept) = (None, None);
        let (mut away, mut stranger) = (0, None);
        for location in locations {
            for server in location.servers {
                let Some(client) = volume.client_of(server) else {
                    stranger = stranger.or(Some(server));
                    continue;
                };
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
                let knows = |volumes: &[&NfsVolume]| {
                    volumes.get(at).is_some_and(|there| there.knows_root(&path))
                };
                match self.border.sites[at] {
                    Site::Reached => return Choice::Go(client, path),
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
            reply, path, hops, ..
        } = crossing;
        let reply = Some(reply);
        let (op, user) = (Op::Walk { reply, hops }, self.machine());
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
            reply: Some(reply), ..
        } = self.finish(handle)
        else {
            return Ok(());
        };
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
