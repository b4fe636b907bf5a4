//! What the cores of a device share: the directory, its nodes, open files, descriptors and locks.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::boxed::Box;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::string::String;
use std::sync::OnceLock;

use super::attrs::{self, Ttl};
use super::fds::Descriptors;
use super::files::OpenFile;
use super::graveyard::Graveyard;
use super::key::Key;
use super::locks::Owners;
use super::mounts::{MountId, Mounts};
use super::nodes::Value;
use super::pool::{Mailbox, Pool, REQUESTS};
use super::{Cache, Config, Local};
use crate::fuse::{NodeId, Volume};
use crate::mem::{NodeTable, OpenFileTable};
use crate::sys::affinity::{self, Cores};
use crate::sys::creds::Capabilities;
use crate::sys::fd::Fd;
use crate::sys::{file, map, stat};
use crate::wire::errno::Errno;

/// Descriptors that are left for rings, mounts, sockets and the like.
const RESERVED: u64 = 256;
/// Most cores of a device.
const CORES: usize = 128;

/// Say why a directory cannot be served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// The path cannot be opened, or is no directory.
    Path(Errno),
    /// `/proc/self/fd` cannot be opened: files cannot be opened a second time without it.
    Proc(Errno),
    /// The tables do not fit into the address space.
    Memory,
    /// A worker thread cannot be started.
    Worker(String),
    /// io_uring is not available: the kernel is older than 5.6, or forbids it.
    Ring(Errno),
    /// More requests in flight than the workers' queue holds, or more cores than a device may have.
    TooMany,
}

