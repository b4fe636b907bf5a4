//! Any content of a virtqueue, changed at any time between two steps of the device, with the FUSE layer behind it.
//!
//! Nothing outside the guest's memory may be touched, every call ends, and every request that was taken is given back.

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::Arc;

use dpfs::hal::Queue;
use dpfs::hal::ring::RingQueue;
use dpfs::virtq::{
    Descriptor, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, MemoryMap, Start, desc_bytes,
};
use dpfs::wire::fuse::Opcode;
use dpfs_harness::{Bed, Core, Mode, Recorder, Setup, samples};

use crate::guest::{DATA, FIRST, Memory, SECOND, SIZE, START};
use crate::tape::{Reader, Writer};

/// Name a step of the input.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum Step {
    /// Write a descriptor of the queue's table.
    Describe,
    /// Write a descriptor of an indirect table.
    Indirect,
    /// Write bytes behind the rings.
    Write,
    /// Write a good request behind the rings.
    Request,
    /// Put a head into the available ring and publish it.
    Offer,
    /// Set the available index.
    Index,
    /// Set the used index at which the driver wants an interrupt.
    Event,
    /// The device takes what there is.
    Take,
    /// The device gives back what ended.
    GiveBack,
    /// The device wants to sleep.
    Arm,
    /// The device wakes up.
    Disarm,
    /// Answer one of the kept replies.
    Answer,
    /// What the backend does with replies from now on.
    Mode,
}

const STEPS: u8 = Step::Mode as u8 + 1;

/// Where the rings lie.
const AVAIL: u64 = START + 4096;

/// Share the memory with the queue.
#[derive(Clone)]
struct Shared(Arc<Memory>);

impl Deref for Shared {
    type Target = MemoryMap;

    fn deref(&self) -> &MemoryMap {
        self.0.map()
    }
}

struct Device {
    /// Where the session begins; the queue's own core follows.
    door: Bed<Recorder>,
    core: Core<Recorder>,
}

thread_local! {
    /// Made once, for its tables are never given back.
    static DEVICE: RefCell<Device> = RefCell::new({
        let door = Bed::with(Recorder::new(), Setup { depth: 1, ..Setup::default() });
        let core = Core::new(Recorder::new(), door.session(), SIZE);
        Device { door, core }
    });
}

/// Run one input; give the number of calls that reached the backend.
pub fn run(data: &[u8]) -> usize {
    DEVICE.with_borrow_mut(|device| {
        device.door.init();
        device.door.fs.clear();
        device.core.fs.mode = Mode::Answer;
        Run::new(device, data).finish();
        assert_eq!(device.core.in_flight(), 0, "a request was lost");
        let calls = device.core.fs.calls.len();
        device.core.fs.clear();
        device.core.fs.interrupted.clear();
        calls
    })
}

struct Run<'a> {
    tape: Reader<'a>,
    core: &'a mut Core<Recorder>,
    memory: Arc<Memory>,
    queue: RingQueue<Shared>,
    size: u16,
    available: u16,
}

impl<'a> Run<'a> {
    fn new(device: &'a mut Device, data: &'a [u8]) -> Self {
        let mut tape = Reader::new(data);
        let flags = tape.u8();
        let size = 1 << (tape.u8() % 8);
        let index = tape.u16();
        let memory = Memory::new();
        let mut features = F_VERSION_1;
        if flags & 1 != 0 {
            features |= F_EVENT_IDX;
        }
        if flags & 2 != 0 {
            features |= F_INDIRECT_DESC;
        }
        memory.write(AVAIL + 2, &index.to_le_bytes());
        memory.write(START + 8192 + 2, &index.to_le_bytes());
        let start = Start {
            rings: memory.rings(size),
            next_avail: index,
            features,
            inflight: None,
        };
        let queue = RingQueue::fixed(start, Shared(Arc::clone(&memory)));
        Self {
            tape,
            core: &mut device.core,
            memory,
            queue,
            size,
            available: index,
        }
    }

    fn finish(mut self) {
        while !self.tape.at_end() {
            self.step();
        }
        while self.core.fs.kept() > 0 {
            self.core.fs.answer_kept(0);
        }
        self.core.take(&mut self.queue);
        while self.core.fs.kept() > 0 {
            self.core.fs.answer_kept(0);
        }
        self.core.give_back(&mut self.queue);
    }

