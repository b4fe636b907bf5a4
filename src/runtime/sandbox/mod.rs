//! Giving up what the daemon no longer needs once everything with a path is open.
//!
//! A host that finds a hole in the daemon should find itself in an empty room:
//!
//! 1. name spaces of its own for mounts, IPC and, unless a backend makes connections, the network, with an empty
//!    read-only directory as root ([`room`]);
//! 2. no capabilities but those that a backend works with;
//! 3. no new privileges, no core dumps (they would hold tenants' data);
//! 4. no system calls but those that the configured HALs and backends use ([`calls`]).
//!
//! What stays open is what was opened before: sockets, `/dev/fuse`, directories that are served.
//!
//! The order of a start: [`raise_limits`], open everything, post a [`Warden`](super::warden::Warden), [`enter`], start
//! threads. Threads inherit all of it.

mod calls;
mod filter;
mod room;

use core::fmt;
use std::string::{String, ToString};
use std::vec::Vec;

pub use self::room::Room;
use super::config::{Backend, Config, Sandbox};
use crate::log::{info, warn};
use crate::sys::creds::cap;
use crate::sys::sandbox::{self as sys, Limit, UNLIMITED};
use crate::wire::errno::Errno;

/// Capabilities that backends work with, and their names.
const CAPABILITIES: &[(u32, &str)] = &[
    (cap::CHOWN, "chown"),
    (cap::DAC_OVERRIDE, "dac_override"),
    (cap::DAC_READ_SEARCH, "dac_read_search"),
    (cap::FOWNER, "fowner"),
    (cap::FSETID, "fsetid"),
    (cap::SETGID, "setgid"),
    (cap::SETUID, "setuid"),
    (cap::NET_BIND_SERVICE, "net_bind_service"),
    (cap::MKNOD, "mknod"),
    (cap::SETFCAP, "setfcap"),
];

/// Say why the sandbox could not be closed.
#[derive(Debug)]
pub struct SandboxError {
    /// What was tried.
    step: &'static str,
    why: String,
}

impl SandboxError {
    fn new(step: &'static str, why: impl fmt::Display) -> Self {
        Self {
            step,
            why: why.to_string(),
        }
    }
}

impl fmt::Display for SandboxError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "sandbox: {}: {}; for development, runtime.sandbox = \"none\" does without",
            self.step, self.why
        )
    }
}

impl std::error::Error for SandboxError {}

/// Raise the limits that start-up needs, before anything is opened.
///
/// # Errors
/// The configuration asks for more descriptors than the system allows.
pub fn raise_limits(config: &Config) -> Result<(), SandboxError> {
    let failed = |error: Errno| SandboxError::new("limit of open descriptors", error);
    let (now, at_most) = sys::limit(Limit::Descriptors).map_err(failed)?;
    match config.runtime.descriptors {
        Some(wanted) if wanted > at_most => {
            sys::set_limit(Limit::Descriptors, wanted, wanted).map_err(|error| {
                let why = format!("{wanted} of runtime.descriptors: {error}; allowed: {at_most}");
                SandboxError::new("limit of open descriptors", why)
            })?;
        }
        wanted => {
            let wanted = wanted.unwrap_or(at_most).max(now.min(at_most));
            sys::set_limit(Limit::Descriptors, wanted, at_most).map_err(failed)?;
        }
    }
    // Registered buffers of io_uring count as locked memory. Without the right to raise the limit, backends do with
    // what there is.
    let _ = sys::set_limit(Limit::Locked, UNLIMITED, UNLIMITED);
    Ok(())
}

/// Close the sandbox, for good: everything with a path is open, no other thread runs yet.
///
/// With `sandbox = "none"` this only warns.
///
/// # Errors
/// A step failed; the process may be half closed in and should end.
pub fn enter(config: &Config) -> Result<(), SandboxError> {
    if config.runtime.sandbox == Sandbox::None {
        warn!("no sandbox: a hole in this daemon is a hole in this machine");
        return Ok(());
    }
    if !sys::single_threaded() {
        return Err(SandboxError::new("threads", "there are others already"));
    }
    let connects = config.devices.iter().any(|each| each.backend.connects());
    let room = room::enter(&config.runtime.dir, connects)?;
    sys::set_limit(Limit::Core, 0, 0).map_err(|error| SandboxError::new("core dumps", error))?;
    sys::no_new_privileges().map_err(|error| SandboxError::new("new privileges", error))?;
    let keep = capabilities(config);
    sys::keep_capabilities(keep).map_err(|error| SandboxError::new("capabilities", error))?;
    let allowed = filter::install(config)?;
    info!(
        "sandbox closed: {}; {} system calls",
        crate::log::Show(&room),
        allowed
    );
    info!(
        "sandbox keeps capabilities: {}",
        crate::log::Show(&names(keep))
    );
    Ok(())
}

/// Give the capabilities that the configured backends work with.
fn capabilities(config: &Config) -> u64 {
    let of = |backend: &Backend| match backend {
        // A store's file is open before.
        Backend::Null { .. } | Backend::Kv(_) => 0,
        Backend::Nfs(nfs) if nfs.reserved_port => 1 << cap::NET_BIND_SERVICE,
        Backend::Nfs(_) => 0,
        // Every user's files can be read; nothing is made or changed.
        Backend::Local(local) if local.read_only => 1 << cap::DAC_READ_SEARCH,
        Backend::Local(_) => CAPABILITIES
            .iter()
            .filter(|(number, _)| *number != cap::NET_BIND_SERVICE)
            .fold(0, |set, (number, _)| set | 1 << number),
    };
    let devices = config.devices.iter();
    devices.fold(0, |set, device| set | of(&device.backend))
}

fn names(set: u64) -> String {
    let kept = CAPABILITIES
        .iter()
        .filter(|(number, _)| set & 1 << number != 0);
    let names: Vec<&str> = kept.map(|(_, name)| *name).collect();
    if names.is_empty() {
        return "none".into();
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(backend: &str) -> Config {
        let text = format!(
            "[[device]]\ntag = \"a\"\nhal = {{ kind = \"vhost-user\", socket = \"/s\" }}\nbackend = {{ {backend} }}"
        );
        Config::parse("f", &text).unwrap()
    }

    #[test]
    fn a_backend_without_files_needs_no_capability() {
        let set = capabilities(&config("kind = \"null\""));
        assert_eq!((set, names(set).as_str()), (0, "none"));
    }

    #[test]
    fn a_directory_that_is_only_read_needs_one() {
        let set = capabilities(&config("kind = \"local\", path = \"/p\", read_only = true"));
        assert_eq!(names(set), "dac_read_search");
        let set = capabilities(&config("kind = \"local\", path = \"/p\""));
        assert!(names(set).contains("chown") && !names(set).contains("sys_admin"));
    }

    #[test]
    fn threads_that_run_already_would_stay_outside() {
        // The harness of this test has threads.
        let error = enter(&config("kind = \"null\"")).unwrap_err().to_string();
        assert!(error.starts_with("sandbox: threads: "), "{error}");
        assert!(
            error.ends_with("runtime.sandbox = \"none\" does without"),
            "{error}"
        );
    }
}
