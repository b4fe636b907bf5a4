//! RESP3, the protocol of Valkey and Redis: requests written into fixed memory, replies read piece by piece.
//!
//! [`Encoder`] writes a request, an array of byte strings, and can leave a string's bytes out for the caller to send
//! from where they are. [`Reader`] gives one [`Item`] after another from what has come. A byte string is given by its
//! length alone, so that its bytes can be received to where they belong. [`Depth`] tells when a reply is whole.
//!
//! What comes is not trusted: lengths are bounded, numbers must be numbers, and nothing here panics.
//! Source: RESP3 specification (github.com/redis/redis-specifications, `protocol/RESP3.md`); streamed strings and
//! aggregates, which no server sends, are refused.

/// Longest byte string in bytes: `proto-max-bulk-len` of a server that was not changed.
pub const BULK_MAX: u64 = 512 << 20;
/// Most elements of an aggregate.
pub const ELEMENTS_MAX: u64 = 1 << 20;
/// Longest line in bytes, its end not counted. Only errors come near it.
pub const LINE_MAX: usize = 4096;
/// Deepest nesting of aggregates.
pub const DEPTH_MAX: usize = 8;

/// Tell that what came is no RESP3, or beyond the bounds above.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// Give one piece of a reply.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Item<'a> {
    /// A short text, `+`: `OK`.
    Simple(&'a [u8]),
    /// An error, `-`: a code in capitals, a space, a text.
    Error(&'a [u8]),
    /// An integer, `:`.
    Integer(i64),
    /// A truth value, `#`.
    Boolean(bool),
    /// A floating point number, `,`, or an integer of any size, `(`, as text.
    Number(&'a [u8]),
    /// Nothing: `_`, and the null string and null array of RESP2.
    Null,
    /// A byte string, `$`, of so many bytes, which come next, with two bytes behind them.
    Bulk(u64),
    /// An error, `!`, or a text with a format, `=`; as [`Item::Bulk`].
    Text {
        /// It is an error.
        error: bool,
        /// Bytes.
        len: u64,
    },
    /// An array, `*`, or a set, `~`, of so many elements, which come next.
    Array(u64),
    /// A map, `%`, of so many pairs, which come next: key, value, key, value.
    Map(u64),
    /// So many attributes, `|`, in pairs, of the value behind them.
    Attribute(u64),
    /// A message that nobody asked for, `>`, of so many elements. It is no reply.
    Push(u64),
}

impl Item<'_> {
    /// Give the number of bytes that come behind the item itself, those behind a byte string's end included.
    pub const fn body(&self) -> u64 {
        match *self {
            Self::Bulk(len) | Self::Text { len, .. } => len + END.len() as u64,
            _ => 0,
        }
    }
}

const END: &[u8; 2] = b"\r\n";

/// Read items from what has come.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Begin at the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Give what was not read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Read an item; `None` when it has not come in full, and nothing is read then.
    ///
    /// # Errors
    /// [`Malformed`]; nothing that follows can be understood.
    pub fn item(&mut self) -> Result<Option<Item<'a>>, Malformed> {
        let Some((line, rest)) = line(self.rest)? else {
            return Ok(None);
        };
        let (&kind, text) = line.split_first().ok_or(Malformed)?;
        let item = match kind {
            b'+' => Item::Simple(text),
            b'-' => Item::Error(text),
            b':' => Item::Integer(integer(text)?),
            b'#' => match text {
                b"t" => Item::Boolean(true),
                b"f" => Item::Boolean(false),
                _ => return Err(Malformed),
            },
            b',' | b'(' if !text.is_empty() => Item::Number(text),
            b'_' if text.is_empty() => Item::Null,
            b'$' | b'*' if text == b"-1" => Item::Null,
            b'$' => Item::Bulk(count(text, BULK_MAX)?),
            b'!' | b'=' => Item::Text {
                error: kind == b'!',
                len: count(text, BULK_MAX)?,
            },
            b'*' | b'~' => Item::Array(count(text, ELEMENTS_MAX)?),
            b'%' => Item::Map(count(text, ELEMENTS_MAX)?),
            b'|' => Item::Attribute(count(text, ELEMENTS_MAX)?),
            b'>' => Item::Push(count(text, ELEMENTS_MAX)?),
            _ => return Err(Malformed),
        };
        self.rest = rest;
        Ok(Some(item))
    }

    /// Read the bytes of a byte string and its end; `None` when they have not come in full, and nothing is read then.
    ///
    /// # Errors
    /// [`Malformed`] when the end is not where it must be.
    pub fn body(&mut self, len: u64) -> Result<Option<&'a [u8]>, Malformed> {
        let len = usize::try_from(len).map_err(|_| Malformed)?;
        let Some((bytes, rest)) = self.rest.split_at_checked(len) else {
            return Ok(None);
        };
        if rest.len() < END.len() {
            return match END.starts_with(rest) {
                true => Ok(None),
                false => Err(Malformed),
            };
        }
        self.rest = rest.strip_prefix(END).ok_or(Malformed)?;
        Ok(Some(bytes))
    }
}

