//! Content that the server has and has not made durable: kept until it has, and written again when it forgot.
//!
//! ```text
//!  WRITE (UNSTABLE4) answered ──> copied behind all others ──> COMMIT with the same verifier ──> room again
//!                                            └── the server started anew: written again, in order, FILE_SYNC4
//! ```
//!
//! A WRITE gets its room before it is sent, so what was answered is always kept. Writing again in the order of the
//! answers gives the content that the host was told of, as long as nothing newer is under way: it is done before the
//! session is used again. What is cut off by a truncation is not written again. Nothing here talks to anybody. Source:
//! RFC 8881, sections 18.3.4 and 18.32.4.

use zerocopy::FromZeros;

use crate::mem::{Arena, OutOfMemory};
use crate::wire::nfs4::{Handle, Verifier};
use crate::wire::rpc::Credentials;

/// Bytes of content for which there is one record.
const PER_RECORD: usize = 4096;

/// Hold what one WRITE wrote.
#[derive(Clone, Copy, FromZeros)]
pub struct Record {
    /// Node of the file.
    pub node: u64,
    /// File.
    pub handle: Handle,
    /// User and group that wrote.
    owner: [u32; 2],
    /// First byte in the file.
    pub offset: u64,
    /// Bytes that count; fewer than were written after a truncation, none when the record is done with.
    pub len: u32,
    /// Bytes that were written.
    room: u32,
    /// Place of the first among all that were ever kept.
    start: u64,
    /// This life of the server.
    pub verifier: Verifier,
}

impl Record {
    /// Describe what was written: where in the file, how many bytes.
    pub fn new(
        node: u64,
        handle: Handle,
        owner: [u32; 2],
        (offset, len): (u64, u32),
        verifier: Verifier,
    ) -> Self {
        Self {
            node,
            handle,
            owner,
            offset,
            len,
            room: 0,
            start: 0,
            verifier,
        }
    }

    /// Say who wrote.
    pub fn user(&self) -> Credentials {
        Credentials::Sys {
            uid: self.owner[0],
            gid: self.owner[1],
            group: None,
        }
    }
}

/// Keep content, in the order of the answers.
pub struct Uncommitted {
    bytes: &'static mut [u8],
    records: &'static mut [Record],
    /// Numbers of the oldest record and of the next one.
    first: u64,
    next: u64,
    /// Places of the oldest byte and of the next one.
    tail: u64,
    head: u64,
    /// Bytes and records of WRITEs under way.
    reserved: usize,
    writes: usize,
}

impl Uncommitted {
    /// Reserve room for so many bytes; zero keeps nothing.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena has less than [`Self::footprint`].
    pub fn new(arena: &Arena, bytes: usize) -> Result<Self, OutOfMemory> {
        Ok(Self {
            bytes: arena.zeroed(bytes)?,
            records: arena.zeroed(bytes / PER_RECORD)?,
            first: 0,
            next: 0,
            tail: 0,
            head: 0,
            reserved: 0,
            writes: 0,
        })
    }

    /// Give the bytes of arena that it needs.
    pub const fn footprint(bytes: usize) -> usize {
        bytes + bytes / PER_RECORD * size_of::<Record>() + 128
    }

    /// Take room for a WRITE that is about to be sent. False when there is none now.
    pub fn reserve(&mut self, len: usize) -> bool {
        let used = (self.head - self.tail) as usize + self.reserved;
        let records = (self.next - self.first) as usize + self.writes;
        let fits = used + len <= self.bytes.len() && records < self.records.len();
        if fits {
            self.reserved += len;
            self.writes += 1;
        }
        fits
    }

    /// Give the room of a WRITE back.
    pub fn release(&mut self, len: usize) {
        self.reserved -= len;
        self.writes -= 1;
    }

