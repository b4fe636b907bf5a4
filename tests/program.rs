//! The program as its users meet it: exit codes, words, files, signals.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use tempfile::TempDir;

#[expect(dead_code, reason = "the engine's own tests use all of it")]
#[path = "valkey/server.rs"]
mod server;

/// Run the program to its end.
fn dpfs(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dpfs"));
    command.args(arguments).output().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with a configuration of one `null` device behind a socket.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "[runtime]\ndir = \"{0}/run\"\npolling = \"sleep\"\n\n[[device]]\ntag = \"a\"\n\
             hal = {{ kind = \"vhost-user\", socket = \"{0}/a.sock\" }}\nbackend = {{ kind = \"null\" }}\n",
            dir.path().display()
        );
        fs::write(dir.path().join("dpfs.toml"), text).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn config(&self) -> String {
        self.path("dpfs.toml").display().to_string()
    }

    fn serve(&self) -> Daemon {
        self.serve_with(&[])
    }

    fn serve_with(&self, variables: &[(&str, &str)]) -> Daemon {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dpfs"))
            .args(["serve", "-c", &self.config()])
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for("its socket", || {
            assert!(
                child.try_wait().unwrap().is_none(),
                "it ended: {}",
                rest(&mut child)
            );
            // Bound before the cores have started: that it serves is logged later.
            UnixStream::connect(self.path("a.sock")).is_ok()
        });
        Daemon(child)
    }
}

