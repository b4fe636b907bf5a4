//! vhost-user control messages, as QEMU's `docs/interop/vhost-user.rst` lays them out.
//!
//! A message is a [`Header`] and up to [`MAX_PAYLOAD`] bytes. [`Request::parse`] takes what a front-end sends apart;
//! payloads longer than their structure are accepted, because front-ends do send them (User-Mode Linux always sends
//! room for two regions in SET_MEM_TABLE).

use bitflags::bitflags;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Most bytes of a payload.
pub const MAX_PAYLOAD: usize = 4096;

/// Most regions of one SET_MEM_TABLE: one descriptor is sent for each.
pub const MAX_TABLE_REGIONS: usize = 32;

/// Most bytes of a configuration space.
pub const MAX_CONFIG: usize = 256;

/// Virtio feature bit that stands for vhost-user's own feature negotiation.
pub const F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// Version in the low bits of [`Header::flags`].
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const FLAG_REPLY: u32 = 1 << 2;
const FLAG_NEED_REPLY: u32 = 1 << 3;

bitflags! {
    /// Extensions of the protocol.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct ProtocolFeatures: u64 {
        /// The number of queues can be asked for.
        const MQ = 1;
        /// Any message can ask for a reply that tells of its success.
        const REPLY_ACK = 1 << 3;
        /// The back-end can send messages of its own.
        const BACKEND_REQ = 1 << 5;
        /// The back-end holds the configuration space.
        const CONFIG = 1 << 9;
        /// Requests in flight are recorded in shared memory.
        const INFLIGHT_SHMFD = 1 << 12;
        /// The device can be reset.
        const RESET_DEVICE = 1 << 13;
        /// Notifications may be messages.
        const INBAND_NOTIFICATIONS = 1 << 14;
        /// Memory regions can be added and removed one by one.
        const CONFIGURE_MEM_SLOTS = 1 << 15;
        /// The virtio device status is passed on.
        const STATUS = 1 << 16;
    }
}

/// Begin every message, in both directions.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Header {
    /// Kind of message.
    pub request: u32,
    /// Version, and whether it is a reply or wants one.
    pub flags: u32,
    /// Bytes that follow.
    pub size: u32,
}

/// Bytes of [`Header`].
pub const HEADER_LEN: usize = 12;

const _: () = assert!(size_of::<Header>() == HEADER_LEN);

impl Header {
    /// Check what a front-end sent as the beginning of a request.
    ///
    /// # Errors
    /// [`MessageError`] for another version, a reply, or a payload that is too long.
    pub const fn check(&self) -> Result<(), MessageError> {
        if self.flags & VERSION_MASK != VERSION {
            return Err(MessageError::Version);
        }
        if self.flags & FLAG_REPLY != 0 {
            return Err(MessageError::UnexpectedReply);
        }
        if self.size as usize > MAX_PAYLOAD {
            return Err(MessageError::TooLong);
        }
        Ok(())
    }

    /// Tell whether the sender wants a reply that tells of success.
    pub const fn needs_reply(&self) -> bool {
        self.flags & FLAG_NEED_REPLY != 0
    }

    /// Make the header of a reply with `size` bytes of payload.
    pub const fn reply(&self, size: u32) -> Self {
        Self {
            request: self.request,
            flags: VERSION | FLAG_REPLY,
            size,
        }
    }

    /// Make the header of a request, one that wants a reply or not.
    pub const fn request(request: u32, size: u32, needs_reply: bool) -> Self {
        let wish = if needs_reply { FLAG_NEED_REPLY } else { 0 };
        Self {
            request,
            flags: VERSION | wish,
            size,
        }
    }
}

/// Name a queue and a number: its size, a position, on or off.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VringState {
    /// Queue.
    pub index: u32,
    /// Number; what it means depends on the message.
    pub num: u32,
}

/// Say where a queue lies, in the front-end's own addresses.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VringAddr {
    /// Queue.
    pub index: u32,
    /// Bit 0: log writes to the used ring.
    pub flags: u32,
    /// Descriptor table.
    pub descriptor: u64,
    /// Used ring.
    pub used: u64,
    /// Available ring.
    pub available: u64,
    /// Where writes to the used ring are logged.
    pub log: u64,
}

/// Describe one run of the guest's memory.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MemoryRegion {
    /// Guest-physical address.
    pub guest_address: u64,
    /// Length in bytes.
    pub size: u64,
    /// Address in the front-end.
    pub user_address: u64,
    /// Where it begins in the descriptor that comes with it.
    pub mmap_offset: u64,
}

