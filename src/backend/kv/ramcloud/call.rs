//! One operation under way: which RPCs it takes, what each asks, and what its answer leads to.

use super::super::engine::{NAME_MAX, Token};
use super::super::objects::{Client, Cursor, Done, Failure, Found, Op, Place, Want};
use super::job::{Job, Step};
use crate::mem::gather;
use crate::sys::time::Instant;
use crate::wire::ramcloud::hash::key_hash;
use crate::wire::ramcloud::request::FIELDS_MAX;
use crate::wire::ramcloud::{HEAD_LEN, Once, Request, Rules, Status};

/// Most bytes of an object: what a server of the usual configuration takes.
pub const SIZE_MAX: usize = 1 << 20;
/// Longest request without a value.
const REQUEST: usize = HEAD_LEN + FIELDS_MAX + 256;
/// Attempts of a change that others keep overtaking.
const TRIES: u16 = 1000;

/// Names and the like, kept over the RPCs.
pub struct Args {
    names: [[u8; NAME_MAX]; 2],
    lens: [u8; 2],
    cursor: Cursor,
}

impl Args {
    fn name(&self, which: usize) -> &[u8] {
        &self.names[which][..usize::from(self.lens[which])]
    }

    /// Give where a listing goes on: the tablet, and the iterator.
    fn place(&self) -> (u64, &[u8]) {
        match self.cursor.bytes().split_first_chunk() {
            Some((hash, iterator)) => (u64::from_le_bytes(*hash), iterator),
            None => (0, &[]),
        }
    }
}

/// What is known of the object.
#[derive(Clone, Copy, Default)]
pub struct Known {
    /// Bytes, and its version.
    pub size: usize,
    pub version: u64,
    /// Version of the object that a rename wrote; zero before.
    pub new: u64,
}

/// One operation.
pub struct Call {
    pub token: Token,
    pub job: Job,
    pub step: Step,
    args: Args,
    pub known: Known,
    /// Its place for a whole value.
    pub pad: Option<u16>,
    /// Number of its change; zero before it has one.
    pub rpc: u64,
    frame: [u8; REQUEST],
    frame_len: usize,
    /// Whom it was given to.
    pub peer: Option<u32>,
    /// The request is sent in full, and how often it was begun to be sent.
    pub sent: bool,
    pub sendings: u16,
    /// It is not to be asked together with others.
    pub alone: bool,
    /// The map that was wrong about it, by number.
    pub wrong_map: u64,
    /// It is not sent before.
    pub not_before: Instant,
    /// When it was taken, or answered with a delay.
    pub since: Instant,
    tries: u16,
    /// Of the reply that comes.
    pub status: Status,
    pub delay: u32,
    pub objects: usize,
    pub iterator: usize,
    pub next_hash: u64,
    pub skip: usize,
}

/// Say how a call goes on.
#[derive(Debug)]
pub enum Next {
    /// With another RPC.
    Step(Step),
    /// It has ended.
    End(Result<Done, Failure>),
}

impl Call {
    /// Take an operation; `None` for one that asks nothing of RAMCloud.
    pub fn new(token: Token, op: &Op<'_>) -> Option<Self> {
        let want = op.want();
        let step = match want {
            Want::Make { .. } => Step::Create,
            Want::Look | Want::Read { .. } | Want::Write { .. } | Want::Rename { .. } => Step::Read,
            Want::Resize { size: 0 } => Step::Replace,
            Want::Resize { .. } => Step::Read,
            Want::Remove => Step::Remove,
            Want::List => Step::List,
            Want::Sync { .. } | Want::Usage => return None,
        };
        let mut call = Self::own(Job::Want(want), token, step);
        for (which, name) in op.names().into_iter().enumerate() {
            call.set_name(which, name);
        }
        if let Op::List { cursor } = *op {
            call.args.cursor = *cursor;
        }
        Some(call)
    }

    /// Make one of the client itself.
    pub fn own(job: Job, token: Token, step: Step) -> Self {
        Self {
            token,
            job,
            step,
            args: Args {
                names: [[0; NAME_MAX]; 2],
                lens: [0; 2],
                cursor: Cursor::default(),
            },
            known: Known::default(),
            pad: None,
            rpc: 0,
            frame: [0; REQUEST],
            frame_len: 0,
            peer: None,
            sent: false,
            sendings: 0,
            alone: false,
            wrong_map: 0,
            not_before: Instant(0),
            since: Instant(0),
            tries: 0,
            status: Status::Ok,
            delay: 0,
            objects: 0,
            iterator: 0,
            next_hash: 0,
            skip: 0,
        }
    }

