//! Operations on names: look up, make, remove, link. Each reads, then changes all it concerns at once.

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

pub(super) const LOOK: u8 = 0;
pub(super) const CHANGE: u8 = 1;

/// Where the first Get of an operation puts what it finds.
pub(super) const PARENT: usize = 0;
pub(super) const NAME: usize = 1;

/// Names that an inode may have.
const LINK_MAX: u32 = 1 << 16;

/// A directory in which something may be made.
pub(super) fn alive(dir: u64) -> Check<'static> {
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
pub(super) fn unchanged(key: Key<'_>, version: u64) -> Check<'_> {
    let expect = match version {
        0 => Expect::Absent,
        version => Expect::Version(version),
    };
    Check { key, expect }
}

/// Check that a directory is one in which names are.
pub(super) fn directory(found: &Found) -> Result<(), Errno> {
    match found.inode_version {
        0 => Err(Errno::ESTALE),
        _ if !found.inode.is_dir() => Err(Errno::ENOTDIR),
        _ if found.inode.mode & state::DEAD != 0 => Err(Errno::ENOENT),
        _ => Ok(()),
    }
}

/// Take one name from an inode: what is to be written of it. The last name leaves an orphan.
pub(super) fn unlinked(inode: &Inode, now: Time) -> (Inode, bool) {
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
    pub(super) fn copy_name<'b>(
        &self,
        handle: Handle,
        which: usize,
        bytes: &'b mut [u8; 255],
    ) -> &'b [u8] {
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
        let mut target = [0; super::TARGET_MAX];
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
    pub(super) fn let_go(&mut self, inode: &Inode) {
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

/// The patches that end a plain write, and nothing else; `now` is the time of both.
pub(super) fn touched(now: &[Time; 2], end: u64) -> [Patch<'_>; 2] {
    // Both times in one, for they are neighbours.
    const { assert!(field::CTIME as usize == field::MTIME as usize + size_of::<Time>()) };
    [
        Patch::Max {
            at: field::SIZE,
            value: end,
        },
        Patch::Set {
            at: field::MTIME,
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
