//! An export as the daemon serves it: found once, with waiting, then attached to each core.

extern crate std;

use core::time::Duration;
use std::boxed::Box;
use std::net::SocketAddr;
use std::string::{String, ToString};
use std::vec::Vec;

use super::idmap::Names;
use super::instance::Nfs;
use super::recovery::Mounted;
use super::trunking;
pub use super::trunking::addresses;
use super::volume::{NfsVolume, Options, Settings};
use crate::fuse::FileSystem;
use crate::sys::time::Instant;
use crate::sys::{file, map};
use crate::wire::nfs4::{Handle, Status};

/// Time that a mount may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// That of each attempt by one of several addresses.
const PATIENCE_OF_SEVERAL: Duration = Duration::from_secs(5);
/// Time that its end may take.
const LEAVE: Duration = Duration::from_secs(1);
/// Largest READ and WRITE that the host sends.
const LARGEST: u64 = 1 << 20;

/// Say which export is served, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names or addresses of the server.
    pub servers: Vec<String>,
    /// Its port.
    pub port: u16,
    /// Path of the export at the server.
    pub export: String,
    /// Minor version of NFSv4; `None` for 2, or 1 where the server has no 2.
    pub minor: Option<u32>,
    /// How it is used.
    pub options: Options,
    /// Names of owners that have numbers here.
    pub owners: Vec<(String, u32)>,
    /// Names of groups that have.
    pub groups: Vec<(String, u32)>,
    /// Nodes and open files, at most.
    pub limits: (u32, u32),
    /// Cores that are told by an io_uring what came ([`NfsVolume::watch`]); others ask their connections each time.
    pub watches: u32,
    /// What tells the device from all others of this machine, the same after a restart: with the machine's name, the
    /// name of this client at the server, which takes two of the same name for one that was restarted.
    pub device: String,
}

/// Find the server and the export, and make the volume.
///
/// # Errors
/// What is wrong, in words.
pub fn open(config: &Config) -> Result<&'static NfsVolume, String> {
    let addresses = addresses(&config.servers, config.port)?;
    let patience = match addresses.len() {
        1 => PATIENCE,
        _ => PATIENCE_OF_SEVERAL,
    };
    let minors = config
        .minor
        .map_or(std::vec![2, 1], |minor| std::vec![minor]);
    let (first, (minor, mounted)) = trunking::first(&addresses, PATIENCE, |address| {
        let mut found = Err(Status::ERR_MINOR_VERS_MISMATCH);
        for minor in &minors {
            found = mount(config, address, *minor, patience)?.map(|mounted| (*minor, mounted));
            if found.is_ok() {
                break;
            }
        }
        Ok(found.map_err(|status| {
            format!(
                "the server does not give {}: NFS4{}",
                config.export,
                status.name()
            )
        }))
    })?;
    let servers = trunking::same(first, &addresses, mounted.server, |address| {
        let found = mount(config, address, minor, patience)?;
        found.map_err(|status| format!("NFS4{}", status.name()))
    });
    let settings = Settings {
        max_read: mounted.sizes.0.clamp(4096, LARGEST) as u32,
        max_write: mounted.sizes.1.clamp(4096, LARGEST) as u32,
        xattr: mounted.xattr,
        owners: names(&config.owners),
        groups: names(&config.groups),
        lease: u64::from(mounted.lease.clamp(1, 3600)) * 1_000_000_000,
        ..settings(config, servers, minor)
    };
    let volume = volume(config, settings, &mounted, 0)?;
    volume.watch(config.watches);
    Ok(volume)
}

fn settings(config: &Config, servers: Vec<SocketAddr>, minor: u32) -> Settings {
    Settings {
        servers: servers.leak(),
        minor,
        max_read: LARGEST as u32,
        max_write: LARGEST as u32,
        lease: 30_000_000_000,
        xattr: false,
        owners: Names::default(),
        groups: Names::default(),
        options: config.options,
    }
}

/// Keep names for as long as the process runs, as volumes are.
fn names(names: &[(String, u32)]) -> Names {
    let kept = names.iter().map(|(name, number)| {
        let name: &'static str = Box::leak(name.clone().into_boxed_str());
        (name, *number)
    });
    Names(Box::leak(kept.collect()))
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness there is still the clock.
    let _ = file::random(&mut bytes);
    u64::from_ne_bytes(bytes) ^ Instant::now().0
}

/// Give the number of this client: of this machine, this device and this export.
fn client_number(config: &Config) -> u64 {
    let mut name = std::fs::read("/etc/machine-id").unwrap_or_default();
    // Machines that were made from one image may have one number.
    name.extend(std::fs::read("/proc/sys/kernel/hostname").unwrap_or_default());
    let server = config.servers.join(",");
    for part in [&config.device, &server, &config.export] {
        name.push(0);
        name.extend_from_slice(part.as_bytes());
    }
    crate::mem::hash_bytes(0, &name)
}

fn volume(
    config: &Config,
    settings: Settings,
    mounted: &Mounted,
    probe: u64,
) -> Result<&'static NfsVolume, String> {
    let limits = if probe == 0 { config.limits } else { (1, 1) };
    let bytes = NfsVolume::footprint(limits.0, limits.1, settings.options.uncommitted);
    let arena = map::reserve(bytes).map_err(|error| error.to_string())?;
    let who = (client_number(config) ^ probe, random(), random());
    let root = (mounted.root, mounted.fsid, mounted.fileid);
    NfsVolume::new(&arena, settings, limits, who, root)
        .map_err(|_| "no memory for the nodes".to_string())
}

/// Ask the server for the export, as a client of its own that takes leave when it knows.
fn mount(
    config: &Config,
    server: SocketAddr,
    minor: u32,
    patience: Duration,
) -> Result<Result<Mounted, Status>, String> {
    let nothing = Mounted {
        root: Handle::EMPTY,
        fsid: (0, 0),
        fileid: 0,
        sizes: (0, 0),
        lease: 0,
        xattr: false,
        server: 0,
    };
    let probe = random() | 1;
    let settings = Settings {
        options: Options {
            connections: 1,
            uncommitted: 0,
            ..config.options
        },
        ..settings(config, std::vec![server], minor)
    };
    let volume = volume(config, settings, &nothing, probe)?;
    let arena = map::reserve(Nfs::footprint(1, 1)).map_err(|error| error.to_string())?;
    let path: &'static [u8] = match config.export.as_bytes() {
        b"" => b"/",
        path => Box::leak(path.to_vec().into_boxed_slice()),
    };
    let mut client = Nfs::new(&arena, volume, 1, path)
        .map_err(|_| "no memory or descriptor for a client".to_string())?;
    let started = std::time::Instant::now();
    loop {
        client.poll(Instant::now());
        if let Some(mounted) = client.mounted() {
            let found = std::time::Instant::now();
            while !client.leave() && found.elapsed() < LEAVE {
                client.poll(Instant::now());
                std::thread::sleep(Duration::from_millis(1));
            }
            return Ok(Ok(mounted));
        }
        if let Some(status) = client.mount_failed() {
            return Ok(Err(status));
        }
        if started.elapsed() > patience {
            return Err(format!(
                "{server}: no answer within {} s",
                patience.as_secs()
            ));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl NfsVolume {
    /// Make the client of one core, for so many requests in flight.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn attach(&'static self, requests: u32) -> Result<Nfs, String> {
        let bytes = Nfs::footprint(requests, self.settings.options.connections);
        let arena = map::reserve(bytes).map_err(|error| error.to_string())?;
        Nfs::new(&arena, self, requests, b"")
            .map_err(|_| "no memory or descriptor for the requests".to_string())
    }
}
