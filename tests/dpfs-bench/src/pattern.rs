//! What every byte of the file is: known from the seed, the offset and the number of times that it was written, so
//! that any read can be checked.

/// Give the eight bytes at a multiple of eight.
fn word(seed: u64, offset: u64) -> u64 {
    let mut x = (offset / 8)
        .wrapping_add(seed)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ x >> 32
}

/// Give the seed of what a block holds after so many WRITEs.
pub const fn generation(seed: u64, writes: u64) -> u64 {
    seed.wrapping_add(writes.wrapping_mul(0xd1b5_4a32_d192_ed03))
}

/// Fill `bytes` with what lies at `offset`, a multiple of eight.
pub fn fill(seed: u64, offset: u64, bytes: &mut [u8]) {
    for (index, chunk) in bytes.chunks_mut(8).enumerate() {
        let word = word(seed, offset + 8 * index as u64).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// Describe a byte that is not what it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wrong {
    /// Where in the file.
    pub offset: u64,
    /// What it is.
    pub found: u8,
    /// What it should be.
    pub expected: u8,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            offset,
            found,
            expected,
        } = self;
        write!(
            f,
            "wrong data: byte {offset} is {found:#04x}, not {expected:#04x}"
        )
    }
}

/// Find the first byte that differs.
pub fn check(seed: u64, offset: u64, bytes: &[u8]) -> Result<(), Wrong> {
    for (index, chunk) in bytes.chunks(8).enumerate() {
        let start = offset + 8 * index as u64;
        let expected = word(seed, start).to_le_bytes();
        if let Some(at) = (0..chunk.len()).find(|&at| chunk[at] != expected[at]) {
            return Err(Wrong {
                offset: start + at as u64,
                found: chunk[at],
                expected: expected[at],
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_byte_is_found_and_named() {
        let mut bytes = [0; 100];
        fill(7, 4096, &mut bytes);
        assert_eq!(check(7, 4096, &bytes), Ok(()));
        bytes[93] ^= 1;
        let wrong = check(7, 4096, &bytes).unwrap_err();
        assert_eq!((wrong.offset, wrong.found), (4096 + 93, wrong.expected ^ 1));
    }

    #[test]
    fn neighbours_generations_and_seeds_differ() {
        let mut blocks = [[0; 64]; 3];
        fill(1, 0, &mut blocks[0]);
        fill(1, 64, &mut blocks[1]);
        fill(2, 0, &mut blocks[2]);
        assert!(check(1, 64, &blocks[0]).is_err());
        assert!(check(1, 0, &blocks[1]).is_err());
        assert!(check(1, 0, &blocks[2]).is_err());
        assert!(check(generation(1, 1), 0, &blocks[0]).is_err());
        assert_eq!(check(generation(1, 0), 0, &blocks[0]), Ok(()));
    }
}
