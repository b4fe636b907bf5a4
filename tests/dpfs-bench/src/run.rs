//! The run: keeps every place busy, checks every answer, measures.

use std::time::Duration;

use dpfs::sys::time::Instant;
use dpfs::virtq::driver::{Buffer, MAX_DRIVER_SIZE, Used};
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::*;
use hdrhistogram::Histogram;
use zerocopy::IntoBytes;

use crate::client::{Client, Created, FILL, Opened, ask, create, named};
use crate::device::{Device, Shape, Target};
use crate::job::{Chooser, Settings, Step};
use crate::outcome::{Outcome, latencies};
use crate::pattern;
use crate::request::{Ask, Place, descriptors, stride};
use crate::usage::Meter;

const ROOT: u64 = 1;

/// Bytes of one READDIR.
const DIRECTORY: u32 = 4096;

/// Rounds without an answer between two looks at the deadlines.
const PATIENCE: u32 = 10_000;

/// One request in flight.
struct Slot {
    queue: usize,
    place: Place,
    step: Step,
    unique: u64,
    started: Instant,
    busy: bool,
}

struct Run<'a> {
    settings: &'a Settings,
    device: &'a mut Device,
    opened: Opened,
    chooser: Chooser,
    slots: Vec<Slot>,
    /// Which slot a chain belongs to, by queue and head.
    heads: Vec<[u16; MAX_DRIVER_SIZE]>,
    chain: Vec<Buffer>,
    data: Vec<u8>,
    unique: u64,
    /// With verification: what each block holds, and whether a request is at it.
    blocks: Vec<Block>,
    latencies: Histogram<u64>,
    requests: u64,
    measuring: bool,
}

/// What is known of one block of the file.
#[derive(Clone, Copy, Default)]
struct Block {
    /// Number of WRITEs that it saw; each writes other bytes.
    generation: u64,
    /// One request at a time, so that what a READ must find is certain.
    busy: bool,
}

/// Run one job against one back-end. `tick` hears of the seconds that passed.
pub fn run(
    target: &Target,
    settings: &Settings,
    tick: &mut dyn FnMut(f64),
) -> Result<Outcome, String> {
    settings.check()?;
    let data = settings.block.max(FILL).max(DIRECTORY);
    let shape = Shape {
        queues: settings.queues,
        // Every place may have a chain out, direct ones of all its descriptors.
        size: (u32::from(settings.depth) * u32::from(descriptors(settings.block))
            + u32::from(descriptors(data)))
        .next_power_of_two()
        .clamp(64, MAX_DRIVER_SIZE as u32) as u16,
        chain: descriptors(data),
        room: u64::from(settings.queues) * u64::from(settings.depth) * stride(data),
        wait: settings.wait,
    };
    let mut device = Device::open(target, shape)?;
    let deadline = Duration::from_secs_f64(settings.deadline);
    let refill = settings.verify && settings.job.moves_data();
    let opened = Client::new(&mut device, deadline).open(settings.size, settings.seed, refill)?;
    if settings.block > opened.max_write && settings.job.moves_data() {
        return Err(format!(
            "a block of {}: this back-end writes at most {}",
            settings.block, opened.max_write
        ));
    }
    let outcome = Run::new(settings, &mut device, opened, data)?.measure(tick)?;
    Client::new(&mut device, deadline).close(&opened)?;
    Ok(outcome)
}

impl<'a> Run<'a> {
    fn new(
        settings: &'a Settings,
        device: &'a mut Device,
        opened: Opened,
        data: u32,
    ) -> Result<Self, String> {
        let count = settings.queues * settings.depth;
        let slots = (0..count).map(|number| Slot {
            queue: 1 + usize::from(number % settings.queues),
            place: Place(device.room + u64::from(number) * stride(data)),
            step: Step::Getattr,
            unique: 0,
            started: Instant(0),
            busy: false,
        });
        Ok(Self {
            slots: slots.collect(),
            heads: vec![[0; MAX_DRIVER_SIZE]; usize::from(settings.queues) + 1],
            chooser: Chooser::new(settings),
            chain: Vec::new(),
            data: vec![0; settings.block as usize],
            unique: 0,
            blocks: if settings.verify && settings.job.moves_data() {
                vec![Block::default(); (settings.size / u64::from(settings.block)) as usize]
            } else {
                Vec::new()
            },
            latencies: latencies(),
            requests: 0,
            measuring: false,
            settings,
            device,
            opened,
        })
    }

