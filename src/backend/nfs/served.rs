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
#[cfg(feature = "tls")]
use super::starttls::ALPN;
use super::trunking;
pub use super::trunking::addresses;
use super::volume::{NfsVolume, Options, Settings};
use super::wire::Security;
use crate::backend::tls::Files;
#[cfg(feature = "tls")]
use crate::backend::tls::Trust;
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
    /// Files of TLS; `None` for connections without it.
    pub tls: Option<Files>,
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
    let found = trunking::named(&config.servers, config.port)?;
    let security = security(config.tls.as_ref(), &found)?;
    open_with(config, (&found, security), &[])
}

/// Find the server and the export as [`open`] does, and follow its referrals to the servers of [`Config::referrals`]. These
/// are looked up, but not connected to before a referral leads there. Those that have an address in common are one, also
/// with the server that is mounted, which is known by its names and addresses, too.
///
/// # Errors
/// What is wrong, in words.
pub fn open_namespace(config: &Config) -> Result<&'static NamespaceVolume, String> {
    let home = trunking::named(&config.servers, config.port)?;
    let mut servers = std::vec![(&config.servers, home)];
    let mut referrals = Vec::new();
    for (name, places) in &config.referrals {
        let found = trunking::named(places, config.port)?;
        let is_one = |one: &Named<'_>| found.iter().any(|(address, _)| *address == one.0);
        let shares = |(_, known): &(_, Vec<Named<'_>>)| known.iter().any(is_one);
        let client = servers.iter().position(shares).unwrap_or(servers.len());
        if client == servers.len() {
            servers.push((places, found));
        }
        referrals.push((name.clone(), client));
    }
    if servers.len() > MAX_CLIENTS {
        return Err(format!("referrals: more than {MAX_REFERRED} servers"));
    }
    let all: Vec<Named<'_>> = servers
        .iter()
        .flat_map(|(_, found)| found)
        .copied()
        .collect();
    let security = security(config.tls.as_ref(), &all)?;
    let addresses = servers[0].1.iter().map(|(at, _)| at.ip().to_string());
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
    let home = (&*servers[0].1, security);
    let mut members = std::vec![open_with(config, home, referrals)?];
    for (tag, (places, found)) in (0..).zip(&servers).skip(1) {
        let own = Config {
            servers: places.to_vec(),
            export: "/".into(),
            ..config.clone()
        };
        members.push(referred(&own, (found, security), tag, referrals)?);
    }
    Ok(Box::leak(Box::new(NamespaceVolume {
        members: members.leak(),
    })))
}

/// Make the volume of a server that a referral may lead to. Nothing is known of it.
fn referred(
    config: &Config,
    (found, security): Found<'_>,
    tag: u8,
    referrals: &'static [Referral],
) -> Result<&'static NfsVolume, String> {
    let settings = Settings {
        tag,
        export: "/",
        referrals,
        owners: names(&config.owners),
        groups: names(&config.groups),
        ..settings(config, (plain(found), security), config.minor)
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
    (found, security): Found<'_>,
    referrals: &'static [Referral],
) -> Result<&'static NfsVolume, String> {
    let addresses = plain(found);
    let patience = match addresses.len() {
        1 => PATIENCE,
        _ => PATIENCE_OF_SEVERAL,
    };
    let minors = config
        .minor
        .map_or(std::vec![2, 1], |minor| std::vec![minor]);
    let (first, (minor, mounted)) = trunking::first(&addresses, PATIENCE, |address| {
        let mut found = Err(Refusal::Status(Status::ERR_MINOR_VERS_MISMATCH));
        for minor in &minors {
            let at = (address, security);
            found = mount(config, at, *minor, patience)?.map(|mounted| (*minor, mounted));
            if !matches!(found, Err(Refusal::Status(_))) {
                break;
            }
        }
        Ok(found.map_err(|refusal| match refusal {
            Refusal::Status(_) => {
                format!("the server does not give {}: {refusal}", config.export)
            }
            Refusal::Tls(_) => refusal.to_string(),
        }))
    })?;
    let servers = trunking::same(first, &addresses, mounted.server, |address| {
        let found = mount(config, (address, security), minor, patience)?;
        found.map_err(|refusal| refusal.to_string())
    });
    let settings = Settings {
        export: Box::leak(config.export.clone().into_boxed_str()),
        referrals,
        owners: names(&config.owners),
        groups: names(&config.groups),
        ..settings(config, (servers, security), Some(minor))
    };
    let volume = volume(config, settings, &mounted, 0)?;
    volume.known.learn(&mounted);
    volume.watch(config.watches);
    Ok(volume)
}

