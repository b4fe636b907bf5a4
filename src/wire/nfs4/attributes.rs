//! Attributes: which of them are asked for, how they are read and set.

use super::{FsLocations, Handle, MAX_HANDLE, MAX_OPAQUE};
use crate::wire::xdr::{Decoder, Encoder, Malformed, Result};

/// Number attributes as the wire does (`FATTR4_*`).
pub mod attr {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const SUPPORTED_ATTRS: u32 = 0;
    pub const TYPE: u32 = 1;
    pub const FH_EXPIRE_TYPE: u32 = 2;
    pub const CHANGE: u32 = 3;
    pub const SIZE: u32 = 4;
    pub const FSID: u32 = 8;
    pub const LEASE_TIME: u32 = 10;
    pub const RDATTR_ERROR: u32 = 11;
    pub const FILEHANDLE: u32 = 19;
    pub const FILEID: u32 = 20;
    pub const FILES_AVAIL: u32 = 21;
    pub const FILES_FREE: u32 = 22;
    pub const FILES_TOTAL: u32 = 23;
    pub const FS_LOCATIONS: u32 = 24;
    pub const MAXNAME: u32 = 29;
    pub const MAXREAD: u32 = 30;
    pub const MAXWRITE: u32 = 31;
    pub const MODE: u32 = 33;
    pub const NUMLINKS: u32 = 35;
    pub const OWNER: u32 = 36;
    pub const OWNER_GROUP: u32 = 37;
    pub const RAWDEV: u32 = 41;
    pub const SPACE_AVAIL: u32 = 42;
    pub const SPACE_FREE: u32 = 43;
    pub const SPACE_TOTAL: u32 = 44;
    pub const SPACE_USED: u32 = 45;
    pub const TIME_ACCESS: u32 = 47;
    pub const TIME_ACCESS_SET: u32 = 48;
    pub const TIME_METADATA: u32 = 52;
    pub const TIME_MODIFY: u32 = 53;
    pub const TIME_MODIFY_SET: u32 = 54;
    pub const MOUNTED_ON_FILEID: u32 = 55;
    pub const XATTR_SUPPORT: u32 = 82;
}

/// Words of a bitmap that are kept; no attribute or operation that matters here has a higher number.
const WORDS: usize = 3;

/// Hold a set of attributes (`bitmap4`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bitmap(pub [u32; WORDS]);

impl Bitmap {
    /// Make the set of these attributes.
    pub const fn of(attributes: &[u32]) -> Self {
        let mut words = [0; WORDS];
        let mut at = 0;
        while at < attributes.len() {
            words[attributes[at] as usize / 32] |= 1 << (attributes[at] % 32);
            at += 1;
        }
        Self(words)
    }

    /// Tell whether an attribute is in the set.
    pub const fn has(&self, attribute: u32) -> bool {
        let word = attribute as usize / 32;
        word < WORDS && self.0[word] & 1 << (attribute % 32) != 0
    }

    /// Give those that are in both sets.
    #[must_use]
    pub const fn and(&self, other: &Self) -> Self {
        let (a, b) = (&self.0, &other.0);
        Self([a[0] & b[0], a[1] & b[1], a[2] & b[2]])
    }

    /// Write the set.
    pub fn encode(&self, out: &mut Encoder<'_>) {
        let len = WORDS - self.0.iter().rev().take_while(|word| **word == 0).count();
        out.u32(len as u32);
        for word in &self.0[..len] {
            out.u32(*word);
        }
    }

    /// Read a set. Attributes with higher numbers than are known here are left out.
    ///
    /// # Errors
    /// [`Malformed`] when it is longer than any specification's or ends too early.
    pub fn decode(input: &mut Decoder<'_>) -> Result<Self> {
        let mut words = [0; WORDS];
        for at in 0..input.count(16)? as usize {
            let word = input.u32()?;
            match words.get_mut(at) {
                Some(place) => *place = word,
                // Their values would follow those that are read, so they cannot be skipped.
                None if word != 0 => return Err(Malformed),
                None => {}
            }
        }
        Ok(Self(words))
    }

