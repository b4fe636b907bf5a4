//! Inputs: a reader that never fails, and a writer for seeds.

/// Read operands from an input; behind its end everything is zero.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Begin at the start.
    pub const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Tell whether nothing is left.
    pub const fn at_end(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let bytes = self.bytes(N);
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    /// Read a byte.
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    /// Read two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Read four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Read eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Read at most `count` bytes, fewer at the end.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (now, later) = self.0.split_at(count.min(self.0.len()));
        self.0 = later;
        now
    }

    /// Read a length of two bytes, and that many bytes.
    pub fn run(&mut self) -> &'a [u8] {
        let count = self.u16();
        self.bytes(count.into())
    }
}

/// Write what [`Reader`] reads.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Append a byte.
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Append two bytes.
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Append four bytes.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Append eight bytes.
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Append a length of two bytes, and the bytes, at most 65535.
    pub fn run(self, bytes: &[u8]) -> Self {
        let count = bytes.len().min(u16::MAX.into());
        let mut whole = self.u16(count as u16);
        whole.0.extend(&bytes[..count]);
        whole
    }

    /// Append what another wrote.
    pub fn then(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Give the input.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}
