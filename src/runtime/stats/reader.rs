//! A reader's side: take the file as it is and check everything about it.
//!
//! The file is read, not mapped: its owner may replace or cut it at any time, and a read says so where a mapping would
//! end the reader. A 64-bit counter is never torn.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::string::String;
use std::vec::Vec;
use std::{fmt, iter};

use super::FILE;
use super::histogram::{BUCKETS, Histogram};
use super::layout::{
    self, BYTES_IN, BYTES_OUT, DEVICE_WORDS, Description, ENDED, ERRORS, GAUGE_WORDS, Gauge,
    HEADER_WORDS, Header, KIND_WORDS, MAX, OPERATION_WORDS, SHARE_WORDS, TAG_WORDS,
};

/// Most devices or cores that a file may claim to have.
const MOST: u64 = 1024;

/// Say what became of the daemon that counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running,
    /// It ended in order.
    Ended,
    /// It is gone and did not end in order.
    Died,
}

/// Hold everything that was counted, at about one time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What became of the daemon.
    pub state: State,
    /// Its process.
    pub pid: u64,
    /// When it started, in nanoseconds since 1970-01-01 UTC.
    pub started: u64,
    /// Cycles per second of all latencies.
    pub cycle_rate: u64,
    /// In the order of the configuration.
    pub devices: Vec<DeviceStats>,
}

/// Hold what was counted for one device.
#[derive(Clone, Debug)]
pub struct DeviceStats {
    /// The device.
    pub description: Description,
    /// By core, in the order of the configuration.
    pub cores: Vec<CoreStats>,
}

/// Hold what one core counted for one device.
#[derive(Clone, Debug)]
pub struct CoreStats {
    /// The core's number.
    pub core: u64,
    /// In the order of [`Gauge::ALL`].
    pub gauges: [u64; Gauge::ALL.len()],
    /// Those that were ever counted, by number.
    pub operations: Vec<OperationStats>,
}

/// Hold what was counted for one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationStats {
    /// Its number; zero stands for all unknown ones.
    pub opcode: u32,
    /// Replies with an error.
    pub errors: u64,
    /// Bytes of requests, with their headers.
    pub bytes_in: u64,
    /// Bytes of replies, with their headers.
    pub bytes_out: u64,
    /// Longest latency in cycles.
    pub max: u64,
    /// Latencies in cycles, from the taken chain to the published reply.
    pub histogram: Histogram,
}

impl DeviceStats {
    /// Add up the cores' gauge.
    pub fn gauge(&self, gauge: Gauge) -> u64 {
        let values = self.cores.iter().map(|core| core.gauges[gauge as usize]);
        values.fold(0, u64::saturating_add)
    }

    /// Add up the cores' operations.
    pub fn total(&self) -> Vec<OperationStats> {
        let mut total: Vec<OperationStats> = Vec::new();
        for operation in self.cores.iter().flat_map(|core| &core.operations) {
            match total.binary_search_by_key(&operation.opcode, |found| found.opcode) {
                Ok(at) => total[at].add(operation),
                Err(at) => total.insert(at, operation.clone()),
            }
        }
        total
    }
}

impl OperationStats {
    fn add(&mut self, other: &Self) {
        self.errors = self.errors.saturating_add(other.errors);
        self.bytes_in = self.bytes_in.saturating_add(other.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(other.bytes_out);
        self.max = self.max.max(other.max);
        self.histogram.add(&other.histogram);
    }
}

/// Say why a file of statistics cannot be read.
#[derive(Debug)]
pub struct ReadError {
    path: PathBuf,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    Io(io::Error),
    Foreign,
    Version(u64),
    Damaged(&'static str),
}

impl fmt::Display for ReadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: ", self.path.display())?;
        match &self.reason {
            Reason::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                write!(
                    out,
                    "no statistics: no daemon ever ran with this folder as runtime.dir"
                )
            }
            Reason::Io(error) => write!(out, "{error}"),
            Reason::Foreign => write!(out, "not a file of dpfs statistics"),
            Reason::Version(found) => write!(
                out,
                "written by another version of dpfs: layout {found}; this program reads {}",
                layout::VERSION
            ),
            Reason::Damaged(what) => write!(out, "damaged: {what}"),
        }
    }
}

