//! Requests that no kernel sends: cut short, with lengths that lie, with any bytes changed.
//!
//! The bed checks each reply against the protocol, that nothing outside of its room is written, and that no request is
//! lost; the tests here add what the answer must be.

use std::cell::RefCell;

use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::*;
use dpfs_harness::{Bed, Layout, Message, Recorder, samples};
use proptest::prelude::*;
use zerocopy::FromBytes;

const ROOM: usize = OUT_HEADER_LEN + samples::DATA_LEN;

/// Tell whether an operation has no reply, whatever its bytes.
fn silent(opcode: u32) -> bool {
    let silent = [Opcode::FORGET, Opcode::BATCH_FORGET, Opcode::NOTIFY_REPLY];
    Opcode::new(opcode).is_some_and(|opcode| silent.contains(&opcode))
}

/// Tell whether this many bytes of an operation's sample are a whole request.
fn whole(opcode: Opcode, bytes: usize) -> bool {
    match opcode {
        // Their arguments are none, or mean nothing.
        Opcode::STATFS | Opcode::SYNCFS | Opcode::READLINK | Opcode::DESTROY => true,
        Opcode::INIT => bytes >= IN_HEADER_LEN + COMPAT_INIT_IN_LEN,
        _ => false,
    }
}

/// Mount again if the last request ended the session, and forget what was asked.
fn fresh(bed: &mut Bed<Recorder>) -> &mut Bed<Recorder> {
    bed.init();
    bed.fs.clear();
    bed
}

fn set_len(bytes: &mut [u8], len: usize) {
    bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
}

#[test]
fn a_request_cut_anywhere_is_refused() {
    for (opcode, message) in samples::all() {
        let mut bed = Bed::mounted(Recorder::new());
        let full = message.bytes();
        let step = if full.len() > 1000 { 97 } else { 1 };
        for len in (0..full.len()).step_by(step) {
            for honest in [false, true] {
                let mut bytes = full[..len].to_vec();
                if honest && len >= 4 {
                    set_len(&mut bytes, len);
                }
                let answer = fresh(&mut bed).run(&Layout::new(&bytes, ROOM));
                let place = format!(
                    "{} cut to {len} of {}, honest: {honest}",
                    opcode.name(),
                    full.len()
                );
                if len < IN_HEADER_LEN {
                    assert!(answer.bytes.is_empty(), "{place}");
                    assert_eq!(i32::from(answer.recorded), Errno::EINVAL.get(), "{place}");
                } else if silent(opcode as u32) {
                    assert!(answer.bytes.is_empty(), "{place}");
                } else if !honest || !whole(opcode, len) {
                    assert!(
                        matches!(
                            answer.error(),
                            Some(Errno::EINVAL | Errno::ENOSYS | Errno::EAGAIN)
                        ),
                        "{place}: {:?}",
                        answer.error()
                    );
                    assert_eq!(bed.fs.calls, [""; 0], "{place}");
                }
            }
        }
    }
}

#[test]
fn a_length_that_lies_is_refused_and_bytes_behind_it_are_ignored() {
    for (opcode, message) in samples::all().filter(|(opcode, _)| !silent(*opcode as u32)) {
        let mut bed = Bed::mounted(Recorder::new());
        let full = message.bytes();
        for len in [0, 1, 39, full.len() + 1, full.len() + 8, u32::MAX as usize] {
            let mut bytes = full.clone();
            set_len(&mut bytes, len);
            let answer = fresh(&mut bed).run(&Layout::new(&bytes, ROOM));
            assert_eq!(
                answer.error(),
                Some(Errno::EINVAL),
                "{} with length {len}",
                opcode.name()
            );
            assert!(bed.fs.calls.is_empty());
        }
        let expected = fresh(&mut bed).run(&Layout::new(&full, ROOM));
        let calls = bed.fs.calls.clone();
        let longer = [&full[..], &[0xee; 100]].concat();
        let answer = fresh(&mut bed).run(&Layout::new(&longer, ROOM));
        assert_eq!(bed.fs.calls, calls, "{}", opcode.name());
        assert_eq!(answer.bytes, expected.bytes, "{}", opcode.name());
    }
}