impl core::fmt::Display for OpenError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Path(error) => write!(f, "the directory cannot be opened: {error}"),
            Self::Proc(error) => write!(f, "/proc/self/fd cannot be opened: {error}"),
            Self::Memory => write!(f, "no memory for the tables of nodes and open files"),
            Self::Worker(error) => write!(f, "a worker thread cannot be started: {error}"),
            Self::Ring(error) => write!(f, "io_uring is not available: {error}"),
            Self::TooMany => write!(f, "more requests in flight or cores than a device may have"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Serve a directory to the cores of a device.
pub struct LocalVolume {
    pub(super) config: Config,
    /// The directory: an `O_PATH` descriptor.
    pub(super) root: Fd,
    /// The directory, open for reading: for syncfs.
    pub(super) root_dir: Fd,
    pub(super) root_device: u64,
    /// `/proc/self/fd`, where an `O_PATH` descriptor is opened again.
    pub(super) links: Fd,
    /// The root is a mount of its own: ".." ends there.
    pub(super) detached: bool,
    pub(super) handles: bool,
    /// What the root's file system may be asked for without waiting.
    pub(super) speed: Speed,
    pub(super) ttl: Ttl,
    pub(super) nodes: &'static NodeTable<Key, Value>,
    pub(super) files: &'static OpenFileTable<OpenFile>,
    pub(super) fds: &'static Descriptors,
    pub(super) mounts: Mounts,
    pub(super) owners: Owners,
    pub(super) graveyard: Graveyard,
    pub(super) pool: Pool,
    pub(super) mailboxes: [OnceLock<&'static Mailbox>; CORES],
    /// Nodes that keep a descriptor of their own, and how many may.
    pub(super) held: AtomicU32,
    pub(super) hold_limit: u32,
    /// A file of another device than the root's was looked up.
    pub(super) foreign: AtomicBool,
    pub(super) worker_capabilities: OnceLock<Capabilities>,
    /// Where workers may run: where the thread that opened the volume may, not on the polling core alone.
    pub(super) cores: Option<Cores>,
    epoch: AtomicU32,
    /// Requests in flight that cores were made for.
    requests: AtomicU32,
}

impl LocalVolume {
    /// Open a directory for serving. What is made here lives as long as the process.
    ///
    /// Everything that needs a path is opened here; afterwards the process may shut itself into an empty root.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(config: Config) -> Result<&'static Self, OpenError> {
        let path = CString::new(config.path.as_os_str().as_bytes())
            .map_err(|_| OpenError::Path(Errno::EINVAL))?;
        let directory = file::openat(libc::AT_FDCWD, &path, libc::O_PATH | libc::O_DIRECTORY)
            .map_err(OpenError::Path)?;
        let links = file::openat(
            libc::AT_FDCWD,
            c"/proc/self/fd",
            libc::O_PATH | libc::O_DIRECTORY,
        )
        .map_err(OpenError::Proc)?;
        // Its way up would lead out of the sandbox; from a mount of its own there is none.
        let links = file::clone_tree(links.raw(), c"").unwrap_or(links);
        let clone = detach(&directory, config.read_only);
        let detached = clone.is_some();
        let root = clone.unwrap_or(directory);
        let root_dir = file::openat(
            links.raw(),
            file::FdName::new(root.raw()).as_c_str(),
            libc::O_RDONLY | libc::O_DIRECTORY,
        )
        .map_err(OpenError::Path)?;

        let stat = stat::statx(root.raw(), attrs::BASIC, 0).map_err(OpenError::Path)?;
        let root_device = attrs::device(&stat);
        let mounts = Mounts::new();
        let handle = file::name_to_handle(root.raw()).ok();
        let key = handle
            .filter(|_| config.handles)
            .and_then(|(handle, kernel_id)| {
                let id = mounts.register(kernel_id, root.raw(), links.raw())?;
                mounts.get(id)?.fd.as_ref()?;
                Key::of_handle(&handle, id)
            });
        let handles = key.is_some();
        let root_key = key.unwrap_or_else(|| Key::of_inode(root_device, stat.stx_ino));

        let limit = file::raise_descriptor_limit().saturating_sub(RESERVED);
        let descriptors = u64::from(config.descriptors).clamp(1, (limit / 2).max(1)) as u32;
        let hold_limit = limit
            .saturating_sub(u64::from(descriptors))
            .min(u64::from(u32::MAX));
        let mut seed = [0; 8];
        // Without randomness a host could slow its own lookups down, no more.
        let _ = file::random(&mut seed);
        let memory = |_| OpenError::Memory;
        let bytes = Self::footprint(config.nodes, config.open_files, descriptors);
        let arena = map::reserve(bytes).map_err(|_| OpenError::Memory)?;
        let nodes = NodeTable::new(
            &arena,
            config.nodes,
            u64::from_ne_bytes(seed),
            root_key,
            Value::directory(),
        )
        .map_err(memory)?;
        let files = OpenFileTable::new(&arena, config.open_files).map_err(memory)?;
        let fds = Descriptors::new(&arena, descriptors).map_err(memory)?;
        let volume = Self {
            speed: Speed::of(root.raw()),
            ttl: config.cache.ttl(),
            root,
            root_dir,
            root_device,
            links,
            detached,
            handles,
            nodes,
            files,
            fds: Box::leak(Box::new(fds)),
            mounts,
            owners: Owners::new(),
            graveyard: Graveyard::new(),
            pool: Pool::new(&arena).map_err(memory)?,
            mailboxes: [const { OnceLock::new() }; CORES],
            held: AtomicU32::new(0),
            hold_limit: hold_limit as u32,
            foreign: AtomicBool::new(false),
            worker_capabilities: OnceLock::new(),
            cores: affinity::allowed().ok(),
            epoch: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            config,
        };
        Ok(Box::leak(Box::new(volume)))
    }

    /// Give the bytes that the tables of a directory with these capacities take.
    pub const fn footprint(nodes: u32, open_files: u32, descriptors: u32) -> usize {
        NodeTable::<Key, Value>::footprint(nodes)
            + OpenFileTable::<OpenFile>::footprint(open_files)
            + Descriptors::footprint(descriptors)
            + Pool::FOOTPRINT
    }

    /// Make the instance of one core, on its thread, for `slots` requests in flight. The first one starts the worker
    /// threads, which are thus subject to all that the process gave up before.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn attach(&'static self, slots: u32) -> Result<Local, OpenError> {
        self.pool.start(self)?;
        Local::new(self, slots)
    }

    /// Give the number of nodes that the host holds, the root among them.
    pub fn nodes(&self) -> u32 {
        self.nodes.len()
    }

    /// Give the number of open files and directories.
    pub fn open_files(&self) -> u32 {
        self.files.len()
    }

    /// Give the number of descriptors that nodes have open.
    pub fn node_descriptors(&self) -> u32 {
        self.fds.len() + self.held.load(Ordering::Relaxed)
    }

    /// Tell whether nodes are file handles; otherwise each keeps a descriptor.
    pub fn has_handles(&self) -> bool {
        self.handles
    }

    /// Give the inode of a mount that `fd` is on, by the kernel's number; registers it when `fd` may be opened.
    pub(super) fn mount_of(&self, kernel_id: i32, fd: i32, may_wait: bool) -> Option<MountId> {
        match self.mounts.find(kernel_id) {
            None if may_wait => self.mounts.register(kernel_id, fd, self.links.raw()),
            found => found,
        }
    }

    /// Give what a worker may do: what was left of the process's capabilities when the workers started.
    pub(super) fn worker_capabilities(&self) -> Capabilities {
        self.worker_capabilities.get().copied().unwrap_or_default()
    }

    /// Tell whether the file system answers for attributes and cached names without waiting for anything. That is the
    /// root's file system; once another came into view, nobody asks which of them a node is on.
    #[inline]
    pub(super) fn immediate(&self) -> bool {
        self.speed != Speed::Unknown && !self.foreign.load(Ordering::Relaxed)
    }

    /// Tell whether the file system keeps its files in memory, so that reading and writing wait for nothing. As for
    /// [`Self::immediate`].
    #[inline]
    pub(super) fn in_memory(&self) -> bool {
        self.speed == Speed::Memory && !self.foreign.load(Ordering::Relaxed)
    }

    /// Give the number of the present session.
    #[inline]
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Take room in the workers' queue; false when there is too little.
    pub(super) fn reserve_requests(&self, count: u32) -> bool {
        let add = |taken: u32| taken.checked_add(count).filter(|&sum| sum <= REQUESTS);
        self.requests
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .is_ok()
    }

    /// Close a descriptor soon, on a thread that may wait for it.
    pub(super) fn dispose(&self, fd: Fd) {
        self.graveyard.bury(fd);
    }

    /// Dispose of what a node kept.
    pub(super) fn dispose_value(&self, value: Value) {
        if let Some(fd) = value.fd {
            self.held.fetch_sub(1, Ordering::Relaxed);
            self.dispose(fd);
        }
    }

    /// Dispose of an open file.
    pub(super) fn dispose_file(&self, file: OpenFile) {
        let node = file.node;
        self.dispose(file.fd);
        self.close_node(node);
    }

    /// Take back one use of a node.
    pub(super) fn close_node(&self, node: NodeId) {
        if let Some(value) = self.nodes.close(node.0) {
            self.node_is_gone(node, value);
        }
    }

    /// Clean up after a node that left the table.
    pub(super) fn node_is_gone(&self, node: NodeId, value: Value) {
        self.dispose_value(value);
        self.fds.remove(node.0, &mut |fd| self.dispose(fd));
    }
}

