//! The daemon dies at every change it makes, in turn; what is left is what was there before or after the request that it
//! died in, and a check finds no damage.

use std::collections::BTreeMap;

use dpfs::backend::kv::embedded::Store;
use dpfs::backend::kv::fsck::{self, Report};
use dpfs::wire::errno::Errno;

use crate::host::{Host, ROOT, Result, store};

pub fn fsck(store: &'static Store, repair: bool) -> Report {
    fsck::check(&mut store.engine().unwrap(), repair, &mut |_, _| ()).unwrap()
}

type Step = (&'static str, fn(&mut Host) -> Result<()>);

fn node(host: &mut Host, name: &str) -> Result<u64> {
    host.lookup(ROOT, name).map(|entry| entry.nodeid)
}

/// One of each kind of change, each visible.
const STEPS: &[Step] = &[
    ("create", |host| host.create(ROOT, "a").map(drop)),
    ("write", |host| {
        let file = node(host, "a")?;
        host.write(file, 100, &[1; 9000], (0, 0)).map(drop)
    }),
    ("mkdir", |host| host.mkdir(ROOT, "d").map(drop)),
    ("symlink", |host| host.symlink(ROOT, "s", "a").map(drop)),
    ("setxattr", |host| {
        let file = node(host, "a")?;
        host.setxattr(file, "user.x", b"value")
    }),
    ("link", |host| {
        let (file, dir) = (node(host, "a")?, node(host, "d")?);
        host.link(file, dir, "twin").map(drop)
    }),
    ("create another", |host| host.create(ROOT, "b").map(drop)),
    ("write it", |host| {
        let file = node(host, "b")?;
        host.write(file, 0, &[2; 20_000], (0, 0)).map(drop)
    }),
    ("copy", |host| {
        let (from, to) = (node(host, "b")?, node(host, "a")?);
        host.copy((from, 300), (to, 5000), 15_000).map(drop)
    }),
    ("truncate", |host| {
        let file = node(host, "b")?;
        host.truncate(file, 4500).map(drop)
    }),
    ("extend", |host| {
        let file = node(host, "b")?;
        host.truncate(file, 12_000).map(drop)
    }),
    ("punch", |host| {
        let file = node(host, "b")?;
        host.fallocate(file, 0, 1000, 3)
    }),
    ("rename", |host| {
        let dir = node(host, "d")?;
        host.rename((ROOT, "b"), (dir, "c"), 0)
    }),
    ("replace", |host| {
        let dir = node(host, "d")?;
        host.rename((dir, "c"), (ROOT, "a"), 0)
    }),
    ("exchange", |host| {
        let dir = node(host, "d")?;
        host.rename((dir, "twin"), (ROOT, "s"), 2)
    }),
    ("whiteout", |host| host.rename((ROOT, "a"), (ROOT, "z"), 4)),
    ("unlink", |host| host.unlink(ROOT, "z")),
    ("unlink the rest", |host| {
        let dir = node(host, "d")?;
        host.unlink(dir, "twin")
    }),
    ("rmdir", |host| host.rmdir(ROOT, "d")),
];

/// End the session, so that what has no name is removed.
fn forget_all(host: &mut Host) {
    host.bed.session().reset();
    for _ in 0..50 {
        host.bed.round();
    }
}

#[test]
fn a_daemon_that_dies_at_any_change_leaves_one_state_or_the_next() {
    // The states without faults.
    let mut states: Vec<BTreeMap<String, String>> = Vec::new();
    {
        let mut host = Host::on(store());
        states.push(host.snapshot());
        for (name, step) in STEPS {
            step(&mut host).unwrap_or_else(|error| panic!("{name}: {error}"));
            states.push(host.snapshot());
        }
    }
    let mut deaths = 0;
    for changes in 1.. {
        let store = store();
        let mut host = Host::on(store);
        host.faults.left.set(Some(changes));
        let mut died = None;
        for (at, (name, step)) in STEPS.iter().enumerate() {
            match step(&mut host) {
                Ok(()) => {}
                Err(Errno::ECANCELED) => {
                    died = Some((at, name));
                    break;
                }
                Err(error) => panic!("{name}: {error}"),
            }
        }
        // The dead one's replies still lend memory; it is left as a killed process leaves its own.
        std::mem::forget(host);
        let Some((at, name)) = died else { break };
        deaths += 1;
        let report = fsck(store, false);
        assert_eq!(report.damage, Vec::<String>::new(), "{name}, {changes}");
        let mut next = Host::on(store);
        let found = next.snapshot();
        assert!(
            found == states[at] || found == states[at + 1],
            "{name} after {changes} changes:\n{found:#?}\nnot\n{:#?}\nnor\n{:#?}",
            states[at],
            states[at + 1]
        );
        // What the crash left behind is gone by itself.
        let report = fsck(store, false);
        assert_eq!(
            (report.orphans, report.damage.len()),
            (0, 0),
            "{name}: {report:?}"
        );
        // The file system goes on from there, whatever is left of the request.
        next.create(ROOT, "after").unwrap();
        forget_all(&mut next);
        assert_eq!(fsck(store, true).damage, Vec::<String>::new());
        assert_eq!(fsck(store, false).marks, 0);
    }
    assert!(deaths >= STEPS.len(), "{deaths} deaths");
}

#[test]
fn damage_is_found_and_repaired() {
    use dpfs::backend::kv::engine::{Key, Op, Write};
    use dpfs::backend::kv::setup::call;
    let store = store();
    let mut host = Host::on(store);
    let dir = host.mkdir(ROOT, "dir").unwrap();
    let file = host.create(dir.nodeid, "file").unwrap();
    host.write(file.nodeid, 0, b"saved", (0, 0)).unwrap();
    let twin = host.create(dir.nodeid, "twin").unwrap();
    let (dir, file) = (dir.attr.ino, file.attr.ino);
    let twin = twin.attr.ino;
    let harms: [&[Write]; 5] = [
        &[Write::Delete(Key::Name(dir, b"file"))],
        &[Write::Delete(Key::Position(dir, file))],
        &[Write::Delete(Key::Inode(twin))],
        &[Write::Delete(Key::Inode(dir))],
        &[
            Write::Put(Key::Orphan(99), &[]),
            Write::Put(Key::Inode(77), b"short"),
        ],
    ];
    for harm in harms {
        let op = Op::Transact {
            checks: &[],
            writes: harm,
        };
        call(&mut store.engine().unwrap(), &op, &mut |_| ()).unwrap();
        assert!(!fsck(store, false).damage.is_empty(), "{harm:?}");
        let before = fsck(store, true);
        assert!(!before.damage.is_empty());
        let after = fsck(store, false);
        assert_eq!(after.damage, Vec::<String>::new(), "{harm:?}: {before:?}");
    }
    let mut host = Host::on(store);
    let saved = host.lookup(ROOT, &format!("#{file}")).unwrap();
    assert_eq!(host.read(saved.nodeid, 0, 10).unwrap(), b"saved");
}
