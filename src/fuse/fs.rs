//! The trait that a backend implements: one method for each operation.

use core::ffi::CStr;

use super::negotiate::Wishes;
use super::reply::number::{Block, Position, Revents};
use super::reply::{
    Attributes, Copied, Created, Data, DirEntries, DirEntriesPlus, Ioctl, Reply, Statfs,
    StatxReply, Target, XattrValue,
};
use super::types::{
    Creation, Entry, Fh, Lock, LockRequest, Name, NodeId, Opened, Request, SetAttr, Written,
};
use crate::mem::SlotId;
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::fuse::{InitFlags, ReleaseFlags, WriteFlags};
use crate::wire::open_flags::OpenFlags;

/// Serve a file system to one core of a device.
///
/// Each core of a device has an instance of its own; instances share a node table and an open-file table
/// ([`super::Volume`]), since the host may open a file on one queue and read it on another.
///
/// A method answers its [`Reply`] at once, or keeps it and answers from [`Self::poll`], in any order, on the same
/// core. It must not block: the core has other queues to serve. Borrowed arguments last for the call; what is needed
/// later is to be copied.
///
/// An operation that is not overridden answers `ENOSYS`, from which Linux concludes that it need not ask again:
/// OPEN and OPENDIR then count as done without a message, FLUSH, FSYNC and ACCESS as successful, and the like.
///
/// Source of the operations: Linux `include/uapi/linux/fuse.h` and libfuse's `fuse_lowlevel_ops`.
#[expect(
    unused_variables,
    reason = "the defaults name their arguments for the documentation"
)]
#[expect(
    clippy::too_many_arguments,
    reason = "an operation has as many as the protocol gives it"
)]
pub trait FileSystem {
    /// Say what this file system can do and would like, before the first request of a session.
    fn wishes(&self, offered: InitFlags) -> Wishes {
        Wishes::default()
    }

    /// Go on with what is pending: submit what was queued, answer what is done. Called once a round.
    ///
    /// Returns whether anything was answered or went on.
    fn poll(&mut self, now: Instant) -> bool {
        false
    }

    /// Name the descriptors that become readable when [`Self::poll`] has work. They stay the same for ever.
    fn wait_fds(&self, add: &mut dyn FnMut(i32)) {}

    /// Prepare for the core to sleep; false when there is work after all.
    fn arm(&mut self) -> bool {
        true
    }

    /// Say when [`Self::poll`] is to be called at the latest, without any descriptor becoming ready.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// End all waiting: answer what only waits for others (locks) with `EINTR`, and go on with the rest.
    fn shutdown(&mut self) {}

    /// The device ends, and no request is pending: take leave of whatever is behind the file system. Called each round
    /// until it is true, for a few seconds at most.
    fn leave(&mut self) -> bool {
        true
    }

    /// The host interrupted a pending request: answer it soon, with `EINTR` if it was not begun.
    fn interrupt(&mut self, target: SlotId) {}

    /// The host dropped `count` lookups of a node. Has no reply.
    fn forget(&mut self, node: NodeId, count: u64) {}

    /// Look up a name in a directory.
    fn lookup(&mut self, rq: &Request, parent: NodeId, name: Name<'_>, reply: Reply<Entry>) {
        reply.err(Errno::ENOSYS);
    }

    /// Get attributes.
    fn getattr(&mut self, rq: &Request, node: NodeId, fh: Option<Fh>, reply: Reply<Attributes>) {
        reply.err(Errno::ENOSYS);
    }

    /// Set attributes.
    fn setattr(&mut self, rq: &Request, node: NodeId, set: &SetAttr, reply: Reply<Attributes>) {
        reply.err(Errno::ENOSYS);
    }

    /// Read the target of a symbolic link.
    fn readlink(&mut self, rq: &Request, node: NodeId, reply: Reply<Target>) {
        reply.err(Errno::ENOSYS);
    }

