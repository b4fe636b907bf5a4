//! Entry for fuzzing: any sequence of messages against a device.

use std::sync::Arc;
use std::vec::Vec;

use zerocopy::FromBytes;

use super::connection::Message;
use super::device::{Device, Reply};
use super::queues::Queues;
use crate::hal::Events;
use crate::hal::ring::{Mailbox, RingQueue};
use crate::sys::memfd;
use crate::wire::vhost_user::{Header, MAX_PAYLOAD};
use crate::wire::virtio_fs;

struct Nobody;

impl Events for Nobody {
    fn reset(&self) {}
}

/// Take `input` for what a front-end sends: one message after the other, each begun by a byte that says how many
/// descriptors come along (0 to 3, of a file of 64 KiB).
///
/// The queues have no cores: they answer every command at once.
///
/// # Panics
/// Never, that is the point; and a reply is never longer than the longest payload.
pub fn messages(mut input: &[u8]) {
    let mailboxes: Vec<_> = (0..3)
        .filter_map(|_| Mailbox::new().ok().map(Arc::new))
        .collect();
    for mailbox in &mailboxes {
        drop(RingQueue::controlled(Arc::clone(mailbox), 0));
    }
    let (Ok(queues), Some(config)) = (Queues::new(mailboxes), virtio_fs::Config::new("f", 2))
    else {
        return;
    };
    let Ok(file) = memfd::create(c"dpfs-fuzz", 65536) else {
        return;
    };
    let mut device = Device::new("f", config, true, queues, &Nobody);
    while let Some((&count, rest)) = input.split_first() {
        let Ok((header, rest)) = Header::read_from_prefix(rest) else {
            break;
        };
        if header.check().is_err() {
            break;
        }
        let size = (header.size as usize).min(rest.len());
        let mut message = Message {
            header: Header {
                size: size as u32,
                ..header
            },
            payload: [0; MAX_PAYLOAD],
            fds: Vec::new(),
        };
        message.payload[..size].copy_from_slice(&rest[..size]);
        let fds = (0..count % 4).map_while(|_| file.duplicate().ok());
        message.fds.extend(fds);
        input = &rest[size..];
        match device.handle(&mut message) {
            Ok(Reply::Payload(payload) | Reply::WithFd(payload, _)) => {
                assert!(payload.len() <= MAX_PAYLOAD);
            }
            Ok(Reply::None) | Err(_) => {}
        }
    }
    device.disconnected();
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn a_session_is_understood_and_garbage_is_survived() {
        let mut input = Vec::new();
        for (request, words, fds) in [
            (16u32, &[0x1_f229_u64][..], 0),
            (2, &[1 << 30 | 1 << 32], 0),
            (5, &[1, 0, 65536, 0x1000, 0], 1),
            (8, &[16 << 32], 0),
            (9, &[0, 0x1000, 0x3000, 0x2000, 0], 0),
            (12, &[0], 1),
            (18, &[1 << 32], 0),
            (32, &[8192, 0, 16 << 16 | 1], 1),
            (11, &[0], 0),
            (34, &[], 0),
        ] {
            let payload: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            input.push(fds);
            input.extend(Header::request(request, payload.len() as u32, false).as_bytes());
            input.extend(payload);
        }
        for cut in 0..input.len() {
            messages(&input[..cut]);
        }
        messages(&[0xff; 100]);
    }
}
