//! Binding threads to cores.

use super::{Result, check};

/// Bind the calling thread to one core.
///
/// # Errors
/// `EINVAL` when the machine has no such core or the process may not use it.
pub fn pin(core: usize) -> Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(crate::wire::errno::Errno::EINVAL);
    }
    // SAFETY: all zero is an empty set.
    let mut set: libc::cpu_set_t = unsafe { core::mem::zeroed() };
    // SAFETY: the index was checked.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the kernel reads one set.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) })?;
    Ok(())
}
