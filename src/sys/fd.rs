//! File descriptors.

/// Own a file descriptor; it is closed on drop.
#[derive(Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Fd(i32);

impl Fd {
    /// Take over a descriptor.
    ///
    /// # Safety
    /// `raw` must be open and owned by nobody else.
    pub const unsafe fn from_raw(raw: i32) -> Self {
        Self(raw)
    }

    /// Give the number, for the time that this owner lives.
    pub const fn raw(&self) -> i32 {
        self.0
    }

    /// Give the number away; the receiver closes it.
    pub fn into_raw(self) -> i32 {
        let raw = self.0;
        core::mem::forget(self);
        raw
    }

    /// Close it and hear of what close(2) reports: what became of earlier writes, on some file systems.
    ///
    /// # Errors
    /// As close(2); the descriptor is closed in any case.
    pub fn close(self) -> super::Result<()> {
        // SAFETY: the descriptor is ours and given up here.
        super::check(unsafe { libc::close(self.into_raw()) })?;
        Ok(())
    }

    /// Make another descriptor of the same open file.
    ///
    /// # Errors
    /// `EMFILE` when the process has no more descriptors.
    pub fn duplicate(&self) -> super::Result<Self> {
        // SAFETY: plain call; a new descriptor is ours alone.
        let raw = super::check(unsafe { libc::fcntl(self.0, libc::F_DUPFD_CLOEXEC, 0) })?;
        Ok(Self(raw))
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours and not used again. An error of close leaves it closed on Linux.
        unsafe { libc::close(self.0) };
    }
}
