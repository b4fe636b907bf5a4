//! What is put on a DPU: a small root file system, with a manifest that `setup` installs, checks and removes it by.
//!
//! | path | what |
//! |---|---|
//! | `usr/sbin/dpfs` | the daemon |
//! | `usr/lib/dpfs/` | `setup` (installs and removes), `tune`, `installer` (for the DPU's own), `manifest` |
//! | `usr/lib/systemd/system/` | units, and links that start them; `board/units/`, or the board's own of that name |
//! | `etc/dpfs/` | configuration and tuning: what an operator changed there stays |

use std::collections::BTreeMap;
use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::board::Board;
use super::description::Description;
use super::program::{Libc, Program};
use super::{AddonError, read, read_text};
use crate::initramfs::{Added, Overlay};

const MANIFEST: &str = "usr/lib/dpfs/manifest";
const CONFIGURATION: &str = "etc/dpfs/dpfs.toml";
const UNITS: &str = "usr/lib/systemd/system";
/// All but `dpfs-live.service`, which is for an initramfs.
const UNIT_FILES: [&str; 3] = ["dpfs.service", "dpfs.path", "dpfs-tune.service"];

/// Hold what is put on a DPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Payload {
    /// Version of DPFS.
    pub version: String,
    /// Name of the board.
    pub board: String,
    /// The files, by path without a leading "/", with their folders and the manifest.
    pub files: Overlay,
    /// The unit that serves from the initramfs.
    pub live_unit: String,
    /// Secrets are in the configuration, by the names of its keys.
    pub secrets: Vec<String>,
}

impl Payload {
    /// Gather everything that a description names.
    ///
    /// # Errors
    /// The file that is missing, damaged or for another machine.
    pub fn build(description: &Description, version: &str) -> Result<Self, AddonError> {
        let board = Board::load(&description.target.board)?;
        let folder = &description.target.board;
        let words = words(description, version, &board.name);
        let fill = |name: &str| -> Result<String, AddonError> {
            let own = folder.join("units").join(name);
            let path = if own.exists() {
                own
            } else {
                folder.join("../units").join(name)
            };
            fill(&read_text(&path)?, &words)
                .map_err(|what| AddonError(format!("{}: {what}", path.display())))
        };
        let program = read(&description.daemon.program)?;
        let facts = Program::read(&program)
            .and_then(|facts| board.check(&facts).map(|()| facts))
            .map_err(|what| {
                AddonError(format!("{}: {what}", description.daemon.program.display()))
            })?;
        let mut files = Overlay::new();
        let mut kinds = BTreeMap::new();
        let mut add = |path: String, file: Added, kind: &'static str| {
            kinds.insert(path.clone(), kind);
            files.insert(path, file);
        };
        add("usr/sbin/dpfs".into(), Added::file(0o755, program), "file");
        for unit in UNIT_FILES {
            add(
                format!("{UNITS}/{unit}"),
                Added::file(0o644, fill(unit)?.into()),
                "file",
            );
        }
        for (name, text, mode) in [
            (
                "setup",
                include_str!("../../addon/setup").to_string(),
                0o755,
            ),
            (
                "installer",
                include_str!("../../addon/installer").to_string(),
                0o644,
            ),
            ("tune", fill("tune")?, 0o755),
        ] {
            add(
                format!("usr/lib/dpfs/{name}"),
                Added::file(mode, text.into()),
                "file",
            );
        }
        add(
            "etc/dpfs/tuning.conf".into(),
            Added::file(0o644, fill("tuning.conf")?.into()),
            "conf",
        );
        let mut secrets = Vec::new();
        if let Some(path) = &description.configuration.file {
            let text = read_text(path)?;
            let refuse = |what: &str| AddonError(format!("{}: {what}", path.display()));
            let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
                refuse(&format!("this is not TOML: {}", error.message()))
            })?;
            if !table.get("device").is_some_and(toml::Value::is_array) {
                return Err(refuse(
                    "found no [[device]]; `dpfs check -c FILE` on the DPU says more",
                ));
            }
            find_secrets(&table, "", &mut secrets);
            // Where the daemon's configuration may name secrets, nobody else is to read it.
            add(
                CONFIGURATION.into(),
                Added::file(0o600, text.into()),
                "conf",
            );
        }
        if description.configuration.start {
            for unit in ["dpfs.service", "dpfs.path"] {
                let link = format!("etc/systemd/system/multi-user.target.wants/{unit}");
                add(link, Added::link(&format!("/{UNITS}/{unit}")), "link");
            }
        }
        let manifest = manifest(description, version, &facts, &files, &kinds);
        files.insert(MANIFEST.into(), Added::file(0o644, manifest.into()));
        add_folders(&mut files);
        let live_unit = fill("dpfs-live.service")?;
        let version = version.to_string();
        Ok(Self {
            version,
            board: board.name,
            files,
            live_unit,
            secrets,
        })
    }
}

