//! XDR: big-endian words, and bytes padded to words.
//!
//! [`Encoder`] fills a piece of fixed memory and remembers when it was too small; [`Decoder`] reads a slice and cannot
//! go past its end. Neither copies more than it is asked for. Source: RFC 4506.

/// Tell that a message ends too early, or holds a value that its type does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// Carry what a message held.
pub type Result<T> = core::result::Result<T, Malformed>;

/// Round a length up to whole words.
pub const fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// Write a message into fixed memory.
pub struct Encoder<'a> {
    buffer: &'a mut [u8],
    at: usize,
    overflow: bool,
}

impl<'a> Encoder<'a> {
    /// Begin at the start of `buffer`.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self {
            buffer,
            at: 0,
            overflow: false,
        }
    }

    /// Give the number of bytes written.
    pub const fn len(&self) -> usize {
        self.at
    }

    /// Tell whether nothing was written.
    pub const fn is_empty(&self) -> bool {
        self.at == 0
    }

    /// Give the number of bytes written, or `None` when the memory was too small for all of them.
    pub const fn finish(self) -> Option<usize> {
        if self.overflow { None } else { Some(self.at) }
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        match self.buffer.get_mut(self.at..self.at + bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.at += bytes.len();
            }
            None => self.overflow = true,
        }
    }

    /// Write a word.
    #[inline]
    pub fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    /// Write a double word (`hyper`).
    #[inline]
    pub fn u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    /// Write a truth value.
    pub fn bool(&mut self, value: bool) {
        self.u32(value.into());
    }

    /// Write bytes whose number both sides know (`opaque[n]`).
    #[inline]
    pub fn fixed(&mut self, bytes: &[u8]) {
        self.put(bytes);
        self.put(&[0; 3][..padded(bytes.len()) - bytes.len()]);
    }

    /// Write a number of bytes and the bytes (`opaque<>`, `string<>`).
    #[inline]
    pub fn opaque(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.fixed(bytes);
    }

    /// Write over a word that was written before.
    pub fn patch(&mut self, at: usize, value: u32) {
        if let Some(place) = self.buffer.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }
}

/// Read a message.
#[derive(Clone, Copy, Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Begin at the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Give what was not read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Read a word.
    #[inline]
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Read a double word.
    #[inline]
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Read a truth value.
    pub fn bool(&mut self) -> Result<bool> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// Read `N` bytes, and the padding.
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.array()?;
        self.take(padded(N) - N)?;
        Ok(bytes)
    }

    /// Read a number of bytes, at most `most`, and the bytes.
    #[inline]
    pub fn opaque(&mut self, most: usize) -> Result<&'a [u8]> {
        let len = self.u32()? as usize;
        if len > most {
            return Err(Malformed);
        }
        let bytes = self.take(len)?;
        self.take(padded(len) - len)?;
        Ok(bytes)
    }

    /// Read a number of elements, at most `most`.
    pub fn count(&mut self, most: u32) -> Result<u32> {
        let count = self.u32()?;
        if count > most {
            return Err(Malformed);
        }
        Ok(count)
    }

    /// Skip `count` words.
    pub fn skip(&mut self, count: usize) -> Result<()> {
        let bytes = count.checked_mul(4).ok_or(Malformed)?;
        self.take(bytes).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_has_its_length_before_and_its_padding_behind() {
        // RFC 4506, section 4.11.
        let mut buffer = [0xff; 16];
        let mut out = Encoder::new(&mut buffer);
        out.opaque(b"sillyprog");
        assert_eq!(out.finish(), Some(16));
        assert_eq!(&buffer, b"\0\0\0\x09sillyprog\0\0\0");
        let mut input = Decoder::new(&buffer);
        assert_eq!(input.opaque(9), Ok(&b"sillyprog"[..]));
        assert_eq!(input.rest(), b"");
        assert_eq!(Decoder::new(&buffer).opaque(8), Err(Malformed));
    }

    #[test]
    fn what_does_not_fit_is_noticed_and_what_is_not_there_is_not_read() {
        let mut buffer = [0; 6];
        let mut out = Encoder::new(&mut buffer);
        out.u32(1);
        out.u32(2);
        assert_eq!(out.finish(), None);
        let mut input = Decoder::new(&buffer);
        assert_eq!(input.u32(), Ok(1));
        assert_eq!(input.u32(), Err(Malformed));
        assert_eq!(
            Decoder::new(&[0, 0, 0, 5, 1, 2, 3, 4]).opaque(100),
            Err(Malformed)
        );
        assert_eq!(Decoder::new(&[0, 0, 0, 2]).bool(), Err(Malformed));
        assert_eq!(Decoder::new(&[0xff; 8]).skip(usize::MAX), Err(Malformed));
    }
}
