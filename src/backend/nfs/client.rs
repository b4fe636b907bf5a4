//! Sending and receiving: tasks get slots and go by connections, answers find their tasks.

use core::sync::atomic::Ordering;

use crate::fuse::{Data, Reply};
use crate::mem::Handle;
use crate::sys::tcp::Pieces;
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::nfs4::{Call, Results, StateId, Status, op};
use crate::wire::rpc::{self, MARK_LEN, Message};
use crate::wire::xdr::padded;

use super::answer::{Trouble, ok};
use super::fragments;
use super::instance::{MAX_LINKS, Nfs};
use super::link::{ANSWER, ASK, BUFFER, Body, Link, State};
use super::op::{CALL_ROOM, Op, Place, With};
use super::recovery::{Ask, Phase, may_ask};
use super::wire::Broken;

/// Zeros for padding.
const ZEROS: [u8; 4] = [0; 4];
/// Bytes that hold any answer to a READ up to its data.
const READ_HEAD: usize = 512;
/// Reads of one connection in one round, so that a fast server does not keep the core from its queues.
const BURST: usize = 16;
/// Nanoseconds between two looks for calls that met silence.
const TICK: u64 = 50_000_000;
/// How often a directory that is not empty yet is tried.
const PATIENCE: u32 = 5;
/// First and longest wait of a call that the server puts off, in nanoseconds.
const DELAY: (u64, u64) = (20_000_000, 2_000_000_000);

/// Wait of a WRITE for room among what is not yet durable, in nanoseconds.
const NO_ROOM: u64 = 1_000_000;

/// The state that an earlier operation of the compound made (RFC 8881, section 16.2.3.1.2).
pub(super) const CURRENT: StateId = StateId {
    seqid: 1,
    other: [0; 12],
};

impl Nfs {
    /// Do what can be done now; tells whether anything went on.
    pub(super) fn turn(&mut self) -> bool {
        let mut any = false;
        let come = self.has_come();
        for at in 0..self.links.len() {
            any |= self.drive(at);
            if come {
                any |= self.receive(at);
            }
        }
        any |= self.heed_flags() | self.heed_departure();
        self.watch();
        any |= self.issue();
        for at in 0..self.links.len() {
            any |= self.flush(at);
        }
        any
    }

    /// Tell whether something may have come by any connection.
    fn has_come(&mut self) -> bool {
        let Some(ring) = &mut self.ring else {
            return true;
        };
        match ring.come(self.epoll.raw()) {
            Ok(come) => core::mem::take(&mut self.unread) | come,
            Err(error) => {
                crate::log::warn!("nfs: connections are asked, not watched: {}", error);
                self.ring = None;
                true
            }
        }
    }

    /// Bring a connection to where it carries the session.
    fn drive(&mut self, at: usize) -> bool {
        let link = &mut self.links[at];
        match link.state {
            State::Down => {
                if !may_ask(link.ask_at, self.now) {
                    return false;
                }
                if at == 0 {
                    self.look_further();
                }
                if !may_ask(self.links[at].ask_at, self.now) {
                    return false;
                }
                let Some(server) = self.address(at) else {
                    return false;
                };
                if !core::mem::replace(&mut self.joined, true) {
                    self.volume.cores.fetch_add(1, Ordering::AcqRel);
                }
                let settings = &self.volume.settings;
                let how = (settings.options.reserved_port, settings.security);
                let link = &mut self.links[at];
                if let Some(fd) = link.connect(&server, how, self.now)
                    && self.epoll.add(fd, at as u64).is_err()
                {
                    self.close_link(at);
                }
                true
            }
            State::Connecting => {
                if let Err(why) = link.look() {
                    self.broken(at, why);
                }
                self.links[at].state != State::Connecting
            }
            State::Bare if matches!(link.ask, Ask::Nothing) => {
                self.begin_ask(at);
                // Who waits for the session of another connection, or for another core's turn, is not at work.
                !matches!(self.links[at].ask, Ask::Nothing)
            }
            State::Bare | State::Bound => false,
        }
    }

    /// A connection broke, or could not be made: end it, and say why.
    #[cold]
    fn broken(&mut self, at: usize, why: Broken) {
        match why {
            Broken::Errno(error) if self.links[at].state == State::Connecting => {
                crate::log::debug!("nfs: no connection: {}", error);
            }
            #[cfg(feature = "tls")]
            Broken::Errno(_) if self.links[at].is_fresh_tls() => self.was_cut_short(),
            Broken::Errno(error) => crate::log::info!("nfs: the connection broke: {}", error),
            #[cfg(feature = "tls")]
            Broken::Tls(fault) => self.disagree(fault),
        }
        self.close_link(at);
    }

