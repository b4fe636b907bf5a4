//! The session: how it comes to be, and comes back when the server forgets it.
//!
//! ```text
//!  connected ──> turn? ──> EXCHANGE_ID ──> CREATE_SESSION ──> opens and locks claimed ──> RECLAIM_COMPLETE ──> up
//!                  └────── client known ────^    │ STALE_CLIENTID: again from EXCHANGE_ID
//!                   then what had not become durable is written again
//!  a connection breaks while it is up ──> connected ──> BIND_CONN_TO_SESSION ──> calls sent again, byte for byte
//! ```
//!
//! Only what makes a session is here. A call of this kind goes alone by its connection, from a buffer of its own.

use crate::mem::{Pinned, hash_bytes};
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::nfs4::{
    AttrRequest, ChannelSize, Class, Compound, Created, Exchanged, FileAttr, Handle, OpenHow,
    Results, ServerAttr, ServerOwner, Status,
};
use crate::wire::rpc::Denied;
use crate::wire::xdr::Malformed;

use super::answer::{Trouble, ok};
use super::commit::commit_call;
use super::instance::{FILE_SYNC, Nfs};
use super::leave::Leaving;
use super::link::{ASK, REWRITE, State};
use super::relock::{Relock, claim};
use super::search::arrive_call;
use super::slots::MAX_SLOTS;
use super::uncommitted::Record;
use super::volume::OpenFile;

/// Nanoseconds before something is asked again that the server puts off.
const LATER: u64 = 200_000_000;
/// Bytes around the data of a READ or WRITE.
const AROUND: u32 = 4096;
/// Bytes of an answer that is kept.
const KEPT: u32 = 4096;

/// Most operations of a call: a mount has one for each name of the export's path.
const OPERATIONS: u32 = 100;

/// Say how the session stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// There is none.
    Down,
    /// This core has the turn and makes one.
    Setup,
    /// It is there.
    Up,
}

/// Say what a connection asks for the session.
pub enum Ask {
    /// Nothing.
    Nothing,
    /// To be known (EXCHANGE_ID).
    Exchange,
    /// A session.
    Create,
    /// To carry the session by this connection, too.
    Bind,
    /// To have a file open that was open before the server's restart.
    Claim(Pinned<OpenFile>),
    /// To have a range locked that was locked before the server's restart.
    Relock(Relock),
    /// To be told of as complete.
    Complete,
    /// Whether this is the life of the server that has the content of this record.
    Check(Record),
    /// To have content again: this record, so many bytes.
    Rewrite(Record, usize),
    /// Where the export is: for a mount.
    Root,
    /// Whether the export is here, or where it is: when it moved.
    Arrive,
    /// To forget the session.
    EndSession,
    /// To forget the client.
    EndClient,
}

/// Hold what a mount wants to know.
#[derive(Clone, Copy, Debug)]
pub struct Mounted {
    /// Root of the export.
    pub root: Handle,
    /// Its file system.
    pub fsid: (u64, u64),
    /// Its number.
    pub fileid: u64,
    /// Largest READ and WRITE in bytes.
    pub sizes: (u64, u64),
    /// Seconds of the lease.
    pub lease: u32,
    /// It has extended attributes.
    pub xattr: bool,
    /// What tells the server from others ([`server_mark`]).
    pub server: u64,
}

impl Mounted {
    /// Put together what is said of a root, and of its server, which this mark tells from others.
    pub(super) fn new(root: Handle, attr: &FileAttr<'_>, said: &ServerAttr, server: u64) -> Self {
        Self {
            root,
            fsid: attr.fsid,
            fileid: attr.fileid,
            sizes: (said.max_read, said.max_write),
            lease: said.lease,
            xattr: said.xattr,
            server,
        }
    }
}

/// Give what is the same for addresses that lead to one server, and for others most likely not.
fn server_mark(server: &ServerOwner<'_>) -> u64 {
    let mark = hash_bytes(server.minor, server.major);
    hash_bytes(mark, server.scope)
}

