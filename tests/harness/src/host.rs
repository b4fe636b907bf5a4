//! A host: requests as its kernel would send them, by name of the operation, each waited for.

use dpfs::fuse::FileSystem;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::*;
use zerocopy::{FromBytes, IntoBytes};

use crate::{Answer, Bed, Message, Ticket};

/// What an operation gives.
pub type Result<T> = std::result::Result<T, Errno>;

/// Node of the root.
pub const ROOT: u64 = ROOT_ID;
/// To read.
pub const O_RDONLY: u32 = 0;
/// To write.
pub const O_WRONLY: u32 = 1;
/// Both.
pub const O_RDWR: u32 = 2;
/// It must not be there.
pub const O_EXCL: u32 = 0o200;
/// Cut it.
pub const O_TRUNC: u32 = 0o1000;
/// At the end.
pub const O_APPEND: u32 = 0o2000;
/// Durable when done.
pub const O_DSYNC: u32 = 0o10000;
/// Past the page cache.
pub const O_DIRECT: u32 = 0o40000;

/// Name who asks.
#[derive(Clone, Copy)]
pub struct Who {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The superuser.
pub const SUPER: Who = Who { uid: 0, gid: 0 };

/// Hold a core of a device that a host mounted, and who asks.
pub struct Host<F: FileSystem> {
    /// The core.
    pub bed: Bed<F>,
    /// Who asks.
    pub who: Who,
    /// Extensions of the next create.
    pub extensions: Vec<u8>,
    /// Mask of creates.
    pub umask: u32,
}

/// One entry of a directory.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Name.
    pub name: String,
    /// Inode number.
    pub ino: u64,
    /// Position behind it.
    pub next: u64,
    /// Type, as in a mode, without the last twelve bits.
    pub kind: u32,
    /// Node and attributes, from READDIRPLUS.
    pub entry: Option<EntryOut>,
}

fn value<T: FromBytes + zerocopy::Immutable + zerocopy::KnownLayout>(answer: &Answer) -> Result<T> {
    match answer.error() {
        Some(error) => Err(error),
        None => Ok(answer.value()),
    }
}

fn unit(answer: &Answer) -> Result<()> {
    answer.error().map_or(Ok(()), Err)
}

impl<F: FileSystem> Host<F> {
    /// Be the superuser of a host that has mounted the device.
    pub const fn new(bed: Bed<F>) -> Self {
        Self {
            bed,
            who: SUPER,
            extensions: Vec::new(),
            umask: 0,
        }
    }

    /// Begin a request of `who`.
    pub fn message(&mut self, opcode: Opcode, node: u64) -> Message {
        Message::new(opcode)
            .node(node)
            .caller(self.who.uid, self.who.gid, 100)
    }

    /// Look a name up.
    pub fn lookup(&mut self, parent: u64, name: &str) -> Result<EntryOut> {
        let message = self.message(Opcode::LOOKUP, parent).name(name).room(128);
        value(&self.bed.call(&message))
    }

    /// Give lookups back.
    pub fn forget(&mut self, node: u64, nlookup: u64) {
        let message = self
            .message(Opcode::FORGET, node)
            .arg(&ForgetIn { nlookup });
        self.bed.call(&message.no_reply());
    }

    /// Ask for attributes.
    pub fn getattr(&mut self, node: u64, fh: Option<u64>) -> Result<Attr> {
        let args = GetattrIn {
            getattr_flags: fh.map_or(0, |_| GETATTR_FH),
            dummy: 0,
            fh: fh.unwrap_or(0),
        };
        let message = self.message(Opcode::GETATTR, node).arg(&args).room(104);
        value::<AttrOut>(&self.bed.call(&message)).map(|out| out.attr)
    }

    /// Set attributes.
    pub fn setattr(&mut self, node: u64, args: &SetattrIn) -> Result<Attr> {
        let message = self.message(Opcode::SETATTR, node).arg(args).room(104);
        value::<AttrOut>(&self.bed.call(&message)).map(|out| out.attr)
    }

    /// Ask for attributes as statx(2) does.
    pub fn statx(&mut self, node: u64, mask: u32) -> Result<Statx> {
        let args = StatxIn {
            sx_mask: mask,
            ..StatxIn::default()
        };
        let message = self.message(Opcode::STATX, node).arg(&args).room(288);
        value::<StatxOut>(&self.bed.call(&message)).map(|out| out.stat)
    }

