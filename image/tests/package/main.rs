//! What vendors take: the Debian packages are what Debian's own tools want, install, upgrade and go; the tarballs have the
//! same files; everything has the same bytes wherever it is made.

#[path = "../common/mod.rs"]
mod common;
mod system;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use common::{has_compiler, sh, top};
use tempfile::TempDir;

/// Make the packages of the source in a folder.
fn package(source: &Path, out: &Path, architectures: &[&str]) {
    let made = Command::new(source.join("image/package"))
        .arg(out)
        .args(architectures)
        .env("DPFS_IMAGE", env!("CARGO_BIN_EXE_dpfs-image"))
        .env_remove("SOURCE_DATE_EPOCH")
        .current_dir("/")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// Give the folder with all packages, made once.
fn made() -> &'static Path {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = TempDir::new().unwrap();
        package(&top(), dir.path(), &architectures());
        dir
    })
    .path()
}

fn architectures() -> Vec<&'static str> {
    let mut all = vec!["amd64"];
    if has_compiler() {
        all.push("arm64");
    }
    all
}

fn deb(architecture: &str) -> PathBuf {
    made().join(format!("dpfs_0.1.0-1_{architecture}.deb"))
}

/// Begin a root file system's package database: what DPFS needs is installed, the named libc is.
fn package_database(root: &Path, architecture: &str, libc: &str) {
    let folder = root.join("var/lib/dpkg");
    for name in ["info", "updates", "triggers"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    let status: String = [("libc6", libc), ("libgcc-s1", "12.2.0-14")]
        .map(|(name, version)| {
            format!(
                "Package: {name}\nStatus: install ok installed\nArchitecture: {architecture}\nMulti-Arch: same\n\
                 Version: {version}\nMaintainer: nobody\nDescription: stands for the real one\n\n"
            )
        })
        .concat();
    fs::write(folder.join("status"), status).unwrap();
    fs::write(folder.join("arch"), "amd64\narm64\n").unwrap();
}

/// A root file system that has nothing but a package database, in which the named libc is installed.
struct Root {
    dir: TempDir,
    architecture: &'static str,
}

impl Root {
    fn new(architecture: &'static str, libc: &str) -> Self {
        let dir = TempDir::new().unwrap();
        package_database(dir.path(), architecture, libc);
        Self { dir, architecture }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.path(name)).is_ok()
    }

    /// Run dpkg, with a root's rights over this file system only.
    fn dpkg(&self, arguments: &[&str]) -> Output {
        let mut command = if fs::metadata("/proc/self").unwrap().uid() == 0 {
            Command::new("dpkg")
        } else {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "dpkg"]);
            command
        };
        command.arg(format!("--root={}", self.dir.path().display()));
        command.arg(format!("--log={}", self.path("log").display()));
        command.args(["--force-script-chrootless", "--force-confold"]);
        command.args(arguments).output().unwrap()
    }

    fn dpkg_well(&self, arguments: &[&str]) -> String {
        let output = self.dpkg(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn install(&self, deb: &Path) {
        self.dpkg_well(&["--install", deb.to_str().unwrap()]);
    }

    fn status(&self) -> String {
        let name = format!("dpfs:{}", self.architecture);
        let text = self.dpkg(&["--status", &name]).stdout;
        let text = String::from_utf8(text).unwrap();
        let line = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or("none").to_string()
        };
        format!("{} {}", line("Status: "), line("Version: "))
    }
}

/// Make a later version of a package, whose tuning says something else.
fn later(architecture: &str, dir: &Path) -> PathBuf {
    let script = format!(
        "dpkg-deb -R '{}' later
         sed -i 's/^Version: .*/Version: 0.2.0-1/' later/DEBIAN/control
         echo '# Of the later version.' >>later/etc/dpfs/tuning.conf
         dpkg-deb --root-owner-group -b later later.deb",
        deb(architecture).display()
    );
    sh(dir, &script);
    dir.join("later.deb")
}

