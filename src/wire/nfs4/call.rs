//! Calls: one COMPOUND at a time, written into fixed memory.
//!
//! A call is written once and may be sent several times: what changes from one time to the next (transaction number,
//! session, slot, stateid) has a place that [`Call`] remembers, to be written over.

use super::{
    Bitmap, CALLBACK_PROGRAM, FileKind, Handle, PROC_COMPOUND, PROGRAM, SessionId, Settable,
    StateId, VERSION, Verifier, op,
};
use crate::wire::rpc::{self, Credentials};
use crate::wire::xdr::{Encoder, padded};

/// Bytes of memory that hold any call whose names are at most 255 bytes, its link's target or extended attribute's
/// value aside.
pub const ROOM_OF_CALL: usize = 1600;

/// Words of the arguments of SEQUENCE.
const SEQUENCE_LEN: usize = 16 + 4 * 4;

/// Hold a written call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    /// Bytes written, those of a WRITE's data not counted.
    pub len: usize,
    /// Bytes of data that follow, and of their padding.
    pub payload: usize,
    /// Where SEQUENCE's arguments are; zero without.
    sequence_at: u16,
    /// Where the stateid is; zero without.
    stateid_at: u16,
    /// Where that of the file is that is copied from; zero without.
    source_at: u16,
}

impl Call {
    /// Write the transaction number.
    pub fn set_xid(buffer: &mut [u8], xid: u32) {
        if let Some(place) = buffer.get_mut(4..8) {
            place.copy_from_slice(&xid.to_be_bytes());
        }
    }

    /// Write SEQUENCE's arguments: the session, the slot and its sequence number, the highest slot in use.
    pub fn set_sequence(
        &self,
        buffer: &mut [u8],
        session: &SessionId,
        sequence: u32,
        slot: u32,
        highest: u32,
    ) {
        let at = usize::from(self.sequence_at);
        if let Some(place) = buffer.get_mut(at..at + SEQUENCE_LEN - 4)
            && at != 0
        {
            let (id, words) = place.split_at_mut(16);
            id.copy_from_slice(session);
            for (place, word) in words.chunks_exact_mut(4).zip([sequence, slot, highest]) {
                place.copy_from_slice(&word.to_be_bytes());
            }
        }
    }

    /// Write the stateid.
    pub fn set_stateid(&self, buffer: &mut [u8], stateid: &StateId) {
        write_stateid(buffer, self.stateid_at, stateid);
    }

    /// Write the stateid of the file that is copied from.
    pub fn set_source(&self, buffer: &mut [u8], stateid: &StateId) {
        write_stateid(buffer, self.source_at, stateid);
    }

    /// Tell whether the call names a state.
    pub const fn has_stateid(&self) -> bool {
        self.stateid_at != 0
    }
}

fn write_stateid(buffer: &mut [u8], at: u16, stateid: &StateId) {
    let at = usize::from(at);
    if let Some(place) = buffer.get_mut(at..at + 16)
        && at != 0
    {
        place[..4].copy_from_slice(&stateid.seqid.to_be_bytes());
        place[4..].copy_from_slice(&stateid.other);
    }
}

/// Say how a session's channel is to be, or how the server made it (`channel_attrs4`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChannelSize {
    /// Largest call in bytes.
    pub max_request: u32,
    /// Largest answer in bytes.
    pub max_response: u32,
    /// Largest answer that is kept for a repetition, in bytes.
    pub max_cached: u32,
    /// Most operations in a call.
    pub max_operations: u32,
    /// Slots: calls at the same time.
    pub max_requests: u32,
}

impl ChannelSize {
    fn encode(&self, out: &mut Encoder<'_>) {
        out.u32(0);
        for word in [
            self.max_request,
            self.max_response,
            self.max_cached,
            self.max_operations,
            self.max_requests,
            0,
        ] {
            out.u32(word);
        }
    }
}

/// Say what CREATE makes (`createtype4`).
#[derive(Clone, Copy, Debug)]
pub enum Create<'a> {
    /// A directory.
    Directory,
    /// A symbolic link to this.
    Link(&'a [u8]),
    /// A device node, with its number; FIFOs and sockets have none.
    Special(FileKind, (u32, u32)),
}

