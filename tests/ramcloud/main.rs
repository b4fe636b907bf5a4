//! The `ramcloud` engine: its wire code against recorded frames, and itself against a cluster that the tests play.

mod fake;
mod faults;
mod frames;
mod multi;
#[path = "../kv/flat.rs"]
mod suite;
mod volume;
