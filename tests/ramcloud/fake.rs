//! A RAMCloud cluster that the tests play: a coordinator and masters on the loopback interface, written from the
//! protocol's facts and not from the client, with faults on demand.
//!
//! All content is in one place, as if every master's log were replicated and recovered at once: who serves a key is a
//! matter of the tablet map alone. Results of changes are kept with it, so a change is done once wherever it is sent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use dpfs::wire::ramcloud::hash::key_hash;

/// Minutes of a lease, in nanoseconds.
const TERM: u64 = 30 * 60 * 1_000_000_000;

/// A part of the table.
#[derive(Clone, Copy, Debug)]
pub struct Tablet {
    pub first: u64,
    pub last: u64,
    pub server: u64,
    /// Reports of the map that still say that it is being recovered.
    pub recovering: u32,
}

/// What there is, what is wrong, and what happened.
#[derive(Default)]
pub struct State {
    pub tables: HashMap<Vec<u8>, u64>,
    pub tablets: Vec<Tablet>,
    pub objects: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
    versions: u64,
    results: HashMap<(u64, u64), Vec<u8>>,
    acknowledged: HashMap<u64, u64>,
    leases: u64,
    live_leases: HashSet<u64>,
    ports: HashMap<u64, u16>,
    dead: HashSet<u64>,
    /// Keys of one reply of a listing.
    pub batch: usize,
    /// Listings that still go well; others are refused.
    pub lists_left: Option<u64>,
    /// Requests to masters that are answered with RETRY.
    pub retries: u32,
    /// Changes that are done and not answered: the connection ends instead.
    pub lost_replies: u32,
    /// Bytes that are sent instead of the next answer of a master.
    pub garbage: Option<Vec<u8>>,
    /// Bytes of a whole payload that is sent instead, in a right frame.
    pub payload: Option<Vec<u8>>,
    /// What is wrong with multi-reads, and what happened with them.
    pub multi: Multi,
    /// Changes that are still done; whoever asks for more is not answered.
    pub changes_left: Option<u64>,
    pub refused: u64,
    /// Changes that are answered as stale.
    pub stale: u32,
    /// Nanoseconds of the next leases, instead of half an hour.
    pub term: Option<u64>,
    /// Nobody answers any more.
    pub mute: bool,
    /// What happened: requests to masters, changes that were done, words about dead servers, maps, leases.
    pub requests: u64,
    pub changes: u64,
    pub reports: u64,
    pub maps: u64,
    pub renewals: u64,
}

/// Faults of multi-reads, and what was asked.
#[derive(Default)]
pub struct Multi {
    /// Parts of an answer, at most; zero for as many as fit.
    pub parts_max: usize,
    /// After the first part of the next one, a tablet moves: which one, and to which server.
    pub moves: Option<(usize, u64)>,
    /// Parts that are answered with RETRY.
    pub busy: u32,
    /// Answered with this status instead, always.
    pub refused: Option<u32>,
    /// This payload is sent instead, once.
    pub payload: Option<Vec<u8>>,
    /// Not answered: the connection ends instead.
    pub lost: u32,
    /// With the next one, nobody answers any more.
    pub mutes: bool,
    /// How many came, and the keys of parts that were answered, with their statuses.
    pub count: u64,
    pub answered: Vec<(Vec<u8>, u32)>,
}

/// Run a cluster until dropped.
pub struct Cluster {
    pub state: Arc<Mutex<State>>,
    pub port: u16,
    threads: Vec<JoinHandle<()>>,
    over: Arc<Mutex<bool>>,
}

const COORDINATOR: u64 = 0;

