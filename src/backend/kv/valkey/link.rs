//! The connection to a server: made, lost, and made again after a while.

use core::ffi::CStr;
use core::fmt;
use core::net::SocketAddr;

use super::super::engine::Client;
use super::super::line::{Broken, Line, Transport};
use super::connection::Settings;
use super::pipeline::{Lost, Pipeline};
use super::route::{Node, Route};
use super::sockets::{Sockets, Wire};
#[cfg(feature = "tls")]
use crate::backend::tls;
use crate::sys;
use crate::sys::fd::Fd;
use crate::sys::tcp::Pieces;
use crate::sys::time::Instant;
use crate::wire::errno::Errno;

/// Most bytes of what a server says that are kept.
const TEXT: usize = 104;

/// Say where a server is.
#[derive(Debug)]
pub enum Address {
    /// At a TCP port.
    Tcp(SocketAddr),
    /// At a unix socket, in a folder that is open: its path may be out of reach later.
    Unix {
        /// The folder.
        dir: Fd,
        /// Name in it.
        name: &'static CStr,
    },
}

/// What a server said, cut to what is kept.
pub type Text = heapless::String<TEXT>;

/// Say why a server is not used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// There is no connection.
    Connection(Errno),
    /// The server ended the connection.
    Ended,
    /// The server does not answer.
    Silent,
    /// What came is no reply.
    Malformed,
    /// The server cannot answer now.
    Later,
    /// The cluster has nobody for the volume's slot now.
    Unserved,
    /// The volume's slot is on its way from one node to another.
    Moving,
    /// Another node has the volume.
    Moved(Node),
    /// The cluster names its nodes as nobody here can look up.
    Named,
    /// The server refused, in its own words.
    Refused(Text),
    /// A replica, which takes no changes.
    Replica,
    /// The volume is not there, or is another.
    Gone,
    /// Without memory the server would throw records away.
    Evicts,
    /// The server does not wait for its disk, in its own word (`appendfsync`).
    Late(Text),
    /// The server and this client do not agree on TLS.
    #[cfg(feature = "tls")]
    Tls(tls::Fault),
}

impl Trouble {
    /// Keep what a server said.
    pub fn refused(text: &[u8]) -> Self {
        Self::Refused(kept(text))
    }

    /// Say what may be meant, to who configures.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Ended | Self::Connection(Errno::ECONNRESET) => {
                "; where the server speaks TLS: tls = true"
            }
            _ => "",
        }
    }

    /// Tell whether it may pass without anybody doing anything.
    pub const fn passes(&self) -> bool {
        match self {
            Self::Refused(_)
            | Self::Named
            | Self::Malformed
            | Self::Gone
            | Self::Evicts
            | Self::Late(_) => false,
            #[cfg(feature = "tls")]
            Self::Tls(fault) => fault.passes(),
            _ => true,
        }
    }
}

/// Keep what a server said, what is no plain text left out.
pub fn kept(text: &[u8]) -> Text {
    let mut kept = Text::new();
    for byte in text.iter().take(TEXT) {
        let shown = match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '?',
        };
        let _ = kept.push(shown);
    }
    kept
}

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(error) => write!(out, "no connection: {error}"),
            Self::Ended => write!(out, "the server ended the connection"),
            Self::Silent => write!(out, "the server does not answer"),
            Self::Malformed => write!(out, "what came is no reply of Valkey or Redis (RESP3)"),
            Self::Later => write!(out, "the server cannot answer now"),
            Self::Refused(text) => write!(out, "the server answers: {text}"),
            Self::Unserved => write!(out, "the cluster has nobody for the volume's slot now"),
            Self::Moving => write!(
                out,
                "the volume's slot is on its way from one node to another; requests wait"
            ),
            Self::Moved(_) => write!(out, "another node has the volume"),
            Self::Named => write!(
                out,
                "the cluster names its nodes by host names; allowed: cluster-preferred-endpoint-type ip"
            ),
            Self::Replica => write!(out, "the server is a replica; allowed: a primary"),
            Self::Late(word) => write!(
                out,
                "the server has appendfsync {word}; allowed with durability \"aof\": always"
            ),
            Self::Evicts => write!(
                out,
                "the server throws keys away when its memory is full; allowed: maxmemory 0, or maxmemory-policy noeviction"
            ),
            #[cfg(feature = "tls")]
            Self::Tls(fault) => write!(out, "{fault}"),
            Self::Gone => write!(
                out,
                "the server has lost the volume, or has another of its name: what was served is gone"
            ),
        }
    }
}

