//! One directory that grows: what it costs to make, look up, list and remove names when there are few and many.

use std::time::Instant as Clock;

use dpfs::backend::kv::embedded;
use dpfs::backend::kv::served::{ALWAYS, Config, EmbeddedVolume, Served};
use dpfs::backend::kv::valkey::server::{Config as Volume, Server as Store};
use dpfs::wire::fuse::{Opcode, ROOT_ID, ReadIn};
use zerocopy::IntoBytes;

use super::kv::create;
use super::server::Server;
use super::{BUFFERS, Bench, PAGE, writable};

/// Names that there are after each step.
const STEPS: [u64; 3] = [10_000, 100_000, 1_000_000];
/// Names that are looked up and removed at each step.
const SOME: u64 = 10_000;
const DEPTH: usize = 32;

impl Bench {
    /// Ask for what stands behind `offset` in the directory; gives where to go on, and how many entries came.
    fn list(&mut self, offset: u64) -> (u64, u64) {
        let args = ReadIn {
            offset,
            size: PAGE as u32,
            ..ReadIn::default()
        };
        let place = BUFFERS;
        let mut chain = self.put(place, Opcode::READDIR, &args, 0);
        chain.extend([
            writable(place + 2048, 16),
            writable(place + PAGE, PAGE as u32),
        ]);
        self.serve(&[chain]);
        let field = |at: u64, bytes: &mut [u8]| {
            // SAFETY: the reply is in the bench's own memory, and nobody else touches it now.
            unsafe {
                let from = self.base.add((place + at) as usize);
                from.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len());
            }
        };
        let mut len = [0; 4];
        field(2048, &mut len);
        let end = PAGE + u64::from(u32::from_le_bytes(len)) - 16;
        let (mut at, mut next, mut count) = (PAGE, offset, 0);
        while at < end {
            let (mut after, mut name) = ([0; 8], [0; 4]);
            field(at + 8, &mut after);
            field(at + 16, &mut name);
            next = u64::from_le_bytes(after);
            at += (24 + u64::from(u32::from_le_bytes(name))).next_multiple_of(8);
            count += 1;
        }
        (next, count)
    }

    /// Do the same to so many names from `first` on; gives microseconds for each.
    fn each(&mut self, opcode: Opcode, numbers: std::ops::Range<u64>) -> f64 {
        let (args, room) = match opcode {
            Opcode::CREATE => (create().as_bytes().to_vec(), 144),
            Opcode::LOOKUP => (Vec::new(), 128),
            _ => (Vec::new(), 0),
        };
        let (start, count) = (Clock::now(), numbers.end - numbers.start);
        let mut numbers = numbers;
        self.keep(DEPTH, |bench, slot| {
            let name = format!("name-{}", numbers.next()?);
            Some(bench.named(slot, opcode, &args, &name, room))
        });
        start.elapsed().as_secs_f64() * 1e6 / count as f64
    }
}

fn grow(who: &str, bench: &mut Bench) {
    bench.mount();
    bench.node = ROOT_ID;
    let mut there = 0;
    for step in STEPS {
        bench.each(Opcode::CREATE, there..step - SOME);
        let made = bench.each(Opcode::CREATE, step - SOME..step);
        let found = bench.each(Opcode::LOOKUP, step / 2..step / 2 + SOME);
        let start = Clock::now();
        let (mut offset, mut listed) = (0, 0);
        loop {
            let (next, count) = bench.list(offset);
            if count == 0 {
                break;
            }
            (offset, listed) = (next, listed + count);
        }
        assert_eq!(listed, step + 2, "all, and \".\" and \"..\"");
        let entry = start.elapsed().as_secs_f64() * 1e6 / listed as f64;
        let removed = bench.each(Opcode::UNLINK, step - SOME..step);
        there = step - SOME;
        println!(
            "{who}, {step} names: us for each: CREATE {made:.1}, LOOKUP {found:.1}, \
             READDIR {entry:.2} (4 KiB at a time), UNLINK {removed:.1}"
        );
    }
}

/// Measure on both engines.
pub fn run() {
    let nodes = 1 << 20 | 1 << 18;
    let config = Config {
        store: embedded::Config {
            path: None,
            chunk: 64 << 10,
            cache: 1 << 30,
        },
        nodes,
        read_only: false,
    };
    let volume: &'static EmbeddedVolume =
        Box::leak(Box::new(EmbeddedVolume::open(&config).unwrap()));
    let tree = volume.attach(256).unwrap();
    grow(
        "embedded",
        &mut Bench::new(volume, Box::leak(Box::new(tree)), false),
    );
    let server = Server::start("valkey", &[]);
    let volume = Store::open(&Volume {
        places: &[server.place()],
        user: None,
        password_file: None,
        volume: "v",
        chunk: 64 << 10,
        timeout: 60_000_000_000,
        durability: None,
        tls: None,
        spread: None,
    });
    let served = Served::new(volume.unwrap(), nodes, ALWAYS, false).unwrap();
    let served: &'static Served<Store> = Box::leak(Box::new(served));
    let tree = served.attach(256).unwrap();
    grow(
        "valkey, tcp",
        &mut Bench::new(served, Box::leak(Box::new(tree)), false),
    );
}
