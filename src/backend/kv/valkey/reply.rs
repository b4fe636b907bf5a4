//! What is asked for an operation, and what a reply to it means.

use zerocopy::FromZeros;

use super::super::engine::{Client, Done, Failure, List, Op, Record, Token};
use super::pipeline::{Call, Lost};
use super::request::{self, Durability, Once, VERSION_LEN};
use super::route::Node;
use super::spread::Near;
use crate::wire::resp::{Encoder, Item, Malformed, Place, Problem, Reader};

/// Say what a reply looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromZeros)]
#[repr(u8)]
pub enum What {
    /// One stored value or nothing.
    One,
    /// Stored values and nothings, each with another behind it when following.
    Records,
    /// A list in the order of numbers.
    List,
    /// A list in the order of names.
    NamedList,
    /// A list in the server's own order.
    Unordered,
    /// 1, or 0 when something was not as expected.
    Change,
    /// 0, where to go on, or 1 when the inode was not as expected.
    Clear,
    /// The first of numbers.
    Reserve,
    /// Where something was found, or where to go on.
    Seek,
    /// An inode and content, in several replies.
    Content,
    /// The server's report about its memory.
    Usage,
    /// 1, or 0 when something is gone.
    Kept,
    /// How many confirmed that they have what was changed.
    Waited,
    /// What became of a change, as a number.
    Number,
    /// Numbers, each given as the place of a record.
    Groups,
    /// What is watched from now on. Nobody else hears of it.
    Watched,
}

/// Ask for something.
pub enum Ask<'a> {
    /// An operation of the file system.
    Op(&'a Op<'a>),
    /// Whether what a client was answered up to a number, and after another, is still there: client, these two.
    Kept(u64, u64, u64),
    /// To wait until what was changed is so durable.
    Wait(Durability),
    /// What content that spreads needs here.
    Spread(Near<'a>),
}

impl What {
    /// Tell whether the call changes something, and is done once.
    pub const fn changes(self) -> bool {
        matches!(
            self,
            Self::Change | Self::Clear | Self::Reserve | Self::Number
        )
    }
}

/// Note in a call what its reply will be.
pub fn expected(ask: &Ask<'_>, call: &mut Call) {
    let op = match *ask {
        Ask::Op(op) => op,
        Ask::Kept(..) => {
            call.what = What::Kept;
            return;
        }
        Ask::Spread(near) => {
            call.what = match near {
                Near::Groups { .. } => What::Groups,
                Near::Seek { .. } => What::Seek,
                _ => What::Number,
            };
            return;
        }
        Ask::Wait(durability) => {
            call.what = What::Waited;
            call.count = match durability {
                Durability::Aof => 1,
                Durability::Replicas(count) => count,
            };
            return;
        }
    };
    call.what = match *op {
        Op::Get { keys, follow } => {
            (call.count, call.follow) = (keys.len() as u32, follow.into());
            match is_one(op) {
                true => What::One,
                false => What::Records,
            }
        }
        Op::Scan {
            list,
            after,
            limit,
            follow,
        } => {
            (call.start, call.count, call.follow) = (after, limit, follow.into());
            match list {
                List::Entries(_) | List::Orphans => What::List,
                List::Xattrs(_) => What::NamedList,
                List::Inodes | List::Names(_) | List::Groups => What::Unordered,
            }
        }
        Op::Transact { .. } | Op::Write { .. } | Op::Copy { .. } | Op::Purge { .. } => What::Change,
        Op::Read { offset, len, .. } => {
            (call.start, call.count) = (offset, len);
            What::Content
        }
        Op::Clear { .. } => What::Clear,
        Op::Seek { .. } => What::Seek,
        Op::Reserve { .. } => What::Reserve,
        Op::Sync | Op::Usage | Op::Discard { .. } => What::Usage,
    };
}