impl Nfs {
    /// The server forgot the session, or something is wrong with it: begin anew. Calls under way are made again.
    pub(super) fn lose_session(&mut self, why: &str) {
        if self.phase == Phase::Down {
            return;
        }
        crate::log::info!("nfs: the session is lost: {}", why);
        for link in 0..self.links.len() {
            self.close_link(link);
        }
        self.end_setup();
        self.phase = Phase::Down;
        self.requeue_all();
    }

    /// Give up making a session for now.
    pub(super) fn end_setup(&mut self) {
        if self.phase == Phase::Setup {
            self.phase = Phase::Down;
            self.volume.standing.lock().taken = false;
        }
    }

    /// A connection stands: let it carry the session, or make one.
    pub(super) fn begin_ask(&mut self, at: usize) {
        match self.phase {
            Phase::Up => self.ask(at, Ask::Bind),
            // The first connection makes the session; the others wait for it.
            Phase::Down if at == 0 => {
                let known = {
                    let mut standing = self.volume.standing.lock();
                    if standing.taken {
                        return;
                    }
                    standing.taken = true;
                    if self.looks() {
                        self.begin_elsewhere(&mut standing);
                    }
                    standing.client.is_some()
                };
                self.phase = Phase::Setup;
                self.ask(at, if known { Ask::Create } else { Ask::Exchange });
            }
            Phase::Down | Phase::Setup => {}
        }
    }

    /// Write the call that asks, and queue it.
    pub(super) fn ask(&mut self, at: usize, ask: Ask) {
        let volume = self.volume;
        let minor = volume.known.minor();
        self.asked_minor = minor;
        let standing = *volume.standing.lock();
        let client = standing.client.unwrap_or(0);
        let who = match &ask {
            Ask::Claim(file) => file.user,
            Ask::Relock(relock) => relock.user(),
            Ask::Rewrite(record, _) => self.user(record.user()),
            _ => self.machine(),
        };
        let further = self.further();
        let link = &mut self.links[at];
        let mut payload = 0;
        let call = Compound::new(link.ask_buffer, minor, b"dpfs", &who);
        let largest = volume.known.max_read().max(volume.known.max_write()) + AROUND;
        let fore = ChannelSize {
            max_request: largest,
            max_response: largest,
            max_cached: KEPT,
            max_operations: OPERATIONS,
            max_requests: self.tasks.capacity().min(MAX_SLOTS as u32),
        };
        let back = ChannelSize {
            max_request: 4096,
            max_response: 4096,
            max_cached: 0,
            max_operations: 2,
            max_requests: super::callback::SLOTS,
        };
        let call = match &ask {
            Ask::Nothing => return,
            Ask::Exchange => call.exchange_id(&volume.verifier, &volume.client_name),
            Ask::Create => call.create_session(client, standing.sequence, true, &fore, &back),
            // The server calls by the connection that made the session, or stands for it.
            Ask::Bind => call.bind_conn_to_session(&self.session, at == 0),
            Ask::EndSession => call.destroy_session(&self.session),
            Ask::EndClient => call.destroy_clientid(client),
            Ask::Claim(file) => {
                let how = OpenHow {
                    access: file.access,
                    owner: file.owner,
                };
                let call = call.sequence(true).putfh(&file.handle);
                let call = call.open(0, &how, &Created::No, &claim(standing.anew));
                match standing.anew {
                    true => call.getattr(&AttrRequest::STAT),
                    false => call,
                }
            }
            Ask::Relock(relock) => relock.call(call, standing.anew),
            Ask::Complete => call.sequence(true).reclaim_complete(),
            Ask::Check(record) => commit_call(call, &record.handle),
            Ask::Rewrite(record, len) => {
                let place = record.offset + self.rewriting.1 as u64;
                payload = *len;
                call.sequence(false)
                    .putfh(&record.handle)
                    .write(place, FILE_SYNC, payload as u32)
            }
            Ask::Arrive => arrive_call(call, volume, further),
            Ask::Root => {
                let mut call = call.sequence(false).putrootfh();
                let names = self.mount.split(|byte| *byte == b'/');
                for name in names.filter(|name| !name.is_empty()) {
                    call = call.lookup(name);
                }
                call.getfh()
                    .getattr(&AttrRequest::SERVER)
                    .getattr(&AttrRequest::STAT)
            }
        };
        let Some(mut call) = call.finish(payload) else {
            self.mount_failed = Some(Status::ERR_NAMETOOLONG);
            return;
        };
        self.xids = self.xids.wrapping_add(1);
        link.ask_xid = u32::from(self.xids) << 16 | 0xffff;
        crate::wire::nfs4::Call::set_xid(link.ask_buffer, link.ask_xid);
        if let Ask::Rewrite(record, len) = &ask {
            let room = &mut link.ask_buffer[call.len..call.len + call.payload];
            room.fill(0);
            let kept = volume.uncommitted.lock();
            kept.copy(record, self.rewriting.1, &mut room[..*len]);
            call.len += core::mem::take(&mut call.payload);
        }
        let first = matches!(ask, Ask::Nothing | Ask::Exchange | Ask::Create | Ask::Bind);
        if !first {
            let sequence = self.slots.sequence(0);
            call.set_sequence(link.ask_buffer, &self.session, sequence, 0, 0);
        }
        link.ask_call = call;
        link.ask = ask;
        link.ask_at = self.now;
        let _ = link.queue.push(ASK);
    }

