//! Every operation with valid bytes: the right method with the right arguments, and the reply on the wire.

use dpfs::fuse::{Caller, FileSystem};
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::*;
use dpfs::wire::open_flags::ClientArch;
use dpfs_harness::answers::FILL;
use dpfs_harness::{Bed, Message, Recorder, Setup, samples};
use zerocopy::FromBytes;

const CREATION: &str =
    "umask=22 group=Some(100) security=Some((\"security.selinux\", \"ctx\\\\x00\"))";
const LOCK: &str = "owner: 1311768467463790320, lock: Lock { start: 0, end: 9223372036854775807, kind: Write, \
                    pid: 7 }, flock: false";
const FLAGS: &str = "OpenFlags(READ_WRITE | DIRECT)";

/// Say what the backend is asked for an operation's sample; nothing when this layer answers by itself.
fn expected(opcode: Opcode) -> Vec<String> {
    let call = match opcode {
        Opcode::INIT | Opcode::DESTROY | Opcode::INTERRUPT | Opcode::NOTIFY_REPLY => return vec![],
        Opcode::SETUPMAPPING | Opcode::REMOVEMAPPING => return vec![],
        Opcode::FORGET => "forget 2 count=2".into(),
        Opcode::BATCH_FORGET => {
            return vec!["forget 2 count=1".into(), "forget 3 count=1".into()];
        }
        Opcode::LOOKUP => "lookup 1 file".into(),
        Opcode::GETATTR => "getattr 2 Some(Fh(3))".into(),
        Opcode::SETATTR => "setattr 2 SetAttr { mode: Some(384), uid: None, gid: None, size: Some(12), atime: None, \
                            mtime: Some(At(-5, 999999999)), ctime: None, fh: None, kill_suidgid: false }"
            .into(),
        Opcode::READLINK => "readlink 2".into(),
        Opcode::SYMLINK => format!("symlink 1 link -> ../target mode=120777 umask=0{}", &CREATION[8..]),
        Opcode::MKNOD => format!("mknod 1 node rdev=0 mode=100644 {CREATION}"),
        Opcode::MKDIR => format!("mkdir 1 directory mode=755 {CREATION}"),
        Opcode::UNLINK => "unlink 1 old".into(),
        Opcode::RMDIR => "rmdir 1 old".into(),
        Opcode::RENAME => "rename 1 old -> 2 new flags=0".into(),
        Opcode::RENAME2 => "rename 1 old -> 2 new flags=1".into(),
        Opcode::LINK => "link 2 -> 1 link".into(),
        Opcode::OPEN => "open 2 OpenFlags(READ_WRITE) kill=true".into(),
        Opcode::READ => format!("read 2 fh=3 offset=4096 wanted=8192 {FLAGS}"),
        Opcode::WRITE => {
            let sum: u64 = (0..8192).map(|at| at % 251).sum();
            format!("write 2 fh=3 offset=4096 wanted=8192 sum={sum} WriteFlags(LOCKOWNER) {FLAGS}")
        }
        Opcode::STATFS => "statfs 1".into(),
        Opcode::RELEASE => "release 2 fh=3 ReleaseFlags(FLOCK_UNLOCK) owner=123456789abcdef0".into(),
        Opcode::FSYNC => "fsync 2 fh=3 datasync=true".into(),
        Opcode::SETXATTR => "setxattr 2 \"user.key\"=value flags=1 kill=true".into(),
        Opcode::GETXATTR => "getxattr 2 \"user.key\" room=256".into(),
        Opcode::LISTXATTR => "listxattr 2 room=256".into(),
        Opcode::REMOVEXATTR => "removexattr 2 \"user.key\"".into(),
        Opcode::FLUSH => "flush 2 fh=3 owner=123456789abcdef0".into(),
        Opcode::OPENDIR => "opendir 2 OpenFlags(READ_WRITE)".into(),
        Opcode::READDIR => "readdir 2 fh=3 position=4096".into(),
        Opcode::RELEASEDIR => "releasedir 2 fh=3".into(),
        Opcode::FSYNCDIR => "fsyncdir 2 fh=3 datasync=true".into(),
        Opcode::GETLK => format!("getlk 2 fh=3 LockRequest {{ {LOCK}, wait: false }}"),
        Opcode::SETLK => format!("setlk 2 fh=3 LockRequest {{ {LOCK}, wait: false }}"),
        Opcode::SETLKW => format!("setlk 2 fh=3 LockRequest {{ {LOCK}, wait: true }}"),
        Opcode::ACCESS => "access 2 5".into(),
        Opcode::CREATE => format!("create 1 new OpenFlags(READ_WRITE | CREAT) kill=true mode=100644 {CREATION}"),
        Opcode::TMPFILE => format!("tmpfile 1 OpenFlags(READ_WRITE | CREAT) mode=100644 {CREATION}"),
        Opcode::BMAP => "bmap 2 block=9 size=4096".into(),
        Opcode::IOCTL => "ioctl 2 fh=3 cmd=40046602 arg=7fff0000 [1, 2, 3, 4]".into(),
        Opcode::POLL => "poll 2 fh=3 events=5".into(),
        Opcode::FALLOCATE => "fallocate 2 fh=3 offset=1 length=2 mode=3".into(),
        Opcode::READDIRPLUS => "readdirplus 2 fh=3 position=4096".into(),
        Opcode::LSEEK => "lseek 2 fh=3 offset=100 whence=3".into(),
        Opcode::COPY_FILE_RANGE | Opcode::COPY_FILE_RANGE_64 => {
            let length: u64 = if opcode == Opcode::COPY_FILE_RANGE { 0xffff_f000 } else { 1 << 33 };
            format!("copy_file_range (NodeId(2), Fh(3), 1) -> (NodeId(3), Fh(4), 2) length={length}")
        }
        Opcode::SYNCFS => "syncfs 1".into(),
        Opcode::STATX => "statx 2 Some(Fh(3)) flags=2000 mask=fff".into(),
    };
    vec![call]
}

