//! One well-formed request of each operation, as a Linux kernel sends it.

use dpfs::wire::fuse::*;
use zerocopy::IntoBytes;

use crate::Message;

/// Node that the samples are about, where it is not the root.
pub const NODE: u64 = 2;
/// Open file or directory of the samples.
pub const FH: u64 = 3;
/// Bytes that WRITE sends and READ asks for.
pub const DATA_LEN: usize = 8192;

/// `security.selinux` = `ctx` and a NUL, then group 100.
pub fn extensions() -> Vec<u8> {
    let name = b"security.selinux\0";
    let value = b"ctx\0";
    let context = [[value.len() as u32, 0].as_bytes(), name, value].concat();
    let record = |kind: u32, content: &[u8]| {
        let size = (size_of::<ExtHeader>() + content.len()) as u32;
        let mut record = [[size, kind].as_bytes(), content].concat();
        record.resize(record.len().next_multiple_of(8), 0);
        record
    };
    let (one_context, groups) = (1, 32);
    let group = [1_u32, 100];
    [
        record(one_context, &context),
        record(groups, group.as_bytes()),
    ]
    .concat()
}

/// Build the sample of an operation.
pub fn sample(opcode: Opcode) -> Message {
    let entry = size_of::<EntryOut>();
    let open = size_of::<OpenOut>();
    let message = Message::new(opcode);
    match opcode {
        Opcode::INIT | Opcode::DESTROY | Opcode::STATFS | Opcode::SYNCFS => session(message),
        Opcode::FORGET => message.node(NODE).arg(&ForgetIn { nlookup: 2 }).no_reply(),
        Opcode::BATCH_FORGET => {
            let one = |nodeid| ForgetOne { nodeid, nlookup: 1 };
            let head = BatchForgetIn { count: 2, dummy: 0 };
            message
                .node(0)
                .arg(&head)
                .arg(&one(NODE))
                .arg(&one(NODE + 1))
                .no_reply()
        }
        Opcode::NOTIFY_REPLY => message.node(NODE).arg(&[0_u64; 5]).no_reply(),
        Opcode::INTERRUPT => message.node(0).arg(&InterruptIn { unique: 1 << 40 }),
        Opcode::LOOKUP => message.name("file").room(entry),
        Opcode::SYMLINK => message
            .name("link")
            .name("../target")
            .extension(&extensions())
            .room(entry),
        Opcode::MKNOD => {
            let args = MknodIn {
                mode: 0o100_644,
                rdev: 0,
                umask: 0o22,
                padding: 0,
            };
            message
                .arg(&args)
                .name("node")
                .extension(&extensions())
                .room(entry)
        }
        Opcode::MKDIR => {
            let args = MkdirIn {
                mode: 0o755,
                umask: 0o22,
            };
            message
                .arg(&args)
                .name("directory")
                .extension(&extensions())
                .room(entry)
        }
        Opcode::CREATE | Opcode::TMPFILE => {
            let args = CreateIn {
                flags: 0o102,
                mode: 0o100_644,
                umask: 0o22,
                open_flags: 1,
            };
            let name = if opcode == Opcode::CREATE { "new" } else { "/" };
            message
                .arg(&args)
                .name(name)
                .extension(&extensions())
                .room(entry + open)
        }
        Opcode::UNLINK | Opcode::RMDIR => message.name("old"),
        Opcode::RENAME => message
            .arg(&RenameIn { newdir: NODE })
            .name("old")
            .name("new"),
        Opcode::RENAME2 => {
            let args = Rename2In {
                newdir: NODE,
                flags: 1,
                padding: 0,
            };
            message.arg(&args).name("old").name("new")
        }
        Opcode::LINK => message
            .arg(&LinkIn { oldnodeid: NODE })
            .name("link")
            .room(entry),
        Opcode::READLINK => message.node(NODE).room(4096),
        Opcode::OPEN | Opcode::OPENDIR => message
            .node(NODE)
            .arg(&OpenIn {
                flags: 0o2,
                open_flags: 1,
            })
            .room(open),
        Opcode::ACCESS => message.node(NODE).arg(&AccessIn {
            mask: 5,
            padding: 0,
        }),
        Opcode::GETATTR | Opcode::SETATTR | Opcode::STATX => attributes(message.node(NODE), opcode),
        Opcode::SETXATTR => {
            let args = SetxattrIn {
                size: 5,
                flags: 1,
                setxattr_flags: 1,
                padding: 0,
            };
            message
                .node(NODE)
                .arg(&args)
                .name("user.key")
                .data(b"value")
        }
        Opcode::GETXATTR => {
            let args = GetxattrIn {
                size: 256,
                padding: 0,
            };
            message.node(NODE).arg(&args).name("user.key").room(256)
        }
        Opcode::LISTXATTR => message
            .node(NODE)
            .arg(&GetxattrIn {
                size: 256,
                padding: 0,
            })
            .room(256),
        Opcode::REMOVEXATTR => message.node(NODE).name("user.key"),
        _ => open_file(message.node(NODE), opcode),
    }
}

fn session(message: Message) -> Message {
    match Opcode::new(message.header.opcode) {
        Some(Opcode::INIT) => {
            let flags = InitFlags::all().bits();
            let init = InitIn {
                major: KERNEL_VERSION,
                minor: KERNEL_MINOR_VERSION,
                max_readahead: 128 << 10,
                flags: flags as u32,
                flags2: (flags >> 32) as u32,
                ..InitIn::default()
            };
            message.node(0).arg(&init).room(size_of::<InitOut>())
        }
        Some(Opcode::DESTROY) => message.node(0),
        Some(Opcode::SYNCFS) => message.arg(&SyncfsIn::default()),
        _ => message.room(size_of::<Kstatfs>()),
    }
}

