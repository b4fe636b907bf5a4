//! What names a file below: its handle, or device and inode number where there are no handles.

use super::mounts::MountId;
use crate::mem::{NodeKey, hash_bytes};
use crate::sys::file::FileHandle;

/// Longest handle that a key holds, in bytes. ext4, XFS, btrfs, tmpfs, CephFS, Lustre and overlayfs need 8 to 36; a
/// file system with longer ones (NFS) is served by descriptors instead.
const HANDLE: usize = 40;

/// Name a file. 48 bytes: a million nodes take as many megabytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// The file system's type of handle, or [`NO_HANDLE`].
    kind: i32,
    mount: u16,
    len: u8,
    bytes: [u8; HANDLE],
}

/// Type of a key that is made of device and inode number; handles have types above zero.
const NO_HANDLE: i32 = -1;

impl Key {
    /// Name a file by its handle; `None` when that is too long.
    pub fn of_handle(handle: &FileHandle, mount: MountId) -> Option<Self> {
        let given = handle.bytes();
        let mut bytes = [0; HANDLE];
        bytes.get_mut(..given.len())?.copy_from_slice(given);
        Some(Self {
            kind: handle.kind(),
            mount: mount.0,
            len: given.len() as u8,
            bytes,
        })
    }

    /// Name a file by device and inode number. That is unique only while a descriptor holds the file.
    pub fn of_inode(device: u64, ino: u64) -> Self {
        let mut bytes = [0; HANDLE];
        bytes[..8].copy_from_slice(&device.to_ne_bytes());
        bytes[8..16].copy_from_slice(&ino.to_ne_bytes());
        Self {
            kind: NO_HANDLE,
            mount: 0,
            len: 16,
            bytes,
        }
    }

    /// Give the handle and its mount, or `None` for a key without.
    pub fn handle(&self) -> Option<(FileHandle, MountId)> {
        if self.kind == NO_HANDLE {
            return None;
        }
        let bytes = self.bytes.get(..usize::from(self.len))?;
        Some((FileHandle::new(self.kind, bytes)?, MountId(self.mount)))
    }
}

impl NodeKey for Key {
    #[inline]
    fn hash(&self, seed: u64) -> u64 {
        let seed = seed ^ (u64::from(self.mount) << 32 | u64::from(self.kind as u32));
        hash_bytes(seed, &self.bytes[..usize::from(self.len).min(HANDLE)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_comes_back_as_it_was() {
        for len in [0, 8, HANDLE] {
            let handle = FileHandle::new(0x81, &std::vec![7; len]).unwrap();
            let key = Key::of_handle(&handle, MountId(3)).unwrap();
            let (again, mount) = key.handle().unwrap();
            assert_eq!(
                (again.kind(), again.bytes(), mount),
                (0x81, handle.bytes(), MountId(3))
            );
        }
        let long = FileHandle::new(1, &[0; HANDLE + 1]).unwrap();
        assert!(Key::of_handle(&long, MountId(0)).is_none());
        assert!(Key::of_inode(1, 2).handle().is_none());
    }

    #[test]
    fn mounts_tell_equal_handles_apart() {
        let handle = FileHandle::new(1, &[1; 8]).unwrap();
        let [one, other] = [0, 1].map(|mount| Key::of_handle(&handle, MountId(mount)).unwrap());
        assert_ne!(one, other);
        assert_ne!(one.hash(5), other.hash(5));
    }
}
