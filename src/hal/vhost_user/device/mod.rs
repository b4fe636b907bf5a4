//! What each message of a front-end does to the device.

mod session;

use std::sync::{Arc, Weak};
use std::vec::Vec;

use zerocopy::IntoBytes;

use super::connection::Message;
use super::memory::{Mapping, Memory, MemoryError, Record};
use super::queues::{KickFd, QueueError, Queues, Shared};
use crate::hal::Events;
use crate::log;
use crate::sys::eventfd::EventFd;
use crate::sys::fd::Fd;
use crate::sys::socket;
use crate::virtq::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, MAX_REGIONS, MAX_SIZE};
use crate::wire::errno::Errno;
use crate::wire::vhost_user::{
    CONFIG_HEAD_LEN, ConfigAccess, F_PROTOCOL_FEATURES, INFLIGHT_LEN, InflightArea, MemoryRegion,
    MemoryTable, MessageError, ProtocolFeatures, Request, VringAddr, VringFd, VringState,
};
use crate::wire::virtio_fs;
use session::Session;

/// Virtio features that are offered.
const FEATURES: u64 = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX | F_PROTOCOL_FEATURES;

/// Say why a request was not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// It cannot be read.
    Message(MessageError),
    /// It was not negotiated, or names what does not exist.
    Protocol,
    /// It came with too few descriptors, or too many.
    Fds,
    /// Its memory cannot be used.
    Memory(MemoryError),
    /// More regions than are kept.
    Slots,
    /// A queue did not do as it was told.
    Queue(QueueError),
    /// A system call failed.
    System(Errno),
}

impl From<QueueError> for Refusal {
    fn from(error: QueueError) -> Self {
        Self::Queue(error)
    }
}

impl From<MemoryError> for Refusal {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

/// What goes back to the front-end.
#[derive(Debug)]
pub(super) enum Reply {
    /// Nothing, unless it wants to be told of success.
    None,
    /// A payload.
    Payload(Vec<u8>),
    /// A payload and a descriptor.
    WithFd(Vec<u8>, Fd),
}

fn number(value: u64) -> Reply {
    Reply::Payload(value.to_ne_bytes().to_vec())
}

/// Hold the device between messages.
pub(super) struct Device {
    tag: std::string::String,
    config: virtio_fs::Config,
    events: &'static dyn Events,
    /// Offer notifications as messages.
    inband: bool,
    pub(super) queues: Queues,
    features: u64,
    protocol: ProtocolFeatures,
    regions: Vec<Arc<Mapping>>,
    /// All that requests may still point to.
    mapped: Vec<Weak<Mapping>>,
    record: Option<Arc<Record>>,
    memory: Option<Memory>,
    backend: Option<Fd>,
    status: u8,
    session: Session,
    /// This front-end brought a record of what was in flight.
    resuming: bool,
    /// Requests of stopped queues are still under way in the memory that is mapped now.
    orphans: bool,
    /// The guest's driver began anew since queues ran last, and that was dealt with.
    renewed: bool,
}

impl Device {
    pub(super) fn new(
        tag: &str,
        config: virtio_fs::Config,
        inband: bool,
        queues: Queues,
        events: &'static dyn Events,
    ) -> Self {
        Self {
            tag: tag.into(),
            config,
            events,
            inband,
            queues,
            features: 0,
            protocol: ProtocolFeatures::empty(),
            regions: Vec::new(),
            mapped: Vec::new(),
            record: None,
            memory: None,
            backend: None,
            status: 0,
            session: Session::Fresh,
            resuming: false,
            orphans: false,
            renewed: false,
        }
    }

    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    /// Tell of guests that break the rules.
    pub(super) fn report(&mut self) {
        self.queues.report(&self.tag);
    }

    fn offered(&self) -> ProtocolFeatures {
        // BACKEND_REQ for User-Mode Linux, which sets up its interrupts only with it; nothing is sent there.
        let mut offered = ProtocolFeatures::MQ
            | ProtocolFeatures::REPLY_ACK
            | ProtocolFeatures::BACKEND_REQ
            | ProtocolFeatures::CONFIG
            | ProtocolFeatures::INFLIGHT_SHMFD
            | ProtocolFeatures::RESET_DEVICE
            | ProtocolFeatures::CONFIGURE_MEM_SLOTS
            | ProtocolFeatures::STATUS;
        if self.inband {
            offered |= ProtocolFeatures::INBAND_NOTIFICATIONS;
        }
        offered
    }

    /// Tell whether every message may ask for a reply.
    pub(super) const fn acknowledges(&self) -> bool {
        self.protocol.contains(ProtocolFeatures::REPLY_ACK)
    }

