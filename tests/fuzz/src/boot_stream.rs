//! Any bytes as a boot stream (BFB): read, or refused with an offset in it; what was read can be written and read again.
//! An initramfs in it is taken apart and gets files.

use std::collections::BTreeMap;

use dpfs_image::initramfs::{self, Added};
use dpfs_image::{HEADER_LEN, ImageId, Stream, Trailing};

/// Run one input; give the number of images in it.
pub fn run(data: &[u8]) -> usize {
    // The CRC of an image that was changed does not fit: mend it, or nothing behind it would ever be reached.
    let mut bytes = data.to_vec();
    mend(&mut bytes);
    let strict = Stream::read(&bytes, Trailing::Refuse, |_| ());
    let stream = match Stream::read(&bytes, Trailing::Allow, |_| ()) {
        Err(error) => {
            assert!(error.offset < bytes.len());
            assert_eq!(Err(error), strict, "what is wrong is wrong in both ways");
            return 0;
        }
        Ok(stream) => stream,
    };
    assert_eq!(strict.is_ok(), stream.trailing.is_empty());
    let flaws = stream.check(&bytes);
    let mut written = Vec::new();
    stream.write(&mut written, |_| ()).expect("a Vec takes all");
    assert_eq!(written.len(), bytes.len());
    let again = Stream::read(&written, Trailing::Allow, |_| ()).expect("what we wrote");
    assert_eq!(again, stream);
    let order = |flaw: &dpfs_image::Flaw| matches!(flaw, dpfs_image::Flaw::Order(_));
    assert!(
        again.check(&written).iter().all(|flaw| order(&flaw.flaw)),
        "only the order is as it was"
    );
    if flaws.is_empty() {
        // But for the minor version, of which ours is the newest.
        let differ = written.iter().zip(&bytes).filter(|(a, b)| a != b).count();
        assert!(differ <= stream.images.len());
    }
    for image in &stream.images {
        if image.id == ImageId::INITRAMFS {
            unpack(&image.data);
        }
    }
    stream.images.len()
}

/// Put the right CRC into every header that can be followed.
fn mend(bytes: &mut [u8]) {
    let mut offset = 0;
    while let Some(header) = bytes.get(offset..offset + HEADER_LEN) {
        let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let body = offset + HEADER_LEN;
        let Some(data) = bytes.get(body..body + len.next_multiple_of(8)) else {
            return;
        };
        let (crc, end) = (crc32fast::hash(data), body + data.len());
        bytes[offset + 12..offset + 16].copy_from_slice(&crc.to_le_bytes());
        offset = end;
    }
}

fn unpack(data: &[u8]) {
    let added = BTreeMap::from([
        ("etc".to_string(), Added::folder()),
        ("etc/dpfs".to_string(), Added::file(0o644, b"new".to_vec())),
    ]);
    let Ok(merged) = initramfs::merge(data, &added, 0) else {
        return;
    };
    let found = initramfs::find(&merged, |path| path == "etc/dpfs").expect("what we wrote");
    assert_eq!(found["etc/dpfs"].data, b"new");
    initramfs::links(&merged).ok();
}
