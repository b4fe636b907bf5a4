//! The command line of the `dpfs` program.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::string::{String, ToString};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};

use super::budget::Budget;
use super::config::{Config, ConfigError, units};
use super::stats::{self, Snapshot};
use super::{fsck, probe, selftest, serve};
use crate::{board, log};

/// What was asked for was done.
pub const DONE: u8 = 0;
/// It was begun and failed; standard error says why.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// The configuration is wrong; standard error names file, line and key.
pub const CONFIGURATION: u8 = 3;
/// The configuration is right and this machine cannot do it (`dpfs check`).
pub const MACHINE: u8 = 4;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  begun and failed
  2  wrong command line
  3  wrong configuration
  4  right configuration that this machine cannot do (check)";

/// The configuration's reference, which is itself a configuration.
const REFERENCE: &str = include_str!("config/reference.toml");

/// Serve virtio-fs devices from a DPU.
#[derive(Parser)]
#[command(name = "dpfs", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the configured devices until SIGTERM or SIGINT
    #[command(after_long_help = REFERENCE)]
    Serve(File),
    /// Check a configuration and whether this machine can do it; change nothing
    #[command(after_long_help = REFERENCE)]
    Check(File),
    /// Check the stores of the kv backend, and repair them; nobody may serve them meanwhile
    Fsck(FsckArguments),
    /// Test each configured backend through a device of this process: no host is needed, and nothing is left behind
    Selftest(SelftestArguments),
    /// Show what a daemon did, by device and operation
    Stats(StatsArguments),
    /// Show the deferred log of a daemon with the feature defmt
    Log(LogArguments),
    /// Show what can be emulated here, and this build's limits
    Devices,
}

#[derive(Args)]
struct File {
    /// Configuration file; --help shows everything that it may say
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args)]
struct FsckArguments {
    #[command(flatten)]
    file: File,
    /// Only this device's store
    #[arg(long, value_name = "TAG")]
    device: Option<String>,
    /// Repair what is wrong, and remove what a crash left
    #[arg(long)]
    repair: bool,
}

#[derive(Args)]
struct SelftestArguments {
    #[command(flatten)]
    file: File,
    /// Only this device's backend
    #[arg(long, value_name = "TAG")]
    device: Option<String>,
}

#[derive(Args)]
struct Place {
    /// The daemon's configuration file, for its runtime.dir
    #[arg(short, long, value_name = "FILE", conflicts_with = "dir")]
    config: Option<PathBuf>,
    /// The daemon's runtime.dir
    #[arg(long, value_name = "DIR", default_value = "/run/dpfs")]
    dir: PathBuf,
}

impl Place {
    fn dir(&self) -> Result<PathBuf, Failure> {
        match &self.config {
            Some(file) => Ok(load(file)?.runtime.dir),
            None => Ok(self.dir.clone()),
        }
    }
}

#[derive(Args)]
struct StatsArguments {
    #[command(flatten)]
    place: Place,
    /// One JSON object on one line instead of a table; with --watch one line each time
    #[arg(long)]
    json: bool,
    /// Show again every SECONDS, with rates
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = seconds)]
    watch: Option<Duration>,
}

#[derive(Args)]
struct LogArguments {
    #[command(flatten)]
    place: Place,
    /// Go on and show what is logged from now on
    #[arg(short, long)]
    follow: bool,
    /// The program that logged, not stripped [default: the daemon's own, or this one]
    #[arg(long, value_name = "PATH")]
    elf: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "a number of seconds".to_string())?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("0.1 to 3600 seconds".into())
    }
}

/// Say why a command did not succeed: an exit code and the words for standard error.
type Failure = (u8, String);

/// Run the program with the arguments of this process.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Serve(file) => serve_command(&file.config),
        Command::Check(file) => check_command(&file.config),
        Command::Fsck(arguments) => fsck_command(&arguments),
        Command::Selftest(arguments) => selftest_command(&arguments),
        Command::Stats(arguments) => stats_command(&arguments),
        Command::Log(arguments) => log_command(&arguments),
        Command::Devices => {
            print(&devices());
            Ok(())
        }
    };
    match result {
        Ok(()) => DONE.into(),
        Err((code, words)) => {
            // Nobody to tell is no reason for another code.
            let _ = writeln!(stderr(), "{words}");
            code.into()
        }
    }
}

/// Write to standard output. A reader that left (`| head`) ends the program in peace.
fn print(text: &str) {
    let mut out = stdout().lock();
    if out
        .write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(DONE.into());
    }
}

fn load(file: &Path) -> Result<Config, Failure> {
    Config::load(file).map_err(|error: ConfigError| (CONFIGURATION, error.to_string()))
}

fn serve_command(file: &Path) -> Result<(), Failure> {
    let config = load(file)?;
    log::set_level(config.runtime.log);
    serve(&config).map_err(|error| (FAILED, format!("dpfs: {error}")))
}

fn check_command(file: &Path) -> Result<(), Failure> {
    let config = load(file)?;
    let budget = Budget::of(&config).check();
    let budget = budget.map_err(|error| (CONFIGURATION, error.to_string()))?;
    print(&format!("memory, reserved at start:\n{budget}\n\n"));
    let findings = probe::all(&config);
    let mut bad = 0;
    for finding in &findings {
        print(&format!("{finding}\n"));
        bad += usize::from(finding.result.is_err());
    }
    match bad {
        0 => Ok(()),
        bad => Err((
            MACHINE,
            format!("dpfs: {bad} of {} checks failed", findings.len()),
        )),
    }
}

