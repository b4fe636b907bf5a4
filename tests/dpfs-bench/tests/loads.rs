//! The program on real devices of this process: every job runs, and every kind of lie is found out.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use dpfs::backend::local::{Cache, Config, LocalVolume};
use dpfs::backend::null::Null;
use dpfs::fuse::{
    Data, Dispatcher, Entry, Fh, FileSystem, Limits, Name, NodeId, Opened, Reply, Request, Session,
    Volume, Written,
};
use dpfs::hal::vhost_user::{Control, VhostUserConfig, bind};
use dpfs::mem::{Finished, RequestTable};
use dpfs::runtime::{Lane, Load, Observer, SessionEvents, Worker};
use dpfs::sys::map;
use dpfs::sys::time::Instant;
use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::{ReleaseFlags, WriteFlags};
use dpfs::wire::open_flags::{ClientArch, OpenFlags};

const QUEUES: u16 = 2;
const DEPTH: u16 = 256;

struct Nobody;

impl Observer for Nobody {
    fn finished(&mut self, _: &Finished, _: u64) {}
    fn round_ended(&mut self, _: Load) {}
}

/// A device on a socket, served by a thread of this process.
struct Served {
    socket: PathBuf,
    control: Control,
    end: Arc<AtomicBool>,
    core: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Served {
    fn new(
        volume: &'static dyn Volume,
        attach: impl FnOnce() -> Box<dyn FileSystem> + Send + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("sock");
        let config = VhostUserConfig {
            socket: socket.clone(),
            mode: 0o600,
            tag: "bench".into(),
            request_queues: QUEUES,
            interrupt_hold: 0,
            inband_notifications: false,
        };
        let session = Session::new(volume, Limits::default(), ClientArch::X86_64);
        let session: &'static Session = Box::leak(Box::new(session));
        let events = Box::leak(Box::new(SessionEvents(session)));
        let (queues, mut control) = bind(&config, events).unwrap();
        let end = Arc::new(AtomicBool::new(false));
        let core = {
            let end = Arc::clone(&end);
            std::thread::spawn(move || {
                let bytes = queues.len() * RequestTable::footprint(DEPTH) + Dispatcher::FOOTPRINT;
                let arena = map::reserve(bytes).unwrap();
                let mut lanes = Vec::new();
                let mut tables = Vec::new();
                for (index, queue) in queues.into_iter().enumerate() {
                    let first = index as u32 * u32::from(DEPTH);
                    let table = RequestTable::new(&arena, DEPTH, first).unwrap();
                    tables.push(table);
                    lanes.push(Lane {
                        queue: Box::leak(Box::new(queue)),
                        table,
                    });
                }
                let mut worker = Worker::new(
                    lanes.leak(),
                    tables.leak(),
                    Dispatcher::new(session, &arena).unwrap(),
                    Box::leak(attach()),
                    Box::leak(Box::new(Nobody)),
                    None,
                );
                while !end.load(Ordering::Relaxed) {
                    if !worker.round(Instant::now()) {
                        std::thread::yield_now();
                    }
                }
            })
        };
        control.start().unwrap();
        Self {
            socket,
            control,
            end,
            core: Some(core),
            _folder: folder,
        }
    }

    fn local(directory: &Path) -> Self {
        let volume = LocalVolume::open(Config {
            cache: Cache::None,
            nodes: 10_000,
            open_files: 1000,
            ..Config::new(directory)
        });
        let volume = volume.unwrap();
        let slots = u32::from(QUEUES + 1) * u32::from(DEPTH);
        Self::new(volume, move || Box::new(volume.attach(slots).unwrap()))
    }

    fn lying(lie: Lie) -> Self {
        Self::new(Box::leak(Box::new(Null::default())), move || {
            Box::new(Liar {
                null: Null::default(),
                lie,
                kept: None,
            })
        })
    }

    fn bench(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dpfs-bench"));
        command.arg(arguments[0]).arg("--socket").arg(&self.socket);
        command.args(&arguments[1..]).output().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.control.stop();
        self.end.store(true, Ordering::Relaxed);
        if let Some(core) = self.core.take() {
            core.join().unwrap();
        }
    }
}

#[derive(Clone, Copy)]
enum Lie {
    Error,
    Short,
    Silence,
}

/// `null`, but for READ.
struct Liar {
    null: Null,
    lie: Lie,
    kept: Option<Reply<Data>>,
}

impl FileSystem for Liar {
    fn lookup(&mut self, rq: &Request, parent: NodeId, name: Name<'_>, reply: Reply<Entry>) {
        self.null.lookup(rq, parent, name, reply);
    }

    fn opendir(&mut self, rq: &Request, node: NodeId, flags: OpenFlags, reply: Reply<Opened>) {
        self.null.opendir(rq, node, flags, reply);
    }

    fn open(
        &mut self,
        rq: &Request,
        node: NodeId,
        flags: OpenFlags,
        kill: bool,
        reply: Reply<Opened>,
    ) {
        self.null.open(rq, node, flags, kill, reply);
    }

