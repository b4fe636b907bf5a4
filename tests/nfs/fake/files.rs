//! What is done to files and directories.

use dpfs::wire::nfs4::{Bitmap, FileKind, StateId, Status, Verifier, attr, op};
use dpfs::wire::xdr::{Decoder, Encoder};

use super::Server;
use super::compound::{Current, RESTART, Refused};
use super::states::{put_stateid, stateid};
use super::tree::ROOT_NUMBER;

type Done = Result<(), Refused>;

/// Entry of a directory behind ".", "..", and the numbers that no server uses.
const FIRST_COOKIE: u64 = 3;

fn change_info(out: &mut Encoder<'_>) {
    for word in [1, 0, 0, 0, 1] {
        out.u32(word);
    }
}

impl Server {
    /// Do one operation other than SEQUENCE.
    pub fn operation(
        &mut self,
        number: u32,
        current: &mut Current,
        input: &mut Decoder<'_>,
        out: &mut Encoder<'_>,
    ) -> Done {
        let stays = matches!(
            number,
            op::PUTFH | op::PUTROOTFH | op::SAVEFH | op::RESTOREFH | op::GETATTR
        );
        if let Some(file) = current.file
            && !stays
            && self.tree.node(file)?.moved.is_some()
        {
            return Err(Refused(Status::ERR_MOVED));
        }
        match number {
            op::EXCHANGE_ID => self.sessions.exchange(input, out)?,
            op::CREATE_SESSION => self.sessions.create(input, out)?,
            op::BIND_CONN_TO_SESSION => {
                let session = input.fixed()?;
                if !self.sessions.sessions.contains_key(&session) {
                    return Err(Refused(Status::ERR_BADSESSION));
                }
                out.fixed(&session);
                out.u32(1);
                out.u32(0);
            }
            op::DESTROY_SESSION => {
                self.sessions.sessions.remove(&input.fixed()?);
            }
            op::DESTROY_CLIENTID => {
                self.sessions.clients.remove(&input.u64()?);
            }
            op::RECLAIM_COMPLETE => {
                input.bool()?;
                let client = self.sessions.clients.get_mut(&current.client);
                let client = client.ok_or(Refused(Status::ERR_STALE_CLIENTID))?;
                if std::mem::replace(&mut client.complete, true) {
                    return Err(Refused(Status::ERR_COMPLETE_ALREADY));
                }
                self.script.flags &= !RESTART;
                self.script.grace = false;
            }
            op::PUTROOTFH => current.file = Some(ROOT_NUMBER),
            op::PUTFH => current.file = Some(self.tree.handle(input)?),
            op::SAVEFH => current.saved = Some(current.file()?),
            op::RESTOREFH => current.file = current.saved,
            op::GETFH => self.tree.put_handle(current.file()?, out),
            op::LOOKUP => {
                let name = input.opaque(1024)?;
                current.file = Some(self.tree.lookup(current.file()?, name)?);
            }
            op::LOOKUPP => current.file = Some(self.tree.directory(current.file()?)?.parent),
            op::GETATTR => {
                let asked = Bitmap::decode(input)?.and(&self.script.attributes);
                self.tree.put_attributes(current.file()?, &asked, out)?;
            }
            op::ACCESS => {
                let asked = input.u32()?;
                out.u32(asked);
                out.u32(asked);
            }
            op::SETATTR => {
                let named = stateid(input)?;
                self.named(current, &named)?;
                self.tree.set_attributes(Some(current.file()?), input)?;
                self.exclusive = None;
                out.u32(0);
            }
            op::CREATE => self.create(current, input, out)?,
            op::OPEN => self.open(current, input, out)?,
            op::CLOSE => {
                input.u32()?;
                let named = self.resolve(current, &stateid(input)?);
                self.states.find(&named)?;
                self.states.all.remove(&named.other);
                put_stateid(out, &StateId::ANONYMOUS);
            }
            op::READ => self.read(current, input, out)?,
            op::WRITE => self.write(current, input, out)?,
            op::COMMIT => {
                input.skip(3)?;
                current.file()?;
                out.fixed(&self.verifier);
            }
            op::READDIR => self.readdir(current, input, out)?,
            op::READLINK => out.opaque(&self.tree.node(current.file()?)?.data),
            op::REMOVE => {
                self.tree.remove(current.file()?, input.opaque(1024)?)?;
                change_info(out);
            }
            op::RENAME => {
                let from = current.saved.ok_or(Refused(Status::ERR_NOFILEHANDLE))?;
                let (old, new) = (input.opaque(1024)?, input.opaque(1024)?);
                self.tree.rename((from, old), (current.file()?, new))?;
                change_info(out);
                change_info(out);
            }
            op::LINK => {
                let file = current.saved.ok_or(Refused(Status::ERR_NOFILEHANDLE))?;
                self.tree.link(file, current.file()?, input.opaque(1024)?)?;
                change_info(out);
            }
            op::LOCK | op::LOCKT | op::LOCKU | op::TEST_STATEID | op::FREE_STATEID => {
                self.state_operation(number, current, input, out)?;
            }
            op::ALLOCATE | op::DEALLOCATE => {
                let named = stateid(input)?;
                self.named(current, &named)?;
                let (offset, len) = (input.u64()? as usize, input.u64()? as usize);
                let data = &mut self.tree.node(current.file()?)?.data;
                if number == op::ALLOCATE {
                    let size = data.len().max(offset + len);
                    data.resize(size, 0);
                } else {
                    let size = data.len();
                    data[offset.min(size)..(offset + len).min(size)].fill(0);
                }
            }
            op::SEEK => {
                let named = stateid(input)?;
                self.named(current, &named)?;
                let (offset, hole) = (input.u64()?, input.u32()? == 1);
                let size = self.tree.node(current.file()?)?.data.len() as u64;
                if offset >= size {
                    return Err(Refused(Status::ERR_NXIO));
                }
                out.bool(hole);
                out.u64(if hole { size } else { offset });
            }
            _ => return Err(Refused(Status::ERR_NOTSUPP)),
        }
        Ok(())
    }

