//! `dpfs fsck`: check and repair the stores of the `kv` backend, with no daemon serving them.

use std::format;
use std::io::{IsTerminal, Write, stderr};
use std::path::Path;
use std::string::{String, ToString};
use std::vec::Vec;

use super::config::{Backend, Config, Embedded, Kv, KvEngine};
use crate::backend::kv::embedded::{self as embedded_store, Store};
use crate::backend::kv::fsck::{self, Report};

/// Width of the progress bar.
const BAR: u64 = 40;

/// Check the store of each device that has one, or of device `tag` alone. Gives what was found, in words, and whether
/// damage is left.
///
/// # Errors
/// Why a store could not be checked; which devices there are, when none fits.
pub fn run(config: &Config, tag: Option<&str>, repair: bool) -> Result<(String, bool), String> {
    let mut text = String::new();
    let mut left = false;
    let mut checked = 0;
    for device in &config.devices {
        let (Backend::Kv(kv), true) = (&device.backend, tag.is_none_or(|tag| tag == device.tag))
        else {
            continue;
        };
        let KvEngine::Embedded(embedded) = &kv.engine else {
            continue;
        };
        let Some(path) = &embedded.path else {
            continue;
        };
        checked += 1;
        let report = store(path, kv, embedded, repair)
            .map_err(|why| format!("{}: {why}", path.display()))?;
        left |= !report.damage.is_empty() && !repair;
        text += &words(path, &report, repair);
    }
    if checked == 0 {
        let tags: Vec<&str> = config
            .devices
            .iter()
            .filter(|device| has_file(&device.backend))
            .map(|device| device.tag.as_str())
            .collect();
        let there = if tags.is_empty() {
            "none".to_string()
        } else {
            tags.join(", ")
        };
        return Err(format!(
            "no such device; devices with a store in a file: {there}"
        ));
    }
    Ok((text, left))
}

fn has_file(backend: &Backend) -> bool {
    matches!(
        backend,
        Backend::Kv(Kv {
            engine: KvEngine::Embedded(Embedded { path: Some(_), .. }),
            ..
        })
    )
}

fn store(path: &Path, kv: &Kv, embedded: &Embedded, repair: bool) -> Result<Report, String> {
    if !path.is_file() {
        return Err("no such file".into());
    }
    let config = embedded_store::Config {
        path: Some(path),
        chunk: kv.chunk,
        cache: embedded.memory as usize,
    };
    let store = Store::open(&config)?;
    let mut engine = store.engine().map_err(|error| error.to_string())?;
    let shows = stderr().is_terminal();
    let mut shown = u64::MAX;
    let report = fsck::check(&mut engine, repair, &mut |step, steps| {
        let done = step * BAR / steps.max(1);
        if shows && done != shown {
            shown = done;
            let (full, rest) = ("#".repeat(done as usize), " ".repeat((BAR - done) as usize));
            let _ = write!(
                stderr(),
                "\r[{full}{rest}] {:3}%",
                step * 100 / steps.max(1)
            );
        }
    });
    if shows {
        let _ = writeln!(stderr());
    }
    let report = report.map_err(|failure| format!("the engine failed: {failure:?}"))?;
    store.sync()?;
    Ok(report)
}

fn words(path: &Path, report: &Report, repair: bool) -> String {
    let mut text = String::new();
    for damage in &report.damage {
        text += &format!("{}: {damage}\n", path.display());
    }
    let after = match (report.damage.len(), repair) {
        (0, _) => "no damage".to_string(),
        (count, true) => format!("{count} repairs"),
        (count, false) => format!("{count} damages, not repaired: add --repair"),
    };
    text += &format!(
        "{}: {} inodes, {} names, {} orphans, {} marks; {after}\n",
        path.display(),
        report.inodes,
        report.entries,
        report.orphans,
        report.marks
    );
    text
}