impl Volume for LocalVolume {
    fn reset(&self, epoch: u32) {
        self.epoch.store(epoch, Ordering::Release);
        self.files.reset(epoch, |file| self.dispose_file(file));
        self.owners.clear();
        self.nodes.reset(epoch, |value| self.dispose_value(value));
        self.fds.clear(&mut |fd| self.dispose(fd));
        self.pool.nudge();
        // Waiting locks of the old session end on their own core.
        for mailbox in self.mailboxes.iter().map_while(OnceLock::get) {
            mailbox.unlocked.store(true, Ordering::SeqCst);
            mailbox.wake();
        }
    }
}

/// Make a mount of its own from a directory, where this process may: the way up ends there, and nothing below runs
/// programs, opens devices or follows links for it.
fn detach(directory: &Fd, read_only: bool) -> Option<Fd> {
    let tree = file::clone_tree(directory.raw(), c"").ok()?;
    let mut attributes = libc::MOUNT_ATTR_NODEV
        | libc::MOUNT_ATTR_NOSUID
        | libc::MOUNT_ATTR_NOEXEC
        | libc::MOUNT_ATTR_NOSYMFOLLOW;
    if read_only {
        attributes |= libc::MOUNT_ATTR_RDONLY;
    }
    // A second fence: no operation opens a device, follows a link or writes to a read-only volume anyway.
    let _ = file::restrict_tree(tree.raw(), attributes);
    Some(tree)
}

/// Say what a file system may be asked for without waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speed {
    /// Everything: its files are in memory.
    Memory,
    /// Attributes and names that are cached; content may have to come from a disk.
    Disk,
    /// Nothing is known of it: it may ask a server.
    Unknown,
}

impl Speed {
    fn of(fd: i32) -> Self {
        const EXT4: u64 = 0xef53;
        const XFS: u64 = 0x5846_5342;
        const BTRFS: u64 = 0x9123_683e;
        const TMPFS: u64 = 0x0102_1994;
        const F2FS: u64 = 0xf2f5_2010;
        match stat::statfs(fd).map(|stat| stat.f_type as u64 & 0xffff_ffff) {
            Ok(TMPFS) => Self::Memory,
            Ok(EXT4 | XFS | BTRFS | F2FS) => Self::Disk,
            _ => Self::Unknown,
        }
    }
}

impl Cache {
    fn ttl(self) -> Ttl {
        use core::time::Duration;
        let day = Duration::from_secs(86_400);
        let second = Duration::from_secs(1);
        let (life, negative) = match self {
            Self::None => (Duration::ZERO, None),
            Self::Auto => (second, None),
            Self::Always => (day, Some(day)),
        };
        Ttl {
            entry: life,
            attr: life,
            negative,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_open_in_the_sandbox_has_no_way_up() {
        let dir = tempfile::tempdir().unwrap();
        let volume = LocalVolume::open(Config::new(dir.path())).unwrap();
        if !volume.detached {
            // Without CAP_SYS_ADMIN there is no mount of its own, and the walls are those of openat2 alone.
            return;
        }
        for directory in [&volume.root, &volume.root_dir, &volume.links] {
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            let up = file::openat(directory.raw(), c"../..", flags).unwrap();
            let inode = |fd: &Fd| stat::statx(fd.raw(), attrs::BASIC, 0).unwrap().stx_ino;
            assert_eq!(inode(&up), inode(directory));
        }
    }
}