#[test]
fn counts_beyond_the_request_end_with_it() {
    let mut bed = Bed::mounted(Recorder::new());
    let one = ForgetOne {
        nodeid: 9,
        nlookup: u64::MAX,
    };
    let head = BatchForgetIn {
        count: u32::MAX,
        dummy: 0,
    };
    let message = Message::new(Opcode::BATCH_FORGET)
        .arg(&head)
        .arg(&one)
        .data(&[1; 15])
        .no_reply();
    assert!(bed.call(&message).bytes.is_empty());
    assert_eq!(bed.fs.calls, ["forget 9 count=18446744073709551615"]);
}

#[test]
fn extensions_that_leave_the_request_are_refused() {
    let mut bed = Bed::mounted(Recorder::new());
    for opcode in [
        Opcode::SYMLINK,
        Opcode::MKNOD,
        Opcode::MKDIR,
        Opcode::CREATE,
        Opcode::TMPFILE,
    ] {
        let message = samples::sample(opcode);
        let good = message.bytes();
        let words = (message.extensions.len() / 8) as u16;
        for wrong in (1..=u16::MAX)
            .step_by(251)
            .chain([words - 1, words + 1])
            .filter(|&wrong| wrong != words)
        {
            let mut bytes = good.clone();
            bytes[36..38].copy_from_slice(&wrong.to_le_bytes());
            let error = bed.run(&Layout::new(&bytes, ROOM)).error();
            assert_eq!(
                error,
                Some(Errno::EINVAL),
                "{} with {wrong} words",
                opcode.name()
            );
        }
    }
    assert!(bed.fs.calls.is_empty());
}

#[test]
fn room_too_small_for_a_header_gets_no_answer_and_calls_nobody() {
    for (opcode, message) in samples::all().filter(|(opcode, _)| !silent(*opcode as u32)) {
        let mut bed = Bed::mounted(Recorder::new());
        for room in 0..OUT_HEADER_LEN {
            let answer = fresh(&mut bed).run(&Layout::new(&message.bytes(), room));
            assert!(answer.bytes.is_empty(), "{} in {room} bytes", opcode.name());
            assert_eq!(i32::from(answer.recorded), Errno::EINVAL.get());
            assert!(bed.fs.calls.is_empty());
        }
    }
}

#[test]
fn room_too_small_for_a_body_gets_an_error() {
    for (opcode, message) in samples::all().filter(|(opcode, _)| !silent(*opcode as u32)) {
        let mut bed = Bed::mounted(Recorder::new());
        let full = message.room.expect("has a reply");
        for room in (0..full).step_by(if full > 1000 { 97 } else { 1 }) {
            let answer = fresh(&mut bed).run(&Layout::new(&message.bytes(), OUT_HEADER_LEN + room));
            let fits = match opcode {
                Opcode::READDIR | Opcode::READDIRPLUS => true,
                Opcode::READLINK => room >= "../target".len(),
                Opcode::IOCTL => room >= size_of::<IoctlOut>() + 4,
                _ => false,
            };
            assert_eq!(
                answer.error().is_none(),
                fits,
                "{} in {room} bytes",
                opcode.name()
            );
        }
    }
}

thread_local! {
    /// One for all cases, for a bed's memory is never given back.
    static BED: RefCell<Bed<Recorder>> = RefCell::new(Bed::new(Recorder::new()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_change_to_any_request_ends_with_one_defined_answer(
        index in 0..Opcode::ALL.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        keep in any::<prop::sample::Index>(),
        cut in any::<bool>(),
        size in 1..5000_usize,
        room in 0..ROOM,
    ) {
        let mut bytes = samples::sample(Opcode::ALL[index]).bytes();
        for (place, value) in changes {
            let place = place.index(bytes.len().min(300));
            bytes[place] = value;
        }
        if cut {
            bytes.truncate(keep.index(bytes.len() + 1));
        }
        // At most as many segments as a list holds.
        let size = size.max((bytes.len() + room) / 200);
        BED.with_borrow_mut(|bed| {
            let answer = fresh(bed).run(&Layout::new(&bytes, room).shred(size));
            let header = InHeader::read_from_prefix(&bytes);
            let answerable = header.is_ok_and(|(header, _)| !silent(header.opcode) && header.opcode != 36);
            if answerable && room >= OUT_HEADER_LEN && size >= OUT_HEADER_LEN {
                assert!(!answer.bytes.is_empty());
            }
            if bytes.len() < IN_HEADER_LEN || room < OUT_HEADER_LEN {
                assert!(answer.bytes.is_empty());
            }
        });
    }
}
