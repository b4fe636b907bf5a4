//! A front-end: what QEMU or User-Mode Linux do with the socket, and the guest's driver behind it.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use dpfs::sys::eventfd::EventFd;
use dpfs::sys::fd::Fd;
use dpfs::sys::map::SharedMap;
use dpfs::sys::{memfd, socket};
use dpfs::virtq::driver::{Buffer, Driver, Used};
use dpfs::virtq::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Rings};
use dpfs::wire::errno::Errno;
use dpfs::wire::vhost_user::{F_PROTOCOL_FEATURES, HEADER_LEN, Header, ProtocolFeatures};
use zerocopy::{FromBytes, IntoBytes};

/// Guest-physical address of the memory.
pub const GUEST: u64 = 0x10_0000;
/// The same in the front-end's made-up address space.
pub const USER: u64 = 0x7f00_0000_0000;
/// Bytes of the memory.
pub const BYTES: u64 = 0x10_0000;
/// Bytes for the rings of one queue.
const QUEUE: u64 = 0x4000;
/// Where buffers may lie, as an offset.
pub const DATA: u64 = 0x8_0000;
/// Descriptors of a queue.
pub const SIZE: u16 = 64;

pub const GET_FEATURES: u32 = 1;
pub const SET_FEATURES: u32 = 2;
pub const SET_OWNER: u32 = 3;
pub const SET_MEM_TABLE: u32 = 5;
pub const SET_VRING_NUM: u32 = 8;
pub const SET_VRING_ADDR: u32 = 9;
pub const SET_VRING_BASE: u32 = 10;
pub const GET_VRING_BASE: u32 = 11;
pub const SET_VRING_KICK: u32 = 12;
pub const SET_VRING_CALL: u32 = 13;
pub const SET_VRING_ERR: u32 = 14;
pub const GET_PROTOCOL_FEATURES: u32 = 15;
pub const SET_PROTOCOL_FEATURES: u32 = 16;
pub const GET_QUEUE_NUM: u32 = 17;
pub const SET_VRING_ENABLE: u32 = 18;
pub const SET_BACKEND_REQ_FD: u32 = 21;
pub const GET_CONFIG: u32 = 24;
pub const GET_INFLIGHT_FD: u32 = 31;
pub const SET_INFLIGHT_FD: u32 = 32;
pub const RESET_DEVICE: u32 = 34;
pub const VRING_KICK: u32 = 35;
pub const GET_MAX_MEM_SLOTS: u32 = 36;
pub const ADD_MEM_REG: u32 = 37;
pub const REM_MEM_REG: u32 = 38;
pub const SET_STATUS: u32 = 39;
pub const GET_STATUS: u32 = 40;

/// Longest time to wait for what comes at once on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Wait until something is so.
pub fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// The guest's memory: it outlives its front-ends.
pub struct Guest {
    pub file: Fd,
    map: SharedMap,
    pub drivers: Vec<Driver>,
    pub kicks: Vec<EventFd>,
    pub calls: Vec<EventFd>,
}

impl Guest {
    pub fn new(queues: usize) -> Self {
        let file = memfd::create(c"dpfs-test-guest", BYTES).unwrap();
        let map = SharedMap::new(file.raw(), 0, BYTES as usize, true).unwrap();
        let features = F_EVENT_IDX | F_INDIRECT_DESC;
        let drivers = (0..queues).map(|index| {
            let at = |offset| {
                // SAFETY: the rings of a few queues lie in the first half of the memory.
                unsafe { map.base().add((index as u64 * QUEUE + offset) as usize) }
            };
            // SAFETY: mapped as long as the guest, and used for nothing else.
            let rings = unsafe { Rings::new(at(0), at(0x1000), at(0x2000), SIZE) }.unwrap();
            Driver::new(rings, features, None).unwrap()
        });
        Self {
            drivers: drivers.collect(),
            kicks: (0..queues).map(|_| EventFd::new().unwrap()).collect(),
            calls: (0..queues).map(|_| EventFd::new().unwrap()).collect(),
            file,
            map,
        }
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= BYTES);
        // SAFETY: inside the mapping; the device does not look before the chain is published.
        unsafe {
            let place = self.map.base().add(offset as usize);
            place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        assert!(offset + len as u64 <= BYTES);
        let mut bytes = vec![0; len];
        // SAFETY: inside the mapping; the device gave the chain back.
        unsafe {
            let place = self.map.base().add(offset as usize);
            place.copy_to_nonoverlapping(bytes.as_mut_ptr(), len);
        }
        bytes
    }

