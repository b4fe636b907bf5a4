//! Clients, their sessions, and the slots of those.

use std::collections::HashMap;

use dpfs::wire::nfs4::{SessionId, Status, Verifier};
use dpfs::wire::xdr::{Decoder, Encoder};

use super::compound::Refused;

/// Slots of a session.
const SLOTS: u32 = 64;

/// Hold a client.
pub struct Client {
    owner: Vec<u8>,
    verifier: Verifier,
    confirmed: bool,
    sequence: u32,
    /// It has said that it has all back.
    pub complete: bool,
}

/// Hold a slot.
#[derive(Clone, Default)]
pub struct Slot {
    pub sequence: u32,
    /// The last call, to know a repetition by.
    pub call: Vec<u8>,
    /// Its answer, if it is kept.
    pub answer: Option<Vec<u8>>,
}

/// Hold a session.
pub struct Session {
    pub client: u64,
    pub slots: Vec<Slot>,
    /// Most operations of a call.
    pub operations: u32,
}

/// Hold all of them.
pub struct Sessions {
    pub clients: HashMap<u64, Client>,
    pub sessions: HashMap<SessionId, Session>,
    next: u64,
    /// Largest call of a session that is made.
    pub max_request: u32,
    /// Largest answer of one.
    pub max_response: u32,
    /// Most operations of a call of one.
    pub max_operations: u32,
}

impl Sessions {
    /// Begin without any.
    pub fn new() -> Self {
        Self {
            clients: HashMap::new(),
            sessions: HashMap::new(),
            next: 1,
            max_request: 2 << 20,
            max_response: 2 << 20,
            max_operations: 100,
        }
    }

    /// EXCHANGE_ID.
    pub fn exchange(
        &mut self,
        input: &mut Decoder<'_>,
        out: &mut Encoder<'_>,
    ) -> Result<(), Refused> {
        let verifier: Verifier = input.fixed()?;
        let owner = input.opaque(1024)?.to_vec();
        input.skip(3)?;
        let known = self
            .clients
            .iter()
            .find(|(_, client)| client.owner == owner && client.verifier == verifier)
            .map(|(id, _)| *id);
        let id = known.unwrap_or_else(|| {
            self.clients.retain(|_, client| client.owner != owner);
            self.next += 1;
            let client = Client {
                owner,
                verifier,
                confirmed: false,
                sequence: 1,
                complete: false,
            };
            self.clients.insert(self.next, client);
            self.next
        });
        let client = &self.clients[&id];
        out.u64(id);
        out.u32(client.sequence);
        out.u32(if client.confirmed {
            0x8001_0000
        } else {
            0x0001_0000
        });
        out.u32(0);
        out.u64(1);
        out.opaque(b"fake");
        out.opaque(b"fake");
        out.u32(0);
        Ok(())
    }

    /// CREATE_SESSION.
    pub fn create(
        &mut self,
        input: &mut Decoder<'_>,
        out: &mut Encoder<'_>,
    ) -> Result<(), Refused> {
        let (id, sequence) = (input.u64()?, input.u32()?);
        input.skip(1)?;
        let mut words = [0; 7];
        for word in &mut words {
            *word = input.u32()?;
        }
        // The backchannel's attributes and security follow, and nothing behind them.
        let client = self.clients.get_mut(&id);
        let client = client.ok_or(Refused(Status::ERR_STALE_CLIENTID))?;
        if sequence != client.sequence {
            return Err(Refused(Status::ERR_SEQ_MISORDERED));
        }
        client.sequence += 1;
        client.confirmed = true;
        self.next += 1;
        let mut session = [0; 16];
        session[..8].copy_from_slice(&self.next.to_be_bytes());
        let slots = vec![Slot::default(); SLOTS as usize];
        let operations = words[4].min(self.max_operations);
        let made = Session {
            client: id,
            slots,
            operations,
        };
        self.sessions.insert(session, made);
        out.fixed(&session);
        out.u32(sequence);
        out.u32(0);
        for most in [SLOTS.min(words[5]), 1] {
            out.u32(0);
            for word in [
                self.max_request,
                self.max_response,
                8192,
                operations,
                most,
                0,
            ] {
                out.u32(word);
            }
        }
        Ok(())
    }

    /// Forget a client, its lease having run out.
    pub fn expire(&mut self) {
        self.sessions.clear();
        self.clients.clear();
    }
}
