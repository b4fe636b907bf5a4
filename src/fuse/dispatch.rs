//! Decoding: from the bytes of a request to one call of the backend.

use super::fs::FileSystem;
use super::parse::{
    TOTAL_EXTLEN_MINOR, Tail, arguments, creation, name, rest, set_attr, string, xattr_name,
};
use super::reply::Reply;
use super::session::Session;
use super::types::{Caller, Fh, Lock, LockRequest, Name, NodeId, Request};
use crate::mem::{Arena, OutOfMemory, RequestTable, SegmentList, Slot, Token};
use crate::wire::errno::Errno;
use crate::wire::fuse::*;
use crate::wire::open_flags::OpenFlags;

/// Most bytes of a request other than WRITE, without its headers: an extended attribute of 64 KiB and its name, or
/// the nodes of a BATCH_FORGET.
const SCRATCH: usize = 68 << 10;

/// Longest target of a symbolic link in bytes (`PATH_MAX` without its NUL).
const TARGET_MAX: usize = 4095;

/// Decode the requests of one core for one device.
pub struct Dispatcher {
    session: &'static Session,
    /// Where names and attribute values are copied to while a method runs.
    scratch: &'static mut [u8],
    /// Number of posted interrupts that this core has looked at.
    interrupts_seen: u64,
}

const READ: u32 = Opcode::READ as u32;
const WRITE: u32 = Opcode::WRITE as u32;

/// Unwrap, or answer with the error.
macro_rules! check {
    ($slot:ident, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return Reply::<()>::new($slot).err(error),
        }
    };
}

impl Dispatcher {
    /// Bytes of arena that a dispatcher needs.
    pub const FOOTPRINT: usize = SCRATCH;

    /// Make the decoder of a core.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena is too small.
    pub fn new(session: &'static Session, arena: &Arena) -> Result<Self, OutOfMemory> {
        Ok(Self {
            session,
            scratch: arena.zeroed(SCRATCH)?,
            interrupts_seen: 0,
        })
    }

