//! The whole way of a stream, without a DPU: a synthetic installation image, made by the real `mlx-mkbfb`, gets DPFS,
//! is taken apart by the real tool again, and what was in it boots on an emulated Cortex-A72. DPFS serves from RAM,
//! tests itself and is installed by the installer's hook; its service is restarted when it hangs; the console tells.
//!
//! What this cannot show is that a DPU's firmware boots the stream: nothing here is ATF, UEFI, rshim or SNAP.

#[path = "../common/mod.rs"]
mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{Wish, ours_well, root_file_system, sh};
use tempfile::TempDir;

/// Longest life of the machine: it needs about half a minute of two quiet cores.
const LIFE: Duration = Duration::from_secs(900);

const CONFIGURATION: &str = r#"
[runtime]
polling = "adaptive"
[[device]]
tag = "image"
hal = { kind = "fuse", mountpoint = "/srv/share" }
backend = { kind = "local", path = "/srv/data" }
"#;

fn mkbfb(dir: &Path, arguments: &[&str]) {
    let output = Command::new(common::fetch("mkbfb").join("mlx-mkbfb"))
        .current_dir(dir)
        .args(arguments)
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

/// Make a customer's stream: Debian's kernel, an initramfs that installs, firmware that is none.
fn base(path: &Path) {
    root_file_system(&path.join("os"));
    // What units of ours refer to.
    let units = common::fetch("debian-arm64").join("usr/lib/systemd/system");
    sh(
        path,
        &format!("cp -a '{}' os/usr/lib/systemd/", units.display()),
    );
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boot");
    let initramfs = format!(
        "'{here}/initramfs' '{debian}' '{here}/installer' os initramfs",
        here = here.display(),
        debian = common::fetch("debian-arm64").display(),
    );
    sh(path, &initramfs);
    fs::copy(
        common::fetch("kernel-arm64").join("kernel"),
        path.join("kernel"),
    )
    .unwrap();
    for name in ["bl2-v1", "bl31-v1", "bl33", "capsule"] {
        fs::write(path.join(name), format!("stands in for {name}")).unwrap();
    }
    fs::write(
        path.join("info"),
        r#"{"Members": [], "Members@odata.count": 0}"#,
    )
    .unwrap();
    let v0 = "--boot-args-v0==console=ttyAMA1 console=hvc0 console=ttyAMA0 earlycon=pl011,0x01000000 \
              earlycon=pl011,0x01800000 initrd=initramfs";
    let v2 =
        "--boot-args-v2==console=hvc0 console=ttyAMA0 earlycon=pl011,0x13010000 initrd=initramfs";
    let path_of_kernel = "--boot-path==VenHw(F019E406-8C9C-11E5-8797-001ACA00BFC4)/Image";
    let line = "--bl2-v1=bl2-v1 --bl31-v1=bl31-v1 --bl33=bl33 --capsule=capsule --info=info --image=kernel \
                --initramfs=initramfs";
    let mut arguments: Vec<&str> = line.split_whitespace().collect();
    arguments.extend([
        v0,
        v2,
        path_of_kernel,
        "--boot-desc==Linux from rshim",
        "base.bfb",
    ]);
    mkbfb(path, &arguments);
}

/// A machine that ends with the test.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boot a kernel, and give its console's lines until the last one.
fn boot(path: &Path, kernel: &str, initramfs: &str, arguments: &str) -> Vec<String> {
    let qemu = common::fetch("qemu-arm64");
    let mut command = Command::new(qemu.join("qemu-system-aarch64"));
    command
        .current_dir(path)
        .arg("-L")
        .arg(qemu.join("usr/share/qemu"));
    command.args(
        "-M virt,gic-version=3 -cpu cortex-a72 -smp 2 -m 1536M -nodefaults -no-reboot"
            .split_whitespace(),
    );
    command.args("-display none -serial stdio -accel tcg,thread=multi".split_whitespace());
    command.args([
        "-kernel", kernel, "-initrd", initramfs, "-append", arguments,
    ]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut machine = Machine(command.spawn().unwrap());
    let console = machine.0.stdout.take().unwrap();
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut bytes = Vec::new();
        while console
            .read_until(b'\n', &mut bytes)
            .is_ok_and(|len| len > 0)
        {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_string();
            println!("    {line}");
            if send.send(line).is_err() {
                return;
            }
            bytes.clear();
        }
    });
    let limit = Instant::now() + LIFE;
    let mut found = Vec::new();
    loop {
        match lines.recv_timeout(limit.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let last = line.ends_with("BOOT END") || line.contains("Kernel panic");
                found.push(line);
                if last {
                    return found;
                }
            }
            Err(why) => panic!(
                "the machine did not come to its end ({why}): {}",
                found.join("\n")
            ),
        }
    }
}

