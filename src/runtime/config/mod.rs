//! The configuration: a TOML file, checked as a whole before anything starts.
//!
//! ```text
//! text ──> document (typed reader, places) ──> daemon, device ──> whole (duplicates, capacities) ──> Config
//!             └────────── problems: file, line, key, found, allowed ──────────┘
//! ```
//!
//! [`Config::parse`] never panics and names everything that is wrong, not only the first. What it gives is plain data
//! that keeps to the [board](crate::board)'s limits; whether the machine can do it is
//! what `dpfs check` probes.

mod daemon;
mod device;
mod document;
mod kv;
mod nfs;
mod problem;
mod tls;
pub mod units;
mod whole;

use std::path::{Path, PathBuf};
use std::string::{String, ToString};
use std::vec::Vec;

use toml::de::DeTable;

use self::document::Section;
pub use self::nfs::Nfs;
use self::problem::Problems;
pub use self::problem::{ConfigError, Problem};
use super::Polling;
use crate::backend::kv::ramcloud::server as ramcloud;
pub use crate::backend::kv::valkey::request::Durability;
pub use crate::backend::kv::valkey::server::Place;
pub use crate::backend::tls::Files;
use crate::log::Level;
use crate::wire::open_flags::ClientArch;

/// Hold a whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What all devices share.
    pub runtime: Runtime,
    /// At least one; tags, sockets and mount points are all different.
    pub devices: Vec<Device>,
}

/// Configure the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Cores to poll on, all different, at least one. Default: core 0.
    pub cores: Vec<usize>,
    /// What a core does when there is nothing to do. Default: the board's; adaptive spins for 50 us.
    pub polling: Polling,
    /// Least severe lines that are logged. Default: info.
    pub log: Level,
    /// Folder for the statistics and the log ring; made when absent. Default: `/run/dpfs`.
    pub dir: PathBuf,
    /// What the process gives up once everything is open. Default: full.
    pub sandbox: Sandbox,
    /// Open descriptors that the process may have (`RLIMIT_NOFILE`). Default: the hard limit.
    pub descriptors: Option<u64>,
}

/// Say what the process gives up once everything is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// The file system, capabilities that are not needed, system calls that are not used.
    Full,
    /// Nothing: for development.
    None,
}

/// Configure one device: one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// What the host mounts, 1 to 36 bytes.
    pub tag: String,
    /// Where requests come from.
    pub hal: Hal,
    /// What answers them.
    pub backend: Backend,
    /// The host's architecture, for its open flags. Default: x86_64; this machine's with the `fuse` HAL.
    pub client_arch: ClientArch,
    /// What the tenant may use.
    pub limits: Limits,
}

/// Say where requests come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hal {
    /// A virtio-fs device behind a vhost-user socket.
    VhostUser {
        /// The socket's path; the daemon listens.
        socket: PathBuf,
        /// Request queues, besides the one for FORGETs.
        queues: u16,
        /// Requests in flight on one queue, a power of two.
        depth: u16,
        /// Longest time in nanoseconds that an interrupt waits for more requests to end, while the guest sends more.
        /// Default: 64 us.
        interrupt_hold: u64,
    },
    /// A mount of this machine through `/dev/fuse`.
    Fuse {
        /// An existing folder.
        mountpoint: PathBuf,
        /// Clones of `/dev/fuse`, each with its core.
        queues: u16,
        /// Requests in flight on one clone, a power of two. Each takes 2 MiB of buffers.
        depth: u16,
    },
    /// A function of a BlueField DPU, through libsnap.
    Snap {
        /// Name of the emulation manager.
        manager: String,
        /// Number of the physical function.
        pf: u32,
        /// Number of the virtual function; `None` for the physical function itself.
        vf: Option<u32>,
        /// Request queues, besides the one for FORGETs.
        queues: u16,
        /// Requests in flight on one queue, a power of two.
        depth: u16,
    },
}

impl Hal {
    /// Give the number of request queues.
    pub const fn queues(&self) -> u16 {
        match self {
            Self::VhostUser { queues, .. }
            | Self::Fuse { queues, .. }
            | Self::Snap { queues, .. } => *queues,
        }
    }

    /// Give the number of requests in flight on one queue.
    pub const fn depth(&self) -> u16 {
        match self {
            Self::VhostUser { depth, .. } | Self::Fuse { depth, .. } | Self::Snap { depth, .. } => {
                *depth
            }
        }
    }

