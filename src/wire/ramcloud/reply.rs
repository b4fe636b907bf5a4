//! Replies: read from the front of what has come.

use super::{FRAME_MAX, HEAD_LEN, Lease, Malformed, Status};

/// Head of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The request that is answered.
    pub nonce: u64,
    /// Bytes of the payload.
    pub len: usize,
}

impl Head {
    /// Read a head; `None` when it has not come in full.
    ///
    /// # Errors
    /// [`Malformed`] for a payload that is too long, or has no status.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some(head) = bytes.first_chunk::<HEAD_LEN>() else {
            return Ok(None);
        };
        let mut fields = Fields(head);
        let (nonce, len) = (fields.u64()?, fields.u32()? as usize);
        match (4..=FRAME_MAX).contains(&len) {
            true => Ok(Some(Self { nonce, len })),
            false => Err(Malformed),
        }
    }
}

/// Read fields one behind the other.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_le_bytes)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }
}

/// Bytes of the status.
pub const STATUS_LEN: usize = 4;

/// Read the status, in the first [`STATUS_LEN`] bytes of a payload.
///
/// # Errors
/// [`Malformed`] when they are not there.
pub fn status(payload: &[u8]) -> Result<Status, Malformed> {
    Fields(payload).u32().map(Status::from)
}

/// Read the number that an answer is: a table's, or the version of an object.
///
/// # Errors
/// [`Malformed`].
pub fn number(payload: &[u8]) -> Result<u64, Malformed> {
    Fields(payload.get(STATUS_LEN..).ok_or(Malformed)?).u64()
}

/// Read a lease.
///
/// # Errors
/// [`Malformed`].
pub fn lease(payload: &[u8]) -> Result<Lease, Malformed> {
    let mut fields = Fields(payload.get(STATUS_LEN..).ok_or(Malformed)?);
    Ok(Lease {
        id: fields.u64()?,
        expiration: fields.u64()?,
        timestamp: fields.u64()?,
    })
}

/// Read the delays of [`Status::Retry`] in microseconds: at least, at most.
///
/// # Errors
/// [`Malformed`].
pub fn retry(payload: &[u8]) -> Result<(u32, u32), Malformed> {
    let mut fields = Fields(payload.get(STATUS_LEN..).ok_or(Malformed)?);
    Ok((fields.u32()?, fields.u32()?))
}

/// Read what [`super::config`] understands: a server list or a table's tablets.
///
/// # Errors
/// [`Malformed`].
pub fn message(payload: &[u8]) -> Result<&[u8], Malformed> {
    let mut fields = Fields(payload.get(STATUS_LEN..).ok_or(Malformed)?);
    let len = fields.u32()? as usize;
    fields.bytes(len)
}

/// What stands before an object's value in the answer to a READ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Object {
    /// Version.
    pub version: u64,
    /// Bytes of the value, which come next.
    pub len: usize,
}

impl Object {
    /// Bytes before the value, the status counted in.
    pub const LEN: usize = STATUS_LEN + 12;

    /// Read it, from the front of a payload of `of` bytes.
    ///
    /// # Errors
    /// [`Malformed`] when the value is not all that follows.
    pub fn parse(payload: &[u8], of: usize) -> Result<Self, Malformed> {
        let mut fields = Fields(payload.get(STATUS_LEN..).ok_or(Malformed)?);
        let (version, len) = (fields.u64()?, fields.u32()? as usize);
        match len.checked_add(Self::LEN) == Some(of) {
            true => Ok(Self { version, len }),
            false => Err(Malformed),
        }
    }
}

/// What stands before the objects in the answer to an ENUMERATE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The tablet that is to be asked for next, by its first hash. With no objects and zero, all is told.
    pub next_hash: u64,
    /// Bytes of objects, which come next.
    pub objects: usize,
    /// Bytes of the iterator, which come behind them.
    pub iterator: usize,
}

impl Listed {
    /// Bytes before the objects, the status counted in.
    pub const LEN: usize = STATUS_LEN + 16;

    /// Read it, from the front of a payload of `of` bytes.
    ///
    /// # Errors
    /// [`Malformed`] when objects and iterator are not all that follows.
    pub fn parse(payload: &[u8], of: usize) -> Result<Self, Malformed> {
        let mut fields = Fields(payload.get(STATUS_LEN..).ok_or(Malformed)?);
        let listed = Self {
            next_hash: fields.u64()?,
            objects: fields.u32()? as usize,
            iterator: fields.u32()? as usize,
        };
        let all = listed.objects.checked_add(listed.iterator);
        match all.and_then(|all| all.checked_add(Self::LEN)) == Some(of) {
            true => Ok(listed),
            false => Err(Malformed),
        }
    }
}

/// Bytes of a listed object's size.
pub const SIZE_LEN: usize = 4;

/// Read the size of a listed object, in bytes behind itself.
///
/// # Errors
/// [`Malformed`] when it is not there.
pub fn size(bytes: &[u8]) -> Result<usize, Malformed> {
    Fields(bytes).u32().map(|size| size as usize)
}

/// Read the first key of a listed object, which may be cut behind the key.
///
/// # Errors
/// [`Malformed`].
pub fn key(object: &[u8]) -> Result<&[u8], Malformed> {
    // Checksum, time, version, table.
    let mut fields = Fields(object.get(4 + 4 + 8 + 8..).ok_or(Malformed)?);
    let keys = fields.u8()?;
    if keys == 0 {
        return Err(Malformed);
    }
    let len = fields.u16()?;
    // Where the other keys end.
    fields.bytes(2 * usize::from(keys - 1))?;
    fields.bytes(len.into())
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_that_lie_are_refused() {
        let head = |len: u32| {
            let mut bytes = [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            bytes[8..].copy_from_slice(&len.to_le_bytes());
            Head::parse(&bytes)
        };
        assert_eq!(head(4), Ok(Some(Head { nonce: 7, len: 4 })));
        for len in [0, 3, FRAME_MAX as u32 + 1, u32::MAX] {
            assert_eq!(head(len), Err(Malformed), "{len}");
        }
        assert_eq!(Head::parse(&[0; 11]), Ok(None));
        let object = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0];
        assert!(Object::parse(&object, 21).is_ok());
        assert_eq!(Object::parse(&object, 20), Err(Malformed));
        assert_eq!(Listed::parse(&[0xff; 20], 20), Err(Malformed));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = (Head::parse(&bytes), status(&bytes), number(&bytes), lease(&bytes));
            let _ = (retry(&bytes), size(&bytes));
            let _ = (Object::parse(&bytes, bytes.len()), Listed::parse(&bytes, bytes.len()));
            prop_assert!(message(&bytes).map_or(0, <[u8]>::len) <= bytes.len());
            prop_assert!(key(&bytes).map_or(0, <[u8]>::len) <= bytes.len());
        }
    }
}