impl std::error::Error for ReadError {}

impl Snapshot {
    /// Read the statistics of the daemon whose folder is `dir`.
    ///
    /// # Errors
    /// There is no such file, or it is foreign, of another version, or damaged.
    pub fn load(dir: &Path) -> Result<Self, ReadError> {
        let path = dir.join(FILE);
        Self::load_file(&path).map_err(|reason| ReadError { path, reason })
    }

    fn load_file(path: &Path) -> Result<Self, Reason> {
        let mut file = File::open(path).map_err(Reason::Io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Reason::Io)?;
        let running = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        let words: Vec<u64> = bytes
            .as_chunks()
            .0
            .iter()
            .map(|word| u64::from_le_bytes(*word))
            .collect();
        Self::parse(&words, running)
    }

    fn parse(words: &[u64], running: bool) -> Result<Self, Reason> {
        let header = |place: Header| words.get(place as usize).copied();
        if header(Header::Magic) != Some(layout::MAGIC) {
            return Err(Reason::Foreign);
        }
        match header(Header::Version) {
            Some(layout::VERSION) => {}
            found => return Err(Reason::Version(found.unwrap_or(0))),
        }
        let need = |place| header(place).ok_or(Reason::Damaged("it is cut short"));
        let (devices, cores) = (need(Header::Devices)?, need(Header::Cores)?);
        let sizes = (need(Header::OperationWords)?, need(Header::ShareWords)?);
        if sizes != (OPERATION_WORDS as u64, SHARE_WORDS as u64) || devices.max(cores) > MOST {
            return Err(Reason::Damaged("its header contradicts its version"));
        }
        let (devices, cores) = (devices as usize, cores as usize);
        if words.len() < layout::total(devices, cores) {
            return Err(Reason::Damaged("it is cut short"));
        }
        let state = match (running, need(Header::Ended)?) {
            (_, ENDED) => State::Ended,
            (true, _) => State::Running,
            (false, _) => State::Died,
        };
        let numbers = &words[layout::cores_at(devices)..][..cores];
        let device = |device| DeviceStats {
            description: description(&words[HEADER_WORDS + device * DEVICE_WORDS..]),
            cores: iter::zip(0.., numbers)
                .map(|(core, &number)| {
                    let at = layout::share_at(devices, cores, device, core);
                    share(number, &words[at..at + SHARE_WORDS])
                })
                .collect(),
        };
        Ok(Self {
            state,
            pid: need(Header::Pid)?,
            started: need(Header::Started)?,
            cycle_rate: need(Header::CycleRate)?.max(1),
            devices: (0..devices).map(device).collect(),
        })
    }

    /// Turn cycles into nanoseconds.
    pub fn nanoseconds(&self, cycles: u64) -> u64 {
        let nanoseconds = u128::from(cycles) * 1_000_000_000 / u128::from(self.cycle_rate);
        u64::try_from(nanoseconds).unwrap_or(u64::MAX)
    }
}

/// Give the process that made an open file of statistics.
pub(super) fn pid(file: &File) -> Option<u64> {
    let mut word = [0; 8];
    file.read_exact_at(&mut word, Header::Pid as u64 * 8).ok()?;
    Some(u64::from_le_bytes(word))
}

fn description(words: &[u64]) -> Description {
    let (kinds, numbers) = words[TAG_WORDS..].split_at(2 * KIND_WORDS);
    Description {
        tag: text(&words[..TAG_WORDS]),
        hal: text(&kinds[..KIND_WORDS]),
        backend: text(&kinds[KIND_WORDS..]),
        queues: numbers[0],
        depth: numbers[1],
        nodes: numbers[2],
        open_files: numbers[3],
    }
}

