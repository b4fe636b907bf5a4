//! One clone of the device, polled by one core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::vec::Vec;

use zerocopy::{FromZeros, KnownLayout};

use crate::hal::{Events, Queue, Traits};
use crate::log::{info, warn};
use crate::mem::{Segment, SegmentList, Token};
use crate::sys;
use crate::sys::epoll::Epoll;
use crate::sys::fd::Fd;
use crate::sys::{io, map};
use crate::wire::errno::Errno;
use crate::wire::fuse::{IN_HEADER_LEN, OUT_HEADER_LEN, WriteIn};

/// A page; buffers are made of them.
#[derive(FromZeros, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

const PAGE: usize = 4096;

/// Bytes in front of a WRITE's data, which begins on a page.
const REQUEST_HEAD: usize = IN_HEADER_LEN + size_of::<WriteIn>();

/// Least room for what follows the head: an extended attribute of 64 KiB, whatever the largest WRITE is.
const LEAST_ROOM: usize = 64 << 10;

/// What the queues of a device share.
pub(super) struct Shared {
    ended: AtomicBool,
    events: &'static dyn Events,
}

impl Shared {
    pub(super) fn new(events: &'static dyn Events) -> Arc<Self> {
        let ended = AtomicBool::new(false);
        Arc::new(Self { ended, events })
    }

    /// Tell the session once that its host is gone.
    fn end(&self, why: Errno) {
        if !self.ended.swap(true, Ordering::AcqRel) {
            match why {
                Errno::ENODEV => info!("/dev/fuse: unmounted"),
                Errno::ECONNABORTED => warn!("/dev/fuse: the connection was aborted"),
                other => warn!("/dev/fuse: read: {}", other),
            }
            self.events.reset();
        }
    }
}

/// Take requests from one clone of `/dev/fuse`.
///
/// Its buffers are reserved once, for ever, and use only the pages that requests touched.
pub struct FuseQueue {
    device: Fd,
    /// Watches the device, by edges: a core that cannot take a request now may sleep although one is there.
    wait: Epoll,
    shared: Arc<Shared>,
    ended: bool,
    /// First slot.
    slots: *mut u8,
    /// Bytes of one of a slot's two buffers.
    half: usize,
    /// Slots without a request, the last used on top, since its pages are warm.
    free: Vec<u16>,
}

// SAFETY: `slots` is memory that this queue alone uses; moving the queue moves that use.
unsafe impl Send for FuseQueue {}

/// Give the bytes of one buffer: a page in front for the head, one behind for what is longer than data (names, the
/// value and the name of an extended attribute).
const fn half(max_write: u32) -> usize {
    let room = max_write as usize;
    let room = if room < LEAST_ROOM { LEAST_ROOM } else { room };
    2 * PAGE + room.next_multiple_of(PAGE)
}

impl FuseQueue {
    /// Give the bytes that the buffers of `depth` requests take when all of them are touched.
    pub const fn footprint(depth: u16, max_write: u32) -> usize {
        2 * half(max_write) * depth as usize
    }

    /// Reserve the buffers of `depth` requests for a device that is mounted.
    pub(super) fn new(
        device: Fd,
        shared: Arc<Shared>,
        depth: u16,
        max_write: u32,
    ) -> sys::Result<Self> {
        let wait = Epoll::new()?;
        wait.add_edge(device.raw(), 0)?;
        let half = half(max_write);
        let bytes = Self::footprint(depth, max_write);
        let arena = map::reserve(bytes + PAGE)?;
        let pages = arena.zeroed::<Page>(bytes / PAGE);
        let pages = pages.map_err(|_| Errno::ENOMEM)?;
        Ok(Self {
            device,
            wait,
            shared,
            ended: false,
            slots: pages.as_mut_ptr().cast(),
            half,
            free: (0..depth).rev().collect(),
        })
    }

    /// Give the buffer of a slot that begins `head` bytes before a page: the slot's first for requests, its second for
    /// replies.
    fn buffer(&self, slot: u16, second: bool, head: usize) -> Segment {
        let at = (2 * usize::from(slot) + usize::from(second)) * self.half + PAGE - head;
        // SAFETY: `at` lies in the buffer, because a head is shorter than a page. The memory is never unmapped, and
        // only the holder of the slot's request uses it until `complete`.
        unsafe { Segment::new(self.slots.add(at), self.half - PAGE + head) }
    }

    /// Stop watching a device that is gone.
    fn end(&mut self, why: Errno) {
        self.ended = true;
        // It would report its end for ever. That fails only for one that is not watched.
        let _ = self.wait.remove(self.device.raw());
        self.shared.end(why);
    }
}

impl Queue for FuseQueue {
    fn traits(&self) -> Traits {
        Traits {
            deferred: true,
            sends_all: false,
            host_memory: false,
        }
    }

    fn poll(&mut self, into: &mut SegmentList) -> Option<Token> {
        if self.ended {
            return None;
        }
        let slot = *self.free.last()?;
        let buffer = self.buffer(slot, false, REQUEST_HEAD);
        let len = loop {
            match io::readv(self.device.raw(), &[buffer]) {
                Ok(len) => break len,
                Err(Errno::EAGAIN) => return None,
                // A signal here, or a signal to the caller, who took the request back before it was read.
                Err(Errno::EINTR | Errno::ENOENT) => {}
                Err(error) => {
                    self.end(error);
                    return None;
                }
            }
        };
        // SAFETY: the kernel filled the first `len` bytes of the buffer; for the rest see `buffer`.
        let request = unsafe { Segment::new(buffer.base(), len) };
        let reply = self.buffer(slot, true, OUT_HEADER_LEN);
        into.push_readable(request).ok()?;
        into.push_writable(reply).ok()?;
        self.free.pop();
        Some(Token(u64::from(slot)))
    }

    fn complete(&mut self, token: Token, written: u32) {
        let slot = token.0 as u16;
        if written > 0 && !self.ended {
            let buffer = self.buffer(slot, true, OUT_HEADER_LEN);
            // SAFETY: a reply fits its buffer; for the rest see `buffer`.
            let reply = unsafe { Segment::new(buffer.base(), buffer.len().min(written as usize)) };
            match io::writev(self.device.raw(), &[reply]) {
                // ENOENT: nobody waits for it any more. An end shows when the next request is read.
                Ok(_) | Err(Errno::ENOENT | Errno::ENODEV | Errno::ECONNABORTED | Errno::EPERM) => {
                }
                Err(error) => warn!("/dev/fuse: a reply of {} bytes: {}", written, error),
            }
        }
        self.free.push(slot);
    }

    fn flush(&mut self) {}

    fn arm(&mut self) -> bool {
        // Every request since the last call left one edge, even one that was taken meanwhile: the core looks again.
        !matches!(self.wait.wait(0, |_| {}), Ok(1..))
    }

    fn disarm(&mut self) {}

    fn wait_fd(&self) -> Option<i32> {
        Some(self.wait.raw())
    }
}
