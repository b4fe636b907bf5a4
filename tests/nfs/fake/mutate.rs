//! Answers changed as a whole: results left out, twice, in another order, of another call, with another status.

/// A stream of numbers that looks random (xorshift64).
pub struct Random(pub u64);

impl Random {
    /// Give the next one below a bound, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }
}

/// Words that are on the edge of what a word may be, and statuses that a client acts upon.
const WORDS: [u32; 16] = [
    0,
    1,
    2,
    0x7fff_ffff,
    0x8000_0000,
    u32::MAX,
    53,
    10008,
    10013,
    10022,
    10025,
    10047,
    10052,
    10063,
    10068,
    10078,
];

/// Hold the parts of an answer: what is before its results, and each of those.
#[derive(Clone, Default)]
pub struct Parts {
    pub head: Vec<u8>,
    pub results: Vec<Vec<u8>>,
}

impl Parts {
    /// Cut an answer where its results begin.
    pub fn of(answer: &[u8], starts: &[usize]) -> Self {
        let ends = starts.iter().skip(1).copied().chain([answer.len()]);
        Self {
            head: answer[..starts.first().copied().unwrap_or(answer.len())].to_vec(),
            results: starts
                .iter()
                .zip(ends)
                .map(|(start, end)| answer[*start..end].to_vec())
                .collect(),
        }
    }

    /// Change something, with what an earlier call was answered at hand; gives the whole answer.
    pub fn mutate(mut self, earlier: &Self, random: &mut Random) -> Vec<u8> {
        let count = self.results.len().max(1);
        let (one, other) = (random.below(count), random.below(count));
        // The number of results is told as it is, or as it was.
        let mut counted = random.below(4) > 0;
        match random.below(9) {
            _ if self.results.is_empty() => counted = false,
            0 => drop(self.results.remove(one)),
            1 => self.results.insert(other, self.results[one].clone()),
            2 => self.results.swap(one, other),
            3 => self.results.truncate(one),
            4 => {
                // One result ends early, and the rest of them goes on from there.
                let words = self.results[one].len() / 4;
                self.results[one].truncate(4 * random.below(words));
            }
            5 if !earlier.results.is_empty() => {
                let at = random.below(earlier.results.len());
                self.results[one].clone_from(&earlier.results[at]);
            }
            6 if earlier.results.len() > 1 => {
                self.results.truncate(1);
                self.results.extend_from_slice(&earlier.results[1..]);
            }
            7 => {
                // Refused, as if it were the last.
                let status = WORDS[random.below(WORDS.len())];
                self.results.truncate(one + 1);
                self.results[one].truncate(4);
                self.results[one].extend(status.to_be_bytes());
                let at = self.head.len() - 12;
                self.head[at..at + 4].copy_from_slice(&status.to_be_bytes());
            }
            _ => {
                let words = self.results[one].len() / 4;
                let at = 4 * random.below(words);
                let word = WORDS[random.below(WORDS.len())];
                self.results[one][at..at + 4].copy_from_slice(&word.to_be_bytes());
            }
        }
        if counted {
            let at = self.head.len() - 4;
            let count = self.results.len() as u32;
            self.head[at..].copy_from_slice(&count.to_be_bytes());
        }
        let mut whole = self.head;
        whole.extend(self.results.concat());
        whole
    }
}
