//! Sockets: sending without waiting, and unix stream sockets that carry descriptors.

use core::ffi::CStr;
use core::mem::MaybeUninit;

use super::fd::Fd;
use super::{Result, check, check_size};
use crate::wire::errno::Errno;

/// Send bytes without waiting for room, and without a signal when the peer is gone.
///
/// # Errors
/// As send(2); `EAGAIN` when there is no room.
pub fn send_now(fd: i32, bytes: &[u8]) -> Result<usize> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the kernel reads at most `len` bytes of the buffer.
    check_size(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Tell whether a descriptor is a socket.
///
/// # Errors
/// As fstat(2).
pub fn is_socket(fd: i32) -> Result<bool> {
    Ok(mode(fd)? & libc::S_IFMT == libc::S_IFSOCK)
}

fn mode(fd: i32) -> Result<u32> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills the structure.
    check(unsafe { libc::fstat(fd, stat.as_mut_ptr()) })?;
    // SAFETY: filled by the successful call.
    Ok(unsafe { stat.assume_init() }.st_mode)
}

/// Let operations on a descriptor fail with `EAGAIN` instead of waiting. Its other owners see that, too.
///
/// # Errors
/// As fcntl(2).
pub fn set_nonblocking(fd: i32) -> Result<()> {
    // SAFETY: plain calls on a descriptor number.
    unsafe {
        let flags = check(libc::fcntl(fd, libc::F_GETFL))?;
        check(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK))?;
    }
    Ok(())
}

/// Most descriptors that one message carries here. The kernel closes what does not fit and says so.
pub const MAX_FDS: usize = 32;

/// Space for the control message with that many descriptors, as aligned as its header must be.
const CONTROL: usize = {
    // SAFETY: a pure computation.
    let bytes = unsafe { libc::CMSG_SPACE((MAX_FDS * size_of::<i32>()) as u32) };
    (bytes as usize).div_ceil(8)
};

/// Say what [`receive`] got.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes; zero when the peer closed its end.
    pub len: usize,
    /// More descriptors came than could be taken.
    pub truncated: bool,
}

/// Receive bytes without waiting, and the descriptors that came with them, each passed to `take`.
///
/// # Errors
/// As recvmsg(2); `EAGAIN` when nothing is there.
pub fn receive(fd: i32, buffer: &mut [u8], mut take: impl FnMut(Fd)) -> Result<Received> {
    let mut space = [0u64; CONTROL];
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all zero is a message without buffers.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = &mut vector;
    message.msg_iovlen = 1;
    message.msg_control = space.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&space) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message describes the buffer and the space, both alive and as long as it says.
    let len = check_size(unsafe { libc::recvmsg(fd, &mut message, flags) })?;
    // SAFETY: the kernel wrote well-formed control messages into the space and their length into the message.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    while !header.is_null() {
        // SAFETY: as above, and the macro gave a header inside the space.
        let (level, kind, bytes) = unsafe {
            (
                (*header).cmsg_level,
                (*header).cmsg_type,
                (*header).cmsg_len as usize,
            )
        };
        if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
            // SAFETY: a pure computation.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            for index in 0..bytes.saturating_sub(head) / size_of::<i32>() {
                // SAFETY: the descriptors lie behind the header, within its length.
                let raw = unsafe {
                    libc::CMSG_DATA(header)
                        .cast::<i32>()
                        .add(index)
                        .read_unaligned()
                };
                // SAFETY: the kernel made it for us.
                take(unsafe { Fd::from_raw(raw) });
            }
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(&message, header) };
    }
    Ok(Received {
        len,
        truncated: message.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

/// Send bytes with descriptors, at most [`MAX_FDS`], without waiting for room.
///
/// # Errors
/// As sendmsg(2); `EAGAIN` when there is no room, `EINVAL` for too many descriptors.
pub fn send_with_fds(fd: i32, bytes: &[u8], fds: &[i32]) -> Result<usize> {
    if fds.is_empty() {
        return send_now(fd, bytes);
    }
    if fds.len() > MAX_FDS {
        return Err(Errno::EINVAL);
    }
    let mut space = [0u64; CONTROL];
    let mut vector = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let length = size_of_val(fds) as u32;
    // SAFETY: all zero is a message without buffers.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = &mut vector;
    message.msg_iovlen = 1;
    message.msg_control = space.as_mut_ptr().cast();
    // SAFETY: the space was made for MAX_FDS descriptors, and there are no more; the kernel only reads the bytes.
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(length) as _;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(length) as _;
        core::ptr::copy_nonoverlapping(
            fds.as_ptr().cast::<u8>(),
            libc::CMSG_DATA(header),
            length as usize,
        );
        check_size(libc::sendmsg(
            fd,
            &message,
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        ))
    }
}

/// Open the process that made the connection, as a descriptor that becomes readable when it ends.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 6.5; `ESRCH` when it ended already.
pub fn peer_process(fd: i32) -> Result<Fd> {
    /// `asm-generic/socket.h`; not in `libc` for every target.
    const SO_PEERPIDFD: i32 = 77;
    let mut raw: i32 = -1;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes one descriptor number, which is new and ours.
    unsafe {
        check(libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut raw).cast(),
            &mut len,
        ))?;
        Ok(Fd::from_raw(raw))
    }
}

