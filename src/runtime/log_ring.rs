//! The file of the deferred log, `<dir>/log`: made by the daemon, read by `dpfs log` (feature `defmt`).
//!
//! A page of header, then the ring. Like the statistics it needs no cooperation of the daemon and outlives a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::string::{String, ToString};
use std::vec::Vec;
use std::{fmt, process};

use object::Object;

use crate::sys::log_ring;
use crate::sys::map::SharedMap;

/// Name of the file in the daemon's folder.
pub const FILE: &str = "log";

/// First bytes; the last is the layout's version.
const MAGIC: [u8; 8] = *b"DPFSLOG1";

/// Places in the header: bytes written, process, length and bytes of the program's build number.
const WRITTEN: usize = 8;
const PID: usize = 16;
const BUILD_LEN: usize = 24;
const BUILD: usize = 32;
const BUILD_MAX: usize = 64;

/// Bytes of the header.
const HEADER: usize = 4096;

/// Bytes of the ring: some ten thousand records.
const RING: usize = 1 << 18;

/// Make the file in `dir` and log into it from now on.
///
/// # Errors
/// What the file system says.
pub fn create(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let new = dir.join(format!("{FILE}.{}", process::id()));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    let mut header = [0; HEADER];
    header[..MAGIC.len()].copy_from_slice(&MAGIC);
    header[PID..PID + 4].copy_from_slice(&process::id().to_le_bytes());
    // Without a number nobody can tell whether the strings fit; they still do where nothing was rebuilt.
    let build = build_of(Path::new("/proc/self/exe")).unwrap_or_default();
    let build = &build[..build.len().min(BUILD_MAX)];
    header[BUILD_LEN] = build.len() as u8;
    header[BUILD..BUILD + build.len()].copy_from_slice(build);
    file.write_all(&header)?;
    file.set_len((HEADER + RING) as u64)?;
    let map = SharedMap::new(file.as_raw_fd(), 0, HEADER + RING, true)
        .map_err(|error| io::Error::from_raw_os_error(error.get()))?;
    fs::rename(&new, dir.join(FILE))?;
    log_ring::install(map, WRITTEN, HEADER);
    Ok(())
}

/// Give the number that the linker gave a program.
fn build_of(program: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(program).ok()?;
    build_in(&bytes)
}

fn build_in(program: &[u8]) -> Option<Vec<u8>> {
    let program = object::File::parse(program).ok()?;
    program.build_id().ok()?.map(<[u8]>::to_vec)
}

/// Say why a log cannot be read.
#[derive(Debug)]
pub struct LogError(String);

impl fmt::Display for LogError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for LogError {}

fn error(path: &Path, why: impl fmt::Display) -> LogError {
    LogError(format!("{}: {why}", path.display()))
}

/// Read a ring, from its oldest record on.
pub struct Reader {
    path: PathBuf,
    file: File,
    build: Vec<u8>,
    pid: u32,
    len: u64,
    position: u64,
    /// The position may lie within a record, whose end is to be skipped.
    within: bool,
}

impl Reader {
    /// Open the log of the daemon whose folder is `dir`.
    ///
    /// # Errors
    /// There is none, or it is foreign or damaged.
    pub fn open(dir: &Path) -> Result<Self, LogError> {
        let path = dir.join(FILE);
        let file = File::open(&path).map_err(|why| match why.kind() {
            io::ErrorKind::NotFound => error(
                &path,
                "no log: no daemon with the feature defmt ever ran with this folder as runtime.dir",
            ),
            _ => error(&path, why),
        })?;
        let mut header = [0; HEADER];
        let read = file.read_exact_at(&mut header, 0);
        if read.is_err() || header[..MAGIC.len()] != MAGIC {
            return Err(error(&path, "not a log of this version of dpfs"));
        }
        let length = file.metadata().map_err(|why| error(&path, why))?.len();
        let len = length.saturating_sub(HEADER as u64);
        let build_len = usize::from(header[BUILD_LEN]);
        if len == 0 || build_len > BUILD_MAX {
            return Err(error(&path, "damaged"));
        }
        let mut pid = [0; 4];
        pid.copy_from_slice(&header[PID..PID + 4]);
        Ok(Self {
            path,
            file,
            build: header[BUILD..BUILD + build_len].to_vec(),
            pid: u32::from_le_bytes(pid),
            len,
            position: 0,
            within: false,
        })
    }

    /// Take the bytes that were logged since the last call, from the beginning of a record on.
    ///
    /// # Errors
    /// The file cannot be read (any more).
    pub fn take(&mut self) -> Result<Vec<u8>, LogError> {
        let mut bytes = Vec::new();
        let written = self.written()?;
        self.skip_to(written);
        while self.position + (bytes.len() as u64) < written {
            let from = self.position + bytes.len() as u64;
            let at = from % self.len;
            let count = (written - from).min(self.len - at);
            let old = bytes.len();
            bytes.resize(old + count as usize, 0);
            self.file
                .read_exact_at(&mut bytes[old..], HEADER as u64 + at)
                .map_err(|why| error(&self.path, why))?;
        }
        // Meanwhile the daemon may have come around and overwritten what was being copied.
        let first = self.position;
        self.skip_to(self.written()?);
        let lost = (self.position - first).min(bytes.len() as u64);
        bytes.drain(..lost as usize);
        self.position += bytes.len() as u64;
        if self.within {
            let end = bytes.iter().position(|&byte| byte == 0);
            bytes.drain(..end.map_or(bytes.len(), |end| end + 1));
            self.within = end.is_none();
        }
        Ok(bytes)
    }

