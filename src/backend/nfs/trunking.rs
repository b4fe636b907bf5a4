//! Addresses of one server (session trunking, RFC 8881, section 2.10.5): its connections go by all of them, and by those
//! that are left when some fail. Addresses that lead to other servers are told from them by the server's owner.

extern crate std;

use core::time::Duration;
use std::net::{SocketAddr, ToSocketAddrs};
use std::string::String;
use std::time::Instant;
use std::vec::Vec;

use super::recovery::Mounted;

/// Most addresses that are looked at.
const ADDRESSES: usize = 16;

/// Take a port off a name or an address: `name:port`, `192.0.2.1:port` or `[2001:db8::1]:port`.
pub fn port_of(name: &str, port: u16) -> (&str, u16) {
    match name.rsplit_once(':') {
        // Of an address of version 6 without brackets all is the address.
        Some((host, digits)) if !host.contains(':') || host.ends_with(']') => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            digits.parse().map_or((name, port), |port| (host, port))
        }
        _ => (name, port),
    }
}

/// Give the addresses of all names, in order, each once, with the name that was looked up. A name without a port has this
/// one.
///
/// # Errors
/// The name that has none, and why.
pub fn named(names: &[String], port: u16) -> Result<Vec<(SocketAddr, &str)>, String> {
    let mut named: Vec<(SocketAddr, &str)> = Vec::new();
    for name in names {
        let (host, port) = port_of(name, port);
        let found = (host, port)
            .to_socket_addrs()
            .map_err(|error| format!("{name}: {error}"))?;
        for address in found {
            if named.iter().all(|(known, _)| *known != address) {
                named.push((address, host));
            }
        }
    }
    named.truncate(ADDRESSES);
    match named.is_empty() {
        true => Err(format!("{}: no address", names.join(", "))),
        false => Ok(named),
    }
}

/// Give the addresses of all names, as [`named`] does.
///
/// # Errors
/// As for [`named`].
pub fn addresses(names: &[String], port: u16) -> Result<Vec<SocketAddr>, String> {
    let named = named(names, port)?.into_iter();
    Ok(named.map(|(address, _)| address).collect())
}

/// Find the first address by which there is a mount: its place, and what was found. Where nobody answers by any of them,
/// all are tried again, until `patience` is over. Else say why there is none, by the first that says more than nothing.
///
/// # Errors
/// That.
pub fn first<T>(
    addresses: &[SocketAddr],
    patience: Duration,
    mut mount: impl FnMut(SocketAddr) -> Result<Result<T, String>, String>,
) -> Result<(usize, T), String> {
    let begun = Instant::now();
    loop {
        let (mut refused, mut silent) = (None, None);
        for (at, address) in addresses.iter().enumerate() {
            let (why, kept) = match mount(*address) {
                Ok(Ok(found)) => return Ok((at, found)),
                Ok(Err(why)) => (why, &mut refused),
                Err(why) => (why, &mut silent),
            };
            if addresses.len() > 1 {
                left_out(address, &why);
            }
            kept.get_or_insert(why);
        }
        if refused.is_some() || begun.elapsed() >= patience {
            return Err(refused.or(silent).unwrap_or_default());
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    const TWO: [&str; 2] = ["192.0.2.1:1", "192.0.2.2:1"];

    /// Mount by addresses that answer so, one after another.
    fn tried(
        patience: Duration,
        answers: &[Result<Result<u32, &str>, &str>],
    ) -> (Result<(usize, u32), String>, usize) {
        let addresses = TWO.map(|address| address.parse().unwrap());
        let mut asked = 0;
        let found = first(&addresses, patience, |address| {
            assert_eq!(address, addresses[asked % 2]);
            asked += 1;
            let answer = answers[asked - 1];
            answer
                .map(|answer| answer.map_err(String::from))
                .map_err(String::from)
        });
        (found, asked)
    }

    #[test]
    fn a_port_behind_a_name_counts_before_that_for_all() {
        let of = |name: &str| addresses(&[name.into()], 2049).map(|found| found[0].to_string());
        for (name, found) in [
            ("192.0.2.1", "192.0.2.1:2049"),
            ("192.0.2.1:7", "192.0.2.1:7"),
            ("2001:db8::1", "[2001:db8::1]:2049"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7"),
            ("localhost:7", "127.0.0.1:7"),
        ] {
            let address = of(name).unwrap();
            assert!(address == found || name.starts_with("local"), "{address}");
        }
        for name in ["192.0.2.1:", "192.0.2.1:70000", "192.0.2.1:x"] {
            assert!(of(name).unwrap_err().starts_with(name));
        }
    }

    #[test]
    fn a_server_that_starts_is_waited_for_by_all_its_addresses() {
        let long = Duration::from_secs(3600);
        let silent = Err("nobody");
        let (found, asked) = tried(long, &[silent, silent, silent, Ok(Ok(7))]);
        assert_eq!((found, asked), (Ok((1, 7)), 4));
        let (found, asked) = tried(Duration::ZERO, &[Err("nobody"), Err("nobody else")]);
        assert_eq!((found, asked), (Err("nobody".into()), 2));
    }

    #[test]
    fn who_refuses_is_not_asked_again_and_says_why() {
        let long = Duration::from_secs(3600);
        let (found, asked) = tried(long, &[Err("nobody"), Ok(Err("refused"))]);
        assert_eq!((found, asked), (Err("refused".into()), 2));
        let (found, asked) = tried(long, &[Ok(Err("refused")), Ok(Ok(7))]);
        assert_eq!((found, asked), (Ok((1, 7)), 2));
    }
}