fn attributes(message: Message, opcode: Opcode) -> Message {
    match opcode {
        Opcode::GETATTR => {
            let args = GetattrIn {
                getattr_flags: GETATTR_FH,
                dummy: 0,
                fh: FH,
            };
            message.arg(&args).room(size_of::<AttrOut>())
        }
        Opcode::SETATTR => {
            let valid = SetattrValid::MODE | SetattrValid::SIZE | SetattrValid::MTIME;
            let args = SetattrIn {
                valid: valid.bits(),
                mode: 0o600,
                size: 12,
                mtime: -5,
                mtimensec: 999_999_999,
                ..SetattrIn::default()
            };
            message.arg(&args).room(size_of::<AttrOut>())
        }
        _ => {
            let args = StatxIn {
                getattr_flags: GETATTR_FH,
                reserved: 0,
                fh: FH,
                sx_flags: 0x2000,
                sx_mask: 0xfff,
            };
            message.arg(&args).room(size_of::<StatxOut>())
        }
    }
}

fn open_file(message: Message, opcode: Opcode) -> Message {
    let lock_owner = 0x1234_5678_9abc_def0;
    match opcode {
        Opcode::READ | Opcode::READDIR | Opcode::READDIRPLUS => {
            let args = ReadIn {
                fh: FH,
                offset: 4096,
                size: DATA_LEN as u32,
                read_flags: 0,
                lock_owner,
                flags: 0o40002,
                padding: 0,
            };
            message.arg(&args).room(DATA_LEN)
        }
        Opcode::WRITE => {
            let data: Vec<u8> = (0..DATA_LEN).map(|at| (at % 251) as u8).collect();
            let args = WriteIn {
                fh: FH,
                offset: 4096,
                size: DATA_LEN as u32,
                write_flags: WriteFlags::LOCKOWNER.bits(),
                lock_owner,
                flags: 0o40002,
                padding: 0,
            };
            message.arg(&args).data(&data).room(size_of::<WriteOut>())
        }
        Opcode::RELEASE | Opcode::RELEASEDIR => {
            let how = ReleaseFlags::FLOCK_UNLOCK.bits();
            message.arg(&ReleaseIn {
                fh: FH,
                flags: 0o2,
                release_flags: how,
                lock_owner,
            })
        }
        Opcode::FLUSH => message.arg(&FlushIn {
            fh: FH,
            unused: 0,
            padding: 0,
            lock_owner,
        }),
        Opcode::FSYNC | Opcode::FSYNCDIR => message.arg(&FsyncIn {
            fh: FH,
            fsync_flags: FSYNC_FDATASYNC,
            padding: 0,
        }),
        Opcode::GETLK | Opcode::SETLK | Opcode::SETLKW => {
            let lk = FileLock {
                start: 0,
                end: i64::MAX as u64,
                kind: 1,
                pid: 7,
            };
            let args = LkIn {
                fh: FH,
                owner: lock_owner,
                lk,
                lk_flags: 0,
                padding: 0,
            };
            let room = if opcode == Opcode::GETLK {
                size_of::<LkOut>()
            } else {
                0
            };
            message.arg(&args).room(room)
        }
        Opcode::BMAP => {
            let args = BmapIn {
                block: 9,
                blocksize: 4096,
                padding: 0,
            };
            message.arg(&args).room(size_of::<BmapOut>())
        }
        Opcode::IOCTL => {
            let args = IoctlIn {
                fh: FH,
                flags: 0,
                cmd: 0x4004_6602,
                arg: 0x7fff_0000,
                in_size: 4,
                out_size: 8,
            };
            message
                .arg(&args)
                .data(&[1, 2, 3, 4])
                .room(size_of::<IoctlOut>() + 8)
        }
        Opcode::POLL => {
            let args = PollIn {
                fh: FH,
                kh: 1,
                flags: 0,
                events: 5,
            };
            message.arg(&args).room(size_of::<PollOut>())
        }
        Opcode::FALLOCATE => message.arg(&FallocateIn {
            fh: FH,
            offset: 1,
            length: 2,
            mode: 3,
            padding: 0,
        }),
        Opcode::LSEEK => {
            let args = LseekIn {
                fh: FH,
                offset: 100,
                whence: 3,
                padding: 0,
            };
            message.arg(&args).room(size_of::<LseekOut>())
        }
        Opcode::COPY_FILE_RANGE | Opcode::COPY_FILE_RANGE_64 => {
            let args = CopyFileRangeIn {
                fh_in: FH,
                off_in: 1,
                nodeid_out: NODE + 1,
                fh_out: FH + 1,
                off_out: 2,
                len: 1 << 33,
                flags: 0,
            };
            message.arg(&args).room(size_of::<WriteOut>())
        }
        Opcode::SETUPMAPPING => message.arg(&SetupmappingIn {
            fh: FH,
            foffset: 0,
            len: 4096,
            flags: 0,
            moffset: 0,
        }),
        Opcode::REMOVEMAPPING => {
            let one = RemovemappingOne {
                moffset: 0,
                len: 4096,
            };
            message.arg(&RemovemappingIn { count: 1 }).arg(&one)
        }
        _ => unreachable!("{} is built elsewhere", opcode.name()),
    }
}

/// Build the samples of all operations.
pub fn all() -> impl Iterator<Item = (Opcode, Message)> {
    Opcode::ALL.iter().map(|&opcode| (opcode, sample(opcode)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_operation_has_a_sample() {
        assert_eq!(super::all().count(), dpfs::wire::fuse::OPCODE_COUNT - 3);
    }
}
