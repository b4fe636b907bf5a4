//! The daemon's side: make the file, count into it.

use core::sync::atomic::{AtomicU64, Ordering};
use std::boxed::Box;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::{fmt, process};

use super::layout::{
    self, BYTES_IN, BYTES_OUT, Description, ENDED, ERRORS, GAUGE_WORDS, Gauge, HEADER_WORDS,
    Header, KIND_WORDS, MAX, OPERATION_WORDS, OPERATIONS, SHARE_WORDS, TAG_WORDS,
};
use super::{FILE, histogram, reader};
use crate::mem::Finished;
use crate::runtime::worker::{Load, Observer};
use crate::sys::map::SharedWords;
use crate::sys::time;

/// Own the file of statistics of this process.
#[derive(Debug)]
pub struct Stats {
    map: SharedWords,
    devices: usize,
    cores: usize,
    /// Locked as long as this process lives.
    _file: File,
}

/// Say why there is no file of statistics.
#[derive(Debug)]
pub enum CreateError {
    /// Another daemon uses the folder.
    InUse {
        /// The folder.
        dir: PathBuf,
        /// Its process, where it could be read.
        pid: Option<u64>,
    },
    /// The file cannot be made.
    Io {
        /// What was tried to be made or opened.
        path: PathBuf,
        /// Why it was not.
        error: io::Error,
    },
}

impl fmt::Display for CreateError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { dir, pid } => {
                write!(out, "{}: another dpfs uses this folder", dir.display())?;
                if let Some(pid) = pid {
                    write!(out, " (process {pid})")?;
                }
                write!(out, "; allowed: one daemon for each runtime.dir")
            }
            Self::Io { path, error } => write!(out, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for CreateError {}

impl Stats {
    /// Make the file in `dir`, which is made when absent, and leave it to this process for ever.
    ///
    /// An earlier daemon's file is replaced in one step, so a reader sees one or the other. Pages are taken when they
    /// are first counted into: an operation that a core never does costs nothing.
    ///
    /// # Errors
    /// Another daemon uses the folder; or the file system refuses.
    pub fn create(
        dir: &Path,
        devices: &[Description],
        cores: &[usize],
        cycle_rate: u64,
    ) -> Result<&'static Self, CreateError> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |error| CreateError::Io { path, error }
        };
        fs::create_dir_all(dir).map_err(at(dir))?;
        let path = dir.join(FILE);
        if let Ok(old) = File::open(&path)
            && let Err(fs::TryLockError::WouldBlock) = old.try_lock()
        {
            return Err(CreateError::InUse {
                dir: dir.into(),
                pid: reader::pid(&old),
            });
        }
        // Named after the process, so that two that start at once do not write into one file.
        let new = dir.join(format!("{FILE}.{}", process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&new)
            .map_err(at(&new))?;
        let words = layout::total(devices.len(), cores.len());
        file.set_len(words as u64 * 8).map_err(at(&new))?;
        file.try_lock().map_err(|error| at(&new)(error.into()))?;
        let map = SharedWords::new(file.as_raw_fd(), words)
            .map_err(|error| at(&new)(io::Error::from_raw_os_error(error.get())))?;
        let stats = Self {
            map,
            devices: devices.len(),
            cores: cores.len(),
            _file: file,
        };
        stats.describe(devices, cores, cycle_rate);
        fs::rename(&new, &path).map_err(at(&path))?;
        Ok(Box::leak(Box::new(stats)))
    }

    fn describe(&self, devices: &[Description], cores: &[usize], cycle_rate: u64) {
        let words = self.map.words();
        let set = |at: usize, value: u64| words[at].store(value, Ordering::Relaxed);
        let set_text = |at: usize, length: usize, text: &str| {
            for (word, bytes) in text.as_bytes().chunks(8).take(length).enumerate() {
                let mut value = [0; 8];
                value[..bytes.len()].copy_from_slice(bytes);
                set(at + word, u64::from_le_bytes(value));
            }
        };
        let (seconds, nanoseconds) = time::wall();
        let started = seconds as u64 * 1_000_000_000 + u64::from(nanoseconds);
        for (place, value) in [
            (Header::Magic, layout::MAGIC),
            (Header::Version, layout::VERSION),
            (Header::Pid, process::id().into()),
            (Header::Started, started),
            (Header::CycleRate, cycle_rate),
            (Header::Devices, devices.len() as u64),
            (Header::Cores, cores.len() as u64),
            (Header::OperationWords, OPERATION_WORDS as u64),
            (Header::ShareWords, SHARE_WORDS as u64),
        ] {
            set(place as usize, value);
        }
        for (index, device) in devices.iter().enumerate() {
            let at = HEADER_WORDS + index * layout::DEVICE_WORDS;
            set_text(at, TAG_WORDS, &device.tag);
            set_text(at + TAG_WORDS, KIND_WORDS, &device.hal);
            set_text(at + TAG_WORDS + KIND_WORDS, KIND_WORDS, &device.backend);
            let numbers = [device.queues, device.depth, device.nodes, device.open_files];
            for (place, number) in numbers.into_iter().enumerate() {
                set(at + TAG_WORDS + 2 * KIND_WORDS + place, number);
            }
        }
        for (index, &core) in cores.iter().enumerate() {
            set(layout::cores_at(devices.len()) + index, core as u64);
        }
    }

    /// Give the counters of a device on a core, both by their positions in what [`Self::create`] got.
    ///
    /// `None` when there is no such device or core.
    pub fn counters(&'static self, device: usize, core: usize) -> Option<Counters> {
        if device >= self.devices || core >= self.cores {
            return None;
        }
        let at = layout::share_at(self.devices, self.cores, device, core);
        let share = self.map.words().get(at..at + SHARE_WORDS)?;
        let (gauges, operations) = share.split_at(GAUGE_WORDS);
        Some(Counters {
            gauges: gauges.first_chunk()?,
            operations: operations.as_chunks().0.first_chunk()?,
        })
    }

    /// Note that the daemon ends in order.
    pub fn end(&self) {
        self.map.words()[Header::Ended as usize].store(ENDED, Ordering::Relaxed);
    }
}

