//! Directories that are being read: what the engine gave of their names, until the host has taken it.
//!
//! An engine gives names in parts, from a place that only it understands, and as many as it likes. A listing holds the
//! last part and the place behind it, so that the host may take the names in pieces of any size. A position is the number
//! of names before it. Whoever goes back beyond the last part begins anew and counts forward: names that came or went
//! meanwhile may then be missed, or come twice.
//!
//! There are few listings; a directory that is read while all are in use takes that which was used least lately, whose
//! directory begins anew as well.

use spin::Mutex;

use super::super::engine::NAME_MAX;
use super::super::objects::Cursor;
use crate::mem::{Arena, OutOfMemory};

/// Directories that are read at a time.
const LISTINGS: usize = 8;
/// Bytes of names of a part: all keys of the largest reply of RAMCloud. Only those that are used take memory.
const BYTES: usize = 8 << 20;

/// One directory that is read.
struct Listing {
    /// The open directory, or zero.
    fh: u64,
    /// When it was used, counted.
    used: u64,
    /// A part is being fetched.
    busy: bool,
    /// Names, each behind its length.
    names: &'static mut [u8],
    len: usize,
    /// Names before the part, and in it.
    first: u64,
    count: u64,
    /// A name that was asked for, and its byte.
    hint: (u64, usize),
    /// Where the next part is, unless the end is reached.
    next: Cursor,
    more: bool,
    /// There was no room for a name.
    overflow: bool,
    /// Somebody was answered since the start.
    given: bool,
}

impl Listing {
    fn begin(&mut self) {
        (self.first, self.count, self.len, self.hint) = (0, 0, 0, (0, 0));
        self.next = Cursor::default();
        (self.more, self.overflow, self.given) = (true, false, false);
    }

    fn push(&mut self, name: &[u8]) {
        let end = self.len + 1 + name.len();
        let Some(place) = self.names.get_mut(self.len..end) else {
            self.overflow = true;
            return;
        };
        place[0] = name.len() as u8;
        place[1..].copy_from_slice(name);
        (self.len, self.count) = (end, self.count + 1);
    }

    /// Give the name at a byte, and the byte behind it.
    fn name(&self, at: usize) -> Option<(&[u8], usize)> {
        let len = usize::from(*self.names[..self.len].get(at)?);
        let end = at + 1 + len;
        Some((self.names[..self.len].get(at + 1..end)?, end))
    }

    /// Find the byte of a name of the part, by position.
    fn byte(&self, position: u64) -> usize {
        let (mut number, mut at) = match self.hint.0 <= position && self.hint.0 >= self.first {
            true => self.hint,
            false => (self.first, 0),
        };
        while number < position
            && let Some((_, next)) = self.name(at)
        {
            (number, at) = (number + 1, next);
        }
        at
    }
}

/// Say what a reader of a directory does next.
pub enum Turn {
    /// It has all that it takes, or the directory ends.
    Answer,
    /// It fetches the part from [`Listings::place`] on, and tells what came.
    Fetch,
    /// Somebody else fetches; later.
    Wait,
    /// The engine gave more at once than there is room for.
    Overflow,
}

/// Hold the directories that are being read.
pub struct Listings {
    all: [Mutex<Listing>; LISTINGS],
}

impl Listings {
    pub fn new(arena: &Arena) -> Result<Self, OutOfMemory> {
        let mut names = [const { None }; LISTINGS];
        for place in &mut names {
            *place = Some(arena.zeroed(BYTES)?);
        }
        Ok(Self {
            all: names.map(|names| {
                Mutex::new(Listing {
                    fh: 0,
                    used: 0,
                    busy: false,
                    names: names.unwrap_or_default(),
                    len: 0,
                    first: 0,
                    count: 0,
                    hint: (0, 0),
                    next: Cursor::default(),
                    more: false,
                    overflow: false,
                    given: false,
                })
            }),
        })
    }

    pub const fn footprint() -> usize {
        LISTINGS * BYTES
    }

    fn find(&self, fh: u64) -> Option<&Mutex<Listing>> {
        self.all.iter().find(|listing| listing.lock().fh == fh)
    }

    /// Read on from a position; `now` counts the reads. `give` takes a name and the position behind it, and says whether
    /// it had room.
    pub fn read(
        &self,
        fh: u64,
        now: u64,
        position: u64,
        give: &mut dyn FnMut(&[u8], u64) -> bool,
    ) -> Turn {
        let listing = self.find(fh).or_else(|| {
            let unused = self.all.iter().filter(|listing| !listing.lock().busy);
            let oldest = unused.min_by_key(|listing| listing.lock().used)?;
            let mut taken = oldest.lock();
            // Another core may have been faster.
            if taken.busy {
                return None;
            }
            taken.fh = fh;
            taken.begin();
            drop(taken);
            Some(oldest)
        });
        let Some(listing) = listing else {
            return Turn::Wait;
        };
        let mut listing = listing.lock();
        if listing.busy || listing.fh != fh {
            return Turn::Wait;
        }
        listing.used = now;
        // Who goes back to the start wants to see what is there now.
        if position < listing.first || (position == 0 && listing.given) {
            listing.begin();
        }
        let mut at = listing.byte(position);
        let mut number = position
            .max(listing.first)
            .min(listing.first + listing.count);
        if number == position {
            while let Some((name, next)) = listing.name(at) {
                if !give(name, number + 1) {
                    (listing.hint, listing.given) = ((number, at), true);
                    return Turn::Answer;
                }
                (number, at) = (number + 1, next);
            }
            listing.hint = (number, at);
        }
        if listing.overflow {
            return Turn::Overflow;
        }
        if !listing.more {
            listing.given = true;
            return Turn::Answer;
        }
        listing.busy = true;
        (listing.first, listing.count, listing.len) = (listing.first + listing.count, 0, 0);
        listing.hint = (listing.first, 0);
        Turn::Fetch
    }