/// Say how OPEN treats a name that is not there (`openflag4`).
#[derive(Clone, Copy, Debug)]
pub enum Created<'a> {
    /// It is an error.
    No,
    /// Make the file, or take one that is there and set its attributes (UNCHECKED4).
    Unchecked(&'a Settable<'a>),
    /// Make the file, and know a repetition by the verifier (EXCLUSIVE4_1).
    Exclusive(Verifier, &'a Settable<'a>),
    /// Make the file; it is an error when it is there (GUARDED4).
    Guarded(&'a Settable<'a>),
}

/// Say what OPEN opens (`open_claim4`).
#[derive(Clone, Copy, Debug)]
pub enum OpenClaim<'a> {
    /// A name in the current directory.
    Name(&'a [u8]),
    /// The current file.
    Current,
    /// The current file, which was open before the server's restart.
    Previous,
}

/// Say who opens, and for what.
#[derive(Clone, Copy, Debug)]
pub struct OpenHow {
    /// For reading (1), writing (2) or both (3).
    pub access: u32,
    /// Who opens, among this client's openers.
    pub owner: u64,
}

/// Write one COMPOUND call.
pub struct Compound<'a> {
    out: Encoder<'a>,
    operations: u32,
    operations_at: usize,
    call: Call,
}

/// OPEN's wish for no delegation (`OPEN4_SHARE_ACCESS_WANT_NO_DELEG`).
const NO_DELEGATION: u32 = 0x0400;

impl<'a> Compound<'a> {
    /// Begin a call of NFSv4.`minor` in someone's name.
    pub fn new(
        buffer: &'a mut [u8],
        minor: u32,
        machine: &[u8],
        credentials: &Credentials,
    ) -> Self {
        let mut out = Encoder::new(buffer);
        rpc::call(
            &mut out,
            0,
            PROGRAM,
            VERSION,
            PROC_COMPOUND,
            machine,
            credentials,
        );
        out.u32(0);
        out.u32(minor);
        let operations_at = out.len();
        out.u32(0);
        Self {
            out,
            operations: 0,
            operations_at,
            call: Call::default(),
        }
    }

    /// End the call, to be followed by `payload` bytes of data. `None` when the memory was too small.
    pub fn finish(mut self, payload: usize) -> Option<Call> {
        let payload = padded(payload);
        let record = self.out.len() + payload - rpc::MARK_LEN;
        self.out.patch(0, u32::from_be_bytes(rpc::mark(record)));
        self.out.patch(self.operations_at, self.operations);
        let Self { out, call, .. } = self;
        out.finish().map(|len| Call {
            len,
            payload,
            ..call
        })
    }

    fn op(mut self, number: u32) -> Self {
        self.operations += 1;
        self.out.u32(number);
        self
    }

    fn op_stateid(self, number: u32) -> Self {
        let mut call = self.op(number);
        call.state();
        call
    }

    /// Leave a place for the stateid.
    fn state(&mut self) {
        self.call.stateid_at = self.out.len() as u16;
        self.stateid(&StateId::ANONYMOUS);
    }

    fn stateid(&mut self, stateid: &StateId) {
        self.out.u32(stateid.seqid);
        self.out.fixed(&stateid.other);
    }

    /// Begin with SEQUENCE. With `keep` the server keeps the answer for a repetition.
    #[must_use]
    pub fn sequence(self, keep: bool) -> Self {
        let mut call = self.op(op::SEQUENCE);
        call.call.sequence_at = call.out.len() as u16;
        call.out.fixed(&[0; SEQUENCE_LEN - 4]);
        call.out.bool(keep);
        call
    }

    /// Go to a file.
    #[must_use]
    pub fn putfh(self, handle: &Handle) -> Self {
        let mut call = self.op(op::PUTFH);
        call.out.opaque(handle.as_bytes());
        call
    }

    /// Go to the server's root.
    #[must_use]
    pub fn putrootfh(self) -> Self {
        self.op(op::PUTROOTFH)
    }

    /// Remember the current file.
    #[must_use]
    pub fn savefh(self) -> Self {
        self.op(op::SAVEFH)
    }

    /// Go back to the remembered file.
    #[must_use]
    pub fn restorefh(self) -> Self {
        self.op(op::RESTOREFH)
    }