/// Give the number of the process that listens, or that made the connection.
///
/// # Errors
/// As getsockopt(2).
pub fn peer_pid(fd: i32) -> Result<u32> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into the structure.
    unsafe {
        check(libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &mut len,
        ))?;
    }
    Ok(peer.pid as u32)
}

/// Connect to the unix socket of a name in the folder `dir`, wherever the process's root is by now, without waiting.
///
/// The process goes into the folder and stays there: nobody may rely on its working directory. A path of
/// `/proc/self/fd` would do without, but not in a root without `/proc`.
///
/// # Errors
/// As fchdir(2) and connect(2); `EAGAIN` when too many wait at its other end.
pub fn connect_in(dir: i32, name: &CStr) -> Result<Fd> {
    /// Between the two calls no other thread may go elsewhere.
    static ONE: spin::Mutex<()> = spin::Mutex::new(());
    let address = unix_address(name.to_bytes())?;
    let socket = unix_stream()?;
    let _one = ONE.lock();
    // SAFETY: plain call on a descriptor number.
    check(unsafe { libc::fchdir(dir) })?;
    connect_unix(&socket, &address)?;
    Ok(socket)
}

fn unix_address(path: &[u8]) -> Result<libc::sockaddr_un> {
    // SAFETY: all zero is an empty address.
    let mut address: libc::sockaddr_un = unsafe { core::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as _;
    if path.len() >= address.sun_path.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for (to, &from) in address.sun_path.iter_mut().zip(path) {
        *to = from as _;
    }
    Ok(address)
}

fn unix_stream() -> Result<Fd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: plain call; the descriptor is new and ours.
    Ok(unsafe { Fd::from_raw(check(libc::socket(libc::AF_UNIX, kind, 0))?) })
}

fn connect_unix(socket: &Fd, address: &libc::sockaddr_un) -> Result<()> {
    let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: the kernel reads one address, which ends in a zero.
    check(unsafe { libc::connect(socket.raw(), (&raw const *address).cast(), length) })?;
    Ok(())
}

/// Tell whether somebody listens on the unix socket at `path`.
///
/// # Errors
/// As connect(2), apart from the refusal that says no.
pub fn is_listening(path: &[u8]) -> Result<bool> {
    let address = unix_address(path)?;
    let socket = unix_stream()?;
    match connect_unix(&socket, &address) {
        // A full queue of connections has somebody at its other end.
        Ok(()) | Err(Errno::EAGAIN) => Ok(true),
        Err(error) if error.get() == libc::ECONNREFUSED => Ok(false),
        Err(error) => Err(error),
    }
}