    /// Carry out one message.
    pub(super) fn handle(&mut self, message: &mut Message) -> Result<Reply, Refusal> {
        let request = Request::parse(message.header.request, message.payload());
        let request = request.map_err(Refusal::Message)?;
        match request {
            Request::GetFeatures => return Ok(number(FEATURES)),
            Request::SetFeatures(features) => self.set_features(features)?,
            Request::SetOwner | Request::SetConfig(_) => {}
            Request::ResetOwner => self.stop_all()?,
            Request::GetProtocolFeatures => return Ok(number(self.offered().bits())),
            Request::SetProtocolFeatures(features) => self.set_protocol_features(features)?,
            Request::GetQueueNum => return Ok(number(self.queues.len() as u64)),
            Request::GetMaxMemSlots => return Ok(number(MAX_REGIONS as u64)),
            Request::SetMemTable(table) => self.set_mem_table(&table, &mut message.fds)?,
            Request::AddMemReg(region) => self.add_mem_reg(region, &mut message.fds)?,
            Request::RemMemReg(region) => self.rem_mem_reg(&region)?,
            Request::SetVringNum(state) => self.set_vring_num(state)?,
            Request::SetVringAddr(address) => self.set_vring_addr(address)?,
            Request::SetVringBase(state) => {
                let index = self.index(state.index)?;
                self.queues.vrings[index].base = state.num as u16;
            }
            Request::GetVringBase(state) => return self.get_vring_base(state),
            Request::SetVringKick(fd) => self.set_vring_kick(fd, &mut message.fds)?,
            Request::SetVringCall(fd) => self.set_vring_call(fd, &mut message.fds)?,
            Request::SetVringErr(fd) => {
                let index = self.index(u32::from(fd.index))?;
                let error = take_fd(fd.has_fd, &mut message.fds)?;
                if let Some(error) = &error {
                    socket::set_nonblocking(error.raw()).map_err(Refusal::System)?;
                }
                self.queues.vrings[index].error = error.map(EventFd::from_fd);
            }
            Request::SetVringEnable(state) => {
                let index = self.index(state.index)?;
                self.queues.vrings[index].enabled = state.num == 1;
                self.adjust(index)?;
            }
            Request::VringKick(state) => {
                let index = self.index(state.index)?;
                self.require(ProtocolFeatures::INBAND_NOTIFICATIONS)?;
                self.adjust(index)?;
                self.queues.kicked(index);
            }
            Request::SetBackendReqFd => {
                self.require(ProtocolFeatures::BACKEND_REQ)?;
                self.backend = take_fd(true, &mut message.fds)?;
            }
            Request::GetConfig(access) => return Ok(self.get_config(access, message.payload())),
            Request::GetInflightFd(area) => {
                return self.get_inflight_fd(area, message.payload().len());
            }
            Request::SetInflightFd(area) => self.set_inflight_fd(&area, &mut message.fds)?,
            Request::ResetDevice => self.reset_device()?,
            Request::SetStatus(status) => self.set_status(status)?,
            Request::GetStatus => return Ok(number(u64::from(self.status))),
        }
        Ok(Reply::None)
    }

    fn index(&self, index: u32) -> Result<usize, Refusal> {
        let index = index as usize;
        (index < self.queues.len())
            .then_some(index)
            .ok_or(Refusal::Protocol)
    }

    fn require(&self, feature: ProtocolFeatures) -> Result<(), Refusal> {
        let negotiated = self.protocol.contains(feature);
        negotiated.then_some(()).ok_or(Refusal::Protocol)
    }

