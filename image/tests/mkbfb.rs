//! Streams of ours and of NVIDIA's `mlx-mkbfb`, byte for byte, in both directions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use dpfs_image::NAMES;
use tempfile::TempDir;

/// Random sets of images that are compared.
const SETS: usize = 25;

/// What is done to a good stream.
type Damage = fn(&mut Vec<u8>);

/// Images by name and version.
type Set = BTreeMap<(&'static str, u8), Vec<u8>>;

/// Give the real program, from the rig's cache.
fn mkbfb() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let fetched = Command::new(top.join("tests/rig/fetch"))
            .arg("mkbfb")
            .status();
        assert!(fetched.unwrap().success(), "mlx-mkbfb cannot be fetched");
        let cache = std::env::var_os("DPFS_CACHE").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/dpfs"),
            PathBuf::from,
        );
        cache.join("mkbfb/mlx-mkbfb")
    })
}

fn run(program: &Path, dir: &Path, arguments: &[String]) -> Output {
    Command::new(program)
        .current_dir(dir)
        .args(arguments)
        .output()
        .unwrap()
}

fn theirs(dir: &Path, arguments: &[String]) {
    let output = run(mkbfb(), dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

fn ours(dir: &Path, arguments: &[String]) -> Output {
    run(Path::new(env!("CARGO_BIN_EXE_dpfs-image")), dir, arguments)
}

fn ours_well(dir: &Path, arguments: &[String]) -> String {
    let output = ours(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(String::from).collect()
}

/// Images that the real program knows; a name that it does not know would be ours alone.
fn random_set(random: &mut fastrand::Rng) -> Set {
    let mut set = Set::new();
    for _ in 0..random.usize(1..12) {
        let (name, _) = NAMES[random.usize(..NAMES.len())];
        let len = random.usize(1..200);
        let data = (0..len).map(|_| random.u8(..)).collect();
        set.insert((name, random.u8(..3)), data);
    }
    set
}

/// Write the images into files and give the options that name them, for us and for them, in random order.
fn options(random: &mut fastrand::Rng, dir: &Path, tag: &str, set: &Set) -> [Vec<String>; 2] {
    let mut images: Vec<_> = set.iter().collect();
    random.shuffle(&mut images);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for ((name, version), data) in images {
        let file = format!("{tag}-{name}-{version}");
        fs::write(dir.join(&file), data).unwrap();
        let name = match version {
            0 if random.bool() => name.to_string(),
            version => format!("{name}-v{version}"),
        };
        ours.push(format!("--set={name}={file}"));
        theirs.push(format!("--{name}={file}"));
    }
    [ours, theirs]
}

fn with(mut line: Vec<String>, more: &[String]) -> Vec<String> {
    line.extend_from_slice(more);
    line
}

fn same(dir: &Path, a: &str, b: &str) {
    let [a, b] = [a, b].map(|name| fs::read(dir.join(name)).unwrap());
    assert!(!a.is_empty() && a == b, "{} and {} bytes", a.len(), b.len());
}

#[test]
fn streams_and_merged_streams_are_the_same_bytes() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..SETS {
        let dir = TempDir::new().unwrap();
        let dir = dir.path();
        for name in ["base", "delta"] {
            let set = random_set(&mut random);
            let [us, them] = options(&mut random, dir, name, &set);
            ours_well(dir, &with(words(&format!("create {name}.ours")), &us));
            theirs(dir, &with(them, &words(&format!("{name}.theirs"))));
            same(dir, &format!("{name}.ours"), &format!("{name}.theirs"));
        }
        let set = random_set(&mut random);
        let [us, them] = options(&mut random, dir, "more", &set);
        ours_well(
            dir,
            &with(words("merge base.theirs delta.theirs -o merged.ours"), &us),
        );
        theirs(
            dir,
            &with(them, &words("base.ours delta.ours merged.theirs")),
        );
        same(dir, "merged.ours", "merged.theirs");
        ours_well(dir, &words("verify merged.theirs"));
        theirs(dir, &words("-c merged.ours"));
        ours_well(dir, &words("merge base.theirs -o alone.ours"));
        theirs(dir, &words("base.ours alone.theirs"));
        same(dir, "alone.ours", "alone.theirs");
    }
}

#[test]
fn what_one_packs_the_other_unpacks() {
    let mut random = fastrand::Rng::with_seed(8);
    for _ in 0..SETS {
        let dir = TempDir::new().unwrap();
        let dir = dir.path();
        let set = random_set(&mut random);
        let [us, them] = options(&mut random, dir, "in", &set);
        ours_well(dir, &with(words("create made.ours"), &us));
        theirs(dir, &with(them, &words("made.theirs")));
        ours_well(dir, &words("extract --prefix ours- made.theirs"));
        theirs(dir, &words("-x -p theirs- made.ours"));
        for ((name, version), data) in &set {
            for side in ["ours", "theirs"] {
                let file = dir.join(format!("{side}-{name}-v{version}"));
                assert_eq!(&fs::read(file).unwrap(), data, "{side}: {name} {version}");
            }
        }
        let listed = ours_well(dir, &words("list --json made.theirs"));
        assert_eq!(listed.matches("\"crc32\"").count(), set.len());
    }
}

#[test]
fn texts_of_the_command_line_and_its_order_are_taken() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let ours_line = [
        "create",
        "--keep-order",
        "a",
        "--set",
        "image==kernel of one",
        "--set",
        "boot-args==console=hvc0",
    ];
    let theirs_line = [
        "-e",
        "--image==kernel of one",
        "--boot-args==console=hvc0",
        "b",
    ];
    ours_well(dir, &ours_line.map(String::from));
    theirs(dir, &theirs_line.map(String::from));
    same(dir, "a", "b");
}

#[test]
fn what_they_refuse_we_refuse() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let line = [
        "create",
        "good",
        "--set",
        "boot-args==console",
        "--set",
        "image==kernel",
    ];
    ours_well(dir, &line.map(String::from));
    let good = fs::read(dir.join("good")).unwrap();
    let damage: [(&str, Damage); 7] = [
        ("magic", |bytes| bytes[0] ^= 1),
        ("major", |bytes| bytes[4] ^= 2),
        ("minor", |bytes| bytes[4] ^= 0x40),
        ("header", |bytes| bytes[6] ^= 0x10),
        ("crc", |bytes| bytes[12] ^= 1),
        ("data", |bytes| bytes[24] ^= 1),
        ("cut", |bytes| bytes.truncate(60)),
    ];
    for (what, change) in damage {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(dir.join(what), &bytes).unwrap();
        let their = run(mkbfb(), dir, &words(&format!("-c {what}")));
        let our = ours(dir, &words(&format!("verify {what}")));
        assert!(
            !their.status.success() && !our.status.success(),
            "{what}: {their:?} {our:?}"
        );
        assert!(
            String::from_utf8_lossy(&our.stderr).contains("offset 0x"),
            "{our:?}"
        );
    }
}

#[test]
fn bad_arguments_say_what_is_allowed() {
    let dir = TempDir::new().unwrap();
    for (line, said) in [
        (
            "create out --set initramfz==x",
            "did you mean \"initramfs\"?",
        ),
        (
            "create out --set image-v3==x",
            "version \"3\"; allowed: 0 to 2",
        ),
        ("create out --set image", "allowed: NAME=FILE"),
        ("create out", "at least one --set"),
        ("list nothing", "nothing: No such file"),
        ("create out --set image=nothing", "nothing: No such file"),
    ] {
        let output = ours(dir.path(), &words(line));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && text.contains(said),
            "{line}: {text}"
        );
    }
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is left"
    );
}
