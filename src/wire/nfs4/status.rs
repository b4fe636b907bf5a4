//! What a server says of an operation, and what a client makes of it.

use crate::wire::errno::Errno;

/// Hold what an operation returned (`nfsstat4`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u32);

/// Say what a client is to do about a status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Nothing: it is the caller's.
    Caller,
    /// Ask again after a while.
    Later,
    /// The session is gone: make a new one.
    Session,
    /// The server forgot the client, or never knew it: introduce it again.
    Client,
    /// The state that was named is gone: open the file again.
    State,
    /// Something is wrong with our slots: start the session anew.
    Slot,
}

macro_rules! statuses {
    ($($name:ident = $value:literal, $class:ident, $errno:ident;)*) => {
        impl Status {
            $(
                #[doc = concat!("`NFS4", stringify!($name), "`, ", stringify!($value), ".")]
                pub const $name: Self = Self($value);
            )*

            /// Name the status as RFC 8881 does, without its `NFS4`; `"?"` for a number that is unknown.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($value => stringify!($name),)*
                    _ => "?",
                }
            }

            /// Say what to do about it.
            pub const fn class(self) -> Class {
                match self.0 {
                    $($value => Class::$class,)*
                    _ => Class::Caller,
                }
            }

            /// Say it to the host.
            pub const fn errno(self) -> Errno {
                match self.0 {
                    $($value => Errno::$errno,)*
                    _ => Errno::EIO,
                }
            }
        }
    };
}