    /// Make a symbolic link. The target has no NUL and at most 4095 bytes, and may be any path.
    fn symlink(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        target: &CStr,
        how: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Make a file, device node, FIFO or socket; `rdev` as in [`crate::wire::fuse::decode_dev`].
    fn mknod(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        rdev: u32,
        how: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Make a directory.
    fn mkdir(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        how: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Remove a name of anything but a directory.
    fn unlink(&mut self, rq: &Request, parent: NodeId, name: Name<'_>, reply: Reply<()>) {
        reply.err(Errno::ENOSYS);
    }

    /// Remove an empty directory.
    fn rmdir(&mut self, rq: &Request, parent: NodeId, name: Name<'_>, reply: Reply<()>) {
        reply.err(Errno::ENOSYS);
    }

    /// Rename; `flags` are `RENAME_NOREPLACE` 1, `RENAME_EXCHANGE` 2, `RENAME_WHITEOUT` 4.
    fn rename(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        new_parent: NodeId,
        new_name: Name<'_>,
        flags: u32,
        reply: Reply<()>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Make a hard link.
    fn link(
        &mut self,
        rq: &Request,
        node: NodeId,
        new_parent: NodeId,
        new_name: Name<'_>,
        reply: Reply<Entry>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Open a file. With `kill_suidgid` an `O_TRUNC` clears set-user-ID and set-group-ID bits.
    fn open(
        &mut self,
        rq: &Request,
        node: NodeId,
        flags: OpenFlags,
        kill_suidgid: bool,
        reply: Reply<Opened>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Read from a file into the reply's buffers.
    fn read(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        offset: u64,
        flags: OpenFlags,
        reply: Reply<Data>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Write the reply's payload to a file.
    fn write(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        offset: u64,
        how: WriteFlags,
        flags: OpenFlags,
        reply: Reply<Written>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// A descriptor of an open file is closed: release the owner's POSIX locks. Its errors reach close(2).
    fn flush(&mut self, rq: &Request, node: NodeId, fh: Fh, lock_owner: u64, reply: Reply<()>) {
        reply.err(Errno::ENOSYS);
    }

    /// Close an open file; its number is void.
    fn release(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        how: ReleaseFlags,
        lock_owner: u64,
        reply: Reply<()>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Make a file durable, its content only with `datasync`.
    fn fsync(&mut self, rq: &Request, node: NodeId, fh: Fh, datasync: bool, reply: Reply<()>) {
        reply.err(Errno::ENOSYS);
    }

    /// Open a directory.
    fn opendir(&mut self, rq: &Request, node: NodeId, flags: OpenFlags, reply: Reply<Opened>) {
        reply.err(Errno::ENOSYS);
    }

    /// Read a directory from a position on: zero, or one that an earlier entry gave.
    fn readdir(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        position: u64,
        reply: Reply<DirEntries>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Read a directory with the attributes of its entries, each but "." and ".." counting one lookup.
    fn readdirplus(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        position: u64,
        reply: Reply<DirEntriesPlus>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Close a directory; its number is void.
    fn releasedir(&mut self, rq: &Request, node: NodeId, fh: Fh, reply: Reply<()>) {
        reply.err(Errno::ENOSYS);
    }

    /// Make a directory durable.
    fn fsyncdir(&mut self, rq: &Request, node: NodeId, fh: Fh, datasync: bool, reply: Reply<()>) {
        reply.err(Errno::ENOSYS);
    }

    /// Get file system statistics.
    fn statfs(&mut self, rq: &Request, node: NodeId, reply: Reply<Statfs>) {
        reply.err(Errno::ENOSYS);
    }

    /// Set an extended attribute; `flags` are `XATTR_CREATE` 1, `XATTR_REPLACE` 2.
    fn setxattr(
        &mut self,
        rq: &Request,
        node: NodeId,
        name: &CStr,
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
        reply: Reply<()>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Get an extended attribute.
    fn getxattr(&mut self, rq: &Request, node: NodeId, name: &CStr, reply: Reply<XattrValue>) {
        reply.err(Errno::ENOSYS);
    }

    /// List extended attributes: names, each with its NUL.
    fn listxattr(&mut self, rq: &Request, node: NodeId, reply: Reply<XattrValue>) {
        reply.err(Errno::ENOSYS);
    }

    /// Remove an extended attribute.
    fn removexattr(&mut self, rq: &Request, node: NodeId, name: &CStr, reply: Reply<()>) {
        reply.err(Errno::ENOSYS);
    }

    /// Check permissions: `R_OK` 4, `W_OK` 2, `X_OK` 1. Not asked when the host checks by itself.
    fn access(&mut self, rq: &Request, node: NodeId, mask: u32, reply: Reply<()>) {
        reply.err(Errno::ENOSYS);
    }

    /// Create and open a file, or open one that exists unless `O_EXCL` is set.
    fn create(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        flags: OpenFlags,
        kill_suidgid: bool,
        how: &Creation<'_>,
        reply: Reply<Created>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Create and open a file without a name in a directory.
    fn tmpfile(
        &mut self,
        rq: &Request,
        parent: NodeId,
        flags: OpenFlags,
        how: &Creation<'_>,
        reply: Reply<Created>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Test a POSIX lock: answer with a lock in the way, or the one asked for with kind `Unlock`.
    fn getlk(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        lock: &LockRequest,
        reply: Reply<Lock>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Set or release a lock. One that must wait keeps its reply until it is granted or interrupted.
    fn setlk(&mut self, rq: &Request, node: NodeId, fh: Fh, lock: &LockRequest, reply: Reply<()>) {
        reply.err(Errno::ENOSYS);
    }

    /// Map a file's block to the device's.
    fn bmap(&mut self, rq: &Request, node: NodeId, block: u64, size: u32, reply: Reply<Block>) {
        reply.err(Errno::ENOSYS);
    }

    /// Control a file; `arg` is an address of the host and means nothing here.
    fn ioctl(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        cmd: u32,
        arg: u64,
        data: &[u8],
        reply: Reply<Ioctl>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Poll a file for events (`POLL*`).
    fn poll_file(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        events: u32,
        reply: Reply<Revents>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Allocate or free space; `mode` is `FALLOC_FL_*`.
    fn fallocate(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        offset: u64,
        length: u64,
        mode: u32,
        reply: Reply<()>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Find data (`SEEK_DATA` 3) or a hole (`SEEK_HOLE` 4) at or behind an offset.
    fn lseek(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        offset: u64,
        whence: u32,
        reply: Reply<Position>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Copy from one open file to another.
    fn copy_file_range(
        &mut self,
        rq: &Request,
        source: (NodeId, Fh, u64),
        destination: (NodeId, Fh, u64),
        length: u64,
        reply: Reply<Copied>,
    ) {
        reply.err(Errno::ENOSYS);
    }

    /// Make the whole file system durable.
    fn syncfs(&mut self, rq: &Request, node: NodeId, reply: Reply<()>) {
        reply.err(Errno::ENOSYS);
    }

    /// Get attributes as statx(2) does; `mask` is `STATX_*`, `flags` is `AT_STATX_*`.
    fn statx(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Option<Fh>,
        flags: u32,
        mask: u32,
        reply: Reply<StatxReply>,
    ) {
        reply.err(Errno::ENOSYS);
    }
}