    /// Ask for the current file's handle.
    #[must_use]
    pub fn getfh(self) -> Self {
        self.op(op::GETFH)
    }

    /// Ask for the current file's attributes.
    #[must_use]
    pub fn getattr(self, attributes: &Bitmap) -> Self {
        let mut call = self.op(op::GETATTR);
        attributes.encode(&mut call.out);
        call
    }

    /// Go to a name in the current directory.
    #[must_use]
    pub fn lookup(self, name: &[u8]) -> Self {
        let mut call = self.op(op::LOOKUP);
        call.out.opaque(name);
        call
    }

    /// Go to the parent of the current directory.
    #[must_use]
    pub fn lookupp(self) -> Self {
        self.op(op::LOOKUPP)
    }

    /// Ask what the caller may do.
    #[must_use]
    pub fn access(self, mask: u32) -> Self {
        let mut call = self.op(op::ACCESS);
        call.out.u32(mask);
        call
    }

    /// Set attributes in the name of a state.
    #[must_use]
    pub fn setattr(self, set: &Settable<'_>) -> Self {
        let mut call = self.op_stateid(op::SETATTR);
        set.encode(&mut call.out);
        call
    }

    /// Make anything but a regular file.
    #[must_use]
    pub fn create(self, what: &Create<'_>, name: &[u8], set: &Settable<'_>) -> Self {
        let mut call = self.op(op::CREATE);
        match what {
            Create::Directory => call.out.u32(FileKind::Directory.number()),
            Create::Link(target) => {
                call.out.u32(FileKind::Link.number());
                call.out.opaque(target);
            }
            Create::Special(kind, (major, minor)) => {
                call.out.u32(kind.number());
                if matches!(kind, FileKind::Block | FileKind::Character) {
                    call.out.u32(*major);
                    call.out.u32(*minor);
                }
            }
        }
        call.out.opaque(name);
        set.encode(&mut call.out);
        call
    }

    /// Open a file.
    #[must_use]
    pub fn open(
        self,
        client: u64,
        how: &OpenHow,
        create: &Created<'_>,
        claim: &OpenClaim<'_>,
    ) -> Self {
        let mut call = self.op(op::OPEN);
        let out = &mut call.out;
        out.u32(0);
        out.u32(how.access | NO_DELEGATION);
        out.u32(0);
        out.u64(client);
        out.opaque(&how.owner.to_be_bytes());
        match create {
            Created::No => out.u32(0),
            Created::Unchecked(set) => {
                out.u32(1);
                out.u32(0);
                set.encode(out);
            }
            Created::Guarded(set) => {
                out.u32(1);
                out.u32(1);
                set.encode(out);
            }
            Created::Exclusive(verifier, set) => {
                out.u32(1);
                out.u32(3);
                out.fixed(verifier);
                set.encode(out);
            }
        }
        match claim {
            OpenClaim::Name(name) => {
                out.u32(0);
                out.opaque(name);
            }
            OpenClaim::Previous => {
                out.u32(1);
                out.u32(0);
            }
            OpenClaim::Current => out.u32(4),
        }
        call
    }

    /// Close what a state stands for.
    #[must_use]
    pub fn close(self) -> Self {
        let mut call = self.op(op::CLOSE);
        call.out.u32(0);
        call.state();
        call
    }

    /// Give a delegation back, whose state is to be filled in.
    #[must_use]
    pub fn delegreturn(self) -> Self {
        self.op_stateid(op::DELEGRETURN)
    }

    /// Read.
    #[must_use]
    pub fn read(self, offset: u64, count: u32) -> Self {
        let mut call = self.op_stateid(op::READ);
        call.out.u64(offset);
        call.out.u32(count);
        call
    }

    /// Write `count` bytes, which follow the call; so this is the last operation. `stable` is 0 for at leisure, 1 for
    /// content, 2 for content and attributes before the answer.
    #[must_use]
    pub fn write(self, offset: u64, stable: u32, count: u32) -> Self {
        let mut call = self.op_stateid(op::WRITE);
        call.out.u64(offset);
        call.out.u32(stable);
        call.out.u32(count);
        call
    }

