//! The NFS client against a real server, through a relay that can lose, change and cut, and against one of the test's own
//! that gives the answers that a real one gives rarely.

mod durable;
mod fake;
mod hostile;
mod host;
mod lies;
mod locks;
mod operations;
mod recovery;
mod relay;
mod refusals;
mod server;
mod setup;
mod slots;
