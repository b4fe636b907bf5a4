//! Answers: what the server says of a task's call becomes the host's answer, or the task's next call.

use crate::fuse::number::Position;
use crate::fuse::{Attributes, Created, Opened, Reply, Statfs};
use crate::mem::{Handle as TaskId, Pinned};
use crate::wire::errno::Errno;
use crate::wire::fuse::Kstatfs;
use crate::wire::nfs4::{
    AttrRequest, Compound, FileAttr, FileKind, Handle, OpenClaim, OpenHow, Results, SequenceResult,
    StateId, Status, attr, op,
};
use crate::wire::xdr::{Malformed, Result as Decoded};

use super::instance::{Nfs, free_file};
use super::meta::{RenamePart, remove_call, rename_call};
use super::op::{Op, Opening, Stage, Step, With};
use super::volume::{Leftover, OpenFile, Silly};

/// Say why a call did not do what it was to do.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// The server says so.
    Status(Status),
    /// Its answer makes no sense.
    Malformed,
}

impl From<Malformed> for Trouble {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Take the results of an operation that was done.
pub fn ok<T>(outcome: Decoded<Result<T, Status>>) -> Result<T, Trouble> {
    match outcome {
        Ok(Ok(results)) => Ok(results),
        Ok(Err(status)) => Err(Trouble::Status(status)),
        Err(Malformed) => Err(Trouble::Malformed),
    }
}

/// Position behind "." and "..", where the server's own cookies begin; 1 and 2 it does not use (RFC 8881, section
/// 18.23.3).
pub const DOTS: u64 = 2;

/// Number of an entry of which the server gives none; with zero the host's C library would hide it.
const UNKNOWN_INO: u64 = 0xffff_ffff;

/// What a directory's record says of an entry's type: the file type bits of the mode, without the last twelve.
const fn dirent_kind(mode: u32) -> u8 {
    (mode >> 12) as u8
}

impl Nfs {
    /// Tell whether an answer is to the call that went in a task's slot: a server that mistakes a slot's next call for a
    /// repetition gives the answer to the one before.
    pub(super) fn is_of(&self, handle: TaskId, sequence: &SequenceResult) -> bool {
        self.tasks.get(handle).is_some_and(|task| {
            sequence.session == self.session
                && sequence.slot == task.slot
                && sequence.sequence == self.slots.sequence(task.slot)
        })
    }

    /// Note what SEQUENCE says of the session.
    pub(super) fn note_sequence(&mut self, _: TaskId, sequence: &SequenceResult) {
        let most = sequence.highest.min(sequence.target).saturating_add(1);
        self.slots.set_limit(most.min(self.most_slots));
        self.note_flags(sequence.flags);
    }

    /// Read the answer to a task's call.
    pub(super) fn results(&mut self, handle: TaskId, mut results: Results<'_>) {
        self.border.mute = false;
        let sequence = match ok(results.sequence()) {
            Ok(sequence) if self.is_of(handle, &sequence) => sequence,
            Ok(_) | Err(Trouble::Malformed) => {
                self.fail(handle, Errno::EIO);
                // Whether the server counted the call is not known.
                return self.lose_session("an answer makes no sense");
            }
            Err(Trouble::Status(Status::ERR_DELAY)) => {
                // Not even begun: the slot has the same number again.
                self.give_slot(handle, false);
                return self.delay(handle);
            }
            Err(Trouble::Status(Status::ERR_RETRY_UNCACHED_REP)) => {
                // Done, but the answer is lost; only what may be done twice is not kept.
                self.give_slot(handle, true);
                return self.make_ready(handle);
            }
            Err(trouble) => {
                self.give_slot(handle, false);
                return self.trouble(handle, trouble);
            }
        };
        self.note_sequence(handle, &sequence);
        self.give_slot(handle, true);
        if let Err(trouble) = self.answer(handle, results) {
            self.trouble(handle, trouble);
        }
    }

