//! System calls of a back-end's threads, counted by the kernel's tracepoint `raw_syscalls/sys_enter`.
//!
//! That needs the right to trace other processes, and tracefs mounted at its usual place; elsewhere nothing is counted.

use std::fs;
use std::path::Path;

use perf_event::events::Tracepoint;
use perf_event::{Builder, Counter};

/// Where tracefs is mounted: by itself, or as a part of debugfs.
const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Count the system calls of threads.
pub struct Calls {
    counters: Vec<Counter>,
}

impl Calls {
    /// Begin to count those of `threads` and of the threads and processes that they make from now on. `None` where the
    /// kernel does not let us.
    pub fn of(threads: &[u32]) -> Option<Self> {
        let tracepoint = Tracepoint::with_id(tracepoint()?);
        let count = |&thread: &u32| {
            Builder::new(tracepoint)
                .observe_pid(i32::try_from(thread).ok()?)
                .any_cpu()
                .inherit(true)
                .include_kernel()
                .enabled(true)
                .build()
                .ok()
        };
        let counters = threads.iter().map(count).collect::<Option<Vec<_>>>()?;
        Some(Self { counters })
    }

    /// Give the number of calls that began since then.
    pub fn count(&mut self) -> Option<u64> {
        self.counters.iter_mut().map(|one| one.read().ok()).sum()
    }
}

fn tracepoint() -> Option<u64> {
    let id =
        |place| fs::read_to_string(Path::new(place).join("events/raw_syscalls/sys_enter/id")).ok();
    PLACES.into_iter().find_map(id)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::parent_id;

    #[test]
    fn every_call_counts() {
        let own = fs::read_link("/proc/thread-self").unwrap();
        let own = own.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let Some(mut calls) = Calls::of(&[own]) else {
            println!("not run: no tracefs, or no right to trace");
            return;
        };
        let before = calls.count().unwrap();
        for _ in 0..1000 {
            std::hint::black_box(parent_id());
        }
        let made = calls.count().unwrap() - before;
        // Reading the counter is a call, too.
        assert!((1000..1010).contains(&made), "{made}");
    }
}