    fn with_extensions(&mut self, message: Message) -> Message {
        message.extension(&std::mem::take(&mut self.extensions))
    }

    /// Make a directory.
    pub fn mkdir(&mut self, parent: u64, name: &str, mode: u32) -> Result<EntryOut> {
        let args = MkdirIn {
            mode,
            umask: self.umask,
        };
        let message = self
            .message(Opcode::MKDIR, parent)
            .arg(&args)
            .name(name)
            .room(128);
        let message = self.with_extensions(message);
        value(&self.bed.call(&message))
    }

    /// Make a node.
    pub fn mknod(&mut self, parent: u64, name: &str, mode: u32, rdev: u32) -> Result<EntryOut> {
        let args = MknodIn {
            mode,
            rdev,
            umask: self.umask,
            padding: 0,
        };
        let message = self
            .message(Opcode::MKNOD, parent)
            .arg(&args)
            .name(name)
            .room(128);
        let message = self.with_extensions(message);
        value(&self.bed.call(&message))
    }

    /// Make a symbolic link.
    pub fn symlink(&mut self, parent: u64, name: &str, target: &str) -> Result<EntryOut> {
        let message = self
            .message(Opcode::SYMLINK, parent)
            .name(name)
            .name(target)
            .room(128);
        let message = self.with_extensions(message);
        value(&self.bed.call(&message))
    }

    /// Ask for the target of a symbolic link.
    pub fn readlink(&mut self, node: u64) -> Result<Vec<u8>> {
        let message = self.message(Opcode::READLINK, node).room(4096);
        let answer = self.bed.call(&message);
        unit(&answer).map(|()| answer.body().to_vec())
    }

    /// Remove a name.
    pub fn unlink(&mut self, parent: u64, name: &str) -> Result<()> {
        let message = self.message(Opcode::UNLINK, parent).name(name);
        unit(&self.bed.call(&message))
    }

    /// Remove a directory.
    pub fn rmdir(&mut self, parent: u64, name: &str) -> Result<()> {
        let message = self.message(Opcode::RMDIR, parent).name(name);
        unit(&self.bed.call(&message))
    }