    /// Read a set that says what a server supports, of which higher numbers mean nothing here.
    ///
    /// # Errors
    /// As [`Self::decode`].
    fn decode_supported(input: &mut Decoder<'_>) -> Result<Self> {
        let mut words = [0; WORDS];
        for at in 0..input.count(16)? as usize {
            let word = input.u32()?;
            if let Some(place) = words.get_mut(at) {
                *place = word;
            }
        }
        Ok(Self(words))
    }
}

/// Name sets of attributes that are asked for.
pub struct AttrRequest;

impl AttrRequest {
    /// What `stat` needs, and what tells whether a file changed.
    pub const STAT: Bitmap = Bitmap::of(&[
        attr::TYPE,
        attr::CHANGE,
        attr::SIZE,
        attr::FSID,
        attr::FILEID,
        attr::MODE,
        attr::NUMLINKS,
        attr::OWNER,
        attr::OWNER_GROUP,
        attr::RAWDEV,
        attr::SPACE_USED,
        attr::TIME_ACCESS,
        attr::TIME_METADATA,
        attr::TIME_MODIFY,
        attr::MOUNTED_ON_FILEID,
    ]);
    /// What READDIR needs without attributes.
    pub const NAME: Bitmap = Bitmap::of(&[
        attr::TYPE,
        attr::RDATTR_ERROR,
        attr::FILEID,
        attr::MOUNTED_ON_FILEID,
    ]);
    /// The same, and the file system.
    pub const NAME_AND_FS: Bitmap = {
        let [a, b, c] = Self::NAME.0;
        Bitmap([a | 1 << attr::FSID, b, c])
    };
    /// What READDIRPLUS needs.
    pub const ENTRY: Bitmap = {
        let more = Bitmap::of(&[attr::RDATTR_ERROR, attr::FILEHANDLE]);
        let (a, b) = (Self::STAT.0, more.0);
        Bitmap([a[0] | b[0], a[1] | b[1], a[2] | b[2]])
    };
    /// What STATFS needs.
    pub const STATFS: Bitmap = Bitmap::of(&[
        attr::FILES_AVAIL,
        attr::FILES_FREE,
        attr::FILES_TOTAL,
        attr::MAXNAME,
        attr::SPACE_AVAIL,
        attr::SPACE_FREE,
        attr::SPACE_TOTAL,
    ]);
    /// What may be asked of a file system that is not here. Anything else answers MOVED.
    pub const LOCATIONS: Bitmap = Bitmap::of(&[attr::FSID, attr::RDATTR_ERROR, attr::FS_LOCATIONS]);
    /// What a client asks a server once.
    pub const SERVER: Bitmap = Bitmap::of(&[
        attr::SUPPORTED_ATTRS,
        attr::FH_EXPIRE_TYPE,
        attr::LEASE_TIME,
        attr::MAXNAME,
        attr::MAXREAD,
        attr::MAXWRITE,
        attr::XATTR_SUPPORT,
    ]);
}

/// Name the type of a file (`nfs_ftype4`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FileKind {
    /// Regular file.
    #[default]
    Regular,
    /// Directory.
    Directory,
    /// Block device.
    Block,
    /// Character device.
    Character,
    /// Symbolic link.
    Link,
    /// Socket.
    Socket,
    /// FIFO.
    Fifo,
}

impl FileKind {
    const fn decode(number: u32) -> Option<Self> {
        Some(match number {
            // Attribute directories and named attributes never come from what we ask for.
            1 => Self::Regular,
            2 => Self::Directory,
            3 => Self::Block,
            4 => Self::Character,
            5 => Self::Link,
            6 => Self::Socket,
            7 => Self::Fifo,
            _ => return None,
        })
    }

