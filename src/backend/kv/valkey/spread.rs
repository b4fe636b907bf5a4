//! Content of large files spreads over the nodes of a cluster; everything else of a volume stays in its one hash slot.
//!
//! ```text
//!  file   | 0 .. 1 MiB | .. 256 chunks | 256 chunks | ..       64 KiB chunks: groups of 16 MiB
//!  slot   |  {v}       | {v.400.0}     | {v.400.1}  | ..       inode and number of the group, in hexadecimal
//!  node   |  near      | far           | far        | ..
//! ```
//!
//! Small files, names and the first MiB of every file are as on one server, with the same functions and as few round trips.
//! Whether a volume spreads is decided when it is made, and kept with it. The volume's own node knows of each file which
//! groups were ever written to (they are noted before), and its *generation*. That begins with the first group, and is
//! raised whenever the file is made shorter.
//!
//! # READ
//! The inode is read first, with what is near, and then the groups, all at once: no size is seen without what was written
//! then. A chunk that is not there is zeros.
//!
//! # WRITE
//! Near, the write begins: groups are noted, and the inode changes unless its size is to grow. Then the groups are written
//! to, with the generation that was told; and then the size grows, unless the generation is another one, when all begins
//! again. So no size is seen without its content either, and what a crash in between leaves is content that no acknowledged write
//! promised. A write that goes by the inode's version (O_APPEND) changes the size at its beginning: its place is its own
//! from then on, and zeros for a moment; it raises the generation, so that others that make the file longer at the same time
//! begin again. Two writes at once to the same bytes leave those of either in each group, as over NFS. When a group's node is full, the write fails as a whole, and other parts of the
//! range may have been written.
//!
//! # Clearing, and what comes late
//! A file that is made shorter has its mark ([`state::TRIM`](super::super::record::state::TRIM)) until everything behind its
//! end is cleared, and nothing makes it longer before. Clearing raises the generation near, clears what is near, and then
//! each group. A group has a *fence*, a hash beside its chunks: the highest generation that it saw, and where the file was
//! cut in which. What a write of an earlier generation brings for behind a cut is dropped, and the answer says so; the write
//! begins again then. A clearing whose generation is not above the fence's is not needed: somebody was done with it, or the
//! mark would not be gone. Generations are not given twice, also by a replica that took over and knows less.
//!
//! What is sent to groups may be done twice, so that no result is remembered there. Only what was given up with a lost
//! connection and done again must not come behind what was done since: the fence knows by client how many connections it
//! has lost, and refuses what comes from an earlier one.
//!
//! # Removal
//! Of an inode without a name all groups are cleared and removed, and then the inode with the list of its groups, if that
//! is still the same. A crash in between leaves the inode, and the next sweep begins again. Fences stand for an hour longer.
//!
//! # What a failover loses
//! What a node had answered and its replicas had not: near, names and sizes, as without spreading; far, content of a group,
//! which may be what was written there, or that it was cleared. FSYNC settles each node that has slots, the near one last,
//! and fails once when a connection was lost with what may be gone.
//!
//! # What is not done
//! COPY_FILE_RANGE beyond the first MiB: [`Failure::Unsupported`], and the host copies by itself. The space that STATFS tells
//! is the near node's.

mod job;
mod near;
mod turn;

use core::sync::atomic::{AtomicU64, Ordering};

use super::super::engine::{Busy, Client, Failure, List, Op, Token};
use super::super::objects::{Cursor, Objects};
use super::connection::{Connection, Settings};
use super::objects::Strings;
use crate::mem::{Arena, Handle, RingBuffer};
use crate::sys;
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use job::{FromFar, FromNear, Job, Jobs, Kind, Step, range};
pub use near::Near;
use turn::{Hands, Turn};

/// Bytes of a file that are near.
pub const NEAR: u64 = 1 << 20;
/// Nanoseconds after which a job is tried again that found no room.
const AGAIN: u64 = 1_000_000;
/// Most times in one round that what has come is looked at.
const TURNS: u32 = 3;

/// Serve one core from the groups of a volume.
pub struct Spread {
    settings: &'static Settings,
    far: Strings,
    jobs: Jobs,
    /// Syncs whose groups are settled: the volume's own node is next.
    settled: RingBuffer<'static, u64>,
    now: Instant,
}

/// Count, over all cores, what was changed on groups' nodes, and up to where it is durable.
#[derive(Debug)]
pub struct Written {
    changed: AtomicU64,
    durable: AtomicU64,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            // What an earlier run of this program changed may be durable or not.
            changed: AtomicU64::new(1),
            durable: AtomicU64::new(0),
        }
    }
}

impl Spread {
    /// Make one for so many operations under way. `client` is a random number that nobody else has.
    ///
    /// # Errors
    /// `ENOMEM` when the arena has less than [`Self::footprint`]; as epoll_create1(2).
    pub fn new(
        arena: &Arena,
        settings: &'static Settings,
        calls: u32,
        client: u64,
    ) -> sys::Result<Self> {
        let mut far = Strings::new(arena, settings, calls)?;
        far.introduce(client);
        Ok(Self {
            settings,
            far,
            jobs: Jobs::new(arena, calls).map_err(|_| Errno::ENOMEM)?,
            settled: RingBuffer::new(arena.zeroed(calls as usize).map_err(|_| Errno::ENOMEM)?),
            now: Instant(0),
        })
    }

