//! A mount of this machine through `/dev/fuse`, with the real kernel on the other side.
//!
//! Needs `/dev/fuse` and the package `fuse3`. As root it mounts by mount(2) and, as the user "nobody", through
//! `fusermount3`; otherwise only the latter.
#![cfg(feature = "fuse-dev")]

mod memfs;

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dpfs::fuse::{Limits, Session};
use dpfs::hal::Events;
use dpfs::hal::fuse_dev::{Config, FuseMount, Method, MountError, mount};
use dpfs::mem::Finished;
use dpfs::runtime::{CoreLoop, Load, Observer, Polling, Share, Stop};
use dpfs::sys::identity;
use dpfs::wire::open_flags::ClientArch;
use memfs::Volatile;

/// Count nothing.
struct Nobody;

impl Observer for Nobody {
    fn finished(&mut self, _finished: &Finished, _now: u64) {}
    fn round_ended(&mut self, _: Load) {}
}

/// Pass on the end of the device, and count it.
struct End {
    session: &'static Session,
    times: AtomicU32,
}

impl Events for End {
    fn reset(&self) {
        self.times.fetch_add(1, Ordering::Relaxed);
        self.session.reset();
    }
}

/// Longest time for a mount of the tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// Abort the mounts of a test that hangs: whoever waits inside one cannot even be killed, for the threads that should
/// answer die with it.
fn watch(point: &Path) -> mpsc::Sender<()> {
    let (alive, died) = mpsc::channel();
    let point = CString::new(point.to_str().unwrap()).unwrap();
    thread::spawn(move || {
        if died.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{point:?} hangs");
            // SAFETY: the kernel reads a terminated string.
            unsafe { libc::umount2(point.as_ptr(), libc::MNT_FORCE | libc::MNT_DETACH) };
        }
    });
    alive
}

/// Serve a mount on threads of this process.
struct Served {
    mount: Option<FuseMount>,
    volume: &'static Volatile,
    end: &'static End,
    cores: Vec<(Stop, JoinHandle<usize>)>,
    _watched: mpsc::Sender<()>,
    directory: tempfile::TempDir,
}

impl Served {
    fn new(method: Method, queues: u16, depth: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::at(directory, method, queues, depth).unwrap()
    }