type Line<'a> = (&'a [u8], &'a [u8]);

/// Take a line off, without its end.
fn line(bytes: &[u8]) -> Result<Option<Line<'_>>, Malformed> {
    let within = &bytes[..bytes.len().min(LINE_MAX + END.len())];
    match within.iter().position(|&byte| byte == END[0]) {
        Some(at) => match within.get(at + 1) {
            Some(&byte) if byte == END[1] => Ok(Some((&bytes[..at], &bytes[at + 2..]))),
            Some(_) => Err(Malformed),
            None if at <= LINE_MAX => Ok(None),
            None => Err(Malformed),
        },
        None if bytes.len() <= LINE_MAX => Ok(None),
        None => Err(Malformed),
    }
}

/// Read a number as servers write it: digits, with a sign perhaps, and nothing else.
fn integer(text: &[u8]) -> Result<i64, Malformed> {
    let text = core::str::from_utf8(text).map_err(|_| Malformed)?;
    text.parse().map_err(|_| Malformed)
}

fn count(text: &[u8], most: u64) -> Result<u64, Malformed> {
    let count = u64::try_from(integer(text)?).map_err(|_| Malformed)?;
    if count > most {
        return Err(Malformed);
    }
    Ok(count)
}

/// Follow the nesting of a reply, to know when it is whole.
#[derive(Clone, Debug)]
pub struct Depth {
    /// Elements that are still to come, of each aggregate that is open.
    left: [u64; DEPTH_MAX],
    open: usize,
}

impl Default for Depth {
    fn default() -> Self {
        Self::new()
    }
}

impl Depth {
    /// Begin before a reply.
    pub const fn new() -> Self {
        Self {
            left: [0; DEPTH_MAX],
            open: 0,
        }
    }

    /// Count an item in. True when the reply is whole with it, and with its bytes ([`Item::body`]).
    ///
    /// # Errors
    /// [`Malformed`] for aggregates in more than [`DEPTH_MAX`] others.
    pub fn item(&mut self, item: &Item<'_>) -> Result<bool, Malformed> {
        let elements = match *item {
            Item::Array(count) | Item::Push(count) => count,
            Item::Map(count) => count * 2,
            // The value that they belong to comes behind them, in their own place.
            Item::Attribute(count) => count * 2 + 1,
            _ => 0,
        };
        if elements > 0 {
            *self.left.get_mut(self.open).ok_or(Malformed)? = elements;
            self.open += 1;
            return Ok(false);
        }
        while let Some(last) = self.open.checked_sub(1) {
            self.left[last] -= 1;
            if self.left[last] > 0 {
                return Ok(false);
            }
            self.open = last;
        }
        Ok(true)
    }
}

