//! Cleaning up outside of the sandbox.
//!
//! A daemon that shut itself in can no longer unmount what it mounted, nor remove its sockets, and one that was killed
//! never could. So before the sandbox closes, a child is left outside that waits for the daemon to end, in order or
//! not, cleans up and ends. It has no descriptor but a pipe that nobody writes to, so a daemon that was taken over has
//! no words to ask it for anything else.
//!
//! A process that has other threads already (under an emulator of processors, or by a library) cannot leave a child. It
//! cannot have a sandbox either, so it cleans up by itself, unless it is killed.

use std::boxed::Box;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::vec::Vec;

use crate::sys::fd::Fd;
use crate::sys::{self, child};

/// What a warden does.
pub type Task = Box<dyn FnOnce()>;

/// Hold the child, or what is to be done without one.
pub struct Warden(Place);

enum Place {
    Outside {
        pid: i32,
        /// Closing it is what the child waits for.
        pipe: Fd,
    },
    Here(Vec<Task>),
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
        Ok(Self(Place::Outside { pid, pipe }))
    }

    /// Keep `tasks` for [`Self::finish`], in a process that is in no sandbox.
    pub fn here(tasks: Vec<Task>) -> Self {
        Self(Place::Here(tasks))
    }

    /// Have the tasks done and wait until they are.
    pub fn finish(self) {
        match self.0 {
            Place::Outside { pid, pipe } => {
                drop(pipe);
                child::wait(pid);
            }
            Place::Here(tasks) => tasks.into_iter().for_each(|task| task()),
        }
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
    fn without_a_child_the_tasks_are_done_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        fs::write(&path, "").unwrap();
        let warden = Warden::here([removal(&path)].into());
        assert!(path.exists());
        warden.finish();
        assert!(!path.exists());
    }

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