// Class and errno as Linux has them (fs/nfs_common/common.c, fs/nfs/nfs4proc.c) where it has an opinion.
statuses! {
    OK = 0, Caller, EIO;
    ERR_PERM = 1, Caller, EPERM;
    ERR_NOENT = 2, Caller, ENOENT;
    ERR_IO = 5, Caller, EIO;
    ERR_NXIO = 6, Caller, ENXIO;
    ERR_ACCESS = 13, Caller, EACCES;
    ERR_EXIST = 17, Caller, EEXIST;
    ERR_XDEV = 18, Caller, EXDEV;
    ERR_NOTDIR = 20, Caller, ENOTDIR;
    ERR_ISDIR = 21, Caller, EISDIR;
    ERR_INVAL = 22, Caller, EINVAL;
    ERR_FBIG = 27, Caller, EFBIG;
    ERR_NOSPC = 28, Caller, ENOSPC;
    ERR_ROFS = 30, Caller, EROFS;
    ERR_MLINK = 31, Caller, EMLINK;
    ERR_NAMETOOLONG = 63, Caller, ENAMETOOLONG;
    ERR_NOTEMPTY = 66, Caller, ENOTEMPTY;
    ERR_DQUOT = 69, Caller, EDQUOT;
    ERR_STALE = 70, Caller, ESTALE;
    ERR_BADHANDLE = 10001, Caller, ESTALE;
    ERR_BAD_COOKIE = 10003, Caller, EINVAL;
    ERR_NOTSUPP = 10004, Caller, EOPNOTSUPP;
    ERR_TOOSMALL = 10005, Caller, EINVAL;
    ERR_SERVERFAULT = 10006, Caller, EIO;
    ERR_BADTYPE = 10007, Caller, EINVAL;
    ERR_DELAY = 10008, Later, EAGAIN;
    ERR_DENIED = 10010, Caller, EAGAIN;
    ERR_EXPIRED = 10011, State, EIO;
    ERR_LOCKED = 10012, Caller, EAGAIN;
    ERR_GRACE = 10013, Later, EAGAIN;
    ERR_FHEXPIRED = 10014, Caller, ESTALE;
    ERR_SHARE_DENIED = 10015, Caller, ETXTBSY;
    ERR_WRONGSEC = 10016, Caller, EPERM;
    ERR_CLID_INUSE = 10017, Caller, EBUSY;
    ERR_MOVED = 10019, Caller, EREMOTE;
    ERR_NOFILEHANDLE = 10020, Caller, EIO;
    ERR_MINOR_VERS_MISMATCH = 10021, Caller, EOPNOTSUPP;
    ERR_STALE_CLIENTID = 10022, Client, EIO;
    ERR_STALE_STATEID = 10023, State, EIO;
    ERR_OLD_STATEID = 10024, State, EIO;
    ERR_BAD_STATEID = 10025, State, EIO;
    ERR_NOT_SAME = 10027, Caller, EINVAL;
    ERR_LOCK_RANGE = 10028, Caller, EINVAL;
    ERR_SYMLINK = 10029, Caller, ELOOP;
    ERR_ATTRNOTSUPP = 10032, Caller, EOPNOTSUPP;
    ERR_NO_GRACE = 10033, Caller, EIO;
    ERR_RECLAIM_BAD = 10034, Caller, EIO;
    ERR_RECLAIM_CONFLICT = 10035, Caller, EIO;
    ERR_BADXDR = 10036, Caller, EIO;
    ERR_LOCKS_HELD = 10037, Caller, EIO;
    ERR_OPENMODE = 10038, Caller, EBADF;
    ERR_BADOWNER = 10039, Caller, EINVAL;
    ERR_BADCHAR = 10040, Caller, EINVAL;
    ERR_BADNAME = 10041, Caller, EINVAL;
    ERR_BAD_RANGE = 10042, Caller, EINVAL;
    ERR_LOCK_NOTSUPP = 10043, Caller, ENOLCK;
    ERR_OP_ILLEGAL = 10044, Caller, EOPNOTSUPP;
    ERR_DEADLOCK = 10045, Caller, EDEADLK;
    ERR_FILE_OPEN = 10046, Caller, EBUSY;
    ERR_ADMIN_REVOKED = 10047, State, EIO;
    ERR_BADSESSION = 10052, Session, EIO;
    ERR_BADSLOT = 10053, Slot, EIO;
    ERR_COMPLETE_ALREADY = 10054, Caller, EIO;
    ERR_CONN_NOT_BOUND_TO_SESSION = 10055, Slot, EIO;
    ERR_BACK_CHAN_BUSY = 10057, Later, EIO;
    ERR_SEQ_MISORDERED = 10063, Slot, EIO;
    ERR_SEQUENCE_POS = 10064, Caller, EIO;
    ERR_REQ_TOO_BIG = 10065, Caller, EIO;
    ERR_REP_TOO_BIG = 10066, Caller, EIO;
    ERR_REP_TOO_BIG_TO_CACHE = 10067, Caller, EIO;
    ERR_RETRY_UNCACHED_REP = 10068, Later, EIO;
    ERR_TOO_MANY_OPS = 10070, Caller, EIO;
    ERR_OP_NOT_IN_SESSION = 10071, Slot, EIO;
    ERR_CLIENTID_BUSY = 10074, Caller, EBUSY;
    ERR_SEQ_FALSE_RETRY = 10076, Slot, EIO;
    ERR_BAD_HIGH_SLOT = 10077, Slot, EIO;
    ERR_DEADSESSION = 10078, Session, EIO;
    ERR_DELEG_REVOKED = 10087, State, EIO;
    ERR_PARTNER_NOTSUPP = 10088, Caller, EOPNOTSUPP;
    ERR_UNION_NOTSUPP = 10090, Caller, EOPNOTSUPP;
    ERR_OFFLOAD_DENIED = 10091, Caller, EOPNOTSUPP;
    ERR_OFFLOAD_NO_REQS = 10094, Caller, EOPNOTSUPP;
    ERR_NOXATTR = 10095, Caller, ENODATA;
    ERR_XATTR2BIG = 10096, Caller, E2BIG;
}

impl Status {
    /// Tell whether the operation was done.
    pub const fn is_ok(self) -> bool {
        self.0 == 0
    }
}

impl core::fmt::Debug for Status {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "NFS4{}({})", self.name(), self.0)
    }
}

impl core::fmt::Display for Status {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, f)
    }
}
