//! Removing what has no name: at once, when the host lets go of it, or after a crash.

use super::super::engine::{Done, Engine, Expect, Key, List, Op};
use super::super::record::field;
use super::Tree;
use super::desk::Kind;
use crate::mem::Handle;
use core::sync::atomic::Ordering;

const LOOK: u8 = 0;
const CLEAR: u8 = 1;
const PURGE: u8 = 2;

/// An inode that has no name.
const NAMELESS: Expect = Expect::Bits {
    at: field::NLINK,
    mask: u32::MAX,
    want: 0,
};

impl<E: Engine> Tree<E> {
    /// Remove an inode, unless it has a name by now.
    pub(super) fn reap(&mut self, ino: u64) {
        match self.desk.enter(Kind::Reap, ino) {
            Some(handle) => {
                self.desk.wipe(handle);
                self.issue(handle);
            }
            None => self.desk.volume.sweep.store(true, Ordering::Release),
        }
    }

    pub(super) fn issue_reap(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let (ino, next) = (work.ino, work.next_byte);
        match work.step {
            LOOK => self.ask(
                handle,
                &Op::Get {
                    keys: &[Key::Inode(ino)],
                    follow: false,
                },
            ),
            CLEAR => {
                let inode = self.desk.found(handle, 0).inode;
                let op = Op::Clear {
                    ino,
                    from: next,
                    to: u64::MAX,
                    size: inode.size.max(inode.trim),
                    expect: NAMELESS,
                };
                self.ask(handle, &op);
            }
            _ => {
                let expect = NAMELESS;
                self.ask(handle, &Op::Purge { ino, expect });
            }
        }
    }

    pub(super) fn landed_reap(&mut self, handle: Handle, done: Done) {
        let found = *self.desk.found(handle, 0);
        let Some(work) = self.desk.works.get_mut(handle) else {
            return;
        };
        match (work.step, done) {
            (LOOK, _) if found.inode_version == 0 || found.inode.nlink != 0 => {
                self.desk.works.remove(handle);
            }
            (LOOK, _) => self.go(handle, CLEAR),
            (CLEAR, Done::More(next)) => {
                work.next_byte = next;
                self.go(handle, CLEAR);
            }
            (CLEAR, _) => self.go(handle, PURGE),
            _ => drop(self.desk.works.remove(handle)),
        }
    }

    /// Begin to look for orphans, when a session or a crash may have left some.
    pub(super) fn begin_sweep(&mut self) {
        let volume = self.desk.volume;
        if volume.read_only
            || !volume.sweep.load(Ordering::Acquire)
            || volume.sweeping.swap(true, Ordering::AcqRel)
        {
            return;
        }
        volume.sweep.store(false, Ordering::Release);
        match self.desk.enter(Kind::Sweep { after: 0 }, 0) {
            Some(handle) => self.issue(handle),
            None => self.end_sweep(),
        }
    }

    pub(super) fn end_sweep(&mut self) {
        self.desk.volume.sweeping.store(false, Ordering::Release);
    }

    pub(super) fn issue_sweep(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get_mut(handle) else {
            return;
        };
        let Kind::Sweep { after } = work.kind else {
            return;
        };
        work.next_byte = after;
        let op = Op::Scan {
            list: List::Orphans,
            after,
            limit: 1,
            follow: false,
        };
        self.ask(handle, &op);
    }

    pub(super) fn landed_sweep(&mut self, handle: Handle, _: Done) {
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let Kind::Sweep { after } = work.kind else {
            return;
        };
        if after == work.next_byte {
            self.desk.works.remove(handle);
            return self.end_sweep();
        }
        if self.desk.volume.set_orphan(after, true) {
            self.reap(after);
        }
        self.issue(handle);
    }
}
