//! `dpfs check`: whether this machine can do what a configuration asks for, without changing anything.
//!
//! Each probe asks the same of the system as a start would, as far as that leaves no trace: nothing is created, bound
//! or mounted, and servers are asked for nothing that changes them.

use core::fmt;
use std::ffi::CString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::string::{String, ToString};
use std::thread;
use std::vec::Vec;

use super::budget::Budget;
use super::config::units::rough_size;
use super::config::{
    self, Backend, Config, Device, Hal, Kv, KvEngine, Layout, Local, Nfs, Sandbox, Valkey,
};
use super::open::{table_place, valkey_config};
use super::stats::{Snapshot, State};
use crate::backend::kv::ramcloud::server as ramcloud;
use crate::backend::kv::valkey::objects::server::Keys;
use crate::backend::kv::valkey::server::{Places, Server};
use crate::backend::nfs::served::{addresses, security};
use crate::sys::sandbox::{Limit, limit, space, unshare};
use crate::sys::{access, affinity, creds, device, identity};
use crate::wire::errno::Errno;

/// What a probe found: what it is about, and either how it is or why it does not do.
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// How it is, or why it does not do.
    pub result: Result<String, String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.result {
            Ok(how) => write!(out, "ok    {}: {how}", self.what),
            Err(why) => write!(out, "FAIL  {}: {why}", self.what),
        }
    }
}

/// Do all probes for a configuration.
pub fn all(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut note = |what: String, result| findings.push(Finding { what, result });
    for &number in &config.runtime.cores {
        note(format!("core {number}"), core(number));
    }
    note("runtime.dir".into(), runtime_dir(&config.runtime.dir));
    note("memory".into(), memory(Budget::of(config).total()));
    note(
        "open descriptors".into(),
        descriptors(config.runtime.descriptors),
    );
    if config.runtime.sandbox == Sandbox::Full {
        note("sandbox".into(), sandbox());
    }
    for device in &config.devices {
        let name = |part: &str| format!("device \"{}\": {part}", device.tag);
        match &device.hal {
            Hal::VhostUser { socket, .. } => note(name("socket"), self::socket(socket)),
            Hal::Snap { .. } => note(name("function"), function(&device.hal)),
            Hal::Fuse { mountpoint, .. } => {
                note(name("/dev/fuse"), fuse_device());
                note(name("mountpoint"), self::mountpoint(mountpoint));
            }
        }
        match &device.backend {
            Backend::Null { .. } => {}
            Backend::Local(local) => {
                note(name("path"), directory(local));
                note(name("io_uring"), io_uring(device));
            }
            Backend::Kv(kv) => match &kv.engine {
                #[cfg(feature = "kv-embedded")]
                KvEngine::Embedded(embedded) => note(name("path"), store(embedded)),
                KvEngine::Valkey(valkey) => note(name("server"), valkey_server(kv, valkey)),
                KvEngine::Ramcloud(ramcloud) => note(name("coordinator"), table(ramcloud)),
            },
            Backend::Nfs(nfs) => note(name("server"), nfs_server(nfs)),
        }
    }
    findings
}

/// Bind a thread that then ends.
fn core(number: usize) -> Result<String, String> {
    let bound = thread::spawn(move || affinity::pin(number)).join();
    match bound {
        Ok(Ok(())) => Ok("can be bound to".into()),
        Ok(Err(Errno::EINVAL)) => {
            Err("this machine has no such core, or this process may not use it".into())
        }
        Ok(Err(error)) => Err(format!("cannot be bound to: {error}")),
        Err(_) => Err("no thread can be started".into()),
    }
}

fn runtime_dir(dir: &Path) -> Result<String, String> {
    if let Ok(Snapshot {
        state: State::Running,
        pid,
        ..
    }) = Snapshot::load(dir)
    {
        return Err(format!(
            "{}: another dpfs uses it (process {pid})",
            dir.display()
        ));
    }
    // Folders that are missing will be made in the nearest one that is there.
    let there = dir.ancestors().find(|ancestor| ancestor.exists());
    let there = there.unwrap_or(Path::new("/"));
    if !there.is_dir() {
        return Err(format!("{}: not a folder", there.display()));
    }
    may(access::may_change, there)?;
    if there == dir {
        Ok(format!("{}: usable", dir.display()))
    } else {
        Ok(format!(
            "{}: will be made in {}",
            dir.display(),
            there.display()
        ))
    }
}

fn memory(wanted: u64) -> Result<String, String> {
    let text = fs::read_to_string("/proc/meminfo").map_err(|error| error.to_string())?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kibibytes << 10)
    };
    let total = field("MemTotal:").ok_or("/proc/meminfo has no MemTotal")?;
    let has = format!(
        "{} asked for, {} in this machine",
        rough_size(wanted),
        rough_size(total)
    );
    if wanted <= total { Ok(has) } else { Err(has) }
}

