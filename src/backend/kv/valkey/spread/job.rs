//! Operations that ask more than one server: a fixed table, and what the servers answered so far.

use super::super::super::engine::{
    Client, Done, Expect, Failure, Op, PATCHES_MAX, Patch, Record, Token,
};
use super::super::super::objects;
use super::super::objects::group::{self, Group};
use super::super::request;
use super::near::GROUPS;
use crate::mem::{Arena, Handle, OutOfMemory, RingBuffer, Segment, SlotMap};
use crate::sys::time::Instant;
use crate::wire::resp::Encoder;

/// Set in the token of a job's call to the volume's own node. The file system's tokens are handles, whose places are lower.
pub const MARK: u64 = 1 << 31;
/// Most bytes of patches, as they are sent.
const PATCHES: usize = 16 + PATCHES_MAX * 24;

/// Say what is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Read,
    Write,
    Clear,
    Purge,
    Seek {
        hole: bool,
    },
    Sync,
    /// Names of groups, for fsck.
    List,
    /// Remove a group that has no inode.
    Discard,
}

/// Where a job stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Ask the volume's own node, or wait for its answer.
    Near,
    /// Ask which groups there are.
    Groups,
    /// Ask groups, and wait for all answers.
    Far,
    /// End what [`Step::Near`] began.
    End,
}

/// One operation.
pub struct Job {
    pub token: Token,
    pub kind: Kind,
    pub step: Step,
    pub ino: u64,
    pub expect: Expect,
    /// First byte, and the one behind the last; of a Seek, where it ends.
    pub from: u64,
    pub to: u64,
    patches: [u8; PATCHES],
    patches_len: usize,
    /// Generation that the write or clearing belongs to.
    pub generation: u64,
    /// Lowest generation that a write may have.
    pub least: u64,
    /// The inode has changed; or a listing goes on.
    pub changed: bool,
    /// A call to the volume's own node is under way; its answer.
    pub asked: bool,
    pub near: Option<Result<Done, Failure>>,
    /// A READ found the inode, a listing something.
    pub found: bool,
    /// Generation, number of groups, groups: what was told.
    pub told: heapless::Vec<u64, { GROUPS + 2 }>,
    /// Next byte, or which of the groups that were told, is to be asked for.
    pub next: u64,
    /// Next group that is to be told.
    pub group: u32,
    /// Groups that are done with in all.
    pub count: u64,
    /// Something was changed on groups' nodes.
    pub far: bool,
    /// Calls to groups that are under way.
    pub pending: u32,
    pub failure: Option<Failure>,
    /// The highest answer of a group.
    pub answer: u64,
    pub since: Instant,
    queued: bool,
}

impl Job {
    /// Make one for an operation, from its first byte to the one behind its last.
    pub fn new(token: Token, kind: Kind, ino: u64, (from, to): (u64, u64)) -> Self {
        Self {
            token,
            kind,
            step: Step::Near,
            ino,
            expect: Expect::Present,
            from,
            to,
            patches: [0; PATCHES],
            patches_len: 0,
            generation: 0,
            least: 0,
            changed: false,
            asked: false,
            near: None,
            found: false,
            told: heapless::Vec::new(),
            next: 0,
            group: 0,
            count: 0,
            far: false,
            pending: 0,
            failure: None,
            answer: 0,
            since: Instant(0),
            queued: false,
        }
    }

    /// Begin at a step.
    pub fn at(mut self, step: Step) -> Self {
        self.step = step;
        self
    }

