//! The `dpfs` daemon.
fn main() {}
