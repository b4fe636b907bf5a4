//! Owners: on the wire they are text, of numbers (`1000`) or of names (`alice@example.org`) to which a table of the
//! operator's gives numbers.
//!
//! The table is for what files belong to. Who asks is told by number (AUTH_SYS), which the server takes as its own.

/// Who owns what has an owner that is no number here.
const NOBODY: u32 = 65_534;

/// Map names to numbers, and back; both are looked for one after another, so it is for some dozens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names(pub &'static [(&'static str, u32)]);

impl Names {
    /// Read an owner: what the table says, a number with or without a domain, or `root`. Anybody else is nobody. A name in
    /// the table without a domain stands for that name in any.
    pub(super) fn number(&self, owner: &[u8]) -> u32 {
        let name = owner.split(|byte| *byte == b'@').next().unwrap_or(&[]);
        let known =
            |(known, _): &&(&str, u32)| known.as_bytes() == owner || known.as_bytes() == name;
        if let Some((_, number)) = self.0.iter().find(known) {
            return *number;
        }
        if name == b"root" {
            return 0;
        }
        core::str::from_utf8(name)
            .ok()
            .and_then(|digits| digits.parse().ok())
            .unwrap_or(NOBODY)
    }

    /// Write an owner: the first name that the table has for the number, or the number.
    pub(super) fn owner(&self, number: u32) -> Owner {
        let known = self.0.iter().find(|(_, known)| *known == number);
        known.map_or_else(|| Owner::of(number), |(name, _)| Owner::Name(name))
    }
}

/// Hold an owner as the wire has it.
pub(super) enum Owner {
    /// A name.
    Name(&'static str),
    /// Digits of a number, from a place on.
    Number([u8; 10], usize),
}

impl Owner {
    fn of(number: u32) -> Self {
        let mut digits = [0; 10];
        let (mut at, mut rest) = (10, number);
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return Self::Number(digits, at);
            }
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Name(name) => name.as_bytes(),
            Self::Number(digits, at) => &digits[*at..],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_numbers() {
        let none = Names::default();
        for (owner, number) in [
            (&b"1000"[..], 1000),
            (b"1000@example.org", 1000),
            (b"root@localdomain", 0),
            (b"alice", NOBODY),
            (b"", NOBODY),
        ] {
            assert_eq!(none.number(owner), number);
        }
        assert_eq!(none.owner(0).bytes(), b"0");
        assert_eq!(none.owner(u32::MAX).bytes(), b"4294967295");
    }

    #[test]
    fn names_have_the_numbers_of_the_table() {
        let names = Names(&[("alice@a.org", 1000), ("alice@b.org", 1001), ("bob", 1002)]);
        for (owner, number) in [
            (&b"alice@a.org"[..], 1000),
            (b"alice@b.org", 1001),
            (b"alice", NOBODY),
            (b"bob@anywhere", 1002),
            (b"bob", 1002),
            (b"17", 17),
        ] {
            assert_eq!(names.number(owner), number);
        }
        assert_eq!(names.owner(1001).bytes(), b"alice@b.org");
        assert_eq!(names.owner(1003).bytes(), b"1003");
    }
}
