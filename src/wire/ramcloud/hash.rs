//! The hash that places a key in a table: the first half of MurmurHash3_x64_128.
//!
//! Written here because it is a few lines. Source: Austin Appleby, `MurmurHash3.cpp`, in the public domain.

/// Hash a key of a table.
pub fn key_hash(table: u64, key: &[u8]) -> u64 {
    // The seed has 32 bits.
    murmur3(key, u64::from(table as u32))
}

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

const fn mix1(word: u64) -> u64 {
    word.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

const fn mix2(word: u64) -> u64 {
    word.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

const fn end(mut word: u64) -> u64 {
    word ^= word >> 33;
    word = word.wrapping_mul(0xff51_afd7_ed55_8ccd);
    word ^= word >> 33;
    word = word.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ word >> 33
}

fn murmur3(key: &[u8], seed: u64) -> u64 {
    let halves = |block: &[u8; 16]| {
        let whole = u128::from_le_bytes(*block);
        (whole as u64, (whole >> 64) as u64)
    };
    let (mut one, mut two) = (seed, seed);
    let (blocks, tail) = key.as_chunks::<16>();
    for block in blocks {
        let (first, second) = halves(block);
        one = (one ^ mix1(first)).rotate_left(27).wrapping_add(two);
        one = one.wrapping_mul(5).wrapping_add(0x52dc_e729);
        two = (two ^ mix2(second)).rotate_left(31).wrapping_add(one);
        two = two.wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let mut last = [0; 16];
    last[..tail.len()].copy_from_slice(tail);
    let (first, second) = halves(&last);
    let len = key.len() as u64;
    one ^= mix1(first) ^ len;
    two ^= mix2(second) ^ len;
    one = one.wrapping_add(two);
    two = two.wrapping_add(one);
    end(one).wrapping_add(end(two))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // From the original's own tools: an empty key hashes to zero without a seed.
        assert_eq!(murmur3(b"", 0), 0);
        assert_eq!(murmur3(b"hello", 0), 0xcbd8_a7b3_41bd_9b02);
        let fox = b"The quick brown fox jumps over the lazy dog";
        assert_eq!(murmur3(fox, 0), 0xe34b_bc7b_bc07_1b6c);
    }
}
