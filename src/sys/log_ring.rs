//! The deferred log's end in this process: a ring of bytes in shared memory (feature `defmt`).
//!
//! A record is encoded straight into the ring under a lock, a hundred nanoseconds or so; the oldest are overwritten.
//! Records end in a zero byte and contain none, so a reader that begins anywhere finds the next one's beginning. What is
//! logged before [`install`] is lost.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::map::SharedMap;

/// Hold a mapped ring.
struct Ring {
    /// Kept for ever; the pointers below lead into it.
    _map: SharedMap,
    /// Bytes written since the beginning of time; the position in the ring is this modulo its length.
    written: *const AtomicU64,
    bytes: *mut u8,
    len: usize,
}

impl Ring {
    /// Take up a mapping: at `written` stands the counter, from `header` on to the end the ring.
    fn new(map: SharedMap, written: usize, header: usize) -> Self {
        assert!(written.is_multiple_of(8) && written + 8 <= header && header < map.len());
        let base = map.base();
        // SAFETY: both lie within the mapping, which is aligned to a page and lives as long as the ring.
        let (written, bytes) = unsafe { (base.add(written).cast(), base.add(header)) };
        Self {
            len: map.len() - header,
            written,
            bytes,
            _map: map,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        // SAFETY: `new` checked alignment and extent; other processes read the counter only.
        let counter = unsafe { &*self.written };
        let written = counter.load(Ordering::Relaxed);
        let at = (written % self.len as u64) as usize;
        // What is longer than the ring is no record; its end is all that could stay.
        let bytes = &bytes[bytes.len().saturating_sub(self.len)..];
        let (first, rest) = bytes.split_at(bytes.len().min(self.len - at));
        // SAFETY: `at` lies within the ring, the first part ends at its end at the latest, the rest is shorter than
        // what stands before `at`. Only the holder of the lock writes; readers of other processes check the counter
        // again after they copied.
        unsafe {
            core::ptr::copy_nonoverlapping(first.as_ptr(), self.bytes.add(at), first.len());
            core::ptr::copy_nonoverlapping(rest.as_ptr(), self.bytes, rest.len());
        }
        counter.store(written + bytes.len() as u64, Ordering::Release);
    }
}

/// What the lock guards.
struct Log {
    ring: Option<Ring>,
    encoder: defmt::Encoder,
}

struct Shared {
    locked: AtomicBool,
    log: UnsafeCell<Log>,
}

// SAFETY: `log` is only reached by the holder of the lock. The ring's pointers are bound to no thread.
unsafe impl Sync for Shared {}

static SHARED: Shared = Shared {
    locked: AtomicBool::new(false),
    log: UnsafeCell::new(Log {
        ring: None,
        encoder: defmt::Encoder::new(),
    }),
};

impl Shared {
    fn lock(&self) {
        while self.locked.swap(true, Ordering::Acquire) {
            core::hint::spin_loop();
        }
    }

    fn unlock(&self) {
        self.locked.store(false, Ordering::Release);
    }

    /// # Safety
    /// The calling thread holds the lock, and no other reference of this function is alive.
    #[expect(
        clippy::mut_from_ref,
        reason = "the lock makes the reference the only one"
    )]
    unsafe fn log(&self) -> &mut Log {
        // SAFETY: as the caller promises.
        unsafe { &mut *self.log.get() }
    }
}

/// Log into a mapping from now on: at byte `written` it has a counter, from byte `header` on the ring.
///
/// # Panics
/// When the counter is not aligned, or the parts do not fit into the mapping.
pub fn install(map: SharedMap, written: usize, header: usize) {
    let ring = Ring::new(map, written, header);
    SHARED.lock();
    // SAFETY: the lock is held, and nothing below takes another reference.
    unsafe { SHARED.log() }.ring = Some(ring);
    SHARED.unlock();
}

#[defmt::global_logger]
struct Logger;

fn emit(ring: &mut Option<Ring>) -> impl FnMut(&[u8]) {
    move |bytes| {
        if let Some(ring) = ring {
            ring.push(bytes);
        }
    }
}

// SAFETY: `acquire` takes a lock that `release` gives back, so records of several threads do not mix. Formatting a
// record logs nothing itself, so no thread takes the lock twice.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        SHARED.lock();
        // SAFETY: the lock is held.
        let log = unsafe { SHARED.log() };
        log.encoder.start_frame(emit(&mut log.ring));
    }

    unsafe fn flush() {}

    unsafe fn release() {
        // SAFETY: called between `acquire` and this, so the lock is held.
        let log = unsafe { SHARED.log() };
        log.encoder.end_frame(emit(&mut log.ring));
        SHARED.unlock();
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: called between `acquire` and `release`, so the lock is held.
        let log = unsafe { SHARED.log() };
        log.encoder.write(bytes, emit(&mut log.ring));
    }
}

defmt::timestamp!("{=u64:iso8601ms}", {
    let (seconds, nanoseconds) = super::time::wall();
    seconds as u64 * 1000 + u64::from(nanoseconds) / 1_000_000
});

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::vec::Vec;

    const HEADER: usize = 16;

    fn ring(len: usize) -> (Ring, std::fs::File) {
        let file = tempfile::tempfile().unwrap();
        file.set_len((HEADER + len) as u64).unwrap();
        let map = SharedMap::new(file.as_raw_fd(), 0, HEADER + len, true).unwrap();
        (Ring::new(map, 8, HEADER), file)
    }

    fn content(file: &std::fs::File) -> (u64, Vec<u8>) {
        use std::os::unix::fs::FileExt;
        let mut all = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut all, 0).unwrap();
        let written = u64::from_le_bytes(all[8..16].try_into().unwrap());
        (written, all.split_off(HEADER))
    }

    #[test]
    fn the_oldest_bytes_are_overwritten() {
        let (mut ring, file) = ring(8);
        ring.push(b"abcdef");
        assert_eq!(content(&file), (6, b"abcdef\0\0".to_vec()));
        ring.push(b"ghij");
        assert_eq!(content(&file), (10, b"ijcdefgh".to_vec()));
        ring.push(b"0123456789");
        assert_eq!(content(&file).0, 18);
    }
}
