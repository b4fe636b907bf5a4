//! INIT, DESTROY and what lies between two sessions.

use dpfs::fuse::{Limits, Wishes};
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::*;
use dpfs_harness::{Bed, CountingVolume, Message, Mode, Recorder, Setup, samples};
use zerocopy::IntoBytes;

fn init(major: u32, minor: u32, flags: u64) -> InitIn {
    InitIn {
        major,
        minor,
        max_readahead: 128 << 10,
        flags: flags as u32,
        flags2: (flags >> 32) as u32,
        ..InitIn::default()
    }
}

fn message(init: &InitIn) -> Message {
    Message::new(Opcode::INIT).node(0).arg(init).room(64)
}

fn granted(out: &InitOut) -> u64 {
    u64::from(out.flags) | u64::from(out.flags2) << 32
}

/// Make a bed whose resets can be counted.
fn counted(fs: Recorder) -> (Bed<Recorder>, &'static CountingVolume) {
    let volume: &'static CountingVolume = Box::leak(Box::default());
    let setup = Setup {
        volume,
        ..Setup::default()
    };
    (Bed::with(fs, setup), volume)
}

#[test]
fn every_version_from_31_on_is_served_with_what_both_sides_have() {
    for minor in (31..=45).chain([46, 99, u32::MAX]) {
        let mut bed = Bed::new(Recorder::new());
        let out: InitOut = bed
            .call(&message(&init(7, minor, InitFlags::all().bits())))
            .value();
        assert_eq!((out.major, out.minor), (7, minor.min(45)));
        assert_eq!((out.max_write, out.max_pages), (1 << 20, 256));
        assert_eq!(out.max_readahead, 128 << 10);
        assert_eq!(granted(&out) & !InitFlags::all().bits(), 0);
        assert_eq!(bed.session().minor(), out.minor);
        assert_eq!(bed.session().flags().bits(), granted(&out));
        assert!(bed.session().ready());
        assert_eq!(
            bed.call(&samples::sample(Opcode::LOOKUP)).error(),
            None,
            "7.{minor}"
        );
    }
}

#[test]
fn one_flag_offered_is_at_most_one_flag_granted() {
    for flag in InitFlags::all().iter() {
        let mut bed = Bed::new(Recorder::new());
        let offered = flag | InitFlags::INIT_EXT;
        let granted = granted(&bed.init_as(45, offered));
        assert_eq!(granted & !offered.bits(), 0, "{flag:?}");
        // Bits that no version defines yet are never granted.
        let mut bed = Bed::new(Recorder::new());
        let unknown = !InitFlags::all().bits() | InitFlags::INIT_EXT.bits();
        let out: InitOut = bed.call(&message(&init(7, 45, unknown))).value();
        assert_eq!(super::session::granted(&out), InitFlags::INIT_EXT.bits());
    }
}

#[test]
fn a_backend_that_asks_for_nothing_gets_what_the_layer_does_for_all() {
    let mut fs = Recorder::new();
    fs.wishes = Wishes {
        time_gran: 1000,
        max_readahead: 4096,
        ..Wishes::default()
    };
    let limits = Limits {
        max_write: 64 << 10,
        max_background: 40,
    };
    let mut bed = Bed::with(
        fs,
        Setup {
            limits,
            ..Setup::default()
        },
    );
    let out = bed.init();
    assert_eq!(
        (
            out.max_write,
            out.max_pages,
            out.time_gran,
            out.max_readahead
        ),
        (65536, 16, 1000, 4096)
    );
    assert_eq!((out.max_background, out.congestion_threshold), (40, 30));
    let flags = InitFlags::from_bits_retain(granted(&out));
    assert!(
        flags.contains(InitFlags::MAX_PAGES | InitFlags::PARALLEL_DIROPS | InitFlags::SETXATTR_EXT)
    );
    for asked in [
        InitFlags::POSIX_LOCKS,
        InitFlags::WRITEBACK_CACHE,
        InitFlags::SECURITY_CTX,
    ] {
        assert!(!flags.contains(asked), "{asked:?}");
    }
}

#[test]
fn a_short_init_has_no_second_flags() {
    // Linux before 5.17 sends 16 bytes. INIT_EXT would make later bytes count.
    let full = init(7, 35, InitFlags::all().bits());
    for len in (0..=64).step_by(4).chain([15, 17, 63]) {
        let mut bed = Bed::new(Recorder::new());
        let short = Message::new(Opcode::INIT)
            .node(0)
            .data(&full.as_bytes()[..len])
            .room(64);
        let answer = bed.call(&short);
        if len < 16 {
            assert_eq!(answer.error(), Some(Errno::EINVAL), "{len} bytes");
            assert!(!bed.session().ready());
        } else {
            let out: InitOut = answer.value();
            assert_eq!(out.flags2 != 0, len == 64, "{len} bytes");
            assert!(bed.session().ready());
        }
    }
}

