//! The name space of several servers (RFC 8881, section 11): the mounted one, and those that its referrals lead to.
//!
//! ```text
//!  host ──> Namespace ──by the node's tag──> Nfs of server 0, of server 1, ...    one volume and one client each
//!                ^                             │
//!                └──── what crosses over ──────┘
//! ```
//!
//! A node's number says whose it is, so a request goes to its server's client and nothing on its way is looked up. The
//! client of a server that nobody was led to yet makes no connection. What a server cannot do by itself, a name or a copy
//! from one to another, is `EXDEV`.
//!
//! The host mounts the root of each referral as a file system of its own (FUSE_SUBMOUNTS, which Linux offers over
//! virtio-fs and not over `/dev/fuse`, and which is used from 6.12 on), with a device number of its own; elsewhere it is a
//! directory like others. What one server lacks the host goes on asking the others for; but SEEK_DATA, once refused by one of NFSv4.1, it
//! does by itself for all.

use core::ffi::CStr;

use crate::fuse::number::Position;
use crate::fuse::{
    Attributes, Copied, Created, Creation, Data, DirEntries, DirEntriesPlus, Entry, Fh, FileSystem,
    Lock, LockRequest, Name, NodeId, Opened, Reply, Request, SetAttr, Statfs, Target, Volume,
    Wishes, Written, XattrValue,
};
use crate::mem::{NodeTable, SlotId};
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::fuse::{InitFlags, ReleaseFlags, WriteFlags};
use crate::wire::nfs4::Handle;
use crate::wire::open_flags::OpenFlags;

use super::allowed::MAX_CLIENTS;
use super::instance::Nfs;
use super::referral::Site;
use super::volume::{NfsVolume, Node};

/// Share the servers of a device between its cores.
pub struct NamespaceVolume {
    /// That of the server that is mounted, and behind it the others, each at the place of its tag.
    pub members: &'static [&'static NfsVolume],
}

impl NamespaceVolume {
    /// Give the number of nodes that the host holds, the root included.
    pub fn nodes(&self) -> u64 {
        // Each counts a root of its own.
        let nodes = |member: &&NfsVolume| u64::from(member.nodes()) - 1;
        1 + self.members.iter().map(nodes).sum::<u64>()
    }

    /// Give the number of open files and directories.
    pub fn open_files(&self) -> u64 {
        let files = |member: &&NfsVolume| u64::from(member.open_files());
        self.members.iter().map(files).sum()
    }
}

impl Volume for NamespaceVolume {
    fn reset(&self, epoch: u32) {
        for member in self.members {
            member.reset(epoch);
        }
    }
}

/// Hold the client of one of the servers.
pub struct Member {
    client: Nfs,
    /// When its server was last reached, or first wanted; `None` before.
    seen: Option<Instant>,
}

impl Member {
    /// Begin with a client that nobody needs yet.
    pub const fn new(client: Nfs) -> Self {
        Self { client, seen: None }
    }

    /// Have the client at work from now on.
    #[inline]
    fn wake(&mut self, now: Instant) {
        if self.seen.is_none() {
            self.seen = Some(now);
        }
    }

    /// Say how the server is.
    fn site(&mut self, now: Instant) -> Site {
        let Some(seen) = &mut self.seen else {
            return Site::Asleep;
        };
        match self.client.site() {
            Site::Away if now.since(*seen) > self.client.patience() => Site::Silent,
            site => {
                if site == Site::Reached {
                    *seen = now;
                }
                site
            }
        }
    }
}

/// Be one core's client of several servers.
pub struct Namespace {
    members: &'static mut [Member],
    now: Instant,
}

/// Give the number of a node's server.
#[inline]
fn server_of(node: NodeId) -> usize {
    usize::from(NodeTable::<Handle, Node>::tag_of(node.0))
}

impl Namespace {
    /// Join the clients of a core, each at the place of its volume's tag. The first is at work from the first poll on.
    pub fn new(volume: &'static NamespaceVolume, members: &'static mut [Member]) -> Self {
        for member in &mut *members {
            member.client.border.volumes = volume.members;
        }
        let now = Instant::default();
        Self { members, now }
    }

