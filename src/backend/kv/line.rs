//! A connection to one server: made without waiting, lost, and made again after a while that grows.
//!
//! What carries the bytes is a [`Transport`]: TCP, and what stands upon it. Who uses a line sends what it has and receives
//! into its own memory; a line knows no protocol.

use core::net::SocketAddr;

use crate::sys;
use crate::sys::epoll::Epoll;
use crate::sys::fd::Fd;
use crate::sys::tcp::{self, Pieces};
use crate::sys::time::Instant;
use crate::wire::errno::Errno;

/// First and last wait before a connection is tried again, in nanoseconds.
const BACKOFF: (u64, u64) = (10_000_000, 1_000_000_000);
/// Longest time in nanoseconds that making a connection may take.
const CONNECTING: u64 = 5_000_000_000;
/// Nanoseconds between two looks at a connection that is being made.
const LOOK: u64 = 1_000_000;

/// Carry bytes between this process and servers, in order, without ever waiting.
pub trait Transport {
    /// Where a server is.
    type Address;
    /// A connection.
    type Wire;

    /// Begin to connect.
    ///
    /// # Errors
    /// Why it cannot be.
    fn connect(&self, to: &Self::Address) -> Result<Self::Wire, Broken>;

    /// Tell whether a connection stands, and have the bell ring for it from then on.
    ///
    /// # Errors
    /// Why it could not be made.
    fn stands(&self, wire: &mut Self::Wire) -> Result<bool, Broken>;

    /// Say what it means that making a connection takes too long.
    fn silent(&self, _wire: &Self::Wire) -> Broken {
        Broken::Silent
    }

    /// Send what is collected, as much as the connection takes now.
    ///
    /// # Errors
    /// `EAGAIN` when it takes nothing; why it broke.
    fn send(&self, wire: &mut Self::Wire, pieces: &mut Pieces<'_>) -> Result<usize, Broken>;

    /// Receive what has come. Zero: the server ended the connection.
    ///
    /// # Errors
    /// `EAGAIN` when nothing has; why it broke.
    fn receive(&self, wire: &mut Self::Wire, pieces: &mut Pieces<'_>) -> Result<usize, Broken>;

    /// Tell whether some of what a connection took is still here, and goes on its way with the next call.
    fn holds(&self, _wire: &Self::Wire) -> bool {
        false
    }

    /// Give a descriptor that becomes readable when something comes by any connection.
    fn bell(&self) -> i32;
}

/// TCP of this machine.
pub struct Tcp {
    epoll: Epoll,
}

impl Tcp {
    /// Make one.
    ///
    /// # Errors
    /// As epoll_create1(2).
    pub fn new() -> sys::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
        })
    }

    /// Have the bell ring when something comes by a connection that stands.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn listen(&self, fd: i32) -> sys::Result<()> {
        self.epoll.add(fd, 0)
    }
}

impl Transport for Tcp {
    type Address = SocketAddr;
    type Wire = Fd;

    fn connect(&self, to: &SocketAddr) -> Result<Fd, Broken> {
        Ok(tcp::connect(to, false)?)
    }

    fn stands(&self, wire: &mut Fd) -> Result<bool, Broken> {
        let stands = tcp::connected(wire.raw())?;
        if stands {
            self.listen(wire.raw())?;
        }
        Ok(stands)
    }

    fn send(&self, wire: &mut Fd, pieces: &mut Pieces<'_>) -> Result<usize, Broken> {
        Ok(pieces.send(wire.raw())?)
    }

    fn receive(&self, wire: &mut Fd, pieces: &mut Pieces<'_>) -> Result<usize, Broken> {
        Ok(pieces.receive(wire.raw())?)
    }

    fn bell(&self) -> i32 {
        self.epoll.raw()
    }
}

/// Say how a connection stands.
enum State<W> {
    /// There is none, until then.
    Down(Instant),
    /// It is being made, since then.
    Connecting(W, Instant),
    /// It stands.
    Up(W),
}

/// Say why a connection is of no use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Broken {
    /// It could not be made, or broke.
    Errno(Errno),
    /// The server ended it.
    Ended,
    /// Making it takes too long.
    Silent,
    /// The server and this client do not agree on TLS.
    #[cfg(feature = "tls")]
    Tls(crate::backend::tls::Fault),
}

