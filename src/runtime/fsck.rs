//! `dpfs fsck`: check and repair the stores of the `kv` backend, with no daemon serving them.

use std::format;
use std::io::{IsTerminal, Write, stderr};
use std::string::{String, ToString};
use std::vec::Vec;

use super::config::{Backend, Config, Device, Kv, KvEngine, Layout};
use super::open::valkey_config;
#[cfg(feature = "kv-embedded")]
use crate::backend::kv::embedded as embedded_store;
use crate::backend::kv::engine::Engine;
use crate::backend::kv::fsck::{self, Report};
use crate::backend::kv::served::Store;
use crate::backend::kv::valkey::server::{Places, Server};

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
        let (Some((place, kv)), true) = (store_of(device), tag.is_none_or(|tag| tag == device.tag))
        else {
            continue;
        };
        checked += 1;
        let report = check(kv, repair).map_err(|why| format!("{place}: {why}"))?;
        left |= !report.damage.is_empty() && !repair;
        text += &words(&place, &report, repair);
    }
    if checked == 0 {
        let devices = config.devices.iter();
        let tags: Vec<&str> = devices
            .filter(|device| store_of(device).is_some())
            .map(|device| device.tag.as_str())
            .collect();
        let there = if tags.is_empty() {
            "none".to_string()
        } else {
            tags.join(", ")
        };
        return Err(format!(
            "no such device; devices with a store that lasts: {there}"
        ));
    }
    Ok((text, left))
}

/// Give the store of a device that outlives the daemon, and where it is.
fn store_of(device: &Device) -> Option<(String, &Kv)> {
    let Backend::Kv(kv) = &device.backend else {
        return None;
    };
    // Other programs' objects have nothing to be checked.
    if kv.layout != Layout::Tree {
        return None;
    }
    let place = match &kv.engine {
        #[cfg(feature = "kv-embedded")]
        KvEngine::Embedded(embedded) => embedded.path.as_ref()?.display().to_string(),
        KvEngine::Valkey(valkey) => {
            format!("{}, volume {:?}", Places(&valkey.places), valkey.volume)
        }
        KvEngine::Ramcloud(_) => return None,
    };
    Some((place, kv))
}

fn check(kv: &Kv, repair: bool) -> Result<Report, String> {
    match &kv.engine {
        #[cfg(feature = "kv-embedded")]
        KvEngine::Embedded(embedded) => {
            if !embedded.path.as_ref().is_some_and(|path| path.is_file()) {
                return Err("no such file".into());
            }
            let store = embedded_store::Store::open(&embedded_store::Config {
                path: embedded.path.as_deref(),
                chunk: kv.chunk,
                cache: embedded.memory as usize,
            })?;
            let mut engine = store.engine().map_err(|error| error.to_string())?;
            let report = check_on(&mut engine, repair)?;
            store.sync()?;
            Ok(report)
        }
        KvEngine::Valkey(valkey) => {
            let server = Server::find(&valkey_config(kv, valkey))?;
            check_on(&mut server.attach(1)?, repair)
        }
        KvEngine::Ramcloud(_) => Err("a table has nothing to be checked".into()),
    }
}

fn check_on<E: Engine>(engine: &mut E, repair: bool) -> Result<Report, String> {
    let shows = stderr().is_terminal();
    let mut shown = u64::MAX;
    let report = fsck::check(engine, repair, &mut |step, steps| {
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
    report.map_err(|failure| format!("the engine failed: {failure:?}"))
}

fn words(place: &str, report: &Report, repair: bool) -> String {
    let mut text = String::new();
    for damage in &report.damage {
        text += &format!("{place}: {damage}\n");
    }
    let after = match (report.damage.len(), repair) {
        (0, _) => "no damage".to_string(),
        (count, true) => format!("{count} repairs"),
        (count, false) => format!("{count} damages, not repaired: add --repair"),
    };
    text += &format!(
        "{place}: {} inodes, {} names, {} orphans, {} marks; {after}\n",
        report.inodes, report.entries, report.orphans, report.marks
    );
    text
}
