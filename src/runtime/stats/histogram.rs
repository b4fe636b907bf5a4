//! Latencies in log-linear buckets: eight for each power of two, so a bucket is at most an eighth wide.

/// Steps of each power of two, as a power of two.
const STEP_BITS: u32 = 3;
const STEPS: usize = 1 << STEP_BITS;

/// Values from here on share the last bucket: 2^40 cycles are five minutes at 3 GHz.
const TOP_BITS: u32 = 40;

/// Number of buckets. The first 16 are one cycle wide.
pub const BUCKETS: usize = (TOP_BITS - STEP_BITS + 1) as usize * STEPS;

/// Give the bucket of a value.
#[inline]
pub(super) fn bucket(cycles: u64) -> usize {
    // Values below eight fall into place with the shift of eight: none.
    let shift = 63 - STEP_BITS - (cycles | STEPS as u64).leading_zeros();
    let bucket = shift as usize * STEPS + (cycles >> shift) as usize;
    bucket.min(BUCKETS - 1)
}

/// Give the smallest value of a bucket.
fn floor(bucket: usize) -> u64 {
    match bucket / STEPS {
        0 => bucket as u64,
        row => ((STEPS + bucket % STEPS) as u64) << (row - 1),
    }
}

/// Hold how often each bucket was hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram(pub(super) [u64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Histogram {
    /// Give the number of values.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, &hits| sum.saturating_add(hits))
    }

    /// Give the value that `part` of `whole` values do not exceed, within a sixteenth; zero when there are none.
    pub fn quantile(&self, part: u64, whole: u64) -> u64 {
        let count = self.count();
        // At least one, and no overflow with any count that fits a file.
        let rank = (u128::from(count) * u128::from(part)).div_ceil(u128::from(whole.max(1)));
        let mut seen = 0;
        for (bucket, &hits) in self.0.iter().enumerate() {
            seen += u128::from(hits);
            if hits > 0 && seen >= rank {
                return (floor(bucket) + floor(bucket + 1)) / 2;
            }
        }
        0
    }

    /// Add another's values.
    pub fn add(&mut self, other: &Self) {
        for (to, from) in self.0.iter_mut().zip(other.0) {
            *to = to.saturating_add(from);
        }
    }

    /// Give the values that are new since an earlier state.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut new = self.clone();
        for (to, from) in new.0.iter_mut().zip(earlier.0) {
            *to = to.saturating_sub(from);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for power in 0..TOP_BITS {
            for value in [1u64 << power, (1 << power) | 1, (2 << power) - 1] {
                let bucket = bucket(value);
                assert!(
                    floor(bucket) <= value && value < floor(bucket + 1),
                    "{value}"
                );
                assert!(floor(bucket + 1) - floor(bucket) <= value.div_ceil(8));
            }
        }
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(1 << TOP_BITS), BUCKETS - 1);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn buckets_are_in_order_and_without_gaps() {
        for at in 0..BUCKETS {
            assert_eq!(bucket(floor(at)), at);
            assert_eq!(bucket(floor(at + 1) - 1), at);
        }
    }

    #[test]
    fn quantiles_lie_within_a_sixteenth() {
        let mut histogram = Histogram::default();
        for value in 1..=10_000u64 {
            histogram.0[bucket(value)] += 1;
        }
        for (part, exact) in [(50, 5000), (99, 9900), (100, 10_000)] {
            let found = histogram.quantile(part, 100);
            assert!(found.abs_diff(exact) <= exact / 15, "p{part}: {found}");
        }
        assert_eq!(Histogram::default().quantile(99, 100), 0);
    }

    #[test]
    fn one_slow_among_a_thousand_is_the_last_thousandth() {
        let mut histogram = Histogram::default();
        histogram.0[bucket(100)] = 999;
        histogram.0[bucket(1 << 20)] = 1;
        assert!(histogram.quantile(99, 100) < 120);
        assert!(histogram.quantile(1000, 1000) > 1 << 20);
    }

    #[test]
    fn what_is_new_is_the_difference() {
        let mut earlier = Histogram::default();
        earlier.0[3] = 5;
        let mut later = earlier.clone();
        later.0[3] += 2;
        assert_eq!(later.since(&earlier).count(), 2);
        later.add(&earlier);
        assert_eq!(later.count(), 12);
    }
}
