//! Locks of the host, held at the server: so they stand against those of all its clients.
//!
//! A holder's calls go one after another, so that what is noted here is what the server has. Which call it is, is
//! written when it is sent: an owner's first lock opens the file and locks in one compound, where the server's LOCK takes
//! the open of the same compound (Linux' server does not), its last unlock closes it in the same one. A lock that must
//! wait is asked for again, after a while that grows, or when something was unlocked.

use core::sync::atomic::Ordering;

use crate::fuse::{Lock, LockKind, LockRequest, Reply};
use crate::mem::{Handle as TaskId, Pinned, SlotId};
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::nfs4::{
    Class, Compound, Created, Locked, OpenClaim, OpenHow, Results, StateId, Status, TO_END, op,
};

use super::answer::{Trouble, ok};
use super::client::CURRENT;
use super::instance::Nfs;
use super::lock_table::{Denied, Holder, Key, Range};
use super::op::{Op, Place, With};
use super::volume::{Leftover, NfsVolume, OpenFile};

/// First and longest wait for a lock before it is asked for again, in nanoseconds.
const RETRY: (u64, u64) = (10_000_000, 1_000_000_000);

/// All of a file, whatever its size.
const WHOLE: (u64, u64) = (0, i64::MAX as u64);

/// Hold a lock or unlock of the host.
pub struct LockCall {
    /// Answer.
    pub reply: Reply<()>,
    /// Whose.
    pub key: Key,
    /// What.
    pub lock: Lock,
    /// It may wait.
    pub wait: bool,
    /// Holder that is at work for this.
    claimed: Option<TaskId>,
    /// The compound has an OPEN first.
    opens: bool,
    /// It has nothing else: the lock comes after that.
    only_opens: bool,
    /// The compound unlocks all, and has a CLOSE last.
    closes: bool,
    /// Life of our state at the server in which it was sent.
    life: u32,
    /// How often it met a lock.
    met: u32,
}

/// Number a kind of lock as the wire does.
pub(super) const fn kind(write: bool, notify: bool) -> u32 {
    1 + write as u32 + 2 * notify as u32
}

/// Open a file for a holder of locks.
pub(super) fn open_for<'a>(
    call: Compound<'a>,
    holder: &Holder,
    access: u32,
    claim: &OpenClaim<'_>,
) -> Compound<'a> {
    let how = OpenHow {
        access,
        owner: holder.number,
    };
    call.open(0, &how, &Created::No, claim)
}

/// Unlock all of a holder's ranges and close its open, whose state is to be filled in.
pub(super) fn leave_call<'a>(
    call: Compound<'a>,
    file: &crate::wire::nfs4::Handle,
    lock: &StateId,
) -> Compound<'a> {
    let all = call.sequence(true).putfh(file).locku((0, TO_END), lock);
    all.close()
}

impl NfsVolume {
    /// Leave a holder's open and locks to be ended at the server.
    pub(super) fn leave_holder(&self, holder: &Holder) {
        let Some(open) = holder.open else { return };
        self.leave(match holder.lock {
            Some(lock) => Leftover::Locks(holder.handle, lock.newest(), open, holder.user),
            None => Leftover::Open(holder.handle, open, holder.user),
        });
    }

    /// An open file of the host is closed: what was locked only through it is unlocked.
    pub(super) fn unlock_through(&self, opener: u64) {
        let mut locks = self.locks.lock();
        while !locks.is_empty()
            && let Some(at) = locks.only_through(opener)
            && let Some(holder) = locks.remove(at, |_| ())
        {
            self.leave_holder(&holder);
            self.unlocked.fetch_add(1, Ordering::Release);
        }
    }

    /// The host is gone: so are its locks.
    pub(super) fn unlock_all(&self) {
        let mut locks = self.locks.lock();
        while let Some((at, _)) = locks.holder_after(0)
            && let Some(holder) = locks.remove(at, |_| ())
        {
            self.leave_holder(&holder);
        }
    }

