//! A whole stream: read, checked, put together, written.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

use super::header::{Flaw, HEADER_LEN, Header};
use super::names::ImageId;

/// Hold one image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image<'a> {
    /// Number.
    pub id: ImageId,
    /// Version: 0 for all generations, 1 for BlueField-2, 2 for BlueField-3.
    pub version: u8,
    /// What it holds.
    pub data: Cow<'a, [u8]>,
}

/// Hold a stream.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stream<'a> {
    /// Its images, in order.
    pub images: Vec<Image<'a>>,
    /// What is behind them: a configuration or a root file system that the installer on the DPU reads.
    pub trailing: &'a [u8],
}

/// Say what to do about bytes behind the last image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trailing {
    /// There are to be none.
    Refuse,
    /// They belong to the installer. What is behind a damaged image's header is still an error.
    Allow,
}

/// Say where a stream cannot be read, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadError {
    /// Offset of the image in bytes.
    pub offset: usize,
    /// Which image, counted from zero.
    pub index: usize,
    /// What is wrong.
    pub flaw: Flaw,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            offset,
            index,
            flaw,
        } = self;
        write!(f, "offset {offset:#x}, image {index}: {flaw}")
    }
}

impl std::error::Error for ReadError {}

fn crc(data: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(data);
    hasher.update(&[0; 8][..data.len().next_multiple_of(8) - data.len()]);
    hasher.finalize()
}

impl<'a> Stream<'a> {
    /// Take a stream apart. `progress` hears how many bytes are done.
    ///
    /// # Errors
    /// [`ReadError`] for what a DPU would refuse.
    pub fn read(
        bytes: &'a [u8],
        trailing: Trailing,
        mut progress: impl FnMut(usize),
    ) -> Result<Self, ReadError> {
        let mut stream = Self::default();
        let mut offset = 0;
        while offset < bytes.len() {
            let error = |flaw| ReadError {
                offset,
                index: stream.images.len(),
                flaw,
            };
            let rest = &bytes[offset..];
            let header = match Header::parse(rest) {
                Err(Flaw::Magic(_) | Flaw::HeaderCut(_))
                    if trailing == Trailing::Allow && !stream.images.is_empty() =>
                {
                    stream.trailing = rest;
                    break;
                }
                parsed => parsed.map_err(error)?,
            };
            let padded = header.padded_len();
            let body = &rest[HEADER_LEN..];
            let Some(body) = usize::try_from(padded).ok().and_then(|len| body.get(..len)) else {
                return Err(error(Flaw::DataCut(padded, body.len())));
            };
            let found = crc32fast::hash(body);
            if found != header.crc {
                return Err(error(Flaw::Crc(header.crc, found)));
            }
            stream.images.push(Image {
                id: header.id,
                version: header.version,
                data: Cow::Borrowed(&body[..header.len as usize]),
            });
            offset += HEADER_LEN + body.len();
            progress(offset);
        }
        Ok(stream)
    }

    /// Compare what was read with what [`Self::write`] would make of it, and give every difference: a DPU would not
    /// notice them at once, and might boot something else.
    pub fn check(&self, bytes: &[u8]) -> Vec<ReadError> {
        let mut found = Vec::new();
        let mut offset = 0;
        for (index, (image, right)) in self.images.iter().zip(self.headers()).enumerate() {
            let mut note = |flaw| {
                found.push(ReadError {
                    offset,
                    index,
                    flaw,
                });
            };
            let rest = bytes.get(offset..).unwrap_or_default();
            let Ok(header) = Header::parse(rest) else {
                break;
            };
            let reserved = Header::reserved(rest);
            if reserved != 0 {
                note(Flaw::Reserved(reserved));
            }
            // The CRC fits, so another one is the padding's doing.
            if header.crc != right.crc {
                note(Flaw::Padding);
            }
            if header.following != right.following {
                note(Flaw::Following(header.following, right.following));
            }
            if header.next_version != right.next_version {
                note(Flaw::NextVersion(header.next_version, right.next_version));
            }
            let before = self.images[..index].iter().rev();
            if let Some(last) = before.into_iter().find(|other| other.id == image.id)
                && last.version >= image.version
            {
                note(Flaw::Order(image.version));
            }
            offset += HEADER_LEN + header.padded_len() as usize;
        }
        found
    }

