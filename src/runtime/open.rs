//! Opening what a configured device needs: its backend and its transport.

use core::time::Duration;
use std::boxed::Box;
use std::string::{String, ToString};
use std::vec::Vec;

use super::config::{self, Hal, KvEngine};
use super::device::{Backend, Control, Device, SessionEvents};
use super::lane;
use super::warden::{self, Task};
#[cfg(feature = "kv-embedded")]
use crate::backend::kv::embedded;
use crate::backend::kv::flat::{Look, served as flat};
use crate::backend::kv::ramcloud::server as ramcloud;
#[cfg(feature = "kv-embedded")]
use crate::backend::kv::served::EmbeddedVolume;
use crate::backend::kv::served::{self, Served, Store};
use crate::backend::kv::valkey::objects::server::Keys;
use crate::backend::kv::valkey::server::{self, Places, Server};
use crate::backend::local::{self, LocalVolume};
use crate::backend::nfs::{self, NamespaceVolume, NfsVolume};
use crate::backend::null::{self, Null};
use crate::fuse::{FileSystem, Limits, Session};
use crate::hal::fuse_dev::{self, FuseMount};
#[cfg(feature = "snap")]
use crate::hal::snap::{self, SnapConfig};
use crate::hal::vhost_user::{self, VhostUserConfig};
use crate::hal::{Events, Queue};
use crate::log::{info, warn};
use crate::sys::identity;

/// Idle milliseconds after which the kernel's polling thread sleeps.
const SQPOLL_IDLE: u32 = 50;

impl Backend for Null {
    fn attach(&'static self, _slots: u32) -> Result<Box<dyn FileSystem>, String> {
        Ok(Box::new(*self))
    }

    fn nodes(&self) -> u64 {
        1
    }

    fn open_files(&self) -> u64 {
        0
    }
}

impl Backend for LocalVolume {
    fn attach(&'static self, slots: u32) -> Result<Box<dyn FileSystem>, String> {
        let local = Self::attach(self, slots).map_err(|error| error.to_string())?;
        Ok(Box::new(local))
    }

    fn nodes(&self) -> u64 {
        Self::nodes(self).into()
    }

    fn open_files(&self) -> u64 {
        Self::open_files(self).into()
    }
}

impl<S: Store> Backend for Served<S> {
    fn attach(&'static self, slots: u32) -> Result<Box<dyn FileSystem>, String> {
        Ok(Box::new(Self::attach(self, slots)?))
    }

    fn nodes(&self) -> u64 {
        Self::nodes(self).into()
    }

    /// Opening a file leaves nothing here.
    fn open_files(&self) -> u64 {
        0
    }
}

impl<S: flat::Source> Backend for flat::Served<S> {
    fn attach(&'static self, slots: u32) -> Result<Box<dyn FileSystem>, String> {
        Ok(Box::new(Self::attach(self, slots)?))
    }

    fn nodes(&self) -> u64 {
        Self::nodes(self).into()
    }

    /// Opening a file leaves nothing here.
    fn open_files(&self) -> u64 {
        0
    }
}

impl Backend for NfsVolume {
    fn attach(&'static self, slots: u32) -> Result<Box<dyn FileSystem>, String> {
        Ok(Box::new(Self::attach(self, slots)?))
    }

    fn nodes(&self) -> u64 {
        Self::nodes(self).into()
    }

    fn open_files(&self) -> u64 {
        Self::open_files(self).into()
    }
}

impl Backend for NamespaceVolume {
    fn attach(&'static self, slots: u32) -> Result<Box<dyn FileSystem>, String> {
        Ok(Box::new(Self::attach(self, slots)?))
    }

    fn nodes(&self) -> u64 {
        Self::nodes(self)
    }

    fn open_files(&self) -> u64 {
        Self::open_files(self)
    }
}

fn open_nfs(device: &config::Device, nfs: &config::Nfs) -> Result<&'static dyn Backend, String> {
    let cache = match nfs.cache {
        config::Cache::None => nfs::Cache::None,
        config::Cache::Auto => nfs::Cache::Auto,
        config::Cache::Always => nfs::Cache::Always,
    };
    let config = nfs::served::Config {
        servers: nfs.servers.clone(),
        port: nfs.port,
        export: nfs.export.clone(),
        minor: nfs.minor,
        options: nfs::Options {
            connections: nfs.connections,
            soft: nfs.soft,
            timeo: nfs.timeo,
            retrans: nfs.retrans,
            reserved_port: nfs.reserved_port,
            cache,
            read_only: nfs.read_only,
            anonymous: nfs.anonymous,
            server_locks: nfs.server_locks,
            uncommitted: nfs.uncommitted as usize,
        },
        owners: nfs.owners.clone(),
        groups: nfs.groups.clone(),
        referrals: nfs.referrals.clone(),
        tls: nfs.tls.clone(),
        limits: (device.limits.nodes, device.limits.open_files),
        watches: match nfs.io_uring {
            true => device.hal.queues().into(),
            false => 0,
        },
        device: format!("{} {:?}", device.tag, device.hal),
    };
    // Who follows nothing has nothing on its way that would.
    Ok(match nfs.referrals.is_empty() {
        true => nfs::served::open(&config)?,
        false => nfs::served::open_namespace(&config)?,
    })
}