    /// Decode one request and call the backend. `tables` are this core's, to find the target of an INTERRUPT.
    ///
    /// The request ends in its table: at once, or when the backend answers.
    #[inline(always)]
    pub fn dispatch(
        &mut self,
        fs: &mut dyn FileSystem,
        tables: &[&'static RequestTable],
        mut slot: Slot,
        token: Token,
        started: u64,
    ) {
        let epoch = self.session.epoch();
        let Ok(header) = slot.begin(token, epoch, started) else {
            // Not even a header to answer to.
            return slot.finish(0, Errno::EINVAL.get() as u16);
        };
        let caller = Caller {
            uid: header.uid,
            gid: header.gid,
            pid: header.pid,
        };
        let rq = Request {
            id: slot.id(),
            caller,
            epoch,
        };
        // A length below the header's own becomes one that no request has.
        let body = header.len.wrapping_sub(IN_HEADER_LEN as u32) as usize;
        let whole = body == slot.segments().readable_len() || cut(slot.segments_mut(), body);
        let node = NodeId(header.nodeid);
        // Most requests are one of these two.
        let is_data = matches!(header.opcode, READ | WRITE);
        if !whole
            || !(is_data || Opcode::is_number_of_file(header.opcode))
            || !self.session.ready()
            || slot.segments_mut().split_head(OUT_HEADER_LEN).is_err()
        {
            return self.dispatch_other(fs, tables, header.opcode, whole, slot);
        }
        match header.opcode {
            READ => self.read(fs, &rq, node, slot),
            WRITE => self.write(fs, &rq, node, slot),
            opcode => {
                let call = Call {
                    session: self.session,
                    fs,
                    rq,
                    node,
                };
                call.decode(opcode, slot, self.scratch);
            }
        }
    }

    #[inline(always)]
    fn read(&self, fs: &mut dyn FileSystem, rq: &Request, node: NodeId, mut slot: Slot) {
        let args: ReadIn = check!(slot, arguments(&mut slot));
        let size = args.size as usize;
        if size > slot.segments().writable_len() {
            return Reply::<()>::new(slot).err(Errno::EINVAL);
        }
        slot.segments_mut().limit_writable(size);
        let flags = OpenFlags::decode(args.flags, self.session.arch());
        let (fh, reply) = (Fh(args.fh), Reply::new(slot));
        fs.read(rq, node, fh, args.offset, flags, reply);
    }

    #[inline(always)]
    fn write(&self, fs: &mut dyn FileSystem, rq: &Request, node: NodeId, mut slot: Slot) {
        let args: WriteIn = check!(slot, arguments(&mut slot));
        let size = args.size as usize;
        if size > slot.segments().readable_len() || args.size > self.session.max_write() {
            return Reply::<()>::new(slot).err(Errno::EINVAL);
        }
        slot.segments_mut().limit_readable(size);
        let how = WriteFlags::from_bits_truncate(args.write_flags);
        let flags = OpenFlags::decode(args.flags, self.session.arch());
        let (fh, reply) = (Fh(args.fh), Reply::new(slot));
        fs.write(rq, node, fh, args.offset, how, flags, reply);
    }

    /// Answer what is about the session, what comes while there is none, and what is no request.
    #[cold]
    fn dispatch_other(
        &mut self,
        fs: &mut dyn FileSystem,
        tables: &[&'static RequestTable],
        opcode: u32,
        whole: bool,
        mut slot: Slot,
    ) {
        let opcode = Opcode::new(opcode);
        if opcode.is_some_and(Opcode::is_unanswered) {
            self.forget(fs, opcode, &mut slot);
            return slot.finish(0, 0);
        }
        if slot.segments_mut().split_head(OUT_HEADER_LEN).is_err() {
            // No room for an answer.
            return slot.finish(0, Errno::EINVAL.get() as u16);
        }
        if !whole {
            return Reply::<()>::new(slot).err(Errno::EINVAL);
        }
        let opcode = check!(slot, opcode.ok_or(Errno::ENOSYS));
        match opcode {
            Opcode::INIT => {
                let out = check!(slot, self.session.init(&mut slot, fs));
                Reply::<InitOut>::new(slot).ok(out);
            }
            Opcode::DESTROY => {
                self.session.reset();
                Reply::<()>::new(slot).ok(());
            }
            Opcode::INTERRUPT if self.session.ready() => self.interrupt(fs, tables, slot),
            // The host does not know this session any more, or not yet.
            _ => Reply::<()>::new(slot).err(Errno::EIO),
        }
    }

    /// Look for the targets of INTERRUPTs that other cores received.
    #[inline]
    pub fn poll_interrupts(&mut self, fs: &mut dyn FileSystem, tables: &[&'static RequestTable]) {
        self.session
            .interrupts
            .drain(&mut self.interrupts_seen, |unique| {
                if let Some(target) = tables.iter().find_map(|table| table.interrupt(unique)) {
                    fs.interrupt(target);
                }
            });
    }

    /// Interrupt a request of this core, or tell the others. One that nobody has is answered with `EAGAIN`: the
    /// INTERRUPT overtook its target, and the kernel asks again while that has no answer.
    fn interrupt(
        &mut self,
        fs: &mut dyn FileSystem,
        tables: &[&'static RequestTable],
        mut slot: Slot,
    ) {
        let args: InterruptIn = check!(slot, arguments(&mut slot));
        let own = slot.header().unique;
        let mut tables = tables.iter().filter(|_| args.unique != own);
        match tables.find_map(|table| table.interrupt(args.unique)) {
            Some(target) => {
                fs.interrupt(target);
                // A handled INTERRUPT has no answer of its own.
                slot.finish(0, 0);
            }
            None => {
                self.session.interrupts.post(args.unique);
                Reply::<()>::new(slot).err(Errno::EAGAIN);
            }
        }
    }

    /// Drop lookup counts. A malformed FORGET has no answer either and changes nothing.
    fn forget(&mut self, fs: &mut dyn FileSystem, opcode: Option<Opcode>, slot: &mut Slot) {
        if !self.session.ready() {
            return;
        }
        match opcode {
            Some(Opcode::FORGET) => {
                if let Ok(args) = arguments::<ForgetIn>(slot) {
                    fs.forget(NodeId(slot.header().nodeid), args.nlookup);
                }
            }
            Some(Opcode::BATCH_FORGET) => {
                let Ok(args) = arguments::<BatchForgetIn>(slot) else {
                    return;
                };
                for _ in 0..args.count {
                    let Ok(one) = arguments::<ForgetOne>(slot) else {
                        return;
                    };
                    fs.forget(NodeId(one.nodeid), one.nlookup);
                }
            }
            _ => {}
        }
    }
}

/// Cut what the host sent to what a request says that there is; false, and nothing left, when that is more.
#[cold]
#[inline(never)]
fn cut(segments: &mut SegmentList, len: usize) -> bool {
    let whole = len <= segments.readable_len();
    segments.limit_readable(if whole { len } else { 0 });
    whole
}

/// Hold what every call needs.
struct Call<'a> {
    session: &'static Session,
    fs: &'a mut dyn FileSystem,
    rq: Request,
    node: NodeId,
}

impl Call<'_> {
    fn flags(&self, raw: u32) -> OpenFlags {
        OpenFlags::decode(raw, self.session.arch())
    }

    /// Decode the operations on files, apart from READ and WRITE.
    #[inline(never)]
    fn decode(self, opcode: u32, mut slot: Slot, scratch: &mut [u8]) {
        let opcode = check!(slot, Opcode::new(opcode).ok_or(Errno::ENOSYS));
        let (rq, node) = (&self.rq, self.node);
        match opcode {
            Opcode::GETATTR => {
                let args: GetattrIn = check!(slot, arguments(&mut slot));
                let fh = (args.getattr_flags & GETATTR_FH != 0).then_some(Fh(args.fh));
                self.fs.getattr(rq, node, fh, Reply::new(slot));
            }
            Opcode::LOOKUP => {
                let mut bytes = check!(slot, rest(&slot, scratch));
                let name = check!(slot, string(&mut bytes).and_then(Name::new));
                let dots_are_names = self.session.flags().contains(InitFlags::EXPORT_SUPPORT);
                if name.is_dots() && !dots_are_names {
                    return Reply::<()>::new(slot).err(Errno::EINVAL);
                }
                self.fs.lookup(rq, node, name, Reply::new(slot));
            }
            Opcode::SETATTR => {
                let args: SetattrIn = check!(slot, arguments(&mut slot));
                self.fs
                    .setattr(rq, node, &set_attr(&args), Reply::new(slot));
            }
            Opcode::OPEN => {
                let args: OpenIn = check!(slot, arguments(&mut slot));
                let kill = args.open_flags & OPEN_KILL_SUIDGID != 0;
                self.fs
                    .open(rq, node, self.flags(args.flags), kill, Reply::new(slot));
            }
            Opcode::RELEASE => {
                let args: ReleaseIn = check!(slot, arguments(&mut slot));
                let how = ReleaseFlags::from_bits_truncate(args.release_flags);
                self.fs.release(
                    rq,
                    node,
                    Fh(args.fh),
                    how,
                    args.lock_owner,
                    Reply::new(slot),
                );
            }
            Opcode::FLUSH => {
                let args: FlushIn = check!(slot, arguments(&mut slot));
                self.fs
                    .flush(rq, node, Fh(args.fh), args.lock_owner, Reply::new(slot));
            }
            Opcode::FSYNC => {
                let args: FsyncIn = check!(slot, arguments(&mut slot));
                let datasync = args.fsync_flags & FSYNC_FDATASYNC != 0;
                self.fs
                    .fsync(rq, node, Fh(args.fh), datasync, Reply::new(slot));
            }
            Opcode::FALLOCATE => {
                let args: FallocateIn = check!(slot, arguments(&mut slot));
                let (fh, reply) = (Fh(args.fh), Reply::new(slot));
                self.fs
                    .fallocate(rq, node, fh, args.offset, args.length, args.mode, reply);
            }
            Opcode::LSEEK => {
                let args: LseekIn = check!(slot, arguments(&mut slot));
                let (fh, reply) = (Fh(args.fh), Reply::new(slot));
                self.fs.lseek(rq, node, fh, args.offset, args.whence, reply);
            }
            Opcode::COPY_FILE_RANGE | Opcode::COPY_FILE_RANGE_64 => {
                let args: CopyFileRangeIn = check!(slot, arguments(&mut slot));
                if args.flags != 0 {
                    return Reply::<()>::new(slot).err(Errno::EINVAL);
                }
                let source = (node, Fh(args.fh_in), args.off_in);
                let destination = (NodeId(args.nodeid_out), Fh(args.fh_out), args.off_out);
                // The older form cannot answer with more; whole pages, so that the rest begins on one.
                let len = if opcode == Opcode::COPY_FILE_RANGE {
                    args.len.min(u64::from(!4095_u32))
                } else {
                    args.len
                };
                self.fs
                    .copy_file_range(rq, source, destination, len, Reply::new(slot));
            }
            Opcode::GETLK | Opcode::SETLK | Opcode::SETLKW => {
                let args: LkIn = check!(slot, arguments(&mut slot));
                let lock = LockRequest {
                    owner: args.owner,
                    lock: check!(slot, Lock::from_wire(&args.lk)),
                    flock: args.lk_flags & LK_FLOCK != 0,
                    wait: opcode == Opcode::SETLKW,
                };
                if opcode == Opcode::GETLK {
                    self.fs
                        .getlk(rq, node, Fh(args.fh), &lock, Reply::new(slot));
                } else {
                    self.fs
                        .setlk(rq, node, Fh(args.fh), &lock, Reply::new(slot));
                }
            }
            Opcode::BMAP => {
                let args: BmapIn = check!(slot, arguments(&mut slot));
                self.fs
                    .bmap(rq, node, args.block, args.blocksize, Reply::new(slot));
            }
            Opcode::POLL => {
                let args: PollIn = check!(slot, arguments(&mut slot));
                self.fs
                    .poll_file(rq, node, Fh(args.fh), args.events, Reply::new(slot));
            }
            Opcode::IOCTL => {
                let args: IoctlIn = check!(slot, arguments(&mut slot));
                let bytes = check!(slot, rest(&slot, scratch));
                let data = check!(
                    slot,
                    bytes.get(..args.in_size as usize).ok_or(Errno::EINVAL)
                );
                let room = size_of::<IoctlOut>().saturating_add(args.out_size as usize);
                slot.segments_mut().limit_writable(room);
                let (fh, reply) = (Fh(args.fh), Reply::new(slot));
                self.fs.ioctl(rq, node, fh, args.cmd, args.arg, data, reply);
            }
            Opcode::STATFS => self.fs.statfs(rq, node, Reply::new(slot)),
            Opcode::SYNCFS => self.fs.syncfs(rq, node, Reply::new(slot)),
            Opcode::READLINK => self.fs.readlink(rq, node, Reply::new(slot)),
            Opcode::ACCESS => {
                let args: AccessIn = check!(slot, arguments(&mut slot));
                self.fs.access(rq, node, args.mask, Reply::new(slot));
            }
            Opcode::STATX => {
                let args: StatxIn = check!(slot, arguments(&mut slot));
                let fh = (args.getattr_flags & GETATTR_FH != 0).then_some(Fh(args.fh));
                self.fs
                    .statx(rq, node, fh, args.sx_flags, args.sx_mask, Reply::new(slot));
            }
            _ => self.decode_names(opcode, slot, scratch),
        }
    }

    /// Decode the operations on directories and on names.
    fn decode_names(self, opcode: Opcode, mut slot: Slot, scratch: &mut [u8]) {
        let (rq, node) = (&self.rq, self.node);
        match opcode {
            Opcode::OPENDIR => {
                let args: OpenIn = check!(slot, arguments(&mut slot));
                self.fs
                    .opendir(rq, node, self.flags(args.flags), Reply::new(slot));
            }
            Opcode::READDIR | Opcode::READDIRPLUS => {
                let args: ReadIn = check!(slot, arguments(&mut slot));
                slot.segments_mut().limit_writable(args.size as usize);
                if opcode == Opcode::READDIR {
                    self.fs
                        .readdir(rq, node, Fh(args.fh), args.offset, Reply::new(slot));
                } else {
                    self.fs
                        .readdirplus(rq, node, Fh(args.fh), args.offset, Reply::new(slot));
                }
            }
            Opcode::RELEASEDIR => {
                let args: ReleaseIn = check!(slot, arguments(&mut slot));
                self.fs.releasedir(rq, node, Fh(args.fh), Reply::new(slot));
            }
            Opcode::FSYNCDIR => {
                let args: FsyncIn = check!(slot, arguments(&mut slot));
                let datasync = args.fsync_flags & FSYNC_FDATASYNC != 0;
                self.fs
                    .fsyncdir(rq, node, Fh(args.fh), datasync, Reply::new(slot));
            }
            Opcode::UNLINK | Opcode::RMDIR => {
                let mut bytes = check!(slot, rest(&slot, scratch));
                let name = check!(slot, name(&mut bytes));
                if opcode == Opcode::UNLINK {
                    self.fs.unlink(rq, node, name, Reply::new(slot));
                } else {
                    self.fs.rmdir(rq, node, name, Reply::new(slot));
                }
            }
            Opcode::RENAME | Opcode::RENAME2 => {
                let (newdir, flags) = if opcode == Opcode::RENAME {
                    let args: RenameIn = check!(slot, arguments(&mut slot));
                    (args.newdir, 0)
                } else {
                    let args: Rename2In = check!(slot, arguments(&mut slot));
                    (args.newdir, args.flags)
                };
                let mut bytes = check!(slot, rest(&slot, scratch));
                let old = check!(slot, name(&mut bytes));
                let new = check!(slot, name(&mut bytes));
                self.fs
                    .rename(rq, node, old, NodeId(newdir), new, flags, Reply::new(slot));
            }
            Opcode::LINK => {
                let args: LinkIn = check!(slot, arguments(&mut slot));
                let mut bytes = check!(slot, rest(&slot, scratch));
                let name = check!(slot, name(&mut bytes));
                self.fs
                    .link(rq, NodeId(args.oldnodeid), node, name, Reply::new(slot));
            }
            Opcode::SETXATTR => {
                // The long form only when negotiated: the short one's name would be taken for its fields.
                let long = self.session.flags().contains(InitFlags::SETXATTR_EXT);
                let args: SetxattrIn = if long {
                    check!(slot, arguments(&mut slot))
                } else {
                    let short: [u32; 2] = check!(slot, arguments(&mut slot));
                    SetxattrIn {
                        size: short[0],
                        flags: short[1],
                        ..SetxattrIn::default()
                    }
                };
                let mut bytes = check!(slot, rest(&slot, scratch));
                let name = check!(slot, xattr_name(&mut bytes));
                let value = check!(slot, bytes.get(..args.size as usize).ok_or(Errno::EINVAL));
                let kill_sgid = args.setxattr_flags & SETXATTR_ACL_KILL_SGID != 0;
                let reply = Reply::new(slot);
                self.fs
                    .setxattr(rq, node, name, value, args.flags, kill_sgid, reply);
            }
            Opcode::GETXATTR | Opcode::LISTXATTR => {
                let args: GetxattrIn = check!(slot, arguments(&mut slot));
                let mut bytes = check!(slot, rest(&slot, scratch));
                if args.size as usize > slot.segments().writable_len() {
                    return Reply::<()>::new(slot).err(Errno::EINVAL);
                }
                if args.size > 0 {
                    slot.segments_mut().limit_writable(args.size as usize);
                }
                slot.set_room(args.size);
                if opcode == Opcode::GETXATTR {
                    let name = check!(slot, xattr_name(&mut bytes));
                    self.fs.getxattr(rq, node, name, Reply::new(slot));
                } else {
                    self.fs.listxattr(rq, node, Reply::new(slot));
                }
            }
            Opcode::REMOVEXATTR => {
                let mut bytes = check!(slot, rest(&slot, scratch));
                let name = check!(slot, xattr_name(&mut bytes));
                self.fs.removexattr(rq, node, name, Reply::new(slot));
            }
            _ => self.decode_create(opcode, slot, scratch),
        }
    }

    /// Say where the extensions of a create begin that has so many names.
    fn tail(&self, slot: &Slot, names: usize) -> Tail {
        let contexts = self.session.flags().contains(InitFlags::SECURITY_CTX);
        if contexts && self.session.minor() < TOTAL_EXTLEN_MINOR {
            Tail::Behind(names)
        } else {
            Tail::Last(usize::from(slot.header().total_extlen) * 8)
        }
    }

    /// Decode the operations that make a node; they may carry extensions.
    fn decode_create(self, opcode: Opcode, mut slot: Slot, scratch: &mut [u8]) {
        let (rq, node) = (&self.rq, self.node);
        let names = if opcode == Opcode::SYMLINK { 2 } else { 1 };
        let tail = self.tail(&slot, names);
        match opcode {
            Opcode::MKNOD => {
                let args: MknodIn = check!(slot, arguments(&mut slot));
                let mut bytes = check!(slot, rest(&slot, scratch));
                let how = check!(slot, creation(&mut bytes, tail, args.mode, args.umask));
                let name = check!(slot, name(&mut bytes));
                self.fs
                    .mknod(rq, node, name, args.rdev, &how, Reply::new(slot));
            }
            Opcode::MKDIR => {
                let args: MkdirIn = check!(slot, arguments(&mut slot));
                let mut bytes = check!(slot, rest(&slot, scratch));
                let how = check!(slot, creation(&mut bytes, tail, args.mode, args.umask));
                let name = check!(slot, name(&mut bytes));
                self.fs.mkdir(rq, node, name, &how, Reply::new(slot));
            }
            Opcode::SYMLINK => {
                let mut bytes = check!(slot, rest(&slot, scratch));
                let how = check!(slot, creation(&mut bytes, tail, 0o120_777, 0));
                let name = check!(slot, name(&mut bytes));
                let target = check!(slot, string(&mut bytes));
                match target.count_bytes() {
                    0 => Reply::<()>::new(slot).err(Errno::ENOENT),
                    1..=TARGET_MAX => {
                        self.fs
                            .symlink(rq, node, name, target, &how, Reply::new(slot));
                    }
                    _ => Reply::<()>::new(slot).err(Errno::ENAMETOOLONG),
                }
            }
            Opcode::CREATE | Opcode::TMPFILE => {
                let args: CreateIn = check!(slot, arguments(&mut slot));
                let flags = self.flags(args.flags);
                let mut bytes = check!(slot, rest(&slot, scratch));
                let how = check!(slot, creation(&mut bytes, tail, args.mode, args.umask));
                if opcode == Opcode::CREATE {
                    let name = check!(slot, name(&mut bytes));
                    let kill = args.open_flags & OPEN_KILL_SUIDGID != 0;
                    self.fs
                        .create(rq, node, name, flags, kill, &how, Reply::new(slot));
                } else {
                    // Linux sends a name that means nothing ("/").
                    self.fs.tmpfile(rq, node, flags, &how, Reply::new(slot));
                }
            }
            // DAX needs a window, which no device here has; the rest was decoded before.
            _ => Reply::<()>::new(slot).err(Errno::ENOSYS),
        }
    }
}
