//! Streams in files: mapped, read, written beside their place, with a progress bar for the large ones.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use dpfs_image::{HEADER_LEN, Stream, Trailing};
use indicatif::{ProgressBar, ProgressStyle};
use memmap2::Mmap;

use crate::Outcome;

/// Streams above this many bytes get a progress bar on a terminal.
const LARGE: u64 = 64 << 20;

/// Hold a file in memory, page by page as it is read.
pub enum Mapped {
    /// Nothing, which cannot be mapped.
    Empty,
    /// All of it.
    Map(Mmap),
}

impl Mapped {
    pub fn open(path: &Path) -> Outcome<Self> {
        let failed = |error| format!("{}: {error}", path.display());
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() == 0 {
            return Ok(Self::Empty);
        }
        // SAFETY: nobody is to change an image while it is worked on; who does gets a wrong result or a signal, as with
        // any program that maps its input.
        unsafe { Mmap::map(&file) }.map(Self::Map).map_err(failed)
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Empty => &[],
            Self::Map(map) => map,
        }
    }
}

fn bar(len: u64, what: &'static str) -> ProgressBar {
    if len < LARGE {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {bytes}/{total_bytes}");
    let bar = ProgressBar::new(len).with_message(what);
    style.map_or(bar.clone(), |style| {
        bar.with_style(style.progress_chars("# "))
    })
}

/// Take a stream apart; an empty file is none.
pub fn read<'a>(path: &Path, map: &'a Mapped, trailing: Trailing) -> Outcome<Stream<'a>> {
    let bytes = map.bytes();
    let bar = bar(bytes.len() as u64, "reading");
    let stream = Stream::read(bytes, trailing, |done| bar.set_position(done as u64));
    bar.finish_and_clear();
    let stream = stream.map_err(|error| format!("{}: {error}", path.display()))?;
    if stream.images.is_empty() {
        return Err(format!("{}: the file is empty", path.display()));
    }
    Ok(stream)
}

/// Write a stream beside its place, and put it there when it is whole.
pub fn write(stream: &Stream<'_>, path: &Path) -> Outcome<()> {
    let failed = |error| format!("{}: {error}", path.display());
    let mut name = path.file_name().ok_or("the output is no file")?.to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let len: usize = stream
        .images
        .iter()
        .map(|image| HEADER_LEN + image.data.len())
        .sum();
    let bar = bar(len as u64, "writing");
    let mut file = BufWriter::new(File::create(&new).map_err(failed)?);
    let written = stream
        .write(&mut file, |done| bar.set_position(done as u64))
        .and_then(|()| file.flush())
        .and_then(|()| fs::rename(&new, path));
    bar.finish_and_clear();
    written.map_err(|error| {
        let _ = fs::remove_file(&new);
        failed(error)
    })
}

/// Give the time of what is added: `SOURCE_DATE_EPOCH`, or 1970, never that of this machine.
pub fn source_date() -> Outcome<u32> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    match std::env::var(NAME) {
        Err(_) => Ok(0),
        Ok(text) => text.parse().map_err(|_| {
            format!(
                "{NAME} = {text:?}; allowed: seconds since 1970, 0 to {}",
                u32::MAX
            )
        }),
    }
}