    /// Replace the stateid that stands for the one before.
    pub fn resolve(&self, current: &Current, named: &StateId) -> StateId {
        match (named, current.state) {
            (
                StateId {
                    seqid: 1,
                    other: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                },
                Some(state),
            ) => state,
            _ => *named,
        }
    }

    /// Check the state that an operation names, if it names one.
    fn named(&mut self, current: &Current, named: &StateId) -> Done {
        let named = self.resolve(current, named);
        if named == StateId::ANONYMOUS {
            return Ok(());
        }
        self.states.find(&named).map(drop)
    }

    fn create(
        &mut self,
        current: &mut Current,
        input: &mut Decoder<'_>,
        out: &mut Encoder<'_>,
    ) -> Done {
        let (kind, mut target) = match input.u32()? {
            2 => (FileKind::Directory, Vec::new()),
            5 => (FileKind::Link, input.opaque(4096)?.to_vec()),
            number @ (3 | 4) => {
                input.skip(2)?;
                let block = number == 3;
                (
                    if block {
                        FileKind::Block
                    } else {
                        FileKind::Character
                    },
                    Vec::new(),
                )
            }
            6 => (FileKind::Socket, Vec::new()),
            _ => (FileKind::Fifo, Vec::new()),
        };
        let name = input.opaque(1024)?;
        let mode = self.tree.set_attributes(None, input)?;
        let made = self.tree.make(current.file()?, name, kind, mode)?;
        self.tree.node(made)?.data.append(&mut target);
        current.file = Some(made);
        change_info(out);
        out.u32(0);
        Ok(())
    }

    fn open(
        &mut self,
        current: &mut Current,
        input: &mut Decoder<'_>,
        out: &mut Encoder<'_>,
    ) -> Done {
        input.u32()?;
        let access = input.u32()? & 3;
        input.skip(3)?;
        let owner = input.opaque(1024)?.to_vec();
        let mut mode = None;
        let (mut guarded, mut exclusive) = (false, None);
        let mut attributes = *input;
        if input.u32()? == 1 {
            let how = input.u32()?;
            guarded = how == 1;
            if how == 3 {
                exclusive = Some(input.fixed::<8>()?);
            }
            attributes = *input;
            mode = Some(self.tree.set_attributes(None, input)?);
        }
        let claim = input.u32()?;
        if self.script.grace && claim != 1 {
            return Err(Refused(Status::ERR_GRACE));
        }
        let file = match claim {
            0 => {
                let name = input.opaque(1024)?;
                let parent = current.file()?;
                match (self.tree.lookup(parent, name), mode) {
                    (Ok(file), Some(_)) if guarded || self.is_another(file, exclusive) => {
                        return Err(Refused(Status::ERR_EXIST));
                    }
                    (Ok(file), Some(_)) => {
                        self.tree.set_attributes(Some(file), &mut attributes)?;
                        file
                    }
                    (Ok(file), None) => file,
                    (Err(_), Some(mode)) => {
                        let made = self.tree.make(parent, name, FileKind::Regular, mode)?;
                        // The verifier is where the times are.
                        self.exclusive = exclusive.map(|verifier| (made, verifier));
                        made
                    }
                    (Err(refused), None) => return Err(refused),
                }
            }
            1 => {
                input.u32()?;
                current.file()?
            }
            _ => current.file()?,
        };
        current.file = Some(file);
        let (stateid, state) = self.states.of(current.client, &owner, file, false);
        state.access |= access;
        current.state = Some(stateid);
        put_stateid(out, &stateid);
        change_info(out);
        out.u32(0);
        out.u32(0);
        out.u32(0);
        Ok(())
    }

