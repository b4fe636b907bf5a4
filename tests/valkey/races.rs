//! Requests of two daemons for one file whose content spreads, at once; and a daemon that dies in the middle of one.

use dpfs::backend::kv::fsck;
use dpfs::backend::kv::valkey::server::{Config, Place};
use dpfs::wire::fuse::{FallocateIn, Opcode, SetattrIn, SetattrValid, WriteIn};
use dpfs_harness::Message;

use crate::engine::{attach_to, config};
use crate::host::{Host, O_APPEND, ROOT};
use crate::proxy::Proxy;
use crate::server::{KINDS, Reply, Server};
use crate::spread::content;
use crate::tree::settle;

const MIB: u64 = 1 << 20;

fn spread(place: &Place) -> Config<'_> {
    Config {
        spread: Some(true),
        ..config(place, "v")
    }
}

/// What a daemon is asked for.
#[derive(Clone, Copy, Debug)]
enum Act {
    Write(u64, u64, u8),
    Append(u64, u8),
    Truncate(u64),
    Punch(u64, u64),
}

impl Act {
    fn message(self, file: u64) -> Message {
        let write = |offset, len, byte, flags| {
            let args = WriteIn {
                offset,
                size: len as u32,
                flags,
                ..Default::default()
            };
            let data = vec![byte; len as usize];
            Message::new(Opcode::WRITE)
                .node(file)
                .arg(&args)
                .data(&data)
                .room(8)
        };
        match self {
            Self::Write(offset, len, byte) => write(offset, len, byte, 1),
            Self::Append(len, byte) => write(0, len, byte, 1 | O_APPEND),
            Self::Truncate(size) => {
                let args = SetattrIn {
                    valid: SetattrValid::SIZE.bits(),
                    size,
                    ..SetattrIn::default()
                };
                Message::new(Opcode::SETATTR)
                    .node(file)
                    .arg(&args)
                    .room(104)
            }
            Self::Punch(offset, length) => {
                let args = FallocateIn {
                    offset,
                    length,
                    mode: 3,
                    ..Default::default()
                };
                Message::new(Opcode::FALLOCATE).node(file).arg(&args)
            }
        }
    }

    fn apply(self, model: &mut Vec<u8>) {
        match self {
            Self::Write(offset, len, byte) => {
                let (from, end) = (offset as usize, (offset + len) as usize);
                model.resize(model.len().max(end), 0);
                model[from..end].fill(byte);
            }
            Self::Append(len, byte) => model.resize(model.len() + len as usize, byte),
            Self::Truncate(size) => model.resize(size as usize, 0),
            Self::Punch(offset, length) => {
                let end = model.len().min((offset + length) as usize);
                let from = end.min(offset as usize);
                model[from..end].fill(0);
            }
        }
    }
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % most
    }

    /// A byte around a border of groups, or anywhere.
    fn place(&mut self) -> u64 {
        match self.below(3) {
            0 => self.below(4 * MIB),
            _ => (1 + self.below(3)) * MIB - 6000 + self.below(12_000),
        }
    }

    fn act(&mut self, byte: u8) -> Act {
        match self.below(9) {
            0..3 => Act::Write(self.place(), 1 + self.below(20_000), byte),
            3 | 4 => Act::Append(1 + self.below(20_000), byte),
            5..8 => Act::Truncate(self.place()),
            _ => Act::Punch(self.place(), 1 + self.below(2 * MIB)),
        }
    }
}

/// Tell whether two at once are to be as one order makes them, with a file of `size` bytes.
///
/// A punch is no single step beside a change of the size, as it looks at that first. Of two writes to the same bytes each
/// group has those of either: two plain ones, or one behind the end where another appends.
fn ordered(acts: [Act; 2], size: u64) -> bool {
    let punches = acts.iter().any(|act| matches!(act, Act::Punch(..)));
    let plain = |act: &Act| matches!(act, Act::Write(..));
    let overlap = match acts {
        [Act::Write(offset, len, _), Act::Append(..)]
        | [Act::Append(..), Act::Write(offset, len, _)] => offset + len > size,
        _ => acts.iter().all(plain),
    };
    !punches && !overlap
}

