//! The library from C: `install` puts it somewhere, a program finds it through pkg-config, embeds it and runs.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const HOST: &str = "x86_64-unknown-linux-gnu";
const ARM: &str = "aarch64-unknown-linux-gnu";

/// What the library may ask its program for: the libc's.
const NEEDED: [&str; 7] = [
    "__errno_location",
    "abort",
    "clock_gettime",
    "getauxval",
    "memcpy",
    "memset",
    "write",
];

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Tell whether this machine compiles for arm64 and runs what comes of it.
fn has_arm() -> bool {
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let libraries = run(Command::new("rustc").args(["--print", "target-libdir", "--target", ARM]));
    let all = there("aarch64-linux-gnu-gcc")
        && there("qemu-aarch64")
        && Path::new(text(&libraries).trim()).is_dir();
    if !all {
        println!("NOT RUN for arm64: no compiler or no qemu-aarch64 (tests/tools installs them)");
    }
    all
}

/// Build and install the library of the source in `top`.
fn install(top: &Path, prefix: &Path, target: &str) {
    run(Command::new(top.join("src/capi/install"))
        .arg(prefix)
        .arg(target)
        .current_dir(prefix.parent().unwrap()));
}

/// Compile `source` against what was installed.
fn compile(compiler: &str, flags: &[&str], source: &Path, prefix: &Path, program: &Path) {
    let found = run(Command::new("pkg-config")
        .args(["--cflags", "--libs", "dpfs"])
        .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")));
    let found = text(&found);
    let found = found.split_whitespace();
    run(Command::new(compiler)
        .args(["-Wall", "-Wextra", "-Werror", "-pedantic"])
        .args(flags)
        .arg(source)
        .args(found)
        .arg("-o")
        .arg(program));
}

/// Give the global names of a kind: `T` defined, `U` undefined.
fn names(prefix: &Path, tools: &str, kind: &str) -> Vec<String> {
    let output = run(Command::new(format!("{tools}nm"))
        .arg("-g")
        .arg(prefix.join("lib/libdpfs.a")));
    let mut names: Vec<String> = text(&output)
        .lines()
        .filter_map(|line| line.trim_start().rsplit_once(&format!("{kind} ")))
        .map(|(_, name)| name.to_string())
        .collect();
    names.sort();
    names
}

/// Give the functions that the header declares.
fn declared() -> Vec<String> {
    let header = fs::read_to_string(here().join("dpfs.h")).unwrap();
    let mut names: Vec<String> = header
        .lines()
        .filter(|line| line.contains('(') && !line.starts_with([' ', '/', '*']))
        .filter_map(|line| line.split('(').next()?.rsplit([' ', '*']).next())
        .filter(|name| name.starts_with("dpfs_"))
        .map(String::from)
        .collect();
    names.sort();
    names
}

#[test]
fn a_program_in_c_embeds_it() {
    let dir = TempDir::new().unwrap();
    let embed = here().join("tests/embed.c");
    let top = here().join("../..");
    for (target, tools) in [(HOST, ""), (ARM, "aarch64-linux-gnu-")] {
        if target == ARM && !has_arm() {
            continue;
        }
        let prefix = dir.path().join(target);
        install(&top, &prefix, target);
        let program = dir.path().join(format!("embed-{target}"));
        compile(
            &format!("{tools}gcc"),
            &["-std=c11", "-g"],
            &embed,
            &prefix,
            &program,
        );
        let mut command = if target == ARM {
            let mut command = Command::new("qemu-aarch64");
            command.args(["-cpu", "cortex-a72", "-L", "/usr/aarch64-linux-gnu"]);
            command
        } else {
            let mut command = Command::new("valgrind");
            command.args(["--quiet", "--error-exitcode=99", "--leak-check=no"]);
            command
        };
        let output = run(command.arg(&program));
        assert_eq!(text(&output), "embed: ok\n");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(
            log.contains("dpfs_device_new: host: found 2; allowed: 0, 1"),
            "{log}"
        );

        // What is declared is defined and nothing else, so it can be linked beside any other library; nothing of an
        // unwinder is asked for, so nothing can be unwound into the program.
        assert!(declared().contains(&"dpfs_worker_round".into()));
        assert_eq!(names(&prefix, tools, "T"), declared());
        let needed = names(&prefix, tools, "U");
        assert!(
            needed.iter().all(|name| NEEDED.contains(&name.as_str())),
            "{needed:?}"
        );
        let size = fs::metadata(prefix.join("lib/libdpfs.a")).unwrap().len();
        println!("{target}: libdpfs.a {size} bytes");
        assert!(size < 256 << 10);
    }
}

#[test]
fn the_header_is_cxx_too() {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("version.cc");
    fs::write(
        &source,
        "#include <dpfs.h>\nint main() { return dpfs_version() != DPFS_VERSION; }\n",
    )
    .unwrap();
    let prefix = dir.path().join("prefix");
    install(&here().join("../.."), &prefix, HOST);
    let program = dir.path().join("version");
    compile("g++", &["-std=c++11"], &source, &prefix, &program);
    run(&mut Command::new(program));
}

#[test]
fn the_same_source_gives_the_same_bytes_in_any_folder() {
    let dir = TempDir::new().unwrap();
    let other = dir.path().join("another/place/of/it");
    let copy = format!(
        "mkdir -p '{0}' && tar -C '{1}' --exclude=./target --exclude=./.git -c . | tar -C '{0}' -x",
        other.display(),
        here().join("../..").display()
    );
    run(Command::new("bash").args(["-ec", &copy]));
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    install(&here().join("../.."), &one, HOST);
    install(&other, &two, HOST);
    for file in ["lib/libdpfs.a", "include/dpfs.h", "lib/pkgconfig/dpfs.pc"] {
        let bytes = fs::read(one.join(file)).unwrap();
        assert!(bytes == fs::read(two.join(file)).unwrap(), "{file} differs");
        for word in [
            dir.path().to_str().unwrap(),
            &std::env::var("HOME").unwrap(),
        ] {
            let tells = word.len() > 1 && bytes.windows(word.len()).any(|at| at == word.as_bytes());
            assert!(!tells, "{file}: {word} is in it");
        }
    }
}
