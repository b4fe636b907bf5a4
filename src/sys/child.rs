//! Processes of our own that outlive this one.

use super::fd::Fd;
use super::{Result, check, sandbox};
use crate::wire::errno::Errno;

/// Wait in a child until this process ends or drops the descriptor, do `task` there, and end the child.
///
/// The child has everything that this process has now, except its descriptors from 3 on, and takes no part in what
/// happens to it: it holds back no signal handler, is not of its session, and ignores what a terminal or a service
/// manager sends to a whole group.
///
/// # Errors
/// `EBUSY` when the process has more than one thread: a child has only the calling one, and what the others held would
/// stay held. `EAGAIN`, `ENOMEM`, `EMFILE` as fork(2) and pipe(2).
pub fn at_end(task: impl FnOnce()) -> Result<(i32, Fd)> {
    if !sandbox::single_threaded() {
        return Err(Errno::EBUSY);
    }
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two descriptors.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: both are new and ours.
    let (reader, writer) = unsafe { (Fd::from_raw(ends[0]), Fd::from_raw(ends[1])) };
    // SAFETY: this is the only thread, so the child's copy of memory is whole.
    let pid = check(unsafe { libc::fork() })?;
    if pid != 0 {
        return Ok((pid, writer));
    }
    leave(reader.raw());
    // Nothing is ever written: this returns when the last copy of the other end is closed.
    while super::io::read(reader.raw(), &mut [0]) == Err(Errno::EINTR) {}
    task();
    // SAFETY: plain call. What the parent registered to run at its exit is not for the child.
    unsafe { libc::_exit(0) }
}

/// Let go of the parent's descriptors, session and signals; `keep` stays open.
fn leave(keep: i32) {
    let close = |first: i32, last: u32| {
        // SAFETY: plain call. Nothing in the child uses these descriptors: it only runs its task, which has none.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    };
    if keep > 3 {
        close(3, keep as u32 - 1);
    }
    close(keep + 1, u32::MAX);
    // SAFETY: plain calls.
    unsafe {
        libc::setsid();
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::prctl(libc::PR_SET_NAME, c"dpfs-warden".as_ptr(), 0, 0, 0);
    }
}

/// Wait for a child of ours to end.
pub fn wait(pid: i32) {
    // SAFETY: plain call; no status is asked for.
    while unsafe { libc::waitpid(pid, core::ptr::null_mut(), 0) } < 0
        && super::last_error() == Errno::EINTR
    {}
}
