//! The front-end's side of a vhost-user socket: what QEMU does before a guest's driver runs.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use dpfs::hal::loopback::Layout;
use dpfs::sys::socket;
use dpfs::virtq::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};
use dpfs::wire::errno::Errno;
use dpfs::wire::vhost_user::{
    F_PROTOCOL_FEATURES, HEADER_LEN, Header, MemoryRegion, ProtocolFeatures, VringAddr, VringState,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::memory::{GUEST, Memory};

/// Where the memory lies in this front-end's made-up addresses.
const USER: u64 = 0x7f00_0000_0000;

/// Longest wait for an answer to a message.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest wait for a back-end that is not there yet.
const STARTING: Duration = Duration::from_secs(3);

const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const GET_QUEUE_NUM: u32 = 17;
const SET_VRING_ENABLE: u32 = 18;

/// Speak with one back-end.
pub struct Connection {
    socket: UnixStream,
    /// Every message is answered, so that a refusal is noticed where it happens.
    acknowledged: bool,
    /// Virtio features of both sides.
    pub features: u64,
    /// Most queues that the back-end serves, the hiprio queue included.
    pub queues: u64,
}

impl Connection {
    /// Connect and agree on features; only those in `wanted` beside the necessary ones.
    pub fn open(path: &Path, wanted: u64) -> Result<Self, String> {
        let socket = connect(path)?;
        let mut connection = Self {
            socket,
            acknowledged: false,
            features: 0,
            queues: 2,
        };
        connection.tell(SET_OWNER, &[], &[])?;
        let offered = connection.number(GET_FEATURES)?;
        if offered & F_VERSION_1 == 0 || offered & F_PROTOCOL_FEATURES == 0 {
            return Err(format!(
                "the back-end's features are {offered:#x}; VERSION_1 and PROTOCOL_FEATURES are needed"
            ));
        }
        let own = F_VERSION_1 | F_PROTOCOL_FEATURES | (wanted & (F_INDIRECT_DESC | F_EVENT_IDX));
        connection.features = offered & own;
        let protocol =
            ProtocolFeatures::from_bits_truncate(connection.number(GET_PROTOCOL_FEATURES)?)
                & (ProtocolFeatures::MQ | ProtocolFeatures::REPLY_ACK);
        connection.tell(SET_PROTOCOL_FEATURES, &protocol.bits().to_ne_bytes(), &[])?;
        connection.acknowledged = protocol.contains(ProtocolFeatures::REPLY_ACK);
        if protocol.contains(ProtocolFeatures::MQ) {
            connection.queues = connection.number(GET_QUEUE_NUM)?;
        }
        connection.tell(SET_FEATURES, &connection.features.to_ne_bytes(), &[])?;
        Ok(connection)
    }

    /// Share the whole memory.
    pub fn share(&self, memory: &Memory) -> Result<(), String> {
        let region = MemoryRegion {
            guest_address: GUEST,
            size: memory.len(),
            user_address: USER,
            mmap_offset: 0,
        };
        let table = [1_u64.as_bytes(), region.as_bytes()].concat();
        self.tell(SET_MEM_TABLE, &table, &[memory.file()])
    }

    /// Say where a queue lies and switch it on.
    pub fn start(&self, index: u32, layout: &Layout, kick: i32, call: i32) -> Result<(), String> {
        let state = |num| VringState { index, num };
        let user = |address: u64| address - GUEST + USER;
        let address = VringAddr {
            index,
            flags: 0,
            descriptor: user(layout.address),
            used: user(layout.used()),
            available: user(layout.avail()),
            log: 0,
        };
        let word = u64::from(index);
        self.tell(SET_VRING_NUM, state(layout.size.into()).as_bytes(), &[])?;
        self.tell(SET_VRING_BASE, state(0).as_bytes(), &[])?;
        self.tell(SET_VRING_ADDR, address.as_bytes(), &[])?;
        self.tell(SET_VRING_CALL, word.as_bytes(), &[call])?;
        self.tell(SET_VRING_KICK, word.as_bytes(), &[kick])?;
        self.tell(SET_VRING_ENABLE, state(1).as_bytes(), &[])
    }

    /// Stop a queue.
    pub fn stop(&self, index: u32) -> Result<(), String> {
        let state = VringState { index, num: 0 };
        self.send(GET_VRING_BASE, state.as_bytes(), &[], false)?;
        self.receive(GET_VRING_BASE).map(|_| ())
    }

    /// Give the process that listens on the socket.
    pub fn process(&self) -> Option<u32> {
        socket::peer_pid(self.socket.as_raw_fd()).ok()
    }

    fn tell(&self, request: u32, payload: &[u8], fds: &[i32]) -> Result<(), String> {
        self.send(request, payload, fds, self.acknowledged)?;
        if self.acknowledged {
            let answer = self.receive(request)?;
            if answer.iter().any(|&byte| byte != 0) {
                return Err(format!("the back-end refused message {request}"));
            }
        }
        Ok(())
    }

    fn number(&self, request: u32) -> Result<u64, String> {
        self.send(request, &[], &[], false)?;
        let answer = self.receive(request)?;
        u64::read_from_bytes(&answer)
            .map_err(|_| format!("message {request}: {answer:?} is no number"))
    }

    fn send(&self, request: u32, payload: &[u8], fds: &[i32], reply: bool) -> Result<(), String> {
        let header = Header::request(request, payload.len() as u32, reply);
        let bytes = [header.as_bytes(), payload].concat();
        match socket::send_with_fds(self.socket.as_raw_fd(), &bytes, fds) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            other => Err(format!("message {request} cannot be sent: {other:?}")),
        }
    }

    fn receive(&self, request: u32) -> Result<Vec<u8>, String> {
        let mut header = [0; HEADER_LEN];
        self.fill(request, &mut header)?;
        let header = Header::read_from_bytes(&header).map_err(|_| "a header".to_string())?;
        if header.request != request {
            let found = header.request;
            return Err(format!("message {request} is answered with {found}"));
        }
        let mut payload = vec![0; header.size as usize];
        self.fill(request, &mut payload)?;
        Ok(payload)
    }

    fn fill(&self, request: u32, mut bytes: &mut [u8]) -> Result<(), String> {
        let limit = Instant::now() + PATIENCE;
        while !bytes.is_empty() {
            match socket::receive(self.socket.as_raw_fd(), bytes, drop) {
                Ok(received) if received.len == 0 => {
                    return Err(format!("message {request}: the back-end closed the socket"));
                }
                Ok(received) => bytes = &mut bytes[received.len..],
                Err(Errno::EAGAIN) if Instant::now() < limit => {
                    std::thread::sleep(Duration::from_micros(100));
                }
                Err(error) => return Err(format!("message {request}: no answer: {error}")),
            }
        }
        Ok(())
    }
}

/// Connect; a back-end that serves one front-end after the other, or is started anew for each, gets some time.
fn connect(path: &Path) -> Result<UnixStream, String> {
    let limit = Instant::now() + STARTING;
    loop {
        match UnixStream::connect(path) {
            Ok(socket) => return Ok(socket),
            Err(_) if Instant::now() < limit => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        }
    }
}
