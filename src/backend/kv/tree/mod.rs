//! The tree: a complete file system, written once over [`Engine`]'s mini-transactions.
//!
//! ```text
//!  FileSystem method ──> Work in the desk's table ──issue──> engine
//!                          ^                                   │ record(): into the reply, or kept
//!                          └── landed: next step, or answer <──┘ done(): to the ready queue
//! ```
//!
//! A request reads what it depends on ([`Op::Get`]), then changes it in one transaction that checks the versions it
//! read; when something came between, it begins again. So every operation on names happens at once or not at all,
//! whatever dies in between, and several cores and daemons may work on one volume. Fields that many requests change
//! (a directory's times and counts, a file's size) are patched without being read.
//!
//! | operation | round trips |
//! |---|---|
//! | LOOKUP, GETATTR, STATX, READLINK, GETXATTR, LISTXATTR, READ, WRITE, SYNC, STATFS | 1 |
//! | OPEN, OPENDIR, RELEASE, FLUSH | 0; OPEN that truncates as SETATTR |
//! | CREATE, MKNOD, MKDIR, SYMLINK, LINK, UNLINK, RMDIR, RENAME, SETXATTR, SETATTR | 2 |
//! | READDIR | 1, the first of a directory 2 |
//! | WRITE with O_APPEND, or that ends set-user-ID bits | 2 to 3 |
//! | COPY_FILE_RANGE | 1, and one for each MiB |
//! | SETATTR that makes a file shorter | 6 |
//!
//! An engine whose content spreads over several servers takes more for what is far.
//!
//! # Crash safety
//! A file without a name has an orphan record until it is removed, which happens when the host lets go of it, or by a
//! sweep after a crash. A file that is made shorter is marked until the content behind its end is cleared; whoever
//! wants to make it longer clears that first. COPY_FILE_RANGE copies up to 1 MiB in one step with the size; a crash
//! leaves what was copied so far.
//!
//! # What is the host's
//! Permissions, locks (POSIX and BSD: right within one host, not shared between hosts) and the avoidance of loops by
//! RENAME. Access times are not kept. ACLs are refused; COPY_FILE_RANGE, too, where the engine does not copy, and
//! the host copies by itself then. FALLOCATE preallocates nothing, and neither collapses nor inserts ranges.

mod attrs;
mod content;
mod copy;
mod desk;
mod filesystem;
mod lists;
mod long;
mod names;
mod rename;
mod sweep;
mod volume;

use core::ffi::CStr;

use zerocopy::FromZeros;

use super::engine::{Busy, Done, Engine, Failure, NAME_MAX, Op, TARGET_MAX, Token, VALUE_MAX};
use crate::mem::{Arena, Handle, OutOfMemory};
use crate::wire::errno::Errno;
use desk::{Desk, Kind};
use long::Longs;
pub use volume::{Node, TreeVolume};

/// Numbers that a core reserves at a time.
const LEASE: u32 = 4096;
/// Attempts before a request that others keep overtaking is given up.
const TRIES: u16 = 1000;

/// Arguments that outlive the call.
#[derive(FromZeros)]
struct Args {
    names: [[u8; NAME_MAX]; 2],
    lens: [usize; 2],
    bytes: [u8; TARGET_MAX],
    len: usize,
}

impl Args {
    fn name(&self, which: usize) -> &[u8] {
        &self.names[which][..self.lens[which]]
    }