    /// Give the type's number on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::Block => 3,
            Self::Character => 4,
            Self::Link => 5,
            Self::Socket => 6,
            Self::Fifo => 7,
        }
    }

    /// Give the type as the `S_IFMT` bits of a mode.
    pub const fn mode(self) -> u32 {
        match self {
            Self::Fifo => 0o010_000,
            Self::Character => 0o020_000,
            Self::Directory => 0o040_000,
            Self::Block => 0o060_000,
            Self::Regular => 0o100_000,
            Self::Link => 0o120_000,
            Self::Socket => 0o140_000,
        }
    }
}

/// Hold a point in time (`nfstime4`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds of the second.
    pub nanoseconds: u32,
}

/// Hold attributes of a file. What was not sent is zero, and the number of names one; `sent` tells.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileAttr<'a> {
    /// Which of them were sent.
    pub sent: Bitmap,
    /// Type.
    pub kind: FileKind,
    /// A number that is another after each change.
    pub change: u64,
    /// Size in bytes.
    pub size: u64,
    /// File system.
    pub fsid: (u64, u64),
    /// Why the other attributes of a directory's entry are not there; zero when they are.
    pub error: u32,
    /// Handle, in directories.
    pub handle: Option<Handle>,
    /// Inode number.
    pub fileid: u64,
    /// Inode number of the directory that a file system is mounted on.
    pub mounted_on: u64,
    /// Permissions.
    pub mode: u32,
    /// Number of names.
    pub links: u32,
    /// Owner, a number or a name.
    pub owner: &'a [u8],
    /// Group, a number or a name.
    pub group: &'a [u8],
    /// Device number of a special file.
    pub device: (u32, u32),
    /// Bytes used.
    pub used: u64,
    /// Last access.
    pub accessed: Time,
    /// Last change of attributes.
    pub changed: Time,
    /// Last change of content.
    pub modified: Time,
}

/// Hold what a server says of itself and of a file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerAttr {
    /// Attributes that it has.
    pub supported: Bitmap,
    /// `FH4_*`: when handles end; zero for never.
    pub expires: u32,
    /// Seconds after which state ends that nobody renewed.
    pub lease: u32,
    /// Largest READ in bytes.
    pub max_read: u64,
    /// Largest WRITE in bytes.
    pub max_write: u64,
    /// Longest name in bytes.
    pub max_name: u32,
    /// Extended attributes are there.
    pub xattr: bool,
    /// Files: available to the caller, free, in all.
    pub files: [u64; 3],
    /// Bytes: available to the caller, free, in all.
    pub space: [u64; 3],
}

/// Walk through attributes in the order of their numbers, which is that of their values (`fattr4`).
struct Values<'a> {
    sent: Bitmap,
    next: u32,
    values: Decoder<'a>,
}

impl<'a> Values<'a> {
    fn decode(input: &mut Decoder<'a>) -> Result<Self> {
        let sent = Bitmap::decode(input)?;
        let values = Decoder::new(input.opaque(1 << 16)?);
        Ok(Self {
            sent,
            next: 0,
            values,
        })
    }

    fn next_attribute(&mut self) -> Option<u32> {
        while self.next < 32 * WORDS as u32 {
            let attribute = self.next;
            self.next += 1;
            if self.sent.has(attribute) {
                return Some(attribute);
            }
        }
        None
    }
}

fn time(input: &mut Decoder<'_>) -> Result<Time> {
    let seconds = input.u64()? as i64;
    let nanoseconds = input.u32()?;
    if nanoseconds >= 1_000_000_000 {
        return Err(Malformed);
    }
    Ok(Time {
        seconds,
        nanoseconds,
    })
}

impl<'a> FileAttr<'a> {
    /// Tell whether type and number were sent, without which a file cannot be shown.
    pub const fn is_enough(&self) -> bool {
        self.sent.has(attr::TYPE) && self.sent.has(attr::FILEID)
    }

