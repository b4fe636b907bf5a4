//! Connections: records in and out, whole, in pieces, late, or not at all.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use dpfs::wire::rpc::{MARK_LEN, parse_mark};
use dpfs::wire::xdr::Encoder;

use super::Server;
use super::compound::Delivery;

/// Connections that stand.
pub type Connections = Arc<Mutex<Vec<TcpStream>>>;

/// Name of the threads that answer.
pub const THREADS: &str = "responder";

/// Bytes that hold any answer.
const ROOM: usize = 3 << 20;

/// Bytes of a call that is long.
const LONG: usize = 100_000;

/// Serve connections until the process ends; gives the port.
pub fn listen(server: Arc<Mutex<Server>>, connections: Connections) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            if server.lock().unwrap().script.closed {
                continue;
            }
            client.set_nodelay(true).unwrap();
            connections
                .lock()
                .unwrap()
                .push(client.try_clone().unwrap());
            let server = Arc::clone(&server);
            let thread = std::thread::Builder::new().name(THREADS.into());
            let serving = thread.spawn(move || serve(client, &server));
            serving.expect("a thread");
        }
    });
    port
}

/// Cut them all.
pub fn cut(connections: &Connections) {
    for connection in connections.lock().unwrap().drain(..) {
        let _ = connection.shutdown(Shutdown::Both);
    }
}

/// Serve one connection to its end.
fn serve(mut client: TcpStream, server: &Mutex<Server>) -> std::io::Result<()> {
    let mut room = vec![0; ROOM];
    loop {
        let record = record(&mut client, &mut |len| {
            let halves = &mut server.lock().unwrap().script.halves;
            let cut = len >= LONG && *halves > 0;
            *halves -= u32::from(cut);
            cut
        })?;
        let mut out = Encoder::new(&mut room);
        let mut locked = server.lock().unwrap();
        let delivery = locked.call(&record, &mut out);
        let len = out.finish().expect("room for the answer");
        let mut answer = room[MARK_LEN..len].to_vec();
        locked.keep(&answer);
        if let Delivery::Send = delivery {
            locked.mutate(&mut answer);
        }
        let (fragment, segment) = (locked.script.fragment, locked.script.segment);
        let pause = locked.script.pause;
        drop(locked);
        let mut most = usize::MAX;
        match &delivery {
            Delivery::Send => {}
            Delivery::Cut(bytes) | Delivery::Stall(bytes) => most = *bytes,
            Delivery::Silent => continue,
            Delivery::Change(change) => change(&mut answer),
            Delivery::Late(by) => std::thread::sleep(*by),
        }
        let bytes = marked(&answer, fragment);
        for piece in bytes[..bytes.len().min(most)].chunks(segment) {
            client.write_all(piece)?;
            std::thread::sleep(pause);
        }
        if let Delivery::Stall(_) = delivery {
            std::io::copy(&mut client, &mut std::io::sink())?;
        }
        if most != usize::MAX {
            return client.shutdown(Shutdown::Both);
        }
    }
}

/// Read a record of any number of fragments, unless the connection is to be cut in a fragment of this length.
fn record(client: &mut TcpStream, cuts: &mut dyn FnMut(usize) -> bool) -> std::io::Result<Vec<u8>> {
    let mut record = Vec::new();
    loop {
        let mut mark = [0; MARK_LEN];
        client.read_exact(&mut mark)?;
        let (len, last) = parse_mark(mark);
        if cuts(len) {
            client.read_exact(&mut vec![0; len / 3])?;
            client.shutdown(Shutdown::Both)?;
        }
        let begin = record.len();
        record.resize(begin + len, 0);
        client.read_exact(&mut record[begin..])?;
        if last {
            return Ok(record);
        }
    }
}

/// Put marks before the fragments of a record.
fn marked(record: &[u8], fragment: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(record.len() + MARK_LEN);
    let mut fragments = record.chunks(fragment).peekable();
    while let Some(fragment) = fragments.next() {
        let last = u32::from(fragments.peek().is_none()) << 31;
        bytes.extend((fragment.len() as u32 | last).to_be_bytes());
        bytes.extend_from_slice(fragment);
    }
    bytes
}
