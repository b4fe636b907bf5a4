//! Where a file system is that is not here (`fs_locations4`, RFC 8881, section 11.16).
//!
//! The attribute is read to its end before anything of it is given out, so what is walked through afterwards is sound.

use super::MAX_OPAQUE;
#[cfg(doc)]
use crate::wire::xdr::Malformed;
use crate::wire::xdr::{Decoder, Result};

/// Most locations of a file system, and most names of one location's server.
const MOST: u32 = 256;
/// Most components of a path.
const COMPONENTS: u32 = 512;

/// Hold the locations of a file system, in the server's order.
#[derive(Clone, Copy, Debug)]
pub struct FsLocations<'a> {
    /// Components of the path of the file system's root at the server that was asked. None of them was looked into.
    pub root: Strings<'a>,
    left: u32,
    input: Decoder<'a>,
}

/// Hold one of them: a server, by all its names, and the path of the file system there.
#[derive(Clone, Copy, Debug)]
pub struct FsLocation<'a> {
    /// Names and addresses of the server, as they were sent; each has at most [`MAX_OPAQUE`] bytes.
    pub servers: Strings<'a>,
    /// Components of the path from the server's root on. None of them was looked into.
    pub path: Strings<'a>,
}

/// Walk through strings that follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Strings<'a> {
    left: u32,
    input: Decoder<'a>,
}

impl<'a> Strings<'a> {
    /// Read strings, at most so many, and go behind them.
    fn decode(input: &mut Decoder<'a>, most: u32) -> Result<Self> {
        let left = input.count(most)?;
        let strings = Self {
            left,
            input: *input,
        };
        for _ in 0..left {
            input.opaque(MAX_OPAQUE)?;
        }
        Ok(strings)
    }
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        self.input.opaque(MAX_OPAQUE).ok()
    }
}

impl<'a> FsLocation<'a> {
    fn decode(input: &mut Decoder<'a>) -> Result<Self> {
        Ok(Self {
            servers: Strings::decode(input, MOST)?,
            path: Strings::decode(input, COMPONENTS)?,
        })
    }
}

impl<'a> FsLocations<'a> {
    /// Read the attribute's value.
    ///
    /// # Errors
    /// [`Malformed`]; also for more than 256 locations or names of one, or a path of more than 512 components.
    pub fn decode(input: &mut Decoder<'a>) -> Result<Self> {
        let root = Strings::decode(input, COMPONENTS)?;
        let left = input.count(MOST)?;
        let locations = Self {
            root,
            left,
            input: *input,
        };
        for _ in 0..left {
            FsLocation::decode(input)?;
        }
        Ok(locations)
    }
}

impl<'a> Iterator for FsLocations<'a> {
    type Item = FsLocation<'a>;

    fn next(&mut self) -> Option<FsLocation<'a>> {
        self.left = self.left.checked_sub(1)?;
        FsLocation::decode(&mut self.input).ok()
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::wire::xdr::Encoder;
    use std::vec::Vec;

    fn strings(out: &mut Encoder<'_>, strings: &[&str]) {
        out.u32(strings.len() as u32);
        for string in strings {
            out.opaque(string.as_bytes());
        }
    }

    /// Lay out `/a`, to be found at `one` or `two` as `/x/yz` and at `three` as its root.
    fn sample() -> Vec<u8> {
        let mut buffer = [0; 256];
        let mut out = Encoder::new(&mut buffer);
        strings(&mut out, &["a"]);
        out.u32(2);
        strings(&mut out, &["one", "two"]);
        strings(&mut out, &["x", "yz"]);
        strings(&mut out, &["three"]);
        strings(&mut out, &[]);
        let len = out.finish().unwrap();
        buffer[..len].to_vec()
    }

    #[test]
    fn locations_come_in_order_with_all_names_and_paths() {
        let bytes = sample();
        let mut input = Decoder::new(&bytes);
        let mut found = FsLocations::decode(&mut input).unwrap();
        assert_eq!(input.rest(), b"");
        assert!(found.root.eq([&b"a"[..]]));
        let first = found.next().unwrap();
        assert!(first.servers.eq([&b"one"[..], b"two"]));
        assert!(first.path.eq([&b"x"[..], b"yz"]));
        let second = found.next().unwrap();
        assert!(second.servers.eq([&b"three"[..]]) && second.path.eq([&b""[..]; 0]));
        assert!(found.next().is_none());
    }

    #[test]
    fn what_ends_early_or_counts_too_much_is_malformed() {
        let bytes = sample();
        for len in 0..bytes.len() {
            let read = FsLocations::decode(&mut Decoder::new(&bytes[..len]));
            assert!(read.is_err(), "{len}");
        }
        // The count of components, and of locations.
        for (at, most) in [(0, COMPONENTS), (12, MOST)] {
            let mut bytes = sample();
            bytes[at..at + 4].copy_from_slice(&(most + 1).to_be_bytes());
            assert!(FsLocations::decode(&mut Decoder::new(&bytes)).is_err());
        }
    }
}
