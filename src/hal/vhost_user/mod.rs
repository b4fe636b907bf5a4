//! virtio-fs over vhost-user: the device of a guest of QEMU, User-Mode Linux, Cloud Hypervisor or crosvm.
//!
//! A front-end connects to a unix socket, shares the guest's memory and says where the queues lie; from then on guest
//! and core meet in memory, and the socket is silent.
//!
//! ```text
//!  front-end ──socket──> control thread: connection > device > queues
//!     │                                                         │ one command at a time, answered between two polls
//!   guest ══memory, kick and call descriptors══ core: RingQueue ┘
//! ```
//!
//! One front-end is served at a time; the next waits in the socket's backlog until that one is gone: until its
//! connection is closed, or the process that opened it has ended (from Linux 6.5 on). Whatever a
//! front-end sends, it gets an error or loses its connection, and the reason stands in the log.
//!
//! # When a session ends
//! What the guest has looked up and opened is void ([`Events::reset`]) when
//! - the front-end asks for a reset of the device;
//! - a queue starts at another index than where it stopped: then the guest booted anew, or another driver took over.
//!   That the status becomes zero says nothing yet, because QEMU writes it also when a guest is paused;
//! - the front-end is gone. If it had asked to record what is in flight, it may come back with that record within 10
//!   seconds and the session goes on; requests that were not completed are then carried out (again).
//!
//! # Stopping
//! A stopped queue gets 5 seconds to complete what is in flight. What takes longer is abandoned. Once all queues are
//! stopped, the memory that abandoned requests still point to is taken out from under them: they complete into pages
//! that nobody sees, and the guest can use its memory for something else. (A disk that is asked to write to the guest's
//! pages directly, by `O_DIRECT`, has them until it is done.)
//!
//! # Never
//! Live migration (no dirty log), an IOMMU between guest and device, packed queues, a window for DAX.

mod connection;
mod device;
#[doc(hidden)]
pub mod fuzz;
mod listener;
mod memory;
mod queues;
mod thread;

use std::format;
use std::io;
use std::path::PathBuf;
use std::string::String;
use std::sync::Arc;
use std::vec::Vec;

pub use memory::Memory;
pub use thread::Control;

use super::Events;
use super::ring::{Mailbox, RingQueue};
use crate::wire::virtio_fs;
use device::Device;
use listener::Listener;
use queues::Queues;

/// Most request queues of a device: messages name a queue, the hiprio queue included, in one byte.
pub const MAX_REQUEST_QUEUES: u16 = 255;

/// Describe a device.
#[derive(Clone, Debug)]
pub struct VhostUserConfig {
    /// Where front-ends connect. The path may be up to 106 bytes long.
    pub socket: PathBuf,
    /// Permissions of the socket. Whoever may write it owns the device; `0o600` for most.
    pub mode: u32,
    /// Name that the guest mounts, 1 to 36 bytes.
    pub tag: String,
    /// Number of request queues, 1 to [`MAX_REQUEST_QUEUES`]. A front-end may use fewer.
    pub request_queues: u16,
    /// Longest time, in nanoseconds, that an interrupt is held back for more requests to end, while the guest sends
    /// more.
    pub interrupt_hold: u64,
    /// Offer notifications as messages on the socket, for simulations in which time stands still (UML's time travel).
    /// A front-end that can will use them, and each request costs messages then: off for all others.
    pub inband_notifications: bool,
}

/// A queue of a vhost-user device.
pub type VhostUserQueue = RingQueue<Memory, Arc<Mailbox<Memory>>>;

/// Open the socket and make the queues, the hiprio queue first. Nothing is served before [`Control::start`].
///
/// # Errors
/// `InvalidInput` for a configuration that cannot be; `AddrInUse` when another process serves the socket; whatever the
/// system says.
pub fn bind(
    config: &VhostUserConfig,
    events: &'static dyn Events,
) -> io::Result<(Vec<VhostUserQueue>, Control)> {
    let invalid = |text| io::Error::new(io::ErrorKind::InvalidInput, text);
    if config.request_queues > MAX_REQUEST_QUEUES {
        return Err(invalid(format!(
            "{} request queues, at most {MAX_REQUEST_QUEUES} are possible",
            config.request_queues
        )));
    }
    let space = virtio_fs::Config::new(&config.tag, u32::from(config.request_queues));
    let space = space.ok_or_else(|| {
        invalid(format!(
            "a tag of 1 to {} bytes and at least one request queue are needed",
            virtio_fs::TAG_LEN
        ))
    })?;
    let system = |error: crate::wire::errno::Errno| io::Error::from_raw_os_error(error.get());
    let count = usize::from(config.request_queues) + 1;
    let mailboxes = (0..count).map(|_| Mailbox::new().map(Arc::new));
    let mailboxes: Vec<_> = mailboxes.collect::<Result<_, _>>().map_err(system)?;
    let ends = mailboxes.iter().cloned();
    let rings = ends
        .map(|end| RingQueue::controlled(end, config.interrupt_hold))
        .collect();
    let queues = Queues::new(mailboxes).map_err(system)?;
    let device = Device::new(
        &config.tag,
        space,
        config.inband_notifications,
        queues,
        events,
    );
    let listener = Listener::bind(&config.socket, config.mode)?;
    let control = Control::new(listener, device).map_err(system)?;
    Ok((rings, control))
}
