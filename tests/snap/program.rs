//! `dpfs devices` and `dpfs check` on emulated firmware.

use std::process::Command;

/// Run the program on a DPU with this firmware; give its exit code and output.
fn dpfs(firmware: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_dpfs"))
        .args(arguments)
        .env("SNAP_EMU", firmware)
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), out)
}

#[test]
fn devices_lists_managers_functions_and_what_the_firmware_lacks() {
    let (code, out) = dpfs(
        "managers=mlx5_0,mlx5_1 pfs=1 vfs=3 hotplug=1 virtqs=9",
        &["devices"],
    );
    assert_eq!(code, Some(0));
    for line in [
        "  mlx5_0: 2 physical functions, 8 request queues each at most, hot-plug",
        "  mlx5_1: 2 physical functions, 8 request queues each at most, hot-plug",
        "    pf 0  0000:03:00.0  vf 0 to 2",
        "    pf 1  0000:03:00.1  not plugged in",
    ] {
        assert!(out.lines().any(|found| found == line), "{line:?} in\n{out}");
    }
    assert!(out.contains("the emulated libsnap"), "{out}");
    assert!(!out.contains("mlxconfig"), "nothing is missing:\n{out}");
    let (_, out) = dpfs("pfs=1", &["devices"]);
    assert!(
        out.contains("set SRIOV_EN=1 VIRTIO_FS_EMULATION_NUM_VF=8\n"),
        "{out}"
    );
    assert!(out.contains("set PCI_SWITCH_EMULATION_ENABLE=1 "), "{out}");
    let (_, out) = dpfs("fs=0", &["devices"]);
    assert!(
        out.contains("mlxconfig -d /dev/mst/mt41686_pciconf0 set INTERNAL_CPU_MODEL=1 VIRTIO_FS_EMULATION_ENABLE=1 "),
        "{out}"
    );
}

#[test]
fn check_looks_for_functions_and_sums_up_what_libsnap_reserves() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    let check = |firmware: &str, hal: &str| {
        let text = format!(
            "[runtime]\ncores = [0]\ndir = {:?}\nsandbox = \"none\"\n[[device]]\ntag = \"t\"\n\
             hal = {{ kind = \"snap\", {hal} }}\nbackend = {{ kind = \"null\" }}\n",
            folder.path()
        );
        std::fs::write(&file, text).unwrap();
        dpfs(firmware, &["check", "-c", file.to_str().unwrap()])
    };
    let (code, out) = check(
        "vfs=2",
        "manager = \"mlx5_0\", pf = 0, vf = 1, queues = 3, depth = 64",
    );
    assert_eq!(code, Some(0), "{out}");
    assert!(
        out.contains("    64.0 MiB  device \"t\": libsnap's buffers, 4 queues x 64 x 64 x 4 KiB"),
        "{out}"
    );
    assert!(
        out.contains("ok    device \"t\": function: mlx5_0 pf 0 vf 1: there"),
        "{out}"
    );
    for (firmware, hal, wanted) in [
        (
            "vfs=1",
            "manager = \"mlx5_0\", pf = 0, vf = 1",
            "ok    device \"t\": function: mlx5_0 pf 0 vf 1: will be waited for",
        ),
        (
            "",
            "manager = \"mlx5_0\", pf = 1",
            "FAIL  device \"t\": function: pf = 1: there is none; allowed: 0 to 0",
        ),
        (
            "fs=0",
            "manager = \"mlx5_0\", pf = 0",
            "the firmware does not emulate virtio-fs",
        ),
        (
            "",
            "manager = \"mlx5_7\", pf = 0",
            "\"mlx5_7\": there is none; allowed: mlx5_0",
        ),
        (
            "virtqs=3",
            "manager = \"mlx5_0\", pf = 0, queues = 3",
            "4 virtqueues (one is for FORGETs); allowed by the firmware: 3",
        ),
    ] {
        let (code, out) = check(firmware, hal);
        assert!(out.contains(wanted), "{wanted:?} in\n{out}");
        assert_eq!(code == Some(0), wanted.starts_with("ok"), "{out}");
    }
}
