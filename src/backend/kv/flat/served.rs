//! A flat volume as the daemon serves it: what is behind it opened once, an engine attached to each core.

extern crate std;

use std::string::{String, ToString};

use super::super::objects::Objects;
use super::super::ramcloud::Ramcloud;
use super::super::ramcloud::server as ramcloud;
use super::super::served::random;
use super::{Flat, FlatVolume, Look};
use crate::fuse::Volume;
use crate::sys::map;

/// Give each core an engine: a store that is open.
pub trait Source: Send + Sync + 'static {
    /// What a core gets.
    type Objects: Objects + 'static;

    /// Make the engine of one core, for so many requests in flight.
    ///
    /// # Errors
    /// What is missing, in words.
    fn attach(&self, requests: u32) -> Result<Self::Objects, String>;
}

impl Source for ramcloud::Server {
    type Objects = Ramcloud;

    fn attach(&self, requests: u32) -> Result<Ramcloud, String> {
        Self::attach(self, requests)
    }
}

/// Share a flat volume between the cores of its device.
pub struct Served<S: Source> {
    source: S,
    volume: &'static FlatVolume,
}

impl<S: Source> Served<S> {
    /// Serve a store to at most `nodes` nodes, the root included.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn new(source: S, nodes: u32, look: Look) -> Result<Self, String> {
        let arena =
            map::reserve(FlatVolume::footprint(nodes)).map_err(|error| error.to_string())?;
        let volume = FlatVolume::new(&arena, nodes, random(), look)
            .map_err(|_| "no memory for the names".to_string())?;
        Ok(Self { source, volume })
    }

    /// Make the instance of one core, for so many requests in flight.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn attach(&self, requests: u32) -> Result<Flat<S::Objects>, String> {
        let objects = self.source.attach(requests)?;
        let arena = map::reserve(Flat::<S::Objects>::footprint(requests))
            .map_err(|error| error.to_string())?;
        Flat::new(&arena, self.volume, objects, requests)
            .map_err(|_| "no memory for the requests".to_string())
    }

    /// Give the number of nodes that the host holds, the root included.
    pub fn nodes(&self) -> u32 {
        self.volume.nodes()
    }

    /// Give what the cores share.
    pub fn volume(&self) -> &'static FlatVolume {
        self.volume
    }
}

impl<S: Source> Volume for Served<S> {
    fn reset(&self, epoch: u32) {
        self.volume.reset(epoch);
    }
}