    /// End a connection. What went by it is sent again when it stands again.
    pub(super) fn close_link(&mut self, at: usize) {
        let ask = self.drop_ask(at);
        if let Ask::Claim(file) = ask {
            self.unpin(file);
        }
        if at == 0 {
            self.end_setup();
        }
        if let Some(body) = self.links[at].body {
            // Its slot is given back already, so nobody sends it again but us.
            self.make_ready(body.task);
        }
        let (now, looks) = (self.now, self.looks());
        let link = &mut self.links[at];
        // A place that gives a session and then nothing has failed, too.
        link.failures += usize::from(at == 0 && looks && link.state == State::Bound);
        link.close(now);
    }

    /// Send again, byte for byte, what went by a connection before it broke.
    pub(super) fn resend(&mut self, at: usize) {
        for (handle, task) in self.tasks.iter_mut() {
            if task.place == Place::Sent && usize::from(task.link) == at {
                task.since = self.now;
                let _ = self.links[at].queue.push(handle);
            }
        }
    }

    /// Make every call that is under way anew: their slots are gone.
    pub(super) fn requeue_all(&mut self) {
        for (handle, task) in self.tasks.iter_mut() {
            if task.place == Place::Sent {
                task.place = Place::Ready;
                let _ = self.ready.push(handle);
            }
        }
        self.slots.begin(1);
    }

    /// Give slots to tasks that wait for one.
    fn issue(&mut self) -> bool {
        if self.phase != Phase::Up || self.is_departing() {
            return false;
        }
        let mut any = false;
        while let Some(handle) = self.ready.front() {
            let links = self.links.len();
            let next = (self.next_link..self.next_link + links)
                .map(|at| at % links)
                .find(|at| self.links[*at].state == State::Bound);
            let Some(at) = next else { break };
            if self.tasks.get(handle).is_none() {
                self.ready.pop();
                continue;
            }
            if !self.slots.is_free() {
                break;
            }
            self.ready.pop();
            if !self.take_room(handle) || !self.aim_lock(handle) {
                self.wait(handle, NO_ROOM);
                continue;
            }
            let Some(task) = self.tasks.get_mut(handle) else {
                continue;
            };
            let Some(slot) = self.slots.take() else { break };
            self.next_link = at + 1;
            let named = match (task.with, &task.file) {
                (With::Nothing, _) | (With::File, None) => None,
                (With::Current, _) => Some(CURRENT),
                (With::This(state), _) => Some(state.newest()),
                (With::File, Some(file)) => {
                    let state = *file.state.lock();
                    if let Some(lost) = state.lost {
                        self.slots.give(slot, false);
                        self.fail(handle, lost);
                        continue;
                    }
                    task.named = state.stateid;
                    Some(state.stateid.newest())
                }
            };
            let mut source = None;
            if let Op::Copy(copy) = &mut task.op
                && let Some(file) = &copy.source
            {
                let state = *file.state.lock();
                if let Some(lost) = state.lost {
                    self.slots.give(slot, false);
                    self.fail(handle, lost);
                    continue;
                }
                copy.named = state.stateid;
                source = Some(state.stateid.newest());
            }
            self.xids = self.xids.wrapping_add(1);
            task.xid = u32::from(self.xids) << 16 | handle.index;
            task.slot = slot;
            task.link = at as u8;
            task.place = Place::Sent;
            task.since = self.now;
            let buffer = call_buffer(self.calls, handle);
            Call::set_xid(buffer, task.xid);
            let (sequence, highest) = (self.slots.sequence(slot), self.slots.highest());
            task.call
                .set_sequence(buffer, &self.session, sequence, slot, highest);
            if let Some(named) = named {
                task.call.set_stateid(buffer, &named);
            }
            if let Some(source) = source {
                task.call.set_source(buffer, &source);
            }
            let _ = self.links[at].queue.push(handle);
            self.renewed = self.now;
            any = true;
        }
        any
    }

