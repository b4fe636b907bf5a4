//! How a job goes on: what it asks next, and what becomes of the answers.

use core::sync::atomic::Ordering;

use super::super::super::engine::{Done, Expect, Failure, Op, Token};
use super::super::super::objects::Cursor;
use super::super::connection::{Connection, Settings};
use super::super::objects::Strings;
use super::super::objects::group::{CHUNKS, Group, READ_CHUNKS, Task};
use super::super::reply::Ask;
use super::NEAR;
use super::job::{Job, Kind, MARK, Step};
use super::near::{GROUPS, Near};
use crate::mem::Handle;
use crate::sys::time::Instant;

/// What a job needs to go on.
pub struct Hands<'a> {
    pub now: Instant,
    pub settings: &'static Settings,
    pub near: &'a mut Connection,
    pub far: &'a mut Strings,
    /// Where a listing goes on.
    pub cursor: &'a Cursor,
    pub handle: Handle,
}

/// Say what becomes of a job in this turn.
pub enum Turn {
    /// It goes to another step.
    Next(Step),
    /// It waits for answers.
    Wait,
    /// There is no room for what it has to ask.
    Busy,
    /// It has ended.
    End(Result<Done, Failure>),
}

impl Hands<'_> {
    /// Give the bytes of a group.
    fn group(&self) -> u64 {
        u64::from(self.settings.chunk) * u64::from(CHUNKS)
    }

    /// Give the byte behind which no content lies.
    fn end(&self) -> u64 {
        u64::from(self.settings.chunk) << 32
    }

    /// Give the number of the group that has a byte; of none that could be, the last.
    fn number(&self, byte: u64) -> u32 {
        u32::try_from(byte / self.group()).unwrap_or(u32::MAX)
    }

    /// Ask the volume's own node, or go on with its answer.
    pub fn near(&mut self, job: &mut Job) -> Turn {
        if job.kind == Kind::Sync {
            return self.settle(job);
        }
        if !job.asked {
            return self.ask_near(job);
        }
        let Some(result) = job.near.take() else {
            return Turn::Wait;
        };
        job.asked = false;
        let done = match result {
            Ok(done) => done,
            // What it would have ended has changed groups.
            Err(Failure::Unreachable) if job.step == Step::End => {
                return Turn::End(Err(Failure::Unknown));
            }
            Err(failure) => return Turn::End(Err(failure)),
        };
        match (job.kind, job.step, done) {
            (Kind::Read, ..) if job.found => Turn::Next(Step::Far),
            (Kind::Read, ..) => Turn::End(Ok(Done::Done)),
            // The write was cut: by what came behind it, or by what the volume's own node has lost.
            (Kind::Write, Step::Groups, _) => Turn::End(match job.told.first() {
                Some(known) if *known >= job.answer => Ok(Done::Done),
                _ => Err(Failure::Unknown),
            }),
            (_, Step::Groups, _) => Turn::Next(Step::Far),
            (Kind::Write, step, Done::At(answer)) => begun(job, step, answer),
            (Kind::Clear, _, Done::At(0)) => Turn::End(Err(Failure::Conflict)),
            (Kind::Clear, _, Done::At(1)) => Turn::End(Ok(Done::Done)),
            (Kind::Clear, _, Done::At(answer)) => {
                // A hole is made in any generation.
                job.generation = if job.to == u64::MAX { answer - 2 } else { 0 };
                Turn::Next(Step::Groups)
            }
            (Kind::Purge, _, Done::At(0)) => Turn::End(Err(Failure::Conflict)),
            (Kind::Purge, _, Done::At(1)) => Turn::End(Ok(Done::Done)),
            (Kind::Purge, ..) => {
                (job.count, job.group) = (0, 0);
                Turn::Next(Step::Groups)
            }
            (Kind::Seek { .. }, _, Done::First(byte)) => {
                job.from = byte;
                Turn::Next(Step::Far)
            }
            (Kind::Seek { .. }, _, done) => Turn::End(Ok(done)),
            _ => Turn::End(Err(Failure::Broken)),
        }
    }

    fn ask_near(&mut self, job: &mut Job) -> Turn {
        job.told.clear();
        let here = NEAR.saturating_sub(job.from) as u32;
        // No content lies behind the last chunk that has a number; and the server's numbers are exact up to there.
        let end = job.to.min(self.end());
        let last = self.number(end.saturating_sub(1));
        let read;
        let ask = match (job.kind, job.step) {
            (Kind::Read, _) => {
                read = Op::Read {
                    ino: job.ino,
                    offset: job.from,
                    len: here,
                };
                Ask::Op(&read)
            }
            (Kind::Write, step @ (Step::Near | Step::End)) => Ask::Spread(Near::Write {
                ino: job.ino,
                expect: job.expect,
                patches: job.patches(),
                offset: job.from,
                groups: (self.number(job.from.max(NEAR)), last),
                ends: if step == Step::End { job.generation } else { 0 },
                least: job.least,
                payload: here,
            }),
            (Kind::Clear, Step::Near) => Ask::Spread(Near::Clear {
                ino: job.ino,
                expect: job.expect,
                from: job.from.min(end),
                to: end,
                raises: job.to == u64::MAX,
            }),
            (Kind::Purge, Step::Near | Step::End) => Ask::Spread(Near::Purge {
                ino: job.ino,
                expect: job.expect,
                count: job.count,
            }),
            (Kind::Seek { hole }, _) => Ask::Spread(Near::Seek {
                ino: job.ino,
                offset: job.from,
                size: job.to,
                hole,
            }),
            (kind, _) => {
                let first = match kind {
                    Kind::Clear => self.number(job.from.max(NEAR)),
                    _ => 0,
                };
                Ask::Spread(Near::Groups {
                    ino: job.ino,
                    first: first.max(job.group),
                    last,
                })
            }
        };
        match self.near.submit(Token(self.handle.to_bits() | MARK), &ask) {
            Ok(()) => {
                job.asked = true;
                Turn::Wait
            }
            Err(_) => Turn::Busy,
        }
    }

    /// Ask a group. False when there is no room.
    fn ask_group(&mut self, job: &mut Job, number: u32, task: Task, base: u64) -> bool {
        let group = Group {
            ino: job.ino,
            number,
        };
        let token = Token(self.handle.to_bits());
        let asked = self.far.ask_group(token, group, task, base as u32).is_ok();
        job.pending += u32::from(asked);
        job.far |= asked && task.changes();
        asked
    }

    /// Ask groups, or go on with their answers.
    pub fn far(&mut self, job: &mut Job) -> Turn {
        let all = match job.kind {
            Kind::Read | Kind::Write => self.ask_for_bytes(job),
            Kind::Seek { hole } => self.ask_for_place(job, hole),
            Kind::List => self.ask_for_names(job),
            _ => self.ask_groups(job),
        };
        match (job.failure, all) {
            _ if job.pending > 0 => Turn::Wait,
            (None, false) => Turn::Busy,
            (Some(Failure::Unreachable), _) if job.kind != Kind::Read => {
                Turn::End(Err(Failure::Unknown))
            }
            (Some(failure), _) => Turn::End(Err(failure)),
            (None, true) => self.answered(job),
        }
    }

    /// Ask for what is left of a range. True when all is asked for.
    fn ask_for_bytes(&mut self, job: &mut Job) -> bool {
        let (chunk, group) = (u64::from(self.settings.chunk), self.group());
        job.next = job.next.max(job.from).max(NEAR);
        while job.next < job.to && job.failure.is_none() {
            let offset = job.next;
            let number = self.number(offset);
            let mut end = job.to.min((u64::from(number) + 1) * group);
            let task = match job.kind {
                Kind::Read => {
                    end = end.min((offset / chunk + u64::from(READ_CHUNKS)) * chunk);
                    Task::Read {
                        offset,
                        len: (end - offset) as u32,
                    }
                }
                _ => Task::Write {
                    offset,
                    len: (end - offset) as u32,
                    generation: job.generation,
                },
            };
            if !self.ask_group(job, number, task, offset - job.from) {
                return false;
            }
            job.next = end;
        }
        true
    }

    /// Ask the groups that were told. True when all are asked.
    fn ask_groups(&mut self, job: &mut Job) -> bool {
        let (group, near) = (self.group(), NEAR / u64::from(self.settings.chunk));
        while let Some(&number) = job.groups().get(job.next as usize)
            && job.failure.is_none()
        {
            let (first, end) = (number * group, (number + 1) * group);
            let task = match job.kind {
                Kind::Clear => Task::Clear {
                    from: first.max(job.from).max(NEAR),
                    to: end.min(job.to),
                    generation: job.generation,
                },
                _ => Task::Remove {
                    first: (number * u64::from(CHUNKS)).max(near) as u32,
                    last: ((number + 1) * u64::from(CHUNKS) - 1) as u32,
                    generation: job.told.first().copied().unwrap_or(0),
                },
            };
            if !self.ask_group(job, number as u32, task, 0) {
                return false;
            }
            job.next += 1;
        }
        true
    }

    /// Ask the one group in which something is looked for. True when it is asked.
    fn ask_for_place(&mut self, job: &mut Job, hole: bool) -> bool {
        if job.next > 0 {
            return true;
        }
        let number = self.number(job.from);
        let task = Task::Seek {
            first: self.chunk(job.from),
            last: self.chunk(self.next_group(job).min(job.to) - 1),
            hole,
        };
        job.next = u64::from(self.ask_group(job, number, task, 0));
        job.next > 0
    }

    /// Ask for a part of the names of all keys. True when it is asked for.
    fn ask_for_names(&mut self, job: &mut Job) -> bool {
        if job.next == 0 {
            let token = Token(self.handle.to_bits());
            let asked = self.far.list(token, self.cursor).is_ok();
            (job.next, job.pending) = (asked.into(), asked.into());
        }
        job.next > 0
    }

    fn chunk(&self, byte: u64) -> u32 {
        (byte / u64::from(self.settings.chunk)) as u32
    }

    fn next_group(&self, job: &Job) -> u64 {
        (u64::from(self.number(job.from)) + 1) * self.group()
    }

    /// Go on when all that were asked have answered.
    fn answered(&mut self, job: &mut Job) -> Turn {
        match job.kind {
            Kind::Read | Kind::Sync | Kind::Discard => Turn::End(Ok(Done::Done)),
            // What came was another's, or no content.
            Kind::List if job.changed && !job.found => Turn::Next(Step::Far),
            Kind::List => Turn::End(Ok(Done::Listed { more: job.changed })),
            Kind::Write => wrote(job),
            Kind::Clear | Kind::Purge => {
                let (told, last) = (job.groups().len(), job.groups().last().copied());
                job.count += told as u64;
                match last {
                    Some(last) if told == GROUPS && last < u64::from(u32::MAX) => {
                        job.group = last as u32 + 1;
                        Turn::Next(Step::Groups)
                    }
                    _ if job.kind == Kind::Purge => Turn::Next(Step::End),
                    _ => Turn::End(Ok(Done::Done)),
                }
            }
            Kind::Seek { .. } => {
                let next = self.next_group(job);
                let found = match job.answer {
                    0 if next < job.to => Done::More(next),
                    0 => Done::At(job.to),
                    chunk => {
                        let byte = (chunk - 1) * u64::from(self.settings.chunk);
                        Done::At(byte.max(job.from))
                    }
                };
                Turn::End(Ok(found))
            }
        }
    }

    /// Settle all nodes, unless nothing was changed on any since that was done.
    fn settle(&mut self, job: &mut Job) -> Turn {
        let written = self.settings.written;
        if !job.asked {
            job.generation = written.changed.load(Ordering::Acquire);
            let durable = written.durable.load(Ordering::Acquire);
            if durable >= job.generation && !self.far.doubts() {
                return Turn::End(Ok(Done::Done));
            }
            let Ok(asked) = self.far.settle(Token(self.handle.to_bits())) else {
                return match self.now.since(job.since) > self.settings.timeout {
                    true => Turn::End(Err(Failure::Unreachable)),
                    false => Turn::Busy,
                };
            };
            (job.asked, job.pending) = (true, asked);
        }
        match job.failure {
            _ if job.pending > 0 => Turn::Wait,
            Some(failure) => Turn::End(Err(failure)),
            None => {
                let durable = &written.durable;
                durable.fetch_max(job.generation, Ordering::AcqRel);
                Turn::End(Ok(Done::Done))
            }
        }
    }
}

/// Go on with a write that has begun or ended near.
fn begun(job: &mut Job, step: Step, answer: u64) -> Turn {
    match (step, answer) {
        (_, 0) => Turn::End(Err(Failure::Conflict)),
        // The file was made shorter, and with it what was written.
        (_, 1) => Turn::Next(Step::Near),
        (Step::Near, _) => {
            (job.generation, job.changed) = ((answer - 2) / 2, answer % 2 == 1);
            job.answer = 0;
            Turn::Next(Step::Far)
        }
        _ => Turn::End(Ok(Done::Done)),
    }
}

/// Go on with a write whose groups have it.
fn wrote(job: &mut Job) -> Turn {
    match (job.answer, job.expect) {
        (0, _) if job.changed => Turn::End(Ok(Done::Done)),
        (0, _) => Turn::Next(Step::End),
        // Its place was its own, and whoever made the file shorter came behind it.
        (_, Expect::Version(_)) => Turn::Next(Step::Groups),
        (seen, _) => {
            job.least = seen;
            Turn::Next(Step::Near)
        }
    }
}
