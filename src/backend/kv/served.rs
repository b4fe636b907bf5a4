//! A volume as the daemon serves it: its store opened once, an engine attached to each core.

extern crate std;

use core::time::Duration;
use std::string::{String, ToString};

use super::engine::Engine;
use super::tree::{Tree, TreeVolume};
use crate::fuse::Volume;
use crate::sys::{file, map};

/// How long the host may remember what it sees when nobody else changes it.
pub const ALWAYS: Duration = Duration::from_secs(86_400);

/// Bytes that the host is told to read and write at a time.
const BLOCK: u32 = 4096;

/// Give each core an engine: a store that is open.
pub trait Store: Sync + 'static {
    /// What a core gets.
    type Engine: Engine + 'static;

    /// Make the engine of one core, for so many requests in flight.
    ///
    /// # Errors
    /// What is missing, in words.
    fn attach(&'static self, requests: u32) -> Result<Self::Engine, String>;
}

/// Share a volume in a store between the cores of its device.
pub struct Served<S: Store> {
    store: &'static S,
    tree: &'static TreeVolume,
}

impl<S: Store> Served<S> {
    /// Serve a store that is prepared to at most `nodes` nodes, the root included; the host may remember for `ttl`.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn new(
        store: &'static S,
        nodes: u32,
        ttl: Duration,
        read_only: bool,
    ) -> Result<Self, String> {
        let arena =
            map::reserve(TreeVolume::footprint(nodes)).map_err(|error| error.to_string())?;
        let tree = TreeVolume::new(&arena, nodes, random(), ttl, BLOCK, read_only)
            .map_err(|_| "no memory for the nodes".to_string())?;
        Ok(Self { store, tree })
    }

    /// Make the instance of one core, for so many requests in flight.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn attach(&self, requests: u32) -> Result<Tree<S::Engine>, String> {
        let engine = self.store.attach(requests)?;
        let arena = map::reserve(Tree::<S::Engine>::footprint(requests))
            .map_err(|error| error.to_string())?;
        Tree::new(&arena, self.tree, engine, requests)
            .map_err(|_| "no memory for the requests".to_string())
    }

    /// Give the store.
    pub fn store(&self) -> &'static S {
        self.store
    }

    /// Give the number of nodes that the host holds, the root included.
    pub fn nodes(&self) -> u32 {
        self.tree.nodes()
    }
}

impl<S: Store> Volume for Served<S> {
    fn reset(&self, epoch: u32) {
        self.tree.reset(epoch);
    }
}

/// Give a number that a host cannot guess. Without randomness it could slow its own lookups down, no more.
pub(super) fn random() -> u64 {
    let mut bytes = [0; 8];
    let _ = file::random(&mut bytes);
    u64::from_ne_bytes(bytes)
}

/// Share a volume in an embedded store.
#[cfg(feature = "kv-embedded")]
pub type EmbeddedVolume = Served<super::embedded::Store>;

/// Say which volume of an embedded store is served, and how.
#[cfg(feature = "kv-embedded")]
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    /// The store.
    pub store: super::embedded::Config<'a>,
    /// Most nodes that the host may hold, the root included.
    pub nodes: u32,
    /// Refuse every change with `EROFS`.
    pub read_only: bool,
}

#[cfg(feature = "kv-embedded")]
impl Store for super::embedded::Store {
    type Engine = super::embedded::Embedded;

    fn attach(&'static self, _requests: u32) -> Result<Self::Engine, String> {
        Self::attach(self).map_err(|error| error.to_string())
    }
}

#[cfg(feature = "kv-embedded")]
impl EmbeddedVolume {
    /// Open the store, and make the volume where there is none. The store is this daemon's alone.
    ///
    /// # Errors
    /// Why it cannot be opened, in words.
    pub fn open(config: &Config<'_>) -> Result<Self, String> {
        let store = super::embedded::Store::open(&config.store)?;
        let mut engine = store.engine().map_err(|error| error.to_string())?;
        super::setup::prepare(&mut engine).map_err(|error| error.to_string())?;
        store.sync()?;
        Self::new(store, config.nodes, ALWAYS, config.read_only)
    }
}