    /// Send what is queued for a connection, many calls at once.
    fn flush(&mut self, at: usize) -> bool {
        let mut any = false;
        loop {
            let link = &mut self.links[at];
            let Some(wire) = &mut link.wire else {
                return any;
            };
            if matches!(link.state, State::Down | State::Connecting) {
                return any;
            }
            if link.queue.is_empty() {
                return match wire.push() {
                    Ok(_) => any,
                    Err(why) => {
                        self.broken(at, why);
                        true
                    }
                };
            }
            let mut pieces = Pieces::default();
            let mut skip = link.sent;
            let (first, second) = link.queue.slices();
            for handle in first.iter().chain(second) {
                let room = if *handle == ASK {
                    let call = &link.ask_buffer[..link.ask_call.len];
                    pieces.bytes(&call[skip.min(call.len())..])
                } else if *handle == ANSWER {
                    pieces.bytes(&link.answer[skip.min(link.answer_len)..link.answer_len])
                } else if let Some(task) = self.tasks.get(*handle) {
                    let call = &call_bytes(self.calls, *handle)[..task.call.len];
                    let head = pieces.bytes(&call[skip.min(call.len())..]);
                    head && match task.op.payload() {
                        // A WRITE's COMMIT has none of the data.
                        Some((pages, first, count)) if task.call.payload > 0 => {
                            let skip = skip.saturating_sub(call.len());
                            let data = count.saturating_sub(skip);
                            let pad = padded(count) - count;
                            let pad_skip = skip.saturating_sub(count).min(pad);
                            pieces.segments(pages, first + skip.min(count), data)
                                && pieces.bytes(&ZEROS[..pad - pad_skip])
                        }
                        _ => true,
                    }
                } else {
                    true
                };
                skip = 0;
                if !room {
                    break;
                }
            }
            let sent = match wire.send(&mut pieces) {
                Ok(sent) => sent,
                Err(Broken::Errno(Errno::EAGAIN)) => return any,
                Err(why) => {
                    self.broken(at, why);
                    return true;
                }
            };
            any = true;
            self.sent(at, sent);
        }
    }

    /// Note that so many bytes went out.
    fn sent(&mut self, at: usize, bytes: usize) {
        let link = &mut self.links[at];
        link.sent += bytes;
        while let Some(handle) = link.queue.front() {
            let len = if handle == ASK {
                link.ask_call.len
            } else if handle == ANSWER {
                link.answer_len
            } else {
                self.tasks
                    .get(handle)
                    .map_or(0, |task| task.call.len + task.call.payload)
            };
            if link.sent < len {
                return;
            }
            link.sent -= len;
            link.queue.pop();
            if handle == ANSWER {
                link.answer_len = 0;
            }
        }
    }

    /// Take what has come by a connection.
    fn receive(&mut self, at: usize) -> bool {
        let mut any = false;
        for _ in 0..BURST {
            if matches!(self.links[at].state, State::Down | State::Connecting) {
                return any;
            }
            self.links[at].compact();
            match self.receive_once(at) {
                Ok(drained) => {
                    any = true;
                    self.understand(at);
                    if drained {
                        return any;
                    }
                }
                Err(Broken::Errno(Errno::EAGAIN)) => return any,
                Err(why) => {
                    self.broken(at, why);
                    return true;
                }
            }
        }
        self.unread = true;
        any
    }

    /// Receive once: the rest of a READ's data into the host's pages, what follows into the buffer. True when nothing more
    /// has come.
    fn receive_once(&mut self, at: usize) -> Result<bool, Broken> {
        let link = &mut self.links[at];
        let Some(wire) = &mut link.wire else {
            return Err(Errno::EPIPE.into());
        };
        let body = link.body;
        let mut pieces = Pieces::default();
        let mut direct = 0;
        if let Some(body) = body
            && let Some(Op::Read { reply, .. }) = self.tasks.get(body.task).map(|task| &task.op)
        {
            pieces.segments(reply.buffers(), body.at, body.left);
            direct = pieces.len();
        }
        pieces.room(&mut link.buffer[link.end..]);
        let asked = pieces.len();
        let got = wire.receive(&mut pieces)?;
        if got == 0 {
            return Err(Errno::EPIPE.into());
        }
        let drained = got < asked && wire.is_drained_by_less();
        if let Some(mut body) = body {
            let here = got.min(direct);
            body.at += here;
            body.left -= here;
            if let Some(task) = self.tasks.get_mut(body.task) {
                // It gets on, however slowly.
                (task.since, task.asked) = (self.now, Instant::default());
            }
            if body.left == 0 {
                link.skip = body.padding;
                link.body = None;
                link.end += got - here;
                self.read_done(body.task, body.at, body.end);
            } else {
                link.body = Some(body);
            }
        } else {
            link.end += got;
        }
        Ok(drained)
    }

