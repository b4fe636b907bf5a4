//! Which node has which slot.

use crate::mem::{Arena, OutOfMemory};
use crate::wire::resp::{Depth, Item, Malformed, Reader, SLOTS};

/// Nobody.
const NONE: u8 = u8::MAX;

/// Hold the map.
pub struct Slots {
    nodes: &'static mut [u8],
}

impl Slots {
    pub fn new(arena: &Arena) -> Result<Self, OutOfMemory> {
        let nodes = arena.zeroed(SLOTS.into())?;
        nodes.fill(NONE);
        Ok(Self { nodes })
    }

    pub const fn footprint() -> usize {
        SLOTS as usize
    }

    /// Find who has a slot.
    pub fn node(&self, slot: u16) -> Option<u32> {
        let node = *self.nodes.get(usize::from(slot))?;
        (node != NONE).then_some(node.into())
    }

    /// Note that a node has slots, the last included; or that nobody has.
    pub fn set(&mut self, first: u16, last: u16, node: Option<u32>) {
        let node = node.map_or(NONE, |node| node as u8);
        if let Some(slots) = self.nodes.get_mut(first.into()..=last.into()) {
            slots.fill(node);
        }
    }

    /// Tell whether a node has any.
    pub fn names(&self, node: u32) -> bool {
        self.nodes.contains(&(node as u8))
    }

    /// Give the first slot behind this one whose node has none before it: nodes come one after the other.
    pub fn next(&self, slot: u16) -> Option<u16> {
        let mut seen = [false; 1 + NONE as usize];
        seen[usize::from(NONE)] = true;
        for (number, &node) in (0u16..).zip(self.nodes.iter()) {
            let new = !core::mem::replace(&mut seen[usize::from(node)], true);
            if new && number > slot {
                return Some(number);
            }
        }
        None
    }
}

/// A range of slots, and the primary that has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range<'a> {
    /// First and last slot.
    pub slots: (u16, u16),
    /// Address; empty for that of the node which was asked.
    pub host: &'a [u8],
    /// TCP port.
    pub port: u16,
}

/// Read the reply to CLUSTER SLOTS, which is whole.
///
/// # Errors
/// [`Malformed`].
pub fn ranges(reply: &[u8], mut take: impl FnMut(Range<'_>)) -> Result<(), Malformed> {
    let mut reader = Reader::new(reply);
    let Some(Item::Array(count)) = reader.item()? else {
        return Err(Malformed);
    };
    for _ in 0..count {
        let Some(Item::Array(fields @ 3..)) = reader.item()? else {
            return Err(Malformed);
        };
        let (first, last) = (number(&mut reader)?, number(&mut reader)?);
        let Some(Item::Array(parts @ 2..)) = reader.item()? else {
            return Err(Malformed);
        };
        let host = match reader.item()? {
            Some(Item::Bulk(len)) => reader.body(len)?.ok_or(Malformed)?,
            Some(Item::Null) => &[],
            _ => return Err(Malformed),
        };
        let port = number(&mut reader)?;
        for _ in 0..(parts - 2) + (fields - 3) {
            skip(&mut reader)?;
        }
        if first > last || last >= SLOTS {
            return Err(Malformed);
        }
        take(Range {
            slots: (first, last),
            host,
            port,
        });
    }
    Ok(())
}

fn number(reader: &mut Reader<'_>) -> Result<u16, Malformed> {
    match reader.item()? {
        Some(Item::Integer(number)) => u16::try_from(number).map_err(|_| Malformed),
        _ => Err(Malformed),
    }
}

/// Pass over one value.
fn skip(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    let mut depth = Depth::new();
    loop {
        let item = reader.item()?.ok_or(Malformed)?;
        if let Item::Bulk(len) | Item::Text { len, .. } = item {
            reader.body(len)?.ok_or(Malformed)?;
        }
        if depth.item(&item)? {
            return Ok(());
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::sys::map;
    use std::vec::Vec;

    #[test]
    fn nodes_come_one_after_the_other() {
        let mut slots = Slots::new(&map::reserve(Slots::footprint()).unwrap()).unwrap();
        assert_eq!((slots.node(0), slots.next(0)), (None, None));
        slots.set(0, 10, Some(2));
        slots.set(11, 20, Some(0));
        slots.set(21, 16383, Some(2));
        slots.set(100, 100, Some(1));
        assert_eq!(
            (slots.node(5), slots.node(20), slots.node(16384)),
            (Some(2), Some(0), None)
        );
        assert_eq!(
            (slots.next(0), slots.next(11), slots.next(100)),
            (Some(11), Some(100), None)
        );
        slots.set(11, 20, None);
        assert_eq!(
            (slots.next(0), slots.names(0), slots.names(1)),
            (Some(100), false, true)
        );
    }

    #[test]
    fn a_map_of_a_cluster_is_read() {
        let node = "*4\r\n$9\r\n127.0.0.1\r\n:7001\r\n$2\r\nid\r\n*0\r\n";
        let replica = "*4\r\n$-1\r\n:7002\r\n$2\r\nid\r\n*2\r\n$8\r\nhostname\r\n$1\r\nh\r\n";
        let reply = std::format!(
            "*2\r\n*4\r\n:0\r\n:5460\r\n{node}{replica}*3\r\n:5461\r\n:16383\r\n{replica}"
        );
        let mut found = Vec::new();
        ranges(reply.as_bytes(), |range| {
            found.push((range.slots, range.host.to_vec(), range.port));
        })
        .unwrap();
        let wanted = [
            ((0, 5460), b"127.0.0.1".to_vec(), 7001),
            ((5461, 16383), Vec::new(), 7002),
        ];
        assert_eq!(found, wanted);
        for at in 0..reply.len() {
            assert_eq!(
                ranges(&reply.as_bytes()[..at], |_| ()),
                Err(Malformed),
                "{at}"
            );
        }
        let wrong = reply.replace("16383", "16384");
        assert_eq!(ranges(wrong.as_bytes(), |_| ()), Err(Malformed));
    }
}
