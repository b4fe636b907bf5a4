//! When to interrupt a driver that wants to be: at once, or once more requests have ended.
//!
//! A driver with one request in flight waits for nothing but its interrupt. One with many is slowed by an interrupt for
//! each: taken in the middle of sending the next request, it costs the host more than the request does. From outside
//! both look the same, since a fast device never sees more than one request in the queue. So an interrupt is held back
//! now and then to see whether the driver goes on without it:
//!
//! ```text
//! ended     1   2   3   4
//! target 1  !   !   !   !          one request in flight: an interrupt for each, at once
//! probe     .   !                  held until twice as many have ended: the driver went on, the target doubles
//! target 2  .   !   .   !
//! probe     .   .   .   _ !        the driver fell silent: as many as ended are the target, the next probe is later
//! target 3  .   _ !                silent again: the target halves, or is as many as ended
//! ```
//!
//! The device stays `busy` while it holds one back: a core that goes to sleep interrupts first. Completions themselves
//! are never held back, so a driver that polls sees each at once.

use crate::sys::time::Instant;

/// Interrupts between two probes: least, and most, which a driver with one request in flight soon has.
const PAUSES: (u16, u16) = (8, 1024);

/// Most requests that one interrupt is to stand for.
const MOST: u16 = 256;

/// Decide when to interrupt one queue's driver.
pub struct Moderation {
    /// Longest time, in nanoseconds, that an interrupt is held back; zero: never. A driver that did nothing for half of
    /// it is taken to wait.
    longest: u64,
    /// Requests that an interrupt stands for at present.
    target: u16,
    /// The same for the next one: more than `target` in a probe.
    goal: u16,
    /// Interrupts until the next probe, and from that to the one after.
    countdown: u16,
    pause: u16,
    held: Option<Held>,
}

/// An interrupt that is held back.
struct Held {
    /// Used index of its first request.
    first: u16,
    since: Instant,
    /// Used and available indexes at the last look, and when they last changed.
    seen: (u16, u16),
    active: Instant,
}

impl Moderation {
    /// Hold interrupts back for `longest` nanoseconds at most.
    pub const fn new(longest: u64) -> Self {
        Self {
            longest,
            target: 1,
            goal: 1,
            countdown: PAUSES.0,
            pause: PAUSES.0,
            held: None,
        }
    }

    /// Tell whether the driver, who wants to be interrupted, is to be now. `published` are the used indexes before and
    /// after the last completions, `taken` is the available index up to which requests were taken.
    pub fn due(
        &mut self,
        published: (u16, u16),
        taken: u16,
        clock: impl FnOnce() -> Instant,
    ) -> bool {
        let (old, new) = published;
        let first = self.held.as_ref().map_or(old, |held| held.first);
        let ended = new.wrapping_sub(first);
        if ended >= self.goal {
            if self.goal > self.target {
                self.target = self.goal;
                self.pause = (self.pause / 2).max(PAUSES.0);
            }
            self.next();
            return true;
        }
        let now = clock();
        let held = self.held.get_or_insert(Held {
            first,
            since: now,
            seen: (new, taken),
            active: now,
        });
        if held.seen != (new, taken) {
            held.seen = (new, taken);
            held.active = now;
        }
        if now.since(held.active) >= self.longest / 2 {
            // A driver that was kept from going on by something else soon goes on as before: half as many, not one.
            if self.goal > self.target {
                self.target = self.target.max(ended);
                self.pause = (self.pause * 2).min(PAUSES.1);
            } else {
                self.target = ended.max(self.target / 2).max(1);
            }
        } else if now.since(held.since) >= self.longest {
            self.target = self.target.max(ended);
        } else {
            return false;
        }
        self.next();
        true
    }

    /// Forget what is held back: the driver is interrupted in any case.
    pub fn cut(&mut self) {
        self.held = None;
    }

    fn next(&mut self) {
        self.held = None;
        self.goal = self.target;
        self.countdown -= 1;
        if self.countdown == 0 {
            self.countdown = self.pause;
            if self.longest > 0 {
                self.goal = (self.target * 2).min(MOST);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: u64 = 64_000;

    /// Play a driver that keeps `depth` requests in flight and needs `send` nanoseconds for each, and a device that
    /// answers each at once. Give the requests that ended, the interrupts, and the longest that one was held back.
    fn play(moderation: &mut Moderation, depth: u16, send: u64, until: u64) -> (u32, u32, u64) {
        let (mut now, mut next) = (0, 0);
        let (mut used, mut in_flight, mut owed) = (u16::MAX - 5, 0, None);
        let (mut ended, mut interrupts, mut longest) = (0, 0, 0);
        while now < until {
            now += 1000;
            let old = used;
            if in_flight < depth && now >= next {
                next = now + send;
                in_flight += 1;
                used = used.wrapping_add(1);
                ended += 1;
            }
            if used != old {
                owed.get_or_insert(now);
            }
            if let Some(since) = owed
                && moderation.due((old, used), used, || Instant(now))
            {
                interrupts += 1;
                longest = longest.max(now - since);
                owed = None;
                in_flight = 0;
                next = now + send;
            }
        }
        (ended, interrupts, longest)
    }

    #[test]
    fn a_driver_that_waits_is_interrupted_at_once() {
        let mut moderation = Moderation::new(LONGEST);
        play(&mut moderation, 1, 20_000, 1_000_000_000);
        let (ended, interrupts, longest) = play(&mut moderation, 1, 20_000, 1_000_000_000);
        assert_eq!(ended, interrupts);
        assert!(longest <= LONGEST, "{longest}");
        // At most one in a thousand was held back.
        let undisturbed = 1_000_000_000 / 20_000;
        assert!(ended > undisturbed - undisturbed / 500, "{ended}");
    }

    #[test]
    fn a_driver_that_goes_on_is_interrupted_for_several_at_once() {
        for (depth, send, least) in [(32, 1000, 16), (32, 20_000, 3), (3, 1000, 2)] {
            let mut moderation = Moderation::new(LONGEST);
            play(&mut moderation, 1, 20_000, 100_000_000);
            play(&mut moderation, depth, send, 500_000_000);
            let (ended, interrupts, longest) = play(&mut moderation, depth, send, 500_000_000);
            assert!(ended / interrupts >= least, "{depth}: {ended} {interrupts}");
            assert!(longest <= LONGEST, "{longest}");
            play(&mut moderation, 1, 20_000, 100_000_000);
            let (ended, interrupts, _) = play(&mut moderation, 1, 20_000, 100_000_000);
            assert_eq!(ended, interrupts, "back to one in flight");
        }
    }

    #[test]
    fn nothing_is_held_back_where_that_is_not_wanted() {
        let mut moderation = Moderation::new(0);
        let (ended, interrupts, longest) = play(&mut moderation, 32, 1000, 10_000_000);
        assert_eq!((ended, longest), (interrupts, 0));
    }

    #[test]
    fn an_interrupt_that_is_owed_for_no_request_comes_too() {
        let mut moderation = Moderation::new(LONGEST);
        let due_at = (0..).find(|&at| moderation.due((7, 7), 7, || Instant(at * 1000)));
        assert!(due_at.unwrap() * 1000 <= LONGEST);
    }
}
