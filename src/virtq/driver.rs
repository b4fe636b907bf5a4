//! The driver's side of one queue: for tests, benches and the load generator.
//!
//! A driver owns the descriptors. It lends chains of them to the device and gets the heads back through the used ring.
//! It keeps its own record of the links, so that it does not believe the device, and allocates nothing.

use core::sync::atomic::Ordering;

use super::layout::{
    AVAIL_F_NO_INTERRUPT, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_LEN, Descriptor, Rings,
    USED_F_NO_NOTIFY, store_descriptor,
};
use super::{F_EVENT_IDX, notify};

/// Most descriptors of a queue that a driver can run.
pub const MAX_DRIVER_SIZE: usize = 1024;

const NONE: u16 = u16::MAX;

/// Describe one buffer of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffer {
    /// Host-physical address.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
    /// The device writes it.
    pub writable: bool,
}

/// Describe a chain that came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Used {
    /// Its head, as [`Driver::add`] gave it.
    pub head: u16,
    /// Bytes that the device says it wrote.
    pub written: u32,
}

/// Hold memory for indirect tables: one for each descriptor of the queue.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    place: *mut u8,
    address: u64,
    /// Descriptors of each.
    len: u16,
}

impl Tables {
    /// Give the bytes that tables of `len` descriptors need for a queue of `size`.
    pub const fn bytes(size: u16, len: u16) -> usize {
        size as usize * len as usize * DESC_LEN as usize
    }

    /// Describe memory for one table of `len` descriptors for each descriptor of a queue.
    ///
    /// # Safety
    /// While the driver that gets it lives, [`Self::bytes`] from `place` on must be mapped for reading and writing and
    /// be reached by nobody else but the device. `place` is a multiple of 16, mapped at host-physical `address`.
    pub const unsafe fn new(place: *mut u8, address: u64, len: u16) -> Self {
        Self {
            place,
            address,
            len,
        }
    }
}

/// Build chains, make them available, reap them. It begins with interrupts suppressed.
pub struct Driver {
    rings: Rings,
    tables: Option<Tables>,
    event_idx: bool,
    armed: bool,
    /// First free descriptor.
    free: u16,
    free_count: u16,
    /// Index of the next available entry.
    next_avail: u16,
    /// The available index that the device sees.
    published: u16,
    /// Index of the next used element to reap.
    next_used: u16,
    /// Links of the free list and of the chains that are out.
    links: [u16; MAX_DRIVER_SIZE],
    /// Descriptors of the chain that begins here and is out; zero for all others.
    out: [u16; MAX_DRIVER_SIZE],
}

// SAFETY: see the contracts of `Rings::new` and `Tables::new`, which do not depend on the thread.
unsafe impl Send for Driver {}

impl Driver {
    /// Take over a queue whose rings are all zero, of at most [`MAX_DRIVER_SIZE`] descriptors.
    ///
    /// With `tables`, every chain is one indirect descriptor: the device must have accepted that feature.
    pub fn new(rings: Rings, features: u64, tables: Option<Tables>) -> Option<Self> {
        let size = rings.size();
        if size as usize > MAX_DRIVER_SIZE {
            return None;
        }
        let mut links = [NONE; MAX_DRIVER_SIZE];
        for (index, link) in links[..size as usize - 1].iter_mut().enumerate() {
            *link = index as u16 + 1;
        }
        let mut driver = Self {
            rings,
            tables,
            event_idx: features & F_EVENT_IDX != 0,
            armed: true,
            free: 0,
            free_count: size,
            next_avail: 0,
            published: 0,
            next_used: 0,
            links,
            out: [0; MAX_DRIVER_SIZE],
        };
        driver.disarm();
        Some(driver)
    }

    /// Give the number of descriptors that are not lent.
    pub const fn available(&self) -> u16 {
        self.free_count
    }

