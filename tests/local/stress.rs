//! Two cores of one device at once, with requests that race, contradict each other and come too late.

use std::collections::VecDeque;

use dpfs::backend::local::{Config, Local, LocalVolume};
use dpfs::fuse::Volume;
use dpfs::sys::time::Instant;
use dpfs::wire::fuse::*;
use dpfs_harness::{Bed, Message, Setup, Ticket};

use crate::host::ROOT;

const DEPTH: u16 = 16;

/// Give the next of a series of numbers that looks random and is the same each time.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Remember some numbers that the device gave.
struct Known(VecDeque<u64>);

impl Known {
    fn add(&mut self, number: u64) {
        self.0.push_back(number);
        if self.0.len() > 40 {
            self.0.pop_front();
        }
    }

    /// Give one of them, or sometimes nonsense.
    fn pick(&self, random: u64) -> u64 {
        match random % 16 {
            0 => random,
            1..=6 => ROOT,
            _ if self.0.is_empty() => ROOT,
            _ => self.0[(random >> 8) as usize % self.0.len()],
        }
    }
}

fn request(r: u64, nodes: &Known, files: &Known, state: &mut u64) -> Message {
    let mut pick = |known: &Known| known.pick(next(state));
    let (node, other, fh, fh2) = (pick(nodes), pick(nodes), pick(files), pick(files));
    let name = format!("n{}", (r >> 20) % 12);
    let to = format!("n{}", (r >> 24) % 12);
    let offset = (r >> 28) % 20_000;
    let message = |opcode, node| Message::new(opcode).node(node).caller((r % 3) as u32, 0, 1);
    let create = CreateIn {
        flags: [0, 1, 2, 0o1002, 0o40002][r as usize % 5],
        mode: 0o100_666,
        ..CreateIn::default()
    };
    let read = ReadIn {
        fh,
        offset,
        size: 4096,
        ..ReadIn::default()
    };
    match (r >> 8) % 30 {
        0..=3 => message(Opcode::LOOKUP, node).name(name).room(128),
        4 | 5 => message(Opcode::CREATE, node)
            .arg(&create)
            .name(name)
            .room(144),
        6 => message(Opcode::MKDIR, node)
            .arg(&MkdirIn {
                mode: 0o777,
                umask: 0,
            })
            .name(name)
            .room(128),
        7 => message(Opcode::UNLINK, node).name(name),
        8 => message(Opcode::RMDIR, node).name(name),
        9 => {
            let args = Rename2In {
                newdir: other,
                flags: r as u32 % 4,
                padding: 0,
            };
            message(Opcode::RENAME2, node)
                .arg(&args)
                .name(name)
                .name(to)
        }
        10 => message(Opcode::LINK, node)
            .arg(&LinkIn { oldnodeid: other })
            .name(name)
            .room(128),
        11 => message(Opcode::SYMLINK, node)
            .name(name)
            .name("/")
            .room(128),
        12 | 13 => {
            let args = OpenIn {
                flags: create.flags & 0o1003,
                open_flags: r as u32 % 2,
            };
            message(Opcode::OPEN, node).arg(&args).room(16)
        }
        14 => message(Opcode::OPENDIR, node)
            .arg(&OpenIn::default())
            .room(16),
        15 | 16 => message(Opcode::READ, node).arg(&read).room(4096),
        17 | 18 => {
            let args = WriteIn {
                fh,
                offset,
                size: 1000,
                write_flags: r as u32 % 8,
                ..WriteIn::default()
            };
            message(Opcode::WRITE, node)
                .arg(&args)
                .data(&[1; 1000])
                .room(8)
        }
        19 => message(Opcode::READDIRPLUS, node)
            .arg(&ReadIn { offset: 0, ..read })
            .room(4096),
        20 => message(Opcode::READDIR, node).arg(&read).room(4096),
        21 | 22 => message(Opcode::RELEASE, node).arg(&ReleaseIn {
            fh,
            ..ReleaseIn::default()
        }),
        23 => message(Opcode::GETATTR, node)
            .arg(&GetattrIn::default())
            .room(104),
        24 => {
            let args = SetattrIn {
                valid: (r >> 32) as u32 & 0x8ff,
                size: offset,
                mode: 0o777,
                fh,
                ..SetattrIn::default()
            };
            message(Opcode::SETATTR, node).arg(&args).room(104)
        }
        25 => {
            let lk = FileLock {
                start: offset % 10,
                end: 10,
                kind: r as u32 % 3,
                pid: 1,
            };
            let args = LkIn {
                fh,
                owner: r % 4,
                lk,
                lk_flags: r as u32 % 2,
                padding: 0,
            };
            message(Opcode::SETLK, node).arg(&args)
        }
        26 => message(Opcode::FLUSH, node).arg(&FlushIn {
            fh,
            lock_owner: r % 4,
            ..FlushIn::default()
        }),
        27 => {
            let args = CopyFileRangeIn {
                fh_in: fh,
                fh_out: fh2,
                nodeid_out: other,
                off_out: offset,
                len: 5000,
                ..CopyFileRangeIn::default()
            };
            message(Opcode::COPY_FILE_RANGE, node).arg(&args).room(8)
        }
        28 => message(Opcode::FSYNC, node).arg(&FsyncIn {
            fh,
            ..FsyncIn::default()
        }),
        _ => message(Opcode::FORGET, node)
            .arg(&ForgetIn { nlookup: r % 3 })
            .no_reply(),
    }
}

