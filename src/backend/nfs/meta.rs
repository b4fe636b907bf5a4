//! Compounds that more than one place makes.

use crate::wire::nfs4::{Compound, Handle};

/// Name one side of a RENAME: a directory and a name in it.
pub struct RenamePart<'a>(pub &'a Handle, pub &'a [u8]);

/// Remove a name.
pub fn remove_call<'a>(call: Compound<'a>, parent: &Handle, name: &[u8]) -> Compound<'a> {
    call.sequence(true).putfh(parent).remove(name)
}

/// Rename.
pub fn rename_call<'a>(
    call: Compound<'a>,
    from: &RenamePart<'_>,
    to: &RenamePart<'_>,
) -> Compound<'a> {
    call.sequence(true)
        .putfh(from.0)
        .savefh()
        .putfh(to.0)
        .rename(from.1, to.1)
}

/// Look at a name.
pub fn look_call<'a>(call: Compound<'a>, parent: &Handle, name: &[u8]) -> Compound<'a> {
    call.sequence(false).putfh(parent).lookup(name).getfh()
}