    /// A READ's data is all in place.
    pub(super) fn read_done(&mut self, handle: TaskId, now_done: usize, end: bool) {
        let Some(task) = self.tasks.get_mut(handle) else {
            return;
        };
        let Op::Read {
            reply,
            offset,
            done,
        } = &mut task.op
        else {
            return;
        };
        let progress = now_done - *done;
        *done = now_done;
        if end || progress == 0 || now_done == reply.wanted() {
            if let Op::Read { reply, done, .. } = self.finish(handle) {
                reply.filled(done);
            }
            return;
        }
        let (offset, done, wanted) = (*offset, *done, reply.wanted());
        if self.build_read(handle, offset + done as u64, wanted - done) {
            self.make_ready(handle);
        }
    }

    fn answer(&mut self, handle: TaskId, mut results: Results<'_>) -> Result<(), Trouble> {
        let volume = self.volume;
        let Some(task) = self.tasks.get(handle) else {
            return Ok(());
        };
        let ttl = volume.ttl();
        // What is read from the results is read before the task ends, so that an error still finds it.
        match &task.op {
            Op::Renew => {
                self.finish(handle);
            }
            Op::Probe(_) => self.probed(handle, results)?,
            Op::Whither(_) => self.whither(handle, results)?,
            Op::Locate { .. } => self.located(handle, results)?,
            Op::Walk { .. } => self.walked(handle, results)?,
            Op::Lookup(_) => {
                putfh(&mut results)?;
                ok(results.step(op::LOOKUP))?;
                let (found, attr) = found(&mut results)?;
                let above = task.node;
                if let Op::Lookup(reply) = self.finish(handle) {
                    match volume.entry(found, &attr, reply.epoch()) {
                        Ok(mut entry) => {
                            if attr.kind == FileKind::Directory {
                                let above = volume.fs_of(above);
                                volume.mark_crossing(&mut entry, &attr, above);
                            }
                            reply.ok(entry);
                        }
                        Err(errno) => reply.err(errno),
                    }
                }
            }
            Op::Make { regular, .. } => {
                let (regular, user) = (*regular, task.user);
                putfh(&mut results)?;
                let open = if regular {
                    Some(ok(results.open())?)
                } else {
                    ok(results.create())?;
                    None
                };
                let made = ok(results.getfh());
                let rest = made.and_then(|made| Ok((made, ok(results.getattr())?)));
                // What is left of the compound is a CLOSE.
                if let (Some(open), Ok(made)) = (open, made) {
                    volume.give_back(&open, &made, user);
                    if !results.status().is_ok() {
                        volume.leave(Leftover::Open(made, open.stateid, user));
                    }
                }
                let (found, attr) = match rest {
                    Ok(rest) => rest,
                    Err(trouble) => return self.half_made(handle, trouble),
                };
                if let Op::Make { reply, .. } = self.finish(handle) {
                    self.answer_entry(reply, found, &attr);
                }
            }
            Op::Link(_) => {
                putfh(&mut results)?;
                ok(results.step(op::SAVEFH))?;
                putfh(&mut results)?;
                ok(results.link())?;
                let linked = ok(results.step(op::RESTOREFH)).and_then(|()| found(&mut results));
                let (found, attr) = match linked {
                    Ok(linked) => linked,
                    Err(trouble) => return self.half_made(handle, trouble),
                };
                if let Op::Link(reply) = self.finish(handle) {
                    self.answer_entry(reply, found, &attr);
                }
            }
            Op::Getattr(_) => {
                putfh(&mut results)?;
                let mut attr = volume.attr(&ok(results.getattr())?);
                attr.nlink -= volume.hidden_links(task.node).min(attr.nlink);
                if let Op::Getattr(reply) = self.finish(handle) {
                    reply.ok(Attributes { attr, ttl });
                }
            }
            Op::Setattr { size, .. } => {
                let (node, size) = (task.node, *size);
                putfh(&mut results)?;
                ok(results.setattr())?;
                if let Some(size) = size {
                    volume.uncommitted.lock().cut(node, size);
                }
                let mut attr = volume.attr(&ok(results.getattr())?);
                attr.nlink -= volume.hidden_links(node).min(attr.nlink);
                if let Op::Setattr { reply, .. } = self.finish(handle) {
                    reply.ok(Attributes { attr, ttl });
                }
            }
            Op::Readlink(_) => {
                putfh(&mut results)?;
                let target = ok(results.readlink())?;
                if let Op::Readlink(reply) = self.finish(handle) {
                    reply.ok(target);
                }
            }
            Op::Statfs(_) => {
                putfh(&mut results)?;
                let found = ok(results.server_attr())?;
                const UNIT: u64 = 4096;
                const NAME_MAX: u32 = 255;
                let stat = Kstatfs {
                    blocks: found.space[2] / UNIT,
                    bfree: found.space[1] / UNIT,
                    bavail: found.space[0] / UNIT,
                    files: found.files[2],
                    ffree: found.files[1],
                    bsize: UNIT as u32,
                    frsize: UNIT as u32,
                    // The host's kernel takes no longer ones.
                    namelen: match found.max_name {
                        0 => NAME_MAX,
                        most => most.min(NAME_MAX),
                    },
                    ..Kstatfs::default()
                };
                if let Op::Statfs(reply) = self.finish(handle) {
                    reply.ok(Statfs(stat));
                }
            }
            Op::Access(_, mask) => {
                let mask = *mask;
                putfh(&mut results)?;
                let granted = ok(results.access())?;
                if let Op::Access(reply, _) = self.finish(handle) {
                    if granted & mask == mask {
                        reply.ok(());
                    } else {
                        reply.err(Errno::EACCES);
                    }
                }
            }
            Op::Space { commits, .. } => {
                let commits = *commits;
                putfh(&mut results)?;
                if commits {
                    let verifier = ok(results.commit())?;
                    if !self.committed(handle, &verifier) {
                        self.make_ready(handle);
                        return Ok(());
                    }
                }
                // ALLOCATE or DEALLOCATE: neither has results.
                if results.status().is_ok() {
                    if let Op::Space { reply, .. } = self.finish(handle) {
                        reply.ok(());
                    }
                } else {
                    return Err(Trouble::Status(results.status()));
                }
            }
            Op::Seek(_) => {
                putfh(&mut results)?;
                let (_, position) = ok(results.seek())?;
                if let Op::Seek(reply) = self.finish(handle) {
                    reply.ok(Position(position));
                }
            }
            Op::Copy(_) => self.answer_copy(handle, results)?,
            Op::Getxattr(_) | Op::Setxattr { .. } | Op::Listxattr { .. } | Op::Removexattr(_) => {
                self.answer_xattr(handle, results)?
            }
            Op::Lock(_) => self.locked(handle, results)?,
            Op::TestLock(..) => self.tested(handle, results)?,
            Op::Read { reply, done, .. } => {
                putfh(&mut results)?;
                let (end, count) = ok(results.read())?;
                let (done, count) = (*done, count as usize);
                let here = results.input().rest();
                if count > reply.wanted() - done || count > here.len() {
                    return Err(Trouble::Malformed);
                }
                super::client::copy(reply, done, &here[..count]);
                self.read_done(handle, done + count, end);
            }
            Op::Write {
                stage: Stage::Commits,
                ..
            } => {
                putfh(&mut results)?;
                let verifier = ok(results.commit())?;
                if !self.committed(handle, &verifier) {
                    self.make_ready(handle);
                } else if let Some(unsaid) = self.unsaid(handle) {
                    self.fail(handle, unsaid);
                } else if let Op::Write { reply, done, .. } = self.finish(handle) {
                    reply.ok(crate::fuse::Written(done as u32));
                }
            }
            Op::Write { count, stage, .. } => {
                let (asked, stable) = (*count, *stage == Stage::Stable);
                putfh(&mut results)?;
                let written = ok(results.write())?;
                let took = written.count as usize;
                if took > asked || (took == 0 && asked > 0) || (stable && !written.durable) {
                    return Err(Trouble::Malformed);
                }
                self.keep(handle, took, written.durable, written.verifier);
                self.written(handle, took);
            }
            Op::Sync { .. } => {
                putfh(&mut results)?;
                let verifier = ok(results.commit())?;
                if self.committed(handle, &verifier) {
                    self.synced(handle);
                } else {
                    self.make_ready(handle);
                }
            }
            Op::Commit => {
                putfh(&mut results)?;
                let verifier = ok(results.commit())?;
                // What the server forgot is written again before anything else.
                self.committed(handle, &verifier);
                self.finish(handle);
                self.committing = false;
                if volume.uncommitted.lock().is_half_full() {
                    self.commit_oldest();
                }
            }
            Op::Open(..) => {
                let user = task.user;
                let Some((opening, attr)) = self.take_open(handle, &mut results)? else {
                    return Ok(());
                };
                let stateid = opening.state.unwrap_or_default();
                if let Op::Open(reply, _) = self.finish(handle) {
                    let file = free_file(&opening, opening.node, opening.handle, user);
                    file.state.lock().stateid = stateid;
                    match volume.enter(file, attr.change, reply.epoch()) {
                        Ok((fh, flags)) => reply.ok(Opened { fh, flags }),
                        Err((errno, file)) => {
                            volume.leave(Leftover::Open(file.handle, stateid, user));
                            reply.err(errno);
                        }
                    }
                }
            }
            Op::Create(..) => {
                let user = task.user;
                let Some((opening, attr)) = self.take_open(handle, &mut results)? else {
                    return Ok(());
                };
                let (made, stateid) = (opening.handle, opening.state.unwrap_or_default());
                if let Op::Create(reply, _) = self.finish(handle) {
                    let epoch = reply.epoch();
                    let entry = match volume.entry(made, &attr, epoch) {
                        Ok(entry) => entry,
                        Err(errno) => {
                            volume.leave(Leftover::Open(made, stateid, user));
                            reply.err(errno);
                            return Ok(());
                        }
                    };
                    let file = free_file(&opening, entry.node.0, made, user);
                    file.state.lock().stateid = stateid;
                    match volume.enter(file, attr.change, epoch) {
                        Ok((fh, flags)) => reply.ok(Created {
                            entry,
                            opened: Opened { fh, flags },
                        }),
                        Err((errno, _)) => {
                            volume.nodes.forget(entry.node.0, 1);
                            volume.leave(Leftover::Open(made, stateid, user));
                            reply.err(errno);
                        }
                    }
                }
            }
            Op::Release { commits, .. } => {
                let commits = *commits;
                putfh(&mut results)?;
                if commits {
                    let verifier = ok(results.commit())?;
                    self.committed(handle, &verifier);
                }
                put_off(&results)?;
                // A server that forgot the open has closed it.
                self.released(handle);
            }
            Op::Close | Op::Sweep => {
                put_off(&results)?;
                // A file without a name goes with the others.
                if results.status() == Status::ERR_MOVED && self.outlives_move(&task.op) {
                    return Err(Trouble::Status(Status::ERR_MOVED));
                }
                self.finish(handle);
            }
            Op::Reopen => {
                putfh(&mut results)?;
                let open = ok(results.open())?;
                if let Some(file) = &task.file {
                    let mut state = file.state.lock();
                    (state.stateid, state.lost) = (open.stateid, None);
                    state.reopening = false;
                    volume.give_back(&open, &file.handle, task.user);
                }
                self.finish(handle);
            }
            Op::Remove { step, .. } => match *step {
                Step::Look => {
                    putfh(&mut results)?;
                    ok(results.step(op::LOOKUP))?;
                    let found = ok(results.getfh())?;
                    self.remove_looked(handle, found);
                }
                Step::Silly(gone, silly) => {
                    renamed(&mut results)?;
                    let user = task.user;
                    volume.set_silly(&gone, silly, user);
                    if let Op::Remove { reply, .. } = self.finish(handle) {
                        reply.ok(());
                    }
                }
                Step::Last => {
                    putfh(&mut results)?;
                    ok(results.remove())?;
                    if let Op::Remove { reply, .. } = self.finish(handle) {
                        reply.ok(());
                    }
                }
            },
            Op::Rename { step, .. } => match *step {
                Step::Look => {
                    let looked = putfh(&mut results)
                        .and_then(|()| ok(results.step(op::LOOKUP)))
                        .and_then(|()| ok(results.getfh()));
                    match looked {
                        Ok(found) => self.rename_looked(handle, Some(found)),
                        Err(Trouble::Status(Status::ERR_NOENT)) => self.rename_looked(handle, None),
                        Err(trouble) => return Err(trouble),
                    }
                }
                Step::Silly(gone, silly) => {
                    renamed(&mut results)?;
                    volume.set_silly(&gone, silly, task.user);
                    self.rename_looked(handle, None);
                }
                Step::Last => {
                    renamed(&mut results)?;
                    if let Op::Rename { reply, .. } = self.finish(handle) {
                        reply.ok(());
                    }
                }
            },
            Op::Readdir(_) | Op::ReaddirPlus(_) => {
                putfh(&mut results)?;
                self.answer_directory(handle, results)?;
            }
        }
        Ok(())
    }

