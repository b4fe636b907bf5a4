//! The description of an add-on: a TOML file, `image/addon.toml` for one.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::board::Board;
use super::{AddonError, read_text};

/// Hold what an add-on is made of. Paths in the file are beside the file; here they are ready to use.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// What to make.
    pub forms: Vec<Form>,
    /// Where it is to run.
    pub target: Target,
    /// The daemon.
    pub daemon: Daemon,
    /// What the daemon serves.
    #[serde(default)]
    pub configuration: Configuration,
    /// What the machine is to give it.
    #[serde(default)]
    pub tuning: Tuning,
    /// What a stream with the add-on in its initramfs does.
    #[serde(default)]
    pub stream: StreamUse,
}

/// Name a form of the add-on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub enum Form {
    /// The customer's stream with DPFS in it.
    #[serde(rename = "repack")]
    Repack,
    /// What `mlx-mkbfb` merges into the customer's stream.
    #[serde(rename = "delta")]
    Delta,
    /// A script for `bfb-install --config`.
    #[serde(rename = "bf.cfg")]
    BfCfg,
}

/// Describe the DPU.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Folder of the board, with `board.toml` and `addon/`.
    pub board: PathBuf,
    /// PCI numbers (`vendor:device`) of the network devices that such a DPU has; none: any machine.
    #[serde(default)]
    pub pci: Vec<String>,
}

/// Describe the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Daemon {
    /// The program, for arm64.
    pub program: PathBuf,
    /// The `Cargo.toml` that it was built from, for the bill of materials.
    pub manifest: PathBuf,
}

/// Describe the daemon's configuration.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// A file to bake in; without one, DPFS waits for `/etc/dpfs/dpfs.toml`.
    pub file: Option<PathBuf>,
    /// Start at boot.
    #[serde(default = "yes")]
    pub start: bool,
}

impl Default for Configuration {
    fn default() -> Self {
        Self {
            file: None,
            start: true,
        }
    }
}

/// Describe what the machine is to give DPFS.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// Cores that DPFS polls on.
    #[serde(default)]
    pub cores: Vec<u32>,
    /// Keep other services off these cores.
    #[serde(default)]
    pub isolate: bool,
    /// Keep interrupts off these cores.
    #[serde(default)]
    pub interrupts: bool,
    /// Huge pages to reserve.
    #[serde(default)]
    pub hugepages: u32,
    /// Memory that may be locked: `infinity`, or a size as systemd takes it.
    #[serde(default = "infinity")]
    pub memlock: String,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            cores: Vec::new(),
            isolate: false,
            interrupts: false,
            hugepages: 0,
            memlock: infinity(),
        }
    }
}

/// Describe what a stream does with the add-on in its initramfs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamUse {
    /// Serve from RAM while the initramfs runs.
    #[serde(default = "yes")]
    pub live: bool,
    /// Let the installer put it into the OS that it installs.
    #[serde(default = "yes")]
    pub install: bool,
}

impl Default for StreamUse {
    fn default() -> Self {
        Self {
            live: true,
            install: true,
        }
    }
}

const fn yes() -> bool {
    true
}

fn infinity() -> String {
    "infinity".into()
}

impl Description {
    /// Read a description.
    ///
    /// # Errors
    /// What is wrong: the file with line and key, what was found, what is allowed.
    pub fn load(path: &Path) -> Result<Self, AddonError> {
        let text = read_text(path)?;
        let name = path.display().to_string();
        let mut description = Self::parse(&name, &text)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        description.resolve(folder);
        description.check(&Source { name, text })?;
        Ok(description)
    }

    fn parse(name: &str, text: &str) -> Result<Self, AddonError> {
        let placed = |error: &toml::de::Error, key: &str| {
            let start = error.span().map_or(0, |span| span.start);
            let key = if key == "." { "" } else { key };
            let between = if key.is_empty() { "" } else { ": " };
            let what = error.message();
            AddonError(format!(
                "{name}:{}: {key}{between}{what}",
                line(text, start)
            ))
        };
        let document = toml::Deserializer::parse(text).map_err(|error| placed(&error, "."))?;
        serde_path_to_error::deserialize(document)
            .map_err(|error| placed(error.inner(), &error.path().to_string()))
    }