    /// Take a name of the part that is being fetched. What can be no file's name is left out.
    pub fn name(&self, fh: u64, name: &[u8]) {
        let hidden = matches!(name, b"" | b"." | b"..")
            || name.len() > NAME_MAX
            || name.iter().any(|byte| matches!(byte, 0 | b'/'));
        if let Some(listing) = self.find(fh).filter(|_| !hidden) {
            listing.lock().push(name);
        }
    }

    /// Give where the next part is.
    pub fn place(&self, fh: u64) -> Cursor {
        self.find(fh)
            .map_or_else(Cursor::default, |listing| listing.lock().next)
    }

    /// Take where the part behind the one that comes is.
    pub fn set_place(&self, fh: u64, place: &Cursor) {
        if let Some(listing) = self.find(fh) {
            listing.lock().next = *place;
        }
    }

    /// The part has come, and there may be more; or it did not come.
    pub fn fetched(&self, fh: u64, more: Option<bool>) {
        let Some(listing) = self.find(fh) else {
            return;
        };
        let mut listing = listing.lock();
        listing.busy = false;
        match more {
            Some(more) => listing.more = more,
            None => listing.begin(),
        }
    }

    /// The directory is closed.
    pub fn close(&self, fh: u64) {
        if let Some(listing) = self.find(fh) {
            let mut listing = listing.lock();
            if !listing.busy {
                (listing.fh, listing.used) = (0, 0);
            }
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::sys::map;
    use std::string::{String, ToString};
    use std::vec::Vec;

    /// An engine with so many names, which it gives in parts of this size.
    struct Parts(u64, u64);

    impl Parts {
        fn fetch(&self, listings: &Listings, fh: u64) {
            let from = listings
                .place(fh)
                .bytes()
                .try_into()
                .map_or(0, u64::from_le_bytes);
            let end = (from + self.1).min(self.0);
            for number in from..end {
                listings.name(fh, number.to_string().as_bytes());
                listings.name(fh, b"hid/den");
            }
            listings.set_place(fh, &Cursor::new(&[&end.to_le_bytes()]).unwrap());
            listings.fetched(fh, Some(end < self.0));
        }

        /// Read at most `most` names from a position.
        fn page(&self, listings: &Listings, fh: u64, from: u64, most: usize) -> Vec<(String, u64)> {
            let mut page = Vec::new();
            loop {
                let begin = from + page.len() as u64;
                let turn = listings.read(fh, fh, begin, &mut |name, next| {
                    if page.len() == most {
                        return false;
                    }
                    page.push((core::str::from_utf8(name).unwrap().into(), next));
                    true
                });
                match turn {
                    Turn::Fetch => self.fetch(listings, fh),
                    Turn::Answer => return page,
                    Turn::Wait | Turn::Overflow => panic!("nobody else is there"),
                }
            }
        }

        fn all(&self, listings: &Listings, fh: u64, most: usize) -> Vec<String> {
            let (mut all, mut at) = (Vec::new(), 0);
            loop {
                let page = self.page(listings, fh, at, most);
                let Some(last) = page.last() else {
                    return all;
                };
                at = last.1;
                all.extend(page.into_iter().map(|(name, _)| name));
            }
        }
    }

    fn listings() -> Listings {
        let arena = map::reserve(Listings::footprint() + 64).unwrap();
        Listings::new(&arena).unwrap()
    }

    #[test]
    fn every_name_comes_once_whatever_the_pieces() {
        let listings = listings();
        let wanted: Vec<String> = (0..50).map(|number: u64| number.to_string()).collect();
        for (fh, (part, most)) in (1..).zip([(1, 1), (7, 3), (3, 7), (50, 9), (100, 100), (10, 10)])
        {
            let parts = Parts(50, part);
            assert_eq!(parts.all(&listings, fh, most), wanted, "{part} {most}");
            assert_eq!(
                parts.all(&listings, fh, most),
                wanted,
                "again from the start"
            );
            // Back in the middle.
            let page = parts.page(&listings, fh, 20, most.min(5));
            assert_eq!(page[0], ("20".into(), 21));
            listings.close(fh);
        }
        assert!(Parts(0, 5).all(&listings, 9, 5).is_empty());
        assert_eq!(Parts(1, 5).all(&listings, 9, 5), ["0"], "no longer empty");
    }

    #[test]
    fn more_directories_than_listings_are_read_all_the_same() {
        let listings = listings();
        let parts = Parts(30, 4);
        let mut at = [0; 3 * LISTINGS];
        for _ in 0..10 {
            for (fh, at) in (1..).zip(&mut at) {
                let page = parts.page(&listings, fh, *at, 3);
                assert_eq!(page[0].0, at.to_string());
                *at = page[2].1;
            }
        }
        assert!(at.iter().all(|&at| at == 30));
    }

    #[test]
    fn who_comes_while_a_part_is_fetched_waits() {
        let listings = listings();
        let mut none = |_: &[u8], _| false;
        assert!(matches!(listings.read(1, 1, 0, &mut none), Turn::Fetch));
        assert!(matches!(listings.read(1, 2, 0, &mut none), Turn::Wait));
        listings.close(1);
        listings.fetched(1, None);
        assert!(matches!(listings.read(1, 3, 0, &mut none), Turn::Fetch));
    }
}
