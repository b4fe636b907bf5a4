//! What a back-end's processes used: processor time and context switches of all their threads, from `/proc`, and
//! their system calls.

use std::fs;

use crate::calls::Calls;

/// Hold counts since the processes began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds on a processor.
    pub cpu: u64,
    /// Context switches that a thread asked for, by sleeping.
    pub voluntary: u64,
    /// Context switches that were forced on a thread.
    pub involuntary: u64,
    /// System calls of the read and write families, as the kernel counts them.
    pub io_calls: u64,
    /// System calls of any kind, since the meter was made; `None` where they cannot be counted.
    pub calls: Option<u64>,
}

/// Read what a process and its descendants use: a back-end that closes itself in serves from a child.
pub struct Meter {
    process: u32,
    calls: Option<Calls>,
}

impl Meter {
    /// Begin to look at `process`.
    pub fn of(process: u32) -> Self {
        let threads = || {
            let tasks = |process| {
                fs::read_dir(format!("/proc/{process}/task"))
                    .into_iter()
                    .flatten()
            };
            let threads = family(process)?.into_iter().flat_map(tasks).flatten();
            let numbers = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
            Some(numbers.collect::<Vec<u32>>())
        };
        Self {
            process,
            calls: threads().and_then(|threads| Calls::of(&threads)),
        }
    }

    /// Give what was used so far. `None` when the kernel does not say.
    pub fn read(&mut self) -> Option<Usage> {
        let mut sum = Usage::default();
        for process in family(self.process)? {
            let folder = format!("/proc/{process}");
            for thread in fs::read_dir(format!("{folder}/task")).ok()?.flatten() {
                // One that ended meanwhile is not counted.
                let _ = sum.add_thread(&thread.path());
            }
            let io = fs::read_to_string(format!("{folder}/io")).ok()?;
            sum.io_calls += field(&io, "syscr:")? + field(&io, "syscw:")?;
        }
        sum.calls = self.calls.as_mut().and_then(Calls::count);
        (sum.cpu > 0).then_some(sum)
    }
}

impl Usage {
    fn add_thread(&mut self, folder: &std::path::Path) -> Option<()> {
        let times = fs::read_to_string(folder.join("schedstat")).ok()?;
        self.cpu += times.split_whitespace().next()?.parse::<u64>().ok()?;
        let status = fs::read_to_string(folder.join("status")).ok()?;
        self.voluntary += field(&status, "voluntary_ctxt_switches:")?;
        self.involuntary += field(&status, "nonvoluntary_ctxt_switches:")?;
        Some(())
    }

    /// Give what was used since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            voluntary: self.voluntary.saturating_sub(earlier.voluntary),
            involuntary: self.involuntary.saturating_sub(earlier.involuntary),
            io_calls: self.io_calls.saturating_sub(earlier.io_calls),
            calls: self
                .calls
                .zip(earlier.calls)
                .map(|(now, then)| now.saturating_sub(then)),
        }
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}

/// List a process and its descendants.
fn family(process: u32) -> Option<Vec<u32>> {
    let mut family = vec![process];
    let mut at = 0;
    while let Some(&parent) = family.get(at) {
        at += 1;
        let children = format!("/proc/{parent}/task/{parent}/children");
        let children = fs::read_to_string(children).ok()?;
        let numbers = children.split_whitespace();
        family.extend(numbers.filter_map(|text| text.parse::<u32>().ok()));
    }
    Some(family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_this_process_uses_is_counted() {
        let mut meter = Meter::of(std::process::id());
        let mut own = || meter.read().unwrap();
        let before = own();
        let mut sum = 0_u64;
        while own().since(before).cpu < 1_000_000 {
            sum = sum.wrapping_mul(31).wrapping_add(std::hint::black_box(7));
        }
        assert!(std::hint::black_box(sum) > 0);
    }

    #[test]
    fn a_process_that_is_not_there_has_no_figures() {
        assert_eq!(Meter::of(u32::MAX).read(), None);
    }
}
