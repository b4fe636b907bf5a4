//! The `[[device]]` tables.

use std::ops::Range;
use std::string::{String, ToString};
use std::vec::Vec;

use super::daemon::{absolute, or};
use super::document::{Field, Section};
use super::{Backend, Cache, Device, Hal, Limits, Local, kv, nfs};
use crate::backend::local;
use crate::board;
use crate::wire::open_flags::ClientArch;
use crate::wire::virtio_fs::TAG_LEN;

/// Where a device's parts stand in the text, for problems that only show when all devices are known.
pub(super) struct Places {
    /// The device's key.
    pub key: String,
    pub tag: Range<usize>,
    pub hal: Range<usize>,
    /// The socket, the mount point or the function.
    pub endpoint: Range<usize>,
}

const HALS: [(&str, HalKind); 3] = [
    ("vhost-user", HalKind::VhostUser),
    ("fuse", HalKind::Fuse),
    ("snap", HalKind::Snap),
];

/// The kinds as errors name them.
const HAL_KINDS: &str = "\"vhost-user\", \"fuse\", \"snap\"";

#[derive(Clone, Copy)]
enum HalKind {
    VhostUser,
    Fuse,
    Snap,
}

const BACKENDS: [(&str, BackendKind); 4] = [
    ("null", BackendKind::Null),
    ("local", BackendKind::Local),
    ("kv", BackendKind::Kv),
    ("nfs", BackendKind::Nfs),
];

/// The kinds as errors name them.
const BACKEND_KINDS: &str = "\"null\", \"local\", \"kv\", \"nfs\"";

#[derive(Clone, Copy)]
enum BackendKind {
    Null,
    Local,
    Kv,
    Nfs,
}

/// What the host may keep, by name.
pub(super) const CACHES: [(&str, Cache); 3] = [
    ("none", Cache::None),
    ("auto", Cache::Auto),
    ("always", Cache::Always),
];

const ARCHITECTURES: [(&str, ClientArch); 2] = [
    ("x86_64", ClientArch::X86_64),
    ("aarch64", ClientArch::Aarch64),
];

/// Longest path of a socket: what an address holds, without its NUL and the `~` under which it is made.
const SOCKET_PATH: usize = 106;

/// Time in nanoseconds that an interrupt may be held back: what is usual, and the most. A guest under load is to be
/// spared most of its interrupts, and a request hardly to be seen waiting.
const INTERRUPT_HOLD: u64 = 64_000;
const MAX_INTERRUPT_HOLD: u64 = 1_000_000;

/// Depth of a `/dev/fuse` clone whose configuration does not say: each request takes 2 MiB of buffers.
const FUSE_DEPTH: u64 = 16;

/// Longest name of an emulation manager: what the kernel gives an RDMA device, without its NUL.
const MANAGER: usize = 63;

/// Most physical functions of a PCIe device, and most virtual ones of each (PCIe 4.0, 9.3.3).
const PFS: u64 = 256;
const VFS: u64 = 65_535;

/// Largest file of the `null` backend: Linux's own limit.
const MAX_FILE: u64 = i64::MAX as u64;

/// Read every device. Those with a problem are left out.
pub(super) fn read_all(top: &Section) -> Vec<(Device, Places)> {
    let allowed = "one [[device]] table for each device, at least one";
    let Some(field) = top.need("device", allowed) else {
        return Vec::new();
    };
    let Some(tables) = field.elements(allowed) else {
        return Vec::new();
    };
    if tables.is_empty() {
        let _: Option<()> = field.refuse(allowed);
    }
    tables.iter().filter_map(read).collect()
}

fn read(field: &Field) -> Option<(Device, Places)> {
    let section = field.section("a table [[device]]")?;
    section.only(&["tag", "hal", "backend", "client_arch", "limits"]);
    // Each is read before any `?`, so that one problem does not hide the next.
    let tag_field = section.need("tag", &tag_form());
    let tag = tag_field.as_ref().and_then(tag);
    let hal_field = section.need(
        "hal",
        "a table like { kind = \"vhost-user\", socket = \"/run/dpfs/a.sock\" }",
    );
    let hal = hal_field.as_ref().and_then(hal);
    let backend = section
        .need(
            "backend",
            "a table like { kind = \"local\", path = \"/srv/a\" }",
        )
        .and_then(|field| backend(&field));
    let client_arch = client_arch(&section, hal.as_ref().map(|(hal, _)| hal));
    let limits = limits(&section);
    let (hal, endpoint) = hal?;
    let places = Places {
        key: field.key.clone(),
        tag: tag_field?.span(),
        hal: hal_field?.span(),
        endpoint,
    };
    let device = Device {
        tag: tag?,
        hal,
        backend: backend?,
        client_arch: client_arch?,
        limits: limits?,
    };
    Some((device, places))
}