    fn answer_entry(
        &mut self,
        reply: Reply<crate::fuse::Entry>,
        found: Handle,
        attr: &FileAttr<'_>,
    ) {
        match self.volume.entry(found, attr, reply.epoch()) {
            Ok(entry) => reply.ok(entry),
            Err(errno) => reply.err(errno),
        }
    }

    /// A WRITE took so many bytes: go on with the rest, if there is one.
    fn written(&mut self, handle: TaskId, took: usize) {
        let Some(task) = self.tasks.get_mut(handle) else {
            return;
        };
        let Op::Write {
            reply,
            offset,
            done,
            stage,
            ..
        } = &mut task.op
        else {
            return;
        };
        *done += took;
        let (left, at) = (reply.wanted() - *done, *offset + *done as u64);
        if left == 0 {
            if *stage == Stage::Waits(true)
                && let Some((node, file)) = task.file.as_ref().map(|file| (file.node, file.handle))
            {
                *stage = Stage::Commits;
                self.build_commit(handle, node, &file);
            } else if let Op::Write { reply, done, .. } = self.finish(handle) {
                reply.ok(crate::fuse::Written(done as u32));
            }
        } else if self.build_write(handle, at, left) {
            self.make_ready(handle);
        }
    }

    /// The name that is to go stands for this file: rename it when it is open, remove it otherwise.
    fn remove_looked(&mut self, handle: TaskId, found: Handle) {
        let volume = self.volume;
        let args = self.args[handle.index as usize];
        let step = if volume.is_open(&found) {
            Step::Silly(found, self.silly(args.handles[0]))
        } else {
            Step::Last
        };
        self.build_again(handle, With::Nothing, |call| match &step {
            Step::Silly(_, silly) => {
                let part = RenamePart(&args.handles[0], args.name(0));
                let name = volume.silly_name(silly.number);
                rename_call(call, &part, &RenamePart(&args.handles[0], &name))
            }
            _ => remove_call(call, &args.handles[0], args.name(0)),
        });
        if let Some(Op::Remove { step: at, .. }) =
            self.tasks.get_mut(handle).map(|task| &mut task.op)
        {
            *at = step;
        }
    }