    /// A holder's locks are lost: others may have had them since. Files through which they were taken fail from now on.
    pub(super) fn lose_locks(&'static self, at: TaskId) {
        let mut openers = heapless::Vec::<u64, 16>::new();
        let mut more = false;
        let lost = self.locks.lock().remove(at, |range| {
            more |= !openers.contains(&range.opener) && openers.push(range.opener).is_err();
        });
        let (Some(lost), false) = (lost, openers.is_empty()) else {
            return;
        };
        crate::log::warn!("nfs: locks are lost; what was opened for them fails");
        self.each_opened(
            |file| openers.contains(&file.owner) || (more && file.node == lost.key.node),
            |state| state.lost = Some(Errno::EIO),
        );
    }

    /// Locks that the server does not have are lost.
    pub(super) fn lose_unclaimed(&'static self) {
        let mut place = 0;
        loop {
            let found = self.locks.lock().holder_after(place);
            let Some((at, holder)) = found else { return };
            place = at.index;
            if holder.lock.is_none() {
                self.lose_locks(at);
            }
        }
    }

    /// Read a lock that is in the way.
    fn lock_in_the_way(&self, found: &Locked) -> Lock {
        let end = match found.len {
            // Ganesha says zero, which cannot be, for a lock that reaches to the end.
            0 | TO_END => u64::MAX,
            len => found.start.saturating_add(len - 1),
        };
        const LAST: u64 = i64::MAX as u64;
        let ours = found.owner.filter(|(client, _)| {
            // Who else has a number like this one is another client.
            self.standing.lock().client == Some(*client)
        });
        let pid = ours.and_then(|(_, number)| self.locks.lock().pid(number));
        Lock {
            start: found.start.min(LAST),
            end: end.min(LAST),
            kind: if found.write {
                LockKind::Write
            } else {
                LockKind::Read
            },
            // Linux has zero for a process of another machine, too.
            pid: pid.unwrap_or(0),
        }
    }
}

impl Nfs {
    /// Begin to lock or to unlock.
    pub(super) fn begin_lock(
        &mut self,
        file: Pinned<OpenFile>,
        request: &LockRequest,
        reply: Reply<()>,
    ) {
        let lost = file.state.lock().lost;
        let mut lock = request.lock;
        if let (Some(lost), true) = (lost, lock.kind != LockKind::Unlock) {
            self.unpin(file);
            return reply.err(lost);
        }
        if request.flock {
            (lock.start, lock.end) = WHOLE;
        }
        let key = Key {
            node: file.node,
            owner: request.owner,
            flock: request.flock,
        };
        let call = LockCall {
            reply,
            key,
            lock,
            wait: request.wait,
            claimed: None,
            opens: false,
            only_opens: false,
            closes: false,
            life: 0,
            met: 0,
        };
        let user = file.user;
        self.start(Op::Lock(call), user, Some(file), With::Nothing, |call| call);
    }

    /// Begin to unlock what a process of the host has locked in a file of which it closes a descriptor.
    pub(super) fn begin_flush(&mut self, file: Pinned<OpenFile>, owner: u64, reply: Reply<()>) {
        let key = Key {
            node: file.node,
            owner,
            flock: false,
        };
        let unsaid = file.state.lock().unsaid.take();
        let mut locks = self.volume.locks.lock();
        let held = locks.find(&key);
        if let Some(unsaid) = unsaid {
            // The host hears of that, and the server of the locks when it is free.
            let holder = held.and_then(|at| locks.remove(at, |_| ()));
            drop(locks);
            if let Some(holder) = holder {
                self.volume.leave_holder(&holder);
            }
            self.unpin(file);
            return reply.err(unsaid);
        }
        drop(locks);
        if held.is_none() {
            self.unpin(file);
            return reply.ok(());
        }
        let lock = Lock {
            start: WHOLE.0,
            end: WHOLE.1,
            kind: LockKind::Unlock,
            pid: 0,
        };
        let request = LockRequest {
            owner,
            lock,
            flock: false,
            wait: false,
        };
        self.begin_lock(file, &request, reply);
    }

