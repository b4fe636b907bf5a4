//! Where the file system of the export is: which server has it now, and where it may be.
//!
//! All cores share one. While one of them looks for the file system ([`search`](super::search)), nobody else connects.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use spin::Mutex;

use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::nfs4::FsLocations;

use super::path::Path;
use super::referral::path_there;
use super::volume::NfsVolume;

/// Locations that are looked at, the first ones that may be followed, and the server that told them.
const PLACES: usize = 8;
/// Nanoseconds for which it is not looked for again after it was not found.
const NOT_FOUND: u64 = 2_000_000_000;

/// Name a place where the file system may be.
pub struct Place {
    /// Number of the server's client, whose addresses lead there.
    pub client: u8,
    /// Path of the export there.
    pub path: Path,
    /// Why it is not there; `None` as long as nobody said.
    refusal: Option<Errno>,
}

impl Place {
    /// Name one that nobody asked yet.
    pub const fn new(client: u8, path: Path) -> Self {
        Self {
            client,
            path,
            refusal: None,
        }
    }
}

/// Hold the places in the order in which they are asked: those that a server told, and that server behind them, since it
/// may tell others by then or have the file system back.
#[derive(Default)]
pub struct Places {
    all: heapless::Vec<Place, PLACES>,
    at: usize,
}

impl Places {
    /// Give the place that is asked now.
    pub fn now(&self) -> Option<&Place> {
        self.all.get(self.at)
    }

    /// Tell whether that is the server that told of the others.
    pub fn is_teller(&self) -> bool {
        self.at + 1 >= self.all.len()
    }

    /// Add a place, unless it is there or there are too many.
    fn add(&mut self, client: u8, path: Path) {
        let is = |known: &Place| known.client == client && known.path == path;
        // The last is the teller's.
        if self.all.len() < PLACES - 1 && !self.all.iter().any(is) {
            let _ = self.all.push(Place::new(client, path));
        }
    }

    /// Add the server that told of them.
    pub fn told_by(&mut self, teller: Place) {
        let _ = self.all.push(teller);
    }

    /// The place of now was not reached, or said why it is not there: go on to the next, in a circle.
    ///
    /// # Errors
    /// What the last said when all that were told refuse.
    pub fn pass(&mut self, refusal: Option<Errno>) -> Result<(), Errno> {
        if let Some(place) = self.all.get_mut(self.at) {
            place.refusal = refusal;
        }
        self.at += 1;
        let told = self.all.len().saturating_sub(1);
        if self.at == told
            && let Some(errno) = self.all[..told].last().and_then(|place| place.refusal)
            && self.all[..told].iter().all(|place| place.refusal.is_some())
        {
            return Err(errno);
        }
        if self.at >= self.all.len() {
            self.at = 0;
        }
        Ok(())
    }
}

/// Hold where the file system is.
pub struct Whereabouts {
    /// Number of the client whose addresses lead to its server.
    home: AtomicU8,
    /// How often it was left.
    departures: AtomicU32,
    /// A core looks for it.
    sought: AtomicBool,
    /// Path of the export at its server; `None` when it is longer than any that is followed.
    path: Mutex<Option<Path>>,
    /// Where it may be, while it is looked for.
    pub places: Mutex<Places>,
    /// When it was not found, and why.
    lost: Mutex<Option<(Instant, Errno)>>,
}

impl Whereabouts {
    /// Begin with the server of this client, and this path there.
    pub fn new(client: u8, export: &str) -> Self {
        let mut path = Path::ROOT;
        let fits = export
            .split('/')
            .all(|name| path.push(name.as_bytes()).is_ok());
        Self {
            home: AtomicU8::new(client),
            departures: AtomicU32::new(0),
            sought: AtomicBool::new(false),
            path: Mutex::new(fits.then_some(path)),
            places: Mutex::default(),
            lost: Mutex::new(None),
        }
    }

    /// Give the client whose addresses lead to the server.
    #[inline]
    pub fn home(&self) -> u8 {
        self.home.load(Ordering::Acquire)
    }

    /// Give the path of the export there.
    pub fn path(&self) -> Option<Path> {
        *self.path.lock()
    }

    /// Tell how often the server was left.
    #[inline]
    pub fn departures(&self) -> u32 {
        self.departures.load(Ordering::Acquire)
    }

    /// Tell whether the file system is looked for.
    #[inline]
    pub fn is_sought(&self) -> bool {
        self.sought.load(Ordering::Acquire)
    }