    /// Build a chain of `buffers`, readable ones first, and put it into the available ring. The device sees it after
    /// [`Self::publish`]. Returns its head; `None` when too few descriptors are free, or `buffers` is empty or longer
    /// than an indirect table.
    #[inline]
    pub fn add(&mut self, buffers: &[Buffer]) -> Option<u16> {
        let head = match self.tables {
            Some(tables) => self.add_indirect(tables, buffers)?,
            None => self.add_direct(buffers)?,
        };
        self.rings
            .avail_entry(self.next_avail)
            .store(head, Ordering::Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
        Some(head)
    }

    fn add_direct(&mut self, buffers: &[Buffer]) -> Option<u16> {
        if buffers.is_empty() || buffers.len() > self.free_count as usize {
            return None;
        }
        let head = self.free;
        let mut index = head;
        for (at, buffer) in buffers.iter().enumerate() {
            let more = at + 1 < buffers.len();
            let next = self.links[index as usize];
            self.rings.store_desc(index, link(buffer, more, next));
            if more {
                index = next;
            }
        }
        self.free = self.links[index as usize];
        self.out[head as usize] = buffers.len() as u16;
        self.free_count -= buffers.len() as u16;
        Some(head)
    }

    fn add_indirect(&mut self, tables: Tables, buffers: &[Buffer]) -> Option<u16> {
        if buffers.is_empty() || buffers.len() > tables.len as usize || self.free_count == 0 {
            return None;
        }
        let head = self.free;
        self.free = self.links[head as usize];
        self.out[head as usize] = 1;
        self.free_count -= 1;
        let offset = head as usize * tables.len as usize * DESC_LEN as usize;
        for (at, buffer) in buffers.iter().enumerate() {
            let more = at + 1 < buffers.len();
            // SAFETY: `head` is below the queue's size and `at` below the table's length, so this lies in the memory of
            // `Tables::new`, at a multiple of 16.
            unsafe {
                let place = tables.place.add(offset + at * DESC_LEN as usize);
                store_descriptor(place, link(buffer, more, at as u16 + 1));
            }
        }
        self.rings.store_desc(
            head,
            Descriptor {
                address: tables.address + offset as u64,
                len: buffers.len() as u32 * DESC_LEN as u32,
                flags: DESC_F_INDIRECT,
                next: 0,
            },
        );
        Some(head)
    }

    /// Make available what was added. True when the device wants to be notified.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next_avail);
        if old == new {
            return false;
        }
        self.rings.avail_idx().store(new, Ordering::Release);
        self.published = new;
        notify::published();
        if self.event_idx {
            notify::must_wake(self.rings.avail_event(), old, new)
        } else {
            self.rings.used_flags().load(Ordering::Relaxed) & USED_F_NO_NOTIFY == 0
        }
    }

    /// Reap the next chain that came back. A used element that names no chain that is out is dropped.
    #[inline]
    pub fn reap(&mut self) -> Option<Used> {
        while self.rings.used_idx().load(Ordering::Acquire) != self.next_used {
            let (id, written) = self.rings.load_used(self.next_used);
            self.next_used = self.next_used.wrapping_add(1);
            let out = self.out.get_mut(id as usize).map_or(0, core::mem::take);
            if out > 0 {
                self.release(id as u16, out);
                return Some(Used {
                    head: id as u16,
                    written,
                });
            }
        }
        None
    }

    #[inline]
    fn release(&mut self, head: u16, count: u16) {
        let mut last = head;
        for _ in 1..count {
            last = self.links[last as usize];
        }
        self.links[last as usize] = self.free;
        self.free = head;
        self.free_count += count;
    }

    /// Ask the device for an interrupt at the next chain that comes back. False when one is there already.
    #[inline]
    pub fn arm(&mut self) -> bool {
        self.armed = true;
        let idle = if self.event_idx {
            notify::may_sleep(
                self.rings.used_event(),
                self.rings.used_idx(),
                self.next_used,
            )
        } else {
            self.rings.avail_flags().store(0, Ordering::Relaxed);
            notify::look_again(self.rings.used_idx(), self.next_used)
        };
        if !idle {
            self.disarm();
        }
        idle
    }

    /// Ask the device for no more interrupts.
    #[inline]
    pub fn disarm(&mut self) {
        if !self.armed {
            return;
        }
        self.armed = false;
        if self.event_idx {
            self.rings
                .used_event()
                .store(self.next_used.wrapping_sub(1), Ordering::Relaxed);
        } else {
            self.rings
                .avail_flags()
                .store(AVAIL_F_NO_INTERRUPT, Ordering::Relaxed);
        }
    }
}

