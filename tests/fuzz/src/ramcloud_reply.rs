//! Any bytes as what a RAMCloud server sends: frame after frame, each read as every answer it might be.

use dpfs::wire::ramcloud::config::{servers, tablets};
use dpfs::wire::ramcloud::multi::{self, Part};
use dpfs::wire::ramcloud::reply::{self, Head, Listed, Object};
use dpfs::wire::ramcloud::{FRAME_MAX, HEAD_LEN, Status, hash, locator};

/// Run one input; give the number of frames that were whole and good.
pub fn run(data: &[u8]) -> usize {
    let (mut rest, mut good) = (data, 0);
    while let Ok(Some(head)) = Head::parse(rest) {
        assert!((4..=FRAME_MAX).contains(&head.len));
        let behind = &rest[HEAD_LEN..];
        let payload = &behind[..head.len.min(behind.len())];
        good += usize::from(payload.len() == head.len && answer(payload));
        rest = &behind[payload.len()..];
    }
    good
}

/// Read a payload; tell whether it is an answer.
fn answer(payload: &[u8]) -> bool {
    let Ok(status) = reply::status(payload) else {
        return false;
    };
    if status == Status::Retry {
        return reply::retry(payload).is_ok();
    }
    let _ = (reply::number(payload), reply::lease(payload));
    if let Ok(object) = Object::parse(payload, payload.len()) {
        assert_eq!(object.len, payload.len() - Object::LEN);
    }
    if let Ok(listed) = Listed::parse(payload, payload.len()) {
        names(&payload[Listed::LEN..][..listed.objects]);
    }
    if let Ok(count) = multi::count(payload) {
        parts(&payload[multi::HEAD_LEN..], count);
    }
    if let Ok(message) = reply::message(payload) {
        for tablet in tablets(message).flatten() {
            assert!(tablet.hashes.0 <= tablet.hashes.1);
            place(tablet.locator);
        }
        servers(message)
            .flatten()
            .for_each(|server| place(server.locator));
    }
    true
}

/// Read parts, whole and as far as they might have come.
fn parts(mut rest: &[u8], count: usize) {
    for _ in 0..count {
        let came = &rest[..rest.len() / 2];
        let early = Part::parse(came, rest.len());
        let Ok(Some(part)) = Part::parse(rest, rest.len()) else {
            return;
        };
        assert!(matches!(early, Ok(None)) || early == Ok(Some(part)));
        assert!(part.len <= rest.len() && part.size <= part.len - multi::PART_LEN);
        rest = &rest[part.len..];
    }
}

fn names(mut objects: &[u8]) {
    while let Ok(size) = reply::size(objects) {
        let behind = &objects[reply::SIZE_LEN..];
        let object = &behind[..size.min(behind.len())];
        if let Ok(key) = reply::key(object) {
            assert!(key.len() <= object.len());
            let _ = hash::key_hash(1, key);
        }
        objects = &behind[object.len()..];
    }
}

fn place(text: &[u8]) {
    if let Some((host, port)) = core::str::from_utf8(text).ok().and_then(locator::tcp) {
        assert!(!host.is_empty() && port != 0);
    }
}
