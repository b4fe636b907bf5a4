//! What the cores of a device share: nodes, open files, and what is known of the server.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use spin::Mutex;

use super::allowed::{Referral, TOLD};
use super::idmap::Names;
use super::known::Known;
use super::lock_table::LockTable;
use super::roots::Roots;
use super::uncommitted::Uncommitted;
use super::whereabouts::Whereabouts;
use super::wire::Security;
use crate::fuse::{Entry, Fh, NodeId, Volume};
use crate::mem::{
    Arena, NodeKey, NodeTable, OpenFileTable, OutOfMemory, Pinned, Refused, SharedRing, hash_bytes,
};
use crate::sys::watch::Watch;
use crate::wire::errno::Errno;
use crate::wire::fuse::{ATTR_SUBMOUNT, Attr, FopenFlags, encode_dev};
use crate::wire::nfs4::{FileAttr, FileKind, Handle, StateId, Time, Verifier};
use crate::wire::rpc::Credentials;

/// Say what the host may keep of names, attributes and content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cache {
    /// Nothing.
    None,
    /// Names and attributes for a second; content until the file is opened and has changed (close-to-open).
    Auto,
    /// Names and attributes for a day: nobody else changes the export.
    Always,
}

/// Say how a server is used.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Connections of each core.
    pub connections: u32,
    /// Give up with `EIO` what the server has not done within `timeo`, `retrans` + 1 times, whether it is silent or puts it
    /// off, instead of going on for ever.
    pub soft: bool,
    /// Nanoseconds without an answer after which a connection is made anew.
    pub timeo: u64,
    /// Times `timeo` that a soft mount bears beside the first.
    pub retrans: u32,
    /// Connect from a port below 1024.
    pub reserved_port: bool,
    /// What the host may keep.
    pub cache: Cache,
    /// Refuse every change with `EROFS`.
    pub read_only: bool,
    /// Locks are held at the server, against all its clients; otherwise only in the host's kernel.
    pub server_locks: bool,
    /// Send AUTH_NONE instead of the caller's numbers.
    pub anonymous: bool,
    /// Bytes of content that the server has not yet made durable; zero has it made durable before each answer.
    pub uncommitted: usize,
}

/// Say which server is used, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Addresses that lead to the server; not empty.
    pub servers: &'static [SocketAddr],
    /// How they are reached.
    pub security: Security,
    /// Number of the server's client among those of the device, zero for that of the server that is mounted.
    pub tag: u8,
    /// Path of the export at the server.
    pub export: &'static str,
    /// Servers that its referrals are followed to, by all their names. Empty: they are not followed.
    pub referrals: &'static [Referral],
    /// Minor version of NFSv4, 1 or 2; `None` for 2, or 1 where the server has no 2.
    pub minor: Option<u32>,
    /// Names of owners that have numbers here.
    pub owners: Names,
    /// Names of groups that have.
    pub groups: Names,
    /// How.
    pub options: Options,
}

impl NodeKey for Handle {
    #[inline]
    fn hash(&self, seed: u64) -> u64 {
        hash_bytes(seed, self.as_bytes())
    }
}

/// Hold what is known of a file that the host knows.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// Inode number.
    pub fileid: u64,
    /// State of the content when it was last opened.
    pub change: u64,
    /// Open files.
    pub opens: u32,
    /// Mark of its file system; zero where that is not known.
    pub fs: u32,
    /// Where it was renamed to when its last name went while it was open.
    pub silly: Option<Silly>,
    /// Why content was lost while nobody had the file open: whoever opens it next is told.
    pub unsaid: Option<Errno>,
}

/// Name a file whose last name went while it was open.
#[derive(Clone, Copy, Debug)]
pub struct Silly {
    /// Directory.
    pub parent: Handle,
    /// Number in the name.
    pub number: u32,
}

/// What a server gave for an open.
#[derive(Clone, Copy, Debug)]
pub struct OpenState {
    /// Its name.
    pub stateid: StateId,
    /// Why it is lost for good.
    pub lost: Option<Errno>,
    /// Why content that was answered is lost, until the host is told: by the next FSYNC or FLUSH, and once.
    pub unsaid: Option<Errno>,
    /// A task is opening the file again.
    pub reopening: bool,
}

