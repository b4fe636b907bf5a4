//! What is asked of a group of chunks: content of a large file of the tree, in a hash slot of its own.
//!
//! A request has the client's number and how many connections it has lost, so that one which was given up with its
//! connection, and done again by another, does no harm when it comes late.

use super::super::super::engine::NAME_MAX;
use super::super::request::{self, Durability};
use crate::wire::resp::Encoder;

/// Chunks of a group.
pub const CHUNKS: u32 = 256;
/// Most chunks that are read by one call.
pub const READ_CHUNKS: u32 = 8;

/// Name keys of a group of the volume whose prefix this is, a name in braces. Gives their number of bytes.
pub fn name(group: Group, volume: &[u8], place: &mut [u8; NAME_MAX]) -> u8 {
    tag(volume, group.ino, group.number, place)
}

/// Name a key of a volume that is in one of many slots, by its number. It is none of a group's: no file has inode 0.
pub fn name_of_settle(number: u32, volume: &[u8], place: &mut [u8; NAME_MAX]) -> u8 {
    tag(volume, 0, number, place)
}

/// Tell which group of a volume has a chunk under this key, if it is one.
pub fn of_chunk(key: &[u8], volume: &[u8]) -> Option<Group> {
    let rest = key.strip_prefix(volume.strip_suffix(b"}")?)?;
    let (index, tag) = rest
        .split_last_chunk::<4>()
        .map(|(tag, index)| (index, tag))?;
    let tag = core::str::from_utf8(tag.strip_prefix(b".")?.strip_suffix(b"}")?).ok()?;
    let (ino, number) = tag.split_once('.')?;
    let group = Group {
        ino: u64::from_str_radix(ino, 16).ok()?,
        number: u32::from_str_radix(number, 16).ok()?,
    };
    (u32::from_be_bytes(*index) / CHUNKS == group.number).then_some(group)
}

fn tag(volume: &[u8], ino: u64, number: u32, place: &mut [u8; NAME_MAX]) -> u8 {
    let volume = volume.strip_suffix(b"}").unwrap_or(volume);
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        if let Some(place) = place.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
            at += bytes.len();
        }
    };
    put(volume);
    for number in [ino, number.into()] {
        put(b".");
        let digits = number.checked_ilog2().unwrap_or(0) / 4;
        for digit in (0..=digits).rev() {
            put(&[b"0123456789abcdef"[(number >> (4 * digit)) as usize & 15]]);
        }
    }
    put(b"}");
    at as u8
}

/// Name a group: a file's chunks from [`CHUNKS`] times its number on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group {
    /// Inode of the file.
    pub ino: u64,
    /// Number in the file.
    pub number: u32,
}

/// Say what is wanted of a group. Bytes are counted in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Task {
    /// Read bytes of at most [`READ_CHUNKS`] chunks.
    Read { offset: u64, len: u32 },
    /// Write bytes, unless the file was made shorter after this generation. The answer is 0, or the generation in which
    /// it was.
    Write {
        offset: u64,
        len: u32,
        generation: u64,
    },
    /// Make bytes zeros; with a generation the file ends there from then on. The answer is 0.
    Clear { from: u64, to: u64, generation: u64 },
    /// Remove these chunks, the last included, which are all: the file is removed, in this generation. The answer is 0.
    Remove {
        first: u32,
        last: u32,
        generation: u64,
    },
    /// Find the first chunk of these, the last included, that is there or is not. The answer is 0, or its number and 1.
    Seek { first: u32, last: u32, hole: bool },
    /// Wait until what was changed on the node of this slot is as durable as configured; no group is asked.
    Settle,
}

/// Say who asks: the client's random number, and how many connections it has lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The number.
    pub client: u64,
    /// Connections.
    pub lost: u64,
}

/// Say how a volume's chunks are kept.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    /// Size of chunks in bytes.
    pub chunk: u32,
    /// What a Settle waits for.
    pub durability: Option<Durability>,
}

impl Task {
    /// Tell whether it changes something.
    pub const fn changes(self) -> bool {
        matches!(
            self,
            Self::Write { .. } | Self::Clear { .. } | Self::Remove { .. }
        )
    }

    /// Bytes of the host's that follow the request, before its last two.
    pub const fn payload(self) -> usize {
        match self {
            Self::Write { len, .. } => len as usize,
            _ => 0,
        }
    }

