//! One connection: the handshake, then records out and in.

use std::string::{String, ToString};
use std::sync::Arc;
use std::{boxed::Box, vec};

use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};

use super::buffer::Buffer;
use super::words::Fault;
use super::{Error, Trust};
use crate::sys::fd::Fd;
use crate::sys::tcp::{self, Pieces};
use crate::wire::errno::Errno;

/// Bytes of a record's plaintext, at most (RFC 8446, section 5.1).
const RECORD: usize = 1 << 14;
/// Bytes that a record has beside them, at most: five in front, the rest behind (section 5.2).
const BESIDE: usize = 5 + 256;
/// Bytes that have come and are not understood. A message of a handshake is held whole: certificates, mostly.
const INCOMING: usize = 64 << 10;
/// Bytes that are on their way out: four records, and a change of keys.
const OUTGOING: usize = 4 * (RECORD + BESIDE) + (1 << 10);
/// Most system calls that receive, in one turn.
const RECEIVES: u32 = 4;

/// Say why what has come was not gone through further.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// More must come before the handshake goes on.
    Handshake,
    /// Everything is understood, and something may be said.
    Ready,
    /// There is no room for another record's plaintext.
    Full,
    /// The server has nothing more to say.
    Ended,
}

/// Say what a look at the socket brought.
enum Pulled {
    Bytes,
    Nothing,
    Ended,
}

/// Hold a connection.
pub struct Session {
    fd: Fd,
    trust: &'static Trust,
    tls: UnbufferedClientConnection,
    /// What the server's certificate is to have, as it is shown.
    name: String,
    /// The connection below stands; the handshake is done.
    connected: bool,
    open: bool,
    /// The server ended what it says.
    ended: bool,
    /// There may be whole records in what has come.
    unread: bool,
    incoming: Buffer,
    outgoing: Buffer,
    /// What of a record's plaintext found no place.
    plain: Buffer,
    /// Where the plaintext of a record is collected.
    record: Box<[u8]>,
}

impl Session {
    /// Bytes of memory that one holds, beside what the library does.
    pub const FOOTPRINT: usize = INCOMING + OUTGOING + 2 * RECORD;

    pub(super) fn new(
        fd: Fd,
        trust: &'static Trust,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        let shown = name.to_str().to_string();
        let tls = UnbufferedClientConnection::new(config, name);
        Ok(Self {
            fd,
            trust,
            tls: tls.map_err(|error| Fault::of(&error, &shown, &trust.ca))?,
            name: shown,
            connected: false,
            open: false,
            ended: false,
            unread: false,
            incoming: Buffer::new(INCOMING),
            outgoing: Buffer::new(OUTGOING),
            plain: Buffer::new(RECORD),
            record: vec![0; RECORD].into_boxed_slice(),
        })
    }

    /// Give the descriptor of the connection below.
    pub fn raw(&self) -> i32 {
        self.fd.raw()
    }

    /// Tell whether the connection below stands.
    pub const fn is_connected(&self) -> bool {
        self.connected
    }

