//! A host of an export.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use dpfs::backend::nfs::served::{self, Config};
use dpfs::backend::nfs::{Cache, Namespace, NamespaceVolume, Nfs, NfsVolume, Options};
use dpfs::fuse::{FileSystem, Volume};
pub use dpfs_harness::host::*;
use dpfs_harness::{Bed, Setup};

use crate::relay::Relay;
use crate::server::{EXPORT, Ganesha, Manner};

/// Hold a host that mounted an export, and the way to its server.
pub struct Mounted {
    pub host: dpfs_harness::Host<Nfs>,
    pub volume: &'static NfsVolume,
    pub relay: Relay,
}

impl Deref for Mounted {
    type Target = dpfs_harness::Host<Nfs>;

    fn deref(&self) -> &Self::Target {
        &self.host
    }
}

impl DerefMut for Mounted {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.host
    }
}

/// Hold a server, and the host that mounted its export.
pub struct Host {
    pub mounted: Mounted,
    pub server: Ganesha,
}

impl Deref for Host {
    type Target = Mounted;

    fn deref(&self) -> &Self::Target {
        &self.mounted
    }
}

impl DerefMut for Host {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.mounted
    }
}

/// Give the configuration of a client of a server on this machine.
pub fn config(port: u16) -> Config {
    Config {
        servers: vec!["127.0.0.1".into()],
        port,
        export: EXPORT.into(),
        minor: None,
        options: Options {
            connections: 1,
            soft: false,
            timeo: 2_000_000_000,
            retrans: 2,
            reserved_port: false,
            cache: Cache::Auto,
            read_only: false,
            anonymous: false,
            server_locks: true,
            uncommitted: 8 << 20,
        },
        owners: Vec::new(),
        groups: Vec::new(),
        tls: None,
        referrals: Vec::new(),
        limits: (10_000, 1000),
        watches: 0,
        device: "test".into(),
    }
}

/// Mount a volume on one more core.
pub fn core(volume: &'static NfsVolume) -> dpfs_harness::Host<Nfs> {
    core_of(volume, volume.attach(32).unwrap())
}

/// Find a server's export, and those that its referrals lead to, and mount them.
pub fn namespace(config: &Config) -> (&'static NamespaceVolume, dpfs_harness::Host<Namespace>) {
    let volume = served::open_namespace(config).unwrap();
    (volume, core_of(volume, volume.attach(32).unwrap()))
}

/// Let a core go on by itself, for whatever holds one.
pub trait Rounds {
    /// Run one round.
    fn round(&mut self);

    /// Run rounds for a while.
    fn idle(&mut self, milliseconds: u64) {
        let end = Instant::now() + Duration::from_millis(milliseconds);
        while Instant::now() < end {
            self.round();
        }
    }

    /// Run rounds until it is as is said.
    fn until(&mut self, mut wanted: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !wanted(self) {
            assert!(Instant::now() < end, "it does not come to that");
            self.round();
        }
    }
}

impl<H: DerefMut<Target = dpfs_harness::Host<F>>, F: FileSystem> Rounds for H {
    fn round(&mut self) {
        self.bed.round();
    }
}

/// Make a device of a volume and mount it on this core.
pub fn core_of<F: FileSystem>(volume: &'static dyn Volume, fs: F) -> dpfs_harness::Host<F> {
    // What is broken on purpose need not be told.
    dpfs::log::set_level(dpfs::log::Level::Error);
    let setup = Setup {
        volume,
        depth: 32,
        ..Setup::default()
    };
    let mut bed = Bed::with(fs, setup);
    bed.init();
    dpfs_harness::Host::new(bed)
}

impl Host {
    /// Mount the export of a server that starts for it.
    pub fn new() -> Self {
        Self::with(Manner::default(), |_| ())
    }

    /// Mount the export of a server of this manner, as the changed configuration says.
    pub fn with(manner: Manner, change: impl FnOnce(&mut Config)) -> Self {
        let server = Ganesha::start(manner);
        let mounted = Mounted::new(([127, 0, 0, 1], server.port).into(), change);
        Self { mounted, server }
    }
}

impl Mounted {
    /// Mount a server's export by a relay, as the changed configuration says.
    pub fn new(server: SocketAddr, change: impl FnOnce(&mut Config)) -> Self {
        let relay = Relay::to(server);
        let mut config = config(relay.port);
        change(&mut config);
        let volume = served::open(&config).unwrap();
        let mut host = core(volume);
        // The session stands before anything is counted.
        host.getattr(ROOT, None).unwrap();
        Self {
            host,
            volume,
            relay,
        }
    }
    /// Count the calls that something takes.
    pub fn calls_of<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> (u64, T) {
        let before = self.relay.calls();
        let outcome = act(self);
        (self.relay.calls() - before, outcome)
    }
}
