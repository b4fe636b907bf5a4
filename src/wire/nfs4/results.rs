//! Answers, read operation by operation.

use super::attributes::decode_locations;
use super::{
    Bitmap, ChannelSize, FileAttr, FsLocations, Handle, MAX_HANDLE, MAX_OPAQUE, ServerAttr,
    SessionId, StateId, Status, Verifier, op,
};
use crate::wire::xdr::{Decoder, Malformed, Result};

/// Read the answer to a COMPOUND.
#[derive(Clone, Copy, Debug)]
pub struct Results<'a> {
    input: Decoder<'a>,
    status: Status,
    left: u32,
}

/// Say what became of an operation: its results, or its status, or neither in an answer that makes no sense.
type Outcome<T> = Result<core::result::Result<T, Status>>;

macro_rules! done {
    ($results:expr, $op:expr) => {
        match $results.step($op)? {
            Ok(()) => {}
            Err(status) => return Ok(Err(status)),
        }
    };
}

/// Hold the results of SEQUENCE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SequenceResult {
    /// Session.
    pub session: SessionId,
    /// Sequence number of the slot.
    pub sequence: u32,
    /// Slot.
    pub slot: u32,
    /// Highest slot that the server takes now.
    pub highest: u32,
    /// Highest slot that the server would like to see.
    pub target: u32,
    /// `SEQ4_STATUS_*`.
    pub flags: u32,
}

impl SequenceResult {
    /// State of this client was revoked or expired: some or all of it.
    pub const REVOKED: u32 = 0x08 | 0x10 | 0x20 | 0x40;
    /// The lease of a file system that moved is to be renewed at its new place.
    pub const LEASE_MOVED: u32 = 0x80;
    /// The server restarted and waits for reclaims.
    pub const RESTART: u32 = 0x100;
    /// The backchannel is down, for the client or for this session.
    pub const BACKCHANNEL_DOWN: u32 = 0x01 | 0x200;
}

/// Say who answered EXCHANGE_ID: addresses with equal ones lead to one server, whose sessions go by any of them
/// (RFC 8881, section 2.10.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ServerOwner<'a> {
    /// `so_minor_id`.
    pub minor: u64,
    /// `so_major_id`.
    pub major: &'a [u8],
    /// `eir_server_scope`.
    pub scope: &'a [u8],
}

/// Hold what EXCHANGE_ID gave.
#[derive(Clone, Copy, Debug)]
pub struct Exchanged<'a> {
    /// Client ID.
    pub client: u64,
    /// Number of the next CREATE_SESSION.
    pub sequence: u32,
    /// The server knows the client already.
    pub confirmed: bool,
    /// Who it is.
    pub server: ServerOwner<'a>,
}

/// Hold the results of CREATE_SESSION.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionResult {
    /// Session.
    pub session: SessionId,
    /// The connection carries the backchannel, too.
    pub callbacks: bool,
    /// Channel for calls, as the server made it.
    pub fore: ChannelSize,
}

/// Hold the results of OPEN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenResult {
    /// The open.
    pub stateid: StateId,
    /// The server keeps the file while it is open, although its last name goes (`OPEN4_RESULT_PRESERVE_UNLINKED`).
    pub keeps_unlinked: bool,
    /// The server tells when a lock is free (`OPEN4_RESULT_MAY_NOTIFY_LOCK`).
    pub notifies: bool,
    /// Attributes that were set by the creation.
    pub set: Bitmap,
    /// A delegation was given, though none was wanted; it is to be returned.
    pub delegation: Option<StateId>,
}

/// Say how durable written bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stability {
    /// Bytes written.
    pub count: u32,
    /// Durable already.
    pub durable: bool,
    /// The life of the server's memory that holds those that are not.
    pub verifier: Verifier,
}

/// Hold a lock that is in the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Locked {
    /// First byte.
    pub start: u64,
    /// Bytes; [`super::TO_END`] for all.
    pub len: u64,
    /// It is one for writing.
    pub write: bool,
    /// Whose it is: client and number, of an owner that has one as ours have.
    pub owner: Option<(u64, u64)>,
}

