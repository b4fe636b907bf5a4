//! `bf.cfg` as the DPU's installer runs it, and the real `bfb-install` on the host beside it, over a stand-in for the
//! device between them.
//!
//! The stand-in for the installer does what NVIDIA's does with such a file: it cuts what is behind the images off the
//! boot stream, strips zero bytes, asks `bash -n`, sources it, and calls its functions with nothing mounted.

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Wish, ours_well, root_file_system, same, script, sh, snapshot, sysfs};
use tempfile::TempDir;

const INSTALLER: &str = r#"
# Arguments: what was pushed, and the tool that knows where its images end.
set -u
cd "$(dirname "$1")"
log() {
    echo "$*" >>installer.log
    bfrshlog "$(sed 's/ERROR:/ERR/; s/WARNING:/WARN/' <<<"$*")"
}
end=$("$2" list --trailing --json "$1" | sed -n 's/.*"trailing_bytes": \([0-9]*\).*/\1/p')
tail -c "$end" "$1" | tr -d '\0' >bf.cfg.got
UPDATE_DPU_OS=yes
if bash -n bf.cfg.got; then . ./bf.cfg.got; else log "INFO: Invalid bf.cfg"; fi
for name in UPDATE_DPU_OS UPDATE_ATF_UEFI WITH_NIC_FW_UPDATE UPGRADE_EMMC_FIRMWARE ERASE_EMMC ERASE_SSD ERASE_PARTITIONS; do
    [[ ${!name-yes} == no ]] || log "ERROR: $name is ${!name-not set}: the DPU is erased"
done
before=$(set +o; shopt -p; pwd; umask; trap -p)
! declare -F bfb_custom_action1 >/dev/null || { log "INFO: Running bfb_custom_action1 from bf.cfg"; bfb_custom_action1; }
! declare -F bfb_post_install >/dev/null || { log "INFO: Running bfb_post_install from bf.cfg"; bfb_post_install; }
[[ $before == "$(set +o; shopt -p; pwd; umask; trap -p)" ]] || log "ERROR: the shell was changed"
log "INFO: Installation finished"
"#;

/// A host with `bfb-install`, a DPU with an OS, and the device between them.
struct Rig {
    dir: TempDir,
    add_on: PathBuf,
}

