//! A backend that writes down what it is asked, and answers as it is told.

use std::ffi::CStr;

use dpfs::fuse::number::{Block, Position, Revents};
use dpfs::fuse::{
    Attributes, Copied, Created, Creation, Data, DirEntries, DirEntriesPlus, Entry, Fh, FileSystem,
    Ioctl, Lock, LockKind, LockRequest, Name, NodeId, Opened, Reply, Request, SetAttr, Statfs,
    StatxReply, Target, Wishes, Written, XattrValue,
};
use dpfs::mem::SlotId;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::{InitFlags, Kstatfs, ReleaseFlags, WriteFlags};
use dpfs::wire::open_flags::OpenFlags;

use crate::answers::*;

/// Choose what happens to a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Answer at once, with success and as much as fits.
    #[default]
    Answer,
    /// Answer at once with an error.
    Fail(Errno),
    /// Drop it unanswered.
    Drop,
    /// Keep it until [`Recorder::answer_kept`].
    Keep,
}

/// Write down every call, and use every argument and every byte of the buffers that it is lent.
#[derive(Default)]
pub struct Recorder {
    /// What happens to the replies.
    pub mode: Mode,
    /// Calls in their order, as text.
    pub calls: Vec<String>,
    /// Request behind the latest call.
    pub latest: Option<Request>,
    /// What [`FileSystem::wishes`] says.
    pub wishes: Wishes,
    /// Requests that were interrupted.
    pub interrupted: Vec<SlotId>,
    kept: Vec<(SlotId, Box<dyn FnOnce()>)>,
}

impl Recorder {
    /// Make one that asks for every feature and answers.
    pub fn new() -> Self {
        let flags = InitFlags::all();
        let wishes = Wishes {
            flags,
            ..Wishes::default()
        };
        Self {
            wishes,
            ..Self::default()
        }
    }

    /// Make one that does something else with the replies.
    pub fn with(mode: Mode) -> Self {
        Self {
            mode,
            ..Self::new()
        }
    }

    /// Give the number of kept replies.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Answer the kept reply at this position, oldest first.
    pub fn answer_kept(&mut self, at: usize) {
        (self.kept.remove(at).1)();
    }

    /// Forget what was written down.
    pub fn clear(&mut self) {
        self.calls.clear();
    }

    fn act<T: 'static>(
        &mut self,
        rq: &Request,
        call: String,
        reply: Reply<T>,
        answer: impl FnOnce(Reply<T>) + 'static,
    ) {
        assert_eq!(reply.id(), rq.id);
        assert_eq!(reply.epoch(), rq.epoch);
        self.latest = Some(*rq);
        self.calls.push(call);
        match self.mode {
            Mode::Answer => answer(reply),
            Mode::Fail(error) => reply.err(error),
            Mode::Drop => drop(reply),
            Mode::Keep => self.kept.push((rq.id, Box::new(move || answer(reply)))),
        }
    }
}

/// Spell how a node is to be made.
fn spell(how: &Creation<'_>) -> String {
    let security = how
        .security
        .map(|(name, value)| (name, value.escape_ascii().to_string()));
    format!(
        "mode={:o} umask={:o} group={:?} security={security:?}",
        how.mode, how.umask, how.group
    )
}

fn spell_name(name: Name<'_>) -> String {
    name.bytes().escape_ascii().to_string()
}

impl FileSystem for Recorder {
    fn wishes(&self, _offered: InitFlags) -> Wishes {
        self.wishes
    }

    fn interrupt(&mut self, target: SlotId) {
        self.interrupted.push(target);
    }

    fn forget(&mut self, node: NodeId, count: u64) {
        self.calls.push(format!("forget {} count={count}", node.0));
    }

    fn lookup(&mut self, rq: &Request, parent: NodeId, name: Name<'_>, reply: Reply<Entry>) {
        let call = format!("lookup {} {}", parent.0, spell_name(name));
        self.act(rq, call, reply, |reply| reply.ok(entry()));
    }