fn tag_form() -> String {
    format!("a name of 1 to {TAG_LEN} bytes without control characters")
}

fn tag(field: &Field) -> Option<String> {
    let good = |tag: &str| (1..=TAG_LEN).contains(&tag.len()) && !tag.contains(char::is_control);
    field.text(&tag_form(), good).map(|tag| tag.to_string())
}

fn hal(field: &Field) -> Option<(Hal, Range<usize>)> {
    let section = field.section(&format!("a table with a kind: {HAL_KINDS}"))?;
    let kind = section.need("kind", HAL_KINDS)?.choice(&HALS)?;
    let queues = |section: &Section| {
        or(section.get("queues"), board::DEFAULT_QUEUES, |field| {
            field.count(1..=board::QUEUES)
        })
    };
    let depth = |section: &Section, default| {
        or(section.get("depth"), default, |field| {
            field.power_of_two(2..=board::DEPTH)
        })
    };
    match kind {
        HalKind::VhostUser => {
            section.only(&["kind", "socket", "queues", "depth", "interrupt_hold"]);
            let allowed = format!("an absolute path of at most {SOCKET_PATH} bytes");
            let field = section.need("socket", &allowed);
            let good = |path: &str| {
                path.starts_with('/')
                    && path.len() <= SOCKET_PATH
                    && !path.contains('\0')
                    && !path.ends_with('/')
            };
            let socket = field.as_ref().and_then(|field| field.text(&allowed, good));
            let (queues, depth) = (queues(&section), depth(&section, board::DEFAULT_DEPTH));
            let hold = or(section.get("interrupt_hold"), INTERRUPT_HOLD, |field| {
                field.duration(0..=MAX_INTERRUPT_HOLD)
            });
            let hal = Hal::VhostUser {
                socket: socket?.into(),
                queues: queues? as u16,
                depth: depth? as u16,
                interrupt_hold: hold?,
            };
            Some((hal, field?.span()))
        }
        HalKind::Fuse => {
            section.only(&["kind", "mountpoint", "queues", "depth"]);
            let field = section.need("mountpoint", "an absolute path");
            let mountpoint = field.as_ref().and_then(absolute);
            let (queues, depth) = (queues(&section), depth(&section, FUSE_DEPTH));
            let hal = Hal::Fuse {
                mountpoint: mountpoint?,
                queues: queues? as u16,
                depth: depth? as u16,
            };
            Some((hal, field?.span()))
        }
        HalKind::Snap => {
            section.only(&["kind", "manager", "pf", "vf", "queues", "depth"]);
            let allowed = format!("the name of an RDMA device, 1 to {MANAGER} bytes");
            let good =
                |name: &str| (1..=MANAGER).contains(&name.len()) && !name.contains(['/', '\0']);
            let manager = section.need("manager", &allowed);
            let manager = manager.and_then(|field| field.text(&allowed, good).map(String::from));
            let pf_field = section.need("pf", "the number of a physical function");
            let pf = pf_field.as_ref().and_then(|field| field.count(0..=PFS - 1));
            let vf_field = section.get("vf");
            let last = vf_field.as_ref().or(pf_field.as_ref()).map(Field::span);
            let vf = or(vf_field, None, |field| field.count(0..=VFS - 1).map(Some));
            let (queues, depth) = (queues(&section), depth(&section, board::DEFAULT_DEPTH));
            let hal = Hal::Snap {
                manager: manager?,
                pf: pf? as u32,
                vf: vf?.map(|vf| vf as u32),
                queues: queues? as u16,
                depth: depth? as u16,
            };
            Some((hal, last?))
        }
    }
}

fn backend(field: &Field) -> Option<Backend> {
    let section = field.section(&format!("a table with a kind: {BACKEND_KINDS}"))?;
    let kind = section.need("kind", BACKEND_KINDS)?.choice(&BACKENDS)?;
    match kind {
        BackendKind::Null => {
            section.only(&["kind", "file_size"]);
            let file_size = or(section.get("file_size"), 1 << 30, |field| {
                field.size(0..=MAX_FILE)
            })?;
            Some(Backend::Null { file_size })
        }
        BackendKind::Local => local(&section).map(Backend::Local),
        BackendKind::Kv => kv::read(&section).map(Backend::Kv),
        BackendKind::Nfs => nfs::read(&section).map(Backend::Nfs),
    }
}

