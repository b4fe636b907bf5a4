//! A volume on a server, as the daemon serves it: found or made with waiting, before anything is served.

extern crate std;

use core::ffi::CStr;
use core::time::Duration;
use std::boxed::Box;
use std::ffi::CString;
use std::net::ToSocketAddrs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::string::{String, ToString};
use std::vec::Vec;
use std::{format, fs, thread};

use super::super::engine::{Client, Done, Failure, Op, Record, Token};
use super::super::served::Store;
use super::super::setup;
use super::client::Valkey;
use super::connection::{Aim, Made, Settings};
use super::link::Address;
use super::request::Durability;
use crate::backend::tls::Files;
#[cfg(feature = "tls")]
use crate::backend::tls::Trust;
use crate::mem::Segment;
use crate::sys::time::Instant;
use crate::sys::{file, map};

/// Time that a server gets to answer before anything is served.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Calls under way beside those of the host's requests: a lease, a sweep, and removals.
const SPARE: u32 = 80;
/// Longest password in bytes.
const PASSWORD_MAX: usize = 512;

/// Say where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Name or address, and port.
    Tcp(String, u16),
    /// An absolute path.
    Unix(PathBuf),
}

impl core::fmt::Display for Place {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(out, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(out, "{host}:{port}"),
            Self::Unix(path) => write!(out, "{}", path.display()),
        }
    }
}

/// Show where servers listen.
pub struct Places<'a>(pub &'a [Place]);

impl core::fmt::Display for Places<'_> {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().enumerate().try_for_each(|(at, place)| {
            let comma = if at == 0 { "" } else { ", " };
            write!(out, "{comma}{place}")
        })
    }
}

/// Say which volume is served, and how to reach it.
#[derive(Clone, Debug)]
pub struct Config<'a> {
    /// Where the server listens, or nodes of a cluster, at least one.
    pub places: &'a [Place],
    /// Who asks; `None` for the default user.
    pub user: Option<&'a str>,
    /// File with the password; its last line break does not count.
    pub password_file: Option<&'a Path>,
    /// Name of the volume.
    pub volume: &'a str,
    /// Size of the chunks of a new volume in bytes.
    pub chunk: u32,
    /// Nanoseconds without any answer after which requests fail.
    pub timeout: u64,
    /// What FSYNC and SYNCFS wait for; `None` for nothing.
    pub durability: Option<Durability>,
    /// Files of TLS; `None` for connections without it.
    pub tls: Option<&'a Files>,
    /// Whether content of large files spreads over the nodes of a cluster; `None` for as it was made, and of a new volume
    /// where there is a cluster.
    pub spread: Option<bool>,
}

/// Refuse what is configured when the volume was made otherwise.
fn agree(config: &Config<'_>, spread: bool) -> Result<(), String> {
    match config.spread {
        Some(wanted) if wanted != spread => Err(format!(
            "spread = {wanted}, but the volume {:?} was made with spread = {spread}, and stays so",
            config.volume
        )),
        _ => Ok(()),
    }
}

/// Hold a volume on a server that was found.
pub struct Server {
    settings: &'static Settings,
}

impl Server {
    /// Find the volume, or make it.
    ///
    /// # Errors
    /// Why it cannot be served, in words.
    pub fn open(config: &Config<'_>) -> Result<&'static Self, String> {
        Self::prepared(config, Aim::Make)
    }

    /// As [`Self::open`], for a volume that must be there.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn find(config: &Config<'_>) -> Result<&'static Self, String> {
        Self::prepared(config, Aim::Find)
    }

    fn prepared(config: &Config<'_>, aim: Aim) -> Result<&'static Self, String> {
        let settings: &'static Settings = Box::leak(Box::new(settings(config)?));
        let mut engine = engine(settings, aim, 1)?;
        wait(&mut engine)?;
        let found = engine.connection().found().cloned();
        let volume = found.ok_or_else(|| format!("no volume {:?}", config.volume))?;
        agree(config, volume.spread)?;
        let found = |timeout| -> &'static Settings {
            Box::leak(Box::new(Settings {
                chunk: volume.chunk,
                made: volume.made.clone(),
                spread: volume.spread,
                timeout,
                ..*settings
            }))
        };
        // Who starts is told soon.
        let patient = config.timeout.min(PATIENCE.as_nanos() as u64);
        let mut engine = self::engine(found(patient), Aim::Serve, 1)?;
        wait(&mut engine)?;
        setup::prepare(&mut engine).map_err(|error| match engine.connection().trouble() {
            Some(trouble) => format!("{error}: {trouble}"),
            None => error.to_string(),
        })?;
        if let Some(durability) = config.durability {
            let synced = setup::call(&mut engine, &Op::Sync, &mut |_| ());
            synced.map_err(|_| not_durable(durability))?;
        }
        let settings = found(config.timeout);
        Ok(Box::leak(Box::new(Self { settings })))
    }

    /// Look what is there, and change nothing. Gives it in words.
    ///
    /// # Errors
    /// Why it cannot be served, in words.
    pub fn look(config: &Config<'_>) -> Result<String, String> {
        let settings: &'static Settings = Box::leak(Box::new(settings(config)?));
        let mut engine = engine(settings, Aim::Look, 1)?;
        wait(&mut engine)?;
        let volume = match engine.connection().found() {
            Some(found) => {
                agree(config, found.spread)?;
                let spreads = if found.spread {
                    ", spread over the cluster"
                } else {
                    ""
                };
                format!("is there, in chunks of {} KiB{spreads}", found.chunk >> 10)
            }
            None => "will be made".to_string(),
        };
        let (server, name) = (engine.connection().server(), config.volume);
        Ok(format!(
            "{}: {server}; volume {name:?} {volume}",
            Places(config.places)
        ))
    }
}

