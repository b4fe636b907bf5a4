//! Signals, taken one at a time by the thread that asks for them.

use core::mem::MaybeUninit;
use core::time::Duration;

use super::{Result, check};

/// Name a request to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// `SIGTERM`: a service manager asks.
    Terminate,
    /// `SIGINT`: a user at a terminal asks.
    Interrupt,
}

/// Hold `SIGTERM` and `SIGINT` back for [`wait`], in this thread and those it starts, and ignore `SIGPIPE`: a peer
/// that is gone is an error of the call that wrote to it.
///
/// # Errors
/// `EINVAL`, which no correct kernel returns.
pub fn hold() -> Result<()> {
    let set = ending();
    // SAFETY: plain calls with a valid set; nothing of this process relies on a SIGPIPE handler.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        check(libc::sigprocmask(
            libc::SIG_BLOCK,
            &set,
            core::ptr::null_mut(),
        ))?;
    }
    Ok(())
}

/// Sleep until a held signal arrives, at most `timeout`; `None` when it passed without one.
pub fn wait(timeout: Duration) -> Option<Signal> {
    let set = ending();
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: timeout.subsec_nanos() as libc::c_long,
    };
    // SAFETY: a valid set and time; no information is asked for.
    match unsafe { libc::sigtimedwait(&set, core::ptr::null_mut(), &timeout) } {
        libc::SIGTERM => Some(Signal::Terminate),
        libc::SIGINT => Some(Signal::Interrupt),
        _ => None,
    }
}

fn ending() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set before anything reads it; both numbers are valid.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        set.assume_init()
    }
}