    /// Write the request: to the group whose prefix this is, or, of a Settle, for the node that has the key of this name.
    pub fn write(self, to: &mut Encoder<'_>, prefix: &[u8], who: Identity, volume: Volume) {
        let chunk = u64::from(volume.chunk);
        match self {
            Self::Read { offset, len } => {
                request::parts(to, prefix, (offset, len), volume.chunk);
            }
            Self::Write {
                offset,
                len,
                generation,
            } => {
                let to = change(to, b"dpfs_group_write", prefix, who, generation, 3);
                to.number(chunk).number(offset).announce(len.into()).end();
            }
            Self::Clear {
                from,
                to: end,
                generation,
            } => {
                let to = change(to, b"dpfs_group_clear", prefix, who, generation, 3);
                to.number(chunk).number(from).number(end);
            }
            Self::Remove {
                first,
                last,
                generation,
            } => {
                let to = change(to, b"dpfs_group_remove", prefix, who, generation, 2);
                to.number(first.into()).number(last.into());
            }
            Self::Seek { first, last, hole } => {
                let to = call(to, b"dpfs_group_seek", prefix, 3);
                to.number(first.into())
                    .number(last.into())
                    .number(hole.into());
            }
            Self::Settle => {
                to.request(2).bytes(b"INCR").bytes(prefix);
                if let Some(durability) = volume.durability {
                    request::wait(to, durability);
                }
            }
        }
    }
}

/// Begin a call of a function on a group, with so many arguments. Neither key need be there, and the first never is: while
/// the group's slot moves, no function runs.
fn call<'e, 'b>(
    to: &'e mut Encoder<'b>,
    function: &[u8],
    prefix: &[u8],
    arguments: usize,
) -> &'e mut Encoder<'b> {
    request::call_on(to, function, prefix, b"f", arguments)
}

/// Begin a call of a function that changes a group, with so many arguments behind who asks and the generation.
fn change<'e, 'b>(
    to: &'e mut Encoder<'b>,
    function: &[u8],
    prefix: &[u8],
    who: Identity,
    generation: u64,
    arguments: usize,
) -> &'e mut Encoder<'b> {
    call(to, function, prefix, 3 + arguments)
        .number(who.client)
        .number(who.lost)
        .number(generation)
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::wire::resp::slot;

    fn named(ino: u64, number: u32) -> std::string::String {
        let mut place = [0; NAME_MAX];
        let len = name(Group { ino, number }, b"{v.x}", &mut place);
        std::string::String::from_utf8(place[..len.into()].to_vec()).unwrap()
    }

    #[test]
    fn groups_have_tags_of_their_own() {
        assert_eq!(named(1024, 0), "{v.x.400.0}");
        assert_eq!(named(u64::MAX, u32::MAX), "{v.x.ffffffffffffffff.ffffffff}");
        assert_eq!(named(0x1f, 0x10), "{v.x.1f.10}");
        let group = Group {
            ino: 0x1f,
            number: 0x10,
        };
        assert_eq!(of_chunk(b"{v.x.1f.10}\0\0\x10\xff", b"{v.x}"), Some(group));
        let others: [&[u8]; 4] = [
            b"{v.x.1f.10}\0\0\x11\0",
            b"{v.x.1f.10}f",
            b"{v.y.1f.10}\0\0\x10\0",
            b"{v.x}\0\0\x10\0",
        ];
        others
            .iter()
            .for_each(|key| assert_eq!(of_chunk(key, b"{v.x}"), None));
        let mut thirds = [0; 3];
        for number in 0..64 {
            let slot = usize::from(slot(named(1024, number).as_bytes()));
            thirds[slot * 3 / 16384] += 1;
        }
        assert!(thirds.iter().all(|&count| count > 12), "{thirds:?}");
    }

    #[test]
    fn the_longest_request_has_room() {
        let mut place = [0; NAME_MAX];
        let volume = std::format!("{{{}}}", "v".repeat(64));
        let group = Group {
            ino: u64::MAX,
            number: u32::MAX,
        };
        let len = name(group, volume.as_bytes(), &mut place);
        let who = Identity {
            client: u64::MAX,
            lost: u64::MAX,
        };
        let volume = Volume {
            chunk: 1 << 20,
            durability: None,
        };
        let read = Task::Read {
            offset: (1 << 20) * 256 - 1,
            len: (READ_CHUNKS - 1) << 20,
        };
        let clear = Task::Clear {
            from: u64::MAX,
            to: u64::MAX,
            generation: u64::MAX,
        };
        for task in [read, clear] {
            let mut bytes = [0; super::super::ask::REQUEST];
            let mut to = Encoder::new(&mut bytes);
            task.write(&mut to, &place[..len.into()], who, volume);
            assert!(to.finish().is_some(), "{task:?}");
        }
    }
}
