//! Reading directories.
//!
//! Positions are the file system's own (`d_off`), so they stay good whatever is added or removed meanwhile, and the host
//! may come back to any of them. A worker reads records into the job's buffer; the core copies them to the host.

use core::ffi::CStr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::attrs;
use super::create::{BENEATH, NODE};
use super::job::{Answer, BUFFER, Job, Operation};
use super::nodes::Wait;
use super::volume::LocalVolume;
use crate::fuse::{DirEntries, DirEntriesPlus, Entry, NodeId, Reply};
use crate::sys::names::{self, DirRecord, DirRecords};
use crate::sys::{Result, file, stat};
use crate::wire::errno::Errno;
use crate::wire::fuse::{Attr, Dirent, EntryOut};

/// Bytes of the buffer for the kernel's records of READDIRPLUS; what is made of them comes behind.
const RAW: usize = 16 << 10;

const DIRENT: usize = size_of::<Dirent>();
const DIRENT_PLUS: usize = size_of::<EntryOut>() + DIRENT;

/// Begin an entry with attributes in the buffer; the name follows.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Plus {
    attr: Attr,
    ino: u64,
    next: u64,
    /// Zero when there are no attributes.
    node: u64,
    name_len: u32,
    kind: u32,
}

impl LocalVolume {
    pub(super) fn read_directory(&'static self, job: &mut Job) -> Result<Answer> {
        match job.operation {
            Operation::Readdir { fh, position, room } => {
                let directory = self.opened_directory(fh)?;
                // The kernel's records are no longer than FUSE's, so this is never too little for the room.
                let buffer = &mut job.buffer[..room.clamp(512, BUFFER)];
                let lock = directory.directory.as_ref().ok_or(Errno::ENOTDIR)?;
                let _one_reader = lock
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                names::seek(directory.fd.raw(), position, libc::SEEK_SET)?;
                let len = names::getdents(directory.fd.raw(), buffer)?;
                self.hide_way_up(directory.node, &mut buffer[..len])?;
                Ok(Answer::Bytes(len))
            }
            Operation::Readdirplus { fh, position, room } => {
                self.read_with_attributes(job, fh, position, room)
            }
            _ => Err(Errno::EIO),
        }
    }

    /// Give the root's ".." the root's own number: what is above is no concern of the host's.
    fn hide_way_up(&self, node: NodeId, records: &mut [u8]) -> Result<()> {
        if node != NodeId::ROOT {
            return Ok(());
        }
        let mut at = 0;
        let mut rest = DirRecords::new(records);
        let mut found = None;
        while let Some(record) = rest.next() {
            if record.name == c".." {
                found = Some(at);
            }
            at = records.len() - rest.left();
        }
        if let Some(place) = found.and_then(|at| records.get_mut(at..at + 8)) {
            let own = stat::statx(self.root.raw(), libc::STATX_INO, 0)?.stx_ino;
            place.copy_from_slice(&own.to_ne_bytes());
        }
        Ok(())
    }

    fn read_with_attributes(
        &'static self,
        job: &mut Job,
        fh: crate::fuse::Fh,
        position: u64,
        room: usize,
    ) -> Result<Answer> {
        let directory = self.opened_directory(fh)?;
        let dir = directory.fd.raw();
        let (raw, made) = job.buffer.split_at_mut(RAW);
        // So many names as may fit, not many more: what is left over is read again.
        let wanted = (room / DIRENT_PLUS + 1) * (DIRENT + 16);
        let raw = &mut raw[..wanted.clamp(512, RAW)];
        let len = {
            let lock = directory.directory.as_ref().ok_or(Errno::ENOTDIR)?;
            let _one_reader = lock
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            names::seek(dir, position, libc::SEEK_SET)?;
            names::getdents(dir, raw)?
        };
        self.hide_way_up(directory.node, &mut raw[..len])?;
        let (mut at, mut sent) = (0, 0);
        for record in DirRecords::new(&raw[..len]) {
            let name = record.name.to_bytes();
            let size = (DIRENT_PLUS + name.len()).next_multiple_of(8);
            let end = at + size_of::<Plus>() + name.len();
            // What does not fit must not be looked up: the host would never forget it.
            if sent + size > room || end > made.len() {
                break;
            }
            let entry = self.look_at(dir, &record, job.epoch);
            let plus = Plus {
                attr: entry.map_or_else(Attr::default, |entry| entry.attr),
                ino: entry.map_or(record.ino, |entry| entry.attr.ino),
                next: record.next,
                node: entry.map_or(0, |entry| entry.node.0),
                name_len: name.len() as u32,
                kind: u32::from(record.kind),
            };
            made[at..at + size_of::<Plus>()].copy_from_slice(plus.as_bytes());
            made[at + size_of::<Plus>()..end].copy_from_slice(name);
            (at, sent) = (end, sent + size);
        }
        Ok(Answer::Bytes(at))
    }

    /// Look an entry up; `None` for "." and ".." and for one that went away or cannot be had now. The host then has
    /// its name without attributes.
    fn look_at(&'static self, dir: i32, record: &DirRecord<'_>, epoch: u32) -> Option<Entry> {
        if is_dots(record.name) {
            return None;
        }
        let open = || file::openat2(dir, record.name, NODE, 0, BENEATH);
        let fd = self.with_descriptors(open).ok()?;
        self.enter(fd, epoch, Wait::May)?.ok()
    }

    /// Copy the records of READDIR to the host.
    pub(super) fn answer_readdir(&self, job: &Job, len: usize, reply: Reply<DirEntries>) {
        let mut at = 0;
        for record in DirRecords::new(job.buffer.get(..len).unwrap_or(&[])) {
            let name = record.name.to_bytes();
            match reply.push(at, record.ino, record.next, record.kind, name) {
                Some(next) => at = next,
                None => break,
            }
        }
        if at == 0 && len > 0 {
            // Not even one fits.
            return reply.err(Errno::EINVAL);
        }
        reply.ok(at);
    }

    /// Copy the records of READDIRPLUS to the host.
    pub(super) fn answer_readdirplus(&self, job: &Job, len: usize, reply: Reply<DirEntriesPlus>) {
        let mut at = 0;
        let mut rest = job.buffer.get(RAW..RAW + len).unwrap_or(&[]);
        while let Ok((plus, behind)) = Plus::read_from_prefix(rest) {
            let Some((name, behind)) = behind.split_at_checked(plus.name_len as usize) else {
                break;
            };
            rest = behind;
            let entry = (plus.node != 0).then_some(Entry {
                node: NodeId(plus.node),
                generation: 0,
                attr: plus.attr,
                entry_ttl: self.ttl.entry,
                attr_ttl: self.ttl.attr,
            });
            let (ino, next, kind) = (plus.ino, plus.next, plus.kind as u8);
            match reply.push(at, entry.as_ref(), ino, next, kind, name) {
                Some(next) => at = next,
                None => break,
            }
        }
        reply.ok(at);
    }
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

const _: () = assert!(RAW + 2 * size_of::<Plus>() < BUFFER);
const _: () = assert!(size_of::<Plus>() == size_of::<Attr>() + 32);
const _: () = assert!(attrs::S_IFDIR >> 12 == libc::DT_DIR as u32);
