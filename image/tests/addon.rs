//! The add-on in a customer's stream: what is in it, what stays as it was, the same bytes again, and what the real
//! `mlx-mkbfb` makes of the delta.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Wish, ours, ours_well, sh};
use tempfile::TempDir;

const INFO: &str = r#"{"@odata.id": "/redfish/v1/UpdateService/SoftwareInventory", "Name": "BFB File Content",
    "Members": [{"@odata.id": "/redfish/v1/UpdateService/SoftwareInventory/1", "Id": "1", "Name": "BF2_ATF",
    "Version": "4.13", "SoftwareId": "cap"}], "Members@odata.count": 1}"#;

const OUT: &str = "out/dpfs-0.1.0-bluefield2";

/// Make a folder with a customer's stream: an installer and systemd in the initramfs, links among its folders.
fn folder(more: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    let path = dir.path();
    let program = common::fetch("debian-arm64").join("usr/bin/true");
    let wish = Wish {
        forms: "[\"repack\", \"delta\", \"bf.cfg\"]",
        program,
        pci: "[\"15b3:a2d6\"]",
        more,
    };
    wish.describe(&path.join("addon.toml"));
    fs::write(path.join("info.json"), INFO).unwrap();
    sh(
        path,
        "mkdir -p old/usr/{bin,lib/systemd} old/debian/install.env old/etc old/mnt
         ln -s usr/bin old/bin; ln -s bin old/usr/sbin; ln -s usr/lib old/lib
         echo systemd >old/usr/lib/systemd/systemd; echo kept >old/etc/kept
         printf '. ${BDIR}/install.env/common' >old/debian/install.sh
         printf 'log() { :; }' >old/debian/install.env/common; chmod 755 old/debian/install.env/common
         find old -exec touch -h -d @1600000000 {} +",
    );
    fs::write(path.join("initramfs"), packed(path)).unwrap();
    for (name, text) in [
        ("bl2", "firmware"),
        ("image", "kernel"),
        ("boot-args", "console=hvc0 initrd=initramfs"),
    ] {
        fs::write(path.join(name), text).unwrap();
    }
    let sets = [
        "bl2-v1=bl2",
        "boot-args=boot-args",
        "boot-args-v2=boot-args",
        "image=image",
        "initramfs=initramfs",
    ];
    let mut line = vec!["create", "base.bfb", "--set", "info=info.json"];
    line.extend(sets.iter().flat_map(|set| ["--set", set]));
    ours_well(path, &line);
    dir
}

/// Pack the old initramfs so that the bytes are the same each time.
fn packed(path: &Path) -> Vec<u8> {
    let added = dpfs_image::initramfs::overlay(&path.join("old")).unwrap();
    let empty = sh(path, "cpio --quiet -H newc -o </dev/null");
    let plain = dpfs_image::initramfs::merge(empty.as_bytes(), &added, 1_600_000_000).unwrap();
    fs::write(path.join("plain"), plain).unwrap();
    let gzip = Command::new("gzip")
        .args(["-9nc", "plain"])
        .current_dir(path)
        .output()
        .unwrap();
    assert!(gzip.status.success());
    gzip.stdout
}

fn addon(path: &Path) {
    ours_well(
        path,
        &[
            "addon",
            "--description",
            "addon.toml",
            "--base",
            "base.bfb",
            "-o",
            "out",
        ],
    );
}

