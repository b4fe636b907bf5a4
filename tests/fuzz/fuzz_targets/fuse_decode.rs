//! See [`dpfs_fuzz::fuse_decode`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    dpfs_fuzz::fuse_decode::run(data);
});