    /// Take back what a connection asked.
    pub(super) fn drop_ask(&mut self, at: usize) -> Ask {
        core::mem::replace(&mut self.links[at].ask, Ask::Nothing)
    }

    /// Let go of a file that was being claimed.
    pub(super) fn unpin(&self, file: Pinned<OpenFile>) {
        if let Some(file) = file.unpin() {
            self.volume.dispose(&file);
        }
    }

    /// RPC refuses what a connection asked: a mount need not ask again for what no patience gives.
    pub(super) fn mount_denied(&mut self, denied: &Denied) {
        /// `PROG_UNAVAIL`, `PROG_MISMATCH`, `PROC_UNAVAIL`: there is no NFSv4.
        const NO_PROGRAM: core::ops::RangeInclusive<u32> = 1..=3;
        self.mount_failed = match denied {
            Denied::Credentials(_) => Some(Status::ERR_WRONGSEC),
            Denied::Program(status) if NO_PROGRAM.contains(status) => {
                Some(Status::ERR_MINOR_VERS_MISMATCH)
            }
            Denied::Program(_) | Denied::Version => return,
        };
    }

    /// Read the answer to what a connection asked.
    pub(super) fn answered(&mut self, at: usize, results: Result<Results<'_>, Malformed>) {
        let ask = self.drop_ask(at);
        self.silent = false;
        let outcome = match results {
            Ok(results) => self.take_answer(at, &ask, results),
            Err(Malformed) => Err(Trouble::Malformed),
        };
        let relocks = matches!(ask, Ask::Relock(_));
        let claimed = match ask {
            Ask::Claim(file) => {
                let place = self.claimed;
                self.unpin(file);
                Some(place)
            }
            _ => None,
        };
        match outcome {
            Ok(next) => {
                self.links[at].proven();
                self.go_on(at, next);
            }
            // What is asked for anew waits for the end of a grace, and the session with it.
            Err(Trouble::Status(Status::ERR_DELAY | Status::ERR_GRACE))
                if (relocks || claimed.is_some()) && self.volume.standing.lock().anew =>
            {
                if relocks {
                    self.relock_again();
                } else {
                    self.claimed = self.claimed.saturating_sub(1);
                }
                self.links[at].proven();
                self.resumes = Some(self.now.after(LATER));
            }
            Err(Trouble::Status(Status::ERR_DELAY | Status::ERR_GRACE)) => {
                // The connection stays; what was asked is asked again from where it was.
                if claimed.is_some() {
                    self.claimed = self.claimed.saturating_sub(1);
                }
                self.close_link(at);
                self.links[at].ask_at = self.now.after(LATER);
            }
            Err(Trouble::Status(Status::ERR_STALE_CLIENTID)) => {
                self.volume.standing.lock().forgotten();
                self.go_on(at, Next::Exchange);
            }
            Err(Trouble::Status(status)) if self.looks() => self.pass_over(Some(status.errno())),
            Err(Trouble::Malformed) if self.looks() => self.pass_over(Some(Errno::EIO)),
            // A connection asked to carry a session that the server does not know any more.
            Err(Trouble::Status(status)) if self.phase == Phase::Up => {
                self.lose_session(status.name());
            }
            Err(Trouble::Status(Status::ERR_MINOR_VERS_MISMATCH))
                if self.volume.settings.minor.is_none() && self.asked_minor > 1 =>
            {
                // Another core may have found out before.
                self.volume.known.speak_older();
                self.close_link(at);
            }
            Err(Trouble::Status(status)) => {
                crate::log::warn!("nfs: the server refuses the session: {}", status.name());
                self.mount_failed = Some(status);
                {
                    let mut standing = self.volume.standing.lock();
                    standing.before = standing.client.take().or(standing.before);
                }
                self.close_link(at);
            }
            Err(Trouble::Malformed) => {
                crate::log::warn!("nfs: the server's answer makes no sense");
                self.close_link(at);
            }
        }
    }