impl Cluster {
    /// Start a coordinator and so many masters.
    pub fn start(masters: u64) -> Self {
        let state = Arc::new(Mutex::new(State {
            batch: 3,
            ..State::default()
        }));
        let mut cluster = Self {
            state,
            port: 0,
            threads: Vec::new(),
            over: Arc::default(),
        };
        cluster.port = cluster.serve(COORDINATOR);
        for server in 1..=masters {
            let port = cluster.serve(server);
            cluster.state().ports.insert(server, port);
        }
        cluster
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// End a master: its connections break, and new ones are refused.
    pub fn kill(&self, server: u64) {
        self.state().dead.insert(server);
        std::thread::sleep(Duration::from_millis(60));
    }

    /// Give every tablet that a server has to another, in so many parts, without telling anybody.
    pub fn move_tablets(&self, from: u64, to: u64, parts: u64) {
        let mut state = self.state();
        let (moved, kept) = state
            .tablets
            .drain(..)
            .partition::<Vec<_>, _>(|tablet| tablet.server == from);
        state.tablets = kept;
        for tablet in moved {
            let step = (tablet.last - tablet.first) / parts;
            for part in 0..parts {
                let first = tablet.first + part * step + u64::from(part > 0);
                let last = match part + 1 == parts {
                    true => tablet.last,
                    false => tablet.first + (part + 1) * step,
                };
                state.tablets.push(Tablet {
                    first,
                    last,
                    server: to,
                    recovering: 0,
                });
            }
        }
    }

    /// Let all leases end.
    pub fn end_leases(&self) {
        self.state().live_leases.clear();
    }

    fn serve(&mut self, server: u64) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let (state, over) = (self.state.clone(), self.over.clone());
        self.threads.push(std::thread::spawn(move || {
            let mut served: Vec<JoinHandle<()>> = Vec::new();
            while !*over.lock().unwrap() && !state.lock().unwrap().dead.contains(&server) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (state, over) = (state.clone(), over.clone());
                        served.push(std::thread::spawn(move || {
                            talk(server, stream, &state, &over)
                        }));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
            drop(listener);
            for thread in served {
                thread.join().unwrap();
            }
        }));
        port
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        *self.over.lock().unwrap() = true;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Read all of `bytes`; false when the connection or the server ends before.
fn read(stream: &mut TcpStream, bytes: &mut [u8], ends: &dyn Fn() -> bool) -> bool {
    let mut at = 0;
    while at < bytes.len() {
        match stream.read(&mut bytes[at..]) {
            Ok(0) => return false,
            Ok(count) => at += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if ends() {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}

fn talk(server: u64, mut stream: TcpStream, state: &Mutex<State>, over: &Mutex<bool>) {
    stream.set_nonblocking(false).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(10)))
        .unwrap();
    let ends = || *over.lock().unwrap() || state.lock().unwrap().dead.contains(&server);
    loop {
        let mut head = [0; 12];
        if !read(&mut stream, &mut head, &ends) {
            return;
        }
        let len = u32::from_le_bytes(head[8..].try_into().unwrap());
        let mut payload = vec![0; len as usize];
        if !read(&mut stream, &mut payload, &ends) {
            return;
        }
        let answer = {
            let mut state = state.lock().unwrap();
            if state.dead.contains(&server) {
                return;
            }
            match server {
                COORDINATOR => Some(state.coordinate(&payload)),
                _ => state.master(server, &payload),
            }
        };
        let Some(answer) = answer else {
            return;
        };
        if state.lock().unwrap().mute {
            continue;
        }
        let garbage = match server {
            COORDINATOR => None,
            _ => state.lock().unwrap().garbage.take(),
        };
        let mut frame = head[..8].to_vec();
        frame.extend((answer.len() as u32).to_le_bytes());
        frame.extend(answer);
        if stream.write_all(&garbage.unwrap_or(frame)).is_err() {
            return;
        }
    }
}

/// Take fields off a request.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (bytes, rest) = self.0.split_first_chunk().expect("a request that is whole");
        self.0 = rest;
        *bytes
    }

    fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes.to_vec()
    }
}

/// The twelve bytes of conditions.
struct Rules {
    version: u64,
    absent: bool,
    exists: bool,
    not_given: bool,
}

impl Rules {
    fn read(fields: &mut Fields<'_>) -> Self {
        let version = fields.u64();
        let (absent, exists) = (fields.u8() == 1, fields.u8() == 1);
        assert_eq!(fields.u8(), 0, "nobody asks for this");
        Self {
            version,
            absent,
            exists,
            not_given: fields.u8() == 1,
        }
    }

    /// Give the status: 0, or why not.
    fn check(&self, version: Option<u64>) -> u32 {
        match version {
            None if self.absent => 3,
            Some(_) if self.exists => 4,
            Some(version) if self.not_given && version != self.version => 5,
            _ => 0,
        }
    }
}