#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct TableHead {
    count: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct SingleRegion {
    padding: u64,
    region: MemoryRegion,
}

/// Hold the regions of one SET_MEM_TABLE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryTable {
    regions: [MemoryRegion; MAX_TABLE_REGIONS],
    count: usize,
}

impl MemoryTable {
    /// Give the regions, in the order of their descriptors.
    pub fn regions(&self) -> &[MemoryRegion] {
        &self.regions[..self.count]
    }
}

/// Name a queue whose descriptor comes along, or does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VringFd {
    /// Queue.
    pub index: u8,
    /// A descriptor comes with the message.
    pub has_fd: bool,
}

impl VringFd {
    const fn from_word(word: u64) -> Self {
        Self {
            index: word as u8,
            has_fd: word & 1 << 8 == 0,
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct ConfigHead {
    offset: u32,
    size: u32,
    flags: u32,
}

/// Bytes before the content in GET_CONFIG and SET_CONFIG.
pub const CONFIG_HEAD_LEN: usize = 12;

/// Describe an access to the configuration space; its bytes follow in the payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfigAccess {
    /// First byte.
    pub offset: u32,
    /// Number of bytes, at most [`MAX_CONFIG`].
    pub size: u32,
}

/// Describe the memory in which requests in flight are recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InflightArea {
    /// Bytes of the area.
    pub mmap_size: u64,
    /// Where it begins in the descriptor.
    pub mmap_offset: u64,
    /// Number of queues.
    pub num_queues: u16,
    /// Descriptors of each queue.
    pub queue_size: u16,
}

/// Bytes of an inflight description. Compilers of front-ends pad it to 24; both are accepted.
pub const INFLIGHT_LEN: usize = 20;

impl InflightArea {
    fn parse(payload: &[u8]) -> Result<Self, MessageError> {
        let (sizes, rest) = prefix::<[u64; 2]>(payload)?;
        let (counts, _) = prefix::<[u16; 2]>(rest)?;
        Ok(Self {
            mmap_size: sizes[0],
            mmap_offset: sizes[1],
            num_queues: counts[0],
            queue_size: counts[1],
        })
    }

    /// Write the description.
    pub fn emit(&self, payload: &mut [u8; INFLIGHT_LEN]) {
        payload[..8].copy_from_slice(&self.mmap_size.to_ne_bytes());
        payload[8..16].copy_from_slice(&self.mmap_offset.to_ne_bytes());
        payload[16..18].copy_from_slice(&self.num_queues.to_ne_bytes());
        payload[18..].copy_from_slice(&self.queue_size.to_ne_bytes());
    }
}

/// Say how a message breaks the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageError {
    /// Another version than 1.
    Version,
    /// A reply where a request should be.
    UnexpectedReply,
    /// More than [`MAX_PAYLOAD`] bytes.
    TooLong,
    /// Fewer bytes than the message's structure.
    TooShort,
    /// A kind of message that this back-end does not know.
    Unknown,
    /// More regions than [`MAX_TABLE_REGIONS`], or more than the payload holds.
    Regions,
    /// An access beyond [`MAX_CONFIG`], or of more bytes than the payload holds.
    Config,
}

/// What a front-end asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one value at a time, on the control thread's stack"
)]
pub enum Request {
    /// Give the virtio features.
    GetFeatures,
    /// Choose virtio features.
    SetFeatures(u64),
    /// Begin a session.
    SetOwner,
    /// Disable all queues. Deprecated.
    ResetOwner,
    /// Replace the memory regions. One descriptor each.
    SetMemTable(MemoryTable),
    /// Set the size of a queue.
    SetVringNum(VringState),
    /// Say where a queue lies.
    SetVringAddr(VringAddr),
    /// Set the index of the next available entry.
    SetVringBase(VringState),
    /// Stop a queue and give the index of its next available entry.
    GetVringBase(VringState),
    /// Give the descriptor that the driver kicks.
    SetVringKick(VringFd),
    /// Give the descriptor for interrupts.
    SetVringCall(VringFd),
    /// Give the descriptor that tells of an error.
    SetVringErr(VringFd),
    /// Give the protocol's features.
    GetProtocolFeatures,
    /// Choose protocol features.
    SetProtocolFeatures(u64),
    /// Give the number of queues.
    GetQueueNum,
    /// Switch a queue on (1) or off (0).
    SetVringEnable(VringState),
    /// Give the socket for the back-end's own messages.
    SetBackendReqFd,
    /// Read the configuration space.
    GetConfig(ConfigAccess),
    /// Write the configuration space.
    SetConfig(ConfigAccess),
    /// Make the memory that records what is in flight.
    GetInflightFd(InflightArea),
    /// Use this memory to record what is in flight.
    SetInflightFd(InflightArea),
    /// Reset the device.
    ResetDevice,
    /// The driver kicked a queue.
    VringKick(VringState),
    /// Give the number of memory regions that can be kept.
    GetMaxMemSlots,
    /// Add a memory region. One descriptor.
    AddMemReg(MemoryRegion),
    /// Remove a memory region.
    RemMemReg(MemoryRegion),
    /// Set the virtio device status.
    SetStatus(u64),
    /// Give the virtio device status.
    GetStatus,
}

