//! The board's capacities, from `board/<name>/board.toml`: the one place where limits are numbers.
//!
//! `DPFS_BOARD=<name>` at build time chooses the board; `generic` without it. A configuration is checked against these
//! limits at start; tables are sized by the configuration, never by the limits.

include!(concat!(env!("OUT_DIR"), "/board.rs"));

// Handles pack a queue's slots into 16 bits (`mem::RequestTable`), a virtqueue has at most 32,768 entries
// (virtio 1.3, 2.7), and both want a power of two.
const _: () = assert!(DEPTH.is_power_of_two() && DEPTH >= 2 && DEPTH <= 1 << 15);
const _: () =
    assert!(DEFAULT_DEPTH.is_power_of_two() && DEFAULT_DEPTH >= 2 && DEFAULT_DEPTH <= DEPTH);
// `num_request_queues` is a le32, but vhost-user counts queues in 8 bits of its kick message, the hiprio queue included.
const _: () = assert!(QUEUES >= 1 && QUEUES <= 254);
const _: () = assert!(DEFAULT_QUEUES >= 1 && DEFAULT_QUEUES <= QUEUES);
// A slot's index over all queues of a device on one core is 32 bits wide.
const _: () = assert!(REQUESTS >= DEPTH * 2 && REQUESTS <= u32::MAX as u64);
// `sched_setaffinity` takes 1024.
const _: () = assert!(CORES >= 1 && CORES <= 1024);
const _: () = assert!(DEVICES >= 1 && DEVICES <= 1024);
// Node and file handles keep a 32-bit index.
const _: () = assert!(NODES >= 16 && NODES < u32::MAX as u64);
const _: () = assert!(DEFAULT_NODES >= 16 && DEFAULT_NODES <= NODES);
const _: () = assert!(OPEN_FILES >= 16 && OPEN_FILES < u32::MAX as u64);
const _: () = assert!(DEFAULT_OPEN_FILES >= 16 && DEFAULT_OPEN_FILES <= OPEN_FILES);
const _: () = assert!(MEMORY >= 64 << 20);
const _: () = assert!(IMAGE_TEXT > 0 && IMAGE_DATA > 0 && IMAGE_BSS > 0);
const _: () = assert!(matches!(
    DEFAULT_POLLING.as_bytes(),
    b"busy" | b"adaptive" | b"sleep"
));
