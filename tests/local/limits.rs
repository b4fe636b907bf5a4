//! Bounds: descriptors, tables, sessions.

use std::fs;

use dpfs::wire::errno::Errno;
use dpfs::wire::fuse::Opcode;
use tempfile::TempDir;

use crate::host::*;

#[test]
fn fifty_thousand_nodes_share_sixty_four_descriptors() {
    const FILES: usize = 50_000;
    let shared_memory = TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .unwrap();
    let mut host = Host::at(shared_memory, |config| {
        config.descriptors = 64;
        config.nodes = FILES as u32 + 10;
    });
    if !host.volume.has_handles() {
        return;
    }
    for n in 0..FILES {
        fs::write(host.path(&format!("{n}")), n.to_string()).unwrap();
    }
    let nodes: Vec<u64> = (0..FILES)
        .map(|n| host.lookup(ROOT, &n.to_string()).unwrap().nodeid)
        .collect();
    assert_eq!(host.volume.nodes() as usize, FILES + 1);
    assert!(host.volume.node_descriptors() <= 64);
    for n in (0..FILES).step_by(97) {
        let attr = host.getattr(nodes[n], None).unwrap();
        assert_eq!(attr.size as usize, n.to_string().len());
        let fh = host.open(nodes[n], O_RDONLY).unwrap();
        assert_eq!(
            host.read(nodes[n], fh, 0, 100).unwrap(),
            n.to_string().as_bytes()
        );
        host.release(nodes[n], fh).unwrap();
    }
    assert!(host.volume.node_descriptors() <= 64);
    for node in nodes {
        host.forget(node, 1);
    }
    assert_eq!(host.volume.nodes(), 1);
    assert_eq!(host.volume.node_descriptors(), 0);
}

#[test]
fn without_handles_each_node_keeps_a_descriptor() {
    let mut host = Host::with(|config| config.handles = false);
    assert!(!host.volume.has_handles());
    let nodes: Vec<u64> = (0..100)
        .map(|n| host.file(ROOT, &n.to_string(), b"x").nodeid)
        .collect();
    assert_eq!(host.volume.node_descriptors(), 100);
    for (n, &node) in nodes.iter().enumerate() {
        assert_eq!(host.lookup(ROOT, &n.to_string()).unwrap().nodeid, node);
        assert_eq!(host.getattr(node, None).unwrap().size, 1);
        let fh = host.open(node, O_RDWR).unwrap();
        assert_eq!(host.read(node, fh, 0, 10).unwrap(), b"x");
        host.unlink(ROOT, &n.to_string()).unwrap();
        host.forget(node, 2);
        // Open, so still there.
        assert_eq!(host.getattr(node, None).unwrap().nlink, 0);
        host.release(node, fh).unwrap();
        assert_eq!(host.getattr(node, None).unwrap_err(), Errno::ESTALE);
    }
    assert_eq!(host.volume.node_descriptors(), 0);
    assert_eq!(host.volume.nodes(), 1);
}

#[test]
fn a_full_node_table_refuses_until_it_drains() {
    let mut host = Host::with(|config| config.nodes = 4);
    let nodes: Vec<u64> = (0..3)
        .map(|n| host.file(ROOT, &n.to_string(), b"").nodeid)
        .collect();
    fs::write(host.path("more"), b"").unwrap();
    assert_eq!(host.lookup(ROOT, "more").unwrap_err(), Errno::ENOMEM);
    assert_eq!(host.mkdir(ROOT, "dir", 0o755).unwrap_err(), Errno::ENOMEM);
    assert_eq!(host.lookup(ROOT, "1").unwrap().nodeid, nodes[1]);
    // Names are still listed, those that cannot be had without attributes.
    let listed = host.list(ROOT, 4096, true);
    assert!(
        listed
            .iter()
            .any(|entry| entry.name == "more" && entry.entry.is_none())
    );
    for entry in listed {
        if let Some(entry) = entry.entry {
            host.forget(entry.nodeid, 1);
        }
    }
    host.forget(nodes[0], 1);
    assert!(host.lookup(ROOT, "more").is_ok());
}

