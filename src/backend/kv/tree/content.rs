//! Content: read, write, allocate, seek; and clearing what a shorter file left behind its end.

use zerocopy::IntoBytes;

use super::super::engine::{Check, Done, Engine, Expect, Key, Op, Patch, Write};
use super::super::record::{Inode, Time, field, mode, state};
use super::Tree;
use super::desk::Kind;
use super::names::touched;
use crate::fuse::{Written, number::Position};
use crate::mem::Handle;
use crate::wire::errno::Errno;

/// Write without having looked.
pub const WRITE: u8 = 0;
/// Look how the inode is, because that did not do.
pub const WRITE_LOOK: u8 = 1;
/// Write to the inode as it was seen.
const WRITE_SEEN: u8 = 2;
/// Drop file capabilities first.
const WRITE_CAPS: u8 = 3;

/// Look at the inode, clear content, make the file longer.
pub const ALLOCATE_LOOK: u8 = 0;
const ALLOCATE_CLEAR: u8 = 1;
pub const EXTEND: u8 = 2;

const SEEK_LOOK: u8 = 0;
const SEEK: u8 = 1;

/// Steps that any request may go through: clear what is behind the end, look, and drop the mark.
pub const SETTLE: u8 = 100;
pub const SETTLE_LOOK: u8 = 101;
const SETTLE_DROP: u8 = 102;

const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;
const ZERO_RANGE: u32 = 0x10;

/// File capabilities.
pub const CAPABILITY: &[u8] = b"security.capability";

impl<E: Engine> Tree<E> {
    /// Give the largest size of a file.
    pub(super) fn size_max(&self) -> u64 {
        u64::from(self.engine.chunk_size()) * u64::from(u32::MAX)
    }

    fn look(&mut self, handle: Handle, ino: u64) {
        let op = Op::Get {
            keys: &[Key::Inode(ino)],
            follow: false,
        };
        self.ask(handle, &op);
    }

    pub(super) fn issue_read(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let ino = work.ino;
        let Kind::Read { reply, offset } = &work.kind else {
            return;
        };
        let op = Op::Read {
            ino,
            offset: *offset,
            len: reply.wanted() as u32,
        };
        if *offset >= self.size_max() {
            return self.fail(handle, Errno::EINVAL);
        }
        self.ask(handle, &op);
    }

    pub(super) fn landed_read(&mut self, handle: Handle) {
        let found = self.desk.found(handle, 0);
        let (version, size) = (found.inode_version, found.inode.size);
        if let Some(Kind::Read { reply, offset }) = self.desk.works.remove(handle).map(|w| w.kind) {
            if version == 0 {
                return reply.err(Errno::ESTALE);
            }
            let left = size.saturating_sub(offset);
            let len = left.min(reply.wanted() as u64) as usize;
            reply.filled(len);
        }
    }

    pub(super) fn issue_write(&mut self, handle: Handle) {
        let size_max = self.size_max();
        let Some(work) = self.desk.works.get_mut(handle) else {
            return;
        };
        let ino = work.ino;
        let Kind::Write {
            reply,
            offset,
            append,
            kill,
        } = &work.kind
        else {
            return;
        };
        let (append, kill, len) = (*append, *kill, reply.wanted() as u32);
        let mut offset = *offset;
        if append && work.step == WRITE {
            work.step = WRITE_LOOK;
        }
        let step = work.step;
        if step == WRITE_LOOK {
            return self.look(handle, ino);
        }
        let found = *self.desk.found(handle, 0);
        let now = [Time::now(); 2];
        if step == WRITE_CAPS {
            return self.drop_capabilities(handle);
        }
        if step == WRITE_SEEN && append {
            offset = found.inode.size;
        }
        let end = match offset.checked_add(len.into()) {
            Some(end) if end <= size_max => end,
            _ => return self.fail(handle, Errno::EFBIG),
        };
        let times = touched(&now, end);
        if step == WRITE {
            let suidgid = if kill {
                mode::S_ISUID | mode::S_ISGID
            } else {
                0
            };
            let op = Op::Write {
                ino,
                offset,
                len,
                expect: Expect::Bits {
                    at: field::MODE,
                    mask: mode::S_IFMT | state::TRIM | state::CAPS | suidgid,
                    want: mode::S_IFREG,
                },
                patches: &times,
            };
            return self.ask(handle, &op);
        }
        let mut inode = found.inode;
        if kill {
            inode.kill_suidgid();
        }
        let mode = inode.mode;
        let patches = [
            times[0],
            times[1],
            Patch::Set {
                at: field::MODE,
                bytes: mode.as_bytes(),
            },
        ];
        let op = Op::Write {
            ino,
            offset,
            len,
            expect: Expect::Version(found.inode_version),
            patches: &patches,
        };
        self.ask(handle, &op);
    }

