//! Extended attributes as long as Linux allows.

use dpfs::backend::kv::engine::Engine;
use dpfs::wire::errno::Errno;

use crate::host::{Host, ROOT};

/// Longest value, and longest list of names, in bytes.
const MAX: usize = 65_536;

fn value(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + seed) as u8).collect()
}

/// Set, read and list attributes up to what Linux allows, and beyond.
pub fn reach_what_linux_allows<E: Engine + 'static>(host: &mut Host<E>) {
    let file = host.create(ROOT, "long").unwrap().nodeid;
    // More at once than there are places for; each is the one that was set last.
    for number in 0..20 {
        let long = value(MAX - number, number);
        host.setxattr(file, &format!("user.{number}"), &long)
            .unwrap();
    }
    for (number, len) in [(0, 4096), (1, 4097), (2, 0), (3, MAX)] {
        let name = format!("user.{number}");
        host.setxattr(file, &name, &value(len, 9)).unwrap();
        assert!(
            host.getxattr(file, &name).unwrap() == value(len, 9),
            "{len}"
        );
    }
    for number in 4..20 {
        let found = host.getxattr(file, &format!("user.{number}")).unwrap();
        assert!(found == value(MAX - number, number), "{number}");
    }
    let over = host.setxattr(file, "user.over", &value(MAX + 1, 1));
    assert_eq!(over, Err(Errno::E2BIG));
    assert_eq!(host.listxattr(file).unwrap().len(), 20);
    // 64 KiB of names in many pages of a list; one more byte is too much.
    let many = host.create(ROOT, "many").unwrap().nodeid;
    let names: Vec<String> = (0..MAX / 64).map(|n| format!("user.{n:0>58}")).collect();
    for name in &names {
        host.setxattr(many, name, b"v").unwrap();
    }
    assert!(host.listxattr(many).unwrap() == names);
    host.setxattr(many, "user.x", b"v").unwrap();
    assert_eq!(host.listxattr(many), Err(Errno::E2BIG));
    assert_eq!(host.getxattr(many, "user.x").unwrap(), b"v");
    for name in [&names[7], "user.x"] {
        host.removexattr(many, name).unwrap();
    }
    assert_eq!(host.listxattr(many).unwrap().len(), names.len() - 1);
    assert_eq!(host.removexattr(many, "user.x"), Err(Errno::ENODATA));
}

#[test]
fn attributes_reach_what_linux_allows() {
    reach_what_linux_allows(&mut Host::new());
}

#[test]
fn more_long_values_at_once_than_there_are_places_are_refused_and_none_is_another() {
    let mut host = Host::new();
    let file = host.create(ROOT, "file").unwrap().nodeid;
    let tickets: Vec<_> = (0..12)
        .map(|number| host.send_setxattr(file, &format!("user.{number}"), &value(5000, number)))
        .collect();
    let mut set = 0;
    for (number, ticket) in tickets.into_iter().enumerate() {
        let name = format!("user.{number}");
        match host.wait(ticket).error() {
            None => {
                assert!(host.getxattr(file, &name).unwrap() == value(5000, number));
                set += 1;
            }
            Some(error) => {
                assert_eq!(error, Errno::ENOMEM);
                assert_eq!(host.getxattr(file, &name), Err(Errno::ENODATA));
            }
        }
    }
    assert_eq!(set, 8, "places of one core");
    // The places are free again.
    for number in 0..12 {
        host.setxattr(file, "user.x", &value(60_000, number))
            .unwrap();
    }
}