    /// Change a name, with `RENAME_*`.
    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str), flags: u32) -> Result<()> {
        let args = Rename2In {
            newdir: to.0,
            flags,
            padding: 0,
        };
        let message = self
            .message(Opcode::RENAME2, from.0)
            .arg(&args)
            .name(from.1)
            .name(to.1);
        unit(&self.bed.call(&message))
    }

    /// Give one more name.
    pub fn link(&mut self, node: u64, parent: u64, name: &str) -> Result<EntryOut> {
        let args = LinkIn { oldnodeid: node };
        let message = self
            .message(Opcode::LINK, parent)
            .arg(&args)
            .name(name)
            .room(128);
        value(&self.bed.call(&message))
    }

    /// Make a file and open it; gives its number, too.
    pub fn create(
        &mut self,
        parent: u64,
        name: &str,
        flags: u32,
        mode: u32,
    ) -> Result<(EntryOut, u64)> {
        let args = CreateIn {
            flags,
            mode: 0o100_000 | mode,
            umask: self.umask,
            open_flags: 0,
        };
        let message = self
            .message(Opcode::CREATE, parent)
            .arg(&args)
            .name(name)
            .room(144);
        let message = self.with_extensions(message);
        let answer = self.bed.call(&message);
        let entry = value(&answer)?;
        let (open, _) = OpenOut::read_from_prefix(&answer.body()[128..]).unwrap();
        Ok((entry, open.fh))
    }

    /// Make a file without a name; gives its number, too.
    pub fn tmpfile(&mut self, parent: u64, flags: u32, mode: u32) -> Result<(EntryOut, u64)> {
        let args = CreateIn {
            flags,
            mode: 0o100_000 | mode,
            umask: self.umask,
            open_flags: 0,
        };
        let message = self
            .message(Opcode::TMPFILE, parent)
            .arg(&args)
            .name("/")
            .room(144);
        let answer = self.bed.call(&message);
        let entry = value(&answer)?;
        let (open, _) = OpenOut::read_from_prefix(&answer.body()[128..]).unwrap();
        Ok((entry, open.fh))
    }

    /// Open a file, telling whether set-user-ID bits are to go.
    pub fn open_with(&mut self, node: u64, flags: u32, kill: bool) -> Result<OpenOut> {
        let args = OpenIn {
            flags,
            open_flags: if kill { OPEN_KILL_SUIDGID } else { 0 },
        };
        let message = self.message(Opcode::OPEN, node).arg(&args).room(16);
        value(&self.bed.call(&message))
    }

    /// Open a file.
    pub fn open(&mut self, node: u64, flags: u32) -> Result<u64> {
        self.open_with(node, flags, false).map(|open| open.fh)
    }

    /// Open a directory.
    pub fn opendir(&mut self, node: u64) -> Result<u64> {
        let message = self
            .message(Opcode::OPENDIR, node)
            .arg(&OpenIn::default())
            .room(16);
        value::<OpenOut>(&self.bed.call(&message)).map(|open| open.fh)
    }

    /// Close a file.
    pub fn release(&mut self, node: u64, fh: u64) -> Result<()> {
        let args = ReleaseIn {
            fh,
            ..ReleaseIn::default()
        };
        let message = self.message(Opcode::RELEASE, node).arg(&args);
        unit(&self.bed.call(&message))
    }

    /// Close a directory.
    pub fn releasedir(&mut self, node: u64, fh: u64) -> Result<()> {
        let args = ReleaseIn {
            fh,
            ..ReleaseIn::default()
        };
        let message = self.message(Opcode::RELEASEDIR, node).arg(&args);
        unit(&self.bed.call(&message))
    }

    /// Say that a descriptor was closed.
    pub fn flush(&mut self, node: u64, fh: u64, lock_owner: u64) -> Result<()> {
        let args = FlushIn {
            fh,
            lock_owner,
            ..FlushIn::default()
        };
        let message = self.message(Opcode::FLUSH, node).arg(&args);
        unit(&self.bed.call(&message))
    }

    /// Have content made durable.
    pub fn fsync(&mut self, node: u64, fh: u64) -> Result<()> {
        let args = FsyncIn {
            fh,
            ..FsyncIn::default()
        };
        let message = self.message(Opcode::FSYNC, node).arg(&args);
        unit(&self.bed.call(&message))
    }

    /// Make a READ.
    pub fn read_message(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Message {
        let args = ReadIn {
            fh,
            offset,
            size,
            ..ReadIn::default()
        };
        self.message(Opcode::READ, node)
            .arg(&args)
            .room(size as usize)
    }

    /// Read content.
    pub fn read(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        let message = self.read_message(node, fh, offset, size);
        let answer = self.bed.call(&message);
        unit(&answer).map(|()| answer.body().to_vec())
    }

    /// Make a WRITE with these `O_*` and `FUSE_WRITE_*`.
    fn write_message_with(
        &mut self,
        node: u64,
        fh: u64,
        offset: u64,
        data: &[u8],
        flags: u32,
        write_flags: WriteFlags,
    ) -> Message {
        let args = WriteIn {
            fh,
            offset,
            size: data.len() as u32,
            write_flags: write_flags.bits(),
            flags,
            ..WriteIn::default()
        };
        self.message(Opcode::WRITE, node)
            .arg(&args)
            .data(data)
            .room(8)
    }

    /// Make a WRITE.
    pub fn write_message(&mut self, node: u64, fh: u64, offset: u64, data: &[u8]) -> Message {
        self.write_message_with(node, fh, offset, data, O_RDWR, WriteFlags::empty())
    }

    /// Write content with these `O_*` and `FUSE_WRITE_*`.
    pub fn write_with(
        &mut self,
        node: u64,
        fh: u64,
        offset: u64,
        data: &[u8],
        flags: u32,
        write_flags: WriteFlags,
    ) -> Result<u32> {
        let message = self.write_message_with(node, fh, offset, data, flags, write_flags);
        value::<WriteOut>(&self.bed.call(&message)).map(|out| out.size)
    }

    /// Write content.
    pub fn write(&mut self, node: u64, fh: u64, offset: u64, data: &[u8]) -> Result<u32> {
        self.write_with(node, fh, offset, data, O_RDWR, WriteFlags::empty())
    }

    /// Make a file with content and leave it closed.
    pub fn file(&mut self, parent: u64, name: &str, content: &[u8]) -> EntryOut {
        let (entry, fh) = self.create(parent, name, O_RDWR, 0o644).unwrap();
        if !content.is_empty() {
            assert_eq!(
                self.write(entry.nodeid, fh, 0, content),
                Ok(content.len() as u32)
            );
        }
        self.release(entry.nodeid, fh).unwrap();
        entry
    }

    /// Read entries from a position on.
    pub fn readdir(
        &mut self,
        node: u64,
        fh: u64,
        position: u64,
        size: u32,
        plus: bool,
    ) -> Result<Vec<Listed>> {
        let args = ReadIn {
            fh,
            offset: position,
            size,
            ..ReadIn::default()
        };
        let opcode = if plus {
            Opcode::READDIRPLUS
        } else {
            Opcode::READDIR
        };
        let message = self.message(opcode, node).arg(&args).room(size as usize);
        let answer = self.bed.call(&message);
        unit(&answer)?;
        let mut rest = answer.body();
        let mut listed = Vec::new();
        while !rest.is_empty() {
            let mut entry = None;
            if plus {
                let (out, behind) = EntryOut::read_from_prefix(rest).unwrap();
                entry = (out.nodeid != 0).then_some(out);
                rest = behind;
            }
            let (dirent, behind) = Dirent::read_from_prefix(rest).unwrap();
            let len = dirent.namelen as usize;
            listed.push(Listed {
                name: String::from_utf8_lossy(&behind[..len]).into_owned(),
                ino: dirent.ino,
                next: dirent.off,
                kind: dirent.kind,
                entry,
            });
            rest = &behind[(24 + len).next_multiple_of(8) - 24..];
        }
        Ok(listed)
    }

    /// Read a whole directory in pieces of `size` bytes.
    pub fn list(&mut self, node: u64, size: u32, plus: bool) -> Vec<Listed> {
        let fh = self.opendir(node).unwrap();
        let (mut all, mut position) = (Vec::new(), 0);
        loop {
            let some = self.readdir(node, fh, position, size, plus).unwrap();
            let Some(last) = some.last() else { break };
            position = last.next;
            all.extend(some);
        }
        self.releasedir(node, fh).unwrap();
        all
    }

    /// Set an extended attribute.
    pub fn setxattr(&mut self, node: u64, name: &str, value: &[u8], flags: u32) -> Result<()> {
        self.setxattr_with(node, name, value, flags, 0)
    }

    /// Set an extended attribute with `FUSE_SETXATTR_*`.
    pub fn setxattr_with(
        &mut self,
        node: u64,
        name: &str,
        value: &[u8],
        flags: u32,
        more: u32,
    ) -> Result<()> {
        let args = SetxattrIn {
            size: value.len() as u32,
            flags,
            setxattr_flags: more,
            padding: 0,
        };
        let message = self
            .message(Opcode::SETXATTR, node)
            .arg(&args)
            .name(name)
            .data(value);
        unit(&self.bed.call(&message))
    }

    /// Ask for an extended attribute.
    pub fn getxattr(&mut self, node: u64, name: &str, size: u32) -> Result<Vec<u8>> {
        let args = GetxattrIn { size, padding: 0 };
        let room = (size as usize).max(8);
        let message = self
            .message(Opcode::GETXATTR, node)
            .arg(&args)
            .name(name)
            .room(room);
        let answer = self.bed.call(&message);
        unit(&answer).map(|()| answer.body().to_vec())
    }

    /// List extended attributes.
    pub fn listxattr(&mut self, node: u64, size: u32) -> Result<Vec<u8>> {
        let args = GetxattrIn { size, padding: 0 };
        let room = (size as usize).max(8);
        let message = self.message(Opcode::LISTXATTR, node).arg(&args).room(room);
        let answer = self.bed.call(&message);
        unit(&answer).map(|()| answer.body().to_vec())
    }

    /// Remove an extended attribute.
    pub fn removexattr(&mut self, node: u64, name: &str) -> Result<()> {
        let message = self.message(Opcode::REMOVEXATTR, node).name(name);
        unit(&self.bed.call(&message))
    }

    /// Ask for statistics.
    pub fn statfs(&mut self, node: u64) -> Result<Kstatfs> {
        let message = self.message(Opcode::STATFS, node).room(80);
        value(&self.bed.call(&message))
    }

    /// Have everything made durable.
    pub fn syncfs(&mut self, node: u64) -> Result<()> {
        let message = self.message(Opcode::SYNCFS, node).arg(&SyncfsIn::default());
        unit(&self.bed.call(&message))
    }

    /// Allocate or free space.
    pub fn fallocate(
        &mut self,
        node: u64,
        fh: u64,
        offset: u64,
        length: u64,
        mode: u32,
    ) -> Result<()> {
        let args = FallocateIn {
            fh,
            offset,
            length,
            mode,
            padding: 0,
        };
        let message = self.message(Opcode::FALLOCATE, node).arg(&args);
        unit(&self.bed.call(&message))
    }

    /// Look for data or a hole.
    pub fn lseek(&mut self, node: u64, fh: u64, offset: u64, whence: u32) -> Result<u64> {
        let args = LseekIn {
            fh,
            offset,
            whence,
            padding: 0,
        };
        let message = self.message(Opcode::LSEEK, node).arg(&args).room(8);
        value::<LseekOut>(&self.bed.call(&message)).map(|out| out.offset)
    }

    /// Copy content: node, file and offset, twice.
    pub fn copy(&mut self, from: (u64, u64, u64), to: (u64, u64, u64), len: u64) -> Result<u64> {
        let args = CopyFileRangeIn {
            fh_in: from.1,
            off_in: from.2,
            nodeid_out: to.0,
            fh_out: to.1,
            off_out: to.2,
            len,
            flags: 0,
        };
        let message = self
            .message(Opcode::COPY_FILE_RANGE, from.0)
            .arg(&args)
            .room(8);
        value::<WriteOut>(&self.bed.call(&message)).map(|out| u64::from(out.size))
    }

    /// Make a request about a lock.
    pub fn lock_message(
        &mut self,
        opcode: Opcode,
        node: u64,
        fh: u64,
        owner: u64,
        lk: FileLock,
        flock: bool,
    ) -> Message {
        let args = LkIn {
            fh,
            owner,
            lk,
            lk_flags: u32::from(flock) * LK_FLOCK,
            padding: 0,
        };
        let room = if opcode == Opcode::GETLK { 24 } else { 0 };
        self.message(opcode, node).arg(&args).room(room)
    }

    /// Set a lock.
    pub fn setlk(&mut self, node: u64, fh: u64, owner: u64, lk: FileLock) -> Result<()> {
        let message = self.lock_message(Opcode::SETLK, node, fh, owner, lk, false);
        unit(&self.bed.call(&message))
    }

    /// Ask for the lock that stands against one.
    pub fn getlk(&mut self, node: u64, fh: u64, owner: u64, lk: FileLock) -> Result<FileLock> {
        let message = self.lock_message(Opcode::GETLK, node, fh, owner, lk, false);
        value::<LkOut>(&self.bed.call(&message)).map(|out| out.lk)
    }

    /// Lock a whole file.
    pub fn flock(&mut self, node: u64, fh: u64, kind: u32) -> Result<()> {
        let lk = lock(kind, 0, i64::MAX as u64);
        let message = self.lock_message(Opcode::SETLK, node, fh, fh, lk, true);
        unit(&self.bed.call(&message))
    }

    /// Run rounds until a request ended; give its error.
    pub fn finish(&mut self, ticket: Ticket) -> Result<()> {
        unit(&self.bed.wait(ticket))
    }
}

