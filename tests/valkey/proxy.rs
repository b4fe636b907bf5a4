//! A proxy between an engine and its server, which counts turns and cuts connections.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

use dpfs::backend::kv::valkey::server::Place;

/// What a proxy saw, and what it is to do.
#[derive(Default)]
struct State {
    /// How often the server spoke after the engine had.
    turns: AtomicU64,
    /// Connections that were made.
    connections: AtomicU64,
    /// A connection is cut after so many bytes at most, both directions together; zero for never.
    cut: AtomicU64,
    /// Instead of cutting it there, a byte is changed.
    spoil: AtomicBool,
    /// Bytes are handed on in pieces of so many at most; zero for as they come.
    most: AtomicU64,
    /// Pieces of what the engine says that still get through, and one more; zero for all.
    pieces: AtomicU64,
    /// Whose word it was: true for the engine's.
    asked: Mutex<bool>,
}

/// Run until dropped, with its threads.
pub struct Proxy {
    place: Place,
    state: Arc<State>,
}

impl Proxy {
    pub fn new(server: &Place) -> Self {
        let Place::Tcp(host, port) = server.clone() else {
            panic!("{server}");
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Place::Tcp("127.0.0.1".into(), listener.local_addr().unwrap().port());
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            let mut random = 7u64;
            for engine in listener.incoming() {
                let Ok(engine) = engine else { return };
                let Ok(server) = TcpStream::connect((host.as_str(), port)) else {
                    continue;
                };
                shared.connections.fetch_add(1, SeqCst);
                for stream in [&engine, &server] {
                    stream.set_nodelay(true).unwrap();
                }
                // A different place each time, so that in the end everything gets through.
                let most = shared.cut.load(SeqCst);
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let left = if most == 0 {
                    0
                } else {
                    1 + (random >> 33) % most
                };
                let left = Arc::new(AtomicU64::new(left));
                for asks in [true, false] {
                    let (from, to) = (engine.try_clone().unwrap(), server.try_clone().unwrap());
                    let (from, to) = if asks { (from, to) } else { (to, from) };
                    let (state, left) = (Arc::clone(&shared), Arc::clone(&left));
                    thread::spawn(move || forward(from, to, asks, &state, &left));
                }
            }
        });
        Self { place, state }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn turns(&self) -> u64 {
        self.state.turns.load(SeqCst)
    }

    pub fn connections(&self) -> u64 {
        self.state.connections.load(SeqCst)
    }

    /// Let so many pieces of what the engine says get through, and nothing more.
    pub fn lose_after(&self, pieces: u64) {
        self.state.pieces.store(pieces + 1, SeqCst);
    }

    /// Cut each connection that is made from now on after at most so many bytes; zero for never.
    pub fn cut_within(&self, bytes: u64) {
        self.state.cut.store(bytes, SeqCst);
    }

    /// Change a byte of each connection that is made from now on, within so many; zero for none.
    #[cfg(feature = "tls")]
    pub fn spoil_within(&self, bytes: u64) {
        self.state.spoil.store(bytes > 0, SeqCst);
        self.cut_within(bytes);
    }

    /// Hand bytes on in pieces of so many at most.
    #[cfg(feature = "tls")]
    pub fn in_pieces_of(&self, bytes: u64) {
        self.state.most.store(bytes, SeqCst);
    }
}

impl State {
    /// Tell whether a piece of what the engine says is lost.
    fn loses(&self) -> bool {
        let less = |left: u64| (left > 1).then(|| left - 1);
        let taken = self.pieces.fetch_update(SeqCst, SeqCst, less);
        taken == Err(1)
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, asks: bool, state: &State, left: &AtomicU64) {
    let limited = left.load(SeqCst) > 0;
    let mut buffer = [0; 1 << 16];
    while let Ok(mut count @ 1..) = from.read(&mut buffer) {
        let spoke = std::mem::replace(&mut *state.asked.lock().unwrap(), asks);
        if spoke && !asks {
            state.turns.fetch_add(1, SeqCst);
        }
        if asks && state.loses() {
            continue;
        }
        let mut ends = false;
        if limited {
            let before = left
                .fetch_update(SeqCst, SeqCst, |left| {
                    Some(left.saturating_sub(count as u64))
                })
                .unwrap();
            let here = before <= count as u64;
            if state.spoil.load(SeqCst) {
                if here && before > 0 {
                    buffer[before as usize - 1] ^= 0x10;
                }
            } else {
                ends = here;
                count = count.min(before as usize);
            }
        }
        let most = match state.most.load(SeqCst) {
            0 => count.max(1),
            pieces => pieces as usize,
        };
        let mut pieces = buffer[..count].chunks(most);
        if pieces.any(|piece| to.write_all(piece).is_err()) || ends {
            break;
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}