    /// Begin to look for a lock in the way.
    pub(super) fn begin_getlk(
        &mut self,
        file: Pinned<OpenFile>,
        request: &LockRequest,
        reply: Reply<Lock>,
    ) {
        let key = Key {
            node: file.node,
            owner: request.owner,
            flock: request.flock,
        };
        let number = {
            let mut locks = self.volume.locks.lock();
            let found = locks.find(&key);
            found.and_then(|at| locks.get_mut(at).map(|holder| holder.number))
        };
        let (lock, handle, user) = (request.lock, file.handle, file.user);
        self.unpin(file);
        let number = number.unwrap_or_else(|| self.volume.number());
        let write = lock.kind == LockKind::Write;
        self.start(
            Op::TestLock(reply, lock),
            user,
            None,
            With::Nothing,
            |call| {
                let range = Range::on_wire(lock.start, lock.end);
                let call = call.sequence(false).putfh(&handle);
                call.lockt(kind(write, false), range, number)
            },
        );
    }

    /// Write the call of a lock that is to be sent. False when its holder is at work for another.
    pub(super) fn aim_lock(&mut self, handle: TaskId) -> bool {
        let volume = self.volume;
        let Some(task) = self.tasks.get_mut(handle) else {
            return true;
        };
        let (Op::Lock(call), Some(file)) = (&mut task.op, &task.file) else {
            return true;
        };
        let (lock, opened) = (call.lock, (file.access, file.handle, file.user));
        let unlocks = lock.kind == LockKind::Unlock;
        let mut locks = volume.locks.lock();
        let kept = call.claimed.filter(|at| locks.get_mut(*at).is_some());
        let make = || Holder::new(call.key, opened.1, opened.2, volume.number());
        let claimed = match kept {
            Some(at) => Ok(at),
            None if unlocks && locks.find(&call.key).is_none() => Err(None),
            None => locks.claim(&call.key, make).map_err(Some),
        };
        call.claimed = claimed.ok();
        call.life = locks.life();
        let at = match claimed {
            Ok(at) => at,
            Err(Some(Denied::Busy)) => return false,
            Err(refused) => {
                drop(locks);
                match (refused, self.finish(handle)) {
                    // Nothing is locked.
                    (None, Op::Lock(call)) => call.reply.ok(()),
                    (_, op) => op.fail(Errno::ENOLCK),
                }
                return true;
            }
        };
        let closes = unlocks && locks.is_all(at, lock.start, lock.end);
        let Some(holder) = locks.get_mut(at) else {
            return true;
        };
        if !unlocks {
            holder.pid = lock.pid;
        }
        let holder = *holder;
        drop(locks);
        let access = holder.access | opened.0;
        call.opens = !unlocks && (holder.open.is_none() || access != holder.access);
        call.only_opens = call.opens && !volume.locks_at_once.load(Ordering::Relaxed);
        call.closes = closes;
        let (opens, wait) = (call.opens, call.wait);
        let only_opens = call.only_opens;
        let with = match holder.open {
            Some(open) if closes => With::This(open),
            _ => With::Nothing,
        };
        if unlocks && holder.lock.is_none() {
            // It waits for its first lock, or is to have it made anew.
            volume.locks.lock().set(at, (lock.start, lock.end), None);
            if let Op::Lock(call) = self.finish(handle) {
                call.reply.ok(());
            }
            return true;
        }
        let range = Range::on_wire(lock.start, lock.end);
        let kind = kind(lock.kind == LockKind::Write, wait && holder.notifies);
        let asked = task.asked;
        let built = self.build(handle, with, 0, |call| match holder.lock {
            Some(state) if closes => leave_call(call, &holder.handle, &state.newest()),
            Some(state) if unlocks => {
                let call = call.sequence(true).putfh(&holder.handle);
                call.locku(range, &state.newest())
            }
            state => {
                let mut call = call.sequence(true).putfh(&holder.handle);
                if opens {
                    call = open_for(call, &holder, access, &OpenClaim::Current);
                }
                if only_opens {
                    return call;
                }
                let open = match holder.open {
                    Some(open) if !opens => open.newest(),
                    _ => CURRENT,
                };
                match state {
                    Some(lock) => call.lock_more(kind, false, range, &lock.newest()),
                    None => call.lock_new(kind, false, range, &open, holder.number),
                }
            }
        });
        if let Some(task) = self.tasks.get_mut(handle) {
            // To write the call again is not to get on.
            task.asked = asked;
        }
        built
    }