    /// End file capabilities of the inode that was looked at, before its content changes.
    pub(super) fn drop_capabilities(&mut self, handle: Handle) {
        let found = *self.desk.found(handle, 0);
        let ino = found.inode.ino;
        let patches = [Patch::Clear {
            at: field::MODE,
            bits: state::CAPS,
        }];
        let check = Check {
            key: Key::Inode(ino),
            expect: Expect::Version(found.inode_version),
        };
        let op = Op::Transact {
            checks: &[check],
            writes: &[
                Write::Delete(Key::Xattr(ino, CAPABILITY)),
                Write::Patch(Key::Inode(ino), &patches),
            ],
        };
        self.ask(handle, &op);
    }

    pub(super) fn landed_write(&mut self, handle: Handle) {
        let found = *self.desk.found(handle, 0);
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        match work.step {
            WRITE_LOOK if found.inode_version == 0 => self.fail(handle, Errno::ESTALE),
            WRITE_LOOK if found.inode.kind() != mode::S_IFREG => self.fail(handle, Errno::EINVAL),
            WRITE_LOOK if found.inode.mode & state::TRIM != 0 => self.settle(handle, &found.inode),
            WRITE_LOOK if found.inode.mode & state::CAPS != 0 => self.go(handle, WRITE_CAPS),
            WRITE_LOOK => self.go(handle, WRITE_SEEN),
            WRITE_CAPS => self.go(handle, WRITE),
            _ => {
                if let Some(Kind::Write { reply, .. }) =
                    self.desk.works.remove(handle).map(|work| work.kind)
                {
                    let len = reply.wanted() as u32;
                    reply.ok(Written(len));
                }
            }
        }
    }

    /// The file is not as long any more as it was when clearing behind its end began: look again.
    pub(super) fn unsettled(&mut self, handle: Handle) {
        if let Some(work) = self.desk.works.get_mut(handle) {
            work.next_byte = u64::MAX;
        }
        self.go(handle, SETTLE_LOOK);
    }

    /// Clear what is behind the end of a file, then begin the request again.
    pub(super) fn settle(&mut self, handle: Handle, inode: &Inode) {
        if let Some(work) = self.desk.works.get_mut(handle) {
            (work.next_byte, work.number) = (inode.size, inode.size);
        }
        self.go(handle, SETTLE);
    }

    pub(super) fn issue_settle(&mut self, handle: Handle) {
        let found = *self.desk.found(handle, 0);
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let (ino, from) = (work.ino, work.next_byte);
        match work.step {
            SETTLE => {
                let op = Op::Clear {
                    ino,
                    from,
                    to: u64::MAX,
                    size: found.inode.trim.max(found.inode.size),
                    // Somebody else may have been done with it, and the file be longer by now.
                    expect: Expect::Exactly {
                        at: field::SIZE,
                        value: work.number,
                    },
                };
                self.ask(handle, &op);
            }
            SETTLE_LOOK => {
                self.desk.wipe(handle);
                self.look(handle, ino);
            }
            _ => {
                let patches = [Patch::Clear {
                    at: field::MODE,
                    bits: state::TRIM,
                }];
                let check = Check {
                    key: Key::Inode(ino),
                    expect: Expect::Version(found.inode_version),
                };
                let op = Op::Transact {
                    checks: &[check],
                    writes: &[Write::Patch(Key::Inode(ino), &patches)],
                };
                self.ask(handle, &op);
            }
        }
    }

    pub(super) fn landed_settle(&mut self, handle: Handle, done: Done) {
        let found = *self.desk.found(handle, 0);
        let Some(work) = self.desk.works.get_mut(handle) else {
            return;
        };
        match (work.step, done) {
            (SETTLE, Done::More(next)) => {
                work.next_byte = next;
                self.go(handle, SETTLE);
            }
            (SETTLE, _) => {
                // What was cleared began here; `next_byte` moved on with it.
                work.next_byte = work.number;
                self.go(handle, SETTLE_LOOK);
            }
            (SETTLE_LOOK, _) if found.inode_version == 0 => self.fail(handle, Errno::ESTALE),
            // Somebody else was done with it.
            (SETTLE_LOOK, _) if found.inode.mode & state::TRIM == 0 => self.again(handle),
            // Somebody made it shorter still.
            (SETTLE_LOOK, _) if found.inode.size < work.next_byte => {
                self.settle(handle, &found.inode);
            }
            (SETTLE_LOOK, _) => self.go(handle, SETTLE_DROP),
            _ => self.again(handle),
        }
    }