    /// Give the number of requests that one of the transport's queues has under way at most, a power of two.
    pub fn lane_depth(&self) -> u16 {
        match self {
            Self::Snap { .. } if !completes_later() => 2,
            _ => self.depth(),
        }
    }

    /// Tell whether FORGETs have a queue of their own, which is as deep as the others.
    pub const fn has_hiprio(&self) -> bool {
        matches!(self, Self::VhostUser { .. } | Self::Snap { .. })
    }
}

/// Say what answers requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Nothing is stored; every operation succeeds at once.
    Null {
        /// Size of each file. Default: 1 GiB.
        file_size: u64,
    },
    /// A directory of this machine.
    Local(Local),
    /// A file system on a key-value engine.
    Kv(Kv),
    /// An export of an NFS server.
    Nfs(Nfs),
}

impl Backend {
    /// Tell whether it makes connections while it serves.
    pub const fn connects(&self) -> bool {
        match self {
            Self::Null { .. } | Self::Local(_) => false,
            Self::Kv(kv) => matches!(kv.engine, KvEngine::Valkey(_) | KvEngine::Ramcloud(_)),
            Self::Nfs(_) => true,
        }
    }
}

/// Configure the `kv` backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kv {
    /// What keeps records and chunks, or objects.
    pub engine: KvEngine,
    /// How files are laid out there. Default: a tree; on RAMCloud flat.
    pub layout: Layout,
    /// Size of the chunks of a new store in bytes. Default: 64 KiB.
    pub chunk: u32,
    /// Refuse every change with `EROFS`. Default: false.
    pub read_only: bool,
}

/// Choose how the `kv` backend lays files out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A complete file system.
    Tree,
    /// Each file of the root directory is one object that other programs see.
    Flat {
        /// Owner of all files. Default: 0.
        uid: u32,
        /// Group of all files. Default: 0.
        gid: u32,
        /// Permissions of all files. Default: 0644.
        mode: u32,
    },
}

/// Choose the engine of the `kv` backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvEngine {
    /// A store of this machine.
    #[cfg(feature = "kv-embedded")]
    Embedded(Embedded),
    /// A volume on a Valkey or Redis server, or its keys.
    Valkey(Valkey),
    /// A table of a RAMCloud cluster.
    Ramcloud(Ramcloud),
}

/// Configure the `ramcloud` engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ramcloud {
    /// Table, and how to reach it.
    pub table: ramcloud::Config,
    /// What the host may keep. Default: auto.
    pub cache: Cache,
}

/// Configure the `embedded` engine.
#[cfg(feature = "kv-embedded")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// The file; `None` for a store in memory (`":memory:"`).
    pub path: Option<PathBuf>,
    /// Memory for cached pages in bytes. Default: 256 MiB.
    pub memory: u64,
}

/// Configure the `valkey` engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Valkey {
    /// Where the server listens, or nodes of a cluster, at least one.
    pub places: Vec<Place>,
    /// Who asks. Default: the server's default user.
    pub user: Option<String>,
    /// File with the password. Default: none is asked for.
    pub password_file: Option<PathBuf>,
    /// Name of the volume; empty with the flat layout, which has none.
    pub volume: String,
    /// What the host may keep. Default: auto.
    pub cache: Cache,
    /// Time in nanoseconds without any answer after which requests fail. Default: 60 s.
    pub timeout: u64,
    /// What FSYNC and SYNCFS wait for. Default: nothing.
    pub durability: Option<Durability>,
    /// Files of TLS. Default: connections without it.
    pub tls: Option<Files>,
    /// Whether content of large files spreads over the nodes of a cluster. Default: as the volume was made; of a new one,
    /// where there is a cluster.
    pub spread: Option<bool>,
}