/// Count for one device on one core.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    gauges: &'static [AtomicU64; GAUGE_WORDS],
    operations: &'static [[AtomicU64; OPERATION_WORDS]; OPERATIONS],
}

/// Add to a counter that only this thread writes: a load and a store, no locked instruction.
#[inline]
fn add(counter: &AtomicU64, value: u64) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(value);
    counter.store(sum, Ordering::Relaxed);
}

impl Counters {
    /// Count a request that ended at `now` in the unit of [`Finished::started`]. Called on the core's thread only.
    #[inline]
    pub fn record(&self, finished: &Finished, now: u64) {
        let number = finished.header.opcode as usize;
        let operation = &self.operations[if number < OPERATIONS { number } else { 0 }];
        // Counters of two sockets may differ by a little; no time is better than an age.
        let latency = now.saturating_sub(finished.started);
        add(&operation[histogram::bucket(latency)], 1);
        add(&operation[ERRORS], u64::from(finished.error != 0));
        add(&operation[BYTES_IN], finished.header.len.into());
        add(&operation[BYTES_OUT], finished.written.into());
        if latency > operation[MAX].load(Ordering::Relaxed) {
            operation[MAX].store(latency, Ordering::Relaxed);
        }
    }

    /// Set a gauge. Any thread may, but for each gauge of a core only one.
    #[inline]
    pub fn set(&self, gauge: Gauge, value: u64) {
        self.gauges[gauge as usize].store(value, Ordering::Relaxed);
    }
}

impl Observer for Counters {
    #[inline]
    fn finished(&mut self, finished: &Finished, now: u64) {
        self.record(finished, now);
    }

