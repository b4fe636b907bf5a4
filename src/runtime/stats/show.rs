//! Statistics for people (a table) and for programs (JSON).

use core::fmt::Write;
use std::collections::BTreeMap;
use std::string::String;
use std::time::Duration;
use std::vec::Vec;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::layout::Gauge;
use super::reader::{DeviceStats, OperationStats, Snapshot, State};
use crate::runtime::config::units::rough_size;
use crate::wire::fuse::Opcode;

/// Name an operation; number zero stands for all unknown ones.
fn name(opcode: u32) -> &'static str {
    Opcode::new(opcode).map_or("unknown", Opcode::name)
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Ended => "ended",
            Self::Died => "died",
        }
    }
}

/// Draw what was counted; with an `earlier` snapshot and the time since, also the rates, and latencies of that time only.
pub fn table(snapshot: &Snapshot, earlier: Option<(&Snapshot, Duration)>) -> String {
    let mut out = String::new();
    // An earlier daemon's numbers are no base for this one's rates.
    let earlier = earlier.filter(|(earlier, _)| {
        (earlier.pid, earlier.started) == (snapshot.pid, snapshot.started)
            && earlier.devices.len() == snapshot.devices.len()
    });
    let state = snapshot.state.name();
    let _ = writeln!(out, "process {} ({state})", snapshot.pid);
    for (index, device) in snapshot.devices.iter().enumerate() {
        let earlier = earlier.map(|(earlier, time)| (&earlier.devices[index], time));
        let _ = writeln!(out, "\n{}", headline(device));
        let _ = writeln!(out, "{}", operations(snapshot, device, earlier));
    }
    out
}

fn headline(device: &DeviceStats) -> String {
    let about = &device.description;
    let mut line = format!(
        "{}: {} > {}, {} queues x {}; nodes {} of {}, open files {} of {}, in flight {}",
        about.tag,
        about.hal,
        about.backend,
        about.queues,
        about.depth,
        device.gauge(Gauge::Nodes),
        about.nodes,
        device.gauge(Gauge::OpenFiles),
        about.open_files,
        device.gauge(Gauge::InFlight),
    );
    // What should never happen is only worth a word when it did.
    for gauge in [Gauge::Unanswered, Gauge::Malformed] {
        let value = device.gauge(gauge);
        if value > 0 {
            let _ = write!(line, ", {} {value}", gauge.name());
        }
    }
    line
}

fn operations(
    snapshot: &Snapshot,
    device: &DeviceStats,
    earlier: Option<(&DeviceStats, Duration)>,
) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let mut header = Vec::from(["operation", "count", "errors", "in", "out"]);
    if earlier.is_some() {
        header.extend(["per second", "in/s", "out/s"]);
    }
    header.extend(["p50", "p99", "max"]);
    table.set_header(header);
    let before: BTreeMap<u32, OperationStats> = earlier
        .map(|(device, _)| device.total())
        .unwrap_or_default()
        .into_iter()
        .map(|operation| (operation.opcode, operation))
        .collect();
    for operation in device.total() {
        let mut row = Vec::from([
            name(operation.opcode).into(),
            format!("{}", operation.histogram.count()),
            format!("{}", operation.errors),
            rough_size(operation.bytes_in),
            rough_size(operation.bytes_out),
        ]);
        let mut latencies = operation.histogram.clone();
        if let Some((_, time)) = earlier {
            let seconds = time.as_secs_f64().max(1e-3);
            let rate = |count: u64| (count as f64 / seconds) as u64;
            let old = before.get(&operation.opcode);
            let old_bytes = old.map_or((0, 0), |old| (old.bytes_in, old.bytes_out));
            if let Some(old) = old {
                latencies = latencies.since(&old.histogram);
            }
            row.extend([
                format!("{}", rate(latencies.count())),
                rough_size(rate(operation.bytes_in.saturating_sub(old_bytes.0))),
                rough_size(rate(operation.bytes_out.saturating_sub(old_bytes.1))),
            ]);
        }
        // The middle of a bucket may lie above what was hit.
        let quantile = |part| {
            let cycles = latencies.quantile(part, 100).min(operation.max);
            rough_time(snapshot.nanoseconds(cycles))
        };
        row.extend([
            quantile(50),
            quantile(99),
            rough_time(snapshot.nanoseconds(operation.max)),
        ]);
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Write a latency with three digits or so.
fn rough_time(nanoseconds: u64) -> String {
    match nanoseconds {
        0 => "-".into(),
        1..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => format!("{:.1} us", nanoseconds as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", nanoseconds as f64 / 1e6),
        _ => format!("{:.1} s", nanoseconds as f64 / 1e9),
    }
}

#[derive(Serialize)]
struct JsonSnapshot<'a> {
    state: &'static str,
    pid: u64,
    started_unix_ns: u64,
    devices: Vec<JsonDevice<'a>>,
}

#[derive(Serialize)]
struct JsonDevice<'a> {
    tag: &'a str,
    hal: &'a str,
    backend: &'a str,
    queues: u64,
    depth: u64,
    max_nodes: u64,
    max_open_files: u64,
    #[serde(flatten)]
    gauges: BTreeMap<&'static str, u64>,
    operations: BTreeMap<&'static str, JsonOperation>,
    cores: Vec<JsonCore>,
}

#[derive(Serialize)]
struct JsonCore {
    core: u64,
    operations: BTreeMap<&'static str, JsonOperation>,
}

