//! A real Linux kernel mounts a device of the real daemon and works on it.
//!
//! Each test starts a `dpfs` of its own and boots guests against it with `tests/rig/boot`.

mod boot;
#[path = "../valkey/cluster.rs"]
mod cluster;
mod daemon;
#[expect(dead_code, reason = "the engine's own tests use all of it")]
#[path = "../ramcloud/fake.rs"]
mod fake;
mod flat;
#[expect(dead_code, reason = "the backend's own tests share one")]
#[path = "../nfs/knfsd.rs"]
mod knfsd;
#[path = "../nfs/server.rs"]
mod nfs;
mod nfs_two;
mod referral;
#[expect(dead_code, reason = "the engine's own tests use all of it")]
#[path = "../valkey/server.rs"]
mod server;
#[cfg(feature = "snap")]
mod snap;
mod valkey;

use std::time::Duration;

use boot::{Guest, end, turn};
use daemon::{Daemon, wait_for};
use knfsd::Knfsd;
use nfs::{Ganesha, Manner};

/// Two CPUs and two request queues; needs no KVM.
const QEMU: Guest = Guest {
    machine: "--qemu",
    kernel: "6.12",
    cpus: 2,
};
const UML: Guest = Guest::uml("6.12");

/// Operations of `fsx` that each backend has to stand once, and as many as show that another way to it works.
const MANY: u32 = 100_000;
const SOME: u32 = 10_000;

/// Give a number from what a job reports, in lines like `name: key=value ...`.
fn number(console: &str, job: &str, key: &str) -> u64 {
    let (start, key) = (format!("{job}: "), format!("{key}="));
    let reports = console
        .lines()
        .filter_map(|line| line.trim_end().strip_prefix(&start));
    let mut values = reports
        .flat_map(|report| report.split(' '))
        .filter_map(|word| word.strip_prefix(&key));
    let value = values.next().and_then(|text| text.parse().ok());
    value.unwrap_or_else(|| panic!("{job} does not report {key}"))
}

/// Check that a guest which is gone holds no node and no file any more; gauges follow within a second.
fn nothing_is_held(daemon: &Daemon) {
    wait_for("all nodes are dropped", 30, || {
        daemon.gauge("nodes") == 1 && daemon.gauge("open_files") == 0
    });
}

/// Run everything that a user would: verified I/O, and all that shows whether a kernel and the device get on.
///
/// `operations` are those of `fsx`; `without` is what `smoke` is to do without, and what `pjdfstest` is to expect.
fn works_on(daemon: Daemon, operations: u32, without: &[&str]) {
    UML.run(&daemon, "fio-verify", &[]);
    gets_on_with(UML, daemon, operations, without);
}

