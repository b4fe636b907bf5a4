//! `setup` and `bf.cfg` on a DPU's root file system, with stand-ins for the installer and its DPU: install, upgrade,
//! remove; fail or lose power at any step; refuse what is not right.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Wish, ours_well, root_file_system, same, script, sh, snapshot, sysfs};
use tempfile::TempDir;

const CONFIGURATION: &str = "[[device]]\ntag = \"a\"\nhal = { kind = \"vhost-user\", socket = \"/run/a.sock\" }\n\
                             backend = { kind = \"null\" }\n";
/// More steps than a run has.
const MANY: usize = 1000;

/// A DPU whose OS is installed, and an add-on for it.
struct Bench {
    dir: TempDir,
    root: PathBuf,
    sys: PathBuf,
}

impl Bench {
    fn new(more: &str) -> Self {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("dpfs.toml"), CONFIGURATION).unwrap();
        let root = dir.path().join("root");
        root_file_system(&root);
        let sys = sysfs(dir.path(), "a2d6");
        let bench = Self { dir, root, sys };
        bench.make("one", more);
        bench
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Make an add-on and unpack it as its script does.
    fn make(&self, name: &str, more: &str) {
        let wish = Wish {
            forms: "[\"bf.cfg\"]",
            program: common::fetch("debian-arm64").join("usr/bin/true"),
            pci: "[\"15b3:a2d6\"]",
            more,
        };
        let toml = format!("{name}.toml");
        wish.describe(&self.path().join(&toml));
        ours_well(self.path(), &["addon", "--description", &toml, "-o", name]);
        let unpack = format!(
            "mkdir {name}.from; mv {name}/*.bf.cfg {name}.cfg
             (. ./{name}.cfg; dpfs_payload | base64 -d | tar -xz -C {name}.from)"
        );
        sh(self.path(), &unpack);
    }

    fn setup(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("bash");
        command
            .current_dir(self.path())
            .arg("one.from/usr/lib/dpfs/setup");
        command.args(arguments).env("DPFS_SYSFS", &self.sys);
        command.output().unwrap()
    }

