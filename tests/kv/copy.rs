//! COPY_FILE_RANGE: bytes and holes, ranges that are refused, and what comes in between.

use dpfs::wire::errno::Errno;

use crate::host::{Host, ROOT};

const CHUNK: u64 = 4096;
const DATA: u32 = 3;
const HOLE: u32 = 4;
const PUNCH: u32 = 3;

/// Make a file with this content.
fn file(host: &mut Host, name: &str, content: &[u8]) -> u64 {
    let node = host.create(ROOT, name).unwrap().nodeid;
    for (at, piece) in (0u64..).zip(content.chunks(1 << 16)) {
        host.write(node, at << 16, piece, (0, 0)).unwrap();
    }
    node
}

fn whole(host: &mut Host, node: u64) -> Vec<u8> {
    let size = host.getattr(node).unwrap().size;
    let mut all = Vec::new();
    while (all.len() as u64) < size {
        all.extend(host.read(node, all.len() as u64, 1 << 16).unwrap());
    }
    all
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|at| ((at * 7 + seed) % 251) as u8 + 1)
        .collect()
}

/// Say what a copy does to the content of two files.
fn model(source: &[u8], from: usize, target: &mut Vec<u8>, to: usize, len: usize) -> usize {
    let len = len.min(source.len().saturating_sub(from));
    if len > 0 {
        target.resize(target.len().max(to + len), 0);
        target[to..to + len].copy_from_slice(&source[from..from + len]);
    }
    len
}

#[test]
fn a_copy_has_the_same_bytes_wherever_chunks_begin() {
    let mut host = Host::new();
    let mut random = 1u64;
    let mut next = |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) as usize % below
    };
    let mut models = [pattern(30_000, 1), pattern(9_000, 2)];
    let nodes = [
        file(&mut host, "a", &models[0]),
        file(&mut host, "b", &models[1]),
    ];
    for step in 0..400 {
        let which = next(2);
        let (mut at, mut to) = (next(34_000), next(34_000));
        if next(3) == 0 {
            (at, to) = (at & !4095, to & !4095);
        }
        let len = 1 + next(14_000);
        match next(8) {
            0 => {
                let bytes = pattern(len, step);
                host.write(nodes[which], at as u64, &bytes, (0, 0)).unwrap();
                model(&bytes, 0, &mut models[which], at, len);
            }
            1 => {
                host.truncate(nodes[which], at as u64).unwrap();
                models[which].resize(at, 0);
            }
            2 => {
                host.fallocate(nodes[which], at as u64, len as u64, PUNCH)
                    .unwrap();
                let end = (at + len).min(models[which].len());
                models[which].get_mut(at..end).unwrap_or_default().fill(0);
            }
            kind => {
                let other = if kind == 3 { which } else { 1 - which };
                let source = models[which].clone();
                let places = ((nodes[which], at as u64), (nodes[other], to as u64));
                let found = host.copy(places.0, places.1, len as u64);
                let count = len.min(source.len().saturating_sub(at));
                if which == other && at.abs_diff(to) < count {
                    assert_eq!(found, Err(Errno::EINVAL), "step {step}");
                } else {
                    assert_eq!(found, Ok(count as u32), "step {step}");
                    model(&source, at, &mut models[other], to, len);
                }
            }
        }
        for (node, model) in nodes.iter().zip(&models) {
            assert!(whole(&mut host, *node) == *model, "step {step}");
        }
    }
}

#[test]
fn holes_stay_holes_and_take_what_was_there() {
    let mut host = Host::new();
    let source = file(&mut host, "source", &pattern(4096, 1));
    host.truncate(source, 6 * CHUNK).unwrap();
    host.write(source, 4 * CHUNK, &pattern(4096, 2), (0, 0))
        .unwrap();
    let target = file(&mut host, "target", &pattern(6 * 4096, 3));
    assert_eq!(
        host.copy((source, 0), (target, 0), 6 * CHUNK),
        Ok(6 * CHUNK as u32)
    );
    assert_eq!(host.lseek(target, 0, HOLE), Ok(CHUNK));
    assert_eq!(host.lseek(target, CHUNK, DATA), Ok(4 * CHUNK));
    assert_eq!(host.lseek(target, 4 * CHUNK, HOLE), Ok(5 * CHUNK));
    assert!(whole(&mut host, target) == whole(&mut host, source));
    // Into nothing: only a size comes of it.
    let empty = file(&mut host, "empty", b"");
    assert_eq!(
        host.copy((source, CHUNK), (empty, 10), 3 * CHUNK),
        Ok(3 * CHUNK as u32)
    );
    assert_eq!(host.getattr(empty).unwrap().size, 3 * CHUNK + 10);
    assert_eq!(host.lseek(empty, 0, DATA), Err(Errno::ENXIO));
}

