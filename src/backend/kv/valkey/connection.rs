//! A connection: what is said before it serves, and the calls that go by it.

use core::net::SocketAddr;

use super::super::engine::{Busy, Client, Token};
use super::link::{Address, Link, Text, Trouble, kept};
use super::pipeline::{Pipeline, Sizes};
use super::reply::{self, Answer, Ask};
use super::request::{self, Durability, FUNCTIONS, VERSION};
use super::spread::Written;
use crate::mem::Arena;
use crate::sys;
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::resp::{Encoder, Item, Malformed, Problem, Reader};

/// Nanoseconds without a word from a server that owes an answer, after which the connection is made anew. A server says
/// that a script keeps it busy after 5 seconds.
const SILENCE: u64 = 10_000_000_000;
/// The same where another server may have taken over meanwhile.
const TAKEOVER: u64 = 3_000_000_000;
/// Nanoseconds between two looks at a connection that owes nothing: whether it ended.
const LOOK: u64 = 1_000_000;
/// Most system calls that receive, in one round.
const RECEIVES: u32 = 8;

/// When a volume was made, in the server's words: it tells the volume from a later one of the same name.
pub type Made = heapless::String<40>;

/// Say how a volume was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Size of chunks in bytes.
    pub chunk: u32,
    /// When.
    pub made: Made,
    /// Whether content spreads over the nodes of a cluster.
    pub spread: bool,
}

/// Say what a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aim {
    /// Look what is there, and change nothing.
    Look,
    /// Find the volume; load the library where it is missing.
    Find,
    /// Make the volume where it is missing.
    Make,
    /// Serve a volume that is there.
    Serve,
}

/// Say how to reach a volume.
#[derive(Debug)]
pub struct Settings {
    /// Where the server is, or nodes of a cluster.
    pub addresses: &'static [Address],
    /// Who asks; empty for the default user.
    pub user: &'static [u8],
    /// Password; empty when none is asked for.
    pub password: &'static [u8],
    /// Name of the volume, in braces.
    pub prefix: &'static [u8],
    /// Size of chunks in bytes: of a new volume, or of the one that is served.
    pub chunk: u32,
    /// Whether content spreads over the nodes of a cluster: of the volume that is served.
    pub spread: bool,
    /// What was changed on groups' nodes by all cores.
    pub written: &'static Written,
    /// Whether that of a new volume does; `None` where the server is a node of a cluster.
    pub spreads: Option<bool>,
    /// When the volume that is served was made.
    pub made: Made,
    /// Nanoseconds without any answer after which requests fail.
    pub timeout: u64,
    /// What FSYNC and SYNCFS wait for; `None` for nothing.
    pub durability: Option<Durability>,
    /// Whom connections trust; `None` for connections without TLS.
    #[cfg(feature = "tls")]
    pub tls: Option<&'static crate::backend::tls::Trust>,
}

/// What is waited for before calls are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Hello,
    /// Whether the server waits for its disk, where that is asked for.
    Disk,
    Memory,
    Open,
    Load,
    /// Who takes over when this node of a cluster fails.
    Replicas,
    /// Nothing: calls are sent.
    Ready,
}

/// Hold a connection to a volume's server, and its calls.
pub struct Connection {
    settings: &'static Settings,
    aim: Aim,
    link: Link,
    pipe: Pipeline,
    step: Step,
    /// The library was loaded by this connection.
    loaded: bool,
    /// Name and version of the server.
    server: Text,
    /// The server is a node of a cluster.
    cluster: bool,
    /// The volume that was found.
    found: Option<Found>,
    trouble: Option<Trouble>,
    now: Instant,
    /// When a call was answered last, or there was none.
    progress: Instant,
    answered: u64,
    /// A call was taken when there was none, and no time is known for it.
    fresh: bool,
}

impl Connection {
    /// Make one for so many calls under way. `client` is a random number that nobody else has.
    ///
    /// # Errors
    /// `ENOMEM` when the arena has less than [`Self::footprint`]; as epoll_create1(2).
    pub fn new(
        arena: &Arena,
        settings: &'static Settings,
        aim: Aim,
        (calls, sizes): (u32, Sizes),
        client: u64,
    ) -> sys::Result<Self> {
        let pipe = Pipeline::new(arena, settings.prefix, calls, client, sizes);
        Ok(Self {
            settings,
            aim,
            link: Link::new(settings)?,
            pipe: pipe.map_err(|_| Errno::ENOMEM)?,
            step: Step::Hello,
            loaded: false,
            server: Text::new(),
            cluster: false,
            found: None,
            trouble: None,
            now: Instant(0),
            progress: Instant(0),
            answered: 0,
            fresh: false,
        })
    }

