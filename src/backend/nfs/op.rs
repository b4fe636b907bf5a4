//! Tasks: requests of the host, and a few of our own, each from its first call to its answer.

use crate::fuse::number::Position;
use crate::fuse::{
    Attributes, Created, Data, DirEntries, DirEntriesPlus, Entry, Lock, Opened, Reply, Statfs,
    Target, Written, XattrValue,
};
use crate::mem::{Pinned, Segment};
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::nfs4::{Call, Handle, StateId};
use crate::wire::rpc::Credentials;

use super::copy::CopyCall;
use super::locks::LockCall;
use super::path::{MAX_PATH, Path};
use super::referral::Origin;
use super::revoked::Probe;
use super::volume::{OpenFile, Silly};

/// Bytes of a task's call: a link's target of 4095 bytes is the longest thing in one.
pub const CALL_ROOM: usize = 6 << 10;

/// Say who opens what.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Node; zero for one that is being made.
    pub node: u64,
    /// File; of the directory for one that is being made.
    pub handle: Handle,
    /// `OPEN4_SHARE_ACCESS_*`.
    pub access: u32,
    /// Number of the opener.
    pub owner: u64,
    /// The creation is exclusive: the times are set by a call of its own.
    pub sets: bool,
    /// What was opened, while the rest of the compound is still to be done; `handle` is then the file's.
    pub state: Option<StateId>,
}

/// Say what a task is, and hold what is needed for its answer.
pub enum Op {
    /// A name is looked up.
    Lookup(Reply<Entry>),
    /// Attributes.
    Getattr(Reply<Attributes>),
    /// Attributes are set.
    Setattr {
        /// Answer.
        reply: Reply<Attributes>,
        /// The file is cut, or made longer.
        size: Option<u64>,
    },
    /// Target of a symbolic link.
    Readlink(Reply<Target>),
    /// A new object; a regular file is opened and closed to make it.
    Make {
        /// Answer.
        reply: Reply<Entry>,
        /// It is a regular file.
        regular: bool,
    },
    /// One more name.
    Link(Reply<Entry>),
    /// A name is removed: first looked at, while files are open.
    Remove {
        /// Answer.
        reply: Reply<()>,
        /// What is being done.
        step: Step,
    },
    /// A name is changed: what it replaces is first looked at, while files are open.
    Rename {
        /// Answer.
        reply: Reply<()>,
        /// What is being done.
        step: Step,
    },
    /// A file is opened.
    Open(Reply<Opened>, Opening),
    /// A file is made and opened.
    Create(Reply<Created>, Opening),
    /// Content is read.
    Read {
        /// Answer.
        reply: Reply<Data>,
        /// First byte.
        offset: u64,
        /// Bytes that are there.
        done: usize,
    },
    /// Content is written.
    Write {
        /// Answer.
        reply: Reply<Written>,
        /// First byte.
        offset: u64,
        /// Bytes that are written.
        done: usize,
        /// Bytes of the present call.
        count: usize,
        /// How it goes on.
        stage: Stage,
    },
    /// A directory is read.
    Readdir(Reply<DirEntries>),
    /// A directory is read with attributes.
    ReaddirPlus(Reply<DirEntriesPlus>),
    /// Statistics.
    Statfs(Reply<Statfs>),
    /// Permissions are asked for: these bits.
    Access(Reply<()>, u32),
    /// Space is allocated or freed.
    Space {
        /// Answer.
        reply: Reply<()>,
        /// The compound has a COMMIT first, so that what is kept is not written into the hole again.
        commits: bool,
    },
    /// Content is to be made durable.
    Sync {
        /// Answer.
        reply: Reply<()>,
        /// That of all files.
        all: bool,
    },
    /// Content is made durable for the room that it takes.
    Commit,
    /// Data or a hole is looked for.
    Seek(Reply<Position>),
    /// Content is copied at the server.
    Copy(CopyCall),
    /// An extended attribute is asked for.
    Getxattr(Reply<XattrValue>),
    /// An extended attribute is set, to bytes of the request.
    Setxattr {
        /// Answer.
        reply: Reply<()>,
        /// Bytes of the request's payload before them.
        skip: usize,
        /// Their number.
        len: usize,
    },
    /// Extended attributes are listed.
    Listxattr {
        /// Answer.
        reply: Reply<XattrValue>,
        /// Bytes of names that are in place.
        at: usize,
    },
    /// An extended attribute is removed.
    Removexattr(Reply<()>),
    /// A range is locked or unlocked.
    Lock(LockCall),
    /// A lock in the way of this one is looked for.
    TestLock(Reply<Lock>, Lock),
    /// A file is closed for the host.
    Release {
        /// Answer.
        reply: Reply<()>,
        /// The compound has a COMMIT first.
        commits: bool,
    },
    /// Something left over is closed.
    Close,
    /// A file whose name went while it was open is removed, or an old one of an earlier life.
    Sweep,
    /// An open that the server forgot is opened again.
    Reopen,
    /// The lease is renewed.
    Renew,
    /// A state is asked after.
    Probe(Probe),
    /// Whether the export is still here is asked: by its root's handle, or by so many names of its path.
    Whither(Option<u8>),
    /// Where a file system is that is not here.
    Locate {
        /// Answer to the lookup that met it, unless that was given up or is with another client.
        reply: Option<Reply<Entry>>,
        /// Referrals so far.
        hops: u8,
        /// Names of the task's path that lead to it; zero for the task's name in its directory.
        walked: u8,
        /// Locations that were reached and refuse, a bit each, and what the last said.
        refused: (u32, Errno),
        /// Who has more locations.
        origin: Option<Origin>,
    },
    /// The task's path is looked up, to which another server led.
    Walk {
        /// Answer, unless the lookup was given up.
        reply: Option<Reply<Entry>>,
        /// Referrals so far.
        hops: u8,
        /// Who has more locations.
        origin: Option<Origin>,
    },
}