#[test]
fn every_operation_reaches_its_method_with_its_arguments() {
    for (opcode, message) in samples::all() {
        // However the host cuts it.
        let whole = message.layout();
        for layout in [
            whole.clone(),
            whole.clone().cut(&[33], &[7, 20]),
            whole.shred(61),
        ] {
            let mut bed = Bed::mounted(Recorder::new());
            let answer = bed.run(&layout);
            assert_eq!(bed.fs.calls, expected(opcode), "{}", opcode.name());
            assert_eq!(
                answer.bytes.is_empty(),
                message.room.is_none(),
                "{}",
                opcode.name()
            );
        }
    }
}

#[test]
fn replies_have_the_length_and_content_of_their_operation() {
    let entry = size_of::<EntryOut>();
    let mut bed = Bed::mounted(Recorder::new());
    for (opcode, message) in samples::all() {
        let len = match opcode {
            Opcode::FORGET | Opcode::BATCH_FORGET | Opcode::NOTIFY_REPLY => continue,
            Opcode::INTERRUPT | Opcode::SETUPMAPPING | Opcode::REMOVEMAPPING | Opcode::DESTROY => {
                continue;
            }
            Opcode::LOOKUP | Opcode::SYMLINK | Opcode::MKNOD | Opcode::MKDIR | Opcode::LINK => {
                entry
            }
            Opcode::CREATE | Opcode::TMPFILE => entry + 16,
            Opcode::OPEN | Opcode::OPENDIR => 16,
            Opcode::GETATTR | Opcode::SETATTR => 104,
            Opcode::STATX => 288,
            Opcode::STATFS => 80,
            Opcode::INIT => 64,
            Opcode::READLINK => 9,
            Opcode::READ => 8192,
            Opcode::WRITE | Opcode::BMAP | Opcode::LSEEK | Opcode::POLL => 8,
            Opcode::COPY_FILE_RANGE | Opcode::COPY_FILE_RANGE_64 => 8,
            Opcode::GETXATTR | Opcode::LISTXATTR => 256,
            Opcode::GETLK => 24,
            Opcode::IOCTL => 20,
            // A name of 9 bytes makes a record of 40.
            Opcode::READDIR => 8192 / 40 * 40,
            Opcode::READDIRPLUS => 8192 / (entry + 40) * (entry + 40),
            _ => 0,
        };
        let answer = bed.call(&message);
        assert_eq!(answer.body().len(), len, "{}", opcode.name());
    }
    let attr: AttrOut = bed.call(&samples::sample(Opcode::GETATTR)).value();
    assert_eq!(
        (attr.attr_valid, attr.attr_valid_nsec, attr.attr.ino),
        (1, 2, 77)
    );
    let entry: EntryOut = bed.call(&samples::sample(Opcode::LOOKUP)).value();
    assert_eq!(
        (
            entry.nodeid,
            entry.generation,
            entry.entry_valid,
            entry.entry_valid_nsec
        ),
        (77, 5, 3, 4)
    );
    let open: OpenOut = bed.call(&samples::sample(Opcode::OPEN)).value();
    assert_eq!(
        (open.fh, open.open_flags),
        (88, FopenFlags::KEEP_CACHE.bits())
    );
    let created = bed.call(&samples::sample(Opcode::CREATE));
    assert_eq!(created.body()[128..136], 88_u64.to_le_bytes());
    assert!(
        bed.call(&samples::sample(Opcode::READ))
            .body()
            .iter()
            .all(|&byte| byte == FILL)
    );
    let ioctl = bed.call(&samples::sample(Opcode::IOCTL));
    assert_eq!(
        (ioctl.value::<IoctlOut>().result, &ioctl.body()[16..]),
        (3, &[1, 2, 3, 4][..])
    );
    let copied: CopyFileRangeOut = bed
        .call(&samples::sample(Opcode::COPY_FILE_RANGE_64))
        .value();
    assert_eq!(copied.bytes_copied, 1 << 33);
    let copied: WriteOut = bed.call(&samples::sample(Opcode::COPY_FILE_RANGE)).value();
    assert_eq!(copied.size, 0xffff_f000);
    let lock: LkOut = bed.call(&samples::sample(Opcode::GETLK)).value();
    assert_eq!((lock.lk.kind, lock.lk.end), (2, i64::MAX as u64));
}