#[test]
fn versions_that_cannot_be_spoken_begin_no_session() {
    for (major, minor, error) in [
        (7, 30, true),
        (7, 0, true),
        (6, 45, true),
        (0, 0, true),
        (8, 0, false),
        (u32::MAX, 45, false),
    ] {
        let (mut bed, volume) = counted(Recorder::new());
        let answer = bed.call(&message(&init(major, minor, InitFlags::all().bits())));
        if error {
            assert_eq!(answer.error(), Some(Errno::EPROTO), "{major}.{minor}");
        } else {
            let out: InitOut = answer.value();
            assert_eq!((out.major, granted(&out)), (7, 0), "{major}.{minor}");
        }
        assert!(!bed.session().ready());
        assert_eq!(volume.resets(), 0);
        assert_eq!(
            bed.call(&samples::sample(Opcode::GETATTR)).error(),
            Some(Errno::EIO)
        );
        // A host of a newer major version then asks again with ours.
        bed.init();
        assert_eq!(bed.call(&samples::sample(Opcode::GETATTR)).error(), None);
    }
}

#[test]
fn before_init_nothing_reaches_the_backend() {
    for (opcode, message) in samples::all() {
        let (mut bed, _) = counted(Recorder::new());
        let answer = bed.call(&message);
        match opcode {
            Opcode::INIT | Opcode::DESTROY => assert_eq!(answer.error(), None),
            Opcode::FORGET | Opcode::BATCH_FORGET | Opcode::NOTIFY_REPLY => {
                assert!(answer.bytes.is_empty())
            }
            _ => assert_eq!(answer.error(), Some(Errno::EIO), "{}", opcode.name()),
        }
        assert!(bed.fs.calls.is_empty(), "{}", opcode.name());
    }
}

#[test]
fn destroy_ends_the_session_and_init_begins_another() {
    let (mut bed, volume) = counted(Recorder::new());
    bed.init();
    let (first, resets) = (bed.session().epoch(), volume.resets());
    assert_eq!(bed.call(&samples::sample(Opcode::DESTROY)).error(), None);
    assert!(!bed.session().ready());
    assert_eq!(volume.resets(), resets + 1);
    assert_eq!(
        bed.call(&samples::sample(Opcode::LOOKUP)).error(),
        Some(Errno::EIO)
    );
    bed.call(&samples::sample(Opcode::FORGET));
    assert!(
        bed.fs.calls.is_empty(),
        "counts of the old session are dropped already"
    );
    bed.init();
    assert!(bed.session().epoch() > first);
    assert_eq!(bed.call(&samples::sample(Opcode::LOOKUP)).error(), None);
}

#[test]
fn a_host_that_rebooted_begins_anew_while_old_requests_are_pending() {
    let (mut bed, volume) = counted(Recorder::with(Mode::Keep));
    bed.init();
    let old = bed.send(&samples::sample(Opcode::CREATE));
    let old_epoch = bed.fs.latest.unwrap().epoch;
    let resets = volume.resets();
    bed.init_as(31, InitFlags::empty());
    assert_eq!(volume.resets(), resets + 1);
    assert_eq!(bed.session().minor(), 31);
    assert_eq!(bed.session().flags(), InitFlags::empty());
    let new = bed.send(&samples::sample(Opcode::LOOKUP));
    assert_ne!(bed.fs.latest.unwrap().epoch, old_epoch);
    // The old answer is still given, to the memory that the transport keeps for it.
    bed.fs.answer_kept(0);
    assert_eq!(bed.wait(old).error(), None);
    bed.fs.answer_kept(0);
    assert_eq!(bed.wait(new).error(), None);
    assert_eq!(bed.pending(), 0);
}

#[test]
fn a_reset_of_the_device_ends_the_session() {
    let (mut bed, volume) = counted(Recorder::new());
    bed.init();
    let resets = volume.resets();
    bed.session().reset();
    assert_eq!(volume.resets(), resets + 1);
    assert_eq!(
        bed.call(&samples::sample(Opcode::LOOKUP)).error(),
        Some(Errno::EIO)
    );
    assert_eq!(
        bed.session().flags(),
        bed.session().flags() & InitFlags::all()
    );
}

#[test]
fn a_resent_request_is_answered_under_its_number() {
    let mut bed = Bed::mounted(Recorder::new());
    // The bed checks that the reply's number is the request's, its highest bit included.
    let answer = bed.call(&samples::sample(Opcode::LOOKUP).unique(UNIQUE_RESEND | 8));
    assert_eq!(answer.error(), None);
}