    /// Give the bytes of arena that one needs.
    pub const fn footprint(calls: u32) -> usize {
        let settled = (calls as usize + 1) * size_of::<u64>();
        Strings::footprint(calls) + Jobs::footprint(calls) + settled
    }

    /// Take a Sync whose groups are settled.
    pub fn settled(&mut self) -> Option<Token> {
        self.settled.pop().map(Token)
    }

    /// Take an operation that asks groups; none for one that does not.
    pub fn submit(
        &mut self,
        token: Token,
        op: &Op<'_>,
        near: &mut Connection,
        client: &mut dyn Client,
    ) -> Option<Result<(), Busy>> {
        let job = match *op {
            Op::Read { ino, .. } => {
                let range = range(op).filter(|range| range.1 > NEAR)?;
                Job::new(token, Kind::Read, ino, range)
            }
            Op::Write {
                ino,
                expect,
                patches,
                ..
            } => {
                let range = range(op).filter(|range| range.1 > NEAR)?;
                let job = Job::new(token, Kind::Write, ino, range).expecting(expect);
                let Some(job) = job.patching(patches) else {
                    client.done(token, Err(Failure::Broken));
                    return Some(Ok(()));
                };
                job
            }
            Op::Clear {
                ino,
                from,
                to,
                expect,
                ..
            } if to > NEAR => Job::new(token, Kind::Clear, ino, (from, to)).expecting(expect),
            Op::Purge { ino, expect } => {
                Job::new(token, Kind::Purge, ino, (0, u64::MAX)).expecting(expect)
            }
            Op::Seek {
                ino,
                offset,
                size,
                hole,
            } if size > NEAR => Job::new(token, Kind::Seek { hole }, ino, (offset, size)),
            Op::Copy { from, to, len, .. } if from.max(to) + u64::from(len) > NEAR => {
                client.done(token, Err(Failure::Unsupported));
                return Some(Ok(()));
            }
            Op::Scan {
                list: List::Groups,
                after,
                ..
            } => {
                if after == 0 {
                    self.jobs.cursor = Cursor::default();
                }
                Job::new(token, Kind::List, 0, (0, 0)).at(Step::Far)
            }
            Op::Discard { ino, group } => {
                let mut job = Job::new(token, Kind::Discard, ino, (0, 0)).at(Step::Far);
                let _ = job.told.extend_from_slice(&[0, 1, group.into()]);
                job
            }
            Op::Sync if self.settings.durability.is_some() => {
                Job::new(token, Kind::Sync, 0, (0, 0))
            }
            _ => return None,
        };
        let Ok(handle) = self.jobs.all.insert(job) else {
            return Some(Err(Busy));
        };
        self.go_on(handle, near, client);
        Some(Ok(()))
    }

    /// Go on with a job as far as it goes. False when there was no room for what it asks.
    fn go_on(&mut self, handle: Handle, near: &mut Connection, client: &mut dyn Client) -> bool {
        let Some(job) = self.jobs.all.get_mut(handle) else {
            return true;
        };
        if job.since == Instant(0) {
            job.since = self.now;
        }
        let mut hands = Hands {
            now: self.now,
            settings: self.settings,
            near,
            far: &mut self.far,
            cursor: &self.jobs.cursor,
            handle,
        };
        loop {
            let turn = match job.step {
                Step::Near | Step::Groups | Step::End => hands.near(job),
                Step::Far => hands.far(job),
            };
            match turn {
                Turn::Next(step) => {
                    (job.step, job.next) = (step, 0);
                }
                Turn::Wait => return true,
                Turn::Busy => {
                    self.jobs.wake(handle);
                    return false;
                }
                Turn::End(result) => {
                    let (token, kind) = (job.token, job.kind);
                    if job.far {
                        let written = self.settings.written;
                        written.changed.fetch_add(1, Ordering::AcqRel);
                    }
                    self.jobs.all.remove(handle);
                    if kind == Kind::Sync && result.is_ok() {
                        let _ = self.settled.push(token.0);
                    } else {
                        client.done(token, result);
                    }
                    return true;
                }
            }
        }
    }

    /// Go on with all. True when something happened.
    pub fn poll(&mut self, now: Instant, near: &mut Connection, client: &mut dyn Client) -> bool {
        self.now = now;
        let mut any = false;
        // What a turn asks leaves in the next, and what was at hand comes with it.
        for _ in 0..TURNS {
            let mut taker = FromNear {
                client,
                jobs: &mut self.jobs,
            };
            any |= near.poll(now, &mut taker);
            let mut taker = FromFar {
                client,
                jobs: &mut self.jobs,
                prefix: self.settings.prefix,
            };
            any |= self.far.poll(now, &mut taker);
            let ready = self.jobs.ready();
            if ready == 0 {
                break;
            }
            for _ in 0..ready {
                if let Some(handle) = self.jobs.next() {
                    any |= self.go_on(handle, near, client);
                }
            }
        }
        any
    }

    /// Name the descriptor that becomes readable when something comes from a group's node.
    pub fn wait_fds(&self, add: &mut dyn FnMut(i32)) {
        self.far.wait_fds(add);
    }

    /// Tell whether sleeping is right.
    pub fn may_sleep(&mut self) -> bool {
        self.far.arm()
    }

    /// Say when [`Self::poll`] is to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let again = (self.jobs.ready() > 0).then(|| self.now.after(AGAIN));
        [self.far.deadline(), again].into_iter().flatten().min()
    }
}
