//! Chains of descriptors as a guest's driver makes them, and what comes back.

use dpfs::virtq::driver::{Buffer, Used};

use crate::frontend::{DATA, GUEST, Guest};

/// Room for one chain, beside those of others.
const SLOT: u64 = 0x2000;

/// A chain that was sent.
pub struct Sent {
    pub head: u16,
    writable: Vec<(u64, usize)>,
}

/// Send a chain: each readable descriptor with its bytes, each writable one with its length and `fill` in it. `slot`
/// says where in memory, so that chains that are under way at once have their own.
pub fn send(
    guest: &mut Guest,
    queue: usize,
    slot: u64,
    readable: &[&[u8]],
    writable: &[usize],
) -> Sent {
    let mut at = DATA + slot * SLOT;
    let mut buffers = Vec::new();
    let mut place = |len: usize, writable: bool| {
        let address = at;
        // Apart from each other, as pages would be.
        at += len as u64 + 8;
        assert!(at <= DATA + (slot + 1) * SLOT);
        buffers.push(Buffer {
            address: GUEST + address,
            len: len as u32,
            writable,
        });
        address
    };
    for bytes in readable {
        let address = place(bytes.len(), false);
        guest.write(address, bytes);
    }
    let writable: Vec<(u64, usize)> = writable
        .iter()
        .map(|&len| (place(len, true), len))
        .collect();
    for &(address, len) in &writable {
        guest.write(address, &vec![0x77; len]);
    }
    let head = guest.drivers[queue].add(&buffers).unwrap();
    if guest.drivers[queue].publish() {
        guest.kicks[queue].notify();
    }
    Sent { head, writable }
}

impl Sent {
    /// Give what the device wrote, or left.
    pub fn read(&self, guest: &Guest) -> Vec<u8> {
        let parts = self
            .writable
            .iter()
            .map(|&(address, len)| guest.read(address, len));
        parts.collect::<Vec<_>>().concat()
    }
}

/// Send a chain and wait for it; give the used entry and what the device wrote.
pub fn exchange(
    guest: &mut Guest,
    queue: usize,
    readable: &[&[u8]],
    writable: &[usize],
) -> (Used, Vec<u8>) {
    let sent = send(guest, queue, queue as u64, readable, writable);
    let used = guest.reap(queue);
    assert_eq!(used.head, sent.head);
    (used, sent.read(guest))
}

/// See that a request comes back inverted.
pub fn echo(guest: &mut Guest, queue: usize, text: &[u8]) {
    let header = [queue as u8; 40];
    let (used, reply) = exchange(guest, queue, &[&header, text], &[16, 128]);
    assert_eq!(used.written, 144);
    let sent = [header.as_slice(), text].concat();
    let inverted: Vec<u8> = sent.iter().map(|byte| !byte).collect();
    assert_eq!(reply[..sent.len()], inverted);
}
