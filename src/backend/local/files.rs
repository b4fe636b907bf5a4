//! Open files and directories.

use std::sync::Mutex;

use super::Cache;
use super::nodes::NodeFd;
use super::volume::LocalVolume;
use crate::fuse::{Fh, NodeId, Opened};
use crate::mem::{Pinned, Refused};
use crate::sys::Result;
use crate::sys::fd::Fd;
use crate::wire::errno::Errno;
use crate::wire::fuse::FopenFlags;
use crate::wire::open_flags::{AccessMode, OpenFlags};

/// Hold what a file handle of the host stands for.
pub struct OpenFile {
    /// Its descriptor.
    pub fd: Fd,
    /// Its node, which is kept while the file is open.
    pub node: NodeId,
    /// Bypasses this machine's page cache, and is picky about alignment.
    pub direct: bool,
    /// For a directory: one reader at a time, because its position is the descriptor's.
    pub directory: Option<Mutex<()>>,
}

/// Keep an open file for the time of a request.
pub struct FilePin {
    volume: &'static LocalVolume,
    pinned: Option<Pinned<OpenFile>>,
}

impl core::ops::Deref for FilePin {
    type Target = OpenFile;

    #[inline]
    fn deref(&self) -> &OpenFile {
        self.pinned.as_ref().expect("emptied by drop alone")
    }
}

impl Drop for FilePin {
    #[inline]
    fn drop(&mut self) {
        if let Some(file) = self.pinned.take().and_then(Pinned::unpin) {
            self.volume.dispose_file(file);
        }
    }
}

/// Hold the descriptor that an operation works on.
pub enum Target {
    /// A node.
    Node(NodeFd),
    /// An open file.
    File(FilePin),
}

impl Target {
    /// Give the descriptor.
    #[inline]
    pub fn raw(&self) -> i32 {
        match self {
            Self::Node(fd) => fd.raw(),
            Self::File(file) => file.fd.raw(),
        }
    }
}

impl LocalVolume {
    /// Keep an open file or directory.
    ///
    /// # Errors
    /// `EBADF` for one that the host has not open.
    #[inline]
    pub(super) fn opened(&'static self, fh: Fh) -> Result<FilePin> {
        let pinned = self.files.pin(fh.0).ok_or(Errno::EBADF)?;
        Ok(FilePin {
            volume: self,
            pinned: Some(pinned),
        })
    }

    /// Keep an open file; a directory is `EISDIR`.
    ///
    /// # Errors
    /// As [`Self::opened`].
    #[inline]
    pub(super) fn opened_file(&'static self, fh: Fh) -> Result<FilePin> {
        let file = self.opened(fh)?;
        match file.directory {
            None => Ok(file),
            Some(_) => Err(Errno::EISDIR),
        }
    }

    /// Keep an open directory; a file is `ENOTDIR`.
    ///
    /// # Errors
    /// As [`Self::opened`].
    pub(super) fn opened_directory(&'static self, fh: Fh) -> Result<FilePin> {
        let file = self.opened(fh)?;
        match file.directory {
            Some(_) => Ok(file),
            None => Err(Errno::ENOTDIR),
        }
    }

    /// Turn the host's open flags into this machine's.
    ///
    /// `O_APPEND`, `O_SYNC` and `O_DSYNC` are left out: every WRITE says itself what it wants, also after an fcntl(2)
    /// of the host.
    pub(super) fn open_flags(&self, flags: OpenFlags) -> i32 {
        let mut own = match flags.access() {
            // The host fills up pages that it wrote in part.
            AccessMode::Write if self.config.writeback => libc::O_RDWR,
            AccessMode::Write => libc::O_WRONLY,
            AccessMode::ReadWrite => libc::O_RDWR,
            AccessMode::Read => libc::O_RDONLY,
        };
        for (flag, bit) in [
            (OpenFlags::TRUNC, libc::O_TRUNC),
            (OpenFlags::NOATIME, libc::O_NOATIME),
        ] {
            if flags.contains(flag) {
                own |= bit;
            }
        }
        if flags.contains(OpenFlags::DIRECT) && self.config.direct_io {
            own |= libc::O_DIRECT;
        }
        own
    }

    /// Give the host a number for a file that was opened.
    ///
    /// # Errors
    /// `ENFILE` when the table is full, `EIO` when the session ended, `ESTALE` when the host forgot the node.
    pub(super) fn add_file(
        &self,
        fd: Fd,
        node: NodeId,
        direct: bool,
        directory: bool,
        epoch: u32,
    ) -> Result<Opened> {
        if !self.nodes.open(node.0) {
            return Err(Errno::ESTALE);
        }
        let file = OpenFile {
            fd,
            node,
            direct,
            directory: directory.then(|| Mutex::new(())),
        };
        match self.files.insert(file, epoch) {
            Ok(fh) => Ok(Opened {
                fh: Fh(fh),
                flags: self.fopen_flags(directory),
            }),
            Err((refused, file)) => {
                self.dispose_file(file);
                Err(match refused {
                    Refused::Full => Errno::ENFILE,
                    Refused::StaleEpoch => Errno::EIO,
                })
            }
        }
    }

    fn fopen_flags(&self, directory: bool) -> FopenFlags {
        match (self.config.cache, directory) {
            (Cache::None, false) => FopenFlags::DIRECT_IO | FopenFlags::PARALLEL_DIRECT_WRITES,
            (Cache::Always, false) => FopenFlags::KEEP_CACHE,
            (Cache::Always, true) => FopenFlags::KEEP_CACHE | FopenFlags::CACHE_DIR,
            (Cache::Auto, _) | (Cache::None, true) => FopenFlags::empty(),
        }
    }
}
