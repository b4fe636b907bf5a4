//! READDIR and READDIRPLUS: names from the listing into the reply, and what their objects are like.
//!
//! READDIRPLUS looks at the object of each name of its reply. A name gets its place in the reply at once, without
//! attributes, and gets them there when the engine has told of its object; the reply goes when all have been told of. All
//! looks are handed to the engine in one round, so that it may ask for them together. A name whose object is no more, or
//! cannot be told of, stays without attributes, and the host looks it up when it wants to know.

use super::super::engine::{Busy, Token};
use super::super::objects::{Done, Failure, Objects, Op};
use super::Flat;
use super::desk::{Desk, Kind, Work};
use super::listing::Turn;
use super::names::Name;
use crate::fuse::{DirEntries, DirEntriesPlus, Entry, NodeId, Reply};
use crate::mem::Handle;
use crate::wire::errno::Errno;

/// Names that a core looks at for READDIRPLUS at a time; a reply ends early when there are no more.
pub const LOOKS: u32 = 64;
const DT_DIR: u8 = 4;
const DT_REG: u8 = 8;
/// What a listed file has for a number when the host does not hold it: the next LOOKUP gives it one.
const UNKNOWN_INO: u64 = 0xffff_ffff;
/// Positions of "." and "..".
const DOTS: u64 = 2;
/// Marks the token of a look. No table is so large that an index has it.
const LOOK: u64 = 1 << 31;

/// Hold the reply of a directory's page.
pub enum Page {
    Plain(Reply<DirEntries>),
    Plus(Reply<DirEntriesPlus>),
}

impl Page {
    fn push(
        &self,
        at: usize,
        entry: Option<&Entry>,
        (ino, next): (u64, u64),
        kind: u8,
        name: &[u8],
    ) -> Option<usize> {
        match self {
            Self::Plain(reply) => reply.push(at, ino, next, kind, name),
            Self::Plus(reply) => reply.push(at, entry, ino, next, kind, name),
        }
    }

    const fn is_plus(&self) -> bool {
        matches!(self, Self::Plus(_))
    }

    fn epoch(&self) -> u32 {
        match self {
            Self::Plain(reply) => reply.epoch(),
            Self::Plus(reply) => reply.epoch(),
        }
    }

    fn ok(self, len: usize) {
        match self {
            Self::Plain(reply) => reply.ok(len),
            Self::Plus(reply) => reply.ok(len),
        }
    }

    pub fn err(self, error: Errno) {
        match self {
            Self::Plain(reply) => reply.err(error),
            Self::Plus(reply) => reply.err(error),
        }
    }
}

/// One name of a page that is looked at.
pub struct Look {
    page: Handle,
    name: Name,
    /// Its byte in the reply, and the position behind it.
    at: usize,
    next: u64,
}

/// Tell whether a token is that of a look.
pub const fn look(token: u64) -> Option<Handle> {
    match token & LOOK {
        0 => None,
        _ => Some(Handle::from_bits(token & !LOOK)),
    }
}

impl<O: Objects> Flat<O> {
    /// Read a directory on, from what is there of it.
    pub(super) fn list(&mut self, handle: Handle) {
        let Desk {
            volume,
            works,
            looks,
            again,
        } = &mut self.desk;
        let Some(Work {
            kind:
                Kind::List {
                    page,
                    fh,
                    position,
                    at,
                    fetches,
                    awaited,
                    ..
                },
            ..
        }) = works.get_mut(handle)
        else {
            return;
        };
        let dots: [&[u8]; DOTS as usize] = [b".", b".."];
        while let Some(dot) = dots.get(*position as usize) {
            let place = (NodeId::ROOT.0, *position + 1);
            let Some(next) = page.push(*at, None, place, DT_DIR, dot) else {
                break;
            };
            (*at, *position) = (next, *position + 1);
        }
        let turn = match position.checked_sub(DOTS) {
            None => Turn::Answer,
            Some(from) => {
                let now = volume.number();
                volume.listings.read(*fh, now, from, &mut |name, behind| {
                    if page.is_plus() && looks.len() == looks.capacity() && *at > 0 {
                        return false;
                    }
                    let node = volume.names.find(name);
                    let ino = node.map_or(UNKNOWN_INO, |node| node.0);
                    let behind = behind + DOTS;
                    let Some(next) = page.push(*at, None, (ino, behind), DT_REG, name) else {
                        return false;
                    };
                    let look = Look {
                        page: handle,
                        name: Name::new(name),
                        at: *at,
                        next: behind,
                    };
                    if page.is_plus()
                        && let Ok(look) = looks.insert(look)
                    {
                        *awaited += 1;
                        let _ = again.push(look.to_bits() | LOOK);
                    }
                    (*at, *position) = (next, behind);
                    true
                })
            }
        };
        match turn {
            Turn::Fetch => {
                *fetches = true;
                self.ask(handle);
            }
            Turn::Wait if *at == 0 => {
                let _ = again.push(handle.to_bits());
            }
            Turn::Overflow if *at == 0 => {
                if let Some(work) = works.remove(handle) {
                    work.kind.err(Errno::ENOMEM);
                }
            }
            Turn::Answer | Turn::Wait | Turn::Overflow => self.desk.end_page(handle),
        }
    }

    /// Hand a look to the engine; when that is busy, it is tried again.
    pub(super) fn look(&mut self, handle: Handle) {
        let Some(look) = self.desk.looks.get(handle) else {
            return;
        };
        let (name, token) = (look.name, handle.to_bits() | LOOK);
        let op = Op::Look { name: name.bytes() };
        if self.objects.submit(Token(token), &op, &mut self.desk) == Err(Busy) {
            let _ = self.desk.again.push(token);
        }
    }
}

impl Desk {
    /// Answer with the page as it is, once all of its names have been told of.
    pub(super) fn end_page(&mut self, handle: Handle) {
        if let Some(Kind::List { ended, awaited, .. }) =
            self.works.get_mut(handle).map(|work| &mut work.kind)
        {
            *ended = true;
            if *awaited > 0 {
                return;
            }
        }
        if let Some(Kind::List { page, at, .. }) = self.works.remove(handle).map(|work| work.kind) {
            page.ok(at);
        }
    }

    /// Take what the engine told of a name.
    pub(super) fn looked(&mut self, handle: Handle, result: Result<Done, Failure>) {
        let Some(look) = self.looks.remove(handle) else {
            return;
        };
        let Some(Kind::List {
            page,
            awaited,
            ended,
            ..
        }) = self.works.get_mut(look.page).map(|work| &mut work.kind)
        else {
            return;
        };
        *awaited -= 1;
        let name = look.name.bytes();
        if let Ok(Done::Found(found)) = result
            && let Ok(entry) = self.volume.entry(name, found, page.epoch())
        {
            // It has its room there.
            let place = (entry.node.0, look.next);
            page.push(look.at, Some(&entry), place, DT_REG, name);
        }
        if *ended {
            self.end_page(look.page);
        }
    }
}
