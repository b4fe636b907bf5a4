//! Bringing the device up and taking it away.

use std::ffi::{CStr, CString, OsString};
use std::format;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::string::{String, ToString};
use std::sync::Arc;
use std::vec::Vec;

use super::error::MountError;
use super::queue::{FuseQueue, Shared};
use crate::hal::Events;
use crate::log::debug;
use crate::sys::fd::Fd;
use crate::sys::mount as sys_mount;
use crate::sys::{self, device, identity, socket};
use crate::wire::errno::Errno;

/// The kernel's FUSE device.
const DEVICE: &CStr = c"/dev/fuse";

/// `FUSE_DEV_IOC_CLONE`, `_IOR(229, 0, uint32_t)`.
const CLONE: u32 = 0x8004_e500;

/// The helper that mounts for users, set-user-ID root.
const HELPER: &str = "fusermount3";

/// Where the helper looks for its socket, here its standard input.
const HELPER_SOCKET: (&str, &str) = ("_FUSE_COMMFD", "0");

/// Type after "fuse." in the table of mounts.
const SUBTYPE: &str = "dpfs";

/// Choose who mounts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Method {
    /// Mount directly, and with the helper when that is not permitted.
    #[default]
    Auto,
    /// mount(2), which needs `CAP_SYS_ADMIN`.
    Direct,
    /// `fusermount3`, for any user who owns the mount point.
    Helper,
}

/// Describe a mount.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory to mount on.
    pub mountpoint: PathBuf,
    /// Name that the table of mounts shows.
    pub fsname: String,
    /// Queues, one for each core that is to serve the mount: 1 to 64.
    pub queues: u16,
    /// Requests in flight per queue: 1 to 1024.
    pub depth: u16,
    /// Largest READ or WRITE in bytes, as the session negotiates it: a multiple of 4096, at most 1 MiB.
    pub max_write: u32,
    /// Let other users in; permissions are then checked by the kernel. For users, `/etc/fuse.conf` must allow it.
    pub allow_other: bool,
    /// Mount read-only.
    pub read_only: bool,
    /// Who mounts.
    pub method: Method,
}

impl Config {
    /// Describe a mount with one queue of 64 requests, up to 1 MiB each, for the calling user alone.
    pub fn new(mountpoint: impl Into<PathBuf>, fsname: impl Into<String>) -> Self {
        Self {
            mountpoint: mountpoint.into(),
            fsname: fsname.into(),
            queues: 1,
            depth: 64,
            max_write: 1 << 20,
            allow_other: false,
            read_only: false,
            method: Method::Auto,
        }
    }

    fn check(&self) -> Result<(), MountError> {
        let bad = if !(1..=64).contains(&self.queues) {
            "queues: 1 to 64"
        } else if !(1..=1024).contains(&self.depth) {
            "depth: 1 to 1024"
        } else if !self.max_write.is_multiple_of(4096)
            || !(4096..=1 << 20).contains(&self.max_write)
        {
            "max_write: a multiple of 4096 from 4096 to 1048576"
        } else if self.fsname.is_empty() || self.fsname.contains('\0') {
            "fsname: not empty, without NUL"
        } else {
            return Ok(());
        };
        Err(MountError::Config(bad))
    }
}

/// Mount, and give a queue for each core and the control over the mount.
///
/// The kernel sends INIT at once; every other user of the mount point waits until it is answered. Do not touch the
/// mount point from a thread that is to answer. `events` hears of the end, on the thread of the queue that noticed.
///
/// # Errors
/// [`MountError`]; nothing is left mounted then.
pub fn mount(
    config: &Config,
    events: &'static dyn Events,
) -> Result<(Vec<FuseQueue>, FuseMount), MountError> {
    config.check()?;
    let mountpoint = resolve(&config.mountpoint)?;
    let (device, method) = match config.method {
        Method::Direct => (direct(config, &mountpoint)?, Method::Direct),
        Method::Helper => (helper(config, &mountpoint)?, Method::Helper),
        Method::Auto => match direct(config, &mountpoint) {
            Ok(device) => (device, Method::Direct),
            Err(
                MountError::Mount(Errno::EPERM) | MountError::Device(Errno::EACCES | Errno::EPERM),
            ) => (helper(config, &mountpoint)?, Method::Helper),
            Err(error) => return Err(error),
        },
    };
    let mounted = Mounted {
        connection: connection(&mountpoint),
        mountpoint,
        method,
    };
    let mount = FuseMount { mounted, device };
    // From here on an error unmounts: `mount` is dropped.
    let shared = Shared::new(events);
    let queues = (0..config.queues).map(|_| {
        let clone = clone_device(&mount.device)?;
        socket::set_nonblocking(clone.raw())?;
        FuseQueue::new(clone, Arc::clone(&shared), config.depth, config.max_write)
    });
    let queues = queues.collect::<sys::Result<Vec<_>>>();
    Ok((queues.map_err(MountError::Resources)?, mount))
}

