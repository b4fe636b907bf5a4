//! What a DPU can emulate, for `dpfs devices` and `dpfs check`: emulation managers, their functions, and what their
//! firmware would have to be told.

use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use super::config::Hal;
use crate::board;
use crate::hal::snap::{self, Limits, ManagerInfo, Pf, SnapError};

/// BlueField-2's firmware, as `mlxconfig` of the DPU names it.
const MLXCONFIG: &str = "mlxconfig -d /dev/mst/mt41686_pciconf0 set";

/// Say in one line what this build is linked with.
pub fn library() -> String {
    let which = if snap::is_emulated() {
        "the emulated libsnap, for tests"
    } else {
        "libsnap"
    };
    let when = if snap::completes_later() {
        "when they end"
    } else {
        "in their handler"
    };
    format!("{which}; requests are completed {when}")
}

/// List the emulation managers of this machine.
pub fn list() -> String {
    let managers = snap::managers();
    if managers.is_empty() {
        return "emulation managers: this machine has no RDMA device\n".into();
    }
    let mut text = String::from("emulation managers:\n");
    managers
        .iter()
        .for_each(|manager| describe(manager, &mut text));
    text
}

fn describe(manager: &ManagerInfo, text: &mut String) {
    let (limits, pfs) = match &manager.found {
        Ok(found) => found,
        Err(error) => {
            *text += &format!("  {}: {error}\n", manager.name);
            return;
        }
    };
    *text += &format!("  {}: {}\n", manager.name, summary(limits));
    for (number, pf) in pfs.iter().enumerate() {
        let state = match (pf.plugged, pf.vfs) {
            (false, _) => "not plugged in".to_string(),
            (true, 0) => "no VFs".to_string(),
            (true, 1) => "vf 0".to_string(),
            (true, vfs) => format!("vf 0 to {}", vfs - 1),
        };
        *text += &format!("    pf {number}  {}  {state}\n", pf.pci);
    }
    for (wish, settings) in missing(limits, pfs) {
        *text += &format!("    {wish}:\n      {MLXCONFIG} {settings}\n");
    }
}

fn summary(limits: &Limits) -> String {
    if !limits.virtio_fs {
        return "its firmware does not emulate virtio-fs".into();
    }
    format!(
        "{} physical functions, {} request queues each at most, {}",
        limits.pfs,
        limits.virtqueues.saturating_sub(1),
        if limits.hotplug {
            "hot-plug"
        } else {
            "no hot-plug"
        }
    )
}

/// Say what the firmware lacks, and the settings for it. They take a cold start of the machine.
fn missing(limits: &Limits, pfs: &[Pf]) -> Vec<(&'static str, String)> {
    // One for each virtqueue and one for changes of the configuration.
    let interrupts = board::DEFAULT_QUEUES + 2;
    let mut missing = Vec::new();
    if !limits.virtio_fs {
        let settings = format!(
            "INTERNAL_CPU_MODEL=1 VIRTIO_FS_EMULATION_ENABLE=1 VIRTIO_FS_EMULATION_NUM_PF=1 \
             VIRTIO_FS_EMULATION_NUM_MSIX={interrupts}"
        );
        missing.push((
            "to emulate virtio-fs (a firmware that does not know these is to be asked for from NVIDIA)",
            settings,
        ));
        return missing;
    }
    if !pfs.iter().any(|pf| pf.plugged) {
        missing.push((
            "for a physical function",
            "VIRTIO_FS_EMULATION_NUM_PF=1".into(),
        ));
    }
    if pfs.iter().all(|pf| pf.vfs == 0) {
        missing.push((
            "for VFs, unless the host has only not switched them on (sriov_numvfs)",
            "SRIOV_EN=1 VIRTIO_FS_EMULATION_NUM_VF=8".into(),
        ));
    }
    if !limits.hotplug {
        missing.push((
            "for hot-plug",
            "PCI_SWITCH_EMULATION_ENABLE=1 PCI_SWITCH_EMULATION_NUM_PORT=16".into(),
        ));
    }
    if u64::from(limits.virtqueues) < board::DEFAULT_QUEUES + 1 {
        missing.push((
            "for as many queues as a device gets by default",
            format!("VIRTIO_FS_EMULATION_NUM_MSIX={interrupts}"),
        ));
    }
    missing
}