/// Configure the `local` backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// The directory that is the root of what the host sees.
    pub path: PathBuf,
    /// What the host may keep. Default: auto.
    pub cache: Cache,
    /// Refuse every change with `EROFS`. Default: false.
    pub read_only: bool,
    /// Let the host collect writes; nobody else may change the directory then. Default: false.
    pub writeback: bool,
    /// Let the host check POSIX ACLs. Default: true.
    pub acl: bool,
    /// Pass `O_DIRECT` on to the directory's file system. Default: true.
    pub direct_io: bool,
    /// Descriptors of files that are kept open between requests, at most. Default: 8192.
    pub descriptors: u32,
    /// Threads for what io_uring cannot do. Default: 4.
    pub workers: u16,
    /// Let the kernel poll the io_uring from a thread of its own: no system call per request, one more busy core.
    /// Default: false.
    pub sqpoll: bool,
    /// Write on the core that serves the request, also where that may wait for a disk: a stalled one then stalls every
    /// device of the core. Default: false.
    pub blocking_writes: bool,
}

/// Say what the host may keep of names, attributes and data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Nothing: others change the directory, too.
    None,
    /// Names and attributes for a second, data while the file does not change.
    Auto,
    /// Everything: nobody else changes the directory.
    Always,
}

/// Bound what one tenant uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests per second. Default: unlimited.
    pub iops: Option<u64>,
    /// Bytes of data per second, both directions together. Default: unlimited.
    pub bandwidth: Option<u64>,
    /// Files and directories that the host holds at once. Default: the board's.
    pub nodes: u32,
    /// Files that the host has open at once. Default: the board's.
    pub open_files: u32,
}

/// Tell whether libsnap lets a request end after its handler returned.
#[cfg(feature = "snap")]
fn completes_later() -> bool {
    crate::hal::snap::completes_later()
}

/// A configuration that is only checked here is counted for stock libsnap.
#[cfg(not(feature = "snap"))]
const fn completes_later() -> bool {
    false
}

impl Config {
    /// Give the number of poll groups of every SNAP function: libsnap wants the same for all.
    ///
    /// One for each core, if requests may end later. If not, a group stands still while its request is under way: then
    /// one for each virtqueue of the function with the most, so that they do not wait for each other.
    pub fn poll_groups(&self) -> u32 {
        let cores = self.runtime.cores.len() as u32;
        if completes_later() {
            return cores;
        }
        let queues = self.devices.iter().map(|device| match device.hal {
            Hal::Snap { queues, .. } => u32::from(queues) + 1,
            _ => 0,
        });
        queues.fold(cores, u32::max)
    }

