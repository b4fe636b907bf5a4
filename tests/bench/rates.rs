//! Requests kept under way at a server, and what is said of them.

use std::time::{Duration, Instant as Clock};

use dpfs::virtq::driver::Buffer;
use dpfs::wire::fuse::Opcode;

use super::{Bench, PAGE};

/// Bytes of the file.
pub const FILE: u64 = 64 << 20;
/// Time of each measurement.
pub const TIME: Duration = Duration::from_secs(3);

/// Say which places of a file are asked for, one after another: those that look random (xorshift64), or in order.
#[derive(Clone, Copy)]
pub struct Places {
    pub ordered: bool,
    /// Bytes of a request, and of the file.
    pub size: u64,
    pub file: u64,
    state: u64,
}

impl Places {
    /// Random pages of [`FILE`], always in the same way.
    pub const RANDOM: Self = Self {
        ordered: false,
        size: PAGE,
        file: FILE,
        state: 88_172_645_463_325_252,
    };

    /// A file of this size from begin to end, and again.
    pub const fn in_order(size: u64, file: u64) -> Self {
        Self {
            ordered: true,
            size,
            file,
            state: 0,
        }
    }

    pub fn next_place(&mut self) -> u64 {
        if self.ordered {
            self.state += 1;
        } else {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
        }
        self.state % (self.file / self.size) * self.size
    }
}

/// Say what was measured from when on.
pub struct Run<'a> {
    server: &'a str,
    /// Give the seconds that the server has worked.
    work: &'a mut dyn FnMut() -> f64,
    who: &'a str,
    pub depth: usize,
    pub places: Places,
    start: Clock,
    /// Seconds that the server had worked by then.
    worked: f64,
}

impl<'a> Run<'a> {
    pub fn start(
        server: &'a str,
        work: &'a mut dyn FnMut() -> f64,
        who: &'a str,
        depth: usize,
    ) -> Self {
        let worked = work();
        Self {
            server,
            work,
            who,
            depth,
            places: Places::RANDOM,
            start: Clock::now(),
            worked,
        }
    }

    /// Ask for other places than random pages.
    #[must_use]
    pub fn at(self, places: Places) -> Self {
        Self { places, ..self }
    }

    pub fn goes_on(&self) -> bool {
        self.start.elapsed() < TIME
    }

    /// Print what was measured with content.
    pub fn report_content(self, read: bool, latencies: Vec<f32>) {
        let (kind, size) = (if read { "READ" } else { "WRITE" }, self.places.size >> 10);
        self.report(&format!("{kind} {size} KiB"), latencies);
    }

    /// Print a rate, the latencies behind it, and what the server did for each.
    pub fn report(self, what: &str, mut latencies: Vec<f32>) {
        let rate = latencies.len() as f64 / self.start.elapsed().as_secs_f64() / 1e3;
        let work = ((self.work)() - self.worked) * 1e6 / latencies.len() as f64;
        latencies.sort_by(f32::total_cmp);
        let at = |part: usize| {
            let at = latencies.len() * part / 100;
            latencies.get(at).copied().unwrap_or(0.0)
        };
        let (server, who, depth) = (self.server, self.who, self.depth);
        println!(
            "{server}, {who}: {what}, depth {depth}: {rate:.1} thousand/s, p50 {:.1} us, p99 {:.1} us, server {work:.1} us",
            at(50),
            at(99)
        );
    }
}

impl Bench {
    /// Keep `depth` requests under way, each made by `next` for its slot, until that gives no more.
    pub fn keep(
        &mut self,
        depth: usize,
        mut next: impl FnMut(&mut Self, u64) -> Option<Vec<Buffer>>,
    ) -> Vec<f32> {
        let mut heads = vec![None; 1 << 16];
        let mut free: Vec<u64> = (0..depth as u64).collect();
        let mut latencies = Vec::with_capacity(1 << 20);
        let mut under_way = 0;
        loop {
            let mut added = false;
            while let Some(slot) = free.pop() {
                let Some(chain) = next(self, slot) else {
                    break;
                };
                let head = self.driver.add(&chain).expect("the ring is large enough");
                heads[usize::from(head)] = Some((slot, Clock::now()));
                (added, under_way) = (true, under_way + 1);
            }
            if under_way == 0 {
                return latencies;
            }
            if added {
                self.driver.publish();
            }
            self.round();
            while let Some(used) = self.driver.reap() {
                assert!(used.written >= 16);
                let (slot, since) = heads[usize::from(used.head)].take().expect("its own");
                latencies.push(since.elapsed().as_secs_f32() * 1e6);
                free.push(slot);
                under_way -= 1;
            }
        }
    }

    pub fn timed(&mut self, run: Run<'_>, opcode: Opcode) {
        let mut places = run.places;
        self.size = places.size;
        let latencies = self.keep(run.depth, |bench, slot| {
            run.goes_on()
                .then(|| bench.content(slot, opcode, places.next_place()))
        });
        run.report_content(opcode == Opcode::READ, latencies);
    }
}
