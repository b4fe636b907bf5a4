//! The slots of a session: each carries one call at a time, numbered, so that the server knows a repetition.

/// Most slots of one session.
pub const MAX_SLOTS: usize = 256;

const WORDS: usize = MAX_SLOTS / 64;

/// Hold a session's slots.
pub struct Slots {
    sequence: [u32; MAX_SLOTS],
    busy: [u64; WORDS],
    /// How many the server takes now.
    limit: u32,
}

impl Slots {
    /// Begin with no slot at all.
    pub const fn new() -> Self {
        Self {
            sequence: [1; MAX_SLOTS],
            busy: [0; WORDS],
            limit: 0,
        }
    }

    /// Begin a session with so many slots.
    pub fn begin(&mut self, slots: u32) {
        *self = Self::new();
        self.set_limit(slots);
    }

    /// Use so many slots from now on, at least one.
    pub fn set_limit(&mut self, slots: u32) {
        self.limit = slots.clamp(1, MAX_SLOTS as u32);
    }

    /// Tell whether a slot is free.
    pub fn is_free(&self) -> bool {
        let busy: u32 = self.busy.iter().map(|bits| bits.count_ones()).sum();
        busy < self.limit
    }

    /// Take the lowest slot that is free.
    pub fn take(&mut self) -> Option<u32> {
        let (word, bits) = (0..)
            .zip(&mut self.busy)
            .find(|(_, bits)| **bits != u64::MAX)?;
        let bit = bits.trailing_ones();
        let slot = word * 64 + bit;
        if slot >= self.limit {
            return None;
        }
        *bits |= 1 << bit;
        Some(slot)
    }

    /// Give a slot back; `done` when the server has seen its call.
    pub fn give(&mut self, slot: u32, done: bool) {
        if let Some(bits) = self.busy.get_mut(slot as usize / 64) {
            *bits &= !(1 << (slot % 64));
        }
        if let Some(sequence) = self.sequence.get_mut(slot as usize)
            && done
        {
            *sequence = sequence.wrapping_add(1);
        }
    }

    /// Give the number of the slot's next, or present, call.
    pub fn sequence(&self, slot: u32) -> u32 {
        self.sequence.get(slot as usize).copied().unwrap_or(1)
    }

    /// Give the highest slot in use; zero when none is.
    pub fn highest(&self) -> u32 {
        let highest = self.busy.iter().rposition(|bits| *bits != 0);
        highest.map_or(0, |word| {
            word as u32 * 64 + 63 - self.busy[word].leading_zeros()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_is_taken_and_only_a_call_that_was_seen_counts() {
        let mut slots = Slots::new();
        assert_eq!(slots.take(), None);
        slots.begin(130);
        for slot in 0..130 {
            assert_eq!(slots.take(), Some(slot));
        }
        assert_eq!((slots.take(), slots.highest()), (None, 129));
        slots.give(65, true);
        slots.give(70, false);
        assert_eq!((slots.sequence(65), slots.sequence(70)), (2, 1));
        slots.set_limit(66);
        assert_eq!((slots.take(), slots.take()), (Some(65), None));
    }
}
