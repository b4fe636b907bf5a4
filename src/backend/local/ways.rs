//! The operations that have more than one way: at once, by the ring, by a worker.

use super::attrs;
use super::create::{BENEATH, NODE};
use super::files::{FilePin, Target as Held};
use super::filesystem::writable;
use super::flight::{Flight, Transfer, refuse};
use super::instance::Local;
use super::job::Operation;
use super::nodes::{NodeFd, Wait};
use super::waiting::Waiting;
use crate::fuse::{Attributes, Data, Entry, Fh, Name, NodeId, Reply, Request, StatxReply, Written};
use crate::sys::{file, stat, uring};
use crate::wire::errno::Errno;
use crate::wire::fuse::WriteFlags;
use crate::wire::open_flags::OpenFlags;

/// `AT_STATX_SYNC_TYPE`.
const SYNC_TYPE: u32 = 0x6000;
/// Flags that renameat2(2) has.
const RENAME_FLAGS: u32 = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE | libc::RENAME_WHITEOUT;

impl Local {
    /// Look up a name that the kernel has in its cache, or say that another way is needed.
    #[inline]
    fn look_up_cached(
        &self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
    ) -> Option<Result<Entry, Errno>> {
        let volume = self.volume;
        if !volume.immediate() || name.is_dots() {
            return None;
        }
        let dir = volume.open_node(parent)?;
        let resolve = BENEATH | libc::RESOLVE_NO_XDEV | libc::RESOLVE_CACHED;
        match file::openat2(dir.raw(), name.as_c_str(), NODE, 0, resolve) {
            Ok(fd) => volume.enter(fd, rq.epoch, Wait::Never),
            Err(Errno::ENOENT) => Some(match volume.ttl.negative {
                Some(ttl) => Ok(Entry::negative(ttl)),
                None => Err(Errno::ENOENT),
            }),
            // Not cached, on another mount, or no descriptor left.
            Err(_) => None,
        }
    }

    /// Give an open descriptor of a node or file, if there is one.
    #[inline]
    fn held(&self, node: NodeId, fh: Option<Fh>) -> Result<Option<Held>, Errno> {
        match fh {
            Some(fh) => self.volume.opened(fh).map(|file| Some(Held::File(file))),
            None => Ok(self.volume.open_node(node).map(Held::Node)),
        }
    }

    fn transfer<T>(
        &self,
        fh: Fh,
        offset: u64,
        reply: Reply<T>,
    ) -> Result<Transfer<T>, (Errno, Reply<T>)> {
        match self.volume.opened_file(fh) {
            // The ring takes offset -1 for "the present position".
            Ok(_) if offset > i64::MAX as u64 => Err((Errno::EINVAL, reply)),
            Ok(file) => Ok(Transfer {
                reply,
                file,
                fh,
                plain: None,
                offset,
                done: 0,
                flags: 0,
                credentials: 0,
            }),
            Err(error) => Err((error, reply)),
        }
    }

    pub(super) fn sync(&mut self, file: Result<FilePin, Errno>, datasync: bool, reply: Reply<()>) {
        match file {
            Ok(file) => {
                let (slot, fd) = (reply.id().index, file.fd.raw());
                let held = (Held::File(file), None);
                refuse(
                    self.ring
                        .sync(slot, fd, datasync, Flight::Unit { reply, held }),
                );
            }
            Err(error) => reply.err(error),
        }
    }

    pub(super) fn remove(
        &mut self,
        parent: NodeId,
        name: Name<'_>,
        directory: bool,
        reply: Reply<()>,
    ) {
        writable!(self, reply);
        let slot = reply.id().index;
        let dir = self.volume.open_node(parent);
        match dir.filter(|_| self.ring.supports(uring::Operation::Unlink)) {
            Some(dir) => {
                let (fd, held) = (dir.raw(), (Held::Node(dir), None));
                let flags = if directory { libc::AT_REMOVEDIR } else { 0 };
                let flight = Flight::Unit { reply, held };
                refuse(self.ring.unlink(slot, fd, name.as_c_str(), flags, flight));
            }
            None => self.ask(slot, Waiting::Unit(reply), |job| {
                job.name.set(name.as_c_str());
                job.operation = Operation::Unlink { parent, directory };
                Ok(())
            }),
        }
    }