#[test]
fn directory_records_are_aligned_and_chained() {
    let mut bed = Bed::mounted(Recorder::new());
    let answer = bed.call(&samples::sample(Opcode::READDIR));
    let (mut rest, mut count) = (answer.body(), 0);
    while !rest.is_empty() {
        let (record, name) = Dirent::read_from_prefix(rest).unwrap();
        assert_eq!(&name[..record.namelen as usize], b"some name");
        assert_eq!((record.ino, record.kind, record.off), (9, 8, count * 40));
        rest = &rest[(24 + record.namelen as usize).next_multiple_of(8)..];
        count += 1;
    }
    assert_eq!(count, 8192 / 40);
}

#[test]
fn the_caller_and_the_session_reach_the_backend() {
    let mut bed = Bed::mounted(Recorder::new());
    bed.call(&samples::sample(Opcode::LOOKUP).caller(1000, 100, 4321));
    let rq = bed.fs.latest.unwrap();
    assert_eq!(
        rq.caller,
        Caller {
            uid: 1000,
            gid: 100,
            pid: 4321
        }
    );
    assert_eq!(rq.epoch, bed.session().epoch());
}

#[test]
fn open_flags_are_those_of_the_hosts_architecture() {
    for (arch, direct, directory) in [
        (ClientArch::X86_64, 0x4000, 0x1_0000),
        (ClientArch::Aarch64, 0x1_0000, 0x4000),
    ] {
        let setup = Setup {
            arch,
            ..Setup::default()
        };
        let mut bed = Bed::with(Recorder::new(), setup);
        bed.init();
        for (raw, name) in [(direct, "DIRECT"), (directory, "DIRECTORY")] {
            bed.fs.clear();
            let open = OpenIn {
                flags: raw,
                open_flags: 0,
            };
            let create = CreateIn {
                flags: raw,
                mode: 0,
                umask: 0,
                open_flags: 0,
            };
            let read = ReadIn {
                flags: raw,
                ..ReadIn::default()
            };
            let write = WriteIn {
                flags: raw,
                ..WriteIn::default()
            };
            bed.call(&Message::new(Opcode::OPEN).arg(&open).room(16));
            bed.call(&Message::new(Opcode::OPENDIR).arg(&open).room(16));
            bed.call(
                &Message::new(Opcode::CREATE)
                    .arg(&create)
                    .name("new")
                    .room(144),
            );
            bed.call(
                &Message::new(Opcode::TMPFILE)
                    .arg(&create)
                    .name("/")
                    .room(144),
            );
            bed.call(&Message::new(Opcode::READ).arg(&read));
            bed.call(&Message::new(Opcode::WRITE).arg(&write).room(8));
            assert_eq!(bed.fs.calls.len(), 6);
            for call in &bed.fs.calls {
                assert!(
                    call.contains(&format!("OpenFlags({name})")),
                    "{arch:?}: {call}"
                );
            }
        }
    }
}