/// Message of a back-end: the interrupt of a queue, as a [`VringState`].
pub const BACKEND_VRING_CALL: u32 = 4;

fn prefix<T: FromBytes + KnownLayout + Immutable>(
    payload: &[u8],
) -> Result<(T, &[u8]), MessageError> {
    T::read_from_prefix(payload).map_err(|_| MessageError::TooShort)
}

fn first<T: FromBytes + KnownLayout + Immutable>(payload: &[u8]) -> Result<T, MessageError> {
    prefix(payload).map(|(value, _)| value)
}

fn table(payload: &[u8]) -> Result<MemoryTable, MessageError> {
    let (head, mut rest) = prefix::<TableHead>(payload)?;
    let count = head.count as usize;
    let mut table = MemoryTable {
        regions: FromZeros::new_zeroed(),
        count,
    };
    let regions = table
        .regions
        .get_mut(..count)
        .ok_or(MessageError::Regions)?;
    for region in regions {
        (*region, rest) = prefix(rest).map_err(|_| MessageError::Regions)?;
    }
    Ok(table)
}

fn config(payload: &[u8]) -> Result<ConfigAccess, MessageError> {
    let (head, content) = prefix::<ConfigHead>(payload)?;
    let end = u64::from(head.offset) + u64::from(head.size);
    if end > MAX_CONFIG as u64 || head.size as usize > content.len() {
        return Err(MessageError::Config);
    }
    Ok(ConfigAccess {
        offset: head.offset,
        size: head.size,
    })
}