/// Tell whether an operation asks for one record that is read without a function.
fn is_one(op: &Op<'_>) -> bool {
    matches!(op, Op::Get { keys: [key], .. } if request::is_plain(key))
}

/// Write the request of an operation; `count` is the most records of a list.
pub fn request(
    ask: &Ask<'_>,
    to: &mut Encoder<'_>,
    prefix: &[u8],
    once: &Once,
    chunk: u32,
    count: u32,
) {
    let op = match *ask {
        Ask::Op(op) => op,
        Ask::Kept(client, sequence, seen) => {
            return request::kept(to, prefix, client, sequence, seen);
        }
        Ask::Wait(durability) => return request::wait(to, durability),
        Ask::Spread(near) => return near.write(to, prefix, once, chunk),
    };
    match *op {
        Op::Get { keys: [key], .. } if is_one(op) => request::get_plain(to, prefix, key),
        Op::Get { keys, follow } => request::get(to, prefix, keys, follow),
        Op::Scan {
            list,
            after,
            follow,
            ..
        } => request::scan(to, prefix, list, after, count, follow),
        Op::Transact { checks, writes } => {
            request::transact(to, prefix, once, (checks, writes), op.grows());
        }
        Op::Read { ino, offset, len } => request::read(to, prefix, ino, (offset, len), chunk),
        Op::Write {
            ino,
            offset,
            len,
            expect,
            patches,
        } => {
            let content = (offset, len);
            request::write(to, prefix, once, ino, expect, patches, chunk, content);
            to.end();
        }
        Op::Copy { .. } => request::copy(to, prefix, once, op, chunk),
        Op::Clear {
            ino,
            from,
            to: end,
            expect,
            ..
        } => {
            request::clear(to, prefix, once, ino, (from, end), chunk, expect);
        }
        Op::Seek {
            ino,
            offset,
            size,
            hole,
        } => request::seek(to, prefix, ino, (offset, size), chunk, hole),
        Op::Purge { ino, expect } => request::purge(to, prefix, once, ino, expect),
        Op::Reserve { count } => request::reserve(to, prefix, once, count),
        // Who asks for the others has them done elsewhere.
        Op::Sync | Op::Usage | Op::Discard { .. } => {
            to.request(2).bytes(b"INFO").bytes(b"memory");
        }
    }
}

/// Say how a call goes on.
pub enum Answer {
    /// It has ended.
    Done(Result<Done, Failure>),
    /// It has failed, for a reason that somebody should hear of.
    Refused(Failure),
    /// It is to be asked again, here or elsewhere: nothing was done.
    Lost(Lost),
}

/// Say how a call goes on that the server refused.
pub fn refused(text: &[u8]) -> Answer {
    match Problem::parse(text) {
        Problem::OutOfMemory => Answer::Done(Err(Failure::Full)),
        Problem::Loading
        | Problem::Busy
        | Problem::ReadOnly
        | Problem::PrimaryDown
        | Problem::NoReplicas
        | Problem::Unblocked
        | Problem::NoFunction
        | Problem::Refused => Answer::Lost(Lost::Later),
        Problem::ClusterDown => Answer::Lost(Lost::Unserved),
        // What went already is there, and the rest here. All of it will be in one place again.
        Problem::TryAgain | Problem::Ask(_) => Answer::Lost(Lost::Moving),
        Problem::Moved(place) => Answer::Lost(moved(&place)),
        _ if text.starts_with(b"DPFS stale") => Answer::Refused(Failure::Unknown),
        _ => Answer::Refused(Failure::Broken),
    }
}

fn moved(place: &Place<'_>) -> Lost {
    let port = place.port;
    let host = core::str::from_utf8(place.host).unwrap_or("?");
    match (host, host.parse()) {
        ("", _) => Lost::Moved(Node { ip: None, port }),
        (_, Ok(ip)) => Lost::Moved(Node { ip: Some(ip), port }),
        _ => Lost::Named,
    }
}

