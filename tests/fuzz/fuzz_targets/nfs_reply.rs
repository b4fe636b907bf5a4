//! See [`dpfs_fuzz::nfs_reply`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    dpfs_fuzz::nfs_reply::run(data);
});
