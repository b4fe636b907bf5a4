//! A `dpfs` of the test's own: started with a configuration, asked for its statistics, stopped by its pid.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dpfs::backend::kv::valkey::server::Place;
use tempfile::TempDir;

use crate::nfs::{EXPORT, Ganesha};

/// Where a vhost-user device's socket is, in a daemon's folder.
const VHOST_USER: &str = "run/sock";

/// Run `dpfs serve` with one device, tag `dpfs`, in a folder that is removed afterwards.
pub struct Daemon {
    child: Child,
    /// Where guests connect, in the folder.
    socket: &'static str,
    /// There until the daemon is started anew.
    folder: Option<TempDir>,
    /// The backend's table.
    backend: String,
}

/// Wait until `condition` holds.
///
/// # Panics
/// After `seconds` without it; `what` names it.
pub fn wait_for(what: &str, seconds: u64, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !condition() {
        assert!(Instant::now() < end, "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Daemon {
    /// Serve a fresh directory with the `local` backend; `options` are further keys of the backend's table.
    pub fn local(queues: u32, options: &str) -> Self {
        Self::serve(queues, options, "{}")
    }

    /// Serve a fresh directory with the `local` backend within `limits`, a TOML table.
    pub fn local_with_limits(limits: &str) -> Self {
        Self::serve(1, "", limits)
    }

    fn serve(queues: u32, options: &str, limits: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let share = folder.path().join("share");
        fs::create_dir(&share).expect("a folder to serve");
        let backend = format!("{{ kind = \"local\", path = {share:?}{options} }}");
        Self::start(folder, queues, &backend, limits)
    }

    /// Serve a fresh directory as a VF of the emulated DPU, in the sandbox, as on a real one.
    #[cfg(feature = "snap")]
    pub fn snap(queues: u32, backend: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("share")).expect("a folder to serve");
        let backend = match backend {
            "kv" => Self::embedded_backend(&folder, ""),
            _ => format!(
                "{{ kind = \"local\", path = {:?} }}",
                folder.path().join("share")
            ),
        };
        let hal = format!(
            "{{ kind = \"snap\", manager = \"mlx5_0\", pf = 0, vf = 1, queues = {queues}, depth = 256 }}"
        );
        let later = dpfs::hal::snap::completes_later();
        let firmware = format!(
            "dir={} vfs=2 mode={}",
            folder.path().join("run").display(),
            if later { "later" } else { "now" }
        );
        let socket = "run/mlx5_0-pf0vf1.sock";
        Self::launch(
            folder,
            &hal,
            socket,
            &backend,
            "{}",
            &[("SNAP_EMU", &firmware)],
        )
    }

    /// Serve the `kv` backend's embedded engine with a store of its own; `options` are further keys.
    pub fn embedded(queues: u32, options: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let backend = Self::embedded_backend(&folder, options);
        Self::start(folder, queues, &backend, "{}")
    }

    fn embedded_backend(folder: &TempDir, options: &str) -> String {
        let store = folder.path().join("store");
        format!("{{ kind = \"kv\", engine = \"embedded\", path = {store:?}{options} }}")
    }

    /// Serve the export of an NFS server; `options` are further keys.
    pub fn nfs(server: &Ganesha, queues: u32, options: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let backend = format!(
            "{{ kind = \"nfs\", server = \"127.0.0.1\", port = {}, export = \"{EXPORT}\"{options} }}",
            server.port
        );
        Self::start(folder, queues, &backend, "{}")
    }

    /// Serve a volume of a Valkey or Redis server; `options` are further keys.
    pub fn valkey(server: &Place, options: &str) -> Self {
        Self::cluster(std::slice::from_ref(server), options)
    }

    /// Serve a volume of a cluster.
    pub fn cluster(nodes: &[Place], options: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let address: Vec<String> = nodes.iter().map(Place::to_string).collect();
        let backend = format!(
            "{{ kind = \"kv\", engine = \"valkey\", address = {address:?}, volume = \"v\"{options} }}"
        );
        Self::start(folder, 1, &backend, "{}")
    }

    /// Serve the keys of a Valkey or Redis server as files; `options` are further keys.
    pub fn keys(server: &Place, options: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let backend = format!(
            "{{ kind = \"kv\", engine = \"valkey\", layout = \"flat\", address = \"{server}\"{options} }}"
        );
        Self::start(folder, 1, &backend, "{}")
    }

    /// Serve a table of the RAMCloud cluster whose coordinator has this port; `options` are further keys.
    pub fn ramcloud(port: u16, options: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let backend = format!(
            "{{ kind = \"kv\", engine = \"ramcloud\", coordinator = \"tcp:host=127.0.0.1,port={port}\", table = \"files\", span = 3{options} }}"
        );
        Self::start(folder, 1, &backend, "{}")
    }

    /// Run another command of the program with this daemon's configuration: whether it did well, and what it printed.
    pub fn command(&self, name: &str) -> (bool, String) {
        let out = Command::new(program())
            .args([name, "-c"])
            .arg(self.folder().join("dpfs.toml"))
            .output()
            .expect("dpfs runs");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        (out.status.success(), text)
    }

    /// Kill the daemon and start another one on the same store.
    pub fn killed_and_restarted(mut self) -> Self {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
        let folder = self.folder.take().expect("a folder");
        // The socket of a daemon that was killed stays.
        let _ = fs::remove_file(folder.path().join("run/sock"));
        Self::start(folder, 1, &self.backend, "{}")
    }

    fn folder(&self) -> &Path {
        self.folder.as_ref().expect("a folder").path()
    }

    fn start(folder: TempDir, queues: u32, backend: &str, limits: &str) -> Self {
        let hal = format!(
            "{{ kind = \"vhost-user\", socket = {:?}, queues = {queues}, depth = 256 }}",
            folder.path().join(VHOST_USER)
        );
        Self::launch(folder, &hal, VHOST_USER, backend, limits, &[])
    }

    fn launch(
        folder: TempDir,
        hal: &str,
        socket: &'static str,
        backend: &str,
        limits: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let run = folder.path().join("run");
        fs::create_dir_all(&run).expect("a folder for the socket");
        let config = format!(
            "[runtime]\npolling = \"adaptive\"\ncores = [0, 1]\ndir = {run:?}\nsandbox = {:?}\n\
             [[device]]\ntag = \"dpfs\"\nhal = {hal}\nbackend = {backend}\nlimits = {limits}\n",
            sandbox()
        );
        let file = folder.path().join("dpfs.toml");
        fs::write(&file, config).expect("a configuration");
        let child = Command::new(program())
            .args(["serve", "-c"])
            .arg(&file)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .spawn()
            .expect("dpfs starts");
        let daemon = Self {
            child,
            socket,
            folder: Some(folder),
            backend: backend.into(),
        };
        wait_for("dpfs listens", 30, || daemon.socket().exists());
        daemon
    }

    /// Give the socket of the device.
    pub fn socket(&self) -> PathBuf {
        self.folder().join(self.socket)
    }

    /// Give the device's statistics, as `dpfs stats --json` prints them.
    pub fn stats(&self) -> serde_json::Value {
        let out = Command::new(program())
            .args(["stats", "--json", "--dir"])
            .arg(self.folder().join("run"))
            .output()
            .expect("dpfs stats runs");
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let all: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
        all["devices"][0].clone()
    }

    /// Give a gauge of the device: "nodes", "open_files", "in_flight".
    pub fn gauge(&self, name: &str) -> u64 {
        let stats = self.stats();
        stats[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no gauge {name} in {stats}"))
    }

    /// Ask the daemon to end and give its exit status.
    pub fn stop(mut self) -> Option<i32> {
        self.terminate();
        let end = Instant::now() + Duration::from_secs(15);
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                // The emulated host's is out of reach of a daemon in its sandbox.
                if self.socket == VHOST_USER {
                    assert!(!self.socket().exists(), "the socket is left behind");
                }
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("dpfs does not end within 15 s of SIGTERM");
    }

    /// Send SIGTERM.
    pub fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .expect("kill runs")
                .success()
        );
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ends the daemon of a test that failed; one that was stopped is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Give the program to test: `$DPFS`, a release build for instance, or the one that cargo built with this test.
fn program() -> PathBuf {
    std::env::var_os("DPFS").map_or_else(|| env!("CARGO_BIN_EXE_dpfs").into(), PathBuf::from)
}

/// Give what the daemon is to give up: `$DPFS_SANDBOX`, or all.
fn sandbox() -> String {
    std::env::var("DPFS_SANDBOX").unwrap_or_else(|_| "full".into())
}

/// Give a file of the rig.
pub fn rig(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/rig")
        .join(name)
}