fn split(stored: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let (version, value) = stored.split_first_chunk::<VERSION_LEN>().ok_or(Malformed)?;
    Ok((u64::from_be_bytes(*version), value))
}

/// Lend a stored value that was asked for alone.
pub fn give(token: Token, stored: &[u8], client: &mut dyn Client) -> Result<(), Malformed> {
    let (version, value) = split(stored)?;
    let record = Record {
        index: 0,
        followed: false,
        at: 0,
        version,
        name: &[],
        value,
    };
    client.record(token, record);
    Ok(())
}

/// Lend a number as the place of a record that has nothing else.
const fn place(index: u32, at: u64) -> Record<'static> {
    Record {
        index,
        followed: false,
        at,
        version: 0,
        name: &[],
        value: &[],
    }
}

/// Read what must be there: the reply is whole.
fn item<'a>(reader: &mut Reader<'a>) -> Result<Item<'a>, Malformed> {
    reader.item()?.ok_or(Malformed)
}

/// Read a byte string or nothing.
fn string<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, Malformed> {
    match item(reader)? {
        Item::Null | Item::Boolean(false) => Ok(None),
        Item::Bulk(len) => reader.body(len)?.ok_or(Malformed).map(Some),
        _ => Err(Malformed),
    }
}

fn decimal(text: &[u8]) -> Result<u64, Malformed> {
    let text = core::str::from_utf8(text).map_err(|_| Malformed)?;
    text.parse().map_err(|_| Malformed)
}

/// Understand a reply that is whole; lend what it brought.
pub fn understand(call: &Call, bytes: &[u8], client: &mut dyn Client) -> Result<Answer, Lost> {
    let mut reader = Reader::new(bytes);
    let first = item(&mut reader)?;
    match first {
        Item::Error(text) => return Ok(refused(text)),
        Item::Text { error: true, len } => {
            return Ok(refused(reader.body(len)?.ok_or(Malformed)?));
        }
        _ => {}
    }
    let done = match (call.what, first) {
        (What::One, Item::Null) => Done::Done,
        (What::One, Item::Bulk(len)) => {
            let stored = reader.body(len)?.ok_or(Malformed)?;
            give(Token(call.token), stored, client)?;
            Done::Done
        }
        (What::Records, Item::Array(elements)) => records(call, elements, &mut reader, client)?,
        (What::List | What::NamedList | What::Unordered, Item::Array(elements)) => {
            list(call, elements, &mut reader, client)?
        }
        (What::Change, Item::Integer(1)) => Done::Done,
        (What::Change, Item::Integer(0)) => return Ok(Answer::Done(Err(Failure::Conflict))),
        (What::Kept, Item::Integer(1)) => Done::Done,
        (What::Kept, Item::Integer(0)) => return Ok(Answer::Done(Err(Failure::Broken))),
        (What::Waited, Item::Integer(count)) => return Ok(waited(call, count)),
        (What::Waited, Item::Array(2)) => match item(&mut reader)? {
            Item::Integer(count) => return Ok(waited(call, count)),
            _ => return Err(Lost::Malformed),
        },
        (What::Clear, Item::Integer(0)) => Done::Done,
        (What::Clear, Item::Integer(1)) => return Ok(Answer::Done(Err(Failure::Conflict))),
        (What::Clear, Item::Integer(next)) if next > 0 => Done::More(next as u64),
        (What::Reserve, Item::Integer(first)) if first > 0 => Done::First(first as u64),
        (What::Seek, Item::Array(2)) => {
            let how = string(&mut reader)?;
            let Item::Integer(byte @ 0..) = item(&mut reader)? else {
                return Err(Lost::Malformed);
            };
            match how {
                Some(b"=") => Done::At(byte as u64),
                Some(b"+") => Done::More(byte as u64),
                Some(b"g") => Done::First(byte as u64),
                _ => return Err(Lost::Malformed),
            }
        }
        (What::Number, Item::Integer(number @ 0..)) => Done::At(number as u64),
        (What::Groups, Item::Array(elements @ 2..)) => {
            for index in 0..elements {
                let Item::Integer(number @ 0..) = item(&mut reader)? else {
                    return Err(Lost::Malformed);
                };
                client.record(Token(call.token), place(index as u32, number as u64));
            }
            Done::Done
        }
        (What::Usage, Item::Text { len, .. } | Item::Bulk(len)) => {
            usage(reader.body(len)?.ok_or(Malformed)?)
        }
        _ => return Err(Lost::Malformed),
    };
    Ok(Answer::Done(Ok(done)))
}

