//! Copying what is not looked at again soon, past the processor's caches.
//!
//! A plain copy fetches each line that it is about to overwrite, and has other lines make room for it. For content that
//! is kept until a server has it on disk, and is hardly ever read, both are lost time: with 1 MiB WRITEs over NFS a plain copy was
//! a third of the daemon's processor time, one by non-temporal stores is a tenth. Where there are none that pay (all
//! processors but x86_64), and for a few bytes, this is a plain copy.

/// Bytes below which a plain copy is as good.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const FEW: usize = 1024;

/// Copy bytes; other threads see them behind whatever this one does next.
///
/// # Safety
/// As for [`core::ptr::copy_nonoverlapping`].
#[inline]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, count: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if count >= FEW {
        // SAFETY: the caller's promise.
        return unsafe { stream(from, to, count) };
    }
    // SAFETY: the caller's promise.
    unsafe { core::ptr::copy_nonoverlapping(from, to, count) };
}

/// Copy by stores of whole lines, and what is before the first and behind the last line by plain ones.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn stream(from: *const u8, to: *mut u8, count: usize) {
    use core::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};

    const LINE: usize = 64;
    let before = to.align_offset(LINE).min(count);
    let behind = count - (count - before) % LINE;
    // SAFETY: all places are within the caller's `count` bytes, and those of the stores are aligned to a line. SSE2 is
    // part of x86_64.
    unsafe {
        core::ptr::copy_nonoverlapping(from, to, before);
        for at in (before..behind).step_by(LINE) {
            let from = from.add(at).cast::<__m128i>();
            let line = [0, 1, 2, 3].map(|part| _mm_loadu_si128(from.add(part)));
            let to = to.add(at).cast::<__m128i>();
            for (part, bytes) in line.into_iter().enumerate() {
                _mm_stream_si128(to.add(part), bytes);
            }
        }
        core::ptr::copy_nonoverlapping(from.add(behind), to.add(behind), count - behind);
        // These stores keep no order with others.
        _mm_sfence();
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn all_bytes_come_and_no_others_change() {
        let from: Vec<u8> = (0..9000u32).map(|at| (at * 7 + at / 256) as u8).collect();
        for skip in [0, 1, 15, 63, 64] {
            for start in [0, 1, 16, 33, 64] {
                for count in [0, 1, 64, 1023, 1024, 1025, 4096, 8191] {
                    let mut to = vec![0xee; 9000];
                    let (source, target) = (&from[skip..][..count], &mut to[start..][..count]);
                    // SAFETY: two slices of this length.
                    unsafe { super::copy(source.as_ptr(), target.as_mut_ptr(), count) };
                    assert_eq!(target, source);
                    let others = to[..start].iter().chain(&to[start + count..]);
                    assert!(others.clone().all(|byte| *byte == 0xee));
                }
            }
        }
    }
}
