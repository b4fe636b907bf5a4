//! Where the time of one request goes: a queue and a file system that note the cycle counter as they are passed.
//!
//! ```text
//! poll ....... take ......> | decode > | backend > | reply > | ... | publish: complete, and a share of flush
//! ```
//!
//! A request takes less time than the processor looks ahead, so a note waits until everything before it is done; else
//! it would count whatever happened to be under way. The stages are therefore what each takes by itself, and their sum
//! is more than what a request takes on the way without notes, where they overlap. What two notes in a row cost is
//! measured and taken off.

use std::cell::Cell;

use dpfs::fuse::{Data, Fh, FileSystem, NodeId, Reply, Request, Written};
use dpfs::hal::{Queue, Traits};
use dpfs::mem::{SegmentList, Token};
use dpfs::sys::time::cycle_rate;
use dpfs::wire::fuse::WriteFlags;
use dpfs::wire::open_flags::OpenFlags;

/// Name the parts of the way.
#[derive(Clone, Copy)]
enum Stage {
    Take,
    Decode,
    Backend,
    Reply,
    Publish,
}

const NAMES: [&str; 5] = ["take", "decode", "backend", "reply", "publish"];

#[derive(Default)]
struct Notes {
    spent: [Cell<u64>; NAMES.len()],
    count: [Cell<u64>; NAMES.len()],
    last: Cell<u64>,
}

/// Read the cycle counter once all that came before is done, and before anything that follows begins.
fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86_64 processor has both instructions.
    unsafe {
        use core::arch::x86_64::{_mm_lfence, _rdtsc};
        _mm_lfence();
        let count = _rdtsc();
        _mm_lfence();
        count
    }
    #[cfg(target_arch = "aarch64")]
    {
        let count: u64;
        // SAFETY: Linux lets user space read the virtual counter; barriers change nothing.
        unsafe { core::arch::asm!("dsb sy", "isb", "mrs {}, cntvct_el0", "isb", out(reg) count) };
        count
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    dpfs::sys::time::cycles()
}

thread_local! {
    static NOTES: Notes = Notes::default();
}

fn begin() {
    NOTES.with(|notes| notes.last.set(cycles()));
}

/// End a stage where the next one begins.
fn end(stage: Stage) {
    NOTES.with(|notes| {
        let now = cycles();
        let spent = &notes.spent[stage as usize];
        spent.set(spent.get() + now.wrapping_sub(notes.last.get()));
        let count = &notes.count[stage as usize];
        count.set(count.get() + 1);
        notes.last.set(cycles());
    });
}

/// Measure what noting costs, in cycles.
fn overhead() -> f64 {
    const ROUNDS: u32 = 100_000;
    forget();
    begin();
    for _ in 0..ROUNDS {
        end(Stage::Take);
    }
    let spent = NOTES.with(|notes| notes.spent[0].get());
    forget();
    spent as f64 / f64::from(ROUNDS)
}

/// Forget all notes.
pub fn forget() {
    NOTES.with(|notes| {
        for cell in notes.spent.iter().chain(&notes.count) {
            cell.set(0);
        }
    });
}

/// Print what the requests since [`forget`] spent where, of which there were `requests`.
pub fn print(name: &str, requests: u64) {
    let totals = NOTES.with(|notes| {
        core::array::from_fn::<_, 5, _>(|at| (notes.spent[at].get(), notes.count[at].get()))
    });
    let (noting, rate) = (overhead(), cycle_rate(20_000_000) as f64);
    let mut line = format!("{name:5} ns a request:");
    for (stage, (spent, count)) in NAMES.iter().zip(totals) {
        let cycles = (spent as f64 - count as f64 * noting).max(0.0) / requests as f64;
        line += &format!("  {stage} {:.1}", cycles / rate * 1e9);
    }
    println!("{line}");
}

/// Pass a queue on, and note when.
pub struct TimedQueue<Q>(pub Q);

impl<Q: Queue> Queue for TimedQueue<Q> {
    fn traits(&self) -> Traits {
        self.0.traits()
    }

    fn poll(&mut self, into: &mut SegmentList) -> Option<Token> {
        begin();
        let token = self.0.poll(into);
        if token.is_some() {
            end(Stage::Take);
        }
        token
    }

    fn complete(&mut self, token: Token, written: u32) {
        begin();
        self.0.complete(token, written);
        end(Stage::Publish);
    }

    fn flush(&mut self) {
        begin();
        self.0.flush();
        end(Stage::Publish);
    }

    fn arm(&mut self) -> bool {
        self.0.arm()
    }

    fn disarm(&mut self) {
        self.0.disarm();
    }

    fn wait_fd(&self) -> Option<i32> {
        self.0.wait_fd()
    }
}

/// Answer as `null` does, and note when.
pub struct TimedNull;

impl FileSystem for TimedNull {
    fn read(&mut self, _: &Request, _: NodeId, _: Fh, _: u64, _: OpenFlags, reply: Reply<Data>) {
        end(Stage::Decode);
        let len = reply.wanted();
        end(Stage::Backend);
        reply.filled(len);
        end(Stage::Reply);
    }

    fn write(
        &mut self,
        _: &Request,
        _: NodeId,
        _: Fh,
        _: u64,
        _: WriteFlags,
        _: OpenFlags,
        reply: Reply<Written>,
    ) {
        end(Stage::Decode);
        let len = reply.wanted() as u32;
        end(Stage::Backend);
        reply.ok(Written(len));
        end(Stage::Reply);
    }
}
