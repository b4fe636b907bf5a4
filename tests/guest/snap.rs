//! Guests on a function of the emulated DPU: the SNAP HAL with its shim, from a real kernel's driver down to the backend.

use crate::boot::{end, turn};
use crate::daemon::{Daemon, wait_for};
use crate::{QEMU, SOME, UML, nothing_is_held, number, works_on};

#[test]
fn a_guest_works_on_a_function() {
    let _turn = turn();
    works_on(Daemon::snap(1, "local"), SOME, &[]);
}

#[test]
fn a_guest_works_on_a_function_with_the_embedded_engine() {
    let _turn = turn();
    let daemon = Daemon::snap(1, "kv");
    UML.run(&daemon, "smoke", &[]);
    UML.run(&daemon, "fsx", &["ops=5000"]);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn both_queues_of_a_function_are_used() {
    let _turn = turn();
    let daemon = Daemon::snap(2, "local");
    let console = QEMU.run(&daemon, "mq", &["queues=2"]);
    assert_eq!(number(&console, "mq", "used"), 2);
    QEMU.run(&daemon, "smoke", &[]);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_guest_that_is_killed_resets_its_function_and_the_next_one_mounts() {
    let _turn = turn();
    let daemon = Daemon::snap(1, "local");
    let mut boot = UML.spawn(&daemon, "hold", &["files=500"]);
    wait_for("the guest holds its files", 120, || {
        daemon.gauge("open_files") >= 500
    });
    end(&mut boot);
    nothing_is_held(&daemon);
    UML.run(&daemon, "smoke", &[]);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn the_daemon_suspends_a_function_under_load_and_ends_in_order() {
    let _turn = turn();
    let daemon = Daemon::snap(1, "local");
    let mut boot = UML.spawn(&daemon, "hold", &["files=50"]);
    wait_for("the guest works", 60, || daemon.gauge("open_files") >= 50);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(daemon.stop(), Some(0));
    end(&mut boot);
}
