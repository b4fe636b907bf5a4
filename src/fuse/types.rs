//! The plain values that cross the [`super::FileSystem`] trait.

use core::ffi::CStr;
use core::time::Duration;

use crate::mem::SlotId;
use crate::wire::errno::Errno;
use crate::wire::fuse::{Attr, FileLock, FopenFlags, ROOT_ID};

/// Name a node: a file, directory or other object that the host holds a reference to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root directory.
    pub const ROOT: Self = Self(ROOT_ID);
}

/// Name an open file or directory: the number that a backend gave in [`Opened`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fh(pub u64);

/// Hold one component of a path: 1 to 255 bytes without "/" and NUL.
///
/// "." and ".." occur only in LOOKUP, and only when the session negotiated them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name<'a>(&'a CStr);

impl<'a> Name<'a> {
    /// Longest name in bytes (`NAME_MAX`, also `FUSE_NAME_MAX` before Linux 6.14).
    pub const MAX: usize = 255;

    /// Check a name.
    ///
    /// # Errors
    /// `ENAMETOOLONG` above [`Self::MAX`] bytes; `EINVAL` for an empty name or one with "/"; `ENOENT` never.
    pub fn new(name: &'a CStr) -> Result<Self, Errno> {
        let bytes = name.to_bytes();
        if bytes.len() > Self::MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if bytes.is_empty() || bytes.contains(&b'/') {
            return Err(Errno::EINVAL);
        }
        Ok(Self(name))
    }

    /// Tell whether this is "." or "..".
    pub fn is_dots(&self) -> bool {
        matches!(self.0.to_bytes(), b"." | b"..")
    }

    /// Give the bytes, without a NUL.
    pub fn bytes(&self) -> &'a [u8] {
        self.0.to_bytes()
    }

    /// Give the name with its NUL.
    pub fn as_c_str(&self) -> &'a CStr {
        self.0
    }
}

/// Tell who asks. On idmapped mounts uid and gid are `u32::MAX` except in creates (ABI 7.41).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process, zero for the kernel itself.
    pub pid: u32,
}

/// Describe the request behind a call.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Identity below the FUSE layer.
    pub id: SlotId,
    /// Who asks.
    pub caller: Caller,
    /// The session that asks: a node is entered into a table only for the present one.
    pub epoch: u32,
}

/// Say how a new node is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Creation<'a> {
    /// File type and permissions.
    pub mode: u32,
    /// Caller's umask; not yet applied when the backend asked for `DONT_MASK`.
    pub umask: u32,
    /// Supplementary group of the caller that matches the parent directory.
    pub group: Option<u32>,
    /// Name and value of an extended attribute to set with the creation.
    pub security: Option<(&'a CStr, &'a [u8])>,
}

/// Say what time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The server's present time.
    Now,
    /// Seconds and nanoseconds since 1970.
    At(i64, u32),
}

/// Say which attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    /// Permissions.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
    /// Last change of attributes, with a write-back cache only.
    pub ctime: Option<SetTime>,
    /// Open file to change it through.
    pub fh: Option<Fh>,
    /// Clear set-user-ID and set-group-ID bits.
    pub kill_suidgid: bool,
}

/// Hand a node to the host. The backend counts one lookup for it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Node.
    pub node: NodeId,
    /// Generation of the node, zero where node numbers are never used twice.
    pub generation: u64,
    /// Attributes.
    pub attr: Attr,
    /// Time that the name may be cached.
    pub entry_ttl: Duration,
    /// Time that the attributes may be cached.
    pub attr_ttl: Duration,
}

impl Entry {
    /// Say that a name does not exist, and that this may be cached.
    pub fn negative(entry_ttl: Duration) -> Self {
        Self {
            node: NodeId(0),
            generation: 0,
            attr: Attr::default(),
            entry_ttl,
            attr_ttl: Duration::ZERO,
        }
    }
}

/// Hand an open file to the host.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Number by which the host names it.
    pub fh: Fh,
    /// What the kernel is asked to do with it.
    pub flags: FopenFlags,
}

/// Say how many bytes were written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written(pub u32);

/// Name the kind of a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// Shared, `F_RDLCK`.
    Read,
    /// Exclusive, `F_WRLCK`.
    Write,
    /// None, `F_UNLCK`.
    Unlock,
}

/// Describe a byte-range lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lock {
    /// First byte.
    pub start: u64,
    /// Last byte; `i64::MAX` for the end of the file, wherever it is.
    pub end: u64,
    /// Kind.
    pub kind: LockKind,
    /// Holder's process.
    pub pid: u32,
}

impl Lock {
    /// Check a lock from the wire.
    ///
    /// # Errors
    /// `EINVAL` for an unknown kind, a range that ends before it starts, or one beyond `i64::MAX`.
    pub fn from_wire(lock: &FileLock) -> Result<Self, Errno> {
        let kind = match lock.kind {
            0 => LockKind::Read,
            1 => LockKind::Write,
            2 => LockKind::Unlock,
            _ => return Err(Errno::EINVAL),
        };
        if lock.end < lock.start || lock.end > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        Ok(Self {
            start: lock.start,
            end: lock.end,
            kind,
            pid: lock.pid,
        })
    }

    /// Lay the lock out for the wire.
    pub fn to_wire(self) -> FileLock {
        let kind = match self.kind {
            LockKind::Read => 0,
            LockKind::Write => 1,
            LockKind::Unlock => 2,
        };
        FileLock {
            start: self.start,
            end: self.end,
            kind,
            pid: self.pid,
        }
    }
}

/// Ask for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockRequest {
    /// Who holds it: a number that the host made up for a process or an open file.
    pub owner: u64,
    /// What is locked.
    pub lock: Lock,
    /// A lock of the whole file in the manner of flock(2); its range means nothing.
    pub flock: bool,
    /// Wait until it is granted (SETLKW).
    pub wait: bool,
}