    /// Tell whether some of what was taken is still here.
    pub const fn holds(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Say what it means that all of this takes too long; nothing when the connection below does not stand.
    pub fn silent(&self) -> Option<Fault> {
        let words = "TLS: the server does not go on with the handshake; allowed: a port where it speaks TLS";
        self.connected.then(|| Fault::passing(words))
    }

    /// Go on with the connection below and the handshake. True when both are done.
    ///
    /// # Errors
    /// Why they cannot be.
    pub fn stands(&mut self) -> Result<bool, Error> {
        if !self.connected {
            self.connected = tcp::connected(self.fd.raw())?;
            if !self.connected {
                return Ok(false);
            }
        }
        for _ in 0..RECEIVES {
            let stop = self.process(None, &mut |_| 0)?;
            self.flush()?;
            match stop {
                Stop::Handshake => {}
                Stop::Ready | Stop::Full => return Ok(true),
                Stop::Ended => return Err(cut()),
            }
            match self.pull()? {
                Pulled::Bytes => {}
                Pulled::Nothing => return Ok(false),
                Pulled::Ended => return Err(cut()),
            }
        }
        Ok(false)
    }

    /// Encrypt what is collected, and send it, as much as there is room for. Gives the bytes that were taken: the last of
    /// them may still be here ([`Self::holds`]).
    ///
    /// # Errors
    /// `EAGAIN` when nothing is taken; why the connection broke.
    pub fn send(&mut self, pieces: &Pieces<'_>) -> Result<usize, Error> {
        if !self.flush()? {
            return Err(Errno::EAGAIN.into());
        }
        let mut taken = 0;
        self.process(Some((pieces, &mut taken)), &mut |_| 0)?;
        self.flush()?;
        match taken {
            0 => Err(Errno::EAGAIN.into()),
            taken => Ok(taken),
        }
    }

    /// Receive, decrypt, and put into its place what has come. Zero: the server ended the connection.
    ///
    /// # Errors
    /// `EAGAIN` when nothing has; why the connection broke.
    pub fn receive(&mut self, pieces: &mut Pieces<'_>) -> Result<usize, Error> {
        self.flush()?;
        let mut got = pieces.fill(0, self.plain.filled());
        self.plain.take(got);
        for _ in 0..RECEIVES {
            if got == pieces.len() {
                break;
            }
            if !self.unread {
                match self.pull()? {
                    Pulled::Bytes => {}
                    Pulled::Nothing => break,
                    Pulled::Ended => {
                        self.ended = true;
                        break;
                    }
                }
            }
            let stop = self.process(None, &mut |bytes| {
                let filled = pieces.fill(got, bytes);
                got += filled;
                filled
            })?;
            if stop == Stop::Ended {
                self.ended = true;
                break;
            }
        }
        match got {
            0 if self.ended => Ok(0),
            0 => Err(Errno::EAGAIN.into()),
            got => Ok(got),
        }
    }

    /// Go through what has come, as far as it goes; `give` puts plaintext into its place and says how much of it. What is
    /// to be said is encrypted when it may be.
    fn process(
        &mut self,
        mut say: Option<(&Pieces<'_>, &mut usize)>,
        give: &mut dyn FnMut(&[u8]) -> usize,
    ) -> Result<Stop, Error> {
        loop {
            let status = self.tls.process_tls_records(self.incoming.filled_mut());
            let UnbufferedStatus {
                mut discard, state, ..
            } = status;
            let mut stop = None;
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    let Ok(bytes) = data.encode(self.outgoing.room()) else {
                        return Err(Fault::new(
                            "TLS: a handshake is longer than there is room for",
                        )
                        .into());
                    };
                    self.outgoing.add(bytes);
                }
                // It is sent with what follows.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    if !self.plain.is_empty() {
                        stop = Some(Stop::Full);
                    } else if let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        let placed = give(record.payload).min(record.payload.len());
                        self.plain.push(&record.payload[placed..]);
                    } else {
                        return Err(Fault::new("TLS: a record that cannot be read").into());
                    }
                }
                Ok(ConnectionState::BlockedHandshake) => stop = Some(Stop::Handshake),
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    self.open = true;
                    stop = Some(Stop::Ready);
                    if let Some((pieces, taken)) = say.take() {
                        while *taken < pieces.len() && self.outgoing.room().len() >= RECORD + BESIDE
                        {
                            let bytes = pieces.gather(*taken, &mut self.record);
                            let record = traffic
                                .encrypt(&self.record[..bytes], self.outgoing.room())
                                .map_err(|error| Fault::new(&format!("TLS: {error}")))?;
                            self.outgoing.add(record);
                            *taken += bytes;
                        }
                    }
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    stop = Some(Stop::Ended);
                }
                Ok(_) => return Err(Fault::new("TLS: early data, which nobody asked for").into()),
                Err(error) => {
                    self.incoming.take(discard);
                    self.last_words();
                    let fault = match (self.open, &error) {
                        // Before, it is no TLS; now, it is no longer.
                        (true, rustls::Error::InvalidMessage(_)) => {
                            Fault::new(&format!("TLS: {error}"))
                        }
                        _ => Fault::of(&error, &self.name, &self.trust.ca),
                    };
                    return Err(fault.into());
                }
            }
            self.incoming.take(discard);
            if let Some(stop) = stop {
                self.unread = stop == Stop::Full;
                return Ok(stop);
            }
        }
    }

    /// Tell the server what was wrong, if that can be sent at once: its log is where somebody looks.
    fn last_words(&mut self) {
        let status = self.tls.process_tls_records(self.incoming.filled_mut());
        if let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state
            && let Ok(bytes) = data.encode(self.outgoing.room())
        {
            self.outgoing.add(bytes);
            let _ = self.push();
        }
    }

    /// Send what is on its way out. True when nothing of it is left.
    ///
    /// # Errors
    /// Why the connection broke.
    pub fn flush(&mut self) -> Result<bool, Error> {
        match self.push() {
            Ok(()) => Ok(true),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(error) => {
                // A server that refuses says why before it ends the connection.
                if let Ok(Pulled::Bytes) = self.pull() {
                    self.process(None, &mut |_| 0)?;
                }
                Err(error.into())
            }
        }
    }

    fn push(&mut self) -> Result<(), Errno> {
        while !self.outgoing.is_empty() {
            let mut pieces = Pieces::default();
            pieces.bytes(self.outgoing.filled());
            let sent = pieces.send(self.fd.raw())?;
            self.outgoing.take(sent);
        }
        Ok(())
    }

    fn pull(&mut self) -> Result<Pulled, Error> {
        let mut pieces = Pieces::default();
        let room = self.incoming.room();
        if room.is_empty() {
            return Err(Fault::new("TLS: a message of the handshake is longer than 64 KiB").into());
        }
        pieces.room(room);
        match pieces.receive(self.fd.raw()) {
            Ok(0) => Ok(Pulled::Ended),
            Ok(bytes) => {
                self.incoming.add(bytes);
                Ok(Pulled::Bytes)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Pulled::Nothing),
            Err(error) => Err(error.into()),
        }
    }
}

/// Say that the server ended the connection before it was one.
fn cut() -> Error {
    let words = "TLS: the server ended the connection within the handshake; allowed: a port where it speaks TLS";
    Fault::passing(words).into()
}