    /// Make a request of one readable and one writable buffer available and kick when asked to.
    pub fn send(&mut self, queue: usize, request: &[u8]) -> u16 {
        let slot = DATA + u64::from(self.drivers[queue].available()) * 512;
        let slot = slot + queue as u64 * 0x1_0000;
        self.write(slot, request);
        self.write(slot + 256, &[0; 64]);
        let len = request.len() as u32;
        self.send_at(queue, GUEST + slot, len, GUEST + slot + 256)
    }

    /// The same with buffers anywhere.
    pub fn send_at(&mut self, queue: usize, request: u64, len: u32, reply: u64) -> u16 {
        let buffers = [
            Buffer {
                address: request,
                len,
                writable: false,
            },
            Buffer {
                address: reply,
                len: 64,
                writable: true,
            },
        ];
        let head = self.drivers[queue].add(&buffers).unwrap();
        if self.drivers[queue].publish() {
            self.kicks[queue].notify();
        }
        head
    }

    /// Wait for the next chain to come back, asleep on the interrupt.
    pub fn reap(&mut self, queue: usize) -> Used {
        let limit = Instant::now() + PATIENCE;
        loop {
            if let Some(used) = self.drivers[queue].reap() {
                return used;
            }
            assert!(Instant::now() < limit, "no reply");
            if self.drivers[queue].arm() {
                let wait = dpfs::sys::epoll::Epoll::new().unwrap();
                wait.add(self.calls[queue].raw(), 0).unwrap();
                let woken = wait.wait(PATIENCE.as_millis() as i32, |_| {}).unwrap();
                // A signal ends the wait early, too: that of a child that died.
                assert!(woken > 0 || Instant::now() < limit, "no interrupt");
                self.calls[queue].clear();
                self.drivers[queue].disarm();
            }
        }
    }
}

/// One connection.
pub struct FrontEnd {
    pub socket: UnixStream,
    /// Ask for a reply to every message.
    pub acknowledged: bool,
}

