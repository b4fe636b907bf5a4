//! One operation: what the server is asked, and what its answer means.

mod parts;

use super::super::super::engine::{Done as TreeDone, NAME_MAX, Token};
use super::super::super::objects::{Client, Cursor, Done, Failure, Found, Op, Place, Want};
use super::super::pipeline::whole;
use super::super::reply::usage;
use super::super::request::{self, Durability};
use super::group::{Group, Identity, Task, Volume};
use crate::mem::fill;
use crate::sys::time::Instant;
use crate::wire::resp::{BULK_MAX, Encoder, Item, Malformed, Problem, Reader};
use core::net::IpAddr;

/// Longest request without a payload.
pub const REQUEST: usize = 1200;
/// Keys that a server looks at for one part of a listing.
const COUNT: u64 = 500;

/// Give the size, or -1.
const LOOK: &str = "local n=redis.call('STRLEN',KEYS[1]) \
    if n==0 and redis.call('EXISTS',KEYS[1])==0 then return -1 end return n";
/// Make an empty one, or give the size of what is there; -2 when that must not be.
const MAKE: &str = "if redis.call('SET',KEYS[1],'','NX') then return 0 end \
    if ARGV[1]=='x' then return -2 end local n=redis.call('STRLEN',KEYS[1]) \
    if ARGV[1]=='t' then redis.call('SET',KEYS[1],'','KEEPTTL') return 0 end return n";
/// Write, at the end without a place. Give the size, or -1.
const WRITE: &str = "local n=redis.call('STRLEN',KEYS[1]) \
    if n==0 and redis.call('EXISTS',KEYS[1])==0 then return -1 end \
    return redis.call('SETRANGE',KEYS[1],ARGV[1]=='' and n or ARGV[1],ARGV[2])";
/// Set the size. Give it, or -1.
const RESIZE: &str = "local n=redis.call('STRLEN',KEYS[1]) local s=tonumber(ARGV[1]) \
    if n==0 and redis.call('EXISTS',KEYS[1])==0 then return -1 end \
    if s==0 then redis.call('SET',KEYS[1],'','KEEPTTL') \
    elseif s<n then redis.call('SET',KEYS[1],redis.call('GETRANGE',KEYS[1],0,s-1),'KEEPTTL') \
    elseif s>n then redis.call('SETRANGE',KEYS[1],s-1,'\\0') end return s";

/// Say what is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Job {
    /// Of an object, or of all.
    Want(Want),
    /// Of a group of the tree; its bytes are the host's from `base` on.
    Group { group: Group, task: Task, base: u32 },
    /// Of the engine itself: the map of slots.
    Map,
}

impl Job {
    /// Tell whether it changes something.
    pub const fn changes(self) -> bool {
        if let Self::Group { task, .. } = self {
            return task.changes();
        }
        !matches!(
            self,
            Self::Map
                | Self::Want(
                    Want::Look | Want::Read { .. } | Want::List | Want::Sync { .. } | Want::Usage
                )
        )
    }

    /// Tell whether it waits until what was changed is durable.
    pub const fn settles(self) -> bool {
        matches!(
            self,
            Self::Want(Want::Sync { .. })
                | Self::Group {
                    task: Task::Settle,
                    ..
                }
        )
    }

    /// Tell whether a second attempt might do harm, or be told from the first by nothing.
    pub const fn once(self) -> bool {
        match self {
            Self::Want(Want::Write { place, .. }) => matches!(place, Place::End),
            Self::Want(Want::Make { exclusive, .. }) => exclusive,
            Self::Want(Want::Rename { .. }) => true,
            _ => false,
        }
    }
}

/// Say what becomes of a call of which a part was refused.
#[derive(Clone, Copy)]
enum Part {
    /// It is asked again: later, or elsewhere.
    Later,
    Moved,
    Failed,
}

/// Where a reply stands that is taken as it comes.
#[derive(Clone, Copy, Default)]
struct Reading {
    /// The answer to ASKING came, or none is expected.
    begun: bool,
    /// Bytes of a string that are still to come, and that came.
    left: u64,
    at: usize,
    /// What is next: 0 for the first item.
    stage: u8,
    /// Names that are still to come, and where the listing goes on.
    names: u64,
    next: u64,
    /// Bytes that are zeros behind the string that comes.
    rest: usize,
    /// Part of it was refused: this is what becomes of all.
    refused: Option<Part>,
}