impl<'a> Results<'a> {
    /// Begin to read what follows the RPC header.
    ///
    /// # Errors
    /// [`Malformed`].
    #[inline]
    pub fn new(mut input: Decoder<'a>) -> Result<Self> {
        let status = Status(input.u32()?);
        input.opaque(MAX_OPAQUE)?;
        let left = input.u32()?;
        Ok(Self {
            input,
            status,
            left,
        })
    }

    /// Give the status of the last operation that the server did.
    pub const fn status(&self) -> Status {
        self.status
    }

    /// Go to the next result, which must be that of `number`.
    ///
    /// # Errors
    /// [`Malformed`] when it is another's, or none is left although the server says that all was done.
    #[inline]
    pub fn step(&mut self, number: u32) -> Outcome<()> {
        let Some(left) = self.left.checked_sub(1) else {
            // A server that fails before the first operation says so in the status alone.
            return if self.status.is_ok() {
                Err(Malformed)
            } else {
                Ok(Err(self.status))
            };
        };
        self.left = left;
        let found = self.input.u32()?;
        let status = Status(self.input.u32()?);
        // An operation that a server does not know may come back as ILLEGAL (RFC 8881, section 15.2).
        const ILLEGAL: u32 = 10044;
        if found != number && (found != ILLEGAL || status.is_ok()) {
            return Err(Malformed);
        }
        Ok(if status.is_ok() { Ok(()) } else { Err(status) })
    }

