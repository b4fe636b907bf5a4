//! Files and directories in memory.

use std::collections::{BTreeMap, HashMap};

use dpfs::wire::nfs4::{Bitmap, FileKind, Status, Time, attr};
use dpfs::wire::xdr::{Decoder, Encoder};

use super::compound::Refused;

/// Number of the root.
pub const ROOT_NUMBER: u64 = 1;
/// File system of the root.
const FSID: (u64, u64) = (7, 7);

/// Hold one object.
#[derive(Clone)]
pub struct Node {
    pub kind: FileKind,
    pub mode: u32,
    pub links: u32,
    pub change: u64,
    /// Content, or the target of a link.
    pub data: Vec<u8>,
    pub children: BTreeMap<Vec<u8>, u64>,
    pub parent: u64,
    pub fsid: (u64, u64),
    pub fileid: u64,
    /// It is not here: where it is, as `fs_locations4` lies on the wire.
    pub moved: Option<Vec<u8>>,
}

/// Hold them all.
#[derive(Clone)]
pub struct Tree {
    nodes: HashMap<u64, Node>,
    last: u64,
    /// Part of every handle; another one makes those that were given stale.
    pub generation: u32,
    /// When handles end (`FH4_*`).
    pub expires: u32,
}

impl Tree {
    /// Begin with an empty root.
    pub fn new() -> Self {
        let mut tree = Self {
            nodes: HashMap::new(),
            last: 0,
            generation: 1,
            expires: 0,
        };
        tree.add(FileKind::Directory, 0o755, ROOT_NUMBER);
        tree
    }

    fn add(&mut self, kind: FileKind, mode: u32, parent: u64) -> u64 {
        self.last += 1;
        let node = Node {
            kind,
            mode,
            links: 1,
            change: 1,
            data: Vec::new(),
            children: BTreeMap::new(),
            parent,
            fsid: FSID,
            fileid: self.last,
            moved: None,
        };
        self.nodes.insert(self.last, node);
        self.last
    }

    /// Find an object.
    pub fn node(&mut self, number: u64) -> Result<&mut Node, Refused> {
        let found = self.nodes.get_mut(&number);
        found.ok_or(Refused(Status::ERR_STALE))
    }

    /// Take an object away, whatever names it has.
    pub fn take(&mut self, number: u64) -> Option<Node> {
        self.nodes.remove(&number)
    }

    /// Find a directory.
    pub fn directory(&mut self, number: u64) -> Result<&mut Node, Refused> {
        let node = self.node(number)?;
        match node.kind {
            FileKind::Directory => Ok(node),
            _ => Err(Refused(Status::ERR_NOTDIR)),
        }
    }

    /// Find a name.
    pub fn lookup(&mut self, parent: u64, name: &[u8]) -> Result<u64, Refused> {
        let found = self.directory(parent)?.children.get(name).copied();
        found.ok_or(Refused(Status::ERR_NOENT))
    }

    /// Make an object with a name.
    pub fn make(
        &mut self,
        parent: u64,
        name: &[u8],
        kind: FileKind,
        mode: u32,
    ) -> Result<u64, Refused> {
        if self.lookup(parent, name).is_ok() {
            return Err(Refused(Status::ERR_EXIST));
        }
        let made = self.add(kind, mode, parent);
        let directory = self.directory(parent)?;
        directory.children.insert(name.to_vec(), made);
        directory.change += 1;
        Ok(made)
    }

    /// Give an object one more name.
    pub fn link(&mut self, number: u64, parent: u64, name: &[u8]) -> Result<(), Refused> {
        if self.lookup(parent, name).is_ok() {
            return Err(Refused(Status::ERR_EXIST));
        }
        self.node(number)?.links += 1;
        let directory = self.directory(parent)?;
        directory.children.insert(name.to_vec(), number);
        directory.change += 1;
        Ok(())
    }

    /// Take a name away. What has none left stays, for those who have it open.
    pub fn remove(&mut self, parent: u64, name: &[u8]) -> Result<(), Refused> {
        let number = self.lookup(parent, name)?;
        if !self.node(number)?.children.is_empty() {
            return Err(Refused(Status::ERR_NOTEMPTY));
        }
        self.node(number)?.links -= 1;
        let directory = self.directory(parent)?;
        directory.children.remove(name);
        directory.change += 1;
        Ok(())
    }

    /// Change a name.
    pub fn rename(&mut self, from: (u64, &[u8]), to: (u64, &[u8])) -> Result<(), Refused> {
        let number = self.lookup(from.0, from.1)?;
        if self.lookup(to.0, to.1).is_ok() {
            self.remove(to.0, to.1)?;
        }
        self.directory(from.0)?.children.remove(from.1);
        self.directory(to.0)?.children.insert(to.1.to_vec(), number);
        self.node(number)?.parent = to.0;
        Ok(())
    }

    /// Write a handle.
    pub fn put_handle(&self, number: u64, out: &mut Encoder<'_>) {
        out.u32(12);
        out.u32(self.generation);
        out.u64(number);
    }

    /// Read a handle.
    pub fn handle(&mut self, input: &mut Decoder<'_>) -> Result<u64, Refused> {
        let mut bytes = Decoder::new(input.opaque(128)?);
        let (generation, number) = (bytes.u32()?, bytes.u64()?);
        if generation != self.generation {
            return Err(Refused(Status::ERR_FHEXPIRED));
        }
        self.node(number)?;
        Ok(number)
    }

