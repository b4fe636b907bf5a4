//! Replies that come late, out of order, not at all, or into memory cut in odd places.

use std::ffi::CStr;

use dpfs::fuse::{Data, DirEntries, Fh, FileSystem, NodeId, Reply, Request, Target, XattrValue};
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::*;
use dpfs::wire::open_flags::OpenFlags;
use dpfs_harness::answers::FILL;
use dpfs_harness::{Bed, Layout, Mode, Recorder, Setup, samples};

/// The samples that reach the backend and have a reply.
fn asked() -> impl Iterator<Item = (Opcode, dpfs_harness::Message)> {
    samples::all().filter(|(opcode, message)| {
        let here = [
            Opcode::INIT,
            Opcode::DESTROY,
            Opcode::INTERRUPT,
            Opcode::SETUPMAPPING,
            Opcode::REMOVEMAPPING,
        ];
        message.room.is_some() && !here.contains(opcode)
    })
}

#[test]
fn a_dropped_reply_answers_eio_and_is_counted() {
    let mut bed = Bed::mounted(Recorder::with(Mode::Drop));
    for (opcode, message) in asked() {
        let before = bed.unanswered();
        assert_eq!(
            bed.call(&message).error(),
            Some(Errno::EIO),
            "{}",
            opcode.name()
        );
        assert_eq!(bed.unanswered(), before + 1, "{}", opcode.name());
    }
}

#[test]
fn an_error_reaches_the_host() {
    for error in [
        Errno::ENOENT,
        Errno::ESTALE,
        Errno::from_os(4095),
        Errno::EPERM,
    ] {
        let mut bed = Bed::mounted(Recorder::with(Mode::Fail(error)));
        for (opcode, message) in asked() {
            assert_eq!(bed.call(&message).error(), Some(error), "{}", opcode.name());
        }
    }
}

#[test]
fn replies_may_come_in_any_order() {
    let mut bed = Bed::mounted(Recorder::with(Mode::Keep));
    let sent: Vec<_> = asked()
        .map(|(opcode, message)| (opcode, bed.send(&message)))
        .collect();
    assert_eq!(bed.fs.kept(), sent.len());
    assert_eq!(bed.pending(), sent.len());
    // From the middle on, so that neither order of the list is followed.
    let mut order: Vec<usize> = (0..sent.len()).collect();
    order.rotate_left(sent.len() / 2);
    order.sort_by_key(|index| index % 3);
    for (done, index) in order.iter().enumerate() {
        let earlier = order[..done].iter().filter(|gone| *gone < index).count();
        bed.fs.answer_kept(index - earlier);
        let (opcode, ticket) = sent[*index];
        bed.round();
        let answer = bed
            .answer(ticket)
            .unwrap_or_else(|| panic!("{}: not answered", opcode.name()));
        assert_eq!(answer.error(), None, "{}", opcode.name());
        assert_eq!(bed.pending(), sent.len() - done - 1);
    }
}

#[test]
fn a_full_table_takes_nothing_until_a_reply_is_given() {
    let mut bed = Bed::with(
        Recorder::with(Mode::Keep),
        Setup {
            depth: 4,
            ..Setup::default()
        },
    );
    bed.init();
    let message = samples::sample(Opcode::READ).unique(2);
    let tickets: Vec<_> = (0..4).map(|_| bed.send(&message)).collect();
    assert!(bed.try_send(&message.layout()).is_none());
    bed.fs.answer_kept(2);
    assert!(
        bed.try_send(&message.layout()).is_none(),
        "not before its memory is given back"
    );
    assert_eq!(bed.wait(tickets[2]).error(), None);
    assert!(bed.try_send(&message.layout()).is_some());
}

#[test]
fn a_reply_is_whole_wherever_its_room_is_cut() {
    for (opcode, message) in asked() {
        let room = OUT_HEADER_LEN + message.room.unwrap_or(0);
        let mut plain = Bed::mounted(Recorder::new());
        let expected = plain.run(&Layout::new(&message.bytes(), room)).bytes;
        for cut in (1..=OUT_HEADER_LEN + 8).chain([63, 64, 65]) {
            let mut bed = Bed::mounted(Recorder::new());
            for layout in [
                Layout::new(&message.bytes(), room).cut(&[], &[cut]),
                Layout::new(&message.bytes(), room).cut(&[], &[cut, cut + 1, cut + 9]),
            ] {
                let bytes = bed.run(&layout).bytes;
                assert!(bytes == expected, "{} cut at {cut}", opcode.name());
            }
        }
    }
    // A header in 16 segments of a byte each.
    let mut bed = Bed::mounted(Recorder::new());
    let cuts: Vec<usize> = (1..=OUT_HEADER_LEN).collect();
    let message = samples::sample(Opcode::LOOKUP);
    let answer = bed.run(&Layout::new(&message.bytes(), 16 + 128).cut(&cuts, &cuts));
    assert_eq!(answer.value::<EntryOut>().nodeid, 77);
}

