//! The images that a boot stream may hold, in the order in which they go into one.

use std::fmt;

/// Number of an image's kind: 0 to 63.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ImageId(pub u8);

/// Names and numbers, in the order of a stream.
pub const NAMES: [(&str, ImageId); 45] = [
    ("psc-bl", ImageId(36)),
    ("psc-fw", ImageId(37)),
    ("bl2r-cert", ImageId(31)),
    ("bl2r", ImageId(30)),
    ("bl2r-auth-cert", ImageId(42)),
    ("bl2-cert", ImageId(6)),
    ("bl2", ImageId(1)),
    ("sys", ImageId(29)),
    ("bl2-auth-cert", ImageId(43)),
    ("ddr-cert", ImageId(38)),
    ("ddr_ini", ImageId(32)),
    ("snps_images", ImageId(33)),
    ("ddr5_snps_images", ImageId(40)),
    ("ddr_ate_imem", ImageId(34)),
    ("ddr_ate_dmem", ImageId(35)),
    ("bl30-key-cert", ImageId(8)),
    ("bl30-cert", ImageId(12)),
    ("bl30", ImageId(2)),
    ("psc-app", ImageId(39)),
    ("psc-certs", ImageId(53)),
    ("trusted-key-cert", ImageId(7)),
    ("bl31-key-cert", ImageId(9)),
    ("bl31-cert", ImageId(13)),
    ("bl31", ImageId(3)),
    ("bl32-key-cert", ImageId(10)),
    ("bl32-cert", ImageId(14)),
    ("bl32", ImageId(4)),
    ("bl33-key-cert", ImageId(11)),
    ("bl33-cert", ImageId(15)),
    ("bl33", ImageId(5)),
    ("capsule", ImageId(52)),
    ("boot-acpi", ImageId(55)),
    ("boot-dtb", ImageId(56)),
    ("boot-desc", ImageId(57)),
    ("boot-path", ImageId(58)),
    ("boot-args", ImageId(59)),
    ("boot-timeout", ImageId(60)),
    ("uefi-tests", ImageId(61)),
    ("nicfw", ImageId(41)),
    ("ramdisk", ImageId(54)),
    ("dpu-gi", ImageId(49)),
    ("cfg-gi", ImageId(48)),
    ("info", ImageId(50)),
    ("image", ImageId(62)),
    ("initramfs", ImageId(63)),
];

/// A name that no image has, and the one most like it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownName {
    /// What was found.
    pub found: String,
    /// What may have been meant.
    pub nearest: &'static str,
}

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no image of a boot stream; did you mean {:?}? `dpfs-image names` lists them",
            self.found, self.nearest
        )
    }
}

impl std::error::Error for UnknownName {}

impl ImageId {
    /// What a stream holds, for people and management software.
    pub const INFO: Self = Self(50);
    /// First root file system of the kernel.
    pub const INITRAMFS: Self = Self(63);

    /// Find the number of a name.
    ///
    /// # Errors
    /// [`UnknownName`].
    pub fn of(name: &str) -> Result<Self, UnknownName> {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, id)| *id).ok_or_else(|| {
            let distance = |known: &str| strsim::damerau_levenshtein(known, name);
            let nearest = NAMES.iter().min_by_key(|(known, _)| distance(known));
            UnknownName {
                found: name.into(),
                nearest: nearest.map_or("image", |(known, _)| known),
            }
        })
    }

    /// Give the place in a stream. Images without a name come last, by number.
    pub fn place(self) -> usize {
        let known = NAMES.iter().position(|(_, id)| *id == self);
        known.unwrap_or(NAMES.len() + usize::from(self.0))
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, id)| id == self) {
            Some((name, _)) => f.pad(name),
            None => f.pad(&format!("image-{}", self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_stands_twice() {
        for (at, (name, id)) in NAMES.iter().enumerate() {
            assert_eq!(id.place(), at, "{name}");
            assert_eq!(ImageId::of(name), Ok(*id));
            assert!(id.0 < 64);
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_told_from() {
        let error = ImageId::of("initramfs-v9").unwrap_err();
        assert_eq!(error.nearest, "initramfs");
        assert!(ImageId(51).place() > ImageId(63).place());
        assert_eq!(ImageId(51).to_string(), "image-51");
    }
}