#[test]
fn the_stream_is_the_old_one_with_dpfs_in_it() {
    let dir = folder("");
    let path = dir.path();
    addon(path);
    ours_well(path, &["verify", &format!("{OUT}.bfb")]);
    ours_well(
        path,
        &["extract", "--prefix", "new-", &format!("{OUT}.bfb")],
    );
    ours_well(path, &["extract", "--prefix", "was-", "base.bfb"]);
    // What installers do: one archive, unpacked by gzip and cpio.
    sh(
        path,
        "mkdir x; cd x; gzip -d <../new-initramfs-v0 | cpio -idm --quiet --no-preserve-owner",
    );
    for same in ["bl2-v1", "boot-args-v0", "boot-args-v2", "image-v0"] {
        let [old, new] =
            ["was", "new"].map(|side| fs::read(path.join(format!("{side}-{same}"))).unwrap());
        assert_eq!(old, new, "{same}");
    }
    // Links among the folders are still links, and what goes through them is behind them.
    assert_eq!(
        sh(path, "readlink x/usr/sbin x/bin x/lib; cat x/etc/kept"),
        "bin\nusr/bin\nusr/lib\nkept\n"
    );
    let program = fs::read(common::fetch("debian-arm64").join("usr/bin/true")).unwrap();
    assert_eq!(fs::read(path.join("x/usr/bin/dpfs")).unwrap(), program);
    assert!(
        fs::metadata(path.join("x/usr/sbin/dpfs"))
            .unwrap()
            .is_file(),
        "the installed path is there, too"
    );
    let unit = "x/etc/systemd/system/initrd.target.wants/dpfs-live.service";
    assert_eq!(
        fs::read_link(path.join(unit)).unwrap(),
        Path::new("/usr/lib/systemd/system/dpfs-live.service")
    );
    let hook = fs::read_to_string(path.join("x/debian/install.env/common")).unwrap();
    assert!(
        hook.starts_with("log() { :; }\n") && hook.matches("# DPFS").count() == 1,
        "{hook}"
    );
    sh(
        path,
        "bash -n x/debian/install.env/common; test -x x/debian/install.env/common",
    );
    let info = fs::read_to_string(path.join("new-info-v0")).unwrap();
    assert!(
        info.contains("\"BF2_ATF\"")
            && info.contains("\"DPFS\"")
            && info.contains("\"Members@odata.count\": 2")
    );
    let sums = sh(
        path,
        "cd out; sha256sum --check SHA256SUMS; wc -l <SHA256SUMS",
    );
    assert!(sums.ends_with("\n4\n"), "{sums}");
    // As with an upgrade of the add-on.
    fs::copy(path.join(format!("{OUT}.bfb")), path.join("base.bfb")).unwrap();
    fs::copy(path.join(format!("{OUT}.bfb")), path.join("once")).unwrap();
    addon(path);
    ours_well(
        path,
        &["extract", "--prefix", "twice-", &format!("{OUT}.bfb")],
    );
    let list = "gzip -d <FILE | cpio -t --quiet | LC_ALL=C sort";
    let [once, twice] = ["new", "twice"]
        .map(|name| sh(path, &list.replace("FILE", &format!("{name}-initramfs-v0"))));
    assert_eq!(once, twice, "nothing is in it twice");
}