fn local(section: &Section) -> Option<Local> {
    section.only(&[
        "kind",
        "path",
        "cache",
        "read_only",
        "writeback",
        "acl",
        "direct_io",
        "descriptors",
        "workers",
        "sqpoll",
        "blocking_writes",
    ]);
    let flag = |key, default| or(section.get(key), default, Field::flag);
    let defaults = local::Config::new("/");
    let path = section
        .need("path", "an absolute path")
        .and_then(|field| absolute(&field));
    let cache = or(section.get("cache"), Cache::Auto, |field| {
        field.choice(&CACHES)
    });
    let read_only = flag("read_only", false);
    let writeback = or(section.get("writeback"), false, |field| {
        let writeback = field.flag()?;
        if writeback && cache == Some(Cache::None) {
            return field.refuse("false with cache = \"none\"");
        }
        if writeback && read_only == Some(true) {
            return field.refuse("false with read_only = true");
        }
        Some(writeback)
    });
    let descriptors = or(
        section.get("descriptors"),
        defaults.descriptors.into(),
        |field| field.count(64..=1 << 24),
    );
    let workers = or(section.get("workers"), defaults.workers.into(), |field| {
        field.count(1..=64)
    });
    let acl = flag("acl", defaults.acl);
    let direct_io = flag("direct_io", defaults.direct_io);
    let sqpoll = flag("sqpoll", false);
    let blocking_writes = flag("blocking_writes", false);
    Some(Local {
        path: path?,
        cache: cache?,
        read_only: read_only?,
        writeback: writeback?,
        acl: acl?,
        direct_io: direct_io?,
        descriptors: descriptors? as u32,
        workers: workers? as u16,
        sqpoll: sqpoll?,
        blocking_writes: blocking_writes?,
    })
}

/// Read the host's architecture. A mount of this machine has this machine's.
fn client_arch(section: &Section, hal: Option<&Hal>) -> Option<ClientArch> {
    let own = if cfg!(target_arch = "aarch64") {
        ClientArch::Aarch64
    } else {
        ClientArch::X86_64
    };
    let same_machine = matches!(hal, Some(Hal::Fuse { .. }));
    let default = if same_machine {
        own
    } else {
        ClientArch::X86_64
    };
    or(section.get("client_arch"), default, |field| {
        let chosen = field.choice(&ARCHITECTURES)?;
        if same_machine && chosen != own {
            return field.refuse("this machine's architecture with the \"fuse\" HAL");
        }
        Some(chosen)
    })
}