/// Add the folders that files are in.
pub(super) fn add_folders(files: &mut Overlay) {
    let paths: Vec<String> = files.keys().cloned().collect();
    for path in paths {
        let folders = path.match_indices('/').map(|(at, _)| &path[..at]);
        for folder in folders {
            files.entry(folder.into()).or_insert_with(Added::folder);
        }
    }
}

fn words(description: &Description, version: &str, board: &str) -> Vec<(&'static str, String)> {
    let tuning = &description.tuning;
    let cores: Vec<String> = tuning.cores.iter().map(u32::to_string).collect();
    let yes = |flag| if flag { "yes" } else { "no" }.to_string();
    vec![
        ("VERSION", version.into()),
        ("BOARD", board.into()),
        ("CORES", cores.join(" ")),
        ("ISOLATE", yes(tuning.isolate)),
        ("INTERRUPTS", yes(tuning.interrupts)),
        ("HUGEPAGES", tuning.hugepages.to_string()),
        ("MEMLOCK", tuning.memlock.clone()),
    ]
}

/// Put words in the place of `@NAME@`.
///
/// # Errors
/// A name that is none.
pub(super) fn fill(text: &str, words: &[(&'static str, String)]) -> Result<String, String> {
    let mut filled = text.to_string();
    for (name, word) in words {
        filled = filled.replace(&format!("@{name}@"), word);
    }
    let name = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_uppercase());
    let mut parts = filled.split('@').skip(1);
    if let Some(unknown) = parts.find(|part| name(part)) {
        let allowed: Vec<String> = words.iter().map(|(name, _)| format!("@{name}@")).collect();
        return Err(format!(
            "found @{unknown}@; allowed: {}",
            allowed.join(", ")
        ));
    }
    Ok(filled)
}

/// Note keys whose values are to stay secret.
fn find_secrets(table: &toml::Table, prefix: &str, found: &mut Vec<String>) {
    for (key, value) in table {
        let name = format!("{prefix}{key}");
        let lower = key.to_lowercase();
        if ["password", "passphrase", "secret", "token"]
            .iter()
            .any(|word| lower.contains(word))
        {
            found.push(name.clone());
        }
        let tables = match value {
            toml::Value::Table(table) => vec![table],
            toml::Value::Array(array) => array.iter().filter_map(toml::Value::as_table).collect(),
            _ => Vec::new(),
        };
        for table in tables {
            find_secrets(table, &format!("{name}."), found);
        }
    }
}

/// Give the SHA-256 of bytes, in hexadecimal digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Write what `setup` reads: see `image/addon/setup`.
fn manifest(
    description: &Description,
    version: &str,
    program: &Program,
    files: &Overlay,
    kinds: &BTreeMap<String, &'static str>,
) -> String {
    let mut text = format!("# version {version}\n# arch aarch64\n");
    if let Libc::Glibc(minor) = program.libc {
        let _ = writeln!(text, "# libc 2.{minor}");
    }
    for pci in &description.target.pci {
        let _ = writeln!(text, "# pci {pci}");
    }
    for (path, file) in files {
        let kind = kinds[path];
        let _ = if file.is_link() {
            writeln!(
                text,
                "{kind} {} {path}",
                String::from_utf8_lossy(&file.data)
            )
        } else {
            writeln!(
                text,
                "{kind} {:o} {} {path}",
                file.mode & 0o7777,
                sha256(&file.data)
            )
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_nobody_knows_is_refused() {
        let words = [("CORES", "6 7".to_string())];
        assert_eq!(
            fill("a=\"@CORES@\" mail@example", &words).unwrap(),
            "a=\"6 7\" mail@example"
        );
        assert_eq!(
            fill("@CORSE@", &words).unwrap_err(),
            "found @CORSE@; allowed: @CORES@"
        );
    }

    #[test]
    fn folders_are_there_for_every_file() {
        let mut files = Overlay::from([("a/b/c".to_string(), Added::file(0o644, Vec::new()))]);
        add_folders(&mut files);
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
        assert!(files["a/b"].is_folder() && !files["a/b/c"].is_folder());
    }

    #[test]
    fn secrets_are_found_at_any_depth() {
        let table =
            "[[device]]\nbackend = { kind = \"kv\", password = \"x\" }\n[runtime]\nApi_Token = 1\n";
        let mut found = Vec::new();
        find_secrets(&table.parse().unwrap(), "", &mut found);
        found.sort();
        assert_eq!(found, ["device.backend.password", "runtime.Api_Token"]);
    }
}