/// Say how a device reaches a volume on a server.
pub(super) fn valkey_config<'a>(kv: &config::Kv, valkey: &'a config::Valkey) -> server::Config<'a> {
    server::Config {
        places: &valkey.places,
        user: valkey.user.as_deref(),
        password_file: valkey.password_file.as_deref(),
        volume: &valkey.volume,
        chunk: kv.chunk,
        timeout: valkey.timeout,
        durability: valkey.durability,
        tls: valkey.tls.as_ref(),
        spread: valkey.spread,
    }
}

/// Give how long the host may remember names and attributes; it looks at its data again when they changed.
const fn memory(cache: config::Cache) -> Duration {
    match cache {
        config::Cache::None => Duration::ZERO,
        config::Cache::Auto => Duration::from_secs(1),
        config::Cache::Always => served::ALWAYS,
    }
}

/// Serve the objects of an engine as files.
fn open_flat<S: flat::Source>(
    source: Result<S, String>,
    place: &str,
    (kv, cache): (&config::Kv, config::Cache),
    limits: &config::Limits,
) -> Result<&'static dyn Backend, String> {
    let source = source.map_err(|error| format!("{place}: {error}"))?;
    let config::Layout::Flat { uid, gid, mode } = kv.layout else {
        return Err(format!("{place}: only the flat layout is there"));
    };
    let look = Look {
        uid,
        gid,
        mode,
        ttl: memory(cache),
        keep: cache == config::Cache::Always,
        read_only: kv.read_only,
    };
    let volume = flat::Served::new(source, limits.nodes, look)?;
    Ok(Box::leak(Box::new(volume)))
}

/// Show where a table is.
pub(super) fn table_place(config: &ramcloud::Config) -> String {
    let (host, port) = &config.coordinator;
    format!("{host}:{port}")
}

fn open_kv(kv: &config::Kv, limits: &config::Limits) -> Result<&'static dyn Backend, String> {
    match &kv.engine {
        #[cfg(feature = "kv-embedded")]
        KvEngine::Embedded(embedded) => {
            let place = embedded.path.as_deref().unwrap_or(":memory:".as_ref());
            let volume = EmbeddedVolume::open(&served::Config {
                store: embedded::Config {
                    path: embedded.path.as_deref(),
                    chunk: kv.chunk,
                    cache: embedded.memory as usize,
                },
                nodes: limits.nodes,
                read_only: kv.read_only,
            });
            let volume = volume.map_err(|error| format!("{}: {error}", place.display()))?;
            Ok(Box::leak(Box::new(volume)))
        }
        KvEngine::Ramcloud(ramcloud) => {
            let server = ramcloud::Server::open(&ramcloud.table);
            let place = table_place(&ramcloud.table);
            open_flat(server, &place, (kv, ramcloud.cache), limits)
        }
        KvEngine::Valkey(valkey) if kv.layout != config::Layout::Tree => {
            let keys = Keys::open(&valkey_config(kv, valkey));
            let place = Places(&valkey.places).to_string();
            open_flat(keys, &place, (kv, valkey.cache), limits)
        }
        KvEngine::Valkey(valkey) => {
            let server = Server::open(&valkey_config(kv, valkey));
            let server = server.map_err(|error| format!("{}: {error}", Places(&valkey.places)))?;
            let ttl = memory(valkey.cache);
            let volume = Served::new(server, limits.nodes, ttl, kv.read_only)?;
            Ok(Box::leak(Box::new(volume)))
        }
    }
}

fn local_config(local: &config::Local, limits: &config::Limits) -> local::Config {
    local::Config {
        cache: match local.cache {
            config::Cache::None => local::Cache::None,
            config::Cache::Auto => local::Cache::Auto,
            config::Cache::Always => local::Cache::Always,
        },
        read_only: local.read_only,
        writeback: local.writeback,
        acl: local.acl,
        direct_io: local.direct_io,
        nodes: limits.nodes,
        open_files: limits.open_files,
        descriptors: local.descriptors,
        workers: local.workers.into(),
        sqpoll: local.sqpoll.then_some(SQPOLL_IDLE),
        blocking_writes: local.blocking_writes,
        ..local::Config::new(&local.path)
    }
}

/// Hold the control side of a vhost-user socket, and how to remove the socket from outside of the sandbox.
struct Bound {
    control: vhost_user::Control,
    removal: Option<Task>,
}

impl Control for Bound {
    fn start(&mut self) -> Result<(), String> {
        self.control.start().map_err(|error| error.to_string())
    }

    /// The control side would remove its socket, too, and finds in the sandbox that it is out of reach.
    fn stop(&mut self) {
        self.control.stop();
    }

    fn cleanup(&mut self) -> Option<Task> {
        self.removal.take()
    }
}

impl Control for FuseMount {
    fn start(&mut self) -> Result<(), String> {
        info!(
            "mounted on {}",
            crate::log::Show(&self.mountpoint().display())
        );
        Ok(())
    }