    /// Make written bytes durable; a count of zero means to the end.
    #[must_use]
    pub fn commit(self, offset: u64, count: u32) -> Self {
        let mut call = self.op(op::COMMIT);
        call.out.u64(offset);
        call.out.u32(count);
        call
    }

    /// Read a directory: at most `bytes` of an answer.
    #[must_use]
    pub fn readdir(
        self,
        cookie: u64,
        verifier: &Verifier,
        bytes: u32,
        attributes: &Bitmap,
    ) -> Self {
        let mut call = self.op(op::READDIR);
        call.out.u64(cookie);
        call.out.fixed(verifier);
        call.out.u32(bytes);
        call.out.u32(bytes);
        attributes.encode(&mut call.out);
        call
    }

    /// Read the target of a symbolic link.
    #[must_use]
    pub fn readlink(self) -> Self {
        self.op(op::READLINK)
    }

    /// Remove a name from the current directory.
    #[must_use]
    pub fn remove(self, name: &[u8]) -> Self {
        let mut call = self.op(op::REMOVE);
        call.out.opaque(name);
        call
    }

    /// Rename from the remembered directory to the current one.
    #[must_use]
    pub fn rename(self, from: &[u8], to: &[u8]) -> Self {
        let mut call = self.op(op::RENAME);
        call.out.opaque(from);
        call.out.opaque(to);
        call
    }

    /// Give the remembered file a name in the current directory.
    #[must_use]
    pub fn link(self, name: &[u8]) -> Self {
        let mut call = self.op(op::LINK);
        call.out.opaque(name);
        call
    }

    /// Lock a range for a new owner of locks, who opened the file as `open` says. `kind` is 1 for reading, 2 for
    /// writing, 3 and 4 the same when the server is to tell when it may be granted.
    #[must_use]
    pub fn lock_new(
        self,
        kind: u32,
        reclaim: bool,
        range: (u64, u64),
        open: &StateId,
        owner: u64,
    ) -> Self {
        let mut call = self.op(op::LOCK);
        call.range(kind, Some(reclaim), range);
        call.out.bool(true);
        call.out.u32(0);
        call.stateid(open);
        call.out.u32(0);
        call.owner(owner);
        call
    }

    /// Lock a range for an owner that has locks of the file, whose state it is.
    #[must_use]
    pub fn lock_more(self, kind: u32, reclaim: bool, range: (u64, u64), lock: &StateId) -> Self {
        let mut call = self.op(op::LOCK);
        call.range(kind, Some(reclaim), range);
        call.out.bool(false);
        call.stateid(lock);
        call.out.u32(0);
        call
    }

    /// Name an owner of locks. Which client's it is, the session says.
    fn owner(&mut self, owner: u64) {
        self.out.u64(0);
        self.out.opaque(&owner.to_be_bytes());
    }

    fn range(&mut self, kind: u32, reclaim: Option<bool>, (start, len): (u64, u64)) {
        self.out.u32(kind);
        if let Some(reclaim) = reclaim {
            self.out.bool(reclaim);
        }
        self.out.u64(start);
        self.out.u64(len);
    }

    /// Ask whether a lock would be granted.
    #[must_use]
    pub fn lockt(self, kind: u32, range: (u64, u64), owner: u64) -> Self {
        let mut call = self.op(op::LOCKT);
        call.range(kind, None, range);
        call.owner(owner);
        call
    }

    /// Unlock a range of the state's owner.
    #[must_use]
    pub fn locku(self, range: (u64, u64), lock: &StateId) -> Self {
        let mut call = self.op(op::LOCKU);
        call.out.u32(1);
        call.out.u32(0);
        call.stateid(lock);
        call.out.u64(range.0);
        call.out.u64(range.1);
        call
    }

    /// Allocate space (4.2).
    #[must_use]
    pub fn allocate(self, offset: u64, len: u64) -> Self {
        self.space(op::ALLOCATE, offset, len)
    }

    /// Free space (4.2).
    #[must_use]
    pub fn deallocate(self, offset: u64, len: u64) -> Self {
        self.space(op::DEALLOCATE, offset, len)
    }

    fn space(self, number: u32, offset: u64, len: u64) -> Self {
        let mut call = self.op_stateid(number);
        call.out.u64(offset);
        call.out.u64(len);
        call
    }

