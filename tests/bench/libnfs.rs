//! libnfs beside DPFS: a program of its own (`libnfs.c`), built for Debian's library and run with that one's C library.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::nfs_server::{EXPORT, cached};
use super::rates::{Run, TIME};

/// Hold the program.
pub struct Libnfs {
    folder: tempfile::TempDir,
    home: PathBuf,
}

impl Libnfs {
    /// Build it.
    pub fn new() -> Self {
        let (folder, home) = (tempfile::tempdir().unwrap(), cached("libnfs"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/libnfs.c");
        let libraries = home.join("usr/lib/x86_64-linux-gnu");
        let built = Command::new("gcc")
            .args(["-O2", "-Wall", "-Wl,--allow-shlib-undefined", "-I"])
            .arg(home.join("usr/include"))
            .arg("-o")
            .arg(folder.path().join("libnfs"))
            .arg(source)
            .arg(libraries.join("libnfs.so"))
            .status();
        assert!(built.unwrap().success(), "libnfs.c does not build");
        Self { folder, home }
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("libnfs")
    }

    /// Keep requests under way at a file of the server.
    pub fn measure(&self, run: Run<'_>, port: u16, file: &str, read: bool) {
        let libraries = self.home.join("usr/lib/x86_64-linux-gnu");
        let loader: &Path = &libraries.join("ld-linux-x86-64.so.2");
        let url = format!("nfs://127.0.0.1{EXPORT}?version=4&nfsport={port}");
        let output = Command::new(loader)
            .arg("--library-path")
            .arg(&libraries)
            .arg(self.program())
            .args([url.as_str(), file, if read { "read" } else { "write" }])
            .arg(if run.places.ordered {
                "sequential"
            } else {
                "random"
            })
            .args([run.places.size, run.places.file, run.depth as u64].map(|n| n.to_string()))
            .arg(TIME.as_secs().to_string())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let output = String::from_utf8(output.stdout).unwrap();
        let lines = output.lines().filter(|line| !line.starts_with("cpu"));
        let latencies: Vec<f32> = lines.map(|line| line.parse().unwrap()).collect();
        let cpu = output.lines().last().unwrap();
        let cpu: f64 = cpu
            .split(' ')
            .skip(1)
            .map(|time| time.parse::<f64>().unwrap())
            .sum();
        let each = cpu * 1e6 / latencies.len() as f64;
        run.report_content(read, latencies);
        println!("    client {each:.1} us");
    }
}