    /// Give the words that follow, of a failed operation whose failure has results.
    pub const fn input(&mut self) -> &mut Decoder<'a> {
        &mut self.input
    }

    /// Read SEQUENCE.
    ///
    /// # Errors
    /// [`Malformed`]. So for all below.
    #[inline]
    pub fn sequence(&mut self) -> Outcome<SequenceResult> {
        done!(self, op::SEQUENCE);
        let session = self.input.fixed()?;
        let [sequence, slot, highest, target, flags] = [
            self.input.u32()?,
            self.input.u32()?,
            self.input.u32()?,
            self.input.u32()?,
            self.input.u32()?,
        ];
        Ok(Ok(SequenceResult {
            session,
            sequence,
            slot,
            highest,
            target,
            flags,
        }))
    }

    /// Read GETFH.
    pub fn getfh(&mut self) -> Outcome<Handle> {
        done!(self, op::GETFH);
        let bytes = self.input.opaque(MAX_HANDLE)?;
        Handle::new(bytes).map(Ok).ok_or(Malformed)
    }

    /// Read GETATTR of a file. It is malformed without the file's type and number.
    pub fn getattr(&mut self) -> Outcome<FileAttr<'a>> {
        done!(self, op::GETATTR);
        let attr = FileAttr::decode(&mut self.input)?;
        if attr.is_enough() {
            Ok(Ok(attr))
        } else {
            Err(Malformed)
        }
    }

    /// Read GETATTR of a server.
    pub fn server_attr(&mut self) -> Outcome<ServerAttr> {
        done!(self, op::GETATTR);
        ServerAttr::decode(&mut self.input).map(Ok)
    }

    /// Read GETATTR of where a file system is; `None` when the server does not say.
    pub fn locations(&mut self) -> Outcome<Option<FsLocations<'a>>> {
        done!(self, op::GETATTR);
        decode_locations(&mut self.input).map(Ok)
    }

    /// Read ACCESS: what the caller may do.
    pub fn access(&mut self) -> Outcome<u32> {
        done!(self, op::ACCESS);
        self.input.u32()?;
        self.input.u32().map(Ok)
    }

    /// Read SETATTR, which tells what was set even when not all of it was.
    pub fn setattr(&mut self) -> Outcome<()> {
        let outcome = self.step(op::SETATTR)?;
        Bitmap::decode(&mut self.input)?;
        Ok(outcome)
    }

    /// Skip how a directory changed (`change_info4`).
    fn change_info(&mut self) -> Result<()> {
        self.input.skip(5)
    }

    /// Read CREATE.
    pub fn create(&mut self) -> Outcome<()> {
        done!(self, op::CREATE);
        self.change_info()?;
        Bitmap::decode(&mut self.input)?;
        Ok(Ok(()))
    }

    /// Read OPEN.
    pub fn open(&mut self) -> Outcome<OpenResult> {
        done!(self, op::OPEN);
        let stateid = self.stateid()?;
        self.change_info()?;
        let flags = self.input.u32()?;
        let set = Bitmap::decode(&mut self.input)?;
        let delegation = match self.input.u32()? {
            0 => None,
            kind @ (1 | 2) => {
                let stateid = self.stateid()?;
                self.input.skip(1)?;
                if kind == 2 {
                    // How much a writer may write: a limit of size, or of blocks and their size.
                    self.input.skip(3)?;
                }
                self.input.skip(3)?;
                self.input.opaque(MAX_OPAQUE)?;
                Some(stateid)
            }
            3 => {
                // Contention and resources say whether the server will tell when that is over.
                if matches!(self.input.u32()?, 1 | 2) {
                    self.input.skip(1)?;
                }
                None
            }
            _ => return Err(Malformed),
        };
        Ok(Ok(OpenResult {
            stateid,
            keeps_unlinked: flags & 8 != 0,
            notifies: flags & 32 != 0,
            set,
            delegation,
        }))
    }

    fn stateid(&mut self) -> Result<StateId> {
        Ok(StateId {
            seqid: self.input.u32()?,
            other: self.input.fixed()?,
        })
    }

    /// Read CLOSE.
    pub fn close(&mut self) -> Outcome<()> {
        done!(self, op::CLOSE);
        self.stateid()?;
        Ok(Ok(()))
    }

    /// Read READ up to its data: whether the file ends there, and the number of bytes that follow.
    #[inline]
    pub fn read(&mut self) -> Outcome<(bool, u32)> {
        done!(self, op::READ);
        let end = self.input.bool()?;
        let count = self.input.u32()?;
        Ok(Ok((end, count)))
    }

    /// Read WRITE.
    pub fn write(&mut self) -> Outcome<Stability> {
        done!(self, op::WRITE);
        let count = self.input.u32()?;
        let durable = match self.input.u32()? {
            0 => false,
            1 | 2 => true,
            _ => return Err(Malformed),
        };
        Ok(Ok(Stability {
            count,
            durable,
            verifier: self.input.fixed()?,
        }))
    }

    /// Read COMMIT.
    pub fn commit(&mut self) -> Outcome<Verifier> {
        done!(self, op::COMMIT);
        self.input.fixed().map(Ok)
    }

    /// Read READDIR up to its entries.
    pub fn readdir(&mut self) -> Outcome<(Verifier, DirEntryIter<'a>)> {
        done!(self, op::READDIR);
        let verifier = self.input.fixed()?;
        Ok(Ok((verifier, DirEntryIter { input: self.input })))
    }

    /// Read READLINK.
    pub fn readlink(&mut self) -> Outcome<&'a [u8]> {
        done!(self, op::READLINK);
        self.input.opaque(4096).map(Ok)
    }

    /// Read REMOVE.
    pub fn remove(&mut self) -> Outcome<()> {
        done!(self, op::REMOVE);
        self.change_info().map(Ok)
    }

    /// Read RENAME.
    pub fn rename(&mut self) -> Outcome<()> {
        done!(self, op::RENAME);
        self.change_info()?;
        self.change_info().map(Ok)
    }

    /// Read LINK.
    pub fn link(&mut self) -> Outcome<()> {
        done!(self, op::LINK);
        self.change_info().map(Ok)
    }

    /// Read what a refused lock met.
    fn denied(&mut self) -> Result<Locked> {
        let (start, len) = (self.input.u64()?, self.input.u64()?);
        let kind = self.input.u32()?;
        let client = self.input.u64()?;
        let owner = self.input.opaque(MAX_OPAQUE)?.try_into().ok();
        Ok(Locked {
            start,
            len,
            write: matches!(kind, 2 | 4),
            owner: owner.map(|number| (client, u64::from_be_bytes(number))),
        })
    }

    /// Read LOCK: the owner's state.
    pub fn lock(&mut self) -> Outcome<StateId> {
        done!(self, op::LOCK);
        self.stateid().map(Ok)
    }

    /// Read LOCKT: the lock that is in the way, if one is.
    pub fn lockt(&mut self) -> Outcome<Option<Locked>> {
        match self.step(op::LOCKT)? {
            Ok(()) => Ok(Ok(None)),
            Err(Status::ERR_DENIED) => self.denied().map(|locked| Ok(Some(locked))),
            Err(status) => Ok(Err(status)),
        }
    }

    /// Read LOCKU.
    pub fn locku(&mut self) -> Outcome<StateId> {
        done!(self, op::LOCKU);
        self.stateid().map(Ok)
    }

    /// Read SEEK: whether the file ends before anything is found, and where it is.
    pub fn seek(&mut self) -> Outcome<(bool, u64)> {
        done!(self, op::SEEK);
        Ok(Ok((self.input.bool()?, self.input.u64()?)))
    }

    /// Read COPY of a server that copies at once.
    pub fn copy(&mut self) -> Outcome<(u64, Stability)> {
        done!(self, op::COPY);
        if self.input.count(1)? == 1 {
            self.stateid()?;
            return Err(Malformed);
        }
        let count = self.input.u64()?;
        let durable = self.input.u32()? != 0;
        let verifier = self.input.fixed()?;
        self.input.skip(2)?;
        Ok(Ok((
            count,
            Stability {
                count: 0,
                durable,
                verifier,
            },
        )))
    }

    /// Read GETXATTR.
    pub fn getxattr(&mut self) -> Outcome<&'a [u8]> {
        done!(self, op::GETXATTR);
        self.input.opaque(1 << 16).map(Ok)
    }

    /// Read SETXATTR.
    pub fn setxattr(&mut self) -> Outcome<()> {
        done!(self, op::SETXATTR);
        self.change_info().map(Ok)
    }

    /// Read REMOVEXATTR.
    pub fn removexattr(&mut self) -> Outcome<()> {
        done!(self, op::REMOVEXATTR);
        self.change_info().map(Ok)
    }

    /// Read LISTXATTRS, a name at a time; gives the cookie of the rest and whether there is none.
    pub fn listxattrs(&mut self, mut name: impl FnMut(&'a [u8])) -> Outcome<(u64, bool)> {
        done!(self, op::LISTXATTRS);
        let cookie = self.input.u64()?;
        for _ in 0..self.input.count(1 << 14)? {
            name(self.input.opaque(1 << 16)?);
        }
        Ok(Ok((cookie, self.input.bool()?)))
    }

    /// Read TEST_STATEID of one state.
    pub fn test_stateid(&mut self) -> Outcome<Status> {
        done!(self, op::TEST_STATEID);
        match self.input.u32()? {
            1 => self.input.u32().map(|status| Ok(Status(status))),
            _ => Err(Malformed),
        }
    }

    /// Read EXCHANGE_ID.
    pub fn exchange_id(&mut self) -> Outcome<Exchanged<'a>> {
        const CONFIRMED: u32 = 0x8000_0000;
        done!(self, op::EXCHANGE_ID);
        let client = self.input.u64()?;
        let sequence = self.input.u32()?;
        let flags = self.input.u32()?;
        if self.input.u32()? != 0 {
            // State protection was not asked for.
            return Err(Malformed);
        }
        Ok(Ok(Exchanged {
            client,
            sequence,
            confirmed: flags & CONFIRMED != 0,
            server: ServerOwner {
                minor: self.input.u64()?,
                major: self.input.opaque(MAX_OPAQUE)?,
                scope: self.input.opaque(MAX_OPAQUE)?,
            },
        }))
    }

    /// Read CREATE_SESSION.
    pub fn create_session(&mut self) -> Outcome<SessionResult> {
        done!(self, op::CREATE_SESSION);
        let session = self.input.fixed()?;
        self.input.u32()?;
        let flags = self.input.u32()?;
        let fore = self.channel()?;
        self.channel()?;
        Ok(Ok(SessionResult {
            session,
            callbacks: flags & 2 != 0,
            fore,
        }))
    }

    fn channel(&mut self) -> Result<ChannelSize> {
        self.input.u32()?;
        let size = ChannelSize {
            max_request: self.input.u32()?,
            max_response: self.input.u32()?,
            max_cached: self.input.u32()?,
            max_operations: self.input.u32()?,
            max_requests: self.input.u32()?,
        };
        let rdma = self.input.count(1)?;
        self.input.skip(rdma as usize)?;
        Ok(size)
    }
}