fn status(code: u32, rest: &[&[u8]]) -> Vec<u8> {
    let mut bytes = code.to_le_bytes().to_vec();
    rest.iter().for_each(|part| bytes.extend(*part));
    bytes
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

impl State {
    fn recover(&mut self) {
        let live: Vec<u64> = self.ports.keys().copied().collect();
        let live: Vec<u64> = live
            .into_iter()
            .filter(|server| !self.dead.contains(server))
            .collect();
        for (tablet, heir) in self.tablets.iter_mut().zip(live.iter().cycle()) {
            if self.dead.contains(&tablet.server) {
                (tablet.server, tablet.recovering) = (*heir, 3);
            }
        }
    }

    fn locator(&self, server: u64) -> String {
        format!("tcp:host=127.0.0.1,port={}", self.ports[&server])
    }

    fn map(&mut self, table: u64) -> Vec<u8> {
        let mut message = Vec::new();
        let known = self.tables.values().any(|known| *known == table);
        for at in 0..if known { self.tablets.len() } else { 0 } {
            let tablet = self.tablets[at];
            self.tablets[at].recovering = tablet.recovering.saturating_sub(1);
            let mut one = Vec::new();
            let state = u64::from(tablet.recovering > 0);
            for (field, value) in [(1, table), (2, tablet.first), (3, tablet.last), (4, state)] {
                one.push(field << 3);
                varint(&mut one, value);
            }
            one.push(5 << 3 | 1);
            one.extend(tablet.server.to_le_bytes());
            let locator = self.locator(tablet.server);
            one.push(6 << 3 | 2);
            varint(&mut one, locator.len() as u64);
            one.extend(locator.as_bytes());
            message.push(0x0a);
            varint(&mut message, one.len() as u64);
            message.extend(one);
        }
        message
    }

    fn coordinate(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut fields = Fields(payload);
        let (opcode, service) = (fields.u16(), fields.u16());
        assert_eq!(service, 2);
        match opcode {
            10 => {
                let (len, span) = (fields.u32(), fields.u32());
                let name = fields.bytes(len as usize);
                let next = self.tables.len() as u64 + 1;
                let table = *self.tables.entry(name).or_insert(next);
                if self.tablets.is_empty() {
                    let step = u64::MAX / u64::from(span);
                    let masters = self.ports.len() as u64;
                    for part in 0..u64::from(span) {
                        self.tablets.push(Tablet {
                            first: part * step + u64::from(part > 0),
                            last: match part + 1 == u64::from(span) {
                                true => u64::MAX,
                                false => (part + 1) * step,
                            },
                            server: part % masters + 1,
                            recovering: 0,
                        });
                    }
                }
                status(0, &[&table.to_le_bytes()])
            }
            11 => {
                let len = fields.u32();
                match self.tables.get(&fields.bytes(len as usize)) {
                    Some(table) => status(0, &[&table.to_le_bytes()]),
                    None => status(2, &[&[0; 8]]),
                }
            }
            12 => {
                let len = fields.u32();
                self.tables.remove(&fields.bytes(len as usize));
                self.tablets.clear();
                self.objects.clear();
                status(0, &[])
            }
            17 => {
                let mut message = Vec::new();
                for server in self.ports.keys() {
                    let mut one = vec![0x0d, 1, 0, 0, 0, 0x11];
                    one.extend(server.to_le_bytes());
                    message.push(0x0a);
                    varint(&mut message, one.len() as u64);
                    message.extend(one);
                }
                status(0, &[&(message.len() as u32).to_le_bytes(), &message])
            }
            18 => {
                self.maps += 1;
                let message = self.map(fields.u64());
                status(0, &[&(message.len() as u32).to_le_bytes(), &message])
            }
            20 => {
                self.reports += 1;
                let server = fields.u64();
                // It makes sure by itself.
                if self.dead.contains(&server) {
                    self.recover();
                }
                status(0, &[])
            }
            60 => {
                self.renewals += 1;
                let mut lease = fields.u64();
                if !self.live_leases.contains(&lease) {
                    self.leases += 1;
                    lease = self.leases;
                    self.live_leases.insert(lease);
                }
                let term = self.term.unwrap_or(TERM);
                let now = 1000u64;
                let bytes = [lease, now + term, now].map(u64::to_le_bytes).concat();
                status(0, &[&bytes])
            }
            other => panic!("opcode {other}"),
        }
    }

    fn serves(&self, server: u64, hash: u64) -> bool {
        self.tablets.iter().any(|tablet| {
            let has = (tablet.first..=tablet.last).contains(&hash);
            has && tablet.server == server && tablet.recovering == 0
        })
    }

    /// Answer; `None` ends the connection.
    fn master(&mut self, server: u64, payload: &[u8]) -> Option<Vec<u8>> {
        let mut fields = Fields(payload);
        let (opcode, service) = (fields.u16(), fields.u16());
        assert_eq!(service, 0);
        self.requests += 1;
        if self.retries > 0 {
            self.retries -= 1;
            let text = b"busy\0";
            let delays = [1000u32, 2000, text.len() as u32]
                .map(u32::to_le_bytes)
                .concat();
            return Some(status(17, &[&delays, text]));
        }
        if let Some(payload) = self.payload.take() {
            return Some(payload);
        }
        if opcode == 25 {
            return self.multi_read(server, fields);
        }
        let table = fields.u64();
        match opcode {
            13 => {
                let len = fields.u16();
                let rules = Rules::read(&mut fields);
                let key = fields.bytes(len.into());
                if !self.serves(server, key_hash(table, &key)) {
                    return Some(status(1, &[&[0; 12]]));
                }
                let version = self.objects.get(&key).map(|object| object.0);
                let code = match (rules.check(version), version) {
                    (0, None) => 3,
                    (code, _) => code,
                };
                let Some((version, value)) = self.objects.get(&key).filter(|_| code == 0) else {
                    let version = version.unwrap_or(0).to_le_bytes();
                    return Some(status(code, &[&version, &[0; 4]]));
                };
                let len = (value.len() as u32).to_le_bytes();
                Some(status(0, &[&version.to_le_bytes(), &len, value]))
            }
            14 | 15 => self.change(server, table, opcode == 14, fields),
            22 => {
                assert_eq!(fields.u8(), 1, "values are not asked for");
                let (first, len) = (fields.u64(), fields.u32());
                let iterator = fields.bytes(len as usize);
                if !self.serves(server, first) {
                    return Some(status(1, &[&[0; 16]]));
                }
                match &mut self.lists_left {
                    Some(0) => return Some(status(21, &[&[0; 16]])),
                    Some(left) => *left -= 1,
                    None => {}
                }
                Some(self.list(table, first, &iterator))
            }
            other => panic!("opcode {other}"),
        }
    }

    /// Answer parts as the real one does: until the next would make the answer too long.
    fn multi_read(&mut self, server: u64, mut fields: Fields<'_>) -> Option<Vec<u8>> {
        self.multi.count += 1;
        self.mute |= self.multi.mutes;
        if self.multi.lost > 0 {
            self.multi.lost -= 1;
            return None;
        }
        if let Some(payload) = self.multi.payload.take() {
            return Some(payload);
        }
        let (count, kind) = (fields.u32(), fields.u32());
        assert_eq!(kind, 1, "a read");
        assert!((2..=20).contains(&count), "{count}");
        if let Some(code) = self.multi.refused {
            return Some(status(code, &[&[0; 4]]));
        }
        let (mut parts, mut told) = (Vec::new(), 0u32);
        for number in 0..count {
            let (table, len) = (fields.u64(), fields.u16());
            let rules = Rules::read(&mut fields);
            let key = fields.bytes(len.into());
            let object = self.objects.get(&key);
            let version = object.map(|object| object.0);
            let code = match (rules.check(version), version) {
                _ if !self.serves(server, key_hash(table, &key)) => 1,
                _ if self.multi.busy > 0 => 17,
                (0, None) => 3,
                (code, _) => code,
            };
            // Nobody writes the length of what is not there.
            let mut part = [0xee; 16];
            part[..4].copy_from_slice(&code.to_le_bytes());
            part[4..12].copy_from_slice(&version.unwrap_or(0).to_le_bytes());
            let mut part = part.to_vec();
            if let Some((_, value)) = object.filter(|_| code == 0) {
                let pair = 3 + key.len() + value.len();
                part[12..].copy_from_slice(&(pair as u32).to_le_bytes());
                part.push(1);
                part.extend((key.len() as u16).to_le_bytes());
                part.extend(&key);
                part.extend(value);
            }
            let full = told as usize + 1 > self.multi.parts_max && self.multi.parts_max > 0;
            if full || 8 + parts.len() + part.len() > 8 << 20 {
                break;
            }
            self.multi.busy -= u32::from(code == 17);
            self.multi.answered.push((key, code));
            parts.extend(part);
            told += 1;
            if number == 0
                && let Some((tablet, to)) = self.multi.moves.take()
            {
                self.tablets[tablet].server = to;
            }
        }
        Some(status(0, &[&told.to_le_bytes(), &parts]))
    }

    fn change(
        &mut self,
        server: u64,
        table: u64,
        writes: bool,
        mut fields: Fields<'_>,
    ) -> Option<Vec<u8>> {
        let lease = fields.u64();
        fields.take::<16>();
        let (rpc, ack) = (fields.u64(), fields.u64());
        let (rules, key, value) = match writes {
            true => {
                let len = fields.u32();
                let rules = Rules::read(&mut fields);
                assert_eq!(fields.u8(), 0, "asynchronous");
                assert_eq!(fields.0.len(), len as usize, "all of it follows");
                assert_eq!(fields.u8(), 1, "one key");
                let len = fields.u16();
                (rules, fields.bytes(len.into()), fields.0.to_vec())
            }
            false => {
                let len = fields.u16();
                let rules = Rules::read(&mut fields);
                (rules, fields.bytes(len.into()), Vec::new())
            }
        };
        if !self.serves(server, key_hash(table, &key)) {
            return Some(status(1, &[&[0; 8]]));
        }
        match &mut self.changes_left {
            Some(0) => {
                self.refused += 1;
                return None;
            }
            Some(left) => *left -= 1,
            None => {}
        }
        if self.stale > 0 {
            self.stale -= 1;
            return Some(status(31, &[&[0; 8]]));
        }
        if !self.live_leases.contains(&lease) {
            return Some(status(32, &[&[0; 8]]));
        }
        let acknowledged = self.acknowledged.entry(lease).or_default();
        assert!(rpc > ack && rpc - ack <= 512, "the window");
        if rpc <= *acknowledged {
            return Some(status(31, &[&[0; 8]]));
        }
        *acknowledged = ack.max(*acknowledged);
        let answer = match self.results.get(&(lease, rpc)) {
            Some(saved) => saved.clone(),
            None => {
                let old = self.objects.get(&key).map(|object| object.0);
                let code = rules.check(old);
                let version = match (code, writes) {
                    (0, true) => {
                        self.versions += 1;
                        self.objects.insert(key, (self.versions, value));
                        self.versions
                    }
                    (0, false) => {
                        self.objects.remove(&key);
                        old.unwrap_or(0)
                    }
                    _ => old.unwrap_or(0),
                };
                self.changes += u64::from(code == 0);
                let answer = status(code, &[&version.to_le_bytes()]);
                self.results.insert((lease, rpc), answer.clone());
                answer
            }
        };
        if self.lost_replies > 0 {
            self.lost_replies -= 1;
            return None;
        }
        Some(answer)
    }

    fn list(&self, table: u64, first: u64, iterator: &[u8]) -> Vec<u8> {
        let tablet = self
            .tablets
            .iter()
            .find(|tablet| (tablet.first..=tablet.last).contains(&first))
            .unwrap();
        // Opaque to the client: the last hash, and something of its own.
        let after = iterator
            .strip_prefix(b"it")
            .map(|hash| u64::from_be_bytes(hash.try_into().unwrap()));
        let mut found: Vec<(u64, &Vec<u8>)> = self
            .objects
            .keys()
            .map(|key| (key_hash(table, key), key))
            .filter(|(hash, _)| (tablet.first..=tablet.last).contains(hash))
            .filter(|(hash, _)| after.is_none_or(|after| *hash > after))
            .collect();
        found.sort();
        found.truncate(self.batch);
        let Some((last, _)) = found.last() else {
            let next = tablet.last.wrapping_add(1);
            return status(0, &[&next.to_le_bytes(), &[0; 8]]);
        };
        let iterator = [&b"it"[..], &last.to_be_bytes()].concat();
        let mut payload = Vec::new();
        for (_, key) in &found {
            payload.extend((27 + key.len() as u32).to_le_bytes());
            payload.extend([0; 24]);
            payload.push(1);
            payload.extend((key.len() as u16).to_le_bytes());
            payload.extend(*key);
        }
        let lens = [payload.len() as u32, iterator.len() as u32].map(u32::to_le_bytes);
        status(
            0,
            &[&first.to_le_bytes(), &lens.concat(), &payload, &iterator],
        )
    }
}
