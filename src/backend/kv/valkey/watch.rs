//! What a WRITE changes at the server, watched, so that the client itself can say what becomes of it.
//!
//! The function of a WRITE costs the server several times what the content does. It changes two records: the client's own,
//! which only that client's calls change, and the inode. So who writes to one file again and again has the server watch the
//! inode (WATCH), and is told what both are. As long as nobody changes it the client knows what the function would make of
//! them, and sends just that, as a transaction (MULTI to EXEC). The server does it when the inode is as it was, and nothing
//! of it otherwise.
//!
//! ```text
//!  a WRITE's function, watch ──> told ──> MULTI  SETRANGE of each WRITE  ZADD  MSET  EXEC  watch ──> told ──> ..
//! ```
//!
//! The client's record keeps a result for each, as the function would have it. So what was not answered is sent again as
//! a call of the function and is not done twice, and what a server forgot is noticed.
//!
//! Here is what is sent and understood; which WRITEs go this way is for [`super::transaction`].

use heapless::Vec;

use super::super::engine::kind;
use super::request::{Once, VERSION_LEN};
use super::write_call::WriteCall;
use crate::wire::resp::{Digits, Encoder, Item, Malformed, Reader};

/// Longest record of a client in bytes: some 280 results.
const RECORD_MAX: usize = 2048;
/// Longest stored inode in bytes.
const INODE_MAX: usize = 256;
/// Bytes of a client's record before its results, and of each; see the library.
const HEAD: usize = 13;
const EACH: usize = 7;
/// Result 1, as it is kept.
const ONE: [u8; EACH] = [0, 0, 0, 0, 0, 0, 2];
/// Where a client's record has the lowest sequence number whose result is wanted.
const FROM: core::ops::Range<usize> = 3..8;

/// The two records, as they are at the server.
#[derive(Default)]
pub struct Told {
    record: Vec<u8, RECORD_MAX>,
    inode: Vec<u8, INODE_MAX>,
}

impl Told {
    /// Do to both what the function of a WRITE would. False, and nothing has changed, when only the server can say what
    /// that is.
    pub fn write(&mut self, once: &Once, write: &WriteCall<'_>) -> bool {
        let Some((version, value)) = self.inode.split_first_chunk_mut::<VERSION_LEN>() else {
            return false;
        };
        let found = Some((u64::from_be_bytes(*version), &*value));
        if !write.expect.holds(found) || !ended(&mut self.record, once) {
            return false;
        }
        // Who made it, and with which number.
        version[..3].copy_from_slice(&self.record[..3]);
        version[3..].copy_from_slice(&once.sequence.to_be_bytes()[3..]);
        write.patches().for_each(|patch| patch.apply(value));
        true
    }
}

/// Read the number at these five bytes.
fn number(record: &[u8]) -> u64 {
    record[FROM]
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Note in a client's record that a change was made; as `ended` of the library does, but for what is out of order or lost.
fn ended(record: &mut Vec<u8, RECORD_MAX>, once: &Once) -> bool {
    if record.len() < HEAD {
        return false;
    }
    let from = number(record);
    let first = from.saturating_sub(1);
    let next = once.ack.max(from).saturating_sub(1);
    let results = (record.len() - HEAD) / EACH;
    let (Ok(dropped), Ok(place)) = (
        usize::try_from(next - first),
        usize::try_from(once.sequence.wrapping_sub(next)),
    ) else {
        return false;
    };
    let kept = results.saturating_sub(dropped);
    let in_order = once.sequence >= once.ack.max(from) && place >= kept;
    if !in_order || HEAD + (place + 1) * EACH > RECORD_MAX {
        return false;
    }
    // The number before is answered, so its result is here; or the server has lost it, and is to find that.
    let before = HEAD + dropped * EACH;
    let known = (record.get(before..before + EACH)).is_some_and(|result| result != [0; EACH]);
    if once.ack > from && once.sure && next > 0 && !known {
        return false;
    }
    if kept > 0 {
        record.copy_within(before.., HEAD);
    }
    record.truncate(HEAD + kept * EACH);
    let fits =
        record.resize(HEAD + place * EACH, 0).is_ok() && record.extend_from_slice(&ONE).is_ok();
    debug_assert!(fits, "its length was looked at");
    record[FROM].copy_from_slice(&once.ack.max(from).to_be_bytes()[3..]);
    true
}

/// Name what is watched, and whose.
pub struct Names<'a> {
    /// The volume's.
    pub prefix: &'a [u8],
    /// The client's number.
    pub client: u64,
    pub ino: u64,
}

