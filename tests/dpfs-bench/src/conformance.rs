//! Conformance: what a host must not be able to do, and what a back-end must answer.
//!
//! Chains that break the rules are given back with nothing written, or stop their queue; either way the next
//! front-end is served. Requests that break the rules have the error that stands beside them, requests that do not
//! have one answer, whatever it says. The lists are DPFS's own; of another back-end they show where it differs.

use std::path::Path;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use comfy_table::{Table, presets};
use dpfs::virtq::driver::Buffer;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::*;
use dpfs_harness::{Message, samples};
use zerocopy::{FromBytes, IntoBytes};

use crate::client::Client;
use crate::device::{Device, Shape, Target};
use crate::memory::GUEST;

const QUEUE: usize = 1;
const SHAPE: Shape = Shape {
    queues: 1,
    size: 64,
    chain: 16,
    room: 1 << 20,
    wait: false,
};

/// Where a reply goes, behind the longest request.
const REPLY: u64 = 512 << 10;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// What must come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// The chain, with nothing written.
    Nothing,
    /// The chain with nothing written, or never: the queue is stopped.
    NothingOrStop,
    /// One answer with the request's number, success or not.
    Answer,
    /// This error.
    Error(Errno),
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Silence,
    Nothing,
    Answer(i32),
    Garbage,
}

impl Expect {
    fn met(self, found: Found, lenient: bool) -> bool {
        if lenient {
            return found != Found::Garbage;
        }
        match (self, found) {
            (Self::Nothing, Found::Nothing) => true,
            (Self::NothingOrStop, Found::Nothing | Found::Silence) => true,
            (Self::Answer, Found::Answer(_)) => true,
            (Self::Error(error), Found::Answer(code)) => code == -error.get(),
            _ => false,
        }
    }
}

struct Check {
    name: String,
    expect: Expect,
    found: Result<Found, String>,
}

/// Send everything to a back-end; an error when anything is not as expected.
pub fn run(socket: &Path, deadline: Duration, lenient: bool) -> Result<(), String> {
    let target = Target::Socket(socket.to_path_buf());
    let mut checks = Vec::new();
    for (name, descriptors, head, expect) in chains() {
        let found = send_chain(&target, &descriptors, head, deadline);
        let found = found.and_then(|found| is_alive(&target, deadline).map(|()| found));
        checks.push(Check {
            name: format!("chain: {name}"),
            expect,
            found,
        });
    }
    for before_init in [true, false] {
        let mut device = Device::open(&target, SHAPE)?;
        if !before_init {
            Client::new(&mut device, deadline).init()?;
        }
        let requests = if before_init { early() } else { requests() };
        for (name, message, expect) in requests {
            let found = send(&mut device, message.bytes(), message.room, deadline);
            checks.push(Check {
                name,
                expect,
                found,
            });
        }
        for wrong in WRONG_LENGTHS {
            let mut bytes = Message::new(Opcode::STATFS).bytes();
            bytes[..4].copy_from_slice(&wrong.to_le_bytes());
            checks.push(Check {
                name: format!("a header of 40 bytes that says {wrong}"),
                expect: Expect::Error(Errno::EINVAL),
                found: send(&mut device, bytes, Some(0), deadline),
            });
        }
        let bytes = Message::new(Opcode::STATFS).bytes()[..39].to_vec();
        checks.push(Check {
            name: "a header cut short".to_string(),
            expect: Expect::Nothing,
            found: send(&mut device, bytes, Some(0), deadline),
        });
    }
    report(&checks, lenient)
}

fn report(checks: &[Check], lenient: bool) -> Result<(), String> {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_header(["case", "expected", "found"]);
    let mut failed = 0;
    for check in checks {
        if matches!(check.found, Ok(found) if check.expect.met(found, lenient)) {
            continue;
        }
        failed += 1;
        let found = match &check.found {
            Ok(found) => format!("{found:?}"),
            Err(error) => error.clone(),
        };
        table.add_row([check.name.clone(), format!("{:?}", check.expect), found]);
    }
    if failed > 0 {
        println!("{table}");
    }
    println!("{} passed, {failed} failed", checks.len() - failed);
    match failed {
        0 => Ok(()),
        _ => Err(format!(
            "{failed} of {} answers are not as expected",
            checks.len()
        )),
    }
}

/// A descriptor: address, length, flags, next.
type Descriptor = (u64, u32, u16, u16);

