//! A volume in an embedded store, as the daemon serves it: opened once, attached to each core.

extern crate std;

use core::time::Duration;
use std::string::{String, ToString};

use super::embedded::{self, Embedded, Store};
use super::setup;
use super::tree::{Tree, TreeVolume};
use crate::fuse::Volume;
use crate::sys::{file, map};

/// The store is this daemon's alone, so the host may remember what it sees.
const TTL: Duration = Duration::from_secs(86_400);

/// Bytes that the host is told to read and write at a time.
const BLOCK: u32 = 4096;

/// Say which volume is served, and how.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    /// The store.
    pub store: embedded::Config<'a>,
    /// Most nodes that the host may hold, the root included.
    pub nodes: u32,
    /// Refuse every change with `EROFS`.
    pub read_only: bool,
}

/// Share a volume in an embedded store between the cores of its device.
pub struct EmbeddedVolume {
    store: &'static Store,
    tree: &'static TreeVolume,
}

impl EmbeddedVolume {
    /// Open the store, and make the volume where there is none.
    ///
    /// # Errors
    /// Why it cannot be opened, in words.
    pub fn open(config: &Config<'_>) -> Result<Self, String> {
        let store = Store::open(&config.store)?;
        let mut engine = store.engine().map_err(|error| error.to_string())?;
        setup::prepare(&mut engine).map_err(|error| error.to_string())?;
        store.sync()?;
        let arena =
            map::reserve(TreeVolume::footprint(config.nodes)).map_err(|error| error.to_string())?;
        let mut seed = [0; 8];
        // Without randomness a host could slow its own lookups down, no more.
        let _ = file::random(&mut seed);
        let seed = u64::from_ne_bytes(seed);
        let tree = TreeVolume::new(&arena, config.nodes, seed, TTL, BLOCK, config.read_only)
            .map_err(|_| "no memory for the nodes".to_string())?;
        Ok(Self { store, tree })
    }

    /// Make the instance of one core, for so many requests in flight.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn attach(&self, requests: u32) -> Result<Tree<Embedded>, String> {
        let engine = self.store.attach().map_err(|error| error.to_string())?;
        let arena = map::reserve(Tree::<Embedded>::footprint(requests))
            .map_err(|error| error.to_string())?;
        Tree::new(&arena, self.tree, engine, requests)
            .map_err(|_| "no memory for the requests".to_string())
    }

    /// Give the store.
    pub fn store(&self) -> &'static Store {
        self.store
    }

    /// Give the number of nodes that the host holds, the root included.
    pub fn nodes(&self) -> u32 {
        self.tree.nodes()
    }
}

impl Volume for EmbeddedVolume {
    fn reset(&self, epoch: u32) {
        self.tree.reset(epoch);
    }
}
