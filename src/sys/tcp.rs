//! TCP connections that never wait: made, looked at, written and read in pieces.

use core::mem::{MaybeUninit, size_of};
use core::net::SocketAddr;

use super::fd::Fd;
use super::io::MAX_IOV;
use super::{Result, check, check_size};
use crate::mem::Segment;
use crate::wire::errno::Errno;

/// First and last of the ports that only privileged processes may bind (`IPPORT_RESERVED`), the lowest few left out as
/// Linux's NFS client does.
const RESERVED_PORTS: (u16, u16) = (665, 1023);

/// Hold an address as the kernel takes it.
union Address {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

fn address(of: &SocketAddr) -> (Address, libc::socklen_t) {
    match of {
        SocketAddr::V4(v4) => {
            let v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            (Address { v4 }, size_of::<libc::sockaddr_in>() as u32)
        }
        SocketAddr::V6(v6) => {
            let v6 = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            };
            (Address { v6 }, size_of::<libc::sockaddr_in6>() as u32)
        }
    }
}

fn set(fd: i32, level: i32, option: i32, value: i32) -> Result<()> {
    // SAFETY: the kernel reads one integer.
    check(unsafe {
        libc::setsockopt(
            fd,
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as u32,
        )
    })?;
    Ok(())
}

/// Begin to connect, without waiting; [`connected`] tells how it goes. Small messages are sent at once, and a peer that
/// is gone is noticed after half a minute of silence.
///
/// With `reserved` the connection comes from a port below 1024.
///
/// # Errors
/// As socket(2), bind(2) and connect(2), `EADDRINUSE` as `EBUSY` when no reserved port is free.
pub fn connect(to: &SocketAddr, reserved: bool) -> Result<Fd> {
    let family = match to {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain call; the descriptor is new and ours.
    let raw = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: as above.
    let fd = unsafe { Fd::from_raw(raw) };
    set(raw, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set(raw, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    for (option, value) in [
        (libc::TCP_KEEPIDLE, 10),
        (libc::TCP_KEEPINTVL, 5),
        (libc::TCP_KEEPCNT, 4),
    ] {
        set(raw, libc::IPPROTO_TCP, option, value)?;
    }
    if reserved {
        bind_reserved(raw, to)?;
    }
    let (address, len) = address(to);
    // SAFETY: the kernel reads `len` bytes of an address of that family.
    match check(unsafe { libc::connect(raw, (&raw const address).cast(), len) }) {
        Ok(_) => Ok(fd),
        Err(error) if error.get() == libc::EINPROGRESS => Ok(fd),
        Err(error) => Err(error),
    }
}

fn bind_reserved(fd: i32, to: &SocketAddr) -> Result<()> {
    let any: core::net::IpAddr = match to {
        SocketAddr::V4(_) => core::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => core::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    for port in (RESERVED_PORTS.0..=RESERVED_PORTS.1).rev() {
        let (address, len) = address(&SocketAddr::new(any, port));
        // SAFETY: the kernel reads `len` bytes of an address of that family.
        match check(unsafe { libc::bind(fd, (&raw const address).cast(), len) }) {
            Err(error) if error.get() == libc::EADDRINUSE => {}
            done => return done.map(drop),
        }
    }
    Err(Errno::EBUSY)
}

/// Tell whether a connection stands: false while it is being made.
///
/// # Errors
/// Why it could not be made, or broke.
pub fn connected(fd: i32) -> Result<bool> {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: the kernel reads and writes one structure.
    if check(unsafe { libc::poll(&mut poll, 1, 0) })? == 0 {
        return Ok(false);
    }
    let mut error = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes one integer.
    check(unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut error).cast(),
            &mut len,
        )
    })?;
    match error {
        0 => Ok(true),
        error => Err(Errno::from_os(error)),
    }
}

/// Pieces of memory that one system call sends or fills.
const PIECES: usize = 512;
const _: () = assert!(PIECES <= MAX_IOV);

/// Collect pieces of memory for one system call, in order.
pub struct Pieces<'a> {
    pieces: [MaybeUninit<libc::iovec>; PIECES],
    count: usize,
    len: usize,
    lent: core::marker::PhantomData<&'a mut [u8]>,
}

