//! Replies: typed by operation, given exactly once, at once or later.
//!
//! A reply owns its request's entry in the table, so the host's memory that it lends stays valid while it lives, and
//! answering consumes it. One that is dropped unanswered answers `EIO` and is counted
//! ([`RequestTable::unanswered`](crate::mem::RequestTable::unanswered)): a bug of the backend that the host still
//! survives.

use core::marker::PhantomData;
use core::time::Duration;

use zerocopy::{Immutable, IntoBytes};

use super::types::{Entry, Lock, Name, Opened, Written};
use crate::mem::{Segment, Slot, SlotId, TooShort};
use crate::wire::errno::Errno;
use crate::wire::fuse::{
    Attr, AttrOut, BmapOut, CopyFileRangeOut, Dirent, EntryOut, GetxattrOut, InitOut, IoctlOut,
    Kstatfs, LkOut, LseekOut, OUT_HEADER_LEN, Opcode, OpenOut, OutHeader, PollOut, Statx, StatxOut,
    WriteOut,
};

/// Answer one request with a `T`, or with an error.
#[must_use = "a dropped reply answers EIO"]
pub struct Reply<T> {
    /// `None` only in between being answered and being dropped.
    slot: Option<Slot>,
    kind: PhantomData<T>,
}

/// Write the out header over a body of `body` bytes and end the request.
#[inline]
fn finish(slot: Slot, body: usize, error: i32) {
    let len = (OUT_HEADER_LEN + body) as u32;
    let header = out_header(&slot, len, error);
    if slot.segments().write_head_at_once(header.as_bytes()) {
        slot.finish(len, error as u16);
    } else {
        finish_in_pieces(slot, len, error);
    }
}

/// Do as [`finish`] where the host cut the room for the header.
#[cold]
#[inline(never)]
fn finish_in_pieces(slot: Slot, len: u32, error: i32) {
    let header = out_header(&slot, len, error);
    match slot.segments().write_head(header.as_bytes()) {
        Ok(()) => slot.finish(len, error as u16),
        // The host left no room for an answer, so it gets none.
        Err(TooShort) => slot.finish(0, Errno::EINVAL.get() as u16),
    }
}

#[inline]
fn out_header(slot: &Slot, len: u32, error: i32) -> OutHeader {
    OutHeader {
        len,
        error: -error,
        unique: slot.header().unique,
    }
}

/// End the request with an error.
#[inline(never)]
fn fail(slot: Slot, error: Errno) {
    finish(slot, 0, error.get());
}

impl<T> Reply<T> {
    pub(super) fn new(slot: Slot) -> Self {
        Self {
            slot: Some(slot),
            kind: PhantomData,
        }
    }

    #[inline]
    fn slot(&self) -> &Slot {
        self.slot
            .as_ref()
            .expect("only answering empties a reply, and consumes it")
    }

    #[inline]
    fn into_slot(mut self) -> Slot {
        let slot = self
            .slot
            .take()
            .expect("only answering empties a reply, and consumes it");
        // Nothing is left to drop.
        core::mem::forget(self);
        slot
    }

    /// Answer with the first `body` bytes behind the header, which are in place.
    #[inline]
    fn done(self, body: usize) {
        finish(self.into_slot(), body, 0);
    }

    #[inline]
    fn finish(self, body: Result<usize, Errno>) {
        match body {
            Ok(len) => self.done(len),
            Err(error) => self.err(error),
        }
    }

    /// Answer with an error.
    #[inline]
    pub fn err(self, error: Errno) {
        fail(self.into_slot(), error);
    }

    /// Give the request's identity.
    pub fn id(&self) -> SlotId {
        self.slot().id()
    }

    /// Give the session that asks.
    pub fn epoch(&self) -> u32 {
        self.slot().epoch()
    }

    /// Lend what the host sent behind the operation's arguments: the bytes to write, or names and values.
    #[inline]
    pub fn payload(&self) -> &[Segment] {
        self.slot().segments().readable()
    }

    /// Tell whether the host interrupted the request; answering `EINTR` is then welcome.
    pub fn interrupted(&self) -> bool {
        self.slot().interrupted()
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            slot.count_unanswered();
            fail(slot, Errno::EIO);
        }
    }
}

/// Lay out an answer of fixed size.
pub trait Body {
    /// Structure of the wire.
    type Wire: IntoBytes + Immutable;

    /// Give the structure.
    fn to_wire(&self) -> Self::Wire;
}

