//! A FUSE client of one request at a time: begins a session, finds or makes the file, fills it, ends the session.

use std::time::{Duration, Instant};

use dpfs::virtq::driver::Buffer;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::*;
use zerocopy::IntoBytes;

use crate::device::Device;
use crate::pattern;
use crate::request::{Ask, Place};

/// Queue of the requests made here.
const QUEUE: usize = 1;

/// Most bytes of a WRITE that fills the file.
pub const FILL: u32 = 128 << 10;

const ROOT: u64 = 1;
const O_RDWR: u32 = 2;
const O_DIRECTORY: u32 = 0x10000;
const S_IFREG: u32 = 0o100_000;

/// Name of the file that jobs work on.
pub const FILE: &str = "dpfs-bench.data";

/// Hold a session and its file.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Node of the file.
    pub node: u64,
    /// Its handle.
    pub file: u64,
    /// Handle of the root directory.
    pub directory: u64,
    /// Largest WRITE that the back-end takes.
    pub max_write: u32,
}

/// Append a terminated name to arguments.
pub fn named(args: &[u8], name: &str) -> Vec<u8> {
    [args, name.as_bytes(), &[0]].concat()
}

/// Give the arguments of a CREATE.
pub fn create(name: &str) -> Vec<u8> {
    let args = CreateIn {
        flags: O_RDWR,
        mode: S_IFREG | 0o600,
        ..CreateIn::default()
    };
    named(args.as_bytes(), name)
}

/// Make requests, one at a time.
pub struct Client<'a> {
    device: &'a mut Device,
    place: Place,
    deadline: Duration,
    unique: u64,
    chain: Vec<Buffer>,
}

impl<'a> Client<'a> {
    /// Use a device's first place.
    pub fn new(device: &'a mut Device, deadline: Duration) -> Self {
        let place = Place(device.room);
        Self {
            device,
            place,
            deadline,
            // Apart from those of the run.
            unique: 1 << 62,
            chain: Vec::new(),
        }
    }

    /// Make a request and wait for its answer; gives the bytes behind the answer's header.
    pub fn call(&mut self, ask: &Ask<'_>) -> Result<Result<u32, Errno>, String> {
        self.unique += 2;
        let what = format!("{} of node {}", ask.opcode.name(), ask.node);
        self.place
            .put(&self.device.memory, self.unique, ask, &mut self.chain);
        self.device
            .add(QUEUE, &self.chain)
            .ok_or_else(|| format!("{what}: the queue is full"))?;
        self.device.publish(QUEUE);
        let limit = Instant::now() + self.deadline;
        let used = loop {
            self.device.serve();
            if let Some(used) = self.device.reap(QUEUE) {
                break used;
            }
            if Instant::now() > limit {
                return Err(format!("{what}: no answer within {:?}", self.deadline));
            }
            self.device.idle();
        };
        if used.written == 0 && ask.opcode == Opcode::DESTROY {
            // Some back-ends leave the last request of a session without an answer.
            return Ok(Ok(0));
        }
        let header = self.place.header(&self.device.memory);
        if header.unique != self.unique || header.len < 16 || header.len > used.written {
            let written = used.written;
            return Err(format!(
                "{what}: a wrong answer: {header:?}, {written} bytes written"
            ));
        }
        Ok(match header.error {
            0 => Ok(header.len - 16),
            error => Err(Errno::from_os(-error)),
        })
    }

    /// The same for a request that must succeed.
    fn must(&mut self, ask: &Ask<'_>) -> Result<u32, String> {
        let answer = self.call(ask)?;
        answer.map_err(|error| format!("{} of node {}: {error}", ask.opcode.name(), ask.node))
    }

    /// Begin a session, as a host of the newest version that offers what all have.
    pub fn init(&mut self) -> Result<InitOut, String> {
        let flags = InitFlags::ASYNC_READ
            | InitFlags::BIG_WRITES
            | InitFlags::MAX_PAGES
            | InitFlags::PARALLEL_DIROPS
            | InitFlags::HANDLE_KILLPRIV_V2;
        let init = InitIn {
            major: KERNEL_VERSION,
            minor: KERNEL_MINOR_VERSION,
            max_readahead: 128 << 10,
            flags: flags.bits() as u32,
            ..InitIn::default()
        };
        self.must(&Ask {
            opcode: Opcode::INIT,
            node: 0,
            args: init.as_bytes(),
            result: size_of::<InitOut>() as u32,
            send: 0,
            receive: 0,
        })?;
        let out: InitOut = self.place.result(&self.device.memory);
        if out.major != KERNEL_VERSION {
            return Err(format!(
                "INIT: the back-end speaks {}.{}",
                out.major, out.minor
            ));
        }
        Ok(out)
    }

