//! See [`dpfs_fuzz::resp_reply`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    dpfs_fuzz::resp_reply::run(data);
});
