//! The memory that a configuration asks for, summed before anything is reserved.
//!
//! Everything that is as large as its capacity counts in full, although the system gives pages only when they are first
//! touched: a daemon that starts must not fail when its tables fill.

use core::fmt;
use std::string::String;
use std::vec::Vec;

use super::config::units::rough_size;
use super::config::{self, Backend, Config, Device, Hal, Kv, KvEngine, Layout, Limits, Local};
use super::stats;
#[cfg(feature = "kv-embedded")]
use crate::backend::kv::embedded::Embedded;
use crate::backend::kv::flat::{Flat, FlatVolume};
use crate::backend::kv::ramcloud::server as ramcloud;
use crate::backend::kv::tree::{Tree, TreeVolume};
use crate::backend::kv::valkey::objects::Strings;
use crate::backend::kv::valkey::{Valkey, server};
use crate::backend::local::{self, LocalVolume};
use crate::backend::nfs::{Nfs, NfsVolume};
use crate::board;
use crate::fuse::{self, Dispatcher};
use crate::hal::fuse_dev::FuseQueue;
use crate::mem::RequestTable;

/// Bytes that libsnap reserves for each descriptor that each request of a queue may have; it has as many as the queue.
const SNAP_SEGMENT: u64 = 4096;

/// Hold what is asked for, item by item.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    items: Vec<(String, u64)>,
}

impl Budget {
    /// Sum up what a configuration asks for.
    pub fn of(config: &Config) -> Self {
        let mut budget = Self::default();
        for device in &config.devices {
            budget.add_device(device, config);
        }
        let statistics = stats::footprint(config.devices.len(), config.runtime.cores.len());
        budget.add("statistics", statistics);
        budget
    }

    fn add_device(&mut self, device: &Device, config: &Config) {
        let cores = config.runtime.cores.len() as u64;
        let (queues, depth) = (u64::from(device.hal.queues()), device.hal.depth());
        let tables = match device.hal {
            Hal::Snap { .. } => config.poll_groups().into(),
            // The hiprio queue has a table of its own.
            _ => queues + u64::from(device.hal.has_hiprio()),
        };
        let lane_depth = device.hal.lane_depth();
        let table = RequestTable::footprint(lane_depth) as u64;
        let dispatcher = Dispatcher::FOOTPRINT as u64;
        self.add(
            format!(
                "device \"{}\": {tables} request tables of {lane_depth}",
                device.tag
            ),
            tables * table + cores.min(tables) * dispatcher,
        );
        let slots = tables * u64::from(lane_depth);
        match &device.backend {
            Backend::Null { .. } => {}
            Backend::Local(local) => self.add_local(device, local, slots),
            Backend::Kv(kv) => self.add_kv(device, kv, slots, cores.min(tables)),
            Backend::Nfs(nfs) => self.add_nfs(device, nfs, slots, cores.min(tables)),
        }
        if let Hal::Snap { .. } = device.hal {
            self.add(
                format!(
                    "device \"{}\": libsnap's buffers, {} queues x {depth} x {depth} x 4 KiB",
                    device.tag,
                    queues + 1
                ),
                (queues + 1) * u64::from(depth).pow(2) * SNAP_SEGMENT,
            );
        }
        if let Hal::Fuse { .. } = device.hal {
            self.add(
                format!(
                    "device \"{}\": {queues} x {depth} request buffers",
                    device.tag
                ),
                queues * FuseQueue::footprint(depth, fuse::Limits::default().max_write) as u64,
            );
        }
    }

