//! Clocks: nanoseconds for waiting, cycles for measuring.

/// Hold a point of the monotonic clock, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// Read the clock. The core loop does this once a round and passes the value down.
    pub fn now() -> Self {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the kernel fills the structure; this clock always exists.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
        Self(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    /// Add nanoseconds, without overflow.
    pub const fn after(self, nanoseconds: u64) -> Self {
        Self(self.0.saturating_add(nanoseconds))
    }

    /// Give the nanoseconds since an earlier point; zero when it is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Read the time of day: seconds since 1970-01-01 UTC, and nanoseconds of the second.
pub fn wall() -> (i64, u32) {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills the structure; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut time) };
    (time.tv_sec, time.tv_nsec as u32)
}

/// Read the core's cycle counter: one instruction, constant rate, not ordered with the instructions around it.
#[inline]
pub fn cycles() -> u64 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: every x86_64 processor has the counter.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    {
        let count: u64;
        // SAFETY: Linux lets user space read the virtual counter.
        unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack)) };
        count
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    Instant::now().0
}

/// Measure the rate of [`cycles`] against the clock for `nanoseconds`, in cycles per second.
pub fn cycle_rate(nanoseconds: u64) -> u64 {
    let (clock, count) = (Instant::now(), cycles());
    loop {
        let elapsed = Instant::now().since(clock);
        if elapsed >= nanoseconds.max(1) {
            let passed = cycles().wrapping_sub(count);
            return (u128::from(passed) * 1_000_000_000 / u128::from(elapsed)) as u64;
        }
        core::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_lies_between_a_megahertz_and_ten_gigahertz() {
        let rate = cycle_rate(2_000_000);
        assert!((1_000_000..10_000_000_000).contains(&rate), "{rate}");
    }
}
