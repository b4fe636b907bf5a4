//! Attributes: get, set, truncate; extended attributes and targets of links.

use zerocopy::IntoBytes;

use super::super::engine::{
    Busy, Check, Done, Engine, Expect, Key, List, Op, Patch, Token, VALUE_MAX, Write,
};
use super::super::record::{Inode, Time, field, mode, state};
use super::Tree;
use super::content::CAPABILITY;
use super::desk::{Kind, RAW};
use crate::fuse::{Attributes, SetAttr, SetTime, Statfs, StatxReply};
use crate::mem::Handle;
use crate::wire::errno::Errno;
use crate::wire::fuse::Kstatfs;

const LOOK: u8 = 0;
const CHANGE: u8 = 1;

const XATTR_CREATE: u32 = 1;
const XATTR_REPLACE: u32 = 2;

/// Bytes that an inode costs a store at least, to say how many more there may be.
const INODE_COST: u64 = 512;

impl<E: Engine> Tree<E> {
    pub(super) fn issue_getattr(&mut self, handle: Handle) {
        if let Some(work) = self.desk.works.get(handle) {
            let op = Op::Get {
                keys: &[Key::Inode(work.ino)],
                follow: false,
            };
            self.ask(handle, &op);
        }
    }

    pub(super) fn landed_getattr(&mut self, handle: Handle) {
        let found = *self.desk.found(handle, 0);
        if found.inode_version == 0 {
            return self.fail(handle, Errno::ESTALE);
        }
        let volume = self.desk.volume;
        let (inode, ttl) = (found.inode, volume.ttl());
        match self.desk.works.remove(handle).map(|work| work.kind) {
            Some(Kind::Getattr(reply)) => reply.ok(Attributes {
                attr: inode.attr(volume.blksize),
                ttl,
            }),
            Some(Kind::Statx(reply)) => reply.ok(StatxReply {
                stat: inode.statx(volume.blksize),
                ttl,
            }),
            _ => {}
        }
    }

    pub(super) fn issue_setattr(&mut self, handle: Handle) {
        let found = *self.desk.found(handle, 0);
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let (Kind::Setattr { set, .. } | Kind::Open { set, .. }) = &work.kind else {
            return;
        };
        if work.step == LOOK {
            return self.issue_getattr(handle);
        }
        let inode = changed(&found.inode, set);
        let key = Key::Inode(inode.ino);
        let op = Op::Transact {
            checks: &[Check {
                key,
                expect: Expect::Version(found.inode_version),
            }],
            writes: &[Write::Put(key, inode.as_bytes())],
        };
        self.ask(handle, &op);
    }

    pub(super) fn landed_setattr(&mut self, handle: Handle) {
        let size_max = u64::from(self.engine.chunk_size()) * u64::from(u32::MAX);
        let found = *self.desk.found(handle, 0);
        let Some(work) = self.desk.works.get_mut(handle) else {
            return;
        };
        let (Kind::Setattr { set, .. } | Kind::Open { set, .. }) = &mut work.kind else {
            return;
        };
        let inode = &found.inode;
        if work.step == LOOK {
            if found.inode_version == 0 {
                return self.fail(handle, Errno::ESTALE);
            }
            let marked = inode.mode & state::TRIM != 0;
            return match set.size {
                Some(_) if inode.is_dir() => self.fail(handle, Errno::EISDIR),
                Some(_) if inode.kind() != mode::S_IFREG => self.fail(handle, Errno::EINVAL),
                Some(size) if size > size_max => self.fail(handle, Errno::EFBIG),
                Some(size) if marked && size > inode.size => self.settle(handle, inode),
                _ if *set == SetAttr::default() => self.attributes_set(handle, inode),
                _ => self.go(handle, CHANGE),
            };
        }
        let after = changed(inode, set);
        if after.mode & state::TRIM == 0 || set.size.is_none() {
            return self.attributes_set(handle, &after);
        }
        // The rest is clearing what is behind the new end; then the request only looks at what it did.
        *set = SetAttr::default();
        self.settle(handle, &after);
    }