/// Not enough have it yet: that is asked again.
fn waited(call: &Call, count: i64) -> Answer {
    Answer::Done(match count >= i64::from(call.count) {
        true => Ok(Done::Done),
        false => Err(Failure::Conflict),
    })
}

fn records(
    call: &Call,
    elements: u64,
    reader: &mut Reader<'_>,
    client: &mut dyn Client,
) -> Result<Done, Malformed> {
    let each = 1 + u32::from(call.follow);
    if elements != u64::from(call.count * each) {
        return Err(Malformed);
    }
    for place in 0..call.count * each {
        let Some(stored) = string(reader)? else {
            continue;
        };
        let (version, value) = split(stored)?;
        let record = Record {
            index: place / each,
            followed: place % each == 1,
            at: 0,
            version,
            name: &[],
            value,
        };
        client.record(Token(call.token), record);
    }
    Ok(Done::Done)
}

fn list(
    call: &Call,
    elements: u64,
    reader: &mut Reader<'_>,
    client: &mut dyn Client,
) -> Result<Done, Malformed> {
    let token = Token(call.token);
    let follow = call.follow != 0 && call.what != What::Unordered;
    let each = 2 + u64::from(follow || call.what == What::Unordered);
    let count = elements.checked_sub(1).ok_or(Malformed)? / each;
    let more = match string(reader)? {
        Some(b"1") => true,
        Some(b"0") => false,
        _ => return Err(Malformed),
    };
    for index in 0..count {
        let tail = string(reader)?.ok_or(Malformed)?;
        let number = match call.what {
            What::Unordered => string(reader)?.ok_or(Malformed)?,
            _ => &[],
        };
        let stored = string(reader)?.ok_or(Malformed)?;
        let (at, name) = match call.what {
            What::List => {
                let number = tail.try_into().map_err(|_| Malformed)?;
                (u64::from_be_bytes(number), &[][..])
            }
            What::NamedList => (call.start + index + 1, tail),
            _ => (decimal(tail)?, number),
        };
        let (version, value) = split(stored)?;
        let record = Record {
            index: index as u32,
            followed: false,
            at,
            version,
            name,
            value,
        };
        client.record(token, record);
        if follow && let Some(stored) = string(reader)? {
            let (version, value) = split(stored)?;
            let record = Record {
                followed: true,
                at: 0,
                version,
                value,
                ..record
            };
            client.record(token, record);
        }
    }
    Ok(Done::Listed { more })
}

/// Read how full the server is; where it has no limit of its own, its machine's memory is one.
pub fn usage(report: &[u8]) -> Done {
    let field = |name: &[u8]| {
        let mut lines = report.split(|&byte| byte == b'\n');
        let value = lines.find_map(|line| line.strip_prefix(name))?;
        decimal(value.trim_ascii_end()).ok()
    };
    let used = field(b"used_memory:").unwrap_or(0);
    let limits = [field(b"maxmemory:"), field(b"total_system_memory:")];
    let limit = limits.into_iter().flatten().find(|&limit| limit > 0);
    let total = limit.unwrap_or(1 << 40);
    Done::Usage {
        total,
        free: total.saturating_sub(used),
        inodes: 0,
    }
}