    pub(super) fn issue_allocate(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let (ino, step, next) = (work.ino, work.step, work.next_byte);
        let Kind::Allocate { end, .. } = work.kind else {
            return;
        };
        if end > self.size_max() {
            return self.fail(handle, Errno::EFBIG);
        }
        match step {
            ALLOCATE_LOOK => self.look(handle, ino),
            ALLOCATE_CLEAR => {
                let size = self.desk.found(handle, 0).inode.size;
                let op = Op::Clear {
                    ino,
                    from: next,
                    to: end.min(size),
                    size,
                    expect: Expect::Present,
                };
                self.ask(handle, &op);
            }
            _ => {
                let now = [Time::now(); 2];
                let patches = touched(&now, end);
                let Kind::Allocate { mode, .. } = self
                    .desk
                    .works
                    .get(handle)
                    .map_or(&Kind::Answered, |work| &work.kind)
                else {
                    return;
                };
                let kept = mode & KEEP_SIZE != 0;
                let check = Check {
                    key: Key::Inode(ino),
                    expect: Expect::Bits {
                        at: field::MODE,
                        mask: state::TRIM,
                        want: 0,
                    },
                };
                let op = Op::Transact {
                    checks: &[check],
                    writes: &[Write::Patch(
                        Key::Inode(ino),
                        if kept { &patches[1..] } else { &patches },
                    )],
                };
                self.ask(handle, &op);
            }
        }
    }

    pub(super) fn landed_allocate(&mut self, handle: Handle, done: Done) {
        let found = *self.desk.found(handle, 0);
        let Some(work) = self.desk.works.get_mut(handle) else {
            return;
        };
        let Kind::Allocate {
            offset, end, mode, ..
        } = work.kind
        else {
            return;
        };
        let inode = &found.inode;
        let clears = mode & (PUNCH_HOLE | ZERO_RANGE) != 0 && offset < inode.size;
        match (work.step, done) {
            (ALLOCATE_LOOK, _) if found.inode_version == 0 => self.fail(handle, Errno::ESTALE),
            (ALLOCATE_LOOK, _) if inode.kind() != mode::S_IFREG => {
                self.fail(handle, Errno::ENODEV);
            }
            (ALLOCATE_LOOK, _) if inode.mode & state::TRIM != 0 => self.settle(handle, inode),
            (ALLOCATE_LOOK, _) if clears => {
                work.next_byte = offset;
                self.go(handle, ALLOCATE_CLEAR);
            }
            (ALLOCATE_LOOK, _) if mode & KEEP_SIZE == 0 && end > inode.size => {
                self.go(handle, EXTEND);
            }
            (ALLOCATE_CLEAR, Done::More(next)) => {
                work.next_byte = next;
                self.go(handle, ALLOCATE_CLEAR);
            }
            (ALLOCATE_CLEAR, _) => self.go(handle, EXTEND),
            _ => {
                if let Some(Kind::Allocate { reply, .. }) =
                    self.desk.works.remove(handle).map(|work| work.kind)
                {
                    reply.ok(());
                }
            }
        }
    }

    pub(super) fn issue_seek(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let (ino, next) = (work.ino, work.next_byte);
        let Kind::Seek { hole, .. } = work.kind else {
            return;
        };
        if work.step == SEEK_LOOK {
            return self.look(handle, ino);
        }
        let op = Op::Seek {
            ino,
            offset: next,
            size: self.desk.found(handle, 0).inode.size,
            hole,
        };
        self.ask(handle, &op);
    }

    pub(super) fn landed_seek(&mut self, handle: Handle, done: Done) {
        let found = *self.desk.found(handle, 0);
        let Some(work) = self.desk.works.get_mut(handle) else {
            return;
        };
        let Kind::Seek { offset, hole, .. } = work.kind else {
            return;
        };
        let size = found.inode.size;
        match (work.step, done) {
            (SEEK_LOOK, _) if found.inode_version == 0 => self.fail(handle, Errno::ESTALE),
            (SEEK_LOOK, _) if offset >= size => self.fail(handle, Errno::ENXIO),
            (SEEK_LOOK, _) => {
                work.next_byte = offset;
                self.go(handle, SEEK);
            }
            (_, Done::More(next)) => {
                work.next_byte = next;
                self.go(handle, SEEK);
            }
            (_, Done::At(at)) if !hole && at >= size => self.fail(handle, Errno::ENXIO),
            (_, Done::At(at)) => {
                if let Some(Kind::Seek { reply, .. }) =
                    self.desk.works.remove(handle).map(|work| work.kind)
                {
                    reply.ok(Position(at));
                }
            }
            _ => self.fail(handle, Errno::EIO),
        }
    }

    /// Say whether FALLOCATE can do a mode.
    ///
    /// # Errors
    /// `EOPNOTSUPP`.
    pub(super) fn allocation(mode: u32) -> Result<(), Errno> {
        const PUNCH: u32 = PUNCH_HOLE | KEEP_SIZE;
        const ZERO: u32 = ZERO_RANGE | KEEP_SIZE;
        match mode {
            0 | KEEP_SIZE | PUNCH | ZERO_RANGE | ZERO => Ok(()),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}
