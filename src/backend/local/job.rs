//! What a worker is asked, and what it answers: plain values in the fixed place of a request.

use core::ffi::CStr;

use crate::fuse::{
    Caller, Created, Creation, Entry, Fh, Lock, LockRequest, NodeId, Opened, SetAttr,
};
use crate::sys::fd::Fd;
use crate::wire::errno::Errno;
use crate::wire::fuse::{Attr, Kstatfs, Statx as WireStatx};
use crate::wire::open_flags::OpenFlags;

/// Bytes of a job's long buffer: an extended attribute of 64 KiB with its name, or a piece of a directory.
pub const BUFFER: usize = 68 << 10;

/// Hold a name and its NUL.
#[derive(Clone, Copy)]
pub struct NameBuffer([u8; 256]);

impl NameBuffer {
    /// Hold nothing.
    pub const fn new() -> Self {
        Self([0; 256])
    }

    /// Copy a name, which has 255 bytes at most.
    pub fn set(&mut self, name: &CStr) {
        let bytes = name.to_bytes();
        let len = bytes.len().min(self.0.len() - 1);
        self.0[..len].copy_from_slice(&bytes[..len]);
        self.0[len] = 0;
    }

    /// Give the name.
    pub fn get(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

/// Say how a node is made. The security attribute lies in the job's buffer.
#[derive(Clone, Copy)]
pub struct How {
    /// Type and permissions.
    pub mode: u32,
    /// Caller's umask.
    pub umask: u32,
    /// Supplementary group.
    pub group: Option<u32>,
    /// Lengths of the security attribute's name with its NUL, and of its value.
    pub security: Option<(usize, usize)>,
}

/// Name an operation and its plain arguments; names lie in the job.
#[derive(Clone, Copy)]
pub enum Operation {
    /// Nothing.
    None,
    /// Look `name` up.
    Lookup { parent: NodeId },
    /// Get attributes.
    Getattr { node: NodeId, fh: Option<Fh> },
    /// Set attributes.
    Setattr { node: NodeId, set: SetAttr },
    /// Get attributes as statx(2).
    Statx {
        node: NodeId,
        fh: Option<Fh>,
        mask: u32,
        sync: i32,
    },
    /// Read a link into the buffer.
    Readlink { node: NodeId },
    /// Make a link `name` to the buffer's first string.
    Symlink { parent: NodeId, how: How },
    /// Make a node `name`.
    Mknod { parent: NodeId, rdev: u32, how: How },
    /// Make a directory `name`.
    Mkdir { parent: NodeId, how: How },
    /// Remove `name`.
    Unlink { parent: NodeId, directory: bool },
    /// Rename `name` to `other`.
    Rename {
        parent: NodeId,
        new_parent: NodeId,
        flags: u32,
    },
    /// Link a node as `name`.
    Link { node: NodeId, new_parent: NodeId },
    /// Open a file.
    Open {
        node: NodeId,
        flags: OpenFlags,
        kill: bool,
    },
    /// Create or open `name`.
    Create {
        parent: NodeId,
        flags: OpenFlags,
        kill: bool,
        how: How,
    },
    /// Create a file without a name.
    Tmpfile {
        parent: NodeId,
        flags: OpenFlags,
        how: How,
    },
    /// Close a file or directory.
    Release { fh: Fh, owner: Option<u64> },
    /// A descriptor of the host's was closed.
    Flush { node: NodeId, fh: Fh, owner: u64 },
    /// Open a directory.
    Opendir { node: NodeId },
    /// Read directory records into the buffer, for a reply of `room` bytes.
    Readdir { fh: Fh, position: u64, room: usize },
    /// The same with attributes.
    Readdirplus { fh: Fh, position: u64, room: usize },
    /// Statistics.
    Statfs { node: NodeId },
    /// Make the file system durable.
    Syncfs { node: NodeId },
    /// Set the attribute `name` to the first `size` bytes of the buffer.
    Setxattr {
        node: NodeId,
        size: usize,
        flags: u32,
        kill_sgid: bool,
    },
    /// Get the attribute `name` into the buffer; no `room` asks for its length.
    Getxattr { node: NodeId, room: usize },
    /// List attributes into the buffer.
    Listxattr { node: NodeId, room: usize },
    /// Remove the attribute `name`.
    Removexattr { node: NodeId },
    /// Test a lock.
    Getlk { fh: Fh, lock: LockRequest },
    /// Set or release a lock without waiting.
    Setlk { fh: Fh, lock: LockRequest },
    /// Allocate or free space.
    Fallocate {
        fh: Fh,
        offset: u64,
        length: u64,
        mode: u32,
    },
    /// Find data or a hole.
    Lseek { fh: Fh, offset: u64, whence: u32 },
    /// Copy between files.
    CopyRange {
        from: (Fh, u64),
        to: (Fh, u64),
        length: u64,
    },
    /// Open a file again that is not picky about alignment.
    Plain { fh: Fh },
    /// Clear set-user-ID and set-group-ID bits before a write.
    KillPrivileges { fh: Fh },
}

/// Hold what an operation gave.
pub enum Answer {
    /// Nothing more.
    Done,
    /// A node.
    Entry(Entry),
    /// Attributes.
    Attr(Attr),
    /// Attributes as statx(2).
    Statx(WireStatx),
    /// An open file.
    Opened(Opened),
    /// A node and its open file.
    Created(Created),
    /// So many bytes of the buffer.
    Bytes(usize),
    /// A number: an offset, a length.
    Number(u64),
    /// Statistics.
    Statfs(Kstatfs),
    /// A lock.
    Lock(Lock),
    /// A descriptor.
    Fd(Fd),
    /// Another holds the lock.
    Busy,
}

/// Hold what a worker is asked and what it answers.
pub struct Job {
    /// What to do.
    pub operation: Operation,
    /// For whom.
    pub caller: Caller,
    /// In which session.
    pub epoch: u32,
    /// First name.
    pub name: NameBuffer,
    /// Second name.
    pub other: NameBuffer,
    /// Everything long, [`BUFFER`] bytes.
    pub buffer: &'static mut [u8],
    /// What came of it.
    pub answer: Result<Answer, Errno>,
}

impl Job {
    /// Make an empty one.
    pub fn new(buffer: &'static mut [u8]) -> Self {
        Self {
            operation: Operation::None,
            caller: Caller {
                uid: 0,
                gid: 0,
                pid: 0,
            },
            epoch: 0,
            name: NameBuffer::new(),
            other: NameBuffer::new(),
            buffer,
            answer: Ok(Answer::Done),
        }
    }

    /// Copy strings and values into the buffer one after the other; gives the bytes used.
    ///
    /// # Errors
    /// `E2BIG` when they do not fit.
    pub fn fill(&mut self, pieces: &[&[u8]]) -> Result<usize, Errno> {
        let mut at = 0;
        for piece in pieces {
            let place = self
                .buffer
                .get_mut(at..at + piece.len())
                .ok_or(Errno::E2BIG)?;
            place.copy_from_slice(piece);
            at += piece.len();
        }
        Ok(at)
    }

    /// Take over how a node is to be made, its security attribute behind the first `used` bytes of the buffer.
    ///
    /// # Errors
    /// `E2BIG` when that does not fit.
    pub fn creation(&mut self, used: usize, how: &Creation<'_>) -> Result<How, Errno> {
        let security = match how.security {
            None => None,
            Some((name, value)) => {
                let name = name.to_bytes_with_nul();
                let place = self.buffer.get_mut(used..).ok_or(Errno::E2BIG)?;
                let len = name.len() + value.len();
                let place = place.get_mut(..len).ok_or(Errno::E2BIG)?;
                place[..name.len()].copy_from_slice(name);
                place[name.len()..].copy_from_slice(value);
                Some((name.len(), value.len()))
            }
        };
        Ok(How {
            mode: how.mode,
            umask: how.umask,
            group: how.group,
            security,
        })
    }
}