    /// Look a name up: here, or in a worker.
    pub(super) fn look_up_somehow(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        reply: Reply<Entry>,
    ) {
        match self.look_up_cached(rq, parent, name) {
            Some(Ok(entry)) => reply.ok(entry),
            Some(Err(error)) => reply.err(error),
            None => self.ask(rq.id.index, Waiting::Entry(reply), |job| {
                job.epoch = rq.epoch;
                job.name.set(name.as_c_str());
                job.operation = Operation::Lookup { parent };
                Ok(())
            }),
        }
    }

    /// Get attributes: here, by the ring, or in a worker.
    pub(super) fn get_attributes(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Option<Fh>,
        reply: Reply<Attributes>,
    ) {
        let volume = self.volume;
        let held = match self.held(node, fh) {
            Ok(held) => held,
            Err(error) => return reply.err(error),
        };
        match held {
            Some(held) if volume.immediate() => match stat::statx(held.raw(), attrs::BASIC, 0) {
                Ok(stat) => reply.ok(Attributes {
                    attr: attrs::attr(&stat, volume.root_device),
                    ttl: volume.ttl.attr,
                }),
                Err(error) => reply.err(error),
            },
            Some(held) if self.ring.supports(uring::Operation::Statx) => {
                let (slot, fd) = (rq.id.index, held.raw());
                let flight = Flight::Stat { reply, held };
                refuse(self.ring.statx(slot, fd, attrs::BASIC, 0, flight));
            }
            _ => self.ask(rq.id.index, Waiting::Attr(reply), |job| {
                job.operation = Operation::Getattr { node, fh };
                Ok(())
            }),
        }
    }

    /// Get attributes as statx(2) does: here, or in a worker.
    pub(super) fn get_more_attributes(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Option<Fh>,
        flags: u32,
        mask: u32,
        reply: Reply<StatxReply>,
    ) {
        let sync = (flags & SYNC_TYPE) as i32;
        let volume = self.volume;
        let held = match self.held(node, fh) {
            Ok(held) => held,
            Err(error) => return reply.err(error),
        };
        if let Some(held) = held.filter(|_| volume.immediate()) {
            return match stat::statx(held.raw(), mask & attrs::ALL, sync) {
                Ok(stat) => reply.ok(StatxReply {
                    stat: attrs::wire_statx(&stat, volume.root_device),
                    ttl: volume.ttl.attr,
                }),
                Err(error) => reply.err(error),
            };
        }
        self.ask(rq.id.index, Waiting::Statx(reply), |job| {
            job.operation = Operation::Statx {
                node,
                fh,
                mask,
                sync,
            };
            Ok(())
        });
    }