    /// The name that a RENAME replaces stands for this file, or for none that matters any more.
    fn rename_looked(&mut self, handle: TaskId, found: Option<Handle>) {
        let volume = self.volume;
        let args = self.args[handle.index as usize];
        let open = found.filter(|found| volume.is_open(found));
        let step = match open {
            Some(open) => Step::Silly(open, self.silly(args.handles[1])),
            None => Step::Last,
        };
        let to = RenamePart(&args.handles[1], args.name(1));
        self.build_again(handle, With::Nothing, |call| match &step {
            Step::Silly(_, silly) => {
                let name = volume.silly_name(silly.number);
                rename_call(call, &to, &RenamePart(&args.handles[1], &name))
            }
            _ => rename_call(call, &RenamePart(&args.handles[0], args.name(0)), &to),
        });
        if let Some(Op::Rename { step: at, .. }) =
            self.tasks.get_mut(handle).map(|task| &mut task.op)
        {
            *at = step;
        }
    }

    fn silly(&self, parent: Handle) -> Silly {
        Silly {
            parent,
            number: self.volume.number() as u32,
        }
    }

    /// The server has closed a file: let go of it here.
    pub(super) fn released(&mut self, handle: TaskId) {
        let volume = self.volume;
        let user = self.tasks.get(handle).map(|task| task.user);
        let Some(node) = self.tasks.get(handle).map(|task| task.node) else {
            return;
        };
        if let Some(silly) = volume.closed(node)
            && let Some(user) = user
        {
            volume.leave(Leftover::Name(silly, user));
        }
        if let Op::Release { reply, .. } = self.finish(handle) {
            reply.ok(());
        }
    }