    fn take_answer(
        &mut self,
        at: usize,
        ask: &Ask,
        mut results: Results<'_>,
    ) -> Result<Next, Trouble> {
        match ask {
            Ask::Nothing => Err(Trouble::Malformed),
            Ask::Exchange => {
                let Exchanged {
                    client,
                    sequence,
                    confirmed,
                    server,
                } = ok(results.exchange_id())?;
                self.server = server_mark(&server);
                let mut standing = self.volume.standing.lock();
                // A server that knows us by the same number has what it had of ours.
                if !confirmed || standing.before.take() != Some(client) {
                    standing.complete = false;
                    if !self.looks() {
                        self.volume.locks.lock().forget_states();
                    }
                }
                // It is certain only that it may have.
                standing.rewrite = true;
                standing.client = Some(client);
                standing.sequence = sequence;
                Ok(Next::Create)
            }
            Ask::Create => {
                let made = ok(results.create_session())?;
                let mut standing = self.volume.standing.lock();
                standing.sequence = standing.sequence.wrapping_add(1);
                drop(standing);
                (self.session, self.called) = (made.session, 0);
                self.slots
                    .begin(made.fore.max_requests.min(self.tasks.capacity()));
                self.most_slots = made.fore.max_requests.min(self.tasks.capacity());
                self.request_room = made.fore.max_request;
                self.response_room = made.fore.max_response;
                self.links[at].state = State::Bound;
                self.life = self.volume.locks.lock().life();
                (self.claimed, self.relocked) = (0, 0);
                (self.rewriting, self.checked) = ((0, 0), false);
                Ok(match self.looks() {
                    true => Next::Arrive,
                    false => self.next_claim(),
                })
            }
            Ask::Bind => {
                ok(results.step(crate::wire::nfs4::op::BIND_CONN_TO_SESSION))?;
                Ok(Next::Bound)
            }
            // Whatever the server says, there is nothing more to do about it.
            Ask::EndSession => Ok(Next::Leave),
            Ask::EndClient => Ok(Next::Left),
            Ask::Claim(file) => {
                ok(results.sequence())?;
                self.slots.give(0, true);
                let claimed = ok(results.step(crate::wire::nfs4::op::PUTFH))
                    .and_then(|()| ok(results.open()));
                match claimed {
                    Ok(open) => {
                        file.state.lock().stateid = open.stateid;
                        self.volume.give_back(&open, &file.handle, file.user);
                        if self.volume.standing.lock().anew {
                            self.check_file(file, ok(results.getattr()))?;
                        }
                    }
                    Err(Trouble::Status(status @ (Status::ERR_DELAY | Status::ERR_GRACE))) => {
                        return Err(Trouble::Status(status));
                    }
                    // The state is gone for good, but not the file: it is opened again when it is used.
                    Err(Trouble::Status(status)) => {
                        crate::log::info!("nfs: an open file cannot be claimed: {}", status.name());
                    }
                    Err(trouble) => return Err(trouble),
                }
                Ok(Next::Claim)
            }
            Ask::Relock(relock) => match self.relocked(relock, results) {
                // They are for where that is.
                Err(Trouble::Status(Status::ERR_MOVED)) => {
                    self.leave_unclaimed();
                    Ok(match self.volume.standing.lock().anew {
                        true => Next::Rewrite,
                        false => Next::Complete,
                    })
                }
                outcome => outcome.map(|()| Next::Claim),
            },
            Ask::Complete => {
                ok(results.sequence())?;
                self.slots.give(0, true);
                match ok(results.step(crate::wire::nfs4::op::RECLAIM_COMPLETE)) {
                    Ok(()) | Err(Trouble::Status(Status::ERR_COMPLETE_ALREADY)) => {}
                    Err(trouble) => return Err(trouble),
                }
                self.volume.standing.lock().complete = true;
                Ok(match self.volume.standing.lock().anew {
                    true => Next::Claim,
                    false => Next::Rewrite,
                })
            }
            Ask::Check(record) => {
                ok(results.sequence())?;
                self.slots.give(0, true);
                let same = ok(results.step(crate::wire::nfs4::op::PUTFH))
                    .and_then(|()| ok(results.commit()))
                    .is_ok_and(|now| self.life_of(&now) == record.verifier);
                if same {
                    self.volume.standing.lock().rewrite = false;
                }
                self.checked = true;
                Ok(Next::Rewrite)
            }
            Ask::Rewrite(record, len) => {
                ok(results.sequence())?;
                self.slots.give(0, true);
                let (number, skip) = self.rewriting;
                let written = ok(results.step(crate::wire::nfs4::op::PUTFH))
                    .and_then(|()| ok(results.write()));
                match written {
                    Ok(written) => {
                        let took = written.count as usize;
                        if !written.durable || took == 0 || took > *len {
                            return Err(Trouble::Malformed);
                        }
                        self.rewriting.1 += took;
                        if self.rewriting.1 >= record.len as usize {
                            self.volume.uncommitted.lock().done(number);
                            self.rewriting = (number + 1, 0);
                        }
                    }
                    // It is still kept, for where that is.
                    Err(Trouble::Status(Status::ERR_MOVED)) if self.may_move() => {
                        self.suspect_move();
                        return Ok(Next::Root);
                    }
                    Err(Trouble::Status(status)) if status.class() != Class::Later => {
                        crate::log::warn!("nfs: content from byte {} is refused", skip);
                        let errno = status.errno();
                        self.volume.lose_content(record.node, number + 1, errno);
                    }
                    Err(trouble) => return Err(trouble),
                }
                Ok(Next::Rewrite)
            }
            Ask::Arrive => {
                ok(results.sequence())?;
                self.slots.give(0, true);
                self.arrived(results)
            }
            Ask::Root => {
                ok(results.sequence())?;
                self.slots.give(0, true);
                ok(results.step(crate::wire::nfs4::op::PUTROOTFH))?;
                let names = self.mount.split(|byte| *byte == b'/');
                for _ in names.filter(|name| !name.is_empty()) {
                    ok(results.step(crate::wire::nfs4::op::LOOKUP))?;
                }
                let root = ok(results.getfh())?;
                let server = ok(results.server_attr())?;
                let attr = ok(results.getattr())?;
                let mounted = Mounted::new(root, &attr, &server, self.server);
                self.volume.known.learn(&mounted);
                self.mounted = Some(mounted);
                Ok(Next::Up)
            }
        }
    }