#[test]
fn the_real_merger_makes_the_same_stream_of_the_delta() {
    let dir = folder("");
    let path = dir.path();
    addon(path);
    let listed = ours_well(path, &["list", &format!("{OUT}.delta.bfb")]);
    assert_eq!(listed.lines().count(), 3, "info and initramfs: {listed}");
    let mkbfb = common::fetch("mkbfb").join("mlx-mkbfb");
    let run = |arguments: &[&str]| {
        let output = Command::new(&mkbfb)
            .current_dir(path)
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    run(&["base.bfb", &format!("{OUT}.delta.bfb"), "merged.bfb"]);
    let [ours, theirs] =
        [format!("{OUT}.bfb"), "merged.bfb".into()].map(|name| fs::read(path.join(name)).unwrap());
    assert!(ours == theirs, "{} and {} bytes", ours.len(), theirs.len());
    run(&["-c", &format!("{OUT}.bfb")]);
    run(&["-c", &format!("{OUT}.delta.bfb")]);
}

#[test]
fn the_same_input_gives_the_same_bytes_in_any_folder() {
    let made = [folder(""), folder("")].map(|dir| {
        addon(dir.path());
        let mut files: Vec<PathBuf> = fs::read_dir(dir.path().join("out"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        let read = |path: &PathBuf| {
            (
                path.file_name().unwrap().to_owned(),
                fs::read(path).unwrap(),
            )
        };
        let files: Vec<_> = files.iter().map(read).collect();
        let here = dir.path().to_str().unwrap().as_bytes();
        for (name, bytes) in &files {
            for word in [here, common::top().to_str().unwrap().as_bytes()] {
                let tells = bytes.windows(word.len()).any(|window| window == word);
                assert!(!tells, "{name:?} has a path of this machine");
            }
        }
        files
    });
    assert_eq!(made[0].len(), 5);
    for (first, second) in made[0].iter().zip(&made[1]) {
        assert!(first == second, "{:?}", first.0);
    }
}

#[test]
fn the_bill_of_materials_names_what_the_daemon_is_made_of() {
    let dir = folder("");
    addon(dir.path());
    let text = fs::read(dir.path().join(format!("{OUT}.cdx.json"))).unwrap();
    let bom = cyclonedx_bom::prelude::Bom::parse_from_json_v1_5(&*text).unwrap();
    use cyclonedx_bom::prelude::Validate;
    assert!(bom.validate().passed(), "{:?}", bom.validate());
    let names: Vec<String> = bom
        .components
        .unwrap()
        .0
        .iter()
        .map(|component| component.name.to_string())
        .collect();
    for name in ["libc", "io-uring", "redb"] {
        assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
    }
    for name in ["proptest", "tempfile", "dpfs-harness"] {
        assert!(
            !names.iter().any(|known| known == name),
            "{name} is for tests"
        );
    }
}

#[test]
fn what_the_stream_or_the_description_lacks_is_named() {
    let dir = folder("");
    let path = dir.path();
    let refused = |arguments: &[&str], said: &str| {
        let output = ours(
            path,
            &[&["addon", "-o", "out", "--description"], arguments].concat(),
        );
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && text.contains(said),
            "{arguments:?}: {text}"
        );
    };
    refused(&["addon.toml"], "forms repack and delta need --base");
    let wish = |more: &str| {
        let program = common::fetch("debian-arm64").join("usr/bin/true");
        Wish {
            forms: "[\"repack\"]",
            program,
            pci: "[]",
            more,
        }
        .describe(&path.join("other.toml"));
    };
    for (more, said) in [
        (
            "[tuning]\ncores = [1, 8]",
            "other.toml:9: cores: found 8; allowed: 0 to 7, each once",
        ),
        (
            "[tuning]\ncores = [1, 1]",
            "other.toml:9: cores: found 1; allowed: 0 to 7, each once",
        ),
        (
            "[tuning]\ncores = [0, 1, 2, 3, 4, 5, 6, 7]",
            "cores: found all 8; allowed: one less",
        ),
        (
            "[tuning]\nmemlock = \"a b\"",
            "memlock: found \"a b\"; allowed: \"infinity\"",
        ),
        (
            "[configuration]\nfile = \"nothing\"",
            "nothing: No such file",
        ),
        (
            "[configuration]\nfile = \"info.json\"",
            "info.json: this is not TOML",
        ),
    ] {
        wish(more);
        refused(&["other.toml", "--base", "base.bfb"], said);
    }
    wish("");
    sh(path, "mv old/debian away");
    fs::write(path.join("initramfs"), packed(path)).unwrap();
    ours_well(
        path,
        &["create", "bare.bfb", "--set", "initramfs=initramfs"],
    );
    refused(
        &["other.toml", "--base", "bare.bfb"],
        "bare.bfb: initramfs, version 0: found no installer",
    );
    sh(path, "mv away old/debian; rm old/usr/lib/systemd/systemd");
    fs::write(path.join("initramfs"), packed(path)).unwrap();
    ours_well(
        path,
        &["create", "bare.bfb", "--set", "initramfs=initramfs"],
    );
    refused(
        &["other.toml", "--base", "bare.bfb"],
        "found no systemd, which would start DPFS; allowed: stream.live = false",
    );
    wish("[stream]\nlive = false\ninstall = false");
    ours_well(
        path,
        &[
            "addon",
            "--description",
            "other.toml",
            "--base",
            "bare.bfb",
            "-o",
            "out",
        ],
    );
    ours_well(path, &["create", "none.bfb", "--set", "image=image"]);
    refused(
        &["other.toml", "--base", "none.bfb"],
        "found no image initramfs",
    );
    Wish {
        forms: "[\"bf.cfg\"]",
        program: PathBuf::from("/bin/true"),
        pci: "[\"15B3:a2d6\"]",
        more: "",
    }
    .describe(&path.join("other.toml"));
    refused(
        &["other.toml"],
        "other.toml:4: pci: found \"15B3:a2d6\"; allowed: vendor:device",
    );
    Wish {
        forms: "[\"bf.cfg\"]",
        program: std::env::current_exe().unwrap(),
        pci: "[]",
        more: "",
    }
    .describe(&path.join("other.toml"));
    refused(
        &["other.toml"],
        "found ELF machine 62; allowed: a program for aarch64 Linux (machine 183)",
    );
}