    fn set_features(&mut self, features: u64) -> Result<(), Refusal> {
        if features & !FEATURES != 0 {
            return Err(Refusal::Protocol);
        }
        self.features = features;
        self.adjust_all()
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<(), Refusal> {
        let features = ProtocolFeatures::from_bits(features).ok_or(Refusal::Protocol)?;
        let inband = ProtocolFeatures::INBAND_NOTIFICATIONS;
        let needed = ProtocolFeatures::BACKEND_REQ | ProtocolFeatures::REPLY_ACK;
        if !self.offered().contains(features)
            || features.contains(inband) && !features.contains(needed)
        {
            return Err(Refusal::Protocol);
        }
        self.protocol = features;
        Ok(())
    }

    fn set_mem_table(&mut self, table: &MemoryTable, fds: &mut Vec<Fd>) -> Result<(), Refusal> {
        if table.regions().len() != fds.len() {
            return Err(Refusal::Fds);
        }
        let regions = table.regions().iter().zip(fds.drain(..));
        let regions = regions.map(|(region, fd)| self.map(fd, *region));
        let regions = regions.collect::<Result<Vec<_>, _>>()?;
        self.replace_memory(regions)
    }

    fn add_mem_reg(&mut self, region: MemoryRegion, fds: &mut Vec<Fd>) -> Result<(), Refusal> {
        self.require(ProtocolFeatures::CONFIGURE_MEM_SLOTS)?;
        let fd = take_fd(true, fds)?.ok_or(Refusal::Fds)?;
        if self.regions.len() >= MAX_REGIONS {
            return Err(Refusal::Slots);
        }
        let mut regions = self.regions.clone();
        regions.push(self.map(fd, region)?);
        self.replace_memory(regions)
    }

    /// A descriptor that comes along, as some front-ends send it, is closed with the message.
    fn rem_mem_reg(&mut self, region: &MemoryRegion) -> Result<(), Refusal> {
        self.require(ProtocolFeatures::CONFIGURE_MEM_SLOTS)?;
        let mut regions = self.regions.clone();
        let found = regions.iter().position(|mapping| mapping.is(region));
        regions.remove(found.ok_or(Refusal::Memory(MemoryError::Extent))?);
        self.replace_memory(regions)
    }

    /// Use these regions from now on, for queues that run, too.
    fn replace_memory(&mut self, regions: Vec<Arc<Mapping>>) -> Result<(), Refusal> {
        let memory = Memory::new(&regions, self.record.clone())?;
        self.queues.move_to(&memory)?;
        self.memory = Some(memory);
        self.regions = regions;
        self.adjust_all()
    }

    fn set_vring_num(&mut self, state: VringState) -> Result<(), Refusal> {
        let index = self.index(state.index)?;
        let vring = &mut self.queues.vrings[index];
        let size = u16::try_from(state.num).ok();
        match size.filter(|size| size.is_power_of_two() && *size <= MAX_SIZE) {
            Some(size) if !vring.running || size == vring.size => {
                vring.size = size;
                Ok(())
            }
            _ => Err(Refusal::Protocol),
        }
    }

    fn set_vring_addr(&mut self, address: VringAddr) -> Result<(), Refusal> {
        let index = self.index(address.index)?;
        let vring = &mut self.queues.vrings[index];
        let moved = vring.running && vring.address != Some(address);
        vring.address = Some(address);
        match &self.memory {
            Some(memory) if moved => Ok(self.queues.move_to(memory)?),
            _ => self.adjust(index),
        }
    }

    fn get_vring_base(&mut self, state: VringState) -> Result<Reply, Refusal> {
        let index = self.index(state.index)?;
        self.stop([index])?;
        let vring = &mut self.queues.vrings[index];
        // Stopped until the front-end gives a kick again.
        vring.kick = KickFd::Unset;
        vring.enabled = false;
        let reply = VringState {
            index: state.index,
            num: u32::from(vring.base),
        };
        Ok(Reply::Payload(reply.as_bytes().to_vec()))
    }

    fn set_vring_kick(&mut self, fd: VringFd, fds: &mut Vec<Fd>) -> Result<(), Refusal> {
        let index = self.index(u32::from(fd.index))?;
        let kick = match take_fd(fd.has_fd, fds)? {
            Some(fd) => {
                socket::set_nonblocking(fd.raw()).map_err(Refusal::System)?;
                KickFd::Fd(fd)
            }
            None => KickFd::Poll,
        };
        self.queues.vrings[index].kick = kick;
        if self.queues.vrings[index].running {
            return Ok(self.queues.change_kick(index)?);
        }
        self.adjust(index)
    }

    fn set_vring_call(&mut self, fd: VringFd, fds: &mut Vec<Fd>) -> Result<(), Refusal> {
        let index = self.index(u32::from(fd.index))?;
        self.queues.vrings[index].call = take_fd(fd.has_fd, fds)?;
        if self.queues.vrings[index].running {
            let inband = inband(self.protocol, &self.backend);
            self.queues.change_call(index, inband)?;
        }
        Ok(())
    }

    /// Give `size` bytes of the configuration space, zero beyond its end, in the frame of the request.
    fn get_config(&self, access: ConfigAccess, payload: &[u8]) -> Reply {
        let mut reply = payload.to_vec();
        let config = self.config.as_bytes();
        let content = &mut reply[CONFIG_HEAD_LEN..];
        content.fill(0);
        let content = &mut content[..access.size as usize];
        let found = config.get(access.offset as usize..).unwrap_or(&[]);
        let count = found.len().min(content.len());
        content[..count].copy_from_slice(&found[..count]);
        Reply::Payload(reply)
    }

    fn get_inflight_fd(&mut self, area: InflightArea, size: usize) -> Result<Reply, Refusal> {
        self.require(ProtocolFeatures::INFLIGHT_SHMFD)?;
        if usize::from(area.num_queues) > self.queues.len() {
            return Err(Refusal::Protocol);
        }
        let (fd, area) = Record::create(area.num_queues, area.queue_size)?;
        self.use_record(Record::open(&fd, &area)?)?;
        self.resuming = false;
        let mut reply = std::vec![0; size];
        if let Some(head) = reply.first_chunk_mut::<INFLIGHT_LEN>() {
            area.emit(head);
        }
        Ok(Reply::WithFd(reply, fd))
    }

    fn set_inflight_fd(&mut self, area: &InflightArea, fds: &mut Vec<Fd>) -> Result<(), Refusal> {
        self.require(ProtocolFeatures::INFLIGHT_SHMFD)?;
        if usize::from(area.num_queues) > self.queues.len() {
            return Err(Refusal::Protocol);
        }
        let fd = take_fd(true, fds)?.ok_or(Refusal::Fds)?;
        // Front-ends send back at once what they were given; only one that did not ask for it brings an old one.
        self.resuming = self.record.is_none();
        self.use_record(Record::open(&fd, area)?)
    }

    /// Record what is in flight there, from the next start of a queue on.
    fn use_record(&mut self, record: Arc<Record>) -> Result<(), Refusal> {
        if self.queues.any_running() {
            return Err(Refusal::Protocol);
        }
        self.record = Some(record);
        if self.memory.is_some() {
            self.memory = Some(Memory::new(&self.regions, self.record.clone())?);
        }
        Ok(())
    }

    fn set_status(&mut self, status: u64) -> Result<(), Refusal> {
        self.require(ProtocolFeatures::STATUS)?;
        self.status = status as u8;
        if self.status == 0 {
            // QEMU says so whenever it stops the device, also when the guest is only paused. Whether the guest's
            // driver begins anew shows when the queues start again (`renew`).
            self.stop_all()?;
        }
        Ok(())
    }

    /// Begin anew. Features and memory stay: front-ends send only what they believe has changed.
    fn reset_device(&mut self) -> Result<(), Refusal> {
        self.require(ProtocolFeatures::RESET_DEVICE)?;
        self.stop_all()?;
        self.queues.forget();
        self.status = 0;
        self.drop_record()?;
        self.reset_session("reset by its host");
        Ok(())
    }

    fn drop_record(&mut self) -> Result<(), Refusal> {
        if self.record.take().is_some() && self.memory.is_some() {
            self.memory = Some(Memory::new(&self.regions, None)?);
        }
        Ok(())
    }

    /// Tell whether a queue has all it needs to run.
    fn ready(&self, index: usize) -> bool {
        let vring = &self.queues.vrings[index];
        let kicked = match vring.kick {
            KickFd::Unset => self
                .protocol
                .contains(ProtocolFeatures::INBAND_NOTIFICATIONS),
            KickFd::Poll | KickFd::Fd(_) => true,
        };
        let enabled = vring.enabled || self.features & F_PROTOCOL_FEATURES == 0;
        enabled && kicked && vring.size > 0 && vring.address.is_some() && self.memory.is_some()
    }

    /// Start or stop a queue, as what is known of it demands.
    fn adjust(&mut self, index: usize) -> Result<(), Refusal> {
        match (self.queues.vrings[index].running, self.ready(index)) {
            (false, true) => self.start(index),
            (true, false) => self.stop([index]),
            _ => Ok(()),
        }
    }

    fn adjust_all(&mut self) -> Result<(), Refusal> {
        (0..self.queues.len()).try_for_each(|index| self.adjust(index))
    }

    fn start(&mut self, index: usize) -> Result<(), Refusal> {
        self.renew(index)?;
        let Some(memory) = &self.memory else {
            return Err(Refusal::Protocol);
        };
        let shared = Shared {
            memory,
            features: self.features,
            inband: inband(self.protocol, &self.backend),
        };
        self.queues.start(index, &shared)?;
        log::debug!(
            "device {}: queue {} of {} started at {}",
            self.tag.as_str(),
            index as u32,
            self.queues.vrings[index].size,
            self.queues.vrings[index].base
        );
        Ok(())
    }

    /// Map a region for queues to use.
    fn map(&mut self, file: Fd, region: MemoryRegion) -> Result<Arc<Mapping>, Refusal> {
        let mapping = Mapping::new(file, region)?;
        self.mapped.retain(|mapping| mapping.strong_count() > 0);
        self.mapped.push(Arc::downgrade(&mapping));
        Ok(mapping)
    }
}

/// Give the socket for interrupts as messages, when they were negotiated.
fn inband(protocol: ProtocolFeatures, backend: &Option<Fd>) -> Option<&Fd> {
    let negotiated = protocol.contains(ProtocolFeatures::INBAND_NOTIFICATIONS);
    backend.as_ref().filter(|_| negotiated)
}

/// Take the one descriptor that a message says to have.
fn take_fd(expected: bool, fds: &mut Vec<Fd>) -> Result<Option<Fd>, Refusal> {
    if fds.len() != usize::from(expected) {
        return Err(Refusal::Fds);
    }
    Ok(fds.pop())
}