    fn measure(mut self, tick: &mut dyn FnMut(f64)) -> Result<Outcome, String> {
        let mut meter = self.device.process().map(Meter::of);
        let mut usage = || meter.as_mut().and_then(Meter::read);
        let seconds = |from: Instant, to: Instant| to.since(from) as f64 / 1e9;
        let begin = Instant::now();
        for slot in 0..self.slots.len() {
            let step = self.choose();
            self.submit(slot, step, begin)?;
        }
        self.publish();
        let mut from = begin;
        let (mut used_before, mut kicks_before) = (usage(), self.device.kicks);
        self.measuring = self.settings.warmup == 0.0;
        let mut last_tick = begin;
        let mut fruitless = 0;
        let end = loop {
            let now = self.turn(true)?;
            let Some(now) = now else {
                fruitless += 1;
                if fruitless % PATIENCE == 0 || self.settings.wait {
                    self.look_at_deadlines()?;
                }
                self.device.idle();
                continue;
            };
            fruitless = 0;
            if !self.measuring && seconds(begin, now) >= self.settings.warmup {
                self.measuring = true;
                from = Instant::now();
                (used_before, kicks_before) = (usage(), self.device.kicks);
            }
            if seconds(last_tick, now) > 0.1 {
                last_tick = now;
                tick(seconds(from, now));
                self.look_at_deadlines()?;
            }
            let enough = match self.settings.count {
                Some(count) => self.requests >= count,
                None => self.measuring && seconds(from, now) >= self.settings.seconds,
            };
            if enough {
                break now;
            }
        };
        let used = usage()
            .zip(used_before)
            .map(|(after, before)| after.since(before));
        let kicks = self.device.kicks - kicks_before;
        self.measuring = false;
        while self.slots.iter().any(|slot| slot.busy) {
            if self.turn(false)?.is_none() {
                self.look_at_deadlines()?;
                self.device.idle();
            }
        }
        self.read_back()?;
        let block = if self.settings.job.moves_data() {
            self.settings.block
        } else {
            0
        };
        Ok(Outcome {
            job: self.settings.job.name(),
            block,
            depth: self.settings.depth,
            queues: self.settings.queues,
            requests: self.requests,
            seconds: seconds(from, end),
            latencies: self.latencies,
            usage: used,
            kicks,
        })
    }

    /// Take all answers that are there and, with `more`, ask the next question in each one's place.
    fn turn(&mut self, more: bool) -> Result<Option<Instant>, String> {
        self.device.serve();
        let mut now = None;
        for queue in 0..=usize::from(self.settings.queues) {
            while let Some(used) = self.device.reap(queue) {
                let now = *now.get_or_insert_with(Instant::now);
                let slot = usize::from(self.heads[queue][usize::from(used.head)]);
                self.slots[slot].busy = false;
                let next = self.finish(slot, used, now)?;
                match next {
                    Some(step) => self.submit(slot, step, now)?,
                    None if more => {
                        let step = self.choose();
                        self.submit(slot, step, now)?;
                    }
                    None => {}
                }
            }
        }
        self.publish();
        Ok(now)
    }

    /// Choose a step; with verification, at a block that no other request is at.
    fn choose(&mut self) -> Step {
        let step = self.chooser.choose();
        let (Step::Read(offset) | Step::Write(offset)) = step else {
            return step;
        };
        if self.blocks.is_empty() {
            return step;
        }
        let size = u64::from(self.settings.block);
        let first = (offset / size) as usize;
        let count = self.blocks.len();
        // There are more blocks than requests in flight, so one is free.
        let mut order = (first..first + count).map(|at| at % count);
        let at = order.find(|&at| !self.blocks[at].busy).unwrap_or(first);
        self.blocks[at].busy = true;
        match step {
            Step::Write(_) => Step::Write(at as u64 * size),
            _ => Step::Read(at as u64 * size),
        }
    }

