//! The `nfs` backend of a `[[device]]` table.

use std::string::{String, ToString};
use std::vec::Vec;

use super::Cache;
use super::daemon::or;
use super::device::CACHES;
use super::document::{Field, Section};
use super::{Files, tls};
use crate::backend::nfs::MAX_REFERRED;

/// Configure the `nfs` backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nfs {
    /// Names or addresses of the server, each with or without a port behind a colon; a name is looked up once, at the
    /// start. Connections go by all addresses that lead to one server.
    pub servers: Vec<String>,
    /// Servers that referrals are followed to: the name or address that servers tell, and what [`Self::servers`] takes. None
    /// is connected to before a referral leads there. Default: none, at most 8.
    pub referrals: Vec<(String, Vec<String>)>,
    /// TCP port of servers for which none is said. Default: 2049.
    pub port: u16,
    /// Path of the export in the server's tree.
    pub export: String,
    /// Minor version of NFSv4, 1 or 2; `None` for 2, or 1 where the server has no 2. Default: `None`.
    pub minor: Option<u32>,
    /// TCP connections of each core. Default: 1.
    pub connections: u32,
    /// Fail with `EIO` what the server has not done within `timeo`, `retrans` + 1 times, instead of waiting for ever.
    /// Default: false.
    pub soft: bool,
    /// Nanoseconds without an answer after which a connection is made anew. Default: 60 s.
    pub timeo: u64,
    /// Times `timeo` that a soft mount bears beside the first. Default: 2.
    pub retrans: u32,
    /// Connect from a port below 1024. Default: false.
    pub reserved_port: bool,
    /// What the host may keep. Default: auto.
    pub cache: Cache,
    /// Be told of answers by an io_uring instead of asking the connections in each round. Default: false.
    pub io_uring: bool,
    /// Refuse every change with `EROFS`. Default: false.
    pub read_only: bool,
    /// Bytes of content that the server has and has not yet made durable, which are kept to be written again; zero, with
    /// `write = "stable"`, has it made durable before each answer. Default: 32 MiB.
    pub uncommitted: u64,
    /// Locks are held at the server, against all its clients, rather than by the host's kernel alone. Default: true.
    pub server_locks: bool,
    /// Numbers of owners that the server has names for. Default: none.
    pub owners: Vec<(String, u32)>,
    /// Numbers of groups, likewise. Default: none.
    pub groups: Vec<(String, u32)>,
    /// Tell the server nothing of who asks (AUTH_NONE). Default: false.
    pub anonymous: bool,
    /// Files of TLS (RFC 9289). Default: connections without it.
    pub tls: Option<Files>,
}

const VERSIONS: [(&str, Option<u32>); 3] = [("auto", None), ("4.1", Some(1)), ("4.2", Some(2))];

const RECOVERIES: [(&str, bool); 2] = [("hard", false), ("soft", true)];

const WRITES: [(&str, bool); 2] = [("unstable", false), ("stable", true)];

/// Least and most bytes that are kept; the largest WRITE has to fit.
const UNCOMMITTED: (u64, u64) = (4 << 20, 4 << 30);

const LOCKS: [(&str, bool); 2] = [("server", true), ("host", false)];

const FLAVORS: [(&str, bool); 2] = [("sys", false), ("none", true)];

/// Longest name of a host (RFC 1035, section 2.3.4).
const HOST: usize = 253;

/// Most names of a server.
const SERVERS: usize = 16;

/// Longest name of an owner.
const NAME: usize = 255;

/// Longest path of an export.
const EXPORT: usize = 1023;

/// Shortest and longest silence in nanoseconds.
const TIMEO: (u64, u64) = (100_000_000, 600_000_000_000);

