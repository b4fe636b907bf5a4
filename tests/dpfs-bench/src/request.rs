//! One place for a request in flight: where its parts lie in the guest's memory, and how they are laid out as Linux
//! does: header, arguments and pages to read, then header, result and pages to fill, each in descriptors of their own.
//!
//! ```text
//! +0     in header    +64    arguments and names    +640  out header    +704  result    +4096  data, in pages
//! ```

use dpfs::virtq::driver::Buffer;
use dpfs::wire::fuse::{InHeader, Opcode, OutHeader};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::memory::{GUEST, Memory};

const ARGS: u64 = 64;
const OUT: u64 = 640;
const RESULT: u64 = 704;
const DATA: u64 = 4096;
const PAGE: u32 = 4096;

/// Give the bytes of memory that a place for `data` bytes needs.
pub const fn stride(data: u32) -> u64 {
    DATA + (data as u64).next_multiple_of(4096)
}

/// Give the most descriptors of a request with `data` bytes.
pub const fn descriptors(data: u32) -> u16 {
    (4 + data.div_ceil(PAGE)) as u16
}

/// Say what is asked, apart from the data.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Operation.
    pub opcode: Opcode,
    /// Node it is about.
    pub node: u64,
    /// Arguments, names included.
    pub args: &'a [u8],
    /// Bytes of the result structure that the answer has room for.
    pub result: u32,
    /// Bytes of data to send.
    pub send: u32,
    /// Bytes of data to receive.
    pub receive: u32,
}

/// Name the memory of one request.
#[derive(Clone, Copy, Debug)]
pub struct Place(pub u64);

impl Place {
    /// Lay out a request and describe it.
    pub fn put(self, memory: &Memory, unique: u64, ask: &Ask<'_>, chain: &mut Vec<Buffer>) {
        let header_len = size_of::<InHeader>();
        let header = InHeader {
            len: (header_len + ask.args.len()) as u32 + ask.send,
            opcode: ask.opcode as u32,
            unique,
            nodeid: ask.node,
            pid: std::process::id(),
            ..InHeader::new_zeroed()
        };
        memory.write(self.0, header.as_bytes());
        memory.write(self.0 + ARGS, ask.args);
        chain.clear();
        let mut push = |offset: u64, len: u32, writable| {
            if len > 0 {
                let address = GUEST + self.0 + offset;
                chain.push(Buffer {
                    address,
                    len,
                    writable,
                });
            }
        };
        push(0, header_len as u32, false);
        push(ARGS, ask.args.len() as u32, false);
        for page in 0..ask.send.div_ceil(PAGE) {
            push(
                DATA + u64::from(page * PAGE),
                (ask.send - page * PAGE).min(PAGE),
                false,
            );
        }
        push(OUT, size_of::<OutHeader>() as u32, true);
        push(RESULT, ask.result, true);
        for page in 0..ask.receive.div_ceil(PAGE) {
            push(
                DATA + u64::from(page * PAGE),
                (ask.receive - page * PAGE).min(PAGE),
                true,
            );
        }
    }

    /// Read the header of the answer.
    pub fn header(self, memory: &Memory) -> OutHeader {
        let mut bytes = [0; size_of::<OutHeader>()];
        memory.read(self.0 + OUT, &mut bytes);
        OutHeader::read_from_bytes(&bytes).expect("as long as the structure")
    }

    /// Read the result structure of the answer.
    pub fn result<T: FromBytes + IntoBytes>(self, memory: &Memory) -> T {
        let mut value = T::new_zeroed();
        memory.read(self.0 + RESULT, value.as_mut_bytes());
        value
    }

    /// Put data in.
    pub fn set_data(self, memory: &Memory, bytes: &[u8]) {
        memory.write(self.0 + DATA, bytes);
    }

    /// Take data out.
    pub fn data(self, memory: &Memory, bytes: &mut [u8]) {
        memory.read(self.0 + DATA, bytes);
    }
}
