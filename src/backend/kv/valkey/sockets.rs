//! What carries the bytes to a server: TCP and unix sockets, and TLS where it is configured.
//!
//! Which of them a connection is was decided when it was made. Without TLS every call goes to the socket as it is.

#[cfg(feature = "tls")]
use std::boxed::Box;

use super::super::line::{Broken, Tcp, Transport};
use super::connection::Settings;
use super::route::Target;
#[cfg(feature = "tls")]
use crate::backend::tls::{self, Session, Trust};
use crate::sys::fd::Fd;
use crate::sys::tcp::Pieces;
use crate::sys::{self, socket};

/// Make connections as they are configured.
pub struct Sockets {
    tcp: Tcp,
    #[cfg(feature = "tls")]
    tls: Option<&'static Trust>,
}

/// Hold a connection.
pub enum Wire {
    /// Bytes as they are.
    Plain(Fd),
    /// Bytes in records.
    #[cfg(feature = "tls")]
    Tls(Box<Session>),
}

impl Sockets {
    /// Make one.
    ///
    /// # Errors
    /// As epoll_create1(2).
    #[cfg_attr(
        not(feature = "tls"),
        expect(unused_variables, reason = "only TLS is configured")
    )]
    pub fn new(settings: &Settings) -> sys::Result<Self> {
        Ok(Self {
            tcp: Tcp::new()?,
            #[cfg(feature = "tls")]
            tls: settings.tls,
        })
    }
}

impl Transport for Sockets {
    type Address = Target;
    type Wire = Wire;

    fn connect(&self, to: &Target) -> Result<Wire, Broken> {
        match to {
            Target::Tcp(address) => {
                let fd = self.tcp.connect(address)?;
                #[cfg(feature = "tls")]
                if let Some(trust) = self.tls {
                    return Ok(Wire::Tls(Box::new(trust.session(fd, address)?)));
                }
                Ok(Wire::Plain(fd))
            }
            Target::Unix(dir, name) => Ok(Wire::Plain(socket::connect_in(dir.raw(), name)?)),
        }
    }

    fn stands(&self, wire: &mut Wire) -> Result<bool, Broken> {
        match wire {
            Wire::Plain(fd) => self.tcp.stands(fd),
            #[cfg(feature = "tls")]
            Wire::Tls(session) => {
                let connected = session.is_connected();
                let stands = session.stands()?;
                if !connected && session.is_connected() {
                    self.tcp.listen(session.raw())?;
                }
                Ok(stands)
            }
        }
    }

    #[cfg(feature = "tls")]
    fn silent(&self, wire: &Wire) -> Broken {
        match wire {
            Wire::Plain(_) => Broken::Silent,
            Wire::Tls(session) => session.silent().map_or(Broken::Silent, Broken::Tls),
        }
    }

    fn send(&self, wire: &mut Wire, pieces: &mut Pieces<'_>) -> Result<usize, Broken> {
        match wire {
            Wire::Plain(fd) => self.tcp.send(fd, pieces),
            #[cfg(feature = "tls")]
            Wire::Tls(session) => Ok(session.send(pieces)?),
        }
    }

    fn receive(&self, wire: &mut Wire, pieces: &mut Pieces<'_>) -> Result<usize, Broken> {
        match wire {
            Wire::Plain(fd) => self.tcp.receive(fd, pieces),
            #[cfg(feature = "tls")]
            Wire::Tls(session) => Ok(session.receive(pieces)?),
        }
    }

    fn bell(&self) -> i32 {
        self.tcp.bell()
    }

    #[cfg(feature = "tls")]
    fn holds(&self, wire: &Wire) -> bool {
        match wire {
            Wire::Plain(_) => false,
            Wire::Tls(session) => session.holds(),
        }
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