    /// Read the answer to a lock or an unlock.
    pub(super) fn locked(
        &mut self,
        handle: TaskId,
        mut results: Results<'_>,
    ) -> Result<(), Trouble> {
        let volume = self.volume;
        let Some(task) = self.tasks.get(handle) else {
            return Ok(());
        };
        let (Op::Lock(call), Some(file)) = (&task.op, &task.file) else {
            return Ok(());
        };
        let (lock, opener, access) = (call.lock, file.owner, file.access);
        let (opens, only_opens, closes) = (call.opens, call.only_opens, call.closes);
        let Some(at) = call.claimed else {
            return Ok(());
        };
        let stale = {
            let locks = volume.locks.lock();
            call.life != locks.life() || locks.get(at).is_none()
        };
        if stale {
            // What the server said before it forgot all that we have is not so any more.
            self.make_ready(handle);
            return Ok(());
        }
        ok(results.step(op::PUTFH))?;
        if opens {
            let open = ok(results.open())?;
            volume.give_back(&open, &file.handle, file.user);
            if let Some(holder) = volume.locks.lock().get_mut(at) {
                holder.open = Some(open.stateid);
                holder.access |= access;
                holder.notifies = open.notifies;
            }
        }
        if only_opens {
            self.make_ready(handle);
            return Ok(());
        }
        let unlocks = lock.kind == LockKind::Unlock;
        let outcome = if unlocks {
            ok(results.locku())
        } else {
            ok(results.lock())
        };
        let state = match outcome {
            Ok(state) => state,
            Err(Trouble::Status(Status::ERR_DENIED)) if !unlocks => {
                self.wait_for_lock(handle);
                return Ok(());
            }
            Err(Trouble::Status(Status::ERR_BAD_STATEID)) if opens => {
                volume.locks_at_once.store(false, Ordering::Relaxed);
                self.make_ready(handle);
                return Ok(());
            }
            Err(trouble) => return Err(trouble),
        };
        let mut locks = volume.locks.lock();
        if let Some(holder) = locks.get_mut(at) {
            holder.lock = Some(state);
            if closes {
                let open = holder.open.take();
                holder.lock = None;
                // Any other open that the server does not close now it closes when it misses our lease.
                if let Some(open) = open.filter(|_| results.status().class() == Class::Later) {
                    volume.leave(Leftover::Open(holder.handle, open, holder.user));
                }
            }
        }
        let set = (!unlocks).then_some((lock.kind == LockKind::Write, opener));
        locks.set(at, (lock.start, lock.end), set);
        drop(locks);
        // Others may have what is not locked for writing any more.
        if lock.kind != LockKind::Write {
            volume.unlocked.fetch_add(1, Ordering::Release);
        }
        if let Op::Lock(call) = self.finish(handle) {
            call.reply.ok(());
        }
        Ok(())
    }