/// One operation under way.
pub struct Call {
    pub token: Token,
    pub job: Job,
    name: [[u8; NAME_MAX]; 2],
    lens: [u8; 2],
    /// Where a listing goes on.
    pub slot: u16,
    pub epoch: u64,
    pub scan: u64,
    frame: [u8; REQUEST],
    len: usize,
    /// The node that it was given to, and the one that it is to be given to this once.
    pub node: Option<u32>,
    pub asking: Option<u32>,
    /// It is sent in full, and how often it was without an answer that nothing was done.
    pub sent: bool,
    pub sendings: u16,
    /// Who was named instead: slot, address (`None` for that of the node which was asked), port.
    pub elsewhere: Option<(u16, Option<IpAddr>, u16)>,
    pub not_before: Instant,
    pub since: Instant,
    reading: Reading,
}

/// Say how a call goes on.
pub enum Answer {
    /// It has ended.
    End(Result<Done, Failure>),
    /// A part of a listing came, and the node's listing goes on there; zero for its end.
    Listed(u64),
    /// The node has what was changed on its disk, or on replicas.
    Durable,
    /// Not enough have it yet.
    NotDurable,
    /// It is to be asked again later.
    Later,
    /// The map is wrong: somebody else has the slot.
    Moved,
    /// This once somebody else is to be asked.
    Ask,
    /// The map of slots came.
    Map,
    /// The library of functions is missing on the node.
    NoFunction,
    /// The server refuses, in words that somebody should hear.
    Refused,
}

fn call<'e, 'b>(
    to: &'e mut Encoder<'b>,
    script: &str,
    name: &[u8],
    arguments: u32,
) -> &'e mut Encoder<'b> {
    to.request(4 + arguments)
        .bytes(b"EVAL")
        .bytes(script.as_bytes())
        .number(1)
        .bytes(name)
}

impl Call {
    pub fn new(token: Token, op: &Op<'_>) -> Self {
        let mut call = Self {
            token,
            job: Job::Want(op.want()),
            name: [[0; NAME_MAX]; 2],
            lens: [0; 2],
            slot: 0,
            epoch: 0,
            scan: 0,
            frame: [0; REQUEST],
            len: 0,
            node: None,
            asking: None,
            sent: false,
            sendings: 0,
            elsewhere: None,
            not_before: Instant(0),
            since: Instant(0),
            reading: Reading::default(),
        };
        for (which, name) in op.names().into_iter().enumerate() {
            let len = name.len().min(NAME_MAX);
            call.name[which][..len].copy_from_slice(&name[..len]);
            call.lens[which] = len as u8;
        }
        if let Op::List { cursor } = op
            && let (Some(slot), rest) = take(cursor.bytes())
            && let (Some(epoch), rest) = take(rest)
            && let (Some(scan), _) = take(rest)
        {
            (call.slot, call.epoch, call.scan) = (slot as u16, epoch, scan);
        }
        call
    }

    /// Make one that asks for the map.
    pub fn map() -> Self {
        let mut call = Self::new(Token(0), &Op::Usage);
        call.job = Job::Map;
        call
    }

    /// Give the name, or the new name.
    pub fn name(&self, which: usize) -> &[u8] {
        &self.name[which][..usize::from(self.lens[which])]
    }

    /// Say where the listing goes on.
    pub fn tell_place(&self, client: &mut dyn Client) {
        let words = [self.slot.into(), self.epoch, self.scan].map(u64::to_le_bytes);
        if let Some(place) = Cursor::new(&[words.as_flattened()]) {
            client.place(self.token, &place);
        }
    }

    /// Bytes of the host's that follow the request, before its last two.
    pub const fn payload(&self) -> usize {
        match self.job {
            Job::Want(Want::Write { len, .. }) => len as usize,
            Job::Group { task, .. } => task.payload(),
            _ => 0,
        }
    }

    /// Give the request, with the place of the payload in it.
    pub fn frame(&self) -> (&[u8], &[u8]) {
        let tail = if self.payload() > 0 { 2 } else { 0 };
        self.frame[..self.len].split_at(self.len - tail.min(self.len))
    }

