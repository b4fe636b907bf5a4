//! One poll group of a function, on one core.

use core::cell::{Cell, RefCell};
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use std::boxed::Box;
use std::collections::VecDeque;
use std::sync::Arc;
use std::vec::Vec;

use libc::iovec;

use super::fiber::{Fiber, Way};
use super::function::Function;
use super::{ffi, manager::SnapError};
use crate::hal::{Queue, Traits};
use crate::mem::{Segment, SegmentList, Token, TooMany};
use crate::wire::errno::Errno;

/// A request as libsnap hands it over. Everything it points to stays until it is ended.
#[derive(Clone, Copy)]
pub(super) struct Request {
    readable: *const iovec,
    readable_count: usize,
    writable: *const iovec,
    writable_count: usize,
    done: *mut ffi::dpfs_snap_done,
}

impl Request {
    fn segments(list: *const iovec, count: usize) -> impl Iterator<Item = (*mut u8, usize)> {
        (0..count).map(move |index| {
            // SAFETY: libsnap's list has `count` entries until the request is ended.
            let iovec { iov_base, iov_len } = unsafe { list.add(index).read() };
            (iov_base.cast(), iov_len)
        })
    }

    /// Put the segments into a list, those that follow each other in memory as one: libsnap cuts a buffer into the
    /// host's pages.
    fn fill(&self, into: &mut SegmentList) -> Result<(), TooMany> {
        let joined = |list, count, push: &mut dyn FnMut(Segment) -> Result<(), TooMany>| {
            let mut last: Option<(*mut u8, usize)> = None;
            for (base, len) in Self::segments(list, count) {
                match &mut last {
                    _ if len == 0 => {}
                    Some((start, so_far)) if start.wrapping_add(*so_far) == base => *so_far += len,
                    _ => {
                        if let Some((base, len)) = last.replace((base, len)) {
                            // SAFETY: memory of libsnap's, which it leaves to the request until that is ended.
                            push(unsafe { Segment::new(base, len) })?;
                        }
                    }
                }
            }
            match last {
                // SAFETY: as above.
                Some((base, len)) => push(unsafe { Segment::new(base, len) }),
                None => Ok(()),
            }
        };
        joined(self.readable, self.readable_count, &mut |s| {
            into.push_readable(s)
        })?;
        joined(self.writable, self.writable_count, &mut |s| {
            into.push_writable(s)
        })
    }

    /// Zero what the host gets, from byte `written` of it on.
    fn zero_from(&self, written: usize) {
        let mut skip = written;
        for (base, len) in Self::segments(self.writable, self.writable_count) {
            if skip < len {
                // SAFETY: as in `fill`.
                unsafe { base.add(skip).write_bytes(0, len - skip) };
            }
            skip = skip.saturating_sub(len);
        }
    }
}

/// What to poll: a controller and the group.
#[derive(Clone, Copy)]
pub(super) struct Poll {
    function: *mut ffi::dpfs_snap_function,
    group: u32,
}

impl Poll {
    pub(super) fn run(self) {
        // SAFETY: open as long as the group says that it is held, and only this core polls the group.
        unsafe { ffi::dpfs_snap_poll(self.function, self.group) };
    }
}

/// Where the handler puts requests.
struct Intake {
    /// With a fiber: the way back to the core.
    way: Cell<Option<Way>>,
    /// Without: requests that were not polled yet.
    waiting: RefCell<VecDeque<Request>>,
}

impl Intake {
    fn accept(&self, request: Request) -> bool {
        if let Some(way) = self.way.get() {
            // SAFETY: with a fiber, libsnap only runs on it.
            return unsafe { way.hand_over(request) };
        }
        let mut waiting = self.waiting.borrow_mut();
        // As many as libsnap can have under way fit in.
        if waiting.len() == waiting.capacity() {
            return false;
        }
        waiting.push_back(request);
        true
    }
}

std::thread_local! {
    /// The intake of the group that this thread polls at the moment.
    static CURRENT: Cell<*const Intake> = const { Cell::new(ptr::null()) };
}

/// Take a request from libsnap.
pub(super) unsafe extern "C" fn request(
    _function: *mut c_void,
    readable: *const iovec,
    readable_count: usize,
    writable: *const iovec,
    writable_count: usize,
    done: *mut ffi::dpfs_snap_done,
) -> bool {
    let request = Request {
        readable,
        readable_count,
        writable,
        writable_count,
        done,
    };
    // SAFETY: set before libsnap is entered or gone on with, to the intake of the queue that does so and outlives it.
    match unsafe { CURRENT.get().as_ref() } {
        Some(intake) => intake.accept(request),
        // Nobody polls, so libsnap does not call.
        None => false,
    }
}

/// How requests end.
enum Ending {
    /// In their handler.
    Now(Box<Fiber>),
    /// Whenever they do.
    Later,
}

