//! What a node table needs of a backend's name for a file, and hash functions to write it with.
//!
//! The host chooses names and, by creating files, has a hand in inode numbers. So every hash is keyed by a secret seed of
//! the table, without which keys that meet in one chain cannot be chosen. The mixing is a folded multiplication, in the
//! manner of wyhash: good in a hash table, not a cryptographic function.

/// Name a file in the backend's terms: an inode number, a file handle, an object id.
pub trait NodeKey: Copy + Eq {
    /// Hash the key. Equal keys have equal hashes under one seed; all 64 bits are to be mixed.
    fn hash(&self, seed: u64) -> u64;
}

const ODD_1: u64 = 0x9e37_79b9_7f4a_7c15;
const ODD_2: u64 = 0xd6e8_feb8_6659_fd93;

#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

/// Hash some words.
#[inline]
pub const fn hash_words(seed: u64, words: &[u64]) -> u64 {
    let mut state = seed ^ ODD_2;
    let mut at = 0;
    while at < words.len() {
        state = fold(state ^ words[at], ODD_1).wrapping_add(seed);
        at += 1;
    }
    fold(state ^ at as u64, ODD_2)
}

/// Hash some bytes. Those of different lengths differ, even where the rest is zero.
#[inline]
pub fn hash_bytes(seed: u64, bytes: &[u8]) -> u64 {
    let mut state = seed ^ ODD_2;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        state = fold(state ^ u64::from_le_bytes(*word), ODD_1).wrapping_add(seed);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    state = fold(state ^ u64::from_le_bytes(last), ODD_1).wrapping_add(seed);
    fold(state ^ bytes.len() as u64, ODD_2)
}

impl NodeKey for u64 {
    #[inline]
    fn hash(&self, seed: u64) -> u64 {
        hash_words(seed, &[*self])
    }
}

/// A device and an inode number, for example.
impl NodeKey for (u64, u64) {
    #[inline]
    fn hash(&self, seed: u64) -> u64 {
        hash_words(seed, &[self.0, self.1])
    }
}

impl<const N: usize> NodeKey for [u8; N] {
    #[inline]
    fn hash(&self, seed: u64) -> u64 {
        hash_bytes(seed, self)
    }
}

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use super::*;

    /// Count how full the fullest of 64 equal parts gets, by the bits from `shift` on.
    fn fullest(hashes: impl Iterator<Item = u64>, shift: u32) -> u32 {
        let mut parts = [0u32; 64];
        for hash in hashes {
            parts[(hash >> shift) as usize % 64] += 1;
        }
        parts.into_iter().max().unwrap()
    }

    #[test]
    #[cfg_attr(miri, ignore = "no memory to check, and slow")]
    fn neighbouring_keys_spread_evenly_in_high_and_low_bits() {
        // 100 in each part on average, with a standard deviation of 10.
        for seed in [0, 1, 0x1234_5678_9abc_def0] {
            for shift in [0, 58] {
                assert!(fullest((0..6400u64).map(|k| k.hash(seed)), shift) < 160);
                assert!(fullest((0..6400u64).map(|k| (7, k << 12).hash(seed)), shift) < 160);
                let handles = (0..6400u64).map(|k| {
                    let mut handle = [0u8; 72];
                    handle[60..68].copy_from_slice(&k.to_be_bytes());
                    handle.hash(seed)
                });
                assert!(fullest(handles, shift) < 160);
            }
        }
    }

    #[test]
    fn length_and_seed_count() {
        let zeros = [0; 32];
        let hashes: std::collections::HashSet<u64> =
            (0..32).map(|n| hash_bytes(5, &zeros[..n])).collect();
        assert_eq!(hashes.len(), 32);
        assert_ne!(hash_bytes(5, b"name"), hash_bytes(6, b"name"));
    }
}
