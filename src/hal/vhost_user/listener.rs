//! The socket at which front-ends call.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::sys::socket;

/// Listen at a path. The path is removed on drop.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode of the path, to remove only what is ours.
    identity: (u64, u64),
}

impl Listener {
    /// Listen at `path` with permissions `mode`.
    ///
    /// A socket that is there already is replaced when nobody listens on it. There is no moment at which the path has
    /// other permissions, or is missing when it was there before: the socket is made beside it and renamed.
    ///
    /// # Errors
    /// `AddrInUse` when somebody listens there; `AlreadyExists` when there is something else than a socket; whatever
    /// the file system says.
    pub(super) fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(io::Error::new(
                    ErrorKind::AlreadyExists,
                    "the path exists and is not a socket",
                ));
            }
            Ok(_) => match socket::is_listening(path.as_os_str().as_bytes()) {
                Ok(false) => {}
                Ok(true) => {
                    return Err(io::Error::new(
                        ErrorKind::AddrInUse,
                        "another process serves this socket",
                    ));
                }
                Err(error) => return Err(io::Error::from_raw_os_error(error.get())),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut beside = path.as_os_str().to_os_string();
        beside.push("~");
        let beside = PathBuf::from(beside);
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixListener::bind(&beside)?;
        socket.set_nonblocking(true)?;
        let prepare = || {
            fs::set_permissions(&beside, fs::Permissions::from_mode(mode))?;
            let found = fs::symlink_metadata(&beside)?;
            fs::rename(&beside, path)?;
            Ok((found.dev(), found.ino()))
        };
        match prepare() {
            Ok(identity) => Ok(Self {
                socket,
                path: path.to_path_buf(),
                identity,
            }),
            Err(error) => {
                // The first error is the one to report.
                let _ = fs::remove_file(&beside);
                Err(error)
            }
        }
    }

    /// Take the next front-end, `None` when none calls (any more).
    pub(super) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        match self.socket.accept() {
            Ok((stream, _)) => Ok(Some(stream.into())),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Give the descriptor that becomes readable when a front-end calls.
    pub(super) fn raw(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours {
            // Somebody else may have removed it; then that is done.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let first = Listener::bind(&path, 0o640).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        let error = Listener::bind(&path, 0o600).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let _client = UnixStream::connect(&path).unwrap();
        drop(first);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn only_a_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        fs::write(&path, "precious").unwrap();
        let error = Listener::bind(&path, 0o600).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_path_that_was_taken_over_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let first = Listener::bind(&path, 0o600).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Listener::bind(&path, 0o600).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }
}
