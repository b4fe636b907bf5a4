//! What every byte of the file is: known from the seed and the offset alone, so that any read can be checked.

/// Give the eight bytes at a multiple of eight.
fn word(seed: u64, offset: u64) -> u64 {
    let mut x = (offset / 8)
        .wrapping_add(seed)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ x >> 32
}

/// Fill `bytes` with what lies at `offset`, a multiple of eight.
pub fn fill(seed: u64, offset: u64, bytes: &mut [u8]) {
    for (index, chunk) in bytes.chunks_mut(8).enumerate() {
        let word = word(seed, offset + 8 * index as u64).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// Find the first byte that differs, as an offset in the file, with what it is and what it should be.
pub fn check(seed: u64, offset: u64, bytes: &[u8]) -> Result<(), (u64, u8, u8)> {
    for (index, chunk) in bytes.chunks(8).enumerate() {
        let expected = word(seed, offset + 8 * index as u64).to_le_bytes();
        if let Some(at) = (0..chunk.len()).find(|&at| chunk[at] != expected[at]) {
            return Err((offset + (8 * index + at) as u64, chunk[at], expected[at]));
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
        let (offset, found, expected) = check(7, 4096, &bytes).unwrap_err();
        assert_eq!((offset, found), (4096 + 93, expected ^ 1));
    }

    #[test]
    fn neighbours_and_seeds_differ() {
        let mut blocks = [[0; 64]; 3];
        fill(1, 0, &mut blocks[0]);
        fill(1, 64, &mut blocks[1]);
        fill(2, 0, &mut blocks[2]);
        assert!(check(1, 64, &blocks[0]).is_err());
        assert!(check(1, 0, &blocks[1]).is_err());
        assert!(check(1, 0, &blocks[2]).is_err());
    }
}
