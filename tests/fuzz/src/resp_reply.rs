//! Any bytes as what a key-value server sends: read in one piece and cut short, with outcomes that agree.

use dpfs::wire::resp::{Depth, Item, Malformed, Problem, Reader, SLOTS, slot};

/// Run one input; give the number of whole replies in it.
pub fn run(data: &[u8]) -> usize {
    let (whole, outcome) = replies(data);
    // The fuzzer moves the places; trying every one would be quadratic.
    for cut in [data.len() / 2, data.len().saturating_sub(1)] {
        let (before, refused) = replies(&data[..cut]);
        assert!(before <= whole, "{before} of {cut} bytes, {whole} of all");
        // What is refused stays refused whatever comes behind it.
        assert!(refused.is_ok() || outcome.is_err());
    }
    whole
}

fn replies(data: &[u8]) -> (usize, Result<(), Malformed>) {
    let (mut reader, mut depth, mut whole) = (Reader::new(data), Depth::new(), 0);
    let outcome = loop {
        match step(&mut reader, &mut depth) {
            Ok(Some(done)) => whole += usize::from(done),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    (whole, outcome)
}

/// Read an item and its bytes; tell whether a reply is whole with it.
fn step(reader: &mut Reader<'_>, depth: &mut Depth) -> Result<Option<bool>, Malformed> {
    let before = reader.rest().len();
    let Some(item) = reader.item()? else {
        assert_eq!(reader.rest().len(), before);
        return Ok(None);
    };
    assert!(reader.rest().len() < before);
    if let Item::Error(error) = item
        && let Problem::Moved(place) | Problem::Ask(place) = Problem::parse(error)
    {
        assert!(place.slot < SLOTS);
    }
    if let Item::Bulk(len) | Item::Text { len, .. } = item {
        let Some(bytes) = reader.body(len)? else {
            return Ok(None);
        };
        assert_eq!(bytes.len() as u64 + 2, item.body());
        assert!(slot(bytes) < SLOTS);
    }
    depth.item(&item).map(Some)
}
