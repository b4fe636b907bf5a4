//! The daemon that goes into images: what it is linked with, how large it is, and that it runs on a Cortex-A72.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::top;
use dpfs_image::addon::{Board, Libc, Program};
use tempfile::TempDir;

fn built(kind: &str) -> Option<(PathBuf, Vec<u8>)> {
    let path = common::daemon(kind)?;
    let bytes = fs::read(&path).unwrap();
    Some((path, bytes))
}

#[test]
fn both_kinds_keep_to_the_budget_and_need_what_they_say() {
    let board = Board::load(&top().join("board/bluefield2")).unwrap();
    for kind in ["static", "dynamic"] {
        let Some((_, bytes)) = built(kind) else {
            return;
        };
        let program = Program::read(&bytes).unwrap();
        println!(
            "{kind}, {} bytes: {:?} of {:?}",
            bytes.len(),
            program.sections,
            board.budget(&program.libc)
        );
        board.check(&program).unwrap();
        assert!(program.sections.text > 1 << 20, "sections were read");
        match program.libc {
            Libc::Static => assert_eq!(kind, "static"),
            // Ubuntu 22.04's, the oldest that a DPU's OS has.
            Libc::Glibc(minor) => assert!(kind == "dynamic" && minor <= 34, "2.{minor}"),
        }
        assert!(!Program::has_symbols(&bytes));
        for folder in [top().to_str().unwrap(), &std::env::var("HOME").unwrap()] {
            // As part of a path: a name of ours may begin like a folder's.
            let word = format!("{folder}/");
            let tells = word.len() > 2
                && bytes
                    .windows(word.len())
                    .any(|window| window == word.as_bytes());
            assert!(!tells, "{kind}: {folder} is in it");
        }
    }
}

/// Tell, and say so if not, whether programs for arm64 run here.
fn has_emulator() -> bool {
    let has = Command::new("qemu-aarch64")
        .arg("--version")
        .output()
        .is_ok();
    if !has {
        println!("NOT RUN: qemu-aarch64 is not installed (tests/tools installs it)");
    }
    has
}

/// A board is a folder with sizes: the same source is built for a DPU with other cores, and knows its limits.
#[test]
fn another_board_is_another_folder() {
    let Some(path) = common::daemon_for("bluefield3", "static") else {
        return;
    };
    let board = Board::load(&top().join("board/bluefield3")).unwrap();
    let program = Program::read(&fs::read(&path).unwrap()).unwrap();
    println!(
        "bluefield3: {:?} of {:?}",
        program.sections,
        board.budget(&program.libc)
    );
    board.check(&program).unwrap();
    assert_eq!((board.name.as_str(), board.cores), ("bluefield3", 16));
    if !has_emulator() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("dpfs.toml");
    let text = "[[device]]\ntag = \"a\"\nbackend = { kind = \"null\" }\n\
                hal = { kind = \"vhost-user\", socket = \"/run/a.sock\", queues = 17 }\n";
    fs::write(&config, text).unwrap();
    let mut command = Command::new("qemu-aarch64");
    command
        .args(["-cpu", "max"])
        .arg(&path)
        .args(["check", "-c"]);
    let output = command.arg(&config).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(3)
            && words.contains("device[0].hal.queues: found 17; allowed: 1 to 16"),
        "{output:?}"
    );
}

/// QEMU's Cortex-A72 takes an instruction that the real one lacks (LSE atomics) for what it is there: illegal.
#[test]
fn both_kinds_serve_on_a_cortex_a72() {
    if !has_emulator() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("dpfs.toml");
    let text = "[[device]]\ntag = \"store\"\nhal = { kind = \"vhost-user\", socket = \"/run/a.sock\" }\n\
                backend = { kind = \"kv\", engine = \"embedded\", path = \":memory:\", memory = \"16MiB\" }\n";
    fs::write(&config, text).unwrap();
    for kind in ["static", "dynamic"] {
        let Some((path, _)) = built(kind) else { return };
        let mut command = Command::new("qemu-aarch64");
        command.args(["-cpu", "cortex-a72"]);
        if kind == "dynamic" {
            command.args([Path::new("-L"), Path::new("/usr/aarch64-linux-gnu")]);
        }
        let output = command
            .arg(path)
            .args(["selftest", "-c"])
            .arg(&config)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}");
        assert!(
            output.status.success() && text.contains("selftest store: ok"),
            "{kind}: {output:?}"
        );
    }
}
