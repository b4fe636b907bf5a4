//! The floor: the same jobs on a directory, by plain system calls, one at a time.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use dpfs::sys::time::Instant;

use crate::client::{FILE, FILL};
use crate::job::{Chooser, Settings, Step};
use crate::outcome::{Outcome, latencies};
use crate::pattern;
use crate::usage::Meter;

/// Run one job on a directory. A step that takes several requests of a host is one here, for no other exists.
pub fn run(folder: &Path, settings: &Settings) -> Result<Outcome, String> {
    settings.check()?;
    if settings.depth != 1 || settings.queues != 1 {
        return Err(
            "system calls come one at a time: depth 1 and one queue are allowed".to_string(),
        );
    }
    let path = folder.join(FILE);
    let fail = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(fail)?;
    if settings.verify || file.metadata().map_err(fail)?.len() < settings.size {
        fill(&file, settings).map_err(fail)?;
    }
    let mut chooser = Chooser::new(settings);
    let mut data = vec![0; settings.block as usize];
    let mut latencies = latencies();
    let begin = Instant::now();
    let mut meter = Meter::of(std::process::id());
    let (mut from, mut before) = (begin, meter.read());
    let (mut requests, mut measuring) = (0, settings.warmup == 0.0);
    let mut now = begin;
    loop {
        let started = now;
        step(folder, &path, &file, chooser.choose(), settings, &mut data)?;
        now = Instant::now();
        if measuring {
            requests += 1;
            latencies.saturating_record(now.since(started).max(1));
        } else if now.since(begin) as f64 / 1e9 >= settings.warmup {
            measuring = true;
            from = now;
            before = meter.read();
        }
        let seconds = now.since(from) as f64 / 1e9;
        let enough = match settings.count {
            Some(count) => requests >= count,
            None => measuring && seconds >= settings.seconds,
        };
        if enough {
            let block = if settings.job.moves_data() {
                settings.block
            } else {
                0
            };
            return Ok(Outcome {
                job: settings.job.name(),
                block,
                depth: 1,
                queues: 1,
                requests,
                seconds,
                latencies,
                usage: meter
                    .read()
                    .zip(before)
                    .map(|(after, before)| after.since(before)),
                kicks: 0,
            });
        }
    }
}

fn fill(file: &File, settings: &Settings) -> std::io::Result<()> {
    let mut bytes = vec![0; FILL as usize];
    let mut offset = 0;
    while offset < settings.size {
        let len = (settings.size - offset).min(FILL.into()) as usize;
        pattern::fill(settings.seed, offset, &mut bytes[..len]);
        file.write_all_at(&bytes[..len], offset)?;
        offset += len as u64;
    }
    Ok(())
}

fn step(
    folder: &Path,
    path: &Path,
    file: &File,
    step: Step,
    settings: &Settings,
    data: &mut [u8],
) -> Result<(), String> {
    let done = match step {
        Step::Read(offset) => file.read_exact_at(data, offset),
        Step::Write(offset) => {
            if settings.verify {
                pattern::fill(settings.seed, offset, data);
            }
            file.write_all_at(data, offset)
        }
        Step::Getattr => file.metadata().map(drop),
        Step::Lookup => fs::symlink_metadata(path).map(drop),
        Step::Readdir => fs::read_dir(folder).map(|entries| entries.for_each(drop)),
        Step::Create(number) => {
            let path = folder.join(format!("dpfs-bench.{number}"));
            File::create_new(&path).and_then(|file| {
                drop(file);
                fs::remove_file(&path)
            })
        }
        Step::Release(..) | Step::Unlink(..) | Step::Forget(_) => Ok(()),
    };
    done.map_err(|error| format!("{step:?}: {error}"))?;
    match step {
        Step::Read(offset) if settings.verify => pattern::check(settings.seed, offset, data)
            .map_err(|wrong| format!("{step:?}: {wrong}")),
        _ => Ok(()),
    }
}
