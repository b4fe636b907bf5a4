//! A server of NFSv4.1 and 4.2 that does as it is told: every answer that a real one gives rarely, and lies.
//!
//! It keeps a small tree in memory, sessions with slots that know a repetition, opens and locks. A [`Script`] says what
//! goes wrong at which operation. What the client does wrong with its slots is counted (`misused`).

mod compound;
pub mod files;
mod locks;
pub mod mutate;
pub mod network;
mod script;
mod sessions;
mod states;
mod tree;

use std::sync::{Arc, Mutex, MutexGuard};

use dpfs::wire::nfs4::{SessionId, Status, Verifier};

use compound::RESTART;
pub use script::{Act, Script};

/// Hold what the server knows.
pub struct Server {
    pub tree: tree::Tree,
    pub sessions: sessions::Sessions,
    pub states: states::States,
    pub script: Script,
    /// This life, for what is not durable.
    pub verifier: Verifier,
    /// File that an exclusive creation made last, while its times are the verifier.
    exclusive: Option<(u64, Verifier)>,
    /// Session and slot of the call that is being done.
    begun: Option<(SessionId, usize)>,
    /// Where its results begin, in the answer without its record's mark.
    starts: Vec<usize>,
    /// What was answered before.
    earlier: mutate::Parts,
}

impl Server {
    /// Do the `skip`th next operation of this kind, and `times` of them in all, as the act says.
    pub fn at(&mut self, operation: u32, skip: u32, times: u32, act: Act) {
        self.script.at(operation, skip, times, act);
    }

    /// Refuse the next operation of this kind.
    pub fn refuse(&mut self, operation: u32, status: Status) {
        self.at(operation, 0, 1, Act::Status(status));
    }

    /// Forget all clients, as after a lease that ran out.
    pub fn expire(&mut self) {
        self.sessions.expire();
        self.states.all.clear();
    }

    /// Restart as a server does that keeps its sessions and nothing else.
    pub fn restart(&mut self) {
        self.states.all.clear();
        for client in self.sessions.clients.values_mut() {
            client.complete = false;
        }
        self.script.flags |= RESTART;
        self.script.grace = true;
    }

    /// Make a directory of this path whose file system is elsewhere: where, as `fs_locations4` lies on the wire.
    pub fn refer(&mut self, path: &str, locations: Vec<u8>) {
        let directory = self.directory(path);
        self.tree.node(directory).unwrap().moved = Some(locations);
    }

    /// Have all that is at a path, and below it, elsewhere from now on; or here again.
    pub fn move_away(&mut self, path: &str, locations: Option<&[u8]>) {
        let mut left = vec![self.directory(path)];
        while let Some(number) = left.pop() {
            let node = self.tree.node(number).unwrap();
            node.moved = locations.map(<[u8]>::to_vec);
            left.extend(node.children.values());
        }
    }

    /// Find a directory, or make it and what leads to it; gives its number.
    pub fn directory(&mut self, path: &str) -> u64 {
        let names = path.split('/').filter(|name| !name.is_empty());
        names.fold(tree::ROOT_NUMBER, |parent, name| {
            let found = self.tree.lookup(parent, name.as_bytes());
            let kind = dpfs::wire::nfs4::FileKind::Directory;
            let made = |_| self.tree.make(parent, name.as_bytes(), kind, 0o755);
            found.or_else(made).unwrap()
        })
    }

    /// Give the content of a file of the root.
    pub fn content(&mut self, name: &str) -> Vec<u8> {
        let number = self
            .tree
            .lookup(tree::ROOT_NUMBER, name.as_bytes())
            .unwrap();
        self.tree.node(number).unwrap().data.clone()
    }
}

/// Run a server until the process ends.
#[derive(Clone)]
pub struct Fake {
    pub port: u16,
    server: Arc<Mutex<Server>>,
    connections: network::Connections,
}

impl Fake {
    /// Start one with an empty root.
    pub fn start() -> Self {
        let server = Arc::new(Mutex::new(Server {
            tree: tree::Tree::new(),
            sessions: sessions::Sessions::new(),
            states: states::States::default(),
            script: Script::new(),
            verifier: *b"life0001",
            exclusive: None,
            begun: None,
            starts: Vec::new(),
            earlier: mutate::Parts::default(),
        }));
        let connections = network::Connections::default();
        let port = network::listen(Arc::clone(&server), Arc::clone(&connections));
        Self {
            port,
            server,
            connections,
        }
    }

    /// Look at the server, or change it, between two calls.
    pub fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap()
    }

    /// Count the calls so far.
    pub fn calls(&self) -> u64 {
        self.server().script.calls
    }

    /// Count the connections that were made and not cut.
    pub fn connected(&self) -> usize {
        self.connections.lock().unwrap().len()
    }

    /// Cut all connections.
    pub fn cut(&self) {
        network::cut(&self.connections);
    }
}