    /// Find a node's client, or one that does not know it either, and have it at work.
    #[inline]
    fn of(&mut self, node: NodeId) -> &mut Nfs {
        let at = server_of(node);
        let at = if at < self.members.len() { at } else { 0 };
        let member = &mut self.members[at];
        member.wake(self.now);
        &mut member.client
    }

    fn awake(&self) -> impl Iterator<Item = &Nfs> {
        let awake = self.members.iter().filter(|member| member.seen.is_some());
        awake.map(|member| &member.client)
    }

    fn awake_mut(&mut self) -> impl Iterator<Item = &mut Nfs> {
        let awake = self.members.iter_mut();
        let awake = awake.filter(|member| member.seen.is_some());
        awake.map(|member| &mut member.client)
    }

    /// Carry over what is to be looked up elsewhere, and wake who is wanted. True when there was something.
    fn carry(&mut self) -> bool {
        let mut any = false;
        for from in 0..self.members.len() {
            let border = &mut self.members[from].client.border;
            let wanted = core::mem::take(&mut border.wanted);
            let idle = border.leaving.is_empty() && border.returning.is_empty();
            if wanted == 0 && idle && border.synced.is_empty() {
                continue;
            }
            any = true;
            for (at, member) in self.members.iter_mut().enumerate() {
                if wanted & 1 << at != 0 {
                    member.wake(self.now);
                }
            }
            while let Some(crossing) = self.members[from].client.border.leaving.pop_front() {
                let to = usize::from(crossing.client);
                if let Some(member) = self.members.get_mut(to) {
                    member.client.walk(crossing);
                    member.client.poll(self.now);
                }
            }
            while let Some(back) = self.members[from].client.border.returning.pop_front() {
                if let Some(member) = self.members.get_mut(usize::from(back.client())) {
                    member.client.came_back(back);
                }
            }
            while let Some(reply) = self.members[from].client.border.synced.pop_front() {
                self.sync_behind(from, reply);
            }
        }
        any
    }

    /// Have content of the servers behind one made durable, or say that all is.
    fn sync_behind(&mut self, one: usize, reply: Reply<()>) {
        let mut behind = self.members.iter_mut().skip(one + 1);
        match behind.find(|member| member.client.has_uncommitted()) {
            Some(member) => {
                member.wake(self.now);
                member.client.sync_all(reply);
            }
            None => reply.ok(()),
        }
    }

    /// Tell each client how the servers of all are.
    fn look_around(&mut self) {
        let mut sites = [Site::Asleep; MAX_CLIENTS];
        for (site, member) in sites.iter_mut().zip(&mut *self.members) {
            *site = member.site(self.now);
        }
        for member in &mut *self.members {
            member.client.border.sites = sites;
        }
    }
}

/// Pass operations on to the client of the node that they are about.
macro_rules! by_node {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        $(
            fn $name(&mut self, rq: &Request, node: NodeId, $($argument: $type),*) {
                self.of(node).$name(rq, node, $($argument),*);
            }
        )*
    };
}

impl FileSystem for Namespace {
    fn wishes(&self, offered: InitFlags) -> Wishes {
        // All of them wish for the same, and note what is offered.
        let mut wishes = Wishes::default();
        for member in &*self.members {
            wishes = member.client.wishes(offered);
        }
        wishes
    }

    fn poll(&mut self, now: Instant) -> bool {
        self.now = now;
        if let Some(first) = self.members.first_mut() {
            first.wake(now);
        }
        let mut any = false;
        for client in self.awake_mut() {
            any |= client.poll(now);
        }
        self.look_around();
        any | self.carry()
    }

    fn wait_fds(&self, add: &mut dyn FnMut(i32)) {
        for member in &*self.members {
            member.client.wait_fds(add);
        }
    }

    fn arm(&mut self) -> bool {
        self.awake_mut()
            .fold(true, |all, client| client.arm() & all)
    }

    fn deadline(&self) -> Option<Instant> {
        self.awake().filter_map(FileSystem::deadline).min()
    }

    fn shutdown(&mut self) {
        for client in self.awake_mut() {
            client.shutdown();
        }
    }