#[test]
fn lintian_has_nothing_to_say() {
    if Command::new("lintian").arg("--version").output().is_err() {
        println!("NOT RUN: lintian is not installed (tests/tools installs it)");
        return;
    }
    for architecture in architectures() {
        let output = Command::new("lintian")
            .args(["--display-info", "--pedantic", "--show-overrides"])
            // Takes machine code for words, and the next build's for others.
            .arg("--suppress-tags=spelling-error-in-binary")
            .arg(deb(architecture))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{architecture}:\n{text}");
        let tags = text.lines().filter(|line| !line.starts_with("N:"));
        let overridden = tags.clone().filter(|line| line.starts_with("O: dpfs: "));
        assert!(
            overridden.count() == 3 && tags.count() == 3,
            "only what image/deb/overrides has: {output:?}"
        );
    }
}

#[test]
fn it_is_installed_upgraded_and_removed_and_enables_nothing() {
    for architecture in architectures() {
        let dir = TempDir::new().unwrap();
        let root = Root::new(architecture, "2.36-9");
        root.install(&deb(architecture));
        assert_eq!(root.status(), "install ok installed 0.1.0-1");
        assert!(!root.has("etc/systemd"), "nothing is enabled");
        assert!(!root.has("etc/dpfs/dpfs.toml") && root.has("usr/share/man/man8/dpfs.8.gz"));
        let mode = fs::metadata(root.path("usr/sbin/dpfs"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o755);

        // An operator sets it up; of one root the tuning, too.
        let tuning = root.path("etc/dpfs/tuning.conf");
        let changes_tuning = architecture == "amd64";
        if changes_tuning {
            fs::write(&tuning, "CORES=\"3\"\n").unwrap();
        }
        fs::write(root.path("etc/dpfs/dpfs.toml"), "# the operator's\n").unwrap();
        fs::create_dir_all(root.path("var/lib/dpfs")).unwrap();
        fs::write(root.path("var/lib/dpfs/store"), "a tenant's").unwrap();
        let wants = root.path("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        for unit in ["dpfs.service", "other.service"] {
            let target = format!("/usr/lib/systemd/system/{unit}");
            std::os::unix::fs::symlink(target, wants.join(unit)).unwrap();
        }

        root.install(&later(architecture, dir.path()));
        assert_eq!(root.status(), "install ok installed 0.2.0-1");
        let text = fs::read_to_string(&tuning).unwrap();
        assert_eq!(text.contains("later version"), !changes_tuning);
        assert_eq!(changes_tuning, text.contains("CORES=\"3\""));
        assert_eq!(root.has("etc/dpfs/tuning.conf.dpkg-dist"), changes_tuning);
        assert!(wants.join("dpfs.service").is_symlink(), "it stays enabled");

        let name = format!("dpfs:{architecture}");
        root.dpkg_well(&["--remove", &name]);
        assert!(!root.has("usr/sbin/dpfs") && root.has("etc/dpfs/tuning.conf"));
        assert!(!wants.join("dpfs.service").is_symlink());
        assert!(wants.join("other.service").is_symlink());
        root.dpkg_well(&["--purge", &name]);
        assert!(!root.has("etc/dpfs/tuning.conf") && !root.has("etc/dpfs/tuning.conf.dpkg-dist"));
        let kept = |name: &str| fs::read_to_string(root.path(name)).unwrap();
        assert_eq!(kept("etc/dpfs/dpfs.toml"), "# the operator's\n");
        assert_eq!(kept("var/lib/dpfs/store"), "a tenant's");
        assert_eq!(root.status(), "none none");
    }
}

#[test]
fn a_system_whose_libc_is_too_old_is_refused() {
    for architecture in architectures() {
        // Ubuntu 20.04's.
        let root = Root::new(architecture, "2.31-0ubuntu9");
        let output = root.dpkg(&["--install", deb(architecture).to_str().unwrap()]);
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && words.contains("depends on libc6 (>= 2.34)"),
            "{words}"
        );
    }
}

#[test]
fn the_program_in_it_runs_and_its_manual_knows_it() {
    let root = Root::new("amd64", "2.36-9");
    root.install(&deb("amd64"));
    let help = Command::new(root.path("usr/sbin/dpfs"))
        .arg("--help")
        .output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.contains(&"serve"), "{help}");
    let manual = fs::read_to_string(top().join("image/deb/dpfs.8")).unwrap();
    for command in commands {
        assert!(
            manual.contains(&format!("\n.It Cm {command}\n")),
            "{command}"
        );
    }
    let example = root.path("usr/share/doc/dpfs/examples/dpfs.toml");
    assert!(fs::read_to_string(example).unwrap().contains("[[device]]"));
}

