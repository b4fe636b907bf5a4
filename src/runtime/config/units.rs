//! Numbers with units: sizes in bytes, durations in nanoseconds.

use std::string::String;

/// Units of a size: binary ones, and decimal ones for who thinks in what is printed on a disk.
const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Units of a duration.
const DURATIONS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("min", 60_000_000_000),
];

/// Say how a size is written.
pub const SIZE_FORM: &str = "bytes, or a number with B, KiB, MiB, GiB, TiB, kB, MB, GB or TB";

/// Say how a duration is written.
pub const DURATION_FORM: &str = "a number with ns, us, ms, s or min";

/// Read a size like `64KiB`, in bytes.
pub fn size(text: &str) -> Option<u64> {
    with_unit(text, SIZES)
}

/// Read a duration like `50us`, in nanoseconds.
pub fn duration(text: &str) -> Option<u64> {
    with_unit(text, DURATIONS)
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    digits.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Write a size so that it reads well and is exact: the largest binary unit that divides it.
pub fn exact_size(bytes: u64) -> String {
    let (unit, factor) = SIZES[..5]
        .iter()
        .rev()
        .find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor))
        .unwrap_or(&SIZES[0]);
    format!("{}{unit}", bytes / factor)
}

/// Write a duration so that it reads well and is exact: the largest unit that divides it.
pub fn exact_duration(nanoseconds: u64) -> String {
    let (unit, factor) = DURATIONS
        .iter()
        .rev()
        .find(|(_, factor)| nanoseconds != 0 && nanoseconds.is_multiple_of(*factor))
        .unwrap_or(&DURATIONS[0]);
    format!("{}{unit}", nanoseconds / factor)
}

/// Write a size with one decimal: for people, in a table.
pub fn rough_size(bytes: u64) -> String {
    let (unit, factor) = SIZES[..5]
        .iter()
        .rev()
        .find(|(_, factor)| bytes >= *factor)
        .unwrap_or(&SIZES[0]);
    if *factor == 1 {
        return format!("{bytes} B");
    }
    format!("{:.1} {unit}", bytes as f64 / *factor as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        assert_eq!(size("64KiB"), Some(65_536));
        assert_eq!(size("1 GiB"), Some(1 << 30));
        assert_eq!(size("10GB"), Some(10_000_000_000));
        assert_eq!(size("7B"), Some(7));
    }

    #[test]
    fn what_is_not_exact_is_refused() {
        for text in [
            "",
            "64",
            "KiB",
            "1.5GiB",
            "-1B",
            "1K",
            "1kb",
            "1  GiB",
            "17000000TiB",
            "99999999999999999999B",
        ] {
            assert_eq!(size(text), None, "{text}");
        }
        for text in ["50", "50 u", "1h", "us"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_nanoseconds() {
        assert_eq!(duration("50us"), Some(50_000));
        assert_eq!(duration("2 s"), Some(2_000_000_000));
        assert_eq!(duration("1min"), Some(60_000_000_000));
    }

    #[test]
    fn what_is_written_reads_back() {
        for bytes in [0, 1, 1023, 1024, 65_536, 3 << 30, (1 << 40) + 1, u64::MAX] {
            assert_eq!(size(&exact_size(bytes)), Some(bytes));
            assert_eq!(duration(&exact_duration(bytes)), Some(bytes));
        }
        assert_eq!(exact_duration(50_000), "50us");
        assert_eq!(rough_size(1536), "1.5 KiB");
        assert_eq!(rough_size(12), "12 B");
    }
}
