//! Paths at a server, as referrals tell them.

use crate::wire::errno::Errno;
use crate::wire::nfs4::MAX_NAME;

/// Most bytes of a path, separators counted.
pub const MAX_PATH: usize = 510;
/// Most components of a path: one operation each, of which a server takes some dozens in a call.
const COMPONENTS: usize = 64;

/// Hold a path from a server's root on: components of 1 to 255 bytes, none of them "." or "..".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    len: u16,
    bytes: [u8; MAX_PATH],
}

impl Path {
    /// The server's root.
    pub const ROOT: Self = Self {
        len: 0,
        bytes: [0; MAX_PATH],
    };

    /// Take up bytes that [`Self::bytes`] gave.
    pub fn of(bytes: &[u8]) -> Self {
        let mut path = Self::ROOT;
        let len = bytes.len().min(MAX_PATH);
        path.bytes[..len].copy_from_slice(&bytes[..len]);
        path.len = len as u16;
        path
    }

    /// Go down by a name. An empty one leaves the path as it is: some servers begin with one.
    ///
    /// # Errors
    /// `EIO` for what is no name, `ENAMETOOLONG` above 255 bytes, or when the path would have more than 64 names or
    /// [`MAX_PATH`] bytes.
    pub fn push(&mut self, name: &[u8]) -> Result<(), Errno> {
        if name.is_empty() {
            return Ok(());
        }
        let is_bad = |byte: &u8| matches!(byte, b'/' | 0);
        if matches!(name, b"." | b"..") || name.iter().any(is_bad) {
            return Err(Errno::EIO);
        }
        let begin = usize::from(self.len) + usize::from(self.len > 0);
        let end = begin + name.len();
        let fits = name.len() <= MAX_NAME && end <= MAX_PATH;
        if !fits || self.names().count() == COMPONENTS {
            return Err(Errno::ENAMETOOLONG);
        }
        if self.len > 0 {
            self.bytes[begin - 1] = b'/';
        }
        self.bytes[begin..end].copy_from_slice(name);
        self.len = end as u16;
        Ok(())
    }

    /// Give the names, from the root on.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        let names = self.bytes().split(|byte| *byte == b'/');
        names.filter(|name| !name.is_empty())
    }

    /// Give the names with "/" between them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_put_together_and_told_apart() {
        let mut path = Path::ROOT;
        assert_eq!(path.names().count(), 0);
        for name in [&b""[..], b"srv", b"", b"a b", b"..."] {
            path.push(name).unwrap();
        }
        assert!(path.names().eq([&b"srv"[..], b"a b", b"..."]));
        assert_eq!(path.bytes(), b"srv/a b/...");
        assert_eq!(Path::of(path.bytes()), path);
    }

    #[test]
    fn what_is_no_name_or_too_long_is_refused_and_changes_nothing() {
        let mut path = Path::ROOT;
        path.push(b"srv").unwrap();
        for name in [&b"."[..], b"..", b"a/b", b"a\0", b"/"] {
            assert_eq!(path.push(name), Err(Errno::EIO));
        }
        assert_eq!(path.push(&[b'x'; 256]), Err(Errno::ENAMETOOLONG));
        path.push(&[b'x'; 255]).unwrap();
        assert_eq!(path.push(&[b'x'; 251]), Err(Errno::ENAMETOOLONG));
        path.push(&[b'x'; 250]).unwrap();
        assert_eq!((path.bytes().len(), path.names().count()), (MAX_PATH, 3));
        let mut path = Path::ROOT;
        for _ in 0..COMPONENTS {
            path.push(b"x").unwrap();
        }
        assert_eq!(path.push(b"x"), Err(Errno::ENAMETOOLONG));
    }
}