impl From<Errno> for Broken {
    fn from(error: Errno) -> Self {
        Self::Errno(error)
    }
}

impl core::fmt::Display for Broken {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Errno(error) => write!(out, "no connection: {error}"),
            Self::Ended => write!(out, "the server ended the connection"),
            Self::Silent => write!(out, "the server does not answer"),
            #[cfg(feature = "tls")]
            Self::Tls(fault) => write!(out, "{fault}"),
        }
    }
}

/// Hold a connection.
pub struct Line<W> {
    state: State<W>,
    backoff: u64,
    heard: Instant,
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        Self {
            state: State::Down(Instant(0)),
            backoff: BACKOFF.0,
            heard: Instant(0),
        }
    }
}

impl<W> Line<W> {
    /// Tell whether it stands.
    pub const fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// Give when something came last, or the connection was made.
    pub const fn heard(&self) -> Instant {
        self.heard
    }

    /// Say when [`Self::connect`] has something to do; nothing when the connection stands.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        match self.state {
            State::Down(until) => Some(until),
            State::Connecting(..) => Some(now.after(LOOK)),
            State::Up(_) => None,
        }
    }

    /// Go on making a connection. True when it stands from now on.
    ///
    /// # Errors
    /// [`Broken`]; [`Self::close`] is to follow.
    pub fn connect<T: Transport<Wire = W>>(
        &mut self,
        transport: &T,
        to: &T::Address,
        now: Instant,
    ) -> Result<bool, Broken> {
        match &mut self.state {
            State::Up(_) => Ok(false),
            State::Down(until) if now < *until => Ok(false),
            State::Down(_) => {
                let wire = transport.connect(to)?;
                self.state = State::Connecting(wire, now);
                Ok(false)
            }
            State::Connecting(wire, since) => match transport.stands(wire) {
                Ok(true) => {
                    self.heard = now;
                    self.state = match core::mem::replace(&mut self.state, State::Down(now)) {
                        State::Connecting(wire, _) => State::Up(wire),
                        other => other,
                    };
                    Ok(true)
                }
                Ok(false) if now.since(*since) > CONNECTING => Err(transport.silent(wire)),
                Ok(false) => Ok(false),
                Err(broken) => Err(broken),
            },
        }
    }

    /// Note that the server is of use: should the connection break, it is made again soon.
    pub const fn proven(&mut self) {
        self.backoff = BACKOFF.0;
    }

    /// End the connection; it may be made again after a while that grows. Of that while a turn through so many servers
    /// takes all.
    pub fn close(&mut self, now: Instant, servers: usize) {
        let wait = self.backoff / servers.max(1) as u64;
        self.state = State::Down(now.after(wait));
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
    }

    /// End the connection; it may be made again at once.
    pub fn restart(&mut self, now: Instant) {
        self.state = State::Down(now);
    }

    /// Send what is collected. Gives the bytes that the connection took: none when it stands not, or takes none now.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn send<T: Transport<Wire = W>>(
        &mut self,
        transport: &T,
        pieces: &mut Pieces<'_>,
    ) -> Result<usize, Broken> {
        let State::Up(wire) = &mut self.state else {
            return Ok(0);
        };
        match transport.send(wire, pieces) {
            Ok(bytes) => Ok(bytes),
            Err(Broken::Errno(Errno::EAGAIN | Errno::EINTR)) => Ok(0),
            Err(broken) => Err(broken),
        }
    }

    /// Receive what has come. Gives the bytes: none when nothing has.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn receive<T: Transport<Wire = W>>(
        &mut self,
        transport: &T,
        pieces: &mut Pieces<'_>,
        now: Instant,
    ) -> Result<usize, Broken> {
        let State::Up(wire) = &mut self.state else {
            return Ok(0);
        };
        if pieces.is_empty() {
            return Ok(0);
        }
        match transport.receive(wire, pieces) {
            Ok(0) => Err(Broken::Ended),
            Ok(bytes) => {
                self.heard = now;
                Ok(bytes)
            }
            Err(Broken::Errno(Errno::EAGAIN | Errno::EINTR)) => Ok(0),
            Err(broken) => Err(broken),
        }
    }

    /// Tell whether some of what the connection took is still here.
    pub fn holds<T: Transport<Wire = W>>(&self, transport: &T) -> bool {
        matches!(&self.state, State::Up(wire) if transport.holds(wire))
    }
}
