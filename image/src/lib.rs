//! BlueField boot streams (BFB): what a BlueField DPU is installed from.
//!
//! ```text
//!  stream  =  image  image  image  ...                 no header and no trailer of its own: the file's end ends it
//!  image   =  header (24 bytes)  data  zeros to a multiple of 8
//! ```
//!
//! [`Stream::read`] takes a file apart without copying it, and refuses what a DPU would stumble over, with the offset;
//! [`Stream::check`] finds what it would not notice; [`Stream::write`] makes one, byte for byte as NVIDIA's `mlx-mkbfb`
//! does. Of what the images hold, the initramfs is understood ([`initramfs`] adds files to it), and `info`. [`addon`] makes
//! what puts DPFS on a DPU.

pub mod addon;
mod header;
pub mod initramfs;
mod names;
mod stream;

pub use header::{Flaw, HEADER_LEN, Header, MAX_VERSION};
pub use names::{ImageId, NAMES, UnknownName};
pub use stream::{Image, ReadError, Stream, Trailing};
