//! A directory of this machine: any file system that is mounted on the DPU.
//!
//! ```text
//!  core: Local                                        shared: LocalVolume
//!  request ──> at once? ───────────────────> answer    nodes     nodeid <-> file handle, lookup counts
//!         ├──> io_uring ──> reap ──────────> answer    fds       a bounded cache of O_PATH descriptors
//!         └──> job ──> worker ──> mailbox ─> answer    files     open files, pinned while in use
//!                                                      owners    who holds POSIX locks
//! ```
//!
//! [`LocalVolume::open`] opens everything that has a path; then the process may shut itself into an empty root.
//! [`LocalVolume::attach`] makes a core's [`Local`]. A core never waits for a disk: what might is done by the kernel's
//! io_uring or by a few worker threads. Nothing is allocated after that.
//!
//! # Which way an operation goes
//! | operation | way | because |
//! |---|---|---|
//! | READ, WRITE | at once on tmpfs; else at once if alone in the round, in the page cache, and nothing has to be waited for (`RWF_NOWAIT`); else ring; on the host's own pages | the ring hands every access to tmpfs to a thread; elsewhere cached reads are answered in the same round, others without a thread; a call of its own is cheaper than the ring for one request, and dearer for several |
//! | WRITE with `blocking_writes` | at once, unless it is for the disk itself (`O_DIRECT`, `O_DSYNC`) | ext4 never says whether it would wait, so the ring hands each buffered write to a thread |
//! | FSYNC, FSYNCDIR, FALLOCATE, UNLINK, RMDIR, RENAME | ring | one system call each; a worker where the kernel is too old or a directory is not open |
//! | GETATTR, STATX | at once on ext4, XFS, btrfs, F2FS, tmpfs; else ring (STATX: worker) | these never wait for attributes of a file that is in use |
//! | LOOKUP | at once when the kernel has the name cached (`RESOLVE_CACHED`, Linux 5.12); else worker | four calls: open, handle, attributes, node |
//! | OPEN, CREATE, TMPFILE, MKNOD, MKDIR, SYMLINK, LINK, OPENDIR, READDIR, READDIRPLUS, SETATTR | worker | several calls each, some in the caller's name; the ring would hand each to a thread of its own |
//! | RELEASE | worker | closing may free the blocks of a file without a name |
//! | READLINK, xattr operations, STATFS, SYNCFS, LSEEK, COPY_FILE_RANGE, locks | worker | not in the ring, or not for descriptors of every kind |
//! | FLUSH | at once where close(2) says nothing and nobody has a lock; else worker | |
//! | FORGET | at once; descriptors are closed by workers | |
//!
//! Measured on ext4 with Linux 6.18 on a busy two-core machine, processor time per operation: a cached 4 KiB READ
//! through the ring takes 0.9 us, 0.5 us when 16 are submitted together. Registered files save 0.03 us of that,
//! registered buffers nothing, and both would have to follow every open and every region of the host's memory; so
//! neither is used. The ring runs statx on a thread of the kernel: 9.5 us; a sleeping worker takes 7.9 us, calling here
//! 0.5 us, a cached LOOKUP here 3.5 us. That is why a ring per se is no gain for metadata, and two hand-overs never
//! are. One cached 4 KiB READ at a time: 1.40 us by a call of its own, 1.89 us by the ring; 32 at a time: 1.35 and
//! 1.19 us. One WRITE at a time on XFS: 0.6 of the ring's time. `sqpoll` saves the submitting call and costs a core;
//! without one to spare it is far slower.
//!
//! # Nodes
//! A node is a file handle (name_to_handle_at) on a numbered mount, so that hard links are one node and a million
//! nodes need no descriptors. Descriptors of recently used nodes are cached. A file that was removed and is not open
//! lives while its descriptor is cached and is `ESTALE` after that. Where there are no handles (overlayfs without
//! `nfs_export`, no CAP_DAC_READ_SEARCH, handles above 40 bytes, as of NFS), a node is device and inode number and
//! keeps an `O_PATH` descriptor; beyond the limit of descriptors that is `ENFILE`.
//!
//! Mounts below the directory are followed, those that were there when it was opened. The inode numbers of their files
//! have the device's number mixed in. A mount that the host once entered stays in use. One that
//! [is asked for attributes](#which-way-an-operation-goes) may be slow, so with the first of them the short ways end.
//!
//! # Walls
//! The directory is a mount of its own (open_tree), on which devices cannot be opened, programs cannot be run and links
//! are not followed; its root is where ".." ends. Names are single components, resolved with `RESOLVE_BENEATH`,
//! `RESOLVE_NO_SYMLINKS`, `RESOLVE_NO_MAGICLINKS`. Only regular files and directories are ever opened. Handles come
//! from the node table, never from the host. Where the mount cannot be made (no CAP_SYS_ADMIN), ".." is not offered. A
//! directory that someone else moves elsewhere while the host holds it stays with the host, as it would stay with a
//! process that stands in it, with what is below it and nothing above. Whatever is mounted below is served: a directory
//! with `/proc` or `/dev` in it hands those to the host.
//!
//! # Whose rights
//! The host checks permissions; the server passes over them (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER,
//! CAP_CHOWN). What is made is made in the caller's name: workers change their thread's user, group, the one
//! supplementary group that the host sent and umask for the call (CAP_SETUID, CAP_SETGID), without CAP_FSETID for
//! anyone but root. Writes that are to clear set-user-ID bits run with the ring's second credentials, which lack
//! CAP_FSETID. Device nodes need CAP_MKNOD, file capabilities CAP_SETFCAP, trusted and other security attributes
//! CAP_SYS_ADMIN; without that the host is not told to send security contexts with creations.
//!
//! # Open files
//! `O_APPEND`, `O_SYNC` and `O_DSYNC` are taken from each WRITE, not from the open file, so an fcntl(2) of the host
//! holds; a host that caches writes knows their places, and `O_APPEND` is left out. `O_DIRECT` is passed on; a request
//! that the disk finds misaligned goes through the page cache. Reads that come back short end the file on the file
//! systems named above; on others, and for writes, what is left is asked for again.
//!
//! # Locks
//! They are taken on the file system below: flock(2) on the open file, POSIX locks on a description of its own for
//! each node and owner. Waiting takes no thread: a request is tried again when a lock was released here, and from time
//! to time (1 ms, doubling to 256 ms). Deadlocks between waiting owners are not detected.
//!
//! # Full tables
//! Nodes `ENOMEM`, open files and descriptors `ENFILE`, owners of locks (4096) `ENOLCK`. Service goes on when they
//! drain.

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
mod ways;
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
    /// Write on the core itself, also where that may wait for a disk.
    pub blocking_writes: bool,
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
            blocking_writes: false,
        }
    }
}
