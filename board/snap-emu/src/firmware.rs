//! What the emulated firmware has, from the environment variable `SNAP_EMU`: words like `dir=/tmp/x vfs=4`.
//!
//! | word | meaning | default |
//! |---|---|---|
//! | `dir=PATH` | where each function's socket appears: `mlx5_0-pf0.sock`, `mlx5_0-pf0vf3.sock` | the present folder |
//! | `managers=A,B` | emulation managers | `mlx5_0` |
//! | `fs=0` | the firmware's virtio-fs emulation is off | `1` |
//! | `pfs=N` | physical functions that are plugged | 1 |
//! | `vfs=N` | virtual functions of each, until the file `dir/mlx5_0-pf0.vfs` says another number | 0 |
//! | `hotplug=N` | physical functions that can be plugged in | 0 |
//! | `virtqs=N` | virtqueues of a function | 65 |
//! | `mode=later` | patched libsnap: requests may be completed later | `now` |

use std::path::PathBuf;

/// Hold what the firmware has.
#[derive(Clone, Debug)]
pub struct Firmware {
    pub dir: PathBuf,
    pub managers: Vec<String>,
    pub fs: bool,
    pub pfs: u32,
    pub vfs: u32,
    pub hotplug: u32,
    pub virtqs: u32,
    pub later: bool,
}

impl Firmware {
    /// Read the environment.
    ///
    /// # Errors
    /// The word that is not understood.
    pub fn read() -> Result<Self, String> {
        Self::parse(&std::env::var("SNAP_EMU").unwrap_or_default())
    }

    fn parse(words: &str) -> Result<Self, String> {
        let mut firmware = Self {
            dir: ".".into(),
            managers: vec!["mlx5_0".into()],
            fs: true,
            pfs: 1,
            vfs: 0,
            hotplug: 0,
            virtqs: 65,
            later: false,
        };
        for word in words.split_whitespace() {
            let bad = || format!("SNAP_EMU: {word:?} is not understood");
            let (key, value) = word.split_once('=').ok_or_else(bad)?;
            let number = || value.parse::<u32>().map_err(|_| bad());
            match key {
                "dir" => firmware.dir = value.into(),
                "managers" => firmware.managers = value.split(',').map(String::from).collect(),
                "fs" => firmware.fs = number()? != 0,
                "pfs" => firmware.pfs = number()?,
                "vfs" => firmware.vfs = number()?,
                "hotplug" => firmware.hotplug = number()?,
                "virtqs" => firmware.virtqs = number()?,
                "mode" if value == "later" => firmware.later = true,
                "mode" if value == "now" => firmware.later = false,
                _ => return Err(bad()),
            }
        }
        Ok(firmware)
    }
}

/// Say on standard error what the emulation refuses, as libsnap says its errors on standard output.
pub fn complain(what: impl std::fmt::Display) {
    eprintln!("snap-emu: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_understood_or_refused() {
        let firmware = Firmware::parse("dir=/x vfs=3 mode=later managers=a,b").unwrap();
        assert_eq!((firmware.vfs, firmware.pfs, firmware.later), (3, 1, true));
        assert_eq!(firmware.managers, ["a", "b"]);
        for bad in ["vfs", "vfs=x", "mode=never", "fish=1"] {
            assert!(Firmware::parse(bad).is_err(), "{bad}");
        }
    }
}
