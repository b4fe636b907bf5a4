//! The device's queues as the control side sees them: starting, stopping, and waiting for their cores.

use std::sync::Arc;
use std::vec::Vec;

use super::memory::{Memory, MemoryError};
use crate::hal::ring::{Answer, Call, Command, Kick, Mailbox, Unanswered};
use crate::log;
use crate::sys;
use crate::sys::epoll::Epoll;
use crate::sys::eventfd::EventFd;
use crate::sys::fd::Fd;
use crate::sys::time::Instant;
use crate::virtq::Start;
use crate::wire::errno::Errno;
use crate::wire::vhost_user::{BACKEND_VRING_CALL, HEADER_LEN, Header, VringAddr, VringState};
use zerocopy::IntoBytes;

/// Longest time that queues get to complete what is in flight when they are stopped, in nanoseconds.
///
/// A front-end waits meanwhile, QEMU with its main loop. What takes longer waits for storage that does not answer.
pub(super) const DRAIN: u64 = 5_000_000_000;

/// Time that a queue gets in any case: enough for its core to come round.
const LEAST_DRAIN: u64 = 200_000_000;

/// Longest time that a core gets to look at a command, in nanoseconds. It does so once a round.
const ANSWER: u64 = 5_000_000_000;

/// Say why a queue did not do as it was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum QueueError {
    /// Its core does not answer.
    Stuck,
    /// Its rings or its record cannot be used.
    Memory(MemoryError),
    /// A descriptor cannot be duplicated.
    Fd(Errno),
}

/// What the front-end said of the descriptor that the driver kicks.
#[derive(Debug, Default)]
pub(super) enum KickFd {
    /// Nothing.
    #[default]
    Unset,
    /// There is none: poll.
    Poll,
    /// This one.
    Fd(Fd),
}

/// What the front-end said of one queue.
#[derive(Debug, Default)]
pub(super) struct Vring {
    pub(super) size: u16,
    pub(super) address: Option<VringAddr>,
    /// Index of the next available entry.
    pub(super) base: u16,
    pub(super) kick: KickFd,
    pub(super) call: Option<Fd>,
    pub(super) error: Option<EventFd>,
    pub(super) enabled: bool,
    /// The queue was given to its core.
    pub(super) running: bool,
    /// Where the queue stopped last in this session.
    pub(super) stopped_at: Option<u16>,
}

/// What all queues have in common when one is started.
pub(super) struct Shared<'a> {
    pub(super) memory: &'a Memory,
    pub(super) features: u64,
    /// Where interrupts go as messages, when that was negotiated.
    pub(super) inband: Option<&'a Fd>,
}

/// Hold the control side of all queues.
pub(super) struct Queues {
    pub(super) vrings: Vec<Vring>,
    mailboxes: Vec<Arc<Mailbox<Memory>>>,
    /// Commands whose answer was not waited for to the end.
    stuck: Vec<Option<u32>>,
    /// Readable when a core has something to say.
    done: Epoll,
    /// When the queues that are being stopped one after another must all be stopped.
    drain_until: Option<Instant>,
}

impl Queues {
    pub(super) fn new(mailboxes: Vec<Arc<Mailbox<Memory>>>) -> sys::Result<Self> {
        let done = Epoll::new()?;
        for (index, mailbox) in mailboxes.iter().enumerate() {
            done.add(mailbox.done_fd(), index as u64)?;
        }
        Ok(Self {
            vrings: mailboxes.iter().map(|_| Vring::default()).collect(),
            stuck: mailboxes.iter().map(|_| None).collect(),
            mailboxes,
            done,
            drain_until: None,
        })
    }

    pub(super) const fn len(&self) -> usize {
        self.vrings.len()
    }

    /// Give the descriptor that becomes readable when [`Self::report`] has something to do.
    pub(super) const fn done_fd(&self) -> i32 {
        self.done.raw()
    }

    pub(super) fn any_running(&self) -> bool {
        self.vrings.iter().any(|vring| vring.running)
    }

