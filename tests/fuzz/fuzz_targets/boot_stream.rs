//! See [`dpfs_fuzz::boot_stream`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    dpfs_fuzz::boot_stream::run(data);
});