    /// Understand the records that have come whole, and the heads of READs.
    fn understand(&mut self, at: usize) {
        // The buffer is set aside while its records change everything else.
        let buffer = core::mem::take(&mut self.links[at].buffer);
        let sound = self.records(at, &mut *buffer);
        self.links[at].buffer = buffer;
        if !sound {
            crate::log::warn!("nfs: the server's answer makes no sense");
            self.close_link(at);
        }
    }

    fn records(&mut self, at: usize, buffer: &mut [u8]) -> bool {
        loop {
            let link = &mut self.links[at];
            if link.body.is_some() || matches!(link.state, State::Down | State::Connecting) {
                return true;
            }
            let skipped = link.skip.min(link.end - link.start);
            link.start += skipped;
            link.skip -= skipped;
            let come = &buffer[link.start..link.end];
            let Some(mark) = come.first_chunk::<MARK_LEN>() else {
                return true;
            };
            let (len, last) = rpc::parse_mark(*mark);
            if len > self.response_room.max(BUFFER as u32) as usize + BUFFER {
                return false;
            }
            if !last {
                let joined = fragments::join(&mut buffer[link.start..link.end]);
                link.end = link.start + joined.len;
                if joined.whole {
                    continue;
                }
                // The rest is still to come, if there is room for it.
                return joined.len < buffer.len() || self.ask_for_less();
            }
            let come = &come[MARK_LEN..];
            if let Some(record) = come.get(..len) {
                link.start += MARK_LEN + len;
                if !self.record(at, record) {
                    return false;
                }
                continue;
            }
            if come.len() >= READ_HEAD && self.begin_body(at, come, len) {
                return true;
            }
            // The rest is still to come, if there is room for it.
            return MARK_LEN + len <= buffer.len();
        }
    }

    /// Take a whole record.
    fn record(&mut self, at: usize, record: &[u8]) -> bool {
        let (xid, outcome) = match rpc::parse(record) {
            Ok(Message::Reply { xid, outcome }) => (xid, outcome),
            Ok(Message::Call {
                xid,
                program,
                version,
                procedure,
                arguments,
            }) => {
                self.called(at, xid, (program, version, procedure), arguments);
                return true;
            }
            Err(_) => return false,
        };
        if xid == self.links[at].ask_xid && !matches!(self.links[at].ask, Ask::Nothing) {
            if let Err(denied) = &outcome {
                self.mount_denied(denied);
            }
            let results = outcome.map_err(|_| crate::wire::xdr::Malformed);
            self.answered(at, results.and_then(Results::new));
            return true;
        }
        let Some(handle) = self.task_of(at, xid) else {
            // An answer that nobody waits for any more.
            return true;
        };
        match outcome {
            Ok(input) => match Results::new(input) {
                Ok(results) => self.results(handle, results),
                Err(_) => return false,
            },
            Err(denied) => {
                crate::log::warn!("nfs: the server refuses a call");
                if let rpc::Denied::Credentials(_) = denied {
                    self.give_slot(handle, false);
                    self.fail(handle, Errno::EACCES);
                } else {
                    self.fail(handle, Errno::EIO);
                    // Whether the server counted the call before it failed is not known.
                    self.lose_session("a call was refused by RPC");
                }
            }
        }
        true
    }

    fn task_of(&self, at: usize, xid: u32) -> Option<Handle> {
        let handle = self.tasks.handle_at(xid & 0xffff)?;
        let task = self.tasks.get(handle)?;
        let found = task.xid == xid && task.place == Place::Sent && usize::from(task.link) == at;
        found.then_some(handle)
    }