    /// Leave the server, to look at these places. False when another core looks already, or found it since so many
    /// departures.
    pub fn depart(&self, places: Places, known: u32) -> bool {
        if self.sought.swap(true, Ordering::AcqRel) {
            return false;
        }
        if self.departures() != known {
            self.sought.store(false, Ordering::Release);
            return false;
        }
        *self.places.lock() = places;
        self.departures.fetch_add(1, Ordering::AcqRel);
        true
    }

    /// It is found at the place of now.
    pub fn settle(&self) {
        if let Some(place) = self.places.lock().now() {
            *self.path.lock() = Some(place.path);
            self.home.store(place.client, Ordering::Release);
        }
        *self.lost.lock() = None;
        self.sought.store(false, Ordering::Release);
    }

    /// It is nowhere: go back.
    pub fn give_up(&self, now: Instant, why: Errno) {
        *self.lost.lock() = Some((now, why));
        self.sought.store(false, Ordering::Release);
    }

    /// Give why it was not found a moment ago.
    pub fn lost(&self, now: Instant) -> Option<Errno> {
        let lost = self.lost.lock();
        lost.and_then(|(at, why)| (now.since(at) < NOT_FOUND).then_some(why))
    }
}

impl NfsVolume {
    /// Gather where the export is, which was asked for as so many names of `path`: of what a server tells, what may be
    /// followed.
    ///
    /// # Errors
    /// `EREMOTE` when nothing may be; what is wrong with a path.
    pub(super) fn gather(
        &self,
        locations: FsLocations<'_>,
        path: &Path,
        names: usize,
    ) -> Result<Places, Errno> {
        // What is behind the root of the file system stays as it is. Not every server tells that root as RFC 8881 wants.
        let root = locations.root.filter(|name| !name.is_empty());
        let depth = root.clone().count();
        let is_above = path.names().take(depth).eq(root);
        let passed = if is_above { depth } else { names };
        let mut places = Places::default();
        let (mut failed, mut stranger) = (None, None);
        for location in locations {
            for server in location.servers {
                match self.client_of(server) {
                    None => stranger = stranger.or(Some(server)),
                    Some(client) => match path_there(&location, (path, passed)) {
                        Ok(path) => places.add(client, path),
                        Err(errno) => failed = failed.or(Some(errno)),
                    },
                }
            }
        }
        if !places.all.is_empty() {
            return Ok(places);
        }
        if let (None, Some(stranger)) = (failed, stranger) {
            self.tell_of(stranger);
        }
        Err(failed.unwrap_or(Errno::EREMOTE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        let mut places = Places::default();
        for client in [1, 2, 1] {
            places.add(client, Path::ROOT);
        }
        places.told_by(Place::new(0, Path::ROOT));
        places
    }

    fn now(places: &Places) -> u8 {
        places.now().unwrap().client
    }

    #[test]
    fn places_are_asked_in_a_circle_as_long_as_one_of_them_is_away() {
        let mut places = places();
        for _ in 0..3 {
            for (client, refusal) in [(1, None), (2, Some(Errno::ENOENT)), (0, None)] {
                assert_eq!((now(&places), places.is_teller()), (client, client == 0));
                assert_eq!(places.pass(refusal), Ok(()));
            }
        }
    }

    #[test]
    fn when_all_refuse_the_last_one_is_heard_and_the_teller_is_not_asked() {
        let mut places = places();
        assert_eq!(places.pass(Some(Errno::ENOENT)), Ok(()));
        assert_eq!(places.pass(Some(Errno::EACCES)), Err(Errno::EACCES));
    }

    #[test]
    fn there_is_room_for_the_teller_however_many_are_told() {
        let mut places = Places::default();
        for client in 1..20 {
            places.add(client, Path::ROOT);
        }
        places.told_by(Place::new(0, Path::ROOT));
        let passed = (1..PLACES).all(|_| !places.is_teller() && places.pass(None).is_ok());
        assert!(passed && places.is_teller() && now(&places) == 0);
    }

    #[test]
    fn what_was_not_found_is_not_looked_for_at_once() {
        let found = Whereabouts::new(0, "/srv/data");
        assert_eq!(found.path().map(|path| path.names().count()), Some(2));
        let start = Instant(5);
        found.give_up(start, Errno::ENOENT);
        assert_eq!(found.lost(start.after(1)), Some(Errno::ENOENT));
        assert_eq!(found.lost(start.after(NOT_FOUND)), None);
        assert!(Whereabouts::new(0, "/srv/../data").path().is_none());
    }
}