    /// Leave out what is overwritten when `written` bytes are.
    fn skip_to(&mut self, written: u64) {
        let oldest = written.saturating_sub(self.len);
        if self.position < oldest {
            self.position = oldest;
            self.within = true;
        }
    }

    fn written(&self) -> Result<u64, LogError> {
        let mut word = [0; 8];
        let read = self.file.read_exact_at(&mut word, WRITTEN as u64);
        read.map_err(|why| error(&self.path, why))?;
        Ok(u64::from_le_bytes(word))
    }

    /// Read the program whose strings the log needs: `given`, or else the daemon's own, or else this one.
    ///
    /// # Errors
    /// It cannot be read, or is another build than the one that logged.
    pub fn program(&self, given: Option<&Path>) -> Result<Vec<u8>, LogError> {
        let daemon = PathBuf::from(format!("/proc/{}/exe", self.pid));
        let own = PathBuf::from("/proc/self/exe");
        let candidates = match given {
            Some(given) => vec![given.to_path_buf()],
            None => vec![daemon, own],
        };
        let mut why = None;
        for path in candidates {
            match fs::read(&path) {
                // A build without a number is believed.
                Ok(bytes) if build_in(&bytes).unwrap_or_default() == self.build => {
                    return Ok(bytes);
                }
                Ok(_) => {
                    why = Some(error(
                        &path,
                        "another build than the one that logged; name its program with --elf",
                    ));
                }
                Err(failed) => why = why.or(Some(error(&path, failed))),
            }
        }
        Err(why.unwrap_or_else(|| error(&self.path, "no program")))
    }
}

/// Make text of records.
pub struct Strings(defmt_decoder::Table);

impl Strings {
    /// Take the strings from a program.
    ///
    /// # Errors
    /// It has none, for instance because it was stripped.
    pub fn of(program: &[u8]) -> Result<Self, LogError> {
        let why = match defmt_decoder::Table::parse(program) {
            Ok(Some(table)) if !table.is_empty() => return Ok(Self(table)),
            Ok(_) => "there are none".to_string(),
            Err(why) => why.to_string(),
        };
        Err(LogError(format!(
            "the strings of the deferred log: {why}; the program was stripped, or built without the feature defmt: \
             name the one that was not with --elf"
        )))
    }

    /// Begin to decode; bytes come in, lines go out.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder(self.0.new_stream_decoder())
    }
}

/// Decode a stream of records.
pub struct Decoder<'a>(std::boxed::Box<dyn defmt_decoder::StreamDecoder + Send + Sync + 'a>);

impl Decoder<'_> {
    /// Take bytes and give the lines that are complete. A record that makes no sense becomes a line that says so.
    pub fn lines(&mut self, bytes: &[u8]) -> Vec<String> {
        use defmt_decoder::DecodeError;
        self.0.received(bytes);
        let mut lines = Vec::new();
        loop {
            match self.0.decode() {
                Ok(frame) => {
                    let time = frame.display_timestamp().map(|time| time.to_string());
                    let level = frame.level().map_or("", |level| level.as_str());
                    lines.push(format!(
                        "{} {:<5} {}",
                        time.unwrap_or_default(),
                        level.to_uppercase(),
                        frame.display_message()
                    ));
                }
                Err(DecodeError::UnexpectedEof) => return lines,
                Err(DecodeError::Malformed) => lines.push("(a record that makes no sense)".into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(len: usize) -> Reader {
        Reader {
            path: "log".into(),
            file: tempfile::tempfile().unwrap(),
            build: Vec::new(),
            pid: 0,
            len: len as u64,
            position: 0,
            within: false,
        }
    }

    /// Write as the daemon does.
    fn log(reader: &Reader, bytes: &[u8]) {
        let written = reader.written().unwrap_or(0);
        for (at, byte) in (written..).zip(bytes) {
            let at = HEADER as u64 + at % reader.len;
            reader.file.write_all_at(&[*byte], at).unwrap();
        }
        let written = written + bytes.len() as u64;
        reader
            .file
            .write_all_at(&written.to_le_bytes(), WRITTEN as u64)
            .unwrap();
    }

    #[test]
    fn what_was_logged_is_taken_once() {
        let mut reader = reader(16);
        log(&reader, b"one\0two\0");
        assert_eq!(reader.take().unwrap(), b"one\0two\0");
        assert_eq!(reader.take().unwrap(), b"");
        log(&reader, b"three\0four\0");
        assert_eq!(reader.take().unwrap(), b"three\0four\0");
    }

    #[test]
    fn a_reader_that_is_late_goes_on_with_the_next_whole_record() {
        let mut reader = reader(8);
        log(&reader, b"first\0second\0x\0");
        assert_eq!(reader.take().unwrap(), b"x\0");
        log(&reader, b"aaaa\0bbbb\0c");
        assert_eq!(reader.take().unwrap(), b"bbbb\0c");
        log(&reader, b"cc\0");
        assert_eq!(reader.take().unwrap(), b"cc\0");
    }

    #[test]
    fn a_foreign_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let words = |result: Result<Reader, LogError>| result.err().unwrap().to_string();
        assert!(words(Reader::open(dir.path())).contains("no daemon with the feature defmt"));
        fs::write(dir.path().join(FILE), "hello").unwrap();
        assert!(words(Reader::open(dir.path())).ends_with("not a log of this version of dpfs"));
        let mut damaged = vec![0; HEADER];
        damaged[..8].copy_from_slice(&MAGIC);
        fs::write(dir.path().join(FILE), &damaged).unwrap();
        assert!(words(Reader::open(dir.path())).ends_with("damaged"));
    }
}
