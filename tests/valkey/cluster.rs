//! A cluster of the test's own on the loopback interface: three primaries, each with a replica.

use std::time::{Duration, Instant};

use dpfs::backend::kv::valkey::server::Place;
use dpfs::wire::resp::slot;

use crate::server::{Connection, Reply, Server};

/// Primaries; node `n` is one of them, node `n + PRIMARIES` began as its replica.
pub const PRIMARIES: usize = 3;

/// Milliseconds after which a node that is silent has failed.
const NODE_TIMEOUT: &str = "2000";

/// Run a cluster until dropped.
pub struct Cluster {
    pub nodes: Vec<Server>,
}

/// Wait until `condition` holds.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ask in words, and give the text of the reply.
pub fn text(to: &mut Connection, words: &[&str]) -> String {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    match to.ask(&words) {
        Reply::Bytes(text) | Reply::Simple(text) => String::from_utf8(text).unwrap(),
        other => panic!("{words:?}: {other:?}"),
    }
}

/// Ask in words for what must be done.
pub fn ok(to: &mut Connection, words: &[&str]) {
    assert_eq!(text(to, words), "OK", "{words:?}");
}

impl Cluster {
    /// Start one of [`crate::server::KINDS`] with these arguments, and wait until every replica has everything.
    pub fn start(kind: &str, arguments: &[&str]) -> Self {
        Self::begin(kind, arguments, Server::start)
    }

    /// As [`Self::start`], of nodes that are started in this way.
    pub fn begin(kind: &str, arguments: &[&str], start: fn(&str, &[&str]) -> Server) -> Self {
        let mut all = vec![
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            NODE_TIMEOUT,
        ];
        all.extend(["--repl-diskless-sync-delay", "0"]);
        all.extend(arguments);
        let nodes: Vec<Server> = (0..2 * PRIMARIES).map(|_| start(kind, &all)).collect();
        let cluster = Self { nodes };
        let slots = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];
        for (number, node) in cluster.nodes.iter().enumerate() {
            let mut node = node.connect();
            ok(
                &mut node,
                &["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()],
            );
            if let Some((first, last)) = slots.get(number) {
                ok(&mut node, &["CLUSTER", "ADDSLOTSRANGE", first, last]);
            }
        }
        for other in &cluster.nodes[1..] {
            let port = other.known_port().to_string();
            ok(
                &mut cluster.nodes[0].connect(),
                &["CLUSTER", "MEET", "127.0.0.1", &port],
            );
        }
        for node in &cluster.nodes {
            let mut node = node.connect();
            wait_for("all know each other", || {
                let info = text(&mut node, &["CLUSTER", "INFO"]);
                info.contains("cluster_known_nodes:6") && info.contains("cluster_state:ok")
            });
        }
        for number in 0..PRIMARIES {
            let id = cluster.id(number);
            let mut replica = cluster.nodes[number + PRIMARIES].connect();
            ok(&mut replica, &["CLUSTER", "REPLICATE", &id]);
        }
        for number in 0..PRIMARIES {
            cluster.replicates(number);
        }
        // A node that does not know a replica would not vote for it.
        for node in &cluster.nodes {
            let mut node = node.connect();
            wait_for("all know the replicas", || {
                text(&mut node, &["CLUSTER", "NODES"])
                    .matches("slave")
                    .count()
                    == PRIMARIES
            });
        }
        cluster
    }

    /// Wait until a node has a replica that has everything.
    pub fn replicates(&self, number: usize) {
        wait_for("a replica has everything", || {
            let info = text(&mut self.nodes[number].connect(), &["INFO", "replication"]);
            info.contains("state=online")
        });
    }

    /// Wait until a replica has everything that a primary has, which is told to take no changes until it is killed.
    pub fn has_replicated(&self, number: usize) {
        let mut node = self.nodes[number].connect();
        ok(&mut node, &["CLIENT", "PAUSE", "60000", "WRITE"]);
        wait_for("a replica has all", || {
            let info = text(&mut node, &["INFO", "replication"]);
            let mut fields = info.split([',', '\r', '\n']);
            let mut field = |name| fields.find_map(|each| each.strip_prefix(name));
            let has = field("offset=");
            has.is_some() && has == field("master_repl_offset:")
        });
    }

    /// Give where all nodes listen.
    pub fn places(&self) -> Vec<Place> {
        self.nodes.iter().map(Server::place).collect()
    }

    /// Give a node's name among the nodes.
    pub fn id(&self, number: usize) -> String {
        text(&mut self.nodes[number].connect(), &["CLUSTER", "MYID"])
    }

    /// Give the node that has a volume, as `witness` knows it; nothing while there is none that is not known to fail.
    pub fn owner_by(&self, witness: usize, volume: &str) -> Option<usize> {
        let slot = slot(format!("{{{volume}}}").as_bytes());
        let nodes = text(&mut self.nodes[witness].connect(), &["CLUSTER", "NODES"]);
        nodes.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let has = |range: &&str| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let bound = |text: &str| text.parse::<u16>().ok();
                matches!((bound(first), bound(last)), (Some(a), Some(b)) if (a..=b).contains(&slot))
            };
            let flags = fields[2];
            if !flags.contains("master") || flags.contains("fail") || !fields[8..].iter().any(has) {
                return None;
            }
            let port = fields[1].split(['@', ':']).nth(1)?.parse::<u16>().ok()?;
            self.nodes.iter().position(|node| node.port() == port)
        })
    }

    /// Give the node that has a volume, while all are well.
    pub fn owner(&self, volume: &str) -> usize {
        self.owner_by(0, volume).expect("somebody has it")
    }

    /// Wait until another node than `old` has a volume, and give it.
    pub fn new_owner(&self, old: usize, volume: &str) -> usize {
        let witness = (old + 1) % PRIMARIES;
        let mut new = None;
        wait_for("another takes over", || {
            new = self.owner_by(witness, volume).filter(|&new| new != old);
            new.is_some()
        });
        new.unwrap()
    }
}
