//! Turn `board/<name>/board.toml` into constants for `src/board.rs`.
//!
//! The environment variable `DPFS_BOARD` names the board; `generic` without it. Ranges are checked by the compiler,
//! in `src/board.rs`, next to the code that relies on them; here only names and types.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::{env, fs, process};

use toml::de::{DeTable, DeValue};

#[cfg(feature = "snap")]
#[path = "bluefield2/build.rs"]
mod snap;

/// Integers and sizes: section, key, constant, documentation.
const NUMBERS: &[(&str, &str, &str, &str)] = &[
    ("capacity", "cores", "CORES", "Most cores that poll."),
    (
        "capacity",
        "devices",
        "DEVICES",
        "Most devices of one daemon.",
    ),
    (
        "capacity",
        "queues",
        "QUEUES",
        "Most request queues of one device.",
    ),
    (
        "capacity",
        "depth",
        "DEPTH",
        "Most requests in flight on one queue; a power of two.",
    ),
    (
        "capacity",
        "requests",
        "REQUESTS",
        "Most requests in flight on all queues of all devices.",
    ),
    (
        "capacity",
        "nodes",
        "NODES",
        "Most files and directories that one device's host holds at once.",
    ),
    (
        "capacity",
        "open_files",
        "OPEN_FILES",
        "Most open files of one device.",
    ),
    (
        "capacity",
        "memory",
        "MEMORY",
        "Bytes that may be reserved at start, in all.",
    ),
    (
        "default",
        "queues",
        "DEFAULT_QUEUES",
        "Request queues of a device whose configuration does not say.",
    ),
    (
        "default",
        "depth",
        "DEFAULT_DEPTH",
        "Depth of a queue whose configuration does not say.",
    ),
    (
        "default",
        "nodes",
        "DEFAULT_NODES",
        "Nodes of a device whose configuration does not say.",
    ),
    (
        "default",
        "open_files",
        "DEFAULT_OPEN_FILES",
        "Open files of a device whose configuration does not say.",
    ),
    (
        "image",
        "text",
        "IMAGE_TEXT",
        "Bytes of code and constants that the release binary may have.",
    ),
    (
        "image",
        "data",
        "IMAGE_DATA",
        "Bytes of initialised variables that the release binary may have.",
    ),
    (
        "image",
        "bss",
        "IMAGE_BSS",
        "Bytes of zeroed variables that the release binary may have.",
    ),
    (
        "image",
        "static_text",
        "IMAGE_STATIC_TEXT",
        "Bytes of code and constants that the static binary may have.",
    ),
    (
        "image",
        "static_data",
        "IMAGE_STATIC_DATA",
        "Bytes of initialised variables that the static binary may have.",
    ),
    (
        "image",
        "static_bss",
        "IMAGE_STATIC_BSS",
        "Bytes of zeroed variables that the static binary may have.",
    ),
];

/// Strings: section (empty at the top), key, constant, documentation.
const STRINGS: &[(&str, &str, &str, &str)] = &[
    ("", "name", "NAME", "The board's name."),
    ("", "description", "DESCRIPTION", "What the board is."),
    (
        "default",
        "polling",
        "DEFAULT_POLLING",
        "How cores poll where the configuration does not say.",
    ),
    (
        "image",
        "cpu",
        "IMAGE_CPU",
        "Processor that code for arm64 is compiled for, by rustc's name.",
    ),
];

fn main() {
    if let Err(error) = run() {
        eprintln!("{error}");
        process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=board/build.rs");
    println!("cargo::rerun-if-env-changed=DPFS_BOARD");
    let board = env::var("DPFS_BOARD").unwrap_or_else(|_| "generic".into());
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if board.is_empty() || !board.chars().all(plain) {
        return Err(format!("DPFS_BOARD: found {board:?}; allowed: a folder of board/").into());
    }
    let file = format!("board/{board}/board.toml");
    println!("cargo::rerun-if-changed={file}");
    let text = fs::read_to_string(&file)
        .map_err(|error| format!("DPFS_BOARD={board}: {file}: {error}"))?;
    let constants = constants(&text).map_err(|error| format!("{file}: {error}"))?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("board.rs"), constants)?;
    if env::var_os("CARGO_FEATURE_DEFMT").is_some() {
        link_deferred_log()?;
    }
    #[cfg(feature = "snap")]
    snap::build()?;
    Ok(())
}

/// Give the strings of the deferred log their addresses, and the program's file a number by which `dpfs log` knows that
/// it has the right strings.
fn link_deferred_log() -> Result<(), Box<dyn Error>> {
    let script = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("linker/defmt.ld");
    println!("cargo::rerun-if-changed=linker/defmt.ld");
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
    println!("cargo::rustc-link-arg-bins=-Wl,--build-id");
    println!("cargo::rustc-link-arg-bins=-no-pie");
    Ok(())
}

fn constants(text: &str) -> Result<String, Box<dyn Error>> {
    let root = DeTable::parse(text)?.into_inner();
    known_keys(&root)?;
    let mut out = String::new();
    for &(section, key, constant, doc) in NUMBERS {
        let value = find(&root, section, key)?;
        let number = number(value)
            .ok_or_else(|| format!("{section}.{key}: a count, or a size like \"64KiB\""))?;
        writeln!(out, "/// {doc}\npub const {constant}: u64 = {number};")?;
    }
    for &(section, key, constant, doc) in STRINGS {
        let value = find(&root, section, key)?;
        let value = value
            .as_str()
            .ok_or_else(|| format!("{section}.{key}: a string"))?;
        writeln!(out, "/// {doc}\npub const {constant}: &str = {value:?};")?;
    }
    Ok(out)
}

fn find<'a>(root: &'a DeTable<'_>, section: &str, key: &str) -> Result<&'a DeValue<'a>, String> {
    let table = match section {
        "" => Some(root),
        _ => root
            .get(section)
            .and_then(|value| value.get_ref().as_table()),
    };
    let value = table.and_then(|table| table.get(key));
    Ok(value
        .ok_or_else(|| format!("{section}.{key}: missing"))?
        .get_ref())
}

fn known_keys(root: &DeTable<'_>) -> Result<(), String> {
    let known = |section: &str, key: &str| {
        let mut all = NUMBERS.iter().chain(STRINGS);
        all.any(|entry| (entry.0, entry.1) == (section, key))
    };
    for (name, value) in root {
        let name = name.get_ref();
        match value.get_ref().as_table() {
            None if !known("", name) => return Err(format!("{name}: unknown")),
            None => {}
            Some(table) => {
                if let Some(key) = table.keys().find(|key| !known(name, key.get_ref())) {
                    return Err(format!("{name}.{}: unknown", key.get_ref()));
                }
            }
        }
    }
    Ok(())
}

/// Read an integer, or a string of an integer and a binary unit.
fn number(value: &DeValue<'_>) -> Option<u64> {
    if let Some(integer) = value.as_integer() {
        return u64::from_str_radix(integer.as_str(), integer.radix()).ok();
    }
    let text = value.as_str()?;
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let shift = match unit {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}
