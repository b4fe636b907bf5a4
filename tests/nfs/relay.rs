//! A relay between client and server that counts calls, loses answers, changes them, and cuts connections.
//!
//! Each connection has two threads, one for each direction. They pass whole records (RFC 5531, section 11), so what is
//! lost or changed is one call or one answer.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Change an answer.
type Change = Box<dyn FnMut(&mut Vec<u8>) + Send>;

#[derive(Default)]
struct Control {
    calls: AtomicU64,
    /// Calls of the server.
    backward: AtomicU64,
    /// The next answer is lost, and its connection with it.
    lose: AtomicBool,
    change: Mutex<Option<Change>>,
    /// Nobody gets through.
    closed: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

/// Relay connections to a server until the process ends.
pub struct Relay {
    pub port: u16,
    control: Arc<Control>,
}

impl Relay {
    /// Relay to a server.
    pub fn to(server: SocketAddr) -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), server)
    }

    /// Relay what comes to an address of this machine.
    pub fn at(address: SocketAddr, server: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        let control = Arc::new(Control::default());
        let shared = Arc::clone(&control);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                // A server that is gone: the client sees a connection that ends at once.
                if !shared.closed.load(Ordering::SeqCst)
                    && let Ok(server) = TcpStream::connect(server)
                {
                    shared.connect(client, server);
                }
            }
        });
        Self { port, control }
    }

    /// Let nobody through from now on, or everybody again.
    pub fn close(&self, closed: bool) {
        self.control.closed.store(closed, Ordering::SeqCst);
        if closed {
            self.cut();
        }
    }

    /// Give the number of calls so far.
    pub fn calls(&self) -> u64 {
        self.control.calls.load(Ordering::SeqCst)
    }

    /// Give the number of the server's calls so far.
    pub fn calls_of_server(&self) -> u64 {
        self.control.backward.load(Ordering::SeqCst)
    }

    /// Lose the next answer, and cut its connection: the call was done, and nobody knows.
    pub fn lose_next_answer(&self) {
        self.control.lose.store(true, Ordering::SeqCst);
    }

    /// Tell whether the answer that was to be lost is lost.
    pub fn lost(&self) -> bool {
        !self.control.lose.load(Ordering::SeqCst)
    }

    /// Change every answer from now on.
    pub fn change(&self, change: Option<Change>) {
        *self.control.change.lock().unwrap() = change;
    }

    /// Cut all connections.
    pub fn cut(&self) {
        for connection in self.control.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Control {
    fn connect(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        for end in [&client, &server] {
            end.set_nodelay(true).unwrap();
            self.connections
                .lock()
                .unwrap()
                .push(end.try_clone().unwrap());
        }
        let (calls, answers) = (Arc::clone(self), Arc::clone(self));
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || {
            while let Some(record) = record(&mut from) {
                calls
                    .calls
                    .fetch_add(u64::from(is_call(&record)), Ordering::SeqCst);
                if to.write_all(&record).is_err() {
                    break;
                }
            }
            end(&from, &to);
        });
        let (mut from, mut to) = (server, client);
        std::thread::spawn(move || {
            while let Some(mut record) = record(&mut from) {
                let answer = !is_call(&record);
                if answer && answers.lose.swap(false, Ordering::SeqCst) {
                    break;
                }
                if !answer {
                    answers.backward.fetch_add(1, Ordering::SeqCst);
                } else if let Some(change) = answers.change.lock().unwrap().as_mut() {
                    change(&mut record);
                }
                if to.write_all(&record).is_err() {
                    break;
                }
            }
            end(&from, &to);
        });
    }
}

/// Tell whether a record is a call, which the server makes, too.
fn is_call(record: &[u8]) -> bool {
    record.get(8..12) == Some(&[0; 4])
}

fn end(one: &TcpStream, other: &TcpStream) {
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}

/// Read a record with its mark; `None` at the end of the connection.
fn record(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut mark = [0; 4];
    from.read_exact(&mut mark).ok()?;
    let len = u32::from_be_bytes(mark) as usize & 0x7fff_ffff;
    let mut record = mark.to_vec();
    record.resize(4 + len, 0);
    from.read_exact(&mut record[4..]).ok()?;
    Some(record)
}