    /// Rename: by the ring, or in a worker.
    pub(super) fn rename_somehow(
        &mut self,
        rq: &Request,
        (parent, name): (NodeId, Name<'_>),
        (new_parent, new_name): (NodeId, Name<'_>),
        flags: u32,
        reply: Reply<()>,
    ) {
        writable!(self, reply);
        if flags & !RENAME_FLAGS != 0 {
            return reply.err(Errno::EINVAL);
        }
        let slot = rq.id.index;
        let (name, new_name) = (name.as_c_str(), new_name.as_c_str());
        let dirs: Option<(NodeFd, NodeFd)> = self
            .volume
            .open_node(parent)
            .zip(self.volume.open_node(new_parent));
        match dirs.filter(|_| self.ring.supports(uring::Operation::Rename)) {
            Some((dir, new_dir)) => {
                let (old, new) = ((dir.raw(), name), (new_dir.raw(), new_name));
                let held = (Held::Node(dir), Some(new_dir));
                let flight = Flight::Unit { reply, held };
                refuse(self.ring.rename(slot, old, new, flags, flight));
            }
            None => self.ask(slot, Waiting::Unit(reply), |job| {
                job.name.set(name);
                job.other.set(new_name);
                job.operation = Operation::Rename {
                    parent,
                    new_parent,
                    flags,
                };
                Ok(())
            }),
        }
    }

    /// Write a request's payload.
    #[inline]
    pub(super) fn write_payload(
        &mut self,
        fh: Fh,
        offset: u64,
        how: WriteFlags,
        flags: OpenFlags,
        reply: Reply<Written>,
    ) {
        writable!(self, reply);
        let mut write = match self.transfer(fh, offset, reply) {
            Ok(write) => write,
            Err((error, reply)) => return reply.err(error),
        };
        if write.reply.wanted() == 0 {
            return write.reply.ok(Written(0));
        }
        // A host that caches writes knows where they go; others leave the end of the file to this side.
        let cached = self.volume.config.writeback || how.contains(WriteFlags::CACHE);
        for (flag, bit, wanted) in [
            (OpenFlags::APPEND, libc::RWF_APPEND, !cached),
            (OpenFlags::DSYNC, libc::RWF_DSYNC, true),
            (OpenFlags::SYNC, libc::RWF_SYNC, true),
        ] {
            if wanted && flags.contains(flag) {
                write.flags |= bit;
            }
        }
        if !how.contains(WriteFlags::KILL_SUIDGID) {
            return self.begin_write(write);
        }
        write.credentials = self.unprivileged;
        if write.credentials != 0 {
            return self.begin_write(write);
        }
        self.ask(
            write.reply.id().index,
            Waiting::Flight(Flight::Write(write)),
            |job| {
                job.operation = Operation::KillPrivileges { fh };
                Ok(())
            },
        );
    }

    /// Read into a request's buffers.
    #[inline]
    pub(super) fn read_data(&mut self, fh: Fh, offset: u64, reply: Reply<Data>) {
        match self.transfer(fh, offset, reply) {
            Ok(read) if read.reply.wanted() == 0 => read.reply.filled(0),
            Ok(read) => self.begin_read(read),
            Err((error, reply)) => reply.err(error),
        }
    }

    /// Allocate or free space: by the ring, or in a worker.
    pub(super) fn allocate(
        &mut self,
        rq: &Request,
        fh: Fh,
        (offset, length): (u64, u64),
        mode: u32,
        reply: Reply<()>,
    ) {
        writable!(self, reply);
        let slot = rq.id.index;
        match self.volume.opened_file(fh) {
            Ok(file) if self.ring.supports(uring::Operation::Fallocate) => {
                let fd = file.fd.raw();
                let held = (Held::File(file), None);
                let range = (offset, length);
                let flight = Flight::Unit { reply, held };
                refuse(self.ring.fallocate(slot, fd, mode as i32, range, flight));
            }
            Ok(_) => self.ask(slot, Waiting::Unit(reply), |job| {
                job.operation = Operation::Fallocate {
                    fh,
                    offset,
                    length,
                    mode,
                };
                Ok(())
            }),
            Err(error) => reply.err(error),
        }
    }

    /// Flush: here where there is nothing to it, else in a worker.
    pub(super) fn flush_somehow(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        lock_owner: u64,
        reply: Reply<()>,
    ) {
        if self.volume.immediate() && self.volume.owners.is_empty() {
            return match self.volume.opened(fh) {
                Ok(_) => reply.ok(()),
                Err(error) => reply.err(error),
            };
        }
        self.ask(rq.id.index, Waiting::Unit(reply), |job| {
            job.operation = Operation::Flush {
                node,
                fh,
                owner: lock_owner,
            };
            Ok(())
        });
    }
}
