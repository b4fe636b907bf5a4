//! Descriptors of the process: none leaks, and when it runs out of them the host hears `ENFILE`, and service goes on
//! when they drain.
//!
//! In a process of its own, with one test: they are counted, and their limit is lowered for good.

#[path = "local/host.rs"]
#[allow(dead_code, reason = "the other tests of the backend use the rest")]
mod host;

use dpfs::wire::errno::Errno;
use host::*;

const LIMIT: u64 = 600;

fn lower_the_limit() {
    let limit = libc::rlimit {
        rlim_cur: LIMIT,
        rlim_max: LIMIT,
    };
    // SAFETY: the structure is only read.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

fn nodes_without_handles() {
    let mut host = Host::with(|config| config.handles = false);
    for n in 0..LIMIT {
        std::fs::write(host.path(&n.to_string()), b"x").unwrap();
    }
    let mut nodes = Vec::new();
    let error = loop {
        match host.lookup(ROOT, &nodes.len().to_string()) {
            Ok(entry) => nodes.push(entry.nodeid),
            Err(error) => break error,
        }
    };
    assert_eq!(error, Errno::ENFILE);
    assert!((50..400).contains(&nodes.len()), "{}", nodes.len());
    assert_eq!(host.volume.nodes() as usize, nodes.len() + 1);
    // What the host has is served all the same, and may be looked up again.
    let fh = host.open(nodes[7], O_RDONLY).unwrap();
    assert_eq!(host.read(nodes[7], fh, 0, 10).unwrap(), b"x");
    host.release(nodes[7], fh).unwrap();
    assert_eq!(host.lookup(ROOT, "8").unwrap().nodeid, nodes[8]);
    host.forget(nodes[7], 1);
    assert!(host.lookup(ROOT, &nodes.len().to_string()).is_ok());
    assert_eq!(host.lookup(ROOT, "7").unwrap_err(), Errno::ENFILE);
    host.bed.init();
    assert_eq!(host.volume.node_descriptors(), 0);
}

fn open_files() {
    let mut host = Host::with(|config| config.open_files = 10_000);
    let node = host.file(ROOT, "file", b"x").nodeid;
    for n in 0..100 {
        host.file(ROOT, &n.to_string(), b"");
    }
    assert!(host.volume.node_descriptors() > 50);
    let mut files = Vec::new();
    let error = loop {
        match host.open(node, O_RDONLY) {
            Ok(fh) => files.push(fh),
            Err(error) => break error,
        }
    };
    assert_eq!(error, Errno::ENFILE);
    // Cached descriptors gave way to open files.
    assert!(files.len() as u64 > LIMIT - 100, "{}", files.len());
    assert_eq!(host.read(node, files[0], 0, 10).unwrap(), b"x");
    // Opening a file takes one more for a moment than opening the root does.
    let directories = (0..3).map(|_| host.opendir(ROOT)).find_map(Result::err);
    assert_eq!(directories, Some(Errno::ENFILE));
    for fh in files.drain(..50) {
        host.release(node, fh).unwrap();
    }
    assert!(host.opendir(ROOT).is_ok());
    assert!(host.lookup(ROOT, "5").is_ok());
}

fn descriptors_of_this_process() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn work(host: &mut Host, files: usize) {
    for n in 0..files {
        let name = n.to_string();
        let node = host.file(ROOT, &name, b"x").nodeid;
        let fh = host.open(node, O_RDONLY | O_DIRECT).unwrap();
        let _ = host.read(node, fh, 1, 5);
        host.release(node, fh).unwrap();
        host.unlink(ROOT, &name).unwrap();
        host.forget(node, 1);
    }
    assert_eq!(host.volume.node_descriptors(), 0);
}

fn none_leaks() {
    let mut host = Host::new();
    // What is opened once and kept.
    work(&mut host, 1);
    let before = descriptors_of_this_process();
    work(&mut host, 150);
    let mut now = descriptors_of_this_process();
    // Closed in the background.
    for _ in 0..1000 {
        if now <= before {
            break;
        }
        host.bed.round();
        std::thread::sleep(std::time::Duration::from_millis(10));
        now = descriptors_of_this_process();
    }
    assert!(now <= before, "{before} before, {now} now");
}

#[test]
fn descriptors_do_not_leak_and_running_out_of_them_is_survived() {
    none_leaks();
    lower_the_limit();
    nodes_without_handles();
    open_files();
}