struct Core {
    bed: Bed<Local>,
    flying: Vec<(Ticket, u32)>,
}

impl Core {
    /// Look at what ended and learn the numbers in it.
    fn collect(&mut self, nodes: &mut Known, files: &mut Known, succeeded: &mut u32) {
        let bed = &mut self.bed;
        self.flying.retain(|&(ticket, opcode)| {
            let Some(answer) = bed.answer(ticket) else {
                return true;
            };
            if answer.bytes.is_empty() || answer.error().is_some() {
                return false;
            }
            *succeeded += 1;
            match Opcode::new(opcode) {
                Some(Opcode::LOOKUP | Opcode::MKDIR | Opcode::LINK | Opcode::SYMLINK) => {
                    nodes.add(answer.value::<EntryOut>().nodeid);
                }
                Some(Opcode::CREATE) => {
                    nodes.add(answer.value::<EntryOut>().nodeid);
                    let fh: [u8; 8] = answer.body()[128..136].try_into().unwrap();
                    files.add(u64::from_le_bytes(fh));
                }
                Some(Opcode::OPEN | Opcode::OPENDIR) => files.add(answer.value::<OpenOut>().fh),
                _ => {}
            }
            false
        });
    }
}

fn run(handles: bool, mut state: u64) {
    let dir = tempfile::TempDir::new().unwrap();
    let mut config = Config::new(dir.path());
    (config.handles, config.workers) = (handles, 3);
    (config.nodes, config.open_files, config.descriptors) = (64, 24, 8);
    let volume = LocalVolume::open(config).unwrap();
    let setup = Setup {
        volume,
        depth: DEPTH,
        ..Setup::default()
    };
    let first = Bed::with(volume.attach(DEPTH.into()).unwrap(), setup);
    let second = first.sibling(volume.attach(DEPTH.into()).unwrap(), DEPTH);
    let mut cores = [first, second].map(|bed| Core {
        bed,
        flying: Vec::new(),
    });
    cores[0].bed.init();
    let mut succeeded = 0;
    let (mut nodes, mut files) = (Known(VecDeque::new()), Known(VecDeque::new()));
    let until = Instant::now().after(3_000_000_000);
    let mut requests = 0;
    while requests < 20_000 && Instant::now() < until {
        let r = next(&mut state);
        let core = &mut cores[(r & 1) as usize];
        if core.flying.len() < DEPTH.into() {
            let message = request(r, &nodes, &files, &mut state);
            let opcode = message.header.opcode;
            core.flying.push((core.bed.send(&message), opcode));
            requests += 1;
        }
        if next(&mut state).is_multiple_of(4) {
            core.bed.round();
        }
        core.collect(&mut nodes, &mut files, &mut succeeded);
        if next(&mut state).is_multiple_of(2000) {
            // The host reboots in the middle of it.
            cores[0].bed.session().reset();
            while cores.iter().any(|core| core.flying.len() >= DEPTH.into()) {
                for core in &mut cores {
                    core.bed.round();
                    core.collect(&mut nodes, &mut files, &mut succeeded);
                }
            }
            cores[0].bed.init();
            // Most of what is known is void now; some of it is tried all the same.
            nodes.0.truncate(2);
            files.0.truncate(2);
        }
    }
    while cores.iter().any(|core| core.bed.pending() > 0) {
        for core in &mut cores {
            core.bed.round();
            core.collect(&mut nodes, &mut files, &mut succeeded);
        }
    }
    let names = std::fs::read_dir(dir.path()).unwrap().count();
    assert!(
        succeeded > requests / 10 && names > 0,
        "{succeeded} of {requests} requests, {names} names"
    );
    volume.reset(u32::MAX / 2);
    assert_eq!((volume.nodes(), volume.open_files()), (1, 0));
    assert_eq!(volume.node_descriptors(), 0);
}

#[test]
fn racing_requests_are_all_answered_and_leave_nothing() {
    run(true, 0x1234_5678);
}

#[test]
fn so_they_do_without_handles() {
    run(false, 0x8765_4321);
}