impl<T: Body> Reply<T> {
    /// Answer.
    #[inline]
    pub fn ok(self, body: T) {
        let wire = body.to_wire();
        if self.slot().segments().write_at_once(wire.as_bytes()) {
            self.done(size_of::<T::Wire>());
        } else {
            self.in_pieces(body);
        }
    }

    /// Answer where the host cut the room for the body.
    #[cold]
    #[inline(never)]
    fn in_pieces(self, body: T) {
        let wire = body.to_wire();
        let written = self.slot().segments().write_at(0, wire.as_bytes());
        let written = written.map(|()| size_of::<T::Wire>());
        self.finish(written.map_err(|TooShort| Errno::EIO));
    }
}

macro_rules! body {
    ($ty:ty => $wire:ty, |$self:ident| $value:expr) => {
        impl Body for $ty {
            type Wire = $wire;

            #[inline]
            fn to_wire(&$self) -> $wire {
                $value
            }
        }
    };
}

/// Hand attributes to the host.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// Attributes.
    pub attr: Attr,
    /// Time that they may be cached.
    pub ttl: Duration,
}

/// Hand a new, open file to the host.
#[derive(Clone, Copy, Debug)]
pub struct Created {
    /// The file.
    pub entry: Entry,
    /// Its open file.
    pub opened: Opened,
}

/// Lay out [`Created`]: an entry and an open file.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
pub struct CreateOut {
    entry: EntryOut,
    open: OpenOut,
}

/// Hand file system statistics to the host.
#[derive(Clone, Copy, Debug)]
pub struct Statfs(pub Kstatfs);

/// Hand extended attributes of STATX to the host.
#[derive(Clone, Copy, Debug)]
pub struct StatxReply {
    /// Attributes.
    pub stat: Statx,
    /// Time that they may be cached.
    pub ttl: Duration,
}

body!(() => [u8; 0], |self| []);
body!(Entry => EntryOut, |self| EntryOut {
    nodeid: self.node.0,
    generation: self.generation,
    entry_valid: self.entry_ttl.as_secs(),
    attr_valid: self.attr_ttl.as_secs(),
    entry_valid_nsec: self.entry_ttl.subsec_nanos(),
    attr_valid_nsec: self.attr_ttl.subsec_nanos(),
    attr: self.attr,
});
body!(Attributes => AttrOut, |self| AttrOut {
    attr_valid: self.ttl.as_secs(),
    attr_valid_nsec: self.ttl.subsec_nanos(),
    dummy: 0,
    attr: self.attr,
});
body!(Opened => OpenOut, |self| OpenOut {
    fh: self.fh.0,
    open_flags: self.flags.bits(),
    backing_id: 0,
});
body!(Created => CreateOut, |self| CreateOut {
    entry: self.entry.to_wire(),
    open: self.opened.to_wire(),
});
body!(Written => WriteOut, |self| WriteOut { size: self.0, padding: 0 });
body!(InitOut => InitOut, |self| *self);
body!(Statfs => Kstatfs, |self| self.0);
body!(Lock => LkOut, |self| LkOut { lk: (*self).to_wire() });
body!(StatxReply => StatxOut, |self| StatxOut {
    attr_valid: self.ttl.as_secs(),
    attr_valid_nsec: self.ttl.subsec_nanos(),
    flags: 0,
    spare: [0; 2],
    stat: self.stat,
});

/// Answer numbers whose type alone does not tell the operation.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty) => $wire:ty, |$self:ident| $value:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name(pub $inner);
        body!($name => $wire, |$self| $value);
    };
}
pub mod number {
    //! Answers that are one number.

    use super::{BmapOut, Body, LseekOut, PollOut};

    number!(
        /// Offset that LSEEK found, in bytes.
        Position(u64) => LseekOut, |self| LseekOut { offset: self.0 }
    );
    number!(
        /// Block that BMAP found.
        Block(u64) => BmapOut, |self| BmapOut { block: self.0 }
    );
    number!(
        /// Events that POLL found, `POLL*`.
        Revents(u32) => PollOut, |self| PollOut { revents: self.0, padding: 0 }
    );
}

/// Stand for the answer to COPY_FILE_RANGE, whose width depends on the operation's version.
pub struct Copied(());

