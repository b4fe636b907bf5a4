//! See [`dpfs_fuzz::vhost_user_message`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    dpfs_fuzz::vhost_user_message::run(data);
});