#[test]
fn the_bill_of_materials_is_that_of_the_program() {
    for architecture in architectures() {
        let dir = TempDir::new().unwrap();
        let doc = "usr/share/doc/dpfs/dpfs.cdx.json";
        let unpack = format!("dpkg-deb -x '{}' .", deb(architecture).display());
        sh(dir.path(), &unpack);
        let bill = fs::read(dir.path().join(doc)).unwrap();
        let bill: serde_json::Value = serde_json::from_slice(&bill).unwrap();
        let sum = sh(dir.path(), "sha256sum <usr/sbin/dpfs | cut -d ' ' -f 1");
        let root = &bill["metadata"]["component"];
        assert_eq!(root["name"], "dpfs");
        assert_eq!(root["hashes"][0]["content"], sum.trim());
        let components = bill["components"].as_array().unwrap();
        assert!(components.len() > 20, "{}", components.len());
        for component in components {
            assert!(
                component["licenses"][0]["expression"].is_string(),
                "{component}"
            );
        }
    }
}

/// Give the checksums of everything in a folder by name.
fn sums(folder: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    let checked = sh(folder, "sha256sum --strict --check SHA256SUMS");
    assert_eq!(checked.lines().count(), text.lines().count());
    let lines = text.lines().filter_map(|line| line.split_once("  "));
    lines.map(|(sum, name)| (name.into(), sum.into())).collect()
}

#[test]
fn the_same_source_gives_the_same_bytes_in_any_folder() {
    let architecture = *architectures().last().unwrap();
    let dir = TempDir::new().unwrap();
    let (source, out) = (dir.path().join("another/place"), dir.path().join("out"));
    let copy = format!(
        "mkdir -p '{0}' && tar -C '{1}' --exclude=./target --exclude=./.git -c . | tar -C '{0}' -x",
        source.display(),
        top().display()
    );
    sh(dir.path(), &copy);
    package(&source, &out, &[architecture]);
    let (one, two) = (sums(made()), sums(&out));
    assert_eq!(two.len(), 3, "{two:?}");
    for (name, sum) in &two {
        assert_eq!(one.get(name), Some(sum), "{name}");
        let bytes = fs::metadata(out.join(name)).unwrap().len();
        println!("{name}: {bytes} bytes, the same");
    }
}

#[test]
fn tarballs_have_what_the_package_has() {
    for architecture in architectures() {
        let list = |script: String| {
            let text = sh(made(), &script);
            let names = text.lines().filter(|name| !name.ends_with('/'));
            let mut names: Vec<String> = names.map(String::from).collect();
            names.sort();
            names
        };
        let package = list(format!(
            "dpkg-deb --fsys-tarfile dpfs_0.1.0-1_{architecture}.deb | tar -t | sed 's,^\\./,,'"
        ));
        let tarball = list(format!(
            "tar -tzf dpfs-0.1.0-{architecture}.tar.gz | sed 's,^dpfs-0.1.0-{architecture}/,,'"
        ));
        let only = |of: &[String], than: &[String]| -> Vec<String> {
            of.iter()
                .filter(|name| !than.contains(name))
                .cloned()
                .collect()
        };
        assert_eq!(
            only(&package, &tarball),
            [
                "usr/share/doc/dpfs/changelog.Debian.gz",
                "usr/share/doc/dpfs/changelog.gz",
                "usr/share/doc/dpfs/copyright",
                "usr/share/lintian/overrides/dpfs",
                "usr/share/man/man8/dpfs.8.gz",
            ]
        );
        assert_eq!(
            only(&tarball, &package),
            ["usr/share/doc/dpfs/LICENSE", "usr/share/man/man8/dpfs.8"]
        );
        assert_eq!(
            list(format!("tar -tzf libdpfs-0.1.0-{architecture}.tar.gz")),
            [
                "LICENSE",
                "include/dpfs.h",
                "lib/libdpfs.a",
                "lib/pkgconfig/dpfs.pc"
            ]
            .map(|name| format!("libdpfs-0.1.0-{architecture}/{name}"))
        );
    }
}