/// Answer in ways that a careful backend would not.
struct Careless;

impl FileSystem for Careless {
    fn read(
        &mut self,
        _rq: &Request,
        _node: NodeId,
        _fh: Fh,
        offset: u64,
        _flags: OpenFlags,
        reply: Reply<Data>,
    ) {
        match offset {
            0 => reply.filled(samples::DATA_LEN + 1),
            1 => reply.bytes(&[FILL; samples::DATA_LEN + 1]),
            2 => {
                reply.zero(samples::DATA_LEN - 3, 100);
                reply.zero(0, 5000);
                reply.zero(usize::MAX, usize::MAX);
                reply.filled(samples::DATA_LEN);
            }
            _ => reply.filled(0),
        }
    }

    fn readlink(&mut self, _rq: &Request, node: NodeId, reply: Reply<Target>) {
        reply.ok(&vec![b't'; node.0 as usize]);
    }

    fn getxattr(&mut self, _rq: &Request, _node: NodeId, name: &CStr, reply: Reply<XattrValue>) {
        reply.ok(&vec![FILL; name.count_bytes()]);
    }

    fn readdir(
        &mut self,
        _rq: &Request,
        _node: NodeId,
        _fh: Fh,
        position: u64,
        reply: Reply<DirEntries>,
    ) {
        if position == 0 {
            return reply.ok(usize::MAX);
        }
        let name = vec![b'n'; position as usize];
        let at = reply.push(0, 1, 1, 0, &name);
        assert_eq!(at.is_some(), position <= 256, "{position}");
        assert_eq!(reply.push(usize::MAX, 1, 1, 0, b"name"), None);
        reply.ok(at.unwrap_or(0));
    }
}

#[test]
fn a_read_never_gives_more_than_was_asked_for() {
    let mut bed = Bed::mounted(Careless);
    let mut read = |offset| {
        let args = ReadIn {
            offset,
            size: samples::DATA_LEN as u32,
            ..ReadIn::default()
        };
        // There is more room than the host wants; it stays as it is.
        let message = dpfs_harness::Message::new(Opcode::READ)
            .arg(&args)
            .room(samples::DATA_LEN + 100);
        bed.call(&message)
    };
    assert_eq!(read(0).error(), Some(Errno::EIO));
    assert_eq!(read(1).body(), [FILL; samples::DATA_LEN]);
    let zeroed = read(2);
    assert!(zeroed.body()[..5000].iter().all(|&byte| byte == 0));
    assert!(
        zeroed.body()[5000..samples::DATA_LEN - 3]
            .iter()
            .all(|&byte| byte != 0)
    );
    assert_eq!(zeroed.body()[samples::DATA_LEN - 3..], [0; 3]);
    assert_eq!(read(3).body(), [0; 0]);
}

#[test]
fn values_and_targets_that_do_not_fit_have_an_error() {
    let mut bed = Bed::mounted(Careless);
    for (len, room, error) in [(8, 8, None), (9, 8, Some(Errno::ERANGE)), (9, 0, None)] {
        let args = GetxattrIn {
            size: room,
            padding: 0,
        };
        let message = dpfs_harness::Message::new(Opcode::GETXATTR)
            .arg(&args)
            .name("n".repeat(len));
        let answer = bed.call(&message.room(8));
        assert_eq!(answer.error(), error, "{len} bytes in {room}");
        if room == 0 {
            assert_eq!(answer.value::<GetxattrOut>().size, 9);
        }
    }
    for (len, error) in [(4096, None), (4097, Some(Errno::ENAMETOOLONG))] {
        let answer = bed.call(&samples::sample(Opcode::READLINK).node(len));
        assert_eq!(answer.error(), error);
    }
}

#[test]
fn directory_records_that_do_not_fit_are_refused() {
    let mut bed = Bed::mounted(Careless);
    for position in [0, 1, 255, 256, 257, 5000] {
        let args = ReadIn {
            offset: position,
            size: 4096,
            ..ReadIn::default()
        };
        let answer = bed.call(
            &dpfs_harness::Message::new(Opcode::READDIR)
                .arg(&args)
                .room(4096),
        );
        assert!(answer.body().len() <= 4096, "{position}");
    }
}