    /// Write the request, to be sent from its start.
    pub fn write(&mut self, volume: Volume, who: Identity) {
        let durability = volume.durability;
        self.reading = Reading {
            begun: self.asking.is_none(),
            ..Reading::default()
        };
        let name = &self.name[0][..usize::from(self.lens[0])];
        let mut encoder = Encoder::new(&mut self.frame);
        let to = &mut encoder;
        if self.asking.is_some() {
            to.request(1).bytes(b"ASKING");
        }
        match self.job {
            Job::Want(Want::Look) => {
                call(to, LOOK, name, 0);
            }
            Job::Want(Want::Make {
                exclusive,
                truncate,
            }) => {
                let how: &[u8] = match (exclusive, truncate) {
                    (true, _) => b"x",
                    (false, true) => b"t",
                    (false, false) => b"",
                };
                call(to, MAKE, name, 1).bytes(how);
            }
            Job::Want(Want::Read { offset, len }) => {
                let to = to.request(4).bytes(b"GETRANGE").bytes(name);
                // Beyond the longest string there is nothing.
                let offset = offset.min(BULK_MAX);
                to.number(offset)
                    .number((offset + u64::from(len)).saturating_sub(1));
            }
            Job::Want(Want::Write { place, len }) => {
                let to = call(to, WRITE, name, 2);
                match place {
                    Place::Byte(offset) => to.number(offset),
                    Place::End => to.bytes(b""),
                };
                to.announce(len.into()).end();
            }
            Job::Want(Want::Resize { size }) => {
                call(to, RESIZE, name, 1).number(size);
            }
            Job::Want(Want::Remove) => {
                to.request(2).bytes(b"UNLINK").bytes(name);
            }
            Job::Want(Want::Rename { replace }) => {
                let command: &[u8] = if replace { b"RENAME" } else { b"RENAMENX" };
                let new = &self.name[1][..usize::from(self.lens[1])];
                to.request(3).bytes(command).bytes(name).bytes(new);
            }
            Job::Want(Want::List) => {
                let to = to.request(6).bytes(b"SCAN").number(self.scan);
                to.bytes(b"COUNT").number(COUNT);
                to.bytes(b"TYPE").bytes(b"string");
            }
            Job::Want(Want::Sync { .. }) => {
                if let Some(durability) = durability {
                    request::wait(to, durability);
                }
            }
            Job::Want(Want::Usage) => {
                to.request(2).bytes(b"INFO").bytes(b"memory");
            }
            Job::Group { task, .. } => task.write(to, name, who, volume),
            Job::Map => {
                to.request(2).bytes(b"CLUSTER").bytes(b"SLOTS");
            }
        }
        // It fits: names are bounded, and so is everything else.
        self.len = encoder.finish().unwrap_or(0);
    }

    /// Take bytes of the reply, as many as make sense now, and say how the call goes on once it is whole.
    pub fn take(
        &mut self,
        bytes: &[u8],
        volume: Volume,
        client: &mut dyn Client,
    ) -> Result<(usize, Option<Answer>), Malformed> {
        let durability = volume.durability;
        let mut reader = Reader::new(bytes);
        let used = |reader: &Reader<'_>| bytes.len() - reader.rest().len();
        if !self.reading.begun {
            match reader.item()? {
                Some(Item::Simple(_)) => self.reading.begun = true,
                // It will not be done either.
                Some(Item::Error(_)) => self.reading.begun = true,
                Some(_) => return Err(Malformed),
                None => return Ok((0, None)),
            }
        }
        let before = used(&reader);
        let rest = reader.rest();
        let (taken, answer) = match self.job {
            Job::Want(Want::Read { .. }) => self.take_content(rest, client)?,
            Job::Want(Want::List) => self.take_names(rest, client)?,
            Job::Group {
                task: Task::Read { offset, len },
                ..
            } => self.take_parts(rest, (offset, len), volume.chunk, client)?,
            Job::Group {
                task: Task::Settle, ..
            } => self.take_settled(rest, durability)?,
            _ => match whole(rest)? {
                None => (0, None),
                Some(len) => (len, Some(self.understand(&rest[..len], durability)?)),
            },
        };
        Ok((before + taken, answer))
    }