impl Reply<Copied> {
    /// Answer with the number of bytes copied.
    pub fn ok(self, bytes: u64) {
        let segments = self.slot().segments();
        let written = if self.slot().header().opcode == Opcode::COPY_FILE_RANGE_64 as u32 {
            let out = CopyFileRangeOut {
                bytes_copied: bytes,
            };
            segments
                .write_at(0, out.as_bytes())
                .map(|()| size_of_val(&out))
        } else {
            let out = WriteOut {
                size: u32::try_from(bytes).unwrap_or(u32::MAX),
                padding: 0,
            };
            segments
                .write_at(0, out.as_bytes())
                .map(|()| size_of_val(&out))
        };
        self.finish(written.map_err(|TooShort| Errno::EIO));
    }
}

/// Stand for the bytes of a READ.
pub struct Data(());

impl Reply<Data> {
    /// Lend the host's pages: exactly as many bytes as it wants to read.
    pub fn buffers(&self) -> &[Segment] {
        self.slot().segments().writable()
    }

    /// Give the number of bytes that the host wants.
    pub fn wanted(&self) -> usize {
        self.slot().segments().writable_len()
    }

    /// Answer: the first `len` bytes of [`Self::buffers`] are filled. Fewer than wanted means the end of the file.
    ///
    /// More than wanted answers `EIO`, for the bytes cannot be there.
    pub fn filled(self, len: usize) {
        if len <= self.wanted() {
            self.done(len);
        } else {
            self.err(Errno::EIO);
        }
    }

    /// Zero `len` bytes from `offset` on of [`Self::buffers`], as far as they reach.
    #[inline(never)]
    pub fn zero(&self, offset: usize, len: usize) {
        const ZEROS: [u8; 4096] = [0; 4096];
        let end = offset.saturating_add(len).min(self.wanted());
        let mut at = offset;
        while at < end {
            let count = (end - at).min(ZEROS.len());
            if self
                .slot()
                .segments()
                .write_at(at, &ZEROS[..count])
                .is_err()
            {
                return;
            }
            at += count;
        }
    }

    /// Answer with a copy of `bytes`, cut to what the host wants.
    pub fn bytes(self, bytes: &[u8]) {
        let len = bytes.len().min(self.wanted());
        let written = self.slot().segments().write_at(0, &bytes[..len]);
        self.finish(written.map(|()| len).map_err(|TooShort| Errno::EIO));
    }
}

impl Reply<Written> {
    /// Copy bytes to write, from `offset` on, for a backend that keeps them in its own memory and hardly looks at them.
    ///
    /// # Errors
    /// [`TooShort`] when they are not all there; nothing is copied then.
    pub fn copy(&self, offset: usize, bytes: &mut [u8]) -> Result<(), TooShort> {
        self.slot().segments().read_past_caches(offset, bytes)
    }

    /// Give the number of bytes to write.
    pub fn wanted(&self) -> usize {
        self.slot().segments().readable_len()
    }
}

/// Stand for the target of a symbolic link.
pub struct Target(());

impl Reply<Target> {
    /// Answer with the target.
    pub fn ok(self, target: &[u8]) {
        let written = self.slot().segments().write_at(0, target);
        self.finish(
            written
                .map(|()| target.len())
                .map_err(|TooShort| Errno::ENAMETOOLONG),
        );
    }
}

/// Stand for the value of an extended attribute, or the list of their names.
pub struct XattrValue(());

impl Reply<XattrValue> {
    /// Give the room that the host has in bytes; zero asks for the length alone.
    pub fn wanted(&self) -> usize {
        self.slot().room() as usize
    }

    /// Answer with the value, or with its length if that was asked for; `ERANGE` when there is too little room.
    pub fn ok(self, value: &[u8]) {
        if self.slot().room() == 0 {
            return self.length(value.len());
        }
        let written = self.slot().segments().write_at(0, value);
        self.finish(
            written
                .map(|()| value.len())
                .map_err(|TooShort| Errno::ERANGE),
        );
    }

    /// Put a part of the answer in place, `at` bytes behind its begin. Where only the length is asked for, nothing is done.
    ///
    /// # Errors
    /// [`TooShort`] when there is too little room.
    pub fn put(&self, at: usize, part: &[u8]) -> Result<(), TooShort> {
        match self.slot().room() {
            0 => Ok(()),
            _ => self.slot().segments().write_at(at, part),
        }
    }

    /// Answer with what was put in place, `len` bytes in all, or with their number if that was asked for.
    pub fn filled(self, len: usize) {
        match self.slot().room() {
            0 => self.length(len),
            _ => self.done(len),
        }
    }

