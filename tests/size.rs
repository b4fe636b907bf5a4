//! The release binary keeps to the board's budget (`board/<name>/board.toml`, `[image]`).

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use dpfs::board;
use object::read::elf::{ElfFile64, SectionHeader};
use object::{Endianness, elf};

/// Build what is shipped; when it is built already this takes no time. Gives its path.
fn release_binary() -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "--bin", "dpfs"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(built.success());
    // target/debug/dpfs or target/<triple>/debug/dpfs, from the program that cargo built for this test.
    let tested = PathBuf::from(env!("CARGO_BIN_EXE_dpfs"));
    let target = tested
        .ancestors()
        .find(|folder| folder.join("release/dpfs").exists());
    target
        .expect("a folder with release/dpfs")
        .join("release/dpfs")
}

#[test]
fn sections_keep_to_the_budget() {
    let path = release_binary();
    let bytes = fs::read(&path).unwrap();
    let file = ElfFile64::<Endianness>::parse(&*bytes).unwrap();
    let endian = file.endian();
    let (mut text, mut data, mut bss) = (0, 0, 0);
    for section in file.elf_section_table().iter() {
        let flags = section.sh_flags(endian);
        if flags & u64::from(elf::SHF_ALLOC) == 0 {
            continue;
        }
        let part = if flags & u64::from(elf::SHF_WRITE) == 0 {
            &mut text
        } else if section.sh_type(endian) == elf::SHT_NOBITS {
            &mut bss
        } else {
            &mut data
        };
        *part += section.sh_size(endian);
    }
    println!("{}: board {}", path.display(), board::NAME);
    let mut over = Vec::new();
    for (name, found, allowed) in [
        ("text", text, board::IMAGE_TEXT),
        ("data", data, board::IMAGE_DATA),
        ("bss", bss, board::IMAGE_BSS),
    ] {
        println!("{name:<5} {found:>9} of {allowed:>9} bytes");
        if found > allowed {
            over.push(format!("{name}: {found} bytes, allowed: {allowed}"));
        }
    }
    assert!(text > 0, "sections were read");
    assert!(
        over.is_empty(),
        "board {}: {}",
        board::NAME,
        over.join("; ")
    );
}
