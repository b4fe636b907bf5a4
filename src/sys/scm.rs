//! Descriptors that arrive over a socket.

use core::mem::size_of;

use super::fd::Fd;
use super::{Result, check_size};
use crate::wire::errno::Errno;

/// Room for the control message of one descriptor, with the alignment of its header.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Receive one descriptor and up to `data.len()` bytes; none when the peer sent bytes alone.
///
/// # Errors
/// As recvmsg(2); `EPROTO` when the peer closed the socket or sent more than one descriptor.
pub fn receive(socket: i32, data: &mut [u8]) -> Result<Option<Fd>> {
    let mut part = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    let mut control = Control([0; 64]);
    // SAFETY: all zero is a message without address, data and control part.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // Not `CMSG_SPACE`, whose padding is room for a second descriptor.
    // SAFETY: arithmetic on a length.
    message.msg_controllen = unsafe { libc::CMSG_LEN(size_of::<i32>() as u32) } as _;
    loop {
        // SAFETY: the message describes live buffers, and their lengths.
        let received = unsafe { libc::recvmsg(socket, &mut message, libc::MSG_CMSG_CLOEXEC) };
        match check_size(received) {
            Ok(0) => return Err(Errno::EPROTO),
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    // SAFETY: the kernel filled the message; the header lies in the control buffer or is null.
    let header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    if header.is_null() {
        return Ok(None);
    }
    // SAFETY: the kernel wrote this header, and the buffer has its alignment.
    let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
    if level != libc::SOL_SOCKET || kind != libc::SCM_RIGHTS {
        return Ok(None);
    }
    // SAFETY: a rights message holds at least one descriptor, and there was room for one only.
    let raw = unsafe { libc::CMSG_DATA(header).cast::<i32>().read_unaligned() };
    // SAFETY: the descriptor is new in this process and ours.
    let fd = unsafe { Fd::from_raw(raw) };
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(Errno::EPROTO);
    }
    Ok(Some(fd))
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_alone_bring_no_descriptor_and_a_closed_socket_is_an_error() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"x").unwrap();
        let mut data = [0];
        assert_eq!(receive(ours.as_raw_fd(), &mut data), Ok(None));
        assert_eq!(data, *b"x");
        drop(theirs);
        assert_eq!(receive(ours.as_raw_fd(), &mut data), Err(Errno::EPROTO));
    }
}