    /// Say what comes behind a session: what the server is to know of us.
    pub(super) fn next_claim(&self) -> Next {
        let standing = self.volume.standing.lock();
        match (standing.complete, standing.anew) {
            (true, false) => Next::Rewrite,
            (false, true) => Next::Complete,
            (false, false) | (true, true) => Next::Claim,
        }
    }

    /// Go on with state that the server put off.
    pub(super) fn resume(&mut self) {
        if self.resumes.is_none_or(|at| self.now < at) {
            return;
        }
        self.resumes = None;
        let link = &self.links[0];
        let waits = link.state == State::Bound && matches!(link.ask, Ask::Nothing);
        if self.phase == Phase::Setup && waits {
            self.go_on(0, Next::Claim);
        }
    }

    /// A file was opened at another server: it is the one that was open if it has its number.
    fn check_file(
        &self,
        file: &OpenFile,
        attr: Result<FileAttr<'_>, Trouble>,
    ) -> Result<(), Trouble> {
        let attr = match attr {
            Err(Trouble::Status(status)) if status.class() != Class::Later => return Ok(()),
            attr => attr?,
        };
        let known = self.volume.nodes.update(file.node, |_, node| node.fileid);
        let same = known.is_none_or(|known| known == 0 || known == self.volume.ino(&attr));
        if !same {
            crate::log::warn!("nfs: an open file is another one there");
            file.state.lock().lost = Some(Errno::ESTALE);
        }
        Ok(())
    }