/// Hold one entry of a directory.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// Place behind it.
    pub cookie: u64,
    /// Name.
    pub name: &'a [u8],
    /// Attributes.
    pub attr: FileAttr<'a>,
}

/// Walk through the entries of a READDIR.
#[derive(Clone, Copy, Debug)]
pub struct DirEntryIter<'a> {
    input: Decoder<'a>,
}

impl<'a> DirEntryIter<'a> {
    /// Give the next entry; after the last, whether the directory ends there.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn next_entry(&mut self) -> Result<core::result::Result<DirEntry<'a>, bool>> {
        if !self.input.bool()? {
            return Ok(Err(self.input.bool()?));
        }
        let cookie = self.input.u64()?;
        let name = self.input.opaque(MAX_OPAQUE)?;
        let attr = FileAttr::decode(&mut self.input)?;
        Ok(Ok(DirEntry { cookie, name, attr }))
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn a_read_gives_its_count_and_leaves_its_data() {
        let mut words = Vec::from([0, 0, 3, op::SEQUENCE, 0, 1, 2, 3, 4, 9, 5, 63, 63, 0]);
        words.extend([op::PUTFH, 0, op::READ, 0, 1, 4, 0x6161_6161]);
        let bytes = bytes(&words);
        let mut results = Results::new(Decoder::new(&bytes)).unwrap();
        let sequence = results.sequence().unwrap().unwrap();
        assert_eq!((sequence.sequence, sequence.slot), (9, 5));
        assert_eq!(results.step(op::PUTFH), Ok(Ok(())));
        assert_eq!(results.read(), Ok(Ok((true, 4))));
        assert_eq!(results.input().rest(), b"aaaa");
        assert_eq!(results.step(op::GETATTR), Err(Malformed));
    }

