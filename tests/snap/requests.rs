//! Requests: framing, full-length writes, what is under way at once.

use std::time::Duration;

use dpfs::hal::{Queue, snap};
use dpfs::mem::SegmentList;
use zerocopy::FromZeros;

use crate::bed::{Bed, Orders, STEADY, config, file};
use crate::chain::{echo, exchange, send};
use crate::counting::allocations;
use crate::frontend::{FrontEnd, Guest, eventually};

/// Serve one VF and boot a guest with the hiprio queue and two request queues.
fn one(vf: u32, cores: usize) -> (Bed, Guest, FrontEnd) {
    let bed = Bed::new(vec![config(STEADY, 0, Some(vf))], cores);
    let guest = Guest::new(3);
    let front_end = FrontEnd::boot(bed.functions[0].socket(), &guest);
    (bed, guest, front_end)
}

#[test]
fn requests_of_every_queue_go_round() {
    let (bed, mut guest, _front_end) = one(0, 2);
    for round in 0..200u8 {
        for queue in [1, 2] {
            echo(&mut guest, queue, &[round; 20]);
        }
        let (used, _) = exchange(&mut guest, 0, &[&[round; 56]], &[]);
        assert_eq!(used.written, 0, "FORGET has no reply");
    }
    assert_eq!(bed.functions[0].orders.taken(), 600);
}

#[test]
fn what_a_reply_does_not_fill_is_zero_and_nothing_of_earlier_requests() {
    let (_bed, mut guest, _front_end) = one(1, 2);
    for len in [0, 1, 16, 17, 55, 100] {
        let secret = vec![0x5a; len];
        let (used, reply) = exchange(&mut guest, 1, &[&[0xff; 40], &secret], &[16, 40, 4096]);
        // All of it is sent, and so is all that it holds.
        assert_eq!(used.written, 16 + 40 + 4096);
        let filled = 40 + len;
        assert_eq!(reply[..40], [0; 40]);
        assert!(reply[40..filled].iter().all(|&byte| byte == !0x5a));
        assert!(reply[filled..].iter().all(|&byte| byte == 0), "{len}");
    }
}

#[test]
fn chains_that_break_the_rules_never_arrive() {
    let (bed, mut guest, _front_end) = one(2, 2);
    let einval = [0, 0, 0, 0, 0xea, 0xff, 0xff, 0xff];
    for (readable, writable) in [
        // The first writable descriptor is not a reply's header.
        (&[[0u8; 40].as_slice()][..], &[64usize][..]),
        (&[&[0; 40]], &[15, 100]),
        (&[&[0; 40]], &[17]),
        // A header that is too long.
        (&[&[0; 65]], &[16]),
    ] {
        let (used, reply) = exchange(&mut guest, 1, readable, writable);
        let room = reply.len();
        assert_eq!(
            used.written,
            if room < 16 || writable[0] < 16 {
                used.written
            } else {
                16
            }
        );
        if writable[0] >= 16 {
            assert_eq!(reply[..8], einval, "{writable:?}");
        }
        assert!(!reply.contains(&0xa5), "{writable:?}");
    }
    let (used, _) = exchange(&mut guest, 1, &[&[0; 40]], &[]);
    assert_eq!(used.written, 0);
    let (_, reply) = exchange(&mut guest, 0, &[&[0; 40]], &[16]);
    assert_eq!(reply[..8], einval, "the hiprio queue has no replies");
    assert_eq!(bed.functions[0].orders.taken(), 0);
    echo(&mut guest, 1, b"the rest is not harmed");
}

