//! Cleaning up outside of the sandbox.
//!
//! A daemon that shut itself in can no longer unmount what it mounted, nor remove its sockets, and one that was killed
//! never could. So before the sandbox closes, a child is left outside that waits for the daemon to end, in order or
//! not, cleans up and ends. It has no descriptor but a pipe that nobody writes to, so a daemon that was taken over has
//! no words to ask it for anything else.

use std::boxed::Box;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::vec::Vec;

use crate::sys::fd::Fd;
use crate::sys::{self, child};

/// What a warden does.
pub type Task = Box<dyn FnOnce()>;

/// Hold the child.
#[derive(Debug)]
pub struct Warden {
    pid: i32,
    /// Closing it is what the child waits for.
    pipe: Fd,
}

impl Warden {
    /// Leave a child outside that does `tasks` when this process ends, or at [`Self::finish`].
    ///
    /// To be called while the process has one thread.
    ///
    /// # Errors
    /// `EBUSY` when it has more; as fork(2).
    pub fn post(tasks: Vec<Task>) -> sys::Result<Self> {
        let (pid, pipe) = child::at_end(|| tasks.into_iter().for_each(|task| task()))?;
        Ok(Self { pid, pipe })
    }

    /// Have the tasks done and wait until they are.
    pub fn finish(self) {
        drop(self.pipe);
        child::wait(self.pid);
    }
}

/// Make the task of removing a file that is there now, unless another has taken its name by then.
pub fn removal(path: &Path) -> Task {
    let identity = |path: &Path| {
        let metadata = fs::symlink_metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let (path, now) = (PathBuf::from(path), identity(path));
    Box::new(move || {
        if now.is_some() && identity(&path) == now {
            // Gone already is as good.
            let _ = fs::remove_file(&path);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_removed_unless_it_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        fs::write(&path, "").unwrap();
        removal(&path)();
        assert!(!path.exists());
        removal(&path)();

        fs::write(&path, "").unwrap();
        let task = removal(&path);
        let other = dir.path().join("other");
        fs::write(&other, "").unwrap();
        fs::rename(&other, &path).unwrap();
        task();
        assert!(path.exists(), "the next daemon's");
    }
}
