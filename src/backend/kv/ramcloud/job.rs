//! What a call is for, and which RPC of it is next.

use super::super::objects::Want;

/// Say what is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Job {
    /// Of an object, or of all.
    Want(Want),
    /// Of the client itself: a lease, the map, a word about a server.
    Lease,
    Map,
    Report {
        server: u64,
    },
    /// Of the client itself, to a master: looks that are asked together.
    Bundle {
        place: u16,
    },
}

impl Job {
    /// Tell whether it is the client's own.
    pub const fn is_own(self) -> bool {
        matches!(
            self,
            Self::Lease | Self::Map | Self::Report { .. } | Self::Bundle { .. }
        )
    }

    /// Tell whether an object's whole value is needed here.
    pub const fn needs_pad(self) -> bool {
        match self {
            Self::Want(Want::Write { .. } | Want::Rename { .. }) => true,
            Self::Want(Want::Resize { size }) => size > 0,
            _ => false,
        }
    }
}

/// Say which RPC is next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Read,
    /// Where there is none.
    Create,
    /// Where there is one, whatever it is.
    Replace,
    /// Wherever.
    Put,
    /// If its version is the one that is known.
    Swap,
    /// As before, for the object that was written in a rename.
    SwapNew,
    Remove,
    /// If its version is the one that was read.
    RemoveOld,
    List,
    /// Of the client itself: to the coordinator, and to a master.
    Own,
    Bundle,
}

impl Step {
    pub const fn changes(self) -> bool {
        !matches!(self, Self::Read | Self::List | Self::Own | Self::Bundle)
    }

    /// Tell whether the value that is kept is sent.
    pub const fn writes(self) -> bool {
        matches!(
            self,
            Self::Create | Self::Replace | Self::Put | Self::Swap | Self::SwapNew
        )
    }
}
