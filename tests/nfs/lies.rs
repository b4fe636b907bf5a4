//! A server that lies: answers changed on their way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::host::*;
use crate::server::Manner;

/// A stream of numbers that looks random (xorshift64).
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Do a little of everything; what comes out does not matter.
fn everything(host: &mut Host, round: u64) {
    let name = format!("f{round}");
    let made = host.create(ROOT, &name, O_RDWR, 0o644);
    if let Ok((file, fh)) = made {
        let _ = host.write(file.nodeid, fh, 0, &[1; 5000]);
        let _ = host.read(file.nodeid, fh, 0, 5000);
        let _ = host.setattr(file.nodeid, &size_change(100, Some(fh)));
        let _ = host.unlink(ROOT, &name);
        let _ = host.release(file.nodeid, fh);
    }
    let _ = host.symlink(ROOT, &format!("s{round}"), "target");
    if let Ok(link) = host.lookup(ROOT, &format!("s{round}")) {
        let _ = host.readlink(link.nodeid);
    }
    if let Ok(fh) = host.opendir(ROOT) {
        let _ = host.readdir(ROOT, fh, 0, 4096, round.is_multiple_of(2));
        let _ = host.releasedir(ROOT, fh);
    }
    let _ = host.statfs(ROOT);
    let _ = host.rename((ROOT, &format!("s{round}")), (ROOT, "s"), 0);
}

#[test]
fn changed_answers_are_errors_and_the_truth_is_believed_again() {
    let mut host = Host::with(Manner::default(), |config| {
        config.options.soft = true;
        config.options.timeo = 200_000_000;
        config.options.retrans = 1;
    });
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let changed = Arc::new(AtomicU64::new(0));
    for round in 0..150 {
        let mut random = next(&mut state);
        let count = Arc::clone(&changed);
        host.relay.change(Some(Box::new(move |record| {
            // One word in a third of the answers, the mark of the record included, becomes something else.
            if !next(&mut random).is_multiple_of(3) {
                return;
            }
            count.fetch_add(1, Ordering::SeqCst);
            let at = (next(&mut random) as usize % record.len()) & !3;
            let word = match next(&mut random) % 4 {
                0 => 0,
                1 => u32::MAX,
                2 => next(&mut random) as u32,
                _ => {
                    u32::from_be_bytes(record[at..at + 4].try_into().unwrap())
                        ^ 1 << (next(&mut random) % 32)
                }
            };
            record[at..at + 4].copy_from_slice(&word.to_be_bytes());
        })));
        everything(&mut host, round);
    }
    assert!(changed.load(Ordering::SeqCst) > 300);
    host.relay.change(None);
    host.relay.cut();
    // What was changed may still be under way.
    host.idle(1000);
    host.file(ROOT, "truth", b"truth");
    let file = host.lookup(ROOT, "truth").unwrap();
    let fh = host.open(file.nodeid, O_RDONLY).unwrap();
    assert_eq!(host.read(file.nodeid, fh, 0, 100).unwrap(), b"truth");
}

#[test]
fn answers_that_end_early_are_errors() {
    let mut host = Host::with(Manner::default(), |config| {
        config.options.soft = true;
        config.options.timeo = 200_000_000;
        config.options.retrans = 1;
    });
    for kept in (4..400).step_by(4) {
        host.relay.change(Some(Box::new(move |record| {
            let len = record.len().min(4 + kept);
            record.truncate(len);
            record[..4].copy_from_slice(&(0x8000_0000 | (len as u32 - 4)).to_be_bytes());
        })));
        let ended = host.lookup(ROOT, "nothing");
        assert!(ended.is_err());
        let _ = host.statfs(ROOT);
    }
    host.relay.change(None);
    host.file(ROOT, "truth", b"truth");
}
