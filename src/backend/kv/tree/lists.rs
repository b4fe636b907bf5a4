//! Directories, listed: "." and "..", then the engine's list of positions, straight into the reply.

use super::super::engine::{Engine, Key, List, Op};
use super::Tree;
use super::desk::{Kind, ListReply};
use crate::mem::Handle;
use crate::wire::errno::Errno;

/// Read the directory itself.
const SELF: u8 = 0;
/// Read its entries.
pub const SCAN: u8 = 1;

/// Positions behind "." and "..". Entries' own are far above.
const DOT: u64 = 1;
const DOTS: u64 = 2;
const DT_DIR: u8 = 4;
/// Fewest bytes that a record takes.
const LEAST: usize = 32;
const LEAST_PLUS: usize = 160;

impl<E: Engine> Tree<E> {
    pub(super) fn issue_list(&mut self, handle: Handle) {
        let Some(work) = self.desk.works.get_mut(handle) else {
            return;
        };
        let ino = work.ino;
        let Kind::List {
            reply, position, ..
        } = &work.kind
        else {
            return;
        };
        if *position >= DOTS {
            work.step = SCAN;
        }
        if work.step == SELF {
            let op = Op::Get {
                keys: &[Key::Inode(ino)],
                follow: false,
            };
            return self.ask(handle, &op);
        }
        let (limit, follow) = match reply {
            ListReply::Plain(reply) => (reply.wanted() / LEAST + 1, false),
            ListReply::Plus(reply) => (reply.wanted() / LEAST_PLUS + 1, true),
        };
        let op = Op::Scan {
            list: List::Entries(ino),
            after: (*position).max(DOTS),
            limit: limit as u32,
            follow,
        };
        self.ask(handle, &op);
    }

    pub(super) fn landed_list(&mut self, handle: Handle) {
        let found = *self.desk.found(handle, 0);
        let Some(work) = self.desk.works.get_mut(handle) else {
            return;
        };
        let Kind::List {
            reply,
            position,
            at,
            full,
            ..
        } = &mut work.kind
        else {
            return;
        };
        if work.step == SELF {
            if found.inode_version == 0 {
                return self.fail(handle, Errno::ESTALE);
            }
            if !found.inode.is_dir() {
                return self.fail(handle, Errno::ENOTDIR);
            }
            let inode = found.inode;
            for (next, ino, name) in [(DOT, inode.ino, &b"."[..]), (DOTS, inode.parent, b"..")] {
                if *position >= next || *full {
                    continue;
                }
                let pushed = match reply {
                    ListReply::Plain(reply) => reply.push(*at, ino, next, DT_DIR, name),
                    ListReply::Plus(reply) => reply.push(*at, None, ino, next, DT_DIR, name),
                };
                match pushed {
                    Some(after) => *at = after,
                    None => *full = true,
                }
            }
            return self.go(handle, SCAN);
        }
        let Some(work) = self.desk.works.remove(handle) else {
            return;
        };
        if let Kind::List { reply, at, .. } = work.kind {
            match reply {
                ListReply::Plain(reply) => reply.ok(at),
                ListReply::Plus(reply) => reply.ok(at),
            }
        }
    }
}