    /// Add an image, or put it in the place of one with the same number and version.
    pub fn put(&mut self, image: Image<'a>) {
        let same = |other: &&mut Image| other.id == image.id && other.version == image.version;
        match self.images.iter_mut().find(same) {
            Some(place) => *place = image,
            None => self.images.push(image),
        }
    }

    /// Bring the images into the order in which they go into a stream.
    pub fn sort(&mut self) {
        self.images
            .sort_by_key(|image| (image.id.place(), image.version));
    }

    /// Give the headers of the images, in their present order.
    pub fn headers(&self) -> Vec<Header> {
        let mut following = 0;
        let mut next = [0; 64];
        let mut headers: Vec<Header> = self
            .images
            .iter()
            .rev()
            .map(|image| {
                let number = usize::from(image.id.0 & 63);
                let header = Header {
                    id: image.id,
                    version: image.version,
                    next_version: next[number],
                    len: image.data.len() as u32,
                    crc: crc(&image.data),
                    following,
                };
                following |= 1 << number;
                next[number] = image.version;
                header
            })
            .collect();
        headers.reverse();
        headers
    }

    /// Write the stream, what is behind its images included. `progress` hears how many bytes are done.
    ///
    /// # Errors
    /// Of the writer; `InvalidInput` for an image of 4 GiB or more.
    pub fn write(&self, out: &mut dyn Write, mut progress: impl FnMut(usize)) -> io::Result<()> {
        let mut done = 0;
        for (image, header) in self.images.iter().zip(self.headers()) {
            if u32::try_from(image.data.len()).is_err() {
                let text = format!("{}: an image has less than 4 GiB", image.id);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            out.write_all(&header.to_bytes())?;
            out.write_all(&image.data)?;
            let padding = header.padded_len() as usize - image.data.len();
            out.write_all(&[0; 8][..padding])?;
            done += HEADER_LEN + image.data.len() + padding;
            progress(done);
        }
        out.write_all(self.trailing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(images: &[(&str, u8, &'static [u8])]) -> Stream<'static> {
        let images = images.iter().map(|(name, version, data)| Image {
            id: ImageId::of(name).unwrap(),
            version: *version,
            data: Cow::Borrowed(*data),
        });
        Stream {
            images: images.collect(),
            trailing: b"",
        }
    }

    fn written(stream: &Stream) -> Vec<u8> {
        let mut bytes = Vec::new();
        stream.write(&mut bytes, |_| ()).unwrap();
        bytes
    }

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<char> = text.chars().filter(|c| c.is_ascii_hexdigit()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
            .collect()
    }

    /// What the real `mlx-mkbfb` made.
    #[test]
    fn the_bytes_are_those_of_mlx_mkbfb() {
        let desc = stream(&[("boot-desc", 0, b"Linux from rshim")]);
        let expected =
            "42660213 21003039 10000000 26bf26c8 0000000000000000 4c696e75782066726f6d20727368696d";
        assert_eq!(written(&desc), unhex(expected));
        let three = stream(&[
            ("boot-args", 0, b"a"),
            ("boot-args", 2, b"b"),
            ("image", 0, b"KERNEL"),
        ]);
        let expected = "42660213 2120303b 01000000 4c7f6379 0000000000000048 6100000000000000
            42660213 2100323b 01000000 af78ecf7 0000000000000040 6200000000000000
            42660213 2100303e 06000000 73c82974 0000000000000000 4b45524e454c0000";
        assert_eq!(written(&three), unhex(expected));
        let bytes = written(&three);
        let read = Stream::read(&bytes, Trailing::Refuse, |_| ()).unwrap();
        assert_eq!(read, three);
        assert_eq!(read.check(&bytes), []);
    }

    #[test]
    fn every_cut_is_told_with_its_offset_but_one_between_images() {
        let three = stream(&[
            ("bl2", 1, b"12345"),
            ("bl31", 0, b"12345678"),
            ("image", 0, b""),
        ]);
        let bytes = written(&three);
        let borders = [0, 32, 64, 88];
        assert_eq!(bytes.len(), 88);
        for len in 0..bytes.len() {
            let read = Stream::read(&bytes[..len], Trailing::Refuse, |_| ());
            match read {
                Ok(_) => assert!(borders.contains(&len), "{len}"),
                Err(error) => {
                    let start = borders.iter().rev().find(|start| **start <= len);
                    assert_eq!(Some(&error.offset), start);
                }
            }
        }
    }

    #[test]
    fn a_flipped_bit_of_a_header_is_found() {
        let three = stream(&[
            ("boot-args", 0, b"aaaaaaaa"),
            ("boot-args", 2, b"bbbbbbbb"),
            ("image", 0, b"KERNEL!!"),
        ]);
        let good = written(&three);
        for image in 0..3 {
            for bit in 0..8 * HEADER_LEN {
                // The version of the first image, and numbers that leave the order as it is, are anybody's choice.
                if matches!(bit / 8, 7) || bit / 8 == 6 && bit % 8 < 4 {
                    continue;
                }
                let mut bytes = good.clone();
                bytes[image * 32 + bit / 8] ^= 1 << (bit % 8);
                match Stream::read(&bytes, Trailing::Refuse, |_| ()) {
                    Err(error) => assert_eq!(error.offset, image * 32, "bit {bit}"),
                    // A length that is shorter by less than the padding makes padding of data.
                    Ok(read) => {
                        let minor = bit / 8 == 4;
                        assert!(
                            !read.check(&bytes).is_empty() || minor,
                            "image {image}, bit {bit}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_flipped_bit_of_data_or_padding_is_a_wrong_crc() {
        let one = stream(&[("info", 0, b"12345")]);
        let good = written(&one);
        for bit in 8 * HEADER_LEN..8 * good.len() {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let error = Stream::read(&bytes, Trailing::Allow, |_| ()).unwrap_err();
            assert!(matches!(error.flaw, Flaw::Crc(..)), "{error}");
        }
    }

    #[test]
    fn what_is_behind_the_images_is_kept_when_it_may_be_there() {
        let mut bytes = written(&stream(&[("info", 0, b"12345678")]));
        bytes.extend_from_slice(b"UPDATE_DPU_OS=no\nbfb_custom_action1() { :; }\n");
        let error = Stream::read(&bytes, Trailing::Refuse, |_| ()).unwrap_err();
        assert_eq!((error.offset, error.index), (32, 1));
        assert!(matches!(error.flaw, Flaw::Magic(_)));
        let read = Stream::read(&bytes, Trailing::Allow, |_| ()).unwrap();
        assert!(read.trailing.starts_with(b"UPDATE_DPU_OS"));
        assert_eq!(written(&read), bytes);
        assert!(Stream::read(b"UPDATE", Trailing::Allow, |_| ()).is_err());
    }

    #[test]
    fn an_image_takes_the_place_of_its_like_and_finds_its_own() {
        let mut base = stream(&[("initramfs", 0, b"old"), ("boot-args", 0, b"a")]);
        for image in stream(&[
            ("initramfs", 0, b"new"),
            ("boot-args", 2, b"b"),
            ("bl2", 1, b"c"),
        ])
        .images
        {
            base.put(image);
        }
        base.sort();
        let order = [
            ("bl2", 1),
            ("boot-args", 0),
            ("boot-args", 2),
            ("initramfs", 0),
        ];
        let found: Vec<_> = base
            .images
            .iter()
            .map(|image| (image.id.to_string(), image.version))
            .collect();
        assert_eq!(
            found,
            order.map(|(name, version)| (name.to_string(), version))
        );
        assert_eq!(&*base.images[3].data, b"new");
    }
}