    /// Tell whether an exclusive creation meets a file that another one made, or that has times of its own by now.
    fn is_another(&self, file: u64, exclusive: Option<Verifier>) -> bool {
        exclusive.is_some_and(|verifier| self.exclusive != Some((file, verifier)))
    }

    fn read(
        &mut self,
        current: &mut Current,
        input: &mut Decoder<'_>,
        out: &mut Encoder<'_>,
    ) -> Done {
        let named = stateid(input)?;
        self.named(current, &named)?;
        let (offset, count) = (input.u64()? as usize, input.u32()?);
        let count = current.short.map_or(count, |short| short.min(count));
        let data = &self.tree.node(current.file()?)?.data;
        let end = data.len().min(offset.saturating_add(count as usize));
        let found = data.get(offset..end).unwrap_or(&[]);
        out.bool(end == data.len());
        out.opaque(found);
        Ok(())
    }

    fn write(
        &mut self,
        current: &mut Current,
        input: &mut Decoder<'_>,
        out: &mut Encoder<'_>,
    ) -> Done {
        let named = stateid(input)?;
        self.named(current, &named)?;
        let (offset, stable) = (input.u64()? as usize, input.u32()?);
        let bytes = input.opaque(2 << 20)?;
        let short = current.short.map_or(bytes.len(), |short| short as usize);
        let bytes = &bytes[..bytes.len().min(short)];
        let node = self.tree.node(current.file()?)?;
        node.change += 1;
        let size = node.data.len().max(offset + bytes.len());
        node.data.resize(size, 0);
        node.data[offset..offset + bytes.len()].copy_from_slice(bytes);
        out.u32(bytes.len() as u32);
        out.u32(stable);
        out.fixed(&self.verifier);
        Ok(())
    }

    fn readdir(
        &mut self,
        current: &mut Current,
        input: &mut Decoder<'_>,
        out: &mut Encoder<'_>,
    ) -> Done {
        let (cookie, _) = (input.u64()?, input.fixed::<8>()?);
        input.u32()?;
        let most = input.u32()? as usize;
        let asked = Bitmap::decode(input)?.and(&self.script.attributes);
        let children = self.tree.directory(current.file()?)?.children.clone();
        let begin = out.len();
        out.fixed(&self.verifier);
        let mut end = true;
        for (place, (name, number)) in (FIRST_COOKIE..).zip(children) {
            if place <= cookie {
                continue;
            }
            if out.len() - begin + 300 > most {
                end = false;
                break;
            }
            out.bool(true);
            out.u64(place);
            out.opaque(&name);
            self.tree.put_attributes(number, &asked, out)?;
        }
        out.bool(false);
        out.bool(end);
        Ok(())
    }
}

/// Lay out locations (`fs_locations4`): names of servers, and a path on them. What the server says of its own path is wrong,
/// as it is with some.
pub fn locations(places: &[(&[&str], &str)]) -> Vec<u8> {
    locations_of("here", places)
}

/// Lay out locations of a file system whose root has this path here.
pub fn locations_of(root: &str, places: &[(&[&str], &str)]) -> Vec<u8> {
    fn strings<'a>(out: &mut Vec<u8>, strings: impl Iterator<Item = &'a str>) {
        let strings: Vec<_> = strings.collect();
        out.extend((strings.len() as u32).to_be_bytes());
        for string in strings {
            out.extend((string.len() as u32).to_be_bytes());
            out.extend(string.bytes());
            out.resize(out.len().next_multiple_of(4), 0);
        }
    }
    let mut out = Vec::new();
    strings(&mut out, root.split('/').filter(|name| !name.is_empty()));
    out.extend((places.len() as u32).to_be_bytes());
    for (servers, path) in places {
        strings(&mut out, servers.iter().copied());
        strings(&mut out, path.split('/').filter(|name| !name.is_empty()));
    }
    out
}

/// Attributes without some.
pub fn without(attributes: &[u32]) -> Bitmap {
    let mut all = Bitmap([u32::MAX; 3]);
    for attribute in attributes {
        all.0[*attribute as usize / 32] &= !(1 << (attribute % 32));
    }
    debug_assert!(all.has(attr::SUPPORTED_ATTRS));
    all
}
