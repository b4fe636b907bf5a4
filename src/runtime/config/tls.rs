//! The keys of TLS.

use std::string::{String, ToString};

use super::daemon::{absolute, or};
use super::document::{Field, Section};
use crate::backend::tls::Files;

/// All of them.
pub(super) const KEYS: [&str; 5] = ["tls", "tls_ca", "tls_name", "tls_cert", "tls_key"];

/// Longest name of a server in bytes (RFC 1035, section 2.3.4).
const NAME: usize = 253;

/// Read which files of TLS are configured; `Some(None)` without TLS.
pub(super) fn read(section: &Section) -> Option<Option<Files>> {
    let wanted = or(section.get("tls"), false, |field| match field.flag()? {
        true if cfg!(not(feature = "tls")) => {
            field.refuse("false: this program was built without TLS (feature `tls`)")
        }
        flag => Some(flag),
    })?;
    files(section, wanted)
}

/// Read the files where TLS is `wanted`; refuse them where it is not.
fn files(section: &Section, wanted: bool) -> Option<Option<Files>> {
    if !wanted {
        let mut alone = None;
        for key in &KEYS[1..] {
            alone = alone.or(section.get(key));
        }
        return match alone {
            Some(field) => field.refuse("nothing without TLS"),
            None => Some(None),
        };
    }
    let form = "an absolute path of a file (PEM) with the authorities that may sign the server's certificate";
    let ca = section
        .need("tls_ca", form)
        .and_then(|field| absolute(&field));
    let name = or(section.get("tls_name"), None, |field| name(field).map(Some));
    let path = |key| or(section.get(key), None, |field| absolute(field).map(Some));
    let (cert, key) = (path("tls_cert")?, path("tls_key")?);
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => return section.get("tls_cert")?.refuse("tls_cert with tls_key"),
        (None, Some(_)) => return section.get("tls_key")?.refuse("tls_key with tls_cert"),
    };
    Some(Some(Files {
        ca: ca?,
        name: name?,
        identity,
    }))
}

/// Read what a server's certificate is to have.
fn name(field: &Field) -> Option<String> {
    let form = "a host's name, like \"kv.example\", or an address, like \"10.0.0.5\"";
    let good = |name: &str| {
        let plain = |each: char| each.is_ascii_alphanumeric() || "-_.:".contains(each);
        (1..=NAME).contains(&name.len()) && name.chars().all(plain)
    };
    field.text(form, good).map(|name| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use std::format;
    use std::string::{String, ToString};

    /// Every backend that has the keys.
    const BACKENDS: [&str; 2] = [
        "kind = \"kv\", engine = \"valkey\", volume = \"v\", address = \"h:1\"",
        "kind = \"nfs\", server = \"h\", export = \"/\"",
    ];

    fn error(backend: &str, keys: &str) -> String {
        let text = format!(
            "[[device]]\ntag = \"a\"\nhal = {{ kind = \"vhost-user\", socket = \"/s\" }}\nbackend = {{ {backend}, {keys} }}"
        );
        Config::parse("f", &text).map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn nobody_is_trusted_in_silence() {
        let cases: &[(&str, &str)] = match cfg!(feature = "tls") {
            true => &[
                (
                    "tls = true",
                    "tls_ca: missing; allowed: an absolute path of a file",
                ),
                ("tls = true, tls_ca = \"ca\"", "allowed: an absolute path"),
                ("tls = 1", "tls: found 1; allowed: true, false"),
                (
                    "tls = true, tls_ca = \"/c\", tls_name = \"a b\"",
                    "tls_name: found \"a b\"; allowed: a host's name",
                ),
                (
                    "tls = true, tls_ca = \"/c\", tls_cert = \"/d\"",
                    "tls_cert: found \"/d\"; allowed: tls_cert with tls_key",
                ),
                (
                    "tls = true, tls_ca = \"/c\", tls_key = \"/d\"",
                    "tls_key: found \"/d\"; allowed: tls_key with tls_cert",
                ),
            ],
            false => &[("tls = true, tls_ca = \"/c\"", "built without TLS")],
        };
        let always = [
            (
                "tls_ca = \"/c\"",
                "tls_ca: found \"/c\"; allowed: nothing without TLS",
            ),
            (
                "tls = false, tls_key = \"/c\"",
                "tls_key: found \"/c\"; allowed: nothing",
            ),
        ];
        for backend in BACKENDS {
            for (keys, wanted) in cases.iter().chain(&always) {
                let error = error(backend, keys);
                assert!(error.contains(wanted), "{keys}: {error}");
            }
            assert_eq!(error(backend, "tls = false"), "");
        }
    }
}