    /// Give the bytes of arena that one needs.
    pub const fn footprint(calls: u32, sizes: Sizes) -> usize {
        Pipeline::footprint(calls, sizes)
    }

    /// Give the calls.
    pub const fn pipe(&self) -> &Pipeline {
        &self.pipe
    }

    /// Note that it was told that changes are lost; gives the number of the last change that was made by then.
    pub const fn told_of_loss(&mut self) -> u64 {
        self.pipe.told_of_loss()
    }

    /// Take a call.
    ///
    /// # Errors
    /// [`Busy`] when there is no room.
    pub fn submit(&mut self, token: Token, ask: &Ask<'_>) -> Result<(), Busy> {
        self.fresh |= self.pipe.is_empty();
        self.pipe.submit(token, ask, self.settings.chunk, self.now)
    }

    /// Go on. True when something happened.
    pub fn poll(&mut self, now: Instant, client: &mut dyn Client) -> bool {
        self.now = now;
        if core::mem::take(&mut self.fresh) {
            self.progress = now;
        }
        let mut any = self.go_on(now, client).unwrap_or_else(|trouble| {
            self.down(now, trouble);
            false
        });
        let answered = self.pipe.answered();
        if answered != self.answered {
            self.answered = answered;
            self.link.proven();
            self.progress = now;
            any = true;
        } else if self.pipe.is_empty() {
            self.progress = now;
        } else if now.since(self.progress) > self.settings.timeout {
            self.down(now, Trouble::Silent);
            self.pipe.fail(client);
            self.progress = now;
            any = true;
        }
        any
    }

    /// Give a descriptor that becomes readable when something comes.
    pub fn bell(&self) -> i32 {
        self.link.bell()
    }

    /// Tell whether sleeping is right: what the connection had no room for is tried again without.
    pub fn may_sleep(&self) -> bool {
        !self.is_ready() || (self.pipe.is_sent() && !self.link.holds())
    }