    /// Keep what a WRITE wrote, for which `reserved` bytes were taken; `copy` fills both pieces in order. Tells whether
    /// the server is the one that has all the rest.
    pub fn keep(
        &mut self,
        record: Record,
        reserved: usize,
        copy: impl FnOnce(&mut [u8], &mut [u8]),
    ) -> bool {
        self.release(reserved);
        let len = (record.len as usize).min(reserved);
        let newest = self
            .next
            .checked_sub(1)
            .filter(|newest| *newest >= self.first);
        let same = newest.is_none_or(|newest| self.record(newest).verifier == record.verifier);
        let at = (self.head % self.bytes.len() as u64) as usize;
        let (before, behind) = self.bytes.split_at_mut(at);
        let fits = len.min(behind.len());
        copy(&mut behind[..fits], &mut before[..len - fits]);
        *self.record_mut(self.next) = Record {
            len: len as u32,
            room: len as u32,
            start: self.head,
            ..record
        };
        self.next += 1;
        self.head += len as u64;
        same
    }

    fn record(&self, number: u64) -> &Record {
        &self.records[(number % self.records.len() as u64) as usize]
    }

    fn record_mut(&mut self, number: u64) -> &mut Record {
        let count = self.records.len() as u64;
        &mut self.records[(number % count) as usize]
    }

    /// Give the number of the next record: a COMMIT that is sent now is about those before it.
    pub const fn number(&self) -> u64 {
        self.next
    }

    /// Tell whether something of a file is kept.
    pub fn has(&self, node: u64) -> bool {
        (self.first..self.next).any(|number| {
            let record = self.record(number);
            record.node == node && record.len > 0
        })
    }

    /// Give the first record from a number on that is not done with, and its number.
    pub fn from(&self, number: u64) -> Option<(u64, Record)> {
        (self.first.max(number)..self.next)
            .map(|number| (number, *self.record(number)))
            .find(|(_, record)| record.len > 0)
    }

    /// Tell whether half of the room is used.
    pub fn is_half_full(&self) -> bool {
        let records = (self.next - self.first) as usize;
        (self.head - self.tail) as usize > self.bytes.len() / 2 || records > self.records.len() / 2
    }

    /// A COMMIT of a file was answered: what was kept of it before number `upto` is durable. False when the server
    /// started anew in between: that is kept.
    pub fn committed(&mut self, node: u64, upto: u64, verifier: &Verifier) -> bool {
        let mut same = true;
        for number in self.first..upto.min(self.next) {
            let record = self.record_mut(number);
            if record.node != node || record.len == 0 {
                continue;
            }
            if record.verifier == *verifier {
                record.len = 0;
            } else {
                same = false;
            }
        }
        self.free();
        same
    }

    /// Forget what is kept of a file before number `upto`: it cannot be made durable.
    pub fn forget(&mut self, node: u64, upto: u64) {
        for number in self.first..upto.min(self.next) {
            let record = self.record_mut(number);
            if record.node == node {
                record.len = 0;
            }
        }
        self.free();
    }

    /// A file was cut to this size.
    pub fn cut(&mut self, node: u64, size: u64) {
        for number in self.first..self.next {
            let record = self.record_mut(number);
            if record.node == node {
                let left = size.saturating_sub(record.offset);
                record.len = record.len.min(u32::try_from(left).unwrap_or(u32::MAX));
            }
        }
        self.free();
    }

    /// A record was written again.
    pub fn done(&mut self, number: u64) {
        if (self.first..self.next).contains(&number) {
            self.record_mut(number).len = 0;
            self.free();
        }
    }

    /// Forget everything that is kept.
    pub fn clear(&mut self) {
        (self.first, self.tail) = (self.next, self.head);
    }

    /// Copy kept bytes of a record, from byte `skip` of it on.
    pub fn copy(&self, record: &Record, skip: usize, into: &mut [u8]) {
        let cap = self.bytes.len() as u64;
        for (at, byte) in (record.start + skip as u64..).zip(into) {
            *byte = self.bytes[(at % cap) as usize];
        }
    }

