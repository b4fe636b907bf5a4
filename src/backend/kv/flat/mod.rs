//! The flat layout: each file of the root directory is one object of the engine, its name the key, its content the value.
//!
//! ```text
//!  FileSystem method ──> Work in the desk's table ──> Objects (valkey, ramcloud)
//!                                                        │ name(): into the directory's listing
//!                                 answer <───────────────┘ done()
//! ```
//!
//! It is the mapping of the DPFS paper: other programs, with a client of the engine, read and write the same objects as
//! the host does as files, and neither side needs to know of the other. Nothing is stored beside the objects.
//!
//! | operation | round trips |
//! |---|---|
//! | OPEN, OPENDIR, RELEASE, FLUSH, GETATTR of the root | 0 |
//! | LOOKUP, GETATTR, READ, CREATE of a new file, UNLINK, OPEN that truncates | 1 |
//! | WRITE, SETATTR of the size, RENAME | 1 on `valkey`; 2 (RENAME 3) on `ramcloud` |
//! | READDIR | 1 for each part that the engine gives, whatever the host's buffer takes of it |
//! | READDIRPLUS | as READDIR, and all names of the reply at once: one pipeline on `valkey`; on `ramcloud` one multi-read for each 20 names of a part, which brings their contents along |
//!
//! # What a file is here
//! A regular file in the root directory. Other kinds, directories and links are refused with `EPERM`; extended attributes
//! with `EOPNOTSUPP`. Owner, group, permissions and times are no part of an object: the first three are those of the
//! configuration, times are those of the daemon's start; changing them is accepted and forgotten, so that cp, tar and
//! rsync work. Where the engine has versions of objects, the fraction of the second is one, so that the host sees changes
//! that leave the size as it was. Unless nobody else changes objects (`cache = "always"`), an OPEN makes the host forget what
//! it has of the content. A key that cannot be a file's name ("." and "..", with "/" or NUL, longer than 255 bytes)
//! is hidden.
//!
//! A file's number is that of its place in the table of names that the host holds ([`names`]): two files never have the
//! same. It lasts as long as the host holds the file.
//!
//! # Who is gone
//! An object has no life without its key. A file that is removed while it is open gives `ESTALE` from then on; where
//! another program removed it, a READ on `valkey` finds it empty. A WRITE never brings it back. RENAME takes open files
//! along.

mod desk;
mod filesystem;
mod listing;
pub mod names;
mod page;
#[cfg(feature = "std")]
pub mod served;
mod volume;

pub use filesystem::Flat;
pub use volume::{FlatVolume, Look};
