//! The same path to the `kv` backend on the `valkey` engine, beside a bare client of one connection that asks the same
//! server for the same bytes: GETRANGE and SETRANGE of 4 KiB at random places of values of 64 KiB.
//!
//! Server, device and driver share this machine's cores.

use std::io::{IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Instant as Clock;

use dpfs::backend::kv::served::{ALWAYS, Served};
use dpfs::backend::kv::valkey::server::{Config, Place, Server as Volume};
use dpfs::wire::fuse::{Opcode, ROOT_ID};
use zerocopy::IntoBytes;

use super::kv::create;
use super::rates::{FILE, Run};
use super::server::{Connection, Reply, Server};
use super::{Bench, PAGE};

/// Bytes of a chunk.
const CHUNK: u64 = 64 << 10;
const NAMES: u64 = 20_000;

/// Give the seconds that the server has worked.
fn cpu(server: &mut Connection) -> f64 {
    let Reply::Bytes(report) = server.ask(&[b"INFO", b"cpu"]) else {
        panic!("no report");
    };
    let report = String::from_utf8(report).unwrap();
    let field = |name: &str| {
        let line = report.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse::<f64>().unwrap()
    };
    field("used_cpu_sys:") + field("used_cpu_user:")
}

/// What a bare client reads and writes.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn connect(place: &Place) -> Box<dyn Stream> {
    match place {
        Place::Tcp(host, port) => {
            let stream = TcpStream::connect((host.as_str(), *port)).unwrap();
            stream.set_nodelay(true).unwrap();
            Box::new(stream)
        }
        Place::Unix(path) => Box::new(UnixStream::connect(path).unwrap()),
    }
}

/// Ask by one connection for what `read` says, `depth` at a time, with no more than that takes.
fn bare(run: Run<'_>, place: &Place, read: bool) {
    let depth = run.depth;
    let mut stream = connect(place);
    let value = [7u8; PAGE as usize];
    let mut heads: Vec<Vec<u8>> = vec![Vec::new(); depth];
    let mut buffer = vec![0; 1 << 20];
    let mut places = run.places;
    let (mut sent, mut latencies) = (
        std::collections::VecDeque::new(),
        Vec::with_capacity(1 << 20),
    );
    let mut have = 0;
    let whole = if read { PAGE as usize + 9 } else { 8 };
    loop {
        let now = Clock::now();
        let count = if run.goes_on() { depth - sent.len() } else { 0 };
        for head in &mut heads[..count] {
            let place = places.next_place();
            let key = format!("{{{}}}d", place / CHUNK);
            let at = (place % CHUNK).to_string();
            head.clear();
            if read {
                let end = (place % CHUNK + PAGE - 1).to_string();
                write!(
                    head,
                    "*4\r\n$8\r\nGETRANGE\r\n${}\r\n{key}\r\n${}\r\n{at}\r\n${}\r\n{end}\r\n",
                    key.len(),
                    at.len(),
                    end.len()
                )
            } else {
                write!(
                    head,
                    "*4\r\n$8\r\nSETRANGE\r\n${}\r\n{key}\r\n${}\r\n{at}\r\n$4096\r\n",
                    key.len(),
                    at.len()
                )
            }
            .unwrap();
            sent.push_back(now);
        }
        let mut pieces = Vec::with_capacity(3 * depth);
        for head in &heads[..count] {
            pieces.push(IoSlice::new(head));
            if !read {
                pieces.extend([IoSlice::new(&value), IoSlice::new(b"\r\n")]);
            }
        }
        let mut pieces = &mut pieces[..];
        while !pieces.is_empty() {
            let count = stream.write_vectored(pieces).unwrap();
            IoSlice::advance_slices(&mut pieces, count);
        }
        if sent.is_empty() {
            break;
        }
        have += stream.read(&mut buffer[have..]).unwrap();
        let mut at = 0;
        while have - at >= whole {
            // Every reply is as long as the others.
            assert_eq!(buffer[at], if read { b'$' } else { b':' });
            at += whole;
            let since: Clock = sent.pop_front().unwrap();
            latencies.push(since.elapsed().as_secs_f32() * 1e6);
        }
        buffer.copy_within(at..have, 0);
        have -= at;
    }
    let what = if read {
        "GETRANGE 4 KiB"
    } else {
        "SETRANGE 4 KiB"
    };
    run.report(what, latencies);
}

/// Measure over TCP and over a unix socket.
pub fn run() {
    let server = Server::start("valkey", &[]);
    // 64 KiB, so that each SETRANGE answers with the same length.
    let mut connection = server.connect();
    for chunk in 0..FILE / CHUNK {
        let key = format!("{{{chunk}}}d");
        connection.ask(&[b"SETRANGE", key.as_bytes(), b"0", &vec![1; CHUNK as usize]]);
    }
    let mut work = || cpu(&mut connection);
    for (who, place) in [("tcp", server.place()), ("unix", server.socket())] {
        let volume = Volume::open(&Config {
            places: std::slice::from_ref(&place),
            user: None,
            password_file: None,
            volume: who,
            chunk: CHUNK as u32,
            timeout: 60_000_000_000,
            durability: None,
            tls: None,
            spread: None,
        });
        let served = Served::new(volume.unwrap(), 1 << 17, ALWAYS, false).unwrap();
        let served: &'static Served<Volume> = Box::leak(Box::new(served));
        let tree = served.attach(256).unwrap();
        let mut bench = Bench::new(served, Box::leak(Box::new(tree)), false);
        bench.mount();
        bench.make_file("file");
        let mut page = 0;
        bench.keep(32, |bench, slot| {
            page += 1;
            let goes_on = page <= FILE / PAGE;
            goes_on.then(|| bench.content(slot, Opcode::WRITE, (page - 1) * PAGE))
        });
        let who_dpfs = format!("dpfs, {who}");
        for depth in [1, 32] {
            for opcode in [Opcode::READ, Opcode::WRITE] {
                let who_bare = format!("bare client, {who}");
                let run = Run::start("valkey", &mut work, &who_bare, depth);
                bare(run, &place, opcode == Opcode::READ);
                bench.timed(Run::start("valkey", &mut work, &who_dpfs, depth), opcode);
            }
        }
        bench.node = ROOT_ID;
        for (opcode, args, room) in [
            (Opcode::CREATE, create().as_bytes(), 144),
            (Opcode::LOOKUP, &[][..], 128),
            (Opcode::UNLINK, &[], 0),
        ] {
            let run = Run::start("valkey", &mut work, &who_dpfs, 32);
            let mut number = 0;
            let latencies = bench.keep(32, |bench, slot| {
                number += 1;
                let name = format!("name-{number}");
                (number <= NAMES).then(|| bench.named(slot, opcode, args, &name, room))
            });
            run.report(opcode.name(), latencies);
        }
    }
}