impl FrontEnd {
    pub fn connect(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            acknowledged: false,
        }
    }

    pub fn send(&self, request: u32, payload: &[u8], fds: &[i32], needs_reply: bool) {
        let header = Header::request(request, payload.len() as u32, needs_reply);
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(payload);
        let sent = socket::send_with_fds(self.socket.as_raw_fd(), &bytes, fds);
        assert_eq!(sent, Ok(bytes.len()));
    }

    /// Receive one reply; `None` when the connection is closed instead.
    pub fn receive(&self) -> Option<(Header, Vec<u8>, Vec<Fd>)> {
        let mut fds = Vec::new();
        let mut header = [0; HEADER_LEN];
        self.fill(&mut header, &mut fds)?;
        let header = Header::read_from_bytes(&header).unwrap();
        let mut payload = vec![0; header.size as usize];
        self.fill(&mut payload, &mut fds)?;
        Some((header, payload, fds))
    }

    fn fill(&self, mut bytes: &mut [u8], fds: &mut Vec<Fd>) -> Option<()> {
        let limit = Instant::now() + PATIENCE;
        while !bytes.is_empty() {
            match socket::receive(self.socket.as_raw_fd(), bytes, |fd| fds.push(fd)) {
                Ok(received) if received.len == 0 => return None,
                Ok(received) => bytes = &mut bytes[received.len..],
                Err(Errno::EAGAIN) => {
                    assert!(Instant::now() < limit, "no answer");
                    std::thread::sleep(Duration::from_micros(100));
                }
                Err(_) => return None,
            }
        }
        Some(())
    }

    /// Send a message that has no reply of its own and, when that was negotiated, see that it was carried out.
    pub fn tell(&self, request: u32, payload: &[u8], fds: &[i32]) {
        assert_eq!(self.try_tell(request, payload, fds), Some(0), "{request}");
    }

    /// The same, with the answer: 0 for success (or no answer wanted), `None` when the connection was closed.
    pub fn try_tell(&self, request: u32, payload: &[u8], fds: &[i32]) -> Option<u64> {
        self.send(request, payload, fds, self.acknowledged);
        if !self.acknowledged {
            return Some(0);
        }
        let (header, payload, _) = self.receive()?;
        assert_eq!((header.request, header.flags), (request, 5));
        Some(u64::from_ne_bytes(payload.try_into().unwrap()))
    }

    /// Send a message that has a reply.
    pub fn ask(&self, request: u32, payload: &[u8]) -> Vec<u8> {
        self.send(request, payload, &[], false);
        let (header, payload, fds) = self.receive().expect("closed");
        assert_eq!((header.request, header.flags), (request, 5));
        assert!(fds.is_empty());
        payload
    }

    pub fn number(&self, request: u32) -> u64 {
        u64::from_ne_bytes(self.ask(request, &[]).try_into().unwrap())
    }

    /// Tell whether the back-end closed the connection.
    pub fn is_closed(&self) -> bool {
        self.receive().is_none()
    }

    /// Agree on features, all protocol features that are offered.
    pub fn negotiate(&mut self) -> ProtocolFeatures {
        self.tell(SET_OWNER, &[], &[]);
        let features = self.number(GET_FEATURES);
        let wanted = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX | F_PROTOCOL_FEATURES;
        assert_eq!(features, wanted);
        let protocol = self.number(GET_PROTOCOL_FEATURES);
        // As User-Mode Linux does: this message wants a reply, too.
        self.acknowledged = true;
        self.tell(SET_PROTOCOL_FEATURES, &protocol.to_ne_bytes(), &[]);
        self.tell(SET_FEATURES, &features.to_ne_bytes(), &[]);
        ProtocolFeatures::from_bits(protocol).unwrap()
    }

    /// Share the whole memory of a guest.
    pub fn share(&self, guest: &Guest) {
        let region = [GUEST, BYTES, USER, 0];
        self.tell(ADD_MEM_REG, &words(&[0], &region), &[guest.file.raw()]);
    }

    pub fn state(&self, request: u32, queue: usize, number: u32) {
        self.tell(request, &state(queue, number), &[]);
    }

    /// Say where a queue lies, and switch it on.
    pub fn start(&self, guest: &Guest, queue: usize, base: u16) {
        self.describe(queue, base);
        let word = (queue as u64).to_ne_bytes();
        self.tell(SET_VRING_CALL, &word, &[guest.calls[queue].raw()]);
        self.tell(SET_VRING_KICK, &word, &[guest.kicks[queue].raw()]);
        self.state(SET_VRING_ENABLE, queue, 1);
    }

    pub fn describe(&self, queue: usize, base: u16) {
        self.state(SET_VRING_NUM, queue, u32::from(SIZE));
        self.state(SET_VRING_BASE, queue, u32::from(base));
        self.tell(SET_VRING_ADDR, &address(queue), &[]);
    }

    /// Stop a queue and give the index at which it goes on.
    pub fn stop(&self, queue: usize) -> u16 {
        let reply = self.ask(GET_VRING_BASE, &state(queue, 0));
        assert_eq!(reply[..4], (queue as u32).to_ne_bytes());
        u32::from_ne_bytes(reply[4..].try_into().unwrap()) as u16
    }

    /// Connect, negotiate, share memory and start all queues of a guest.
    pub fn boot(path: &Path, guest: &Guest) -> Self {
        let mut front_end = Self::connect(path);
        front_end.negotiate();
        front_end.share(guest);
        for queue in 0..guest.drivers.len() {
            front_end.start(guest, queue, 0);
        }
        front_end
    }
}

pub fn words(head: &[u64], rest: &[u64]) -> Vec<u8> {
    let words = head.iter().chain(rest);
    words.flat_map(|word| word.to_ne_bytes()).collect()
}

pub fn state(queue: usize, number: u32) -> Vec<u8> {
    [(queue as u32).to_ne_bytes(), number.to_ne_bytes()].concat()
}

pub fn address(queue: usize) -> Vec<u8> {
    let start = USER + queue as u64 * QUEUE;
    // index and flags, descriptor table, used ring, available ring, log
    words(&[queue as u64], &[start, start + 0x2000, start + 0x1000, 0])
}