    /// A lock is in the way: wait, or give up.
    fn wait_for_lock(&mut self, handle: TaskId) {
        let (ending, epoch) = (self.ending, self.volume.epoch.load(Ordering::Acquire));
        let Some(task) = self.tasks.get_mut(handle) else {
            return;
        };
        let Op::Lock(call) = &mut task.op else { return };
        if !call.wait {
            return self.fail(handle, Errno::EAGAIN);
        }
        if ending || call.reply.interrupted() || call.reply.epoch() != epoch {
            return self.fail(handle, Errno::EINTR);
        }
        if let Some(at) = call.claimed.take() {
            self.volume.locks.lock().release(at);
        }
        let wait = (RETRY.0 << call.met.min(7)).min(RETRY.1);
        call.met += 1;
        // The server is not what it waits for.
        task.asked = Instant::default();
        self.wait(handle, wait);
    }

    /// A lock's call failed. True when that is dealt with.
    pub(super) fn lock_failed(&mut self, handle: TaskId, status: Status) -> bool {
        let Some(Op::Lock(call)) = self.tasks.get(handle).map(|task| &task.op) else {
            return false;
        };
        let Some(at) = call.claimed.filter(|_| status.class() == Class::State) else {
            return false;
        };
        let unlocks = call.lock.kind == LockKind::Unlock;
        let held = {
            let mut locks = self.volume.locks.lock();
            if let Some(holder) = locks.get_mut(at) {
                (holder.open, holder.lock, holder.access) = (None, None, 0);
            }
            if unlocks {
                // What the server forgot is unlocked.
                locks.set(at, (call.lock.start, call.lock.end), None);
            }
            locks.ranges(at).next().is_some()
        };
        if held {
            self.volume.lose_locks(at);
        }
        if unlocks {
            if let Op::Lock(call) = self.finish(handle) {
                call.reply.ok(());
            }
        } else if held {
            self.fail(handle, Errno::EIO);
        } else {
            // Only the open is gone, made for a lock that waits.
            self.delay(handle);
        }
        true
    }

    /// A task about a lock ends: its holder is free for the next, and gone when it holds nothing.
    pub(super) fn settle_lock(&self, call: &LockCall) {
        let mut locks = self.volume.locks.lock();
        if let Some(at) = call.claimed {
            locks.release(at);
        }
        let at = call.claimed.or_else(|| locks.find(&call.key));
        if let Some(holder) = at.and_then(|at| locks.remove_idle(at)) {
            self.volume.leave_holder(&holder);
        }
    }

    /// Read the answer to a question about a lock.
    pub(super) fn tested(
        &mut self,
        handle: TaskId,
        mut results: Results<'_>,
    ) -> Result<(), Trouble> {
        ok(results.step(op::PUTFH))?;
        let found = ok(results.lockt())?;
        let found = found.map(|found| self.volume.lock_in_the_way(&found));
        if let Op::TestLock(reply, asked) = self.finish(handle) {
            reply.ok(found.unwrap_or(Lock {
                kind: LockKind::Unlock,
                ..asked
            }));
        }
        Ok(())
    }

    /// Ask again for locks that are waited for, when something was unlocked.
    pub(super) fn look_for_locks(&mut self) {
        let unlocked = self.volume.unlocked.load(Ordering::Acquire);
        if core::mem::replace(&mut self.unlocked, unlocked) == unlocked {
            return;
        }
        for (handle, task) in self.tasks.iter_mut() {
            if let (Op::Lock(_), Place::Delayed(_)) = (&task.op, task.place) {
                task.place = Place::Ready;
                self.delayed -= 1;
                let _ = self.ready.push(handle);
            }
        }
    }

    /// End the waiting for locks: for the lock that a request asks for, or for all.
    pub(super) fn stop_waiting(&mut self, target: Option<SlotId>) {
        // One that is with the server, or may be, waits for what that says.
        let waits = |op: &Op| match op {
            Op::Lock(call) if call.claimed.is_none() => {
                call.wait && target.is_none_or(|target| call.reply.id() == target)
            }
            _ => false,
        };
        loop {
            let mut tasks = self.tasks.iter();
            let found = tasks.find_map(|(handle, task)| waits(&task.op).then_some(handle));
            drop(tasks);
            match found {
                Some(handle) => self.fail(handle, Errno::EINTR),
                None => return,
            }
        }
    }
}