#[derive(Serialize)]
struct JsonOperation {
    count: u64,
    errors: u64,
    bytes_in: u64,
    bytes_out: u64,
    p50_ns: u64,
    p99_ns: u64,
    max_ns: u64,
}

/// Write everything as one JSON object, on one line. Names and units of the fields stay what they are.
pub fn json(snapshot: &Snapshot) -> String {
    let devices = snapshot.devices.iter();
    let value = JsonSnapshot {
        state: snapshot.state.name(),
        pid: snapshot.pid,
        started_unix_ns: snapshot.started,
        devices: devices
            .map(|device| json_device(snapshot, device))
            .collect(),
    };
    // Only maps with keys that are no strings could fail.
    serde_json::to_string(&value).unwrap_or_default()
}

fn json_device<'a>(snapshot: &Snapshot, device: &'a DeviceStats) -> JsonDevice<'a> {
    let about = &device.description;
    let core = |core: &super::CoreStats| JsonCore {
        core: core.core,
        operations: json_operations(snapshot, &core.operations),
    };
    JsonDevice {
        tag: &about.tag,
        hal: &about.hal,
        backend: &about.backend,
        queues: about.queues,
        depth: about.depth,
        max_nodes: about.nodes,
        max_open_files: about.open_files,
        gauges: Gauge::ALL
            .map(|gauge| (gauge.name(), device.gauge(gauge)))
            .into(),
        operations: json_operations(snapshot, &device.total()),
        cores: device.cores.iter().map(core).collect(),
    }
}

fn json_operations(
    snapshot: &Snapshot,
    operations: &[OperationStats],
) -> BTreeMap<&'static str, JsonOperation> {
    let json = |operation: &OperationStats| {
        let latencies = &operation.histogram;
        let quantile =
            |part| snapshot.nanoseconds(latencies.quantile(part, 100).min(operation.max));
        let values = JsonOperation {
            count: latencies.count(),
            errors: operation.errors,
            bytes_in: operation.bytes_in,
            bytes_out: operation.bytes_out,
            p50_ns: quantile(50),
            p99_ns: quantile(99),
            max_ns: snapshot.nanoseconds(operation.max),
        };
        (name(operation.opcode), values)
    };
    operations.iter().map(json).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Stats;
    use super::super::recorder::tests::{description, finished};
    use super::*;

    fn stats(dir: &std::path::Path) -> &'static Stats {
        Stats::create(
            dir,
            &[description("one"), description("two")],
            &[6],
            1_000_000_000,
        )
        .unwrap()
    }

    #[test]
    fn json_has_devices_cores_and_operations() {
        let dir = tempfile::tempdir().unwrap();
        let counters = stats(dir.path()).counters(0, 0).unwrap();
        counters.record(&finished(Opcode::READ as u32, 5), 1_010_000);
        counters.set(Gauge::Nodes, 3);
        let snapshot = Snapshot::load(dir.path()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json(&snapshot)).unwrap();
        assert_eq!(value["state"], "running");
        let device = &value["devices"][0];
        assert_eq!(
            (&device["tag"], &device["nodes"]),
            (&"one".into(), &3.into())
        );
        assert_eq!(device["operations"]["READ"]["errors"], 1);
        assert_eq!(device["operations"]["READ"]["max_ns"], 10_000);
        assert_eq!(device["cores"][0]["core"], 6);
        assert_eq!(device["cores"][0]["operations"]["READ"]["bytes_out"], 4112);
        assert_eq!(value["devices"][1]["operations"], serde_json::json!({}));
    }

    #[test]
    fn a_table_has_a_row_for_each_operation_and_rates_of_the_time_between() {
        let dir = tempfile::tempdir().unwrap();
        let counters = stats(dir.path()).counters(0, 0).unwrap();
        let read = Opcode::READ as u32;
        counters.record(&finished(read, 0), 3_000_000);
        let earlier = Snapshot::load(dir.path()).unwrap();
        for _ in 0..50 {
            counters.record(&finished(read, 0), 1_010_000);
        }
        let later = Snapshot::load(dir.path()).unwrap();

        let plain = table(&later, None);
        assert!(
            plain.contains("one: vhost-user > null, 2 queues x 64; nodes 0 of 1000"),
            "{plain}"
        );
        assert!(!plain.contains("per second") && !plain.contains("unanswered"));
        let rates = table(&later, Some((&earlier, Duration::from_secs(2))));
        let row = rates.lines().find(|line| line.contains("READ")).unwrap();
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[..3], ["READ", "51", "0"]);
        assert_eq!(cells[7], "25", "{row}");
        assert!(row.contains("2.0 ms"), "the longest of all time: {row}");
        assert!(
            !row.contains("1.9 ms"),
            "the slow one is no longer in the quantiles: {row}"
        );
    }

    #[test]
    fn what_went_wrong_is_in_the_headline() {
        let dir = tempfile::tempdir().unwrap();
        stats(dir.path())
            .counters(1, 0)
            .unwrap()
            .set(Gauge::Malformed, 4);
        let text = table(&Snapshot::load(dir.path()).unwrap(), None);
        assert!(text.contains("in flight 0, malformed 4\n"), "{text}");
    }

    #[test]
    fn times_are_short() {
        assert_eq!(rough_time(0), "-");
        assert_eq!(rough_time(999), "999 ns");
        assert_eq!(rough_time(12_345), "12.3 us");
        assert_eq!(rough_time(2_500_000_000), "2.5 s");
    }
}