    fn add_kv(&mut self, device: &Device, kv: &Kv, slots: u64, cores: u64) {
        let nodes = device.limits.nodes;
        let requests = slots as u32;
        match kv.layout {
            Layout::Tree => self.add(
                format!("device \"{}\": {nodes} nodes", device.tag),
                TreeVolume::footprint(nodes) as u64,
            ),
            Layout::Flat { .. } => {
                self.add(
                    format!("device \"{}\": {nodes} names, and listings", device.tag),
                    FlatVolume::footprint(nodes) as u64,
                );
                self.add(
                    format!("device \"{}\": {slots} requests", device.tag),
                    Flat::<Strings>::footprint(requests) as u64,
                );
            }
        }
        match &kv.engine {
            #[cfg(feature = "kv-embedded")]
            KvEngine::Embedded(embedded) => {
                self.add(
                    format!("device \"{}\": {slots} requests", device.tag),
                    Tree::<Embedded>::footprint(slots as u32) as u64,
                );
                self.add(
                    format!("device \"{}\": cached pages", device.tag),
                    embedded.memory,
                );
            }
            KvEngine::Ramcloud(_) => self.add(
                format!("device \"{}\": {cores} clients", device.tag),
                cores * ramcloud::footprint(requests) as u64,
            ),
            KvEngine::Valkey(_) if kv.layout != Layout::Tree => self.add(
                format!("device \"{}\": {cores} clients", device.tag),
                cores * Strings::footprint(requests) as u64,
            ),
            KvEngine::Valkey(_) => {
                self.add(
                    format!("device \"{}\": {slots} requests", device.tag),
                    Tree::<Valkey>::footprint(slots as u32) as u64,
                );
                // Every core has a connection, with room for as many calls as its queues have requests.
                let calls = server::footprint(slots as u32) as u64;
                self.add(
                    format!("device \"{}\": {cores} connections", device.tag),
                    cores * calls,
                );
            }
        }
    }

    /// Each core has tasks of its own besides those of the host's requests, and connections. Each server that referrals are
    /// followed to takes as much again.
    fn add_nfs(&mut self, device: &Device, nfs: &config::Nfs, slots: u64, cores: u64) {
        let Limits {
            nodes, open_files, ..
        } = device.limits;
        let servers = 1 + nfs.referrals.len() as u64;
        let of = match servers {
            1 => String::new(),
            _ => format!(", of {servers} servers"),
        };
        self.add(
            format!(
                "device \"{}\": {nodes} nodes, {open_files} open files{of}",
                device.tag
            ),
            servers * NfsVolume::footprint(nodes, open_files, nfs.uncommitted as usize) as u64,
        );
        let requests = slots.div_ceil(cores) as u32;
        self.add(
            format!(
                "device \"{}\": {cores} clients of {requests} requests, {} connections each{of}",
                device.tag, nfs.connections
            ),
            servers * cores * Nfs::footprint(requests, nfs.connections) as u64,
        );
    }

    fn add_local(&mut self, device: &Device, local: &Local, slots: u64) {
        let Limits {
            nodes, open_files, ..
        } = device.limits;
        let tables = LocalVolume::footprint(nodes, open_files, local.descriptors);
        self.add(
            format!(
                "device \"{}\": {nodes} nodes, {open_files} open files",
                device.tag
            ),
            tables as u64,
        );
        self.add(
            format!("device \"{}\": jobs of {slots} requests", device.tag),
            local::Local::footprint(slots as u32) as u64,
        );
    }

    /// Ask for more.
    pub fn add(&mut self, what: impl Into<String>, bytes: u64) {
        self.items.push((what.into(), bytes));
    }

    /// Give the sum in bytes.
    pub fn total(&self) -> u64 {
        let bytes = self.items.iter().map(|(_, bytes)| *bytes);
        bytes.fold(0, u64::saturating_add)
    }

    /// Check the sum against the board's.
    ///
    /// # Errors
    /// The sum, item by item.
    pub fn check(self) -> Result<Self, OverBudget> {
        self.check_against(board::MEMORY)
    }

    fn check_against(self, allowed: u64) -> Result<Self, OverBudget> {
        if self.total() <= allowed {
            return Ok(self);
        }
        Err(OverBudget {
            budget: self,
            allowed,
        })
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, bytes) in &self.items {
            writeln!(out, "{:>12}  {what}", rough_size(*bytes))?;
        }
        write!(out, "{:>12}  in all", rough_size(self.total()))
    }
}

/// Refuse a configuration that asks for more memory than the board allows.
#[derive(Clone, Debug)]
pub struct OverBudget {
    budget: Budget,
    allowed: u64,
}

impl fmt::Display for OverBudget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "the configuration asks for more memory than board \"{}\" allows: {}\n{}",
            board::NAME,
            rough_size(self.allowed),
            self.budget
        )
    }
}

