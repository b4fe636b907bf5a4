//! `dpfs-image addon`: the add-on's forms, each in a file of its own, and what goes beside them; `bom` for any program.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use dpfs_image::addon::{self, Description, Form, Payload, Program, Sbom};
use dpfs_image::{Stream, Trailing};
use sha2::{Digest, Sha256};

use crate::Outcome;
use crate::files::{self, Mapped};

/// Arguments of the command.
#[derive(Args)]
pub struct AddonArguments {
    /// What to make, and of what (TOML)
    #[arg(long, default_value = "image/addon.toml")]
    description: PathBuf,
    /// The customer's stream, which repack and delta begin with
    #[arg(long, value_name = "BFB")]
    base: Option<PathBuf>,
    /// Folder for what is made
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
}

/// Arguments of `bom`.
#[derive(Args)]
pub struct BomArguments {
    /// Cargo.toml of the program
    #[arg(long)]
    manifest: PathBuf,
    /// What it was compiled for
    #[arg(long, default_value = Sbom::DPU)]
    target: String,
    /// The program, for its checksum
    program: PathBuf,
    /// The bill to make
    #[arg(long, short)]
    output: PathBuf,
}

/// Write the bill of materials of a program.
pub fn bom(arguments: &BomArguments) -> Outcome<()> {
    let failed = |path: &Path, error| format!("{}: {error}", path.display());
    let sbom = Sbom::read(&arguments.manifest, &arguments.target)?;
    let program = Mapped::open(&arguments.program)?;
    let bytes = sbom.json(program.bytes())?;
    fs::write(&arguments.output, bytes).map_err(|error| failed(&arguments.output, error))
}

/// Make everything that the description asks for.
pub fn run(arguments: &AddonArguments) -> Outcome<()> {
    let mtime = files::source_date()?;
    let description = Description::load(&arguments.description)?;
    let sbom = Sbom::read(&description.daemon.manifest, Sbom::DPU)?;
    let payload = Payload::build(&description, &sbom.version())?;
    let program = &payload.files["usr/sbin/dpfs"].data;
    if Program::has_symbols(program) {
        eprintln!(
            "dpfs-image: {}: not stripped; image/daemon builds one that is",
            description.daemon.program.display()
        );
    }
    let output = Output::new(&arguments.output, &payload)?;
    let needs_base = description.forms.iter().any(|form| *form != Form::BfCfg);
    if needs_base {
        let path = arguments
            .base
            .as_ref()
            .ok_or("forms repack and delta need --base: the customer's stream")?;
        let map = Mapped::open(path)?;
        let base = files::read(path, &map, Trailing::Allow)?;
        let repacked = addon::repack(&base, &payload, description.stream, mtime)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        for form in &description.forms {
            match form {
                Form::Repack => output.stream("bfb", &repacked)?,
                Form::Delta => output.stream("delta.bfb", &addon::delta(&base, &repacked))?,
                Form::BfCfg => {}
            }
        }
    }
    if description.forms.contains(&Form::BfCfg) {
        output.bytes("bf.cfg", addon::script(&payload, mtime)?.as_bytes())?;
    }
    output.bytes("cdx.json", &sbom.json(program)?)?;
    output.sums()
}

/// Name and write what is made.
struct Output {
    folder: PathBuf,
    stem: String,
}

impl Output {
    fn new(folder: &Path, payload: &Payload) -> Outcome<Self> {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Self {
            folder: folder.into(),
            stem: format!("dpfs-{}-{}.", payload.version, payload.board),
        })
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("{}{suffix}", self.stem))
    }

    fn stream(&self, suffix: &str, stream: &Stream<'_>) -> Outcome<()> {
        let path = self.path(suffix);
        files::write(stream, &path)?;
        println!("{}", path.display());
        Ok(())
    }

    fn bytes(&self, suffix: &str, bytes: &[u8]) -> Outcome<()> {
        let path = self.path(suffix);
        fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("{}", path.display());
        Ok(())
    }

    /// Write the checksums of everything that has our name in front, as `sha256sum --check` reads them.
    fn sums(&self) -> Outcome<()> {
        let failed = |error| format!("{}: {error}", self.folder.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            names.extend(
                name.to_str()
                    .filter(|name| name.starts_with(&self.stem))
                    .map(String::from),
            );
        }
        names.sort();
        let mut text = String::new();
        for name in names {
            let map = Mapped::open(&self.folder.join(&name))?;
            let digest = Sha256::digest(map.bytes());
            let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            text += &format!("{digits}  {name}\n");
        }
        let path = self.folder.join("SHA256SUMS");
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("{}", path.display());
        Ok(())
    }
}