impl Names<'_> {
    fn record(&self, to: &mut Encoder<'_>) {
        let client = Digits::new(self.client);
        let client = client.as_bytes();
        to.announce((self.prefix.len() + 1 + client.len()) as u64);
        to.part(self.prefix).part(b"s").part(client).end();
    }

    /// A key of the inode's: kind, number, and what comes behind that.
    fn key(&self, to: &mut Encoder<'_>, kind: u8, tail: &[u8]) {
        to.announce((self.prefix.len() + 9 + tail.len()) as u64);
        to.part(self.prefix).part(&[kind]);
        to.part(&self.ino.to_be_bytes()).part(tail).end();
    }

    /// Write the requests to watch the inode from now on, whatever was watched before, and to tell both records. Each of
    /// [`WATCH`] has a reply.
    ///
    /// First a transaction of nothing: were MULTI refused, as a user may be forbidden it, what comes behind it would be done at
    /// once; and were EXEC, all would be put off for ever, but for DISCARD.
    pub fn watch(&self, to: &mut Encoder<'_>) {
        for command in [&b"UNWATCH"[..], b"MULTI", b"EXEC", b"DISCARD"] {
            to.request(1).bytes(command);
        }
        to.request(2).bytes(b"WATCH");
        self.key(to, kind::INODE, &[]);
        to.request(3).bytes(b"MGET");
        self.record(to);
        self.key(to, kind::INODE, &[]);
    }

    /// Write the request for content, but for the bytes themselves, which come behind, and the end of a string.
    pub fn content(&self, to: &mut Encoder<'_>, index: u32, inside: u32, len: u32) {
        to.request(4).bytes(b"SETRANGE");
        self.key(to, kind::CHUNK, &index.to_be_bytes());
        to.number(inside.into()).announce(len.into());
    }

    /// Write the end of a transaction: which chunks there are, but for the first; what the records become; and to watch the
    /// inode again, and tell it. Chunks are noted each time: who clears content takes them away, and the inode stays as it is.
    pub fn end(&self, to: &mut Encoder<'_>, chunks: &[u32], told: &Told) {
        if !chunks.is_empty() {
            to.request(2 + 2 * chunks.len() as u32).bytes(b"ZADD");
            self.key(to, kind::CHUNK, &[]);
            for &index in chunks {
                to.number(index.into()).number(index.into());
            }
        }
        to.request(5).bytes(b"MSET");
        self.record(to);
        to.bytes(&told.record);
        self.key(to, kind::INODE, &[]);
        to.bytes(&told.inode);
        to.request(1).bytes(b"EXEC");
        // That ended the watch. Before the next one somebody may come between.
        for command in [&b"WATCH"[..], b"GET"] {
            to.request(2).bytes(command);
            self.key(to, kind::INODE, &[]);
        }
    }
}

/// Say what became of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All of it is done.
    Done,
    /// A record has changed, so nothing is.
    Raced,
    /// The server refused it, so nothing is.
    Refused,
    /// It was done in part: what is at the server is not what should be.
    Broken,
}

/// Understand the replies to a transaction of so many requests, to EXEC the last. They have come in full.
pub fn outcome(reader: &mut Reader<'_>, requests: usize) -> Result<Outcome, Malformed> {
    // Each says that it is put off, or why not.
    for _ in 0..=requests {
        simple(reader)?;
    }
    match reader.item()?.ok_or(Malformed)? {
        Item::Null => Ok(Outcome::Raced),
        Item::Error(_) => Ok(Outcome::Refused),
        Item::Array(count) if count == requests as u64 => {
            let mut outcome = Outcome::Done;
            for _ in 0..count {
                match reader.item()?.ok_or(Malformed)? {
                    Item::Integer(_) | Item::Simple(_) => {}
                    Item::Error(_) => outcome = Outcome::Broken,
                    _ => return Err(Malformed),
                }
            }
            Ok(outcome)
        }
        _ => Err(Malformed),
    }
}

