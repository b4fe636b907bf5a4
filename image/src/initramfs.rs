//! The initramfs of a stream: files of ours added to it, in one archive.
//!
//! The kernel unpacks archives that stand one behind another, but installers that call `gzip -d | cpio -i` stop at the
//! end of the first. So what comes out is one newc archive, compressed with gzip when the old one was, with the old
//! entries as they were, those that are replaced left out, and the new ones at the end. The same input gives the same
//! bytes on every machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cpio::newc::{Builder, Reader, trailer};
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;

const GZIP: &[u8] = &[0x1f, 0x8b];
const NEWC: &[u8] = b"070701";
const TRAILER: &str = "TRAILER!!!";
const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// Compressions that are recognised and not understood, by their first bytes.
const OTHERS: [(&[u8], &str); 5] = [
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0x02, 0x21, 0x4c, 0x18], "lz4"),
    (&[0x5d, 0, 0], "LZMA"),
    (b"BZh", "bzip2"),
];

/// Hold a file, folder or link to add.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Added {
    /// Type and permissions.
    pub mode: u32,
    /// Content, or a link's target.
    pub data: Vec<u8>,
}

impl Added {
    /// Give a regular file.
    pub fn file(permissions: u32, data: Vec<u8>) -> Self {
        let mode = S_IFREG | permissions;
        Self { mode, data }
    }

    /// Give a folder that everybody may read.
    pub const fn folder() -> Self {
        Self {
            mode: S_IFDIR | 0o755,
            data: Vec::new(),
        }
    }

    /// Give a symbolic link.
    pub fn link(target: &str) -> Self {
        Self {
            mode: S_IFLNK | 0o777,
            data: target.into(),
        }
    }

    /// Tell whether it is a folder.
    pub const fn is_folder(&self) -> bool {
        self.mode & S_IFMT == S_IFDIR
    }

    /// Tell whether it is a symbolic link.
    pub const fn is_link(&self) -> bool {
        self.mode & S_IFMT == S_IFLNK
    }
}

/// Hold what is to be added, by path without a leading "/".
pub type Overlay = BTreeMap<String, Added>;

/// Read a folder of this machine: regular files, folders and symbolic links, as root's.
///
/// # Errors
/// Of the file system; `InvalidInput` for a special file or a path that is not UTF-8.
pub fn overlay(root: &Path) -> io::Result<Overlay> {
    let mut found = Overlay::new();
    let mut folders = vec![(root.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let refuse = |what| {
                let text = format!("{}: {what}", entry.path().display());
                io::Error::new(io::ErrorKind::InvalidInput, text)
            };
            let name = entry.file_name();
            let name = name
                .to_str()
                .ok_or_else(|| refuse("the name is not UTF-8"))?;
            let path = format!("{prefix}{name}");
            let meta = entry.metadata()?;
            let (kind, data) = if meta.is_dir() {
                folders.push((entry.path(), format!("{path}/")));
                (S_IFDIR, Vec::new())
            } else if meta.is_file() {
                (S_IFREG, fs::read(entry.path())?)
            } else if meta.is_symlink() {
                let target = fs::read_link(entry.path())?;
                (S_IFLNK, target.into_os_string().into_encoded_bytes())
            } else {
                return Err(refuse("only files, folders and symbolic links are taken"));
            };
            let permissions = match kind {
                S_IFLNK => 0o777,
                _ => meta.permissions().mode() & 0o7777,
            };
            let mode = kind | permissions;
            found.insert(path, Added { mode, data });
        }
    }
    Ok(found)
}

