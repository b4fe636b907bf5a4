//! A queue of the HAL over a virtqueue: what loopback and vhost-user share.
//!
//! [`RingQueue`] belongs to a core. Its control side, where there is one, reaches it through a [`Mailbox`] only, so the
//! request path holds no lock and no atomic operation beyond the virtqueue's own and one load a round.
//!
//! # What outlives what
//! A request's segments point into the memory map that was in use when its chain was taken. Each start of a queue and
//! each change of its memory opens an *era*; a token names its era. The map of an era stays until the last of its
//! requests is completed, whatever became of the queue meanwhile: then the completion of an era of a queue that is
//! still there is published as any other, and that of a queue that is gone does nothing.
//!
//! ```text
//! era    1 ───────────── 2 ────────────── 3 ───────────>
//!        start           new memory       abandoned, started again
//! token  (1, head 5)     completed: published
//!                        (2, head 5)      completed: ignored, map 2 let go
//! ```

mod bell;
mod mailbox;
mod moderation;
#[cfg(all(test, feature = "std", not(loom)))]
mod tests;

use core::ops::Deref;

pub use bell::{Call, Kick, MAX_MESSAGE};
pub use mailbox::{Answer, Command, Mailbox, Unanswered};

use super::{Queue, Traits};
use crate::mem::{SegmentList, Token};
use crate::sys::io;
use crate::sys::time::Instant;
use crate::virtq::{DeviceQueue, MemoryMap, Start, Taken};
use mailbox::{KICK, WAKE};
use moderation::Moderation;

/// Most eras that wait for their last request beside the present one. While there are as many, a command that would
/// add another is not answered.
pub const MAX_RETIRED: usize = 16;

/// Most times in a row that a core may find nothing after a sleep before what woke it is looked at.
const MAX_FRUITLESS: u8 = 8;

/// Most bad chains that one poll answers before it lets the core go on.
const MAX_BAD: usize = 32;

/// The queue that is being served.
struct Active<M> {
    device: DeviceQueue,
    memory: M,
    kick: Kick,
    call: Call,
    /// An interrupt that is held back, or could not be sent yet.
    owed: bool,
    moderation: Moderation,
    /// Number of this start: eras with the same number belong to the same queue.
    start: u32,
}

impl<M> Active<M> {
    /// Publish what is completed, and interrupt the driver if it wants that and more is not worth waiting for.
    #[inline]
    fn flush(&mut self) {
        let old = self.device.published();
        if !self.device.flush() && !self.owed {
            return;
        }
        let published = (old, self.device.published());
        let taken = self.device.position();
        let due = self.moderation.due(published, taken, Instant::now);
        self.owed = !(due && self.call.ring());
    }

    /// Interrupt the driver, if it is still owed that.
    fn interrupt(&mut self) {
        if self.owed {
            self.moderation.cut();
            self.owed = !self.call.ring();
        }
    }
}

/// An era that is over and still has requests in flight.
struct Retired<M> {
    era: u32,
    start: u32,
    in_flight: u16,
    /// Kept for the requests' segments.
    memory: M,
}

/// Serve one virtqueue on one core.
///
/// `M` is a shared handle of the host's memory, `B` one of the mailbox.
pub struct RingQueue<M, B = &'static Mailbox<M>>
where
    M: Deref<Target = MemoryMap> + 'static,
    B: Deref<Target = Mailbox<M>>,
{
    /// Chains may be taken.
    taking: bool,
    /// The driver or the control side was asked to wake the core.
    armed: bool,
    /// What wakes the core may have been used since it was looked at last.
    stale: bool,
    /// A chain was taken since then.
    took: bool,
    /// Times that the core went to sleep or tried to since then.
    fruitless: u8,
    /// A command waits for something.
    attention: bool,
    /// Stopping: answer this command when nothing is in flight.
    draining: Option<u32>,
    era: u32,
    starts: u32,
    /// Where the last queue stopped.
    position: u16,
    /// Last command seen.
    seen: u32,
    active: Option<Active<M>>,
    mailbox: Option<B>,
    /// Longest time, in nanoseconds, that an interrupt is held back.
    hold: u64,
    /// A command that waits for room in `retired`.
    delayed: Option<(u32, Command<M>)>,
    retired: [Option<Retired<M>>; MAX_RETIRED],
    bad_chains: u64,
}

