//! What the tests of the add-on share: fetched things, a description, a DPU's root file system, snapshots of it.
#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Give the top folder of the source.
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .into()
}

/// Give a folder of the rig's cache, fetched if need be.
pub fn fetch(item: &str) -> PathBuf {
    let fetched = Command::new(top().join("tests/rig/fetch"))
        .arg(item)
        .status();
    assert!(fetched.unwrap().success(), "{item} cannot be fetched");
    let cache = std::env::var_os("DPFS_CACHE").map_or_else(
        || {
            let caches = std::env::var_os("XDG_CACHE_HOME").map_or_else(
                || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"),
                PathBuf::from,
            );
            caches.join("dpfs")
        },
        PathBuf::from,
    );
    cache.join(item)
}

/// Build the daemon that goes into images; `None`, said so, where there is no compiler for it.
pub fn daemon(kind: &str) -> Option<PathBuf> {
    daemon_for("bluefield2", kind)
}

/// Build the daemon for a board.
pub fn daemon_for(board: &str, kind: &str) -> Option<PathBuf> {
    has_compiler().then(|| {
        let built = Command::new(top().join("image/daemon"))
            .arg(kind)
            .env("DPFS_BOARD", board)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(built.status.success());
        PathBuf::from(String::from_utf8(built.stdout).unwrap().trim())
    })
}

/// Tell, and say so if not, whether this machine compiles for arm64.
pub fn has_compiler() -> bool {
    let compiler = Command::new("aarch64-linux-gnu-gcc")
        .arg("--version")
        .output();
    let libraries = Command::new("rustc")
        .args([
            "--print",
            "target-libdir",
            "--target",
            "aarch64-unknown-linux-gnu",
        ])
        .current_dir(top())
        .output();
    let has_libraries = libraries
        .is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir());
    let has = compiler.is_ok() && has_libraries;
    if !has {
        println!("NOT RUN: this machine has no compiler for arm64 (tests/tools installs it)");
    }
    has
}

/// Run `dpfs-image`.
pub fn ours(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dpfs-image"));
    command
        .current_dir(dir)
        .env("SOURCE_DATE_EPOCH", "1700000000");
    command.args(arguments).output().unwrap()
}

/// The same; it must succeed.
pub fn ours_well(dir: &Path, arguments: &[&str]) -> String {
    let output = ours(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Run a script of bash; it must succeed.
pub fn sh(dir: &Path, script: &str) -> String {
    let output = Command::new("bash")
        .current_dir(dir)
        .args(["-ec", script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Write a program of bash.
pub fn script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/bash\n{text}\n")).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Say what goes into the test's add-on.
pub struct Wish<'a> {
    pub forms: &'a str,
    pub program: PathBuf,
    pub pci: &'a str,
    /// The rest of the description.
    pub more: &'a str,
}

impl Wish<'_> {
    /// Write the description.
    pub fn describe(&self, path: &Path) {
        let text = format!(
            "forms = {}\n[target]\nboard = \"{top}/board/bluefield2\"\npci = {}\n[daemon]\nprogram = \"{}\"\n\
             manifest = \"{top}/Cargo.toml\"\n{}\n",
            self.forms,
            self.pci,
            self.program.display(),
            self.more,
            top = top().display(),
        );
        fs::write(path, text).unwrap();
    }
}

/// Make the root file system of a DPU's OS: Debian's own files, as few as `setup` looks at, and some of an operator.
pub fn root_file_system(root: &Path) {
    let debian = fetch("debian-arm64");
    for path in [
        "usr/lib/os-release",
        "usr/lib/systemd/systemd",
        "usr/bin/bash",
        "usr/lib/aarch64-linux-gnu/libc.so.6",
    ] {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::copy(debian.join(path), root.join(path)).unwrap();
    }
    for folder in [
        "etc/systemd/system",
        "usr/sbin",
        "usr/lib/systemd/system",
        "var/lib",
    ] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for name in ["bin", "lib", "sbin"] {
        symlink(format!("usr/{name}"), root.join(name)).unwrap();
    }
    symlink("../usr/lib/os-release", root.join("etc/os-release")).unwrap();
    fs::write(root.join("etc/hostname"), "dpu\n").unwrap();
}

/// Make a /sys with one network device of this number.
pub fn sysfs(dir: &Path, device: &str) -> PathBuf {
    let sys = dir.join(format!("sys-{device}"));
    let folder = sys.join("bus/pci/devices/0000:03:00.0");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("vendor"), "0x15b3\n").unwrap();
    fs::write(folder.join("device"), format!("0x{device}\n")).unwrap();
    sys
}

/// Everything below a folder: permissions, and content or a link's target.
pub type Snapshot = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// Take a snapshot.
pub fn snapshot(root: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            let name = path.strip_prefix(root).unwrap().to_path_buf();
            found.insert(name, (meta.permissions().mode(), content));
        }
    }
    found
}

/// Compare snapshots by name first, so that a failure can be read.
#[track_caller]
pub fn same(found: &Snapshot, expected: &Snapshot, what: &str) {
    let names = |snapshot: &Snapshot| snapshot.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}");
    for (name, entry) in expected {
        assert!(&found[name] == entry, "{what}: {} differs", name.display());
    }
}
