//! Who must wake whom: notification suppression (VIRTIO 1.3, sections 2.7.7 and 2.7.10).
//!
//! Both directions are the same protocol. The *producer* publishes entries by its `index` and wakes the consumer when
//! that passes the consumer's `event`; the *consumer* announces its `event` before it sleeps, and looks at `index`
//! again:
//!
//! ```text
//!   producer                      consumer
//!   index = new    (release)      event = position
//!   fence(SeqCst)                 fence(SeqCst)
//!   read event                    read index        (acquire)
//!   wake if passed                sleep if index == position
//! ```
//!
//! Of two sequentially consistent fences one is first. If it is the producer's, the consumer reads the new index and
//! does not sleep; if the consumer's, the producer reads the new event and wakes. So no wake-up is lost, whatever the
//! interleaving; the loom model below runs the functions that the queues call.

#[cfg(not(loom))]
use core::sync::atomic::fence;
use core::sync::atomic::{AtomicU16, Ordering};
#[cfg(loom)]
use loom::sync::atomic::fence;

/// Be a field that both sides reach: an atomic in the host's memory, or the model's.
pub trait Field {
    /// Load it.
    fn load(&self, order: Ordering) -> u16;
    /// Store it.
    fn store(&self, value: u16, order: Ordering);
}

impl Field for AtomicU16 {
    #[inline(always)]
    fn load(&self, order: Ordering) -> u16 {
        self.load(order)
    }

    #[inline(always)]
    fn store(&self, value: u16, order: Ordering) {
        self.store(value, order);
    }
}

/// Tell whether the entries from `old` up to `new` pass `event`: the specification's `vring_need_event`.
#[inline(always)]
pub const fn passes(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Order what was published before what is read next. The producer's half of the protocol.
#[inline(always)]
pub fn published() {
    fence(Ordering::SeqCst);
}

/// Decide, after [`published`], whether entries from `old` up to `new` wake the consumer.
#[inline(always)]
pub fn must_wake(event: &impl Field, old: u16, new: u16) -> bool {
    passes(event.load(Ordering::Relaxed), old, new)
}

/// Announce that the consumer, who stands at `position`, is about to sleep. False when there is an entry already.
#[inline]
pub fn may_sleep(event: &impl Field, index: &impl Field, position: u16) -> bool {
    event.store(position, Ordering::Relaxed);
    look_again(index, position)
}

/// Look for an entry after the wish to be woken was stored. False when there is one.
#[inline]
pub fn look_again(index: &impl Field, position: u16) -> bool {
    fence(Ordering::SeqCst);
    index.load(Ordering::Acquire) == position
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_passed_once_wherever_the_indices_wrap() {
        for start in [0, 1, 0x7fff, 0x8000, 0xfffe, 0xffff_u16] {
            let old = start;
            let new = start.wrapping_add(3);
            for offset in 0..3 {
                assert!(passes(start.wrapping_add(offset), old, new), "{start}");
            }
            assert!(!passes(start.wrapping_sub(1), old, new), "passed before");
            assert!(!passes(new, old, new), "not yet reached");
            assert!(!passes(start, old, old), "nothing published");
        }
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU16;

    impl Field for AtomicU16 {
        fn load(&self, order: Ordering) -> u16 {
            self.load(order)
        }

        fn store(&self, value: u16, order: Ordering) {
            self.store(value, order);
        }
    }

    struct Shared {
        index: AtomicU16,
        event: AtomicU16,
        wakes: AtomicU16,
    }

    /// Two chains are published one by one while the consumer takes what it sees and then goes to sleep: it never
    /// sleeps beside an entry without a wake-up under way.
    #[test]
    fn no_wake_up_is_lost() {
        loom::model(|| {
            let shared = Arc::new(Shared {
                index: AtomicU16::new(0),
                // Suppressed: the position before the first.
                event: AtomicU16::new(u16::MAX),
                wakes: AtomicU16::new(0),
            });
            let other = Arc::clone(&shared);
            let producer = loom::thread::spawn(move || {
                for new in 1..=2 {
                    other.index.store(new, Ordering::Release);
                    published();
                    if must_wake(&other.event, new - 1, new) {
                        other.wakes.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
            // Each time it may sleep with entries missing, a wake-up must follow; take it and go on.
            let mut position = shared.index.load(Ordering::Acquire);
            if !may_sleep(&shared.event, &shared.index, position) {
                position = shared.index.load(Ordering::Acquire);
                let asleep = may_sleep(&shared.event, &shared.index, position);
                if !asleep {
                    position = 2;
                    assert!(may_sleep(&shared.event, &shared.index, position));
                }
            }
            producer.join().unwrap();
            if position != 2 {
                assert!(
                    shared.wakes.load(Ordering::SeqCst) > 0,
                    "asleep at {position}"
                );
            }
        });
    }
}