    /// An open that the server does not know any more: open the file again, and send the call after that.
    pub(super) fn reopen(&mut self, handle: TaskId, status: Status) {
        let Some(task) = self.tasks.get(handle) else {
            return;
        };
        if matches!(task.op, Op::Release { .. }) {
            return self.released(handle);
        }
        let Some(file) = task.file.as_ref().filter(|_| task.with == With::File) else {
            return self.fail(handle, status.errno());
        };
        if matches!(task.op, Op::Reopen) {
            file.state.lock().lost = Some(Errno::EIO);
            return self.fail(handle, Errno::EIO);
        }
        crate::log::debug!("nfs: opening a file again: {}", status.name());
        let mut again = heapless::Vec::<_, 2>::new();
        let _ = again.push((file.again(), task.named));
        // Which of the two it was the server does not say.
        if let Op::Copy(copy) = &task.op
            && let Some(source) = &copy.source
        {
            let _ = again.push((source.again(), copy.named));
        }
        self.delay(handle);
        for (file, named) in again {
            self.open_again(file, &named);
        }
    }

    /// Open a file again, unless that is done already for the state that was named.
    fn open_again(&mut self, file: Pinned<OpenFile>, named: &StateId) {
        let mut state = file.state.lock();
        let first = state.stateid.other == named.other && !state.reopening;
        state.reopening |= first;
        drop(state);
        if !first {
            return self.unpin(file);
        }
        let opening = Opening {
            node: file.node,
            handle: file.handle,
            access: file.access,
            owner: file.owner,
            sets: false,
            state: None,
        };
        let user = file.user;
        self.start_own(Op::Reopen, user, Some(file), With::Nothing, |call| {
            open_call(call, &opening)
        });
    }