/// Read the table.
pub(super) fn read(section: &Section) -> Option<Nfs> {
    let mut keys = std::vec![
        "kind",
        "server",
        "port",
        "export",
        "version",
        "connections",
        "recovery",
        "timeo",
        "retrans",
        "reserved_port",
        "io_uring",
        "cache",
        "read_only",
        "auth",
        "write",
        "uncommitted",
        "locks",
        "owners",
        "groups",
        "referrals",
    ];
    keys.extend(tls::KEYS);
    section.only(&keys);
    // Each is read before any `?`, so that one problem does not hide the next.
    let allowed = format!("a name or an address of at most {HOST} bytes, or a list of these");
    let servers = section
        .need("server", &allowed)
        .and_then(|field| servers(&field, &allowed));
    let allowed = format!("an absolute path of at most {EXPORT} bytes");
    let export = section.need("export", &allowed).and_then(|field| {
        let good = |path: &str| {
            path.starts_with('/')
                && path.len() <= EXPORT
                && !path.contains('\0')
                && !path.split('/').any(|part| part == "." || part == "..")
        };
        field.text(&allowed, good).map(|path| path.to_string())
    });
    let count = |key, default, range| or(section.get(key), default, |field| field.count(range));
    let flag = |key| or(section.get(key), false, Field::flag);
    let port = count("port", 2049, 1..=u64::from(u16::MAX));
    let minor = or(section.get("version"), None, |field| {
        field.choice(&VERSIONS)
    });
    let connections = count("connections", 1, 1..=16);
    let soft = or(section.get("recovery"), false, |field| {
        field.choice(&RECOVERIES)
    });
    let timeo = or(section.get("timeo"), 60_000_000_000, |field| {
        field.duration(TIMEO.0..=TIMEO.1)
    });
    let retrans = count("retrans", 2, 0..=100);
    let cache = or(section.get("cache"), Cache::Auto, |field| {
        field.choice(&CACHES)
    });
    let anonymous = or(section.get("auth"), false, |field| field.choice(&FLAVORS));
    let server_locks = or(section.get("locks"), true, |field| field.choice(&LOCKS));
    let stable = or(section.get("write"), false, |field| field.choice(&WRITES));
    let uncommitted = section.get("uncommitted").map(|field| match stable {
        Some(true) => field.refuse("nothing with write = \"stable\""),
        _ => field.size(UNCOMMITTED.0..=UNCOMMITTED.1),
    });
    let names = |key| or(section.get(key), Vec::new(), names);
    let (owners, groups) = (names("owners"), names("groups"));
    let referrals = or(section.get("referrals"), Vec::new(), referrals);
    let (reserved_port, read_only) = (flag("reserved_port"), flag("read_only"));
    let io_uring = flag("io_uring");
    let tls = tls::read(section);
    Some(Nfs {
        servers: servers?,
        referrals: referrals?,
        port: port? as u16,
        export: export?,
        minor: minor?,
        connections: connections? as u32,
        soft: soft?,
        timeo: timeo?,
        retrans: retrans? as u32,
        reserved_port: reserved_port?,
        io_uring: io_uring?,
        cache: cache?,
        read_only: read_only?,
        anonymous: anonymous?,
        tls: tls?,
        server_locks: server_locks?,
        owners: owners?,
        groups: groups?,
        uncommitted: match (stable?, uncommitted) {
            (true, _) => 0,
            (false, None) => 32 << 20,
            (false, Some(bytes)) => bytes?,
        },
    })
}

/// Tell whether something may be the name or the address of a server.
fn is_host(name: &str) -> bool {
    (1..=HOST).contains(&name.len())
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/')
}

/// Read the servers that referrals are followed to.
fn referrals(field: &Field) -> Option<Vec<(String, Vec<String>)>> {
    let allowed = format!(
        "a table of at most {MAX_REFERRED} servers: the name that servers tell, of at most {HOST} bytes, and a name or an \
         address, or a list of these"
    );
    let section = field.section(&allowed)?;
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for (name, places) in section.entries() {
        let twice = |(known, _): &(String, _)| known.eq_ignore_ascii_case(name);
        if !is_host(name) || found.len() == MAX_REFERRED || found.iter().any(twice) {
            return field.refuse(&allowed);
        }
        found.push((name.to_string(), servers(&places, &allowed)?));
    }
    Some(found)
}

/// Read the names of a server.
fn servers(field: &Field, allowed: &str) -> Option<Vec<String>> {
    let one = |field: &Field| field.text(allowed, is_host).map(|name| name.to_string());
    if !field.is_list() {
        return one(field).map(|name| std::vec![name]);
    }
    let elements = field.elements(allowed)?;
    if !(1..=SERVERS).contains(&elements.len()) {
        return field.refuse("1 to 16 names or addresses");
    }
    elements.iter().map(one).collect()
}

