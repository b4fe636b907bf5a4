//! The `kv` backend's table, whose keys depend on the engine.

use std::path::PathBuf;
use std::string::{String, ToString};
use std::vec::Vec;

#[cfg(feature = "kv-embedded")]
use super::Embedded;
use super::daemon::{absolute, or};
use super::device::CACHES;
use super::document::{Field, Section};
use super::tls;
use super::{Cache, Durability, Kv, KvEngine, Layout, Ramcloud, Valkey};
use crate::backend::kv::ramcloud::server as table;
use crate::backend::kv::valkey::server::Place;
use crate::wire::ramcloud::locator;

#[derive(Clone, Copy)]
enum Engine {
    #[cfg(feature = "kv-embedded")]
    Embedded,
    Valkey,
    Ramcloud,
}

const ENGINES: &[(&str, Engine)] = &[
    #[cfg(feature = "kv-embedded")]
    ("embedded", Engine::Embedded),
    ("valkey", Engine::Valkey),
    ("ramcloud", Engine::Ramcloud),
];
const ENGINE_NAMES: &str = if cfg!(feature = "kv-embedded") {
    "\"embedded\", \"valkey\", \"ramcloud\""
} else {
    "\"valkey\", \"ramcloud\""
};

/// Layouts of the `kv` backend.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Tree,
    Flat,
}

const SHAPES: [(&str, Shape); 2] = [("tree", Shape::Tree), ("flat", Shape::Flat)];

/// Path of a store that is in memory alone.
#[cfg(feature = "kv-embedded")]
const IN_MEMORY: &str = ":memory:";

/// Longest name of a volume in bytes.
const VOLUME: usize = 64;
/// Longest name of a table of RAMCloud in bytes.
const TABLE: usize = 255;
/// Most masters over which a new table is spread.
const SPAN: u64 = 64;
/// Longest name of a user in bytes.
const USER: usize = 256;
/// Longest path of a socket in a folder: what an address holds, without its NUL.
const SOCKET_NAME: usize = 107;

/// What an address may be.
const ADDRESS: &str = "a name or address with a port, like \"10.0.0.5:6379\", or the absolute path of a unix socket; or a list of these";
/// Most addresses of a list.
const ADDRESSES: usize = 16;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// Read the table.
pub(super) fn read(section: &Section) -> Option<Kv> {
    let engine = section
        .need("engine", ENGINE_NAMES)
        .and_then(|field| field.choice(ENGINES))?;
    let shape = shape(section, engine)?;
    let layout = match shape {
        Shape::Tree => Some(Layout::Tree),
        Shape::Flat => look(section),
    };
    let chunk = or(section.get("chunk"), 64 << 10, |field| {
        let size = field.size(4 << 10..=1 << 20)?;
        if !size.is_power_of_two() {
            return field.refuse("a power of two from 4KiB to 1MiB");
        }
        Some(size)
    });
    let read_only = or(section.get("read_only"), false, Field::flag);
    let engine = match engine {
        #[cfg(feature = "kv-embedded")]
        Engine::Embedded => embedded(section).map(KvEngine::Embedded),
        Engine::Valkey => valkey(section, shape).map(KvEngine::Valkey),
        Engine::Ramcloud => ramcloud(section).map(KvEngine::Ramcloud),
    };
    Some(Kv {
        engine: engine?,
        layout: layout?,
        chunk: chunk? as u32,
        read_only: read_only?,
    })
}

/// Read the layout, which not every engine has.
fn shape(section: &Section, engine: Engine) -> Option<Shape> {
    let (default, refused, why) = match engine {
        #[cfg(feature = "kv-embedded")]
        Engine::Embedded => (
            Shape::Tree,
            Some(Shape::Flat),
            "\"tree\" with the engine \"embedded\", whose store nobody else can open; \"flat\" with \"valkey\" and \"ramcloud\"",
        ),
        Engine::Valkey => (Shape::Tree, None, ""),
        Engine::Ramcloud => (
            Shape::Flat,
            Some(Shape::Tree),
            "\"flat\" with the engine \"ramcloud\"; \"tree\" with the others",
        ),
    };
    or(section.get("layout"), default, |field| {
        let shape = field.choice(&SHAPES)?;
        match refused == Some(shape) {
            true => field.refuse(why),
            false => Some(shape),
        }
    })
}

