//! The virtio-fs device: its number, queues and configuration space (VIRTIO 1.3, section 5.11).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Device type of virtio-fs.
pub const DEVICE_ID: u32 = 26;

/// Length of the tag field in bytes.
pub const TAG_LEN: usize = 36;

/// The queue for FORGET and INTERRUPT; request queues follow it.
pub const HIPRIO_QUEUE: u16 = 0;

/// Lay out `struct virtio_fs_config`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Config {
    /// Name of the file system, padded with NULs, not NUL-terminated when it fills the field.
    pub tag: [u8; TAG_LEN],
    /// Number of request queues, without the hiprio queue.
    pub num_request_queues: u32,
}

const _: () = assert!(size_of::<Config>() == 40);

impl Config {
    /// Make the configuration space of a device.
    ///
    /// # Errors
    /// `None` when the tag is empty, longer than [`TAG_LEN`] bytes or holds a NUL, or when there is no request queue.
    pub fn new(tag: &str, num_request_queues: u32) -> Option<Self> {
        let bytes = tag.as_bytes();
        if bytes.is_empty()
            || bytes.len() > TAG_LEN
            || bytes.contains(&0)
            || num_request_queues == 0
        {
            return None;
        }
        let mut config = Self {
            tag: [0; TAG_LEN],
            num_request_queues,
        };
        config.tag[..bytes.len()].copy_from_slice(bytes);
        Some(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_of_full_length_has_no_terminator() {
        let tag = "abcdefghijklmnopqrstuvwxyz0123456789";
        assert_eq!(tag.len(), TAG_LEN);
        assert_eq!(Config::new(tag, 1).unwrap().tag, tag.as_bytes());
        assert!(Config::new("abcdefghijklmnopqrstuvwxyz0123456789+", 1).is_none());
        assert!(Config::new("", 1).is_none());
        assert!(Config::new("a", 0).is_none());
    }
}
