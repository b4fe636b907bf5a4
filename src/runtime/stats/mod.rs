//! Statistics: what each device did on each core, by operation, with latencies.
//!
//! ```text
//! core ──record()──> plain stores ──> <dir>/stats, a shared mapping <──reads── dpfs stats
//! ```
//!
//! The counters *are* the file. A core writes its own part and nobody else does, so counting takes no locked
//! instruction and shares no cache line; a reader needs no cooperation of the daemon, and what was counted outlives a
//! crash. A reader sees each counter whole, but not all of one instant.

mod histogram;
mod layout;
mod reader;
mod recorder;
#[cfg(feature = "daemon")]
mod show;

pub use histogram::{BUCKETS, Histogram};
pub use layout::{Description, Gauge};
pub use reader::{CoreStats, DeviceStats, OperationStats, ReadError, Snapshot, State};
pub use recorder::{Counters, CreateError, Stats};
#[cfg(feature = "daemon")]
pub use show::{json, table};

/// Name of the file in the daemon's folder.
pub const FILE: &str = "stats";

/// Give the bytes of the file of this many devices and cores.
pub const fn footprint(devices: usize, cores: usize) -> u64 {
    layout::total(devices, cores) as u64 * 8
}
