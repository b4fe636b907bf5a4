//! Limits of a tenant's requests and bytes per second.
//!
//! A limit is kept as one point in time (a virtual schedule, the other form of a token bucket): each request moves the
//! point into the future by what it costs at the allowed rate, and the device is ready while the point is not further
//! ahead than the burst. So a device's cores share one word for each limit and no lock, and a tenant without limits
//! pays nothing.
//!
//! A request is charged when it ends, when it is known what it moved, and whole. So a device that was idle may have as
//! many requests in flight as its queues are deep before the first is charged; then it waits until all of them are paid
//! off. Over any longer time the average is the limit. Nothing that was taken is ever put back or held.

use core::sync::atomic::{AtomicU64, Ordering};

use super::worker::Admission;
use crate::mem::Finished;
use crate::sys::time::Instant;
use crate::wire::fuse::{InHeader, Opcode, OutHeader, WriteIn};

/// What a device may use at once after it was idle: its rates for this many nanoseconds.
///
/// A tenth of a second hides a guest's own batches (a flush of dirty pages) from its tenant and is too short for its
/// neighbours to notice.
pub const BURST: u64 = 100_000_000;

/// Points in time are in sixteenths of a nanosecond, so that a 512-byte request at 100 GiB/s still has a cost; the
/// monotonic clock fits for 36 years.
const SHIFT: u32 = 4;

/// Bound one quantity per second.
#[derive(Debug)]
struct Bucket {
    /// When everything charged so far will have been paid off at the allowed rate.
    paid_at: AtomicU64,
    /// Units per second; never zero.
    rate: u64,
}

impl Bucket {
    const fn new(rate: u64) -> Self {
        Self {
            paid_at: AtomicU64::new(0),
            rate: if rate == 0 { 1 } else { rate },
        }
    }

    /// Give the earliest time at which the device is ready.
    fn ready_at(&self) -> u64 {
        (self.paid_at.load(Ordering::Relaxed) >> SHIFT).saturating_sub(BURST)
    }

    fn charge(&self, now: Instant, units: u64) {
        let cost = (u128::from(units) * (1_000_000_000 << SHIFT)).div_ceil(u128::from(self.rate));
        let cost = u64::try_from(cost).unwrap_or(u64::MAX >> 1);
        let now = now.0 << SHIFT;
        // Another core may charge at the same time; neither charge may be lost.
        let _ = self
            .paid_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid_at| {
                Some(paid_at.max(now).saturating_add(cost))
            });
    }
}

/// Keep a device to its limits. Shared by the device's cores.
#[derive(Debug, Default)]
pub struct Limiter {
    requests: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl Limiter {
    /// Limit requests per second and bytes per second; `None` is unlimited.
    pub fn new(iops: Option<u64>, bandwidth: Option<u64>) -> Self {
        Self {
            requests: iops.map(Bucket::new),
            bytes: bandwidth.map(Bucket::new),
        }
    }

    /// Tell whether there is any limit.
    pub const fn is_limited(&self) -> bool {
        self.requests.is_some() || self.bytes.is_some()
    }

    /// Tell whether the device may take a request now.
    #[inline]
    pub fn ready(&self, now: Instant) -> bool {
        !self.is_limited() || self.ready_at() <= now
    }

    /// Give the earliest time at which the device may take a request; it may lie in the past.
    pub fn ready_at(&self) -> Instant {
        let ready_at = |bucket: &Option<Bucket>| bucket.as_ref().map_or(0, Bucket::ready_at);
        Instant(ready_at(&self.requests).max(ready_at(&self.bytes)))
    }

    /// Charge one request with its bytes of data.
    #[inline]
    pub fn charge(&self, now: Instant, bytes: u64) {
        if let Some(bucket) = &self.requests {
            bucket.charge(now, 1);
        }
        if let Some(bucket) = &self.bytes {
            bucket.charge(now, bytes);
        }
    }
}

/// Hold one core to a device's limits.
#[derive(Debug)]
pub struct Gate {
    limiter: &'static Limiter,
    /// The round's time, which is close enough for what ends in it.
    now: Instant,
}

impl Gate {
    /// Make the gate of a core.
    pub const fn new(limiter: &'static Limiter) -> Self {
        Self {
            limiter,
            now: Instant(0),
        }
    }
}

impl Admission for Gate {
    fn open(&mut self, now: Instant) -> bool {
        self.now = now;
        self.limiter.ready(now)
    }

    fn charge(&mut self, finished: &Finished) {
        self.limiter.charge(self.now, data_bytes(finished));
    }