impl<M> RingQueue<M>
where
    M: Deref<Target = MemoryMap> + 'static,
{
    /// Serve a queue that is never stopped and cannot wake its core.
    pub fn fixed(start: Start, memory: M) -> Self {
        let mut queue = Self::empty(None, 0);
        queue.start(start, memory, Kick::Never, Call::Never);
        queue
    }
}

impl<M, B> RingQueue<M, B>
where
    M: Deref<Target = MemoryMap>,
    B: Deref<Target = Mailbox<M>>,
{
    /// Make a queue that serves nothing until its control side starts it. Interrupts are held back for `hold`
    /// nanoseconds at most, while the driver goes on without them.
    pub fn controlled(mailbox: B, hold: u64) -> Self {
        Self::empty(Some(mailbox), hold)
    }

    fn empty(mailbox: Option<B>, hold: u64) -> Self {
        Self {
            taking: false,
            armed: false,
            stale: false,
            took: false,
            fruitless: 0,
            attention: false,
            draining: None,
            era: 0,
            starts: 0,
            position: 0,
            seen: 0,
            active: None,
            mailbox,
            hold,
            delayed: None,
            retired: [const { None }; MAX_RETIRED],
            bad_chains: 0,
        }
    }

    /// Give the number of chains that broke the rules.
    pub const fn bad_chains(&self) -> u64 {
        self.bad_chains
    }

    fn start(&mut self, start: Start, memory: M, kick: Kick, call: Call) {
        self.watch(&kick);
        self.starts = self.starts.wrapping_add(1);
        self.active = Some(Active {
            device: DeviceQueue::new(start),
            memory,
            kick,
            call,
            owed: false,
            moderation: Moderation::new(self.hold),
            start: self.starts,
        });
        self.taking = true;
    }

    fn watch(&self, kick: &Kick) {
        if let (Kick::Fd(event), Some(mailbox)) = (kick, &self.mailbox)
            && let Err(error) = mailbox.wait().add(event.raw(), KICK)
        {
            // The queue is then served whenever the core is awake.
            crate::log::error!("cannot wait for a queue's kick: {}", error);
        }
    }

    /// Must be called before the descriptor is closed: the set would keep it as long as the driver has it open.
    fn unwatch(&self, kick: &Kick) {
        if let (Kick::Fd(event), Some(mailbox)) = (kick, &self.mailbox) {
            // Fails only for one that is not in the set.
            let _ = mailbox.wait().remove(event.raw());
        }
    }

    /// Give the number of requests in flight of the queue that is being served.
    fn outstanding(&self) -> u16 {
        let active = self.active.as_ref();
        active.map_or(0, |active| active.device.in_flight())
    }

    /// Give how many of those are of the present era.
    fn in_flight(&self) -> u16 {
        let start = self.active.as_ref().map(|active| active.start);
        let older = self.retired.iter().flatten();
        older
            .filter(|retired| Some(retired.start) == start)
            .fold(self.outstanding(), |all, retired| {
                all.saturating_sub(retired.in_flight)
            })
    }

    /// Tell whether the present era can end: its memory is kept when it has requests in flight.
    fn can_retire(&self) -> bool {
        self.in_flight() == 0 || self.retired.iter().any(Option::is_none)
    }

    /// End the present era, which [`Self::can_retire`] and has so many requests in flight.
    fn retire(&mut self, memory: M, start: u32, in_flight: u16) {
        if in_flight > 0
            && let Some(place) = self.retired.iter_mut().find(|place| place.is_none())
        {
            *place = Some(Retired {
                era: self.era,
                start,
                in_flight,
                memory,
            });
        }
        self.era = self.era.wrapping_add(1);
    }

    /// Complete a request of an era that is over.
    #[cold]
    fn complete_retired(&mut self, token: Token, written: u32) {
        let (era, head) = unpack(token);
        for place in &mut self.retired {
            let Some(retired) = place.as_mut().filter(|retired| retired.era == era) else {
                continue;
            };
            if let Some(active) = &mut self.active
                && active.start == retired.start
            {
                active.device.put(head, written);
            }
            retired.in_flight -= 1;
            if retired.in_flight == 0 {
                *place = None;
            }
            return;
        }
    }

    /// Look at the control side's wishes.
    #[cold]
    fn attend(&mut self) {
        let command = match self.delayed.take() {
            Some(delayed) => Some(delayed),
            None => self.take_command(),
        };
        if let Some((number, command)) = command {
            self.obey(number, command);
        }
        if let Some(number) = self.draining
            && self.outstanding() == 0
        {
            self.let_go();
            self.answer(number, 0);
        }
        self.attention = self.draining.is_some() || self.delayed.is_some();
    }

    fn take_command(&mut self) -> Option<(u32, Command<M>)> {
        let mailbox = self.mailbox.as_ref()?;
        if mailbox.posted() == self.seen {
            return None;
        }
        let (number, command) = mailbox.take();
        self.seen = number;
        Some((number, command?))
    }

    fn obey(&mut self, number: u32, command: Command<M>) {
        match command {
            Command::Start {
                start,
                memory,
                kick,
                call,
            } => {
                if self.active.is_none() {
                    self.start(start, memory, kick, call);
                }
            }
            Command::Memory { .. } | Command::Abandon if !self.can_retire() => {
                self.delayed = Some((number, command));
                return;
            }
            Command::Memory { memory, rings } => {
                let in_flight = self.in_flight();
                if let Some(active) = &mut self.active {
                    active.device.relocate(rings);
                    let (old, start) =
                        (core::mem::replace(&mut active.memory, memory), active.start);
                    self.retire(old, start, in_flight);
                }
            }
            Command::Call(call) => {
                if let Some(active) = &mut self.active {
                    active.call = call;
                    // The old one may have swallowed the last interrupt; one too many does no harm.
                    active.owed = true;
                }
            }
            Command::Kick(kick) => {
                self.watch_instead(kick);
            }
            Command::Stop => {
                self.taking = false;
                self.draining = Some(number);
                return;
            }
            Command::Abandon => {
                let abandoned = self.outstanding();
                self.let_go();
                self.answer(number, abandoned);
                return;
            }
        }
        self.answer(number, 0);
    }

    fn watch_instead(&mut self, kick: Kick) {
        if let Some(mut active) = self.active.take() {
            self.unwatch(&active.kick);
            self.watch(&kick);
            active.kick = kick;
            self.active = Some(active);
        }
    }

    /// Publish what is completed and forget the queue, whose era [`Self::can_retire`].
    fn let_go(&mut self) {
        self.taking = false;
        self.draining = None;
        let in_flight = self.in_flight();
        if let Some(mut active) = self.active.take() {
            active.flush();
            // Nobody can try again.
            active.interrupt();
            self.position = active.device.position();
            self.unwatch(&active.kick);
            self.retire(active.memory, active.start, in_flight);
        }
    }

    fn answer(&self, number: u32, abandoned: u16) {
        if let Some(mailbox) = &self.mailbox {
            let position = self.position;
            mailbox.give_answer(
                number,
                Answer {
                    position,
                    abandoned,
                },
            );
        }
    }

    /// Reset what wakes the core, so that only what comes from now on does.
    fn clear(&mut self) {
        let Some(mailbox) = &self.mailbox else {
            return;
        };
        let kick = match &self.active {
            Some(Active {
                kick: Kick::Fd(event),
                ..
            }) => Some(event),
            _ => None,
        };
        if let Some(event) = kick
            && self.took
        {
            // Nearly always what woke the core. Whatever else did wakes it once more and is found then.
            event.clear();
            return;
        }
        let mut kicked = false;
        // Cannot fail on a set of our own; at worst the core does not sleep.
        let _ = mailbox.wait().wait(0, |key| match key {
            WAKE => mailbox.clear_wake(),
            _ => kicked = true,
        });
        if let Some(event) = kick
            && kicked
            && io::read(event.raw(), &mut [0; 8]) == Ok(0)
        {
            // The other end of a pipe is closed: readable for ever, and nobody will kick again.
            let _ = mailbox.wait().remove(event.raw());
        }
    }

    /// Give a chain that broke the rules back with nothing written.
    #[cold]
    fn answer_bad(&mut self, head: u16, list: &mut SegmentList) {
        list.clear();
        if let Some(active) = &mut self.active {
            active.device.put(head, 0);
        }
        self.bad_chains += 1;
        if let Some(mailbox) = &self.mailbox {
            mailbox.count_bad();
        }
    }

    /// Go on after the queue gave no good chain.
    #[cold]
    fn after(&mut self, mut taken: Taken, into: &mut SegmentList) -> Option<Token> {
        for _ in 0..MAX_BAD {
            match taken {
                Taken::Chain(head) => return Some(self.token(head)),
                Taken::Empty => return None,
                Taken::Bad(head, _) => self.answer_bad(head, into),
                Taken::Broken(_) => {
                    self.broke();
                    return None;
                }
            }
            let active = self.active.as_mut()?;
            taken = active.device.take_after_bad(&active.memory, into);
        }
        None
    }

    /// Name a chain that was taken.
    #[inline(always)]
    fn token(&mut self, head: u16) -> Token {
        self.took = true;
        pack(self.era, head)
    }

    #[cold]
    fn broke(&mut self) {
        self.taking = false;
        if let Some(mailbox) = &self.mailbox {
            mailbox.set_broken();
        }
    }
}