    fn at(
        directory: tempfile::TempDir,
        method: Method,
        queues: u16,
        depth: u16,
    ) -> Result<Self, MountError> {
        assert!(
            Path::new("/dev/fuse").exists(),
            "this machine has no /dev/fuse: load the kernel's module with `modprobe fuse`"
        );
        let volume = Volatile::new();
        let session = Session::new(volume, Limits::default(), ClientArch::default());
        let session: &'static Session = Box::leak(Box::new(session));
        let times = AtomicU32::new(0);
        let end: &'static End = Box::leak(Box::new(End { session, times }));
        let config = Config {
            queues,
            depth,
            method,
            ..Config::new(directory.path(), "memory, with a comma")
        };
        let (queues, mount) = mount(&config, end)?;
        let cores = queues.into_iter().map(|queue| {
            let stop = Stop::new().unwrap();
            let share = Share {
                session,
                backend: volume,
                queues: vec![Box::new(queue) as Box<dyn dpfs::runtime::Served + Send>],
                depth,
                observer: Box::new(Nobody),
                admission: None,
            };
            let told = stop.clone();
            let core = thread::spawn(move || {
                let worker = share.into_worker().unwrap();
                CoreLoop::new(vec![worker], Polling::Sleep, told)
                    .unwrap()
                    .run()
            });
            (stop, core)
        });
        Ok(Self {
            cores: cores.collect(),
            _watched: watch(mount.mountpoint()),
            mount: Some(mount),
            volume,
            end,
            directory,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn mount(&self) -> &FuseMount {
        self.mount.as_ref().unwrap()
    }

    /// Unmount and stop; nothing may be left.
    fn stop(mut self) -> tempfile::TempDir {
        let mut mount = self.mount.take().unwrap();
        mount.unmount().unwrap();
        assert!(!mounted(self.directory.path()));
        within(|| self.end.times.load(Ordering::Relaxed) == 1);
        for (stop, core) in self.cores {
            stop.stop();
            assert_eq!(core.join().unwrap(), 0, "requests were left");
        }
        assert_eq!(
            self.end.times.load(Ordering::Relaxed),
            1,
            "the end is told once"
        );
        self.directory
    }
}

/// Tell whether something is mounted on a directory, without asking it.
fn mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let point = path.to_str().unwrap();
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(point))
}

/// Wait for something to become true.
fn within(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE / 2, "waited in vain");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The ways to mount that this user has.
fn methods() -> Vec<Method> {
    if identity::uid() == 0 {
        vec![Method::Direct, Method::Helper]
    } else {
        vec![Method::Helper]
    }
}

/// Do a bit of everything.
fn work(served: &Served) {
    let file = served.path("file");
    fs::write(&file, b"some bytes").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"some bytes");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!((metadata.len(), metadata.mode() & 0o7777), (10, 0o640));
    assert_eq!(metadata.uid(), identity::uid());
    OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(4)
        .unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"some");

    fs::create_dir(served.path("directory")).unwrap();
    for index in 0..300 {
        fs::write(
            served.path(&format!("directory/{index:0100}")),
            [index as u8],
        )
        .unwrap();
    }
    let list = |path| {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let names = list(served.path("directory"));
    assert_eq!(names.len(), 300);
    assert_eq!(names[299].len(), 100);
    let not_empty = fs::remove_dir(served.path("directory")).unwrap_err();
    assert_eq!(not_empty.kind(), io::ErrorKind::DirectoryNotEmpty);
    for name in names {
        fs::remove_file(served.path("directory").join(name)).unwrap();
    }
    fs::remove_dir(served.path("directory")).unwrap();
    fs::remove_file(&file).unwrap();
    assert_eq!(
        fs::metadata(&file).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    assert_eq!(list(served.path("")), [""; 0]);
}

#[test]
fn a_mount_works_and_leaves_nothing_behind() {
    for method in methods() {
        let served = Served::new(method, 1, 16);
        assert!(served.mount().alive());
        assert_eq!(served.mount().method(), method);
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table
            .lines()
            .find(|line| line.contains(served.directory.path().to_str().unwrap()));
        let line = line.expect("in the table of mounts");
        assert!(
            line.contains(r"fuse.dpfs memory,\040with\040a\040comma"),
            "{line}"
        );
        assert!(
            line.contains("default_permissions") && line.contains("nosuid"),
            "{line}"
        );
        work(&served);
        let directory = served.stop();
        // The same directory again, with a new session.
        let served = Served::at(directory, method, 2, 16).unwrap();
        work(&served);
        served.stop();
    }
}

#[test]
fn files_of_a_mebibyte_travel_in_requests_of_a_mebibyte() {
    let served = Served::new(Method::Auto, 1, 16);
    let data: Vec<u8> = (0..5_000_000_u32).map(|at| (at % 251) as u8).collect();
    let path = served.path("large");
    fs::write(&path, &data).unwrap();
    let largest = served.volume.largest_write.load(Ordering::Relaxed);
    assert_eq!(largest, 1 << 20);
    assert!(
        fs::read(&path).unwrap() == data,
        "the data came back changed"
    );
    served.stop();
}

#[test]
fn threads_work_side_by_side_on_two_clones() {
    let served = Served::new(Method::Auto, 2, 4);
    thread::scope(|scope| {
        for thread in 0..8_u8 {
            let served = &served;
            scope.spawn(move || {
                let path = served.path(&format!("{thread}"));
                for round in 0..50_u8 {
                    let data = vec![thread ^ round; 70_000];
                    fs::write(&path, &data).unwrap();
                    assert!(fs::read(&path).unwrap() == data);
                    fs::remove_file(&path).unwrap();
                }
            });
        }
    });
    let asked = served.volume.asked();
    assert!(
        asked.iter().all(|&count| count > 100),
        "not every core worked: {asked:?}"
    );
    served.stop();
}

#[test]
fn a_slow_read_is_overtaken() {
    let served = Served::new(Method::Auto, 1, 4);
    fs::write(served.path("slow"), [7; 10]).unwrap();
    fs::write(served.path("fast"), [8; 10]).unwrap();
    let drop_cache = |name: &str| {
        let file = File::open(served.path(name)).unwrap();
        // SAFETY: plain call.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        file
    };
    let (slow, fast) = (drop_cache("slow"), drop_cache("fast"));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = [0; 10];
            slow.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes, [7; 10]);
            done.store(true, Ordering::Relaxed);
        });
        let mut bytes = [0; 10];
        fast.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [8; 10]);
        assert!(!done.load(Ordering::Relaxed), "the slow one came first");
    });
    drop((slow, fast));
    served.stop();
}

