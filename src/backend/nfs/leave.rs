//! The end: what is open is closed, then each core's session ends, and with the last one the client.
//!
//! A server that knows of the end frees at once what it would otherwise keep until the lease runs out: the locks
//! above all.

use core::sync::atomic::Ordering;

use super::instance::Nfs;
use super::link::State;
use super::recovery::{Ask, Phase};

/// Say how far the end is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaving {
    /// There is none.
    No,
    /// What is open is being closed.
    Closing,
    /// The server is being told.
    Telling,
    /// All is said.
    Gone,
}

impl Nfs {
    /// Go on with the end; true when nothing is left to say, or nobody hears it.
    pub(super) fn take_leave(&mut self) -> bool {
        // Who is not reached, or has just begun anew, is not waited for.
        let reached = self.phase == Phase::Up || self.leaving == Leaving::Telling;
        if !reached || self.links[0].state != State::Bound {
            return true;
        }
        match self.leaving {
            Leaving::No => {
                self.volume.close_all();
                self.leaving = Leaving::Closing;
            }
            Leaving::Closing if self.tasks.is_empty() && self.volume.leftovers.is_empty() => {
                self.leaving = Leaving::Telling;
                self.ask(0, Ask::EndSession);
            }
            Leaving::Closing | Leaving::Telling => {}
            Leaving::Gone => return true,
        }
        false
    }

    /// The session is ended: who is the last ends the client.
    pub(super) fn session_ended(&mut self, at: usize) {
        self.phase = Phase::Down;
        if self.volume.cores.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.ask(at, Ask::EndClient);
        } else {
            self.leaving = Leaving::Gone;
        }
    }
}
