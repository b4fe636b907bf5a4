//! Extensions at the end of a create request: security contexts and supplementary groups.
//!
//! They take the last `total_extlen * 8` bytes of the request: a run of records, each `{u32 size, u32 type}` and its
//! content, padded to 8 bytes. A record of type 0 to 31 is a security context header, whose "type" is the number of
//! contexts in it; type 32 holds the groups. Source: Linux `fs/fuse/dir.c`, `get_create_ext`.

use core::ffi::CStr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Begin an extension record (`struct fuse_ext_header`, also `struct fuse_secctx_header`).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ExtHeader {
    /// Length of the record in bytes, this header included.
    pub size: u32,
    /// Type, or the number of security contexts.
    pub kind: u32,
}

/// Begin a security context; its name, a NUL and its value follow (`struct fuse_secctx`).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Secctx {
    size: u32,
    padding: u32,
}

/// Type of the record with supplementary groups (`FUSE_EXT_GROUPS`).
const EXT_GROUPS: u32 = 32;

/// Hold what the extensions of a create say. The kernel sends at most one group, the parent directory's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CreateExt<'a> {
    /// Supplementary group of the caller that matches the parent directory.
    pub group: Option<u32>,
    /// Name and value of the extended attribute to set with the creation.
    pub security: Option<(&'a CStr, &'a [u8])>,
}

/// Say that the extensions are not what the ABI allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadExt;

impl<'a> CreateExt<'a> {
    /// Parse the extension area of a request.
    ///
    /// # Errors
    /// [`BadExt`] for a record that leaves the area, a context without a terminated name, and more than one context
    /// or group: the kernel sends one of each at most.
    pub fn parse(mut area: &'a [u8]) -> Result<Self, BadExt> {
        let mut ext = Self::default();
        while !area.is_empty() {
            let (header, _) = ExtHeader::read_from_prefix(area).map_err(|_| BadExt)?;
            let size = header.size as usize;
            let content = area.get(size_of::<ExtHeader>()..size).ok_or(BadExt)?;
            match header.kind {
                0 => {}
                1 => ext.security = Some(parse_secctx(content)?),
                EXT_GROUPS => ext.group = parse_groups(content)?,
                _ => return Err(BadExt),
            }
            area = area.get(size.next_multiple_of(8)..).ok_or(BadExt)?;
        }
        Ok(ext)
    }
}

fn parse_secctx(content: &[u8]) -> Result<(&CStr, &[u8]), BadExt> {
    let (context, rest) = Secctx::read_from_prefix(content).map_err(|_| BadExt)?;
    let name = CStr::from_bytes_until_nul(rest).map_err(|_| BadExt)?;
    let start = name.count_bytes() + 1;
    let value = rest
        .get(start..start + context.size as usize)
        .ok_or(BadExt)?;
    if name.is_empty() {
        return Err(BadExt);
    }
    Ok((name, value))
}

fn parse_groups(content: &[u8]) -> Result<Option<u32>, BadExt> {
    let (count, rest) = u32::read_from_prefix(content).map_err(|_| BadExt)?;
    match count {
        0 => Ok(None),
        1 => u32::read_from_prefix(rest)
            .map(|(group, _)| Some(group))
            .map_err(|_| BadExt),
        _ => Err(BadExt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `security.selinux` = `ctx` + NUL, then group 100, as `get_create_ext` of Linux 6.12 lays them out.
    const BOTH: &[u8] = &[
        40, 0, 0, 0, 1, 0, 0, 0, // header of one context
        4, 0, 0, 0, 0, 0, 0, 0, // four bytes of value
        b's', b'e', b'c', b'u', b'r', b'i', b't', b'y', b'.', b's', b'e', b'l', b'i', b'n', b'u',
        b'x', 0, // name
        b'c', b't', b'x', 0, 0, 0, 0, // value, padding
        16, 0, 0, 0, 32, 0, 0, 0, 1, 0, 0, 0, 100, 0, 0, 0,
    ];

    #[test]
    fn context_and_group() {
        let ext = CreateExt::parse(BOTH).unwrap();
        assert_eq!(ext.group, Some(100));
        assert_eq!(ext.security, Some((c"security.selinux", &b"ctx\0"[..])));
    }

    #[test]
    fn every_truncation_and_every_broken_size_is_an_error_or_smaller() {
        for end in 1..BOTH.len() {
            if end != 40 {
                assert_eq!(CreateExt::parse(&BOTH[..end]), Err(BadExt), "{end}");
            }
        }
        for (at, value) in [
            (0, 0),
            (0, 7),
            (0, 255),
            (4, 2),
            (8, 255),
            (40, 4),
            (44, 33),
            (48, 2),
        ] {
            let mut bytes: [u8; 56] = BOTH.try_into().unwrap();
            bytes[at] = value;
            assert_eq!(CreateExt::parse(&bytes), Err(BadExt), "byte {at} = {value}");
        }
    }
}
