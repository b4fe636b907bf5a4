//! The package in a system that runs: a real Debian under User-Mode Linux, whose root is on a virtio-fs device that the
//! packaged daemon serves.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Child, Command};

use tempfile::TempDir;

use crate::common::{fetch, sh, top};
use crate::{deb, later, package_database};

/// A daemon that ends with the test.
struct Daemon(Child);

impl Daemon {
    fn start(program: &Path, configuration: &Path, socket: &Path) -> Self {
        let mut command = Command::new(program);
        command.args(["serve", "-c"]).arg(configuration);
        let daemon = Self(command.spawn().unwrap());
        for _ in 0..100 {
            if socket.exists() {
                return daemon;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("the daemon does not listen");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Make a Debian that runs `system` once it is up.
fn debian(root: &Path) {
    let copy = format!(
        "cp -a '{}/.' '{}'",
        fetch("debian").display(),
        root.display()
    );
    sh(root, &copy);
    package_database(root, "amd64", "2.36-9");
    // Not a first boot, which would ask its user.
    fs::write(root.join("etc/machine-id"), format!("{:032x}\n", 1)).unwrap();
    fs::create_dir(root.join("packages")).unwrap();
    fs::copy(deb("amd64"), root.join("packages/first.deb")).unwrap();
    let dir = TempDir::new().unwrap();
    fs::copy(later("amd64", dir.path()), root.join("packages/later.deb")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/package/system");
    fs::copy(script, root.join("system")).unwrap();
    let units = root.join("etc/systemd/system");
    fs::create_dir_all(units.join("multi-user.target.wants")).unwrap();
    fs::write(
        units.join("system.service"),
        "[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\nExecStart=/system\nStandardOutput=tty\n\
         StandardError=tty\nTTYPath=/dev/console\n",
    )
    .unwrap();
    let wants = units.join("multi-user.target.wants/system.service");
    symlink("../system.service", wants).unwrap();
}

#[test]
fn systemd_starts_it_restarts_it_and_lets_it_go_on_a_root_that_it_serves() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("NOT RUN: a system's root belongs to root");
        return;
    }
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    debian(&root);
    let unpack = format!("dpkg-deb -x '{}' host", deb("amd64").display());
    sh(dir.path(), &unpack);
    let (configuration, socket) = (dir.path().join("dpfs.toml"), dir.path().join("socket"));
    let text = format!(
        "[runtime]\ndir = \"{dir}/run\"\n[[device]]\ntag = \"root\"\n\
         hal = {{ kind = \"vhost-user\", socket = \"{dir}/socket\" }}\n\
         backend = {{ kind = \"local\", path = \"{dir}/root\", cache = \"always\" }}\n",
        dir = dir.path().display()
    );
    fs::create_dir(dir.path().join("run")).unwrap();
    fs::write(&configuration, text).unwrap();
    let program = dir.path().join("host/usr/sbin/dpfs");
    let _daemon = Daemon::start(&program, &configuration, &socket);
    let guest = Command::new(top().join("tests/rig/boot"))
        .args([
            "--uml",
            "6.12",
            "--job",
            "root",
            "--timeout",
            "300",
            "--tag",
            "root",
        ])
        .arg("--socket")
        .arg(&socket)
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&guest.stdout));
    assert!(
        guest.status.success(),
        "{}",
        String::from_utf8_lossy(&guest.stderr)
    );
}
