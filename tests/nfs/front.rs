//! A front end of TLS: what a server of RFC 9289 says before the handshake, and plain RPC to a server behind it.
//!
//! Each connection has two threads, one for each direction; they share the state of TLS. What clients say before they are
//! told STARTTLS is held against the one call that may come then.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

use dpfs::wire::rpc::{ASK_FOR_TLS_LEN, ask_for_tls, mark};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use crate::authority::Authority;

/// Say how clients are met.
#[derive(Clone)]
pub enum Manner {
    /// With STARTTLS and a handshake.
    Tls(Arc<ServerConfig>),
    /// With these bytes behind the transaction's number, as a record, instead of STARTTLS.
    Reply(Vec<u32>),
    /// With these bytes instead of an answer.
    Bytes(Vec<u8>),
    /// With STARTTLS, and these bytes instead of a handshake.
    Follow(Vec<u8>),
    /// With the end of the connection.
    End,
}

/// What a front end saw.
#[derive(Default)]
struct Seen {
    /// Handshakes that were done.
    sessions: AtomicU64,
    /// Bytes that came after an answer that offers nothing.
    plain: AtomicU64,
    /// Something else came than the call that asks for TLS.
    strange: AtomicBool,
    /// A handshake ended without the protocol "sunrpc".
    unnamed: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

/// Serve until the process ends.
pub struct Front {
    pub port: u16,
    manner: Arc<Mutex<Manner>>,
    seen: Arc<Seen>,
}

/// Give what a server is with the certificate in these files of an authority, for clients that have to have one if `tells`,
/// and for these protocols.
pub fn config(
    authority: &Authority,
    file: &str,
    tells: bool,
    protocols: &[&str],
) -> Arc<ServerConfig> {
    let certificates = |file: &str| -> Vec<CertificateDer<'static>> {
        let found = CertificateDer::pem_file_iter(authority.path(file)).unwrap();
        found.map(Result::unwrap).collect()
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if tells {
        let mut roots = RootCertStore::empty();
        roots.add(certificates("ca").remove(0)).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(authority.path(&format!("{file}.key"))).unwrap();
    let mut config = builder.with_single_cert(certificates(file), key).unwrap();
    let protocols = protocols.iter().map(|name| name.as_bytes().to_vec());
    config.alpn_protocols = protocols.collect();
    Arc::new(config)
}

impl Front {
    /// Stand before a server of this machine, at 127.0.0.1, with the certificate "server" of this authority.
    pub fn of(authority: &Authority, server: u16) -> Self {
        let config = config(authority, "server", false, &["sunrpc"]);
        Self::at(([127, 0, 0, 1], 0).into(), Manner::Tls(config), server)
    }

    /// Stand there, in this manner.
    pub fn at(address: SocketAddr, manner: Manner, server: u16) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let front = Self {
            port: listener.local_addr().unwrap().port(),
            manner: Arc::new(Mutex::new(manner)),
            seen: Arc::default(),
        };
        let (manner, seen) = (Arc::clone(&front.manner), Arc::clone(&front.seen));
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                client.set_nodelay(true).unwrap();
                let kept = client.try_clone().unwrap();
                seen.connections.lock().unwrap().push(kept);
                let (manner, seen) = (manner.lock().unwrap().clone(), Arc::clone(&seen));
                thread::spawn(move || {
                    // A connection that breaks, a handshake that fails: the client says why.
                    let _ = meet(&client, manner, server, &seen);
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        front
    }

    /// Meet clients in this manner from now on.
    pub fn become_one(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// Count the handshakes that were done.
    pub fn sessions(&self) -> u64 {
        self.seen.sessions.load(SeqCst)
    }

    /// Count the connections that were made.
    pub fn connections(&self) -> usize {
        self.seen.connections.lock().unwrap().len()
    }

    /// Cut all connections.
    pub fn cut(&self) {
        for connection in &*self.seen.connections.lock().unwrap() {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Check that clients said what they are to say, and nothing else that is plain.
    pub fn check(&self) {
        let seen = &self.seen;
        assert!(
            !seen.strange.load(SeqCst),
            "another call than NULL with AUTH_TLS"
        );
        assert_eq!(seen.plain.load(SeqCst), 0, "bytes without TLS");
        assert!(!seen.unnamed.load(SeqCst), "no protocol, or another");
    }
}

/// Meet a client to the connection's end.
fn meet(mut client: &TcpStream, manner: Manner, server: u16, seen: &Arc<Seen>) -> io::Result<()> {
    let mut call = [0; ASK_FOR_TLS_LEN];
    client.read_exact(&mut call)?;
    let xid = u32::from_be_bytes([call[4], call[5], call[6], call[7]]);
    if call != ask_for_tls(xid, 100_003, 4) {
        seen.strange.store(true, SeqCst);
    }
    let reply = |words: &[u32]| {
        let mut record = mark(4 + words.len() * 4).to_vec();
        record.extend(xid.to_be_bytes());
        record.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        record
    };
    let [start, tls] = [b"STAR", b"TTLS"].map(|half| u32::from_be_bytes(*half));
    let offer = reply(&[1, 0, 0, 8, start, tls, 0]);
    let instead = match manner {
        Manner::End => return Ok(()),
        Manner::Reply(words) => reply(&words),
        Manner::Bytes(bytes) => bytes,
        Manner::Follow(bytes) => {
            client.write_all(&offer)?;
            // What comes now is a handshake.
            let _ = client.read(&mut [0; 4096])?;
            client.write_all(&bytes)?;
            io::copy(&mut client, &mut io::sink())?;
            return Ok(());
        }
        Manner::Tls(config) => {
            client.write_all(&offer)?;
            return relay(client, config, server, seen);
        }
    };
    client.write_all(&instead)?;
    let more = io::copy(&mut client, &mut io::sink())?;
    seen.plain.fetch_add(more, SeqCst);
    Ok(())
}

/// Do the handshake, and relay to the server.
fn relay(
    mut client: &TcpStream,
    config: Arc<ServerConfig>,
    server: u16,
    seen: &Arc<Seen>,
) -> io::Result<()> {
    let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
    tls.set_buffer_limit(None);
    let shaken = tls.complete_io(&mut client);
    if let Err(error) = shaken {
        // Why goes to the client, who may still be speaking.
        let _ = tls.write_tls(&mut client);
        let _ = client.shutdown(Shutdown::Write);
        let _ = io::copy(&mut client, &mut io::sink());
        return Err(error);
    }
    seen.sessions.fetch_add(1, SeqCst);
    if tls.alpn_protocol() != Some(b"sunrpc") {
        seen.unnamed.store(true, SeqCst);
    }
    let server = TcpStream::connect(("127.0.0.1", server))?;
    server.set_nodelay(true)?;
    let tls = Arc::new(Mutex::new(tls));
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = answers(&server, client, &tls);
            let _ = client.shutdown(Shutdown::Both);
        });
        let end = calls(client, &server, &tls);
        let _ = server.shutdown(Shutdown::Both);
        end
    })
}

/// Pass on what the client says.
fn calls(
    mut client: &TcpStream,
    mut server: &TcpStream,
    tls: &Mutex<ServerConnection>,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let (mut plain, mut filled) = (Vec::new(), 0);
    loop {
        // At first, what came with the end of the handshake.
        let mut come = &buffer[..filled];
        loop {
            {
                let mut tls = tls.lock().unwrap();
                if !come.is_empty() {
                    tls.read_tls(&mut come)?;
                }
                let state = tls.process_new_packets().map_err(io::Error::other)?;
                plain.resize(state.plaintext_bytes_to_read(), 0);
                tls.reader().read_exact(&mut plain)?;
            }
            server.write_all(&plain)?;
            if come.is_empty() {
                break;
            }
        }
        filled = client.read(&mut buffer)?;
        if filled == 0 {
            return Ok(());
        }
    }
}

/// Pass on what the server says.
fn answers(
    mut server: &TcpStream,
    mut client: &TcpStream,
    tls: &Mutex<ServerConnection>,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let come = server.read(&mut buffer)?;
        if come == 0 {
            return Ok(());
        }
        let mut tls = tls.lock().unwrap();
        tls.writer().write_all(&buffer[..come])?;
        let mut records = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut records)?;
        }
        // Others may take in what the client says while this is on its way, but records stay in order: this is the one
        // who sends.
        drop(tls);
        client.write_all(&records)?;
    }
}
