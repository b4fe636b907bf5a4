//! Which locks the host holds at the server: who holds them, under which states, on which bytes.
//!
//! An owner of locks on a file, a process of the host or for flock(2) an open file, is a holder. It opens the file at
//! the server for itself, as an opener of its own: so its locks do not depend on which of the host's open files they
//! were taken through, nor on when those are closed.

use crate::mem::{Arena, Handle as Place, OutOfMemory, SlotMap};
use crate::wire::nfs4::{Handle, StateId, TO_END};
use crate::wire::rpc::Credentials;

/// Most owners of locks at a time, each counted once for each file.
const HOLDERS: u32 = 1024;
/// Most ranges that are locked at a time.
const RANGES: u32 = 4096;
/// Ranges that a call may add: the middle of one changes.
const ADDED: u32 = 2;

/// Say whose locks, on which node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// Node.
    pub node: u64,
    /// The host's number.
    pub owner: u64,
    /// Its locks are in the manner of flock(2).
    pub flock: bool,
}

/// Hold what is known of one owner of locks on one file.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    /// Who.
    pub key: Key,
    /// File.
    pub handle: Handle,
    /// In whose name it asks.
    pub user: Credentials,
    /// Its number at the server, as an opener and as an owner of locks.
    pub number: u64,
    /// `OPEN4_SHARE_ACCESS_*` of its open.
    pub access: u32,
    /// Process that asked last.
    pub pid: u32,
    /// Its open.
    pub open: Option<StateId>,
    /// Its locks.
    pub lock: Option<StateId>,
    /// The server tells when a lock may be free.
    pub notifies: bool,
    /// A call of it is under way.
    busy: bool,
}

impl Holder {
    /// Make one that the server knows nothing of.
    pub const fn new(key: Key, handle: Handle, user: Credentials, number: u64) -> Self {
        Self {
            key,
            handle,
            user,
            number,
            access: 0,
            pid: 0,
            open: None,
            lock: None,
            notifies: false,
            busy: false,
        }
    }
}

/// Hold a range that is locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// Last byte; `i64::MAX` for the end of the file, wherever it is.
    pub end: u64,
    /// It is locked for writing.
    pub write: bool,
    /// Number of the opener of the host's file through which it was locked.
    pub opener: u64,
}

impl Range {
    /// Give first byte and length as the wire has them.
    pub const fn on_wire(start: u64, end: u64) -> (u64, u64) {
        if end >= i64::MAX as u64 {
            (start, TO_END)
        } else {
            (start, end - start + 1)
        }
    }

    const fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start <= end && start <= self.end
    }
}

/// Say why a holder cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// A call of it is under way.
    Busy,
    /// There are too many holders or ranges.
    Full,
}

/// Hold all locks of a device.
pub struct LockTable {
    holders: SlotMap<Holder>,
    ranges: SlotMap<(Place, Range)>,
    busy: u32,
    life: u32,
}

impl LockTable {
    /// Bytes of arena that it needs.
    pub const FOOTPRINT: usize =
        SlotMap::<Holder>::footprint(HOLDERS) + SlotMap::<(Place, Range)>::footprint(RANGES);

    /// Make an empty one.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the arena has less than [`Self::FOOTPRINT`].
    pub fn new(arena: &Arena) -> Result<Self, OutOfMemory> {
        Ok(Self {
            holders: SlotMap::new(arena, HOLDERS)?,
            ranges: SlotMap::new(arena, RANGES)?,
            busy: 0,
            life: 0,
        })
    }

    /// Tell whether nobody holds anything.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }

    /// Find a holder.
    pub fn find(&self, key: &Key) -> Option<Place> {
        let found = self.holders.iter().find(|(_, holder)| holder.key == *key);
        found.map(|(at, _)| at)
    }

    /// Look at a holder.
    pub fn get(&self, at: Place) -> Option<&Holder> {
        self.holders.get(at)
    }

    /// Look at a holder, to change it.
    pub fn get_mut(&mut self, at: Place) -> Option<&mut Holder> {
        self.holders.get_mut(at)
    }