/// Make the descriptor of one buffer.
const fn link(buffer: &Buffer, more: bool, next: u16) -> Descriptor {
    let write = if buffer.writable { DESC_F_WRITE } else { 0 };
    Descriptor {
        address: buffer.address,
        len: buffer.len,
        flags: write | if more { DESC_F_NEXT } else { 0 },
        next: if more { next } else { 0 },
    }
}

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use super::super::testing::Guest;
    use super::super::{F_INDIRECT_DESC, Taken};
    use super::*;
    use std::vec::Vec;

    fn buffer(address: u64, len: u32, writable: bool) -> Buffer {
        Buffer {
            address,
            len,
            writable,
        }
    }

    fn drive(size: u16, features: u64, tables: bool) -> (Guest, Driver) {
        let guest = Guest::new(size, features | F_INDIRECT_DESC);
        let address = guest.data() + 16 * 1024;
        let place = guest.map.contiguous(address, 4096, 16).unwrap();
        // SAFETY: a part of the guest's memory that the tests use for nothing else.
        let tables = tables.then(|| unsafe { Tables::new(place, address, 4) });
        let driver = Driver::new(guest.rings, features, tables).unwrap();
        (guest, driver)
    }

    fn serve(guest: &mut Guest, written: u32) -> Option<(u16, usize, usize)> {
        let mut list = guest.list();
        match guest.device.take(&guest.map, &mut list) {
            Taken::Chain(head) => {
                guest.device.put(head, written);
                guest.device.flush();
                Some((head, list.readable_len(), list.writable_len()))
            }
            Taken::Empty => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_driver_builds_is_what_the_device_takes() {
        for (features, tables) in [
            (0, false),
            (0, true),
            (F_EVENT_IDX, false),
            (F_EVENT_IDX, true),
        ] {
            let (mut guest, mut driver) = drive(8, features, tables);
            let data = guest.data();
            for round in 0..100 {
                let chain = [
                    buffer(data, 40, false),
                    buffer(data + 64, round, false),
                    buffer(data + 256, 16, true),
                    buffer(data + 4096, 4096, true),
                ];
                let head = driver.add(&chain[..2 + round as usize % 3]).unwrap();
                assert_eq!(serve(&mut guest, 0), None, "not published");
                driver.publish();
                let writable = [0, 16, 4112][round as usize % 3];
                let taken = serve(&mut guest, round);
                assert_eq!(taken, Some((head, 40 + round as usize, writable)));
                let written = round;
                assert_eq!(driver.reap(), Some(Used { head, written }));
                assert_eq!(driver.reap(), None);
                assert_eq!(driver.available(), 8);
            }
        }
    }

    #[test]
    fn a_full_queue_takes_no_chain_and_drains_in_any_order() {
        let (mut guest, mut driver) = drive(8, 0, false);
        let data = guest.data();
        let chain = [buffer(data, 1, false), buffer(data, 1, true)];
        let heads: Vec<_> = core::iter::from_fn(|| driver.add(&chain)).collect();
        assert_eq!((heads.len(), driver.available()), (4, 0));
        driver.publish();
        let mut taken: Vec<_> = (0..4)
            .map(|_| {
                let mut list = guest.list();
                guest.device.take(&guest.map, &mut list)
            })
            .collect();
        taken.swap(0, 3);
        taken.swap(1, 2);
        for chain in taken {
            let Taken::Chain(head) = chain else { panic!() };
            guest.device.put(head, 0);
        }
        guest.device.flush();
        while driver.reap().is_some() {}
        assert_eq!(driver.available(), 8);
        let more: Vec<_> = core::iter::from_fn(|| driver.add(&chain)).collect();
        assert_eq!(more.len(), 4);
    }

    #[test]
    fn used_elements_that_name_no_chain_are_dropped() {
        let (mut guest, mut driver) = drive(4, 0, false);
        let data = guest.data();
        let head = driver.add(&[buffer(data, 1, false)]).unwrap();
        driver.publish();
        for id in [head, head, 3, 2] {
            guest.device.put(id, 0);
        }
        guest.device.flush();
        assert_eq!(driver.reap().map(|used| used.head), Some(head));
        assert_eq!(driver.reap(), None);
        assert_eq!(driver.available(), 4);
    }
}
