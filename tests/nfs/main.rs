//! The NFS client against a real server, through a relay that can lose, change and cut, and against one of the test's own
//! that gives the answers that a real one gives rarely.

mod durable;
mod fake;
mod host;
mod hostile;
mod kernel;
mod knfsd;
mod lies;
pub mod locks;
mod migrated;
mod moved;
mod operations;
mod recovery;
mod referrals;
mod referred;
mod refusals;
mod relay;
mod revoked;
mod scripted;
mod server;
mod setup;
mod slots;
mod trunking;