    /// Forget what a front-end said. All queues are stopped.
    pub(super) fn forget(&mut self) {
        self.vrings.fill_with(Vring::default);
    }

    /// Wake the core of a queue whose driver kicked by message.
    pub(super) fn kicked(&self, index: usize) {
        self.mailboxes[index].wake();
    }

    /// Tell of guests that break the rules.
    pub(super) fn report(&mut self, tag: &str) {
        self.clear_done(0);
        for (index, (vring, mailbox)) in self.vrings.iter().zip(&self.mailboxes).enumerate() {
            let (bad_chains, broken) = mailbox.report();
            if bad_chains > 0 {
                log::warn!(
                    "device {}: queue {}: {} malformed chains",
                    tag,
                    index as u32,
                    bad_chains
                );
            }
            if broken {
                log::error!(
                    "device {}: queue {} is corrupt and stands still until it is reset",
                    tag,
                    index as u32
                );
                if let Some(event) = &vring.error {
                    event.notify();
                }
            }
        }
    }

    /// Give a queue to its core.
    pub(super) fn start(&mut self, index: usize, shared: &Shared) -> Result<(), QueueError> {
        self.unstick(index)?;
        let vring = &mut self.vrings[index];
        let Some(address) = vring.address else {
            return Err(QueueError::Memory(MemoryError::Queue));
        };
        let rings = shared.memory.rings(&address, vring.size);
        let rings = rings.map_err(QueueError::Memory)?;
        let inflight = shared.memory.record(index, vring.size, rings.published());
        let inflight = inflight.map_err(QueueError::Memory)?;
        let kick = vring.kick().map_err(QueueError::Fd)?;
        let call = vring.call(index, shared.inband).map_err(QueueError::Fd)?;
        let command = Command::Start {
            start: Start {
                rings,
                next_avail: vring.base,
                features: shared.features,
                inflight,
            },
            memory: shared.memory.clone(),
            kick,
            call,
        };
        vring.running = true;
        self.drain_until = None;
        self.tell(index, command)
    }

    /// Let the queues that are running go on in other memory. When one does not lie in it, none does.
    pub(super) fn move_to(&mut self, memory: &Memory) -> Result<(), QueueError> {
        let running = self.vrings.iter().enumerate().filter(|(_, v)| v.running);
        let moves = running.filter_map(|(index, vring)| {
            let rings = memory.rings(&vring.address?, vring.size);
            Some(rings.map(|rings| (index, rings)))
        });
        let moves = moves.collect::<Result<Vec<_>, _>>();
        for (index, rings) in moves.map_err(QueueError::Memory)? {
            let memory = memory.clone();
            self.tell(index, Command::Memory { memory, rings })?;
        }
        Ok(())
    }

    /// Tell a queue that is running of its new kick.
    pub(super) fn change_kick(&mut self, index: usize) -> Result<(), QueueError> {
        let kick = self.vrings[index].kick().map_err(QueueError::Fd)?;
        self.tell(index, Command::Kick(kick))
    }

    /// Tell a queue that is running of its new call.
    pub(super) fn change_call(
        &mut self,
        index: usize,
        inband: Option<&Fd>,
    ) -> Result<(), QueueError> {
        let call = self.vrings[index].call(index, inband);
        self.tell(index, Command::Call(call.map_err(QueueError::Fd)?))
    }

    /// Stop queues: those that are running get [`DRAIN`] to complete what is in flight; what is left is abandoned.
    /// Returns the number of abandoned requests.
    ///
    /// Queues that a front-end stops one after another share that time.
    pub(super) fn stop(&mut self, indices: impl Iterator<Item = usize>) -> Result<u32, QueueError> {
        let now = Instant::now();
        let until = match self.drain_until {
            Some(until) if now < until.after(DRAIN) => until.max(now.after(LEAST_DRAIN)),
            _ => now.after(DRAIN),
        };
        self.drain_until = Some(until);
        let mut waiting = Vec::new();
        for index in indices {
            if self.vrings[index].running {
                self.vrings[index].running = false;
                waiting.push((index, self.mailboxes[index].post(Command::Stop)));
            }
        }
        let mut abandoned = self.collect(&mut waiting, until);
        for (index, number) in &mut waiting {
            *number = self.mailboxes[*index].post(Command::Abandon);
        }
        abandoned += self.collect(&mut waiting, Instant::now().after(ANSWER));
        for (index, number) in &waiting {
            self.stuck[*index] = Some(*number);
        }
        if waiting.is_empty() {
            Ok(abandoned)
        } else {
            Err(QueueError::Stuck)
        }
    }