/// List chains that break a rule (VIRTIO 1.3, section 2.7), each with the head to offer.
fn chains() -> Vec<(&'static str, Vec<Descriptor>, u16, Expect)> {
    use Expect::{Nothing, NothingOrStop};
    let data = GUEST + (512 << 10);
    let end = GUEST + (1 << 32);
    vec![
        ("a circle of one", vec![(data, 40, NEXT, 0)], 0, Nothing),
        (
            "a circle of two",
            vec![(data, 40, NEXT, 1), (data, 40, NEXT, 0)],
            0,
            Nothing,
        ),
        (
            "next beyond the table",
            vec![(data, 40, NEXT, 64)],
            0,
            Nothing,
        ),
        (
            "next far beyond",
            vec![(data, 40, NEXT, u16::MAX)],
            0,
            Nothing,
        ),
        ("outside of the memory", vec![(end, 40, 0, 0)], 0, Nothing),
        ("below the memory", vec![(0, 40, 0, 0)], 0, Nothing),
        (
            "an address that overflows",
            vec![(u64::MAX - 8, 40, 0, 0)],
            0,
            Nothing,
        ),
        (
            "longer than the memory",
            vec![(data, u32::MAX, 0, 0)],
            0,
            Nothing,
        ),
        (
            "readable after writable",
            vec![(data, 40, NEXT | WRITE, 1), (data, 40, 0, 0)],
            0,
            Nothing,
        ),
        (
            "an empty indirect table",
            vec![(data, 0, INDIRECT, 0)],
            0,
            Nothing,
        ),
        (
            "half an indirect descriptor",
            vec![(data, 24, INDIRECT, 0)],
            0,
            Nothing,
        ),
        (
            "an indirect table outside",
            vec![(end, 16, INDIRECT, 0)],
            0,
            Nothing,
        ),
        (
            "an indirect descriptor with a next",
            vec![(data, 16, INDIRECT | NEXT, 1), (data, 40, 0, 0)],
            0,
            Nothing,
        ),
        (
            "an indirect table that names itself",
            vec![(GUEST, 16, INDIRECT, 0)],
            0,
            Nothing,
        ),
        ("no bytes at all", vec![(data, 0, 0, 0)], 0, Nothing),
        (
            "a head beyond the table",
            vec![(data, 40, 0, 0)],
            64,
            NothingOrStop,
        ),
    ]
}

