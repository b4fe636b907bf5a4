//! The shim, as bindgen sees it. Its documentation is `board/bluefield2/snap_shim.h`.
#![allow(
    missing_docs,
    non_camel_case_types,
    unreachable_pub,
    dead_code,
    clippy::all
)]

include!(concat!(env!("OUT_DIR"), "/snap_shim.rs"));
