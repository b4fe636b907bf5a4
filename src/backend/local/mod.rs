//! A directory of this machine: any file system that is mounted on the DPU.

extern crate std;

mod attrs;

mod create;
mod dirs;
mod fds;
mod files;
mod filesystem;
mod flight;
mod graveyard;
mod identity;
mod instance;
mod job;
mod key;
mod locks;
mod mounts;
mod nodes;
mod pool;
mod volume;
mod waiting;
mod work;

use std::path::PathBuf;

pub use instance::Local;
pub use volume::{LocalVolume, OpenError};

/// Say what the host may remember, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Cache {
    /// Nothing: names and attributes are asked for each time, content goes past the host's page cache. For directories
    /// that others change too, when every change is to be seen at once.
    None,
    /// Names and attributes for a second; content until the file is opened again or was seen to change.
    #[default]
    Auto,
    /// Everything, names that do not exist included, for a day: nobody else changes the directory.
    Always,
}

/// Say what is served, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory.
    pub path: PathBuf,
    /// What the host may remember.
    pub cache: Cache,
    /// Refuse every change with `EROFS`.
    pub read_only: bool,
    /// Let the host collect writes and send them later. Only where nobody else writes.
    pub writeback: bool,
    /// Let the host check POSIX ACLs, and apply the umask below where default ACLs take its place. Costs the host a
    /// GETXATTR for each file that it checks.
    pub acl: bool,
    /// Pass `O_DIRECT` on, so that such files go past this machine's page cache too. Requests that are not aligned as
    /// the disk wants it still go through that.
    pub direct_io: bool,
    /// Most nodes that the host may hold, the root included. 72 bytes of memory each.
    pub nodes: u32,
    /// Most open files and directories.
    pub open_files: u32,
    /// Most descriptors that are kept open for nodes; at most half the process's limit is used.
    pub descriptors: u32,
    /// Threads for what the ring cannot do.
    pub workers: u32,
    /// Name nodes by file handles. Without, as on file systems that have none, each node keeps a descriptor open.
    pub handles: bool,
    /// Let a kernel thread take submissions from the ring, asleep after so many idle milliseconds. It takes a core.
    pub sqpoll: Option<u32>,
}

impl Config {
    /// Serve a directory with the usual settings.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            cache: Cache::default(),
            read_only: false,
            writeback: false,
            acl: true,
            direct_io: true,
            nodes: 1_000_000,
            open_files: 65_536,
            descriptors: 8192,
            workers: 4,
            handles: true,
            sqpoll: None,
        }
    }
}
