//! Locks, taken on the file system below, so that they hold against everyone else there too.
//!
//! A flock(2) belongs to an open file, so it is taken on that file's descriptor. A POSIX lock belongs to an owner, a
//! process of the host, whatever file it was taken through. Here it becomes a lock of an open file description of its
//! own for each node and owner; closing that releases all the owner's locks at once, as a close(2) on the host must.
//!
//! Nothing here waits for a lock. Whoever must wait is asked again by its core: when a lock was released through this
//! volume, and from time to time because others may have released one.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::vec::Vec;

use super::job::Answer;
use super::volume::LocalVolume;
use crate::fuse::{Fh, Lock, LockKind, LockRequest, NodeId};
use crate::sys::Result;
use crate::sys::fd::Fd;
use crate::sys::lock::{self, RangeLock};
use crate::wire::errno::Errno;

/// Most owners of locks at a time, over all files of a device.
const OWNERS: usize = 4096;
/// Last byte of a range that reaches to the end of the file.
const TO_END: u64 = i64::MAX as u64;

struct Owner {
    node: NodeId,
    owner: u64,
    /// The process that took the last lock, for GETLK.
    pid: u32,
    fd: Fd,
}

/// Hold who has POSIX locks.
pub struct Owners {
    owners: Mutex<Vec<Owner>>,
    count: AtomicUsize,
}

impl Owners {
    /// Make an empty table.
    pub fn new() -> Self {
        Self {
            owners: Mutex::new(Vec::with_capacity(OWNERS)),
            count: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Owner>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tell whether nobody has a lock.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Release all locks of an owner on a node; tells whether there were any.
    pub fn release(&self, node: NodeId, owner: u64) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut owners = self.lock();
        let found = owners
            .iter()
            .position(|held| held.node == node && held.owner == owner);
        if let Some(at) = found {
            drop(owners.swap_remove(at));
            self.count.store(owners.len(), Ordering::Release);
        }
        found.is_some()
    }

    /// Release all.
    pub fn clear(&self) {
        let mut owners = self.lock();
        owners.clear();
        self.count.store(0, Ordering::Release);
    }
}

impl LocalVolume {
    /// Tell the cores that locks were released: requests may be waiting for them.
    pub(super) fn announce_unlock(&self) {
        for mailbox in self.mailboxes.iter().map_while(OnceLock::get) {
            if mailbox.waiting.load(Ordering::SeqCst) > 0 {
                mailbox.unlocked.store(true, Ordering::SeqCst);
                mailbox.wake();
            }
        }
    }

    pub(super) fn set_lock(&'static self, fh: Fh, request: &LockRequest) -> Result<Answer> {
        let file = self.opened(fh)?;
        let unlocks = request.lock.kind == LockKind::Unlock;
        let taken = if request.flock {
            let operation = match request.lock.kind {
                LockKind::Read => libc::LOCK_SH,
                LockKind::Write => libc::LOCK_EX,
                LockKind::Unlock => libc::LOCK_UN,
            };
            lock::flock(file.fd.raw(), operation)
        } else {
            self.set_owned(&file, request)
        };
        match taken {
            // A flock(2) that is changed is given up first, whether the change succeeds or not.
            Ok(()) | Err(Errno::EAGAIN) if unlocks || request.flock => self.announce_unlock(),
            _ => {}
        }
        match taken {
            Ok(()) => Ok(Answer::Done),
            Err(Errno::EAGAIN) => Ok(Answer::Busy),
            Err(error) => Err(error),
        }
    }

    fn set_owned(&self, file: &super::files::OpenFile, request: &LockRequest) -> Result<()> {
        let range = range(&request.lock);
        let mut owners = self.owners.lock();
        let found = owners
            .iter_mut()
            .find(|held| held.node == file.node && held.owner == request.owner);
        if let Some(held) = found {
            held.pid = request.lock.pid;
            return lock::set_range(held.fd.raw(), range);
        }
        if request.lock.kind == LockKind::Unlock {
            return Ok(());
        }
        if owners.len() == OWNERS {
            return Err(Errno::ENOLCK);
        }
        let own = self.reopen_file(file.fd.raw(), libc::O_RDWR).or_else(|_| {
            // A file that cannot be written to now can still be locked for reading, and the other way round.
            let only = match request.lock.kind {
                LockKind::Write => libc::O_WRONLY,
                _ => libc::O_RDONLY,
            };
            self.reopen_file(file.fd.raw(), only)
        })?;
        lock::set_range(own.raw(), range)?;
        owners.push(Owner {
            node: file.node,
            owner: request.owner,
            pid: request.lock.pid,
            fd: own,
        });
        self.owners.count.store(owners.len(), Ordering::Release);
        Ok(())
    }

    pub(super) fn test_lock(&'static self, fh: Fh, request: &LockRequest) -> Result<Answer> {
        let file = self.opened_file(fh)?;
        let wanted = range(&request.lock);
        let owners = self.owners.lock();
        let own = owners
            .iter()
            .find(|held| held.node == file.node && held.owner == request.owner);
        // A descriptor without locks sees all that are in the way.
        let fd = own.map_or(file.fd.raw(), |held| held.fd.raw());
        let Some(found) = lock::test_range(fd, wanted)? else {
            return Ok(Answer::Lock(Lock {
                kind: LockKind::Unlock,
                ..request.lock
            }));
        };
        // The kernel does not say whose it is. The holder is the one to whom it is not in the way.
        let exclusive = RangeLock {
            kind: libc::F_WRLCK,
            ..found
        };
        let holder = owners.iter().find(|held| {
            held.node == file.node
                && held.owner != request.owner
                && lock::test_range(held.fd.raw(), exclusive) != Ok(Some(found))
        });
        let end = match found.len {
            0 => TO_END,
            len => found.start + len - 1,
        };
        Ok(Answer::Lock(Lock {
            start: found.start,
            end,
            kind: if found.kind == libc::F_WRLCK {
                LockKind::Write
            } else {
                LockKind::Read
            },
            pid: holder.map_or(0, |held| held.pid),
        }))
    }
}

fn range(lock: &Lock) -> RangeLock {
    let kind = match lock.kind {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    };
    RangeLock {
        kind,
        start: lock.start,
        len: match lock.end {
            TO_END => 0,
            end => end - lock.start + 1,
        },
    }
}
