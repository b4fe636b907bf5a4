//! Why a server and this client do not agree, in words that say what was found and what is allowed.

use core::fmt;
use std::boxed::Box;
use std::format;
use std::string::String;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// Say in words why a connection is of no use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    words: Box<str>,
    passes: bool,
}

/// Longest text of a fault in bytes: names in a certificate are the server's.
const TEXT: usize = 400;

impl Fault {
    /// Keep words for what may pass without anybody doing anything.
    pub fn passing(words: &str) -> Self {
        Self {
            passes: true,
            ..Self::new(words)
        }
    }

    /// Tell whether it may pass without anybody doing anything.
    pub const fn passes(&self) -> bool {
        self.passes
    }

    /// Keep words, what is no plain text left out.
    pub fn new(words: &str) -> Self {
        let plain = words.chars().map(|each| match each {
            ' '..='~' => each,
            _ => '?',
        });
        Self {
            words: plain.take(TEXT).collect::<String>().into(),
            passes: false,
        }
    }

    /// Say what the library found. `name` is what the server's certificate is to have, `ca` the file of authorities.
    pub(super) fn of(error: &Error, name: &str, ca: &str) -> Self {
        Self::new(&match error {
            Error::InvalidCertificate(why) => certificate(why, name, ca),
            Error::AlertReceived(alert) => refused(*alert),
            Error::InvalidMessage(_) => {
                format!(
                    "TLS: what came is no TLS ({error}); allowed: a port where the server speaks TLS"
                )
            }
            Error::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig) => {
                too_old()
            }
            _ => format!("TLS: {error}"),
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.words)
    }
}

fn too_old() -> String {
    "TLS: the server has no TLS 1.3; allowed: TLS 1.3".into()
}

fn certificate(why: &CertificateError, name: &str, ca: &str) -> String {
    let found = "TLS: the server's certificate";
    match why {
        // Signed by somebody who has the name of one of them.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("{found} is signed by nobody of tls_ca; allowed: one that leads to {ca}")
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names = presented.join(", ");
            format!(
                "{found} is for {names:?}; allowed: {name:?}, which is tls_name or else the address"
            )
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("{found} has expired by this machine's clock")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("{found} is not valid yet by this machine's clock")
        }
        other => format!("{found} is refused: {other}"),
    }
}

/// Say what a server means that ends a handshake with an alert.
fn refused(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => {
            "TLS: the server wants a certificate of this client; allowed: tls_cert and tls_key"
                .into()
        }
        AlertDescription::UnknownCA
        | AlertDescription::DecryptError
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown => {
            format!("TLS: the server refuses the certificate of tls_cert ({alert:?})")
        }
        AlertDescription::ProtocolVersion => too_old(),
        other => format!("TLS: the server refuses ({other:?})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn names_of_a_certificate_are_kept_short_and_plain() {
        let presented = (0..1000).map(|each| format!("\u{1b}[2J{each}\n")).collect();
        let expected = "kv.example".try_into().unwrap();
        let why = CertificateError::NotValidForNameContext {
            expected,
            presented,
        };
        let fault = Fault::of(&why.into(), "kv.example", "/ca").to_string();
        assert_eq!(fault.len(), TEXT);
        assert!(fault.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    }
}