/// Lock a whole file exclusively, or unlock it, for this descriptor alone.
///
/// Such a lock is to be released by hand: the kernel does not do it at close(2) where the locks are the server's.
fn lock(file: &File, kind: i32, command: i32) -> io::Result<()> {
    // SAFETY: all zero is a valid lock of the whole file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as i16;
    // SAFETY: the kernel reads one lock.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, ptr::from_ref(&lock)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn try_lock(file: &File) -> io::Result<()> {
    lock(file, libc::F_WRLCK, libc::F_OFD_SETLK)
}

fn wait_for_lock(file: &File) -> io::Result<()> {
    lock(file, libc::F_WRLCK, libc::F_OFD_SETLKW)
}

fn unlock(file: &File) {
    lock(file, libc::F_UNLCK, libc::F_OFD_SETLK).unwrap();
}

#[test]
fn a_signal_interrupts_who_waits_for_a_lock() {
    extern "C" fn ignore(_signal: i32) {}
    // SAFETY: the handler does nothing; without SA_RESTART the call it interrupts ends with EINTR.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, ptr::null_mut()), 0);
    }
    // With two clones the INTERRUPT often arrives at the core that does not have the request.
    let served = Served::new(Method::Auto, 2, 8);
    let open = || {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(served.path("lock"))
    };
    let holder = open().unwrap();
    try_lock(&holder).unwrap();
    for round in 0..20 {
        let waiter = open().unwrap();
        assert_eq!(
            try_lock(&waiter).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        let (send, receive) = mpsc::channel();
        let thread = thread::spawn(move || {
            // SAFETY: plain call.
            send.send(unsafe { libc::pthread_self() }).unwrap();
            wait_for_lock(&waiter)
        });
        let target = receive.recv().unwrap();
        thread::sleep(Duration::from_millis(5));
        let start = Instant::now();
        while !thread.is_finished() {
            assert!(
                start.elapsed() < PATIENCE / 2,
                "round {round}: still waiting"
            );
            // SAFETY: the thread was not joined yet.
            unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
            thread::sleep(Duration::from_millis(2));
        }
        let error = thread.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }
    assert!(served.volume.interrupts.load(Ordering::Relaxed) >= 20);
    // One that is not interrupted gets the lock when its holder lets go.
    let waiter = open().unwrap();
    let thread = thread::spawn(move || wait_for_lock(&waiter));
    thread::sleep(Duration::from_millis(5));
    unlock(&holder);
    drop(holder);
    thread.join().unwrap().unwrap();
    served.stop();
}

#[test]
fn more_requests_than_slots_wait_their_turn() {
    let served = Served::new(Method::Auto, 1, 2);
    fs::write(served.path("slow"), [7; 10]).unwrap();
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // Past the page cache, so that each asks for itself.
                let mut options = OpenOptions::new();
                let file = options
                    .read(true)
                    .custom_flags(libc::O_DIRECT)
                    .open(served.path("slow"));
                let mut bytes = [0; 16];
                assert_eq!(file.unwrap().read_at(&mut bytes, 0).unwrap(), 10);
                assert_eq!(bytes[..10], [7; 10]);
            });
        }
    });
    assert!(
        start.elapsed() >= Duration::from_millis(200),
        "two at a time, 50 ms each"
    );
    served.stop();
}