    fn free(&mut self) {
        while self.first < self.next && self.record(self.first).len == 0 {
            let record = self.record(self.first);
            self.tail = record.start + u64::from(record.room);
            self.first += 1;
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::sys::map;
    use std::vec::Vec;

    const ONE: Verifier = [1; 8];
    const TWO: Verifier = [2; 8];

    fn uncommitted(bytes: usize) -> Uncommitted {
        let arena = map::reserve(Uncommitted::footprint(bytes)).unwrap();
        Uncommitted::new(&arena, bytes).unwrap()
    }

    fn write(
        kept: &mut Uncommitted,
        node: u64,
        offset: u64,
        data: &[u8],
        verifier: Verifier,
    ) -> bool {
        assert!(kept.reserve(data.len()));
        let place = (offset, data.len() as u32);
        let record = Record::new(node, Handle::EMPTY, [0, 0], place, verifier);
        kept.keep(record, data.len(), |first, second| {
            first.copy_from_slice(&data[..first.len()]);
            second.copy_from_slice(&data[first.len()..]);
        })
    }

    fn content(kept: &Uncommitted) -> Vec<(u64, u64, Vec<u8>)> {
        let mut all = Vec::new();
        let mut number = 0;
        while let Some((at, record)) = kept.from(number) {
            let mut data = std::vec![0; record.len as usize];
            kept.copy(&record, 0, &mut data);
            all.push((record.node, record.offset, data));
            number = at + 1;
        }
        all
    }

    #[test]
    fn content_stays_whole_around_the_end_and_room_is_never_given_twice() {
        let mut kept = uncommitted(64 << 10);
        for round in 0..200u64 {
            let data: Vec<u8> = (0..10_007)
                .map(|at| (at as u64 * 7 + round) as u8)
                .collect();
            while !kept.reserve(data.len()) {
                let (number, _) = kept.from(0).unwrap();
                kept.done(number);
            }
            kept.release(data.len());
            assert!(write(&mut kept, round, round, &data, ONE));
            let all = content(&kept);
            assert_eq!(all.last().unwrap().2, data);
            for (node, _, data) in all {
                assert!(
                    data.iter()
                        .enumerate()
                        .all(|(at, byte)| *byte == (at as u64 * 7 + node) as u8)
                );
            }
        }
        assert!(kept.is_half_full());
        kept.clear();
        assert!(kept.from(0).is_none() && kept.reserve(64 << 10) && !kept.reserve(1));
    }

    #[test]
    fn a_commit_frees_what_was_answered_before_it_by_the_same_server() {
        let mut kept = uncommitted(64 << 10);
        write(&mut kept, 7, 0, b"old", ONE);
        write(&mut kept, 8, 0, b"other", ONE);
        let upto = kept.number();
        write(&mut kept, 7, 3, b"new", ONE);
        assert!(kept.committed(7, upto, &ONE));
        assert_eq!(
            content(&kept),
            [(8, 0, b"other".to_vec()), (7, 3, b"new".to_vec())]
        );
        assert!(kept.has(7) && kept.has(8));
        // The next answers are another server's.
        assert!(!write(&mut kept, 9, 0, b"x", TWO));
        assert!(!kept.committed(7, kept.number(), &TWO));
        assert!(kept.has(7));
        assert!(kept.committed(9, kept.number(), &TWO));
        kept.forget(8, kept.number());
        assert_eq!(content(&kept), [(7, 3, b"new".to_vec())]);
    }

    #[test]
    fn what_is_cut_off_is_not_written_again() {
        let mut kept = uncommitted(64 << 10);
        write(&mut kept, 7, 0, b"0123", ONE);
        write(&mut kept, 7, 4, b"4567", ONE);
        write(&mut kept, 7, 8, b"89", ONE);
        kept.cut(7, 6);
        assert_eq!(
            content(&kept),
            [(7, 0, b"0123".to_vec()), (7, 4, b"45".to_vec())]
        );
        kept.cut(7, 0);
        assert!(!kept.has(7));
    }

    #[test]
    fn records_run_out_as_bytes_do() {
        let mut kept = uncommitted(16 << 10);
        for at in 0..4 {
            assert!(write(&mut kept, 1, at, b"x", ONE));
        }
        assert!(!kept.reserve(1));
    }
}