    /// Read attributes.
    ///
    /// # Errors
    /// [`Malformed`]; also for attributes that nobody asked for, whose length is not known.
    pub fn decode(input: &mut Decoder<'a>) -> Result<Self> {
        let mut list = Values::decode(input)?;
        let mut found = Self {
            sent: list.sent,
            links: 1,
            ..Self::default()
        };
        while let Some(attribute) = list.next_attribute() {
            let values = &mut list.values;
            match attribute {
                attr::TYPE => found.kind = FileKind::decode(values.u32()?).ok_or(Malformed)?,
                attr::CHANGE => found.change = values.u64()?,
                attr::SIZE => found.size = values.u64()?,
                attr::FSID => found.fsid = (values.u64()?, values.u64()?),
                attr::RDATTR_ERROR => found.error = values.u32()?,
                attr::FILEHANDLE => found.handle = Handle::new(values.opaque(MAX_HANDLE)?),
                attr::FILEID => found.fileid = values.u64()?,
                attr::MODE => found.mode = values.u32()? & 0o7777,
                attr::NUMLINKS => found.links = values.u32()?,
                attr::OWNER => found.owner = values.opaque(MAX_OPAQUE)?,
                attr::OWNER_GROUP => found.group = values.opaque(MAX_OPAQUE)?,
                attr::RAWDEV => found.device = (values.u32()?, values.u32()?),
                attr::SPACE_USED => found.used = values.u64()?,
                attr::TIME_ACCESS => found.accessed = time(values)?,
                attr::TIME_METADATA => found.changed = time(values)?,
                attr::TIME_MODIFY => found.modified = time(values)?,
                attr::MOUNTED_ON_FILEID => found.mounted_on = values.u64()?,
                _ => return Err(Malformed),
            }
        }
        Ok(found)
    }
}

impl ServerAttr {
    /// Read attributes of a server or a file system.
    ///
    /// # Errors
    /// As [`FileAttr::decode`].
    pub fn decode(input: &mut Decoder<'_>) -> Result<Self> {
        let mut list = Values::decode(input)?;
        let mut found = Self::default();
        while let Some(attribute) = list.next_attribute() {
            let values = &mut list.values;
            match attribute {
                attr::SUPPORTED_ATTRS => found.supported = Bitmap::decode_supported(values)?,
                attr::FH_EXPIRE_TYPE => found.expires = values.u32()?,
                attr::LEASE_TIME => found.lease = values.u32()?,
                attr::FILES_AVAIL => found.files[0] = values.u64()?,
                attr::FILES_FREE => found.files[1] = values.u64()?,
                attr::FILES_TOTAL => found.files[2] = values.u64()?,
                attr::MAXNAME => found.max_name = values.u32()?,
                attr::MAXREAD => found.max_read = values.u64()?,
                attr::MAXWRITE => found.max_write = values.u64()?,
                attr::SPACE_AVAIL => found.space[0] = values.u64()?,
                attr::SPACE_FREE => found.space[1] = values.u64()?,
                attr::SPACE_TOTAL => found.space[2] = values.u64()?,
                attr::XATTR_SUPPORT => found.xattr = values.bool()?,
                _ => return Err(Malformed),
            }
        }
        Ok(found)
    }
}

/// Read where a file system is; `None` when the server does not say.
///
/// # Errors
/// As [`FileAttr::decode`].
pub(super) fn decode_locations<'a>(input: &mut Decoder<'a>) -> Result<Option<FsLocations<'a>>> {
    let mut list = Values::decode(input)?;
    let mut found = None;
    while let Some(attribute) = list.next_attribute() {
        let values = &mut list.values;
        match attribute {
            attr::FSID => values.skip(4)?,
            attr::RDATTR_ERROR => values.skip(1)?,
            attr::FS_LOCATIONS => found = Some(FsLocations::decode(values)?),
            _ => return Err(Malformed),
        }
    }
    Ok(found)
}

