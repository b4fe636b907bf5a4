//! INTERRUPT: of a request on the same core, on another, and of none.

use dpfs::fuse::{Data, Fh, FileSystem, NodeId, Reply, Request};
use dpfs::mem::SlotId;
use dpfs::sys::time::Instant;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::*;
use dpfs::wire::open_flags::OpenFlags;
use dpfs_harness::{Bed, Message, Mode, Recorder, samples};

fn interrupt(unique: u64) -> Message {
    Message::new(Opcode::INTERRUPT)
        .node(0)
        .unique(unique | 1)
        .arg(&InterruptIn { unique })
}

#[test]
fn a_pending_request_is_interrupted_and_the_interrupt_has_no_answer() {
    let mut bed = Bed::mounted(Recorder::with(Mode::Keep));
    let others = bed.send(&samples::sample(Opcode::READ).unique(10));
    let target = bed.send(&samples::sample(Opcode::SETLKW).unique(12));
    let id = bed.fs.latest.unwrap().id;
    let ticket = bed.send(&interrupt(12));
    assert!(bed.answer(ticket).expect("ended at once").bytes.is_empty());
    assert_eq!(bed.fs.interrupted, [id]);
    // It is the backend's to answer, once.
    assert!(bed.answer(target).is_none());
    bed.fs.answer_kept(1);
    assert_eq!(bed.wait(target).error(), None);
    bed.fs.answer_kept(0);
    assert_eq!(bed.wait(others).error(), None);
}

#[test]
fn a_request_that_nobody_has_is_to_be_asked_for_again() {
    let mut bed = Bed::mounted(Recorder::new());
    bed.call(&samples::sample(Opcode::READ).unique(10));
    // One never seen, one that was answered, and the interrupt itself.
    for unique in [8, 10, 11] {
        assert_eq!(
            bed.call(&interrupt(unique)).error(),
            Some(Errno::EAGAIN),
            "{unique}"
        );
    }
    bed.round();
    assert!(bed.fs.interrupted.is_empty());
}

#[test]
fn the_next_request_of_an_entry_is_not_interrupted_for_the_last() {
    let mut bed = Bed::mounted(Recorder::with(Mode::Keep));
    let first = bed.send(&samples::sample(Opcode::READ).unique(10));
    bed.fs.answer_kept(0);
    bed.wait(first);
    let second = bed.send(&samples::sample(Opcode::READ).unique(12));
    assert_eq!(bed.call(&interrupt(10)).error(), Some(Errno::EAGAIN));
    assert!(bed.fs.interrupted.is_empty());
    bed.fs.answer_kept(0);
    bed.wait(second);
}

#[test]
fn an_interrupt_finds_its_target_on_another_core() {
    let mut one = Bed::mounted(Recorder::with(Mode::Keep));
    let mut other = one.sibling(Recorder::with(Mode::Keep), 8);
    let mut third = one.sibling(Recorder::with(Mode::Keep), 8);
    let target = one.send(&samples::sample(Opcode::SETLKW).unique(12));
    let id = one.fs.latest.unwrap().id;
    // The core that has it may not know it yet, so the kernel is to ask again; the others are told.
    assert_eq!(other.call(&interrupt(12)).error(), Some(Errno::EAGAIN));
    for bed in [&mut one, &mut third, &mut other] {
        bed.round();
        bed.round();
    }
    assert_eq!(one.fs.interrupted, [id]);
    assert!(other.fs.interrupted.is_empty() && third.fs.interrupted.is_empty());
    one.fs.answer_kept(0);
    assert_eq!(one.wait(target).error(), None);
}

#[test]
fn more_interrupts_than_are_remembered_do_no_harm() {
    let mut one = Bed::mounted(Recorder::with(Mode::Keep));
    let mut other = one.sibling(Recorder::new(), 8);
    let target = one.send(&samples::sample(Opcode::SETLKW).unique(12));
    for round in 0..1000 {
        other.call(&interrupt(1000 + round * 2));
    }
    other.call(&interrupt(12));
    one.round();
    assert_eq!(one.fs.interrupted.len(), 1);
    one.fs.answer_kept(0);
    assert_eq!(one.wait(target).error(), None);
}

#[test]
fn an_interrupt_without_a_number_is_refused() {
    let mut bed = Bed::mounted(Recorder::new());
    let short = Message::new(Opcode::INTERRUPT).data(&[1; 7]);
    assert_eq!(bed.call(&short).error(), Some(Errno::EINVAL));
}

/// Hold a read until it is interrupted.
#[derive(Default)]
struct Patient(Vec<Reply<Data>>);

impl FileSystem for Patient {
    fn read(
        &mut self,
        _rq: &Request,
        _node: NodeId,
        _fh: Fh,
        _offset: u64,
        _flags: OpenFlags,
        reply: Reply<Data>,
    ) {
        self.0.push(reply);
    }

    fn interrupt(&mut self, target: SlotId) {
        assert!(self.0.iter().any(|reply| reply.id() == target));
    }

    fn poll(&mut self, _now: Instant) -> bool {
        let (done, waiting) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(Reply::interrupted);
        self.0 = waiting;
        let done: Vec<Reply<Data>> = done;
        let any = !done.is_empty();
        done.into_iter().for_each(|reply| reply.err(Errno::EINTR));
        any
    }
}

#[test]
fn a_reply_knows_that_it_was_interrupted() {
    let mut bed = Bed::mounted(Patient::default());
    let (one, two) = (
        bed.send(&samples::sample(Opcode::READ).unique(2)),
        bed.send(&samples::sample(Opcode::READ).unique(4)),
    );
    bed.send(&interrupt(4));
    assert_eq!(bed.wait(two).error(), Some(Errno::EINTR));
    assert!(bed.answer(one).is_none());
    bed.send(&interrupt(2));
    assert_eq!(bed.wait(one).error(), Some(Errno::EINTR));
}