    /// Read a configuration from `text`; `file` is only named in errors.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the text. When the text is not TOML, only that.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let problems = Problems::new(text);
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            problems.add(&span, "", format!("not TOML: {}", error.message()));
        }
        let config = if errors.is_empty() {
            Self::read(&problems, &Section::top(&problems, &root))
        } else {
            None
        };
        problems.into_result(file, config)
    }

    /// Read a configuration file.
    ///
    /// # Errors
    /// As [`Self::parse`]; a file that cannot be read is one problem at its first line.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&file, &text),
            Err(error) => {
                let problems = Problems::new("");
                problems.add(&(0..0), "", format!("cannot be read: {error}"));
                problems.into_result(&file, None)
            }
        }
    }

    fn read(problems: &Problems, top: &Section) -> Option<Self> {
        top.only(&["runtime", "device"]);
        let runtime = daemon::read(top);
        let devices = device::read_all(top);
        whole::check(problems, &devices);
        // A device that could not be read left a problem, so the count of the others does not matter.
        Some(Self {
            runtime: runtime?,
            devices: devices.into_iter().map(|(device, _)| device).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const MINIMAL: &str = r#"
        [[device]]
        tag = "t"
        hal = { kind = "vhost-user", socket = "/run/dpfs/t.sock" }
        backend = { kind = "null" }
    "#;

    #[test]
    fn a_full_configuration_is_read() {
        let text = r#"
            [runtime]
            cores = [2, 3]
            polling = "adaptive"
            spin = "20us"
            log = "debug"
            dir = "/tmp/x"
            sandbox = "none"
            descriptors = 100_000

            [[device]]
            tag = "projects"
            hal = { kind = "vhost-user", socket = "/run/p.sock", queues = 4, depth = 128, interrupt_hold = "20us" }
            backend = { kind = "local", path = "/srv/p", cache = "always", writeback = true, workers = 3, sqpoll = true, blocking_writes = true, descriptors = 100 }
            client_arch = "aarch64"
            limits = { iops = 20000, bandwidth = "1GiB", nodes = 1000, open_files = 100 }

            [[device]]
            tag = "null"
            backend = { kind = "null", file_size = "2MiB" }
            [device.hal]
            kind = "fuse"
            mountpoint = "/mnt/null"
        "#;
        let config = Config::parse("dpfs.toml", text).unwrap();
        assert_eq!(config.runtime.cores, [2, 3]);
        assert_eq!(config.runtime.polling, Polling::Adaptive(20_000));
        assert_eq!(config.runtime.descriptors, Some(100_000));
        assert_eq!(config.runtime.sandbox, Sandbox::None);
        let first = &config.devices[0];
        assert_eq!((first.hal.queues(), first.hal.depth()), (4, 128));
        assert!(
            matches!(first.hal, Hal::VhostUser { interrupt_hold, .. } if interrupt_hold == 20_000)
        );
        assert_eq!(first.client_arch, ClientArch::Aarch64);
        assert_eq!(first.limits.bandwidth, Some(1 << 30));
        let Backend::Local(local) = &first.backend else {
            panic!("{:?}", first.backend)
        };
        assert_eq!((local.cache, local.workers), (Cache::Always, 3));
        assert!(local.sqpoll && local.blocking_writes);
        let second = &config.devices[1];
        assert_eq!(second.backend, Backend::Null { file_size: 2 << 20 });
        assert!(
            matches!(&second.hal, Hal::Fuse { mountpoint, .. } if mountpoint == Path::new("/mnt/null"))
        );
    }

    #[test]
    fn defaults_are_the_boards() {
        use crate::board;
        let config = Config::parse("f", MINIMAL).unwrap();
        assert_eq!(config.runtime.cores, [0]);
        assert_eq!(config.runtime.log, Level::Info);
        assert_eq!(config.runtime.sandbox, Sandbox::Full);
        let device = &config.devices[0];
        assert_eq!(u64::from(device.hal.depth()), board::DEFAULT_DEPTH);
        assert_eq!(u64::from(device.limits.nodes), board::DEFAULT_NODES);
        assert_eq!(device.limits.iops, None);
    }

    #[test]
    fn every_problem_is_named_at_its_place() {
        let text = "\
[runtime]
coers = [1]
polling = \"bsy\"

[[device]]
tag = \"one\"
hal = { kind = \"vhost-user\", socket = \"/s\", depth = 500 }
backend = { kind = \"nul\" }
";
        let error = Config::parse("dpfs.toml", text).unwrap_err();
        let lines: Vec<String> = error.to_string().lines().map(String::from).collect();
        assert_eq!(lines.len(), 4, "{error}");
        assert!(
            lines[0]
                .starts_with("dpfs.toml:2:1: runtime.coers: unknown key; did you mean `cores`?")
        );
        assert!(
            lines[1]
                .starts_with("dpfs.toml:3:11: runtime.polling: found \"bsy\"; allowed: \"busy\"")
        );
        assert_eq!(
            lines[2],
            format!(
                "dpfs.toml:7:53: device[0].hal.depth: found 500; allowed: a power of two from 2 to {}",
                crate::board::DEPTH
            )
        );
        assert!(
            lines[3]
                .starts_with("dpfs.toml:8:20: device[0].backend.kind: found \"nul\"; allowed: ")
        );
        assert!(lines[3].ends_with("did you mean \"null\"?"));
    }

    #[test]
    fn what_is_not_toml_is_named_with_its_line() {
        let error = Config::parse("f", "a = 1\nb = = 2\n").unwrap_err();
        assert_eq!(error.problems[0].line, 2);
        assert!(
            error
                .problems
                .iter()
                .all(|p| p.what.starts_with("not TOML"))
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = Config::load(Path::new("/nonexistent/dpfs.toml")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("/nonexistent/dpfs.toml:1:1: cannot be read: ")
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = Config::parse("f", &text);
        }

        #[test]
        fn no_mutation_makes_it_panic(
            cut in 0..MINIMAL.len(),
            drop in 0..8usize,
            put in "[\\[\\]{}=\", .0-9a-z\n]{0,8}",
        ) {
            let end = (cut + drop).min(MINIMAL.len());
            let text = format!("{}{put}{}", &MINIMAL[..cut], &MINIMAL[end..]);
            if let Err(error) = Config::parse("f", &text) {
                assert!(!error.problems.is_empty());
                assert!(error.problems.iter().all(|problem| problem.line >= 1 && problem.column >= 1));
            }
        }
    }
}