    #[track_caller]
    fn setup_well(&self, arguments: &[&str]) -> String {
        let output = self.setup(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// It must refuse in these words, and change nothing.
    #[track_caller]
    fn refused(&self, said: &str) {
        let before = snapshot(&self.root);
        let output = self.setup(&["install", "one.from", "root"]);
        let text = String::from_utf8_lossy(&output.stderr).to_string();
        assert!(
            output.status.code() == Some(1) && text.contains(said),
            "{output:?}"
        );
        same(&snapshot(&self.root), &before, said);
    }
}

#[test]
fn it_is_installed_upgraded_and_removed() {
    let bench = Bench::new("[configuration]\nfile = \"dpfs.toml\"");
    let before = snapshot(&bench.root);
    bench.setup_well(&["check", "one.from", "root"]);
    same(&snapshot(&bench.root), &before, "a check changes nothing");
    assert!(
        bench
            .setup_well(&["install", "one.from", "root"])
            .contains("installed 0.1.0")
    );
    let first = snapshot(&bench.root);
    for (path, mode) in [
        ("usr/sbin/dpfs", 0o100_755),
        ("etc/dpfs/dpfs.toml", 0o100_600),
        ("usr/lib/systemd/system/dpfs.service", 0o100_644),
        (
            "etc/systemd/system/multi-user.target.wants/dpfs.service",
            0o120_777,
        ),
    ] {
        assert_eq!(first[Path::new(path)].0, mode, "{path}");
    }
    assert!(
        !bench.root.join("var/lib/dpfs-setup").exists(),
        "nothing is left of the work"
    );
    bench.setup_well(&["install", "one.from", "root"]);
    same(&snapshot(&bench.root), &first, "twice is as once");

    // An upgrade: another daemon, no configuration, other tuning; the operator changed the tuning.
    bench.make("two", "[tuning]\ncores = [5]\n");
    fs::write(bench.path().join("two.from/usr/sbin/dpfs"), "newer").unwrap();
    sh(
        bench.path(),
        "sum=$(sha256sum <two.from/usr/sbin/dpfs | cut -d ' ' -f 1)
         sed -i \"s/^file 755 [0-9a-f]* usr.sbin.dpfs/file 755 $sum usr\\/sbin\\/dpfs/\" two.from/usr/lib/dpfs/manifest",
    );
    let tuning = bench.root.join("etc/dpfs/tuning.conf");
    fs::write(&tuning, "CORES=\"3\"\n").unwrap();
    let said = bench.setup_well(&["install", "two.from", "root"]);
    assert!(
        said.contains("etc/dpfs/tuning.conf was changed and stays"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(&tuning).unwrap(), "CORES=\"3\"\n");
    let shipped = fs::read_to_string(bench.root.join("etc/dpfs/tuning.conf.dpfs-new")).unwrap();
    assert!(shipped.contains("CORES=\"5\""), "{shipped}");
    assert_eq!(
        fs::read(bench.root.join("usr/sbin/dpfs")).unwrap(),
        b"newer"
    );
    assert!(
        !bench.root.join("etc/dpfs/dpfs.toml").exists(),
        "it is no longer shipped, and was not changed"
    );

    let said = bench.setup_well(&["remove", "root"]);
    assert!(
        said.contains("etc/dpfs/tuning.conf was changed and stays"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(&tuning).unwrap(), "CORES=\"3\"\n");
    assert!(
        bench
            .setup_well(&["remove", "root"])
            .contains("not installed")
    );
    fs::remove_file(&tuning).unwrap();
    bench.setup_well(&["install", "one.from", "root"]);
    fs::write(&tuning, "CORES=\"4\"\n").unwrap();
    bench.setup_well(&["remove", "--purge", "root"]);
    let mut left = snapshot(&bench.root);
    // A folder that systemd would have made.
    left.remove(Path::new("etc/systemd/system/multi-user.target.wants"));
    same(&left, &before, "removed");
}

/// Run `setup install` with programs that fail, or take the power away, at one step in turn; after each, look.
///
/// `stride` 1 takes every step.
fn at_every_step(
    bench: &Bench,
    from: &str,
    act: &str,
    stride: usize,
    look: impl Fn(usize, &Output),
) -> usize {
    let bin = bench.path().join("bin");
    let count = bench.path().join("count");
    for program in [
        "cp",
        "mv",
        "chmod",
        "ln",
        "mkdir",
        "sync",
        "rm",
        "sha256sum",
    ] {
        let real = sh(bench.path(), &format!("type -P {program}"));
        let step = format!(
            "n=$(($(cat {count} 2>/dev/null || echo 0) + 1)); echo $n >{count}\n\
             [[ $n != \"$DPFS_STEP\" ]] || {{ {act}; }}\nexec {real} \"$@\"",
            count = count.display(),
            real = real.trim(),
        );
        script(&bin.join(program), &step);
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    for step in (1..MANY).step_by(stride) {
        let _ = fs::remove_file(&count);
        let mut command = Command::new("bash");
        command
            .current_dir(bench.path())
            .arg("one.from/usr/lib/dpfs/setup");
        command
            .args(["install", from, "root"])
            .env("DPFS_SYSFS", &bench.sys);
        let output = command
            .env("PATH", &path)
            .env("DPFS_STEP", step.to_string())
            .output()
            .unwrap();
        look(step, &output);
        let steps: usize = fs::read_to_string(&count).unwrap().trim().parse().unwrap();
        if steps < step {
            return steps;
        }
    }
    panic!("more than {MANY} steps");
}

#[test]
fn what_fails_half_way_is_taken_back() {
    let bench = Bench::new("");
    let before = snapshot(&bench.root);
    let failures = std::cell::Cell::new(0);
    let steps = at_every_step(&bench, "one.from", "exit 1", 1, |step, output| {
        if output.status.success() {
            // Failed behind the end, where it no longer matters: all is there.
            assert!(
                bench.root.join("usr/lib/dpfs/manifest").exists(),
                "step {step}"
            );
            bench.setup_well(&["remove", "root"]);
            fs::remove_dir(
                bench
                    .root
                    .join("etc/systemd/system/multi-user.target.wants"),
            )
            .unwrap();
        } else {
            assert_eq!(output.status.code(), Some(1), "step {step}: {output:?}");
            failures.set(failures.get() + 1);
        }
        same(
            &snapshot(&bench.root),
            &before,
            &format!("step {step}: {output:?}"),
        );
    });
    println!("{steps} steps, {} failures taken back", failures.get());
    assert!(failures.get() > 40);
}

#[test]
fn an_upgrade_that_fails_half_way_leaves_the_old_version() {
    let bench = Bench::new("[configuration]\nfile = \"dpfs.toml\"");
    bench.make("two", "[tuning]\ncores = [5]\n");
    bench.setup_well(&["install", "one.from", "root"]);
    let before = snapshot(&bench.root);
    let failures = std::cell::Cell::new(0);
    let steps = at_every_step(&bench, "two.from", "exit 1", 3, |step, output| {
        if output.status.success() {
            assert!(
                !bench.root.join("etc/dpfs/dpfs.toml").exists(),
                "step {step}"
            );
            bench.setup_well(&["install", "one.from", "root"]);
        } else {
            assert_eq!(output.status.code(), Some(1), "step {step}: {output:?}");
            failures.set(failures.get() + 1);
        }
        same(
            &snapshot(&bench.root),
            &before,
            &format!("step {step}: {output:?}"),
        );
    });
    println!("{steps} steps, {} failures taken back", failures.get());
    assert!(failures.get() > 20);
}

#[test]
fn after_a_power_cut_the_next_call_takes_back_what_was_begun() {
    let bench = Bench::new("[configuration]\nfile = \"dpfs.toml\"");
    bench.make("two", "[tuning]\ncores = [5]\n");
    bench.setup_well(&["install", "one.from", "root"]);
    let before = snapshot(&bench.root);
    let cut = std::cell::Cell::new(0);
    let steps = at_every_step(&bench, "two.from", "kill -KILL $PPID", 3, |step, output| {
        let done = bench.setup_well(&["check", "one.from", "root"]);
        cut.set(cut.get() + usize::from(done.contains("an earlier run did not come to its end")));
        if output.status.success() || !bench.root.join("etc/dpfs/dpfs.toml").exists() {
            bench.setup_well(&["install", "one.from", "root"]);
        }
        let mut found = snapshot(&bench.root);
        // Cut before there was a list, or after it was gone: what was kept is left for the next run to remove.
        found.retain(|path, _| !path.starts_with("var/lib/dpfs-setup"));
        same(&found, &before, &format!("step {step}: {output:?}"));
    });
    println!("{steps} steps, {} taken back by the next call", cut.get());
    assert!(cut.get() > 10);
}

#[test]
fn what_is_not_right_is_refused() {
    let mut bench = Bench::new("");
    bench.sys = sysfs(bench.path(), "a2dc");
    bench.refused("found devices: 15b3:a2dc (BlueField-3); allowed: 15b3:a2d6");
    bench.sys = bench.path().join("nothing");
    bench.refused("found devices: none of vendor 15b3; allowed: 15b3:a2d6");
    bench.sys = sysfs(bench.path(), "a2d6");

    let libc = bench.root.join("usr/lib/aarch64-linux-gnu/libc.so.6");
    let own = fs::read(&libc).unwrap();
    fs::write(&libc, "GLIBC_2.4 GLIBC_2.17 GLIBC_2.31 GLIBC_2.9").unwrap();
    bench.refused("found glibc 2.31; allowed: 2.34 or newer");
    fs::remove_file(&libc).unwrap();
    bench.refused("found no glibc; allowed: 2.34 or newer");
    fs::write(&libc, own).unwrap();

    let shell = bench.root.join("usr/bin/bash");
    let own = fs::read(&shell).unwrap();
    let mut other = own.clone();
    other[18] = 62;
    fs::write(&shell, &other).unwrap();
    bench.refused("found programs for x86_64; allowed: aarch64");
    fs::write(&shell, own).unwrap();

    let systemd = bench.root.join("usr/lib/systemd/systemd");
    fs::rename(&systemd, bench.path().join("away")).unwrap();
    bench.refused("found no systemd");
    fs::rename(bench.path().join("away"), &systemd).unwrap();

    fs::create_dir_all(bench.root.join("usr/sbin/dpfs")).unwrap();
    bench.refused("found a folder; allowed: a file or nothing");
    fs::remove_dir(bench.root.join("usr/sbin/dpfs")).unwrap();

    let daemon = bench.path().join("one.from/usr/sbin/dpfs");
    let own = fs::read(&daemon).unwrap();
    fs::write(&daemon, "other").unwrap();
    bench.refused("usr/sbin/dpfs: damaged");
    fs::write(&daemon, own).unwrap();
    bench.setup_well(&["install", "one.from", "root"]);
}

#[test]
fn no_space_is_refused_before_anything_is_written() {
    let bench = Bench::new("");
    let bin = bench.path().join("bin");
    script(&bin.join("df"), "echo head; echo 'disk 100 90 10 90% /'");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let before = snapshot(&bench.root);
    let mut command = Command::new("bash");
    command
        .current_dir(bench.path())
        .arg("one.from/usr/lib/dpfs/setup")
        .env("PATH", path);
    let output = command
        .args(["install", "one.from", "root"])
        .env("DPFS_SYSFS", &bench.sys)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("found 10 KiB of space; allowed: "),
        "{text}"
    );
    same(&snapshot(&bench.root), &before, "no space");
}

#[test]
fn links_of_the_target_do_not_lead_out_of_it() {
    let bench = Bench::new("");
    let outside = bench.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir_all(bench.root.join("opt/etc")).unwrap();
    // As an absolute link is on the DPU: below its own root.
    symlink("/opt/etc", bench.root.join("etc/dpfs")).unwrap();
    fs::remove_dir(bench.root.join("usr/sbin")).unwrap();
    symlink("../../../../../../usr/bin", bench.root.join("usr/sbin")).unwrap();
    bench.setup_well(&["install", "one.from", "root"]);
    assert!(bench.root.join("opt/etc/tuning.conf").is_file());
    assert!(bench.root.join("usr/bin/dpfs").is_file());
    bench.setup_well(&["remove", "root"]);
    assert!(
        !bench.root.join("usr/bin/dpfs").exists()
            && !bench.root.join("opt/etc/tuning.conf").exists()
    );
}
