//! The `local` backend, driven as a host's kernel drives it, on directories of this machine.

mod cache;
mod content;
mod host;
mod identity;
mod limits;
mod locks;
mod mounts;
mod names;
mod stress;
mod walls;
