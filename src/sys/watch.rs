//! Learning from memory that a descriptor is readable: one poll (io_uring) that stays armed, whose results are in a ring.
//!
//! Who asks a socket again and again while nothing has come pays a system call each time. A [`Watch`] pays none: the
//! kernel interrupts the thread when something comes and leaves a result. Each thing that comes leaves one, also when
//! what came before it was not read, but none comes for what is left unread: who stops early has to remember.
//!
//! Its ring can do nothing else, whatever is asked of it (IORING_REGISTER_RESTRICTIONS): so it can be made before a
//! sandbox is entered in which no ring can be made, and kept there.

use super::Result;
use crate::wire::errno::Errno;

#[cfg(feature = "uring")]
pub use ring::Watch;

/// There is none: this build has no io_uring.
#[cfg(not(feature = "uring"))]
pub enum Watch {}

#[cfg(not(feature = "uring"))]
impl Watch {
    /// Make none.
    ///
    /// # Errors
    /// `ENOSYS`.
    pub fn new() -> Result<Self> {
        Err(Errno::ENOSYS)
    }

    /// Tell whether something may have come.
    ///
    /// # Errors
    /// None.
    pub fn come(&mut self, _: i32) -> Result<bool> {
        match *self {}
    }
}

#[cfg(feature = "uring")]
mod ring {
    use super::super::uring::errno;
    use super::{Errno, Result};

    use io_uring::register::Restriction;
    use io_uring::{IoUring, cqueue, opcode, types};

    /// Requests at a time; twice as many results wait at most. More end the poll, and it is armed again.
    const ENTRIES: u32 = 8;

    /// `IORING_ENTER_GETEVENTS`.
    const GETEVENTS: u32 = 1;

    /// Hold a ring that polls one descriptor.
    pub struct Watch {
        ring: IoUring,
        armed: bool,
    }

    impl Watch {
        /// Make the ring. What it is for comes later, by [`Self::come`].
        ///
        /// # Errors
        /// `ENOSYS` or `EPERM` where io_uring is not allowed; `EINVAL` before Linux 5.13; `ENOMEM`, `EMFILE`.
        pub fn new() -> Result<Self> {
            let mut builder = IoUring::builder();
            builder.dontfork().setup_r_disabled();
            let ring = builder.build(ENTRIES).map_err(errno)?;
            // As old as polls that stay armed.
            if !ring.params().is_feature_resource_tagging() {
                return Err(Errno::EINVAL);
            }
            let submitter = ring.submitter();
            submitter
                .register_restrictions(&mut [Restriction::sqe_op(opcode::PollAdd::CODE)])
                .and_then(|()| submitter.register_enable_rings())
                .map_err(errno)?;
            Ok(Self { ring, armed: false })
        }

        /// Tell whether something may have come to `fd`, always the same, since the last call. The first call arms the
        /// poll, and the thread that makes it is the one that is interrupted.
        ///
        /// # Errors
        /// The ring's, after which it is of no use.
        #[inline]
        pub fn come(&mut self, fd: i32) -> Result<bool> {
            let mut come = false;
            while self.reap()? {
                come = true;
                if !self.ring.submission().cq_overflow() {
                    break;
                }
                // What found no room, the end of the poll among it, is kept by the kernel.
                // SAFETY: nothing is submitted, and there is no argument.
                unsafe {
                    self.ring
                        .submitter()
                        .enter::<libc::sigset_t>(0, 0, GETEVENTS, None)
                }
                .map_err(errno)?;
            }
            if !self.armed {
                self.arm(fd)?;
                come = true;
            }
            Ok(come)
        }

        /// Take the results that are there; tells whether there were any.
        #[inline]
        fn reap(&mut self) -> Result<bool> {
            let mut any = false;
            for result in self.ring.completion() {
                any = true;
                if result.result() < 0 {
                    return Err(Errno::from_os(-result.result()));
                }
                self.armed &= cqueue::more(result.flags());
            }
            Ok(any)
        }

        #[cold]
        fn arm(&mut self, fd: i32) -> Result<()> {
            let poll = opcode::PollAdd::new(types::Fd(fd), libc::POLLIN as u32)
                .multi(true)
                .build();
            // SAFETY: the entry points to no memory.
            let pushed = unsafe { self.ring.submission().push(&poll) };
            // Each is submitted at once, so there is room.
            pushed.map_err(|_| Errno::EBUSY)?;
            self.ring.submit().map_err(errno)?;
            self.armed = true;
            Ok(())
        }
    }
}

#[cfg(all(test, feature = "uring"))]
mod tests {
    use super::*;
    use crate::sys::epoll::Epoll;
    use crate::sys::eventfd::EventFd;

    /// Ask until something has come, or for a second.
    fn comes(watch: &mut Watch, fd: i32) -> bool {
        let begun = std::time::Instant::now();
        while begun.elapsed().as_secs() < 1 {
            if watch.come(fd).unwrap() {
                return true;
            }
        }
        false
    }

    #[test]
    fn each_thing_that_comes_is_told_once_read_or_not() {
        let Ok(mut watch) = Watch::new() else {
            std::println!("not run: no io_uring, or none since Linux 5.13");
            return;
        };
        let (set, one, other) = (
            Epoll::new().unwrap(),
            EventFd::new().unwrap(),
            EventFd::new().unwrap(),
        );
        set.add(one.raw(), 0).unwrap();
        assert!(
            watch.come(set.raw()).unwrap(),
            "what came before it was armed"
        );
        assert!(!watch.come(set.raw()).unwrap());
        // A descriptor that joins the set later counts, too.
        set.add(other.raw(), 1).unwrap();
        for _ in 0..100 {
            one.notify();
            assert!(comes(&mut watch, set.raw()));
            other.notify();
            assert!(comes(&mut watch, set.raw()), "with the first unread");
            one.clear();
            other.clear();
            assert!(!watch.come(set.raw()).unwrap());
        }
        // More than the ring holds, with nobody looking: the poll ends and is armed again.
        for _ in 0..1000 {
            one.notify();
        }
        assert!(comes(&mut watch, set.raw()));
        while watch.come(set.raw()).unwrap() {}
        one.clear();
        one.notify();
        assert!(comes(&mut watch, set.raw()));
    }

    #[test]
    fn what_is_watched_may_go_away() {
        let Ok(mut watch) = Watch::new() else { return };
        let set = Epoll::new().unwrap();
        for _ in 0..10 {
            let event = EventFd::new().unwrap();
            set.add(event.raw(), 0).unwrap();
            event.notify();
            assert!(comes(&mut watch, set.raw()));
        }
    }
}
