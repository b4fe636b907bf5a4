//! Operations that are under way in a core's io_uring.

use super::attrs;
use super::files::{FilePin, Target};
use super::instance::Local;
use super::job::Operation;
use super::nodes::NodeFd;
use super::waiting::Waiting;
use crate::fuse::{Attributes, Data, Fh, Reply, Written};
use crate::mem::Segment;
use crate::sys::fd::Fd;
use crate::sys::uring::{How, Pending, Reaped};
use crate::sys::{Result, io};
use crate::wire::errno::Errno;

/// Hold what an operation in the ring works on: the request and its descriptors live until it is reaped.
pub enum Flight {
    /// READ.
    Read(Transfer<Data>),
    /// WRITE.
    Write(Transfer<Written>),
    /// Anything that answers with an error or nothing.
    Unit {
        /// Request.
        reply: Reply<()>,
        /// What it works on, a second directory too.
        held: (Target, Option<NodeFd>),
    },
    /// GETATTR.
    Stat {
        /// Request.
        reply: Reply<Attributes>,
        /// What it works on.
        held: Target,
    },
}

/// Hold a round's only READ or WRITE so far, on its way to the ring.
pub enum Lone {
    /// READ.
    Read(Transfer<Data>),
    /// WRITE.
    Write(Transfer<Written>),
}

/// Hold a READ or WRITE.
pub struct Transfer<T> {
    /// Request.
    pub reply: Reply<T>,
    /// Open file.
    pub file: FilePin,
    /// Its number.
    pub fh: Fh,
    /// Opened instead of `file`'s descriptor, because the request is not aligned as that demands.
    pub plain: Option<Fd>,
    /// Place in the file of the first byte.
    pub offset: u64,
    /// Bytes that are done.
    pub done: usize,
    /// `RWF_*`.
    pub flags: i32,
    /// Credentials to write with.
    pub credentials: u16,
}

impl<T> Transfer<T> {
    fn fd(&self) -> i32 {
        self.plain.as_ref().unwrap_or(&self.file.fd).raw()
    }

    fn how(&self) -> How {
        How {
            skip: self.done,
            flags: self.flags,
            credentials: self.credentials,
        }
    }
}

impl Pending for Flight {
    #[inline]
    fn segments(&self) -> &[Segment] {
        match self {
            Self::Read(read) => read.reply.buffers(),
            Self::Write(write) => write.reply.payload(),
            Self::Unit { .. } | Self::Stat { .. } => &[],
        }
    }
}

impl Flight {
    pub fn fail(self, error: Errno) {
        match self {
            Self::Read(read) => read.reply.err(error),
            Self::Write(write) => write.reply.err(error),
            Self::Unit { reply, .. } => reply.err(error),
            Self::Stat { reply, .. } => reply.err(error),
        }
    }
}

impl Local {
    /// Read at once where the file system keeps its files in memory, else by the ring.
    #[inline]
    pub(super) fn begin_read(&mut self, read: Transfer<Data>) {
        if self.volume.in_memory() {
            let result = read_here(&read, 0);
            return self.land_read(read, result);
        }
        // A call of its own waits for the disk, even with `RWF_NOWAIT`.
        if read.file.direct {
            return self.fly_read(read);
        }
        self.begin(Lone::Read(read));
    }

    /// Write at once where the file system keeps its files in memory, or where the operator wants it, else by the ring.
    #[inline]
    pub(super) fn begin_write(&mut self, write: Transfer<Written>) {
        // Other credentials are the ring's alone.
        if write.credentials != 0 {
            return self.fly_write(write);
        }
        let durable = write.flags & (libc::RWF_DSYNC | libc::RWF_SYNC) != 0;
        // As for READ.
        let waits = write.file.direct || durable;
        if self.volume.in_memory() || (self.volume.config.blocking_writes && !waits) {
            let result = write_here(&write, 0);
            return self.land_write(write, result);
        }
        if waits {
            return self.fly_write(write);
        }
        self.begin(Lone::Write(write));
    }

    /// Keep the round's first transfer back, see [`Self::begin_lone`]; queue it and all others once a second comes.
    #[inline]
    fn begin(&mut self, transfer: Lone) {
        // With a thread of the kernel that polls the ring, this side makes no calls.
        if self.volume.config.sqpoll.is_some() {
            return self.fly(transfer);
        }
        match self.lone.take() {
            None => self.lone = Some(transfer),
            Some(first) => {
                self.fly(first);
                self.fly(transfer);
            }
        }
    }

    #[inline]
    fn fly(&mut self, transfer: Lone) {
        match transfer {
            Lone::Read(read) => self.fly_read(read),
            Lone::Write(write) => self.fly_write(write),
        }
    }

