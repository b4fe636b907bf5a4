//! Memory mappings.

use core::mem::MaybeUninit;
use core::sync::atomic::AtomicU64;

use super::{Result, last_error};
use crate::mem::Arena;

/// Reserve `bytes` of zeroed memory for the life of the process. Pages are taken when they are first touched.
///
/// # Errors
/// `ENOMEM` when the address space or the memory limit does not allow it.
pub fn reserve(bytes: usize) -> Result<Arena> {
    let bytes = bytes.max(1);
    // SAFETY: a new anonymous mapping touches nothing that exists.
    let base = unsafe {
        libc::mmap(
            core::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(last_error());
    }
    // SAFETY: the mapping is ours, is never unmapped and reads as zero.
    Ok(unsafe {
        Arena::new(core::slice::from_raw_parts_mut(
            base.cast::<MaybeUninit<u8>>(),
            bytes,
        ))
    })
}

/// Hold a shared mapping of a file: a front-end's memory, a table in a memfd. Unmapped on drop.
#[derive(Debug)]
pub struct SharedMap {
    base: *mut u8,
    len: usize,
}

// SAFETY: a mapping is bound to no thread; its bytes are only reached through raw pointers.
unsafe impl Send for SharedMap {}
// SAFETY: as above.
unsafe impl Sync for SharedMap {}

impl SharedMap {
    /// Map `len` bytes of a file from `offset` on for reading and, with `write`, for writing.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn new(fd: i32, offset: u64, len: usize, write: bool) -> Result<Self> {
        let protection = if write {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        let offset =
            libc::off_t::try_from(offset).map_err(|_| crate::wire::errno::Errno::EINVAL)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                fd,
                offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(last_error());
        }
        Ok(Self {
            base: base.cast(),
            len,
        })
    }

    /// Give the address of the first byte.
    pub const fn base(&self) -> *mut u8 {
        self.base
    }

    /// Put zeroed memory of this process in the place of the file.
    ///
    /// Who still writes here then does no harm to those who share the file.
    ///
    /// # Errors
    /// As mmap(2); the mapping is unchanged then.
    pub fn detach(&self) -> Result<()> {
        // SAFETY: exactly the range that `new` mapped and this value owns. Its bytes are only reached through raw
        // pointers, whose users expect them to change at any time.
        let base = unsafe {
            libc::mmap(
                self.base.cast(),
                self.len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(last_error());
        }
        Ok(())
    }

    /// Give the length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub const fn len(&self) -> usize {
        self.len
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`; who hands out pointers into it keeps the map alive.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// Hold a shared, writable mapping of a file as counters.
#[derive(Debug)]
pub struct SharedWords(SharedMap);

impl SharedWords {
    /// Map the first `count` words of a file that is at least as long.
    ///
    /// Cutting the file afterwards ends the process with `SIGBUS` at the next access.
    ///
    /// # Errors
    /// As mmap(2); `EINVAL` when there are none.
    pub fn new(fd: i32, count: usize) -> Result<Self> {
        SharedMap::new(fd, 0, count * size_of::<AtomicU64>(), true).map(Self)
    }

    /// Give the counters.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping lives as long as `self`, is aligned to a page and writable. An `AtomicU64` may hold any
        // bits and may be changed by others at any time, other processes included.
        unsafe {
            core::slice::from_raw_parts(self.0.base().cast(), self.0.len() / size_of::<AtomicU64>())
        }
    }
}
