//! The host of a self-test: memory of this process plays the host's, and one queue of a loopback device lies in it.
//!
//! ```text
//! queue | request: header, arguments | data to send | answer: header | result or data
//! ```
//!
//! One request is in flight at a time, which is all that a self-test needs.

use std::boxed::Box;
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use zerocopy::{FromBytes, IntoBytes};

use crate::fuse::Session;
use crate::hal::loopback::{self, FEATURES, Layout};
use crate::mem::Finished;
use crate::runtime::{Backend, Load, Observer, Share, Worker};
use crate::sys::map::SharedMap;
use crate::sys::memfd;
use crate::sys::time::Instant;
use crate::virtq::driver::{Buffer, Driver};
use crate::virtq::{MemoryMap, Region};
use crate::wire::errno::Errno;
use crate::wire::fuse::{IN_HEADER_LEN, InHeader, OUT_HEADER_LEN, Opcode, OutHeader};

/// Bytes of data of one request at most.
pub const DATA: usize = 128 << 10;

/// Host-physical address of the memory; not zero, so that a mix-up of addresses is found out.
const START: u64 = 1 << 32;
/// Room for header, arguments and names.
const REQUEST: usize = 4096;
const DEPTH: u16 = 16;
/// Nanoseconds within which an answer is to come.
const DEADLINE: u64 = 30_000_000_000;

/// Say why a request has no result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The file system's answer.
    Refused(Errno),
    /// An answer that is none, in words.
    Broken(String),
}

/// Hold both sides of the device.
pub struct Host {
    worker: Worker,
    driver: Driver,
    memory: &'static SharedMap,
    /// Where the queue ends, from the memory's start.
    request: usize,
    unique: u64,
}

/// Nobody looks at the requests of a self-test.
struct Nobody;

impl Observer for Nobody {
    fn finished(&mut self, _: &Finished, _: u64) {}
    fn round_ended(&mut self, _: Load) {}
}

impl Host {
    /// Make a device for a backend. What it takes is not given back: a self-test is a process of its own.
    ///
    /// # Errors
    /// What the machine or the backend does not give, in words.
    pub fn new(session: &'static Session, backend: &'static dyn Backend) -> Result<Self, String> {
        let layout = Layout {
            address: START,
            size: DEPTH,
            features: FEATURES,
            indirect: 8,
        };
        let request = (layout.end() - START) as usize;
        let bytes = request + 2 * (REQUEST + DATA);
        let fail = |error| format!("{bytes} bytes of shared memory: {error}");
        let file = memfd::create(c"dpfs-selftest", bytes as u64).map_err(fail)?;
        let memory = SharedMap::new(file.raw(), 0, bytes, true).map_err(fail)?;
        let memory: &'static SharedMap = Box::leak(Box::new(memory));
        // SAFETY: the memory is leaked, so it stays mapped; it is reached through raw pointers only.
        let region = unsafe { Region::new(START, memory.base(), bytes as u64) };
        let map = MemoryMap::new(&[region]).map_err(|error| format!("{error:?}"))?;
        let map: &'static MemoryMap = Box::leak(Box::new(map));
        // SAFETY: a new file reads as zero; what is before `request` is used for nothing else, and stays mapped.
        let (queue, driver) =
            unsafe { loopback::queue(map, layout) }.map_err(|error| format!("{error:?}"))?;
        let share = Share {
            session,
            backend,
            queues: vec![Box::new(queue)],
            depth: DEPTH,
            observer: Box::new(Nobody),
            admission: None,
        };
        Ok(Self {
            worker: share.into_worker()?,
            driver,
            memory,
            request,
            unique: 0,
        })
    }

    /// Make a request with arguments and data, wait for its answer, and give what is behind the answer's header.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn call(
        &mut self,
        opcode: Opcode,
        node: u64,
        args: &[&[u8]],
        send: &[u8],
        room: usize,
    ) -> Result<Vec<u8>, Failure> {
        let broken = |what: &str| Failure::Broken(format!("{}: {what}", opcode.name()));
        let args = args.concat();
        let head = IN_HEADER_LEN + args.len();
        if head > REQUEST || send.len() > DATA || room > DATA {
            return Err(broken("larger than a self-test's requests are"));
        }
        self.unique += 2;
        let header = InHeader {
            len: (head + send.len()) as u32,
            opcode: opcode as u32,
            unique: self.unique,
            nodeid: node,
            pid: std::process::id(),
            ..InHeader::default()
        };
        let [data, answer] = [self.request + REQUEST, self.request + REQUEST + DATA];
        self.write(self.request, header.as_bytes());
        self.write(self.request + IN_HEADER_LEN, &args);
        self.write(data, send);
        let parts = [
            (self.request, IN_HEADER_LEN, false),
            (self.request + IN_HEADER_LEN, args.len(), false),
            (data, send.len(), false),
            (answer, OUT_HEADER_LEN, true),
            (answer + REQUEST, room, true),
        ];
        let buffers: Vec<Buffer> = parts
            .into_iter()
            .filter(|(_, len, _)| *len > 0)
            .map(|(offset, len, writable)| Buffer {
                address: START + offset as u64,
                len: len as u32,
                writable,
            })
            .collect();
        self.driver
            .add(&buffers)
            .ok_or_else(|| broken("the queue is full"))?;
        self.driver.publish();
        let began = Instant::now();
        let used = loop {
            let now = Instant::now();
            self.worker.round(now);
            if let Some(used) = self.driver.reap() {
                break used;
            }
            if now.since(began) > DEADLINE {
                return Err(broken("no answer within 30 s"));
            }
        };
        let mut bytes = [0; OUT_HEADER_LEN];
        self.read(answer, &mut bytes);
        let header = OutHeader::read_from_bytes(&bytes).map_err(|_| broken("no header"))?;
        if header.unique != self.unique || header.len > used.written {
            return Err(broken("the answer to another request"));
        }
        if header.error != 0 {
            return Err(Failure::Refused(Errno::from_os(-header.error)));
        }
        let len = (header.len as usize).saturating_sub(OUT_HEADER_LEN);
        if len > room {
            return Err(broken("an answer longer than its room"));
        }
        let mut result = vec![0; len];
        self.read(answer + REQUEST, &mut result);
        Ok(result)
    }

    /// Ask a request that has no answer (FORGET) be taken.
    pub fn tell(&mut self, opcode: Opcode, node: u64, args: &[u8]) -> Result<(), Failure> {
        let header = InHeader {
            len: (IN_HEADER_LEN + args.len()) as u32,
            opcode: opcode as u32,
            unique: self.unique + 2,
            nodeid: node,
            ..InHeader::default()
        };
        self.unique += 2;
        self.write(self.request, header.as_bytes());
        self.write(self.request + IN_HEADER_LEN, args);
        let buffer = Buffer {
            address: START + self.request as u64,
            len: header.len,
            writable: false,
        };
        let full = || Failure::Broken(format!("{}: the queue is full", opcode.name()));
        self.driver.add(&[buffer]).ok_or_else(full)?;
        self.driver.publish();
        self.worker.round(Instant::now());
        while self.driver.reap().is_some() {}
        Ok(())
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.memory.len(), "our own layout");
        // SAFETY: inside the mapping; the device, in this thread, is not at work meanwhile.
        unsafe {
            let place = self.memory.base().add(offset);
            place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) {
        assert!(offset + bytes.len() <= self.memory.len(), "our own layout");
        // SAFETY: as for `write`.
        unsafe {
            let place = self.memory.base().add(offset);
            place.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len());
        }
    }
}