    fn set_name(&mut self, which: usize, name: &[u8]) {
        let len = name.len().min(NAME_MAX);
        self.names[which][..len].copy_from_slice(&name[..len]);
        self.lens[which] = len;
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn set_bytes(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let place = self.bytes.get_mut(..bytes.len()).ok_or(Errno::ENOSPC)?;
        place.copy_from_slice(bytes);
        self.len = bytes.len();
        Ok(())
    }
}

/// Serve a volume to one core of a device.
pub struct Tree<E> {
    engine: E,
    desk: Desk,
    args: &'static mut [Args],
    /// Values of attributes that are too long for those.
    longs: Longs,
    /// Numbers that were reserved and not used yet.
    numbers: core::ops::Range<u64>,
    leasing: bool,
    round_trips: u64,
}

impl<E: Engine> Tree<E> {
    /// Make one for `requests` in flight.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena has less than [`Self::footprint`].
    pub fn new(
        arena: &Arena,
        volume: &'static TreeVolume,
        engine: E,
        requests: u32,
    ) -> Result<Self, OutOfMemory> {
        // Reaping goes on beside the host's requests.
        let requests = requests + SPARE;
        Ok(Self {
            engine,
            desk: Desk::new(arena, volume, requests)?,
            args: arena.zeroed(requests as usize + 1)?,
            longs: Longs::new(arena)?,
            numbers: 0..0,
            leasing: false,
            round_trips: 0,
        })
    }

    /// Give the bytes of arena that an instance needs.
    pub const fn footprint(requests: u32) -> usize {
        let requests = requests + SPARE;
        Desk::footprint(requests) + (requests as usize + 2) * size_of::<Args>() + Longs::footprint()
    }

    /// Give the number of operations that the engine took so far.
    pub fn round_trips(&self) -> u64 {
        self.round_trips
    }

    /// Give the engine.
    pub fn engine(&mut self) -> &mut E {
        &mut self.engine
    }

    /// Begin a request: enter it, take its arguments, and go.
    fn start(
        &mut self,
        kind: Kind,
        ino: Result<u64, Errno>,
        fill: impl FnOnce(&mut Args) -> Result<(), Errno>,
    ) {
        if let Some(handle) = self.enter(kind, ino, fill) {
            self.begin(handle);
        }
    }

    /// As [`Self::start`], with a value that may be long.
    fn start_with(
        &mut self,
        kind: Kind,
        ino: Result<u64, Errno>,
        value: &[u8],
        fill: impl FnOnce(&mut Args) -> Result<(), Errno>,
    ) {
        if value.len() > VALUE_MAX {
            return kind.err(Errno::E2BIG);
        }
        let Some(handle) = self.enter(kind, ino, fill) else {
            return;
        };
        let args = &mut self.args[handle.index as usize];
        args.len = value.len();
        let works = &self.desk.works;
        let place = match args.bytes.get_mut(..value.len()) {
            Some(short) => Some(short),
            None => {
                let long = self.longs.take(handle, |owner| works.get(owner).is_some());
                long.map(|long| &mut long[..value.len()])
            }
        };
        match place {
            Some(place) => place.copy_from_slice(value),
            None => return self.fail(handle, Errno::ENOMEM),
        }
        self.begin(handle);
    }

    fn enter(
        &mut self,
        kind: Kind,
        ino: Result<u64, Errno>,
        fill: impl FnOnce(&mut Args) -> Result<(), Errno>,
    ) -> Option<Handle> {
        let ino = match ino {
            Ok(ino) => ino,
            Err(error) => {
                kind.err(error);
                return None;
            }
        };
        let handle = self.desk.enter(kind, ino)?;
        if let Err(error) = fill(&mut self.args[handle.index as usize]) {
            self.fail(handle, error);
            return None;
        }
        Some(handle)
    }

    fn begin(&mut self, handle: Handle) {
        self.desk.wipe(handle);
        self.issue(handle);
        self.turn();
    }

    /// Go on with all requests whose operations ended.
    fn turn(&mut self) {
        while let Some(handle) = self.desk.next_ready() {
            self.landed(handle);
        }
    }

    /// Hand an operation to the engine; when that is busy, the request waits and is issued again.
    fn ask(&mut self, handle: Handle, op: &Op<'_>) {
        self.ask_with(handle, |_| *op);
    }

