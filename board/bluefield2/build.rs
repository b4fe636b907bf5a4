//! Compile the shim against the libsnap that is installed, bind Rust to the shim, and say which libsnap it was.
//!
//! `SNAP_PREFIX` names where libsnap's `include` and `lib` are; without it `/usr` and `/usr/local/snap` are looked at.
//! `SNAP_ASYNC=1` is for a libsnap in which requests may end after their handler returned; stock libsnap would take
//! each of them for failed.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const SHIM: &str = "board/bluefield2/snap_shim.c";
const HEADER: &str = "board/bluefield2/snap_shim.h";
/// The header by which libsnap is known, and in which it is told from the emulated one.
const KNOWN_BY: &str = "include/snap_virtio_fs_ctrl.h";
const LIBRARIES: [&str; 3] = ["snap-virtio-fs-ctrl", "snap", "ibverbs"];

pub fn build() -> Result<(), Box<dyn Error>> {
    for file in [SHIM, HEADER, "board/bluefield2/build.rs"] {
        println!("cargo::rerun-if-changed={file}");
    }
    for variable in ["SNAP_PREFIX", "SNAP_ASYNC"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let prefix = find()?;
    println!(
        "cargo::rerun-if-changed={}",
        prefix.join("include").display()
    );
    let later = match env::var("SNAP_ASYNC").as_deref() {
        Err(_) | Ok("" | "0") => false,
        Ok("1") => true,
        Ok(other) => return Err(format!("SNAP_ASYNC: found {other:?}; allowed: 0, 1").into()),
    };
    let out = PathBuf::from(env::var("OUT_DIR")?);
    compile(&prefix, later)?;
    let lib = library_folder(&prefix)?;
    try_link(&out, &lib)?;
    bind(&out)?;
    println!("cargo::rustc-link-search=native={}", lib.display());
    for library in LIBRARIES {
        println!("cargo::rustc-link-lib=dylib={library}");
    }
    if prefix != Path::new("/usr") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    }
    let emulated = fs::read_to_string(prefix.join("include/snap.h"))?.contains("SNAP_EMULATION");
    let kind = if emulated {
        "the emulated libsnap"
    } else {
        "libsnap"
    };
    let completion = if later {
        "requests may end later"
    } else {
        "requests end in their handler"
    };
    println!(
        "cargo::warning=SNAP HAL: {kind} in {}, {completion}",
        prefix.display()
    );
    Ok(())
}

/// Look for libsnap.
fn find() -> Result<PathBuf, String> {
    let places: Vec<PathBuf> = match env::var_os("SNAP_PREFIX") {
        Some(prefix) if !prefix.is_empty() => vec![prefix.into()],
        _ => vec!["/usr".into(), "/usr/local/snap".into()],
    };
    let found = places.iter().find(|prefix| prefix.join(KNOWN_BY).is_file());
    found.cloned().ok_or_else(|| {
        let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        format!(
            "the feature snap needs libsnap: no {KNOWN_BY} in {}; SNAP_PREFIX names another place, and \
             board/snap-emu/install makes an emulated one",
            places.join(", ")
        )
    })
}

/// The package puts libraries into a folder of the architecture, a build from source does not.
fn library_folder(prefix: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let folders = [
        format!("lib/{arch}-linux-gnu"),
        "lib64".into(),
        "lib".into(),
    ];
    let mut folders = folders.iter().map(|folder| prefix.join(folder));
    let found = folders.find(|folder| folder.join("libsnap.so").exists());
    Ok(found.ok_or_else(|| {
        format!(
            "headers of libsnap, but no libsnap.so, in {}",
            prefix.display()
        )
    })?)
}

fn compile(prefix: &Path, later: bool) -> Result<(), cc::Error> {
    let mut shim = cc::Build::new();
    shim.file(SHIM)
        .include(prefix.join("include"))
        .std("gnu11")
        .warnings_into_errors(true)
        .flag("-Werror=implicit-function-declaration")
        // Theirs are not ours to judge.
        .warnings(false)
        .cargo_metadata(true);
    if later {
        shim.define("DPFS_SNAP_ASYNC", None);
    }
    shim.try_compile("dpfs_snap_shim")
}

/// Link the shim by itself, so that a symbol which is missing is named now and not in the middle of a program.
fn try_link(out: &Path, lib: &Path) -> Result<(), Box<dyn Error>> {
    let mut link = cc::Build::new().get_compiler().to_command();
    link.args(["-shared", "-Wl,-z,defs", "-o"])
        .arg(out.join("snap_link_test.so"))
        .args(["-Wl,--whole-archive"])
        .arg(out.join("libdpfs_snap_shim.a"))
        .args(["-Wl,--no-whole-archive", "-L"])
        .arg(lib)
        .args(LIBRARIES.map(|library| format!("-l{library}")));
    run(&mut link)
}

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("this libsnap lacks what the shim calls:\n{why}").into())
}

fn bind(out: &Path) -> Result<(), Box<dyn Error>> {
    let bindings = bindgen::Builder::default()
        .header(HEADER)
        .allowlist_file(HEADER)
        .use_core()
        .blocklist_type("iovec")
        .raw_line("use libc::iovec;")
        .generate()?;
    bindings.write_to_file(out.join("snap_shim.rs"))?;
    Ok(())
}