    /// Wait for the answers of stopped queues, and keep those that did not answer until then.
    fn collect(&mut self, waiting: &mut Vec<(usize, u32)>, until: Instant) -> u32 {
        let mut abandoned = 0;
        loop {
            waiting.retain(|&(index, number)| {
                let vring = &mut self.vrings[index];
                match self.mailboxes[index].answer(number) {
                    Ok(Answer {
                        position,
                        abandoned: left,
                    }) => {
                        vring.base = position;
                        vring.stopped_at = Some(position);
                        abandoned += u32::from(left);
                        false
                    }
                    Err(Unanswered::Gone) => false,
                    Err(Unanswered::Pending) => true,
                }
            });
            let left = until.since(Instant::now());
            if waiting.is_empty() || left == 0 {
                return abandoned;
            }
            self.clear_done(left);
        }
    }

    /// Post a command and wait for its answer.
    fn tell(&mut self, index: usize, command: Command<Memory>) -> Result<(), QueueError> {
        self.unstick(index)?;
        let number = self.mailboxes[index].post(command);
        let until = Instant::now().after(ANSWER);
        loop {
            match self.mailboxes[index].answer(number) {
                Ok(_) | Err(Unanswered::Gone) => return Ok(()),
                Err(Unanswered::Pending) => {}
            }
            let left = until.since(Instant::now());
            if left == 0 {
                self.stuck[index] = Some(number);
                return Err(QueueError::Stuck);
            }
            self.clear_done(left);
        }
    }

    /// See whether a core that did not answer has done so meanwhile.
    fn unstick(&mut self, index: usize) -> Result<(), QueueError> {
        if let Some(number) = self.stuck[index] {
            if self.mailboxes[index].answer(number) == Err(Unanswered::Pending) {
                return Err(QueueError::Stuck);
            }
            self.stuck[index] = None;
        }
        Ok(())
    }

    /// Wait for a core to say something, at most `nanoseconds`.
    fn clear_done(&self, nanoseconds: u64) {
        let milliseconds = nanoseconds.div_ceil(1_000_000).min(ANSWER / 1_000_000) as i32;
        // Cannot fail on a set of our own; the caller looks at the clock.
        let _ = self.done.wait(milliseconds, |index| {
            self.mailboxes[index as usize].clear_done();
        });
    }
}

impl Vring {
    fn kick(&self) -> sys::Result<Kick> {
        Ok(match &self.kick {
            KickFd::Unset => Kick::Control,
            KickFd::Poll => Kick::Never,
            KickFd::Fd(fd) => Kick::Fd(EventFd::from_fd(fd.duplicate()?)),
        })
    }

    fn call(&self, index: usize, inband: Option<&Fd>) -> sys::Result<Call> {
        if let Some(fd) = &self.call {
            return Call::from_fd(fd.duplicate()?);
        }
        let Some(socket) = inband else {
            return Ok(Call::Never);
        };
        let state = VringState {
            index: index as u32,
            num: 0,
        };
        let mut message = [0; HEADER_LEN + size_of::<VringState>()];
        let size = size_of::<VringState>() as u32;
        let header = Header::request(BACKEND_VRING_CALL, size, false);
        message[..HEADER_LEN].copy_from_slice(header.as_bytes());
        message[HEADER_LEN..].copy_from_slice(state.as_bytes());
        Ok(Call::message(socket.duplicate()?, &message))
    }
}