#[test]
fn a_forgotten_node_goes() {
    let served = Served::new(Method::Auto, 1, 8);
    use dpfs::runtime::Backend;
    for index in 0..100 {
        let path = served.path(&format!("{index}"));
        fs::write(&path, b"x").unwrap();
        fs::remove_file(&path).unwrap();
    }
    within(|| served.volume.forgets.load(Ordering::Relaxed) >= 100);
    within(|| served.volume.nodes() == 1);
    served.stop();
}

#[test]
fn an_aborted_connection_ends_cleanly() {
    for method in methods() {
        let mut served = Served::new(method, 2, 8);
        let number = served.mount().connection().expect("in the table of mounts");
        let open = File::create(served.path("file")).unwrap();
        abort(number);
        within(|| served.end.times.load(Ordering::Relaxed) == 1);
        assert!(!served.mount().alive());
        assert!(open.metadata().is_err());
        let error = fs::metadata(served.path("file"))
            .unwrap_err()
            .raw_os_error();
        assert!(
            matches!(error, Some(libc::ECONNABORTED | libc::ENOTCONN)),
            "{error:?}"
        );
        // The device's threads sleep: an ended device does not wake them again and again.
        let mount = served.mount.as_mut().unwrap();
        mount.unmount().unwrap();
        served.stop();
    }
}

/// Abort a connection as an administrator does.
fn abort(number: u32) {
    let control = Path::new("/sys/fs/fuse/connections").join(number.to_string());
    if control.exists() {
        return fs::write(control.join("abort"), "1").unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let point = CString::new(directory.path().to_str().unwrap()).unwrap();
    dpfs::sys::mount::mount(c"none", &point, c"fusectl", 0, c"")
        .expect("/sys/fs/fuse/connections is not mounted, and only root can mount it");
    let control = directory.path().join(number.to_string());
    let aborted = fs::write(control.join("abort"), "1");
    dpfs::sys::mount::detach(&point).unwrap();
    aborted.unwrap();
}

/// Start this program again to do one thing; it says "ready" when it has begun.
fn again(task: &str, argument: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "task_of_another_process", "--nocapture"])
        .env("DPFS_TEST_TASK", task)
        .env("DPFS_TEST_ARGUMENT", argument)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap().contains("ready")),
        "{task} did not begin"
    );
    child
}

/// Do what [`again`] asks for; nothing when the tests are run.
#[test]
fn task_of_another_process() {
    let Some(task) = std::env::var_os("DPFS_TEST_TASK") else {
        return;
    };
    let argument = PathBuf::from(std::env::var_os("DPFS_TEST_ARGUMENT").unwrap());
    match task.to_str().unwrap() {
        "lock" => {
            let file = OpenOptions::new().write(true).open(argument).unwrap();
            println!("ready");
            wait_for_lock(&file).unwrap();
        }
        served => {
            let method = if served == "serve Direct" {
                Method::Direct
            } else {
                Method::Helper
            };
            let config = Config {
                method,
                ..Config::new(argument, "memory")
            };
            let session = Session::new(Volatile::new(), Limits::default(), ClientArch::default());
            let session: &'static Session = Box::leak(Box::new(session));
            let times = AtomicU32::new(0);
            let _mount = mount(&config, Box::leak(Box::new(End { session, times }))).unwrap();
            println!("ready");
            thread::sleep(Duration::from_secs(60));
        }
    }
}

#[test]
fn a_killed_process_that_waits_for_a_lock_dies() {
    let served = Served::new(Method::Auto, 2, 8);
    let holder = File::create(served.path("lock")).unwrap();
    try_lock(&holder).unwrap();
    let mut child = again("lock", &served.path("lock"));
    thread::sleep(Duration::from_millis(20));
    assert!(child.try_wait().unwrap().is_none(), "it should wait");
    child.kill().unwrap();
    let start = Instant::now();
    assert!(!child.wait().unwrap().success());
    assert!(start.elapsed() < PATIENCE / 2);
    unlock(&holder);
    drop(holder);
    served.stop();
}

