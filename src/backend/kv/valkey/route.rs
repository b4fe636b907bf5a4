//! Which server is asked next: of those that are configured, and of those that a cluster names.
//!
//! A volume is in one hash slot, so one node of a cluster serves all of it, and any other says which one (MOVED). No map
//! of slots is kept: who is asked is that node; without an answer its replicas are, one of which takes over, and then
//! whoever is configured.

use core::ffi::CStr;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::link::Address;
use crate::sys::fd::Fd;

/// Most nodes that are kept beside those that are configured: the slot's primary, and replicas.
const NODES: usize = 8;
/// Redirections in a row that are followed at once. Two nodes that each name the other are not asked in a hurry.
const REDIRECTIONS: u32 = 4;

/// Name a node as another one does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node {
    /// Address; `None` for that of the node which was asked.
    pub ip: Option<IpAddr>,
    /// TCP port.
    pub port: u16,
}

/// Say who is asked.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Who listens at a TCP port.
    Tcp(SocketAddr),
    /// Who listens at a socket in a folder.
    Unix(&'static Fd, &'static CStr),
}

impl From<&'static Address> for Target {
    fn from(address: &'static Address) -> Self {
        match address {
            Address::Tcp(address) => Self::Tcp(*address),
            Address::Unix { dir, name } => Self::Unix(dir, name),
        }
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) => one == other,
            (Self::Unix(dir, name), Self::Unix(other, other_name)) => {
                dir.raw() == other.raw() && name == other_name
            }
            _ => false,
        }
    }
}

/// Hold who may be asked, and who is.
pub struct Route {
    configured: &'static [Address],
    nodes: heapless::Vec<SocketAddr, NODES>,
    /// Who is asked: nodes first, then those that are configured.
    at: usize,
    redirections: u32,
}

impl Route {
    /// Begin with the first of those that are configured, at least one.
    pub const fn new(configured: &'static [Address]) -> Self {
        Self {
            configured,
            nodes: heapless::Vec::new(),
            at: 0,
            redirections: 0,
        }
    }

    /// Give the number of those that may be asked.
    pub fn len(&self) -> usize {
        self.nodes.len() + self.configured.len()
    }

    /// Give who is asked.
    pub fn target(&self) -> Target {
        if let Some(node) = self.nodes.get(self.at) {
            return Target::Tcp(*node);
        }
        (&self.configured[self.at - self.nodes.len()]).into()
    }

    fn here(&self) -> Option<SocketAddr> {
        match self.target() {
            Target::Tcp(address) => Some(address),
            Target::Unix(..) => None,
        }
    }

    /// Ask the next one.
    pub fn next(&mut self) {
        self.at = (self.at + 1) % self.len();
    }

    /// Ask the node that was named instead. False when that should not be in a hurry.
    pub fn moved(&mut self, node: Node) -> bool {
        let here = self.here().map(|here| here.ip());
        let ip = node.ip.or(here).unwrap_or(Ipv4Addr::LOCALHOST.into());
        let to = SocketAddr::new(ip, node.port);
        self.at = match self.nodes.iter().position(|known| *known == to) {
            Some(at) => at,
            None => {
                if self.nodes.is_full() {
                    self.nodes.pop();
                }
                let _ = self.nodes.insert(0, to);
                0
            }
        };
        self.redirections += 1;
        self.redirections <= REDIRECTIONS
    }

    /// Note that who is asked serves, and who may take over.
    pub fn serves(&mut self, replicas: impl Iterator<Item = SocketAddr>) {
        self.redirections = 0;
        let configured = self.at.saturating_sub(self.nodes.len());
        let here = self.here();
        self.nodes.clear();
        self.nodes
            .extend(here.into_iter().chain(replicas).take(NODES));
        self.at = match here {
            Some(_) => 0,
            None => self.nodes.len() + configured,
        };
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::vec;

    fn tcp(port: u16) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::new(10, 0, 0, 1).into(), port)
    }

    fn asked(route: &Route) -> u16 {
        route.here().unwrap().port()
    }

    fn route(ports: &[u16]) -> Route {
        let addresses = ports.iter().map(|&port| Address::Tcp(tcp(port)));
        Route::new(Box::leak(addresses.collect::<vec::Vec<_>>().into()))
    }

    #[test]
    fn who_takes_over_is_asked_before_who_is_configured() {
        let mut route = route(&[1, 2]);
        assert!(route.moved(Node { ip: None, port: 7 }));
        assert!(matches!(route.target(), Target::Tcp(node) if node == tcp(7)));
        route.serves([tcp(8), tcp(9)].into_iter());
        let turn: vec::Vec<u16> = (0..6)
            .map(|_| {
                let port = asked(&route);
                route.next();
                port
            })
            .collect();
        assert_eq!(turn, [7, 8, 9, 1, 2, 7]);
        // The replica serves now; the old primary is forgotten until it is one of its replicas.
        assert_eq!(asked(&route), 8);
        route.serves([tcp(9)].into_iter());
        assert_eq!((route.len(), asked(&route)), (4, 8));
    }

    #[test]
    fn nodes_that_name_each_other_are_not_asked_in_a_hurry() {
        let mut route = route(&[1]);
        let node = |port| Node {
            ip: Some(tcp(1).ip()),
            port,
        };
        let hurries = (0..6)
            .filter(|turn| route.moved(node(2 + turn % 2)))
            .count();
        assert_eq!(hurries, REDIRECTIONS as usize);
        for port in 10..30 {
            route.moved(node(port));
            assert_eq!(asked(&route), port);
        }
        assert_eq!(route.len(), NODES + 1);
        route.serves(core::iter::empty());
        assert!(route.moved(node(2)), "once it served");
    }
}