    /// Write the next of what the server forgot.
    fn rewrite(&mut self, at: usize) {
        let next = match self.volume.standing.lock().rewrite {
            true => self.volume.uncommitted.lock().from(self.rewriting.0),
            false => None,
        };
        let Some((number, record)) = next else {
            let mut standing = self.volume.standing.lock();
            (standing.rewrite, standing.anew) = (false, false);
            drop(standing);
            return self.go_on(at, Next::Root);
        };
        if !self.checked {
            return self.ask(at, Ask::Check(record));
        }
        if number != self.rewriting.0 {
            self.rewriting = (number, 0);
        }
        let left = (record.len as usize).saturating_sub(self.rewriting.1);
        self.ask(at, Ask::Rewrite(record, left.min(REWRITE)));
    }

    fn go_on(&mut self, at: usize, next: Next) {
        match next {
            Next::Exchange => self.ask(at, Ask::Exchange),
            Next::Create => self.ask(at, Ask::Create),
            Next::Claim => loop {
                let Some((place, file)) = self.volume.files.pin_after(self.claimed) else {
                    let anew = self.volume.standing.lock().anew;
                    match self.next_relock() {
                        Some(relock) => self.ask(at, Ask::Relock(relock)),
                        None if anew => self.rewrite(at),
                        None => self.ask(at, Ask::Complete),
                    }
                    return;
                };
                self.claimed = place;
                if file.access != 0 {
                    return self.ask(at, Ask::Claim(file));
                }
                self.unpin(file);
            },
            Next::Complete => self.ask(at, Ask::Complete),
            Next::Arrive => self.ask(at, Ask::Arrive),
            Next::Elsewhere => self.go_elsewhere(),
            Next::PassOver(why) => self.pass_over(Some(why)),
            Next::Nowhere(why) => self.give_up_search(why),
            Next::Rewrite => self.rewrite(at),
            Next::Root if !self.mount.is_empty() && self.mounted.is_none() => {
                self.ask(at, Ask::Root);
            }
            Next::Root | Next::Up => {
                self.end_setup();
                self.phase = Phase::Up;
                self.fit_to_session();
                (self.mount_failed, self.border.mute) = (None, false);
                #[cfg(feature = "tls")]
                self.agree();
                (self.renewed, self.settled) = (self.now, self.now);
            }
            Next::Leave => self.session_ended(at),
            Next::Left => self.leaving = Leaving::Gone,
            Next::Bound => {
                self.links[at].state = State::Bound;
                #[cfg(feature = "tls")]
                self.agree();
                self.resend(at);
            }
        }
    }
}

/// Say what comes next on the way to a session.
pub enum Next {
    Exchange,
    Create,
    Claim,
    /// The server is told that nothing is reclaimed, before state is made anew.
    Complete,
    /// The present place is asked for the export.
    Arrive,
    /// It is looked for at the next place.
    Elsewhere,
    /// It is not at this one.
    PassOver(Errno),
    /// It is nowhere.
    Nowhere(Errno),
    /// What the server forgot is written again.
    Rewrite,
    /// The root is asked for when it is not known.
    Root,
    Up,
    Bound,
    /// The session is ended.
    Leave,
    /// The client is.
    Left,
}

/// Tell when a connection that waits may ask again.
pub(super) fn may_ask(ask_at: Instant, now: Instant) -> bool {
    now >= ask_at
}