    /// Make paths ready to use.
    fn resolve(&mut self, folder: &Path) {
        let paths = [
            &mut self.target.board,
            &mut self.daemon.program,
            &mut self.daemon.manifest,
        ];
        for path in paths.into_iter().chain(&mut self.configuration.file) {
            *path = folder.join(&*path);
        }
    }

    fn check(&self, source: &Source) -> Result<(), AddonError> {
        if self.forms.is_empty() {
            return Err(source.refuse(
                "forms",
                "found none; allowed: \"repack\", \"delta\", \"bf.cfg\"",
            ));
        }
        let hex =
            |text: &str| text.len() == 4 && text.bytes().all(|b| b"0123456789abcdef".contains(&b));
        for pci in &self.target.pci {
            if !pci
                .split_once(':')
                .is_some_and(|(vendor, device)| hex(vendor) && hex(device))
            {
                let what = format!(
                    "found {pci:?}; allowed: vendor:device in lower case, like \"15b3:a2d6\""
                );
                return Err(source.refuse("pci", &what));
            }
        }
        let cores = Board::load(&self.target.board)?.cores;
        for (index, core) in self.tuning.cores.iter().enumerate() {
            if u64::from(*core) >= cores || self.tuning.cores[..index].contains(core) {
                let what = format!("found {core}; allowed: 0 to {}, each once", cores - 1);
                return Err(source.refuse("cores", &what));
            }
        }
        if self.tuning.cores.len() as u64 >= cores {
            let what = format!("found all {cores}; allowed: one less, for the DPU's own services");
            return Err(source.refuse("cores", &what));
        }
        let plain = |c: char| c.is_ascii_alphanumeric();
        if self.tuning.memlock.is_empty() || !self.tuning.memlock.chars().all(plain) {
            let what = format!(
                "found {:?}; allowed: \"infinity\", or a size like \"512M\"",
                self.tuning.memlock
            );
            return Err(source.refuse("memlock", &what));
        }
        Ok(())
    }
}

/// Hold the text, to say where in it something is wrong.
struct Source {
    name: String,
    text: String,
}

impl Source {
    /// The keys that are checked have names that no other key ends in.
    fn refuse(&self, key: &str, what: &str) -> AddonError {
        let at = self.text.lines().position(|line| {
            let found = line.split_once('=').map(|(name, _)| name.trim());
            found.is_some_and(|name| name == key || name.ends_with(&format!(".{key}")))
        });
        let line = at.map_or(1, |at| at + 1);
        AddonError(format!("{}:{line}: {key}: {what}", self.name))
    }
}

/// Give the line of an offset, from 1.
fn line(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or(text);
    before.matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "forms = [\"bf.cfg\"]\n[target]\nboard = \"b\"\n[daemon]\nprogram = \"p\"\nmanifest = \"m\"\n";

    fn refused(text: &str) -> String {
        Description::parse("addon.toml", text).unwrap_err().0
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let description = Description::parse("addon.toml", GOOD).unwrap();
        assert_eq!(description.forms, [Form::BfCfg]);
        assert_eq!(description.tuning, Tuning::default());
        assert!(
            description.stream.live
                && description.stream.install
                && description.configuration.start
        );
        // As if the table were there and empty.
        let text = GOOD.to_string() + "[tuning]\n[stream]\n[configuration]\n";
        assert_eq!(
            Description::parse("addon.toml", &text).unwrap(),
            description
        );
    }

    #[test]
    fn an_error_names_line_and_key_and_what_is_allowed() {
        let text = GOOD.replace("\"bf.cfg\"", "\"bf.cfh\"");
        assert_eq!(
            refused(&text),
            "addon.toml:1: forms[0]: unknown variant `bf.cfh`, expected one of `repack`, `delta`, `bf.cfg`"
        );
        let text = GOOD.to_string() + "[tuning]\ncores = [1]\nhugepages = \"many\"\n";
        assert_eq!(
            refused(&text),
            "addon.toml:9: tuning.hugepages: invalid type: string \"many\", expected u32"
        );
        let text = GOOD.to_string() + "[tuning]\ncoers = [1]\n";
        assert_eq!(
            refused(&text),
            "addon.toml:8: tuning.coers: unknown field `coers`, expected one of `cores`, `isolate`, `interrupts`, \
             `hugepages`, `memlock`"
        );
        assert_eq!(
            refused("forms = []\n[target]\n"),
            "addon.toml:2: target: missing field `board`"
        );
        assert!(refused("forms = [\n").starts_with("addon.toml:"));
    }
}