    /// Find data (`hole` false) or a hole at or behind an offset (4.2).
    #[must_use]
    pub fn seek(self, offset: u64, hole: bool) -> Self {
        let mut call = self.op_stateid(op::SEEK);
        call.out.u64(offset);
        call.out.bool(hole);
        call
    }

    /// Copy from the remembered file to the current one, the states of both to be filled in (4.2). In one piece where it can
    /// be, and done when it is answered.
    #[must_use]
    pub fn copy(self, from: u64, to: u64, count: u64) -> Self {
        let mut call = self.between(op::COPY, from, to, count);
        call.out.bool(true);
        call.out.bool(true);
        // No other servers.
        call.out.u32(0);
        call
    }

    /// Share blocks of the remembered file with the current one, the states of both to be filled in (4.2).
    #[must_use]
    pub fn clone_range(self, from: u64, to: u64, count: u64) -> Self {
        self.between(op::CLONE, from, to, count)
    }

    fn between(self, number: u32, from: u64, to: u64, count: u64) -> Self {
        let mut call = self.op(number);
        call.call.source_at = call.out.len() as u16;
        call.stateid(&StateId::ANONYMOUS);
        call.state();
        for word in [from, to, count] {
            call.out.u64(word);
        }
        call
    }

    /// Get an extended attribute of users (RFC 8276).
    #[must_use]
    pub fn getxattr(self, name: &[u8]) -> Self {
        let mut call = self.op(op::GETXATTR);
        call.out.opaque(name);
        call
    }

    /// Set an extended attribute to `len` bytes, which follow the call; so this is the last operation. `option` is 0 for
    /// either, 1 for a new one, 2 for one that is there.
    #[must_use]
    pub fn setxattr(self, option: u32, name: &[u8], len: u32) -> Self {
        let mut call = self.op(op::SETXATTR);
        call.out.u32(option);
        call.out.opaque(name);
        call.out.u32(len);
        call
    }

    /// List extended attributes.
    #[must_use]
    pub fn listxattrs(self, cookie: u64, bytes: u32) -> Self {
        let mut call = self.op(op::LISTXATTRS);
        call.out.u64(cookie);
        call.out.u32(bytes);
        call
    }

    /// Remove an extended attribute.
    #[must_use]
    pub fn removexattr(self, name: &[u8]) -> Self {
        let mut call = self.op(op::REMOVEXATTR);
        call.out.opaque(name);
        call
    }

    /// Introduce the client: who it is, and which of its lives this is.
    #[must_use]
    pub fn exchange_id(self, verifier: &Verifier, owner: &[u8]) -> Self {
        /// Referrals are understood, and no pNFS is wanted.
        const FLAGS: u32 = 0x0000_0001 | 0x0001_0000;
        let mut call = self.op(op::EXCHANGE_ID);
        call.out.fixed(verifier);
        call.out.opaque(owner);
        call.out.u32(FLAGS);
        call.out.u32(0);
        call.out.u32(0);
        call
    }

    /// Make a session. With `callbacks` this connection carries the backchannel, too.
    #[must_use]
    pub fn create_session(
        self,
        client: u64,
        sequence: u32,
        callbacks: bool,
        fore: &ChannelSize,
        back: &ChannelSize,
    ) -> Self {
        let mut call = self.op(op::CREATE_SESSION);
        call.out.u64(client);
        call.out.u32(sequence);
        call.out.u32(if callbacks { 2 } else { 0 });
        fore.encode(&mut call.out);
        back.encode(&mut call.out);
        call.out.u32(CALLBACK_PROGRAM);
        call.out.u32(1);
        call.out.u32(0);
        call
    }

    /// Let this connection carry a session; with `callbacks` the backchannel, too, where the server likes it.
    #[must_use]
    pub fn bind_conn_to_session(self, session: &SessionId, callbacks: bool) -> Self {
        /// `CDFC4_FORE` and `CDFC4_FORE_OR_BOTH`.
        const DIRECTION: [u32; 2] = [1, 3];
        let mut call = self.op(op::BIND_CONN_TO_SESSION);
        call.out.fixed(session);
        call.out.u32(DIRECTION[usize::from(callbacks)]);
        call.out.bool(false);
        call
    }

