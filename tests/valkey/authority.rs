//! Certificates of the test's own.

use std::fs;
use std::path::PathBuf;

use dpfs::backend::tls::Files;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use tempfile::TempDir;

/// Sign certificates, which are in a folder until dropped.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    /// Make one whose server certificate is for 127.0.0.1 and `kv.example`.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("ca"), issuer.pem()).unwrap();
        let authority = Self { issuer, dir };
        authority.sign("server", &["127.0.0.1", "kv.example"], |_| ());
        authority
    }

    /// Sign a certificate for these names, changed as told; it is in the file `<file>`, its key in `<file>.key`.
    pub fn sign(&self, file: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, file);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(file), certificate.pem()).unwrap();
        fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    /// Give the place of a file.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// Trust this one, as nobody in particular.
    pub fn files(&self) -> Files {
        Files {
            ca: self.path("ca"),
            name: None,
            identity: None,
        }
    }
}
