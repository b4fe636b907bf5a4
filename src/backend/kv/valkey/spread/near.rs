//! What the volume's own node is asked where content spreads: requests to its functions.

use super::super::super::engine::Expect;
use super::super::objects::group::CHUNKS;
use super::super::request::{Once, call, call_once, expect};
use super::NEAR;
use crate::wire::resp::Encoder;

/// Most groups that are told at a time.
pub const GROUPS: usize = 32;

/// Ask for something.
#[derive(Clone, Copy, Debug)]
pub enum Near<'a> {
    /// Begin a write, or end it when its generation is still `ends`: 0 when the inode is not as expected, 1 when there is
    /// another generation; or twice the generation and 2, and 1 more when the inode has changed.
    Write {
        ino: u64,
        expect: Expect,
        /// As they are sent.
        patches: &'a [u8],
        offset: u64,
        /// First and last group that are written to.
        groups: (u32, u32),
        ends: u64,
        /// Lowest generation.
        least: u64,
        /// Bytes of the host's that belong here.
        payload: u32,
    },
    /// Clear what is here, and begin to clear the rest: 0 when the inode is not as expected, 1 without groups, or the
    /// generation and 2.
    Clear {
        ino: u64,
        expect: Expect,
        from: u64,
        to: u64,
        /// The file ends there from now on.
        raises: bool,
    },
    /// The generation, the number of groups, and [`GROUPS`] of these at most, the last included.
    Groups { ino: u64, first: u32, last: u32 },
    /// Remove the inode: 1; 0 when it is not as expected, 2 when it has not so many groups.
    Purge {
        ino: u64,
        expect: Expect,
        count: u64,
    },
    /// Find content or a hole; or the group to be asked.
    Seek {
        ino: u64,
        offset: u64,
        size: u64,
        hole: bool,
    },
}

impl Near<'_> {
    /// Write the request; `chunk` is the size of chunks.
    pub fn write(&self, to: &mut Encoder<'_>, prefix: &[u8], once: &Once, chunk: u32) {
        match *self {
            Self::Write {
                ino,
                expect: as_expected,
                patches,
                offset,
                groups,
                ends,
                least,
                payload,
            } => {
                let to = call_once(to, b"dpfs_spread_write", prefix, once, 10);
                expect(to.bytes(&ino.to_be_bytes()), as_expected);
                to.part(patches).number(chunk.into()).number(offset);
                to.number(groups.0.into()).number(groups.1.into());
                to.number(ends).number(least);
                to.announce(payload.into()).end();
            }
            Self::Clear {
                ino,
                expect: as_expected,
                from,
                to: end,
                raises,
            } => {
                let to = call_once(to, b"dpfs_spread_clear", prefix, once, 7);
                expect(to.bytes(&ino.to_be_bytes()), as_expected);
                to.number(from).number(end).number(chunk.into());
                to.number(NEAR).number(raises.into());
            }
            Self::Groups { ino, first, last } => {
                let to = call(to, b"dpfs_groups", prefix, 4).bytes(&ino.to_be_bytes());
                to.number(first.into()).number(last.into());
                to.number(GROUPS as u64);
            }
            Self::Purge {
                ino,
                expect: as_expected,
                count,
            } => {
                let to = call_once(to, b"dpfs_spread_purge", prefix, once, 3);
                expect(to.bytes(&ino.to_be_bytes()), as_expected);
                to.number(count);
            }
            Self::Seek {
                ino,
                offset,
                size,
                hole,
            } => {
                let to = call(to, b"dpfs_spread_seek", prefix, 7).bytes(&ino.to_be_bytes());
                to.number(offset).number(size).number(chunk.into());
                to.number(hole.into()).number(NEAR).number(CHUNKS.into());
            }
        }
    }
}
