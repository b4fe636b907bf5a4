//! Replies as they come: values to where they are wanted, names to whoever lists them.

use super::super::super::objects::{CURSOR_MAX, Client, Want};
use super::super::call::{Call, SIZE_MAX};
use super::super::job::{Job, Step};
use super::super::peer::{BUFFER, Incoming};
use crate::mem::fill;
use crate::wire::ramcloud::reply::{self, Listed, Object, SIZE_LEN, STATUS_LEN};
use crate::wire::ramcloud::{Malformed, Status, multi};

/// Most bytes of a listed object that hold a key which is a file's name, behind up to 255 lengths of keys.
const ITEM: usize = 1 << 10;

/// Take bytes of a reply that comes, as many as make sense now. Gives how many.
pub fn take(
    call: &mut Call,
    incoming: &Incoming<'_>,
    pads: &mut [[u8; SIZE_MAX]],
    client: &mut dyn Client,
) -> Result<usize, Malformed> {
    let (bytes, of) = (incoming.bytes, incoming.head.len);
    if incoming.at > 0 {
        return match (call.status, call.step) {
            (Status::Ok, Step::Read) => {
                take_value(call, incoming.at - Object::LEN, bytes, pads, client);
                Ok(bytes.len())
            }
            (Status::Ok, Step::List) => take_names(call, incoming, client),
            _ => Ok(bytes.len()),
        };
    }
    if bytes.len() < STATUS_LEN {
        return Ok(0);
    }
    call.status = reply::status(bytes)?;
    let wanted = match (call.status, call.step) {
        (Status::Ok, Step::Read) => Object::LEN,
        (Status::Ok, Step::List) => Listed::LEN,
        (Status::Ok, Step::Bundle) => multi::HEAD_LEN,
        (Status::Ok | Status::Retry, _) if of <= BUFFER => of,
        (Status::Ok | Status::Retry, _) => return Err(Malformed),
        _ => STATUS_LEN,
    };
    if wanted > of {
        return Err(Malformed);
    }
    if bytes.len() < wanted {
        return Ok(0);
    }
    match (call.status, call.step) {
        (Status::Ok, Step::Read) => {
            let object = Object::parse(bytes, of)?;
            (call.known.size, call.known.version) = (object.len, object.version);
        }
        (Status::Ok, Step::List) => {
            let listed = Listed::parse(bytes, of)?;
            (call.objects, call.iterator) = (listed.objects, listed.iterator);
            (call.next_hash, call.skip) = (listed.next_hash, 0);
            let kept = match listed.iterator {
                0 => call.keep_place(&[]),
                // It is kept when it comes.
                len => len <= CURSOR_MAX,
            };
            if !kept {
                return Err(Malformed);
            }
        }
        (Status::Ok, Step::Bundle) => call.objects = multi::count(bytes)?,
        _ => {}
    }
    Ok(wanted)
}

/// Take bytes of a value, from byte `at` of it on, to where they are wanted.
fn take_value(
    call: &Call,
    at: usize,
    bytes: &[u8],
    pads: &mut [[u8; SIZE_MAX]],
    client: &dyn Client,
) {
    match (call.job, call.pad) {
        (Job::Want(Want::Read { offset, len }), _) => {
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            let end = from.saturating_add(len as usize).min(at + bytes.len());
            let begin = from.max(at);
            if begin < end {
                let wanted = &bytes[begin - at..end - at];
                let _ = fill(client.buffers(call.token), begin - from, wanted);
            }
        }
        (_, Some(pad)) if at < SIZE_MAX => {
            let pad = &mut pads[usize::from(pad)];
            let len = bytes.len().min(SIZE_MAX - at);
            pad[at..at + len].copy_from_slice(&bytes[..len]);
        }
        _ => {}
    }
}

/// Take names of a listing, and where it goes on.
fn take_names(
    call: &mut Call,
    incoming: &Incoming<'_>,
    client: &mut dyn Client,
) -> Result<usize, Malformed> {
    let objects = call.objects;
    let begin = incoming.at - Listed::LEN;
    let mut at = begin;
    let mut bytes = incoming.bytes;
    while at < objects {
        if call.skip > 0 {
            let len = call.skip.min(bytes.len());
            call.skip -= len;
            at += len;
            bytes = &bytes[len..];
            if call.skip > 0 {
                break;
            }
            continue;
        }
        if bytes.len() < SIZE_LEN {
            break;
        }
        let size = reply::size(bytes)?;
        if size > objects - at - SIZE_LEN.min(objects - at) {
            return Err(Malformed);
        }
        let object = &bytes[SIZE_LEN..];
        let front = &object[..object.len().min(size).min(ITEM)];
        if front.len() < size.min(ITEM) {
            break;
        }
        match reply::key(front) {
            Ok(name) => client.name(call.token, name),
            // A key that does not fit there is no name of a file.
            Err(Malformed) if size > ITEM => {}
            Err(malformed) => return Err(malformed),
        }
        call.skip = SIZE_LEN + size;
    }
    if at == objects && call.iterator > 0 && bytes.len() >= call.iterator {
        if !call.keep_place(&bytes[..call.iterator]) {
            return Err(Malformed);
        }
        at += call.iterator;
    }
    Ok(at - begin)
}
