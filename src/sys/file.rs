//! Opening files: by name under a directory, by handle, again through `/proc/self/fd`.
//!
//! Names are resolved by the kernel under rules that the caller states (openat2(2)); nothing here follows a symbolic
//! link unless told to.

use core::ffi::CStr;
use core::mem::size_of;

use super::fd::Fd;
use super::{Result, check, check_size};
use crate::wire::errno::Errno;

/// Call openat2(2): `flags` are this machine's `O_*`, `resolve` is `RESOLVE_*`. The descriptor closes on exec.
///
/// # Errors
/// As openat2(2); `EAGAIN` with `RESOLVE_CACHED` when the name is not in the kernel's cache.
pub fn openat2(dir: i32, name: &CStr, flags: i32, mode: u32, resolve: u64) -> Result<Fd> {
    // SAFETY: all zero is a valid `open_how`.
    let mut how: libc::open_how = unsafe { core::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = resolve;
    // SAFETY: the name is terminated and the structure is as long as stated; the kernel only reads both.
    let raw = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            dir,
            name.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    let raw = check(raw as i32)?;
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { Fd::from_raw(raw) })
}

/// Call openat(2), which follows symbolic links unless `O_NOFOLLOW` is given. The descriptor closes on exec.
///
/// # Errors
/// As openat(2).
pub fn openat(dir: i32, name: &CStr, flags: i32) -> Result<Fd> {
    // SAFETY: the name is terminated; without O_CREAT there is no mode.
    let raw = check(unsafe { libc::openat(dir, name.as_ptr(), flags | libc::O_CLOEXEC) })?;
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { Fd::from_raw(raw) })
}

/// Hold a file handle: the name of a file that outlives its descriptors (name_to_handle_at(2)).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FileHandle {
    len: u32,
    kind: i32,
    bytes: [u8; Self::MAX],
}

impl FileHandle {
    /// Longest handle in bytes (`MAX_HANDLE_SZ`).
    pub const MAX: usize = 128;

    /// Put a handle together again; `None` when it is too long.
    pub fn new(kind: i32, bytes: &[u8]) -> Option<Self> {
        let mut handle = Self {
            len: bytes.len() as u32,
            kind,
            bytes: [0; Self::MAX],
        };
        handle.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(handle)
    }

    /// Give the file system's own type number.
    pub const fn kind(&self) -> i32 {
        self.kind
    }

    /// Give the bytes, at most [`Self::MAX`].
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..(self.len as usize).min(Self::MAX)]
    }
}

/// Name the file of a descriptor by handle. Gives the number of its mount too.
///
/// # Errors
/// `EOPNOTSUPP` where the file system has no handles, `EOVERFLOW` where they are longer than [`FileHandle::MAX`].
pub fn name_to_handle(fd: i32) -> Result<(FileHandle, i32)> {
    let mut handle = FileHandle {
        len: FileHandle::MAX as u32,
        kind: 0,
        bytes: [0; FileHandle::MAX],
    };
    let mut mount = 0;
    // SAFETY: the structure is laid out as `struct file_handle` with room for as many bytes as `len` says.
    check(unsafe {
        libc::name_to_handle_at(
            fd,
            c"".as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    })?;
    Ok((handle, mount))
}

/// Open the file of a handle; `mount` is any descriptor of its mount, not an `O_PATH` one.
///
/// # Errors
/// `ESTALE` when the file is gone, `EPERM` without CAP_DAC_READ_SEARCH, and as open(2).
pub fn open_by_handle(mount: i32, handle: &FileHandle, flags: i32) -> Result<Fd> {
    let mut handle = *handle;
    handle.len = handle.len.min(FileHandle::MAX as u32);
    // SAFETY: laid out as `struct file_handle`, with at least `len` bytes; the kernel only reads it.
    let raw = check(unsafe {
        libc::open_by_handle_at(mount, (&raw mut handle).cast(), flags | libc::O_CLOEXEC)
    })?;
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { Fd::from_raw(raw) })
}

/// Hold a descriptor's number as text: its name in `/proc/self/fd`.
#[derive(Clone, Copy)]
pub struct FdName([u8; 12]);

impl FdName {
    /// Write the number down.
    pub fn new(fd: i32) -> Self {
        let mut digits = [0; 12];
        let mut at = digits.len() - 1;
        let mut left = fd.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        digits.copy_within(at.., 0);
        Self(digits)
    }

    /// Give the name.
    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

/// Clone the mount that a path is on, with the mounts below, detached from every namespace: its root is the path, so
/// ".." ends there. The descriptor is an `O_PATH` one.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN, `ENOSYS` before Linux 5.2.
pub fn clone_tree(dir: i32, path: &CStr) -> Result<Fd> {
    const AT_RECURSIVE: u32 = 0x8000;
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | AT_RECURSIVE
        | libc::AT_EMPTY_PATH as u32
        | libc::AT_NO_AUTOMOUNT as u32;
    // SAFETY: the path is terminated and only read.
    let raw = unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) };
    let raw = check(raw as i32)?;
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { Fd::from_raw(raw) })
}

/// Set attributes (`MOUNT_ATTR_*`) of a detached mount and those below it.
///
/// # Errors
/// `ENOSYS` before Linux 5.12, `EPERM` without CAP_SYS_ADMIN.
pub fn restrict_tree(tree: i32, attributes: u64) -> Result<()> {
    const AT_RECURSIVE: u32 = 0x8000;
    // SAFETY: all zero is a valid `mount_attr`.
    let mut attr: libc::mount_attr = unsafe { core::mem::zeroed() };
    attr.attr_set = attributes;
    // SAFETY: the structure is as long as stated; the kernel only reads it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH as u32 | AT_RECURSIVE,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    check(done as i32)?;
    Ok(())
}

/// Raise the limit of open descriptors to what is allowed; gives the limit that holds then.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel fills the structure.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 0;
    }
    let raised = libc::rlimit {
        rlim_cur: limit.rlim_max,
        rlim_max: limit.rlim_max,
    };
    // SAFETY: the kernel only reads the structure.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
        limit = raised;
    }
    limit.rlim_cur
}

/// Fill `bytes` with random numbers of the kernel.
///
/// # Errors
/// `ENOSYS` never on a Linux of this decade; `EIO` when fewer came.
pub fn random(bytes: &mut [u8]) -> Result<()> {
    // SAFETY: the kernel writes at most `len` bytes.
    let got = check_size(unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) })?;
    if got == bytes.len() {
        Ok(())
    } else {
        Err(Errno::EIO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_names_are_decimal() {
        for (fd, name) in [
            (0, c"0"),
            (7, c"7"),
            (1234, c"1234"),
            (i32::MAX, c"2147483647"),
        ] {
            assert_eq!(FdName::new(fd).as_c_str(), name);
        }
    }

    #[test]
    fn a_handle_finds_its_file_again_or_none() {
        let root = openat(libc::AT_FDCWD, c"/", libc::O_PATH | libc::O_DIRECTORY).unwrap();
        let Ok((handle, _)) = name_to_handle(root.raw()) else {
            return;
        };
        let again = FileHandle::new(handle.kind(), handle.bytes()).unwrap();
        assert_eq!(again.bytes(), handle.bytes());
        assert!(FileHandle::new(1, &[0; 129]).is_none());
    }
}