    /// Take content as it comes.
    fn take_content(
        &mut self,
        bytes: &[u8],
        client: &mut dyn Client,
    ) -> Result<(usize, Option<Answer>), Malformed> {
        let Job::Want(Want::Read { len: wanted, .. }) = self.job else {
            return Err(Malformed);
        };
        let mut reader = Reader::new(bytes);
        if self.reading.stage == 0 {
            match reader.item()? {
                None => return Ok((0, None)),
                Some(Item::Error(text)) => {
                    let used = bytes.len() - reader.rest().len();
                    return Ok((used, Some(self.refused(text))));
                }
                Some(Item::Bulk(len)) if len <= wanted.into() => {
                    (self.reading.left, self.reading.stage) = (len, 1);
                }
                Some(_) => return Err(Malformed),
            }
        }
        let rest = reader.rest();
        let count = rest.len().min(self.reading.left as usize);
        let _ = fill(client.buffers(self.token), self.reading.at, &rest[..count]);
        self.reading.at += count;
        self.reading.left -= count as u64;
        let mut end = Reader::new(&rest[count..]);
        if self.reading.left > 0 || end.body(0)?.is_none() {
            return Ok((bytes.len() - rest.len() + count, None));
        }
        let read = Done::Read(self.reading.at as u32);
        Ok((bytes.len() - end.rest().len(), Some(Answer::End(Ok(read)))))
    }

    /// Take names as they come: an array of where to go on and an array of names.
    fn take_names(
        &mut self,
        bytes: &[u8],
        client: &mut dyn Client,
    ) -> Result<(usize, Option<Answer>), Malformed> {
        let mut taken = 0;
        loop {
            let rest = &bytes[taken..];
            let reading = &mut self.reading;
            if reading.left > 0 {
                // A name that is none of a file.
                let count = rest.len().min(reading.left as usize);
                reading.left -= count as u64;
                taken += count;
                if reading.left > 0 {
                    return Ok((taken, None));
                }
                reading.names -= 1;
                continue;
            }
            if reading.stage == 3 && reading.names == 0 {
                return Ok((taken, Some(Answer::Listed(reading.next))));
            }
            let mut reader = Reader::new(rest);
            let Some(item) = reader.item()? else {
                return Ok((taken, None));
            };
            match (reading.stage, item) {
                (0, Item::Error(text)) => {
                    let used = taken + rest.len() - reader.rest().len();
                    return Ok((used, Some(self.refused(text))));
                }
                (0, Item::Array(2)) => reading.stage = 1,
                (1, Item::Bulk(len)) if len <= 20 => {
                    let Some(digits) = reader.body(len)? else {
                        return Ok((taken, None));
                    };
                    let digits = core::str::from_utf8(digits).map_err(|_| Malformed)?;
                    reading.next = digits.parse().map_err(|_| Malformed)?;
                    reading.stage = 2;
                }
                (2, Item::Array(names)) => (reading.names, reading.stage) = (names, 3),
                (3, Item::Bulk(len)) if len <= NAME_MAX as u64 => {
                    let Some(name) = reader.body(len)? else {
                        return Ok((taken, None));
                    };
                    reading.names -= 1;
                    client.name(self.token, name);
                }
                (3, Item::Bulk(len)) => reading.left = len + 2,
                _ => return Err(Malformed),
            }
            taken += rest.len() - reader.rest().len();
        }
    }

