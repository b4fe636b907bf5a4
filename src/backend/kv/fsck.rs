//! Check and repair a volume that nobody serves: names against inodes, counts, orphans, marks.
//!
//! ```text
//!  Inodes ──> table in memory ──> each directory: Entries and Names ──> counts compared ──> repairs
//! ```
//!
//! Every repair is a transaction of its own, so one that is interrupted is continued by the next run. The whole list of
//! inodes is held in memory, about 200 bytes for each.
//!
//! What is left of an inode whose record is lost (content, attributes, names in it) is not looked for, but for content that
//! lies apart from its volume ([`List::Groups`]).
//!
//! What a crash may leave, and the next service repairs by itself, is not damage: orphans and marks
//! ([`super::record::state::TRIM`]). They are counted apart.

extern crate std;

use std::collections::{BTreeSet, HashMap};
use std::format;
use std::string::String;
use std::vec::Vec;

use zerocopy::IntoBytes;

use super::engine::{Done, Engine, Expect, Failure, Key, List, Op, Write};
use super::record::{Dentry, Inode, Placed, ROOT, mode, state};
use super::setup::call;

/// Say what a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Inodes that were looked at.
    pub inodes: u64,
    /// Entries of directories.
    pub entries: u64,
    /// Inodes without a name that wait to be removed.
    pub orphans: u64,
    /// Files that are marked to be cleared behind their end.
    pub marks: u64,
    /// What is wrong, or was.
    pub damage: Vec<String>,
}

/// A record of a list: position, name, value.
type Listed = (u64, Vec<u8>, Vec<u8>);

/// What the names say about an inode.
struct Seen {
    inode: Inode,
    /// Names that lead to it.
    names: u32,
    /// Directories in it.
    dirs: u32,
    /// Entries in it.
    entries: u32,
    /// Where its last name was found.
    parent: u64,
    orphan: bool,
}

/// Check a volume, and repair what is wrong with `repair`. `progress` is told how many of how many steps are done.
///
/// # Errors
/// What the engine says; the rest is not checked then.
pub fn check<E: Engine>(
    engine: &mut E,
    repair: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, Failure> {
    let mut fsck = Fsck {
        engine,
        repair,
        report: Report::default(),
        seen: HashMap::new(),
    };
    fsck.inodes()?;
    fsck.orphans()?;
    fsck.content()?;
    let mut dirs: Vec<u64> = fsck
        .seen
        .values()
        .filter(|seen| seen.inode.is_dir())
        .map(|seen| seen.inode.ino)
        .collect();
    dirs.sort_unstable();
    let steps = dirs.len() as u64 + fsck.seen.len() as u64;
    for (step, &dir) in (1..).zip(&dirs) {
        fsck.directory(dir)?;
        progress(step, steps);
    }
    let mut all: Vec<u64> = fsck.seen.keys().copied().collect();
    all.sort_unstable();
    for (step, &ino) in (dirs.len() as u64 + 1..).zip(&all) {
        fsck.inode(ino)?;
        progress(step, steps);
    }
    Ok(fsck.report)
}

struct Fsck<'e, E> {
    engine: &'e mut E,
    repair: bool,
    report: Report,
    seen: HashMap<u64, Seen>,
}

