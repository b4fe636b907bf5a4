//! The `[runtime]` table.

use std::path::PathBuf;
use std::vec::Vec;

use super::document::{Field, Section};
use super::{Polling, Runtime, Sandbox};
use crate::board;
use crate::log::Level;

/// How long an adaptive core polls on: about what one wake-up costs. In nanoseconds.
const SPIN: u64 = 50_000;

/// Longest time that an adaptive core may poll on, in nanoseconds.
const MAX_SPIN: u64 = 1_000_000_000;

/// Largest core number that `sched_setaffinity` takes.
const MAX_CORE: u64 = 1023;

#[derive(Clone, Copy)]
enum Mode {
    Busy,
    Adaptive,
    Sleep,
}

const MODES: [(&str, Mode); 3] = [
    ("busy", Mode::Busy),
    ("adaptive", Mode::Adaptive),
    ("sleep", Mode::Sleep),
];

const SANDBOXES: [(&str, Sandbox); 2] = [("full", Sandbox::Full), ("none", Sandbox::None)];

/// Read the table; without it everything has its default. `None` after a problem.
pub(super) fn read(top: &Section) -> Option<Runtime> {
    let defaults = Runtime {
        cores: vec![0],
        polling: polling(board_mode(), SPIN),
        log: Level::Info,
        dir: PathBuf::from("/run/dpfs"),
        sandbox: Sandbox::Full,
        descriptors: None,
    };
    let Some(field) = top.get("runtime") else {
        return Some(defaults);
    };
    let section = field.section("a table [runtime]")?;
    section.only(&[
        "cores",
        "polling",
        "spin",
        "log",
        "dir",
        "sandbox",
        "descriptors",
    ]);
    // Each is read before any `?`, so that one problem does not hide the next.
    let cores = or(section.get("cores"), defaults.cores, cores);
    let mode = or(section.get("polling"), board_mode(), |field| {
        field.choice(&MODES)
    });
    let spin = or(section.get("spin"), SPIN, |field| {
        if !matches!(mode, None | Some(Mode::Adaptive)) {
            return field.refuse("no spin: it belongs to polling = \"adaptive\"");
        }
        field.duration(0..=MAX_SPIN)
    });
    let log = or(section.get("log"), defaults.log, |field| {
        field.choice(&Level::NAMES)
    });
    let dir = or(section.get("dir"), defaults.dir, absolute);
    let sandbox = or(section.get("sandbox"), defaults.sandbox, |field| {
        field.choice(&SANDBOXES)
    });
    let descriptors = or(section.get("descriptors"), None, |field| {
        field.count(256..=1 << 30).map(Some)
    });
    Some(Runtime {
        cores: cores?,
        polling: polling(mode?, spin?),
        log: log?,
        dir: dir?,
        sandbox: sandbox?,
        descriptors: descriptors?,
    })
}

/// Give the default for an absent key, else what `read` makes of it.
pub(super) fn or<'a, T>(
    field: Option<Field<'a>>,
    default: T,
    read: impl FnOnce(&Field<'a>) -> Option<T>,
) -> Option<T> {
    match field {
        Some(field) => read(&field),
        None => Some(default),
    }
}

/// Read an absolute path.
///
/// The daemon changes neither folder nor mount name space before it has opened everything, but who starts it (a unit
/// file, a test, a shell) should not decide what a relative path means.
pub(super) fn absolute(field: &Field) -> Option<PathBuf> {
    let good = |text: &str| text.starts_with('/') && !text.contains('\0') && text.len() < 4096;
    field.text("an absolute path", good).map(PathBuf::from)
}

fn board_mode() -> Mode {
    let found = MODES
        .iter()
        .find(|(name, _)| *name == board::DEFAULT_POLLING);
    found.map_or(Mode::Adaptive, |(_, mode)| *mode)
}

const fn polling(mode: Mode, spin: u64) -> Polling {
    match mode {
        Mode::Busy => Polling::Busy,
        Mode::Adaptive => Polling::Adaptive(spin),
        Mode::Sleep => Polling::Sleep,
    }
}

fn cores(field: &Field) -> Option<Vec<usize>> {
    let allowed = format!(
        "an array of 1 to {} different core numbers, like [2, 3]",
        board::CORES
    );
    let elements = field.elements(&allowed)?;
    if elements.is_empty() || elements.len() as u64 > board::CORES {
        return field.refuse(&allowed);
    }
    let mut cores = Vec::new();
    let mut good = true;
    for element in elements {
        match element.count(0..=MAX_CORE) {
            Some(core) if cores.contains(&(core as usize)) => {
                let _: Option<()> = element.refuse("each core once");
                good = false;
            }
            Some(core) => cores.push(core as usize),
            None => good = false,
        }
    }
    good.then_some(cores)
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;
    use std::string::{String, ToString};

    fn with(lines: &str) -> Result<Runtime, String> {
        let text = format!("[runtime]\n{lines}\n{}", super::super::tests::MINIMAL);
        match Config::parse("f", &text) {
            Ok(config) => Ok(config.runtime),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn each_way_of_polling_is_read() {
        assert_eq!(with("polling = \"busy\"").unwrap().polling, Polling::Busy);
        assert_eq!(with("polling = \"sleep\"").unwrap().polling, Polling::Sleep);
        let spin = 1_000_000;
        assert_eq!(
            with("polling = \"adaptive\"\nspin = \"1ms\"")
                .unwrap()
                .polling,
            Polling::Adaptive(spin)
        );
    }

    #[test]
    fn spin_without_adaptive_polling_is_a_contradiction() {
        let error = with("polling = \"busy\"\nspin = \"1ms\"").unwrap_err();
        assert_eq!(
            error,
            "f:3:8: runtime.spin: found \"1ms\"; allowed: no spin: it belongs to polling = \"adaptive\""
        );
    }

    #[test]
    fn cores_are_different_numbers() {
        assert_eq!(with("cores = [7, 0]").unwrap().cores, [7, 0]);
        for bad in ["[]", "3", "[1, 1]", "[-1]", "[\"a\"]", "[4096]"] {
            let error = with(&format!("cores = {bad}")).unwrap_err();
            assert!(error.starts_with("f:2:"), "{error}");
        }
        assert_eq!(
            with("cores = [1, 1]").unwrap_err(),
            "f:2:13: runtime.cores[1]: found 1; allowed: each core once"
        );
    }

    #[test]
    fn one_problem_does_not_hide_the_next() {
        let error = with("cores = 1\nlog = 1\ndir = \"relative\"\nsandbox = true\ndescriptors = 3");
        assert_eq!(error.unwrap_err().lines().count(), 5);
    }
}
