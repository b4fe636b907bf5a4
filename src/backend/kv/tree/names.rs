//! Operations on names: look up, make, remove, rename, link. Each reads, then changes all it concerns at once.

use core::time::Duration;

use zerocopy::IntoBytes;

use super::super::engine::{Check, Engine, Expect, Key, Op, Patch, Write};
use super::super::record::{Dentry, Inode, Placed, Time, dir_patches, field, mode, state};
use super::Tree;
use super::desk::{Found, Kind, MakeReply};
use crate::fuse::{Created, Entry, Fh, Opened, SetAttr};
use crate::mem::Handle;
use crate::wire::errno::Errno;
use crate::wire::fuse::FopenFlags;

const LOOK: u8 = 0;
const CHANGE: u8 = 1;

/// Where the first Get of an operation puts what it finds.
const PARENT: usize = 0;
const NAME: usize = 1;
const NEW_PARENT: usize = 2;
const NEW_NAME: usize = 3;

const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;
const WHITEOUT: u32 = 4;

/// Names that an inode may have.
const LINK_MAX: u32 = 1 << 16;

/// A directory in which something may be made.
fn alive(dir: u64) -> Check<'static> {
    Check {
        key: Key::Inode(dir),
        expect: Expect::Bits {
            at: field::MODE,
            mask: state::DEAD | mode::S_IFMT,
            want: mode::S_IFDIR,
        },
    }
}