    /// Read an address that is mostly inside, often at an edge.
    fn address(&mut self) -> u64 {
        match self.tape.u8() % 8 {
            0 => self.tape.u64(),
            1 => (START + FIRST).wrapping_add_signed(i64::from(self.tape.u8() as i8)),
            2 => (START + FIRST + SECOND).wrapping_add_signed(i64::from(self.tape.u8() as i8)),
            3 => START.wrapping_add_signed(i64::from(self.tape.u16() as i16)),
            _ => DATA + u64::from(self.tape.u16()) % 0xd000,
        }
    }

    fn descriptor(&mut self) -> Descriptor {
        let address = self.address();
        let len = match self.tape.u8() % 4 {
            0 => self.tape.u32(),
            1 => u32::from(self.tape.u8()) * 16,
            _ => u32::from(self.tape.u16()),
        };
        let flags = match self.tape.u8() {
            flags @ 0..0xf0 => u16::from(flags) & 7,
            flags => u16::from(flags) << 8,
        };
        let next = match self.tape.u8() {
            0xff => self.tape.u16(),
            next => u16::from(next) % self.size,
        };
        Descriptor {
            address,
            len,
            flags,
            next,
        }
    }

    fn publish(&mut self) {
        self.memory.write(AVAIL + 2, &self.available.to_le_bytes());
    }

    fn step(&mut self) {
        let step = self.tape.u8() % STEPS;
        if step == Step::Describe as u8 {
            let index = u64::from(self.tape.u8()) % u64::from(self.size);
            let descriptor = self.descriptor();
            assert!(desc_bytes(self.size) <= 4096);
            self.memory.write_descriptor(START + index * 16, descriptor);
        } else if step == Step::Indirect as u8 {
            let address = self.address();
            let descriptor = self.descriptor();
            self.memory.write_descriptor(address, descriptor);
        } else if step == Step::Write as u8 {
            let address = self.address();
            let bytes = self.tape.run();
            self.memory.write(address, bytes);
        } else if step == Step::Request as u8 {
            let opcode = Opcode::ALL[usize::from(self.tape.u8()) % Opcode::ALL.len()];
            let address = self.address();
            self.memory.write(address, &samples::sample(opcode).bytes());
        } else if step == Step::Offer as u8 {
            let head = match self.tape.u8() {
                0xff => self.tape.u16(),
                head => u16::from(head) % self.size,
            };
            let place = AVAIL + 4 + 2 * u64::from(self.available % self.size);
            self.memory.write(place, &head.to_le_bytes());
            self.available = self.available.wrapping_add(1);
            self.publish();
        } else if step == Step::Index as u8 {
            self.available = self.tape.u16();
            self.publish();
        } else if step == Step::Event as u8 {
            let place = AVAIL + 4 + 2 * u64::from(self.size);
            self.memory.write(place, &self.tape.u16().to_le_bytes());
        } else {
            self.device_step(step);
        }
    }

    fn device_step(&mut self, step: u8) {
        if step == Step::Take as u8 {
            self.core.take(&mut self.queue);
        } else if step == Step::GiveBack as u8 {
            self.core.give_back(&mut self.queue);
        } else if step == Step::Arm as u8 {
            self.queue.arm();
        } else if step == Step::Disarm as u8 {
            self.queue.disarm();
        } else if step == Step::Answer as u8 {
            let kept = self.core.fs.kept();
            if kept > 0 {
                self.core.fs.answer_kept(usize::from(self.tape.u8()) % kept);
            }
        } else {
            self.core.fs.mode = match self.tape.u8() % 3 {
                0 => Mode::Keep,
                1 => Mode::Drop,
                _ => Mode::Answer,
            };
        }
    }
}

/// Write the beginning of an input: features (1: event index, 2: indirect), the queue's size as a power of two, and
/// where its indices start.
pub fn begin(flags: u8, order: u8, index: u16) -> Writer {
    Writer::default().u8(flags).u8(order).u16(index)
}

/// Write the step that stores a descriptor of the table.
pub fn describe(tape: Writer, index: u8, at: u16, len: u16, flags: u8, next: u8) -> Writer {
    buffer(
        tape.u8(Step::Describe as u8).u8(index),
        at,
        len,
        flags,
        next,
    )
}

/// Write the step that stores a descriptor of an indirect table.
pub fn indirect(tape: Writer, table: u16, at: u16, len: u16, flags: u8, next: u8) -> Writer {
    buffer(
        data(tape.u8(Step::Indirect as u8), table),
        at,
        len,
        flags,
        next,
    )
}

/// Write an address behind the rings.
pub fn data(tape: Writer, at: u16) -> Writer {
    tape.u8(7).u16(at)
}

fn buffer(tape: Writer, at: u16, len: u16, flags: u8, next: u8) -> Writer {
    data(tape, at).u8(3).u16(len).u8(flags).u8(next)
}
