//! A key-value server of the test's own on the loopback interface, and a client that waits.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dpfs::backend::kv::valkey::server::Place;
use dpfs::wire::resp::{Encoder, Item, Reader};
use tempfile::TempDir;

/// The servers that everything is tested with.
pub const KINDS: [&str; 2] = ["valkey", "redis"];

/// Give the cache, with both servers in it.
fn cache() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let fetch = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rig/fetch");
        let fetched = Command::new(fetch).args(KINDS).status();
        assert!(fetched.unwrap().success(), "the servers cannot be fetched");
        std::env::var_os("DPFS_CACHE").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/dpfs"),
            PathBuf::from,
        )
    })
}

/// Run a server until dropped.
pub struct Server {
    process: Child,
    command: Command,
    port: u16,
    /// Port of TLS, where it has one.
    secure: Option<u16>,
    dir: TempDir,
}

impl Server {
    /// Start one of [`KINDS`] with these arguments, and wait until it listens.
    pub fn start(kind: &str, arguments: &[&str]) -> Self {
        Self::begin(kind, arguments, false)
    }

    /// As [`Self::start`], with a port for TLS beside the other; the arguments say with which files.
    #[cfg(feature = "tls")]
    pub fn start_tls(kind: &str, arguments: &[&str]) -> Self {
        Self::begin(kind, arguments, true)
    }

    fn begin(kind: &str, arguments: &[&str], tls: bool) -> Self {
        let program = cache().join(kind).join(format!("{kind}-server"));
        let dir = TempDir::new().unwrap();
        // One after another, so that two tests do not take the same port.
        static STARTING: Mutex<()> = Mutex::new(());
        let _one = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        // The port is free for a moment, and somebody else may take it.
        for _ in 0..10 {
            let port = free_port();
            let mut command = Command::new(&program);
            command
                .current_dir(dir.path())
                .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
                .args(["--unixsocket", "sock", "--port", &port.to_string()])
                .args(arguments)
                .stdout(Stdio::null());
            let secure = tls.then(free_port);
            if let Some(secure) = secure {
                command.args(["--tls-port", &secure.to_string()]);
            }
            let mut process = command.spawn().unwrap();
            if listens(&mut process, port) {
                return Self {
                    process,
                    command,
                    port,
                    secure,
                    dir,
                };
            }
        }
        panic!("{kind} does not listen");
    }

    /// Give where it listens.
    pub fn place(&self) -> Place {
        Place::Tcp("127.0.0.1".into(), self.port)
    }

    /// Give where it speaks TLS.
    #[cfg(feature = "tls")]
    pub fn secure(&self) -> Place {
        Place::Tcp("127.0.0.1".into(), self.secure.expect("started with TLS"))
    }

    /// Give the port by which other nodes know it: with TLS, that of TLS.
    pub fn known_port(&self) -> u16 {
        self.secure.unwrap_or(self.port)
    }

    /// Run the server's own command line program with these words, and give what it prints.
    pub fn command_line(&self, words: &[&str]) -> String {
        let program = cache().join("valkey").join("valkey-cli");
        let mut command = Command::new(program);
        let run = command.args(["-p", &self.port.to_string()]).args(words);
        String::from_utf8(run.output().unwrap().stdout).unwrap()
    }

    /// Give its TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Give its unix socket.
    pub fn socket(&self) -> Place {
        Place::Unix(self.dir.path().join("sock"))
    }

    /// Give its folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Kill it.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Send it a signal by its name.
    pub fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Start it again where it was, after a [`Self::kill`].
    pub fn start_again(&mut self) {
        self.process = self.command.spawn().unwrap();
        assert!(listens(&mut self.process, self.port), "it does not listen");
    }

    /// Connect to it, in RESP3.
    pub fn connect(&self) -> Connection {
        self.connect_with(&[])
    }

    /// As [`Self::connect`], with further words of the greeting.
    pub fn connect_with(&self, words: &[&[u8]]) -> Connection {
        let mut connection = Connection {
            stream: TcpStream::connect(("127.0.0.1", self.port)).unwrap(),
            came: Vec::new(),
        };
        let greeting: [&[u8]; 2] = [b"HELLO", b"3"];
        connection.ask(&[&greeting, words].concat());
        connection
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Wait for a server; false when it ended instead.
fn listens(process: &mut Child, port: u16) -> bool {
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end && process.try_wait().unwrap().is_none() {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return process.try_wait().unwrap().is_none();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = process.kill();
    let _ = process.wait();
    false
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Hold a reply.
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    /// A text.
    Simple(Vec<u8>),
    /// An error.
    Error(Vec<u8>),
    /// An integer.
    Integer(i64),
    /// Nothing.
    Null,
    /// Bytes.
    Bytes(Vec<u8>),
    /// Elements; of a map, keys and values in turn.
    Elements(Vec<Reply>),
}

/// Ask a server one thing at a time.
pub struct Connection {
    stream: TcpStream,
    came: Vec<u8>,
}

impl Connection {
    /// Send a command and wait for its reply.
    pub fn ask(&mut self, strings: &[&[u8]]) -> Reply {
        self.call(|to| {
            to.request(strings.len() as u32);
            for string in strings {
                to.bytes(string);
            }
        })
    }

    /// Send the request that is written, and wait for its reply.
    pub fn call(&mut self, write: impl FnOnce(&mut Encoder<'_>)) -> Reply {
        let mut buffer = vec![0; 1 << 20];
        let mut encoder = Encoder::new(&mut buffer);
        write(&mut encoder);
        let len = encoder.finish().expect("room for the request");
        self.stream.write_all(&buffer[..len]).unwrap();
        loop {
            let mut reader = Reader::new(&self.came);
            if let Some(reply) = whole(&mut reader) {
                assert_eq!(reader.rest(), b"", "one reply to one request");
                self.came.clear();
                return reply;
            }
            let mut piece = [0; 4096];
            let count = self.stream.read(&mut piece).unwrap();
            assert!(count > 0, "the server ended the connection");
            self.came.extend_from_slice(&piece[..count]);
        }
    }
}

fn whole(reader: &mut Reader<'_>) -> Option<Reply> {
    let elements = |count: u64, reader: &mut Reader<'_>| -> Option<Vec<Reply>> {
        (0..count).map(|_| whole(reader)).collect()
    };
    Some(match reader.item().expect("RESP3")? {
        Item::Simple(text) => Reply::Simple(text.into()),
        Item::Error(text) => Reply::Error(text.into()),
        Item::Integer(number) => Reply::Integer(number),
        Item::Null => Reply::Null,
        Item::Bulk(len) | Item::Text { len, .. } => {
            Reply::Bytes(reader.body(len).expect("RESP3")?.into())
        }
        Item::Array(count) => Reply::Elements(elements(count, reader)?),
        Item::Map(count) => Reply::Elements(elements(2 * count, reader)?),
        other => panic!("not expected: {other:?}"),
    })
}
