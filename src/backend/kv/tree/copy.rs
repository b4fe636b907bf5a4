//! COPY_FILE_RANGE: content goes from inode to inode inside of the engine, a piece at a time.

use super::super::engine::{COPY_MAX, Engine, Expect, Key, Op};
use super::super::record::{Time, field, mode, state};
use super::Tree;
use super::desk::Kind;
use super::names::touched;
use crate::mem::Handle;
use crate::wire::errno::Errno;

/// Look at both inodes.
const LOOK: u8 = 0;
/// End file capabilities of the one that is copied to.
const CAPS: u8 = 1;
/// Copy a piece, again and again.
const COPY: u8 = 2;

/// Most bytes that one request copies: the host asks again, and can be interrupted in between.
pub const REQUEST_MAX: u64 = 64 << 20;

/// Tell whether two ranges of `len` bytes overlap.
const fn overlap(one: u64, other: u64, len: u64) -> bool {
    one.abs_diff(other) < len
}

impl<E: Engine> Tree<E> {
    pub(super) fn issue_copy(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let (ino, step) = (work.ino, work.step);
        let Kind::Copy {
            source,
            from,
            to,
            left,
            ..
        } = work.kind
        else {
            return;
        };
        match step {
            LOOK => {
                let op = Op::Get {
                    keys: &[Key::Inode(ino), Key::Inode(source)],
                    follow: false,
                };
                self.ask(handle, &op);
            }
            CAPS => self.drop_capabilities(handle),
            _ => {
                let len = left.min(COPY_MAX.into());
                let now = [Time::now(); 2];
                let op = Op::Copy {
                    source,
                    from,
                    given: Expect::Least {
                        at: field::SIZE,
                        value: from + len,
                    },
                    ino,
                    to,
                    len: len as u32,
                    expect: Expect::Bits {
                        at: field::MODE,
                        mask: mode::S_IFMT | state::TRIM | state::CAPS,
                        want: mode::S_IFREG,
                    },
                    patches: &touched(&now, to + len),
                };
                self.ask(handle, &op);
            }
        }
    }

    pub(super) fn landed_copy(&mut self, handle: Handle) {
        let size_max = self.size_max();
        let (found, seen) = (*self.desk.found(handle, 0), *self.desk.found(handle, 1));
        let Some(work) = self.desk.works.get_mut(handle) else {
            return;
        };
        let ino = work.ino;
        let Kind::Copy {
            source,
            from,
            to,
            left,
            done,
            ..
        } = &mut work.kind
        else {
            return;
        };
        match work.step {
            LOOK => {
                let (inode, other) = (&found.inode, &seen.inode);
                // Only what the source has is copied, and a file that grows by its own copy has no more for it.
                *left = (*left).min(other.size.saturating_sub(*from));
                let dirs = inode.is_dir() || other.is_dir();
                let files = inode.kind() == mode::S_IFREG && other.kind() == mode::S_IFREG;
                let fits = to.checked_add(*left).is_some_and(|end| end <= size_max);
                if found.inode_version == 0 || seen.inode_version == 0 {
                    self.fail(handle, Errno::ESTALE);
                } else if dirs {
                    self.fail(handle, Errno::EISDIR);
                } else if !files || (ino == *source && overlap(*from, *to, *left)) {
                    self.fail(handle, Errno::EINVAL);
                } else if *left == 0 {
                    self.copied(handle);
                } else if !fits {
                    self.fail(handle, Errno::EFBIG);
                } else if inode.mode & state::TRIM != 0 {
                    self.settle(handle, inode);
                } else if inode.mode & state::CAPS != 0 {
                    self.go(handle, CAPS);
                } else {
                    self.go(handle, COPY);
                }
            }
            CAPS => self.go(handle, COPY),
            _ => {
                let len = (*left).min(COPY_MAX.into());
                (*from, *to) = (*from + len, *to + len);
                (*left, *done) = (*left - len, *done + len);
                match *left {
                    0 => self.copied(handle),
                    _ => self.go(handle, COPY),
                }
            }
        }
    }

    /// Answer with what was copied.
    fn copied(&mut self, handle: Handle) {
        if let Some(Kind::Copy { reply, done, .. }) =
            self.desk.works.remove(handle).map(|work| work.kind)
        {
            reply.ok(done);
        }
    }
}