impl From<Lost> for Trouble {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Malformed => Self::Malformed,
            Lost::Later => Self::Later,
            Lost::Unserved => Self::Unserved,
            Lost::Moving => Self::Moving,
            Lost::Moved(node) => Self::Moved(node),
            Lost::Named => Self::Named,
        }
    }
}

impl From<Broken> for Trouble {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Errno(error) => Self::Connection(error),
            Broken::Ended => Self::Ended,
            Broken::Silent => Self::Silent,
            #[cfg(feature = "tls")]
            Broken::Tls(fault) => Self::Tls(fault),
        }
    }
}

/// Hold a connection.
pub struct Link {
    route: Route,
    sockets: Sockets,
    line: Line<Wire>,
    /// When it was last looked whether something has come.
    looked: Instant,
}

impl Link {
    pub fn new(settings: &Settings) -> sys::Result<Self> {
        Ok(Self {
            route: Route::new(settings.addresses),
            sockets: Sockets::new(settings)?,
            line: Line::default(),
            looked: Instant(0),
        })
    }

    /// Give a descriptor that becomes readable when something comes, whichever connection that is.
    pub fn bell(&self) -> i32 {
        self.sockets.bell()
    }

    pub const fn is_up(&self) -> bool {
        self.line.is_up()
    }

    pub const fn heard(&self) -> Instant {
        self.line.heard()
    }

    pub const fn looked(&self) -> Instant {
        self.looked
    }

    /// Say when [`Self::connect`] has something to do; nothing when the connection stands.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.line.deadline(now)
    }

    /// Go on making a connection. True when it stands from now on.
    pub fn connect(&mut self, now: Instant) -> Result<bool, Trouble> {
        let target = self.route.target();
        Ok(self.line.connect(&self.sockets, &target, now)?)
    }

    /// Note that the server is of use: should the connection break, the next is tried soon.
    pub const fn proven(&mut self) {
        self.line.proven();
    }

    /// End the connection, and make one to the next server after a while that grows.
    pub fn close(&mut self, now: Instant) {
        self.line.close(now, self.route.len());
        self.route.next();
    }

    /// End the connection, and make one to the node that was named.
    pub fn follow(&mut self, now: Instant, node: Node) {
        match self.route.moved(node) {
            true => self.line.restart(now),
            false => self.line.close(now, self.route.len()),
        }
    }

    /// Give who else may be asked, to be told who takes over.
    pub const fn route(&mut self) -> &mut Route {
        &mut self.route
    }

    /// Tell whether another one may serve instead.
    pub fn has_choice(&self) -> bool {
        self.route.len() > 1
    }

    /// Tell whether some of what the connection took is still here.
    pub fn holds(&self) -> bool {
        self.line.holds(&self.sockets)
    }

    /// Send what there is to send, as much as the connection takes. True when it took something.
    pub fn send(&mut self, pipe: &mut Pipeline, client: &dyn Client) -> Result<bool, Trouble> {
        let mut any = false;
        loop {
            pipe.prepare();
            let mut pieces = Pieces::default();
            pipe.outgoing(&mut pieces, client);
            let bytes = match pieces.is_empty() {
                true => 0,
                false => self.line.send(&self.sockets, &mut pieces)?,
            };
            if bytes == 0 {
                return Ok(any);
            }
            pipe.sent(bytes);
            any = true;
        }
    }

    /// Receive what has come, once: bytes, and whether there may be more. Nothing when nothing has.
    pub fn receive(
        &mut self,
        now: Instant,
        pipe: &mut Pipeline,
        client: &dyn Client,
    ) -> Result<Option<(usize, bool)>, Trouble> {
        self.looked = now;
        let mut pieces = Pieces::default();
        pipe.room(&mut pieces, client);
        let room = pieces.len();
        let bytes = self.line.receive(&self.sockets, &mut pieces, now)?;
        Ok((bytes > 0).then_some((bytes, bytes == room)))
    }
}