    /// Understand an error.
    fn refused(&mut self, text: &[u8]) -> Answer {
        let problem = Problem::parse(text);
        if let Job::Group { .. } = self.job {
            match problem {
                // What went already is there, and the rest here. All of it will be in one place again, however long that takes.
                Problem::TryAgain | Problem::Ask(_) => {
                    self.since = Instant(0);
                    return Answer::Later;
                }
                Problem::NoFunction => return Answer::NoFunction,
                _ if text.starts_with(b"DPFS stale") => {
                    return Answer::End(Err(Failure::Unknown));
                }
                _ => {}
            }
        }
        if let Problem::Moved(place) | Problem::Ask(place) = problem {
            let host = core::str::from_utf8(place.host).unwrap_or("?");
            let ip = host.parse().ok();
            // A name cannot be looked up here.
            self.elsewhere =
                (host.is_empty() || ip.is_some()).then_some((place.slot, ip, place.port));
        }
        match problem {
            Problem::Moved(_) => Answer::Moved,
            Problem::Ask(_) => Answer::Ask,
            Problem::CrossSlot => Answer::End(Err(Failure::Elsewhere)),
            Problem::WrongType => Answer::End(Err(Failure::Foreign)),
            Problem::OutOfMemory => Answer::End(Err(Failure::Full)),
            Problem::TryAgain
            | Problem::ClusterDown
            | Problem::Loading
            | Problem::Busy
            | Problem::ReadOnly
            | Problem::PrimaryDown
            | Problem::NoReplicas
            | Problem::Unblocked => Answer::Later,
            _ if text.starts_with(b"ERR no such key") => Answer::End(Err(match self.sendings {
                0..=1 => Failure::Missing,
                _ => Failure::Unknown,
            })),
            _ if text.starts_with(b"ERR string exceeds maximum") => {
                Answer::End(Err(Failure::TooLarge))
            }
            _ => Answer::Refused,
        }
    }

    fn understand(
        &mut self,
        reply: &[u8],
        durability: Option<Durability>,
    ) -> Result<Answer, Malformed> {
        let mut reader = Reader::new(reply);
        let first = reader.item()?.ok_or(Malformed)?;
        let again = self.sendings > 1;
        let found = |size| Ok(Done::Found(Found { size, version: 0 }));
        let result = match (self.job, first) {
            (_, Item::Error(text)) => return Ok(self.refused(text)),
            (_, Item::Text { error: true, len }) => {
                return Ok(self.refused(reader.body(len)?.ok_or(Malformed)?));
            }
            (Job::Map, _) => return Ok(Answer::Map),
            (Job::Want(Want::Remove), Item::Integer(1)) => Ok(Done::Done),
            (Job::Want(Want::Remove), Item::Integer(0)) if again => Ok(Done::Done),
            (Job::Want(Want::Remove), Item::Integer(0)) => Err(Failure::Missing),
            (Job::Want(Want::Rename { .. }), Item::Simple(_) | Item::Integer(1)) => Ok(Done::Done),
            (Job::Want(Want::Rename { .. }), Item::Integer(0)) if again => Err(Failure::Unknown),
            (Job::Want(Want::Rename { .. }), Item::Integer(0)) => Err(Failure::Exists),
            (job, Item::Integer(count)) if job.settles() => return durable(count, durability),
            (job, Item::Array(2)) if job.settles() => match reader.item()? {
                Some(Item::Integer(count)) => return durable(count, durability),
                _ => return Err(Malformed),
            },
            (Job::Want(Want::Usage), Item::Text { len, .. } | Item::Bulk(len)) => {
                match usage(reader.body(len)?.ok_or(Malformed)?) {
                    TreeDone::Usage { total, free, .. } => Ok(Done::Usage { total, free }),
                    _ => return Err(Malformed),
                }
            }
            (_, Item::Integer(-1)) => Err(Failure::Missing),
            (Job::Want(Want::Make { .. }), Item::Integer(-2)) if again => Err(Failure::Unknown),
            (Job::Want(Want::Make { .. }), Item::Integer(-2)) => Err(Failure::Exists),
            (
                Job::Want(
                    Want::Look | Want::Make { .. } | Want::Write { .. } | Want::Resize { .. },
                )
                | Job::Group { .. },
                Item::Integer(size @ 0..),
            ) => found(size as u64),
            _ => return Err(Malformed),
        };
        Ok(Answer::End(result))
    }
}

fn durable(count: i64, durability: Option<Durability>) -> Result<Answer, Malformed> {
    let wanted = match durability {
        Some(Durability::Replicas(count)) => count,
        _ => 1,
    };
    Ok(match count >= i64::from(wanted) {
        true => Answer::Durable,
        false => Answer::NotDurable,
    })
}

fn take(bytes: &[u8]) -> (Option<u64>, &[u8]) {
    match bytes.split_first_chunk() {
        Some((word, rest)) => (Some(u64::from_le_bytes(*word)), rest),
        None => (None, bytes),
    }
}
