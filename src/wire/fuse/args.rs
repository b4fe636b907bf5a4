//! Arguments and short results of the operations.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Define an argument structure with the kernel's size asserted beside it.
macro_rules! layout {
    ($(#[$doc:meta])* $name:ident, $size:literal { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
        pub struct $name {
            $($(#[$fdoc])* pub $field: $ty,)*
        }
        const _: () = assert!(size_of::<$name>() == $size);
    };
}

layout! {
    /// FORGET.
    ForgetIn, 8 {
        /// Lookup counts to drop.
        nlookup: u64,
    }
}
layout! {
    /// One node of BATCH_FORGET.
    ForgetOne, 16 {
        /// Node.
        nodeid: u64,
        /// Lookup counts to drop.
        nlookup: u64,
    }
}
layout! {
    /// BATCH_FORGET; `count` records of [`ForgetOne`] follow.
    BatchForgetIn, 8 {
        /// Number of records.
        count: u32,
        /// Unused.
        dummy: u32,
    }
}
layout! {
    /// GETATTR.
    GetattrIn, 16 {
        /// `FUSE_GETATTR_FH`: the file handle is valid.
        getattr_flags: u32,
        /// Unused.
        dummy: u32,
        /// File handle.
        fh: u64,
    }
}
layout! {
    /// STATX.
    StatxIn, 24 {
        /// `FUSE_GETATTR_FH`: the file handle is valid.
        getattr_flags: u32,
        /// Unused.
        reserved: u32,
        /// File handle.
        fh: u64,
        /// `AT_STATX_*`.
        sx_flags: u32,
        /// `STATX_*`.
        sx_mask: u32,
    }
}
layout! {
    /// SETATTR.
    SetattrIn, 88 {
        /// Which fields to set, [`super::SetattrValid`].
        valid: u32,
        /// Unused.
        padding: u32,
        /// File handle.
        fh: u64,
        /// Size in bytes.
        size: u64,
        /// Owner of mandatory locks.
        lock_owner: u64,
        /// Seconds of the last access.
        atime: i64,
        /// Seconds of the last change of content.
        mtime: i64,
        /// Seconds of the last change of attributes.
        ctime: i64,
        /// Nanoseconds of `atime`.
        atimensec: u32,
        /// Nanoseconds of `mtime`.
        mtimensec: u32,
        /// Nanoseconds of `ctime`.
        ctimensec: u32,
        /// Permissions.
        mode: u32,
        /// Unused.
        unused4: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Unused.
        unused5: u32,
    }
}
layout! {
    /// MKNOD; the name follows.
    MknodIn, 16 {
        /// File type and permissions.
        mode: u32,
        /// Device number.
        rdev: u32,
        /// Caller's umask.
        umask: u32,
        /// Unused.
        padding: u32,
    }
}
layout! {
    /// MKDIR; the name follows.
    MkdirIn, 8 {
        /// Permissions.
        mode: u32,
        /// Caller's umask.
        umask: u32,
    }
}
layout! {
    /// RENAME; both names follow.
    RenameIn, 8 {
        /// Directory of the new name.
        newdir: u64,
    }
}
layout! {
    /// RENAME2; both names follow.
    Rename2In, 16 {
        /// Directory of the new name.
        newdir: u64,
        /// `RENAME_*`.
        flags: u32,
        /// Unused.
        padding: u32,
    }
}
layout! {
    /// LINK; the new name follows.
    LinkIn, 8 {
        /// Node to link.
        oldnodeid: u64,
    }
}
layout! {
    /// OPEN and OPENDIR.
    OpenIn, 8 {
        /// Host's open flags.
        flags: u32,
        /// `FUSE_OPEN_*`.
        open_flags: u32,
    }
}
layout! {
    /// CREATE and TMPFILE; the name follows.
    CreateIn, 16 {
        /// Host's open flags.
        flags: u32,
        /// File type and permissions.
        mode: u32,
        /// Caller's umask.
        umask: u32,
        /// `FUSE_OPEN_*`.
        open_flags: u32,
    }
}
layout! {
    /// Reply to OPEN, OPENDIR and the second half of the reply to CREATE.
    OpenOut, 16 {
        /// File handle.
        fh: u64,
        /// [`super::FopenFlags`].
        open_flags: u32,
        /// Backing file of a passthrough.
        backing_id: i32,
    }
}
layout! {
    /// RELEASE and RELEASEDIR.
    ReleaseIn, 24 {
        /// File handle.
        fh: u64,
        /// Host's open flags.
        flags: u32,
        /// `FUSE_RELEASE_*`.
        release_flags: u32,
        /// Lock owner.
        lock_owner: u64,
    }
}
layout! {
    /// FLUSH.
    FlushIn, 24 {
        /// File handle.
        fh: u64,
        /// Unused.
        unused: u32,
        /// Unused.
        padding: u32,
        /// Lock owner.
        lock_owner: u64,
    }
}
layout! {
    /// READ, READDIR and READDIRPLUS.
    ReadIn, 40 {
        /// File handle.
        fh: u64,
        /// Offset in bytes, or a directory position.
        offset: u64,
        /// Most bytes to return.
        size: u32,
        /// `FUSE_READ_*`.
        read_flags: u32,
        /// Lock owner.
        lock_owner: u64,
        /// Host's open flags.
        flags: u32,
        /// Unused.
        padding: u32,
    }
}
layout! {
    /// WRITE; the data follows.
    WriteIn, 40 {
        /// File handle.
        fh: u64,
        /// Offset in bytes.
        offset: u64,
        /// Bytes to write.
        size: u32,
        /// `FUSE_WRITE_*`.
        write_flags: u32,
        /// Lock owner.
        lock_owner: u64,
        /// Host's open flags.
        flags: u32,
        /// Unused.
        padding: u32,
    }
}
layout! {
    /// Reply to WRITE and COPY_FILE_RANGE.
    WriteOut, 8 {
        /// Bytes written.
        size: u32,
        /// Unused.
        padding: u32,
    }
}
layout! {
    /// Reply to COPY_FILE_RANGE_64.
    CopyFileRangeOut, 8 {
        /// Bytes copied.
        bytes_copied: u64,
    }
}
layout! {
    /// FSYNC and FSYNCDIR.
    FsyncIn, 16 {
        /// File handle.
        fh: u64,
        /// `FUSE_FSYNC_FDATASYNC`: content only.
        fsync_flags: u32,
        /// Unused.
        padding: u32,
    }
}
layout! {
    /// SETXATTR; name and value follow. Without [`super::InitFlags::SETXATTR_EXT`] only the first 8 bytes are sent.
    SetxattrIn, 16 {
        /// Length of the value in bytes.
        size: u32,
        /// `XATTR_*`.
        flags: u32,
        /// `FUSE_SETXATTR_*`.
        setxattr_flags: u32,
        /// Unused.
        padding: u32,
    }
}
layout! {
    /// GETXATTR and LISTXATTR; the name follows in the former.
    GetxattrIn, 8 {
        /// Room for the value in bytes, or zero to ask for its length.
        size: u32,
        /// Unused.
        padding: u32,
    }
}
layout! {
    /// Reply to a GETXATTR or LISTXATTR that asked for the length.
    GetxattrOut, 8 {
        /// Length in bytes.
        size: u32,
        /// Unused.
        padding: u32,
    }
}
layout! {
    /// A lock's range and type.
    FileLock, 24 {
        /// First byte.
        start: u64,
        /// Last byte; `i64::MAX` for the end of the file.
        end: u64,
        /// `F_RDLCK` 0, `F_WRLCK` 1, `F_UNLCK` 2.
        kind: u32,
        /// Holder's process.
        pid: u32,
    }
}
layout! {
    /// GETLK, SETLK and SETLKW.
    LkIn, 48 {
        /// File handle.
        fh: u64,
        /// Lock owner.
        owner: u64,
        /// Lock.
        lk: FileLock,
        /// `FUSE_LK_FLOCK`: a lock of the whole file, BSD style.
        lk_flags: u32,
        /// Unused.
        padding: u32,
    }
}
layout! {
    /// Reply to GETLK.
    LkOut, 24 {
        /// The lock in the way, or one of type `F_UNLCK`.
        lk: FileLock,
    }
}
layout! {
    /// ACCESS.
    AccessIn, 8 {
        /// `R_OK`, `W_OK`, `X_OK`.
        mask: u32,
        /// Unused.
        padding: u32,
    }
}
layout! {
    /// INTERRUPT.
    InterruptIn, 8 {
        /// Request to interrupt.
        unique: u64,
    }
}
layout! {
    /// BMAP.
    BmapIn, 16 {
        /// Block of the file.
        block: u64,
        /// Block size in bytes.
        blocksize: u32,
        /// Unused.
        padding: u32,
    }
}
layout! {
    /// Reply to BMAP.
    BmapOut, 8 {
        /// Block of the device.
        block: u64,
    }
}
layout! {
    /// IOCTL; `in_size` bytes follow.
    IoctlIn, 32 {
        /// File handle.
        fh: u64,
        /// `FUSE_IOCTL_*`.
        flags: u32,
        /// Command.
        cmd: u32,
        /// Argument: a host address that means nothing here.
        arg: u64,
        /// Bytes that follow.
        in_size: u32,
        /// Room for the reply's data in bytes.
        out_size: u32,
    }
}
layout! {
    /// Reply to IOCTL; data follows.
    IoctlOut, 16 {
        /// Result of the call.
        result: i32,
        /// `FUSE_IOCTL_*`.
        flags: u32,
        /// Input vectors of a retry.
        in_iovs: u32,
        /// Output vectors of a retry.
        out_iovs: u32,
    }
}
layout! {
    /// POLL.
    PollIn, 24 {
        /// File handle.
        fh: u64,
        /// Kernel's handle for a wake-up.
        kh: u64,
        /// `FUSE_POLL_SCHEDULE_NOTIFY`.
        flags: u32,
        /// `POLL*` of interest.
        events: u32,
    }
}
layout! {
    /// Reply to POLL.
    PollOut, 8 {
        /// `POLL*` that are ready.
        revents: u32,
        /// Unused.
        padding: u32,
    }
}
layout! {
    /// FALLOCATE.
    FallocateIn, 32 {
        /// File handle.
        fh: u64,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// `FALLOC_FL_*`.
        mode: u32,
        /// Unused.
        padding: u32,
    }
}
layout! {
    /// LSEEK.
    LseekIn, 24 {
        /// File handle.
        fh: u64,
        /// Offset in bytes.
        offset: u64,
        /// `SEEK_*`.
        whence: u32,
        /// Unused.
        padding: u32,
    }
}
layout! {
    /// Reply to LSEEK.
    LseekOut, 8 {
        /// Offset in bytes.
        offset: u64,
    }
}
layout! {
    /// COPY_FILE_RANGE and COPY_FILE_RANGE_64.
    CopyFileRangeIn, 56 {
        /// Source file handle.
        fh_in: u64,
        /// Source offset in bytes.
        off_in: u64,
        /// Destination node.
        nodeid_out: u64,
        /// Destination file handle.
        fh_out: u64,
        /// Destination offset in bytes.
        off_out: u64,
        /// Bytes to copy.
        len: u64,
        /// Unused by Linux, zero.
        flags: u64,
    }
}
layout! {
    /// SETUPMAPPING.
    SetupmappingIn, 40 {
        /// File handle.
        fh: u64,
        /// Offset in the file in bytes.
        foffset: u64,
        /// Bytes to map.
        len: u64,
        /// `FUSE_SETUPMAPPING_FLAG_*`.
        flags: u64,
        /// Offset in the window in bytes.
        moffset: u64,
    }
}
layout! {
    /// REMOVEMAPPING; `count` records of [`RemovemappingOne`] follow.
    RemovemappingIn, 4 {
        /// Number of records.
        count: u32,
    }
}
layout! {
    /// One mapping of REMOVEMAPPING.
    RemovemappingOne, 16 {
        /// Offset in the window in bytes.
        moffset: u64,
        /// Bytes to unmap.
        len: u64,
    }
}
layout! {
    /// SYNCFS.
    SyncfsIn, 8 {
        /// Unused.
        padding: u64,
    }
}
