//! Addresses of one server (session trunking, RFC 8881, section 2.10.5): its connections go by all of them, and by those
//! that are left when some fail. Addresses that lead to other servers are told from them by the server's owner.

extern crate std;

use std::net::{SocketAddr, ToSocketAddrs};
use std::string::String;
use std::vec::Vec;

use super::recovery::Mounted;

/// Most addresses that are looked at.
const ADDRESSES: usize = 16;

/// Give the addresses of all names, in order, each once.
///
/// # Errors
/// The name that has none, and why.
pub fn addresses(names: &[String], port: u16) -> Result<Vec<SocketAddr>, String> {
    let mut addresses = Vec::new();
    for name in names {
        let found = (name.as_str(), port)
            .to_socket_addrs()
            .map_err(|error| format!("{name}: {error}"))?;
        for address in found {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    addresses.truncate(ADDRESSES);
    match addresses.is_empty() {
        true => Err(format!("{}: no address", names.join(", "))),
        false => Ok(addresses),
    }
}

/// Find the first address by which there is a mount: its place, the minor version, what was found. Else say why there is
/// none by the first of all.
pub fn first(
    addresses: &[SocketAddr],
    mut mount: impl FnMut(SocketAddr) -> Result<(u32, Mounted), String>,
) -> Result<(usize, u32, Mounted), String> {
    let mut why = None;
    for (at, address) in addresses.iter().enumerate() {
        match mount(*address) {
            Ok((minor, mounted)) => return Ok((at, minor, mounted)),
            Err(error) => {
                if addresses.len() > 1 {
                    left_out(address, &error);
                }
                why.get_or_insert(error);
            }
        }
    }
    Err(why.unwrap_or_default())
}

fn left_out(address: &SocketAddr, why: &str) {
    let address = std::format!("{address}");
    crate::log::warn!("nfs: {} is left out: {}", address.as_str(), why);
}

/// Give the addresses that lead to the same server as the one at `first`, that one first. Others are told of and left out.
pub fn same(
    first: usize,
    addresses: &[SocketAddr],
    server: u64,
    mut mount: impl FnMut(SocketAddr) -> Result<Mounted, String>,
) -> Vec<SocketAddr> {
    let mut servers = std::vec![addresses[first]];
    // Those before it gave nothing just now.
    for address in &addresses[first + 1..] {
        match mount(*address) {
            Ok(mounted) if mounted.server == server => servers.push(*address),
            Ok(_) => left_out(address, "it is another server"),
            Err(error) => left_out(address, &error),
        }
    }
    servers
}