    /// Begin a session, open the directory, and open the file or make it. It then holds the pattern of `seed`, if it
    /// was made, is too short, or `refill` says so.
    pub fn open(&mut self, size: u64, seed: u64, refill: bool) -> Result<Opened, String> {
        let max_write = self.init()?.max_write;
        let flags = OpenIn {
            flags: O_DIRECTORY,
            open_flags: 0,
        };
        let handle = size_of::<OpenOut>() as u32;
        let entry = size_of::<EntryOut>() as u32;
        self.must(&ask(Opcode::OPENDIR, ROOT, flags.as_bytes(), handle))?;
        let directory = self.place.result::<OpenOut>(&self.device.memory).fh;
        let name = named(&[], FILE);
        let found = self.call(&ask(Opcode::LOOKUP, ROOT, &name, entry))?;
        let (node, file, old) = match found {
            Ok(_) => {
                let found: EntryOut = self.place.result(&self.device.memory);
                let flags = OpenIn {
                    flags: O_RDWR,
                    open_flags: 0,
                };
                self.must(&ask(Opcode::OPEN, found.nodeid, flags.as_bytes(), handle))?;
                let opened: OpenOut = self.place.result(&self.device.memory);
                (found.nodeid, opened.fh, found.attr.size)
            }
            Err(Errno::ENOENT) => {
                self.must(&ask(Opcode::CREATE, ROOT, &create(FILE), entry + handle))?;
                let made: Created = self.place.result(&self.device.memory);
                (made.entry.nodeid, made.opened.fh, 0)
            }
            Err(error) => return Err(format!("LOOKUP of {FILE}: {error}")),
        };
        let opened = Opened {
            node,
            file,
            directory,
            max_write,
        };
        if refill || old < size {
            self.fill(&opened, size, seed)?;
        }
        Ok(opened)
    }

    fn fill(&mut self, opened: &Opened, size: u64, seed: u64) -> Result<(), String> {
        let most = u64::from(FILL.min(opened.max_write));
        let mut bytes = vec![0; most as usize];
        let mut offset = 0;
        while offset < size {
            let len = (size - offset).min(most) as u32;
            pattern::fill(seed, offset, &mut bytes[..len as usize]);
            self.place
                .set_data(&self.device.memory, &bytes[..len as usize]);
            let args = WriteIn {
                fh: opened.file,
                offset,
                size: len,
                ..WriteIn::default()
            };
            self.must(&Ask {
                send: len,
                ..ask(Opcode::WRITE, opened.node, args.as_bytes(), 8)
            })?;
            let written: WriteOut = self.place.result(&self.device.memory);
            if written.size != len {
                return Err(format!(
                    "WRITE at {offset}: {} of {len} bytes",
                    written.size
                ));
            }
            offset += u64::from(len);
        }
        Ok(())
    }

    /// Read `bytes` at `offset`; fewer are an error.
    pub fn read(&mut self, opened: &Opened, offset: u64, bytes: &mut [u8]) -> Result<(), String> {
        let size = bytes.len() as u32;
        let args = ReadIn {
            fh: opened.file,
            offset,
            size,
            ..ReadIn::default()
        };
        let len = self.must(&Ask {
            receive: size,
            ..ask(Opcode::READ, opened.node, args.as_bytes(), 0)
        })?;
        if len != size {
            return Err(format!("READ at {offset}: {len} of {size} bytes"));
        }
        self.place.data(&self.device.memory, bytes);
        Ok(())
    }

    /// Close everything and end the session.
    pub fn close(&mut self, opened: &Opened) -> Result<(), String> {
        for (opcode, node, fh) in [
            (Opcode::RELEASE, opened.node, opened.file),
            (Opcode::RELEASEDIR, ROOT, opened.directory),
        ] {
            let args = ReleaseIn {
                fh,
                ..ReleaseIn::default()
            };
            self.must(&ask(opcode, node, args.as_bytes(), 0))?;
        }
        self.call(&ask(Opcode::DESTROY, 0, &[], 0)).map(|_| ())
    }
}

/// Describe the body of an answer to CREATE.
#[repr(C)]
#[derive(Clone, Copy, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
pub struct Created {
    /// The new entry.
    pub entry: EntryOut,
    /// The open file.
    pub opened: OpenOut,
}

/// Describe a request without data.
pub const fn ask(opcode: Opcode, node: u64, args: &[u8], result: u32) -> Ask<'_> {
    Ask {
        opcode,
        node,
        args,
        result,
        send: 0,
        receive: 0,
    }
}
