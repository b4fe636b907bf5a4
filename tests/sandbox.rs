//! The sandbox from outside: what the kernel says of a process that closed it, and what such a process still can do.
//!
//! Each test runs this program again as a process of one thread that closes the sandbox and then does as its name says.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio, exit};
use std::time::{Duration, Instant};

use dpfs::runtime::config::Config;
use dpfs::runtime::sandbox;
use dpfs::runtime::stats::{Description, Stats};
use dpfs::runtime::warden::Warden;

const ENOSYS: i32 = 38;
const SIGSYS: i32 = 31;
const NOBODY: u32 = 65534;

type Test = (&'static str, fn(&Path), fn(&Path));

/// Name, what is checked outside, what is done inside.
const TESTS: &[Test] = &[
    ("the_kernel_confirms", the_kernel_confirms, wait_inside),
    (
        "a_local_backend_keeps_what_it_works_with",
        local_outside,
        wait_inside_with_local,
    ),
    ("the_root_is_empty", succeeds, the_root_is_empty),
    (
        "an_unlisted_call_is_unknown",
        succeeds,
        an_unlisted_call_is_unknown,
    ),
    (
        "running_a_program_kills",
        running_a_program_kills,
        run_a_program,
    ),
    ("work_goes_on", work_outside, work_inside),
    (
        "the_warden_cleans_up_at_the_end",
        warden_finishes_outside,
        warden_inside,
    ),
    (
        "the_warden_cleans_up_after_a_kill",
        warden_outside,
        warden_waits_inside,
    ),
    (
        "without_mounts_an_empty_folder_is_the_root",
        without_mounts_outside,
        wait_inside_without_mounts,
    ),
    (
        "users_without_privileges_get_a_room_too",
        users_outside,
        wait_inside,
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, inside, name, dir] = &arguments[..]
        && inside == "--inside"
    {
        let (_, _, run) = TESTS.iter().find(|(test, _, _)| test == name).unwrap();
        run(Path::new(dir));
        return ExitCode::SUCCESS;
    }
    let filter = arguments.get(1).filter(|word| !word.starts_with('-'));
    for (name, check, _) in TESTS {
        if filter.is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        check(&dir.path().join(name));
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

// Outside.

fn command(place: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    let name = place.file_name().unwrap();
    let dir = place.parent().unwrap();
    command.args([OsStr::new("--inside"), name, dir.as_os_str()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Start the inside and wait until it says that it is ready.
fn start(mut command: Command) -> Child {
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap());
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

fn succeeds(place: &Path) {
    assert!(command(place).status().unwrap().success());
}

/// Give a field of `/proc/<pid>/status`.
fn status(child: &Child, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line[field.len() + 1..].trim().into()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn check_status(child: &Child, capabilities: &str) {
    for field in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(status(child, field), capabilities, "{field}");
    }
    assert_eq!(status(child, "CapAmb"), "0000000000000000");
    assert_eq!(status(child, "NoNewPrivs"), "1");
    assert_eq!(status(child, "Seccomp"), "2");
    let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}

fn the_kernel_confirms(place: &Path) {
    let child = start(command(place));
    check_status(&child, "0000000000000000");
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    let its = fs::read_link(format!("/proc/{}/ns/mnt", child.id())).unwrap();
    assert_ne!(own, its);
    let root = fs::read_dir(format!("/proc/{}/root/", child.id())).unwrap();
    assert_eq!(root.count(), 0);
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", child.id())).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    end(child);
}

fn local_outside(place: &Path) {
    let child = start(command(place));
    if is_root() {
        // chown, dac_override, dac_read_search, fowner, fsetid, setgid, setuid, mknod, setfcap
        check_status(&child, "00000000880000df");
    }
    end(child);
}

fn running_a_program_kills(place: &Path) {
    let ended = command(place).status().unwrap();
    assert_eq!(ended.signal(), Some(SIGSYS), "{ended}");
}

fn work_outside(place: &Path) {
    let child = start(command(place));
    let mut host = UnixStream::connect(place.parent().unwrap().join("socket")).unwrap();
    host.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    host.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"pong");
    end(child);
}

fn warden_finishes_outside(place: &Path) {
    succeeds(place);
    assert!(!place.parent().unwrap().join("left").exists());
}

fn without_mounts_outside(place: &Path) {
    if !is_root() {
        println!("(not root: nothing to take away)");
        return;
    }
    let child = start(command(place));
    check_status(&child, "0000000000000000");
    let root = fs::read_link(format!("/proc/{}/root", child.id())).unwrap();
    assert_eq!(root, place.parent().unwrap().join("empty"));
    assert_eq!(fs::read_dir(root).unwrap().count(), 0);
    end(child);
}

fn warden_outside(place: &Path) {
    let mut child = start(command(place));
    let left = place.parent().unwrap().join("left");
    assert!(left.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let by = Instant::now() + Duration::from_secs(30);
    while left.exists() {
        assert!(Instant::now() < by, "nobody cleaned up");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn users_outside(place: &Path) {
    let mut command = command(place);
    command.stderr(Stdio::piped());
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
        // Where this program stands is not open to everyone.
        let copy = place.parent().unwrap().join("program");
        fs::copy("/proc/self/exe", &copy).unwrap();
        let mut user = Command::new(copy);
        user.args(command.get_args()).uid(NOBODY).gid(NOBODY);
        user.stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command = user;
    }
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    if line == "ready\n" {
        check_status(&child, "0000000000000000");
        return end(child);
    }
    // Some systems do not give users name spaces; then the daemon must not start half protected.
    let ended = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{words}");
    assert!(
        words.contains("sandbox: name spaces without privileges: "),
        "{words}"
    );
    println!("(this system gives users no name spaces: the sandbox refused, as it should)");
}

// Inside.

fn configuration(dir: &Path, backend: &str) -> Config {
    let text = format!(
        "[runtime]\ndir = \"{0}\"\n[[device]]\ntag = \"a\"\n\
         hal = {{ kind = \"vhost-user\", socket = \"{0}/socket\" }}\nbackend = {{ {backend} }}\n",
        dir.display()
    );
    Config::parse("test", &text).unwrap()
}

fn close(dir: &Path, backend: &str) {
    let config = configuration(dir, backend);
    sandbox::raise_limits(&config).unwrap();
    if let Err(error) = sandbox::enter(&config) {
        eprintln!("{error}");
        exit(1);
    }
}

const NULL: &str = "kind = \"null\"";
const LOCAL: &str = "kind = \"local\", path = \"/\"";

fn ready_and_wait() {
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
}

fn wait_inside(dir: &Path) {
    close(dir, NULL);
    ready_and_wait();
}

fn wait_inside_without_mounts(dir: &Path) {
    const SYS_ADMIN: u64 = 1 << 21;
    dpfs::sys::sandbox::keep_capabilities(!SYS_ADMIN).unwrap();
    wait_inside(dir);
}

fn wait_inside_with_local(dir: &Path) {
    close(dir, LOCAL);
    ready_and_wait();
}

fn the_root_is_empty(dir: &Path) {
    close(dir, LOCAL);
    assert_eq!(fs::read_dir("/").unwrap().count(), 0);
    assert_eq!(fs::read_dir("/..").unwrap().count(), 0);
    assert!(fs::write("/file", "x").is_err());
    assert!(fs::create_dir("/dir").is_err());
    assert!(!dir.exists());
}

fn an_unlisted_call_is_unknown(dir: &Path) {
    close(dir, NULL);
    let error = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    assert_eq!(error(UnixStream::connect("/x").map(drop)), Some(ENOSYS));
    assert_eq!(error(fs::read_dir("/").map(drop)), Some(ENOSYS));
    assert_eq!(
        error(Command::new("/bin/true").status().map(drop)),
        Some(ENOSYS)
    );
}

fn run_a_program(dir: &Path) {
    close(dir, NULL);
    let error = Command::new("/bin/true").exec();
    panic!("still alive: {error}");
}

fn work_inside(dir: &Path) {
    let description = Description {
        tag: "a".into(),
        hal: "vhost-user".into(),
        backend: "null".into(),
        queues: 1,
        depth: 2,
        nodes: 16,
        open_files: 16,
    };
    let stats = Stats::create(dir, &[description], &[0], 1).unwrap();
    let listener = UnixListener::bind(dir.join("socket")).unwrap();
    close(dir, NULL);
    let counters = stats.counters(0, 0).unwrap();
    counters.set(dpfs::runtime::stats::Gauge::Nodes, 1);
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let thread = std::thread::Builder::new().name(format!("core-{number}"));
            let work = move || {
                let memory = vec![number as u8; 4 << 20];
                std::thread::sleep(Duration::from_millis(1));
                memory.iter().map(|&byte| usize::from(byte)).sum::<usize>()
            };
            thread.spawn(work).unwrap()
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    dpfs::log::info!("{} can still be logged", 1);
    println!("ready");
    let (mut host, _) = listener.accept().unwrap();
    let mut word = [0; 4];
    host.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"ping");
    host.write_all(b"pong").unwrap();
    let _ = std::io::stdin().read(&mut [0]);
    stats.end();
}

fn post(dir: &Path) -> Warden {
    let left = dir.join("left");
    fs::write(&left, "x").unwrap();
    Warden::post(vec![Box::new(move || fs::remove_file(left).unwrap())]).unwrap()
}

fn warden_inside(dir: &Path) {
    let warden = post(dir);
    close(dir, LOCAL);
    warden.finish();
}

fn warden_waits_inside(dir: &Path) {
    let _warden = post(dir);
    close(dir, NULL);
    ready_and_wait();
}
