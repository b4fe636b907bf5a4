//! The same path to the `kv` backend on the embedded engine, in memory: cached content, and names in a large directory.

use std::time::Instant as Clock;

use dpfs::backend::kv::embedded;
use dpfs::backend::kv::served::{Config, EmbeddedVolume};
use dpfs::virtq::driver::Buffer;
use dpfs::wire::fuse::{CreateIn, EntryOut, Opcode, ROOT_ID, ReadIn, WriteIn};
use zerocopy::{FromBytes, IntoBytes};

use super::{BUFFERS, Bench, DEPTH, PAGE, STRIDE, readable, writable};

/// Bytes of the file that is read and written.
const FILE: u64 = 64 << 20;
/// Names that are made, looked up and removed.
const NAMES: u64 = 100_000;

/// Give the arguments of a CREATE.
pub(super) fn create() -> CreateIn {
    CreateIn {
        flags: 2,
        mode: 0o100_644,
        ..CreateIn::default()
    }
}

impl Bench {
    /// Serve a batch until all of it is answered; gives the first bytes of the last reply's body.
    pub(super) fn serve(&mut self, chains: &[Vec<Buffer>]) {
        for chain in chains {
            self.driver
                .add(chain)
                .expect("the ring is larger than a batch");
        }
        self.driver.publish();
        let mut left = chains.len();
        while left > 0 {
            self.round();
            while let Some(used) = self.driver.reap() {
                assert!(used.written >= 16);
                left -= 1;
            }
        }
    }

    pub(super) fn named(
        &self,
        slot: u64,
        opcode: Opcode,
        args: &[u8],
        name: &str,
        room: u32,
    ) -> Vec<Buffer> {
        let place = BUFFERS + slot * STRIDE;
        let bytes = [args, name.as_bytes(), b"\0"].concat();
        let mut tail = [0; 64];
        tail[..bytes.len()].copy_from_slice(&bytes);
        let len = bytes.len() as u32;
        let mut chain = self.put(place, opcode, &tail, 0);
        chain[1].len = len;
        chain.extend([writable(place + 2048, 16), writable(place + 2064, room)]);
        if room == 0 {
            chain.pop();
        }
        self.fix_len(place, len);
        chain
    }

    /// The header's length is of what is sent, not of the room for it.
    fn fix_len(&self, place: u64, len: u32) {
        let bytes = (40 + len).to_le_bytes();
        // SAFETY: the header is in the bench's own memory.
        unsafe {
            self.base
                .add(place as usize)
                .copy_from_nonoverlapping(bytes.as_ptr(), 4);
        }
    }

    fn created(&self, slot: u64) -> EntryOut {
        let mut bytes = [0; size_of::<EntryOut>()];
        let at = (BUFFERS + slot * STRIDE + 2064) as usize;
        // SAFETY: the reply is in the bench's own memory.
        unsafe {
            bytes
                .as_mut_ptr()
                .copy_from_nonoverlapping(self.base.add(at), bytes.len());
        }
        EntryOut::read_from_bytes(&bytes).expect("as long as an entry")
    }

    /// Make a file, open it, and have it read and written from here on.
    pub(super) fn make_file(&mut self, name: &str) {
        self.node = ROOT_ID;
        let chain = self.named(0, Opcode::CREATE, create().as_bytes(), name, 144);
        self.serve(&[chain]);
        (self.node, self.fh) = (self.created(0).nodeid, self.opened(0));
    }

    /// Give the number of the file that a CREATE opened.
    fn opened(&self, slot: u64) -> u64 {
        self.replied(slot, size_of::<EntryOut>())
    }

    /// Give a number of the last reply's body.
    pub(super) fn replied(&self, slot: u64, at: usize) -> u64 {
        let mut bytes = [0; 8];
        let at = (BUFFERS + slot * STRIDE + 2064) as usize + at;
        // SAFETY: the reply is in the bench's own memory.
        unsafe {
            bytes
                .as_mut_ptr()
                .copy_from_nonoverlapping(self.base.add(at), bytes.len());
        }
        u64::from_le_bytes(bytes)
    }

    pub(super) fn content(&self, slot: u64, opcode: Opcode, offset: u64) -> Vec<Buffer> {
        let size = self.size as u32;
        let place = BUFFERS + slot * (PAGE + self.size);
        let (reply, page) = (place + 2048, place + PAGE);
        if opcode == Opcode::READ {
            let args = ReadIn {
                fh: self.fh,
                offset,
                size,
                ..ReadIn::default()
            };
            let mut chain = self.put(place, opcode, &args, 0);
            chain.extend([writable(reply, 16), writable(page, size)]);
            return chain;
        }
        let args = WriteIn {
            fh: self.fh,
            offset,
            size,
            ..WriteIn::default()
        };
        let mut chain = self.put(place, opcode, &args, size);
        chain.push(readable(page, size));
        chain.extend([writable(reply, 16), writable(reply + 16, 8)]);
        chain
    }
}

/// Measure with stores of different chunks; the file is read and written at places that look random.
pub fn run(batches: u32) {
    for chunk in [4 << 10, 16 << 10, 64 << 10] {
        let config = Config {
            store: embedded::Config {
                path: None,
                chunk,
                cache: 1 << 30,
            },
            nodes: 1 << 20,
            read_only: false,
        };
        let volume: &'static EmbeddedVolume =
            Box::leak(Box::new(EmbeddedVolume::open(&config).unwrap()));
        let tree = volume.attach(256).unwrap();
        let mut bench = Bench::new(volume, Box::leak(Box::new(tree)), false);
        bench.mount();
        bench.make_file("file");
        let kib = chunk >> 10;
        let rate = |what: &str, count: u64, start: Clock| {
            let rate = count as f64 / start.elapsed().as_secs_f64() / 1e3;
            println!("kv, {kib} KiB chunks: {what}: {count} requests, {rate:.0} thousand/s");
        };
        let start = Clock::now();
        for at in (0..FILE).step_by(PAGE as usize * DEPTH) {
            let chains: Vec<_> = (0..DEPTH as u64)
                .map(|slot| bench.content(slot, Opcode::WRITE, at + slot * PAGE))
                .collect();
            bench.serve(&chains);
        }
        rate("WRITE 4 KiB in order", FILE / PAGE, start);
        for (opcode, batches) in [(Opcode::READ, batches), (Opcode::WRITE, batches / 20)] {
            let start = Clock::now();
            let mut place = 1u64;
            for _ in 0..batches {
                let chains: Vec<_> = (0..DEPTH as u64)
                    .map(|slot| {
                        place = place
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1);
                        bench.content(slot, opcode, (place >> 33) % (FILE / PAGE) * PAGE)
                    })
                    .collect();
                bench.serve(&chains);
            }
            let what = format!("{} 4 KiB at random", opcode.name());
            rate(&what, u64::from(batches) * DEPTH as u64, start);
        }
        bench.node = ROOT_ID;
        for (opcode, args, room) in [
            (Opcode::CREATE, create().as_bytes(), 144),
            (Opcode::LOOKUP, &[][..], 128),
            (Opcode::UNLINK, &[], 0),
        ] {
            let start = Clock::now();
            for first in (0..NAMES).step_by(DEPTH) {
                let chains: Vec<_> = (0..DEPTH as u64)
                    .map(|slot| {
                        bench.named(slot, opcode, args, &format!("name-{}", first + slot), room)
                    })
                    .collect();
                bench.serve(&chains);
            }
            let what = format!("{} in one directory", opcode.name());
            rate(&what, NAMES, start);
        }
    }
}
