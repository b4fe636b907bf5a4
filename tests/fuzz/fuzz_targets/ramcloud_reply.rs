//! See [`dpfs_fuzz::ramcloud_reply`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    dpfs_fuzz::ramcloud_reply::run(data);
});