impl std::error::Error for OverBudget {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    const TEXT: &str = r#"
        [[device]]
        tag = "a"
        hal = { kind = "vhost-user", socket = "/a", queues = 3, depth = 64 }
        backend = { kind = "null" }
        [[device]]
        tag = "b"
        hal = { kind = "fuse", mountpoint = "/b", queues = 2, depth = 16 }
        backend = { kind = "null" }
    "#;

    #[test]
    fn queues_and_buffers_are_summed() {
        let budget = Budget::of(&Config::parse("f", TEXT).unwrap());
        let tables = 4 * RequestTable::footprint(64) + 2 * RequestTable::footprint(16);
        let buffers = FuseQueue::footprint(32, 1 << 20) as u64;
        // One core: one dispatcher for each device.
        let dispatchers = 2 * Dispatcher::FOOTPRINT;
        assert_eq!(
            budget.total(),
            (tables + dispatchers) as u64 + buffers + stats::footprint(2, 1)
        );
        assert!(budget.check().is_ok());
    }

    #[test]
    fn too_much_shows_the_sum() {
        let mut budget = Budget::of(&Config::parse("f", TEXT).unwrap());
        budget.add("device \"a\": 1000000 nodes", 3 << 30);
        let error = budget.check_against(2 << 30).unwrap_err().to_string();
        let lines: Vec<&str> = error.lines().collect();
        assert!(lines[0].ends_with("allows: 2.0 GiB"), "{error}");
        assert!(
            lines.contains(&"     3.0 GiB  device \"a\": 1000000 nodes"),
            "{error}"
        );
        assert!(lines.last().unwrap().ends_with("in all"), "{error}");
    }

    #[test]
    fn nodes_of_a_directory_are_counted() {
        let sum = |nodes: u32| {
            let text = format!(
                "[[device]]\ntag = \"a\"\nhal = {{ kind = \"vhost-user\", socket = \"/a\" }}\n\
                 backend = {{ kind = \"local\", path = \"/p\" }}\nlimits = {{ nodes = {nodes} }}"
            );
            Budget::of(&Config::parse("f", &text).unwrap()).total()
        };
        assert!(sum(200_000) - sum(100_000) >= 100_000 * 32);
    }

    #[test]
    fn each_server_that_is_followed_to_takes_as_much_again() {
        let sum = |referrals: &str| {
            let text = format!(
                "[[device]]\ntag = \"a\"\nhal = {{ kind = \"vhost-user\", socket = \"/a\" }}\n\
                 backend = {{ kind = \"nfs\", server = \"a\", export = \"/\"{referrals} }}\nlimits = {{ nodes = 1000 }}"
            );
            Budget::of(&Config::parse("f", &text).unwrap()).total()
        };
        let (none, one) = (sum(""), sum(", referrals = { b = \"b\" }"));
        let two = sum(", referrals = { b = \"b\", c = [\"c\", \"d\"] }");
        assert!(one - none >= 1000 * size_of::<[u64; 20]>() as u64);
        assert_eq!(two - one, one - none);
    }

    #[test]
    fn what_libsnap_reserves_grows_with_the_square_of_the_depth() {
        let snap = |depth: u64| {
            let text = format!(
                "runtime.cores = [0, 1]\n[[device]]\ntag = \"a\"\nbackend = {{ kind = \"null\" }}\n\
                 hal = {{ kind = \"snap\", manager = \"mlx5_0\", pf = 0, queues = 3, depth = {depth} }}"
            );
            Budget::of(&Config::parse("f", &text).unwrap())
        };
        // Four queues: 16 MiB each at 64, 256 MiB each at 256; tables are small beside that.
        let grown = snap(256).total() - snap(64).total();
        assert!((4 * 240..4 * 242).contains(&(grown >> 20)), "{grown}");
        let error = snap(256).check_against(1 << 30).unwrap_err().to_string();
        assert!(
            error.contains(
                "     1.0 GiB  device \"a\": libsnap's buffers, 4 queues x 256 x 256 x 4 KiB"
            ),
            "{error}"
        );
        assert!(snap(128).check_against(1 << 30).is_ok());
    }

    #[test]
    fn sums_do_not_wrap() {
        let mut budget = Budget::default();
        budget.add("x", u64::MAX);
        budget.add("y", 2);
        assert!(budget.check().is_err());
    }
}