fn text(words: &[u64]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes());
    let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    let text = String::from_utf8_lossy(&bytes);
    // What a terminal would act on is no part of a name.
    text.chars().filter(|c| !c.is_control()).collect()
}

fn share(core: u64, words: &[u64]) -> CoreStats {
    let (gauges, operations) = words.split_at(GAUGE_WORDS);
    let operations = operations
        .as_chunks::<OPERATION_WORDS>()
        .0
        .iter()
        .enumerate()
        .take(layout::OPERATIONS);
    let mut values = [0; Gauge::ALL.len()];
    values.copy_from_slice(&gauges[..Gauge::ALL.len()]);
    CoreStats {
        core,
        gauges: values,
        operations: operations
            .filter(|(_, words)| words[..BUCKETS].iter().any(|&hits| hits != 0))
            .map(|(number, words)| OperationStats {
                opcode: number as u32,
                errors: words[ERRORS],
                bytes_in: words[BYTES_IN],
                bytes_out: words[BYTES_OUT],
                max: words[MAX],
                histogram: Histogram(words[..BUCKETS].try_into().unwrap_or([0; BUCKETS])),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stats;
    use super::super::recorder::tests::{description, finished};
    use super::*;
    use std::fs;
    use std::string::ToString;

    fn load(bytes: &[u8]) -> Result<Snapshot, String> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), bytes).unwrap();
        let loaded = Snapshot::load(dir.path());
        loaded.map_err(|error| error.to_string().rsplit_once("/stats: ").unwrap().1.into())
    }

    fn good() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let stats = Stats::create(dir.path(), &[description("a")], &[0], 1000).unwrap();
        stats
            .counters(0, 0)
            .unwrap()
            .record(&finished(15, 0), 2_000_000);
        fs::read(dir.path().join(FILE)).unwrap()
    }

    #[test]
    fn no_file_is_told_from_a_bad_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = Snapshot::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("no daemon ever ran"), "{error}");
        assert_eq!(load(b"").unwrap_err(), "not a file of dpfs statistics");
        assert_eq!(
            load(&[0xff; 8192]).unwrap_err(),
            "not a file of dpfs statistics"
        );
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = good();
        bytes[8] = 9;
        let error = load(&bytes).unwrap_err();
        assert_eq!(
            error,
            "written by another version of dpfs: layout 9; this program reads 1"
        );
    }

    #[test]
    fn a_cut_file_is_damaged() {
        let bytes = good();
        for length in [17, 40, 4096, bytes.len() - 8] {
            assert_eq!(
                load(&bytes[..length]).unwrap_err(),
                "damaged: it is cut short"
            );
        }
        let mut bytes = good();
        bytes[Header::Devices as usize * 8 + 5] = 1;
        assert_eq!(
            load(&bytes).unwrap_err(),
            "damaged: its header contradicts its version"
        );
    }

    #[test]
    fn a_file_without_its_daemon_says_that_it_died() {
        assert_eq!(load(&good()).unwrap().state, State::Died);
    }

    #[test]
    fn cycles_become_nanoseconds_without_overflow() {
        let snapshot = load(&good()).unwrap();
        assert_eq!(snapshot.nanoseconds(2), 2_000_000);
        assert_eq!(snapshot.nanoseconds(u64::MAX), u64::MAX);
    }

    proptest::proptest! {
        #[test]
        fn no_damage_makes_a_reader_panic(
            changes in proptest::collection::vec((0..6000usize, proptest::num::u8::ANY), 1..20),
        ) {
            let mut bytes = good();
            for (at, value) in changes {
                bytes[at] = value;
            }
            if let Ok(snapshot) = load(&bytes) {
                for device in &snapshot.devices {
                    for operation in device.total() {
                        snapshot.nanoseconds(operation.histogram.quantile(99, 100));
                    }
                }
            }
        }
    }
}