/// Read names and their numbers.
fn names(field: &Field) -> Option<Vec<(String, u32)>> {
    let allowed = format!("a table of names, of at most {NAME} bytes, and numbers");
    let section = field.section(&allowed)?;
    let mut names = Vec::new();
    for (name, field) in section.entries() {
        if !(1..=NAME).contains(&name.len()) {
            return field.refuse(&allowed);
        }
        names.push((
            name.to_string(),
            field.count(0..=u64::from(u32::MAX - 1))? as u32,
        ));
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::super::{Backend, Config};
    use super::*;

    fn parse(more: &str) -> Result<Nfs, String> {
        let text = format!(
            "[[device]]\ntag = \"a\"\nhal = {{ kind = \"vhost-user\", socket = \"/s\" }}\nbackend = {{ kind = \"nfs\", {more} }}"
        );
        let config = Config::parse("f", &text).map_err(|error| error.to_string())?;
        match &config.devices[0].backend {
            Backend::Nfs(nfs) => Ok(nfs.clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_server_and_an_export_are_enough() {
        let nfs = parse("server = \"filer.example.org\", export = \"/srv/a\"").unwrap();
        assert_eq!((nfs.port, nfs.minor, nfs.connections), (2049, None, 1));
        assert_eq!(
            (nfs.soft, nfs.timeo, nfs.retrans),
            (false, 60_000_000_000, 2)
        );
        assert!(!nfs.reserved_port && !nfs.read_only && !nfs.anonymous);
        let nfs = parse(
            "server = \"::1\", export = \"/\", version = \"4.1\", recovery = \"soft\", timeo = \"5s\", auth = \"none\"",
        );
        let nfs = nfs.unwrap();
        assert_eq!(
            (nfs.minor, nfs.soft, nfs.timeo),
            (Some(1), true, 5_000_000_000)
        );
        assert!(nfs.anonymous && nfs.server_locks);
        let nfs =
            parse("server = [\"a\", \"192.0.2.1\"], export = \"/\", io_uring = true").unwrap();
        assert_eq!(nfs.servers, ["a", "192.0.2.1"]);
        assert!(nfs.io_uring);
        let nfs = parse("server = \"a\", export = \"/\", locks = \"host\"").unwrap();
        assert!(!nfs.server_locks);
        let nfs = parse(
            "server = \"a\", export = \"/\", owners = { \"alice@a.org\" = 1000, bob = 1001 }, groups = {}",
        );
        let owners = [("alice@a.org".to_string(), 1000), ("bob".to_string(), 1001)];
        assert_eq!(nfs.unwrap().owners, owners);
        let nfs = parse(
            "server = \"a:7\", export = \"/\", referrals = { \"b.example.org\" = \"192.0.2.2:7\", c = [\"c\", \"d\"] }",
        );
        let referrals = [
            ("b.example.org", vec!["192.0.2.2:7"]),
            ("c", vec!["c", "d"]),
        ];
        let found = nfs.unwrap().referrals;
        assert!(
            found
                .iter()
                .map(|(name, at)| (name.as_str(), at.clone()))
                .eq(referrals.map(|(name, at)| (
                    name,
                    at.iter().map(ToString::to_string).collect::<Vec<_>>()
                )))
        );
    }

    #[test]
    fn tls_is_for_every_server() {
        let at = "server = \"a\", export = \"/\"";
        assert_eq!(parse(at).unwrap().tls, None);
        let all = "tls = true, tls_ca = \"/ca\", tls_name = \"a.example\", tls_cert = \"/c\", tls_key = \"/k\"";
        let read = parse(&format!("{at}, referrals = {{ b = \"c\" }}, {all}"));
        if cfg!(feature = "tls") {
            let files = read.unwrap().tls.unwrap();
            assert_eq!(files.ca.to_str(), Some("/ca"));
            assert_eq!(files.name.as_deref(), Some("a.example"));
            assert_eq!(files.identity, Some(("/c".into(), "/k".into())));
        } else {
            assert!(read.unwrap_err().contains("built without TLS"));
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_allowed() {
        for (line, wanted) in [
            (
                "export = \"/\"",
                "server: missing; allowed: a name or an address",
            ),
            (
                "server = \"a\"",
                "export: missing; allowed: an absolute path",
            ),
            (
                "server = [], export = \"/\"",
                "allowed: 1 to 16 names or addresses",
            ),
            (
                "server = [\"a\", \"/b\"], export = \"/\"",
                "server[1]: found \"/b\"",
            ),
            (
                "server = \"a b\", export = \"/\"",
                "server: found \"a b\"; allowed: ",
            ),
            (
                "server = \"a\", export = \"x\"",
                "export: found \"x\"; allowed: an absolute path",
            ),
            (
                "server = \"a\", export = \"/x/../y\"",
                "allowed: an absolute path",
            ),
            (
                "server = \"a\", export = \"/\", version = \"3\"",
                "allowed: \"auto\", \"4.1\", \"4.2\"",
            ),
            (
                "server = \"a\", export = \"/\", connections = 17",
                "allowed: 1 to 16",
            ),
            (
                "server = \"a\", export = \"/\", timeo = \"1ms\"",
                "timeo: found \"1ms\"; allowed: ",
            ),
            (
                "server = \"a\", export = \"/\", referrals = [\"b\"]",
                "referrals: found [\"b\"]; allowed: a table of at most 8 servers",
            ),
            (
                "server = \"a\", export = \"/\", referrals = { \"b c\" = \"d\" }",
                "allowed: a table of at most 8 servers: the name that servers tell",
            ),
            (
                "server = \"a\", export = \"/\", referrals = { b = \"c\", B = \"d\" }",
                "allowed: a table of at most 8 servers",
            ),
            (
                "server = \"a\", export = \"/\", referrals = { b = \"/c\" }",
                "referrals.b: found \"/c\"; allowed: a table",
            ),
            (
                "server = \"a\", export = \"/\", referrals = { b = [] }",
                "referrals.b: found []; allowed: 1 to 16 names or addresses",
            ),
            (
                "server = \"a\", export = \"/\", referrals = { a=\"a\",b=\"a\",c=\"a\",d=\"a\",e=\"a\",f=\"a\",g=\"a\",h=\"a\",i=\"a\" }",
                "allowed: a table of at most 8 servers",
            ),
            (
                "server = \"a\", export = \"/\", hard = true",
                "hard: unknown key",
            ),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(wanted), "{line}: {error}");
        }
    }
}