#[test]
fn a_file_that_two_daemons_change_at_once_is_as_one_order_makes_it() {
    let server = Server::start(KINDS[0], &[]);
    let place = server.place();
    let mut hosts = [0, 1].map(|_| Host::over(attach_to(&spread(&place))));
    let file = hosts[0].create(ROOT, "file").unwrap().nodeid;
    let there = hosts[1].lookup(ROOT, "file").unwrap().nodeid;
    let mut random = Random(11);
    let mut model = Vec::new();
    let (mut races, mut seconds) = (0, 0);
    while races < 400 {
        let acts = [1, 2].map(|who| random.act(who + 2 * (races % 100) as u8));
        if !ordered(acts, model.len() as u64) {
            continue;
        }
        races += 1;
        let tickets = [
            hosts[0].bed.send(&acts[0].message(file)),
            hosts[1].bed.send(&acts[1].message(there)),
        ];
        let mut answers = [None, None];
        let (first, late) = (random.below(2) as usize, random.below(40));
        for round in 0.. {
            for who in 0..2 {
                // One of them begins later.
                if answers[who].is_none() && (who == first || round >= late) {
                    hosts[who].bed.round();
                    answers[who] = hosts[who].bed.answer(tickets[who]);
                }
            }
            if answers.iter().all(Option::is_some) {
                break;
            }
        }
        for answer in answers.iter().flatten() {
            assert_eq!(answer.error(), None, "{acts:?}");
        }
        let found = content(&mut hosts[races % 2], [file, there][races % 2]);
        let orders = [[0, 1], [1, 0]].map(|order| {
            let mut made = model.clone();
            order.iter().for_each(|&which| acts[which].apply(&mut made));
            made
        });
        let order = orders.iter().position(|made| *made == found);
        assert!(order.is_some(), "{races}: {acts:?} of {}", model.len());
        seconds += usize::from(order == Some(1));
        model = found;
    }
    assert!((20..380).contains(&seconds), "{seconds} of {races}");
}

#[test]
fn a_daemon_that_dies_in_the_middle_of_a_request_leaves_no_bytes_where_none_belong() {
    let server = Server::start(KINDS[0], &[]);
    let place = server.place();
    let size = 3 * MIB + 5000;
    let acts = [
        Act::Write(MIB - 3000, 6000, 9),
        Act::Write(2 * MIB - 3000, 6000, 9),
        Act::Write(size - 1000, MIB, 9),
        Act::Append(MIB, 9),
        Act::Truncate(MIB + 77),
        Act::Truncate(100),
        Act::Punch(MIB - 50, MIB + 5000),
    ];
    let (mut deaths, mut middle) = (0, 0);
    for act in acts {
        // So many pieces of what the daemon says get through.
        for pieces in 0.. {
            let proxy = Proxy::new(&place);
            let mut host = Host::over(attach_to(&spread(proxy.place())));
            let file = host.create(ROOT, "file").unwrap().nodeid;
            for from in (0..size).step_by(MIB as usize) {
                let len = MIB.min(size - from) as usize;
                host.write(file, from, &vec![1; len], (0, 0)).unwrap();
            }
            settle(&mut host);
            proxy.lose_after(pieces);
            let ticket = host.bed.send(&act.message(file));
            let mut answered = false;
            for _ in 0..60 {
                host.bed.round();
                answered |= host.bed.answer(ticket).is_some();
                if answered {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_micros(500));
            }
            // Its replies still lend memory.
            std::mem::forget(host);
            let mut next = Host::over(attach_to(&spread(&place)));
            let file = next.lookup(ROOT, "file").unwrap().nodeid;
            let (before, mut after) = (vec![1; size as usize], vec![1; size as usize]);
            act.apply(&mut after);
            let found = content(&mut next, file);
            let of_writes = matches!(act, Act::Append(..));
            for (at, &byte) in found.iter().enumerate() {
                let good = Some(&byte) == before.get(at)
                    || Some(&byte) == after.get(at)
                    || (of_writes && byte == 0 && at >= before.len());
                assert!(good, "{act:?}, {pieces}: {byte} at {at}");
            }
            let sizes = [before.len(), after.len()];
            assert!(sizes.contains(&found.len()), "{act:?}: {}", found.len());
            middle += usize::from(found != before && found != after);
            // What is behind the end is zeros when the file grows, whatever was left there; or what the dead one wrote.
            next.truncate(file, 8 * MIB).unwrap();
            let grown = content(&mut next, file);
            assert_eq!(grown[..found.len()], found);
            for (at, &byte) in grown.iter().enumerate().skip(found.len()) {
                let wrote = after.len() > before.len() && after.get(at) == Some(&byte);
                assert!(byte == 0 || wrote, "{act:?}, {pieces}: {byte} at {at}");
            }
            next.unlink(ROOT, "file").unwrap();
            next.forget(file);
            settle(&mut next);
            let report = fsck::check(&mut attach_to(&spread(&place)), false, &mut |_, _| ());
            let report = report.unwrap();
            assert_eq!((report.damage, report.orphans), (Vec::new(), 0), "{act:?}");
            let left = server.connect().ask(&[b"KEYS", b"{v.*}????"]);
            assert_eq!(left, Reply::Elements(Vec::new()), "{act:?}");
            if answered {
                assert_eq!(found, after, "{act:?}");
                deaths += pieces;
                break;
            }
        }
    }
    assert!(deaths > 20 && middle > 0, "{deaths}, {middle}");
}