impl Request {
    /// Take a message apart.
    ///
    /// # Errors
    /// [`MessageError`] when the kind is unknown or the payload too short for it.
    pub fn parse(request: u32, payload: &[u8]) -> Result<Self, MessageError> {
        Ok(match request {
            1 => Self::GetFeatures,
            2 => Self::SetFeatures(first(payload)?),
            3 => Self::SetOwner,
            4 => Self::ResetOwner,
            5 => Self::SetMemTable(table(payload)?),
            8 => Self::SetVringNum(first(payload)?),
            9 => Self::SetVringAddr(first(payload)?),
            10 => Self::SetVringBase(first(payload)?),
            11 => Self::GetVringBase(first(payload)?),
            12 => Self::SetVringKick(VringFd::from_word(first(payload)?)),
            13 => Self::SetVringCall(VringFd::from_word(first(payload)?)),
            14 => Self::SetVringErr(VringFd::from_word(first(payload)?)),
            15 => Self::GetProtocolFeatures,
            16 => Self::SetProtocolFeatures(first(payload)?),
            17 => Self::GetQueueNum,
            18 => Self::SetVringEnable(first(payload)?),
            21 => Self::SetBackendReqFd,
            24 => Self::GetConfig(config(payload)?),
            25 => Self::SetConfig(config(payload)?),
            31 => Self::GetInflightFd(InflightArea::parse(payload)?),
            32 => Self::SetInflightFd(InflightArea::parse(payload)?),
            34 => Self::ResetDevice,
            35 => Self::VringKick(first(payload)?),
            36 => Self::GetMaxMemSlots,
            37 => Self::AddMemReg(first::<SingleRegion>(payload)?.region),
            38 => Self::RemMemReg(first::<SingleRegion>(payload)?.region),
            39 => Self::SetStatus(first(payload)?),
            40 => Self::GetStatus,
            _ => return Err(MessageError::Unknown),
        })
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn a_header_is_three_little_endian_words() {
        let bytes = [11, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0];
        let header = Header::read_from_bytes(&bytes).unwrap();
        assert_eq!(header, Header::request(11, 8, true));
        assert_eq!(header.check(), Ok(()));
        assert!(header.needs_reply());
        assert_eq!(header.reply(8).as_bytes()[4..8], [5, 0, 0, 0]);
    }

    #[test]
    fn headers_that_no_front_end_may_send_are_refused() {
        let with = |flags, size| Header {
            request: 1,
            flags,
            size,
        };
        assert_eq!(with(0, 0).check(), Err(MessageError::Version));
        assert_eq!(with(2, 0).check(), Err(MessageError::Version));
        assert_eq!(with(5, 0).check(), Err(MessageError::UnexpectedReply));
        assert_eq!(with(1, 4096).check(), Ok(()));
        assert_eq!(with(1, 4097).check(), Err(MessageError::TooLong));
    }

    #[test]
    fn user_mode_linux_sends_room_for_two_regions_and_one_of_them() {
        let mut payload = Vec::from([1, 0, 0, 0, 0, 0, 0, 0]);
        let region = MemoryRegion {
            guest_address: 0x60_0000,
            size: 0x1fa0_0000,
            user_address: 0x60_0000,
            mmap_offset: 0x60_0000,
        };
        payload.extend(region.as_bytes());
        payload.extend([0; 32]);
        assert_eq!(payload.len(), 72);
        let Ok(Request::SetMemTable(table)) = Request::parse(5, &payload) else {
            panic!();
        };
        assert_eq!(table.regions(), [region]);
    }

    #[test]
    fn a_table_with_fewer_regions_than_it_says_is_refused() {
        let mut payload = Vec::from([2, 0, 0, 0, 0, 0, 0, 0]);
        payload.extend([0; 63]);
        assert_eq!(Request::parse(5, &payload), Err(MessageError::Regions));
        payload[0] = 33;
        payload.resize(8 + 33 * 32, 0);
        assert_eq!(Request::parse(5, &payload), Err(MessageError::Regions));
        payload[..4].fill(0xff);
        assert_eq!(Request::parse(5, &payload), Err(MessageError::Regions));
    }

    #[test]
    fn a_queue_without_a_descriptor_is_known_by_bit_eight() {
        let word = |word: u64| Request::parse(12, word.as_bytes()).unwrap();
        let fd = |index, has_fd| Request::SetVringKick(VringFd { index, has_fd });
        assert_eq!(word(3), fd(3, true));
        assert_eq!(word(0x1ff), fd(255, false));
    }

    #[test]
    fn an_inflight_description_is_read_with_and_without_padding() {
        let area = InflightArea {
            mmap_size: 0x1040,
            mmap_offset: 64,
            num_queues: 2,
            queue_size: 256,
        };
        let mut bytes = [0; INFLIGHT_LEN];
        area.emit(&mut bytes);
        assert_eq!(bytes[16..], [2, 0, 0, 1]);
        assert_eq!(Request::parse(31, &bytes), Ok(Request::GetInflightFd(area)));
        let padded = [&bytes[..], &[0; 4]].concat();
        assert_eq!(
            Request::parse(32, &padded),
            Ok(Request::SetInflightFd(area))
        );
        assert_eq!(Request::parse(32, &bytes[1..]), Err(MessageError::TooShort));
    }

    #[test]
    fn an_access_to_the_configuration_space_stays_inside() {
        let parse = |offset: u32, size: u32, content: usize| {
            let mut payload = Vec::new();
            payload.extend(offset.to_ne_bytes());
            payload.extend(size.to_ne_bytes());
            payload.extend([0; 4]);
            payload.resize(12 + content, 0);
            Request::parse(24, &payload)
        };
        let access = ConfigAccess {
            offset: 36,
            size: 4,
        };
        assert_eq!(parse(36, 4, 4), Ok(Request::GetConfig(access)));
        assert_eq!(parse(36, 4, 3), Err(MessageError::Config));
        assert_eq!(parse(253, 4, 4), Err(MessageError::Config));
        assert_eq!(parse(u32::MAX, u32::MAX, 4), Err(MessageError::Config));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_payload_gives_a_request_or_an_error(
            request in prop_oneof![0u32..48, any::<u32>()],
            payload in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            if let Ok(Request::SetMemTable(table)) = Request::parse(request, &payload) {
                prop_assert!(8 + 32 * table.regions().len() <= payload.len());
            }
        }
    }
}