#[test]
fn the_mount_point_of_a_dead_daemon_is_named_and_can_be_cleared() {
    for method in methods() {
        let directory = tempfile::tempdir().unwrap();
        let mut daemon = again(&format!("serve {method:?}"), directory.path());
        assert!(mounted(directory.path()));
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        let config = Config::new(directory.path(), "memory");
        let session = Session::new(Volatile::new(), Limits::default(), ClientArch::default());
        let session: &'static Session = Box::leak(Box::new(session));
        let times = AtomicU32::new(0);
        let end: &'static End = Box::leak(Box::new(End { session, times }));
        let Err(error) = mount(&config, end) else {
            panic!("mounted over a dead mount");
        };
        let MountError::Stale { clear, .. } = &error else {
            panic!("{error}");
        };
        assert!(error.to_string().contains(clear.as_str()), "{error}");
        let status = Command::new("sh").args(["-c", clear]).status().unwrap();
        assert!(status.success(), "{clear}");
        let served = Served::at(directory, method, 1, 8).unwrap();
        work(&served);
        served.stop();
    }
}

#[test]
fn who_unmounted_already_is_not_disturbed() {
    let mut served = Served::new(Method::Auto, 1, 8);
    let point = served.directory.path().to_str().unwrap().to_string();
    let tool = if identity::uid() == 0 {
        "umount"
    } else {
        "fusermount3 -u"
    };
    let status = Command::new("sh")
        .args(["-c", &format!("{tool} {point}")])
        .status();
    assert!(status.unwrap().success());
    within(|| served.end.times.load(Ordering::Relaxed) == 1);
    assert!(!served.mount().alive());
    // Another mount at the same place stays.
    let directory = std::mem::replace(&mut served.directory, tempfile::tempdir().unwrap());
    let other = Served::at(directory, Method::Auto, 1, 8).unwrap();
    served.mount.take().unwrap().unmount().unwrap();
    work(&other);
    other.stop();
    for (stop, core) in served.cores {
        stop.stop();
        core.join().unwrap();
    }
}

#[test]
fn a_mount_point_that_cannot_be_used_is_named() {
    struct Deaf;
    impl Events for Deaf {
        fn reset(&self) {}
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    let refuse = |path: &Path| match mount(&Config::new(path, "memory"), &Deaf) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("mounted on {}", path.display()),
    };
    assert!(refuse(&file).ends_with("ENOTDIR(20)"));
    assert!(refuse(&directory.path().join("none")).ends_with("ENOENT(2)"));
}

/// Run a program as "nobody", in a view of the machine where `/dev/fuse` is open to all, as it is on every
/// distribution but not in every container.
const AS_NOBODY: &str = r#"
set -e
mknod -m 666 "$1/device" c 10 229
mount --bind "$1/device" /dev/fuse
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$1/program" --exact \
    a_mount_works_and_leaves_nothing_behind threads_work_side_by_side_on_two_clones
"#;

#[test]
fn nobody_mounts_with_the_helper() {
    if identity::uid() != 0 {
        // The tests above ran as a user already.
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(
        std::env::current_exe().unwrap(),
        directory.path().join("program"),
    )
    .unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", AS_NOBODY, "sh"])
        .arg(directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("2 passed"), "{said}");
}

#[test]
fn options_of_a_mount_reach_the_kernel() {
    let directory = tempfile::tempdir().unwrap();
    let volume = Volatile::new();
    let session = Session::new(volume, Limits::default(), ClientArch::default());
    let session: &'static Session = Box::leak(Box::new(session));
    let times = AtomicU32::new(0);
    let end: &'static End = Box::leak(Box::new(End { session, times }));
    for method in methods() {
        let config = Config {
            method,
            read_only: true,
            allow_other: identity::uid() == 0,
            ..Config::new(directory.path(), "memory")
        };
        let (_queues, mut mount) = mount(&config, end).unwrap();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let point = directory.path().to_str().unwrap();
        let line = table.lines().find(|line| line.contains(point)).unwrap();
        assert!(line.contains(" ro,"), "{line}");
        assert_eq!(line.contains("allow_other"), config.allow_other, "{line}");
        mount.unmount().unwrap();
    }
}
