//! Any requests, in any order, on two cores of a device, in memory cut anywhere. The backend uses every argument and
//! every byte of the buffers it is lent, and answers now, later, wrongly or not at all.
//!
//! The harness holds each completion against the protocol: one for each request, with its number, inside its room.

use std::cell::RefCell;

use dpfs::wire::errno::Errno;
use dpfs_harness::{Bed, Layout, Mode, Recorder, Setup};

use crate::tape::{Reader, Writer};

/// Requests in flight on a core.
const DEPTH: u16 = 16;
/// Largest room for a reply: a few pages, so that a run stays fast.
const ROOM: u16 = 20_000;

/// Name a step of the input.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum Step {
    /// Send a request on one of the cores.
    Send,
    /// The same, answered later.
    SendKept,
    /// Answer one of the kept replies.
    Answer,
    /// Run a round of both cores.
    Round,
    /// The device is reset.
    Reset,
}

const STEPS: u8 = Step::Reset as u8 + 1;

struct Beds {
    cores: [Bed<Recorder>; 2],
}

thread_local! {
    /// Made once, for a bed's memory is never given back.
    static BEDS: RefCell<Beds> = RefCell::new({
        let setup = Setup { depth: DEPTH, ..Setup::default() };
        let one = Bed::with(Recorder::new(), setup);
        let other = one.sibling(Recorder::new(), DEPTH);
        Beds { cores: [one, other] }
    });
}

/// Run one input; give the number of calls that reached the backend.
pub fn run(data: &[u8]) -> usize {
    BEDS.with_borrow_mut(|beds| {
        let mut tape = Reader::new(data);
        if tape.u8() & 1 == 0 {
            beds.cores[0].init();
        } else {
            beds.cores[0].session().reset();
        }
        while !tape.at_end() {
            beds.step(&mut tape);
        }
        let mut calls = 0;
        for core in &mut beds.cores {
            while core.fs.kept() > 0 {
                core.fs.answer_kept(0);
            }
            core.round();
            assert_eq!(core.pending(), 0, "a request was lost");
            calls += core.fs.calls.len();
            core.fs.clear();
            core.fs.interrupted.clear();
            core.forget_answers();
        }
        calls
    })
}

impl Beds {
    fn step(&mut self, tape: &mut Reader<'_>) {
        let step = tape.u8() % STEPS;
        let core = &mut self.cores[usize::from(tape.u8() & 1)];
        if step == Step::Send as u8 || step == Step::SendKept as u8 {
            core.fs.mode = match tape.u8() {
                _ if step == Step::SendKept as u8 => Mode::Keep,
                0 => Mode::Drop,
                1 => Mode::Fail(Errno::ESTALE),
                _ => Mode::Answer,
            };
            let room = usize::from(tape.u16() % ROOM);
            let size = usize::from(tape.u8());
            let request = tape.run();
            // As many segments as a list holds, and headers in pieces.
            let size = size.max((request.len() + room).div_ceil(200)).max(1);
            core.try_send(&Layout::new(request, room).shred(size));
        } else if step == Step::Answer as u8 {
            let kept = core.fs.kept();
            if kept > 0 {
                core.fs.answer_kept(usize::from(tape.u8()) % kept);
                core.round();
            }
        } else if step == Step::Round as u8 {
            self.cores.iter_mut().for_each(|core| {
                core.round();
            });
        } else {
            core.session().reset();
        }
    }
}

/// Write the step that sends a request, in segments of `size` bytes.
pub fn send(tape: Writer, step: Step, core: u8, request: &[u8], room: usize, size: u8) -> Writer {
    let tape = tape.u8(step as u8).u8(core).u8(2);
    tape.u16(room as u16).u8(size).run(request)
}
