//! The command line.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::device::Target;
use crate::job::{Job, Settings};
use crate::outcome::{Outcome, table};
use crate::sweep::{self, Point};
use crate::{conformance, dir, run};

/// Load a vhost-user-fs back-end without a virtual machine, and check what it answers.
#[derive(Parser)]
#[command(version)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run jobs against one back-end.
    Run(RunOptions),
    /// Run jobs against several back-ends in turn; write CSV and pictures.
    Sweep(SweepOptions),
    /// Send malformed chains and requests of every kind, and expect the defined answers.
    Conformance {
        /// vhost-user socket of the back-end.
        #[arg(long)]
        socket: PathBuf,
        /// Seconds that an answer may take.
        #[arg(long, default_value_t = 5.0)]
        deadline: f64,
        /// Ask only for what every back-end owes: well-formed answers, and service to the next front-end.
        #[arg(long)]
        lenient: bool,
    },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Where {
    /// vhost-user socket of the back-end.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// The null backend, in this process.
    #[arg(long)]
    loopback: bool,
    /// A directory, by plain system calls.
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Args)]
struct RunOptions {
    #[command(flatten)]
    target: Where,
    #[command(flatten)]
    load: LoadOptions,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct LoadOptions {
    /// Jobs, one after the other.
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    job: Vec<Job>,
    /// Bytes of each READ and WRITE: a number, or one with k or m.
    #[arg(long, default_value = "4k", value_parser = bytes)]
    block: u64,
    /// Requests in flight for each queue.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    depth: Vec<u16>,
    /// Request queues.
    #[arg(long, default_value_t = 1)]
    queues: u16,
    /// Seconds to measure.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Requests to measure, instead of a time.
    #[arg(long)]
    count: Option<u64>,
    /// Seconds before the measurement begins.
    #[arg(long, default_value_t = 0.3)]
    warmup: f64,
    /// Bytes of the file.
    #[arg(long, default_value = "64m", value_parser = bytes)]
    size: u64,
    /// What blocks are chosen, and what they hold.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the file anew and check every byte that is read.
    #[arg(long)]
    verify: bool,
    /// Sleep on interrupts instead of polling for answers.
    #[arg(long)]
    wait: bool,
    /// Seconds that one request may take.
    #[arg(long, default_value_t = 10.0)]
    deadline: f64,
    /// Processor to run on.
    #[arg(long)]
    cpu: Option<usize>,
}

#[derive(Args)]
struct SweepOptions {
    /// A back-end: NAME=SOCKET. May repeat.
    #[arg(long, required = true, value_parser = named)]
    target: Vec<(String, PathBuf)>,
    #[command(flatten)]
    load: LoadOptions,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Rounds, of which the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where to write the figures.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Where to draw the rate over the depth (SVG), of the first job.
    #[arg(long)]
    throughput: Option<PathBuf>,
    /// Where to draw the latencies at the smallest depth (SVG), of the first job.
    #[arg(long)]
    latency: Option<PathBuf>,
}

fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, shift) = match lower.strip_suffix(['k', 'm', 'g']) {
        Some(digits) if lower.ends_with('k') => (digits, 10),
        Some(digits) if lower.ends_with('m') => (digits, 20),
        Some(digits) => (digits, 30),
        None => (lower.as_str(), 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("'{text}' is no number, nor one with k, m or g"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("'{text}' is too large"))
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text
        .split_once('=')
        .ok_or_else(|| format!("'{text}' is not NAME=SOCKET"))?;
    Ok((name.to_string(), path.into()))
}

impl LoadOptions {
    fn settings(&self, job: Job, depth: u16) -> Result<Settings, String> {
        let block = u32::try_from(self.block)
            .map_err(|_| format!("a block size of {}: at most 1048576", self.block))?;
        let settings = Settings {
            job,
            block,
            depth,
            queues: self.queues,
            seconds: self.seconds,
            count: self.count,
            warmup: self.warmup,
            size: self.size,
            seed: self.seed,
            verify: self.verify,
            wait: self.wait,
            deadline: self.deadline,
        };
        settings.check().map(|()| settings)
    }

    /// List all runs.
    fn all(&self) -> Result<Vec<Settings>, String> {
        let jobs = self.job.iter();
        let pairs = jobs.flat_map(|&job| self.depth.iter().map(move |&depth| (job, depth)));
        pairs
            .map(|(job, depth)| self.settings(job, depth))
            .collect()
    }

    fn pin(&self) -> Result<(), String> {
        match self.cpu {
            Some(cpu) => {
                dpfs::sys::affinity::pin(cpu).map_err(|error| format!("processor {cpu}: {error}"))
            }
            None => Ok(()),
        }
    }
}

/// Show how far a run is, on a terminal.
fn watched(
    name: &str,
    settings: &Settings,
    run: impl FnOnce(&mut dyn FnMut(f64)) -> Result<Outcome, String>,
) -> Result<Outcome, String> {
    let bar = ProgressBar::new((settings.seconds * 1000.0) as u64);
    let style = ProgressStyle::with_template("{prefix} {bar:30} {elapsed}");
    bar.set_style(style.map_err(|error| error.to_string())?);
    bar.set_prefix(format!(
        "{name} {} depth {}",
        settings.job.name(),
        settings.depth
    ));
    let outcome = run(&mut |seconds| bar.set_position((seconds * 1000.0) as u64));
    bar.finish_and_clear();
    outcome.map_err(|error| {
        format!(
            "{name}, {}, depth {}: {error}",
            settings.job.name(),
            settings.depth
        )
    })
}

fn json(outcomes: &[(String, Outcome)]) -> serde_json::Value {
    outcomes
        .iter()
        .map(|(name, outcome)| outcome.json(name))
        .collect()
}

impl Options {
    /// Do what was asked for.
    pub fn execute(self) -> Result<(), String> {
        match self.command {
            Command::Run(options) => options.execute(),
            Command::Sweep(options) => options.execute(),
            Command::Conformance {
                socket,
                deadline,
                lenient,
            } => conformance::run(&socket, Duration::from_secs_f64(deadline), lenient),
        }
    }
}

impl RunOptions {
    fn execute(self) -> Result<(), String> {
        self.load.pin()?;
        let (name, target) = match (self.target.socket, &self.target.dir) {
            (Some(socket), _) => ("socket", Some(Target::Socket(socket))),
            (None, None) => ("loopback", Some(Target::Loopback)),
            (None, Some(_)) => ("dir", None),
        };
        let mut outcomes = Vec::new();
        for settings in self.load.all()? {
            let outcome = watched(name, &settings, |tick| match (&target, &self.target.dir) {
                (Some(target), _) => run::run(target, &settings, tick),
                (None, folder) => dir::run(folder.as_deref().unwrap_or(".".as_ref()), &settings),
            })?;
            outcomes.push((name.to_string(), outcome));
        }
        if self.json {
            println!("{:#}", json(&outcomes));
        } else {
            println!("{}", table(&outcomes));
        }
        Ok(())
    }
}

impl SweepOptions {
    fn execute(self) -> Result<(), String> {
        self.load.pin()?;
        let mut points: Vec<Point> = Vec::new();
        for settings in self.load.all()? {
            let first = points.len();
            points.extend(self.target.iter().map(|(target, _)| Point {
                target: target.clone(),
                rounds: Vec::new(),
            }));
            for _ in 0..self.rounds.max(1) {
                for ((name, socket), point) in self.target.iter().zip(&mut points[first..]) {
                    let target = Target::Socket(socket.clone());
                    let outcome =
                        watched(name, &settings, |tick| run::run(&target, &settings, tick))?;
                    point.rounds.push(outcome);
                }
            }
        }
        let medians: Vec<_> = points
            .iter()
            .map(|point| (point.target.clone(), point.median().clone()))
            .collect();
        if self.json {
            println!("{:#}", json(&medians));
        } else {
            println!("{}", table(&medians));
            print!("{}", sweep::ratios(&points));
        }
        let write = |path: &PathBuf, text: String| {
            fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
        };
        if let Some(path) = &self.csv {
            write(path, sweep::csv(&points))?;
        }
        let job = self.load.job[0].name();
        let first: Vec<Point> = points
            .into_iter()
            .filter(|point| point.median().job == job)
            .collect();
        if let Some(path) = &self.throughput {
            sweep::throughput(&first, path)?;
        }
        if let Some(path) = &self.latency {
            sweep::latency(&first, path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn sizes_take_units() {
        assert_eq!(bytes("512"), Ok(512));
        assert_eq!(bytes("4k"), Ok(4096));
        assert_eq!(bytes("1G"), Ok(1 << 30));
        assert!(bytes("4x").is_err() && bytes("").is_err() && bytes("99999999999g").is_err());
    }
}
