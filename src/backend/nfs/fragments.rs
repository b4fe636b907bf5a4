//! Records that come in several fragments (RFC 5531, section 11). Servers seldom send such ones, so they are joined in
//! the buffer that they come into, which one has to fit as a whole. A READ's may not: then less is asked for at a time.

use super::instance::Nfs;
use super::link::BUFFER;
use crate::wire::rpc::{MARK_LEN, mark, parse_mark};

/// Bytes that a READ asks for whose answer comes in fragments.
pub const MOST: u32 = BUFFER as u32 / 2;

impl Nfs {
    /// An answer in fragments fills the buffer: ask for less in each READ from now on, also by those under way. False when
    /// that is so already.
    #[cold]
    pub(super) fn ask_for_less(&mut self) -> bool {
        if core::mem::replace(&mut self.fragmented, true) {
            return false;
        }
        // Calls that are sent again are the same in their slots, so others need others.
        self.lose_session(
            "READs are asked for in smaller pieces, as their answers come in fragments",
        );
        self.fit_calls();
        true
    }
}

/// Say what joining gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Joined {
    /// Bytes that count now, marks included.
    pub len: usize,
    /// The record is whole: it has one mark, and that says so.
    pub whole: bool,
}

/// Join the fragments at the start of `come` that are there, so that they are one; what is behind them follows it.
pub fn join(come: &mut [u8]) -> Joined {
    let (mut read, mut written, mut whole) = (0, MARK_LEN, false);
    while !whole && let Some(next) = come[read..].first_chunk() {
        let (len, last) = parse_mark(*next);
        let begin = read + MARK_LEN;
        if len > come.len() - begin {
            break;
        }
        come.copy_within(begin..begin + len, written);
        (read, written, whole) = (begin + len, written + len, last);
    }
    if read == 0 {
        let len = come.len();
        return Joined { len, whole };
    }
    come.copy_within(read.., written);
    let mut joined = mark(written - MARK_LEN);
    if !whole {
        joined[0] &= 0x7f;
    }
    come[..MARK_LEN].copy_from_slice(&joined);
    Joined {
        len: written + come.len() - read,
        whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_become_one_as_they_come() {
        let stream = *b"\0\0\0\x03abc\0\0\0\0\0\0\0\x02de\x80\0\0\x01f\x80\0\0\x01g";
        for cut in 0..=stream.len() {
            let mut buffer = stream;
            // What has come first is joined before the rest is there.
            let first = join(&mut buffer[..cut]).len;
            let rest = stream.len() - cut;
            buffer[first..first + rest].copy_from_slice(&stream[cut..]);
            let mut joined = Joined {
                len: first + rest,
                whole: false,
            };
            if parse_mark(*buffer.first_chunk().unwrap()).1 {
                joined.whole = true;
            } else {
                joined = join(&mut buffer[..first + rest]);
            }
            assert!(joined.whole, "{cut}");
            assert_eq!(
                &buffer[..joined.len],
                b"\x80\0\0\x06abcdef\x80\0\0\x01g",
                "{cut}"
            );
        }
    }

    #[test]
    fn a_fragment_that_is_not_whole_stays_as_it_is() {
        for come in [&b"\0\0"[..], b"\0\0\0\x05abcd", b"\x7f\xff\xff\xffabcd"] {
            let mut buffer = [0; 16];
            let buffer = &mut buffer[..come.len()];
            buffer.copy_from_slice(come);
            let (len, whole) = (come.len(), false);
            assert_eq!(join(buffer), Joined { len, whole });
            assert_eq!(buffer, come);
        }
    }
}