/// Say what an error means for the command that it answers. Texts behind the codes are for people, and change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem<'a> {
    /// The slot has another owner, for good.
    Moved(Place<'a>),
    /// This once, ask the other one, with ASKING before it: the slot is on its way.
    Ask(Place<'a>),
    /// Some of the keys are here, some there; again later (`TRYAGAIN`).
    TryAgain,
    /// Keys of several slots in one command (`CROSSSLOT`).
    CrossSlot,
    /// The cluster does not serve, or not this slot (`CLUSTERDOWN`).
    ClusterDown,
    /// The server is reading its files (`LOADING`).
    Loading,
    /// A script runs for too long (`BUSY`).
    Busy,
    /// A replica: it takes no changes (`READONLY`).
    ReadOnly,
    /// A replica without its primary (`MASTERDOWN`).
    PrimaryDown,
    /// Too few replicas (`NOREPLICAS`).
    NoReplicas,
    /// What was waited for will not come here: the server has become a replica (`UNBLOCKED`).
    Unblocked,
    /// Memory is used up; nothing was changed (`OOM`).
    OutOfMemory,
    /// The disk fails, so changes are refused (`MISCONF`).
    DiskFails,
    /// Who asks must say who it is, or may not (`NOAUTH`, `WRONGPASS`, `NOPERM`).
    Refused,
    /// A key holds another type (`WRONGTYPE`).
    WrongType,
    /// There is no such function (`ERR Function not found`, which has no code of its own).
    NoFunction,
    /// Anything else.
    Other,
}

/// Name a slot and its server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place<'a> {
    /// Slot, below [`SLOTS`].
    pub slot: u16,
    /// Address or name; empty for the address that was asked.
    pub host: &'a [u8],
    /// TCP port.
    pub port: u16,
}

impl<'a> Problem<'a> {
    /// Read an error.
    pub fn parse(error: &'a [u8]) -> Self {
        let (code, text) = match error.iter().position(|&byte| byte == b' ') {
            Some(at) => (&error[..at], &error[at + 1..]),
            None => (error, &[][..]),
        };
        match code {
            b"MOVED" => place(text).map_or(Self::Other, Self::Moved),
            b"ASK" => place(text).map_or(Self::Other, Self::Ask),
            b"TRYAGAIN" => Self::TryAgain,
            b"CROSSSLOT" => Self::CrossSlot,
            b"CLUSTERDOWN" => Self::ClusterDown,
            b"LOADING" => Self::Loading,
            b"BUSY" => Self::Busy,
            b"READONLY" => Self::ReadOnly,
            b"MASTERDOWN" => Self::PrimaryDown,
            b"NOREPLICAS" => Self::NoReplicas,
            b"UNBLOCKED" => Self::Unblocked,
            b"OOM" => Self::OutOfMemory,
            b"MISCONF" => Self::DiskFails,
            b"NOAUTH" | b"WRONGPASS" | b"NOPERM" => Self::Refused,
            b"WRONGTYPE" => Self::WrongType,
            b"ERR" if text.starts_with(b"Function not found") => Self::NoFunction,
            _ => Self::Other,
        }
    }
}

/// Read `SLOT HOST:PORT`; an IPv6 address has colons of its own.
fn place(text: &[u8]) -> Option<Place<'_>> {
    let space = text.iter().position(|&byte| byte == b' ')?;
    let slot = u16::try_from(count(&text[..space], u64::from(SLOTS) - 1).ok()?).ok()?;
    let address = &text[space + 1..];
    let colon = address.iter().rposition(|&byte| byte == b':')?;
    let port = u16::try_from(count(&address[colon + 1..], u64::from(u16::MAX)).ok()?).ok()?;
    let host = &address[..colon];
    Some(Place { slot, host, port })
}

/// Number of slots of a cluster.
pub const SLOTS: u16 = 16384;

/// Give the slot of a key: that of what stands between its first `{` and the next `}`, unless that is nothing.
///
/// Source: cluster specification, "Hash tags".
pub fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|&byte| byte == b'{').and_then(|open| {
        let behind = &key[open + 1..];
        let len = behind.iter().position(|&byte| byte == b'}')?;
        (len > 0).then(|| &behind[..len])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM: polynomial 0x1021, begun with zero.
fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut value = (byte as u16) << 8;
            let mut bit = 0;
            while bit < 8 {
                value = value << 1 ^ if value & 0x8000 != 0 { 0x1021 } else { 0 };
                bit += 1;
            }
            table[byte] = value;
            byte += 1;
        }
        table
    };
    bytes.iter().fold(0, |crc, &byte| {
        crc << 8 ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)]
    })
}

/// Write requests into fixed memory.
pub struct Encoder<'a> {
    buffer: &'a mut [u8],
    at: usize,
    overflow: bool,
}

