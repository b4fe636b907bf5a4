//! One front-end's connection: whole messages in, replies out.

use std::vec::Vec;

use zerocopy::{FromZeros, IntoBytes};

use crate::sys::fd::Fd;
use crate::sys::socket::{self, MAX_FDS};
use crate::wire::errno::Errno;
use crate::wire::vhost_user::{HEADER_LEN, Header, MAX_PAYLOAD, MessageError};

/// Say why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The front-end closed it.
    Closed,
    /// The front-end closed it in the middle of a message.
    Cut,
    /// The process that opened it ended, others still hold it, and another front-end calls.
    Replaced,
    /// This back-end is shutting down.
    Shutdown,
    /// The front-end sent what no front-end may send.
    Message(MessageError),
    /// More descriptors than a message may carry.
    TooManyFds,
    /// A message could not be carried out, and the front-end did not ask to be told.
    Refused,
    /// A queue's core does not answer.
    Stuck,
    /// The front-end reads no replies.
    NotReading,
    /// The socket failed.
    Socket(Errno),
}

/// Hold one message as it came.
pub(super) struct Message {
    pub(super) header: Header,
    pub(super) payload: [u8; MAX_PAYLOAD],
    /// Closed with the message unless somebody takes them.
    pub(super) fds: Vec<Fd>,
}

impl Message {
    /// Give the payload.
    pub(super) fn payload(&self) -> &[u8] {
        &self.payload[..self.header.size as usize]
    }
}

/// Collect the bytes of a message as they arrive.
pub(super) struct Connection {
    socket: Fd,
    message: Message,
    /// Bytes of header and payload that have arrived.
    have: usize,
}

impl Connection {
    pub(super) fn new(socket: Fd) -> Self {
        Self {
            socket,
            message: Message {
                header: Header::new_zeroed(),
                payload: [0; MAX_PAYLOAD],
                fds: Vec::new(),
            },
            have: 0,
        }
    }

    /// Give the descriptor that becomes readable when bytes arrive.
    pub(super) const fn raw(&self) -> i32 {
        self.socket.raw()
    }

    /// Take the next message if all of it has arrived.
    pub(super) fn poll(&mut self) -> Result<Option<&mut Message>, End> {
        if self.have == HEADER_LEN + self.message.header.size as usize && self.have >= HEADER_LEN {
            // The one handed out last time.
            self.have = 0;
            self.message.header.size = 0;
            self.message.fds.clear();
        }
        loop {
            let size = self.message.header.size as usize;
            let room = match self.have.checked_sub(HEADER_LEN) {
                None => &mut self.message.header.as_mut_bytes()[self.have..],
                Some(have) if have < size => &mut self.message.payload[have..size],
                Some(_) => return Ok(Some(&mut self.message)),
            };
            let fds = &mut self.message.fds;
            let received = match socket::receive(self.socket.raw(), room, |fd| fds.push(fd)) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(End::Socket(error)),
            };
            if received.truncated || fds.len() > MAX_FDS {
                return Err(End::TooManyFds);
            }
            if received.len == 0 {
                return Err(if self.have == 0 {
                    End::Closed
                } else {
                    End::Cut
                });
            }
            self.have += received.len;
            if self.have == HEADER_LEN {
                self.message.header.check().map_err(End::Message)?;
            }
        }
    }

    /// Send a reply to the message with this header.
    pub(super) fn reply(&self, to: &Header, payload: &[u8], fd: Option<&Fd>) -> Result<(), End> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
        bytes.extend_from_slice(to.reply(payload.len() as u32).as_bytes());
        bytes.extend_from_slice(payload);
        let raw = fd.map(Fd::raw);
        match socket::send_with_fds(self.socket.raw(), &bytes, raw.as_slice()) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            // Replies are small and a front-end waits for each: a full socket means that nobody reads.
            Ok(_) | Err(Errno::EAGAIN) => Err(End::NotReading),
            Err(error) => Err(End::Socket(error)),
        }
    }
}