/// Serve one poll group of a function: all its virtqueues that libsnap put there.
pub struct SnapQueue {
    function: Arc<Function>,
    group: u32,
    /// The controller that is polled, while it is held.
    held: *mut ffi::dpfs_snap_function,
    intake: Box<Intake>,
    ending: Ending,
    /// Requests that were taken, by token.
    taken: Box<[Option<Request>]>,
    free: Vec<u16>,
    /// How the request ended that the fiber waits for.
    ended: Option<bool>,
    /// A request that came when the last one ended.
    next: Option<Request>,
}

// SAFETY: the fiber is first entered on the core's thread and stays there, as the thread-local shows: a queue is moved
// to its core before it is polled. What the pointers lead to is libsnap's, of no thread.
unsafe impl Send for SnapQueue {}

impl SnapQueue {
    pub(super) fn new(function: Arc<Function>, group: u32) -> Result<Self, SnapError> {
        let config = function.config();
        let queues = usize::from(config.request_queues) + 1;
        let room = queues * usize::from(config.depth);
        let later = super::completes_later();
        let intake = Box::new(Intake {
            way: Cell::new(None),
            waiting: RefCell::new(VecDeque::with_capacity(if later { room } else { 0 })),
        });
        let room = if later { room } else { 1 };
        let ending = if later {
            Ending::Later
        } else {
            let place = &raw const *intake;
            // SAFETY: the intake lives as long as the fiber, in the same queue, and does not move.
            let fiber = Fiber::new(move |way| unsafe { (*place).way.set(Some(way)) });
            let failed = |_| SnapError::Controller("a stack for libsnap".into(), Errno::ENOMEM);
            Ending::Now(Box::new(fiber.map_err(failed)?))
        };
        Ok(Self {
            function,
            group,
            held: ptr::null_mut(),
            intake,
            ending,
            taken: (0..room).map(|_| None).collect(),
            free: (0..room as u16).rev().collect(),
            ended: None,
            next: None,
        })
    }

    fn is_idle(&self) -> bool {
        self.free.len() == self.taken.len()
            && self.next.is_none()
            && match &self.ending {
                Ending::Now(fiber) => !fiber.is_waiting(),
                Ending::Later => self.intake.waiting.borrow().is_empty(),
            }
    }

    /// Take up another controller than the one that is held, or none: between two requests.
    fn follow(&mut self) {
        let holds = self.function.holds();
        if holds.live.load(Ordering::Relaxed) == self.held || !self.is_idle() {
            return;
        }
        self.held = holds.hold(self.group);
    }

    fn what(&self) -> Poll {
        Poll {
            function: self.held,
            group: self.group,
        }
    }

    /// Get the next request from libsnap.
    fn fetch(&mut self) -> Option<Request> {
        if let Some(next) = self.next.take() {
            return Some(next);
        }
        self.follow();
        if self.held.is_null() {
            return None;
        }
        let what = self.what();
        match &mut self.ending {
            Ending::Now(fiber) if fiber.is_waiting() => None,
            Ending::Now(fiber) => {
                CURRENT.set(&raw const *self.intake);
                fiber.poll(what)
            }
            Ending::Later => {
                let waiting = self.intake.waiting.borrow_mut().pop_front();
                waiting.or_else(|| {
                    CURRENT.set(&raw const *self.intake);
                    what.run();
                    self.intake.waiting.borrow_mut().pop_front()
                })
            }
        }
    }

    fn end(&mut self, request: &Request, well: bool) {
        match &self.ending {
            Ending::Now(_) => self.ended = Some(well),
            // SAFETY: of a request that has not been ended: it was in its place until now.
            Ending::Later => unsafe { ffi::dpfs_snap_complete(request.done, well) },
        }
    }

    /// Let the handler return whose request ended. The next request may come of it.
    fn go_on(&mut self) {
        if let (Ending::Now(fiber), Some(well)) = (&mut self.ending, self.ended.take()) {
            CURRENT.set(&raw const *self.intake);
            self.next = fiber.ended(well);
        }
    }
}

impl Queue for SnapQueue {
    fn traits(&self) -> Traits {
        Traits {
            deferred: matches!(self.ending, Ending::Later),
            sends_all: true,
            host_memory: false,
        }
    }

    fn poll(&mut self, into: &mut SegmentList) -> Option<Token> {
        loop {
            let request = self.fetch()?;
            let free = self.free.pop();
            if let Some(place) = free
                && request.fill(into).is_ok()
            {
                self.taken[usize::from(place)] = Some(request);
                return Some(Token(u64::from(place)));
            }
            // More segments than a request may have, in spite of what was joined.
            self.free.extend(free);
            into.clear();
            self.end(&request, false);
            self.go_on();
        }
    }

    fn complete(&mut self, token: Token, written: u32) {
        let place = token.0 as usize;
        let Some(request) = self.taken.get_mut(place).and_then(Option::take) else {
            return;
        };
        self.free.push(place as u16);
        request.zero_from(written as usize);
        self.end(&request, true);
    }

    fn flush(&mut self) {
        self.go_on();
    }

