//! `dpfs-image`: lists, checks, takes apart and makes BlueField boot streams, and the add-on that puts DPFS on a DPU.

mod addon;
mod files;

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use comfy_table::{Cell, CellAlignment, Table, presets};
use dpfs_image::{HEADER_LEN, Image, ImageId, MAX_VERSION, NAMES, Stream, Trailing, initramfs};
use serde_json::json;

use files::{Mapped, read, source_date, write};

/// What is wrong, in words.
type Outcome<T> = Result<T, String>;

/// Lists, checks, takes apart and makes BlueField boot streams (BFB)
#[derive(Parser)]
#[command(name = "dpfs-image", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the images of a stream
    List {
        #[command(flatten)]
        input: Input,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check a stream: what a DPU would refuse, and what it would not notice
    Verify(Input),
    /// Write the images of a stream into files
    Extract {
        #[command(flatten)]
        input: Input,
        /// Only these, by name
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        only: Vec<String>,
        /// What the files' names begin with; a folder when it ends with "/"
        #[arg(long, default_value = "dump-")]
        prefix: String,
    },
    /// Make a stream of images
    Create {
        #[command(flatten)]
        images: Images,
        /// Leave the images in the order of the command line; versions of one image must ascend
        #[arg(long)]
        keep_order: bool,
        /// The stream to make
        output: PathBuf,
    },
    /// Make a stream of one or two others: images of the second replace those of the first, and those named here both
    Merge {
        #[command(flatten)]
        images: Images,
        /// The first stream
        base: PathBuf,
        /// The second
        delta: Option<PathBuf>,
        /// The stream to make
        #[arg(long, short)]
        output: PathBuf,
    },
    /// Add a folder's files to the initramfs of a stream, as root's, and leave the rest of the stream as it is
    Overlay {
        /// The folder: its content is that of the initramfs's root
        #[arg(long)]
        root: PathBuf,
        /// The stream
        base: PathBuf,
        /// The stream to make
        #[arg(long, short)]
        output: PathBuf,
    },
    /// Make the add-on that puts DPFS on a DPU, with a bill of materials and checksums
    Addon(addon::AddonArguments),
    /// Make the bill of materials of a program in Rust (CycloneDX)
    Bom(addon::BomArguments),
    /// List the names of images, in the order of a stream
    Names,
}

#[derive(Args)]
struct Input {
    /// Bytes behind the last image are the installer's (bf.cfg, root file system), and no error
    #[arg(long)]
    trailing: bool,
    /// The stream
    file: PathBuf,
}

#[derive(Args)]
struct Images {
    /// An image: NAME=FILE, NAME-vN=FILE for version N (0 to 2), NAME==TEXT for a text
    #[arg(long = "set", short, value_name = "NAME=FILE")]
    images: Vec<String>,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dpfs-image: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Outcome<()> {
    match command {
        Command::List { input, json } => list(&input, json),
        Command::Verify(input) => verify(&input),
        Command::Extract {
            input,
            only,
            prefix,
        } => extract(&input, &only, &prefix),
        Command::Create {
            images,
            keep_order,
            output,
        } => {
            let mut stream = Stream::default();
            add(&mut stream, &images.images)?;
            if stream.images.is_empty() {
                return Err("no image: at least one --set NAME=FILE is needed".into());
            }
            if !keep_order {
                stream.sort();
            }
            write(&stream, &output)
        }
        Command::Merge {
            images,
            base,
            delta,
            output,
        } => {
            let maps: Vec<(&Path, Mapped)> = [Some(base.as_path()), delta.as_deref()]
                .into_iter()
                .flatten()
                .map(|path| Ok((path, Mapped::open(path)?)))
                .collect::<Outcome<_>>()?;
            let mut stream = Stream::default();
            for (path, map) in &maps {
                for image in read(path, map, Trailing::Refuse)?.images {
                    stream.put(image);
                }
            }
            add(&mut stream, &images.images)?;
            stream.sort();
            write(&stream, &output)
        }
        Command::Overlay { root, base, output } => add_files(&root, &base, &output),
        Command::Addon(arguments) => addon::run(&arguments),
        Command::Bom(arguments) => addon::bom(&arguments),
        Command::Names => {
            for (name, id) in NAMES {
                println!("{name:<20}{:>3}", id.0);
            }
            Ok(())
        }
    }
}

impl Input {
    fn trailing(&self) -> Trailing {
        if self.trailing {
            Trailing::Allow
        } else {
            Trailing::Refuse
        }
    }
}

/// Read a `--set`: a name, a version, and a file or a text.
fn image(text: &str) -> Outcome<Image<'static>> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?}: allowed: NAME=FILE, NAME-vN=FILE, NAME==TEXT"))?;
    let (name, version) = match name.rsplit_once("-v") {
        Some((name, version)) if version.parse::<u8>().is_ok_and(|v| v <= MAX_VERSION) => {
            (name, version.parse().unwrap_or(0))
        }
        Some((known, version)) if ImageId::of(known).is_ok() => {
            return Err(format!(
                "{text:?}: version {version:?}; allowed: 0 to {MAX_VERSION}"
            ));
        }
        _ => (name, 0),
    };
    let id = ImageId::of(name).map_err(|error| error.to_string())?;
    let data = match value.strip_prefix('=') {
        Some(text) => text.as_bytes().to_vec(),
        None => fs::read(value).map_err(|error| format!("{value}: {error}"))?,
    };
    Ok(Image {
        id,
        version,
        data: Cow::Owned(data),
    })
}