/// Give the absolute path of a mount point that can be used.
fn resolve(path: &Path) -> Result<PathBuf, MountError> {
    let error = |error: io::Error| match error.raw_os_error() {
        Some(number) if Errno::from_os(number) == Errno::ENOTCONN => MountError::Stale {
            mountpoint: path.to_path_buf(),
            clear: clear_command(path),
        },
        number => MountError::MountPoint(path.to_path_buf(), Errno::from_os(number.unwrap_or(0))),
    };
    let absolute = path.canonicalize().map_err(error)?;
    if !fs::metadata(&absolute).map_err(error)?.is_dir() {
        return Err(MountError::MountPoint(absolute, Errno::ENOTDIR));
    }
    Ok(absolute)
}

/// Give the command that clears a mount point whose daemon died.
fn clear_command(path: &Path) -> String {
    let path = path.display();
    if identity::uid() == 0 {
        format!("umount {path}")
    } else {
        format!("{HELPER} -u {path}")
    }
}

fn c_string(bytes: &[u8]) -> CString {
    CString::new(bytes).expect("paths of the system and checked names have no NUL")
}

/// Mount by mount(2).
fn direct(config: &Config, mountpoint: &Path) -> Result<Fd, MountError> {
    let device = device::open(DEVICE).map_err(MountError::Device)?;
    let metadata = fs::metadata(mountpoint);
    let mode = metadata.map_or(0o040_000, |metadata| metadata.mode()) & 0o170_000;
    let (uid, gid) = (identity::uid(), identity::gid());
    let mut options = format!(
        "fd={},rootmode={mode:o},user_id={uid},group_id={gid},default_permissions",
        device.raw()
    );
    if config.allow_other {
        options.push_str(",allow_other");
    }
    let mut flags = sys_mount::NOSUID | sys_mount::NODEV;
    if config.read_only {
        flags |= sys_mount::READ_ONLY;
    }
    sys_mount::mount(
        &c_string(config.fsname.as_bytes()),
        &c_string(mountpoint.as_os_str().as_bytes()),
        &c_string(format!("fuse.{SUBTYPE}").as_bytes()),
        flags,
        &c_string(options.as_bytes()),
    )
    .map_err(MountError::Mount)?;
    Ok(device)
}

/// Mount through the helper, which opens the device and sends it over a socket.
fn helper(config: &Config, mountpoint: &Path) -> Result<Fd, MountError> {
    // A comma ends an option, and a backslash takes that meaning away.
    let fsname = config.fsname.replace('\\', "\\\\").replace(',', "\\,");
    let mut options = format!("nosuid,nodev,default_permissions,fsname={fsname},subtype={SUBTYPE}");
    if config.allow_other {
        options.push_str(",allow_other");
    }
    if config.read_only {
        options.push_str(",ro");
    }
    let resources =
        |error: io::Error| MountError::Resources(Errno::from_os(error.raw_os_error().unwrap_or(0)));
    let (ours, theirs) = UnixStream::pair().map_err(resources)?;
    let output = Command::new(HELPER)
        .args(["-o", &options, "--"])
        .arg(mountpoint)
        .env(HELPER_SOCKET.0, HELPER_SOCKET.1)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| MountError::Helper(error.to_string()))?;
    if !output.status.success() {
        return Err(MountError::Refused(words(&output.stderr)));
    }
    // It has ended, so what it sent is here.
    let mut device = None;
    let received = socket::receive(ours.as_raw_fd(), &mut [0], |fd| device = Some(fd));
    let none = || MountError::Refused("sent no device".to_string());
    received.map_err(|_| none())?;
    device.ok_or_else(none)
}

/// Give what the helper said, without its name in front.
fn words(stderr: &[u8]) -> String {
    let said = String::from_utf8_lossy(stderr);
    let said = said.trim();
    let prefix = format!("{HELPER}: ");
    said.strip_prefix(&prefix).unwrap_or(said).to_string()
}

/// Make another descriptor of the connection, with requests in flight of its own.
fn clone_device(mounted: &Fd) -> sys::Result<Fd> {
    let cloned = device::open(DEVICE).and_then(|clone| {
        let mut connected = mounted.raw() as u32;
        // SAFETY: the kernel reads one number, a descriptor of the connection to join.
        unsafe { device::ioctl_u32(clone.raw(), CLONE, &mut connected) }?;
        Ok(clone)
    });
    cloned.or_else(|error| {
        // Only the helper may open the device: then the queues share one list of requests in flight.
        debug!("/dev/fuse: no clone: {}", error);
        mounted.duplicate()
    })
}