/// Offer a chain past the driver, which would not build it.
fn send_chain(
    target: &Target,
    descriptors: &[Descriptor],
    head: u16,
    deadline: Duration,
) -> Result<Found, String> {
    let mut device = Device::open(target, SHAPE)?;
    let layout = device.layouts[QUEUE];
    let offset = |address: u64| address - GUEST;
    for (index, &(address, len, flags, next)) in descriptors.iter().enumerate() {
        // An "indirect table that names itself" is this queue's own.
        let address = if address == GUEST {
            layout.address
        } else {
            address
        };
        let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        let place = offset(layout.address) + 16 * index as u64;
        device.memory.write(place, [address, rest].as_bytes());
    }
    device
        .memory
        .write(offset(layout.avail()) + 4, head.as_bytes());
    fence(Ordering::SeqCst);
    device
        .memory
        .write(offset(layout.avail()) + 2, 1_u16.as_bytes());
    device.kick(QUEUE);
    // A stopped queue is known by its silence alone, so that is not waited for as long as an answer.
    let limit = Instant::now() + deadline.min(Duration::from_millis(500));
    let mut index = [0; 2];
    loop {
        device.memory.read(offset(layout.used()) + 2, &mut index);
        if u16::from_le_bytes(index) == 1 {
            break;
        }
        if Instant::now() > limit {
            return Ok(Found::Silence);
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    let mut element = [0; 8];
    device.memory.read(offset(layout.used()) + 4, &mut element);
    let (id, written) = u32_pair(element);
    Ok(match written {
        0 if id == u32::from(head) => Found::Nothing,
        _ => Found::Garbage,
    })
}

fn u32_pair(bytes: [u8; 8]) -> (u32, u32) {
    let word = u64::from_le_bytes(bytes);
    (word as u32, (word >> 32) as u32)
}

/// Begin a session as the next front-end would.
fn is_alive(target: &Target, deadline: Duration) -> Result<(), String> {
    let mut device = Device::open(target, SHAPE).map_err(|error| format!("afterwards: {error}"))?;
    let answer = Client::new(&mut device, deadline).init();
    answer
        .map(|_| ())
        .map_err(|error| format!("afterwards: {error}"))
}

type Request = (String, Message, Expect);

/// Lengths in the header that are not the request's: `send` puts them in.
const WRONG_LENGTHS: [u32; 5] = [0, 39, 41, 1 << 20, u32::MAX];

/// List requests before INIT.
fn early() -> Vec<Request> {
    let others = samples::all().filter(|(opcode, message)| {
        !matches!(opcode, Opcode::INIT | Opcode::DESTROY) && message.room.is_some()
    });
    let all = others.map(|(opcode, message)| {
        (
            format!("{} before INIT", opcode.name()),
            message,
            Expect::Error(Errno::EIO),
        )
    });
    all.collect()
}

/// List requests of a session.
fn requests() -> Vec<Request> {
    use Expect::{Answer, Error, Nothing};
    let mut list: Vec<Request> = Vec::new();
    for (opcode, message) in samples::all() {
        if matches!(opcode, Opcode::INIT | Opcode::DESTROY) {
            continue;
        }
        let name = opcode.name();
        let answered = message.room.is_some();
        // An INTERRUPT of nothing is asked for again; one that is found has no answer of its own.
        let expect = match (opcode, answered) {
            (_, false) => Nothing,
            (Opcode::INTERRUPT, _) => Error(Errno::EAGAIN),
            _ => Answer,
        };
        let mut empty = message.clone();
        empty.body.clear();
        empty.extensions.clear();
        // What cannot be read is dropped where nobody waits, and refused elsewhere. SYNCFS's argument is padding.
        if !answered {
            list.push((format!("{name} without arguments"), empty, Nothing));
        } else if !message.body.is_empty() && !SETUP.contains(&opcode) && opcode != Opcode::SYNCFS {
            list.push((
                format!("{name} without arguments"),
                empty,
                Error(Errno::EINVAL),
            ));
        }
        if !SETUP.contains(&opcode) {
            list.push((name.to_string(), message, expect));
        }
    }
    for opcode in Opcode::ALL.iter().filter(|opcode| opcode.is_of_file()) {
        // Cut in the middle of its arguments: whatever is still there must not be taken for more.
        let mut cut = samples::sample(*opcode);
        cut.body.truncate(cut.body.len() / 2);
        cut.extensions.clear();
        list.push((
            format!("{} with half its arguments", opcode.name()),
            cut,
            Answer,
        ));
    }
    let unknown = Message::new(Opcode::GETATTR)
        .arg(&GetattrIn::default())
        .node(u64::MAX / 3)
        .room(size_of::<AttrOut>());
    list.push((
        "GETATTR of a node that never was".to_string(),
        unknown,
        Answer,
    ));
    for opcode in [0, 7, 19, 54, 4096, u32::MAX] {
        let message = Message::numbered(opcode);
        list.push((format!("operation {opcode}"), message, Error(Errno::ENOSYS)));
    }
    let lookup = || Message::new(Opcode::LOOKUP).room(size_of::<EntryOut>());
    for (name, bytes, error) in [
        ("a name without its end", b"name".to_vec(), Errno::EINVAL),
        ("an empty name", b"\0".to_vec(), Errno::EINVAL),
        ("a name with a slash", b"a/b\0".to_vec(), Errno::EINVAL),
        (
            "a name of 256 bytes",
            [vec![b'x'; 256], vec![0]].concat(),
            Errno::ENAMETOOLONG,
        ),
    ] {
        list.push((
            format!("LOOKUP of {name}"),
            lookup().data(&bytes),
            Error(error),
        ));
    }
    let read = ReadIn {
        size: 4096,
        ..ReadIn::default()
    };
    let message = Message::new(Opcode::READ).arg(&read).room(100);
    list.push((
        "READ of more than the room".to_string(),
        message,
        Error(Errno::EINVAL),
    ));
    let write = WriteIn {
        size: 4096,
        ..WriteIn::default()
    };
    let message = Message::new(Opcode::WRITE)
        .arg(&write)
        .data(&[0; 100])
        .room(8);
    list.push((
        "WRITE of more than was sent".to_string(),
        message,
        Error(Errno::EINVAL),
    ));
    let getattr = Message::new(Opcode::GETATTR)
        .arg(&GetattrIn::default())
        .no_reply();
    list.push((
        "GETATTR without room for an answer".to_string(),
        getattr,
        Nothing,
    ));
    list
}

/// Operations of a shared-memory window, which is not offered: known, and answered with `ENOSYS` or `EINVAL`.
const SETUP: [Opcode; 2] = [Opcode::SETUPMAPPING, Opcode::REMOVEMAPPING];

/// Send a request and look at what comes back.
fn send(
    device: &mut Device,
    mut bytes: Vec<u8>,
    room: Option<usize>,
    deadline: Duration,
) -> Result<Found, String> {
    let unique = 0x5a5a_0000_0000_0002;
    if let Some(place) = bytes.get_mut(8..16) {
        place.copy_from_slice(&u64::to_le_bytes(unique));
    }
    let room = room.map_or(0, |room| OUT_HEADER_LEN + room) as u32;
    device.memory.write(device.room, &bytes);
    device
        .memory
        .write(device.room + REPLY, &[0; OUT_HEADER_LEN]);
    let buffer = |offset: u64, len: u32, writable| Buffer {
        address: GUEST + device.room + offset,
        len,
        writable,
    };
    let mut chain = vec![buffer(0, bytes.len() as u32, false)];
    if room > 0 {
        chain.push(buffer(REPLY, room, true));
    }
    device.add(QUEUE, &chain).ok_or("the queue is full")?;
    device.publish(QUEUE);
    let limit = Instant::now() + deadline;
    let used = loop {
        if let Some(used) = device.reap(QUEUE) {
            break used;
        }
        if Instant::now() > limit {
            return Ok(Found::Silence);
        }
        device.idle();
    };
    if used.written == 0 {
        return Ok(Found::Nothing);
    }
    let mut header = [0; OUT_HEADER_LEN];
    device.memory.read(device.room + REPLY, &mut header);
    let header = OutHeader::read_from_bytes(&header).map_err(|error| error.to_string())?;
    let fits = (OUT_HEADER_LEN as u32..=used.written).contains(&header.len) && used.written <= room;
    if header.unique != unique || !fits || !(-4095..=0).contains(&header.error) {
        return Ok(Found::Garbage);
    }
    Ok(Found::Answer(header.error))
}