    fn set_name(&mut self, which: usize, name: &[u8]) {
        let len = name.len().min(NAME_MAX);
        self.args.names[which][..len].copy_from_slice(&name[..len]);
        self.args.lens[which] = len as u8;
    }

    /// Tell whether it waits for a place for a whole value.
    pub const fn waits_for_pad(&self) -> bool {
        self.job.needs_pad() && self.pad.is_none()
    }

    /// Tell whether its next RPC is the new name's.
    const fn which(&self) -> usize {
        let new = matches!(self.job, Job::Want(Want::Rename { .. })) && self.step.writes();
        new as usize
    }

    /// Tell whether it may be asked together with others.
    pub fn goes_together(&self) -> bool {
        self.job == Job::Want(Want::Look) && !self.alone
    }

    /// Give the key that its next RPC is about.
    pub fn key(&self) -> &[u8] {
        self.args.name(self.which())
    }

    /// Give the hash by which the server is found.
    pub fn hash(&self, table: u64) -> u64 {
        match self.step {
            Step::List => self.args.place().0,
            _ => key_hash(table, self.key()),
        }
    }

    /// Bytes of the value that follows the request.
    pub const fn value_len(&self) -> usize {
        match (self.step, self.job) {
            (Step::Create | Step::Replace, Job::Want(Want::Make { .. } | Want::Resize { .. })) => 0,
            _ if self.step.writes() => self.known.size,
            _ => 0,
        }
    }

    /// Write the request. False when it cannot be.
    pub fn write(&mut self, nonce: u64, table: u64, lease: u64, once: Option<Once>) -> bool {
        let value = self.value_len();
        let key = self.args.name(self.which());
        let mut rules = Rules::default();
        match self.step {
            Step::Create => rules.exists = true,
            Step::Replace | Step::Remove => rules.absent = true,
            Step::Swap | Step::RemoveOld => {
                (rules.version, rules.absent) = (Some(self.known.version), true);
            }
            Step::SwapNew => (rules.version, rules.absent) = (Some(self.known.new), true),
            Step::Read | Step::Put | Step::List | Step::Own | Step::Bundle => {}
        }
        let place = self.args.place();
        let request = match (self.step, once) {
            (Step::Own, _) => match self.job {
                Job::Lease => Request::RenewLease(lease),
                Job::Report { server } => Request::HintServerCrashed(server),
                _ => Request::GetTableConfig(table),
            },
            (Step::List, _) => Request::Enumerate {
                table,
                keys_only: true,
                first_hash: place.0,
                iterator: place.1,
            },
            (Step::Remove | Step::RemoveOld, Some(once)) => Request::Remove {
                table,
                once,
                rules,
                key,
            },
            (step, Some(once)) if step.writes() => Request::Write {
                table,
                once,
                rules,
                key,
                value,
            },
            _ => Request::Read { table, key, rules },
        };
        match request.emit(nonce, &mut self.frame) {
            Some(len) => self.frame_len = len,
            None => return false,
        }
        self.rpc = once.map_or(0, |once| once.rpc);
        self.sendings = 0;
        true
    }

    /// Give the request, empty before it is written.
    pub fn frame(&self) -> &[u8] {
        &self.frame[..self.frame_len]
    }

    /// Go to another RPC.
    pub const fn go(&mut self, step: Step) {
        self.step = step;
        (self.frame_len, self.rpc, self.sendings) = (0, 0, 0);
    }

    /// Tell whether it may have changed something.
    pub const fn may_have_happened(&self) -> bool {
        self.known.new != 0 || (self.step.changes() && self.sendings > 0)
    }

