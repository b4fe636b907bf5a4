//! Requests that wait for a worker, and what they are answered with.

use super::flight::Flight;
use super::instance::Local;
use super::job::{Answer, Job};
use crate::fuse::number::Position;
use crate::fuse::{
    Attributes, Copied, Created, DirEntries, DirEntriesPlus, Entry, Lock, Opened, Reply, Statfs,
    StatxReply, Target, XattrValue,
};
use crate::wire::errno::Errno;

/// Hold a request whose job is under way.
pub enum Waiting {
    Unit(Reply<()>),
    Entry(Reply<Entry>),
    Attr(Reply<Attributes>),
    Statx(Reply<StatxReply>),
    Opened(Reply<Opened>),
    Created(Reply<Created>),
    Target(Reply<Target>),
    Xattr(Reply<XattrValue>),
    Dir(Reply<DirEntries>),
    DirPlus(Reply<DirEntriesPlus>),
    Statfs(Reply<Statfs>),
    Lock(Reply<Lock>),
    /// A lock to be taken; one that must wait is asked for again.
    SetLock {
        reply: Reply<()>,
        wait: bool,
    },
    Position(Reply<Position>),
    Copied(Reply<Copied>),
    /// A READ or WRITE that needs something first.
    Flight(Flight),
}

impl Waiting {
    /// Answer with an error.
    pub fn fail(self, error: Errno) {
        match self {
            Self::Unit(reply) | Self::SetLock { reply, .. } => reply.err(error),
            Self::Entry(reply) => reply.err(error),
            Self::Attr(reply) => reply.err(error),
            Self::Statx(reply) => reply.err(error),
            Self::Opened(reply) => reply.err(error),
            Self::Created(reply) => reply.err(error),
            Self::Target(reply) => reply.err(error),
            Self::Xattr(reply) => reply.err(error),
            Self::Dir(reply) => reply.err(error),
            Self::DirPlus(reply) => reply.err(error),
            Self::Statfs(reply) => reply.err(error),
            Self::Lock(reply) => reply.err(error),
            Self::Position(reply) => reply.err(error),
            Self::Copied(reply) => reply.err(error),
            Self::Flight(flight) => flight.fail(error),
        }
    }
}

impl Local {
    /// Answer a request whose job is done.
    pub(super) fn answer(&mut self, slot: u32, waiting: Waiting) {
        let volume = self.volume;
        let Some(mut job) = self.mailbox.job(slot) else {
            return waiting.fail(Errno::EIO);
        };
        if let Waiting::SetLock { reply, wait } = waiting {
            let answer = core::mem::replace(&mut job.answer, Ok(Answer::Done));
            drop(job);
            return self.answer_lock(slot, reply, wait, answer);
        }
        let answer = match core::mem::replace(&mut job.answer, Ok(Answer::Done)) {
            Ok(answer) => answer,
            Err(error) => return waiting.fail(error),
        };
        let job: &Job = &job;
        let bytes = |len: usize| job.buffer.get(..len).unwrap_or(&[]);
        match (waiting, answer) {
            (Waiting::Unit(reply), Answer::Done) => reply.ok(()),
            (Waiting::Entry(reply), Answer::Entry(entry)) => reply.ok(entry),
            (Waiting::Attr(reply), Answer::Attr(attr)) => {
                reply.ok(Attributes {
                    attr,
                    ttl: volume.ttl.attr,
                });
            }
            (Waiting::Statx(reply), Answer::Statx(stat)) => {
                reply.ok(StatxReply {
                    stat,
                    ttl: volume.ttl.attr,
                });
            }
            (Waiting::Opened(reply), Answer::Opened(opened)) => reply.ok(opened),
            (Waiting::Created(reply), Answer::Created(created)) => reply.ok(created),
            (Waiting::Target(reply), Answer::Bytes(len)) => reply.ok(bytes(len)),
            (Waiting::Xattr(reply), Answer::Bytes(len)) if reply.wanted() == 0 => {
                reply.length(len);
            }
            (Waiting::Xattr(reply), Answer::Bytes(len)) => reply.ok(bytes(len)),
            (Waiting::Dir(reply), Answer::Bytes(len)) => volume.answer_readdir(job, len, reply),
            (Waiting::DirPlus(reply), Answer::Bytes(len)) => {
                volume.answer_readdirplus(job, len, reply);
            }
            (Waiting::Statfs(reply), Answer::Statfs(stat)) => reply.ok(Statfs(stat)),
            (Waiting::Lock(reply), Answer::Lock(lock)) => reply.ok(lock),
            (Waiting::Position(reply), Answer::Number(at)) => reply.ok(Position(at)),
            (Waiting::Copied(reply), Answer::Number(count)) => reply.ok(count),
            (Waiting::Flight(Flight::Read(mut read)), Answer::Fd(fd)) => {
                read.plain = Some(fd);
                self.fly_read(read);
            }
            (Waiting::Flight(Flight::Write(mut write)), Answer::Fd(fd)) => {
                write.plain = Some(fd);
                self.fly_write(write);
            }
            (Waiting::Flight(Flight::Write(write)), Answer::Done) => self.fly_write(write),
            // A job gives what its operation gives.
            (waiting, _) => waiting.fail(Errno::EIO),
        }
    }
}