    fn leave(&mut self) -> bool {
        self.awake_mut()
            .fold(true, |all, client| client.leave() & all)
    }

    fn interrupt(&mut self, target: SlotId) {
        for client in self.awake_mut() {
            client.interrupt(target);
        }
    }

    fn forget(&mut self, node: NodeId, count: u64) {
        // Of this the server hears nothing.
        if let Some(member) = self.members.get_mut(server_of(node)) {
            member.client.forget(node, count);
        }
    }

    by_node! {
        lookup(name: Name<'_>, reply: Reply<Entry>);
        getattr(fh: Option<Fh>, reply: Reply<Attributes>);
        setattr(set: &SetAttr, reply: Reply<Attributes>);
        readlink(reply: Reply<Target>);
        symlink(name: Name<'_>, target: &CStr, how: &Creation<'_>, reply: Reply<Entry>);
        mknod(name: Name<'_>, rdev: u32, how: &Creation<'_>, reply: Reply<Entry>);
        mkdir(name: Name<'_>, how: &Creation<'_>, reply: Reply<Entry>);
        unlink(name: Name<'_>, reply: Reply<()>);
        rmdir(name: Name<'_>, reply: Reply<()>);
        open(flags: OpenFlags, kill: bool, reply: Reply<Opened>);
        read(fh: Fh, offset: u64, flags: OpenFlags, reply: Reply<Data>);
        write(fh: Fh, offset: u64, how: WriteFlags, flags: OpenFlags, reply: Reply<Written>);
        flush(fh: Fh, lock_owner: u64, reply: Reply<()>);
        release(fh: Fh, how: ReleaseFlags, lock_owner: u64, reply: Reply<()>);
        fsync(fh: Fh, datasync: bool, reply: Reply<()>);
        opendir(flags: OpenFlags, reply: Reply<Opened>);
        readdir(fh: Fh, position: u64, reply: Reply<DirEntries>);
        readdirplus(fh: Fh, position: u64, reply: Reply<DirEntriesPlus>);
        releasedir(fh: Fh, reply: Reply<()>);
        fsyncdir(fh: Fh, datasync: bool, reply: Reply<()>);
        statfs(reply: Reply<Statfs>);
        setxattr(name: &CStr, value: &[u8], flags: u32, kill: bool, reply: Reply<()>);
        getxattr(name: &CStr, reply: Reply<XattrValue>);
        listxattr(reply: Reply<XattrValue>);
        removexattr(name: &CStr, reply: Reply<()>);
        access(mask: u32, reply: Reply<()>);
        create(
            name: Name<'_>,
            flags: OpenFlags,
            kill: bool,
            how: &Creation<'_>,
            reply: Reply<Created>
        );
        getlk(fh: Fh, lock: &LockRequest, reply: Reply<Lock>);
        setlk(fh: Fh, lock: &LockRequest, reply: Reply<()>);
        fallocate(fh: Fh, offset: u64, length: u64, mode: u32, reply: Reply<()>);
        lseek(fh: Fh, offset: u64, whence: u32, reply: Reply<Position>);
        syncfs(reply: Reply<()>);
    }

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
        if server_of(parent) != server_of(new_parent) {
            return reply.err(Errno::EXDEV);
        }
        let client = self.of(parent);
        client.rename(rq, parent, name, new_parent, new_name, flags, reply);
    }

    fn link(
        &mut self,
        rq: &Request,
        node: NodeId,
        new_parent: NodeId,
        new_name: Name<'_>,
        reply: Reply<Entry>,
    ) {
        if server_of(node) != server_of(new_parent) {
            return reply.err(Errno::EXDEV);
        }
        self.of(node).link(rq, node, new_parent, new_name, reply);
    }

    fn copy_file_range(
        &mut self,
        rq: &Request,
        source: (NodeId, Fh, u64),
        destination: (NodeId, Fh, u64),
        length: u64,
        reply: Reply<Copied>,
    ) {
        if server_of(source.0) != server_of(destination.0) {
            return reply.err(Errno::EXDEV);
        }
        let client = self.of(source.0);
        client.copy_file_range(rq, source, destination, length, reply);
    }
}
