//! An NFS server of the test's own: nfs-ganesha on the loopback interface, with a directory of this machine as export.

use std::ffi::CString;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Path of the export at the server.
pub const EXPORT: &str = "/share";

/// Give the folder of the cache with one of the rig's items in it.
pub fn cached(item: &str) -> PathBuf {
    let fetch = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rig/fetch");
    let fetched = Command::new(fetch).arg(item).status();
    assert!(fetched.unwrap().success(), "{item} cannot be fetched");
    let cache = std::env::var_os("DPFS_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/dpfs"),
        PathBuf::from,
    );
    cache.join(item)
}

/// Give the folder with the server in it.
fn home() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| cached("ganesha"))
}

/// Say how the server behaves.
#[derive(Clone, Copy)]
pub struct Manner {
    /// Seconds of a lease.
    pub lease: u32,
    /// Seconds after a start in which only what was open before may be opened; zero for none.
    pub grace: u32,
    /// Newest minor version.
    pub minor: u32,
    /// The export may not be changed.
    pub read_only: bool,
    /// Owners are names of this domain, those of this machine.
    pub names: Option<&'static str>,
    /// The export is the server's own memory (FSAL MEM), not a directory (FSAL VFS).
    pub memory: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            lease: 10,
            grace: 0,
            minor: 2,
            read_only: false,
            names: None,
            memory: false,
        }
    }
}

/// Run a server until dropped.
pub struct Ganesha {
    process: Option<Child>,
    pub port: u16,
    manner: Manner,
    dir: TempDir,
    /// What is exported.
    share: PathBuf,
}

impl Ganesha {
    /// Start one with an empty export.
    pub fn start(manner: Manner) -> Self {
        let dir = TempDir::new().unwrap();
        let share = dir.path().join("share");
        fs::create_dir(&share).unwrap();
        Self::serve(manner, dir, share)
    }

    /// Start one that exports this directory, and keeps what it keeps in that one.
    pub fn serve(manner: Manner, dir: TempDir, share: PathBuf) -> Self {
        fs::create_dir(dir.path().join("state")).unwrap();
        // One after another, so that two tests do not take the same port.
        static STARTING: Mutex<()> = Mutex::new(());
        let _one = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut server = Self {
            process: None,
            port,
            manner,
            dir,
            share,
        };
        server.restart();
        server
    }

    fn config(&self) -> String {
        let (home, dir) = (home().display(), self.dir.path().display());
        let Manner {
            lease,
            grace,
            minor,
            read_only,
            names,
            memory,
        } = self.manner;
        // UseGetpwnam: otherwise it wants the id mapper's configuration, though owners are numbers.
        format!(
            "NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {port}; Bind_addr = 127.0.0.1; Enable_NLM = false;
               Enable_RQUOTA = false; Enable_UDP = false; mount_path_pseudo = true; fsid_device = true;
               Plugins_Dir = {home}/lib/x86_64-linux-gnu/ganesha; }}
             NFSv4 {{ Graceless = {graceless}; Lease_Lifetime = {lease}; Grace_Period = {grace}; Minor_Versions = {minors};
               RecoveryBackend = fs_ng; RecoveryRoot = {dir}/state; Only_Numeric_Owners = {numbers}; UseGetpwnam = true;
               DomainName = {domain}; }}
             NFS_KRB5 {{ Active_krb5 = false; }}
             EXPORT {{ Export_Id = 1; Path = {share}; Pseudo = {EXPORT}; Protocols = 4; Transports = TCP;
               Access_Type = {access}; Squash = No_Root_Squash; SecType = none, sys; PrivilegedPort = false;
               FSAL {{ Name = {fsal}; }} }}
             MEM {{ Inode_Size = 1114112; UP_Test_Interval = 0; }}",
            fsal = if memory { "MEM" } else { "VFS" },
            port = self.port,
            share = self.share.display(),
            graceless = grace == 0,
            grace = grace.max(1),
            numbers = names.is_none(),
            domain = names.unwrap_or("localdomain"),
            minors = if minor == 1 { "0, 1" } else { "0, 1, 2" },
            access = if read_only { "RO" } else { "RW" },
        )
    }

    /// Start it (again) with what it had on disk.
    pub fn restart(&mut self) {
        self.kill();
        let dir = self.dir.path();
        fs::write(dir.join("conf"), self.config()).unwrap();
        let home = home();
        let libraries = format!("{0}/lib/ganesha:{0}/lib/x86_64-linux-gnu", home.display());
        let process = Command::new(home.join("ganesha.nfsd"))
            .env("LD_LIBRARY_PATH", libraries)
            .args(["-F", "-N", "NIV_EVENT", "-f"])
            .arg(dir.join("conf"))
            .arg("-p")
            .arg(dir.join("pid"))
            .arg("-L")
            .arg(dir.join("log"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < end,
                "ganesha does not listen: {}",
                fs::read_to_string(dir.join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kill it, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Give the number of its process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// Stop it for a while, or let it go on.
    pub fn freeze(&self, frozen: bool) {
        let pid = self.pid().to_string();
        let signal = if frozen { "-STOP" } else { "-CONT" };
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.unwrap().success());
        // Its threads stop one after another.
        let stands = |thread: fs::DirEntry| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ")
                .next()
                .is_some_and(|rest| rest.starts_with('T'))
        };
        let tasks = format!("/proc/{pid}/task");
        while frozen && !fs::read_dir(&tasks).unwrap().flatten().all(stands) {
            std::thread::yield_now();
        }
    }

    /// Make a directory whose file system is elsewhere: `server:/path`.
    pub fn refer(&self, name: &str, place: &str) {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        let c_path = CString::new(path.to_str().unwrap()).unwrap();
        dpfs::sys::xattr::set(&c_path, c"user.fs_location", place.as_bytes(), 0).unwrap();
        // What tells ganesha that there is such an attribute.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o1000)).unwrap();
    }

    /// Give the path of something in the export on this machine.
    pub fn path(&self, name: &str) -> PathBuf {
        self.share.join(name)
    }
}

impl Drop for Ganesha {
    fn drop(&mut self) {
        self.kill();
    }
}