    fn getattr(&mut self, rq: &Request, node: NodeId, fh: Option<Fh>, reply: Reply<Attributes>) {
        self.act(rq, format!("getattr {} {fh:?}", node.0), reply, answer_attr);
    }

    fn setattr(&mut self, rq: &Request, node: NodeId, set: &SetAttr, reply: Reply<Attributes>) {
        self.act(
            rq,
            format!("setattr {} {set:?}", node.0),
            reply,
            answer_attr,
        );
    }

    fn readlink(&mut self, rq: &Request, node: NodeId, reply: Reply<Target>) {
        let call = format!("readlink {}", node.0);
        self.act(rq, call, reply, |reply| reply.ok(b"../target"));
    }

    fn symlink(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        target: &CStr,
        how: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        let target = target.to_bytes().escape_ascii();
        let call = format!(
            "symlink {} {} -> {target} {}",
            parent.0,
            spell_name(name),
            spell(how)
        );
        self.act(rq, call, reply, |reply| reply.ok(entry()));
    }

    fn mknod(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        rdev: u32,
        how: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        let call = format!(
            "mknod {} {} rdev={rdev} {}",
            parent.0,
            spell_name(name),
            spell(how)
        );
        self.act(rq, call, reply, |reply| reply.ok(entry()));
    }

    fn mkdir(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        how: &Creation<'_>,
        reply: Reply<Entry>,
    ) {
        let call = format!("mkdir {} {} {}", parent.0, spell_name(name), spell(how));
        self.act(rq, call, reply, |reply| reply.ok(entry()));
    }

    fn unlink(&mut self, rq: &Request, parent: NodeId, name: Name<'_>, reply: Reply<()>) {
        let call = format!("unlink {} {}", parent.0, spell_name(name));
        self.act(rq, call, reply, |reply| reply.ok(()));
    }

    fn rmdir(&mut self, rq: &Request, parent: NodeId, name: Name<'_>, reply: Reply<()>) {
        let call = format!("rmdir {} {}", parent.0, spell_name(name));
        self.act(rq, call, reply, |reply| reply.ok(()));
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
        let (name, new_name) = (spell_name(name), spell_name(new_name));
        let call = format!(
            "rename {} {name} -> {} {new_name} flags={flags}",
            parent.0, new_parent.0
        );
        self.act(rq, call, reply, |reply| reply.ok(()));
    }

    fn link(
        &mut self,
        rq: &Request,
        node: NodeId,
        new_parent: NodeId,
        new_name: Name<'_>,
        reply: Reply<Entry>,
    ) {
        let call = format!(
            "link {} -> {} {}",
            node.0,
            new_parent.0,
            spell_name(new_name)
        );
        self.act(rq, call, reply, |reply| reply.ok(entry()));
    }

    fn open(
        &mut self,
        rq: &Request,
        node: NodeId,
        flags: OpenFlags,
        kill: bool,
        reply: Reply<Opened>,
    ) {
        let call = format!("open {} {flags:?} kill={kill}", node.0);
        self.act(rq, call, reply, |reply| reply.ok(opened()));
    }