fn limits(section: &Section) -> Option<Limits> {
    let mut limits = Limits {
        iops: None,
        bandwidth: None,
        nodes: board::DEFAULT_NODES as u32,
        open_files: board::DEFAULT_OPEN_FILES as u32,
    };
    let Some(field) = section.get("limits") else {
        return Some(limits);
    };
    let section = field.section("a table like { iops = 20000, bandwidth = \"1GiB\" }")?;
    section.only(&["iops", "bandwidth", "nodes", "open_files"]);
    let iops = or(section.get("iops"), None, |field| {
        field.count(1..=1_000_000_000).map(Some)
    });
    let bandwidth = or(section.get("bandwidth"), None, |field| {
        field.size(4096..=1 << 40).map(Some)
    });
    let nodes = or(section.get("nodes"), board::DEFAULT_NODES, |field| {
        field.count(16..=board::NODES)
    });
    let open_files = or(
        section.get("open_files"),
        board::DEFAULT_OPEN_FILES,
        |field| field.count(16..=board::OPEN_FILES),
    );
    limits.iops = iops?;
    limits.bandwidth = bandwidth?;
    limits.nodes = nodes? as u32;
    limits.open_files = open_files? as u32;
    Some(limits)
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use std::string::{String, ToString};

    const HAL: &str = "hal = { kind = \"vhost-user\", socket = \"/s\" }";
    const NULL: &str = "backend = { kind = \"null\" }";

    /// Read one device with these lines and give the problem, or nothing.
    fn problem(lines: &[&str]) -> String {
        let text = format!("[[device]]\n{}\n", lines.join("\n"));
        match Config::parse("f", &text) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_device_needs_tag_hal_and_backend() {
        let error = problem(&[]);
        assert_eq!(error.lines().count(), 3, "{error}");
        for (line, key) in error.lines().zip(["tag", "hal", "backend"]) {
            assert!(
                line.starts_with(&format!("f:1:1: device[0].{key}: missing; allowed: ")),
                "{line}"
            );
        }
    }

    #[test]
    fn a_file_without_devices_says_so() {
        let error = Config::parse("f", "[runtime]\n").unwrap_err().to_string();
        assert!(
            error.starts_with("f:1:1: device: missing; allowed: one [[device]]"),
            "{error}"
        );
        let error = Config::parse("f", "device = []").unwrap_err().to_string();
        assert!(
            error.starts_with("f:1:10: device: found []; allowed: one [[device]]"),
            "{error}"
        );
    }

    #[test]
    fn tags_fit_the_configuration_space() {
        assert_eq!(problem(&["tag = \"a\"", HAL, NULL]), "");
        for tag in [
            "\"\"".into(),
            format!("\"{}\"", "x".repeat(37)),
            "\"a\\u0000\"".into(),
            "1".into(),
        ] {
            let line = format!("tag = {tag}");
            let error = problem(&[&line, HAL, NULL]);
            assert!(error.starts_with("f:2:7: device[0].tag: found "), "{error}");
        }
    }

    #[test]
    fn keys_of_another_kind_are_unknown() {
        let error = problem(&[
            "tag = \"a\"",
            HAL,
            "backend = { kind = \"null\", path = \"/\" }",
        ]);
        assert_eq!(
            error,
            "f:4:28: device[0].backend.path: unknown key; allowed: kind, file_size"
        );
    }

    #[test]
    fn a_kind_is_needed_and_a_table() {
        let error = problem(&["tag = \"a\"", "hal = \"fuse\"", NULL]);
        assert!(
            error.starts_with("f:3:7: device[0].hal: found \"fuse\"; allowed: a table"),
            "{error}"
        );
        let error = problem(&["tag = \"a\"", "hal = { socket = \"/s\" }", NULL]);
        assert!(
            error.starts_with("f:3:7: device[0].hal.kind: missing"),
            "{error}"
        );
    }

    #[test]
    fn a_socket_path_fits_an_address() {
        let hal = format!(
            "hal = {{ kind = \"vhost-user\", socket = \"/{}\" }}",
            "s".repeat(107)
        );
        let error = problem(&["tag = \"a\"", &hal, NULL]);
        assert!(
            error.contains("allowed: an absolute path of at most 106 bytes"),
            "{error}"
        );
    }

    #[test]
    fn a_function_is_named_by_manager_and_numbers() {
        let with = |more: &str| {
            let hal = format!("hal = {{ kind = \"snap\", {more} }}");
            problem(&["tag = \"a\"", &hal, NULL])
        };
        assert_eq!(with("manager = \"mlx5_0\", pf = 0"), "");
        assert_eq!(
            with("manager = \"mlx5_0\", pf = 1, vf = 3, queues = 2, depth = 64"),
            ""
        );
        for (line, wanted) in [
            (
                "pf = 0",
                "hal.manager: missing; allowed: the name of an RDMA device",
            ),
            (
                "manager = \"mlx5_0\"",
                "hal.pf: missing; allowed: the number of a physical function",
            ),
            ("manager = \"\", pf = 0", "hal.manager: found \"\""),
            (
                "manager = \"m\", pf = 256",
                "hal.pf: found 256; allowed: 0 to 255",
            ),
            (
                "manager = \"m\", pf = 0, vf = -1",
                "hal.vf: found -1; allowed: 0 to 65534",
            ),
            (
                "manager = \"m\", pf = 0, depth = 48",
                "hal.depth: found 48; allowed: a power of two",
            ),
            (
                "manager = \"m\", pf = 0, socket = \"/s\"",
                "hal.socket: unknown key",
            ),
        ] {
            let error = with(line);
            assert!(error.contains(wanted), "{line}: {error}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let with = |more: &str| {
            let backend = format!("backend = {{ kind = \"local\", path = \"/p\", {more} }}");
            problem(&["tag = \"a\"", HAL, &backend])
        };
        assert_eq!(with("writeback = true"), "");
        assert!(with("writeback = true, cache = \"none\"").contains("allowed: false with cache"));
        assert!(
            with("read_only = true, writeback = true").contains("allowed: false with read_only")
        );
        let fuse = "hal = { kind = \"fuse\", mountpoint = \"/m\" }";
        let other = if cfg!(target_arch = "aarch64") {
            "x86_64"
        } else {
            "aarch64"
        };
        let error = problem(&[
            "tag = \"a\"",
            fuse,
            NULL,
            &format!("client_arch = \"{other}\""),
        ]);
        assert!(error.contains("device[0].client_arch: "), "{error}");
    }

    #[test]
    fn limits_keep_to_the_board() {
        let error = problem(&[
            "tag = \"a\"",
            HAL,
            NULL,
            "limits = { nodes = 99_000_000_000, iops = 0, bandwidth = \"1X\" }",
        ]);
        assert_eq!(error.lines().count(), 3, "{error}");
        assert!(
            error.contains(&format!("allowed: 16 to {}", crate::board::NODES)),
            "{error}"
        );
    }
}