/// Read how all files of a flat layout look.
fn look(section: &Section) -> Option<Layout> {
    let id = |key| {
        or(section.get(key), 0, |field| {
            field.count(0..=u64::from(u32::MAX) - 1)
        })
    };
    let allowed = "permissions in octal, like \"0644\": \"0\" to \"0777\"";
    let bits = |text: &str| {
        let digits =
            (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        let bits = u32::from_str_radix(text, 8).ok();
        bits.filter(|&bits| digits && bits <= 0o777)
    };
    let mode = or(section.get("mode"), 0o644, |field| {
        bits(field.text(allowed, |text| bits(text).is_some())?)
    });
    let (uid, gid) = (id("uid"), id("gid"));
    Some(Layout::Flat {
        uid: uid? as u32,
        gid: gid? as u32,
        mode: mode?,
    })
}

/// Keys of every engine's tree, then `more`.
fn only_tree(section: &Section, more: &[&str]) {
    let mut keys = std::vec!["kind", "engine", "layout", "chunk", "read_only"];
    keys.extend(more);
    section.only(&keys);
}

/// Keys of every flat layout, then `more`.
fn only_flat(section: &Section, more: &[&str]) {
    let mut keys = std::vec![
        "kind",
        "engine",
        "layout",
        "uid",
        "gid",
        "mode",
        "read_only"
    ];
    keys.extend(more);
    section.only(&keys);
}

fn cache(section: &Section) -> Option<Cache> {
    or(section.get("cache"), Cache::Auto, |field| {
        field.choice(&CACHES)
    })
}

fn timeout(section: &Section) -> Option<u64> {
    or(section.get("timeout"), 60 * SECOND, |field| {
        field.duration(SECOND..=3600 * SECOND)
    })
}

fn ramcloud(section: &Section) -> Option<Ramcloud> {
    only_flat(
        section,
        &["coordinator", "table", "span", "cache", "timeout"],
    );
    let allowed = "where the coordinator is, like \"tcp:host=10.0.0.5,port=11100\"";
    let coordinator = section.need("coordinator", allowed).and_then(|field| {
        let text = field.text(allowed, |text| locator::tcp(text).is_some())?;
        locator::tcp(text).map(|(host, port)| (host.to_string(), port))
    });
    let form = format!("a name of 1 to {TABLE} bytes");
    let table = section.need("table", &form).and_then(|field| {
        let good = |name: &str| (1..=TABLE).contains(&name.len()) && !name.contains('\0');
        field.text(&form, good).map(String::from)
    });
    let span = or(section.get("span"), 1, |field| field.count(1..=SPAN));
    let (cache, timeout) = (cache(section), timeout(section));
    Some(Ramcloud {
        table: table::Config {
            coordinator: coordinator?,
            table: table?,
            span: span? as u32,
            timeout: timeout?,
        },
        cache: cache?,
    })
}

#[cfg(feature = "kv-embedded")]
fn embedded(section: &Section) -> Option<Embedded> {
    only_tree(section, &["path", "memory"]);
    let allowed = "an absolute path of a file, or \":memory:\"";
    let path = section.need("path", allowed).and_then(|field| {
        let good = |path: &str| {
            path == IN_MEMORY
                || (path.starts_with('/') && !path.ends_with('/') && !path.contains('\0'))
        };
        field.text(allowed, good).map(|path| path.to_string())
    });
    let memory = or(section.get("memory"), 256 << 20, |field| {
        field.size(1 << 20..=1 << 40)
    });
    let path = path?;
    Some(Embedded {
        path: (path != IN_MEMORY).then(|| path.into()),
        memory: memory?,
    })
}

fn valkey(section: &Section, shape: Shape) -> Option<Valkey> {
    let mut keys = std::vec![
        "address",
        "user",
        "password_file",
        "cache",
        "timeout",
        "durability",
    ];
    keys.extend(tls::KEYS);
    match shape {
        Shape::Tree => only_tree(section, &[&keys[..], &["volume", "spread"]].concat()),
        // All keys of the server are files: no volume.
        Shape::Flat => only_flat(section, &keys),
    }
    let tls = tls::read(section);
    let places = section.need("address", ADDRESS).and_then(|field| {
        let places = places(&field)?;
        let unix = places.iter().any(|place| matches!(place, Place::Unix(_)));
        match unix && matches!(tls, Some(Some(_))) {
            true => field.refuse("no unix socket with tls, which is for TCP"),
            false => Some(places),
        }
    });
    let volume_form = format!("a name of 1 to {VOLUME} letters, digits, '-', '_' and '.'");
    let named = || {
        section.need("volume", &volume_form).and_then(|field| {
            let good = |name: &str| {
                let plain = |each: char| each.is_ascii_alphanumeric() || "-_.".contains(each);
                (1..=VOLUME).contains(&name.len()) && name.chars().all(plain)
            };
            field.text(&volume_form, good).map(String::from)
        })
    };
    let volume = match shape {
        Shape::Tree => named(),
        Shape::Flat => Some(String::new()),
    };
    let password_file = or(section.get("password_file"), None, |field| {
        absolute(field).map(Some)
    });
    let user = or(section.get("user"), None, |field| {
        let form = format!("a name of 1 to {USER} bytes without spaces");
        let good = |name: &str| {
            (1..=USER).contains(&name.len())
                && !name.contains(|each: char| each.is_whitespace() || each.is_control())
        };
        let user = field.text(&form, good)?;
        if section.get("password_file").is_none() {
            return field.refuse("no user without a password_file");
        }
        Some(Some(user.to_string()))
    });
    let (cache, timeout) = (cache(section), timeout(section));
    let allowed = "\"none\", \"aof\", or \"replicas:\" and a number from 1 to 16";
    let durability = or(section.get("durability"), None, |field| {
        let text = field.text(allowed, |text| durability(text).is_some())?;
        durability(text)
    });
    let spread = or(section.get("spread"), None, |field| field.flag().map(Some));
    Some(Valkey {
        places: places?,
        user: user?,
        password_file: password_file?,
        volume: volume?,
        cache: cache?,
        timeout: timeout?,
        durability: durability?,
        tls: tls?,
        spread: spread?,
    })
}

/// Read what FSYNC waits for.
fn durability(text: &str) -> Option<Option<Durability>> {
    match (text, text.strip_prefix("replicas:")) {
        ("none", _) => Some(None),
        ("aof", _) => Some(Some(Durability::Aof)),
        (_, Some(count)) => {
            let count = count
                .parse()
                .ok()
                .filter(|count| (1..=16).contains(count))?;
            Some(Some(Durability::Replicas(count)))
        }
        _ => None,
    }
}

/// Read where a server listens, or a list of nodes of a cluster.
fn places(field: &Field) -> Option<Vec<Place>> {
    let one = |field: &Field| place(field.text(ADDRESS, |text| place(text).is_some())?);
    if !field.is_list() {
        return one(field).map(|place| std::vec![place]);
    }
    let elements = field.elements(ADDRESS)?;
    if !(1..=ADDRESSES).contains(&elements.len()) {
        return field.refuse("1 to 16 addresses");
    }
    elements.iter().map(one).collect()
}

/// Read where a server listens.
fn place(text: &str) -> Option<Place> {
    if text.starts_with('/') {
        let path = PathBuf::from(text);
        let name = path.file_name()?;
        let good = name.len() <= SOCKET_NAME && !text.contains('\0') && !text.ends_with('/');
        return good.then_some(Place::Unix(path));
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|&port: &u16| port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let good = |each: char| each.is_ascii_alphanumeric() || ".-:%_".contains(each);
    (!host.is_empty() && host.chars().all(good)).then(|| Place::Tcp(host.to_string(), port))
}

#[cfg(test)]
mod tests {
    use super::super::{Backend, Config};
    use super::*;

    /// Read a `kv` backend with these keys and give it, or the problem.
    fn with(keys: &str) -> Result<Kv, String> {
        let text = format!(
            "[[device]]\ntag = \"a\"\nhal = {{ kind = \"vhost-user\", socket = \"/s\" }}\n\
             backend = {{ kind = \"kv\", {keys} }}"
        );
        let config = Config::parse("f", &text).map_err(|error| error.to_string())?;
        match &config.devices[0].backend {
            Backend::Kv(kv) => Ok(kv.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn check(cases: &[(&str, &str)]) {
        for (keys, wanted) in cases {
            let error = with(keys).unwrap_err();
            assert!(error.contains(wanted), "{keys}: {error}");
        }
    }

    fn valkey(keys: &str) -> Valkey {
        match with(keys).unwrap().engine {
            KvEngine::Valkey(valkey) => valkey,
            other => panic!("{other:?}"),
        }
    }

    #[cfg(feature = "kv-embedded")]
    #[test]
    fn a_store_is_a_file_or_memory_and_its_engine_is_named() {
        with("engine = \"embedded\", path = \":memory:\"").unwrap();
        with("engine = \"embedded\", path = \"/s\", layout = \"tree\", chunk = \"4KiB\"").unwrap();
        check(&[
            (
                "path = \"/s\"",
                "engine: missing; allowed: \"embedded\", \"valkey\", \"ramcloud\"",
            ),
            (
                "engine = \"redis\", path = \"/s\"",
                "allowed: \"embedded\", \"valkey\", \"ramcloud\"",
            ),
            (
                "engine = \"embedded\"",
                "path: missing; allowed: an absolute path",
            ),
            ("engine = \"embedded\", path = \"s\"", "or \":memory:\""),
            (
                "engine = \"embedded\", path = \"/s\", chunk = \"5KiB\"",
                "a power of two from 4KiB to 1MiB",
            ),
            (
                "engine = \"embedded\", path = \"/s\", layout = \"round\"",
                "allowed: \"tree\", \"flat\"",
            ),
            (
                "engine = \"embedded\", path = \"/s\", layout = \"flat\"",
                "layout: found \"flat\"; allowed: \"tree\" with the engine \"embedded\", whose store nobody else can open",
            ),
            (
                "engine = \"embedded\", path = \"/s\", volume = \"v\"",
                "volume: unknown key",
            ),
        ]);
    }

    #[test]
    fn a_server_has_a_port_or_a_path() {
        let tcp = |host: &str, port| Place::Tcp(host.into(), port);
        for (address, wanted) in [
            ("10.0.0.5:6379", tcp("10.0.0.5", 6379)),
            ("kv-1.example:1", tcp("kv-1.example", 1)),
            ("[::1]:6379", tcp("::1", 6379)),
            ("/run/valkey.sock", Place::Unix("/run/valkey.sock".into())),
        ] {
            let keys = format!("engine = \"valkey\", volume = \"v\", address = \"{address}\"");
            let valkey = valkey(&keys);
            assert_eq!(valkey.places, [wanted]);
            assert_eq!((valkey.user, valkey.timeout), (None, 60 * SECOND));
            assert_eq!(valkey.spread, None);
        }
        let list = "engine = \"valkey\", volume = \"v\", address = [\"a:1\", \"b:2\"]";
        assert_eq!(valkey(list).places, [tcp("a", 1), tcp("b", 2)]);
        check(&[
            (
                "engine = \"valkey\", volume = \"v\", address = []",
                "allowed: 1 to 16 addresses",
            ),
            (
                "engine = \"valkey\", volume = \"v\", address = [\"a:1\", \"b\"]",
                "address[1]: found \"b\"",
            ),
        ]);
        for address in [
            "10.0.0.5",
            "10.0.0.5:",
            "10.0.0.5:0",
            ":1",
            "::1:6379",
            "/",
            "/a/",
            "a b:1",
            "a:99999",
        ] {
            let keys = format!("engine = \"valkey\", volume = \"v\", address = \"{address}\"");
            let error = with(&keys).unwrap_err();
            assert!(
                error.contains("like \"10.0.0.5:6379\""),
                "{address}: {error}"
            );
        }
    }

    #[test]
    fn a_volume_on_a_server_says_what_is_wrong_with_it() {
        let at = "engine = \"valkey\", address = \"h:1\"";
        let volume = format!("{at}, volume = \"v\"");
        for spread in [false, true] {
            let valkey = valkey(&format!("{volume}, spread = {spread}"));
            assert_eq!(valkey.spread, Some(spread));
        }
        check(&[
            (at, "volume: missing; allowed: a name of 1 to 64"),
            (&format!("{at}, volume = \"a{{b\""), "letters, digits"),
            (
                &format!("{volume}, user = \"u\""),
                "no user without a password_file",
            ),
            (&format!("{volume}, timeout = \"1ms\""), "timeout: found"),
            (
                &format!("{volume}, durability = \"replicas:0\""),
                "\"replicas:\" and a number",
            ),
            (&format!("{volume}, path = \"/s\""), "path: unknown key"),
            (
                &format!("{volume}, password_file = \"p\""),
                "an absolute path",
            ),
        ]);
    }

    #[test]
    fn tls_goes_by_tcp() {
        let tls = "tls = true, tls_ca = \"/ca\"";
        let at = |address: &str| {
            format!("engine = \"valkey\", volume = \"v\", address = {address}, {tls}")
        };
        if cfg!(feature = "tls") {
            let files = valkey(&at("\"h:1\"")).tls.unwrap();
            assert_eq!(files.ca, PathBuf::from("/ca"));
            let flat = "engine = \"valkey\", layout = \"flat\", address = \"h:1\"";
            assert!(valkey(&format!("{flat}, {tls}")).tls.is_some());
            let unix = at("[\"h:1\", \"/run/valkey.sock\"]");
            check(&[(&unix, "no unix socket with tls")]);
        }
        assert_eq!(
            valkey("engine = \"valkey\", volume = \"v\", address = \"h:1\"").tls,
            None
        );
    }

    #[test]
    fn a_flat_layout_has_one_owner_and_no_volume() {
        let at = "engine = \"valkey\", address = \"h:1\", layout = \"flat\"";
        let plain = with(at).unwrap();
        let look = |uid, gid, mode| Layout::Flat { uid, gid, mode };
        assert_eq!(plain.layout, look(0, 0, 0o644));
        let owned = with(&format!("{at}, uid = 1000, gid = 100, mode = \"0660\"")).unwrap();
        assert_eq!(owned.layout, look(1000, 100, 0o660));
        check(&[
            (&format!("{at}, volume = \"v\""), "volume: unknown key"),
            (&format!("{at}, spread = true"), "spread: unknown key"),
            (&format!("{at}, chunk = \"4KiB\""), "chunk: unknown key"),
            (&format!("{at}, uid = -1"), "0 to 4294967294"),
            (&format!("{at}, mode = \"0888\""), "permissions in octal"),
            (&format!("{at}, mode = \"1777\""), "\"0\" to \"0777\""),
            (&format!("{at}, mode = 420"), "permissions in octal"),
            (
                "engine = \"valkey\", address = \"h:1\", volume = \"v\", uid = 1",
                "uid: unknown key",
            ),
        ]);
    }

    #[test]
    fn a_table_of_ramcloud_has_a_coordinator_and_is_flat() {
        let at = "engine = \"ramcloud\", coordinator = \"tcp:host=10.0.0.5,port=11100\"";
        let table = format!("{at}, table = \"files\"");
        let kv = with(&format!("{table}, span = 3, timeout = \"5s\"")).unwrap();
        let KvEngine::Ramcloud(ramcloud) = kv.engine else {
            panic!("{kv:?}");
        };
        let wanted = table::Config {
            coordinator: ("10.0.0.5".into(), 11100),
            table: "files".into(),
            span: 3,
            timeout: 5 * SECOND,
        };
        assert_eq!((ramcloud.table, ramcloud.cache), (wanted, Cache::Auto));
        assert_eq!(with(&table).unwrap().layout, kv.layout);
        check(&[
            (at, "table: missing; allowed: a name of 1 to 255 bytes"),
            (
                "engine = \"ramcloud\", table = \"t\"",
                "coordinator: missing; allowed: where the coordinator is, like",
            ),
            (
                "engine = \"ramcloud\", table = \"t\", coordinator = \"10.0.0.5:11100\"",
                "like \"tcp:host=10.0.0.5,port=11100\"",
            ),
            (
                &format!("{table}, layout = \"tree\""),
                "allowed: \"flat\" with the engine \"ramcloud\"; \"tree\" with the others",
            ),
            (&format!("{table}, span = 65"), "1 to 64"),
            (&format!("{table}, chunk = \"4KiB\""), "chunk: unknown key"),
        ]);
    }
}
