//! A server that lies: what it says is an error of the host, and the next call is none.

use dpfs::wire::errno::Errno;
use dpfs::wire::nfs4::op;

use crate::fake::Act;
use crate::fake::mutate::Random;
use crate::host::*;
use crate::refusals::{Things, attempt, things};
use crate::scripted::Mounted;

/// Offset of the status of the compound: behind the header of an accepted reply.
const STATUS: usize = 24;
/// Offset of the number of results.
const COUNT: usize = STATUS + 8;
/// Offset of the results of SEQUENCE.
const SEQUENCE: usize = COUNT + 12;
/// Offset of the second result.
const SECOND: usize = SEQUENCE + 36;

fn set(answer: &mut [u8], at: usize, word: u32) {
    answer[at..at + 4].copy_from_slice(&word.to_be_bytes());
}

/// Name a lie, and tell it.
type Lie = (&'static str, fn(&mut Vec<u8>));

/// Lie once, at each of these operations, and give what the host sees.
fn lie(host: &mut Mounted, things: &Things, act: &Act) -> Vec<Result<()>> {
    let operations = [
        op::LOOKUP,
        op::READ,
        op::WRITE,
        op::CREATE,
        op::READDIR,
        op::RENAME,
    ];
    let mut seen = Vec::new();
    for operation in operations {
        host.at(operation, 0, 1, act.clone());
        seen.push(attempt(host, things, operation));
        host.check();
        // What was done although its answer was a lie is undone.
        let _ = host.rmdir(ROOT, "made");
        let _ = host.rename((ROOT, "t"), (ROOT, "s"), 0);
        assert_eq!(attempt(host, things, operation), Ok(()), "{operation}");
        host.check();
    }
    seen
}

/// Mount for a host that is patient, but notices silence soon.
fn hard() -> Mounted {
    Mounted::with(|config| config.options.timeo = 200_000_000)
}

#[test]
fn an_answer_that_makes_no_sense_is_an_error_once() {
    let mut host = hard();
    let things = things(&mut host);
    let lies: [Lie; 8] = [
        ("an unknown operation", |answer| set(answer, SECOND, 4711)),
        ("another operation", |answer| {
            set(answer, SECOND, op::COMMIT)
        }),
        ("fewer results", |answer| set(answer, COUNT, 1)),
        ("no results", |answer| set(answer, COUNT, 0)),
        ("another operation first", |answer| {
            set(answer, COUNT + 4, op::PUTFH)
        }),
        ("another session", |answer| {
            set(answer, SEQUENCE, 0xdead_beef)
        }),
        ("another number", |answer| set(answer, SEQUENCE + 16, 4711)),
        ("another slot", |answer| set(answer, SEQUENCE + 20, 63)),
    ];
    for (what, change) in lies {
        let seen = lie(&mut host, &things, &Act::change(change));
        assert!(
            seen.iter().all(|seen| *seen == Err(Errno::EIO)),
            "{what}: {seen:?}"
        );
    }
}

#[test]
fn an_answer_that_cannot_be_read_is_asked_for_again() {
    let mut host = hard();
    let things = things(&mut host);
    let lies: [Lie; 5] = [
        ("the end of the record", |answer| {
            answer.truncate(STATUS + 2)
        }),
        ("another transaction", |answer| set(answer, 0, 0x4711_0000)),
        ("the transaction of a call of the session's own", |answer| {
            set(answer, 0, 0x0001_ffff)
        }),
        ("no reply", |answer| set(answer, 4, 2)),
        ("an absurd tag", |answer| set(answer, STATUS + 4, u32::MAX)),
    ];
    for (what, change) in lies {
        let seen = lie(&mut host, &things, &Act::change(change));
        assert!(seen.iter().all(|seen| seen.is_ok()), "{what}: {seen:?}");
    }
}

#[test]
fn more_results_than_were_asked_for_are_not_read() {
    let mut host = Mounted::new();
    let things = things(&mut host);
    let more = |answer: &mut Vec<u8>| {
        set(answer, COUNT, u32::MAX);
        answer.extend([0xff; 64]);
    };
    let seen = lie(&mut host, &things, &Act::change(more));
    assert!(seen.iter().all(|seen| seen.is_ok()), "{seen:?}");
}

/// Answer a call as RPC does that is not done: the words behind the transaction number.
const REFUSALS: [(&[u32], Errno); 9] = [
    // The program is not there, or not its version, or not the procedure; it cannot be read; the server is in trouble.
    (&[1, 0, 0, 0, 1], Errno::EIO),
    (&[1, 0, 0, 0, 2, 2, 3], Errno::EIO),
    (&[1, 0, 0, 0, 3], Errno::EIO),
    (&[1, 0, 0, 0, 4], Errno::EIO),
    (&[1, 0, 0, 0, 5], Errno::EIO),
    // Another version of RPC; credentials that are bad, too weak, refused.
    (&[1, 1, 0, 2, 2], Errno::EIO),
    (&[1, 1, 1, 1], Errno::EACCES),
    (&[1, 1, 1, 5], Errno::EACCES),
    (&[1, 1, 1, 2], Errno::EACCES),
];

#[test]
fn a_call_that_rpc_refuses_is_an_error_once() {
    let mut host = Mounted::new();
    let things = things(&mut host);
    for (words, errno) in REFUSALS {
        let seen = lie(&mut host, &things, &Act::Reply(words.to_vec()));
        assert!(
            seen.iter().all(|seen| *seen == Err(errno)),
            "{words:?}: {seen:?}"
        );
    }
    // In trouble after the call was done: its number is used up.
    let trouble = |answer: &mut Vec<u8>| {
        answer.truncate(4);
        for word in [1u32, 0, 0, 0, 5] {
            answer.extend(word.to_be_bytes());
        }
    };
    let seen = lie(&mut host, &things, &Act::change(trouble));
    assert!(seen.iter().all(|seen| *seen == Err(Errno::EIO)), "{seen:?}");
}

#[test]
fn absurd_lengths_are_a_broken_connection() {
    let mut host = hard();
    let things = things(&mut host);
    // The record says that it is longer than anything that was asked for.
    let long = |answer: &mut Vec<u8>| answer.resize(3 << 20, 0);
    let seen = lie(&mut host, &things, &Act::change(long));
    assert!(seen.iter().all(|seen| seen.is_ok()), "{seen:?}");
    // The data of a READ does, or there is more of it than was asked for.
    for count in [u32::MAX, 1 << 30, 8, 100] {
        let change = move |answer: &mut Vec<u8>| set(answer, SECOND + 8 + 12, count);
        host.at(op::READ, 0, 1, Act::change(change));
        assert_eq!(host.read(things.node, things.fh, 0, 7), Err(Errno::EIO));
        assert_eq!(host.read(things.node, things.fh, 0, 7).unwrap(), b"content");
        host.check();
    }
    // A WRITE that took more than there was, or nothing.
    for count in [u32::MAX, 8, 0] {
        let change = move |answer: &mut Vec<u8>| set(answer, SECOND + 8 + 8, count);
        host.at(op::WRITE, 0, 1, Act::change(change));
        let written = host.write(things.node, things.fh, 0, b"content");
        assert_eq!(written, Err(Errno::EIO));
        assert_eq!(attempt(&mut host, &things, op::WRITE), Ok(()));
        host.check();
    }
}

#[test]
fn answers_that_are_changed_as_a_whole_are_survived() {
    const OPERATIONS: [u32; 16] = [
        op::LOOKUP,
        op::GETATTR,
        op::READ,
        op::WRITE,
        op::COMMIT,
        op::OPEN,
        op::CREATE,
        op::LINK,
        op::REMOVE,
        op::RENAME,
        op::SETATTR,
        op::READDIR,
        op::READLINK,
        op::LOCK,
        op::LOCKT,
        op::ALLOCATE,
    ];
    for seed in 1..=3u64 {
        // A hard mount hears of these at once, too.
        let mut host = Mounted::with(|config| {
            config.options.soft = seed % 2 == 0;
            config.options.timeo = 500_000_000;
        });
        let mut random = Random(seed << 32 | 0x9e37_79b9);
        let mut seen = [0; 2];
        for _ in 0..200 {
            let name = format!("f{}", random.below(1000));
            // What is open may be lost, so it is made anew each time; and that may fail.

            let seed = random.below(1 << 30) as u64 + 1;
            host.fake.server().script.mutates = Some((4, Random(seed)));
            let made = host.create(ROOT, &name, O_RDWR, 0o644);
            if let Ok((file, fh)) = made {
                let things = Things {
                    node: file.nodeid,
                    fh,
                    link: file.nodeid,
                    dir: host.opendir(ROOT).unwrap(),
                };
                for _ in 0..4 {
                    let operation = OPERATIONS[random.below(OPERATIONS.len())];
                    let outcome = tried(&mut host, &things, operation);
                    seen[usize::from(outcome.is_err())] += 1;
                }
                host.release(file.nodeid, fh).unwrap();
                host.releasedir(ROOT, things.dir).unwrap();
            }
        }
        assert!(seen[0] > 100 && seen[1] > 50, "{seen:?}");
        assert!(host.fake.server().script.mutated > 300);
        host.fake.server().script.mutates = None;
        host.fake.cut();
        host.idle(700);
        host.file(ROOT, "truth", b"truth");
        let node = host.lookup(ROOT, "truth").unwrap().nodeid;
        let fh = host.open(node, O_RDONLY).unwrap();
        assert_eq!(host.read(node, fh, 0, 9).unwrap(), b"truth");
        assert_eq!(host.bed.unanswered(), 0);
    }
}

/// Do one thing, whatever comes of it.
fn tried(host: &mut Mounted, things: &Things, operation: u32) -> Result<()> {
    match operation {
        // These expect what they need to be there.
        op::COMMIT => {
            host.write(things.node, things.fh, 0, b"content")?;
            host.fsync(things.node, things.fh)
        }
        op::REMOVE => {
            let _ = host.create(ROOT, "gone", O_RDWR, 0o644).map(|(file, fh)| {
                host.release(file.nodeid, fh).unwrap();
            });
            host.unlink(ROOT, "gone")
        }
        _ => attempt(host, things, operation),
    }
}

/// A stream of numbers that looks random (xorshift64).
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn lies_at_every_step_to_a_session_are_survived() {
    let mut host = Mounted::soft();
    let things = things(&mut host);
    let mut state = 0x5eed_5eed_5eed_5eedu64;
    for round in 0..400 {
        let kinds = [
            op::EXCHANGE_ID,
            op::CREATE_SESSION,
            op::RECLAIM_COMPLETE,
            op::SEQUENCE,
        ];
        let mut random = next(&mut state);
        let kind = kinds[next(&mut random) as usize % kinds.len()];
        let change = move |answer: &mut Vec<u8>| {
            let mut random = random;
            let at = (next(&mut random) as usize % answer.len()) & !3;
            match next(&mut random) % 4 {
                0 => answer.truncate(at),
                1 => set(answer, at, next(&mut random) as u32),
                2 => set(answer, at, u32::MAX),
                _ => {
                    let piece = answer[at..].to_vec();
                    answer.extend(piece);
                }
            }
        };
        host.at(kind, 0, 1, Act::change(change));
        if round % 3 == 0 {
            host.fake.server().expire();
        }
        let _ = attempt(&mut host, &things, op::READ);
        let _ = attempt(&mut host, &things, op::LOOKUP);
        host.fake.server().script.clear();
    }
    host.fake.cut();
    host.idle(500);
    host.file(ROOT, "truth", b"truth");
    let node = host.lookup(ROOT, "truth").unwrap().nodeid;
    let fh = host.open(node, O_RDONLY).unwrap();
    assert_eq!(host.read(node, fh, 0, 9).unwrap(), b"truth");
}