/// Give what stands behind these words, from the line that has them.
fn behind<'a>(lines: &'a [String], words: &str) -> &'a str {
    let found = lines.iter().find_map(|line| line.split_once(words));
    found.unwrap_or_else(|| panic!("no line has {words:?}")).1
}

#[test]
fn a_repacked_stream_boots_serves_tests_itself_and_is_installed() {
    let Some(program) = common::daemon("static") else {
        return;
    };
    let dir = TempDir::new().unwrap();
    let path = dir.path();
    base(path);
    fs::write(path.join("dpfs.toml"), CONFIGURATION).unwrap();
    let wish = Wish {
        forms: "[\"repack\"]",
        program: program.clone(),
        pci: "[]",
        more: "[configuration]\nfile = \"dpfs.toml\"\n[tuning]\ncores = [6, 7]\nisolate = true\n",
    };
    wish.describe(&path.join("addon.toml"));
    ours_well(
        path,
        &[
            "addon",
            "--description",
            "addon.toml",
            "--base",
            "base.bfb",
            "-o",
            "out",
        ],
    );
    mkbfb(path, &["-x", "out/dpfs-0.1.0-bluefield2.bfb"]);
    // Its own arguments, without the places of a DPU's consoles, which hang another machine.
    let own = fs::read_to_string(path.join("dump-boot-args-v0")).unwrap();
    let kept: Vec<&str> = own
        .split_whitespace()
        .filter(|word| !word.starts_with("earlycon=") && !word.starts_with("console="))
        .collect();
    let arguments = format!(
        "{} console=ttyAMA0 printk.devkmsg=on panic=-1 systemd.show_status=no",
        kept.join(" ")
    );
    let lines = boot(path, "dump-image-v0", "dump-initramfs-v0", &arguments);

    // The console has the time since the kernel's start.
    let serving = lines
        .iter()
        .find(|line| line.contains("serving 1 devices"))
        .expect("DPFS serves");
    let time = serving
        .trim_start_matches('[')
        .split(']')
        .next()
        .unwrap_or_default()
        .trim()
        .to_string();
    println!("from the kernel's start to DPFS serving: {time} s, emulated");
    assert!(behind(&lines, "BOOT mounts: ").contains("fuse"));
    assert_eq!(
        behind(&lines, "BOOT served: "),
        "300000 bytes through the mount"
    );
    assert_eq!(behind(&lines, "BOOT selftest status "), "0");
    assert!(behind(&lines, "BOOT selftest image: READ of 4 KiB").contains(" a second"));
    behind(&lines, "BOOT stats: there are WRITEs");
    assert_eq!(
        behind(&lines, "BOOT installer: INFO: dpfs setup: "),
        "installed 0.1.0"
    );
    assert_eq!(behind(&lines, "BOOT installer status "), "0");
    let sum = |file: &Path| {
        let line = sh(path, &format!("sha256sum <'{}'", file.display()));
        line.split_whitespace().next().unwrap().to_string()
    };
    let installed = format!(
        "{}  usr/sbin/dpfs {}  etc/dpfs/dpfs.toml ",
        sum(&program),
        sum(&path.join("dpfs.toml"))
    );
    assert_eq!(behind(&lines, "BOOT installed: ").trim(), installed.trim());
    assert_eq!(
        behind(&lines, "BOOT enabled: "),
        "/usr/lib/systemd/system/dpfs.service"
    );
    assert_eq!(behind(&lines, "BOOT operator: "), "from bf.cfg");
    assert_eq!(behind(&lines, "BOOT unit: "), "active");
    behind(&lines, "BOOT removed: no dpfs");
    assert_eq!(behind(&lines, "BOOT tuned: "), "[0]");
    assert_eq!(behind(&lines, "BOOT untuned: "), "[]");
    assert_eq!(behind(&lines, "BOOT stopped: "), "0 mounts left");
    assert_eq!(behind(&lines, "BOOT service: "), "active, 1 mounts");
    assert_eq!(behind(&lines, "BOOT watched: "), "0 restarts");
    assert_eq!(behind(&lines, "BOOT hung: "), "1 restarts, active");
    assert_eq!(behind(&lines, "BOOT after: "), "again");
    assert_eq!(behind(&lines, "BOOT ended: "), "0 mounts left, success");
    let verify: Vec<&String> = lines
        .iter()
        .filter(|line| line.contains("BOOT verify: "))
        .collect();
    assert!(verify.is_empty(), "{verify:?}");
}