impl Rig {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path();
        let wish = Wish {
            forms: "[\"bf.cfg\"]",
            program: common::fetch("debian-arm64").join("usr/bin/true"),
            pci: "[\"15b3:a2d6\"]",
            more: "[tuning]\ncores = [6, 7]\nisolate = true\n",
        };
        wish.describe(&path.join("addon.toml"));
        ours_well(path, &["addon", "--description", "addon.toml", "-o", "out"]);
        ours_well(
            path,
            &[
                "create",
                "base.bfb",
                "--set",
                "image==kernel",
                "--set",
                "initramfs==files",
            ],
        );
        let add_on = path.join("out/dpfs-0.1.0-bluefield2.bf.cfg");
        script(&path.join("installer"), INSTALLER);
        let bin = path.join("bin");
        // The log that the host reads has these words in front.
        script(
            &bin.join("bfrshlog"),
            &format!(
                "echo \" INFO[MISC]: $*\" | sed 's/ INFO.MISC.: ERR/ ERR[MISC]:/' >>{}/rsh_log",
                path.display()
            ),
        );
        script(&bin.join("bf-reg"), "echo reg value 0x0");
        // What else bfb-install does on its way out is to kill every nc of the machine.
        script(&bin.join("pgrep"), "exit 1");
        script(&bin.join("sudo"), "exec \"$@\"");
        // Mounting: a device is a folder with a name; one that is mounted can be reached through it.
        script(
            &bin.join("mount"),
            "[[ $1 != -o ]] || shift 2\n[[ -d $1.fs ]] || exit 32\nrmdir \"$2\" && ln -s \"$1.fs\" \"$2\"",
        );
        script(&bin.join("umount"), "rm \"$1\" && mkdir \"$1\"");
        script(&bin.join("lsblk"), &format!("cat {}/disks", path.display()));
        let rig = Self { dir, add_on };
        rig.disks(&["mmcblk0p2"]);
        rig
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.path().join(format!("{name}.fs"))
    }

    /// Make disks that each have an OS, among others that have none.
    fn disks(&self, names: &[&str]) {
        let path = self.path().display();
        let mut list = format!(
            "{path}/mmcblk0 \n{path}/mmcblk0p1 vfat\n{path}/nothing ext4\n{path}/empty xfs\n"
        );
        fs::create_dir_all(self.disk("empty")).unwrap();
        for name in names {
            if !self.disk(name).exists() {
                root_file_system(&self.disk(name));
            }
            list += &format!("{path}/{name} ext4\n");
        }
        fs::write(self.path().join("disks"), list).unwrap();
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let path = format!(
            "{}:{}",
            self.path().join("bin").display(),
            std::env::var("PATH").unwrap()
        );
        command.current_dir(self.path()).env("PATH", path);
        command.env("DPFS_SYSFS", sysfs(self.path(), "a2d6"));
        command
    }

    /// Run the installer on a stream with this behind it; gives its log.
    fn install(&self, config: &[u8]) -> String {
        let mut pushed = fs::read(self.path().join("base.bfb")).unwrap();
        pushed.extend_from_slice(config);
        fs::write(self.path().join("pushed"), pushed).unwrap();
        let _ = fs::remove_file(self.path().join("installer.log"));
        let mut command = self.command(self.path().join("installer"));
        command
            .arg(self.path().join("pushed"))
            .arg(env!("CARGO_BIN_EXE_dpfs-image"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        fs::read_to_string(self.path().join("installer.log")).unwrap()
    }
}

#[test]
fn the_script_is_well_formed_and_tells_nothing_of_this_machine() {
    let rig = Rig::new();
    let text = fs::read_to_string(&rig.add_on).unwrap();
    assert!(text.is_ascii() && !text.contains('\0') && !text.contains("PASSWORD="));
    assert!(text.lines().all(|line| line.len() <= 200));
    let add_on = rig.add_on.display();
    sh(
        rig.path(),
        &format!("bash -n {add_on}; bash -c '. {add_on}; declare -F bfb_custom_action1'"),
    );
    if sh(rig.path(), "command -v shellcheck || true").is_empty() {
        println!("NOT RUN: shellcheck is not installed (tests/tools installs it)");
    } else {
        sh(rig.path(), &format!("shellcheck {add_on}"));
    }
    // Sourcing alone does nothing and says nothing.
    assert_eq!(sh(rig.path(), &format!("set -eu; . {add_on}")), "");
}

#[test]
fn it_installs_once_and_again_and_says_the_words() {
    let rig = Rig::new();
    let config = fs::read(&rig.add_on).unwrap();
    let log = rig.install(&config);
    let expected = format!(
        "INFO: DPFS: 0.1.0 installed on {}/mmcblk0p2. Rebooting...",
        rig.path().display()
    );
    assert!(log.contains(&expected), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
    let disk = rig.disk("mmcblk0p2");
    let first = snapshot(&disk);
    assert!(first.contains_key(Path::new("usr/sbin/dpfs")));
    let tuning = fs::read_to_string(disk.join("etc/dpfs/tuning.conf")).unwrap();
    assert!(
        tuning.contains("CORES=\"6 7\"\n") && tuning.contains("ISOLATE=yes\n"),
        "{tuning}"
    );
    // The device gives zero bytes up to a multiple of eight.
    let log = rig.install(&[&config, &[0; 5][..]].concat());
    assert!(log.contains("Rebooting..."), "{log}");
    same(&snapshot(&disk), &first, "twice is as once");
}

#[test]
fn the_target_is_never_guessed() {
    let rig = Rig::new();
    let config = fs::read(&rig.add_on).unwrap();
    rig.disks(&["mmcblk0p2", "nvme0n1p2"]);
    let before = [
        snapshot(&rig.disk("mmcblk0p2")),
        snapshot(&rig.disk("nvme0n1p2")),
    ];
    let log = rig.install(&config);
    assert!(
        log.contains("ERROR: DPFS: CRITICAL ERROR: found 2 systems: "),
        "{log}"
    );
    assert!(
        log.contains("allowed: one, or DPFS_TARGET=DEVICE") && !log.contains("Rebooting"),
        "{log}"
    );
    same(&snapshot(&rig.disk("mmcblk0p2")), &before[0], "refused");
    let chosen = format!("DPFS_TARGET={}/nvme0n1p2\n", rig.path().display());
    let log = rig.install(&[chosen.as_bytes(), &config].concat());
    assert!(log.contains("nvme0n1p2. Rebooting..."), "{log}");
    same(
        &snapshot(&rig.disk("mmcblk0p2")),
        &before[0],
        "another was chosen",
    );
    assert!(rig.disk("nvme0n1p2").join("usr/sbin/dpfs").exists());
    rig.disks(&[]);
    let log = rig.install(&config);
    assert!(
        log.contains("CRITICAL ERROR: found 0 systems: none"),
        "{log}"
    );
}

#[test]
fn a_payload_that_was_damaged_on_the_way_is_refused() {
    let rig = Rig::new();
    let text = fs::read_to_string(&rig.add_on).unwrap();
    let before = snapshot(&rig.disk("mmcblk0p2"));
    let at = text.find("<<'DPFS_PAYLOAD'").unwrap() + 200;
    let mut other = text.clone().into_bytes();
    other[at] = if other[at] == b'A' { b'B' } else { b'A' };
    let log = rig.install(&other);
    assert!(
        log.contains("CRITICAL ERROR") && log.contains("damaged"),
        "{log}"
    );
    // Cut: no longer a script.
    let log = rig.install(&text.as_bytes()[..text.len() / 2]);
    assert!(!log.contains("Rebooting"), "{log}");
    same(&snapshot(&rig.disk("mmcblk0p2")), &before, "damaged");
}

#[test]
fn secrets_are_not_put_into_the_script() {
    let rig = Rig::new();
    let secret = "[[device]]\ntag = \"a\"\nbackend = { kind = \"kv\", password = \"x\" }\n";
    fs::write(rig.path().join("dpfs.toml"), secret).unwrap();
    let more = "[configuration]\nfile = \"dpfs.toml\"\n";
    let program = common::fetch("debian-arm64").join("usr/bin/true");
    let wish = Wish {
        forms: "[\"bf.cfg\"]",
        program,
        pci: "[]",
        more,
    };
    wish.describe(&rig.path().join("secret.toml"));
    let output = common::ours(
        rig.path(),
        &["addon", "--description", "secret.toml", "-o", "secret"],
    );
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("the configuration has device.backend.password"),
        "{text}"
    );
}

/// The device between host and DPU: what the host writes to `boot` boots the DPU; `misc` shows the DPU's log.
struct Device {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Device {
    fn new(rig: &Rig, folder: &Path, len: u64) -> Self {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("boot"), "").unwrap();
        let (misc, boot, log) = (
            folder.join("misc"),
            folder.join("boot"),
            rig.path().join("rsh_log"),
        );
        let head = "DEV_NAME        pcie-0000:03:00.2\nDEV_INFO        BlueField-2(Rev 1)\n";
        let show = move || {
            let log = fs::read_to_string(&log).unwrap_or_default();
            // The host writes its settings to the same name.
            let new = misc.with_extension("new");
            fs::write(&new, format!("{head}{log}")).unwrap();
            fs::rename(&new, &misc).unwrap();
        };
        show();
        let mut installer = rig.command(rig.path().join("installer"));
        installer
            .arg(rig.path().join("pushed"))
            .arg(env!("CARGO_BIN_EXE_dpfs-image"));
        let pushed = rig.path().join("pushed");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut booted = false;
            while !stopped.load(Ordering::Relaxed) {
                if !booted && fs::metadata(&boot).unwrap().len() == len {
                    fs::copy(&boot, &pushed).unwrap();
                    assert!(installer.status().unwrap().success());
                    booted = true;
                }
                show();
                thread::sleep(Duration::from_millis(50));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

/// End a program that does not end by itself.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Run the real script; gives what it printed, once it saw the end that it waits for.
fn bfb_install(rig: &Rig) -> String {
    let name = format!(
        "rshim-{}",
        rig.path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .replace('.', "-")
    );
    let folder = rig.path().join(&name);
    let len = [rig.path().join("base.bfb"), rig.add_on.clone()]
        .map(|path| fs::metadata(path).unwrap().len());
    let _device = Device::new(rig, &folder, len.iter().sum());
    let out = rig.path().join("bfb-install.out");
    let mut command = rig.command(common::fetch("mkbfb").join("bfb-install"));
    command
        .arg("--bfb")
        .arg(rig.path().join("base.bfb"))
        .arg("--config")
        .arg(&rig.add_on);
    command.arg("--rshim").arg(&folder).stdin(Stdio::null());
    command
        .stdout(fs::File::create(&out).unwrap())
        .stderr(Stdio::inherit());
    let mut running = Running(command.spawn().unwrap());
    let limit = Instant::now() + Duration::from_secs(300);
    let status = loop {
        if let Some(status) = running.0.try_wait().unwrap() {
            break status;
        }
        let text = || fs::read_to_string(&out).unwrap();
        assert!(Instant::now() < limit, "bfb-install saw no end: {}", text());
        thread::sleep(Duration::from_millis(100));
    };
    let _ = fs::remove_file(format!("/tmp/bfb-install-{name}.log"));
    let text = fs::read_to_string(&out).unwrap();
    let _ = std::io::stdout().write_all(text.as_bytes());
    assert!(status.success(), "{status}");
    text
}

#[test]
fn the_real_bfb_install_pushes_it_and_sees_the_end() {
    let rig = Rig::new();
    let text = bfb_install(&rig);
    assert!(
        text.contains("Pushing bfb + cfg") && text.contains("0.1.0 installed on"),
        "{text}"
    );
    assert!(
        text.contains("Rebooting...") && !text.contains("CRITICAL ERROR"),
        "{text}"
    );
    assert!(rig.disk("mmcblk0p2").join("usr/sbin/dpfs").exists());
}

#[test]
fn the_real_bfb_install_sees_a_failure() {
    let rig = Rig::new();
    rig.disks(&["mmcblk0p2", "nvme0n1p2"]);
    let text = bfb_install(&rig);
    assert!(
        text.contains("CRITICAL ERROR: found 2 systems") && !text.contains("Rebooting"),
        "{text}"
    );
}