/// Say how far a WRITE is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// It is to be durable when it is answered.
    Stable,
    /// It is to be kept, and waits for room; `true`: the host wants it durable.
    Waits(bool),
    /// It has room for the present call.
    HasRoom(bool),
    /// All is written, and is made durable.
    Commits,
}

/// Say how far a REMOVE or RENAME is.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it lives in a task's fixed memory: there is no heap"
)]
pub enum Step {
    /// The name that goes is looked at.
    Look,
    /// The open file that has it is renamed.
    Silly(Handle, Silly),
    /// The operation itself.
    Last,
}

/// Say which state a call names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum With {
    /// None.
    Nothing,
    /// That of the task's open file.
    File,
    /// That which an earlier operation of the compound made.
    Current,
    /// This one.
    This(StateId),
}

/// Say where a task is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the queue for a slot.
    Ready,
    /// With the server, or on the way.
    Sent,
    /// To be sent again at this time.
    Delayed(Instant),
}

/// Hold one task.
pub struct Task {
    /// What it is.
    pub op: Op,
    /// Its present call.
    pub call: Call,
    /// In whose name.
    pub user: Credentials,
    /// Open file that it works on.
    pub file: Option<Pinned<OpenFile>>,
    /// State that its call names.
    pub with: With,
    /// State that was named.
    pub named: StateId,
    /// Where it is.
    pub place: Place,
    /// Slot while it is sent.
    pub slot: u32,
    /// Transaction number of the call.
    pub xid: u32,
    /// Connection by which it went.
    pub link: u8,
    /// When it was sent.
    pub since: Instant,
    /// When it was first seen without an answer since it last got on; zero before.
    pub asked: Instant,
    /// How often it was delayed.
    pub tries: u32,
    /// The server says that its file system moved, and it waits until that is looked into.
    pub strays: bool,
    /// Node that it is about.
    pub node: u64,
    /// Content kept before this number is what a COMMIT is about.
    pub upto: u64,
    /// Bytes of a directory's answer that are there: "." and "..".
    pub filled: usize,
    /// Cookie from which on a directory is asked for.
    pub cookie: u64,
    /// Cookie that is looked for in it from the start; zero for none.
    pub sought: u64,
}

