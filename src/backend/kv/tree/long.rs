//! Room for what is longer than most: values of extended attributes, and lists of their names.

use zerocopy::FromZeros;

use super::super::engine::VALUE_MAX;
use crate::mem::{Arena, Handle, OutOfMemory};

/// Requests of one core that may have such a thing at a time.
const PLACES: usize = 8;

#[derive(FromZeros)]
struct Place {
    /// Whose it is, as [`Handle::to_bits`]; never given back, for a request that has ended owns nothing.
    owner: u64,
    bytes: [u8; VALUE_MAX],
}

/// Hold a few long values, each for one request.
pub struct Longs(&'static mut [Place]);

impl Longs {
    pub fn new(arena: &Arena) -> Result<Self, OutOfMemory> {
        Ok(Self(arena.zeroed(PLACES)?))
    }

    pub const fn footprint() -> usize {
        (PLACES + 1) * size_of::<Place>()
    }

    /// Give a request its place, with what is in it, or one whose owner is not alive any more. `None` when all are in
    /// use.
    pub fn take(
        &mut self,
        owner: Handle,
        alive: impl Fn(Handle) -> bool,
    ) -> Option<&mut [u8; VALUE_MAX]> {
        let bits = owner.to_bits();
        let its = self.0.iter().position(|place| place.owner == bits);
        let free = || {
            let mut places = self.0.iter();
            places.position(|place| !alive(Handle::from_bits(place.owner)))
        };
        let place = self.0.get_mut(its.or_else(free)?)?;
        place.owner = bits;
        Some(&mut place.bytes)
    }

    /// Give what a request has in its place; nothing without one.
    pub fn get(&self, owner: Handle) -> &[u8] {
        let bits = owner.to_bits();
        let place = self.0.iter().find(|place| place.owner == bits);
        place.map_or(&[], |place| &place.bytes)
    }
}