fn fsck_command(arguments: &FsckArguments) -> Result<(), Failure> {
    let config = load(&arguments.file.config)?;
    let result = fsck::run(&config, arguments.device.as_deref(), arguments.repair);
    let (text, left) = result.map_err(|error| (FAILED, format!("dpfs: {error}")))?;
    print(&text);
    match left {
        false => Ok(()),
        true => Err((FAILED, "dpfs: damage is left".into())),
    }
}

fn selftest_command(arguments: &SelftestArguments) -> Result<(), Failure> {
    let config = load(&arguments.file.config)?;
    let mut show = |line: &str| print(&format!("{line}\n"));
    let failed = selftest::run(&config, arguments.device.as_deref(), &mut show);
    match failed.map_err(|error| (FAILED, format!("dpfs: {error}")))? {
        0 => Ok(()),
        failed => Err((FAILED, format!("dpfs: {failed} self-tests failed"))),
    }
}

fn stats_command(arguments: &StatsArguments) -> Result<(), Failure> {
    let dir = arguments.place.dir()?;
    let load = || Snapshot::load(&dir).map_err(|error| (FAILED, format!("dpfs: {error}")));
    let mut earlier: Option<(Snapshot, Instant)> = None;
    loop {
        let (snapshot, now) = (load()?, Instant::now());
        if arguments.json {
            print(&(stats::json(&snapshot) + "\n"));
        } else {
            let since = earlier.as_ref().map(|(earlier, at)| (earlier, now - *at));
            let table = stats::table(&snapshot, since);
            // From the top of the screen, over what stood there.
            let live = arguments.watch.is_some() && stdout().is_terminal();
            print(&if live {
                format!("\x1b[H\x1b[2J{table}")
            } else {
                table
            });
        }
        let Some(interval) = arguments.watch else {
            return Ok(());
        };
        earlier = Some((snapshot, now));
        thread::sleep(interval);
    }
}

#[cfg(feature = "defmt")]
fn log_command(arguments: &LogArguments) -> Result<(), Failure> {
    use super::log_ring::{LogError, Reader, Strings};
    let failed = |error: LogError| (FAILED, format!("dpfs: {error}"));
    let mut reader = Reader::open(&arguments.place.dir()?).map_err(failed)?;
    let program = reader.program(arguments.elf.as_deref()).map_err(failed)?;
    let strings = Strings::of(&program).map_err(failed)?;
    let mut decoder = strings.decoder();
    loop {
        for line in decoder.lines(&reader.take().map_err(failed)?) {
            print(&(line + "\n"));
        }
        if !arguments.follow {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(not(feature = "defmt"))]
fn log_command(arguments: &LogArguments) -> Result<(), Failure> {
    // What is wrong with the arguments is wrong in every build.
    arguments.place.dir()?;
    Err((
        FAILED,
        "dpfs: this build's log is plain text on the daemon's standard error (for a service: journalctl -u dpfs); \
         a deferred log comes with the feature defmt"
            .into(),
    ))
}

fn devices() -> String {
    format!(
        "\
board {name} ({description}), dpfs {version}

HALs that this build has:
  vhost-user  virtio-fs for QEMU, Cloud Hypervisor, crosvm, User-Mode Linux: {vhost}
  fuse        a mount of this machine: {fuse}
  snap        a function of a BlueField DPU: {snap}
backends that this build has:
  null, local, kv

at most, by board/{name}/board.toml:
  {devices} devices on {cores} cores
  {queues} request queues of a device, {depth} requests in flight on one, {requests} on all
  {nodes} nodes and {open_files} open files of a device
  {memory} of memory
{functions}",
        name = board::NAME,
        description = board::DESCRIPTION,
        version = env!("CARGO_PKG_VERSION"),
        vhost = "any number of devices, limited by the board",
        fuse = match probe::fuse_device() {
            Ok(how) => format!("usable, {how}"),
            Err(why) => format!("not usable, {why}"),
        },
        snap = snap(),
        functions = functions(),
        devices = board::DEVICES,
        cores = board::CORES,
        queues = board::QUEUES,
        depth = board::DEPTH,
        requests = board::REQUESTS,
        nodes = board::NODES,
        open_files = board::OPEN_FILES,
        memory = units::exact_size(board::MEMORY),
    )
}

#[cfg(feature = "snap")]
fn snap() -> String {
    super::functions::library()
}

#[cfg(not(feature = "snap"))]
fn snap() -> &'static str {
    "not in this build"
}

#[cfg(feature = "snap")]
fn functions() -> String {
    std::format!("\n{}", super::functions::list())
}

#[cfg(not(feature = "snap"))]
fn functions() -> &'static str {
    ""
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    // It has every engine.
    #[cfg(feature = "kv-embedded")]
    #[test]
    fn the_reference_is_a_configuration() {
        let config = Config::parse("reference.toml", REFERENCE).map_err(|error| error.to_string());
        let config = config.unwrap();
        assert_eq!(config.devices.len(), 7);
        // What it calls a default is one.
        let minimal = "[[device]]\ntag = \"a\"\nbackend = { kind = \"local\", path = \"/srv/projects\" }\n\
                       hal = { kind = \"vhost-user\", socket = \"/s\" }";
        let minimal = Config::parse("minimal", minimal).unwrap();
        assert_eq!(config.devices[0].backend, minimal.devices[0].backend);
        assert_eq!(config.runtime.cores, minimal.runtime.cores);
        assert_eq!(config.runtime.dir, minimal.runtime.dir);
    }

    #[test]
    fn watching_takes_a_sensible_time() {
        assert_eq!(seconds("2"), Ok(Duration::from_secs(2)));
        for bad in ["0", "-1", "nan", "inf", "x", "1e9"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
