//! The header of an image: 24 bytes, little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 0 to 3 | magic |
//! | 4 | major version of the format (low four bits), minor version (high) |
//! | 5 | nothing (low), version of the next image with the same number (high) |
//! | 6 | version of this image (low), length of the header in words of 8 bytes (high) |
//! | 7 | number |
//! | 8 to 11 | bytes of data, without padding |
//! | 12 to 15 | CRC-32 over data and padding |
//! | 16 to 23 | bit `n`: an image with number `n` is in a later place of the stream |

use std::fmt;

use super::ImageId;

/// Bytes of a header.
pub const HEADER_LEN: usize = 24;
/// Highest version of an image: 0 for all generations, 1 for BlueField-2, 2 for BlueField-3.
pub const MAX_VERSION: u8 = 2;

const MAGIC: u32 = 0x1302_6642;
const MAJOR: u8 = 1;
const MINOR: u8 = 2;

/// Hold a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Number.
    pub id: ImageId,
    /// Version of this image.
    pub version: u8,
    /// Version of the next image with the same number, zero for none.
    pub next_version: u8,
    /// Bytes of data.
    pub len: u32,
    /// CRC-32 over data and padding.
    pub crc: u32,
    /// Numbers of the images that follow.
    pub following: u64,
}

/// Say what is wrong with an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// Fewer bytes than a header has.
    HeaderCut(usize),
    /// Another magic number.
    Magic(u32),
    /// A format that is not understood: major, minor.
    Format(u8, u8),
    /// Another length of the header, in words of 8 bytes.
    HeaderLength(u8),
    /// A number above 63.
    Number(u8),
    /// Bytes of data and padding that should be there, and those that are.
    DataCut(u64, usize),
    /// The CRC of the header, and that of the data.
    Crc(u32, u32),
    /// Padding that is not zero.
    Padding,
    /// Bits that are to be zero.
    Reserved(u8),
    /// The set of images that follow, and what it should be.
    Following(u64, u64),
    /// The version of the next image of this number, and what it should be.
    NextVersion(u8, u8),
    /// A second image with this number and version, or a lower version behind a higher one.
    Order(u8),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::HeaderCut(found) => {
                write!(f, "found {found} bytes; a header has {HEADER_LEN}")
            }
            Self::Magic(found) => {
                write!(
                    f,
                    "found magic number {found:#010x}; an image begins with {MAGIC:#010x}"
                )
            }
            Self::Format(major, minor) => write!(
                f,
                "found format {major}.{minor}; understood are {MAJOR}.0 to {MAJOR}.{MINOR}"
            ),
            Self::HeaderLength(words) => {
                write!(
                    f,
                    "found a header of {} bytes; it has {HEADER_LEN}",
                    u32::from(words) * 8
                )
            }
            Self::Number(found) => write!(f, "found image number {found}; allowed: 0 to 63"),
            Self::DataCut(wanted, found) => write!(
                f,
                "the stream ends in the image: {wanted} bytes of data and padding, {found} are there"
            ),
            Self::Crc(header, data) => {
                write!(
                    f,
                    "CRC-32 of the header {header:#010x}, of the data {data:#010x}"
                )
            }
            Self::Padding => write!(f, "the padding is not zero"),
            Self::Reserved(found) => write!(f, "found {found:#x} in bits that are to be zero"),
            Self::Following(found, right) => write!(
                f,
                "found {found:#018x} as the set of following images; it should be {right:#018x}"
            ),
            Self::NextVersion(found, right) => write!(
                f,
                "found {found} as the next version of this image; it should be {right}"
            ),
            Self::Order(version) => write!(
                f,
                "version {version} of this image is not above the one before it"
            ),
        }
    }
}

impl Header {
    /// Read a header as a DPU does, which does not look at every bit.
    ///
    /// # Errors
    /// [`Flaw`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(Flaw::HeaderCut(bytes.len()));
        };
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        if word(0) != MAGIC {
            return Err(Flaw::Magic(word(0)));
        }
        let (major, minor) = (header[4] & 15, header[4] >> 4);
        if major != MAJOR || minor > MINOR {
            return Err(Flaw::Format(major, minor));
        }
        let words = header[6] >> 4;
        if usize::from(words) * 8 != HEADER_LEN {
            return Err(Flaw::HeaderLength(words));
        }
        if header[7] > 63 {
            return Err(Flaw::Number(header[7]));
        }
        Ok(Self {
            id: ImageId(header[7]),
            version: header[6] & 15,
            next_version: header[5] >> 4,
            len: word(8),
            crc: word(12),
            following: u64::from(word(16)) | u64::from(word(20)) << 32,
        })
    }

    /// Give the bits that are to be zero.
    pub fn reserved(bytes: &[u8]) -> u8 {
        bytes.get(5).map_or(0, |byte| byte & 15)
    }

    /// Lay the header out.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = MINOR << 4 | MAJOR;
        bytes[5] = self.next_version << 4;
        bytes[6] = ((HEADER_LEN / 8) as u8) << 4 | self.version & 15;
        bytes[7] = self.id.0;
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.crc.to_le_bytes());
        bytes[16..].copy_from_slice(&self.following.to_le_bytes());
        bytes
    }

    /// Give the bytes of data and padding.
    pub fn padded_len(&self) -> u64 {
        u64::from(self.len).next_multiple_of(8)
    }
}