    fn attributes_set(&mut self, handle: Handle, inode: &Inode) {
        let volume = self.desk.volume;
        match self.desk.works.remove(handle).map(|work| work.kind) {
            Some(Kind::Setattr { reply, .. }) => reply.ok(Attributes {
                attr: inode.attr(volume.blksize),
                ttl: volume.ttl(),
            }),
            Some(Kind::Open { reply, .. }) => reply.ok(self.opened()),
            _ => {}
        }
    }

    pub(super) fn issue_readlink(&mut self, handle: Handle) {
        if let Some(work) = self.desk.works.get(handle) {
            let keys = [Key::Inode(work.ino), Key::Target(work.ino)];
            let op = Op::Get {
                keys: &keys,
                follow: false,
            };
            self.ask(handle, &op);
        }
    }

    pub(super) fn issue_getxattr(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let ino = work.ino;
        if let Kind::Listxattr { after, .. } = work.kind {
            let op = Op::Scan {
                list: List::Xattrs(ino),
                after,
                limit: u32::MAX,
                follow: false,
            };
            return self.ask(handle, &op);
        }
        let mut name = [0; 255];
        let name = self.copy(handle, &mut name);
        let key = Key::Xattr(ino, name);
        let op = Op::Get {
            keys: &[Key::Inode(ino), key],
            follow: false,
        };
        self.ask(handle, &op);
    }

