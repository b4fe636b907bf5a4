//! The `kv` backend over its embedded engine, driven as a host's kernel drives it; engines that refuse and die.

mod copy;
mod cores;
mod crash;
mod durable;
mod host;
mod tree;
mod xattr;