impl<'a> Encoder<'a> {
    /// Begin at the start of `buffer`.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self {
            buffer,
            at: 0,
            overflow: false,
        }
    }

    /// Give the number of bytes written, or `None` when the memory was too small for all of them.
    pub const fn finish(self) -> Option<usize> {
        if self.overflow { None } else { Some(self.at) }
    }

    /// Give the number of bytes written so far.
    pub const fn written(&self) -> usize {
        self.at
    }

    fn put(&mut self, bytes: &[u8]) {
        match self.buffer.get_mut(self.at..self.at + bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.at += bytes.len();
            }
            None => self.overflow = true,
        }
    }

    fn head(&mut self, kind: u8, number: u64) {
        self.put(&[kind]);
        self.put(Digits::new(number).as_bytes());
        self.put(END);
    }

    /// Begin a request of so many byte strings, the command's name included.
    pub fn request(&mut self, strings: u32) -> &mut Self {
        self.head(b'*', strings.into());
        self
    }

    /// Write a byte string.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.announce(bytes.len() as u64);
        self.put(bytes);
        self.end()
    }

    /// Write a byte string that is a number's digits.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.bytes(Digits::new(number).as_bytes())
    }

    /// Announce a byte string, whose bytes are written in parts ([`Self::part`]), or sent by the caller behind what is
    /// written so far; then [`Self::end`].
    pub fn announce(&mut self, len: u64) -> &mut Self {
        self.head(b'$', len);
        self
    }

    /// Write some bytes of a byte string that was announced.
    pub fn part(&mut self, bytes: &[u8]) -> &mut Self {
        self.put(bytes);
        self
    }

    /// End a byte string that was announced.
    pub fn end(&mut self) -> &mut Self {
        self.put(END);
        self
    }
}

/// Hold a number's digits.
pub struct Digits {
    digits: [u8; 20],
    from: usize,
}

