//! Directories that referrals led to, as they were when somebody was last led there.
//!
//! While their server is away, a lookup of the referral is answered from here: what waits for the server is then what is
//! done in its file system, and not the directory of another server that the host holds while it looks a name up.

use core::time::Duration;

use crate::fuse::{Entry, Reply};
use crate::mem::hash_bytes;
use crate::wire::errno::Errno;
use crate::wire::fuse::{ATTR_SUBMOUNT, Attr};
use crate::wire::nfs4::{FileKind, Handle};

use super::path::Path;
use super::volume::{NfsVolume, Node};

/// Directories that are kept for each server; of more, those that came last.
const KEPT: usize = 32;

struct Root {
    /// What tells its path from others.
    path: u64,
    handle: Handle,
    attr: Attr,
    /// Mark of its file system.
    fs: u32,
}

/// Hold them.
#[derive(Default)]
pub struct Roots {
    kept: heapless::Vec<Root, KEPT>,
    /// Place that is taken next when none is free.
    next: usize,
}

impl Roots {
    fn find(&self, path: u64) -> Option<&Root> {
        self.kept.iter().find(|root| root.path == path)
    }

    fn keep(&mut self, root: Root) {
        let found = self.kept.iter_mut().find(|kept| kept.path == root.path);
        let root = match found {
            Some(kept) => return *kept = root,
            None => self.kept.push(root),
        };
        if let Err(root) = root {
            self.kept[self.next] = root;
            self.next = (self.next + 1) % KEPT;
        }
    }
}

impl NfsVolume {
    /// Tell paths apart, in this life of the client, of which no server knows how.
    fn mark(&self, path: &Path) -> u64 {
        hash_bytes(u64::from_be_bytes(self.verifier), path.bytes())
    }

    /// Keep what a path led to, and make it a file system of its own where the host mounts such ones.
    pub(super) fn keep_root(&self, path: &Path, handle: Handle, entry: &mut Entry) {
        let root = Root {
            path: self.mark(path),
            handle,
            attr: entry.attr,
            fs: self.fs_of(entry.node.0),
        };
        self.roots.lock().keep(root);
        self.mark_root(entry);
    }

    fn mark_root(&self, entry: &mut Entry) {
        if self.submounts() {
            entry.attr.flags |= ATTR_SUBMOUNT;
        }
    }

    /// Tell whether something is kept that the path led to.
    pub(super) fn knows_root(&self, path: &Path) -> bool {
        self.roots.lock().find(self.mark(path)).is_some()
    }

    /// Answer a lookup with what the path led to before, or say that nobody is there.
    pub(super) fn answer_from_roots(&self, path: &Path, reply: Reply<Entry>) {
        match self.recall_root(path, reply.epoch()) {
            Ok(entry) => reply.ok(entry),
            Err(errno) => reply.err(errno),
        }
    }

    /// Hand what the path led to before to the host, which is to ask for its attributes anew.
    ///
    /// # Errors
    /// `ETIMEDOUT` when nothing is kept; otherwise as for [`Self::entry`].
    fn recall_root(&self, path: &Path, epoch: u32) -> Result<Entry, Errno> {
        let kept = {
            let roots = self.roots.lock();
            let root = roots.find(self.mark(path));
            root.map(|root| (root.handle, root.attr, root.fs))
        };
        let (handle, attr, fs) = kept.ok_or(Errno::ETIMEDOUT)?;
        let node = Node {
            fileid: 0,
            change: 0,
            opens: 0,
            fs,
            silly: None,
            unsaid: None,
        };
        let mut entry = self.entry_of(handle, attr, (FileKind::Directory, node), epoch)?;
        entry.attr_ttl = Duration::ZERO;
        self.mark_root(&mut entry);
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(path: u64, ino: u64) -> Root {
        let attr = Attr {
            ino,
            ..Attr::default()
        };
        Root {
            path,
            handle: Handle::EMPTY,
            attr,
            fs: 0,
        }
    }

    #[test]
    fn the_last_ones_are_kept_as_they_were_last() {
        let mut roots = Roots::default();
        for path in 0..KEPT as u64 {
            roots.keep(root(path, 1));
        }
        roots.keep(root(5, 2));
        assert_eq!(roots.find(5).map(|root| root.attr.ino), Some(2));
        for path in 100..103 {
            roots.keep(root(path, 3));
        }
        for path in 0..KEPT as u64 {
            assert_eq!(roots.find(path).is_some(), path >= 3, "{path}");
        }
        assert!((100..103).all(|path| roots.find(path).is_some()));
    }
}