impl Op {
    /// Lend what goes behind the call: pages of the host, from which byte on, and how many. Only for calls that have a payload.
    #[inline]
    pub fn payload(&self) -> Option<(&[Segment], usize, usize)> {
        match self {
            Self::Write {
                reply, done, count, ..
            } => Some((reply.payload(), *done, *count)),
            Self::Setxattr { reply, skip, len } => Some((reply.payload(), *skip, *len)),
            _ => None,
        }
    }

    /// Answer with an error.
    pub fn fail(self, error: Errno) {
        match self {
            Self::Lookup(reply) | Self::Make { reply, .. } | Self::Link(reply) => reply.err(error),
            Self::Locate { reply, .. } | Self::Walk { reply, .. } => {
                if let Some(reply) = reply {
                    reply.err(error);
                }
            }
            Self::Getattr(reply) | Self::Setattr { reply, .. } => reply.err(error),
            Self::Readlink(reply) => reply.err(error),
            Self::Open(reply, _) => reply.err(error),
            Self::Create(reply, _) => reply.err(error),
            Self::Read { reply, .. } => reply.err(error),
            Self::Write { reply, .. } => reply.err(error),
            Self::Readdir(reply) => reply.err(error),
            Self::ReaddirPlus(reply) => reply.err(error),
            Self::Statfs(reply) => reply.err(error),
            Self::Seek(reply) => reply.err(error),
            Self::Lock(call) => call.reply.err(error),
            Self::Copy(call) => call.reply.err(error),
            Self::Getxattr(reply) | Self::Listxattr { reply, .. } => reply.err(error),
            Self::TestLock(reply, _) => reply.err(error),
            Self::Remove { reply, .. }
            | Self::Rename { reply, .. }
            | Self::Access(reply, _)
            | Self::Setxattr { reply, .. }
            | Self::Removexattr(reply)
            | Self::Space { reply, .. }
            | Self::Sync { reply, .. }
            | Self::Release { reply, .. } => reply.err(error),
            Self::Commit
            | Self::Close
            | Self::Sweep
            | Self::Reopen
            | Self::Renew
            | Self::Probe(_)
            | Self::Whither(_) => {}
        }
    }
}

/// Hold names and directories of tasks that need them for a second call, or a path.
#[derive(Clone, Copy, zerocopy::FromZeros)]
pub struct Args {
    /// Directory of the name that goes; of both, for a RENAME.
    pub handles: [Handle; 2],
    names: [[u8; 255]; 2],
    lens: [u8; 2],
    /// Bytes of the path that is where the names are.
    path: u16,
}

const _: () = assert!(MAX_PATH == 2 * 255);

impl Args {
    /// Keep a name, which has at most 255 bytes.
    pub fn set_name(&mut self, which: usize, name: &[u8]) {
        let len = name.len().min(255);
        self.names[which][..len].copy_from_slice(&name[..len]);
        self.lens[which] = len as u8;
    }

    /// Keep a path.
    pub fn set_path(&mut self, path: &Path) {
        let bytes = path.bytes();
        self.names.as_flattened_mut()[..bytes.len()].copy_from_slice(bytes);
        self.path = bytes.len() as u16;
    }

    /// Give the path.
    pub fn path(&self) -> Path {
        Path::of(&self.names.as_flattened()[..usize::from(self.path)])
    }

    /// Give a name.
    pub fn name(&self, which: usize) -> &[u8] {
        &self.names[which][..usize::from(self.lens[which])]
    }
}
