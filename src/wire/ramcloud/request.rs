//! Requests: what is asked of the coordinator and of masters.

use super::{FRAME_MAX, HEAD_LEN, KEY_MAX, Lease, Once, Rules};

const MASTER: u16 = 0;
const COORDINATOR: u16 = 2;
/// Which MULTI_OP.
const MULTI_READ: u32 = 1;

/// Bytes of a frame's head and of the longest fields before a key or name.
pub const FIELDS_MAX: usize = 96;
/// Bytes of a [`Request::MultiRead`] before its keys, and of each key's fields.
pub const MULTI_LEN: (usize, usize) = (HEAD_LEN + 12, 22);

/// Ask for one thing. Names of tables are written with their NUL.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Request<'a> {
    /// Make a table on so many masters, or find the one that is there.
    CreateTable {
        /// Name.
        name: &'a [u8],
        /// Masters.
        span: u32,
    },
    /// Find a table's number.
    GetTableId(&'a [u8]),
    /// Remove a table.
    DropTable(&'a [u8]),
    /// List the servers with these services: 1 for masters.
    GetServerList(u32),
    /// Say which master has which part of a table, by number.
    GetTableConfig(u64),
    /// Say that a server, by number, does not answer.
    HintServerCrashed(u64),
    /// Make a lease longer; 0 for a new one.
    RenewLease(u64),
    /// Look at a lease.
    GetLeaseInfo(u64),
    /// Read an object.
    Read {
        /// Table.
        table: u64,
        /// Key.
        key: &'a [u8],
        /// When not.
        rules: Rules,
    },
    /// Read objects of one master, at most [`multi::PARTS_MAX`](super::multi::PARTS_MAX): a MULTI_OP.
    MultiRead {
        /// Table.
        table: u64,
        /// Keys.
        keys: &'a [&'a [u8]],
    },
    /// Write an object; the value's bytes are sent behind the request.
    Write {
        /// Table.
        table: u64,
        /// Which change.
        once: Once,
        /// When not.
        rules: Rules,
        /// Key.
        key: &'a [u8],
        /// Bytes of the value.
        value: usize,
    },
    /// Remove an object.
    Remove {
        /// Table.
        table: u64,
        /// Which change.
        once: Once,
        /// When not.
        rules: Rules,
        /// Key.
        key: &'a [u8],
    },
    /// Add to an object's 8 bytes.
    Increment {
        /// Table.
        table: u64,
        /// Which change.
        once: Once,
        /// When not.
        rules: Rules,
        /// Key.
        key: &'a [u8],
        /// What to add, as an integer and as a floating point number; one of them is zero.
        by: (i64, f64),
    },
    /// List objects of a tablet.
    Enumerate {
        /// Table.
        table: u64,
        /// Without their values.
        keys_only: bool,
        /// The tablet: the first hash of a key, or what the last reply said.
        first_hash: u64,
        /// What the last reply ended with; empty to begin.
        iterator: &'a [u8],
    },
}

/// Write fields one behind the other.
struct Fields<'b> {
    bytes: &'b mut [u8],
    at: usize,
    fits: bool,
}

impl Fields<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        match self.bytes.get_mut(self.at..self.at + bytes.len()) {
            Some(place) => place.copy_from_slice(bytes),
            None => self.fits = false,
        }
        self.at += bytes.len();
        self
    }

    fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn op(&mut self, opcode: u16, service: u16) -> &mut Self {
        self.u16(opcode).u16(service)
    }

    fn rules(&mut self, rules: &Rules) -> &mut Self {
        self.u64(rules.version.unwrap_or(0));
        // The third is for a version that is not above the one that is given.
        self.u8(rules.absent.into()).u8(rules.exists.into());
        self.u8(0).u8(rules.version.is_some().into())
    }

    fn once(&mut self, once: &Once) -> &mut Self {
        let Lease {
            id,
            expiration,
            timestamp,
        } = once.lease;
        self.u64(id).u64(expiration).u64(timestamp);
        self.u64(once.rpc).u64(once.ack)
    }

    /// Write the length of a name with its NUL.
    fn name_len(&mut self, name: &[u8]) -> &mut Self {
        self.u32(name.len() as u32 + 1)
    }

    fn name(&mut self, name: &[u8]) -> &mut Self {
        self.bytes(name).u8(0)
    }
}