    #[test]
    fn the_failed_operation_is_the_last() {
        let bytes = bytes(&[70, 0, 2, op::PUTFH, 0, op::GETATTR, 70]);
        let mut results = Results::new(Decoder::new(&bytes)).unwrap();
        assert_eq!(results.status(), Status::ERR_STALE);
        assert_eq!(results.step(op::PUTFH), Ok(Ok(())));
        assert_eq!(results.getattr().unwrap().unwrap_err(), Status::ERR_STALE);
        assert_eq!(results.step(op::READ), Ok(Err(Status::ERR_STALE)));
    }

    #[test]
    fn results_in_another_order_are_malformed() {
        let bytes = bytes(&[0, 0, 1, op::GETFH, 0, 0]);
        let mut results = Results::new(Decoder::new(&bytes)).unwrap();
        assert_eq!(results.step(op::PUTFH), Err(Malformed));
    }

    #[test]
    fn a_directory_ends_where_it_says() {
        let name = u32::from_be_bytes(*b"name");
        let bytes = bytes(&[1, 0, 7, 4, name, 0, 0, 0, 1]);
        let mut entries = DirEntryIter {
            input: Decoder::new(&bytes),
        };
        let entry = entries.next_entry().unwrap().unwrap();
        assert_eq!((entry.cookie, entry.name), (7, &b"name"[..]));
        assert!(entries.next_entry().unwrap().unwrap_err());
    }
}
