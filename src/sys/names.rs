//! Names in directories: making, removing, renaming and reading them. Names are single components; links are not
//! followed.

use core::ffi::CStr;

use super::{Result, check, check_size};
use crate::wire::errno::Errno;

/// Make a directory.
///
/// # Errors
/// As mkdirat(2).
pub fn mkdir(dir: i32, name: &CStr, mode: u32) -> Result<()> {
    // SAFETY: the name is terminated and only read.
    check(unsafe { libc::mkdirat(dir, name.as_ptr(), mode) })?;
    Ok(())
}

/// Make a file, device node, FIFO or socket; `mode` holds the type.
///
/// # Errors
/// As mknodat(2).
pub fn mknod(dir: i32, name: &CStr, mode: u32, major: u32, minor: u32) -> Result<()> {
    let device = libc::makedev(major, minor);
    // SAFETY: the name is terminated and only read.
    check(unsafe { libc::mknodat(dir, name.as_ptr(), mode, device) })?;
    Ok(())
}

/// Make a symbolic link.
///
/// # Errors
/// As symlinkat(2).
pub fn symlink(target: &CStr, dir: i32, name: &CStr) -> Result<()> {
    // SAFETY: both strings are terminated and only read.
    check(unsafe { libc::symlinkat(target.as_ptr(), dir, name.as_ptr()) })?;
    Ok(())
}

/// Make a hard link to the file of a descriptor. `links` is a descriptor of `/proc/self/fd`.
///
/// # Errors
/// As linkat(2).
pub fn link(fd: i32, links: i32, dir: i32, name: &CStr) -> Result<()> {
    // SAFETY: both names are terminated and only read.
    let done =
        check(unsafe { libc::linkat(fd, c"".as_ptr(), dir, name.as_ptr(), libc::AT_EMPTY_PATH) });
    // Without CAP_DAC_READ_SEARCH the empty path is "no such file"; the way over /proc is open to everyone.
    if done != Err(Errno::ENOENT) {
        return done.map(|_| ());
    }
    let own = super::file::FdName::new(fd);
    // SAFETY: as above.
    check(unsafe {
        libc::linkat(
            links,
            own.as_c_str().as_ptr(),
            dir,
            name.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    })?;
    Ok(())
}

/// Remove a name: of a directory with `AT_REMOVEDIR` in `flags`, else of anything else.
///
/// # Errors
/// As unlinkat(2).
pub fn unlink(dir: i32, name: &CStr, flags: i32) -> Result<()> {
    // SAFETY: the name is terminated and only read.
    check(unsafe { libc::unlinkat(dir, name.as_ptr(), flags) })?;
    Ok(())
}

/// Rename; `flags` are `RENAME_*`.
///
/// # Errors
/// As renameat2(2).
pub fn rename(dir: i32, name: &CStr, new_dir: i32, new_name: &CStr, flags: u32) -> Result<()> {
    // SAFETY: both names are terminated and only read. The number is the system call's; old C libraries lack the
    // function.
    let done = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            dir,
            name.as_ptr(),
            new_dir,
            new_name.as_ptr(),
            flags,
        )
    };
    check(done as i32)?;
    Ok(())
}

/// Read the target of a symbolic link that `link` is an `O_PATH` descriptor of; gives its length, at most the
/// buffer's.
///
/// # Errors
/// `ENOENT` for a descriptor of anything else.
pub fn readlink(link: i32, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `len` bytes of the buffer.
    check_size(unsafe {
        libc::readlinkat(link, c"".as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
    })
}

/// Read directory records from an open directory's position on; zero bytes at its end.
///
/// # Errors
/// As getdents64(2); `EINVAL` when not even one fits.
pub fn getdents(dir: i32, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `len` bytes of the buffer.
    let count =
        unsafe { libc::syscall(libc::SYS_getdents64, dir, buffer.as_mut_ptr(), buffer.len()) };
    check_size(count as isize)
}

/// Set the position of an open file or directory; gives the new one.
///
/// # Errors
/// As lseek(2).
pub fn seek(fd: i32, offset: u64, whence: i32) -> Result<u64> {
    let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    // SAFETY: plain call.
    let at = unsafe { libc::lseek(fd, offset, whence) };
    u64::try_from(at).map_err(|_| super::last_error())
}

/// Hold one directory record.
#[derive(Clone, Copy, Debug)]
pub struct DirRecord<'a> {
    /// Inode number.
    pub ino: u64,
    /// Position of the next record, opaque, as a signed number's bits.
    pub next: u64,
    /// Type, `DT_*`.
    pub kind: u8,
    /// Name.
    pub name: &'a CStr,
}

/// Walk through what [`getdents`] read.
#[derive(Clone, Debug)]
pub struct DirRecords<'a>(&'a [u8]);

impl<'a> DirRecords<'a> {
    /// Begin with the bytes that were filled.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Give the number of bytes that are left.
    pub const fn left(&self) -> usize {
        self.0.len()
    }
}

impl<'a> Iterator for DirRecords<'a> {
    type Item = DirRecord<'a>;

    fn next(&mut self) -> Option<DirRecord<'a>> {
        // struct linux_dirent64: u64 ino, s64 off, u16 reclen, u8 type, name.
        let (ino, rest) = self.0.split_first_chunk::<8>()?;
        let (off, rest) = rest.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first_chunk::<2>()?;
        let (kind, _) = rest.split_first()?;
        let len = usize::from(u16::from_ne_bytes(*len));
        let name = CStr::from_bytes_until_nul(self.0.get(19..len)?).ok()?;
        self.0 = self.0.get(len..)?;
        Some(DirRecord {
            ino: u64::from_ne_bytes(*ino),
            next: u64::from_ne_bytes(*off),
            kind: *kind,
            name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_end_where_their_bytes_do() {
        let mut bytes = [0; 48];
        for (at, name) in [(0, b'a'), (24, b'b')] {
            bytes[at] = 7;
            bytes[at + 8] = 9;
            bytes[at + 16] = 24;
            bytes[at + 18] = 4;
            bytes[at + 19] = name;
        }
        let mut records = DirRecords::new(&bytes);
        assert_eq!(records.next().unwrap().name, c"a");
        let second = records.next().unwrap();
        assert_eq!((second.ino, second.next, second.kind), (7, 9, 4));
        assert!(records.next().is_none());
        for cut in 0..24 {
            assert!(DirRecords::new(&bytes[..cut]).next().is_none());
        }
    }
}