    /// The server forgot all of it.
    pub fn forget_states(&mut self) {
        self.life = self.life.wrapping_add(1);
        for (_, holder) in self.holders.iter_mut() {
            (holder.open, holder.lock) = (None, None);
        }
    }

    /// Tell how often the server forgot.
    pub fn life(&self) -> u32 {
        self.life
    }

    /// Give the first range behind a place, whose it is, and its place.
    pub fn range_after(&self, place: u32) -> Option<(u32, Place, Range)> {
        let mut ranges = self.ranges.iter();
        let found = ranges.find(|(at, _)| at.index > place);
        found.map(|(at, (of, range))| (at.index, *of, *range))
    }

    /// Give the process that an owner's number stands for.
    pub fn pid(&self, number: u64) -> Option<u32> {
        let mut holders = self.holders.iter().map(|(_, holder)| holder);
        holders
            .find(|holder| holder.number == number)
            .map(|holder| holder.pid)
    }

    /// Take a holder for a call, until [`Self::release`]; `make` one that is not there.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn claim(&mut self, key: &Key, make: impl FnOnce() -> Holder) -> Result<Place, Denied> {
        if self.ranges.len() + (self.busy + 1) * ADDED > RANGES {
            return Err(Denied::Full);
        }
        let at = match self.find(key) {
            Some(at) => at,
            None => self.holders.insert(make()).map_err(|_| Denied::Full)?,
        };
        match self.holders.get_mut(at) {
            Some(holder) if !holder.busy => holder.busy = true,
            _ => return Err(Denied::Busy),
        }
        self.busy += 1;
        Ok(at)
    }

    /// A holder's call is answered, or given up.
    pub fn release(&mut self, at: Place) {
        if let Some(holder) = self.holders.get_mut(at)
            && core::mem::take(&mut holder.busy)
        {
            self.busy -= 1;
        }
    }

    /// Give the ranges that a holder has locked.
    pub fn ranges(&self, of: Place) -> impl Iterator<Item = (Place, Range)> {
        let all = self.ranges.iter();
        all.filter_map(move |(at, (holder, range))| (*holder == of).then_some((at, *range)))
    }

    fn first(&self, of: Place, which: impl Fn(&Range) -> bool) -> Option<(Place, Range)> {
        self.ranges(of).find(|(_, range)| which(range))
    }

    /// Give the first holder behind a place.
    pub fn holder_after(&self, place: u32) -> Option<(Place, Holder)> {
        let mut behind = self.holders.iter().filter(|(at, _)| at.index > place);
        behind.next().map(|(at, holder)| (at, *holder))
    }

    /// Tell whether nothing stays locked when a range is unlocked.
    pub fn is_all(&self, of: Place, start: u64, end: u64) -> bool {
        self.ranges(of)
            .all(|(_, range)| start <= range.start && range.end <= end)
    }

    /// Unlock a range, and lock it anew if there is a lock to set.
    pub fn set(&mut self, of: Place, (mut start, mut end): (u64, u64), lock: Option<(bool, u64)>) {
        let (first, last) = (start, end);
        // What a lock of the same kind touches becomes one with it.
        let near = |range: &Range| {
            let touches = range.overlaps(first.saturating_sub(1), last.saturating_add(1));
            touches && lock == Some((range.write, range.opener))
        };
        while let Some((at, range)) =
            self.first(of, |range| near(range) || range.overlaps(first, last))
        {
            self.ranges.remove(at);
            if near(&range) {
                (start, end) = (start.min(range.start), end.max(range.end));
                continue;
            }
            if range.start < first {
                let end = first - 1;
                let _ = self.ranges.insert((of, Range { end, ..range }));
            }
            if range.end > last {
                let start = last + 1;
                let _ = self.ranges.insert((of, Range { start, ..range }));
            }
        }
        if let Some((write, opener)) = lock {
            let range = Range {
                start,
                end,
                write,
                opener,
            };
            let _ = self.ranges.insert((of, range));
        }
    }

    /// Forget a holder; its ranges are handed to `each`.
    pub fn remove(&mut self, at: Place, mut each: impl FnMut(Range)) -> Option<Holder> {
        while let Some((place, range)) = self.first(at, |_| true) {
            self.ranges.remove(place);
            each(range);
        }
        self.release(at);
        self.holders.remove(at)
    }

    /// Forget a holder without locks that is not at work.
    pub fn remove_idle(&mut self, at: Place) -> Option<Holder> {
        if self.holders.get(at)?.busy || self.ranges(at).next().is_some() {
            return None;
        }
        self.holders.remove(at)
    }

    /// Give a holder, not at work, all of whose locks were taken through an opener's file.
    pub fn only_through(&self, opener: u64) -> Option<Place> {
        let mut holders = self.holders.iter().filter(|(_, holder)| !holder.busy);
        let found = holders.find(|(at, _)| {
            let mut ranges = self.ranges(*at).peekable();
            ranges.peek().is_some() && ranges.all(|(_, range)| range.opener == opener)
        });
        found.map(|(at, _)| at)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::sys::map;

    const KEY: Key = Key {
        node: 2,
        owner: 3,
        flock: false,
    };

    fn table() -> LockTable {
        LockTable::new(&map::reserve(LockTable::FOOTPRINT).unwrap()).unwrap()
    }

    fn holder() -> Holder {
        Holder::new(KEY, Handle::EMPTY, Credentials::None, 1)
    }

    #[test]
    fn ranges_are_split_merged_and_unlocked_as_posix_says() {
        let mut table = table();
        let at = table.claim(&KEY, holder).unwrap();
        // A model: what is locked how, byte by byte.
        let mut model = [None; 64];
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..5000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let start = random % 64;
            let end = start + (random >> 8) % (64 - start);
            let lock = match random >> 16 & 3 {
                0 => None,
                kind => Some((kind == 1, 7 + (random >> 20) % 2)),
            };
            table.set(at, (start, end), lock);
            model[start as usize..=end as usize].fill(lock);
            let mut found = [None; 64];
            for (_, range) in table.ranges(at) {
                for byte in range.start..=range.end {
                    let place = &mut found[byte as usize];
                    assert_eq!(*place, None, "two ranges have byte {byte}");
                    *place = Some((range.write, range.opener));
                }
            }
            assert_eq!(found, model);
            let runs = model.chunk_by(|a, b| a == b).filter(|run| run[0].is_some());
            assert_eq!(
                table.ranges(at).count(),
                runs.count(),
                "what touches is one"
            );
        }
        table.set(at, (0, i64::MAX as u64), None);
        assert!(table.ranges(at).next().is_none());
    }

    #[test]
    fn a_holder_is_at_work_for_one_at_a_time_and_goes_when_it_holds_nothing() {
        let mut table = table();
        let at = table.claim(&KEY, holder).unwrap();
        assert_eq!(table.claim(&KEY, holder), Err(Denied::Busy));
        assert!(table.remove_idle(at).is_none());
        table.set(at, (5, 9), Some((true, 7)));
        assert_eq!(table.only_through(7), None);
        table.release(at);
        assert!(table.remove_idle(at).is_none());
        assert_eq!(
            (table.only_through(7), table.only_through(8)),
            (Some(at), None)
        );
        let mut lost = std::vec::Vec::new();
        table.remove(at, |range| lost.push(range.opener)).unwrap();
        assert_eq!((lost.as_slice(), table.is_empty()), (&[7][..], true));
    }

    #[test]
    fn a_full_table_refuses_before_a_range_could_be_lost() {
        let mut table = table();
        let mut count = 0;
        while let Ok(at) = table.claim(&KEY, holder) {
            table.set(at, (count * 10, count * 10 + 5), Some((true, 7)));
            table.release(at);
            count += 1;
        }
        let at = table.find(&KEY).unwrap();
        assert_eq!(table.ranges(at).count() as u64, count);
        assert!(count > u64::from(RANGES) - 4);
    }
}