    /// As [`Self::ask`], for an operation that borrows the request's arguments.
    fn ask_with<'a>(&'a mut self, handle: Handle, op: impl FnOnce(&'a Args) -> Op<'a>) {
        let args = &self.args[handle.index as usize];
        let op = op(args);
        match self
            .engine
            .submit(Token(handle.to_bits()), &op, &mut self.desk)
        {
            Ok(()) => self.round_trips += 1,
            Err(Busy) => self.desk.wait(handle),
        }
    }

    /// End a request with an error.
    fn fail(&mut self, handle: Handle, error: Errno) {
        if let Some(work) = self.desk.works.remove(handle) {
            work.kind.err(error);
        }
    }

    /// Begin a request again: something came between what it read and what it wanted to change.
    fn again(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get_mut(handle) else {
            return;
        };
        work.tries += 1;
        work.step = 0;
        if work.tries > TRIES {
            return self.fail(handle, Errno::EBUSY);
        }
        self.desk.wipe(handle);
        self.issue(handle);
    }

    /// Go to a step.
    fn go(&mut self, handle: Handle, step: u8) {
        if let Some(work) = self.desk.works.get_mut(handle) {
            work.step = step;
            self.issue(handle);
        }
    }

    /// Give a request's number: one that nobody else has. `None` when it has to wait for more.
    fn number(&mut self, handle: Handle) -> Option<u64> {
        let few = self.numbers.end - self.numbers.start < u64::from(LEASE) / 4;
        if few
            && !self.leasing
            && let Some(lease) = self.desk.enter(Kind::Lease, 0)
        {
            self.leasing = true;
            self.issue(lease);
        }
        let work = self.desk.works.get_mut(handle)?;
        if work.number == 0 {
            let Some(number) = self.numbers.next() else {
                self.desk.wait(handle);
                return None;
            };
            work.number = number;
        }
        Some(work.number)
    }

    /// Submit the operation of a request's present step.
    fn issue(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        if work.step >= content::SETTLE {
            return self.issue_settle(handle);
        }
        match &work.kind {
            Kind::Answered => self.fail(handle, Errno::EIO),
            Kind::Lookup(_) => self.issue_lookup(handle),
            Kind::Make { .. } => self.issue_make(handle),
            Kind::Unlink { .. } => self.issue_unlink(handle),
            Kind::Rename { .. } => self.issue_rename(handle),
            Kind::Link { .. } => self.issue_link(handle),
            Kind::Getattr(_) | Kind::Statx(_) => self.issue_getattr(handle),
            Kind::Setattr { .. } | Kind::Open { .. } => self.issue_setattr(handle),
            Kind::Readlink(_) => self.issue_readlink(handle),
            Kind::Getxattr(_) | Kind::Listxattr { .. } => self.issue_getxattr(handle),
            Kind::Setxattr { .. } | Kind::Removexattr(_) => self.issue_setxattr(handle),
            Kind::Read { .. } => self.issue_read(handle),
            Kind::Write { .. } => self.issue_write(handle),
            Kind::Allocate { .. } => self.issue_allocate(handle),
            Kind::Copy { .. } => self.issue_copy(handle),
            Kind::Seek { .. } => self.issue_seek(handle),
            Kind::List { .. } => self.issue_list(handle),
            Kind::Sync(_) => self.ask(handle, &Op::Sync),
            Kind::Statfs(_) => self.ask(handle, &Op::Usage),
            Kind::Lease => self.ask(handle, &Op::Reserve { count: LEASE }),
            Kind::Reap => self.issue_reap(handle),
            Kind::Sweep { .. } => self.issue_sweep(handle),
        }
    }