fn descriptors(wanted: Option<u64>) -> Result<String, String> {
    let (_, at_most) = limit(Limit::Descriptors).map_err(|error| error.to_string())?;
    let system = fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    let system: u64 = system.trim().parse().unwrap_or(at_most);
    let may_raise = creds::capabilities().is_ok_and(|now| now.has(creds::cap::SYS_RESOURCE));
    let allowed = if may_raise {
        system.max(at_most)
    } else {
        at_most
    };
    match wanted {
        Some(wanted) if wanted > allowed => Err(format!("{wanted} asked for; allowed: {allowed}")),
        _ => Ok(format!("{}", wanted.unwrap_or(at_most))),
    }
}

/// Leave the name spaces with a thread that then ends.
fn sandbox() -> Result<String, String> {
    if !Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
        return Err("this kernel has no filters of system calls".into());
    }
    match thread::spawn(|| unshare(space::MOUNTS | space::IPC)).join() {
        Ok(Ok(())) => Ok("empty root by pivot_root".into()),
        Ok(Err(_)) if identity::uid() == 0 => {
            Ok("empty root by chroot: mounts are not permitted".into())
        }
        Ok(Err(error)) => users_name_spaces().map_err(|why| format!("{error}; {why}")),
        Err(_) => Err("no thread can be started".into()),
    }
}

/// Tell whether users get name spaces; trying it takes a process of one thread.
fn users_name_spaces() -> Result<String, String> {
    for (file, none) in [
        ("user/max_user_namespaces", "0"),
        ("kernel/unprivileged_userns_clone", "0"),
    ] {
        let value = fs::read_to_string(format!("/proc/sys/{file}")).unwrap_or_default();
        if value.trim() == none {
            return Err(format!(
                "/proc/sys/{file} is {none}: run as root, allow user name spaces, or use runtime.sandbox = \"none\""
            ));
        }
    }
    Ok("empty root by pivot_root, in a name space of users".into())
}

/// Look the server up, and read the files of TLS. Whether it gives the export shows when it is asked, at the start.
fn nfs_server(nfs: &Nfs) -> Result<String, String> {
    security(nfs.tls.as_ref(), &[])?;
    let one = |names: &[String]| {
        let found = addresses(names, nfs.port)?;
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        Ok::<_, String>(format!("{}: {}", names.join(", "), found.join(", ")))
    };
    let mut all = one(&nfs.servers)?;
    for (name, places) in &nfs.referrals {
        all += &format!("; referrals to {name}: {}", one(places)?);
    }
    Ok(all + ", not connected to")
}

/// Ask a server who it is, and whether the volume is there.
fn valkey_server(kv: &Kv, valkey: &Valkey) -> Result<String, String> {
    let config = valkey_config(kv, valkey);
    let found = match kv.layout {
        Layout::Tree => Server::look(&config),
        Layout::Flat { .. } => Keys::look(&config),
    };
    found.map_err(|error| format!("{}: {error}", Places(&valkey.places)))
}

/// Ask a coordinator what it has, and whether the table is there.
fn table(ramcloud: &config::Ramcloud) -> Result<String, String> {
    let found = ramcloud::Server::look(&ramcloud.table);
    found.map_err(|error| format!("{}: {error}", table_place(&ramcloud.table)))
}

