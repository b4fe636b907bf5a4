//! What a back-end's processes used, from `/proc`: processor time and context switches of all their threads.

use std::fs;

/// Hold counts since the processes began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds on a processor.
    pub cpu: u64,
    /// Context switches, asked for and forced.
    pub switches: u64,
    /// System calls of the read and write families, as the kernel counts them.
    pub io_calls: u64,
}

impl Usage {
    /// Count for a process and its descendants: a back-end that closes itself in serves from a child.
    pub fn of(process: u32) -> Self {
        let mut sum = Self::default();
        for process in family(process) {
            let folder = format!("/proc/{process}");
            if let Ok(threads) = fs::read_dir(format!("{folder}/task")) {
                for thread in threads.flatten() {
                    sum.add_thread(&thread.path());
                }
            }
            let io = fs::read_to_string(format!("{folder}/io")).unwrap_or_default();
            sum.io_calls += field(&io, "syscr:") + field(&io, "syscw:");
        }
        sum
    }

    fn add_thread(&mut self, folder: &std::path::Path) {
        let times = fs::read_to_string(folder.join("schedstat")).unwrap_or_default();
        let first = times.split_whitespace().next();
        self.cpu += first.and_then(|text| text.parse().ok()).unwrap_or(0);
        let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
        self.switches += field(&status, "voluntary_ctxt_switches:")
            + field(&status, "nonvoluntary_ctxt_switches:");
    }

    /// Give what was used since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            switches: self.switches.saturating_sub(earlier.switches),
            io_calls: self.io_calls.saturating_sub(earlier.io_calls),
        }
    }
}

fn field(text: &str, name: &str) -> u64 {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name));
    value
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

/// List a process and its descendants.
fn family(process: u32) -> Vec<u32> {
    let mut family = vec![process];
    let mut at = 0;
    while let Some(&parent) = family.get(at) {
        at += 1;
        let children = format!("/proc/{parent}/task/{parent}/children");
        let children = fs::read_to_string(children).unwrap_or_default();
        family.extend(
            children
                .split_whitespace()
                .filter_map(|text| text.parse::<u32>().ok()),
        );
    }
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_this_process_uses_is_counted() {
        let before = Usage::of(std::process::id());
        let mut sum = 0_u64;
        while Usage::of(std::process::id()).since(before).cpu < 1_000_000 {
            sum = sum.wrapping_mul(31).wrapping_add(std::hint::black_box(7));
        }
        assert!(std::hint::black_box(sum) > 0);
    }
}
