//! An export as the daemon serves it: found once, with waiting, then attached to each core.

extern crate std;

use core::time::Duration;
use std::boxed::Box;
use std::net::SocketAddr;
use std::string::{String, ToString};
use std::vec::Vec;

use super::allowed::{MAX_CLIENTS, MAX_REFERRED, Referral};
use super::idmap::Names;
use super::instance::Nfs;
use super::namespace::{Member, Namespace, NamespaceVolume};
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

/// Say which export is served, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names or addresses of the server, with or without a port.
    pub servers: Vec<String>,
    /// Its port, where none is said.
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
    /// Servers that referrals are followed to, at most [`MAX_REFERRED`]: the name or address that servers tell, and names
    /// or addresses to reach it by. Each has a client and tables as large as those of the server that is mounted.
    pub referrals: Vec<(String, Vec<String>)>,
    /// Nodes and open files, at most.
    pub limits: (u32, u32),
    /// Cores that are told by an io_uring what came ([`NfsVolume::watch`]); others ask their connections each time.
    pub watches: u32,
    /// What tells the device from all others of this machine, the same after a restart: with the machine's name, the
    /// name of this client at the server, which takes two of the same name for one that was restarted.
    pub device: String,
}

/// Find the server and the export, and make the volume. Referrals are not followed, whatever the configuration says.
///
/// # Errors
/// What is wrong, in words.
pub fn open(config: &Config) -> Result<&'static NfsVolume, String> {
    open_with(config, &[])
}

/// Find the server and the export as [`open`] does, and follow its referrals to the servers of [`Config::referrals`]. These
/// are looked up, but not connected to before a referral leads there. Those that have an address in common are one, also
/// with the server that is mounted, which is known by its names and addresses, too.
///
/// # Errors
/// What is wrong, in words.
pub fn open_namespace(config: &Config) -> Result<&'static NamespaceVolume, String> {
    let home = addresses(&config.servers, config.port)?;
    let mut servers = std::vec![(&config.servers, home)];
    let mut referrals = Vec::new();
    for (name, places) in &config.referrals {
        let found = addresses(places, config.port)?;
        let shares = |(_, known): &(_, Vec<SocketAddr>)| known.iter().any(|at| found.contains(at));
        let client = servers.iter().position(shares).unwrap_or(servers.len());
        if client == servers.len() {
            servers.push((places, found));
        }
        referrals.push((name.clone(), client));
    }
    if servers.len() > MAX_CLIENTS {
        return Err(format!("referrals: more than {MAX_REFERRED} servers"));
    }
    let addresses = servers[0].1.iter().map(|address| address.ip().to_string());
    let names = config.servers.iter();
    let names = names.map(|name| trunking::port_of(name, 0).0.to_string());
    for name in names.chain(addresses) {
        let is = |(known, _): &(String, usize)| known.eq_ignore_ascii_case(&name);
        if !referrals.iter().any(is) {
            referrals.push((name, 0));
        }
    }
    let referrals = referrals.into_iter().map(|(name, client)| Referral {
        name: Box::leak(name.into_boxed_str()),
        client: client as u8,
    });
    let referrals: &'static [Referral] = referrals.collect::<Vec<_>>().leak();
    let mut members = std::vec![open_with(config, referrals)?];
    for (tag, (places, addresses)) in (0..).zip(servers).skip(1) {
        let own = Config {
            servers: places.clone(),
            export: "/".into(),
            ..config.clone()
        };
        members.push(referred(&own, addresses, tag, referrals)?);
    }
    Ok(Box::leak(Box::new(NamespaceVolume {
        members: members.leak(),
    })))
}

/// Make the volume of a server that a referral may lead to. Nothing is known of it.
fn referred(
    config: &Config,
    addresses: Vec<SocketAddr>,
    tag: u8,
    referrals: &'static [Referral],
) -> Result<&'static NfsVolume, String> {
    let settings = Settings {
        tag,
        export: "/",
        referrals,
        owners: names(&config.owners),
        groups: names(&config.groups),
        ..settings(config, addresses, config.minor)
    };
    let volume = volume(config, settings, &NOTHING, 0)?;
    volume.watch(config.watches);
    Ok(volume)
}

/// What is known of a server before it is asked.
const NOTHING: Mounted = Mounted {
    root: Handle::EMPTY,
    fsid: (0, 0),
    fileid: 0,
    sizes: (0, 0),
    lease: 0,
    xattr: false,
    server: 0,
};

fn open_with(
    config: &Config,
    referrals: &'static [Referral],
) -> Result<&'static NfsVolume, String> {
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
        export: Box::leak(config.export.clone().into_boxed_str()),
        referrals,
        owners: names(&config.owners),
        groups: names(&config.groups),
        ..settings(config, servers, Some(minor))
    };
    let volume = volume(config, settings, &mounted, 0)?;
    volume.known.learn(&mounted);
    volume.watch(config.watches);
    Ok(volume)
}

fn settings(config: &Config, servers: Vec<SocketAddr>, minor: Option<u32>) -> Settings {
    Settings {
        servers: servers.leak(),
        minor,
        tag: 0,
        export: "/",
        referrals: &[],
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
    let probe = random() | 1;
    let settings = Settings {
        options: Options {
            connections: 1,
            uncommitted: 0,
            ..config.options
        },
        ..settings(config, std::vec![server], Some(minor))
    };
    let volume = volume(config, settings, &NOTHING, probe)?;
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
        // What was not met at the start is known by the root.
        let mount: &[u8] = if self.settings.tag == 0 { b"" } else { b"/" };
        Nfs::new(&arena, self, requests, mount)
            .map_err(|_| "no memory or descriptor for the requests".to_string())
    }
}

impl NamespaceVolume {
    /// Make the clients of one core, each for so many requests in flight.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn attach(&'static self, requests: u32) -> Result<Namespace, String> {
        let mut members = Vec::with_capacity(self.members.len());
        for member in self.members {
            members.push(Member::new(member.attach(requests)?));
        }
        Ok(Namespace::new(self, members.leak()))
    }
}