    #[inline]
    fn round_ended(&mut self, load: Load) {
        self.set(Gauge::InFlight, load.in_flight as u64);
        self.set(Gauge::Unanswered, load.unanswered);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Snapshot, State};
    use super::*;
    use crate::mem::Token;
    use crate::wire::fuse::{InHeader, Opcode};
    use std::string::ToString;

    pub fn description(tag: &str) -> Description {
        Description {
            tag: tag.into(),
            hal: "vhost-user".into(),
            backend: "null".into(),
            queues: 2,
            depth: 64,
            nodes: 1000,
            open_files: 100,
        }
    }

    pub fn finished(opcode: u32, error: u16) -> Finished {
        Finished {
            token: Token(0),
            header: InHeader {
                opcode,
                len: 80,
                ..InHeader::default()
            },
            written: 4112,
            error,
            started: 1_000_000,
        }
    }

    #[test]
    fn what_is_counted_is_read_back_by_device_and_core() {
        let dir = tempfile::tempdir().unwrap();
        let devices = [description("one"), description(&"t".repeat(36))];
        let stats = Stats::create(dir.path(), &devices, &[6, 7], 1_000_000_000).unwrap();
        let read = Opcode::READ as u32;
        let counters = stats.counters(1, 1).unwrap();
        for _ in 0..99 {
            counters.record(&finished(read, 0), 1_010_000);
        }
        counters.record(&finished(read, 5), 1_900_000);
        counters.set(Gauge::Nodes, 12);
        stats
            .counters(1, 0)
            .unwrap()
            .record(&finished(read, 0), 1_010_000);
        assert!(stats.counters(2, 0).is_none() && stats.counters(0, 2).is_none());

        let snapshot = Snapshot::load(dir.path()).unwrap();
        assert_eq!(snapshot.state, State::Running);
        assert_eq!(snapshot.pid, u64::from(process::id()));
        assert_eq!(snapshot.devices[0].total().len(), 0);
        let device = &snapshot.devices[1];
        assert_eq!(device.description, devices[1]);
        assert_eq!(device.gauge(Gauge::Nodes), 12);
        assert_eq!(device.cores[1].core, 7);
        let operation = &device.cores[1].operations[0];
        assert_eq!((operation.opcode, operation.histogram.count()), (read, 100));
        assert_eq!(
            (operation.errors, operation.bytes_in, operation.bytes_out),
            (1, 8000, 411_200)
        );
        assert_eq!(operation.max, 900_000);
        assert!(operation.histogram.quantile(50, 100).abs_diff(10_000) < 700);
        assert_eq!(device.total()[0].histogram.count(), 101);
    }

    #[test]
    fn unknown_operations_and_clocks_that_differ_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let stats = Stats::create(dir.path(), &[description("a")], &[0], 1000).unwrap();
        let counters = stats.counters(0, 0).unwrap();
        for opcode in [0, 7, 54, u32::MAX] {
            counters.record(&finished(opcode, 38), 0);
        }
        let snapshot = Snapshot::load(dir.path()).unwrap();
        let total = snapshot.devices[0].total();
        assert_eq!(total[0].opcode, 0);
        assert_eq!(total[0].histogram.count(), 3);
        assert_eq!((total[1].opcode, total[1].max), (7, 0));
    }

    #[test]
    fn one_daemon_for_each_folder() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Stats::create(dir.path(), &[description("a")], &[0], 1).unwrap();
        let error = Stats::create(dir.path(), &[description("a")], &[0], 1).unwrap_err();
        assert!(
            matches!(error, CreateError::InUse { pid: Some(pid), .. } if pid == u64::from(process::id()))
        );
        assert!(
            error
                .to_string()
                .contains("another dpfs uses this folder (process ")
        );
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left behind"
        );
    }

    #[test]
    fn an_end_in_order_is_told_from_a_running_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let stats = Stats::create(dir.path(), &[description("a")], &[0], 1).unwrap();
        stats.end();
        assert_eq!(Snapshot::load(dir.path()).unwrap().state, State::Ended);
    }
}