    fn block(&mut self, offset: u64) -> Option<&mut Block> {
        let at = (offset / u64::from(self.settings.block)) as usize;
        self.blocks.get_mut(at)
    }

    /// Read everything back that was written.
    fn read_back(&mut self) -> Result<(), String> {
        let deadline = Duration::from_secs_f64(self.settings.deadline);
        let mut client = Client::new(self.device, deadline);
        let blocks = self.blocks.iter().enumerate();
        for (at, block) in blocks.filter(|(_, block)| block.generation > 0) {
            let offset = at as u64 * u64::from(self.settings.block);
            client.read(&self.opened, offset, &mut self.data)?;
            let seed = pattern::generation(self.settings.seed, block.generation);
            pattern::check(seed, offset, &self.data).map_err(|wrong| {
                let (node, times) = (self.opened.node, block.generation);
                format!("READ (node {node}, offset {offset}, written {times} times): {wrong}")
            })?;
        }
        Ok(())
    }

    fn publish(&mut self) {
        for queue in 0..=usize::from(self.settings.queues) {
            self.device.publish(queue);
        }
    }

    fn submit(&mut self, index: usize, step: Step, now: Instant) -> Result<(), String> {
        self.unique += 2;
        let (node, fh, block) = (self.opened.node, self.opened.file, self.settings.block);
        let entry = size_of::<EntryOut>() as u32;
        let read = |fh, offset, size| ReadIn {
            fh,
            offset,
            size,
            ..ReadIn::default()
        };
        let slot = &mut self.slots[index];
        let memory = &self.device.memory;
        let mut put = |ask: &Ask<'_>| slot.place.put(memory, self.unique, ask, &mut self.chain);
        match step {
            Step::Read(offset) => put(&Ask {
                receive: block,
                ..ask(Opcode::READ, node, read(fh, offset, block).as_bytes(), 0)
            }),
            Step::Write(offset) => {
                let args = WriteIn {
                    fh,
                    offset,
                    size: block,
                    ..WriteIn::default()
                };
                put(&Ask {
                    send: block,
                    ..ask(Opcode::WRITE, node, args.as_bytes(), 8)
                });
                // What is never checked may be anything: the generator must not be what binds.
                let at = (offset / u64::from(block)) as usize;
                if let Some(block) = self.blocks.get(at) {
                    let seed = pattern::generation(self.settings.seed, block.generation + 1);
                    pattern::fill(seed, offset, &mut self.data);
                    slot.place.set_data(memory, &self.data);
                }
            }
            Step::Getattr => {
                let args = GetattrIn::default();
                let result = size_of::<AttrOut>() as u32;
                put(&ask(Opcode::GETATTR, node, args.as_bytes(), result));
            }
            Step::Lookup => {
                let name = named(&[], crate::client::FILE);
                put(&ask(Opcode::LOOKUP, ROOT, &name, entry));
            }
            Step::Readdir => put(&Ask {
                receive: DIRECTORY,
                ..ask(
                    Opcode::READDIR,
                    ROOT,
                    read(self.opened.directory, 0, DIRECTORY).as_bytes(),
                    0,
                )
            }),
            Step::Create(number) => {
                let result = entry + size_of::<OpenOut>() as u32;
                put(&ask(Opcode::CREATE, ROOT, &create(&name(number)), result));
            }
            Step::Release(_, node, fh) => {
                let args = ReleaseIn {
                    fh,
                    ..ReleaseIn::default()
                };
                put(&ask(Opcode::RELEASE, node, args.as_bytes(), 0));
            }
            Step::Unlink(number, _) => {
                put(&ask(Opcode::UNLINK, ROOT, &named(&[], &name(number)), 0));
            }
            Step::Forget(node) => {
                let args = ForgetIn { nlookup: 1 };
                put(&ask(Opcode::FORGET, node, args.as_bytes(), 0));
                // It has no answer, so it lends no room for one.
                self.chain.retain(|buffer| !buffer.writable);
            }
        }
        slot.step = step;
        slot.unique = self.unique;
        slot.started = now;
        slot.busy = true;
        let queue = match step {
            // As Linux does, so that memory is given back even while the request queues are full.
            Step::Forget(_) => 0,
            _ => slot.queue,
        };
        let Some(head) = self.device.add(queue, &self.chain) else {
            return Err(self.complain(index, "the queue is full"));
        };
        self.heads[queue][usize::from(head)] = index as u16;
        Ok(())
    }