    /// Begin with the data of a READ whose record is not here whole; what is here is copied, the rest received in place.
    fn begin_body(&mut self, at: usize, come: &[u8], len: usize) -> bool {
        let Ok(Message::Reply {
            xid,
            outcome: Ok(input),
        }) = rpc::parse(come)
        else {
            return false;
        };
        let Some(handle) = self.task_of(at, xid) else {
            return false;
        };
        let is_read = |task: &super::op::Task| matches!(task.op, Op::Read { .. });
        if !self.tasks.get(handle).is_some_and(is_read) {
            return false;
        }
        let Ok(mut results) = Results::new(input) else {
            return false;
        };
        let Ok(sequence) = ok(results.sequence()) else {
            return false;
        };
        if !self.is_of(handle, &sequence) {
            return false;
        }
        let head = ok(results.step(op::PUTFH)).and_then(|()| ok(results.read()));
        let Ok((end, count)) = head else {
            return false;
        };
        let here = results.input().rest();
        let before = come.len() - here.len();
        let count = count as usize;
        let Some(Op::Read { reply, done, .. }) = self.tasks.get(handle).map(|task| &task.op) else {
            return false;
        };
        let start = *done;
        if count > reply.wanted() - start || before + padded(count) != len {
            return false;
        }
        let copied = here.len().min(count);
        copy(reply, start, &here[..copied]);
        self.note_sequence(handle, &sequence);
        self.give_slot(handle, true);
        let link = &mut self.links[at];
        let behind = padded(count) - count;
        let skipped = here.len() - copied;
        link.start += MARK_LEN + before + copied + skipped;
        link.body = Some(Body {
            task: handle,
            at: start + copied,
            left: count - copied,
            padding: behind - skipped.min(behind),
            end,
        });
        if count == copied {
            // Only padding is still to come.
            link.body = None;
            link.skip = behind - skipped.min(behind);
            self.read_done(handle, start + copied, end);
        }
        true
    }

    /// Give a task's slot back.
    pub(super) fn give_slot(&mut self, handle: Handle, done: bool) {
        if let Some(task) = self.tasks.get_mut(handle)
            && task.place == Place::Sent
        {
            task.place = Place::Ready;
            self.slots.give(task.slot, done);
        }
    }

    /// Put a task into the queue for a slot.
    pub(super) fn make_ready(&mut self, handle: Handle) {
        if let Some(task) = self.tasks.get_mut(handle) {
            task.place = Place::Ready;
            let _ = self.ready.push(handle);
        }
    }

    /// Have a task sent again after a while that grows.
    pub(super) fn delay(&mut self, handle: Handle) {
        if let Some(task) = self.tasks.get_mut(handle) {
            let wait = (DELAY.0 << task.tries.min(7)).min(DELAY.1);
            task.tries += 1;
            self.wait(handle, wait);
        }
    }

    pub(super) fn wait(&mut self, handle: Handle, nanoseconds: u64) {
        if let Some(task) = self.tasks.get_mut(handle) {
            let at = self.now.after(nanoseconds);
            task.place = Place::Delayed(at);
            self.delayed += 1;
            self.tick = self.tick.min(at);
        }
    }

    /// Look after what waits: calls that are to be sent again, silence, the lease, what the host left open.
    fn watch(&mut self) {
        if self.now < self.tick {
            return;
        }
        let urgent = self.delayed > 0 || self.phase != Phase::Up;
        self.tick = self.now.after(if urgent { DELAY.0 / 4 } else { TICK });
        let (timeo, soft) = (
            self.volume.settings.options.timeo,
            self.volume.settings.options.soft,
        );
        let patience = timeo.saturating_mul(u64::from(self.volume.settings.options.retrans) + 1);
        let mut silent = [false; MAX_LINKS];
        let mut given_up = heapless::Vec::<(Handle, bool), 64>::new();
        for (handle, task) in self.tasks.iter_mut() {
            if matches!(task.place, Place::Delayed(at) if at > self.now) {
                continue;
            }
            if task.asked == Instant::default() {
                task.asked = self.now;
            }
            // However often the server put it off, or answered with nothing that helps, or a connection broke.
            if soft && self.now.since(task.asked) > patience {
                let _ = given_up.push((handle, task.place == Place::Sent));
                continue;
            }
            match task.place {
                Place::Delayed(_) => {
                    task.place = Place::Ready;
                    self.delayed -= 1;
                    let _ = self.ready.push(handle);
                }
                Place::Sent | Place::Ready if self.now.since(task.since) > timeo => {
                    // A connection that is being made again has its own time.
                    let link = &self.links[usize::from(task.link)];
                    let reads = link.body.is_some_and(|body| body.task == handle);
                    silent[usize::from(task.link)] |=
                        (task.place == Place::Sent || reads) && link.state == State::Bound;
                    task.since = self.now;
                }
                Place::Sent | Place::Ready => {}
            }
        }
        for (handle, sent) in given_up {
            self.fail(handle, Errno::EIO);
            if sent {
                // Its slot is in doubt, so the session goes with it.
                self.lose_session("a call was given up");
            }
        }
        for (at, silent) in silent.into_iter().enumerate().take(self.links.len()) {
            let link = &self.links[at];
            let asks = link.state == State::Connecting || !matches!(link.ask, Ask::Nothing);
            if silent || (asks && self.now.since(link.ask_at) > timeo) {
                #[cfg(feature = "tls")]
                if let Some(fault) = self.links[at].silent() {
                    self.disagree(fault);
                }
                self.close_link(at);
                if !self.silent {
                    self.silent = true;
                    crate::log::warn!(
                        "nfs: the server is silent; connecting again until it answers"
                    );
                }
            }
        }
        if self.volume.follows() {
            self.give_up_lookups();
        }
        self.resume();
        self.own_work();
    }