#[test]
fn a_request_that_takes_long_does_not_stop_other_functions_of_its_core() {
    let configs = vec![config(STEADY, 0, Some(3)), config(STEADY, 0, Some(4))];
    // One core for everything.
    let bed = Bed::new(configs, 1);
    let mut guests = [Guest::new(3), Guest::new(3)];
    let front_ends: Vec<_> = bed
        .functions
        .iter()
        .zip(&guests)
        .map(|(function, guest)| FrontEnd::boot(function.socket(), guest))
        .collect();
    let (slow, quick) = (bed.functions[0].orders, bed.functions[1].orders);
    slow.hold(true);
    let chains: Vec<_> = (0..4)
        .map(|slot| send(&mut guests[0], 1, slot, &[&[slot as u8; 40]], &[16, 100]))
        .collect();
    eventually("the first is taken", || slow.taken() > 0);
    for round in 0..50 {
        echo(&mut guests[1], 1 + round % 2, &[round as u8; 9]);
    }
    assert_eq!(quick.taken(), 50);
    // All of a queue's requests with later ends, otherwise one.
    let under_way = if snap::completes_later() { 4 } else { 1 };
    eventually("those that can are taken", || slow.taken() == under_way);
    assert_eq!(guests[0].drivers[1].reap(), None);
    slow.hold(false);
    for sent in &chains {
        let used = guests[0].reap(1);
        assert_eq!((used.head, used.written), (sent.head, 116));
    }
    for (number, sent) in chains.iter().enumerate() {
        assert_eq!(sent.read(&guests[0])[..40], [!(number as u8); 40]);
    }
    drop(front_ends);
}

#[test]
fn a_full_queue_is_served_to_the_end() {
    let (bed, mut guest, _front_end) = one(5, 2);
    bed.functions[0].orders.hold(true);
    // As many chains as the ring has room for, three descriptors each.
    let chains: Vec<_> = (0..20)
        .map(|slot| send(&mut guest, 2, slot, &[&[slot as u8; 40]], &[16, 30]))
        .collect();
    std::thread::sleep(Duration::from_millis(20));
    bed.functions[0].orders.hold(false);
    for _ in &chains {
        assert_eq!(guest.reap(2).written, 46);
    }
    for (number, sent) in chains.iter().enumerate() {
        assert_eq!(sent.read(&guest)[..40], [!(number as u8); 40]);
    }
}

/// This thread is host and core in turn.
#[test]
fn nothing_is_allocated_once_a_function_is_served() {
    let counted = allocations(|| drop(std::hint::black_box(Box::new(1))));
    assert_eq!(counted, 1, "allocations are counted");
    let orders: &'static Orders = Box::leak(Box::default());
    let (mut queues, mut control) = snap::open(config(STEADY, 0, Some(11)), orders).unwrap();
    control.start().unwrap();
    let socket = file("mlx5_0-pf0vf11.sock");
    let mut list = Box::new(SegmentList::new_zeroed());
    let mut served = 0;
    let mut round = |queues: &mut Vec<snap::SnapQueue>| {
        for queue in queues {
            list.clear();
            while let Some(token) = queue.poll(&mut list) {
                list.write_at(0, &[1; 16]).unwrap();
                queue.complete(token, 16);
                served += 1;
                list.clear();
            }
            queue.flush();
        }
        served
    };
    // The front-end waits for the cores, so it is another thread's.
    let booted = std::thread::spawn(move || {
        let guest = Guest::new(3);
        let front_end = FrontEnd::boot(&socket, &guest);
        (guest, front_end)
    });
    while !booted.is_finished() {
        round(&mut queues);
    }
    let (mut guest, front_end) = booted.join().unwrap();
    for wanted in 1..=200 {
        let sent = send(&mut guest, 1, 0, &[&[2; 40]], &[16, 200]);
        let made = allocations(|| while round(&mut queues) < wanted {});
        assert_eq!(made, 0, "request {wanted}");
        while guest.drivers[1].reap().is_none() {
            round(&mut queues);
        }
        assert_eq!(
            sent.read(&guest)[..17],
            [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]
        );
    }
    drop(front_end);
    let stopped = std::thread::spawn(move || control.stop());
    while !stopped.is_finished() {
        round(&mut queues);
    }
    stopped.join().unwrap();
}
