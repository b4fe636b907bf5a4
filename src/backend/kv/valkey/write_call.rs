//! A WRITE, read back from the request for it that is kept: what [`request`](super::request) wrote there.

use super::super::engine::{Expect, Patch};
use super::request::PATCH_HEAD;
use crate::wire::resp::{Item, Reader};

/// Say what a call of the function writes, but for the bytes themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteCall<'a> {
    pub expect: Expect,
    patches: &'a [u8],
    /// Size of chunks.
    chunk: u64,
    pub offset: u64,
    pub len: u32,
}

impl<'a> WriteCall<'a> {
    /// Read a request, up to where the bytes themselves belong; nothing of one for anything else.
    pub fn parse(request: &'a [u8]) -> Option<Self> {
        // What is before the inode: the function, its keys, and what is done once.
        const BEFORE: usize = 9;
        let mut reader = Reader::new(request);
        let Item::Array(_) = reader.item().ok()?? else {
            return None;
        };
        let mut string = || match reader.item().ok()?? {
            Item::Bulk(len) => reader.body(len).ok()?,
            _ => None,
        };
        for place in 0..=BEFORE {
            let found = string()?;
            if place == 1 && found != b"dpfs_write" {
                return None;
            }
        }
        let (expect, patches) = (expected(string()?)?, string()?);
        let (chunk, offset) = (decimal(string()?)?, decimal(string()?)?);
        let Item::Bulk(len) = reader.item().ok()?? else {
            return None;
        };
        Some(Self {
            expect,
            patches,
            chunk,
            offset,
            len: u32::try_from(len).ok()?,
        })
    }

    /// Give the number of the chunk in which it begins, and the byte there.
    pub const fn place(&self) -> (u32, u32) {
        let (index, inside) = (self.offset / self.chunk, self.offset % self.chunk);
        (index as u32, inside as u32)
    }

    /// Give how the inode changes.
    pub fn patches(&self) -> impl Iterator<Item = Patch<'a>> {
        let mut rest = self.patches;
        core::iter::from_fn(move || {
            let (head, behind) = rest.split_first_chunk::<{ PATCH_HEAD as usize }>()?;
            let [kind, at @ .., low, high] = head;
            let (bytes, behind) =
                behind.split_at_checked(usize::from(u16::from_le_bytes([*low, *high])))?;
            rest = behind;
            patch(*kind, u16::from_le_bytes(*at), bytes)
        })
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    core::str::from_utf8(digits).ok()?.parse().ok()
}

fn patch(kind: u8, at: u16, bytes: &[u8]) -> Option<Patch<'_>> {
    Some(match kind {
        b'S' => Patch::Set { at, bytes },
        b'M' => Patch::Max {
            at,
            value: u64::from_le_bytes(bytes.try_into().ok()?),
        },
        b'A' => Patch::Add64 {
            at,
            value: i64::from_le_bytes(bytes.try_into().ok()?),
        },
        b'a' => Patch::Add32 {
            at,
            value: i32::from_le_bytes(bytes.try_into().ok()?),
        },
        b'C' => Patch::Clear {
            at,
            bits: u32::from_le_bytes(bytes.try_into().ok()?),
        },
        _ => return None,
    })
}

fn expected(bytes: &[u8]) -> Option<Expect> {
    let (&kind, rest) = bytes.split_first()?;
    let field = || {
        let (at, value) = rest.split_first_chunk()?;
        let value = u64::from_le_bytes(value.try_into().ok()?);
        Some((u16::from_le_bytes(*at), value))
    };
    Some(match kind {
        b'A' => Expect::Absent,
        b'P' => Expect::Present,
        b'V' => Expect::Version(u64::from_be_bytes(rest.try_into().ok()?)),
        b'B' => {
            let (at, both) = field()?;
            let (mask, want) = (both as u32, (both >> 32) as u32);
            Expect::Bits { at, mask, want }
        }
        b'L' => {
            let (at, value) = field()?;
            Expect::Least { at, value }
        }
        b'E' => {
            let (at, value) = field()?;
            Expect::Exactly { at, value }
        }
        _ => return None,
    })
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::super::request::{Once, write};
    use super::*;
    use crate::wire::resp::Encoder;
    use std::vec::Vec;

    const ONCE: Once = Once {
        client: 7,
        sequence: 3,
        ack: 2,
        sure: true,
    };

    #[test]
    fn what_was_written_is_read_back() {
        let patches = [
            Patch::Set {
                at: 80,
                bytes: b"\r\n$1\r\n",
            },
            Patch::Max {
                at: 8,
                value: 1 << 40,
            },
            Patch::Add64 { at: 16, value: -2 },
            Patch::Add32 { at: 24, value: -3 },
            Patch::Clear { at: 28, bits: 6 },
        ];
        for expect in [
            Expect::Absent,
            Expect::Present,
            Expect::Version(0x0102_0304_0506_0708),
            Expect::Bits {
                at: 24,
                mask: 0xf000_0001,
                want: 0x8000_0000,
            },
            Expect::Least { at: 8, value: 9 },
            Expect::Exactly { at: 300, value: 5 },
        ] {
            let mut buffer = [0; 512];
            let mut to = Encoder::new(&mut buffer);
            write(
                &mut to,
                b"{v}",
                &ONCE,
                1 << 50,
                expect,
                &patches,
                65536,
                (123_456, 4096),
            );
            let len = to.finish().unwrap();
            let found = WriteCall::parse(&buffer[..len]).unwrap();
            assert_eq!(
                (found.expect, found.offset, found.len),
                (expect, 123_456, 4096)
            );
            assert_eq!(found.patches().collect::<Vec<_>>(), patches);
            // Cut anywhere it is none.
            assert!((0..len).all(|cut| WriteCall::parse(&buffer[..cut]).is_none()));
        }
    }

    #[test]
    fn another_request_is_none() {
        let mut buffer = [0; 512];
        let mut to = Encoder::new(&mut buffer);
        super::super::request::reserve(&mut to, b"{v}", &ONCE, 4);
        let len = to.finish().unwrap();
        assert_eq!(WriteCall::parse(&buffer[..len]), None);
    }
}
