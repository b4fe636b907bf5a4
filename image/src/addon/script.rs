//! The add-on as a script for `bfb-install --config`: see `image/addon/bf.cfg`, which this fills.

use std::io::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use super::AddonError;
use super::payload::{Payload, fill};
use crate::initramfs::Added;

/// Characters of a line of the payload.
const LINE: usize = 76;

/// Make the script.
///
/// # Errors
/// The configuration holds secrets: the installer copies the script to its log.
pub fn script(payload: &Payload, mtime: u32) -> Result<String, AddonError> {
    if let Some(key) = payload.secrets.first() {
        return Err(AddonError(format!(
            "bf.cfg: the configuration has {key}, and installers log this file; allowed: a configuration without \
             secrets, or none, to be put on the DPU later"
        )));
    }
    let packed = pack(payload, mtime).map_err(|error| AddonError(format!("bf.cfg: {error}")))?;
    let text = BASE64_STANDARD.encode(packed);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(LINE)
        .map(|line| std::str::from_utf8(line).expect("base64 is ASCII"))
        .collect();
    let words = [
        ("VERSION", payload.version.clone()),
        ("BOARD", payload.board.clone()),
        ("PAYLOAD", lines.join("\n")),
    ];
    fill(include_str!("../../addon/bf.cfg"), &words)
        .map_err(|what| AddonError(format!("bf.cfg: {what}")))
}

/// Pack the files as tar does, compressed by gzip.
fn pack(payload: &Payload, mtime: u32) -> std::io::Result<Vec<u8>> {
    let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
    for (path, file) in &payload.files {
        let mut header = Header::new_ustar();
        header.set_mtime(mtime.into());
        header.set_mode(file.mode & 0o7777);
        header.set_uid(0);
        header.set_gid(0);
        append(&mut tar, &mut header, path, file)?;
    }
    tar.into_inner()?.finish()
}

fn append(
    tar: &mut Builder<impl Write>,
    header: &mut Header,
    path: &str,
    file: &Added,
) -> std::io::Result<()> {
    header.set_size(0);
    if file.is_folder() {
        header.set_entry_type(EntryType::Directory);
        tar.append_data(header, path, std::io::empty())
    } else if file.is_link() {
        header.set_entry_type(EntryType::Symlink);
        let target = String::from_utf8_lossy(&file.data);
        tar.append_link(header, path, &*target)
    } else {
        header.set_entry_type(EntryType::Regular);
        header.set_size(file.data.len() as u64);
        tar.append_data(header, path, &*file.data)
    }
}
