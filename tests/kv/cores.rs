//! Two cores with requests under way at the same time, on the same few names, in any order.

use std::collections::VecDeque;
use std::time::Duration;

use dpfs::backend::kv::tree::TreeVolume;
use dpfs::sys::map;
use dpfs::wire::fuse::*;
use dpfs_harness::{Bed, Message, Setup, Ticket};

use crate::crash::fsck;
use crate::host::{Faults, Host, ROOT, core, store};

/// Numbers that look random, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

fn request(random: &mut Random, dirs: &[u64]) -> Message {
    let name = |random: &mut Random| format!("name-{}", random.below(6));
    let dir = dirs[random.below(dirs.len() as u64) as usize];
    let other = dirs[random.below(dirs.len() as u64) as usize];
    let first = name(random);
    match random.below(7) {
        0 | 1 => Message::new(Opcode::CREATE)
            .node(dir)
            .arg(&CreateIn {
                flags: 2,
                mode: 0o100_644,
                ..CreateIn::default()
            })
            .name(first)
            .room(144),
        2 => Message::new(Opcode::UNLINK).node(dir).name(first),
        3 => Message::new(Opcode::RMDIR).node(dir).name(first),
        4 => Message::new(Opcode::MKDIR)
            .node(dir)
            .arg(&MkdirIn {
                mode: 0o755,
                umask: 0,
            })
            .name(first)
            .room(128),
        _ => Message::new(Opcode::RENAME2)
            .node(dir)
            .arg(&Rename2In {
                newdir: other,
                flags: [0, 0, 1, 2][random.below(4) as usize],
                padding: 0,
            })
            .name(first)
            .name(name(random)),
    }
}

#[test]
fn names_stay_whole_whatever_two_cores_do_at_once() {
    for seed in 1..=20 {
        let store = store();
        let arena = map::reserve(TreeVolume::footprint(10_000)).unwrap();
        let volume = TreeVolume::new(&arena, 10_000, 7, Duration::ZERO, 4096, false).unwrap();
        let setup = Setup {
            volume,
            depth: 32,
            ..Setup::default()
        };
        let mut one = Bed::with(
            core(store.attach().unwrap(), volume, Faults::default()),
            setup,
        );
        one.init();
        let mut two = one.sibling(core(store.attach().unwrap(), volume, Faults::default()), 32);
        let mut random = Random(seed);
        let mut dirs = vec![ROOT];
        for name in ["left", "right"] {
            let message = Message::new(Opcode::MKDIR)
                .node(ROOT)
                .arg(&MkdirIn {
                    mode: 0o755,
                    umask: 0,
                })
                .name(name)
                .room(128);
            dirs.push(one.call(&message).value::<EntryOut>().nodeid);
        }
        let mut flying: VecDeque<(bool, Ticket)> = VecDeque::new();
        for _ in 0..2000 {
            let first = random.below(2) == 0;
            let message = request(&mut random, &dirs[1..]);
            let bed = if first { &mut one } else { &mut two };
            flying.push_back((first, bed.send(&message)));
            match random.below(3) {
                0 => drop(one.round()),
                1 => drop(two.round()),
                _ => {}
            }
            if flying.len() > 12 {
                let (first, ticket) = flying.pop_front().unwrap();
                loop {
                    one.round();
                    two.round();
                    let bed = if first { &mut one } else { &mut two };
                    if bed.answer(ticket).is_some() {
                        break;
                    }
                }
            }
        }
        while one.pending() + two.pending() > 0 {
            one.round();
            two.round();
        }
        assert_eq!(one.unanswered() + two.unanswered(), 0);
        let report = fsck(store, false);
        assert_eq!(report.damage, Vec::<String>::new(), "seed {seed}");
        // The host lets go of everything; nothing without a name stays.
        drop((one, two));
        let mut next = Host::on(store);
        let names = next.snapshot().len() as u64;
        let report = fsck(store, false);
        assert_eq!(report.orphans, 0);
        assert_eq!(report.inodes, names + 1, "seed {seed}");
    }
}