/// The record as it was read: with its version, or none.
fn unchanged(key: Key<'_>, version: u64) -> Check<'_> {
    let expect = match version {
        0 => Expect::Absent,
        version => Expect::Version(version),
    };
    Check { key, expect }
}

/// Check that a directory is one in which names are.
fn directory(found: &Found) -> Result<(), Errno> {
    match found.inode_version {
        0 => Err(Errno::ESTALE),
        _ if !found.inode.is_dir() => Err(Errno::ENOTDIR),
        _ if found.inode.mode & state::DEAD != 0 => Err(Errno::ENOENT),
        _ => Ok(()),
    }
}

/// Take one name from an inode: what is to be written of it. The last name leaves an orphan.
fn unlinked(inode: &Inode, now: Time) -> (Inode, bool) {
    let mut left = *inode;
    left.ctime = now;
    left.nlink = if inode.is_dir() {
        0
    } else {
        inode.nlink.saturating_sub(1)
    };
    if inode.is_dir() {
        left.mode |= state::DEAD;
    }
    (left, left.nlink == 0)
}

impl<E: Engine> Tree<E> {
    pub(super) fn issue_lookup(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let dir = work.ino;
        let mut name = [0; 255];
        let name = self.copy_name(handle, 0, &mut name);
        let keys = [Key::Name(dir, name)];
        let op = Op::Get {
            keys: &keys,
            follow: true,
        };
        self.ask(handle, &op);
    }

    /// Copy a name out of the arguments, so that the engine may be called with it.
    fn copy_name<'b>(&self, handle: Handle, which: usize, bytes: &'b mut [u8; 255]) -> &'b [u8] {
        let name = self.args[handle.index as usize].name(which);
        bytes[..name.len()].copy_from_slice(name);
        &bytes[..name.len()]
    }

    pub(super) fn landed_lookup(&mut self, handle: Handle) {
        let found = *self.desk.found(handle, 0);
        let Some(Kind::Lookup(reply)) = self.desk.works.remove(handle).map(|work| work.kind) else {
            return;
        };
        let volume = self.desk.volume;
        if found.inode_version == 0 {
            // An entry whose inode is missing is damage that fsck repairs; the name is as good as none.
            return match volume.ttl() {
                Duration::ZERO => reply.err(Errno::ENOENT),
                ttl => reply.ok(Entry::negative(ttl)),
            };
        }
        match volume.entry(&found.inode, reply.epoch()) {
            Ok(entry) => reply.ok(entry),
            Err(error) => reply.err(error),
        }
    }

    pub(super) fn issue_make(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let (dir, step) = (work.ino, work.step);
        let Kind::Make { inode, reply } = &work.kind else {
            return;
        };
        let (mut inode, nameless) = (*inode, matches!(reply, MakeReply::Nameless(_)));
        let mut name = [0; 255];
        let name = self.copy_name(handle, 0, &mut name);
        if step == LOOK {
            let keys = [Key::Inode(dir), Key::Name(dir, name)];
            let keys = if nameless { &keys[..1] } else { &keys };
            let op = Op::Get { keys, follow: true };
            return self.ask(handle, &op);
        }
        let Some(number) = self.number(handle) else {
            return;
        };
        let parent = self.desk.found(handle, PARENT).inode;
        inherit(&mut inode, &parent);
        inode.ino = number;
        let is_dir = inode.is_dir();
        if is_dir {
            inode.parent = dir;
        }
        if let Some(Kind::Make { inode: kept, .. }) =
            self.desk.works.get_mut(handle).map(|work| &mut work.kind)
        {
            *kept = inode;
        }
        let entry = Dentry {
            ino: number,
            position: number,
            kind: inode.kind(),
            unused: 0,
        };
        let placed = Placed::new(&entry, name);
        let key = Key::Inode(number);
        if nameless {
            let checks = [alive(dir)];
            let writes = [
                Write::Put(key, inode.as_bytes()),
                Write::Put(Key::Orphan(number), &[]),
            ];
            let op = Op::Transact {
                checks: &checks,
                writes: &writes,
            };
            return self.ask(handle, &op);
        }
        let dir_change = dir_patches(&inode.ctime, 1, i32::from(is_dir));
        let checks = [alive(dir), unchanged(Key::Name(dir, name), 0)];
        let mut target = [0; super::VALUE_MAX];
        let args = &self.args[handle.index as usize];
        let target = &mut target[..args.len];
        target.copy_from_slice(args.bytes());
        let writes = [
            Write::Put(key, inode.as_bytes()),
            Write::Put(Key::Name(dir, name), entry.as_bytes()),
            Write::Put(Key::Position(dir, number), placed.value()),
            Write::Patch(Key::Inode(dir), &dir_change),
            Write::Put(Key::Target(number), target),
        ];
        let with_target = inode.kind() == mode::S_IFLNK;
        let op = Op::Transact {
            checks: &checks,
            writes: if with_target { &writes } else { &writes[..4] },
        };
        self.ask(handle, &op);
    }

    pub(super) fn landed_make(&mut self, handle: Handle) {
        let (parent, name) = (
            *self.desk.found(handle, PARENT),
            *self.desk.found(handle, NAME),
        );
        let Some(work) = self.desk.works.get_mut(handle) else {
            return;
        };
        if work.step == CHANGE {
            return self.made(handle);
        }
        if let Err(error) = directory(&parent) {
            return self.fail(handle, error);
        }
        if name.entry_version == 0 {
            return self.go(handle, CHANGE);
        }
        match &work.kind {
            Kind::Make {
                reply:
                    MakeReply::Created {
                        exclusive: false,
                        truncate,
                        ..
                    },
                ..
            } if name.inode_version != 0 && !name.inode.is_dir() => {
                // Only another host's can be there: ours looked before.
                let truncate = *truncate && name.inode.size > 0;
                self.open_existing(handle, &name.inode, truncate);
            }
            _ => self.fail(handle, Errno::EEXIST),
        }
    }

    fn open_existing(&mut self, handle: Handle, inode: &Inode, truncate: bool) {
        if truncate {
            // Rare, and a matter of several steps: the host opens it like any file that is there.
            return self.fail(handle, Errno::ESTALE);
        }
        if let Some(Kind::Make { inode: kept, .. }) =
            self.desk.works.get_mut(handle).map(|work| &mut work.kind)
        {
            *kept = *inode;
        }
        self.made(handle);
    }

    fn made(&mut self, handle: Handle) {
        let Some(Kind::Make { reply, inode }) =
            self.desk.works.remove(handle).map(|work| work.kind)
        else {
            return;
        };
        let volume = self.desk.volume;
        let opened = self.opened();
        match reply {
            MakeReply::Entry(reply) => match volume.entry(&inode, reply.epoch()) {
                Ok(entry) => reply.ok(entry),
                Err(error) => reply.err(error),
            },
            MakeReply::Created { reply, .. } | MakeReply::Nameless(reply) => {
                match volume.entry(&inode, reply.epoch()) {
                    Ok(entry) => reply.ok(Created { entry, opened }),
                    Err(error) => {
                        reply.err(error);
                        if inode.nlink == 0 {
                            self.reap(inode.ino);
                        }
                    }
                }
            }
        }
    }

    /// Say how the host is to treat an open file.
    pub(super) fn opened(&self) -> Opened {
        Opened {
            fh: Fh(0),
            flags: if self.desk.volume.ttl().is_zero() {
                FopenFlags::empty()
            } else {
                FopenFlags::KEEP_CACHE
            },
        }
    }

    pub(super) fn issue_unlink(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let (dir, step) = (work.ino, work.step);
        let mut name = [0; 255];
        let name = self.copy_name(handle, 0, &mut name);
        if step == LOOK {
            let op = Op::Get {
                keys: &[Key::Inode(dir), Key::Name(dir, name)],
                follow: true,
            };
            return self.ask(handle, &op);
        }
        let found = *self.desk.found(handle, NAME);
        let now = Time::now();
        let (left, last) = unlinked(&found.inode, now);
        let ino = found.inode.ino;
        let dir_change = dir_patches(&now, -1, -i32::from(found.inode.is_dir()));
        let checks = [
            alive(dir),
            unchanged(Key::Name(dir, name), found.entry_version),
            unchanged(Key::Inode(ino), found.inode_version),
        ];
        let writes = [
            Write::Delete(Key::Name(dir, name)),
            Write::Delete(Key::Position(dir, found.entry.position)),
            Write::Patch(Key::Inode(dir), &dir_change),
            Write::Put(Key::Inode(ino), left.as_bytes()),
            Write::Put(Key::Orphan(ino), &[]),
        ];
        let op = Op::Transact {
            checks: &checks,
            writes: if last { &writes } else { &writes[..4] },
        };
        self.ask(handle, &op);
    }

    pub(super) fn landed_unlink(&mut self, handle: Handle) {
        let (parent, found) = (
            *self.desk.found(handle, PARENT),
            *self.desk.found(handle, NAME),
        );
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let Kind::Unlink { dir, .. } = work.kind else {
            return;
        };
        if work.step == LOOK {
            let checked =
                directory(&parent).and(match (found.entry_version, found.inode_version) {
                    (0, _) => Err(Errno::ENOENT),
                    (_, 0) => Err(Errno::EIO),
                    _ if dir && !found.inode.is_dir() => Err(Errno::ENOTDIR),
                    _ if !dir && found.inode.is_dir() => Err(Errno::EISDIR),
                    _ if dir && found.inode.entries > 0 => Err(Errno::ENOTEMPTY),
                    _ => Ok(()),
                });
            return match checked {
                Ok(()) => self.go(handle, CHANGE),
                Err(error) => self.fail(handle, error),
            };
        }
        if let Some(Kind::Unlink { reply, .. }) = self.desk.works.remove(handle).map(|w| w.kind) {
            reply.ok(());
        }
        self.let_go(&found.inode);
    }

    /// Remove an inode that lost a name, if that was the last and the host does not use it.
    fn let_go(&mut self, inode: &Inode) {
        let (left, last) = unlinked(inode, inode.ctime);
        if last && self.desk.volume.set_orphan(left.ino, true) {
            self.reap(left.ino);
        }
    }

    pub(super) fn issue_link(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let (ino, step) = (work.ino, work.step);
        let Kind::Link { to, .. } = work.kind else {
            return;
        };
        let mut name = [0; 255];
        let name = self.copy_name(handle, 0, &mut name);
        if step == LOOK {
            let op = Op::Get {
                keys: &[Key::Inode(to), Key::Name(to, name), Key::Inode(ino)],
                follow: false,
            };
            return self.ask(handle, &op);
        }
        let Some(number) = self.number(handle) else {
            return;
        };
        let found = *self.desk.found(handle, 2);
        let now = Time::now();
        let mut inode = found.inode;
        inode.nlink += 1;
        inode.ctime = now;
        inode.mode &= !state::NAMELESS;
        let entry = Dentry {
            ino,
            position: number,
            kind: inode.kind(),
            unused: 0,
        };
        let placed = Placed::new(&entry, name);
        let dir_change = dir_patches(&now, 1, 0);
        let checks = [
            alive(to),
            unchanged(Key::Name(to, name), 0),
            unchanged(Key::Inode(ino), found.inode_version),
        ];
        let writes = [
            Write::Put(Key::Inode(ino), inode.as_bytes()),
            Write::Put(Key::Name(to, name), entry.as_bytes()),
            Write::Put(Key::Position(to, number), placed.value()),
            Write::Patch(Key::Inode(to), &dir_change),
            Write::Delete(Key::Orphan(ino)),
        ];
        let op = Op::Transact {
            checks: &checks,
            writes: if found.inode.nlink == 0 {
                &writes
            } else {
                &writes[..4]
            },
        };
        self.ask(handle, &op);
    }

    pub(super) fn landed_link(&mut self, handle: Handle) {
        let (parent, name, file) = (
            *self.desk.found(handle, PARENT),
            *self.desk.found(handle, NAME),
            *self.desk.found(handle, 2),
        );
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        if work.step == LOOK {
            let checked = directory(&parent).and(match file.inode_version {
                0 => Err(Errno::ESTALE),
                _ if name.entry_version != 0 => Err(Errno::EEXIST),
                _ if file.inode.is_dir() => Err(Errno::EPERM),
                _ if file.inode.nlink == 0 && file.inode.mode & state::NAMELESS == 0 => {
                    Err(Errno::ENOENT)
                }
                _ if file.inode.nlink >= LINK_MAX => Err(Errno::EMLINK),
                _ => Ok(()),
            });
            return match checked {
                Ok(()) => self.go(handle, CHANGE),
                Err(error) => self.fail(handle, error),
            };
        }
        let Some(Kind::Link { reply, .. }) = self.desk.works.remove(handle).map(|w| w.kind) else {
            return;
        };
        let mut inode = file.inode;
        inode.nlink += 1;
        inode.ctime = Time::now();
        inode.mode &= !state::NAMELESS;
        let volume = self.desk.volume;
        match volume.entry(&inode, reply.epoch()) {
            Ok(entry) => reply.ok(entry),
            Err(error) => reply.err(error),
        }
        if file.inode.nlink == 0 {
            volume.set_orphan(inode.ino, false);
        }
    }

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

/// Give a new inode what its directory hands down: the group of one with a set-group-ID bit, and the bit to others.
fn inherit(inode: &mut Inode, parent: &Inode) {
    if parent.mode & mode::S_ISGID != 0 {
        inode.gid = parent.gid;
        if inode.is_dir() {
            inode.mode |= mode::S_ISGID;
        }
    }
}

/// The patches that end a plain write, and nothing else.
pub(super) fn touched<'a>(now: &'a Time, end: u64) -> [Patch<'a>; 3] {
    [
        Patch::Max {
            at: field::SIZE,
            value: end,
        },
        Patch::Set {
            at: field::MTIME,
            bytes: now.as_bytes(),
        },
        Patch::Set {
            at: field::CTIME,
            bytes: now.as_bytes(),
        },
    ]
}

/// Ask for a size alone.
pub(super) fn sized(size: u64, kill_suidgid: bool) -> SetAttr {
    SetAttr {
        size: Some(size),
        kill_suidgid,
        ..SetAttr::default()
    }
}
