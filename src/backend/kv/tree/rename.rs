//! RENAME and its flags: one transaction over up to two directories and two inodes.

use zerocopy::IntoBytes;

use super::super::engine::{Check, Engine, Key, Op, Write};
use super::super::record::{Dentry, Inode, Placed, Time, dir_patches, mode};
use super::Tree;
use super::desk::Kind;
use super::names::{CHANGE, LOOK, NAME, PARENT, alive, directory, unchanged, unlinked};
use crate::mem::Handle;
use crate::wire::errno::Errno;

/// Where the Get puts what it finds at the new place.
const NEW_PARENT: usize = 2;
const NEW_NAME: usize = 3;

const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;
const WHITEOUT: u32 = 4;

impl<E: Engine> Tree<E> {
    pub(super) fn issue_rename(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let (from, step) = (work.ino, work.step);
        let Kind::Rename { to, flags, .. } = work.kind else {
            return;
        };
        let (mut old, mut new) = ([0; 255], [0; 255]);
        let old = self.copy_name(handle, 0, &mut old);
        let new = self.copy_name(handle, 1, &mut new);
        if step == LOOK {
            let op = Op::Get {
                keys: &[
                    Key::Inode(from),
                    Key::Name(from, old),
                    Key::Inode(to),
                    Key::Name(to, new),
                ],
                follow: true,
            };
            return self.ask(handle, &op);
        }
        let Some(number) = self.number(handle) else {
            return;
        };
        let source = *self.desk.found(handle, NAME);
        let target = *self.desk.found(handle, NEW_NAME);
        let exchange = flags & EXCHANGE != 0;
        let now = Time::now();
        let mut moved = source.inode;
        moved.ctime = now;
        if moved.is_dir() {
            moved.parent = to;
        }
        let there = target.inode_version != 0;
        let mut back = target.inode;
        back.ctime = now;
        if back.is_dir() {
            back.parent = from;
        }
        let (left, last) = unlinked(&target.inode, now);
        let entry = |inode: &Inode, position| Dentry {
            ino: inode.ino,
            position,
            kind: inode.kind(),
            unused: 0,
        };
        // What stays under the old name: the other one, a whiteout, or nothing. A whiteout is a character device 0:0.
        let whiteout = Inode {
            ino: number,
            mode: mode::S_IFCHR,
            nlink: 1,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            ..Inode::default()
        };
        let new_entry = entry(
            &moved,
            if exchange {
                target.entry.position
            } else {
                // A position of its own, so that a list that is being read shows the new name too, or instead.
                number
            },
        );
        let new_placed = Placed::new(&new_entry, new);
        let old_entry = if exchange {
            entry(&back, source.entry.position)
        } else {
            entry(&whiteout, source.entry.position)
        };
        let old_placed = Placed::new(&old_entry, old);
        let stays = exchange || flags & WHITEOUT != 0;
        let (moved_dir, gone_dir) = (
            i32::from(moved.is_dir()),
            i32::from(there && target.inode.is_dir()),
        );
        let (from_entries, to_entries) = (if stays { 0 } else { -1 }, if there { 0 } else { 1 });
        let from_dirs = if exchange { gone_dir } else { 0 } - moved_dir;
        let to_dirs = moved_dir - gone_dir;
        let (from_change, to_change) = if from == to {
            (
                dir_patches(&now, from_entries + to_entries, from_dirs + to_dirs),
                dir_patches(&now, 0, 0),
            )
        } else {
            (
                dir_patches(&now, from_entries, from_dirs),
                dir_patches(&now, to_entries, to_dirs),
            )
        };
        let mut checks = heapless::Vec::<Check<'_>, 8>::new();
        let mut writes = heapless::Vec::<Write<'_>, 12>::new();
        let _ = checks.extend_from_slice(&[
            alive(from),
            alive(to),
            unchanged(Key::Name(from, old), source.entry_version),
            unchanged(Key::Name(to, new), target.entry_version),
            unchanged(Key::Inode(source.inode.ino), source.inode_version),
        ]);
        // Records first, then what changes in them: a directory that moves may be one whose counts change, too.
        let _ = writes.push(Write::Put(Key::Inode(moved.ino), moved.as_bytes()));
        if there {
            let _ = checks.push(unchanged(
                Key::Inode(target.inode.ino),
                target.inode_version,
            ));
            let inode = if exchange { &back } else { &left };
            let _ = writes.push(Write::Put(Key::Inode(inode.ino), inode.as_bytes()));
            if !exchange {
                let _ = writes.push(Write::Delete(Key::Position(to, target.entry.position)));
                if last {
                    let _ = writes.push(Write::Put(Key::Orphan(left.ino), &[]));
                }
            }
        }
        if stays {
            let position = Key::Position(from, source.entry.position);
            let _ = writes.push(Write::Put(Key::Name(from, old), old_entry.as_bytes()));
            let _ = writes.push(Write::Put(position, old_placed.value()));
            if !exchange {
                let _ = writes.push(Write::Put(Key::Inode(number), whiteout.as_bytes()));
            }
        } else {
            let _ = writes.push(Write::Delete(Key::Name(from, old)));
            let _ = writes.push(Write::Delete(Key::Position(from, source.entry.position)));
        }
        let _ = writes.push(Write::Put(Key::Name(to, new), new_entry.as_bytes()));
        let _ = writes.push(Write::Put(
            Key::Position(to, new_entry.position),
            new_placed.value(),
        ));
        let _ = writes.push(Write::Patch(Key::Inode(from), &from_change));
        if from != to {
            let _ = writes.push(Write::Patch(Key::Inode(to), &to_change));
        }
        let op = Op::Transact {
            checks: &checks,
            writes: &writes,
        };
        self.ask(handle, &op);
    }

    pub(super) fn landed_rename(&mut self, handle: Handle) {
        let [from, source, to, target] =
            [PARENT, NAME, NEW_PARENT, NEW_NAME].map(|index| *self.desk.found(handle, index));
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let Kind::Rename { flags, .. } = work.kind else {
            return;
        };
        let exchange = flags & EXCHANGE != 0;
        let there = target.entry_version != 0;
        let same = there && source.entry.ino == target.entry.ino;
        if work.step == LOOK {
            let checked = directory(&from).and(directory(&to)).and(
                match (source.entry_version, source.inode_version) {
                    (0, _) => Err(Errno::ENOENT),
                    (_, 0) => Err(Errno::EIO),
                    _ if flags & NOREPLACE != 0 && there => Err(Errno::EEXIST),
                    _ if exchange && !there => Err(Errno::ENOENT),
                    _ if !there || same || exchange => Ok(()),
                    _ if target.inode_version == 0 => Err(Errno::EIO),
                    _ => match (source.inode.is_dir(), target.inode.is_dir()) {
                        (true, false) => Err(Errno::ENOTDIR),
                        (false, true) => Err(Errno::EISDIR),
                        (true, true) if target.inode.entries > 0 => Err(Errno::ENOTEMPTY),
                        _ => Ok(()),
                    },
                },
            );
            return match checked {
                Err(error) => self.fail(handle, error),
                // Two names of one file: POSIX wants nothing to happen.
                Ok(()) if same => self.renamed(handle),
                Ok(()) => self.go(handle, CHANGE),
            };
        }
        self.renamed(handle);
        if there && !exchange {
            self.let_go(&target.inode);
        }
    }

    fn renamed(&mut self, handle: Handle) {
        if let Some(Kind::Rename { reply, .. }) = self.desk.works.remove(handle).map(|w| w.kind) {
            reply.ok(());
        }
    }
}
