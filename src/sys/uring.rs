//! io_uring: system calls that are queued in memory, submitted together and reaped without a call.
//!
//! A [`Ring`] belongs to one thread. Each of its slots holds at most one operation, and owns what the operation needs
//! until it is reaped: the caller's value, the names, the room for attributes. So nothing that the kernel still reads
//! or writes can go away under it, and there is nothing to allocate.

extern crate std;

use core::cell::UnsafeCell;
use core::ffi::CStr;

use io_uring::{IoUring, Probe, opcode, types};
use std::boxed::Box;

use super::Result;
use super::stat::Statx;
use crate::mem::Segment;
use crate::wire::errno::Errno;

/// Be what waits for an operation: it keeps alive what the operation works on.
pub trait Pending {
    /// Give the memory that is read into or written from. It must be the same, at the same place, while `self` lives.
    fn segments(&self) -> &[Segment];
}

/// Name an operation, to ask whether the kernel has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// fallocate(2), since Linux 5.6.
    Fallocate,
    /// statx(2), since Linux 5.6.
    Statx,
    /// unlinkat(2), since Linux 5.11.
    Unlink,
    /// renameat2(2), since Linux 5.11.
    Rename,
}

const OPERATIONS: [(Operation, u8); 4] = [
    (Operation::Fallocate, opcode::Fallocate::CODE),
    (Operation::Statx, opcode::Statx::CODE),
    (Operation::Unlink, opcode::UnlinkAt::CODE),
    (Operation::Rename, opcode::RenameAt::CODE),
];

/// Bytes of a name and its NUL.
const NAME: usize = 256;
/// Most slots: the kernel's limit of a submission ring.
const MAX_SLOTS: u32 = 32_768;

/// Room that a slot lends to the kernel beside the caller's memory.
#[derive(zerocopy::FromZeros)]
#[repr(C)]
struct Room {
    names: [[u8; NAME]; 2],
    /// A [`Statx`], in plain words so that zero bits are known to be valid.
    stat: [u64; size_of::<Statx>() / 8],
}

const _: () = assert!(size_of::<Statx>().is_multiple_of(8) && align_of::<Statx>() <= 8);

/// Queue operations and reap their results.
pub struct Ring<P: Pending> {
    ring: IoUring,
    /// What waits; an entry is touched only when its operation is queued and when it is reaped.
    slots: Box<[Option<P>]>,
    rooms: &'static [UnsafeCell<Room>],
    in_flight: u32,
    supported: [bool; OPERATIONS.len()],
    polled_by_kernel: bool,
}

/// Say what an operation ended with: the value that waited, and the result of the system call.
pub struct Reaped<P> {
    /// Slot of the operation.
    pub slot: u32,
    /// What waited.
    pub pending: P,
    /// Result; a count of bytes where there is one.
    pub result: Result<usize>,
}

/// Say how a read or write is done beyond its place.
#[derive(Clone, Copy, Default)]
pub struct How {
    /// Bytes of the segments that were done before.
    pub skip: usize,
    /// `RWF_*`.
    pub flags: i32,
    /// Credentials from [`Ring::register_credentials`], zero for the thread's own.
    pub credentials: u16,
}

impl<P: Pending> Ring<P> {
    /// Make a ring on the thread that will use it. With `poll_idle` a kernel thread takes submissions, without any
    /// call, until it was idle for so many milliseconds.
    ///
    /// # Errors
    /// `ENOSYS` or `EPERM` where io_uring is not allowed, `EINVAL` for more than 32,768 slots or a kernel before 5.6,
    /// `ENOMEM`.
    pub fn new(slots: u32, poll_idle: Option<u32>) -> Result<Self> {
        if slots > MAX_SLOTS {
            return Err(Errno::EINVAL);
        }
        let entries = slots.max(8).next_power_of_two();
        let ring = build(entries, poll_idle)?;
        let features = ring.params();
        // Vectors of segments are read when they are submitted, and no result is lost when many come at once.
        if !features.is_feature_submit_stable() || !features.is_feature_nodrop() {
            return Err(Errno::EINVAL);
        }
        let mut probe = Probe::new();
        let probed = ring.submitter().register_probe(&mut probe).is_ok();
        let rooms = super::map::reserve((slots as usize + 1) * size_of::<Room>())?;
        Ok(Self {
            slots: (0..slots).map(|_| None).collect(),
            rooms: rooms.zeroed(slots as usize).map_err(|_| Errno::ENOMEM)?,
            in_flight: 0,
            supported: OPERATIONS.map(|(_, code)| probed && probe.is_supported(code)),
            polled_by_kernel: poll_idle.is_some(),
            ring,
        })
    }