#[test]
fn setxattr_has_the_form_that_was_negotiated() {
    for (offered, kill) in [(InitFlags::all(), true), (InitFlags::INIT_EXT, false)] {
        let mut bed = Bed::new(Recorder::new());
        bed.init_as(45, offered);
        let message = Message::new(Opcode::SETXATTR).arg(&[5_u32, 1]);
        let message = if kill {
            message.arg(&[1_u32, 0])
        } else {
            message
        };
        let answer = bed.call(&message.name("user.key").data(b"value"));
        assert_eq!(answer.error(), None);
        assert_eq!(
            bed.fs.calls,
            [format!("setxattr 1 \"user.key\"=value flags=1 kill={kill}")]
        );
    }
    // The short form where the long one was negotiated lacks a name.
    let mut bed = Bed::mounted(Recorder::new());
    let short = Message::new(Opcode::SETXATTR).arg(&[0_u32, 0]).name("k");
    assert_eq!(bed.call(&short).error(), Some(Errno::EINVAL));
}

#[test]
fn security_contexts_stand_behind_the_names_before_version_38() {
    let creates = [
        Opcode::SYMLINK,
        Opcode::MKNOD,
        Opcode::MKDIR,
        Opcode::CREATE,
        Opcode::TMPFILE,
    ];
    for (minor, opcode) in [36, 37]
        .into_iter()
        .flat_map(|minor| creates.map(|opcode| (minor, opcode)))
    {
        let mut bed = Bed::new(Recorder::new());
        bed.init_as(minor, InitFlags::all());
        let mut message = samples::sample(opcode);
        // The context alone: groups came with 7.38, and so did the length in the header.
        let context = message.extensions[..40].to_vec();
        message.extensions.clear();
        bed.call(&message.clone().data(&context));
        let expected = expected(opcode)[0].replace("Some(100)", "None");
        assert_eq!(bed.fs.calls, [expected], "7.{minor}");
        assert_eq!(
            bed.call(&message.clone().data(&context[..39])).error(),
            Some(Errno::EINVAL)
        );
        // Linux sends a header of no contexts when the security module has none.
        bed.fs.clear();
        bed.call(&message.clone().arg(&[8_u32, 0]));
        bed.call(&message);
        for call in &bed.fs.calls {
            assert!(call.contains("security=None"), "{call}");
        }
        assert_eq!(bed.fs.calls.len(), 2);
    }
}

#[test]
fn names_are_checked() {
    let mut bed = Bed::mounted(Recorder::new());
    let long = "n".repeat(255);
    let too_long = "n".repeat(256);
    let names = [
        ("", Some(Errno::EINVAL)),
        ("a/b", Some(Errno::EINVAL)),
        (".", Some(Errno::EINVAL)),
        ("..", Some(Errno::EINVAL)),
        (&too_long, Some(Errno::ENAMETOOLONG)),
        (&long, None),
        ("...", None),
        ("\u{1f980}", None),
    ];
    for (name, error) in names {
        for opcode in [Opcode::UNLINK, Opcode::RMDIR] {
            let answer = bed.call(&Message::new(opcode).name(name));
            assert_eq!(answer.error(), error, "{} {name:?}", opcode.name());
        }
        for (old, new) in [(name, "good"), ("good", name)] {
            let message = Message::new(Opcode::RENAME).arg(&RenameIn { newdir: 1 });
            let answer = bed.call(&message.name(old).name(new));
            assert_eq!(answer.error(), error, "{old:?} to {new:?}");
        }
        let link = Message::new(Opcode::LINK)
            .arg(&LinkIn { oldnodeid: 2 })
            .name(name);
        assert_eq!(bed.call(&link.room(128)).error(), error);
        let mkdir = Message::new(Opcode::MKDIR)
            .arg(&MkdirIn::default())
            .name(name);
        assert_eq!(bed.call(&mkdir.room(128)).error(), error);
    }
    // A lookup of dots depends on what was negotiated.
    let dots = Message::new(Opcode::LOOKUP).name("..").room(128);
    assert_eq!(bed.call(&dots).error(), None);
    bed.init_as(45, InitFlags::all() - InitFlags::EXPORT_SUPPORT);
    assert_eq!(bed.call(&dots).error(), Some(Errno::EINVAL));
    // A name of an extended attribute may have any bytes.
    for (name, error) in [
        ("", Some(Errno::EINVAL)),
        (&too_long, Some(Errno::ERANGE)),
        ("a/b", None),
    ] {
        let message = Message::new(Opcode::REMOVEXATTR).name(name);
        assert_eq!(bed.call(&message).error(), error, "{name:?}");
    }
    for (len, error) in [
        (0, Some(Errno::ENOENT)),
        (4095, None),
        (4096, Some(Errno::ENAMETOOLONG)),
    ] {
        let message = Message::new(Opcode::SYMLINK)
            .name("link")
            .name("t".repeat(len))
            .room(128);
        assert_eq!(bed.call(&message).error(), error, "a target of {len} bytes");
    }
}