/// Run every kind of operation, random operations and the POSIX suite.
fn gets_on_with(guest: Guest, daemon: Daemon, operations: u32, without: &[&str]) {
    guest.run(&daemon, "smoke", without);
    guest.run(&daemon, "fsx", &[&format!("ops={operations}")]);
    let console = guest.run(&daemon, "pjdfstest", without);
    assert!(
        number(&console, "pjdfstest", "passed") >= 380,
        "tests were left out"
    );
    nothing_is_held(&daemon);
    // Gauges are late: read after those that were waited for.
    assert_eq!(daemon.gauge("unanswered"), 0);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_directory_works() {
    let _turn = turn();
    works_on(Daemon::local(1, ""), MANY, &[]);
}

#[test]
fn an_older_linux_works() {
    let _turn = turn();
    gets_on_with(Guest::uml("6.1"), Daemon::local(1, ""), SOME, &[]);
}

#[test]
fn a_newer_linux_works() {
    let _turn = turn();
    gets_on_with(Guest::uml("7.2"), Daemon::local(1, ""), SOME, &[]);
}

#[test]
fn a_source_tree_is_whole_after_a_reboot() {
    let _turn = turn();
    let daemon = Daemon::local(1, "");
    UML.run(&daemon, "tree-unpack", &[]);
    UML.run(&daemon, "tree-check", &[]);
}

/// Have a repository cloned and checked, a C program built and run, and dbench play.
fn developers_work(daemon: Daemon) {
    UML.run(&daemon, "develop", &[]);
    nothing_is_held(&daemon);
}

#[test]
fn developers_work_on_a_directory() {
    let _turn = turn();
    developers_work(Daemon::local(1, ""));
}

#[test]
fn developers_work_on_the_embedded_engine() {
    let _turn = turn();
    developers_work(Daemon::embedded(1, ""));
}

#[test]
fn developers_work_on_an_nfs_server() {
    let _turn = turn();
    let server = Ganesha::start(Manner::default());
    developers_work(Daemon::nfs(&server, 1, ""));
}

#[test]
fn the_embedded_engine_works() {
    let _turn = turn();
    works_on(Daemon::embedded(1, ""), SOME, &[]);
}

#[test]
fn the_embedded_engine_with_small_chunks_works() {
    let _turn = turn();
    let daemon = Daemon::embedded(1, ", chunk = \"4KiB\"");
    UML.run(&daemon, "smoke", &[]);
    UML.run(&daemon, "fsx", &[&format!("ops={MANY}")]);
}

#[test]
fn a_source_tree_in_the_embedded_engine_is_whole_after_a_reboot_and_a_killed_daemon() {
    let _turn = turn();
    let daemon = Daemon::embedded(1, "");
    UML.run(&daemon, "tree-unpack", &[]);
    UML.run(&daemon, "tree-check", &[]);
    let daemon = daemon.killed_and_restarted();
    UML.run(&daemon, "tree-check", &[]);
}

#[test]
fn an_export_of_an_nfs_server_works() {
    let _turn = turn();
    let server = Ganesha::start(Manner::default());
    // The server reads a link itself, and notes the time of that.
    let without = ["xattr=no", "expect=utimensat::follow_symlink"];
    works_on(Daemon::nfs(&server, 1, ""), MANY, &without);
}

#[test]
fn an_export_of_the_kernels_nfs_server_works() {
    let _turn = turn();
    let Some(server) = Knfsd::start(&[]) else {
        return;
    };
    let daemon = Daemon::export(server.address, 1, ", export = \"/\"");
    works_on(daemon, SOME, &[]);
    let daemon = Daemon::export(server.address, 1, ", export = \"/\"");
    developers_work(daemon);
}

#[test]
fn a_source_tree_on_an_nfs_server_is_whole_after_its_crashes_for_another_guest() {
    let _turn = turn();
    let manner = Manner {
        lease: 4,
        grace: 4,
        ..Manner::default()
    };
    let mut server = Ganesha::start(manner);
    let daemon = Daemon::nfs(&server, 1, ", connections = 2");
    let mut unpacking = UML.spawn(&daemon, "tree-unpack", &[]);
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(2));
        server.freeze(true);
        std::thread::sleep(Duration::from_secs(1));
        server.freeze(false);
        server.restart();
    }
    assert!(unpacking.wait().expect("our own child").success());
    assert!(server.path("tree").is_dir());
    // Another client of the server, and its guest.
    UML.run(&Daemon::nfs(&server, 1, ""), "tree-check", &[]);
}

#[test]
fn every_cache_mode_keeps_data_whole() {
    let _turn = turn();
    for options in [
        ", cache = \"none\"",
        ", cache = \"always\"",
        ", writeback = true",
    ] {
        let daemon = Daemon::local(1, options);
        UML.run(&daemon, "smoke", &[]);
        // Without the guest's page cache there are no shared mappings.
        let map = if options.contains("none") {
            "map=no"
        } else {
            "map=yes"
        };
        UML.run(&daemon, "fsx", &["ops=5000", map]);
        UML.run(&daemon, "fio-verify", &["size=8m"]);
    }
}

#[test]
fn two_queues_of_a_qemu_guest_are_used() {
    let _turn = turn();
    let daemon = Daemon::local(2, "");
    let console = QEMU.run(&daemon, "mq", &["queues=2"]);
    assert_eq!(number(&console, "mq", "used"), 2);
    QEMU.run(&daemon, "smoke", &[]);
}

#[test]
fn a_guest_that_is_killed_leaves_nothing_and_the_next_one_mounts() {
    let _turn = turn();
    for guest in [UML, QEMU] {
        let daemon = Daemon::local(guest.cpus, "");
        let mut boot = guest.spawn(&daemon, "hold", &["files=500"]);
        wait_for("the guest holds its files", 120, || {
            daemon.gauge("open_files") >= 500
        });
        assert!(daemon.gauge("nodes") > 500);
        end(&mut boot);
        nothing_is_held(&daemon);
        guest.run(&daemon, "smoke", &[]);
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[test]
fn the_daemon_ends_in_order_under_load() {
    let _turn = turn();
    let daemon = Daemon::local(1, "");
    let mut boot = UML.spawn(&daemon, "hold", &["files=50"]);
    wait_for("the guest works", 60, || daemon.gauge("open_files") >= 50);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(daemon.stop(), Some(0));
    end(&mut boot);
}

#[test]
fn a_full_node_table_is_an_error_and_service_goes_on() {
    let _turn = turn();
    let daemon = Daemon::local_with_limits("{ nodes = 200 }");
    UML.run(&daemon, "full", &["files=400"]);
    nothing_is_held(&daemon);
}
