//! What a server and this client do not agree on about TLS: kept to be told, by a mount and in the log, until they do.

use super::instance::Nfs;
use super::link::Link;
use super::recovery::Phase;
use crate::backend::tls::Fault;
use crate::wire::nfs4::Status;

impl Nfs {
    /// Give what they do not agree on, or what it means that nothing came of it so far.
    pub fn fault(&self) -> Option<Fault> {
        let silent = || self.links.iter().find_map(Link::silent);
        self.fault.clone().or_else(silent)
    }

    /// Keep why they do not agree, and tell of it once.
    pub(super) fn disagree(&mut self, fault: Fault) {
        if !fault.passes() && self.phase != Phase::Up {
            self.mount_failed = Some(Status::ERR_WRONGSEC);
        }
        if self.fault.as_ref() != Some(&fault) {
            crate::log::warn!("nfs: {}", crate::log::Show(&fault));
            self.fault = Some(fault);
        }
    }

    /// Note that the server ended a connection after the handshake and before any answer.
    pub(super) fn was_cut_short(&mut self) {
        self.disagree(Fault::passing(
            "TLS: the server ended the connection after the handshake, before any answer",
        ));
    }

    /// Note that they do agree.
    pub(super) fn agree(&mut self) {
        if self.fault.take().is_some() {
            crate::log::info!("nfs: the server is reached by TLS again");
        }
    }
}
