//! What carries the bytes to a server: TCP, and TLS upon it where that is configured (RFC 9289).
//!
//! Which of them a connection is was decided when it was begun, and one that should be TLS never becomes the other. Without
//! TLS every call goes to the socket as it is.

#[cfg(feature = "tls")]
use std::boxed::Box;

use core::net::SocketAddr;

#[cfg(feature = "tls")]
use super::starttls::Probe;
#[cfg(feature = "tls")]
use crate::backend::tls::{self, Fault, Session, Trust};
use crate::sys;
use crate::sys::fd::Fd;
use crate::sys::tcp::{self, Pieces};
use crate::wire::errno::Errno;

/// Say how a server is to be reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Security {
    /// Whom connections trust; `None` for connections without TLS.
    #[cfg(feature = "tls")]
    pub trust: Option<&'static Trust>,
}

/// Say why a connection is of no use.
#[derive(Debug)]
pub enum Broken {
    /// As the system says.
    Errno(Errno),
    /// The server and this client do not agree on TLS.
    #[cfg(feature = "tls")]
    Tls(Fault),
}

impl From<Errno> for Broken {
    fn from(error: Errno) -> Self {
        Self::Errno(error)
    }
}

#[cfg(feature = "tls")]
impl From<tls::Error> for Broken {
    fn from(error: tls::Error) -> Self {
        match error {
            tls::Error::Errno(error) => Self::Errno(error),
            tls::Error::Fault(fault) => Self::Tls(fault),
        }
    }
}

/// Hold a connection.
pub enum Wire {
    /// Bytes as they are.
    Plain(Fd),
    /// The server is asked for TLS.
    #[cfg(feature = "tls")]
    Asking(Box<Probe>),
    /// Bytes in records of TLS.
    #[cfg(feature = "tls")]
    Tls(Box<Session>),
}

impl Wire {
    /// Begin to connect, from a `reserved` port if so wanted.
    ///
    /// # Errors
    /// As for [`tcp::connect`].
    #[cfg_attr(
        not(feature = "tls"),
        expect(unused_variables, reason = "only TLS is configured")
    )]
    pub fn connect(to: &SocketAddr, reserved: bool, security: Security) -> sys::Result<Self> {
        let fd = tcp::connect(to, reserved)?;
        #[cfg(feature = "tls")]
        if let Some(trust) = security.trust {
            return Ok(Self::Asking(Box::new(Probe::new(fd, *to, trust))));
        }
        Ok(Self::Plain(fd))
    }

    /// Give the descriptor.
    pub fn raw(&self) -> i32 {
        match self {
            Self::Plain(fd) => fd.raw(),
            #[cfg(feature = "tls")]
            Self::Asking(probe) => probe.raw(),
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.raw(),
        }
    }

    /// Go on making the connection. True when it stands.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub fn stands(&mut self) -> Result<bool, Broken> {
        #[cfg(feature = "tls")]
        if let Self::Asking(probe) = self {
            match probe.go_on()? {
                Some(session) => *self = Self::Tls(Box::new(session)),
                None => return Ok(false),
            }
        }
        match self {
            Self::Plain(fd) => Ok(tcp::connected(fd.raw())?),
            #[cfg(feature = "tls")]
            Self::Asking(_) => Ok(false),
            #[cfg(feature = "tls")]
            Self::Tls(session) => Ok(session.stands()?),
        }
    }

    /// Say what it means that making the connection takes too long, where that says more than that nobody is there.
    #[cfg(feature = "tls")]
    pub fn silent(&self) -> Option<Fault> {
        match self {
            Self::Plain(_) => None,
            Self::Asking(probe) => probe.silent(),
            Self::Tls(session) => session.silent(),
        }
    }

    /// Send what is collected, as much as the connection takes now.
    ///
    /// # Errors
    /// `EAGAIN` when it takes nothing; why it broke.
    #[inline]
    pub fn send(&mut self, pieces: &mut Pieces<'_>) -> Result<usize, Broken> {
        match self {
            Self::Plain(fd) => Ok(pieces.send(fd.raw())?),
            #[cfg(feature = "tls")]
            Self::Asking(_) => Err(Errno::EAGAIN.into()),
            #[cfg(feature = "tls")]
            Self::Tls(session) => Ok(session.send(pieces)?),
        }
    }

    /// Receive what has come. Zero: the server ended the connection.
    ///
    /// # Errors
    /// `EAGAIN` when nothing has; why it broke.
    #[inline]
    pub fn receive(&mut self, pieces: &mut Pieces<'_>) -> Result<usize, Broken> {
        match self {
            Self::Plain(fd) => Ok(pieces.receive(fd.raw())?),
            #[cfg(feature = "tls")]
            Self::Asking(_) => Err(Errno::EAGAIN.into()),
            #[cfg(feature = "tls")]
            Self::Tls(session) => Ok(session.receive(pieces)?),
        }
    }

    /// Tell whether nothing more has come when less was received than there was room for.
    #[inline]
    pub const fn is_drained_by_less(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Send what was taken and is still here. True when something still is.
    ///
    /// # Errors
    /// Why the connection broke.
    #[inline]
    pub fn push(&mut self) -> Result<bool, Broken> {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(session) if session.holds() => Ok(!session.flush()?),
            _ => Ok(false),
        }
    }

    /// Tell whether something that was taken is still here.
    pub fn holds(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.holds(),
            _ => false,
        }
    }
}