/// Say what time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The server's.
    Server,
    /// This one.
    Client(Time),
}

/// Say which attributes to set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settable<'a> {
    /// Size in bytes.
    pub size: Option<u64>,
    /// Permissions.
    pub mode: Option<u32>,
    /// Owner.
    pub owner: Option<&'a [u8]>,
    /// Group.
    pub group: Option<&'a [u8]>,
    /// Last access.
    pub accessed: Option<SetTime>,
    /// Last change of content.
    pub modified: Option<SetTime>,
}

impl Settable<'_> {
    /// Write the attributes.
    pub fn encode(&self, out: &mut Encoder<'_>) {
        let present = [
            (attr::SIZE, self.size.is_some()),
            (attr::MODE, self.mode.is_some()),
            (attr::OWNER, self.owner.is_some()),
            (attr::OWNER_GROUP, self.group.is_some()),
            (attr::TIME_ACCESS_SET, self.accessed.is_some()),
            (attr::TIME_MODIFY_SET, self.modified.is_some()),
        ];
        let mut set = Bitmap::default();
        for (attribute, _) in present.iter().filter(|(_, present)| *present) {
            set.0[*attribute as usize / 32] |= 1 << (attribute % 32);
        }
        set.encode(out);
        let len_at = out.len();
        out.u32(0);
        if let Some(size) = self.size {
            out.u64(size);
        }
        if let Some(mode) = self.mode {
            out.u32(mode & 0o7777);
        }
        for name in [self.owner, self.group].into_iter().flatten() {
            out.opaque(name);
        }
        for time in [self.accessed, self.modified].into_iter().flatten() {
            match time {
                SetTime::Server => out.u32(0),
                SetTime::Client(time) => {
                    out.u32(1);
                    out.u64(time.seconds as u64);
                    out.u32(time.nanoseconds);
                }
            }
        }
        let len = out.len().saturating_sub(len_at + 4);
        out.patch(len_at, len as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_in_the_order_of_their_numbers() {
        let mut buffer = [0; 64];
        let mut out = Encoder::new(&mut buffer);
        Bitmap::of(&[attr::TYPE, attr::SIZE, attr::MODE]).encode(&mut out);
        out.u32(16);
        out.u32(2);
        out.u64(4096);
        out.u32(0o100_755);
        let len = out.finish().unwrap();
        let found = FileAttr::decode(&mut Decoder::new(&buffer[..len])).unwrap();
        assert_eq!(found.kind, FileKind::Directory);
        assert_eq!((found.size, found.mode), (4096, 0o755));
        assert!(!found.sent.has(attr::FILEID));
        for cut in 0..len {
            assert!(FileAttr::decode(&mut Decoder::new(&buffer[..cut])).is_err());
        }
    }

    #[test]
    fn what_nobody_asked_for_is_an_error() {
        for words in [[1, 1 << 12, 0], [1, 1 << attr::LEASE_TIME, 0]] {
            let mut buffer = [0; 12];
            let mut out = Encoder::new(&mut buffer);
            words.iter().for_each(|word| out.u32(*word));
            assert!(FileAttr::decode(&mut Decoder::new(&buffer)).is_err());
        }
    }

    #[test]
    fn what_is_set_is_counted_in_bytes() {
        let mut buffer = [0; 64];
        let mut out = Encoder::new(&mut buffer);
        let set = Settable {
            mode: Some(0o644),
            modified: Some(SetTime::Server),
            ..Settable::default()
        };
        set.encode(&mut out);
        let len = out.finish().unwrap();
        let mut input = Decoder::new(&buffer[..len]);
        let sent = Bitmap::decode(&mut input).unwrap();
        assert_eq!(sent, Bitmap::of(&[attr::MODE, attr::TIME_MODIFY_SET]));
        assert_eq!(input.opaque(64).unwrap(), [0, 0, 1, 0xa4, 0, 0, 0, 0]);
    }
}