    /// Tell whether the kernel has an operation.
    pub fn supports(&self, operation: Operation) -> bool {
        OPERATIONS
            .iter()
            .zip(self.supported)
            .any(|((known, _), supported)| *known == operation && supported)
    }

    /// Keep the calling thread's present credentials under a number, for [`How::credentials`].
    ///
    /// # Errors
    /// As IORING_REGISTER_PERSONALITY.
    pub fn register_credentials(&self) -> Result<u16> {
        self.ring.submitter().register_personality().map_err(errno)
    }

    /// Give the descriptor that is readable while results wait.
    pub fn raw(&self) -> i32 {
        use std::os::fd::AsRawFd;
        self.ring.as_raw_fd()
    }

    /// Give the number of operations that are queued or under way.
    pub const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Put `pending` in its slot and queue what `entry` makes of it.
    fn push(
        &mut self,
        slot: u32,
        pending: P,
        entry: impl FnOnce(&P, *mut Room) -> io_uring::squeue::Entry,
    ) -> core::result::Result<(), P> {
        let Some(place) = self.slots.get_mut(slot as usize) else {
            return Err(pending);
        };
        if place.is_some() {
            return Err(pending);
        }
        let room = self.rooms[slot as usize].get();
        let entry = entry(place.insert(pending), room).user_data(u64::from(slot));
        loop {
            // SAFETY: the slot owns what the entry points to (`pending`, its room) until the operation is reaped:
            // nothing else takes it out, and `drop` waits for the kernel.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            match pushed {
                Ok(()) => break,
                // One entry for each slot: only a polling kernel thread can be behind.
                Err(_) => self.enter(),
            }
        }
        self.in_flight += 1;
        Ok(())
    }

    /// Queue a read at `offset` into the segments.
    ///
    /// # Errors
    /// Hands `pending` back when the slot is taken or there is none.
    #[inline]
    pub fn read(
        &mut self,
        slot: u32,
        fd: i32,
        offset: u64,
        how: How,
        pending: P,
    ) -> core::result::Result<(), P> {
        self.push(slot, pending, |pending, _| {
            let fd = types::Fd(fd);
            let entry = match part(pending.segments(), how.skip) {
                Part::One(base, len) => opcode::Read::new(fd, base, len)
                    .offset(offset)
                    .rw_flags(how.flags)
                    .build(),
                Part::Many(segments) => {
                    opcode::Readv::new(fd, segments.as_ptr().cast(), segments.len() as u32)
                        .offset(offset)
                        .rw_flags(how.flags)
                        .build()
                }
            };
            entry.personality(how.credentials)
        })
    }

    /// Queue a write of the segments at `offset`.
    ///
    /// # Errors
    /// As [`Self::read`].
    #[inline]
    pub fn write(
        &mut self,
        slot: u32,
        fd: i32,
        offset: u64,
        how: How,
        pending: P,
    ) -> core::result::Result<(), P> {
        self.push(slot, pending, |pending, _| {
            let fd = types::Fd(fd);
            let entry = match part(pending.segments(), how.skip) {
                Part::One(base, len) => opcode::Write::new(fd, base, len)
                    .offset(offset)
                    .rw_flags(how.flags)
                    .build(),
                Part::Many(segments) => {
                    opcode::Writev::new(fd, segments.as_ptr().cast(), segments.len() as u32)
                        .offset(offset)
                        .rw_flags(how.flags)
                        .build()
                }
            };
            entry.personality(how.credentials)
        })
    }

    /// Queue an fsync or fdatasync.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn sync(
        &mut self,
        slot: u32,
        fd: i32,
        datasync: bool,
        pending: P,
    ) -> core::result::Result<(), P> {
        let flags = if datasync {
            types::FsyncFlags::DATASYNC
        } else {
            types::FsyncFlags::empty()
        };
        self.push(slot, pending, |_, _| {
            opcode::Fsync::new(types::Fd(fd)).flags(flags).build()
        })
    }

    /// Queue a fallocate.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn fallocate(
        &mut self,
        slot: u32,
        fd: i32,
        mode: i32,
        (offset, length): (u64, u64),
        pending: P,
    ) -> core::result::Result<(), P> {
        self.push(slot, pending, |_, _| {
            opcode::Fallocate::new(types::Fd(fd), length)
                .offset(offset)
                .mode(mode)
                .build()
        })
    }

    /// Queue a statx of a descriptor; [`Self::stat`] gives the attributes once it is reaped.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn statx(
        &mut self,
        slot: u32,
        fd: i32,
        mask: u32,
        sync: i32,
        pending: P,
    ) -> core::result::Result<(), P> {
        self.push(slot, pending, |_, room| {
            // SAFETY: the room is valid; only its address is taken.
            let stat = unsafe { &raw mut (*room).stat };
            opcode::Statx::new(types::Fd(fd), c"".as_ptr(), stat.cast())
                .flags(libc::AT_EMPTY_PATH | sync)
                .mask(mask)
                .build()
        })
    }

    /// Give the attributes that a slot's last [`Self::statx`] filled in. To be called after that was reaped.
    pub fn stat(&self, slot: u32) -> Statx {
        // SAFETY: a free slot's room is the kernel's no more, and belongs to this thread; a busy one's is not read.
        // Any bits are a valid `Statx`: it is made of integers.
        unsafe {
            match self.slots.get(slot as usize) {
                Some(None) => (&raw const (*self.rooms[slot as usize].get()).stat)
                    .cast::<Statx>()
                    .read(),
                _ => core::mem::zeroed(),
            }
        }
    }

    /// Queue the removal of a name; `flags` as in unlinkat(2).
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn unlink(
        &mut self,
        slot: u32,
        dir: i32,
        name: &CStr,
        flags: i32,
        pending: P,
    ) -> core::result::Result<(), P> {
        self.push(slot, pending, |_, room| {
            // SAFETY: the slot was free, so its room is this thread's alone until the entry is submitted.
            let name = copy_name(unsafe { &mut (*room).names[0] }, name);
            opcode::UnlinkAt::new(types::Fd(dir), name)
                .flags(flags)
                .build()
        })
    }

    /// Queue a rename; `flags` are `RENAME_*`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn rename(
        &mut self,
        slot: u32,
        old: (i32, &CStr),
        new: (i32, &CStr),
        flags: u32,
        pending: P,
    ) -> core::result::Result<(), P> {
        self.push(slot, pending, |_, room| {
            // SAFETY: as for `unlink`.
            let [from, to] = unsafe { &mut (*room).names };
            let (from, to) = (copy_name(from, old.1), copy_name(to, new.1));
            opcode::RenameAt::new(types::Fd(old.0), from, types::Fd(new.0), to)
                .flags(flags)
                .build()
        })
    }

    /// Hand what is queued to the kernel, with one call; none when there is nothing to hand over or to collect.
    ///
    /// What the kernel cannot take now stays queued for the next call.
    #[inline]
    pub fn enter(&mut self) {
        const GETEVENTS: u32 = 1;
        let (queued, collect) = {
            let queue = self.ring.submission();
            (queue.len(), queue.taskrun() || queue.cq_overflow())
        };
        if self.polled_by_kernel {
            if queued > 0 || collect {
                let _ = self.ring.submit();
            }
        } else if queued > 0 || collect {
            let flags = if collect { GETEVENTS } else { 0 };
            // SAFETY: what the entries point to is kept by their slots; there is no argument.
            let _ = unsafe {
                self.ring
                    .submitter()
                    .enter::<libc::sigset_t>(queued as u32, 0, flags, None)
            };
        }
    }

    /// Tell whether nothing is queued that [`Self::enter`] would submit.
    pub fn is_empty(&mut self) -> bool {
        self.ring.submission().is_empty()
    }

    /// Tell whether [`Self::enter`] or [`Self::reap`] would do anything.
    pub fn has_work(&mut self) -> bool {
        if !self.ring.completion().is_empty() {
            return true;
        }
        let queue = self.ring.submission();
        (!queue.is_empty() && !self.polled_by_kernel) || queue.taskrun() || queue.cq_overflow()
    }

    /// Take the oldest result, without a call.
    #[inline]
    pub fn reap(&mut self) -> Option<Reaped<P>> {
        loop {
            let entry = self.ring.completion().next()?;
            let slot = entry.user_data() as u32;
            let Some(pending) = self.slots.get_mut(slot as usize).and_then(Option::take) else {
                continue;
            };
            self.in_flight -= 1;
            let result =
                usize::try_from(entry.result()).map_err(|_| Errno::from_os(-entry.result()));
            return Some(Reaped {
                slot,
                pending,
                result,
            });
        }
    }
}