#[test]
fn what_linux_refuses_is_refused() {
    let mut host = Host::new();
    let node = file(&mut host, "file", &pattern(10_000, 1));
    let dir = host.mkdir(ROOT, "dir").unwrap().nodeid;
    assert_eq!(host.copy((node, 0), (node, 99), 100), Err(Errno::EINVAL));
    assert_eq!(host.copy((node, 99), (node, 0), 100), Err(Errno::EINVAL));
    assert_eq!(host.copy((node, 0), (node, 0), 1), Err(Errno::EINVAL));
    assert_eq!(host.copy((node, 0), (node, 100), 100), Ok(100));
    // Only what is there counts: the last 10 bytes do not reach where they go.
    assert_eq!(host.copy((node, 9990), (node, 10_000), 5000), Ok(10));
    assert_eq!(host.copy((node, 10_010), (node, 0), 5000), Ok(0));
    assert_eq!(host.copy((dir, 0), (node, 0), 1), Err(Errno::EISDIR));
    assert_eq!(host.copy((node, 0), (dir, 0), 1), Err(Errno::EISDIR));
    let far = CHUNK * u64::from(u32::MAX);
    assert_eq!(host.copy((node, 0), (node, far - 5), 10), Err(Errno::EFBIG));
    assert_eq!(
        host.copy((node, 0), (node, u64::MAX - 5), 10),
        Err(Errno::EFBIG)
    );
    let before = whole(&mut host, node);
    assert_eq!(before.len(), 10_010);
}

#[test]
fn a_long_copy_goes_piece_by_piece_and_says_how_far_it_came() {
    let mut host = Host::new();
    let content = pattern(3 << 20, 5);
    let source = file(&mut host, "source", &content);
    let target = file(&mut host, "target", b"");
    let before = host.faults.taken.get();
    assert_eq!(
        host.copy((source, 1), (target, 2), 1 << 30),
        Ok((3 << 20) - 1)
    );
    assert_eq!(host.faults.taken.get() - before, 1 + 3);
    let copied = whole(&mut host, target);
    assert!(copied[..2] == [0, 0] && copied[2..] == content[1..]);
    // An engine that fails in the middle: what is done counts, and what is not is an error.
    host.truncate(target, 0).unwrap();
    host.faults.full_after.set(Some(2));
    assert_eq!(host.copy((source, 0), (target, 0), 1 << 30), Ok(2 << 20));
    assert_eq!(
        host.copy((source, 2 << 20), (target, 2 << 20), 9),
        Err(Errno::ENOSPC)
    );
    host.faults.full_after.set(None);
    assert!(whole(&mut host, target) == content[..2 << 20]);
    // One that refuses every other request copies, too.
    host.faults.stubborn.set(true);
    assert_eq!(host.copy((source, 0), (target, 0), 1 << 30), Ok(3 << 20));
    assert!(whole(&mut host, target) == content);
}

#[test]
fn a_copy_ends_capabilities_and_clears_what_a_cut_left() {
    let mut host = Host::new();
    let source = file(&mut host, "source", &pattern(100, 1));
    let target = file(&mut host, "target", &pattern(50_000, 2));
    host.setxattr(target, "security.capability", b"caps")
        .unwrap();
    // Death in the middle of a cut leaves the mark, and what was behind the end.
    host.faults.left.set(Some(1));
    assert_eq!(host.truncate(target, 10), Err(Errno::ECANCELED));
    host.faults.left.set(None);
    assert_eq!(host.copy((source, 0), (target, 20_000), 100), Ok(100));
    let mut model = pattern(50_000, 2);
    model.truncate(10);
    model.resize(20_000, 0);
    model.extend(pattern(100, 1));
    assert!(whole(&mut host, target) == model);
    assert_eq!(
        host.getxattr(target, "security.capability"),
        Err(Errno::ENODATA)
    );
}
