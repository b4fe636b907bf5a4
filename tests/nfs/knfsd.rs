//! The kernel's own NFS server, in a guest of User-Mode Linux: it has what ganesha lacks, as extended attributes, COPY and
//! CLONE, and a backchannel that is used. That of Linux 6.1 does not list more than a few KiB of names of extended
//! attributes, and 6.12's does not say when a lock is free; so it is the newest.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Name of a directory that the shared server refers from: to `/share` of `nfs2.example.org`.
pub const REFERRAL: &str = "elsewhere";

/// Run a server until dropped.
pub struct Knfsd {
    guest: Child,
    interface: String,
    pub address: SocketAddr,
    folder: TempDir,
}

/// Run a program; tell whether it did well.
fn run(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    let ran = command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ran.is_ok_and(|status| status.success())
}

impl Knfsd {
    /// Give the one that tests use at the same time, or start one.
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Knfsd>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return Some(server);
        }
        let refers = [format!("refer={REFERRAL},nfs2.example.org,/share")];
        let server = Arc::new(Self::start(&refers)?);
        *shared = Arc::downgrade(&server);
        Some(server)
    }

    /// Start one with further arguments of its job, and with an empty export on XFS. `None`, having said so, where the
    /// machine gives no network interface.
    pub fn start(more: &[String]) -> Option<Self> {
        Self::start_as("nfsd", &[], more)
    }

    /// The same, of this job, with files of this machine in the guest.
    pub fn start_as(job: &str, files: &[(PathBuf, &str)], more: &[String]) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let disk = folder.path().join("disk");
        let file = std::fs::File::create(&disk).unwrap();
        file.set_len(1 << 30).unwrap();
        assert!(run("mkfs.xfs", &["-q", disk.to_str().unwrap()]), "xfsprogs");
        Self::boot(folder, job, files, more)
    }

    /// Start one with a copy of this one's disk, as it is now.
    pub fn copy(&self) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let [from, to] = [&self.folder, &folder].map(|folder| folder.path().join("disk"));
        let paths = [&from, &to].map(|path| path.to_str().unwrap());
        assert!(run("cp", &["--sparse=always", paths[0], paths[1]]));
        Self::boot(folder, "nfsd", &[], &[])
    }

    /// Boot one with the disk of this folder.
    fn boot(
        folder: TempDir,
        job: &str,
        files: &[(PathBuf, &str)],
        more: &[String],
    ) -> Option<Self> {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let interface = format!("dpfs{pid}-{count}");
        // A network of 30 bits: this machine, and the guest behind it.
        let near = Ipv4Addr::new(10, 213, pid as u8, 4 * count + 1);
        let far = Ipv4Addr::new(10, 213, pid as u8, 4 * count + 2);
        let made = run("ip", &["tuntap", "add", &interface, "mode", "tap"]);
        if !made {
            println!("not run: this machine gives no network interface (ip tuntap add)");
            return None;
        }
        let disk = folder.path().join("disk");
        let disk = disk.to_str().unwrap();
        let network = format!("{near}/30");
        assert!(run("ip", &["address", "add", &network, "dev", &interface]));
        assert!(run("ip", &["link", "set", &interface, "up"]));
        let console = std::fs::File::create(folder.path().join("console")).unwrap();
        let rig = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rig/boot");
        let guest = Command::new(rig)
            .args(["--uml", "7.2", "--timeout", "3600", "--job", job])
            .args(
                files
                    .iter()
                    .flat_map(|(file, at)| ["--put".into(), format!("{}:{at}", file.display())]),
            )
            .args(["--arg", &format!("address={far}"), "--arg", "disk=yes"])
            .args(more.iter().flat_map(|argument| ["--arg", argument]))
            .args(["--uml-arg", &format!("ubd0={disk}")])
            .args([
                "--uml-arg",
                &format!("vec0:transport=tap,ifname={interface},depth=128,gro=1"),
            ])
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .unwrap();
        let mut server = Self {
            guest,
            interface,
            address: (far, 2049).into(),
            folder,
        };
        server.wait();
        Some(server)
    }

    fn console(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("console")).unwrap_or_default()
    }

    fn wait(&mut self) {
        let end = Instant::now() + Duration::from_secs(120);
        // A guest whose processor is taken away may not answer at once that it is there.
        while !self.console().contains("NFSD-READY") || TcpStream::connect(self.address).is_err() {
            let ended = self.guest.try_wait().unwrap().is_some();
            assert!(!ended && Instant::now() < end, "{}", self.console());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Knfsd {
    fn drop(&mut self) {
        run("kill", &["-TERM", &self.guest.id().to_string()]);
        let _ = self.guest.wait();
        run("ip", &["link", "delete", &self.interface]);
    }
}