    /// Keep what is to be expected.
    pub fn expecting(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    /// Keep patches. `None` when they are longer than all that the tree makes.
    pub fn patching(mut self, patches: &[Patch<'_>]) -> Option<Self> {
        let mut to = Encoder::new(&mut self.patches);
        request::patches(&mut to, patches);
        self.patches_len = to.finish()?;
        Some(self)
    }

    /// Give the patches as they are sent.
    pub fn patches(&self) -> &[u8] {
        &self.patches[..self.patches_len]
    }

    /// Give the groups that were told.
    pub fn groups(&self) -> &[u64] {
        self.told.get(2..).unwrap_or(&[])
    }
}

/// Hold the jobs of one core.
pub struct Jobs {
    pub all: SlotMap<Job>,
    /// Where the listing of groups goes on.
    pub cursor: objects::Cursor,
    /// Those that can go on.
    ready: RingBuffer<'static, u64>,
}

impl Jobs {
    pub fn new(arena: &Arena, jobs: u32) -> Result<Self, OutOfMemory> {
        Ok(Self {
            all: SlotMap::new(arena, jobs)?,
            cursor: objects::Cursor::default(),
            ready: RingBuffer::new(arena.zeroed(jobs as usize)?),
        })
    }

    pub const fn footprint(jobs: u32) -> usize {
        SlotMap::<Job>::footprint(jobs) + (jobs as usize + 1) * size_of::<u64>()
    }

    /// Let a job go on in this turn or the next.
    pub fn wake(&mut self, handle: Handle) {
        if let Some(job) = self.all.get_mut(handle)
            && !core::mem::replace(&mut job.queued, true)
        {
            // Each is in it once at most.
            let _ = self.ready.push(handle.to_bits());
        }
    }

    /// Give the number of jobs that can go on.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Take the next of them.
    pub fn next(&mut self) -> Option<Handle> {
        let handle = Handle::from_bits(self.ready.pop()?);
        if let Some(job) = self.all.get_mut(handle) {
            job.queued = false;
        }
        Some(handle)
    }

    fn token(&self, handle: Handle) -> Token {
        self.all.get(handle).map_or(Token(0), |job| job.token)
    }
}

/// Give the job whose call to the volume's own node this is.
fn marked(token: Token) -> Option<Handle> {
    (token.0 & MARK != 0).then(|| Handle::from_bits(token.0 & !MARK))
}

/// Take the answers of the volume's own node: those of jobs, and the others' for whoever asked.
pub struct FromNear<'a> {
    pub client: &'a mut dyn Client,
    pub jobs: &'a mut Jobs,
}

impl Client for FromNear<'_> {
    fn record(&mut self, token: Token, record: Record<'_>) {
        let Some(handle) = marked(token) else {
            return self.client.record(token, record);
        };
        let Some(job) = self.jobs.all.get_mut(handle) else {
            return;
        };
        match job.kind {
            Kind::Read => {
                job.found = true;
                self.client.record(job.token, record);
            }
            _ => {
                let _ = job.told.push(record.at);
            }
        }
    }

    fn buffers(&self, token: Token) -> &[Segment] {
        let token = marked(token).map_or(token, |handle| self.jobs.token(handle));
        self.client.buffers(token)
    }

    fn payload(&self, token: Token) -> &[Segment] {
        let token = marked(token).map_or(token, |handle| self.jobs.token(handle));
        self.client.payload(token)
    }

    fn done(&mut self, token: Token, result: Result<Done, Failure>) {
        let Some(handle) = marked(token) else {
            return self.client.done(token, result);
        };
        if let Some(job) = self.jobs.all.get_mut(handle) {
            job.near = Some(result);
            self.jobs.wake(handle);
        }
    }
}

/// Take the answers of groups, which are asked by jobs alone.
pub struct FromFar<'a> {
    pub client: &'a mut dyn Client,
    pub jobs: &'a mut Jobs,
    /// The volume's.
    pub prefix: &'static [u8],
}

impl objects::Client for FromFar<'_> {
    fn name(&mut self, token: Token, name: &[u8]) {
        let Some(Group { ino, number }) = group::of_chunk(name, self.prefix) else {
            return;
        };
        let Some(job) = self.jobs.all.get_mut(Handle::from_bits(token.0)) else {
            return;
        };
        job.found = true;
        let mut name = [0; 12];
        name[..8].copy_from_slice(&ino.to_be_bytes());
        name[8..].copy_from_slice(&number.to_be_bytes());
        let record = Record {
            index: 0,
            followed: false,
            at: 1,
            version: 0,
            name: &name,
            value: &[],
        };
        self.client.record(job.token, record);
    }

    fn place(&mut self, _: Token, place: &objects::Cursor) {
        self.jobs.cursor = *place;
    }

    fn buffers(&self, token: Token) -> &[Segment] {
        let token = self.jobs.token(Handle::from_bits(token.0));
        self.client.buffers(token)
    }

    fn payload(&self, token: Token) -> &[Segment] {
        let token = self.jobs.token(Handle::from_bits(token.0));
        self.client.payload(token)
    }

    fn done(&mut self, token: Token, result: Result<objects::Done, objects::Failure>) {
        let handle = Handle::from_bits(token.0);
        let Some(job) = self.jobs.all.get_mut(handle) else {
            return;
        };
        job.pending = job.pending.saturating_sub(1);
        match result {
            Ok(objects::Done::Found(found)) => job.answer = job.answer.max(found.size),
            Ok(objects::Done::Listed { more }) => job.changed = more,
            Ok(_) => {}
            Err(failure) => job.failure = Some(job.failure.unwrap_or(told(failure))),
        }
        self.jobs.wake(handle);
    }
}

fn told(failure: objects::Failure) -> Failure {
    match failure {
        objects::Failure::Full => Failure::Full,
        objects::Failure::Unreachable => Failure::Unreachable,
        objects::Failure::Unknown => Failure::Unknown,
        _ => Failure::Broken,
    }
}

/// Give the bytes of an operation that reads or writes, from its first to the one behind its last.
pub const fn range(op: &Op<'_>) -> Option<(u64, u64)> {
    match *op {
        Op::Read { offset, len, .. } | Op::Write { offset, len, .. } => {
            Some((offset, offset.saturating_add(len as u64)))
        }
        _ => None,
    }
}
