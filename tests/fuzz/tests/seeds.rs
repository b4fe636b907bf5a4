//! Every seed runs without a fuzzer, too.

use std::fs;
use std::path::PathBuf;

/// Run all seeds of a target; most are to get past its first checks.
fn replay(target: &str, run: fn(&[u8]) -> usize) {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "seeds", target]
        .iter()
        .collect();
    let (mut count, mut deep) = (0, 0);
    for entry in fs::read_dir(&folder).expect("seeds: `cargo run --example seeds` makes them") {
        let path = entry.expect("a file").path();
        println!("{}", path.display());
        let reached = run(&fs::read(path).expect("a file"));
        (count, deep) = (count + 1, deep + usize::from(reached > 0));
    }
    assert!(
        deep * 2 > count,
        "{deep} of {count} seeds of {target} go deep"
    );
}

#[test]
fn boot_stream() {
    replay("boot_stream", dpfs_fuzz::boot_stream::run);
}

#[test]
fn config() {
    replay("config", dpfs_fuzz::config::run);
}

#[test]
fn fuse_decode() {
    replay("fuse_decode", dpfs_fuzz::fuse_decode::run);
}

#[test]
fn nfs_reply() {
    replay("nfs_reply", dpfs_fuzz::nfs_reply::run);
}

#[test]
fn ramcloud_reply() {
    replay("ramcloud_reply", dpfs_fuzz::ramcloud_reply::run);
}

#[test]
fn resp_reply() {
    replay("resp_reply", dpfs_fuzz::resp_reply::run);
}

#[test]
fn vhost_user_message() {
    replay("vhost_user_message", dpfs_fuzz::vhost_user_message::run);
}

#[test]
fn virtq_chain() {
    replay("virtq_chain", dpfs_fuzz::virtq_chain::run);
}