/// Hold an address, and the name that was looked up for it.
pub type Named<'a> = (SocketAddr, &'a str);

/// Hold where a server is, and how it is reached.
type Found<'a> = (&'a [Named<'a>], Security);

fn plain(found: &[Named<'_>]) -> Vec<SocketAddr> {
    found.iter().map(|(address, _)| *address).collect()
}

/// Read whom connections trust: under the names that were looked up.
///
/// # Errors
/// Which file is not what it should be, in words.
#[cfg(feature = "tls")]
pub fn security(files: Option<&Files>, found: &[Named<'_>]) -> Result<Security, String> {
    let Some(files) = files else {
        return Ok(Security::default());
    };
    let mut trust = Trust::read(files, Some(ALPN))?;
    for (address, host) in found {
        trust.looked_up(*address, host);
    }
    let trust: &'static Trust = Box::leak(Box::new(trust));
    Ok(Security { trust: Some(trust) })
}

/// Refuse TLS.
///
/// # Errors
/// That there is none.
#[cfg(not(feature = "tls"))]
pub fn security(files: Option<&Files>, _: &[Named<'_>]) -> Result<Security, String> {
    match files {
        Some(_) => Err(crate::backend::tls::ABSENT.into()),
        None => Ok(Security::default()),
    }
}

fn settings(
    config: &Config,
    (servers, security): (Vec<SocketAddr>, Security),
    minor: Option<u32>,
) -> Settings {
    Settings {
        servers: servers.leak(),
        security,
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

/// Say why a server that answers does not give the export.
enum Refusal {
    /// As it says.
    Status(Status),
    /// It is not spoken with, in words.
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "only TLS does that"))]
    Tls(String),
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Status(status) => write!(out, "NFS4{}", status.name()),
            Self::Tls(words) => out.write_str(words),
        }
    }
}

/// Give why a client's mount did not succeed so far, beside the server's silence.
fn refusal(client: &Nfs) -> Option<Refusal> {
    let status = client.mount_failed()?;
    #[cfg(feature = "tls")]
    if let Some(fault) = client.fault() {
        return Some(Refusal::Tls(fault.to_string()));
    }
    Some(Refusal::Status(status))
}

/// Say what a server's silence means.
fn silence(client: &Nfs, server: &SocketAddr, patience: Duration) -> String {
    #[cfg(feature = "tls")]
    if let Some(fault) = client.fault() {
        return format!("{server}: {fault}");
    }
    let _ = client;
    format!("{server}: no answer within {} s", patience.as_secs())
}

/// Ask the server for the export, as a client of its own that takes leave when it knows.
fn mount(
    config: &Config,
    (server, security): (SocketAddr, Security),
    minor: u32,
    patience: Duration,
) -> Result<Result<Mounted, Refusal>, String> {
    let probe = random() | 1;
    let settings = Settings {
        options: Options {
            connections: 1,
            uncommitted: 0,
            ..config.options
        },
        ..settings(config, (std::vec![server], security), Some(minor))
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
        if let Some(refusal) = refusal(&client) {
            return Ok(Err(refusal));
        }
        if started.elapsed() > patience {
            return Err(silence(&client, &server, patience));
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