    fn copy<'b>(&self, handle: Handle, bytes: &'b mut [u8; 255]) -> &'b [u8] {
        let name = self.args[handle.index as usize].name(0);
        bytes[..name.len()].copy_from_slice(name);
        &bytes[..name.len()]
    }

    pub(super) fn landed_listxattr(&mut self, handle: Handle, done: Done) {
        let Some(Kind::Listxattr { len, .. }) = self.desk.works.get(handle).map(|work| &work.kind)
        else {
            return;
        };
        if done == (Done::Listed { more: true }) && *len <= VALUE_MAX {
            return self.issue_getxattr(handle);
        }
        let Some(Kind::Listxattr {
            reply, len, lost, ..
        }) = self.desk.works.remove(handle).map(|work| work.kind)
        else {
            return;
        };
        match self.desk.list(handle, len) {
            Some(names) if !lost => reply.ok(names),
            _ if len > VALUE_MAX => reply.err(Errno::E2BIG),
            _ => reply.err(Errno::ENOMEM),
        }
    }

    pub(super) fn issue_setxattr(&mut self, handle: Handle) {
        let found = *self.desk.found(handle, 0);
        let raw = self.desk.found(handle, RAW as usize).entry_version;
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        let (ino, step) = (work.ino, work.step);
        let kill_sgid = matches!(
            work.kind,
            Kind::Setxattr {
                kill_sgid: true,
                ..
            }
        );
        let sets = matches!(work.kind, Kind::Setxattr { .. });
        let mut name = [0; 255];
        let name = self.copy(handle, &mut name);
        let key = Key::Xattr(ino, name);
        if step == LOOK {
            let op = Op::Get {
                keys: &[Key::Inode(ino), key],
                follow: false,
            };
            return self.ask(handle, &op);
        }
        let now = Time::now();
        let mut bits = found.inode.mode;
        if kill_sgid {
            bits &= !mode::S_ISGID;
        }
        if name == CAPABILITY {
            bits &= !state::CAPS;
            if sets {
                bits |= state::CAPS;
            }
        }
        let patches = [
            Patch::Set {
                at: field::CTIME,
                bytes: now.as_bytes(),
            },
            Patch::Set {
                at: field::MODE,
                bytes: bits.as_bytes(),
            },
        ];
        let checks = [
            Check {
                key: Key::Inode(ino),
                expect: Expect::Version(found.inode_version),
            },
            Check {
                key,
                expect: match raw {
                    0 => Expect::Absent,
                    version => Expect::Version(version),
                },
            },
        ];
        let args = &self.args[handle.index as usize];
        let value = match args.bytes.get(..args.len) {
            Some(short) => short,
            None => self.longs.get(handle).get(..args.len).unwrap_or(&[]),
        };
        let write = if sets {
            Write::Put(key, value)
        } else {
            Write::Delete(key)
        };
        let op = Op::Transact {
            checks: &checks,
            writes: &[write, Write::Patch(Key::Inode(ino), &patches)],
        };
        let token = Token(handle.to_bits());
        match self.engine.submit(token, &op, &mut self.desk) {
            Ok(()) => self.round_trips += 1,
            Err(Busy) => self.desk.wait(handle),
        }
    }

    pub(super) fn landed_setxattr(&mut self, handle: Handle) {
        let found = *self.desk.found(handle, 0);
        let there = self.desk.found(handle, RAW as usize).entry_version != 0;
        let Some(work) = self.desk.works.get(handle) else {
            return;
        };
        if work.step == LOOK {
            let checked = match work.kind {
                _ if found.inode_version == 0 => Err(Errno::ESTALE),
                Kind::Setxattr { flags, .. } if flags & XATTR_CREATE != 0 && there => {
                    Err(Errno::EEXIST)
                }
                Kind::Setxattr { flags, .. } if flags & XATTR_REPLACE != 0 && !there => {
                    Err(Errno::ENODATA)
                }
                Kind::Removexattr(_) if !there => Err(Errno::ENODATA),
                _ => Ok(()),
            };
            return match checked {
                Ok(()) => self.go(handle, CHANGE),
                Err(error) => self.fail(handle, error),
            };
        }
        if let Some(Kind::Setxattr { reply, .. } | Kind::Removexattr(reply)) =
            self.desk.works.remove(handle).map(|work| work.kind)
        {
            reply.ok(());
        }
    }

    pub(super) fn landed_statfs(&mut self, handle: Handle, done: Done) {
        let size = self.desk.volume.blksize;
        let Some(Kind::Statfs(reply)) = self.desk.works.remove(handle).map(|work| work.kind) else {
            return;
        };
        let Done::Usage {
            total,
            free,
            inodes,
        } = done
        else {
            return reply.err(Errno::EIO);
        };
        let blocks = |bytes: u64| bytes / u64::from(size);
        reply.ok(Statfs(Kstatfs {
            blocks: blocks(total),
            bfree: blocks(free),
            bavail: blocks(free),
            files: inodes + free / INODE_COST,
            ffree: free / INODE_COST,
            bsize: size,
            namelen: super::NAME_MAX as u32,
            frsize: size,
            ..Kstatfs::default()
        }));
    }
}

/// Give the inode as SETATTR makes it.
fn changed(inode: &Inode, set: &SetAttr) -> Inode {
    let now = Time::now();
    let time = |time: SetTime| match time {
        SetTime::Now => now,
        SetTime::At(seconds, nanoseconds) => Time::at(seconds, nanoseconds),
    };
    let mut new = *inode;
    if set.kill_suidgid && !inode.is_dir() {
        new.kill_suidgid();
    }
    if let Some(bits) = set.mode {
        new.mode = (inode.mode & !0o7777) | (bits & 0o7777);
    }
    if let Some(uid) = set.uid {
        new.uid = uid;
    }
    if let Some(gid) = set.gid {
        new.gid = gid;
    }
    if let Some(size) = set.size {
        if size < inode.size {
            // A mark that still stands covers more than this one would.
            if inode.mode & state::TRIM == 0 {
                new.trim = 0;
            }
            new.trim = new.trim.max(inode.size);
            new.mode |= state::TRIM;
        }
        new.size = size;
        new.mtime = now;
    }
    if let Some(atime) = set.atime {
        new.atime = time(atime);
    }
    if let Some(mtime) = set.mtime {
        new.mtime = time(mtime);
    }
    new.ctime = now;
    new
}