    /// Do a transfer that came alone, if nothing has to be waited for; true when it was done. A call of its own is a
    /// quarter cheaper than the ring's then; with others, the ring's one call for all of them is cheaper.
    #[inline]
    pub(super) fn begin_lone(&mut self) -> bool {
        let Some(lone) = self.lone.take() else {
            return false;
        };
        if !self.ring.is_empty() {
            self.fly(lone);
            return false;
        }
        // Less than all may be the end of the file, or of what is in memory; an error, that the file system cannot tell.
        // The ring goes on with the rest, and says which.
        match lone {
            Lone::Read(mut read) => {
                let count = read_here(&read, libc::RWF_NOWAIT).unwrap_or(0);
                if count == read.reply.wanted() {
                    self.land_read(read, Ok(count));
                    return true;
                }
                read.done = count;
                self.fly_read(read);
            }
            Lone::Write(mut write) => {
                let count = write_here(&write, libc::RWF_NOWAIT).unwrap_or(0);
                if count == write.reply.wanted() {
                    self.land_write(write, Ok(count));
                    return true;
                }
                write.done = count;
                self.fly_write(write);
            }
        }
        false
    }

    /// Queue the part of a READ that is left.
    #[inline]
    pub(super) fn fly_read(&mut self, read: Transfer<Data>) {
        let (slot, fd) = (read.reply.id().index, read.fd());
        let (offset, how) = (read.offset + read.done as u64, read.how());
        let queued = self.ring.read(slot, fd, offset, how, Flight::Read(read));
        refuse(queued);
    }

    /// Queue the part of a WRITE that is left.
    #[inline]
    pub(super) fn fly_write(&mut self, write: Transfer<Written>) {
        let (slot, fd) = (write.reply.id().index, write.fd());
        let (offset, how) = (write.offset + write.done as u64, write.how());
        let queued = self.ring.write(slot, fd, offset, how, Flight::Write(write));
        refuse(queued);
    }

    /// Answer what an operation gave, or go on with it.
    #[inline]
    pub(super) fn land(&mut self, reaped: Reaped<Flight>) {
        let result = reaped.result;
        match reaped.pending {
            Flight::Read(read) => self.land_read(read, result),
            Flight::Write(write) => self.land_write(write, result),
            Flight::Unit { reply, held } => {
                drop(held);
                match result {
                    Ok(_) => reply.ok(()),
                    Err(error) => reply.err(error),
                }
            }
            Flight::Stat { reply, held } => {
                drop(held);
                match result {
                    Ok(_) => {
                        let stat = self.ring.stat(reaped.slot);
                        reply.ok(Attributes {
                            attr: attrs::attr(&stat, self.volume.root_device),
                            ttl: self.volume.ttl.attr,
                        });
                    }
                    Err(error) => reply.err(error),
                }
            }
        }
    }

    #[inline]
    fn land_read(&mut self, mut read: Transfer<Data>, result: Result<usize>) {
        match result {
            Ok(count) => {
                let first = read.done == 0;
                read.done += count;
                let whole = read.done >= read.reply.wanted();
                // A file system of this machine comes back early at the end of the file alone. A continued read stops
                // at the end of a segment, and others may stop anywhere.
                if whole || count == 0 || (first && self.volume.immediate()) {
                    let Transfer {
                        reply, file, done, ..
                    } = read;
                    drop(file);
                    reply.filled(done);
                } else {
                    self.fly_read(read);
                }
            }
            Err(Errno::EINVAL) if read.file.direct && read.plain.is_none() => {
                self.ask_plain(read.reply.id().index, Flight::Read(read));
            }
            Err(_) if read.done > 0 => read.reply.filled(read.done),
            Err(error) => read.reply.err(error),
        }
    }

    #[inline]
    fn land_write(&mut self, mut write: Transfer<Written>, result: Result<usize>) {
        match result {
            Ok(count) => {
                write.done += count;
                if write.done >= write.reply.wanted() || count == 0 {
                    let Transfer {
                        reply, file, done, ..
                    } = write;
                    drop(file);
                    reply.ok(Written(done as u32));
                } else {
                    self.fly_write(write);
                }
            }
            Err(Errno::EINVAL) if write.file.direct && write.plain.is_none() => {
                self.ask_plain(write.reply.id().index, Flight::Write(write));
            }
            Err(_) if write.done > 0 => {
                let written = Written(write.done as u32);
                write.reply.ok(written);
            }
            Err(error) => write.reply.err(error),
        }
    }

    /// Open the file again, without `O_DIRECT`, for a request that is not aligned as the disk wants it.
    fn ask_plain(&mut self, slot: u32, flight: Flight) {
        let fh = match &flight {
            Flight::Read(read) => read.fh,
            Flight::Write(write) => write.fh,
            Flight::Unit { .. } | Flight::Stat { .. } => return flight.fail(Errno::EIO),
        };
        self.ask(slot, Waiting::Flight(flight), |job| {
            job.operation = Operation::Plain { fh };
            Ok(())
        });
    }
}

fn read_here(read: &Transfer<Data>, flags: i32) -> Result<usize> {
    let flags = read.flags | flags;
    io::preadv(read.fd(), read.reply.buffers(), read.offset, flags)
}

fn write_here(write: &Transfer<Written>, flags: i32) -> Result<usize> {
    let flags = write.flags | flags;
    io::pwritev(write.fd(), write.reply.payload(), write.offset, flags)
}

/// Answer what the ring did not take: the slot was in use, which no request should meet.
pub fn refuse(queued: core::result::Result<(), Flight>) {
    if let Err(flight) = queued {
        flight.fail(Errno::EIO);
    }
}