    /// Answer a request for the length alone.
    pub fn length(self, len: usize) {
        let out = GetxattrOut {
            size: len as u32,
            padding: 0,
        };
        let written = self.slot().segments().write_at(0, out.as_bytes());
        self.finish(
            written
                .map(|()| size_of_val(&out))
                .map_err(|TooShort| Errno::EIO),
        );
    }
}

/// Stand for the answer to IOCTL.
pub struct Ioctl(());

impl Reply<Ioctl> {
    /// Answer with the call's result and the data it returned.
    pub fn ok(self, result: i32, data: &[u8]) {
        let out = IoctlOut {
            result,
            flags: 0,
            in_iovs: 0,
            out_iovs: 0,
        };
        let segments = self.slot().segments();
        let written = segments
            .write_at(0, out.as_bytes())
            .and_then(|()| segments.write_at(size_of_val(&out), data))
            .map(|()| size_of_val(&out) + data.len());
        self.finish(written.map_err(|TooShort| Errno::EIO));
    }
}

/// Count the bytes of a directory answer.
pub struct DirEntries(());

/// Count the bytes of a directory answer with attributes.
pub struct DirEntriesPlus(());

/// Bytes of one record with a name of `len` bytes.
const fn dirent_len(len: usize) -> usize {
    (size_of::<Dirent>() + len).next_multiple_of(8)
}

impl<T> Reply<T> {
    /// Append a directory record at `at`; give the position after it, or `None` when it does not fit.
    fn dirent(&self, at: usize, ino: u64, next: u64, kind: u8, name: &[u8]) -> Option<usize> {
        let len = dirent_len(name.len());
        let mut record = [0; dirent_len(Name::MAX)];
        let header = Dirent {
            ino,
            off: next,
            namelen: name.len() as u32,
            kind: kind as u32,
        };
        record
            .get_mut(..size_of::<Dirent>())?
            .copy_from_slice(header.as_bytes());
        record
            .get_mut(size_of::<Dirent>()..size_of::<Dirent>() + name.len())?
            .copy_from_slice(name);
        self.slot().segments().write_at(at, &record[..len]).ok()?;
        Some(at + len)
    }
}

impl Reply<DirEntries> {
    /// Give the room that the host has for entries in bytes.
    pub fn wanted(&self) -> usize {
        self.slot().segments().writable_len()
    }

    /// Append an entry at byte `at` of the answer: inode number, the position after it, type (`DT_*`) and name.
    ///
    /// Gives the byte where the next entry goes, or `None` when this one does not fit any more.
    pub fn push(&self, at: usize, ino: u64, next: u64, kind: u8, name: &[u8]) -> Option<usize> {
        self.dirent(at, ino, next, kind, name)
    }

    /// Answer with the first `len` bytes of entries; zero means the end of the directory.
    pub fn ok(self, len: usize) {
        let len = len.min(self.slot().segments().writable_len());
        self.finish(Ok(len));
    }
}

impl Reply<DirEntriesPlus> {
    /// Give the room that the host has for entries in bytes.
    pub fn wanted(&self) -> usize {
        self.slot().segments().writable_len()
    }

    /// Tell whether an entry with a name of `name_len` bytes fits at byte `at`.
    ///
    /// To be asked first, because a pushed entry has counted a lookup.
    pub fn fits(&self, at: usize, name_len: usize) -> bool {
        at + size_of::<EntryOut>() + dirent_len(name_len) <= self.slot().segments().writable_len()
    }

    /// Append an entry with attributes at byte `at`; `entry` is `None` for "." and "..", which count no lookup.
    ///
    /// Gives the byte where the next entry goes, or `None` when this one does not fit any more.
    pub fn push(
        &self,
        at: usize,
        entry: Option<&Entry>,
        ino: u64,
        next: u64,
        kind: u8,
        name: &[u8],
    ) -> Option<usize> {
        if !self.fits(at, name.len()) {
            return None;
        }
        let wire = entry.map_or_else(EntryOut::default, Body::to_wire);
        self.slot().segments().write_at(at, wire.as_bytes()).ok()?;
        self.dirent(at + size_of::<EntryOut>(), ino, next, kind, name)
    }

    /// Answer with the first `len` bytes of entries; zero means the end of the directory.
    pub fn ok(self, len: usize) {
        let len = len.min(self.slot().segments().writable_len());
        self.finish(Ok(len));
    }
}
