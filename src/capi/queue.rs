//! `struct dpfs_queue`: a transport of the caller's as a queue of the core.

use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use dpfs::hal::{Queue, Traits};
use dpfs::mem::{MAX_SEGMENTS, Segment, SegmentList, Token};

/// `DPFS_SEGMENTS`.
const SEGMENTS: usize = 272;
const _: () = assert!(SEGMENTS == MAX_SEGMENTS);

/// Longest segment, so that no sum of lengths overflows.
const SEGMENT_MAX: usize = u32::MAX as usize;

/// `struct dpfs_request`.
#[repr(C)]
pub struct Request {
    token: u64,
    segments: *mut libc::iovec,
    readable: u16,
    writable: u16,
}

const _: () = assert!(size_of::<Request>() == 24);

/// `struct dpfs_queue`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Calls {
    context: *mut c_void,
    poll: Option<unsafe extern "C" fn(*mut c_void, *mut Request) -> c_int>,
    complete: Option<unsafe extern "C" fn(*mut c_void, u64, u32)>,
    flush: Option<unsafe extern "C" fn(*mut c_void)>,
}

const _: () = assert!(size_of::<Calls>() == 32);

/// Hold a transport's functions, and room for the segments of the request that it hands up.
pub struct CallerQueue {
    context: *mut c_void,
    poll: unsafe extern "C" fn(*mut c_void, *mut Request) -> c_int,
    complete: unsafe extern "C" fn(*mut c_void, u64, u32),
    flush: Option<unsafe extern "C" fn(*mut c_void)>,
    segments: [libc::iovec; SEGMENTS],
    refused: &'static AtomicU64,
}

impl CallerQueue {
    /// Check that the functions are there that must be.
    pub fn new(calls: &Calls, refused: &'static AtomicU64) -> Option<Self> {
        Some(Self {
            context: calls.context,
            poll: calls.poll?,
            complete: calls.complete?,
            flush: calls.flush,
            segments: [libc::iovec {
                iov_base: ptr::null_mut(),
                iov_len: 0,
            }; SEGMENTS],
            refused,
        })
    }

    /// Put the segments that were handed up into the list; `None` when they break the rules.
    fn take(&self, request: &Request, into: &mut SegmentList) -> Option<()> {
        let readable = usize::from(request.readable);
        let all = self
            .segments
            .get(..readable + usize::from(request.writable))?;
        for (index, segment) in all.iter().enumerate() {
            let empty = segment.iov_len == 0;
            if segment.iov_len > SEGMENT_MAX || (segment.iov_base.is_null() && !empty) {
                return None;
            }
            // SAFETY: the transport keeps the bytes mapped until the request is completed, says `dpfs.h`.
            let segment = unsafe { Segment::new(segment.iov_base.cast(), segment.iov_len) };
            let pushed = if index < readable {
                into.push_readable(segment)
            } else {
                into.push_writable(segment)
            };
            pushed.ok()?;
        }
        Some(())
    }
}

impl Queue for CallerQueue {
    fn traits(&self) -> Traits {
        Traits {
            deferred: true,
            sends_all: false,
            host_memory: true,
        }
    }

    fn poll(&mut self, into: &mut SegmentList) -> Option<Token> {
        loop {
            let mut request = Request {
                token: 0,
                segments: self.segments.as_mut_ptr(),
                readable: 0,
                writable: 0,
            };
            // SAFETY: the caller's function and context; the room for segments is as large as `dpfs.h` says.
            if unsafe { (self.poll)(self.context, &mut request) } == 0 {
                return None;
            }
            if self.take(&request, into).is_some() {
                return Some(Token(request.token));
            }
            into.clear();
            self.refused.fetch_add(1, Ordering::Relaxed);
            self.complete(Token(request.token), 0);
        }
    }

    fn complete(&mut self, token: Token, written: u32) {
        // SAFETY: the caller's function and context.
        unsafe { (self.complete)(self.context, token.0, written) };
    }

    fn flush(&mut self) {
        if let Some(flush) = self.flush {
            // SAFETY: the caller's function and context.
            unsafe { flush(self.context) };
        }
    }

    /// The caller waits by itself, if it waits at all.
    fn arm(&mut self) -> bool {
        true
    }

    fn disarm(&mut self) {}

    fn wait_fd(&self) -> Option<i32> {
        None
    }
}
