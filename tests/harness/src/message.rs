//! Requests as bytes.

use dpfs::wire::fuse::{IN_HEADER_LEN, InHeader, OUT_HEADER_LEN, Opcode, ROOT_ID};
use zerocopy::{Immutable, IntoBytes};

use crate::memory::Layout;

/// Build a request. Its length and the length of its extensions are filled in; all else is as given.
#[derive(Clone, Debug)]
pub struct Message {
    /// Header; `len` and `total_extlen` are set by [`Self::bytes`].
    pub header: InHeader,
    /// Argument structure, names and data.
    pub body: Vec<u8>,
    /// Extensions of a create, behind the body.
    pub extensions: Vec<u8>,
    /// Bytes of room for the reply behind its header; `None` for a request without reply.
    pub room: Option<usize>,
}

impl Message {
    /// Begin a request about the root node, by user 0 of process 1, with no room but for an error.
    pub fn new(opcode: Opcode) -> Self {
        Self::numbered(opcode as u32)
    }

    /// Begin a request with any operation number.
    pub fn numbered(opcode: u32) -> Self {
        Self {
            header: InHeader {
                opcode,
                nodeid: ROOT_ID,
                pid: 1,
                ..InHeader::default()
            },
            body: Vec::new(),
            extensions: Vec::new(),
            room: Some(0),
        }
    }

    /// Name the node.
    pub fn node(mut self, node: u64) -> Self {
        self.header.nodeid = node;
        self
    }

    /// Choose the request's number; zero lets the bed choose.
    pub fn unique(mut self, unique: u64) -> Self {
        self.header.unique = unique;
        self
    }

    /// Name the caller.
    pub fn caller(mut self, uid: u32, gid: u32, pid: u32) -> Self {
        (self.header.uid, self.header.gid, self.header.pid) = (uid, gid, pid);
        self
    }

    /// Append an argument structure.
    pub fn arg(self, arg: &(impl IntoBytes + Immutable)) -> Self {
        self.data(arg.as_bytes())
    }

    /// Append a name and its NUL.
    pub fn name(self, name: impl AsRef<[u8]>) -> Self {
        self.data(name.as_ref()).data(&[0])
    }

    /// Append bytes.
    pub fn data(mut self, data: &[u8]) -> Self {
        self.body.extend_from_slice(data);
        self
    }

    /// Append extensions; padded to a multiple of 8 bytes.
    pub fn extension(mut self, record: &[u8]) -> Self {
        self.extensions.extend_from_slice(record);
        let padded = self.extensions.len().next_multiple_of(8);
        self.extensions.resize(padded, 0);
        self
    }

    /// Make room for a reply of so many bytes behind its header.
    pub fn room(mut self, bytes: usize) -> Self {
        self.room = Some(bytes);
        self
    }

    /// Make no room at all, as for FORGET.
    pub fn no_reply(mut self) -> Self {
        self.room = None;
        self
    }

    /// Lay the request out as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let header = InHeader {
            len: (IN_HEADER_LEN + self.body.len() + self.extensions.len()) as u32,
            total_extlen: (self.extensions.len() / 8) as u16,
            ..self.header
        };
        [header.as_bytes(), &self.body, &self.extensions].concat()
    }

    /// Lay the request out as a kernel does: the header, the arguments, the reply's header and the reply's body in
    /// a segment each.
    pub fn layout(&self) -> Layout {
        let bytes = self.bytes();
        let room = self.room.map_or(0, |room| OUT_HEADER_LEN + room);
        Layout::new(&bytes, room).cut(&[IN_HEADER_LEN], &[OUT_HEADER_LEN])
    }
}
