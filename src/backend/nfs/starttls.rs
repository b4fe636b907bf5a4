//! Asking a server for TLS, before anything else is said by a connection (RFC 9289, section 4.1).
//!
//! ```text
//!  connected ──> NULL with AUTH_TLS ──> reply with STARTTLS ──> handshake, ALPN "sunrpc" ──> records in TLS
//!                                  └──> any other answer: this connection is none, and the words say what was found
//! ```

use core::net::SocketAddr;
use std::format;

use crate::backend::tls::{Error, Fault, Session, Trust};
use crate::sys::fd::Fd;
use crate::sys::tcp::{self, Pieces};
use crate::wire::errno::Errno;
use crate::wire::nfs4::PROGRAM;
use crate::wire::rpc::{self, Denied, MARK_LEN};

/// What connections speak within TLS (RFC 9289, section 8.2).
pub const ALPN: &[u8] = b"sunrpc";

/// Version of the program.
const VERSION: u32 = 4;
/// Transaction of the call. It is the connection's only one outside of TLS.
const XID: u32 = 0x5441_5254;
/// Bytes that hold any answer: its verifier is the longest thing in it.
const ROOM: usize = 512;

/// How a server is set up that has it.
const ALLOWED: &str =
    "allowed: a server with RPC-with-TLS (RFC 9289), as Linux's with the export option xprtsec=tls";

/// Hold a connection whose server is asked.
pub struct Probe {
    /// Taken when the handshake begins.
    fd: Option<Fd>,
    to: SocketAddr,
    trust: &'static Trust,
    connected: bool,
    call: [u8; rpc::ASK_FOR_TLS_LEN],
    sent: usize,
    answer: [u8; ROOM],
    come: usize,
}

impl Probe {
    /// Make one of a connection that is being made.
    pub fn new(fd: Fd, to: SocketAddr, trust: &'static Trust) -> Self {
        Self {
            fd: Some(fd),
            to,
            trust,
            connected: false,
            call: rpc::ask_for_tls(XID, PROGRAM, VERSION),
            sent: 0,
            answer: [0; ROOM],
            come: 0,
        }
    }

    /// Give the descriptor.
    pub fn raw(&self) -> i32 {
        self.fd.as_ref().map_or(-1, Fd::raw)
    }

    /// Say what it means that no answer comes; nothing when there is no connection yet.
    pub fn silent(&self) -> Option<Fault> {
        let words = format!("TLS: the server does not answer when it is asked for TLS; {ALLOWED}");
        self.connected.then(|| Fault::passing(&words))
    }

    /// Go on. Gives the session, to be begun, once the server offers TLS.
    ///
    /// # Errors
    /// Why the connection is none.
    pub fn go_on(&mut self) -> Result<Option<Session>, Error> {
        if !self.connected {
            self.connected = tcp::connected(self.raw())?;
            if !self.connected {
                return Ok(None);
            }
        }
        while self.sent < self.call.len() {
            let mut pieces = Pieces::default();
            pieces.bytes(&self.call[self.sent..]);
            match pieces.send(self.raw()) {
                Ok(sent) => self.sent += sent,
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        let raw = self.raw();
        let mut pieces = Pieces::default();
        pieces.room(&mut self.answer[self.come..]);
        match pieces.receive(raw) {
            Ok(0) => return Err(ended()),
            Ok(come) => self.come += come,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            // A server that does not know what it is asked may not even end the connection in order.
            Err(Errno::ECONNRESET | Errno::EPIPE) => return Err(ended()),
            Err(error) => return Err(error.into()),
        }
        if !offers(&self.answer[..self.come])? {
            return Ok(None);
        }
        match self.fd.take() {
            Some(fd) => self.trust.session(fd, &self.to).map(Some),
            None => Ok(None),
        }
    }
}

/// Read what has come of the answer. True when it is whole, and the server offers TLS.
fn offers(come: &[u8]) -> Result<bool, Fault> {
    let Some(mark) = come.first_chunk() else {
        return Ok(false);
    };
    let (len, last) = rpc::parse_mark(*mark);
    if !last || len > ROOM - MARK_LEN {
        return Err(nonsense());
    }
    let come = &come[MARK_LEN..];
    let Some(record) = come.get(..len) else {
        return Ok(false);
    };
    let found = match rpc::offers_tls(record, XID).map_err(|_| nonsense())? {
        // What else came was not said within TLS, and nobody may have it taken for that.
        Ok(true) if come.len() > len => {
            return Err(Fault::new(
                "TLS: the server says more than STARTTLS before the handshake",
            ));
        }
        Ok(true) => return Ok(true),
        Ok(false) => "it answers without STARTTLS".into(),
        Err(Denied::Credentials(why)) => format!("it refuses AUTH_TLS (auth_stat {why})"),
        Err(Denied::Program(why)) => format!("it refuses the call (accept_stat {why})"),
        Err(Denied::Version) => "it does not speak this version of RPC".into(),
    };
    let words = format!("TLS: the server does not offer TLS: {found}; {ALLOWED}");
    Err(Fault::new(&words))
}

fn nonsense() -> Fault {
    Fault::new(&format!(
        "TLS: what the server says when it is asked for TLS is no answer of RPC; {ALLOWED}"
    ))
}

fn ended() -> Error {
    let words =
        format!("TLS: the server ended the connection when it was asked for TLS; {ALLOWED}");
    Fault::passing(&words).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec::Vec;

    fn record(words: &[u32]) -> Vec<u8> {
        let mut bytes = rpc::mark(words.len() * 4).to_vec();
        bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        bytes
    }

    #[test]
    fn an_answer_counts_when_it_is_whole_and_alone() {
        let [start, tls] = [b"STAR", b"TTLS"].map(|half| u32::from_be_bytes(*half));
        let mut answer = record(&[XID, 1, 0, 0, 8, start, tls, 0]);
        for len in 0..answer.len() {
            assert_eq!(offers(&answer[..len]), Ok(false), "{len}");
        }
        assert_eq!(offers(&answer), Ok(true));
        answer.push(0x16);
        let fault = offers(&answer).unwrap_err();
        assert!(fault.to_string().contains("more than STARTTLS"));
    }

    #[test]
    fn what_else_is_answered_is_said() {
        for (words, wanted) in [
            (&[XID, 1, 0, 0, 0, 0][..], "answers without STARTTLS"),
            (&[XID, 1, 1, 1, 2], "refuses AUTH_TLS (auth_stat 2)"),
            (&[XID, 1, 0, 0, 0, 2, 4, 4], "accept_stat 2"),
            (&[XID, 1, 1, 0, 2, 2], "this version of RPC"),
            (&[XID, 7], "no answer of RPC"),
            (&[1, 1, 0, 0, 0, 0], "no answer of RPC"),
        ] {
            let fault = offers(&record(words)).unwrap_err();
            assert!(fault.to_string().contains(wanted), "{fault}");
            assert!(!fault.passes());
        }
        // A length that is none, and a record in fragments, which nobody sends for so little.
        for come in [&b"HTTP/1.1 400 Bad Request"[..], &[0, 0, 0, 4, 1, 2, 3, 4]] {
            let fault = offers(come).unwrap_err();
            assert!(fault.to_string().contains("no answer of RPC"), "{fault}");
        }
    }
}