    /// Write attributes: those that are asked for and known.
    pub fn put_attributes(
        &mut self,
        number: u64,
        asked: &Bitmap,
        out: &mut Encoder<'_>,
    ) -> Result<(), Refused> {
        let generation = self.generation;
        let node = self.node(number)?.clone();
        let mut known = asked.and(&Bitmap::of(&KNOWN));
        if node.moved.is_some() {
            known = known.and(&Bitmap::of(&OF_MOVED));
            // Anything else is refused, or, in a directory, said to be.
            if known != *asked && !asked.has(attr::RDATTR_ERROR) {
                return Err(Refused(Status::ERR_MOVED));
            }
        }
        known.encode(out);
        let len_at = out.len();
        out.u32(0);
        let time = Time {
            seconds: node.change as i64,
            nanoseconds: 0,
        };
        for attribute in KNOWN.into_iter().filter(|number| known.has(*number)) {
            match attribute {
                attr::SUPPORTED_ATTRS => Bitmap::of(&KNOWN).encode(out),
                attr::TYPE => out.u32(node.kind.number()),
                attr::CHANGE => out.u64(node.change),
                attr::SIZE => out.u64(node.data.len() as u64),
                attr::FSID => {
                    out.u64(node.fsid.0);
                    out.u64(node.fsid.1);
                }
                attr::LEASE_TIME => out.u32(LEASE),
                attr::RDATTR_ERROR if node.moved.is_some() => out.u32(Status::ERR_MOVED.0),
                attr::FH_EXPIRE_TYPE => out.u32(self.expires),
                attr::RDATTR_ERROR => out.u32(0),
                attr::FS_LOCATIONS => match &node.moved {
                    Some(locations) => locations.chunks(4).for_each(|word| out.fixed(word)),
                    // No path here, and no other place.
                    None => out.u64(0),
                },
                attr::FILEHANDLE => {
                    out.u32(12);
                    out.u32(generation);
                    out.u64(number);
                }
                attr::FILEID | attr::MOUNTED_ON_FILEID => out.u64(node.fileid),
                attr::MAXREAD | attr::MAXWRITE => out.u64(1 << 20),
                attr::MAXNAME => out.u32(255),
                attr::MODE => out.u32(node.mode),
                attr::NUMLINKS => out.u32(node.links),
                attr::OWNER | attr::OWNER_GROUP => out.opaque(b"0"),
                attr::RAWDEV => out.u64(0),
                attr::TIME_ACCESS | attr::TIME_METADATA | attr::TIME_MODIFY => {
                    out.u64(time.seconds as u64);
                    out.u32(time.nanoseconds);
                }
                // Counts of bytes and of files.
                _ => out.u64(1 << 30),
            }
        }
        let len = out.len() - len_at - 4;
        out.patch(len_at, len as u32);
        Ok(())
    }

    /// Read attributes and set them, when there is an object; gives the mode.
    pub fn set_attributes(
        &mut self,
        number: Option<u64>,
        input: &mut Decoder<'_>,
    ) -> Result<u32, Refused> {
        let sent = Bitmap::decode(input)?;
        let mut values = Decoder::new(input.opaque(4096)?);
        let (mut size, mut mode) = (None, None);
        if sent.has(attr::SIZE) {
            size = Some(values.u64()?);
        }
        if sent.has(attr::MODE) {
            mode = Some(values.u32()?);
        }
        if let Some(number) = number {
            let node = self.node(number)?;
            node.change += 1;
            if let Some(size) = size {
                node.data.resize(size as usize, 0);
            }
            node.mode = mode.unwrap_or(node.mode);
        }
        Ok(mode.unwrap_or(0o644))
    }
}

/// Those of what is not here.
const OF_MOVED: [u32; 4] = [
    attr::FSID,
    attr::RDATTR_ERROR,
    attr::FS_LOCATIONS,
    attr::MOUNTED_ON_FILEID,
];

/// Seconds of a lease.
pub const LEASE: u32 = 90;

/// Attributes that are known, in their order.
const KNOWN: [u32; 30] = [
    attr::SUPPORTED_ATTRS,
    attr::TYPE,
    attr::FH_EXPIRE_TYPE,
    attr::CHANGE,
    attr::SIZE,
    attr::FSID,
    attr::LEASE_TIME,
    attr::RDATTR_ERROR,
    attr::FILEHANDLE,
    attr::FILEID,
    attr::FILES_AVAIL,
    attr::FILES_FREE,
    attr::FILES_TOTAL,
    attr::FS_LOCATIONS,
    attr::MAXNAME,
    attr::MAXREAD,
    attr::MAXWRITE,
    attr::MODE,
    attr::NUMLINKS,
    attr::OWNER,
    attr::OWNER_GROUP,
    attr::RAWDEV,
    attr::SPACE_AVAIL,
    attr::SPACE_FREE,
    attr::SPACE_TOTAL,
    attr::SPACE_USED,
    attr::TIME_ACCESS,
    attr::TIME_METADATA,
    attr::TIME_MODIFY,
    attr::MOUNTED_ON_FILEID,
];
