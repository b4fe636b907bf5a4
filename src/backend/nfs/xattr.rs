//! Extended attributes: those of users, for which RFC 8276 has operations; no others go to the server.
//!
//! The server names them without the prefix `user.`. A value to be set goes out of the host's pages behind its call; one
//! that is asked for, and lists of names, come through the receive buffer.

use core::ffi::CStr;

use crate::fuse::{NodeId, Reply, Request, XattrValue};
use crate::mem::Handle as TaskId;
use crate::wire::errno::Errno;
use crate::wire::nfs4::{Handle, Results, op};
use crate::wire::xdr::Malformed;

use super::answer::{Trouble, ok};
use super::instance::Nfs;
use super::op::{Op, With};
#[cfg(doc)]
use super::volume::NfsVolume;

/// What the host's names of these attributes begin with.
const PREFIX: &[u8] = b"user.";
/// Bytes of names that are asked for at a time: most lists are short.
const LISTING: u32 = 8 << 10;

/// Give the server's name of an attribute.
///
/// # Errors
/// `EOPNOTSUPP` for one that is not a user's, `EINVAL` for an empty one.
fn server_name(name: &CStr) -> Result<&[u8], Errno> {
    match name.to_bytes().strip_prefix(PREFIX) {
        Some(b"") => Err(Errno::EINVAL),
        Some(rest) => Ok(rest),
        None => Err(Errno::EOPNOTSUPP),
    }
}

impl Nfs {
    /// Find the file of a request about attributes.
    ///
    /// # Errors
    /// [`NfsVolume::lacks`] where the server has none; `ESTALE`.
    fn with_attributes_of_users(&self, node: NodeId) -> Result<Handle, Errno> {
        if !self.volume.known.xattr() {
            return Err(self.volume.lacks());
        }
        self.volume.handle(node)
    }

    /// Find the file and the server's name of an attribute that is to be read.
    fn to_read<'n>(&self, node: NodeId, name: &'n CStr) -> Result<(Handle, &'n [u8]), Errno> {
        Ok((self.with_attributes_of_users(node)?, server_name(name)?))
    }

    /// The same of one that is to be changed.
    fn to_change<'n>(&self, node: NodeId, name: &'n CStr) -> Result<(Handle, &'n [u8]), Errno> {
        let found = self.to_read(node, name)?;
        self.writable().map(|()| found)
    }

    pub(super) fn begin_setxattr(
        &mut self,
        (rq, node, name): (&Request, NodeId, &CStr),
        len: usize,
        flags: u32,
        reply: Reply<()>,
    ) {
        let (file, short) = match self.to_change(node, name) {
            Ok(found) => found,
            Err(error) => return reply.err(error),
        };
        let user = self.caller(&rq.caller, None);
        let op = Op::Setxattr {
            reply,
            skip: name.to_bytes_with_nul().len(),
            len,
        };
        // XATTR_CREATE and XATTR_REPLACE have the numbers of SETXATTR4_CREATE and SETXATTR4_REPLACE.
        if let Some(task) = self.start(op, user, None, With::Nothing, |call| call) {
            self.build(task, With::Nothing, len, |call| {
                call.sequence(true)
                    .putfh(&file)
                    .setxattr(flags & 3, short, len as u32)
            });
        }
    }

    pub(super) fn begin_getxattr(
        &mut self,
        rq: &Request,
        node: NodeId,
        name: &CStr,
        reply: Reply<XattrValue>,
    ) {
        let (file, short) = match self.to_read(node, name) {
            Ok(found) => found,
            Err(error) => return reply.err(error),
        };
        let user = self.caller(&rq.caller, None);
        self.start(Op::Getxattr(reply), user, None, With::Nothing, |call| {
            call.sequence(false).putfh(&file).getxattr(short)
        });
    }

    pub(super) fn begin_listxattr(&mut self, rq: &Request, node: NodeId, reply: Reply<XattrValue>) {
        let file = match self.with_attributes_of_users(node) {
            Ok(file) => file,
            Err(error) => return reply.err(error),
        };
        let user = self.caller(&rq.caller, None);
        let op = Op::Listxattr { reply, at: 0 };
        if let Some(task) = self.start(op, user, None, With::Nothing, |call| call) {
            self.args[task.index as usize].handles[0] = file;
            self.build_list(task, 0);
        }
    }

    fn build_list(&mut self, handle: TaskId, cookie: u64) -> bool {
        let file = self.args[handle.index as usize].handles[0];
        self.build(handle, With::Nothing, 0, |call| {
            call.sequence(false)
                .putfh(&file)
                .listxattrs(cookie, LISTING)
        })
    }

    pub(super) fn begin_removexattr(
        &mut self,
        rq: &Request,
        node: NodeId,
        name: &CStr,
        reply: Reply<()>,
    ) {
        let (file, short) = match self.to_change(node, name) {
            Ok(found) => found,
            Err(error) => return reply.err(error),
        };
        let user = self.caller(&rq.caller, None);
        self.start(Op::Removexattr(reply), user, None, With::Nothing, |call| {
            call.sequence(true).putfh(&file).removexattr(short)
        });
    }

    /// Read the answer to an operation on attributes.
    pub(super) fn answer_xattr(
        &mut self,
        handle: TaskId,
        mut results: Results<'_>,
    ) -> Result<(), Trouble> {
        ok(results.step(op::PUTFH))?;
        match self.tasks.get(handle).map(|task| &task.op) {
            Some(Op::Getxattr(_)) => {
                let value = ok(results.getxattr())?;
                if let Op::Getxattr(reply) = self.finish(handle) {
                    reply.ok(value);
                }
            }
            Some(Op::Setxattr { .. }) => {
                ok(results.setxattr())?;
                if let Op::Setxattr { reply, .. } = self.finish(handle) {
                    reply.ok(());
                }
            }
            Some(Op::Removexattr(_)) => {
                ok(results.removexattr())?;
                if let Op::Removexattr(reply) = self.finish(handle) {
                    reply.ok(());
                }
            }
            Some(Op::Listxattr { .. }) => return self.answer_list(handle, results),
            _ => {}
        }
        Ok(())
    }

    /// Put the names of one answer in place, and ask for more if there are more.
    fn answer_list(&mut self, handle: TaskId, mut results: Results<'_>) -> Result<(), Trouble> {
        let Some(Op::Listxattr { reply, at }) = self.tasks.get_mut(handle).map(|task| &mut task.op)
        else {
            return Ok(());
        };
        let before = *at;
        let mut fits = true;
        let (cookie, end) = ok(results.listxattrs(|name| {
            for part in [PREFIX, name, b"\0"] {
                fits &= reply.put(*at, part).is_ok();
                *at += part.len();
            }
        }))?;
        let progress = *at > before;
        if !fits {
            self.fail(handle, Errno::ERANGE);
        } else if end {
            if let Op::Listxattr { reply, at } = self.finish(handle) {
                reply.filled(at);
            }
        } else if progress {
            if self.build_list(handle, cookie) {
                self.make_ready(handle);
            }
        } else {
            return Err(Trouble::from(Malformed));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_has_names_without_the_prefix_of_users() {
        assert_eq!(server_name(c"user.a"), Ok(&b"a"[..]));
        assert_eq!(server_name(c"user."), Err(Errno::EINVAL));
        for other in [c"security.selinux", c"trusted.a", c"system.a", c"username"] {
            assert_eq!(server_name(other), Err(Errno::EOPNOTSUPP), "{other:?}");
        }
    }
}
