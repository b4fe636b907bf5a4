//! A stack for libsnap to poll on, so that its handler can stand still.
//!
//! Stock libsnap wants a request ended when its handler returns. The core cannot wait there: it has other queues, and the
//! backend that works on the request is polled by the same thread. So libsnap runs on a stack of its own and the handler
//! switches back to the core's, with the request; it goes on when the request is completed. Both stacks are of the same
//! thread, nothing runs side by side, and a switch costs a few nanoseconds.
//!
//! ```text
//! core:   resume ──────────> ...other queues, backend... ──> complete ──> resume ─────────>
//! fiber:     libsnap polls > handler: suspend(request)            handler returns > libsnap sends > polls > suspend(idle)
//! ```

use core::ptr::NonNull;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::queue::{Poll, Request};

/// Bytes of the stack: libsnap's own needs are some KiB, printf's a few more.
const STACK: usize = 256 << 10;

/// What made libsnap stop.
enum Step {
    /// It polled everything.
    Idle,
    /// Its handler waits for the end of this request.
    Request(Request),
}

/// What the fiber is given when it goes on.
enum Order {
    /// Poll this.
    Poll(Poll),
    /// The request that was handed over ended: well, or not.
    Ended(bool),
}

/// Where the handler finds its way back to the core.
#[derive(Clone, Copy)]
pub(super) struct Way(NonNull<Yielder<Order, Step>>);

impl Way {
    /// Hand a request over and stand still until it ended; tell how.
    ///
    /// # Safety
    /// Called on the stack of the fiber that this is the way back of.
    pub(super) unsafe fn hand_over(self, request: Request) -> bool {
        // SAFETY: the fiber is running, so its yielder is there.
        match unsafe { self.0.as_ref() }.suspend(Step::Request(request)) {
            Order::Ended(well) => well,
            // Only an idle fiber is told to poll.
            Order::Poll(_) => false,
        }
    }
}

/// Run libsnap's polling on a stack of its own.
pub(super) struct Fiber {
    coroutine: Coroutine<Order, Step, (), DefaultStack>,
    /// The handler stands still.
    waiting: bool,
    /// It was begun, so there is something on its stack.
    begun: bool,
}

impl Fiber {
    /// Reserve the stack. `note` is called on it once, with the way back.
    ///
    /// # Errors
    /// The system has no memory for it.
    pub(super) fn new(note: impl FnOnce(Way) + 'static) -> std::io::Result<Self> {
        let stack = DefaultStack::new(STACK)?;
        let body = move |yielder: &Yielder<Order, Step>, mut order: Order| {
            note(Way(NonNull::from(yielder)));
            loop {
                if let Order::Poll(poll) = order {
                    poll.run();
                }
                order = yielder.suspend(Step::Idle);
            }
        };
        Ok(Self {
            coroutine: Coroutine::with_stack(stack, body),
            waiting: false,
            begun: false,
        })
    }

    /// Tell whether a request was handed over that has not ended.
    pub(super) const fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// Let libsnap poll; give the request that its handler waits for now, if there is one.
    pub(super) fn poll(&mut self, poll: Poll) -> Option<Request> {
        debug_assert!(!self.waiting);
        self.resume(Order::Poll(poll))
    }

    /// Let the handler return, and libsnap go on with what it was doing; give the next request that it waits for.
    pub(super) fn ended(&mut self, well: bool) -> Option<Request> {
        debug_assert!(self.waiting);
        self.resume(Order::Ended(well))
    }

    fn resume(&mut self, order: Order) -> Option<Request> {
        self.begun = true;
        match self.coroutine.resume(order) {
            CoroutineResult::Yield(Step::Request(request)) => {
                self.waiting = true;
                Some(request)
            }
            CoroutineResult::Yield(Step::Idle) | CoroutineResult::Return(()) => {
                self.waiting = false;
                None
            }
        }
    }
}

impl Drop for Fiber {
    fn drop(&mut self) {
        // SAFETY: an idle fiber has nothing on its stack that wants to be dropped, and libsnap is not on it. One that
        // waits is only dropped when its process ends: libsnap then never returns from its handler.
        unsafe {
            if self.begun {
                self.coroutine.force_reset();
            }
        }
    }
}
