//! Taking a request apart: argument structures, names, extensions.
//!
//! Everything is copied out of the host's memory once, and checked on the copy.

use core::ffi::CStr;

use zerocopy::{FromBytes, IntoBytes};

use super::types::{Creation, Fh, Name, SetAttr, SetTime};
use crate::mem::{Slot, TooShort};
use crate::wire::errno::Errno;
use crate::wire::fuse::{BadExt, CreateExt, SetattrIn, SetattrValid};

/// Copy out an operation's argument structure.
#[inline]
pub(super) fn arguments<T: FromBytes + IntoBytes + Copy>(slot: &mut Slot) -> Result<T, Errno> {
    slot.segments_mut()
        .read_value()
        .map_err(|TooShort| Errno::EINVAL)
}

/// Copy out all that is left of a request, and leave it there, too.
pub(super) fn rest<'s>(slot: &Slot, scratch: &'s mut [u8]) -> Result<&'s [u8], Errno> {
    let len = slot.segments().readable_len();
    let bytes = scratch.get_mut(..len).ok_or(Errno::E2BIG)?;
    slot.segments()
        .read_at(0, bytes)
        .map_err(|TooShort| Errno::EINVAL)?;
    Ok(bytes)
}

/// Take a terminated string from the front.
pub(super) fn string<'a>(bytes: &mut &'a [u8]) -> Result<&'a CStr, Errno> {
    let string = CStr::from_bytes_until_nul(bytes).map_err(|_| Errno::EINVAL)?;
    *bytes = &bytes[string.count_bytes() + 1..];
    Ok(string)
}

/// Take the name of an existing or new entry from the front; "." and ".." are none.
pub(super) fn name<'a>(bytes: &mut &'a [u8]) -> Result<Name<'a>, Errno> {
    let name = Name::new(string(bytes)?)?;
    if name.is_dots() {
        Err(Errno::EINVAL)
    } else {
        Ok(name)
    }
}

/// Take the name of an extended attribute from the front.
pub(super) fn xattr_name<'a>(bytes: &mut &'a [u8]) -> Result<&'a CStr, Errno> {
    let name = string(bytes)?;
    match name.count_bytes() {
        0 => Err(Errno::EINVAL),
        1..=255 => Ok(name),
        _ => Err(Errno::ERANGE),
    }
}

/// First minor version whose header gives the length of the extensions. The two before it, which Linux 5.17 to 6.1
/// speak, know security contexts only and put them behind the names.
pub(super) const TOTAL_EXTLEN_MINOR: u32 = 38;

/// Say where the extensions of a create begin.
#[derive(Clone, Copy)]
pub(super) enum Tail {
    /// They are so many bytes at its end.
    Last(usize),
    /// They follow so many names.
    Behind(usize),
}

/// Split the extensions from the end of a create and parse them.
pub(super) fn creation<'a>(
    bytes: &mut &'a [u8],
    tail: Tail,
    mode: u32,
    umask: u32,
) -> Result<Creation<'a>, Errno> {
    let names = match tail {
        Tail::Last(extensions) => bytes.len().checked_sub(extensions).ok_or(Errno::EINVAL)?,
        Tail::Behind(names) => {
            let mut rest = *bytes;
            for _ in 0..names {
                string(&mut rest)?;
            }
            bytes.len() - rest.len()
        }
    };
    let (front, area) = bytes.split_at(names);
    *bytes = front;
    let ext = CreateExt::parse(area).map_err(|BadExt| Errno::EINVAL)?;
    Ok(Creation {
        mode,
        umask,
        group: ext.group,
        security: ext.security,
    })
}

pub(super) fn set_attr(args: &SetattrIn) -> SetAttr {
    let valid = SetattrValid::from_bits_truncate(args.valid);
    let time = |at, now, seconds, nanoseconds| {
        if valid.contains(now) {
            Some(SetTime::Now)
        } else {
            valid
                .contains(at)
                .then_some(SetTime::At(seconds, nanoseconds))
        }
    };
    let (at, mt, ct) = (
        SetattrValid::ATIME,
        SetattrValid::MTIME,
        SetattrValid::CTIME,
    );
    SetAttr {
        mode: valid.contains(SetattrValid::MODE).then_some(args.mode),
        uid: valid.contains(SetattrValid::UID).then_some(args.uid),
        gid: valid.contains(SetattrValid::GID).then_some(args.gid),
        size: valid.contains(SetattrValid::SIZE).then_some(args.size),
        atime: time(at, SetattrValid::ATIME_NOW, args.atime, args.atimensec),
        mtime: time(mt, SetattrValid::MTIME_NOW, args.mtime, args.mtimensec),
        ctime: valid
            .contains(ct)
            .then_some(SetTime::At(args.ctime, args.ctimensec)),
        fh: valid.contains(SetattrValid::FH).then_some(Fh(args.fh)),
        kill_suidgid: valid.contains(SetattrValid::KILL_SUIDGID),
    }
}
