//! The NFS client against a real server, through a relay that can lose, change and cut, and against one of the test's own
//! that gives the answers that a real one gives rarely.

#[cfg(all(feature = "daemon", feature = "tls"))]
#[path = "../valkey/authority.rs"]
mod authority;
mod durable;
mod fake;
#[cfg(all(feature = "daemon", feature = "tls"))]
mod front;
mod host;
mod hostile;
mod kernel;
mod knfsd;
mod lies;
pub mod locks;
mod memory;
mod migrated;
mod moved;
mod operations;
#[cfg(all(feature = "daemon", feature = "tls"))]
#[expect(dead_code, reason = "the key-value engine's own tests use all of it")]
#[path = "../valkey/proxy.rs"]
mod proxy;
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
#[cfg(all(feature = "daemon", feature = "tls"))]
mod tls;
mod trunking;