/// Tell whether the function of a configuration is there.
///
/// # Errors
/// Why not, in words.
pub fn check(hal: &Hal) -> Result<String, String> {
    let Hal::Snap {
        manager,
        pf,
        vf,
        queues,
        ..
    } = hal
    else {
        return Err("no function".into());
    };
    let managers = snap::managers();
    let names = || {
        managers
            .iter()
            .map(|manager| manager.name.clone())
            .collect()
    };
    let found = managers.iter().find(|there| there.name == *manager);
    let found = found.ok_or_else(|| SnapError::NoManager(manager.clone(), names()).to_string())?;
    let (limits, pfs) = found.found.as_ref().map_err(ToString::to_string)?;
    judge(manager, *pf, *vf, *queues, limits, pfs).map_err(|error| error.to_string())
}

fn judge(
    manager: &str,
    pf: u32,
    vf: Option<u32>,
    queues: u16,
    limits: &Limits,
    pfs: &[Pf],
) -> Result<String, SnapError> {
    if !limits.virtio_fs {
        return Err(SnapError::NoVirtioFs(manager.into()));
    }
    let found = pfs
        .get(pf as usize)
        .ok_or(SnapError::NoPf(pf, limits.pfs))?;
    let virtqueues = u32::from(queues) + 1;
    if virtqueues > limits.virtqueues {
        return Err(SnapError::Queues(virtqueues, limits.virtqueues));
    }
    Ok(match (found.plugged, vf) {
        (false, None) if limits.hotplug => format!("{manager} pf {pf}: will be plugged in"),
        (false, _) => {
            return Err(SnapError::Unplugged(
                pf,
                crate::wire::errno::Errno::EOPNOTSUPP,
            ));
        }
        (true, Some(vf)) if vf >= found.vfs => format!(
            "{manager} pf {pf} vf {vf}: will be waited for; the host has switched on {}",
            found.vfs
        ),
        (true, Some(vf)) => format!("{manager} pf {pf} vf {vf}: there"),
        (true, None) => format!("{manager} pf {pf}: there, {}", found.pci),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Limits = Limits {
        virtio_fs: true,
        hotplug: true,
        pfs: 2,
        virtqueues: 5,
    };

    fn pf(plugged: bool, vfs: u32) -> Pf {
        Pf {
            plugged,
            vfs,
            pci: "0000:03:00.0".into(),
        }
    }

    #[test]
    fn what_the_firmware_lacks_is_said_with_its_settings() {
        let none = Limits {
            virtio_fs: false,
            hotplug: false,
            pfs: 0,
            virtqueues: 0,
        };
        let settings = missing(&none, &[]);
        assert_eq!(settings.len(), 1);
        assert!(settings[0].1.contains("VIRTIO_FS_EMULATION_ENABLE=1"));
        assert!(settings[0].1.contains("INTERNAL_CPU_MODEL=1"));
        assert_eq!(missing(&ALL, &[pf(true, 4)]), []);
        let bare = Limits {
            hotplug: false,
            virtqueues: 1,
            ..ALL
        };
        let settings = missing(&bare, &[pf(false, 0)]);
        let keys: Vec<&str> = settings.iter().map(|(_, keys)| keys.as_str()).collect();
        for (keys, wanted) in keys.iter().zip([
            "VIRTIO_FS_EMULATION_NUM_PF",
            "SRIOV_EN=1",
            "PCI_SWITCH_EMULATION_ENABLE=1",
            "VIRTIO_FS_EMULATION_NUM_MSIX",
        ]) {
            assert!(keys.contains(wanted), "{keys}");
        }
        assert_eq!(keys.len(), 4);
    }

    #[test]
    fn a_configured_function_is_judged_without_touching_it() {
        let pfs = [pf(true, 2), pf(false, 0)];
        let judge = |pf, vf, queues| judge("m", pf, vf, queues, &ALL, &pfs);
        assert_eq!(judge(0, None, 4).unwrap(), "m pf 0: there, 0000:03:00.0");
        assert_eq!(judge(0, Some(1), 4).unwrap(), "m pf 0 vf 1: there");
        assert!(judge(0, Some(2), 4).unwrap().contains("will be waited for"));
        assert!(judge(1, None, 4).unwrap().contains("will be plugged in"));
        assert!(judge(1, Some(0), 4).is_err());
        assert_eq!(judge(0, None, 5), Err(SnapError::Queues(6, 5)));
        let error = judge(2, None, 1).unwrap_err().to_string();
        assert_eq!(error, "pf = 2: there is none; allowed: 0 to 1");
    }
}
