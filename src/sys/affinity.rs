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

/// Hold a set of cores.
#[derive(Clone, Copy)]
pub struct Cores(libc::cpu_set_t);

/// Give the cores that the calling thread may run on.
///
/// # Errors
/// `EINVAL` on a machine of more than 1024 cores.
pub fn allowed() -> Result<Cores> {
    // SAFETY: all zero is an empty set.
    let mut set: libc::cpu_set_t = unsafe { core::mem::zeroed() };
    // SAFETY: the kernel writes one set.
    check(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) })?;
    Ok(Cores(set))
}

/// Let the calling thread run on these cores.
///
/// # Errors
/// `EINVAL` when none of them is left to the process.
pub fn allow(cores: &Cores) -> Result<()> {
    // SAFETY: the kernel reads one set.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &cores.0) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_thread_can_be_let_loose_again() {
        let all = allowed().unwrap();
        // SAFETY: the index is within the set.
        let first = (0..1024).find(|&core| unsafe { libc::CPU_ISSET(core, &all.0) });
        pin(first.unwrap()).unwrap();
        // SAFETY: the set is valid.
        assert_eq!(unsafe { libc::CPU_COUNT(&allowed().unwrap().0) }, 1);
        allow(&all).unwrap();
        // SAFETY: as above.
        let counts = [all, allowed().unwrap()].map(|set| unsafe { libc::CPU_COUNT(&set.0) });
        assert_eq!(counts[0], counts[1]);
    }
}
