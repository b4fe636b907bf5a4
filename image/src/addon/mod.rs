//! The add-on that puts DPFS on a DPU, made from one description in three forms.
//!
//! ```text
//!  addon.toml ─> Description ─┐
//!  the daemon ──> program ────┼─> Payload: a small root file system with a manifest
//!  board/units/ ──────────────┘        │
//!                                      ├─> repack   the customer's stream with it in the initramfs
//!                                      ├─> delta    those images of it that differ, for mlx-mkbfb to merge
//!                                      └─> bf.cfg   a script for an OS that is installed already
//! ```
//!
//! Nothing in the result tells of the machine it was made on: times are `SOURCE_DATE_EPOCH`, everything belongs to
//! root and is sorted, paths are those on the DPU. A stream is not signed here.

mod board;
mod description;
mod payload;
mod program;
mod repack;
mod sbom;
mod script;

use std::fmt;
use std::fs;
use std::path::Path;

pub use board::Board;
pub use description::{Description, Form};
pub use payload::Payload;
pub use program::{Libc, Program, Sections};
pub use repack::{delta, repack};
pub use sbom::Sbom;
pub use script::script;

/// Say why there is no add-on, in words that name the file or the key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddonError(pub String);

impl fmt::Display for AddonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for AddonError {}

impl From<AddonError> for String {
    fn from(error: AddonError) -> Self {
        error.0
    }
}

/// Read a file; the error names it.
fn read(path: &Path) -> Result<Vec<u8>, AddonError> {
    fs::read(path).map_err(|error| AddonError(format!("{}: {error}", path.display())))
}

/// Read a file of text; the error names it.
fn read_text(path: &Path) -> Result<String, AddonError> {
    fs::read_to_string(path).map_err(|error| AddonError(format!("{}: {error}", path.display())))
}