impl<P: Pending> Drop for Ring<P> {
    /// Wait for what is under way: the kernel works on memory that the slots keep.
    fn drop(&mut self) {
        while self.in_flight > 0 {
            while self.reap().is_some() {}
            if self.in_flight > 0 && self.ring.submit_and_wait(1).is_err() {
                std::thread::yield_now();
            }
        }
    }
}

/// Make the ring with the newest flags that the kernel takes.
fn build(entries: u32, poll_idle: Option<u32>) -> Result<IoUring> {
    let builder = || {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_cqsize(entries * 2);
        builder
    };
    if let Some(idle) = poll_idle {
        return builder().setup_sqpoll(idle).build(entries).map_err(errno);
    }
    // 5.19: no interrupts of this thread, and a flag that says when a call is worth it. Not DEFER_TASKRUN (6.1): its
    // results would not wake a thread that sleeps in epoll on the ring's descriptor.
    let mut newest = builder();
    newest.setup_coop_taskrun().setup_taskrun_flag();
    if let Ok(ring) = newest.build(entries) {
        return Ok(ring);
    }
    builder().build(entries).map_err(errno)
}

pub(super) fn errno(error: std::io::Error) -> Errno {
    Errno::from_os(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Hold the segments that are left after some bytes, or the rest of the first of them: a system call takes either
/// without a copy of the list.
enum Part<'a> {
    One(*mut u8, u32),
    Many(&'a [Segment]),
}

#[inline]
fn part(segments: &[Segment], mut skip: usize) -> Part<'_> {
    let mut left = segments;
    while let Some((first, rest)) = left.split_first() {
        if skip >= first.len() {
            skip -= first.len();
            left = rest;
        } else if skip > 0 || rest.is_empty() {
            let len = (first.len() - skip).min(i32::MAX as usize);
            return Part::One(first.base().wrapping_add(skip), len as u32);
        } else {
            break;
        }
    }
    Part::Many(left)
}

/// Copy a name, cut to what fits: names were checked to be shorter.
fn copy_name(room: &mut [u8; NAME], name: &CStr) -> *const libc::c_char {
    let bytes = name.to_bytes();
    let len = bytes.len().min(NAME - 1);
    room[..len].copy_from_slice(&bytes[..len]);
    room[len] = 0;
    room.as_ptr().cast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    struct Buffer(Vec<Segment>);

    impl Pending for Buffer {
        fn segments(&self) -> &[Segment] {
            &self.0
        }
    }

    /// Lend leaked memory in pieces.
    fn buffer(bytes: &[u8], pieces: usize) -> (Buffer, *mut u8) {
        let memory = bytes.to_vec().leak();
        let base = memory.as_mut_ptr();
        let len = bytes.len() / pieces;
        let segments = (0..pieces)
            // SAFETY: leaked, disjoint and inside.
            .map(|at| unsafe { Segment::new(base.add(at * len), len) })
            .collect();
        (Buffer(segments), base)
    }

    fn wait(ring: &mut Ring<Buffer>) -> Reaped<Buffer> {
        loop {
            ring.enter();
            if let Some(reaped) = ring.reap() {
                return reaped;
            }
        }
    }

    /// Not every kernel has rings, and qemu-user has none.
    fn ring(slots: u32) -> Option<Ring<Buffer>> {
        let ring = Ring::new(slots, None);
        if let Err(error) = &ring {
            std::println!("not run: io_uring: {error:?}");
        }
        ring.ok()
    }

    #[test]
    fn what_was_written_is_read_and_a_rest_is_continued() {
        let Some(mut ring) = ring(4) else { return };
        let file =
            super::super::file::openat(libc::AT_FDCWD, c"/tmp", libc::O_RDWR | libc::O_TMPFILE);
        let Ok(file) = file else {
            std::println!("not run: no O_TMPFILE in /tmp");
            return;
        };
        let content: Vec<u8> = (0..4096u32).map(|n| n as u8).collect();
        let (written, _) = buffer(&content, 4);
        assert!(
            ring.write(0, file.raw(), 0, How::default(), written)
                .is_ok()
        );
        assert_eq!(wait(&mut ring).result, Ok(4096));
        for skip in [0, 100, 1024, 3000] {
            let (read, base) = buffer(&[0; 4096], 4);
            let how = How {
                skip,
                ..How::default()
            };
            assert!(ring.read(1, file.raw(), skip as u64, how, read).is_ok());
            let got = wait(&mut ring).result.unwrap();
            // A rest inside a segment goes as far as that segment.
            let expected = match skip % 1024 {
                0 => 4096 - skip,
                within => 1024 - within,
            };
            assert_eq!(got, expected);
            // SAFETY: leaked memory of 4096 bytes that the kernel is done with.
            let bytes = unsafe { core::slice::from_raw_parts(base.add(skip), got) };
            assert_eq!(bytes, &content[skip..skip + got]);
        }
        assert_eq!(ring.in_flight(), 0);
    }

    #[test]
    fn a_taken_slot_hands_its_value_back() {
        let Some(mut ring) = ring(2) else { return };
        let how = How::default();
        assert!(ring.read(0, -1, 0, how, buffer(&[0; 8], 1).0).is_ok());
        assert!(ring.read(0, -1, 0, how, buffer(&[0; 8], 1).0).is_err());
        assert!(ring.read(2, -1, 0, how, buffer(&[0; 8], 1).0).is_err());
        assert_eq!(wait(&mut ring).result, Err(Errno::EBADF));
    }
}
