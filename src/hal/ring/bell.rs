//! How the two sides of a queue wake each other.

use crate::sys::eventfd::EventFd;
use crate::sys::fd::Fd;
use crate::sys::socket;
use crate::wire::errno::Errno;

/// Say how the driver tells us of new chains.
#[derive(Debug)]
pub enum Kick {
    /// Through a descriptor that becomes readable.
    Fd(EventFd),
    /// Through the control side, which wakes the core itself.
    Control,
    /// Not at all: the queue must be polled.
    Never,
}

/// Most bytes of a message that stands for an interrupt.
pub const MAX_MESSAGE: usize = 32;

/// Say how we tell the driver of used elements.
#[derive(Debug)]
pub enum Call {
    /// Not at all: the driver polls.
    Never,
    /// By adding one to an eventfd, or writing eight bytes to a pipe.
    Event(EventFd),
    /// By sending bytes on a socket: as many as an eventfd takes, or a whole message.
    Socket {
        /// Stream or datagram socket.
        socket: Fd,
        /// What is sent.
        message: [u8; MAX_MESSAGE],
        /// Bytes of it.
        len: usize,
    },
}

impl Call {
    /// Take over the descriptor that a front-end gave for interrupts. It may be an eventfd, a pipe or a socket.
    ///
    /// # Errors
    /// As fstat(2) and fcntl(2).
    pub fn from_fd(fd: Fd) -> crate::sys::Result<Self> {
        if socket::is_socket(fd.raw())? {
            return Ok(Self::message(fd, &1u64.to_ne_bytes()));
        }
        // A core never blocks, whatever the front-end left unread.
        socket::set_nonblocking(fd.raw())?;
        Ok(Self::Event(EventFd::from_fd(fd)))
    }

    /// Send `bytes`, at most [`MAX_MESSAGE`], on a socket for each interrupt.
    pub fn message(socket: Fd, bytes: &[u8]) -> Self {
        let mut message = [0; MAX_MESSAGE];
        let len = bytes.len().min(MAX_MESSAGE);
        message[..len].copy_from_slice(&bytes[..len]);
        Self::Socket {
            socket,
            message,
            len,
        }
    }

    /// Interrupt the driver. False when it must be tried again later.
    ///
    /// A full pipe, counter or socket that carries nothing but this queue's interrupts holds one that the driver has
    /// not seen yet, which is as good. A socket with messages of other queues does not say so; there we try again.
    #[must_use]
    pub fn ring(&self) -> bool {
        match self {
            Self::Never => true,
            Self::Event(event) => {
                event.notify();
                true
            }
            Self::Socket {
                socket,
                message,
                len,
            } => {
                let sent = socket::send_now(socket.raw(), &message[..*len]);
                sent != Err(Errno::EAGAIN) || *len == size_of::<u64>()
            }
        }
    }
}
