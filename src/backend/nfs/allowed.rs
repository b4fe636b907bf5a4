//! Which servers referrals may lead to: no other is ever connected to, whatever a server tells.

use core::fmt;

use crate::mem::hash_bytes;
use crate::wire::errno::Errno;

use super::volume::NfsVolume;

/// Most servers that referrals of a device are followed to.
pub const MAX_REFERRED: usize = 8;
/// Most clients of a device on each core: that of the server that is mounted comes first.
pub const MAX_CLIENTS: usize = 1 + MAX_REFERRED;
/// Servers that are told of because they may not be followed; the rest is not told of.
pub const TOLD: usize = 8;

/// Allow a server to be followed to.
#[derive(Clone, Copy, Debug)]
pub struct Referral {
    /// Its name or address, as other servers tell it; letters of either case are the same.
    pub name: &'static str,
    /// Number of its client, which is the tag of its nodes.
    pub client: u8,
}

/// Find the client of the server that has this name, with or without a final dot or brackets.
fn client_of(allowed: &[Referral], server: &[u8]) -> Option<u8> {
    let name = server.strip_suffix(b".").unwrap_or(server);
    let bare = name
        .strip_prefix(b"[")
        .and_then(|name| name.strip_suffix(b"]"));
    let name = bare.unwrap_or(name);
    let is = |known: &&Referral| known.name.as_bytes().eq_ignore_ascii_case(name);
    allowed.iter().find(is).map(|known| known.client)
}

impl NfsVolume {
    /// Tell whether referrals are followed.
    #[inline]
    pub(super) fn follows(&self) -> bool {
        !self.settings.referrals.is_empty()
    }

    /// Give the error for what this server lacks. Where it is the only one, the host does not ask again.
    pub(super) fn lacks(&self) -> Errno {
        if self.follows() {
            Errno::EOPNOTSUPP
        } else {
            Errno::ENOSYS
        }
    }

    /// Find the client of a server that may be followed.
    pub(super) fn client_of(&self, server: &[u8]) -> Option<u8> {
        client_of(self.settings.referrals, server)
    }

    /// Say once of each server that it may not be followed.
    pub(super) fn tell_of(&self, server: &[u8]) {
        let mark = hash_bytes(0, server);
        let mut told = self.told.lock();
        if told.contains(&mark) || told.push(mark).is_err() {
            return;
        }
        crate::log::warn!(
            "nfs: a referral to \"{}\" is not followed; allowed: {}",
            crate::log::Show(&server.escape_ascii()),
            crate::log::Show(&Names(self.settings.referrals))
        );
    }
}

/// Show the servers that may be followed.
struct Names(&'static [Referral]);

impl fmt::Display for Names {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, known) in self.0.iter().enumerate() {
            write!(out, "{}{}", if at > 0 { ", " } else { "" }, known.name)?;
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use std::string::ToString;

    const ALLOWED: &[Referral] = &[
        Referral {
            name: "nfs2.example.org",
            client: 1,
        },
        Referral {
            name: "::1",
            client: 2,
        },
        Referral {
            name: "NFS2.example.org",
            client: 3,
        },
    ];

    #[test]
    fn a_server_is_known_by_the_first_name_that_is_the_same() {
        for (name, client) in [
            ("nfs2.example.org", Some(1)),
            ("NFS2.Example.ORG.", Some(1)),
            ("[::1]", Some(2)),
            ("::1", Some(2)),
            ("nfs2.example.org..", None),
            ("nfs2.example", None),
            ("[", None),
            ("[]", None),
            (".", None),
            ("", None),
        ] {
            assert_eq!(client_of(ALLOWED, name.as_bytes()), client, "{name}");
        }
    }

    #[test]
    fn all_names_are_shown() {
        let shown = Names(ALLOWED).to_string();
        assert_eq!(shown, "nfs2.example.org, ::1, NFS2.example.org");
    }
}