/// Hold an open file or directory.
pub struct OpenFile {
    /// Node that it keeps.
    pub node: u64,
    /// File.
    pub handle: Handle,
    /// `OPEN4_SHARE_ACCESS_*`; zero for a directory.
    pub access: u32,
    /// Who opened it.
    pub user: Credentials,
    /// Number of the opener.
    pub owner: u64,
    /// Its state at the server.
    pub state: Mutex<OpenState>,
    /// For a directory: what the server gave with its first entries.
    pub verifier: Mutex<Verifier>,
    /// Cookie behind which there was nothing when the server was last asked, and the host has all before it; zero for none.
    pub end: Mutex<u64>,
}

/// Hold what is to be ended at the server, though nobody waits for it.
#[derive(Clone, Copy, Debug)]
pub enum Leftover {
    /// An open.
    Open(Handle, StateId, Credentials),
    /// A delegation.
    Delegation(Handle, StateId, Credentials),
    /// Locks, and the open that they were made for.
    Locks(Handle, StateId, StateId, Credentials),
    /// A file without a name.
    Name(Silly, Credentials),
}

/// Hold how the client stands with the server. Only the core that has the turn changes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// The core is at work.
    pub taken: bool,
    /// Client ID; `None` when the server does not know us.
    pub client: Option<u64>,
    /// Client ID under which the server refused a session, which is not to say that it forgot it.
    pub before: Option<u64>,
    /// Number of the next CREATE_SESSION.
    pub sequence: u32,
    /// The server has been told that everything is reclaimed.
    pub complete: bool,
    /// The server may have forgotten content that is kept: it is to be written again before anything else.
    pub rewrite: bool,
    /// The server never knew of our state: it is made anew, not reclaimed, and all content is written again.
    pub anew: bool,
}

impl Standing {
    /// The server does not know the client any more.
    pub fn forgotten(&mut self) {
        (self.client, self.before) = (None, None);
    }
}

/// Share an export between the cores of its device.
pub struct NfsVolume {
    /// How.
    pub settings: Settings,
    /// What is known of the server.
    pub(super) known: Known,
    pub(super) nodes: &'static NodeTable<Handle, Node>,
    pub(super) files: &'static OpenFileTable<OpenFile>,
    pub(super) leftovers: &'static SharedRing<Leftover>,
    pub(super) standing: Mutex<Standing>,
    pub(super) uncommitted: Mutex<Uncommitted>,
    pub(super) locks: Mutex<LockTable>,
    /// Grows with each unlock, for those who wait for locks.
    pub(super) unlocked: AtomicU64,
    /// The server copies, and shares blocks, as far as is known.
    pub(super) copies: AtomicBool,
    pub(super) clones: AtomicBool,
    /// LOCK takes the open that the same compound made, as far as is known.
    pub(super) locks_at_once: AtomicBool,
    pub(super) epoch: AtomicU32,
    /// For cores that are still to come: with it a core learns without system calls that something came.
    pub(super) watches: Mutex<heapless::Vec<Watch, MAX_WATCHES>>,
    /// Cores that have not taken leave of the server.
    pub(super) cores: AtomicU32,
    /// Name of this client among all of the server's.
    pub(super) client_name: [u8; 24],
    /// This life of the client.
    pub(super) verifier: Verifier,
    /// The host mounts other file systems where it meets them.
    submounts: AtomicBool,
    /// Marks of servers that referrals led to and that may not be followed.
    pub(super) told: Mutex<heapless::Vec<u64, TOLD>>,
    /// Directories that referrals led to.
    pub(super) roots: Mutex<Roots>,
    /// Where the file system of the export is.
    pub(super) whereabouts: Whereabouts,
    root_fsid: [AtomicU64; 2],
    counter: AtomicU64,
}

/// What is left over at most; more is left to the end of the lease.
const LEFTOVERS: u32 = 1024;

/// Most cores that watch their connections without system calls.
const MAX_WATCHES: usize = 16;

/// Mark of the export's file system; others have odd ones.
const HOME: u32 = 2;

/// Length of a silly name.
pub const SILLY_LEN: usize = 4 + 24;

