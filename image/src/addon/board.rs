//! The board: what `board/<name>/board.toml` allows an image.

use std::fs;
use std::path::{Path, PathBuf};

use super::program::{Libc, Program, Sections};
use super::{AddonError, read_text};

/// Hold what concerns an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Board {
    /// Name of its folder.
    pub name: String,
    /// Cores that poll, at most.
    pub cores: u64,
    file: PathBuf,
    dynamic: Sections,
    fixed: Sections,
}

impl Board {
    /// Read a board's folder.
    ///
    /// # Errors
    /// The key that is missing or no size.
    pub fn load(folder: &Path) -> Result<Self, AddonError> {
        let refuse = |path: &Path, what: &str| AddonError(format!("{}: {what}", path.display()));
        // A path like ".." has a name only once it is resolved.
        let resolved =
            fs::canonicalize(folder).map_err(|error| refuse(folder, &error.to_string()))?;
        let name = resolved.file_name().and_then(|name| name.to_str());
        let name = name
            .ok_or_else(|| refuse(folder, "a board's folder has a name"))?
            .into();
        let file = folder.join("board.toml");
        let table: toml::Table = read_text(&file)?
            .parse()
            .map_err(|_| refuse(&file, "this is not TOML"))?;
        let number = |section: &str, key: &str| {
            let value = table.get(section).and_then(|section| section.get(key));
            let number = value.and_then(number);
            number.ok_or_else(|| {
                refuse(
                    &file,
                    &format!("{section}.{key}: a count, or a size like \"64KiB\""),
                )
            })
        };
        let sections = |prefix: &str| {
            Ok(Sections {
                text: number("image", &format!("{prefix}text"))?,
                data: number("image", &format!("{prefix}data"))?,
                bss: number("image", &format!("{prefix}bss"))?,
            })
        };
        Ok(Self {
            name,
            cores: number("capacity", "cores")?,
            dynamic: sections("")?,
            fixed: sections("static_")?,
            file: file.clone(),
        })
    }

    /// Give the largest sections that a program of this kind may have.
    pub const fn budget(&self, libc: &Libc) -> &Sections {
        match libc {
            Libc::Static => &self.fixed,
            Libc::Glibc(_) => &self.dynamic,
        }
    }

    /// Tell whether a program keeps to the budget.
    ///
    /// # Errors
    /// The sections that do not, with found and allowed bytes.
    pub fn check(&self, program: &Program) -> Result<(), String> {
        let (found, allowed) = (&program.sections, self.budget(&program.libc));
        let over: Vec<String> = [
            ("text", found.text, allowed.text),
            ("data", found.data, allowed.data),
            ("bss", found.bss, allowed.bss),
        ]
        .into_iter()
        .filter(|(_, found, allowed)| found > allowed)
        .map(|(name, found, allowed)| format!("{name}: found {found} bytes; allowed: {allowed}"))
        .collect();
        if over.is_empty() {
            return Ok(());
        }
        Err(format!("{} (by {})", over.join(", "), self.file.display()))
    }
}

/// Read an integer, or a string of an integer and a binary unit.
fn number(value: &toml::Value) -> Option<u64> {
    if let Some(integer) = value.as_integer() {
        return u64::try_from(integer).ok();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_the_budget_is_named() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../board/bluefield2");
        let board = Board::load(&folder).unwrap();
        assert_eq!((&*board.name, board.cores), ("bluefield2", 8));
        let mut program = Program {
            libc: Libc::Glibc(34),
            sections: board.budget(&Libc::Glibc(34)).clone(),
        };
        assert_eq!(board.check(&program), Ok(()));
        let allowed = program.sections.data;
        program.sections.data += 1;
        let error = board.check(&program).unwrap_err();
        let wanted = format!("data: found {} bytes; allowed: {allowed} (by ", allowed + 1);
        assert!(error.starts_with(&wanted), "{error}");
        program.libc = Libc::Static;
        assert_eq!(
            board.check(&program),
            Ok(()),
            "its libc has variables of its own"
        );
    }
}