fn add(stream: &mut Stream<'_>, images: &[String]) -> Outcome<()> {
    for text in images {
        stream.put(image(text)?);
    }
    Ok(())
}

fn add_files(root: &Path, base: &Path, output: &Path) -> Outcome<()> {
    let mtime = source_date()?;
    let added = initramfs::overlay(root).map_err(|error| format!("{}: {error}", root.display()))?;
    let map = Mapped::open(base)?;
    let mut stream = read(base, &map, Trailing::Allow)?;
    let mut found = false;
    for image in &mut stream.images {
        if image.id == ImageId::INITRAMFS {
            found = true;
            let merged = initramfs::merge(&image.data, &added, mtime).map_err(|error| {
                let version = image.version;
                format!("{}: initramfs, version {version}: {error}", base.display())
            })?;
            image.data = Cow::Owned(merged);
        }
    }
    if !found {
        return Err(format!("{}: no image initramfs", base.display()));
    }
    write(&stream, output)
}

fn list(input: &Input, as_json: bool) -> Outcome<()> {
    let map = Mapped::open(&input.file)?;
    let stream = read(&input.file, &map, input.trailing())?;
    let mut offset = 0;
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "image",
        "version",
        "number",
        "offset",
        "bytes",
        "CRC-32",
        "next version",
    ]);
    let mut rows = Vec::new();
    for header in stream.headers() {
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row([
            Cell::new(header.id),
            right(header.version.to_string()),
            right(header.id.0.to_string()),
            right(format!("{offset:#x}")),
            right(header.len.to_string()),
            right(format!("{:08x}", header.crc)),
            right(header.next_version.to_string()),
        ]);
        rows.push(json!({
            "image": header.id.to_string(), "version": header.version, "number": header.id.0,
            "offset": offset, "bytes": header.len, "crc32": format!("{:08x}", header.crc),
            "next_version": header.next_version,
        }));
        offset += HEADER_LEN as u64 + header.padded_len();
    }
    let trailing = stream.trailing.len();
    if as_json {
        println!(
            "{:#}",
            json!({ "images": rows, "trailing_bytes": trailing })
        );
        return Ok(());
    }
    println!("{table}");
    if trailing > 0 {
        println!("behind the images: {trailing} bytes at {offset:#x}");
    }
    Ok(())
}

fn verify(input: &Input) -> Outcome<()> {
    let map = Mapped::open(&input.file)?;
    let stream = read(&input.file, &map, input.trailing())?;
    let flaws = stream.check(map.bytes());
    for flaw in &flaws {
        eprintln!("{}: {flaw}", input.file.display());
    }
    if !flaws.is_empty() {
        return Err(format!("{}: {} flaws", input.file.display(), flaws.len()));
    }
    println!(
        "{}: {} images, no flaw",
        input.file.display(),
        stream.images.len()
    );
    Ok(())
}

fn extract(input: &Input, only: &[String], prefix: &str) -> Outcome<()> {
    let wanted: Vec<ImageId> = only
        .iter()
        .map(|name| ImageId::of(name).map_err(|error| error.to_string()))
        .collect::<Outcome<_>>()?;
    let map = Mapped::open(&input.file)?;
    let stream = read(&input.file, &map, input.trailing())?;
    for id in &wanted {
        if !stream.images.iter().any(|image| image.id == *id) {
            return Err(format!("{}: no image {id}", input.file.display()));
        }
    }
    for image in &stream.images {
        if wanted.is_empty() || wanted.contains(&image.id) {
            let path = format!("{prefix}{}-v{}", image.id, image.version);
            fs::write(&path, &image.data).map_err(|error| format!("{path}: {error}"))?;
        }
    }
    Ok(())
}