    /// Say what an answer leads to. `pad` is the place for a whole value.
    pub fn answered(&mut self, number: u64, pad: &mut [u8], client: &mut dyn Client) -> Next {
        match self.status {
            Status::Ok => self.went_well(number, pad, client),
            Status::ObjectDoesntExist => match self.step {
                // Somebody else removed the old name; the object has the new one.
                Step::RemoveOld => Next::End(Ok(Done::Done)),
                Step::SwapNew => Next::End(Err(Failure::Unknown)),
                _ => Next::End(Err(Failure::Missing)),
            },
            Status::ObjectExists => match self.job {
                Job::Want(Want::Make {
                    exclusive: false,
                    truncate,
                }) => Next::Step(if truncate { Step::Replace } else { Step::Read }),
                _ => Next::End(Err(Failure::Exists)),
            },
            Status::WrongVersion => match self.step {
                // Somebody else has changed the new object meanwhile: it is not ours to write over.
                Step::SwapNew => Next::End(Err(Failure::Unknown)),
                _ => self.again(),
            },
            _ => Next::End(Err(Failure::Broken)),
        }
    }

    fn again(&mut self) -> Next {
        self.tries += 1;
        match self.tries < TRIES {
            true => Next::Step(Step::Read),
            false => Next::End(Err(Failure::Unreachable)),
        }
    }

    fn went_well(&mut self, number: u64, pad: &mut [u8], client: &mut dyn Client) -> Next {
        let found = Found {
            size: self.known.size as u64,
            version: self.known.version,
        };
        match (self.job, self.step) {
            (Job::Want(Want::Read { offset, len }), _) => {
                let left = found.size.saturating_sub(offset);
                Next::End(Ok(Done::Read(left.min(len.into()) as u32)))
            }
            (Job::Want(Want::Look | Want::Make { .. }), Step::Read) => {
                Next::End(Ok(Done::Found(found)))
            }
            (Job::Want(Want::Rename { replace }), Step::Read) => {
                match (found.size as usize > SIZE_MAX, replace) {
                    (true, _) => Next::End(Err(Failure::Elsewhere)),
                    _ if self.known.new != 0 => Next::Step(Step::SwapNew),
                    (_, true) => Next::Step(Step::Put),
                    (_, false) => Next::Step(Step::Create),
                }
            }
            (Job::Want(Want::Rename { .. }), Step::RemoveOld) => Next::End(Ok(Done::Done)),
            (Job::Want(Want::Rename { .. }), _) => {
                self.known.new = number;
                Next::Step(Step::RemoveOld)
            }
            (Job::Want(Want::Write { .. } | Want::Resize { .. }), Step::Read) => {
                self.change(pad, client)
            }
            (Job::Want(Want::Remove), _) => Next::End(Ok(Done::Done)),
            (Job::Want(Want::List), _) => self.listed(client),
            _ => Next::End(Ok(Done::Found(Found {
                size: self.value_len() as u64,
                version: number,
            }))),
        }
    }

    /// Change the value that was read.
    fn change(&mut self, pad: &mut [u8], client: &dyn Client) -> Next {
        let old = self.known.size;
        let (at, len, new) = match self.job {
            Job::Want(Want::Write { place, len }) => {
                let at = match place {
                    Place::Byte(at) => usize::try_from(at).unwrap_or(usize::MAX),
                    Place::End => old,
                };
                (at, len as usize, old.max(at.saturating_add(len as usize)))
            }
            Job::Want(Want::Resize { size }) => {
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                (size, 0, size)
            }
            _ => (old, 0, old),
        };
        if old.max(new) > SIZE_MAX.min(pad.len()) {
            return Next::End(Err(Failure::TooLarge));
        }
        if at > old {
            pad[old..at].fill(0);
        }
        if len > 0 && gather(client.payload(self.token), 0, &mut pad[at..at + len]).is_err() {
            return Next::End(Err(Failure::Broken));
        }
        self.known.size = new;
        Next::Step(Step::Swap)
    }

    fn listed(&self, client: &mut dyn Client) -> Next {
        let more = self.objects > 0 || self.next_hash != 0;
        if more {
            client.place(self.token, &self.args.cursor);
        }
        Next::End(Ok(Done::Listed { more }))
    }

    /// Keep where the listing goes on. False when that is too long.
    pub fn keep_place(&mut self, iterator: &[u8]) -> bool {
        match Cursor::new(&[&self.next_hash.to_le_bytes(), iterator]) {
            Some(cursor) => self.args.cursor = cursor,
            None => return false,
        }
        true
    }
}
