//! Two guests, each with a daemon of its own, on one export of one server.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::UML;
use crate::boot::{alone, end};
use crate::daemon::{Daemon, rig, wait_for};
use crate::nfs::{Ganesha, Manner};

/// Boot a guest as one of the two.
fn boot(daemon: &Daemon, program: &str, role: [&str; 2], more: [&str; 2]) -> Child {
    let arguments = [format!("role={}", role[0]), format!("other={}", role[1])];
    let [role, other] = arguments.each_ref().map(String::as_str);
    let mut command = UML.command(daemon, "nfs-two", &[role, other, more[0], more[1]]);
    command
        .args(["--put", &format!("{program}:bin/guest-lock")])
        .stdout(Stdio::null());
    command.spawn().expect("the rig boots")
}

/// Compile what takes the locks.
fn program(folder: &tempfile::TempDir) -> String {
    let program = folder.path().join("guest-lock");
    let compiled = Command::new("gcc")
        .args(["-O2", "-Wall", "-static", "-o"])
        .arg(&program)
        .arg(rig("guest-lock.c"))
        .status();
    assert!(compiled.expect("a C compiler").success());
    program.to_str().expect("UTF-8").into()
}

#[test]
fn what_one_guest_closes_another_sees_and_locks_stand_between_them_until_a_daemon_is_killed() {
    let _turn = alone();
    let manner = Manner {
        lease: 5,
        ..Manner::default()
    };
    let (server, folder) = (Ganesha::start(manner), tempfile::tempdir().unwrap());
    let program = program(&folder);
    let (first, second) = (Daemon::nfs(&server, 1, ""), Daemon::nfs(&server, 1, ""));
    let more = ["rounds=20", "count=0"];
    let mut a = boot(&first, &program, ["a", "b"], more);
    let mut b = boot(&second, &program, ["b", "a"], more);
    wait_for("one guest waits for the other's lock", 180, || {
        for guest in [&mut a, &mut b] {
            let ended = guest.try_wait().expect("our own child");
            assert!(ended.is_none(), "a guest failed: {ended:?}");
        }
        server.path("waits").exists()
    });
    std::thread::sleep(Duration::from_secs(1));
    assert!(!server.path("last.held").exists(), "the lock is still held");
    // kill -9: nobody tells the server.
    drop(first);
    let killed = Instant::now();
    assert!(b.wait().expect("our own child").success(), "b failed");
    let waited = killed.elapsed().as_secs();
    assert!(waited < 40, "the lock came only after {waited} s");
    end(&mut a);
    assert_eq!(second.stop(), Some(0));
}

#[test]
fn two_guests_that_count_under_locks_lose_nothing() {
    let _turn = alone();
    let (server, folder) = (
        Ganesha::start(Manner::default()),
        tempfile::tempdir().unwrap(),
    );
    let program = program(&folder);
    // Under locks content is shared at once only where the guests do not keep it.
    let daemons = [(); 2].map(|()| Daemon::nfs(&server, 1, ", cache = \"none\""));
    let mut a = boot(&daemons[0], &program, ["a", "b"], ["rounds=5", "count=100"]);
    let mut b = boot(&daemons[1], &program, ["b", "a"], ["rounds=5", "count=100"]);
    for guest in [&mut a, &mut b] {
        assert!(guest.wait().expect("our own child").success());
    }
    for daemon in daemons {
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[test]
fn a_silent_server_does_not_delay_the_end_of_the_daemon() {
    let _turn = alone();
    let server = Ganesha::start(Manner::default());
    for silent in [false, true] {
        let daemon = Daemon::nfs(&server, 1, "");
        // The session stands.
        std::thread::sleep(Duration::from_millis(500));
        server.freeze(silent);
        let asked = Instant::now();
        assert_eq!(daemon.stop(), Some(0));
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(4), "{silent}: {took:?}");
        server.freeze(false);
    }
}
