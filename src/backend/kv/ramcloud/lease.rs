//! Which number a change has, and until when changes may be sent.

use crate::sys::time::Instant;
use crate::wire::ramcloud::{Lease, Once, WINDOW};

/// Nanoseconds before its end when a lease is renewed, and when no change is sent by it any more.
const RENEW: u64 = 15 * 60 * 1_000_000_000;
const STOP: u64 = 60 * 1_000_000_000;

const WORD: u64 = 64;

/// Hold a client's lease, and the numbers of its changes that are under way.
pub struct Lessee {
    lease: Lease,
    /// When the lease ends, at the earliest.
    ends: Instant,
    /// The next number, and the lowest that is under way.
    next: u64,
    oldest: u64,
    /// Which of those between are done, by number modulo [`WINDOW`].
    done: [u64; (WINDOW / WORD) as usize],
}

impl Lessee {
    pub const fn new() -> Self {
        Self {
            lease: Lease {
                id: 0,
                expiration: 0,
                timestamp: 0,
            },
            ends: Instant(0),
            next: 1,
            oldest: 1,
            done: [0; (WINDOW / WORD) as usize],
        }
    }

    /// Give the lease's name; zero without one.
    pub const fn id(&self) -> u64 {
        self.lease.id
    }

    /// Say when a lease is to be asked for.
    pub const fn renewal(&self) -> Instant {
        Instant(self.ends.0.saturating_sub(RENEW))
    }

    /// Take a lease that was asked for then.
    pub fn gave(&mut self, lease: Lease, asked: Instant) {
        self.ends = asked.after(lease.expiration.saturating_sub(lease.timestamp));
        self.lease = lease;
    }

    /// Forget the lease: it is over. A new one has a new name.
    pub const fn expired(&mut self) {
        self.lease.id = 0;
        self.ends = Instant(0);
    }

    /// Number a change. Nothing without a lease that lasts, or when too many are under way.
    pub fn number(&mut self, now: Instant) -> Option<Once> {
        let lasts = self.lease.id != 0 && now.after(STOP) < self.ends;
        if !lasts || self.next - self.oldest >= WINDOW {
            return None;
        }
        let rpc = self.next;
        self.next += 1;
        Some(Once {
            lease: self.lease,
            rpc,
            ack: self.oldest - 1,
        })
    }

    fn bit(number: u64) -> (usize, u64) {
        let place = number % WINDOW;
        ((place / WORD) as usize, 1 << (place % WORD))
    }

    /// Note that a change is answered, or given up: its result is not asked for again.
    pub fn ended(&mut self, number: u64) {
        if !(self.oldest..self.next).contains(&number) {
            return;
        }
        let (word, bit) = Self::bit(number);
        self.done[word] |= bit;
        while self.oldest < self.next {
            let (word, bit) = Self::bit(self.oldest);
            if self.done[word] & bit == 0 {
                return;
            }
            self.done[word] &= !bit;
            self.oldest += 1;
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOW: Instant = Instant(5 * SECOND);

    fn given(seconds: u64) -> Lessee {
        let mut lessee = Lessee::new();
        let lease = Lease {
            id: 3,
            expiration: (100 + seconds) * SECOND,
            timestamp: 100 * SECOND,
        };
        lessee.gave(lease, NOW);
        lessee
    }

    #[test]
    fn a_number_is_acknowledged_when_all_before_it_have_ended() {
        let mut lessee = given(1800);
        let number = |lessee: &mut Lessee| {
            let once = lessee.number(NOW)?;
            Some((once.rpc, once.ack))
        };
        assert_eq!(number(&mut lessee), Some((1, 0)));
        assert_eq!(number(&mut lessee), Some((2, 0)));
        lessee.ended(2);
        assert_eq!(number(&mut lessee), Some((3, 0)));
        lessee.ended(1);
        lessee.ended(1);
        lessee.ended(77);
        assert_eq!(number(&mut lessee), Some((4, 2)));
    }

    #[test]
    fn the_window_is_never_exceeded_and_goes_round() {
        let mut lessee = given(1800);
        for round in 0..5 {
            for place in 1..=WINDOW {
                assert_eq!(lessee.number(NOW).unwrap().rpc, round * WINDOW + place);
            }
            assert_eq!(lessee.number(NOW), None);
            for place in (1..=WINDOW).rev() {
                lessee.ended(round * WINDOW + place);
            }
        }
    }

    #[test]
    fn nothing_is_numbered_in_the_last_minute() {
        let mut lessee = given(1800);
        assert_eq!(lessee.renewal(), NOW.after(900 * SECOND));
        assert!(lessee.number(NOW.after(1739 * SECOND)).is_some());
        assert_eq!(lessee.number(NOW.after(1740 * SECOND)), None);
        lessee.expired();
        assert_eq!((lessee.id(), lessee.number(NOW)), (0, None));
        assert_eq!(Lessee::new().number(NOW), None);
        assert_eq!(Lessee::new().renewal(), Instant(0));
    }
}