    /// Nothing is left to stop: the clean-up unmounted, which brought what the host had still to write.
    fn stop(&mut self) {}

    fn cleanup(&mut self) -> Option<Task> {
        let mut mounted = self.mounted().clone();
        Some(Box::new(move || {
            if let Err(failed) = mounted.unmount() {
                warn!("{}", crate::log::Show(&failed));
            }
        }))
    }
}

#[cfg(feature = "snap")]
impl Control for snap::Control {
    fn start(&mut self) -> Result<(), String> {
        Self::start(self).map_err(|error| error.to_string())
    }

    fn stop(&mut self) {
        Self::stop(self);
    }

    /// The firmware takes a function back from a process that ends.
    fn cleanup(&mut self) -> Option<Task> {
        None
    }
}

/// Open everything that a device needs; a SNAP function gets so many poll groups.
///
/// # Errors
/// What the machine does not have or does not allow, in words.
pub fn open(device: &config::Device, poll_groups: u32) -> Result<Device, String> {
    let backend = open_backend(device)?;
    let session = Session::new(backend, session_limits(&device.hal), device.client_arch);
    let session: &'static Session = Box::leak(Box::new(session));
    let events: &'static dyn Events = Box::leak(Box::new(SessionEvents(session)));
    let (queues, control) = open_hal(device, poll_groups, events)?;
    Ok(Device {
        tag: device.tag.clone(),
        session,
        backend,
        queues,
        depth: device.hal.lane_depth(),
        control,
    })
}

fn session_limits(hal: &Hal) -> Limits {
    let in_flight = u32::from(hal.queues()) * u32::from(hal.depth());
    Limits {
        max_background: u16::try_from(in_flight).unwrap_or(u16::MAX),
        ..Limits::default()
    }
}

/// Open a device's backend.
///
/// # Errors
/// As for [`open`].
pub fn open_backend(device: &config::Device) -> Result<&'static dyn Backend, String> {
    match &device.backend {
        config::Backend::Null { file_size } => {
            let null = Null::new(null::Config {
                file_size: *file_size,
                ..null::Config::default()
            });
            Ok(Box::leak(Box::new(null)))
        }
        config::Backend::Local(local) => {
            let volume = LocalVolume::open(local_config(local, &device.limits));
            Ok(volume.map_err(|error| format!("{}: {error}", local.path.display()))?)
        }
        config::Backend::Kv(kv) => open_kv(kv, &device.limits),
        config::Backend::Nfs(nfs) => open_nfs(device, nfs).map_err(|error| format!("nfs: {error}")),
    }
}

/// Hold a transport's queues and its control side.
type Transport = (Vec<Box<dyn lane::Served + Send>>, Box<dyn Control>);

fn boxed<Q: Queue + Send + 'static>(queues: Vec<Q>) -> Vec<Box<dyn lane::Served + Send>> {
    queues
        .into_iter()
        .map(|queue| -> Box<dyn lane::Served + Send> { Box::new(queue) })
        .collect()
}

#[cfg_attr(
    not(feature = "snap"),
    expect(unused_variables, reason = "only SNAP has poll groups")
)]
fn open_hal(
    device: &config::Device,
    poll_groups: u32,
    events: &'static dyn Events,
) -> Result<Transport, String> {
    match &device.hal {
        #[cfg(feature = "snap")]
        Hal::Snap {
            manager,
            pf,
            vf,
            queues,
            depth,
        } => {
            let config = SnapConfig {
                manager: manager.clone(),
                pf: *pf,
                vf: *vf,
                tag: device.tag.clone(),
                request_queues: *queues,
                depth: *depth,
                poll_groups,
            };
            let (queues, control) = snap::open(config, events).map_err(|e| e.to_string())?;
            Ok((boxed(queues), Box::new(control)))
        }
        #[cfg(not(feature = "snap"))]
        Hal::Snap { .. } => Err(super::NO_SNAP.into()),
        Hal::VhostUser {
            socket,
            queues,
            interrupt_hold,
            ..
        } => {
            let config = VhostUserConfig {
                socket: socket.clone(),
                mode: 0o600,
                tag: device.tag.clone(),
                request_queues: *queues,
                interrupt_hold: *interrupt_hold,
                inband_notifications: false,
            };
            let bound = vhost_user::bind(&config, events);
            let (queues, control) =
                bound.map_err(|error| format!("{}: {error}", socket.display()))?;
            let bound = Bound {
                control,
                removal: Some(warden::removal(socket)),
            };
            Ok((boxed(queues), Box::new(bound)))
        }
        Hal::Fuse {
            mountpoint,
            queues,
            depth,
        } => {
            let config = fuse_dev::Config {
                queues: *queues,
                depth: *depth,
                // The helper lets other users in only where `/etc/fuse.conf` says so.
                allow_other: identity::uid() == 0,
                ..fuse_dev::Config::new(mountpoint, device.tag.clone())
            };
            let (queues, mount) = fuse_dev::mount(&config, events).map_err(|e| e.to_string())?;
            Ok((boxed(queues), Box::new(mount)))
        }
    }
}