/// Carry what a completion needs: the era of the request and the head of its chain.
#[inline(always)]
const fn pack(era: u32, head: u16) -> Token {
    Token((era as u64) << 16 | head as u64)
}

#[inline(always)]
const fn unpack(token: Token) -> (u32, u16) {
    ((token.0 >> 16) as u32, token.0 as u16)
}

impl<M, B> Queue for RingQueue<M, B>
where
    M: Deref<Target = MemoryMap>,
    B: Deref<Target = Mailbox<M>>,
{
    fn traits(&self) -> Traits {
        Traits {
            deferred: true,
            sends_all: false,
            host_memory: true,
        }
    }

    #[inline(always)]
    fn poll(&mut self, into: &mut SegmentList) -> Option<Token> {
        if !self.taking {
            return None;
        }
        let active = self.active.as_mut()?;
        let taken = active.device.take(&active.memory, into);
        if let Taken::Chain(head) = taken {
            return Some(self.token(head));
        }
        self.after(taken, into)
    }

    #[inline]
    fn complete(&mut self, token: Token, written: u32) {
        let (era, head) = unpack(token);
        if era != self.era {
            return self.complete_retired(token, written);
        }
        // An era that is not over has a queue.
        if let Some(active) = &mut self.active {
            active.device.put(head, written);
        }
    }

    #[inline]
    fn flush(&mut self) {
        if let Some(active) = &mut self.active {
            active.flush();
        }
        if let Some(mailbox) = &self.mailbox
            && (self.attention || mailbox.posted() != self.seen)
        {
            self.attend();
        }
    }

    fn arm(&mut self) -> bool {
        if self.taking
            && let Some(active) = &self.active
            && (matches!(active.kick, Kick::Never) || active.device.has_chain())
        {
            return false;
        }
        if let Some(active) = &mut self.active {
            active.interrupt();
        }
        if self.stale {
            self.stale = false;
            // Without a chain nothing was sent, most likely: the core did not sleep, or another queue woke it. A
            // wake-up that came late costs a few rounds without sleep then, and not a system call in every round.
            self.fruitless += 1;
            if self.took || self.fruitless >= MAX_FRUITLESS {
                // Before the driver is asked: what it sends from then on must be found.
                self.clear();
                self.took = false;
                self.fruitless = 0;
            }
        }
        self.armed = true;
        let idle = match &mut self.active {
            Some(active) if self.taking => active.device.arm(),
            _ => true,
        };
        if !idle {
            self.disarm();
        }
        idle
    }

    fn disarm(&mut self) {
        if !self.armed {
            return;
        }
        self.armed = false;
        self.stale = true;
        if let Some(active) = &mut self.active {
            active.device.disarm();
        }
    }

    fn wait_fd(&self) -> Option<i32> {
        self.mailbox.as_ref().map(|mailbox| mailbox.wait().raw())
    }
}

impl<M, B> Drop for RingQueue<M, B>
where
    M: Deref<Target = MemoryMap>,
    B: Deref<Target = Mailbox<M>>,
{
    fn drop(&mut self) {
        if let Some(mailbox) = &self.mailbox {
            mailbox.leave();
        }
        // Requests in flight point into the host's memory, and nobody can tell any more when they end.
        if self.in_flight() > 0
            && let Some(active) = self.active.take()
        {
            core::mem::forget(active.memory);
        }
        for retired in self.retired.iter_mut().filter_map(Option::take) {
            core::mem::forget(retired.memory);
        }
    }
}