impl<E: Engine> Fsck<'_, E> {
    /// Collect a whole list.
    fn list(&mut self, list: List) -> Result<Vec<Listed>, Failure> {
        let mut found = Vec::new();
        let mut after = 0;
        loop {
            let op = Op::Scan {
                list,
                after,
                limit: 65_536,
                follow: false,
            };
            let done = call(self.engine, &op, &mut |record| {
                after = record.at;
                found.push((record.at, record.name.to_vec(), record.value.to_vec()));
            })?;
            if done != (Done::Listed { more: true }) {
                return Ok(found);
            }
        }
    }

    fn write(&mut self, writes: &[Write<'_>]) -> Result<(), Failure> {
        if !self.repair {
            return Ok(());
        }
        let op = Op::Transact {
            checks: &[],
            writes,
        };
        call(self.engine, &op, &mut |_| ()).map(|_| ())
    }

    fn damaged(&mut self, what: String) {
        self.report.damage.push(what);
    }

    fn inodes(&mut self) -> Result<(), Failure> {
        for (at, number, value) in self.list(List::Inodes)? {
            let at = number
                .first_chunk()
                .map_or(at, |ino| u64::from_be_bytes(*ino));
            if self.seen.contains_key(&at) {
                continue;
            }
            self.report.inodes += 1;
            let Some(inode) = Inode::parse(&value).filter(|inode| inode.ino == at) else {
                self.damaged(format!("inode {at}: not readable; removed"));
                self.write(&[Write::Delete(Key::Inode(at))])?;
                continue;
            };
            let seen = Seen {
                inode,
                names: 0,
                dirs: 0,
                entries: 0,
                parent: 0,
                orphan: false,
            };
            self.seen.insert(at, seen);
        }
        Ok(())
    }

    fn orphans(&mut self) -> Result<(), Failure> {
        for (ino, _, _) in self.list(List::Orphans)? {
            match self.seen.get_mut(&ino) {
                Some(seen) => seen.orphan = true,
                None => {
                    self.damaged(format!("orphan {ino}: has no inode; removed"));
                    self.write(&[Write::Delete(Key::Orphan(ino))])?;
                }
            }
        }
        Ok(())
    }

    /// Find content that lies apart from its volume and belongs to no inode.
    fn content(&mut self) -> Result<(), Failure> {
        let mut lost = BTreeSet::new();
        let mut after = 0;
        loop {
            let op = Op::Scan {
                list: List::Groups,
                after,
                limit: 65_536,
                follow: false,
            };
            let seen = &self.seen;
            let done = call(self.engine, &op, &mut |record| {
                after = record.at;
                let name = record.name.split_first_chunk::<8>();
                if let Some((ino, group)) = name
                    && let Some(group) = group.first_chunk::<4>()
                    && !seen.contains_key(&u64::from_be_bytes(*ino))
                {
                    lost.insert((u64::from_be_bytes(*ino), u32::from_be_bytes(*group)));
                }
            })?;
            if done != (Done::Listed { more: true }) {
                break;
            }
        }
        for (ino, group) in lost {
            self.damaged(format!(
                "content of inode {ino}, part {group}: has no inode; removed"
            ));
            if self.repair {
                call(self.engine, &Op::Discard { ino, group }, &mut |_| ())?;
            }
        }
        Ok(())
    }

    fn directory(&mut self, dir: u64) -> Result<(), Failure> {
        let mut names: HashMap<Vec<u8>, Dentry> = HashMap::new();
        for (_, name, value) in self.list(List::Names(dir))? {
            let shown = String::from_utf8_lossy(&name).into_owned();
            let Some((entry, _)) = Dentry::parse(&value) else {
                self.damaged(format!("{dir}/{shown}: not readable; removed"));
                self.write(&[Write::Delete(Key::Name(dir, &name))])?;
                continue;
            };
            names.insert(name, entry);
        }
        for (position, _, value) in self.list(List::Entries(dir))? {
            let placed = Dentry::parse(&value);
            let Some((entry, name)) = placed.filter(|(entry, name)| {
                entry.position == position && !name.is_empty() && self.seen.contains_key(&entry.ino)
            }) else {
                self.damaged(format!(
                    "directory {dir}: position {position} is not readable; removed"
                ));
                self.write(&[Write::Delete(Key::Position(dir, position))])?;
                continue;
            };
            let shown = String::from_utf8_lossy(name).into_owned();
            match names.get(name) {
                Some(named) if *named == entry => {}
                None => {
                    self.damaged(format!("{dir}/{shown}: is listed only; named again"));
                    self.write(&[Write::Put(Key::Name(dir, name), entry.as_bytes())])?;
                    names.insert(name.to_vec(), entry);
                }
                Some(_) => {
                    self.damaged(format!(
                        "{dir}/{shown}: is listed twice; removed from the list"
                    ));
                    self.write(&[Write::Delete(Key::Position(dir, position))])?;
                }
            }
        }
        let listed: HashMap<u64, Vec<u8>> = self
            .list(List::Entries(dir))?
            .into_iter()
            .map(|(position, _, value)| (position, value))
            .collect();
        for (name, entry) in names {
            let shown = String::from_utf8_lossy(&name).into_owned();
            let Some(inode) = self.seen.get(&entry.ino).map(|seen| seen.inode) else {
                self.damaged(format!(
                    "{dir}/{shown}: has no inode {}; removed",
                    entry.ino
                ));
                self.write(&[
                    Write::Delete(Key::Name(dir, &name)),
                    Write::Delete(Key::Position(dir, entry.position)),
                ])?;
                continue;
            };
            let placed = Placed::new(&entry, &name);
            if listed.get(&entry.position).map(Vec::as_slice) != Some(placed.value()) {
                self.damaged(format!("{dir}/{shown}: is not listed; listed again"));
                self.write(&[Write::Put(
                    Key::Position(dir, entry.position),
                    placed.value(),
                )])?;
            }
            self.report.entries += 1;
            if let Some(seen) = self.seen.get_mut(&entry.ino) {
                seen.names += 1;
                seen.parent = dir;
            }
            if let Some(seen) = self.seen.get_mut(&dir) {
                seen.entries += 1;
                seen.dirs += u32::from(inode.is_dir());
            }
        }
        Ok(())
    }

    fn inode(&mut self, ino: u64) -> Result<(), Failure> {
        let Some(seen) = self.seen.get(&ino) else {
            return Ok(());
        };
        let (old, orphan, names) = (seen.inode, seen.orphan, seen.names);
        let mut inode = old;
        if inode.is_dir() {
            inode.entries = seen.entries;
            let root = ino == ROOT;
            inode.nlink = if names > 0 || root { 2 + seen.dirs } else { 0 };
            if names > 0 {
                inode.parent = seen.parent;
                inode.mode &= !state::DEAD;
            }
        } else {
            inode.nlink = names;
        }
        if names == 0 && ino != ROOT {
            if orphan && old.nlink == 0 {
                self.report.orphans += 1;
                return self.remove(&old);
            }
            return self.recover(old);
        }
        if orphan {
            self.damaged(format!(
                "inode {ino}: has a name and is an orphan; the name stays"
            ));
            self.write(&[Write::Delete(Key::Orphan(ino))])?;
        }
        if old.mode & state::TRIM != 0 {
            self.report.marks += 1;
            inode.mode &= !state::TRIM;
            self.clear(&old, old.size)?;
            self.write(&[Write::Put(Key::Inode(ino), inode.as_bytes())])?;
        }
        if (inode.nlink, inode.entries, inode.parent) != (old.nlink, old.entries, old.parent) {
            self.damaged(format!(
                "inode {ino}: {} names, {} entries, in {}; is {}, {}, {}",
                old.nlink, old.entries, old.parent, inode.nlink, inode.entries, inode.parent
            ));
            self.write(&[Write::Put(Key::Inode(ino), inode.as_bytes())])?;
        }
        Ok(())
    }

    /// Clear content from a byte on.
    fn clear(&mut self, inode: &Inode, mut from: u64) -> Result<(), Failure> {
        while self.repair {
            let op = Op::Clear {
                ino: inode.ino,
                from,
                to: u64::MAX,
                size: inode.size.max(inode.trim),
                expect: Expect::Present,
            };
            match call(self.engine, &op, &mut |_| ())? {
                Done::More(next) => from = next,
                _ => break,
            }
        }
        Ok(())
    }

    fn remove(&mut self, inode: &Inode) -> Result<(), Failure> {
        self.clear(inode, 0)?;
        if self.repair {
            let op = Op::Purge {
                ino: inode.ino,
                expect: Expect::Present,
            };
            call(self.engine, &op, &mut |_| ())?;
        }
        Ok(())
    }

    /// Give an inode that lost its names a new one in the root.
    fn recover(&mut self, mut inode: Inode) -> Result<(), Failure> {
        let ino = inode.ino;
        let name = format!("#{ino}");
        self.damaged(format!("inode {ino}: has no name; is now /{name}"));
        let entry = Dentry {
            ino,
            position: ino,
            kind: inode.mode & mode::S_IFMT,
            unused: 0,
        };
        let is_dir = inode.is_dir();
        let Some(seen) = self.seen.get_mut(&ino) else {
            return Ok(());
        };
        seen.names = 1;
        inode.nlink = if is_dir { 2 + seen.dirs } else { 1 };
        inode.entries = seen.entries;
        inode.parent = if is_dir { ROOT } else { inode.parent };
        inode.mode &= !(state::DEAD | state::NAMELESS);
        seen.inode = inode;
        let Some(root) = self.seen.get_mut(&ROOT) else {
            return Ok(());
        };
        root.entries += 1;
        root.dirs += u32::from(is_dir);
        root.inode.entries = root.entries;
        root.inode.nlink = 2 + root.dirs;
        let root = root.inode;
        let placed = Placed::new(&entry, name.as_bytes());
        self.write(&[
            Write::Put(Key::Inode(ino), inode.as_bytes()),
            Write::Put(Key::Name(ROOT, name.as_bytes()), entry.as_bytes()),
            Write::Put(Key::Position(ROOT, ino), placed.value()),
            Write::Put(Key::Inode(ROOT), root.as_bytes()),
            Write::Delete(Key::Orphan(ino)),
        ])
    }
}