/// Look whether a store is there, or can be made. Opening it would lock it.
#[cfg(feature = "kv-embedded")]
fn store(embedded: &super::config::Embedded) -> Result<String, String> {
    let Some(path) = &embedded.path else {
        return Ok("in memory, gone with the daemon".into());
    };
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            Err(format!("{}: is there and is no file", path.display()))
        }
        Ok(_) => {
            let opened = fs::OpenOptions::new().read(true).write(true).open(path);
            opened.map_err(|error| format!("{}: {error}", path.display()))?;
            Ok(format!("{}: is there", path.display()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let dir = path.parent().unwrap_or(Path::new("/"));
            if !dir.is_dir() {
                return Err(format!("{}: no such folder", dir.display()));
            }
            may(access::may_change, dir)?;
            Ok(format!("{}: will be made", path.display()))
        }
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn socket(path: &Path) -> Result<String, String> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    if !dir.is_dir() {
        return Err(format!("{}: no such folder", dir.display()));
    }
    may(access::may_change, dir)?;
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            Err(format!("{}: is there and is no socket", path.display()))
        }
        Ok(_) if listening(path) => {
            Err(format!("{}: another process listens there", path.display()))
        }
        Ok(_) => Ok(format!(
            "{}: left by a process that is gone; will be replaced",
            path.display()
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Ok(format!("{}: will be made", path.display()))
        }
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Look a socket up in the system's table: connecting would disturb who listens.
///
/// The table has the name under which a socket was bound. Our own are bound with a `~` behind and renamed.
fn listening(path: &Path) -> bool {
    let table = fs::read("/proc/net/unix").unwrap_or_default();
    table.split(|&byte| byte == b'\n').any(|line| {
        let path = path.as_os_str().as_bytes();
        let line = line.strip_suffix(b"~").unwrap_or(line);
        line.ends_with(path) && line[..line.len() - path.len()].ends_with(b" ")
    })
}

fn mountpoint(path: &Path) -> Result<String, String> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(format!("{}: usable", path.display())),
        Ok(_) => Err(format!("{}: not a folder", path.display())),
        Err(error) if error.kind() == ErrorKind::NotConnected => Err(format!(
            "{0}: a daemon that mounted here died; clear it with `umount {0}`",
            path.display()
        )),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Look whether a DPU has a function.
#[cfg(feature = "snap")]
fn function(hal: &Hal) -> Result<String, String> {
    super::functions::check(hal)
}

#[cfg(not(feature = "snap"))]
fn function(_: &Hal) -> Result<String, String> {
    Err(super::NO_SNAP.into())
}

/// Tell whether this process can mount through `/dev/fuse`, and how.
///
/// # Errors
/// Why not, in words.
pub fn fuse_device() -> Result<String, String> {
    match device::open(c"/dev/fuse") {
        Ok(_) if identity::uid() == 0 => Ok("mounted directly".into()),
        Ok(_) | Err(Errno::EACCES | Errno::EPERM) => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let found = std::env::split_paths(&path).any(|dir| dir.join("fusermount3").exists());
            if found {
                Ok("mounted by fusermount3".into())
            } else {
                Err("without root, fusermount3 is needed (Debian: package fuse3)".into())
            }
        }
        Err(error) => Err(format!(
            "/dev/fuse: {error}; the kernel's module is loaded by `modprobe fuse`"
        )),
    }
}

fn directory(local: &Local) -> Result<String, String> {
    let path = &local.path;
    let found = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if !found.is_dir() {
        return Err(format!("{}: not a directory", path.display()));
    }
    may(access::may_read, path)?;
    if local.read_only {
        return Ok(format!("{}: readable", path.display()));
    }
    may(access::may_change, path)?;
    Ok(format!("{}: readable and writable", path.display()))
}

/// Make a ring as large as a start would, and drop it.
fn io_uring(device: &Device) -> Result<String, String> {
    let entries = u32::from(device.hal.depth());
    match io_uring::IoUring::new(entries) {
        Ok(_) => Ok("allowed".into()),
        Err(error) => Err(format!(
            "{error}; it needs Linux 5.6 and /proc/sys/kernel/io_uring_disabled = 0"
        )),
    }
}

fn may(ask: impl Fn(&std::ffi::CStr) -> crate::sys::Result<()>, path: &Path) -> Result<(), String> {
    let words = |why: String| format!("{}: {why}", path.display());
    let c_path =
        CString::new(path.as_os_str().as_bytes()).map_err(|error| words(error.to_string()))?;
    ask(&c_path).map_err(|error| words(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_socket_that_is_served_is_told_from_one_that_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        assert!(socket(&path).unwrap().ends_with("will be made"));
        let listener = UnixListener::bind(&path).unwrap();
        assert!(
            socket(&path)
                .unwrap_err()
                .ends_with("another process listens there")
        );
        drop(listener);
        assert!(socket(&path).unwrap().ends_with("will be replaced"));
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(socket(&path).unwrap_err().ends_with("is no socket"));
        assert!(
            socket(Path::new("/nonexistent/s"))
                .unwrap_err()
                .ends_with("no such folder")
        );
    }

    #[cfg(feature = "tls")]
    #[test]
    fn files_of_tls_are_read() {
        let text = "[[device]]\ntag = \"a\"\nhal = { kind = \"vhost-user\", socket = \"/s\" }\nbackend = { kind = \"nfs\", \
                    server = \"127.0.0.1\", export = \"/\", tls = true, tls_ca = \"/nonexistent/ca\" }";
        let config = Config::parse("f", text).unwrap();
        let Backend::Nfs(nfs) = &config.devices[0].backend else {
            panic!("{:?}", config.devices[0].backend);
        };
        let error = nfs_server(nfs).unwrap_err();
        assert!(error.starts_with("tls_ca /nonexistent/ca: "), "{error}");
    }

    #[test]
    fn nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("a/b");
        assert!(runtime_dir(&missing).unwrap().contains("will be made in"));
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn what_this_machine_does_not_have_is_said() {
        assert!(core(1023).is_err());
        assert!(memory(1 << 50).is_err());
        assert!(
            descriptors(Some(1 << 40))
                .unwrap_err()
                .contains("allowed: ")
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(
            mountpoint(file.path())
                .unwrap_err()
                .ends_with("not a folder")
        );
    }

    #[test]
    fn findings_begin_with_the_verdict() {
        let finding = |result| {
            Finding {
                what: "core 3".into(),
                result,
            }
            .to_string()
        };
        assert_eq!(
            finding(Ok("can be bound to".into())),
            "ok    core 3: can be bound to"
        );
        assert_eq!(finding(Err("no".into())), "FAIL  core 3: no");
    }
}
