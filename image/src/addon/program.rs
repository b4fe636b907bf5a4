//! The daemon's program: whether a DPU can run it, and what it needs there.

use object::Endianness;
use object::elf::{EM_AARCH64, ET_DYN, ET_EXEC, PT_INTERP, SHF_ALLOC, SHF_WRITE, SHT_NOBITS};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader, SectionHeader};
use object::{Object, ObjectSymbol};

/// Describe a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// What it is linked with.
    pub libc: Libc,
    /// How large it is in memory.
    pub sections: Sections,
}

/// Count the bytes of a program in memory, by what may be done with them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sections {
    /// Code and constants.
    pub text: u64,
    /// Initialised variables and relocated constants.
    pub data: u64,
    /// Zeroed variables.
    pub bss: u64,
}

/// Say what libc a program is linked with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Libc {
    /// Its own: it runs on any Linux.
    Static,
    /// The DPU's glibc, this version (2.x) or newer.
    Glibc(u32),
}

impl Program {
    /// Look at a program.
    ///
    /// # Errors
    /// What it is, when it is none for arm64 Linux.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let allowed = "allowed: a program for aarch64 Linux";
        let file = ElfFile64::<Endianness>::parse(bytes);
        let file =
            file.map_err(|error| format!("found no ELF file of 64 bits ({error}); {allowed}"))?;
        let (header, endian) = (file.elf_header(), file.endian());
        let (machine, kind) = (header.e_machine(endian), header.e_type(endian));
        if machine != EM_AARCH64 {
            return Err(format!(
                "found ELF machine {machine}; {allowed} (machine {EM_AARCH64})"
            ));
        }
        if kind != ET_EXEC && kind != ET_DYN {
            return Err(format!("found ELF type {kind}; {allowed}"));
        }
        let mut sections = Sections::default();
        for section in file.elf_section_table().iter() {
            let (flags, size) = (section.sh_flags(endian), section.sh_size(endian));
            if flags & u64::from(SHF_ALLOC) == 0 {
                continue;
            }
            if flags & u64::from(SHF_WRITE) == 0 {
                sections.text += size;
            } else if section.sh_type(endian) == SHT_NOBITS {
                sections.bss += size;
            } else {
                sections.data += size;
            }
        }
        let mut headers = file.elf_program_headers().iter();
        let Some(interpreter) = headers.find(|header| header.p_type(endian) == PT_INTERP) else {
            return Ok(Self {
                libc: Libc::Static,
                sections,
            });
        };
        let interpreter = interpreter
            .interpreter(endian, bytes)
            .ok()
            .flatten()
            .unwrap_or_default();
        if !interpreter.ends_with(b"ld-linux-aarch64.so.1") {
            let found = String::from_utf8_lossy(interpreter);
            return Err(format!(
                "found the loader {found}; allowed: glibc's ld-linux-aarch64.so.1, or none (static)"
            ));
        }
        Ok(Self {
            libc: Libc::Glibc(newest_glibc(bytes)),
            sections,
        })
    }

    /// Tell whether it has names and lines for a debugger, which only take room on a DPU.
    pub fn has_symbols(bytes: &[u8]) -> bool {
        ElfFile64::<Endianness>::parse(bytes)
            .is_ok_and(|file| file.symbols().any(|symbol| symbol.is_definition()))
    }
}

/// Give the newest `GLIBC_2.x` that is asked for. The names of versions stand as text in the dynamic string table.
fn newest_glibc(bytes: &[u8]) -> u32 {
    const NAME: &[u8] = b"\0GLIBC_2.";
    let names = bytes
        .windows(NAME.len())
        .enumerate()
        .filter(|(_, window)| *window == NAME);
    let versions = names.filter_map(|(at, _)| {
        let digits = bytes[at + NAME.len()..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit());
        digits
            .map(|byte| char::from(*byte))
            .collect::<String>()
            .parse()
            .ok()
    });
    versions.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_program_for_arm64_is_named() {
        assert!(
            Program::read(b"#!/bin/sh\n")
                .unwrap_err()
                .starts_with("found no ELF file")
        );
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        if cfg!(target_arch = "x86_64") {
            let error = Program::read(&own).unwrap_err();
            assert!(
                error.starts_with("found ELF machine 62; allowed: a program for aarch64"),
                "{error}"
            );
        }
        assert!(Program::has_symbols(&own));
    }

    #[test]
    fn the_newest_version_counts_as_a_number() {
        assert_eq!(
            newest_glibc(b"\0GLIBC_2.4\0GLIBC_2.17\0GLIBC_2.34\0GLIBC_2.9\0"),
            34
        );
        assert_eq!(newest_glibc(b"no names"), 0);
    }
}