    fn read(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        offset: u64,
        flags: OpenFlags,
        reply: Reply<Data>,
    ) {
        let wanted = reply.wanted();
        assert_eq!(
            reply.buffers().iter().map(|s| s.len()).sum::<usize>(),
            wanted
        );
        let call = format!(
            "read {} fh={} offset={offset} wanted={wanted} {flags:?}",
            node.0, fh.0
        );
        self.act(rq, call, reply, move |reply| {
            reply.zero(0, usize::MAX);
            reply.bytes(&vec![FILL; wanted]);
        });
    }

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
        let wanted = reply.wanted();
        assert_eq!(
            reply.payload().iter().map(|s| s.len()).sum::<usize>(),
            wanted
        );
        let mut payload = vec![0; wanted];
        reply.copy(0, &mut payload).expect("as long as it says");
        let sum: u64 = payload.iter().map(|&byte| u64::from(byte)).sum();
        let call = format!(
            "write {} fh={} offset={offset} wanted={wanted} sum={sum} {how:?} {flags:?}",
            node.0, fh.0
        );
        self.act(rq, call, reply, move |reply| {
            reply.ok(Written(wanted as u32))
        });
    }

    fn flush(&mut self, rq: &Request, node: NodeId, fh: Fh, lock_owner: u64, reply: Reply<()>) {
        let call = format!("flush {} fh={} owner={lock_owner:x}", node.0, fh.0);
        self.act(rq, call, reply, |reply| reply.ok(()));
    }

    fn release(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        how: ReleaseFlags,
        lock_owner: u64,
        reply: Reply<()>,
    ) {
        let call = format!(
            "release {} fh={} {how:?} owner={lock_owner:x}",
            node.0, fh.0
        );
        self.act(rq, call, reply, |reply| reply.ok(()));
    }

    fn fsync(&mut self, rq: &Request, node: NodeId, fh: Fh, datasync: bool, reply: Reply<()>) {
        let call = format!("fsync {} fh={} datasync={datasync}", node.0, fh.0);
        self.act(rq, call, reply, |reply| reply.ok(()));
    }

    fn opendir(&mut self, rq: &Request, node: NodeId, flags: OpenFlags, reply: Reply<Opened>) {
        let call = format!("opendir {} {flags:?}", node.0);
        self.act(rq, call, reply, |reply| reply.ok(opened()));
    }

    fn readdir(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        position: u64,
        reply: Reply<DirEntries>,
    ) {
        let call = format!("readdir {} fh={} position={position}", node.0, fh.0);
        self.act(rq, call, reply, answer_readdir);
    }

    fn readdirplus(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        position: u64,
        reply: Reply<DirEntriesPlus>,
    ) {
        let call = format!("readdirplus {} fh={} position={position}", node.0, fh.0);
        self.act(rq, call, reply, answer_readdirplus);
    }

    fn releasedir(&mut self, rq: &Request, node: NodeId, fh: Fh, reply: Reply<()>) {
        let call = format!("releasedir {} fh={}", node.0, fh.0);
        self.act(rq, call, reply, |reply| reply.ok(()));
    }

    fn fsyncdir(&mut self, rq: &Request, node: NodeId, fh: Fh, datasync: bool, reply: Reply<()>) {
        let call = format!("fsyncdir {} fh={} datasync={datasync}", node.0, fh.0);
        self.act(rq, call, reply, |reply| reply.ok(()));
    }

    fn statfs(&mut self, rq: &Request, node: NodeId, reply: Reply<Statfs>) {
        let call = format!("statfs {}", node.0);
        self.act(rq, call, reply, |reply| {
            reply.ok(Statfs(Kstatfs {
                blocks: 12,
                ..Kstatfs::default()
            }))
        });
    }

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
        let call = format!(
            "setxattr {} {name:?}={} flags={flags} kill={kill_sgid}",
            node.0,
            value.escape_ascii()
        );
        self.act(rq, call, reply, |reply| reply.ok(()));
    }

    fn getxattr(&mut self, rq: &Request, node: NodeId, name: &CStr, reply: Reply<XattrValue>) {
        let call = format!("getxattr {} {name:?} room={}", node.0, reply.wanted());
        self.act(rq, call, reply, answer_xattr);
    }

    fn listxattr(&mut self, rq: &Request, node: NodeId, reply: Reply<XattrValue>) {
        let call = format!("listxattr {} room={}", node.0, reply.wanted());
        self.act(rq, call, reply, answer_xattr);
    }

    fn removexattr(&mut self, rq: &Request, node: NodeId, name: &CStr, reply: Reply<()>) {
        self.act(
            rq,
            format!("removexattr {} {name:?}", node.0),
            reply,
            |reply| reply.ok(()),
        );
    }

    fn access(&mut self, rq: &Request, node: NodeId, mask: u32, reply: Reply<()>) {
        self.act(rq, format!("access {} {mask}", node.0), reply, |reply| {
            reply.ok(())
        });
    }

    fn create(
        &mut self,
        rq: &Request,
        parent: NodeId,
        name: Name<'_>,
        flags: OpenFlags,
        kill: bool,
        how: &Creation<'_>,
        reply: Reply<Created>,
    ) {
        let call = format!(
            "create {} {} {flags:?} kill={kill} {}",
            parent.0,
            spell_name(name),
            spell(how)
        );
        self.act(rq, call, reply, answer_created);
    }

    fn tmpfile(
        &mut self,
        rq: &Request,
        parent: NodeId,
        flags: OpenFlags,
        how: &Creation<'_>,
        reply: Reply<Created>,
    ) {
        let call = format!("tmpfile {} {flags:?} {}", parent.0, spell(how));
        self.act(rq, call, reply, answer_created);
    }

    fn getlk(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        lock: &LockRequest,
        reply: Reply<Lock>,
    ) {
        let free = Lock {
            kind: LockKind::Unlock,
            ..lock.lock
        };
        self.act(
            rq,
            format!("getlk {} fh={} {lock:?}", node.0, fh.0),
            reply,
            move |reply| reply.ok(free),
        );
    }

    fn setlk(&mut self, rq: &Request, node: NodeId, fh: Fh, lock: &LockRequest, reply: Reply<()>) {
        let call = format!("setlk {} fh={} {lock:?}", node.0, fh.0);
        self.act(rq, call, reply, |reply| reply.ok(()));
    }

    fn bmap(&mut self, rq: &Request, node: NodeId, block: u64, size: u32, reply: Reply<Block>) {
        let call = format!("bmap {} block={block} size={size}", node.0);
        self.act(rq, call, reply, move |reply| reply.ok(Block(block)));
    }

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
        let call = format!(
            "ioctl {} fh={} cmd={cmd:x} arg={arg:x} {data:?}",
            node.0, fh.0
        );
        let data = data.to_vec();
        self.act(rq, call, reply, move |reply| reply.ok(3, &data));
    }

    fn poll_file(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        events: u32,
        reply: Reply<Revents>,
    ) {
        let call = format!("poll {} fh={} events={events}", node.0, fh.0);
        self.act(rq, call, reply, move |reply| reply.ok(Revents(events)));
    }

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
        let call = format!(
            "fallocate {} fh={} offset={offset} length={length} mode={mode}",
            node.0, fh.0
        );
        self.act(rq, call, reply, |reply| reply.ok(()));
    }

    fn lseek(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        offset: u64,
        whence: u32,
        reply: Reply<Position>,
    ) {
        let call = format!(
            "lseek {} fh={} offset={offset} whence={whence}",
            node.0, fh.0
        );
        self.act(rq, call, reply, move |reply| reply.ok(Position(offset)));
    }

    fn copy_file_range(
        &mut self,
        rq: &Request,
        from: (NodeId, Fh, u64),
        to: (NodeId, Fh, u64),
        length: u64,
        reply: Reply<Copied>,
    ) {
        let call = format!("copy_file_range {from:?} -> {to:?} length={length}");
        self.act(rq, call, reply, move |reply| reply.ok(length));
    }

    fn syncfs(&mut self, rq: &Request, node: NodeId, reply: Reply<()>) {
        self.act(rq, format!("syncfs {}", node.0), reply, |reply| {
            reply.ok(())
        });
    }

    fn statx(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Option<Fh>,
        flags: u32,
        mask: u32,
        reply: Reply<StatxReply>,
    ) {
        let call = format!("statx {} {fh:?} flags={flags:x} mask={mask:x}", node.0);
        self.act(rq, call, reply, answer_statx);
    }
}
