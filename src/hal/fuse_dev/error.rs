//! Why a mount fails, in words that say what to do.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::string::String;

use crate::wire::errno::Errno;

/// Say why nothing was mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountError {
    /// A value of the configuration is out of its range: its name and the range.
    Config(&'static str),
    /// The mount point cannot be used.
    MountPoint(PathBuf, Errno),
    /// Another daemon had mounted here and died; `clear` is the command that makes the mount point usable again.
    Stale {
        /// Mount point.
        mountpoint: PathBuf,
        /// Command to run.
        clear: String,
    },
    /// `/dev/fuse` cannot be opened.
    Device(Errno),
    /// mount(2) failed.
    Mount(Errno),
    /// `fusermount3` cannot be run: its error.
    Helper(String),
    /// `fusermount3` refused: its words.
    Refused(String),
    /// The device was mounted but cannot be served: no more descriptors or memory.
    Resources(Errno),
    /// The mount could not be taken away again.
    Unmount(PathBuf, String),
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(range) => write!(f, "{range}"),
            Self::MountPoint(path, error) => write!(f, "mount point {}: {error}", path.display()),
            Self::Stale { mountpoint, clear } => write!(
                f,
                "mount point {}: its daemon died and left it; clear it with `{clear}`",
                mountpoint.display()
            ),
            Self::Device(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => write!(
                f,
                "/dev/fuse: this machine has none; load the kernel's module with `modprobe fuse`"
            ),
            Self::Device(error) => write!(f, "/dev/fuse: {error}"),
            Self::Mount(error) => write!(f, "mount: {error}"),
            Self::Helper(error) => write!(
                f,
                "fusermount3: {error}; without root it is needed (Debian: package fuse3)"
            ),
            Self::Refused(words) => write!(f, "fusermount3: {words}"),
            Self::Resources(error) => write!(f, "queues of /dev/fuse: {error}"),
            Self::Unmount(path, why) => write!(f, "unmount {}: {why}", path.display()),
        }
    }
}

impl Error for MountError {}