    /// Say when [`Self::poll`] is to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        if let Some(at) = self.link.deadline(self.now) {
            return Some(at);
        }
        let last = self.link.heard().max(self.progress);
        let silent = last.after(self.silence());
        (!self.pipe.owes_nothing()).then(|| silent.min(self.progress.after(self.settings.timeout)))
    }

    fn silence(&self) -> u64 {
        match self.link.has_choice() {
            true => TAKEOVER,
            false => SILENCE,
        }
    }

    /// Tell whether calls are sent.
    pub fn is_ready(&self) -> bool {
        self.step == Step::Ready && self.link.is_up()
    }

    /// Give what was wrong last; nothing while the connection serves.
    pub const fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Give the server's name and version, once it said them.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Give the volume that was found.
    pub const fn found(&self) -> Option<&Found> {
        self.found.as_ref()
    }

    fn ask(&mut self, step: Step) {
        self.step = step;
        let settings = self.settings;
        let create = match self.aim {
            Aim::Make => settings.chunk,
            Aim::Look | Aim::Find | Aim::Serve => 0,
        };
        let spreads = settings.spreads.unwrap_or(self.cluster);
        self.pipe.ask(|to| match step {
            Step::Hello => introduce(to, settings),
            Step::Disk => {
                to.request(3).bytes(b"CONFIG").bytes(b"GET");
                to.bytes(b"appendfsync");
            }
            Step::Memory => {
                to.request(2).bytes(b"INFO").bytes(b"memory");
            }
            Step::Open => request::open(to, settings.prefix, create, spreads),
            Step::Load => {
                to.request(4).bytes(b"FUNCTION").bytes(b"LOAD");
                to.bytes(b"REPLACE").bytes(FUNCTIONS.as_bytes());
            }
            Step::Replicas => {
                to.request(3).bytes(b"INFO");
                to.bytes(b"memory").bytes(b"replication");
            }
            Step::Ready => {}
        });
    }

    /// Take the answer to what was asked, and go on.
    fn answered(&mut self) -> Result<(), Trouble> {
        while self.step != Step::Ready {
            let Some(bytes) = self.pipe.answer().map_err(|_| Trouble::Malformed)? else {
                return Ok(());
            };
            let mut reader = Reader::new(bytes);
            let first = reader.item().map_err(|_| Trouble::Malformed)?;
            let next = match (self.step, first) {
                (Step::Open, Some(Item::Error(text)))
                    if Problem::parse(text) == Problem::NoFunction =>
                {
                    self.load()?
                }
                (_, Some(Item::Error(text))) => {
                    return Err(match reply::refused(text) {
                        Answer::Lost(lost) if Problem::parse(text) != Problem::Refused => {
                            lost.into()
                        }
                        _ => Trouble::refused(text),
                    });
                }
                (Step::Hello, Some(Item::Map(pairs))) => {
                    (self.server, self.cluster) = hello(&mut reader, pairs)?;
                    match self.settings.durability {
                        Some(Durability::Aof) => Step::Disk,
                        _ => self.looked_at_disk(),
                    }
                }
                (Step::Disk, Some(Item::Map(1))) => {
                    waits_for_disk(&mut reader)?;
                    self.looked_at_disk()
                }
                (Step::Memory, Some(Item::Text { len, .. } | Item::Bulk(len))) => {
                    let report = reader.body(len).ok().flatten();
                    evicts(report.ok_or(Trouble::Malformed)?)?;
                    Step::Open
                }
                (Step::Open, Some(Item::Array(4))) => {
                    let (version, found) =
                        opened(&mut reader).map_err(|Malformed| Trouble::Malformed)?;
                    self.opened(version, found)?
                }
                (Step::Load, Some(Item::Bulk(_))) => Step::Open,
                (Step::Replicas, Some(Item::Text { len, .. } | Item::Bulk(len))) => {
                    let report = reader.body(len).ok().flatten();
                    let report = report.ok_or(Trouble::Malformed)?;
                    // It may be another than was looked at first.
                    evicts(report)?;
                    self.link.route().serves(replicas(report));
                    Step::Ready
                }
                _ => return Err(Trouble::Malformed),
            };
            self.ask(next);
        }
        if self.trouble.take().is_some() {
            crate::log::info!("valkey: {} serves", self.server.as_str());
        }
        Ok(())
    }

    const fn looked_at_disk(&self) -> Step {
        match self.aim {
            Aim::Serve => Step::Open,
            Aim::Look | Aim::Find | Aim::Make => Step::Memory,
        }
    }

    /// The library is missing, or old.
    fn load(&mut self) -> Result<Step, Trouble> {
        if self.aim == Aim::Look {
            return Ok(Step::Ready);
        }
        // Somebody else takes it away, or puts an old one there.
        if core::mem::replace(&mut self.loaded, true) {
            return Err(Trouble::Later);
        }
        Ok(Step::Load)
    }

    fn opened(&mut self, version: i64, found: Found) -> Result<Step, Trouble> {
        if version < VERSION {
            return self.load();
        }
        let settings = self.settings;
        let known = (settings.chunk, &settings.made, settings.spread);
        if self.aim == Aim::Serve && (found.chunk, &found.made, found.spread) != known {
            return Err(Trouble::Gone);
        }
        self.found = (found.chunk != 0).then_some(found);
        Ok(match self.cluster {
            true => Step::Replicas,
            false => Step::Ready,
        })
    }

    fn go_on(&mut self, now: Instant, client: &mut dyn Client) -> Result<bool, Trouble> {
        if !self.link.is_up() {
            if !self.link.connect(now)? {
                return Ok(false);
            }
            self.loaded = false;
            self.ask(Step::Hello);
        }
        let mut any = self.link.send(&mut self.pipe, client)?;
        if self.pipe.owes_nothing() && now.since(self.link.looked()) < LOOK {
            return Ok(any);
        }
        for _ in 0..RECEIVES {
            let Some((bytes, full)) = self.link.receive(now, &mut self.pipe, client)? else {
                break;
            };
            any = true;
            let came = self.pipe.came(bytes, self.settings.chunk, client);
            if self.pipe.has_ended() {
                let sent = match came {
                    Ok(()) => self.link.send(&mut self.pipe, client),
                    Err(_) => Ok(false),
                };
                self.pipe.deliver(client);
                sent?;
            }
            came?;
            if self.step != Step::Ready {
                self.answered()?;
                self.link.send(&mut self.pipe, client)?;
            }
            if !full {
                break;
            }
        }
        let last = self.link.heard().max(self.progress);
        match !self.pipe.owes_nothing() && now.since(last) > self.silence() {
            true => Err(Trouble::Silent),
            false => Ok(any),
        }
    }

    fn down(&mut self, now: Instant, trouble: Trouble) {
        self.pipe.reset();
        self.step = Step::Hello;
        if let Trouble::Moved(node) = trouble {
            self.link.follow(now, node);
            return;
        }
        // However long it takes, the cluster goes on.
        if trouble == Trouble::Moving {
            self.progress = now;
        }
        if self.trouble.as_ref() != Some(&trouble) {
            crate::log::warn!("valkey: {}", crate::log::Show(&trouble));
        }
        self.trouble = Some(trouble);
        self.link.close(now);
    }
}

