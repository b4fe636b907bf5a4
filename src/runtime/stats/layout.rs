//! The file's layout: 64-bit words in this machine's order (always little-endian).
//!
//! ```text
//! header      one page: what this is, how large the parts are
//! devices     32 words each: tag, HAL, backend, capacities
//! cores       one word each: its number
//! shares      for each device, for each core, from a page of its own:
//!               gauges      64 words
//!               operations  for each opcode: histogram, then the four counters below
//! ```

use super::histogram::BUCKETS;
use crate::wire::fuse::OPCODE_COUNT;

/// First word: `DPFSSTAT`.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"DPFSSTAT");

/// Second word; changes with every change of this file.
pub(super) const VERSION: u64 = 1;

/// Words of a page, the unit in which parts are aligned.
const PAGE: usize = 4096 / 8;

/// Positions in the header.
#[derive(Clone, Copy)]
#[repr(usize)]
pub(super) enum Header {
    Magic,
    Version,
    Pid,
    /// Nanoseconds since 1970-01-01 UTC.
    Started,
    /// Cycles per second of the latencies.
    CycleRate,
    /// [`ENDED`] once the daemon ended in order.
    Ended,
    Devices,
    Cores,
    /// Words of one operation and of one share: they follow from the version and are checked all the same.
    OperationWords,
    ShareWords,
}

/// What [`Header::Ended`] holds after an orderly end.
pub(super) const ENDED: u64 = 1;

/// Words of the header.
pub(super) const HEADER_WORDS: usize = PAGE;

/// Words of a device's description: tag 5, HAL 2, backend 2, queues, depth, nodes, open files.
pub(super) const DEVICE_WORDS: usize = 32;
pub(super) const TAG_WORDS: usize = 5;
pub(super) const KIND_WORDS: usize = 2;

/// Words of a share's gauges.
pub(super) const GAUGE_WORDS: usize = 64;

/// Counters of an operation, behind its histogram.
pub(super) const ERRORS: usize = BUCKETS;
pub(super) const BYTES_IN: usize = BUCKETS + 1;
pub(super) const BYTES_OUT: usize = BUCKETS + 2;
pub(super) const MAX: usize = BUCKETS + 3;

/// Words of an operation, in whole cache lines.
pub(super) const OPERATION_WORDS: usize = (BUCKETS + 4).next_multiple_of(8);

/// Operations of a share. Number zero, which FUSE does not use, stands for all that are unknown.
pub(super) const OPERATIONS: usize = OPCODE_COUNT;

/// Words of a share, in whole pages, so that no two cores write to one.
pub(super) const SHARE_WORDS: usize =
    (GAUGE_WORDS + OPERATIONS * OPERATION_WORDS).next_multiple_of(PAGE);

const _: () = assert!(TAG_WORDS * 8 >= crate::wire::virtio_fs::TAG_LEN);
const _: () = assert!(GAUGE_WORDS.is_multiple_of(8) && Gauge::ALL.len() <= GAUGE_WORDS);

/// Give the first word of the cores' numbers.
pub(super) const fn cores_at(devices: usize) -> usize {
    HEADER_WORDS + devices * DEVICE_WORDS
}

/// Give the first word of a share.
pub(super) const fn share_at(devices: usize, cores: usize, device: usize, core: usize) -> usize {
    let first = (cores_at(devices) + cores).next_multiple_of(PAGE);
    first + (device * cores + core) * SHARE_WORDS
}

/// Give the number of words of a file.
pub(super) const fn total(devices: usize, cores: usize) -> usize {
    share_at(devices, cores, devices, 0)
}

/// Name a value that goes up and down, or is counted elsewhere and copied here.
///
/// A gauge of the whole device is stored by one of its cores; readers add up the cores'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Gauge {
    /// Files and directories that the host holds.
    Nodes,
    /// Files and directories that the host has open.
    OpenFiles,
    /// Requests in flight.
    InFlight,
    /// Replies that were dropped unanswered: each is a bug.
    Unanswered,
    /// Descriptor chains that broke the rules.
    Malformed,
}

impl Gauge {
    /// List the gauges in the order of their places.
    pub const ALL: [Self; 5] = [
        Self::Nodes,
        Self::OpenFiles,
        Self::InFlight,
        Self::Unanswered,
        Self::Malformed,
    ];

    /// Give the name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::OpenFiles => "open_files",
            Self::InFlight => "in_flight",
            Self::Unanswered => "unanswered",
            Self::Malformed => "malformed",
        }
    }
}

/// Describe a device to a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Tag, at most 36 bytes.
    pub tag: std::string::String,
    /// Kind of HAL, at most 16 bytes.
    pub hal: std::string::String,
    /// Kind of backend, at most 16 bytes.
    pub backend: std::string::String,
    /// Request queues.
    pub queues: u64,
    /// Requests in flight on one queue, at most.
    pub depth: u64,
    /// Nodes, at most.
    pub nodes: u64,
    /// Open files, at most.
    pub open_files: u64,
}
