//! An NFSv4.1 and 4.2 client: the host's file system is an export of any NFS server.
//!
//! ```text
//!  core: Nfs                                                     shared: NfsVolume
//!  request ──> task: its compound, written once ─┐                nodes   nodeid <-> file handle
//!     session: a slot from send to reply <───────┘                files   open files and their stateids
//!     links: TCP connections ══ sendmsg from the host's pages ══> turn    who talks to the server about the client
//!            replies by xid  <══ recvmsg into the host's pages ══         closing  what the host left open
//! ```
//!
//! One FUSE operation is one COMPOUND, with SEQUENCE first and attributes in the same call; UNLINK and RENAME look first
//! only while files are open, because a file that is open is renamed before it is removed ("silly rename"). A task's
//! compound is written into fixed memory when the request comes and patched (transaction number, slot, stateid) when it
//! is sent, so it can be sent again: byte for byte in the same slot after a connection broke, which the server answers
//! from its memory (exactly once), or in a new slot when the server said "later" or forgot the session.
//!
//! Each core has a session of its own under one client ID, so a file that one core opened another can read. The core
//! whose turn it is introduces the client and, after a restart of the server, claims all open files again and writes
//! again what had not become durable ([`uncommitted`]).
//!
//! A compound that the server did in part is not sent again as a whole ([`halfway`]); state that it took away is looked
//! for ([`revoked`]).
//!
//! What is on another server shows as a referral. Where a table allows that server, it is followed ([`referral`]): then
//! several of these clients make up one name space ([`namespace`]), each with a volume of its own. There the file system that is
//! mounted is followed to, too, when it moves while it is in use ([`migrate`]). A host that mounts other
//! file systems where it meets them (FUSE_SUBMOUNTS) is told of these, and of other file systems of one server.
//!
//! It never blocks, never allocates after start, and no answer of a server makes it panic. A restart of the server
//! loses nothing that was answered. Locks are the server's ([`locks`]), or the host kernel's own; so are extended
//! attributes of users ([`xattr`]) and copies ([`copy`]), where it has them. What the server asks for by the backchannel
//! is done at once ([`callback`]). Where TLS is configured, every connection goes by it, or is none ([`wire`]). Source: RFC
//! 8881, RFC 7862, RFC 8276, RFC 9289.

mod allowed;
mod answer;
mod callback;
mod client;
mod commit;
mod copy;
#[cfg(feature = "tls")]
mod disagreement;
mod filesystem;
mod fit;
mod fragments;
mod halfway;
mod idmap;
mod instance;
mod known;
mod leave;
mod link;
mod lock_table;
mod locks;
mod meta;
mod migrate;
mod namespace;
mod op;
mod path;
mod recovery;
mod referral;
mod relock;
mod revoked;
mod roots;
mod search;
#[cfg(feature = "std")]
pub mod served;
mod slots;
#[cfg(feature = "tls")]
mod starttls;
#[cfg(feature = "std")]
mod trunking;
mod uncommitted;
mod volume;
mod whereabouts;
mod wire;
mod xattr;

pub use allowed::{MAX_REFERRED, Referral};
pub use idmap::Names;
pub use instance::Nfs;
pub use namespace::{Member, Namespace, NamespaceVolume};
pub use volume::{Cache, NfsVolume, Options, Settings};
pub use wire::Security;