impl Default for Pieces<'_> {
    fn default() -> Self {
        Self {
            pieces: [MaybeUninit::uninit(); PIECES],
            count: 0,
            len: 0,
            lent: core::marker::PhantomData,
        }
    }
}

impl<'a> Pieces<'a> {
    /// Give the number of bytes collected.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Tell whether nothing is collected.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn push(&mut self, base: *mut u8, len: usize) -> bool {
        if len == 0 {
            return true;
        }
        let Some(place) = self.pieces.get_mut(self.count) else {
            return false;
        };
        place.write(libc::iovec {
            iov_base: base.cast(),
            iov_len: len,
        });
        self.count += 1;
        self.len += len;
        true
    }

    /// Add bytes to be sent. False when there is no room for another piece.
    #[inline]
    pub fn bytes(&mut self, bytes: &'a [u8]) -> bool {
        self.push(bytes.as_ptr().cast_mut(), bytes.len())
    }

    /// Add memory to be filled. False when there is no room for another piece.
    #[inline]
    pub fn room(&mut self, room: &'a mut [u8]) -> bool {
        self.push(room.as_mut_ptr(), room.len())
    }

    /// Add a request's memory, `skip` bytes left out at its start, at most `most` bytes. False when there was no room for
    /// all of them; what fits was added.
    #[inline]
    pub fn segments(&mut self, segments: &'a [Segment], mut skip: usize, mut most: usize) -> bool {
        for segment in segments {
            if most == 0 {
                return true;
            }
            if skip >= segment.len() {
                skip -= segment.len();
                continue;
            }
            let len = (segment.len() - skip).min(most);
            // SAFETY: `skip` lies inside the segment.
            if !self.push(unsafe { segment.base().add(skip) }, len) {
                return false;
            }
            most -= len;
            skip = 0;
        }
        true
    }

    /// Send what is collected, as much as the connection takes now, without a signal when the peer is gone.
    ///
    /// # Errors
    /// As sendmsg(2); `EAGAIN` when it takes nothing.
    pub fn send(&mut self, fd: i32) -> Result<usize> {
        let message = self.message();
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the pieces are memory that may be read: slices lent for `'a`, and segments (`Segment::new`).
        check_size(unsafe { libc::sendmsg(fd, &message, flags) })
    }

    /// Fill what is collected with what has come. Zero means that the peer ended the connection.
    ///
    /// # Errors
    /// As recvmsg(2); `EAGAIN` when nothing has come.
    pub fn receive(&mut self, fd: i32) -> Result<usize> {
        let mut message = self.message();
        // SAFETY: the pieces are memory that may be written: slices lent for `'a`, and segments (`Segment::new`).
        check_size(unsafe { libc::recvmsg(fd, &mut message, libc::MSG_DONTWAIT) })
    }

    /// Copy what is collected, from byte `from` of it on, as much as there is room for. Gives the bytes.
    #[cfg(feature = "tls")]
    pub fn gather(&self, from: usize, to: &mut [u8]) -> usize {
        self.walk(from, to.len(), |base, at, count| {
            let to = &mut to[at..at + count];
            // SAFETY: the piece is memory that may be read (see `send`), and `to` is a slice that nothing else covers.
            unsafe { core::ptr::copy_nonoverlapping(base, to.as_mut_ptr(), count) };
        })
    }

    /// Copy `bytes` into what is collected, from byte `from` of it on, as many as there is room for. Gives the bytes.
    #[cfg(feature = "tls")]
    pub fn fill(&mut self, from: usize, bytes: &[u8]) -> usize {
        self.walk(from, bytes.len(), |base, at, count| {
            let bytes = &bytes[at..at + count];
            // SAFETY: the piece is memory that may be written (see `receive`), and `bytes` is a slice beside it.
            unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), base, count) };
        })
    }

    /// Go through at most `most` bytes from byte `from` on: where they are, how many were before, how many there are.
    #[cfg(feature = "tls")]
    fn walk(&self, from: usize, most: usize, mut each: impl FnMut(*mut u8, usize, usize)) -> usize {
        let (mut skip, mut at) = (from, 0);
        for piece in &self.pieces[..self.count] {
            // SAFETY: the first `count` pieces were written.
            let piece = unsafe { piece.assume_init_ref() };
            if skip >= piece.iov_len {
                skip -= piece.iov_len;
                continue;
            }
            let count = (piece.iov_len - skip).min(most - at);
            if count == 0 {
                break;
            }
            // SAFETY: `skip` lies inside the piece.
            each(unsafe { piece.iov_base.cast::<u8>().add(skip) }, at, count);
            at += count;
            skip = 0;
        }
        at
    }

    fn message(&mut self) -> libc::msghdr {
        // SAFETY: all zero is a message without address and control data.
        let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
        message.msg_iov = self.pieces.as_mut_ptr().cast();
        message.msg_iovlen = self.count as _;
        message
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::sys::io;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    #[test]
    fn pieces_go_out_and_come_in_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = connect(&listener.local_addr().unwrap(), false).unwrap();
        let (there, _) = listener.accept().unwrap();
        while !connected(here.raw()).unwrap() {}
        let mut page = *b"..segment..";
        // SAFETY: the memory outlives the segment, and nobody else looks at it.
        let segment = [unsafe { Segment::new(page.as_mut_ptr(), page.len()) }];
        let mut pieces = Pieces::default();
        assert!(pieces.bytes(b"head "));
        assert!(pieces.segments(&segment, 2, 7));
        assert_eq!(pieces.send(here.raw()), Ok(12));
        let mut got = [0; 32];
        assert_eq!(io::read(there.as_raw_fd(), &mut got), Ok(12));
        assert_eq!(&got[..12], b"head segment");
        io::write(there.as_raw_fd(), b"0123456789").unwrap();
        let (mut first, mut second) = ([0; 4], [0; 10]);
        let mut pieces = Pieces::default();
        assert!(pieces.room(&mut first) && pieces.room(&mut second));
        while pieces.receive(here.raw()) == Err(Errno::EAGAIN) {}
        assert_eq!((&first, &second[..6]), (b"0123", &b"456789"[..]));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn pieces_are_copied_from_anywhere_and_to_anywhere() {
        let mut page = *b"0123456789";
        // SAFETY: the memory outlives the segment, and nobody else looks at it.
        let segment = [unsafe { Segment::new(page.as_mut_ptr(), page.len()) }];
        let mut pieces = Pieces::default();
        pieces.bytes(b"abc");
        pieces.segments(&segment, 1, 5);
        pieces.bytes(b"de");
        let all = b"abc12345de";
        for from in 0..=all.len() {
            for room in 0..12 {
                let mut to = [b'-'; 12];
                let count = room.min(all.len() - from);
                assert_eq!(pieces.gather(from, &mut to[..room]), count);
                assert_eq!(to[..count], all[from..from + count]);
                assert!(to[count..].iter().all(|byte| *byte == b'-'));
            }
        }
        assert_eq!(pieces.gather(11, &mut [0; 4]), 0);
        let (mut first, mut second) = ([0; 3], [0; 4]);
        let mut pieces = Pieces::default();
        assert!(pieces.room(&mut first) && pieces.room(&mut second));
        assert_eq!(pieces.fill(2, b"xyz"), 3);
        assert_eq!(pieces.fill(5, b"123"), 2, "what there is room for");
        assert_eq!((first, second), ([0, 0, b'x'], *b"yz12"));
    }

    #[test]
    fn a_port_that_nobody_listens_on_is_told() {
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let outcome = connect(&address, false).and_then(|fd| {
            loop {
                match connected(fd.raw()) {
                    Ok(false) => {}
                    other => return other,
                }
            }
        });
        assert_eq!(outcome.map_err(Errno::get), Err(libc::ECONNREFUSED));
    }
}
