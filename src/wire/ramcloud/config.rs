//! What the coordinator says about tables and servers: messages of Protocol Buffers.
//!
//! Of a message only the fields that are wanted are read; others, whatever they are, are passed over. Source: Protocol
//! Buffers, "Encoding"; RAMCloud, `src/TableConfig.proto` and `src/ServerList.proto`.

use super::Malformed;

/// The value of one field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Read the fields of one message.
#[derive(Clone, Copy, Debug)]
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn bytes(&mut self, len: u64) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(len).map_err(|_| Malformed)?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*bytes)
    }

    /// Read a field: its number and value.
    fn field(&mut self) -> Result<Option<(u64, Value<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Number(u64::from_le_bytes(self.fixed()?)),
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.bytes(len)?)
            }
            5 => Value::Number(u32::from_le_bytes(self.fixed()?).into()),
            _ => return Err(Malformed),
        };
        Ok(Some((tag >> 3, value)))
    }

    /// Find the next of the messages in field 1.
    fn message(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        while let Some(field) = self.field()? {
            if let (1, Value::Bytes(message)) = field {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }
}

/// A part of a table, by the hashes of its keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tablet<'a> {
    /// Table.
    pub table: u64,
    /// First and last hash.
    pub hashes: (u64, u64),
    /// Its master serves it; otherwise its content is being recovered.
    pub serves: bool,
    /// The master, by number.
    pub server: u64,
    /// Where the master is; see [`super::locator`].
    pub locator: &'a [u8],
}

/// Give the tablets of a table. Ends behind the first that is malformed.
pub fn tablets(message: &[u8]) -> impl Iterator<Item = Result<Tablet<'_>, Malformed>> {
    messages(message, |mut fields| {
        let mut tablet = Tablet {
            table: 0,
            hashes: (0, 0),
            serves: true,
            server: 0,
            locator: &[],
        };
        while let Some(field) = fields.field()? {
            match field {
                (1, Value::Number(table)) => tablet.table = table,
                (2, Value::Number(first)) => tablet.hashes.0 = first,
                (3, Value::Number(last)) => tablet.hashes.1 = last,
                (4, Value::Number(state)) => tablet.serves = state == 0,
                (5, Value::Number(server)) => tablet.server = server,
                (6, Value::Bytes(locator)) => tablet.locator = locator,
                _ => {}
            }
        }
        match tablet.hashes.0 <= tablet.hashes.1 {
            true => Ok(tablet),
            false => Err(Malformed),
        }
    })
}

/// A server of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Server<'a> {
    /// Its services, one bit each; 1 for a master.
    pub services: u64,
    /// Number.
    pub id: u64,
    /// Where it is.
    pub locator: &'a [u8],
}

/// Give the servers of a list. Ends behind the first that is malformed.
pub fn servers(message: &[u8]) -> impl Iterator<Item = Result<Server<'_>, Malformed>> {
    messages(message, |mut fields| {
        let mut server = Server {
            services: 0,
            id: 0,
            locator: &[],
        };
        while let Some(field) = fields.field()? {
            match field {
                (1, Value::Number(services)) => server.services = services,
                (2, Value::Number(id)) => server.id = id,
                (3, Value::Bytes(locator)) => server.locator = locator,
                _ => {}
            }
        }
        Ok(server)
    })
}

fn messages<'a, T>(
    message: &'a [u8],
    read: impl Fn(Fields<'a>) -> Result<T, Malformed>,
) -> impl Iterator<Item = Result<T, Malformed>> {
    let mut fields = Some(Fields(message));
    core::iter::from_fn(move || {
        let one = match fields.as_mut()?.message() {
            Ok(one) => read(Fields(one?)),
            Err(malformed) => Err(malformed),
        };
        if one.is_err() {
            fields = None;
        }
        Some(one)
    })
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn unknown_fields_are_passed_over_and_broken_ones_end_the_list() {
        // Field 15 as each kind, then a tablet with nothing but a server.
        let mut bytes = std::vec![0x78, 1, 0x79, 1, 2, 3, 4, 5, 6, 7, 8, 0x7a, 2, 1, 2];
        bytes.extend([0x7d, 1, 2, 3, 4, 0x0a, 9, 0x29, 9, 0, 0, 0, 0, 0, 0, 0]);
        let found: Vec<_> = tablets(&bytes).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].map(|tablet| tablet.server), Ok(9));
        bytes.extend([0x0b, 0]);
        assert_eq!(tablets(&bytes).nth(1), Some(Err(Malformed)));
        assert_eq!(tablets(&bytes).count(), 2);
        // First hash 2, last 1.
        let upside_down = [0x0a, 4, 0x10, 2, 0x18, 1];
        assert_eq!(tablets(&upside_down).next(), Some(Err(Malformed)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(tablets(&bytes).count() <= bytes.len());
            prop_assert!(servers(&bytes).count() <= bytes.len());
        }
    }
}