#[test]
fn a_full_file_table_refuses_until_it_drains() {
    let mut host = Host::with(|config| config.open_files = 2);
    let node = host.file(ROOT, "file", b"").nodeid;
    let first = host.open(node, O_RDONLY).unwrap();
    let second = host.opendir(ROOT).unwrap();
    assert_eq!(host.open(node, O_RDONLY).unwrap_err(), Errno::ENFILE);
    assert_eq!(host.opendir(ROOT).unwrap_err(), Errno::ENFILE);
    assert_eq!(
        host.create(ROOT, "new", O_RDWR, 0o600).unwrap_err(),
        Errno::ENFILE
    );
    host.release(node, first).unwrap();
    assert!(host.open(node, O_RDONLY).is_ok());
    assert_eq!(host.releasedir(ROOT, second), Ok(()));
    assert_eq!(host.volume.nodes(), 2);
}

#[test]
fn a_file_that_is_gone_is_stale() {
    let mut host = Host::with(|config| config.descriptors = 1);
    let node = host.file(ROOT, "file", b"").nodeid;
    fs::remove_file(host.path("file")).unwrap();
    host.file(ROOT, "other", b"");
    // Closed in the background.
    let mut result = host.getattr(node, None).map(|_| ());
    for _ in 0..1000 {
        if result.is_err() {
            break;
        }
        host.lookup(ROOT, "other").unwrap();
        host.bed.round();
        std::thread::sleep(std::time::Duration::from_millis(1));
        result = host.getattr(node, None).map(|_| ());
    }
    assert_eq!(result, Err(Errno::ESTALE));
    assert_eq!(host.open(node, O_RDONLY).unwrap_err(), Errno::ESTALE);
}

#[test]
fn a_new_session_begins_with_nothing() {
    for handles in [true, false] {
        let mut host = Host::with(|config| config.handles = handles);
        let dir = host.mkdir(ROOT, "dir", 0o755).unwrap().nodeid;
        let node = host.file(dir, "file", b"content").nodeid;
        let fh = host.open(node, O_RDWR).unwrap();
        host.opendir(dir).unwrap();
        assert_eq!(host.volume.open_files(), 2);
        host.bed.init();
        assert_eq!((host.volume.nodes(), host.volume.open_files()), (1, 0));
        assert_eq!(host.volume.node_descriptors(), 0);
        assert_eq!(host.read(node, fh, 0, 10), Err(Errno::EBADF));
        assert_eq!(host.getattr(node, None).unwrap_err(), Errno::ESTALE);
        let dir = host.lookup(ROOT, "dir").unwrap().nodeid;
        let node = host.lookup(dir, "file").unwrap().nodeid;
        let fh = host.open(node, O_RDONLY).unwrap();
        assert_eq!(host.read(node, fh, 0, 10).unwrap(), b"content");
    }
}

#[test]
fn requests_of_an_old_session_leave_nothing_behind() {
    let mut host = Host::new();
    for n in 0..20 {
        fs::write(host.path(&n.to_string()), b"").unwrap();
    }
    for round in 0..20 {
        let tickets: Vec<_> = (0..20)
            .map(|n| {
                let message = host
                    .message(Opcode::LOOKUP, ROOT)
                    .name(n.to_string())
                    .room(128);
                host.bed.send(&message)
            })
            .collect();
        // In every other round some of them are answered before the session ends.
        let (before, after) = tickets.split_at(if round % 2 == 0 { 0 } else { 10 });
        for ticket in before {
            host.bed.wait(*ticket);
        }
        host.bed.session().reset();
        for ticket in after {
            host.bed.wait(*ticket);
        }
        assert_eq!(host.volume.nodes(), 1, "round {round}");
        host.bed.init();
    }
}
