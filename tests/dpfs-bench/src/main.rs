//! `dpfs-bench`: load a vhost-user-fs back-end without a virtual machine.
//!
//! It plays the front-end and the guest's FUSE driver: shares memory, sets up the queues, begins a session, and then
//! keeps a number of requests in flight, each laid out as Linux lays it out. Every answer is checked. What is measured
//! runs from the publication of a request to the sight of its answer.
//!
//! ```text
//! dpfs-bench run --socket S --job randread --depth 1,32        one back-end, ours or any other
//! dpfs-bench run --loopback --job read                         the null backend in this process
//! dpfs-bench run --dir D --job randread                        plain system calls: the floor
//! dpfs-bench sweep --target dpfs=S1 --target virtiofsd=S2 ...  several in turn, CSV and pictures
//! dpfs-bench conformance --socket S                            malformed chains and requests of every kind
//! ```
//!
//! It polls for answers, as a guest under load does, and so needs a core of its own; `--wait` sleeps on interrupts.

mod calls;
mod client;
mod conformance;
mod device;
mod dir;
mod job;
mod memory;
mod options;
mod outcome;
mod pattern;
mod request;
mod run;
mod sweep;
mod usage;
mod vhost;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match options::Options::parse().execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dpfs-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
