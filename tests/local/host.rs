//! A host of a directory that is served.

use std::ffi::CString;
use std::fs;
use std::ops::{Deref, DerefMut};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dpfs::backend::local::{Config, Local, LocalVolume};
pub use dpfs_harness::host::*;
use dpfs_harness::{Bed, Setup};
use tempfile::TempDir;

/// Hold a directory that is served, and the host that mounted it.
pub struct Host {
    host: dpfs_harness::Host<Local>,
    pub volume: &'static LocalVolume,
    dir: TempDir,
}

impl Deref for Host {
    type Target = dpfs_harness::Host<Local>;

    fn deref(&self) -> &Self::Target {
        &self.host
    }
}

impl DerefMut for Host {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.host
    }
}

impl Host {
    /// Serve an empty directory of the machine's temporary file system.
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    /// Serve an empty directory as the changed configuration says.
    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::at(TempDir::new().unwrap(), change)
    }

    /// Serve a directory.
    pub fn at(dir: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let export = dir.path().join("export");
        let _ = fs::create_dir(&export);
        let mut config = Config::new(&export);
        config.workers = 2;
        config.nodes = 10_000;
        config.open_files = 1000;
        config.descriptors = 256;
        change(&mut config);
        let volume = LocalVolume::open(config).unwrap();
        let setup = Setup {
            volume,
            depth: 32,
            ..Setup::default()
        };
        let mut bed = Bed::with(volume.attach(32).unwrap(), setup);
        bed.init();
        Self {
            host: dpfs_harness::Host::new(bed),
            volume,
            dir,
        }
    }

    /// Give the path of something in the served directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("export").join(name)
    }

    /// Give the path of something beside the served directory.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Give the xattr of a file of this machine.
    pub fn own_xattr(&self, path: &Path, name: &str) -> Option<Vec<u8>> {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        let name = CString::new(name).unwrap();
        let mut value = vec![0; 4096];
        dpfs::sys::xattr::get(&path, &name, &mut value)
            .ok()
            .map(|len| {
                value.truncate(len);
                value
            })
    }
}
