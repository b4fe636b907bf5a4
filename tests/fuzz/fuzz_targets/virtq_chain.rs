//! See [`dpfs_fuzz::virtq_chain`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    dpfs_fuzz::virtq_chain::run(data);
});
