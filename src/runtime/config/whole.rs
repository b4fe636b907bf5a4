//! What only shows when all devices are known: duplicates, sums, mounts within what they serve.

use std::path::Path;
use std::string::String;
use std::vec::Vec;

use super::device::Places;
use super::problem::Problems;
use super::{Backend, Device, Hal};
use crate::board;

/// Note what is wrong with the devices together.
pub(super) fn check(problems: &Problems, devices: &[(Device, Places)]) {
    for (index, (device, places)) in devices.iter().enumerate() {
        let others = &devices[..index];
        check_names(problems, device, places, others);
        check_mount(problems, device, places, devices);
        if index as u64 == board::DEVICES {
            problems.add(
                &places.tag,
                &places.key,
                format!("too many devices; allowed: {}", board::DEVICES),
            );
        }
    }
    check_requests(problems, devices);
}

fn check_names(problems: &Problems, device: &Device, places: &Places, others: &[(Device, Places)]) {
    let line_of = |other: &Places| problems.position(other.tag.start).0;
    if let Some((_, other)) = others.iter().find(|(other, _)| other.tag == device.tag) {
        let what = format!(
            "each tag once; the device of line {} has it, too",
            line_of(other)
        );
        problems.refuse(&places.tag, &format!("{}.tag", places.key), &what);
    }
    let same = |other: &Device| same_endpoint(&device.hal, &other.hal);
    if let Some((_, other)) = others.iter().find(|(other, _)| same(other)) {
        let (name, key) = match device.hal {
            Hal::VhostUser { .. } => ("socket", "hal.socket"),
            Hal::Fuse { .. } => ("mountpoint", "hal.mountpoint"),
            Hal::Snap { vf: None, .. } => ("function", "hal.pf"),
            Hal::Snap { .. } => ("function", "hal.vf"),
        };
        let what = format!(
            "each {name} once; the device of line {} has it, too",
            line_of(other)
        );
        problems.refuse(&places.endpoint, &format!("{}.{key}", places.key), &what);
    }
}

fn same_endpoint(one: &Hal, other: &Hal) -> bool {
    match (one, other) {
        (Hal::VhostUser { socket: one, .. }, Hal::VhostUser { socket: other, .. })
        | (
            Hal::Fuse {
                mountpoint: one, ..
            },
            Hal::Fuse {
                mountpoint: other, ..
            },
        ) => parts(one) == parts(other),
        (
            Hal::Snap {
                manager, pf, vf, ..
            },
            Hal::Snap {
                manager: other,
                pf: other_pf,
                vf: other_vf,
                ..
            },
        ) => (manager, pf, vf) == (other, other_pf, other_vf),
        _ => false,
    }
}

/// Refuse a mount inside of a directory that a device serves: a walk through it would wait for the daemon within the
/// daemon.
fn check_mount(
    problems: &Problems,
    device: &Device,
    places: &Places,
    devices: &[(Device, Places)],
) {
    let Hal::Fuse { mountpoint, .. } = &device.hal else {
        return;
    };
    for (server, _) in devices {
        if let Backend::Local(local) = &server.backend
            && parts(mountpoint).starts_with(&parts(&local.path))
        {
            let what = format!(
                "a folder outside of {}, which device \"{}\" serves",
                local.path.display(),
                server.tag
            );
            problems.refuse(
                &places.endpoint,
                &format!("{}.hal.mountpoint", places.key),
                &what,
            );
        }
    }
}

fn check_requests(problems: &Problems, devices: &[(Device, Places)]) {
    let mut sum = 0;
    for (device, places) in devices {
        // The queue for FORGETs is as deep as the others.
        let queues = u64::from(device.hal.queues()) + u64::from(device.hal.has_hiprio());
        let here = queues * u64::from(device.hal.depth());
        if sum <= board::REQUESTS && sum + here > board::REQUESTS {
            let key = format!("{}.hal", places.key);
            let what = format!(
                "{} requests in flight over all queues of all devices; here {queues} queues x {} on top of {sum}",
                board::REQUESTS,
                device.hal.depth(),
            );
            problems.refuse(&places.hal, &key, &what);
        }
        sum += here;
    }
}

/// Split a path into its names, without what changes nothing (`//`, `/./`). Links are not followed.
fn parts(path: &Path) -> Vec<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn device(tag: &str, hal: &str, backend: &str) -> String {
        format!("[[device]]\ntag = \"{tag}\"\nhal = {{ {hal} }}\nbackend = {{ {backend} }}\n")
    }

    fn problem(devices: &[String]) -> String {
        match Config::parse("f", &devices.concat()) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    const NULL: &str = "kind = \"null\"";

    fn vhost(socket: &str) -> String {
        format!("kind = \"vhost-user\", socket = \"{socket}\"")
    }

    #[test]
    fn tags_and_sockets_are_used_once() {
        let one = device("a", &vhost("/run/a"), NULL);
        assert_eq!(
            problem(&[one.clone(), device("b", &vhost("/run/b"), NULL)]),
            ""
        );
        assert_eq!(
            problem(&[one.clone(), device("a", &vhost("/run/b"), NULL)]),
            "f:6:7: device[1].tag: found \"a\"; allowed: each tag once; the device of line 2 has it, too"
        );
        let error = problem(&[one, device("b", &vhost("/run/./x/../a"), NULL)]);
        assert!(
            error.contains(
                "device[1].hal.socket: found \"/run/./x/../a\"; allowed: each socket once"
            ),
            "{error}"
        );
    }

    #[test]
    fn mount_points_are_used_once_and_outside_of_what_is_served() {
        let fuse = |path: &str| format!("kind = \"fuse\", mountpoint = \"{path}\"");
        let error = problem(&[
            device("a", &fuse("/m"), NULL),
            device("b", &fuse("//m/"), NULL),
        ]);
        assert!(error.contains("each mountpoint once"), "{error}");
        let error = problem(&[device(
            "a",
            &fuse("/srv/x/m"),
            "kind = \"local\", path = \"/srv/x\"",
        )]);
        assert!(
            error.contains("allowed: a folder outside of /srv/x, which device \"a\" serves"),
            "{error}"
        );
        assert_eq!(
            problem(&[device(
                "a",
                &fuse("/srv/xm"),
                "kind = \"local\", path = \"/srv/x\""
            )]),
            ""
        );
    }

    #[test]
    fn functions_are_used_once() {
        let snap = |vf: &str| format!("kind = \"snap\", manager = \"m\", pf = 0{vf}");
        let one = device("a", &snap(", vf = 1"), NULL);
        assert_eq!(problem(&[one.clone(), device("b", &snap(""), NULL)]), "");
        let error = problem(&[one.clone(), device("b", &snap(", vf = 1"), NULL)]);
        assert_eq!(
            error,
            "f:7:52: device[1].hal.vf: found 1; allowed: each function once; the device of line 2 has it, too"
        );
    }

    #[test]
    fn requests_of_all_queues_are_summed() {
        use crate::board;
        let deep = |n: u64| {
            let hal = format!(
                "{}, queues = {}, depth = {}",
                vhost(&format!("/s{n}")),
                board::QUEUES,
                board::DEPTH
            );
            device(&format!("d{n}"), &hal, NULL)
        };
        let fit = board::REQUESTS / ((board::QUEUES + 1) * board::DEPTH);
        assert_eq!(problem(&(0..fit).map(deep).collect::<Vec<_>>()), "");
        let error = problem(&(0..fit + 2).map(deep).collect::<Vec<_>>());
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains(&format!("device[{fit}].hal: ")), "{error}");
    }
}
