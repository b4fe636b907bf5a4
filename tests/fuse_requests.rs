//! Requests through the FUSE layer: what a backend is asked, and what the host is told.

use dpfs::fuse::FileSystem;
use dpfs_harness::{Bed, samples};

struct Nothing;
impl FileSystem for Nothing {}

#[test]
fn a_backend_without_operations_answers_every_request() {
    let mut bed = Bed::mounted(Nothing);
    for (opcode, message) in samples::all() {
        let answer = bed.call(&message);
        assert_eq!(
            answer.bytes.is_empty(),
            message.room.is_none(),
            "{}",
            opcode.name()
        );
    }
    assert_eq!(bed.pending(), 0);
}
