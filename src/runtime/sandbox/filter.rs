//! The filter of system calls, composed for the configuration.

use std::collections::BTreeMap;
use std::vec::Vec;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::{SandboxError, calls};
#[cfg(feature = "kv-embedded")]
use crate::runtime::config::KvEngine;
use crate::runtime::config::{Backend, Config, Hal};

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

/// Rules by call; none means always.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Everything that makes a new name space or process when given to clone(2) or unshare(2).
const NEW_SPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// Install the filters on the calling thread and those it starts; give the number of calls that are left.
///
/// Two filters: the kernel takes the harsher answer of both, so what is forbidden kills although it is also unlisted.
pub(super) fn install(config: &Config) -> Result<usize, SandboxError> {
    let step = |error: seccompiler::Error| SandboxError::new("system calls", error);
    let rules = allowed(config).map_err(|error| step(error.into()))?;
    let count = rules.len();
    // The killing one first: the other leaves no call to install more.
    for program in [forbid(), allow(rules)] {
        apply_filter(&program.map_err(|error| step(error.into()))?).map_err(step)?;
    }
    Ok(count)
}

fn forbid() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = calls::FORBIDDEN.iter().map(|&call| (call, Vec::new()));
    SeccompFilter::new(
        rules.collect(),
        SeccompAction::Allow,
        SeccompAction::KillProcess,
        ARCH,
    )?
    .try_into()
}

fn allow(rules: Rules) -> Result<BpfProgram, seccompiler::BackendError> {
    SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::ENOSYS as u32),
        SeccompAction::Allow,
        ARCH,
    )?
    .try_into()
}

fn allowed(config: &Config) -> Result<Rules, seccompiler::BackendError> {
    let mut rules = Rules::new();
    let mut add = |calls: &[libc::c_long]| {
        rules.extend(calls.iter().map(|&call| (call, Vec::new())));
    };
    add(calls::COMMON);
    add(calls::COMMON_OLD);
    let (mut local, mut connects) = (false, false);
    for device in &config.devices {
        match device.hal {
            Hal::VhostUser { .. } => add(calls::VHOST_USER),
            // A clone of /dev/fuse is read and written.
            Hal::Fuse { .. } => {}
            Hal::Snap { .. } => {
                add(calls::SNAP);
                // A host that is played needs a socket where a real one has PCIe.
                #[cfg(feature = "snap")]
                if crate::hal::snap::is_emulated() {
                    add(calls::VHOST_USER);
                }
            }
        }
        match device.backend {
            Backend::Null { .. } => {}
            Backend::Nfs(_) => add(calls::NFS),
            Backend::Local(_) => {
                add(calls::LOCAL);
                local = true;
            }
            #[cfg(feature = "kv-embedded")]
            Backend::Kv(ref kv) if matches!(kv.engine, KvEngine::Embedded(_)) => {
                add(calls::EMBEDDED);
            }
            Backend::Kv(_) => {}
        }
        if device.backend.connects() {
            add(calls::NETWORK);
            connects = true;
        }
    }
    let masked = |argument, mask: i32, value: i32| {
        let equal = SeccompCmpOp::MaskedEq(u64::from(mask as u32));
        SeccompCondition::new(
            argument,
            SeccompCmpArgLen::Dword,
            equal,
            u64::from(value as u32),
        )
    };
    let mut rule = |call, condition| -> Result<(), seccompiler::BackendError> {
        rules.insert(call, [SeccompRule::new([condition?].into())?].into());
        Ok(())
    };
    // No memory that is code.
    rule(libc::SYS_mmap, masked(2, libc::PROT_EXEC, 0))?;
    rule(libc::SYS_mprotect, masked(2, libc::PROT_EXEC, 0))?;
    // Threads, no processes. clone3 is unlisted: its flags are in memory, where no filter sees them, and the C library
    // falls back to clone.
    let thread = libc::CLONE_THREAD;
    rule(libc::SYS_clone, masked(0, thread | NEW_SPACES, thread))?;
    rule(libc::SYS_prctl, masked(0, -1, libc::PR_SET_NAME))?;
    if connects {
        // The kernel takes flags beside the type (SOCK_TYPE_MASK).
        rule(libc::SYS_socket, masked(1, 0xf, libc::SOCK_STREAM))?;
    }
    if local {
        // Workers have a directory and a umask of their own.
        rule(libc::SYS_unshare, masked(0, -1, libc::CLONE_FS))?;
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(device: &str) -> Config {
        Config::parse("f", &format!("[[device]]\ntag = \"a\"\n{device}")).unwrap()
    }

    const NULL: &str =
        "hal = { kind = \"fuse\", mountpoint = \"/m\" }\nbackend = { kind = \"null\" }";
    const LOCAL: &str = "hal = { kind = \"vhost-user\", socket = \"/s\" }\nbackend = { kind = \"local\", path = \"/p\" }";

    #[test]
    fn only_what_is_configured_is_allowed() {
        let null = allowed(&config(NULL)).unwrap();
        for call in [
            libc::SYS_openat,
            libc::SYS_accept4,
            libc::SYS_capset,
            libc::SYS_unshare,
        ] {
            assert!(!null.contains_key(&call), "{call}");
        }
        let local = allowed(&config(LOCAL)).unwrap();
        for call in [
            libc::SYS_openat2,
            libc::SYS_accept4,
            libc::SYS_io_uring_enter,
        ] {
            assert!(local.contains_key(&call), "{call}");
        }
    }

    #[test]
    fn nothing_is_both_allowed_and_forbidden() {
        let local = allowed(&config(LOCAL)).unwrap();
        for call in calls::FORBIDDEN {
            assert!(!local.contains_key(call), "{call}");
        }
        for call in [
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_ioctl,
            libc::SYS_clone3,
        ] {
            assert!(!local.contains_key(&call), "{call}");
        }
    }

    #[test]
    fn only_who_connects_may_connect() {
        let valkey = "hal = { kind = \"fuse\", mountpoint = \"/m\" }\n\
            backend = { kind = \"kv\", engine = \"valkey\", address = \"h:1\", volume = \"v\" }";
        let rules = allowed(&config(valkey)).unwrap();
        for call in [libc::SYS_connect, libc::SYS_sendmsg, libc::SYS_recvmsg] {
            assert!(rules.contains_key(&call), "{call}");
        }
        assert_eq!(rules[&libc::SYS_socket].len(), 1, "streams alone");
        let null = allowed(&config(NULL)).unwrap();
        assert!(!null.contains_key(&libc::SYS_socket) && !null.contains_key(&libc::SYS_connect));
        let nfs = "hal = { kind = \"fuse\", mountpoint = \"/m\" }\n\
            backend = { kind = \"nfs\", server = \"h\", export = \"/e\" }";
        let rules = allowed(&config(nfs)).unwrap();
        // Rings that were made before, which can do little, are used; no others are made.
        assert!(
            rules.contains_key(&libc::SYS_connect) && rules.contains_key(&libc::SYS_io_uring_enter)
        );
        assert!(!rules.contains_key(&libc::SYS_io_uring_setup));
    }

    #[test]
    fn filters_compile() {
        forbid().unwrap();
        allow(allowed(&config(LOCAL)).unwrap()).unwrap();
    }
}