impl Store for Server {
    type Engine = Valkey;

    fn attach(&'static self, requests: u32) -> Result<Valkey, String> {
        engine(self.settings, Aim::Serve, requests)
    }
}

/// Give the bytes of memory of an engine for so many requests in flight.
pub const fn footprint(requests: u32) -> usize {
    Valkey::footprint(requests + SPARE)
}

fn engine(settings: &'static Settings, aim: Aim, requests: u32) -> Result<Valkey, String> {
    let mut bytes = [[0; 8]; 3];
    // What the server remembers is kept by this number: two clients of one number would take each other's results.
    for bytes in &mut bytes {
        file::random(bytes).map_err(|error| format!("no random number: {error}"))?;
    }
    let arena = map::reserve(footprint(requests)).map_err(|error| error.to_string())?;
    let clients = bytes.map(u64::from_ne_bytes);
    Valkey::new(&arena, settings, aim, requests + SPARE, clients).map_err(|error| error.to_string())
}

fn not_durable(durability: Durability) -> String {
    match durability {
        Durability::Aof => {
            "durability \"aof\" needs a server with appendonly yes and WAITAOF: Valkey, or Redis from 7.2".into()
        }
        Durability::Replicas(count) => format!("{count} replicas were to confirm, and fewer did"),
    }
}

/// Take no answers: nothing is asked.
struct Nobody;

impl Client for Nobody {
    fn record(&mut self, _: Token, _: Record<'_>) {}

    fn buffers(&self, _: Token) -> &[Segment] {
        &[]
    }

    fn payload(&self, _: Token) -> &[Segment] {
        &[]
    }

    fn done(&mut self, _: Token, _: Result<Done, Failure>) {}
}

/// Wait until an engine serves, as long as there is hope.
fn wait(engine: &mut Valkey) -> Result<(), String> {
    use super::super::engine::Engine;
    let started = std::time::Instant::now();
    while !engine.connection().is_ready() {
        engine.poll(Instant::now(), &mut Nobody);
        match engine.connection().trouble() {
            Some(trouble) if !trouble.passes() || started.elapsed() > PATIENCE => {
                return Err(format!("{trouble}{}", trouble.hint()));
            }
            None if started.elapsed() > PATIENCE => {
                return Err(format!("no answer within {} s", PATIENCE.as_secs()));
            }
            _ => thread::sleep(Duration::from_micros(200)),
        }
    }
    Ok(())
}

fn leak(bytes: Vec<u8>) -> &'static [u8] {
    Box::leak(bytes.into_boxed_slice())
}

/// Resolve what is configured.
pub(super) fn settings(config: &Config<'_>) -> Result<Settings, String> {
    let password = match config.password_file {
        Some(path) => {
            password(path).map_err(|why| format!("password file {}: {why}", path.display()))?
        }
        None => Vec::new(),
    };
    let found = addresses(config.places)?;
    #[cfg(feature = "tls")]
    let tls = match config.tls {
        Some(files) => Some(&*Box::leak(Box::new(trust(files, &found)?))),
        None => None,
    };
    #[cfg(not(feature = "tls"))]
    if config.tls.is_some() {
        return Err(crate::backend::tls::ABSENT.into());
    }
    let addresses: Vec<_> = found.into_iter().map(|(_, address)| address).collect();
    Ok(Settings {
        addresses: addresses.leak(),
        user: leak(config.user.unwrap_or("").into()),
        password: leak(password),
        prefix: leak(format!("{{{}}}", config.volume).into_bytes()),
        chunk: config.chunk,
        made: Made::new(),
        timeout: config.timeout,
        durability: config.durability,
        #[cfg(feature = "tls")]
        tls,
        spread: false,
        written: Box::leak(Box::default()),
        spreads: config.spread,
    })
}

/// Read whom connections trust: under the names that were looked up.
#[cfg(feature = "tls")]
fn trust(files: &Files, found: &[(&Place, Address)]) -> Result<Trust, String> {
    let mut trust = Trust::read(files, None)?;
    for (place, address) in found {
        if let (Place::Tcp(host, _), Address::Tcp(address)) = (place, address) {
            trust.looked_up(*address, host);
        }
    }
    Ok(trust)
}

fn password(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = fs::read(path).map_err(|error| error.to_string())?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    match bytes.len() {
        1..=PASSWORD_MAX => Ok(bytes),
        len => Err(format!("{len} bytes; allowed: 1 to {PASSWORD_MAX}")),
    }
}

/// Look all up. Who cannot be found is left out, unless that is everybody.
fn addresses(places: &[Place]) -> Result<Vec<(&Place, Address)>, String> {
    let mut found = Vec::new();
    let mut problem = "no address".to_string();
    for place in places {
        match address(place) {
            Ok(address) => found.push((place, address)),
            Err(why) => problem = why,
        }
    }
    match found.is_empty() {
        true => Err(problem),
        false => Ok(found),
    }
}

fn address(place: &Place) -> Result<Address, String> {
    match place {
        Place::Tcp(host, port) => {
            let mut found = (host.as_str(), *port)
                .to_socket_addrs()
                .map_err(|error| error.to_string())?;
            Ok(Address::Tcp(found.next().ok_or("no address")?))
        }
        Place::Unix(path) => {
            let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
                return Err("no name of a socket".into());
            };
            let c_string = |bytes: &[u8]| CString::new(bytes).map_err(|error| error.to_string());
            let dir = c_string(dir.as_os_str().as_bytes())?;
            let name: &'static CStr = Box::leak(c_string(name.as_bytes())?.into_boxed_c_str());
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            let dir =
                file::openat(libc::AT_FDCWD, &dir, flags).map_err(|error| error.to_string())?;
            Ok(Address::Unix { dir, name })
        }
    }
}
