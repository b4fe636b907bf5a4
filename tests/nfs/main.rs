//! The NFS client against a real server, through a relay that can lose, change and cut.

mod host;
mod kernel;
mod knfsd;
mod lies;
pub mod locks;
mod operations;
mod recovery;
mod relay;
mod server;