/// A shared lock.
pub const F_RDLCK: u32 = 0;
/// An exclusive lock.
pub const F_WRLCK: u32 = 1;
/// No lock.
pub const F_UNLCK: u32 = 2;

/// Describe a lock.
pub fn lock(kind: u32, start: u64, end: u64) -> FileLock {
    FileLock {
        start,
        end,
        kind,
        pid: 100,
    }
}

/// Build the extension of a create with a security context.
pub fn security(name: &str, value: &[u8]) -> Vec<u8> {
    let mut record = [value.len() as u32, 0].as_bytes().to_vec();
    record.extend_from_slice(name.as_bytes());
    record.push(0);
    record.extend_from_slice(value);
    let mut all = [(record.len() + 8) as u32, 1].as_bytes().to_vec();
    all.extend(record);
    all
}

/// Build the extension of a create with a group.
pub fn group(gid: u32) -> Vec<u8> {
    [16u32, 32, 1, gid].as_bytes().to_vec()
}

/// Build a SETATTR of the size.
pub fn size_change(size: u64, fh: Option<u64>) -> SetattrIn {
    let by_handle = fh.map_or(SetattrValid::empty(), |_| SetattrValid::FH);
    SetattrIn {
        valid: (SetattrValid::SIZE | by_handle).bits(),
        size,
        fh: fh.unwrap_or(0),
        ..SetattrIn::default()
    }
}