/// Find the number of the connection, which is that of the mount's device, in the table of mounts: asking the file
/// system itself would wait for its answer.
fn connection(mountpoint: &Path) -> Option<u32> {
    let table = fs::read("/proc/self/mountinfo").ok()?;
    let lines = table.split(|&byte| byte == b'\n').rev();
    lines
        .filter_map(mount_of)
        .find_map(|(path, minor)| (path == mountpoint).then_some(minor))
}

/// Give mount point and minor device number of a line of the table of mounts (proc(5)).
fn mount_of(line: &[u8]) -> Option<(PathBuf, u32)> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let minor = device.split_once(':')?.1.parse().ok()?;
    Some((unescape(fields.nth(1)?), minor))
}

/// Undo the octal escapes of blanks and backslashes.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped {
            Some(byte) if first == b'\\' => {
                path.push(byte);
                rest = &tail[3..];
            }
            _ => {
                path.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(path).into()
}

/// Name a mount, for taking it away.
#[derive(Clone, Debug)]
pub struct Mounted {
    mountpoint: PathBuf,
    method: Method,
    connection: Option<u32>,
}

/// Control a mount. Dropping it unmounts.
pub struct FuseMount {
    mounted: Mounted,
    /// The descriptor that was mounted; it tells whether the connection lives, and serves no request.
    device: Fd,
}

impl FuseMount {
    /// Give the absolute path of the mount point.
    pub fn mountpoint(&self) -> &Path {
        &self.mounted.mountpoint
    }

    /// Tell who mounted.
    pub fn method(&self) -> Method {
        self.mounted.method
    }

    /// Give the number N of `/sys/fs/fuse/connections/N`.
    pub fn connection(&self) -> Option<u32> {
        self.mounted.connection
    }

    /// Tell whether the mount is there: nobody unmounted it or aborted its connection.
    pub fn alive(&self) -> bool {
        !device::gone(self.device.raw())
    }

    /// Name the mount, for a process that takes it away when this one cannot.
    pub fn mounted(&self) -> &Mounted {
        &self.mounted
    }

    /// Take the mount away, as [`Mounted::unmount`].
    ///
    /// # Errors
    /// [`MountError::Unmount`] when it is not permitted (any more).
    pub fn unmount(&mut self) -> Result<(), MountError> {
        self.mounted.unmount()
    }
}

impl Mounted {
    /// Take the mount out of the tree. Those who still use it are served until they let go; then the queues end.
    ///
    /// Does nothing when somebody else unmounted before. An aborted connection leaves its mount point, which this
    /// clears.
    ///
    /// # Errors
    /// [`MountError::Unmount`] when it is not permitted (any more).
    pub fn unmount(&mut self) -> Result<(), MountError> {
        // Another mount on top of the same directory, or below where this was, is not ours to take away.
        if self.connection.is_none() || connection(&self.mountpoint) != self.connection {
            return Ok(());
        }
        let error = |why| MountError::Unmount(self.mountpoint.clone(), why);
        let result = if self.method == Method::Direct {
            let path = c_string(self.mountpoint.as_os_str().as_bytes());
            sys_mount::detach(&path).map_err(|errno| error(errno.to_string()))
        } else {
            let output = Command::new(HELPER)
                .args(["-u", "-z", "--"])
                .arg(&self.mountpoint)
                .output();
            match output {
                Ok(output) if output.status.success() => Ok(()),
                Ok(output) => Err(error(words(&output.stderr))),
                Err(failed) => Err(error(failed.to_string())),
            }
        };
        if result.is_ok() {
            self.connection = None;
        }
        result
    }
}

impl Drop for FuseMount {
    fn drop(&mut self) {
        if let Err(failed) = self.unmount() {
            crate::log::error!("{}", crate::log::Show(&failed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_of_mounts() {
        let line =
            br"36 35 0:42 / /mnt/a\040b\134c rw,noatime shared:1 - fuse.dpfs name rw,user_id=0";
        assert_eq!(mount_of(line), Some((PathBuf::from(r"/mnt/a b\c"), 42)));
        assert_eq!(mount_of(b""), None);
        assert_eq!(mount_of(b"36 35 0:x / /mnt"), None);
    }

    #[test]
    fn values_out_of_range_are_named() {
        let good = Config::new("/", "name");
        let bad = [
            Config {
                queues: 0,
                ..good.clone()
            },
            Config {
                depth: 1025,
                ..good.clone()
            },
            Config {
                max_write: 4097,
                ..good.clone()
            },
            Config {
                fsname: String::new(),
                ..good.clone()
            },
        ];
        let names = ["queues", "depth", "max_write", "fsname"];
        for (config, name) in bad.iter().zip(names) {
            let Err(MountError::Config(range)) = config.check() else {
                panic!("{name} is accepted");
            };
            assert!(range.starts_with(name), "{range}");
        }
        assert_eq!(good.check(), Ok(()));
    }
}
