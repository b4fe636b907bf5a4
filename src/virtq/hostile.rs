//! Random queues against the device, and two threads against a lost wake-up.

use core::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use std::vec::Vec;

use super::driver::{Buffer, Driver};
use super::layout::Descriptor;
use super::testing::Guest;
use super::*;
use crate::mem::SegmentList;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases: if cfg!(miri) { 2 } else { cases },
        // Miri isolates the program from the file system.
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// A descriptor that is often nearly right: offsets around the memory's ends, small lengths, every flag.
fn descriptor() -> impl Strategy<Value = Descriptor> {
    let address = prop_oneof![
        8 => 0x4000_0000_u64..0x4001_0010,
        1 => any::<u64>(),
        1 => 0x3fff_fff0_u64..0x4000_0010,
    ];
    let len = prop_oneof![
        4 => 0u32..64,
        2 => (0u32..64).prop_map(|count| count * 16),
        1 => any::<u32>(),
        1 => 0u32..0x1_0000,
    ];
    let flags = prop_oneof![
        6 => 0u16..4,
        2 => 0u16..8,
        1 => any::<u16>(),
    ];
    let next = prop_oneof![8 => 0u16..16, 1 => any::<u16>()];
    (address, len, flags, next).prop_map(|(address, len, flags, next)| Descriptor {
        address,
        len,
        flags,
        next,
    })
}