    /// Check an answer; give what follows in the same operation.
    fn finish(&mut self, index: usize, used: Used, now: Instant) -> Result<Option<Step>, String> {
        let slot = &self.slots[index];
        let memory = &self.device.memory;
        if let Step::Forget(_) = slot.step {
            return match used.written {
                0 => Ok(None),
                written => Err(self.complain(index, &format!("an answer of {written} bytes"))),
            };
        }
        if self.measuring {
            self.requests += 1;
            let latency = now.since(slot.started).max(1);
            self.latencies.saturating_record(latency);
        }
        let header = slot.place.header(memory);
        if header.unique != slot.unique || header.len > used.written || header.len < 16 {
            let text = format!("a wrong answer: {header:?}, {} bytes written", used.written);
            return Err(self.complain(index, &text));
        }
        if header.error != 0 {
            let error = Errno::from_os(-header.error);
            return Err(self.complain(index, &error.to_string()));
        }
        let len = header.len - 16;
        let expected = match slot.step {
            Step::Read(_) => Some(self.settings.block),
            Step::Write(_) => Some(size_of::<WriteOut>() as u32),
            Step::Getattr => Some(size_of::<AttrOut>() as u32),
            Step::Lookup => Some(size_of::<EntryOut>() as u32),
            Step::Create(_) => Some(size_of::<Created>() as u32),
            Step::Release(..) | Step::Unlink(..) => Some(0),
            Step::Readdir | Step::Forget(_) => None,
        };
        if let Some(expected) = expected
            && expected != len
        {
            return Err(self.complain(index, &format!("{len} bytes instead of {expected}")));
        }
        match slot.step {
            Step::Read(offset) if self.settings.verify => {
                slot.place.data(memory, &mut self.data);
                let generation = self.block(offset).map_or(0, |block| {
                    block.busy = false;
                    block.generation
                });
                let seed = pattern::generation(self.settings.seed, generation);
                if let Err(wrong) = pattern::check(seed, offset, &self.data) {
                    return Err(self.complain(index, &wrong.to_string()));
                }
            }
            Step::Write(offset) => {
                let size = slot.place.result::<WriteOut>(memory).size;
                if size != self.settings.block {
                    return Err(self.complain(index, &format!("{size} bytes written")));
                }
                if let Some(block) = self.block(offset) {
                    block.generation += 1;
                    block.busy = false;
                }
            }
            Step::Create(number) => {
                let made: Created = slot.place.result(memory);
                return Ok(Some(Step::Release(
                    number,
                    made.entry.nodeid,
                    made.opened.fh,
                )));
            }
            Step::Release(number, node, _) => return Ok(Some(Step::Unlink(number, node))),
            Step::Unlink(_, node) => return Ok(Some(Step::Forget(node))),
            _ => {}
        }
        Ok(None)
    }

    fn look_at_deadlines(&self) -> Result<(), String> {
        let now = Instant::now();
        let limit = (self.settings.deadline * 1e9) as u64;
        let late = |slot: &Slot| slot.busy && now.since(slot.started) > limit;
        match self.slots.iter().position(late) {
            Some(index) => {
                let text = format!("no answer within {} s", self.settings.deadline);
                Err(self.complain(index, &text))
            }
            None => Ok(()),
        }
    }

    /// Say what is wrong with which request.
    fn complain(&self, index: usize, what: &str) -> String {
        let slot = &self.slots[index];
        let node = match slot.step {
            Step::Read(_) | Step::Write(_) | Step::Getattr => self.opened.node,
            Step::Release(_, node, _) | Step::Forget(node) => node,
            _ => ROOT,
        };
        format!(
            "{} (unique {}, node {node}, queue {}, {:?}, block {}): {what}",
            slot.step.opcode().name(),
            slot.unique,
            slot.queue,
            slot.step,
            self.settings.block,
        )
    }
}

fn name(number: u64) -> String {
    format!("dpfs-bench.{number}")
}
