//! Whom this client trusts and who it is: read from files once, before anything is served.

use core::net::SocketAddr;
use std::fs;
use std::path::Path;
use std::string::{String, ToString};
use std::sync::Arc;
use std::vec::Vec;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use super::session::Session;
use super::{Error, Files};
use crate::sys::fd::Fd;

/// Longest file in bytes that is read.
const FILE_MAX: u64 = 4 << 20;

/// Hold what every connection to a server is made with.
pub struct Trust {
    config: Arc<ClientConfig>,
    /// What every server's certificate is to have.
    name: Option<ServerName<'static>>,
    /// Names of servers that were looked up, and what was found.
    names: Vec<(SocketAddr, ServerName<'static>)>,
    /// The file of authorities, as it is shown.
    pub(super) ca: String,
}

impl core::fmt::Debug for Trust {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // The rest holds a private key.
        write!(out, "Trust({})", self.ca)
    }
}

impl Trust {
    /// Read the files. Connections offer this protocol (ALPN, RFC 7301), if any: a server that speaks others alone refuses,
    /// one that says nothing of it is taken.
    ///
    /// # Errors
    /// Which file is not what it should be, in words.
    pub fn read(files: &Files, protocol: Option<&[u8]>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.ca, "tls_ca")? {
            let added = roots.add(certificate);
            added.map_err(|why| refuse("tls_ca", &files.ca, &why.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| format!("TLS: {error}"))?
            .with_root_certificates(roots);
        let mut config = match &files.identity {
            Some((cert, key)) => builder
                .with_client_auth_cert(certificates(cert, "tls_cert")?, private_key(key)?)
                .map_err(|why| {
                    let why = format!("{why}; allowed: the key of tls_cert");
                    refuse("tls_key", key, &why)
                })?,
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
        let name = match &files.name {
            Some(name) => Some(ServerName::try_from(name.clone()).map_err(|_| {
                format!("tls_name {name:?}: allowed: a host's name, or an address")
            })?),
            None => None,
        };
        Ok(Self {
            config: Arc::new(config),
            name,
            names: Vec::new(),
            ca: files.ca.display().to_string(),
        })
    }

    /// Note which name was looked up and gave this address: it is what the certificate there is to have.
    pub fn looked_up(&mut self, address: SocketAddr, host: &str) {
        if let Ok(name) = ServerName::try_from(host.to_string()) {
            self.names.push((address, name));
        }
    }

    /// Begin a session by a connection to that address, which is being made.
    ///
    /// # Errors
    /// As the library says.
    pub fn session(&'static self, fd: Fd, to: &SocketAddr) -> Result<Session, Error> {
        let looked_up = self.names.iter().find(|(address, _)| address == to);
        let name = match (&self.name, looked_up) {
            (Some(name), _) | (None, Some((_, name))) => name.clone(),
            // A node that another one named by its address.
            (None, None) => ServerName::IpAddress(to.ip().into()),
        };
        Session::new(fd, self, Arc::clone(&self.config), name)
    }
}

fn refuse(key: &str, path: &Path, why: &str) -> String {
    format!("{key} {}: {why}", path.display())
}

fn read(path: &Path, key: &str) -> Result<Vec<u8>, String> {
    let len = fs::metadata(path).map(|found| found.len());
    match len.and_then(|len| Ok((len, fs::read(path)?))) {
        Ok((0..=FILE_MAX, bytes)) => Ok(bytes),
        Ok((len, _)) => Err(refuse(key, path, &format!("{len} bytes; allowed: 4 MiB"))),
        Err(error) => Err(refuse(key, path, &error.to_string())),
    }
}

fn certificates(path: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path, key)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err(refuse(
            key,
            path,
            "no certificate in it; allowed: PEM with -----BEGIN CERTIFICATE-----",
        )),
        Ok(found) => Ok(found),
        Err(error) => Err(refuse(key, path, &error.to_string())),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(path, "tls_key")?).map_err(|error| {
        let why = format!("{error}; allowed: PEM with a private key that is not encrypted");
        refuse("tls_key", path, &why)
    })
}