impl NfsVolume {
    /// Make one. `client` names this device among all clients of the server, and `boot` this run; `seed` is to be random.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena has less than [`Self::footprint`].
    pub fn new(
        arena: &Arena,
        settings: Settings,
        (nodes, open_files): (u32, u32),
        (client, boot, seed): (u64, u64, u64),
        (root, fsid, fileid): (Handle, (u64, u64), u64),
    ) -> Result<&'static Self, OutOfMemory> {
        let kept = settings.options.uncommitted;
        let mut client_name = *b"dpfs:0000000000000000:v1";
        write_hex(&mut client_name[5..21], client);
        let root_node = Node {
            fileid,
            change: 0,
            opens: 0,
            fs: if fsid == (0, 0) { 0 } else { HOME },
            silly: None,
            unsaid: None,
        };
        let (known, tag) = (Known::new(settings.minor), settings.tag);
        let whereabouts = Whereabouts::new(tag, settings.export);
        let volume = Self {
            settings,
            known,
            nodes: NodeTable::tagged(arena, nodes, tag, seed, root, root_node)?,
            files: OpenFileTable::new(arena, open_files)?,
            leftovers: SharedRing::new(arena, LEFTOVERS)?,
            standing: Mutex::new(Standing::default()),
            uncommitted: Mutex::new(Uncommitted::new(arena, kept)?),
            locks: Mutex::new(LockTable::new(arena)?),
            unlocked: AtomicU64::new(0),
            copies: AtomicBool::new(true),
            clones: AtomicBool::new(true),
            locks_at_once: AtomicBool::new(true),
            epoch: AtomicU32::new(0),
            watches: Mutex::new(heapless::Vec::new()),
            cores: AtomicU32::new(0),
            client_name,
            verifier: boot.to_be_bytes(),
            submounts: AtomicBool::new(false),
            told: Mutex::new(heapless::Vec::new()),
            roots: Mutex::new(Roots::default()),
            whereabouts,
            root_fsid: [fsid.0, fsid.1].map(AtomicU64::new),
            counter: AtomicU64::new(1),
        };
        Ok(arena.place(volume)?)
    }

    /// Give the bytes of arena that a volume needs.
    pub const fn footprint(nodes: u32, open_files: u32, uncommitted: usize) -> usize {
        NodeTable::<Handle, Node>::footprint(nodes)
            + OpenFileTable::<OpenFile>::footprint(open_files)
            + SharedRing::<Leftover>::footprint(LEFTOVERS)
            + Uncommitted::footprint(uncommitted)
            + LockTable::FOOTPRINT
            + size_of::<Self>()
            + 256
    }

    /// Make ready for so many cores to watch their connections without system calls, as far as the kernel does that.
    pub fn watch(&self, cores: u32) {
        let mut watches = self.watches.lock();
        for _ in 0..cores {
            let Ok(watch) = Watch::new() else {
                crate::log::info!("nfs: no io_uring to watch connections: they are asked");
                return;
            };
            if watches.push(watch).is_err() {
                return;
            }
        }
    }

    /// Give the number of nodes that the host holds, the root included.
    pub fn nodes(&self) -> u32 {
        self.nodes.len()
    }

    /// Give the number of open files and directories.
    pub fn open_files(&self) -> u32 {
        self.files.len()
    }

    /// Give a number that was not given before.
    pub(super) fn number(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// Find a node's file.
    ///
    /// # Errors
    /// `ESTALE` for a node that the host does not hold.
    pub(super) fn handle(&self, node: NodeId) -> Result<Handle, Errno> {
        self.nodes
            .update(node.0, |handle, _| *handle)
            .ok_or(Errno::ESTALE)
    }

    /// Keep an open file while a request works on it.
    ///
    /// # Errors
    /// `EBADF` for one that the host has not open.
    pub(super) fn opened(&'static self, fh: Fh) -> Result<Pinned<OpenFile>, Errno> {
        self.files.pin(fh.0).ok_or(Errno::EBADF)
    }

    /// Tell whether content of a file is not yet durable.
    pub(super) fn is_uncommitted(&self, node: u64) -> bool {
        self.settings.options.uncommitted > 0 && self.uncommitted.lock().has(node)
    }

    /// Content of a file is lost that was answered before number `upto`: whoever has it open is told, once each, or else
    /// who opens it next.
    pub(super) fn lose_content(&'static self, node: u64, upto: u64, why: Errno) {
        self.uncommitted.lock().forget(node, upto);
        if why == Errno::ESTALE {
            // The file is gone, and its content with it.
            return;
        }
        crate::log::warn!("nfs: content that was written is lost: {}", why);
        let mut told = false;
        self.each_opened(
            |file| file.node == node,
            |state| {
                state.unsaid = Some(why);
                told = true;
            },
        );
        if !told {
            self.nodes.update(node, |_, node| node.unsaid = Some(why));
        }
    }

    /// Note something of open files.
    pub(super) fn each_opened(
        &'static self,
        which: impl Fn(&OpenFile) -> bool,
        mut note: impl FnMut(&mut OpenState),
    ) {
        let mut place = 0;
        while let Some((next, file)) = self.files.pin_after(place) {
            place = next;
            if file.access != 0 && which(&file) {
                note(&mut file.state.lock());
            }
            if let Some(file) = file.unpin() {
                self.dispose(&file);
            }
        }
    }

    /// Tell how long the host may remember the name of a file of this kind. With close-to-open consistency not at all that
    /// of a regular one: whoever opens it looks it up and so gets its present size.
    fn name_ttl(&self, kind: FileKind) -> Duration {
        match (self.settings.options.cache, kind) {
            (Cache::Auto, FileKind::Regular) => Duration::ZERO,
            _ => self.ttl(),
        }
    }

    /// Tell how long the host may remember attributes.
    pub(super) fn ttl(&self) -> Duration {
        match self.settings.options.cache {
            Cache::None => Duration::ZERO,
            Cache::Auto => Duration::from_secs(1),
            Cache::Always => Duration::from_secs(86_400),
        }
    }

    /// Note whether the host mounts other file systems where it meets them.
    pub(super) fn set_submounts(&self, mounts: bool) {
        self.submounts.store(mounts, Ordering::Relaxed);
    }

    /// Tell whether it does.
    pub(super) fn submounts(&self) -> bool {
        self.submounts.load(Ordering::Relaxed)
    }

    /// Lay attributes out for the host. Files of other file systems than that of the export, of the server or of another,
    /// get numbers of their own.
    pub(super) fn attr(&self, found: &FileAttr<'_>) -> Attr {
        let Time {
            seconds: atime,
            nanoseconds: atimensec,
        } = found.accessed;
        Attr {
            ino: self.ino(found),
            size: found.size,
            blocks: found.used.div_ceil(512),
            atime,
            mtime: found.modified.seconds,
            ctime: found.changed.seconds,
            atimensec,
            mtimensec: found.modified.nanoseconds,
            ctimensec: found.changed.nanoseconds,
            mode: found.kind.mode() | found.mode,
            nlink: found.links,
            uid: self.settings.owners.number(found.owner),
            gid: self.settings.groups.number(found.group),
            rdev: encode_dev(found.device.0, found.device.1),
            blksize: self.known.max_read().min(self.known.max_write()),
            flags: 0,
        }
    }

    /// A directory stands in one whose file system has this mark: where its own is another, and the host mounts such ones,
    /// make it one of its own.
    pub(super) fn mark_crossing(&self, entry: &mut Entry, found: &FileAttr<'_>, above: u32) {
        let own = self.fs_mark(found.fsid);
        let crosses = found.kind == FileKind::Directory && own != above && own != 0 && above != 0;
        if crosses && self.submounts() {
            entry.attr.flags |= ATTR_SUBMOUNT;
        }
    }

    /// Give the mark of a node's file system.
    pub(super) fn fs_of(&self, node: u64) -> u32 {
        self.nodes.update(node, |_, node| node.fs).unwrap_or(0)
    }

    /// Tell whether a file system is that of the export.
    fn is_home(&self, fsid: (u64, u64)) -> bool {
        let [major, minor] = &self.root_fsid;
        fsid == (major.load(Ordering::Relaxed), minor.load(Ordering::Relaxed))
    }

    /// The file system of the export has this number from now on.
    pub(super) fn set_root_fsid(&self, fsid: (u64, u64)) {
        let [major, minor] = &self.root_fsid;
        major.store(fsid.0, Ordering::Relaxed);
        minor.store(fsid.1, Ordering::Relaxed);
    }

    /// Tell file systems of the server apart; zero for one that the server does not tell. That of the export keeps its mark
    /// when it moves.
    fn fs_mark(&self, fsid: (u64, u64)) -> u32 {
        let mark = (fsid.0 ^ fsid.1.rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        match fsid {
            (0, 0) => 0,
            _ if self.is_home(fsid) => HOME,
            _ => (mark >> 32) as u32 | 1,
        }
    }

    /// Give the inode number that the host sees.
    pub(super) fn ino(&self, found: &FileAttr<'_>) -> u64 {
        let server = u64::from(self.settings.tag);
        let fsid = found.fsid;
        if server == 0 && (self.is_home(fsid) || fsid == (0, 0)) {
            return found.fileid;
        }
        let mark = fsid.0 ^ fsid.1.rotate_left(17) ^ server.rotate_right(8);
        let tag = mark.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        found.fileid ^ ((tag >> 48) % 0xffff + 1) << 48
    }

    /// Hand a file to the host, counting one lookup.
    ///
    /// # Errors
    /// `ENFILE` when the host holds too many; `EIO` when its session ended.
    pub(super) fn entry(
        &self,
        handle: Handle,
        found: &FileAttr<'_>,
        epoch: u32,
    ) -> Result<Entry, Errno> {
        let node = Node {
            fileid: 0,
            change: found.change,
            opens: 0,
            fs: self.fs_mark(found.fsid),
            silly: None,
            unsaid: None,
        };
        self.entry_of(handle, self.attr(found), (found.kind, node), epoch)
    }

    /// Hand a file of these attributes and this kind to the host, counting one lookup; `node` is what is known of it
    /// besides.
    ///
    /// # Errors
    /// As for [`Self::entry`].
    pub(super) fn entry_of(
        &self,
        handle: Handle,
        attr: Attr,
        (kind, node): (FileKind, Node),
        epoch: u32,
    ) -> Result<Entry, Errno> {
        let make = || Node {
            fileid: attr.ino,
            ..node
        };
        let node = self
            .nodes
            .look_up(handle, make, epoch)
            .map_err(|refused| match refused {
                Refused::Full => Errno::ENFILE,
                Refused::StaleEpoch => Errno::EIO,
            })?;
        Ok(Entry {
            node: NodeId(node),
            generation: 0,
            attr,
            entry_ttl: self.name_ttl(kind),
            attr_ttl: self.ttl(),
        })
    }

    /// Enter an open file, whose node is kept by it. Gives its number and what the host is to do with it.
    ///
    /// # Errors
    /// `ENFILE` when too many are open, `ESTALE` without such a node; the file comes back.
    #[expect(
        clippy::result_large_err,
        reason = "there is no heap to put the file on"
    )]
    pub(super) fn enter(
        &self,
        file: OpenFile,
        change: u64,
        epoch: u32,
    ) -> Result<(Fh, FopenFlags), (Errno, OpenFile)> {
        if !self.nodes.open(file.node) {
            return Err((Errno::ESTALE, file));
        }
        let node = file.node;
        let directory = file.access == 0;
        if !directory {
            let unsaid = self.nodes.update(node, |_, node| node.unsaid.take());
            file.state.lock().unsaid = unsaid.flatten();
        }
        match self.files.insert(file, epoch) {
            Ok(fh) => {
                let same = self.nodes.update(node, |_, node| {
                    if directory {
                        return true;
                    }
                    node.opens += 1;
                    // Of a server that tells of no changes nothing is known.
                    core::mem::replace(&mut node.change, change) == change && change != 0
                });
                let cache = match self.settings.options.cache {
                    _ if directory => return Ok((Fh(fh), FopenFlags::empty())),
                    Cache::None => FopenFlags::DIRECT_IO,
                    _ if same == Some(true) => FopenFlags::KEEP_CACHE,
                    _ => FopenFlags::empty(),
                };
                // The server hears of the locks that a close ends only by a FLUSH, and which those are is not known yet.
                let flush = match self.settings.options.server_locks {
                    true => FopenFlags::empty(),
                    false => FopenFlags::NOFLUSH,
                };
                Ok((Fh(fh), cache | flush))
            }
            Err((refused, file)) => {
                let unsaid = file.state.lock().unsaid;
                self.nodes
                    .update(node, |_, node| node.unsaid = node.unsaid.or(unsaid));
                self.nodes.close(node);
                let errno = match refused {
                    Refused::Full => Errno::ENFILE,
                    Refused::StaleEpoch => Errno::EIO,
                };
                Err((errno, file))
            }
        }
    }

    /// Let go of a node that an open file kept. Gives what is left of a file without a name.
    pub(super) fn closed(&self, node: u64) -> Option<Silly> {
        let silly = self.nodes.update(node, |_, node| {
            node.opens = node.opens.saturating_sub(1);
            if node.opens == 0 {
                node.silly.take()
            } else {
                None
            }
        });
        self.nodes.close(node);
        silly.flatten()
    }

    /// Leave something to whichever core comes by; when too much is left, to the end of the lease.
    pub(super) fn leave(&self, left: Leftover) {
        let _ = self.leftovers.push(left);
    }

    /// Dispose of an open file that nobody works on.
    pub(super) fn dispose(&self, file: &OpenFile) {
        if file.access == 0 {
            self.nodes.close(file.node);
            return;
        }
        self.unlock_through(file.owner);
        let stateid = file.state.lock().stateid;
        self.leave(Leftover::Open(file.handle, stateid, file.user));
        if let Some(silly) = self.closed(file.node) {
            self.leave(Leftover::Name(silly, file.user));
        }
    }

    /// Close all that the host has open, as it does no more.
    pub(super) fn close_all(&self) {
        self.unlock_all();
        let epoch = self.epoch.load(Ordering::Acquire).wrapping_add(1);
        self.files.reset(epoch, |file| self.dispose(&file));
    }

    /// Give the number of names of a file that the host does not see.
    pub(super) fn hidden_links(&self, node: u64) -> u32 {
        let hidden = self.nodes.update(node, |_, node| node.silly.is_some());
        u32::from(hidden == Some(true))
    }

    /// Look at, or change, what is known of a file when it is open here.
    fn if_open<T>(&self, handle: &Handle, act: impl FnOnce(&mut Node) -> T) -> Option<T> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let make = || Node {
            fileid: 0,
            change: 0,
            opens: 0,
            fs: 0,
            silly: None,
            unsaid: None,
        };
        let id = self.nodes.look_up(*handle, make, epoch).ok()?;
        let done = self
            .nodes
            .update(id, |_, node| (node.opens > 0).then(|| act(node)));
        self.nodes.forget(id, 1);
        done.flatten()
    }

    /// Tell whether a file is open here.
    pub(super) fn is_open(&self, handle: &Handle) -> bool {
        self.if_open(handle, |_| ()).is_some()
    }

    /// Remember that a file lost its last name while it was open.
    pub(super) fn set_silly(&self, handle: &Handle, silly: Silly, user: Credentials) {
        let kept = self.if_open(handle, |node| node.silly = Some(silly));
        // It was closed meanwhile.
        if kept.is_none() {
            self.leave(Leftover::Name(silly, user));
        }
    }

    /// Write the name that an open file gets when its last name goes.
    pub(super) fn silly_name(&self, number: u32) -> [u8; SILLY_LEN] {
        let mut name = [0; SILLY_LEN];
        name[..4].copy_from_slice(b".nfs");
        let owner = hash_bytes(0, &self.client_name) as u32;
        let boot = hash_bytes(0, &self.verifier) as u32;
        write_hex(&mut name[4..12], owner.into());
        write_hex(&mut name[12..20], boot.into());
        write_hex(&mut name[20..], number.into());
        name
    }

    /// Tell whether a name in a directory is one of those, anybody's, and whether it is of an earlier life of ours.
    pub(super) fn is_silly(&self, name: &[u8]) -> (bool, bool) {
        let silly = name.len() == SILLY_LEN
            && name.starts_with(b".nfs")
            && name[4..].iter().all(u8::is_ascii_hexdigit);
        let own = self.silly_name(0);
        (
            silly,
            silly && name[4..12] == own[4..12] && name[12..20] != own[12..20],
        )
    }
}

/// Write the lowest digits of a number.
fn write_hex(place: &mut [u8], number: u64) {
    for (at, digit) in place.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (4 * at) & 15) as usize];
    }
}

impl Volume for NfsVolume {
    fn reset(&self, epoch: u32) {
        self.epoch.store(epoch, Ordering::Release);
        // The server has it, and nobody is left who could ask for more.
        self.uncommitted.lock().clear();
        self.unlock_all();
        self.files.reset(epoch, |file| self.dispose(&file));
        self.nodes.reset(epoch, |_| ());
    }
}