/// Write who we are.
pub fn introduce(to: &mut Encoder<'_>, settings: &Settings) {
    let auth = !settings.password.is_empty();
    to.request(if auth { 7 } else { 4 })
        .bytes(b"HELLO")
        .bytes(b"3");
    if auth {
        let user = match settings.user {
            b"" => b"default",
            user => user,
        };
        to.bytes(b"AUTH").bytes(user).bytes(settings.password);
    }
    to.bytes(b"SETNAME").bytes(b"dpfs");
}

/// Read who answers: name and version, and whether it is a node of a cluster. A replica on its own is refused; one of a
/// cluster says whose it is when it is asked for the volume.
pub fn hello(reader: &mut Reader<'_>, pairs: u64) -> Result<(Text, bool), Trouble> {
    let mut server = Text::new();
    let (mut cluster, mut replica) = (false, false);
    let mut string = || -> Result<Option<&[u8]>, Malformed> {
        match reader.item()?.ok_or(Malformed)? {
            Item::Bulk(len) => reader.body(len),
            // Numbers and lists of modules, at the end of the map.
            _ => Ok(None),
        }
    };
    for _ in 0..pairs {
        let (Some(key), value) = (
            string().map_err(|Malformed| Trouble::Malformed)?,
            string().map_err(|Malformed| Trouble::Malformed)?,
        ) else {
            break;
        };
        let text = core::str::from_utf8(value.unwrap_or(b"")).unwrap_or("");
        match key {
            b"server" => {
                let _ = server.push_str(text);
            }
            b"version" => {
                let _ = server.push(' ').and_then(|()| server.push_str(text));
            }
            b"mode" => cluster = text == "cluster",
            b"role" => replica = text != "master",
            _ => {}
        }
    }
    match replica && !cluster {
        true => Err(Trouble::Replica),
        false => Ok((server, cluster)),
    }
}

/// Read which replicas a primary has, from lines like `slave0:ip=10.0.0.5,port=6379,state=online`. Those with host
/// names are left out.
fn replicas(report: &[u8]) -> impl Iterator<Item = SocketAddr> {
    let lines = report.split(|&byte| byte == b'\n');
    lines.filter_map(|line| {
        let line = core::str::from_utf8(line.strip_prefix(b"slave")?).ok()?;
        let (_, fields) = line.split_once(":ip=")?;
        let (ip, fields) = fields.split_once(",port=")?;
        let (port, _) = fields.split_once(',')?;
        Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
    })
}

/// Refuse a server that answers before its disk has what it was asked for. With `everysec`, WAITAOF does not help:
/// Valkey 8.1.1 was seen to confirm long before its next fdatasync(2).
pub fn waits_for_disk(reader: &mut Reader<'_>) -> Result<(), Trouble> {
    let mut word = None;
    for _ in 0..2 {
        let Ok(Some(Item::Bulk(len))) = reader.item() else {
            return Err(Trouble::Malformed);
        };
        word = reader.body(len).ok().flatten();
    }
    match word.ok_or(Trouble::Malformed)? {
        b"always" => Ok(()),
        word => Err(Trouble::Late(kept(word))),
    }
}

/// Refuse a server that throws records away when it has no more memory.
pub fn evicts(report: &[u8]) -> Result<(), Trouble> {
    let field = |name: &[u8]| {
        let mut lines = report.split(|&byte| byte == b'\n');
        let value = lines.find_map(|line| line.strip_prefix(name));
        value.map_or(&b""[..], <[u8]>::trim_ascii_end)
    };
    match field(b"maxmemory_policy:") {
        b"noeviction" => Ok(()),
        _ if field(b"maxmemory:") == b"0" => Ok(()),
        _ => Err(Trouble::Evicts),
    }
}

fn opened(reader: &mut Reader<'_>) -> Result<(i64, Found), Malformed> {
    let (Some(Item::Integer(version)), Some(Item::Integer(chunk))) =
        (reader.item()?, reader.item()?)
    else {
        return Err(Malformed);
    };
    let Some(Item::Bulk(len)) = reader.item()? else {
        return Err(Malformed);
    };
    let text = core::str::from_utf8(reader.body(len)?.ok_or(Malformed)?).map_err(|_| Malformed)?;
    let made = Made::try_from(text).map_err(|_| Malformed)?;
    let chunk = u32::try_from(chunk).map_err(|_| Malformed)?;
    let spread = match reader.item()? {
        Some(Item::Integer(spread @ 0..=1)) => spread == 1,
        _ => return Err(Malformed),
    };
    let found = Found {
        chunk,
        made,
        spread,
    };
    match chunk {
        0 => Ok((version, found)),
        4096..=0x10_0000 if chunk.is_power_of_two() => Ok((version, found)),
        _ => Err(Malformed),
    }
}