impl Request<'_> {
    /// Write the whole frame but a value's bytes. Gives its length; nothing when the memory is too small, a key is
    /// longer than [`KEY_MAX`], or the frame than [`FRAME_MAX`].
    pub fn emit(&self, nonce: u64, to: &mut [u8]) -> Option<usize> {
        let mut fields = Fields {
            bytes: to,
            at: HEAD_LEN,
            fits: true,
        };
        let mut behind = 0;
        let to = &mut fields;
        match *self {
            Self::CreateTable { name, span } => {
                let to = to.op(10, COORDINATOR).name_len(name);
                to.u32(span).name(name)
            }
            Self::GetTableId(name) => to.op(11, COORDINATOR).name_len(name).name(name),
            Self::DropTable(name) => to.op(12, COORDINATOR).name_len(name).name(name),
            Self::GetServerList(services) => to.op(17, COORDINATOR).u32(services),
            Self::GetTableConfig(table) => to.op(18, COORDINATOR).u64(table),
            Self::HintServerCrashed(server) => to.op(20, COORDINATOR).u64(server),
            Self::RenewLease(lease) => to.op(60, COORDINATOR).u64(lease),
            Self::GetLeaseInfo(lease) => to.op(59, COORDINATOR).u64(lease),
            Self::Read { table, key, rules } => {
                let to = to.op(13, MASTER).u64(table).u16(key_len(key)?);
                to.rules(&rules).bytes(key)
            }
            Self::MultiRead { table, keys } => {
                let count = u32::try_from(keys.len()).ok()?;
                let mut to = to.op(25, MASTER).u32(count).u32(MULTI_READ);
                for key in keys {
                    to = to.u64(table).u16(key_len(key)?);
                    to = to.rules(&Rules::default()).bytes(key);
                }
                to
            }
            Self::Write {
                table,
                once,
                rules,
                key,
                value,
            } => {
                behind = value;
                let pair = u32::try_from(value.checked_add(3 + key.len())?).ok()?;
                let to = to.op(14, MASTER).u64(table).once(&once).u32(pair);
                // Not asynchronous; one key, and where it ends.
                let to = to.rules(&rules).u8(0).u8(1).u16(key_len(key)?);
                to.bytes(key)
            }
            Self::Remove {
                table,
                once,
                rules,
                key,
            } => {
                let to = to.op(15, MASTER).u64(table).once(&once);
                to.u16(key_len(key)?).rules(&rules).bytes(key)
            }
            Self::Increment {
                table,
                once,
                rules,
                key,
                by: (integer, number),
            } => {
                let to = to.op(43, MASTER).u64(table).once(&once);
                let to = to.u16(key_len(key)?).u64(integer as u64);
                to.u64(number.to_bits()).rules(&rules).bytes(key)
            }
            Self::Enumerate {
                table,
                keys_only,
                first_hash,
                iterator,
            } => {
                let to = to.op(22, MASTER).u64(table).u8(keys_only.into());
                to.u64(first_hash)
                    .u32(iterator.len() as u32)
                    .bytes(iterator)
            }
        };
        let Fields { bytes, at, fits } = fields;
        let payload = at - HEAD_LEN + behind;
        if !fits || payload > FRAME_MAX {
            return None;
        }
        let (head, _) = bytes.split_first_chunk_mut::<HEAD_LEN>()?;
        head[..8].copy_from_slice(&nonce.to_le_bytes());
        head[8..].copy_from_slice(&(payload as u32).to_le_bytes());
        Some(at)
    }
}

fn key_len(key: &[u8]) -> Option<u16> {
    const { assert!(KEY_MAX == u16::MAX as usize) };
    u16::try_from(key.len()).ok()
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_not_written() {
        let request = Request::GetTableId(b"data");
        assert_eq!(request.emit(1, &mut [0; 25]), Some(25));
        assert_eq!(request.emit(1, &mut [0; 24]), None);
        assert_eq!(request.emit(1, &mut []), None);
        let long = std::vec![0; KEY_MAX + 1];
        let read = Request::Read {
            table: 1,
            key: &long,
            rules: Rules::default(),
        };
        assert_eq!(read.emit(1, &mut std::vec![0; 1 << 17]), None);
        let write = |value| Request::Write {
            table: 1,
            once: Once {
                lease: Lease::default(),
                rpc: 1,
                ack: 0,
            },
            rules: Rules::default(),
            key: b"k",
            value,
        };
        assert!(write(8 << 20).emit(1, &mut [0; FIELDS_MAX + 1]).is_some());
        assert_eq!(write(FRAME_MAX).emit(1, &mut [0; FIELDS_MAX + 1]), None);
        assert_eq!(write(usize::MAX).emit(1, &mut [0; FIELDS_MAX + 1]), None);
    }
}
