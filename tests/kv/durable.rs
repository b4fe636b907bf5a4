//! What was fsynced is there after the process was killed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use dpfs::backend::kv::embedded::{Config, Store};
use dpfs::backend::kv::engine::{Key, Op, Write};
use dpfs::backend::kv::setup::call;

/// Names the store for the process that is going to be killed.
const VARIABLE: &str = "DPFS_TEST_STORE";

fn config(path: &std::path::Path) -> Config<'_> {
    Config {
        path: Some(path),
        chunk: 4096,
        cache: 4 << 20,
    }
}

fn key(number: u64) -> Key<'static> {
    Key::Inode(number)
}

/// The process that is killed: writes, syncs, and says what is durable.
#[test]
#[ignore = "runs in a process of its own, from the test below"]
fn writer() {
    let path = std::env::var_os(VARIABLE).expect("a store");
    let store = Store::open(&config(path.as_ref())).unwrap();
    let mut engine = store.attach().unwrap();
    for number in 1.. {
        let value = [number as u8; 64];
        let op = Op::Transact {
            checks: &[],
            writes: &[Write::Put(key(number), &value)],
        };
        call(&mut engine, &op, &mut |_| ()).unwrap();
        call(&mut engine, &Op::Sync, &mut |_| ()).unwrap();
        println!("durable {number}");
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_synced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut floor = 0;
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "durable::writer", "--ignored", "--nocapture"])
            .env(VARIABLE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut last = 0;
        for line in lines {
            // The first line comes behind the harness's own words.
            let line = line.unwrap();
            let Some(at) = line.find("durable ") else {
                continue;
            };
            last = line[at + 8..].trim().parse().unwrap();
            if last >= 10 * round {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        floor = floor.max(last);
        let store = Store::open(&config(&path)).unwrap();
        let mut engine = store.engine().unwrap();
        for number in 1..=floor {
            let mut found = false;
            let op = Op::Get {
                keys: &[key(number)],
                follow: false,
            };
            call(&mut engine, &op, &mut |record| {
                found = record.value == [number as u8; 64];
            })
            .unwrap();
            assert!(found, "{number} of {floor} is lost");
        }
        // This process holds the store's lock until it ends, so the next round has a copy.
        let copy = folder.path().join(format!("store-{round}"));
        std::fs::copy(&path, &copy).unwrap();
        std::fs::rename(&copy, &path).unwrap();
    }
}