    fn opens_at(&self) -> Instant {
        self.limiter.ready_at()
    }
}

/// Count the bytes of data that a request moved: those of files and directories, without headers and names.
fn data_bytes(finished: &Finished) -> u64 {
    let (bytes, headers) = match Opcode::new(finished.header.opcode) {
        Some(Opcode::WRITE) if finished.error == 0 => (
            finished.header.len,
            size_of::<InHeader>() + size_of::<WriteIn>(),
        ),
        Some(Opcode::READ | Opcode::READDIR | Opcode::READDIRPLUS) => {
            (finished.written, size_of::<OutHeader>())
        }
        _ => return 0,
    };
    u64::from(bytes).saturating_sub(headers as u64)
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::mem::Token;

    #[test]
    fn a_gate_charges_data_not_headers() {
        let ended = |opcode: Opcode, len, written| Finished {
            token: Token(0),
            header: InHeader {
                opcode: opcode as u32,
                len,
                ..InHeader::default()
            },
            written,
            error: 0,
            started: 0,
        };
        assert_eq!(data_bytes(&ended(Opcode::WRITE, 4096 + 80, 24)), 4096);
        assert_eq!(data_bytes(&ended(Opcode::READ, 80, 4096 + 16)), 4096);
        assert_eq!(data_bytes(&ended(Opcode::READ, 80, 0)), 0);
        assert_eq!(data_bytes(&ended(Opcode::LOOKUP, 60, 144)), 0);
        let limiter = std::boxed::Box::leak(Limiter::new(None, Some(40_960)).into());
        let mut gate = Gate::new(limiter);
        let now = Instant(SECOND);
        assert!(gate.open(now));
        gate.charge(&ended(Opcode::READ, 80, 8192 + 16));
        assert!(!gate.open(now));
        assert_eq!(gate.opens_at(), now.after(SECOND / 5 - BURST));
    }

    const SECOND: u64 = 1_000_000_000;

    /// Take requests of `bytes` as fast as allowed until `end`; give how many.
    fn run(limiter: &Limiter, start: u64, end: u64, bytes: u64) -> u64 {
        let mut now = Instant(start);
        let mut taken = 0;
        loop {
            while limiter.ready(now) {
                limiter.charge(now, bytes);
                taken += 1;
            }
            let next = limiter.ready_at();
            assert!(next > now, "not ready, so ready later");
            if next.0 >= end {
                return taken;
            }
            now = next;
        }
    }

    #[test]
    fn the_rate_holds_over_time_with_one_burst() {
        let limiter = Limiter::new(Some(1000), None);
        // A hundred of burst, the one that makes it not ready, and a thousand a second.
        let taken = run(&limiter, 5 * SECOND, 15 * SECOND, 0);
        assert!((10_100..=10_101).contains(&taken), "{taken}");
    }

    #[test]
    fn idle_time_saves_up_no_more_than_the_burst() {
        let limiter = Limiter::new(Some(1000), None);
        run(&limiter, SECOND, 2 * SECOND, 0);
        let now = Instant(3600 * SECOND);
        let mut burst = 0;
        while limiter.ready(now) {
            limiter.charge(now, 0);
            burst += 1;
        }
        assert_eq!(burst, 101);
    }

    #[test]
    fn bytes_are_limited_whatever_their_pieces() {
        for piece in [512, 4096, 1 << 20] {
            let rate = 64 << 20;
            let limiter = Limiter::new(None, Some(rate));
            let bytes = piece * run(&limiter, SECOND, 11 * SECOND, piece);
            let fair = rate * 10 + rate / 10;
            assert!(bytes <= fair + piece, "{piece}: {bytes} of {fair}");
            assert!(bytes >= fair - rate / 100, "{piece}: {bytes} of {fair}");
        }
    }

    #[test]
    fn a_request_larger_than_the_burst_passes_and_is_paid_off() {
        let limiter = Limiter::new(None, Some(4096));
        let now = Instant(SECOND);
        assert!(limiter.ready(now));
        limiter.charge(now, 40_960);
        assert!(!limiter.ready(now.after(9 * SECOND)));
        assert_eq!(limiter.ready_at(), now.after(10 * SECOND - BURST));
    }

    #[test]
    fn the_tighter_limit_decides() {
        let limiter = Limiter::new(Some(10), Some(1 << 40));
        assert_eq!(run(&limiter, SECOND, 2 * SECOND, 4096), 11);
        let limiter = Limiter::new(Some(1_000_000), Some(40_960));
        assert_eq!(run(&limiter, SECOND, 2 * SECOND, 4096), 11);
    }

    #[test]
    fn no_limit_is_always_ready() {
        let limiter = Limiter::default();
        limiter.charge(Instant(0), u64::MAX);
        assert!(limiter.ready(Instant(0)));
        assert_eq!(limiter.ready_at(), Instant(0));
    }

    #[test]
    fn absurd_charges_do_not_overflow() {
        let limiter = Limiter::new(Some(1), Some(1));
        for _ in 0..4 {
            limiter.charge(Instant(u64::MAX >> SHIFT), u64::MAX);
        }
        assert!(!limiter.ready(Instant(SECOND)));
    }

    #[test]
    fn cores_charging_together_lose_nothing() {
        let limiter = Limiter::new(Some(1000), None);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..500).for_each(|_| limiter.charge(Instant(SECOND), 0)));
            }
        });
        assert_eq!(
            limiter.ready_at(),
            Instant(SECOND).after(2 * SECOND - BURST)
        );
    }
}