    fn answer_directory(
        &mut self,
        handle: TaskId,
        mut results: Results<'_>,
    ) -> Result<(), Trouble> {
        let volume = self.volume;
        let (verifier, mut entries) = ok(results.readdir())?;
        let Some(task) = self.tasks.get(handle) else {
            return Ok(());
        };
        // The server's answer is checked to its end before anything of it is told.
        let mut check = entries;
        let end = loop {
            match check.next_entry()? {
                Ok(entry) if entry.cookie <= DOTS => return Err(Trouble::Malformed),
                Ok(_) => {}
                Err(end) => break end,
            }
        };
        if let Some(file) = &task.file {
            *file.verifier.lock() = verifier;
        }
        let (user, dir) = (task.user, task.file.as_ref().map(|file| file.handle));
        let above = match &task.file {
            Some(file) => volume.fs_of(file.node),
            None => 0,
        };
        let mut at = task.filled;
        let mut sought = task.sought;
        let mut any = at > 0 && sought == 0;
        let (mut last, mut whole) = (None, true);
        let epoch = match &task.op {
            Op::Readdir(reply) => reply.epoch(),
            Op::ReaddirPlus(reply) => reply.epoch(),
            _ => return Ok(()),
        };
        let mut old = heapless::Vec::<[u8; super::volume::SILLY_LEN], 4>::new();
        while let Ok(entry) = entries.next_entry()? {
            if sought != 0 {
                // The host has it already.
                if entry.cookie == sought {
                    sought = 0;
                }
                last = Some(entry.cookie);
                continue;
            }
            let (silly, stale) = volume.is_silly(entry.name);
            if silly {
                if stale && let Ok(name) = entry.name.try_into() {
                    let _ = old.push(name);
                }
                last = Some(entry.cookie);
                continue;
            }
            let ino = match volume.ino(&entry.attr) {
                0 => UNKNOWN_INO,
                ino => ino,
            };
            let kind = match entry.attr.sent.has(attr::TYPE) {
                true => dirent_kind(entry.attr.kind.mode()),
                false => 0,
            };
            let Some(task) = self.tasks.get(handle) else {
                return Ok(());
            };
            let next = match &task.op {
                Op::Readdir(reply) => reply.push(at, ino, entry.cookie, kind, entry.name),
                Op::ReaddirPlus(reply) => {
                    if !reply.fits(at, entry.name.len()) {
                        None
                    } else {
                        let tells = entry.attr.error == 0 && entry.attr.is_enough();
                        let known = entry.attr.handle.filter(|_| tells);
                        let mut found =
                            known.and_then(|found| volume.entry(found, &entry.attr, epoch).ok());
                        if let Some(found) = &mut found {
                            volume.mark_crossing(found, &entry.attr, above);
                        }
                        reply.push(at, found.as_ref(), ino, entry.cookie, kind, entry.name)
                    }
                }
                _ => None,
            };
            match next {
                Some(next) => at = next,
                None => {
                    (any, whole) = (true, false);
                    break;
                }
            }
            (any, last) = (true, Some(entry.cookie));
        }
        if let Some(file) = self.tasks.get(handle).and_then(|task| task.file.as_ref()) {
            *file.end.lock() = last.filter(|_| end && whole).unwrap_or(0);
        }
        for name in old {
            if let Some(dir) = dir {
                self.start_own(Op::Sweep, user, None, With::Nothing, |call| {
                    remove_call(call, &dir, &name)
                });
            }
        }
        if sought != 0 && end {
            // Where the host was is nowhere in it.
            return Err(Trouble::Status(Status::ERR_BAD_COOKIE));
        }
        if let Some(task) = self.tasks.get_mut(handle) {
            task.sought = sought;
        }
        if !any
            && !end
            && let Some(cookie) = last
        {
            // All of it was hidden: the host must not take that for the end.
            self.build_readdir(handle, cookie);
            self.make_ready(handle);
            return Ok(());
        }
        match self.finish(handle) {
            Op::Readdir(reply) => reply.ok(at),
            Op::ReaddirPlus(reply) => reply.ok(at),
            _ => {}
        }
        Ok(())
    }
}

/// Make the compound of an OPEN of a file that is there.
pub(super) fn open_call<'a>(call: Compound<'a>, opening: &Opening) -> Compound<'a> {
    let how = OpenHow {
        access: opening.access,
        owner: opening.owner,
    };
    call.sequence(true).putfh(&opening.handle).open(
        0,
        &how,
        &crate::wire::nfs4::Created::No,
        &OpenClaim::Current,
    )
}

/// Tell whether the server put the rest of a compound off, whatever else it may say of it.
fn put_off(results: &Results<'_>) -> Result<(), Trouble> {
    let trouble = Trouble::Status(results.status());
    if trouble.is_later() {
        Err(trouble)
    } else {
        Ok(())
    }
}

pub(super) fn putfh(results: &mut Results<'_>) -> Result<(), Trouble> {
    ok(results.step(op::PUTFH))
}

/// Read PUTFH, SAVEFH, PUTFH, RENAME.
fn renamed(results: &mut Results<'_>) -> Result<(), Trouble> {
    putfh(results)?;
    ok(results.step(op::SAVEFH))?;
    putfh(results)?;
    ok(results.rename())
}

/// Read GETFH, GETATTR.
pub(super) fn found<'a>(results: &mut Results<'a>) -> Result<(Handle, FileAttr<'a>), Trouble> {
    let handle = ok(results.getfh())?;
    Ok((handle, ok(results.getattr())?))
}

/// What is asked of a file with its handle.
pub(super) fn with_attributes(call: Compound<'_>) -> Compound<'_> {
    call.getfh().getattr(&AttrRequest::STAT)
}