/// Tell whether the next reply is no error.
fn simple(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    match reader.item()?.ok_or(Malformed)? {
        Item::Simple(_) => Ok(true),
        Item::Error(_) => Ok(false),
        _ => Err(Malformed),
    }
}

/// Take a record. False when there is none, or it is longer than what is kept.
fn take<const N: usize>(
    reader: &mut Reader<'_>,
    record: &mut Vec<u8, N>,
) -> Result<bool, Malformed> {
    record.clear();
    match reader.item()?.ok_or(Malformed)? {
        Item::Null | Item::Error(_) => Ok(false),
        Item::Bulk(len) => {
            let bytes = reader.body(len)?.ok_or(Malformed)?;
            Ok(record.extend_from_slice(bytes).is_ok())
        }
        _ => Err(Malformed),
    }
}

/// Understand the replies to a transaction of so many requests that is discarded. They have come in full.
pub fn discarded(reader: &mut Reader<'_>, requests: usize) -> Result<(), Malformed> {
    for _ in 0..requests + DISCARD {
        simple(reader)?;
    }
    Ok(())
}

/// Number of replies to [`Names::watch`]; and to a transaction, beside one to each request, that is done or discarded.
pub const WATCH: usize = 6;
pub const BESIDE: usize = 4;
pub const DISCARD: usize = 2;

impl Told {
    /// Understand the replies to [`Names::watch`]. False when the server does not watch or tell.
    pub fn watched(&mut self, reader: &mut Reader<'_>) -> Result<bool, Malformed> {
        let multi = simple(reader)? & simple(reader)?;
        let exec = reader.item()?.ok_or(Malformed)? == Item::Array(0);
        // Nothing is there to discard when EXEC was done.
        let discard = simple(reader)?;
        let watched = simple(reader)? & multi & exec & !discard;
        Ok(match reader.item()?.ok_or(Malformed)? {
            Item::Array(2) => {
                take(reader, &mut self.record)? & take(reader, &mut self.inode)? & watched
            }
            Item::Error(_) => false,
            _ => return Err(Malformed),
        })
    }