/// Give an entry's path as it is in the tree: "./etc" and "/etc" are "etc".
fn plain(name: &str) -> &str {
    name.trim_start_matches("./").trim_start_matches('/')
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Add files to an initramfs. Folders that are there stay as they are; `mtime` is the time of what is added, in seconds
/// since 1970.
///
/// # Errors
/// `InvalidData` for an archive that is damaged, or compressed in another way than by gzip.
pub fn merge(base: &[u8], added: &Overlay, mtime: u32) -> io::Result<Vec<u8>> {
    let mut merged = Merged {
        added,
        folders: BTreeSet::new(),
        last_ino: 0,
        out: Vec::new(),
    };
    let compressed = walk(base, &mut |entry| merged.copy(entry))?;
    merged.append(mtime)?;
    if !compressed {
        return Ok(merged.out);
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&merged.out)?;
    encoder.finish()
}

/// Read the files of an initramfs whose paths, without a leading "/", are `wanted`. What several archives have comes from
/// the last, which the kernel unpacks last.
///
/// # Errors
/// As for [`merge`].
pub fn find(base: &[u8], wanted: impl Fn(&str) -> bool) -> io::Result<Overlay> {
    let mut found = Overlay::new();
    walk(base, &mut |entry| {
        let (path, mode) = (
            plain(entry.entry().name()).to_string(),
            entry.entry().mode(),
        );
        if wanted(&path) {
            let mut data = Vec::new();
            entry.read_to_end(&mut data)?;
            found.insert(path, Added { mode, data });
        }
        Ok(())
    })?;
    Ok(found)
}

/// Read the symbolic links of an initramfs: paths without a leading "/", and what they point at.
///
/// # Errors
/// As for [`merge`].
pub fn links(base: &[u8]) -> io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    walk(base, &mut |entry| {
        if entry.entry().mode() & S_IFMT == S_IFLNK {
            let path = plain(entry.entry().name()).to_string();
            let mut target = String::new();
            entry.read_to_string(&mut target)?;
            found.insert(path, target);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Show every entry of every archive of an initramfs, trailers apart; tell whether any was compressed.
fn walk(
    base: &[u8],
    visit: &mut dyn FnMut(&mut Reader<&[u8]>) -> io::Result<()>,
) -> io::Result<bool> {
    let mut rest = base;
    let mut compressed = false;
    let mut archives = 0;
    loop {
        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
        rest = &rest[zeros..];
        if rest.is_empty() && archives > 0 {
            return Ok(compressed);
        }
        archives += 1;
        if rest.starts_with(GZIP) {
            compressed = true;
            let mut inner = Vec::new();
            let mut member = GzDecoder::new(rest);
            member.read_to_end(&mut inner)?;
            if inner.starts_with(GZIP) {
                return Err(invalid("an archive that is compressed twice".into()));
            }
            walk(&inner, visit)?;
            rest = member.into_inner();
            continue;
        }
        if !rest.starts_with(NEWC) {
            let known = OTHERS.iter().find(|(magic, _)| rest.starts_with(magic));
            let found = known.map_or_else(
                || format!("{:02x?}", &rest[..rest.len().min(6)]),
                |(_, name)| (*name).to_string(),
            );
            let at = base.len() - rest.len();
            return Err(invalid(format!(
                "offset {at:#x}: found {found}; allowed: newc archives, plain or compressed by gzip"
            )));
        }
        rest = loop {
            let mut reader = Reader::new(rest)?;
            if reader.entry().is_trailer() {
                break reader.finish()?;
            }
            visit(&mut reader)?;
            rest = reader.finish()?;
        };
    }
}

struct Merged<'a> {
    added: &'a Overlay,
    /// Folders that the old archive has.
    folders: BTreeSet<String>,
    last_ino: u32,
    out: Vec<u8>,
}

impl Merged<'_> {
    /// Copy one entry, unless it is replaced.
    fn copy(&mut self, reader: &mut Reader<&[u8]>) -> io::Result<()> {
        let entry = reader.entry();
        let path = plain(entry.name()).to_string();
        self.last_ino = self.last_ino.max(entry.ino());
        let is_folder = entry.mode() & S_IFMT == S_IFDIR;
        let replaced = self
            .added
            .get(&path)
            .is_some_and(|new| !is_folder || new.mode & S_IFMT != S_IFDIR);
        if replaced && !is_folder && entry.nlink() > 1 {
            // The content stands with one of the names only, perhaps with this one.
            return Err(invalid(format!(
                "{path}: it has other names (hard links) in the initramfs; allowed: replacing files with one name"
            )));
        }
        if is_folder {
            self.folders.insert(path);
        }
        if replaced {
            return Ok(());
        }
        let copy = Builder::new(entry.name())
            .ino(entry.ino())
            .mode(entry.mode())
            .uid(entry.uid())
            .gid(entry.gid())
            .nlink(entry.nlink())
            .mtime(entry.mtime())
            .dev_major(entry.dev_major())
            .dev_minor(entry.dev_minor())
            .rdev_major(entry.rdev_major())
            .rdev_minor(entry.rdev_minor());
        let mut writer = copy.write(&mut self.out, entry.file_size());
        io::copy(reader, &mut writer)?;
        writer.finish()?;
        Ok(())
    }

    /// Append what is added, and the end of the archive.
    fn append(&mut self, mtime: u32) -> io::Result<()> {
        for (path, new) in self.added {
            if plain(path) == TRAILER {
                return Err(invalid(format!("{path}: no file can have this name")));
            }
            let is_folder = new.mode & S_IFMT == S_IFDIR;
            if is_folder && self.folders.contains(path) {
                continue;
            }
            self.last_ino += 1;
            let len = u32::try_from(new.data.len())
                .map_err(|_| invalid(format!("{path}: a file has less than 4 GiB")))?;
            let builder = Builder::new(path)
                .ino(self.last_ino)
                .mode(new.mode)
                .nlink(if is_folder { 2 } else { 1 })
                .mtime(mtime);
            let mut writer = builder.write(&mut self.out, len);
            writer.write_all(&new.data)?;
            writer.finish()?;
        }
        trailer(&mut self.out)?;
        Ok(())
    }
}