impl Digits {
    /// Write a number.
    pub fn new(mut number: u64) -> Self {
        let mut digits = [b'0'; 20];
        let mut from = digits.len();
        loop {
            from -= 1;
            digits[from] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Self { digits, from };
            }
        }
    }

    /// Give them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.digits[self.from..]
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn every_kind_of_item_is_read_when_it_has_come_in_full_and_not_before() {
        for (bytes, wanted) in [
            (&b"+OK\r\n"[..], Item::Simple(b"OK")),
            (b"-ERR no\r\n", Item::Error(b"ERR no")),
            (b":-7\r\n", Item::Integer(-7)),
            (b"#t\r\n", Item::Boolean(true)),
            (b",1.5\r\n", Item::Number(b"1.5")),
            (
                b"(99999999999999999999\r\n",
                Item::Number(b"99999999999999999999"),
            ),
            (b"_\r\n", Item::Null),
            (b"$-1\r\n", Item::Null),
            (b"*-1\r\n", Item::Null),
            (b"$4096\r\n", Item::Bulk(4096)),
            (
                b"!3\r\n",
                Item::Text {
                    error: true,
                    len: 3,
                },
            ),
            (
                b"=3\r\n",
                Item::Text {
                    error: false,
                    len: 3,
                },
            ),
            (b"*2\r\n", Item::Array(2)),
            (b"~2\r\n", Item::Array(2)),
            (b"%2\r\n", Item::Map(2)),
            (b"|1\r\n", Item::Attribute(1)),
            (b">3\r\n", Item::Push(3)),
        ] {
            for end in 0..bytes.len() {
                let mut reader = Reader::new(&bytes[..end]);
                assert_eq!(reader.item(), Ok(None), "{wanted:?}, {end} bytes");
                assert_eq!(reader.rest().len(), end);
            }
            let mut reader = Reader::new(bytes);
            assert_eq!(reader.item(), Ok(Some(wanted)));
            assert!(reader.rest().is_empty());
        }
    }

    #[test]
    fn what_is_no_item_is_refused() {
        for bytes in [
            &b"\r\n"[..],
            b"OK\r\n",
            b"+OK\rx",
            b":\r\n",
            b":1x\r\n",
            b":9223372036854775808\r\n",
            b"#y\r\n",
            b"_x\r\n",
            b"$-2\r\n",
            b"$?\r\n",
            b"$536870913\r\n",
            b"*1048577\r\n",
            b"%-1\r\n",
            &[b'x'; LINE_MAX + 3],
        ] {
            assert_eq!(Reader::new(bytes).item(), Err(Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn a_string_ends_where_it_said() {
        let mut reader = Reader::new(b"a\r\nc\r\n+OK\r\n");
        assert_eq!(reader.body(4), Ok(Some(&b"a\r\nc"[..])));
        assert_eq!(reader.rest(), b"+OK\r\n");
        assert_eq!(Reader::new(b"abc\r").body(3), Ok(None));
        assert_eq!(Reader::new(b"abcd\r\n").body(3), Err(Malformed));
        assert_eq!(Reader::new(b"abcd").body(3), Err(Malformed));
    }

    #[test]
    fn a_reply_is_whole_with_its_last_element() {
        // HELLO's answer, shortened: a map whose last value is an array of one map.
        let bytes = b"%2\r\n+proto\r\n:3\r\n+modules\r\n*1\r\n%1\r\n+a\r\n*0\r\n";
        let (mut reader, mut depth) = (Reader::new(bytes), Depth::new());
        let mut whole = Vec::new();
        while let Some(item) = reader.item().unwrap() {
            whole.push(depth.item(&item).unwrap());
        }
        assert_eq!(whole.iter().position(|&whole| whole), Some(whole.len() - 1));
        let mut depth = Depth::new();
        assert_eq!(depth.item(&Item::Attribute(1)), Ok(false));
        assert_eq!(depth.item(&Item::Null), Ok(false));
        assert_eq!(depth.item(&Item::Null), Ok(false));
        assert_eq!(depth.item(&Item::Bulk(3)), Ok(true));
        let mut depth = Depth::new();
        for _ in 0..DEPTH_MAX {
            assert_eq!(depth.item(&Item::Array(1)), Ok(false));
        }
        assert_eq!(depth.item(&Item::Array(1)), Err(Malformed));
    }

    #[test]
    fn errors_are_told_apart_by_their_code() {
        let place = |host| Place {
            slot: 3999,
            host,
            port: 6381,
        };
        for (error, wanted) in [
            (
                &b"MOVED 3999 127.0.0.1:6381"[..],
                Problem::Moved(place(b"127.0.0.1")),
            ),
            (b"MOVED 3999 :6381", Problem::Moved(place(b""))),
            (b"ASK 3999 ::1:6381", Problem::Ask(place(b"::1"))),
            (b"ASK 16384 ::1:6381", Problem::Other),
            (b"MOVED 1 h:65536", Problem::Other),
            (b"MOVED", Problem::Other),
            (b"TRYAGAIN Multiple keys request", Problem::TryAgain),
            (b"OOM command not allowed", Problem::OutOfMemory),
            (b"UNBLOCKED force unblock", Problem::Unblocked),
            (b"ERR Function not found", Problem::NoFunction),
            (b"ERR syntax error", Problem::Other),
            (b"BUSYKEY Target key name", Problem::Other),
        ] {
            assert_eq!(Problem::parse(error), wanted);
        }
    }

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"));
        assert_eq!(slot(b"foo{bar"), crc16(b"foo{bar") % SLOTS);
    }

    #[test]
    fn requests_are_arrays_of_byte_strings() {
        let mut buffer = [0; 64];
        let mut encoder = Encoder::new(&mut buffer);
        encoder.request(3).bytes(b"SETRANGE").bytes(b"k").number(0);
        encoder.announce(4096);
        let len = encoder.finish().unwrap();
        assert_eq!(
            &buffer[..len],
            b"*3\r\n$8\r\nSETRANGE\r\n$1\r\nk\r\n$1\r\n0\r\n$4096\r\n"
        );
        let mut small = [0; 8];
        let mut encoder = Encoder::new(&mut small);
        encoder.request(1).bytes(b"PING");
        assert_eq!(encoder.finish(), None);
        assert_eq!(Digits::new(u64::MAX).as_bytes(), b"18446744073709551615");
    }
}
