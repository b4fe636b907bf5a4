//! Files added to an initramfs, read back by the `cpio` and `gzip` of this machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use dpfs_image::initramfs;
use tempfile::TempDir;

fn sh(dir: &Path, script: &str) -> String {
    let output = Command::new("bash")
        .current_dir(dir)
        .args(["-ec", script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn ours(dir: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dpfs-image"));
    command
        .current_dir(dir)
        .env("SOURCE_DATE_EPOCH", "1700000000");
    command.args(line.split_whitespace()).output().unwrap()
}

fn ours_well(dir: &Path, line: &str) {
    let output = ours(dir, line);
    assert!(output.status.success(), "{line}: {output:?}");
}

/// Make an old initramfs with a hard link, a device node where that is allowed, and a folder of things to add.
fn folder() -> TempDir {
    let dir = TempDir::new().unwrap();
    sh(
        dir.path(),
        "mkdir -p old/etc old/bin new/etc/dpfs new/usr/sbin
         echo old >old/etc/config; echo kept >old/etc/kept; echo twin >old/bin/a; ln old/bin/a old/bin/b
         mkfifo old/pipe
         (cd old && find . | LC_ALL=C sort | cpio --quiet -H newc -o) >old.cpio
         gzip -9n <old.cpio >old.gz
         echo new >new/etc/config; echo '[[device]]' >new/etc/dpfs/dpfs.toml
         echo daemon >new/usr/sbin/dpfs; chmod 755 new/usr/sbin/dpfs",
    );
    symlink("usr/sbin", dir.path().join("new/sbin")).unwrap();
    dir
}

#[test]
fn old_and_new_files_come_out_of_one_archive() {
    let dir = folder();
    let dir = dir.path();
    ours_well(
        dir,
        "create base.bfb --set initramfs=old.gz --set image==kernel",
    );
    ours_well(dir, "overlay --root new base.bfb -o out.bfb");
    ours_well(dir, "verify out.bfb");
    ours_well(dir, "extract --only initramfs,image out.bfb");
    let listed = sh(
        dir,
        "gzip -d <dump-initramfs-v0 | cpio -t --quiet | sed 's,^[.]/,,' | LC_ALL=C sort",
    );
    let expected = [
        ".",
        "bin",
        "bin/a",
        "bin/b",
        "etc",
        "etc/config",
        "etc/dpfs",
        "etc/dpfs/dpfs.toml",
        "etc/kept",
        "pipe",
        "sbin",
        "usr",
        "usr/sbin",
        "usr/sbin/dpfs",
    ];
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), expected);
    let found = sh(
        dir,
        "mkdir x; cd x; gzip -d <../dump-initramfs-v0 | cpio -idm --quiet --no-preserve-owner
         cat etc/config etc/kept bin/b sbin/dpfs; stat -c %a,%Y usr/sbin/dpfs; stat -c %h bin/a; stat -c %F pipe",
    );
    assert_eq!(found, "new\nkept\ntwin\ndaemon\n755,1700000000\n2\nfifo\n");
    assert_eq!(fs::read(dir.join("dump-image-v0")).unwrap(), b"kernel");
}

#[test]
fn archives_behind_each_other_become_one() {
    let dir = folder();
    let dir = dir.path();
    sh(
        dir,
        "mkdir -p early/kernel; echo microcode >early/kernel/x
         (cd early && find . | cpio --quiet -H newc -o) >early.cpio
         cat early.cpio old.gz >both; head -c 300 /dev/zero >>both",
    );
    let added = initramfs::overlay(&dir.join("new")).unwrap();
    let merged = initramfs::merge(&fs::read(dir.join("both")).unwrap(), &added, 0).unwrap();
    fs::write(dir.join("merged"), merged).unwrap();
    let listed = sh(dir, "gzip -d <merged | cpio -t --quiet");
    for path in ["kernel/x", "etc/kept", "usr/sbin/dpfs"] {
        assert!(listed.contains(path), "{listed}");
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let [first, second] = [folder(), folder()].map(|dir| {
        // The old archive holds its own times; take one for both.
        fs::write(dir.path().join("old.gz"), fixed()).unwrap();
        ours_well(dir.path(), "create base.bfb --set initramfs=old.gz");
        ours_well(dir.path(), "overlay --root new base.bfb -o out.bfb");
        fs::read(dir.path().join("out.bfb")).unwrap()
    });
    assert_eq!(first, second);
}

/// An archive with nothing in it.
fn fixed() -> Vec<u8> {
    initramfs::merge(
        &initramfs::merge(EMPTY, &Default::default(), 0).unwrap(),
        &Default::default(),
        0,
    )
    .unwrap()
}

const EMPTY: &[u8] = b"07070100000000000000000000000000000000000000010000000000000000000000000000000000000000000000000000000b00000000TRAILER!!!\0\0\0\0";

#[test]
fn what_is_not_understood_is_named() {
    let dir = folder();
    let dir = dir.path();
    for (what, said) in [
        (
            "\u{28}\u{35}",
            "allowed: newc archives, plain or compressed by gzip",
        ),
        ("BZh9", "found bzip2"),
        ("070701zz", "initramfs, version 0"),
    ] {
        fs::write(dir.join("bad"), what).unwrap();
        ours_well(dir, "create bad.bfb --set initramfs=bad");
        let output = ours(dir, "overlay --root new bad.bfb -o out.bfb");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && text.contains(said),
            "{what}: {text}"
        );
    }
    ours_well(dir, "create none.bfb --set image==kernel");
    let output = ours(dir, "overlay --root new none.bfb -o out.bfb");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no image initramfs"));
    sh(
        dir,
        "cut=$(($(stat -c %s old.gz) / 2)); head -c $cut old.gz >cut",
    );
    let cut = fs::read(dir.join("cut")).unwrap();
    assert!(initramfs::merge(&cut, &Default::default(), 0).is_err());
    sh(dir, "mkdir -p new/bin; echo other >new/bin/b");
    ours_well(dir, "create linked.bfb --set initramfs=old.gz");
    let output = ours(dir, "overlay --root new linked.bfb -o out.bfb");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("bin/b: it has other names"),
        "{text}"
    );
    sh(dir, "mkfifo new/pipe");
    assert!(initramfs::overlay(&dir.join("new")).is_err());
}
