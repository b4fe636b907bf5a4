//! In whose name a worker acts.
//!
//! Workers act as the server's own user, except that what they make belongs to the caller: user and group for file
//! access, the one supplementary group that the host sent, and the umask are those of the caller for the time of the
//! call. Permissions were checked by the host, so the capabilities over files stay in force, apart from CAP_FSETID:
//! without it the kernel clears set-group-ID bits as it would for the caller.

use super::volume::LocalVolume;
use crate::fuse::Caller;
use crate::sys::Result;
use crate::sys::creds::{self, Capabilities, cap};
use crate::wire::errno::Errno;

/// Act in another name until this is dropped.
pub struct Acting {
    own: Capabilities,
    user: bool,
    group: bool,
    groups: bool,
    umask: bool,
    capabilities: bool,
}

/// Say whether the caller's permissions are checked here, because the host had no chance to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Permissions {
    /// The host checked them.
    Checked,
    /// The kernel is to check them.
    Check,
}

impl Acting {
    const fn nothing(own: Capabilities) -> Self {
        Self {
            own,
            user: false,
            group: false,
            groups: false,
            umask: false,
            capabilities: false,
        }
    }
}

impl LocalVolume {
    /// Make files in the caller's name. Only in a worker.
    ///
    /// # Errors
    /// `EINVAL` for a caller without a number on this mount; `EPERM` when the groups cannot be set.
    pub(super) fn act_as(
        &self,
        caller: Caller,
        group: Option<u32>,
        umask: u32,
        permissions: Permissions,
    ) -> Result<Acting> {
        if caller.uid == u32::MAX || caller.gid == u32::MAX {
            return Err(Errno::EINVAL);
        }
        let own = self.worker_capabilities();
        let mut acting = Acting::nothing(own);
        if umask & 0o777 != 0 {
            creds::set_umask(umask & 0o777);
            acting.umask = true;
        }
        if !(own.has(cap::SETUID) && own.has(cap::SETGID)) {
            return Ok(acting);
        }
        if let Some(group) = group {
            creds::set_groups(&[group])?;
            acting.groups = true;
        }
        if caller.gid != 0 {
            creds::set_fs_group(caller.gid);
            acting.group = true;
        }
        if caller.uid != 0 {
            // This takes the capabilities over files away ...
            creds::set_fs_user(caller.uid);
            acting.user = true;
            acting.capabilities = true;
            let taken = match permissions {
                Permissions::Checked => 1 << cap::FSETID,
                Permissions::Check => {
                    1 << cap::FSETID | 1 << cap::DAC_OVERRIDE | 1 << cap::DAC_READ_SEARCH
                }
            };
            // ... and this gives back what is to stay.
            creds::set_capabilities(&Capabilities {
                effective: own.effective & !taken,
                ..own
            })?;
        }
        Ok(acting)
    }

    /// Act so that the kernel clears set-user-ID and set-group-ID bits of what is written to.
    ///
    /// # Errors
    /// None that a correct call can meet.
    pub(super) fn act_unprivileged(&self, kill: bool) -> Result<Acting> {
        let own = self.worker_capabilities();
        let mut acting = Acting::nothing(own);
        if kill && own.has(cap::FSETID) {
            creds::set_capabilities(&Capabilities {
                effective: own.effective & !(1 << cap::FSETID),
                ..own
            })?;
            acting.capabilities = true;
        }
        Ok(acting)
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        if self.user {
            creds::set_fs_user(0);
        }
        if self.group {
            creds::set_fs_group(0);
        }
        if self.capabilities {
            // To what this thread had a moment ago: never more than is permitted.
            let _ = creds::set_capabilities(&self.own);
        }
        if self.groups {
            let _ = creds::set_groups(&[]);
        }
        if self.umask {
            creds::set_umask(0);
        }
    }
}