    /// Understand the replies to what is behind EXEC. False as before.
    pub fn watched_again(&mut self, reader: &mut Reader<'_>) -> Result<bool, Malformed> {
        Ok(simple(reader)? & take(reader, &mut self.inode)?)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    /// A record of client 5 with these results, of which the first is that of the number before `from`.
    fn record(from: u64, results: &[u8]) -> Vec<u8, RECORD_MAX> {
        let mut record = Vec::new();
        record.extend_from_slice(&[0, 0, 5]).unwrap();
        record.extend_from_slice(&from.to_be_bytes()[3..]).unwrap();
        record.extend_from_slice(&[0; 5]).unwrap();
        for &result in results {
            record
                .extend_from_slice(&[0, 0, 0, 0, 0, 0, result])
                .unwrap();
        }
        record
    }

    const fn once(sequence: u64, ack: u64) -> Once {
        Once {
            client: 7,
            sequence,
            ack,
            sure: true,
        }
    }

    #[test]
    fn a_record_becomes_what_the_function_would_make_of_it() {
        for (from, results, sequence, ack, then_from, then) in [
            // One after another: the one before stays.
            (3, &[2, 2][..], 4, 4, 4, &[2, 2][..]),
            (0, &[0, 2], 2, 2, 2, &[2, 2]),
            // Several under way.
            (3, &[2, 2], 4, 3, 3, &[2, 2, 2]),
            (3, &[2, 2, 2, 1], 6, 5, 5, &[2, 1, 2]),
            // Numbers that were left out.
            (3, &[2, 2], 32, 4, 4, &[&[2][..], &[0; 28], &[2]].concat()),
        ] {
            let mut found = record(from, results);
            assert!(ended(&mut found, &once(sequence, ack)), "{sequence}");
            assert_eq!(found, record(then_from, then), "{sequence}");
        }
    }

    #[test]
    fn what_only_the_server_can_say_changes_nothing() {
        for (before, once) in [
            // Done already, or out of order.
            (record(3, &[2, 2, 2]), once(4, 3)),
            (record(3, &[2, 2, 2]), once(3, 3)),
            // Given up long ago.
            (record(9, &[2]), once(8, 9)),
            (record(9, &[2]), once(10, 11)),
            // The server does not have what it answered.
            (record(3, &[2]), once(6, 6)),
            (record(3, &[2, 0]), once(4, 4)),
            // More results than are kept.
            (record(3, &[2, 2]), once(400, 4)),
            // No record.
            (Vec::from_slice(&[0; 12]).unwrap(), once(1, 1)),
        ] {
            let mut found = before.clone();
            assert!(!ended(&mut found, &once), "{once:?}");
            assert_eq!(found, before, "{once:?}");
        }
    }

    #[test]
    fn what_a_server_answers_is_understood_or_refused() {
        for (bytes, wanted) in [
            (
                &b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:9\r\n+OK\r\n"[..],
                Ok(Outcome::Done),
            ),
            (b"+OK\r\n+QUEUED\r\n+QUEUED\r\n_\r\n", Ok(Outcome::Raced)),
            (
                b"+OK\r\n+QUEUED\r\n-OOM no\r\n-EXECABORT no\r\n",
                Ok(Outcome::Refused),
            ),
            (b"-NOPERM\r\n:1\r\n", Err(Malformed)),
            (
                b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:9\r\n-ERR\r\n",
                Ok(Outcome::Broken),
            ),
            (b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*1\r\n:9\r\n", Err(Malformed)),
            (b"+OK\r\n+QUEUED\r\n", Err(Malformed)),
        ] {
            assert_eq!(outcome(&mut Reader::new(bytes), 2), wanted);
        }
        for (bytes, wanted) in [
            (&b"+OK\r\n+QUEUED\r\n+QUEUED\r\n+OK\r\n"[..], Ok(())),
            (b"+OK\r\n-OOM no\r\n+QUEUED\r\n+OK\r\n", Ok(())),
            (b"+OK\r\n:1\r\n:2\r\n-ERR no MULTI\r\n", Err(Malformed)),
        ] {
            assert_eq!(discarded(&mut Reader::new(bytes), 2), wanted);
        }
        let mut told = Told::default();
        const MAY: &str = "+OK\r\n+OK\r\n*0\r\n-ERR no MULTI\r\n";
        const BOTH: &str = "*2\r\n$3\r\nabc\r\n$2\r\nde\r\n";
        for (may, watch, both, wanted) in [
            (MAY, "+OK\r\n", BOTH, Ok(true)),
            (MAY, "+OK\r\n", "*2\r\n$3\r\nabc\r\n_\r\n", Ok(false)),
            (MAY, "-NOPERM\r\n", BOTH, Ok(false)),
            (MAY, "+OK\r\n", "-MOVED 1 a:1\r\n", Ok(false)),
            (MAY, "+OK\r\n", "*3\r\n", Err(Malformed)),
            (MAY, "+OK\r\n", "*2\r\n:3\r\n", Err(Malformed)),
            // MULTI is forbidden, or EXEC.
            (
                "+OK\r\n-NOPERM\r\n-ERR\r\n-ERR\r\n",
                "+OK\r\n",
                BOTH,
                Ok(false),
            ),
            (
                "+OK\r\n+OK\r\n-NOPERM\r\n+OK\r\n",
                "+OK\r\n",
                BOTH,
                Ok(false),
            ),
        ] {
            let bytes = [may, watch, both].concat();
            let found = told.watched(&mut Reader::new(bytes.as_bytes()));
            assert_eq!(found, wanted, "{bytes}");
        }
        assert_eq!(
            told.watched_again(&mut Reader::new(b"+OK\r\n$1\r\nx\r\n")),
            Ok(true)
        );
        // Longer than an inode is.
        let long = [&b"+OK\r\n$300\r\n"[..], &[b'x'; 300], b"\r\n"].concat();
        assert_eq!(told.watched_again(&mut Reader::new(&long)), Ok(false));
    }
}