    /// Say when there is something to do although nothing comes.
    pub(super) fn next_turn(&self) -> crate::sys::time::Instant {
        let waits = self.delayed > 0 || self.phase != Phase::Up;
        let unsent = self.links.iter().any(Link::is_sending);
        if unsent {
            self.now.after(1_000_000)
        } else if waits {
            self.now.after(DELAY.0 / 4)
        } else if self.tasks.is_empty() {
            self.now.after(TICK * 4)
        } else {
            self.now.after(TICK)
        }
    }

    /// The server refuses a call.
    pub(super) fn refused(&mut self, handle: Handle, why: Errno) {
        // A COMMIT before a CLOSE was refused: the file is still to be closed.
        if let Some(task) = self.tasks.get_mut(handle)
            && let Op::Release { commits, .. } = &mut task.op
            && core::mem::take(commits)
        {
            let (with, file) = (task.with, self.args[handle.index as usize].handles[0]);
            self.build_again(handle, with, |call| {
                call.sequence(true).putfh(&file).close()
            });
            return;
        }
        self.fail(handle, why);
    }

    fn tries(&self, handle: Handle) -> u32 {
        self.tasks.get(handle).map_or(0, |task| task.tries)
    }

    /// Say what became of a task's call, when it is not as hoped.
    pub(super) fn trouble(&mut self, handle: Handle, trouble: Trouble) {
        use crate::wire::nfs4::Class;
        let status = match trouble {
            Trouble::Malformed => {
                crate::log::warn!("nfs: an answer makes no sense");
                return self.fail(handle, Errno::EIO);
            }
            Trouble::Status(status) => status,
        };
        if self.lock_failed(handle, status) {
            return;
        }
        let lost = matches!(status, Status::ERR_BAD_COOKIE | Status::ERR_NOT_SAME);
        if lost && self.list_from_start(handle) {
            return;
        }
        let op = self.tasks.get(handle).map(|task| &task.op);
        match (status, op) {
            // What was open without a name is being removed from the directory.
            (Status::ERR_NOTEMPTY | Status::ERR_EXIST, Some(Op::Remove { .. }))
                if self.sweeps() && self.tries(handle) < PATIENCE =>
            {
                return self.delay(handle);
            }
            // From this the host concludes that it is to look by itself.
            (Status::ERR_NOTSUPP | Status::ERR_OP_ILLEGAL, Some(Op::Seek(_))) => {
                return self.fail(handle, Errno::ENOSYS);
            }
            (Status::ERR_MOVED, Some(Op::Lookup(_))) if self.volume.follows() => {
                return self.locate(handle);
            }
            (Status::ERR_MOVED, Some(op)) if self.outlives_move(op) => return self.stray(handle),
            _ => {}
        }
        match status.class() {
            Class::Caller => {
                self.commit_failed(handle, status.errno());
                self.refused(handle, status.errno());
            }
            Class::Later => self.delay(handle),
            Class::State => self.reopen(handle, status),
            Class::Client => {
                self.volume.standing.lock().forgotten();
                self.make_ready(handle);
                self.lose_session(status.name());
            }
            Class::Session | Class::Slot => {
                self.make_ready(handle);
                self.lose_session(status.name());
            }
        }
    }
}

/// Give the memory of a task's call.
pub(super) fn call_buffer(calls: &mut [u8], handle: Handle) -> &mut [u8] {
    let at = handle.index as usize * CALL_ROOM;
    &mut calls[at..at + CALL_ROOM]
}

fn call_bytes(calls: &[u8], handle: Handle) -> &[u8] {
    let at = handle.index as usize * CALL_ROOM;
    &calls[at..at + CALL_ROOM]
}

/// Copy a READ's data that came with other things.
pub(super) fn copy(reply: &Reply<Data>, at: usize, bytes: &[u8]) {
    // The length was checked against the room before.
    let _ = crate::mem::fill(reply.buffers(), at, bytes);
}