    fn write(
        &mut self,
        rq: &Request,
        node: NodeId,
        fh: Fh,
        offset: u64,
        how: WriteFlags,
        flags: OpenFlags,
        reply: Reply<Written>,
    ) {
        self.null.write(rq, node, fh, offset, how, flags, reply);
    }

    fn read(&mut self, _: &Request, _: NodeId, _: Fh, _: u64, _: OpenFlags, reply: Reply<Data>) {
        match self.lie {
            Lie::Error => reply.err(Errno::ENOSPC),
            Lie::Short => {
                let half = reply.wanted() / 2;
                reply.filled(half);
            }
            Lie::Silence => self.kept = Some(reply),
        }
    }

    fn release(
        &mut self,
        _: &Request,
        _: NodeId,
        _: Fh,
        _: ReleaseFlags,
        _: u64,
        reply: Reply<()>,
    ) {
        reply.ok(());
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_job_runs_and_every_byte_is_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::local(folder.path());
    let jobs = "randread,randwrite,mixed,read,write,getattr,lookup,readdir,create-unlink";
    for (depth, queues, wait) in [("1", "1", false), ("7", "2", false), ("16", "2", true)] {
        let mut arguments = vec![
            "run", "--job", jobs, "--verify", "--count", "2000", "--depth", depth, "--queues",
            queues, "--size", "1m", "--json",
        ];
        if wait {
            arguments.push("--wait");
        }
        let out = served.bench(&arguments);
        assert!(out.status.success(), "{}", text(&out.stderr));
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let runs = json.as_array().unwrap();
        assert_eq!(runs.len(), 9);
        for run in runs {
            assert!(run["requests"].as_u64().unwrap() >= 2000, "{run}");
            assert!(run["iops"].as_f64().unwrap() > 0.0, "{run}");
            assert!(run["p50_us"].as_f64() <= run["max_us"].as_f64(), "{run}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "create-unlink leaves nothing: {left:?}");
}

#[test]
fn the_same_jobs_run_on_a_directory_and_in_process() {
    let folder = tempfile::tempdir().unwrap();
    let bench = || Command::new(env!("CARGO_BIN_EXE_dpfs-bench"));
    let dir = bench()
        .args(["run", "--dir"])
        .arg(folder.path())
        .args([
            "--job",
            "randread,write,mixed,getattr,lookup,readdir,create-unlink",
        ])
        .args(["--verify", "--count", "500", "--size", "1m"])
        .output()
        .unwrap();
    assert!(dir.status.success(), "{}", text(&dir.stderr));
    let null = bench()
        .args([
            "run",
            "--loopback",
            "--job",
            "randread,randwrite,create-unlink",
        ])
        .args(["--count", "5000", "--depth", "1,32"])
        .output()
        .unwrap();
    assert!(null.status.success(), "{}", text(&null.stderr));
}

#[test]
fn data_that_was_never_written_is_found_out() {
    let served = Served::new(Box::leak(Box::new(Null::default())), || {
        Box::new(Null::default())
    });
    let out = served.bench(&[
        "run", "--job", "randread", "--verify", "--count", "100", "--size", "1m",
    ]);
    assert!(!out.status.success());
    let error = text(&out.stderr);
    assert!(
        error.contains("READ (unique") && error.contains("wrong data: byte"),
        "{error}"
    );
}

#[test]
fn writes_that_are_lost_are_found_out() {
    let served = Served::new(Box::leak(Box::new(Null::default())), || {
        Box::new(Null::default())
    });
    for job in ["randwrite", "write"] {
        let out = served.bench(&[
            "run", "--job", job, "--verify", "--count", "100", "--size", "1m",
        ]);
        let error = text(&out.stderr);
        assert!(!out.status.success());
        assert!(error.contains("times): wrong data"), "{error}");
    }
}

#[test]
fn an_error_a_short_read_and_silence_fail_the_run_and_name_the_request() {
    for (lie, words) in [
        (Lie::Error, "ENOSPC"),
        (Lie::Short, "2048 bytes instead of 4096"),
        (Lie::Silence, "no answer within 0.3 s"),
    ] {
        let served = Served::lying(lie);
        let out = served.bench(&[
            "run",
            "--job",
            "randread",
            "--count",
            "100",
            "--size",
            "1m",
            "--deadline",
            "0.3",
        ]);
        let error = text(&out.stderr);
        assert!(!out.status.success());
        assert!(
            error.contains("READ (unique") && error.contains("queue 1"),
            "{error}"
        );
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn our_own_device_conforms_and_a_liar_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let out = Served::local(folder.path()).bench(&["conformance"]);
    assert!(out.status.success(), "{}", text(&out.stdout));
    let out = Served::lying(Lie::Silence).bench(&["conformance", "--deadline", "0.3"]);
    assert!(!out.status.success());
    assert!(text(&out.stdout).contains("READ"), "{}", text(&out.stdout));
}