proptest! {
    #![proptest_config(config(2000))]

    /// Whatever lies in the rings and in the tables they point to, segments lie inside the memory, each call ends, and
    /// the queue gives no more chains than were claimed.
    #[test]
    fn no_content_of_the_rings_leads_outside(
        event_idx in any::<bool>(),
        table in prop::collection::vec(descriptor(), 16),
        inner in prop::collection::vec((0u64..0xc000, descriptor()), 0..32),
        heads in prop::collection::vec(prop_oneof![16 => 0u16..16, 1 => any::<u16>()], 0..16),
        jump in prop_oneof![8 => 0u16..17, 1 => any::<u16>()],
    ) {
        let features = F_INDIRECT_DESC | if event_idx { F_EVENT_IDX } else { 0 };
        let mut guest = Guest::new(16, features);
        for (index, &descriptor) in table.iter().enumerate() {
            guest.rings.store_desc(index as u16, descriptor);
        }
        let data = guest.data();
        for (offset, descriptor) in inner {
            guest.store_bytes(data + offset, descriptor);
        }
        for &head in &heads {
            guest.offer(head);
        }
        guest.rings.avail_idx().store(jump, Ordering::Release);
        let mut taken = 0;
        loop {
            let mut list = guest.list();
            match guest.device.take(&guest.map, &mut list) {
                Taken::Chain(head) | Taken::Bad(head, _) => {
                    prop_assert!(head < 16);
                    guest.assert_inside(&list);
                    guest.device.put(head, 0);
                    guest.device.flush();
                    taken += 1;
                    prop_assert!(taken <= jump.min(16));
                }
                Taken::Empty => {
                    prop_assert_eq!(taken, jump);
                    break;
                }
                Taken::Broken(_) => {
                    prop_assert!(jump > 16 || heads.iter().any(|&head| head >= 16));
                    break;
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(config(1000))]

    /// A chain as drivers make it is taken on a short way. Whatever one takes, the way that checks every rule takes, too,
    /// and finds the same buffers.
    #[test]
    fn the_short_ways_agree_with_the_one_that_checks_every_rule(
        direct in any::<bool>(),
        (reads, writes) in (0usize..5, 0usize..5).prop_filter("a chain", |(r, w)| r + w > 0),
        lens in prop::collection::vec(prop_oneof![9 => 1u32..64, 1 => Just(0)], 8),
        spoiled in prop::option::of((0usize..8, descriptor())),
    ) {
        const HEAD: u16 = 3;
        let mut guest = Guest::new(16, F_INDIRECT_DESC);
        let (table, count) = (guest.data(), reads + writes);
        let first = if direct { HEAD } else { 0 };
        for (at, &len) in lens.iter().enumerate().take(count) {
            let more = u16::from(at + 1 < count);
            let mut descriptor = Descriptor {
                address: table + 0x1000 + at as u64 * 64,
                len,
                flags: more | if at < reads { 0 } else { 2 },
                next: first + at as u16 + 1,
            };
            if let Some((place, other)) = spoiled && place == at {
                descriptor = other;
            }
            if direct {
                guest.rings.store_desc(HEAD + at as u16, descriptor);
            } else {
                guest.store(table + at as u64 * 16, descriptor);
            }
        }
        if !direct {
            guest.rings.store_desc(HEAD, Descriptor {
                address: table,
                len: count as u32 * 16,
                flags: 4,
                next: 0,
            });
        }
        let mut cache = RegionCache::default();
        prop_assert!(cache.place(&guest.map, table, 1).is_some());
        let mut short = guest.list();
        let taken = if direct {
            chain::walk_direct(&guest.rings, HEAD, &cache, &mut short)
        } else {
            chain::walk_indirect(&guest.rings, HEAD, true, &cache, &mut short)
        };
        if taken.is_some() {
            guest.assert_inside(&short);
            let mut long = guest.list();
            let checked =
                chain::walk_any(&guest.rings, HEAD, true, &guest.map, &mut cache, &mut long);
            prop_assert_eq!(checked, Ok(()));
            let buffers = |list: &SegmentList| {
                let both = [list.readable(), list.writable()];
                both.map(|side| {
                    let places = side.iter().map(|segment| (segment.base(), segment.len()));
                    places.collect::<Vec<_>>()
                })
            };
            prop_assert_eq!(buffers(&short), buffers(&long));
            prop_assert_eq!(short.readable_len(), long.readable_len());
            prop_assert_eq!(short.writable_len(), long.writable_len());
        } else {
            let hit = spoiled.is_some_and(|(place, _)| place < count);
            prop_assert!(hit || lens[..count].contains(&0));
        }
    }
}

/// A bell that rings once for each time somebody waits, like an eventfd.
struct Bell(AtomicU32);

impl Bell {
    fn ring(&self) {
        self.0.store(1, Ordering::SeqCst);
    }

    fn wait(&self) {
        let mut spins = 0u64;
        while self.0.swap(0, Ordering::SeqCst) == 0 {
            std::thread::yield_now();
            spins += 1;
            assert!(spins < 50_000_000, "a wake-up was lost");
        }
    }
}

/// Each of two threads sleeps as soon as it may. A lost wake-up would stop both for ever.
#[test]
fn two_threads_that_sleep_whenever_they_may_never_wait_for_each_other() {
    let rounds = if cfg!(miri) { 60 } else { 30_000u32 };
    for features in [0, F_EVENT_IDX] {
        let mut guest = Guest::new(4, features);
        let address = guest.data();
        let mut driver = Driver::new(guest.rings, features, None).unwrap();
        let (kick, call) = (Bell(AtomicU32::new(0)), Bell(AtomicU32::new(0)));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let chain = [Buffer {
                    address,
                    len: 8,
                    writable: false,
                }];
                let (mut sent, mut back) = (0, 0);
                while back < rounds {
                    while sent < rounds && driver.add(&chain).is_some() {
                        sent += 1;
                        if sent % 3 == 0 && driver.publish() {
                            kick.ring();
                        }
                    }
                    if driver.publish() {
                        kick.ring();
                    }
                    while driver.reap().is_some() {
                        back += 1;
                    }
                    let full = driver.available() == 0 || sent == rounds;
                    if back < rounds && full && driver.arm() {
                        call.wait();
                        driver.disarm();
                    }
                }
            });
            let mut done = 0;
            while done < rounds {
                let mut list = guest.list();
                while let Taken::Chain(head) = guest.device.take(&guest.map, &mut list) {
                    list.clear();
                    guest.device.put(head, 0);
                    done += 1;
                }
                if guest.device.flush() {
                    call.ring();
                }
                if done < rounds && guest.device.arm() {
                    kick.wait();
                    guest.device.disarm();
                }
            }
        });
    }
}