    /// End a session.
    #[must_use]
    pub fn destroy_session(self, session: &SessionId) -> Self {
        let mut call = self.op(op::DESTROY_SESSION);
        call.out.fixed(session);
        call
    }

    /// Take leave for ever.
    #[must_use]
    pub fn destroy_clientid(self, client: u64) -> Self {
        let mut call = self.op(op::DESTROY_CLIENTID);
        call.out.u64(client);
        call
    }

    /// Say that everything is reclaimed that was held before the server's restart.
    #[must_use]
    pub fn reclaim_complete(self) -> Self {
        let mut call = self.op(op::RECLAIM_COMPLETE);
        call.out.bool(false);
        call
    }

    /// Ask whether a state is still valid.
    #[must_use]
    pub fn test_stateid(self, stateid: &StateId) -> Self {
        let mut call = self.op(op::TEST_STATEID);
        call.out.u32(1);
        call.stateid(stateid);
        call
    }

    /// Let the server forget a state that it revoked.
    #[must_use]
    pub fn free_stateid(self, stateid: &StateId) -> Self {
        let mut call = self.op(op::FREE_STATEID);
        call.stateid(stateid);
        call
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_laid_out_as_rfc_8881_says_and_patched_in_place() {
        let mut buffer = [0xee; 256];
        let handle = Handle::new(b"abc").unwrap();
        let call = Compound::new(&mut buffer, 1, b"", &Credentials::None)
            .sequence(false)
            .putfh(&handle)
            .read(4096, 512)
            .finish(0)
            .unwrap();
        Call::set_xid(&mut buffer, 77);
        call.set_sequence(&mut buffer, &[9; 16], 5, 3, 7);
        let stateid = StateId {
            seqid: 0,
            other: *b"stateid12345",
        };
        call.set_stateid(&mut buffer, &stateid);
        let mut expected = std::vec::Vec::new();
        let mut words = |words: &[u32]| {
            for word in words {
                expected.extend_from_slice(&word.to_be_bytes());
            }
        };
        let nine = 0x0909_0909;
        let [a, b, c] = [*b"stat", *b"eid1", *b"2345"].map(u32::from_be_bytes);
        let abc = u32::from_be_bytes(*b"abc\0");
        words(&[0x8000_0000 | (call.len as u32 - 4), 77, 0, 2, 100_003, 4, 1]);
        words(&[0, 0, 0, 0, 0, 1, 3]);
        words(&[53, nine, nine, nine, nine, 5, 3, 7, 0]);
        words(&[22, 3, abc]);
        words(&[25, 0, a, b, c, 0, 4096, 512]);
        assert_eq!(&buffer[..call.len], expected);
    }

    #[test]
    fn the_record_counts_the_data_that_follows_and_its_padding() {
        let mut buffer = [0; 256];
        let call = Compound::new(&mut buffer, 2, b"m", &Credentials::None)
            .sequence(true)
            .write(0, 2, 5)
            .finish(5)
            .unwrap();
        let (record, last) = rpc::parse_mark([buffer[0], buffer[1], buffer[2], buffer[3]]);
        assert!(last);
        assert_eq!(record, call.len - 4 + 8);
        assert_eq!(call.payload, 8);
    }

    #[test]
    fn a_call_that_does_not_fit_is_none() {
        let mut buffer = [0; 64];
        let call = Compound::new(&mut buffer, 1, b"", &Credentials::None).sequence(false);
        assert!(call.finish(0).is_none());
    }

    #[test]
    fn the_largest_call_fits_its_room() {
        let mut buffer = [0; ROOM_OF_CALL];
        let handle = Handle::new(&[1; 128]).unwrap();
        let user = Credentials::Sys {
            uid: 1,
            gid: 2,
            group: Some(3),
        };
        let name = [b'n'; 255];
        let call = Compound::new(&mut buffer, 2, &[b'm'; 255], &user)
            .sequence(true)
            .putfh(&handle)
            .savefh()
            .putfh(&handle)
            .rename(&name, &name)
            .getattr(&super::super::AttrRequest::STAT)
            .finish(0);
        assert!(call.is_some());
    }
}
