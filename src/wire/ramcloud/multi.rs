//! Answers to a multi-read: each object's status, version and size, one behind the other, in the order of the request.
//!
//! ```text
//!  u32 status, u32 count | part | part ..
//!  part   u32 status, u64 version, u32 length | keys and value, only with status 0
//!  keys and value   u8 keys, u16 end of each key, keys, value
//! ```
//!
//! A master ends its answer before the part that would make it too long, and counts those that are there: the others are
//! to be asked for again. Source: RAMCloud, `src/WireFormat.h` (`MultiOp`), `src/MasterService.cc` (`multiRead`),
//! `src/Object.h` (`KeyOffsets`). No frame of a real master was recorded of it.

use super::reply::{Fields, STATUS_LEN};
use super::{Malformed, Status};

/// Most objects that one request asks for, as RAMCloud's own client does.
pub const PARTS_MAX: usize = 20;
/// Bytes before the parts, the status counted in.
pub const HEAD_LEN: usize = STATUS_LEN + 4;
/// Bytes of a part before its keys and value.
pub const PART_LEN: usize = 16;

/// Read the number of parts, in the first [`HEAD_LEN`] bytes of a payload.
///
/// # Errors
/// [`Malformed`] when they are not there.
pub fn count(payload: &[u8]) -> Result<usize, Malformed> {
    let mut fields = Fields(payload.get(STATUS_LEN..).ok_or(Malformed)?);
    fields.u32().map(|count| count as usize)
}

/// Say what is answered about one object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// How it went with this one.
    pub status: Status,
    /// Version.
    pub version: u64,
    /// Bytes of the value.
    pub size: usize,
    /// Bytes of the part, its keys and value counted in.
    pub len: usize,
}

impl Part {
    /// Read one from the front of what has come of a payload, of which `left` bytes are still to be understood. `None`
    /// when it has not come as far as its keys.
    ///
    /// # Errors
    /// [`Malformed`] when it is longer than that, or its keys are longer than it.
    pub fn parse(bytes: &[u8], left: usize) -> Result<Option<Self>, Malformed> {
        let Some(behind) = left.checked_sub(PART_LEN) else {
            return Err(Malformed);
        };
        if bytes.len() < PART_LEN {
            return Ok(None);
        }
        let mut fields = Fields(bytes);
        let (status, version) = (Status::from(fields.u32()?), fields.u64()?);
        // Without an object nobody has written the length.
        if status != Status::Ok {
            return Ok(Some(Self {
                status,
                version,
                size: 0,
                len: PART_LEN,
            }));
        }
        let pair = fields.u32()? as usize;
        if pair == 0 || pair > behind {
            return Err(Malformed);
        }
        let Ok(keys) = fields.u8() else {
            return Ok(None);
        };
        let last = usize::from(keys).checked_sub(1).ok_or(Malformed)?;
        let ends = 1 + 2 * (last + 1);
        if ends > pair {
            return Err(Malformed);
        }
        let end = fields.bytes(2 * last).and_then(|_| fields.u16());
        let Ok(end) = end else {
            return Ok(None);
        };
        let size = pair.checked_sub(ends + usize::from(end)).ok_or(Malformed)?;
        Ok(Some(Self {
            status,
            version,
            size,
            len: PART_LEN + pair,
        }))
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Lay out an object with these keys and value.
    fn part(keys: &[&[u8]], value: &[u8]) -> Vec<u8> {
        let mut pair = std::vec![keys.len() as u8];
        let mut end = 0;
        for key in keys {
            end += key.len() as u16;
            pair.extend(end.to_le_bytes());
        }
        keys.iter().for_each(|key| pair.extend(*key));
        pair.extend(value);
        let mut bytes = std::vec![0; 4];
        bytes.extend(7u64.to_le_bytes());
        bytes.extend((pair.len() as u32).to_le_bytes());
        bytes.extend(pair);
        bytes
    }

    #[test]
    fn a_size_is_what_the_keys_leave() {
        let objects: [(&[&[u8]], &[u8]); 4] = [
            (&[b"key"], b"value"),
            (&[b"key"], b""),
            (&[b"key", b"", b"other"], b"value"),
            (&[&b""[..]; 255], b"v"),
        ];
        for (keys, value) in objects {
            let bytes = part(keys, value);
            let wanted = Part {
                status: Status::Ok,
                version: 7,
                size: value.len(),
                len: bytes.len(),
            };
            let keyed = PART_LEN + 1 + 2 * keys.len();
            for came in 0..=bytes.len() {
                let found = Part::parse(&bytes[..came], bytes.len());
                assert_eq!(found, Ok((came >= keyed).then_some(wanted)), "{came}");
            }
            assert_eq!(Part::parse(&bytes, bytes.len() - 1), Err(Malformed));
        }
    }

    #[test]
    fn without_an_object_the_length_means_nothing() {
        let mut bytes = [0xff; PART_LEN];
        bytes[..4].copy_from_slice(&[3, 0, 0, 0]);
        let part = Part::parse(&bytes, PART_LEN).unwrap().unwrap();
        assert_eq!(
            (part.status, part.size, part.len),
            (Status::ObjectDoesntExist, 0, PART_LEN)
        );
    }

    #[test]
    fn lengths_and_keys_that_lie_are_refused() {
        let good = part(&[b"key"], b"");
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Part::parse(&bytes, bytes.len())
        };
        assert!(with(12, 6).is_ok());
        for (at, byte) in [
            (12, 0),
            (12, 7),
            (15, 1),
            (16, 0),
            (16, 3),
            (17, 4),
            (18, 1),
        ] {
            assert_eq!(with(at, byte), Err(Malformed), "{at} {byte}");
        }
        assert_eq!(Part::parse(&good, PART_LEN - 1), Err(Malformed));
        assert_eq!(count(&[0; 7]), Err(Malformed));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_bytes_are_a_part_or_refused(
            mut bytes in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..60),
            good in any::<bool>(),
        ) {
            if good && bytes.len() >= PART_LEN {
                bytes[..4].fill(0);
                bytes[13..16].fill(0);
            }
            if let Ok(Some(part)) = Part::parse(&bytes, bytes.len()) {
                prop_assert!(part.len <= bytes.len() && part.size <= part.len - PART_LEN);
            }
        }
    }
}
