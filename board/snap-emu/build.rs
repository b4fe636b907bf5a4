//! Bind to the headers of the emulated library: what C programs are compiled against is what is implemented.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=include");
    let bindings = bindgen::Builder::default()
        .header("include/snap_virtio_fs_ctrl.h")
        .clang_arg("-Iinclude")
        .allowlist_file("include/.*")
        // What is declared there is defined here.
        .ignore_functions()
        .blocklist_type("iovec")
        .raw_line("use libc::iovec;")
        .prepend_enum_name(false)
        .generate()?;
    let out = std::env::var("OUT_DIR")?;
    bindings.write_to_file(Path::new(&out).join("snap.rs"))?;
    // Another name than the file that cargo makes: it puts that in the way of programs that it runs, even an old one.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libsnap-emulated.so");
    Ok(())
}