    /// libsnap can only be polled; but a function that is not there needs no polling.
    fn arm(&mut self) -> bool {
        self.follow();
        self.held.is_null()
    }

    fn disarm(&mut self) {}

    fn wait_fd(&self) -> Option<i32> {
        None
    }
}

impl Drop for SnapQueue {
    fn drop(&mut self) {
        if self.is_idle() {
            self.function.holds().let_go(self.group);
        }
    }
}

/// Hold which controller each core polls, so that management knows when it may be closed.
pub(super) struct Holds {
    live: AtomicPtr<ffi::dpfs_snap_function>,
    groups: Box<[AtomicPtr<ffi::dpfs_snap_function>]>,
}

impl Holds {
    pub(super) fn new(groups: u32) -> Self {
        let none = || AtomicPtr::new(ptr::null_mut());
        Self {
            live: none(),
            groups: (0..groups).map(|_| none()).collect(),
        }
    }

    /// Let go of what a group holds and take up what is live; give that.
    fn hold(&self, group: u32) -> *mut ffi::dpfs_snap_function {
        let held = &self.groups[group as usize];
        // Said before it is looked whether it is still so: management withdraws first, and then looks who holds.
        loop {
            let live = self.live.load(Ordering::SeqCst);
            held.store(live, Ordering::SeqCst);
            if self.live.load(Ordering::SeqCst) == live {
                return live;
            }
        }
    }

    fn let_go(&self, group: u32) {
        self.groups[group as usize].store(ptr::null_mut(), Ordering::SeqCst);
    }

    /// Give cores a controller to poll.
    pub(super) fn publish(&self, function: *mut ffi::dpfs_snap_function) {
        self.live.store(function, Ordering::SeqCst);
    }

    /// Tell whether no core holds a controller, now that none is published.
    pub(super) fn are_free(&self) -> bool {
        let free =
            |held: &AtomicPtr<ffi::dpfs_snap_function>| held.load(Ordering::SeqCst).is_null();
        self.groups.iter().all(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    /// Make a request over pieces of `memory`, each with its offset and length.
    fn request(
        memory: &mut [u8],
        readable: &[(usize, usize)],
        writable: &[(usize, usize)],
    ) -> Request {
        let base = memory.as_mut_ptr();
        let list = |pieces: &[(usize, usize)]| -> &'static [iovec] {
            let piece = |&(at, iov_len): &(usize, usize)| iovec {
                iov_base: base.wrapping_add(at).cast(),
                iov_len,
            };
            pieces.iter().map(piece).collect::<Vec<_>>().leak()
        };
        let (readable, writable) = (list(readable), list(writable));
        Request {
            readable: readable.as_ptr(),
            readable_count: readable.len(),
            writable: writable.as_ptr(),
            writable_count: writable.len(),
            done: ptr::null_mut(),
        }
    }

    #[test]
    fn what_lies_together_is_one_segment_and_both_sides_stay_apart() {
        let mut memory = [0; 64];
        let request = request(
            &mut memory,
            &[(48, 8), (0, 4), (4, 4), (8, 4)],
            &[(12, 4), (32, 2), (16, 0), (34, 6)],
        );
        let mut list = SegmentList::new_zeroed();
        request.fill(&mut list).unwrap();
        let lengths = |segments: &[Segment]| segments.iter().map(Segment::len).collect::<Vec<_>>();
        assert_eq!(lengths(list.readable()), [8, 12]);
        assert_eq!(lengths(list.writable()), [4, 8]);
    }

    #[test]
    fn a_request_in_too_many_places_is_refused() {
        let mut memory = [0; 2 * 300];
        let pieces: Vec<_> = (0..300).map(|index| (index * 2, 1)).collect();
        let apart = request(&mut memory, &pieces, &[]);
        assert!(apart.fill(&mut SegmentList::new_zeroed()).is_err());
        let pieces: Vec<_> = (0..300).map(|index| (index, 1)).collect();
        let together = request(&mut memory, &pieces, &[]);
        assert!(together.fill(&mut SegmentList::new_zeroed()).is_ok());
    }

    #[test]
    fn what_was_not_filled_is_zeroed_from_any_byte_on() {
        for written in 0..=12 {
            let mut memory = [9; 16];
            request(&mut memory, &[(12, 4)], &[(0, 5), (5, 1), (6, 6)]).zero_from(written);
            let expected = |at: usize| if at < written || at >= 12 { 9 } else { 0 };
            assert_eq!(memory, core::array::from_fn(expected), "{written}");
        }
    }

    #[test]
    fn a_controller_is_free_when_every_core_let_go_of_it() {
        let holds = Holds::new(2);
        let controller = ptr::dangling_mut();
        holds.publish(controller);
        assert_eq!((holds.hold(0), holds.hold(1)), (controller, controller));
        holds.publish(ptr::null_mut());
        assert!(!holds.are_free());
        assert!(holds.hold(0).is_null());
        assert!(!holds.are_free());
        assert!(holds.hold(1).is_null());
        assert!(holds.are_free());
    }
}