    /// Go on after the operation of a request's present step.
    fn landed(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let done = match work.result {
            Ok(done) => done,
            Err(Failure::Conflict) => return self.conflict(handle),
            Err(failure) => return self.failed(handle, failure),
        };
        if work.step >= content::SETTLE {
            return self.landed_settle(handle, done);
        }
        match &work.kind {
            // The answer went out with the record.
            Kind::Answered => drop(self.desk.works.remove(handle)),
            Kind::Lookup(_) => self.landed_lookup(handle),
            Kind::Make { .. } => self.landed_make(handle),
            Kind::Unlink { .. } => self.landed_unlink(handle),
            Kind::Rename { .. } => self.landed_rename(handle),
            Kind::Link { .. } => self.landed_link(handle),
            Kind::Getattr(_) | Kind::Statx(_) => self.landed_getattr(handle),
            Kind::Setattr { .. } | Kind::Open { .. } => self.landed_setattr(handle),
            Kind::Readlink(_) => self.fail(handle, Errno::EINVAL),
            Kind::Getxattr(_) => self.fail(handle, Errno::ENODATA),
            Kind::Listxattr { .. } => self.landed_listxattr(handle, done),
            Kind::Setxattr { .. } | Kind::Removexattr(_) => self.landed_setxattr(handle),
            Kind::Read { .. } => self.landed_read(handle),
            Kind::Write { .. } => self.landed_write(handle),
            Kind::Allocate { .. } => self.landed_allocate(handle, done),
            Kind::Copy { .. } => self.landed_copy(handle),
            Kind::Seek { .. } => self.landed_seek(handle, done),
            Kind::List { .. } => self.landed_list(handle),
            Kind::Sync(_) => {
                if let Some(Kind::Sync(reply)) = self.desk.works.remove(handle).map(|w| w.kind) {
                    reply.ok(());
                }
            }
            Kind::Statfs(_) => self.landed_statfs(handle, done),
            Kind::Lease => self.landed_lease(handle, done),
            Kind::Reap => self.landed_reap(handle, done),
            Kind::Sweep { .. } => self.landed_sweep(handle, done),
        }
    }

    fn landed_lease(&mut self, handle: Handle, done: Done) {
        self.leasing = false;
        self.desk.works.remove(handle);
        if let Done::First(first) = done {
            // What is left of the last one is never used: numbers are plenty.
            self.numbers = first..first + u64::from(LEASE);
        }
    }

    fn conflict(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        match (&work.kind, work.step) {
            (_, content::SETTLE) => self.unsettled(handle),
            (_, content::SETTLE..) => self.go(handle, content::SETTLE_LOOK),
            // The inode is not as a plain write needs it: look how it is.
            (Kind::Write { .. }, content::WRITE) => self.go(handle, content::WRITE_LOOK),
            (Kind::Allocate { .. }, content::EXTEND) => self.go(handle, content::ALLOCATE_LOOK),
            // It has a name again, or is gone.
            (Kind::Reap, _) => drop(self.desk.works.remove(handle)),
            _ => self.again(handle),
        }
    }

    fn failed(&mut self, handle: Handle, failure: Failure) {
        if let Some(work) = self.desk.works.get(handle) {
            match work.kind {
                Kind::Lease => self.leasing = false,
                Kind::Sweep { .. } => self.end_sweep(),
                _ => {}
            }
        }
        let error = match failure {
            Failure::Full => Errno::ENOSPC,
            Failure::Conflict => Errno::EBUSY,
            Failure::Unreachable => Errno::ETIMEDOUT,
            Failure::Unknown | Failure::Broken => Errno::EIO,
            Failure::Unsupported => Errno::EOPNOTSUPP,
        };
        self.fail(handle, error);
    }
}

/// Requests beyond the host's: one lease, one sweep, and removals.
const SPARE: u32 = 64;

/// Tell what of a name space an extended attribute is in; those that are not kept are refused.
///
/// # Errors
/// `EOPNOTSUPP` for ACLs and unknown name spaces.
fn xattr_allowed(name: &CStr) -> Result<&[u8], Errno> {
    let name = name.to_bytes();
    let spaces: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    match spaces.iter().any(|space| name.starts_with(space)) {
        true if name.len() <= NAME_MAX => Ok(name),
        true => Err(Errno::ERANGE),
        false => Err(Errno::EOPNOTSUPP),
    }
}