fn rest(child: &mut Child) -> String {
    let mut text = String::new();
    let _ = child.stderr.take().unwrap().read_to_string(&mut text);
    text
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let by = Instant::now() + Duration::from_secs(30);
    while !there() {
        assert!(Instant::now() < by, "waited for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A running daemon; killed on drop.
struct Daemon(Child);

impl Daemon {
    /// End it as a service manager does; give its exit code and its log.
    fn terminate(mut self) -> (Option<i32>, String) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        let code = self.0.wait().unwrap().code();
        (code, rest(&mut self.0))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_wrong_command_line_is_2() {
    for arguments in [&["fly"][..], &["serve"], &[], &["stats", "--watch", "0"]] {
        let output = dpfs(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
    let help = dpfs(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("Exit codes:"));
}

#[test]
fn a_wrong_configuration_is_3_and_names_every_line() {
    let place = Place::new();
    fs::write(
        place.path("dpfs.toml"),
        "[runtime]\ncors = [0]\nlog = \"loud\"\n",
    )
    .unwrap();
    for command in ["serve", "check"] {
        let output = dpfs(&[command, "-c", &place.config()]);
        assert_eq!(output.status.code(), Some(3));
        let words = words(&output);
        let config = place.config();
        assert!(
            words.contains(&format!(
                "{config}:2:1: runtime.cors: unknown key; did you mean `cores`?"
            )),
            "{words}"
        );
        assert!(
            words.contains(&format!(
                "{config}:3:7: runtime.log: found \"loud\"; allowed: \"error\""
            )),
            "{words}"
        );
        assert_eq!(
            words.lines().count(),
            3,
            "the missing devices, too: {words}"
        );
    }
}

#[test]
fn more_memory_than_the_board_allows_is_refused_with_the_sum() {
    let place = Place::new();
    let mut text = String::new();
    for device in 0..20 {
        text += &format!(
            "[[device]]\ntag = \"d{device}\"\nhal = {{ kind = \"vhost-user\", socket = \"/run/d{device}\" }}\n\
             backend = {{ kind = \"local\", path = \"/srv\" }}\nlimits = {{ nodes = 16_000_000 }}\n"
        );
    }
    fs::write(place.path("dpfs.toml"), text).unwrap();
    let output = dpfs(&["check", "-c", &place.config()]);
    assert_eq!(output.status.code(), Some(3));
    let words = words(&output);
    assert!(words.contains("asks for more memory than board"), "{words}");
    assert!(
        words.contains("device \"d19\": 16000000 nodes") && words.contains("in all"),
        "{words}"
    );
}

#[test]
fn what_the_machine_cannot_do_is_4_and_nothing_is_changed() {
    let place = Place::new();
    let good = dpfs(&["check", "-c", &place.config()]);
    assert_eq!(good.status.code(), Some(0), "{}", words(&good));
    let text = fs::read_to_string(place.path("dpfs.toml")).unwrap();
    fs::write(
        place.path("dpfs.toml"),
        text.replace("a.sock", "missing/a.sock"),
    )
    .unwrap();
    let bad = dpfs(&["check", "-c", &place.config()]);
    assert_eq!(bad.status.code(), Some(4));
    let out = String::from_utf8_lossy(&bad.stdout);
    assert!(out.contains("FAIL  device \"a\": socket: "), "{out}");
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 1);
}

#[test]
fn a_daemon_serves_is_seen_and_leaves_nothing() {
    let place = Place::new();
    let daemon = place.serve();
    let run = place.path("run");

    let stats = dpfs(&["stats", "-c", &place.config(), "--json"]);
    let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).unwrap();
    assert_eq!(
        (&stats["state"], &stats["pid"]),
        (&"running".into(), &daemon.0.id().into())
    );
    assert_eq!(stats["devices"][0]["tag"], "a");

    let second = dpfs(&["serve", "-c", &place.config()]);
    assert_eq!(second.status.code(), Some(1));
    let pid = daemon.0.id();
    assert!(words(&second).contains(&format!("another dpfs uses this folder (process {pid})")));

    let (code, log) = daemon.terminate();
    assert_eq!(code, Some(0), "{log}");
    assert!(
        !place.path("a.sock").exists(),
        "the sandbox is outside of the socket's folder"
    );
    let table = dpfs(&["stats", "--dir", run.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("(ended)"));
}

#[test]
fn a_service_manager_hears_of_it_from_within_the_sandbox() {
    let place = Place::new();
    let path = place.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let hear = || {
        let mut bytes = [0; 64];
        let len = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    };
    let daemon = place.serve_with(&[
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ("WATCHDOG_USEC", "30000000"),
    ]);
    assert_eq!(hear(), "READY=1\n");
    assert_eq!(
        (hear(), hear()),
        ("WATCHDOG=1\n".into(), "WATCHDOG=1\n".into())
    );
    assert_eq!(daemon.terminate().0, Some(0));
    let mut last = hear();
    while last == "WATCHDOG=1\n" {
        last = hear();
    }
    assert_eq!(last, "STOPPING=1\n");
}

#[test]
fn a_killed_daemon_is_cleaned_up_after() {
    let place = Place::new();
    let daemon = place.serve();
    drop(daemon);
    wait_for("the socket to go", || !place.path("a.sock").exists());
    let table = dpfs(&["stats", "-c", &place.config()]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("(died)"));
    // And the next one finds everything free.
    assert_eq!(place.serve().terminate().0, Some(0));
}

#[test]
fn watching_goes_on_and_ends_with_its_reader() {
    let place = Place::new();
    let _daemon = place.serve();
    let mut watch = Command::new(env!("CARGO_BIN_EXE_dpfs"))
        .args(["stats", "-c", &place.config(), "--json", "--watch", "0.1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        assert!(
            lines
                .next()
                .unwrap()
                .unwrap()
                .starts_with("{\"state\":\"running\"")
        );
    }
    drop(lines);
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

#[test]
fn no_statistics_are_1_and_say_so() {
    let place = Place::new();
    let output = dpfs(&["stats", "--dir", place.0.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(words(&output).contains("no daemon ever ran with this folder"));
}

#[test]
fn devices_lists_what_this_build_has() {
    let output = dpfs(&["devices"]);
    assert_eq!(output.status.code(), Some(0));
    let out = String::from_utf8_lossy(&output.stdout);
    for word in [dpfs::board::NAME, "vhost-user", "fuse", "null", "local"] {
        assert!(out.contains(word), "{out}");
    }
}

#[cfg(not(feature = "defmt"))]
#[test]
fn without_a_deferred_log_the_program_says_where_the_log_is() {
    let output = dpfs(&["log"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(words(&output).contains("plain text on the daemon's standard error"));
    let place = Place::new();
    let (_, log) = place.serve().terminate();
    assert!(
        log.lines().any(|line| line.contains(" INFO  stopping")),
        "{log}"
    );
    assert!(!place.path("run/log").exists());
}

#[cfg(feature = "defmt")]
#[test]
fn a_deferred_log_is_decoded_while_it_runs_and_afterwards() {
    let place = Place::new();
    let daemon = place.serve();
    let log = |more: &[&str]| {
        let config = place.config();
        let output = dpfs(&[&["log", "-c", &config], more].concat());
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            words(&output),
        )
    };
    let serving = |line: &str| line.contains("Z INFO  serving 1 devices on 1 cores");
    wait_for("the line that it serves", || {
        let (code, out, err) = log(&[]);
        assert_eq!(code, Some(0), "{err}");
        out.lines().any(serving)
    });
    let (code, text) = daemon.terminate();
    assert_eq!(
        (code, text.as_str()),
        (Some(0), ""),
        "nothing goes to standard error"
    );
    let (code, out, err) = log(&["--elf", env!("CARGO_BIN_EXE_dpfs")]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.lines().last().unwrap().contains("Z INFO  stopping"),
        "{out}"
    );
    let (code, _, err) = log(&["--elf", "/bin/true"]);
    assert_eq!(code, Some(1));
    assert!(
        err.contains("/bin/true: another build than the one that logged"),
        "{err}"
    );
}

#[test]
fn a_volume_on_a_server_is_looked_for_tested_and_checked() {
    let place = Place::new();
    let mut server = server::Server::start("valkey", &["--requirepass", "secret"]);
    let address = server.place().to_string();
    fs::write(place.path("password"), "secret\n").unwrap();
    let backend = format!(
        "{{ kind = \"kv\", engine = \"valkey\", address = \"{address}\", volume = \"v\", password_file = {:?} }}",
        place.path("password")
    );
    let text = fs::read_to_string(place.path("dpfs.toml")).unwrap();
    let text = text.replace("{ kind = \"null\" }", &backend);
    fs::write(place.path("dpfs.toml"), text).unwrap();
    let run = |command: &str, code: i32| {
        let output = dpfs(&[command, "-c", &place.config()]);
        let out = String::from_utf8_lossy(&output.stdout).into_owned() + &words(&output);
        assert_eq!(output.status.code(), Some(code), "{command}: {out}");
        out
    };
    let found = run("check", 0);
    let there = format!("ok    device \"a\": server: {address}: valkey ");
    assert!(found.contains(&there), "{found}");
    assert!(found.contains("volume \"v\" will be made"), "{found}");
    let none = run("fsck", 1);
    assert!(none.contains("no volume \"v\""), "{none}");
    run("selftest", 0);
    let found = run("check", 0);
    assert!(
        found.contains("volume \"v\" is there, in chunks of 64 KiB"),
        "{found}"
    );
    let checked = run("fsck", 0);
    // What the self-test removed may still be waiting for the next who serves the volume to sweep it.
    assert!(
        checked.contains("volume \"v\": ") && checked.contains(" 0 names"),
        "{checked}"
    );
    assert!(checked.contains("no damage"), "{checked}");
    // A directory that knows of more entries than there are, as no version of this program leaves it.
    let mut connection = server.connect_with(&[b"AUTH", b"default", b"secret"]);
    connection.ask(&[b"SETRANGE", b"{v}\0\0\0\0\0\0\0\0\x01", b"52", b"\x07"]);
    let damaged = dpfs(&["fsck", "-c", &place.config()]);
    assert_ne!(damaged.status.code(), Some(0), "{damaged:?}");
    let repaired = dpfs(&["fsck", "--repair", "-c", &place.config()]);
    assert_eq!(repaired.status.code(), Some(0), "{repaired:?}");
    run("fsck", 0);
    server.kill();
    let gone = run("check", 4);
    assert!(gone.contains("FAIL  device \"a\": server: "), "{gone}");
}