#[test]
fn sizes_and_ranges_are_checked() {
    let mut bed = Bed::mounted(Recorder::new());
    let mut refused = |message: Message| {
        assert_eq!(
            bed.call(&message).error(),
            Some(Errno::EINVAL),
            "{message:?}"
        );
    };
    let data = vec![0; (1 << 20) + 1];
    let write = |size| WriteIn {
        size,
        ..WriteIn::default()
    };
    refused(
        Message::new(Opcode::WRITE)
            .arg(&write((1 << 20) + 1))
            .data(&data)
            .room(8),
    );
    refused(
        Message::new(Opcode::WRITE)
            .arg(&write(4097))
            .data(&data[..4096])
            .room(8),
    );
    let read = ReadIn {
        size: 4097,
        ..ReadIn::default()
    };
    refused(Message::new(Opcode::READ).arg(&read).room(4096));
    refused(
        Message::new(Opcode::GETXATTR)
            .arg(&GetxattrIn {
                size: 65,
                padding: 0,
            })
            .name("k")
            .room(64),
    );
    refused(
        Message::new(Opcode::SETXATTR)
            .arg(&SetxattrIn {
                size: 4,
                ..SetxattrIn::default()
            })
            .name("k")
            .data(b"val"),
    );
    refused(
        Message::new(Opcode::IOCTL)
            .arg(&IoctlIn {
                in_size: 1,
                ..IoctlIn::default()
            })
            .room(16),
    );
    let copy = CopyFileRangeIn {
        flags: 1,
        ..CopyFileRangeIn::default()
    };
    refused(Message::new(Opcode::COPY_FILE_RANGE).arg(&copy).room(8));
    for (start, end, kind) in [(1, 0, 0), (0, 1 << 63, 0), (0, 0, 3)] {
        let lk = FileLock {
            start,
            end,
            kind,
            pid: 0,
        };
        for opcode in [Opcode::GETLK, Opcode::SETLK, Opcode::SETLKW] {
            refused(
                Message::new(opcode)
                    .arg(&LkIn {
                        lk,
                        ..LkIn::default()
                    })
                    .room(24),
            );
        }
    }
    // More than fits the layer's buffer for names and values.
    let huge = Message::new(Opcode::UNLINK).data(&vec![b'n'; 100 << 10]);
    assert_eq!(bed.call(&huge).error(), Some(Errno::E2BIG));
    assert!(bed.fs.calls.is_empty());
}

#[test]
fn a_backend_without_operations_answers_every_request() {
    struct Nothing;
    impl FileSystem for Nothing {}
    let mut bed = Bed::mounted(Nothing);
    for (opcode, message) in samples::all() {
        let answer = bed.call(&message);
        assert_eq!(
            answer.bytes.is_empty(),
            message.room.is_none(),
            "{}",
            opcode.name()
        );
        let implemented = matches!(opcode, Opcode::INIT | Opcode::DESTROY | Opcode::INTERRUPT);
        if !implemented && message.room.is_some() {
            let error = if bed.session().ready() {
                Errno::ENOSYS
            } else {
                Errno::EIO
            };
            assert_eq!(answer.error(), Some(error), "{}", opcode.name());
        }
        if opcode == Opcode::DESTROY {
            bed.init();
        }
    }
    assert_eq!(bed.pending(), 0);
}

#[test]
fn unknown_operations_are_refused_for_good() {
    let mut bed = Bed::mounted(Recorder::new());
    for number in [0, 7, 19, 54, 4096, 1 << 20, u32::MAX] {
        let answer = bed.call(&Message::numbered(number).data(&[1; 64]).room(64));
        assert_eq!(answer.error(), Some(Errno::ENOSYS), "{number}");
    }
    assert!(bed.fs.calls.is_empty());
}
